/** `postern keys`: the managed keys, for an administrator. Running servers take up a change within half a minute. */
import {
  addKey,
  arrange,
  isRevoked,
  type KeyLine,
  keysOfLine,
  knownSeconds,
  linesOf,
  publishedSeconds,
  type Rhythm,
} from '../keys/key-schedule.ts';
import { createKeyStore, type KeyStore, type StoredKey } from '../keys/key-store.ts';
import { toManagedAlgorithms, toRhythm } from '../server.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';
import { openMigratedStore, type Store } from './store.ts';
import { toTime, writeTable } from './table.ts';

interface Keys extends AsyncDisposable {
  readonly store: KeyStore;
  readonly rhythm: Rhythm;
  readonly audit: Store['audit'];
  /** False for an algorithm that has been taken away: its keys are there until they are revoked. */
  isNeeded(line: KeyLine): boolean;
}

/** @throws {CommandError} 78 where keys are not managed */
async function openKeys(directory: string, io: CommandIo): Promise<Keys> {
  const store = await openMigratedStore(directory, io);
  const { DataProtectionKey, ManagedKeys } = store.configuration.server;
  if (ManagedKeys === undefined) {
    await store[Symbol.asyncDispose]();
    throw new CommandError(exitCodes.configuration, 'keys are not managed here', {
      hint: 'ManagedKeys in server.json has the server make them; otherwise they are the files that it names',
    });
  }
  const algorithms = toManagedAlgorithms(ManagedKeys);
  return {
    store: createKeyStore({ db: store.db, secrets: DataProtectionKey }),
    rhythm: toRhythm(ManagedKeys),
    audit: store.audit,
    isNeeded: ({ algorithm }) => algorithm === '' || algorithms.includes(algorithm),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

/** Lists the keys, one a line in columns, or as a JSON array. */
export async function listKeys(
  directory: string,
  { json }: { json?: boolean },
  io: CommandIo,
): Promise<void> {
  await using keys = await openKeys(directory, io);
  const stored = await keys.store.list();
  const described = linesOf(stored).flatMap((line) =>
    describeLine(keysOfLine(stored, line), io.now(), keys.rhythm),
  );
  if (json) {
    io.stdout.write(`${JSON.stringify(described, null, 2)}\n`);
    return;
  }
  if (described.length === 0) {
    io.stdout.write('there is no key yet: the first start makes them\n');
    return;
  }
  writeTable(io.stdout, [
    ['ID', 'PURPOSE', 'ALGORITHM', 'STATE', 'IN USE FROM', 'GOOD UNTIL'],
    ...described.map(({ algorithm, goodUntil, id, inUseFrom, purpose, state }) => [
      id,
      purpose,
      algorithm ?? '',
      state,
      inUseFrom,
      goodUntil ?? '',
    ]),
  ]);
}

interface DescribedKey {
  readonly id: string;
  readonly purpose: string;
  readonly algorithm: string | null;
  readonly state: 'in use' | 'next' | 'retired' | 'revoked';
  /** ISO 8601, as those below. */
  readonly madeAt: string;
  readonly inUseFrom: string;
  /** When it is published no more, as far as that is known. */
  readonly goodUntil: string | null;
}

function describeLine(line: readonly StoredKey[], now: number, { keep }: Rhythm): DescribedKey[] {
  const { inUse, next, retired } = arrange(line, now, keep);
  const describe = (key: StoredKey, state: DescribedKey['state'], until = Number.POSITIVE_INFINITY) => {
    const end = Math.min(until, key.revokedAt ?? Number.POSITIVE_INFINITY);
    return {
      id: key.id,
      purpose: key.purpose,
      algorithm: key.algorithm || null,
      state,
      madeAt: toTime(key.createdAt),
      inUseFrom: toTime(key.activeAt),
      goodUntil: Number.isFinite(end) ? toTime(end) : null,
    };
  };
  return [
    ...next.toReversed().map((key) => describe(key, 'next')),
    ...(inUse === undefined ? [] : [describe(inUse, 'in use')]),
    ...retired.map(({ key, until }) => describe(key, 'retired', until)),
    ...line.filter((key) => isRevoked(key, now)).map((key) => describe(key, 'revoked')),
  ];
}

export interface RotateOptions {
  /** Only the key for cookies. */
  cookies?: boolean;
  /** Only the key of this algorithm. */
  algorithm?: string;
  /** As soon as every server knows the next key, whatever others keep of the published ones. */
  now?: boolean;
}

/**
 * Has the next key of each line come into use: as soon as everybody who goes by the published keys has had the time
 * to read it.
 *
 * @throws {CommandError} 1 where there is no such key
 */
export async function rotateKeys(directory: string, options: RotateOptions, io: CommandIo): Promise<void> {
  await using keys = await openKeys(directory, io);
  const stored = await keys.store.list();
  const lines = linesOf(stored).filter((line) => {
    const { algorithm, purpose } = line;
    if (purpose === 'derivation' || !keys.isNeeded(line)) return false;
    if (!options.cookies && options.algorithm === undefined) return true;
    return purpose === 'cookie' ? options.cookies : algorithm === options.algorithm;
  });
  if (lines.length === 0) throw noSuchKey();
  for (const line of lines) {
    const {
      next: [next],
    } = arrange(keysOfLine(stored, line), io.now(), keys.rhythm.keep);
    const madeAt = next?.createdAt ?? io.now();
    // Cookies come back to us: nobody else has to know their key.
    const isKnownSoon = options.now || line.purpose === 'cookie';
    const earliest = madeAt + (isKnownSoon ? knownSeconds : publishedSeconds);
    const activeAt = Math.max(earliest, io.now());
    if (next === undefined) await makeNext(keys, line, { activeAt, now: io.now(), stored });
    else if (activeAt < next.activeAt) await keys.store.schedule(next.id, activeAt);
    const from = toTime(Math.min(activeAt, next?.activeAt ?? activeAt));
    keys.audit.record(['key', 'success'], { ...line, activeAt: from }, 'key rotation asked for');
    io.stdout.write(`the next key for ${describePurpose(line)} is in use from ${from}\n`);
  }
}

async function makeNext(
  { store }: Keys,
  line: KeyLine,
  { stored, ...options }: { activeAt: number; now: number; stored: readonly StoredKey[] },
): Promise<void> {
  const id = await addKey(store, line, { ...options, keys: stored });
  if (id === undefined) {
    throw new CommandError(exitCodes.failure, 'a server has just made the next key itself', {
      hint: 'ask again',
    });
  }
}

/**
 * Takes a key back: what it has signed is good no more. Where it is in use the next one takes its place. All servers
 * do so within the same second, a minute from now, so that nobody signs by a key that another has given up.
 *
 * @param options with `now`, each as soon as it looks
 * @throws {CommandError} 1 where there is no such key
 */
export async function revokeKey(
  directory: string,
  id: string,
  options: { now?: boolean },
  io: CommandIo,
): Promise<void> {
  await using keys = await openKeys(directory, io);
  const stored = await keys.store.list();
  const key = stored.find((one) => one.id === id && !isRevoked(one, io.now()));
  if (key === undefined) throw noSuchKey();
  const { algorithm, purpose, revokedAt = Number.POSITIVE_INFINITY } = key;
  // Asked for once more, it is not put off.
  const at = Math.min(io.now() + (options.now ? 0 : knownSeconds), revokedAt);
  const { inUse, next } = arrange(keysOfLine(stored, key), at, keys.rhythm.keep);
  if (inUse?.id === id && keys.isNeeded(key)) {
    // First the successor: without one an older key would sign again.
    if (next[0] !== undefined) await keys.store.schedule(next[0].id, at);
    else await makeNext(keys, { purpose, algorithm }, { activeAt: at, now: io.now(), stored });
  }
  await keys.store.revoke(id, at);
  keys.audit.record(
    ['key', 'success'],
    { key: id, purpose, algorithm, revokedAt: toTime(at) },
    'key revoked',
  );
  io.stdout.write(`the key ${id} for ${describePurpose(key)} is good for nothing from ${toTime(at)}\n`);
}

/** Encrypts every key under the first secret of DataProtectionKey, so that the others can be taken away. */
export async function protectKeys(directory: string, io: CommandIo): Promise<void> {
  await using keys = await openKeys(directory, io);
  const count = await keys.store.protectAnew();
  if (count > 0) keys.audit.record(['key', 'success'], { keys: count }, 'keys encrypted anew');
  io.stdout.write(
    count === 0
      ? 'every key is under the first secret of DataProtectionKey\n'
      : `encrypted ${count} ${count === 1 ? 'key' : 'keys'} under the first secret of DataProtectionKey\n`,
  );
}

function noSuchKey(): CommandError {
  return new CommandError(exitCodes.failure, 'there is no such key', {
    hint: '"postern keys list" shows those that there are',
  });
}

function describePurpose({ algorithm, purpose }: KeyLine): string {
  return { cookie: 'cookies', derivation: 'derivation', signing: `tokens (${algorithm})` }[purpose];
}
