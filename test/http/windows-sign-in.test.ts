/** Sign-in by Windows where somebody else authenticates the browser: a proxy (Header), or a handler of IIS (Ticket). */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { loadConfiguration } from '../../src/config/load.ts';
import { ConfigurationError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { startServer } from '../../src/server.ts';
import { mapName } from '../../src/wsfed/windows.ts';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import {
  findFreePort,
  prepareConfiguration,
  startTestServer,
  type TestServer,
} from '../support/start-server.ts';
import { signTicket } from '../support/windows-ticket.ts';

const secret = 'a-secret-of-the-proxy-or-the-handler';
const portal = { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] };
const accounts = [
  { Name: 'EXAMPLE\\carol' },
  { Name: 'alice', Password: 'Pass-word-1', WindowsName: 'EXAMPLE\\alice.long' },
  { Name: 'batch' },
];
const header = { Secrets: [{ plain: secret }], From: ['127.0.0.1'] };
const carol = { name: 'EXAMPLE\\carol', sid: 'S-1-5-21-1004336348-1177238915-682003330-512' };

function start(
  t: TestContext,
  windowsLogin: Record<string, unknown>,
  options: Parameters<typeof startTestServer>[1] = {},
) {
  return startTestServer(t, {
    ...options,
    server: { EnableWindowsLogin: true, WindowsLogin: windowsLogin, ...options.server },
    relyingParties: { Portal: portal },
    accounts,
  });
}

/** With the handler on the server's own host; nothing listens there. */
function startTicket(t: TestContext, options: Parameters<typeof startTestServer>[1] = {}, more = {}) {
  const ticket = { HandlerUrl: 'http://localhost:1/SPSSMR/WinLogin/', Secrets: [{ plain: secret }] };
  return start(t, { Ticket: ticket, ...more }, options);
}

function url({ issuer }: TestServer, path = '', more: Record<string, string> = {}) {
  const parameters = new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal', wctx: 'a&b', ...more });
  return `${issuer.replace(/Oidc$/, 'WsFed')}${path}?${parameters}`;
}

/** What the handler of IIS does: it reads the attempt, and signs who the browser is. */
function makeTicket(page: Page, more: Record<string, unknown> = {}, key = secret) {
  const claims = {
    ...carol,
    attempt: page.location?.searchParams.get('attempt'),
    time: Math.floor(Date.now() / 1000),
    ...more,
  };
  return signTicket(claims, key);
}

function bring(server: TestServer, browser: Browser, ticket: string) {
  const target = url(server, '/WinLogin').replace(/\?.*/, '');
  return browser.request(target, { method: 'POST', body: new URLSearchParams({ ticket }) });
}

function subjectOf({ body }: Page) {
  return /&lt;NameID [^;]*?&gt;(.*?)&lt;\/NameID/.exec(body.replaceAll('&quot;', '"'))?.[1];
}

function reasonsOf(server: TestServer) {
  return server.logged.filter(({ msg }) => msg === 'Windows sign-in refused').map(({ reason }) => reason);
}

async function issuesOf(t: TestContext, windowsLogin: unknown, platform: NodeJS.Platform = 'linux') {
  const server = {
    EnableWindowsLogin: true,
    ...(windowsLogin === undefined ? {} : { WindowsLogin: windowsLogin }),
  };
  const { configDirectory } = await prepareConfiguration(t, { server, files: { 'x.keytab': '' } });
  try {
    await loadConfiguration(configDirectory, { env: {}, platform });
    return '';
  } catch (err) {
    assert.ok(err instanceof ConfigurationError);
    return err.issues.map(({ path, message, hint = '' }) => `${path} ${message} ${hint}`).join('\n');
  }
}

test('a name in the header of the proxy signs in, with the secret and from its address', async (t) => {
  const server = await start(t, { Header: header });
  const first = await createBrowser().request(url(server));
  assert.match(first.location?.pathname ?? '', /\/WsFed\/WinLogin$/);
  const headers = { 'x-remote-user': 'example\\CAROL', 'x-remote-secret': secret };
  const page = await createBrowser().request(url(server, '/WinLogin'), { headers });
  assert.equal(subjectOf(page), 'EXAMPLE\\carol');
  assert.match(page.body, /urn:federation:authentication:windows/);
  assert.ok(!server.logText().includes(secret));
});

test('an application at the root of its host leads to its own pages, and to no other host', async (t) => {
  const port = await findFreePort();
  const origin = `http://localhost:${port}`;
  const server = {
    ...{ PublicUrl: `${origin}/SPSSMR/Oidc`, WsFed: { PublicUrl: origin } },
    Listener: { Host: '127.0.0.1', Port: port },
  };
  for (const Mounts of [['Oidc', 'WsFed'], ['WsFed']]) {
    const { stop } = await start(t, { Header: header }, { server: { ...server, Mounts } });
    const query = 'wa=wsignin1.0&wtrealm=urn:portal';
    const first = await createBrowser().request(`${origin}/?${query}`);
    assert.equal(first.location?.href, `${origin}/WinLogin?${query}`);
    const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
    assert.equal(subjectOf(await createBrowser().request(first.location, { headers })), 'EXAMPLE\\carol');
    const browser = createBrowser();
    const form = await browser.open(`${origin}/Login?${query}`);
    assert.match(form.body, /href="\/WinLogin\?/);
    const answer = await browser.submit(form, { username: 'alice', password: 'Pass-word-1' });
    assert.equal(subjectOf(answer), 'alice');
    assert.equal((await browser.open(`${origin}/?wa=wsignout1.0`)).status, 200);
    assert.equal(
      (await browser.open(`${origin}/FederationMetadata/2007-06/FederationMetadata.xml`)).status,
      200,
    );
    const home = await browser.open(`${origin}/SPSSMR/Oidc/`);
    assert.equal(home.status, Mounts.includes('Oidc') ? 200 : 404);
    await stop();
  }
});

test('a header without the secret, or with another, is nobody; the page is the answer', async (t) => {
  const server = await start(t, { Header: header });
  for (const given of [undefined, '', 'wrong', `${secret}x`]) {
    const headers = {
      'x-remote-user': 'EXAMPLE\\carol',
      ...(given === undefined ? undefined : { 'x-remote-secret': given }),
    };
    const page = await createBrowser().request(url(server, '/WinLogin'), { headers });
    assert.equal(page.status, 401);
    assert.match(page.body, /name="password"/);
    assert.equal(page.headers.get('www-authenticate'), 'Negotiate');
  }
  // The browser has answered the challenge, and the proxy has not taken it.
  const headers = { authorization: 'Negotiate YII=', 'x-remote-user': 'EXAMPLE\\carol' };
  const page = await createBrowser().request(url(server, '/WinLogin'), { headers });
  assert.equal(page.status, 403);
  assert.deepEqual(reasonsOf(server), ['header-missing']);
});

test('the metrics count sign-ins by Windows by how they end', async (t) => {
  const port = await findFreePort();
  const server = await start(t, { Header: header }, { server: { Management: { Port: port } } });
  for (const name of ['EXAMPLE\\carol', 'EXAMPLE\\nobody', 'EXAMPLE\\batch']) {
    const headers = { 'x-remote-user': name, 'x-remote-secret': secret };
    await createBrowser().request(url(server, '/WinLogin'), { headers });
  }
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  assert.match(text, /postern_windows_sign_ins_total\{outcome="signed-in"\} 1\n/);
  assert.match(text, /postern_windows_sign_ins_total\{outcome="no-account"\} 2\n/);
  assert.doesNotMatch(text, /carol|nobody/);
});

test('a header from an address that is not the proxy is nobody, even with the secret', async (t) => {
  const server = await start(t, { Header: { ...header, From: ['10.1.2.3', '10.9.0.0/16'] } });
  const headers = {
    'x-remote-user': 'EXAMPLE\\carol',
    'x-remote-secret': secret,
    'x-forwarded-for': '10.1.2.3',
  };
  const page = await createBrowser().request(url(server, '/WinLogin'), { headers });
  assert.equal(page.status, 401);
});

test('a ticket of the handler signs in once, and goes with the context of its request', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  const left = await browser.open(url(server));
  assert.equal(left.status, 303);
  assert.equal(left.location?.origin, 'http://localhost:1');
  assert.equal(left.location?.searchParams.get('wctx'), 'a&b', 'for the page of who has no ticket');
  const ticket = makeTicket(left);
  const page = await bring(server, browser, ticket);
  assert.equal(subjectOf(page), 'EXAMPLE\\carol');
  assert.match(page.body, /name="wctx" value="a&amp;b"/);
  const foreign = await bring(server, createBrowser(), ticket);
  assert.equal(foreign.status, 403);
  assert.deepEqual(reasonsOf(server), ['ticket-used']);
  // The same browser loads its page again: it is signed in, and the ticket is not what says so.
  assert.equal(subjectOf(await bring(server, browser, ticket)), 'EXAMPLE\\carol');
  await browser.open(url(server, '', { wa: 'wsignout1.0' }));
  assert.equal((await bring(server, browser, ticket)).status, 403);
  assert.ok(!server.logText().includes(ticket));
});

test('a ticket that is old, early, forged, changed, or of another browser is refused to the page', async (t) => {
  const server = await startTicket(t);
  const time = Math.floor(Date.now() / 1000);
  const bad = async (make: (page: Page) => string) => {
    const browser = createBrowser();
    const page = await bring(server, browser, make(await browser.open(url(server))));
    assert.equal(page.status, 403, page.body);
    assert.match(page.body, /name="password"/);
    assert.match(page.body, /Windows did not sign you in/);
  };
  await bad((page) => makeTicket(page, { time: time - 31 }));
  await bad((page) => makeTicket(page, { time: time + 40 }));
  await bad((page) => makeTicket(page, {}, 'another-secret-of-thirty-two-characters'));
  await bad((page) => {
    const [, mac] = makeTicket(page).split('.');
    const [text] = makeTicket(page, { name: 'alice' }).split('.');
    return `${text}.${mac}`;
  });
  await bad((page) => makeTicket(page).replace(/\..*/, ''));
  assert.deepEqual(reasonsOf(server), [
    'ticket-time',
    'ticket-time',
    'ticket-signature',
    'ticket-signature',
    'ticket-signature',
  ]);

  // Somebody sets out, and has another person's browser bring the ticket, or brings that person's.
  const [mine, other] = [createBrowser(), createBrowser()];
  await other.open(url(server, '/Login'));
  const left = await mine.open(url(server));
  const again = await bring(server, other, makeTicket(left));
  assert.equal(again.status, 303, 'the other browser sets out by itself');
  assert.equal((await bring(server, mine, makeTicket(left))).status, 403, 'the first attempt is spent');
  const second = await bring(server, mine, makeTicket(again));
  assert.equal(second.status, 403);
  assert.equal(reasonsOf(server).at(-1), 'ticket-browser');
  assert.equal(
    mine.cookies().some(({ name }) => name === 'postern.wsfed'),
    false,
  );

  for (const nonsense of ['', '.', 'x', 'e30.x', `${Buffer.from('null').toString('base64url')}.x`]) {
    assert.equal((await bring(server, createBrowser(), nonsense)).status, 400);
  }
});

test('windows that a browser opens at once all end signed in', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  // Both set out before either has the cookie of the other.
  const [one, two] = await Promise.all([
    browser.request(url(server, '/WinLogin')),
    browser.request(url(server, '/WinLogin')),
  ]);
  const results = [
    await bring(server, browser, makeTicket(one)),
    await bring(server, browser, makeTicket(two)),
  ];
  for (const result of results) {
    const page = result.status === 303 ? await bring(server, browser, makeTicket(result)) : result;
    assert.equal(subjectOf(page), 'EXAMPLE\\carol');
  }
});

test('the security identifier stays with the account: a new name leads there, and a new owner of the old name does not', async (t) => {
  const server = await startTicket(t, {}, { ProvisionAccounts: true });
  const as = async (claims: Record<string, unknown>) => {
    const browser = createBrowser();
    return bring(server, browser, makeTicket(await browser.open(url(server)), claims));
  };
  assert.equal(subjectOf(await as({})), 'EXAMPLE\\carol');
  assert.equal(subjectOf(await as({ name: 'EXAMPLE\\carol.married' })), 'EXAMPLE\\carol');
  const other = await as({ sid: 'S-1-5-21-1004336348-1177238915-682003330-513' });
  assert.equal(other.status, 403);
  assert.match(other.body, /There is no account for you here/);
  assert.equal(
    server.logged.findLast(({ msg }) => msg === 'no account for a Windows user')?.reason,
    'account-taken',
  );
  assert.equal(subjectOf(await as({ name: 'EXAMPLE\\erin', sid: 'S-1-5-21-1-2-3-4' })), 'EXAMPLE\\erin');
  // Neither a service, nor the account of a client.
  const reasonOf = () => server.logged.findLast(({ msg }) => msg === 'no account for a Windows user')?.reason;
  for (const [name, reason] of [
    ['batch', 'client-account'],
    ...[
      'HTTP/host@EXAMPLE.TEST',
      'a\\b\\c',
      'EXAMPLE\\HOST$',
      'HOST$@EXAMPLE.TEST',
      'NT AUTHORITY\\SYSTEM',
      'EXAMPLE\\boss, carol',
      'EXAMPLE\\\u212aate',
      'EXAMPLE\\x.',
    ].map((nobody) => [nobody, 'name-unusable']),
  ] as const) {
    const page = await as({ name, sid: 'S-1-5-21-1-2-3-5' });
    assert.equal(page.status, 403, name);
    assert.equal(reasonOf(), reason, name);
  }
  // What is the same on every machine is no identifier.
  assert.equal((await as({ sid: 'S-1-5-18' })).status, 400);
});

test('browsers outside the networks get the page at once, and those inside the challenge', async (t) => {
  const server = await start(t, { Header: header, Networks: ['10.0.0.0/8', '2001:db8::/32'] });
  const at = async (forwarded: string, path = '') =>
    createBrowser().request(url(server, path), { headers: { 'x-forwarded-for': forwarded } });
  for (const outside of [
    '192.0.2.7',
    '192.0.2.7:54321',
    '10.1.2.3, 192.0.2.7',
    'nonsense',
    '[2001:db9::1]:443',
  ]) {
    const page = await at(outside);
    assert.equal(page.status, 200, outside);
    assert.doesNotMatch(page.body, /Sign in with Windows/);
    assert.equal((await at(outside, '/WinLogin')).headers.get('www-authenticate'), null, outside);
  }
  for (const inside of [
    '10.1.2.3',
    '10.1.2.3:54321',
    '192.0.2.7, 10.1.2.3',
    '::ffff:10.1.2.3',
    '[2001:db8::5]:443',
  ])
    assert.equal((await at(inside)).status, 302, inside);
});

test('outside the networks no ticket is taken, and none is sent for', async (t) => {
  const server = await startTicket(t, {}, { Networks: ['10.0.0.0/8'] });
  const inside = { 'x-forwarded-for': '10.1.2.3' };
  const browser = createBrowser();
  const left = await browser.request(url(server, '/WinLogin'), { headers: inside });
  assert.equal(left.status, 303);
  const page = await bring(server, browser, makeTicket(left));
  assert.equal(page.status, 403);
  const target = url(server, '/WinLogin').replace(/\?.*/, '');
  const body = new URLSearchParams({ ticket: makeTicket(left) });
  const back = await browser.request(target, { method: 'POST', body, headers: inside });
  assert.equal(subjectOf(back), 'EXAMPLE\\carol');
});

test('a ticket that another site posts changes nothing, not even a form that is open', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  const login = await browser.open(url(server, '/Login'));
  const target = url(server, '/WinLogin').replace(/\?.*/, '');
  const body = new URLSearchParams({ ticket: 'x' });
  const headers = { 'sec-fetch-site': 'cross-site' };
  const page = await createBrowser().request(target, { method: 'POST', body, headers });
  assert.deepEqual([page.status, page.headers.getSetCookie()], [403, []]);
  const answer = await browser.submit(login, { username: 'alice', password: 'Pass-word-1' });
  assert.equal(subjectOf(answer), 'alice');
});

test('a ticket that is refused beside an older session is told of as any other', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  await bring(server, browser, makeTicket(await browser.open(url(server))));
  const left = await browser.request(url(server, '/WinLogin', { wfresh: '0' }));
  const page = await bring(server, browser, makeTicket(left, { time: 1 }));
  assert.equal(page.status, 403);
  assert.match(page.body, /Windows did not sign you in/);
  assert.deepEqual(reasonsOf(server), ['ticket-time']);
});

test('a restart between setting out and coming back loses nothing', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  const left = await browser.open(url(server));
  await server.stop();
  const log = createLogger({ level: 'silent', format: 'json' });
  await using again = await startServer({ configDirectory: server.configDirectory, env: {}, log });
  assert.equal(again.issuer, server.issuer);
  assert.equal(subjectOf(await bring(server, browser, makeTicket(left))), 'EXAMPLE\\carol');
});

test('the handler gets one attempt, whatever the request says', async (t) => {
  const server = await startTicket(t);
  const left = await createBrowser().request(url(server, '/WinLogin', { attempt: 'evil', more: 'x' }));
  assert.equal(left.location?.searchParams.getAll('attempt').length, 1);
  assert.equal(left.location?.searchParams.has('more'), false);
  const head = await createBrowser().request(url(server, '/WinLogin'), { method: 'HEAD' });
  assert.equal(head.status, 405);
});

test('WinLogin and Login are for signing in alone', async (t) => {
  const server = await start(t, { Header: header });
  for (const path of ['/WinLogin', '/Login']) {
    for (const wa of ['wsignout1.0', '']) {
      const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
      const page = await createBrowser().request(url(server, path, { wa }), { headers });
      assert.equal(page.status, 400, `${path} ${wa}`);
    }
  }
});

test('a proxy may pass on the ticket that it has read, however large', async (t) => {
  const server = await start(t, { Header: header });
  const headers = {
    authorization: `Negotiate ${'A'.repeat(90_000)}`,
    'x-remote-user': 'EXAMPLE\\carol',
    'x-remote-secret': secret,
  };
  assert.equal(
    subjectOf(await createBrowser().request(url(server, '/WinLogin'), { headers })),
    'EXAMPLE\\carol',
  );
});

test('no identity provider can speak of the users of Windows', async (t) => {
  const server = await startTicket(t);
  const browser = createBrowser();
  await bring(server, browser, makeTicket(await browser.open(url(server))));
  const { externalLogins } = server.context;
  const partner = server.configuration.providers.get('IntelligenceWsFed');
  assert.ok(partner);
  const claims = new Map([['nameidentifier', ['alice']]]);
  const rules = { isReserved: () => false, isProvider: () => true };
  const result = await externalLogins.resolve(
    partner,
    { issuer: 'urn:windows', subject: carol.sid, claims },
    rules,
  );
  assert.deepEqual(result, { kind: 'refused', reason: 'issuer-of-another' });
});

test('a new sign-in that is asked for is not given without the user: the page offers Windows', async (t) => {
  const server = await start(t, { Header: header });
  // A first sign-in is as new as anybody may ask for.
  assert.equal((await createBrowser().request(url(server, '', { wfresh: '480' }))).status, 302);
  const known = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
  const elsewhere = await createBrowser().request(url(server, '/WinLogin', { wfresh: '0' }), {
    headers: { ...known, 'sec-fetch-site': 'cross-site' },
  });
  assert.equal(elsewhere.status, 200);
  assert.match(elsewhere.body, /name="password"/, 'nor by the link of another site');
  const browser = createBrowser();
  const page = await browser.open(url(server, '', { wfresh: '0' }));
  assert.equal(page.status, 200);
  const link = /href="([^"]*WinLogin[^"]*)"/.exec(page.body)?.[1]?.replaceAll('&amp;', '&');
  assert.ok(link);
  const headers = { 'x-remote-user': 'EXAMPLE\\alice.long', 'x-remote-secret': secret };
  assert.equal(subjectOf(await browser.request(new URL(link, server.url), { headers })), 'alice');
});

test('wauth asks for a way, and a sign-in of the other is not taken', async (t) => {
  const server = await start(t, { Header: header });
  const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
  const password = { wauth: 'urn:oasis:names:tc:SAML:1.0:am:password' };
  const windows = { wauth: 'urn:federation:authentication:windows' };
  const browser = createBrowser();
  await browser.request(url(server, '/WinLogin'), { headers });
  const asked = await browser.open(url(server, '', password));
  assert.equal(asked.status, 200);
  assert.match(asked.body, /name="password"/);
  assert.doesNotMatch(asked.body, /Sign in with Windows/);
  assert.match((await browser.open(url(server, '', windows))).body, /name="wresult"/);
  const answer = await browser.submit(asked, { username: 'alice', password: 'Pass-word-1' });
  assert.equal(subjectOf(answer), 'alice');
  assert.equal((await browser.request(url(server, '', windows))).status, 302, 'to WinLogin');

  const without = await start(t, { Header: header }, { server: { EnableWindowsLogin: false } });
  const other = createBrowser();
  const page = await other.open(url(without, '', windows));
  assert.match(
    (await other.submit(page, { username: 'alice', password: 'Pass-word-1' })).body,
    /name="wresult"/,
  );
  assert.match((await other.open(url(without, '', windows))).body, /name="wresult"/);
});

test('switched off, there is no Windows sign-in, whatever WindowsLogin says', async (t) => {
  const server = await start(t, { Header: header }, { server: { EnableWindowsLogin: false } });
  const page = await createBrowser().open(url(server));
  assert.equal(page.status, 200);
  const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
  const direct = await createBrowser().request(url(server, '/WinLogin'), { headers });
  assert.equal(direct.status, 200);
  assert.match(direct.body, /name="password"/);
  assert.equal((await bring(server, createBrowser(), 'x.y')).status, 403);
});

test('what is wrong with WindowsLogin is said by name, with the remedy', async (t) => {
  const ticket = { HandlerUrl: 'http://localhost/WinLogin/', Secrets: [{ plain: secret }] };
  for (const [windowsLogin, expected, platform] of [
    [undefined, /WindowsLogin is required where EnableWindowsLogin is true/],
    [{}, /exactly one of Negotiate, Header and Ticket/],
    [{ Header: header, Ticket: ticket }, /exactly one/],
    [{ Negotiate: { Keytab: 'none.keytab' } }, /Keytab .*none\.keytab cannot be read/],
    [{ Negotiate: { Keytab: 'x.keytab' } }, /Negotiate does not work .* Windows .*IIS/, 'win32'],
    [{ Header: { ...header, From: [] } }, /must name the address of the proxy/],
    [{ Header: { ...header, From: ['proxy.example.com'] } }, /must be an address or a network/],
    [{ Header: { ...header, Secrets: [{ plain: 'short' }] } }, /shorter than 32/],
    [{ Ticket: { ...ticket, HandlerUrl: 'http://other.example.com/' } }, /must be http:\/\/localhost/],
    [{ Ticket: { ...ticket, HandlerUrl: 'https://localhost/' } }, /must be http:\/\/localhost/],
    [{ Ticket: { ...ticket, HandlerUrl: 'http://localhost/x?y=1' } }, /no query and no fragment/],
    [{ Header: { ...header, Name: 'X-Forwarded-Proto' } }, /has a meaning already/],
    [{ Header: { ...header, SecretName: 'x-remote-user' } }, /must be another header than Name/],
    [{ Header: { ...header, From: ['0.0.0.0/0'] } }, /is every address/],
    [{ Header: header, Names: [{ From: '*@A ', To: '*' }] }, /begins or ends with a blank/],
    [{ Header: header, Names: [{ From: '*@A', To: 'b' }] }, /\* in one of From and To only/],
    [{ Header: header, Networks: ['10.0.0.0/99'] }, /must be an address or a network/],
  ] as [unknown, RegExp, NodeJS.Platform?][]) {
    assert.match(await issuesOf(t, windowsLogin, platform), expected);
  }
  assert.equal(await issuesOf(t, { Ticket: ticket }, 'win32'), '');
});

test('rules turn Windows names into names of accounts, the first that matches', () => {
  const rules = [
    { From: 'boss@EXAMPLE.COM', To: 'alice' },
    { From: '*@EXAMPLE.COM', To: 'EXAMPLE\\*' },
    { From: 'PARTNER\\*', To: 'partner-*' },
  ];
  for (const [name, expected] of [
    ['Boss@example.com', 'alice'],
    ['Carol@Example.Com', 'EXAMPLE\\Carol'],
    ['partner\\x$&y', 'partner-x$&y'],
    ['x@y@EXAMPLE.COM', 'x@y@EXAMPLE.COM'],
    ['@EXAMPLE.COM', '@EXAMPLE.COM'],
    ['carol@PARTNER.COM', 'carol@PARTNER.COM'],
    ['carol', 'carol'],
  ] as const) {
    assert.equal(mapName(rules, name), expected);
  }
});
