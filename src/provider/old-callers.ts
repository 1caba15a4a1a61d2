/**
 * Ways of calling that the specifications allow or that clients in the field have, and that the engine does
 * not take: brought into the form that it reads, before it sees the request.
 */
import { decodeJwt } from 'jose';
import type { Context, Middleware } from 'koa';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { readForm, refuseLargeBody } from '../http/form.ts';
import { carriedAcrValues } from '../registry/identity-providers.ts';
import {
  type CallerState,
  type Credentials,
  findRightSecret,
  isUnambiguous,
  parseBasic,
  type SecretReading,
  setRetryAfter,
  toBasic,
} from './client-authentication.ts';
import { routes } from './provider.ts';

/** Longer queries are cut by browsers and proxies on the way. */
const maxQueryLength = 8000;

/** The engine's words for a client that did not say who it is in a way that can be read. */
const unusableCredentials = [
  'no client authentication mechanism provided',
  'invalid authorization header value format',
  'client_id and client_secret in the authorization header are not properly encoded',
  'client_secret must be provided in the Authorization header',
];

/** Where IdentityServer3 had another code, by the engine's reason (its TokenRequestValidator). */
const legacyErrors: readonly { reason: RegExp; error: string }[] = [
  { reason: /missing required parameter.*grant_type/, error: 'unsupported_grant_type' },
  { reason: /missing required parameter.*(username|password)/, error: 'invalid_grant' },
  { reason: /redirect_uri mismatch|missing required parameter.*redirect_uri/, error: 'unauthorized_client' },
  { reason: /referenced account not found/, error: 'invalid_request' },
];

interface OAuthAnswer {
  readonly error?: string;
  readonly error_description?: string;
}

/** Makes the middleware; it goes before the engine, under the mount. */
export function acceptOldCallers(
  needs: Pick<ServerContext, 'guessing' | 'log' | 'metrics' | 'now' | 'registry'>,
): Middleware {
  const { now, registry } = needs;

  return async function acceptOldCaller(ctx, next) {
    const path = ctx.path.toLowerCase();
    refuseLargeBody(ctx);

    // OpenID Connect Core section 3.1.2.1 and RP-Initiated Logout section 2 ask for POST too. A cross-site post
    // carries no Lax cookie; the redirect that follows it does.
    if (ctx.method === 'POST' && (path === routes.authorization || path === routes.end_session)) {
      const sent = new URLSearchParams(ctx.querystring);
      for (const [name, value] of Object.entries(await readForm(ctx))) sent.append(name, value);
      const query = sent.toString();
      if (query.length > maxQueryLength) {
        throw new ServerError('ERR_REQUEST_TOO_LARGE', 'the parameters are too long', { status: 413 });
      }
      ctx.status = 303;
      ctx.redirect(`${registry.configuration.server.PublicUrl}${path}?${query}`);
      return;
    }

    if (path === routes.authorization && ctx.method === 'GET') carryPastOpenId(ctx);
    if (path === routes.token) await verifyBasic(ctx);

    await next();
    if (path === routes.token) {
      await countUnknownClient(ctx);
      correctTokenError(ctx);
      setRetryAfter(ctx);
    }
    if (path === routes.userinfo) correctUserinfoError(ctx);
  };

  /**
   * IdentityServer3 read Basic as it stands (RFC 6749 section 2.3.1 says form-encoded), and in UTF-8. Credentials
   * that the engine would not read so, but that are right, reach it in a form that it does.
   */
  async function verifyBasic(ctx: Context): Promise<void> {
    const sent = parseBasic(ctx.get('authorization') || undefined);
    const right = await findRightSecret(ctx, needs, sent.map(toReading));
    if (right === undefined) return;
    (ctx.state as CallerState).verifiedClientId = right.id;
    if (!isUnambiguous(right)) {
      ctx.req.headers.authorization = toBasic({ id: right.id, secret: 'verified' });
    }
  }

  /** The engine compares no secret where it finds no client; whoever looks for one is counted all the same. */
  async function countUnknownClient(ctx: Context): Promise<void> {
    const { error } = (ctx.body ?? {}) as OAuthAnswer;
    const { hasGuessed } = ctx.state as CallerState;
    const { client_id: id, client_secret: secret } =
      (ctx as Context & { oidc?: { body?: Record<string, unknown> } }).oidc?.body ?? {};
    if (error !== 'invalid_client' || hasGuessed || typeof id !== 'string' || typeof secret !== 'string')
      return;
    await findRightSecret(ctx, needs, [{ id, secret, secrets: [] }]);
  }

  function toReading({ id, secret }: Credentials): SecretReading {
    return { id, secret, secrets: registry.findClient(id)?.ClientSecrets ?? [] };
  }

  /** Without `openid` there is no ID token for a nonce, and the engine takes no `acr_values`, which name the way in. */
  function carryPastOpenId(ctx: Context): void {
    const parameters = new URLSearchParams(ctx.querystring);
    if (parameters.getAll('scope').join(' ').split(' ').includes('openid')) return;
    const acrValues = parameters.getAll('acr_values');
    if (!parameters.has('nonce') && acrValues.length === 0) return;
    parameters.delete('nonce');
    parameters.delete('acr_values');
    for (const value of acrValues) parameters.append(carriedAcrValues, value);
    ctx.querystring = parameters.toString();
  }

  /** IdentityServer3 told a JWT that has expired from a token that is none. Either way it is good for nothing. */
  function correctUserinfoError(ctx: Context): void {
    const { error } = (ctx.body ?? {}) as OAuthAnswer;
    if (!registry.configuration.server.LegacyErrors || error !== 'invalid_token') return;
    const [, jwt = ''] = /^bearer +(\S+)$/i.exec(ctx.get('authorization')) ?? [];
    if (!hasExpired(jwt, now())) return;
    ctx.body = { error: 'expired_token', error_description: 'the access token has expired' };
    ctx.set('WWW-Authenticate', 'Bearer error="expired_token"');
  }

  /** Gives the engine's errors of the token endpoint the codes of RFC 6749 section 5.2, or IdentityServer3's. */
  function correctTokenError(ctx: Context): void {
    const { LegacyErrors, PublicUrl } = registry.configuration.server;
    const { error, error_description: description = '' } = (ctx.body ?? {}) as OAuthAnswer;
    if (description === 'requested grant type is not allowed for this client') {
      ctx.body = { error: 'unauthorized_client', error_description: description };
    } else if (error === 'invalid_request' && unusableCredentials.includes(description)) {
      ctx.status = 401;
      ctx.body = { error: 'invalid_client', error_description: description };
      if (ctx.get('authorization') !== '') ctx.set('WWW-Authenticate', `Basic realm="${PublicUrl}"`);
    }
    if (!LegacyErrors || ctx.status < 400 || ctx.status >= 500) return;
    // IdentityServer3 answered every error here with 400.
    ctx.status = 400;
    ctx.remove('WWW-Authenticate');
    const { protocolError = description } = ctx.state as { protocolError?: string };
    const legacy = legacyErrors.find(({ reason }) => reason.test(protocolError));
    if (legacy !== undefined) ctx.body = { error: legacy.error, error_description: description };
  }
}

/** Whether a token says of itself that it has expired; nothing of it is verified. */
function hasExpired(jwt: string, now: number): boolean {
  try {
    const { exp } = decodeJwt(jwt);
    return exp !== undefined && exp <= now;
  } catch {
    return false;
  }
}
