/** Forms that are answered ahead of the application, and those that only look as if they were. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { basic, post } from '../support/sign-in.ts';
import { findFreePort, startTestServer, type TestServer } from '../support/start-server.ts';

const formType = 'application/x-www-form-urlencoded';
const batch = basic('batch', 'batch-secret');
const webApi = basic('intelligence_web_api', 'web-api-secret');
const plain = 'grant_type=client_credentials&scope=intelligence_web_api';

interface Sent {
  path?: string;
  headers?: Record<string, string>;
  /** Each is a chunk of its own; a single one has its length said. */
  body: readonly string[];
}

async function send(
  { issuer }: TestServer,
  { body, headers = {}, path = '/connect/token' }: Sent,
): Promise<{ status: number; answer: Record<string, unknown>; headers: Record<string, unknown> }> {
  const sending = request(`${issuer}${path}`, {
    method: 'POST',
    headers: {
      'content-type': formType,
      ...(body.length === 1 ? { 'content-length': Buffer.byteLength(body[0] ?? '') } : undefined),
      ...headers,
    },
  });
  const responding = once(sending, 'response');
  for (const part of body) {
    sending.write(part);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  sending.end();
  const [response] = await responding;
  const answered = await text(response);
  return {
    status: response.statusCode,
    answer: answered === '' ? {} : JSON.parse(answered),
    headers: response.headers,
  };
}

/** How many wrong secrets are counted for a client. */
async function failuresOf({ context }: TestServer, clientId: string): Promise<number> {
  const rows = await context.db
    .knex('OidcGuess')
    .where({ subject: context.guessing.subjectOf('client', clientId) })
    .select('failures');
  return Math.max(0, ...rows.map(({ failures }) => Number(failures)));
}

test('a body that comes in pieces, or under another name of its type, is the same form', async (t) => {
  const server = await startTestServer(t);
  const types = [formType, `${formType};charset=UTF-8`, `${formType}; charset=utf-8`, formType.toUpperCase()];
  for (const type of types) {
    for (const body of [[plain], [plain.slice(0, 9), plain.slice(9, 30), plain.slice(30)]]) {
      const { answer, headers, status } = await send(server, {
        body,
        headers: { ...batch, 'content-type': type },
      });
      assert.equal(status, 200, type);
      assert.equal(answer.scope, 'intelligence_web_api');
      assert.equal(headers['cache-control'], 'no-store');
      assert.match(String(headers['x-request-id']), /^[0-9a-f]{12}$/);
    }
  }
});

test('what is wrong with a form is told by the application, which reads it anew', async (t) => {
  const server = await startTestServer(t);
  const cases: [Sent, number, string][] = [
    [{ body: [`${plain}&scope=openid`], headers: batch }, 400, 'invalid_request'],
    [{ body: [`${plain}&resource=urn:postern:resource:mi`], headers: batch }, 400, 'invalid_target'],
    [{ body: ['grant_type=client_credentials&scope=nonsense'], headers: batch }, 400, 'invalid_scope'],
    [{ body: ['grant_type=client_credentials&scope=%20mi'], headers: batch }, 400, 'invalid_scope'],
    [{ body: [plain.slice(0, 20), plain.slice(20), '&scope=mi'], headers: batch }, 400, 'invalid_request'],
    [{ body: ['grant_type=magic'], headers: batch }, 400, 'unsupported_grant_type'],
    [{ body: ['grant_type=password'], headers: batch }, 400, 'unauthorized_client'],
    [{ body: [`${plain}&client_id=mvc`], headers: batch }, 400, 'invalid_request'],
    [{ body: [`${plain}&client_secret=batch-secret`], headers: batch }, 400, 'invalid_request'],
    [{ body: [`${plain}&client_id=nobody&client_secret=x`] }, 401, 'invalid_client'],
    [{ body: [plain] }, 401, 'invalid_client'],
    [{ body: [plain], headers: { ...batch, 'content-type': 'application/json' } }, 400, 'invalid_request'],
    [{ body: ['{}'], headers: { ...batch, 'content-type': 'text/plain' } }, 400, 'invalid_request'],
    [{ body: ['token=a&token=b'], headers: webApi, path: '/connect/introspect' }, 400, 'invalid_request'],
    [{ body: ['token='], headers: webApi, path: '/connect/introspect' }, 400, 'invalid_request'],
    [{ body: ['token=a'], path: '/connect/introspect' }, 401, 'invalid_client'],
    [{ body: ['token=a'], headers: basic('x', 'y'), path: '/connect/introspect' }, 401, 'invalid_client'],
  ];
  for (const [sent, status, error] of cases) {
    const answered = await send(server, sent);
    assert.deepEqual([answered.status, answered.answer.error], [status, error], JSON.stringify(sent));
    assert.equal(answered.answer.access_token, undefined);
  }
});

test('a body is read no further than is usual, said or not', async (t) => {
  const server = await startTestServer(t);
  const limit = 56 * 1024;
  const fill = (size: number) => `${plain}&client_id=batch&x=`.padEnd(size, 'x');
  for (const chunked of [false, true]) {
    const cut = (body: string) => (chunked ? [body.slice(0, 30_000), body.slice(30_000)] : [body]);
    assert.equal((await send(server, { body: cut(fill(limit)), headers: batch })).status, 200);
    const { answer, status } = await send(server, { body: cut(fill(limit + 1)), headers: batch });
    assert.deepEqual([status, answer.error], [413, 'invalid_request']);
  }
});

test('documents are told of by their route, and nothing of a query is', async (t) => {
  const management = await findFreePort();
  const server = await startTestServer(t, { server: { Management: { Port: management } } });
  const path = '/.well-known/openid-configuration';
  for (const address of [path, `${path}?secret=hunter2`, path.toUpperCase()]) {
    assert.equal((await fetch(server.issuer + address)).status, 200);
  }
  assert.ok(!server.logText().includes('hunter2'));
  const metrics = await (await fetch(`http://127.0.0.1:${management}/metrics`)).text();
  const counted = /^postern_http_request_duration_seconds_count\{route="(\S+?)",method="GET",\S+\} (\d+)$/gm;
  const routes = [...metrics.matchAll(counted)].map(([, route, count]) => [route, count]);
  assert.deepEqual(routes, [['/.well-known/openid-configuration', '3']]);
});

test('what is left of the body of a request for a document is not read', async (t) => {
  const server = await startTestServer(t);
  const { hostname, pathname, port } = new URL(`${server.issuer}/.well-known/jwks`);
  for (const framing of ['Content-Length: 1000000', 'Transfer-Encoding: chunked']) {
    const socket = connect(Number(port), hostname);
    socket.write(`GET ${pathname} HTTP/1.1\r\nHost: x\r\n${framing}\r\n\r\n5\r\n`);
    const answered = await text(socket);
    assert.match(answered, /^HTTP\/1\.1 200 /);
    assert.match(answered, /^Connection: close\r$/m);
  }
});

test('a client without scopes gets the same token whichever way it asks', async (t) => {
  const server = await startTestServer(t, { clients: { batch: { AllowedScopes: [] } } });
  const answers = [];
  for (const accept of ['*/*', 'application/json, text/plain, */*']) {
    for (const body of ['grant_type=client_credentials', 'grant_type=client_credentials&scope=']) {
      const { answer } = await send(server, { body: [body], headers: { ...batch, accept } });
      const { scope } = decodeJwt(String(answer.access_token));
      answers.push([answer.scope, scope]);
    }
  }
  assert.deepEqual(answers, Array(4).fill([undefined, []]));
});

test('a body that ends in the middle is no failure of the server', async (t) => {
  const server = await startTestServer(t);
  const { hostname, pathname, port } = new URL(`${server.issuer}/connect/token`);
  for (let round = 0; round < 3; round += 1) {
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    const { authorization } = batch;
    const head = `POST ${pathname} HTTP/1.1\r\nHost: x\r\nAuthorization: ${authorization}\r\nContent-Type: ${formType}`;
    socket.write(`${head}\r\nContent-Length: 70\r\n\r\ngrant_type=client_cred`);
    await new Promise((resolve) => setTimeout(resolve, 30));
    socket.destroy();
  }
  assert.equal((await send(server, { body: [plain], headers: batch })).status, 200);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const loud = server.logged.filter(({ level }) => level === 'error' || level === 'warn');
  assert.deepEqual(
    loud.filter(({ msg }) => String(msg).includes('request')),
    [],
  );
});

test('a wrong secret is counted once, whichever way it comes, and a right one not at all', async (t) => {
  const server = await startTestServer(t);
  const form = { grant_type: 'client_credentials', scope: 'intelligence_web_api' };
  const url = `${server.issuer}/connect/token`;
  const introspect = `${server.issuer}/connect/introspect`;
  const ways: (() => Promise<{ status: number }>)[] = [
    () => post(url, form, basic('batch', 'wrong')),
    () => post(url, { ...form, client_id: 'batch', client_secret: 'wrong' }),
    () => post(introspect, { token: 'a' }, basic('batch', 'wrong')),
    () => post(introspect, { token: 'a', client_id: 'batch', client_secret: 'wrong' }),
  ];
  for (const [index, way] of ways.entries()) {
    assert.equal((await way()).status, 401);
    assert.equal(await failuresOf(server, 'batch'), index + 1);
  }
  assert.equal((await post(url, form, batch)).status, 200);
  assert.equal(await failuresOf(server, 'batch'), ways.length);
  assert.equal((await post(url, form, basic('nobody', 'wrong'))).status, 401);
  assert.equal(await failuresOf(server, 'nobody'), 1);
});

test('where too many wrong secrets have come a right one has to wait on the plain way, too', async (t) => {
  const server = await startTestServer(t, { now: frozenClock() });
  const form = { grant_type: 'client_credentials', scope: 'intelligence_web_api' };
  const url = `${server.issuer}/connect/token`;
  for (let guess = 0; guess < 10; guess += 1) await post(url, form, basic('batch', `wrong-${guess}`));
  const blocked = await post(url, form, batch);
  assert.deepEqual([blocked.status, blocked.headers.get('retry-after')], [401, '1']);
  const { headers } = await post(`${server.issuer}/connect/introspect`, { token: 'a' }, batch);
  assert.equal(headers.get('retry-after'), '1');
});

function frozenClock(): () => number {
  const now = Math.floor(Date.now() / 1000);
  return () => now;
}

test('a script of another origin, and who wants a signed answer, are served as ever', async (t) => {
  const origin = 'https://app.example';
  const server = await startTestServer(t, { clients: { batch: { AllowedCorsOrigins: [origin] } } });
  const { headers } = await send(server, { body: [plain], headers: { ...batch, origin } });
  assert.equal(headers['access-control-allow-origin'], origin);

  const accepts = [
    'application/token-introspection+jwt',
    'application/json, application/token-introspection+jwt',
  ];
  for (const [index, accept] of accepts.entries()) {
    const response = await fetch(`${server.issuer}/connect/introspect`, {
      method: 'POST',
      body: new URLSearchParams({ token: 'a' }),
      headers: { ...webApi, accept },
    });
    assert.match(response.headers.get('content-type') ?? '', index === 0 ? /introspection\+jwt/ : /json/);
  }
});
