import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Accounts, createAccounts, type NewAccount, toClaims } from '../../src/accounts/accounts.ts';
import { createPasswords } from '../../src/accounts/passwords.ts';
import { createLogger } from '../../src/log.ts';
import { type Database, openDatabase } from '../../src/store/database.ts';

const password = 'Pass-word-1';
const startedAt = 1_800_000_000;

interface Store {
  accounts: Accounts;
  db: Database;
  /** The rows as they are in the table. */
  rows(): Promise<Record<string, unknown>[]>;
  /** Statements since the last call. */
  statements(): string[];
  clock: { now: number };
}

async function openAccounts(t: TestContext): Promise<Store> {
  const clock = { now: startedAt };
  const now = () => clock.now;
  const log = createLogger({ level: 'silent', format: 'json' });
  const db = await openDatabase({ client: 'sqlite', file: ':memory:', log, now });
  t.after(() => db[Symbol.asyncDispose]());
  await db.migrate();
  const statements: string[] = [];
  db.knex.on('query', ({ sql }: { sql: string }) => statements.push(sql));
  return {
    accounts: createAccounts({ db: db.knex, now }),
    db,
    rows: () => db.knex('OidcUser').select(),
    statements: () => statements.splice(0),
    clock,
  };
}

test('an account is found by its name in any case, and keeps its stored spelling', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({
    name: 'Alice',
    displayName: 'Alice Example',
    email: 'alice@example.com',
    roles: ['Admin'],
  });

  for (const typed of ['Alice', 'alice', 'ALICE', '\uff21lice']) {
    const account = await accounts.find(typed);
    assert.deepEqual(
      account,
      {
        accountId: 'Alice',
        name: 'Alice',
        displayName: 'Alice Example',
        email: 'alice@example.com',
        claims: {},
        roles: ['Admin'],
        disabled: false,
        mustChangePassword: false,
        hasPassword: false,
        stamp: account?.stamp,
      },
      typed,
    );
  }
  for (const typed of [
    'alic',
    'alice ',
    ' alice',
    'alice.',
    'ali%',
    '',
    'x'.repeat(100_000),
    'alice\0',
    'al\udc00ce',
  ]) {
    assert.equal(await accounts.find(typed), undefined, JSON.stringify(typed.slice(0, 20)));
  }
});

test('what adding returns is what finding returns', async (t) => {
  const { accounts } = await openAccounts(t);
  for (const given of [
    { name: 'plain' },
    { name: 'EXAMPLE\\carol', claims: { department: 'IT', group: ['a', 'b'] } },
    {
      name: 'full',
      displayName: 'F',
      email: 'f@e',
      roles: ['x'],
      windowsName: 'EXAMPLE\\full',
      mustChangePassword: true,
      disabled: true,
    },
  ] satisfies NewAccount[]) {
    const added = await accounts.add(given);
    assert.deepEqual(await accounts.find(given.name), added);
  }
});

test('a name of the form DOMAIN\\user is its own Windows name unless another is given', async (t) => {
  const { accounts } = await openAccounts(t);

  assert.equal((await accounts.add({ name: 'EXAMPLE\\carol' })).windowsName, 'EXAMPLE\\carol');
  assert.equal(
    (await accounts.add({ name: 'EXAMPLE\\dave', windowsName: 'OTHER\\dave' })).windowsName,
    'OTHER\\dave',
  );
  assert.equal((await accounts.add({ name: 'erin' })).windowsName, undefined);
});

test('a Windows name leads to one account', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'carol', windowsName: 'EXAMPLE\\carol' });

  const second = accounts.add({ name: 'carol2', windowsName: 'example\\CAROL' });
  await assert.rejects(second, { code: 'ERR_ACCOUNT_EXISTS', message: /belongs to the account "carol"/ });
  await accounts.remove('carol');
  assert.equal(
    (await accounts.add({ name: 'carol2', windowsName: 'EXAMPLE\\carol' })).windowsName,
    'EXAMPLE\\carol',
  );
});

test('a name that cannot be "sub", or would be another on Windows, is refused', async (t) => {
  const { accounts, rows } = await openAccounts(t);
  const invalid = [
    '',
    ' alice',
    'alice ',
    'alice.',
    '.',
    '..',
    'a\\b\\c',
    '\\alice',
    'EXAMPLE\\',
    'EXAMPLE\\..',
    'EXAMPLE \\alice',
    'al\nice',
    'al\0ice',
    'al\u007fice',
    'Zo\u00eb',
    '\uff21lice',
    'x'.repeat(256),
  ];
  for (const name of invalid) {
    await assert.rejects(
      accounts.add({ name }),
      { code: 'ERR_ACCOUNT_NAME_INVALID', status: 400 },
      JSON.stringify(name),
    );
  }
  await assert.rejects(accounts.add({ name: 'Zo\u00eb' }), /OpenID Connect Core section 2/);
  await assert.rejects(accounts.add({ name: 'x', windowsName: 'x' }), { code: 'ERR_ACCOUNT_NAME_INVALID' });
  assert.deepEqual(await rows(), []);

  for (const name of [
    'x'.repeat(255),
    "O'Neil, Pat",
    'pat@example.com',
    'a.b-c_d',
    '{"a":1}',
    '%',
    '__proto__',
  ]) {
    await accounts.add({ name });
    assert.equal((await accounts.find(name))?.accountId, name);
  }
});

test('what is said of an account is checked when it is added', async (t) => {
  const { accounts, rows } = await openAccounts(t);
  for (const given of [
    { email: 'nobody' },
    { email: 'a b@example.com' },
    { email: `${'x'.repeat(320)}@example.com` },
    { displayName: ' ' },
    { displayName: 'bell\u0007' },
    { displayName: 'x'.repeat(256) },
    { roles: [''] },
    { claims: { sub: 'admin' } },
    { claims: { scope: 'everything' } },
    { claims: { department: ['ok', 'nul\0'] } },
  ]) {
    await assert.rejects(
      accounts.add({ name: 'pat', ...given }),
      { code: 'ERR_REQUEST_INVALID', status: 400 },
      JSON.stringify(given),
    );
  }
  await assert.rejects(accounts.add({ name: 'pat', password: 'short' }), {
    code: 'ERR_PASSWORD_UNACCEPTABLE',
  });
  assert.deepEqual(await rows(), []);
});

test('a name that is taken in another case cannot be added', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'Alice' });

  await assert.rejects(accounts.add({ name: 'aLICE' }), { code: 'ERR_ACCOUNT_EXISTS', status: 409 });
});

test('of eight that add one name at once, one succeeds and the others learn why', async (t) => {
  const { accounts, rows } = await openAccounts(t);

  const results = await Promise.allSettled(
    Array.from({ length: 8 }, (_, index) =>
      accounts.add({ name: index % 2 === 0 ? 'alice' : 'ALICE', password }),
    ),
  );

  const refused = results.filter((result) => result.status === 'rejected');
  assert.deepEqual(
    refused.map(({ reason }) => reason.code),
    Array(7).fill('ERR_ACCOUNT_EXISTS'),
  );
  assert.equal((await rows()).length, 1);
});

test('credentials are accepted in any spelling of the name, and refused with a reason for the log', async (t) => {
  const { accounts } = await openAccounts(t);
  const alice = await accounts.add({ name: 'Alice', password });
  const bob = await accounts.add({ name: 'bob', password, mustChangePassword: true });
  await accounts.add({ name: 'EXAMPLE\\carol' });
  await accounts.add({ name: 'dora', password });
  await accounts.setDisabled('dora', true);
  await accounts.add({ name: 'emil', password });
  await accounts.remove('emil');

  assert.deepEqual(await accounts.verifyCredentials('aLiCe', password), { kind: 'accepted', account: alice });
  const mustChange = await accounts.verifyCredentials('bob', password);
  assert.deepEqual(
    { ...mustChange, proof: undefined },
    { kind: 'must-change', account: bob, proof: undefined },
  );
  for (const [name, tried, reason, accountId] of [
    ['alice', 'Pass-word-2', 'password', 'Alice'],
    ['alice', '', 'password', 'Alice'],
    ['alice', 'x'.repeat(1_000_000), 'password', 'Alice'],
    ['bob', 'Pass-word-2', 'password', 'bob'],
    ['EXAMPLE\\carol', password, 'no-password', 'EXAMPLE\\carol'],
    ['dora', password, 'disabled', 'dora'],
    ['emil', password, 'unknown'],
    ['nobody', password, 'unknown'],
    ['no\0body', password, 'unknown'],
  ] as const) {
    assert.deepEqual(
      await accounts.verifyCredentials(name, tried),
      { kind: 'refused', reason, ...(accountId === undefined ? undefined : { accountId }) },
      `${name} ${reason}`,
    );
  }
});

test('verifying credentials is one statement, and so is finding an account', async (t) => {
  const { accounts, statements } = await openAccounts(t);
  await accounts.add({ name: 'alice', password });
  await accounts.add({ name: 'gone', password });
  await accounts.remove('gone');
  statements();

  for (const name of ['alice', 'gone', 'nobody']) {
    await accounts.verifyCredentials(name, password);
    assert.equal(statements().length, 1, name);
    await accounts.find(name);
    assert.equal(statements().length, 1, name);
  }
});

test('the answer for an unknown name costs as much as that for a wrong password', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'alice', password });
  await accounts.add({ name: 'carol' });
  await accounts.add({ name: 'gone', password });
  await accounts.remove('gone');

  const names = ['alice', 'carol', 'gone', 'nobody'];
  // What the process itself has used: whatever else the machine does takes time, and none of this.
  const least = new Map(names.map((name) => [name, Number.POSITIVE_INFINITY]));
  for (let round = 0; round < 6; round += 1) {
    for (const name of names) {
      const from = process.cpuUsage();
      await accounts.verifyCredentials(name, 'Pass-word-2');
      const { system, user } = process.cpuUsage(from);
      least.set(name, Math.min(least.get(name) ?? 0, system + user));
    }
  }
  const costs = [...least.values()];
  // An answer without a hash costs well under a tenth of one with it.
  assert.ok(Math.min(...costs) > Math.max(...costs) / 3, JSON.stringify([...least]));
});

test('a new password replaces the old one, and may have to be changed at the next sign-in', async (t) => {
  const { accounts, rows, clock } = await openAccounts(t);
  await accounts.add({ name: 'Alice', password });
  clock.now += 60;

  const changed = await accounts.setPassword('alice', 'Pass-word-2', { mustChange: true });

  assert.deepEqual([changed.accountId, changed.mustChangePassword], ['Alice', true]);
  assert.equal((await accounts.verifyCredentials('alice', password)).kind, 'refused');
  assert.equal((await accounts.verifyCredentials('alice', 'Pass-word-2')).kind, 'must-change');
  await accounts.setPassword('alice', 'Pass-word-3');
  assert.equal((await accounts.verifyCredentials('alice', 'Pass-word-3')).kind, 'accepted');
  const [row] = await rows();
  assert.deepEqual([row?.createdAt, row?.updatedAt], [startedAt, startedAt + 60]);
  assert.equal(JSON.stringify(row).includes('Pass-word'), false);
  assert.equal(await createPasswords().verify(String(row?.passwordHash), 'Pass-word-3'), true);
});

test('an unacceptable new password leaves the old one in force', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'alice', password });

  await assert.rejects(accounts.setPassword('alice', 'short'), { code: 'ERR_PASSWORD_UNACCEPTABLE' });
  assert.equal((await accounts.verifyCredentials('alice', password)).kind, 'accepted');
});

test('a disabled account is found as disabled and can be enabled again', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'alice', password });

  assert.equal((await accounts.setDisabled('ALICE', true)).disabled, true);
  assert.equal((await accounts.find('alice'))?.disabled, true);
  assert.equal((await accounts.setDisabled('alice', false)).disabled, false);
  assert.equal((await accounts.verifyCredentials('alice', password)).kind, 'accepted');
});

test('removing an account clears all but its name, which is never given away again', async (t) => {
  const { accounts, rows, clock } = await openAccounts(t);
  await accounts.add({
    name: 'Alice',
    displayName: 'Alice Example',
    email: 'alice@example.com',
    password,
    claims: { department: 'IT' },
    roles: ['Admin'],
    windowsName: 'EXAMPLE\\alice',
  });
  clock.now += 5;

  const gone = await accounts.remove('ALICE');

  assert.equal(gone.accountId, 'Alice');
  assert.equal(await accounts.find('alice'), undefined);
  assert.deepEqual(await accounts.list(), []);
  assert.deepEqual(
    (await rows()).map((row) => ({ ...row })),
    [
      {
        normalizedName: 'alice',
        name: null,
        displayName: null,
        email: null,
        passwordHash: null,
        passwordMark: null,
        passwordHistory: null,
        claims: '{}',
        roles: '[]',
        windowsName: null,
        normalizedWindowsName: null,
        disabled: 1,
        mustChangePassword: 0,
        createdAt: startedAt,
        updatedAt: startedAt + 5,
        removedAt: startedAt + 5,
      },
    ],
  );
  await assert.rejects(accounts.add({ name: 'aLice' }), { code: 'ERR_ACCOUNT_REMOVED' });
  for (const attempt of [
    () => accounts.remove('alice'),
    () => accounts.setPassword('alice', 'Pass-word-2'),
    () => accounts.setDisabled('alice', false),
  ]) {
    await assert.rejects(attempt, { code: 'ERR_ACCOUNT_REMOVED' });
  }
});

test('of two that remove one account at once, one succeeds', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'alice' });

  const results = await Promise.allSettled([accounts.remove('alice'), accounts.remove('alice')]);

  assert.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
});

test('changing an account that is not there says so', async (t) => {
  const { accounts } = await openAccounts(t);
  for (const attempt of [
    () => accounts.remove('nobody'),
    () => accounts.setPassword('nobody', password),
    () => accounts.setDisabled('Zo\u00eb', true),
  ]) {
    await assert.rejects(attempt, { code: 'ERR_ACCOUNT_UNKNOWN', status: 404 });
  }
});

test('seeding fills an empty table, once: who is removed later stays removed', async (t) => {
  const { accounts } = await openAccounts(t);
  const demoAccounts = [
    { Name: 'alice', Password: password },
    { Name: 'EXAMPLE\\carol' },
    {
      Name: 'dora',
      DisplayName: 'Dora',
      Email: 'dora@example.com',
      WindowsName: 'EXAMPLE\\dora',
      Roles: ['Admin'],
      Claims: { department: 'IT' },
      MustChangePassword: true,
      Disabled: true,
    },
  ];
  assert.deepEqual(await accounts.seed(demoAccounts), ['alice', 'EXAMPLE\\carol', 'dora']);

  for (const name of ['alice', 'EXAMPLE\\carol']) await accounts.remove(name);
  assert.deepEqual(await accounts.seed(demoAccounts), []);
  assert.deepEqual(
    (await accounts.list()).map(({ name }) => name),
    ['dora'],
  );
  const dora = await accounts.find('dora');
  assert.deepEqual(dora, {
    hasPassword: false,
    stamp: dora?.stamp,
    accountId: 'dora',
    name: 'dora',
    displayName: 'Dora',
    email: 'dora@example.com',
    windowsName: 'EXAMPLE\\dora',
    roles: ['Admin'],
    claims: { department: 'IT' },
    mustChangePassword: true,
    disabled: true,
  });
});

test('the proof of a password that must be changed is good while that password is', async (t) => {
  const { accounts } = await openAccounts(t);
  await accounts.add({ name: 'bob', password, mustChangePassword: true });
  const result = await accounts.verifyCredentials('bob', password);
  assert.ok(result.kind === 'must-change');
  await accounts.setPassword('bob', 'another-word', { mustChange: true });
  await assert.rejects(accounts.setPassword('bob', 'a-third-word', { instead: result.proof }), {
    code: 'ERR_FORM_EXPIRED',
  });
  const now = await accounts.verifyCredentials('bob', 'another-word');
  assert.ok(now.kind === 'must-change');
  await accounts.setPassword('bob', 'a-third-word', { instead: now.proof });
  assert.equal((await accounts.verifyCredentials('bob', 'a-third-word')).kind, 'accepted');
});

test('a demo account that is no good stops the seeding with its reason', async (t) => {
  const { accounts } = await openAccounts(t);
  await assert.rejects(accounts.seed([{ Name: 'bob' }, { Name: 'alice', Password: 'short' }]), {
    code: 'ERR_PASSWORD_UNACCEPTABLE',
  });
  assert.deepEqual(await accounts.list(), [], 'all or none');
});

test('claims are in the names of OpenID Connect, and none can stand in for "sub"', async (t) => {
  const { accounts } = await openAccounts(t);
  const plain = await accounts.add({ name: 'Plain' });
  const full = await accounts.add({
    name: 'EXAMPLE\\carol',
    displayName: 'Carol Example',
    email: 'carol@example.com',
    roles: ['Interviewer', 'Admin'],
    claims: {
      given_name: 'Carol',
      email_verified: 'true',
      phone_number_verified: 'false',
      address: '1 Main Street',
      group: ['a', 'b'],
    },
  });

  assert.deepEqual(toClaims(plain), { sub: 'Plain', name: 'Plain', preferred_username: 'Plain' });
  assert.deepEqual(toClaims(full), {
    sub: 'EXAMPLE\\carol',
    name: 'Carol Example',
    preferred_username: 'EXAMPLE\\carol',
    email: 'carol@example.com',
    email_verified: true,
    phone_number_verified: false,
    role: ['Interviewer', 'Admin'],
    given_name: 'Carol',
    address: { formatted: '1 Main Street' },
    group: ['a', 'b'],
  });
  const forged = {
    ...plain,
    email: 'p@example.com',
    claims: { sub: 'admin', iss: 'https://evil.example', name: 'P' },
  };
  assert.deepEqual(toClaims(forged), {
    sub: 'Plain',
    name: 'P',
    preferred_username: 'Plain',
    email: 'p@example.com',
    email_verified: false,
  });
});

test('the migration of the accounts can be undone', async (t) => {
  const { db } = await openAccounts(t);
  const { down, up } = await import('../../migrations/0002-accounts.ts');

  await down(db.knex);
  assert.equal(await db.knex.schema.hasTable('OidcUser'), false);
  await up(db.knex);
  assert.equal(await db.knex.schema.hasTable('OidcUser'), true);
});

test('the stamp of an account changes with its password and with being disabled, and tells nothing', async (t) => {
  const { accounts } = await openAccounts(t);
  const { stamp } = await accounts.add({ name: 'Alice', password });
  assert.equal(await accounts.isUnchanged('alice', stamp), true);
  const changed = await accounts.setPassword('Alice', 'Another-pass-1');
  assert.deepEqual([await accounts.isUnchanged('alice', stamp), changed.stamp === stamp], [false, false]);
  assert.equal(await accounts.isUnchanged('alice', changed.stamp), true);
  await accounts.setDisabled('alice', true);
  assert.equal(await accounts.isUnchanged('alice', changed.stamp), false);
  await accounts.setDisabled('alice', false);
  assert.equal(await accounts.isUnchanged('alice', changed.stamp), true);
  await accounts.remove('alice');
  assert.equal(await accounts.isUnchanged('alice', changed.stamp), false);
  assert.equal(await accounts.isUnchanged('nobody', stamp), false);
});

test('a hash of other parameters or of another program is made anew at a sign-in, and nothing ends by it', async (t) => {
  const { accounts, db, rows } = await openAccounts(t);
  const foreign = '{SSHA}K3S0KP8y/YQC2ZIbcaXvbAmy/WD/qcu8';
  await accounts.addAll([{ name: 'alice', passwordHash: foreign }]);
  const { stamp } = await accounts.get('alice');
  assert.equal((await accounts.verifyCredentials('alice', 'Pass-word-9')).kind, 'refused');
  assert.equal((await rows())[0]?.passwordHash, foreign);

  assert.equal((await accounts.verifyCredentials('alice', 'Grüße aus Köln 1')).kind, 'accepted');
  const [renewed] = await rows();
  assert.match(String(renewed?.passwordHash), /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  assert.equal((await accounts.get('alice')).stamp, stamp);
  assert.equal((await accounts.verifyCredentials('alice', 'Grüße aus Köln 1')).kind, 'accepted');
  assert.equal((await rows())[0]?.passwordHash, renewed?.passwordHash);

  const { settings } = createPasswords();
  const dearer = createAccounts({
    db: db.knex,
    now: () => startedAt,
    passwords: createPasswords({ ...settings, Argon2: { Memory: 8192, Passes: 5, Parallelism: 1 } }),
  });
  assert.equal((await dearer.verifyCredentials('alice', 'Grüße aus Köln 1')).kind, 'accepted');
  assert.match(String((await rows())[0]?.passwordHash), /m=8192,t=5,p=1/);
  assert.equal((await accounts.get('alice')).stamp, stamp);
  await accounts.setPassword('alice', 'Another-word-3');
  assert.notEqual((await accounts.get('alice')).stamp, stamp);
});

test('with a history the last passwords may not be chosen again, and without one nothing of them is kept', async (t) => {
  const { accounts: plain, db, rows } = await openAccounts(t);
  const { settings } = createPasswords();
  const cheap = { Memory: 7168, Passes: 1, Parallelism: 1 };
  const accounts = createAccounts({
    db: db.knex,
    now: () => startedAt,
    passwords: createPasswords({ ...settings, History: 2, Argon2: cheap }),
  });
  await accounts.add({ name: 'alice', password: 'First-word-1' });
  await accounts.setPassword('alice', 'Second-word-2');
  await accounts.setPassword('alice', 'Third-word-3');
  for (const used of ['Third-word-3', 'Second-word-2']) {
    await assert.rejects(accounts.setPassword('alice', used), {
      message: 'the password has been used before',
    });
  }
  await accounts.setPassword('alice', 'First-word-1');
  assert.equal((JSON.parse(String((await rows())[0]?.passwordHistory)) as string[]).length, 2);
  await plain.setPassword('alice', 'Third-word-3');
  assert.equal((await rows())[0]?.passwordHistory, null);
});

test('a new password that is common, or the account’s own name, is refused wherever it is set', async (t) => {
  const { accounts } = await openAccounts(t);
  await assert.rejects(accounts.add({ name: 'alice', password: 'password123' }), /commonest/);
  await assert.rejects(accounts.add({ name: 'alice.cooper', password: 'alice-cooper1' }), /little more than/);
  await accounts.add({ name: 'alice', password: 'Pass-word-1', mustChangePassword: true });
  await assert.rejects(accounts.setPassword('alice', 'iloveyou1'), /commonest/);
});
