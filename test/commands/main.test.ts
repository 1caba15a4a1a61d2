import assert from 'node:assert/strict';
import { test } from 'node:test';
import { install } from './postern.ts';

test('the program takes what is piped in, writes to its two outputs and ends with the code of its command', async (t) => {
  const { run, spawn } = await install(t);
  await run(['migrate']);

  const added = await spawn(['account', 'add', 'Pat', '--must-change'], {
    input: 'Another-word-2\nmore\n',
  }).finish();
  assert.deepEqual(added, { code: 0, stdout: 'added Pat\n', stderr: '' });

  const unknown = await spawn(['account', 'disable', 'nobody'], { input: '' }).finish();
  assert.deepEqual([unknown.code, unknown.stdout], [1, '']);
  assert.match(unknown.stderr, /^postern: there is no account "nobody" \(ERR_ACCOUNT_UNKNOWN\)\n$/);

  const wrong = await spawn(['strat']).finish();
  assert.deepEqual([wrong.code, wrong.stdout], [64, '']);
});

test('the program ends while its standard input stays open', async (t) => {
  const { run, spawn } = await install(t);
  await run(['migrate']);

  const adding = spawn(['account', 'add', 'Pat']);
  adding.child.stdin?.write('Another-word-2\n');

  assert.equal((await adding.finish()).code, 0);
});
