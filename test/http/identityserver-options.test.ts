/** Options of IdentityServer3 that clients in the field rely on, and that are off unless they are set. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRemoteJWKSet, decodeJwt, jwtVerify } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const webApi = basic('intelligence_web_api', 'web-api-secret');
const claims = [
  { Type: 'department', Value: 'IT' },
  { Type: 'site', Value: 'north' },
  { Type: 'site', Value: 'south' },
];

for (const AccessTokenType of ['Jwt', 'Reference']) {
  test(`the claims of a client are in its own ${AccessTokenType} tokens, prefixed, and in a user’s only if asked for`, async (t) => {
    const server = await startTestServer(t, {
      clients: {
        batch: { Claims: claims, AccessTokenType },
        mvc: { Claims: claims, AccessTokenType },
        desk: { Claims: claims, AccessTokenType, AlwaysSendClientClaims: true, PrefixClientClaims: false },
      },
    });
    const introspect = async (token: string) =>
      (await post(`${server.issuer}/connect/introspect`, { token }, webApi)).body as Record<string, unknown>;
    const token = `${server.issuer}/connect/token`;

    const own = await post(token, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
    const ownClaims = await introspect(own.body.access_token);
    assert.deepEqual([ownClaims.client_department, ownClaims.client_site], ['IT', ['north', 'south']]);
    if (AccessTokenType === 'Jwt') assert.equal(decodeJwt(own.body.access_token).client_department, 'IT');

    const user = await signInAndRedeem({ issuer: server.issuer, ...mvc });
    assert.equal((await introspect(user.body.access_token)).client_department, undefined);

    const always = await post(
      token,
      { grant_type: 'password', username: 'alice', password: 'Pass-word-1', scope: 'intelligence_web_api' },
      basic('desk', 'desk-secret'),
    );
    const described = await introspect(always.body.access_token);
    assert.deepEqual([described.department, described.sub], ['IT', 'alice']);
  });

  test(`IncludeJwtId puts a jti into ${AccessTokenType} tokens, another into each`, async (t) => {
    const { issuer } = await startTestServer(t, {
      clients: { batch: { IncludeJwtId: true, AccessTokenType } },
    });
    const seen = new Set<unknown>();
    for (const _round of [1, 2]) {
      const { body } = await post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        basic('batch', 'batch-secret'),
      );
      seen.add((await post(`${issuer}/connect/introspect`, { token: body.access_token }, webApi)).body.jti);
    }
    assert.equal(seen.size, 2);
    assert.ok(!seen.has(undefined) && !seen.has(''));
  });
}

test('a claim of a client cannot stand in for one of the token: it is refused by name', async (t) => {
  const forged = (Type: string) => ({ Type, Value: 'forged' });
  await assert.rejects(
    startTestServer(t, {
      clients: { batch: { PrefixClientClaims: false, Claims: ['sub', 'department', 'scope'].map(forged) } },
    }),
    (err: { issues: { path: string }[] }) => {
      assert.deepEqual(
        err.issues.map(({ path }) => path),
        ['Claims[0].Type', 'Claims[2].Type'],
      );
      return true;
    },
  );
});

test('AllowClientCredentialsOnly lets an interactive client with a secret call for itself, about no user', async (t) => {
  const server = await startTestServer(t, {
    clients: { mvc: { AllowClientCredentialsOnly: true }, spa: { AllowClientCredentialsOnly: true } },
  });
  const call = (fields: Record<string, string>) =>
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials', ...fields },
      basic('mvc', 'mvc-secret'),
    );
  const { status, body } = await call({});
  assert.deepEqual([status, body.scope], [200, 'intelligence_web_api']);
  assert.equal(decodeJwt(body.access_token).sub, undefined);
  for (const scope of ['openid', 'intelligence_web_api offline_access', 'profile']) {
    assert.equal((await call({ scope })).body.error, 'invalid_scope', scope);
  }
  const withoutSecret = await post(`${server.issuer}/connect/token`, {
    grant_type: 'client_credentials',
    client_id: 'spa',
  });
  assert.equal(withoutSecret.body.error, 'unauthorized_client');
});

test('the validation endpoints are not there unless they are switched on', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const path of ['accessTokenValidation', 'identityTokenValidation']) {
    assert.equal((await fetch(`${issuer}/connect/${path}?token=x`)).status, 404);
  }
});

test('accessTokenValidation answers with the claims of a good token and 400 for any other', async (t) => {
  const server = await startTestServer(t, { server: { EnableTokenValidationEndpoints: true } });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const url = `${server.issuer}/connect/accesstokenvalidation`;
  const good = await post(url, { token: body.access_token });
  assert.equal(good.status, 200);
  const described = good.body as Record<string, unknown>;
  assert.deepEqual(
    [described.sub, described.client_id, described.scope],
    ['alice', 'mvc', ['openid', 'profile', 'intelligence_web_api']],
  );
  const query = new URLSearchParams({ token: body.access_token, expectedScope: 'intelligence_web_api' });
  assert.equal((await fetch(`${url}?${query}`)).status, 200);
  for (const fields of [
    { token: body.access_token, expectedScope: 'mi' },
    { token: 'x' },
    { token: body.id_token },
  ]) {
    assert.equal((await post(url, fields)).status, 400);
  }
  await server.context.tokens.revokeAccount('alice');
  assert.equal((await post(url, { token: body.access_token })).status, 400);
});

test('identityTokenValidation answers with the claims of an ID token of the client, and 400 for any other', async (t) => {
  const { issuer } = await startTestServer(t, { server: { EnableTokenValidationEndpoints: true } });
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const url = `${issuer}/connect/identityTokenValidation`;
  const good = await post(url, { token: body.id_token, client_id: 'mvc' });
  assert.deepEqual([good.status, good.body.sub], [200, 'alice']);
  for (const fields of [
    { token: body.id_token, client_id: 'desk' },
    { token: body.id_token },
    { token: body.access_token, client_id: 'mvc' },
  ]) {
    assert.equal((await post(url, fields as Record<string, string>)).status, 400);
  }
});

test('with LegacyErrors the token endpoint answers 400 to every error, and prompt=none interaction_required', async (t) => {
  for (const LegacyErrors of [false, true]) {
    await t.test(String(LegacyErrors), async (t2) => {
      const { issuer } = await startTestServer(t2, {
        server: { LegacyErrors },
        clients: { mvc: { RequireConsent: true } },
      });
      const wrong = await post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        basic('batch', 'wrong'),
      );
      assert.deepEqual([wrong.status, wrong.body.error], [LegacyErrors ? 400 : 401, 'invalid_client']);

      const browser = createBrowser();
      const first = await authorize({ issuer, ...mvc, browser });
      await first.signIn();
      const silent = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'none' } });
      assert.equal(
        (silent.page.location ?? first.page.location)?.searchParams.get('error'),
        LegacyErrors ? 'interaction_required' : 'consent_required',
      );
    });
  }
});

test('who asks for a signed answer of introspection gets one, for itself alone', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const response = await fetch(`${issuer}/connect/introspect`, {
    method: 'POST',
    headers: { ...webApi, accept: 'application/token-introspection+jwt' },
    body: new URLSearchParams({ token: body.access_token }),
  });
  assert.match(response.headers.get('content-type') ?? '', /^application\/token-introspection\+jwt/);
  const { payload } = await jwtVerify(
    await response.text(),
    createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks`)),
    { issuer, audience: 'intelligence_web_api', typ: 'token-introspection+jwt' },
  );
  const { token_introspection: answer, exp, sub } = payload as Record<string, unknown>;
  assert.equal((answer as { active: boolean; sub: string }).sub, 'alice');
  assert.deepEqual([exp, sub], [undefined, undefined]);
});

/** A resource whose scope names claims of the account. */
const withRoles = {
  Scopes: [{ Name: 'intelligence_web_api', Claims: ['role', 'email', 'department'] }],
};

for (const AccessTokenType of ['Jwt', 'Reference']) {
  test(`the claims that a scope names are in ${AccessTokenType} tokens, and stay as they were unless a client wants them new`, async (t) => {
    const accounts = [
      { Name: 'alice', Password: 'Pass-word-1', Email: 'alice@example.com', Roles: ['Researcher'] },
    ];
    const desk = { AccessTokenType, Claims: claims, AlwaysSendClientClaims: true };
    const server = await startTestServer(t, {
      accounts,
      resources: { intelligence_web_api: withRoles },
      clients: {
        desk,
        mvc: { AccessTokenType },
        fresh: {
          Flow: 'ResourceOwner',
          EnableLocalLogin: true,
          ClientSecrets: [{ Value: { plain: 'desk-secret' } }],
          AllowedScopes: ['intelligence_web_api', 'offline_access'],
          ...desk,
          UpdateAccessTokenClaimsOnRefresh: true,
        },
      },
    });
    const introspect = async (token: string) =>
      (await post(`${server.issuer}/connect/introspect`, { token }, webApi)).body as Record<string, unknown>;
    const call = (clientId: string, fields: Record<string, string>) =>
      post(`${server.issuer}/connect/token`, fields, basic(clientId, 'desk-secret'));
    const signIn = (clientId: string) =>
      call(clientId, {
        grant_type: 'password',
        username: 'alice',
        password: 'Pass-word-1',
        scope: 'intelligence_web_api offline_access',
      });
    const kept = await signIn('desk');
    const fresh = await signIn('fresh');
    const byCode = await signInAndRedeem({
      issuer: server.issuer,
      ...mvc,
      scope: 'openid intelligence_web_api offline_access',
    });
    for (const { body } of [kept, fresh, byCode]) {
      const answer = await introspect(body.access_token);
      assert.deepEqual([answer.role, answer.email, answer.sub], ['Researcher', 'alice@example.com', 'alice']);
      if (AccessTokenType === 'Jwt') assert.equal(decodeJwt(body.access_token).role, 'Researcher');
    }

    await server.context.db
      .knex('OidcUser')
      .where({ name: 'alice' })
      .update({ roles: '["Reader","Editor"]' });
    const refresh = async (clientId: string, token: string) =>
      introspect(
        (await call(clientId, { grant_type: 'refresh_token', refresh_token: token })).body.access_token,
      );
    const again = await refresh('desk', kept.body.refresh_token);
    assert.deepEqual([again.role, again.client_department], ['Researcher', 'IT']);
    assert.deepEqual((await refresh('fresh', fresh.body.refresh_token)).role, ['Reader', 'Editor']);
    const { body } = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: byCode.body.refresh_token },
      basic('mvc', 'mvc-secret'),
    );
    assert.equal((await introspect(body.access_token)).role, 'Researcher');
  });
}
