import assert from 'node:assert/strict';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { basic, post, signInAndRedeem } from '../support/sign-in.ts';
import { type Installation, install } from './postern.ts';

const toolkit = {
  clientId: 'miClient',
  redirectUri: 'http://localhost:32284/',
  scope: 'openid profile mi offline_access',
} as const;

async function installRunning(
  t: TestContext,
  options: Parameters<typeof install>[1] = {},
): Promise<Installation> {
  const installation = await install(t, options);
  await installation.spawn(['start']).waitFor(/Try next\n/);
  return installation;
}

/** alice at the toolkit, bob at the toolkit and at the desktop program. */
async function signInThree({ issuer }: Installation) {
  const alice = await signInAndRedeem({ issuer, ...toolkit });
  const bob = await signInAndRedeem({ issuer, ...toolkit, user: 'bob' });
  const desk = await post(
    `${issuer}/connect/token`,
    { grant_type: 'password', username: 'bob', password: 'Pass-word-1', scope: 'openid offline_access' },
    basic('desk', 'desk-secret'),
  );
  for (const { body } of [alice, bob, desk]) assert.ok(body.refresh_token, JSON.stringify(body));
  return { alice: alice.body, bob: bob.body, desk: desk.body };
}

function refresh(issuer: string, refreshToken: string) {
  return post(`${issuer}/connect/token`, {
    grant_type: 'refresh_token',
    client_id: 'miClient',
    refresh_token: refreshToken,
  });
}

interface Listed {
  handle: string;
  client: string;
  account: string;
  signedInAt: string;
  lastUsedAt: string | null;
  endsAt: string;
}

test('an administrator sees who has long-lived tokens where, and nothing that is one', async (t) => {
  const installation = await installRunning(t);
  const { run } = installation;
  assert.equal((await run(['token', 'list'])).stdout, 'there is no long-lived token\n');
  const { alice, bob, desk } = await signInThree(installation);

  const { code, stdout, stderr } = await run(['token', 'list']);
  assert.equal(code, 0, stderr);
  const [heading, ...lines] = stdout.trimEnd().split('\n');
  assert.match(heading ?? '', /^HANDLE +CLIENT +ACCOUNT +SIGNED IN +LAST USED +ENDS$/);
  assert.deepEqual(
    lines.map((line) => line.split(/ {2,}/).slice(1, 3)),
    [
      ['miClient', 'alice'],
      ['desk', 'bob'],
      ['miClient', 'bob'],
    ],
  );
  for (const line of lines) assert.match(line, /^[0-9a-f]{12} .* never +\d{4}-\d\d-\d\dT[\d:]{8}Z$/);

  const listed: Listed[] = JSON.parse((await run(['token', 'list', '--json', '--account', 'ALICE'])).stdout);
  assert.equal(listed.length, 1);
  const lifetimeMs = Date.parse(listed[0]?.endsAt ?? '') - Date.parse(listed[0]?.signedInAt ?? '');
  assert.equal(lifetimeMs, 2_592_000_000);

  using database = new DatabaseSync(join(installation.folder, 'data', 'postern.sqlite'), { readOnly: true });
  const ids = database.prepare('select id from OidcToken').all() as { id: string }[];
  assert.ok(ids.length > 0);
  const secrets = [...ids.map(({ id }) => id), ...[alice, bob, desk].map((body) => body.refresh_token)];
  for (const secret of secrets) assert.ok(!stdout.includes(secret));
});

test('a rotated token is listed once, under the handle that it had, with its last use', async (t) => {
  const { issuer, run } = await installRunning(t, {
    clients: { miClient: { RefreshTokenUsage: 'OneTimeOnly' } },
  });
  const list = async (): Promise<Listed[]> => JSON.parse((await run(['token', 'list', '--json'])).stdout);
  const { body } = await signInAndRedeem({ issuer, ...toolkit });
  const [before] = await list();
  assert.equal(before?.lastUsedAt, null);

  assert.equal((await refresh(issuer, body.refresh_token)).status, 200);

  const after = await list();
  assert.equal(after.length, 1);
  assert.equal(after[0]?.handle, before?.handle);
  assert.match(after[0]?.lastUsedAt ?? '', /^\d{4}-/);
});

test('a token that keeps its handle shows its last use, too', async (t) => {
  const { issuer, run } = await installRunning(t);
  const list = async (): Promise<Listed[]> => JSON.parse((await run(['token', 'list', '--json'])).stdout);
  const { body } = await signInAndRedeem({ issuer, ...toolkit });
  assert.equal((await refresh(issuer, body.refresh_token)).status, 200);
  const [listed] = await list();
  assert.match(listed?.lastUsedAt ?? '', /^\d{4}-/);
});

test('a sign-in is revoked by its handle, and only that one', async (t) => {
  const installation = await installRunning(t);
  const { issuer, run } = installation;
  const { alice, bob } = await signInThree(installation);
  const listed: Listed[] = JSON.parse((await run(['token', 'list', '--json'])).stdout);
  const handle = listed.find(({ account }) => account === 'alice')?.handle ?? '';

  const revoked = await run(['token', 'revoke', handle]);

  assert.deepEqual([revoked.code, revoked.stdout], [0, 'revoked the sign-in of alice at miClient\n']);
  assert.equal((await refresh(issuer, alice.refresh_token)).body.error, 'invalid_grant');
  assert.equal((await refresh(issuer, bob.refresh_token)).status, 200);
  const again = await run(['token', 'revoke', handle]);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /no long-lived token has the handle/);
});

test('all sign-ins of an account, or of a client, are revoked together', async (t) => {
  const installation = await installRunning(t);
  const { issuer, run } = installation;
  const { alice, bob } = await signInThree(installation);

  const ofBoth = await run(['token', 'revoke', '--account', 'bob', '--client', 'miClient']);
  assert.equal(ofBoth.stdout, 'revoked the sign-in of bob at miClient\n');
  assert.equal((await refresh(issuer, bob.refresh_token)).body.error, 'invalid_grant');
  assert.equal(
    (await run(['token', 'revoke', '--account', 'Bob'])).stdout,
    'revoked the sign-in of bob at desk\n',
  );
  assert.equal((await refresh(issuer, alice.refresh_token)).status, 200);
  assert.match((await run(['token', 'revoke', '--client', 'miClient'])).stdout, /of alice at miClient/);
  assert.equal((await run(['token', 'list'])).stdout, 'there is no long-lived token\n');
  assert.equal((await run(['token', 'revoke', '--client', 'desk'])).stdout, 'there was nothing to revoke\n');
});

test('what to revoke is said one way, not two and not none', async (t) => {
  const { run } = await install(t);
  for (const args of [[], ['0123456789ab', '--client', 'miClient']]) {
    const { code, stderr } = await run(['token', 'revoke', ...args]);
    assert.equal(code, 64);
    assert.match(stderr, /a handle, or --account, or --client/);
  }
});
