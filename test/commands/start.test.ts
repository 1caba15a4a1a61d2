import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { install } from './postern.ts';

const ready = /Try next\n(?: .*\n)+/;

test('a start says where it listens, who can sign in and what to try', async (t) => {
  const { issuer, port, spawn } = await install(t);
  const server = spawn([]);

  const output = await server.waitFor(ready);

  assert.match(output, new RegExp(`Listens on +http://127\\.0\\.0\\.1:${port}\n`));
  assert.match(output, new RegExp(`Issuer +${issuer}\n`));
  assert.match(output, /Clients +.*mvc/);
  assert.match(output, /Accounts +.*alice/);
  assert.match(output, /the password of .*alice.* is Pass-word-1/);
  const discovery = await fetch(`${issuer}/.well-known/openid-configuration`);
  assert.equal(((await discovery.json()) as { issuer: string }).issuer, issuer);

  const [, basic, form, url] = /curl -u (\S+) -d "([^"]+)" (\S+)/.exec(output) ?? [];
  const response = await fetch(url ?? '', {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(basic ?? '').toString('base64')}` },
    body: new URLSearchParams(form),
  });
  assert.equal(response.status, 200, await response.text());
});

test('secrets and passwords that are not the published ones are never shown', async (t) => {
  const { spawn, write } = await install(t);
  await write(
    'config/accounts.json',
    '{ "Accounts": [{ "Name": "pat", "Password": "My-own-word" }, { "Name": "alice", "Password": "Pass-word-1" }] }',
  );
  const server = spawn(['start']);

  const output = await server.waitFor(ready);

  assert.match(output, /Accounts +pat, alice\n/);
  assert.match(output, /the password of alice is Pass-word-1\n/);
  assert.doesNotMatch(output, /My-own-word/);
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} stops the server, even one with an idle connection, and the exit code is 0`, async (t) => {
    if (process.platform === 'win32') return t.skip('Windows has no signals');
    const { folder, port, spawn } = await install(t);
    const server = spawn(['start']);
    await server.waitFor(ready);
    const idle = connect(port, '127.0.0.1');
    t.after(() => idle.destroy());
    await once(idle, 'connect');

    server.child.kill(signal);

    const { code } = await server.finish();
    assert.equal(code, 0);
    await assert.rejects(fetch(`http://127.0.0.1:${port}/`));
    // SQLite folds its log into the database when the last connection is closed in order.
    assert.deepEqual(
      (await readdir(join(folder, 'data'))).filter((name) => name.endsWith('-wal')),
      [],
    );
  });
}

test('a request in flight is waited for, until the request to stop is repeated', async (t) => {
  if (process.platform === 'win32') return t.skip('Windows has no signals');
  const { port, spawn } = await install(t);
  const server = spawn(['start']);
  await server.waitFor(ready);
  const client = connect(port, '127.0.0.1');
  t.after(() => client.destroy());
  client.on('error', () => {});
  client.write('POST /SPSSMR/Oidc/connect/token HTTP/1.1\r\nHost: localhost\r\n');
  client.write('Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 20\r\n\r\ngrant_type=');
  await sleep(300);

  // As npm does it: once for the group of processes, once more by hand. That is one request.
  server.child.kill('SIGTERM');
  await sleep(100);
  server.child.kill('SIGTERM');
  await sleep(1300);
  assert.equal(server.child.exitCode, null);
  server.child.kill('SIGTERM');

  assert.equal((await server.finish()).code, 1);
});

test('SIGHUP reads the configuration again, with what nobody watches', async (t) => {
  if (process.platform === 'win32') return t.skip('Windows has no signals');
  const secretInFile = { ClientSecrets: [{ Value: { file: 'batch.secret' } }] };
  const { run, spawn, write } = await install(t, { clients: { batch: secretInFile } });
  await write('batch.secret', 'first-secret');
  const server = spawn(['start']);
  await server.waitFor(ready);
  await write('batch.secret', 'second-secret');

  server.child.kill('SIGHUP');
  await server.waitFor(/configuration reloaded/);

  assert.equal((await run(['token', 'batch'], { input: 'second-secret' })).code, 0);
  assert.equal((await run(['token', 'batch'], { input: 'first-secret' })).code, 1);
});

test('a port that is taken ends with 69 and names it', async (t) => {
  const { port, spawn } = await install(t);
  const other = createServer().listen(port, '127.0.0.1');
  await once(other, 'listening');
  t.after(() => other.close());

  const { code, stderr } = await spawn(['start']).finish();

  assert.equal(code, 69);
  assert.match(stderr, new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}.*ERR_LISTEN_FAILED`));
});

test('a log that is read by machines holds nothing but JSON', async (t) => {
  const { spawn } = await install(t, { server: { Log: { Format: 'json' } } });
  const server = spawn(['start']);

  await server.waitFor(/"msg":"listening"/);
  await sleep(100);

  const { stdout, stderr } = server.output();
  assert.equal(stderr, '');
  for (const line of stdout.trimEnd().split('\n')) assert.doesNotThrow(() => JSON.parse(line), line);
});
