import type { Knex } from 'knex';

/**
 * Which account an identity of an identity provider belongs to, from its first sign-in on: names may change on
 * both sides, and one that is given to somebody else there does not lead here.
 *
 * `id` is the SHA-256 in base64url of issuer and subject, so that both may be of any length and are compared byte
 * by byte; they stand beside it for whoever reads the table.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const hashType = isSqlServer ? 'char(43) collate Latin1_General_BIN2' : 'char(43)';
  const nameType = isSqlServer ? 'nvarchar(255) collate Latin1_General_BIN2' : 'varchar(255)';

  await knex.schema.createTable('OidcUserLogin', (table) => {
    table.specificType('id', hashType).notNullable().primary();
    table.specificType('normalizedName', nameType).notNullable().index(); // the account, as in OidcUser
    table.string('provider', 100).notNullable(); // the identity provider's name at the first sign-in
    table.text('issuer', 'longtext').notNullable();
    table.text('subject', 'longtext').notNullable();
    table.bigInteger('createdAt').notNullable(); // seconds since the epoch
  });
}
