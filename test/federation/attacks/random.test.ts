/**
 * Honest answers, changed at random: whatever is accepted says what the identity provider said. The seed is in the
 * name of the test; SEED repeats a run, and BUDGET_MS makes it longer.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { DOMParser, type Element, XMLSerializer } from '@xmldom/xmldom';
import { type VerifiedAssertion, verifySignInResponse } from '../../../src/federation/saml.ts';
import { createAnswer, createAssertion, known, sign } from '../../support/saml-issuer.ts';
import { createHonest, idp, mallory, options } from './corpus.ts';

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const budgetMs = Number(process.env.BUDGET_MS ?? 800);

/** Numbers from 0 up to a bound, by mulberry32: the same for the same seed. */
function createRandom(start: number): (bound: number) => number {
  let state = start >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % bound;
  };
}

function describe(verified: VerifiedAssertion): unknown {
  return { ...verified, claims: [...verified.claims] };
}

/** Makes mutants until the time is up, holds each that is accepted to one of the honest identities, and says how many. */
function hold(mutate: (random: (bound: number) => number) => string, honest: readonly string[]): string {
  const identities = honest.map((answer) => describe(verifySignInResponse(answer, options)));
  const random = createRandom(seed);
  const end = performance.now() + budgetMs;
  let accepted = 0;
  let count = 0;
  for (; performance.now() < end; count++) {
    const mutant = mutate(random);
    let verified: VerifiedAssertion;
    try {
      verified = verifySignInResponse(mutant, options);
    } catch {
      continue;
    }
    accepted += 1;
    const identity = describe(verified);
    assert.ok(
      identities.some((one) => JSON.stringify(one) === JSON.stringify(identity)),
      `seed ${seed}, mutant ${count}: ${mutant}`,
    );
  }
  assert.ok(count > 5, 'there was time for mutants');
  return `${count} mutants, ${accepted} of them accepted`;
}

const honest = (['1.1', '2.0'] as const).map((version) => createHonest(version));
const answers = honest.map(({ answer }) => answer);
const pieces = [
  '<',
  '>',
  '"',
  "'",
  '&',
  ';',
  '/',
  ' ',
  '\n',
  '=',
  ':',
  '#',
  '<!--',
  '-->',
  '<![CDATA[',
  ']]>',
  '<?',
  '?>',
  '&#65;',
  '&amp;',
  '<x/>',
  ' Id="_evil"',
  ' xmlns="urn:x"',
  ' xmlns:saml="urn:x"',
  'saml:',
  'ds:',
  'mallory',
  '\u0000',
  '\u2028',
  '\ud800',
];

test(`bytes changed, left out and put in never make another identity (seed ${seed})`, (t) => {
  const outcome = hold((random) => {
    const bytes = Buffer.from(answers[random(answers.length)] ?? '');
    let text = bytes.toString('latin1');
    for (let changes = 1 + random(3); changes > 0; changes--) {
      const at = random(text.length);
      const kind = random(4);
      if (kind === 0)
        text =
          text.slice(0, at) +
          String.fromCharCode(text.charCodeAt(at) ^ (1 << random(8))) +
          text.slice(at + 1);
      if (kind === 1) text = text.slice(0, at) + text.slice(at + 1 + random(40));
      if (kind === 2) text = text.slice(0, at) + (pieces[random(pieces.length)] ?? '') + text.slice(at);
      if (kind === 3) {
        const from = random(text.length);
        text = text.slice(0, at) + text.slice(from, from + random(400)) + text.slice(at);
      }
    }
    return Buffer.from(text, 'latin1').toString('utf8');
  }, answers);
  t.diagnostic(outcome);
});

test(`elements moved, copied and swapped for forged ones never make another identity (seed ${seed})`, (t) => {
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

  const outcome = hold((random) => {
    const pick = <T>(list: readonly T[]): T => list[random(list.length)] as T;
    const document = parse(pick(answers));
    const root = document.documentElement as Element;
    for (let changes = 1 + random(3); changes > 0; changes--) {
      const donor =
        random(2) === 0 ? root : (parse(pick([...forged, ...answers])).documentElement as Element);
      const moved = document.importNode(pick(elementsOf(donor)), true) as Element;
      const target = pick(elementsOf(root));
      const parent = target.parentNode;
      const kind = random(4);
      if (kind === 0 || parent === null || target === root) target.appendChild(moved);
      else if (kind === 1) parent.insertBefore(moved, target);
      else if (kind === 2) parent.replaceChild(moved, target);
      else parent.removeChild(target);
    }
    return new XMLSerializer().serializeToString(document);
  }, answers);
  t.diagnostic(outcome);
});

test('the parts of two honest answers never make a third identity', (t) => {
  const [, first] = honest;
  const secondAssertion = sign(
    createAssertion({
      id: '_second',
      subject: 'bob@example.com',
      claims: { [known.upn]: 'bob@example.com' },
    }),
    { signer: idp },
  );
  const two = [first?.assertion ?? '', secondAssertion];
  const partsOf = (xml: string) =>
    [...xml.matchAll(/(?=(<((?:saml|ds):\w+)(?: [^>]*)?>.*?<\/\2>))/gs)].map(([, part = '']) => part);
  const parts = two.map((assertion) => ({ assertion, parts: partsOf(assertion) }));

  const outcome = hold(
    (random) => {
      const [from, to] = random(2) === 0 ? parts : [...parts].reverse();
      const donated = from?.parts ?? [];
      const replaced = to?.parts ?? [];
      const donation = donated[random(donated.length)] ?? '';
      return createAnswer(
        (to?.assertion ?? '').replace(replaced[random(replaced.length)] ?? '', () => donation),
      );
    },
    two.map((assertion) => createAnswer(assertion)),
  );
  t.diagnostic(outcome);
});
