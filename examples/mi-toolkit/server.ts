/**
 * A stand-in for an MI server: it invites to sign in as the Python client reads it, and takes Postern's tokens.
 *
 *   GET /   who calls, as JSON; without a good token 401, with what a client must know to get one
 *
 * It asks Postern for its keys alone and verifies each token by itself, as such servers do: a token that was
 * revoked is good here until it expires. What a real MI server verifies beyond this is not public.
 */
import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify } from 'jose';
import Koa from 'koa';

const issuer = process.env.ISSUER ?? 'http://localhost:5080/SPSSMR/Oidc';
const url = new URL(process.env.MI_URL ?? 'http://localhost:5094');
const clientId = process.env.MI_CLIENT ?? 'miClient';
/** Audience and scope of our tokens: the file config/resources/mi.json. */
const audience = 'mi';

/**
 * The invitation. The client's parser knows names of letters and digits and values in double quotes, nothing else;
 * its older versions append to `authority` without a slash of their own.
 */
const invitation = `Bearer ${Object.entries({
  redirecturi: 'http://localhost:32284/',
  authority: `${issuer}/`,
  clientid: clientId,
  scope: 'openid profile mi offline_access',
})
  .map(([name, value]) => `${name}="${value}"`)
  .join(', ')}`;

interface Caller extends JWTPayload {
  client_id: string;
  /** An array in this layout of tokens, however many there are. */
  scope: string[];
}

const getKey = createRemoteJWKSet(new URL(await findKeys()));

/** Where the keys are, as the discovery document says. */
async function findKeys(): Promise<string> {
  const response = await fetch(`${issuer}/.well-known/openid-configuration`);
  if (!response.ok) throw new Error(`discovery answered ${response.status}`);
  return ((await response.json()) as { jwks_uri: string }).jwks_uri;
}

/** Who calls with this token; undefined unless it is Postern's, for us, and good. */
async function verify(token: string): Promise<Caller | undefined> {
  try {
    const { payload } = await jwtVerify<Caller>(token, getKey, {
      issuer,
      audience,
      algorithms: ['RS256'],
      typ: 'at+jwt',
    });
    return payload.scope.includes(audience) ? payload : undefined;
  } catch (err) {
    if (!(err instanceof errors.JOSEError)) throw err;
    console.log(`mi-toolkit  token refused: ${err.message}`);
    return undefined;
  }
}

const app = new Koa();
app.use(async (ctx) => {
  if (ctx.path !== '/') return; // 404
  const token = /^bearer +([\w.~+/-]+=*)$/i.exec(ctx.get('authorization'))?.[1];
  const caller = token === undefined ? undefined : await verify(token);
  if (caller === undefined) {
    ctx.status = 401;
    ctx.set('WWW-Authenticate', invitation);
    ctx.body = { error: token === undefined ? 'token_required' : 'invalid_token' };
    return;
  }
  ctx.body = { user: caller.sub, client: caller.client_id, scopes: caller.scope, until: caller.exp };
});
app.listen(Number(url.port || 80), '127.0.0.1', () => console.log(`mi-toolkit  ${url.href}`));
