import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

test('with an ID token of the user the session ends at once and the browser goes where it is registered', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
  const query = new URLSearchParams({
    id_token_hint: body.id_token,
    post_logout_redirect_uri: 'http://localhost:5090/',
    state: 'x y',
  });
  const page = await browser.open(`${issuer}/connect/endsession?${query}`);
  assert.equal(page.location?.href, 'http://localhost:5090/?state=x+y');
  assert.match((await authorize({ issuer, ...mvc, browser })).page.body, /type="password"/);
});

test('without an ID token the user is asked, and stays signed in unless they say yes', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  const question = await browser.open(`${issuer}/connect/endsession`);
  assert.match(question.body, /value="yes"/);
  const stay = /href="([^"]*\/stay[^"]*)"/.exec(question.body)?.[1] ?? '';
  const declined = await browser.open(new URL(stay, issuer));
  assert.match(declined.body, /still signed in/i);
  assert.ok((await authorize({ issuer, ...mvc, browser })).page.location);

  const again = await browser.open(`${issuer}/connect/endsession`);
  const done = await browser.submit(again, { logout: 'yes' });
  assert.match(done.body, /signed out/i);
  assert.match((await authorize({ issuer, ...mvc, browser })).page.body, /type="password"/);
});

test('another user’s ID token signs nobody out without being asked', async (t) => {
  const { issuer } = await startTestServer(t);
  const bob = await signInAndRedeem({ issuer, ...mvc, user: 'bob' });
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  const page = await browser.open(`${issuer}/connect/endsession?id_token_hint=${bob.body.id_token}`);
  assert.match(page.body, /value="yes"/);
  assert.ok((await authorize({ issuer, ...mvc, browser })).page.location);
});

test('a sign-out without a session still leads back', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const page = await createBrowser().open(
    `${issuer}/connect/endsession?id_token_hint=${body.id_token}&post_logout_redirect_uri=http://localhost:5090/`,
  );
  assert.equal(page.location?.href, 'http://localhost:5090/');
});

test('an expired ID token is still a good hint', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const { issuer } = await startTestServer(t, { now: () => Math.floor(Date.now() / 1000) });
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
  t.mock.timers.setTime(Date.now() + 3600_000);
  const page = await browser.open(`${issuer}/connect/endsession?id_token_hint=${body.id_token}`);
  assert.match(page.body, /signed out/i);
});

test('an address that is not registered is not gone to', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const target of [
    'https://evil.example/',
    'http://localhost:5090/other',
    '//evil.example',
    'javascript:alert(1)',
  ]) {
    const browser = createBrowser();
    const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
    const page = await browser.open(
      `${issuer}/connect/endsession?${new URLSearchParams({ id_token_hint: body.id_token, post_logout_redirect_uri: target })}`,
    );
    assert.equal(page.location, undefined, target);
    assert.equal(page.url.origin, new URL(issuer).origin, target);
    assert.match(page.body, /You are signed out/);
  }
});

test('an address that is taken away while the user is asked is not gone to either', async (t) => {
  const server = await startTestServer(t);
  const { browser } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const target = 'http://localhost:5090/';
  const question = await browser.open(
    `${server.issuer}/connect/endsession?client_id=mvc&post_logout_redirect_uri=${encodeURIComponent(target)}`,
  );
  server.write('clients/mvc.json', { PostLogoutRedirectUris: ['http://localhost:5090/new'] });
  assert.equal(await server.reload(), true);
  const page = await browser.submit(question, { logout: 'yes' });
  assert.equal(page.location, undefined);
  assert.match(page.body, /You are signed out/);
});

test('POST is served like GET', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
  const response = await browser.request(`${issuer}/connect/endsession`, {
    method: 'POST',
    body: new URLSearchParams({
      id_token_hint: body.id_token,
      post_logout_redirect_uri: 'http://localhost:5090/',
      state: 'posted',
    }),
  });
  const page = await browser.follow(response, new URL(issuer).origin);
  assert.equal(page.location?.href, 'http://localhost:5090/?state=posted');
});

test('a forged answer to the question signs nobody out', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  await browser.open(`${issuer}/connect/endsession`);
  const page = await browser.request(`${issuer}/connect/endsession/confirm`, {
    method: 'POST',
    body: new URLSearchParams({ xsrf: 'guess', logout: 'yes' }),
  });
  assert.equal(page.status, 400);
  assert.ok((await authorize({ issuer, ...mvc, browser })).page.location);
});

test('a question answered with no changes nothing: a later sign-out ends the tokens all the same', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
  const question = await browser.open(`${issuer}/connect/endsession?client_id=mvc`);
  await browser.open(new URL(/href="([^"]*\/stay[^"]*)"/.exec(question.body)?.[1] ?? '', issuer));

  await browser.open(`${issuer}/connect/endsession?id_token_hint=${body.id_token}`);

  const answer = await post(
    `${issuer}/connect/introspect`,
    { token: body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.deepEqual(answer.body, { active: false });
});

test('when another user signs in, the first one’s tokens end with the session, without a page in between', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const first = await signInAndRedeem({ issuer, ...mvc, browser });
  const again = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  const back = await again.signIn(again.page, 'bob');
  assert.ok(back.location?.searchParams.get('code'), back.body.slice(0, 300));
  const answer = await post(
    `${issuer}/connect/introspect`,
    { token: first.body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.deepEqual(answer.body, { active: false });
});

test('authorizations of one client at once in a session all end with it', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  const first = await signInAndRedeem({ issuer, ...mvc, scope: 'openid intelligence_web_api', browser });
  const scopes = ['profile', 'email', 'roles'].map((scope) => `openid intelligence_web_api ${scope}`);
  const attempts = await Promise.all(scopes.map((scope) => authorize({ issuer, ...mvc, scope, browser })));
  const redeemed = await Promise.all(attempts.map((attempt) => attempt.redeem(attempt.page)));
  assert.deepEqual(
    redeemed.map(({ body }) => body.scope),
    scopes,
    'none lost a scope',
  );

  await browser.open(`${issuer}/connect/endsession?id_token_hint=${first.body.id_token}`);

  for (const { body } of [first, ...redeemed]) {
    const answer = await post(
      `${issuer}/connect/introspect`,
      { token: body.access_token },
      basic('intelligence_web_api', 'web-api-secret'),
    );
    assert.deepEqual(answer.body, { active: false });
  }
});
