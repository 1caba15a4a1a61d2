/**
 * Passwords: which are acceptable, how they are kept, and how one is verified.
 *
 * A hash is argon2id (RFC 9106) by Node's own crypto, kept as a PHC string
 * (`$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`), so that its parameters can be raised later: old hashes say
 * themselves how they were made. Those of other programs, by which accounts were brought along, are verified as well
 * (foreign-hashes.ts); all that is not as new ones are is made anew at a sign-in.
 *
 * A password is put into Unicode NFC first, as RFC 8265 section 4.2 has it, so that one typed on a Mac matches the
 * same one typed on Windows; NFKC would make different passwords equal.
 */
import { type Argon2Parameters, argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import type { Server } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import { parseForeignHash } from './foreign-hashes.ts';

const deriveBytes = promisify(argon2);

/** Below it nothing is accepted, whatever the configuration says. */
const minimumCharacters = 8;
const maximumCharacters = 256;
const maximumBytes = 1024;

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

/** What is asked of a new password, and how its hash is made. */
export type PasswordSettings = Server['Passwords'];

/** Those that the schema has as defaults; the memory is what OWASP's password storage cheat sheet asks for at least. */
const usualSettings: PasswordSettings = {
  MinimumLength: minimumCharacters,
  RefuseCommon: true,
  ContextWords: [],
  History: 0,
  Argon2: { Memory: 19_456, Passes: 2, Parallelism: 1 },
};

export interface Passwords {
  readonly settings: PasswordSettings;

  /**
   * Refuses a new password that is too short, too common, or little more than a word that everybody would try.
   *
   * @param words what is known of whose it is, such as the account's name
   * @throws {ServerError} ERR_PASSWORD_UNACCEPTABLE, status 400
   */
  check(password: string, words: readonly string[]): void;

  /**
   * Hashes a password into a PHC string, whatever {@link check} says of it.
   *
   * @throws {ServerError} ERR_PASSWORD_UNACCEPTABLE, status 400: fewer than 8 or more than 256 characters, more
   * than 1024 bytes, or a control character in it
   */
  hash(password: string): Promise<string>;

  /**
   * Whether `password` is the one that `stored` was made from.
   *
   * Without a stored hash it takes the time that a hash of today takes, and is false: whoever measures the answer
   * learns nothing about the name. False, too, for a stored text that is no hash that is known, or one whose
   * parameters are beyond reason. A hash of another program takes its own time and that of one of today.
   */
  verify(stored: string | undefined, password: string): Promise<boolean>;

  /** Whether a hash that has been verified is not as a new one would be. */
  isOutdated(stored: string): boolean;
}

/** Makes them; without settings as the schema has them. */
export function createPasswords(settings: PasswordSettings = usualSettings): Passwords {
  const { Argon2, ContextWords, MinimumLength, RefuseCommon } = settings;
  const cost = { memory: Argon2.Memory, passes: Argon2.Passes, parallelism: Argon2.Parallelism };
  /** A hash of the usual cost that was made from no password. */
  const decoy: PasswordHash = { ...cost, salt: randomBytes(saltBytes), hash: randomBytes(hashBytes) };

  async function matches({ hash, salt, ...parameters }: PasswordHash, password: string): Promise<boolean> {
    return timingSafeEqual(await derive(password, { ...parameters, salt, length: hash.length }), hash);
  }

  return {
    settings,

    check(password, words) {
      const flaw = findFlaw(password, MinimumLength);
      if (flaw !== undefined) throw unacceptable(flaw);
      if (RefuseCommon && commonPasswords().has(password.normalize('NFC').toLowerCase())) {
        throw unacceptable({ kind: 'common' });
      }
      if (isLittleMoreThan([...words, ...ContextWords], password)) throw unacceptable({ kind: 'context' });
    },

    async hash(password) {
      const flaw = findFlaw(password, minimumCharacters);
      if (flaw !== undefined) throw unacceptable(flaw);
      const salt = randomBytes(saltBytes);
      const hash = await derive(password, { ...cost, salt, length: hashBytes });
      return format({ ...cost, salt, hash });
    },

    async verify(stored, password) {
      // Nobody can have set such a password, whatever the account: the short way round tells nothing about it.
      if (!isWithinLimits(password)) return false;
      const own = stored === undefined ? undefined : parse(stored);
      if (own !== undefined) return matches(own, password);
      const isForeignMatch =
        stored !== undefined && (await parseForeignHash(stored)?.matches(password)) === true;
      await matches(decoy, password);
      return isForeignMatch;
    },

    isOutdated(stored) {
      const own = parse(stored);
      if (own === undefined) return true;
      const isAsNew =
        own.memory === cost.memory && own.passes === cost.passes && own.parallelism === cost.parallelism;
      return !isAsNew || own.hash.length !== hashBytes;
    },
  };
}

/** The settings, with the name that stands over every page among the words that everybody would try. */
export function withBrand({
  Branding,
  Passwords: settings,
}: Pick<Server, 'Branding' | 'Passwords'>): PasswordSettings {
  return { ...settings, ContextWords: [...settings.ContextWords, Branding.Name] };
}

/** Whether a text is a hash that {@link Passwords.verify} can verify. */
export function isUsableHash(stored: string): boolean {
  return parse(stored) !== undefined || parseForeignHash(stored) !== undefined;
}

let common: ReadonlySet<string> | undefined;

/** Read when the first password is set. */
function commonPasswords(): ReadonlySet<string> {
  if (common === undefined) {
    const file = readFileSync(new URL('./common-passwords.txt.gz', import.meta.url));
    const lines = gunzipSync(file).toString('utf8').split('\n');
    common = new Set(lines.filter((line) => !line.startsWith('# ')));
  }
  return common;
}

/** Shorter words are in too many passwords by chance. */
const shortestWord = 4;

/** Whether less than half of what must be there remains when the words are taken out. */
function isLittleMoreThan(words: readonly string[], password: string): boolean {
  const fold = (text: string) => text.normalize('NFKC').toLowerCase();
  const parts = words
    .flatMap((word) => [fold(word), ...fold(word).split(/[^\p{L}\p{N}]+/u)])
    .filter((part) => part.length >= shortestWord)
    .sort((a, b) => b.length - a.length);
  let rest = fold(password);
  for (const part of parts) rest = rest.replaceAll(part, '');
  return rest.length < fold(password).length && [...rest].length < minimumCharacters / 2 + 1;
}

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
    | 'common'
    | 'context'
    | 'control'
    | 'different'
    | 'long'
    | 'missing'
    | 'policy'
    | 'same'
    | 'short'
    | 'unavailable'
    | 'used'
    | 'wrong';
  readonly limit?: number;
}

/** What is wrong with a password by itself. */
function findFlaw(password: string, minimum: number): PasswordProblem | undefined {
  if (!isWithinLimits(password)) return { kind: 'long', limit: maximumCharacters };
  if (/\p{Cc}/u.test(password)) return { kind: 'control' };
  return [...password.normalize('NFC')].length < minimum ? { kind: 'short', limit: minimum } : undefined;
}

/** The problem is the error's cause, for who has to say it in another language. */
export function unacceptable({ kind, limit }: PasswordProblem): ServerError {
  const messages: Readonly<Record<string, string>> = {
    long: `the password is longer than ${maximumCharacters} characters or ${maximumBytes} bytes`,
    control: 'the password holds a control character',
    short: `the password is shorter than ${limit} characters`,
    common: 'the password is one of the commonest, which are tried first',
    context: 'the password is little more than the name of the account or of this service',
    used: 'the password has been used before',
  };
  return new ServerError('ERR_PASSWORD_UNACCEPTABLE', messages[kind] ?? kind, {
    status: 400,
    hint: 'Passwords in server.json says which may be chosen',
    cause: { kind, limit } satisfies { kind: string; limit: number | undefined },
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
