/** `postern certificate`, and the warnings before the end of one. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadSamlSigningKey } from '../../src/keys/saml-signer.ts';
import { watchCertificates } from '../../src/keys/watch-certificates.ts';
import { createLogger } from '../../src/log.ts';
import { createMetrics } from '../../src/metrics.ts';
import { install } from './postern.ts';

test('a key and a certificate are made that the server can sign with, and never over others', async (t) => {
  const { folder: directory, run } = await install(t);
  const made = await run([
    'certificate',
    'certs/wsfed',
    '--common-name',
    'Sign-in, of Example',
    '--days',
    '30',
  ]);
  assert.deepEqual([made.code, made.stdout], [0, 'wrote certs/wsfed.key and certs/wsfed.crt\n']);
  const [keyFile, certificateFile] = [join(directory, 'certs/wsfed.key'), join(directory, 'certs/wsfed.crt')];
  assert.equal(statSync(keyFile).mode & 0o077, 0, "the key is its owner's");
  const key = await loadSamlSigningKey({
    kind: 'files',
    files: { keyFile, certificateFile, passphrase: undefined },
    nextCertificateFile: undefined,
  });
  const days = (key.expiresAt - Date.now() / 1000) / 86_400;
  assert.ok(days > 29.9 && days <= 30, String(days));
  assert.equal(new X509Certificate(readFileSync(certificateFile)).subject, 'CN=Sign-in\\, of Example');

  const before = readFileSync(keyFile, 'utf8');
  const again = await run(['certificate', 'certs/wsfed']);
  assert.deepEqual([again.code, readFileSync(keyFile, 'utf8')], [73, before]);
  writeFileSync(join(directory, 'certs/half.crt'), 'mine');
  assert.equal((await run(['certificate', 'certs/half'])).code, 73);
  assert.equal(existsSync(join(directory, 'certs/half.key')), false, 'no key without its certificate');
  for (const wrong of [
    ['--days', '0'],
    ['--days', 'x'],
    ['--days', '9999'],
    ['--common-name', ' '],
  ]) {
    assert.equal((await run(['certificate', 'certs/other', ...wrong])).code, 64, wrong.join(' '));
  }
});

test('a certificate that ends in 90 days is warned of every day, and in 7 days it is an error', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const lines: { level: string; daysLeft: number }[] = [];
  const log = createLogger({
    level: 'info',
    format: 'json',
    destination: { write: (line: string) => void lines.push(JSON.parse(line)) },
  });
  let now = 1_800_000_000;
  const day = 86_400;
  const pass = (days: number) => {
    for (let passed = 0; passed < days; passed += 1) {
      now += day;
      t.mock.timers.tick(day * 1000);
    }
  };
  {
    const end = now + 92 * day;
    const certificate = { property: 'WsFedSigningCertificate', readEnd: () => end, warningDays: 90 };
    const metrics = await createMetrics({ isRead: false });
    using _watch = watchCertificates({ log, metrics, now: () => now }, [certificate]);
    pass(1);
    assert.equal(lines.length, 0);
    pass(1);
    assert.deepEqual(
      lines.map(({ daysLeft }) => daysLeft),
      [90],
    );
    pass(84);
    assert.deepEqual(
      [lines.length, lines.at(-3)?.level, lines.at(-1)?.level, lines.at(-1)?.daysLeft],
      [85, 'warn', 'error', 6],
    );
  }
  pass(2);
  assert.equal(lines.length, 85, 'not after the server has ended');
});
