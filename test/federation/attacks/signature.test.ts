/** What the signature says of itself is bent: parts, references, transforms, algorithms, keys. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import test from 'node:test';
import { parseXml, walk } from '../../../src/federation/xml.ts';
import { verifyEnvelopedSignature } from '../../../src/federation/xml-signature.ts';
import {
  createAnswer,
  createSigner,
  enveloped,
  exclusive,
  type SignOptions,
  sign,
} from '../../support/saml-issuer.ts';
import { type Attack, createHonest, idp, mallory, options, testAttacks } from './corpus.ts';

const changed = /the signed content was changed/;
const unknownKey = /by none of the 1 certificates/;
const wrongTransforms = /transforms are not exactly/;
const wrongParts = /is not made of exactly/;
const weak = createSigner('rsa', 512);
const ec = createSigner('ec');

/** An assertion that the identity provider signed in this unusual way. */
const signedWith =
  (signature: Partial<SignOptions>) =>
  ({ unsigned }: { unsigned: string }): string =>
    createAnswer(sign(unsigned, { signer: idp, ...signature }));
const signedInfo = /<ds:SignedInfo>.*<\/ds:SignedInfo>/s;
const forgedInfo = '<ds:SignedInfo><ds:Reference URI="#_evil"></ds:Reference></ds:SignedInfo>';

const parts: readonly Attack[] = [
  {
    name: 'a second SignedInfo before the signed one',
    forge: ({ answer }) => answer.replace('<ds:SignedInfo>', `${forgedInfo}$&`),
    reason: /second SignedInfo/,
  },
  {
    name: 'a second SignedInfo behind the signed one',
    forge: ({ answer }) => answer.replace('</ds:SignedInfo>', `$&${forgedInfo}`),
    reason: /second SignedInfo/,
  },
  {
    name: 'the signed SignedInfo hidden in KeyInfo, another in its place',
    forge: ({ answer }) => {
      const original = signedInfo.exec(answer)?.[0] ?? '';
      return answer
        .replace(original, original.replace(/<ds:DigestValue>[^<]*/, '<ds:DigestValue>AAAA'))
        .replace('</ds:KeyInfo>', `${original}$&`);
    },
    reason: /second SignedInfo/,
  },
  {
    name: 'a SignedInfo of another namespace',
    forge: ({ answer }) => answer.replace('<ds:SignedInfo>', '<SignedInfo xmlns="urn:x"/>$&'),
    reason: /second SignedInfo/,
  },
  {
    name: 'a CanonicalizationMethod before SignedInfo, where a search by name finds it first',
    forge: ({ answer }) =>
      answer.replace('<ds:SignedInfo>', `<ds:CanonicalizationMethod Algorithm="urn:x"/>$&`),
    reason: wrongParts,
  },
  {
    name: 'an Object in the signature',
    forge: ({ answer }) => answer.replace('</ds:Signature>', '<ds:Object>x</ds:Object>$&'),
    reason: wrongParts,
  },
  {
    name: 'a signature without its value',
    forge: ({ answer }) => answer.replace(/<ds:SignatureValue>.*<\/ds:SignatureValue>/, ''),
    reason: wrongParts,
  },
  {
    name: 'an element in the signature value',
    forge: ({ answer }) => answer.replace('<ds:SignatureValue>', '$&<x/>'),
    reason: /SignatureValue has elements/,
  },
  {
    name: 'an element in the digest',
    forge: ({ answer }) => answer.replace('<ds:DigestValue>', '$&<x/>'),
    reason: /DigestValue has elements/,
  },
  {
    name: 'two digests',
    forge: ({ answer }) => answer.replace('<ds:DigestValue>', '<ds:DigestValue>AAAA</ds:DigestValue>$&'),
    reason: wrongParts,
  },
  {
    name: 'an empty signature value',
    forge: ({ answer }) => answer.replace(/(<ds:SignatureValue>)[^<]*/, '$1'),
    reason: /SignatureValue of the signature is empty/,
  },
  {
    name: 'an empty digest',
    forge: ({ answer }) => answer.replace(/(<ds:DigestValue>)[^<]*/, '$1'),
    reason: /DigestValue of the signature is empty/,
  },
];

const references: readonly Attack[] = [
  {
    name: 'an empty reference, which is to the whole document',
    forge: signedWith({ uri: () => '' }),
    reason: /does not refer/,
  },
  {
    name: 'a reference without a URI',
    forge: ({ answer }) => answer.replace(/<ds:Reference URI="[^"]*"/, '<ds:Reference'),
    reason: /does not refer/,
  },
  {
    name: 'a reference by XPointer',
    forge: signedWith({ uri: (id) => `#xpointer(id('${id}'))` }),
    reason: /does not refer/,
  },
  {
    name: 'a reference to another document',
    forge: signedWith({ uri: () => 'https://mallory.example/' }),
    reason: /does not refer/,
  },
  {
    name: 'a reference to another element',
    forge: signedWith({ uri: () => '#_other' }),
    reason: /does not refer/,
  },
  {
    name: 'a second reference',
    forge: ({ answer }) => {
      const reference = /<ds:Reference .*<\/ds:Reference>/s.exec(answer)?.[0] ?? '';
      return answer.replace(reference, `${reference}${reference}`);
    },
    reason: wrongParts,
  },
  {
    name: 'no reference, so that nothing is signed',
    forge: ({ answer }) => answer.replace(/<ds:Reference .*<\/ds:Reference>/s, ''),
    reason: wrongParts,
  },
];

const transforms: readonly Attack[] = [
  ['a transform by XPath', enveloped, 'http://www.w3.org/TR/1999/REC-xpath-19991116', exclusive],
  ['a transform by XPath filter', enveloped, 'http://www.w3.org/2002/06/xmldsig-filter2', exclusive],
  ['a transform by XSLT', enveloped, 'http://www.w3.org/TR/1999/REC-xslt-19991116', exclusive],
  ['a transform by base64', enveloped, 'http://www.w3.org/2000/09/xmldsig#base64', exclusive],
  ['the enveloped signature twice', enveloped, enveloped, exclusive],
  ['exclusive canonicalization twice', enveloped, exclusive, exclusive],
  ['the transforms in the other order', exclusive, enveloped],
  ['the enveloped signature alone', enveloped],
  ['canonicalization alone', exclusive],
  ['inclusive canonicalization', enveloped, 'http://www.w3.org/TR/2001/REC-xml-c14n-20010315'],
  ['canonicalization with comments', enveloped, `${exclusive}WithComments`],
  ['no transform'],
].map(([name = '', ...list]) => ({ name, forge: signedWith({ transforms: list }), reason: wrongTransforms }));

const parameters: readonly Attack[] = [
  {
    name: 'a parameter of a transform that is no PrefixList',
    forge: ({ answer }) =>
      answer.replace(
        `<ds:Transform Algorithm="${exclusive}">`,
        '$&<XPath xmlns="http://www.w3.org/2000/09/xmldsig#">/evil</XPath>',
      ),
    reason: /parameter that is not accepted/,
  },
  {
    name: 'a parameter of the enveloped signature',
    forge: ({ answer }) =>
      answer.replace(
        `<ds:Transform Algorithm="${enveloped}">`,
        `$&<InclusiveNamespaces xmlns="${exclusive}" PrefixList="x"/>`,
      ),
    reason: /parameter that is not accepted/,
  },
  {
    name: 'a PrefixList that was added later',
    forge: ({ answer }) =>
      answer.replace(
        `<ds:Transform Algorithm="${exclusive}">`,
        `$&<InclusiveNamespaces xmlns="${exclusive}" PrefixList="t"/>`,
      ),
    reason: changed,
  },
  {
    name: 'a parameter of the signature method',
    forge: ({ answer }) => answer.replace('#rsa-sha256">', '$&<ds:HMACOutputLength>1</ds:HMACOutputLength>'),
    reason: /signature algorithm is not accepted/,
  },
];

/** The public key as a secret: what HMAC is made with by who has only the metadata. */
const publicPem = String(idp.publicKey.export({ type: 'spki', format: 'pem' }));
const hmac = (uri: string, hash: string): Attack => ({
  name: `${uri} with the public key as the secret`,
  forge: signedWith({
    signatureAlgorithm: uri,
    computeValue: (text) => createHmac(hash, publicPem).update(text).digest('base64'),
  }),
  reason: /signature algorithm is not accepted: .*hmac/,
});

const algorithms: readonly Attack[] = [
  hmac('http://www.w3.org/2000/09/xmldsig#hmac-sha1', 'sha1'),
  hmac('http://www.w3.org/2001/04/xmldsig-more#hmac-sha256', 'sha256'),
  {
    name: 'RSA with SHA-1',
    forge: signedWith({ signatureAlgorithm: 'http://www.w3.org/2000/09/xmldsig#rsa-sha1' }),
    reason: /signature is made with SHA-1, which is not switched on/,
  },
  {
    name: 'a digest by SHA-1 under a signature with SHA-256',
    forge: signedWith({ digestAlgorithm: 'http://www.w3.org/2000/09/xmldsig#sha1' }),
    reason: /digest is made with SHA-1, which is not switched on/,
  },
  {
    name: 'RSA with MD5, SHA-1 switched on',
    forge: signedWith({ signatureAlgorithm: 'http://www.w3.org/2001/04/xmldsig-more#rsa-md5' }),
    reason: /signature algorithm is not accepted/,
    options: { allowSha1: true },
  },
  {
    name: 'DSA',
    forge: signedWith({ signatureAlgorithm: 'http://www.w3.org/2009/xmldsig11#dsa-sha256' }),
    reason: /signature algorithm is not accepted/,
  },
  {
    name: 'an algorithm by the name of a property that every object has',
    forge: signedWith({ signatureAlgorithm: 'constructor', digestAlgorithm: '__proto__' }),
    reason: /signature algorithm is not accepted: constructor/,
  },
  {
    name: 'no algorithm',
    forge: signedWith({ signatureAlgorithm: '' }),
    reason: /signature algorithm is not accepted/,
  },
  {
    name: 'another canonicalization of SignedInfo',
    forge: signedWith({ canonicalizationAlgorithm: 'http://www.w3.org/TR/2001/REC-xml-c14n-20010315' }),
    reason: /canonicalization is not accepted/,
  },
  {
    name: 'ECDSA over a signature by RSA',
    forge: ({ answer }) => answer.replace('#rsa-sha256"', '#ecdsa-sha256"'),
    reason: /no certificate of the metadata is of the kind/,
  },
  {
    name: 'RSA-SHA512 over a signature with SHA-256',
    forge: ({ answer }) => answer.replace('#rsa-sha256"', '#rsa-sha512"'),
    reason: unknownKey,
  },
];

const keys: readonly Attack[] = [
  {
    name: 'a signature by somebody else, whose certificate is in KeyInfo',
    forge: signedWith({ signer: mallory }),
    reason: unknownKey,
  },
  {
    name: 'a signature by somebody else under the certificate of the identity provider',
    forge: signedWith({ signer: mallory, keyInfo: idp.certificate }),
    reason: unknownKey,
  },
  {
    name: 'a signature by somebody else without KeyInfo',
    forge: signedWith({ signer: mallory, keyInfo: null }),
    reason: unknownKey,
  },
  {
    name: 'a signature by somebody else with both certificates in KeyInfo',
    forge: ({ unsigned }) =>
      createAnswer(
        sign(unsigned, { signer: mallory }).replace(
          '<ds:X509Certificate>',
          `<ds:X509Certificate>${idp.certificate}</ds:X509Certificate>$&`,
        ),
      ),
    reason: unknownKey,
  },
  {
    name: 'a bare public key in KeyInfo',
    forge: ({ unsigned }) => {
      const { n = '', e = '' } = mallory.publicKey.export({ format: 'jwk' });
      return createAnswer(
        sign(unsigned, { signer: mallory }).replace(
          /<ds:X509Data>.*<\/ds:X509Data>/,
          `<ds:KeyValue><ds:RSAKeyValue><ds:Modulus>${Buffer.from(n, 'base64url').toString('base64')}</ds:Modulus><ds:Exponent>${Buffer.from(e, 'base64url').toString('base64')}</ds:Exponent></ds:RSAKeyValue></ds:KeyValue>`,
        ),
      );
    },
    reason: unknownKey,
  },
  {
    name: 'an EC key where the metadata has an RSA key',
    forge: signedWith({
      signer: ec,
      signatureAlgorithm: 'http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256',
    }),
    reason: /no certificate of the metadata is of the kind/,
  },
  {
    name: 'an RSA key so short that anybody can find it, even from the metadata',
    forge: signedWith({ signer: weak }),
    reason: /by none of the 2 certificates/,
    options: { certificates: [...options.certificates, weak.certificate] },
  },
];

const contents: readonly Attack[] = [
  {
    name: 'another name',
    forge: ({ answer }) => answer.replace('>alice@example.com<', '>mallory@example.com<'),
    reason: changed,
  },
  {
    name: 'a claim more',
    forge: ({ answer }) =>
      answer.replace(
        '<saml:AttributeValue>',
        '<saml:AttributeValue>mallory@example.com</saml:AttributeValue>$&',
      ),
    reason: changed,
  },
  {
    name: 'a claim less',
    forge: ({ answer }) => answer.replace(/<saml:AttributeValue>reader<\/saml:AttributeValue>/, ''),
    reason: changed,
  },
  {
    name: 'an attribute more',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x="y" '),
    reason: changed,
  },
  {
    name: 'white space more',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '\n$&'),
    reason: changed,
  },
  {
    name: 'a later expiry',
    forge: ({ answer }) => answer.replace(/NotOnOrAfter="2026/, 'NotOnOrAfter="2036'),
    reason: changed,
  },
  {
    name: 'another audience',
    forge: ({ answer }) => answer.replace('urn:intelligence<', 'urn:other<'),
    reason: changed,
  },
  {
    name: 'another prefix for the same namespace',
    forge: ({ answer }) => answer.replaceAll(/saml([:=])/g, 's$1'),
    reason: changed,
  },
  {
    name: 'a namespace redefined on the way to the claims',
    forge: ({ answer }) =>
      answer.replace('<saml:AttributeStatement>', '<saml:AttributeStatement xmlns:saml="urn:x">'),
    reason: changed,
  },
];

testAttacks([...parts, ...references, ...transforms, ...parameters, ...algorithms, ...keys, ...contents]);

test('what is given back is what was signed: neither the signature nor what canonicalization leaves out', () => {
  const { unsigned, answer } = createHonest();
  // xml-crypto takes whatever begins so for a namespace declaration: here the document and the signed bytes differ.
  const document = parseXml(answer.replace('<saml:Conditions ', '$&xmlnsEvil="x" '), {
    maxCharacters: 100_000,
    maxElements: 1_000,
  });
  const assertion = [...walk(document.root)].find(({ localName }) => localName === 'Assertion');
  assert.ok(assertion);

  const signed = verifyEnvelopedSignature(document, assertion, 'ID', { certificates: options.certificates });

  assert.equal(signed, unsigned.replaceAll(/<([\w:]+)([^>]*)\/>/g, '<$1$2></$1>'));
});
