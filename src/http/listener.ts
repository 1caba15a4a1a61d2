/** The one listener: opened on a configured address, and closed without cutting anybody off. */
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { ServerError } from '../errors.ts';

/** How long a stop waits for the rest of a request, and how long for an answer. */
const bodyPatienceMs = 5_000;
const answerPatienceMs = 25_000;

export interface Listener extends AsyncDisposable {
  /** Where it really is, such as `http://127.0.0.1:5080`. */
  readonly url: string;
}

/** Node's own limit, of all headers together, in bytes. */
const usualHeaderBytes = 16_384;

/**
 * Listens and resolves when it does. Disposing takes no more connections, lets the requests in flight finish,
 * and waits for nobody who only keeps a connection open.
 *
 * @throws {ServerError} ERR_LISTEN_FAILED
 */
export async function openListener(
  serve: RequestListener,
  { Host, Port }: { readonly Host: string; readonly Port: number },
  { maxHeaderBytes = usualHeaderBytes }: { maxHeaderBytes?: number } = {},
): Promise<Listener> {
  const server = createServer({ maxHeaderSize: maxHeaderBytes }, serve);
  const idle = new Set<Socket>();
  const busy = new Map<Socket, IncomingMessage>();
  let isClosing = false;
  server.on('connection', (socket) => {
    idle.add(socket);
    socket.once('close', () => idle.delete(socket));
  });
  server.on('request', (request, response) => {
    const { socket } = request;
    idle.delete(socket);
    busy.set(socket, request);
    response.once('close', () => {
      busy.delete(socket);
      if (isClosing) socket.destroy();
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

  const { address, port, family } = server.address() as AddressInfo;
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`,
    async [Symbol.asyncDispose]() {
      isClosing = true;
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      for (const socket of idle) socket.destroy();
      const patience = [
        // Who has not sent the whole request by then is not waited for, and in the end nobody is.
        setTimeout(
          () => busy.forEach((request, socket) => void (request.complete || socket.destroy())),
          bodyPatienceMs,
        ),
        setTimeout(() => server.closeAllConnections(), answerPatienceMs),
      ];
      await closed;
      for (const timer of patience) clearTimeout(timer);
    },
  };
}
