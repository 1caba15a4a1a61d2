/** Habits of clients that were written against IdentityServer3, each as such a client has it. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const offline = { ...mvc, scope: 'openid profile intelligence_web_api offline_access' };
const hash = (algorithm: string, secret: string) => createHash(algorithm).update(secret).digest('base64');
const mvcBasic = basic('mvc', 'mvc-secret');

/** A clock that the test moves, for the server and for everything that reads the system's. */
function takeTime(t: TestContext) {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  return {
    now: () => Math.floor(Date.now() / 1000),
    wait: (seconds: number) => t.mock.timers.setTime(Date.now() + seconds * 1000),
  };
}

test('the discovery document has IdentityServer3’s members, with the endpoints where they always were', async (t) => {
  const { issuer } = await startTestServer(t);
  const document = (await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()) as Record<
    string,
    unknown
  >;
  for (const [member, path] of Object.entries({
    jwks_uri: '.well-known/jwks',
    authorization_endpoint: 'connect/authorize',
    token_endpoint: 'connect/token',
    userinfo_endpoint: 'connect/userinfo',
    end_session_endpoint: 'connect/endsession',
    revocation_endpoint: 'connect/revocation',
    introspection_endpoint: 'connect/introspect',
  })) {
    assert.equal(document[member], `${issuer}/${path}`);
  }
  for (const [member, values] of Object.entries({
    scopes_supported: ['openid', 'profile', 'email', 'phone', 'address', 'roles', 'offline_access'],
    claims_supported: ['sub', 'name', 'role', 'email'],
    response_types_supported: ['code'],
    response_modes_supported: ['form_post', 'query', 'fragment'],
    grant_types_supported: ['authorization_code', 'client_credentials', 'password', 'refresh_token'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['RS256'],
    code_challenge_methods_supported: ['S256'],
    token_endpoint_auth_methods_supported: ['client_secret_post', 'client_secret_basic'],
  })) {
    const listed = document[member] as string[];
    assert.deepEqual(
      values.filter((value) => !listed.includes(value)),
      [],
      member,
    );
  }
  assert.ok((document.scopes_supported as string[]).includes('intelligence_web_api'), 'resource scopes too');
});

test('the password grant is in the discovery document only while a client has it', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { desk: null } });
  const response = await fetch(`${issuer}/.well-known/openid-configuration`);
  const { grant_types_supported: types } = (await response.json()) as { grant_types_supported: string[] };
  assert.ok(!types.includes('password'));
});

test('keys are at IdentityServer3’s address and at IdentityServer4’s', async (t) => {
  const { issuer } = await startTestServer(t);
  const texts = await Promise.all(
    ['.well-known/jwks', '.well-known/openid-configuration/jwks'].map(async (path) => {
      const response = await fetch(`${issuer}/${path}`);
      assert.equal(response.status, 200);
      return response.text();
    }),
  );
  assert.equal(texts[0], texts[1]);
  const { keys } = JSON.parse(texts[0] ?? '') as { keys: Record<string, unknown>[] };
  for (const { kty, use, kid, e, n } of keys) {
    assert.deepEqual([kty, use, e], ['RSA', 'sig', 'AQAB']);
    assert.ok(kid && n);
  }
});

test('every path may be written in any case, as on IIS', async (t) => {
  const { issuer } = await startTestServer(t);
  const origin = new URL(issuer).origin;
  for (const path of [
    '/spssmr/oidc/.well-known/openid-configuration',
    '/SPSSMR/OIDC/.Well-Known/OpenID-Configuration',
    '/SPSSMR/Oidc/.well-known/JWKS',
  ]) {
    assert.equal((await fetch(origin + path)).status, 200, path);
  }
  const { body } = await post(
    `${origin}/spssmr/oidc/Connect/Token`,
    { grant_type: 'client_credentials', scope: 'intelligence_web_api' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  const answer = await post(
    `${origin}/SPSSMR/OIDC/CONNECT/INTROSPECT`,
    { token: body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.equal(answer.body.active, true);
  const revoked = await post(
    `${origin}/SPSSMR/oidc/connect/Revocation`,
    { token: body.access_token, token_type_hint: 'access_token' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  assert.equal(revoked.status, 200);
});

test('the token answer has what IdentityServer3’s had, and may not be cached', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body, headers } = await signInAndRedeem({ issuer, ...offline });
  assert.equal(body.token_type, 'Bearer');
  assert.equal(body.expires_in, 3600);
  for (const member of ['access_token', 'id_token', 'refresh_token']) {
    assert.equal(typeof body[member], 'string', member);
  }
  assert.match(headers.get('cache-control') ?? '', /no-store/);
});

test('an ID token has IdentityServer3’s claims', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer, ...mvc, parameters: { nonce: 'n-1' } });
  const claims = decodeJwt(body.id_token);
  const { iat, exp, nbf, auth_time: authTime, ...rest } = claims;
  assert.deepEqual(
    { iss: rest.iss, aud: rest.aud, nonce: rest.nonce, sub: rest.sub, idp: rest.idp, amr: rest.amr },
    { iss: issuer, aud: 'mvc', nonce: 'n-1', sub: 'alice', idp: 'local', amr: ['pwd'] },
  );
  assert.equal(Number(exp) - Number(iat), 300);
  for (const time of [nbf, authTime]) assert.ok(Number.isInteger(time));
});

test('a request without nonce, with a state of 128 hex digits, is answered with that state', async (t) => {
  const { issuer } = await startTestServer(t);
  const state = 'f0'.repeat(64);
  const { back, status } = await signInAndRedeem({ issuer, ...mvc, parameters: { state } });
  assert.deepEqual([back.location?.searchParams.get('state'), status], [state, 200]);
});

test('userinfo takes the token in the header or, by POST, in the form', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const url = `${issuer}/connect/userinfo`;
  const authorization = `Bearer ${body.access_token}`;
  for (const response of [
    await fetch(url, { headers: { authorization } }),
    await fetch(url, { method: 'POST', headers: { authorization } }),
    await fetch(url, { method: 'POST', body: new URLSearchParams({ access_token: body.access_token }) }),
  ]) {
    assert.equal(response.status, 200);
    const claims = (await response.json()) as Record<string, unknown>;
    assert.deepEqual(
      [claims.sub, claims.name, claims.preferred_username],
      ['alice', 'Alice Ashworth', 'alice'],
    );
  }
});

test('userinfo refuses a wrong token with 401 and one without openid with 403, and says so in the header', async (t) => {
  const { issuer } = await startTestServer(t);
  const url = `${issuer}/connect/userinfo`;
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: 'bob', password: 'Pass-word-1', scope: 'intelligence_web_api' },
    basic('desk', 'desk-secret'),
  );
  for (const [token, status, error] of [
    ['unknown', 401, 'invalid_token'],
    [body.access_token, 403, 'insufficient_scope'],
  ] as const) {
    const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(response.status, status);
    assert.match(response.headers.get('www-authenticate') ?? '', new RegExp(`^Bearer .*error="${error}"`));
  }
});

/** Calls of the token endpoint that fail, and the code that IdentityServer3 had for each. */
const tokenErrors: readonly [
  what: string,
  fields: Record<string, string>,
  caller: readonly [string, string],
  error: string,
][] = [
  ['no grant type', {}, ['batch', 'batch-secret'], 'invalid_request'],
  ['an unknown grant type', { grant_type: 'magic' }, ['batch', 'batch-secret'], 'unsupported_grant_type'],
  ['a wrong secret', { grant_type: 'client_credentials' }, ['batch', 'wrong'], 'invalid_client'],
  ['an unknown client', { grant_type: 'client_credentials' }, ['nobody', 'x'], 'invalid_client'],
  [
    'another client’s grant type',
    { grant_type: 'client_credentials' },
    ['mvc', 'mvc-secret'],
    'unauthorized_client',
  ],
  [
    'an unknown scope',
    { grant_type: 'client_credentials', scope: 'nonsense' },
    ['batch', 'batch-secret'],
    'invalid_scope',
  ],
  [
    'an identity scope without a user',
    { grant_type: 'client_credentials', scope: 'openid' },
    ['batch', 'batch-secret'],
    'invalid_scope',
  ],
  [
    'offline_access without a user',
    { grant_type: 'client_credentials', scope: 'offline_access' },
    ['batch', 'batch-secret'],
    'invalid_scope',
  ],
  [
    'an unknown code',
    { grant_type: 'authorization_code', code: '0'.repeat(32), redirect_uri: mvc.redirectUri },
    ['mvc', 'mvc-secret'],
    'invalid_grant',
  ],
  [
    'an unknown refresh token',
    { grant_type: 'refresh_token', refresh_token: '0'.repeat(32) },
    ['mvc', 'mvc-secret'],
    'invalid_grant',
  ],
  [
    'a wrong password',
    { grant_type: 'password', username: 'bob', password: 'x', scope: 'openid' },
    ['desk', 'desk-secret'],
    'invalid_grant',
  ],
];

for (const LegacyErrors of [false, true]) {
  test(`the token endpoint has IdentityServer3’s error codes${LegacyErrors ? ', and with LegacyErrors always its status 400' : ''}`, async (t) => {
    const { issuer } = await startTestServer(t, { server: { LegacyErrors } });
    for (const [what, fields, [id, secret], rfc] of tokenErrors) {
      const answer = await post(`${issuer}/connect/token`, fields, basic(id, secret));
      const error = LegacyErrors && Object.keys(fields).length === 0 ? 'unsupported_grant_type' : rfc;
      const status = error === 'invalid_client' && !LegacyErrors ? 401 : 400;
      assert.deepEqual([answer.status, answer.body.error], [status, error], what);
    }
  });
}

test('a wrong password has IdentityServer3’s words, which clients show', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: 'bob', password: 'x', scope: 'openid' },
    basic('desk', 'desk-secret'),
  );
  assert.equal(body.error_description, 'invalid_username_or_password');
});

test('an unknown client gets a page, and what is wrong otherwise goes back to the client', async (t) => {
  const { issuer } = await startTestServer(t);
  const { page } = await authorize({ issuer, ...mvc, clientId: 'nobody' });
  assert.deepEqual([page.status, page.location], [400, undefined]);
  for (const [parameters, error] of [
    [{ response_type: 'magic' }, 'unsupported_response_type'],
    [{ scope: 'openid nonsense' }, 'invalid_scope'],
    [{ request: 'a.b.c' }, 'request_not_supported'],
    [{ request_uri: 'https://client.example/r' }, 'request_uri_not_supported'],
  ] as const) {
    const { page: answer } = await authorize({ issuer, ...mvc, parameters });
    const { search = '', hash: fragment = '' } = answer.location ?? {};
    assert.equal(new URLSearchParams(search || fragment.slice(1)).get('error'), error);
  }
});

test('prompt=none answers login_required without a session and a code with one', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const silent = () => authorize({ issuer, ...mvc, browser, parameters: { prompt: 'none' } });
  assert.equal((await silent()).page.location?.searchParams.get('error'), 'login_required');
  await signInAndRedeem({ issuer, ...mvc, browser });
  assert.ok((await silent()).page.location?.searchParams.get('code'));
});

for (const [LegacyErrors, error] of [
  [false, 'consent_required'],
  [true, 'interaction_required'],
] as const) {
  test(`prompt=none where consent is missing answers ${error} ${LegacyErrors ? 'with' : 'without'} LegacyErrors`, async (t) => {
    const { issuer } = await startTestServer(t, {
      server: { LegacyErrors },
      clients: { 'mi-legacy': { RequireConsent: true } },
    });
    const browser = createBrowser();
    await signInAndRedeem({ issuer, ...mvc, browser });
    const { page } = await authorize({
      issuer,
      clientId: 'mi-legacy',
      redirectUri: 'http://localhost:32284/',
      scope: 'openid mi',
      browser,
      parameters: { prompt: 'none' },
    });
    assert.equal(page.location?.searchParams.get('error'), error);
  });
}

test('max_age asks for the password again when the sign-in is older', async (t) => {
  const { now, wait } = takeTime(t);
  const { issuer } = await startTestServer(t, { now });
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  wait(100);
  const ask = (age: string) => authorize({ issuer, ...mvc, browser, parameters: { max_age: age } });
  assert.ok((await ask('1000')).page.location?.searchParams.get('code'));
  assert.match((await ask('50')).page.body, /type="password"/);
});

test('login_hint fills the name', async (t) => {
  const { issuer } = await startTestServer(t);
  const { page } = await authorize({ issuer, ...mvc, parameters: { login_hint: 'EXAMPLE\\carol' } });
  assert.match(page.body, /value="EXAMPLE\\carol"/);
});

test('acr_values that mean something elsewhere do not stand in the way of signing in', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const values of ['tenant:acme', 'idp:local', 'idp:idsrv', 'level:2 tenant:acme']) {
    const { status } = await signInAndRedeem({ issuer, ...mvc, parameters: { acr_values: values } });
    assert.equal(status, 200, values);
  }
});

test('response_mode=form_post brings the code back in a form', async (t) => {
  const { issuer } = await startTestServer(t);
  const attempt = await authorize({ issuer, ...mvc, parameters: { response_mode: 'form_post' } });
  const page = await attempt.signIn();
  assert.match(page.body, /<form[^>]*action="http:\/\/localhost:5090\/callback"/);
  assert.match(page.body, /name="code"/);
  assert.match(page.body, /name="state" value="state-1"/);
});

test('signing out takes an expired id_token_hint, by GET or POST, and returns to a registered address with state', async (t) => {
  const { now, wait } = takeTime(t);
  const { issuer } = await startTestServer(t, { now });
  for (const method of ['GET', 'POST']) {
    const browser = createBrowser();
    const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
    wait(3600);
    const fields = new URLSearchParams({
      id_token_hint: body.id_token,
      post_logout_redirect_uri: 'http://localhost:5090/',
      state: 'after-sign-out',
    });
    const first =
      method === 'GET'
        ? await browser.request(`${issuer}/connect/endsession?${fields}`)
        : await browser.request(`${issuer}/connect/endsession`, { method, body: fields });
    const page = await browser.follow(first, new URL(issuer).origin);
    assert.equal(page.location?.href, 'http://localhost:5090/?state=after-sign-out', method);
    assert.match((await authorize({ issuer, ...mvc, browser })).page.body, /type="password"/);
  }
});

test('without an id_token_hint signing out is asked about first', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  assert.match((await browser.open(`${issuer}/connect/endsession`)).body, /value="yes"/);
  assert.ok((await authorize({ issuer, ...mvc, browser })).page.location, 'still signed in');
});

test('offline_access is asked about again even if consent is remembered', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const browser = createBrowser();
  const attempt = await authorize({ issuer, ...mvc, browser });
  await browser.submit(await attempt.signIn(), { action: 'allow', scope: mvc.scope, remember: 'yes' });
  assert.ok((await authorize({ issuer, ...mvc, browser })).page.location?.searchParams.get('code'));
  assert.match((await authorize({ issuer, ...offline, browser })).page.body, /value="allow"/);
});

for (const separator of [';', ',', ' ', '; ', ' , ']) {
  test(`lists of a client are split at ${JSON.stringify(separator)}, as DPM had them`, async (t) => {
    const { issuer } = await startTestServer(t, {
      clients: {
        mvc: {
          RedirectUris: ['https://old.example/callback', mvc.redirectUri].join(separator),
          AllowedScopes: ['openid', 'profile', 'intelligence_web_api'].join(separator),
        },
      },
    });
    assert.equal((await signInAndRedeem({ issuer, ...mvc })).status, 200);
    const other = await authorize({ issuer, ...mvc, scope: 'openid email' });
    assert.equal(other.page.location?.searchParams.get('error'), 'invalid_scope');
  });
}

test('numbers and switches of a client may be written as DPM wrote them', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: {
      mvc: {
        Enabled: 'True',
        Flow: '0',
        AccessTokenType: 1,
        AccessTokenLifetime: '1800',
        RefreshTokenUsage: 0,
        RefreshTokenExpiration: '1',
        EnableLocalLogin: 'True',
        RequireConsent: 'False',
      },
    },
  });
  const { body } = await signInAndRedeem({ issuer, ...offline });
  assert.equal(body.expires_in, 1800);
  assert.ok(!body.access_token.includes('.'), 'a reference token');
  const refreshed = await post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: body.refresh_token },
    mvcBasic,
  );
  assert.equal(refreshed.body.refresh_token, body.refresh_token, 'ReUse');
});

test('secrets are base64 of SHA-256 or SHA-512, several at once, each with an end of its own', async (t) => {
  const { now, wait } = takeTime(t);
  const { issuer } = await startTestServer(t, {
    now,
    clients: {
      batch: {
        ClientSecrets: [
          { Value: hash('sha256', 'short'), Type: 'SharedSecret', Description: 'of last year' },
          { Value: hash('sha512', 'long') },
          {
            Value: hash('sha256', 'ending'),
            Expiration: new Date((now() + 100) * 1000).toISOString(),
          },
        ],
      },
    },
  });
  const tryAll = async () => {
    const statuses: number[] = [];
    for (const secret of ['short', 'long', 'ending', hash('sha256', 'short')]) {
      const fields = { grant_type: 'client_credentials' };
      const inBasic = await post(`${issuer}/connect/token`, fields, basic('batch', secret));
      const inBody = await post(`${issuer}/connect/token`, {
        ...fields,
        client_id: 'batch',
        client_secret: secret,
      });
      assert.equal(inBasic.status, inBody.status, 'the same in Basic and in the body');
      statuses.push(inBasic.status);
    }
    return statuses;
  };
  assert.deepEqual(await tryAll(), [200, 200, 200, 401]);
  wait(100);
  assert.deepEqual(await tryAll(), [200, 200, 401, 401]);
});

for (const usage of ['OneTimeOnly', 'ReUse']) {
  test(`every refresh answer has a refresh token and an ID token: ${usage}`, async (t) => {
    const { now, wait } = takeTime(t);
    const { issuer } = await startTestServer(t, { now, clients: { mvc: { RefreshTokenUsage: usage } } });
    const { body: first } = await signInAndRedeem({ issuer, ...offline });
    let current = first.refresh_token;
    for (let round = 0; round < 3; round += 1) {
      wait(60);
      const { status, body } = await post(
        `${issuer}/connect/token`,
        { grant_type: 'refresh_token', refresh_token: current },
        mvcBasic,
      );
      assert.equal(status, 200);
      assert.equal(body.refresh_token === current, usage === 'ReUse');
      assert.equal(decodeJwt(body.id_token).sub, 'alice');
      // The sign-in that the tokens tell of is still the first one.
      assert.equal(decodeJwt(body.id_token).auth_time, decodeJwt(first.id_token).auth_time);
      current = body.refresh_token;
    }
  });
}

test('Sliding prolongs with each use and never beyond Absolute', async (t) => {
  const { now, wait } = takeTime(t);
  const { issuer } = await startTestServer(t, {
    now,
    clients: {
      mvc: {
        RefreshTokenUsage: 'ReUse',
        RefreshTokenExpiration: 'Sliding',
        SlidingRefreshTokenLifetime: 1000,
        AbsoluteRefreshTokenLifetime: 2500,
      },
    },
  });
  const { body } = await signInAndRedeem({ issuer, ...offline });
  const statuses: number[] = [];
  // At 800, 1600 and 2400 seconds, and at 2600: within 1000 of the last use, but after the end.
  for (const seconds of [800, 800, 800, 200]) {
    wait(seconds);
    const { status } = await post(
      `${issuer}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: body.refresh_token },
      mvcBasic,
    );
    statuses.push(status);
  }
  assert.deepEqual(statuses, [200, 200, 200, 400]);
});

test('a refresh token is of no use to another client, or once a scope of it is not allowed any more', async (t) => {
  const server = await startTestServer(t);
  const { issuer } = server;
  const { body } = await signInAndRedeem({ issuer, ...offline });
  const fields = { grant_type: 'refresh_token', refresh_token: body.refresh_token };
  const foreign = await post(`${issuer}/connect/token`, fields, basic('desk', 'desk-secret'));
  assert.equal(foreign.body.error, 'invalid_grant');
  server.write('clients/mvc.json', { AllowedScopes: ['openid', 'intelligence_web_api', 'offline_access'] });
  await server.reload();
  const narrowed = await post(`${issuer}/connect/token`, fields, mvcBasic);
  assert.equal(narrowed.body.error, 'invalid_scope');
});

test('scripts of an allowed origin may call what IdentityServer3 let them call, and others may not', async (t) => {
  const origin = 'https://app.example';
  const { issuer } = await startTestServer(t, { clients: { mvc: { AllowedCorsOrigins: [origin] } } });
  const { body } = await signInAndRedeem({ issuer, ...offline });
  const letThrough = async (path: string, init: RequestInit, from: string) => {
    const headers = { ...(init.headers as Record<string, string> | undefined), origin: from };
    const response = await fetch(`${issuer}/${path}`, { ...init, headers });
    const allowed = response.headers.get('access-control-allow-origin');
    return allowed === '*' || allowed === from;
  };
  const form = (fields: Record<string, string>) => ({
    method: 'POST',
    headers: mvcBasic,
    body: new URLSearchParams(fields),
  });
  const calls: [path: string, init: RequestInit, isForAll: boolean][] = [
    ['.well-known/openid-configuration', {}, true],
    ['.well-known/jwks', {}, true],
    ['connect/userinfo', { headers: { authorization: `Bearer ${body.access_token}` } }, false],
    ['connect/revocation', form({ token: 'x' }), false],
    ['connect/token', form({ grant_type: 'refresh_token', refresh_token: body.refresh_token }), false],
  ];
  for (const [path, init, isForAll] of calls) {
    assert.equal(await letThrough(path, init, 'https://evil.example'), isForAll, path);
    assert.equal(await letThrough(path, init, origin), true, path);
  }
  assert.equal(await letThrough('connect/introspect', form({ token: 'x' }), origin), false);
});

test('an unknown token_type_hint at revocation is no error, as RFC 7009 has it', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer, ...offline });
  const answer = await post(
    `${issuer}/connect/revocation`,
    { token: body.refresh_token, token_type_hint: 'magic' },
    mvcBasic,
  );
  assert.equal(answer.status, 200);
  const refreshed = await post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: body.refresh_token },
    mvcBasic,
  );
  assert.equal(refreshed.body.error, 'invalid_grant');
});

test('handles stay short enough for old columns and credential stores', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { mvc: { AccessTokenType: 'Reference' } } });
  const { back, body } = await signInAndRedeem({ issuer, ...offline });
  for (const handle of [
    back.location?.searchParams.get('code') ?? '',
    body.access_token,
    body.refresh_token,
  ]) {
    assert.match(handle, /^[\w-]{32,100}$/);
  }
});
