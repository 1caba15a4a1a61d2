/** The way of a database through the versions: old rows are kept and read, and what is not ours is left alone. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createAccounts } from '../../src/accounts/accounts.ts';
import { createLogger } from '../../src/log.ts';
import { openDatabase } from '../../src/store/database.ts';
import { migrationNames } from '../../src/store/migrate.ts';
import { createTokenAdapter } from '../../src/store/token-adapter.ts';
import { createTokens, hashValue } from '../../src/store/tokens.ts';

const now = () => 1000;

function openFile(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'postern-migrations-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'test.sqlite');
  return () =>
    openDatabase({ client: 'sqlite', file, log: createLogger({ level: 'silent', format: 'json' }), now });
}

/** The tables and rows as version 0.1.0-dev of migrations 1 and 2 wrote them, in its own words. */
const firstTables = `
  create table OidcMigration (name varchar(100) not null primary key, appliedAt bigint not null);
  insert into OidcMigration values ('0001-tokens', 900), ('0002-accounts', 900);
  create table OidcToken (id char(43) not null primary key, model varchar(64) not null, payload text not null,
    grantId char(43), uid varchar(64), userCode varchar(64), accountId varchar(255), clientId varchar(255),
    expiresAt bigint not null, consumedAt bigint, version integer not null default 0);
${['grantId', 'uid', 'userCode', 'accountId', 'clientId', 'expiresAt']
  .map((column) => `  create index oidctoken_${column.toLowerCase()}_index on OidcToken (${column});`)
  .join('\n')}
  create table OidcUser (normalizedName varchar(255) not null primary key, name varchar(255), displayName varchar(255),
    email varchar(320), passwordHash varchar(255), claims text, roles text, windowsName varchar(255),
    normalizedWindowsName varchar(255), disabled boolean not null, mustChangePassword boolean not null,
    createdAt bigint not null, updatedAt bigint not null, removedAt bigint);
  insert into OidcToken values ('${hashValue('old')}', 'RefreshToken', '{"clientId":"mvc","scope":"openid"}', null, null,
    null, 'alice', 'mvc', 2000, null, 0);
  insert into OidcUser values ('alice', 'Alice', null, null, null, '{}', '[]', null, null, 0, 0, 900, 900, null);
`;

const later = migrationNames.slice(2);

test('rows that an earlier version wrote are read by this one', async (t) => {
  const open = openFile(t);
  {
    await using db = await open();
    for (const statement of firstTables.split(';\n').filter((text) => text.trim() !== '')) {
      await db.knex.raw(statement);
    }
  }

  await using db = await open();
  assert.deepEqual(await db.pendingMigrations(), later);
  assert.deepEqual(await db.migrate(), later);

  const adapter = createTokenAdapter({
    tokens: createTokens({ db, now }),
    now,
    refreshGraceSeconds: () => 0,
  });
  const found = await adapter('RefreshToken').find('old');
  assert.deepEqual([found?.clientId, found?.scope, found?.exp], ['mvc', 'openid', 2000]);
  assert.equal((await createAccounts({ db: db.knex, now }).find('ALICE'))?.name, 'Alice');
});

test('a table of our name that we did not make stops the start with its columns named, and stays as it is', async (t) => {
  const open = openFile(t);
  await using db = await open();
  await db.knex.raw('create table OidcToken ("Key" nvarchar(128), JsonCode text)');
  await db.knex.raw("insert into OidcToken values ('k', 'v')");

  await assert.rejects(db.migrate(), (err: { code: string; message: string }) => {
    assert.equal(err.code, 'ERR_FOREIGN_TABLE');
    assert.match(err.message, /Key, JsonCode/);
    return true;
  });

  const [row] = await db.knex('OidcToken').select();
  assert.deepEqual({ ...row }, { Key: 'k', JsonCode: 'v' });
  assert.equal(await db.knex.schema.hasTable('OidcUser'), false);
});

test('a database that a newer version has migrated is refused', async (t) => {
  const open = openFile(t);
  await using db = await open();
  await db.migrate();
  await db.knex('OidcMigration').insert({ name: '0999-tomorrow', appliedAt: 1 });
  await assert.rejects(db.migrate(), { code: 'ERR_SCHEMA_NEWER' });
});

test('of several that migrate one database at once each migration is applied by one', async (t) => {
  const open = openFile(t);
  const databases = await Promise.all([open(), open(), open()]);
  try {
    const applied = await Promise.all(databases.map((db) => db.migrate()));
    assert.deepEqual(applied.flat().sort(), migrationNames);
  } finally {
    for (const db of databases) await db[Symbol.asyncDispose]();
  }
});
