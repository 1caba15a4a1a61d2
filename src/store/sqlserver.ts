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

interface TediousRequest {
  addParameter(name: string, type: unknown, value: unknown, options?: { length: number }): void;
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

  /** Text is declared in few lengths: each declaration is a plan of its own on the server. */
  override _setReqInput(request: TediousRequest, index: number, binding: unknown): void {
    const [value, type] = this._typeForBinding(binding);
    if (typeof value !== 'string') {
      super._setReqInput(request, index, binding);
      return;
    }
    const length = [64, 256, 4000].find((step) => value.length <= step);
    request.addParameter(`p${index}`, type, value, length === undefined ? undefined : { length });
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
      if (err !== null && err !== undefined) return reject(firstOf(err));
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

/** The driver puts several errors of one statement into one that has neither number nor message. */
function firstOf(err: unknown): unknown {
  return err instanceof AggregateError ? Object.assign(err.errors[0] as object, { cause: err }) : err;
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

/** The keys of a connection string that we or the parser read, without blanks and in lower case. */
const knownKeys: ReadonlySet<string> = new Set(
  'addr address app applicationname authentication clientid clientsecret connecttimeout connectiontimeout database datasource encrypt initialcatalog integratedsecurity msiendpoint multisubnetfailover networkaddress password pwd server tenantid timeout token trustedconnection trusted_connection trustservercertificate uid user userid'.split(
    ' ',
  ),
);
/** Those that stand in many strings and mean nothing to this driver. */
const meaninglessKeys: ReadonlySet<string> = new Set(
  'multipleactiveresultsets packetsize persistsecurityinfo pooling workstationid wsid'.split(' '),
);

/** What `Authentication` may say, and what the driver calls it. */
const authentications: ReadonlyMap<string, string> = new Map([
  ['sqlpassword', 'default'],
  ['ntlm', 'ntlm'],
  ['activedirectorypassword', 'azure-active-directory-password'],
  ['activedirectorydefault', 'azure-active-directory-default'],
  // By what else the string has: a client with its secret, a managed identity, a token.
  ['activedirectoryintegrated', ''],
]);

/** The pairs of a connection string: keys as above, values without their quotes. */
function readPairs(connectionString: string): ReadonlyMap<string, string> {
  const pairs = new Map<string, string>();
  const pattern = /\s*([^=;]+?)\s*=\s*(?:"((?:[^"]|"")*)"|'((?:[^']|'')*)'|([^;]*))\s*(?:;|$)/y;
  pattern.lastIndex = 0;
  while (pattern.lastIndex < connectionString.trimEnd().length) {
    const match = pattern.exec(connectionString);
    if (match === null) throw refuse('cannot be read', 'it has the form of ADO.NET: Server=…;Database=…');
    const [, key = '', double, single, plain = ''] = match;
    pairs.set(key.replace(/\s/g, '').toLowerCase(), (double ?? single ?? plain).trim());
  }
  return pairs;
}

const isYes = (value = '') => /^(true|yes|1|sspi|mandatory)$/i.test(value);

/**
 * Reads a connection string of ADO.NET for the driver. The connection is encrypted and the server's certificate
 * verified, whatever the string leaves out; what the driver does not have is refused by name.
 *
 * @throws {ServerError} ERR_CONFIG_INVALID
 */
export async function toSqlServerConnection(
  connectionString: string,
  { caFile, timeoutMs }: { caFile: string | undefined; timeoutMs: number },
): Promise<Knex.StaticConnectionConfig> {
  const pairs = readPairs(connectionString);
  const of = (...keys: string[]) => keys.map((key) => pairs.get(key)).find((value) => value !== undefined);
  const unknown = [...pairs.keys()].find((key) => !knownKeys.has(key) && !meaninglessKeys.has(key));
  if (unknown !== undefined) throw refuse(`has ${unknown}, which the driver does not have`);
  if (isYes(of('integratedsecurity', 'trustedconnection', 'trusted_connection'))) {
    throw refuse(
      'asks for integrated security, which the driver does not have',
      'use a login of SQL Server, or Authentication=NTLM with User Id=DOMAIN\\user',
    );
  }
  const authentication = of('authentication');
  const named = authentications.get(authentication?.replace(/\s/g, '').toLowerCase() ?? 'sqlpassword');
  if (named === undefined) {
    throw refuse(
      `asks for Authentication=${authentication}, which the driver does not have`,
      'it has Sql Password, NTLM, Active Directory Password, Default and Integrated',
    );
  }
  const encrypt = of('encrypt');
  if (/^strict$/i.test(encrypt ?? '')) {
    throw refuse(
      'asks for Encrypt=Strict, which is not offered',
      'Encrypt=True verifies the certificate as well',
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
  const { authentication_type: parsedType = 'default', domain, options = {}, server, ...rest } = parsed;
  if (!server || !parsed.database) throw refuse('names no Server or no Database');
  const isLocal = /^(localhost|127(\.\d+){3}|::1|\.|\(local\))$/i.test(server);
  const isPlain = encrypt !== undefined && !isYes(encrypt);
  const isTrusting = isYes(of('trustservercertificate'));
  if (!isLocal && (isPlain || isTrusting)) {
    throw refuse(
      'turns encryption or the verification of the certificate off (Encrypt, TrustServerCertificate)',
      'Database.CaFile takes the certificate of an authority of your own',
    );
  }
  const given = named === '' ? parsedType : named;
  const type = domain !== undefined && given === 'default' ? 'ntlm' : given;
  if (['default', 'ntlm'].includes(type) && (!parsed.user || !parsed.password)) {
    throw refuse('names no User Id or no Password');
  }
  if (type === 'azure-active-directory-password' && !parsed.clientId) {
    throw refuse('needs a Client Id for Authentication=Active Directory Password');
  }
  // With a port the name of an instance says nothing: nobody has to be asked for the port (as in ADO.NET).
  const hasPort = /,\s*\d+$/.test(of('server', 'datasource', 'address', 'addr', 'networkaddress') ?? '');
  const { instanceName, ...others } = options;
  return {
    ...rest,
    server: isLocal && !isIP(server) ? 'localhost' : server,
    type,
    ...(domain === undefined ? undefined : { domain }),
    connectionTimeout: timeoutMs,
    options: {
      ...others,
      ...(instanceName === undefined || hasPort ? undefined : { instanceName }),
      appName: of('applicationname', 'app') ?? 'postern',
      encrypt: !isPlain,
      trustServerCertificate: isTrusting,
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
