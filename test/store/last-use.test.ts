/** When clients and accounts were last used: the rows, and the job that writes them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createAccounts } from '../../src/accounts/accounts.ts';
import { createAudit } from '../../src/audit.ts';
import { createLogger } from '../../src/log.ts';
import { createLastUses, startNotingUse } from '../../src/store/last-use.ts';
import { openTarget, testDatabases } from '../support/databases.ts';

const silent = createLogger({ level: 'silent', format: 'json' });
const openAudit = (now: () => number) =>
  createAudit({ log: silent, now, to: 'none', folder: '', keepDays: 1 });

for (const { name, createTarget } of testDatabases) {
  test(`${name}: a last use moves on and never back, whoever of several nodes writes it`, async (t) => {
    const target = await createTarget(t);
    const [one, other] = [await openTarget(t, target), await openTarget(t, target)];
    await one.migrate();
    const nodes = [createLastUses({ db: one }), createLastUses({ db: other })];
    const client = { kind: 'client', name: 'mvc' } as const;
    await Promise.all(
      nodes.flatMap((node) => [3600, 3600].map((usedAt) => node.save({ ...client, usedAt }))),
    );
    await nodes[0]?.save({ ...client, usedAt: 10_800 });
    await nodes[1]?.save({ ...client, usedAt: 7200 });
    await nodes[1]?.save({ ...client, name: 'MVC', usedAt: 7200 });
    assert.deepEqual([...((await nodes[1]?.list('client')) ?? [])].sort(), [
      ['MVC', 7200],
      ['mvc', 10_800],
    ]);
    assert.deepEqual(await nodes[0]?.list('sign-in'), new Map());
  });

  test(`${name}: nothing is kept of an account that is removed, not even by a node that still knows of it`, async (t) => {
    const db = await openTarget(t, await createTarget(t));
    await db.migrate();
    const accounts = createAccounts({ db: db.knex, now: () => 1000 });
    const lastUses = createLastUses({ db });
    await accounts.add({ name: 'Zoe' });
    const use = { kind: 'sign-in', name: 'zoe', usedAt: 3600 } as const;
    await lastUses.save(use);
    assert.deepEqual(await lastUses.list('sign-in'), new Map([['zoe', 3600]]));
    await accounts.remove('ZOE');
    await lastUses.save({ ...use, usedAt: 7200 });
    assert.deepEqual(await lastUses.list('sign-in'), new Map());
  });
}

async function openNoting(t: Parameters<typeof openTarget>[0], intervalSeconds: number) {
  const [sqlite] = testDatabases;
  assert.ok(sqlite);
  const db = await openTarget(t, await sqlite.createTarget(t));
  await db.migrate();
  let at = 100_000;
  const now = () => at;
  const lines: { msg?: string }[] = [];
  const log = createLogger({
    level: 'info',
    format: 'json',
    destination: { write: (line) => void lines.push(JSON.parse(line)) },
  });
  const audit = openAudit(now);
  const lastUses = createLastUses({ db });
  const saved: string[] = [];
  const watched = {
    ...lastUses,
    save(use: Parameters<typeof lastUses.save>[0]) {
      saved.push(`${use.kind} ${use.name} ${use.usedAt}`);
      return lastUses.save(use);
    },
  };
  const noting = startNotingUse({ audit, lastUses: watched, log, now }, { intervalSeconds });
  t.after(() => noting[Symbol.asyncDispose]());
  return { audit, db, lastUses, lines, noting, saved, moveTo: (time: number) => (at = time) };
}

const issued = ['token', 'success'] as const;

test('however often a client is used within an hour, it is written once, and again in the next', async (t) => {
  const { audit, lastUses, moveTo, noting, saved } = await openNoting(t, 0.01);
  const until = async (count: number) => {
    while (saved.length < count) await sleep(5);
    await sleep(50);
  };
  for (let time = 0; time < 5; time += 1) audit.record(issued, { clientId: 'mvc' }, 'token issued');
  audit.record(['token', 'refused'], { clientId: 'desk' }, 'token refused');
  await until(1);
  audit.record(issued, { clientId: 'mvc' }, 'token issued');
  await until(1);
  moveTo(104_400);
  audit.record(issued, { clientId: 'mvc' }, 'token issued');
  await until(2);
  await noting[Symbol.asyncDispose]();
  assert.deepEqual(saved, ['client mvc 97200', 'client mvc 104400']);
  assert.deepEqual(await lastUses.list('client'), new Map([['mvc', 104_400]]));
});

test('what is noted is written at the stop', async (t) => {
  const { audit, lastUses, noting } = await openNoting(t, 3600);
  audit.record(issued, { clientId: 'mvc' }, 'token issued');
  assert.deepEqual(await lastUses.list('client'), new Map());
  await noting[Symbol.asyncDispose]();
  assert.deepEqual(await lastUses.list('client'), new Map([['mvc', 97_200]]));
});

test('while the database does not take them last uses are kept, and the log says so once', async (t) => {
  const { audit, db, lastUses, lines, noting, saved } = await openNoting(t, 0.01);
  await db.knex.raw('alter table OidcLastUse rename to Away');
  audit.record(issued, { clientId: 'mvc' }, 'token issued');
  while (saved.length < 3) await sleep(5);
  await db.knex.raw('alter table Away rename to OidcLastUse');
  while ((await lastUses.list('client')).size === 0) await sleep(5);
  await noting[Symbol.asyncDispose]();
  assert.deepEqual(
    lines.map(({ msg }) => msg).filter((msg) => msg !== undefined && /last uses/.test(msg)),
    ['last uses not written; they are kept'],
  );
});
