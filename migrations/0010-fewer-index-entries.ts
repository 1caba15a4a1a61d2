import type { Knex } from 'knex';

/**
 * Most rows have no value in most of the columns that are looked up, and every index that lists them all the same is
 * one more page to write for each token. On SQLite and PostgreSQL they list only what can be found by them; nothing
 * is looked up by client.
 *
 * SQL Server's filtered indexes refuse every write of a connection that has not the options of ANSI, such as that of
 * sqlcmd by default: there they stay as they were.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const columns = isSqlServer ? [] : ['grantId', 'uid', 'userCode', 'accountId'];
  for (const column of [...columns, 'clientId']) {
    if (knex.client.dialect === 'postgresql') {
      // Found by its schema, which knex leaves out.
      const schema = knex.client.wrapIdentifier('OidcToken').replace(/"OidcToken"$/, '');
      await knex.schema.raw(`drop index ${schema}"oidctoken_${column.toLowerCase()}_index"`);
    } else await knex.schema.alterTable('OidcToken', (table) => void table.dropIndex([column]));
  }
  for (const column of columns) {
    const predicate = knex.client.queryBuilder().whereNotNull(column);
    await knex.schema.alterTable(
      'OidcToken',
      (table) => void table.index([column], undefined, { predicate }),
    );
  }
}
