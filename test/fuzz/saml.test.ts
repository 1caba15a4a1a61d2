/** Honest answers of an identity provider, changed: whatever is accepted says what the identity provider said. */
import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { DOMParser, type Element, XMLSerializer } from '@xmldom/xmldom';
import fc from 'fast-check';
import {
  InvalidAssertionError,
  type VerifiedAssertion,
  verifySignInResponse,
} from '../../src/federation/saml.ts';
import { createHonest, idp, mallory, options } from '../federation/attacks/corpus.ts';
import { createAnswer, createAssertion, createSigner, encrypt, known, sign } from '../support/saml-issuer.ts';
import { holds, mutate, mutation } from './fuzzing.ts';

const recipient = createSigner();
const privateKey = recipient.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
const withKey = { ...options, decryptionKeys: [privateKey] };

function describe(verified: VerifiedAssertion): string {
  return JSON.stringify({ ...verified, claims: [...verified.claims] });
}

/** What parsers complain of by themselves: nobody reads it, and a stranger has written it. */
const written: unknown[] = [];
for (const level of ['error', 'warn', 'log'] as const) {
  mock.method(console, level, (...parts: unknown[]) => void written.push(parts));
}

/** Holds a changed answer to one of the honest identities, where it is accepted at all. */
function judge(answer: string, identities: readonly string[]): void {
  let verified: VerifiedAssertion;
  try {
    verified = verifySignInResponse(answer, withKey);
  } catch (err) {
    assert.ok(err instanceof InvalidAssertionError, String(err));
    assert.deepEqual(written.splice(0), []);
    return;
  }
  assert.ok(identities.includes(describe(verified)), 'another identity was accepted');
}

const honest = (['1.1', '2.0'] as const).map((version) => createHonest(version));
const answers = [
  ...honest.map(({ answer }) => answer),
  ...honest.map(({ assertion, version }) =>
    createAnswer(encrypt(assertion, { recipient, isWrapped: version === '2.0' })),
  ),
];
const identities = answers.map((answer) => describe(verifySignInResponse(answer, withKey)));
const mutations = fc.array(mutation, { minLength: 1, maxLength: 4 });

test('bytes changed, left out and put in never make another identity', async () => {
  const property = fc.property(fc.constantFrom(...answers), mutations, (answer, changes) =>
    judge(mutate(answer, changes), identities),
  );
  await holds(property, 800);
});

test('bytes changed inside what is encrypted never make another identity', async () => {
  const property = fc.property(fc.constantFrom(...honest), mutations, ({ assertion, version }, changes) =>
    judge(
      createAnswer(encrypt(mutate(assertion, changes), { recipient, isWrapped: version === '2.0' })),
      identities,
    ),
  );
  await holds(property, 150);
});

test('elements moved, copied and swapped for forged ones never make another identity', async () => {
  const forged = (['1.1', '2.0'] as const).flatMap((version) => {
    const evil = createAssertion({
      version,
      subject: 'mallory@example.com',
      claims: { [known.upn]: 'mallory@example.com' },
    });
    return [evil, sign(evil, { signer: mallory }), sign(evil, { signer: mallory, keyInfo: idp.certificate })];
  });
  const parse = (xml: string) => new DOMParser().parseFromString(xml, 'application/xml');
  const elementsOf = (root: Element) => [root, ...Array.from(root.getElementsByTagName('*'))];
  const move = fc.record({
    kind: fc.constantFrom('append', 'before', 'replace', 'remove'),
    donor: fc.oneof(fc.constant(undefined), fc.constantFrom(...forged, ...answers)),
    moved: fc.nat(999),
    target: fc.nat(999),
  });
  const property = fc.property(
    fc.constantFrom(...answers),
    fc.array(move, { minLength: 1, maxLength: 4 }),
    (answer, moves) => {
      const document = parse(answer);
      const root = document.documentElement as Element;
      for (const { donor, kind, ...at } of moves) {
        const pick = (list: readonly Element[], index: number) => list[index % list.length] as Element;
        const source = donor === undefined ? root : (parse(donor).documentElement as Element);
        const moved = document.importNode(pick(elementsOf(source), at.moved), true) as Element;
        const target = pick(elementsOf(root), at.target);
        const parent = target.parentNode;
        if (kind === 'append' || parent === null || target === root) target.appendChild(moved);
        else if (kind === 'before') parent.insertBefore(moved, target);
        else if (kind === 'replace') parent.replaceChild(moved, target);
        else parent.removeChild(target);
      }
      judge(new XMLSerializer().serializeToString(document), identities);
    },
  );
  await holds(property, 300);
});

test('the parts of two honest answers never make a third identity', async () => {
  const second = sign(
    createAssertion({
      id: '_second',
      subject: 'bob@example.com',
      claims: { [known.upn]: 'bob@example.com' },
    }),
    { signer: idp },
  );
  const two = [honest[1]?.assertion ?? '', second];
  const theirs = two.map((assertion) => describe(verifySignInResponse(createAnswer(assertion), options)));
  const partsOf = (xml: string) =>
    [...xml.matchAll(/(?=(<((?:saml|ds):\w+)(?: [^>]*)?>.*?<\/\2>))/gs)].map(([, part = '']) => part);
  const parts = two.map(partsOf);
  const property = fc.property(fc.nat(1), fc.nat(999), fc.nat(999), (to, donated, replaced) => {
    const [donors, targets] = [parts[1 - to] ?? [], parts[to] ?? []];
    const donation = donors[donated % donors.length] ?? '';
    const target = targets[replaced % targets.length] ?? '';
    judge(createAnswer((two[to] ?? '').replace(target, () => donation)), theirs);
  });
  await holds(property, 300);
});
