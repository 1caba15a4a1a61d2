/** Tokens: forged, of another kind, for somebody else, of something that has been switched off, many at once. */
import assert from 'node:assert/strict';
import {
  createHmac,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign as signBytes,
} from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, basic, isSignedIn, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const webApi = basic('intelligence_web_api', 'web-api-secret');
const scope = 'openid profile intelligence_web_api offline_access';

type Json = Record<string, unknown>;
const encode = (part: Json | string) =>
  Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url');

/** A JWT out of its parts, with a signature by whatever is given. */
function forge(header: Json, payload: Json, sign: (input: string) => string): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${sign(input)}`;
}

const byKey = (key: KeyObject) => (input: string) =>
  signBytes('sha256', Buffer.from(input), key).toString('base64url');
const byText = (secret: string | Buffer) => (input: string) =>
  createHmac('sha256', secret).update(input).digest('base64url');

/** Everything that somebody could make of a good token without our key. */
async function forgeriesOf(issuer: string, good: string): Promise<[what: string, token: string][]> {
  const header = decodeProtectedHeader(good) as Json;
  const payload = decodeJwt(good) as Json;
  const [head = '', body = '', signature = ''] = good.split('.');
  const { keys } = (await (await fetch(`${issuer}/.well-known/jwks`)).json()) as { keys: Json[] };
  const [published = {}] = keys;
  const publicKey = createPublicKey({ key: published, format: 'jwk' } as Parameters<
    typeof createPublicKey
  >[0]);
  const own = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = own.publicKey.export({ format: 'jwk' }) as Json;
  const mine = byKey(own.privateKey);
  const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
  const der = publicKey.export({ type: 'spki', format: 'der' }) as Buffer;
  return [
    ...['none', 'None', 'NONE', ''].map((alg): [string, string] => [
      `alg ${alg || 'empty'}`,
      forge({ ...header, alg }, payload, () => ''),
    ]),
    ['alg none with the old signature', forge({ ...header, alg: 'none' }, payload, () => signature)],
    ['HS256 by the public key as PEM', forge({ ...header, alg: 'HS256' }, payload, byText(pem))],
    ['HS256 by the public key as DER', forge({ ...header, alg: 'HS256' }, payload, byText(der))],
    [
      'HS256 by the published JWK',
      forge({ ...header, alg: 'HS256' }, payload, byText(JSON.stringify(published))),
    ],
    ['HS256 by nothing', forge({ ...header, alg: 'HS256' }, payload, byText(''))],
    ['another key under our name', forge(header, payload, mine)],
    ['a key that it brings along', forge({ ...header, jwk, kid: undefined }, payload, mine)],
    [
      'a key that it points to',
      forge({ ...header, jku: 'http://127.0.0.1:9/jwks', x5u: 'http://127.0.0.1:9/c' }, payload, mine),
    ],
    ...['../../../../dev/null', "' or '1'='1", '', '__proto__', 'constructor'].map(
      (kid): [string, string] => [`kid ${kid || 'empty'}`, forge({ ...header, kid }, payload, byText(''))],
    ),
    ['a kid that is a list', forge({ ...header, kid: [header.kid] }, payload, mine)],
    ['a critical member', forge({ ...header, crit: ['exp'] }, payload, mine)],
    ['b64 false', forge({ ...header, crit: ['b64'], b64: false }, payload, mine)],
    ['a changed subject', `${head}.${encode({ ...payload, sub: 'bob' })}.${signature}`],
    ['a later end', `${head}.${encode({ ...payload, exp: Number(payload.exp) + 9999 })}.${signature}`],
    ['a signature of zeros', `${head}.${body}.${encode('\0'.repeat(256))}`],
    ['no signature', `${head}.${body}.`],
    ['two parts', `${head}.${body}`],
    ['four parts', `${good}.${signature}`],
    ['JSON serialization', JSON.stringify({ protected: head, payload: body, signature })],
    ['a token within a token', forge({ alg: 'none', cty: 'JWT' }, { jwt: good }, () => '')],
  ];
}

/** What the endpoints say of a token: true where one of them takes it for good. */
function endpointsOf({ issuer }: TestServer, browser: ReturnType<typeof createBrowser>) {
  const redirect = encodeURIComponent(mvc.redirectUri);
  return {
    introspection: async (token: string) =>
      (await post(`${issuer}/connect/introspect`, { token }, webApi)).body.active === true,
    'introspection by the client': async (token: string) =>
      (await post(`${issuer}/connect/introspect`, { token }, basic('mvc', mvc.secret))).body.active === true,
    userinfo: async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      return (await fetch(`${issuer}/connect/userinfo`, { headers })).status === 200;
    },
    accessTokenValidation: async (token: string) =>
      (await post(`${issuer}/connect/accessTokenValidation`, { token })).status === 200,
    identityTokenValidation: async (token: string) =>
      (await post(`${issuer}/connect/identityTokenValidation`, { token, client_id: 'mvc' })).status === 200,
    'code grant': async (code: string) => {
      const form = { grant_type: 'authorization_code', code, redirect_uri: mvc.redirectUri };
      return (await post(`${issuer}/connect/token`, form, basic('mvc', mvc.secret))).status === 200;
    },
    'refresh grant': async (refresh_token: string) => {
      const form = { grant_type: 'refresh_token', refresh_token };
      return (await post(`${issuer}/connect/token`, form, basic('mvc', mvc.secret))).status === 200;
    },
    // Signs out at once where the hint is good, and asks where it is not.
    'hint at sign-out': async (hint: string) => {
      const page = await browser.request(
        `${issuer}/connect/endsession?id_token_hint=${encodeURIComponent(hint)}&client_id=mvc`,
      );
      return !/name="xsrf"/.test(page.body);
    },
    'hint at authorize': async (hint: string) => {
      const page = await browser.request(
        `${issuer}/connect/authorize?client_id=mvc&redirect_uri=${redirect}&response_type=code&scope=openid&prompt=none&id_token_hint=${encodeURIComponent(hint)}`,
      );
      return page.location?.searchParams.has('code') === true;
    },
  };
}

/** A client's endpoint for logout tokens, and what has come there. */
async function startLogoutEndpoint(t: TestContext) {
  const calls: string[] = [];
  const endpoint = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    calls.push(new URLSearchParams(Buffer.concat(chunks).toString()).get('logout_token') ?? '');
    response.end();
  });
  await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  t.after(() => endpoint.close());
  return { url: `http://localhost:${(endpoint.address() as AddressInfo).port}/`, calls };
}

const validating = { server: { EnableTokenValidationEndpoints: true } };

test('CVE rows 9, 10 and 19: a token that is forged in any way is good nowhere', async (t) => {
  const server = await startTestServer(t, validating);
  const { issuer } = server;
  const { body, browser } = await signInAndRedeem({ issuer, ...mvc, scope });
  const endpoints = endpointsOf(server, browser);
  const uses = {
    access: ['introspection', 'introspection by the client', 'userinfo', 'accessTokenValidation'],
    identity: ['identityTokenValidation', 'hint at authorize', 'hint at sign-out'],
  } as const;
  for (const [kind, names] of Object.entries(uses)) {
    const good = kind === 'access' ? body.access_token : body.id_token;
    for (const [what, token] of await forgeriesOf(issuer, good)) {
      for (const name of names) assert.equal(await endpoints[name](token), false, `${what} at ${name}`);
    }
    // The honest one, last: the sign-out ends what the others rest on.
    for (const name of names) assert.equal(await endpoints[name](good), true, `the good one at ${name}`);
  }
});

test('RFC 9700 section 2.3: a token is good for its own use, and nothing else is good for it', async (t) => {
  const { url, calls } = await startLogoutEndpoint(t);
  const server = await startTestServer(t, {
    ...validating,
    clients: { mvc: { BackChannelLogoutUri: url } },
    resources: { intelligence_web_api: { Audience: 'mvc' } },
  });
  const { issuer, context } = server;
  const first = await signInAndRedeem({ issuer, ...mvc, scope });
  const hinted = `${issuer}/connect/endsession?id_token_hint=${first.body.id_token}`;
  await first.browser.open(hinted);
  for (let round = 0; round < 100 && calls.length === 0; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const signedAnswer = await fetch(`${issuer}/connect/introspect`, {
    method: 'POST',
    headers: { ...webApi, accept: 'application/token-introspection+jwt' },
    body: new URLSearchParams({ token: first.body.refresh_token }),
  });

  const attempt = await authorize({ issuer, ...mvc, scope, withPkce: false });
  const back = await attempt.signIn();
  const { browser } = attempt;
  const { body } = await attempt.redeem(back);
  const waiting = await authorize({ issuer, ...mvc, scope, browser, withPkce: false });
  const open = await authorize({ issuer, ...mvc, browser: createBrowser() });
  const reference = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  const [grant] = (await context.db.knex('OidcToken').where({ model: 'RefreshToken' }).select('payload')) as {
    payload: string;
  }[];
  const kinds: Record<string, string> = {
    'access token': body.access_token,
    'reference token of a client': reference.body.access_token,
    'ID token': body.id_token,
    'refresh token': body.refresh_token,
    code: waiting.page.location?.searchParams.get('code') ?? '',
    'logout token': calls[0] ?? '',
    'signed answer of introspection': await signedAnswer.text(),
    'cookie of the session': browser.cookies().find(({ name }) => name === 'postern.session')?.value ?? '',
    'name of an interaction': /\/login\/([\w-]+)/.exec(open.page.url.pathname)?.[1] ?? '',
    'id of a grant': (JSON.parse(grant?.payload ?? '{}') as { grantId: string }).grantId,
    state: 'state-1',
  };
  for (const [kind, value] of Object.entries(kinds)) assert.ok(value, kind);
  const allowed = new Set([
    'access token at introspection',
    'access token at introspection by the client',
    'access token at userinfo',
    'access token at accessTokenValidation',
    'reference token of a client at introspection',
    'reference token of a client at accessTokenValidation',
    'refresh token at introspection by the client',
    'refresh token at refresh grant',
    'ID token at identityTokenValidation',
    'ID token at hint at authorize',
    'ID token at hint at sign-out',
    'code at code grant',
  ]);

  const taken: string[] = [];
  const endpoints = endpointsOf(server, browser);
  // What ends something comes last, and of each only what may be.
  for (const [name, isTaken] of Object.entries(endpoints)) {
    for (const [kind, value] of Object.entries(kinds)) {
      const use = `${kind} at ${name}`;
      if (allowed.has(use) && /grant|sign-out/.test(name)) continue;
      if (await isTaken(value)) taken.push(use);
    }
  }
  for (const name of ['code grant', 'refresh grant', 'hint at sign-out'] as const) {
    for (const [kind, value] of Object.entries(kinds)) {
      const use = `${kind} at ${name}`;
      if (allowed.has(use) && (await endpoints[name](value))) taken.push(use);
    }
  }
  assert.deepEqual(taken.sort(), [...allowed].sort());
});

for (const [algorithm, namedCurve, order] of [
  ['ES256', 'P-256', 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n],
  [
    'ES384',
    'P-384',
    0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
  ],
] as const) {
  test(`a revoked token by ${algorithm} is dead with the other signature, too, that anybody can make of its own`, async (t) => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve });
    const server = await startTestServer(t, {
      server: { FurtherSigningKeys: [{ Algorithm: algorithm, KeyFile: 'further.pem' }] },
      resources: { intelligence_web_api: { SigningAlgorithm: algorithm } },
      files: { 'further.pem': privateKey.export({ type: 'pkcs8', format: 'pem' }) as string },
    });
    const { issuer } = server;
    const { body } = await signInAndRedeem({ issuer, ...mvc, scope });
    const ofClient = await post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    );
    const endpoints = endpointsOf(server, createBrowser());
    for (const [token, credentials] of [
      [body.access_token, basic('mvc', mvc.secret)],
      [ofClient.body.access_token, basic('batch', 'batch-secret')],
    ] as const) {
      // Of an ECDSA signature (r, s) the pair (r, n - s) is one as well.
      const [head = '', payload = '', signature = ''] = token.split('.');
      const hex = Buffer.from(signature, 'base64url').toString('hex');
      const [r, s] = [hex.slice(0, hex.length / 2), hex.slice(hex.length / 2)];
      const other = (order - BigInt(`0x${s}`)).toString(16).padStart(s.length, '0');
      const twin = `${head}.${payload}.${Buffer.from(r + other, 'hex').toString('base64url')}`;
      assert.notEqual(twin, token);
      assert.equal(await endpoints.introspection(twin), true, 'nobody can tell them apart');
      await post(`${issuer}/connect/revocation`, { token }, credentials);
      for (const one of [token, twin]) {
        assert.equal(await endpoints.introspection(one), false);
        assert.equal(await endpoints.userinfo(one), false);
      }
    }
  });
}

test('CVE row 13: fifty refreshes of one token at once make one family, with a grace and without', async (t) => {
  for (const grace of [30, 0]) {
    const server = await startTestServer(t, { clients: { mvc: { RefreshTokenGraceSeconds: grace } } });
    const { issuer } = server;
    const { body } = await signInAndRedeem({ issuer, ...mvc, scope });
    const refresh = (refresh_token: string) =>
      post(
        `${issuer}/connect/token`,
        { grant_type: 'refresh_token', refresh_token },
        basic('mvc', mvc.secret),
      );
    const answers = await Promise.all(Array.from({ length: 50 }, () => refresh(body.refresh_token)));
    const successors = new Set(answers.flatMap((one) => one.body.refresh_token ?? []));
    const refused = answers.filter(({ status }) => status !== 200);
    assert.ok(refused.every((one) => one.status === 400 && one.body.error === 'invalid_grant'));
    if (grace > 0) assert.deepEqual([successors.size, refused.length], [1, 0]);
    else assert.ok(successors.size <= 1, `${successors.size} successors`);
    const grants = await server.context.db.knex('OidcToken').where({ model: 'Grant' });
    assert.ok(grants.length <= 1);
    if (grace > 0) continue;
    // Somebody else may have had it: everything of the family ends.
    for (const token of [body.refresh_token, ...successors]) assert.equal((await refresh(token)).status, 400);
    const { active } = (await post(`${issuer}/connect/introspect`, { token: body.access_token }, webApi))
      .body;
    assert.equal(active, false);
  }
});

test('CVE row 12: a resource, an identity provider or a relying party that is switched off is off at the next request', async (t) => {
  const elsewhere = await startWsFedProvider(t);
  const server = await startTestServer(t, {
    clients: {
      mvc: {
        IdentityProviderRestrictions: ['Elsewhere'],
        AllowedScopes: ['openid', 'intelligence_web_api', 'other'],
      },
    },
    resources: { other: { Secrets: [] } },
    providers: {
      Elsewhere: { Type: 'WsFed', MetadataAddress: elsewhere.metadataAddress, ProvisionAccounts: true },
    },
    relyingParties: { app: { Realm: 'urn:app', ReplyUrls: ['https://app.example/reply'] } },
  });
  const { issuer } = server;
  const { body } = await signInAndRedeem({ issuer, ...mvc, scope: 'openid other' });
  assert.ok(body.access_token);
  const outside = await authorize({ issuer, ...mvc, scope: 'openid' });
  const leaving = await outside.browser.submit(outside.page, { provider: 'Elsewhere' });
  const there = await outside.browser.open(leaving.location ?? '');
  const chosen = await authorize({ issuer, ...mvc, scope: 'openid' });
  const wsFedUrl = `${server.url}/SPSSMR/WsFed?wa=wsignin1.0&wtrealm=urn:app`;
  const atWsFed = createBrowser();
  const wsFedPage = await atWsFed.open(wsFedUrl);

  server.write('resources/other.json', { Enabled: false });
  server.write('clients/mvc.json', { AllowedScopes: ['openid', 'intelligence_web_api'] });
  server.write('providers/Elsewhere.json', { Enabled: false });
  server.write('relying-parties/app.json', { Enabled: false });
  assert.equal(await server.reload(), true);

  const late = await outside.browser.submit(there, {});
  assert.ok(!isSignedIn(late) && late.status >= 400, 'the answer that was under way');
  const button = await chosen.browser.submit(chosen.page, { provider: 'Elsewhere' });
  assert.ok(button.location === undefined || button.location.origin === new URL(issuer).origin, 'the button');
  const submitted = await atWsFed.submit(wsFedPage, { username: 'alice', password: 'Pass-word-1' });
  assert.equal(submitted.status, 400);
  assert.doesNotMatch(submitted.body, /wresult/);
  const refused = await authorize({ issuer, ...mvc, scope: 'openid other' });
  assert.equal(refused.page.location?.searchParams.get('error'), 'invalid_scope');

  server.write('resources/intelligence_web_api.json', { Enabled: false });
  for (const id of ['spa', 'desk']) server.write(`clients/${id}.json`, { AllowedScopes: ['openid'] });
  server.write('clients/mvc.json', { AllowedScopes: ['openid'] });
  for (const id of ['batch', 'batch-ref']) {
    server.write(`clients/${id}.json`, { Enabled: false, AllowedScopes: [] });
  }
  assert.equal(await server.reload(), true);
  assert.equal(
    (await post(`${issuer}/connect/introspect`, { token: body.access_token }, webApi)).status,
    401,
  );
});

test('CVE row 2: a parameter that is sent twice is refused, also to callers that are known, at every endpoint', async (t) => {
  const server = await startTestServer(t);
  const { issuer } = server;
  const twice: [path: string, body: string, credentials: Record<string, string>][] = [
    ['token', 'grant_type=client_credentials&grant_type=password', basic('batch', 'batch-secret')],
    [
      'token',
      'grant_type=client_credentials&scope=intelligence_web_api&scope=mi',
      basic('batch', 'batch-secret'),
    ],
    [
      'token',
      'grant_type=password&username=alice&username=bob&password=Pass-word-1',
      basic('desk', 'desk-secret'),
    ],
    ['token', 'grant_type=authorization_code&code=a&code=b&redirect_uri=x', basic('mvc', 'mvc-secret')],
    ['token', 'grant_type=refresh_token&refresh_token=a&refresh_token=b', basic('mvc', 'mvc-secret')],
    ['introspect', 'token=a&token=b', webApi],
    ['revocation', 'token=a&token=b', basic('mvc', 'mvc-secret')],
  ];
  for (const [path, body, credentials] of twice) {
    const response = await fetch(`${issuer}/connect/${path}`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/x-www-form-urlencoded', ...credentials },
    });
    const { error } = (await response.json()) as { error: string };
    assert.deepEqual([response.status, error], [400, 'invalid_request'], `${path} ${body}`);
  }
  const two = { ...basic('mvc', 'mvc-secret') };
  const both = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials', client_id: 'batch', client_secret: 'batch-secret' },
    two,
  );
  assert.ok(both.status >= 400, 'two callers in one request');
  // Brackets of other frameworks are no lists here, and prototypes no parameters.
  for (const name of ['scope[]', 'scope[0]', '__proto__', 'constructor', 'toString']) {
    const { status, body } = await post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials', [name]: 'mi' },
      basic('batch', 'batch-secret'),
    );
    assert.equal(status, 200, name);
    assert.equal(decodeJwt(body.access_token).scope, 'intelligence_web_api', name);
  }
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const userinfo = await fetch(`${issuer}/connect/userinfo`, {
    method: 'POST',
    body: new URLSearchParams({ access_token: body.access_token }),
    headers: { authorization: `Bearer ${body.access_token}` },
  });
  assert.equal(userinfo.status, 400, 'a token in two places');
  const inQuery = await fetch(`${issuer}/connect/userinfo?access_token=${body.access_token}`);
  assert.ok(inQuery.status >= 400, 'RFC 9700 section 4.3.2: a token in an address is none');
});
