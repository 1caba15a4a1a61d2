import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../../src/log.ts';
import { openDatabase } from '../../src/store/database.ts';
import { adapterContract } from './adapter-contract.ts';

adapterContract('SQLite', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'postern-store-'));
  const db = await openDatabase({
    client: 'sqlite',
    file: join(folder, 'test.sqlite'),
    log: createLogger({ level: 'silent', format: 'json' }),
    now: () => 1000,
  });
  t.after(async () => {
    await db[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });
  return db;
});
