/**
 * When a managed key is published, in use, retired and removed. All of it follows from the rows and the clock, so
 * that every server comes to the same without a word between them.
 */
import { createPrivateKey, KeyObject, randomBytes, X509Certificate } from 'node:crypto';
import { generateKeyPair } from 'jose';
import { type SigningAlgorithm, usualAlgorithm } from '../config/schema.ts';
import type { KeyMaterial, KeyPurpose, KeyStore, StoredKey } from './key-store.ts';
import { toNamedKey } from './keys.ts';
import { makeSelfSignedKey } from './saml-signer.ts';

/** How often a server looks at the rows. */
export const lookSeconds = 30;
/** By then every server has looked, as long as no two clocks differ by more than a look. */
export const knownSeconds = 2 * lookSeconds;
/** By then, too, whoever keeps the published keys for as long as they may be kept has read them anew. */
export const publishedSeconds = 600;

/** The keys of one purpose and algorithm. */
export interface KeyLine {
  readonly purpose: KeyPurpose;
  readonly algorithm: SigningAlgorithm | '';
}

/** In seconds. */
export interface Rhythm {
  readonly rotation: number;
  readonly publish: number;
  readonly keep: number;
}

/** The keys of a line at a moment; those that are revoked by then, or due to be removed, are in none. */
export interface Arrangement {
  readonly inUse: StoredKey | undefined;
  /** To come, the next one first. */
  readonly next: readonly StoredKey[];
  /** Good for what they have signed, the last one first. `until` in seconds since the epoch. */
  readonly retired: readonly { readonly key: StoredKey; readonly until: number }[];
}

/** The keys of a line, from a list of all. */
export function keysOfLine(keys: readonly StoredKey[], { algorithm, purpose }: KeyLine): StoredKey[] {
  return keys.filter((key) => key.purpose === purpose && key.algorithm === algorithm);
}

/** The purposes and algorithms that there are keys of, in their order. */
export function linesOf(keys: readonly StoredKey[]): KeyLine[] {
  const lines = new Map<string, KeyLine>();
  for (const { algorithm, purpose } of keys) lines.set(`${purpose} ${algorithm}`, { purpose, algorithm });
  return [...lines.values()];
}

export function isRevoked({ revokedAt }: StoredKey, now: number): boolean {
  return revokedAt !== undefined && revokedAt <= now;
}

export function arrange(line: readonly StoredKey[], now: number, keepSeconds: number): Arrangement {
  const good = line
    .filter((key) => !isRevoked(key, now))
    .sort((a, b) => a.activeAt - b.activeAt || a.generation - b.generation);
  const index = good.findLastIndex(({ activeAt }) => activeAt <= now);
  const retired = good.slice(0, Math.max(index, 0)).map((key, i) => {
    const retiredAt = good[i + 1]?.activeAt ?? now;
    return { key, until: retiredAt + Math.max(keepSeconds, key.longestLifetime) };
  });
  return {
    inUse: good[index],
    next: good.slice(index + 1),
    retired: retired.filter(({ until }) => until > now).reverse(),
  };
}

/** Which keys of a line nobody needs any more. */
export function findRemovable(line: readonly StoredKey[], now: number, keepSeconds: number): string[] {
  const { inUse, next, retired } = arrange(line, now, keepSeconds);
  const needed = new Set([inUse, ...next, ...retired.map(({ key }) => key)].map((key) => key?.id));
  return line.flatMap(({ id }) => (needed.has(id) ? [] : [id]));
}

/**
 * When the key that a line lacks comes into use; undefined where it lacks none.
 *
 * @param hasPredecessor whether a key that is not managed is in use before the first one
 */
export function findGap(
  line: readonly StoredKey[],
  now: number,
  { hasPredecessor, publish, rotation }: Rhythm & { hasPredecessor: boolean },
): number | undefined {
  const last = Math.max(...line.filter((key) => !isRevoked(key, now)).map(({ activeAt }) => activeAt));
  if (last === Number.NEGATIVE_INFINITY) return hasPredecessor ? now + publish : now;
  // It is published for all of its time, however late it is made.
  return now >= last + rotation - publish ? Math.max(last + rotation, now + publish) : undefined;
}

/** Makes the next key of a line; undefined where another server was first. */
export async function addKey(
  store: Pick<KeyStore, 'insert'>,
  line: KeyLine,
  {
    activeAt,
    keys,
    now,
    secret,
  }: { activeAt: number; keys: readonly StoredKey[]; now: number; secret?: string | undefined },
): Promise<string | undefined> {
  const generation = Math.max(0, ...keysOfLine(keys, line).map((key) => key.generation)) + 1;
  const { id, material } = await makeKey(line, secret);
  const key = { ...line, id, generation, createdAt: now, activeAt, longestLifetime: 0 };
  return (await store.insert(key, material)) ? id : undefined;
}

/** What becomes of a self-signed certificate is nobody's business: it is there for validators that want one. */
const certificateDays = 3650;

async function makeKey(
  { algorithm }: KeyLine,
  secret = randomBytes(32).toString('base64url'),
): Promise<{ id: string; material: KeyMaterial }> {
  for (;;) {
    const material = algorithm === '' ? { secret } : await makeSigningKey(algorithm);
    const id =
      algorithm === '' || 'secret' in material
        ? randomBytes(9).toString('base64url')
        : String((await toNamedKey({ ...material, algorithm })).jwk.kid);
    // It would be an option on the command line.
    if (!id.startsWith('-')) return { id, material };
  }
}

/** Validators of IdentityServer3's time find the usual key by its certificate. */
async function makeSigningKey(algorithm: SigningAlgorithm): Promise<KeyMaterial> {
  if (algorithm !== usualAlgorithm) {
    const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
    return { key: KeyObject.from(privateKey) };
  }
  const made = await makeSelfSignedKey({ commonName: 'Postern', days: certificateDays });
  return {
    key: createPrivateKey(made.privateKey),
    certificate: new X509Certificate(Buffer.from(made.certificate, 'base64')),
  };
}
