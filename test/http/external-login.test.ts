/** Signing in elsewhere: out to an identity provider and back, in both protocols. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import { identity, startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, mvc } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const windowsName = 'http://schemas.microsoft.com/ws/2008/06/identity/claims/windowsaccountname';

const spa = {
  clientId: 'spa',
  redirectUri: 'http://localhost:5091/callback',
  scope: 'openid profile intelligence_web_api',
} as const;

function wsFed(standIn: { metadataAddress: string }, more: Record<string, unknown> = {}) {
  return {
    Type: 'WsFed',
    Enabled: true,
    Caption: 'Company',
    MetadataAddress: standIn.metadataAddress,
    ...more,
  };
}

function openId(standIn: { issuer: string; clientId: string }, more: Record<string, unknown> = {}) {
  return {
    Type: 'Oidc',
    Caption: 'Partner',
    Authority: standIn.issuer,
    ClientId: standIn.clientId,
    ClientSecret: { plain: 'partner-secret' },
    UserNameClaims: ['preferred_username'],
    ...more,
  };
}

/** Follows a redirect that leaves for an identity provider, and what it posts or redirects back. */
async function throughProvider(browser: Browser, leaving: Page): Promise<Page> {
  assert.ok(leaving.location, `a redirect out, not ${leaving.status} ${leaving.body.slice(0, 300)}`);
  const there = await browser.open(leaving.location);
  if (there.location !== undefined) return browser.open(there.location);
  return browser.submit(there, {});
}

test('a client without local sign-in sends its users to its one WS-Federation provider and gets them back', async (t) => {
  const standIn = await startWsFedProvider(t, { claims: { [windowsName]: 'example\\CAROL' } });
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: wsFed(standIn) } });

  const attempt = await authorize({ issuer: server.issuer, ...spa });
  assert.equal(attempt.page.location?.origin, standIn.url, 'no page of ours in between');
  const request = standIn.requests;
  const back = await throughProvider(attempt.browser, attempt.page);
  assert.equal(back.location?.origin, 'http://localhost:5091');
  assert.equal(request[0]?.get('wtrealm'), 'urn:intelligence');
  assert.equal(request[0]?.get('wreply'), `${server.issuer}/callback/wsfed/IntelligenceWsFed`);
  assert.match(request[0]?.get('wct') ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);

  const { body } = await attempt.redeem(back);
  const claims = decodeJwt(body.access_token);
  assert.deepEqual(
    [claims.sub, claims.idp, claims.amr],
    ['EXAMPLE\\carol', 'IntelligenceWsFed', ['external']],
  );
  assert.equal(decodeJwt(body.id_token).idp, 'IntelligenceWsFed');
});

test('a client signs its users in at an OpenID provider, by code with PKCE and by form_post', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'Bob' });
  for (const ResponseType of ['code', 'code id_token']) {
    const server = await startTestServer(t, {
      providers: { IntelligenceWsFed: null, Partner: openId(standIn, { ResponseType }) },
      clients: {
        spa: { IdentityProviderRestrictions: ['Partner'] },
        mvc: { IdentityProviderRestrictions: [] },
      },
    });
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    const back = await throughProvider(attempt.browser, attempt.page);
    const { body } = await attempt.redeem(back);
    assert.deepEqual(
      [decodeJwt(body.access_token).sub, decodeJwt(body.access_token).idp],
      ['bob', 'Partner'],
    );
    const asked = standIn.requests.at(-1);
    assert.equal(asked?.get('code_challenge_method'), 'S256');
    assert.equal(asked?.get('redirect_uri'), `${server.issuer}/callback/oidc/Partner`);
  }
});

test('the login page offers the providers beneath its form, and one leads out and back', async (t) => {
  const standIn = await startWsFedProvider(t, { claims: { [`${identity}/upn`]: 'alice' } });
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: wsFed(standIn) } });

  const attempt = await authorize({ issuer: server.issuer, ...mvc });
  assert.match(
    attempt.page.body,
    /name="password"[\s\S]*<button[^>]*name="provider" value="IntelligenceWsFed">Continue with Company</,
  );
  const leaving = await attempt.browser.submit(attempt.page, { provider: 'IntelligenceWsFed' });
  const back = await throughProvider(attempt.browser, leaving);
  assert.ok(back.location?.searchParams.get('code'));

  // The session serves the next request, of this client and of one that allows the same provider.
  const again = await authorize({ issuer: server.issuer, ...mvc, browser: attempt.browser });
  assert.ok(again.page.location?.searchParams.get('code'));
  const other = await authorize({ issuer: server.issuer, ...spa, browser: attempt.browser });
  assert.ok(other.page.location?.searchParams.get('code'));
});

test('an answer finishes nothing in another browser than the one that set out', async (t) => {
  const standIn = await startWsFedProvider(t, { claims: { [`${identity}/upn`]: 'alice' } });
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: wsFed(standIn) } });
  const attempt = await authorize({ issuer: server.issuer, ...spa });
  const victim = createBrowser();
  const there = await attempt.browser.open(attempt.page.location ?? '');
  const landed = await victim.submit(there, {});
  assert.equal(landed.status, 400);
  assert.match(landed.body, /This sign-in has ended/);
  assert.deepEqual(
    victim.cookies().filter(({ name }) => name.includes('session')),
    [],
  );
  // Nor is the browser that set out signed in as the other one, though it knows the handle: it lacks the ticket.
  const handle = standIn.requests[0]?.get('wctx') ?? '';
  const { pathname } = landed.url;
  for (const ticket of ['', `&ticket=${handle}`]) {
    const origin = new URL(server.issuer).origin;
    const tried = await attempt.browser.open(`${origin}${pathname}?client_id=spa&attempt=${handle}${ticket}`);
    assert.equal(tried.location?.origin, standIn.url, 'it is asked to sign in itself');
  }
  const own = await throughProvider(
    attempt.browser,
    await attempt.browser.open(new URL(pathname.replace('/return', ''), server.issuer)),
  );
  assert.ok(own.location?.searchParams.has('code'), 'by itself it signs in');
});

test('the new owner of a name there is not the old one here, until an operator unlinks it', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: null, Partner: openId(standIn) },
    clients: {
      spa: { IdentityProviderRestrictions: ['Partner'] },
      mvc: { IdentityProviderRestrictions: [] },
    },
  });
  const signIn = async () => {
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    return throughProvider(attempt.browser, attempt.page);
  };
  assert.ok((await signIn()).location?.searchParams.has('code'));
  standIn.claims = { sub: 'u-2', preferred_username: 'Alice' };
  assert.equal((await signIn()).status, 403);
  assert.ok(server.logged.some(({ reason }) => reason === 'account-taken'));
  assert.equal(await server.context.externalLogins.unlink('Alice'), 1);
  assert.ok((await signIn()).location?.searchParams.has('code'));
  standIn.claims = { sub: 'u-1', preferred_username: 'alice' };
  assert.equal((await signIn()).status, 403, 'now the other way round');
});

test('a name that only looks like another one, or that is one of several, is nobody', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1' });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Partner: openId(standIn, { UserNameClaims: ['email', 'upn'], Domains: ['example.com'] }),
    },
    clients: {
      spa: { IdentityProviderRestrictions: ['Partner'] },
      mvc: { IdentityProviderRestrictions: [] },
    },
  });
  await server.context.accounts.add({ name: 'alice@example.com' });
  const outcomeOf = async (claims: Record<string, unknown>) => {
    standIn.claims = { sub: `u-${JSON.stringify(claims)}`.slice(0, 200), ...claims };
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    const back = await throughProvider(attempt.browser, attempt.page);
    if (back.location?.searchParams.has('code')) return 'signed-in';
    return server.logged.findLast(({ msg }) => msg === 'sign-in refused')?.reason;
  };
  for (const upn of ['\uFF21lice', ' alice', 'alice ', 'alice\u00a0', ['alice', 'bob'], '']) {
    assert.equal(await outcomeOf({ upn }), 'name-unusable', JSON.stringify(upn));
  }
  const email = 'alice@example.com';
  for (const email_verified of [undefined, false, 'TRUE', [true, false], [false, true], [true, true]]) {
    const outcome = await outcomeOf({ email, email_verified });
    assert.equal(outcome, 'email-not-verified', JSON.stringify(email_verified));
  }
  assert.equal(
    await outcomeOf({ email: 'alice@example.com.evil', email_verified: true }),
    'email-not-verified',
  );
  assert.equal(await outcomeOf({ upn: ['bob', 'bob'] }), 'signed-in', 'said twice is said');
  assert.equal(await outcomeOf({ email, email_verified: true }), 'signed-in');
});

test('an assertion is good once, and an attempt takes one answer', async (t) => {
  let sent = '';
  const standIn = await startWsFedProvider(t, { claims: { [`${identity}/upn`]: 'alice' } });
  standIn.alter = (wresult) => {
    sent ||= wresult;
    return sent;
  };
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: wsFed(standIn) } });
  const first = await authorize({ issuer: server.issuer, ...spa });
  assert.ok((await throughProvider(first.browser, first.page)).location?.searchParams.get('code'));

  const second = await authorize({ issuer: server.issuer, ...spa });
  const replayed = await throughProvider(second.browser, second.page);
  assert.match(replayed.body, /The answer of Company cannot be used/);
  assert.ok(server.logged.some(({ hint }) => hint === 'replayed: the assertion has been used before'));

  const repeated = await fetch(`${server.issuer}/callback/wsfed/IntelligenceWsFed`, {
    method: 'POST',
    redirect: 'manual',
    body: new URLSearchParams({
      wa: 'wsignin1.0',
      wresult: sent,
      wctx: standIn.requests[0]?.get('wctx') ?? '',
    }),
  });
  assert.equal(repeated.status, 400);
});

test('a provider may have any name that a file may have, and is remembered by it', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const names = ['Größe', 'a; b=c', 'ключ', '100%'];
  const server = await startTestServer(t, {
    providers: Object.fromEntries(names.map((name) => [name, openId(standIn, { Caption: name })])),
    clients: { mvc: { IdentityProviderRestrictions: names } },
  });
  const browser = createBrowser();
  for (const provider of names) {
    const client = { issuer: server.issuer, ...mvc, browser, parameters: { prompt: 'login' } };
    const { page } = await authorize(client);
    const back = await throughProvider(browser, await browser.submit(page, { provider }));
    assert.ok(back.location?.searchParams.has('code'), `${provider}: ${back.status}`);
    // All are of one issuer, whose users the next one does not sign in whom this one vouched for.
    await server.context.externalLogins.unlink('alice');
    const again = await authorize(client);
    const [, first = ''] = /name="provider" value="([^"]*)"/.exec(again.page.body) ?? [];
    assert.equal(first, provider);
  }
});

test('an identity without an account ends on a page that says so, and goes back to the client', async (t) => {
  const standIn = await startWsFedProvider(t, {
    subject: 'S-1-nobody',
    claims: { [`${identity}/upn`]: 'nobody@example.com' },
  });
  const server = await startTestServer(t, { providers: { IntelligenceWsFed: wsFed(standIn) } });
  const attempt = await authorize({ issuer: server.issuer, ...spa });
  const page = await throughProvider(attempt.browser, attempt.page);
  assert.equal(page.status, 403);
  assert.match(page.body, /There is no account for you here/);
  assert.match(page.body, /Try again with Company/);
  const refusal = server.logged.find(({ reason }) => reason === 'account-unknown');
  assert.ok(JSON.stringify(refusal).includes(`${identity}/upn`), 'the types are logged');
  assert.ok(!server.logText().includes('nobody@example.com'), 'and not the values');
  const back = await attempt.browser.submit(page, { action: 'cancel' });
  assert.equal(back.location?.searchParams.get('error'), 'access_denied');
});

test('ProvisionAccounts makes the account at the first sign-in, and the link holds when the name changes', async (t) => {
  const standIn = await startOpenIdProvider(t, {
    sub: 'u-7',
    preferred_username: 'dora',
    name: 'Dora Dean',
    mail: 'dora@example.com',
  });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Partner: openId(standIn, { ProvisionAccounts: true, ClaimMapping: { email: 'mail' } }),
    },
    clients: { spa: { IdentityProviderRestrictions: [] }, mvc: { IdentityProviderRestrictions: [] } },
  });
  const signIn = async () => {
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    const back = await throughProvider(attempt.browser, attempt.page);
    return decodeJwt((await attempt.redeem(back)).body.access_token).sub;
  };
  assert.equal(await signIn(), 'dora');
  const account = await server.context.accounts.find('dora');
  assert.deepEqual([account?.displayName, account?.email], ['Dora Dean', 'dora@example.com']);
  standIn.claims = { sub: 'u-7', preferred_username: 'dora.married' };
  assert.equal(await signIn(), 'dora');
  // Somebody else who gets the old name there is not the first one here.
  standIn.claims = { sub: 'u-8', preferred_username: 'alice' };
  assert.equal(await signIn(), 'alice');
  await server.context.accounts.remove('dora');
  standIn.claims = { sub: 'u-7', preferred_username: 'dora' };
  const attempt = await authorize({ issuer: server.issuer, ...spa });
  assert.equal((await throughProvider(attempt.browser, attempt.page)).status, 403);
});

for (const [address, callback, registration, wreply] of [
  ['the root', '/', { CallbackPath: '/' }, '/'],
  ['the root, whatever wreply says', '/', {}, '/callback/wsfed/IntelligenceWsFed'],
  ['the callback', '/callback/wsfed/IntelligenceWsFed', {}, '/callback/wsfed/IntelligenceWsFed'],
] as const) {
  test(`a WsFed application that answers at ${address}, with nothing but a name: its users get their accounts, each once`, async (t) => {
    const standIn = await startWsFedProvider(t);
    const server = await startTestServer(t, {
      server: { Mounts: ['Oidc'] },
      providers: { IntelligenceWsFed: wsFed(standIn, { ProvisionAccounts: true, ...registration }) },
      accounts: [{ Name: 'Alice', Password: 'Pass-word-1', Email: 'alice@example.com' }],
    });
    standIn.registeredReply = server.issuer + callback;
    const signIn = async (name: string, version: '1.1' | '2.0') => {
      standIn.answer = { version, subject: '', claims: { [`${identity}/name`]: name } };
      const attempt = await authorize({ issuer: server.issuer, ...spa });
      return { attempt, back: await throughProvider(attempt.browser, attempt.page) };
    };
    const subjectOf = async (name: string, version: '1.1' | '2.0' = '1.1') => {
      const { attempt, back } = await signIn(name, version);
      assert.ok(back.location?.searchParams.has('code'), `${back.status} ${server.logText().slice(-500)}`);
      const { body } = await attempt.redeem(back);
      const claims = decodeJwt(body.access_token);
      assert.equal(claims.idp, 'IntelligenceWsFed');
      assert.equal(decodeJwt(body.id_token).sub, claims.sub);
      return claims.sub;
    };
    const names = async () => (await server.context.accounts.list()).map(({ name }) => name);

    assert.equal(await subjectOf('Dora'), 'Dora');
    assert.equal(standIn.requests[0]?.get('wreply'), server.issuer + wreply);
    assert.equal((await fetch(`${server.issuer}/`)).status, 200, 'the home page, for whoever opens it');
    assert.deepEqual(await names(), ['Alice', 'Dora']);
    assert.equal(await subjectOf('Dora'), 'Dora', 'the same account');
    assert.equal(await subjectOf('dORA', '2.0'), 'Dora', 'in the spelling of the account');
    assert.equal(await subjectOf('ALICE', '2.0'), 'Alice', 'who has an account already');
    assert.equal(await subjectOf('alice'), 'Alice');
    assert.deepEqual(await names(), ['Alice', 'Dora']);
    const { displayName, email } = await server.context.accounts.get('alice');
    assert.deepEqual([displayName, email], [undefined, 'alice@example.com'], 'and it is as it was');

    for (const removed of ['Dora', 'Alice']) await server.context.accounts.remove(removed);
    for (const name of ['Dora', 'dora', 'Alice', 'ALICE']) {
      const { back } = await signIn(name, '1.1');
      assert.equal(back.status, 403, name);
      assert.match(back.body, /There is no account for you here/);
    }
    assert.deepEqual(await names(), []);
    assert.equal(server.logged.filter(({ reason }) => reason === 'account-removed').length, 4);
  });
}

test('several first sign-ins of one user at once make one account', async (t) => {
  const standIn = await startWsFedProvider(t, { subject: '', claims: { [`${identity}/name`]: 'dora' } });
  const server = await startTestServer(t, {
    server: { Mounts: ['Oidc'] },
    providers: { IntelligenceWsFed: wsFed(standIn, { ProvisionAccounts: true }) },
    accounts: [],
  });
  const attempts = await Promise.all([1, 2, 3, 4].map(() => authorize({ issuer: server.issuer, ...spa })));
  const backs = await Promise.all(attempts.map(({ browser, page }) => throughProvider(browser, page)));
  assert.deepEqual(
    backs.map(({ location }) => location?.searchParams.has('code')),
    [true, true, true, true],
  );
  assert.deepEqual(
    (await server.context.accounts.list()).map(({ name }) => name),
    ['dora'],
  );
});

for (const version of ['1.1', '2.0']) {
  test(`an identity provider of another maker, a program of its own, signs a user in with SAML ${version}`, async (t) => {
    const port = await findFreePort();
    const script = join(import.meta.dirname, '../support/wsfed-process.ts');
    const program = spawn(process.execPath, [script, String(port), version, 'alice'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => program.kill());
    await Promise.race([once(program.stdout, 'data'), once(program, 'exit')]);
    assert.equal(program.exitCode, null, 'it runs');
    const server = await startTestServer(t, {
      providers: {
        IntelligenceWsFed: {
          Enabled: true,
          MetadataAddress: `http://localhost:${port}/FederationMetadata/2007-06/FederationMetadata.xml`,
        },
      },
    });
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    const back = await throughProvider(attempt.browser, attempt.page);
    const { body } = await attempt.redeem(back);
    assert.equal(decodeJwt(body.access_token).sub, 'alice', server.logText().slice(-500));
  });
}
