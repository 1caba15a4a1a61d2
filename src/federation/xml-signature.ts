/**
 * Enveloped XML signatures (XML Signature 1.1), in the one form that SAML Core 2.0 section 5.4 asks for. Pure.
 *
 * A signature proves a text and not a place in a document. So what is given back is that text: whoever reads
 * anything else than it reads what an attacker may have written.
 */
import { createHash, type KeyLike, type KeyObject, verify, X509Certificate } from 'node:crypto';
import type { Element } from '@xmldom/xmldom';
import { SignedXml } from 'xml-crypto';
import {
  children,
  findAttribute,
  getChild,
  isNamed,
  Refusal,
  textOf,
  walk,
  type XmlDocument,
} from './xml.ts';

export interface SignaturePolicy {
  /** Certificates whose keys may have signed, base64 DER. */
  readonly certificates: readonly string[];
  readonly allowSha1?: boolean | undefined;
}

/** No key that was offered has made the signature, though what it is over is whole: it may be a new key. */
export class UnknownKeyRefusal extends Refusal {}

const namespace = 'http://www.w3.org/2000/09/xmldsig#';
const enveloped = 'http://www.w3.org/2000/09/xmldsig#enveloped-signature';
const exclusive = 'http://www.w3.org/2001/10/xml-exc-c14n#';
/** WIF verifies with RSA keys from this size on. */
const minimumRsaBits = 1024;

interface SignatureMethod {
  keyType: 'rsa' | 'ec';
  hash: string;
}

/** Algorithms by URI. What is not here does not exist: above all no HMAC, for which a public key is a secret. */
const signatureMethods: ReadonlyMap<string, SignatureMethod> = new Map([
  ['http://www.w3.org/2001/04/xmldsig-more#rsa-sha256', { keyType: 'rsa', hash: 'sha256' }],
  ['http://www.w3.org/2001/04/xmldsig-more#rsa-sha384', { keyType: 'rsa', hash: 'sha384' }],
  ['http://www.w3.org/2001/04/xmldsig-more#rsa-sha512', { keyType: 'rsa', hash: 'sha512' }],
  ['http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256', { keyType: 'ec', hash: 'sha256' }],
  ['http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384', { keyType: 'ec', hash: 'sha384' }],
  ['http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512', { keyType: 'ec', hash: 'sha512' }],
]);
const sha1SignatureMethods: ReadonlyMap<string, SignatureMethod> = new Map([
  ['http://www.w3.org/2000/09/xmldsig#rsa-sha1', { keyType: 'rsa', hash: 'sha1' }],
]);
const digestMethods: ReadonlyMap<string, string> = new Map([
  ['http://www.w3.org/2001/04/xmlenc#sha256', 'sha256'],
  ['http://www.w3.org/2001/04/xmldsig-more#sha384', 'sha384'],
  ['http://www.w3.org/2001/04/xmlenc#sha512', 'sha512'],
]);
const sha1DigestMethods: ReadonlyMap<string, string> = new Map([
  ['http://www.w3.org/2000/09/xmldsig#sha1', 'sha1'],
]);

/**
 * Verifies the signature that `element`, whose attribute `idAttribute` is its id, carries as its child, and returns
 * the bytes that were signed: the element in canonical form, without its signature.
 *
 * The certificate in KeyInfo proves nothing, for the sender chose it: only those of the policy are tried.
 *
 * @throws {Refusal} with the reason
 * @see XML Signature 1.1 section 3.2
 */
export function verifyEnvelopedSignature(
  document: XmlDocument,
  element: Element,
  idAttribute: string,
  { certificates, allowSha1 = false }: SignaturePolicy,
): string {
  const id = getUniqueId(document.root, element, idAttribute);
  const signature = getOnlySignature(document.root, element);
  const { method, digest } = readMethods(signature, id, allowSha1);

  const keys = certificates.map(toPublicKey).filter((key) => isFit(key, method.algorithm));
  if (keys.length === 0) {
    throw new UnknownKeyRefusal('no certificate of the metadata is of the kind that the signature names');
  }
  const attempt = { hasDigestMatched: false };
  const verifier = createVerifier({ keys, idAttribute, method, digest }, attempt);
  let cause: unknown;
  try {
    verifier.loadSignature(signature as unknown as Parameters<SignedXml['loadSignature']>[0]);
    if (verifier.checkSignature(document.text) === true) {
      const [signed, ...others] = verifier.getSignedReferences();
      if (signed !== undefined && others.length === 0) return signed;
    }
  } catch (err) {
    // It throws for a wrong signature value as for what it cannot process.
    cause = err;
  }
  if (attempt.hasDigestMatched) {
    throw new UnknownKeyRefusal(
      `the signature is by none of the ${certificates.length} certificates of the metadata${describeKeyInfo(signature)}`,
      { cause },
    );
  }
  throw cause === undefined
    ? new Refusal('the signed content was changed: its digest is not the one in the signature')
    : new Refusal('the signature cannot be processed', { cause });
}

/**
 * The id of the element, after making sure that no other element answers to the same one under any of the names
 * that products give to ids: the verifier and the reader would look at different elements.
 */
function getUniqueId(root: Element, element: Element, idAttribute: string): string {
  const id = findAttribute(element, idAttribute);
  if (id === undefined) throw new Refusal(`the assertion has no ${idAttribute}`);
  // It becomes part of an XPath expression, and a key in the memory of what was used.
  if (!/^[\p{L}\p{N}_.-]{1,256}$/u.test(id)) throw new Refusal('the id of the assertion is none');
  const seen = new Set<string>();
  for (const { attributes } of walk(root)) {
    for (const attribute of Array.from(attributes)) {
      if (!/^(id|assertionid)$/i.test(attribute.localName ?? attribute.name)) continue;
      if (seen.has(attribute.value)) throw new Refusal('an id occurs twice');
      seen.add(attribute.value);
    }
  }
  return id;
}

function getOnlySignature(root: Element, element: Element): Element {
  const all = Array.from(walk(root)).filter(({ localName }) => localName === 'Signature');
  const [signature, ...others] = all.filter(({ parentNode }) => parentNode === element);
  if (signature === undefined) {
    throw new Refusal(
      all.length > 0 ? 'the signature is not a child of the assertion' : 'the assertion is not signed',
    );
  }
  if (others.length > 0 || all.length > 1) throw new Refusal('there is more than one signature');
  if (!isNamed(signature, namespace, 'Signature')) throw new Refusal('the signature is of another namespace');
  return signature;
}

/**
 * Reads which algorithms the signature names, after comparing all of it with the only shape that is accepted: the
 * verifier finds its parts by name anywhere beneath the signature.
 */
function readMethods(signature: Element, id: string, allowSha1: boolean) {
  if (Array.from(walk(signature)).filter(({ localName }) => localName === 'SignedInfo').length > 1) {
    throw new Refusal('the signature has a second SignedInfo');
  }
  verifyParts(signature, 'SignedInfo SignatureValue', 'KeyInfo');
  const signedInfo = getChild(signature, namespace, 'SignedInfo');
  verifyParts(signedInfo, 'CanonicalizationMethod SignatureMethod Reference');
  verifyValue(getChild(signature, namespace, 'SignatureValue'));

  const canonicalization = getChild(signedInfo, namespace, 'CanonicalizationMethod');
  if (algorithmOf(canonicalization) !== exclusive) {
    throw new Refusal(`the canonicalization is not accepted: ${shorten(algorithmOf(canonicalization))}`);
  }
  verifyPrefixList(canonicalization);

  const reference = getChild(signedInfo, namespace, 'Reference');
  if (reference.getAttributeNS(null, 'URI') !== `#${id}`) {
    throw new Refusal('the signature does not refer to the assertion by its id');
  }
  verifyParts(reference, 'Transforms DigestMethod DigestValue');
  verifyValue(getChild(reference, namespace, 'DigestValue'));
  const transforms = children(getChild(reference, namespace, 'Transforms'));
  if (
    !transforms.every((transform) => isNamed(transform, namespace, 'Transform')) ||
    transforms.map(algorithmOf).join(' ') !== `${enveloped} ${exclusive}`
  ) {
    throw new Refusal(
      'the transforms are not exactly "enveloped signature" and "exclusive canonicalization"',
    );
  }
  for (const transform of transforms) verifyPrefixList(transform);

  const signatureMethod = getChild(signedInfo, namespace, 'SignatureMethod');
  const digestMethod = getChild(reference, namespace, 'DigestMethod');
  return {
    method: chooseAlgorithm('signature', signatureMethod, signatureMethods, allowSha1, sha1SignatureMethods),
    digest: chooseAlgorithm('digest', digestMethod, digestMethods, allowSha1, sha1DigestMethods),
  };
}

/** Compares the child elements with the required names, in order, and one that may follow. */
function verifyParts(element: Element, required: string, optional?: string): void {
  const parts = children(element);
  const names = parts.map(({ localName }) => localName).join(' ');
  const accepted = optional === undefined ? [required] : [required, `${required} ${optional}`];
  if (!accepted.includes(names) || !parts.every((part) => part.namespaceURI === namespace)) {
    throw new Refusal(`${element.localName} of the signature is not made of exactly ${required}`);
  }
}

function verifyValue(element: Element): void {
  if (textOf(element) === '') throw new Refusal(`${element.localName} of the signature is empty`);
}

/** Exclusive canonicalization has one parameter, the prefixes to treat inclusively; OpenSAML sends it. */
function verifyPrefixList(parent: Element): void {
  const [parameter, ...others] = children(parent);
  if (parameter === undefined) return;
  if (
    others.length > 0 ||
    algorithmOf(parent) !== exclusive ||
    !isNamed(parameter, exclusive, 'InclusiveNamespaces') ||
    children(parameter).length > 0
  ) {
    throw new Refusal(`${parent.localName} of the signature has a parameter that is not accepted`);
  }
}

function algorithmOf(element: Element): string {
  return element.getAttributeNS(null, 'Algorithm') ?? '';
}

/** What the sender wrote, for the log. */
function shorten(text: string): string {
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

function chooseAlgorithm<T>(
  what: string,
  element: Element,
  accepted: ReadonlyMap<string, T>,
  allowSha1: boolean,
  withSha1: ReadonlyMap<string, T>,
): { uri: string; algorithm: T } {
  const uri = algorithmOf(element);
  const algorithm = accepted.get(uri) ?? withSha1.get(uri);
  if (algorithm === undefined || children(element).length > 0) {
    throw new Refusal(`the ${what} algorithm is not accepted: ${shorten(uri)}`);
  }
  if (withSha1.has(uri) && !allowSha1) {
    throw new Refusal(`the ${what} is made with SHA-1, which is not switched on for this identity provider`);
  }
  return { uri, algorithm };
}

function toPublicKey(certificate: string): KeyObject {
  try {
    return new X509Certificate(Buffer.from(certificate, 'base64')).publicKey;
  } catch (err) {
    throw new Refusal('a certificate of the metadata cannot be read', { cause: err });
  }
}

function isFit(
  { asymmetricKeyType, asymmetricKeyDetails }: KeyObject,
  { keyType }: SignatureMethod,
): boolean {
  if (asymmetricKeyType !== keyType) return false;
  return asymmetricKeyType !== 'rsa' || (asymmetricKeyDetails?.modulusLength ?? 0) >= minimumRsaBits;
}

interface VerifierOptions {
  keys: readonly KeyObject[];
  idAttribute: string;
  method: { uri: string; algorithm: SignatureMethod };
  digest: { uri: string; algorithm: string };
}

/**
 * A verifier for one signature, that knows no algorithm but the two which this one names and no keys but these. It
 * tries them by itself: for one verifier each, xml-crypto would parse and canonicalize the document each time.
 */
function createVerifier(
  { keys, idAttribute, method, digest }: VerifierOptions,
  attempt: { hasDigestMatched: boolean },
): SignedXml {
  const verifier = new SignedXml({ publicCert: keys[0] ?? '', getCertFromKeyInfo: () => null });
  verifier.idAttributes = [idAttribute];
  const { [enveloped]: envelopedTransform, [exclusive]: exclusiveTransform } =
    verifier.CanonicalizationAlgorithms;
  if (envelopedTransform === undefined || exclusiveTransform === undefined) {
    throw new Error('xml-crypto lacks a transform');
  }
  verifier.CanonicalizationAlgorithms = { [enveloped]: envelopedTransform, [exclusive]: exclusiveTransform };
  verifier.HashAlgorithms = {
    [digest.uri]: class {
      getAlgorithmName = () => digest.uri;
      getHash = (text: string) => createHash(digest.algorithm).update(text, 'utf8').digest('base64');
    },
  };
  verifier.SignatureAlgorithms = {
    [method.uri]: class {
      getAlgorithmName = () => method.uri;
      getSignature(): never {
        throw new Error('nothing is signed here');
      }
      /** xml-crypto comes here when the digest has matched; the key that it chose is not used. */
      verifySignature(signedInfo: string, _key: KeyLike, value: string): boolean {
        attempt.hasDigestMatched = true;
        const signature = Buffer.from(value, 'base64');
        // XML Signature 1.1 section 6.4.3: an ECDSA signature is r and s, one after the other.
        return keys.some((key) =>
          verify(
            method.algorithm.hash,
            Buffer.from(signedInfo),
            { key, dsaEncoding: 'ieee-p1363' },
            signature,
          ),
        );
      }
    },
  };
  return verifier;
}

/** The thumbprints, as administrators know them, of the certificates that the answer names. */
function describeKeyInfo(signature: Element): string {
  const thumbprints = Array.from(walk(signature))
    .filter((element) => isNamed(element, namespace, 'X509Certificate'))
    .slice(0, 3)
    .map(({ textContent }) =>
      createHash('sha1')
        .update(Buffer.from(textContent ?? '', 'base64'))
        .digest('hex'),
    );
  return thumbprints.length === 0 ? '' : `; it names the one with the thumbprint ${thumbprints.join(', ')}`;
}
