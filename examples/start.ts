/**
 * `npm run example`: Postern, and beside it an application and an API that use it, in one terminal.
 *
 * A Postern that is running already is used as it is. Ctrl+C stops all that this has started.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const issuer = process.env.ISSUER ?? 'http://localhost:5080/SPSSMR/Oidc';
const apiUrl = process.env.WEB_API_URL ?? 'http://localhost:5092';
const mvcUrl = process.env.MVC_URL ?? 'http://localhost:5090';
const startTimeoutMs = 30_000;

let postern: ChildProcess | undefined;
let isStopping = false;

/** Ends this process when Postern, if it is ours, has finished what it was doing. */
function stop(exitCode = 0): void {
  if (isStopping) return;
  isStopping = true;
  if (postern === undefined || postern.exitCode !== null) process.exit(exitCode);
  postern.once('exit', () => process.exit(exitCode));
  // Postern stops in good order when this channel closes; on Windows there is no signal that says so.
  if (postern.connected) postern.disconnect();
}

function fail(reason: string): void {
  console.error(`example: ${reason}`);
  stop(1);
}

async function isPosternThere(): Promise<boolean> {
  try {
    const response = await fetch(`${issuer}/.well-known/openid-configuration`);
    return ((await response.json()) as { issuer?: string }).issuer === issuer;
  } catch {
    return false;
  }
}

async function isTaken(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** Starts Postern and waits until it answers; false where it does not. */
async function startPostern(): Promise<boolean> {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../bin/postern.js'), 'start'], {
    cwd: join(import.meta.dirname, '..'),
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  postern = child;
  child.once('exit', (code) => {
    if (!isStopping) fail(`Postern has ended with exit code ${code}`);
  });
  for (const end = Date.now() + startTimeoutMs; Date.now() < end && child.exitCode === null; ) {
    if (await isPosternThere()) return true;
    await sleep(100);
  }
  return false;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'] as const) process.on(signal, () => stop());
// The launcher that runs this for npm is gone.
process.on('disconnect', () => stop());
process.channel?.unref();

const taken = (await isTaken(apiUrl)) ? apiUrl : (await isTaken(mvcUrl)) ? mvcUrl : undefined;
if (taken !== undefined) {
  fail(`something is listening at ${taken} already; is another example running?`);
} else if (await isPosternThere()) {
  console.log(`example: using the Postern that is running at ${issuer}`);
  await startExamples();
} else if (await startPostern()) {
  await startExamples();
} else if (!isStopping) {
  fail(`Postern does not answer at ${issuer}`);
}

async function startExamples(): Promise<void> {
  await import('./web-api/server.ts');
  await import('./mvc/server.ts');
  while (!(await isTaken(mvcUrl))) await sleep(20);
  console.log(`
The example is ready. Open ${mvcUrl} and sign in as alice with the password Pass-word-1.
Ctrl+C stops it.
`);
}
