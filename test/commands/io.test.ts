import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { openSecretReader } from '../../src/commands/io.ts';

/** A terminal as Node has one: raw mode on request, keys as they are typed. */
function openTerminal() {
  const rawModes: boolean[] = [];
  const stdin = Object.assign(new PassThrough(), {
    isTTY: true,
    setRawMode(mode: boolean) {
      rawModes.push(mode);
    },
  });
  const stderr = new PassThrough();
  return {
    stdin,
    stderr,
    rawModes,
    shown: () => String(stderr.read() ?? ''),
    async type(keys: string) {
      await new Promise(setImmediate);
      stdin.write(keys);
    },
  };
}

test('a password typed at a terminal is asked for twice and never shown', async () => {
  const terminal = openTerminal();
  const secrets = openSecretReader(terminal);

  const asked = secrets.askTwice('Password of alice');
  await terminal.type('Pass-wordd\x7f-1\r');
  await terminal.type('Pass-word-1\r');

  assert.equal(await asked, 'Pass-word-1');
  secrets[Symbol.dispose]();
  assert.equal(terminal.shown(), 'Password of alice: \nPassword of alice again: \n');
  assert.deepEqual([terminal.rawModes.at(0), terminal.rawModes.at(-1)], [true, false]);
});

test('two different passwords at a terminal are refused', async () => {
  const terminal = openTerminal();
  using secrets = openSecretReader(terminal);

  const asked = secrets.askTwice('Password');
  await terminal.type('Pass-word-1\r');
  await terminal.type('Pass-word-2\r');

  await assert.rejects(asked, { exitCode: 64, message: 'the two are not the same' });
});

test('Ctrl+C at the prompt ends the question as a signal would', async () => {
  const terminal = openTerminal();
  using secrets = openSecretReader(terminal);

  const asked = secrets.ask('Password');
  await terminal.type('Pass\x03');

  await assert.rejects(asked, { exitCode: 130 });
  assert.equal(terminal.rawModes.at(-1), false);
});

test('a pipe answers one question with each line, and is not asked twice', async () => {
  const stdin = new PassThrough();
  const stderr = new PassThrough();
  using secrets = openSecretReader({ stdin, stderr });
  stdin.end('first line\r\nzweite Z\u00e4hl\nrest without an end');

  assert.equal(await secrets.askTwice('One'), 'first line');
  assert.equal(await secrets.ask('Two'), 'zweite Z\u00e4hl');
  assert.equal(await secrets.ask('Three'), 'rest without an end');
  await assert.rejects(secrets.ask('Four'), { exitCode: 64, message: /standard input ended/ });
  assert.equal(stderr.read(), null);
});

test('an empty line is no secret', async () => {
  const stdin = new PassThrough();
  using secrets = openSecretReader({ stdin, stderr: new PassThrough() });
  stdin.end('\n');

  await assert.rejects(secrets.ask('Password'), { exitCode: 64, message: 'Password: nothing was given' });
});
