/** Wrong passwords and secrets, through the real server: who has to wait, who has not, and what they are told. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Browser, createBrowser } from '../support/browser.ts';
import { createSchema } from '../support/databases.ts';
import { startPostgres } from '../support/postgres-server.ts';
import { requirePostgres } from '../support/requirements.ts';
import { authorize, basic, isSignedIn, mvc, post } from '../support/sign-in.ts';
import { startTestServer, type TestServerOptions } from '../support/start-server.ts';

const right = 'Pass-word-1';
const relyingParties = { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } };

/** A server whose clock the test moves. */
async function start(t: TestContext, options: TestServerOptions = {}) {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const server = await startTestServer(t, { ...options, now: () => Math.floor(Date.now() / 1000) });
  return Object.assign(server, { pass: (seconds: number) => t.mock.timers.tick(seconds * 1000) });
}

/** What a trusted proxy says of where a request comes from. */
function from(address: string): Record<string, string> {
  return { 'x-forwarded-for': address };
}

function browserAt(address: string): Browser {
  return createBrowser({ headers: from(address) });
}

/** One password at the login page: `in`, or the status of the page that is shown instead. */
async function tryAtPage(
  { issuer }: { issuer: string },
  { browser, name = 'alice', password }: { browser: Browser; name?: string; password: string },
) {
  const attempt = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  const page = await attempt.signIn(attempt.page, name, password);
  return { outcome: isSignedIn(page) ? 'in' : page.status, page };
}

/** One password by the password grant. */
function tryByGrant(
  { issuer }: { issuer: string },
  { address = '192.0.2.1', name = 'alice', password }: { address?: string; name?: string; password: string },
) {
  return post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: name, password, scope: 'openid' },
    { ...basic('desk', 'desk-secret'), ...from(address) },
  );
}

function outcomeOf({ headers, status }: Awaited<ReturnType<typeof post>>) {
  return headers.has('retry-after') ? 'wait' : status;
}

async function repeat<T>(times: number, run: (index: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let index = 0; index < times; index += 1) results.push(await run(index));
  return results;
}

test('after five wrong passwords from a network the page asks to wait, longer each time, whatever the password', async (t) => {
  const server = await start(t);
  const browser = browserAt('192.0.2.1');
  const outcomes = await repeat(5, async () => (await tryAtPage(server, { browser, password: 'x' })).outcome);
  assert.deepEqual(outcomes, [400, 400, 400, 400, 400]);

  for (const password of ['x', right]) {
    const { outcome, page } = await tryAtPage(server, { browser: browserAt('192.0.2.200'), password });
    assert.deepEqual([outcome, page.headers.get('retry-after')], [429, '1']);
    assert.match(page.body, /too many attempts with a wrong password\. Wait a few minutes/);
    assert.doesNotMatch(page.body, /aria-invalid/);
  }
  const waits = await repeat(12, async () => {
    server.pass(900);
    assert.equal((await tryAtPage(server, { browser, password: 'x' })).outcome, 400);
    return Number((await tryAtPage(server, { browser, password: 'x' })).page.headers.get('retry-after'));
  });
  assert.deepEqual(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
  server.pass(900);
  assert.equal((await tryAtPage(server, { browser, password: right })).outcome, 'in');
});

test('a right password ends the count of its pair, and that of the address goes on', async (t) => {
  const server = await start(t);
  for (let round = 0; round < 3; round += 1) {
    await repeat(4, () => tryByGrant(server, { password: 'x' }));
    assert.equal((await tryByGrant(server, { password: right })).status, 200);
  }
  const rows = await server.context.db.knex('OidcGuess').select('subject', 'failures');
  const ofAddresses = rows.filter(({ subject }) => subject === null).map(({ failures }) => failures);
  assert.deepEqual(ofAddresses, [12, 12, 12]);
  const ofAccount = rows.filter(({ subject }) => subject !== null).map(({ failures }) => failures);
  assert.deepEqual(ofAccount.sort(), [0, 12]);
});

test('an account that is not there, is disabled, or has no password is answered as any other', async (t) => {
  const server = await start(t);
  await server.context.accounts.add({ name: 'gone', password: right, disabled: true });
  for (const [index, name] of ['alice', 'nobody', 'gone', 'EXAMPLE\\carol'].entries()) {
    const browser = browserAt(`192.0.${index}.1`);
    const pages = await repeat(6, () => tryAtPage(server, { browser, name, password: 'x' }));
    const bodies = pages.map(({ page }) =>
      page.body.replace(/(name="csrf" value|action|value)="[^"]*"/g, ''),
    );
    assert.deepEqual(
      pages.map(({ outcome }) => outcome),
      [400, 400, 400, 400, 400, 429],
      name,
    );
    assert.match(bodies[0] ?? '', /The name or the password is wrong/);
    assert.match(bodies[5] ?? '', /too many attempts/);
    const grants = await repeat(2, () =>
      tryByGrant(server, { name, address: `192.0.${index}.9`, password: 'x' }),
    );
    assert.deepEqual(
      grants.map(({ body }) => body),
      Array(2).fill({ error: 'invalid_grant', error_description: 'invalid_username_or_password' }),
    );
  }
});

test('the login pages and the password grant have one count, and other ways of writing a name have no own', async (t) => {
  const server = await start(t, { relyingParties });
  const browser = browserAt('192.0.2.1');
  const wsFed = async () => {
    const url = `${server.issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
    return browser.submit(await browser.open(url), { username: 'alice', password: 'x' });
  };
  assert.equal((await tryAtPage(server, { browser, name: 'ALICE', password: 'x' })).outcome, 400);
  assert.equal((await tryAtPage(server, { browser, name: 'ａｌｉｃｅ', password: 'x' })).outcome, 400);
  assert.equal((await wsFed()).status, 400);
  assert.equal(outcomeOf(await tryByGrant(server, { name: 'alice.', password: 'x' })), 400);
  assert.equal(outcomeOf(await tryByGrant(server, { name: ' alice .', password: 'x' })), 400);

  const blocked = await wsFed();
  assert.equal(blocked.status, 429);
  assert.match(blocked.body, /too many attempts/);
  assert.equal(blocked.headers.get('retry-after'), '1');
  const grant = await tryByGrant(server, { password: right });
  assert.deepEqual(
    [grant.status, grant.headers.get('retry-after'), grant.body.error, grant.body.error_description],
    [400, '1', 'invalid_grant', 'invalid_username_or_password'],
  );
  assert.equal(outcomeOf(await tryByGrant(server, { name: 'bob', password: right })), 200);
});

test('strangers who guess from everywhere keep the owner out neither at a known browser nor at a new one', async (t) => {
  const server = await start(t);
  const known = browserAt('198.51.100.7');
  assert.equal((await tryAtPage(server, { browser: known, password: right })).outcome, 'in');
  const [cookie] = known.cookies().filter(({ name }) => name === 'postern.device');
  assert.ok(cookie !== undefined && cookie.value.length < 400 && !/alice/i.test(cookie.value));

  // Sixty networks, and from two of them as often as they get.
  await repeat(60, (index) => tryByGrant(server, { address: `203.${index}.0.1`, password: 'x' }));
  await repeat(8, () => tryByGrant(server, { address: '198.51.100.99', password: 'x' }));
  assert.equal(outcomeOf(await tryByGrant(server, { address: '203.1.0.1', password: 'x' })), 400);
  assert.equal(outcomeOf(await tryByGrant(server, { address: '203.1.0.1', password: 'x' })), 'wait');

  // A browser that has never been here, from a network where nobody guesses.
  assert.equal((await tryAtPage(server, { browser: browserAt('192.0.2.1'), password: right })).outcome, 'in');
  // In the network where somebody guesses, a new one waits and the known one does not.
  const neighbour = browserAt('198.51.100.8');
  assert.equal((await tryAtPage(server, { browser: neighbour, password: right })).outcome, 429);
  assert.equal((await tryAtPage(server, { browser: known, password: right })).outcome, 'in');
  // It has a count of its own, too.
  await repeat(5, () => tryAtPage(server, { browser: known, password: 'x' }));
  assert.equal((await tryAtPage(server, { browser: known, password: right })).outcome, 429);
  server.pass(900);
  assert.equal((await tryAtPage(server, { browser: neighbour, password: right })).outcome, 'in');
});

test('a forged or foreign cookie makes no known browser, and one browser is known to five accounts', async (t) => {
  const server = await start(t);
  for (const name of ['u1', 'u2', 'u3', 'u4', 'u5', 'u6'])
    await server.context.accounts.add({ name, password: right });
  const browser = browserAt('192.0.2.1');
  for (const name of ['u1', 'u2', 'u3', 'u4', 'u5', 'u6'])
    assert.equal((await tryAtPage(server, { browser, name, password: right })).outcome, 'in');
  const value = browser.cookies().find(({ name }) => name === 'postern.device')?.value ?? '';
  assert.equal(value.split('~').length, 6);
  /** How many counters a wrong password touches: one for a known browser, five for a stranger's. */
  const countOf = async (cookie: string, name: string) => {
    await server.context.db.knex('OidcGuess').delete();
    const sender = createBrowser({ headers: from('192.0.2.1') });
    const { page } = await authorize({ issuer: server.issuer, ...mvc, browser: sender });
    const cookies = [...sender.cookies(), { name: 'postern.device', value: cookie }];
    const answer = await fetch(page.url, {
      method: 'POST',
      body: new URLSearchParams({
        csrf: /name="csrf" value="([^"]+)"/.exec(page.body)?.[1] ?? '',
        username: name,
        password: 'x',
      }),
      headers: {
        ...from('192.0.2.1'),
        cookie: cookies.map((one) => `${one.name}=${one.value}`).join('; '),
      },
    });
    assert.equal(answer.status, 400);
    return (await server.context.db.knex('OidcGuess').select()).length;
  };
  assert.equal(await countOf(value, 'u6'), 1);
  assert.equal(await countOf(value, 'u2'), 1);
  assert.equal(await countOf(value, 'u1'), 5);
  assert.equal(await countOf(value, 'alice'), 5);
  assert.equal(await countOf(`${value.slice(0, -2)}xx`, 'u6'), 5);
  const [first = '', ...rest] = value.split('~');
  assert.equal(await countOf([`${first.slice(0, -5)}99999`, ...rest].join('~'), 'u6'), 5);
});

test('who sprays one password over many names from an address has to wait, and so has its network', async (t) => {
  const server = await start(t);
  const spray = (address: string, offset: number, times: number) =>
    repeat(times, async (index) =>
      outcomeOf(
        await tryByGrant(server, { address, name: `user${offset + index}`, password: 'Summer-2026' }),
      ),
    );
  assert.deepEqual(new Set(await spray('2001:db8:1:1::5', 0, 50)), new Set([400]));
  assert.deepEqual(await spray('2001:db8:1:1:ffff::6', 50, 2), ['wait', 'wait']);
  // Another network of the same site is free until the site has failed two hundred times.
  assert.deepEqual(await spray('2001:db8:1:2::5', 100, 1), [400]);
  for (const net of [3, 4, 5]) await spray(`2001:db8:1:${net}::5`, net * 1000, 50);
  assert.deepEqual(await spray('2001:db8:1:6::5', 9000, 1), ['wait']);
  assert.deepEqual(await spray('2001:db8:2:6::5', 9000, 1), [400]);
  server.pass(1);
  assert.equal((await tryByGrant(server, { address: '2001:db8:1:1::5', password: right })).status, 200);
});

test('what stands for many users is counted by account alone', async (t) => {
  const server = await start(t, { server: { Guessing: { ExemptNetworks: ['192.0.2.0/24'] } } });
  const outcomes = await repeat(60, async (index) =>
    outcomeOf(await tryByGrant(server, { name: `user${index}`, password: 'x' })),
  );
  assert.deepEqual(new Set(outcomes), new Set([400]));
  await repeat(5, () => tryByGrant(server, { password: 'x' }));
  assert.equal(outcomeOf(await tryByGrant(server, { password: right })), 'wait');
});

test('nothing that is typed as a name stands in the table', async (t) => {
  const server = await start(t);
  await tryByGrant(server, { name: 'My-Secret-Pass-1', password: 'alice' });
  await tryByGrant(server, { name: 'alice', password: 'x' });
  const text = JSON.stringify(await server.context.db.knex('OidcGuess').select());
  assert.doesNotMatch(text, /secret|alice|192\.0\.2/i);
  assert.doesNotMatch(server.logText(), /My-Secret-Pass-1/);
});

test('two hundred guesses at once get no more tries than one after the other', async (t) => {
  const server = await start(t);
  const atOnce = await Promise.all(
    Array.from({ length: 200 }, (_, index) =>
      tryByGrant(server, { address: `192.0.2.${index}`, password: index === 150 ? right : `x${index}` }),
    ),
  );
  const outcomes = atOnce.map(outcomeOf);
  assert.ok(outcomes.filter((outcome) => outcome !== 'wait').length <= 5, outcomes.join(' '));
  const spray = await Promise.all(
    Array.from({ length: 200 }, (_, index) =>
      tryByGrant(server, { address: '198.51.100.1', name: `user${index}`, password: 'x' }),
    ),
  );
  assert.equal(spray.map(outcomeOf).filter((outcome) => outcome !== 'wait').length, 50);
});

test('many tabs of one browser get no more tries than one', async (t) => {
  const server = await start(t);
  const browser = browserAt('192.0.2.1');
  const tabs = await repeat(20, () => authorize({ issuer: server.issuer, ...mvc, browser }));
  const pages = await Promise.all(tabs.map((tab, index) => tab.signIn(tab.page, 'alice', `x${index}`)));
  const told = pages.filter(({ status }) => status !== 429);
  assert.ok(told.length <= 5 && told.every(({ status }) => status === 400), `${told.length}`);
});

test('two nodes over one database count together, also after a restart', async (t) => {
  const { connection, schema } = await createSchema(t, {
    client: 'postgresql',
    connection: requirePostgres(t),
  });
  const folder = mkdtempSync(join(tmpdir(), 'postern-data-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const startNode = () =>
    startTestServer(t, {
      server: {
        DataFolder: folder,
        Database: { Client: 'postgresql', Connection: { plain: connection }, Schema: schema },
      },
    });
  const first = await startNode();
  const second = await startNode();
  const atOnce = await Promise.all(
    Array.from({ length: 200 }, (_, index) =>
      tryByGrant(index % 2 === 0 ? first : second, { password: index === 180 ? right : `x${index}` }),
    ),
  );
  const outcomes = atOnce.map(outcomeOf);
  // The delay begins with a second, and the burst takes some: what comes after it has a try again.
  const told = outcomes.filter((outcome) => outcome !== 'wait').length;
  assert.ok(told >= 1 && told <= 10, outcomes.join(' '));

  const [{ failures } = { failures: 0 }] = await first.context.db
    .knex('OidcGuess')
    .whereNotNull('subject')
    .orderBy('longestSeconds', 'desc')
    .select('failures');
  assert.ok(failures <= told && failures >= 5, `${failures} of ${told}`);

  // What the one has counted of secrets, the other one knows within seconds, where wrong ones come in there as well.
  const send = ({ issuer }: { issuer: string }, secret: string) =>
    post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      { ...basic('batch', secret), ...from('198.51.100.1') },
    );
  await send(second, 'x');
  await send(first, 'x');
  await first.context.db.knex('OidcGuess').update({ openAt: Math.floor(Date.now() / 1000) + 60 });
  const blocked = async () => {
    for (let attempt = 0; attempt < 100; attempt += 1) {
      if (outcomeOf(await send(second, 'batch-secret')) === 'wait') return true;
      await sleep(100);
    }
    return false;
  };
  assert.equal(await blocked(), true);

  await first.stop();
  const third = await startNode();
  await third.context.db.knex('OidcGuess').update({ openAt: Math.floor(Date.now() / 1000) + 60 });
  assert.equal(outcomeOf(await tryByGrant(third, { password: right })), 'wait');
  assert.equal(outcomeOf(await tryByGrant(second, { password: right })), 'wait');
});

test('counts end a day after the last failure, and the cleanup removes them', async (t) => {
  const server = await start(t, { server: { ExpiredTokenCleanInterval: 86_400 } });
  await repeat(6, () => tryByGrant(server, { password: 'x' }));
  server.pass(86_401);
  assert.equal((await tryByGrant(server, { password: right })).status, 200);
  const outcomes = await repeat(6, async () => outcomeOf(await tryByGrant(server, { password: 'x' })));
  assert.deepEqual(outcomes, [400, 400, 400, 400, 400, 'wait']);
});

test('a wrong password costs two statements, and one that has to wait none', async (t) => {
  const server = await start(t);
  const statements: string[] = [];
  server.context.db.knex.on('query', ({ sql }: { sql: string }) => {
    if (sql.includes('OidcGuess')) statements.push(sql);
  });
  const costOf = async (name: string, address = '192.0.2.1') => {
    statements.length = 0;
    await tryByGrant(server, { name, address, password: 'x' });
    return statements.length;
  };
  assert.equal(await costOf('alice'), 1);
  assert.equal(await costOf('alice'), 1);
  // The address is known, the name is not.
  assert.equal(await costOf('bob'), 2);
  await repeat(3, () => costOf('alice'));
  await costOf('alice');
  assert.equal(await costOf('alice'), 0);
});

const secretPaths: readonly {
  name: string;
  send: (issuer: string, secret: string, address: string) => ReturnType<typeof post>;
}[] = [
  {
    name: 'a client secret in the header of the token endpoint',
    send: (issuer, secret, address) =>
      post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        { ...basic('batch', secret), ...from(address) },
      ),
  },
  {
    name: 'a client secret in the body of the token endpoint',
    send: (issuer, secret, address) =>
      post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials', client_id: 'batch', client_secret: secret },
        from(address),
      ),
  },
  {
    name: 'the secret of a client at introspection',
    send: (issuer, secret, address) =>
      post(`${issuer}/connect/introspect`, { token: 'x' }, { ...basic('batch', secret), ...from(address) }),
  },
  {
    name: 'the secret of a client at revocation',
    send: (issuer, secret, address) =>
      post(
        `${issuer}/connect/revocation`,
        { token: 'x', client_id: 'batch', client_secret: secret },
        from(address),
      ),
  },
];

for (const { name, send } of secretPaths) {
  test(`after ten wrong ones ${name} is not looked at for a while, and elsewhere it is`, async (t) => {
    const server = await start(t);
    const wrong = await repeat(10, () => send(server.issuer, 'x', '192.0.2.1'));
    assert.deepEqual(
      wrong.map(({ body, headers, status }) => [status, body.error, headers.has('retry-after')]),
      Array(10).fill([401, 'invalid_client', false]),
    );
    const [other] = secretPaths.filter((path) => path.name !== name);
    for (const path of [send, other?.send ?? send]) {
      const blocked = await path(server.issuer, 'batch-secret', '192.0.2.9');
      assert.deepEqual(
        [blocked.status, blocked.body.error, blocked.headers.get('retry-after')],
        [401, 'invalid_client', '1'],
      );
    }
    assert.equal((await send(server.issuer, 'batch-secret', '198.51.100.1')).status, 200);
    server.pass(1);
    assert.equal((await send(server.issuer, 'batch-secret', '192.0.2.1')).status, 200);
    assert.ok(
      server.logged.some(({ counter, reason }) => reason === 'too-many-attempts' && counter === 'pair'),
    );
  });
}

test('the secret of a resource at introspection, and ids that nobody has, are counted too', async (t) => {
  const server = await start(t);
  const introspect = (id: string, secret: string) =>
    post(
      `${server.issuer}/connect/introspect`,
      { token: 'x' },
      { ...basic(id, secret), ...from('192.0.2.1') },
    );
  await repeat(10, () => introspect('intelligence_web_api', 'x'));
  assert.equal(outcomeOf(await introspect('intelligence_web_api', 'web-api-secret')), 'wait');
  server.pass(60);
  assert.equal((await introspect('intelligence_web_api', 'web-api-secret')).status, 200);
  await repeat(20, (index) => introspect(`nobody${index}`, 'x'));
  await repeat(20, (index) =>
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials', client_id: `no${index}`, client_secret: 'x' },
      from('192.0.2.1'),
    ),
  );
  assert.equal(outcomeOf(await introspect('intelligence_web_api', 'web-api-secret')), 'wait');
});

test('of two hundred secrets at once ten are looked at', async (t) => {
  const server = await start(t);
  const answers = await Promise.all(
    Array.from({ length: 200 }, (_, index) =>
      post(
        `${server.issuer}/connect/token`,
        { grant_type: 'client_credentials' },
        { ...basic('batch', index === 150 ? 'batch-secret' : `x${index}`), ...from('192.0.2.1') },
      ),
    ),
  );
  assert.ok(answers.map(outcomeOf).filter((outcome) => outcome !== 'wait').length <= 10);
});

test('while the database is away wrong secrets are counted by the node, and right ones are good', async (t) => {
  const postgres = await startPostgres(t);
  const server = await start(t, {
    clients: { plain: plainClient },
    server: {
      Database: {
        Client: 'postgresql',
        Connection: { plain: postgres.connection },
        Timeout: 1,
      },
    },
  });
  const send = (secret: string) =>
    post(
      `${server.issuer}/connect/token`,
      { grant_type: 'client_credentials' },
      { ...basic('plain', secret), ...from('192.0.2.1') },
    );
  postgres.stop();
  assert.equal((await send('batch-secret')).status, 200);
  assert.equal((await send('x')).status, 401);
  assert.equal((await send('batch-secret')).status, 200);
  await repeat(9, () => send('x'));
  const blocked = await send('batch-secret');
  assert.deepEqual([blocked.status, outcomeOf(blocked)], [401, 'wait']);
  // Nobody signs in by a password then.
  assert.equal((await tryByGrant(server, { password: right })).status, 503);
});
const plainClient = {
  Flow: 'ClientCredentials',
  ClientSecrets: [{ Value: createHash('sha256').update('batch-secret').digest('base64') }],
  EnableLocalLogin: true,
  AllowedScopes: ['intelligence_web_api'],
};
