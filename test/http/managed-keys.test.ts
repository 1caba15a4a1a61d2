/** Keys that the server makes and exchanges itself: nobody notices when, but whoever has to be kept out. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createLocalJWKSet, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from 'jose';
import { loadConfiguration } from '../../src/config/load.ts';
import type { ConfigurationError } from '../../src/errors.ts';
import { createKeyStore } from '../../src/keys/key-store.ts';
import { createLogger } from '../../src/log.ts';
import { startServer } from '../../src/server.ts';
import { runHere } from '../commands/postern.ts';
import { createBrowser } from '../support/browser.ts';
import { openTarget, testDatabases } from '../support/databases.ts';
import { authorize, basic, isSignedIn, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { prepareConfiguration, startTestServer, type TestServer } from '../support/start-server.ts';

const daySeconds = 86_400;
const secret = 'a secret that keys are encrypted under';
const managed = { ManagedKeys: {}, DataProtectionKey: { plain: secret } };
const audited = { Audit: { To: 'folder' } };

/** Moves the clock of this process. */
function startClock(t: TestContext) {
  t.mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 0, 1) });
  return {
    now: () => Math.floor(Date.now() / 1000),
    wait: (seconds: number) => t.mock.timers.setTime(Date.now() + seconds * 1000),
  };
}

/** Two servers with one public address over one database. */
async function startPair(t: TestContext, server: Record<string, unknown>, now: () => number) {
  const folder = mkdtempSync(join(tmpdir(), 'postern-pair-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const PublicUrl = 'http://localhost:5080/SPSSMR/Oidc';
  const start = () =>
    startTestServer(t, {
      now,
      server: { ...server, PublicUrl, Database: { Client: 'sqlite', File: join(folder, 'shared.sqlite') } },
    });
  return Promise.all([start(), start()]);
}

const at = ({ url }: TestServer) => `${url}/SPSSMR/Oidc`;

const fetchToken = async (server: TestServer) =>
  (
    await post(
      `${at(server)}/connect/token`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    )
  ).body.access_token;

const isActive = async (server: TestServer, token: string) =>
  (await post(`${at(server)}/connect/introspect`, { token }, basic('intelligence_web_api', 'web-api-secret')))
    .body.active;

const fetchKeys = async (server: TestServer) =>
  (await (await fetch(`${at(server)}/.well-known/jwks`)).json()) as JSONWebKeySet;

/** The same token, which names a key that nobody has. */
const forge = (token: string) =>
  token.replace(/^[^.]+/, (header) => {
    const parsed = JSON.parse(Buffer.from(header, 'base64url').toString());
    return Buffer.from(JSON.stringify({ ...parsed, kid: 'nobody' })).toString('base64url');
  });

const keys = (server: TestServer, ...args: string[]) =>
  runHere(dirname(server.configDirectory), ['keys', ...args]);

async function listed(server: TestServer) {
  const { stdout } = await keys(server, 'list', '--json');
  return JSON.parse(stdout) as { id: string; purpose: string; algorithm: string | null; state: string }[];
}

test('keys are exchanged in time on every server without a restart, and every token verifies for all of its life', async (t) => {
  const { now, wait } = startClock(t);
  const [first, second] = await startPair(
    t,
    { ...managed, ManagedKeys: { RotationDays: 10, PublishDays: 3, KeepDays: 3 } },
    now,
  );
  let readAt = 0;
  let known = createLocalJWKSet(await fetchKeys(first));
  const names = new Set<string>();
  const ended: string[] = [];
  let mostKeys = 0;
  for (let step = 0; step < 90; step += 1) {
    const [issuing, asked] = step % 2 === 0 ? [first, second] : [second, first];
    const token = await fetchToken(issuing);
    // Whoever goes by the published keys reads them once a day, and never because of a token.
    if (now() - readAt >= daySeconds) {
      const published = await fetchKeys(asked);
      mostKeys = Math.max(mostKeys, published.keys.length);
      known = createLocalJWKSet(published);
      readAt = now();
    }
    const { protectedHeader } = await jwtVerify(token, known, { issuer: first.issuer });
    names.add(protectedHeader.kid ?? '');
    assert.equal(await isActive(asked, token), true);
    // A token is good for an hour; the last second of it comes after another look.
    wait(3599);
    await issuing.reload();
    assert.equal(await isActive(asked, token), true);
    await jwtVerify(token, known, { issuer: first.issuer });
    ended.push(token);
    wait(8 * 3600 - 3599);
    await asked.reload();
  }
  // Thirty days.
  assert.equal(names.size, 3);
  assert.ok(mostKeys <= 2, String(mostKeys));
});

test('a key is kept until the last token that it may have signed has ended, even where tokens live shorter meanwhile', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, {
    now,
    server: { ...managed, ManagedKeys: { RotationDays: 10, PublishDays: 3, KeepDays: 3 } },
    clients: { batch: { AccessTokenLifetime: 30 * daySeconds } },
  });
  wait(7 * daySeconds);
  await server.reload();
  wait(2 * daySeconds);
  await server.reload();
  const token = await fetchToken(server);
  server.write('clients/batch.json', { AccessTokenLifetime: 60 });
  for (let day = 0; day < 29; day += 1) {
    wait(daySeconds);
    await server.reload();
    assert.equal(await isActive(server, token), true, `day ${day}`);
  }
  const { kid } = decodeProtectedHeader(token);
  wait(3 * daySeconds);
  await server.reload();
  assert.ok(!(await fetchKeys(server)).keys.some((key) => key.kid === kid));
});

test('a session and a form outlive the exchange of the keys that they rest on', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, {
    now,
    server: { ...managed, SessionLifetime: 8 * 3600, InteractionLifetime: 3600 },
  });
  const { issuer } = server;
  wait(76 * daySeconds);
  await server.reload();
  wait(14 * daySeconds - 1800);
  await server.reload();
  const browser = createBrowser();
  await signInAndRedeem({ issuer, ...mvc, browser });
  const form = await authorize({ issuer, ...mvc });
  const before = (await listed(server)).filter(({ state }) => state === 'in use');
  wait(1801);
  await server.reload();
  const after = (await listed(server)).filter(({ state }) => state === 'in use');
  assert.notDeepEqual(after, before);
  assert.ok(isSignedIn(await form.signIn()));
  assert.ok(isSignedIn((await authorize({ issuer, ...mvc, browser })).page));
  assert.ok(
    browser.setCookies().every((line) => /; samesite=lax/i.test(line) || /^postern\.device=/.test(line)),
    'a signature by the new key is kept like the cookie itself',
  );
});

test('an algorithm that is taken away leaves nothing to exchange, and its keys go when they are revoked', async (t) => {
  const { configDirectory, change } = await prepareConfiguration(t, {
    server: { ...managed, ManagedKeys: { FurtherAlgorithms: ['ES256', 'ES256'] } },
  });
  const log = createLogger({ level: 'silent', format: 'json' });
  const start = (now: () => number) => startServer({ configDirectory, env: {}, log, now });
  const folder = dirname(configDirectory);
  const ofAlgorithm = async () => {
    const { stdout } = await runHere(folder, ['keys', 'list', '--json']);
    return (JSON.parse(stdout) as { id: string; algorithm: string | null }[])
      .filter(({ algorithm }) => algorithm === 'ES256')
      .map(({ id }) => id);
  };
  const { now, wait } = startClock(t);
  await (await start(now))[Symbol.asyncDispose]();
  const [key = ''] = await ofAlgorithm();
  change('server.json', managed);
  await using server = await start(now);
  for (let day = 0; day < 100; day += 10) {
    wait(10 * daySeconds);
    await server.reload();
  }
  assert.doesNotMatch((await runHere(folder, ['doctor'])).stdout, /managed key/);
  assert.doesNotMatch((await runHere(folder, ['keys', 'rotate'])).stdout, /ES256/);
  assert.deepEqual(await ofAlgorithm(), [key]);
  assert.equal((await runHere(folder, ['keys', 'revoke', key])).code, 0);
  wait(60);
  await server.reload();
  assert.deepEqual(await ofAlgorithm(), []);
});

test('the usual key has a certificate that names it, and further algorithms have keys of their own', async (t) => {
  const server = await startTestServer(t, {
    server: { ...managed, ManagedKeys: { FurtherAlgorithms: ['ES256', 'EdDSA'] } },
    clients: { mvc: { IdTokenSigningAlgorithm: 'EdDSA' } },
    resources: { intelligence_web_api: { SigningAlgorithm: 'ES256' } },
  });
  assert.deepEqual(
    (await listed(server)).map(({ algorithm, purpose }) => algorithm ?? purpose),
    ['cookie', 'derivation', 'ES256', 'EdDSA', 'RS256'],
  );
  const { keys: published } = await fetchKeys(server);
  assert.deepEqual(
    published.map(({ alg, x5c }) => [alg, Array.isArray(x5c)]),
    [
      ['RS256', true],
      ['ES256', false],
      ['EdDSA', false],
    ],
  );
  assert.equal(published[0]?.x5t, published[0]?.kid);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const verifier = createLocalJWKSet({ keys: published });
  for (const [token, algorithm] of [
    [body.id_token, 'EdDSA'],
    [await fetchToken(server), 'ES256'],
  ] as const) {
    const { protectedHeader } = await jwtVerify(token, verifier, { issuer: server.issuer });
    assert.equal(protectedHeader.alg, algorithm);
  }
  assert.equal(await isActive(server, await fetchToken(server)), true);
});

test('"keys rotate" has the next key in use ten minutes after it is published, with --now a minute', async (t) => {
  const { now, wait } = startClock(t);
  const [first, second] = await startPair(t, managed, now);
  const kidOf = async (server: TestServer) => decodeProtectedHeader(await fetchToken(server)).kid;
  for (const [options, seconds] of [
    [['--algorithm', 'RS256'], 600],
    [['--algorithm', 'RS256', '--now'], 60],
  ] as const) {
    const before = await kidOf(first);
    const { code, stdout, stderr } = await keys(first, 'rotate', ...options);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^the next key for tokens \(RS256\) is in use from 2026-01-01T/);
    await first.reload();
    await second.reload();
    assert.equal((await fetchKeys(second)).keys[0]?.kid, before);
    // Asked for once more, nothing changes.
    assert.equal((await keys(first, 'rotate', ...options)).stdout, stdout);
    wait(seconds - 1);
    await first.reload();
    assert.equal(await kidOf(first), before);
    wait(1);
    await first.reload();
    const token = await fetchToken(first);
    assert.notEqual(decodeProtectedHeader(token).kid, before);
    // The other server looks later, and knows the key all the same.
    assert.equal(await kidOf(second), before);
    assert.equal(await isActive(second, token), true);
    await second.reload();
    assert.notEqual(await kidOf(second), before);
    wait(3600);
  }
  const states = (await listed(first))
    .filter(({ algorithm }) => algorithm === 'RS256')
    .map(({ state }) => state);
  assert.deepEqual(states, ['in use', 'retired', 'retired']);
  assert.match((await keys(first, 'rotate', '--algorithm', 'ES256')).stderr, /there is no such key/);
});

test('what a revoked key has signed is good no more, and every server changes to its successor at the same moment', async (t) => {
  const { now, wait } = startClock(t);
  const [first, second] = await startPair(t, { ...managed, ...audited }, now);
  const token = await fetchToken(first);
  const kid = decodeProtectedHeader(token).kid ?? '';
  const { code, stdout, stderr } = await keys(first, 'revoke', kid);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `the key ${kid} for tokens (RS256) is good for nothing from 2026-01-01T00:01:00Z\n`);
  wait(10);
  assert.equal((await keys(first, 'revoke', kid)).stdout, stdout, 'asked for once more it is not put off');
  for (const server of [first, second]) {
    await server.reload();
    assert.equal(await isActive(server, token), true);
    assert.equal((await fetchKeys(server)).keys.length, 2);
  }
  wait(50);
  await first.reload();
  const successor = await fetchToken(first);
  assert.notEqual(decodeProtectedHeader(successor).kid, kid);
  assert.equal(await isActive(first, token), false);
  await second.reload();
  assert.equal(await isActive(second, successor), true);
  assert.equal(await isActive(second, token), false);
  assert.ok(!(await fetchKeys(second)).keys.some((key) => key.kid === kid));
  assert.ok(!(await listed(first)).some(({ id }) => id === kid));
  assert.match((await keys(first, 'revoke', kid)).stderr, /there is no such key/);
  const folder = join(dirname(first.configDirectory), 'data/audit');
  const audit = readFileSync(join(folder, 'audit-2026-01-01.ndjson'), 'utf8');
  assert.match(audit, /"event":"key","outcome":"success",.*"actor":".+".*"message":"key revoked"/);
});

test('a key comes into use when its time has come, and not only when somebody looks', async (t) => {
  const server = await startTestServer(t, { server: managed });
  const kidOf = async () => decodeProtectedHeader(await fetchToken(server)).kid;
  const before = await kidOf();
  await keys(server, 'rotate', '--algorithm', 'RS256');
  const { db, now } = server.context;
  await db
    .knex('OidcKey')
    .where({ purpose: 'signing', generation: 2 })
    .update({ activeAt: now() + 2 });
  await server.reload();
  assert.equal(await kidOf(), before);
  // The next look of every half minute is later than this.
  const deadline = Date.now() + 20_000;
  while ((await kidOf()) === before) {
    assert.ok(Date.now() < deadline, 'the next key is not in use');
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
});

test('with --now a key is revoked at once, and a server that has not looked yet knows the successor when it sees it', async (t) => {
  const { now, wait } = startClock(t);
  const [first, second] = await startPair(t, managed, now);
  const token = await fetchToken(first);
  assert.equal((await keys(first, 'revoke', decodeProtectedHeader(token).kid ?? '', '--now')).code, 0);
  await first.reload();
  assert.equal(await isActive(first, token), false);
  wait(5);
  assert.equal(await isActive(second, await fetchToken(first)), true);
  assert.equal(await isActive(second, token), false);
});

test('tokens that name keys that nobody has make a server look once in five seconds at most', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, { now, server: managed });
  const forged = forge(await fetchToken(server));
  let looks = 0;
  server.context.db.knex.on('query', ({ sql }: { sql: string }) => {
    if (sql.startsWith('select') && sql.includes('OidcKey')) looks += 1;
  });
  for (let attempt = 0; attempt < 20; attempt += 1) assert.equal(await isActive(server, forged), false);
  assert.equal(looks, 0);
  wait(5);
  for (let attempt = 0; attempt < 20; attempt += 1) assert.equal(await isActive(server, forged), false);
  assert.equal(looks, 1);
});

test('while the keys cannot be read a token that names one that nobody has is refused, and makes nobody look more often', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, { now, server: managed });
  const forged = forge(await fetchToken(server));
  const { knex } = server.context.db;
  await knex.schema.renameTable('OidcKey', 'OidcKeyAway');
  let looks = 0;
  knex.on('query', ({ sql }: { sql: string }) => {
    if (sql.startsWith('select') && sql.includes('OidcKey')) looks += 1;
  });
  wait(5);
  for (let attempt = 0; attempt < 5; attempt += 1) assert.equal(await isActive(server, forged), false);
  assert.equal(looks, 1);
  await knex.schema.renameTable('OidcKeyAway', 'OidcKey');
});

test('what a look does that a token has caused is the server’s own doing, and not that of its sender', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, { now, server: { ...managed, ...audited } });
  const forged = forge(await fetchToken(server));
  wait(80 * daySeconds);
  assert.equal(await isActive(server, forged), false);
  const folder = join(dirname(server.configDirectory), 'data/audit');
  const made = readFileSync(join(folder, 'audit-2026-03-22.ndjson'), 'utf8')
    .split('\n')
    .filter((line) => line.includes('"event":"key"'));
  assert.ok(made.length > 0);
  assert.doesNotMatch(made.join('\n'), /requestId|clientAddress/);
});

test('a revoked cookie key ends the sessions that rest on it, and nothing else', async (t) => {
  const server = await startTestServer(t, { server: managed });
  const { issuer } = server;
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer, ...mvc, browser });
  const cookieKey = (await listed(server)).find(({ purpose }) => purpose === 'cookie')?.id ?? '';
  assert.equal((await keys(server, 'revoke', cookieKey, '--now')).code, 0);
  await server.reload();
  assert.ok(!isSignedIn((await authorize({ issuer, ...mvc, browser })).page));
  assert.equal(await isActive(server, body.access_token), true);
  assert.ok(isSignedIn(await (await authorize({ issuer, ...mvc })).signIn()));
});

test('keys of files sign until the managed ones are published for long enough, and verify what they signed', async (t) => {
  const { now, wait } = startClock(t);
  const before = await prepareConfiguration(t);
  const [key, certificate] = ['signing-key.pem', 'signing-certificate.pem'].map((name) =>
    join(import.meta.dirname, '../fixtures', name),
  );
  const files = {
    OidcSigningCertificate: { KeyFile: key, CertificateFile: certificate },
    CookieKeys: [{ plain: 'a cookie key of thirty-two characters' }],
  };
  before.change('server.json', files);
  const log = createLogger({ level: 'silent', format: 'json' });
  const start = () => startServer({ configDirectory: before.configDirectory, env: {}, now, log });
  const browser = createBrowser();
  const issuer = `http://localhost:${before.port}/SPSSMR/Oidc`;
  const kidOf = (token: string) => decodeProtectedHeader(token).kid;

  const old = await start();
  const oldToken = (await signInAndRedeem({ issuer, ...mvc, browser })).body.access_token;
  await old[Symbol.asyncDispose]();

  before.change('server.json', { ...files, ...managed, SessionLifetime: 60 * daySeconds });
  await using server = await start();
  const ask = async (token: string) =>
    (await post(`${issuer}/connect/introspect`, { token }, basic('intelligence_web_api', 'web-api-secret')))
      .body.active;
  assert.equal(await ask(oldToken), true);
  const signIn = await authorize({ issuer, ...mvc, browser });
  assert.ok(isSignedIn(signIn.page));
  assert.equal(kidOf((await signIn.redeem(signIn.page)).body.access_token), kidOf(oldToken));

  wait(14 * daySeconds);
  await server.reload();
  const next = await authorize({ issuer, ...mvc, browser });
  assert.ok(isSignedIn(next.page));
  const { body } = await next.redeem(next.page);
  assert.notEqual(kidOf(body.access_token), kidOf(oldToken));
  assert.equal(await ask(body.access_token), true);
});

for (const database of testDatabases) {
  test(`the database has no key in clear, and none that would be another’s: ${database.name}`, async (t) => {
    const target = await database.createTarget(t);
    const db = await openTarget(t, target);
    await db.migrate();
    const store = createKeyStore({ db, secrets: [secret] });
    const line = { purpose: 'cookie', algorithm: '', createdAt: 1, activeAt: 1, longestLifetime: 0 } as const;
    const clear = 'what signs cookies';
    assert.equal(await store.insert({ ...line, id: 'one', generation: 1 }, { secret: clear }), true);
    // Of two servers that make the same key one has made it.
    const both = await Promise.all(
      ['two', 'three'].map((id) =>
        store.insert({ ...line, id, generation: 2 }, { secret: `${clear} ${id}` }),
      ),
    );
    assert.deepEqual([...both].sort(), [false, true]);
    const rows = await db.knex('OidcKey').select();
    assert.equal(rows.length, 2);
    assert.doesNotMatch(JSON.stringify(rows), /what signs/);

    const [first, second] = await store.list();
    assert.ok(first !== undefined && second !== undefined);
    assert.deepEqual(await store.open(first), { secret: clear });
    await assert.rejects(
      store.open({ ...first, payload: second.payload }),
      /ERR_KEY_UNUSABLE|it is another key/,
    );
    const changed = first.payload.replace(/\.[^.](?=[^.]+$)/, (start) => (start === '.A' ? '.B' : '.A'));
    await assert.rejects(store.open({ ...first, payload: changed }), /cannot be read/);
    const stranger = createKeyStore({ db, secrets: ['another secret of more than 32 characters'] });
    await assert.rejects(stranger.open(first), /DataProtectionKey is not the secret/);

    const next = 'the next secret of more than 32 characters';
    const both2 = createKeyStore({ db, secrets: [next, secret] });
    assert.equal(await both2.protectAnew(), 2);
    assert.equal(await both2.protectAnew(), 0);
    const [again] = await createKeyStore({ db, secrets: [next] }).list();
    assert.deepEqual(again && (await createKeyStore({ db, secrets: [next] }).open(again)), { secret: clear });

    await store.raiseLifetime(['one'], 100);
    await store.raiseLifetime(['one'], 50);
    await store.schedule('one', 77);
    await store.revoke('one', 88);
    await store.revoke('one', 99);
    const { payload: _, ...row } = (await store.list())[0] ?? { payload: undefined };
    assert.deepEqual(row, {
      id: 'one',
      purpose: 'cookie',
      algorithm: '',
      generation: 1,
      createdAt: 1,
      activeAt: 77,
      revokedAt: 88,
      longestLifetime: 100,
    });
    assert.equal(await store.remove(['one', second.id]), 2);
    assert.equal(await store.remove(['one', second.id]), 0, 'another server was first');
    assert.deepEqual(await store.list(), []);
  });
}

test('a start with another DataProtectionKey, or with none, says what is wrong', async (t) => {
  const { configDirectory, change } = await prepareConfiguration(t, { server: managed });
  const log = createLogger({ level: 'silent', format: 'json' });
  await (await startServer({ configDirectory, env: {}, log }))[Symbol.asyncDispose]();
  change('server.json', { DataProtectionKey: { plain: 'another secret of more than 32 characters' } });
  await assert.rejects(startServer({ configDirectory, env: {}, log }), (err: Error & { hint?: string }) => {
    assert.match(err.message, /^the managed key .* cannot be read: DataProtectionKey is not the secret/);
    assert.match(err.hint ?? '', /postern keys revoke/);
    return true;
  });
  const folder = dirname(configDirectory);
  const { stdout } = await runHere(folder, ['doctor']);
  assert.match(stdout, /^broken {2}the managed key .* cannot be read/m);

  const next = { plain: 'the next secret of more than 32 characters' };
  change('server.json', { DataProtectionKey: [next, { plain: secret }] });
  assert.match(
    (await runHere(folder, ['keys', 'protect'])).stdout,
    /^encrypted 3 keys under the first secret of DataProtectionKey\n$/,
  );
  change('server.json', { DataProtectionKey: next });
  await (await startServer({ configDirectory, env: {}, log }))[Symbol.asyncDispose]();

  change('server.json', { DataProtectionKey: [] });
  await assert.rejects(loadConfiguration(configDirectory, { env: {} }), (err: ConfigurationError) => {
    assert.match(err.issues.map(({ message, path }) => `${path} ${message}`).join(), /^DataProtectionKey/);
    return true;
  });
  change('server.json', { ManagedKeys: { PublishDays: 90 }, DataProtectionKey: [next] });
  await assert.rejects(loadConfiguration(configDirectory, { env: {} }), (err: ConfigurationError) => {
    assert.deepEqual(
      err.issues.map(({ message, path }) => [path, message]),
      [['ManagedKeys.PublishDays', 'must be less than RotationDays']],
    );
    return true;
  });
});

test('servers that start at once over an empty database have the same keys', async (t) => {
  const { now } = startClock(t);
  const [first, second] = await startPair(t, managed, now);
  assert.deepEqual(await fetchKeys(first), await fetchKeys(second));
  assert.equal((await fetchKeys(first)).keys.length, 1);
  assert.equal(await isActive(second, await fetchToken(first)), true);
});

test('commands for keys say so where keys are files', async (t) => {
  const { folder } = await prepareConfiguration(t);
  await runHere(folder, ['migrate']);
  const { code, stderr } = await runHere(folder, ['keys', 'list']);
  assert.equal(code, 78);
  assert.match(stderr, /keys are not managed here/);
});

test('while the keys cannot be read the server goes on with those that it has, and says so', async (t) => {
  const server = await startTestServer(t, { server: managed });
  const token = await fetchToken(server);
  await server.context.db.knex.schema.renameTable('OidcKey', 'OidcKeyAway');
  await server.reload();
  assert.match(server.logText(), /managed keys cannot be read/);
  await jwtVerify(token, createLocalJWKSet(await fetchKeys(server)), { issuer: server.issuer });
  await server.context.db.knex.schema.renameTable('OidcKeyAway', 'OidcKey');
  await server.reload();
});

test('while the keys cannot be read what is known of them still comes true: a revoked one is given up in time', async (t) => {
  const { now, wait } = startClock(t);
  const server = await startTestServer(t, { now, server: managed });
  const token = await fetchToken(server);
  const kid = decodeProtectedHeader(token).kid ?? '';
  assert.equal((await keys(server, 'revoke', kid)).code, 0);
  await server.reload();
  await server.context.db.knex.schema.renameTable('OidcKey', 'OidcKeyAway');
  wait(60);
  await server.reload();
  assert.match(server.logText(), /managed keys cannot be read/);
  assert.notEqual(decodeProtectedHeader(await fetchToken(server)).kid, kid);
  assert.equal(await isActive(server, token), false);
  await server.context.db.knex.schema.renameTable('OidcKeyAway', 'OidcKey');
});
