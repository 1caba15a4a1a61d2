/**
 * The real server for a test: in this process, on a free port, over a database of its own, with the shipped
 * development configuration and what the test changes in it.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { parse } from 'jsonc-parser';
import { createLogger } from '../../src/log.ts';
import { type RunningServer, startServer } from '../../src/server.ts';

export interface TestServerOptions {
  /** Members of `server.json` to set. */
  server?: Record<string, unknown>;
  /** Registrations to add, or members of shipped ones to set; null removes the file. */
  clients?: Record<string, Record<string, unknown> | null>;
  resources?: Record<string, Record<string, unknown> | null>;
  providers?: Record<string, Record<string, unknown> | null>;
  relyingParties?: Record<string, Record<string, unknown>>;
  /** More files beside config/, by name. */
  files?: Record<string, string>;
  /** Links beside config/ to folders or files elsewhere, by name. */
  links?: Record<string, string>;
  /** Demo accounts instead of the shipped ones; null for none. */
  accounts?: readonly Record<string, unknown>[] | null;
  /** Seconds since the epoch. */
  now?: () => number;
}

export interface TestServer extends RunningServer {
  readonly configDirectory: string;
  /** Every line that the server logged, parsed. */
  readonly logged: readonly Record<string, unknown>[];
  /** The same, each as it was written. */
  readonly lines: readonly string[];
  /** Everything that the server logged, as it was written. */
  logText(): string;
  /** Adds or changes a config file and leaves the noticing to the server. */
  write(path: string, content: Record<string, unknown> | string): void;
  stop(): Promise<void>;
}

/**
 * Files of tests run beside each other, each in a process of its own that draws from ports of its own: those of the
 * block whose first port it holds. None of them are ports that systems give to outgoing connections: one of those
 * could have a port before whoever asked.
 */
const blocks = { first: 16_000, ports: 250, count: 64 };
const drawnPorts = new Set<number>();
const firstPortOfProcess = holdBlock();

function listenOn(port: number): Promise<Server | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}

async function holdBlock(): Promise<number> {
  for (let attempt = 0; attempt < blocks.count; attempt += 1) {
    const first = blocks.first + ((process.pid + attempt) % blocks.count) * blocks.ports;
    const held = await listenOn(first);
    if (held === undefined) continue;
    held.unref();
    return first;
  }
  throw new Error('every block of ports is held by another process');
}

/** A port that was free a moment ago, and is given to nobody else. */
export async function findFreePort(): Promise<number> {
  const first = await firstPortOfProcess;
  for (;;) {
    const port = first + 1 + Math.floor(Math.random() * (blocks.ports - 1));
    if (drawnPorts.size < blocks.ports / 2 && drawnPorts.has(port)) continue;
    drawnPorts.add(port);
    const probe = await listenOn(port);
    if (probe === undefined) continue;
    await new Promise((resolve) => probe.close(resolve));
    return port;
  }
}

/** Waits until a program that was started listens. */
export async function untilOpen(port: number): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const isOpen = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true));
      socket.once('error', () => resolve(false));
      socket.once('connect', () => socket.destroy());
    });
    if (isOpen) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nothing listens on port ${port}`);
}

/** A copy of the shipped configuration in a folder of its own, changed as asked, for one port. */
export async function prepareConfiguration(t: TestContext, options: TestServerOptions = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'postern-test-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const configDirectory = join(folder, 'config');
  cpSync(join(import.meta.dirname, '../../config'), configDirectory, { recursive: true });
  const port = await findFreePort();

  const change = (path: string, members: Record<string, unknown> | null) => {
    const file = join(configDirectory, path);
    if (members === null) return rmSync(file);
    let present: Record<string, unknown> = {};
    try {
      present = parse(readFileSync(file, 'utf8'), [], { allowTrailingComma: true }) as Record<
        string,
        unknown
      >;
    } catch {
      // A new file.
    }
    writeFileSync(file, JSON.stringify({ ...present, ...members }, null, 2));
  };
  change('server.json', {
    PublicUrl: `http://localhost:${port}/SPSSMR/Oidc`,
    Listener: { Host: '127.0.0.1', Port: port },
    ...options.server,
  });
  for (const [id, members] of Object.entries(options.clients ?? {})) change(`clients/${id}.json`, members);
  for (const [name, members] of Object.entries(options.resources ?? {}))
    change(`resources/${name}.json`, members);
  mkdirSync(join(configDirectory, 'relying-parties'), { recursive: true });
  for (const [name, members] of Object.entries(options.relyingParties ?? {}))
    change(`relying-parties/${name}.json`, members);
  for (const [name, content] of Object.entries(options.files ?? {}))
    writeFileSync(join(folder, name), content);
  for (const [name, target] of Object.entries(options.links ?? {})) symlinkSync(target, join(folder, name));
  for (const [name, members] of Object.entries(options.providers ?? {}))
    change(`providers/${name}.json`, members);
  if (options.accounts === null) rmSync(join(configDirectory, 'accounts.json'));
  else if (options.accounts !== undefined) {
    writeFileSync(join(configDirectory, 'accounts.json'), JSON.stringify({ Accounts: options.accounts }));
  }
  return { folder, configDirectory, port, change };
}

/** Starts the server and stops it when the test ends. */
export async function startTestServer(t: TestContext, options: TestServerOptions = {}): Promise<TestServer> {
  const { configDirectory, change } = await prepareConfiguration(t, options);
  const lines: string[] = [];
  const log = createLogger({
    level: 'debug',
    format: 'json',
    destination: { write: (line) => void lines.push(line) },
  });
  const server = await startServer({
    configDirectory,
    env: {},
    log,
    ...(options.now === undefined ? undefined : { now: options.now }),
  });
  let isStopped = false;
  const stop = async () => {
    if (isStopped) return;
    isStopped = true;
    await server[Symbol.asyncDispose]();
  };
  t.after(stop);

  return {
    issuer: server.issuer,
    url: server.url,
    get configuration() {
      return server.configuration;
    },
    context: server.context,
    reload: () => server.reload(),
    [Symbol.asyncDispose]: stop,
    configDirectory,
    get logged() {
      return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    },
    lines,
    logText: () => lines.join(''),
    write(path, content) {
      if (typeof content === 'string') writeFileSync(join(configDirectory, path), content);
      else change(path, content);
    },
    stop,
  };
}
