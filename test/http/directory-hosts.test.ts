/** The hosts of a directory when not all is well: one lags behind, hangs, is asked too much, or the clock moves. */
import assert from 'node:assert/strict';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { base, type Slapd, startSlapd } from '../support/directory.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const password = 'Directory-pass-1';
const offline = { ...mvc, scope: `${mvc.scope} offline_access` };

const signIn = async ({ issuer }: TestServer, user: string, secret = password) => {
  const attempt = await authorize({ issuer, ...mvc });
  return (await attempt.signIn(attempt.page, user, secret)).status;
};
const redeem = async ({ issuer }: TestServer, user: string) =>
  (await signInAndRedeem({ issuer, ...offline, user, password })).body.refresh_token;
const refresh = async ({ issuer }: TestServer, token: string) => {
  const form = { grant_type: 'refresh_token', refresh_token: token };
  const { status, body } = await post(`${issuer}/connect/token`, form, basic('mvc', 'mvc-secret'));
  return { status, token: String(body.refresh_token) };
};
const endingsOf = ({ logged }: TestServer) =>
  logged.filter(({ event }) => event === 'directory-account-ended').map(({ reason }) => reason);
const rolesOf = async ({ context }: TestServer, name: string) => (await context.accounts.find(name))?.roles;

function addGroups(slapd: Slapd, count: number, member: (n: number) => string, prefix = 'G') {
  const names = Array.from({ length: count }, (_, n) => `${prefix}${n}`);
  return slapd.addAll(
    names.map((cn, n) => [
      `cn=${cn},ou=groups,${base}`,
      { objectClass: 'groupOfNames', cn, member: member(n) },
    ]),
  );
}

/** Between the server and slapd, in clear. `isKept` says of what the server sends whether it gets no further. */
async function startBetween(t: TestContext, slapd: Slapd, isKept: (data: Buffer) => boolean) {
  const sockets = new Set<Socket>();
  const between = { connections: 0, most: 0, url: '', isKept };
  const listener = createServer((client) => {
    between.connections += 1;
    const behind = connect(Number(new URL(slapd.plainUrl).port), '127.0.0.1');
    for (const socket of [client, behind]) {
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
    sockets.add(client);
    between.most = Math.max(between.most, sockets.size);
    client.on('data', (data) => {
      if (!between.isKept(data)) behind.write(data);
    });
    behind.pipe(client);
    client.on('close', () => behind.destroy());
    behind.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    listener.close();
    for (const socket of sockets) socket.destroy();
  });
  between.url = `ldap://localhost:${(listener.address() as AddressInfo).port}`;
  return between;
}

test('an entry that one of two hosts does not have is not gone, and one that neither has is', async (t) => {
  const [first, second] = [await startSlapd(t), await startSlapd(t)];
  let time = Math.floor(Date.now() / 1000);
  const dn = await first.addPerson({ uid: 'dora' });
  await first.addPerson({ uid: 'dirk' });
  await second.addPerson({ uid: 'dirk' });
  const server = await startTestServer(t, {
    server: { Directory: first.settings({ Urls: [first.url, second.url] }) },
    now: () => time,
  });
  let { status, token } = await refresh(server, await redeem(server, 'dora'));
  assert.equal(status, 200);
  await first.kill();
  ({ status, token } = await refresh(server, token));
  assert.equal(status, 200, 'the one that is left has never had it');
  assert.deepEqual(endingsOf(server), []);
  await first.restart();
  time += 61;
  ({ status, token } = await refresh(server, token));
  assert.equal(status, 200);
  await first.remove(dn);
  ({ status } = await refresh(server, token));
  assert.equal(status, 400);
  assert.deepEqual(endingsOf(server), ['gone']);
});

test('a host that shows nobody any more ends nobody', async (t) => {
  const slapd = await startSlapd(t);
  const entries = [await slapd.addPerson({ uid: 'dora' }), await slapd.addPerson({ uid: 'dirk' })];
  const server = await startTestServer(t, { server: { Directory: slapd.settings() } });
  const token = await redeem(server, 'dora');
  for (const dn of entries) await slapd.remove(dn);
  assert.equal((await refresh(server, token)).status, 200, 'Allow');
  assert.deepEqual(endingsOf(server), []);
  assert.match(server.logText(), /there are no users below dc=example,dc=com/);
});

test('one user whose groups take too long does not take the directory from everybody', async (t) => {
  const slapd = await startSlapd(t);
  for (const uid of ['dora', 'dirk']) await slapd.addPerson({ uid });
  const between = await startBetween(t, slapd, (data) => /member.*uid=dora/s.test(data.toString('latin1')));
  const settings = { Urls: [between.url], DirectoryDown: 'Deny', GroupBaseDn: base, Timeout: 1 };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  const token = await redeem(server, 'dirk');
  assert.equal(await signIn(server, 'dora'), 503);
  assert.match(server.logText(), /no answer within 1 s, but to the sign-in of BindDn/);
  assert.equal((await refresh(server, token)).status, 200);
});

test('a host that hangs behind the sign-in of BindDn is not asked first again', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  // The tag of a search.
  const between = await startBetween(t, slapd, (data) => data[5] === 0x63 || data[6] === 0x63);
  const settings = { Urls: [between.url, slapd.plainUrl], Timeout: 1 };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  for (let n = 0; n < 3; n += 1) assert.equal(await signIn(server, 'dora'), 303);
  assert.equal(between.connections, 1);
});

test('whoever can go on without an answer does not wait again for hosts that have just failed', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const between = await startBetween(t, slapd, () => false);
  const settings = { Urls: [between.url], Timeout: 1 };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  let token = await redeem(server, 'dora');
  between.isKept = () => true;
  assert.equal(await signIn(server, 'dora'), 503);
  const before = between.connections;
  for (let n = 0; n < 3; n += 1) {
    const answer = await refresh(server, token);
    assert.equal(answer.status, 200);
    token = answer.token;
  }
  assert.equal(between.connections, before);
  between.isKept = () => false;
  assert.equal(await signIn(server, 'dora'), 303, 'signing in asks');
});

test('a directory that hangs is asked 32 questions at once, and local accounts sign in meanwhile', async (t) => {
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dirk' });
  const between = await startBetween(t, slapd, () => true);
  // Two hosts, so that a question takes longer than another waits for it.
  const Urls = [between.url, between.url.replace('localhost', '127.0.0.1')];
  const settings = { Urls, DirectoryDown: 'Deny', Timeout: 2 };
  const { context, logText } = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  const names = Array.from({ length: 100 }, (_, n) => `user${n}`);
  for (const name of names) {
    await context.accounts.add({ name });
    const link = { normalizedName: name, provider: 'directory', issuer: 'urn:directory', subject: name };
    await context.db.knex('OidcUserLogin').insert({ id: name, ...link, createdAt: 1, checkedAt: 1 });
  }
  const origin = { address: '127.0.0.1' };
  const begun = performance.now();
  const running = Promise.all(names.map(async (name) => (await context.standing.check(name)).kind));
  while (between.connections < 32 && performance.now() - begun < 1500) await sleep(20);
  assert.equal((await context.credentials.verify('alice', 'Pass-word-1', origin)).kind, 'accepted');
  assert.equal(between.connections, 32);
  assert.deepEqual([...new Set(await running)], ['unknown']);
  assert.ok(performance.now() - begun < 6000, `${performance.now() - begun} ms`);
  assert.ok(logText().includes('32 other questions were under way for 2 s'), 'the others were not asked');
  assert.ok(between.most <= 64, `${between.most} connections`);
  // Every turn has come back: more questions than that, one after the other.
  between.isKept = () => false;
  assert.equal((await context.credentials.verify('nobody', password, origin)).kind, 'refused');
  const later = await Promise.all(names.map(async (name) => (await context.standing.check(name)).kind));
  assert.deepEqual([...new Set(later)], ['ended']);
});

test('groups are read page by page, and where the directory gives no more there is a warning', async (t) => {
  const slapd = await startSlapd(t, { schema: 'sizelimit 150' });
  const [dora, dirk] = [await slapd.addPerson({ uid: 'dora' }), await slapd.addPerson({ uid: 'dirk' })];
  await addGroups(slapd, 120, () => dora, 'A');
  await addGroups(slapd, 160, () => dirk, 'B');
  const settings = { GroupBaseDn: base, Timeout: 20 };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  assert.equal(await signIn(server, 'dora'), 303);
  assert.equal((await rolesOf(server, 'dora'))?.length, 120);
  assert.doesNotMatch(server.logText(), /more groups than are read/);
  assert.equal(await signIn(server, 'dirk'), 303);
  const roles = await rolesOf(server, 'dirk');
  assert.ok(roles && roles.length >= 100 && roles.length < 160, String(roles?.length));
  assert.match(server.logText(), /more groups than are read/);
});

test('groups within groups are followed for a hundred levels, with a warning where there are more', async (t) => {
  const slapd = await startSlapd(t);
  const dn = await slapd.addPerson({ uid: 'dora' });
  await addGroups(slapd, 110, (n) => (n === 0 ? dn : `cn=G${n - 1},ou=groups,${base}`));
  const settings = { GroupBaseDn: base, Timeout: 20 };
  const server = await startTestServer(t, { server: { Directory: slapd.settings(settings) } });
  assert.equal(await signIn(server, 'dora'), 303);
  assert.equal((await rolesOf(server, 'dora'))?.length, 100);
  assert.match(server.logText(), /more groups than are read/);
});

const downs = [
  { DirectoryDown: 'Deny', back: 120 },
  { DirectoryDown: 'Deny', back: 7200 },
  { DirectoryDown: 'Allow', DirectoryDownMaxAge: 3600, back: 5 * 3600 },
];
for (const { back, ...settings } of downs) {
  test(`${settings.DirectoryDown} lasts no longer where the clock is set back by ${back} s`, async (t) => {
    let time = Math.floor(Date.now() / 1000) + back;
    const slapd = await startSlapd(t);
    await slapd.addPerson({ uid: 'dora' });
    const server = await startTestServer(t, {
      server: { Directory: slapd.settings(settings) },
      now: () => time,
    });
    const token = await redeem(server, 'dora');
    await slapd.kill();
    time -= back;
    assert.equal((await refresh(server, token)).status, 503);
  });
}

test('Allow bears with clocks that are a little apart', async (t) => {
  let time = Math.floor(Date.now() / 1000);
  const slapd = await startSlapd(t);
  await slapd.addPerson({ uid: 'dora' });
  const server = await startTestServer(t, { server: { Directory: slapd.settings() }, now: () => time });
  const token = await redeem(server, 'dora');
  await slapd.kill();
  time -= 60;
  assert.equal((await refresh(server, token)).status, 200);
});

test('a host that is up again is asked, also where the clock was set back since it failed', async (t) => {
  let time = Math.floor(Date.now() / 1000);
  const slapd = await startSlapd(t);
  const dn = await slapd.addPerson({ uid: 'dora' });
  await slapd.addPerson({ uid: 'dirk' });
  const server = await startTestServer(t, { server: { Directory: slapd.settings() }, now: () => time });
  const { token } = await refresh(server, await redeem(server, 'dora'));
  await slapd.kill();
  const during = await refresh(server, token);
  assert.equal(during.status, 200);
  await slapd.restart();
  await slapd.remove(dn);
  time -= 60;
  assert.equal((await refresh(server, during.token)).status, 400);
});
