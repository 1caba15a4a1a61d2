/**
 * Whether the server stays as it was: the real program under a mixed load for as long as wished, tokens of every
 * grant, sign-ins with cookies, refreshes, introspection, sign-outs, garbage and slow clients, from many addresses.
 *
 *   npm run soak -- --minutes 30 --figure docs/images/soak.svg
 *
 * Looks at memory, descriptors, the event loop and the rows of the database every few seconds, prints a table and a
 * verdict, and exits with 1 where something grows or fails. Lifetimes are short, so that rows come and go many times.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { parse } from 'jsonc-parser';
import { createBrowser } from '../test/support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../test/support/sign-in.ts';
import { startFlags } from './subjects.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    every: { type: 'string', default: '5' },
    figure: { type: 'string' },
  },
});
const endAt = performance.now() + Number(values.minutes) * 60_000;
const everyMs = Number(values.every) * 1000;
const port = 5097;
const managementPort = 5096;
const issuer = `http://localhost:${port}/SPSSMR/Oidc`;
/** Of tokens, sessions and sign-ins that nobody finishes, in seconds. */
const lifetime = 60;
/**
 * What memory may be more in the second half than in the first, as a share. V8 gives back what it does not need every
 * few minutes, so resident memory is a saw, and only its peaks tell.
 */
const maxGrowth = 0.05;
/** Descriptors that may be more at the end than they were at half time. */
const maxDescriptors = 30;

interface Sample {
  readonly minute: number;
  readonly residentMb: number;
  readonly heapMb: number;
  readonly lagMs: number;
  readonly descriptors: number;
  readonly rows: number;
  readonly served: number;
}

/** What was done and what went wrong, by name. */
const done = new Map<string, number>();
const failed = new Map<string, number>();
const count = (map: Map<string, number>, name: string) => map.set(name, (map.get(name) ?? 0) + 1);

function prepare(): string {
  const folder = mkdtempSync(join(tmpdir(), 'postern-soak-'));
  cpSync(join(import.meta.dirname, '../config'), join(folder, 'config'), { recursive: true });
  mkdirSync(join(folder, 'config/relying-parties'));
  const change = (name: string, members: object) => {
    const file = join(folder, 'config', name);
    let present: object = {};
    try {
      present = parse(readFileSync(file, 'utf8'), [], { allowTrailingComma: true }) as object;
    } catch {
      // A new file.
    }
    writeFileSync(file, JSON.stringify({ ...present, ...members }));
  };
  change('server.json', {
    PublicUrl: issuer,
    Listener: { Port: port, HeadersTimeoutSeconds: 5, RequestTimeoutSeconds: 10 },
    Management: { Port: managementPort },
    ExpiredTokenCleanInterval: 5,
    InteractionLifetime: lifetime,
    SessionLifetime: lifetime,
    Log: { Level: 'info', Format: 'json' },
  });
  const short = {
    AccessTokenLifetime: lifetime,
    AbsoluteRefreshTokenLifetime: lifetime,
    SlidingRefreshTokenLifetime: lifetime,
  };
  const scopes = ['openid', 'profile', 'intelligence_web_api', 'offline_access'];
  change('clients/mvc.json', { ...short, AllowedScopes: scopes });
  change('clients/desk.json', short);
  change('clients/batch.json', { AccessTokenLifetime: lifetime });
  change('clients/batch-ref.json', { AccessTokenLifetime: lifetime });
  change('relying-parties/portal.json', { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] });
  return folder;
}

/** Starts the program as users do; its errors are counted by their messages. */
async function start(folder: string): Promise<ChildProcess> {
  const program = join(import.meta.dirname, '../bin/postern.js');
  const server = spawn(process.execPath, [...startFlags(), program, 'start'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  await new Promise<void>((resolve, reject) => {
    let rest = '';
    server.stdout.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line.includes('"msg":"listening"')) resolve();
        if (line.includes('"level":"error"')) {
          count(failed, `log: ${String(JSON.parse(line).msg)}`);
          console.error(line);
        }
      }
    });
    server.stderr.on('data', (chunk: Buffer) => {
      count(failed, 'standard error');
      console.error(String(chunk));
    });
    server.once('exit', (code) => reject(new Error(`it ended with ${code}`)));
  });
  return server;
}

const isOver = () => performance.now() > endAt;

/** Does one thing again and again, `lanes` at a time, with a pause after each. */
function keepDoing(name: string, lanes: number, pauseMs: number, act: () => Promise<void>): Promise<void>[] {
  return Array.from({ length: lanes }, async () => {
    while (!isOver()) {
      try {
        await act();
        count(done, name);
      } catch (err) {
        count(failed, `${name}: ${(err as Error).message.slice(0, 120)}`);
      }
      await sleep(pauseMs);
    }
  });
}

function expect(status: number, actual: number, what: string): void {
  if (actual !== status) throw new Error(`${what}: ${actual}`);
}

const someAddress = () => ({
  'x-forwarded-for': Array.from({ length: 4 }, () => Math.floor(Math.random() * 254) + 1).join('.'),
});
const resource = basic('intelligence_web_api', 'web-api-secret');
const token = (fields: Record<string, string>, headers: Record<string, string>) =>
  post(`${issuer}/connect/token`, fields, { ...headers, ...someAddress() });

async function clientCredentials(): Promise<void> {
  const [id, secret] = Math.random() < 0.5 ? ['batch', 'batch-secret'] : ['batch-ref', 'batch-ref-secret'];
  const { body, status } = await token({ grant_type: 'client_credentials' }, basic(id, secret));
  expect(200, status, 'token');
  const answer = await post(`${issuer}/connect/introspect`, { token: body.access_token }, resource);
  expect(200, answer.status, 'introspection');
  if (answer.body.active !== true) throw new Error('a new token is not active');
}

async function password(): Promise<void> {
  const right = Math.random() < 0.8;
  const { status } = await token(
    {
      grant_type: 'password',
      username: 'bob',
      password: right ? 'Pass-word-1' : 'wrong',
      scope: 'openid offline_access',
    },
    basic('desk', 'desk-secret'),
  );
  expect(right ? 200 : 400, status, 'password grant');
}

/** A whole visit: sign-in, tokens, some refreshes, single sign-on, sign-out. Some leave in between. */
async function visit(): Promise<void> {
  const browser = createBrowser();
  const scope = `${mvc.scope} offline_access`;
  const { body, status } = await signInAndRedeem({ issuer, ...mvc, scope, browser });
  expect(200, status, 'code');
  let refreshToken = body.refresh_token;
  for (let turn = 0; turn < 4; turn += 1) {
    const refreshed = await token(
      { grant_type: 'refresh_token', refresh_token: refreshToken },
      basic(mvc.clientId, mvc.secret),
    );
    expect(200, refreshed.status, 'refresh');
    refreshToken = refreshed.body.refresh_token;
    const userinfo = await fetch(`${issuer}/connect/userinfo`, {
      headers: { authorization: `Bearer ${refreshed.body.access_token}` },
    });
    expect(200, userinfo.status, 'userinfo');
    await userinfo.arrayBuffer();
  }
  if (Math.random() < 0.3) return;
  const again = await signInAndRedeem({ issuer, ...mvc, scope, browser });
  expect(200, again.status, 'code by single sign-on');
  const revoked = await post(
    `${issuer}/connect/revocation`,
    { token: again.body.refresh_token },
    basic(mvc.clientId, mvc.secret),
  );
  expect(200, revoked.status, 'revocation');
  const page = await browser.request(`${issuer}/connect/endsession?id_token_hint=${again.body.id_token}`);
  expect(303, page.status, 'sign-out');
}

async function wsFederation(): Promise<void> {
  const browser = createBrowser();
  const url = `${issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const page = await browser.submit(await browser.open(url), { username: 'alice', password: 'Pass-word-1' });
  expect(200, page.status, 'WsFed');
  if (!page.body.includes('wresult')) throw new Error('WsFed without an answer');
}

/** Requests that are none of ours, and bytes that are no request. */
async function garbage(): Promise<void> {
  const noise = Math.random().toString(36).slice(2);
  const forms = [
    `GET /SPSSMR/Oidc/${noise} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`,
    `GET /SPSSMR/Oidc/connect/authorize?client_id=${noise}&redirect_uri=x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`,
    `GET /SPSSMR/Oidc/login/${noise} HTTP/1.1\r\nhost: x\r\ncookie: postern.interaction=${noise}\r\nconnection: close\r\n\r\n`,
    `POST /SPSSMR/Oidc/connect/token HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n${noise}`,
    `POST /SPSSMR/Oidc/connect/introspect HTTP/1.1\r\nhost: x\r\nauthorization: Basic ${noise}\r\ntransfer-encoding: chunked\r\n\r\n`,
    `GET http://${noise}/ HTTP/1.1\r\n\r\n`,
    `\u0016\u0003\u0001${noise}`,
  ];
  await exchange(forms[Math.floor(Math.random() * forms.length)] ?? '', 50 + Math.random() * 200);
}

/** Connections that send next to nothing, or do not read, until they are ended. */
async function slow(): Promise<void> {
  const requests = [
    'GET /SPSSMR/Oidc/ HTTP/1.1\r\nhost: x\r\n',
    'POST /SPSSMR/Oidc/connect/token HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\na',
    '',
  ];
  await exchange(requests[Math.floor(Math.random() * requests.length)] ?? '', 30_000);
}

function exchange(text: string, patienceMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => void (text !== '' && socket.write(text)));
    const alarm = setTimeout(() => socket.destroy(), patienceMs);
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk;
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(alarm);
      if (/^HTTP\/1\.1 5/.test(answer)) reject(new Error(answer.slice(0, 40)));
      else resolve();
    });
  });
}

async function look(pid: number, database: DatabaseSync, startedAt: number): Promise<Sample> {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const metrics = await (await fetch(`http://127.0.0.1:${managementPort}/metrics`)).text();
  const metric = (name: string) =>
    Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(metrics)?.[1] ?? Number.NaN);
  const served = [...metrics.matchAll(/^postern_http_request_duration_seconds_count\{[^}]*\} (\d+)$/gm)];
  const rows = database.prepare('select count(*) as count from "OidcToken"').get() as { count: number };
  return {
    minute: (performance.now() - startedAt) / 60_000,
    residentMb: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024,
    heapMb: metric('nodejs_heap_size_used_bytes') / 1024 / 1024,
    lagMs: metric('nodejs_eventloop_lag_p99_seconds') * 1000,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    rows: rows.count,
    served: served.reduce((sum, [, number]) => sum + Number(number), 0),
  };
}

/**
 * By how much a value grows an hour: the middle one of the slopes between any two samples (Theil and Sen). Memory goes
 * up and down in steps, as it is collected, and a straight line through all of them would follow a single step.
 */
function slopePerHour(samples: readonly Sample[], of: (sample: Sample) => number): number {
  const slopes = samples.flatMap((one, index) =>
    samples.slice(index + 1).map((other) => (of(other) - of(one)) / (other.minute - one.minute)),
  );
  return (slopes.sort((a, b) => a - b)[slopes.length >> 1] ?? 0) * 60;
}

/** The least of a value in each tenth: of the heap, what is left when it has been collected. */
function floorOf(samples: readonly Sample[], of: (sample: Sample) => number): Sample[] {
  const size = Math.max(1, Math.ceil(samples.length / 10));
  return Array.from({ length: Math.ceil(samples.length / size) }, (_, part) =>
    samples.slice(part * size, (part + 1) * size).reduce((least, one) => (of(one) < of(least) ? one : least)),
  );
}

/** Memory over time, in one scale, and below it rows and descriptors, each in its own. */
function draw(samples: readonly Sample[]): string {
  const width = 760;
  const last = samples.at(-1)?.minute ?? 1;
  const memoryTop = 40;
  const mostMb = Math.max(...samples.map(({ residentMb }) => residentMb));
  const curve = (
    of: (sample: Sample) => number,
    top: number,
    colour: string,
    label: string,
    labelAt: number,
  ) => {
    const height = 130;
    const most = Math.max(...samples.map(of), 1);
    const scale = top === memoryTop ? mostMb : most;
    const points = samples
      .map(
        (sample) =>
          `${((sample.minute / last) * width + 20).toFixed(1)},${(top + height - (of(sample) / scale) * height).toFixed(1)}`,
      )
      .join(' ');
    return `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${points}"/><text x="${labelAt}" y="${top - 8}" fill="${colour}">${label}, up to ${Math.round(most)}</text>`;
  };
  const panels = [
    curve(({ residentMb }) => residentMb, memoryTop, '#1f5fa8', 'resident memory, MB', 20),
    curve(({ heapMb }) => heapMb, memoryTop, '#b3541e', 'heap, MB', 280),
    curve(({ rows }) => rows, 220, '#2e7d32', 'rows', 20),
    curve(({ descriptors }) => descriptors, 220, '#6a3d9a', 'descriptors', 280),
  ];
  const axes = [170, 350].map((y) => `<path d="M20 ${y}h${width}" stroke="#888"/>`).join('');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 380" font-family="sans-serif" font-size="13"><title>Soak of ${Math.round(last)} minutes</title><rect width="800" height="380" fill="#fff"/>${axes}${panels.join('')}<text x="20" y="370" fill="#444">0</text><text x="780" y="370" text-anchor="end" fill="#444">${Math.round(last)} minutes</text></svg>\n`;
}

function print(samples: readonly Sample[]): void {
  console.log('| minute | resident MB | heap MB | event loop p99 ms | descriptors | rows | requests |');
  console.log('| --- | --- | --- | --- | --- | --- | --- |');
  const step = Math.max(1, Math.floor(samples.length / 20));
  for (const [index, sample] of samples.entries()) {
    if (index % step !== 0 && index !== samples.length - 1) continue;
    const { descriptors, heapMb, lagMs, minute, residentMb, rows, served } = sample;
    const figures = [minute.toFixed(1), residentMb.toFixed(0), heapMb.toFixed(0), lagMs.toFixed(0)];
    console.log(`| ${[...figures, descriptors, rows, served].join(' | ')} |`);
  }
}

const folder = prepare();
const server = await start(folder);
const pid = server.pid ?? 0;
const database = new DatabaseSync(join(folder, 'data/postern.sqlite'), { readOnly: true });
const startedAt = performance.now();
const samples: Sample[] = [];
const load = [
  ...keepDoing('client credentials and introspection', 4, 20, clientCredentials),
  ...keepDoing('password grant', 1, 200, password),
  ...keepDoing('visit', 2, 100, visit),
  ...keepDoing('WS-Federation', 1, 300, wsFederation),
  ...keepDoing('garbage', 4, 20, garbage),
  ...keepDoing('slow client', 30, 100, slow),
];
while (!isOver()) {
  await sleep(everyMs);
  samples.push(await look(pid, database, startedAt));
}
await Promise.all(load);
database.close();
print(samples);

const middle = Math.floor(samples.length / 2);
const half = samples.slice(middle);
const hours = ((half.at(-1)?.minute ?? 0) - (half[0]?.minute ?? 0)) / 60;
const peakOf = (some: readonly Sample[]) => Math.max(...some.map(({ residentMb }) => residentMb));
const [firstPeak, secondPeak] = [peakOf(samples.slice(0, middle)), peakOf(half)];
const resident = slopePerHour(half, ({ residentMb }) => residentMb);
const heap = slopePerHour(
  floorOf(half, ({ heapMb }) => heapMb),
  ({ heapMb }) => heapMb,
);
const mayGrow = maxGrowth * firstPeak;
const grown = (samples.at(-1)?.descriptors ?? 0) - (half[0]?.descriptors ?? 0);
const failures = [...failed.values()].reduce((sum, one) => sum + one, 0);
console.log(`\ndone: ${[...done].map(([name, number]) => `${number} × ${name}`).join(', ')}`);
console.log(`failed: ${[...failed].map(([name, number]) => `${number} × ${name}`).join(', ') || 'nothing'}`);
const verdicts: [boolean, string][] = [
  [
    secondPeak - firstPeak < mayGrow,
    `resident memory: at most ${firstPeak.toFixed(0)} MB in the first half, ${secondPeak.toFixed(0)} in the second (the middle slope there: ${resident.toFixed(0)} MB an hour)`,
  ],
  [
    heap * hours < mayGrow,
    `heap when collected, second half: ${(heap * hours).toFixed(1)} MB more (${heap.toFixed(0)} an hour)`,
  ],
  [grown < maxDescriptors, `descriptors, second half: ${grown} more`],
  [failures === 0, `failures: ${failures}`],
];
for (const [isGood, text] of verdicts) console.log(`${isGood ? '✔' : '✖'} ${text}`);
if (values.figure !== undefined) writeFileSync(values.figure, draw(samples));

server.removeAllListeners('exit');
const ended = new Promise<number | null>((resolve) => server.once('exit', resolve));
server.kill('SIGTERM');
console.log(`stopped with ${await ended}`);
rmSync(folder, { recursive: true, force: true });
process.exitCode = verdicts.every(([isGood]) => isGood) ? 0 : 1;
