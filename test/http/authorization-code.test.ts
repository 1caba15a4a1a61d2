import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import * as openid from 'openid-client';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const miClient = {
  clientId: 'miClient',
  redirectUri: 'http://localhost:32284/',
  scope: 'openid profile mi offline_access',
} as const;

test('an independent client signs a user in, reads userinfo, refreshes and signs out', async (t) => {
  const server = await startTestServer(t);
  const config = await openid.discovery(new URL(server.issuer), 'mvc', 'mvc-secret', undefined, {
    execute: [openid.allowInsecureRequests],
  });
  const verifier = openid.randomPKCECodeVerifier();
  const nonce = openid.randomNonce();
  const url = openid.buildAuthorizationUrl(config, {
    redirect_uri: mvc.redirectUri,
    scope: `${mvc.scope} email roles offline_access`,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state: 'abc',
    nonce,
  });
  const browser = createBrowser();
  const page = await browser.open(url);
  const back = await browser.submit(page, { username: 'ALICE', password: 'Pass-word-1' });
  assert.ok(back.location);

  const tokens = await openid.authorizationCodeGrant(config, back.location, {
    pkceCodeVerifier: verifier,
    expectedState: 'abc',
    expectedNonce: nonce,
  });
  const claims = tokens.claims();
  assert.equal(claims?.sub, 'alice');
  assert.equal(claims?.idp, 'local');
  assert.deepEqual(claims?.amr, ['pwd']);
  assert.equal(typeof claims?.auth_time, 'number');
  assert.equal(typeof claims?.nbf, 'number');
  assert.equal(claims?.name, undefined);

  const userinfo = await openid.fetchUserInfo(config, tokens.access_token, 'alice');
  assert.equal(userinfo.preferred_username, 'alice');
  assert.ok(userinfo.email);

  const refreshed = await openid.refreshTokenGrant(config, tokens.refresh_token ?? '');
  assert.notEqual(refreshed.refresh_token, tokens.refresh_token);
  assert.equal(refreshed.claims()?.sub, 'alice');

  const signedOut = await browser.open(
    openid.buildEndSessionUrl(config, {
      id_token_hint: refreshed.id_token ?? '',
      post_logout_redirect_uri: 'http://localhost:5090/',
      state: 'bye',
    }),
  );
  assert.equal(signedOut.location?.href, 'http://localhost:5090/?state=bye');
});

test('a JWT for the Web API has the claims of IdentityServer3 and nothing else', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });

  const { exp, nbf, auth_time: authTime, ...claims } = decodeJwt(body.access_token);
  assert.deepEqual(claims, {
    iss: server.issuer,
    aud: `${server.issuer}/resources`,
    client_id: 'mvc',
    scope: ['openid', 'profile', 'intelligence_web_api'],
    sub: 'alice',
    idp: 'idsrv',
    amr: ['password'],
  });
  assert.equal(Number(exp) - Number(nbf), 3600);
  assert.ok(Number(authTime) <= Number(nbf));
  const { typ, kid, alg } = decodeProtectedHeader(body.access_token);
  const { keys } = (await (await fetch(`${server.issuer}/.well-known/jwks`)).json()) as {
    keys: { kid: string }[];
  };
  assert.deepEqual({ typ, alg, kid }, { typ: 'JWT', alg: 'RS256', kid: keys[0]?.kid });
});

test('a JWT for the MI server has the claims of IdentityServer4, as the toolkit knows it', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...miClient });

  const { exp, nbf, auth_time: _at, ...claims } = decodeJwt(body.access_token);
  assert.deepEqual(claims, {
    iss: server.issuer,
    aud: 'mi',
    client_id: 'miClient',
    scope: ['openid', 'profile', 'mi', 'offline_access'],
    sub: 'alice',
    idp: 'local',
    amr: ['pwd'],
  });
  assert.equal(Number(exp) - Number(nbf), 1200);
  assert.equal(decodeProtectedHeader(body.access_token).typ, 'at+jwt');
  assert.equal(body.expires_in, 1200);
  assert.ok(body.refresh_token);
});

test('offline_access is honoured without prompt=consent for a client that may have it', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, scope: 'openid offline_access' });
  assert.equal(typeof body.refresh_token, 'string');
});

test('a public client without PKCE is sent back with invalid_request', async (t) => {
  const server = await startTestServer(t);
  const { page } = await authorize({ issuer: server.issuer, ...miClient, withPkce: false });
  assert.equal(page.location?.searchParams.get('error'), 'invalid_request');
  assert.equal(page.location?.searchParams.get('state'), 'state-1');
  assert.equal(page.location?.searchParams.get('iss'), server.issuer);
});

test('a public client whose registration does not require PKCE signs in without', async (t) => {
  const server = await startTestServer(t);
  const { status, body } = await signInAndRedeem({
    issuer: server.issuer,
    ...miClient,
    clientId: 'mi-legacy',
    withPkce: false,
  });
  assert.equal(status, 200, JSON.stringify(body));
});

test('a confidential client signs in without PKCE', async (t) => {
  const server = await startTestServer(t);
  const { status } = await signInAndRedeem({ issuer: server.issuer, ...mvc, withPkce: false });
  assert.equal(status, 200);
});

test('a wrong, missing or unasked code verifier is refused', async (t) => {
  const server = await startTestServer(t);
  const first = await authorize({ issuer: server.issuer, ...mvc });
  const back = await first.signIn();
  for (const verifier of ['x'.repeat(43), 'short', '']) {
    const { status, body } = await first.redeem(back, { code_verifier: verifier });
    assert.equal(status, 400);
    assert.match(String(body.error), /^invalid_(grant|request)$/);
  }
  const without = await authorize({ issuer: server.issuer, ...mvc, withPkce: false });
  const code = (await without.signIn()).location?.searchParams.get('code') ?? '';
  const { body } = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'authorization_code', code, redirect_uri: mvc.redirectUri, code_verifier: 'x'.repeat(43) },
    basic('mvc', 'mvc-secret'),
  );
  assert.equal(body.error, 'invalid_grant');
});

test('a code redeemed twice is refused, and ends the tokens of its first use', async (t) => {
  const server = await startTestServer(t);
  const attempt = await signInAndRedeem({
    issuer: server.issuer,
    ...mvc,
    scope: `${mvc.scope} offline_access`,
  });
  assert.equal(attempt.status, 200);

  const again = await attempt.redeem(attempt.back);

  assert.equal(again.body.error, 'invalid_grant');
  const userinfo = await fetch(`${server.issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${attempt.body.access_token}` },
  });
  assert.equal(userinfo.status, 401);
  const refresh = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: attempt.body.refresh_token },
    basic('mvc', 'mvc-secret'),
  );
  assert.equal(refresh.body.error, 'invalid_grant');
});

test('a code redeemed ten times at once yields one token, which is dead: nobody knows whose it is', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc, scope: `${mvc.scope} offline_access` });
  const back = await attempt.signIn();

  const results = await Promise.all(Array.from({ length: 10 }, () => attempt.redeem(back)));

  const [winner, ...others] = results.filter(({ status }) => status === 200);
  assert.ok(winner !== undefined && others.length === 0);
  assert.ok(results.every(({ status, body }) => status === 200 || body.error === 'invalid_grant'));
  const userinfo = await fetch(`${server.issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${winner.body.access_token}` },
  });
  assert.equal(userinfo.status, 401);
  const refresh = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: winner.body.refresh_token },
    basic('mvc', 'mvc-secret'),
  );
  assert.equal(refresh.body.error, 'invalid_grant');
});

test('a code is bound to its client and its redirect URI', async (t) => {
  const server = await startTestServer(t, {
    clients: {
      other: {
        Flow: 'AuthorizationCodeWithProofKey',
        EnableLocalLogin: true,
        RedirectUris: [mvc.redirectUri],
        AllowedScopes: ['openid'],
      },
    },
  });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const back = await attempt.signIn();
  const code = back.location?.searchParams.get('code') ?? '';
  const foreign = await post(`${server.issuer}/connect/token`, {
    grant_type: 'authorization_code',
    code,
    client_id: 'other',
    redirect_uri: mvc.redirectUri,
    code_verifier: attempt.verifier,
  });
  assert.equal(foreign.body.error, 'invalid_grant');
  const moved = await attempt.redeem(back, { redirect_uri: `${mvc.redirectUri}/` });
  assert.equal(moved.body.error, 'invalid_grant');
});

test('a code lives as long as its client says', async (t) => {
  let ahead = 0;
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const server = await startTestServer(t, { now: () => Math.floor(Date.now() / 1000) });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const back = await attempt.signIn();
  ahead += 61_000;
  t.mock.timers.setTime(Date.now() + ahead);
  const { body } = await attempt.redeem(back);
  assert.equal(body.error, 'invalid_grant');
});

test('two clients that sign in at once in one session both get their codes redeemed', async (t) => {
  const server = await startTestServer(t);
  const { issuer } = server;
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });

  const attempts = await Promise.all([
    authorize({ issuer, ...mvc, browser }),
    authorize({ issuer, ...miClient, browser }),
    authorize({ issuer, ...mvc, browser }),
    authorize({ issuer, ...miClient, browser }),
  ]);
  const results = await Promise.all(attempts.map((attempt) => attempt.redeem(attempt.page)));

  assert.deepEqual(
    results.map(({ status }) => status),
    [200, 200, 200, 200],
  );
  // And the session knows both: neither overwrote the other.
  const [row] = await server.context.db.knex('OidcToken').where({ model: 'Session' });
  const { authorizations } = JSON.parse(row.payload) as { authorizations: Record<string, unknown> };
  assert.deepEqual(
    Object.keys(authorizations).sort(),
    ['mi', 'mv'].map((name) => (name === 'mi' ? 'miClient' : 'mvc')),
  );
});

test('a second client in the same browser needs no second password', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  const first = await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const second = await authorize({ issuer: server.issuer, ...miClient, browser });
  assert.ok(second.page.location?.searchParams.get('code'));
  const { body } = await second.redeem(second.page);
  const authTime = (token: string) => decodeJwt(token).auth_time;
  assert.equal(authTime(body.access_token), authTime(first.body.access_token));
});

test('prompt=none without a session answers login_required, and with one a code', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  const parameters = { prompt: 'none' };
  const without = await authorize({ issuer: server.issuer, ...mvc, browser, parameters });
  assert.equal(without.page.location?.searchParams.get('error'), 'login_required');
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const within = await authorize({ issuer: server.issuer, ...mvc, browser, parameters });
  assert.ok(within.page.location?.searchParams.get('code'));
});

test('prompt=login asks for the password again', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const again = await authorize({ issuer: server.issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  assert.match(again.page.body, /type="password"/);
  assert.ok((await again.signIn()).location?.searchParams.get('code'));
});

test('prompt=select_account lets another user sign in', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const again = await authorize({
    issuer: server.issuer,
    ...mvc,
    browser,
    parameters: { prompt: 'select_account' },
  });
  assert.match(again.page.body, /type="password"/);
  const { body } = await again.redeem(await again.signIn(again.page, 'bob'));
  assert.equal(decodeJwt(body.access_token).sub, 'bob');
});

test('another user who signs in takes the session over', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const again = await authorize({ issuer: server.issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  let page = await again.signIn(again.page, 'bob');
  // The engine signs the first user out by a form of its own.
  if (page.location === undefined) page = await browser.submit(page, {});
  const { body } = await again.redeem(page);
  assert.equal(decodeJwt(body.access_token).sub, 'bob');
});

test('the answer comes back as a form where the client asks for form_post', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({
    issuer: server.issuer,
    ...mvc,
    parameters: { response_mode: 'form_post' },
  });
  const page = await attempt.signIn();
  assert.match(page.body, /<form[^>]*action="http:\/\/localhost:5090\/callback"/);
  assert.match(page.body, /name="code"/);
  assert.match(page.headers.get('content-security-policy') ?? '', /script-src [^;]*'sha256-/);
});

test('an authorization request sent as a form is answered like one in the address', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  const response = await browser.request(`${server.issuer}/connect/authorize`, {
    method: 'POST',
    body: new URLSearchParams({
      client_id: 'mvc',
      redirect_uri: mvc.redirectUri,
      response_type: 'code',
      scope: 'openid',
    }),
  });
  assert.equal(response.status, 303);
  const page = await browser.follow(response, new URL(server.issuer).origin);
  assert.match(page.body, /type="password"/);
});

test('an authorize request under another host name is sent to the public one before any cookie is set', async (t) => {
  const server = await startTestServer(t);
  const other = server.issuer.replace('localhost', '127.0.0.1');
  const page = await createBrowser().request(`${other}/connect/authorize?client_id=mvc&state=x`);
  assert.equal(page.status, 303);
  assert.equal(page.location?.href, `${server.issuer}/connect/authorize?client_id=mvc&state=x`);
  assert.equal(page.headers.get('set-cookie'), null);
});

test('paths match without regard to case, and sign-in works on them', async (t) => {
  const server = await startTestServer(t);
  const { origin } = new URL(server.issuer);
  const shouted = `${origin}/spssmr/OIDC`;
  const discovery = (await (await fetch(`${shouted}/.Well-Known/OpenId-Configuration`)).json()) as {
    issuer: string;
  };
  assert.equal(discovery.issuer, server.issuer);
  const browser = createBrowser();
  const page = await browser.open(
    `${shouted}/Connect/Authorize?client_id=mvc&redirect_uri=${encodeURIComponent(mvc.redirectUri)}&response_type=code&scope=openid`,
  );
  const back = await browser.submit(page, { username: 'alice', password: 'Pass-word-1' });
  const { status } = await post(
    `${shouted}/CONNECT/TOKEN`,
    {
      grant_type: 'authorization_code',
      code: back.location?.searchParams.get('code') ?? '',
      redirect_uri: mvc.redirectUri,
    },
    basic('mvc', 'mvc-secret'),
  );
  assert.equal(status, 200);
});

test('a native client may use any port of the loopback', async (t) => {
  const server = await startTestServer(t);
  const { page } = await authorize({
    issuer: server.issuer,
    ...miClient,
    redirectUri: 'http://localhost:49999/',
  });
  assert.match(page.body, /type="password"/);
});
