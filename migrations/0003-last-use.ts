import type { Knex } from 'knex';

/**
 * When a refresh token that keeps its handle was last used, in seconds since the epoch: an administrator who looks
 * for sign-ins that nobody needs any more has nothing else to go by. One that is replaced shows it by its
 * successor's age.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.schema.alterTable('OidcToken', (table) => {
    table.bigInteger('lastUsedAt').nullable();
  });
}
