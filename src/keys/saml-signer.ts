/** The key and certificate that the WsFed application signs with. Relying parties pin the certificate: it is never made anew by itself. */
import 'reflect-metadata';
import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { X509CertificateGenerator } from '@peculiar/x509';
import { ServerError } from '../errors.ts';
import { readOrMake } from './keys.ts';

export interface SamlSigningKey {
  /** PEM. */
  readonly privateKey: string;
  /** Base64 DER. */
  readonly certificate: string;
  /** Of the next key, published ahead. */
  readonly nextCertificate: string | undefined;
  /** When the certificate ends, in seconds since the epoch. */
  readonly expiresAt: number;
}

export type SamlKeySource =
  | { readonly kind: 'generated'; readonly folder: string }
  | {
      readonly kind: 'files';
      readonly keyFile: string;
      readonly certificateFile: string;
      readonly nextCertificateFile: string | undefined;
      readonly passphrase: string | undefined;
    };

/** From how many days before its end on a certificate is warned of. */
const warningDays = [90, 30, 7];

/**
 * Loads the key, or makes one for Development with a certificate of ten years.
 *
 * @throws {ServerError} ERR_KEY_UNUSABLE, with the file and the reason
 */
export async function loadSamlSigningKey(source: SamlKeySource): Promise<SamlSigningKey> {
  if (source.kind === 'generated') {
    const made = (await readOrMake(join(source.folder, 'wsfed-signing-key.json'), makeKey)) as {
      privateKey: string;
      certificate: string;
    };
    return {
      ...made,
      nextCertificate: undefined,
      expiresAt: endOf(readCertificate(made.certificate, 'the generated key')),
    };
  }
  const { certificateFile, keyFile, nextCertificateFile, passphrase } = source;
  const certificate = readCertificate(readFileSync(certificateFile, 'utf8'), certificateFile);
  let privateKey: string;
  try {
    const key = createPrivateKey({
      key: readFileSync(keyFile),
      ...(passphrase === undefined ? undefined : { passphrase }),
    });
    if (!certificate.checkPrivateKey(key)) throw new TypeError(`it is not the key of ${certificateFile}`);
    if (key.asymmetricKeyType !== 'rsa') throw new TypeError('it is no RSA key');
    privateKey = key.export({ format: 'pem', type: 'pkcs8' }).toString();
  } catch (cause) {
    throw new ServerError('ERR_KEY_UNUSABLE', `the signing key ${keyFile} cannot be used`, {
      hint: 'WsFedSigningCertificate.KeyFile names a PEM file with the RSA private key of CertificateFile; see Passphrase if it is encrypted',
      cause,
    });
  }
  const next =
    nextCertificateFile === undefined
      ? undefined
      : readCertificate(readFileSync(nextCertificateFile, 'utf8'), nextCertificateFile);
  return {
    privateKey,
    certificate: certificate.raw.toString('base64'),
    nextCertificate: next?.raw.toString('base64'),
    expiresAt: endOf(certificate),
  };
}

/** How many days are left of a certificate, where that is few enough to say so; negative once it has ended. */
export function daysToWarnOf(
  { expiresAt }: Pick<SamlSigningKey, 'expiresAt'>,
  now: number,
): number | undefined {
  const days = Math.floor((expiresAt - now) / 86_400);
  return days < (warningDays[0] ?? 0) ? days : undefined;
}

function readCertificate(text: string, file: string): X509Certificate {
  try {
    return new X509Certificate(text.includes('-----') ? text : Buffer.from(text, 'base64'));
  } catch (cause) {
    throw new ServerError('ERR_KEY_UNUSABLE', `the certificate ${file} cannot be read`, { cause });
  }
}

function endOf({ validTo }: X509Certificate): number {
  return Math.floor(Date.parse(validTo) / 1000);
}

async function makeKey(): Promise<{ privateKey: string; certificate: string }> {
  const algorithm = {
    name: 'RSASSA-PKCS1-v1_5',
    hash: 'SHA-256',
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
  };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const notBefore = new Date();
  const certificate = await X509CertificateGenerator.createSelfSigned(
    {
      name: 'CN=Postern WsFed (development)',
      keys: keys as Parameters<typeof X509CertificateGenerator.createSelfSigned>[0]['keys'],
      signingAlgorithm: algorithm,
      notBefore,
      notAfter: new Date(notBefore.getTime() + 3650 * 86_400_000),
    },
    webcrypto as Parameters<typeof X509CertificateGenerator.createSelfSigned>[1],
  );
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return {
    privateKey: createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' })
      .export({ format: 'pem', type: 'pkcs8' })
      .toString(),
    certificate: Buffer.from(certificate.rawData).toString('base64'),
  };
}
