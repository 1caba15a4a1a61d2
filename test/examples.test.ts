import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test, { type TestContext } from 'node:test';
import { createBrowser, type Page } from './support/browser.ts';
import { basic, post } from './support/sign-in.ts';
import { findFreePort, prepareConfiguration, startTestServer } from './support/start-server.ts';

const root = join(import.meta.dirname, '..');

/** Runs a program of ours and resolves when it has printed `sign`. */
async function run(
  t: TestContext,
  args: readonly string[],
  { sign, env = {}, cwd = root }: { sign: string; env?: Record<string, string>; cwd?: string },
): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  let printed = '';
  child.stderr?.on('data', (chunk) => {
    printed += chunk;
  });
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      printed += `${line}\n`;
      if (line.includes(sign)) resolve();
    });
    child.once('exit', (code) => reject(new Error(`${args.join(' ')} ended with ${code}: ${printed}`)));
  });
  return child;
}

/** A server that knows the example application on a free port, and where the examples are to listen. */
async function setUp(t: TestContext, client: Record<string, unknown> = {}) {
  const mvcUrl = `http://localhost:${await findFreePort()}`;
  const apiUrl = `http://localhost:${await findFreePort()}`;
  const server = await startTestServer(t, {
    clients: {
      mvc: { RedirectUris: [`${mvcUrl}/callback`], PostLogoutRedirectUris: [`${mvcUrl}/`], ...client },
    },
  });
  const env = { ISSUER: server.issuer, WEB_API_URL: apiUrl, MVC_URL: mvcUrl };
  return { server, mvcUrl, apiUrl, env };
}

/** The example application with a browser before it. */
async function setUpMvc(t: TestContext, client?: Record<string, unknown>) {
  const place = await setUp(t, client);
  await run(t, ['examples/web-api/server.ts'], { sign: 'web-api', env: place.env });
  await run(t, ['examples/mvc/server.ts'], { sign: 'mvc', env: place.env });
  const browser = createBrowser();
  const { origin } = new URL(place.server.issuer);

  /** Presses the button of the form with this action, and goes wherever that leads. */
  async function press(action: string): Promise<Page> {
    let page = await browser.request(place.mvcUrl + action, { method: 'POST', body: '' });
    for (let hop = 0; page.location !== undefined; hop += 1) {
      assert.ok(hop < 10, `redirect loop at ${page.location}`);
      page = await browser.request(page.location);
    }
    return page;
  }
  async function signIn(): Promise<Page> {
    const login = await press('/login');
    assert.equal(login.url.origin, origin);
    const back = await browser.submit(login, { username: 'alice', password: 'Pass-word-1' });
    return browser.open(back.location ?? '');
  }
  return { ...place, browser, press, signIn };
}

test('the example application signs a user in, calls the API, refreshes and signs out', async (t) => {
  const { browser, mvcUrl, press, signIn } = await setUpMvc(t);
  assert.match((await browser.open(mvcUrl)).body, /Nobody is signed in/);

  const home = await signIn();
  assert.match(home.body, /Hello, Alice Ashworth/);
  assert.match(home.body, /alice@example\.com/);
  assert.match(home.body, /Administrator, Researcher/);

  const called = await press('/call-api');
  assert.match(
    called.body,
    /answered 200: \{&quot;user&quot;:&quot;alice&quot;,&quot;client&quot;:&quot;mvc&quot;/,
  );
  assert.match((await press('/refresh')).body, /New tokens have come/);
  assert.match((await press('/call-api')).body, /answered 200/);

  assert.match((await press('/logout')).body, /Nobody is signed in/);
  // Postern has forgotten the user as well.
  assert.match((await press('/login')).body, /type="password"/);
});

test('the example application says so when the user cancels', async (t) => {
  const { browser, press } = await setUpMvc(t);
  const login = await press('/login');
  const back = await browser.submit(login, { action: 'cancel' });
  const page = await browser.open(back.location ?? '');

  assert.equal(page.status, 400);
  assert.match(page.body, /You are not signed in: /);
});

test('the example application takes no code that its user did not ask for', async (t) => {
  const { browser, mvcUrl } = await setUpMvc(t);
  const page = await browser.open(`${mvcUrl}/callback?code=somebody-elses&state=x`);

  assert.equal(page.status, 400);
  assert.match(page.body, /not started here/);
});

test('the example application starts a new session at the sign-in, and refuses posts from other origins', async (t) => {
  const { browser, mvcUrl, press, signIn } = await setUpMvc(t);
  const sessionId = () => browser.cookies().find(({ name }) => name === 'mvc.session')?.value;
  await press('/login');
  const before = sessionId();
  await signIn();

  assert.ok(before);
  assert.notEqual(sessionId(), before);
  const foreign = await browser.request(`${mvcUrl}/logout`, {
    method: 'POST',
    body: '',
    headers: { origin: 'http://localhost:1' },
  });
  assert.equal(foreign.status, 403);
});

test('the example application asks to sign in again when its refresh token has been revoked', async (t) => {
  const { server, press, signIn } = await setUpMvc(t);
  await signIn();
  await server.context.tokens.revokeAccount('alice');

  const page = await press('/refresh');
  assert.match(page.body, /Please sign in again/);
  assert.match(page.body, /Nobody is signed in/);
});

for (const clientId of ['batch', 'batch-ref'] as const) {
  test(`the example API takes a token of ${clientId} until it is revoked, and no other`, async (t) => {
    const { server, apiUrl, env } = await setUp(t);
    await run(t, ['examples/web-api/server.ts'], { sign: 'web-api', env });
    const credentials = basic(clientId, `${clientId}-secret`);
    const ask = (token?: string) =>
      fetch(`${apiUrl}/whoami`, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });

    const without = await ask();
    assert.deepEqual([without.status, without.headers.get('www-authenticate')], [401, 'Bearer']);
    const bad = await ask('nonsense');
    assert.equal(bad.status, 401);
    assert.match(bad.headers.get('www-authenticate') ?? '', /^Bearer error="invalid_token"$/);

    const { body } = await post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      credentials,
    );
    assert.deepEqual(await (await ask(body.access_token)).json(), {
      user: clientId === 'batch' ? 'batch' : null,
      client: clientId,
      scopes: ['intelligence_web_api'],
    });

    await post(`${server.issuer}/connect/revocation`, { token: body.access_token }, credentials);
    assert.equal((await ask(body.access_token)).status, 401);
  });
}

test('a token without a scope of the example API is none for it', async (t) => {
  const { server, apiUrl, env } = await setUp(t);
  await run(t, ['examples/web-api/server.ts'], { sign: 'web-api', env });
  const { body } = await post(
    `${server.issuer}/connect/token`,
    { grant_type: 'password', username: 'alice', password: 'Pass-word-1', scope: 'openid profile' },
    basic('desk', 'desk-secret'),
  );

  assert.ok(body.access_token);
  const response = await fetch(`${apiUrl}/whoami`, {
    headers: { authorization: `Bearer ${body.access_token}` },
  });
  assert.equal(response.status, 401);
});

/** Whether anything answers there. */
async function answers(url: string): Promise<boolean> {
  return fetch(url).then(
    () => true,
    () => false,
  );
}

test('npm run example uses a Postern that is running, and leaves it running when it is stopped', async (t) => {
  const { server, mvcUrl, apiUrl, env } = await setUp(t);
  const example = await run(t, ['examples/start.ts'], { sign: 'The example is ready', env });
  assert.deepEqual([await answers(mvcUrl), await answers(apiUrl)], [true, true]);

  example.disconnect();
  const [code] = await once(example, 'exit');
  assert.equal(code, 0);
  assert.deepEqual(
    [await answers(mvcUrl), await answers(apiUrl), await answers(`${server.issuer}/`)],
    [false, false, true],
  );
});

test('npm run example starts a Postern where none is running, and stops it with the rest', async (t) => {
  const mvcUrl = `http://localhost:${await findFreePort()}`;
  const apiUrl = `http://localhost:${await findFreePort()}`;
  const { folder, port } = await prepareConfiguration(t);
  const issuer = `http://localhost:${port}/SPSSMR/Oidc`;
  for (const part of ['bin', 'examples', 'migrations', 'src', 'package.json']) {
    cpSync(join(root, part), join(folder, part), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'), 'junction');
  mkdirSync(join(folder, 'elsewhere'));
  const example = await run(t, ['../examples/start.ts'], {
    sign: 'The example is ready',
    env: { ISSUER: issuer, WEB_API_URL: apiUrl, MVC_URL: mvcUrl },
    cwd: join(folder, 'elsewhere'),
  });
  assert.equal(await answers(`${issuer}/`), true);

  example.disconnect();
  const [code] = await once(example, 'exit');
  assert.equal(code, 0);
  assert.deepEqual(
    [await answers(mvcUrl), await answers(apiUrl), await answers(`${issuer}/`)],
    [false, false, false],
  );
});
