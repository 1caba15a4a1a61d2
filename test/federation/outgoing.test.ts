import assert from 'node:assert/strict';
import dns from 'node:dns';
import type { RequestListener } from 'node:http';
import { syncBuiltinESMExports } from 'node:module';
import { type TestContext, test } from 'node:test';
import tls, { type TLSSocket } from 'node:tls';
import { inspect } from 'node:util';
import { gzipSync } from 'node:zlib';
import { ServerError } from '../../src/errors.ts';
import {
  createGuardedLookup,
  isPublicAddress,
  parseHostPatterns,
} from '../../src/federation/destinations.ts';
import { createOutgoing, type OutgoingOptions, type OutgoingRequest } from '../../src/federation/outgoing.ts';
import { findFreePort } from '../support/start-server.ts';
import { certificate, recordLog, serve, serveTls, startProxy } from './web.ts';

const trustLoopback = { trustedHosts: ['127.0.0.1', 'localhost'] };
const answer: RequestListener = (_request, response) => void response.end('{"hello":"world"}');

function start(t: TestContext, options: Partial<OutgoingOptions> = {}) {
  const outgoing = createOutgoing({ log: recordLog().log, ...options });
  t.after(() => outgoing[Symbol.asyncDispose]());
  return outgoing;
}

/** The call fails as every outgoing call does, and says why. */
async function assertUnavailable(calling: Promise<unknown>, hint: RegExp): Promise<void> {
  await assert.rejects(calling, (err) => {
    assert.ok(err instanceof ServerError, String(err));
    assert.equal(err.code, 'ERR_IDENTITY_PROVIDER_UNAVAILABLE');
    assert.equal(err.status, 503);
    assert.match(err.hint ?? '', hint);
    return true;
  });
}

/** Answers look-ups of names that end in `.example` with these addresses, of `.invalid` with none. */
function mockLookup(t: TestContext, ...addresses: string[]) {
  const original = dns.lookup;
  const found = addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
  type Callback = (err: Error | null, addresses: typeof found) => void;
  const mocked = t.mock.method(dns, 'lookup', ((name: string, options: { all: true }, callback: Callback) => {
    if (name.endsWith('.example')) callback(null, found);
    else if (name.endsWith('.invalid')) callback(Object.assign(new Error('no'), { code: 'ENOTFOUND' }), []);
    else original(name, options, callback);
  }) as typeof dns.lookup);
  syncBuiltinESMExports();
  t.after(() => {
    mocked.mock.restore();
    syncBuiltinESMExports();
  });
}

test('a JSON document of a trusted host is read', async (t) => {
  const port = await serve(t, answer);

  assert.deepEqual(await start(t).getJson(`http://127.0.0.1:${port}/`, trustLoopback), { hello: 'world' });
});

test('a form is posted once, and its answer is given whatever its status', async (t) => {
  const seen: string[] = [];
  const port = await serve(t, async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    seen.push(`${request.method} ${request.headers['content-type']} ${body}`);
    response.writeHead(400, { 'content-type': 'application/json' }).end('{"error":"invalid_grant"}');
  });

  const response = await start(t).fetch(`http://127.0.0.1:${port}/token`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ code: 'a b' }),
    ...trustLoopback,
  });

  assert.equal(response.status, 400);
  assert.deepEqual(await response.json(), { error: 'invalid_grant' });
  assert.deepEqual(seen, ['POST application/x-www-form-urlencoded code=a+b']);
});

for (const address of [
  '127.0.0.1',
  '127.8.9.10',
  '0.0.0.0',
  '10.1.2.3',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '100.64.0.1',
  '169.254.169.254',
  '192.0.2.1',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::127.0.0.1',
  '::ffff:127.0.0.1',
  '::ffff:a9fe:a9fe',
  '0:0:0:0:0:ffff:0a00:0001',
  '64:ff9b::10.0.0.1',
  '64:ff9b:1::1',
  'fe80::1%eth0',
  'fc00::1',
  'fd00:ec2::254',
  'ff02::1',
  '2001:db8::1',
  '2002:7f00:1::',
]) {
  test(`${address} is no public address`, () => assert.equal(isPublicAddress(address), false));
}

for (const address of [
  '8.8.8.8',
  '172.15.255.255',
  '172.32.0.1',
  '100.128.0.1',
  '223.255.255.254',
  '::ffff:8.8.8.8',
  '64:ff9b::8.8.8.8',
  '2606:4700::1111',
]) {
  test(`${address} is a public address`, () => assert.equal(isPublicAddress(address), true));
}

test('a private address in a URL is refused in every spelling, without a connection', async (t) => {
  let calls = 0;
  const port = await serve(t, (request, response) => {
    calls += 1;
    answer(request, response);
  });
  const outgoing = start(t);

  for (const host of ['127.0.0.1', '2130706433', '0x7f.1', '0177.0.0.1', '127.1', '[::ffff:127.0.0.1]']) {
    await assertUnavailable(outgoing.fetch(`http://${host}:${port}/`), /private or special address/);
  }
  assert.equal(calls, 0);
});

test('a name that leads to a private address is refused, unless the caller or the operator named the host', async (t) => {
  const port = await serve(t, answer);
  const url = `http://localhost:${port}/`;

  await assertUnavailable(
    start(t).fetch(url),
    /localhost has the address .*, which is private.*OutgoingAllowedHosts/,
  );
  for (const [options, request] of [
    [{}, trustLoopback],
    [{ allowedHosts: ['LOCALHOST'] }, {}],
    [{ allowedHosts: ['127.0.0.0/8', '::1'] }, {}],
  ] satisfies [Partial<OutgoingOptions>, OutgoingRequest][]) {
    assert.equal((await start(t, options).fetch(url, request)).status, 200);
  }
});

test('a host that is trusted in one call is refused in the next, although its connection is still open', async (t) => {
  const port = await serve(t, answer);
  const outgoing = start(t);

  assert.equal((await outgoing.fetch(`http://localhost:${port}/`, trustLoopback)).status, 200);
  await assertUnavailable(outgoing.fetch(`http://localhost:${port}/`), /private/);
});

test('the address is checked on the connection itself, so a name cannot change it in between', async (t) => {
  const port = await serve(t, answer);
  mockLookup(t, '127.0.0.1');

  await assertUnavailable(
    start(t).fetch(`http://rebound.example:${port}/`),
    /rebound\.example has the address 127\.0\.0\.1/,
  );
});

test('of a name with public and private addresses only the public ones are used', async (t) => {
  mockLookup(t, '10.0.0.1', '93.184.215.14', '::1', '2606:4700::1111');
  const lookup = createGuardedLookup(parseHostPatterns([]));

  const found = await new Promise((resolve, reject) =>
    lookup('mixed.example', { all: true }, (err, addresses) => (err ? reject(err) : resolve(addresses))),
  );

  assert.deepEqual(found, [
    { address: '93.184.215.14', family: 4 },
    { address: '2606:4700::1111', family: 6 },
  ]);
});

test('a redirect to the metadata service of a cloud is refused', async (t) => {
  const port = await serve(t, (_request, response) => {
    response.writeHead(302, { location: 'http://169.254.169.254/latest/meta-data/' }).end();
  });

  await assertUnavailable(
    start(t).fetch(`http://127.0.0.1:${port}/`, trustLoopback),
    /169\.254\.169\.254 is a private or special address/,
  );
});

test('a redirect is checked like a call: a name that leads to a private address, another scheme', async (t) => {
  let location = '';
  const port = await serve(t, (_request, response) => void response.writeHead(302, { location }).end());
  const call = () => start(t).fetch(`http://127.0.0.1:${port}/`, { trustedHosts: ['127.0.0.1'] });

  location = `http://localhost:${port}/`;
  await assertUnavailable(call(), /localhost has the address/);
  location = 'file:///etc/passwd';
  await assertUnavailable(call(), /neither https nor http/);
  location = 'http://[';
  await assertUnavailable(call(), /no URL/);
});

test('a GET follows three redirects and not a fourth, and takes no credentials to another origin', async (t) => {
  const authorizations: unknown[] = [];
  const port = await serve(t, (request, response) => {
    authorizations.push(request.headers.authorization);
    const left = Number(new URL(request.url ?? '', 'http://x').searchParams.get('left'));
    if (left === 0) return void response.end('arrived');
    const host = left === 1 ? 'localhost' : '127.0.0.1';
    response.writeHead(302, { location: `http://${host}:${port}/?left=${left - 1}` }).end();
  });
  const outgoing = start(t);
  const request = { ...trustLoopback, headers: { authorization: 'Bearer x' } };

  assert.equal(await outgoing.getText(`http://127.0.0.1:${port}/?left=3`, request), 'arrived');
  assert.deepEqual(authorizations, ['Bearer x', 'Bearer x', 'Bearer x', undefined]);
  await assertUnavailable(outgoing.getText(`http://127.0.0.1:${port}/?left=4`, request), /more than 3 times/);
});

test('a redirect is not followed for a POST, nor where the caller wants to see it', async (t) => {
  const seen: string[] = [];
  const port = await serve(t, (request, response) => {
    seen.push(request.url ?? '');
    response.writeHead(307, { location: '/elsewhere' }).end();
  });
  const url = `http://127.0.0.1:${port}/token`;

  const posted = await start(t).fetch(url, { method: 'POST', body: 'secret=1', ...trustLoopback });
  const got = await start(t).fetch(url, { redirect: 'manual', ...trustLoopback });

  assert.deepEqual([posted.status, got.status, seen], [307, 307, ['/token', '/token']]);
});

test('a redirect from https to http is refused', async (t) => {
  const port = await serveTls(t, 'localhost', (_request, response) => {
    response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end();
  });

  await assertUnavailable(
    start(t, { trustedCertificates: [certificate('root')] }).fetch(
      `https://localhost:${port}/`,
      trustLoopback,
    ),
    /redirects from https to http/,
  );
});

test('only http and https are called', async (t) => {
  for (const url of ['file:///etc/passwd', 'data:text/plain,x', 'ftp://example.com/']) {
    await assertUnavailable(start(t).fetch(url), /neither https nor http/);
  }
  await assertUnavailable(start(t).fetch('not a URL'), /no URL/);
});

test('a name and a password in an address are not sent, and are not in the hint', async (t) => {
  const port = await serve(t, (_request, response) => {
    response.writeHead(302, { location: `http://alice:hidden@localhost:${port}/` }).end();
  });
  for (const url of [`http://alice:hidden@localhost:${port}/`, `http://localhost:${port}/`]) {
    await assert.rejects(start(t).getText(url, trustLoopback), (err: ServerError) => {
      assert.match(err.hint ?? '', /holds a name or a password/);
      assert.doesNotMatch(inspect(err, { depth: 9 }), /hidden/);
      return true;
    });
  }
});

test('a host that is an address of IPv6 is trusted, with its brackets and without', async (t) => {
  const url = `http://[::1]:${await findFreePort()}/`;
  await assertUnavailable(start(t).getJson(url), /is a private or special address/);
  for (const host of ['::1', '[::1]']) {
    await assert.rejects(start(t).getJson(url, { trustedHosts: [host] }), (err: ServerError) => {
      // Nothing listens there.
      assert.doesNotMatch(err.hint ?? '', /is a private or special address/);
      return true;
    });
  }
});

test('an answer that is too large is not read to its end, whatever its length header or compression says', async (t) => {
  const port = await serve(t, (request, response) => {
    if (request.url === '/bomb') {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(Buffer.alloc(50_000_000)));
      return;
    }
    // Never ends by itself.
    const timer = setInterval(() => response.write(Buffer.alloc(100_000)), 1);
    response.on('close', () => clearInterval(timer));
  });
  const outgoing = start(t);

  for (const path of ['/bomb', '/endless']) {
    await assertUnavailable(
      outgoing.getText(`http://127.0.0.1:${port}${path}`, trustLoopback),
      /larger than 1048576 bytes/,
    );
  }
});

test('a compressed answer within the limit is read decompressed', async (t) => {
  const port = await serve(t, (_request, response) => {
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync('{"hello":"world"}'));
  });

  assert.deepEqual(await start(t).getJson(`http://127.0.0.1:${port}/`, trustLoopback), { hello: 'world' });
});

test('a server that does not answer, or stops in the middle, is given up at the timeout', async (t) => {
  const port = await serve(t, (request, response) => {
    if (request.url === '/middle') response.write('{');
  });
  const request = { ...trustLoopback, timeoutMs: 200 };

  for (const path of ['/silent', '/middle']) {
    await assertUnavailable(
      start(t).getText(`http://127.0.0.1:${port}${path}`, request),
      /did not answer within 0\.2 s/,
    );
  }
});

test('the timeout is for all redirects together', async (t) => {
  const port = await serve(t, (_request, response) => {
    setTimeout(() => response.writeHead(302, { location: '/' }).end(), 150);
  });

  await assertUnavailable(
    start(t).getText(`http://127.0.0.1:${port}/`, { ...trustLoopback, timeoutMs: 250 }),
    /did not answer within 0\.25 s/,
  );
});

test('the hint says that the name is not found, the connection refused or broken off, the status wrong, the text not JSON', async (t) => {
  mockLookup(t);
  const port = await serve(t, (request, response) => {
    if (request.url === '/broken') request.socket.destroy();
    else if (request.url === '/500') response.writeHead(500).end('oh');
    else response.end('<html>');
  });
  const outgoing = start(t);
  const base = `http://127.0.0.1:${port}`;

  const request = { ...trustLoopback, trustedHosts: ['127.0.0.1', 'nowhere.invalid'] };
  await assertUnavailable(outgoing.fetch('http://nowhere.invalid/', request), /nowhere\.invalid: its name /);
  await assertUnavailable(
    outgoing.fetch(`http://127.0.0.1:${await findFreePort()}/`, request),
    /127\.0\.0\.1:\d+: it refuses the connection/,
  );
  await assertUnavailable(outgoing.fetch(`${base}/broken`, request), /broke the connection off/);
  await assertUnavailable(outgoing.getText(`${base}/500`, request), /with status 500/);
  await assertUnavailable(outgoing.getJson(`${base}/html`, request), /not JSON/);
});

test("a certificate is accepted whose issuer is in the operating system's store, or handed in", async (t) => {
  const port = await serveTls(t, 'localhost', answer);
  const url = `https://localhost:${port}/`;

  const handedIn = start(t, { trustedCertificates: [certificate('root')] });
  assert.equal((await handedIn.fetch(url, trustLoopback)).status, 200);

  const original = tls.getCACertificates;
  const mocked = t.mock.method(tls, 'getCACertificates', (store: 'default' | 'system') =>
    store === 'system' ? [certificate('root')] : original(store),
  );
  syncBuiltinESMExports();
  t.after(() => {
    mocked.mock.restore();
    syncBuiltinESMExports();
  });
  assert.equal((await start(t).fetch(url, trustLoopback)).status, 200);
});

test('nothing of a connection is brought to the next: under its name there may be another address by then', async (t) => {
  const reused: boolean[] = [];
  const port = await serveTls(t, 'localhost', (request, response) => {
    reused.push((request.socket as TLSSocket).isSessionReused());
    response.writeHead(200, { connection: 'close' }).end('{}');
  });
  const outgoing = start(t, { trustedCertificates: [certificate('root')] });
  for (let call = 0; call < 3; call += 1) {
    await outgoing.getJson(`https://localhost:${port}/${call}`, { trustedHosts: ['localhost'] });
  }
  assert.deepEqual(reused, [false, false, false]);
});

test('a certificate of an unknown issuer is refused, and the hint names the issuer, to whom nothing was sent', async (t) => {
  let requests = 0;
  const port = await serveTls(t, 'localhost', () => {
    requests += 1;
  });

  await assertUnavailable(
    start(t).fetch(`https://localhost:${port}/`, trustLoopback),
    /not trusted here: O=Postern tests, CN=Postern Test Root\./,
  );
  assert.equal(requests, 0);
});

for (const [name, hint] of [
  ['expired', /certificate has expired/],
  ['elsewhere', /certificate is for another host name/],
] as const) {
  test(`a certificate that is ${name} is refused, and the hint says so`, async (t) => {
    const port = await serveTls(t, name, answer);

    await assertUnavailable(
      start(t, { trustedCertificates: [certificate('root')] }).fetch(
        `https://localhost:${port}/`,
        trustLoopback,
      ),
      hint,
    );
  });
}

test('a server that speaks no TLS is named as that', async (t) => {
  const port = await serve(t, answer);

  await assertUnavailable(start(t).fetch(`https://localhost:${port}/`, trustLoopback), /does not speak TLS/);
});

test('calls go through the proxy, which looks the name up; loopback and the exceptions do not', async (t) => {
  mockLookup(t);
  const port = await serveTls(t, 'localhost', answer);
  const proxy = await startProxy(t, { port });
  const outgoing = start(t, {
    proxy: proxy.url,
    proxyExceptions: ['direct.invalid'],
    trustedCertificates: [certificate('root')],
  });

  assert.equal((await outgoing.fetch('https://sso.example/x')).status, 200);
  assert.deepEqual(await outgoing.getJson('http://plain.example/'), { from: 'the proxy' });
  assert.equal((await outgoing.fetch(`https://localhost:${port}/`, trustLoopback)).status, 200);
  await assertUnavailable(outgoing.fetch('https://direct.invalid/'), /its name /);
  await assertUnavailable(outgoing.fetch('http://169.254.169.254/'), /private/);

  assert.deepEqual(proxy.requests, ['CONNECT sso.example:443', 'GET http://plain.example/']);
});

test('behind a proxy, too, the missing issuer is named', async (t) => {
  const port = await serveTls(t, 'localhost', answer);
  const proxy = await startProxy(t, { port });

  await assertUnavailable(
    start(t, { proxy: proxy.url }).fetch('https://sso.example/'),
    /CN=Postern Test Root/,
  );
});

test('a proxy that refuses, or is not there, is named in the hint', async (t) => {
  const refusing = await startProxy(t, { port: 1, status: 407 });

  for (const url of ['https://sso.example/', 'http://sso.example/']) {
    await assertUnavailable(
      start(t, { proxy: refusing.url }).fetch(url),
      /through the proxy 127\.0\.0\.1:\d+: the proxy answered 407/,
    );
  }
  await assertUnavailable(
    start(t, { proxy: `http://127.0.0.1:${await findFreePort()}` }).fetch('https://sso.example/'),
    /through the proxy .*refuses the connection/,
  );
});
