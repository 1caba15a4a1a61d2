/** The implicit and the hybrid flows, for clients that still have them; off unless a client is registered so. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { authorize, basic, post } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const old = {
  clientId: 'old',
  redirectUri: 'http://old.example/callback',
  scope: 'openid profile intelligence_web_api',
};
const secret = { ClientSecrets: [{ Value: createHash('sha256').update('old-secret').digest('base64') }] };
const registration = {
  RedirectUris: [old.redirectUri, 'http://localhost/callback'],
  AllowedScopes: ['openid', 'profile', 'intelligence_web_api', 'offline_access'],
  EnableLocalLogin: true,
};
const implicit = {
  ...registration,
  Flow: 'Implicit',
  AllowedScopes: ['openid', 'profile', 'intelligence_web_api'],
};
const hybrid = { ...registration, ...secret, Flow: 'Hybrid' };
const halfHash = (text: string) =>
  createHash('sha256').update(text).digest().subarray(0, 16).toString('base64url');

/** Signs alice in and reads what comes back in the fragment. */
async function answerOf(issuer: string, response_type: string, more: Record<string, string> = {}) {
  const attempt = await authorize({
    issuer,
    ...old,
    withPkce: false,
    parameters: { response_type, nonce: 'n-1', ...more },
  });
  const back = attempt.page.location === undefined ? await attempt.signIn() : attempt.page;
  return { attempt, fragment: new URLSearchParams(back.location?.hash.slice(1)), back };
}

test('an implicit client gets an ID token and an access token in the fragment', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { old: implicit } });
  const { fragment, back } = await answerOf(issuer, 'id_token token');
  assert.equal(back.location?.search, '');
  const idToken = decodeJwt(fragment.get('id_token') ?? '');
  const accessToken = fragment.get('access_token') ?? '';
  assert.deepEqual(
    [idToken.sub, idToken.nonce, idToken.idp, idToken.name],
    ['alice', 'n-1', 'local', undefined],
  );
  assert.equal(idToken.at_hash, halfHash(accessToken));
  const claims = decodeJwt(accessToken);
  assert.deepEqual([claims.sub, claims.idp, claims.amr], ['alice', 'idsrv', ['password']]);
  assert.equal(typeof claims.auth_time, 'number');
  assert.equal(fragment.get('expires_in'), '3600');
  const { body } = await post(
    `${issuer}/connect/introspect`,
    { token: accessToken },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.equal(body.active, true);
});

test('an ID token alone says about the user what userinfo would have said', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { old: implicit } });
  const { fragment } = await answerOf(issuer, 'id_token');
  assert.equal(decodeJwt(fragment.get('id_token') ?? '').name, 'Alice Ashworth');
  assert.equal(fragment.get('access_token'), null);
});

test('AllowAccessTokensViaBrowser false keeps access tokens out of the address', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: { old: { ...implicit, AllowAccessTokensViaBrowser: false } },
  });
  const { fragment } = await answerOf(issuer, 'id_token token');
  assert.ok(fragment.get('error'));
  assert.equal(fragment.get('access_token'), null);
  assert.ok((await answerOf(issuer, 'id_token')).fragment.get('id_token'));
});

test('a hybrid client gets a code with an ID token that vouches for it, and redeems it', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { old: hybrid } });
  const { fragment } = await answerOf(issuer, 'code id_token', { scope: `${old.scope} offline_access` });
  const code = fragment.get('code') ?? '';
  assert.equal(decodeJwt(fragment.get('id_token') ?? '').c_hash, halfHash(code));
  const { status, body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'authorization_code', code, redirect_uri: old.redirectUri },
    basic('old', 'old-secret'),
  );
  assert.equal(status, 200, JSON.stringify(body));
  assert.ok(body.refresh_token);
});

test('a hybrid client that must use PKCE is refused without', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: { old: { ...hybrid, Flow: 'HybridWithProofKey' } },
  });
  const { fragment } = await answerOf(issuer, 'code id_token');
  assert.equal(fragment.get('error'), 'invalid_request');
});

test('a nonce is required where an ID token comes in the front channel', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { old: implicit } });
  const { fragment } = await answerOf(issuer, 'id_token', { nonce: '' });
  assert.equal(fragment.get('error'), 'invalid_request');
});

test('the flows are one client’s own: code for the hybrid alone and implicit for nobody else are refused', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { old: hybrid } });
  for (const type of ['id_token token', 'id_token', 'code']) {
    const { fragment, back } = await answerOf(issuer, type);
    assert.ok((fragment.get('error') ?? back.location?.searchParams.get('error')) !== null, type);
  }
});

test('discovery names the response types that some client has, and no others', async (t) => {
  const typesOf = async (clients: Record<string, Record<string, unknown>>) => {
    const { issuer } = await startTestServer(t, { clients });
    const response = await fetch(`${issuer}/.well-known/openid-configuration`);
    return ((await response.json()) as { response_types_supported: string[] }).response_types_supported;
  };
  assert.deepEqual(await typesOf({}), ['code']);
  assert.deepEqual(await typesOf({ old: implicit }), ['code', 'id_token', 'id_token token']);
});
