/**
 * Whether anybody notices when keys are exchanged: two servers over one database, token requests to both, each token
 * verified by the published keys of the other and introspected there, while keys are rotated and revoked.
 *
 *   node bin/postern.js node bench/key-rotation.ts [minutes]
 *
 * A token that a key signed which was revoked a moment later is counted apart. Everything else that does not verify is
 * a failure.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';

const [minutes = 4] = process.argv.slice(2).map(Number);
const folder = mkdtempSync(join(tmpdir(), 'postern-rotation-'));
const program = join(import.meta.dirname, '../src/main.ts');
const ports = [5098, 5099];
const issuer = 'http://localhost:5098/SPSSMR/Oidc';
const at = (port = 0) => `http://localhost:${port}/SPSSMR/Oidc`;
const basic = (id: string, secret: string) => ({
  authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`,
});

const counts = { tokens: 0, failed: 0, revoked: 0 };
const names = new Set<string>();
const revoked = new Set<string>();
const reasons = new Map<string, number>();

function prepare(port: number): string {
  const config = join(folder, String(port), 'config');
  cpSync(join(import.meta.dirname, '../config'), config, { recursive: true });
  writeFileSync(
    join(config, 'server.json'),
    JSON.stringify({
      Environment: 'Development',
      PublicUrl: issuer,
      Listener: { Host: '127.0.0.1', Port: port },
      Database: { Client: 'sqlite', File: join(folder, 'shared.sqlite') },
      ManagedKeys: {},
      DataProtectionKey: { plain: 'a secret that keys are encrypted under' },
      Log: { Level: 'warn' },
    }),
  );
  return config;
}

async function startPostern(port: number): Promise<ChildProcess> {
  const isTaken = await fetch(at(port)).then(
    () => true,
    () => false,
  );
  if (isTaken) throw new Error(`something listens on port ${port}`);
  const child = spawn(process.execPath, [program, '--config', prepare(port), 'start'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  for (;;) {
    if (child.exitCode !== null) throw new Error('the server has not started');
    const isUp = await fetch(`${at(port)}/.well-known/jwks`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (isUp) return child;
    await sleep(100);
  }
}

function keys(...args: string[]): string {
  const config = join(folder, String(ports[0]), 'config');
  return execFileSync(process.execPath, [program, '--config', config, 'keys', ...args], { encoding: 'utf8' });
}

/** Each token of one server is used at the other, which is where a key could be unknown. */
async function load(issuing: number, using: number, signal: AbortSignal): Promise<void> {
  const published = createRemoteJWKSet(new URL(`${at(using)}/.well-known/jwks`));
  const post = async (url: string, fields: Record<string, string>, headers: Record<string, string>) =>
    (await (
      await fetch(url, { method: 'POST', headers, body: new URLSearchParams(fields) })
    ).json()) as Record<string, unknown>;
  while (!signal.aborted) {
    const answer = await post(
      `${at(issuing)}/connect/token`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    );
    const token = String(answer.access_token);
    const { kid = '' } = decodeProtectedHeader(token);
    counts.tokens += 1;
    names.add(kid);
    const verified = await jwtVerify(token, published, { issuer }).then(
      () => 'verified',
      (err: Error) => err.message,
    );
    const { active } = await post(
      `${at(using)}/connect/introspect`,
      { token },
      basic('intelligence_web_api', 'web-api-secret'),
    );
    if (verified === 'verified' && active === true) continue;
    counts[revoked.has(kid) ? 'revoked' : 'failed'] += 1;
    if (!revoked.has(kid)) {
      const reason = `${verified}, active ${active}`;
      reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    }
  }
}

const servers: ChildProcess[] = [];
const stop = new AbortController();
try {
  for (const port of ports) servers.push(await startPostern(port));
  const [first = 0, second = 0] = ports;
  const loads = [load(first, second, stop.signal), load(second, first, stop.signal)];
  for (let minute = 1; minute <= minutes; minute += 1) {
    // Every fourth time as if one had leaked.
    if (minute % 4 === 0) {
      const all = JSON.parse(keys('list', '--json')) as { id: string; purpose: string; state: string }[];
      const { id = '' } = all.find(({ purpose, state }) => purpose === 'signing' && state === 'in use') ?? {};
      revoked.add(id);
      process.stdout.write(keys('revoke', id));
    } else {
      process.stdout.write(keys('rotate', '--now'));
    }
    await sleep(60_000);
  }
  await sleep(40_000);
  stop.abort();
  await Promise.all(loads);
  process.stdout.write(
    `${counts.tokens} tokens by ${names.size} keys: ${counts.failed} failed, ${counts.revoked} by a revoked key\n`,
  );
  for (const [reason, count] of reasons) process.stdout.write(`${count} times: ${reason}\n`);
} finally {
  stop.abort();
  const running = servers.filter(({ exitCode }) => exitCode === null);
  const ended = running.map((server) => once(server, 'exit'));
  for (const server of running) server.kill();
  await Promise.all(ended);
  rmSync(folder, { recursive: true, force: true });
}
