/** Who may sign in through which identity provider, and what holds while things change or fail on the way. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { startServer } from '../../src/server.ts';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import { identity, startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, mvc } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const script = {
  clientId: 'spa',
  redirectUri: 'http://localhost:5091/callback',
  scope: 'openid profile',
} as const;
const claims = { [`${identity}/upn`]: 'alice' };

/** Of a key that signs nothing here. */
const otherCertificate =
  'MIIDDTCCAfWgAwIBAgIUdaaE3FIEbwEIWwB3nnErCI6xL4QwDQYJKoZIhvcNAQELBQAwFjEUMBIGA1UEAwwLYW5vdGhlciBrZXkwHhcNMjYxMTI0MTcyOTM4WhcNMzYxMTIxMTcyOTM4WjAWMRQwEgYDVQQDDAthbm90aGVyIGtleTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMFcDl2b9u9C53AfToHUzACiNw5GgbBTWRtVp08lekffkYYA6YUl228RutnhP8qDr6VsVtzC51P10jZAJp+U7m352XbD+ixWEjOwi2Htoytp+6IpDwqRDjuU+FSqrzKqXTsbbbj/O2SFp8sUsfKOTQxnq7arXCplDFaB1Rafl7MiGCPjGtGJiNFqNnrzcRyyWwKPXi4K2SZfx2R3NYTuyvufLz9gJabHQK8kTQgBx7TkavUh+nUHnTlhGHqjNaa2699mLl1u36M/asDOJjVk4Idyus/TV61wz7SA1z2yTo8jtiafjgL5rFaWi2QM6eC+2a92qVTX4atNsdzgTB4Ky20CAwEAAaNTMFEwHQYDVR0OBBYEFE5leUduXBjs7p/lQg7c3pAnGVCAMB8GA1UdIwQYMBaAFE5leUduXBjs7p/lQg7c3pAnGVCAMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBAGYteZwL9/iPRaSe41ghpC0EqUm2LnbSwdq0sctDma+KlHiU1ZcJB9RK/YNuflhHakE9JvdXuVOm6CF/mxV6bU3YKd2X0vi4jNsaaJedTq5Vm0bZMA+tS0KoRNtCiDxd8K3TGKaEQ+sWtEAHPiAIg9i9boVXpkFXQ3SLGu1vugybRbUxXObGpys9sgWRdjJc46kztotawi+DsFmjsvEqxyz8abAN448PIXPlh/ZNHSVDT+PfMEaDzWFHVNmL5ec9/Y73BUw0sQ4vI8WqNnqTbdQcihio3q6c/bNZxbkc2XuCUz4Rp2i+Scr29d8BmfCpkErJ4UrFtZplKygqzdKy9ag=';

async function throughProvider(browser: Browser, leaving: Page): Promise<Page> {
  assert.ok(leaving.location, `${leaving.status} ${leaving.body.slice(0, 200)}`);
  const there = await browser.open(leaving.location);
  return there.location === undefined ? browser.submit(there, {}) : browser.open(there.location);
}

const hasCode = (page: Page) => page.location?.searchParams.has('code') === true;

test('idp: goes to the provider that it names, asks anew with the session of another, and never loops', async (t) => {
  const one = await startWsFedProvider(t, { claims });
  const two = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: { Enabled: true, MetadataAddress: one.metadataAddress, Caption: '' },
      Two: { Type: 'WsFed', MetadataAddress: two.metadataAddress, Caption: '' },
    },
    clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
  });
  const browser = createBrowser();
  const ask = (acr: string) =>
    authorize({ issuer: server.issuer, ...mvc, browser, parameters: { acr_values: acr } });

  const first = await ask('idp:Two');
  assert.equal(first.page.location?.origin, two.url, 'hidden, and still reachable');
  const back = await throughProvider(browser, first.page);
  assert.equal(decodeJwt((await first.redeem(back)).body.access_token).idp, 'Two');
  assert.ok(hasCode((await ask('idp:Two')).page), 'its own session serves');

  const other = await ask('idp:IntelligenceWsFed');
  assert.equal(other.page.location?.origin, one.url);
  assert.ok(hasCode(await throughProvider(browser, other.page)));
  assert.match((await ask('idp:local')).page.body, /name="password"/);
  assert.match((await ask('idp:idsrv tenant:x')).page.body, /name="password"/);
  assert.ok(hasCode((await ask('tenant:x')).page));
  for (const unknown of ['idp:Nobody', 'idp:__proto__']) {
    const refused = await ask(unknown);
    assert.equal(refused.page.status, 403, unknown);
    assert.match(refused.page.body, /Sign-in is not available/);
  }
});

test('restrictions hold at idp:, at the button, at the session and when the answer comes back', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const provider = { Type: 'WsFed', Enabled: true, Caption: 'X', MetadataAddress: standIn.metadataAddress };
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: provider, Other: provider },
    clients: {
      mvc: { IdentityProviderRestrictions: ['Other'] },
      spa: { IdentityProviderRestrictions: ['IntelligenceWsFed'] },
    },
  });
  const named = await authorize({
    issuer: server.issuer,
    ...script,
    parameters: { acr_values: 'idp:Other' },
  });
  assert.equal(named.page.status, 403);
  const login = await authorize({ issuer: server.issuer, ...mvc });
  const forged = await login.browser.submit(login.page, { provider: 'IntelligenceWsFed' });
  assert.match(forged.body, /name="password"/, 'back at the login page');
  assert.equal(standIn.requests.length, 0);

  const browser = createBrowser();
  const first = await authorize({ issuer: server.issuer, ...script, browser });
  assert.ok(hasCode(await throughProvider(browser, first.page)));
  const elsewhere = await authorize({ issuer: server.issuer, ...mvc, browser });
  assert.match(elsewhere.page.body, /name="password"/, 'a session of another provider does not serve');

  const late = await authorize({ issuer: server.issuer, ...script });
  const there = await late.browser.open(late.page.location ?? '');
  server.write('clients/spa.json', { IdentityProviderRestrictions: ['Other'] });
  await server.reload();
  const back = await late.browser.submit(there, {});
  assert.ok(!hasCode(back), 'the registration changed while the user was away');
});

test('RequireMfa is met by what the provider says of the sign-in, and by nothing else', async (t) => {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Partner: {
        ...{ Type: 'Oidc', Caption: 'Partner', Authority: standIn.issuer, ClientId: standIn.clientId },
        ...{ UserNameClaims: 'preferred_username', MfaValues: ['mfa', 'urn:strong'] },
      },
    },
    clients: {
      mvc: { RequireMfa: true, IdentityProviderRestrictions: [] },
      spa: { IdentityProviderRestrictions: [] },
    },
  });
  const browser = createBrowser();
  const weak = await authorize({ issuer: server.issuer, ...script, browser });
  assert.ok(hasCode(await throughProvider(browser, weak.page)));
  const asked = await authorize({ issuer: server.issuer, ...mvc, browser });
  assert.equal(
    asked.page.location?.origin,
    standIn.issuer,
    'no login page of one factor, and no weak session',
  );
  const refused = await throughProvider(browser, asked.page);
  assert.equal(refused.status, 403);
  assert.match(refused.body, /One more factor is needed/);

  for (const told of [{ amr: ['pwd', 'mfa'] }, { acr: 'urn:strong' }]) {
    standIn.claims = { sub: 'u-1', preferred_username: 'alice', ...told };
    const strong = await authorize({ issuer: server.issuer, ...mvc });
    const back = await throughProvider(strong.browser, strong.page);
    const { body } = await strong.redeem(back);
    assert.deepEqual(decodeJwt(body.access_token).amr, ['external', 'mfa'], JSON.stringify(told));
  }
});

test('auth_time is when the user signed in there, and the session here begins now', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const standIn = await startOpenIdProvider(t, {
    sub: 'u-1',
    preferred_username: 'alice',
    auth_time: now - 50_000,
  });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: null,
      Partner: {
        Type: 'Oidc',
        Authority: standIn.issuer,
        ClientId: standIn.clientId,
        UserNameClaims: 'preferred_username',
      },
    },
    clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
  });
  const attempt = await authorize({ issuer: server.issuer, ...script });
  const back = await throughProvider(attempt.browser, attempt.page);
  assert.equal(decodeJwt((await attempt.redeem(back)).body.access_token).auth_time, now - 50_000);
  assert.ok(hasCode((await authorize({ issuer: server.issuer, ...script, browser: attempt.browser })).page));

  const fresh = await authorize({
    issuer: server.issuer,
    ...script,
    browser: attempt.browser,
    parameters: { max_age: '60', prompt: 'login' },
  });
  assert.deepEqual(
    [fresh.page.location?.searchParams.get('max_age'), fresh.page.location?.searchParams.get('prompt')],
    ['60', 'login'],
  );
  const stale = await throughProvider(attempt.browser, fresh.page);
  assert.match(stale.body, /cannot be used/, 'the provider did not ask anew as it was told to');
});

test('an answer that is posted to the root finds its sign-in by wctx; one that nobody asked for finds none', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress, SendWreply: false },
    },
  });
  const attempt = await authorize({ issuer: server.issuer, ...script });
  assert.equal(attempt.page.location?.searchParams.has('wreply'), false);
  const there = await attempt.browser.open(attempt.page.location ?? '');
  const form = { ...there, body: there.body.replace('action=""', `action="${server.issuer}/"`) };
  assert.ok(hasCode(await attempt.browser.submit(form, {})));

  for (const wctx of ['', 'x'.repeat(43), 'WsFedOwinState=abc']) {
    const answer = await fetch(`${server.issuer}/callback/wsfed/IntelligenceWsFed`, {
      method: 'POST',
      body: new URLSearchParams({
        wa: 'wsignin1.0',
        wresult: standIn.makeAnswer(),
        wctx,
      }),
    });
    assert.equal(answer.status, 400, wctx);
  }
  assert.equal((await fetch(`${server.issuer}/callback/wsfed/IntelligenceWsFed`)).status, 405);
});

test('two registrations of one issuer do not sign in whom the other vouched for', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const provider = { Type: 'WsFed', Enabled: true, MetadataAddress: standIn.metadataAddress };
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: provider, Other: { ...provider, AllowedAccounts: ['nobody'] } },
    clients: {
      mvc: { IdentityProviderRestrictions: [] },
      spa: { IdentityProviderRestrictions: [] },
    },
  });
  const through = async (name: string) => {
    const parameters = { acr_values: `idp:${name}` };
    const attempt = await authorize({ issuer: server.issuer, ...script, parameters });
    return throughProvider(attempt.browser, attempt.page);
  };
  assert.ok(hasCode(await through('IntelligenceWsFed')));
  assert.equal((await through('Other')).status, 403);
  assert.ok(server.logged.some(({ reason }) => reason === 'issuer-of-another'));
  server.write('providers/IntelligenceWsFed.json', { ...provider, Enabled: false });
  server.write('providers/Other.json', { ...provider, AllowedAccounts: ['alice'] });
  await server.reload();
  assert.ok(hasCode(await through('Other')), 'it has taken the place of the first');
});

test('a subject takes the place of the name that stood for it, and of nothing else', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const answer = async (subject: string | undefined, name: string) => {
    standIn.answer = {
      claims: { [`${identity}/upn`]: name },
      // A transient name is none.
      subject: subject ?? `t-${Math.random()}`,
      ...(subject === undefined && { subjectFormat: 'urn:oasis:names:tc:SAML:2.0:nameid-format:transient' }),
    };
    const attempt = await authorize({ issuer: server.issuer, ...script });
    return hasCode(await throughProvider(attempt.browser, attempt.page));
  };
  assert.equal(await answer(undefined, 'alice'), true);
  assert.equal(await answer('S-1', 'alice'), true, 'the same person with a subject');
  assert.equal(await answer('S-2', 'alice'), false, 'another one');
  assert.equal(await answer(undefined, 'alice'), false, 'and no way back to the name alone');
  assert.equal(await answer('S-1', 'alice.married'), true);
});

test('a request for a new sign-in is met by none that is older, in WS-Federation too', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const signedInAt = Math.floor(Date.now() / 1000) - 1200;
  const ask = async (parameters: Record<string, string>) => {
    standIn.answer = { claims, authenticatedAt: signedInAt };
    const attempt = await authorize({ issuer: server.issuer, ...script, parameters });
    return throughProvider(attempt.browser, attempt.page);
  };
  assert.ok(hasCode(await ask({})));
  assert.ok(hasCode(await ask({ max_age: '3600' })));
  assert.match((await ask({ max_age: '60' })).body, /cannot be used/);
  assert.match((await ask({ prompt: 'login' })).body, /cannot be used/);
  assert.match(server.logText(), /longer ago than the request allows/);
});

test('metadata is fetched once, and again when a signature fits none of its keys', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const standIn = await startWsFedProvider(t, { claims });
  const [key = ''] = standIn.certificates;
  standIn.certificates = [];
  const server = await startTestServer(t, {
    now: () => Math.floor(Date.now() / 1000),
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const signIn = async () => {
    const attempt = await authorize({ issuer: server.issuer, ...script });
    return attempt.page.location === undefined
      ? attempt.page
      : throughProvider(attempt.browser, attempt.page);
  };
  assert.equal((await signIn()).status, 503, 'metadata without a certificate is none');
  assert.match(server.logText(), /it has no signing certificate/);
  t.mock.timers.tick(6_000);
  standIn.certificates = [otherCertificate];
  assert.match((await signIn()).body, /cannot be used/);
  const fetched = standIn.metadataFetches;
  await signIn();
  assert.equal(standIn.metadataFetches, fetched, 'not more than once a minute');
  standIn.certificates = [otherCertificate, key];
  t.mock.timers.tick(61_000);
  assert.ok(hasCode(await signIn()));
  assert.ok(hasCode(await signIn()));
  assert.equal(standIn.metadataFetches, fetched + 1);
  await standIn.stop();
  t.mock.timers.tick(2 * 86_400_000);
  const later = await authorize({ issuer: server.issuer, ...script });
  assert.equal(
    later.page.location?.origin,
    standIn.url,
    'what was good yesterday serves on while it is down',
  );
});

test('a restart in the middle of a sign-in elsewhere breaks nothing', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const attempt = await authorize({ issuer: server.issuer, ...script });
  const there = await attempt.browser.open(attempt.page.location ?? '');
  await server.stop();
  await using again = await startServer({
    configDirectory: server.configDirectory,
    env: {},
    log: server.context.log,
  });
  assert.equal(again.issuer, server.issuer);
  assert.ok(hasCode(await attempt.browser.submit(there, {})));
});

test('a disabled account does not sign in through a provider, nor does the account of a client', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const server = await startTestServer(t, {
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const signIn = async () => {
    const attempt = await authorize({ issuer: server.issuer, ...script });
    return throughProvider(attempt.browser, attempt.page);
  };
  await server.context.accounts.setDisabled('alice', true);
  assert.equal((await signIn()).status, 403);
  standIn.answer = { subject: 'S-batch', claims: { [`${identity}/upn`]: 'batch' } };
  assert.equal((await signIn()).status, 403);
  assert.deepEqual(
    server.logged.filter(({ msg }) => msg === 'sign-in refused').map(({ reason }) => reason),
    ['account-disabled', 'client-account'],
  );
  assert.deepEqual(await server.context.db.knex('OidcUserLogin').select('normalizedName'), []);
});

test('how sign-ins elsewhere end is counted, on a listener of its own', async (t) => {
  const standIn = await startWsFedProvider(t, { claims });
  const port = await findFreePort();
  const server = await startTestServer(t, {
    server: { Management: { Port: port } },
    providers: { IntelligenceWsFed: { Enabled: true, MetadataAddress: standIn.metadataAddress } },
  });
  const signIn = async () => {
    const attempt = await authorize({ issuer: server.issuer, ...script });
    return throughProvider(attempt.browser, attempt.page);
  };
  await signIn();
  standIn.answer = { claims: { [`${identity}/upn`]: 'nobody@example.com' }, subject: 'S-nobody' };
  await signIn();
  const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
  assert.match(answer.headers.get('content-type') ?? '', /^text\/plain/);
  const text = await answer.text();
  const count = (outcome: string) =>
    text.includes(
      `postern_external_sign_ins_total{identity_provider="IntelligenceWsFed",outcome="${outcome}"} 1`,
    );
  assert.ok(count('signed-in') && count('no-account'), text);
  assert.doesNotMatch(text, /nobody|alice/, 'nobody is named');
  assert.equal((await fetch(`http://127.0.0.1:${port}/SPSSMR/Oidc/`)).status, 404);
  assert.equal((await fetch(new URL('/metrics', server.issuer))).status, 404, 'not where users are');
});
