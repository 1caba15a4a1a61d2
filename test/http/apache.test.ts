/** deploy/apache/winlogin.conf in a real Apache in front of the server, with a KDC of MIT's and curl. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { createBrowser } from '../support/browser.ts';
import { type Kdc, realm, startKdc } from '../support/kdc.ts';
import { requireCommand, requireFile } from '../support/requirements.ts';
import { findFreePort, startTestServer, untilOpen } from '../support/start-server.ts';

const run = promisify(execFile);
const secret = 'secret+of+Apache/in+base64+or+the+like==';
const modules = '/usr/lib/apache2/modules';
/** Apache has no children as root: nobody's rights are enough for it. */
const nobody = 65_534;

async function startApache(t: TestContext, { env, makeKeytab }: Kdc, target: string) {
  const apache = requireCommand(t, 'apache2', 'apache2');
  requireFile(t, `${modules}/mod_auth_gssapi.so`, 'libapache2-mod-auth-gssapi');
  const isRoot = process.getuid?.() === 0;
  const folder = mkdtempSync(join(tmpdir(), 'postern-apache-'));
  const at = (name: string) => join(folder, name);
  const port = await findFreePort();
  const load = (name: string) => `LoadModule ${name}_module ${modules}/mod_${name}.so`;
  // What the recipe needs, and nothing of Debian's own configuration.
  const names = ['mpm_event', 'authn_core', 'authz_core', 'authz_user', 'auth_gssapi', 'headers'];
  writeFileSync(
    at('httpd.conf'),
    `${[...names, 'proxy', 'proxy_http'].map(load).join('\n')}
ServerRoot ${folder}
DefaultRuntimeDir ${folder}
PidFile ${at('pid')}
ErrorLog ${at('error.log')}
LogLevel info auth_gssapi:debug
ServerName localhost
Listen 127.0.0.1:${port}
Define POSTERN ${target}
Define POSTERN_SECRET ${secret}
Define POSTERN_KEYTAB ${at('keytab')}
Define POSTERN_WITHOUT_TLS
<VirtualHost *:${port}>
  Include ${at('winlogin.conf')}
</VirtualHost>
`,
  );
  copyFileSync(join(import.meta.dirname, '../../deploy/apache/winlogin.conf'), at('winlogin.conf'));
  copyFileSync(String(env.KRB5_CONFIG), at('krb5.conf'));
  copyFileSync(makeKeytab('HTTP/localhost'), at('keytab'));
  mkdirSync(at('rcache'));
  if (isRoot) for (const name of ['.', 'rcache', 'keytab', 'krb5.conf']) chownSync(at(name), nobody, nobody);
  for (const name of ['httpd.conf', 'winlogin.conf', 'krb5.conf']) chmodSync(at(name), 0o644);

  const child = spawn(apache, ['-f', at('httpd.conf'), '-D', 'FOREGROUND'], {
    env: { PATH: process.env.PATH, KRB5_CONFIG: at('krb5.conf'), KRB5RCACHEDIR: at('rcache') },
    stdio: 'inherit',
    ...(isRoot ? { uid: nobody, gid: nobody } : undefined),
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  await untilOpen(port);
  return { url: `http://localhost:${port}`, logText: () => readFileSync(at('error.log'), 'utf8') };
}

async function start(t: TestContext, known = secret) {
  const kdc = await startKdc(t, { users: ['carol'] });
  const server = await startTestServer(t, {
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: {
        Header: { Secrets: [{ plain: known }], From: ['127.0.0.1'] },
        Names: [{ From: `*@${realm}`, To: 'EXAMPLE\\*' }],
      },
    },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] } },
    accounts: [{ Name: 'EXAMPLE\\carol' }, { Name: 'alice', Password: 'Pass-word-1' }],
  });
  const apache = await startApache(t, kdc, server.url);
  return { apache, kdc, server };
}

const query = new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal', wctx: 'a&b%' });

/** What curl with `environment` has in the end, with the headers of every answer. */
async function curl(
  t: TestContext,
  url: string,
  environment: Readonly<Record<string, string>>,
  ...more: string[]
) {
  const options = ['--silent', '--user', ':', '--location', '--cookie-jar', '-', '--include', ...more];
  const { stdout } = await run(requireCommand(t, 'curl'), [...options, `${url}?${query}`], {
    env: { ...process.env, ...environment },
  });
  return stdout;
}

/** The login page, for the same request, and nothing that makes a browser try again. */
function assertLoginPage(text: string) {
  assert.match(text, /name="password"/, text.slice(0, 1000));
  assert.ok(text.includes(`action="/SPSSMR/WsFed?${String(query).replaceAll('&', '&amp;')}"`), text);
  assert.doesNotMatch(text, /name="wresult"/);
}

test('Apache takes the ticket after the challenge of the server, and passes the name on', async (t) => {
  const { apache, kdc, server } = await start(t);
  const output = await curl(t, `${apache.url}/SPSSMR/WsFed`, kdc.signIn('carol'), '--anyauth');
  assert.match(output, /^HTTP\/1\.1 302 [\s\S]*HTTP\/1\.1 401 [\s\S]*HTTP\/1\.1 200 OK/);
  assert.match(output, /NameID .*?&gt;EXAMPLE\\carol&lt;/);
  assert.ok(server.logged.some(({ msg, method }) => msg === 'login finished' && method === 'windows'));
  // The path in other letters is the same to the server.
  const lower = await curl(t, `${apache.url}/SPSSMR/WsFed/winlogin`, kdc.signIn('carol'), '--negotiate');
  assert.match(lower, /NameID .*?&gt;EXAMPLE\\carol&lt;/);
});

test('without a ticket the login page comes with the challenge, and passwords go through', async (t) => {
  const { apache, kdc } = await start(t);
  const output = await curl(t, `${apache.url}/SPSSMR/WsFed`, kdc.env, '--anyauth');
  assert.match(output, /HTTP\/1\.1 401 [\s\S]*WWW-Authenticate: Negotiate\r\n/);
  assertLoginPage(output);
  const browser = createBrowser();
  const page = await browser.open(`${apache.url}/SPSSMR/WsFed?${query}`);
  assert.equal(page.status, 401);
  const answer = await browser.submit(page, { username: 'alice', password: 'Pass-word-1' });
  assert.match(answer.body, /NameID .*?&gt;alice&lt;/);
});

test('a ticket for a key that Apache has not, NTLM and nonsense lead to the login page with the same query', async (t) => {
  const { apache, kdc } = await start(t);
  kdc.makeKeytab('HTTP/localhost');
  const output = await curl(t, `${apache.url}/SPSSMR/WsFed/WinLogin`, kdc.signIn('carol'), '--negotiate');
  assertLoginPage(output);
  assert.doesNotMatch(output, /WWW-Authenticate/);
  assert.match(apache.logText(), /not found in keytab; keytab is likely out of date/);
  for (const authorization of [
    'Negotiate',
    'Negotiate TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAA=',
    'NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAA=',
    'Basic Y2Fyb2w6eA==',
    'Bearer x',
    // As large as a ticket gets.
    `Negotiate ${'A'.repeat(80_000)}`,
  ]) {
    const page = await createBrowser().request(`${apache.url}/SPSSMR/WsFed/WinLogin?${query}`, {
      headers: { authorization },
    });
    assert.equal(page.status, 200, authorization.slice(0, 20));
    assert.equal(page.headers.get('www-authenticate'), null);
    assertLoginPage(page.body);
  }
});

test('a name and even the secret that a browser sends by itself come to nothing', async (t) => {
  const { apache, server } = await start(t);
  const forged = { 'x-remote-user': `carol@${realm}`, 'x-remote-secret': secret };
  // They are good where nobody takes them away.
  const direct = await createBrowser().request(`${server.url}/SPSSMR/WsFed/WinLogin?${query}`, {
    headers: forged,
  });
  assert.match(direct.body, /name="wresult"/);
  for (const path of ['/WinLogin', '/winlogin', '/%57inLogin', '//WinLogin', '/./WinLogin', '/Login', '']) {
    for (const more of [{}, { authorization: 'Negotiate YGI=' }, { authorization: 'Bearer x' }]) {
      const page = await createBrowser().request(`${apache.url}/SPSSMR/WsFed${path}?${query}`, {
        headers: { ...forged, ...more },
      });
      assert.doesNotMatch(page.body, /name="wresult"/, path);
    }
  }
});

test('a secret that the server does not know is in its log, and the browser is not asked again', async (t) => {
  const { apache, kdc, server } = await start(t, `${secret}x`);
  const output = await curl(t, `${apache.url}/SPSSMR/WsFed`, kdc.signIn('carol'), '--anyauth');
  assert.match(output, /HTTP\/1\.1 403 /);
  assertLoginPage(output);
  assert.equal(server.logged.find(({ msg }) => msg === 'Windows sign-in refused')?.reason, 'header-missing');
});
