/** Sign-ins that are overtaken by what ends them: nothing that was under way outlives it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const webApi = basic('intelligence_web_api', 'web-api-secret');

async function countActive({ issuer }: TestServer, accessTokens: readonly string[]): Promise<number> {
  const answers = await Promise.all(
    accessTokens.map((token) => post(`${issuer}/connect/introspect`, { token }, webApi)),
  );
  return answers.filter(({ body }) => body.active).length;
}

/** What `account passwd` and `account disable` do, in their order. */
const ends = {
  'a new password': async ({ context }: TestServer) => {
    await context.accounts.setPassword('alice', 'Another-pass-1');
    await context.tokens.revokeAccount('alice');
  },
  'being disabled': async ({ context }: TestServer) => {
    await context.accounts.setDisabled('alice', true);
    await context.tokens.revokeAccount('alice');
  },
};

for (const [what, end] of Object.entries(ends)) {
  test(`no sign-in that was under way outlives ${what}: password grant`, async (t) => {
    const server = await startTestServer(t);
    const fields = {
      grant_type: 'password',
      username: 'alice',
      password: 'Pass-word-1',
      scope: 'intelligence_web_api offline_access',
    };
    const call = () => post(`${server.issuer}/connect/token`, fields, basic('desk', 'desk-secret'));
    const calls = Array.from({ length: 12 }, call);
    await new Promise((resolve) => setTimeout(resolve, 120));
    await end(server);
    const answers = await Promise.all(calls);
    const issued = answers.flatMap(({ body }) => body.access_token ?? []);
    assert.equal(await countActive(server, issued), 0, `${issued.length} were issued`);
    for (const { body } of answers) {
      if (body.refresh_token === undefined) continue;
      const refresh = { grant_type: 'refresh_token', refresh_token: body.refresh_token };
      assert.equal(
        (await post(`${server.issuer}/connect/token`, refresh, basic('desk', 'desk-secret'))).status,
        400,
      );
    }
  });

  test(`no sign-in that was under way outlives ${what}: login page`, async (t) => {
    const server = await startTestServer(t);
    const attempts = await Promise.all(
      Array.from({ length: 8 }, () => authorize({ issuer: server.issuer, ...mvc, browser: createBrowser() })),
    );
    const signIns = attempts.map((attempt) => attempt.signIn());
    await new Promise((resolve) => setTimeout(resolve, 110));
    await end(server);
    const backs = await Promise.all(signIns);
    const tokens = await Promise.all(
      attempts.map(async (attempt, index) => {
        const back = backs[index];
        return back?.location === undefined ? undefined : (await attempt.redeem(back)).body.access_token;
      }),
    );
    const issued = tokens.filter((token) => token !== undefined);
    assert.equal(await countActive(server, issued), 0, `${issued.length} were issued`);
    for (const { browser } of attempts) {
      const again = await authorize({ issuer: server.issuer, ...mvc, browser });
      assert.equal(again.page.location, undefined, 'no session is left');
    }
  });
}

test('an authorization that is overtaken by the sign-out of its session leaves nothing', async (t) => {
  const server = await startTestServer(t);
  const scope = `${mvc.scope} offline_access`;
  for (let round = 0; round < 6; round += 1) {
    const first = await authorize({ issuer: server.issuer, ...mvc, scope });
    const { body } = await first.redeem(await first.signIn());
    const others = Array.from({ length: 6 }, (_, index) =>
      authorize({
        issuer: server.issuer,
        ...mvc,
        browser: first.browser,
        ...(index % 2 === 0 ? { scope } : undefined),
      }),
    );
    const out = first.browser.open(
      `${server.issuer}/connect/endsession?${new URLSearchParams({ id_token_hint: body.id_token })}`,
    );
    const attempts = await Promise.all(others);
    await out;
    const bound = await Promise.all(
      attempts.map(async (attempt, index) =>
        attempt.page.location === undefined || index % 2 === 0
          ? []
          : ((await attempt.redeem(attempt.page)).body.access_token ?? []),
      ),
    );
    assert.equal(await countActive(server, bound.flat()), 0, `round ${round}`);
  }
});

test('a client whose name means something in JavaScript is refused', async (t) => {
  for (const name of ['__proto__', 'constructor', 'toString']) {
    await assert.rejects(
      startTestServer(t, { clients: { batch: { ClientId: name } } }),
      (err: { issues: { message: string }[] }) =>
        /has a meaning of its own/.test(err.issues[0]?.message ?? ''),
      name,
    );
  }
});
