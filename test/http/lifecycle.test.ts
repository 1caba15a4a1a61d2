import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { install } from '../commands/postern.ts';
import { basic, post } from '../support/sign-in.ts';

const desk = { client_id: 'desk', client_secret: 'desk-secret' };
const signIn = (issuer: string) =>
  post(`${issuer}/connect/token`, {
    ...desk,
    grant_type: 'password',
    username: 'alice',
    password: 'Pass-word-1',
    scope: 'openid offline_access intelligence_web_api',
  });
const refresh = (issuer: string, refreshToken: string) =>
  post(`${issuer}/connect/token`, { ...desk, grant_type: 'refresh_token', refresh_token: refreshToken });

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} lets the request in flight finish, takes no new one, and ends with 0`, async (t) => {
    const installation = await install(t);
    const server = installation.spawn(['start']);
    await server.waitFor(/listening/);

    const body = new URLSearchParams({ grant_type: 'client_credentials' }).toString();
    const slow = request(`${installation.issuer}/connect/token`, {
      method: 'POST',
      headers: {
        'content-type': 'application/x-www-form-urlencoded',
        'content-length': body.length,
        ...basic('batch', 'batch-secret'),
      },
    });
    slow.write(body.slice(0, 5));
    await sleep(200);
    server.child.kill(signal);
    await sleep(200);
    await assert.rejects(() => signIn(installation.issuer), 'no new connection');
    const answered = once(slow, 'response');
    slow.end(body.slice(5));

    const [response] = await answered;
    assert.equal(response.statusCode, 200);
    response.resume();
    assert.equal((await server.finish()).code, 0);
  });
}

test('killed in the middle of a hundred sign-ins it loses no acknowledged token, and the next start goes on', async (t) => {
  const installation = await install(t);
  const first = installation.spawn(['start']);
  await first.waitFor(/listening/);

  const acknowledged: string[] = [];
  let started = 0;
  const signIns = Array.from({ length: 10 }, async () => {
    while (started < 100) {
      started += 1;
      try {
        const { status, body } = await signIn(installation.issuer);
        if (status === 200) acknowledged.push(body.refresh_token);
      } catch {
        // The server died under this one: nobody was told anything.
      }
    }
  });
  while (acknowledged.length < 30) await sleep(5);
  first.child.kill('SIGKILL');
  await Promise.all(signIns);
  assert.ok(acknowledged.length < 100, 'it was killed in the middle');
  assert.equal(started, 100);

  const second = installation.spawn(['start']);
  await second.waitFor(/listening/);
  const answers = await Promise.all(acknowledged.map((token) => refresh(installation.issuer, token)));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
  assert.equal((await signIn(installation.issuer)).status, 200);
});

test('killed at any moment of its first start it starts the next time', async (t) => {
  const installation = await install(t);
  for (const delay of [150, 250, 300, 350, 400, 500]) {
    const server = installation.spawn(['start']);
    await sleep(delay);
    server.child.kill('SIGKILL');
    await server.finish();
  }
  const server = installation.spawn(['start']);
  await server.waitFor(/listening/);
  assert.equal((await signIn(installation.issuer)).status, 200);
});

test('two servers that start together over one new database both serve, and either knows the other’s tokens', async (t) => {
  const installation = await install(t);
  const { findFreePort } = await import('../support/start-server.ts');
  const { cp, readFile, writeFile } = await import('node:fs/promises');
  const { join } = await import('node:path');
  const otherPort = await findFreePort();
  const other = join(installation.folder, 'other');
  await cp(join(installation.folder, 'config'), other, { recursive: true });
  const settings = JSON.parse(await readFile(join(other, 'server.json'), 'utf8')) as Record<string, unknown>;
  await writeFile(
    join(other, 'server.json'),
    JSON.stringify({ ...settings, Listener: { Host: '127.0.0.1', Port: otherPort } }),
  );

  const servers = [installation.spawn(['start']), installation.spawn(['--config', 'other', 'start'])];
  await Promise.all(servers.map((server) => server.waitFor(/listening/)));

  const { body } = await signIn(installation.issuer);
  const elsewhere = installation.issuer.replace(String(installation.port), String(otherPort));
  const answer = await refresh(elsewhere, body.refresh_token);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
});
