/**
 * The audit log: who did what, through which client, from where, and what became of it. One JSON object a line, in
 * the words of docs/audit.md, beside the log and independent of its level. Never a secret, token, code or claim.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Logger } from './log.ts';
import { openSyslog, type SyslogRecord, type SyslogTarget } from './syslog.ts';

/** What happened. */
export type AuditEventName =
  | 'account'
  | 'authorization'
  | 'configuration'
  | 'consent'
  | 'key'
  | 'password'
  | 'revocation'
  | 'server'
  | 'sign-in'
  | 'sign-out'
  | 'token';

/** `refused`: somebody was told no. `failed`: it could not be decided, such as while a directory does not answer. */
export type AuditOutcome = 'failed' | 'refused' | 'success';

/** What is known of it, each member where there is one. */
export interface AuditFields {
  readonly accountId?: string | undefined;
  readonly clientId?: string | undefined;
  /** Of the WsFed application. */
  readonly relyingParty?: string | undefined;
  readonly identityProvider?: string | undefined;
  /** In our words or those of a specification; what a user has sent is in none. */
  readonly reason?: string | undefined;
  readonly [more: string]: unknown;
}

/** Where a request came from. */
export interface Origin {
  readonly requestId: string;
  readonly clientAddress: string;
}

export interface Audit extends AsyncDisposable {
  /** Writes an event here and, as `message` with the same fields, to the log. */
  record(
    [event, outcome]: readonly [AuditEventName, AuditOutcome],
    fields: AuditFields,
    message: string,
    level?: Level,
  ): void;
  /** Whatever is recorded by `work`, also later, has come from there. */
  within<T>(origin: Origin, work: () => T): T;
  /** Has every event told to a listener from now on, which must not throw. */
  listen(listener: AuditListener): void;
}

export type AuditListener = (event: AuditEventName, outcome: AuditOutcome, fields: AuditFields) => void;

export interface AuditOptions {
  readonly log: Logger;
  /** Seconds since the epoch. */
  readonly now: () => number;
  readonly to: 'folder' | 'none' | 'stdout' | 'syslog';
  /** For a file a day (UTC), `audit-2026-11-24.ndjson`. */
  readonly folder: string;
  /** After how many days a file is removed. */
  readonly keepDays: number;
  /** Where `to` is `syslog`. */
  readonly syslog?: SyslogTarget | undefined;
  /** What runs a command, where no request does. */
  readonly actor?: string;
  /** The trace of the request in hand, where there are traces. */
  readonly readTraceId?: (() => string | undefined) | undefined;
  /** Told how many events are lost. */
  readonly onDropped?: (count: number) => void;
  /** Default the process's standard output. */
  readonly stdout?: { write(text: string): unknown };
}

const daySeconds = 86_400;
const fileName = /^audit-(\d{4}-\d{2}-\d{2})\.ndjson$/;

/** Where the events go, a line at a time. */
interface Sink {
  /** May throw where the line is lost. */
  write(line: string, about: Omit<SyslogRecord, 'message'>): void;
  close?(): PromiseLike<void> | void;
}

type Level = 'error' | 'info' | 'warn';

/** Opens nothing before the first event. */
export function createAudit(options: AuditOptions): Audit {
  const { actor, log, now, onDropped = () => {}, readTraceId } = options;
  const origins = new AsyncLocalStorage<Origin>();
  const sink = openSink(options, onDropped);
  const listeners: AuditListener[] = [];
  /** Events that could not be written, since one could. */
  let lost = 0;

  function write(...[line, about]: Parameters<Sink['write']>): void {
    if (sink === undefined) return;
    try {
      sink.write(line, about);
      if (lost > 0) log.warn({ events: lost }, 'audit log is written again; events are lost');
      lost = 0;
    } catch (err) {
      lost += 1;
      onDropped(1);
      // Once an outage: the events themselves are in the log.
      if (lost === 1) log.error({ err }, 'audit log cannot be written');
    }
  }

  return {
    record([event, outcome], fields, message, level = 'info') {
      log[level](fields, message);
      const time = new Date(now() * 1000).toISOString();
      const { clientAddress, requestId } = origins.getStore() ?? {};
      const traceId = readTraceId?.();
      const known = { audit: 1, time, event, outcome, requestId, traceId, clientAddress, actor };
      // Last again: what an event is called is not for its fields to say.
      const line = JSON.stringify({ ...known, ...fields, ...known, message });
      write(line, { time, messageId: event, severity: severityOf(outcome, level) });
      for (const tell of listeners) tell(event, outcome, fields);
    },
    listen: (listener) => void listeners.push(listener),
    within: (origin, work) => origins.run(origin, work),
    async [Symbol.asyncDispose]() {
      await sink?.close?.();
    },
  };
}

function severityOf(outcome: AuditOutcome, level: Level): SyslogRecord['severity'] {
  if (level !== 'info') return level === 'warn' ? 'warning' : 'error';
  return ({ success: 'info', refused: 'notice', failed: 'warning' } as const)[outcome];
}

function openSink(options: AuditOptions, onDropped: (count: number) => void): Sink | undefined {
  const { log, stdout = process.stdout, syslog: target, to } = options;
  if (to === 'folder') return openDailyFile(options);
  if (to === 'stdout') return { write: (line) => void stdout.write(`${line}\n`) };
  if (to === 'none' || target === undefined) return undefined;
  const syslog = openSyslog(target, { log, onDropped });
  return {
    write: (line, about) => syslog.write({ ...about, message: toAscii(line) }),
    close: () => syslog[Symbol.asyncDispose](),
  };
}

/** The same JSON in ASCII. */
function toAscii(json: string): string {
  return json.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Appends to the file of the day; several processes may, a line is written at once. */
function openDailyFile({
  folder,
  keepDays,
  log,
  now,
}: Pick<AuditOptions, 'folder' | 'keepDays' | 'log' | 'now'>) {
  let day = '';
  let descriptor: number | undefined;

  function close(): void {
    if (descriptor !== undefined) closeSync(descriptor);
    descriptor = undefined;
  }

  /**
   * Opens a file to append to, and never what a link leads to: where a command of the superuser writes, that would be
   * any file of the system.
   *
   * @throws {Error} where there is something else
   */
  function open(path: string): number {
    const { O_APPEND, O_CREAT, O_NOFOLLOW = 0, O_NONBLOCK = 0, O_WRONLY } = constants;
    const file = openSync(path, O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_WRONLY, 0o600);
    try {
      if (!fstatSync(file).isFile()) throw new Error(`${path} is no file`);
      giveToOwner(file, path);
      return file;
    } catch (err) {
      closeSync(file);
      throw err;
    }
  }

  /** Where a command of the superuser is the first to write on a day, the server must be able to go on. */
  function giveToOwner(file: number, path: string): void {
    const { gid, uid } = statSync(folder);
    const found = fstatSync(file);
    if (found.uid !== 0 || uid === 0) return;
    if (found.nlink > 1) throw new Error(`${path} has another name, too`);
    fchownSync(file, uid, gid);
  }

  function removeOld(): void {
    const oldest = toDay(now() - keepDays * daySeconds);
    for (const name of readdirSync(folder)) {
      const of = fileName.exec(name)?.[1];
      if (of === undefined || of >= oldest) continue;
      try {
        unlinkSync(join(folder, name));
      } catch (err) {
        // Unless another process was first.
        if ((err as NodeJS.ErrnoException).code !== 'ENOENT') log.warn({ err }, 'old audit log not removed');
      }
    }
  }

  return {
    write(line: string) {
      const today = toDay(now());
      const isNewDay = today !== day;
      if (descriptor === undefined || isNewDay) {
        close();
        mkdirSync(folder, { recursive: true, mode: 0o700 });
        descriptor = open(join(folder, `audit-${today}.ndjson`));
        day = today;
      }
      writeSync(descriptor, `${line}\n`);
      if (isNewDay) removeOld();
    },
    close,
  };
}

function toDay(at: number): string {
  return new Date(at * 1000).toISOString().slice(0, 10);
}
