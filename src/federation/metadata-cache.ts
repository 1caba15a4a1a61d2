/** Metadata of others by address: fetched at first use, one fetch at a time, kept while the other side is down. */

export interface MetadataCache<Metadata> {
  /** What is known; fetched where nothing is, and again in the background where it is no longer fresh. */
  get(address: string): Promise<Metadata>;
  /** Fetches anew unless that was done within the last `leastSeconds`: then undefined. */
  renew(address: string, leastSeconds: number): Promise<Metadata | undefined>;
}

interface Entry<Metadata> {
  value?: Metadata;
  /** Seconds since the epoch. */
  fetchedAt: number;
  pending?: Promise<Metadata> | undefined;
}

/** A failed attempt is not repeated for this long, so that a dead provider is not asked by every user anew. */
const retrySeconds = 5;

/** Makes a cache; `load` fetches and parses, or throws. */
export function createMetadataCache<Metadata>({
  load,
  now,
  freshSeconds,
}: {
  load: (address: string) => Promise<Metadata>;
  now: () => number;
  freshSeconds: number;
}): MetadataCache<Metadata> {
  const entries = new Map<string, Entry<Metadata>>();
  const failures = new Map<string, { error: unknown; at: number }>();

  function fetchOnce(address: string): Promise<Metadata> {
    const entry = entries.get(address) ?? { fetchedAt: Number.NEGATIVE_INFINITY };
    entries.set(address, entry);
    entry.pending ??= load(address)
      .then((value) => {
        failures.delete(address);
        Object.assign(entry, { value, fetchedAt: now() });
        return value;
      })
      .catch((error: unknown) => {
        failures.set(address, { error, at: now() });
        throw error;
      })
      .finally(() => {
        entry.pending = undefined;
      });
    return entry.pending;
  }

  return {
    async get(address) {
      const entry = entries.get(address);
      const failure = failures.get(address);
      const hasJustFailed = failure !== undefined && now() - failure.at < retrySeconds;
      if (entry?.value === undefined) {
        if (hasJustFailed && entry?.pending === undefined) throw failure.error;
        return fetchOnce(address);
      }
      // What was good yesterday serves on: the provider's answers themselves are verified with it.
      if (now() - entry.fetchedAt >= freshSeconds && !hasJustFailed)
        fetchOnce(address).catch(() => undefined);
      return entry.value;
    },

    async renew(address, leastSeconds) {
      const entry = entries.get(address);
      if (entry !== undefined && now() - entry.fetchedAt < leastSeconds) return undefined;
      const failure = failures.get(address);
      if (failure !== undefined && now() - failure.at < retrySeconds) return undefined;
      return fetchOnce(address);
    },
  };
}
