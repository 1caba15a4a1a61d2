/**
 * Encrypted elements (XML Encryption 1.1): a content key, itself encrypted for our RSA key. Pure.
 *
 * Encryption proves nothing about who encrypted, for our public key is public. What comes out is as untrusted as
 * what went in, and is verified from the beginning.
 */
import { type Element, XMLSerializer } from '@xmldom/xmldom';
import { decrypt } from 'xml-encryption';
import { getChild, isNamed, Refusal, walk } from './xml.ts';

export interface DecryptionPolicy {
  /** RSA private keys, PEM; each is tried. */
  readonly decryptionKeys: readonly string[];
  readonly allowCbc?: boolean | undefined;
}

export const encryptionNamespace = 'http://www.w3.org/2001/04/xmlenc#';

const contentAlgorithms = [
  'http://www.w3.org/2009/xmlenc11#aes128-gcm',
  'http://www.w3.org/2009/xmlenc11#aes256-gcm',
];
/** Unauthenticated: whoever can have answers decrypted, and tell good padding from bad, reads them. */
const cbcAlgorithms = [
  'http://www.w3.org/2001/04/xmlenc#aes128-cbc',
  'http://www.w3.org/2001/04/xmlenc#aes256-cbc',
];
/** RSA with OAEP. RSA 1.5 is never admitted: it has the same weakness, and nothing sends it any more. */
const keyAlgorithms = [
  'http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p',
  'http://www.w3.org/2009/xmlenc11#rsa-oaep',
];

/**
 * Decrypts the one EncryptedData in `container`, or that `container` is, and hands the text to `read`.
 *
 * Whether the key, the padding or what `read` makes of the text is wrong is one and the same refusal, without a
 * cause: the difference is what attacks on CBC and RSA live on.
 *
 * @throws {Refusal} with the reason
 */
export function decryptElement<T>(
  container: Element,
  { decryptionKeys, allowCbc = false }: DecryptionPolicy,
  read: (text: string) => T,
): T {
  verifyAlgorithms(container, allowCbc);
  const encrypted = new XMLSerializer().serializeToString(container);
  for (const key of decryptionKeys) {
    try {
      return read(decryptWith(key, encrypted, allowCbc));
    } catch {
      // The next key may be the right one.
    }
  }
  throw new Refusal('the assertion could not be decrypted with the decryption certificate');
}

function verifyAlgorithms(container: Element, allowCbc: boolean): void {
  const data = getOnly(container, 'EncryptedData');
  const content = algorithmOf(data);
  if (!contentAlgorithms.includes(content)) {
    if (!cbcAlgorithms.includes(content))
      throw new Refusal(`the encryption algorithm is not accepted: ${content.slice(0, 100)}`);
    if (!allowCbc) {
      throw new Refusal(
        'the assertion is encrypted with AES-CBC, which is not switched on for this identity provider',
      );
    }
  }
  const key = algorithmOf(getOnly(container, 'EncryptedKey'));
  if (!keyAlgorithms.includes(key))
    throw new Refusal(`the encryption algorithm of the key is not accepted: ${key.slice(0, 100)}`);
}

function getOnly(container: Element, name: string): Element {
  const [element, ...others] = Array.from(walk(container)).filter((one) =>
    isNamed(one, encryptionNamespace, name),
  );
  if (element === undefined || others.length > 0) {
    throw new Refusal(`the encrypted assertion does not have exactly one ${name}`);
  }
  return element;
}

function algorithmOf(element: Element): string {
  return getChild(element, encryptionNamespace, 'EncryptionMethod').getAttributeNS(null, 'Algorithm') ?? '';
}

function decryptWith(key: string, encrypted: string, allowCbc: boolean): string {
  let result: string | undefined;
  decrypt(
    encrypted,
    { key, disallowDecryptionWithInsecureAlgorithm: !allowCbc, warnInsecureAlgorithm: false },
    (err, text) => {
      if (err !== null && err !== undefined) throw err;
      result = text;
    },
  );
  if (result === undefined) throw new Error('nothing was decrypted');
  return result;
}
