/** The removal of expired rows: a job in the server, and one run of it as a command. */
import { setImmediate as letOthersRun, setTimeout as sleep } from 'node:timers/promises';
import type { ServerContext } from '../context.ts';
import type { Database } from './database.ts';

/** How many rows one statement removes: small enough that nobody waits for its locks. */
const batchSize = 500;

/** Deletes every row whose end is not after `now` (seconds), in batches by the indexed end. Returns how many. */
export async function deleteExpired(
  db: Pick<Database, 'knex'>,
  now: number,
  { signal }: { signal?: AbortSignal } = {},
): Promise<number> {
  let deleted = 0;
  for (;;) {
    const count = await db
      .knex('OidcToken')
      .whereIn('id', (expired) =>
        expired
          .select('id')
          .from('OidcToken')
          .where('expiresAt', '<=', now)
          .orderBy('expiresAt')
          .limit(batchSize),
      )
      .delete();
    deleted += count;
    if (count < batchSize || signal?.aborted) return deleted;
    // SQLite answers synchronously: without this the requests would wait for the last batch.
    await letOthersRun();
  }
}

/**
 * Runs {@link deleteExpired} with a pause of `intervalSeconds` after each run until disposed.
 *
 * The first run waits a random part of the interval, so that servers started together do not all delete at
 * once. A failed run is logged and the next one still happens; disposing waits for the batch in hand.
 */
export function startCleanup(
  { db, log, now }: Pick<ServerContext, 'db' | 'log' | 'now'>,
  { intervalSeconds }: { intervalSeconds: number },
): AsyncDisposable {
  const stop = new AbortController();
  const pause = (seconds: number) => sleep(seconds * 1000, undefined, { signal: stop.signal });

  const running = (async () => {
    await pause(Math.random() * intervalSeconds);
    for (;;) {
      try {
        const deleted = await deleteExpired(db, now(), stop);
        if (deleted > 0) log.info({ deleted }, 'expired tokens deleted');
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
