/**
 * What is kept, and what is written down: a tour through everything that a user, a client or an attacker does, of
 * which every secret is noted as it goes over the wire; then the database, its files, the log at its most talkative
 * and the audit log are searched for each of them.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createBrowser, type Page } from '../support/browser.ts';
import { identity, startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, basic, isSignedIn, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

/** Fields, parameters and members whose values are secrets, wherever they are sent or answered. */
const secretNames = new Set([
  ...['password', 'newPassword', 'repeatPassword', 'currentPassword', 'client_secret'],
  ...['code', 'code_verifier', 'refresh_token', 'access_token', 'id_token', 'token', 'id_token_hint'],
  ...['csrf', 'xsrf', 'wresult', 'logout_token', 'ticket', 'attempt', 'client_assertion'],
]);

/** Notes every secret that a request or its answer holds, by what it is. */
function watchSecrets(t: TestContext) {
  const seen = new Map<string, string>();
  const note = (value: string | null | undefined, what: string) => {
    if (value && value.length > 5) seen.set(value, what);
  };
  const noteAll = (parameters: URLSearchParams, where: string) => {
    for (const [name, value] of parameters) if (secretNames.has(name)) note(value, `${name} ${where}`);
  };
  const { fetch } = globalThis;
  t.after(() => {
    globalThis.fetch = fetch;
  });
  globalThis.fetch = async (input, init) => {
    const headers = new Headers(init?.headers);
    noteAll(new URL(String(input)).searchParams, 'in an address');
    if (init?.body instanceof URLSearchParams) noteAll(init.body, 'in a form');
    const [, scheme = '', credentials = ''] = /^(\w+) (.*)$/.exec(headers.get('authorization') ?? '') ?? [];
    if (scheme === 'Bearer') note(credentials, 'bearer');
    if (scheme === 'Basic') {
      note(credentials, 'Basic');
      note(
        Buffer.from(credentials, 'base64')
          .toString()
          .replace(/^[^:]*:/, ''),
        'secret in Basic',
      );
    }
    const response = await fetch(input, init);
    for (const line of response.headers.getSetCookie()) {
      const [, value = ''] = /^[^=]+=([^;]*)/.exec(line) ?? [];
      // The name of an identity provider is no secret.
      if (!line.startsWith('postern.provider=')) note(decodeURIComponent(value), 'cookie');
    }
    const location = response.headers.get('location');
    if (location !== null) noteAll(new URL(location, String(input)).searchParams, 'in a redirect');
    const text = await response.clone().text();
    for (const [name, value] of fieldsOf(text)) if (secretNames.has(name)) note(value, `${name} in a page`);
    try {
      for (const [name, value] of Object.entries(JSON.parse(text) as object)) {
        if (secretNames.has(name)) note(value as string, `${name} in an answer`);
      }
    } catch {
      // No JSON.
    }
    return response;
  };
  return { seen, note };
}

function* fieldsOf(html: string): Generator<[string, string]> {
  for (const [input] of html.matchAll(/<input[^>]*>/g)) {
    const value = /value="([^"]*)"/.exec(input)?.[1] ?? '';
    const text = value
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll('&quot;', '"')
      .replaceAll('&amp;', '&');
    yield [/name="([^"]*)"/.exec(input)?.[1] ?? '', text];
  }
}

/** The spellings in which a secret could stand somewhere. */
function spellingsOf(secret: string): string[] {
  const bytes = Buffer.from(secret);
  // Of a token and an assertion the parts as well: a claim set alone is not the secret, a signature is.
  const signature = /^[\w-]+\.[\w-]+\.([\w-]{20,})$/.exec(secret)?.[1];
  const signed = /<(?:\w+:)?SignatureValue>([^<]{40})/.exec(secret)?.[1];
  return [
    ...[secret, encodeURIComponent(secret), new URLSearchParams([['', secret]]).toString().slice(1)],
    ...[JSON.stringify(secret).slice(1, -1), bytes.toString('base64'), bytes.toString('base64url')],
    ...[bytes.toString('hex')],
    ...[signature, signed].filter((part) => part !== undefined),
  ];
}

/** Every table and column of the database, and every byte of its files, deleted rows and journal included. */
async function readStore({ configDirectory, context }: TestServer): Promise<string> {
  const tables = (await context.db.knex('sqlite_master').where({ type: 'table' }).select('name')) as {
    name: string;
  }[];
  const rows = await Promise.all(tables.map(async ({ name }) => context.db.knex(name).select()));
  assert.ok(rows.flat().length > 10, 'there is something in it');
  const folder = join(dirname(configDirectory), 'data');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => !/^(audit|keys)/.test(name) && statSync(join(folder, name)).isFile())
    .map((name) => readFileSync(join(folder, name), 'latin1'));
  assert.ok(
    files.some((text) => text.startsWith('SQLite format 3')),
    'the file of the database is read',
  );
  return JSON.stringify(rows) + files.join('\n');
}

test('after a tour through everything no secret, token, code, cookie or assertion is in the database, the log or the audit log', async (t) => {
  const { seen, note } = watchSecrets(t);
  const openId = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice', sid: 's-1' });
  const wsFedAnswer = { claims: { [`${identity}/upn`]: 'bob' } };
  const wsFed = await startWsFedProvider(t, wsFedAnswer);
  const logoutCalls: string[] = [];
  const client = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    logoutCalls.push(new URLSearchParams(Buffer.concat(chunks).toString()).get('logout_token') ?? '');
    response.writeHead(500).end();
  });
  await new Promise<void>((resolve) => client.listen(0, '127.0.0.1', resolve));
  t.after(() => client.close());
  const server = await startTestServer(t, {
    server: { Audit: { To: 'folder' }, EnableTokenValidationEndpoints: true },
    providers: {
      Partner: {
        ...{ Type: 'Oidc', Authority: openId.issuer, ClientId: openId.clientId },
        ...{ ClientSecret: { plain: 'the-secret-of-the-partner' }, UserNameClaims: ['preferred_username'] },
      },
      Elsewhere: { Type: 'WsFed', MetadataAddress: wsFed.metadataAddress },
    },
    clients: {
      mvc: {
        IdentityProviderRestrictions: ['Partner', 'Elsewhere'],
        AccessTokenType: 'Reference',
        BackChannelLogoutUri: `http://localhost:${(client.address() as AddressInfo).port}/logout`,
      },
      old: {
        ...{
          Flow: 'Hybrid',
          ClientSecrets: [{ Value: { plain: 'the-secret-of-old' } }],
          EnableLocalLogin: true,
        },
        ...{ RedirectUris: ['https://old.example/callback'], AllowedScopes: ['openid', 'profile'] },
        AllowAccessTokensViaBrowser: true,
      },
    },
    relyingParties: { app: { Realm: 'urn:app', ReplyUrls: ['https://app.example/reply'] } },
  });
  server.context.log.level = 'trace';
  const { issuer } = server;
  note('the-secret-of-the-partner', 'secret at the identity provider');
  note('the-secret-of-old', 'secret of a client');
  note('web-api-secret', 'secret of a resource');
  let stored = '';
  const look = async () => {
    stored += await readStore(server);
  };

  // At the page: wrong, then right, with the password in the field of the name in between.
  const browser = createBrowser();
  const scope = `${mvc.scope} offline_access`;
  const attempt = await authorize({ issuer, ...mvc, scope, browser });
  await attempt.signIn(attempt.page, 'alice', 'a-wrong-password');
  await attempt.signIn(attempt.page, 'Typed-In-The-Wrong-Field-1', 'Pass-word-1');
  note('Typed-In-The-Wrong-Field-1', 'password in the field of the name');
  const back = await attempt.signIn();
  assert.ok(isSignedIn(back));
  await look();
  await attempt.redeem(back, { code_verifier: 'w'.repeat(43) });
  await look();

  // Codes and refresh tokens, right, wrong and again.
  const first = await signInAndRedeem({ issuer, ...mvc, scope, browser });
  const token = `${issuer}/connect/token`;
  const refresh = (value: string, secret: string = mvc.secret) =>
    post(token, { grant_type: 'refresh_token', refresh_token: value }, basic('mvc', secret));
  await refresh(first.body.refresh_token, 'a-wrong-client-secret');
  const second = await refresh(first.body.refresh_token);
  assert.ok(second.body.refresh_token);
  await refresh('A-refresh-token-that-never-was');
  await look();
  await attempt.redeem(first.back);
  const third = await signInAndRedeem({ issuer, ...mvc, scope, browser });
  await look();

  // Direct grants, introspection, revocation, userinfo, by right and wrong credentials in both places.
  const desk = { grant_type: 'password', username: 'alice', scope: 'openid offline_access' };
  await post(token, { ...desk, password: 'Pass-word-1' }, basic('desk', 'desk-secret'));
  await post(token, { ...desk, password: 'another-wrong-password' }, basic('desk', 'desk-secret'));
  await post(token, { ...desk, password: 'Pass-word-1', client_id: 'desk', client_secret: 'not-the-secret' });
  await post(token, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
  await post(token, { grant_type: 'client_credentials' }, basic('batch-ref', 'batch-ref-secret'));
  await post(token, { grant_type: 'client_credentials', client_id: 'batch', client_secret: 'batch-secret' });
  for (const value of [
    third.body.access_token,
    third.body.id_token,
    third.body.refresh_token,
    'bm8tc3VjaC10b2tlbi1oZXJl.dGhhdC1pcy1sb25nLWVub3VnaA.Zm9yLWEtdG9rZW4tYXQtYWxs',
  ]) {
    for (const secret of ['web-api-secret', 'not-the-web-api-secret']) {
      await post(`${issuer}/connect/introspect`, { token: value }, basic('intelligence_web_api', secret));
    }
    await post(`${issuer}/connect/accessTokenValidation`, { token: value });
    await fetch(`${issuer}/connect/userinfo`, { headers: { authorization: `Bearer ${value}` } });
    await fetch(`${issuer}/connect/userinfo?access_token=${encodeURIComponent(value)}`);
    await fetch(`${issuer}/${value}`);
  }
  // Id and secret in each other's place, as whoever sets up a resource may have them at first.
  for (const path of ['introspect', 'revocation', 'token']) {
    const mixedUp = basic('web-api-secret', 'intelligence_web_api');
    assert.equal((await post(`${issuer}/connect/${path}`, { token: 'x' }, mixedUp)).status, 401);
  }
  seen.delete('intelligence_web_api');
  await post(`${issuer}/connect/revocation`, { token: third.body.access_token }, basic('mvc', mvc.secret));

  // In every place where they do not belong.
  await fetch(token, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      client_id: 'desk',
      client_secret: 'desk-secret',
      password: 'Pass-word-1',
      broken: true,
    }).slice(0, -1),
  });
  await fetch(`${token}?client_id=desk&client_secret=desk-secret&password=Pass-word-1`, { method: 'POST' });
  await post(
    token,
    { grant_type: third.body.refresh_token, scope: third.body.refresh_token },
    basic('mvc', mvc.secret),
  );
  await post(
    token,
    { grant_type: 'client_credentials', scope: 'batch-secret' },
    basic('batch', 'batch-secret'),
  );
  await browser.request(`${issuer}/connect/authorize?client_id=mvc&redirect_uri=${third.body.refresh_token}`);
  await browser.request(
    `${issuer}/connect/authorize?client_id=mvc&prompt=${third.body.refresh_token}&redirect_uri=${encodeURIComponent(mvc.redirectUri)}&response_type=code&scope=openid`,
  );
  await browser.request(
    `${issuer}/connect/authorize?id_token_hint=${third.body.id_token}x&client_id=mvc&redirect_uri=${encodeURIComponent(mvc.redirectUri)}&response_type=code&scope=openid`,
  );
  await browser.request(`${issuer}/login/${third.body.refresh_token}`);
  await browser.request(
    `${issuer}/callback/oidc/Partner?code=a-code-nobody-waits-for&state=a-state-nobody-waits-for`,
  );

  // An ID token and an access token in the front channel.
  const hybrid = await authorize({
    ...{
      issuer,
      clientId: 'old',
      redirectUri: 'https://old.example/callback',
      scope: 'openid profile',
      browser,
    },
    parameters: { response_type: 'code id_token token', nonce: 'n-1' },
  });
  const fragment = new URLSearchParams(hybrid.page.location?.hash.slice(1));
  for (const name of ['code', 'id_token', 'access_token']) note(fragment.get(name), `${name} in a fragment`);
  assert.ok(fragment.get('id_token'), String(hybrid.page.location));

  // Elsewhere: OpenID Connect, then WS-Federation with the same answer twice and a broken one.
  const outside = createBrowser();
  const leave = async (provider: string) => {
    const { page } = await authorize({ issuer, ...mvc, browser: outside, parameters: { prompt: 'login' } });
    return outside.submit(page, { provider });
  };
  const atPartner = await leave('Partner');
  note(atPartner.location?.searchParams.get('state'), 'state at the identity provider');
  await look();
  const answered = await outside.open(atPartner.location ?? '');
  await look();
  assert.ok(isSignedIn(await outside.open(answered.location ?? '')));
  for (const { form, authorization, idToken } of openId.tokenCalls) {
    for (const name of ['code', 'code_verifier']) note(form.get(name), `${name} at the identity provider`);
    note(authorization.replace('Basic ', ''), 'Basic at the identity provider');
    note(idToken, 'ID token of the identity provider');
  }
  assert.ok(openId.tokenCalls[0]?.form.get('code_verifier'));
  const atWsFed = await leave('Elsewhere');
  note(atWsFed.location?.searchParams.get('wctx'), 'wctx at the identity provider');
  const form = await outside.open(atWsFed.location ?? '');
  const [, wresult] = [...fieldsOf(form.body)].find(([name]) => name === 'wresult') ?? [];
  const wsFedBack = await outside.submit(form, {});
  assert.ok(wsFedBack.status === 200 || isSignedIn(wsFedBack));
  if (!isSignedIn(wsFedBack)) assert.ok(isSignedIn(await outside.submit(wsFedBack, {})), wsFedBack.body);
  const replay: Page = await outside.open((await leave('Elsewhere')).location ?? '');
  await outside.submit(replay, { wresult });
  const broken: Page = await outside.open((await leave('Elsewhere')).location ?? '');
  await outside.submit(broken, { wresult: wresult?.replace('bob', 'alice') });
  await look();

  // The WsFed application, with a wrong password, a right one, and a sign-out.
  const windows = createBrowser();
  const wsFedUrl = `${server.url}/SPSSMR/WsFed?wa=wsignin1.0&wtrealm=urn:app&wctx=c`;
  await windows.submit(await windows.open(wsFedUrl), { username: 'bob', password: 'wrong-at-wsfed' });
  const assertion = await windows.submit(await windows.open(wsFedUrl), {
    username: 'bob',
    password: 'Pass-word-1',
  });
  assert.match(assertion.body, /name="wresult"/);
  await look();
  await windows.open(`${server.url}/SPSSMR/WsFed?wa=wsignout1.0`);

  // A new password, by a user who must, with one that is refused first.
  await server.context.accounts.setPassword('bob', 'Temporary-1-of-the-admin', { mustChange: true });
  note('Temporary-1-of-the-admin', 'password');
  const forced = await authorize({ issuer, ...mvc });
  const change = await forced.signIn(forced.page, 'bob', 'Temporary-1-of-the-admin');
  await look();
  await forced.browser.submit(change, { newPassword: 'short', repeatPassword: 'other-one' });
  const chosen = { newPassword: 'Chosen-by-bob-77', repeatPassword: 'Chosen-by-bob-77' };
  assert.ok(isSignedIn(await forced.browser.submit(change, chosen)));
  await look();

  // Out again: the client's endpoint fails, and is called again.
  await browser.open(
    `${issuer}/connect/endsession?${new URLSearchParams({ id_token_hint: third.body.id_token, post_logout_redirect_uri: 'http://localhost:5090/' })}`,
  );
  for (let round = 0; round < 100 && logoutCalls.length < 1; round += 1)
    await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(logoutCalls[0]);
  note(logoutCalls[0], 'logout token');
  await forced.browser.submit(await forced.browser.open(`${issuer}/connect/endsession`), { logout: 'yes' });
  await look();

  // While the database fails, and while the identity provider does.
  const late = await outside.open((await leave('Partner')).location ?? '');
  await openId.stop();
  const stranded = await outside.open(late.location ?? '');
  assert.ok(!isSignedIn(stranded));
  await server.context.db.knex.schema.renameTable('OidcToken', 'Away');
  const failed = await post(token, { ...desk, password: 'Pass-word-1' }, basic('desk', 'desk-secret'));
  assert.equal(failed.status, 500);
  await post(
    `${issuer}/connect/introspect`,
    { token: first.body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  await browser.request(`${issuer}/connect/authorize?client_id=mvc`, {
    headers: { authorization: 'Bearer another-token-here' },
  });
  await server.context.db.knex.schema.renameTable('Away', 'OidcToken');

  const folder = join(dirname(server.configDirectory), 'data/audit');
  const audited = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'));
  const places = { database: stored, log: server.logText(), 'audit log': audited.join('') };
  assert.ok(places.log.includes('request answered') && places['audit log'].includes('"token"'));
  const kinds = new Set([...seen.values()].map((what) => what.split(' ')[0]));
  for (const kind of [
    'password',
    'secret',
    'code',
    'refresh_token',
    'cookie',
    'wresult',
    'ticket',
    'csrf',
    'bearer',
  ])
    assert.ok(kinds.has(kind), `the tour has seen a ${kind}`);
  assert.ok(seen.size > 80, `${seen.size} secrets`);

  const found = [...seen].flatMap(([secret, what]) =>
    Object.entries(places)
      .filter(([, text]) => spellingsOf(secret).some((spelling) => text.includes(spelling)))
      .map(([place]) => `${what} is in the ${place}: ${secret.slice(0, 12)}…`),
  );
  assert.deepEqual(found, []);
});
