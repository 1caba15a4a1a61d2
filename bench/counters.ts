/**
 * Loaded into a process that is measured (`node --import bench/counters.ts`): counts its SQL statements, signatures
 * and password hashes, and tells them to whoever started it. With BENCH_PASSWORDS=once a password is hashed the first
 * time only, so that the rest of a sign-in can be measured apart.
 */
import crypto, { type Argon2Algorithm, type Argon2Parameters } from 'node:crypto';
import { createRequire, syncBuiltinESMExports } from 'node:module';

export interface Counts {
  readonly statements: number;
  readonly signatures: number;
  readonly passwords: number;
}

const counts = { statements: 0, signatures: 0, passwords: 0 };

/** Calls `note` before each call of a method. */
function watch<Name extends string>(
  target: { [name in Name]: (...args: never[]) => unknown },
  name: Name,
  note: () => void,
): void {
  const original = target[name];
  target[name] = function watched(this: unknown, ...args: never[]) {
    note();
    return original.apply(this, args);
  };
}

const require = createRequire(import.meta.url);
watch(require('knex/lib/client.js').prototype, 'query', () => {
  counts.statements += 1;
});
const noteSignature = () => {
  counts.signatures += 1;
};
watch(globalThis.crypto.subtle as unknown as { sign(): unknown }, 'sign', noteSignature);
watch(crypto as unknown as { sign(): unknown }, 'sign', noteSignature);

const { argon2 } = crypto;
const known = new Map<string, Buffer>();
type Callback = (err: Error | null, derived: Buffer) => void;
crypto.argon2 = ((algorithm: Argon2Algorithm, parameters: Argon2Parameters, callback: Callback) => {
  counts.passwords += 1;
  const key = JSON.stringify([algorithm, parameters]);
  const found = process.env.BENCH_PASSWORDS === 'once' ? known.get(key) : undefined;
  if (found !== undefined) {
    setImmediate(callback, null, found);
    return;
  }
  argon2(algorithm, parameters, (err, derived) => {
    if (err === null) known.set(key, derived);
    callback(err, derived);
  });
}) as typeof argon2;
syncBuiltinESMExports();

process.on('message', (message) => {
  if (message === 'counts') process.send?.({ counts });
});
process.channel?.unref();
