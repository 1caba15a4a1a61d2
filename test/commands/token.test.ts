import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { findFreePort } from '../support/start-server.ts';
import { install } from './postern.ts';

const secretOf = { input: 'batch-secret\n' };

async function installRunning(t: TestContext, options: Parameters<typeof install>[1] = {}) {
  const installation = await install(t, options);
  await installation.spawn(['start']).waitFor(/Try next\n/);
  return installation;
}

test('a client of flow ClientCredentials gets its token', async (t) => {
  const { run } = await installRunning(t);

  const printed = await run(['token', 'batch'], secretOf);
  assert.deepEqual([printed.code, printed.stderr], [0, '']);
  const response = JSON.parse(printed.stdout);
  assert.equal(response.token_type, 'Bearer');
  assert.match(response.access_token, /^ey.*\..*\..*$/);

  const raw = await run(['token', 'batch', '--raw', '--secret-env', 'BATCH'], {
    env: { BATCH: 'batch-secret' },
  });
  assert.match(raw.stdout, /^ey[^\s]+\n$/);
});

test('a client of flow ResourceOwner signs an account in, with secret and password a line each', async (t) => {
  const { run } = await installRunning(t);

  const args = ['token', 'desk', '--user', 'alice', '--scope', 'openid profile', '--scope', 'offline_access'];
  const printed = await run(args, { input: 'desk-secret\nPass-word-1\n' });
  assert.equal(printed.code, 0, printed.stderr);
  const response = JSON.parse(printed.stdout);
  assert.ok(response.access_token && response.refresh_token);

  const fromEnvironment = await run([...args, '--secret-env', 'S', '--password-env', 'P', '--raw'], {
    env: { S: 'desk-secret', P: 'Pass-word-1' },
  });
  assert.equal(fromEnvironment.code, 0, fromEnvironment.stderr);
});

test('a refusal of the server is told in its words, without the secret', async (t) => {
  const { run } = await installRunning(t);

  const wrongSecret = await run(['token', 'batch'], { input: 'not-the-secret\n' });
  assert.deepEqual([wrongSecret.code, wrongSecret.stdout], [1, '']);
  assert.match(wrongSecret.stderr, /^postern: the server refused: invalid_client/);
  assert.doesNotMatch(wrongSecret.stderr, /not-the-secret/);

  const wrongPassword = await run(['token', 'desk', '--user', 'alice'], {
    input: 'desk-secret\nwrong-word\n',
  });
  assert.equal(wrongPassword.code, 1);
  assert.match(wrongPassword.stderr, /invalid_grant/);

  const wrongScope = await run(['token', 'batch', '--scope', 'nonsense'], secretOf);
  assert.match(wrongScope.stderr, /invalid_scope/);
});

test('what is missing on the command line is said before anything is sent', async (t) => {
  const { run } = await installRunning(t);
  for (const [args, reason] of [
    [['token', 'desk'], /name it with --user/],
    [['token', 'batch', '--user', 'alice'], /--user is for a client of flow ResourceOwner/],
    [['token', 'batch', '--secret-env', 'NOT_THERE'], /NOT_THERE is empty or not set/],
    [['token', 'batch'], /standard input ended/],
  ] as const) {
    const { code, stderr } = await run(args);
    assert.equal(code, 64, stderr);
    assert.match(stderr, reason);
  }
});

test('a server that is not running is told with 69', async (t) => {
  const { issuer, run } = await install(t);

  const { code, stderr } = await run(['token', 'batch'], secretOf);

  assert.equal(code, 69);
  assert.match(stderr, new RegExp(`${new URL(issuer).origin} does not answer`));
});

test('a token of an interactive client comes through the browser', async (t) => {
  const callbackPort = await findFreePort();
  const { spawn } = await installRunning(t, {
    clients: { mvc: { RedirectUris: [`http://localhost:${callbackPort}/callback`] } },
  });
  const command = spawn(['token', 'mvc', '--scope', 'openid', '--secret-env', 'S'], {
    env: { S: 'mvc-secret' },
  });
  const [authorizeUrl = ''] =
    /http:\S+connect\/authorize\S+/.exec(await command.waitFor(/code_challenge\S*\n/)) ?? [];

  const stranger = await fetch(`http://localhost:${callbackPort}/callback?code=forged&state=guessed`);
  assert.equal(stranger.status, 404);
  const browser = createBrowser();
  const back = await browser.submit(await browser.open(authorizeUrl), {
    username: 'alice',
    password: 'Pass-word-1',
  });
  const page = await fetch(back.location ?? '');

  assert.match(await page.text(), /Signed in/);
  const { code, stdout, stderr } = await command.finish();
  assert.equal(code, 0, stderr);
  const response = JSON.parse(stdout);
  const claims = JSON.parse(Buffer.from(response.id_token.split('.')[1], 'base64url').toString());
  assert.equal(claims.sub, 'alice');
});

test('a sign-in that nobody finishes ends with 1, and a redirect URI in use with 69', async (t) => {
  const callbackPort = await findFreePort();
  const { run } = await installRunning(t, {
    clients: { mvc: { RedirectUris: [`http://127.0.0.1:${callbackPort}/callback`] } },
  });
  const args = ['token', 'mvc', '--secret-env', 'S', '--timeout', '1'];

  const unanswered = await run(args, { env: { S: 'mvc-secret' } });
  assert.equal(unanswered.code, 1);
  assert.match(unanswered.stderr, /nobody signed in within 1 seconds/);

  const other = createServer().listen(callbackPort, '127.0.0.1');
  await once(other, 'listening');
  t.after(() => other.close());
  const taken = await run(args, { env: { S: 'mvc-secret' } });
  assert.equal(taken.code, 69);
  assert.match(taken.stderr, /is the client itself running\?/);
});
