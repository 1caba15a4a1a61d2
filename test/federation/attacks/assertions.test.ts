/**
 * Answers that are not what they seem, each made from an honest one: signed and wrapped, stripped, re-targeted,
 * split by comments, laden with entities. Every one is refused, with its reason for the log, and the honest one that
 * it was made from passes.
 */
import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { test } from 'node:test';
import { SignedXml } from 'xml-crypto';
import type { ServerError } from '../../../src/errors.ts';
import { type VerifyOptions, verifySignInResponse } from '../../../src/federation/saml.ts';
import {
  type AssertionOptions,
  digest,
  identity,
  makeAnswer,
  makeAssertion,
  sign,
  signer,
  signText,
  wrap,
} from '../../support/assertions.ts';

const now = 1_800_000_000;
const expected: VerifyOptions = {
  certificates: [signer.certificate],
  issuer: 'https://idp.example.com/issuer',
  audience: 'urn:intelligence',
  recipients: ['https://sso.example.com/SPSSMR/Oidc/callback/wsfed/Company'],
  now,
};
const honest = (options: AssertionOptions = {}) => makeAnswer({ now, ...options });
const assertion = (options: AssertionOptions = {}) => makeAssertion({ now, ...options });

/** The attacker's own assertion: somebody else's name, and no signature. */
const evil = (options: AssertionOptions = {}) =>
  assertion({
    id: '_evil',
    subject: 'admin',
    claims: { [`${identity}/upn`]: 'admin@example.com' },
    ...options,
  });

const signatureOf = (signed: string) => /<ds:Signature[\s\S]*<\/ds:Signature>/.exec(signed)?.[0] ?? '';
const withoutSignature = (signed: string) => signed.replace(signatureOf(signed), '');
const idOf = (text: string) => /(?:ID|AssertionID)="([^"]+)"/.exec(text)?.[1] ?? '';

/** Replaces once, and says so if there was nothing to replace: an attack that changes nothing proves nothing. */
function change(text: string, from: RegExp | string, to: string): string {
  const changed = text.replace(from, () => to);
  assert.notEqual(changed, text, `nothing to replace by ${to.slice(0, 40)}`);
  return changed;
}

interface Attack {
  readonly name: string;
  readonly make: () => string;
  readonly reason: RegExp;
  readonly options?: Partial<VerifyOptions>;
}

const attackerKeys = generateKeyPairSync('rsa', { modulusLength: 2048 });
const attackerKey = attackerKeys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();

const wrapping: readonly Attack[] = [
  {
    name: 'XSW1: the signed assertion moves into the signature of a forged one',
    reason: /more than one assertion/,
    make: () => {
      const signed = sign(assertion());
      const signature = signatureOf(signed);
      const inside = change(
        signature,
        '</ds:Signature>',
        `<ds:Object>${withoutSignature(signed)}</ds:Object></ds:Signature>`,
      );
      return wrap(change(evil(), '</Issuer>', `</Issuer>${inside}`));
    },
  },
  {
    name: 'XSW2: the forged assertion stands before the signed one',
    reason: /not one token/,
    make: () => wrap(evil() + sign(assertion())),
  },
  {
    name: 'XSW3: the forged assertion stands behind the signed one',
    reason: /not one token/,
    make: () => wrap(sign(assertion()) + evil()),
  },
  {
    name: 'XSW4: the forged assertion holds the signed one',
    reason: /more than one assertion/,
    make: () => wrap(change(evil(), '</Assertion>', `${sign(assertion())}</Assertion>`)),
  },
  {
    name: 'XSW5: the forged assertion carries the signature, and the signed one is appended',
    reason: /not one token|more than one assertion/,
    make: () => {
      const signed = sign(assertion());
      return wrap(change(evil(), '</Issuer>', `</Issuer>${signatureOf(signed)}`) + withoutSignature(signed));
    },
  },
  {
    name: 'XSW6: the forged assertion carries the signature with the signed one inside its KeyInfo',
    reason: /more than one assertion/,
    make: () => {
      const signed = sign(assertion());
      const inside = change(signatureOf(signed), '</ds:KeyInfo>', `${withoutSignature(signed)}</ds:KeyInfo>`);
      return wrap(change(evil(), '</Issuer>', `</Issuer>${inside}`));
    },
  },
  {
    name: 'XSW7: the forged assertion stands in an extension before the token',
    reason: /more than one assertion/,
    make: () =>
      change(
        honest(),
        '<t:RequestedSecurityToken>',
        `<x xmlns="urn:x">${evil()}</x><t:RequestedSecurityToken>`,
      ),
  },
  {
    name: 'XSW8: the signed assertion is kept in an extension, and the token is forged',
    reason: /more than one assertion/,
    make: () => {
      const signed = sign(assertion());
      return change(
        wrap(change(evil(), '</Issuer>', `</Issuer>${signatureOf(signed)}`)),
        '<t:RequestedSecurityToken>',
        `<x xmlns="urn:x">${signed}</x><t:RequestedSecurityToken>`,
      );
    },
  },
  {
    name: 'a second response beside the honest one',
    reason: /not one response/,
    make: () => {
      const collection = makeAnswer({ now, trust: '1.3' });
      const response =
        /<t:RequestSecurityTokenResponse[ >][\s\S]*<\/t:RequestSecurityTokenResponse>/.exec(
          collection,
        )?.[0] ?? '';
      return change(
        collection,
        response,
        response +
          response.replace(
            /<t:RequestedSecurityToken>[\s\S]*<\/t:RequestedSecurityToken>/,
            `<t:RequestedSecurityToken>${evil()}</t:RequestedSecurityToken>`,
          ),
      );
    },
  },
  {
    name: 'a token of another kind around the honest one',
    reason: /the token is no SAML assertion/,
    make: () => wrap(`<Advice xmlns="urn:x">${sign(assertion())}</Advice>`),
  },
  {
    name: 'the forged assertion has the id of the signed one',
    reason: /two elements with one id/,
    make: () => {
      const signed = sign(assertion());
      return wrap(
        change(evil({ id: idOf(signed) }), '</Issuer>', `</Issuer>${signatureOf(signed)}`) + signed,
      );
    },
  },
  {
    name: 'the same id once more in another spelling',
    reason: /two elements with one id/,
    make: () => {
      const answer = honest();
      return change(
        answer,
        '<t:Lifetime>',
        `<t:Lifetime Id="${idOf(answer.slice(answer.indexOf('<Assertion')))}">`,
      );
    },
  },
];

const signatures: readonly Attack[] = [
  { name: 'no signature at all', reason: /not exactly one signature/, make: () => wrap(assertion()) },
  {
    name: 'an unsigned assertion in a signed response',
    reason: /no signature of its own/,
    make: () => {
      const response = change(
        wrap(evil()),
        '<t:RequestSecurityTokenResponse ',
        '<t:RequestSecurityTokenResponse ID="_r" ',
      );
      const signed = new SignedXml({
        privateKey: signer.key,
        signatureAlgorithm: 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
        canonicalizationAlgorithm: 'http://www.w3.org/2001/10/xml-exc-c14n#',
      });
      signed.addReference({
        xpath: "/*[local-name(.)='RequestSecurityTokenResponse']",
        transforms: [
          'http://www.w3.org/2000/09/xmldsig#enveloped-signature',
          'http://www.w3.org/2001/10/xml-exc-c14n#',
        ],
        digestAlgorithm: 'http://www.w3.org/2001/04/xmlenc#sha256',
      });
      signed.computeSignature(response, { prefix: 'ds' });
      return signed.getSignedXml();
    },
  },
  {
    name: 'the signature moved out of the assertion',
    reason: /no signature of its own/,
    make: () => {
      const signed = sign(assertion());
      return change(
        wrap(withoutSignature(signed)),
        '<t:RequestedSecurityToken>',
        `${signatureOf(signed)}<t:RequestedSecurityToken>`,
      );
    },
  },
  {
    name: 'the signature moved deeper into the assertion',
    reason: /no signature of its own/,
    make: () => {
      const signed = sign(assertion());
      return wrap(change(withoutSignature(signed), '</Subject>', `${signatureOf(signed)}</Subject>`));
    },
  },
  {
    name: 'signed by a key of the attacker, whose certificate is in KeyInfo',
    reason: /fits none of the certificates/,
    make: () => wrap(sign(evil(), { key: attackerKey })),
  },
  {
    name: 'an HMAC with the public key as its secret',
    reason: /its algorithm is not allowed/,
    make: () =>
      change(
        honest(),
        'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
        'http://www.w3.org/2000/09/xmldsig#hmac-sha1',
      ),
  },
  {
    name: 'SHA-1 in the signature',
    reason: /its algorithm is not allowed/,
    make: () => wrap(sign(assertion(), { signatureAlgorithm: 'http://www.w3.org/2000/09/xmldsig#rsa-sha1' })),
  },
  {
    name: 'SHA-1 in the digest',
    reason: /its digest algorithm is not allowed/,
    make: () => wrap(sign(assertion(), { digestAlgorithm: 'http://www.w3.org/2000/09/xmldsig#sha1' })),
  },
  {
    name: 'an empty reference, to the whole document',
    reason: /it is over something else/,
    make: () => change(honest(), /Reference URI="#[^"]+"/, 'Reference URI=""'),
  },
  {
    name: 'a reference to something else',
    reason: /it is over something else/,
    make: () => change(honest(), /Reference URI="#[^"]+"/, 'Reference URI="#_other"'),
  },
  {
    name: 'a second reference',
    reason: /SignedInfo is not one reference/,
    make: () =>
      change(
        honest(),
        '</ds:SignedInfo>',
        `<ds:Reference URI="#_x"><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue>AAAA</ds:DigestValue></ds:Reference></ds:SignedInfo>`,
      ),
  },
  {
    name: 'a second SignedInfo, before the one that was signed',
    reason: /unusual parts/,
    make: () => {
      const answer = honest();
      const info = /<ds:SignedInfo>[\s\S]*<\/ds:SignedInfo>/.exec(answer)?.[0] ?? '';
      return change(answer, info, info + info);
    },
  },
  {
    name: 'an Object in the signature',
    reason: /unusual parts/,
    make: () => change(honest(), '</ds:Signature>', '<ds:Object>x</ds:Object></ds:Signature>'),
  },
  {
    name: 'a transform by XPath',
    reason: /transforms are not enveloped and exclusive/,
    make: () =>
      change(
        honest(),
        '</ds:Transforms>',
        '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"><ds:XPath>not(ancestor-or-self::Subject)</ds:XPath></ds:Transform></ds:Transforms>',
      ),
  },
  {
    name: 'a transform by XSLT',
    reason: /transforms are not enveloped and exclusive/,
    make: () =>
      change(
        honest(),
        '</ds:Transforms>',
        '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/></ds:Transforms>',
      ),
  },
  {
    name: 'enveloped twice',
    reason: /transforms are not enveloped and exclusive/,
    make: () =>
      change(
        honest(),
        '<ds:Transforms>',
        '<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>',
      ),
  },
  {
    name: 'no transforms',
    reason: /unusual parts of the reference/,
    make: () => change(honest(), /<ds:Transforms>[\s\S]*<\/ds:Transforms>/, ''),
  },
  {
    name: 'inclusive canonicalization',
    reason: /canonicalization is not exclusive/,
    make: () =>
      change(
        honest(),
        '<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"',
        '<ds:CanonicalizationMethod Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315"',
      ),
  },
  {
    name: 'a truncated signature length',
    reason: /parameters of the algorithm/,
    make: () =>
      change(
        honest(),
        /<ds:SignatureMethod ([^>]*)\/>/,
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"><ds:HMACOutputLength>8</ds:HMACOutputLength></ds:SignatureMethod>',
      ),
  },
  {
    name: 'a digest of a forged assertion, in a SignedInfo that was signed for the honest one',
    reason: /fits none of the certificates/,
    make: () => {
      const answer = honest();
      return change(
        change(answer, 'alice@example.com', 'admin@example.com'),
        /<ds:DigestValue>[^<]*/,
        `<ds:DigestValue>${digest('forged')}`,
      );
    },
  },
  {
    name: 'one letter of a claim changed',
    reason: /fits none of the certificates/,
    make: () => change(honest(), 'alice@example.com', 'alicf@example.com'),
  },
  {
    name: 'a signature over other text',
    reason: /fits none of the certificates/,
    make: () =>
      change(honest(), /<ds:SignatureValue>[^<]*/, `<ds:SignatureValue>${signText('something else')}`),
  },
  {
    name: 'a right signature, and no certificate to verify it with',
    reason: /no certificate/,
    make: () => honest(),
    options: { certificates: [] },
  },
];

const texts: readonly Attack[] = [
  {
    name: 'a comment in the name identifier',
    reason: /comment/,
    make: () =>
      change(
        honest({ subject: 'admin@example.com.evil.com' }),
        'admin@example.com.evil.com',
        'admin@example.com<!---->.evil.com',
      ),
  },
  {
    name: 'a comment in the issuer',
    reason: /comment/,
    make: () => change(honest(), '<Issuer>', '<Issuer><!--x-->'),
  },
  {
    name: 'a comment in the digest',
    reason: /comment/,
    make: () => change(honest(), '<ds:DigestValue>', '<ds:DigestValue><!--x-->'),
  },
  {
    name: 'a CDATA section in a claim',
    reason: /CDATA/,
    make: () => change(honest(), 'alice@example.com', '<![CDATA[alice@example.com]]>'),
  },
  {
    name: 'a processing instruction in a claim',
    reason: /processing instruction/,
    make: () => change(honest(), 'alice@example.com', 'alice<?x?>@example.com'),
  },
  { name: 'a document type', reason: /document type/, make: () => `<!DOCTYPE x>${honest()}` },
  {
    name: 'an external entity',
    reason: /document type/,
    make: () =>
      `<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>${change(honest(), 'alice@example.com', '&f;')}`,
  },
  {
    name: 'a billion laughs',
    reason: /document type/,
    make: () =>
      `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>${honest()}`,
  },
  {
    name: 'an entity that is declared nowhere',
    reason: /unknown entity/,
    make: () => change(honest(), 'alice@example.com', '&admin;'),
  },
  {
    name: 'a null character by reference',
    reason: /forbidden character/,
    make: () => change(honest(), 'alice@example.com', 'admin&#0;@example.com'),
  },
  {
    name: 'a null character',
    reason: /a character that XML forbids/,
    make: () => change(honest(), 'alice@example.com', 'admin\0@example.com'),
  },
  {
    name: 'a second declaration in the middle',
    reason: /processing instruction/,
    make: () => change(honest(), '<t:Lifetime>', '<?xml version="1.0"?><t:Lifetime>'),
  },
  { name: 'tags that do not close', reason: /not well-formed/, make: () => honest().slice(0, -10) },
  { name: 'text behind the end', reason: /not well-formed/, make: () => `${honest()}<x/>` },
  {
    name: 'an attribute twice',
    reason: /not well-formed/,
    make: () => change(honest(), ' Version="2.0"', ' Version="2.0" Version="2.0"'),
  },
  {
    name: 'elements a thousand deep',
    reason: /deeper than/,
    make: () => change(honest(), '<t:Lifetime>', `${'<x>'.repeat(1000)}${'</x>'.repeat(1000)}<t:Lifetime>`),
  },
  {
    name: 'ten thousand elements',
    reason: /more than \d+ elements/,
    make: () => change(honest(), '<t:Lifetime>', `${'<x/>'.repeat(10_000)}<t:Lifetime>`),
  },
  {
    name: 'a megabyte',
    reason: /longer than/,
    make: () => change(honest(), '<t:Lifetime>', `<t:Lifetime>${' '.repeat(1024 * 1024)}`),
  },
  { name: 'nothing', reason: /not well-formed/, make: () => '' },
  {
    name: 'HTML',
    reason: /not a response of WS-Trust|not well-formed/,
    make: () => '<html><body>Sign in</body></html>',
  },
];

const claims: readonly Attack[] = [
  { name: 'for another audience', reason: /another audience/, make: () => honest({ audience: 'urn:other' }) },
  {
    name: 'for another audience beside ours',
    reason: /another audience/,
    make: () =>
      wrap(
        sign(
          change(
            assertion(),
            '</Conditions>',
            '<AudienceRestriction><Audience>urn:other</Audience></AudienceRestriction></Conditions>',
          ),
        ),
      ),
  },
  {
    name: 'for nobody in particular',
    reason: /another audience/,
    make: () => wrap(sign(change(assertion(), /<AudienceRestriction>[\s\S]*<\/AudienceRestriction>/, ''))),
  },
  {
    name: 'from another issuer',
    reason: /its issuer is not/,
    make: () => honest({ issuer: 'https://evil.example.com/issuer' }),
  },
  {
    name: 'for another recipient',
    reason: /not confirmed for us/,
    make: () => honest({ recipient: 'https://evil.example.com/callback' }),
  },
  {
    name: 'confirmed by something that its bearer does not have',
    reason: /not confirmed for us/,
    make: () => wrap(sign(change(assertion(), 'cm:bearer', 'cm:holder-of-key'))),
  },
  {
    name: 'confirmed by something that its bearer does not have, in SAML 1.1',
    reason: /not confirmed for us/,
    make: () => wrap(sign(assertion({ version: '1.1' }).replaceAll('cm:bearer', 'cm:holder-of-key'))),
  },
  {
    name: 'expired',
    reason: /it has expired/,
    make: () => honest({ now: now - 1000, lifetimeSeconds: 600 }),
  },
  { name: 'not valid yet', reason: /not valid yet/, make: () => honest({ now: now + 400 }) },
  {
    name: 'without an end',
    reason: /it has no end/,
    make: () => wrap(sign(change(assertion(), /<Conditions ([^>]*) NotOnOrAfter="[^"]*"/, '<Conditions'))),
  },
  {
    name: 'valid for years',
    reason: /longer than a day/,
    make: () => honest({ lifetimeSeconds: 86_400 * 365 }),
  },
  {
    name: 'without conditions',
    reason: /no conditions/,
    make: () => wrap(sign(change(assertion(), /<Conditions[\s\S]*<\/Conditions>/, ''))),
  },
  {
    name: 'to be passed on (ProxyRestriction)',
    reason: /a condition that is not understood/,
    make: () =>
      wrap(sign(change(assertion(), '</Conditions>', '<ProxyRestriction Count="1"/></Conditions>'))),
  },
  {
    name: 'with a time in another calendar',
    reason: /a time that cannot be read/,
    make: () => wrap(sign(change(assertion(), /NotBefore="[^"]*"/, 'NotBefore="next tuesday"'))),
  },
  {
    name: 'about two subjects, in SAML 1.1',
    reason: /several subjects/,
    make: () =>
      wrap(
        sign(
          change(
            assertion({ version: '1.1' }),
            /<saml:NameIdentifier [^>]*>[^<]*/,
            '<saml:NameIdentifier>admin',
          ),
        ),
      ),
  },
  {
    name: 'after the session there has ended',
    reason: /the session there has ended/,
    make: () =>
      wrap(
        sign(
          change(assertion(), ' SessionIndex=', ' SessionNotOnOrAfter="2020-01-01T00:00:00Z" SessionIndex='),
        ),
      ),
  },
  {
    name: 'encrypted, where there is no key',
    reason: /there are no DecryptionKeys/,
    make: () =>
      wrap('<EncryptedAssertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion"><x/></EncryptedAssertion>'),
  },
  {
    name: 'of SAML 3',
    reason: /not SAML 2.0/,
    make: () => wrap(sign(change(assertion(), 'Version="2.0"', 'Version="3.0"'))),
  },
];

for (const [family, attacks] of Object.entries({ wrapping, signatures, texts, claims })) {
  for (const { name, make, reason, options } of attacks) {
    test(`refused (${family}): ${name}`, () => {
      assert.throws(
        () => verifySignInResponse(make(), { ...expected, ...options }),
        (err: ServerError) => {
          assert.equal(err.code, 'ERR_ASSERTION_INVALID');
          assert.match(err.hint ?? '', reason);
          assert.doesNotMatch(err.message + err.hint, /alice|admin/, 'nothing of the answer is told');
          return true;
        },
      );
    });
  }
}

test('the answers that the attacks were made from are good', () => {
  for (const version of ['1.1', '2.0'] as const) {
    const verified = verifySignInResponse(honest({ version }), expected);
    assert.deepEqual(verified.claims.get(`${identity}/upn`), ['alice@example.com']);
  }
});

test('whatever single character of an answer is changed, it never says something else', () => {
  const answer = honest();
  const seed = 20_261_124;
  let state = seed;
  const random = (limit: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state % limit;
  };
  let accepted = 0;
  for (let round = 0; round < 400; round += 1) {
    const at = random(answer.length);
    const letter = String.fromCharCode(32 + random(95));
    const changed = answer.slice(0, at) + letter + answer.slice(at + 1);
    try {
      const { claims: told, subject } = verifySignInResponse(changed, expected);
      accepted += 1;
      assert.deepEqual(
        [subject, told.get(`${identity}/upn`)],
        ['S-1-alice', ['alice@example.com']],
        `seed ${seed}, round ${round}`,
      );
    } catch (err) {
      assert.equal((err as ServerError).code, 'ERR_ASSERTION_INVALID', `seed ${seed}, round ${round}`);
    }
  }
  assert.ok(accepted > 0 && accepted < 300, `${accepted} changes were outside of what is signed`);
});

test('the certificate that the attacks use is the one of the key', () => {
  const { publicKey } = new X509Certificate(Buffer.from(signer.certificate, 'base64'));
  assert.ok(publicKey.equals(createPublicKey(signer.key)));
});
