/** Walks the table of docs/what-ends-what.md, row by row, against the real server. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import { authorize, basic, post } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const root = join(import.meta.dirname, '..', '..');
const password = 'Pass-word-1';
const newPassword = 'Another-word-2';
const sessionScope = 'openid intelligence_web_api';
const offlineScope = `${sessionScope} offline_access`;

const columns = [
  'Session, `Jwt`',
  'Session, `Reference`',
  'Offline, `Jwt`',
  'Offline, `Reference`',
  'Refresh token',
  'Browser session',
  'WsFed session',
  'Open sign-in page',
  'Remembered consent',
] as const;
type Column = (typeof columns)[number];
const verdicts = ['ends', 'rests', 'stays'] as const;
type Verdict = (typeof verdicts)[number];

const types = ['Jwt', 'Reference'] as const;
type AccessTokenType = (typeof types)[number];

/** What one client of alice's browser holds: its access tokens are of the type that it is named after. */
interface Holding {
  readonly clientId: AccessTokenType;
  readonly redirectUri: string;
  readonly sessionToken: string;
  readonly redeemSessionCodeAgain: () => Promise<unknown>;
  readonly offlineToken: string;
  readonly redeemOfflineCodeAgain: () => Promise<unknown>;
  /** Replaced where the row refreshes. */
  refreshToken: string;
  readonly idToken: string;
  readonly openPage: Page;
}

interface World {
  readonly server: TestServer;
  readonly browser: Browser;
  readonly holdings: readonly Holding[];
}

interface Row {
  act(world: World): Promise<void>;
  /** Takes it back, where that is possible: what ends stays ended, and what rests is good again. */
  undo?(world: World): Promise<void>;
}

const wsFedUrl = ({ issuer }: TestServer, wa = 'wsignin1.0') =>
  `${issuer.replace(/Oidc$/, 'WsFed')}?wa=${wa}&wtrealm=urn:portal`;
const secretOf = (clientId: string) => `${clientId}-secret`;
const revoke = ({ issuer }: TestServer, clientId: string, token: string) =>
  post(`${issuer}/connect/revocation`, { token }, basic(clientId, secretOf(clientId)));
const refresh = ({ issuer }: TestServer, { clientId, refreshToken }: Holding) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: refreshToken },
    basic(clientId, secretOf(clientId)),
  );

/** Runs the program as an operator does beside the running server. */
async function postern({ configDirectory }: TestServer, args: readonly string[], input = ''): Promise<void> {
  const program = join(root, 'src', 'main.ts');
  const running = promisify(execFile)(process.execPath, [
    '--disable-warning=ExperimentalWarning',
    ...[program, '--config', configDirectory, ...args],
  ]);
  running.child.stdin?.end(input);
  await running;
}

function registrationOf(clientId: AccessTokenType): Record<string, unknown> {
  return {
    Flow: 'AuthorizationCode',
    ClientSecrets: [{ Value: { plain: secretOf(clientId) } }],
    RedirectUris: [`https://${clientId.toLowerCase()}.example/callback`],
    PostLogoutRedirectUris: [`https://${clientId.toLowerCase()}.example/`],
    EnableLocalLogin: true,
    AllowedScopes: ['openid', 'intelligence_web_api', 'offline_access'],
    AccessTokenType: clientId,
    RefreshTokenGraceSeconds: 0,
    // So that there is a consent to remember.
    RequireConsent: true,
  };
}

const setClients = async (
  { server }: World,
  change: (id: AccessTokenType) => Record<string, unknown> | string,
) => {
  for (const id of types) server.write(`clients/${id}.json`, change(id));
  await server.reload();
};

const rows: Readonly<Record<string, Row>> = {
  'An access token is revoked': {
    async act({ server, holdings }) {
      for (const { clientId, sessionToken, offlineToken } of holdings) {
        for (const token of [sessionToken, offlineToken]) await revoke(server, clientId, token);
      }
    },
  },
  'A refresh token is revoked': {
    async act({ server, holdings }) {
      for (const { clientId, refreshToken } of holdings) await revoke(server, clientId, refreshToken);
    },
  },
  'A replaced refresh token is used again, after its grace': {
    async act({ server, holdings }) {
      for (const holding of holdings) {
        const { body } = await refresh(server, holding);
        const repeated = await refresh(server, holding);
        assert.equal(repeated.body.error, 'invalid_grant');
        holding.refreshToken = body.refresh_token;
      }
    },
  },
  'The code of a session is used twice': {
    async act({ holdings }) {
      for (const { redeemSessionCodeAgain } of holdings) await redeemSessionCodeAgain();
    },
  },
  'The code of offline access is used twice': {
    async act({ holdings }) {
      for (const { redeemOfflineCodeAgain } of holdings) await redeemOfflineCodeAgain();
    },
  },
  'The user signs out': {
    async act({ server, browser, holdings }) {
      const page = await browser.open(
        `${server.issuer}/connect/endsession?id_token_hint=${holdings[0]?.idToken}`,
      );
      assert.match(page.body, /signed out/i);
    },
  },
  'The user signs out at the WsFed application (`wsignout1.0`)': {
    async act({ server, browser }) {
      const page = await browser.open(wsFedUrl(server, 'wsignout1.0'));
      assert.match(page.body, /signed out/i);
    },
  },
  'The sign-in is revoked (`postern token revoke`)': {
    act: ({ server }) => postern(server, ['token', 'revoke', '--account', 'alice']),
  },
  'The account is disabled (`postern account disable`)': {
    act: ({ server }) => postern(server, ['account', 'disable', 'alice']),
    undo: ({ server }) => postern(server, ['account', 'enable', 'alice']),
  },
  'Its password is set (`postern account passwd`)': {
    act: ({ server }) => postern(server, ['account', 'passwd', 'alice'], `${newPassword}\n`),
  },
  'The user changes the password, in another browser': {
    async act({ server }) {
      // The page for it is shown to whoever must change it.
      await server.context.accounts.setPassword('alice', password, { mustChange: true });
      const attempt = await authorize({
        issuer: server.issuer,
        clientId: 'miClient',
        redirectUri: 'http://localhost:32284/',
        scope: 'openid mi',
      });
      const page = await attempt.signIn();
      const back = await attempt.browser.submit(page, { newPassword, repeatPassword: newPassword });
      assert.ok(back.location?.searchParams.get('code'), back.body.slice(0, 300));
    },
  },
  'The account is removed (`postern account remove`)': {
    act: ({ server }) => postern(server, ['account', 'remove', 'alice', '--yes']),
  },
  'Its links to identities elsewhere are forgotten (`postern account unlink`)': {
    async act({ server }) {
      const link = {
        id: 'a',
        normalizedName: 'alice',
        provider: 'P',
        issuer: 'i',
        subject: 's',
        createdAt: 0,
      };
      await server.context.db.knex('OidcUserLogin').insert(link);
      await postern(server, ['account', 'unlink', 'alice']);
    },
  },
  'The client is disabled (`Enabled` false)': {
    act: (world) => setClients(world, () => ({ Enabled: false })),
    undo: (world) => setClients(world, () => ({ Enabled: true })),
  },
  'The client is removed (its file is deleted)': {
    async act({ server }) {
      for (const id of types) rmSync(join(server.configDirectory, 'clients', `${id}.json`));
      await server.reload();
    },
    undo: (world) => setClients(world, registrationOf),
  },
};

/** Alice, signed in at two clients with everything that a client can hold, and a page open at each. */
async function createWorld(t: TestContext): Promise<World> {
  const server = await startTestServer(t, {
    clients: { Jwt: registrationOf('Jwt'), Reference: registrationOf('Reference') },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const { issuer } = server;
  const browser = createBrowser();
  const atWsFed = await browser.submit(await browser.open(wsFedUrl(server)), { username: 'alice', password });
  assert.match(atWsFed.body, /name="wresult"/);
  const holdings: Holding[] = [];
  for (const clientId of types) {
    const client = {
      issuer,
      clientId,
      secret: secretOf(clientId),
      redirectUri: `https://${clientId.toLowerCase()}.example/callback`,
      browser,
    };
    const obtain = async (scope: string) => {
      const attempt = await authorize({ ...client, scope });
      const page = /type="password"/.test(attempt.page.body) ? await attempt.signIn() : attempt.page;
      const back = await browser.submit(page, {
        action: 'allow',
        scope,
        // The page does not offer it for offline access.
        remember: scope === sessionScope ? 'yes' : undefined,
      });
      const { body } = await attempt.redeem(back);
      return {
        body,
        async again() {
          const { body: repeated } = await attempt.redeem(back);
          assert.equal(repeated.error, 'invalid_grant');
        },
      };
    };
    const ofSession = await obtain(sessionScope);
    const offline = await obtain(offlineScope);
    const { page: openPage } = await authorize({
      ...client,
      scope: sessionScope,
      parameters: { prompt: 'login' },
    });
    holdings.push({
      clientId,
      redirectUri: client.redirectUri,
      sessionToken: ofSession.body.access_token,
      redeemSessionCodeAgain: ofSession.again,
      offlineToken: offline.body.access_token,
      redeemOfflineCodeAgain: offline.again,
      refreshToken: offline.body.refresh_token,
      idToken: ofSession.body.id_token,
      openPage,
    });
  }
  return { server, browser, holdings };
}

/** Whether what each column stands for is good at this moment. Refreshing comes last: it makes new tokens. */
async function look({ server, browser, holdings }: World): Promise<Record<Column, boolean>> {
  const { issuer } = server;
  const isActive = async (token: string) => {
    const { status, body } = await post(
      `${issuer}/connect/introspect`,
      { token },
      basic('intelligence_web_api', 'web-api-secret'),
    );
    assert.equal(status, 200);
    return body.active === true;
  };
  const [jwt, reference] = holdings;
  assert.ok(jwt && reference);
  const single = await authorize({
    issuer,
    clientId: 'miClient',
    redirectUri: 'http://localhost:32284/',
    scope: 'openid mi',
    browser,
    parameters: { prompt: 'none' },
  });
  const back = single.page.location?.searchParams ?? new URLSearchParams();
  assert.ok(back.get('code') || back.get('error') === 'login_required', single.page.body);

  return {
    'Session, `Jwt`': await isActive(jwt.sessionToken),
    'Session, `Reference`': await isActive(reference.sessionToken),
    'Offline, `Jwt`': await isActive(jwt.offlineToken),
    'Offline, `Reference`': await isActive(reference.offlineToken),
    'Browser session': back.get('code') !== null,
    'WsFed session': (await browser.open(wsFedUrl(server))).body.includes('name="wresult"'),
    'Open sign-in page': await forBoth(async ({ openPage }) => {
      const { status, body } = await browser.request(openPage.url);
      return status === 200 && /type="password"/.test(body);
    }),
    'Remembered consent': await forBoth(
      async ({ clientId }) => (await server.context.tokens.findConsent('alice', clientId)).length > 0,
    ),
    'Refresh token': await forBoth(async (holding) => {
      const { status, body } = await refresh(server, holding);
      if (status === 200) holding.refreshToken = body.refresh_token;
      return status === 200;
    }),
  };

  /** The two clients differ in the form of their access tokens and in nothing else. */
  async function forBoth(isGood: (holding: Holding) => Promise<boolean>): Promise<boolean> {
    const found = [];
    for (const holding of holdings) found.push(await isGood(holding));
    assert.equal(new Set(found).size, 1, 'the same for both forms of access tokens');
    return found[0] === true;
  }
}

/** The rows of the document's table: what happens, and what becomes of each column. */
function readTable(): { header: string[]; rows: Map<string, string[]> } {
  const lines = readFileSync(join(root, 'docs', 'what-ends-what.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .slice(1, line.lastIndexOf('|'))
        .split('|')
        .map((cell) => cell.trim()),
    );
  const [header = [], , ...body] = lines;
  return { header, rows: new Map(body.map(([name = '', ...cells]) => [name, cells])) };
}

const table = readTable();

test('the document has a row for everything that is tried, in columns that are looked at', () => {
  assert.deepEqual(table.header, ['What happens', ...columns]);
  assert.deepEqual([...table.rows.keys()], Object.keys(rows));
  for (const [name, cells] of table.rows) {
    assert.equal(cells.length, columns.length, name);
    assert.ok(
      cells.every((cell) => (verdicts as readonly string[]).includes(cell)),
      `${name}: ${cells}`,
    );
  }
});

for (const [name, { act, undo }] of Object.entries(rows)) {
  test(`what ends what: ${name}`, async (t) => {
    const world = await createWorld(t);
    const before = await look(world);
    assert.ok(
      columns.every((column) => before[column]),
      `all is good at first: ${JSON.stringify(before)}`,
    );

    await act(world);
    const then = await look(world);
    await undo?.(world);
    const afterwards = undo === undefined ? then : await look(world);

    const found = columns.map((column): Verdict => {
      if (then[column]) return 'stays';
      return afterwards[column] ? 'rests' : 'ends';
    });
    assert.deepEqual(
      Object.fromEntries(columns.map((column, index) => [column, found[index]])),
      Object.fromEntries(columns.map((column, index) => [column, table.rows.get(name)?.[index]])),
    );
  });
}
