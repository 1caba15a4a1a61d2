/**
 * The keys of the provider: the one that signs tokens, those that sign cookies, and keys derived from them.
 *
 * In Development they are made at the first start and kept under `data/keys/`, readable by the owner alone.
 * Elsewhere the operator names them, the same on every node; nothing is made up.
 */
import { createHash, hkdfSync, randomBytes, type X509Certificate } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  calculateJwkThumbprint,
  exportJWK,
  generateKeyPair,
  importJWK,
  type JWK,
  type JWTPayload,
  SignJWT,
} from 'jose';
import { type SigningAlgorithm, usualAlgorithm } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import { endOf, type KeyFiles, readCertificateFile, readKeyPair } from './key-file.ts';

export interface SigningKeys {
  /** The private keys in the engine's form; the first of an algorithm signs. */
  readonly privateJwks: { readonly keys: readonly JWK[] };
  /** What the JWKS endpoint prints: with `x5t` and `x5c` where the key has a certificate. */
  readonly publicJwks: { readonly keys: readonly JWK[] };
  /** What tokens can be signed by. */
  readonly algorithms: readonly SigningAlgorithm[];
  /** Members that tokens of the IdentityServer layouts carry in their header beside `kid`, where RS256 signs them. */
  readonly certificateHeader: { readonly x5t?: string };
  /** The certificates of the keys that sign, by the property that names each; `expiresAt` in seconds since the epoch. */
  readonly certificates: readonly { readonly property: string; readonly expiresAt: number }[];
  /** The first signs cookies, all verify them. */
  readonly cookieKeys: readonly string[];
  /** Signs a JWT of ours with the key that signs tokens. */
  signJwt(claims: JWTPayload, header: { typ: string }): Promise<string>;
  /** 32 bytes for one purpose, the same on every node that has the same cookie keys. */
  deriveKey(purpose: string): Buffer;
}

/** Where the keys are; passphrases and cookie keys are resolved already. */
export type KeySource =
  | { readonly kind: 'generated'; readonly folder: string }
  | {
      readonly kind: 'files';
      /** Of the key that signs. */
      readonly files: KeyFiles;
      /** Certificates of keys that are published and do not sign. */
      readonly publishedFiles: readonly string[];
      readonly cookieKeys: readonly string[];
    };

/** A key beside the one that signs where nothing else is said. */
export interface FurtherKey extends KeyFiles {
  readonly algorithm: SigningAlgorithm;
}

/** A key with its name. */
interface NamedKey {
  readonly algorithm: SigningAlgorithm;
  /** What names it in `server.json`. */
  readonly property: string;
  /** Private, with `kid`. */
  readonly jwk: JWK;
  readonly certificate?: X509Certificate | undefined;
}

/**
 * Loads the keys, or makes them where the source says so.
 *
 * @throws {ServerError} ERR_KEY_UNUSABLE, with the file and the reason
 */
export async function loadKeys(source: KeySource, further: readonly FurtherKey[] = []): Promise<SigningKeys> {
  const others: NamedKey[] = [];
  for (const [index, key] of further.entries()) {
    others.push(await loadKey(key, `FurtherSigningKeys[${index}]`));
  }
  if (source.kind === 'generated') return loadGenerated(source.folder, others);

  const { cookieKeys, files, publishedFiles } = source;
  const main = await loadKey({ ...files, algorithm: usualAlgorithm }, 'OidcSigningCertificate');
  const published = await Promise.all(publishedFiles.map((file) => toPublished(readCertificateFile(file))));
  return assemble([main, ...others], cookieKeys, published);
}

async function loadKey({ algorithm, ...files }: FurtherKey, property: string): Promise<NamedKey> {
  const { key, certificate } = await readKeyPair(files, { algorithm, property });
  const jwk = await exportJWK(key);
  const kid = certificate === undefined ? await nameKey(jwk) : thumbprintOf(certificate);
  return { algorithm, property, jwk: { ...jwk, kid }, certificate };
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

function assemble(
  keys: readonly [NamedKey, ...NamedKey[]],
  cookieKeys: readonly string[],
  published: readonly JWK[] = [],
): SigningKeys {
  // The last: a key that is put in front in order to rotate must not change what nodes derive meanwhile.
  const lastCookieKey = cookieKeys.at(-1);
  if (lastCookieKey === undefined) throw new ServerError('ERR_KEY_UNUSABLE', 'there is no cookie key');
  const names = keys.map(({ jwk }) => jwk.kid ?? '');
  if (new Set(names).size < names.length) {
    throw new ServerError('ERR_KEY_UNUSABLE', 'two signing keys are the same key', {
      hint: 'each algorithm of FurtherSigningKeys needs a key of its own',
    });
  }
  const [{ certificate, jwk }] = keys;
  const kid = jwk.kid ?? '';
  const alg = usualAlgorithm;
  let signingKey: ReturnType<typeof importJWK> | undefined;
  return {
    privateJwks: { keys: keys.map(({ algorithm, jwk: one }) => ({ ...one, use: 'sig', alg: algorithm })) },
    publicJwks: {
      keys: [...keys.map(toPublic), ...published.filter((other) => !names.includes(other.kid ?? ''))],
    },
    algorithms: [...new Set(keys.map(({ algorithm }) => algorithm))],
    certificateHeader: certificate === undefined ? {} : { x5t: thumbprintOf(certificate) },
    certificates: keys.flatMap(({ certificate: one, property }) =>
      one === undefined ? [] : [{ property, expiresAt: endOf(one) }],
    ),
    cookieKeys,
    async signJwt(claims, { typ }) {
      signingKey ??= importJWK(jwk, alg);
      return new SignJWT(claims).setProtectedHeader({ alg, typ, kid }).sign(await signingKey);
    },
    deriveKey: (purpose) => Buffer.from(hkdfSync('sha256', lastCookieKey, '', `postern ${purpose}`, 32)),
  };
}

/** The first 128 bits of the key's thumbprint (RFC 7638): every token's header repeats it. */
async function nameKey(jwk: JWK): Promise<string> {
  return (await calculateJwkThumbprint(jwk)).slice(0, 22);
}

async function loadGenerated(folder: string, others: readonly NamedKey[]): Promise<SigningKeys> {
  const signing = await readOrMake(join(folder, 'signing-key.json'), async () => {
    const { privateKey } = await generateKeyPair('RS256', { extractable: true });
    const jwk = await exportJWK(privateKey);
    return { ...jwk, kid: await nameKey(jwk) };
  });
  const cookies = await readOrMake(join(folder, 'cookie-keys.json'), async () => [
    randomBytes(32).toString('base64url'),
  ]);
  return assemble(
    [{ algorithm: usualAlgorithm, property: 'OidcSigningCertificate', jwk: signing as JWK }, ...others],
    cookies as string[],
  );
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
