/** Signing out beyond our own session: at the identity provider, at the clients, and when it begins elsewhere. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import { createBrowser, type Page } from '../support/browser.ts';
import {
  identity,
  type OpenIdStandIn,
  startOpenIdProvider,
  startWsFedProvider,
} from '../support/identity-providers.ts';
import { authorize, mvc, post } from '../support/sign-in.ts';
import { findFreePort, startTestServer, type TestServer } from '../support/start-server.ts';

const scope = 'openid profile intelligence_web_api';
const webApi = {
  authorization: `Basic ${Buffer.from('intelligence_web_api:web-api-secret').toString('base64')}`,
};

function partner(standIn: OpenIdStandIn) {
  return {
    Type: 'Oidc',
    Caption: 'Partner',
    Authority: standIn.issuer,
    ClientId: standIn.clientId,
    UserNameClaims: 'preferred_username',
  };
}

/** Signs in to mvc through the one provider, and gets the tokens. */
async function signIn(server: TestServer, provider: string) {
  const attempt = await authorize({ issuer: server.issuer, ...mvc, scope });
  const leaving = await attempt.browser.submit(attempt.page, { provider });
  const there = await attempt.browser.open(leaving.location ?? '');
  const back =
    there.location === undefined
      ? await attempt.browser.submit(there, {})
      : await attempt.browser.open(there.location);
  const { body } = await attempt.redeem(back);
  assert.ok(body.access_token, JSON.stringify(body));
  const isActive = async () =>
    (await post(`${server.issuer}/connect/introspect`, { token: body.access_token }, webApi)).body.active;
  assert.equal(await isActive(), true);
  return { browser: attempt.browser, tokens: body, isActive };
}

function endSessionUrl(issuer: string, idToken: string): URL {
  const url = new URL(`${issuer}/connect/endsession`);
  url.search = new URLSearchParams({
    id_token_hint: idToken,
    post_logout_redirect_uri: 'http://localhost:5090/',
    state: 'farewell-1',
  }).toString();
  return url;
}

test('signing out goes on to the OpenID provider, with its ID token as hint, and back to the client with its state', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice', sid: 's-1' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: partner(standIn) },
    clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
  });
  const { browser, tokens, isActive } = await signIn(server, 'Partner');
  const leaving = await browser.open(endSessionUrl(server.issuer, tokens.id_token));
  assert.equal(leaving.location?.href.split('?')[0], `${standIn.issuer}/logout`);
  const hint = leaving.location?.searchParams.get('id_token_hint') ?? '';
  assert.match(Buffer.from(hint.split('.')[1] ?? '', 'base64url').toString(), /"sub":"u-1"/);
  const returned = await browser.open(leaving.location ?? '');
  const back = await browser.open(returned.location ?? '');
  assert.equal(back.location?.href, 'http://localhost:5090/?state=farewell-1');
  assert.equal(await isActive(), false);
  const rows = await server.context.db.knex('OidcToken').select('payload');
  assert.ok(!JSON.stringify(rows).includes(hint), 'the ID token of the provider is not stored in clear');
});

test('signing out goes on to the WS-Federation provider and back', async (t) => {
  const standIn = await startWsFedProvider(t, { claims: { [`${identity}/upn`]: 'alice' } });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress },
    },
  });
  const { browser, tokens } = await signIn(server, 'IntelligenceWsFed');
  const leaving = await browser.open(endSessionUrl(server.issuer, tokens.id_token));
  assert.equal(leaving.location?.searchParams.get('wa'), 'wsignout1.0');
  const returned = await browser.open(leaving.location ?? '');
  const back = await browser.open(returned.location ?? '');
  assert.equal(back.location?.href, 'http://localhost:5090/?state=farewell-1');
});

test('a provider without a place to sign out keeps nobody here, and SignOut false leaves it alone', async (t) => {
  for (const [SignOut, metadata] of [
    [true, { end_session_endpoint: undefined }],
    [false, {}],
  ] as const) {
    const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
    standIn.metadata = metadata;
    const server = await startTestServer(t, {
      providers: { IntelligenceWsFed: null, Partner: { ...partner(standIn), SignOut } },
      clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
    });
    const { browser, tokens } = await signIn(server, 'Partner');
    const back = await browser.open(endSessionUrl(server.issuer, tokens.id_token));
    assert.equal(back.location?.href, 'http://localhost:5090/?state=farewell-1');
  }
});

async function startClientEndpoint(t: TestContext, answers: readonly number[]) {
  const calls: URLSearchParams[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    calls.push(new URLSearchParams(Buffer.concat(chunks).toString()));
    response.writeHead(answers[calls.length - 1] ?? 200).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return { url: `http://localhost:${(server.address() as AddressInfo).port}/logout`, calls };
}

async function until(condition: () => boolean): Promise<void> {
  for (let round = 0; round < 200 && !condition(); round += 1)
    await new Promise((resolve) => setTimeout(resolve, 25));
  assert.ok(condition(), 'it happened in time');
}

test('clients hear of a sign-out by a signed call, again if the first one fails, and by a frame', async (t) => {
  const endpoint = await startClientEndpoint(t, [503]);
  const server = await startTestServer(t, {
    clients: {
      mvc: { BackChannelLogoutUri: endpoint.url, LogoutUri: 'http://localhost:5090/signed-out?app=1' },
    },
  });
  const attempt = await authorize({ issuer: server.issuer, ...mvc, scope });
  const back = await attempt.signIn();
  const { body } = await attempt.redeem(back);
  const page = await attempt.browser.open(endSessionUrl(server.issuer, body.id_token));
  assert.equal(page.status, 200);
  const frame = /<iframe[^>]*src="([^"]*)"/.exec(page.body)?.[1]?.replaceAll('&amp;', '&') ?? '';
  const sid = new URL(frame).searchParams.get('sid');
  assert.deepEqual(
    [new URL(frame).searchParams.get('app'), new URL(frame).searchParams.get('iss')],
    ['1', server.issuer],
  );
  assert.match(page.headers.get('content-security-policy') ?? '', /frame-src http:\/\/localhost:5090$/);
  assert.match(page.body, /http-equiv="refresh" content="2;url=http:\/\/localhost:5090\/\?state=farewell-1"/);

  await until(() => endpoint.calls.length >= 2);
  const token = endpoint.calls[1]?.get('logout_token') ?? '';
  const keys = createRemoteJWKSet(new URL(`${server.issuer}/.well-known/jwks`));
  const { payload, protectedHeader } = await jwtVerify(token, keys, {
    issuer: server.issuer,
    audience: 'mvc',
  });
  assert.equal(protectedHeader.typ, 'logout+jwt');
  assert.deepEqual([payload.sub, payload.sid], ['alice', sid]);
  assert.ok('http://schemas.openid.net/event/backchannel-logout' in (payload.events as object));
  assert.ok(!server.logText().includes(token), 'the log does not hold the token');
});

test('a logout token of the provider ends the sessions here, by sid or by sub, and each is good once', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice', sid: 's-1' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: partner(standIn) },
    clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
  });
  const now = Math.floor(Date.now() / 1000);
  const events = { 'http://schemas.openid.net/event/backchannel-logout': {} };
  const base = { iss: standIn.issuer, aud: standIn.clientId, iat: now, exp: now + 120, events };
  const send = (token: string) =>
    post(`${server.issuer}/callback/oidc/Partner/logout`, { logout_token: token });

  const first = await signIn(server, 'Partner');
  standIn.claims = { ...standIn.claims, sid: 's-2' };
  const second = await signIn(server, 'Partner');
  const wrong: [string, string][] = [
    ['no event', await standIn.signLogoutToken({ ...base, events: {}, jti: 'a', sid: 's-1' })],
    ['a nonce', await standIn.signLogoutToken({ ...base, jti: 'b', sid: 's-1', nonce: 'n' })],
    ['another audience', await standIn.signLogoutToken({ ...base, aud: 'other', jti: 'c', sid: 's-1' })],
    [
      'another issuer',
      await standIn.signLogoutToken({ ...base, iss: 'https://evil.example', jti: 'd', sid: 's-1' }),
    ],
    [
      'too old',
      await standIn.signLogoutToken({ ...base, iat: now - 4000, exp: now - 3000, jti: 'e', sid: 's-1' }),
    ],
    ['nobody', await standIn.signLogoutToken({ ...base, jti: 'f' })],
    [
      'no signature',
      `${Buffer.from('{"alg":"none","typ":"logout+jwt"}').toString('base64url')}.${Buffer.from(JSON.stringify({ ...base, jti: 'g', sid: 's-1' })).toString('base64url')}.`,
    ],
  ];
  for (const [what, token] of wrong) assert.equal((await send(token)).status, 400, what);
  assert.equal(await first.isActive(), true);

  const bySid = await standIn.signLogoutToken({ ...base, jti: 'h', sid: 's-1' });
  assert.equal((await send(bySid)).status, 200);
  assert.deepEqual([await first.isActive(), await second.isActive()], [false, true]);
  assert.equal((await send(bySid)).status, 400, 'used before');
  const ofNoSession = await standIn.signLogoutToken({ ...base, jti: 'j', sid: 's-9', sub: 'u-1' });
  assert.equal((await send(ofNoSession)).status, 200);
  assert.equal(await second.isActive(), true, 'another session of the same user goes on');
  const again = await authorize({ issuer: server.issuer, ...mvc, scope, browser: first.browser });
  assert.equal(again.page.status, 200, 'the login page: the session is gone');

  const bySub = await standIn.signLogoutToken({ ...base, jti: 'i', sub: 'u-1' });
  assert.equal((await send(bySub)).status, 200);
  assert.equal(await second.isActive(), false);
});

test('wsignoutcleanup1.0 in a frame of the provider ends the session by a cookie of its own, and says nothing else', async (t) => {
  const standIn = await startWsFedProvider(t, { claims: { [`${identity}/upn`]: 'alice' } });
  const port = await findFreePort();
  const server = await startTestServer(t, {
    // As behind a proxy that speaks https: a cookie for frames of others must be Secure.
    server: { PublicUrl: `https://localhost:${port}/SPSSMR/Oidc`, Listener: { Port: port } },
    providers: {
      IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress },
      Other: { Type: 'WsFed', MetadataAddress: standIn.metadataAddress },
    },
  });
  const plain = (url: URL | string) => String(url).replace('https:', 'http:');
  const browser = createBrowser();
  const open = async (url: URL | string): Promise<Page> => {
    let page = await browser.request(plain(url));
    while (page.location?.port === String(port)) page = await browser.request(plain(page.location));
    return page;
  };
  const query = {
    client_id: 'spa',
    redirect_uri: 'http://localhost:5091/callback',
    response_type: 'code',
    scope: 'openid',
    code_challenge: 'x'.repeat(43),
    code_challenge_method: 'S256',
  };
  const authorizeUrl = `${server.issuer}/connect/authorize?${new URLSearchParams(query)}`;
  const there = await browser.request((await open(authorizeUrl)).location ?? '');
  const [, wresult = ''] = /name="wresult" value="([^"]*)"/.exec(there.body) ?? [];
  const answer = await browser.request(plain(`${server.issuer}/callback/wsfed/IntelligenceWsFed`), {
    method: 'POST',
    body: new URLSearchParams({
      wa: 'wsignin1.0',
      wctx: standIn.requests[0]?.get('wctx') ?? '',
      wresult: wresult
        .replaceAll('&quot;', '"')
        .replaceAll('&lt;', '<')
        .replaceAll('&gt;', '>')
        .replaceAll('&amp;', '&'),
    }),
  });
  let page = answer;
  const setCookies: string[] = [];
  while (page.location?.port === String(port)) {
    page = await browser.request(plain(page.location));
    setCookies.push(...page.headers.getSetCookie());
  }
  assert.ok(page.location?.searchParams.has('code'));
  const handle = setCookies.find((line) => line.startsWith('__Host-postern.signout='));
  assert.match(handle ?? '', /; path=\/; .*secure; httponly/i);
  assert.match(handle ?? '', /samesite=none/i);
  assert.ok((await open(authorizeUrl)).location?.searchParams.has('code'), 'the session is there');

  const cleanup = `${server.issuer}/callback/wsfed/IntelligenceWsFed?wa=wsignoutcleanup1.0`;
  assert.equal((await fetch(plain(cleanup))).status, 200, 'a stranger is answered alike');
  assert.ok((await open(authorizeUrl)).location?.searchParams.has('code'), 'and ends nothing');
  await browser.request(plain(cleanup.replace('/IntelligenceWsFed', '/Other')));
  assert.ok((await open(authorizeUrl)).location?.searchParams.has('code'), 'nor does another provider');
  const framed = await browser.request(plain(cleanup));
  assert.deepEqual([framed.status, framed.headers.get('x-frame-options')], [200, null]);
  assert.equal((await open(authorizeUrl)).location?.origin, standIn.url, 'the session is gone');
});

test('RequireSignOutPrompt asks even who comes with an ID token', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequireSignOutPrompt: true } } });
  const attempt = await authorize({ issuer: server.issuer, ...mvc, scope });
  const { body } = await attempt.redeem(await attempt.signIn());
  const page = await attempt.browser.open(endSessionUrl(server.issuer, body.id_token));
  assert.match(page.body, /Do you want to sign out\?/);
});
