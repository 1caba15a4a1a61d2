/**
 * What the pieces cost that no server can do without: `node bench/primitives.ts` prints microseconds of the processor
 * for each, the best of several rounds. Pin it to one core: `taskset -c 0 node bench/primitives.ts`.
 */
import { argon2, generateKeyPairSync, hash, randomBytes, sign, verify } from 'node:crypto';
import { mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createAudit } from '../src/audit.ts';
import { createLogger } from '../src/log.ts';
import { type DatabaseTarget, openDatabase } from '../src/store/database.ts';
import { bareRow, createTokens, hashValue } from '../src/store/tokens.ts';

const rounds = 5;
const now = () => Math.floor(Date.now() / 1000);
const silent = createLogger({ level: 'silent', format: 'json' });
const folder = mkdtempSync(join(tmpdir(), 'postern-primitives-'));

/** Runs `work` so many times, eight at once where it is asynchronous, and prints what one of them costs. */
async function measure(title: string, times: number, work: (index: number) => unknown): Promise<void> {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < rounds; round += 1) {
    const before = process.cpuUsage();
    for (let index = 0; index < times; index += 8) {
      await Promise.all(Array.from({ length: 8 }, (_, one) => work(round * times + index + one)));
    }
    const { system, user } = process.cpuUsage(before);
    least = Math.min(least, (system + user) / times);
  }
  console.log(`| ${title} | ${least < 10 ? least.toFixed(1) : Math.round(least)} |`);
}

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const ed = generateKeyPairSync('ed25519');
const data = randomBytes(600);
const signInThread = promisify(sign) as (
  algorithm: string,
  data: Buffer,
  key: typeof rsa.privateKey,
) => Promise<Buffer>;

console.log('| piece | CPU µs |\n| --- | --- |');
await measure('signature RS256 (2048 bits)', 800, () => signInThread('sha256', data, rsa.privateKey));
await measure('signature ES256', 4000, () => sign('sha256', data, ec.privateKey));
await measure('signature EdDSA', 4000, () => sign(null, data, ed.privateKey));
const signature = sign('sha256', data, rsa.privateKey);
await measure('verification RS256', 4000, () => verify('sha256', data, rsa.publicKey, signature));
const password = {
  ...{ message: Buffer.from('Pass-word-1'), nonce: randomBytes(16) },
  ...{ memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 },
};
const hashPassword = promisify(argon2);
await measure('password, argon2id (19 MiB, 2 passes)', 24, () => hashPassword('argon2id', password));
await measure('SHA-256 of a secret', 40_000, (index) => hash('sha256', `secret ${index}`, 'buffer'));

const descriptor = openSync(join(folder, 'log'), 'w');
const log = createLogger({
  level: 'info',
  format: 'json',
  destination: { write: (line) => void writeSync(descriptor, line) },
});
const fields = { requestId: '0123456789ab', clientId: 'machine', grantType: 'client_credentials' };
await measure('a line of the log', 8000, () => log.info(fields, 'token issued'));
const audit = createAudit({ log: silent, now, to: 'folder', folder: join(folder, 'audit'), keepDays: 1 });
await measure('a line of the audit log', 8000, () => audit.record(['token', 'success'], fields, 'issued'));
await audit[Symbol.asyncDispose]();

const payload = JSON.stringify({
  iat: 1,
  aud: 'urn:x',
  scope: 'api',
  clientId: 'machine',
  more: 'x'.repeat(150),
});
const targets: DatabaseTarget[] = [{ client: 'sqlite', file: join(folder, 'x.sqlite') }];
const { BENCH_POSTGRES: connection } = process.env;
const schema = `bench_${randomBytes(6).toString('hex')}`;
if (connection !== undefined) {
  targets.push({ client: 'postgresql', connection, schema, poolSize: 10, timeoutMs: 10_000 });
}
for (const target of targets) {
  await using db = await openDatabase({ ...target, log: silent, now });
  await db.migrate();
  const tokens = createTokens({ db, now });
  const insert = (index: number) =>
    tokens.insert({
      ...bareRow,
      ...{ id: hashValue(`value ${index}`), model: 'AccessToken', payload, clientId: 'machine' },
      expiresAt: now() + 3600,
    });
  await measure(`${target.client}: insert of a token`, 2000, insert);
  await measure(`${target.client}: look-up of a token`, 4000, (index) =>
    tokens.find('AccessToken', `value ${index % 8000}`),
  );
  if (target.client === 'postgresql') await db.knex.raw(`drop schema "${schema}" cascade`);
}
rmSync(folder, { recursive: true });
