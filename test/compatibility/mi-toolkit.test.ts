/**
 * The Python client of the MI Scripting Toolkit, request by request as its published versions send them (read off
 * the wire of 1.1.1, 1.2.2, 1.5.1, 2.0.2, 2.4.0 and 2.4.1), and what each of its answers must have for it.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from 'jose';
import { createBrowser, type Page } from '../support/browser.ts';
import { findFreePort, startTestServer, type TestServerOptions } from '../support/start-server.ts';

const fullScope = 'openid profile mi offline_access';
const redirectUri = 'http://localhost:32284/';

interface TokenAnswer {
  status: number;
  contentType: string | null;
  body: {
    access_token: string;
    refresh_token?: string;
    id_token?: string;
    expires_in?: number;
    scope?: string;
    token_type?: string;
    error?: string;
    error_description?: string;
  };
}

/** The client, as far as its requests go. What is undefined in `sends` is left out, as its older versions do. */
function createToolkit(issuer: string, { clientId = 'miClient', scope = fullScope, to = redirectUri } = {}) {
  const browser = createBrowser();
  // 64 random bytes make its verifier of 86 characters; `state` is the SHA-512 of the URL, so always the same.
  const verifier = randomBytes(64).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const state = createHash('sha512').update(`${issuer}/connect/authorize${scope}`).digest('hex');

  const authorizeUrl = (more = '') =>
    `${issuer}/connect/authorize?audience=None&client_id=${clientId}&scope=${quotePlus(scope)}` +
    `&response_type=code&state=${state}&redirect_uri=${quotePlus(to)}` +
    `&code_challenge=${challenge}&code_challenge_method=S256${more}`;

  async function signIn(url = authorizeUrl()): Promise<Page> {
    const page = await browser.open(url);
    return page.location === undefined
      ? browser.submit(page, { username: 'alice', password: 'Pass-word-1' })
      : page;
  }
  const codeOf = (back: Page) => back.location?.searchParams.get('code') ?? '';

  return {
    browser,
    state,
    authorizeUrl,
    signIn,
    codeOf,
    redeem: (code: string) =>
      postForm(issuer, [
        ['code_verifier', verifier],
        ['grant_type', 'authorization_code'],
        ['redirect_uri', to],
        ['client_id', clientId],
        ...(scope === '[]' ? [] : ([['scope', scope]] as const)),
        ['response_type', 'code'],
        ['code', code],
      ]),
    refresh: (refreshToken: string) =>
      postForm(issuer, [
        ['grant_type', 'refresh_token'],
        ['client_id', clientId],
        ...(scope === '[]' ? [] : ([['scope', scope]] as const)),
        ['response_type', 'code'],
        ['refresh_token', refreshToken],
      ]),
    async connect() {
      return this.redeem(codeOf(await signIn()));
    },
  };
}

/** Python's urllib quotes so: a blank is a plus. */
function quotePlus(text: string): string {
  return encodeURIComponent(text).replaceAll('%20', '+').replaceAll("'", '%27');
}

/** The headers of `requests` with those that the client overrides: neither a secret nor Basic. */
async function postForm(
  issuer: string,
  fields: readonly (readonly [string, string])[],
): Promise<TokenAnswer> {
  const response = await fetch(`${issuer}/connect/token`, {
    method: 'POST',
    headers: {
      'user-agent': 'python-requests/2.32.4',
      accept: 'application/json',
      'content-type': 'application/x-www-form-urlencoded;charset=UTF-8',
    },
    body: fields.map(([name, value]) => `${name}=${quotePlus(value)}`).join('&'),
  });
  return {
    status: response.status,
    contentType: response.headers.get('content-type'),
    body: (await response.json()) as TokenAnswer['body'],
  };
}

/** What the client needs of an answer of the token endpoint, or it opens the browser anew each time; its refresh token. */
function assertUsable({ status, contentType, body }: TokenAnswer): string {
  assert.equal(status, 200, JSON.stringify(body));
  assert.notEqual(contentType, 'text/html; charset=utf-8');
  assert.equal(typeof body.access_token, 'string');
  // It takes a token for expired 30 seconds before its end.
  assert.ok((body.expires_in ?? 0) > 30);
  assert.ok(body.refresh_token, 'a refresh token is in every answer');
  return body.refresh_token;
}

async function start(t: TestContext, options: TestServerOptions = {}) {
  const { issuer } = await startTestServer(t, options);
  return issuer;
}

for (const slash of ['', '/']) {
  test(`discovery is found under the authority ${slash === '' ? 'without' : 'with'} a slash, by a GET with the type of a form`, async (t) => {
    const issuer = await start(t);
    // Versions before 2.0.2 append ".well-known/…" as it is; those after put the slash in where it is missing.
    const authority = `${issuer}${slash}`;
    const url = `${authority.endsWith('/') ? authority : `${authority}/`}.well-known/openid-configuration`;

    const { status, body } = await getWithFormType(url);

    assert.equal(status, 200);
    const document = JSON.parse(body) as Record<string, string>;
    assert.equal(document.authorization_endpoint, `${issuer}/connect/authorize`);
    assert.equal(document.token_endpoint, `${issuer}/connect/token`);
  });
}

/** `fetch` would leave out the type of a body that is not there. */
async function getWithFormType(url: string): Promise<{ status: number | undefined; body: string }> {
  const request = httpRequest(url, {
    headers: {
      accept: 'application/json',
      'content-type': 'application/x-www-form-urlencoded;charset=UTF-8',
      audience: 'mi',
    },
  }).end();
  const [response] = await once(request, 'response');
  let body = '';
  for await (const chunk of response.setEncoding('utf8')) body += chunk;
  return { status: response.statusCode, body };
}

test('the toolkit signs in without nonce and prompt, with audience=None and a state of 128 digits', async (t) => {
  const issuer = await start(t);
  const toolkit = createToolkit(issuer);
  assert.match(toolkit.state, /^[0-9a-f]{128}$/);
  assert.doesNotMatch(toolkit.authorizeUrl(), /nonce|prompt|response_mode/);

  const login = await toolkit.browser.open(toolkit.authorizeUrl());
  assert.match(
    login.body,
    /<input[^>]*type="password"/,
    'the first page is the form: the wait is 60 seconds',
  );
  const back = await toolkit.browser.submit(login, { username: 'alice', password: 'Pass-word-1' });

  assert.equal(`${back.location?.origin}${back.location?.pathname}`, redirectUri);
  assert.equal(back.location?.searchParams.getAll('state').join(), toolkit.state);
  assert.equal(back.location?.searchParams.getAll('code').length, 1);
  assertUsable(await toolkit.redeem(toolkit.codeOf(back)));
});

test('the token call has response_type, the whole scope and no secret', async (t) => {
  const issuer = await start(t);
  const answer = await createToolkit(issuer).connect();

  assertUsable(answer);
  assert.equal(answer.body.token_type, 'Bearer');
  assert.equal(answer.body.expires_in, 1200);
  // requests-oauthlib compares it with what was asked for, without regard to the order.
  assert.deepEqual(answer.body.scope?.split(' ').sort(), fullScope.split(' ').sort());
});

test('the token is like the sample of the toolkit, and a server verifies it by itself', async (t) => {
  const issuer = await start(t);
  const { body } = await createToolkit(issuer).connect();

  const discovery = await fetch(`${issuer}/.well-known/openid-configuration`);
  const { jwks_uri: keys } = (await discovery.json()) as { jwks_uri: string };
  const jwks = (await (await fetch(keys)).json()) as JSONWebKeySet;
  const { payload } = await jwtVerify(body.access_token, createLocalJWKSet(jwks), { issuer, audience: 'mi' });

  const { alg, kid, typ } = decodeProtectedHeader(body.access_token);
  assert.deepEqual([alg, typ], ['RS256', 'at+jwt']);
  assert.ok(kid);
  const { nbf, exp, auth_time: authTime, ...rest } = payload;
  assert.deepEqual(rest, {
    iss: issuer,
    aud: 'mi',
    client_id: 'miClient',
    sub: 'alice',
    idp: 'local',
    scope: fullScope.split(' '),
    amr: ['pwd'],
  });
  assert.equal((exp ?? 0) - (nbf ?? 0), 1200);
  assert.equal(typeof authTime, 'number');
  assert.deepEqual(Object.keys(payload), [
    ...['nbf', 'exp', 'iss', 'aud', 'client_id', 'sub', 'auth_time', 'idp', 'scope', 'amr'],
  ]);
});

test('every refresh has a refresh token, and ReUse keeps the handle for the credential store', async (t) => {
  const issuer = await start(t);
  const toolkit = createToolkit(issuer);
  const { body } = await toolkit.connect();
  const stored = body.refresh_token ?? '';

  for (let use = 0; use < 3; use += 1) {
    const refreshed = await toolkit.refresh(stored);
    assertUsable(refreshed);
    assert.equal(refreshed.body.refresh_token, stored);
    assert.deepEqual(refreshed.body.scope?.split(' ').sort(), fullScope.split(' ').sort());
  }
});

test('codes and refresh tokens fit into 128 characters, the access token into 1,200 with twenty roles', async (t) => {
  const roles = Array.from({ length: 20 }, (_, index) => `MI-role-${index + 10}`);
  const issuer = await start(t, {
    accounts: [{ Name: 'alice', Password: 'Pass-word-1', Roles: roles }],
    resources: { mi: { Scopes: [{ Name: 'mi', Claims: ['role'] }] } },
  });
  const toolkit = createToolkit(issuer);
  const code = toolkit.codeOf(await toolkit.signIn());
  const { body } = await toolkit.redeem(code);

  assert.ok(code.length > 0 && code.length <= 128, `${code.length}`);
  assert.ok((body.refresh_token ?? '').length <= 128, `${body.refresh_token?.length}`);
  assert.deepEqual(decodeJwt(body.access_token).role, roles);
  assert.ok(body.access_token.length <= 1200, `${body.access_token.length}`);
});

test('a toolkit that was told no scope asks for [] and gets all that its client may have', async (t) => {
  const issuer = await start(t);
  const toolkit = createToolkit(issuer, { scope: '[]' });
  assert.match(toolkit.authorizeUrl(), /&scope=%5B%5D&/);

  const answer = await toolkit.connect();

  const refreshToken = assertUsable(answer);
  assert.deepEqual(answer.body.scope?.split(' ').sort(), fullScope.split(' ').sort());
  assertUsable(await toolkit.refresh(refreshToken));
});

test('a scope of brackets among others, or from a client without a user, is refused as any unknown one', async (t) => {
  const issuer = await start(t);
  const { browser, authorizeUrl } = createToolkit(issuer, { scope: 'openid []' });
  const back = await browser.open(authorizeUrl());
  assert.equal(back.location?.searchParams.get('error'), 'invalid_scope');

  const direct = await postForm(issuer, [
    ['grant_type', 'client_credentials'],
    ['client_id', 'batch'],
    ['client_secret', 'batch-secret'],
    ['scope', '[]'],
  ]);
  assert.equal(direct.body.error, 'invalid_scope');
});

for (const to of [
  'http://localhost:32284/',
  'http://localhost:32284',
  'http://localhost:49152/',
  'http://localhost:49152',
]) {
  test(`the browser comes back to ${to}`, async (t) => {
    const issuer = await start(t);
    const toolkit = createToolkit(issuer, { to });

    const back = await toolkit.signIn();

    assert.equal(back.location?.origin, new URL(to).origin);
    assertUsable(await toolkit.redeem(toolkit.codeOf(back)));
  });
}

test('a redirect to anywhere but the own machine is refused', async (t) => {
  const issuer = await start(t);
  for (const to of [
    'http://mi.example.com:32284/',
    'http://localhost:32284/other',
    'http://localhost.example.com/',
  ]) {
    const { browser, authorizeUrl } = createToolkit(issuer, { to });
    const page = await browser.open(authorizeUrl());
    assert.deepEqual([page.status, page.location], [400, undefined], to);
  }
});

test('the answer comes as a posted form where that is asked for', async (t) => {
  const issuer = await start(t);
  const toolkit = createToolkit(issuer);

  const page = await toolkit.signIn(toolkit.authorizeUrl('&response_mode=form_post'));

  assert.equal(page.status, 200);
  const form = /<form[^>]*action="([^"]*)"/.exec(page.body)?.[1];
  const field = (name: string) => new RegExp(`name="${name}" value="([^"]*)"`).exec(page.body)?.[1] ?? '';
  assert.equal(form, redirectUri);
  assert.equal(field('state'), toolkit.state);
  assertUsable(await toolkit.redeem(field('code')));
});

test('a second try after one that came too late needs no password', async (t) => {
  const issuer = await start(t);
  const toolkit = createToolkit(issuer);
  await toolkit.signIn();

  const again = await toolkit.browser.open(toolkit.authorizeUrl());

  assertUsable(await toolkit.redeem(toolkit.codeOf(again)));
});

test('the oldest toolkit sends no challenge, and is let in as mi-legacy alone', async (t) => {
  const issuer = await start(t);
  const authorizeUrl = (clientId: string) =>
    `${issuer}/connect/authorize?response_type=code&client_id=${clientId}` +
    `&redirect_uri=${quotePlus(redirectUri)}&scope=${quotePlus(fullScope)}&state=3EBHWaltFU3iaVgVAUSb8jHAURyKB2`;
  const toolkit = createToolkit(issuer, { clientId: 'mi-legacy' });

  const back = await toolkit.signIn(authorizeUrl('mi-legacy'));
  const answer = await postForm(issuer, [
    ['grant_type', 'authorization_code'],
    ['client_id', 'mi-legacy'],
    ['code', toolkit.codeOf(back)],
    ['redirect_uri', redirectUri],
  ]);
  const refreshToken = assertUsable(answer);
  assertUsable(
    await postForm(issuer, [
      ['grant_type', 'refresh_token'],
      ['refresh_token', refreshToken],
      ['scope', fullScope],
      ['client_id', 'mi-legacy'],
    ]),
  );

  const refused = await createBrowser().open(authorizeUrl('miClient'));
  assert.equal(refused.location?.searchParams.get('error'), 'invalid_request');
});

test('a refresh token that is dead is called so, in the JSON that the client shows', async (t) => {
  const issuer = await start(t);

  const { status, contentType, body } = await createToolkit(issuer).refresh('long-gone');

  assert.equal(status, 400);
  assert.match(contentType ?? '', /^application\/json/);
  assert.equal(body.error, 'invalid_grant');
  assert.ok(body.error_description);
});

test('the example of an MI server invites in the grammar of the client, and takes the tokens that are for it', async (t) => {
  const issuer = await start(t, {
    clients: { desk: { AllowedScopes: ['openid', 'profile', 'intelligence_web_api'] } },
  });
  const url = `http://localhost:${await findFreePort()}/`;
  const child = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      join(import.meta.dirname, '../../examples/mi-toolkit/server.ts'),
    ],
    { env: { ...process.env, ISSUER: issuer, MI_URL: url }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(async () => {
    child.kill('SIGKILL');
    await once(child, 'close');
  });
  await once(createInterface({ input: child.stdout }), 'line');
  const call = (token?: string) =>
    fetch(url, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });

  const invited = await call();
  assert.equal(invited.status, 401);
  assert.equal(
    invited.headers.get('www-authenticate'),
    `Bearer redirecturi="http://localhost:32284/", authority="${issuer}/", clientid="miClient", ` +
      'scope="openid profile mi offline_access"',
  );

  const { body } = await createToolkit(issuer).connect();
  const answered = await call(body.access_token);
  assert.equal(answered.status, 200);
  const { user, client, scopes } = (await answered.json()) as Record<string, unknown>;
  assert.deepEqual([user, client, scopes], ['alice', 'miClient', fullScope.split(' ')]);

  const other = await postForm(issuer, [
    ['grant_type', 'password'],
    ['client_id', 'desk'],
    ['client_secret', 'desk-secret'],
    ['username', 'alice'],
    ['password', 'Pass-word-1'],
    ['scope', 'openid intelligence_web_api'],
  ]);
  assert.equal(other.status, 200);
  for (const token of [other.body.access_token, `${body.access_token.slice(0, -6)}AAAAAA`, 'nonsense']) {
    assert.equal((await call(token)).status, 401);
  }
});
