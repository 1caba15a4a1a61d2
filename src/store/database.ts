/**
 * The connection to the SQL database, its migrations, and statements that are compiled once.
 *
 * Where the dialects differ, it is here: the pool, the native form of a statement, how a violated key is
 * told, and that PostgreSQL and SQL Server hand bigint out as text.
 */
import knexFactory, { type Knex } from 'knex';
import { migrations } from '../../migrations/index.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { NodeSqliteClient } from './sqlite.ts';

/** Runs one statement with its values by name. `rows` are those of a select; `count` those that were changed. */
export type Statement<Name extends string> = (
  values: Readonly<Record<Name, number | string | null>>,
) => Promise<{ rows: readonly Row[]; count: number }>;

/** A row as the driver has it; read numbers with {@link toNumber}. */
export type Row = Readonly<Record<string, unknown>>;

export interface Database extends AsyncDisposable {
  readonly knex: Knex;
  /** Compiles a statement now, to be executed prepared whenever the returned function is called. */
  prepare<Name extends string>(
    build: (knex: Knex, value: (name: Name) => string) => Knex.QueryBuilder,
  ): Statement<Name>;
  /** Names of the migrations that the database has not seen, in order. */
  pendingMigrations(): Promise<readonly string[]>;
  /** Applies what is pending and returns the names of those that this call applied. */
  migrate(): Promise<readonly string[]>;
}

export interface DatabaseOptions {
  client: 'sqlite';
  /** Absolute path, or `:memory:`. */
  file: string;
  log: Logger;
  /** Seconds since the epoch. */
  now: () => number;
}

/** The piece of knex's client that executes a compiled statement; knex does not type it. */
interface KnexClient {
  acquireConnection(): Promise<unknown>;
  releaseConnection(connection: unknown): Promise<void>;
  query(connection: unknown, statement: object): Promise<object>;
  /** The dialect's reading of its driver's answer: the rows of a select, the count of an update or a delete. */
  processResponse(answer: object, runner: object): unknown;
}

/**
 * Opens the database. Nothing is read before the first statement.
 *
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE where the file cannot be opened
 */
export async function openDatabase({ client, file, log, now }: DatabaseOptions): Promise<Database> {
  const knex = knexFactory({
    client: NodeSqliteClient as unknown as typeof Knex.Client,
    connection: { filename: file },
    useNullAsDefault: true,
    // Else an error's message repeats the statement with its bindings, and the log with it: payloads, hashes.
    compileSqlOnError: false,
    // One connection: SQLite has one writer, and node:sqlite answers synchronously.
    pool: { min: 1, max: 1 },
    log: { warn: (message: string) => log.warn({ client }, message) },
  });
  try {
    await knex.raw('select 1');
  } catch (cause) {
    await knex.destroy();
    throw new ServerError('ERR_DATABASE_UNAVAILABLE', `the database ${file} cannot be opened`, {
      hint: 'check that the folder exists and that the account of the service may write to it',
      cause,
    });
  }

  return {
    knex,
    prepare: (build) => prepareStatement(knex, build),
    pendingMigrations: async () => {
      const applied = await appliedMigrations(knex);
      return [...migrations.keys()].filter((name) => !applied.has(name));
    },
    migrate: () => migrate({ knex, log, now }),
    async [Symbol.asyncDispose]() {
      await knex.destroy();
    },
  };
}

function prepareStatement<Name extends string>(
  knex: Knex,
  build: (knex: Knex, value: (name: Name) => string) => Knex.QueryBuilder,
): Statement<Name> {
  const marker = '\u0001';
  const compiled = build(knex, (name) => `${marker}${name}`).toSQL() as Knex.Sql & { returning?: unknown };
  const { method, returning } = compiled;
  const { sql, bindings } = compiled.toNative();
  const names = bindings.map((binding) => {
    const isValue = typeof binding === 'string' && binding.startsWith(marker);
    return { binding, name: isValue ? (binding.slice(1) as Name) : undefined };
  });
  const client = knex.client as KnexClient;

  return async function execute(values) {
    const connection = await client.acquireConnection();
    try {
      const answer = await client.query(connection, {
        sql,
        method,
        returning,
        bindings: names.map(({ binding, name }) => (name === undefined ? binding : values[name])),
      });
      return toResult(method, client.processResponse(answer, { client }));
    } finally {
      await client.releaseConnection(connection);
    }
  };
}

/** Nothing is guessed: a count that is none would let everybody win a race. */
function toResult(method: string, result: unknown): { rows: readonly Row[]; count: number } {
  if (method === 'select' && Array.isArray(result)) return { rows: result as Row[], count: result.length };
  if (method === 'insert') return { rows: [], count: 1 };
  if ((method === 'update' || method === 'del') && typeof result === 'number')
    return { rows: [], count: result };
  throw new ServerError('ERR_INTERNAL', `the database driver answered a ${method} in an unknown form`);
}

const migrationTable = 'OidcMigration';

async function appliedMigrations(knex: Knex): Promise<ReadonlySet<string>> {
  if (!(await knex.schema.hasTable(migrationTable))) return new Set();
  const rows = await knex(migrationTable).select('name');
  return new Set(rows.map((row: { name: string }) => row.name));
}

/**
 * Applies the pending migrations, each in a transaction with its own record, so that a process killed in the
 * middle leaves nothing half made and no lock behind (knex's own runner leaves its lock row).
 *
 * @throws {ServerError} ERR_SCHEMA_NEWER, ERR_FOREIGN_TABLE
 */
async function migrate({
  knex,
  log,
  now,
}: {
  knex: Knex;
  log: Logger;
  now: () => number;
}): Promise<string[]> {
  const known = await appliedMigrations(knex);
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
    for (const table of tables) await refuseForeignTable(knex, name, table);
  }
  if (known.size === 0 && !(await knex.schema.hasTable(migrationTable))) {
    await knex.schema
      .createTable(migrationTable, (table) => {
        table.string('name', 100).notNullable().primary();
        table.bigInteger('appliedAt').notNullable();
      })
      .catch(async (err: unknown) => {
        if (!(await knex.schema.hasTable(migrationTable))) throw err;
      });
  }

  const applied: string[] = [];
  for (const [name, migration] of pending) {
    try {
      await knex.transaction(async (transaction) => {
        // The record comes first: of two nodes that start together one waits here and then sees the other's.
        await transaction(migrationTable).insert({ name, appliedAt: now() });
        await migration.up(transaction as unknown as Knex);
      });
      applied.push(name);
      log.info({ migration: name }, 'migration applied');
    } catch (err) {
      if (!isUniqueViolation(err)) throw err;
    }
  }
  return applied;
}

/** The database may be the old application's, with a table of our name: we never touch it. */
async function refuseForeignTable(knex: Knex, migration: string, table: string): Promise<void> {
  if (!(await knex.schema.hasTable(table))) return;
  // Another node may have made it since we looked which migrations there are.
  if ((await appliedMigrations(knex)).has(migration)) return;
  const columns = Object.keys(await knex(table).columnInfo());
  throw new ServerError(
    'ERR_FOREIGN_TABLE',
    `the database holds a table ${table} that Postern did not make (columns ${columns.join(', ')})`,
    { hint: 'give Postern a database or a schema of its own; the table was left as it is' },
  );
}

/** True where `err` says that a row with this key is there already, on each of the three databases. */
export function isUniqueViolation(err: unknown): boolean {
  const { code, errcode, number } = err as { code?: unknown; errcode?: unknown; number?: unknown };
  return (
    errcode === 1555 || // SQLITE_CONSTRAINT_PRIMARYKEY
    errcode === 2067 || // SQLITE_CONSTRAINT_UNIQUE
    code === '23505' || // PostgreSQL unique_violation
    number === 2627 || // SQL Server: violation of a constraint
    number === 2601 // SQL Server: duplicate key in a unique index
  );
}

/** A bigint column as a number: drivers hand it out as number, text or bigint. Null stays null. */
export function toNumber(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}
