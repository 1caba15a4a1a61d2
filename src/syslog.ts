/**
 * Lines to a syslog collector: RFC 5424, over TLS (RFC 5425), TCP with octet counting (RFC 6587) or UDP (RFC 5426).
 *
 * While the collector is away lines wait in memory, a bounded number of them; what comes then is dropped and counted.
 * The protocol has no receipts: what the system had taken when a connection broke may be lost without a word.
 */
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, getCACertificates } from 'node:tls';
import type { Logger } from './log.ts';

/** RFC 5424 section 6.2.1, by the names that syslog.conf has for them. */
export const facilities = {
  ...{ user: 1, daemon: 3, auth: 4, authpriv: 10, audit: 13 },
  ...{ local0: 16, local1: 17, local2: 18, local3: 19, local4: 20, local5: 21, local6: 22, local7: 23 },
} as const;

/** Of those of RFC 5424 the ones that are used. */
export const severities = { error: 3, warning: 4, notice: 5, info: 6 } as const;

export interface SyslogTarget {
  readonly host: string;
  readonly port: number;
  readonly protocol: 'tcp' | 'tls' | 'udp';
  readonly facility: keyof typeof facilities;
  /** PEM; without it those that Node and the system know. */
  readonly caCertificates?: string | undefined;
}

export interface SyslogRecord {
  readonly severity: keyof typeof severities;
  /** ISO 8601, UTC. */
  readonly time: string;
  /** ASCII, 32 characters at most, without blanks. */
  readonly messageId: string;
  /** ASCII: text in UTF-8 would need a byte order mark, which readers of JSON stumble over. */
  readonly message: string;
}

export interface Syslog extends AsyncDisposable {
  /** Sends it, now or when the collector is there again. */
  write(record: SyslogRecord): void;
}

export interface SyslogOptions {
  readonly log: Logger;
  /** Told how many records are lost. */
  readonly onDropped: (count: number) => void;
  /** How long disposing waits for what is left. */
  readonly stopTimeoutMs?: number;
  /** How many records, and bytes, wait at the most. */
  readonly capacity?: { readonly records: number; readonly bytes: number };
}

/** As much as a busy server says in some minutes. */
const usualCapacity = { records: 20_000, bytes: 16 * 1024 * 1024 };
const retryMs = { least: 500, most: 30_000 };
const connectTimeoutMs = 5000;
/** A collector that takes nothing for so long while something waits is gone. */
const stallMs = 30_000;
/** How long a collector may take for the end of a connection. */
const closeMs = 1000;
/** What fits a datagram of IPv4. */
const longestDatagram = 65_507;

/** One connection, or what stands for one. */
interface Connection {
  /** Calls back when the system has taken it, or with why not. */
  send(record: Buffer, done: (err?: Error | null) => void): void;
  /** Resolves when it has come to its end, with the reason where there is one. */
  readonly ended: Promise<Error | undefined>;
  close(): void;
}

/** Connects with the first record, and again whenever the connection ends, until disposed. */
export function openSyslog(target: SyslogTarget, options: SyslogOptions): Syslog {
  const { capacity = usualCapacity, log, onDropped, stopTimeoutMs = 5000 } = options;
  const { host, port, protocol } = target;
  const format = createFormat(target);
  const queue: Buffer[] = [];
  let queuedBytes = 0;
  /** How many at the head of the queue the connection has, and has not confirmed. */
  let sent = 0;
  let connection: Connection | undefined;
  /** Dropped in this outage. */
  let dropped = 0;
  let isDropping = false;
  const wake = new EventTarget();
  const stop = new AbortController();
  const hurry = new AbortController();

  function drop(count: number): void {
    dropped += count;
    onDropped(count);
  }

  function noteEmpty(): void {
    if (dropped > 0) log.warn({ dropped }, 'audit collector has all that waited; records were dropped');
    dropped = 0;
    isDropping = false;
    wake.dispatchEvent(new Event('empty'));
  }

  function sendAll(): void {
    const current = connection;
    while (current !== undefined && sent < queue.length) {
      const record = queue[sent] as Buffer;
      sent += 1;
      current.send(record, (err) => {
        if (err || current !== connection) return;
        queue.shift();
        sent -= 1;
        queuedBytes -= record.length;
        if (queue.length === 0) noteEmpty();
      });
    }
  }

  async function stayConnected(): Promise<void> {
    let pauseMs = retryMs.least;
    let isAway = false;
    while (!stop.signal.aborted) {
      let reason: Error | undefined;
      const since = performance.now();
      try {
        const opened = await openConnection(target, stop.signal);
        // A datagram says nothing of whether somebody is there.
        if (isAway && protocol !== 'udp') {
          log.info({ host, port, waiting: queue.length }, 'audit collector reached again');
          isAway = false;
        }
        connection = opened;
        sent = 0;
        sendAll();
        reason = await opened.ended;
      } catch (err) {
        reason = err as Error;
      }
      connection = undefined;
      if (stop.signal.aborted) return;
      // One that lasted was a good one.
      if (performance.now() - since > retryMs.most) [isAway, pauseMs] = [false, retryMs.least];
      // Once an outage. A collector may end a connection that was idle; that is none.
      if (!isAway && (reason !== undefined || queue.length > 0)) {
        isAway = true;
        log.error(
          { err: reason, host, port, protocol },
          'audit collector not reached; records wait in memory',
        );
      }
      // At a stop there is no time for patience, and somebody may just have come back.
      const signal = hurry.signal.aborted ? stop.signal : AbortSignal.any([stop.signal, hurry.signal]);
      const ms = hurry.signal.aborted ? retryMs.least : pauseMs * (0.5 + Math.random() / 2);
      await sleep(ms, undefined, { signal }).catch(() => {});
      pauseMs = Math.min(pauseMs * 2, retryMs.most);
    }
  }
  let staying: Promise<void> | undefined;

  return {
    write(record) {
      const bytes = format(record);
      const isTooLong = protocol === 'udp' && bytes.length > longestDatagram;
      if (isTooLong || queue.length >= capacity.records || queuedBytes + bytes.length > capacity.bytes) {
        // Once until all of them have gone.
        if (!isDropping && !isTooLong) log.error({ waiting: queue.length }, 'audit records are dropped');
        isDropping ||= !isTooLong;
        drop(1);
        return;
      }
      queue.push(bytes);
      queuedBytes += bytes.length;
      staying ??= stayConnected();
      sendAll();
    },

    async [Symbol.asyncDispose]() {
      hurry.abort();
      if (queue.length > 0) {
        const emptied = new Promise((resolve) => wake.addEventListener('empty', resolve, { once: true }));
        await Promise.race([emptied, sleep(stopTimeoutMs, undefined, { signal: stop.signal })]);
      }
      const left = queue.splice(0).length;
      stop.abort();
      connection?.close();
      await staying;
      if (left === 0) return;
      drop(left);
      log.error({ records: left, host, port }, 'audit records are lost: the collector has not taken them');
    },
  };
}

/** `<PRI>1 time host app - id - message`, with its length before it where it goes over a stream. */
function createFormat({ facility, protocol }: SyslogTarget): (record: SyslogRecord) => Buffer {
  const host =
    hostname()
      .replace(/[^!-~]/g, '')
      .slice(0, 255) || '-';
  return ({ message, messageId, severity, time }) => {
    const priority = facilities[facility] * 8 + severities[severity];
    const text = `<${priority}>1 ${time} ${host} postern - ${messageId} - ${message}`;
    return Buffer.from(protocol === 'udp' ? text : `${Buffer.byteLength(text)} ${text}`);
  };
}

/** @throws where it cannot be made in time */
function openConnection(target: SyslogTarget, signal: AbortSignal): Promise<Connection> {
  return target.protocol === 'udp' ? openDatagrams(target) : openStream(target, signal);
}

function openStream(
  { caCertificates, host, port, protocol }: SyslogTarget,
  signal: AbortSignal,
): Promise<Connection> {
  const socket =
    protocol === 'tcp'
      ? connectTcp({ host, port })
      : connectTls({
          host,
          port,
          ca: caCertificates ?? [...getCACertificates('default'), ...getCACertificates('system')],
          ...(isIP(host) === 0 ? { servername: host } : undefined),
        });
  return new Promise((resolve, reject) => {
    const { promise: ended, resolve: end } = Promise.withResolvers<Error | undefined>();
    let reason: Error | undefined;
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(connectTimeoutMs)]);
    const giveUp = () => socket.destroy(new Error(signal.aborted ? 'stopped' : 'no answer in time'));
    deadline.addEventListener('abort', giveUp);
    socket.on('error', (err) => {
      reason = err;
    });
    socket.on('close', () => {
      deadline.removeEventListener('abort', giveUp);
      reject(reason ?? new Error('the collector has ended the connection'));
      end(reason);
    });
    socket.once(protocol === 'tcp' ? 'connect' : 'secureConnect', () => {
      deadline.removeEventListener('abort', giveUp);
      resolve({
        ended,
        send: (record, done) => void socket.write(record, done),
        close() {
          socket.end(() => socket.destroy());
          setTimeout(() => socket.destroy(), closeMs).unref();
        },
      });
    });
    // Whatever a collector may have to say.
    socket.resume();
    socket.setKeepAlive(true, stallMs);
    watchStall(socket);
  });
}

/** A peer that is gone without a word takes nothing, and TCP alone would wait for a quarter of an hour. */
function watchStall(socket: Socket): void {
  socket.setTimeout(stallMs, () => {
    if (socket.writableLength > 0) socket.destroy(new Error('the collector takes nothing'));
  });
}

/** Connected, so that the system tells where nobody listens; with the record after the one that was lost by it. */
async function openDatagrams({ host, port }: SyslogTarget): Promise<Connection> {
  const { address, family } = await lookup(host);
  const socket = createSocket(family === 6 ? 'udp6' : 'udp4');
  const { promise: ended, resolve: end } = Promise.withResolvers<Error | undefined>();
  let isClosed = false;
  const close = (reason?: Error) => {
    if (isClosed) return;
    isClosed = true;
    socket.close();
    end(reason);
  };
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.connect(port, address, () => {
      socket.off('error', reject);
      resolve();
    });
  });
  socket.on('error', close);
  return {
    ended,
    send: (record, done) => {
      if (isClosed) return;
      socket.send(record, (err) => {
        done(err);
        if (err) close(err);
      });
    },
    close: () => close(),
  };
}
