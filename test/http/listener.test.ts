/** TLS without a proxy, certificates that are renewed while the server runs, and stops that lose nothing. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, utimesSync } from 'node:fs';
import { get as getPlain, Agent as PlainAgent } from 'node:http';
import { Agent, get } from 'node:https';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'node:tls';
import { loadConfiguration } from '../../src/config/load.ts';
import { ConfigurationError } from '../../src/errors.ts';
import { install } from '../commands/postern.ts';
import { findFreePort, prepareConfiguration, startTestServer } from '../support/start-server.ts';

const fixture = (name: string) => join(import.meta.dirname, '../fixtures/tls', name);
const text = (name: string) => readFileSync(fixture(name), 'utf8');
const tls = { CertificateFile: 'tls.pem', KeyFile: 'tls-key.pem' };
const files = { 'tls.pem': text('localhost.pem'), 'tls-key.pem': text('key.pem') };

async function startTlsServer(t: TestContext, more: Record<string, unknown> = {}) {
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: {
      PublicUrl: `https://localhost:${port}/SPSSMR/Oidc`,
      Listener: { Host: '127.0.0.1', Port: port, Tls: tls },
      ...more,
    },
    files,
  });
  return { port, server };
}

/** The name in the certificate that the port shows. */
function nameAt(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', servername: 'localhost', rejectUnauthorized: false });
    socket.once('secureConnect', () => {
      resolve(String(socket.getPeerCertificate().subject.CN));
      socket.destroy();
    });
    socket.once('error', reject);
  });
}

test('with Listener.Tls it serves https itself, and takes up a certificate that is renewed in its files', async (t) => {
  const { port, server } = await startTlsServer(t);
  assert.equal(server.url, `https://127.0.0.1:${port}`);
  const agent = new Agent({ ca: text('root.pem') });
  t.after(() => agent.destroy());
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const url = `${server.issuer}/.well-known/openid-configuration`;
    get(url, { agent }, (response) => resolve(response.resume().statusCode)).once('error', reject);
  });
  assert.equal(status, 200);
  assert.equal(await nameAt(port), 'localhost');

  const file = join(dirname(server.configDirectory), 'tls.pem');
  copyFileSync(fixture('elsewhere.pem'), file);
  utimesSync(file, new Date(), new Date());
  for (let attempt = 0; attempt < 50 && (await nameAt(port)) === 'localhost'; attempt += 1) await sleep(200);
  assert.equal(await nameAt(port), 'elsewhere.example');
  assert.ok(server.logged.some(({ msg }) => msg === 'certificate for TLS renewed'));
});

test('a half-written certificate leaves the one in use', async (t) => {
  const { port, server } = await startTlsServer(t);
  server.write('../tls.pem', 'half a certificate');
  for (let attempt = 0; attempt < 50 && !server.logText().includes('cannot be renewed'); attempt += 1)
    await sleep(200);
  assert.match(server.logText(), /cannot be renewed/);
  assert.equal(await nameAt(port), 'localhost');
});

test('TLS needs an https PublicUrl, and files that can be read', async (t) => {
  const { configDirectory } = await prepareConfiguration(t, {
    server: { Listener: { Port: 5080, Tls: tls } },
  });
  await assert.rejects(loadConfiguration(configDirectory, { env: {} }), (err: unknown) => {
    assert.ok(err instanceof ConfigurationError);
    const issues = err.issues.map(({ path, message }) => `${path} ${message}`).join('\n');
    assert.match(issues, /Listener\.Tls needs a PublicUrl that begins with https/);
    assert.match(issues, /Listener\.Tls\.KeyFile .*there is no such file/);
    return true;
  });
});

test('a stop serves on for its delay, not ready; then it ends the connections that are kept, one answer each', async (t) => {
  const management = await findFreePort();
  const installation = await install(t, {
    server: { ShutdownDelaySeconds: 2, Management: { Port: management } },
  });
  const server = installation.spawn(['start']);
  await server.waitFor(/listening/);
  const ready = async () => (await fetch(`http://127.0.0.1:${management}/health/ready`)).status;
  assert.equal(await ready(), 200);
  const kept = new PlainAgent({ keepAlive: true });
  t.after(() => kept.destroy());
  const ask = (agent: PlainAgent | false) =>
    new Promise<string>((resolve) => {
      getPlain(`${installation.issuer}/.well-known/jwks`, { agent }, (response) => {
        response.resume().once('end', () => resolve(`${response.statusCode} ${response.headers.connection}`));
      }).once('error', ({ message }) => resolve(message));
    });
  assert.equal(await ask(kept), '200 keep-alive');

  server.child.kill('SIGTERM');
  await server.waitFor(/stopping/);
  assert.equal(await ready(), 503);
  assert.equal(await ask(kept), '200 keep-alive');
  while (!(await ask(false)).includes('ECONNREFUSED')) await sleep(50);
  assert.equal(await ask(kept), '200 close', 'the connection that was kept');
  assert.match(await ask(kept), /ECONNREFUSED/);
  assert.equal((await server.finish()).code, 0);
});

test('a stop ends requests that never end after ShutdownTimeoutSeconds', async (t) => {
  const installation = await install(t, { server: { ShutdownTimeoutSeconds: 1 } });
  const server = installation.spawn(['start']);
  await server.waitFor(/listening/);
  const { port } = new URL(installation.issuer);
  const { connect: connectPlain } = await import('node:net');
  const socket = connectPlain(Number(port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    'POST /SPSSMR/Oidc/connect/token HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc',
  );
  await sleep(300);
  const startedAt = performance.now();
  server.child.kill('SIGTERM');
  assert.equal((await server.finish()).code, 0);
  assert.ok(performance.now() - startedAt < 5000);
});

test('a stop waits no longer for a connection that never begins to speak TLS', async (t) => {
  const { port, server } = await startTlsServer(t, { ShutdownTimeoutSeconds: 1 });
  const { connect: connectPlain } = await import('node:net');
  const socket = connectPlain(port, '127.0.0.1');
  socket.on('error', () => {});
  await sleep(200);
  const startedAt = performance.now();
  await server.stop();
  assert.ok(performance.now() - startedAt < 5000);
});
