/**
 * SQLite as Node itself brings it, under knex: its better-sqlite3 dialect with the driver exchanged. No
 * native module, nothing to compile.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import BetterSqlite3Client from 'knex/lib/dialects/better-sqlite3/index.js';
import { isBusy, runBounded } from './failures.ts';

const busyTimeoutMs = 5_000;

/** What knex's dialect reads of a prepared statement. */
interface PreparedStatement {
  reader: boolean;
  all(bindings: readonly unknown[]): unknown[];
  run(bindings: readonly unknown[]): { changes: number; lastInsertRowid: number };
}

/** The part of better-sqlite3's connection that knex's dialect uses, over `node:sqlite`; statements are kept. */
class SqliteConnection {
  readonly #db: DatabaseSync;
  readonly #prepared = new Map<string, PreparedStatement>();

  constructor(filename: string) {
    this.#db = new DatabaseSync(filename, { timeout: busyTimeoutMs });
    // WAL: readers never wait for the writer, and what was committed survives the death of the process.
    this.#insist('PRAGMA journal_mode = WAL');
    // The WAL is copied back, with two fsyncs, at every 16 MB and not at every 4; 16 MB of pages stay in memory.
    this.#db.exec(
      'PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16000; PRAGMA busy_timeout = 0;',
    );
  }

  /** For what SQLite refuses at once, whatever its timeout: the journal's mode, where several open a new file at once. */
  #insist(sql: string): void {
    const deadline = performance.now() + busyTimeoutMs;
    for (;;) {
      try {
        this.#db.exec(sql);
        return;
      } catch (err) {
        const canWait = isBusy((err as { errcode?: unknown }).errcode);
        if (!canWait || performance.now() > deadline) {
          this.#db.close();
          throw err;
        }
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      }
    }
  }

  prepare(sql: string): PreparedStatement {
    const known = this.#prepared.get(sql);
    if (known !== undefined) return known;
    const prepared = toPrepared(this.#db.prepare(sql));
    // Schema statements and one-off queries come and go; the statements of the store are a few dozen.
    if (this.#prepared.size < 200) this.#prepared.set(sql, prepared);
    return prepared;
  }

  close(): void {
    this.#prepared.clear();
    this.#db.close();
  }
}

function toPrepared(statement: StatementSync): PreparedStatement {
  type Values = Parameters<StatementSync['all']>;
  return {
    reader: statement.columns().length > 0,
    all: (bindings) => statement.all(...(bindings as Values)),
    run(bindings) {
      const { changes, lastInsertRowid } = statement.run(...(bindings as Values));
      return { changes: Number(changes), lastInsertRowid: Number(lastInsertRowid) };
    },
  };
}

/** The knex dialect: pass it as `client`. The file and its folder are made if need be, readable by the owner alone. */
export class NodeSqliteClient extends BetterSqlite3Client {
  override _driver(): unknown {
    return DatabaseSync;
  }

  /**
   * Waits for another process that writes by turns and not inside SQLite, whose own wait would hold up every
   * request, those that need no database too.
   */
  override _query(connection: unknown, statement: object): Promise<object> {
    return runBounded(() => super._query(connection, statement), {
      // A statement that finds the file busy has done nothing yet, in a transaction too.
      isInTransaction: false,
      timeoutMs: busyTimeoutMs,
      // It answers synchronously: there is nothing to end.
      kill: undefined,
    });
  }

  override async acquireRawConnection(): Promise<SqliteConnection> {
    const { filename } = this.connectionSettings;
    if (filename !== ':memory:') {
      mkdirSync(dirname(filename), { recursive: true, mode: 0o700 });
      closeSync(openSync(filename, 'a', 0o600));
    }
    return new SqliteConnection(filename);
  }
}
