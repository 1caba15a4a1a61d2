/** Listeners: opened on a configured address, with TLS or without, and closed without cutting anybody off. */
import { statSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type ServerOptions } from 'node:http';
import { createServer as createTlsServer, type ServerOptions as TlsServerOptions } from 'node:https';
import { type AddressInfo, Server, type Socket } from 'node:net';
import { setImmediate as letOthersRun, setTimeout as sleep } from 'node:timers/promises';
import type { SecureContextOptions } from 'node:tls';
import { readRegularFile } from '../config/regular-file.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** How long a stop waits for the rest of a request. */
const bodyPatienceMs = 5_000;
/** For how long, at most, connections that are kept are served and ended one by one after the listener is closed. */
const drainMs = 2_000;
/** How long a stop looks for a moment in which nothing waits to be accepted, and how short such a moment is. */
const takingInMs = 1_000;
const quietTurnMs = 0.2;
/** How long a stop waits for the first request of a connection: proxies send it as soon as they are connected. */
const firstRequestPatienceMs = 1_000;
/**
 * How long a connection may be idle. Longer than proxies keep theirs (nginx and the load balancers of the clouds 60
 * seconds), so that it is they who close it: a request that meets our closing is lost, since a proxy must not repeat
 * a POST that it has sent (RFC 9110 section 9.2.2). After Node's own 5 seconds it would be we, all day long.
 */
const keepAliveMs = 75_000;
/** How often the files of a certificate are looked at. */
const certificatePollMs = 2_000;
/** Node's own limit, of all headers together, in bytes. */
const usualHeaderBytes = 16_384;
/**
 * Most headers of a request; browsers and proxies send thirty. Node would leave those above its own limit out without a
 * word, and what a proxy has added at the end is what it vouches for.
 */
const maxHeaders = 200;
/** Most requests of one connection that have no answer yet: nobody sends so many ahead but to have them served at once. */
const maxPipelined = 20;
/** A connection that is neither read from nor written to for so long is ended, whoever waits for whom. */
const silenceMs = 300_000;
/** How often the limits of time are looked at, at the most and at the least. */
const checkMs = { most: 5_000, least: 250 };
/** How long the log is silent about connections that are refused. */
const dropNoticeMs = 60_000;

export interface ListenerSettings {
  readonly Host: string;
  readonly Port: number;
  readonly Tls?: TlsFiles | undefined;
  /** Default 20. */
  readonly HeadersTimeoutSeconds?: number;
  /** Default 60. */
  readonly RequestTimeoutSeconds?: number;
  /** Default 10 000. */
  readonly MaxConnections?: number;
}

/** Absolute paths of PEM files. */
interface TlsFiles {
  readonly CertificateFile: string;
  readonly KeyFile: string;
  readonly Passphrase?: string | undefined;
}

export interface ListenerOptions {
  maxHeaderBytes?: number;
  /** For how long a stop goes on to serve first, so that whoever asks for readiness goes elsewhere. */
  delayMs?: number;
  /** How long a stop then waits for answers. */
  timeoutMs?: number;
  /** Told when the delay of a stop begins. */
  onStopping?: () => void;
}

export interface Listener extends AsyncDisposable {
  /** Where it really is, such as `http://127.0.0.1:5080`. */
  readonly url: string;
}

/**
 * Listens and resolves when it does. Disposing takes no more connections, lets the requests in flight finish,
 * and waits for nobody who only keeps a connection open.
 *
 * What is in flight at that moment, seen from a proxy, is more than what has come to us. Connections wait in the
 * kernel to be accepted, and requests in those that were accepted to be read: closing would reset both, and a proxy
 * must not repeat a POST that it has sent. A connection that is refused it may take elsewhere. So the delay comes
 * first, in which all is as ever: proxies go on with the connections that they keep, and few are new. Then what waits
 * is taken in, and the listener is closed. From then on each answer ends its connection, until none is left, and the
 * next that a proxy tries to make sends it elsewhere. What remains are connections that nobody has used meanwhile.
 *
 * @throws {ServerError} ERR_LISTEN_FAILED; ERR_KEY_UNUSABLE for the files of TLS
 */
export async function openListener(
  serve: RequestListener,
  {
    Host,
    Port,
    Tls,
    HeadersTimeoutSeconds = 20,
    RequestTimeoutSeconds = 60,
    MaxConnections = 10_000,
  }: ListenerSettings,
  { log }: { log: Logger },
  {
    delayMs = 0,
    maxHeaderBytes = usualHeaderBytes,
    onStopping = () => {},
    timeoutMs = 25_000,
  }: ListenerOptions = {},
): Promise<Listener> {
  const headersTimeout = HeadersTimeoutSeconds * 1000;
  const options: ServerOptions = {
    maxHeaderSize: maxHeaderBytes,
    keepAliveTimeout: keepAliveMs,
    headersTimeout,
    requestTimeout: RequestTimeoutSeconds * 1000,
    connectionsCheckingInterval: Math.max(checkMs.least, Math.min(headersTimeout / 4, checkMs.most)),
  };
  /** Requests without an answer. */
  const pending = new WeakMap<Socket, number>();
  const serveBounded: RequestListener = (request, response) => {
    const { socket } = request;
    const count = (pending.get(socket) ?? 0) + 1;
    pending.set(socket, count);
    response.once('close', () => pending.set(socket, (pending.get(socket) ?? 1) - 1));
    if (count > maxPipelined) socket.destroy();
    // What is left of a chunk of them is still read.
    if (socket.destroyed) return;
    if (request.rawHeaders.length > 2 * maxHeaders) {
      response.writeHead(431, { connection: 'close' }).end();
      return;
    }
    request.url = withoutOrigin(request.url ?? '');
    return serve(request, response);
  };
  const server =
    Tls === undefined
      ? createServer(options, serveBounded)
      : createTls(Tls, { ...options, handshakeTimeout: headersTimeout }, serveBounded);
  server.maxHeadersCount = 0;
  server.timeout = silenceMs;
  server.maxConnections = MaxConnections;
  let saidAt = Number.NEGATIVE_INFINITY;
  server.on('drop', () => {
    if (performance.now() - saidAt < dropNoticeMs) return;
    saidAt = performance.now();
    log.warn({ maxConnections: MaxConnections }, 'connections refused: there are as many as there may be');
  });
  const connections = new Set<Socket>();
  /** Without a request yet. */
  const fresh = new Set<Socket>();
  /** Between two requests. */
  const idle = new Set<Socket>();
  const busy = new Map<Socket, IncomingMessage>();
  let phase: 'closing' | 'draining' | 'open' = 'open';
  /** Connections and requests, ever. */
  let arrivals = 0;
  server.on('connection', (socket: Socket) => {
    arrivals += 1;
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  server.on(Tls === undefined ? 'connection' : 'secureConnection', (socket: Socket) => {
    fresh.add(socket);
    socket.once('close', () => {
      fresh.delete(socket);
      idle.delete(socket);
    });
  });
  // First, because whoever serves may have answered when they return.
  server.prependListener('request', (request, response) => {
    const { socket } = request;
    arrivals += 1;
    fresh.delete(socket);
    idle.delete(socket);
    busy.set(socket, request);
    if (phase !== 'open') response.setHeader('Connection', 'close');
    response.once('close', () => {
      busy.delete(socket);
      if (phase === 'closing') socket.destroy();
      else if (!socket.destroyed) idle.add(socket);
    });
  });

  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(Port, Host, resolve);
    });
  } catch (cause) {
    throw new ServerError(
      'ERR_LISTEN_FAILED',
      `cannot listen on ${Host}:${Port}: ${(cause as Error).message}`,
      {
        hint: 'is another program, or another Postern, listening there? Listener.Port in server.json chooses the port',
        cause,
      },
    );
  }
  const renewal = Tls && 'setSecureContext' in server ? renewCertificate(Tls, server, log) : undefined;

  const { address, port, family } = server.address() as AddressInfo;
  return {
    url: `${Tls === undefined ? 'http' : 'https'}://${family === 'IPv6' ? `[${address}]` : address}:${port}`,
    async [Symbol.asyncDispose]() {
      clearInterval(renewal);
      onStopping();
      if (delayMs > 0) await sleep(delayMs);
      await takeInWaiting(() => arrivals);
      phase = 'draining';
      // That of the base class: HTTP's own would end the connections that are idle, and look away meanwhile.
      const closed = new Promise<void>((resolve) => {
        Server.prototype.close.call(server, () => resolve());
      });
      if (delayMs > 0)
        await Promise.race([closed, sleep(Math.min(delayMs, drainMs), undefined, { ref: false })]);
      phase = 'closing';
      for (const socket of idle) socket.destroy();
      const patience = [
        setTimeout(() => fresh.forEach((socket) => void socket.destroy()), firstRequestPatienceMs),
        // Who has not sent the whole request by then is not waited for, and in the end nobody is.
        setTimeout(
          () => busy.forEach((request, socket) => void (request.complete || socket.destroy())),
          Math.min(bodyPatienceMs, timeoutMs),
        ),
        setTimeout(() => connections.forEach((socket) => void socket.destroy()), timeoutMs),
      ];
      await closed;
      for (const timer of patience) clearTimeout(timer);
      // Nothing is left to close but what HTTP has of its own, such as its timer.
      server.close();
    },
  };
}

/** The path and query of a request line that holds a whole address, as to a proxy (RFC 9112 section 3.2.2). */
function withoutOrigin(target: string): string {
  const origin = /^https?:\/\/[^/?#]+/i.exec(target)?.[0];
  if (origin === undefined || !URL.canParse(origin)) return target;
  const rest = target.slice(origin.length);
  return rest.startsWith('/') ? rest : `/${rest}`;
}

/**
 * Resolves at the end of a turn of the event loop in which nothing has arrived and nothing was done. What comes
 * between Node's look at the listener and the end of the turn is not seen: under load turns are milliseconds, in
 * which several connections come, and Node accepts one in each.
 */
async function takeInWaiting(countArrivals: () => number): Promise<void> {
  const deadline = performance.now() + takingInMs;
  for (;;) {
    const before = countArrivals();
    const startedAt = performance.now();
    await letOthersRun();
    const endedAt = performance.now();
    if (endedAt > deadline || (countArrivals() === before && endedAt - startedAt < quietTurnMs)) return;
  }
}

function createTls(files: TlsFiles, options: TlsServerOptions, serve: RequestListener) {
  try {
    return createTlsServer({ ...options, minVersion: 'TLSv1.2', ...readTlsFiles(files) }, serve);
  } catch (cause) {
    throw new ServerError('ERR_KEY_UNUSABLE', 'the certificate and the key for TLS cannot be used', {
      hint: `${files.CertificateFile} and ${files.KeyFile}: ${(cause as Error).message}`,
      cause,
    });
  }
}

function readTlsFiles({ CertificateFile, KeyFile, Passphrase }: TlsFiles): SecureContextOptions {
  return {
    cert: readRegularFile(CertificateFile),
    key: readRegularFile(KeyFile),
    ...(Passphrase === undefined ? undefined : { passphrase: Passphrase }),
  };
}

/** Takes up a certificate that has been renewed in its files; one that is half written, at the next look. */
function renewCertificate(
  files: TlsFiles,
  server: { setSecureContext(options: SecureContextOptions): void },
  log: Logger,
): NodeJS.Timeout {
  const stateOf = () =>
    [files.CertificateFile, files.KeyFile].map((file) => statSync(file).mtimeMs).join(' ');
  let known = stateOf();
  let saidOf: string | undefined;
  const timer = setInterval(() => {
    let state = 'unreadable';
    try {
      state = stateOf();
      if (state === known) return;
      server.setSecureContext(readTlsFiles(files));
      known = state;
      log.info({ file: files.CertificateFile }, 'certificate for TLS renewed');
    } catch (err) {
      // Tried at every look, spoken of once until a file changes again.
      if (state === saidOf) return;
      saidOf = state;
      log.error(
        { err, file: files.CertificateFile },
        'the certificate for TLS cannot be renewed; the one in use stays',
      );
    }
  }, certificatePollMs);
  timer.unref();
  return timer;
}
