/** A PostgreSQL of a test's own, to be paused and stopped. */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { requireCommand } from './requirements.ts';
import { findFreePort } from './start-server.ts';

export interface PostgresServer {
  readonly connection: string;
  start(): void;
  /** Ends it at once, as a crash would. */
  stop(): void;
  /** It keeps its connections and answers nothing. */
  pause(): void;
  resume(): void;
}

/** Starts one on a free port, and removes it with the test. */
export async function startPostgres(t: TestContext): Promise<PostgresServer> {
  const initdb = requireCommand(t, 'initdb', 'postgresql');
  const control = requireCommand(t, 'pg_ctl', 'postgresql');
  const home = mkdtempSync(join(tmpdir(), 'postern-pg-'));
  // It does not run as root.
  const isRoot = process.getuid?.() === 0;
  const asOwner = isRoot ? [requireCommand(t, 'runuser', 'util-linux'), '-u', 'postgres', '--'] : [];
  if (isRoot) {
    const [, uid = ''] = /^postgres:[^:]*:(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? [];
    chownSync(home, Number(uid), -1);
  }
  chmodSync(home, 0o700);
  const run = (...parts: string[]) => {
    const [command = '', ...parameters] = [...asOwner, ...parts];
    execFileSync(command, parameters, { cwd: home, stdio: 'ignore' });
  };
  const data = join(home, 'data');
  run(initdb, '-D', data, '-A', 'trust', '-U', 'postgres', '--no-sync');
  const port = await findFreePort();
  const options = `-p ${port} -k ${home} -c listen_addresses=127.0.0.1 -c fsync=off`;
  const start = () => run(control, '-D', data, '-l', join(home, 'log'), '-w', '-o', options, 'start');
  const postmaster = () => Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0]);
  const signal = (name: NodeJS.Signals) => {
    const pid = postmaster();
    // Its children are what answers.
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    for (const one of [pid, ...children.split(/\s+/).filter(Boolean).map(Number)]) {
      try {
        process.kill(one, name);
      } catch {
        // It has ended by itself.
      }
    }
  };
  const stop = () => run(control, '-D', data, '-m', 'immediate', 'stop');
  start();
  t.after(() => {
    try {
      signal('SIGCONT');
      stop();
    } catch {
      // The test has stopped it.
    }
    rmSync(home, { recursive: true, force: true });
  });
  return {
    connection: `postgresql://postgres@127.0.0.1:${port}/postgres`,
    start,
    stop,
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
  };
}
