/** What clients in the field send that no specification asks for, or that an engine of today refuses. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('base64');
const webApi = basic('intelligence_web_api', 'web-api-secret');

test('a client’s secret may have any characters, raw or encoded, in Basic at the token endpoint', async (t) => {
  for (const secret of ['geheüim', 'a+b%c/=:d', '100%', 'mit blank']) {
    const { issuer } = await startTestServer(t, {
      clients: { batch: { ClientSecrets: [{ Value: sha256(secret) }] } },
    });
    const call = (spelling: string) =>
      post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        { authorization: `Basic ${Buffer.from(`batch:${spelling}`).toString('base64')}` },
      );
    for (const spelling of [secret, encodeURIComponent(secret)]) {
      assert.equal((await call(spelling)).status, 200, spelling);
    }
    assert.equal((await call(`${secret}x`)).status, 401);
    assert.equal((await call('verified')).status, 401, 'what stands for a verified secret is none');
  }
});

test('introspection tells several scopes of a token as a list, as IdentityServer3 did', async (t) => {
  const server = await startTestServer(t, {
    resources: { intelligence_web_api: { AllowUnrestrictedIntrospection: true } },
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const answer = await post(`${server.issuer}/connect/introspect`, { token: body.access_token }, webApi);
  assert.deepEqual(answer.body.scope, ['openid', 'profile', 'intelligence_web_api']);
});

test('a request for the Web API alone may have a nonce, and name the identity provider', async (t) => {
  const standIn = await startWsFedProvider(t);
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const scope = 'intelligence_web_api';
  const plain = await authorize({ issuer: server.issuer, ...mvc, scope, parameters: { nonce: 'n-1' } });
  assert.match(plain.page.body, /name="password"/);
  const back = await plain.signIn();
  const { body } = await plain.redeem(back);
  assert.equal(decodeJwt(body.access_token).sub, 'alice');
  assert.equal(body.id_token, undefined);
  const named = await authorize({
    issuer: server.issuer,
    ...mvc,
    scope,
    parameters: { acr_values: 'tenant:x idp:IntelligenceWsFed' },
  });
  assert.equal(named.page.location?.origin, standIn.url);
});

test('AllowClientCredentialsOnly is for a ResourceOwner client as well', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { desk: { AllowClientCredentialsOnly: true } } });
  const answer = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('desk', 'desk-secret'),
  );
  assert.equal(answer.status, 200);
});

test('a call with an Origin that nobody registered is answered, and no script can read it', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const origin of ['null', 'file://', 'http://evil.example']) {
    const headers = { ...basic('batch', 'batch-secret'), origin };
    const answer = await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, headers);
    assert.deepEqual([answer.status, answer.headers.get('access-control-allow-origin')], [200, null], origin);
  }
});

test('preflights are answered for registered origins, at the endpoints that IdentityServer3 had in its list', async (t) => {
  const { issuer } = await startTestServer(t, { server: { EnableTokenValidationEndpoints: true } });
  const ask = (path: string, origin: string) =>
    fetch(`${issuer}${path}`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,x-requested-with',
      },
    });
  const paths = [
    ...['/.well-known/openid-configuration', '/.well-known/jwks', '/.well-known/openid-configuration/jwks'],
    ...['/connect/token', '/connect/userinfo', '/connect/revocation', '/connect/identityTokenValidation'],
  ];
  for (const path of paths) {
    const answer = await ask(path, 'http://localhost:5091');
    assert.deepEqual(
      [
        answer.status,
        answer.headers.get('access-control-allow-origin'),
        answer.headers.get('access-control-allow-headers'),
      ],
      [204, 'http://localhost:5091', 'authorization,x-requested-with'],
      path,
    );
    assert.equal(
      (await ask(path, 'http://evil.example')).headers.get('access-control-allow-origin'),
      null,
      path,
    );
  }
  for (const path of ['/connect/introspect', '/connect/authorize', '/connect/endsession']) {
    assert.equal(
      (await ask(path, 'http://localhost:5091')).headers.get('access-control-allow-origin'),
      null,
      path,
    );
  }
});

test('a sign-out with a broken hint or an unknown address is asked about, not refused', async (t) => {
  const server = await startTestServer(t);
  const signedIn = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const open = (parameters: Record<string, string>) =>
    signedIn.browser.open(`${server.issuer}/connect/endsession?${new URLSearchParams(parameters)}`);

  for (const parameters of [
    { id_token_hint: 'nonsense' },
    { id_token_hint: `${signedIn.body.id_token}x`, post_logout_redirect_uri: 'http://localhost:5090/' },
    { client_id: 'nobody' },
  ]) {
    const page = await open(parameters);
    assert.equal(page.status, 200, JSON.stringify(parameters));
    assert.match(page.body, /Do you want to sign out\?/);
  }
  const elsewhere = await open({
    id_token_hint: signedIn.body.id_token,
    post_logout_redirect_uri: 'http://evil.example/',
    state: 's',
  });
  assert.match(elsewhere.body, /You are signed out/, 'and nobody goes to where it is not registered');

  const again = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const url = new URL(`${server.issuer}/connect/endsession`);
  url.search = new URLSearchParams({
    id_token_hint: again.body.id_token,
    post_logout_redirect_uri: 'HTTP://LOCALHOST:5090/',
    state: 's',
  }).toString();
  assert.equal((await again.browser.open(url)).location?.href, 'http://localhost:5090/?state=s');
});

async function startLegacy(t: TestContext) {
  return startTestServer(t, { server: { LegacyErrors: true } });
}

test('with LegacyErrors the codes are those that old clients compare', async (t) => {
  const server = await startLegacy(t);
  const token = `${server.issuer}/connect/token`;
  const desk = basic('desk', 'desk-secret');
  const errorOf = async (fields: Record<string, string>, headers = desk) => {
    const { body, status } = await post(token, fields, headers);
    return [status, body.error];
  };
  assert.deepEqual(await errorOf({}), [400, 'unsupported_grant_type']);
  assert.deepEqual(await errorOf({ grant_type: 'password', scope: 'openid' }), [400, 'invalid_grant']);
  assert.deepEqual(await errorOf({ grant_type: 'password' }, basic('desk', 'wrong')), [
    400,
    'invalid_client',
  ]);

  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const back = await attempt.signIn();
  const elsewhere = await attempt.redeem(back, { redirect_uri: 'http://localhost:5090/other' });
  assert.deepEqual([elsewhere.status, elsewhere.body.error], [400, 'unauthorized_client']);

  const signedIn = await post(
    token,
    { grant_type: 'password', username: 'bob', password: 'Pass-word-1', scope: 'openid offline_access' },
    desk,
  );
  const revocation = `${server.issuer}/connect/revocation`;
  const unknown = await post(revocation, { token: 'x', token_type_hint: 'id_token' }, desk);
  assert.deepEqual([unknown.status, unknown.body.error], [400, 'unsupported_token_type']);
  assert.equal((await post(revocation, { token: 'x' }, basic('desk', 'wrong'))).status, 400);

  await server.context.accounts.setDisabled('bob', true);
  const refresh = { grant_type: 'refresh_token', refresh_token: signedIn.body.refresh_token };
  assert.deepEqual(await errorOf(refresh), [400, 'invalid_request']);
});

test('with LegacyErrors userinfo tells a token that has expired from one that is none', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  t.mock.timers.enable({ apis: ['Date'], now: now * 1000 });
  const server = await startTestServer(t, {
    server: { LegacyErrors: true },
    clients: { mvc: { AccessTokenLifetime: 60, AccessTokenType: 'Jwt' } },
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  t.mock.timers.tick(61_000);
  const ask = async (accessToken: string) => {
    const response = await fetch(`${server.issuer}/connect/userinfo`, {
      headers: { authorization: `Bearer ${accessToken}` },
    });
    return [response.status, ((await response.json()) as { error: string }).error];
  };
  assert.deepEqual(await ask('nonsense'), [401, 'invalid_token']);
  assert.deepEqual(await ask(body.access_token), [401, 'expired_token']);
});

test('a refresh token that is replayed is told in the log by a line of its own', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RefreshTokenGraceSeconds: 0 } } });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: 'openid offline_access' });
  const refresh = () =>
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: body.refresh_token },
      basic('mvc', 'mvc-secret'),
    );
  assert.equal((await refresh()).status, 200);
  assert.equal((await refresh()).status, 400);
  assert.ok(
    server.logged.some(({ msg, clientId }) => msg === 'refresh token replayed' && clientId === 'mvc'),
  );
  const browser = createBrowser();
  assert.equal(browser.cookies().length, 0);
});
