/**
 * Passwords: which are acceptable, how they are kept, and how one is verified.
 *
 * A hash is argon2id (RFC 9106) by Node's own crypto, kept as a PHC string
 * (`$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`), so that its parameters can be raised later: old hashes say
 * themselves how they were made. A password is put into Unicode NFC first, as RFC 8265 section 4.2 has it, so
 * that one typed on a Mac matches the same one typed on Windows; NFKC would make different passwords equal.
 */
import { type Argon2Parameters, argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { ServerError } from '../errors.ts';

const deriveBytes = promisify(argon2);

const minimumCharacters = 8;
const maximumCharacters = 256;
const maximumBytes = 1024;

/** What OWASP's password storage cheat sheet asks for at least; `memory` in KiB. */
const cost = { memory: 19_456, passes: 2, parallelism: 1 };
const saltBytes = 16;
const hashBytes = 32;

/** More than this in a stored hash is a mistake or an attack on our memory, and is never computed. */
const limits = {
  memory: 262_144,
  passes: 16,
  parallelism: 16,
  saltBytes: [8, 64],
  hashBytes: [16, 64],
} as const;

interface PasswordHash {
  memory: number;
  passes: number;
  parallelism: number;
  salt: Buffer;
  hash: Buffer;
}

/**
 * Hashes a new password into a PHC string.
 *
 * @throws {ServerError} ERR_PASSWORD_UNACCEPTABLE, status 400: fewer than 8 or more than 256 characters, more
 * than 1024 bytes, or a control character in it
 */
export async function hashPassword(password: string): Promise<string> {
  refuseUnacceptable(password);
  const salt = randomBytes(saltBytes);
  const hash = await derive(password, { ...cost, salt, length: hashBytes });
  return format({ ...cost, salt, hash });
}

/**
 * Whether `password` is the one that `stored` was made from.
 *
 * Without a stored hash it takes the time that a hash of today takes, and is false: whoever measures the answer
 * learns nothing about the name. False, too, for a stored text that is no argon2id PHC string, or one whose
 * parameters are beyond reason.
 */
export async function verifyPassword(stored: string | undefined, password: string): Promise<boolean> {
  // Nobody can have set such a password, whatever the account: the short way round tells nothing about it.
  if (!isWithinLimits(password)) return false;
  const { salt, hash, ...parameters } = (stored === undefined ? undefined : parse(stored)) ?? decoy;
  return timingSafeEqual(await derive(password, { ...parameters, salt, length: hash.length }), hash);
}

/** A hash of the usual cost that was made from no password. */
const decoy: PasswordHash = { ...cost, salt: randomBytes(saltBytes), hash: randomBytes(hashBytes) };

async function derive(
  password: string,
  { length, salt, ...parameters }: Omit<PasswordHash, 'hash'> & { length: number },
): Promise<Buffer> {
  const options: Argon2Parameters = {
    ...parameters,
    message: Buffer.from(password.normalize('NFC')),
    nonce: salt,
    tagLength: length,
  };
  return deriveBytes('argon2id', options);
}

/** What a person is told of a new password that is not taken; `limit` is in characters. */
export interface PasswordProblem {
  readonly kind:
    | 'blocked'
    | 'control'
    | 'different'
    | 'long'
    | 'missing'
    | 'policy'
    | 'same'
    | 'short'
    | 'unavailable'
    | 'wrong';
  readonly limit?: number;
}

/** What is wrong with a new password by itself. Pure. */
export function findPasswordProblem(password: string): PasswordProblem | undefined {
  if (!isWithinLimits(password)) return { kind: 'long', limit: maximumCharacters };
  if (/\p{Cc}/u.test(password)) return { kind: 'control' };
  if ([...password.normalize('NFC')].length < minimumCharacters) {
    return { kind: 'short', limit: minimumCharacters };
  }
  return undefined;
}

function refuseUnacceptable(password: string): void {
  const problem = findPasswordProblem(password)?.kind;
  if (problem === undefined) return;
  const messages: Readonly<Record<string, string>> = {
    long: `the password is longer than ${maximumCharacters} characters or ${maximumBytes} bytes`,
    control: 'the password holds a control character',
    short: `the password is shorter than ${minimumCharacters} characters`,
  };
  throw new ServerError('ERR_PASSWORD_UNACCEPTABLE', messages[problem] ?? problem, {
    status: 400,
    hint: `a password has ${minimumCharacters} to ${maximumCharacters} characters of any kind`,
  });
}

function isWithinLimits(password: string): boolean {
  // No accepted password has more code units before it is normalised: NFC folds at most a few into one.
  if (password.length > 4 * maximumCharacters || !password.isWellFormed()) return false;
  const normalized = password.normalize('NFC');
  return [...normalized].length <= maximumCharacters && Buffer.byteLength(normalized) <= maximumBytes;
}

function format({ memory, passes, parallelism, salt, hash }: PasswordHash): string {
  const encode = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '');
  return `$argon2id$v=19$m=${memory},t=${passes},p=${parallelism}$${encode(salt)}$${encode(hash)}`;
}

const phcString =
  /^\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$([A-Za-z0-9+/]{1,100})\$([A-Za-z0-9+/]{1,100})$/;

function parse(stored: string): PasswordHash | undefined {
  const [, memory, passes, parallelism, salt = '', hash = ''] = phcString.exec(stored) ?? [];
  const parsed = {
    memory: Number(memory),
    passes: Number(passes),
    parallelism: Number(parallelism),
    salt: Buffer.from(salt, 'base64'),
    hash: Buffer.from(hash, 'base64'),
  };
  const isWithin = (value: number, [least, most]: readonly [number, number]) =>
    value >= least && value <= most;
  const isUsable =
    isWithin(parsed.parallelism, [1, limits.parallelism]) &&
    isWithin(parsed.passes, [1, limits.passes]) &&
    // RFC 9106 section 3.1: at least 8 KiB for each lane.
    isWithin(parsed.memory, [8 * parsed.parallelism, limits.memory]) &&
    isWithin(parsed.salt.length, limits.saltBytes) &&
    isWithin(parsed.hash.length, limits.hashBytes);
  return isUsable ? parsed : undefined;
}
