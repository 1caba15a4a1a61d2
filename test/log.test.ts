/** What a line of the log shows, and what it never does. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLogger } from '../src/log.ts';

function logged(fields: object): Record<string, unknown> {
  const lines: string[] = [];
  const log = createLogger({
    level: 'info',
    format: 'json',
    destination: { write: (line) => void lines.push(line) },
  });
  log.info(fields, 'something happened');
  return JSON.parse(lines[0] ?? '') as Record<string, unknown>;
}

test('a secret is blanked in the first three levels of a line, in lists too, and nothing else is', () => {
  const { level, msg, time, ...shown } = logged({
    clientId: 'mvc',
    password: 'a',
    code: 4711,
    token: undefined,
    form: { username: 'alice', client_secret: 'b', body: { 'set-cookie': ['c'], scope: 'openid' } },
    list: [{ access_token: 'd', kind: 'access' }, 'e'],
    none: null,
  });
  assert.deepEqual([level, msg, typeof time], ['info', 'something happened', 'string']);
  assert.deepEqual(shown, {
    clientId: 'mvc',
    password: '[redacted]',
    code: '[redacted]',
    form: {
      username: 'alice',
      client_secret: '[redacted]',
      body: { 'set-cookie': '[redacted]', scope: 'openid' },
    },
    list: [{ access_token: '[redacted]', kind: 'access' }, 'e'],
    none: null,
  });
});

test('what is logged is not changed by it', () => {
  const fields = { form: { password: 'a' } };
  logged(fields);
  assert.deepEqual(fields, { form: { password: 'a' } });
});

test('of an error the log shows what we know of errors, and not what a driver hung on it', () => {
  const err = Object.assign(new Error('insert into … - duplicate key'), {
    code: '23505',
    bindings: ['secret'],
    cause: new Error('inner'),
  });
  const { type, message, errorCode, stack, cause, ...more } = logged({ err }).err as Record<string, unknown>;
  assert.deepEqual([type, message, errorCode], ['Error', 'insert into … - duplicate key', '23505']);
  assert.match(String(stack), /log\.test/);
  assert.equal((cause as Error).message, 'inner');
  assert.deepEqual(more, {});
});
