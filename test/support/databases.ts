/** The databases that the store is tested on: SQLite always, PostgreSQL and SQL Server where one is named. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLogger } from '../../src/log.ts';
import { type Database, type DatabaseTarget, openDatabase } from '../../src/store/database.ts';
import { ownTables } from '../../src/store/migrate.ts';
import { requirePostgres } from './requirements.ts';

export interface TestDatabase {
  readonly name: string;
  /** A database, or a schema, with nothing in it, which is gone after the test. */
  createTarget(t: TestContext): Promise<DatabaseTarget>;
}

const log = createLogger({ level: 'silent', format: 'json' });
const limits = { poolSize: 10, timeoutMs: 5000 } as const;

const sqlite: TestDatabase = {
  name: 'SQLite',
  async createTarget(t) {
    const folder = mkdtempSync(join(tmpdir(), 'postern-store-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    return { client: 'sqlite', file: join(folder, 'test.sqlite') };
  },
};

/** A target in a new schema, which is dropped after the test. */
export async function createSchema(
  t: TestContext,
  { client, connection }: { client: 'postgresql' | 'sqlserver'; connection: string },
): Promise<Extract<DatabaseTarget, { schema: string }>> {
  const schema = `test_${randomBytes(6).toString('hex')}`;
  t.after(async () => {
    await using db = await openDatabase({ client, connection, schema, ...limits, log, now: () => 0 });
    if (client === 'postgresql') await db.knex.raw(`drop schema if exists "${schema}" cascade`);
    else {
      for (const table of ownTables) await db.knex.raw(`drop table if exists [${schema}].[${table}]`);
      await db.knex.raw(`drop schema if exists [${schema}]`);
    }
  });
  return { client, connection, schema, ...limits };
}

const postgres: TestDatabase = {
  name: 'PostgreSQL',
  createTarget: async (t) => createSchema(t, { client: 'postgresql', connection: requirePostgres(t) }),
};

/** Only where TEST_MSSQL has a connection string: it does not come with a package. */
const sqlServers: readonly TestDatabase[] = [process.env.TEST_MSSQL ?? '']
  .filter((connection) => connection !== '')
  .map((connection) => ({
    name: 'SQL Server',
    createTarget: (t) => createSchema(t, { client: 'sqlserver', connection }),
  }));

export const testDatabases: readonly TestDatabase[] = [sqlite, postgres, ...sqlServers];

/** Opens a target and closes it with the test. */
export async function openTarget(
  t: TestContext,
  target: DatabaseTarget,
  now: () => number = () => 1000,
): Promise<Database> {
  const db = await openDatabase({ ...target, log, now });
  t.after(() => db[Symbol.asyncDispose]());
  return db;
}
