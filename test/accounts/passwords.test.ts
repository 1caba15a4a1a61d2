import assert from 'node:assert/strict';
import { argon2Sync } from 'node:crypto';
import { test } from 'node:test';
import { hashPassword, verifyPassword } from '../../src/accounts/passwords.ts';

const password = 'Pass-word-1';

/** A stored hash made here, independently of the code under test, with cheap parameters unless told. */
function phc({
  m = 64,
  t = 1,
  p = 1,
  saltLength = 16,
  tagLength = 32,
  claimed,
}: { [name in 'm' | 't' | 'p' | 'saltLength' | 'tagLength']?: number } & { claimed?: string } = {}): string {
  const salt = Buffer.alloc(saltLength, 7);
  const tag = argon2Sync('argon2id', {
    message: password,
    nonce: salt,
    memory: m,
    passes: t,
    parallelism: p,
    tagLength,
  });
  const encode = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '');
  return `$argon2id$v=19$${claimed ?? `m=${m},t=${t},p=${p}`}$${encode(salt)}$${encode(tag)}`;
}

test('a password is kept as an argon2id PHC string of the documented cost, with a salt of its own', async () => {
  const [first, second] = await Promise.all([hashPassword(password), hashPassword(password)]);

  assert.match(first, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
  assert.notEqual(first, second);
  assert.ok(first.length <= 255);
});

test('the right password is verified and every other is not', async () => {
  const stored = await hashPassword(password);

  assert.equal(await verifyPassword(stored, password), true);
  for (const wrong of ['Pass-word-2', 'pass-word-1', 'Pass-word-1 ', '', `${password}\0`]) {
    assert.equal(await verifyPassword(stored, wrong), false, JSON.stringify(wrong));
  }
});

test('a hash made with other parameters is verified by those it names', async () => {
  for (const parameters of [{ m: 64 }, { t: 3 }, { m: 64, p: 4 }, { saltLength: 8 }, { tagLength: 64 }]) {
    assert.equal(await verifyPassword(phc(parameters), password), true, JSON.stringify(parameters));
    assert.equal(await verifyPassword(phc(parameters), 'Pass-word-2'), false, JSON.stringify(parameters));
  }
});

test('a stored text that is no argon2id hash within reason verifies nothing, and costs no more than usual', async () => {
  const unusable = [
    '',
    password,
    '$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy',
    phc().replace('argon2id', 'argon2i'),
    phc().replace('v=19', 'v=16'),
    phc({ claimed: 'm=4194304,t=1,p=1' }),
    phc({ claimed: 'm=64,t=100000,p=1' }),
    phc({ claimed: 'm=64,t=1,p=1000' }),
    phc({ claimed: 'm=64,t=0,p=1' }),
    phc({ claimed: 'm=8,t=1,p=2' }),
    phc({ claimed: 'm=99999999999999999999,t=1,p=1' }),
    phc({ tagLength: 4 }),
    `${phc()}\n`,
    `${phc()}${'A'.repeat(200)}`,
  ];
  const startedAt = performance.now();
  for (const stored of unusable) assert.equal(await verifyPassword(stored, password), false, stored);

  const elapsedMs = performance.now() - startedAt;
  assert.ok(elapsedMs < unusable.length * 1000, `took ${elapsedMs} ms`);
});

test('a password typed in another Unicode form is the same password, and a compatible one is not', async () => {
  const stored = await hashPassword('gru\u0308\u00dfe aus K\u00f6ln'); // u and a combining diaeresis

  assert.equal(await verifyPassword(stored, 'gr\u00fc\u00dfe aus Ko\u0308ln'), true);
  const ligature = await hashPassword('\ufb01nal-word');
  assert.equal(await verifyPassword(ligature, 'final-word'), false);
});

test('a password of 8 to 256 characters is accepted, counted as a person counts them', async () => {
  for (const acceptable of [
    '12345678',
    'x'.repeat(256),
    '\u{1f511}'.repeat(256),
    'a\u0308'.repeat(8),
    ' '.repeat(8),
  ]) {
    assert.equal(await verifyPassword(await hashPassword(acceptable), acceptable), true, acceptable);
  }
});

test('a password that is too short, too long or unprintable is refused with a code', async () => {
  const unacceptable = [
    '',
    '1234567',
    'a\u0308'.repeat(7),
    'x'.repeat(257),
    'x'.repeat(5_000_000),
    'line\nbreak',
    'nul\0nul\0',
    'half \ud800 a character',
  ];
  for (const candidate of unacceptable) {
    await assert.rejects(hashPassword(candidate), { code: 'ERR_PASSWORD_UNACCEPTABLE', status: 400 });
  }
});

test('a password too long to be anyone\u2019s is answered without computing anything', async () => {
  const stored = await hashPassword(password);
  const startedAt = performance.now();
  for (let round = 0; round < 200; round += 1) {
    assert.equal(await verifyPassword(stored, 'x'.repeat(100_000)), false);
  }
  assert.ok(performance.now() - startedAt < 1000);
});
