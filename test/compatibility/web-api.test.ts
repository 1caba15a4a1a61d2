/**
 * The Web API's side: a stand-in for the middleware of IdentityServer3.AccessTokenValidation, which asks exactly
 * what that asks and believes exactly what that believes, put before the real server.
 */
import assert from 'node:assert/strict';
import { createPublicKey, verify, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort, startTestServer, type TestServer } from '../support/start-server.ts';

const scope = 'intelligence_web_api';
const secret = 'web-api-secret';
const types = ['Jwt', 'Reference'] as const;

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

/** One call as .NET Framework makes it: it names its host itself, and waits to be told to send the body. */
function call(
  url: string,
  {
    method = 'GET',
    headers = {},
    body = '',
  }: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(url, {
      method,
      headers: {
        ...(body === ''
          ? undefined
          : { 'Content-Length': Buffer.byteLength(body), Expect: '100-continue', Connection: 'Keep-Alive' }),
        ...headers,
      },
      agent: false,
    });
    sent.on('error', reject);
    sent.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
      );
    });
    if (body === '') sent.end();
    else sent.on('continue', () => sent.end(body));
  });
}

/** Id and secret as that middleware puts them together: base64 of the text as it is. */
const rawBasic = (id: string, presented: string) =>
  `Basic ${Buffer.from(`${id}:${presented}`, 'utf8').toString('base64')}`;

const introspect = (issuer: string, token: string, authorization: string) =>
  call(`${issuer}/connect/introspect`, {
    method: 'POST',
    headers: { Authorization: authorization, 'Content-Type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ token }).toString(),
  });

/** A user as the middleware hands one to the Web API. */
interface Principal {
  readonly claims: readonly (readonly [type: string, value: string])[];
  all(type: string): readonly string[];
}

/** The middleware with its default, both ways: what has a dot is validated here, anything else is asked about. */
function createMiddleware(authority: string, presented = secret) {
  let known: { issuer: string; keys: readonly Record<string, string>[] } | undefined;

  return async function authenticate(token: string): Promise<Principal | undefined> {
    return token.includes('.') ? validate(token) : ask(token);
  };

  async function discover() {
    const metadata = JSON.parse((await call(`${authority}/.well-known/openid-configuration`)).text) as {
      issuer: string;
      jwks_uri: string;
    };
    const { keys } = JSON.parse((await call(metadata.jwks_uri)).text) as { keys: Record<string, string>[] };
    return { issuer: metadata.issuer, keys };
  }

  async function validate(jwt: string): Promise<Principal | undefined> {
    known ??= await discover();
    const [head = '', body = '', signature = ''] = jwt.split('.');
    const header = JSON.parse(Buffer.from(head, 'base64url').toString()) as { alg: string; kid: string };
    const key = known.keys.find(({ kid, kty }) => kty === 'RSA' && kid === header.kid);
    if (key === undefined || header.alg !== 'RS256') return undefined;
    // Only these two members of the key are read.
    const publicKey = createPublicKey({ key: { kty: 'RSA', n: key.n ?? '', e: key.e ?? '' }, format: 'jwk' });
    if (!verify('sha256', Buffer.from(`${head}.${body}`), publicKey, Buffer.from(signature, 'base64url'))) {
      return undefined;
    }
    const claims = JSON.parse(Buffer.from(body, 'base64url').toString()) as Record<string, unknown>;
    const skewSeconds = 300;
    const now = Date.now() / 1000;
    const isGood =
      claims.iss === known.issuer &&
      claims.aud === `${known.issuer}/resources` &&
      Number(claims.exp) > now - skewSeconds &&
      Number(claims.nbf) < now + skewSeconds;
    return isGood ? toPrincipal(claims) : undefined;
  }

  async function ask(token: string): Promise<Principal | undefined> {
    const { status, text } = await introspect(authority, token, rawBasic(scope, presented));
    if (status !== 200) throw new Error(`introspection failed with ${status}`);
    const { active, ...claims } = JSON.parse(text) as Record<string, unknown>;
    return active === true ? toPrincipal(claims) : undefined;
  }
}

/** Every member becomes a claim, and every element of an array one of its own. */
function toPrincipal(members: Record<string, unknown>): Principal {
  const claims = Object.entries(members).flatMap(([type, value]) =>
    (Array.isArray(value) ? value : [value]).map((one) => [type, String(one)] as const),
  );
  return { claims, all: (type) => claims.filter(([name]) => name === type).map(([, value]) => value) };
}

const clientCredentials = ({ issuer }: TestServer, clientId: string) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials', scope },
    basic(clientId, `${clientId}-secret`),
  );

for (const AccessTokenType of types) {
  test(`the Web API validates a ${AccessTokenType} token of a signed-in user and knows who it is`, async (t) => {
    const server = await startTestServer(t, { clients: { mvc: { AccessTokenType } } });
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'ALICE' });
    const principal = await createMiddleware(server.issuer)(body.access_token);
    assert.ok(principal);
    // The account's own spelling, not the typed one.
    assert.deepEqual(principal.all('sub'), ['alice']);
    assert.deepEqual(principal.all('client_id'), ['mvc']);
    assert.deepEqual(principal.all('idp'), ['idsrv']);
    assert.deepEqual(principal.all('amr'), ['password']);
    assert.ok(principal.all('scope').includes(scope));
    assert.match(principal.all('auth_time').join(), /^\d+$/);
  });

  test(`the Web API reads a Windows name from a ${AccessTokenType} token as it is`, async (t) => {
    const server = await startTestServer(t, {
      clients: { desk: { AccessTokenType } },
      accounts: [{ Name: 'EXAMPLE\\dora', Password: 'Pass-word-1' }],
    });
    const { body } = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'password', username: 'example\\Dora', password: 'Pass-word-1', scope },
      basic('desk', 'desk-secret'),
    );
    const principal = await createMiddleware(server.issuer)(body.access_token);
    assert.deepEqual(principal?.all('sub'), ['EXAMPLE\\dora']);
  });
}

test('a reference token has no dot, so that the Web API asks, and a JWT has two, so that it does not', async (t) => {
  const server = await startTestServer(t);
  for (let round = 0; round < 20; round += 1) {
    const { body } = await clientCredentials(server, 'batch-ref');
    assert.match(body.access_token, /^[\w-]{32,128}$/);
  }
  const { body } = await clientCredentials(server, 'batch');
  assert.equal(body.access_token.split('.').length, 3);
});

for (const AccessTokenType of types) {
  test(`introspection of a ${AccessTokenType} token tells the Web API every claim, single ones as scalars`, async (t) => {
    const server = await startTestServer(t, { clients: { mvc: { AccessTokenType } } });
    const { body: tokens } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
    const answer = await introspect(server.issuer, tokens.access_token, rawBasic(scope, secret));
    assert.equal(answer.status, 200);
    assert.match(String(answer.headers['content-type']), /^application\/json/);
    const { auth_time: authTime, exp, nbf, ...rest } = JSON.parse(answer.text) as Record<string, unknown>;
    assert.deepEqual(rest, {
      active: true,
      iss: server.issuer,
      aud: `${server.issuer}/resources`,
      client_id: 'mvc',
      sub: 'alice',
      idp: 'idsrv',
      amr: 'password',
      // The caller's own scope, not the three that the token has.
      scope,
    });
    for (const time of [authTime, exp, nbf]) assert.ok(Number.isInteger(time));
    assert.equal(Number(exp) - Number(nbf), tokens.expires_in);
  });
}

test('the Web API may send id and secret in the body instead', async (t) => {
  const server = await startTestServer(t);
  const { body } = await clientCredentials(server, 'batch-ref');
  const fields = { token: body.access_token, client_id: scope };
  const good = await post(`${server.issuer}/connect/introspect`, { ...fields, client_secret: secret });
  assert.equal(good.body.active, true);
  const bad = await post(`${server.issuer}/connect/introspect`, { ...fields, client_secret: 'wrong' });
  assert.equal(bad.status, 401);
});

test('a wrong secret of the Web API is 401, and so is another resource’s or a client’s', async (t) => {
  const server = await startTestServer(t, {
    resources: { other: { Secrets: [{ Value: { plain: 'other-secret' } }] } },
  });
  const { body } = await clientCredentials(server, 'batch-ref');
  for (const presented of ['wrong', 'other-secret', 'batch-ref-secret', 'WEB-API-SECRET', '', `${secret} `]) {
    const answer = await introspect(server.issuer, body.access_token, rawBasic(scope, presented));
    assert.equal(answer.status, 401, presented);
    assert.ok(!answer.text.includes('active'), 'nothing about the token');
  }
});

const awkwardSecrets = ['100%sure', 'a+b c', 'p%2Bq', 'x:y:z', '&=?#/\\"', 'two words', '%', '+'];

for (const awkward of awkwardSecrets) {
  test(`the secret ${JSON.stringify(awkward)} is good raw and encoded, in Basic and in the body`, async (t) => {
    const server = await startTestServer(t, {
      resources: { [scope]: { Secrets: [{ Value: { plain: awkward } }] } },
      clients: { 'batch-ref': { ClientSecrets: [{ Value: { plain: awkward } }] } },
    });
    const encode = (text: string) => new URLSearchParams({ _: text }).toString().slice(2);
    for (const authorization of [
      rawBasic('batch-ref', awkward),
      rawBasic(encode('batch-ref'), encode(awkward)),
    ]) {
      const { body } = await post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        { authorization },
      );
      assert.ok(body.access_token, 'the client gets its token');
      assert.ok(await createMiddleware(server.issuer, awkward)(body.access_token));
      const encoded = await introspect(
        server.issuer,
        body.access_token,
        rawBasic(encode(scope), encode(awkward)),
      );
      assert.equal(JSON.parse(encoded.text).active, true);
      const inBody = await post(`${server.issuer}/connect/introspect`, {
        token: body.access_token,
        client_id: scope,
        client_secret: awkward,
      });
      assert.equal(inBody.body.active, true);
      const wrong = await introspect(server.issuer, body.access_token, rawBasic(scope, `${awkward}x`));
      assert.equal(wrong.status, 401);
    }
  });
}

test('a secret of the Web API may have letters beyond ASCII, as .NET encodes them in UTF-8', async (t) => {
  const foreign = 'grün-€';
  const server = await startTestServer(t, {
    resources: { [scope]: { Secrets: [{ Value: { plain: foreign } }] } },
  });
  const { body } = await clientCredentials(server, 'batch-ref');
  assert.ok(await createMiddleware(server.issuer, foreign)(body.access_token));
  const encoded = await introspect(
    server.issuer,
    body.access_token,
    rawBasic(scope, encodeURIComponent(foreign)),
  );
  assert.equal(JSON.parse(encoded.text).active, true);
});

test('one secret does not pass as another that only decodes to it twice', async (t) => {
  const server = await startTestServer(t, {
    resources: { [scope]: { Secrets: [{ Value: { plain: 'a+b' } }] } },
  });
  const { body } = await clientCredentials(server, 'batch-ref');
  const statusOf = async (presented: string) =>
    (await introspect(server.issuer, body.access_token, rawBasic(scope, presented))).status;
  assert.deepEqual(
    [await statusOf('a+b'), await statusOf('a%2Bb'), await statusOf('a%252Bb'), await statusOf('a b')],
    [200, 200, 401, 401],
  );
  // In the body there is one reading only.
  const inBody = await post(`${server.issuer}/connect/introspect`, {
    token: body.access_token,
    client_id: scope,
    client_secret: 'a%2Bb',
  });
  assert.equal(inBody.status, 401);
});

test('a token without the Web API’s scope is inactive to it, and so is what is no token', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { AccessTokenType: 'Reference' } } });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: 'openid profile' });
  for (const token of [body.access_token, '0123456789abcdef0123456789abcdef', 'x']) {
    const answer = await introspect(server.issuer, token, rawBasic(scope, secret));
    assert.deepEqual([answer.status, JSON.parse(answer.text)], [200, { active: false }]);
    assert.equal(await createMiddleware(server.issuer)(token), undefined);
  }
});

test('without a result cache a revoked reference token is refused at the next call', async (t) => {
  const server = await startTestServer(t);
  const authenticate = createMiddleware(server.issuer);
  const { body } = await clientCredentials(server, 'batch-ref');
  assert.ok(await authenticate(body.access_token));
  await post(
    `${server.issuer}/connect/revocation`,
    { token: body.access_token },
    basic('batch-ref', 'batch-ref-secret'),
  );
  assert.equal(await authenticate(body.access_token), undefined);
});

test('a JWT is what the validator expects: its claims, its header, and nothing that is not IdentityServer3’s', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const [head = '', claims = ''] = body.access_token.split('.');
  const header = JSON.parse(Buffer.from(head, 'base64url').toString()) as Record<string, unknown>;
  assert.deepEqual([header.typ, header.alg, typeof header.kid], ['JWT', 'RS256', 'string']);
  const payload = JSON.parse(Buffer.from(claims, 'base64url').toString()) as Record<string, unknown>;
  assert.deepEqual(Object.keys(payload).sort(), [
    ...['amr', 'aud', 'auth_time', 'client_id', 'exp', 'idp', 'iss', 'nbf', 'scope', 'sub'],
  ]);
  assert.deepEqual(payload.amr, ['password']);
  assert.deepEqual(payload.scope, ['openid', 'profile', scope]);

  const { body: narrow } = await clientCredentials(server, 'batch');
  const [, alone = ''] = narrow.access_token.split('.');
  assert.equal(JSON.parse(Buffer.from(alone, 'base64url').toString()).scope, scope, 'one scope is no array');
});

test('a JWT that was changed, or is for another audience, is refused by the Web API itself', async (t) => {
  const server = await startTestServer(t);
  const authenticate = createMiddleware(server.issuer);
  const { body } = await clientCredentials(server, 'batch');
  assert.ok(await authenticate(body.access_token));
  const [head, claims = '', signature] = body.access_token.split('.');
  const changed = JSON.parse(Buffer.from(claims, 'base64url').toString()) as Record<string, unknown>;
  const forged = Buffer.from(JSON.stringify({ ...changed, sub: 'alice' })).toString('base64url');
  assert.equal(await authenticate(`${head}.${forged}.${signature}`), undefined);

  const { body: other } = await signInAndRedeem({
    issuer: server.issuer,
    clientId: 'miClient',
    redirectUri: 'http://localhost:32284/',
    scope: 'openid mi',
  });
  assert.equal(await authenticate(other.access_token), undefined, 'its audience is mi');
});

test('with a certificate, kid and x5t of the header and of the published key are its thumbprint', async (t) => {
  const fixture = (name: string) => join(import.meta.dirname, '..', 'fixtures', name);
  const CertificateFile = fixture('signing-certificate.pem');
  const certificate = new X509Certificate(readFileSync(CertificateFile));
  const server = await startTestServer(t, {
    server: {
      OidcSigningCertificate: { CertificateFile, KeyFile: fixture('signing-key.pem') },
      CookieKeys: [{ plain: 'a cookie key of more than 32 characters' }],
    },
  });
  const { body } = await clientCredentials(server, 'batch');
  const header = JSON.parse(Buffer.from(body.access_token.split('.')[0] ?? '', 'base64url').toString());
  const thumbprint = Buffer.from(certificate.fingerprint.replaceAll(':', ''), 'hex').toString('base64url');
  assert.deepEqual([header.kid, header.x5t], [thumbprint, thumbprint]);

  const { text } = await call(`${server.issuer}/.well-known/jwks`);
  const [published] = (JSON.parse(text) as { keys: Record<string, unknown>[] }).keys;
  assert.deepEqual(
    {
      kty: published?.kty,
      use: published?.use,
      kid: published?.kid,
      x5t: published?.x5t,
      x5c: published?.x5c,
    },
    { kty: 'RSA', use: 'sig', kid: thumbprint, x5t: thumbprint, x5c: [certificate.raw.toString('base64')] },
  );
  assert.ok(await createMiddleware(server.issuer)(body.access_token));
});

test('discovery has the issuer without a slash, and only URLs of PublicUrl, whatever a proxy says', async (t) => {
  const port = await findFreePort();
  const PublicUrl = 'https://sso.localhost/SPSSMR/Oidc';
  const server = await startTestServer(t, {
    server: { PublicUrl, Listener: { Host: '127.0.0.1', Port: port } },
  });
  const path = `${server.url}/SPSSMR/Oidc/.well-known/openid-configuration`;
  const proxies: Record<string, Record<string, string>> = {
    none: {},
    'IIS with ARR': { Host: 'app01:5080', 'X-ARR-SSL': '2048|256|CN=x', 'X-Forwarded-For': '10.0.0.1:5000' },
    nginx: { Host: 'backend', 'X-Forwarded-Proto': 'http', 'X-Forwarded-Host': 'evil.example' },
  };
  for (const [name, headers] of Object.entries(proxies)) {
    const { status, text } = await call(path, { headers });
    assert.equal(status, 200, name);
    const document = JSON.parse(text) as Record<string, unknown>;
    assert.equal(document.issuer, PublicUrl);
    const urls = Object.entries(document).filter(([member]) => /(_endpoint|_uri)$/.test(member));
    assert.ok(urls.length >= 7);
    for (const [member, url] of urls)
      assert.ok(String(url).startsWith(`${PublicUrl}/`), `${name}: ${member}`);
  }
});

test('a GET of discovery with a form content type and no body is answered like any other', async (t) => {
  const { issuer } = await startTestServer(t);
  const { status, text } = await call(`${issuer}/.well-known/openid-configuration`, {
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
  });
  assert.deepEqual([status, JSON.parse(text).issuer], [200, issuer]);
});

for (const withPkce of [true, false]) {
  test(`a code client with a secret works ${withPkce ? 'with' : 'without'} PKCE, and the Web API takes its token`, async (t) => {
    const { issuer } = await startTestServer(t);
    const { status, body } = await signInAndRedeem({ issuer, ...mvc, withPkce });
    assert.equal(status, 200);
    assert.ok(await createMiddleware(issuer)(body.access_token));
  });
}

for (const hasSecret of [true, false]) {
  test(`a PKCE client works ${hasSecret ? 'with' : 'without'} a secret`, async (t) => {
    const { issuer } = await startTestServer(t, {
      clients: {
        miClient: hasSecret ? { ClientSecrets: [{ Value: { plain: 'mi-secret' } }] } : {},
      },
    });
    const client = {
      issuer,
      clientId: 'miClient',
      redirectUri: 'http://localhost:32284/',
      scope: 'openid mi',
    };
    const { status } = await signInAndRedeem({
      ...client,
      ...(hasSecret ? { secret: 'mi-secret' } : undefined),
    });
    assert.equal(status, 200);
    if (!hasSecret) return;
    const bare = await signInAndRedeem(client);
    assert.equal(bare.body.error, 'invalid_client', 'one that has a secret must show it');
  });
}

test('a desktop program goes straight to the token URL with name and password', async (t) => {
  const { issuer } = await startTestServer(t);
  const { status, body } = await post(
    `${issuer}/connect/token`,
    {
      grant_type: 'password',
      username: 'bob',
      password: 'Pass-word-1',
      scope: `openid ${scope} offline_access`,
    },
    basic('desk', 'desk-secret'),
  );
  assert.equal(status, 200);
  assert.deepEqual((await createMiddleware(issuer)(body.access_token))?.all('sub'), ['bob']);
  assert.ok(body.refresh_token);
});

for (const clientId of ['batch', 'batch-ref']) {
  test(`${clientId} goes straight to the token URL: no sub by itself, and its own name with ClientCredentialsSubject Account`, async (t) => {
    const subjects = [];
    for (const ClientCredentialsSubject of ['None', 'Account']) {
      const server = await startTestServer(t, {
        clients: { [clientId]: { ClientCredentialsSubject } },
        accounts: [{ Name: clientId }],
      });
      const { body } = await clientCredentials(server, clientId);
      const principal = await createMiddleware(server.issuer)(body.access_token);
      assert.deepEqual(principal?.all('client_id'), [clientId]);
      subjects.push(principal?.all('sub'));
    }
    assert.deepEqual(subjects, [[], [clientId]]);
  });
}

test('calls that reach the listener by http are answered and not redirected', async (t) => {
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: {
      PublicUrl: 'https://sso.localhost/SPSSMR/Oidc',
      Listener: { Host: '127.0.0.1', Port: port },
    },
  });
  const inside = `${server.url}/SPSSMR/Oidc`;
  const { status, body } = await post(
    `${inside}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  assert.equal(status, 200);
  const answer = await introspect(inside, body.access_token, rawBasic(scope, secret));
  assert.equal(JSON.parse(answer.text).iss, server.issuer);
});

test('a Web API without a ClientId asks connect/accesstokenvalidation, where that is switched on', async (t) => {
  const server = await startTestServer(t, { server: { EnableTokenValidationEndpoints: true } });
  // In lower case, as that middleware spells it, and without saying who asks.
  const ask = (token: string) =>
    call(`${server.issuer}/connect/accesstokenvalidation`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams({ token }).toString(),
    });
  const { body } = await clientCredentials(server, 'batch-ref');
  const good = await ask(body.access_token);
  assert.equal(good.status, 200);
  assert.deepEqual(toPrincipal(JSON.parse(good.text)).all('client_id'), ['batch-ref']);
  assert.equal((await ask('unknown')).status, 400);
});
