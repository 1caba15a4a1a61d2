import type { Knex } from 'knex';

/**
 * One row per key that the server made for itself. What it is, is encrypted under the operator's key; `id` is what
 * tokens name a signing key by, and is compared byte by byte.
 *
 * The keys of one purpose and algorithm are numbered: of several servers that make the next one at once, one does.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const exact = (length: number) =>
    isSqlServer ? `varchar(${length}) collate Latin1_General_BIN2` : `varchar(${length})`;

  await knex.schema.createTable('OidcKey', (table) => {
    table.specificType('id', exact(43)).notNullable().primary();
    table.specificType('purpose', exact(20)).notNullable(); // signing, cookie or derivation
    table.specificType('algorithm', exact(20)).notNullable(); // of a signing key; else empty
    table.integer('generation').notNullable();
    table.text('payload', 'longtext').notNullable(); // JWE
    table.bigInteger('createdAt').notNullable(); // seconds since the epoch, as the next two
    table.bigInteger('activeAt').notNullable(); // from then on it is in use, until the next one is
    table.bigInteger('revokedAt').nullable();
    table.bigInteger('longestLifetime').notNullable(); // seconds: how long what it has signed may be good
    table.unique(['purpose', 'algorithm', 'generation'], { useConstraint: true });
  });
}
