/**
 * A web application with a server of its own: the user signs in at Postern, the tokens stay here.
 *
 *   GET  /          who is signed in, and what can be done
 *   POST /login     to Postern, by authorization code with PKCE, state and nonce
 *   GET  /callback  back from there: the code is exchanged for tokens
 *   POST /call-api  calls examples/web-api with the access token
 *   POST /refresh   exchanges the refresh token for new tokens
 *   POST /logout    ends the session here and at Postern
 *
 * The browser holds nothing but a random session id in a cookie that scripts cannot read.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import Router from '@koa/router';
import Koa, { type Context } from 'koa';
import * as oidc from 'openid-client';
import { type PageOptions, page } from './page.ts';

const issuer = new URL(process.env.ISSUER ?? 'http://localhost:5080/SPSSMR/Oidc');
const url = new URL(process.env.MVC_URL ?? 'http://localhost:5090');
const apiUrl = new URL('/whoami', process.env.WEB_API_URL ?? 'http://localhost:5092');
/** Both as in the client's file, config/clients/mvc.json, to the last slash. */
const redirectUri = new URL('/callback', url);
const homeUri = new URL('/', url);

const client = await oidc.discovery(
  issuer,
  'mvc',
  process.env.MVC_SECRET ?? 'mvc-secret',
  undefined,
  // openid-client refuses http, rightly; this is for a server on the same machine.
  issuer.protocol === 'http:' ? { execute: [oidc.allowInsecureRequests] } : undefined,
);

interface Session {
  /** Milliseconds since the epoch. */
  expiresAt: number;
  /** Sign-ins on their way, by state: the user may have started one in each of two tabs. */
  attempts: Map<string, { codeVerifier: string; nonce: string }>;
  user?: SignedIn;
  /** What the next page says once. */
  note?: string;
}

interface SignedIn {
  claims: Record<string, unknown>;
  accessToken: string;
  /** Milliseconds since the epoch. */
  accessTokenEndsAt: number;
  refreshToken: string | undefined;
  idToken: string;
}

/** In memory, and gone with the process. With more than one process this is a database. */
const sessions = new Map<string, Session>();
const cookie = 'mvc.session';
const sessionMs = 8 * 60 * 60 * 1000;

function findSession(ctx: Context): Session | undefined {
  const session = sessions.get(ctx.cookies.get(cookie) ?? '');
  return session !== undefined && session.expiresAt > Date.now() ? session : undefined;
}

/** A session under a new id. One from before the sign-in must not go on: somebody else may know its id. */
function startSession(ctx: Context, user?: SignedIn): Session {
  for (const [id, { expiresAt }] of sessions) if (expiresAt <= Date.now()) sessions.delete(id);
  endSession(ctx);
  const id = randomBytes(32).toString('base64url');
  const session: Session = { expiresAt: Date.now() + sessionMs, attempts: new Map(), ...(user && { user }) };
  sessions.set(id, session);
  ctx.cookies.set(cookie, id, { httpOnly: true, sameSite: 'lax', secure: url.protocol === 'https:' });
  return session;
}

function endSession(ctx: Context): void {
  sessions.delete(ctx.cookies.get(cookie) ?? '');
  ctx.cookies.set(cookie, null);
}

const router = new Router();

router.get('/', (ctx) => {
  const session = findSession(ctx);
  show(ctx, session?.user === undefined ? {} : { user: session.user }, session?.note);
  if (session !== undefined) delete session.note;
});

router.post('/login', async (ctx) => {
  const session = findSession(ctx) ?? startSession(ctx);
  const state = oidc.randomState();
  const nonce = oidc.randomNonce();
  const codeVerifier = oidc.randomPKCECodeVerifier();
  session.attempts.set(state, { codeVerifier, nonce });
  const target = oidc.buildAuthorizationUrl(client, {
    redirect_uri: redirectUri.href,
    scope: 'openid profile email roles intelligence_web_api offline_access',
    state,
    nonce,
    code_challenge: await oidc.calculatePKCECodeChallenge(codeVerifier),
    code_challenge_method: 'S256',
  });
  redirect(ctx, target);
});

router.get('/callback', async (ctx) => {
  const state = String(ctx.query.state ?? '');
  const session = findSession(ctx);
  const attempt = session?.attempts.get(state);
  if (session === undefined || attempt === undefined) {
    // An old link, the Back button, or a sign-in that this browser never started.
    return show(ctx, { status: 400 }, 'This sign-in was not started here, or is over. Please sign in again.');
  }
  session.attempts.delete(state);
  try {
    const tokens = await oidc.authorizationCodeGrant(client, new URL(ctx.search, redirectUri), {
      expectedState: state,
      expectedNonce: attempt.nonce,
      pkceCodeVerifier: attempt.codeVerifier,
      idTokenExpected: true,
    });
    const idClaims = tokens.claims();
    if (idClaims === undefined || tokens.id_token === undefined) throw new Error('no ID token');
    // The ID token says who and how; name, e-mail and roles are at userinfo.
    const userinfo = await oidc.fetchUserInfo(client, tokens.access_token, idClaims.sub);
    const { amr, auth_time, idp } = idClaims;
    const claims = { ...userinfo, auth_time, amr, idp };
    startSession(ctx, { claims, idToken: tokens.id_token, ...toTokens(tokens) });
    redirect(ctx, homeUri);
  } catch (err) {
    if (!(err instanceof oidc.AuthorizationResponseError)) throw err;
    // Postern sent the user back without a code: cancelled, or something is not allowed.
    show(ctx, { status: 400 }, `You are not signed in: ${err.error_description ?? err.error}.`);
  }
});

router.post('/call-api', async (ctx) => {
  const session = findSession(ctx);
  if (session?.user === undefined) return redirect(ctx, homeUri);
  const response = await fetch(apiUrl, { headers: { authorization: `Bearer ${session.user.accessToken}` } });
  const answer = await response.text();
  session.note = `The API answered ${response.status}: ${answer}`;
  redirect(ctx, homeUri);
});

router.post('/refresh', async (ctx) => {
  const session = findSession(ctx);
  if (session?.user?.refreshToken === undefined) return redirect(ctx, homeUri);
  try {
    const tokens = await oidc.refreshTokenGrant(client, session.user.refreshToken);
    session.user = { ...session.user, ...toTokens(tokens, session.user.refreshToken) };
    session.note = 'New tokens have come. The refresh token before is used up.';
  } catch (err) {
    if (!(err instanceof oidc.ResponseBodyError)) throw err;
    // Revoked, expired, or the account is disabled: here, too, the user is signed out.
    delete session.user;
    session.note = `Please sign in again: ${err.error_description ?? err.error}.`;
  }
  redirect(ctx, homeUri);
});

router.post('/logout', (ctx) => {
  const idToken = findSession(ctx)?.user?.idToken;
  endSession(ctx);
  if (idToken === undefined) return redirect(ctx, homeUri);
  // The ID token proves who asks, so Postern does not ask the user again.
  redirect(
    ctx,
    oidc.buildEndSessionUrl(client, { id_token_hint: idToken, post_logout_redirect_uri: homeUri.href }),
  );
});

router.get('/style.css', (ctx) => {
  ctx.type = 'css';
  ctx.body = readFileSync(new URL('style.css', import.meta.url));
});

function toTokens(tokens: oidc.TokenEndpointResponse, oldRefreshToken?: string) {
  return {
    accessToken: tokens.access_token,
    accessTokenEndsAt: Date.now() + (tokens.expires_in ?? 0) * 1000,
    // An answer without one means: the old one stays.
    refreshToken: tokens.refresh_token ?? oldRefreshToken,
  };
}

function redirect(ctx: Context, target: URL): void {
  ctx.status = 303;
  ctx.redirect(target.href);
}

function show(
  ctx: Context,
  { status = 200, ...rest }: Partial<PageOptions> & { status?: number },
  note?: string,
) {
  ctx.status = status;
  ctx.type = 'html';
  ctx.body = page({ ...rest, note });
}

const app = new Koa();
app.use(async (ctx, next) => {
  ctx.set(
    'Content-Security-Policy',
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
  );
  ctx.set('Cache-Control', 'no-store');
  ctx.set('Referrer-Policy', 'same-origin');
  // SameSite=Lax keeps other sites' posts away from the session; this keeps those of other ports of this host away.
  const origin = ctx.get('origin');
  if (ctx.method === 'POST' && origin !== '' && origin !== url.origin) ctx.throw(403);
  await next();
});
app.use(router.routes());
app.listen(Number(url.port || 80), '127.0.0.1', () => console.log(`mvc      ${homeUri.href}`));
