/**
 * The keys of the provider: the one that signs tokens, those that sign cookies, and keys derived from them.
 *
 * In Development they are made at the first start and kept under `data/keys/`, readable by the owner alone.
 * Elsewhere the operator names them, the same on every node, or has them managed (managed-keys.ts).
 */
import { createHash, hkdfSync, randomBytes, type X509Certificate } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  calculateJwkThumbprint,
  createLocalJWKSet,
  exportJWK,
  generateKeyPair,
  importJWK,
  type JWK,
  type JWTPayload,
  type JWTVerifyOptions,
  type JWTVerifyResult,
  jwtVerify,
  SignJWT,
} from 'jose';
import { type SigningAlgorithm, usualAlgorithm } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import { endOf, type KeyFiles, type KeyPair, readCertificateFile, readKeyPair } from './key-file.ts';

/** The certificate of a key that a property of `server.json` names. */
export interface KeyCertificate {
  readonly property: string;
  /** Seconds since the epoch. */
  readonly expiresAt: number;
}

export interface SigningKeys {
  /** The private keys in the engine's form; the first of an algorithm signs. */
  readonly privateJwks: { readonly keys: readonly JWK[] };
  /** What the JWKS endpoint prints: with `x5t` and `x5c` where the key has a certificate. */
  readonly publicJwks: { readonly keys: readonly JWK[] };
  /** What tokens can be signed by. */
  readonly algorithms: readonly SigningAlgorithm[];
  /** Members that tokens of the IdentityServer layouts carry in their header beside `kid`, where RS256 signs them. */
  readonly certificateHeader: { readonly x5t?: string };
  /** Those that somebody has to exchange. */
  readonly certificates: readonly KeyCertificate[];
  /** The first signs cookies, all verify them. */
  readonly cookieKeys: readonly string[];
  /**
   * Signs a JWT of ours with the key that signs tokens, or the one of another algorithm. `claims` are all that is in it.
   *
   * @throws {ServerError} ERR_KEY_UNUSABLE where no key signs by that algorithm
   */
  signJwt(
    claims: JWTPayload,
    header: { readonly typ: string; readonly [parameter: string]: unknown },
    algorithm?: SigningAlgorithm,
  ): Promise<string>;
  /**
   * Verifies the signature of a JWT of ours, and what `options` ask for.
   *
   * @throws {errors.JOSEError} of jose
   */
  verifyJwt(jwt: string, options: Omit<JWTVerifyOptions, 'algorithms'>): Promise<JWTVerifyResult>;
  /** 32 bytes for one purpose, the same on every node that has the same keys. */
  deriveKey(purpose: string): Buffer;
}

/** Where the keys are; passphrases and cookie keys are resolved already. */
export type KeySource =
  | { readonly kind: 'generated'; readonly folder: string }
  | {
      readonly kind: 'files';
      /** Of the key that signs RS256; there may be none where such keys are managed. */
      readonly files: KeyFiles | undefined;
      /** Certificates of keys that are published and do not sign. */
      readonly publishedFiles: readonly string[];
      readonly cookieKeys: readonly string[];
    };

/** A key beside the one that signs where nothing else is said. */
export interface FurtherKey extends KeyFiles {
  readonly algorithm: SigningAlgorithm;
}

/** A key with its name. */
export interface NamedKey {
  readonly algorithm: SigningAlgorithm;
  /** What names it in `server.json`, where something does. */
  readonly property?: string;
  /** Private, with `kid`. */
  readonly jwk: JWK;
  readonly certificate?: X509Certificate | undefined;
}

/** What {@link SigningKeys} are made of. */
export interface KeySet {
  /** The first of an algorithm signs, all verify. */
  readonly signing: readonly NamedKey[];
  /** Public keys that only verify. */
  readonly published: readonly JWK[];
  /** The first signs, all verify. */
  readonly cookieKeys: readonly string[];
  /** What keys are derived from. */
  readonly derivation: string | undefined;
}

/**
 * Loads the keys, or makes them where the source says so.
 *
 * @throws {ServerError} ERR_KEY_UNUSABLE, with the file and the reason
 */
export async function loadKeys(source: KeySource, further: readonly FurtherKey[] = []): Promise<SigningKeys> {
  return toSigningKeys(await loadKeySet(source, further));
}

/** As {@link loadKeys}, for keys that others are put before. */
export async function loadKeySet(source: KeySource, further: readonly FurtherKey[]): Promise<KeySet> {
  const others: NamedKey[] = [];
  for (const [index, key] of further.entries()) {
    others.push(await loadKey(key, `FurtherSigningKeys[${index}]`));
  }
  if (source.kind === 'generated') return loadGenerated(source.folder, others);

  const { cookieKeys, files, publishedFiles } = source;
  const main = files && (await loadKey({ ...files, algorithm: usualAlgorithm }, 'OidcSigningCertificate'));
  return {
    signing: main === undefined ? others : [main, ...others],
    published: await Promise.all(publishedFiles.map((file) => toPublished(readCertificateFile(file)))),
    cookieKeys,
    // The last: a key that is put in front in order to rotate must not change what nodes derive meanwhile.
    derivation: cookieKeys.at(-1),
  };
}

async function loadKey({ algorithm, ...files }: FurtherKey, property: string): Promise<NamedKey> {
  return {
    ...(await toNamedKey({ ...(await readKeyPair(files, { algorithm, property })), algorithm })),
    property,
  };
}

/** Names a private key: by its certificate, where it has one. */
export async function toNamedKey({
  algorithm,
  certificate,
  key,
}: Partial<KeyPair> & Pick<KeyPair, 'key'> & { algorithm: SigningAlgorithm }): Promise<NamedKey> {
  const jwk = await exportJWK(key);
  const kid = certificate === undefined ? await nameKey(jwk) : thumbprintOf(certificate);
  return { algorithm, jwk: { ...jwk, kid }, certificate };
}

/** IdentityServer names a key by its certificate's SHA-1 thumbprint, in kid and in x5t (RFC 7515 section 4.1.7). */
function thumbprintOf(certificate: X509Certificate): string {
  return createHash('sha1').update(certificate.raw).digest('base64url');
}

function membersOf(certificate: X509Certificate): { x5t: string; x5c: string[] } {
  return { x5t: thumbprintOf(certificate), x5c: [certificate.raw.toString('base64')] };
}

/** A key that does not sign here: the next one, ahead of its time, or the last one, while what it signed is good. */
async function toPublished(certificate: X509Certificate): Promise<JWK> {
  const jwk = await exportJWK(certificate.publicKey);
  if (jwk.kty !== 'RSA') throw new ServerError('ERR_KEY_UNUSABLE', 'a published certificate has no RSA key');
  return toPublic({
    algorithm: usualAlgorithm,
    jwk: { ...jwk, kid: thumbprintOf(certificate) },
    certificate,
  });
}

/** The public half, in the order in which IdentityServer printed it. */
function toPublic({ algorithm: alg, certificate, jwk }: Omit<NamedKey, 'property'>): JWK {
  const { kty, kid = '' } = jwk;
  const members = certificate && membersOf(certificate);
  const parts = Object.entries(jwk).filter(([name]) => ['crv', 'x', 'y', 'n', 'e'].includes(name));
  return { kty: kty ?? '', use: 'sig', kid, alg, ...members, ...Object.fromEntries(parts) } as JWK;
}

export function certificatesOf(keys: readonly NamedKey[]): KeyCertificate[] {
  return keys.flatMap(({ certificate, property }) =>
    certificate === undefined || property === undefined ? [] : [{ property, expiresAt: endOf(certificate) }],
  );
}

/** @throws {ServerError} ERR_KEY_UNUSABLE where one is missing, or there twice */
export function toSigningKeys({ cookieKeys, derivation, published, signing }: KeySet): SigningKeys {
  const main = signing.find(({ algorithm }) => algorithm === usualAlgorithm);
  if (main === undefined || cookieKeys.length === 0 || derivation === undefined) {
    throw new ServerError('ERR_KEY_UNUSABLE', 'there is no key for tokens, or none for cookies');
  }
  const names = signing.map(({ jwk }) => jwk.kid ?? '');
  if (new Set(names).size < names.length) {
    throw new ServerError('ERR_KEY_UNUSABLE', 'two signing keys are the same key', {
      hint: 'each algorithm of FurtherSigningKeys needs a key of its own',
    });
  }
  const { certificate } = main;
  const publicJwks = {
    keys: [...signing.map(toPublic), ...published.filter((other) => !names.includes(other.kid ?? ''))],
  };
  const algorithms = [...new Set(signing.map(({ algorithm }) => algorithm))];
  const verificationKeys = createLocalJWKSet({ keys: [...publicJwks.keys] });
  const imported = new Map<SigningAlgorithm, ReturnType<typeof importJWK>>();
  function importSigningKey({ algorithm, jwk }: NamedKey) {
    const key = imported.get(algorithm) ?? importJWK(jwk, algorithm);
    imported.set(algorithm, key);
    return key;
  }
  return {
    privateJwks: { keys: signing.map(({ algorithm, jwk: one }) => ({ ...one, use: 'sig', alg: algorithm })) },
    publicJwks,
    algorithms,
    certificateHeader: certificate === undefined ? {} : { x5t: thumbprintOf(certificate) },
    certificates: certificatesOf(signing),
    cookieKeys,
    async signJwt(claims, header, alg = usualAlgorithm) {
      const key = signing.find(({ algorithm }) => algorithm === alg);
      if (key === undefined)
        throw new ServerError('ERR_KEY_UNUSABLE', `there is no key that signs by ${alg}`);
      const { kid = '' } = key.jwk;
      return new SignJWT(claims)
        .setProtectedHeader({ alg, kid, ...header })
        .sign(await importSigningKey(key));
    },
    verifyJwt: (jwt, options) => jwtVerify(jwt, verificationKeys, { ...options, algorithms }),
    deriveKey: (purpose) => deriveKey(derivation, purpose),
  };
}

/** As {@link SigningKeys.deriveKey}, for who has no other use for the keys. */
export function deriveKey(derivation: string, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', derivation, '', `postern ${purpose}`, 32));
}

/** The first 128 bits of the key's thumbprint (RFC 7638): every token's header repeats it. */
async function nameKey(jwk: JWK): Promise<string> {
  return (await calculateJwkThumbprint(jwk)).slice(0, 22);
}

async function loadGenerated(folder: string, others: readonly NamedKey[]): Promise<KeySet> {
  const signing = await readOrMake(join(folder, 'signing-key.json'), async () => {
    const { privateKey } = await generateKeyPair('RS256', { extractable: true });
    const jwk = await exportJWK(privateKey);
    return { ...jwk, kid: await nameKey(jwk) };
  });
  const cookieKeys = (await readOrMake(join(folder, 'cookie-keys.json'), async () => [
    randomBytes(32).toString('base64url'),
  ])) as string[];
  return {
    signing: [{ algorithm: usualAlgorithm, jwk: signing as JWK }, ...others],
    published: [],
    cookieKeys,
    derivation: cookieKeys.at(-1),
  };
}

/** Reads a JSON file, or makes it where it is missing; of two processes that make it at once, one file stays. */
export async function readOrMake(file: string, make: () => Promise<unknown>): Promise<unknown> {
  const read = () => {
    try {
      return JSON.parse(readFileSync(file, 'utf8')) as unknown;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new ServerError('ERR_KEY_UNUSABLE', `the key file ${file} cannot be read`, {
        hint: 'remove it and a new key is made at the next start; what the old one signed is then invalid',
        cause,
      });
    }
  };
  const found = read();
  if (found !== undefined) return found;
  const made = await make();
  // Written whole under another name and then linked: a process killed here leaves no half a key behind.
  const draft = `${file}.${randomBytes(6).toString('hex')}`;
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  writeFileSync(draft, `${JSON.stringify(made)}\n`, { flag: 'wx', mode: 0o600 });
  try {
    linkSync(draft, file);
    return made;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'EEXIST') return read();
    throw err;
  } finally {
    unlinkSync(draft);
  }
}
