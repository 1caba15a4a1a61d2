/** Several processes on one listener (Node's cluster), so that a machine's cores are all used. */
import cluster, { type Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../log.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

/** What we and our workers say to each other. */
type Message = 'serving' | 'stop' | 'reload' | { readonly readMetrics: number; readonly text?: string };

/** A worker that dies is replaced after a pause, which grows while those that take its place die as well. */
const restartPauseMs = { least: 1000, most: 30_000 };

/**
 * Runs as many workers as asked for until told to stop, and replaces those that die.
 *
 * @param patienceMs how long a stop may take, before what is left of them is killed
 * @throws {CommandError} with the exit code of a worker that could not start
 */
export async function superviseWorkers(
  count: number,
  { io, log, patienceMs }: { io: CommandIo; log: Logger; patienceMs: number },
): Promise<void> {
  const { promise: stopped, resolve: stop } = Promise.withResolvers<void>();
  const { promise: broken, resolve: giveUp } = Promise.withResolvers<number>();
  // Loaded only here: no other command needs it.
  const { AggregatorRegistry } = await import('prom-client');
  const metrics = new AggregatorRegistry();
  const serving = new Set<Worker>();
  /** Once they have all served, nothing that one of them meets stops the others. */
  let haveServed = false;
  let pauseMs = restartPauseMs.least;
  let isStopping = false;

  const fork = () => {
    const worker = cluster.fork();
    worker.on('message', async (message: Message) => {
      if (message === 'serving') {
        serving.add(worker);
        haveServed ||= serving.size === count;
        pauseMs = restartPauseMs.least;
        // It was not there yet to hear of it.
        if (isStopping) worker.send('stop' satisfies Message);
      }
      // The library sends messages of its own on the same way.
      if (typeof message !== 'object' || message.readMetrics === undefined) return;
      const text = await metrics.clusterMetrics().catch(() => '');
      if (worker.isConnected()) worker.send({ readMetrics: message.readMetrics, text } satisfies Message);
    });
    // What was sent to one that ends in that moment, such as a connection; its exit has its own line.
    worker.on('error', (err) => log.warn({ worker: worker.id, err }, 'worker not reached'));
    worker.once('exit', async (code, signal) => {
      serving.delete(worker);
      if (isStopping) return;
      if (!haveServed && code !== null) {
        giveUp(code || exitCodes.failure);
        return;
      }
      log.error({ worker: worker.id, exitCode: code, signal }, 'worker died; another one takes its place');
      await sleep(pauseMs);
      pauseMs = Math.min(pauseMs * 2, restartPauseMs.most);
      if (!isStopping) fork();
    });
  };
  const tell = (message: Message) => {
    for (const worker of Object.values(cluster.workers ?? {})) {
      if (worker?.isConnected()) worker.send(message);
    }
  };

  io.onStop(() => {
    // Once for each time that it is asked for: each worker ends by itself at the second.
    if (isStopping) tell('stop');
    else stop();
  });
  using _reloading = io.onReload(() => tell('reload'));
  for (let started = 0; started < count; started += 1) fork();

  const code = await Promise.race([stopped.then(() => undefined), broken]);
  isStopping = true;
  tell('stop');
  const left = Object.values(cluster.workers ?? {}).filter((worker) => worker !== undefined);
  const impatience = setTimeout(() => {
    for (const worker of left) worker.process.kill('SIGKILL');
  }, patienceMs);
  await Promise.all(
    left.map((worker) => new Promise<void>((resolve) => void worker.once('exit', () => resolve()))),
  );
  clearTimeout(impatience);
  if (code !== undefined) throw new CommandError(code, 'a worker could not start; what it said is above');
}

/** Tells whoever supervises this process that it serves; nothing where nobody does. */
export function reportServing(): void {
  cluster.worker?.send('serving' satisfies Message);
}

/** Whether this process is one of several, and not the first of them. */
export function isFurtherWorker(): boolean {
  return (cluster.worker?.id ?? 1) > 1;
}

/** Whether this process is to supervise workers, where the configuration asks for some. */
export function isSupervisor(): boolean {
  return cluster.isPrimary;
}
