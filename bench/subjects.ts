/** What is measured: each a process of its own on loopback, on a core of its own where `taskset` is there. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../src/log.ts';
import { openDatabase } from '../src/store/database.ts';
import { toPosternFiles } from './clients.ts';
import type { Counts } from './counters.ts';
import type { Kind } from './workloads.ts';

const home = join(import.meta.dirname, '..');
const canPin = process.platform === 'linux' && spawnSync('taskset', ['--version']).status === 0;
/** The load has the second core, and what is measured the first. */
export const cores = { subject: '0', load: '1', both: '0,1' } as const;

let nextPort = 15_200 + Math.floor(Math.random() * 500);

export interface Subject extends AsyncDisposable {
  readonly name: string;
  readonly kind: Kind;
  readonly port: number;
  readonly base: string;
  readonly isTls: boolean;
  /** Of the processes that serve. */
  readonly pids: readonly number[];
  /** From the start of the process to its first answer. */
  readonly startMs: number;
  /** Undefined for the yardsticks, which have no database and are not counted. */
  readonly readCounts: (() => Promise<Counts>) | undefined;
}

/** Starts a program of Node's on a core, with a channel to it. */
export function startProcess(
  core: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; output?: number } = {},
): ChildProcess {
  const command = [process.execPath, ...args];
  const [program = '', ...rest] = canPin ? ['taskset', '-c', core, ...command] : command;
  return spawn(program, rest, {
    cwd: options.cwd ?? home,
    env: { ...process.env, NODE_ENV: 'production', ...options.env },
    stdio: ['ignore', options.output ?? 'ignore', 'inherit', 'ipc'],
  });
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  await once(child, 'exit');
}

/** Waits for the first answer, whatever it is. */
async function untilAnswered(url: string, child: ChildProcess): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`it did not start: exit code ${child.exitCode}`);
    const answered = await fetch(url).then(
      (response) => response.text().then(() => true),
      (err: { cause?: { code?: string } }) => /CERT|SELF_SIGNED|VERIFY/.test(err.cause?.code ?? ''),
    );
    if (answered) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export async function startYardstick(
  kind: Exclude<Kind, 'postern'>,
  { flags = [], isTls = false }: { flags?: readonly string[]; isTls?: boolean } = {},
): Promise<Subject> {
  nextPort += 1;
  const port = nextPort;
  const file = join(import.meta.dirname, 'yardsticks.ts');
  const startedAt = performance.now();
  const child = startProcess(cores.subject, [...flags, file, kind, String(port), ...(isTls ? ['tls'] : [])]);
  await untilAnswered(`${isTls ? 'https' : 'http'}://localhost:${port}/`, child);
  return {
    ...{ name: kind, kind, port, isTls, base: '', pids: [child.pid ?? 0] },
    startMs: performance.now() - startedAt,
    readCounts: undefined,
    [Symbol.asyncDispose]: () => stop(child),
  };
}

export interface PosternOptions {
  readonly name?: string;
  readonly database?: 'postgresql' | 'sqlite';
  /** Clients beside those that are used. */
  readonly furtherClients?: number;
  readonly isTls?: boolean;
  readonly workers?: number;
  /** Default the one of what is measured. */
  readonly core?: string;
  /** Whether a password is hashed every time. */
  readonly hashesPasswords?: boolean;
  /** Done with its folder and schema before it starts. */
  readonly fill?: (place: { folder: string; schema: string }) => Promise<void>;
  /** More flags of Node's, such as `--cpu-prof`. */
  readonly flags?: readonly string[];
  /** Members of server.json to set. */
  readonly server?: Record<string, unknown>;
}

/** How `npm start` runs Postern: the flags of Node's in it. */
export function startFlags(): readonly string[] {
  const { scripts } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
    scripts: { start: string };
  };
  return scripts.start.split(' ').filter((word) => word.startsWith('--'));
}

export const postgres = process.env.BENCH_POSTGRES;

/** Postern as it runs in production: log, audit log and metrics are on, over a database of its own. */
export async function startPostern(options: PosternOptions = {}): Promise<Subject> {
  const {
    core = cores.subject,
    database = 'sqlite',
    fill,
    furtherClients = 0,
    hashesPasswords = false,
    isTls = false,
  } = options;
  const { flags = [], name = `postern, ${database}`, server: members, workers = 1 } = options;
  nextPort += 2;
  const port = nextPort;
  const schema = `bench_${randomBytes(6).toString('hex')}`;
  const folder = mkdtempSync(join(tmpdir(), 'postern-bench-'));
  const origin = `${isTls ? 'https' : 'http'}://localhost:${port}`;
  const base = '/SPSSMR/Oidc';
  const config = join(folder, 'config');
  cpSync(join(home, 'config'), config, { recursive: true });
  const write = (file: string, content: object) => writeFileSync(join(config, file), JSON.stringify(content));
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileSync(join(folder, 'es256.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
  for (const file of ['localhost.pem', 'key.pem']) {
    copyFileSync(join(home, 'test/fixtures/tls', file), join(folder, file));
  }
  write('server.json', {
    Environment: 'Development',
    PublicUrl: origin + base,
    Listener: {
      Port: port,
      ...(isTls ? { Tls: { CertificateFile: 'localhost.pem', KeyFile: 'key.pem' } } : undefined),
    },
    Management: { Port: port - 1 },
    Audit: { To: 'folder' },
    FurtherSigningKeys: [{ Algorithm: 'ES256', KeyFile: 'es256.pem' }],
    ExpiredTokenCleanInterval: 604_800,
    Workers: workers,
    ...(database === 'sqlite'
      ? undefined
      : {
          Database: { Client: 'postgresql', Connection: { plain: postgres }, Schema: schema },
        }),
    ...members,
  });
  for (const [file, content] of Object.entries(toPosternFiles())) write(file, content);
  for (let more = 0; more < furtherClients; more += 1) {
    write(`clients/further-${more}.json`, {
      Flow: 'AuthorizationCodeWithProofKey',
      RedirectUris: [`http://localhost:5090/callback-${more}`],
      AllowedScopes: ['openid', 'profile'],
    });
  }
  mkdirSync(join(folder, 'data'), { recursive: true });
  const output = openSync(join(folder, 'log'), 'a');
  const start = (...more: string[]) =>
    startProcess(core, [...startFlags(), ...flags, join(home, 'bin/postern.js'), ...more], {
      cwd: folder,
      output,
      env: {
        NODE_OPTIONS: `--import=${new URL('./counters.ts', import.meta.url)}`,
        BENCH_PASSWORDS: hashesPasswords ? 'always' : 'once',
      },
    });
  if (fill !== undefined) {
    await once(start('migrate'), 'exit');
    await fill({ folder, schema });
  }
  const startedAt = performance.now();
  const child = start('start');
  await untilAnswered(origin + base, child);
  const startMs = performance.now() - startedAt;
  // A supervisor does not serve.
  const serving = () =>
    readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number);
  return {
    ...{ name, kind: 'postern', port, base, isTls, startMs },
    get pids() {
      return workers > 1 ? serving() : [child.pid ?? 0];
    },
    readCounts: async () => {
      child.send('counts');
      for (;;) {
        const [message] = (await once(child, 'message')) as [{ counts?: Counts }];
        if (message.counts !== undefined) return message.counts;
      }
    },
    async [Symbol.asyncDispose]() {
      await stop(child);
      rmSync(folder, { recursive: true, force: true });
      if (database === 'postgresql') await dropSchema(schema);
    },
  };
}

/** Opens the database of a subject, beside it. */
export function openPostgres(schema: string) {
  return openDatabase({
    ...{ client: 'postgresql', connection: postgres ?? '', schema, poolSize: 2, timeoutMs: 3_600_000 },
    log: createLogger({ level: 'silent', format: 'json' }),
    now: () => Math.floor(Date.now() / 1000),
  });
}

async function dropSchema(schema: string): Promise<void> {
  await using db = await openPostgres(schema);
  await db.knex.raw(`drop schema if exists "${schema}" cascade`);
}
