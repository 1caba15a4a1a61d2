import assert from 'node:assert/strict';
import { readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { basic, post } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const call = ({ issuer }: TestServer, secret = 'batch-secret', id = 'batch') =>
  post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic(id, secret));

/** Asks until the answer is the expected one. A busy machine may take longer than the second that is promised. */
async function within(expected: boolean, ask: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 5000;
  while ((await ask()) !== expected) {
    assert.ok(performance.now() < end, 'not noticed');
    await sleep(25);
  }
}

test('a changed, added and removed client takes effect without a restart', async (t) => {
  const server = await startTestServer(t);
  assert.equal((await call(server)).body.expires_in, 3600);

  server.write('clients/batch.json', { AccessTokenLifetime: 120 });
  await within(true, async () => (await call(server)).body.expires_in === 120);

  server.write('clients/fresh.json', {
    Flow: 'ClientCredentials',
    EnableLocalLogin: true,
    ClientSecrets: [
      { Value: Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from('s'))).toString('base64') },
    ],
    AllowedScopes: ['intelligence_web_api'],
  });
  await within(true, async () => (await call(server, 's', 'fresh')).status === 200);

  rmSync(join(server.configDirectory, 'clients/fresh.json'));
  await within(true, async () => (await call(server, 's', 'fresh')).status === 401);
});

test('a bad edit changes nothing and is logged with file and path; the next good one counts', async (t) => {
  const server = await startTestServer(t);
  const isRefusal = ({ file, level }: Record<string, unknown>) =>
    level === 'error' && String(file).endsWith('desk.json');
  server.write('clients/batch.json', { AccessTokenLifetime: 120 });
  server.write('clients/desk.json', { AccessTokenLifetyme: 5 });
  await within(true, async () => server.logged.some(isRefusal));

  assert.equal((await call(server)).body.expires_in, 3600, 'all or nothing');
  const line = server.logged.find(isRefusal);
  assert.equal(line?.path, 'AccessTokenLifetyme');

  server.write('clients/desk.json', '{ this is no JSON');
  await sleep(400);
  assert.equal((await call(server)).status, 200);

  server.write(
    'clients/desk.json',
    JSON.stringify({
      Flow: 'ResourceOwner',
      EnableLocalLogin: true,
      ClientSecrets: [{ Value: 'n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=' }],
      AllowedScopes: 'openid; profile',
    }),
  );
  await within(true, async () => (await call(server)).body.expires_in === 120);
});

test('tokens issued before a reload stay good', async (t) => {
  const server = await startTestServer(t);
  const { body } = await call(server);
  server.write('clients/desk.json', { AccessTokenLifetime: 5 });
  assert.equal(await server.reload(), true);
  const { body: status } = await post(
    `${server.issuer}/connect/introspect`,
    { token: body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.equal(status.active, true);
});

test('a new scope is in the discovery document after a reload', async (t) => {
  const server = await startTestServer(t);
  server.write('resources/reports.json', { Scopes: [{ Name: 'reports' }] });
  assert.equal(await server.reload(), true);
  const { scopes_supported: scopes } = (await (
    await fetch(`${server.issuer}/.well-known/openid-configuration`)
  ).json()) as { scopes_supported: string[] };
  assert.ok(scopes.includes('reports'));
});

test('the last client that is removed is gone, while a folder that is gone altogether changes nothing', async (t) => {
  const server = await startTestServer(t);
  const clients = join(server.configDirectory, 'clients');
  for (const file of readdirSync(clients)) if (file !== 'batch.json') rmSync(join(clients, file));
  await server.reload();
  assert.equal((await call(server)).status, 200);

  renameSync(clients, `${clients}-away`);
  assert.equal(await server.reload(), false);
  assert.equal((await call(server)).status, 200, 'as while a folder is exchanged');
  renameSync(`${clients}-away`, clients);

  rmSync(join(clients, 'batch.json'));
  assert.equal(await server.reload(), true);
  assert.equal((await call(server)).status, 401);
});

test('the level of the log follows server.json without a restart, and nothing is said of a restart', async (t) => {
  const server = await startTestServer(t, { server: { Log: { Level: 'info' } } });
  const said = (message: string) => server.logged.filter(({ msg }) => msg === message).length;
  const settings = JSON.parse(readFileSync(join(server.configDirectory, 'server.json'), 'utf8'));
  const setLevel = async (Level: string) => {
    server.write('server.json', JSON.stringify({ ...settings, Log: { Level } }));
    assert.equal(await server.reload(), true);
  };
  await setLevel('error');
  const issued = said('token issued');
  await call(server);
  assert.equal(said('token issued'), issued, 'nothing below an error is written');
  await setLevel('info');
  await call(server);
  assert.equal(said('token issued'), issued + 1);
  assert.equal(said('server.json has changed: it takes effect at the next start'), 0);
});
