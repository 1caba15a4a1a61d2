import type { Knex } from 'knex';

/**
 * When a client was last used, an account last signed in, and tokens were last issued for an account: to the hour,
 * in a table of its own, so that nothing is written to the rows that every request reads.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const nameType = isSqlServer ? 'nvarchar(255) collate Latin1_General_BIN2' : 'varchar(255)';

  await knex.schema.createTable('OidcLastUse', (table) => {
    table.string('kind', 16).notNullable(); // client, sign-in or account
    table.specificType('name', nameType).notNullable(); // the client id, or the account as in OidcUser
    table.bigInteger('usedAt').notNullable(); // seconds since the epoch
    table.primary(['kind', 'name']);
  });
}
