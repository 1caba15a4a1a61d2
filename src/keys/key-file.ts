/**
 * A private key, and the certificate that comes with it, from a file: PEM, or PKCS #12 (PFX) as Windows exports it
 * (RFC 7292), encrypted by AES, Triple DES or RC2.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readRegularFile } from '../config/regular-file.ts';
import { type SigningAlgorithm, usualAlgorithm } from '../config/schema.ts';
import { ServerError } from '../errors.ts';

/** Where a key is; the passphrase is resolved already. */
export interface KeyFiles {
  readonly keyFile: string;
  /** Instead of the one in a PFX file. */
  readonly certificateFile: string | undefined;
  readonly passphrase: string | undefined;
}

/** A private key that can sign, and its certificate. */
export interface KeyPair {
  readonly key: KeyObject;
  readonly certificate: X509Certificate | undefined;
}

const smallestModulusBits = 2048;

/** What signs by which algorithm, in the words of Node. */
const keyTypes: Readonly<Record<SigningAlgorithm, { name: string; type: string; curve?: string }>> = {
  RS256: { name: 'RSA', type: 'rsa' },
  PS256: { name: 'RSA', type: 'rsa' },
  ES256: { name: 'P-256', type: 'ec', curve: 'prime256v1' },
  ES384: { name: 'P-384', type: 'ec', curve: 'secp384r1' },
  EdDSA: { name: 'Ed25519', type: 'ed25519' },
};

/**
 * Reads a key, with its certificate where it has one, and checks that it can sign.
 *
 * @param property what names the files in the configuration, for whoever has to mend it
 * @throws {ServerError} ERR_KEY_UNUSABLE, with the file and the reason
 */
export async function readKeyPair(
  { certificateFile, keyFile, passphrase }: KeyFiles,
  { algorithm = usualAlgorithm, property }: { algorithm?: SigningAlgorithm; property: string },
): Promise<KeyPair> {
  const found = await readKeyFile(keyFile, { algorithm, passphrase, property: `${property}.KeyFile` });
  if (certificateFile === undefined) return found;
  const certificate = readCertificateFile(certificateFile);
  if (!certificate.checkPrivateKey(found.key)) {
    throw new ServerError('ERR_KEY_UNUSABLE', `${certificateFile} is not the certificate of ${keyFile}`);
  }
  return { key: found.key, certificate };
}

async function readKeyFile(
  file: string,
  {
    algorithm,
    passphrase,
    property,
  }: { algorithm: SigningAlgorithm; passphrase: string | undefined; property: string },
): Promise<KeyPair> {
  try {
    const content = readFileSync(file);
    // A PEM file is text, and DER begins with a sequence.
    const found = content[0] === 0x30 ? await openPfx(content, passphrase) : openPem(content, passphrase);
    const { asymmetricKeyDetails: details, asymmetricKeyType: type } = found.key;
    const bits = details?.modulusLength;
    const needed = keyTypes[algorithm];
    if (type !== needed.type || details?.namedCurve !== needed.curve) {
      throw new TypeError(`it is no ${needed.name} key, which ${algorithm} needs`);
    }
    if (bits !== undefined && bits < smallestModulusBits) {
      throw new TypeError(`${bits} bits are too few, ${smallestModulusBits} are needed`);
    }
    return found;
  } catch (cause) {
    throw new ServerError(
      'ERR_KEY_UNUSABLE',
      `the signing key ${file} cannot be used: ${(cause as Error).message}`,
      {
        hint: `${property} names a PEM or PFX file with a private key; see Passphrase if it is encrypted`,
        cause,
      },
    );
  }
}

/**
 * Reads a certificate: PEM, DER, or DER in base64.
 *
 * @throws {ServerError} ERR_KEY_UNUSABLE
 */
export function readCertificateFile(file: string): X509Certificate {
  try {
    const content = readRegularFile(file);
    const isBare = content[0] !== 0x30 && !content.includes('-----');
    return new X509Certificate(isBare ? Buffer.from(content.toString(), 'base64') : content);
  } catch (cause) {
    throw new ServerError('ERR_KEY_UNUSABLE', `the certificate ${file} cannot be read`, { cause });
  }
}

/** When a certificate ends, in seconds since the epoch. */
export function endOf({ validTo }: X509Certificate): number {
  return Math.floor(Date.parse(validTo) / 1000);
}

function openPem(content: Buffer, passphrase: string | undefined): KeyPair {
  const key = createPrivateKey({ key: content, ...(passphrase === undefined ? undefined : { passphrase }) });
  return { key, certificate: undefined };
}

/** Only opens it: what is in it is read and used by Node's own cryptography. */
async function openPfx(content: Buffer, passphrase = ''): Promise<KeyPair> {
  // Loaded only here: it is large, and most keys are PEM files.
  const { default: forge } = await import('node-forge');
  const { asn1, pkcs12, pki } = forge;
  const toDer = (value: object) => Buffer.from(asn1.toDer(value).getBytes(), 'binary');
  const store = pkcs12.pkcs12FromAsn1(asn1.fromDer(content.toString('binary')), passphrase);
  const bagsOf = (bagType: string) => store.getBags({ bagType })[bagType] ?? [];

  const keys = [...bagsOf(pki.oids.pkcs8ShroudedKeyBag), ...bagsOf(pki.oids.keyBag)].map(
    ({ asn1: info, key }) =>
      key
        ? createPrivateKey({ key: toDer(pki.privateKeyToAsn1(key)), format: 'der', type: 'pkcs1' })
        : createPrivateKey({ key: toDer(info ?? {}), format: 'der', type: 'pkcs8' }),
  );
  const certificates = bagsOf(pki.oids.certBag).map(
    ({ asn1: whole, cert }) => new X509Certificate(toDer(cert ? pki.certificateToAsn1(cert) : (whole ?? {}))),
  );
  const [key, ...more] = keys;
  if (key === undefined) throw new TypeError('it holds no private key; export the certificate with its key');
  if (more.length > 0) throw new TypeError('it holds more than one private key');
  return { key, certificate: certificates.find((certificate) => certificate.checkPrivateKey(key)) };
}
