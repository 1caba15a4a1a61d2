/** Sign-in by Kerberos tickets at the WsFed application, with a KDC of MIT's, curl, and the library of the system. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { ConfigurationError } from '../../src/errors.ts';
import { startServer } from '../../src/server.ts';
import { createBrowser } from '../support/browser.ts';
import { realm, startKdc } from '../support/kdc.ts';
import { requireCommand, requireKerberos } from '../support/requirements.ts';
import { prepareConfiguration, startTestServer, type TestServer } from '../support/start-server.ts';

const run = promisify(execFile);
const portal = { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] };
const accounts = [
  { Name: 'EXAMPLE\\carol', DisplayName: 'Carol' },
  { Name: 'alice', Password: 'Pass-word-1' },
  { Name: 'dave', WindowsName: 'EXAMPLE\\dave', Disabled: true },
  { Name: 'whole@EXAMPLE.TEST' },
];

interface KerberosClient {
  step(challenge: string): Promise<string>;
}
interface KerberosClients {
  initializeClient(service: string, options: { mechOID: number }): Promise<KerberosClient>;
  readonly GSS_MECH_OID_SPNEGO: number;
}

async function start(t: TestContext, windowsLogin: Record<string, unknown> = {}, users = ['carol']) {
  const folder = requireKerberos(t);
  const kdc = await startKdc(t, { users });
  const keytab = kdc.makeKeytab('HTTP/localhost');
  // What the library of the system reads, in this process.
  Object.assign(process.env, kdc.env);
  const server = await startTestServer(t, {
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: {
        Negotiate: { Keytab: keytab },
        Names: [{ From: `*@${realm}`, To: 'EXAMPLE\\*' }],
        ...windowsLogin,
      },
    },
    relyingParties: { Portal: portal },
    accounts,
    links: { node_modules: join(folder, 'node_modules') },
  });
  return { server, kdc, folder };
}

function url({ issuer }: TestServer, path = '/WinLogin') {
  return `${issuer.replace(/Oidc$/, 'WsFed')}${path}?${new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal', wctx: 'ctx' })}`;
}

/** What a browser with this user's ticket sends. */
async function makeToken(
  folder: string,
  environment: Readonly<Record<string, string>>,
  service = 'HTTP@localhost',
) {
  Object.assign(process.env, environment);
  const kerberos = createRequire(join(folder, 'package.json'))('kerberos') as KerberosClients;
  const client = await kerberos.initializeClient(service, { mechOID: kerberos.GSS_MECH_OID_SPNEGO });
  return client.step('');
}

async function send(server: TestServer, authorization: string) {
  return createBrowser().request(url(server), { headers: { authorization } });
}

function reasons(server: TestServer) {
  return server.logged.filter(({ msg }) => msg === 'Windows sign-in refused');
}

function assertLoginPage(page: { status: number; body: string; headers: Headers }, status = 403) {
  assert.equal(page.status, status, page.body.slice(0, 500));
  assert.match(page.body, /name="password"/);
}

async function curl(
  t: TestContext,
  address: string,
  environment: Readonly<Record<string, string>>,
  wrapper: readonly string[] = [],
) {
  const options = ['--silent', '--negotiate', '--user', ':', '--location', '--cookie-jar', '-', '--include'];
  const [command = '', ...parameters] = [...wrapper, requireCommand(t, 'curl'), ...options, address];
  const { stdout } = await run(command, parameters, { env: { ...process.env, ...environment } });
  return stdout;
}

function inAssertion(page: string) {
  return page.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&quot;', '"');
}

test('curl with a ticket of the realm is signed in without a page, and is known by Windows', async (t) => {
  const { server, kdc } = await start(t);
  const output = await curl(t, url(server, ''), kdc.signIn('carol'));
  assert.match(output, /HTTP\/1\.1 302 Found[\s\S]*HTTP\/1\.1 200 OK/);
  assert.match(output, /WWW-Authenticate: Negotiate [A-Za-z0-9+/]+=*\r\n/, 'the server proves itself');
  const assertion = inAssertion(output);
  assert.match(assertion, /action="https:\/\/portal\.example\.com\/signin"/);
  assert.match(assertion, /<NameID [^>]*>EXAMPLE\\carol</);
  assert.match(assertion, /claims\/windowsaccountname"><AttributeValue>EXAMPLE\\carol</);
  assert.match(assertion, /AuthnContextClassRef>urn:federation:authentication:windows</);
  assert.ok(server.logged.some(({ msg, method }) => msg === 'login finished' && method === 'windows'));
});

test('a browser without a ticket gets the login page with the challenge, and signs in there', async (t) => {
  const { server, kdc } = await start(t);
  const browser = createBrowser();
  const page = await browser.open(url(server, ''));
  assertLoginPage(page, 401);
  assert.equal(page.headers.get('www-authenticate'), 'Negotiate');
  assert.match(page.url.pathname, /\/WsFed\/WinLogin$/);
  const answer = await browser.submit(page, { username: 'alice', password: 'Pass-word-1' });
  assert.match(answer.body, /name="wresult"/);
  const again = await browser.open(url(server, ''));
  assert.match(again.body, /name="wresult"/, 'one sign-in serves on');

  // curl that may negotiate and has no ticket.
  const output = await curl(t, url(server, ''), kdc.env);
  assert.match(output, /401 [\s\S]*name="password"/);
  const direct = await createBrowser().open(url(server, '/Login'));
  assertLoginPage(direct, 200);
  assert.match(direct.body, /href="[^"]*\/WsFed\/WinLogin\?wa=wsignin1\.0[^"]*"[^>]*>Sign in with Windows</);
});

test('a ticket of sixty kilobytes is read', async (t) => {
  const { server, kdc, folder } = await start(t);
  const token = await makeToken(folder, kdc.signIn('carol'));
  const large = padToken(token, 60_000);
  assert.ok(Buffer.from(large, 'base64').length >= 60_000);
  const page = await send(server, `Negotiate ${large}`);
  assert.equal(page.status, 200, JSON.stringify(reasons(server)));
  assert.match(page.body, /name="wresult"/);
});

test('a ticket that was used before is refused to the page, with the reason in the log', async (t) => {
  const { server, kdc, folder } = await start(t);
  const token = await makeToken(folder, kdc.signIn('carol'));
  assert.match((await send(server, `Negotiate ${token}`)).body, /name="wresult"/);
  const page = await send(server, `Negotiate ${token}`);
  assertLoginPage(page);
  assert.match(page.body, /Windows did not sign you in/);
  assert.equal(page.headers.get('www-authenticate'), null, 'no loop');
  assert.match(String(reasons(server)[0]?.detail), /replay/i);
  assert.ok(!server.logText().includes(token));
});

test('tickets for another key, another service and another time are refused to the page', async (t) => {
  const { server, kdc, folder } = await start(t);
  kdc.makeKeytab('host/localhost');
  const carol = kdc.signIn('carol');
  assertLoginPage(await send(server, `Negotiate ${await makeToken(folder, carol, 'host@localhost')}`));

  // With the ticket at hand the client has nobody who would put its clock right.
  await makeToken(folder, carol);
  const page = await curl(t, url(server), carol, [requireCommand(t, 'faketime'), '-f', '+1h']);
  assert.match(page, /HTTP\/1\.1 403 [\s\S]*name="password"/);

  // The key is another from now on, and the server still has the old one.
  kdc.makeKeytab('HTTP/localhost');
  assertLoginPage(await send(server, `Negotiate ${await makeToken(folder, kdc.signIn('carol'))}`));
  const details = reasons(server).map(({ detail }) => String(detail));
  assert.match(details[0] ?? '', /Wrong principal|No key table entry|not found in keytab/i);
  assert.match(details[1] ?? '', /clock skew/i);
  assert.match(details[2] ?? '', /key|keytab|kvno/i);
});

test('NTLM and nonsense get the page and not an error', async (t) => {
  const { server } = await start(t);
  const ntlm = Buffer.from('NTLMSSP\0\x01\0\0\0\x07\x82\x08\xa2').toString('base64');
  for (const authorization of [
    `Negotiate ${ntlm}`,
    `NTLM ${ntlm}`,
    'Negotiate',
    'Negotiate !!!',
    'Negotiate YGI=',
    `Negotiate ${'A'.repeat(90_000)}`,
    'Basic YWxpY2U6UGFzcy13b3JkLTE=',
    'Bearer x',
  ]) {
    assertLoginPage(await send(server, authorization));
  }
  assert.deepEqual(
    reasons(server).map(({ reason }) => reason),
    ['ntlm', 'ntlm', 'malformed', 'malformed', 'ticket', 'ticket', 'malformed', 'malformed'],
  );
});

test('who has no account, or a disabled one, is told so; rules and ProvisionAccounts decide who has one', async (t) => {
  const { server, kdc, folder } = await start(t, {}, ['carol', 'dave', 'erin', 'whole']);
  const as = async (user: string, at = server) =>
    send(at, `Negotiate ${await makeToken(folder, kdc.signIn(user))}`);
  for (const user of ['dave', 'erin', 'whole']) {
    const page = await as(user);
    assertLoginPage(page);
    assert.match(page.body, /There is no account for you here/);
  }
  const why = server.logged.filter(({ msg }) => msg === 'no account for a Windows user');
  assert.deepEqual(
    why.map(({ mapped, reason }) => [mapped, reason]),
    [
      ['EXAMPLE\\dave', 'account-disabled'],
      ['EXAMPLE\\erin', 'account-unknown'],
      ['EXAMPLE\\whole', 'account-unknown'],
    ],
  );
  await server.stop();

  const other = await startTestServer(t, {
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: { Negotiate: { Keytab: kdc.makeKeytab('HTTP/localhost') }, ProvisionAccounts: true },
    },
    relyingParties: { Portal: portal },
    accounts,
    links: { node_modules: join(folder, 'node_modules') },
  });
  assert.match(inAssertion((await as('whole', other)).body), /<NameID [^>]*>whole@EXAMPLE\.TEST</);
  assert.match(inAssertion((await as('erin', other)).body), /<NameID [^>]*>erin@EXAMPLE\.TEST</);
  assert.equal((await other.context.accounts.find('erin@example.test'))?.accountId, 'erin@EXAMPLE.TEST');
});

test('a keytab that cannot be used, or a package that is missing, stops the start with the remedy', async (t) => {
  const folder = requireKerberos(t);
  const kdc = await startKdc(t, { users: [] });
  Object.assign(process.env, kdc.env);
  const attempt = async (files: Record<string, string>, keytab: string, links: Record<string, string>) => {
    const { configDirectory } = await prepareConfiguration(t, {
      server: { EnableWindowsLogin: true, WindowsLogin: { Negotiate: { Keytab: keytab } } },
      files,
      links,
    });
    try {
      await using _server = await startServer({ configDirectory, env: {} });
      return undefined;
    } catch (err) {
      assert.ok(err instanceof ConfigurationError, String(err));
      return err.issues[0];
    }
  };
  const installed = { node_modules: join(folder, 'node_modules') };
  const empty = await attempt({ 'x.keytab': 'no keytab' }, 'x.keytab', installed);
  assert.match(`${empty?.path} ${empty?.message} ${empty?.hint}`, /Keytab cannot be used: .*klist -k/s);
  const foreign = await attempt({}, kdc.makeKeytab('host/localhost'), installed);
  assert.match(`${foreign?.message}`, /cannot be used: .*HTTP/i);
  const missing = await attempt({}, kdc.makeKeytab('HTTP/localhost'), {});
  assert.match(`${missing?.message} ${missing?.hint}`, /not installed .*npm install --no-save kerberos@7/s);
});

/**
 * The same token among many more mechanisms: SPNEGO's list of them (RFC 4178 section 4.2.1) is what can be made
 * longer without the key of the KDC. A real ticket of this size has its user's groups in it.
 */
function padToken(token: string, size: number): string {
  const bytes = Buffer.from(token, 'base64');
  const read = (at: number) => {
    const first = bytes[at + 1] ?? 0;
    const count = first < 0x80 ? 0 : first & 0x7f;
    const length = count === 0 ? first : bytes.readUIntBE(at + 2, count);
    const start = at + 2 + count;
    return { start, end: start + length };
  };
  const write = (tag: number, ...parts: Buffer[]) => {
    const content = Buffer.concat(parts);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(content.length);
    return Buffer.concat([Buffer.from([tag, 0x84]), length, content]);
  };
  // [APPLICATION 0] { OID, [0] { SEQUENCE { [0] { SEQUENCE OF OID }, … } } }
  const outer = read(0);
  const oid = read(outer.start);
  const choice = read(oid.end);
  const init = read(choice.start);
  const first = read(init.start);
  const list = read(first.start);
  const filler = Buffer.from('06092a864886f712010203', 'hex');
  const fillers = Buffer.concat(Array.from({ length: Math.ceil(size / filler.length) }, () => filler));
  const mechanisms = write(0x30, bytes.subarray(list.start, list.end), fillers);
  const whole = write(0x30, write(0xa0, mechanisms), bytes.subarray(first.end, init.end));
  return write(0x60, bytes.subarray(outer.start, oid.end), write(0xa0, whole)).toString('base64');
}
