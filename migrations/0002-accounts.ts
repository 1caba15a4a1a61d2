import type { Knex } from 'knex';

/**
 * One row per account, and per name that was an account's: a removed one leaves its normalised name and
 * `removedAt`, and nothing else, so that nobody comes to own what the name stands for elsewhere.
 *
 * `normalizedName` is lower case already and must be compared byte by byte; SQL Server compares without regard
 * to case by default, and knex drops `.collate()` there without a word, so the type carries a binary collation.
 */
export async function up(knex: Knex): Promise<void> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const nameType = isSqlServer ? 'nvarchar(255) collate Latin1_General_BIN2' : 'varchar(255)';

  await knex.schema.createTable('OidcUser', (table) => {
    table.specificType('normalizedName', nameType).notNullable().primary();
    table.string('name', 255).nullable(); // the stored spelling, which is `sub`; null once removed
    table.string('displayName', 255).nullable();
    table.string('email', 320).nullable();
    table.string('passwordHash', 255).nullable(); // PHC string; null for one who cannot sign in by password
    table.text('claims', 'longtext').notNullable(); // JSON object
    table.text('roles', 'longtext').notNullable(); // JSON array
    table.string('windowsName', 255).nullable(); // DOMAIN\user
    table.specificType('normalizedWindowsName', nameType).nullable().index();
    table.boolean('disabled').notNullable();
    table.boolean('mustChangePassword').notNullable();
    table.bigInteger('createdAt').notNullable(); // seconds since the epoch, as the two below
    table.bigInteger('updatedAt').notNullable();
    table.bigInteger('removedAt').nullable();
  });
}

/** Drops the table with every account in it. */
export async function down(knex: Knex): Promise<void> {
  await knex.schema.dropTable('OidcUser');
}
