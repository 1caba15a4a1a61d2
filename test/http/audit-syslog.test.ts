/** The audit log at a syslog collector: real ones over TLS, TCP and UDP, that go away and come back. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer as createTlsServer } from 'node:tls';
import { createAudit } from '../../src/audit.ts';
import { createLogger } from '../../src/log.ts';
import { openSyslog, type SyslogTarget } from '../../src/syslog.ts';
import { install } from '../commands/postern.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const fixtures = join(import.meta.dirname, '../fixtures/tls');
const fixture = (name: string) => readFileSync(join(fixtures, name), 'utf8');

interface Received {
  priority: number;
  time: string;
  messageId: string;
  event: Record<string, unknown>;
}

/** Reads RFC 5424 as strictly as it is written. */
function parseRecord(text: string): Received {
  const match =
    /^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) ([!-~]{1,255}) postern - ([!-~]{1,32}) - ([\0-\x7f]+)$/.exec(
      text,
    );
  assert.ok(match, text);
  const [, priority, time = '', , messageId = '', message = ''] = match;
  return { priority: Number(priority), time, messageId, event: JSON.parse(message) };
}

interface Collector {
  readonly port: number;
  readonly received: Received[];
  until(count: number): Promise<void>;
  /** Ends every connection and listens no more. */
  leave(): Promise<void>;
}

/** Takes octet-counted frames; `port` where it is to be one that was there before. */
async function startCollector(
  t: TestContext,
  { port = 0, isTls = false }: { port?: number; isTls?: boolean } = {},
): Promise<Collector> {
  const received: Received[] = [];
  const sockets = new Set<Socket>();
  const take = (socket: Socket) => {
    sockets.add(socket);
    let buffered = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      buffered = Buffer.concat([buffered, chunk as Buffer]);
      for (;;) {
        const [head, length = ''] = /^([1-9]\d*) /.exec(buffered.toString('latin1', 0, 12)) ?? [];
        if (head === undefined || buffered.length < head.length + Number(length)) return;
        received.push(parseRecord(buffered.toString('utf8', head.length, head.length + Number(length))));
        buffered = buffered.subarray(head.length + Number(length));
      }
    });
  };
  const server: Server = isTls
    ? createTlsServer({ key: fixture('key.pem'), cert: fixture('localhost.pem') }, take)
    : createTcpServer(take);
  if (isTls) server.on('tlsClientError', () => {});
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const leave = async () => {
    for (const socket of sockets) socket.destroy();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  };
  t.after(leave);
  return {
    port: (server.address() as { port: number }).port,
    received,
    leave,
    async until(count) {
      while (received.length < count) await sleep(10);
    },
  };
}

const toSyslog = (settings: Record<string, unknown>) => ({
  Audit: { To: 'syslog', Syslog: { Host: 'localhost', ...settings } },
});
const batchToken = (issuer: string, secret = 'batch-secret') =>
  post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', secret));

test('a collector behind TLS gets every event, with facility, severity and kind, and no secret', async (t) => {
  const collector = await startCollector(t, { isTls: true });
  const server = await startTestServer(t, {
    server: toSyslog({ Port: collector.port, CaFile: 'root.pem', Facility: 'local3' }),
    files: { 'root.pem': fixture('root.pem') },
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  await batchToken(server.issuer, 'no-secret');
  await server.stop();
  while (collector.received.at(-1)?.event.message !== 'stopping') await sleep(10);
  const found = (event: string, outcome: string) =>
    collector.received.find((one) => one.messageId === event && one.event.outcome === outcome);
  const signIn = found('sign-in', 'success');
  assert.equal(signIn?.priority, 19 * 8 + 6);
  assert.equal(signIn?.time, signIn?.event.time);
  assert.deepEqual([signIn?.event.accountId, signIn?.event.event], ['alice', 'sign-in']);
  assert.equal(found('token', 'refused')?.priority, 19 * 8 + 5);
  const all = JSON.stringify(collector.received);
  for (const secret of ['Pass-word-1', 'no-secret', 'mvc-secret', body.access_token, body.id_token]) {
    assert.ok(secret);
    assert.ok(!all.includes(secret));
  }
});

test('a collector that cannot prove its name gets nothing, and the log says why', async (t) => {
  const collector = await startCollector(t, { isTls: true });
  const [port, management] = [collector.port, await findFreePort()];
  const server = await startTestServer(t, {
    server: { ...toSyslog({ Port: port, CaFile: 'ca.pem' }), Management: { Port: management } },
    files: { 'ca.pem': fixture('elsewhere.pem') },
  });
  const said = () => server.logged.find(({ msg }) => String(msg).startsWith('audit collector not reached'));
  while (said() === undefined) await sleep(10);
  assert.match(JSON.stringify(said()), /self.signed|unable to (get|verify)|certificate/i);
  assert.deepEqual(collector.received, []);
  const ready = await fetch(`http://127.0.0.1:${management}/health/ready`);
  assert.equal(ready.status, 200, 'nobody has to wait for a collector');
});

test('while a collector is away events wait in their order, and none is missing when it is back', async (t) => {
  const first = await startCollector(t);
  const { port } = first;
  await first.leave();
  const server = await startTestServer(t, { server: toSyslog({ Port: port, Protocol: 'tcp' }) });
  for (let time = 0; time < 3; time += 1) assert.equal((await batchToken(server.issuer)).status, 200);
  while (!server.logged.some(({ msg }) => String(msg).startsWith('audit collector not reached')))
    await sleep(10);
  const second = await startCollector(t, { port });
  await second.until(4);
  assert.deepEqual(
    second.received.map(({ messageId }) => messageId),
    ['server', 'token', 'token', 'token'],
  );

  await second.leave();
  while (server.logged.filter(({ msg }) => String(msg).startsWith('audit collector')).length < 2)
    await sleep(10);
  const third = await startCollector(t, { port });
  // One after the other until a connection has been seen to be gone: what the system took then is lost.
  while (third.received.length === 0) {
    await batchToken(server.issuer);
    await sleep(100);
  }
  assert.ok(third.received.every(({ messageId }) => messageId === 'token'));
  const said = server.logged.map(({ msg }) => msg).filter((msg) => /^audit collector/.test(String(msg)));
  assert.deepEqual(said.slice(0, 2), [
    'audit collector not reached; records wait in memory',
    'audit collector reached again',
  ]);
});

test('over UDP an event is a datagram', async (t) => {
  const socket = createSocket('udp4');
  const received: Received[] = [];
  socket.on('message', (message) => received.push(parseRecord(message.toString())));
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.after(() => socket.close());
  const server = await startTestServer(t, {
    server: toSyslog({ Host: '127.0.0.1', Port: socket.address().port, Protocol: 'udp' }),
  });
  await batchToken(server.issuer);
  while (received.length < 2) await sleep(10);
  assert.deepEqual(
    received.map(({ messageId, priority }) => [messageId, priority]),
    [
      ['server', 10 * 8 + 6],
      ['token', 10 * 8 + 6],
    ],
  );
});

test('a command sends what it did before it ends, and says where it could not', async (t) => {
  const collector = await startCollector(t);
  const { run } = await install(t, { server: toSyslog({ Port: collector.port, Protocol: 'tcp' }) });
  assert.equal((await run(['migrate'])).code, 0);
  assert.equal(collector.received.length, 0, 'who has nothing to say does not call');
  const added = await run(['account', 'add', 'zoe', '--no-password']);
  assert.equal(added.stderr, '');
  await collector.until(1);
  const event = collector.received[0]?.event ?? {};
  assert.deepEqual([event.accountId, event.message], ['zoe', 'account added']);
  assert.notEqual(event.actor, undefined);

  await collector.leave();
  const alone = await run(['account', 'disable', 'zoe']);
  assert.equal(alone.code, 0);
  assert.match(alone.stderr, /audit records are lost: the collector has not taken them/);
});

function openSmall(t: TestContext, target: Pick<SyslogTarget, 'port'>) {
  const lines: string[] = [];
  let dropped = 0;
  const log = createLogger({
    level: 'info',
    format: 'json',
    destination: { write: (line) => void lines.push(String((JSON.parse(line) as { msg: string }).msg)) },
  });
  const syslog = openSyslog(
    { host: '127.0.0.1', protocol: 'tcp', facility: 'audit', ...target },
    {
      log,
      onDropped: (count) => {
        dropped += count;
      },
      capacity: { records: 3, bytes: 1000 },
      stopTimeoutMs: 50,
    },
  );
  t.after(() => syslog[Symbol.asyncDispose]());
  const write = (message: unknown) =>
    syslog.write({
      severity: 'info',
      time: '2027-01-01T00:00:00Z',
      messageId: 'token',
      message: JSON.stringify(message),
    });
  return { syslog, write, lines, dropped: () => dropped };
}

test('more than fits is dropped, counted and said once; the first ones are kept', async (t) => {
  const port = await findFreePort();
  const { dropped, lines, write } = openSmall(t, { port });
  write('x'.repeat(2000));
  assert.equal(dropped(), 1, 'neither too many bytes');
  for (let number = 1; number <= 5; number += 1) write(number);
  assert.equal(dropped(), 3, 'nor too many records');
  const collector = await startCollector(t, { port });
  await collector.until(3);
  assert.deepEqual(
    collector.received.map(({ event }) => event),
    [1, 2, 3] as unknown[],
  );
  while (!lines.includes('audit collector has all that waited; records were dropped')) await sleep(10);
  assert.equal(lines.filter((line) => line === 'audit records are dropped').length, 1);
});

test('a stop does not wait for a collector that is away, and counts what is lost by it', async (t) => {
  const { dropped, lines, syslog, write } = openSmall(t, { port: await findFreePort() });
  write(1);
  write(2);
  await syslog[Symbol.asyncDispose]();
  assert.equal(dropped(), 2);
  assert.equal(lines.at(-1), 'audit records are lost: the collector has not taken them');
});

test('the metrics have what was lost', async (t) => {
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: { Audit: { To: 'folder', Folder: 'blocked/audit' }, Management: { Port: port } },
    files: { blocked: 'a file where the folder would be' },
  });
  await batchToken(server.issuer);
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  assert.match(text, /^postern_audit_records_dropped_total 2$/m);
});

test('what is not ASCII arrives as JSON says it', async (t) => {
  const collector = await startCollector(t);
  const log = createLogger({ level: 'silent', format: 'json' });
  const audit = createAudit({
    ...{ log, now: () => 1_800_000_000, to: 'syslog', folder: '', keepDays: 1 },
    syslog: { host: '127.0.0.1', port: collector.port, protocol: 'tcp', facility: 'audit' },
  });
  audit.record(['sign-in', 'failed'], { windowsName: 'EXAMPLE\\Grüße 👋' }, 'not\nsaid');
  await audit[Symbol.asyncDispose]();
  await collector.until(1);
  const { event = {}, priority } = collector.received[0] ?? {};
  assert.deepEqual(
    [event.windowsName, event.message, priority],
    ['EXAMPLE\\Grüße 👋', 'not\nsaid', 13 * 8 + 4],
  );
});

test('a collector without syslog, and syslog without a collector, are refused', async (t) => {
  const { run, write, read } = await install(t, { server: { Audit: { To: 'syslog' } } });
  assert.match((await run(['check-config'])).stderr, /Audit\.Syslog: is required where To is syslog/);
  const settings = JSON.parse(await read('config/server.json')) as Record<string, unknown>;
  const check = async (audit: Record<string, unknown>) => {
    await write('config/server.json', JSON.stringify({ ...settings, Audit: audit }));
    return (await run(['check-config'])).stderr;
  };
  const Syslog = { Host: 'logs.example.com' };
  assert.match(await check({ To: 'folder', Syslog }), /Audit\.Syslog: is there, but To is not syslog/);
  assert.match(
    await check({ To: 'syslog', Syslog: { ...Syslog, Protocol: 'tcp', CaFile: 'config/server.json' } }),
    /Audit\.Syslog\.CaFile: is for Protocol tls[\s\S]*holds no certificate/,
  );
  assert.equal(await check({ To: 'syslog', Syslog }), '');
});
