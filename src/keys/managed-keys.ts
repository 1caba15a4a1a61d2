/**
 * Keys that the server makes and exchanges by itself, the same on every node. Each node looks at the rows twice a
 * minute, and when a key comes into use or is revoked; it makes what is missing and removes what nobody needs. Two that
 * do so at once come to the same.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { errors } from 'jose';
import type { Audit } from '../audit.ts';
import type { SigningAlgorithm } from '../config/schema.ts';
import { isDatabaseUnavailable } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import {
  addKey,
  arrange,
  findGap,
  findRemovable,
  isRevoked,
  type KeyLine,
  keysOfLine,
  linesOf,
  lookSeconds,
  type Rhythm,
} from './key-schedule.ts';
import type { KeyMaterial, KeyPurpose, KeyStore, StoredKey } from './key-store.ts';
import { type KeySet, type NamedKey, type SigningKeys, toNamedKey, toSigningKeys } from './keys.ts';

export interface ManagedKeys extends AsyncDisposable {
  /** Those of this moment. They are replaced as a whole. */
  readonly keys: SigningKeys;
  /**
   * Looks at the rows now.
   *
   * @throws {ServerError} ERR_DATABASE_UNAVAILABLE, ERR_KEY_UNUSABLE; the keys are then those of before
   */
  look(): Promise<void>;
}

interface Needs {
  readonly audit: Pick<Audit, 'record'>;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, 'setKeyInUse'>;
  readonly now: () => number;
  readonly store: KeyStore;
  /** What tokens can be signed by. */
  readonly algorithms: readonly SigningAlgorithm[];
  readonly rhythm: Rhythm;
  /** Keys that are not managed: they sign until the first managed one is in use, and verify. */
  readonly predecessors: KeySet;
  /** For how long what a key signs now may be good, in seconds. */
  readonly lifetimes: () => Readonly<Record<KeyPurpose, number>>;
  /** Told whenever there are others. */
  readonly onChange: (keys: SigningKeys) => void;
}

/** A token of a stranger may name any key: that is no reason to look more often. */
const unknownKeySeconds = 5;

/**
 * What keys are derived from, as {@link SigningKeys.deriveKey} does; undefined before the first start.
 *
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE, ERR_KEY_UNUSABLE
 */
export async function findDerivation(
  store: Pick<KeyStore, 'list' | 'open'>,
  { keepSeconds, now }: { keepSeconds: number; now: number },
): Promise<string | undefined> {
  const line = keysOfLine(await store.list(), { purpose: 'derivation', algorithm: '' });
  const { inUse, next } = arrange(line, now, keepSeconds);
  const key = inUse ?? next[0];
  const material = key && (await store.open(key));
  return material !== undefined && 'secret' in material ? material.secret : undefined;
}

/**
 * Makes the first keys where there are none, and resolves with what there is.
 *
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE, ERR_KEY_UNUSABLE
 */
export async function startManagedKeys(needs: Needs): Promise<ManagedKeys> {
  const { audit, log, metrics, now, predecessors, rhythm, store } = needs;
  const lines: KeyLine[] = [
    ...needs.algorithms.map((algorithm) => ({ purpose: 'signing', algorithm }) as const),
    { purpose: 'cookie', algorithm: '' },
    { purpose: 'derivation', algorithm: '' },
  ];
  /** Looks go on for ever: none is a part of the request that was in hand when it began. */
  const outsideOfRequests = AsyncLocalStorage.snapshot();
  const opened = new Map<string, KeyMaterial>();
  /** The rows of the last look that could read them. What follows from them comes true in an outage, too. */
  let stored: readonly StoredKey[] = [];
  /** What the keys of this moment are made of. */
  let known = '';
  let current: SigningKeys | undefined;
  /** When the last look began. */
  let lookedAt = 0;
  /** When the rows of the last look say that there will be other keys. */
  let changesAt = Number.POSITIVE_INFINITY;
  let looking: Promise<void> | undefined;

  const look = () => {
    looking ??= outsideOfRequests(() =>
      lookOnce().finally(() => {
        looking = undefined;
        lookLater();
      }),
    );
    return looking;
  };

  let timer: NodeJS.Timeout | undefined;
  let isStopped = false;
  let lastFailure = '';
  function lookLater(): void {
    clearTimeout(timer);
    const seconds = Math.min(lookSeconds, Math.max(1, changesAt - now()));
    if (!isStopped) timer = setTimeout(lookAgain, seconds * 1000).unref();
  }
  function lookAgain(): void {
    look().then(
      () => {
        lastFailure = '';
      },
      (err: Error) => {
        // Once an outage.
        if (err.message !== lastFailure)
          log.error({ err }, 'managed keys cannot be read; those in force stay');
        lastFailure = err.message;
      },
    );
  }

  async function lookOnce(): Promise<void> {
    lookedAt = now();
    try {
      await readRows();
    } catch (err) {
      if (current !== undefined) await takeUp();
      throw err;
    }
    await takeUp();
  }

  async function readRows(): Promise<void> {
    stored = await store.list();
    if (await addMissing()) stored = await store.list();
    await noteLifetimes();
    await removeUnneeded();
  }

  async function takeUp(): Promise<void> {
    const keySet = await toKeySet();
    const times = stored.flatMap(({ activeAt, revokedAt = 0 }) => [activeAt, revokedAt]);
    changesAt = Math.min(...times.filter((time) => time > lookedAt));
    const { cookieKeys, derivation, signing } = keySet;
    const found = JSON.stringify([signing.map(({ jwk }) => jwk.kid), cookieKeys, derivation]);
    if (found === known) return;
    const isFirst = current === undefined;
    const keys = withUnknownKeys(toSigningKeys(keySet));
    if (!isFirst) needs.onChange(keys);
    known = found;
    current = keys;
    log.info({ signingKeys: signing.map(({ jwk }) => jwk.kid) }, 'managed keys taken up');
  }

  async function addMissing(): Promise<boolean> {
    let isAny = false;
    for (const line of lines) {
      const present = keysOfLine(stored, line);
      if (line.purpose === 'derivation' && present.some((key) => !isRevoked(key, now()))) continue;
      const hasPredecessor =
        line.purpose === 'signing'
          ? predecessors.signing.some(({ algorithm }) => algorithm === line.algorithm)
          : line.purpose === 'cookie' && predecessors.cookieKeys.length > 0;
      const activeAt = findGap(present, now(), { ...rhythm, hasPredecessor });
      if (activeAt === undefined) continue;
      isAny = true;
      // Nodes that have not been told yet derive the same from the keys of before.
      const secret = line.purpose === 'derivation' ? predecessors.derivation : undefined;
      const id = await addKey(store, line, { activeAt, now: now(), keys: stored, secret });
      if (id !== undefined) {
        audit.record(['key', 'success'], { key: id, ...line, activeAt: toTime(activeAt) }, 'key made');
      }
    }
    return isAny;
  }

  /** A key is kept for as long as what it signs is good, even where that is shortened later. */
  async function noteLifetimes(): Promise<void> {
    const lifetimes = needs.lifetimes();
    for (const line of lines) {
      const { inUse, next } = arrange(keysOfLine(stored, line), now(), rhythm.keep);
      const lifetime = lifetimes[line.purpose];
      const raised = [inUse, ...next].filter((key) => key !== undefined && key.longestLifetime < lifetime);
      const ids = raised.map((key) => key?.id ?? '');
      if (ids.length > 0) await store.raiseLifetime(ids, lifetime);
      if (inUse !== undefined) metrics.setKeyInUse(line, inUse.activeAt);
    }
  }

  async function removeUnneeded(): Promise<void> {
    const ids = linesOf(stored).flatMap((line) =>
      findRemovable(keysOfLine(stored, line), now(), rhythm.keep),
    );
    // Of several servers that do it at once one says so.
    if (ids.length === 0 || (await store.remove(ids)) === 0) return;
    audit.record(['key', 'success'], { keys: ids }, 'keys removed');
  }

  async function toKeySet(): Promise<KeySet> {
    for (const id of opened.keys()) if (!stored.some((key) => key.id === id)) opened.delete(id);
    const materialsOf = async (line: KeyLine) => {
      const { inUse, next, retired } = arrange(keysOfLine(stored, line), now(), rhythm.keep);
      const all = [inUse, ...next, ...retired.map(({ key }) => key)].filter((key) => key !== undefined);
      return { isInUse: inUse !== undefined, materials: await Promise.all(all.map(open)) };
    };
    /** Those of before are first until another is in use. */
    const join = <Key>(managed: readonly Key[], before: readonly Key[], isInUse: boolean) =>
      isInUse ? [...managed, ...before] : [...before, ...managed];

    const signing: NamedKey[] = [];
    for (const algorithm of needs.algorithms) {
      const { isInUse, materials } = await materialsOf({ purpose: 'signing', algorithm });
      const pairs = materials.filter((material) => 'key' in material);
      const managed = await Promise.all(pairs.map((pair) => toNamedKey({ ...pair, algorithm })));
      const before = predecessors.signing.filter((key) => key.algorithm === algorithm);
      signing.push(...join(managed, before, isInUse));
    }
    const others = predecessors.signing.filter(({ algorithm }) => !needs.algorithms.includes(algorithm));
    const secretsOf = async (purpose: KeyPurpose) => {
      const { isInUse, materials } = await materialsOf({ purpose, algorithm: '' });
      return { isInUse, secrets: materials.flatMap((one) => ('secret' in one ? [one.secret] : [])) };
    };
    const cookies = await secretsOf('cookie');
    const { secrets: derivation } = await secretsOf('derivation');
    return {
      signing: [...signing, ...others],
      published: predecessors.published,
      cookieKeys: join(cookies.secrets, predecessors.cookieKeys, cookies.isInUse),
      derivation: derivation[0],
    };
  }

  async function open(key: StoredKey): Promise<KeyMaterial> {
    const material = opened.get(key.id) ?? (await store.open(key));
    opened.set(key.id, material);
    return material;
  }

  /** Another node may use a key already that is not known here: after a revocation nobody waits for the next look. */
  function withUnknownKeys(keys: SigningKeys): SigningKeys {
    return {
      ...keys,
      async verifyJwt(jwt, options) {
        try {
          return await keys.verifyJwt(jwt, options);
        } catch (err) {
          const isUnknown = err instanceof errors.JWKSNoMatchingKey;
          if (!isUnknown || now() - lookedAt < unknownKeySeconds) throw err;
          await look().catch((failure: unknown) => {
            if (isDatabaseUnavailable(failure)) throw failure;
          });
          if (current === undefined || current.publicJwks === keys.publicJwks) throw err;
          return await current.verifyJwt(jwt, options);
        }
      },
    };
  }

  await look();
  return {
    get keys() {
      return current as SigningKeys;
    },
    look,
    async [Symbol.asyncDispose]() {
      isStopped = true;
      clearTimeout(timer);
      await looking?.catch(() => undefined);
    },
  };
}

function toTime(at: number): string {
  return new Date(at * 1000).toISOString();
}
