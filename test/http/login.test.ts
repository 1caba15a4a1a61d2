import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { authorize, mvc, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

test('a wrong password says only that name or password are wrong, keeps the name, and can be tried again', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const wrong = await attempt.signIn(attempt.page, 'alice', 'not-it');
  const unknown = await attempt.signIn(attempt.page, 'nobody', 'not-it');

  assert.equal(wrong.status, 400);
  assert.match(wrong.body, /role="alert"/);
  assert.match(wrong.body, /value="alice"/);
  assert.ok(!wrong.body.includes('not-it'));
  assert.equal(unknown.body.replaceAll('nobody', 'alice'), wrong.body);

  const back = await attempt.signIn(wrong);
  assert.ok(back.location?.searchParams.get('code'));
});

test('login_hint fills the name, escaped', async (t) => {
  const server = await startTestServer(t);
  const { page } = await authorize({
    issuer: server.issuer,
    ...mvc,
    parameters: { login_hint: 'EXAMPLE\\carol"><script>' },
  });
  assert.match(page.body, /value="EXAMPLE\\carol&quot;&gt;&lt;script&gt;"/);
});

test('Cancel sends the user back with access_denied', async (t) => {
  const server = await startTestServer(t);
  const { browser, page } = await authorize({ issuer: server.issuer, ...mvc });
  const back = await browser.submit(page, { action: 'cancel' });
  assert.equal(back.location?.searchParams.get('error'), 'access_denied');
  assert.equal(back.location?.searchParams.get('state'), 'state-1');
});

test('a client without local login, and without an identity provider, gets a page that says so', async (t) => {
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: { Enabled: false } } });
  const attempt = await authorize({
    issuer: server.issuer,
    clientId: 'spa',
    redirectUri: 'http://localhost:5091/callback',
    scope: 'openid profile',
  });
  assert.equal(attempt.page.status, 403);
  assert.ok(!attempt.page.body.includes('type="password"'));
  assert.match(attempt.page.body, /http:\/\/localhost:5091\//);
});

test('a session made by local login does not sign in to a client that has none', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const { page } = await authorize({
    issuer: server.issuer,
    clientId: 'spa',
    redirectUri: 'http://localhost:5091/callback',
    scope: 'openid',
    browser,
  });
  assert.equal(page.url.pathname, '/SPSSMR/WsFed', 'it asks at its identity provider');
  assert.match(page.body, /type="password"/);
});

test('an interaction that was finished says what happened and offers the way back', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  await attempt.signIn();

  const again = await attempt.browser.open(attempt.page.url);
  assert.equal(again.status, 400);
  assert.match(again.body, /href="http:\/\/localhost:5090\/"/);
  const posted = await attempt.signIn();
  assert.match(posted.body, /href="http:\/\/localhost:5090\/"/);
});

test('an interaction without its cookie is as good as none', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const stranger = await createBrowser().open(attempt.page.url);
  assert.equal(stranger.status, 400);
  assert.ok(!stranger.body.includes('type="password"'));
});

test('the way back to the engine without a finished sign-in, or a second time, is a page with the way back', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const [uid = ''] = attempt.page.url.pathname.split('/').slice(-1);
  const resume = `${server.issuer}/connect/authorize/${uid}`;
  await attempt.signIn();
  const again = await attempt.browser.open(resume);
  assert.ok(again.status >= 400);
  assert.match(again.body, /href="http:\/\/localhost:5090\/"/);
});

test('an interaction ends after its time', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const server = await startTestServer(t, { now: () => Math.floor(Date.now() / 1000) });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  t.mock.timers.setTime(Date.now() + 3601_000);
  const late = await attempt.signIn();
  assert.match(late.body, /href="http:\/\/localhost:5090\/"/);
});

test('a form without its token, with another’s, or from another site signs nobody in', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const fields = { username: 'alice', password: 'Pass-word-1' };
  for (const csrf of [undefined, 'x', '']) {
    const page = await attempt.browser.submit(attempt.page, { ...fields, csrf });
    assert.equal(page.status, 400, String(csrf));
    assert.match(page.body, /type="password"/);
  }
  const foreign = await attempt.browser.request(attempt.page.url, {
    method: 'POST',
    body: new URLSearchParams(fields),
    headers: { 'sec-fetch-site': 'cross-site' },
  });
  assert.equal(foreign.status, 403);
  const rows = await server.context.db.knex('OidcToken').where({ model: 'Session' });
  assert.equal(rows.length, 0);
});

test('an account that must change its password chooses a new one and is signed in', async (t) => {
  const server = await startTestServer(t);
  await server.context.accounts.setPassword('alice', 'Temporary-1', { mustChange: true });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const page = await attempt.signIn(attempt.page, 'alice', 'Temporary-1');
  assert.match(page.body, /name="newPassword"/);

  const differ = await attempt.browser.submit(page, {
    newPassword: 'New-pass-1',
    repeatPassword: 'New-pass-2',
  });
  assert.equal(differ.status, 400);
  const old = await attempt.browser.submit(page, {
    newPassword: 'Temporary-1',
    repeatPassword: 'Temporary-1',
  });
  assert.equal(old.status, 400);
  const short = await attempt.browser.submit(page, { newPassword: 'a', repeatPassword: 'a' });
  assert.equal(short.status, 400);
  // A reload of the page asks for the same thing.
  assert.match((await attempt.browser.open(attempt.page.url)).body, /name="newPassword"/);

  const back = await attempt.browser.submit(page, {
    newPassword: 'New-pass-1',
    repeatPassword: 'New-pass-1',
  });
  const { body } = await attempt.redeem(back);
  assert.equal(decodeJwt(body.access_token).sub, 'alice');
  const next = await signInAndRedeem({ issuer: server.issuer, ...mvc, password: 'New-pass-1' });
  assert.equal(next.status, 200);
});

test('who must change the password cannot leave the page for the client', async (t) => {
  const server = await startTestServer(t);
  await server.context.accounts.setPassword('alice', 'Temporary-1', { mustChange: true });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  await attempt.signIn(attempt.page, 'alice', 'Temporary-1');
  const [uid = ''] = attempt.page.url.pathname.split('/').slice(-1);
  const page = await attempt.browser.open(`${server.issuer}/connect/authorize/${uid}`);
  assert.equal(page.location, undefined);
  assert.match(page.body, /type="password"/);
});

test('consent is asked for, may be given in part, remembered, and asked again for more', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const browser = createBrowser();
  const attempt = await authorize({ issuer: server.issuer, ...mvc, browser });
  const consent = await attempt.signIn();
  assert.match(consent.body, /value="allow"/);

  const partly = await browser.submit(consent, {
    action: 'allow',
    scope: 'intelligence_web_api',
    remember: 'yes',
  });
  const { body } = await attempt.redeem(partly);
  assert.deepEqual(decodeJwt(body.access_token).scope, ['openid', 'intelligence_web_api']);

  const same = await authorize({
    issuer: server.issuer,
    ...mvc,
    scope: 'openid intelligence_web_api',
    browser,
  });
  assert.ok(same.page.location?.searchParams.get('code'), 'remembered');
  const more = await authorize({ issuer: server.issuer, ...mvc, scope: 'openid email', browser });
  assert.match(more.page.body, /value="allow"/);
  const offline = await authorize({ issuer: server.issuer, ...mvc, scope: 'openid offline_access', browser });
  assert.match(offline.page.body, /value="allow"/);
});

test('consent that is denied goes back as access_denied, and nothing is granted', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const back = await attempt.browser.submit(await attempt.signIn(), { action: 'deny' });
  assert.equal(back.location?.searchParams.get('error'), 'access_denied');
  assert.equal((await server.context.db.knex('OidcToken').where({ model: 'Grant' })).length, 0);
});

test('on the consent page another user can be chosen', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const consent = await attempt.signIn();
  const login = await attempt.browser.submit(consent, { action: 'switch' });
  assert.match(login.body, /type="password"/);

  // The other user is asked, too, where it is the request alone that wants it.
  const asking = await authorize({ issuer: server.issuer, ...mvc, parameters: { prompt: 'consent' } });
  server.write('clients/mvc.json', { RequireConsent: false });
  await server.reload();
  const asked = await asking.browser.submit(await asking.signIn(), { action: 'switch' });
  assert.match((await asking.signIn(asked, 'bob')).body, /name="scope"/);
});

test('a session lasts as long as server.json says, from the sign-in on', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const server = await startTestServer(t, {
    now: () => Math.floor(Date.now() / 1000),
    server: { SessionLifetime: 1000 },
  });
  const browser = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  t.mock.timers.setTime(Date.now() + 600_000);
  assert.ok((await authorize({ issuer: server.issuer, ...mvc, browser })).page.location);
  t.mock.timers.setTime(Date.now() + 600_000);
  assert.match((await authorize({ issuer: server.issuer, ...mvc, browser })).page.body, /type="password"/);
});

test('every page forbids scripts and frames, and may not be stored', async (t) => {
  const server = await startTestServer(t);
  const { page } = await authorize({ issuer: server.issuer, ...mvc });
  const policy = page.headers.get('content-security-policy') ?? '';
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.ok(!policy.includes('unsafe'));
  assert.equal(page.headers.get('cache-control'), 'no-store');
  assert.equal(page.headers.get('referrer-policy'), 'no-referrer');
  assert.equal(page.headers.get('x-frame-options'), 'DENY');
  assert.ok(!/<script/i.test(page.body));
});

test('cookies are HttpOnly, Lax and signed; the session’s is for the whole site', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  await attempt.signIn();
  const names = attempt.browser.cookies().map(({ name, path }) => `${name} ${path}`);
  assert.deepEqual(names.filter((name) => name.startsWith('postern.session')).sort(), [
    'postern.session /',
    'postern.session.sig /',
  ]);
});

test('a pending new-password page is worth nothing once an administrator has set another password', async (t) => {
  const server = await startTestServer(t);
  const { accounts, tokens } = server.context;
  await accounts.setPassword('alice', 'Temporary-1', { mustChange: true });
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const page = await attempt.signIn(attempt.page, 'alice', 'Temporary-1');

  await accounts.setPassword('alice', 'From-the-admin-1');
  for (const revoke of [false, true]) {
    if (revoke) await tokens.revokeAccount('alice');
    const refused = await attempt.browser.submit(page, {
      newPassword: 'Attacker-1',
      repeatPassword: 'Attacker-1',
    });
    assert.equal(refused.location, undefined);
    assert.ok(refused.status >= 400, String(refused.status));
  }

  assert.equal((await accounts.verifyCredentials('alice', 'Attacker-1')).kind, 'refused');
  assert.equal((await accounts.verifyCredentials('alice', 'From-the-admin-1')).kind, 'accepted');
});

test('a sign-in that was not carried through before the password changed is none', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  const answer = await attempt.browser.request(attempt.page.url, {
    method: 'POST',
    body: new URLSearchParams({
      csrf: /name="csrf" value="([^"]*)"/.exec(attempt.page.body)?.[1] ?? '',
      username: 'alice',
      password: 'Pass-word-1',
    }),
  });
  assert.ok(answer.location);

  await server.context.accounts.setPassword('alice', 'Another-1');
  await server.context.tokens.revokeAccount('alice');

  const page = await attempt.browser.open(answer.location);
  assert.equal(page.location, undefined);
  assert.ok(page.status >= 400);
});

test('a scope that the client loses while its user signs in is refused by name', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...mvc, scope: 'openid email' });
  server.write('clients/mvc.json', { AllowedScopes: ['openid'] });
  await server.reload();
  const back = await attempt.signIn();
  assert.equal(back.location?.searchParams.get('error'), 'invalid_scope');
});

test('a server without a path in its public URL signs users in too', async (t) => {
  const { findFreePort } = await import('../support/start-server.ts');
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: { PublicUrl: `http://localhost:${port}`, Listener: { Host: '127.0.0.1', Port: port } },
  });
  const { status } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  assert.equal(status, 200);
});
