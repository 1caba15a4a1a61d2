/** RFC 9700, what is not tested elsewhere: redirect URIs, PKCE, mix-up, errors of several at once, large families. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { authorize, basic, isSignedIn, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const good = {
  ...{ client_id: 'mvc', redirect_uri: mvc.redirectUri, response_type: 'code' },
  ...{ scope: 'openid', state: 's' },
};
const challenge = 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM';

test('RFC 9700 sections 2.1 and 4.1.3, CVE row 1: of a program on the user’s machine the port may differ, and nothing else', async (t) => {
  const { issuer } = await startTestServer(t);
  const native = {
    ...good,
    client_id: 'miClient',
    scope: 'openid mi',
    code_challenge: challenge,
    code_challenge_method: 'S256',
  };
  const ask = (redirect_uri: string) =>
    createBrowser().request(
      `${issuer}/connect/authorize?${new URLSearchParams({ ...native, redirect_uri })}`,
    );
  for (const uri of ['http://localhost:32284/', 'http://localhost:5/', 'http://localhost/']) {
    assert.equal((await ask(uri)).status, 303, uri);
  }
  for (const uri of [
    ...[
      'http://localhost:80@evil.example/',
      'http://localhost@evil.example/',
      'http://localhost.evil.example/',
    ],
    ...['http://127.0.0.1:32284/', 'http://[::1]:32284/', 'http://0.0.0.0:32284/', 'http://127.1:32284/'],
    ...[
      'https://localhost:32284/',
      'http://localhost:32284/x',
      'http://localhost:32284/?x=1',
      'http://localhost:32284/#x',
    ],
    ...[
      'http://LOCALHOST.:32284/',
      'http://localhost:32284/..;/',
      'http://localhost:32284/%2e%2e/',
      'http://localhost:99999/',
    ],
    ...[
      'http://localhost:32284\\@evil.example/',
      'http:///localhost:32284/',
      'http:localhost:32284/',
      ' http://localhost:32284/',
    ],
    ...[
      'http://localhost:32284/%252f..',
      'HTTP://EVIL.EXAMPLE/',
      'javascript:alert(1)//localhost:32284/',
      'localhost:32284',
    ],
  ]) {
    const page = await ask(uri);
    assert.deepEqual([page.status, page.location], [400, undefined], uri);
  }
});

test('RFC 9700 sections 2.1.1 and 4.8, ASVS 10.4.6: PKCE is S256 and nothing weaker, with verifiers of 43 to 128 characters', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const parameters of [
    { code_challenge: challenge },
    { code_challenge: challenge, code_challenge_method: '' },
    { code_challenge: challenge, code_challenge_method: 'plain' },
    { code_challenge: challenge, code_challenge_method: 's256' },
    { code_challenge: challenge, code_challenge_method: 'S512' },
    { code_challenge_method: 'S256' },
    { code_challenge: 'x'.repeat(42), code_challenge_method: 'S256' },
    { code_challenge: 'x'.repeat(129), code_challenge_method: 'S256' },
    { code_challenge: `${challenge}=`, code_challenge_method: 'S256' },
  ]) {
    const page = await createBrowser().request(
      `${issuer}/connect/authorize?${new URLSearchParams({ ...good, ...parameters })}`,
    );
    assert.equal(page.location?.searchParams.get('error'), 'invalid_request', JSON.stringify(parameters));
  }
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  for (const verifier of ['', 'x', 'x'.repeat(42), 'x'.repeat(129), 'ä'.repeat(43), `${'x'.repeat(43)} `]) {
    const attempt = await authorize({ issuer, ...mvc, browser });
    const { body } = await attempt.redeem(attempt.page, { code_verifier: verifier });
    assert.match(body.error ?? '', /^invalid_(grant|request)$/, verifier);
  }
});

test('RFC 9700 section 4.4, ASVS 10.2.2: every answer to a client names the issuer, in each mode, errors included', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: {
      old: {
        ...{ Flow: 'Hybrid', ClientSecrets: [{ Value: { plain: 'old-secret' } }], EnableLocalLogin: true },
        ...{ RedirectUris: ['https://old.example/callback'], AllowedScopes: ['openid'] },
      },
    },
  });
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  const ask = async (parameters: Record<string, string>) => {
    const page = await browser.open(
      `${issuer}/connect/authorize?${new URLSearchParams({ ...good, ...parameters })}`,
    );
    const posted = [...page.body.matchAll(/name="(\w+)" value="([^"]*)"/g)].map(
      ([, name = '', value = '']): [string, string] => [name, value],
    );
    const answer = new URLSearchParams(page.location?.search || page.location?.hash.slice(1));
    return posted.length > 0 ? new URLSearchParams(posted) : answer;
  };
  const old = { client_id: 'old', redirect_uri: 'https://old.example/callback', nonce: 'n' };
  for (const [what, parameters] of Object.entries({
    'a code': {},
    'a code in a form': { response_mode: 'form_post' },
    'an unknown scope': { scope: 'openid nonsense' },
    'a wrong response type': { response_type: 'token' },
    'an error in a form': { scope: 'openid nonsense', response_mode: 'form_post' },
    'no sign-in': { prompt: 'none', max_age: '0' },
    'an error of a hybrid client': { ...old, response_type: 'code id_token', scope: 'openid nonsense' },
  })) {
    const answer = await ask(parameters);
    assert.ok(answer.has('code') || answer.has('error'), `${what}: ${answer}`);
    assert.equal(answer.get('iss'), issuer, what);
  }
  // Where there is an ID token that says it (RFC 9207 section 2.3).
  const hybrid = await ask({ ...old, response_type: 'code id_token' });
  assert.equal(decodeJwt(hybrid.get('id_token') ?? '').iss, issuer);
});

test('CVE row 4: who cancels a new sign-in is who they were, at the client and here', async (t) => {
  const { issuer } = await startTestServer(t);
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  const again = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  const cancelled = await browser.submit(again.page, { action: 'cancel' });
  assert.equal(cancelled.location?.searchParams.get('error'), 'access_denied');
  assert.equal(cancelled.location?.searchParams.get('code'), null);
  const quiet = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'none' } });
  const { body } = await quiet.redeem(quiet.page);
  assert.equal(decodeJwt(body.id_token).sub, 'alice');
});

test('ASVS 10.7.1: consent is of who gave it, and not of another user who has to sign in before it counts', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const asks = {
    ...{ Flow: 'AuthorizationCode', EnableLocalLogin: true, RequireConsent: true },
    ...{ ClientSecrets: [{ Value: { plain: 'mvc-secret' } }], RedirectUris: [mvc.redirectUri] },
    AllowedScopes: ['openid', 'profile', 'intelligence_web_api'],
  };
  const server = await startTestServer(t, { clients: { asks } });
  const { browser } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const client = { issuer: server.issuer, ...mvc, clientId: 'asks' };
  t.mock.timers.tick(50_000);
  const attempt = await authorize({ ...client, browser, parameters: { max_age: '60' } });
  assert.match(attempt.page.body, /name="scope"/, 'the sign-in is new enough, and consent is asked for');

  t.mock.timers.tick(20_000);
  const tooOld = await browser.submit(attempt.page, { action: 'allow', scope: 'openid profile' });
  assert.match(tooOld.body, /type="password"/);
  const other = await attempt.signIn(tooOld, 'bob');
  assert.match(other.body, /name="scope"/, 'bob has allowed nothing yet');
  const back = await browser.submit(other, { action: 'allow', scope: 'openid' });
  const { body } = await attempt.redeem(back);
  assert.equal(decodeJwt(body.id_token).sub, 'bob');
  assert.equal(body.scope, 'openid');
});

test('who signs in as another than the user of id_token_hint gets no answer for the client that named the user', async (t) => {
  const { issuer } = await startTestServer(t);
  const bob = await signInAndRedeem({ issuer, ...mvc, user: 'bob' });
  const parameters = { id_token_hint: bob.body.id_token };
  for (const browser of [createBrowser(), (await signInAndRedeem({ issuer, ...mvc })).browser]) {
    const attempt = await authorize({ issuer, ...mvc, browser, parameters });
    const back = await attempt.signIn(attempt.page, 'alice');
    assert.equal(back.location?.searchParams.get('error'), 'login_required');
    assert.equal(back.location.searchParams.get('state'), 'state-1');
    const own = await authorize({ issuer, ...mvc, browser });
    assert.ok(isSignedIn(own.page), 'alice has signed in all the same');
    const left = await authorize({ issuer, ...mvc, browser, parameters });
    const skipped = await browser.request(left.page.url.href.replace('/login/', '/connect/authorize/'));
    assert.equal(skipped.location?.searchParams.get('error'), 'login_required', 'without signing in');
    const again = await authorize({ issuer, ...mvc, browser, parameters });
    const { body } = await again.redeem(await again.signIn(again.page, 'bob'));
    assert.equal(decodeJwt(body.id_token).sub, 'bob');
  }
});

test('CVE rows 1 and 12: what a client loses while its user signs in is lost: a redirect URI, a response type, the way without PKCE', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequirePkce: false } } });
  const begin = () => authorize({ issuer: server.issuer, ...mvc, withPkce: false });
  const change = async (members: Record<string, unknown>) => {
    server.write('clients/mvc.json', members);
    assert.equal(await server.reload(), true);
  };
  const [proofless, typeless, lost, cancelled, left] = await Promise.all([1, 2, 3, 4, 5].map(begin));
  assert.ok(proofless && typeless && lost && cancelled && left);

  await change({ RequirePkce: true });
  const back = await proofless.signIn();
  assert.equal(back.location?.searchParams.get('error'), 'invalid_request');
  await change({ RequirePkce: false, Flow: 'Hybrid' });
  const other = await typeless.signIn();
  assert.equal(other.location?.searchParams.get('error'), 'unauthorized_client');
  await change({ Flow: 'AuthorizationCode', RedirectUris: ['http://localhost:5090/new'] });
  for (const nowhere of [
    await lost.signIn(),
    await cancelled.browser.submit(cancelled.page, { action: 'cancel' }),
    await left.browser.request(left.page.url.href.replace('/login/', '/connect/authorize/')),
  ]) {
    assert.equal(nowhere.status, 400);
    assert.equal(nowhere.location, undefined, 'nobody is led to what is no address of the client any more');
  }
});

test('CVE row 23: errors of many requests at once say each what is its own', async (t) => {
  const { issuer } = await startTestServer(t);
  await Promise.all(
    Array.from({ length: 40 }, async (_, index) => {
      const state = `state-${index}`;
      const scope = `openid nonsense-${index}`;
      const page = await createBrowser().request(
        `${issuer}/connect/authorize?${new URLSearchParams({ ...good, state, scope })}`,
      );
      const answer = page.location?.searchParams;
      assert.deepEqual([answer?.get('state'), answer?.get('scope')], [state, `nonsense-${index}`]);
      const token = await post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials', scope: `nonsense-${index}` },
        basic('batch', 'batch-secret'),
      );
      assert.equal(token.body.scope, `nonsense-${index}`);
    }),
  );
});

test('CVE row 23: what a user has typed is told to an identity provider only where ForwardLoginHint says so', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  for (const ForwardLoginHint of [undefined, true]) {
    const { issuer } = await startTestServer(t, {
      clients: { mvc: { IdentityProviderRestrictions: ['Partner'] } },
      providers: {
        Partner: {
          ...{ Type: 'Oidc', Authority: standIn.issuer, ClientId: standIn.clientId },
          ...{ UserNameClaims: ['preferred_username'] },
          ...(ForwardLoginHint === undefined ? undefined : { ForwardLoginHint }),
        },
      },
    });
    const attempt = await authorize({ issuer, ...mvc, parameters: { login_hint: 'alice@example.com' } });
    const leaving = await attempt.browser.submit(attempt.page, { provider: 'Partner' });
    const hint = leaving.location?.searchParams.get('login_hint');
    assert.equal(hint, ForwardLoginHint === true ? 'alice@example.com' : null);
  }
});

test('CVE row 25: a family of ten thousand tokens ends with a handful of statements', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { AccessTokenType: 'Reference' } } });
  const { issuer, context } = server;
  const { body } = await signInAndRedeem({ issuer, ...mvc, scope: `${mvc.scope} offline_access` });
  const [row] = await context.db.knex('OidcToken').where({ model: 'AccessToken' }).select();
  for (let batch = 0; batch < 100; batch += 1) {
    const rows = Array.from({ length: 100 }, () => ({ ...row, id: randomBytes(32).toString('base64url') }));
    for (let part = 0; part < 100; part += 50)
      await context.db.knex('OidcToken').insert(rows.slice(part, part + 50));
  }
  let statements = 0;
  context.db.knex.on('query', () => {
    statements += 1;
  });
  const revoked = await post(
    `${issuer}/connect/revocation`,
    { token: body.refresh_token },
    basic('mvc', mvc.secret),
  );
  assert.equal(revoked.status, 200);
  assert.ok(statements <= 5, `${statements} statements`);
  const { active } = (
    await post(
      `${issuer}/connect/introspect`,
      { token: body.access_token },
      basic('intelligence_web_api', 'web-api-secret'),
    )
  ).body;
  assert.equal(active, false);
});

test('CVE row 21: TLS is 1.2 at least', async (t) => {
  const port = await findFreePort();
  const tls = (name: string) => readFileSync(join(import.meta.dirname, '../fixtures/tls', name), 'utf8');
  await startTestServer(t, {
    server: {
      PublicUrl: `https://localhost:${port}/SPSSMR/Oidc`,
      Listener: {
        Host: '127.0.0.1',
        Port: port,
        Tls: { CertificateFile: 'tls.pem', KeyFile: 'tls-key.pem' },
      },
    },
    files: { 'tls.pem': tls('localhost.pem'), 'tls-key.pem': tls('key.pem') },
  });
  const speak = (maxVersion: 'TLSv1.1' | 'TLSv1.2') =>
    new Promise<string>((resolve) => {
      const options = {
        host: '127.0.0.1',
        port,
        rejectUnauthorized: false,
        minVersion: 'TLSv1',
        maxVersion,
      } as const;
      const socket = connect({ ...options, ciphers: 'DEFAULT@SECLEVEL=0' }, () => {
        resolve(socket.getProtocol() ?? '');
        socket.destroy();
      });
      socket.once('error', (err: NodeJS.ErrnoException) => resolve(err.code ?? err.message));
    });
  assert.match(await speak('TLSv1.1'), /PROTOCOL|ECONNRESET/);
  assert.equal(await speak('TLSv1.2'), 'TLSv1.2');
});

test('RFC 9700 section 4.15: the token of a client is about no user, unless the registration says which', async (t) => {
  const { issuer, context } = await startTestServer(t, {
    clients: {
      alice2: {
        Flow: 'ClientCredentials',
        EnableLocalLogin: true,
        ClientSecrets: [{ Value: { plain: 's' } }],
        AllowedScopes: ['intelligence_web_api'],
      },
    },
  });
  await context.accounts.add({ name: 'alice2', password: 'Pass-word-1' });
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('alice2', 's'),
  );
  assert.equal(decodeJwt(body.access_token).sub, undefined);
  const about = await post(
    `${issuer}/connect/introspect`,
    { token: body.access_token },
    basic('intelligence_web_api', 'web-api-secret'),
  );
  assert.deepEqual([about.body.active, about.body.sub], [true, undefined]);
  const userinfo = await fetch(`${issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${body.access_token}` },
  });
  assert.equal(userinfo.status, 401);
  assert.ok(
    isSignedIn(await (await authorize({ issuer, ...mvc })).signIn(undefined, 'alice2')),
    'the user is another',
  );
});
