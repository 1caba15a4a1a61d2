/** Pages under attack: forms that another site sends, frames, scripts in whatever is shown, addresses to be led away to. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { authorizationUrl, openPage, signIn, startClientSite } from '../browser/browser.ts';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { authorize, basic, isSignedIn, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const password = 'Pass-word-1';
const wsFedQuery = 'wa=wsignin1.0&wtrealm=urn:app';
const relyingParties = { app: { Realm: 'urn:app', ReplyUrls: ['https://app.example/reply'] } };

/** An account whose password must be changed; another one each time. */
async function addWhoMustChange({ accounts }: TestServer['context']): Promise<string> {
  const name = `new-${randomBytes(4).toString('hex')}`;
  await accounts.add({ name, password });
  await accounts.setPassword(name, 'Temporary-1', { mustChange: true });
  return name;
}

/** Every form that there is: how a browser comes to it, what its user would send, and whether it was taken. */
const forms: Record<
  string,
  (server: TestServer) => Promise<{
    browser: Browser;
    page: Page;
    fields: Record<string, string>;
    isTaken(answer: Page): Promise<boolean>;
  }>
> = {
  async 'sign-in'({ issuer }) {
    const { browser, page } = await authorize({ issuer, ...mvc });
    const fields = { username: 'alice', password };
    return { browser, page, fields, isTaken: async (answer) => isSignedIn(answer) };
  },
  async cancel({ issuer }) {
    const { browser, page } = await authorize({ issuer, ...mvc });
    const isTaken = async ({ location }: Page) => location?.searchParams.get('error') === 'access_denied';
    return { browser, page, fields: { action: 'cancel' }, isTaken };
  },
  async 'the button of an identity provider'({ issuer }) {
    const { browser, page } = await authorize({ issuer, ...mvc });
    const isTaken = async ({ location, url }: Page) => /WsFed/.test(String(location ?? url));
    return { browser, page, fields: { provider: 'IntelligenceWsFed' }, isTaken };
  },
  async consent({ issuer }) {
    const attempt = await authorize({ issuer, ...mvc, clientId: 'asks', secret: 'mvc-secret' });
    const page = await attempt.signIn();
    assert.match(page.body, /name="scope"/);
    const isTaken = async (answer: Page) => isSignedIn(answer);
    return { browser: attempt.browser, page, fields: { action: 'allow' }, isTaken };
  },
  async 'a new password'({ issuer, context }) {
    const name = await addWhoMustChange(context);
    const attempt = await authorize({ issuer, ...mvc });
    const page = await attempt.signIn(attempt.page, name, 'Temporary-1');
    const fields = { newPassword: 'Chosen-by-x-77', repeatPassword: 'Chosen-by-x-77' };
    const isTaken = async () =>
      (await context.accounts.verifyCredentials(name, fields.newPassword)).kind === 'accepted';
    return { browser: attempt.browser, page, fields, isTaken };
  },
  async 'sign-out'({ issuer }) {
    const { browser } = await signInAndRedeem({ issuer, ...mvc });
    const page = await browser.open(`${issuer}/connect/endsession`);
    const isTaken = async () =>
      !isSignedIn((await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'none' } })).page);
    return { browser, page, fields: { logout: 'yes' }, isTaken };
  },
  async 'sign-in at the WsFed application'({ url }) {
    const browser = createBrowser();
    const page = await browser.open(`${url}/SPSSMR/WsFed?${wsFedQuery}`);
    const isTaken = async ({ body }: Page) => /name="wresult"/.test(body);
    return { browser, page, fields: { username: 'alice', password }, isTaken };
  },
  async 'a new password at the WsFed application'({ url, context }) {
    const name = await addWhoMustChange(context);
    const browser = createBrowser();
    const first = await browser.open(`${url}/SPSSMR/WsFed?${wsFedQuery}`);
    const page = await browser.submit(first, { username: name, password: 'Temporary-1' });
    const fields = { newPassword: 'Chosen-by-x-77', repeatPassword: 'Chosen-by-x-77' };
    const isTaken = async () =>
      (await context.accounts.verifyCredentials(name, fields.newPassword)).kind === 'accepted';
    return { browser, page, fields, isTaken };
  },
};

const formClients = {
  mvc: { IdentityProviderRestrictions: [] },
  asks: {
    ...{ Flow: 'AuthorizationCode', EnableLocalLogin: true, RequireConsent: true },
    ...{ ClientSecrets: [{ Value: { plain: 'mvc-secret' } }], RedirectUris: [mvc.redirectUri] },
    AllowedScopes: ['openid', 'profile', 'intelligence_web_api'],
  },
};

for (const [name, come] of Object.entries(forms)) {
  test(`RFC 9700 section 4.7: no other site can send the form "${name}"`, async (t) => {
    const server = await startTestServer(t, { clients: formClients, relyingParties });
    const { browser, page, fields, isTaken } = await come(server);
    const stranger = await come(server);
    const proof = (from: Page) => /name="(csrf|xsrf)" value="([^"]*)"/.exec(from.body) ?? [];
    const [, field = '', own = ''] = proof(page);
    const [, , theirs = ''] = proof(stranger.page);
    assert.ok(own && theirs && own !== theirs, 'each has its own proof');
    for (const forged of [undefined, '', theirs, `${own}x`, own.toUpperCase()]) {
      const answer = await browser.submit(page, { ...fields, [field]: forged });
      assert.equal(
        await isTaken(answer),
        false,
        `with ${forged === theirs ? 'the proof of another' : forged}`,
      );
    }
    assert.equal(await isTaken(await browser.submit(page, fields)), true, 'and its own site can');
  });
}

/** A tour through every kind of page and answer, which calls `look` on each. */
async function visitAll(t: TestContext, look: (what: string, page: Page) => void): Promise<void> {
  const server = await startTestServer(t, { clients: formClients, relyingParties });
  const { issuer, url } = server;
  for (const [name, come] of Object.entries(forms)) {
    const { browser, page, fields } = await come(server);
    look(`the form ${name}`, page);
    look(
      `the form ${name}, refused`,
      await browser.submit(page, { ...fields, csrf: 'x', xsrf: 'x', password: 'x' }),
    );
    if (name.includes('password')) continue;
    look(`the form ${name}, sent`, await browser.submit(page, fields));
  }
  const browser = createBrowser();
  const signedIn = await signInAndRedeem({ issuer, ...mvc, browser });
  for (const [what, path] of Object.entries({
    home: '/',
    'an unknown client': '/connect/authorize?client_id=nobody',
    'a lost interaction': '/login/nothing',
    'a lost resume': '/connect/authorize/nothing',
    'nothing there': '/nothing',
    'a lost answer': '/callback/oidc/nobody?state=x&code=y',
    'signed out': '/signed-out',
    'the end of a sign-out': '/connect/endsession/success',
    'stay signed in': '/connect/endsession/stay?client_id=mvc',
    'the question of sign-out': '/connect/endsession',
    'an answer by form_post': `/connect/authorize?${new URLSearchParams({ client_id: 'mvc', redirect_uri: mvc.redirectUri, response_type: 'code', scope: 'openid', response_mode: 'form_post' })}`,
  })) {
    look(what, await browser.request(issuer + path));
  }
  look('WsFed without a request', await browser.request(`${url}/SPSSMR/WsFed`));
  look('WsFed, signed out', await browser.request(`${url}/SPSSMR/WsFed?wa=wsignout1.0`));
  look('outside the mounts', await browser.request(`${url}/elsewhere`));
  const programs: [string, Record<string, string>, Record<string, string>][] = [
    ['token', { grant_type: 'client_credentials' }, basic('batch', 'batch-secret')],
    ['token', { grant_type: 'client_credentials' }, basic('batch', 'wrong')],
    ['introspect', { token: signedIn.body.access_token }, basic('intelligence_web_api', 'web-api-secret')],
    ['introspect', { token: 'x' }, {}],
    ['userinfo', { access_token: signedIn.body.access_token }, {}],
    ['userinfo', { access_token: 'x' }, {}],
    ['revocation', { token: 'x' }, basic('mvc', mvc.secret)],
  ];
  for (const [path, body, headers] of programs) {
    look(
      `${path} ${JSON.stringify(headers).length}`,
      await browser.request(`${issuer}/connect/${path}`, {
        method: 'POST',
        body: new URLSearchParams(body),
        headers,
      }),
    );
  }
}

test('RFC 9700 sections 4.2, 4.3 and 4.16: every answer forbids frames, inline scripts, sniffing, referrers and being kept', async (t) => {
  let count = 0;
  await visitAll(t, (what, { headers, body }) => {
    count += 1;
    const policy = headers.get('content-security-policy') ?? '';
    assert.match(policy, /default-src 'none'/, what);
    assert.match(policy, /frame-ancestors 'none'/, what);
    assert.match(policy, /base-uri 'none'/, what);
    assert.doesNotMatch(policy, /unsafe|\*|https?:(?!\/\/)/, what);
    assert.equal(headers.get('x-frame-options'), 'DENY', what);
    assert.equal(headers.get('x-content-type-options'), 'nosniff', what);
    assert.equal(headers.get('referrer-policy'), 'no-referrer', what);
    assert.match(headers.get('cache-control') ?? '', /no-store/, what);
    assert.equal(headers.get('x-powered-by') ?? headers.get('server'), null, what);
    assert.doesNotMatch(body, /\son\w+="|javascript:/i, what);
  });
  assert.ok(count > 40, `${count} answers were looked at`);
});

test('RFC 9700 section 4.12: who has sent a form is redirected by 303, never by a status that repeats it', async (t) => {
  const statuses = new Set<number>();
  const server = await startTestServer(t, { clients: formClients, relyingParties });
  const { fetch } = globalThis;
  t.after(() => {
    globalThis.fetch = fetch;
  });
  globalThis.fetch = async (input, init) => {
    const response = await fetch(input, init);
    if (init?.method === 'POST' && response.status >= 300 && response.status < 400)
      statuses.add(response.status);
    return response;
  };
  for (const come of Object.values(forms)) {
    const { browser, page, fields } = await come(server);
    await browser.submit(page, fields);
  }
  for (const path of ['/connect/authorize', '/connect/endsession']) {
    await createBrowser().request(server.issuer + path, {
      method: 'POST',
      body: new URLSearchParams({ client_id: 'mvc' }),
    });
  }
  assert.deepEqual([...statuses], [303]);
});

const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(2)>`;

test('CVE rows 17 and 18: nothing that a request, a name or an answer says becomes markup of a page', async (t) => {
  const openId = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: hostile });
  const server = await startTestServer(t, {
    server: { Branding: { Name: hostile } },
    clients: { mvc: { ClientName: hostile, IdentityProviderRestrictions: ['Partner', 'IntelligenceWsFed'] } },
    providers: {
      Partner: {
        ...{ Type: 'Oidc', Caption: hostile, Authority: openId.issuer, ClientId: openId.clientId },
        UserNameClaims: ['preferred_username'],
      },
      IntelligenceWsFed: { Caption: `2 ${hostile}` },
    },
    relyingParties: { app: { ...relyingParties.app, Caption: hostile } },
  });
  const { issuer, url } = server;
  const browser = createBrowser();
  const shown: string[] = [];
  const look = (what: string, page: Page) => {
    assert.doesNotMatch(page.body, /<script>alert|<img src=x/i, what);
    // What is shown is shown as text: escaped, or encoded.
    if (/&lt;script&gt;alert|%3Cscript/i.test(page.body)) shown.push(what);
  };
  const good = {
    client_id: 'mvc',
    redirect_uri: mvc.redirectUri,
    response_type: 'code',
    scope: 'openid profile',
  };
  const authorizeWith = (more: Record<string, string>) =>
    browser.open(`${issuer}/connect/authorize?${new URLSearchParams({ ...good, ...more })}`);
  for (const name of [
    'client_id',
    'redirect_uri',
    'response_type',
    'response_mode',
    'scope',
    'state',
    'nonce',
    'login_hint',
    'ui_locales',
    'acr_values',
    'prompt',
    'display',
    'id_token_hint',
    'code_challenge',
    'resource',
    hostile,
  ]) {
    look(`authorize ${name}`, await authorizeWith({ [name]: hostile }));
  }
  const page = await authorizeWith({ login_hint: hostile, state: hostile });
  look('the login page', page);
  look('a name that was typed', await browser.submit(page, { username: hostile, password: hostile }));
  const leaving = await browser.submit(page, { provider: 'Partner' });
  const returned = await browser.open(leaving.location ?? '');
  look('a name of the identity provider', await browser.open(returned.location ?? ''));
  look(
    'an error of the identity provider',
    await browser.request(
      `${issuer}/callback/oidc/Partner?${new URLSearchParams({ state: hostile, error: hostile, error_description: hostile })}`,
    ),
  );
  look(
    'the end of a sign-out',
    await browser.open(
      `${issuer}/connect/endsession?${new URLSearchParams({ post_logout_redirect_uri: hostile, state: hostile, client_id: hostile, id_token_hint: hostile, logout_hint: hostile })}`,
    ),
  );
  look(
    'stay',
    await browser.open(`${issuer}/connect/endsession/stay?client_id=${encodeURIComponent(hostile)}`),
  );
  look('a path', await browser.open(`${issuer}/${encodeURIComponent(hostile)}`));
  look(
    'an interaction',
    await browser.open(
      `${issuer}/login/${encodeURIComponent(hostile)}?client_id=${encodeURIComponent(hostile)}`,
    ),
  );
  for (const name of ['wctx', 'wreply', 'wtrealm', 'wfresh', 'wauth', 'whr', 'wa', hostile]) {
    const query = new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:app', [name]: hostile });
    const asked = await browser.open(`${url}/SPSSMR/WsFed?${query}`);
    look(`WsFed ${name}`, asked);
    if (/type="password"/.test(asked.body))
      look(`WsFed ${name}, answered`, await browser.submit(asked, { username: 'alice', password }));
    browser.clear();
  }
  const signingIn = await authorizeWith({ state: hostile, response_mode: 'form_post' });
  look('form_post', await browser.submit(signingIn, { username: 'alice', password }));
  for (const what of ['the login page', 'WsFed wctx, answered', 'form_post', 'a name that was typed'])
    assert.ok(shown.includes(what), `${what} shows it, as text`);
});

test('RFC 9700 sections 2.1 and 4.11: nobody is led away from here to an address that is not registered', async (t) => {
  const server = await startTestServer(t, { relyingParties });
  const { issuer, url } = server;
  const own = new URL(issuer).origin;
  const registered = new Set(['http://localhost:5090', 'https://app.example', own, url]);
  const elsewhere = [
    'https://evil.example/',
    '//evil.example',
    '/\\evil.example',
    '/\t/evil.example',
    'https:evil.example',
    'javascript:alert(1)',
    'data:text/html,x',
    'http://localhost:5090@evil.example/',
    'http://localhost:5090.evil.example/',
    'http://localhost:5090\\@evil.example',
    'https://app.example.evil.example/reply',
    'https://app.example/reply/../../..//evil.example',
    '%2f%2fevil.example',
  ];
  const { body, browser } = await signInAndRedeem({ issuer, ...mvc });
  const inside = createBrowser();
  const asked = await inside.open(`${url}/SPSSMR/WsFed?${wsFedQuery}`);
  assert.match((await inside.submit(asked, { username: 'alice', password })).body, /app\.example/);
  const names = [
    'redirect_uri',
    'post_logout_redirect_uri',
    'returnUrl',
    'ReturnUrl',
    'return_to',
    'wreply',
    'next',
    'url',
    'target_link_uri',
  ];
  for (const target of elsewhere) {
    const more = new URLSearchParams(names.map((name): [string, string] => [name, target]));
    const hinted = new URLSearchParams([...more, ['id_token_hint', body.id_token] as [string, string]]);
    for (const address of [
      `${issuer}/connect/authorize?client_id=mvc&response_type=code&scope=openid&${more}`,
      `${issuer}/connect/endsession?${more}`,
      `${issuer}/connect/endsession?client_id=mvc&${more}`,
      `${issuer}/connect/endsession?${hinted}`,
      `${issuer}/connect/endsession/success?client_id=mvc&${more}`,
      `${issuer}/connect/endsession/stay?client_id=mvc&${more}`,
      `${issuer}/signed-out?state=x&${more}`,
      `${issuer}/?${more}`,
      `${issuer}/callback/oidc/IntelligenceWsFed?state=x&${more}`,
      `${url}/SPSSMR/WsFed?${wsFedQuery}&${new URLSearchParams({ wreply: target })}`,
      `${url}/SPSSMR/WsFed?wa=wsignout1.0&${new URLSearchParams({ wreply: target })}`,
      `${url}/SPSSMR/WsFed?wa=wsignoutcleanup1.0&wtrealm=urn:app&${new URLSearchParams({ wreply: target })}`,
      `${url}/?${more}`,
      `${url}//evil.example/%2e%2e`,
    ]) {
      const page = await (address.includes('wsignin') ? inside : browser).request(address);
      const links = [...page.body.matchAll(/(?:href|action|src)="([^"]*)"/g)].map(([, link = '']) => link);
      const refresh = /http-equiv="refresh" content="[^"]*url=([^"]*)"/.exec(page.body)?.[1];
      for (const link of [page.location?.href, refresh, ...links]) {
        if (link === undefined || link.startsWith('data:image/')) continue;
        const { origin } = new URL(link.replaceAll('&amp;', '&'), page.url);
        assert.ok(registered.has(origin), `${address} leads to ${link}`);
      }
    }
  }
});

test('in a real browser another site can neither frame the login page nor send it, and scripts in names stay text', async (t) => {
  const page = await openPage(t);
  const site = await startClientSite(t);
  const server = await startTestServer(t, {
    clients: { mvc: { ClientName: hostile, RedirectUris: [site.redirectUri] } },
  });
  const dialogs: string[] = [];
  page.on('dialog', (dialog) => {
    dialogs.push(dialog.message());
    void dialog.dismiss();
  });
  await page.goto(authorizationUrl(server, site, { login_hint: hostile, state: hostile }));
  assert.equal(await page.getByLabel('Name').inputValue(), hostile);
  const loginUrl = page.url();
  const csrf = await page.locator('input[name=csrf]').first().inputValue();

  const attacker = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html');
    response.end(
      `<iframe src="${loginUrl}"></iframe><form method="post" action="${loginUrl}"><input name="csrf" value="${csrf}"><input name="username" value="bob"><input name="password" value="${password}"><button>Win</button></form>`,
    );
  });
  await new Promise<void>((resolve) => attacker.listen(0, '127.0.0.1', resolve));
  t.after(() => attacker.close());
  await page.goto(`http://127.0.0.1:${(attacker.address() as AddressInfo).port}/`);
  const urlOfFrame = () =>
    page
      .frames()
      .find((one) => one !== page.mainFrame())
      ?.url() ?? '';
  // The browser shows its refusal a moment after the page around it.
  while (urlOfFrame() === '') await page.waitForTimeout(20);
  assert.match(urlOfFrame(), /^chrome-error:/, 'the frame is not loaded');
  await page.getByRole('button', { name: 'Win' }).click();
  await page.waitForLoadState();
  assert.equal(site.answers.length, 0, 'nobody is signed in, even with the proof of the form');

  await page.goto(loginUrl);
  await signIn(page);
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.equal(site.lastAnswer().params.get('state'), hostile);
  assert.deepEqual(dialogs, []);
});

test('in a real browser the frames that end the sessions of clients load under our policy, and the user goes on', async (t) => {
  const page = await openPage(t);
  const site = await startClientSite(t);
  const framed: string[] = [];
  const client = createServer((request, response) => {
    framed.push(request.url ?? '');
    response.setHeader('content-type', 'text/html');
    response.end('<!doctype html><title>Ended</title>');
  });
  await new Promise<void>((resolve) => client.listen(0, '127.0.0.1', resolve));
  t.after(() => client.close());
  const logoutUrl = `http://localhost:${(client.address() as AddressInfo).port}/ended`;
  const server = await startTestServer(t, {
    clients: {
      mvc: {
        RedirectUris: [site.redirectUri],
        PostLogoutRedirectUris: [`${site.origin}/`],
        LogoutUri: logoutUrl,
      },
    },
  });
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (/Content Security Policy|Refused/.test(message.text())) complaints.push(message.text());
  });
  await page.goto(authorizationUrl(server, site));
  await signIn(page);
  await page.waitForURL(`${site.redirectUri}?**`);
  const code = site.lastAnswer().params.get('code') ?? '';
  const { body } = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'authorization_code', code, redirect_uri: site.redirectUri },
    basic('mvc', mvc.secret),
  );
  await page.goto(
    `${server.issuer}/connect/endsession?${new URLSearchParams({ id_token_hint: body.id_token, post_logout_redirect_uri: `${site.origin}/` })}`,
  );
  await page.waitForURL(`${site.origin}/`);
  assert.equal(framed.filter((path) => /^\/ended\?iss=.*&sid=/.test(path)).length, 1);
  assert.deepEqual(complaints, []);
});
