/** Ways round the counts of wrong passwords: names that are the same elsewhere, namesakes, time, and many at once. */
import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { type Browser, createBrowser } from '../support/browser.ts';
import { authorize, basic, isSignedIn, mvc, post } from '../support/sign-in.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';

const right = 'Pass-word-1';
/** One that no test asks; with it names are counted as those of somebody else's store. */
const PasswordVerifier = { Url: 'http://localhost:9/verify', Secret: { plain: 'Verifier-secret-1' } };

/** A server whose clock the test moves. */
async function start(t: TestContext, options: TestServerOptions = {}) {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const server = await startTestServer(t, { ...options, now: () => Math.floor(Date.now() / 1000) });
  return Object.assign(server, { pass: (seconds: number) => t.mock.timers.tick(seconds * 1000) });
}

/** Where it listens, until the test ends. */
async function listen(t: TestContext, store: Server): Promise<string> {
  await new Promise<void>((resolve) => store.listen(0, '127.0.0.1', resolve));
  t.after(() => store.close());
  return `http://127.0.0.1:${(store.address() as AddressInfo).port}/`;
}

async function tryAtPage(
  { issuer }: TestServer,
  { browser, name, password }: { browser: Browser; name: string; password: string },
) {
  const attempt = await authorize({ issuer, ...mvc, browser, parameters: { prompt: 'login' } });
  const page = await attempt.signIn(attempt.page, name, password);
  return isSignedIn(page) ? 'in' : page.status;
}

async function tryByGrant(
  { issuer }: TestServer,
  { address = '192.0.2.1', name, password = 'x' }: { address?: string; name: string; password?: string },
) {
  const { headers, status } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: name, password, scope: 'openid' },
    { ...basic('desk', 'desk-secret'), 'x-forwarded-for': address },
  );
  return headers.has('retry-after') ? 'wait' : status;
}

test('a name that a store of users reads as another has no count of its own', async (t) => {
  // As databases compare that pass over case, accents and what nobody sees.
  const { compare } = new Intl.Collator('en', { sensitivity: 'base' });
  const store = createServer(async (request, response) => {
    const { name, password } = JSON.parse(await text(request)) as { name: string; password: string };
    const isRight = compare(name, 'dora') === 0 && password === right;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(isRight ? { active: true, name: 'dora' } : { active: false }));
  });
  const Url = await listen(t, store);
  const server = await start(t, { server: { PasswordVerifier: { ...PasswordVerifier, Url } } });

  const spellings = ['do\u00adra', 'd\u200bora', 'dora\u200d', 'do\ufe0fra', '\u2060dora'];
  spellings.push('dörá', 'dóra'.normalize('NFD'), 'dørà', 'd\u{e0041}ora', 'DORA');
  for (const name of spellings) {
    assert.equal(await tryByGrant(server, { name, password: right }), 200, JSON.stringify(name));
  }
  const outcomes = [];
  for (const name of spellings) outcomes.push(await tryByGrant(server, { name }));
  assert.deepEqual(outcomes, [400, 400, 400, 400, 400, ...Array.from({ length: 5 }, () => 'wait')]);
});

test('who has a name in another domain makes no browser known at its namesake', async (t) => {
  const server = await start(t, { server: { PasswordVerifier } });
  await server.context.accounts.add({ name: 'OTHER\\carl', password: right });
  await server.context.accounts.add({ name: 'carl', password: 'Another-pass-1' });
  const outcomes = [];
  // Twice at the other, once at one's own, each time with a new browser: that would be for ever.
  for (let round = 0; round < 20; round += 1) {
    const browser = createBrowser({ headers: { 'x-forwarded-for': '192.0.2.1' } });
    await tryAtPage(server, { browser, name: 'OTHER\\carl', password: right });
    for (let guess = 0; guess < 2; guess += 1)
      outcomes.push(await tryAtPage(server, { browser, name: 'carl', password: `x${guess}` }));
  }
  assert.ok(outcomes.filter((outcome) => outcome === 400).length <= 30, outcomes.join(' '));

  // The browser that is known is known all the same by the name that it has signed in with.
  const own = createBrowser({ headers: { 'x-forwarded-for': '198.51.100.1' } });
  assert.equal(await tryAtPage(server, { browser: own, name: 'CARL', password: 'Another-pass-1' }), 'in');
  for (let guess = 0; guess < 8; guess += 1)
    await tryByGrant(server, { address: '198.51.100.1', name: 'carl' });
  assert.equal(await tryAtPage(server, { browser: own, name: 'carl', password: 'Another-pass-1' }), 'in');
});

test('of hundreds of guesses at once no more passwords are verified than may be tried', async (t) => {
  const server = await start(t);
  let looked = 0;
  server.context.db.knex.on('query', ({ sql }: { sql: string }) => {
    if (sql.includes('OidcUser')) looked += 1;
  });
  // One address, many names: each verification looks for the account once.
  await Promise.all(Array.from({ length: 300 }, (_, index) => tryByGrant(server, { name: `user${index}` })));
  assert.ok(looked >= 50 && looked <= 60, `${looked} were verified`);
  looked = 0;
  // One account, many addresses.
  await Promise.all(
    Array.from({ length: 100 }, (_, index) =>
      tryByGrant(server, { address: `203.0.113.${index}`, name: 'alice' }),
    ),
  );
  assert.ok(looked >= 5 && looked <= 10, `${looked} were verified`);
});

test('of many guesses at once no more reach a store of users than may be tried', async (t) => {
  let asked = 0;
  const store = createServer((_request, response) => {
    asked += 1;
    response.setHeader('content-type', 'application/json');
    setTimeout(() => response.end(JSON.stringify({ active: false })), 100);
  });
  const Url = await listen(t, store);
  const server = await start(t, { server: { PasswordVerifier: { ...PasswordVerifier, Url } } });
  await Promise.all(Array.from({ length: 60 }, () => tryByGrant(server, { name: 'dora' })));
  assert.ok(asked >= 5 && asked <= 10, `it was asked ${asked} times`);
});

test('slips over the days from where many users are do not add up to a wait for all of them', async (t) => {
  const server = await start(t);
  const outcomes = [];
  // One an hour, and never a day without one.
  for (let hour = 0; hour < 70; hour += 1) {
    await tryByGrant(server, { name: `user${hour}` });
    outcomes.push(await tryByGrant(server, { name: 'alice', password: right }));
    server.pass(3600);
  }
  assert.deepEqual(new Set(outcomes), new Set([200]), outcomes.join(' '));
});

test('who has to wait gains nothing by a pause', async (t) => {
  const server = await start(t);
  /** How many passwords are tried in some hours when the tries without a wait have gone. */
  const countTries = async (address: string, { isAway }: { isAway: (minute: number) => boolean }) => {
    for (let index = 0; index < 60; index += 1) await tryByGrant(server, { address, name: `first${index}` });
    let tries = 0;
    for (let minute = 0; minute < 160; minute += 0.5) {
      server.pass(30);
      if (isAway(minute)) continue;
      if ((await tryByGrant(server, { address, name: `user${minute}` })) === 400) tries += 1;
    }
    return tries;
  };
  const steady = await countTries('198.51.100.1', { isAway: () => false });
  const pausing = await countTries('203.0.113.1', { isAway: (minute) => minute % 80 < 65 });
  assert.ok(steady > 60 && steady <= 90 && pausing < steady / 2, `${steady}, ${pausing}`);
});
