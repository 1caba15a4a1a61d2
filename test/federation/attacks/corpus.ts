/**
 * What the attacks share. Each begins from an honest answer, which is accepted beside it, and each must be refused
 * for its own reason: a refusal for another one proves nothing about the check that it is there for.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  InvalidAssertionError,
  type VerifyOptions,
  verifySignInResponse,
} from '../../../src/federation/saml.ts';
import {
  type AssertionOptions,
  createAnswer,
  createAssertion,
  createSigner,
  known,
  type SignOptions,
  sign,
} from '../../support/saml-issuer.ts';

/** Whom the metadata vouches for. */
export const idp = createSigner();
/** Who has a key too. */
export const mallory = createSigner();

export const options: VerifyOptions = {
  certificates: [idp.certificate],
  issuer: known.issuer,
  audiences: [known.realm],
  recipients: [known.recipient],
  now: known.now,
};

/** An honest answer and what it is made of, to be put together in other ways. */
export interface Honest {
  version: '1.1' | '2.0';
  answer: string;
  /** The signed assertion. */
  assertion: string;
  /** The same without its signature, as it was before. */
  unsigned: string;
  signature: string;
  id: string;
  /** An assertion about somebody else, with any id, that carries `content` as its first child. */
  evil: (content?: string, id?: string) => string;
}

export function createHonest(
  version: '1.1' | '2.0' = '2.0',
  assertionOptions: AssertionOptions = {},
): Honest {
  const unsigned = createAssertion({ version, ...assertionOptions });
  const assertion = sign(unsigned, { signer: idp });
  const signature = /<ds:Signature .*<\/ds:Signature>/s.exec(assertion)?.[0] ?? '';
  return {
    version,
    answer: createAnswer(assertion),
    assertion,
    unsigned,
    signature,
    id: '_8f2a1c1e-3d4b-4c5d-9e6f-0123456789ab',
    evil: (content = '', id = '_evil') =>
      createAssertion({
        version,
        id,
        subject: 'mallory@example.com',
        claims: { [known.upn]: 'mallory@example.com' },
      }).replace(/^<[^>]*>/, (start) => `${start}${content}`),
  };
}

export interface Attack {
  name: string;
  forge: (honest: Honest) => string;
  /** What the hint for the operator's log says. */
  reason: RegExp;
  options?: Partial<VerifyOptions>;
}

/** A test for each attack in each version of SAML. */
export function testAttacks(attacks: readonly Attack[]): void {
  for (const { name, forge, reason, options: special } of attacks) {
    for (const version of ['1.1', '2.0'] as const) {
      test(`refused: ${name} (SAML ${version})`, () => {
        const honest = createHonest(version);
        assert.equal(verifySignInResponse(honest.answer, { ...options, ...special }).subject, known.subject);

        assert.match(getHint(forge(honest), special), reason);
      });
    }
  }
}

export interface Misfit {
  name: string;
  /** Of an assertion that the identity provider really made and signed. */
  assertion?: AssertionOptions;
  signature?: Partial<SignOptions>;
  reason: RegExp;
  options?: Partial<VerifyOptions>;
}

/** A test for each assertion that is honestly signed and yet not for us, or not now. */
export function testMisfits(misfits: readonly Misfit[]): void {
  for (const { name, assertion = {}, signature, reason, options: special } of misfits) {
    test(`refused: ${name}`, () => {
      const honest = createHonest(assertion.version);
      assert.equal(verifySignInResponse(honest.answer, options).subject, known.subject);

      const answer = createAnswer(sign(createAssertion(assertion), { signer: idp, ...signature }));
      assert.match(getHint(answer, special), reason);
    });
  }
}

/** Verifies an answer that must be refused, as any is: with a code, status 400 and nothing for the browser to learn. */
export function getHint(answer: string, special: Partial<VerifyOptions> = {}): string {
  let verified: unknown;
  try {
    verified = verifySignInResponse(answer, { ...options, ...special });
  } catch (err) {
    assert.ok(err instanceof InvalidAssertionError, String(err));
    assert.equal(err.code, 'ERR_ASSERTION_INVALID');
    assert.equal(err.status, 400);
    assert.equal(err.message, 'the answer of the identity provider could not be verified');
    return err.hint ?? '';
  }
  throw new assert.AssertionError({ message: 'the attack was accepted', actual: verified });
}
