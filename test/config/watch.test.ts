/** Watching the config files: real files, real writes, in the ways of editors and scripts. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { watchConfiguration } from '../../src/config/watch.ts';
import { createLogger } from '../../src/log.ts';

/** What is promised to operators, and some patience for a busy machine. */
const noticedWithinMs = 1000;
const patienceMs = 3000;

interface Watched {
  directory: string;
  /** When each call began, in milliseconds. */
  calls: number[];
  /** Resolves when there were `count` calls; with the time of the last. */
  called(count: number): Promise<number>;
}

function watchNew(t: TestContext, onChange: () => Promise<void> | void = () => {}): Watched {
  const home = mkdtempSync(join(tmpdir(), 'postern-watch-'));
  t.after(() => rmSync(home, { recursive: true, force: true }));
  const directory = join(home, 'config');
  mkdirSync(join(directory, 'clients'), { recursive: true });
  writeFileSync(join(directory, 'server.json'), '{}');
  writeFileSync(join(directory, 'clients', 'a.json'), '{}');
  const calls: number[] = [];
  const watcher = watchConfiguration({
    directory,
    log: createLogger({ level: 'silent', format: 'json' }),
    onChange() {
      calls.push(performance.now());
      return onChange();
    },
  });
  t.after(() => watcher[Symbol.dispose]());
  return {
    directory,
    calls,
    async called(count) {
      for (const end = performance.now() + patienceMs; calls.length < count; await sleep(10)) {
        assert.ok(performance.now() < end, `${calls.length} calls where ${count} are expected`);
      }
      return calls[count - 1] ?? 0;
    },
  };
}

const changes: readonly { name: string; change: (directory: string) => void }[] = [
  ...['providers', 'relying-parties', 'resources'].map((folder) => ({
    name: `a new file in ${folder}`,
    change(d: string) {
      mkdirSync(join(d, folder));
      writeFileSync(join(d, folder, 'n.json'), '{}');
    },
  })),
  {
    name: 'a written client',
    change: (d) => writeFileSync(join(d, 'clients', 'a.json'), '{ "Enabled": false }'),
  },
  { name: 'a new client', change: (d) => writeFileSync(join(d, 'clients', 'b.json'), '{}') },
  { name: 'a removed client', change: (d) => unlinkSync(join(d, 'clients', 'a.json')) },
  {
    name: 'a renamed client',
    change: (d) => renameSync(join(d, 'clients', 'a.json'), join(d, 'clients', 'z.json')),
  },
  { name: 'server.json', change: (d) => writeFileSync(join(d, 'server.json'), '{ "x": 1 }') },
  {
    name: 'a file that an editor puts in the place of the old one',
    change(d) {
      writeFileSync(join(d, 'clients', '.a.json.swp'), '{ "Enabled": false }');
      renameSync(join(d, 'clients', '.a.json.swp'), join(d, 'clients', 'a.json'));
    },
  },
  {
    name: 'a folder put in the place of the old one',
    change(d) {
      mkdirSync(join(d, 'clients.new'));
      writeFileSync(join(d, 'clients.new', 'n.json'), '{}');
      renameSync(join(d, 'clients'), join(d, 'clients.old'));
      renameSync(join(d, 'clients.new'), join(d, 'clients'));
    },
  },
];
for (const { name, change } of changes) {
  test(`${name} is noticed within a second, once`, async (t) => {
    const { directory, calls, called } = watchNew(t);
    await sleep(300);
    const changedAt = performance.now();
    change(directory);

    const noticedAt = await called(1);

    assert.ok(noticedAt - changedAt < noticedWithinMs, `after ${noticedAt - changedAt} ms`);
    await sleep(1000);
    assert.equal(calls.length, 1);
  });
}

test('a change right after the start is noticed', async (t) => {
  const { directory, called } = watchNew(t);
  writeFileSync(join(directory, 'clients', 'a.json'), '{ "Enabled": false }');

  await called(1);
});

test('changes go on being noticed, also in a folder that was replaced', async (t) => {
  const { directory, called } = watchNew(t);
  rmSync(join(directory, 'clients'), { recursive: true });
  await called(1);
  mkdirSync(join(directory, 'clients'));
  writeFileSync(join(directory, 'clients', 'b.json'), '{}');
  await called(2);
  writeFileSync(join(directory, 'clients', 'b.json'), '{ "x": 1 }');

  await called(3);
});

test('a burst of writes is one change', async (t) => {
  const { directory, calls, called } = watchNew(t);
  for (let index = 0; index < 10; index++) {
    writeFileSync(join(directory, 'clients', `c${index}.json`), '{}');
    await sleep(20);
  }

  await called(1);

  await sleep(1000);
  assert.equal(calls.length, 1);
});

test('a touched file, a backup and a foreign file are no change', async (t) => {
  const { directory, calls } = watchNew(t);
  utimesSync(join(directory, 'clients', 'a.json'), 1, 1);
  writeFileSync(join(directory, 'server.json'), '{}');
  writeFileSync(join(directory, 'clients', 'a.json~'), 'x');
  mkdirSync(join(directory, 'schema'));
  writeFileSync(join(directory, 'schema', 'client.schema.json'), '{}');

  await sleep(1500);

  assert.equal(calls.length, 0);
});

test('calls do not overlap, and what changes during one gets the next', async (t) => {
  let running = 0;
  let most = 0;
  const { directory, called } = watchNew(t, async () => {
    most = Math.max(most, ++running);
    await sleep(600);
    running--;
  });
  writeFileSync(join(directory, 'clients', 'a.json'), '1');
  await called(1);
  writeFileSync(join(directory, 'clients', 'a.json'), '2');

  await called(2);

  assert.equal(most, 1);
});

test('a failing call does not end the watch', async (t) => {
  const { directory, called } = watchNew(t, () => {
    throw new Error('not today');
  });
  writeFileSync(join(directory, 'clients', 'a.json'), '1');
  await called(1);
  writeFileSync(join(directory, 'clients', 'a.json'), '2');

  await called(2);
});

test('nothing is called after the end', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'postern-watch-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  let calls = 0;
  const watcher = watchConfiguration({
    directory,
    log: createLogger({ level: 'silent', format: 'json' }),
    onChange: () => void calls++,
  });
  await sleep(200);
  writeFileSync(join(directory, 'server.json'), '{}');
  watcher[Symbol.dispose]();

  await sleep(1000);

  assert.equal(calls, 0);
});
