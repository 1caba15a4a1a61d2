/**
 * Hashes of passwords as other programs keep them, by which accounts are brought along: verified here, never made.
 *
 * | kind | looks like |
 * | --- | --- |
 * | ASP.NET Identity 2 (PBKDF2, HMAC-SHA-1, 1000 rounds) | base64 of 49 bytes, the first of which is 0 |
 * | ASP.NET Identity 3 and Core (PBKDF2; HMAC-SHA-1, -256, -512) | base64, the first byte of which is 1 |
 * | bcrypt | `$2a$10$…`, `$2b$…`, `$2y$…` |
 * | salted SHA of LDAP servers | `{SSHA}…`, `{SSHA256}…`, `{SSHA384}…`, `{SSHA512}…` |
 */
import { createHash, pbkdf2, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { takeTurns } from './turns.ts';

const deriveBytes = promisify(pbkdf2);

export interface ForeignHash {
  matches(password: string): Promise<boolean>;
}

/** More would be an attack on our time. */
const longestBcryptCost = 14;
const mostRounds = 2_000_000;

/** What `stored` is; undefined where it is of no kind that is known, or would take too long. */
export function parseForeignHash(stored: string): ForeignHash | undefined {
  const verify = parseBcrypt(stored) ?? parseSaltedSha(stored) ?? parseAspNet(stored);
  if (verify === undefined) return undefined;
  return {
    async matches(password) {
      if (await verify(password)) return true;
      // Other programs took a password as it was typed; ours come in one form of Unicode.
      const normalized = password.normalize('NFC');
      return normalized !== password && verify(normalized);
    },
  };
}

type Verify = (password: string) => Promise<boolean>;

function parseBcrypt(stored: string): Verify | undefined {
  const cost = /^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/.exec(stored)?.[1];
  if (cost === undefined || Number(cost) < 4 || Number(cost) > longestBcryptCost) return undefined;
  return (password) => bcrypts(() => compareInThread({ password, stored }));
}

const bcrypts = takeTurns(2);

/** It is JavaScript and takes up to seconds: in this thread nobody else would be served meanwhile. */
function compareInThread(workerData: { password: string; stored: string }): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./bcrypt-thread.ts', import.meta.url), { workerData });
    worker.once('message', resolve);
    worker.once('error', reject);
    // After the message it changes nothing.
    worker.once('exit', (code) => reject(new Error(`the thread of bcrypt ended with ${code}`)));
  });
}

const digests: ReadonlyMap<string, { algorithm: string; length: number }> = new Map([
  ['SSHA', { algorithm: 'sha1', length: 20 }],
  ['SSHA256', { algorithm: 'sha256', length: 32 }],
  ['SSHA384', { algorithm: 'sha384', length: 48 }],
  ['SSHA512', { algorithm: 'sha512', length: 64 }],
]);

function parseSaltedSha(stored: string): Verify | undefined {
  const [, scheme = '', text = ''] = /^\{(\w{1,10})\}([A-Za-z0-9+/]{20,180}={0,2})$/.exec(stored) ?? [];
  const digest = digests.get(scheme.toUpperCase());
  const bytes = Buffer.from(text, 'base64');
  if (digest === undefined || bytes.length < digest.length + 4 || bytes.length > digest.length + 64) {
    return undefined;
  }
  const [hash, salt] = [bytes.subarray(0, digest.length), bytes.subarray(digest.length)];
  return async (password) =>
    timingSafeEqual(createHash(digest.algorithm).update(password).update(salt).digest(), hash);
}

const aspNetFunctions = ['sha1', 'sha256', 'sha512'] as const;

/** PasswordHasher of ASP.NET Core Identity; numbers are of four bytes, the highest first. */
function parseAspNet(stored: string): Verify | undefined {
  if (!/^[A-Za-z0-9+/]{40,240}={0,2}$/.test(stored)) return undefined;
  const bytes = Buffer.from(stored, 'base64');
  if (bytes[0] === 0 && bytes.length === 49) {
    return verifyPbkdf2({
      digest: 'sha1',
      rounds: 1000,
      salt: bytes.subarray(1, 17),
      hash: bytes.subarray(17),
    });
  }
  if (bytes[0] !== 1 || bytes.length < 13) return undefined;
  const digest = aspNetFunctions[bytes.readUInt32BE(1)];
  const rounds = bytes.readUInt32BE(5);
  const saltEnd = 13 + bytes.readUInt32BE(9);
  const [salt, hash] = [bytes.subarray(13, saltEnd), bytes.subarray(saltEnd)];
  const isUsable = rounds >= 1 && rounds <= mostRounds && salt.length >= 16 && hash.length >= 16;
  return digest !== undefined && isUsable ? verifyPbkdf2({ digest, rounds, salt, hash }) : undefined;
}

function verifyPbkdf2({
  digest,
  hash,
  rounds,
  salt,
}: {
  digest: string;
  hash: Buffer;
  rounds: number;
  salt: Buffer;
}): Verify {
  return async (password) =>
    timingSafeEqual(await deriveBytes(password, salt, rounds, hash.length, digest), hash);
}
