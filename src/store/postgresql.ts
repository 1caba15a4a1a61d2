/** PostgreSQL under knex: connections, limits and names. */
import { readFileSync } from 'node:fs';
import type { Knex } from 'knex';
import PostgresClient from 'knex/lib/dialects/postgres/index.js';
import { ServerError } from '../errors.ts';
import { databaseUnavailable, marginMs, runBounded } from './failures.ts';

/** A connection of the driver, as far as we use it. */
interface PgConnection {
  __knex__disposed?: unknown;
  readonly connection?: { readonly stream?: { destroy(): void } };
}

/** The knex dialect: pass it as `client`. */
export class PostgresqlClient extends PostgresClient {
  override _query(connection: PgConnection, statement: object): Promise<object> {
    const isInTransaction = this.transacting === true;
    return runBounded(() => super._query(connection, statement), {
      isInTransaction,
      timeoutMs: isInTransaction ? undefined : (this.config.statementTimeoutMs ?? 0) + marginMs,
      kill(reason) {
        connection.__knex__disposed = reason;
        connection.connection?.stream?.destroy();
      },
    });
  }

  override async acquireConnection(): Promise<unknown> {
    try {
      return await super.acquireConnection();
    } catch (err) {
      throw databaseUnavailable(err);
    }
  }
}

/** The parameters that a URL may have. */
const knownParameters: ReadonlySet<string> = new Set(['application_name', 'host', 'sslmode']);

/**
 * Reads a URL such as `postgresql://postern:secret@db.example.com:5432/surveys` for the driver. The server's
 * certificate is verified, but on this machine and over its own sockets, unless `sslmode` asks for it there too.
 *
 * @throws {ServerError} ERR_CONFIG_INVALID
 */
export function toPostgresqlConnection(
  connectionString: string,
  { caFile, timeoutMs }: { caFile: string | undefined; timeoutMs: number },
): Knex.StaticConnectionConfig {
  const url = URL.parse(connectionString);
  if (url === null || !/^postgres(ql)?:$/.test(url.protocol) || url.pathname.length < 2) {
    throw refuse('is no URL of the form postgresql://user:password@host:5432/database');
  }
  const unknown = [...url.searchParams.keys()].find((name) => !knownParameters.has(name));
  if (unknown !== undefined) {
    throw refuse(`has the parameter ${unknown}; known are ${[...knownParameters].join(', ')}`);
  }
  const decode = (text: string) => {
    try {
      return decodeURIComponent(text);
    } catch {
      throw refuse('has a % that stands for nothing; write %25 for it');
    }
  };
  const host = url.searchParams.get('host') ?? decode(url.hostname).replace(/^\[(.*)\]$/, '$1');
  if (host.includes(',')) throw refuse('names several hosts; name one, such as that of a proxy');
  const mode = url.searchParams.get('sslmode');
  const isLocal = host.startsWith('/') || /^(localhost|127(\.\d+){3}|::1)$/i.test(host);
  if (mode !== null && mode !== 'verify-full' && !(isLocal && mode === 'disable')) {
    throw refuse(
      `has sslmode=${mode}; over a network only verify-full is used, on this machine disable as well`,
    );
  }
  const isEncrypted = !isLocal || mode === 'verify-full';
  return {
    host,
    port: url.port === '' ? 5432 : Number(url.port),
    database: decode(url.pathname.slice(1)),
    user: decode(url.username),
    password: decode(url.password),
    application_name: url.searchParams.get('application_name') ?? 'postern',
    connectionTimeoutMillis: timeoutMs,
    statement_timeout: timeoutMs,
    keepAlive: true,
    ssl: isEncrypted
      ? {
          rejectUnauthorized: true,
          ...(caFile === undefined ? undefined : { ca: readFileSync(caFile, 'utf8') }),
        }
      : false,
  } as Knex.StaticConnectionConfig;
}

/** Says nothing of the text itself: it may hold a password. */
function refuse(problem: string): ServerError {
  return new ServerError('ERR_CONFIG_INVALID', `Database.Connection ${problem}`);
}
