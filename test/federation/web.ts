/** Small servers on loopback that stand for the world outside: one that answers as told, and a proxy. */
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLogger, type Logger } from '../../src/log.ts';

/** A certificate of the root `Postern Test Root`, all for the key in key.pem: they prove nothing to anybody. */
export type CertificateName = 'elsewhere' | 'expired' | 'localhost' | 'root';

export function certificate(name: CertificateName): string {
  return readFixture(`${name}.pem`);
}

function readFixture(name: string): string {
  return readFileSync(join(import.meta.dirname, '../fixtures/tls', name), 'utf8');
}

async function listen(t: TestContext, server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as AddressInfo).port;
}

/** Starts a web server on loopback; gives its port. */
export function serve(t: TestContext, listener: RequestListener): Promise<number> {
  return listen(t, createServer(listener));
}

/** The same over TLS, with one of the certificates. */
export function serveTls(t: TestContext, name: CertificateName, listener: RequestListener): Promise<number> {
  const server = createHttpsServer({ key: readFixture('key.pem'), cert: certificate(name) }, listener);
  return listen(t, server);
}

export interface TestProxy {
  url: string;
  /** What it was asked for, such as `CONNECT sso.example:443`. */
  readonly requests: readonly string[];
}

/** A proxy that takes every request to one port of this machine, or refuses each with a status. */
export async function startProxy(
  t: TestContext,
  { port, status = 200 }: { port: number; status?: number },
): Promise<TestProxy> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    response.writeHead(status).end('{"from":"the proxy"}');
  });
  server.on('connect', (request, client) => {
    requests.push(`CONNECT ${request.url}`);
    if (status !== 200) return void client.end(`HTTP/1.1 ${status} Refused\r\n\r\n`);
    const target = connect(port, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      target.pipe(client);
      client.pipe(target);
    });
    for (const end of [target, client]) end.on('error', () => target.destroy());
    target.on('close', () => client.destroy());
  });
  return { url: `http://127.0.0.1:${await listen(t, server)}`, requests };
}

/** A log for a test, and what was written to it. */
export function recordLog(): { log: Logger; text: () => string } {
  const lines: string[] = [];
  const log = createLogger({
    level: 'debug',
    format: 'json',
    destination: { write: (line) => void lines.push(line) },
  });
  return { log, text: () => lines.join('') };
}
