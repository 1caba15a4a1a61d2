/**
 * Secrets that everybody knows, and that therefore prove nothing: those of the shipped development set, and the one
 * that the manual of the old application printed for the Web API of every installation. Of the latter only a hash is
 * here. Case is nothing that makes one of them secret: they are known by their spelling in capitals.
 */
import { createHash, hash as digest } from 'node:crypto';

/** SHA-256, in hexadecimal, of a secret's spelling in capitals. */
export type SecretDigest = string;

const ofManual: SecretDigest = '32f7c422bba7ebf05a605eee9dd4e21f769763bb2eb2faa6ee26323f13592c0e';
const demoSecrets = ['mvc-secret', 'desk-secret', 'batch-secret', 'batch-ref-secret', 'web-api-secret'];
const ofDevelopment: readonly SecretDigest[] = demoSecrets.map(digestOf);

/** Where each published secret that is refused was published; in Development its own secrets are admitted. */
export function refusedSecrets({
  isDevelopment,
}: {
  isDevelopment: boolean;
}): ReadonlyMap<SecretDigest, 'development' | 'manual'> {
  return new Map([
    [ofManual, 'manual'],
    ...(isDevelopment ? [] : ofDevelopment.map((one) => [one, 'development'] as const)),
  ]);
}

/** What {@link refusedSecrets} knows a secret by. */
export function digestOf(secret: string): SecretDigest {
  return digest('sha256', secret.toUpperCase(), 'hex');
}

/** The digest behind a hash (base64), where it is that of a published secret in capitals, or of the development set as it is. */
export function digestBehind(hash: string): SecretDigest {
  const found = demoSecrets.find((secret) =>
    ['sha256', 'sha512'].some((algorithm) => createHash(algorithm).update(secret).digest('base64') === hash),
  );
  return found === undefined ? Buffer.from(hash, 'base64').toString('hex') : digestOf(found);
}
