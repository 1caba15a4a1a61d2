/** Honest answers in the many shapes that real products give them. */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import type { ServerError } from '../../src/errors.ts';
import { type VerifyOptions, verifySignInResponse } from '../../src/federation/saml.ts';
import { withShortNames } from '../../src/federation/ws-federation.ts';
import {
  type AssertionOptions,
  identity,
  makeAnswer,
  makeAssertion,
  sign,
  signer,
  wrap,
} from '../support/assertions.ts';

const now = 1_800_000_000;
const expected: VerifyOptions = {
  certificates: [signer.certificate],
  issuer: 'https://idp.example.com/issuer',
  audience: 'urn:intelligence',
  recipients: ['https://sso.example.com/SPSSMR/Oidc/callback/wsfed/Company'],
  now,
};
const answer = (options: AssertionOptions = {}) => makeAnswer({ now, ...options });

for (const version of ['1.1', '2.0'] as const) {
  for (const trust of ['2005', '1.3', '1.4'] as const) {
    test(`SAML ${version} in WS-Trust ${trust} is read`, () => {
      const claims = { [`${identity}/upn`]: 'alice@example.com', 'urn:roles/role': ['one', 'two & <three>'] };
      const verified = verifySignInResponse(answer({ version, trust, claims }), expected);
      assert.equal(verified.subject, 'S-1-alice');
      assert.deepEqual(verified.claims.get('urn:roles/role'), ['one', 'two & <three>']);
      assert.deepEqual(withShortNames(verified.claims).get('upn'), ['alice@example.com']);
      assert.deepEqual([verified.authenticatedAt, verified.expiresAt], [now, now + 600 + 300]);
      assert.equal(verified.sessionIndex, version === '2.0' ? 'session-1' : undefined);
    });
  }
}

test('white space, a declaration and other prefixes mean nothing', () => {
  const spaced = makeAssertion({ now })
    .replaceAll('><', '>\n  <')
    .replace('>alice@example.com<', '>\n alice@example.com\n<');
  const variants: Record<string, string> = {
    'white space in the assertion': wrap(sign(spaced)),
    'a declaration': `<?xml version="1.0" encoding="utf-8"?>\r\n${answer()}`,
    'a byte order mark': `\ufeff<?xml version="1.0"?>${answer()}`,
    'white space around the token': answer()
      .replace('<t:RequestedSecurityToken>', '<t:RequestedSecurityToken>\n\t')
      .trim(),
    'another prefix of the response': answer()
      .replaceAll('t:Request', 'trust:Request')
      .replace('xmlns:t=', 'xmlns:trust=')
      .replaceAll('t:Lifetime', 'trust:Lifetime')
      .replaceAll('<t:TokenType', '<trust:TokenType')
      .replaceAll('</t:TokenType', '</trust:TokenType')
      .replaceAll('ttrust:', 'trust:'),
    'another prefix of the signature': wrap(sign(makeAssertion({ now }), { prefix: 'dsig' })),
    'an inclusive prefix list': wrap(sign(makeAssertion({ now }), { inclusive: 'xs' })),
  };
  for (const [what, text] of Object.entries(variants)) {
    const verified = verifySignInResponse(text, expected);
    assert.deepEqual(verified.claims.get(`${identity}/upn`), ['alice@example.com'], what);
  }
});

test('of several certificates any one may have signed, and broken ones are passed over', () => {
  for (const certificates of [
    ['AAAA', signer.certificate],
    [signer.certificate, 'no base64 at all'],
  ]) {
    assert.equal(verifySignInResponse(answer(), { ...expected, certificates }).subject, 'S-1-alice');
  }
});

test('clocks may differ by five minutes, either way', () => {
  for (const time of [now + 600 + 299, now - 299]) {
    assert.ok(verifySignInResponse(answer(), { ...expected, now: time }));
  }
  for (const time of [now + 600 + 301, now - 301]) {
    assert.throws(() => verifySignInResponse(answer(), { ...expected, now: time }), {
      code: 'ERR_ASSERTION_INVALID',
    });
  }
});

test('a slash at the end of the realm, and the case of our own address, mean nothing', () => {
  const audience = 'https://sso.example.com/app/';
  assert.ok(
    verifySignInResponse(answer({ audience: 'https://sso.example.com/app' }), { ...expected, audience }),
  );
  const recipient = 'https://SSO.example.com/spssmr/oidc/callback/wsfed/Company/';
  assert.ok(verifySignInResponse(answer({ recipient }), expected));
});

test('a transient name identifier is nobody’s name', () => {
  const subjectFormat = 'urn:oasis:names:tc:SAML:2.0:nameid-format:transient';
  const verified = verifySignInResponse(answer({ subjectFormat }), expected);
  assert.deepEqual([verified.subject, verified.claims.has(`${identity}/nameidentifier`)], [undefined, false]);
});

test('RSA-SHA512 is taken, and SHA-1 where it is admitted', () => {
  const sha512 = wrap(
    sign(makeAssertion({ now }), {
      signatureAlgorithm: 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha512',
      digestAlgorithm: 'http://www.w3.org/2001/04/xmlenc#sha512',
    }),
  );
  assert.ok(verifySignInResponse(sha512, expected));
  const sha1 = wrap(
    sign(makeAssertion({ now }), {
      signatureAlgorithm: 'http://www.w3.org/2000/09/xmldsig#rsa-sha1',
      digestAlgorithm: 'http://www.w3.org/2000/09/xmldsig#sha1',
    }),
  );
  assert.ok(verifySignInResponse(sha1, { ...expected, allowSha1: true }));
});

type Encrypt = (xml: string, options: object, callback: (err: Error | null, text: string) => void) => void;
const { encrypt } = createRequire(import.meta.url)('xml-encryption') as { encrypt: Encrypt };

async function encryptedAnswer(token: string, algorithm: string): Promise<string> {
  const data = await new Promise<string>((resolve, reject) => {
    const pem = `-----BEGIN CERTIFICATE-----\n${signer.certificate.replace(/(.{64})/g, '$1\n')}\n-----END CERTIFICATE-----`;
    encrypt(
      token,
      {
        rsa_pub: pem,
        pem,
        encryptionAlgorithm: algorithm,
        keyEncryptionAlgorithm: 'http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p',
        disallowEncryptionWithInsecureAlgorithm: false,
        warnInsecureAlgorithm: false,
      },
      (err, result) => (err === null ? resolve(result) : reject(err)),
    );
  });
  return wrap(
    `<EncryptedAssertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion">${data}</EncryptedAssertion>`,
  );
}

const gcm = 'http://www.w3.org/2009/xmlenc11#aes256-gcm';
const cbc = 'http://www.w3.org/2001/04/xmlenc#aes256-cbc';

test('an encrypted assertion is read by the key for it, AES-CBC where it is admitted', async () => {
  const token = sign(makeAssertion({ now }));
  const options = { ...expected, decryptionKeys: [signer.key] };
  assert.equal(verifySignInResponse(await encryptedAnswer(token, gcm), options).subject, 'S-1-alice');
  const old = await encryptedAnswer(token, cbc);
  assert.equal(verifySignInResponse(old, { ...options, allowCbc: true }).subject, 'S-1-alice');
  assert.throws(
    () => verifySignInResponse(old, options),
    (err: ServerError) => /AES-CBC needs AllowCbc/.test(err.hint ?? ''),
  );
});

test('what was encrypted is verified like everything else: anybody can encrypt for us', async () => {
  const options = { ...expected, decryptionKeys: [signer.key] };
  for (const [what, token, reason] of [
    ['no signature', makeAssertion({ now }), /no signature of its own/],
    ['another audience', sign(makeAssertion({ now, audience: 'urn:other' })), /another audience/],
    ['no assertion', '<x/>', /no assertion was encrypted/],
    ['a comment', sign(makeAssertion({ now })).replace('<Issuer>', '<Issuer><!---->'), /comment/],
  ] as const) {
    const text = await encryptedAnswer(token, gcm);
    assert.throws(
      () => verifySignInResponse(text, options),
      (err: ServerError) => reason.test(err.hint ?? ''),
      what,
    );
  }
  const broken = (await encryptedAnswer(sign(makeAssertion({ now })), gcm)).replace(
    /(<e?n?c?:?CipherValue>)(.{8})/g,
    '$1AAAAAAAA',
  );
  assert.throws(
    () => verifySignInResponse(broken, options),
    (err: ServerError) => err.hint === 'it cannot be decrypted',
  );
});
