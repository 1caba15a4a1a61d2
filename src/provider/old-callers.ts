/**
 * Ways of calling that the specifications allow or that clients in the field have, and that the engine does
 * not take: brought into the form that it reads, before it sees the request.
 */
import type { Context, Middleware } from 'koa';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { readForm } from '../http/form.ts';
import { parseBasic, toBasic, verifySecret } from './client-authentication.ts';
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

interface OAuthAnswer {
  readonly error?: string;
  readonly error_description?: string;
}

/** Makes the middleware; it goes before the engine, under the mount. */
export function acceptOldCallers({ now, registry }: Pick<ServerContext, 'now' | 'registry'>): Middleware {
  return async function acceptOldCaller(ctx, next) {
    const path = ctx.path.toLowerCase();

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

    // IdentityServer3 read Basic without decoding it (RFC 6749 section 2.3.1 says form-encoded): a raw secret
    // with % or + in it is encoded for the engine, but only when as it stands it is the right one.
    if (path === routes.token) {
      const raw = parseBasic(ctx.get('authorization') || undefined).at(-1);
      const client = raw && registry.findClient(raw.id);
      if (raw !== undefined && client !== undefined && /[%+]/.test(raw.secret + raw.id)) {
        if (verifySecret(client.ClientSecrets, raw.secret, now()))
          ctx.req.headers.authorization = toBasic(raw);
      }
    }

    await next();
    if (path === routes.token) correctTokenError(ctx);
  };

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
    if (LegacyErrors && ctx.status === 401) {
      // IdentityServer3 answered every error here with 400.
      ctx.status = 400;
      ctx.remove('WWW-Authenticate');
    }
  }
}
