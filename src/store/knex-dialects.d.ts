/** The dialects of knex that we build upon, as far as we use them; knex ships no types for them. */
declare module 'knex/lib/dialects/better-sqlite3/index.js' {
  import type { Knex } from 'knex';

  export default class BetterSqlite3Client {
    constructor(config: Knex.Config);
    connectionSettings: { filename: string };
    _driver(): unknown;
    acquireRawConnection(): Promise<unknown>;
    _query(connection: unknown, statement: object): Promise<object>;
  }
}

declare module 'knex/lib/dialects/postgres/index.js' {
  import type { Knex } from 'knex';

  export default class PostgresClient {
    constructor(config: Knex.Config);
    readonly config: { readonly statementTimeoutMs?: number };
    readonly transacting?: boolean;
    acquireConnection(): Promise<unknown>;
    _query(connection: unknown, statement: object): Promise<object>;
  }
}

declare module 'knex/lib/dialects/mssql/index.js' {
  import type { EventEmitter } from 'node:events';
  import type { Knex } from 'knex';

  export default class MssqlClient {
    constructor(config: Knex.Config);
    readonly config: { readonly statementTimeoutMs?: number };
    readonly driver: { readonly TYPES: Readonly<Record<string, unknown>> };
    readonly transacting?: boolean;
    acquireConnection(): Promise<unknown>;
    _query(connection: unknown, statement: object): Promise<object>;
    _makeRequest(
      statement: object,
      callback: (err: unknown) => void,
    ): EventEmitter & { setTimeout(ms: number | undefined): void };
    _assignBindings(request: EventEmitter, bindings: readonly unknown[] | undefined): void;
    _typeForBinding(binding: unknown): readonly [unknown, unknown];
    _setReqInput(request: object, index: number, binding: unknown): void;
  }
}

declare module 'mssql' {
  const mssql: { readonly ConnectionPool: { parseConnectionString(text: string): object } };
  export default mssql;
}
