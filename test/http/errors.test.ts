import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const authorizeUrl = ({ issuer }: TestServer, query: string | Record<string, string>) =>
  `${issuer}/connect/authorize?${new URLSearchParams(query)}`;
const good = {
  client_id: 'mvc',
  redirect_uri: mvc.redirectUri,
  response_type: 'code',
  scope: 'openid',
  state: 's',
};

const rowCount = async ({ context }: TestServer) => (await context.db.knex('OidcToken').select('id')).length;

test('an unknown client, a wrong, missing or repeated redirect URI get a page, never a redirect', async (t) => {
  const server = await startTestServer(t);
  const uri = mvc.redirectUri;
  const cases: (string | Record<string, string>)[] = [
    { ...good, client_id: 'nobody' },
    { ...good, redirect_uri: '' },
    'client_id=mvc&response_type=code&scope=openid',
    'response_type=code&scope=openid',
    `client_id=mvc&client_id=spa&redirect_uri=${uri}&response_type=code&scope=openid`,
    `client_id=mvc&redirect_uri=${uri}&redirect_uri=https://evil.example&response_type=code&scope=openid`,
    ...[
      `${uri}/`,
      `${uri}?x=1`,
      `${uri}#f`,
      uri.toUpperCase(),
      uri.replace('localhost', 'localhost.evil.example'),
      uri.replace('http://', 'http://user@'),
      `${uri}/..;/x`,
      `${uri}%2e%2e/`,
      `${uri}%252f..`,
      uri.replace('/callback', '/x/../callback'),
      uri.replace('localhost', '127.0.0.1'),
      uri.replace('5090', '5091'),
      'javascript:alert(1)',
      '//localhost:5090/callback',
      `\t${uri}`,
      `${uri}\\@evil.example`,
    ].map((redirect_uri) => ({ ...good, redirect_uri })),
  ];
  for (const query of cases) {
    const page = await createBrowser().request(authorizeUrl(server, query));
    const shown = JSON.stringify(query);
    assert.equal(page.status, 400, shown);
    assert.equal(page.location, undefined, shown);
    assert.match(page.body, /<h1/, shown);
    assert.ok(!/\bat .*\.(ts|js):\d+/.test(page.body), 'no stack');
  }
  assert.equal(await rowCount(server), 0, 'nothing was written');
});

test('what is wrong with a request of a known client goes back to it, and nothing is written', async (t) => {
  const server = await startTestServer(t);
  const cases: [Record<string, string>, string][] = [
    [{ ...good, response_type: 'token' }, 'unsupported_response_type'],
    [{ ...good, response_type: 'magic' }, 'unsupported_response_type'],
    [{ ...good, response_type: 'id_token' }, 'invalid_request'],
    [{ ...good, scope: 'openid nonsense' }, 'invalid_scope'],
    [{ ...good, scope: 'openid mi' }, 'invalid_scope'],
    [{ ...good, scope: '' }, 'invalid_scope'],
    [{ ...good, scope: 'öpenid' }, 'invalid_scope'],
    [{ ...good, prompt: 'magic' }, 'invalid_request'],
    [{ ...good, max_age: '-1' }, 'invalid_request'],
    [{ ...good, code_challenge: 'x'.repeat(43), code_challenge_method: 'plain' }, 'invalid_request'],
    [{ ...good, code_challenge: 'short', code_challenge_method: 'S256' }, 'invalid_request'],
    [{ ...good, request: 'a.b.c' }, 'request_not_supported'],
    [{ ...good, request_uri: 'https://x' }, 'request_uri_not_supported'],
    [{ ...good, resource: 'urn:postern:resource:mi' }, 'invalid_target'],
    [{ ...good, scope: 'profile', max_age: '9' }, 'invalid_request'],
  ];
  for (const [query, error] of cases) {
    const page = await createBrowser().request(authorizeUrl(server, query));
    // The answer to a front-channel response type is in the fragment.
    const { search = '', hash = '' } = page.location ?? {};
    const answer = new URLSearchParams(search || hash.slice(1));
    assert.equal(answer.get('error'), error, `${JSON.stringify(query)} ${page.location}`);
    assert.equal(answer.get('state'), 's');
    assert.equal(answer.get('code'), null);
  }
  assert.equal(await rowCount(server), 0);
});

test('a repeated parameter is refused', async (t) => {
  const server = await startTestServer(t);
  const query = `${new URLSearchParams(good)}&state=t`;
  const page = await createBrowser().request(authorizeUrl(server, query));
  const error = page.location?.searchParams.get('error') ?? page.status;
  assert.ok(error === 'invalid_request' || error === 400, String(error));
});

test('the token endpoint refuses what is no form, is too large, is sent twice or comes by another method', async (t) => {
  const server = await startTestServer(t);
  const url = `${server.issuer}/connect/token`;
  const send = async (body: string, headers: Record<string, string>, method = 'POST') => {
    const response = await fetch(url, { method, headers, ...(method === 'POST' ? { body } : undefined) });
    return { status: response.status, text: await response.text(), allow: response.headers.get('allow') };
  };
  const form = { 'content-type': 'application/x-www-form-urlencoded' };

  const json = await send('{"grant_type":"client_credentials"}', { 'content-type': 'application/json' });
  assert.deepEqual([json.status, JSON.parse(json.text).error], [400, 'invalid_request']);
  const broken = await send('{{{', { 'content-type': 'application/json' });
  assert.equal(broken.status, 400);
  const twice = await send('grant_type=client_credentials&grant_type=password&client_id=batch', form);
  assert.equal(twice.status, 401, 'who did not authenticate learns nothing else');
  const none = await send('', form);
  assert.deepEqual([none.status, JSON.parse(none.text).error], [401, 'invalid_client']);
  const get = await send('', {}, 'GET');
  assert.deepEqual([get.status, get.allow], [405, 'POST, OPTIONS']);
  for (const path of ['/connect/introspect', '/connect/revocation', '/connect/userinfo', '/connect/token']) {
    const response = await fetch(server.issuer + path, { method: 'DELETE' });
    assert.equal(response.status, 405, path);
    assert.ok(response.headers.get('allow'));
  }
});

test('a body of 10 MB is refused on every endpoint that reads one, without reading it', async (t) => {
  const server = await startTestServer(t);
  for (const path of [
    '/connect/token',
    '/connect/introspect',
    '/connect/revocation',
    '/connect/authorize',
    '/connect/endsession',
  ]) {
    const status = await new Promise<number | string>((resolve) => {
      const request = httpRequest(
        server.issuer + path,
        {
          method: 'POST',
          headers: { 'content-type': 'application/x-www-form-urlencoded', ...basic('batch', 'batch-secret') },
        },
        (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        },
      );
      request.on('error', (err) => resolve(err.message));
      const chunk = 'a'.repeat(64 * 1024);
      for (let sent = 0; sent < 160; sent += 1) request.write(chunk);
      request.end();
    });
    assert.ok(status === 400 || status === 413, `${path}: ${status}`);
  }
  assert.equal(
    (await fetch(`${server.issuer}/.well-known/openid-configuration`)).status,
    200,
    'it goes on serving',
  );
});

test('over-long and malformed values are refused and the server goes on', async (t) => {
  const server = await startTestServer(t);
  const long = 'x'.repeat(10_000);
  const answers = await Promise.all([
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      basic(long.slice(0, 5000), 'x'),
    ),
    post(`${server.issuer}/connect/token`, {
      grant_type: 'password',
      username: long,
      password: long,
      client_id: 'desk',
      client_secret: 'desk-secret',
    }),
    post(`${server.issuer}/connect/token`, {
      grant_type: 'refresh_token',
      refresh_token: long,
      client_id: 'desk',
      client_secret: 'desk-secret',
    }),
    post(`${server.issuer}/connect/token`, {
      grant_type: 'authorization_code',
      code: '\u0000',
      redirect_uri: 'x',
      client_id: 'mvc',
      client_secret: 'mvc-secret',
    }),
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials', scope: '\u0000"\\' },
      basic('batch', 'batch-secret'),
    ),
  ]);
  for (const { status, body } of answers) {
    assert.ok(status === 400 || status === 401, `${status} ${JSON.stringify(body)}`);
    assert.equal(typeof body.error, 'string');
  }
  for (const path of [
    '/%',
    '/%c0%ae',
    '/connect/authorize/%00',
    '/login/%ff',
    `/${'a/'.repeat(500)}`,
    '/login/../../etc/passwd',
  ]) {
    const status = await rawGet(server.url, `/SPSSMR/Oidc${path}`);
    assert.ok(status >= 400 && status < 500, `${path}: ${status}`);
  }
});

test('behind a proxy that passes another name on, sign-in goes on and is not sent round in circles', async (t) => {
  const server = await startTestServer(t, { server: {} });
  const send = (headers: Record<string, string>, state: string) =>
    new Promise<{ status: number; location: string }>((resolve, reject) => {
      const url = new URL(authorizeUrl(server, { ...good, state }));
      httpRequest(
        { host: '127.0.0.1', port: url.port, path: url.pathname + url.search, headers },
        (response) => {
          response.resume();
          resolve({ status: response.statusCode ?? 0, location: response.headers.location ?? '' });
        },
      )
        .on('error', reject)
        .end();
    });
  const { host } = new URL(server.issuer);
  const isLogin = ({ location }: { location: string }) => /\/login\//.test(location);

  assert.ok(
    isLogin(await send({ host: 'postern:5080', 'x-forwarded-host': host }, 'a')),
    'the proxy says which',
  );
  const first = await send({ host: '10.0.0.5:5080' }, 'b');
  assert.ok(first.location.startsWith(`${server.issuer}/connect/authorize?`));
  assert.ok(isLogin(await send({ host: '10.0.0.5:5080' }, 'b')), 'the second time it is served');
});

test('a request line that is no address is a 400', async (t) => {
  const server = await startTestServer(t);
  const { connect } = await import('node:net');
  const { port } = new URL(server.url);
  const answer = await new Promise<string>((resolve) => {
    const socket = connect(Number(port), '127.0.0.1', () =>
      socket.write('GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'),
    );
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('close', () => resolve(text));
  });
  assert.match(answer, /^HTTP\/1.1 400 /);
  assert.match(answer, /content-security-policy/i);
});

test('what a caller sends cannot forge a line of the log for people', async () => {
  const { createLogger } = await import('../../src/log.ts');
  const lines: string[] = [];
  const log = createLogger({
    level: 'info',
    format: 'text',
    destination: { write: (line) => void lines.push(line) },
  });
  log.info({ clientId: 'evil\n23:59:59 info  token issued accountId=alice\u001b[2J' }, 'caller refused');
  assert.equal(lines.length, 1);
  assert.equal(lines[0]?.trimEnd().split('\n').length, 1);
  assert.ok(!lines[0]?.includes('\u001b'));
  assert.ok(!/ accountId=alice/.test(lines[0] ?? '') || /clientId="/.test(lines[0] ?? ''));

  // What a terminal obeys beside that: C1 controls, line separators, and marks that turn the order of what follows.
  lines.length = 0;
  const sent = 'a\u009b2Jb\u0085c\u007fd\u2028e\u202ef\u2066g\u200fh';
  log.info({ hint: sent, err: new Error(sent) }, 'answer refused');
  assert.ok(
    !/[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/.test(lines.join('')),
    JSON.stringify(lines),
  );
  assert.match(lines[0] ?? '', /hint="a\\u009b2Jb\\u0085c\\u007fd/);
});

test('an unknown path is a page for a browser and JSON for a program', async (t) => {
  const server = await startTestServer(t);
  for (const path of [
    '/SPSSMR/Oidc/nothing',
    '/nothing',
    '/SPSSMR/OidcX',
    '/SPSSMR/Oidc/connect/authorise',
  ]) {
    const url = new URL(path, server.url);
    const page = await createBrowser().request(url);
    assert.equal(page.status, 404, path);
    assert.match(page.body, /<h1/);
    const json = await fetch(url, { headers: { accept: 'application/json' } });
    assert.equal(json.status, 404);
    assert.equal(((await json.json()) as { error: string }).error, 'not_found');
  }
});

test('Host and X-Forwarded headers change no address that is printed', async (t) => {
  const server = await startTestServer(t);
  const headers = {
    host: 'evil.example',
    'x-forwarded-host': 'evil.example',
    'x-forwarded-proto': 'https',
    forwarded: 'host=evil.example',
  };
  const text = await new Promise<string>((resolve) => {
    const request = httpRequest(
      `${server.url}/SPSSMR/Oidc/.well-known/openid-configuration`,
      { headers },
      (response) => {
        let body = '';
        response.on('data', (chunk) => {
          body += chunk;
        });
        response.on('end', () => resolve(body));
      },
    );
    request.end();
  });
  assert.equal((JSON.parse(text) as { issuer: string }).issuer, server.issuer);
  assert.ok(!text.includes('evil'));
});

test('every address of the discovery document is under PublicUrl, which may be https behind a proxy', async (t) => {
  const publicUrl = 'https://sso.example/SPSSMR/Oidc';
  const { generateKeyPairSync } = await import('node:crypto');
  const { writeFileSync } = await import('node:fs');
  const { tmpdir } = await import('node:os');
  const { join } = await import('node:path');
  const keyFile = join(tmpdir(), `postern-${process.pid}-key.pem`);
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  writeFileSync(keyFile, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const cookieFile = join(tmpdir(), `postern-${process.pid}-cookie`);
  writeFileSync(cookieFile, 'a-cookie-key-of-some-length-32-characters');
  const server = await startTestServer(t, {
    server: {
      Environment: 'Development',
      PublicUrl: publicUrl.replace('sso.example', 'localhost'),
      OidcSigningCertificate: { KeyFile: keyFile },
      CookieKeys: [{ file: cookieFile }],
    },
  });
  const url = `${server.url}/SPSSMR/Oidc`;
  const document = (await (await fetch(`${url}/.well-known/openid-configuration`)).json()) as Record<
    string,
    unknown
  >;
  for (const [name, value] of Object.entries(document)) {
    if (typeof value === 'string')
      assert.ok(value.startsWith('https://localhost/SPSSMR/Oidc'), `${name}: ${value}`);
  }
  // A direct call that reaches the listener by http is answered, not redirected: a redirect repeats the secret.
  const token = await post(
    `${url}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  assert.equal(token.status, 200);
  // And cookies are for https alone.
  const page = await createBrowser().request(`${url}/connect/authorize?${new URLSearchParams(good)}`, {
    headers: { host: 'localhost' },
  });
  const cookies = page.headers.getSetCookie();
  assert.ok(page.location?.href.startsWith('https://localhost/SPSSMR/Oidc/'), String(page.location));
  for (const cookie of cookies) assert.match(cookie, /; secure/i);
});

test('no secret, token, code or password is ever in the log', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { AccessTokenType: 'Reference' } } });
  const { issuer } = server;
  const seen: string[] = [
    'mvc-secret',
    'Pass-word-1',
    'wrong-password-7',
    'wrong-secret-7',
    'web-api-secret',
  ];
  const attempt = await signInAndRedeem({ issuer, ...mvc, scope: `${mvc.scope} offline_access` });
  await attempt.signIn(attempt.page, 'alice', 'wrong-password-7').catch(() => undefined);
  seen.push(attempt.body.access_token, attempt.body.refresh_token, attempt.body.id_token, attempt.verifier);
  seen.push(attempt.back.location?.searchParams.get('code') ?? '');
  seen.push(...attempt.browser.cookies().map(({ value }) => value));
  await attempt.redeem(attempt.back);
  await post(
    `${issuer}/connect/introspect`,
    { token: attempt.body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  await post(
    `${issuer}/connect/introspect`,
    { token: attempt.body.access_token },
    basic('mvc', 'wrong-secret-7'),
  );
  await post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: attempt.body.refresh_token },
    basic('mvc', 'mvc-secret'),
  );
  await post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: 'alice', password: 'wrong-password-7' },
    basic('desk', 'wrong-secret-7'),
  );
  await fetch(`${issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${attempt.body.access_token}` },
  });

  const text = server.logText();
  assert.ok(text.includes('token issued'), 'the log is there');
  for (const secret of seen) {
    assert.ok(secret.length > 5);
    assert.ok(!text.includes(secret), `the log holds ${secret.slice(0, 4)}…`);
  }
});

test('a database that fails is a 500 without details, and the log holds no bindings', async (t) => {
  const server = await startTestServer(t);
  await server.context.db.knex.schema.renameTable('OidcToken', 'OidcTokenAway');
  const page = await createBrowser().request(authorizeUrl(server, good), {
    headers: { accept: 'application/json' },
  });
  assert.equal(page.status, 500);
  assert.match(page.body, /server_error/);
  assert.ok(!page.body.includes('OidcToken') && !page.body.includes('code_challenge'));
  assert.ok(!server.logText().includes('http://localhost:5090/callback'), 'the payload is not in the log');
  await server.context.db.knex.schema.renameTable('OidcTokenAway', 'OidcToken');
  assert.equal((await createBrowser().request(authorizeUrl(server, good))).status, 303, 'and it recovers');
});

async function rawGet(base: string, path: string): Promise<number> {
  const { hostname, port } = new URL(base);
  return new Promise((resolve, reject) => {
    httpRequest({ hostname, port, path, method: 'GET' }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .on('error', reject)
      .end();
  });
}

/** Sends bytes as they are, and returns what came until the connection ended. */
function sendBytes(server: TestServer, bytes: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ port: Number(new URL(server.url).port), allowHalfOpen: true }, () =>
      socket.end(bytes),
    );
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(text));
  });
}

const isError = ({ level }: Record<string, unknown>) => level === 'error';

test('a caller who goes away, or goes on after the end of his request, is no error of the server', async (t) => {
  const server = await startTestServer(t);
  const post = (path: string, length: number, rest: string) =>
    `POST /SPSSMR/Oidc${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
    `content-type: application/x-www-form-urlencoded\r\ncontent-length: ${length}\r\n\r\n${rest}`;
  for (const path of ['/connect/introspect', '/connect/token', '/connect/userinfo', '/login/x', '/']) {
    await sendBytes(server, post(path, 100, 'a=1'));
    await sendBytes(server, post(path, 3, 'a=1&b=2'));
  }
  await server.stop();
  assert.deepEqual(server.logged.filter(isError), []);
});

test('a path of slashes costs no more than any other of its length', async (t) => {
  const server = await startTestServer(t, {
    // With it a request line may have 128 kB.
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: { Ticket: { HandlerUrl: 'http://localhost:1/', Secrets: [{ plain: 'x'.repeat(32) }] } },
    },
  });
  const answer = sendBytes(
    server,
    `GET /SPSSMR/Oidc/${'/'.repeat(120_000)}x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`,
  );
  const tooLong = new Promise((resolve) => setTimeout(resolve, 2000, 'others waited').unref());
  const others = fetch(`${server.issuer}/.well-known/jwks`).then(({ status }) => status);
  assert.equal(await Promise.race([others, tooLong]), 200);
  assert.match(await answer, /^HTTP\/1.1 404/);
});

test('a logout token that is none is refused without asking the identity provider, one that may be one is not', async (t) => {
  const server = await startTestServer(t, {
    providers: {
      Corporate: {
        Type: 'Oidc',
        Caption: 'Corporate',
        // Nothing listens there.
        Authority: 'http://localhost:1',
        ClientId: 'postern',
        UserNameClaims: ['preferred_username'],
        CallbackPath: '/callback/oidc/Corporate',
      },
    },
  });
  const send = (token: Record<string, string>) =>
    post(`${server.issuer}/callback/oidc/Corporate/logout`, token);
  for (const token of ['', 'x', 'a.b.c', 'e30.e30', 'e30..', 'e30.bnVsbA.']) {
    assert.equal((await send({ logout_token: token })).status, 400, token);
  }
  assert.equal((await send({})).status, 400);
  const { body, status } = await send({ logout_token: 'eyJhbGciOiJSUzI1NiJ9.e30.AAAA' });
  assert.deepEqual([status, body.error], [503, 'temporarily_unavailable']);
  assert.deepEqual(server.logged.filter(isError), []);
});
