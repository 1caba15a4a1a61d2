/**
 * Managed keys at rest: rows of the table OidcKey. What a key is, is a JWE (RFC 7516) under the operator's secret,
 * so that a copy of the database signs nothing, and is bound to its row, so that whoever writes to the database puts
 * no other key in its place.
 */
import { createPrivateKey, hkdfSync, type KeyObject, X509Certificate } from 'node:crypto';
import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, errors } from 'jose';
import type { SigningAlgorithm } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import { type Database, type Row, toNumber } from '../store/database.ts';
import { isUniqueViolation } from '../store/failures.ts';

/** What a key is for: tokens, cookies, or deriving others from it. */
export type KeyPurpose = 'cookie' | 'derivation' | 'signing';

/** All but what it is. Times in seconds since the epoch. */
export interface StoredKey {
  /** `kid` of a signing key. Never begins with a hyphen. */
  readonly id: string;
  readonly purpose: KeyPurpose;
  /** Empty unless it signs tokens. */
  readonly algorithm: SigningAlgorithm | '';
  /** Numbers the keys of one purpose and algorithm. */
  readonly generation: number;
  /** Encrypted. */
  readonly payload: string;
  readonly createdAt: number;
  /** From then on it is in use, until the next one is. */
  readonly activeAt: number;
  /** From then on it is as if it had never been. */
  readonly revokedAt: number | undefined;
  /** For how long what it has signed may be good, in seconds. */
  readonly longestLifetime: number;
}

/** What a key is: one that signs, with a certificate where it needs one, or a secret. */
export type KeyMaterial =
  | { readonly key: KeyObject; readonly certificate?: X509Certificate | undefined }
  | { readonly secret: string };

export interface KeyStore {
  /** By purpose, algorithm and generation. One statement. */
  list(): Promise<StoredKey[]>;
  /** False where another key of that purpose, algorithm and generation is there. */
  insert(key: Omit<StoredKey, 'payload' | 'revokedAt'>, material: KeyMaterial): Promise<boolean>;
  /** @throws {ServerError} ERR_KEY_UNUSABLE */
  open(key: StoredKey): Promise<KeyMaterial>;
  /** Sets when a key comes into use. */
  schedule(id: string, activeAt: number): Promise<void>;
  /** Where it is less. */
  raiseLifetime(ids: readonly string[], seconds: number): Promise<void>;
  /** Not later than it is already. */
  revoke(id: string, at: number): Promise<void>;
  /** Counts those that were there. */
  remove(ids: readonly string[]): Promise<number>;
  /** Encrypts under the first secret what is under another; counts them. */
  protectAnew(): Promise<number>;
}

const table = 'OidcKey';

/** Makes it over a database that has been migrated. The first of `secrets` encrypts, all decrypt. */
export function createKeyStore({
  db: { knex },
  secrets,
}: {
  db: Pick<Database, 'knex'>;
  secrets: readonly string[];
}): KeyStore {
  const wrappingKeys = new Map(secrets.map((secret) => [nameSecret(secret), deriveWrappingKey(secret)]));
  const [[currentName, currentKey] = ['', Buffer.alloc(0)]] = wrappingKeys;

  function seal({ id, purpose }: Pick<StoredKey, 'id' | 'purpose'>, content: Uint8Array): Promise<string> {
    return new CompactEncrypt(content)
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM', kid: currentName, key: id, purpose })
      .encrypt(currentKey);
  }

  async function unseal({ id, payload, purpose }: StoredKey): Promise<Uint8Array> {
    try {
      const { kid = '', key, purpose: sealedFor } = decodeProtectedHeader(payload);
      if (key !== id || sealedFor !== purpose) throw new TypeError('it is another key');
      const wrappingKey = wrappingKeys.get(kid);
      if (wrappingKey === undefined)
        throw new TypeError('DataProtectionKey is not the secret that it is under');
      const { plaintext } = await compactDecrypt(payload, wrappingKey, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
      });
      return plaintext;
    } catch (cause) {
      if (!(cause instanceof TypeError || cause instanceof errors.JOSEError)) throw cause;
      throw new ServerError('ERR_KEY_UNUSABLE', `the managed key ${id} cannot be read: ${cause.message}`, {
        hint: 'DataProtectionKey must list the secret that keys were encrypted under, until "postern keys protect" has run with the next one in front; a key that is lost is given up by "postern keys revoke"',
        cause,
      });
    }
  }

  async function list(): Promise<StoredKey[]> {
    const rows = await knex<Row>(table).select().orderBy(['purpose', 'algorithm', 'generation']);
    return rows.map((row) => ({
      id: String(row.id),
      purpose: row.purpose as KeyPurpose,
      algorithm: row.algorithm as SigningAlgorithm | '',
      generation: Number(row.generation),
      payload: String(row.payload),
      createdAt: Number(row.createdAt),
      activeAt: Number(row.activeAt),
      revokedAt: toNumber(row.revokedAt) ?? undefined,
      longestLifetime: Number(row.longestLifetime),
    }));
  }

  return {
    list,

    async insert(key, material) {
      const payload = await seal(key, Buffer.from(JSON.stringify(toDocument(material))));
      try {
        await knex(table).insert({ ...key, payload, revokedAt: null });
        return true;
      } catch (err) {
        if (isUniqueViolation(err)) return false;
        throw err;
      }
    },

    async open(key) {
      return fromDocument(JSON.parse(Buffer.from(await unseal(key)).toString()));
    },

    async schedule(id, activeAt) {
      await knex(table).where({ id, revokedAt: null }).update({ activeAt });
    },

    async raiseLifetime(ids, seconds) {
      await knex(table)
        .whereIn('id', [...ids])
        .andWhere('longestLifetime', '<', seconds)
        .update({ longestLifetime: seconds });
    },

    async revoke(id, at) {
      await knex(table)
        .where({ id })
        .andWhere((later) => later.whereNull('revokedAt').orWhere('revokedAt', '>', at))
        .update({ revokedAt: at });
    },

    async remove(ids) {
      return knex(table)
        .whereIn('id', [...ids])
        .delete();
    },

    async protectAnew() {
      let count = 0;
      for (const key of await list()) {
        if (decodeProtectedHeader(key.payload).kid === currentName) continue;
        const payload = await seal(key, await unseal(key));
        count += await knex(table).where({ id: key.id, payload: key.payload }).update({ payload });
      }
      return count;
    },
  };
}

/** Tells secrets apart without telling them. */
function nameSecret(secret: string): string {
  return Buffer.from(hkdfSync('sha256', secret, '', 'postern data protection name', 6)).toString('base64url');
}

function deriveWrappingKey(secret: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, '', 'postern data protection', 32));
}

interface KeyDocument {
  readonly secret?: string;
  /** PEM. */
  readonly key?: string;
  /** Base64 DER. */
  readonly certificate?: string | undefined;
}

function toDocument(material: KeyMaterial): KeyDocument {
  if ('secret' in material) return material;
  return {
    key: material.key.export({ format: 'pem', type: 'pkcs8' }).toString(),
    certificate: material.certificate?.raw.toString('base64'),
  };
}

function fromDocument({ certificate, key, secret }: KeyDocument): KeyMaterial {
  if (secret !== undefined) return { secret };
  return {
    key: createPrivateKey(key ?? ''),
    ...(certificate === undefined
      ? undefined
      : { certificate: new X509Certificate(Buffer.from(certificate, 'base64')) }),
  };
}
