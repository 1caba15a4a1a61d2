import assert from 'node:assert/strict';
import { argon2Sync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { parseForeignHash } from '../../src/accounts/foreign-hashes.ts';
import { createPasswords, isUsableHash } from '../../src/accounts/passwords.ts';

const { hash: hashPassword, verify: verifyPassword } = createPasswords();
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
    '$2b$31$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy',
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

test('the commonest passwords are refused in any case, and so is little more than a known word', () => {
  const { check } = createPasswords();
  for (const common of ['password', 'PASSWORD', '12345678', 'qwertyuiop', 'Trustno1', '1qaz2wsx3edc']) {
    assert.throws(
      () => check(common, []),
      { code: 'ERR_PASSWORD_UNACCEPTABLE', message: /commonest/ },
      common,
    );
  }
  const settings = { ...createPasswords().settings, ContextWords: ['Acme Research', 'Postern'] };
  const strict = createPasswords(settings);
  const names = ['EXAMPLE\\marion', 'Marion Müller', 'marion@example.com'];
  for (const guessable of [
    'marion2026',
    'Marion.Müller',
    'acme-research1',
    'Postern!!!',
    'ＭＡＲＩＯＮ.1',
    'example-acme',
  ]) {
    assert.throws(() => strict.check(guessable, names), { message: /little more than the name/ }, guessable);
  }
  for (const good of [password, 'marion rides a bicycle', 'xk3-acme-9q7zz', 'tr0ub4dor&3'])
    strict.check(good, names);
  createPasswords({ ...settings, RefuseCommon: false }).check('12345678', []);
});

test('of the commonest passwords there are thousands that are long enough, each refused', () => {
  const text = gunzipSync(
    readFileSync(new URL('../../src/accounts/common-passwords.txt.gz', import.meta.url)),
  ).toString();
  const common = text.split('\n').filter((line) => line !== '' && !line.startsWith('# '));
  assert.ok(common.length > 15_000);
  const { check } = createPasswords();
  for (const one of common) assert.throws(() => check(one, []), /commonest/, one);
});

test('the least length is configured', () => {
  const { check } = createPasswords({ ...createPasswords().settings, MinimumLength: 15 });
  assert.throws(() => check('fourteen chars', []), { message: 'the password is shorter than 15 characters' });
  check('fifteen chars !', []);
});

/** Made by slappasswd, htpasswd, Python's bcrypt and argon2-cffi, of one password; by ASP.NET's own tests of another. */
const foreign: Readonly<Record<string, readonly string[]>> = {
  'Grüße aus Köln 1': [
    '{SSHA}K3S0KP8y/YQC2ZIbcaXvbAmy/WD/qcu8',
    '{SSHA256}7znd27qCfhIzD78zL8FFjP9bLUAKbBes413wVyih5/jALq7rHED6IQ==',
    '{SSHA384}DuL1nV+EMxwsnYOGfLLl6gaXdWz6A03zlxzAChz3Al5KouiPaIWmgqRcbG2uVYSaKKNaBpVHVLw=',
    '{SSHA512}OF9EliE5iC+zw5EhdRvnlIP36anne5+Y0nfXSfQagjL5Uc6Fg0eNuIM6pG9hfID6dFOxIo0YtVjkbAXR5otOWDbz7PYEZTGg',
    '$2y$06$j6zOX7xcZad2ImMoES5YqePlIHLwORdXlgI5Ulc3a4kmT76errfL2',
    '$2b$06$3FkjoO/PstV9sKWjlu/3Ier85BFmlsjYSP7qy7njqmMZ3L6ENy2w6',
    '$2a$06$NtId5GyMDOwmmGerr7nV1.gKrg1Rs9a2pE7RKS0upaWGbQ2AjHDz6',
    '$argon2id$v=19$m=8192,t=3,p=2$NiZkbC3FGKM05pzz3nvvHQ$rxmhi+oK9zQhe8rvqq8WkbZGtw8OgrqoYfSxMbwHaB4',
  ],
  'my password': [
    'AAABAgMEBQYHCAkKCwwNDg+ukCEMDf0yyQ29NYubggHIVY0sdEUfdyeM+E1LtH1uJg==',
    'AQAAAAAAAAD6AAAAEAhftMyfTJylOlZT+eEotFXd1elee8ih5WsjXaR3PA9M',
    'AQAAAAEAA9CQAAAAIESkQuj2Du8Y+kbc5lcN/W/3NiAZFEm11P27nrSN5/tId+bR1SwV8CO1Jd72r4C08OLvplNlCDc3oQZ8efcW+jQ=',
    'AQAAAAIAAAAyAAAAEOMwvh3+FZxqkdMBz2ekgGhwQ4B6pZWND6zgESBuWiHw',
    'AQAAAAIAAAD6AAAAIJbVi5wbMR+htSfFp8fTw8N8GOS/Sje+S/4YZcgBfU7EQuqv4OkVYmc4VJl9AGZzmRTxSkP7LtVi9IWyUxX8IAAfZ8v+ZfhjCcudtC1YERSqE1OEdXLW9VukPuJWBBjLuw==',
  ],
};

for (const [right, hashes] of Object.entries(foreign)) {
  for (const stored of hashes) {
    test(`a hash of another program is verified, and is outdated: ${stored.slice(0, 24)}`, async () => {
      const { isOutdated, verify } = createPasswords();
      assert.deepEqual([isUsableHash(stored), isOutdated(stored)], [true, true]);
      assert.equal(await verify(stored, right), true);
      assert.equal(await verify(stored, right.normalize('NFD')), true);
      for (const wrong of [`${right} `, right.toUpperCase(), ''])
        assert.equal(await verify(stored, wrong), false, wrong);
    });
  }
}

test('hashes that are damaged, unsalted, of no known kind or too dear are not usable', async () => {
  const { verify } = createPasswords();
  for (const stored of [
    'AAABAgMEBQYHCAkKCwwNDg+ukCEMDf0yyQ29NYubggE=',
    'AAABAgMEBQYHCAkKCwwNDg+ukCEMDf0yyQ29NYubggHIVY0sdEUfdyeM+E1LtH1uJgAAAAAAAAAAAAA=',
    'AQAAAAIAAAAyAAAAEOMwvh3+FZxqkdMBz2ekgGhwQ4A=',
    'AQAAAAP///////8AAAAQ4zC+Hf4VnGqR0wHPZ6SAaHBDgHqllY0PrOARIG5aIfA=',
    'AQAAAAJ/////AAAAEOMwvh3+FZxqkdMBz2ekgGhwQ4B6pZWND6zgESBuWiHw',
    '{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=',
    '{MD5}X03MO1qnZdYdgyfeuILPmQ==',
    '$1$abcdefgh$KZ5bA7lWgbOkXeDDwwXTe/',
    '$2b$16$3FkjoO/PstV9sKWjlu/3Ier85BFmlsjYSP7qy7njqmMZ3L6ENy2w6',
    'password',
  ]) {
    assert.equal(isUsableHash(stored), false, stored);
    assert.equal(await verify(stored, 'my password'), false, stored);
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

test('while a hash of bcrypt is verified everything else goes on', async () => {
  // Of cost 12, which takes this thread's whole attention for a good part of a second if it is done there.
  const stored = '$2b$12$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy';
  let isDone = false;
  let turns = 0;
  const verifying = parseForeignHash(stored)
    ?.matches(password)
    .finally(() => {
      isDone = true;
    });
  while (!isDone) {
    await setImmediate();
    turns += 1;
  }
  assert.equal(await verifying, false);
  assert.ok(turns > 1000, `${turns} turns of the event loop`);
});
