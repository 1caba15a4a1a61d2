/** What becomes of requests while the database is paused, stopped or slow, and after it is back. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger } from '../../src/log.ts';
import { openDatabase } from '../../src/store/database.ts';
import { install } from '../commands/postern.ts';
import { startPostgres } from '../support/postgres-server.ts';
import { authorize, basic, mvc, post } from '../support/sign-in.ts';
import { findFreePort, startTestServer, type TestServer } from '../support/start-server.ts';

async function start(t: TestContext) {
  const postgres = await startPostgres(t);
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: {
      Database: {
        Client: 'postgresql',
        Connection: { plain: postgres.connection },
        Timeout: 1,
        PoolSize: 4,
      },
      Management: { Port: port },
    },
  });
  const health = async (path: string) => (await fetch(`http://127.0.0.1:${port}/health/${path}`)).status;
  return { postgres, server, health };
}

const token = ({ issuer }: TestServer) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials', scope: 'intelligence_web_api' },
    basic('batch-ref', 'batch-ref-secret'),
  );

async function untilAnswered(call: () => Promise<{ status: number }>): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    if ((await call()).status === 200) return;
    await sleep(100);
  }
  assert.fail('it does not recover');
}

test('a database that is gone answers 503 with Retry-After at once, and is used again when it is back', async (t) => {
  const { postgres, server, health } = await start(t);
  assert.deepEqual([await health('live'), await health('ready')], [200, 200]);
  const kept = await token(server);
  assert.equal(kept.status, 200);
  const before = kept.body.access_token;
  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  postgres.stop();

  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: 20 }, () => token(server)));
  assert.ok(performance.now() - startedAt < 5000);
  for (const answer of answers) {
    assert.equal(answer.status, 503);
    assert.equal(answer.headers.get('retry-after'), '5');
    assert.equal(answer.body.error, 'temporarily_unavailable');
  }
  await sleep(1000);
  assert.deepEqual([await health('live'), await health('ready')], [200, 503]);
  for (const path of ['/.well-known/openid-configuration', '/.well-known/jwks'])
    assert.equal((await fetch(server.issuer + path)).status, 200, path);
  const page = await attempt.browser.submit(attempt.page, { username: 'alice', password: 'Pass-word-1' });
  assert.equal(page.status, 503);
  assert.match(page.body, /cannot answer at the moment/);
  assert.doesNotMatch(page.body, /ECONN|127\.0\.0\.1/);
  const { page: anew } = await authorize({ issuer: server.issuer, ...mvc, browser: attempt.browser });
  assert.equal(anew.status, 503);
  assert.equal(anew.headers.get('retry-after'), '5');

  postgres.start();
  await untilAnswered(() => token(server));
  const introspected = await post(
    `${server.issuer}/connect/introspect`,
    { token: before },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.equal((introspected.body as { active?: boolean }).active, true, 'nothing was lost');
  await sleep(1000);
  assert.equal(await health('ready'), 200);
  // The page of before still signs in.
  const back = await attempt.signIn();
  assert.ok((await attempt.redeem(back)).body.access_token);
});

test('a database that is paused holds nobody longer than its Timeout, and is used again afterwards', async (t) => {
  const { postgres, server, health } = await start(t);
  assert.equal((await token(server)).status, 200);
  postgres.pause();
  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: 12 }, () => token(server)));
  const waited = performance.now() - startedAt;
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [503]);
  assert.ok(waited < 6000, `${waited} ms`);
  assert.equal((await fetch(`${server.issuer}/.well-known/jwks`)).status, 200);
  assert.deepEqual([await health('live'), await health('ready')], [200, 503]);
  postgres.resume();
  await untilAnswered(() => token(server));
});

test('a database whose table is locked by somebody holds nobody longer than its Timeout', async (t) => {
  const { postgres, server } = await start(t);
  const { knex } = server.context.db;
  await using other = await openDatabase({
    ...{ client: 'postgresql', connection: postgres.connection, schema: 'postern' },
    ...{
      poolSize: 1,
      timeoutMs: 10_000,
      now: () => 0,
      log: createLogger({ level: 'silent', format: 'json' }),
    },
  });
  const isLocked = Promise.withResolvers<void>();
  const locking = other.knex.transaction(async (transaction) => {
    await transaction.raw('lock table postern."OidcToken" in access exclusive mode');
    isLocked.resolve();
    await sleep(3000);
  });
  await isLocked.promise;
  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: 8 }, () => token(server)));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [503]);
  assert.ok(performance.now() - startedAt < 2900);
  // What was given up is not left behind in the database, waiting for its turn.
  const { rows } = await knex.raw(`select count(*) from pg_stat_activity where wait_event_type = 'Lock'`);
  assert.equal(Number(rows[0].count), 0);
  await locking;
  await untilAnswered(() => token(server));
});

test('a stop begins at once, whatever the database is at', async (t) => {
  const postgres = await startPostgres(t);
  const installation = await install(t, {
    server: {
      ExpiredTokenCleanInterval: 1,
      Database: { Client: 'postgresql', Connection: { plain: postgres.connection }, Timeout: 8 },
    },
  });
  const server = installation.spawn(['start']);
  await server.waitFor(/listening/);
  await sleep(2000);
  postgres.pause();
  await sleep(1500);
  const startedAt = performance.now();
  server.child.kill('SIGTERM');
  await server.waitFor(/stopping/);
  assert.ok(performance.now() - startedAt < 1500);
  postgres.resume();
  assert.equal((await server.finish()).code, 0);
});

test('a disk that is full answers 503, and is written to again when there is room', async (t) => {
  const server = await startTestServer(t);
  const { knex } = server.context.db;
  const [{ page_count: pages }] = (await knex.raw('PRAGMA page_count')) as [{ page_count: number }];
  await knex.raw(`PRAGMA max_page_count = ${pages}`);
  let answer = await token(server);
  for (let count = 0; count < 300 && answer.status === 200; count += 1) answer = await token(server);
  assert.equal(answer.status, 503);
  assert.equal(answer.headers.get('retry-after'), '5');
  await knex.raw('PRAGMA max_page_count = 1000000');
  assert.equal((await token(server)).status, 200);
});

test('a server whose database is not there yet does not start, and says why', async (t) => {
  const postgres = await startPostgres(t);
  postgres.stop();
  await assert.rejects(
    startTestServer(t, {
      server: { Database: { Client: 'postgresql', Connection: { plain: postgres.connection }, Timeout: 1 } },
    }),
    (err: { code: string; message: string; hint: string }) => {
      assert.equal(err.code, 'ERR_DATABASE_UNAVAILABLE');
      assert.match(`${err.message} ${err.hint}`, /postgresql database cannot be reached.*ECONNREFUSED/);
      return true;
    },
  );
});
