/** The key and certificate that the WsFed application signs with. Relying parties pin the certificate: it is never made anew by itself. */
import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { ServerError } from '../errors.ts';
import { endOf, type KeyFiles, readCertificateFile, readKeyPair } from './key-file.ts';
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
      readonly files: KeyFiles;
      readonly nextCertificateFile: string | undefined;
    };

const daySeconds = 86_400;

/**
 * Loads the key, or makes one for Development with a certificate of ten years.
 *
 * @throws {ServerError} ERR_KEY_UNUSABLE, with the file and the reason
 */
export async function loadSamlSigningKey(source: SamlKeySource): Promise<SamlSigningKey> {
  if (source.kind === 'generated') {
    const made = (await readOrMake(join(source.folder, 'wsfed-signing-key.json'), () =>
      makeSelfSignedKey({ commonName: 'Postern WsFed (development)', days: 3650 }),
    )) as SelfSignedKey;
    return {
      ...made,
      nextCertificate: undefined,
      expiresAt: endOf(new X509Certificate(Buffer.from(made.certificate, 'base64'))),
    };
  }
  const { files, nextCertificateFile } = source;
  const { key, certificate } = await readKeyPair(files, { property: 'WsFedSigningCertificate' });
  if (certificate === undefined) {
    throw new ServerError('ERR_KEY_UNUSABLE', `there is no certificate for ${files.keyFile}`, {
      hint: 'WsFedSigningCertificate.CertificateFile names it, or a PFX file has it',
    });
  }
  const privateKey = key.export({ format: 'pem', type: 'pkcs8' }).toString();
  const next = nextCertificateFile === undefined ? undefined : readCertificateFile(nextCertificateFile);
  return {
    privateKey,
    certificate: certificate.raw.toString('base64'),
    nextCertificate: next?.raw.toString('base64'),
    expiresAt: endOf(certificate),
  };
}

export interface SelfSignedKey {
  /** PEM, PKCS #8. */
  readonly privateKey: string;
  /** Base64 DER. */
  readonly certificate: string;
}

/** Makes an RSA key of 2048 bits and a certificate that it signs itself, valid from now on. */
export async function makeSelfSignedKey({
  commonName,
  days,
}: {
  commonName: string;
  days: number;
}): Promise<SelfSignedKey> {
  // Loaded only here: half of what a start with a key that is there would take for its keys.
  await import('reflect-metadata');
  const { X509CertificateGenerator } = await import('@peculiar/x509');
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
      name: [{ CN: [commonName] }],
      keys: keys as Parameters<typeof X509CertificateGenerator.createSelfSigned>[0]['keys'],
      signingAlgorithm: algorithm,
      notBefore,
      notAfter: new Date(notBefore.getTime() + days * daySeconds * 1000),
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
