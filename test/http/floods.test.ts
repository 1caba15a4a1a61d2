/** Networks that mean no good: slow, endless, too many at once, and two readings of one request. */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { loadConfiguration } from '../../src/config/load.ts';
import { startNginx } from '../support/nginx.ts';
import {
  findFreePort,
  prepareConfiguration,
  startTestServer,
  type TestServer,
} from '../support/start-server.ts';

/** What a test waits for at the most, several times what the limits below make of it. */
const patienceMs = 20_000;
const base = '/SPSSMR/Oidc';

async function start(t: TestContext, limits: Record<string, number> = {}, publicPort?: number) {
  const port = await findFreePort();
  const publicUrl = publicPort === undefined ? `http://localhost:${port}` : `https://localhost:${publicPort}`;
  const server = await startTestServer(t, {
    server: {
      PublicUrl: publicUrl + base,
      Listener: {
        Host: '127.0.0.1',
        Port: port,
        HeadersTimeoutSeconds: 1,
        RequestTimeoutSeconds: 2,
        ...limits,
      },
    },
  });
  return { port, server };
}

interface Connection {
  readonly socket: Socket;
  /** What has come until now. */
  received(): string;
  /** Resolves with it when the other side has ended the connection. */
  readonly ended: Promise<string>;
}

function open(t: TestContext, port: number, first = '', socket = connect(port, '127.0.0.1')): Connection {
  t.after(() => socket.destroy());
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
  });
  socket.on('error', () => {});
  if (first !== '') socket.write(first);
  const ended = new Promise<string>((resolve, reject) => {
    const alarm = setTimeout(() => reject(new Error(`the connection is still open: ${text}`)), patienceMs);
    t.after(() => clearTimeout(alarm));
    socket.once('close', () => {
      clearTimeout(alarm);
      resolve(text);
    });
  });
  ended.catch(() => {});
  return { socket, received: () => text, ended };
}

/** Sends a piece again and again until the connection ends, and returns how many bytes that were. */
async function trickle({ socket, ended }: Connection, piece: string, pauseMs: number): Promise<number> {
  let isOver = false;
  void ended.finally(() => {
    isOver = true;
  });
  for (let sent = 0; ; sent += piece.length) {
    if (isOver || socket.destroyed || !socket.writable) return sent;
    if (!socket.write(piece)) await Promise.race([new Promise((done) => socket.once('drain', done)), ended]);
    await sleep(pauseMs);
  }
}

async function answersOthers({ url }: TestServer): Promise<void> {
  const response = await fetch(`${url}${base}/.well-known/jwks`, { signal: AbortSignal.timeout(patienceMs) });
  assert.equal(response.status, 200);
  await response.arrayBuffer();
}

const get = (path: string, ...headers: string[]) =>
  [`GET ${base}${path} HTTP/1.1`, 'Host: localhost', ...headers, '', ''].join('\r\n');
const post = (path: string, ...headers: string[]) =>
  [
    `POST ${base}${path} HTTP/1.1`,
    'Host: localhost',
    'Content-Type: application/x-www-form-urlencoded',
    ...headers,
    '',
    '',
  ].join('\r\n');
const errorsOf = ({ lines }: TestServer) => lines.filter((line) => line.includes('"level":"error"'));

test('connections that send their headers byte by byte, or nothing at all, are ended, and others served meanwhile', async (t) => {
  const { port, server } = await start(t);
  const slow = Array.from({ length: 50 }, () =>
    open(t, port, `GET ${base}/ HTTP/1.1\r\nHost: localhost\r\nX: `),
  );
  const silent = Array.from({ length: 50 }, () => open(t, port));
  const trickles = slow.map((one) => trickle(one, 'a', 100));
  await answersOthers(server);
  for (const { ended } of [...slow, ...silent]) assert.match(await ended, /^HTTP\/1\.1 408 /);
  await Promise.all(trickles);
  await answersOthers(server);
  assert.deepEqual(errorsOf(server), []);
});

test('a connection that has had its answer and goes on with half a request is ended', async (t) => {
  const { port } = await start(t);
  const kept = open(t, port, get('/.well-known/jwks'));
  while (!kept.received().includes('\r\n\r\n{')) await sleep(20);
  kept.socket.write(`GET ${base}/ HT`);
  assert.match(await kept.ended, /^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 408 /);
});

test('bodies that come byte by byte end their connection, on every route that reads one', async (t) => {
  const { port, server } = await start(t);
  const paths = [
    '/connect/token',
    '/connect/introspect',
    '/connect/userinfo',
    '/connect/authorize',
    '/login/x',
  ];
  const slow = paths.flatMap((path) => [
    open(t, port, post(path, 'Content-Length: 5000')),
    open(t, port, post(path, 'Transfer-Encoding: chunked')),
  ]);
  const trickles = slow.map((one, index) => trickle(one, index % 2 === 0 ? 'a' : '1\r\na\r\n', 100));
  await answersOthers(server);
  await Promise.all([...slow.map(({ ended }) => ended), ...trickles]);
  for (const { received } of slow) assert.doesNotMatch(received(), /^HTTP\/1\.1 [25]/);
  await answersOthers(server);
  assert.deepEqual(errorsOf(server), []);
});

test('a body without end is refused while it comes', async (t) => {
  const { port, server } = await start(t);
  const chunk = `4000\r\n${'a'.repeat(0x4000)}\r\n`;
  for (const path of ['/connect/token', '/connect/introspect', '/callback/wsfed/IntelligenceWsFed']) {
    const endless = open(t, port, post(path, 'Transfer-Encoding: chunked'));
    const sent = await trickle(endless, chunk, 0);
    assert.match(await endless.ended, /^(HTTP\/1\.1 4\d\d [\s\S]*Connection: close|$)/, path);
    assert.doesNotMatch(endless.received(), /keep-alive/i, path);
    assert.ok(sent < 64 * 1024 * 1024, `${path}: ${sent} bytes`);
  }
  await answersOthers(server);
  assert.deepEqual(errorsOf(server), []);
});

test('too many headers, and too long ones, are refused and not left out', async (t) => {
  const { port, server } = await start(t);
  const many = (count: number) => Array.from({ length: count }, (_, index) => `a${index}: b`);
  const answerTo = (request: string) => open(t, port, request).ended;
  assert.match(await answerTo(get('/', 'Connection: close', ...many(198))), /^HTTP\/1\.1 200 /);
  assert.match(await answerTo(get('/', 'Connection: close', ...many(199))), /^HTTP\/1\.1 431 /);
  assert.match(await answerTo(get('/', ...many(2001), 'X-Forwarded-For: 10.0.0.1')), /^HTTP\/1\.1 431 /);
  assert.match(await answerTo(get('/', `X: ${'a'.repeat(17_000)}`)), /^HTTP\/1\.1 431 /);
  assert.match(await answerTo(get(`/${'a'.repeat(17_000)}`)), /^HTTP\/1\.1 431 /);
  await answersOthers(server);
});

test('beyond MaxConnections a connection is closed as it comes, and the log says it once; those that are there go on', async (t) => {
  const { port, server } = await start(t, { MaxConnections: 20, HeadersTimeoutSeconds: 2 });
  const kept = Array.from({ length: 20 }, () => open(t, port, get('/.well-known/jwks')));
  for (const { received } of kept) while (!received().includes('200 OK')) await sleep(10);
  const refused = Array.from({ length: 10 }, () => open(t, port, get('/')));
  for (const { ended } of refused) assert.equal(await ended, '');
  assert.equal(server.logged.filter(({ maxConnections }) => maxConnections === 20).length, 1);

  const [first, ...others] = kept;
  first?.socket.write(get('/', 'Connection: close'));
  assert.match((await first?.ended) ?? '', /"keys"[\s\S]*HTTP\/1\.1 200 /);
  await answersOthers(server);
  for (const { socket } of others) socket.destroy();
});

test('a few requests sent ahead are answered in turn; who sends thousands is cut off', async (t) => {
  const { port, server } = await start(t);
  const few = open(t, port, get('/.well-known/jwks').repeat(9) + get('/', 'Connection: close'));
  assert.equal((await few.ended).match(/HTTP\/1\.1 200 /g)?.length, 10);

  const flood = Array.from({ length: 5 }, () => open(t, port, get('/.well-known/jwks').repeat(20_000)));
  await answersOthers(server);
  for (const { ended } of flood) await ended;
  await answersOthers(server);
  const served = server.lines.filter((line) => line.includes('request answered')).length;
  assert.ok(served < 1000, `${served} requests were served`);
  assert.deepEqual(errorsOf(server), []);
});

test('hundreds of requests at once are all answered', async (t) => {
  const { server } = await start(t, { HeadersTimeoutSeconds: 20, RequestTimeoutSeconds: 20 });
  const basic = `Basic ${Buffer.from('batch-ref:batch-ref-secret').toString('base64')}`;
  const token = () =>
    fetch(`${server.url}${base}/connect/token`, {
      method: 'POST',
      headers: { authorization: basic },
      body: new URLSearchParams({ grant_type: 'client_credentials' }),
    }).then(({ status }) => status);
  const statuses = await Promise.all(Array.from({ length: 400 }, token));
  assert.deepEqual([...new Set(statuses)], [200]);
});

/** A second request hidden in the body of a first one, for whoever reads its length otherwise. */
const hidden = `GET ${base}/hidden HTTP/1.1\r\nHost: localhost\r\nX: `;
const smuggling: Readonly<Record<string, string>> = {
  'both lengths':
    post('/connect/token', `Content-Length: ${5 + hidden.length}`, 'Transfer-Encoding: chunked') +
    `0\r\n\r\n${hidden}`,
  'both lengths the other way round':
    post('/connect/token', 'Transfer-Encoding: chunked', 'Content-Length: 4') +
    `${hidden.length.toString(16)}\r\n${hidden}\r\n0\r\n\r\n`,
  'two lengths': post('/connect/token', 'Content-Length: 0', `Content-Length: ${hidden.length}`) + hidden,
  'two lengths in one': post('/connect/token', `Content-Length: 0, ${hidden.length}`) + hidden,
  'a length with a sign': post('/connect/token', 'Content-Length: +0') + hidden,
  'a length in hexadecimal': post('/connect/token', 'Content-Length: 0x0') + hidden,
  'a blank before the colon': `${post('/connect/token', 'Content-Length: 5', 'Transfer-Encoding : chunked')}0\r\n\r\n${hidden}`,
  'a folded header': `${post('/connect/token', 'Content-Length: 5', 'Transfer-Encoding:\r\n chunked')}0\r\n\r\n${hidden}`,
  'a coding that is none': `${post('/connect/token', 'Content-Length: 5', 'Transfer-Encoding: xchunked')}0\r\n\r\n${hidden}`,
  'chunked is not the last coding': `${post('/connect/token', 'Transfer-Encoding: chunked, identity')}0\r\n\r\n${hidden}`,
  'two codings':
    post('/connect/token', 'Transfer-Encoding: identity', 'Transfer-Encoding: chunked', 'Content-Length: 5') +
    `0\r\n\r\n${hidden}`,
  'a vertical tab': `${post('/connect/token', 'Content-Length: 5', 'Transfer-Encoding: \vchunked')}0\r\n\r\n${hidden}`,
  'line ends that are none': `${post('/connect/token', 'Content-Length: 5', 'X: y\nTransfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
  'a carriage return alone': `${post('/connect/token', 'Content-Length: 5', 'X: y\rTransfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
  'a size of a chunk that overflows': `${post('/connect/token', 'Transfer-Encoding: chunked')}10000000000000000\r\n\r\n0\r\n\r\n${hidden}`,
  'a chunk that is longer than it says': `${post('/connect/token', 'Transfer-Encoding: chunked')}1\r\naX\r\n0\r\n\r\n${hidden}`,
  'a size of a chunk with an underscore': `${post('/connect/token', 'Transfer-Encoding: chunked')}0_0\r\n\r\n${hidden}`,
  'an empty header': `${post('/connect/token', 'Content-Length: 5', ': x', 'Transfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
  'a body of a GET': get('/', `Content-Length: ${hidden.length}`) + hidden,
};

test('of a request whose length can be read in two ways there is no second one to be found in it', async (t) => {
  const { port, server } = await start(t);
  for (const [way, request] of Object.entries(smuggling)) {
    // Whoever comes next over the same connection to the server would finish the hidden request.
    const answer = await open(t, port, `${request}y\r\n\r\n${get('/', 'Connection: close')}`).ended;
    assert.doesNotMatch(server.logText(), /hidden/, way);
    assert.doesNotMatch(answer, /^HTTP\/1\.1 5/, way);
  }
  await answersOthers(server);
  assert.deepEqual(errorsOf(server), []);
});

test('nor behind nginx, whose connections many users share', async (t) => {
  const publicPort = await findFreePort();
  const { port, server } = await start(t, {}, publicPort);
  await startNginx(t, { nodePorts: [port, port], port: publicPort });
  for (const [way, request] of Object.entries(smuggling)) {
    const socket = connectTls({
      port: publicPort,
      host: '127.0.0.1',
      servername: 'localhost',
      rejectUnauthorized: false,
    });
    // nginx waits for the rest of a body that does not come for longer than a test does.
    setTimeout(() => socket.end(), 700).unref();
    await open(t, publicPort, `${request}y\r\n\r\n${get('/', 'Connection: close')}`, socket).ended;
    const lines = server.lines.filter((line) => line.includes('hidden'));
    // nginx may well take what follows for a request of the same user: then it is one for both.
    assert.deepEqual(lines, [], way);
  }
  const response = await fetch(`${server.url}${base}/.well-known/jwks`);
  assert.equal(response.status, 200);
});

test('limits of the listener that contradict each other are refused', async (t) => {
  const { configDirectory } = await prepareConfiguration(t, {
    server: { Listener: { HeadersTimeoutSeconds: 30, RequestTimeoutSeconds: 10 } },
  });
  await assert.rejects(loadConfiguration(configDirectory, { env: {} }), (err: { issues: object[] }) => {
    assert.match(
      JSON.stringify(err.issues),
      /RequestTimeoutSeconds","message":"must not be less than HeadersTimeoutSeconds/,
    );
    return true;
  });
});
