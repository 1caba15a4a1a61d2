import type { Knex } from 'knex';

/**
 * How often somebody has guessed wrong: a row for each account, client, address, network, device, and pair of them, for
 * a day after the last time. No name stands here, for what is typed into the field of a name may be a password: `id`
 * and `subject` are HMAC-SHA-256 in base64url, under a key that the database does not hold.
 *
 * What decides how the next wrong guess counts stands in the row, so that one statement can do it.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const hashType = isSqlServer ? 'char(43) collate Latin1_General_BIN2' : 'char(43)';

  await knex.schema.createTable('OidcGuess', (table) => {
    table.specificType('id', hashType).notNullable().primary();
    table.specificType('subject', hashType).nullable().index(); // the account or client; null for addresses
    table.integer('failures').notNullable();
    table.integer('freeTries').notNullable(); // how many failures there are before the first delay
    table.integer('delaySeconds').notNullable(); // the present delay, doubled by each failure
    table.integer('longestSeconds').notNullable(); // where that ends
    table.bigInteger('openAt').notNullable(); // seconds since the epoch; nothing is tried before
    table.bigInteger('expiresAt').notNullable().index();
  });
}
