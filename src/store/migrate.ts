/** The way of a database to the present schema: by us, or by a script for whoever may change it. */
import type { Knex } from 'knex';
import { migrations } from '../../migrations/index.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { isUniqueViolation } from './failures.ts';

/** A database, and the schema in it that is ours; none on SQLite. */
interface Place {
  readonly knex: Knex;
  readonly schema: string | undefined;
}

const migrationTable = 'OidcMigration';

/** The tables that are ours. No column has the name of one. */
export const ownTables: ReadonlySet<string> = new Set([
  migrationTable,
  ...[...migrations.values()].flatMap(({ tables }) => tables),
]);

/** Every migration, in order. */
export const migrationNames: readonly string[] = [...migrations.keys()];

/** In the words of the standard, which PostgreSQL and SQL Server share in this spelling alone. */
async function columnsOf({ knex, schema }: Place, table: string): Promise<readonly string[]> {
  if (schema === undefined) return Object.keys(await knex(table).columnInfo());
  const answer = await knex.raw(
    'select COLUMN_NAME as name from INFORMATION_SCHEMA.COLUMNS where TABLE_SCHEMA = ? and TABLE_NAME = ? order by ORDINAL_POSITION',
    [schema, table],
  );
  const rows = (Array.isArray(answer) ? answer : answer.rows) as { name: string }[];
  return rows.map(({ name }) => name);
}

async function hasTable({ knex, schema }: Place, table: string): Promise<boolean> {
  if (schema === undefined) return knex.schema.hasTable(table);
  return (await columnsOf({ knex, schema }, table)).length > 0;
}

async function appliedMigrations(place: Place): Promise<ReadonlySet<string>> {
  if (!(await hasTable(place, migrationTable))) return new Set();
  const rows = await place.knex(migrationTable).select('name');
  return new Set(rows.map((row: { name: string }) => row.name));
}

/** Names of the migrations that the database has not seen, in order. */
export async function pendingMigrations(place: Place): Promise<readonly string[]> {
  const applied = await appliedMigrations(place);
  return migrationNames.filter((name) => !applied.has(name));
}

function createMigrationTable(knex: Knex) {
  return knex.schema.createTable(migrationTable, (table) => {
    table.string('name', 100).notNullable().primary();
    table.bigInteger('appliedAt').notNullable();
  });
}

/**
 * Applies the pending migrations, each in a transaction with its own record, so that a process killed in the
 * middle leaves nothing half made and no lock behind (knex's own runner leaves its lock row).
 *
 * @throws {ServerError} ERR_SCHEMA_NEWER, ERR_FOREIGN_TABLE, ERR_SCHEMA_BEHIND where the login may not change it
 */
export async function migrate({
  knex,
  log,
  now,
  schema,
}: Place & { log: Logger; now: () => number }): Promise<string[]> {
  const place = { knex, schema };
  const known = await appliedMigrations(place);
  const newer = [...known].filter((name) => !migrations.has(name));
  if (newer.length > 0) {
    throw new ServerError(
      'ERR_SCHEMA_NEWER',
      `the database was migrated by a newer Postern (${newer.join(', ')})`,
      {
        hint: 'start the version that migrated it, or restore the backup made before the upgrade',
      },
    );
  }
  const pending = [...migrations].filter(([name]) => !known.has(name));
  if (pending.length === 0) return [];

  for (const [name, { tables }] of pending) {
    for (const table of tables) await refuseForeignTable(place, name, table);
  }
  try {
    return await apply(place, { pending, log, now });
  } catch (err) {
    if (!isDenied(err)) throw err;
    const names = pending.map(([name]) => name).join(', ');
    throw new ServerError(
      'ERR_SCHEMA_BEHIND',
      `the database lacks the migrations ${names}, and its login may not apply them`,
      {
        hint: 'run "postern migrate --script" and give what it writes to whoever administers the database; where that was done already, the login has no rights on the schema: the script ends with them',
        cause: err,
      },
    );
  }
}

async function apply(
  place: Place,
  {
    pending,
    log,
    now,
  }: {
    pending: readonly (readonly [string, { up(knex: Knex): Promise<void> }])[];
    log: Logger;
    now: () => number;
  },
): Promise<string[]> {
  const { knex, schema } = place;
  if (!(await hasTable(place, migrationTable))) {
    if (schema !== undefined && !(await hasSchema(knex, schema))) {
      await knex.raw(`create schema ${quote(knex, schema)}`).catch(async (err: unknown) => {
        if (!(await hasSchema(knex, schema))) throw err;
      });
    }
    await createMigrationTable(knex).catch(async (err: unknown) => {
      if (!(await hasTable(place, migrationTable))) throw err;
    });
  }

  const applied: string[] = [];
  for (const [name, migration] of pending) {
    let isTaken = false;
    try {
      await knex.transaction(async (transaction) => {
        if (knex.client.dialect === 'postgresql') await transaction.raw('set local statement_timeout = 0');
        // The record comes first: of two nodes that start together one waits here and then sees the other's.
        await transaction(migrationTable)
          .insert({ name, appliedAt: now() })
          .catch((err: unknown) => {
            isTaken = isUniqueViolation(err);
            throw err;
          });
        await migration.up(transaction as unknown as Knex);
      });
      applied.push(name);
      log.info({ migration: name }, 'migration applied');
    } catch (err) {
      if (!isTaken) throw err;
    }
  }
  return applied;
}

async function hasSchema(knex: Knex, schema: string): Promise<boolean> {
  const answer = await knex.raw(
    'select SCHEMA_NAME as name from INFORMATION_SCHEMA.SCHEMATA where SCHEMA_NAME = ?',
    [schema],
  );
  return ((Array.isArray(answer) ? answer : answer.rows) as unknown[]).length > 0;
}

/** An identifier as the dialect writes it. */
function quote(knex: Knex, name: string): string {
  return (knex.client as { wrapIdentifierImpl(name: string): string }).wrapIdentifierImpl(name);
}

/** PostgreSQL insufficient_privilege, and SQL Server's words for a missing permission on a database, a schema or an object. */
function isDenied(err: unknown): boolean {
  const { code, number } = err as { code?: unknown; number?: unknown };
  return (
    code === '42501' || [229, 230, 262, 297, 1088, 2759, 2760, 4902, 15151, 15247].includes(number as number)
  );
}

/** The database may be the old application's, with a table of our name: we never touch it. */
async function refuseForeignTable(place: Place, migration: string, table: string): Promise<void> {
  if (!(await hasTable(place, table))) return;
  // Another node may have made it since we looked which migrations there are.
  if ((await appliedMigrations(place)).has(migration)) return;
  const columns = await columnsOf(place, table);
  throw new ServerError(
    'ERR_FOREIGN_TABLE',
    `the database holds a table ${table} that Postern did not make (columns ${columns.join(', ')})`,
    { hint: 'give Postern a database or a schema of its own; the table was left as it is' },
  );
}

/** What a script is for. */
export interface ScriptOptions {
  /** The names of the migrations to write. */
  readonly names: readonly string[];
  /** The login that the server uses; without one a placeholder stands there. */
  readonly grantTo: string | undefined;
  /** Seconds since the epoch. */
  readonly now: number;
}

/**
 * The statements of migrations, and the rights that the server needs afterwards, for an administrator to read and
 * run. Nothing is sent to the database.
 */
export async function writeScript(
  { knex, schema }: { knex: Knex; schema: string },
  { grantTo = 'postern', names, now }: ScriptOptions,
): Promise<string> {
  const isSqlServer = knex.client.dialect === 'mssql';
  const own = quote(knex, schema);
  const lines: string[] = [];
  const add = (...statements: string[]) => lines.push(...statements.map((statement) => `${statement};`));
  // What stands between two of them is sent as one, and an error ends all of it.
  const endBatch = () => void (isSqlServer && lines.push('go'));
  const record = (builder: Knex.SchemaBuilder) =>
    add(...(builder.toSQL() as unknown as { sql: string }[]).map(({ sql }) => sql));
  const recorder = {
    client: knex.client,
    schema: {
      createTable: async (...given: Parameters<Knex.SchemaBuilder['createTable']>) =>
        record(knex.schema.createTable(...given)),
      alterTable: async (...given: Parameters<Knex.SchemaBuilder['alterTable']>) =>
        record(knex.schema.alterTable(...given)),
      raw: async (...given: Parameters<Knex.SchemaBuilder['raw']>) => record(knex.schema.raw(...given)),
    },
  };

  if (names[0] === migrationNames[0]) {
    add(
      isSqlServer
        ? `if schema_id(N'${schema}') is null exec(N'create schema ${own}')`
        : `create schema if not exists ${own}`,
    );
    endBatch();
    record(createMigrationTable(knex));
    endBatch();
  }
  for (const name of names) {
    lines.push(`\n-- ${name}`);
    add(isSqlServer ? 'set xact_abort on;\nbegin transaction' : 'begin');
    await migrations.get(name)?.up(recorder as unknown as Knex);
    add(knex(migrationTable).insert({ name, appliedAt: now }).toQuery());
    add('commit');
    endBatch();
  }
  const user = quote(knex, grantTo);
  lines.push('\n-- what the server needs, and nothing else');
  if (isSqlServer) add(`grant select, insert, update, delete on schema::${own} to ${user}`);
  else {
    add(`grant usage on schema ${own} to ${user}`);
    add(`grant select, insert, update, delete on all tables in schema ${own} to ${user}`);
  }
  endBatch();
  return `${lines.join('\n')}\n`;
}
