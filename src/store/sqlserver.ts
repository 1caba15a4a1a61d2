/**
 * SQL Server under knex: connections, limits, and what knex's dialect does otherwise than we need it.
 *
 * It sends each request on the connection that it is for (knex keeps one queue for all connections), and ASCII text
 * as varchar: a parameter of nvarchar would make SQL Server convert every key of an index before it compares.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Knex } from 'knex';
import MssqlClient from 'knex/lib/dialects/mssql/index.js';
import { ServerError } from '../errors.ts';
import { databaseUnavailable, marginMs, runBounded } from './failures.ts';

/** A connection of the driver, as far as we use it. */
interface TediousConnection {
  __knex__disposed?: unknown;
  execSql(request: object): void;
  close(): void;
}

interface SqlStatement {
  sql: string;
  bindings?: readonly unknown[];
  response?: unknown;
}

/** The knex dialect: pass it as `client`. */
export class SqlServerClient extends MssqlClient {
  override _query(connection: TediousConnection, statement: SqlStatement): Promise<object> {
    const isInTransaction = this.transacting === true;
    return runBounded(() => execute(this, connection, statement), {
      isInTransaction,
      timeoutMs: isInTransaction ? undefined : (this.config.statementTimeoutMs ?? 0) + marginMs,
      kill(reason) {
        connection.__knex__disposed = reason;
        connection.close();
      },
    });
  }

  override _typeForBinding(binding: unknown): readonly [unknown, unknown] {
    const isAscii = typeof binding === 'string' && !/[^\0-\x7f]/.test(binding);
    return isAscii ? [binding, this.driver.TYPES.VarChar] : super._typeForBinding(binding);
  }

  override async acquireConnection(): Promise<unknown> {
    try {
      return await super.acquireConnection();
    } catch (err) {
      throw databaseUnavailable(err);
    }
  }
}

function execute(
  client: MssqlClient,
  connection: TediousConnection,
  statement: SqlStatement,
): Promise<object> {
  return new Promise((resolve, reject) => {
    const rows: unknown[] = [];
    const request = client._makeRequest(statement, (err: unknown) => {
      if (err !== null && err !== undefined) return reject(err as Error);
      statement.response = rows;
      resolve(statement);
    });
    request.on('row', (row: unknown) => rows.push(row));
    // At its end the driver has the server cancel it; none within a migration, which may take its time.
    request.setTimeout(client.transacting === true ? 0 : client.config.statementTimeoutMs);
    client._assignBindings(request, statement.bindings);
    connection.execSql(request);
  });
}

/** What the parser of the package `mssql` makes of a connection string. */
interface ParsedConnection {
  server?: string;
  port?: number;
  user?: string;
  password?: string;
  domain?: string;
  database?: string;
  authentication_type?: string;
  connectionTimeout?: number;
  clientId?: string;
  clientSecret?: string;
  tenantId?: string;
  msiEndpoint?: string;
  token?: string;
  options?: Readonly<Record<string, unknown>>;
}

/** What `Authentication` may say in a connection string; anything else the parser would pass over without a word. */
const authentications = /^(sql ?password|active directory (integrated|password|default)|ntlm)$/i;

/**
 * Reads a connection string of ADO.NET for the driver. The connection is encrypted and the server's certificate
 * verified, whatever the string leaves out.
 *
 * @throws {ServerError} ERR_CONFIG_INVALID
 */
export async function toSqlServerConnection(
  connectionString: string,
  { caFile, timeoutMs }: { caFile: string | undefined; timeoutMs: number },
): Promise<Knex.StaticConnectionConfig> {
  if (/(^|;)\s*(integrated security|trusted_connection)\s*=\s*(true|yes|sspi)/i.test(connectionString)) {
    throw refuse(
      'asks for integrated security, which the driver does not have',
      'use a login of SQL Server, or Authentication=NTLM with User Id=DOMAIN\\user',
    );
  }
  const [, authentication] = /(?:^|;)\s*authentication\s*=\s*"?([^;"]*)/i.exec(connectionString) ?? [];
  if (authentication !== undefined && !authentications.test(authentication.trim())) {
    throw refuse(
      `asks for Authentication=${authentication.trim()}, which the driver does not have`,
      'it has SQL Server logins, NTLM, Active Directory Password, and Active Directory Integrated with client id, client secret and tenant id',
    );
  }
  // Loaded here: nobody else needs to wait for it.
  const { default: mssql } = await import('mssql');
  let parsed: ParsedConnection;
  try {
    parsed = mssql.ConnectionPool.parseConnectionString(connectionString) as ParsedConnection;
  } catch {
    throw refuse('cannot be read', 'it has the form of ADO.NET: Server=…;Database=…;User Id=…;Password=…');
  }
  const { authentication_type: type = 'default', domain, options = {}, server, ...rest } = parsed;
  if (!server || !parsed.database) throw refuse('names no Server or no Database');
  const isLocal = /^(localhost|127(\.\d+){3}|::1|\.|\(local\))$/i.test(server);
  if (!isLocal && (options.encrypt === false || options.trustServerCertificate === true)) {
    throw refuse(
      'turns encryption or the verification of the certificate off (Encrypt, TrustServerCertificate)',
      'Database.CaFile takes the certificate of an authority of your own',
    );
  }
  return {
    ...rest,
    server: isLocal && !isIP(server) ? 'localhost' : server,
    type: domain !== undefined && type === 'default' ? 'ntlm' : type,
    ...(domain === undefined ? undefined : { domain }),
    connectionTimeout: timeoutMs,
    options: {
      appName: 'postern',
      ...options,
      encrypt: options.encrypt ?? true,
      trustServerCertificate: options.trustServerCertificate === true,
      connectTimeout: timeoutMs,
      ...(caFile === undefined
        ? undefined
        : { cryptoCredentialsDetails: { ca: readFileSync(caFile, 'utf8') } }),
    },
  } as Knex.StaticConnectionConfig;
}

/** Says nothing of the text itself: it may hold a password. */
function refuse(problem: string, hint?: string): ServerError {
  return new ServerError(
    'ERR_CONFIG_INVALID',
    `Database.Connection ${problem}`,
    hint === undefined ? {} : { hint },
  );
}
