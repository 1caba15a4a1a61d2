/** Anybody can encrypt for us: what comes out of an encrypted assertion is as little trusted as any other. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { InvalidAssertionError, verifySignInResponse } from '../../../src/federation/saml.ts';
import {
  createAnswer,
  createAssertion,
  createSigner,
  encrypt,
  known,
  sign,
} from '../../support/saml-issuer.ts';
import { createHonest, getHint, type Honest, idp, mallory, options } from './corpus.ts';

const us = createSigner();
const pem = (signer: typeof us) => String(signer.privateKey.export({ type: 'pkcs8', format: 'pem' }));
const ours = { decryptionKeys: [pem(us)] };
const cbc = { contentAlgorithm: 'aes256-cbc' } as const;
const rsa15 = 'http://www.w3.org/2001/04/xmlenc#rsa-1_5';
const forUs = (text: string) => createAnswer(encrypt(text, { recipient: us }));
const notDecrypted = /^the assertion could not be decrypted with the decryption certificate$/;
const cipherValue = /(<xenc:CipherValue>)([^<]*)/;

/** Changes one byte of the encrypted content. */
function tamper(answer: string, position: number): string {
  return answer.replace(cipherValue, (_all, tag: string, value: string) => {
    const bytes = Buffer.from(value, 'base64');
    const index = position < 0 ? bytes.length + position : position;
    bytes.writeUInt8(bytes.readUInt8(index) ^ 1, index);
    return tag + bytes.toString('base64');
  });
}

const attacks: readonly {
  name: string;
  forge: (honest: Honest) => string;
  reason: RegExp;
  options?: { decryptionKeys?: readonly string[]; allowCbc?: boolean };
}[] = [
  {
    name: 'an unsigned assertion, encrypted for us',
    forge: ({ unsigned }) => forUs(unsigned),
    reason: /not signed/,
  },
  {
    name: 'an assertion that somebody else signed, encrypted for us',
    forge: ({ unsigned }) => forUs(sign(unsigned, { signer: mallory })),
    reason: /by none of the 1 certificates/,
  },
  {
    name: 'a changed assertion, encrypted for us',
    forge: ({ assertion }) => forUs(assertion.replace('>alice@', '>mallory@')),
    reason: /content was changed/,
  },
  {
    name: 'a forged assertion around the honest one, encrypted for us',
    forge: ({ assertion, evil }) => forUs(evil(assertion)),
    reason: /more than one token/,
  },
  {
    name: 'an honest assertion for another audience, encrypted for us',
    forge: () =>
      forUs(
        sign(
          createAssertion({
            conditions:
              createAssertion({})
                .match(/<saml:Conditions.*<\/saml:Conditions>/)?.[0]
                .replace(known.realm, 'urn:other') ?? '',
          }),
          { signer: idp },
        ),
      ),
    reason: /audience restriction does not have our realm/,
  },
  {
    name: 'an encrypted assertion beside the honest one',
    forge: ({ assertion, unsigned }) => createAnswer(`${assertion}${encrypt(unsigned, { recipient: us })}`),
    reason: /more than one token/,
  },
  {
    name: 'encrypted data with a signature around',
    forge: ({ unsigned, signature }) =>
      createAnswer(
        encrypt(unsigned, { recipient: us })
          .replace('<EncryptedAssertion ', '<EncryptedAssertion ID="_x" ')
          .replace('</EncryptedAssertion>', `${signature}$&`),
      ),
    reason: /not signed/,
  },
  {
    name: 'an assertion that is encrypted twice',
    forge: ({ assertion }) => forUs(encrypt(assertion, { recipient: us })),
    reason: notDecrypted,
  },
  { name: 'a whole answer, encrypted', forge: ({ answer }) => forUs(answer), reason: notDecrypted },
  {
    name: 'a document type inside the encryption',
    forge: ({ assertion }) => forUs(`<!DOCTYPE x>${assertion}`),
    reason: notDecrypted,
  },
  {
    name: 'a comment inside the encryption',
    forge: ({ assertion }) => forUs(assertion.replace('>alice@', '>alice<!---->@')),
    reason: notDecrypted,
  },
  {
    name: 'an assertion and more inside the encryption',
    forge: ({ assertion, evil }) => forUs(`${assertion}${evil()}`),
    reason: notDecrypted,
  },
  {
    name: 'AES-CBC where it is not switched on',
    forge: ({ assertion }) => createAnswer(encrypt(assertion, { recipient: us, ...cbc })),
    reason: /AES-CBC, which is not switched on/,
  },
  {
    name: 'RSA 1.5, even where AES-CBC is switched on',
    forge: ({ assertion }) => createAnswer(encrypt(assertion, { recipient: us, keyAlgorithm: rsa15 })),
    reason: /encryption algorithm of the key is not accepted: .*rsa-1_5/,
    options: { allowCbc: true },
  },
  {
    name: 'Triple DES, even where AES-CBC is switched on',
    forge: ({ assertion }) =>
      createAnswer(encrypt(assertion, { recipient: us, ...cbc }).replace('#aes256-cbc', '#tripledes-cbc')),
    reason: /encryption algorithm is not accepted: .*tripledes/,
    options: { allowCbc: true },
  },
  {
    name: 'a second encrypted key, whose algorithm is not looked at',
    forge: ({ assertion }) =>
      createAnswer(
        encrypt(assertion, { recipient: us })
          .replace(/<e:EncryptedKey .*<\/e:EncryptedKey>/, '$&$&')
          .replace('Id="_key"', 'Id="_other"'),
      ),
    reason: /does not have exactly one EncryptedKey/,
  },
  {
    name: 'a second piece of encrypted data',
    forge: ({ assertion }) =>
      createAnswer(
        encrypt(assertion, { recipient: us }).replace(/<xenc:EncryptedData .*<\/xenc:EncryptedData>/, '$&$&'),
      ),
    reason: /does not have exactly one EncryptedData/,
  },
  {
    name: 'an encrypted key by reference to another document',
    forge: ({ assertion }) =>
      createAnswer(
        encrypt(assertion, { recipient: us, keyPlace: 'beside' }).replace(
          'URI="#_key"',
          'URI="https://mallory.example/key"',
        ),
      ),
    reason: notDecrypted,
  },
  {
    name: 'an empty EncryptedAssertion',
    forge: () => createAnswer('<EncryptedAssertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion"/>'),
    reason: /exactly one EncryptedData/,
  },
  {
    name: 'an encrypted assertion where no decryption certificate is configured',
    forge: ({ assertion }) => forUs(assertion),
    reason: /no decryption certificate is configured/,
    options: { decryptionKeys: [] },
  },
  {
    name: 'an assertion that is encrypted for somebody else',
    forge: ({ assertion }) => createAnswer(encrypt(assertion, { recipient: mallory })),
    reason: notDecrypted,
  },
];

for (const { name, forge, reason, options: special } of attacks) {
  test(`refused: ${name}`, () => {
    const honest = createHonest();
    assert.equal(
      verifySignInResponse(forUs(honest.assertion), { ...options, ...ours }).subject,
      known.subject,
    );

    assert.match(getHint(forge(honest), { ...ours, ...special }), reason);
  });
}

test('whatever goes wrong in decryption looks the same, for the difference is what attacks live on', () => {
  const { assertion } = createHonest();
  const gcm = createAnswer(encrypt(assertion, { recipient: us }));
  const withCbc = createAnswer(encrypt(assertion, { recipient: us, ...cbc }));
  const failures = [
    createAnswer(encrypt(assertion, { recipient: mallory })),
    tamper(gcm, 20),
    tamper(gcm, -1),
    tamper(withCbc, -1), // the padding
    tamper(withCbc, -17), // the byte that the padding's length comes from
    tamper(withCbc, 20), // the text
    tamper(withCbc, 2), // the first characters
    gcm.replace(cipherValue, '$1'),
    gcm.replace(cipherValue, '$1AAAA'),
    gcm.replace(/(<e:CipherValue>)[^<]*/, '$1'),
    gcm.replace(/(<e:CipherValue>)[^<]*/, '$1AAAA'),
    createAnswer(encrypt('no XML', { recipient: us, ...cbc })),
    createAnswer(encrypt('<x/>', { recipient: us, ...cbc })),
  ];

  const seen = failures.map((answer) => {
    try {
      verifySignInResponse(answer, { ...options, ...ours, allowCbc: true });
    } catch (err) {
      assert.ok(err instanceof InvalidAssertionError);
      const { message, hint, cause } = err;
      return { message, hint, furtherCause: cause instanceof Error ? cause.cause : cause };
    }
    throw new Error('it was accepted');
  });

  // A change that leaves plain XML behind is found by the signature, as any change is.
  const [first] = seen;
  assert.match(first?.hint ?? '', notDecrypted);
  for (const one of seen) {
    if (!/content was changed/.test(one.hint ?? '')) assert.deepEqual(one, first);
  }
});
