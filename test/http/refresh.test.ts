import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { decodeJwt } from 'jose';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const offline = { ...mvc, scope: 'openid profile intelligence_web_api offline_access' };
const day = 86_400;

/** A server whose clock the test moves, and a client that has signed in with `members` in its registration. */
async function signedIn(t: TestContext, members: Record<string, unknown> = {}) {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const now = () => Math.floor(Date.now() / 1000);
  const server = await startTestServer(t, { now, clients: { mvc: members } });
  const browser = createBrowser();
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...offline, browser });
  return {
    server,
    browser,
    tokens: body,
    wait: (seconds: number) => t.mock.timers.setTime(Date.now() + seconds * 1000),
    refresh: (refreshToken: string, more: Record<string, string> = {}) =>
      post(
        `${server.issuer}/connect/token`,
        { grant_type: 'refresh_token', refresh_token: refreshToken, ...more },
        basic('mvc', 'mvc-secret'),
      ),
  };
}

test('OneTimeOnly rotates: the old token ends and the answer has everything', async (t) => {
  const { tokens, refresh, wait } = await signedIn(t);
  const second = await refresh(tokens.refresh_token);
  assert.equal(second.status, 200);
  assert.notEqual(second.body.refresh_token, tokens.refresh_token);
  assert.equal(decodeJwt(second.body.id_token).sub, 'alice');
  assert.equal(decodeJwt(second.body.access_token).auth_time, decodeJwt(tokens.access_token).auth_time);
  wait(31);
  assert.equal((await refresh(second.body.refresh_token)).status, 200);
});

test('a repeat within the grace yields the same successor, and a later one ends the whole family', async (t) => {
  const { tokens, refresh, wait } = await signedIn(t);
  const answers = await Promise.all(Array.from({ length: 10 }, () => refresh(tokens.refresh_token)));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
  const successors = new Set(answers.map(({ body }) => body.refresh_token));
  assert.equal(successors.size, 1);

  wait(31);
  assert.equal((await refresh(tokens.refresh_token)).body.error, 'invalid_grant');
  const [successor = ''] = successors;
  assert.equal((await refresh(successor)).body.error, 'invalid_grant');
});

test('without a grace ten simultaneous uses make at most one successor', async (t) => {
  const { tokens, refresh } = await signedIn(t, { RefreshTokenGraceSeconds: 0 });
  const answers = await Promise.all(Array.from({ length: 10 }, () => refresh(tokens.refresh_token)));
  const winners = answers.filter(({ status }) => status === 200);
  assert.ok(winners.length <= 1, `${winners.length} winners`);
  assert.ok(answers.every(({ status, body }) => status === 200 || body.error === 'invalid_grant'));
});

test('ReUse keeps the handle', async (t) => {
  const { tokens, refresh, wait } = await signedIn(t, { RefreshTokenUsage: 'ReUse' });
  for (let round = 0; round < 3; round += 1) {
    wait(3600);
    const answer = await refresh(tokens.refresh_token);
    assert.equal(answer.body.refresh_token, tokens.refresh_token);
    assert.equal(answer.status, 200);
  }
});

test('Absolute ends after its time however often it was used, rotating or not', async (t) => {
  for (const RefreshTokenUsage of ['OneTimeOnly', 'ReUse']) {
    await t.test(RefreshTokenUsage, async (t2) => {
      const { tokens, refresh, wait } = await signedIn(t2, { RefreshTokenUsage });
      let current = tokens.refresh_token;
      for (const days of [14, 14]) {
        wait(days * day);
        const answer = await refresh(current);
        assert.equal(answer.status, 200, JSON.stringify(answer.body));
        current = answer.body.refresh_token;
      }
      wait(2 * day);
      assert.equal((await refresh(current)).body.error, 'invalid_grant');
    });
  }
});

test('Sliding moves with use, ends without, and never passes Absolute, rotating or not', async (t) => {
  for (const RefreshTokenUsage of ['OneTimeOnly', 'ReUse']) {
    await t.test(RefreshTokenUsage, async (t2) => {
      const { tokens, refresh, wait } = await signedIn(t2, {
        RefreshTokenUsage,
        RefreshTokenExpiration: 'Sliding',
        SlidingRefreshTokenLifetime: 2 * day,
        AbsoluteRefreshTokenLifetime: 5 * day,
      });
      let current = tokens.refresh_token;
      for (let elapsed = 1.5; elapsed < 5; elapsed += 1.5) {
        wait(1.5 * day);
        const answer = await refresh(current);
        assert.equal(answer.status, 200, `after ${elapsed} days: ${JSON.stringify(answer.body)}`);
        current = answer.body.refresh_token;
      }
      wait(0.6 * day);
      assert.equal((await refresh(current)).body.error, 'invalid_grant');
    });
  }
});

test('Sliding without an absolute lifetime goes on while it is used, and ends when it is not', async (t) => {
  const { tokens, refresh, wait } = await signedIn(t, {
    RefreshTokenExpiration: 'Sliding',
    SlidingRefreshTokenLifetime: 20 * day,
    AbsoluteRefreshTokenLifetime: 0,
  });
  let current = tokens.refresh_token;
  for (let round = 0; round < 20; round += 1) {
    wait(19 * day);
    const answer = await refresh(current);
    assert.equal(answer.status, 200, `after ${(round + 1) * 19} days`);
    current = answer.body.refresh_token;
  }
  wait(20 * day);
  assert.equal((await refresh(current)).body.error, 'invalid_grant');
});

test('a sliding token that is not used ends', async (t) => {
  const { tokens, refresh, wait } = await signedIn(t, {
    RefreshTokenExpiration: 'Sliding',
    SlidingRefreshTokenLifetime: 2 * day,
  });
  wait(2 * day);
  assert.equal((await refresh(tokens.refresh_token)).body.error, 'invalid_grant');
});

test('lifetimes are read from the registration at the moment of the call', async (t) => {
  const { server, tokens, refresh } = await signedIn(t, { AccessTokenLifetime: 100 });
  assert.equal(tokens.expires_in, 100);
  server.write('clients/mvc.json', { AccessTokenLifetime: 200 });
  await server.reload();
  assert.equal((await refresh(tokens.refresh_token)).body.expires_in, 200);
});

test('a refresh may narrow the scope and not widen it', async (t) => {
  const { tokens, refresh } = await signedIn(t, { RefreshTokenUsage: 'ReUse' });
  const narrow = await refresh(tokens.refresh_token, { scope: 'intelligence_web_api' });
  assert.equal(decodeJwt(narrow.body.access_token).scope, 'intelligence_web_api');
  const wide = await refresh(tokens.refresh_token, { scope: 'openid email' });
  assert.equal(wide.body.error, 'invalid_scope');
  const full = await refresh(tokens.refresh_token, { scope: offline.scope });
  assert.equal(full.status, 200);
});

test('a refresh token is bound to its client', async (t) => {
  const { server, tokens } = await signedIn(t);
  const { body } = await post(`${server.issuer}/connect/token`, {
    grant_type: 'refresh_token',
    refresh_token: tokens.refresh_token,
    client_id: 'desk',
    client_secret: 'desk-secret',
  });
  assert.equal(body.error, 'invalid_grant');
});

test('without offline_access there is no refresh token', async (t) => {
  const server = await startTestServer(t);
  const { body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  assert.equal(body.refresh_token, undefined);
});

test('a disabled account refreshes no more', async (t) => {
  const { server, tokens, refresh } = await signedIn(t);
  await server.context.accounts.setDisabled('alice', true);
  assert.equal((await refresh(tokens.refresh_token)).body.error, 'invalid_grant');
});
