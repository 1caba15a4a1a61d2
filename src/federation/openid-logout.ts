/** Logout tokens: an OpenID provider says, server to server, that a user is to be signed out. OpenID Connect Back-Channel Logout 1.0. */
import { invalidAnswer } from './openid-failures.ts';
import {
  defaultClockToleranceSeconds,
  type KnownProvider,
  type OidcProviderSettings,
  verifySigned,
} from './openid-metadata.ts';

/** A logout token that is older is refused, so that what was used need not be remembered for longer. */
const logoutTokenSeconds = 600;
const logoutEvent = 'http://schemas.openid.net/event/backchannel-logout';

/** Who is to be signed out: all sessions of a subject, or one session; one of them is there. */
export interface LogoutNotice {
  readonly issuer: string;
  readonly subject?: string;
  readonly sessionId?: string;
  readonly tokenId: string;
  /** Seconds since the epoch. */
  readonly expiresAt: number;
}

/**
 * Verifies a logout token: type, signature, issuer, audience, age, expiry, identifier, the event, no nonce, and
 * a subject or a session.
 *
 * @param options.now seconds since the epoch
 * @throws {ServerError} ERR_IDENTITY_PROVIDER_ANSWER_INVALID, and what jose throws
 */
export async function readLogoutToken(
  provider: Pick<OidcProviderSettings, 'ClientId' | 'ClockToleranceSeconds' | 'Name'>,
  known: KnownProvider,
  { logoutToken, now }: { logoutToken: string; now: number },
): Promise<LogoutNotice> {
  const tolerance = provider.ClockToleranceSeconds ?? defaultClockToleranceSeconds;
  const { payload, protectedHeader } = await verifySigned(known, logoutToken, {
    audience: provider.ClientId,
    clockTolerance: tolerance,
    maxTokenAge: logoutTokenSeconds,
    requiredClaims: ['iat', 'exp', 'jti', 'events'],
    currentDate: new Date(now * 1000),
  });
  // The type is recommended, not required: many products say JWT, or nothing. Another one is another kind of token.
  const type = String(protectedHeader.typ ?? 'JWT')
    .toLowerCase()
    .replace(/^application\//, '');
  if (type !== 'logout+jwt' && type !== 'jwt')
    throw invalidAnswer(provider, 'it is no logout token by its type');
  const { sub, sid, jti, iat = 0, exp = 0, events } = payload;
  const event = isObject(events) ? events[logoutEvent] : undefined;
  if (!isObject(event)) throw invalidAnswer(provider, 'it is no logout token: it lacks the event');
  // An ID token has it, and none may pass for the other.
  if (payload.nonce !== undefined) throw invalidAnswer(provider, 'it is no logout token: it has a nonce');
  const [subject, sessionId] = [sub, sid].map((value) => (isText(value) ? value : undefined));
  if (subject === undefined && sessionId === undefined) {
    throw invalidAnswer(provider, 'the logout token names neither a subject nor a session');
  }
  if (!isText(jti)) throw invalidAnswer(provider, 'the logout token has no identifier');
  return {
    issuer: String(payload.iss),
    ...(subject !== undefined && { subject }),
    ...(sessionId !== undefined && { sessionId }),
    tokenId: jti,
    expiresAt: Math.min(exp, iat + logoutTokenSeconds) + tolerance,
  };
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
