/** An operator's own endpoint as a source of passwords. */
import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { decodeJwt } from 'jose';
import { startSlapd } from '../support/directory.ts';
import { isSignedIn, mvc, signInAndRedeem, signInAtPage } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const password = 'Elsewhere-pass-1';
const secret = 'Verifier-secret-1';
const dora = {
  ...{ active: true, name: 'dora', subject: '4711', displayName: 'Dora Dale' },
  ...{ email: 'dora@example.com', roles: ['Reader', 'Editor'] },
};

interface Asked {
  readonly method: string | undefined;
  readonly path: string | undefined;
  readonly authorization: string | undefined;
  readonly body: Record<string, unknown>;
}

/** An endpoint that answers as the test says: a yes to the one password, unless `answer` is replaced. */
async function start(t: TestContext, more: Record<string, unknown> = {}) {
  const asked: Asked[] = [];
  const endpoint = {
    answer: (body: Record<string, unknown>, _request: IncomingMessage, response: ServerResponse) => {
      const isRight = body.name === 'dora' && body.password === password;
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(isRight ? dora : { active: false }));
    },
  };
  const listener = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = JSON.parse(Buffer.concat(chunks).toString() || '{}') as Record<string, unknown>;
    const { method, url: path } = request;
    asked.push({ method, path, authorization: request.headers.authorization, body });
    endpoint.answer(body, request, response);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const stop = () =>
    new Promise<void>((resolve) => {
      listener.close(() => resolve());
      listener.closeAllConnections();
    });
  t.after(stop);
  const { port } = listener.address() as AddressInfo;
  const PasswordVerifier = {
    Url: `http://localhost:${port}/verify`,
    Secret: { plain: secret },
    Timeout: 1,
  };
  const server = await startTestServer(t, { server: { PasswordVerifier, ...more } });
  t.after(() => {
    for (const text of [password, secret])
      assert.ok(!server.logText().includes(text), `${text} is in the log`);
  });
  return { server, endpoint, asked, stop };
}

const signIn = async ({ issuer }: TestServer, user = 'dora', typed = password) =>
  (await signInAtPage(issuer, user, typed)).back;

test('a yes signs in whom the endpoint names, with roles that follow it; a no is a wrong password', async (t) => {
  const { server, asked, endpoint } = await start(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'dora', password });
  assert.equal(decodeJwt(body.access_token).sub, 'dora');
  assert.deepEqual(asked, [
    { method: 'POST', path: '/verify', authorization: `Bearer ${secret}`, body: { name: 'dora', password } },
  ]);
  const rolesOf = async () => (await server.context.accounts.find('dora'))?.roles;
  assert.deepEqual(await rolesOf(), ['Editor', 'Reader']);

  const no = await signIn(server, 'dora', 'wrong');
  assert.equal(no.status, 400);
  assert.match(no.body, /The name or the password is wrong/);
  const { answer } = endpoint;
  endpoint.answer = (_body, _request, response) =>
    void response.end(JSON.stringify({ ...dora, roles: ['Reader', ' Reader\n', '  ', '\t'] }));
  assert.ok(isSignedIn(await signIn(server)));
  assert.deepEqual(await rolesOf(), ['Reader']);
  // Somebody else under the old name.
  endpoint.answer = (_body, _request, response) =>
    void response.end(JSON.stringify({ ...dora, subject: '4712' }));
  assert.equal((await signIn(server)).status, 400);
  assert.equal(server.logged.findLast(({ msg }) => msg === 'sign-in refused')?.reason, 'account-taken');
  endpoint.answer = answer;
});

test('accounts with a password of their own and empty passwords are never asked for', async (t) => {
  const { server, asked } = await start(t);
  assert.ok(isSignedIn(await signIn(server, 'alice', 'Pass-word-1')));
  assert.equal((await signIn(server, 'alice', 'wrong')).status, 400);
  assert.equal((await signIn(server, 'dora', '')).status, 400);
  assert.deepEqual(asked, []);
});

test('an answer that cannot be used is no answer, and the page says so', async (t) => {
  const { server, endpoint, asked, stop } = await start(t);
  const answers: Record<string, typeof endpoint.answer> = {
    slow: () => undefined,
    'slow in the middle': (_body, _request, response) => void response.write('{"active":'),
    huge: (_body, _request, response) =>
      void response.end(JSON.stringify({ ...dora, x: 'x'.repeat(70_000) })),
    redirected: (_body, _request, response) => void response.writeHead(307, { location: '/other' }).end(),
    'not JSON': (_body, _request, response) => void response.end('yes'),
    'another status': (_body, _request, response) => void response.writeHead(500).end(JSON.stringify(dora)),
    'without a name': (_body, _request, response) => void response.end('{"active":true}'),
    'a text for yes': (_body, _request, response) => void response.end('{"active":"true","name":"dora"}'),
    'an array': (_body, _request, response) => void response.end('[]'),
  };
  for (const [name, answer] of Object.entries(answers)) {
    endpoint.answer = answer;
    const begun = performance.now();
    const page = await signIn(server);
    assert.equal(page.status, 503, name);
    assert.match(page.body, /could not be checked/, name);
    assert.ok(performance.now() - begun < 4000, name);
  }
  assert.ok(
    asked.every(({ path }) => path === '/verify'),
    'no redirect is followed',
  );
  assert.ok(isSignedIn(await signIn(server, 'alice', 'Pass-word-1')));
  await stop();
  assert.equal((await signIn(server)).status, 503);
  assert.equal(await server.context.accounts.find('dora'), undefined);
});

test('beside a directory it is asked for whom that does not know, and not for wrong passwords there', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dirk' });
  const { server, asked } = await start(t, { Directory: slapd.settings() });
  assert.ok(isSignedIn(await signIn(server, 'dirk', 'Directory-pass-1')));
  assert.equal((await signIn(server, 'dirk', 'wrong')).status, 400);
  assert.deepEqual(asked, []);
  assert.ok(isSignedIn(await signIn(server)));
  assert.equal(asked.length, 1);
});
