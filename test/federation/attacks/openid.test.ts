/** Answers of OpenID providers that are not what they seem: each is refused, and the honest one beside it passes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { JWTPayload } from 'jose';
import { createBrowser, type Page } from '../../support/browser.ts';
import { type OpenIdStandIn, startOpenIdProvider } from '../../support/identity-providers.ts';
import { authorize } from '../../support/sign-in.ts';
import { startTestServer, type TestServer } from '../../support/start-server.ts';

const script = {
  clientId: 'spa',
  redirectUri: 'http://localhost:5091/callback',
  scope: 'openid profile',
} as const;

function registration(standIn: OpenIdStandIn, more: Record<string, unknown> = {}) {
  return {
    Type: 'Oidc',
    Caption: 'Partner',
    Authority: standIn.issuer,
    ClientId: standIn.clientId,
    UserNameClaims: 'preferred_username',
    ...more,
  };
}

const open = { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } };

/** Goes out, and comes back with what the provider answers; `alter` changes the address on the way. */
async function signIn(
  server: TestServer,
  alter: (callback: URL) => URL = (callback) => callback,
): Promise<Page> {
  const attempt = await authorize({ issuer: server.issuer, ...script });
  const there = await attempt.browser.open(attempt.page.location ?? '');
  assert.ok(there.location, `${there.status} ${attempt.page.body.slice(0, 200)}`);
  return attempt.browser.open(alter(there.location));
}

const isSignedIn = (page: Page) => page.location?.searchParams.has('code') === true;

const wrongClaims: readonly [name: string, alter: (claims: JWTPayload) => JWTPayload, reason: RegExp][] = [
  ['another issuer in the ID token', (claims) => ({ ...claims, iss: 'https://evil.example' }), /"iss"/],
  ['another audience', (claims) => ({ ...claims, aud: 'somebody-else' }), /"aud"/],
  [
    'another audience beside ours, without azp',
    (claims) => ({ ...claims, aud: ['postern', 'evil'] }),
    /azp|CLAIM/i,
  ],
  ['another nonce', (claims) => ({ ...claims, nonce: 'other' }), /"nonce"/],
  ['no nonce', ({ nonce: _, ...claims }) => claims, /"nonce"/],
  ['an ID token that has expired', (claims) => ({ ...claims, exp: 1_000_000 }), /"exp"/],
  ['an ID token of tomorrow', (claims) => ({ ...claims, iat: 4_000_000_000, nbf: 4_000_000_000 }), /"nbf"/],
  ['no subject', ({ sub: _, ...claims }) => claims, /"sub"/],
];

test('wrong ID tokens of an OpenID provider sign nobody in, each with its reason in the log', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: registration(standIn) },
    clients: open,
  });
  assert.ok(isSignedIn(await signIn(server)), 'the honest one');
  for (const [name, alter, reason] of wrongClaims) {
    standIn.alter = alter;
    const before = server.logged.length;
    const page = await signIn(server);
    assert.match(page.body, /The answer of Partner cannot be used/, name);
    const line = server.logged.slice(before).find(({ msg }) => msg === 'identity provider failed');
    assert.equal(line?.errorCode, 'ERR_IDENTITY_PROVIDER_ANSWER_INVALID', name);
    assert.match(String(line?.hint), reason, name);
  }
});

test('a changed state, code or issuer in the callback signs nobody in', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: registration(standIn) },
    clients: open,
  });
  const set = (name: string, value: string) => (callback: URL) => {
    callback.searchParams.set(name, value);
    return callback;
  };
  const withoutIssuer = (callback: URL) => {
    callback.searchParams.delete('iss');
    return callback;
  };
  for (const [name, alter] of [
    ['a state that nobody gave out', set('state', 'x'.repeat(43))],
    ['no state', set('state', '')],
    ['another code', set('code', 'stolen')],
    ['the issuer of another provider (RFC 9207)', set('iss', 'https://evil.example')],
    ['no issuer where the provider sends one', withoutIssuer],
  ] as const) {
    const page = await signIn(server, alter);
    assert.ok(!isSignedIn(page) && page.status >= 400, `${name}: ${page.status}`);
  }
});

test('the code of one sign-in does not finish another', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: registration(standIn) },
    clients: open,
  });
  const attacker = await authorize({ issuer: server.issuer, ...script });
  const theirs = await attacker.browser.open(attacker.page.location ?? '');
  // PKCE and nonce belong to the other attempt.
  const page = await signIn(server, (callback) => {
    callback.searchParams.set('code', theirs.location?.searchParams.get('code') ?? '');
    return callback;
  });
  assert.match(page.body, /The answer of Partner cannot be used/);
});

test('an answer of one provider does not count at the callback of another (mix-up)', async (t) => {
  const honest = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const evil = await startOpenIdProvider(t, { sub: 'u-9', preferred_username: 'bob' });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Honest: registration(honest, { Caption: 'Honest' }),
      Evil: registration(evil, { Caption: 'Evil' }),
    },
    clients: open,
  });
  const browser = createBrowser();
  const url = new URL(`${server.issuer}/connect/authorize`);
  url.search = new URLSearchParams({
    client_id: 'spa',
    redirect_uri: script.redirectUri,
    response_type: 'code',
    scope: 'openid',
    code_challenge: 'a'.repeat(43),
    code_challenge_method: 'S256',
    acr_values: 'idp:Honest',
  }).toString();
  const leaving = await browser.open(url);
  const there = await browser.open(leaving.location ?? '');
  const callback = new URL(String(there.location).replace('/callback/oidc/Honest', '/callback/oidc/Evil'));
  assert.equal((await browser.open(callback)).status, 400);
  assert.ok(isSignedIn(await browser.open(there.location ?? '')), 'at its own callback it does');
});

test('a provider that rolls its key over is believed with the new one, without a restart', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: registration(standIn) },
    clients: open,
  });
  assert.ok(isSignedIn(await signIn(server)));
  await standIn.rollKey();
  // Keys are not fetched again within a minute, whatever comes.
  t.mock.timers.tick(61_000);
  assert.ok(isSignedIn(await signIn(server)));
});

test('metadata of another issuer, or with addresses that are not https, is not used', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  for (const [metadata, reason] of [
    [{ issuer: 'https://evil.example' }, /are those of the issuer https:\/\/evil\.example/],
    [{ issuer: 'https://login.example/{tenantid}/v2.0' }, /issuer/],
    [{ token_endpoint: 'http://sso.example.com/token' }, /token_endpoint/],
    [{ jwks_uri: undefined }, /jwks_uri/],
  ] as const) {
    standIn.metadata = metadata;
    const server = await startTestServer(t, {
      providers: { IntelligenceWsFed: null, Partner: registration(standIn) },
      clients: open,
    });
    const attempt = await authorize({ issuer: server.issuer, ...script });
    assert.equal(attempt.page.status, 503);
    assert.match(attempt.page.body, /Partner is not available/);
    assert.match(server.logText(), reason);
  }
});

test('an e-mail address is a name only where it is verified and of a domain that was said', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1' });
  const server = await startTestServer(t, {
    accounts: [{ Name: 'alice@example.com', Password: 'Pass-word-1' }],
    providers: {
      IntelligenceWsFed: null,
      Partner: registration(standIn, { UserNameClaims: 'email', Domains: 'example.com' }),
    },
    clients: open,
  });
  for (const [claims, isGood] of [
    [{ email: 'alice@example.com' }, false],
    [{ email: 'alice@example.com', email_verified: false }, false],
    [{ email: 'alice@evil.example', email_verified: true }, false],
    [{ email: ['alice@example.com', 'x@example.com'], email_verified: true }, false],
    [{ email: 'alice@example.com', email_verified: true }, true],
  ] as const) {
    standIn.claims = { sub: 'u-1', ...claims } as JWTPayload;
    assert.equal(isSignedIn(await signIn(server)), isGood, JSON.stringify(claims));
  }
});

test('a provider vouches only for the accounts that it may', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Partner: registration(standIn, { AllowedAccounts: ['b*', '*\\carol'] }),
    },
    clients: open,
  });
  assert.equal((await signIn(server)).status, 403);
  for (const name of ['bob', 'EXAMPLE\\carol']) {
    standIn.claims = { sub: name, preferred_username: name };
    assert.ok(isSignedIn(await signIn(server)), name);
  }
});
