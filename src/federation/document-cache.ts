/** What identity providers publish about themselves, fetched at first use and kept, so that nobody waits for it twice. */
import { ServerError } from '../errors.ts';

/** A failed first fetch is repeated after this long, a failed refresh after the other. */
const failureSeconds = 5;
const refreshRetrySeconds = 60;

export interface DocumentCacheOptions {
  /** Seconds since the epoch. */
  now: () => number;
  /** From this age on a document is refreshed in the background. */
  freshSeconds: number;
  /** From this age on it is no longer used. */
  staleSeconds: number;
  /** Hears of a refresh that failed while the old document is still used. */
  onRefreshFailed: (key: string, err: unknown) => void;
}

interface Entry<T> {
  document?: { content: T; loadedAt: number };
  failure?: { err: unknown; failedAt: number };
  loading?: Promise<T>;
}

export interface DocumentCache<T> {
  /**
   * The document under the key; `load` fetches it where there is none. One fetch runs at a time for each key,
   * and all who wait for it get its outcome: of a failure each gets an error of its own.
   */
  get(key: string, load: () => Promise<T>): Promise<T>;
  /** Fetches the document anew and keeps it. */
  reload(key: string, load: () => Promise<T>): Promise<T>;
}

/** Makes a cache. A document that became stale is served while it is refreshed, and while that fails. */
export function createDocumentCache<T>({
  now,
  freshSeconds,
  staleSeconds,
  onRefreshFailed,
}: DocumentCacheOptions): DocumentCache<T> {
  const entries = new Map<string, Entry<T>>();

  function entryOf(key: string): Entry<T> {
    const entry = entries.get(key) ?? {};
    entries.set(key, entry);
    return entry;
  }

  function start(entry: Entry<T>, load: () => Promise<T>): Promise<T> {
    entry.loading ??= (async () => {
      try {
        const content = await load();
        entry.document = { content, loadedAt: now() };
        delete entry.failure;
        return content;
      } catch (err) {
        entry.failure = { err, failedAt: now() };
        throw err;
      } finally {
        delete entry.loading;
      }
    })();
    return entry.loading;
  }

  return {
    async get(key, load) {
      const entry = entryOf(key);
      const { document, failure, loading } = entry;
      const sinceFailure = failure === undefined ? Number.POSITIVE_INFINITY : now() - failure.failedAt;
      if (document !== undefined && now() - document.loadedAt < staleSeconds) {
        const isDue = now() - document.loadedAt >= freshSeconds && sinceFailure >= refreshRetrySeconds;
        if (isDue && loading === undefined) start(entry, load).catch((err) => onRefreshFailed(key, err));
        return document.content;
      }
      if (loading === undefined && sinceFailure < failureSeconds) throw renew(failure?.err);
      return start(entry, load).catch((err) => Promise.reject(renew(err)));
    },

    async reload(key, load) {
      return start(entryOf(key), load).catch((err) => Promise.reject(renew(err)));
    },
  };
}

/** A copy for one of those who wait: an error that several requests share would carry what one adds to the others. */
function renew(err: unknown): unknown {
  if (!(err instanceof ServerError)) return err;
  const { code, message, status, hint, cause } = err;
  return new ServerError(code, message, { status, ...(hint !== undefined && { hint }), cause });
}
