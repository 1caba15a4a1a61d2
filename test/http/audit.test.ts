/** The audit log of a server and of the commands beside it. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { createAudit } from '../../src/audit.ts';
import { createLogger } from '../../src/log.ts';
import { install } from '../commands/postern.ts';
import { createBrowser } from '../support/browser.ts';
import { startSlapd } from '../support/directory.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

type Line = Record<string, unknown>;

function folderOf({ configDirectory }: Pick<TestServer, 'configDirectory'>): string {
  return join(dirname(configDirectory), 'data/audit');
}

function read(folder: string): { lines: Line[]; text: string } {
  const text = readdirSync(folder)
    .sort()
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .join('');
  return {
    text,
    lines: text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Line),
  };
}

const toFolder = { Audit: { To: 'folder' } };

test('who signs in, what is issued and what is refused is written, with where it came from and without a secret', async (t) => {
  const server = await startTestServer(t, { server: toFolder });
  const { issuer } = server;
  const { back, body } = await signInAndRedeem({ issuer, ...mvc });
  const desk = { grant_type: 'password', username: 'alice', scope: 'openid' };
  const refused = await post(
    `${issuer}/connect/token`,
    { ...desk, password: 'Wrong-word-1' },
    basic('desk', 'desk-secret'),
  );
  assert.equal(refused.status, 400);
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'no-secret'));
  await createBrowser().request(`${issuer}/connect/authorize?client_id=nobody`);

  const { lines, text } = read(folderOf(server));
  const find = (event: string, outcome: string) =>
    lines.filter((line) => line.event === event && line.outcome === outcome);
  const [signIn] = find('sign-in', 'success');
  const { time, requestId, ...rest } = signIn ?? {};
  assert.deepEqual(rest, {
    audit: 1,
    event: 'sign-in',
    outcome: 'success',
    clientAddress: '127.0.0.1',
    clientId: 'mvc',
    accountId: 'alice',
    identityProvider: 'local',
    message: 'login finished',
  });
  assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$/);
  assert.match(String(requestId), /^[\w-]{12}$/);
  assert.equal(find('authorization', 'success').length, 1);
  assert.equal(find('token', 'success')[0]?.grantType, 'authorization_code');
  assert.deepEqual(
    find('sign-in', 'refused').map(({ accountId, clientId, reason }) => [accountId, clientId, reason]),
    [['alice', 'desk', 'password']],
  );
  assert.ok(find('token', 'refused').some(({ error }) => error === 'invalid_client'));
  assert.equal(find('authorization', 'refused').length, 1);
  assert.equal(find('server', 'success')[0]?.message, 'listening');

  for (const secret of ['Wrong-word-1', 'desk-secret', 'no-secret', 'mvc-secret', 'Pass']) {
    assert.ok(!text.includes(secret), secret);
  }
  for (const token of [body.access_token, body.id_token, back.location?.searchParams.get('code')]) {
    assert.ok(token);
    assert.ok(!text.includes(token));
  }
  if (process.platform !== 'win32') {
    const [name = ''] = readdirSync(folderOf(server));
    assert.equal(statSync(join(folderOf(server), name)).mode & 0o077, 0, 'for nobody else');
  }
});

test('a password grant is a sign-in, a sign-out is written where somebody was signed in, and an account that is made', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'newcomer' });
  const partner = {
    ...{ Type: 'Oidc', Authority: standIn.issuer, ClientId: standIn.clientId, ProvisionAccounts: true },
    ...{ ClientSecret: { plain: 'partner-secret' }, UserNameClaims: ['preferred_username'] },
  };
  const server = await startTestServer(t, {
    server: toFolder,
    providers: { IntelligenceWsFed: null, Partner: partner },
    clients: {
      mvc: { IdentityProviderRestrictions: ['Partner'] },
      spa: { IdentityProviderRestrictions: ['Partner'] },
    },
  });
  const { issuer } = server;
  const events = (name: string) =>
    read(folderOf(server))
      .lines.filter(({ event }) => event === name)
      .map(({ outcome, accountId, message }) => `${outcome} ${accountId} ${message}`);
  const form = { grant_type: 'password', username: 'ALICE', password: 'Pass-word-1', scope: 'openid' };
  assert.equal((await post(`${issuer}/connect/token`, form, basic('desk', 'desk-secret'))).status, 200);
  assert.deepEqual(events('sign-in'), ['success alice password grant accepted']);

  await createBrowser().open(`${issuer}/connect/endsession?id_token_hint=garbage`);
  assert.deepEqual(events('sign-out'), []);

  for (let time = 0; time < 2; time += 1) {
    const { browser, page } = await authorize({ issuer, ...mvc });
    const leaving = await browser.submit(page, { provider: 'Partner' });
    const back = await browser.open((await browser.open(leaving.location ?? '')).location ?? '');
    assert.ok(back.location?.searchParams.has('code'), back.body);
    const asked = await browser.open(`${issuer}/connect/endsession`);
    await browser.submit(asked, { logout: 'yes' });
  }
  assert.deepEqual(events('account'), ['success newcomer account provisioned'], 'once');
  assert.deepEqual(events('sign-out'), ['success newcomer signed out', 'success newcomer signed out']);
});

test('what cannot be decided has failed, and what is wrong is refused', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const server = await startTestServer(t, {
    server: { ...toFolder, Directory: slapd.settings({ DirectoryDown: 'Deny' }) },
  });
  const form = { grant_type: 'password', username: 'dora', scope: 'openid offline_access' };
  const call = (members: Record<string, string>) =>
    post(`${server.issuer}/connect/token`, members, basic('desk', 'desk-secret'));
  const { body } = await call({ ...form, password: 'Directory-pass-1' });
  await call({ ...form, password: 'not-this-one' });
  await slapd.kill();
  assert.equal((await call({ ...form, password: 'Directory-pass-1' })).status, 503);
  const refresh = { grant_type: 'refresh_token', refresh_token: body.refresh_token };
  assert.equal((await call(refresh)).status, 503);

  const lines = read(folderOf(server)).lines.filter(({ clientId }) => clientId === 'desk');
  assert.deepEqual(
    lines.map(({ event, outcome }) => `${event} ${outcome}`),
    [
      ...['sign-in success', 'token success'],
      ...['sign-in refused', 'token refused'],
      ...['sign-in failed', 'token failed'],
      'token failed',
    ],
  );
});

test('who comes by Windows and has no account is written with the relying party and the name', async (t) => {
  const secret = 'a-secret-of-the-proxy-or-the-handler';
  const server = await startTestServer(t, {
    server: {
      ...toFolder,
      EnableWindowsLogin: true,
      WindowsLogin: { Header: { Secrets: [{ plain: secret }], From: ['127.0.0.1'] } },
    },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const address = `${server.issuer.replace(/Oidc$/, 'WsFed')}/WinLogin?wa=wsignin1.0&wtrealm=urn:portal`;
  const headers = { 'x-remote-user': 'EXAMPLE\\nobody', 'x-remote-secret': secret };
  assert.equal((await createBrowser().request(address, { headers })).status, 403);
  const refused = read(folderOf(server)).lines.filter(({ outcome }) => outcome === 'refused');
  assert.deepEqual(
    refused.map(({ event, relyingParty, windowsName, reason }) => [event, relyingParty, windowsName, reason]),
    [['sign-in', 'Portal', 'EXAMPLE\\nobody', 'account-unknown']],
  );
});

test('in a folder of somebody else it writes all the same, and what the superuser makes goes to its owner', {
  skip: process.getuid?.() !== 0 && 'only the superuser can be somebody else',
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'postern-audit-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const log = createLogger({ level: 'silent', format: 'json' });
  const open = (day: string) =>
    createAudit({ log, now: () => Date.parse(day) / 1000, to: 'folder', folder, keepDays: 9 });
  const write = async (day: string) => {
    await using audit = open(day);
    audit.record(['server', 'success'], {}, 'listening');
    const file = join(folder, `audit-${day}.ndjson`);
    return { lines: readFileSync(file, 'utf8').split('\n').length - 1, uid: statSync(file).uid };
  };
  const [somebody, group] = [65_533, 65_532];
  chownSync(folder, 0, group);
  chmodSync(folder, 0o770);
  process.setegid?.(group);
  process.seteuid?.(somebody);
  try {
    assert.deepEqual(await write('2027-01-01'), { lines: 1, uid: somebody });
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
  }
  chownSync(folder, somebody, group);
  assert.deepEqual(await write('2027-01-02'), { lines: 1, uid: somebody });
});

test('a change of the configuration names its files and properties, with the hashes before and after', async (t) => {
  const server = await startTestServer(t, { server: toFolder });
  server.write('clients/batch.json', { AccessTokenLifetime: 120 });
  server.write('resources/reports.json', { Scopes: [{ Name: 'reports' }] });
  assert.equal(await server.reload(), true);
  server.write('clients/batch.json', { AccessTokenLifetyme: 120 });
  assert.equal(await server.reload(), false);

  const lines = read(folderOf(server)).lines.filter(({ event }) => event === 'configuration');
  const all = lines.flatMap(({ changes }) => (changes as Line[] | undefined) ?? []);
  const batch = all.find(({ file }) => file === 'clients/batch.json');
  assert.deepEqual(batch?.properties, ['AccessTokenLifetime']);
  assert.match(String(batch?.before), /^[0-9a-f]{64}$/);
  assert.notEqual(batch?.before, batch?.after);
  const added = all.find(({ file }) => file === 'resources/reports.json');
  assert.deepEqual([added?.before, added?.properties], [undefined, ['Scopes']]);
  assert.equal(lines.filter(({ outcome }) => outcome === 'refused').length, 1);

  const { configDirectory } = server;
  renameSync(join(configDirectory, 'clients'), join(configDirectory, 'clients-away'));
  assert.equal(await server.reload(), false);
  const again = read(folderOf(server)).lines.filter(
    ({ event, outcome }) => event === 'configuration' && outcome === 'refused',
  );
  assert.match(String(again.at(-1)?.message), /the folder of clients is gone/);
});

test('a day has a file, and files that are older than KeepDays are removed', async (t) => {
  let now = Math.floor(Date.parse('2027-03-01T23:59:58Z') / 1000);
  const server = await startTestServer(t, {
    server: { Audit: { To: 'folder', KeepDays: 30 } },
    now: () => now,
  });
  const folder = folderOf(server);
  for (const name of ['audit-2027-01-29.ndjson', 'audit-2027-01-31.ndjson', 'notes.txt']) {
    writeFileSync(join(folder, name), '');
  }
  now += 60;
  await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  assert.deepEqual(readdirSync(folder).sort(), [
    'audit-2027-01-31.ndjson',
    'audit-2027-03-01.ndjson',
    'audit-2027-03-02.ndjson',
    'notes.txt',
  ]);
});

test('a folder that cannot be written stops nobody, and the log says so once', async (t) => {
  const server = await startTestServer(t, {
    server: { Audit: { To: 'folder', Folder: 'blocked/audit' } },
    files: { blocked: 'a file where the folder would be' },
  });
  for (let count = 0; count < 2; count += 1) {
    const answer = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    );
    assert.equal(answer.status, 200);
  }
  const said = server.logged.filter(({ msg }) => msg === 'audit log cannot be written');
  assert.deepEqual([said.length, said[0]?.level], [1, 'error']);
});

test('when the folder can be written again, the log says how many events are lost', async (t) => {
  const server = await startTestServer(t, {
    server: { Audit: { To: 'folder', Folder: 'blocked/audit' } },
    files: { blocked: 'a file where the folder would be' },
  });
  const ask = () =>
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    );
  await ask();
  const blocked = join(dirname(server.configDirectory), 'blocked');
  rmSync(blocked);
  await ask();
  await ask();
  const said = server.logged.filter(({ msg }) => String(msg).startsWith('audit log is written again'));
  // That the server listens, and the first token.
  assert.deepEqual(
    said.map(({ events }) => events),
    [2],
  );
  assert.equal(read(join(blocked, 'audit')).lines.length, 2);
});

test('on standard output its lines are among those of the log; a command keeps its own output', async (t) => {
  const { issuer, run, spawn } = await install(t, {
    server: { Audit: { To: 'stdout' }, Log: { Level: 'error' } },
  });
  const server = spawn(['start']);
  await server.waitFor(/"message":"listening"/);
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
  const added = await run(['account', 'add', 'zoe', '--no-password']);
  server.child.kill('SIGTERM');
  const { stdout } = await server.finish();
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
  assert.ok(lines.every(({ audit }) => audit === 1));
  assert.deepEqual(
    lines.map(({ event, message }) => `${event} ${message}`),
    ['server listening', 'token token issued', 'server stopping'],
  );
  assert.equal(added.stdout, 'added zoe\n');
  assert.equal((JSON.parse(added.stderr) as Line).message, 'account added');
});

test('what an administrator does by command is written with who did it', async (t) => {
  const { run, folder } = await install(t, { server: toFolder });
  assert.equal((await run(['migrate'])).code, 0);
  assert.equal((await run(['account', 'add', 'zoe', '--no-password'])).code, 0);
  assert.equal((await run(['account', 'disable', 'zoe'])).code, 0);
  assert.equal((await run(['account', 'enable', 'zoe'])).code, 0);
  assert.equal((await run(['account', 'remove', 'zoe', '--yes'])).code, 0);
  const { lines } = read(join(folder, 'data/audit'));
  assert.deepEqual(
    lines.map(({ event, accountId, message }) => [event, accountId, message]),
    ['added', 'disabled', 'enabled', 'removed'].map((done) => ['account', 'zoe', `account ${done}`]),
  );
  assert.ok(lines.every(({ actor }) => typeof actor === 'string' && actor !== ''));
});

test('without Audit there is no file', async (t) => {
  const server = await startTestServer(t);
  await signInAndRedeem({ issuer: server.issuer, ...mvc });
  assert.ok(!existsSync(folderOf(server)));
});
