/**
 * Sessions that rest on a sign-in at an identity provider: what they keep of it, and how its end there ends them
 * here.
 */
import { randomBytes } from 'node:crypto';
import type { Context, Middleware } from 'koa';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { Provider as IdentityProvider } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { readForm } from '../http/form.ts';
import { requireMethod } from '../http/middleware.ts';
import type { UpstreamReference } from '../store/tokens.ts';

/** The sign-in elsewhere that a session of ours rests on. */
export interface UpstreamSession {
  /** The identity provider's name. */
  readonly provider: string;
  readonly issuer: string;
  readonly subject: string;
  /** The session there. */
  readonly sessionId?: string;
  /** Encrypted. */
  readonly idTokenHint?: string;
  /** When the user came from there, in seconds since the epoch. */
  readonly signedInAt: number;
}

/**
 * Finds the session in a frame of the identity provider's, where no Lax cookie goes. It says nothing by itself and
 * can do nothing but sign out. Browsers that keep third parties' cookies out keep it out, too.
 */
const signOutCookie = '__Host-postern.signout';

/** Lets the engine's session documents hold it. */
export function keepUpstreamSessions({ Session }: Provider): void {
  const { IN_PAYLOAD } = Session as unknown as { IN_PAYLOAD: readonly string[] };
  Object.defineProperty(Session, 'IN_PAYLOAD', { value: [...IN_PAYLOAD, 'upstream'] });
}

/** The sign-in elsewhere of a session; undefined where the user signed in here. */
export function upstreamOf(session: object | undefined): UpstreamSession | undefined {
  return (session as { upstream?: UpstreamSession } | undefined)?.upstream;
}

/** Takes it over from the interaction that has just signed the user in; a local sign-in takes it away. */
export async function noteUpstream(
  { registry, tokens }: Pick<ServerContext, 'registry' | 'tokens'>,
  ctx: KoaContextWithOIDC,
): Promise<void> {
  const { account, result, session } = ctx.oidc;
  if (result?.login === undefined || session === undefined) return;
  const { upstream } = result as { upstream?: UpstreamSession };
  const known = upstreamOf(session);
  // An interaction that goes on to consent comes by twice.
  const members = ['signedInAt', 'provider', 'issuer', 'subject'] as const;
  if (members.every((member) => known?.[member] === upstream?.[member])) return;
  Object.assign(session, { upstream });
  if (upstream === undefined || account === undefined) return;

  const { PublicUrl, SessionLifetime } = registry.configuration.server;
  const handle = randomBytes(32).toString('base64url');
  const { issuer, provider, sessionId, signedInAt, subject } = upstream;
  await tokens.saveUpstream(handle, {
    uid: session.uid,
    provider,
    issuer,
    subject,
    sessionId,
    accountId: account.accountId,
    expiresAt: signedInAt + SessionLifetime,
  });
  if (PublicUrl.startsWith('https:')) {
    ctx.cookies.set(signOutCookie, handle, {
      path: '/',
      httpOnly: true,
      secure: true,
      sameSite: 'none',
      signed: true,
      overwrite: true,
    });
  }
}

/** Ends a session of ours that still rests on this sign-in, with its grants, and tells its clients. */
export type EndSession = (reference: UpstreamReference) => Promise<void>;

/**
 * Makes the middleware for what identity providers tell us beside their answers:
 *
 *   GET  <callback>?wa=wsignoutcleanup1.0   WS-Federation, in a frame of theirs; at the root likewise
 *   GET  <callback>/logout?iss=…&sid=…      OpenID Connect Front-Channel Logout 1.0, likewise
 *   POST <callback>/logout                  OpenID Connect Back-Channel Logout 1.0, from their server
 */
export function createUpstreamSignOut(
  {
    accounts,
    audit,
    externalLogins,
    identityProviders,
    registry,
    tokens,
  }: Pick<
    ServerContext,
    'accounts' | 'audit' | 'externalLogins' | 'identityProviders' | 'registry' | 'tokens'
  >,
  endSession: EndSession,
): Middleware {
  return async function upstreamSignOut(ctx, next) {
    const path = ctx.path.toLowerCase();
    const providers = [...registry.configuration.providers.values()].filter(({ Enabled }) => Enabled);
    const isCleanup = ctx.method === 'GET' && /^wsignout(cleanup)?1\.0$/.test(String(ctx.query.wa ?? ''));
    if (path === '/' && isCleanup && providers.some(({ Type }) => Type === 'WsFed')) {
      await endInFrame(ctx, undefined);
      return;
    }
    const provider = providers.find(({ CallbackPath }) => {
      const callback = CallbackPath.toLowerCase();
      return path === callback || path === `${callback}/logout`;
    });
    if (provider === undefined) return next();
    const isAtLogout = path.endsWith('/logout') && path !== provider.CallbackPath.toLowerCase();
    if (provider.Type === 'WsFed' && isCleanup) await endInFrame(ctx, provider);
    else if (!isAtLogout || provider.Type !== 'Oidc') await next();
    else if (ctx.method === 'GET') await endInFrame(ctx, provider);
    else if (ctx.method === 'POST') await endByToken(ctx, provider);
    else requireMethod(ctx, ['GET', 'POST']);
  };

  /** At the root, where no provider is named, the one that the session rests on. */
  async function endInFrame(ctx: Context, called: IdentityProvider | undefined): Promise<void> {
    const handle = ctx.cookies.get(signOutCookie, { signed: true });
    const found = handle === undefined ? undefined : await tokens.findUpstreamByHandle(handle);
    const provider = called ?? registry.configuration.providers.get(found?.provider ?? '');
    const isTheirs = provider !== undefined && found?.provider === provider.Name;
    if (isTheirs && (provider.Type === 'WsFed' || namesSession(ctx, found))) await end(provider, [found]);
    ctx.set('Content-Security-Policy', "default-src 'none'");
    ctx.remove('X-Frame-Options');
    ctx.type = 'html';
    ctx.body = '<!doctype html><title>Signed out</title>';
  }

  async function endByToken(
    ctx: Context,
    provider: Extract<IdentityProvider, { Type: 'Oidc' }>,
  ): Promise<void> {
    const { logout_token: token = '' } = await readForm(ctx);
    const logout = await identityProviders.verifyLogoutToken(provider, token);
    if (!(await tokens.useOnce(`logout\n${logout.issuer}\n${logout.tokenId}`, logout.expiresAt))) {
      throw new ServerError('ERR_REQUEST_INVALID', 'this logout token was used before', { status: 400 });
    }
    const { issuer, sessionId, subject } = logout;
    const bySid = sessionId === undefined ? [] : await tokens.findUpstream({ issuer, sessionId });
    if (bySid.length > 0 || subject === undefined) await end(provider, bySid);
    else {
      const linked = await externalLogins.findLinked({ issuer, subject });
      const account = linked === undefined ? undefined : await accounts.find(linked);
      const all = account === undefined ? [] : await tokens.findUpstream({ accountId: account.accountId });
      const theirs = all.filter((one) => one.issuer === issuer && one.subject === subject);
      // A session that is named and unknown may be one whose sign-in did not name it; others go on.
      await end(
        provider,
        theirs.filter((one) => sessionId === undefined || one.sessionId === undefined),
      );
    }
    ctx.status = 200;
    ctx.body = '';
    ctx.remove('Content-Type');
  }

  async function end(provider: IdentityProvider, sessions: readonly UpstreamReference[]): Promise<void> {
    for (const session of sessions) await endSession(session);
    audit.record(
      ['sign-out', 'success'],
      { identityProvider: provider.Name, sessions: sessions.length },
      'signed out by the identity provider',
    );
  }
}

/** Whether a front-channel notice is about this session: `iss` and `sid` where we know the session's. */
function namesSession({ query: { iss, sid } }: Context, { issuer, sessionId }: UpstreamReference): boolean {
  if (sessionId !== undefined) return iss === issuer && sid === sessionId;
  return sid === undefined && (iss === undefined || iss === issuer);
}
