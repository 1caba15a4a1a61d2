import type { Knex } from 'knex';

/**
 * What is known of a password beside its hash: what stands for it where the hash was made anew from the same password,
 * so that nothing that was signed in by it ends; and the hashes of those before it.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.schema.alterTable('OidcUser', (table) => {
    table.string('passwordMark', 43).nullable(); // SHA-256 of the first hash, base64url; null where that is still there
    table.text('passwordHistory', 'longtext').nullable(); // JSON array of hashes, the latest first
  });
}
