import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const webApi = basic('intelligence_web_api', 'web-api-secret');
const offline = 'openid profile intelligence_web_api offline_access';

const introspect = ({ issuer }: TestServer, token: string, caller: Record<string, string> = webApi) =>
  post(`${issuer}/connect/introspect`, { token }, caller);
const revoke = ({ issuer }: TestServer, token: string, more: Record<string, string> = {}) =>
  post(`${issuer}/connect/revocation`, { token, ...more }, basic('mvc', 'mvc-secret'));
const userinfo = ({ issuer }: TestServer, token: string) =>
  fetch(`${issuer}/connect/userinfo`, { headers: { authorization: `Bearer ${token}` } });

async function tokensOf(t: TestContext, AccessTokenType: string, members: Record<string, unknown> = {}) {
  const server = await startTestServer(t, { clients: { mvc: { AccessTokenType, ...members } } });
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: offline, browser });
  return { server, browser, tokens: body };
}

for (const type of ['Jwt', 'Reference']) {
  test(`the Web API validates a ${type} token and reads its user in IdentityServer3's shape`, async (t) => {
    const { server, tokens } = await tokensOf(t, type);
    const { status, body } = await introspect(server, tokens.access_token);
    assert.equal(status, 200);
    const { exp, nbf, auth_time: authTime, ...rest } = body as Record<string, unknown>;
    assert.deepEqual(rest, {
      iss: server.issuer,
      aud: `${server.issuer}/resources`,
      client_id: 'mvc',
      sub: 'alice',
      idp: 'idsrv',
      amr: 'password',
      scope: 'intelligence_web_api',
      active: true,
    });
    assert.equal(Number(exp) - Number(nbf), 3600);
    assert.equal(typeof authTime, 'number');
  });

  test(`a ${type} token is good at userinfo too, and there says who the user is`, async (t) => {
    const { server, tokens } = await tokensOf(t, type);
    const response = await userinfo(server, tokens.access_token);
    assert.equal(response.status, 200);
    const claims = (await response.json()) as Record<string, unknown>;
    assert.equal(claims.sub, 'alice');
    assert.equal(claims.preferred_username, 'alice');
    assert.equal(claims.email, undefined, 'email was not asked for');
  });

  test(`a revoked ${type} token is dead at introspection and userinfo at once, and its refresh token lives`, async (t) => {
    const { server, tokens } = await tokensOf(t, type);
    assert.equal((await revoke(server, tokens.access_token)).status, 200);
    assert.deepEqual((await introspect(server, tokens.access_token)).body, { active: false });
    assert.equal((await userinfo(server, tokens.access_token)).status, 401);
    const refreshed = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: tokens.refresh_token },
      basic('mvc', 'mvc-secret'),
    );
    assert.equal(refreshed.status, 200);
    assert.equal((await introspect(server, refreshed.body.access_token)).body.active, true);
  });

  test(`revoking the refresh token ends the ${type} tokens of its grant`, async (t) => {
    const { server, tokens } = await tokensOf(t, type);
    assert.equal((await revoke(server, tokens.refresh_token)).status, 200);
    assert.deepEqual((await introspect(server, tokens.access_token)).body, { active: false });
    assert.equal((await userinfo(server, tokens.access_token)).status, 401);
  });

  test(`a ${type} token of a disabled client is inactive while it is disabled`, async (t) => {
    const { server, tokens } = await tokensOf(t, type);
    server.write('clients/mvc.json', { Enabled: false });
    await server.reload();
    assert.deepEqual((await introspect(server, tokens.access_token)).body, { active: false });
    server.write('clients/mvc.json', { Enabled: true });
    await server.reload();
    assert.equal((await introspect(server, tokens.access_token)).body.active, true);
  });

  test(`an expired ${type} token is inactive`, async (t) => {
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
    const server = await startTestServer(t, {
      now: () => Math.floor(Date.now() / 1000),
      clients: { mvc: { AccessTokenType: type } },
    });
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
    t.mock.timers.setTime(Date.now() + 3600_000);
    assert.deepEqual((await introspect(server, body.access_token)).body, { active: false });
  });

  test(`signing out ends the ${type} token of a session, and not the refresh token of offline access`, async (t) => {
    const server = await startTestServer(t, { clients: { mvc: { AccessTokenType: type } } });
    const browser = createBrowser();
    const bound = await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
    const free = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: offline, browser });
    const page = await browser.open(
      `${server.issuer}/connect/endsession?id_token_hint=${bound.body.id_token}`,
    );
    assert.match(page.body, /signed out/i);

    assert.deepEqual((await introspect(server, bound.body.access_token)).body, { active: false });
    assert.equal((await introspect(server, free.body.access_token)).body.active, true);
  });
}

test('a caller is a resource or a client with its secret, in Basic or in the body; anybody else gets 401', async (t) => {
  const { server, tokens } = await tokensOf(t, 'Reference');
  const inBody = await post(`${server.issuer}/connect/introspect`, {
    token: tokens.access_token,
    client_id: 'intelligence_web_api',
    client_secret: 'web-api-secret',
  });
  assert.equal(inBody.body.active, true);
  for (const caller of [
    basic('intelligence_web_api', 'wrong'),
    basic('nobody', 'web-api-secret'),
    basic('mvc', 'web-api-secret'),
    basic('intelligence_web_api', ''),
    {},
    { authorization: 'Bearer x' },
    { authorization: 'Basic %%%' },
  ]) {
    const answer = await introspect(server, tokens.access_token, caller);
    assert.equal(answer.status, 401, JSON.stringify(caller));
    assert.equal(answer.body.error, 'invalid_client');
    assert.ok(answer.headers.get('www-authenticate'));
  }
});

test('a resource learns nothing of a token that lacks its scope', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: 'openid profile' });
  assert.deepEqual((await introspect(server, body.access_token)).body, { active: false });
});

test('a client introspects its own tokens as RFC 7662 says, and no other’s', async (t) => {
  const { server, tokens } = await tokensOf(t, 'Reference');
  const own = await introspect(server, tokens.access_token, basic('mvc', 'mvc-secret'));
  assert.equal(own.body.active, true);
  assert.equal(own.body.scope, offline);
  assert.equal(own.body.token_type, 'Bearer');
  const refresh = await introspect(server, tokens.refresh_token, basic('mvc', 'mvc-secret'));
  assert.equal(refresh.body.active, true);
  const foreign = await introspect(server, tokens.access_token, basic('desk', 'desk-secret'));
  assert.deepEqual(foreign.body, { active: false });
  assert.deepEqual((await introspect(server, tokens.refresh_token)).body, { active: false });
});

test('what is no access token of ours is inactive: unknown, forged, tampered, an ID token', async (t) => {
  const { server, tokens } = await tokensOf(t, 'Jwt');
  const [head = '', body = ''] = tokens.access_token.split('.');
  for (const token of [
    'unknown',
    'a.b.c',
    '...',
    `${head}.${body}.`,
    `${head}.${body}.AAAA`,
    tokens.id_token,
    `${Buffer.from('{"alg":"none"}').toString('base64url')}.${body}.`,
    'x'.repeat(20_000),
  ]) {
    const answer = await introspect(server, token);
    assert.deepEqual([answer.status, answer.body], [200, { active: false }], token.slice(0, 60));
    assert.equal((await userinfo(server, token.slice(0, 8000))).status, 401);
  }
});

test('a missing token parameter is invalid_request', async (t) => {
  const server = await startTestServer(t);
  const introspection = await post(`${server.issuer}/connect/introspect`, {}, webApi);
  assert.deepEqual([introspection.status, introspection.body.error], [400, 'invalid_request']);
  const revocation = await post(`${server.issuer}/connect/revocation`, {}, basic('mvc', 'mvc-secret'));
  assert.deepEqual([revocation.status, revocation.body.error], [400, 'invalid_request']);
});

test('revoking an unknown or a foreign token is answered like any other and ends nothing', async (t) => {
  const { server, tokens } = await tokensOf(t, 'Reference');
  assert.equal((await revoke(server, 'unknown')).status, 200);
  const foreign = await post(
    `${server.issuer}/connect/revocation`,
    { token: tokens.refresh_token },
    basic('desk', 'desk-secret'),
  );
  assert.equal(foreign.status, 200);
  assert.equal((await introspect(server, tokens.access_token)).body.active, true);
  const stranger = await post(
    `${server.issuer}/connect/revocation`,
    { token: tokens.refresh_token },
    basic('mvc', 'wrong'),
  );
  assert.equal(stranger.status, 401);
});

test('a public client revokes its own tokens by its id alone, and introspects nothing', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({
    issuer: server.issuer,
    clientId: 'miClient',
    redirectUri: 'http://localhost:32284/',
    scope: 'openid mi offline_access',
  });
  const answer = await post(`${server.issuer}/connect/introspect`, {
    token: body.refresh_token,
    client_id: 'miClient',
  });
  assert.equal(answer.status, 401);
  const ended = await post(`${server.issuer}/connect/revocation`, {
    token: body.refresh_token,
    client_id: 'miClient',
  });
  assert.equal(ended.status, 200);
  const refreshed = await post(`${server.issuer}/connect/token`, {
    grant_type: 'refresh_token',
    refresh_token: body.refresh_token,
    client_id: 'miClient',
  });
  assert.equal(refreshed.body.error, 'invalid_grant');
});

test('the token of a client that runs as an account is inactive when the account is disabled', async (t) => {
  for (const clientId of ['batch', 'batch-ref']) {
    await t.test(clientId, async (t2) => {
      const server = await startTestServer(t2, {
        clients: { 'batch-ref': { ClientCredentialsSubject: 'Account' } },
        accounts: [{ Name: 'batch' }, { Name: 'batch-ref' }],
      });
      const { body } = await post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        basic(clientId, `${clientId}-secret`),
      );
      assert.equal((await introspect(server, body.access_token)).body.sub, clientId);
      await server.context.accounts.setDisabled(clientId, true);
      assert.deepEqual((await introspect(server, body.access_token)).body, { active: false });
      const next = await post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        basic(clientId, `${clientId}-secret`),
      );
      assert.equal(next.body.error, 'invalid_grant');
    });
  }
});

test('an origin that a client may use is let through at revocation, and another is not', async (t) => {
  const server = await startTestServer(t, {
    clients: { mvc: { AllowedCorsOrigins: ['https://app.example'] } },
  });
  const call = (origin: string) =>
    post(`${server.issuer}/connect/revocation`, { token: 'x' }, { ...basic('mvc', 'mvc-secret'), origin });
  assert.equal(
    (await call('https://app.example')).headers.get('access-control-allow-origin'),
    'https://app.example',
  );
  assert.equal((await call('https://evil.example')).headers.get('access-control-allow-origin'), null);
});

test('a revoked JWT stays dead however its signature is spelled', async (t) => {
  const server = await startTestServer(t);
  const { body } = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  const jwt = body.access_token;
  assert.equal((await introspect(server, jwt)).body.active, true);
  await post(`${server.issuer}/connect/revocation`, { token: jwt }, basic('batch', 'batch-secret'));

  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const spellings = [
    ...[...alphabet].map((last) => jwt.slice(0, -1) + last),
    `${jwt}=`,
    `${jwt}\n`,
    ` ${jwt}`,
    jwt.replace(/-/g, '+').replace(/_/g, '/'),
    `${jwt.slice(0, -5)} ${jwt.slice(-5)}`,
  ];
  for (const spelling of spellings) {
    assert.deepEqual((await introspect(server, spelling)).body, { active: false }, spelling.slice(-12));
  }
});

test('the token of a disabled account is inactive in every layout', async (t) => {
  for (const TokenLayout of ['IdentityServer3', 'IdentityServer4', 'Rfc9068']) {
    await t.test(TokenLayout, async (t2) => {
      const server = await startTestServer(t2, { resources: { intelligence_web_api: { TokenLayout } } });
      const { body } = await post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        basic('batch', 'batch-secret'),
      );
      assert.equal((await introspect(server, body.access_token)).body.active, true);
      await server.context.accounts.setDisabled('batch', true);
      assert.deepEqual((await introspect(server, body.access_token)).body, { active: false });
    });
  }
});

test('a caller that names itself twice and differently is refused', async (t) => {
  const server = await startTestServer(t);
  const { body, status } = await post(
    `${server.issuer}/connect/introspect`,
    { token: 'x', client_id: 'mvc' },
    webApi,
  );
  assert.deepEqual([status, body.error], [400, 'invalid_request']);
});

test('programs get JSON whatever they accept', async (t) => {
  const server = await startTestServer(t);
  const accept = 'text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2';
  for (const path of ['/connect/token', '/connect/introspect', '/connect/revocation', '/connect/userinfo']) {
    const { headers, body } = await post(
      server.issuer + path,
      { grant_type: 'client_credentials', token: 'x' },
      { ...basic('batch', 'wrong'), accept },
    );
    assert.match(headers.get('content-type') ?? '', /^application\/json/, path);
    assert.equal(typeof body.error, 'string');
  }
});

test('a client that cannot be read from the header is 401 with a challenge', async (t) => {
  const server = await startTestServer(t);
  const encode = (text: string) => `Basic ${Buffer.from(text, 'latin1').toString('base64')}`;
  for (const authorization of [
    encode('batch'),
    encode('batch:'),
    encode('batch:%zz'),
    'Basic !!!',
    'Bearer x',
  ]) {
    const answer = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      { authorization },
    );
    assert.deepEqual([answer.status, answer.body.error], [401, 'invalid_client'], authorization);
    assert.match(answer.headers.get('www-authenticate') ?? '', /^Basic /);
  }
});
