/** The signature is real, and what stands beside, around or inside it is not: XML signature wrapping and its kin. */
import {
  createAnswer,
  createAssertion,
  createSignature,
  sign,
  trustNamespaces,
} from '../../support/saml-issuer.ts';
import { type Attack, idp, mallory, testAttacks } from './corpus.ts';

const manyTokens = /more than one token/;
const trust = trustNamespaces['2005/02'];
const object = (content: string) => `<ds:Object>${content}</ds:Object>`;
/** The signature with `content` as an Object at its end. */
const carrying = (signature: string, content: string) =>
  signature.replace('</ds:Signature>', `${object(content)}</ds:Signature>`);

/**
 * The eight of Somorovsky and others, "On Breaking SAML: Be Whoever You Want to Be" (2012), with the
 * RequestSecurityTokenResponse in the place of the Response.
 */
const wrappings: readonly Attack[] = [
  {
    name: 'XSW1: the honest answer inside the signature of a forged one',
    forge: ({ answer, signature, evil }) => createAnswer(evil(carrying(signature, answer))),
    reason: manyTokens,
  },
  {
    name: 'XSW2: the honest answer beside a signature that was taken out of it',
    forge: ({ unsigned, signature, evil }) =>
      createAnswer(evil(), { around: `${createAnswer(unsigned)}${signature}` }),
    reason: manyTokens,
  },
  {
    name: 'XSW3: a forged assertion before the honest one',
    forge: ({ assertion, evil }) => createAnswer(`${evil()}${assertion}`),
    reason: manyTokens,
  },
  {
    name: 'XSW4: the honest assertion inside a forged one',
    forge: ({ assertion, evil }) => createAnswer(evil(assertion)),
    reason: manyTokens,
  },
  {
    name: 'XSW5: a forged assertion with the signature, the honest one without it behind',
    forge: ({ unsigned, signature, evil }) => createAnswer(`${evil(signature)}${unsigned}`),
    reason: manyTokens,
  },
  {
    name: 'XSW6: the honest assertion inside the signature inside a forged one',
    forge: ({ unsigned, signature, evil }) =>
      createAnswer(evil(signature.replace('</ds:Signature>', `${unsigned}</ds:Signature>`))),
    reason: manyTokens,
  },
  {
    name: 'XSW7: a forged assertion in an extension before the honest one',
    forge: ({ assertion, evil }) => createAnswer(assertion, { around: `<Extensions>${evil()}</Extensions>` }),
    reason: manyTokens,
  },
  {
    name: 'XSW8: the honest assertion in an Object of the signature of a forged one',
    forge: ({ unsigned, signature, evil }) => createAnswer(evil(carrying(signature, unsigned))),
    reason: manyTokens,
  },
  {
    name: 'XSW3 to XSW8 with the id of the honest assertion',
    forge: ({ unsigned, signature, evil, id }) => createAnswer(evil(carrying(signature, unsigned), id)),
    reason: manyTokens,
  },
  {
    name: 'a second token in a second RequestedSecurityToken',
    forge: ({ assertion, evil }) =>
      createAnswer(assertion, { around: `<t:RequestedSecurityToken>${evil()}</t:RequestedSecurityToken>` }),
    reason: manyTokens,
  },
  {
    name: 'a second answer in a collection',
    forge: ({ assertion, evil }) =>
      createAnswer(assertion, { isCollection: true }).replace(
        '</t:RequestSecurityTokenResponseCollection>',
        `<t:RequestSecurityTokenResponse><t:RequestedSecurityToken>${evil()}</t:RequestedSecurityToken></t:RequestSecurityTokenResponse>$&`,
      ),
    reason: /does not have exactly one RequestSecurityTokenResponse/,
  },
  {
    name: 'a forged assertion of the other version of SAML beside the honest one',
    forge: ({ assertion, version }) =>
      createAnswer(assertion, {
        around: createAssertion({ version: version === '1.1' ? '2.0' : '1.1', id: '_evil' }),
      }),
    reason: manyTokens,
  },
  {
    name: 'a forged assertion in the Advice of the honest one, added later',
    forge: ({ answer, evil }) =>
      answer.replace('</saml:Assertion>', `<saml:Advice>${evil()}</saml:Advice>$&`),
    reason: manyTokens,
  },
  {
    name: 'an encrypted assertion beside the honest one',
    forge: ({ assertion }) =>
      createAnswer(assertion, {
        around: '<EncryptedAssertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion"/>',
      }),
    reason: manyTokens,
  },
];

const misplaced: readonly Attack[] = [
  {
    name: 'no signature at all',
    forge: ({ unsigned }) => createAnswer(unsigned),
    reason: /not signed/,
  },
  {
    name: 'the signature moved out of the assertion, beside its answer',
    forge: ({ unsigned, signature }) => createAnswer(unsigned, { around: signature }),
    reason: /not a child of the assertion/,
  },
  {
    name: 'the signature moved out of the assertion, beside it',
    forge: ({ unsigned, signature }) => createAnswer(`${unsigned}${signature}`),
    reason: manyTokens,
  },
  {
    name: 'the signature moved deeper into the assertion',
    forge: ({ unsigned, signature }) => createAnswer(unsigned.replace('<saml:Subject>', `$&${signature}`)),
    reason: /not a child of the assertion/,
  },
  {
    name: 'a signed answer with an unsigned assertion',
    forge: ({ unsigned }) => {
      const answer = createAnswer(unsigned).replace('<t:RequestSecurityTokenResponse', '$& ID="_rstr"');
      const signature = createSignature(answer, { signer: idp, uri: () => '#_rstr' });
      return answer.replace('</t:RequestSecurityTokenResponse>', `${signature}$&`);
    },
    reason: /not a child of the assertion/,
  },
  {
    name: 'a signed assertion in an answer that somebody else signed',
    forge: ({ answer }) => {
      const signed = answer.replace('<t:RequestSecurityTokenResponse', '$& ID="_rstr"');
      const signature = createSignature(signed, { signer: mallory, uri: () => '#_rstr' });
      return signed.replace('</t:RequestSecurityTokenResponse>', `${signature}$&`);
    },
    reason: /more than one signature/,
  },
  {
    name: 'a second signature in the assertion, by somebody else',
    forge: ({ assertion, unsigned }) =>
      createAnswer(
        assertion.replace(/<ds:Signature /, `${createSignature(unsigned, { signer: mallory })}$&`),
      ),
    reason: /more than one signature/,
  },
  {
    name: 'a signature in another namespace',
    forge: ({ answer }) => answer.replaceAll('http://www.w3.org/2000/09/xmldsig#"', 'urn:other"'),
    reason: /signature is of another namespace/,
  },
];

const duplicateId = (spelling: string): Attack => ({
  name: `an element whose ${spelling} is the id of the assertion`,
  forge: ({ answer, id }) =>
    answer.replace(
      '<t:RequestedSecurityToken>',
      `<x xmlns:wsu="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd" ${spelling}="${id}"/>$&`,
    ),
  reason: /an id occurs twice/,
});

const ids: readonly Attack[] = [
  ...['ID', 'Id', 'id', 'iD', 'AssertionID', 'xml:id', 'wsu:Id'].map(duplicateId),
  {
    name: 'two ids on the assertion, the second of another spelling and the same value',
    forge: ({ answer, id }) => answer.replace('<saml:Assertion ', `$&Id="${id}" `),
    reason: /an id occurs twice/,
  },
  {
    name: 'an assertion with another id than the one that is signed',
    forge: ({ answer, id }) =>
      answer.replace(`ID="${id}"`, 'ID="_evil"').replace('<t:RequestedSecurityToken>', `<x Id="${id}"/>$&`),
    reason: /does not refer to the assertion by its id/,
  },
  {
    name: 'an id that would end the expression it becomes part of',
    forge: ({ answer, id }) => answer.replaceAll(id, "x' or '1'='1"),
    reason: /id of the assertion is none/,
  },
  {
    name: 'no id and an empty reference',
    forge: ({ unsigned, id }) => {
      const nameless = unsigned.replace(/ (ID|AssertionID)="[^"]*"/, '');
      return createAnswer(sign(nameless, { signer: idp, uri: () => '' })).replaceAll(id, '');
    },
    reason: /the assertion has no (ID|AssertionID)/,
  },
];

const containers: readonly Attack[] = [
  {
    name: 'an assertion without an answer around it',
    forge: ({ assertion }) => assertion,
    reason: /not a RequestSecurityTokenResponse/,
  },
  {
    name: 'a Response of SAML',
    forge: ({ assertion }) =>
      `<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol">${assertion}</samlp:Response>`,
    reason: /not a RequestSecurityTokenResponse/,
  },
  {
    name: 'an answer in a namespace that is not of WS-Trust',
    forge: ({ answer }) => answer.replaceAll(trust, 'urn:other'),
    reason: /not a RequestSecurityTokenResponse/,
  },
  {
    name: 'an assertion outside RequestedSecurityToken',
    forge: ({ assertion }) =>
      `<t:RequestSecurityTokenResponse xmlns:t="${trust}">${assertion}</t:RequestSecurityTokenResponse>`,
    reason: /has no token/,
  },
  {
    name: 'an answer without a token',
    forge: () => createAnswer(''),
    reason: /has no token/,
  },
  {
    name: 'a JSON Web Token',
    forge: () => createAnswer('<wsse:BinarySecurityToken xmlns:wsse="urn:x">ZXlK</wsse:BinarySecurityToken>'),
    reason: /neither a SAML 1\.1 nor a SAML 2\.0 assertion/,
  },
  {
    name: 'an assertion of an unknown version',
    forge: ({ answer }) => answer.replaceAll(/SAML:[12]\.0:assertion"/g, 'SAML:3.0:assertion"'),
    reason: /neither a SAML 1\.1 nor a SAML 2\.0 assertion/,
  },
];

testAttacks([...wrappings, ...misplaced, ...ids, ...containers]);
