/** Which account somebody of a directory gets, and who else gets it: by Windows, by an identity provider, by a verifier. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { domainSid, startActiveDirectory } from '../support/active-directory.ts';
import { createBrowser, type Page } from '../support/browser.ts';
import { base, startSlapd } from '../support/directory.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { startPostgres } from '../support/postgres-server.ts';
import { authorize, isSignedIn, mvc, signInAtPage } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { signTicket } from '../support/windows-ticket.ts';

const password = 'Directory-pass-1';
const secret = 'a-secret-of-the-proxy-or-the-handler';
const relyingParties = {
  Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] },
};
const wrong = /The name or the password is wrong/;
const down = /the directory of your organisation does not answer/i;

const signIn = ({ issuer }: TestServer, user: string, secret = password) =>
  signInAtPage(issuer, user, secret);
const refusals = ({ logged }: TestServer) =>
  logged.filter(({ msg }) => msg === 'sign-in refused').map(({ reason }) => reason);
const linksOf = async ({ context }: TestServer) => {
  const rows = await context.db.knex('OidcUserLogin').select('normalizedName', 'issuer');
  return rows.map(({ normalizedName, issuer }) => `${normalizedName} ${issuer}`).sort();
};

/** The WsFed application, as a browser with a ticket of the handler of IIS gets to it. */
async function signInByTicket({ issuer }: TestServer, claims: { name: string; sid: string }) {
  const address = issuer.replace(/Oidc$/, 'WsFed');
  const browser = createBrowser();
  const left = await browser.open(`${address}?wa=wsignin1.0&wtrealm=urn:portal`);
  const attempt = left.location?.searchParams.get('attempt');
  const ticket = signTicket({ ...claims, attempt, time: Math.floor(Date.now() / 1000) }, secret);
  return browser.request(`${address}/WinLogin`, { method: 'POST', body: new URLSearchParams({ ticket }) });
}

const subjectOf = ({ body }: Page) =>
  /&lt;NameID [^;]*?&gt;(.*?)&lt;\/NameID/.exec(body.replaceAll('&quot;', '"'))?.[1];

/** A verifier that answers as the test says, and the names that it was asked for. */
async function startVerifier(t: TestContext, answer: (name: string, password: string) => unknown) {
  const asked: string[] = [];
  const listener = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = JSON.parse(Buffer.concat(chunks).toString()) as { name: string; password: string };
    asked.push(body.name);
    response.end(JSON.stringify(answer(body.name, body.password)));
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    listener.close();
    listener.closeAllConnections();
  });
  const Url = `http://localhost:${(listener.address() as AddressInfo).port}/verify`;
  return { asked, settings: { Url, Secret: { plain: 'Verifier-secret-1' }, Timeout: 1 } };
}

test('a link that was never confirmed speaks for nobody, and does not stand in the way of its own identity', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const server = await startTestServer(t, { server: { Directory: slapd.settings() } });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  const { knex } = server.context.db;
  // As a server leaves it that ends in the middle.
  await knex('OidcUserLogin').update({ provider: '' });
  assert.deepEqual(await server.context.externalLogins.findLinks('dora'), []);
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  assert.equal((await server.context.externalLogins.findLinks('dora')).length, 1);
});

test('a sign-in that is refused since the account has a password of its own opens no way by Windows', async (t) => {
  const directory = await startActiveDirectory(t);
  await directory.addUser('alice', { rid: 1001 });
  const handler = { HandlerUrl: 'http://localhost:1/SPSSMR/WinLogin/', Secrets: [{ plain: secret }] };
  const server = await startTestServer(t, {
    server: {
      Directory: { ...directory.settings(), Domain: undefined },
      EnableWindowsLogin: true,
      WindowsLogin: { Ticket: handler },
    },
    relyingParties,
    accounts: [{ Name: 'alice', Password: 'Pass-word-1', Roles: ['Administrator'] }],
  });
  // By another spelling, so that the directory is asked: there her password is right.
  assert.match((await signIn(server, 'alice@corp.example.com')).back.body, wrong);
  assert.deepEqual(await linksOf(server), []);
  const sid = ['S', 1, 5, ...domainSid, 1001].join('-');
  const page = await signInByTicket(server, { name: 'EXAMPLE\\alice', sid });
  assert.deepEqual([page.status, subjectOf(page)], [403, undefined]);
});

test('nothing is linked to an account with a password of its own, right or wrong', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'alice' });
  await slapd.addPerson({ uid: 'bob', password: 'Same-pass-word-1' });
  const accounts = [
    { Name: 'alice', Password: 'Pass-word-1' },
    { Name: 'bob', Password: 'Same-pass-word-1' },
    { Name: 'batch' },
  ];
  const server = await startTestServer(t, { server: { Directory: slapd.settings() }, accounts });
  assert.match((await signIn(server, 'alice ')).back.body, wrong);
  assert.ok(isSignedIn((await signIn(server, 'bob ', 'Same-pass-word-1')).back));
  assert.deepEqual(refusals(server), ['password']);
  assert.deepEqual(await linksOf(server), []);
});

test('while the directory is down the verifier is not asked, and the page says so', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const verifier = await startVerifier(t, () => ({ active: true, name: 'dora', subject: '4711' }));
  const server = await startTestServer(t, {
    server: { Directory: slapd.settings(), PasswordVerifier: verifier.settings },
  });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  await slapd.kill();
  const { back } = await signIn(server, 'dora', 'Other-dora-1');
  assert.equal(back.status, 503);
  assert.match(back.body, down);
  assert.deepEqual(refusals(server), ['directory-unavailable']);
  assert.deepEqual(verifier.asked, []);
});

test('who has come by the directory does not come by the verifier, nor the other way round, until that is unlinked', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const verifier = await startVerifier(t, (name) => ({
    ...{ active: true, name: name.replace(/@.*/, ''), subject: name },
  }));
  const server = await startTestServer(t, {
    server: { Directory: slapd.settings(), PasswordVerifier: verifier.settings },
  });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  assert.match((await signIn(server, 'dora@elsewhere', 'x')).back.body, wrong);
  assert.ok(isSignedIn((await signIn(server, 'dirk@elsewhere', 'x')).back));
  await slapd.addPerson({ uid: 'dirk' });
  assert.match((await signIn(server, 'dirk')).back.body, wrong);
  assert.deepEqual(refusals(server), ['account-taken', 'account-taken']);
  assert.deepEqual(await linksOf(server), ['dirk urn:password-verifier', 'dora urn:directory']);

  await server.context.externalLogins.unlink('dirk');
  assert.ok(isSignedIn((await signIn(server, 'dirk')).back));
  assert.match((await signIn(server, 'dirk@elsewhere', 'x')).back.body, wrong);
});

for (const [database, isThere] of [
  ['SQLite', true],
  ['SQLite', false],
  ['PostgreSQL', true],
  ['PostgreSQL', false],
] as const) {
  const which = isThere ? 'is there' : 'is new';
  test(`of two identities of one name that come at once, one gets the account that ${which}, at the most: ${database}`, async (t) => {
    const postgres = database === 'SQLite' ? undefined : await startPostgres(t);
    const Database = postgres && { Client: 'postgresql', Connection: { plain: postgres.connection } };
    const { context } = await startTestServer(t, { server: { ...(Database && { Database }) } });
    const source = {
      ...{ Name: 'directory', Type: 'WsFed' as const, UserNameClaims: ['username'], Domains: [] },
      ...{ AllowedAccounts: [], ProvisionAccounts: true, ClaimMapping: {} },
    };
    const rules = { isReserved: () => false, isProvider: () => false };
    for (let n = 0; n < 50; n += 1) {
      const name = `u${n}`;
      if (isThere) await context.accounts.add({ name });
      const resolve = async (who: string) => {
        const identity = { issuer: 'urn:directory', subject: `${who} ${n}` };
        const claims = new Map([['username', [name]]]);
        return (await context.externalLogins.resolve(source, { ...identity, claims }, rules)).kind;
      };
      // The first one twice, as where a form is sent twice.
      const come = async () => {
        const [one, other, again] = await Promise.all(['one', 'other', 'one'].map(resolve));
        return [one === 'accepted' || again === 'accepted', other === 'accepted'];
      };
      const atOnce = await come();
      assert.ok(atOnce.filter(Boolean).length <= 1, name);
      const later = [await resolve('one'), await resolve('other')].map((kind) => kind === 'accepted');
      assert.equal(later.filter(Boolean).length, 1, name);
      if (atOnce.some(Boolean)) assert.deepEqual(later, atOnce, name);
    }
    const links = await context.db.knex('OidcUserLogin').select('normalizedName', 'provider');
    assert.deepEqual([links.length, new Set(links.map(({ provider }) => provider)).size], [50, 1]);
  });
}

test('the sign-in by Windows that learns of a group has it in its assertion', async (t) => {
  const slapd = await startSlapd(t);
  const dn = await slapd.addPerson({ uid: 'dora' });
  const server = await startTestServer(t, {
    server: {
      Directory: slapd.settings({ Domain: 'EXAMPLE', GroupBaseDn: `ou=groups,${base}` }),
      EnableWindowsLogin: true,
      WindowsLogin: { Header: { Secrets: [{ plain: secret }], From: ['127.0.0.1'] } },
    },
    relyingParties,
    clients: { mvc: { EnableLocalLogin: true } },
  });
  const address = `${server.issuer.replace(/Oidc$/, 'WsFed')}/WinLogin?wa=wsignin1.0&wtrealm=urn:portal`;
  const come = async () => {
    const headers = { 'x-remote-user': 'EXAMPLE\\dora', 'x-remote-secret': secret };
    const page = await createBrowser().request(address, { headers });
    assert.equal(subjectOf(page), 'EXAMPLE\\dora');
    return page.body.includes('Editors');
  };
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  assert.equal(await come(), false);
  await slapd.add(`cn=Editors,ou=groups,${base}`, {
    objectClass: 'groupOfNames',
    cn: 'Editors',
    member: [dn],
  });
  assert.equal(await come(), true);
});

for (const way of ['Windows', 'an identity provider']) {
  test(`an account that the directory has ended is not let in by ${way}, nor while there is no answer`, async (t) => {
    let time = Math.floor(Date.now() / 1000);
    const slapd = await startSlapd(t);
    const dn = await slapd.addPerson({ uid: 'dora' });
    const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'EXAMPLE\\dora' });
    const partner = {
      ...{ Type: 'Oidc', Authority: standIn.issuer, ClientId: standIn.clientId, Caption: 'Partner' },
      ...{ ClientSecret: { plain: 'partner-secret' }, UserNameClaims: ['preferred_username'] },
    };
    const server = await startTestServer(t, {
      server: {
        Directory: slapd.settings({ Domain: 'EXAMPLE', DirectoryDown: 'Deny' }),
        EnableWindowsLogin: true,
        WindowsLogin: { Header: { Secrets: [{ plain: secret }], From: ['127.0.0.1'] } },
      },
      relyingParties,
      providers: { IntelligenceWsFed: null, Partner: partner },
      clients: {
        mvc: { IdentityProviderRestrictions: ['Partner'] },
        spa: { IdentityProviderRestrictions: ['Partner'] },
      },
      now: () => time,
    });
    const come = async () => {
      if (way === 'Windows') {
        const address = `${server.issuer.replace(/Oidc$/, 'WsFed')}/WinLogin?wa=wsignin1.0&wtrealm=urn:portal`;
        const headers = { 'x-remote-user': 'EXAMPLE\\dora', 'x-remote-secret': secret };
        const page = await createBrowser().request(address, { headers });
        return { ...page, isIn: subjectOf(page) === 'EXAMPLE\\dora' };
      }
      const { browser, page } = await authorize({ issuer: server.issuer, ...mvc });
      const leaving = await browser.submit(page, { provider: 'Partner' });
      const back = await browser.open((await browser.open(leaving.location ?? '')).location ?? '');
      return { ...back, isIn: isSignedIn(back) };
    };
    assert.ok(isSignedIn((await signIn(server, 'dora')).back));
    assert.ok((await come()).isIn);

    await slapd.set(dn, { pwdAccountLockedTime: ['000001010000Z'] });
    const ended = await come();
    assert.deepEqual([ended.status, ended.isIn], [403, false]);
    assert.match(ended.body, /There is no account for you here/);
    assert.equal(refusals(server).at(-1), 'ended-in-directory');
    assert.equal(server.logged.filter(({ event }) => event === 'directory-account-ended').length, 1);

    await slapd.set(dn, { pwdAccountLockedTime: [] });
    assert.ok((await come()).isIn);
    await slapd.kill();
    const unanswered = await come();
    assert.deepEqual([unanswered.status, unanswered.isIn], [503, false]);
    assert.match(unanswered.body, down);
    assert.equal(refusals(server).at(-1), 'directory-unavailable');
    await slapd.restart();
    time += 11;
    assert.ok((await come()).isIn);
  });
}
