/** What is PostgreSQL's own: schemas beside those of others, logins that may do little, and connection strings. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { createAccounts } from '../../src/accounts/accounts.ts';
import type { ServerError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { deleteExpired } from '../../src/store/cleanup.ts';
import { openDatabase, writeMigrationScript } from '../../src/store/database.ts';
import { migrationNames } from '../../src/store/migrate.ts';
import { toPostgresqlConnection } from '../../src/store/postgresql.ts';
import { createTokens } from '../../src/store/tokens.ts';
import { createSchema, openTarget } from '../support/databases.ts';
import { requirePostgres } from '../support/requirements.ts';

const now = () => 1000;
const log = createLogger({ level: 'silent', format: 'json' });

function createTarget(t: TestContext) {
  return createSchema(t, { client: 'postgresql', connection: requirePostgres(t) });
}

test('another product’s table of our name in its own schema is found as it was', async (t) => {
  const target = await createTarget(t);
  const other = await createTarget(t);
  const db = await openTarget(t, target);
  await db.knex.raw(`create schema "${other.schema}"`);
  const theirs = `"${other.schema}"."OidcToken"`;
  await db.knex.raw(`create table ${theirs} ("Key" varchar(128), "JsonCode" text)`);
  await db.knex.raw(`insert into ${theirs} values ('k', 'v')`);
  const look = async () =>
    (await db.knex.raw(`select xmin::text, ctid::text, t.* from ${theirs} t`)).rows as unknown[];
  const before = await look();

  // Where everybody else would look first.
  await db.knex.raw(`set search_path to "${other.schema}"`);
  assert.deepEqual(await db.migrate(), migrationNames);
  const tokens = createTokens({ db, now });
  const row = { grantId: null, uid: null, userCode: null, accountId: 'a', clientId: 'c' };
  await tokens.insert({ ...row, id: 'x'.repeat(43), model: 'AccessToken', payload: '{}', expiresAt: 999 });
  await tokens.revokeAccount('b');
  assert.equal(await deleteExpired(db, 1000), 1);
  assert.deepEqual(await look(), before);

  await assert.rejects((await openTarget(t, { ...target, schema: other.schema })).migrate(), {
    code: 'ERR_FOREIGN_TABLE',
    message: /Key, JsonCode/,
  });
  assert.deepEqual(await look(), before);
});

test('a login that may only read and write rows is enough, once the script has been run', async (t) => {
  const target = await createTarget(t);
  const admin = await openTarget(t, target);
  const login = `login_${randomBytes(4).toString('hex')}`;
  await admin.knex.raw(`create role ${login} login password 'p'`);
  t.after(async () => {
    await using db = await openDatabase({ ...target, log, now });
    await db.knex.raw(`drop owned by ${login} cascade`);
    await db.knex.raw(`drop role ${login}`);
  });
  const url = new URL(target.connection);
  url.username = login;
  url.password = 'p';
  const db = await openTarget(t, { ...target, connection: url.href });
  await assert.rejects(db.migrate(), (err: ServerError) => {
    assert.equal(err.code, 'ERR_SCHEMA_BEHIND');
    assert.match(`${err.message} ${err.hint}`, /0001-tokens.*migrate --script/);
    return true;
  });

  await admin.knex.raw(
    await writeMigrationScript(target, { names: migrationNames, grantTo: login, now: 1000 }),
  );
  assert.deepEqual(await db.migrate(), []);
  const accounts = createAccounts({ db: db.knex, now });
  await accounts.add({ name: 'Alice', password: 'Pass-word-1' });
  assert.equal((await accounts.verifyCredentials('ALICE', 'Pass-word-1')).kind, 'accepted');
  await accounts.remove('alice');
  await assert.rejects(db.knex.raw(`drop table "${target.schema}"."OidcToken"`));
});

test('of several that migrate one database at once each migration is applied by one', async (t) => {
  const target = await createTarget(t);
  const databases = await Promise.all([1, 2, 3, 4].map(() => openTarget(t, target)));
  const applied = await Promise.all(databases.map((db) => db.migrate()));
  assert.deepEqual(applied.flat().sort(), migrationNames);
});

test('a deadlock’s victim is sent again, and both statements win in the end', async (t) => {
  const target = await createTarget(t);
  const db = await openTarget(t, target);
  await db.migrate();
  const accounts = createAccounts({ db: db.knex, now });
  await accounts.add({ name: 'a' });
  await accounts.add({ name: 'b' });
  const table = `"${target.schema}"."OidcUser"`;
  // Each takes its first row, waits, and wants the other's.
  const cross = (first: string, second: string) =>
    db.knex.raw(
      `do $$ begin update ${table} set "updatedAt" = "updatedAt" + 1 where "name" = '${first}'; perform pg_sleep(0.3);
       update ${table} set "updatedAt" = "updatedAt" + 1 where "name" = '${second}'; end $$`,
    );
  await Promise.all([cross('a', 'b'), cross('b', 'a')]);
  const rows = await db.knex('OidcUser').select('updatedAt');
  assert.deepEqual(
    rows.map(({ updatedAt }) => Number(updatedAt)),
    [1002, 1002],
  );
});

test('connections go over TLS with a verified certificate, but on this machine', () => {
  const read = (url: string) => toPostgresqlConnection(url, { caFile: undefined, timeoutMs: 5000 });
  assert.deepEqual((read('postgresql://u:p%40w@db.example.com/x') as { ssl: unknown }).ssl, {
    rejectUnauthorized: true,
  });
  const { database, host, password, port, ssl } = read('postgres://u:p%40w@localhost:5433/x%20y') as Record<
    string,
    unknown
  >;
  assert.deepEqual([host, port, database, password, ssl], ['localhost', 5433, 'x y', 'p@w', false]);
  for (const [url, expected] of [
    ['postgresql://u:secret@db.example.com/x?sslmode=require', /only verify-full/],
    ['postgresql://u:secret@db.example.com/x?sslmode=disable', /only verify-full/],
    ['postgresql://u:secret@db.example.com/x?options=-c', /has the parameter options/],
    ['postgresql://u:secret@db.example.com/', /is no URL/],
    ['host=db user=u password=secret', /is no URL/],
    ['postgresql://u:secret@localhost/x?sslmode=require', /only verify-full/],
    ['postgresql://u:secret@db1,db2/x', /is no URL|several hosts/],
    ['postgresql://u:secret%@localhost/x', /%25/],
  ] as const) {
    assert.throws(
      () => read(url),
      (err: Error) => expected.test(err.message) && !err.message.includes('secret'),
    );
  }
});
