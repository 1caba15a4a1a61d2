/**
 * What SQL Server gets to see, without a server: every statement of the program as text, in
 * sqlserver-statements.sql. Whoever changes one reads it there: is it Transact-SQL, does it use an index, does it
 * decide a race by itself?
 *
 *   UPDATE_STATEMENTS=1 node --test test/store/sqlserver.test.ts     writes the file anew
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import knexFactory, { type Knex } from 'knex';
import { createAccounts } from '../../src/accounts/accounts.ts';
import { createExternalLogins } from '../../src/accounts/external-logins.ts';
import { ServerError } from '../../src/errors.ts';
import { deleteExpired } from '../../src/store/cleanup.ts';
import { toKnexConfig, writeMigrationScript } from '../../src/store/database.ts';
import { migrationNames } from '../../src/store/migrate.ts';
import { SqlServerClient, toSqlServerConnection } from '../../src/store/sqlserver.ts';
import { createTokens } from '../../src/store/tokens.ts';

const target = {
  client: 'sqlserver',
  connection: 'Server=db.example.com;Database=surveys;User Id=postern;Password=p',
  schema: 'postern',
  poolSize: 1,
  timeoutMs: 1000,
} as const;
const statementsFile = join(import.meta.dirname, 'sqlserver-statements.sql');

type Columns = Readonly<Record<string, unknown>>;

/** knex over SQL Server's dialect that sends nothing: it notes each statement and answers with `rows` where one selects. */
async function record(rows: (sql: string) => readonly Columns[]) {
  const statements: string[] = [];
  class Recorder extends SqlServerClient {
    override async acquireConnection(): Promise<unknown> {
      return {};
    }
    async releaseConnection(): Promise<void> {}
    override async _query(_connection: unknown, statement: { sql: string; response?: unknown }) {
      statements.push(statement.sql);
      const isSelect = statement.sql.startsWith('select');
      const answer = isSelect ? rows(statement.sql) : [{ '': 1 }];
      statement.response = answer.map((row) =>
        Object.entries(row).map(([colName, value]) => ({ metadata: { colName }, value })),
      );
      return statement;
    }
  }
  const config = await toKnexConfig(target);
  const knex = knexFactory({ ...config, client: Recorder as unknown as typeof Knex.Client });
  return { knex, statements };
}

async function writeStatements(): Promise<string> {
  const parts: string[] = [];
  const section = (title: string, statements: readonly string[]) => {
    parts.push(`-- ${title}\n`, ...[...new Set(statements)].map((sql) => `${sql};\n`), '\n');
  };
  const { knex } = await record(() => []);
  section('migrations', [
    await writeMigrationScript(target, { names: migrationNames, grantTo: 'postern', now: 1 }),
  ]);

  const prepared: string[] = [];
  createTokens({
    now: () => 1,
    db: {
      prepare(build) {
        prepared.push(
          build(knex, (name) => `:${name}`)
            .toSQL()
            .toNative().sql,
        );
        return async () => ({ rows: [], count: 0 });
      },
    },
  });
  section('tokens', prepared);

  const cleanup = await record(() => []);
  await deleteExpired({ knex: cleanup.knex }, 1);
  section('cleanup', cleanup.statements);

  const alice = {
    normalizedName: 'alice',
    name: 'alice',
    claims: '{}',
    roles: '[]',
    passwordHash: 'x',
    disabled: false,
    mustChangePassword: false,
    removedAt: null,
  };
  const users = await record((sql) =>
    sql.includes('[windowsName]') || /whereNot|<>|not \[/.test(sql) ? [] : [alice],
  );
  const accounts = createAccounts({ db: users.knex, now: () => 1 });
  await accounts.find('alice');
  await accounts.findByWindowsName('EXAMPLE\\alice');
  await accounts.isUnchanged('alice', '');
  await accounts.verifyCredentials('alice', 'Pass-word-1');
  await accounts.add({ name: 'EXAMPLE\\bob', password: 'Pass-word-1' });
  await accounts.setPassword('alice', 'Pass-word-2');
  await accounts.setDisabled('alice', true);
  await accounts.follow(await accounts.get('alice'), { displayName: 'A', email: undefined, roles: ['x'] });
  await accounts.remove('alice');
  await accounts.list();
  const empty = await record(() => []);
  await createAccounts({ db: empty.knex, now: () => 1 }).seed([{ Name: 'a' }, { Name: 'b' }]);
  section('accounts', [...users.statements, ...empty.statements]);

  const identity = {
    issuer: 'urn:x',
    subject: 's',
    claims: new Map([['windowsaccountname', ['alice']]]),
  };
  const source = {
    Name: 'X',
    Type: 'WsFed',
    UserNameClaims: ['windowsaccountname'],
    AllowedAccounts: [],
    Domains: [],
    ProvisionAccounts: false,
    ClaimMapping: {},
  } as const;
  const rules = { isReserved: () => false, isProvider: () => false };
  const unlinked = (subject: string) =>
    record((sql) =>
      sql.includes('[OidcUserLogin]')
        ? sql.includes('[provider]')
          ? []
          : [{ id: 'i', issuer: 'urn:x', subject }]
        : [alice],
    );
  const [first, taken] = [await unlinked('name\nalice'), await unlinked('somebody else')];
  const later = await record((sql) =>
    sql.includes('[OidcUserLogin]') ? [{ normalizedName: 'alice', provider: 'Old' }] : [alice],
  );
  for (const { knex: db } of [first, taken, later]) {
    const logins = createExternalLogins({ accounts: createAccounts({ db, now: () => 1 }), db, now: () => 1 });
    await logins.resolve(source, identity, rules);
    await logins.findLinked(identity);
    await logins.findLinks('alice');
    await logins.noteChecked(identity);
    await logins.unlink('alice');
  }
  const links = [first, taken, later]
    .flatMap(({ statements }) => statements)
    .filter((sql) => sql.includes('[OidcUserLogin]'));
  section('links to identities elsewhere', links);
  return parts.join('');
}

test('every statement is the one that was read against the documentation of SQL Server', async () => {
  const written = await writeStatements();
  if (process.env.UPDATE_STATEMENTS === '1') writeFileSync(statementsFile, written);
  assert.equal(written, readFileSync(statementsFile, 'utf8'));
});

test('every statement names its tables with the schema, and limits by top', async () => {
  const written = await writeStatements();
  assert.doesNotMatch(written, /(?<!\[postern\]\.)\[Oidc(Token|User|UserLogin|Migration)\]/);
  assert.doesNotMatch(written, /\blimit\b|on conflict|returning/i);
});

test('ASCII text goes as varchar, so that the keys of an index need no conversion', async () => {
  const { knex } = await record(() => []);
  const client = knex.client as SqlServerClient;
  const typeOf = (binding: unknown) => (client._typeForBinding(binding)[1] as { name: string }).name;
  assert.deepEqual(['abc', 'Grüße', 7, null].map(typeOf), ['VarChar', 'NVarChar', 'Int', 'NVarChar']);
});

test('a connection string of ADO.NET becomes what the driver takes, encrypted and verified', async () => {
  const read = (text: string) => toSqlServerConnection(text, { caFile: undefined, timeoutMs: 5000 });
  const whole = (await read(
    'Server=tcp:db.example.com,1444;Initial Catalog=mrInterviewData;User Id=postern;Password="a;b";MultiSubnetFailover=True',
  )) as Record<string, unknown> & { options: Record<string, unknown> };
  assert.deepEqual(
    [whole.server, whole.port, whole.database, whole.user, whole.password, whole.type],
    ['db.example.com', 1444, 'mrInterviewData', 'postern', 'a;b', 'default'],
  );
  assert.deepEqual(
    [whole.options.encrypt, whole.options.trustServerCertificate, whole.options.multiSubnetFailover],
    [true, false, true],
  );
  const instance = (await read('Data Source=SQL1\\INST;Database=x;Uid=u;Pwd=p')) as {
    options: Record<string, unknown>;
  };
  assert.equal(instance.options.instanceName, 'INST');
  const ntlm = (await read('Server=db;Database=x;User Id=EXAMPLE\\svc;Password=p')) as Record<
    string,
    unknown
  >;
  assert.deepEqual([ntlm.type, ntlm.domain, ntlm.user], ['ntlm', 'EXAMPLE', 'svc']);

  for (const [text, expected] of [
    ['Server=db;Database=x;Integrated Security=SSPI', /integrated security/],
    ['Server=db;Database=x;Trusted_Connection=yes', /integrated security/],
    ['Server=db;Database=x;User Id=u;Password=p;Encrypt=false', /turns encryption/],
    ['Server=db;Database=x;User Id=u;Password=p;TrustServerCertificate=true', /turns encryption/],
    ['Server=db;Database=x;Authentication=Active Directory Service Principal', /does not have/],
    ['Server=db;User Id=u;Password=p', /no Server or no Database/],
    ['nonsense', /cannot be read|no Server/],
  ] as const) {
    await assert.rejects(read(text), (err: unknown) => {
      assert.ok(err instanceof ServerError);
      assert.match(err.message, expected, text);
      assert.doesNotMatch(`${err.message} ${err.hint}`, /Password=p|=u;/);
      return true;
    });
  }
});
