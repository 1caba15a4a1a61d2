/** The one dialect of knex that we build upon; knex ships no types for its dialects. */
declare module 'knex/lib/dialects/better-sqlite3/index.js' {
  import type { Knex } from 'knex';

  export default class BetterSqlite3Client {
    constructor(config: Knex.Config);
    connectionSettings: { filename: string };
    _driver(): unknown;
    acquireRawConnection(): Promise<unknown>;
    _query(connection: unknown, statement: object): Promise<object>;
    _formatBindings(bindings: readonly unknown[] | undefined): unknown[];
  }
}
