import type { Knex } from 'knex';

/**
 * One row per thing that the engine stores (code, token, grant, session, interaction) and a few of ours
 * (remembered consent, revoked JWT).
 *
 * `id` is the SHA-256 of the bearer value in base64url, 43 characters, so that a copy of the table holds no
 * usable token. It and what else is compared is case-sensitive; SQL Server compares without regard to case by default, and knex drops
 * `.collate()` there without a word, so the type carries a binary collation.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const hashType = isSqlServer ? 'char(43) collate Latin1_General_BIN2' : 'char(43)';
  const exact = (length: number) =>
    isSqlServer ? `nvarchar(${length}) collate Latin1_General_BIN2` : `varchar(${length})`;

  await knex.schema.createTable('OidcToken', (table) => {
    table.specificType('id', hashType).notNullable().primary();
    table.specificType('model', exact(64)).notNullable();
    table.text('payload', 'longtext').notNullable(); // JSON without the value that `id` is the hash of
    table.specificType('grantId', hashType).nullable().index(); // the hash of the grant's id
    table.specificType('uid', exact(64)).nullable().index(); // a session's stable identifier; not unique
    table.specificType('userCode', exact(64)).nullable().index();
    table.specificType('accountId', exact(255)).nullable().index();
    table.specificType('clientId', exact(255)).nullable().index();
    table.bigInteger('expiresAt').notNullable().index(); // seconds since the epoch
    table.bigInteger('consumedAt').nullable();
    table.integer('version').notNullable().defaultTo(0); // counts replacements: who read an older one must merge
  });
}
