/** The budget of SQL statements of each request (DESIGN of the store): a statement more is a regression. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { createBrowser } from '../support/browser.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer, type TestServerOptions } from '../support/start-server.ts';
import { signTicket } from '../support/windows-ticket.ts';

const batch = {
  Flow: 'ClientCredentials',
  ClientSecrets: [{ Value: createHash('sha256').update('batch-secret').digest('base64') }],
  EnableLocalLogin: true,
  AllowedScopes: ['intelligence_web_api'],
};

async function counting(t: TestContext, options: TestServerOptions = {}) {
  // The cleanup's own statement would be counted with the rest.
  const server = await startTestServer(t, {
    ...options,
    server: { ExpiredTokenCleanInterval: 86_400, ...options.server },
  });
  const statements: string[] = [];
  server.context.db.knex.on('query', ({ sql }: { sql: string }) => {
    statements.push(sql);
  });
  return {
    ...server,
    issuer: server.issuer,
    async count<T>(run: () => Promise<T>): Promise<[number, T]> {
      statements.length = 0;
      const result = await run();
      return [statements.length, result];
    },
    statements,
  };
}

test('client_credentials costs no statement as JWT and one as reference token', async (t) => {
  const { issuer, count } = await counting(t, {
    clients: { plain: { ...batch, ClientCredentialsSubject: 'None' } },
  });
  const call = (id: string, secret = `${id}-secret`) =>
    post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic(id, secret));
  const [none, answer] = await count(() => call('plain', 'batch-secret'));
  assert.deepEqual([none, answer.status], [0, 200]);
  // A client that runs as an account asks whether the account is still there.
  assert.equal((await count(() => call('batch')))[0], 1);
  assert.equal((await count(() => call('batch-ref')))[0], 1);
});

test('a whole first sign-in costs 17 statements, the code’s redemption 5 of them, and single sign-on 5', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const { issuer, count, statements } = await counting(t, { now: () => Math.floor(Date.now() / 1000) });
  const browser = createBrowser();
  const offline = { ...mvc, scope: `${mvc.scope} offline_access` };
  const [login, attempt] = await count(async () => {
    const started = await authorize({ issuer, ...offline, browser });
    return { ...started, back: await started.signIn() };
  });
  const [redemption, { body }] = await count(() => attempt.redeem(attempt.back));
  assert.equal(redemption, 5, statements.join('\n'));
  assert.ok(login + redemption <= 17, `${login} + ${redemption}`);

  const [sso] = await count(() => authorize({ issuer, ...offline, browser }));
  assert.ok(sso <= 5, `${sso}: ${statements.join('\n')}`);
  const [bound] = await count(() => authorize({ issuer, ...mvc, browser }));
  assert.ok(bound <= 5, `${bound}: ${statements.join('\n')}`);
  t.mock.timers.setTime(Date.now() + 3600_000);
  const [again] = await count(() => authorize({ issuer, ...mvc, browser }));
  assert.ok(again <= 5, `${again}: ${statements.join('\n')}`);

  const [refresh] = await count(() =>
    post(
      `${issuer}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: body.refresh_token },
      basic('mvc', 'mvc-secret'),
    ),
  );
  assert.equal(refresh, 5, statements.join('\n'));
});

for (const type of ['Jwt', 'Reference']) {
  test(`introspection of a ${type} token costs one statement, userinfo three`, async (t) => {
    const { issuer, count, statements } = await counting(t, { clients: { mvc: { AccessTokenType: type } } });
    const { body } = await signInAndRedeem({ issuer, ...mvc });
    const [introspection] = await count(() =>
      post(
        `${issuer}/connect/introspect`,
        { token: body.access_token },
        basic('intelligence_web_api', 'web-api-secret'),
      ),
    );
    assert.equal(introspection, 1, statements.join('\n'));
    const [userinfo] = await count(() =>
      fetch(`${issuer}/connect/userinfo`, { headers: { authorization: `Bearer ${body.access_token}` } }),
    );
    assert.equal(userinfo, 3, statements.join('\n'));
  });
}

test('a code redeemed for a reference token costs six', async (t) => {
  const { issuer, count, statements } = await counting(t, {
    clients: { mvc: { AccessTokenType: 'Reference' } },
  });
  const attempt = await authorize({ issuer, ...mvc, scope: `${mvc.scope} offline_access` });
  const back = await attempt.signIn();
  const [redemption] = await count(() => attempt.redeem(back));
  assert.equal(redemption, 6, statements.join('\n'));
});

test('the WsFed application costs four statements for a sign-in, two for single sign-on, and none for a page', async (t) => {
  const { issuer, count, statements } = await counting(t, {
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const url = `${issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const browser = createBrowser();
  const [shown, page] = await count(() => browser.open(url));
  const [signedIn, answer] = await count(() =>
    browser.submit(page, { username: 'alice', password: 'Pass-word-1' }),
  );
  assert.match(answer.body, /name="wresult"/);
  assert.deepEqual([shown, signedIn], [0, 4], statements.join('\n'));
  const [again] = await count(() => browser.open(url));
  assert.equal(again, 2, statements.join('\n'));
});

test('a sign-in by Windows costs three statements, and seven with the attempt and the link of a ticket', async (t) => {
  const secret = 'a-secret-of-thirty-two-characters-or-more';
  const options = (windowsLogin: Record<string, unknown>) => ({
    server: { EnableWindowsLogin: true, WindowsLogin: windowsLogin },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const address = (issuer: string) =>
    `${issuer.replace(/Oidc$/, 'WsFed')}/WinLogin?wa=wsignin1.0&wtrealm=urn:portal`;
  const header = await counting(
    t,
    options({ Header: { Secrets: [{ plain: secret }], From: ['127.0.0.1'] } }),
  );
  const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
  const [byHeader, page] = await header.count(() =>
    createBrowser().request(address(header.issuer), { headers }),
  );
  assert.match(page.body, /name="wresult"/);
  assert.equal(byHeader, 3, header.statements.join('\n'));

  const ticket = { HandlerUrl: 'http://localhost:1/', Secrets: [{ plain: secret }] };
  const iis = await counting(t, options({ Ticket: ticket }));
  const round = async () => {
    const browser = createBrowser();
    const left = await browser.request(address(iis.issuer));
    const attempt = left.location?.searchParams.get('attempt');
    const claims = {
      name: 'EXAMPLE\\carol',
      sid: 'S-1-5-21-1-2-3-4',
      attempt,
      time: Math.floor(Date.now() / 1000),
    };
    const body = new URLSearchParams({ ticket: signTicket(claims, secret) });
    return browser.request(address(iis.issuer), { method: 'POST', body });
  };
  await round();
  const [byTicket, back] = await iis.count(round);
  assert.match(back.body, /name="wresult"/);
  assert.equal(byTicket, 7, iis.statements.join('\n'));
});
