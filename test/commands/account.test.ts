import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createAccounts } from '../../src/accounts/accounts.ts';
import { createGuessing, guessingKey } from '../../src/accounts/guessing.ts';
import { loadKeys } from '../../src/keys/keys.ts';
import { createLogger } from '../../src/log.ts';
import { openDatabase } from '../../src/store/database.ts';
import { migrationNames } from '../../src/store/migrate.ts';
import { createTokens, hashValue } from '../../src/store/tokens.ts';
import { basic, post } from '../support/sign-in.ts';
import { install } from './postern.ts';

const password = 'Another-word-2';
const now = () => Math.floor(Date.now() / 1000);

/** An installation whose database is up to date, and the database itself. */
async function installMigrated(t: TestContext) {
  const installation = await install(t);
  const { code, stdout } = await installation.run(['migrate']);
  assert.equal(code, 0);
  const log = createLogger({ level: 'silent', format: 'json' });
  const file = join(installation.folder, 'data', 'postern.sqlite');
  const db = await openDatabase({ client: 'sqlite', file, log, now });
  t.after(() => db[Symbol.asyncDispose]());
  const tokens = createTokens({ db, now });
  return {
    ...installation,
    migrated: stdout,
    db,
    accounts: createAccounts({ db: db.knex, now }),
    /** Stores a session of the account. */
    async signIn(accountId: string) {
      await tokens.insert({
        id: hashValue(`session of ${accountId}`),
        model: 'Session',
        payload: '{}',
        grantId: null,
        uid: null,
        userCode: null,
        accountId,
        clientId: null,
        expiresAt: now() + 3600,
      });
    },
    isSignedIn: async (accountId: string) =>
      (await tokens.find('Session', `session of ${accountId}`)) !== undefined,
  };
}

test('migrate makes the tables with the demo accounts, once, and --plan only tells', async (t) => {
  const { run } = await install(t);

  const plan = await run(['migrate', '--plan']);
  assert.deepEqual([plan.code, plan.stdout], [0, migrationNames.map((name) => `${name}\n`).join('')]);
  assert.equal((await run(['migrate', '--plan'])).stdout, plan.stdout);

  const first = await run(['migrate']);
  assert.match(
    first.stdout,
    new RegExp(
      `^${migrationNames.map((name) => `applied ${name}\n`).join('')}added the demo accounts .*alice.*\n$`,
    ),
  );
  assert.equal((await run(['migrate'])).stdout, 'nothing to migrate\n');
  assert.equal((await run(['migrate', '--plan'])).stdout, 'nothing to migrate\n');
});

test('a command that needs the tables says how to make them', async (t) => {
  const { run } = await install(t);

  for (const args of [['account', 'list'], ['cleanup']]) {
    const { code, stderr } = await run(args);
    assert.equal(code, 78);
    assert.match(
      stderr,
      new RegExp(`lacks the migrations ${migrationNames.join(', ')}\n {2}run "postern migrate"`),
    );
  }
});

test('cleanup deletes what has expired and leaves the rest', async (t) => {
  const { run, db, signIn, isSignedIn } = await installMigrated(t);
  await signIn('alice');
  await signIn('bob');
  await db
    .knex('OidcToken')
    .where({ accountId: 'bob' })
    .update({ expiresAt: now() - 1 });

  const { code, stdout } = await run(['cleanup']);

  assert.deepEqual([code, stdout], [0, 'deleted 1 expired row\n']);
  assert.equal(await isSignedIn('alice'), true);
  assert.equal((await db.knex('OidcToken')).length, 1);
});

test('an account is added with the first line of standard input as its password', async (t) => {
  const { run, accounts } = await installMigrated(t);

  const added = await run(
    [
      ...['account', 'add', 'Pat', '--display-name', 'Pat Example', '--email', 'pat@example.com'],
      ...['--role', 'Admin', '--role', 'Interviewer', '--claim', 'department=IT', '--claim', 'group=a=b'],
      ...['--claim', 'group=c', '--windows-name', 'EXAMPLE\\pat', '--must-change'],
    ],
    { input: `${password}\nmore\n` },
  );

  assert.deepEqual(added, { code: 0, stdout: 'added Pat\n', stderr: '' });
  const verified = await accounts.verifyCredentials('pat', password);
  assert.deepEqual(
    { ...verified, proof: undefined },
    {
      kind: 'must-change',
      proof: undefined,
      account: {
        accountId: 'Pat',
        name: 'Pat',
        displayName: 'Pat Example',
        email: 'pat@example.com',
        roles: ['Admin', 'Interviewer'],
        claims: { department: 'IT', group: ['a=b', 'c'] },
        windowsName: 'EXAMPLE\\pat',
        disabled: false,
        mustChangePassword: true,
        hasPassword: true,
        stamp: verified.kind === 'refused' ? '' : verified.account.stamp,
      },
    },
  );
});

test('an account without a password is added without asking for one', async (t) => {
  const { run, accounts } = await installMigrated(t);

  assert.equal((await run(['account', 'add', 'EXAMPLE\\pat', '--no-password'])).code, 0);
  assert.deepEqual(await accounts.verifyCredentials('EXAMPLE\\pat', password), {
    kind: 'refused',
    reason: 'no-password',
    accountId: 'EXAMPLE\\pat',
  });
});

test('an account that cannot be added is told with its code, and nothing is stored', async (t) => {
  const { run, accounts } = await installMigrated(t);
  const before = await accounts.list();
  for (const [args, input, exitCode, reason] of [
    [['ALICE'], `${password}\n`, 1, /ERR_ACCOUNT_EXISTS/],
    [['Zo\u00eb'], `${password}\n`, 1, /ERR_ACCOUNT_NAME_INVALID/],
    [['pat'], 'short\n', 1, /ERR_PASSWORD_UNACCEPTABLE/],
    [['pat', '--email', 'nobody'], `${password}\n`, 1, /ERR_REQUEST_INVALID/],
    [['pat'], '', 64, /standard input ended/],
    [['pat'], '\n', 64, /nothing was given/],
  ] as const) {
    const { code, stdout, stderr } = await run(['account', 'add', ...args], { input });
    assert.deepEqual([code, stdout], [exitCode, ''], stderr);
    assert.match(stderr, reason);
    assert.doesNotMatch(stderr, new RegExp(password));
  }
  assert.deepEqual(await accounts.list(), before);
});

test('a changed password ends what was signed in with the old one, for that account only', async (t) => {
  const { run, accounts, signIn, isSignedIn } = await installMigrated(t);
  await signIn('alice');
  await signIn('bob');

  const { code, stdout } = await run(['account', 'passwd', 'ALICE'], { input: password });

  assert.deepEqual(
    [code, stdout],
    [0, 'changed the password of alice, and ended its sessions and grants (1 rows)\n'],
  );
  assert.equal((await accounts.verifyCredentials('alice', password)).kind, 'accepted');
  assert.deepEqual([await isSignedIn('alice'), await isSignedIn('bob')], [false, true]);

  assert.equal((await run(['account', 'passwd', 'alice', '--must-change'], { input: password })).code, 0);
  assert.equal((await accounts.verifyCredentials('alice', password)).kind, 'must-change');
});

test('a disabled account is signed out, and may be enabled again', async (t) => {
  const { run, accounts, signIn, isSignedIn } = await installMigrated(t);
  await signIn('alice');

  assert.equal((await run(['account', 'disable', 'Alice'])).code, 0);
  assert.equal((await accounts.find('alice'))?.disabled, true);
  assert.equal(await isSignedIn('alice'), false);
  assert.match((await run(['account', 'list'])).stdout, /^alice .*disabled$/m);

  assert.deepEqual((await run(['account', 'enable', 'alice'])).stdout, 'enabled alice\n');
  assert.equal((await accounts.find('alice'))?.disabled, false);
});

test('a removed account is signed out, and its name is not given away again', async (t) => {
  const { run, accounts, signIn, isSignedIn } = await installMigrated(t);
  await signIn('alice');

  assert.equal((await run(['account', 'remove', 'Alice', '--yes'])).code, 0);

  assert.equal(await accounts.find('alice'), undefined);
  assert.equal(await isSignedIn('alice'), false);
  assert.doesNotMatch((await run(['account', 'list'])).stdout, /alice/);
  const again = await run(['account', 'add', 'alice'], { input: password });
  assert.equal(again.code, 1);
  assert.match(again.stderr, /ERR_ACCOUNT_REMOVED/);
});

test('an account that is not there is told with its code', async (t) => {
  const { run } = await installMigrated(t);
  for (const command of ['passwd', 'disable', 'enable', 'remove']) {
    const { code, stderr } = await run(['account', command, 'nobody'], { input: password });
    assert.equal(code, 1);
    assert.match(stderr, /there is no account "nobody" \(ERR_ACCOUNT_UNKNOWN\)/);
  }
});

test('the list is for people, and with --json for programs, and holds no password hash', async (t) => {
  const { run } = await installMigrated(t);

  const forPeople = await run(['account', 'list']);
  const forPrograms = await run(['account', 'list', '--json']);

  assert.match(forPeople.stdout, /^alice .*alice@example\.com/m);
  const accounts = JSON.parse(forPrograms.stdout) as { name: string }[];
  assert.ok(accounts.some(({ name }) => name === 'EXAMPLE\\carol'));
  assert.doesNotMatch(forPeople.stdout + forPrograms.stdout, /argon2/);
});

const aspNet = 'AQAAAAIAAAAyAAAAEOMwvh3+FZxqkdMBz2ekgGhwQ4B6pZWND6zgESBuWiHw';

test('account import takes a file of another program, and its users sign in with their passwords', async (t) => {
  const { accounts, folder, run } = await installMigrated(t);
  const file = join(folder, 'users.jsonl');
  const lines = [
    { name: 'dora', hash: aspNet, displayName: 'Dora', email: 'dora@example.com', roles: ['Admin'] },
    { name: 'EXAMPLE\\emil', claims: { department: 'x', team: ['a', 'b'] }, disabled: true },
  ];
  writeFileSync(file, `\ufeff${lines.map((line) => JSON.stringify(line)).join('\r\n')}\r\n\r\n`);

  const trial = await run(['account', 'import', file, '--dry-run']);
  assert.deepEqual([trial.code, trial.stdout], [0, '2 accounts could be imported\n']);
  assert.equal(await accounts.find('dora'), undefined);
  const { code, stdout } = await run(['account', 'import', file]);
  assert.deepEqual([code, stdout], [0, 'imported 2 accounts\n']);
  assert.equal((await accounts.verifyCredentials('dora', 'my password')).kind, 'accepted');
  assert.deepEqual((await accounts.get('dora')).roles, ['Admin']);
  const emil = await accounts.get('EXAMPLE\\emil');
  assert.deepEqual([emil.claims, emil.disabled], [{ department: 'x', team: ['a', 'b'] }, true]);

  const csv = join(folder, 'users.csv');
  writeFileSync(
    csv,
    `name,hash,displayName,roles,claim:department,mustChangePassword\r\nfritz,${aspNet},"Fritz ""F"", the\nfirst",Admin; User,"a,b",true\r\ngusta,,,,,\r\n`,
  );
  assert.equal((await run(['account', 'import', csv])).stdout, 'imported 2 accounts\n');
  const fritz = await accounts.get('fritz');
  assert.deepEqual(
    [fritz.displayName, fritz.roles, fritz.claims, fritz.mustChangePassword],
    ['Fritz "F", the\nfirst', ['Admin', 'User'], { department: 'a,b' }, true],
  );
  assert.equal((await accounts.get('gusta')).hasPassword, false);
});

test('account import says of a field of many megabytes what is wrong with it', async (t) => {
  const { folder, run } = await installMigrated(t);
  const file = join(folder, 'users.csv');
  writeFileSync(file, `name,displayName\ndora,"${'""x'.repeat(5_000_000)}"\n`);
  const { code, stderr } = await run(['account', 'import', file]);
  assert.equal(code, 1);
  assert.match(stderr, /users\.csv:2: the display name .{1,60} is longer than 255 characters/);
});

test('account import names every line that is wrong, shows no hash, and imports nothing', async (t) => {
  const { accounts, folder, run } = await installMigrated(t);
  const file = join(folder, 'users.jsonl');
  const unknownHash = '$1$abcdefgh$KZ5bA7lWgbOkXeDDwwXTe/';
  writeFileSync(
    file,
    [
      { name: 'dora', hash: aspNet },
      { name: 'emil', hash: unknownHash },
      { name: 'fritz', password: 'x' },
      { name: 'ALICE' },
      { name: 'Dora' },
      { name: 'gus.' },
      { hash: aspNet },
    ]
      .map((line) => JSON.stringify(line))
      .concat(`{"name": "hans", "hash": "${unknownHash}`)
      .join('\n'),
  );
  const { code, stderr } = await run(['account', 'import', file]);
  assert.equal(code, 1);
  const named = stderr.split('\n').filter((line) => line.startsWith(file));
  assert.deepEqual(
    named.map((line) => line.slice(file.length + 1)),
    [
      '2: the hash of the password is of no kind that is known',
      '3: Unrecognized key: "password"',
      '4: the account "ALICE" is there already',
      '5: the account "Dora" comes twice',
      '6: the account name "gus." ends with a dot or a space',
      '7: name: Invalid input: expected string, received undefined',
      '8: is no JSON object',
    ],
  );
  assert.match(stderr, /nothing was imported/);
  assert.ok(!stderr.includes(unknownHash) && !stderr.includes(aspNet));
  assert.equal(await accounts.find('dora'), undefined);

  const csv = join(folder, 'users.csv');
  writeFileSync(csv, 'name,disabled\nida,perhaps\njana\n"kim"x,true\n');
  const second = await run(['account', 'import', csv]);
  assert.match(second.stderr, /users\.csv:2: disabled: Invalid input/);
  assert.match(second.stderr, /users\.csv:3: has 1 fields, and the header has 2/);
  assert.match(second.stderr, /users\.csv:4: has a quotation mark in a wrong place/);
});

test('account unlock forgets what has been counted for a name, however it is written', async (t) => {
  const { db, run } = await installMigrated(t);
  const folder = join(dirname(String(db.knex.client.config.connection.filename)), 'keys');
  const keys = await loadKeys({ kind: 'generated', folder });
  const log = createLogger({ level: 'silent', format: 'json' });
  using guessing = createGuessing({
    db,
    log,
    now,
    key: keys.deriveKey(guessingKey),
    hasDomains: false,
    isExempt: () => false,
  });
  for (let round = 0; round < 5; round += 1)
    await guessing.begin('account', 'alice', { address: '192.0.2.1' }).fail();
  assert.equal(
    (await guessing.begin('account', 'alice', { address: '192.0.2.1' }).succeed())?.counter,
    'pair',
  );

  assert.equal((await run(['account', 'unlock', 'ALICE'])).stdout, 'unlocked alice\n');
  assert.equal(await guessing.begin('account', 'alice', { address: '192.0.2.1' }).succeed(), undefined);
  assert.equal((await db.knex('OidcGuess').select()).length, 3);
  assert.match((await run(['account', 'unlock', 'alice'])).stdout, /no wrong password has been counted/);
  assert.equal((await run(['account', 'unlock', 'nobody'])).code, 1);
});

test('account unlock ends a wait at a server whose keys are managed, too', async (t) => {
  const { folder, issuer, run, spawn } = await install(t, {
    server: {
      ManagedKeys: {},
      DataProtectionKey: { plain: 'a secret of more than 32 characters, for tests' },
    },
  });
  await spawn(['start']).waitFor(/Try next\n/);
  const sign = (secret: string) =>
    post(
      `${issuer}/connect/token`,
      { grant_type: 'password', username: 'alice', password: secret, scope: 'openid' },
      basic('desk', 'desk-secret'),
    );
  const file = join(folder, 'data', 'postern.sqlite');
  const log = createLogger({ level: 'silent', format: 'json' });
  await using db = await openDatabase({ client: 'sqlite', file, log, now });
  for (let guess = 0; guess < 5; guess += 1) assert.equal((await sign(`wrong-${guess}`)).status, 400);
  // Its own delay would be over in a second; the server asks the database again after two.
  await db.knex('OidcGuess').update({ openAt: now() + 600, delaySeconds: 600 });
  assert.ok((await sign('Pass-word-1')).headers.has('retry-after'));
  assert.equal((await run(['account', 'unlock', 'alice'])).stdout, 'unlocked alice\n');
  let answer = await sign('Pass-word-1');
  for (let attempt = 0; attempt < 50 && answer.status !== 200; attempt += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    answer = await sign('Pass-word-1');
  }
  assert.equal(answer.status, 200);
});
