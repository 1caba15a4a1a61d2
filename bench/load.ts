/**
 * The load, a process of its own beside what it measures: told by its parent what to ask of whom, it asks for as
 * long as it is told and answers with what it saw. Processor time and memory of the measured are read from /proc.
 */
import { readFileSync } from 'node:fs';
import { type Address, createConnection } from './connection.ts';
import { type Kind, type Target, type Workload, type WorkloadName, workloads } from './workloads.ts';

export interface Order {
  readonly workload: WorkloadName;
  readonly kind: Kind;
  readonly base: string;
  readonly address: Address;
  readonly connections: number;
  readonly seconds: number;
  /** Processes that serve. */
  readonly pids: readonly number[];
}

export interface Seen {
  readonly operations: number;
  readonly seconds: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Microseconds of the processor, by all of the processes, for each operation. */
  readonly cpu: number;
  /** Megabytes: the most of one process at the end. */
  readonly memory: number;
}

/** A measurement, or a few operations, one after the other, whose cost somebody else counts. */
export type Task = { readonly measure: Order } | { readonly count: Order; readonly times: number };

const tickMicroseconds = 10_000;

/** User and system time of processes with all their threads, in microseconds. */
function processorTime(pids: readonly number[]): number {
  return pids
    .map((pid) => {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      // proc(5): utime and stime are the 14th and 15th field, and the second may hold spaces.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return (Number(fields[11]) + Number(fields[12])) * tickMicroseconds;
    })
    .reduce((sum, time) => sum + time, 0);
}

function residentMegabytes(pids: readonly number[]): number {
  return Math.max(
    ...pids.map((pid) => {
      const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      return Number(kilobytes) / 1024;
    }),
  );
}

async function prepare({ address, base, connections, kind, workload }: Order) {
  const target: Target = { kind, base };
  const opened = Array.from({ length: connections }, () => createConnection(address));
  const { start }: Workload = workloads[workload];
  // One after the other: preparing is signing in, and not what is measured.
  const operations: (() => Promise<void>)[] = [];
  for (const connection of opened) operations.push(await start(target, connection));
  return { operations, close: () => opened.forEach((connection) => void connection.close()) };
}

async function measure(order: Order): Promise<Seen> {
  const { close, operations } = await prepare(order);
  const { pids, seconds } = order;
  const latencies: number[] = [];
  const startedAt = performance.now();
  const endAt = startedAt + seconds * 1000;
  const before = processorTime(pids);
  await Promise.all(
    operations.map(async (operation) => {
      for (let from = performance.now(); from < endAt; ) {
        await operation();
        const to = performance.now();
        latencies.push(to - from);
        from = to;
      }
    }),
  );
  const cpu = (processorTime(pids) - before) / latencies.length;
  const memory = residentMegabytes(pids);
  close();
  const sorted = Float64Array.from(latencies).sort();
  return {
    operations: sorted.length,
    seconds: (performance.now() - startedAt) / 1000,
    p50: sorted[Math.floor(sorted.length * 0.5)] ?? 0,
    p99: sorted[Math.floor(sorted.length * 0.99)] ?? 0,
    cpu,
    memory,
  };
}

process.on('message', async (task: Task) => {
  try {
    if ('measure' in task) {
      process.send?.({ seen: await measure(task.measure) });
      return;
    }
    const { close, operations } = await prepare({ ...task.count, connections: 1 });
    for (let done = 0; done < task.times; done += 1) await operations[0]?.();
    close();
    process.send?.({ counted: true });
  } catch (err) {
    process.send?.({ failed: err instanceof Error ? err.stack : String(err) });
  }
});
