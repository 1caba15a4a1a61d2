/** Traces at a collector: a real one of OTLP/HTTP, in JSON. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { request as askTls } from 'node:https';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger } from '../../src/log.ts';
import { createTracing } from '../../src/tracing.ts';
import { startNginx } from '../support/nginx.ts';
import { authorize, basic, mvc, post } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly { key: string; value: Record<string, unknown> }[];
  readonly status: { code?: number };
}

interface Export {
  readonly resourceSpans: readonly {
    resource: { attributes: Span['attributes'] };
    scopeSpans: readonly { scope: { name: string }; spans: readonly Span[] }[];
  }[];
}

/** Takes spans, and answers with the status that the test has set. */
async function startCollector(t: TestContext, port = 0) {
  const texts: string[] = [];
  const collector = {
    status: 200,
    asked: [] as { path: string | undefined; headers: IncomingHttpHeaders }[],
  };
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    collector.asked.push({ path: request.url, headers: request.headers });
    if (collector.status === 200) texts.push(Buffer.concat(chunks).toString());
    response.writeHead(collector.status, { 'content-type': 'application/json' }).end('{}');
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const leave = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  t.after(leave);
  const exported = () => texts.map((text) => JSON.parse(text) as Export);
  return Object.assign(collector, {
    port: (server.address() as AddressInfo).port,
    text: () => texts.join('\n'),
    exported,
    leave,
    spans: () =>
      exported().flatMap(({ resourceSpans }) =>
        resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)),
      ),
  });
}

const toCollector = (port: number, more: Record<string, unknown> = {}) => ({
  Tracing: { Endpoint: `http://localhost:${port}/v1/traces`, ...more },
});

const attribute = ({ attributes }: Span, name: string) => {
  const value = attributes.find(({ key }) => key === name)?.value ?? {};
  return Object.values(value)[0];
};
const batch = (issuer: string, headers: Record<string, string> = {}) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    {
      ...basic('batch-ref', 'batch-ref-secret'),
      ...headers,
    },
  );
const parent = { traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331' };
const traceparent = (flags = '01') => `00-${parent.traceId}-${parent.spanId}-${flags}`;

test('a sign-in is a trace for each request, with its statements and its password, and without anything secret', async (t) => {
  const collector = await startCollector(t);
  const server = await startTestServer(t, {
    server: { ...toCollector(collector.port, { ServiceName: 'sso' }), Audit: { To: 'folder' } },
  });
  const { issuer } = server;
  const attempt = await authorize({
    ...{ issuer, ...mvc, scope: `${mvc.scope} offline_access` },
    parameters: { nonce: 'a-nonce-of-the-client', state: 'a-state-of-the-client' },
  });
  const forms = [...attempt.page.body.matchAll(/value="([^"]{16,})"/g)].map(([, value]) => value ?? '');
  const back = await attempt.signIn();
  const { body } = await attempt.redeem(back);
  assert.ok(body.refresh_token);
  await fetch(`${issuer}/connect/userinfo`, { headers: { authorization: `Bearer ${body.access_token}` } });
  const introspected = await post(
    `${issuer}/connect/introspect`,
    { token: body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.equal(introspected.status, 200);
  const audit = readdirSync(join(dirname(server.configDirectory), 'data/audit'))
    .map((name) => readFileSync(join(dirname(server.configDirectory), 'data/audit', name), 'utf8'))
    .join('');
  await server.stop();

  const spans = collector.spans();
  const roots = spans.filter(({ parentSpanId }) => parentSpanId === undefined);
  const named = (name: string) => roots.find((span) => span.name === name);
  for (const name of [
    'GET /connect/authorize',
    'POST /login/',
    'POST /connect/token',
    'GET /connect/userinfo',
  ]) {
    const root = named(name);
    assert.ok(root, `${name}: ${roots.map((span) => span.name)}`);
    assert.equal(root.kind, 2);
    assert.match(root.traceId, /^(?!0{32})[0-9a-f]{32}$/);
    assert.match(root.spanId, /^(?!0{16})[0-9a-f]{16}$/);
    assert.ok(BigInt(root.startTimeUnixNano) <= BigInt(root.endTimeUnixNano));
    assert.ok(Math.abs(Number(BigInt(root.startTimeUnixNano) / 1_000_000n) - Date.now()) < 600_000);
  }
  assert.equal(attribute(named('POST /connect/token') as Span, 'http.response.status_code'), '200');
  const children = (name: string) => spans.filter(({ parentSpanId }) => parentSpanId === named(name)?.spanId);
  const statements = children('POST /connect/token');
  assert.ok(statements.length >= 5, JSON.stringify(statements));
  for (const statement of statements) {
    assert.equal(statement.traceId, named('POST /connect/token')?.traceId);
    assert.equal(statement.kind, 3);
    assert.equal(attribute(statement, 'db.system.name'), 'sqlite');
    assert.match(
      String(attribute(statement, 'db.query.text')),
      /^(select|insert|update|delete)\b.*`Oidc\w+`/,
    );
  }
  assert.ok(statements.some(({ name }) => name === 'insert OidcToken'));
  assert.ok(children('POST /login/').some(({ name }) => name === 'hash password'));
  const [exported] = collector.exported();
  assert.deepEqual(exported?.resourceSpans[0]?.resource.attributes[0], {
    key: 'service.name',
    value: { stringValue: 'sso' },
  });
  assert.equal(collector.asked[0]?.path, '/v1/traces');
  assert.equal(collector.asked[0]?.headers['content-type'], 'application/json');

  const text = collector.text();
  const cookies = attempt.browser.cookies().map(({ value }) => value);
  assert.ok(cookies.length > 0 && forms.length > 0);
  const code = back.location?.searchParams.get('code') ?? '';
  const uid = new URL(attempt.page.url).pathname.split('/').at(-1) ?? '';
  const secrets = [
    ...['Pass-word-1', 'mvc-secret', 'web-api-secret', 'a-nonce-of-the-client', 'a-state-of-the-client'],
    ...[
      body.access_token,
      body.refresh_token,
      body.id_token,
      code,
      attempt.verifier,
      uid,
      ...cookies,
      ...forms,
    ],
  ];
  for (const secret of secrets) {
    assert.ok(secret.length > 5, `${secrets}`);
    assert.ok(!text.includes(secret), secret);
    assert.ok(!text.includes(encodeURIComponent(secret)), secret);
  }
  assert.doesNotMatch(text, /alice|Ashworth|\?[\w.]+=|Bearer |Basic /i);

  const traceIds = new Set(spans.map(({ traceId }) => traceId));
  const logged = server.logged.find(({ msg }) => msg === 'login finished');
  assert.ok(traceIds.has(String(logged?.traceId)), 'the log leads to the trace');
  const recorded = audit.split('\n').find((line) => line.includes('"event":"sign-in"')) ?? '{}';
  const { requestId, traceId } = JSON.parse(recorded) as { requestId: string; traceId: string };
  assert.equal(traceId, logged?.traceId, 'and so does the audit log');
  const request = named('POST /login/') as Span;
  assert.equal(request.traceId, logged?.traceId);
  assert.equal(attribute(request, 'postern.request_id'), requestId);
});

test('a trusted proxy says whose part a request is, and whether it is sampled', async (t) => {
  const collector = await startCollector(t);
  const server = await startTestServer(t, { server: toCollector(collector.port, { SamplingRatio: 0 }) });
  await batch(server.issuer);
  await batch(server.issuer, { traceparent: traceparent('00') });
  await batch(server.issuer, { traceparent: 'ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' });
  await batch(server.issuer, { traceparent: `00-${'0'.repeat(32)}-b7ad6b7169203331-01` });
  await batch(server.issuer, { traceparent: traceparent() });
  await server.stop();
  const roots = collector.spans().filter(({ kind }) => kind === 2);
  assert.deepEqual(
    roots.map(({ traceId, parentSpanId }) => [traceId, parentSpanId]),
    [[parent.traceId, parent.spanId]],
  );
  const issued = server.logged.filter(({ msg }) => msg === 'token issued');
  assert.equal(issued.filter(({ traceId }) => traceId === parent.traceId).length, 2);
  assert.ok(
    issued.every(({ traceId }) => /^[0-9a-f]{32}$/.test(String(traceId))),
    'sampled or not',
  );
});

test('nobody else says whose part a request is', async (t) => {
  const collector = await startCollector(t);
  const Listener = { Host: '127.0.0.1', Port: await findFreePort(), TrustedProxies: ['192.0.2.1'] };
  const strict = await startTestServer(t, { server: { ...toCollector(collector.port), Listener } });
  await post(
    `${strict.url}/SPSSMR/Oidc/connect/token`,
    { grant_type: 'client_credentials' },
    { ...basic('batch-ref', 'batch-ref-secret'), traceparent: traceparent() },
  );
  await strict.stop();
  const roots = collector.spans().filter(({ kind }) => kind === 2);
  assert.ok(roots.length > 0);
  assert.ok(
    roots.every(({ traceId, parentSpanId }) => traceId !== parent.traceId && parentSpanId === undefined),
  );
});

test('nginx, as we ship it, passes on no trace that a stranger has begun', async (t) => {
  const collector = await startCollector(t);
  const [port, publicPort] = [await findFreePort(), await findFreePort()];
  const server = await startTestServer(t, {
    server: {
      ...toCollector(collector.port, { SamplingRatio: 0 }),
      PublicUrl: `https://localhost:${publicPort}/SPSSMR/Oidc`,
      Listener: { Host: '127.0.0.1', Port: port },
    },
  });
  await startNginx(t, { nodePorts: [port, port], port: publicPort });
  const ca = readFileSync(join(import.meta.dirname, '../fixtures/tls/root.pem'));
  const headers = { traceparent: traceparent(), tracestate: 'a=b' };
  const request = askTls(`${server.issuer}/.well-known/jwks`, { ca, headers, agent: false });
  const [response] = (await once(request.end(), 'response')) as [IncomingMessage];
  assert.equal(response.resume().statusCode, 200);
  await server.stop();
  assert.deepEqual(collector.spans(), []);
});

for (const { told, PropagateTo } of [
  { told: true, PropagateTo: ['localhost'] },
  { told: false, PropagateTo: ['*.example.com'] },
]) {
  test(`a call of ours is part of the trace, and a host that is ${told ? '' : 'not '}among PropagateTo learns ${told ? 'of it' : 'nothing'}`, async (t) => {
    const collector = await startCollector(t);
    const verifier = createServer((request, response) => {
      headers.push(request.headers.traceparent);
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"active":false}');
    });
    const headers: unknown[] = [];
    await new Promise<void>((resolve) => verifier.listen(0, '127.0.0.1', resolve));
    t.after(() => {
      verifier.close();
      verifier.closeAllConnections();
    });
    const Url = `http://localhost:${(verifier.address() as AddressInfo).port}/verify`;
    const server = await startTestServer(t, {
      server: {
        ...toCollector(collector.port, { PropagateTo }),
        PasswordVerifier: { Url, Secret: { plain: 'verifier-secret' } },
      },
    });
    const form = { grant_type: 'password', username: 'dora', password: 'Any-pass-word-1', scope: 'openid' };
    await post(`${server.issuer}/connect/token`, form, basic('desk', 'desk-secret'));
    await server.stop();
    const spans = collector.spans();
    const call = spans.find(({ name, kind }) => name === 'POST' && kind === 3);
    assert.ok(call);
    assert.match(String(attribute(call, 'server.address')), /^localhost:\d+$/);
    assert.equal(attribute(call, 'http.response.status_code'), '200');
    const asking = spans.find(({ spanId }) => spanId === call.parentSpanId);
    assert.equal(asking?.name, 'ask password-verifier');
    assert.deepEqual(headers, [told ? `00-${call.traceId}-${call.spanId}-01` : undefined]);
    for (const secret of ['verifier-secret', 'Any-pass-word-1', 'dora', '/verify', 'desk-secret']) {
      assert.ok(!collector.text().includes(secret), secret);
    }
  });
}

test('a request that fails is a span that failed, with the kind of error and not its words', async (t) => {
  const collector = await startCollector(t);
  const server = await startTestServer(t, { server: toCollector(collector.port) });
  await server.context.db.knex.raw('alter table OidcToken rename to Away');
  assert.equal((await batch(server.issuer)).status, 500);
  await server.context.db.knex.raw('alter table Away rename to OidcToken');
  await server.stop();
  const failed = collector.spans().filter(({ status }) => status.code === 2);
  assert.deepEqual(failed.map(({ name }) => name).sort(), ['POST /connect/token', 'insert OidcToken']);
  const insert = failed.find(({ kind }) => kind === 3) as Span;
  assert.match(String(attribute(insert, 'error.type')), /^[\w.-]+$/);
  assert.doesNotMatch(collector.text(), /no such table/);
});

test('spans wait while the collector is away, the log says so once, and no request fails', async (t) => {
  const collector = await startCollector(t);
  const { port } = collector;
  await collector.leave();
  const lines: string[] = [];
  const log = createLogger({
    level: 'info',
    format: 'json',
    destination: { write: (line) => void lines.push(String((JSON.parse(line) as { msg: string }).msg)) },
  });
  let attempts = 0;
  await using tracing = createTracing({
    ...{ log, ratio: 1, resource: { 'service.name': 'x' }, intervalMs: 10, capacity: 3 },
    send: async (body) => {
      attempts += 1;
      const { status } = await fetch(`http://127.0.0.1:${port}/v1/traces`, { method: 'POST', body });
      return status;
    },
  });
  for (let number = 1; number <= 5; number += 1) {
    assert.equal(await tracing.serve({ name: `request ${number}` }, async () => number), number);
  }
  while (attempts < 3) await sleep(5);
  const again = await startCollector(t, port);
  again.status = 503;
  while (again.asked.length < 2) await sleep(5);
  again.status = 200;
  while (again.spans().length < 3) await sleep(5);
  assert.deepEqual(
    again.spans().map(({ name }) => name),
    ['request 1', 'request 2', 'request 3'],
  );
  while (lines.length < 2) await sleep(5);
  assert.deepEqual(lines, [
    'collector of traces not reached; spans wait in memory',
    'collector of traces reached again',
  ]);
  again.status = 400;
  await tracing.serve({ name: 'not liked' }, async () => undefined);
  while (lines.length < 3) await sleep(5);
  const asked = again.asked.length;
  await tracing.serve({ name: 'nor is this' }, async () => undefined);
  while (again.asked.length === asked) await sleep(5);
  again.status = 200;
  await tracing.serve({ name: 'next' }, async () => undefined);
  while (again.spans().length < 4) await sleep(5);
  assert.equal(
    again.spans().at(-1)?.name,
    'next',
    'what a collector refuses is not in the way of the others',
  );
  assert.deepEqual(lines.slice(2), ['collector of traces refused spans'], 'and is said once');
});

test('why the collector is not reached is said of the collector', async (t) => {
  const port = await findFreePort();
  const server = await startTestServer(t, { server: toCollector(port) });
  await batch(server.issuer);
  await server.stop();
  const said = server.logged.find(({ msg }) => String(msg).startsWith('collector of traces not reached'));
  assert.match(String(said?.reason), new RegExp(`^localhost:${port}: .*refuses the connection`));
  assert.doesNotMatch(JSON.stringify(said), /identity provider|IDENTITY_PROVIDER/);
});

test('of many requests the ratio is sampled, and a part belongs to its whole', async (t) => {
  const collector = await startCollector(t);
  const log = createLogger({ level: 'silent', format: 'json' });
  {
    await using tracing = createTracing({
      ...{ log, ratio: 0.5, resource: {}, intervalMs: 60_000 },
      send: async (body) => {
        const url = `http://127.0.0.1:${collector.port}/v1/traces`;
        return (await fetch(url, { method: 'POST', body })).status;
      },
    });
    for (let time = 0; time < 400; time += 1) {
      await tracing.serve({ name: 'whole' }, () => tracing.within({ name: 'part' }, async () => undefined));
    }
    await tracing.within({ name: 'nobody asked' }, async () => undefined);
  }
  const spans = collector.spans();
  const wholes = spans.filter(({ name }) => name === 'whole');
  // With a fair coin outside of this once in some 10^22 runs.
  assert.ok(wholes.length > 100 && wholes.length < 300, String(wholes.length));
  assert.deepEqual(
    spans
      .filter(({ name }) => name === 'part')
      .map(({ traceId, parentSpanId }) => `${traceId} ${parentSpanId}`)
      .sort(),
    wholes.map(({ traceId, spanId }) => `${traceId} ${spanId}`).sort(),
  );
  assert.ok(!spans.some(({ name }) => name === 'nobody asked'));
});

test('without Tracing nothing is put between a statement and its database, and no line has a trace', async (t) => {
  const server = await startTestServer(t);
  await batch(server.issuer);
  assert.ok(!Object.hasOwn(server.context.db.knex.client, '_query'));
  assert.ok(server.logged.length > 0);
  assert.ok(server.logged.every((line) => !('traceId' in line)));
});
