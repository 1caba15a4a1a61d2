/** XML that is more than plain, or less than well-formed: what two parsers may read differently, and what costs time. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type Attack, createHonest, getHint, testAttacks } from './corpus.ts';

const doctype = /document type/;
const declaration = /a comment, CDATA or a declaration/;
const instruction = /processing instruction/;
const malformed = /not well-formed/;
const noCharacter = /a character that XML does not allow/;
const noReference = /refers to a character that is none/;
const noEntity = /an entity of its own/;
/** Puts text into the name of the subject, before the "@". */
const inName = (text: string) => (honest: { answer: string }) =>
  honest.answer.replaceAll('>alice@', `>alice${text}@`);

const declarations: readonly Attack[] = [
  { name: 'a document type', forge: ({ answer }) => `<!DOCTYPE x>${answer}`, reason: doctype },
  {
    name: 'a document type in small letters',
    forge: ({ answer }) => `<!doctype x>${answer}`,
    reason: doctype,
  },
  {
    name: 'a document type behind an XML declaration',
    forge: ({ answer }) =>
      `<?xml version="1.0"?>\n<!DOCTYPE x SYSTEM "http://mallory.example/x.dtd">${answer}`,
    reason: doctype,
  },
  {
    name: 'an entity of our own files',
    forge: (honest) => `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>${inName('&e;')(honest)}`,
    reason: doctype,
  },
  {
    name: 'an entity that makes mallory of alice',
    forge: ({ answer }) => `<!DOCTYPE x [<!ENTITY e "mallory">]>${answer.replaceAll('>alice@', '>&e;@')}`,
    reason: doctype,
  },
  {
    name: 'a billion laughs',
    forge: (honest) => {
      const entities = Array.from(
        { length: 9 },
        (_, level) => `<!ENTITY e${level + 1} "${`&e${level};`.repeat(10)}">`,
      );
      return `<!DOCTYPE x [<!ENTITY e0 "ha">${entities.join('')}]>${inName('&e9;')(honest)}`;
    },
    reason: doctype,
  },
  {
    name: 'a default attribute that makes an id of anything',
    forge: ({ answer, id }) => `<!DOCTYPE x [<!ATTLIST x Id CDATA "${id}">]>${answer}`,
    reason: doctype,
  },
];

const hidden: readonly Attack[] = [
  { name: 'a comment in the name', forge: inName('<!---->'), reason: declaration },
  { name: 'a comment with another name in the name', forge: inName('<!--.mallory-->'), reason: declaration },
  {
    name: 'a comment in the issuer',
    forge: ({ answer }) => answer.replace('adfs.example.com', 'adfs.example.com<!---->'),
    reason: declaration,
  },
  {
    name: 'a comment in the digest',
    forge: ({ answer }) => answer.replace('<ds:DigestValue>', '$&<!--AAAA-->'),
    reason: declaration,
  },
  {
    name: 'a comment in the signature value',
    forge: ({ answer }) => answer.replace('<ds:SignatureValue>', '$&<!--AAAA-->'),
    reason: declaration,
  },
  {
    name: 'a comment between elements',
    forge: ({ answer }) => answer.replace('<saml:Conditions', '<!-- -->$&'),
    reason: declaration,
  },
  { name: 'a comment around the answer', forge: ({ answer }) => `<!-- -->${answer}`, reason: declaration },
  { name: 'CDATA in the name', forge: inName('<![CDATA[]]>'), reason: declaration },
  { name: 'CDATA with markup in the name', forge: inName('<![CDATA[<x>]]>'), reason: declaration },
  { name: 'a processing instruction in the name', forge: inName('<?x y?>'), reason: instruction },
  {
    name: 'a style sheet',
    forge: ({ answer }) => `<?xml-stylesheet href="x"?>${answer}`,
    reason: instruction,
  },
  {
    name: 'a second XML declaration',
    forge: ({ answer }) => `<?xml version="1.0"?><?xml version="1.0"?>${answer}`,
    reason: instruction,
  },
  {
    name: 'an XML declaration inside',
    forge: ({ answer }) => answer.replace('<saml:Assertion', '<?xml version="1.0"?>$&'),
    reason: instruction,
  },
];

const characters: readonly Attack[] = [
  ...[
    '&#0;',
    '&#x0;',
    '&#x1F;',
    '&#11;',
    '&#xD800;',
    '&#xDFFF;',
    '&#xFFFE;',
    '&#xFFFF;',
    '&#x110000;',
    '&#9999999;',
  ].map((reference) => ({ name: `${reference} in the name`, forge: inName(reference), reason: noReference })),
  ...[
    '&nbsp;',
    '&mallory;',
    '&',
    '&;',
    '&#;',
    '&#x;',
    '&#xG;',
    '&#12',
    '&#00000000000065;',
    '&amp',
    '&LT;',
  ].map((reference) => ({
    name: `${reference} in the name`,
    forge: inName(reference),
    reason: noEntity,
  })),
  ...['\u0000', '\u0001', '\u000b', '\u001f', '\ufffe', '\uffff', '\ud800', '\udc00'].map((character) => ({
    name: `the character U+${character.charCodeAt(0).toString(16).padStart(4, '0').toUpperCase()} in the name`,
    forge: inName(character),
    reason: noCharacter,
  })),
];

/** What xmldom 0.8, which xml-crypto parses with, lets pass or repairs. */
const repaired: readonly Attack[] = [
  {
    name: 'an attribute twice',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&NotBefore="2026-01-01T00:00:00Z" '),
    reason: malformed,
  },
  {
    name: 'an attribute without quotes',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x=y '),
    reason: malformed,
  },
  {
    name: 'an attribute without a value',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x '),
    reason: malformed,
  },
  {
    name: 'attributes without a space between',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x="y"z="w" '),
    reason: malformed,
  },
  {
    name: '"<" in an attribute',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x="<" '),
    reason: malformed,
  },
  {
    name: 'a name with two colons',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&a:b:c="d" '),
    reason: malformed,
  },
  {
    name: 'a prefix that is not declared',
    forge: ({ answer }) => answer.replace('<saml:Conditions', '<x:y/>$&'),
    reason: malformed,
  },
  {
    name: 'an attribute with a prefix that is not declared',
    forge: ({ answer }) => answer.replace('<saml:Conditions ', '$&x:y="z" '),
    reason: malformed,
  },
  {
    name: 'an element that does not end',
    forge: ({ answer }) => answer.replace('</saml:Conditions>', ''),
    reason: malformed,
  },
  {
    name: 'an end without a beginning',
    forge: ({ answer }) => answer.replace('</saml:Conditions>', '$&</saml:Conditions>'),
    reason: malformed,
  },
  {
    name: 'ends in the wrong order',
    forge: ({ answer }) =>
      answer
        .replace('</t:RequestedSecurityToken>', '')
        .replace('</saml:Assertion>', '</t:RequestedSecurityToken>$&'),
    reason: malformed,
  },
  { name: 'a tag that does not end', forge: ({ answer }) => `${answer}<x`, reason: malformed },
  {
    name: 'a quote that does not end',
    forge: ({ answer }) => answer.replace('Context="wctx"', 'Context="wctx'),
    reason: malformed,
  },
  {
    name: 'a space before the name of an element',
    forge: ({ answer }) => answer.replace('<saml:Conditions', '< saml:Conditions'),
    reason: malformed,
  },
  { name: 'text behind the answer', forge: ({ answer }) => `${answer}x`, reason: malformed },
  { name: 'text before the answer', forge: ({ answer }) => `x${answer}`, reason: malformed },
  { name: 'a second root', forge: ({ answer, evil }) => `${answer}${evil()}`, reason: malformed },
  { name: 'nothing', forge: () => '', reason: /not well-formed|no root element/ },
  { name: 'no XML', forge: () => '{"sub":"mallory"}', reason: malformed },
  {
    name: 'base64, as SAML has it in another binding',
    forge: ({ answer }) => Buffer.from(answer).toString('base64'),
    reason: malformed,
  },
];

testAttacks([...declarations, ...hidden, ...characters, ...repaired]);

const costly: readonly { name: string; forge: (answer: string) => string; reason: RegExp }[] = [
  {
    name: 'nesting of thousands of levels',
    forge: (answer) =>
      answer.replace('<t:RequestedSecurityToken>', `${'<a>'.repeat(15_000)}${'</a>'.repeat(15_000)}$&`),
    reason: /nested more than 48 levels deep/,
  },
  {
    name: 'a namespace more at each of thousands of levels',
    forge: () => Array.from({ length: 9_000 }, (_, level) => `<a xmlns:b${level}="c">`).join(''),
    reason: /nested more than 48 levels deep/,
  },
  {
    name: 'thousands of attributes on one element',
    forge: (answer) =>
      answer.replace(
        '<saml:Conditions ',
        `$&${Array.from({ length: 15_000 }, (_, index) => `a${index}="b"`).join(' ')} `,
      ),
    reason: /too many attributes/,
  },
  {
    name: 'tens of thousands of elements',
    forge: (answer) => answer.replace('<saml:Conditions ', `${'<a/>'.repeat(50_000)}$&`),
    reason: /more than 3000 elements/,
  },
  {
    name: 'a text of megabytes',
    forge: (answer) => answer.replace('>alice@', `>${'a'.repeat(8_000_000)}@`),
    reason: /at most 262144 are read/,
  },
  {
    name: 'white space of megabytes',
    forge: (answer) => `${answer}${' '.repeat(8_000_000)}`,
    reason: /at most 262144 are read/,
  },
  { name: 'a quarter of a mebibyte of "<"', forge: () => '<'.repeat(262_144), reason: /not well-formed/ },
  {
    name: 'a quarter of a mebibyte of "&"',
    forge: (answer) => `<a>${'&'.repeat(262_000)}</a>${answer.slice(0, 0)}`,
    reason: /an entity of its own/,
  },
  {
    name: 'a quarter of a mebibyte of quotes',
    forge: () => `<a ${'"'.repeat(262_000)}`,
    reason: /not well-formed/,
  },
  {
    name: 'a quarter of a mebibyte of white space inside',
    forge: () => `<a>x${' '.repeat(262_000)}x</a>`,
    reason: /not a RequestSecurityTokenResponse/,
  },
];

/** Of the processor, not of the clock: other tests run beside this one. */
function tookMs(begin: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(begin);
  return (user + system) / 1000;
}

for (const { name, forge, reason } of costly) {
  test(`refused at once: ${name}`, () => {
    const attack = forge(createHonest().answer);
    const begin = process.cpuUsage();

    assert.match(getHint(attack), reason);

    assert.ok(tookMs(begin) < 250, `${tookMs(begin)} ms`);
  });
}

test('an unsigned answer as large and as full as is let in costs little more than its size', () => {
  const honest = createHonest();
  const filling = '<a b="c" d="e"/>'.repeat(2_900);
  const text = 'x'.repeat(262_144 - honest.answer.length - filling.length);
  const attack = honest.answer.replace('<saml:AttributeStatement>', `$&${filling}${text}`);
  const begin = process.cpuUsage();

  assert.match(getHint(attack), /the signed content was changed/);

  assert.ok(tookMs(begin) < 1_500, `${tookMs(begin)} ms`);
});
