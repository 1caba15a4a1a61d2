/** Cookies: what they are protected by, how few they are, and that none of them can be planted, borrowed or kept. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { authorizationUrl, openPage, signIn, startClientSite } from '../browser/browser.ts';
import { createBrowser } from '../support/browser.ts';
import { startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, isSignedIn, mvc, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';
import { production, productionSecret } from './production.ts';

const password = 'Pass-word-1';
const tabsOf = (cookies: readonly { name: string }[]) => cookies.filter(({ name }) => name.includes('.tab.'));

test('RFC 9700 section 4.7, ASVS 3.3: over https every cookie is Secure, HttpOnly, SameSite and __Host-', async (t) => {
  const openId = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice', sid: 's-1' });
  const settings = production();
  const origin = 'https://sso.example.com';
  const server = await startTestServer(t, {
    ...settings,
    providers: {
      Partner: {
        ...{ Type: 'Oidc', Authority: openId.issuer, ClientId: openId.clientId },
        ...{ UserNameClaims: ['preferred_username'], RequireHttpsMetadata: false },
      },
    },
    clients: {
      ...settings.clients,
      mvc: { ...settings.clients.mvc, IdentityProviderRestrictions: ['Partner'] },
    },
  });
  await server.context.accounts.add({ name: 'alice', password });
  const issuer = server.issuer;
  const browser = createBrowser({ origins: { [origin]: server.url } });
  const client = {
    issuer,
    ...mvc,
    secret: productionSecret,
    redirectUri: 'https://app.example.com/callback',
  };

  const local = await authorize({ ...client, browser });
  assert.ok(isSignedIn(await local.signIn()));
  const elsewhere = await authorize({ ...client, browser, parameters: { prompt: 'login' } });
  const leaving = await browser.submit(elsewhere.page, { provider: 'Partner' });
  const there = await browser.open(leaving.location ?? '');
  assert.ok(isSignedIn(await browser.open(there.location ?? '')));
  const wsFed = await browser.open(
    `${origin}/SPSSMR/WsFed?wa=wsignin1.0&wtrealm=${encodeURIComponent('urn:intelligence')}`,
  );
  assert.match((await browser.submit(wsFed, { username: 'alice', password })).body, /name="wresult"/);
  await browser.open(`${origin}/SPSSMR/WsFed?wa=wsignout1.0`);
  await browser.submit(await browser.open(`${issuer}/connect/endsession`), { logout: 'yes' });

  const names = new Set<string>();
  for (const line of browser.setCookies()) {
    const [name = ''] = line.split('=');
    names.add(name.replace(/\.sig$/, '').replace(/\.tab\..*/, '.tab'));
    assert.match(name, /^__Host-postern\./, line);
    assert.match(line, /; *secure(;|$)/i, line);
    assert.match(line, /; *httponly(;|$)/i, line);
    assert.match(line, /; *path=\/(;|$)/i, line);
    assert.doesNotMatch(line, /domain=/i, line);
    const wanted = name.startsWith('__Host-postern.signout')
      ? /samesite=none/i
      : name === '__Host-postern.device'
        ? /samesite=strict/i
        : /samesite=lax/i;
    assert.match(line, wanted, line);
  }
  assert.deepEqual(
    [...names].map((name) => name.replace('__Host-postern.', '')).sort(),
    ['device', 'provider', 'session', 'signout', 'tab', 'wsfed', 'wsfed.form'],
    'all that there are have been seen',
  );
});

test('twenty tabs that are opened at once have a cookie each, all sign in, and leave none behind', async (t) => {
  const page = await openPage(t);
  const site = await startClientSite(t);
  const server = await startTestServer(t, { clients: { mvc: { RedirectUris: [site.redirectUri] } } });
  const context = page.context();
  const tabs = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const tab = await context.newPage();
      await tab.goto(authorizationUrl(server, site));
      return tab;
    }),
  );

  const waiting = await context.cookies();
  assert.equal(waiting.length, 20);
  const bytes = waiting.map(({ name, value }) => name.length + value.length + 3).reduce((a, b) => a + b);
  assert.ok(bytes <= 1400, `${bytes} bytes`);

  for (const tab of tabs) {
    await tab.bringToFront();
    await signIn(tab);
    await tab.waitForURL(`${site.redirectUri}?**`);
  }
  assert.equal(site.answers.filter(({ params }) => params.has('code')).length, 20);
  assert.deepEqual((await context.cookies()).map(({ name }) => name).sort(), [
    'postern.device',
    'postern.session',
    'postern.session.sig',
  ]);

  // The Back button leads to a page without a form, and brings no cookie back.
  await tabs[0]?.goBack();
  assert.equal(await tabs[0]?.getByLabel('Password').count(), 0);
  assert.equal((await context.cookies()).length, 3);
});

test('however many sign-ins a browser begins, 25 wait at the most: the newest', async (t) => {
  let seconds = Math.floor(Date.now() / 1000);
  const server = await startTestServer(t, { now: () => seconds });
  const browser = createBrowser();
  const attempts: Awaited<ReturnType<typeof authorize>>[] = [];
  for (let count = 0; count < 40; count += 1) {
    attempts.push(await authorize({ issuer: server.issuer, ...mvc, browser }));
    seconds += 1;
  }

  assert.equal(browser.cookies().length, 25);
  assert.equal((await browser.open(attempts[14]?.page.url ?? '')).status, 400);
  const oldest = attempts[15];
  assert.ok(oldest && isSignedIn(await oldest.signIn()), 'the oldest that is kept signs in');
  assert.equal(tabsOf(browser.cookies()).length, 24);
});

test('the cookie of a sign-in proves that one, in that browser: changed, of another, or named as the engine would', async (t) => {
  const server = await startTestServer(t);
  const victim = await authorize({ issuer: server.issuer, ...mvc });
  const uid = /\/login\/([\w-]+)/.exec(victim.page.url.pathname)?.[1] ?? '';
  const attacker = await authorize({ issuer: server.issuer, ...mvc });
  const [own] = tabsOf(attacker.browser.cookies()) as { name: string; value: string }[];
  const [theirs] = tabsOf(victim.browser.cookies()) as { name: string; value: string }[];
  assert.ok(own && theirs);
  const mac = theirs.value.split('.')[1] ?? '';
  const first = mac.startsWith('A') ? 'B' : 'A';
  const forged: [what: string, cookie: string][] = [
    ['none', ''],
    ["the engine's name", `engine.interaction=${uid}; engine.resume=${uid}`],
    ["one of the attacker's own", `${theirs.name}=${own.value}`],
    ['a changed proof', `${theirs.name}=${theirs.value.replace(mac, first + mac.slice(1))}`],
    ['a changed time', `${theirs.name}=zzzzzz.${mac}`],
    ['no proof', `${theirs.name}=${theirs.value.split('.')[0]}`],
    ['an empty proof', `${theirs.name}=.`],
    ['a name only', `${theirs.name}=`],
  ];
  const resume = `${server.issuer}/connect/authorize/${uid}`;
  for (const [what, cookie] of forged) {
    for (const url of [victim.page.url.href, resume]) {
      const page = await createBrowser().request(url, { headers: { cookie } });
      assert.equal(page.status, 400, `${what} at ${url}`);
      assert.equal(page.location, undefined);
      assert.doesNotMatch(page.body, /type="password"/, what);
    }
  }
  const honest = await createBrowser().request(victim.page.url, {
    headers: { cookie: `${theirs.name}=${theirs.value}` },
  });
  assert.match(honest.body, /type="password"/, 'as it is, it is good');
});

test('RFC 9700 section 4.7: a cookie of another name is none of ours, whatever stands before or behind what makes it look so', async (t) => {
  const settings = production();
  const server = await startTestServer(t, settings);
  await server.context.accounts.add({ name: 'mallory', password });
  const client = {
    ...{ issuer: server.issuer, ...mvc, secret: productionSecret },
    redirectUri: 'https://app.example.com/callback',
  };
  const proxied = () => createBrowser({ origins: { 'https://sso.example.com': server.url } });
  const attacker = proxied();
  assert.ok(isSignedIn(await (await authorize({ ...client, browser: attacker, user: 'mallory' })).signIn()));
  const waiting = await authorize({ ...client, browser: attacker, parameters: { prompt: 'login' } });
  const planted = (before: string, behind = '') =>
    attacker
      .cookies()
      .map(({ name, value }) => `${before}${name}${behind}=${value}`)
      .join('; ');
  const isBelieved = async (cookie: string) => {
    const headers = { cookie };
    const silent = await authorize({
      ...client,
      browser: createBrowser({ origins: { 'https://sso.example.com': server.url }, headers }),
      parameters: { prompt: 'none' },
    });
    const form = await proxied().request(waiting.page.url, { headers });
    return [isSignedIn(silent.page), form.status === 200];
  };

  assert.deepEqual(await isBelieved(planted('')), [true, true], 'as they are, they are good');
  // What another site of the same domain may set, for browsers find no prefix in it (seen in Chromium: \xa0).
  for (const blank of ['\xa0', '\xc2\xa0', '\x85', '\xe2\x80\x83', '\xef\xbb\xbf', 'x=1 ', '"']) {
    assert.deepEqual(await isBelieved(planted(blank)), [false, false], JSON.stringify(blank));
    assert.deepEqual(await isBelieved(planted('', blank)), [false, false], JSON.stringify(blank));
  }
});

test('RFC 9700 section 4.7, CVE rows 4: a session is new after each sign-in, so that one which was planted is worth nothing', async (t) => {
  const server = await startTestServer(t);
  const sessionOf = (browser: ReturnType<typeof createBrowser>) =>
    browser.cookies().find(({ name }) => name === 'postern.session')?.value;
  const browser = createBrowser();
  const planted = [
    'postern.session=planted-by-somebody-else; path=/',
    `postern.session.sig=${createHash('sha1').update('x').digest('base64url')}; path=/`,
  ];
  planted.forEach(browser.keep);

  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser });
  const first = sessionOf(browser);
  assert.notEqual(first, 'planted-by-somebody-else');
  const row = await server.context.tokens.find('Session', 'planted-by-somebody-else');
  assert.equal(row, undefined);

  // With a real session of the attacker's own, signed and all.
  const attacker = createBrowser();
  await signInAndRedeem({ issuer: server.issuer, ...mvc, browser: attacker, user: 'bob' });
  const lured = createBrowser();
  for (const { name, value } of attacker.cookies()) lured.keep(`${name}=${value}; path=/`);
  const again = await authorize({
    issuer: server.issuer,
    ...mvc,
    browser: lured,
    parameters: { prompt: 'login' },
  });
  const answered = await again.signIn();
  const back = answered.location === undefined ? await lured.submit(answered, {}) : answered;
  assert.ok(isSignedIn(back));
  assert.notEqual(sessionOf(lured), sessionOf(attacker));
  const stillBob = await authorize({
    issuer: server.issuer,
    ...mvc,
    browser: attacker,
    parameters: { prompt: 'none' },
  });
  assert.equal(
    stillBob.page.location?.searchParams.get('error'),
    'login_required',
    'nobody is signed in there',
  );

  // And who signs in once more as themselves (step-up) has another one, too.
  const before = sessionOf(browser);
  const stepUp = await authorize({ issuer: server.issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  assert.ok(isSignedIn(await stepUp.signIn()));
  assert.notEqual(sessionOf(browser), before);
});

test('the session of the WsFed application is new after each sign-in, too', async (t) => {
  const relying = await startWsFedProvider(t);
  const server = await startTestServer(t, {
    relyingParties: { app: { Realm: 'urn:app', ReplyUrls: [`${relying.url}/reply`] } },
  });
  const url = `${server.url}/SPSSMR/WsFed?wa=wsignin1.0&wtrealm=urn:app&wfresh=0`;
  const browser = createBrowser();
  const value = () => browser.cookies().find(({ name }) => name === 'postern.wsfed')?.value;
  const seen = new Set<string | undefined>([randomBytes(4).toString('hex')]);
  for (let round = 0; round < 3; round += 1) {
    const page = await browser.submit(await browser.open(url), { username: 'alice', password });
    assert.match(page.body, /name="wresult"/);
    assert.ok(!seen.has(value()), 'another one');
    seen.add(value());
  }
  const rows = await server.context.db.knex('OidcToken').where({ model: 'WsFedSession' });
  assert.equal(rows.length, 1, 'the older ones have ended');
});

test('a sign-in takes one cookie while it waits, and afterwards two of the session and one of the browser, under 450 bytes together', async (t) => {
  const server = await startTestServer(t);
  const browser = createBrowser();
  const size = () =>
    browser.cookies().reduce((sum, { name, value }) => sum + name.length + value.length + 3, 0);
  const attempt = await authorize({ issuer: server.issuer, ...mvc, browser });
  assert.equal(browser.cookies().length, 1);
  await attempt.signIn();
  assert.equal(browser.cookies().length, 3);
  await authorize({ issuer: server.issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  assert.equal(browser.cookies().length, 4);
  assert.ok(size() < 450, `${size()} bytes`);
});
