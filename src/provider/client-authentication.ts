/**
 * Who calls: a client, or a resource at introspection. Secrets are kept as hashes, several at once, each with
 * an end of its own, and are compared in constant time.
 */
import { hash as digest, timingSafeEqual } from 'node:crypto';
import type { Context } from 'koa';
import type { GuessBlock } from '../accounts/guessing.ts';
import type { Client, Configuration } from '../config/load.ts';
import { digestOf } from '../config/published-secrets.ts';
import type { ServerContext } from '../context.ts';
import { isDatabaseUnavailable } from '../errors.ts';
import type { RequestState } from '../http/middleware.ts';
import type { PlainForm } from '../http/plain.ts';

/** An id and a secret as the caller sent them. */
export interface Credentials {
  readonly id: string;
  readonly secret: string;
}

/** What is left in the request's state for the engine. */
export interface CallerState {
  /** A client whose secret has been verified already, in a spelling that the engine would not read. */
  verifiedClientId?: string;
  /** Why no secret of this request is looked at. */
  secretBlock?: GuessBlock;
  /** What this request has sent is no right secret. */
  hasGuessed?: boolean;
}

type GuardNeeds = Pick<ServerContext, 'guessing' | 'log' | 'metrics' | 'now' | 'registry'>;

type Secrets = Client['ClientSecrets'];

/**
 * Whether `presented` is one of the secrets that have not ended. `now` is in seconds. Pure.
 *
 * A secret that everybody knows is none, even where the registration has its hash: of a hash it cannot be told.
 */
export function verifySecret(
  { refusedSecrets }: Pick<Configuration, 'refusedSecrets'>,
  secrets: Secrets,
  presented: string,
  now: number,
): boolean {
  if (refusedSecrets.has(digestOf(presented))) return false;
  let matches = false;
  // Every secret is compared, whatever the others gave, so that the time tells nothing.
  for (const { hash, algorithm, expiresAt } of secrets) {
    const expected = Buffer.from(hash, 'base64');
    const actual = digest(algorithm, presented, 'buffer');
    const isEqual = expected.length === actual.length && timingSafeEqual(expected, actual);
    if (isEqual && (expiresAt === undefined || expiresAt > now)) matches = true;
  }
  return matches;
}

/** One way to read what a caller has sent, and what its secret may be; nothing where nobody is called so. */
export interface SecretReading extends Credentials {
  readonly secrets: Secrets;
}

/**
 * The reading whose secret is right, as {@link verifySecret}. None, too, while too many wrong ones come for that id or
 * from there, which the request's state then says. Wrong ones are counted; a right one costs no statement.
 */
export async function findRightSecret<Reading extends SecretReading>(
  ctx: Pick<Context, 'state'>,
  { guessing, log, metrics, now, registry }: GuardNeeds,
  readings: readonly Reading[],
): Promise<Reading | undefined> {
  const state = ctx.state as CallerState & RequestState;
  const guesses = new Map(
    readings.map(({ id }) => [id, guessing.begin('client', id, { address: state.clientAddress })]),
  );
  let block: GuessBlock | undefined;
  try {
    for (const guess of guesses.values()) block ??= await guess.findBlock();
    const right = readings.find(({ secret, secrets }) =>
      verifySecret(registry.configuration, secrets, secret, now()),
    );
    if (block === undefined && right !== undefined) return right;
    if (block === undefined) for (const guess of guesses.values()) block ??= await guess.fail();
  } catch (err) {
    if (!isDatabaseUnavailable(err)) throw err;
    // This node remembers it all the same. To refuse right ones would make every outage one of all clients.
    log.warn({ err }, 'wrong secret not counted for other nodes');
  }
  if (block !== undefined) state.secretBlock = block;
  state.hasGuessed = guesses.size > 0;
  metrics.countSecret(block === undefined ? 'refused' : 'blocked');
  return undefined;
}

/**
 * The same for a plain form, in the one way that its caller has tried. None, too, where anything speaks against it:
 * nothing is counted then, and the application decides.
 */
export async function findPlainCaller<Reading extends SecretReading>(
  { guessing, now, registry }: Pick<GuardNeeds, 'guessing' | 'now' | 'registry'>,
  { authorization, clientAddress: address, fields }: PlainForm,
  toReadings: (sent: Credentials) => readonly Reading[],
): Promise<Reading | undefined> {
  const [id, secret] = [fields.get('client_id'), fields.get('client_secret')];
  const isInHeader = authorization !== undefined;
  if (isInHeader ? secret !== null : !id || !secret) return undefined;
  const sent = isInHeader ? parseBasic(authorization) : [{ id: id ?? '', secret: secret ?? '' }];
  for (const one of sent) {
    if (one.secret === '' || (isInHeader && id !== null && id !== one.id)) return undefined;
    if ((await guessing.begin('client', one.id, { address }).findBlock()) !== undefined) return undefined;
  }
  return sent
    .flatMap(toReadings)
    .find((reading) => verifySecret(registry.configuration, reading.secrets, reading.secret, now()));
}

/** For the audit log: why no secret of this request was looked at; nothing where one was. */
export function blockFields({ state }: Pick<Context, 'state'>): { reason?: string; counter?: string } {
  const { secretBlock } = state as CallerState;
  return secretBlock === undefined ? {} : { reason: 'too-many-attempts', counter: secretBlock.counter };
}

/** Tells a program that no secret was looked at when to come again. */
export function setRetryAfter(ctx: Context): void {
  const { secretBlock } = ctx.state as CallerState;
  if (secretBlock !== undefined) ctx.set('Retry-After', String(secretBlock.seconds));
}

/**
 * The readings of an `Authorization: Basic` header: as RFC 6749 section 2.3.1 has it (form-encoded), and raw as
 * IdentityServer3 read it. Id and secret are always taken from the same reading. Empty where it is no Basic.
 */
export function parseBasic(authorization: string | undefined): readonly Credentials[] {
  const encoded = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return [];
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  if (colon < 1) return [];
  const raw = { id: text.slice(0, colon), secret: text.slice(colon + 1) };
  const decoded = { id: decodeForm(raw.id), secret: decodeForm(raw.secret) };
  if (decoded.id === undefined || decoded.secret === undefined) return [raw];
  if (decoded.id === raw.id && decoded.secret === raw.secret) return [raw];
  return [{ id: decoded.id, secret: decoded.secret }, raw];
}

/** Whether raw and form-encoded are the same for these, and everybody reads their Basic header alike. */
export function isUnambiguous({ id, secret }: Credentials): boolean {
  return /^[A-Za-z0-9._-]+$/.test(id) && /^[A-Za-z0-9._-]+$/.test(secret);
}

/** A Basic header that the engine reads strictly, for credentials that came raw. */
export function toBasic({ id, secret }: Credentials): string {
  const encode = (part: string) => new URLSearchParams([['', part]]).toString().slice(1);
  return `Basic ${Buffer.from(`${encode(id)}:${encode(secret)}`).toString('base64')}`;
}

function decodeForm(part: string): string | undefined {
  try {
    return decodeURIComponent(part.replaceAll('+', ' '));
  } catch {
    return undefined;
  }
}
