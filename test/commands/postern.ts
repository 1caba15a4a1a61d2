/** Commands in a temporary folder with a configuration of its own: in this process, or as the real program. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import type { TestContext } from 'node:test';
import { runCommand } from '../../src/commands/command-line.ts';
import { prepareConfiguration, type TestServerOptions } from '../support/start-server.ts';

const program = join(import.meta.dirname, '..', '..', 'src', 'main.ts');

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** Written to standard input, which then ends. */
  input?: string;
  env?: Readonly<Record<string, string>>;
}

export interface Installation {
  folder: string;
  port: number;
  issuer: string;
  /** Runs a command to its end, in this process: a start of the program takes the better part of a second. */
  run(args: readonly string[], options?: RunOptions): Promise<Outcome>;
  /** Runs the program. */
  spawn(args: readonly string[], options?: RunOptions): RunningProgram;
  read(path: string): Promise<string>;
  write(path: string, text: string): Promise<void>;
}

export interface RunningProgram {
  child: ChildProcess;
  /** What it has written so far. */
  output(): Outcome;
  /** Resolves with the whole output when `pattern` has come up in it. */
  waitFor(pattern: RegExp): Promise<string>;
  finish(): Promise<Outcome>;
}

/** A folder with a copy of the shipped configuration, on a port that nobody listens on. */
export async function install(t: TestContext, options: TestServerOptions = {}): Promise<Installation> {
  const { folder, port } = await prepareConfiguration(t, options);
  return {
    folder,
    port,
    issuer: `http://localhost:${port}/SPSSMR/Oidc`,
    run: (args, runOptions) => runHere(folder, args, runOptions),
    spawn: (args, runOptions) => spawnProgram(t, folder, args, runOptions),
    read: (path) => readFile(join(folder, path), 'utf8'),
    write: (path, text) => writeFile(join(folder, path), text),
  };
}

/** Runs a command in this process, in the folder that contains config/. */
export async function runHere(
  folder: string,
  args: readonly string[],
  { input = '', env = {} }: RunOptions = {},
): Promise<Outcome> {
  const written = { stdout: '', stderr: '' };
  const collect = (stream: 'stderr' | 'stdout') =>
    new Writable({
      write(chunk, _encoding, done) {
        written[stream] += String(chunk);
        done();
      },
    });
  const stdin = new PassThrough();
  stdin.end(input);
  const nobody = { [Symbol.dispose]() {} };

  // Relative paths start at the working folder, here as in a shell.
  const before = process.cwd();
  process.chdir(folder);
  try {
    const code = await runCommand(args, {
      env,
      workingDirectory: folder,
      stdin,
      stdout: collect('stdout'),
      stderr: collect('stderr'),
      now: () => Math.floor(Date.now() / 1000),
      onStop: () => nobody,
      onReload: () => nobody,
      exit(exitCode) {
        throw new Error(`left with ${exitCode}`);
      },
    });
    return { code, ...written };
  } finally {
    process.chdir(before);
  }
}

function spawnProgram(
  t: TestContext,
  folder: string,
  args: readonly string[],
  { input, env = {} }: RunOptions = {},
): RunningProgram {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: 'pipe',
  });
  const written = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    written.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    written.stderr += text;
  });
  // 'close' comes when both streams have ended, too.
  const closed = once(child, 'close');
  t.after(async () => {
    child.kill('SIGKILL');
    await closed;
  });
  if (input !== undefined) child.stdin.end(input);

  const output = (): Outcome => ({ code: child.exitCode, ...written });
  return {
    child,
    output,
    waitFor(pattern) {
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      const look = () => {
        const all = written.stdout + written.stderr;
        if (pattern.test(all)) resolve(all);
      };
      child.stdout.on('data', look);
      child.stderr.on('data', look);
      closed.then(() => reject(new Error(`ended without ${pattern}: ${JSON.stringify(output())}`)));
      look();
      return promise;
    },
    async finish() {
      await closed;
      return output();
    },
  };
}
