/** Several processes on one listener: they serve together, stop together, and stand in for each other. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startPostgres } from '../support/postgres-server.ts';
import { basic, post } from '../support/sign-in.ts';
import { findFreePort } from '../support/start-server.ts';
import { install } from './postern.ts';

const token = (issuer: string) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch-ref', 'batch-ref-secret'),
  );

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (await condition()) return;
    await sleep(100);
  }
  assert.fail('it did not come to pass');
}

/** How many processes have come to serve. */
function countServing(output: string): number {
  return output.match(/"msg":"listening"/g)?.length ?? 0;
}

test('workers share the listener and the tokens, and one that dies is replaced', {
  timeout: 120_000,
}, async (t) => {
  const management = await findFreePort();
  const installation = await install(t, {
    server: { Workers: 2, Management: { Port: management }, Log: { Format: 'json' } },
  });
  const server = installation.spawn(['start']);
  await until(() => countServing(server.output().stdout) === 2);
  const { body } = await token(installation.issuer);
  for (let time = 0; time < 6; time += 1) {
    const introspected = await post(
      `${installation.issuer}/connect/introspect`,
      { token: body.access_token },
      { ...basic('intelligence_web_api', 'web-api-secret'), connection: 'close' },
    );
    assert.equal((introspected.body as { active?: boolean }).active, true);
  }
  const health = `http://127.0.0.1:${management}`;
  assert.equal((await fetch(`${health}/health/ready`)).status, 200);
  assert.match(await (await fetch(`${health}/metrics`)).text(), /postern_external_sign_ins_total/);

  const { pid } = server.child;
  const [first = ''] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ');
  process.kill(Number(first), 'SIGKILL');
  await until(() => /another one takes its place/.test(server.output().stdout));
  await until(() => countServing(server.output().stdout) === 3);
  assert.equal((await token(installation.issuer)).status, 200);

  server.child.kill('SIGTERM');
  const { code, stdout, stderr } = await server.finish();
  assert.equal(code, 0, stdout + stderr);
  assert.equal(stdout.match(/"msg":"stopped"/g)?.length, 2);
  await assert.rejects(token(installation.issuer));
});

test('a worker that cannot start ends them all, with its exit code', { timeout: 120_000 }, async (t) => {
  const management = await findFreePort();
  const installation = await install(t, { server: { Workers: 2, Management: { Port: management } } });
  // Its port alone is taken; the other listener opens.
  const blocker = createServer();
  await new Promise<void>((resolve) => blocker.listen(installation.port, '127.0.0.1', resolve));
  t.after(() => blocker.close());
  const server = installation.spawn(['start']);
  const { code, stderr } = await server.finish();
  assert.equal(code, 69);
  assert.match(stderr, /cannot listen/);
});

test('a worker that dies while the database is away takes nobody with it, and is replaced when it is back', {
  timeout: 120_000,
}, async (t) => {
  const postgres = await startPostgres(t);
  const installation = await install(t, {
    server: {
      Workers: 2,
      Log: { Format: 'json' },
      Database: { Client: 'postgresql', Connection: { plain: postgres.connection }, Timeout: 1 },
    },
  });
  const server = installation.spawn(['start']);
  await until(() => countServing(server.output().stdout) === 2);
  postgres.stop();
  const { pid } = server.child;
  const [first = ''] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ');
  process.kill(Number(first), 'SIGKILL');
  await until(() => (server.output().stdout.match(/another one takes its place/g)?.length ?? 0) >= 2);
  assert.equal((await fetch(`${installation.issuer}/.well-known/jwks`)).status, 200);
  postgres.start();
  await until(() => countServing(server.output().stdout) === 3);
  assert.equal((await token(installation.issuer)).status, 200);
  server.child.kill('SIGTERM');
  assert.equal((await server.finish()).code, 0);
});
