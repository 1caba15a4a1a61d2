/**
 * What SQL Server gets to see, without a server: every statement of the program as text, in
 * sqlserver-statements.sql. Whoever changes one reads it there: is it Transact-SQL, does it use an index, does it
 * decide a race by itself?
 *
 *   UPDATE_STATEMENTS=1 node --test test/store/sqlserver.test.ts     writes the file anew
 */
import assert from 'node:assert/strict';
import type { EventEmitter } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import knexFactory, { type Knex } from 'knex';
import { createAccounts } from '../../src/accounts/accounts.ts';
import { createExternalLogins } from '../../src/accounts/external-logins.ts';
import { createGuessing } from '../../src/accounts/guessing.ts';
import { createAudit } from '../../src/audit.ts';
import { ServerError } from '../../src/errors.ts';
import { createKeyStore } from '../../src/keys/key-store.ts';
import { createLogger } from '../../src/log.ts';
import { deleteExpired } from '../../src/store/cleanup.ts';
import { type Database, toKnexConfig, writeMigrationScript } from '../../src/store/database.ts';
import { isUniqueViolation } from '../../src/store/failures.ts';
import { createLastUses } from '../../src/store/last-use.ts';
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

  const note = (prepared: string[]): Pick<Database, 'prepare'> => ({
    prepare(build) {
      prepared.push(
        build(knex, (name) => `:${name}`)
          .toSQL()
          .toNative().sql,
      );
      return async () => ({ rows: [], count: 0 });
    },
  });
  const [ofTokens, ofLastUses]: [string[], string[]] = [[], []];
  createTokens({ now: () => 1, db: note(ofTokens) });
  section('tokens', ofTokens);
  createLastUses({ db: note(ofLastUses) });
  section('last uses', ofLastUses);

  const counts = await record(() => []);
  const ofGuesses: string[] = [];
  using guessing = createGuessing({
    db: { knex: counts.knex, ...note(ofGuesses) },
    log: createLogger({ level: 'silent', format: 'json' }),
    now: () => 1,
    key: Buffer.alloc(32),
    hasDomains: false,
    isExempt: () => false,
  });
  await guessing.begin('account', 'alice', { address: '192.0.2.1' }).fail();
  section('guesses', [...ofGuesses, ...counts.statements]);

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
    /^(?!select).*\[windowsName\]/.test(sql) || /not \[/.test(sql) ? [] : [alice],
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
  const now = () => 1;
  const log = createLogger({ level: 'silent', format: 'json' });
  const audit = createAudit({ log, now, to: 'none', folder: '', keepDays: 1 });
  for (const { knex: db } of [first, taken, later]) {
    const logins = createExternalLogins({ accounts: createAccounts({ db, now }), audit, db, now });
    await logins.resolve(source, identity, rules);
    await logins.findLinked(identity);
    await logins.findLinks('alice');
    await logins.listProviders();
    await logins.noteChecked(identity);
    await logins.unlink('alice');
  }
  const links = [first, taken, later]
    .flatMap(({ statements }) => statements)
    .filter((sql) => sql.includes('[OidcUserLogin]'));
  section('links to identities elsewhere', links);

  const key = { id: 'k', purpose: 'cookie', algorithm: '' } as const;
  const row = { ...key, generation: 1, createdAt: 1, activeAt: 1, revokedAt: null, longestLifetime: 0 };
  const underOld = (await record(() => [])).knex;
  const sealed = createKeyStore({ db: { knex: underOld }, secrets: ['old'] });
  let payload = '';
  underOld.on('query', ({ bindings }: { bindings: unknown[] }) => {
    payload = bindings.map(String).find((value) => value.startsWith('ey')) ?? payload;
  });
  await sealed.insert(
    { ...key, generation: 1, createdAt: 1, activeAt: 1, longestLifetime: 0 },
    { secret: 's' },
  );
  const keyRows = await record(() => [{ ...row, payload }]);
  const keys = createKeyStore({ db: { knex: keyRows.knex }, secrets: ['new', 'old'] });
  await keys.insert(
    { ...key, generation: 2, createdAt: 1, activeAt: 1, longestLifetime: 0 },
    { secret: 's' },
  );
  await keys.protectAnew();
  await keys.schedule('k', 2);
  await keys.raiseLifetime(['k'], 3);
  await keys.revoke('k', 4);
  await keys.remove(['k']);
  section('keys', keyRows.statements);
  return parts.join('');
}

test('every statement is the one that was read against the documentation of SQL Server', async () => {
  const written = await writeStatements();
  if (process.env.UPDATE_STATEMENTS === '1') writeFileSync(statementsFile, written);
  assert.equal(written, readFileSync(statementsFile, 'utf8'));
});

test('every statement names its tables with the schema, and limits by top', async () => {
  const written = await writeStatements();
  assert.doesNotMatch(written, /(?<!\[postern\]\.)\[Oidc(Token|User|UserLogin|Key|LastUse|Migration)\]/);
  assert.doesNotMatch(written, /\blimit\b|on conflict|returning/i);
});

test('ASCII text goes as varchar, so that the keys of an index need no conversion', async () => {
  const { knex } = await record(() => []);
  const client = knex.client as SqlServerClient;
  const typeOf = (binding: unknown) => (client._typeForBinding(binding)[1] as { name: string }).name;
  assert.deepEqual(['abc', 'Grüße', 7, null].map(typeOf), ['VarChar', 'NVarChar', 'Int', 'NVarChar']);
});

/** What the driver is to a statement: it takes requests and answers them as the test says. */
function makeConnection(answer: (request: FakeRequest) => void) {
  const sent: FakeRequest[] = [];
  let isClosed = false;
  return {
    sent,
    isClosed: () => isClosed,
    close: () => {
      isClosed = true;
    },
    execSql(request: FakeRequest) {
      sent.push(request);
      answer(request);
    },
  };
}

interface FakeRequest extends EventEmitter {
  timeout?: number;
  parameters: { name: string; value: unknown; length?: number }[];
  userCallback(err: unknown, rowCount?: number): void;
}

test('a statement goes to its own connection with its time and its parameters, and comes back as rows, an error or an outage', async () => {
  const knex = knexFactory(await toKnexConfig(target));
  const client = knex.client as SqlServerClient;
  const run = (answer: (request: FakeRequest) => void) => {
    const connection = makeConnection(answer);
    const statement = { sql: 'select @p0, @p1', bindings: ['abc', 7] };
    return { connection, result: client._query(connection, statement) };
  };
  const good = run((request) => {
    request.emit('row', [{ metadata: { colName: 'a' }, value: 1 }]);
    request.userCallback(null, 1);
    request.emit('requestCompleted');
  });
  const { response } = (await good.result) as { response: unknown[] };
  assert.equal(response.length, 1);
  const [sent] = good.connection.sent;
  assert.equal(sent?.timeout, 1000);
  assert.deepEqual(
    sent?.parameters.map(({ length, value }) => [value, length]),
    [
      ['abc', 64],
      [7, undefined],
    ],
  );

  const violated = Object.assign(new Error('key'), { number: 2627, code: 'EREQUEST' });
  const several = Object.assign(new AggregateError([violated, new Error('2')]), { code: 'EREQUEST' });
  for (const err of [violated, several]) {
    await assert.rejects(run((request) => request.userCallback(err)).result, (thrown) =>
      isUniqueViolation(thrown),
    );
  }
  const deadlock = Object.assign(new Error('victim'), { number: 1205, code: 'EREQUEST' });
  let attempts = 0;
  const retried = run((request) => {
    attempts += 1;
    if (attempts < 3) request.userCallback(deadlock);
    else {
      request.userCallback(null, 0);
      request.emit('requestCompleted');
    }
  });
  await retried.result;
  assert.equal(attempts, 3);
  const gone = Object.assign(new Error('lost'), { code: 'ESOCKET' });
  await assert.rejects(run((request) => request.userCallback(gone)).result, {
    code: 'ERR_DATABASE_UNAVAILABLE',
  });
  const silent = run(() => {});
  await assert.rejects(silent.result, { code: 'ERR_DATABASE_UNAVAILABLE' });
  assert.ok(silent.connection.isClosed(), 'nobody knows what it still does there');
  await knex.destroy();
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
  const withPort = (await read(
    'Server=SQL1\\INST,1500;Database=x;Uid=u;Pwd="p;=q";Persist Security Info=False;MultipleActiveResultSets=true;Application Name=Portal',
  )) as Record<string, unknown> & { options: Record<string, unknown> };
  assert.deepEqual(
    [withPort.port, withPort.password, withPort.options.instanceName, withPort.options.appName],
    [1500, 'p;=q', undefined, 'Portal'],
  );
  const entra = (await read(
    'Server=db.database.windows.net;Database=x;Authentication=Active Directory Default',
  )) as Record<string, unknown>;
  assert.equal(entra.type, 'azure-active-directory-default');
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
    ['nonsense', /cannot be read/],
    ['Server=db;Database=x;User Id=u;Password=p;Bogus=1', /has bogus/],
    ['Server=db;Database=x;User Id=u;Password=p;Failover Partner=y', /has failoverpartner/],
    ['Server=db;Database=x;User Id=u;Password=p;Encrypt=Strict', /Encrypt=Strict/],
    ['Server=db;Database=x;User Id=u;Password=p;Trust Server Certificate=true', /turns encryption/],
    ['Server=db;Database=x;Integrated Security="SSPI"', /integrated security/],
    ['Server=db;Database=x', /no User Id or no Password/],
    ['Server=db;Database=x;User Id=u;Password=p;Authentication=Active Directory Password', /Client Id/],
  ] as const) {
    await assert.rejects(read(text), (err: unknown) => {
      assert.ok(err instanceof ServerError);
      assert.match(err.message, expected, text);
      assert.doesNotMatch(`${err.message} ${err.hint}`, /Password=p|=u;/);
      return true;
    });
  }
});
