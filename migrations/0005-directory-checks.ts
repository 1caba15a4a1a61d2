import type { Knex } from 'knex';

/**
 * When the directory last said that all is well with an identity: while it does not answer, its users go on for
 * a time that is counted from there, on every node and across restarts.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.schema.alterTable('OidcUserLogin', (table) => {
    table.bigInteger('checkedAt').nullable(); // seconds since the epoch; null where it has not been asked again
  });
}
