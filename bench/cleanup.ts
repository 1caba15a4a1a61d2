/**
 * What the removal of expired rows costs everybody else: token requests against a table of millions of rows on
 * PostgreSQL, while a run removes a tenth of them, and while it does not.
 *
 *   BENCH_POSTGRES=postgresql://… node bin/postern.js node bench/cleanup.ts [rows] [expired] [seconds]
 *
 * The database is one to write to: a schema of its own is made and dropped. Prints a table.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { createLogger } from '../src/log.ts';
import { type Database, openDatabase } from '../src/store/database.ts';

const connection = process.env.BENCH_POSTGRES ?? '';
const [rows = 10_000_000, expired = 1_000_000, seconds = 30] = process.argv.slice(2).map(Number);
const schema = 'postern_bench';
const port = 5097;
const issuer = `http://localhost:${port}/SPSSMR/Oidc`;
const concurrency = 8;
const now = () => Math.floor(Date.now() / 1000);

interface Round {
  readonly latencies: readonly number[];
  readonly deleted: number;
  readonly longestDeleteMs: number;
}

async function fill(db: Database): Promise<void> {
  const chunk = 500_000;
  for (let from = 1; from <= rows; from += chunk) {
    const to = Math.min(from + chunk - 1, rows);
    await db.knex.transaction((transaction) =>
      transaction.raw(
        `insert into "${schema}"."OidcToken" ("id", "model", "payload", "grantId", "accountId", "clientId", "expiresAt")
         select translate(rtrim(encode(sha256(('row ' || i)::bytea), 'base64'), '='), '+/', '-_'),
           case when i % 3 = 0 then 'RefreshToken' else 'AccessToken' end,
           '{"iat":1764000000,"scope":"openid profile intelligence_web_api","aud":"http://localhost/resources","gty":"authorization_code","extra":{"tokenId":"' || md5(i::text) || '"}}',
           translate(rtrim(encode(sha256(('grant ' || i / 3)::bytea), 'base64'), '='), '+/', '-_'),
           'user-' || i % 20000, 'client-' || i % 20,
           case when i <= ? then ? - i % 86400 else ? + 86400 + i % 2592000 end
         from generate_series(?::bigint, ?::bigint) i`,
        [expired, now() - 60, now(), from, to],
      ),
    );
    process.stderr.write(`\r${to} of ${rows} rows`);
  }
  await db.knex.raw(`analyze "${schema}"."OidcToken"`);
  process.stderr.write('\n');
}

async function startPostern(folder: string, interval: number): Promise<ChildProcess> {
  writeFileSync(
    join(folder, 'config/server.json'),
    JSON.stringify({
      Environment: 'Development',
      PublicUrl: issuer,
      Listener: { Port: port },
      Database: { Client: 'postgresql', Connection: { plain: connection }, Schema: schema, Timeout: 30 },
      ExpiredTokenCleanInterval: interval,
    }),
  );
  const main = join(import.meta.dirname, '../src/main.ts');
  const server = spawn(process.execPath, [main, 'start'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((resolve, reject) => {
    server.stdout.on('data', (text) => void (String(text).includes('"listening"') && resolve()));
    server.once('exit', () => reject(new Error('it did not start')));
  });
  return server;
}

async function measure(db: Database): Promise<Round> {
  const agent = new Agent({ connections: concurrency });
  const latencies: number[] = [];
  const endAt = performance.now() + seconds * 1000;
  const body = 'grant_type=client_credentials&scope=intelligence_web_api';
  const headers = {
    'content-type': 'application/x-www-form-urlencoded',
    authorization: `Basic ${Buffer.from('batch-ref:batch-ref-secret').toString('base64')}`,
  };
  const before = await countExpired(db);
  let longestDeleteMs = 0;
  const load = Array.from({ length: concurrency }, async () => {
    while (performance.now() < endAt) {
      const startedAt = performance.now();
      const answer = await request(`${issuer}/connect/token`, {
        method: 'POST',
        headers,
        body,
        dispatcher: agent,
      });
      await answer.body.dump();
      if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
      latencies.push(performance.now() - startedAt);
    }
  });
  const watch = (async () => {
    while (performance.now() < endAt) {
      const { rows: found } = await db.knex.raw(
        `select max(extract(epoch from clock_timestamp() - query_start)) * 1000 as ms
         from pg_stat_activity where state = 'active' and query like 'delete%'`,
      );
      longestDeleteMs = Math.max(longestDeleteMs, Number(found[0]?.ms ?? 0));
      await sleep(20);
    }
  })();
  await Promise.all([...load, watch]);
  await agent.close();
  return { latencies, deleted: before - (await countExpired(db)), longestDeleteMs };
}

async function countExpired(db: Database): Promise<number> {
  const [row] = await db.knex('OidcToken').where('expiresAt', '<=', now()).count({ count: '*' });
  return Number(row?.count);
}

function percentile(sorted: readonly number[], share: number): string {
  return (sorted[Math.floor(sorted.length * share)] ?? 0).toFixed(1);
}

const log = createLogger({ level: 'silent', format: 'json' });
await using db = await openDatabase({
  ...{ client: 'postgresql', connection, schema, poolSize: 4, timeoutMs: 600_000 },
  log,
  now,
});
await db.knex.raw(`drop schema if exists "${schema}" cascade`);
await db.migrate();
await fill(db);

const folder = mkdtempSync(join(tmpdir(), 'postern-bench-'));
cpSync(join(import.meta.dirname, '../config'), join(folder, 'config'), { recursive: true });
console.log('| cleanup | requests/s | p50 ms | p99 ms | max ms | rows removed | longest delete seen |');
console.log('| --- | --- | --- | --- | --- | --- | --- |');
for (const [title, interval] of [
  ['warm-up', 604_800],
  ['none', 604_800],
  ['running', 1],
  ['none', 604_800],
] as const) {
  const server = await startPostern(folder, interval);
  const { deleted, latencies, longestDeleteMs } = await measure(db);
  server.kill('SIGTERM');
  await once(server, 'exit');
  const sorted = latencies.toSorted((a, b) => a - b);
  const figures = [
    Math.round(sorted.length / seconds),
    percentile(sorted, 0.5),
    percentile(sorted, 0.99),
    percentile(sorted, 1 - Number.EPSILON),
    deleted,
    `${Math.round(longestDeleteMs)} ms`,
  ];
  console.log(`| ${[title, ...figures].join(' | ')} |`);
}
await db.knex.raw(`drop schema if exists "${schema}" cascade`);
rmSync(folder, { recursive: true });
