/** A directory as the second source of passwords: OpenLDAP, as Debian has it. */
import assert from 'node:assert/strict';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { base, type Slapd, startSlapd } from '../support/directory.ts';
import {
  authorize,
  basic,
  isSignedIn,
  mvc,
  post,
  signInAndRedeem,
  signInAtPage,
} from '../support/sign-in.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';

const password = 'Directory-pass-1';
const offline = { ...mvc, scope: `${mvc.scope} offline_access` };
const wrong = /The name or the password is wrong/;
const down = /the directory of your organisation does not answer/i;

/** A server over a directory that has dora. */
async function start(
  t: TestContext,
  { directory = {}, ...options }: TestServerOptions & { directory?: Record<string, unknown> } = {},
) {
  const slapd = await startSlapd(t);
  const dn = await slapd.addPerson({ uid: 'dora', displayName: 'Dora Dale', mail: 'dora@example.com' });
  // A directory that shows nobody says nothing of anybody.
  await slapd.addPerson({ uid: 'somebody' });
  const server = await startTestServer(t, {
    ...options,
    server: { Directory: slapd.settings(directory), ...options.server },
  });
  t.after(() => {
    // Whatever a test does, a password is nowhere in the log.
    for (const secret of [password, 'Pass-word-1', 'Service-secret-1', 'New-pass-word-2'])
      assert.ok(!server.logText().includes(secret), `${secret} is in the log`);
  });
  return { slapd, server, dn };
}

const signIn = ({ issuer }: TestServer, user: string, secret = password) =>
  signInAtPage(issuer, user, secret);
const grant = ({ issuer }: TestServer, username: string, secret = password) =>
  post(
    `${issuer}/connect/token`,
    {
      grant_type: 'password',
      username,
      password: secret,
      scope: 'openid profile offline_access intelligence_web_api',
    },
    basic('desk', 'desk-secret'),
  );
const refresh = ({ issuer }: TestServer, token: string) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: token },
    basic('mvc', 'mvc-secret'),
  );
const introspect = async ({ issuer }: TestServer, token: string) =>
  (await post(`${issuer}/connect/introspect`, { token }, basic('intelligence_web_api', 'web-api-secret')))
    .body.active;
const events = ({ logged }: TestServer, event: string) => logged.filter((line) => line.event === event);
const refusals = ({ logged }: TestServer) =>
  logged.filter(({ msg }) => msg === 'sign-in refused').map(({ reason }) => reason);

/** The binds and searches in the log of slapd from an offset on, when every connection has been closed. */
async function stepsOf(slapd: Slapd, from: number): Promise<readonly string[]> {
  const count = (text: string) => slapd.log().slice(from).split(text).length;
  while (count(' ACCEPT ') === 1 || count(' ACCEPT ') !== count(' closed')) await sleep(20);
  const steps = slapd
    .log()
    .slice(from)
    .matchAll(/BIND dn="([^"]*)" method=128|SRCH base=.* filter="([^"]*)"/g);
  return [...steps].map(([, dn, filter]) =>
    // Nobody's name is another one each time.
    dn === undefined ? `SRCH ${filter}` : `BIND ${dn.replace(/^cn=[0-9a-f]{16},.*/, 'cn=')}`,
  );
}

function addGroup(
  slapd: Slapd,
  cn: string,
  members: readonly string[],
  kind: 'member' | 'uniqueMember' = 'member',
) {
  const objectClass = kind === 'member' ? 'groupOfNames' : 'groupOfUniqueNames';
  return slapd.add(`cn=${cn},ou=groups,${base}`, { objectClass, cn, [kind]: [...members] });
}

test('a user of the directory signs in at the page, at the WsFed application and by the password grant', async (t) => {
  const { server } = await start(t, {
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'DORA', password });
  const claims = decodeJwt(body.access_token);
  assert.deepEqual([claims.sub, claims.idp, claims.amr], ['dora', 'idsrv', ['password']]);
  const account = await server.context.accounts.find('dora');
  assert.deepEqual([account?.displayName, account?.email], ['Dora Dale', 'dora@example.com']);

  assert.equal((await grant(server, 'dora')).status, 200);
  const browser = createBrowser();
  const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const answer = await browser.submit(await browser.open(url), { username: 'dora', password });
  assert.match(answer.body, /name="wresult"/);
  assert.equal(server.logged.filter(({ msg }) => msg === 'account provisioned').length, 1);
});

test('a wrong password, an unknown name and names that mean something in a filter are refused alike', async (t) => {
  const { server, slapd } = await start(t);
  const bodies = new Set<string>();
  const names = [
    'dora',
    'nobody',
    '*',
    'd*',
    'dora)(uid=*',
    '*)(objectClass=*',
    'dora\\2a',
    '\\',
    'dora\u0000',
    'uid=dora',
    '(|(uid=dora))',
    'dörte',
    'x'.repeat(300),
  ];
  for (const name of names) {
    const { back } = await signIn(server, name, name === 'dora' ? 'not-this-one' : password);
    assert.equal(back.status, 400, name);
    assert.match(back.body, wrong, name);
    bodies.add(/<div class="alert[\s\S]*?<\/div>/.exec(back.body)?.[0] ?? '');
  }
  assert.equal(bodies.size, 1);
  assert.deepEqual(refusals(server), ['password', ...names.slice(1).map(() => 'unknown')]);
  assert.match(slapd.log(), /filter="\(uid=\\2A\)"/i, 'a star is only a character');
  assert.equal(
    (await server.context.accounts.list()).some(({ name }) => name === 'dora'),
    false,
  );
});

test('an unknown name takes the steps of a wrong password', async (t) => {
  const { server, slapd } = await start(t);
  for (const [name, end] of [
    ['dora', `BIND uid=dora,ou=people,${base}`],
    ['nobody', 'BIND cn='],
  ] as const) {
    const before = slapd.log().length;
    assert.match((await signIn(server, name, 'wrong')).back.body, wrong);
    const expected = [`BIND cn=service,${base}`, `SRCH (uid=${name})`, end];
    assert.deepEqual(await stepsOf(slapd, before), expected);
  }
});

test('an empty password never reaches the directory', async (t) => {
  const { server, slapd } = await start(t);
  const before = slapd.log().length;
  const { back } = await signIn(server, 'dora', '');
  assert.match(back.body, wrong);
  assert.equal((await grant(server, 'dora', '')).status, 400);
  // What it is asked afterwards comes afterwards in its log.
  assert.match((await signIn(server, 'last')).back.body, wrong);
  const lines = await stepsOf(slapd, before);
  assert.deepEqual(lines, ['BIND cn=service,dc=example,dc=com', 'SRCH (uid=last)', 'BIND cn=']);
});

test('a name that two entries have is nobody’s', async (t) => {
  const { server, slapd } = await start(t);
  await slapd.add(`uid=dora,ou=groups,${base}`, {
    objectClass: 'inetOrgPerson',
    uid: 'dora',
    cn: 'x',
    sn: 'x',
    userPassword: password,
  });
  assert.match((await signIn(server, 'dora')).back.body, wrong);
  assert.deepEqual(refusals(server), ['several-entries']);
});

test('an account keeps its entry when that is renamed, and a new entry of an old name is not let in', async (t) => {
  const { server, slapd, dn } = await start(t);
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  await slapd.rename(dn, 'uid=theodora');
  const renamed = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'theodora', password });
  assert.equal(decodeJwt(renamed.body.access_token).sub, 'dora');

  await slapd.addPerson({ uid: 'dora' });
  assert.match((await signIn(server, 'dora')).back.body, wrong);
  assert.deepEqual(refusals(server), ['account-taken']);
});

test('an account that is removed or disabled here stays out, whatever the directory says', async (t) => {
  const { server, slapd } = await start(t);
  await slapd.addPerson({ uid: 'dirk' });
  for (const name of ['dora', 'dirk']) assert.ok(isSignedIn((await signIn(server, name)).back));
  await server.context.accounts.setDisabled('dora', true);
  await server.context.accounts.remove('dirk');
  for (const name of ['dora', 'dirk']) assert.match((await signIn(server, name)).back.body, wrong);
  assert.deepEqual(refusals(server), ['disabled', 'account-removed']);
  await slapd.addPerson({ uid: 'batch' });
  assert.match((await signIn(server, 'batch')).back.body, wrong);
  assert.equal(refusals(server).at(-1), 'client-account');
});

test('without ProvisionAccounts only accounts that are there can sign in', async (t) => {
  const { server } = await start(t, { directory: { ProvisionAccounts: false } });
  assert.match((await signIn(server, 'dora')).back.body, wrong);
  assert.deepEqual(refusals(server), ['account-unknown']);
  await server.context.accounts.add({ name: 'dora' });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
});

test('groups become roles, nested ones too, and follow the directory at every sign-in', async (t) => {
  const { server, slapd, dn } = await start(t, { directory: { GroupBaseDn: `ou=groups,${base}` } });
  const group = (cn: string) => `cn=${cn},ou=groups,${base}`;
  await addGroup(slapd, 'Editors', [dn]);
  await addGroup(slapd, 'Staff', [group('Editors')], 'uniqueMember');
  // A cycle: each is in the other.
  await addGroup(slapd, 'Everybody', [group('Staff')]);
  await slapd.set(group('Editors'), { member: [dn, group('Everybody')] });
  await addGroup(slapd, 'Others', [`uid=somebody,ou=people,${base}`]);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  const rolesOf = async () => (await server.context.accounts.find('dora'))?.roles;
  assert.deepEqual(await rolesOf(), ['Editors', 'Everybody', 'Staff']);
  const stamp = (await server.context.accounts.find('dora'))?.stamp;

  await slapd.remove(group('Staff'));
  await slapd.set(dn, { displayName: ['Dora Doe'], mail: [] });
  assert.equal((await refresh(server, body.refresh_token)).status, 200);
  const account = await server.context.accounts.find('dora');
  assert.deepEqual(
    [account?.roles, account?.displayName, account?.email, account?.stamp],
    [['Editors'], 'Dora Doe', undefined, stamp],
  );
});

test('the very refresh that learns of a change has it in its tokens', async (t) => {
  const { server, slapd, dn } = await start(t, {
    directory: { GroupBaseDn: `ou=groups,${base}` },
    clients: { mvc: { UpdateAccessTokenClaimsOnRefresh: true } },
    resources: {
      intelligence_web_api: { Scopes: [{ Name: 'intelligence_web_api', Claims: ['role'] }] },
    },
  });
  await addGroup(slapd, 'Editors', [dn]);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  const rolesIn = (token: string) => decodeJwt(token).role;
  assert.equal(rolesIn(body.access_token), 'Editors');

  await slapd.remove(`cn=Editors,ou=groups,${base}`);
  const refreshed = await refresh(server, body.refresh_token);
  assert.equal(refreshed.status, 200);
  assert.equal(rolesIn(refreshed.body.access_token), undefined);
});

test('without GroupBaseDn the roles are those of the account here', async (t) => {
  const { server } = await start(t);
  await server.context.accounts.add({ name: 'dora', roles: ['Reviewer'] });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  assert.deepEqual((await server.context.accounts.find('dora'))?.roles, ['Reviewer']);
});

test('with the directory down local accounts sign in, and the page says what is wrong', async (t) => {
  const { server, slapd } = await start(t, {
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  await slapd.kill();
  const { back } = await signIn(server, 'dora');
  assert.equal(back.status, 503);
  assert.match(back.body, down);
  assert.match(back.body, /value="dora"/);
  assert.ok(isSignedIn((await signIn(server, 'alice', 'Pass-word-1')).back));
  assert.match((await signIn(server, 'alice', 'wrong')).back.body, wrong);

  const answer = await grant(server, 'dora');
  assert.deepEqual([answer.status, answer.body.error], [503, 'temporarily_unavailable']);
  const browser = createBrowser();
  const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const page = await browser.submit(await browser.open(url), { username: 'dora', password });
  assert.equal(page.status, 503);
  assert.match(page.body, down);
  assert.ok(server.logged.some(({ msg }) => msg === 'directory unavailable'));

  await slapd.restart();
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
});

test('the next host takes over, and is asked first from then on', async (t) => {
  const dead = await startSlapd(t);
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  await dead.kill();
  const server = await startTestServer(t, {
    server: { Directory: slapd.settings({ Urls: [dead.url, slapd.url] }) },
  });
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  const failures = server.logged.filter(({ msg }) => msg === 'host of the directory failed');
  assert.deepEqual(
    failures.map(({ url }) => url),
    [dead.url],
  );
});

for (const encryption of ['ldaps', 'StartTLS']) {
  test(`a directory that hangs is given up after Timeout, by ${encryption}`, async (t) => {
    const slapd = await startSlapd(t);
    await slapd.addPerson({ uid: 'dora' });
    const settings = encryption === 'ldaps' ? {} : { Urls: [slapd.plainUrl], StartTls: true };
    const server = await startTestServer(t, {
      server: { Directory: slapd.settings({ Timeout: 1, ...settings }) },
    });
    assert.ok(isSignedIn((await signIn(server, 'dora')).back));
    await slapd.suspend();
    t.after(() => slapd.child.kill('SIGCONT'));
    const begun = performance.now();
    const { back } = await signIn(server, 'dora');
    assert.match(back.body, down);
    assert.ok(performance.now() - begun < 4000, `${performance.now() - begun} ms`);
    slapd.child.kill('SIGCONT');
    assert.ok(isSignedIn((await signIn(server, 'dora')).back));
  });
}

test('a certificate of somebody else’s, or for another name, is refused by ldaps and StartTLS', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const elsewhere = join(import.meta.dirname, '../fixtures/tls/elsewhere.pem');
  const port = (url: string) => url.replace('localhost', '[::ffff:127.0.0.1]');
  const cases = [
    { CaFile: elsewhere },
    { CaFile: elsewhere, Urls: [slapd.plainUrl], StartTls: true },
    { CaFile: undefined },
    { Urls: [port(slapd.url)] },
    { Urls: [port(slapd.plainUrl)], StartTls: true },
  ];
  for (const settings of cases) {
    const before = slapd.log().length;
    const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
    const { back } = await signIn(server, 'dora');
    assert.match(back.body, down, JSON.stringify(settings));
    assert.match(server.logText(), /certificate|altnames/i, JSON.stringify(settings));
    assert.doesNotMatch(slapd.log().slice(before), /BIND dn="cn=service/, 'no password was sent');
    await server.stop();
  }
});

test('what somebody on the way puts behind the answer to StartTLS does not become the answer to a bind', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  // A success for the next message, whose text is the 14 bytes of the refusal that really comes, encrypted.
  const success = Buffer.from('301a02010361150a01000400040e', 'hex');
  let connections = 0;
  const middle = createServer((client) => {
    connections += 1;
    const isAttacked = connections === 2;
    const behind = connect(Number(new URL(slapd.plainUrl).port), '127.0.0.1');
    for (const socket of [client, behind]) socket.on('error', () => undefined);
    client.pipe(behind);
    let isFirst = true;
    behind.on('data', (data) => {
      client.write(isFirst && isAttacked ? Buffer.concat([data, success]) : data);
      isFirst = false;
    });
    client.on('close', () => behind.destroy());
  });
  await new Promise<void>((resolve) => middle.listen(0, '127.0.0.1', resolve));
  t.after(() => middle.close());
  const { port } = middle.address() as AddressInfo;
  const settings = { Urls: [`ldap://localhost:${port}`], StartTls: true };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  const { back } = await signIn(server, 'dora', 'wrong');
  assert.equal(connections, 2);
  assert.equal(back.status, 503, 'not signed in');
  assert.match(server.logText(), /more than an answer to StartTLS/);
  assert.ok(isSignedIn((await signIn(server, 'dora')).back));
});

for (const encryption of ['ldaps', 'StartTLS']) {
  test(`a connection by ${encryption} that is lost in the middle is not replaced by one that is nobody’s`, async (t) => {
    const slapd = await startSlapd(t);
    const dn = await slapd.addPerson({ uid: 'dora' });
    await addGroup(slapd, 'Editors', [dn]);
    const clients: Socket[] = [];
    const target = encryption === 'ldaps' ? slapd.url : slapd.plainUrl;
    // While the password is proved on the second connection, the first one goes.
    const middle = createServer((client) => {
      clients.push(client);
      const behind = connect(Number(new URL(target).port), '127.0.0.1');
      for (const socket of [client, behind]) socket.on('error', () => undefined);
      client.pipe(behind).pipe(client);
      client.on('close', () => behind.destroy());
      if (clients.length === 2) clients[0]?.destroy();
    });
    await new Promise<void>((resolve) => middle.listen(0, '127.0.0.1', resolve));
    t.after(() => middle.close());
    const { port } = middle.address() as AddressInfo;
    const settings = {
      Urls: [target.replace(/\d+$/, String(port))],
      StartTls: encryption === 'StartTLS',
      Timeout: 10,
      GroupBaseDn: `ou=groups,${base}`,
    };
    const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
    const begun = performance.now();
    const { back } = await signIn(server, 'dora');
    assert.equal(back.status, 503);
    assert.ok(performance.now() - begun < 8000, 'long before the time is over');
    assert.equal(clients.length, 2);
    assert.match(server.logText(), /the connection was lost/);
    assert.ok(isSignedIn((await signIn(server, 'dora')).back));
    assert.deepEqual((await server.context.accounts.find('dora'))?.roles, ['Editors']);
  });
}

test('an identity of Windows that the directory has never known is not its to end', async (t) => {
  let time = Math.floor(Date.now() / 1000);
  const { server, slapd, dn } = await start(t, {
    directory: { DirectoryDown: 'Deny' },
    now: () => time,
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  await server.context.db.knex('OidcUserLogin').update({ checkedAt: null });
  await slapd.kill();
  const first = await refresh(server, body.refresh_token);
  assert.equal(first.status, 200);
  await slapd.restart();
  time += 400;
  await slapd.remove(dn);
  assert.equal((await refresh(server, first.body.refresh_token)).status, 200);
  assert.deepEqual(events(server, 'directory-account-ended'), []);
});

test('a password that must be changed is changed in the directory, by the present one', async (t) => {
  const { server, slapd, dn } = await start(t);
  await slapd.set(dn, { pwdReset: ['TRUE'] });
  const { back, browser } = await signIn(server, 'dora');
  assert.match(back.body, /Choose a new password/);
  assert.match(back.body, /name="currentPassword"/);
  const change = (fields: Record<string, string>) =>
    browser.submit(back, {
      currentPassword: password,
      newPassword: 'New-pass-word-2',
      repeatPassword: 'New-pass-word-2',
      ...fields,
    });
  const refused = [
    [{ repeatPassword: 'other' }, /are not the same/],
    [{ currentPassword: '' }, /Fill in all three fields/],
    [{ newPassword: '', repeatPassword: '' }, /Fill in all three fields/],
    [{ newPassword: password, repeatPassword: password }, /differs from the present one/],
    [{ currentPassword: 'not-this-one' }, /The present password is wrong/],
    [{ newPassword: 'short', repeatPassword: 'short' }, /does not accept the new password/],
  ] as const;
  for (const [fields, problem] of refused) {
    const page = await change(fields);
    assert.equal(page.status, 400);
    assert.match(page.body, problem);
  }
  assert.ok(isSignedIn(await change({})));
  assert.match((await signIn(server, 'dora')).back.body, wrong);
  assert.ok(isSignedIn((await signIn(server, 'dora', 'New-pass-word-2')).back));
  assert.equal((await grant(server, 'dora', 'New-pass-word-2')).status, 200);
});

test('whoever guesses the present password on the page that changes it has to wait, right or wrong', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const { server, slapd, dn } = await start(t, { now: () => now });
  await slapd.set(dn, { pwdReset: ['TRUE'] });
  const { back, browser } = await signIn(server, 'dora');
  const change = (currentPassword: string) =>
    browser.submit(back, {
      currentPassword,
      newPassword: 'New-pass-word-2',
      repeatPassword: 'New-pass-word-2',
    });
  const statuses = [];
  for (let guess = 0; guess < 5; guess += 1) statuses.push((await change(`guess-${guess}`)).status);
  assert.deepEqual(statuses, [400, 400, 400, 400, 400]);
  const page = await change(password);
  assert.deepEqual([page.status, page.headers.get('retry-after')], [429, '1']);
  assert.match(page.body, /too many attempts with a wrong password/);
  assert.match(page.body, /name="currentPassword"/);
  await server.context.guessing.forget('account', 'dora');
  let changed = await change(password);
  // What a node remembers of a wait it asks for again after two seconds.
  for (let attempt = 0; attempt < 50 && changed.status === 429; attempt += 1) {
    await sleep(100);
    changed = await change(password);
  }
  assert.ok(isSignedIn(changed));
});

test('the WsFed application has the directory’s password changed, too', async (t) => {
  const { server, slapd, dn } = await start(t, {
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  await slapd.set(dn, { pwdReset: ['TRUE'] });
  const browser = createBrowser();
  const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const page = await browser.submit(await browser.open(url), { username: 'dora', password });
  assert.match(page.body, /name="currentPassword"/);
  assert.ok(!page.body.includes(password));
  assert.equal((await grant(server, 'dora')).body.error_description, 'password_must_be_changed');
  const fields = {
    currentPassword: password,
    newPassword: 'New-pass-word-2',
    repeatPassword: 'New-pass-word-2',
  };
  await slapd.kill();
  const failed = await browser.submit(page, fields);
  assert.equal(failed.status, 503);
  assert.match(failed.body, down);
  await slapd.restart();
  assert.match((await browser.submit(failed, fields)).body, /name="wresult"/);
});

for (const end of ['there', 'here']) {
  test(`no password is changed for an account that was disabled ${end} in the meantime`, async (t) => {
    const { server, slapd, dn } = await start(t);
    await slapd.set(dn, { pwdReset: ['TRUE'] });
    const { back, browser } = await signIn(server, 'dora');
    assert.match(back.body, /name="currentPassword"/);
    if (end === 'here') await server.context.accounts.setDisabled('dora', true);
    else await slapd.set(dn, { objectClass: ['inetOrgPerson', 'shadowAccount'], shadowExpire: ['1'] });
    const page = await browser.submit(back, {
      currentPassword: password,
      newPassword: 'New-pass-word-2',
      repeatPassword: 'New-pass-word-2',
    });
    assert.equal(page.status, 409);
    await slapd.set(dn, { shadowExpire: [], objectClass: ['inetOrgPerson'] }).catch(() => undefined);
    await server.context.accounts.setDisabled('dora', false);
    assert.match((await signIn(server, 'dora')).back.body, /name="currentPassword"/, 'still the old one');
  });
}

const endings: readonly [string, string, (slapd: Slapd, dn: string) => Promise<void>][] = [
  ['gone', 'gone', (slapd, dn) => slapd.remove(dn)],
  ['locked for ever', 'disabled', (slapd, dn) => slapd.set(dn, { pwdAccountLockedTime: ['000001010000Z'] })],
  [
    'past its end',
    'expired',
    (slapd, dn) => slapd.set(dn, { objectClass: ['inetOrgPerson', 'shadowAccount'], shadowExpire: ['1'] }),
  ],
  ['no longer what the filter admits', 'gone', (slapd, dn) => slapd.set(dn, { employeeType: ['former'] })],
];
for (const [name, reason, end] of endings) {
  test(`an entry that is ${name} ends the account’s grants at the next refresh`, async (t) => {
    const { server, slapd, dn } = await start(t, {
      directory: { UserFilter: '(&(uid={name})(!(employeeType=former)))' },
    });
    const { body, browser } = await signInAndRedeem({
      issuer: server.issuer,
      ...offline,
      user: 'dora',
      password,
    });
    await end(slapd, dn);
    assert.equal(await introspect(server, body.access_token), true, 'known for up to five minutes');
    const answer = await refresh(server, body.refresh_token);
    assert.deepEqual([answer.status, answer.body.error], [400, 'invalid_grant']);
    const [event] = events(server, 'directory-account-ended');
    assert.deepEqual([event?.level, event?.accountId, event?.reason], ['warn', 'dora', reason]);
    assert.equal(await introspect(server, body.access_token), false);
    assert.match((await authorize({ issuer: server.issuer, ...mvc, browser })).page.body, /name="password"/);
    assert.match((await signIn(server, 'dora')).back.body, wrong);
  });
}

for (const type of ['Jwt', 'Reference']) {
  test(`an entry that is gone ends ${type} tokens at introspection within five minutes, and single sign-on`, async (t) => {
    let time = Math.floor(Date.now() / 1000);
    const { server, slapd, dn } = await start(t, {
      clients: { mvc: { AccessTokenType: type, AccessTokenLifetime: 7200 } },
      relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
      now: () => time,
    });
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'dora', password });
    const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
    const browser = createBrowser();
    await browser.submit(await browser.open(url), { username: 'dora', password });
    const searches = () => slapd.log().split('SRCH base').length;
    const before = searches();
    for (let n = 0; n < 5; n += 1) assert.equal(await introspect(server, body.access_token), true);
    assert.equal(searches(), before, 'answered from memory');
    time += 301;
    assert.deepEqual(await Promise.all([1, 2, 3].map(() => introspect(server, body.access_token))), [
      true,
      true,
      true,
    ]);
    assert.equal(searches(), before + 1, 'one question for all');
    assert.match((await browser.open(url)).body, /name="wresult"/);

    await slapd.remove(dn);
    time += 301;
    assert.equal(await introspect(server, body.access_token), false);
    assert.equal(events(server, 'directory-account-ended').length, 1);
    assert.match((await browser.open(url)).body, /name="password"/);
    assert.equal(
      await introspect(server, (await signInAndRedeem({ issuer: server.issuer, ...mvc })).body.access_token),
      true,
      'local accounts are not asked for',
    );
  });
}

test('with Allow users go on for as long as DirectoryDownMaxAge, across a restart', async (t) => {
  let time = Math.floor(Date.now() / 1000);
  const begun = time;
  const { server, slapd } = await start(t, {
    directory: { DirectoryDownMaxAge: 3600 },
    clients: { mvc: { AccessTokenLifetime: 36_000 } },
    now: () => time,
  });
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  time += 1000;
  const first = await refresh(server, body.refresh_token);
  assert.equal(first.status, 200);
  await slapd.kill();
  time += 3500;
  const second = await refresh(server, first.body.refresh_token);
  assert.equal(second.status, 200, 'counted from the last answer, not from the sign-in');
  assert.equal(await introspect(server, body.access_token), true);
  time = begun + 1000 + 3600;
  const third = await refresh(server, second.body.refresh_token);
  assert.deepEqual([third.status, third.body.error], [503, 'temporarily_unavailable']);
  assert.equal(await introspect(server, body.access_token), false);
  assert.ok(
    server.logged.some(
      ({ level, msg }) => level === 'warn' && msg === 'refused while the directory does not answer',
    ),
  );
  assert.deepEqual(events(server, 'directory-account-ended'), []);
  const rows = await server.context.db.knex('OidcUserLogin').select('checkedAt');
  assert.deepEqual(
    rows.map(({ checkedAt }) => Number(checkedAt)),
    [begun + 1000],
  );

  await slapd.restart();
  time += 11;
  assert.equal((await refresh(server, second.body.refresh_token)).status, 200, 'the token was not used up');
  assert.equal(await introspect(server, body.access_token), true);
});

test('with Deny nothing goes on while the directory does not answer, and everything afterwards', async (t) => {
  let time = Math.floor(Date.now() / 1000);
  const { server, slapd } = await start(t, { directory: { DirectoryDown: 'Deny' }, now: () => time });
  const { body, browser } = await signInAndRedeem({
    issuer: server.issuer,
    ...offline,
    user: 'dora',
    password,
  });
  await slapd.kill();
  time += 301;
  assert.equal((await refresh(server, body.refresh_token)).status, 503);
  assert.equal(await introspect(server, body.access_token), false);
  assert.match((await authorize({ issuer: server.issuer, ...mvc, browser })).page.body, /name="password"/);
  await slapd.restart();
  time += 11;
  assert.equal((await refresh(server, body.refresh_token)).status, 200);
  assert.equal(await introspect(server, body.access_token), true);
});

test('a wrong BaseDn or a refused service account says that the directory cannot be used, and ends nothing', async (t) => {
  const { server, slapd } = await start(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  await slapd.set('cn=service,dc=example,dc=com', { userPassword: ['another-secret'] });
  assert.match((await signIn(server, 'dora')).back.body, down);
  assert.equal((await refresh(server, body.refresh_token)).status, 200, 'Allow');
  assert.match(server.logText(), /cn=service,dc=example,dc=com is refused/);
  assert.deepEqual(events(server, 'directory-account-ended'), []);
});

test('with Domain accounts are named DOMAIN\\user, however that is typed, and meet those of Windows', async (t) => {
  const { server, slapd } = await start(t, { directory: { Domain: 'EXAMPLE' } });
  await slapd.addPerson({ uid: 'carol' });
  await slapd.addPerson({ uid: 'alice' });
  for (const name of ['dora', 'example\\dora']) {
    const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: name, password });
    assert.equal(decodeJwt(body.access_token).sub, 'EXAMPLE\\dora');
  }
  const carol = await signInAndRedeem({ issuer: server.issuer, ...mvc, user: 'carol', password });
  assert.equal(decodeJwt(carol.body.access_token).sub, 'EXAMPLE\\carol');
  assert.match((await signIn(server, 'OTHER\\dora')).back.body, wrong);
  // alice has a password of her own here; in the directory she is somebody else.
  assert.match((await signIn(server, 'alice')).back.body, wrong);
  assert.ok(isSignedIn((await signIn(server, 'EXAMPLE\\alice')).back));
  await server.context.accounts.setPassword('EXAMPLE\\dora', 'Own-pass-word-3');
  assert.match(
    (await signIn(server, 'dora')).back.body,
    wrong,
    'by whatever spelling, the own password decides',
  );
  assert.ok(isSignedIn((await signIn(server, 'EXAMPLE\\dora', 'Own-pass-word-3')).back));
});

test('statements: a sign-in by the directory, its refresh and its introspection', async (t) => {
  const { server } = await start(t, { server: { ExpiredTokenCleanInterval: 86_400 } });
  const statements: string[] = [];
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, user: 'dora', password });
  server.context.db.knex.on('query', ({ sql }: { sql: string }) => {
    statements.push(sql);
  });
  const count = async (run: () => Promise<unknown>) => {
    statements.length = 0;
    await run();
    return statements.length;
  };
  const [byPage, local] = [
    await authorize({ issuer: server.issuer, ...mvc }),
    await authorize({ issuer: server.issuer, ...mvc }),
  ];
  const own = await count(() => local.signIn());
  // Whose link it is, the account, and the time of the answer.
  assert.equal(
    await count(() => byPage.signIn(byPage.page, 'dora', password)),
    own + 3,
    statements.join('\n'),
  );
  assert.equal(await count(() => introspect(server, body.access_token)), 1, statements.join('\n'));
  assert.equal(await count(() => refresh(server, body.refresh_token)), 8, statements.join('\n'));
  const alice = await signInAndRedeem({ issuer: server.issuer, ...offline });
  assert.equal(await count(() => introspect(server, alice.body.access_token)), 1, statements.join('\n'));
});
