import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { post } from '../support/sign-in.ts';
import { findFreePort } from '../support/start-server.ts';
import { type Installation, install } from './postern.ts';

const isWindows = process.platform === 'win32';

interface Toolkit extends Installation {
  redirectUri: string;
  /** Where the sign-in is kept, without `--store`. */
  file: string;
  env: { XDG_CONFIG_HOME: string };
  /** Runs `postern login` and signs alice in at the address that it prints. */
  signIn(args?: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }>;
  stored(): { refreshToken: string };
}

/** A running server whose client `miClient` comes back to a free port. */
async function setUp(t: TestContext, client: Record<string, unknown> = {}): Promise<Toolkit> {
  const redirectUri = `http://localhost:${await findFreePort()}/`;
  const installation = await install(t, {
    clients: { miClient: { RedirectUris: [redirectUri], ...client } },
  });
  await installation.spawn(['start']).waitFor(/Try next\n/);
  const home = join(installation.folder, 'home');
  const file = join(home, 'postern', 'login-miClient.json');
  const env = { XDG_CONFIG_HOME: home };
  return {
    ...installation,
    redirectUri,
    file,
    env,
    async signIn(args = []) {
      const command = installation.spawn(['login', 'miClient', '--no-browser', ...args], { env });
      const [address = ''] = /http:\S+connect\/authorize\S+/.exec(await command.waitFor(/S256\s/)) ?? [];
      const browser = createBrowser();
      const back = await browser.submit(await browser.open(address), {
        username: 'alice',
        password: 'Pass-word-1',
      });
      await fetch(back.location ?? '');
      return command.finish();
    },
    stored: () => JSON.parse(readFileSync(file, 'utf8')),
  };
}

function claimsOf(jwt: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString());
}

test('a script has its token from a sign-in that a person made before', async (t) => {
  const { run, signIn, stored, file, env } = await setUp(t);

  const { code, stdout, stderr } = await signIn();
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `signed in; the sign-in is kept in ${file}\n`);
  const { refreshToken } = stored();
  assert.ok(!(stdout + stderr).includes(refreshToken), 'the token is not shown');
  if (!isWindows) {
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.equal(statSync(join(file, '..')).mode & 0o777, 0o700);
  }

  const printed = await run(['login', 'miClient', '--token'], { env });
  assert.deepEqual([printed.code, printed.stderr], [0, '']);
  assert.match(printed.stdout, /^ey[^\s]+\n$/);
  const { sub, aud } = claimsOf(printed.stdout);
  assert.deepEqual([sub, aud], ['alice', 'mi']);
  // ReUse: the handle stays.
  assert.equal(stored().refreshToken, refreshToken);
});

test('a refresh token that rotates is replaced in its file, however many scripts use it at once', async (t) => {
  const { run, signIn, stored, spawn, file, env } = await setUp(t, { RefreshTokenUsage: 'OneTimeOnly' });
  await signIn();
  const before = stored().refreshToken;

  const scripts = [1, 2, 3].map(() => spawn(['login', 'miClient', '--token'], { env }).finish());
  for (const { code, stderr } of await Promise.all(scripts)) assert.equal(code, 0, stderr);

  assert.notEqual(stored().refreshToken, before);
  assert.equal((await run(['login', 'miClient', '--token'], { env })).code, 0);
  assert.deepEqual(readdirSync(join(file, '..')), ['login-miClient.json'], 'nothing is left beside it');
  if (!isWindows) assert.equal(statSync(file).mode & 0o777, 0o600);
});

test('a sign-in that is forgotten is good for nothing any more, here and at the server', async (t) => {
  const { run, signIn, file, env } = await setUp(t);
  await signIn();
  const copy = readFileSync(file);

  const forgotten = await run(['login', 'miClient', '--forget'], { env });
  assert.equal(forgotten.code, 0, forgotten.stderr);
  assert.equal(existsSync(file), false);
  const without = await run(['login', 'miClient', '--token'], { env });
  assert.equal(without.code, 1);
  assert.match(without.stderr, /there is no sign-in: .*\n {2}sign in first: postern login miClient/);

  writeFileSync(file, copy, { mode: 0o600 });
  const ended = await run(['login', 'miClient', '--token'], { env });
  assert.deepEqual([ended.code, ended.stdout], [1, '']);
  assert.match(ended.stderr, /has expired or was ended\n {2}sign in again: postern login miClient/);
});

test('a new sign-in ends the one that was kept before', async (t) => {
  const { run, signIn, stored, issuer, env } = await setUp(t);
  await signIn();
  const { refreshToken } = stored();

  const again = await signIn();

  assert.equal(again.code, 0, again.stderr);
  const { body } = await post(`${issuer}/connect/token`, {
    grant_type: 'refresh_token',
    client_id: 'miClient',
    refresh_token: refreshToken,
  });
  assert.equal(body.error, 'invalid_grant');
  assert.equal((await run(['login', 'miClient', '--token'], { env })).code, 0);
});

test('a sign-in that cannot be kept is ended', async (t) => {
  const { signIn, run, write, folder } = await setUp(t);
  await write('taken', 'a file where a folder would have to be');

  const { code, stdout, stderr } = await signIn(['--store', join(folder, 'taken', 'mi.json')]);

  assert.deepEqual([code, stdout], [73, '']);
  assert.match(stderr, /cannot be written/);
  assert.equal((await run(['token', 'list'])).stdout, 'there is no long-lived token\n');
});

test('a machine without the config files names the server, and --store the file', async (t) => {
  const { run, signIn, issuer, redirectUri, folder } = await setUp(t);
  const file = join(folder, 'elsewhere', 'mi.json');
  const place = ['--config', join(folder, 'none'), '--store', file];

  const { code, stderr } = await signIn([
    ...[...place, '--issuer', `${issuer}/`, '--redirect-uri', redirectUri],
    ...['--scope', 'openid mi', '--scope', 'offline_access'],
  ]);
  assert.equal(code, 0, stderr);

  const printed = await run(['login', 'miClient', '--token', ...place]);
  assert.equal(printed.code, 0, printed.stderr);
  assert.deepEqual(claimsOf(printed.stdout).scope, ['openid', 'mi', 'offline_access']);
});

test('a file that others can read is not used', { skip: isWindows && 'files have no modes' }, async (t) => {
  const { run, signIn, file, env } = await setUp(t);
  await signIn();
  chmodSync(file, 0o640);

  const { code, stdout, stderr } = await run(['login', 'miClient', '--token'], { env });

  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /can be read by others/);
});

test('a browser that cannot be started leaves the address on the screen', {
  skip: isWindows && 'needs links',
}, async (t) => {
  const { file, folder, signIn, spawn, env } = await setUp(t);
  const loop = join(folder, 'loop');
  symlinkSync(loop, loop);
  const command = spawn(['login', 'miClient'], { env: { ...env, BROWSER: loop } });
  await command.waitFor(/S256\s/);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(command.child.exitCode, null, command.output().stderr);
  command.child.kill('SIGKILL');
  await command.finish();
  assert.equal((await signIn()).code, 0);
  assert.ok(existsSync(file));
});

test('the browser that BROWSER names is opened', { skip: isWindows && 'needs a script' }, async (t) => {
  const { spawn, write, folder, env } = await setUp(t);
  const [script, opened] = [join(folder, 'browser'), join(folder, 'opened')];
  await write('browser', `#!/bin/sh\nprintf %s "$1" > "${opened}.part" && mv "${opened}.part" "${opened}"\n`);
  chmodSync(script, 0o700);

  const command = spawn(['login', 'miClient'], { env: { ...env, BROWSER: script } });
  const printed = await command.waitFor(/S256\s/);
  while (!existsSync(opened)) await new Promise((resolve) => setTimeout(resolve, 20));

  assert.ok(printed.includes(readFileSync(opened, 'utf8')));
  assert.match(readFileSync(opened, 'utf8'), /^http:.*client_id=miClient/);
});

test('what cannot be kept, or is asked for wrongly, is said before anybody signs in', async (t) => {
  const { run } = await install(t);
  for (const [args, reason] of [
    [['miClient', '--scope', 'openid'], /without the scope offline_access/],
    [['miClient', '--token', '--forget'], /exclude each other/],
    [['miClient', '--redirect-uri', 'http://localhost:1/'], /goes with --issuer/],
    [['batch'], /has no redirect URI/],
    [['miClient', '--issuer', 'login.example.com'], /is no http or https URL/],
    [
      ['miClient', '--issuer', 'http://localhost:1', '--redirect-uri', 'http://mi.example.com:32284/'],
      /must be of the form http:\/\/localhost/,
    ],
    [['nobody'], /there is no client "nobody"/],
  ] as const) {
    const { code, stdout, stderr } = await run(['login', ...args, '--no-browser']);
    assert.deepEqual([code, stdout], [64, ''], stderr);
    assert.match(stderr, reason);
  }
});
