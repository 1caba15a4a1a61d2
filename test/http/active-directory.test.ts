/** Active Directory as a source of passwords: what it does in another way than OpenLDAP. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { decodeJwt } from 'jose';
import { domainSid, startActiveDirectory } from '../support/active-directory.ts';
import { base } from '../support/directory.ts';
import { basic, isSignedIn, mvc, post, signInAndRedeem, signInAtPage } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const password = 'Directory-pass-1';
const offline = { ...mvc, scope: `${mvc.scope} offline_access` };

async function start(t: TestContext, more: Record<string, unknown> = {}) {
  const directory = await startActiveDirectory(t);
  const dn = await directory.addUser('dora', { rid: 1001 });
  const server = await startTestServer(t, { server: { Directory: directory.settings(more) } });
  t.after(() => {
    for (const secret of [password, 'Service-secret-1', 'New-pass-word-2'])
      assert.ok(!server.logText().includes(secret), `${secret} is in the log`);
  });
  return { directory, server, dn };
}

const signIn = ({ issuer }: TestServer, user: string, secret = password) =>
  signInAtPage(issuer, user, secret);
const refresh = ({ issuer }: TestServer, token: string) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: token },
    basic('mvc', 'mvc-secret'),
  );

test('a user signs in by any of the names that Active Directory has, and is linked by the SID', async (t) => {
  const { server, directory } = await start(t);
  for (const name of ['dora', 'EXAMPLE\\DORA', 'dora@corp.example.com']) {
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: name, password });
    assert.equal(decodeJwt(body.access_token).sub, 'EXAMPLE\\dora');
  }
  const links = await server.context.db.knex('OidcUserLogin').select('issuer', 'subject', 'provider');
  const subject = ['S', 1, 5, ...domainSid, 1001].join('-');
  assert.deepEqual(
    links.map((link) => ({ ...link })),
    [{ issuer: 'urn:windows', subject, provider: 'directory' }],
  );

  // Deleted and made again under the old name: another SID.
  await directory.slapd.remove(`CN=Person dora,ou=people,${base}`);
  await directory.addUser('dora', { rid: 1002 });
  assert.equal((await signIn(server, 'dora')).back.status, 400);
  assert.equal(server.logged.findLast(({ msg }) => msg === 'sign-in refused')?.reason, 'account-taken');
});

test('an account that signed in by Windows before is the same one', async (t) => {
  const { server } = await start(t);
  const windows = {
    ...{ Name: 'windows', Type: 'WsFed' as const, UserNameClaims: ['windowsaccountname'], Domains: [] },
    ...{ AllowedAccounts: [], ProvisionAccounts: true, ClaimMapping: {} },
  };
  const subject = ['S', 1, 5, ...domainSid, 1001].join('-');
  const rules = { isReserved: () => false, isProvider: () => false };
  const identity = {
    issuer: 'urn:windows',
    subject,
    claims: new Map([['windowsaccountname', ['EXAMPLE\\old-name']]]),
  };
  const before = await server.context.externalLogins.resolve(windows, identity, rules);
  assert.equal(before.kind, 'accepted');
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'dora', password });
  assert.equal(decodeJwt(body.access_token).sub, 'EXAMPLE\\old-name');
});

const refusals: readonly [string, string][] = [
  ['525', 'unknown-in-directory'],
  ['52e', 'password'],
  ['530', 'outside-logon-hours'],
  ['531', 'workstation-not-allowed'],
  ['533', 'disabled-in-directory'],
  ['701', 'expired-in-directory'],
  ['775', 'locked-in-directory'],
];
test('the sub-codes of a refused sign-in are told apart in the log, and not on the page', async (t) => {
  const { server, directory, dn } = await start(t);
  const pages = new Set<string>();
  for (const [code, reason] of refusals) {
    directory.subCodes.set(dn.toLowerCase(), code);
    const { back } = await signIn(server, 'dora');
    assert.equal(back.status, 400);
    pages.add(/<div class="alert[\s\S]*?<\/div>/.exec(back.body)?.[0] ?? '');
    assert.equal(server.logged.findLast(({ msg }) => msg === 'sign-in refused')?.reason, reason, code);
    // So many in a row would have to wait.
    await server.context.guessing.forget('account', 'dora');
  }
  assert.equal(pages.size, 1);
  directory.subCodes.clear();
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
});

for (const code of ['773', '532']) {
  test(`data ${code} leads to the change of the password, as the user and under the policies`, async (t) => {
    const { server, directory, dn } = await start(t);
    directory.subCodes.set(dn.toLowerCase(), code);
    const { back, browser } = await signIn(server, 'dora');
    assert.match(back.body, /name="currentPassword"/);
    const change = (currentPassword: string, newPassword: string) =>
      browser.submit(back, { currentPassword, newPassword, repeatPassword: newPassword });
    assert.match((await change('not-this-one', 'New-pass-word-2')).body, /The present password is wrong/);
    assert.match((await change(password, 'short')).body, /does not accept the new password/);
    assert.ok(isSignedIn(await change(password, 'New-pass-word-2')));
    assert.ok(isSignedIn((await signIn(server, 'dora', 'New-pass-word-2')).back));
  });
}

test('nested groups are those that the server finds, however they nest', async (t) => {
  const { server, directory, dn } = await start(t);
  const group = (cn: string) => `CN=${cn},ou=groups,${base}`;
  directory.groups.set(group('Editors'), [dn, group('Everybody')]);
  directory.groups.set(group('Staff'), [group('Editors')]);
  directory.groups.set(group('Everybody'), [group('Staff')]);
  directory.groups.set(group('Others'), ['CN=somebody']);
  await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'dora', password });
  assert.deepEqual((await server.context.accounts.find('EXAMPLE\\dora'))?.roles, [
    'Editors',
    'Everybody',
    'Staff',
  ]);
});

const endings: readonly [string, string, Record<string, string[]>][] = [
  ['disabled', 'disabled', { userAccountControl: [String(0x202)] }],
  // 2020-01-01 in intervals of 100 ns since 1601.
  ['past its end', 'expired', { accountExpires: ['132223104000000000'] }],
];
for (const [name, reason, attributes] of endings) {
  test(`an account of Active Directory that is ${name} ends the grants`, async (t) => {
    const { server, directory, dn } = await start(t);
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
    const first = await refresh(server, body.refresh_token);
    assert.equal(first.status, 200);
    await directory.slapd.set(dn, { accountExpires: ['0'] });
    const second = await refresh(server, first.body.refresh_token);
    assert.equal(second.status, 200, 'never ends');
    await directory.slapd.set(dn, attributes);
    assert.equal((await refresh(server, second.body.refresh_token)).body.error, 'invalid_grant');
    const event = server.logged.find((line) => line.event === 'directory-account-ended');
    assert.deepEqual([event?.accountId, event?.reason], ['EXAMPLE\\dora', reason]);
  });
}

test('one entry that cannot be read does not take the directory from everybody', async (t) => {
  const { server, directory } = await start(t, { DirectoryDown: 'Deny' });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  const odd = await directory.addUser('odd');
  await directory.slapd.set(odd, { objectSid: ['no SID'] });
  assert.equal((await signIn(server, 'odd')).back.status, 503);
  assert.match(server.logText(), /objectSid is no SID/);
  assert.equal((await refresh(server, body.refresh_token)).status, 200);
});
