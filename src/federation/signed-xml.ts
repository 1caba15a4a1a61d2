/**
 * The signature over one element of a document (XML Signature, enveloped): verified with pinned certificates, in
 * the one shape that identity providers use. What comes out are the bytes that were signed; nothing else of the
 * document means anything.
 */
import { X509Certificate } from 'node:crypto';
import { SignedXml } from 'xml-crypto';
import { attributeOf, childElements, type Element, onlyChild, textOf, XmlError } from './xml.ts';

export const signatureNamespace = 'http://www.w3.org/2000/09/xmldsig#';
const exclusive = 'http://www.w3.org/2001/10/xml-exc-c14n#';
const enveloped = 'http://www.w3.org/2000/09/xmldsig#enveloped-signature';

const signatureMethods = new Set([
  'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
  'http://www.w3.org/2001/04/xmldsig-more#rsa-sha512',
]);
const digestMethods = new Set([
  'http://www.w3.org/2001/04/xmlenc#sha256',
  'http://www.w3.org/2001/04/xmlenc#sha512',
]);
const sha1Methods = {
  signature: 'http://www.w3.org/2000/09/xmldsig#rsa-sha1',
  digest: 'http://www.w3.org/2000/09/xmldsig#sha1',
};

/** Smaller RSA keys can be factored. */
const leastKeyBits = 2048;

/** None of the certificates made the signature: the identity provider may have a new key. */
export class UnknownKeyError extends XmlError {}

export interface SignatureOptions {
  /** Base64 DER, as in metadata. */
  readonly certificates: readonly string[];
  readonly idAttribute: 'AssertionID' | 'ID';
  readonly allowSha1: boolean;
}

/**
 * Verifies the signature that is a direct child of `signed` over it, and returns the canonical bytes that were
 * signed.
 *
 * @param text the whole document that `signed` was parsed from
 * @throws {UnknownKeyError} where no certificate fits, {@link XmlError} for every other shape or algorithm
 */
export function verifySignature(text: string, signed: Element, options: SignatureOptions): string {
  const { certificates, idAttribute, allowSha1 } = options;
  const [signature, ...others] = childElements(signed, signatureNamespace, 'Signature');
  if (signature === undefined || others.length > 0) throw new XmlError('no signature of its own, or several');
  checkShape(signature, attributeOf(signed, idAttribute) ?? '', allowSha1);

  for (const certificate of certificates) {
    const key = toKey(certificate);
    if (key === undefined) continue;
    const bytes = verifyWith(key, text, signature.toString(), idAttribute);
    if (bytes !== undefined) return bytes;
  }
  throw new UnknownKeyError(
    certificates.length === 0
      ? 'no certificate to verify it with'
      : 'the signature fits none of the certificates',
  );
}

/** SignedInfo with one reference to `id`, by exactly the two transforms, and algorithms that hold. */
function checkShape(signature: Element, id: string, allowSha1: boolean): void {
  const refuse = (what: string): never => {
    throw new XmlError(`signature: ${what}`);
  };
  const names = childElements(signature).map(({ localName, namespaceURI }) =>
    namespaceURI === signatureNamespace ? localName : undefined,
  );
  if (!/^SignedInfo,SignatureValue(,KeyInfo)?$/.test(names.join(','))) refuse('unusual parts');
  const info = onlyChild(signature, signatureNamespace, 'SignedInfo') ?? refuse('not one SignedInfo');
  const parts = childElements(info);
  const [canonicalization, method, reference] = parts;
  const partNames = parts.map(({ localName }) => localName).join(',');
  if (
    canonicalization === undefined ||
    method === undefined ||
    reference === undefined ||
    partNames !== 'CanonicalizationMethod,SignatureMethod,Reference'
  ) {
    throw new XmlError('signature: SignedInfo is not one reference');
  }
  if (attributeOf(canonicalization, 'Algorithm') !== exclusive) refuse('canonicalization is not exclusive');
  const methodName = attributeOf(method, 'Algorithm') ?? '';
  if (!signatureMethods.has(methodName) && !(allowSha1 && methodName === sha1Methods.signature)) {
    refuse('its algorithm is not allowed');
  }
  if (childElements(method).length > 0) refuse('parameters of the algorithm');

  if (id === '' || attributeOf(reference, 'URI') !== `#${id}`) refuse('it is over something else');
  if (
    childElements(reference)
      .map(({ localName }) => localName)
      .join(',') !== 'Transforms,DigestMethod,DigestValue'
  ) {
    refuse('unusual parts of the reference');
  }
  const [transforms, digestMethod, digestValue] = childElements(reference);
  const algorithms = (transforms === undefined ? [] : childElements(transforms)).map((transform) =>
    attributeOf(transform, 'Algorithm'),
  );
  if (algorithms.join(' ') !== `${enveloped} ${exclusive}`)
    refuse('transforms are not enveloped and exclusive');
  const digestName = (digestMethod && attributeOf(digestMethod, 'Algorithm')) ?? '';
  if (!digestMethods.has(digestName) && !(allowSha1 && digestName === sha1Methods.digest)) {
    refuse('its digest algorithm is not allowed');
  }
  if (!/^[A-Za-z0-9+/=\s]+$/.test(textOf(digestValue) ?? '')) refuse('its digest is no base64');
}

function toKey(certificate: string): string | undefined {
  try {
    const { publicKey } = new X509Certificate(Buffer.from(certificate, 'base64'));
    const { asymmetricKeyDetails, asymmetricKeyType } = publicKey;
    const isUsable =
      asymmetricKeyType === 'rsa' && (asymmetricKeyDetails?.modulusLength ?? 0) >= leastKeyBits;
    return isUsable ? publicKey.export({ format: 'pem', type: 'spki' }).toString() : undefined;
  } catch {
    return undefined;
  }
}

/** A fresh verifier each time: it takes no key from the document, and shows only what it has authenticated. */
function verifyWith(key: string, text: string, signature: string, idAttribute: string): string | undefined {
  // ID is among those that it knows; named again it would find every element twice.
  const more = idAttribute === 'ID' ? {} : { idAttribute };
  const verifier = new SignedXml({ publicCert: key, getCertFromKeyInfo: () => null, ...more });
  try {
    verifier.loadSignature(signature);
    if (!verifier.checkSignature(text)) return undefined;
  } catch {
    return undefined;
  }
  const [bytes, ...others] = verifier.getSignedReferences();
  return others.length === 0 ? bytes : undefined;
}
