/**
 * Signing out at `connect/endsession` (OpenID Connect RP-Initiated Logout 1.0), and the engine's error page.
 *
 * Who comes with an ID token of the signed-in user is signed out at once; anybody else is asked, so that no
 * other site can sign a user out. All of it works without scripts.
 */
import { decodeJwt, type JWTPayload } from 'jose';
import type { Context as KoaContext, Middleware } from 'koa';
import { type ErrorOut, errors, type KoaContextWithOIDC, type Provider } from 'oidc-provider';
import type { ServerContext } from '../context.ts';
import { isDatabaseUnavailable } from '../errors.ts';
import { textsFor, toUiLocales, uiLocalesOf, withUiLocales } from '../http/language.ts';
import { errorPage, interactionExpiredPage } from '../pages/notices.ts';
import { signedOutPage, signOutPage, staySignedInPage } from '../pages/sign-out.ts';
import { describeClient } from '../registry/client-metadata.ts';
import type { EndedSession, Farewells } from './farewell.ts';
import { endSessionGrants } from './grants.ts';

type Context = Pick<ServerContext, 'brand' | 'log' | 'registry' | 'tokens'>;

interface SignOutState {
  readonly secret?: string;
  readonly clientId?: string;
  readonly postLogoutRedirectUri?: string;
  readonly state?: string;
}

/** The two views of the engine's sign-out. */
export function signOutViews({ brand, registry }: Pick<Context, 'brand' | 'registry'>) {
  return {
    async logoutSource(ctx: KoaContextWithOIDC): Promise<void> {
      const { oidc } = ctx;
      const { secret, clientId } = (oidc.session?.state ?? {}) as SignOutState;
      const texts = textsFor(ctx, { registry });
      const { pathname } = new URL(oidc.urlFor('end_session'));
      const uiLocales = uiLocalesOf(ctx);
      ctx.body = signOutPage({
        brand,
        texts,
        formHtml: { action: withUiLocales(`${pathname}/confirm`, uiLocales), xsrf: secret ?? '' },
        stayUrl: withUiLocales(
          `${pathname}/stay?${new URLSearchParams({ client_id: clientId ?? '' })}`,
          uiLocales,
        ),
        clientName: describeClient(registry.findClient(clientId ?? ''), texts).clientName,
        userName: oidc.session?.accountId,
      });
    },

    async postLogoutSuccessSource(ctx: KoaContextWithOIDC): Promise<void> {
      const texts = textsFor(ctx, { registry });
      const client = registry.findClient(ctx.oidc.client?.clientId ?? '');
      ctx.type = 'html';
      ctx.body = signedOutPage({ brand, texts, ...describeClient(client, texts) });
    },
  };
}

/**
 * Completes what the engine's sign-out leaves: skips its question where the caller has proved to be the user's
 * client, skips its pages with a script where there is nothing to ask, and ends the grants of the session.
 */
export function completeSignOut(
  engine: Provider,
  { log, registry, tokens }: Pick<Context, 'log' | 'registry' | 'tokens'>,
  farewells: Farewells,
): void {
  engine.use(async (koaContext, next) => {
    await next();
    const ctx = koaContext as unknown as KoaContextWithOIDC;
    const { oidc } = ctx as Partial<KoaContextWithOIDC>;
    const session = oidc?.session;
    if (oidc === undefined || session === undefined) return;
    const state = (session.state ?? {}) as SignOutState;

    if (oidc.route === 'end_session' && ctx.status === 200) {
      const isProved = oidc.entities.IdTokenHint?.payload.sub === session.accountId;
      const mustAsk = registry.findClient(state.clientId ?? '')?.RequireSignOutPrompt === true;
      if (session.accountId !== undefined && (!isProved || mustAsk)) return;
      await endSession(ctx);
      engine.emit('end_session.success', ctx);
      const { clientId, postLogoutRedirectUri } = state;
      const target = new URL(
        postLogoutRedirectUri ?? withUiLocales(oidc.urlFor('end_session_success'), uiLocalesOf(ctx)),
      );
      if (postLogoutRedirectUri === undefined && clientId !== undefined) {
        target.searchParams.set('client_id', clientId);
      }
      if (postLogoutRedirectUri !== undefined && state.state !== undefined) {
        target.searchParams.set('state', state.state);
      }
      redirect(ctx, await farewells.startFor(session as EndedSession, target.href, uiLocalesOf(ctx)));
    } else if (oidc.route === 'end_session_confirm' && (session as { destroyed?: boolean }).destroyed) {
      await endSessionGrants({ tokens }, session.authorizations);
      log.debug({ accountId: session.accountId }, 'grants of the session ended');
      const home = oidc.urlFor('end_session_success');
      // Judged when the question was asked; the client may have lost the address since.
      const uri = state.postLogoutRedirectUri;
      const isLost = uri !== undefined && oidc.client?.postLogoutRedirectUriAllowed(uri) !== true;
      const location = isLost ? home : ctx.response.get('Location');
      const isOurs = location.startsWith(home);
      const target = isOurs ? withUiLocales(location, uiLocalesOf(ctx)) : location;
      redirect(ctx, await farewells.startFor(session as EndedSession, target, uiLocalesOf(ctx)));
    } else if (oidc.route === 'resume' && state.postLogoutRedirectUri?.endsWith(ctx.path)) {
      // Somebody else has signed in within the session: the first user is signed out, and the engine goes on.
      await endSession(ctx);
      redirect(ctx, state.postLogoutRedirectUri);
    }
  });

  async function endSession(ctx: KoaContextWithOIDC): Promise<void> {
    const { session } = ctx.oidc;
    const authorizations = session?.authorizations;
    await session?.destroy();
    await endSessionGrants({ tokens }, authorizations);
    if (session !== undefined) farewells.tellClients(engine, session as EndedSession);
    ctx.cookies.set(engine.cookieName('session'), null, { path: '/', overwrite: true });
  }

  function redirect(ctx: KoaContextWithOIDC, url: string): void {
    ctx.status = 303;
    ctx.redirect(url);
    ctx.body = '';
  }
}

/**
 * Ends a sign-in whose account was changed while it was under way: what ended the account's sessions a moment
 * earlier did not see this one. Asked when everything has been written.
 */
export function endOvertakenSignIns(
  engine: Provider,
  { accounts, audit, tokens }: Pick<ServerContext, 'accounts' | 'audit' | 'tokens'>,
): void {
  engine.use(async (koaContext, next) => {
    await next();
    const { oidc } = koaContext as unknown as Partial<KoaContextWithOIDC>;
    const { login, stamp } = (oidc?.result ?? {}) as { login?: { accountId: string }; stamp?: string };
    if (oidc?.route !== 'resume' || login === undefined || stamp === undefined) return;
    if (await accounts.isUnchanged(login.accountId, stamp)) return;
    await tokens.revokeAccount(login.accountId);
    audit.record(
      ['sign-in', 'refused'],
      { accountId: login.accountId, reason: 'account-changed' },
      'sign-in ended: the account was changed meanwhile',
    );
  });
}

/**
 * Leaves out of a sign-out what the engine would refuse it for: a hint that is none of ours, a client that is not
 * there, an address that is not registered. A user who wants to sign out is not sent away for what an application
 * wrote wrong; IdentityServer3 passed it over too.
 */
export function forgiveSignOut({
  log,
  registry,
  verifyIdTokenHint,
}: Pick<Context, 'log' | 'registry'> & {
  verifyIdTokenHint: (jwt: string, clientId: string) => Promise<JWTPayload | undefined>;
}): Middleware {
  return async function forgive(ctx, next) {
    if (ctx.method !== 'GET' || ctx.path.toLowerCase() !== '/connect/endsession') return next();
    const parameters = new URLSearchParams(ctx.querystring);
    const drop = (name: string) => {
      parameters.delete(name);
      log.info({ parameter: name }, 'parameter of a sign-out passed over');
    };
    const hint = parameters.get('id_token_hint');
    const audience = hint === null ? undefined : audienceOf(hint);
    const known = registry.findClient(audience ?? parameters.get('client_id') ?? '');
    if (
      hint !== null &&
      (known === undefined || (await verifyIdTokenHint(hint, known.ClientId)) === undefined)
    ) {
      drop('id_token_hint');
    }
    const named = parameters.get('client_id');
    if (named !== null && (registry.findClient(named) === undefined || (audience ?? named) !== named)) {
      drop('client_id');
    }
    const target = parameters.get('post_logout_redirect_uri');
    if (target !== null && known !== undefined) {
      const uris: readonly string[] = known.PostLogoutRedirectUris;
      const registered = uris.find((uri) => uri.toLowerCase() === target.toLowerCase());
      // The port of a program on the user's machine is its own affair; the engine knows.
      const isLeftToEngine = known.ApplicationType === 'Native' && /^http:/i.test(target);
      if (registered !== undefined) parameters.set('post_logout_redirect_uri', registered);
      else if (!isLeftToEngine) drop('post_logout_redirect_uri');
    }
    ctx.querystring = parameters.toString();
    await next();
  };
}

/** For whom a token says that it is, before anything of it has been verified. */
function audienceOf(jwt: string): string | undefined {
  try {
    const { aud } = decodeJwt(jwt);
    return typeof aud === 'string' ? aud : undefined;
  } catch {
    return undefined;
  }
}

/** Makes the answer to the question of sign-out when it was no: nothing has happened. */
export function createStayPage({ brand, registry }: Pick<Context, 'brand' | 'registry'>) {
  return function showStay(ctx: KoaContext): void {
    const texts = textsFor(ctx, { registry });
    const client = registry.findClient(String(ctx.query.client_id ?? ''));
    ctx.type = 'html';
    ctx.body = staySignedInPage({ brand, texts, ...describeClient(client, texts) });
  };
}

/** The page for what the engine refuses: its words, a code, the request's id, and a way back where it is known. */
export async function renderProviderError(
  { brand, registry, tokens }: Context,
  ctx: KoaContextWithOIDC,
  out: ErrorOut,
  err: Error,
): Promise<void> {
  if (ctx.oidc.route === 'token' || ctx.oidc.route === 'userinfo') {
    // For programs, whatever their Accept says (RFC 6749 section 5.2): Java's default asks for HTML.
    ctx.body = out;
    return;
  }
  ctx.type = 'html';
  const requestId = (ctx.state as { requestId?: string }).requestId;
  if (err instanceof errors.SessionNotFound && ctx.oidc.route === 'resume') {
    const uid = ctx.path.slice(ctx.path.lastIndexOf('/') + 1);
    const interaction = await tokens.find('Interaction', uid);
    const client = registry.findClient(interaction?.clientId ?? '');
    const { params } = JSON.parse(interaction?.payload ?? '{}') as { params?: { ui_locales?: unknown } };
    const texts = textsFor(ctx, { registry }, toUiLocales(params?.ui_locales));
    ctx.body = interactionExpiredPage({ brand, texts, ...describeClient(client, texts) });
    return;
  }
  ctx.body = errorPage({
    brand,
    texts: textsFor(ctx, { registry }, toUiLocales(ctx.oidc.params?.ui_locales) || uiLocalesOf(ctx)),
    code: isDatabaseUnavailable(err) ? 'ERR_DATABASE_UNAVAILABLE' : out.error,
    // The engine's words are for whoever integrates the client.
    reason: out.error === 'server_error' ? undefined : out.error_description,
    requestId,
  });
}
