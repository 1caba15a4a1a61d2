/**
 * What Postern costs, beside what the layers under it cost in the same minutes:
 *
 *   npm run bench -- [--parts compare,clients,rows,connections,tls,workers] [--workloads a,b] [--rounds 3] [--seconds 3]
 *     [--rows 10000,100000,1000000] [--databases sqlite,postgresql] [--profile <folder>] [--write]
 *
 * bench/README.md says how to read it. Rounds are interleaved: each asks everybody once, one after the other.
 */
import { once } from 'node:events';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fillRows } from './fill.ts';
import type { Order, Seen, Task } from './load.ts';
import { describeLine, type Line, writeReport } from './report.ts';
import {
  cores,
  postgres,
  type Subject,
  startFlags,
  startPostern,
  startProcess,
  startYardstick,
} from './subjects.ts';
import { type Workload, type WorkloadName, workloads } from './workloads.ts';

const { values } = parseArgs({
  options: {
    parts: { type: 'string', default: 'compare' },
    workloads: { type: 'string', default: Object.keys(workloads).join(',') },
    databases: { type: 'string', default: 'sqlite,postgresql' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '10000,100000,1000000' },
    profile: { type: 'string' },
    write: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const chosen = values.workloads.split(',') as WorkloadName[];
const databases = (['sqlite', 'postgresql'] as const).filter(
  (database) => values.databases.includes(database) && (database === 'sqlite' || postgres !== undefined),
);
const flags = values.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${values.profile}`];
const sixteen = 16;

/** Somebody who is asked, and how. */
interface Entry {
  readonly label: string;
  readonly subject: Subject;
  readonly connections?: number;
  readonly isFresh?: boolean;
}

const load = startProcess(cores.load, [join(import.meta.dirname, 'load.ts')]);

/** Has the load do one thing. */
async function tell(task: Task): Promise<Seen | undefined> {
  load.send(task);
  const [message] = (await once(load, 'message')) as [{ failed?: string; seen?: Seen }];
  if (message.failed !== undefined) throw new Error(message.failed);
  return message.seen;
}

function toOrder({ connections = sixteen, isFresh = false, subject }: Entry, workload: WorkloadName): Order {
  const { base, isTls, kind, pids, port } = subject;
  return { workload, kind, base, pids, seconds, connections, address: { port, isTls, isFresh } };
}

/** What one operation costs, from the difference of many and few of them. */
async function count(entry: Entry, name: WorkloadName): Promise<Line['counts']> {
  const { readCounts } = entry.subject;
  if (readCounts === undefined) return undefined;
  const costs: number[][] = [];
  for (const times of [2, 12]) {
    const before = await readCounts();
    await tell({ count: toOrder(entry, name), times });
    const after = await readCounts();
    costs.push([
      after.statements - before.statements,
      after.signatures - before.signatures,
      after.passwords - before.passwords,
    ]);
  }
  const [statements = 0, signatures = 0, passwords = 0] = (costs[1] ?? []).map(
    (many, index) => (many - (costs[0]?.[index] ?? 0)) / 10,
  );
  return { statements, signatures, passwords };
}

/** The round that the fewest neighbours disturbed. */
function best(seen: readonly Seen[]): Seen {
  return [...seen].sort((a, b) => a.cpu - b.cpu)[0] as Seen;
}

/** Asks all entries the workloads that they know, round by round. */
async function measure(
  part: string,
  entries: readonly Entry[],
  names: readonly WorkloadName[],
  { counts = false }: { counts?: boolean } = {},
): Promise<Line[]> {
  const lines: Line[] = [];
  for (const workload of names) {
    const { yardsticks }: Workload = workloads[workload];
    const asked = entries.filter(
      ({ subject }) => subject.kind === 'postern' || yardsticks.includes(subject.kind),
    );
    const results = asked.map((entry) => ({
      entry,
      seen: [] as Seen[],
      counted: undefined as Line['counts'],
    }));
    for (const result of results) {
      if (counts) result.counted = await count(result.entry, workload);
      await tell({ measure: { ...toOrder(result.entry, workload), seconds: Math.min(2, seconds) } });
    }
    for (let round = 0; round < rounds; round += 1) {
      for (const { entry, seen } of results) {
        const one = await tell({ measure: toOrder(entry, workload) });
        if (one !== undefined) seen.push(one);
      }
    }
    for (const { counted, entry, seen } of results) {
      const line = { part, workload, subject: entry.label, seen: best(seen), counts: counted };
      lines.push(line);
      console.log(describeLine(line, lines));
    }
  }
  return lines;
}

/** Every workload, by all. */
async function compare(): Promise<Line[]> {
  await using subjects = new AsyncDisposableStack();
  const entries: Entry[] = [];
  for (const kind of ['http', 'koa', 'engine'] as const) {
    const subject = subjects.use(await startYardstick(kind, { flags: startFlags() }));
    entries.push({ label: kind, subject });
  }
  for (const database of databases) {
    entries.push({ label: database, subject: subjects.use(await startPostern({ database, flags })) });
  }
  return await measure('compare', entries, chosen, { counts: true });
}

/** What a password costs beside the rest, hashed every time. */
async function passwords(): Promise<Line[]> {
  await using subject = await startPostern({ hashesPasswords: true });
  return await measure('passwords', [{ label: 'sqlite', subject }], ['password', 'sign-in']);
}

/** From a single client to ten thousand. */
async function clients(): Promise<Line[]> {
  await using subjects = new AsyncDisposableStack();
  const entries: Entry[] = [];
  const starts: Line[] = [];
  for (const furtherClients of [0, 10, 1000, 10_000]) {
    const subject = subjects.use(await startPostern({ furtherClients }));
    const label = `${furtherClients} further clients`;
    entries.push({ label, subject });
    console.log(`${label}: first answer after ${subject.startMs.toFixed(0)} ms`);
    starts.push({ part: 'start', workload: 'discovery', subject: label, startMs: subject.startMs });
  }
  return [...starts, ...(await measure('clients', entries, ['cc-es256', 'introspect-reference', 'sign-in']))];
}

/** From ten thousand rows upwards. */
async function rows(): Promise<Line[]> {
  const lines: Line[] = [];
  for (const database of databases) {
    await using subjects = new AsyncDisposableStack();
    const entries: Entry[] = [];
    for (const number of values.rows.split(',').map(Number)) {
      const fill = (place: { folder: string; schema: string }) => fillRows(place, database, number);
      const subject = subjects.use(await startPostern({ database, fill }));
      entries.push({ label: `${database}, ${number} rows`, subject });
    }
    lines.push(...(await measure('rows', entries, ['introspect-reference', 'cc-reference', 'refresh'])));
  }
  return lines;
}

async function connections(): Promise<Line[]> {
  await using subject = await startPostern();
  const entries = [1, 4, 16, 64, 256].map((number) => ({
    ...{ label: `${number} connections`, subject, connections: number },
  }));
  return await measure('connections', entries, ['discovery', 'cc-es256']);
}

/** TLS of its own, kept open and made anew for each request. */
async function tls(): Promise<Line[]> {
  await using subjects = new AsyncDisposableStack();
  const entries: Entry[] = [];
  for (const isTls of [false, true]) {
    const http = subjects.use(await startYardstick('http', { isTls, flags: startFlags() }));
    const postern = subjects.use(await startPostern({ isTls }));
    for (const isFresh of [false, true]) {
      const how = `${isTls ? 'TLS' : 'plain'}, ${isFresh ? 'new connections' : 'kept open'}`;
      entries.push({ label: `http: ${how}`, subject: http, isFresh });
      entries.push({ label: `postern: ${how}`, subject: postern, isFresh });
    }
  }
  return [
    ...(await measure('tls', entries, ['discovery'])),
    ...(await measure(
      'tls',
      entries.filter(({ subject }) => subject.kind === 'postern'),
      ['cc-es256'],
    )),
  ];
}

/** One process and two, both on two cores, which the load shares with them. */
async function workers(): Promise<Line[]> {
  await using subjects = new AsyncDisposableStack();
  const entries: Entry[] = [];
  for (const number of [1, 2]) {
    const subject = subjects.use(await startPostern({ workers: number, core: cores.both }));
    entries.push({ label: `${number} worker${number > 1 ? 's' : ''}`, subject, connections: 32 });
  }
  return await measure('workers', entries, ['cc-rs256', 'cc-reference']);
}

const parts: Record<string, () => Promise<Line[]>> = {
  compare,
  passwords,
  clients,
  rows,
  connections,
  tls,
  workers,
};
const lines: Line[] = [];
try {
  for (const name of values.parts === 'all' ? Object.keys(parts) : values.parts.split(',')) {
    const part = parts[name];
    if (part === undefined) throw new Error(`no part ${name}; there are ${Object.keys(parts).join(', ')}`);
    lines.push(...(await part()));
    // After each part: a long run that is ended leaves what it had.
    if (values.write) writeReport(lines, { seconds, rounds });
  }
} finally {
  load.kill();
}
