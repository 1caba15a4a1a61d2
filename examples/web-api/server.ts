/**
 * A protected API: it takes bearer tokens (RFC 6750) and asks Postern what each is worth (RFC 7662).
 *
 *   GET /whoami   who calls: user, client and scopes, as JSON
 *
 * Nothing in here is particular to Postern: any API does these two steps, in any language.
 */
import Koa, { type Middleware } from 'koa';

const issuer = process.env.ISSUER ?? 'http://localhost:5080/SPSSMR/Oidc';
const url = new URL(process.env.WEB_API_URL ?? 'http://localhost:5092');
/** The resource's name and secret: the file config/resources/intelligence_web_api.json. */
const resource = 'intelligence_web_api';
const secret = process.env.WEB_API_SECRET ?? 'web-api-secret';

/** What introspection says of a token that is good, and is meant for this API. */
interface Caller {
  client_id: string;
  /** The account; absent where a client calls for itself. */
  sub?: string;
  /** Separated by blanks, and only those that belong to this API. */
  scope: string;
}

/** Who calls with this token; undefined where it is unknown, expired, revoked, or meant for somebody else. */
async function introspect(token: string): Promise<Caller | undefined> {
  // Asked at every call, so that a revoked token ends at once. An API with many calls keeps the answer for a
  // few seconds; with tokens of type Jwt it may verify signature, `iss`, `aud`, `exp` and scope by itself instead.
  const response = await fetch(`${issuer}/connect/introspect`, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${resource}:${secret}`).toString('base64')}` },
    body: new URLSearchParams({ token }),
  });
  // Our own credentials are wrong, or Postern is ill: nothing the caller could do about it.
  if (!response.ok) throw new Error(`introspection answered ${response.status}`);
  const answer = (await response.json()) as Caller & { active: boolean };
  return answer.active ? answer : undefined;
}

/** Lets a request pass only with a good token, and leaves its caller in `ctx.state.caller`. */
const requireToken: Middleware = async (ctx, next) => {
  const token = /^bearer +([\w.~+/-]+=*)$/i.exec(ctx.get('authorization'))?.[1];
  const caller = token === undefined ? undefined : await introspect(token);
  if (caller === undefined) {
    ctx.status = 401;
    // RFC 6750 section 3.1: without a token there is no error to speak of, only the invitation to bring one.
    ctx.set('WWW-Authenticate', token === undefined ? 'Bearer' : 'Bearer error="invalid_token"');
    ctx.body = { error: token === undefined ? 'token_required' : 'invalid_token' };
    return;
  }
  ctx.state.caller = caller;
  await next();
};

const app = new Koa();
app.use(requireToken);
app.use((ctx) => {
  if (ctx.path !== '/whoami') return; // 404
  const { client_id: client, scope, sub: user = null } = ctx.state.caller as Caller;
  ctx.body = { user, client, scopes: scope.split(' ') };
});
app.listen(Number(url.port || 80), '127.0.0.1', () => console.log(`web-api  ${url.href}whoami`));
