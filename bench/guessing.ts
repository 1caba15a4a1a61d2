/**
 * How long the answer to a wrong password takes, by what is wrong: whoever measures it must not learn which names there
 * are. Interleaved, each from an address of its own, at the password grant of a server in this process over SQLite.
 *
 *   node bin/postern.js node bench/guessing.ts [rounds]
 *
 * Prints a table of milliseconds.
 */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../src/log.ts';
import { startServer } from '../src/server.ts';

const [rounds = 200] = process.argv.slice(2).map(Number);
const port = 25_096;
const issuer = `http://localhost:${port}/SPSSMR/Oidc`;

const folder = mkdtempSync(join(tmpdir(), 'postern-bench-'));
cpSync(join(import.meta.dirname, '../config'), join(folder, 'config'), { recursive: true });
writeFileSync(
  join(folder, 'config/server.json'),
  JSON.stringify({
    Environment: 'Development',
    PublicUrl: issuer,
    Listener: { Host: '127.0.0.1', Port: port },
  }),
);
await using server = await startServer({
  configDirectory: join(folder, 'config'),
  env: {},
  log: createLogger({ level: 'silent', format: 'json' }),
});
const { accounts } = server.context;
await accounts.add({ name: 'disabled', password: 'Pass-word-1', disabled: true });
await accounts.add({ name: 'without', displayName: 'no password' });
await accounts.addAll([
  { name: 'brought', passwordHash: '{SSHA}K3S0KP8y/YQC2ZIbcaXvbAmy/WD/qcu8' },
  { name: 'bcrypt', passwordHash: '$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy' },
]);

/** The name that is tried; `fixed` comes from one network, where it has to wait. */
const kinds: readonly { what: string; name: string; fixed?: string }[] = [
  { what: 'wrong password', name: 'alice' },
  { what: 'no such account', name: 'nobody' },
  { what: 'disabled account', name: 'disabled' },
  { what: 'account without a password', name: 'without' },
  { what: 'wrong password, hash of {SSHA}', name: 'brought' },
  { what: 'wrong password, hash of bcrypt (cost 10)', name: 'bcrypt' },
  { what: 'has to wait', name: 'bob', fixed: '198.51.100.1' },
  { what: 'has to wait, no such account', name: 'nobody-else', fixed: '198.51.101.1' },
];

async function guess(name: string, address: string): Promise<number> {
  const startedAt = performance.now();
  const response = await fetch(`${issuer}/connect/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'password',
      username: name,
      password: 'wrong',
      client_id: 'desk',
      client_secret: 'desk-secret',
    }),
    headers: { 'x-forwarded-for': address },
  });
  await response.text();
  return performance.now() - startedAt;
}

const times = new Map(kinds.map(({ what }) => [what, [] as number[]]));
let network = 0;
for (let round = -10; round < rounds; round += 1) {
  for (const { fixed, name, what } of kinds) {
    network += 1;
    const address = fixed ?? `10.${(network >> 8) & 255}.${network & 255}.1`;
    const elapsed = await guess(name, address);
    if (round >= 0) times.get(what)?.push(elapsed);
  }
}
console.log('| what | p5 | p25 | median | p75 | p95 |\n| --- | --- | --- | --- | --- | --- |');
for (const [what, all] of times) {
  const sorted = all.toSorted((a, b) => a - b);
  const quantile = (q: number) => (sorted[Math.floor(q * (sorted.length - 1))] ?? 0).toFixed(1);
  console.log(`| ${what} | ${[0.05, 0.25, 0.5, 0.75, 0.95].map(quantile).join(' | ')} |`);
}
rmSync(folder, { recursive: true, force: true });
