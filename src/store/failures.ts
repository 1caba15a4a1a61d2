/**
 * What can go wrong between us and a database, told apart on each of the three; and the limits within which every
 * statement ends.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ServerError } from '../errors.ts';

/** What the drivers tell of a failure: text codes of PostgreSQL and of tedious, numbers of SQL Server and of SQLite. */
interface DriverError {
  readonly code?: unknown;
  /** SQLite, extended: its lowest byte is the kind. */
  readonly errcode?: unknown;
  /** SQL Server. */
  readonly number?: unknown;
}

/** True where `err` says that a row with this key is there already. */
export function isUniqueViolation(err: unknown): boolean {
  const { code, errcode, number } = err as DriverError;
  return (
    errcode === 1555 || // SQLITE_CONSTRAINT_PRIMARYKEY
    errcode === 2067 || // SQLITE_CONSTRAINT_UNIQUE
    code === '23505' || // PostgreSQL unique_violation
    number === 2627 || // SQL Server: violation of a constraint
    number === 2601 // SQL Server: duplicate key in a unique index
  );
}

/**
 * True where the database has undone a statement for the sake of another, and says that it may be sent again:
 * victims of deadlocks, and SQLite's one writer that is somebody else at the moment.
 */
function isVictim(err: unknown): boolean {
  const { code, errcode, number } = err as DriverError;
  return (
    code === '40P01' || // PostgreSQL deadlock_detected
    code === '40001' || // PostgreSQL serialization_failure
    number === 1205 || // SQL Server: chosen as the deadlock victim
    isBusy(errcode)
  );
}

/** SQLITE_BUSY and its kinds. */
export function isBusy(errcode: unknown): boolean {
  return typeof errcode === 'number' && errcode % 256 === 5;
}

/** Numbers of SQL Server for a server that is there and cannot serve: full, read-only, busy, or moving elsewhere. */
const sqlServerUnable: ReadonlySet<unknown> = new Set([
  233, // the connection was ended by the server
  596, // the session was killed
  601, // a read was interrupted
  701, // out of memory
  802,
  824, // an error of the disk
  922,
  942,
  952, // the database is being recovered, or offline
  976,
  983,
  988, // an availability group is moving
  1204, // no more locks
  945, // the database cannot be opened
  1105, // the file group is full
  1222, // lock request time-out
  3906, // the database is read-only
  4060, // the database cannot be opened by this login
  6005, // shutting down
  8645, // no memory for the query in time
  9001, // the log is not available
  9002, // the log is full
  10928,
  10929, // Azure SQL: too many at once
  17142, // paused
  18456, // login failed
  40197,
  40501,
  40613,
  49918,
  49919,
  49920, // Azure SQL: moving, throttled, not available
]);

/** Kinds of SQLite for a file that is there and cannot be written, or is gone. */
const sqliteUnable: ReadonlySet<number> = new Set([
  8, // SQLITE_READONLY
  10, // SQLITE_IOERR
  13, // SQLITE_FULL
  14, // SQLITE_CANTOPEN
]);

/** Codes of sockets and of names, and those of tedious that mean as much. */
const unreachable: ReadonlySet<string> = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EHOSTUNREACH', 'EHOSTDOWN', 'ENETUNREACH', 'ENETDOWN'],
  ...['EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'ENOENT', 'EACCES'],
  ...['ECLOSE', 'EINSTLOOKUP', 'ELOGIN', 'ESOCKET', 'ETIMEOUT', 'ECONNCLOSED', 'ENOTOPEN'],
]);

/** True where it is the database that fails, and not the statement: the same statement may succeed in a while. */
function isUnavailable(err: unknown): boolean {
  const { code, errcode, number } = err as DriverError;
  if (typeof errcode === 'number') return isBusy(errcode) || sqliteUnable.has(errcode % 256);
  if (typeof number === 'number') return sqlServerUnable.has(number);
  if (typeof code !== 'string') {
    return /^Connection terminated|timeout expired|Client (has encountered a connection error|was closed)/.test(
      err instanceof Error ? err.message : '',
    );
  }
  // PostgreSQL's classes: connection, resources (disk full, too many connections), given up or shutting down (57),
  // the system itself; and read-only.
  if (/^[0-9A-Z]{5}$/.test(code)) return /^(08|53|57|58)/.test(code) || code === '25006';
  return unreachable.has(code);
}

/** The error for everybody above: the cause is for the log. */
export function databaseUnavailable(cause: unknown): ServerError {
  if (cause instanceof ServerError) return cause;
  return new ServerError('ERR_DATABASE_UNAVAILABLE', 'the database does not answer', {
    status: 503,
    hint: cause instanceof Error ? cause.message : String(cause),
    cause,
  });
}

/** What the database itself has less than we wait: it then gives up first, and keeps nothing that waits for a lock. */
export const marginMs = 500;

/** The limits of one statement. */
export interface Limits {
  /** Undefined within a migration, which may take its time. */
  readonly timeoutMs: number | undefined;
  /** Within a transaction a victim has lost all of it: its caller would have to begin anew. */
  readonly isInTransaction: boolean;
  /**
   * Ends the connection: nobody knows what a statement that did not answer in time still does there. Undefined where
   * every answer is there at once, and only being busy takes time.
   */
  readonly kill: ((reason: Error) => void) | undefined;
}

const retries = 5;

/**
 * Runs one statement: within its time, once more where the database undid it for another, and with one kind of
 * error where the database fails.
 *
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE, status 503; else what the driver throws
 */
export async function runBounded<Answer>(
  run: () => Promise<Answer>,
  { isInTransaction, kill, timeoutMs }: Limits,
): Promise<Answer> {
  const startedAt = performance.now();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await (timeoutMs === undefined || kill === undefined ? run() : inTime(run, timeoutMs, kill));
    } catch (err) {
      const hasTime = timeoutMs === undefined || performance.now() - startedAt < timeoutMs;
      const isLast = !hasTime || (!isBusy((err as DriverError).errcode) && attempt > retries);
      if (isVictim(err) && !isInTransaction && !isLast) await sleep(5 + Math.random() * 20);
      // One that never wins finds the database too busy.
      else if (isUnavailable(err) || (isVictim(err) && !isInTransaction)) throw databaseUnavailable(err);
      else throw err;
    }
  }
}

async function inTime<Answer>(
  run: () => Promise<Answer>,
  timeoutMs: number,
  kill: (reason: Error) => void,
): Promise<Answer> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const reason = new Error(`no answer within ${timeoutMs} ms`);
      kill(reason);
      reject(databaseUnavailable(reason));
    }, timeoutMs);
  });
  try {
    return await Promise.race([run(), late]);
  } finally {
    clearTimeout(timer);
  }
}
