/** The removal of expired rows: a job in the server, and one run of it as a command. */
import { randomUUID } from 'node:crypto';
import { setImmediate as letOthersRun, setTimeout as sleep } from 'node:timers/promises';
import type { ServerContext } from '../context.ts';
import type { Database } from './database.ts';

/**
 * How many rows one statement removes: small enough that nobody waits for its locks, and that SQL Server, which
 * counts a lock for each row and each key of its indexes, stays below the 5000 at which it would take the table.
 */
const batchSize = 500;

/**
 * Of several servers on one database one removes, for as long as it renews its lease; when it is gone, another one
 * does after this time and an interval. There is no leader to lose: whoever comes first has it.
 */
const leaseSeconds = 60;

export interface DeleteOptions {
  signal?: AbortSignal;
  /** Asked before each batch; false ends the run. */
  mayGoOn?: () => Promise<boolean> | boolean;
}

/** Where rows have an end: an indexed `expiresAt`, and an `id`. */
const tables = ['OidcToken', 'OidcGuess'] as const;

/** Deletes every row whose end is not after `now` (seconds), in batches by the indexed end. Returns how many. */
export async function deleteExpired(
  db: Pick<Database, 'knex'>,
  now: number,
  { mayGoOn = () => true, signal }: DeleteOptions = {},
): Promise<number> {
  let deleted = 0;
  for (const table of tables) {
    while (await mayGoOn()) {
      const count = await db
        .knex(table)
        .whereIn('id', (expired) =>
          expired
            .select('id')
            .from(table)
            .where('expiresAt', '<=', now)
            .orderBy('expiresAt')
            .limit(batchSize),
        )
        .delete();
      deleted += count;
      if (signal?.aborted) return deleted;
      if (count < batchSize) break;
      // SQLite answers synchronously: without this the requests would wait for the last batch.
      await letOthersRun();
    }
  }
  return deleted;
}

/**
 * Runs {@link deleteExpired} with a pause of `intervalSeconds` after each run until disposed, where no other server
 * does.
 *
 * The first run waits a random part of the interval, so that servers started together do not all ask at once. A
 * failed run is logged and the next one still happens; disposing waits for the batch in hand.
 */
export function startCleanup(
  { db, log, metrics, now, tokens }: Pick<ServerContext, 'db' | 'log' | 'metrics' | 'now' | 'tokens'>,
  { intervalSeconds }: { intervalSeconds: number },
): AsyncDisposable {
  const stop = new AbortController();
  const pause = (seconds: number) => sleep(seconds * 1000, undefined, { signal: stop.signal });
  const holder = randomUUID();
  let heldUntil = 0;
  // Kept through the pause as well, so that the next run is this server's too.
  const mayGoOn = async () => {
    if (heldUntil - now() > leaseSeconds / 2) return true;
    const expiresAt = now() + leaseSeconds + Math.ceil(intervalSeconds);
    const isHeld = await tokens.lease('cleanup', { holder, expiresAt });
    heldUntil = isHeld ? now() + leaseSeconds : 0;
    return isHeld;
  };

  const running = (async () => {
    await pause(Math.random() * intervalSeconds);
    for (;;) {
      try {
        heldUntil = 0;
        const startedAt = performance.now();
        const deleted = await deleteExpired(db, now(), { signal: stop.signal, mayGoOn });
        metrics.countCleanup(deleted);
        const seconds = Math.round((performance.now() - startedAt) / 100) / 10;
        if (deleted > 0) log.info({ deleted, seconds }, 'expired rows deleted');
      } catch (err) {
        log.error({ err }, 'expired token cleanup failed');
      }
      await pause(intervalSeconds);
    }
  })().catch((err: unknown) => {
    if (!stop.signal.aborted) throw err;
  });

  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}
