import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportSPKI, importJWK, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';
import { type ErrorCode, ServerError } from '../../src/errors.ts';
import { createOpenIdConnect, type KeptForAnswer } from '../../src/federation/openid-connect.ts';
import { SignInRefusedError } from '../../src/federation/openid-failures.ts';
import type { OidcProviderSettings } from '../../src/federation/openid-metadata.ts';
import { createOutgoing } from '../../src/federation/outgoing.ts';
import { findFreePort } from '../support/start-server.ts';
import {
  createKey,
  type ForgedProvider,
  redirectUri,
  settingsFor,
  startForgedProvider,
  startRealProvider,
} from './openid-provider.ts';
import { certificate, recordLog, serve, serveTls } from './web.ts';

const state = 'state-of-this-browser';
const invalid = 'ERR_IDENTITY_PROVIDER_ANSWER_INVALID';
const unavailable = 'ERR_IDENTITY_PROVIDER_UNAVAILABLE';
const logoutEvent = 'http://schemas.openid.net/event/backchannel-logout';

function start(
  t: TestContext,
  {
    now = () => Math.floor(Date.now() / 1000),
    ...options
  }: { now?: () => number; trustedCertificates?: readonly string[] } = {},
) {
  const { log, text } = recordLog();
  const outgoing = createOutgoing({ log, ...options });
  t.after(() => outgoing[Symbol.asyncDispose]());
  return { ...createOpenIdConnect({ outgoing, now, log }), logText: text };
}

type RelyingParty = ReturnType<typeof start>;

/** Fails with this code and a hint that says why, and tells nothing of a token to whoever reads the log. */
async function assertFails(attempt: Promise<unknown>, code: ErrorCode, hint: RegExp): Promise<void> {
  await assert.rejects(attempt, (err) => {
    assert.ok(err instanceof ServerError, String((err as Error).stack));
    assert.match(`${err.code} ${err.hint}`, new RegExp(`^${code} .*${hint.source}`));
    assert.equal(err.status, code === invalid ? 400 : code === unavailable ? 503 : 403);
    assert.match(err.hint ?? '', /^(Upstream|127\.0\.0\.1:\d+|localhost:\d+|169\.254\.169\.254): /);
    const { log, text } = recordLog();
    log.error({ err }, 'failed');
    assert.doesNotMatch(text(), /eyJ|the-code|the-access-token|a secret/);
    return true;
  });
}

interface Forgery {
  settings?: Partial<OidcProviderSettings>;
  /** Claims of the ID token that differ from an honest one. */
  claims?: Record<string, unknown>;
  header?: Record<string, unknown>;
  /** Makes the ID token in place of the provider. */
  idToken?: (claims: JWTPayload) => Promise<string> | string;
  tokens?: Record<string, unknown>;
  /** Parameters of the answer that differ. */
  response?: Record<string, string>;
  keep?: Partial<KeptForAnswer>;
  maxAge?: number;
}

/** Goes through a sign-in at a forged provider, which is honest but for the forgery. */
async function signIn(relyingParty: RelyingParty, provider: ForgedProvider, forgery: Forgery = {}) {
  const settings = settingsFor(provider.issuer, forgery.settings);
  const { keep } = await relyingParty.begin(settings, { redirectUri, state });
  const claims = provider.claims({ nonce: keep.nonce, ...forgery.claims });
  const idToken = await (forgery.idToken?.(claims) ?? provider.sign(claims, forgery.header));
  provider.tokens = {
    access_token: 'the-access-token',
    token_type: 'Bearer',
    id_token: idToken,
    ...forgery.tokens,
  };
  const answer = {
    ...(settings.ResponseType === 'id_token' ? { id_token: idToken } : { code: 'the-code' }),
    state,
    ...forgery.response,
  };
  return relyingParty.verify(settings, {
    redirectUri,
    state,
    keep: { ...keep, ...forgery.keep },
    response: new URLSearchParams(answer),
    ...(forgery.maxAge !== undefined && { maxAge: forgery.maxAge }),
  });
}

for (const [name, changed, parameters] of [
  ['code', {}, ['code', 'state', 'iss']],
  ['code by form_post', { ResponseMode: 'form_post' }, ['code', 'state', 'iss']],
  [
    'code with the secret in the form',
    { ClientAuthentication: 'client_secret_post' },
    ['code', 'state', 'iss'],
  ],
  ['code id_token', { ResponseType: 'code id_token' }, ['code', 'id_token', 'state']],
  ['id_token', { ResponseType: 'id_token', UsePkce: false }, ['id_token', 'state']],
] satisfies [string, Partial<OidcProviderSettings>, string[]][]) {
  test(`a user signs in at an independent provider by ${name}, and out again`, async (t) => {
    const provider = await startRealProvider(t, {
      client: { token_endpoint_auth_method: changed.ClientAuthentication ?? 'client_secret_basic' },
    });
    const relyingParty = start(t);
    const settings = settingsFor(provider.issuer, changed);

    const { url, keep } = await relyingParty.begin(settings, { redirectUri, state, loginHint: 'alice' });
    const { response, method } = await provider.signIn(url);
    const identity = await relyingParty.verify(settings, { redirectUri, state, keep, response });

    assert.equal(method, name === 'code' || changed.ClientAuthentication ? 'GET' : 'POST');
    assert.deepEqual([...response.keys()].sort(), [...parameters].sort());
    assert.equal(
      new URL(url).searchParams.get('code_challenge_method'),
      changed.UsePkce === false ? null : 'S256',
    );
    assert.equal(new URL(url).searchParams.get('login_hint'), 'alice');
    assert.equal(identity.issuer, provider.issuer);
    assert.equal(identity.subject, 'upstream-alice');
    assert.deepEqual(Object.fromEntries(identity.claims), {
      sub: ['upstream-alice'],
      name: ['Alice Upstream'],
      groups: ['staff', 'readers'],
      email: ['alice@upstream.example'],
      email_verified: ['true'],
    });
    const signOut = await relyingParty.endSessionUrl(settings, {
      idTokenHint: identity.idToken,
      postLogoutRedirectUri: 'https://login.example.com/SPSSMR/Oidc/signed-out',
      state: 'bye',
    });
    const page = await fetch(signOut ?? '');
    assert.equal(page.status, 200, await page.text());
  });
}

test('amr, acr, auth_time and the session are part of the identity, and max_age reaches the provider', async (t) => {
  const provider = await startRealProvider(t, {
    configuration: {
      acrValues: ['urn:example:gold'],
      claims: {
        openid: ['sub', 'amr', 'acr', 'auth_time', 'sid'],
        profile: ['name'],
        email: ['email'],
        acr: null,
        sid: null,
        auth_time: null,
      },
    },
  });
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);

  const { url, keep } = await relyingParty.begin(settings, {
    redirectUri,
    state,
    maxAge: 600,
    acrValues: 'urn:example:gold',
  });
  const { response } = await provider.signIn(url);
  const identity = await relyingParty.verify(settings, { redirectUri, state, keep, response, maxAge: 600 });

  assert.ok(Math.abs((identity.authenticatedAt ?? 0) - Date.now() / 1000) < 60);
  assert.deepEqual(identity.methods, ['pwd', 'otp']);
  assert.equal(identity.acr, 'urn:example:gold');
});

test('a provider that wants pushed authorization requests gets them', async (t) => {
  const provider = await startRealProvider(t, {
    configuration: {
      features: {
        devInteractions: { enabled: false },
        pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: true },
      },
    },
  });
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);

  const { url, keep } = await relyingParty.begin(settings, { redirectUri, state });
  const { response } = await provider.signIn(url);

  assert.ok(new URL(url).searchParams.has('request_uri'));
  const identity = await relyingParty.verify(settings, { redirectUri, state, keep, response });
  assert.equal(identity.subject, 'upstream-alice');
});

for (const [error, reason] of [
  ['access_denied', 'cancelled'],
  ['login_required', 'interaction-required'],
  ['interaction_required', 'interaction-required'],
  ['temporarily_unavailable', 'failed'],
  ['constructor', 'failed'],
] as const) {
  test(`the answer ${error} is told apart: ${reason}`, async (t) => {
    const provider = await startRealProvider(t);
    const relyingParty = start(t);
    const settings = settingsFor(provider.issuer);
    const { url, keep } = await relyingParty.begin(settings, { redirectUri, state });
    const { response } = await provider.signIn(url, { error, error_description: 'in words' });

    await assert.rejects(
      relyingParty.verify(settings, { redirectUri, state, keep, response }),
      (err) =>
        err instanceof SignInRefusedError &&
        err.error === error &&
        err.reason === reason &&
        err.status === 403 &&
        err.hint === `Upstream: it answered ${error}: in words`,
    );
  });
}

test('an error that does not belong to this browser is an invalid answer, not a refusal', async (t) => {
  const provider = await startForgedProvider(t);
  const settings = settingsFor(provider.issuer);
  const relyingParty = start(t);
  const { keep } = await relyingParty.begin(settings, { redirectUri, state });

  for (const response of [{ error: 'access_denied', state: 'of another' }, { error: 'access_denied' }]) {
    await assertFails(
      relyingParty.verify(settings, { redirectUri, state, keep, response: new URLSearchParams(response) }),
      invalid,
      /state/,
    );
  }
});

test('a code is refused that was made for another browser, or used before', async (t) => {
  const provider = await startRealProvider(t);
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);
  const mine = await relyingParty.begin(settings, { redirectUri, state });
  const others = await relyingParty.begin(settings, { redirectUri, state });
  const { response } = await provider.signIn(others.url);

  const verify = (keep: KeptForAnswer) =>
    relyingParty.verify(settings, { redirectUri, state, keep, response });
  await assertFails(verify(mine.keep), invalid, /invalid_grant/);
  assert.equal((await verify(others.keep)).subject, 'upstream-alice');
  await assertFails(verify(others.keep), invalid, /invalid_grant/);
});

test('a code is refused of another browser where there is no PKCE, by the nonce', async (t) => {
  const provider = await startRealProvider(t, { configuration: { pkce: { required: () => false } } });
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer, { UsePkce: false });
  const mine = await relyingParty.begin(settings, { redirectUri, state });
  const { response } = await provider.signIn(
    (await relyingParty.begin(settings, { redirectUri, state })).url,
  );

  await assertFails(
    relyingParty.verify(settings, { redirectUri, state, keep: mine.keep, response }),
    invalid,
    /"nonce"/,
  );
});

test('a wrong secret is named as that, and is no fault of the user', async (t) => {
  const provider = await startRealProvider(t);
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer, { ClientSecret: 'a secret that is wrong' });
  const { url, keep } = await relyingParty.begin(settings, { redirectUri, state });
  const { response } = await provider.signIn(url);

  await assertFails(
    relyingParty.verify(settings, { redirectUri, state, keep, response }),
    unavailable,
    /ClientSecret/,
  );
});

test('the honest answers of the forged provider pass, so what is refused below is refused for the forgery', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  const codeHash = hashOf('the-code');

  assert.equal((await signIn(relyingParty, provider)).subject, 'upstream-alice');
  for (const settings of [{ ResponseType: 'id_token' }, { ResponseMode: 'form_post' }] as const) {
    assert.equal((await signIn(relyingParty, provider, { settings })).subject, 'upstream-alice');
  }
  const at = hashOf('the-access-token');
  assert.equal((await signIn(relyingParty, provider, { claims: { at_hash: at } })).subject, 'upstream-alice');
  assert.equal((await signInHybrid(relyingParty, provider, { c_hash: codeHash })).subject, 'upstream-alice');
});

function hashOf(value: string): string {
  return createHash('sha256').update(value).digest().subarray(0, 16).toString('base64url');
}

/** A hybrid sign-in whose front-channel token has these claims, and the other one those. */
async function signInHybrid(
  relyingParty: RelyingParty,
  provider: ForgedProvider,
  frontClaims: Record<string, unknown>,
  {
    backClaims = {},
    key = provider.key,
  }: { backClaims?: Record<string, unknown>; key?: typeof provider.key } = {},
) {
  const settings = settingsFor(provider.issuer, { ResponseType: 'code id_token' });
  const { keep } = await relyingParty.begin(settings, { redirectUri, state });
  const claims = provider.claims({ nonce: keep.nonce });
  const front = await new SignJWT({ ...claims, ...frontClaims })
    .setProtectedHeader({ alg: 'ES256', kid: 'first' })
    .sign(key.privateKey);
  const back = await provider.sign({ ...claims, ...backClaims });
  provider.tokens = { access_token: 'the-access-token', token_type: 'Bearer', id_token: back };
  const response = new URLSearchParams({ code: 'the-code', id_token: front, state });
  return relyingParty.verify(settings, { redirectUri, state, keep, response });
}

const now = () => Math.floor(Date.now() / 1000);
const forgeries: Readonly<Record<string, [forgery: Forgery, hint: RegExp]>> = {
  'another issuer': [{ claims: { iss: 'https://evil.example' } }, /"iss"/],
  'another audience': [{ claims: { aud: 'somebody-else' } }, /"aud"/],
  'no audience': [{ claims: { aud: undefined } }, /"aud"/],
  'an additional audience': [{ claims: { aud: ['postern', 'evil'] } }, /"aud"/],
  'an additional audience that it was made for': [
    { claims: { aud: ['postern', 'evil'], azp: 'evil' } },
    /"azp"/,
  ],
  'another authorized party': [{ claims: { azp: 'evil' } }, /azp/],
  'another nonce': [{ claims: { nonce: 'replayed' } }, /"nonce"/],
  'no nonce': [{ claims: { nonce: undefined } }, /"nonce"/],
  'an expiry that has passed': [{ claims: { exp: now() - 61, iat: now() - 400 } }, /"exp"/],
  'no expiry': [{ claims: { exp: undefined } }, /"exp"/],
  'a time from which it is valid that is to come': [{ claims: { nbf: now() + 3600 } }, /"nbf"/],
  'no subject': [{ claims: { sub: undefined } }, /"sub"/],
  'an empty subject': [{ claims: { sub: '' } }, /sub/],
  'a subject that is no text': [{ claims: { sub: 42 } }, /"sub"/],
  'a subject that is too long': [
    { claims: { sub: 'a'.repeat(256) }, settings: { GetClaimsFromUserInfo: false } },
    /too long/,
  ],
  'no signature (alg none)': [{ idToken: (claims) => new UnsecuredJWT(claims).encode() }, /"alg"/],
  'the signature cut off': [
    { idToken: async (claims) => `${new UnsecuredJWT(claims).encode().split('.').slice(1, 2)}` },
    /JWT/,
  ],
  'a header that must be understood, and is not': [
    { header: { crit: ['urn:example'], 'urn:example': 1 } },
    /"crit"/,
  ],
  'the hash of another access token': [{ claims: { at_hash: hashOf('another') } }, /at_hash/],
  'no ID token at all': [{ tokens: { id_token: undefined } }, /"id_token"/],
  'an ID token that is none': [{ tokens: { id_token: 'nonsense' } }, /JWT/],
  'an encrypted ID token': [{ tokens: { id_token: 'a.b.c.d.e' } }, /JWE/],
  'another state': [{ response: { state: 'of another browser' } }, /"state"/],
  'an issuer parameter of another provider (mix-up)': [
    { response: { iss: 'https://other.example' } },
    /"iss"/,
  ],
  'a sign-in longer ago than asked for': [
    { claims: { auth_time: now() - 3600 }, maxAge: 60 },
    /too much time/,
  ],
  'no time of sign-in although asked for': [{ maxAge: 60 }, /"auth_time"/],
};

for (const [name, [forgery, hint]] of Object.entries(forgeries)) {
  test(`an answer is refused with ${name}`, async (t) => {
    await assertFails(signIn(start(t), await startForgedProvider(t), forgery), invalid, hint);
  });
}

test('an answer is refused that was signed with the public key as a shared secret (HS256)', async (t) => {
  const provider = await startForgedProvider(t);
  const publicKey = await importJWK({ ...provider.key.publicJwk, ext: true }, 'ES256');
  const secret = new TextEncoder().encode(await exportSPKI(publicKey as Parameters<typeof exportSPKI>[0]));
  const idToken = (claims: JWTPayload) =>
    new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'first' }).sign(secret);

  await assertFails(signIn(start(t), provider, { idToken }), invalid, /"alg"/);
});

test('an answer is refused that is signed by a key of its own, whether it names ours, brings its own or points to it', async (t) => {
  const provider = await startForgedProvider(t);
  const attacker = await createKey('first');
  const jwks = await serve(t, (_request, response) => {
    response.end(JSON.stringify({ keys: [attacker.publicJwk] }));
  });

  for (const header of [{}, { jwk: attacker.publicJwk }, { jku: `http://127.0.0.1:${jwks}/` }]) {
    const idToken = (claims: JWTPayload) =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: 'ES256', kid: 'first', ...header })
        .sign(attacker.privateKey);
    await assertFails(signIn(start(t), provider, { idToken }), invalid, /signature/);
    await assertFails(
      signIn(start(t), provider, { idToken, settings: { ResponseType: 'id_token' } }),
      invalid,
      /signature/,
    );
  }
});

test('an answer is refused whose parameters are repeated, missing, or not those of the response type', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);
  const { keep } = await relyingParty.begin(settings, { redirectUri, state });

  for (const [response, hint] of [
    [`code=a&code=b&state=${state}`, /only once/],
    [`code=a&state=${state}&state=${state}`, /only once/],
    [`state=${state}`, /no code and no error/],
    ['', /no code and no error/],
    ['code=a', /"state" missing/],
    [`code=a&state=${state}&id_token=x`, /implicit and hybrid/],
    [`code=a&response=x&state=${state}`, /JARM/],
  ] as const) {
    await assertFails(
      relyingParty.verify(settings, { redirectUri, state, keep, response: new URLSearchParams(response) }),
      invalid,
      hint,
    );
  }
  assert.ok(!provider.calls.includes('/token'), 'no code was sent anywhere');
});

test('where the provider says that it names itself in its answers, an answer without its name is refused', async (t) => {
  const provider = await startForgedProvider(t);
  provider.metadata = { authorization_response_iss_parameter_supported: true };

  await assertFails(signIn(start(t), provider), invalid, /"iss" \(issuer\) missing/);
  const identity = await signIn(start(t), provider, { response: { iss: provider.issuer } });
  assert.equal(identity.subject, 'upstream-alice');
});

test('of the two tokens of a hybrid answer each is verified, and that they belong together', async (t) => {
  const provider = await startForgedProvider(t);
  const hash = { c_hash: hashOf('the-code') };
  const hybrid = (...args: [Record<string, unknown>, Parameters<typeof signInHybrid>[3]?]) =>
    signInHybrid(start(t), provider, ...args);

  await assertFails(hybrid({}), invalid, /"c_hash"/);
  await assertFails(hybrid({ c_hash: hashOf('another-code') }), invalid, /"c_hash"/);
  await assertFails(hybrid({ ...hash, nonce: 'replayed' }), invalid, /"nonce"/);
  await assertFails(hybrid({ ...hash, aud: 'somebody-else' }), invalid, /"aud"/);
  await assertFails(hybrid(hash, { key: await createKey('first') }), invalid, /signature/);
  await assertFails(hybrid(hash, { backClaims: { sub: 'mallory' } }), invalid, /different users/);
  await assertFails(hybrid(hash, { backClaims: { nonce: 'replayed' } }), invalid, /"nonce"/);
});

test('userinfo about another user is refused, and a signed one whose signature is wrong', async (t) => {
  const provider = await startForgedProvider(t);
  provider.metadata = { userinfo_signing_alg_values_supported: ['ES256', 'none', 'HS256'] };
  const relyingParty = start(t);
  const attacker = await createKey('first');

  provider.userinfo = { sub: 'mallory', email: 'root@example.com' };
  await assertFails(signIn(relyingParty, provider), invalid, /"sub"/);
  const claims = { sub: 'upstream-alice', department: 'sales' };
  provider.userinfo = await new SignJWT(claims)
    .setProtectedHeader({ alg: 'ES256', kid: 'first' })
    .sign(attacker.privateKey);
  await assertFails(signIn(relyingParty, provider), invalid, /signature/);
  provider.userinfo = new UnsecuredJWT(claims).encode();
  await assertFails(signIn(relyingParty, provider), invalid, /"alg"/);

  provider.userinfo = await provider.sign(claims);
  assert.deepEqual((await signIn(relyingParty, provider)).claims.get('department'), ['sales']);
});

test('claims become text, those of the protocol are left out, and what is signed goes before what is not', async (t) => {
  const provider = await startForgedProvider(t);
  provider.userinfo = {
    sub: 'upstream-alice',
    email: 'unsigned@example.com',
    email_verified: true,
    iss: 'https://evil.example',
    address: { country: 'DE' },
    nothing: null,
    groups: ['a', 7, { id: 1 }],
  };

  const identity = await signIn(start(t), provider, {
    claims: { email: 'signed@example.com', amr: 'password', sid: 'session-1', auth_time: 1_700_000_000 },
  });

  assert.deepEqual(Object.fromEntries(identity.claims), {
    sub: ['upstream-alice'],
    email: ['signed@example.com'],
    email_verified: ['true'],
    address: ['{"country":"DE"}'],
    groups: ['a', '7', '{"id":1}'],
  });
  assert.deepEqual(
    [identity.issuer, identity.methods, identity.sessionId, identity.authenticatedAt],
    [provider.issuer, ['password'], 'session-1', 1_700_000_000],
  );
});

test('keys that the provider has rolled are found without a restart, at once, under new names or the old ones', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  await signIn(relyingParty, provider);

  for (const kid of ['second', 'second']) {
    for (const settings of [{}, { ResponseType: 'id_token' }] as const) {
      provider.key = await createKey(kid);
      provider.published = [provider.key.publicJwk];
      assert.equal((await signIn(relyingParty, provider, { settings })).subject, 'upstream-alice');
    }
  }
});

test('a token without the name of its key is accepted while the provider has one key', async (t) => {
  const provider = await startForgedProvider(t);
  const header = { kid: undefined };

  assert.equal((await signIn(start(t), provider, { header })).subject, 'upstream-alice');
  provider.published.push((await createKey('second')).publicJwk);
  await assertFails(signIn(start(t), provider, { header }), invalid, /multiple matching keys/);
});

test('a flood of tokens with unknown keys makes us look at the keys once a second', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);
  const startedAt = Date.now();

  const flood = Array.from({ length: 30 }, async (_, index) => {
    await sleep(index * 20);
    const token = await provider.sign(provider.claims(), { kid: `unknown-${index}` });
    await assertFails(relyingParty.verifyLogoutToken(settings, token), invalid, /no applicable key/);
  });
  await Promise.all(flood);

  const seconds = (Date.now() - startedAt) / 1000;
  const fetched = provider.calls.filter((path) => path === '/jwks').length;
  assert.ok(fetched <= Math.ceil(seconds) + 1, `${fetched} in ${seconds} s`);
});

test('metadata are fetched at first use, once for many who wait, and kept for an hour', async (t) => {
  const provider = await startForgedProvider(t);
  let time = 1_000_000;
  const relyingParty = start(t, { now: () => time });
  const begin = () => relyingParty.begin(settingsFor(provider.issuer), { redirectUri, state });
  const fetched = () => provider.calls.filter((path) => path === '/.well-known/openid-configuration').length;

  assert.equal(fetched(), 0);
  await Promise.all(Array.from({ length: 20 }, begin));
  assert.equal(fetched(), 1);
  time += 3599;
  await begin();
  assert.equal(fetched(), 1);
});

test('old metadata are served while they are refreshed, and for a day where that fails', async (t) => {
  const provider = await startForgedProvider(t);
  let time = 1_000_000;
  const relyingParty = start(t, { now: () => time });
  const endpoint = async () => {
    const { url } = await relyingParty.begin(settingsFor(provider.issuer), { redirectUri, state });
    return new URL(url).pathname;
  };
  const settled = () => sleep(100);
  await endpoint();

  provider.metadata = { authorization_endpoint: `${provider.issuer}/moved` };
  time += 3600;
  assert.equal(await endpoint(), '/authorize');
  await settled();
  assert.equal(await endpoint(), '/moved');

  provider.replaced.set('/.well-known/openid-configuration', (_request, response) => {
    response.writeHead(500).end();
  });
  time += 3600;
  assert.equal(await endpoint(), '/moved');
  await settled();
  assert.match(relyingParty.logText(), /metadata of an identity provider not refreshed/);
  const failures = provider.calls.length;
  await endpoint();
  await settled();
  assert.equal(provider.calls.length, failures, 'a refresh that failed is not repeated at once');
  time += 86_400 - 3601;
  assert.equal(await endpoint(), '/moved');
  await settled();
  time += 61;
  await assertFails(endpoint(), unavailable, /status 500/);
});

test('a first fetch that failed is repeated after five seconds, and each who waited has an error of their own', async (t) => {
  const provider = await startForgedProvider(t);
  let time = 1_000_000;
  const relyingParty = start(t, { now: () => time });
  const begin = () => relyingParty.begin(settingsFor(provider.issuer), { redirectUri, state });
  provider.replaced.set('/.well-known/openid-configuration', (_request, response) => {
    response.writeHead(503).end();
  });

  const failed = await Promise.allSettled([begin(), begin(), begin()]);
  const reasons = failed.map((result) => (result.status === 'rejected' ? result.reason : undefined));
  assert.equal(new Set(reasons).size, 3);
  assert.equal(provider.calls.length, 1);

  provider.replaced.clear();
  time += 4;
  await assertFails(begin(), unavailable, /status 503/);
  time += 1;
  assert.match((await begin()).url, /authorize/);
});

for (const [name, change, hint] of [
  [
    'of another issuer',
    { issuer: 'https://evil.example' },
    /issuer https:\/\/evil\.example, but Authority is .*set Authority to https:\/\/evil\.example and MetadataAddress to /,
  ],
  [
    'of all tenants of Entra',
    { issuer: 'https://login.microsoftonline.com/{tenantid}/v2.0' },
    /tenants of everybody/,
  ],
  ['without an issuer', { issuer: undefined }, /issuer: /],
  ['without keys', { jwks_uri: undefined }, /jwks_uri: /],
  [
    'with a script for an endpoint',
    { authorization_endpoint: 'javascript:alert(1)' },
    /authorization_endpoint: /,
  ],
  [
    'that sign with shared secrets only',
    { id_token_signing_alg_values_supported: ['HS256', 'none'] },
    /none of which can prove/,
  ],
] as const) {
  test(`metadata are refused ${name}`, async (t) => {
    const provider = await startForgedProvider(t);
    provider.metadata = change;

    await assertFails(
      start(t).begin(settingsFor(provider.issuer), { redirectUri, state }),
      unavailable,
      hint,
    );
  });
}

test('an issuer may differ from Authority in a slash at its end, on either side, and tokens name it as it is', async (t) => {
  const provider = await startForgedProvider(t);
  provider.metadata = { issuer: `${provider.issuer}/` };
  const claims = { iss: `${provider.issuer}/` };

  assert.equal((await signIn(start(t), provider, { claims })).issuer, `${provider.issuer}/`);
  await assertFails(signIn(start(t), provider), invalid, /"iss"/);
  provider.metadata = {};
  const settings = { Authority: `${provider.issuer}/` };
  assert.equal((await signIn(start(t), provider, { settings })).issuer, provider.issuer);
});

test('MetadataAddress is where the metadata are, and Authority the issuer that they name', async (t) => {
  const provider = await startForgedProvider(t);
  const issuer = 'https://sts.example/tenant';
  provider.metadata = { issuer };
  const settings = {
    Authority: issuer,
    MetadataAddress: `${provider.issuer}/.well-known/openid-configuration`,
  };

  assert.equal((await signIn(start(t), provider, { settings, claims: { iss: issuer } })).issuer, issuer);
});

test('http is for loopback, unless RequireHttpsMetadata is off', async (t) => {
  const begin = (changed: Partial<OidcProviderSettings>) =>
    start(t).begin(settingsFor('http://sso.invalid', changed), { redirectUri, state });

  await assertFails(begin({}), unavailable, /is not https.*RequireHttpsMetadata/);
  await assert.rejects(begin({ RequireHttpsMetadata: false }), (err: ServerError) =>
    /its name/.test(err.hint ?? ''),
  );
});

test('metadata that came by https may not lead to http', async (t) => {
  const provider = await startForgedProvider(t);
  const port = await serveTls(t, 'localhost', (_request, response) => {
    const issuer = `https://localhost:${port}`;
    const endpoint = `${issuer}/authorize`;
    const metadata = { issuer, authorization_endpoint: endpoint, jwks_uri: `${provider.issuer}/jwks` };
    response.end(JSON.stringify(metadata));
  });
  const relyingParty = start(t, { trustedCertificates: [certificate('root')] });
  const begin = (changed: Partial<OidcProviderSettings>) =>
    relyingParty.begin(settingsFor(`https://localhost:${port}`, changed), { redirectUri, state });

  await assertFails(begin({}), unavailable, /jwks_uri without https/);
  assert.match((await begin({ RequireHttpsMetadata: false })).url, /authorize/);
});

test('metadata that lead into our own network are not followed', async (t) => {
  const provider = await startForgedProvider(t);
  let calls = 0;
  const inside = await serve(t, (_request, response) => {
    calls += 1;
    response.end('{"keys":[]}');
  });

  for (const host of ['localhost', '[::ffff:7f00:1]', '127.0.0.2']) {
    provider.metadata = { token_endpoint: `http://${host}:${inside}/token` };
    await assert.rejects(signIn(start(t), provider), (err: ServerError) =>
      /OutgoingAllowedHosts|without https/.test(err.hint ?? ''),
    );
    provider.metadata = { jwks_uri: `http://${host}:${inside}/jwks` };
    await assert.rejects(signIn(start(t), provider), (err: ServerError) =>
      /OutgoingAllowedHosts|without https/.test(err.hint ?? ''),
    );
  }
  assert.equal(calls, 0);
});

test('a provider that fails is told from an answer that is wrong', async (t) => {
  const provider = await startForgedProvider(t);
  const dead = await findFreePort();
  const tls = await serveTls(t, 'localhost', (_request, response) => void response.end());
  const relyingParty = start(t);
  const begin = (authority: string) => relyingParty.begin(settingsFor(authority), { redirectUri, state });

  await assertFails(begin(`http://127.0.0.1:${dead}`), unavailable, /refuses the connection/);
  await assertFails(begin(`https://localhost:${tls}`), unavailable, /CN=Postern Test Root/);
  await assertFails(begin(`${provider.issuer}/nothing-here`), unavailable, /status 404/);
  provider.replaced.set('/.well-known/openid-configuration', (_request, response) => {
    response.writeHead(302, { location: 'http://169.254.169.254/latest/meta-data/' }).end();
  });
  await assertFails(begin(provider.issuer), unavailable, /169\.254\.169\.254 is a private/);
  provider.replaced.clear();

  for (const [path, listener, hint] of [
    ['/token', 500, /status 500/],
    ['/jwks', 500, /status 500/],
    ['/userinfo', 500, /status 500/],
    ['/token', 302, /unexpected HTTP response status code/],
    ['/userinfo', 302, /unexpected HTTP response status code/],
  ] as const) {
    provider.replaced.clear();
    provider.replaced.set(path, (_request, response) => {
      response.writeHead(listener, { location: '/elsewhere' }).end('<html>');
    });
    await assertFails(signIn(start(t), provider), unavailable, hint);
  }
  assert.ok(!provider.calls.includes('/elsewhere'), 'neither a code nor an access token is sent on');

  provider.replaced.clear();
  provider.replaced.set('/jwks', (_request, response) => void response.end('{"keys":"none"}'));
  await assertFails(signIn(start(t), provider), unavailable, /no key set/);
  provider.replaced.set('/jwks', (_request, response) => void response.end(randomBytes(2_000_000)));
  await assertFails(signIn(start(t), provider), unavailable, /larger than/);
});

test('userinfo that refuses our access token is named as that', async (t) => {
  const provider = await startForgedProvider(t);
  provider.replaced.set('/userinfo', (_request, response) => {
    response.writeHead(401, { 'www-authenticate': 'Bearer error="invalid_token"' }).end();
  });

  await assertFails(signIn(start(t), provider), invalid, /401.*GetClaimsFromUserInfo/);
  const settings = { GetClaimsFromUserInfo: false };
  assert.equal((await signIn(start(t), provider, { settings })).subject, 'upstream-alice');
});

test('the sign-out goes to the provider with the ID token, our client and the state, or nowhere', async (t) => {
  const provider = await startForgedProvider(t);
  const settings = settingsFor(provider.issuer);
  const options = { idTokenHint: 'an-id-token', postLogoutRedirectUri: 'https://us.example/out', state };

  const url = new URL((await start(t).endSessionUrl(settings, options)) ?? '');
  assert.equal(url.origin + url.pathname, `${provider.issuer}/logout`);
  assert.deepEqual(Object.fromEntries(url.searchParams), {
    id_token_hint: 'an-id-token',
    post_logout_redirect_uri: 'https://us.example/out',
    state,
    client_id: 'postern',
  });
  provider.metadata = { end_session_endpoint: undefined };
  assert.equal(await start(t).endSessionUrl(settings, options), undefined);
});

test('a logout token ends a session or all of a subject', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  const claims = provider.claims({ jti: 'once', events: { [logoutEvent]: {} } });
  const { exp = 0 } = claims;

  for (const [changed, header, expected] of [
    [{ sid: 's1' }, { typ: 'logout+jwt' }, { subject: 'upstream-alice', sessionId: 's1' }],
    [{ sub: undefined, sid: 's1' }, {}, { sessionId: 's1' }],
    [{}, { typ: 'JWT' }, { subject: 'upstream-alice' }],
  ] as const) {
    assert.deepEqual(
      await relyingParty.verifyLogoutToken(
        settingsFor(provider.issuer),
        await provider.sign({ ...claims, ...changed } as JWTPayload, header),
      ),
      { issuer: provider.issuer, ...expected, tokenId: 'once', expiresAt: exp + 60 },
    );
  }
});

for (const [name, changed, header, hint] of [
  ['another issuer', { iss: 'https://evil.example' }, {}, /"iss"/],
  ['another audience', { aud: 'somebody-else' }, {}, /"aud"/],
  ['an expiry that has passed', { exp: now() - 61 }, {}, /"exp"/],
  ['no expiry', { exp: undefined }, {}, /"exp"/],
  ['no time of issue', { iat: undefined }, {}, /"iat"/],
  ['a time of issue long ago', { iat: now() - 3600 }, {}, /"iat"/],
  ['a time of issue to come', { iat: now() + 3600, exp: now() + 7200 }, {}, /"iat"/],
  ['no identifier', { jti: undefined }, {}, /"jti"/],
  ['no event', { events: undefined }, {}, /"events"/],
  ['another event', { events: { 'https://example.com/event': {} } }, {}, /lacks the event/],
  ['an event that is no object', { events: { [logoutEvent]: true } }, {}, /lacks the event/],
  ['a nonce', { nonce: 'n' }, {}, /nonce/],
  ['neither subject nor session', { sub: undefined }, {}, /neither a subject nor a session/],
  ['another type', {}, { typ: 'at+jwt' }, /type/],
] satisfies [string, Record<string, unknown>, Record<string, unknown>, RegExp][]) {
  test(`a logout token is refused with ${name}`, async (t) => {
    const provider = await startForgedProvider(t);
    const claims = provider.claims({ jti: 'once', events: { [logoutEvent]: {} }, ...changed });
    const token = await provider.sign(claims, { typ: 'logout+jwt', ...header });

    await assertFails(start(t).verifyLogoutToken(settingsFor(provider.issuer), token), invalid, hint);
  });
}

test('a logout token is refused that is unsigned, signed by somebody else, an ID token, or none', async (t) => {
  const provider = await startForgedProvider(t);
  const settings = settingsFor(provider.issuer);
  const relyingParty = start(t);
  const claims = provider.claims({ jti: 'once', events: { [logoutEvent]: {} } });
  const attacker = await createKey('first');
  const forged = new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: 'first' });

  for (const [token, hint] of [
    [new UnsecuredJWT(claims).encode(), /"alg"/],
    [await forged.sign(attacker.privateKey), /signature/],
    [await provider.sign(provider.claims({ nonce: 'n', jti: 'x' })), /"events"/],
    ['nonsense', /JWS/],
    ['', /JWS/],
  ] as const) {
    await assertFails(relyingParty.verifyLogoutToken(settings, token), invalid, hint);
  }
});

test('a logout token of the real provider is accepted', async (t) => {
  let receive: (body: string) => void = () => {};
  const received = new Promise<string>((resolve) => {
    receive = resolve;
  });
  const port = await serve(t, async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    receive(body);
    response.end();
  });
  const provider = await startRealProvider(t, {
    client: {
      backchannel_logout_uri: `http://localhost:${port}/`,
      backchannel_logout_session_required: true,
    },
    configuration: {
      features: { devInteractions: { enabled: false }, backchannelLogout: { enabled: true } },
      // Without the guard that keeps it from loopback.
      fetch: (url, { dispatcher: _guard, ...options }: RequestInit = {}) => fetch(url, options),
    },
  });
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer);
  const { url, keep } = await relyingParty.begin(settings, { redirectUri, state });
  const { response, signOut } = await provider.signIn(url);
  const identity = await relyingParty.verify(settings, { redirectUri, state, keep, response });

  await signOut();
  const token = new URLSearchParams(await received).get('logout_token') ?? '';
  const notice = await relyingParty.verifyLogoutToken(settings, token);

  assert.equal(notice.subject, 'upstream-alice');
  assert.equal(notice.sessionId, identity.sessionId);
});

test('an inspection says what does not fit, and fails where the provider cannot be used', async (t) => {
  const provider = await startForgedProvider(t);
  const relyingParty = start(t);
  const settings = settingsFor(provider.issuer, { ClientAuthentication: 'client_secret_post' });

  assert.deepEqual(await relyingParty.inspect(settings), {
    issuer: provider.issuer,
    warnings: ['its issuer is not https: who can listen in can sign in'],
  });
  provider.metadata = {
    response_types_supported: ['id_token'],
    response_modes_supported: ['query'],
    token_endpoint_auth_methods_supported: ['private_key_jwt'],
    code_challenge_methods_supported: [],
    scopes_supported: ['openid'],
    userinfo_endpoint: undefined,
    end_session_endpoint: undefined,
  };
  const { warnings } = await relyingParty.inspect({ ...settings, ResponseMode: 'form_post' });
  for (const word of [
    'ResponseType',
    'form_post',
    'ClientAuthentication',
    'PKCE',
    'userinfo',
    'end_session',
    'profile',
    'email',
  ]) {
    assert.equal(warnings.filter((warning) => warning.includes(word)).length > 0, true, word);
  }
  provider.published = [];
  provider.replaced.set('/jwks', (_request, response) => void response.writeHead(404).end());
  await assertFails(relyingParty.inspect(settings), unavailable, /status 404/);
});
