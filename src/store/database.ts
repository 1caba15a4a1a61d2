/**
 * The connection to the SQL database, and statements that are compiled once.
 *
 * Where the dialects differ, it is in this folder: here the pool, the native form of a statement, the schema, and
 * that PostgreSQL and SQL Server hand bigint out as text; in failures.ts how they fail; in a file for each the rest.
 */
import { createHash } from 'node:crypto';
import knexFactory, { type Knex } from 'knex';
import type { Server } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Tracing } from '../tracing.ts';
import { migrate, ownTables, pendingMigrations, type ScriptOptions, writeScript } from './migrate.ts';
import { PostgresqlClient, toPostgresqlConnection } from './postgresql.ts';
import { NodeSqliteClient } from './sqlite.ts';
import { SqlServerClient, toSqlServerConnection } from './sqlserver.ts';

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
  /** Its connections at this moment. */
  readonly pool: { readonly used: number; readonly free: number; readonly waiting: number };
  /** Rejects with ERR_DATABASE_UNAVAILABLE where the database does not answer. */
  ping(): Promise<void>;
  /** Names of the migrations that the database has not seen, in order. */
  pendingMigrations(): Promise<readonly string[]>;
  /** Applies what is pending and returns the names of those that this call applied. */
  migrate(): Promise<readonly string[]>;
}

/** Which database, and where. */
export type DatabaseTarget =
  | {
      readonly client: 'sqlite';
      /** Absolute path, or `:memory:`. */
      readonly file: string;
    }
  | {
      readonly client: 'postgresql' | 'sqlserver';
      /** A URL, or a connection string of ADO.NET. */
      readonly connection: string;
      /** The schema that holds our tables and nothing else. */
      readonly schema: string;
      /** Absolute path of the certificates that the server's may be from, in place of those that Node knows. */
      readonly caFile?: string | undefined;
      /** Connections at once. */
      readonly poolSize: number;
      /** How long a connection, and a statement, may take. */
      readonly timeoutMs: number;
    };

export type DatabaseOptions = DatabaseTarget & {
  log: Logger;
  /** Where there are traces: each statement of a request is part of one. */
  tracing?: Pick<Tracing, 'within'> | undefined;
  /** Seconds since the epoch. */
  now: () => number;
};

/** The database that the settings name. */
export function toDatabaseTarget({ Database }: Pick<Server, 'Database'>): DatabaseTarget {
  const { CaFile, Client, Connection = '', File, PoolSize, Schema, Timeout } = Database;
  if (Client === 'sqlite') return { client: Client, file: File };
  return {
    client: Client,
    connection: Connection,
    schema: Schema,
    caFile: CaFile,
    poolSize: PoolSize,
    timeoutMs: Timeout * 1000,
  };
}

/** The piece of knex's pool that tells how it is; knex does not type it. */
interface Pool {
  numUsed(): number;
  numFree(): number;
  numPendingAcquires(): number;
}

/** The piece of knex's client that executes a compiled statement; knex does not type it. */
interface KnexClient {
  acquireConnection(): Promise<unknown>;
  releaseConnection(connection: unknown): Promise<void>;
  query(connection: unknown, statement: object): Promise<object>;
  /** What {@link query}, and knex itself, send it by. */
  _query(connection: unknown, statement: { readonly sql?: string }): Promise<object>;
  /** The dialect's reading of its driver's answer: the rows of a select, the count of an update or a delete. */
  processResponse(answer: object, runner: object): unknown;
}

/**
 * Every table of ours is named with its schema, in every statement: a database option of the login or of the
 * connection would decide otherwise, and another product's table of the same name would be found.
 */
function qualify(schema: string): NonNullable<Knex.Config['wrapIdentifier']> {
  return (value, wrap) => (ownTables.has(value) ? `${wrap(schema)}.${wrap(value)}` : wrap(value));
}

/** The configuration of knex for a database. */
export async function toKnexConfig(target: DatabaseTarget): Promise<Knex.Config> {
  // Else an error's message repeats the statement with its bindings, and the log with it: payloads, hashes.
  const common = { compileSqlOnError: false };
  if (target.client === 'sqlite') {
    return {
      ...common,
      client: NodeSqliteClient as unknown as typeof Knex.Client,
      connection: { filename: target.file },
      useNullAsDefault: true,
      // One connection: SQLite has one writer, and node:sqlite answers synchronously.
      pool: { min: 1, max: 1 },
    };
  }
  const { caFile, client, connection, poolSize, schema, timeoutMs } = target;
  const config = {
    ...common,
    wrapIdentifier: qualify(schema),
    statementTimeoutMs: timeoutMs,
    pool: {
      min: 0,
      max: poolSize,
      acquireTimeoutMillis: timeoutMs,
      createTimeoutMillis: timeoutMs,
      // A database that refuses connections is told of at once, and asked again with the next request.
      propagateCreateError: true,
    },
  };
  return client === 'postgresql'
    ? {
        ...config,
        client: PostgresqlClient as unknown as typeof Knex.Client,
        connection: toPostgresqlConnection(connection, { caFile, timeoutMs }),
      }
    : {
        ...config,
        client: SqlServerClient as unknown as typeof Knex.Client,
        connection: await toSqlServerConnection(connection, { caFile, timeoutMs }),
      };
}

/**
 * Opens the database. Nothing is read before the first statement.
 *
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE where it cannot be opened; ERR_CONFIG_INVALID
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const { client, log, now, tracing } = options;
  const config = await toKnexConfig(options);
  const knex = knexFactory({ ...config, log: { warn: (message: string) => log.warn({ client }, message) } });
  try {
    await knex.raw('select 1');
  } catch (cause) {
    await knex.destroy();
    const isFile = options.client === 'sqlite';
    throw new ServerError(
      'ERR_DATABASE_UNAVAILABLE',
      isFile ? `the database ${options.file} cannot be opened` : `the ${client} database cannot be reached`,
      {
        hint: isFile
          ? 'check that the folder exists and that the account of the service may write to it'
          : `it said: ${messageOf(cause)}`,
        cause,
      },
    );
  }

  if (tracing !== undefined) traceStatements(knex.client as KnexClient, client, tracing);
  const schema = options.client === 'sqlite' ? undefined : options.schema;
  return {
    knex,
    prepare: (build) => prepareStatement(knex, build),
    get pool() {
      const pool = knex.client.pool as Pool;
      return { used: pool.numUsed(), free: pool.numFree(), waiting: pool.numPendingAcquires() };
    },
    async ping() {
      await knex.raw('select 1');
    },
    pendingMigrations: () => pendingMigrations({ knex, schema }),
    migrate: () => migrate({ knex, log, now, schema }),
    async [Symbol.asyncDispose]() {
      await knex.destroy();
    },
  };
}

/** The statements of migrations for an administrator to run; see {@link writeScript}. Nothing is connected to. */
export async function writeMigrationScript(
  target: Exclude<DatabaseTarget, { client: 'sqlite' }>,
  options: ScriptOptions,
): Promise<string> {
  const knex = knexFactory(await toKnexConfig(target));
  try {
    return await writeScript({ knex, schema: target.schema }, options);
  } finally {
    await knex.destroy();
  }
}

/** OpenTelemetry's names. */
const systems = { sqlite: 'sqlite', postgresql: 'postgresql', sqlserver: 'microsoft.sql_server' } as const;

/** Its text as it was compiled, and never its bindings: those are tokens and hashes. */
function traceStatements(
  client: KnexClient,
  system: DatabaseTarget['client'],
  tracing: Pick<Tracing, 'within'>,
): void {
  const send = client._query.bind(client);
  client._query = (connection, statement) => {
    const { sql = '' } = statement;
    const [, verb = 'statement', table] = /^\s*(\w+)(?:.*?\b(Oidc\w+))?/s.exec(sql) ?? [];
    const attributes = { 'db.system.name': systems[system], 'db.query.text': sql };
    const name = table === undefined ? verb : `${verb} ${table}`;
    return tracing.within({ name, kind: 'client', attributes }, () => send(connection, statement));
  };
}

function messageOf(err: unknown): string {
  const { hint, message } = err as Partial<ServerError>;
  return hint ?? message ?? String(err);
}

/** Makes {@link Database.prepare}, for who has the connection alone. */
export function prepareStatement<Name extends string>(
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
  // PostgreSQL plans a statement of this name once on each connection.
  const options = { name: createHash('sha256').update(sql).digest('base64url').slice(0, 22) };

  return async function execute(values) {
    const connection = await client.acquireConnection();
    try {
      const answer = await client.query(connection, {
        sql,
        method,
        returning,
        options,
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

/** A bigint column as a number: drivers hand it out as number, text or bigint. Null stays null. */
export function toNumber(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}
