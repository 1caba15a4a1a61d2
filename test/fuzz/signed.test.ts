/**
 * What a running server believes: tokens, cookies, tickets and redirect URIs that are nearly what it knows. Each is
 * either the honest one, whose meaning has not changed, or is worth nothing.
 */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { signTicket } from '../support/windows-ticket.ts';
import { holds, hostileText, mutate, mutation } from './fuzzing.ts';

const mutations = fc.array(mutation, { minLength: 1, maxLength: 3 });

/** What the authorization endpoint answers to a request that must not ask anybody: where it sends the browser, if it does. */
async function authorizeSilently(
  { issuer }: TestServer,
  parameters: Record<string, string>,
  headers: Record<string, string> = {},
): Promise<{ status: number; location: string | null }> {
  const query = new URLSearchParams({
    response_type: 'code',
    scope: 'openid',
    prompt: 'none',
    state: 's',
    code_challenge: 'x'.repeat(43),
    code_challenge_method: 'S256',
    ...parameters,
  });
  const response = await fetch(`${issuer}/connect/authorize?${query}`, { redirect: 'manual', headers });
  await response.arrayBuffer();
  return { status: response.status, location: response.headers.get('location') };
}

/** The rule, written a second time: letter for letter, but for the port of a program on the user's own machine (RFC 8252 section 7.3). */
function isRedirectAllowed(uri: string, registered: readonly string[], isNative: boolean): boolean {
  if (registered.includes(uri)) return true;
  const withoutPort = (text: string) => {
    const [, start, port, rest] =
      /^(http:\/\/(?:localhost|127\.0\.0\.1|\[::1\]))(?::(\d*))?($|[/?].*$)/s.exec(text) ?? [];
    return start === undefined || Number(port ?? 0) > 65_535 ? undefined : `${start}${rest}`;
  };
  const wanted = withoutPort(uri);
  return isNative && wanted !== undefined && registered.some((one) => withoutPort(one) === wanted);
}

test('a redirect URI is used letter for letter, but for the port of a loopback address of a native client', async (t) => {
  const native = [
    'http://localhost:32284/',
    'http://127.0.0.1:4711/back?x=1',
    'http://[::1]/six',
    'com.example:/back',
  ];
  const web = [mvc.redirectUri, 'https://app.example.com/callback?tenant=1'];
  const server = await startTestServer(t, {
    clients: { miClient: { RedirectUris: native }, mvc: { RedirectUris: web } },
  });
  const clients = [
    { id: 'miClient', registered: native, isNative: true },
    { id: 'mvc', registered: web, isNative: false },
  ];
  const uri = fc
    .tuple(
      fc.constantFrom(
        'http://',
        'https://',
        'HTTP://',
        'http:/',
        'http:\\\\',
        '//',
        'com.example:',
        'javascript:',
      ),
      fc.constantFrom('', '', '', 'user@', 'localhost@', 'localhost:80@', '%40', '\t'),
      fc.constantFrom(
        ...[
          'localhost',
          'LOCALHOST',
          'localhost.',
          '127.0.0.1',
          '127.0.0.2',
          '127.1',
          '[::1]',
          '[0:0:0:0:0:0:0:1]',
        ],
        ...[
          '0x7f.1',
          'app.example.com',
          'app.example.com.evil.example',
          'evil.example',
          'localhost.evil.example',
          '①27.0.0.1',
        ],
      ),
      fc.constantFrom(
        '',
        ':',
        ':80',
        ':32284',
        ':5090',
        ':0080',
        ':65536',
        ':-1',
        ':1\t2',
        ':1%30',
        ':٣',
        ':80@evil.example',
        ':99999999',
      ),
      fc.constantFrom(
        ...[
          '',
          '/',
          '/back?x=1',
          '/back',
          '/six',
          '/callback',
          '/callback/',
          '/callback?tenant=1',
          '/callback?tenant=1&a',
        ],
        ...[
          '/%63allback',
          '/./',
          '//',
          '/..;/callback',
          '/callback#x',
          '?x',
          '#',
          '\\',
          '/\t',
          ' ',
          '/\u0000',
        ],
      ),
    )
    .map((parts) => parts.join(''));
  const near = fc
    .tuple(fc.constantFrom(...native, ...web), mutations)
    .map(([text, changes]) => mutate(text, changes));
  const property = fc.asyncProperty(
    fc.constantFrom(...clients),
    fc.oneof(fc.constantFrom(...native, ...web), uri, uri, near, hostileText),
    async ({ id, isNative, registered }, redirectUri) => {
      const { location, status } = await authorizeSilently(server, {
        client_id: id,
        redirect_uri: redirectUri,
      });
      if (isRedirectAllowed(redirectUri.toWellFormed(), registered, isNative)) {
        assert.equal(status, 303, 'it is refused');
        assert.match(location ?? '', /[?&]error=login_required/);
      } else assert.deepEqual([status, location], [400, null]);
    },
  );
  await holds(property, 400);
});

test('a token that was changed is worth nothing at introspection, userinfo and sign-out', async (t) => {
  const server = await startTestServer(t);
  const { issuer } = server;
  const { body } = await signInAndRedeem({ issuer, ...mvc });
  const reference = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  const tokens = [body.access_token, reference.body.access_token, body.id_token];
  const introspect = (token: string) =>
    post(`${issuer}/connect/introspect`, { token }, basic('intelligence_web_api', 'web-api-secret'));
  assert.equal((await introspect(tokens[0] ?? '')).body.active, true);
  assert.equal((await introspect(tokens[1] ?? '')).body.active, true);

  const json = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const header = fc
    .constantFrom('none', 'None', 'HS256', 'RS512', 'PS256', '')
    .map((alg) => json({ alg, typ: 'at+jwt' }));
  const forged = fc
    .tuple(header, fc.constantFrom('sub', 'client_id', 'scope', 'exp', 'iss'), hostileText)
    .map(([head, claim, value]) => {
      const [, payload = '', signature = ''] = body.access_token.split('.');
      const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
      return `${head}.${json({ ...claims, [claim]: value })}.${signature}`;
    });
  const changed = fc
    .tuple(fc.constantFrom(...tokens), mutations)
    .map(([token, changes]) => mutate(token, changes));
  const property = fc.asyncProperty(fc.oneof(changed, changed, forged, hostileText), async (token) => {
    if (tokens.includes(token)) return;
    const answer = await introspect(token);
    assert.ok(
      answer.status === 200 ? answer.body.active === false : answer.status === 400,
      JSON.stringify(answer.body),
    );
    const headers = { authorization: `Bearer ${token.replace(/[^!-~]/g, '~')}` };
    const userinfo = await fetch(`${issuer}/connect/userinfo`, { headers });
    await userinfo.arrayBuffer();
    assert.ok([400, 401].includes(userinfo.status), `userinfo: ${userinfo.status}`);
    const query = new URLSearchParams({
      id_token_hint: token,
      post_logout_redirect_uri: 'http://localhost:5090/',
    });
    const signOut = await fetch(`${issuer}/connect/endsession?${query}`, { redirect: 'manual' });
    await signOut.arrayBuffer();
    assert.doesNotMatch(signOut.headers.get('location') ?? '', /:5090/);
  });
  await holds(property, 100);
});

test('a cookie that was changed signs nobody in', async (t) => {
  const server = await startTestServer(t);
  const { browser } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const session = browser.cookies().filter(({ name }) => name.startsWith('postern.session'));
  const honest = session.map(({ name, value }) => `${name}=${value}`).join('; ');
  const parameters = { client_id: 'mvc', redirect_uri: mvc.redirectUri };
  const isSignedIn = async (cookie: string) =>
    (await authorizeSilently(server, parameters, { cookie })).location?.includes('code=') === true;
  assert.equal(await isSignedIn(honest), true);

  /** As the server reads them: a cookie that is there twice counts as it is there first. */
  const valuesOf = (cookie: string) =>
    session.map(
      ({ name }) => new RegExp(`(?:^|;) *${name.replaceAll('.', '\\.')}=("?)([^;]*)\\1`).exec(cookie)?.[2],
    );
  const property = fc.asyncProperty(mutations, async (changes) => {
    const cookie = mutate(honest, changes)
      .replace(/[^\t -~]/g, '~')
      .trim();
    const isSame = valuesOf(cookie).every((value, index) => value === session[index]?.value);
    if (!isSame) assert.equal(await isSignedIn(cookie), false);
  });
  await holds(property, 150);
});

async function startTicket(t: TestContext, secret: string) {
  return startTestServer(t, {
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: { Ticket: { HandlerUrl: 'http://localhost:1/WinLogin/', Secrets: [{ plain: secret }] } },
    },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] } },
    accounts: [{ Name: 'EXAMPLE\\carol' }, { Name: 'alice', Password: 'Pass-word-1' }],
  });
}

test('a ticket that was changed, or signed by somebody else, signs nobody in', async (t) => {
  const secret = 'a-secret-of-the-handler-of-32-characters';
  const server = await startTicket(t, secret);
  const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}/WinLogin`;
  const browser = createBrowser();
  const away = await browser.request(`${url}?wa=wsignin1.0&wtrealm=urn:portal`);
  const claims = {
    name: 'EXAMPLE\\carol',
    sid: 'S-1-5-21-1004336348-1177238915-682003330-512',
    attempt: away.location?.searchParams.get('attempt'),
    time: Math.floor(Date.now() / 1000),
  };
  const honest = signTicket(claims, secret);
  const send = async (ticket: string) => {
    const form = new URLSearchParams({ ticket });
    return (await browser.request(url, { method: 'POST', body: form })).body.includes('name="wresult"');
  };
  const changed = mutations.map((changes) => mutate(honest, changes));
  const forged = fc
    .tuple(fc.dictionary(fc.constantFrom('name', 'sid', 'time', 'attempt'), hostileText), hostileText)
    .map(([more, key]) => signTicket({ ...claims, ...more }, key === secret ? 'x' : key));
  const property = fc.asyncProperty(fc.oneof(changed, forged, hostileText), async (ticket) => {
    if (ticket !== honest) assert.equal(await send(ticket), false);
  });
  await holds(property, 200);
  // None of them has used it up, and it is as good as it was.
  const later = signTicket({ ...claims, time: Math.floor(Date.now() / 1000) }, secret);
  assert.equal(await send(later), true);
});

test('a token has the scopes that were asked for, all of them allowed, or there is none', async (t) => {
  const server = await startTestServer(t);
  const allowed = ['openid', 'profile', 'intelligence_web_api', 'offline_access'];
  const word = fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...allowed) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('mi', 'roles', 'OPENID', 'openid,profile', '[]', '*', '__proto__'),
    },
    { weight: 1, arbitrary: hostileText },
  );
  const property = fc.asyncProperty(
    fc.array(word, { maxLength: 6 }),
    fc.constantFrom(' ', '  '),
    async (words, between) => {
      const scope = words.join(between).toWellFormed();
      const { body, status } = await post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials', scope },
        basic('batch-ref', 'batch-ref-secret'),
      );
      // RFC 6749 section 3.3: one blank between two. There is no user whom the other scopes could be about.
      if (scope.split(' ').every((one) => one === 'intelligence_web_api') || scope === '') {
        assert.deepEqual([status, body.scope], [200, 'intelligence_web_api']);
      } else assert.deepEqual([status, body.error], [400, 'invalid_scope']);
    },
  );
  await holds(property, 150);
});
