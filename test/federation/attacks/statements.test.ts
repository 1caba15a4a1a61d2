/** Assertions that the identity provider really made and signed, but for somebody else, for another time or in vain. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { verifySignInResponse } from '../../../src/federation/saml.ts';
import { createAnswer, createAssertion, known, sign, toTime } from '../../support/saml-issuer.ts';
import { getHint, idp, type Misfit, options, testMisfits } from './corpus.ts';

const until = `NotOnOrAfter="${toTime(known.now + 60)}"`;
const conditions = (content: string, attributes = until) =>
  `<saml:Conditions ${attributes}>${content}</saml:Conditions>`;
const restriction = (...audiences: readonly string[]) =>
  `<saml:AudienceRestriction>${audiences.map((one) => `<saml:Audience>${one}</saml:Audience>`).join('')}</saml:AudienceRestriction>`;
const ours = restriction(known.realm);
const ours11 = `<saml:AudienceRestrictionCondition><saml:Audience>${known.realm}</saml:Audience></saml:AudienceRestrictionCondition>`;
const notOurRealm = /audience restriction does not have our realm/;

const audiences: readonly Misfit[] = [
  ...[
    'urn:other',
    'urn:intelligence2',
    'urn:intelligenc',
    'URN:INTELLIGENCE',
    'urn:intelligence//',
    '/',
    '',
  ].map((audience) => ({
    name: `an assertion for the audience "${audience}"`,
    assertion: { conditions: conditions(restriction(audience)) },
    reason: notOurRealm,
  })),
  {
    name: 'two audience restrictions of which one does not have our realm',
    assertion: { conditions: conditions(ours + restriction('urn:other')) },
    reason: notOurRealm,
  },
  {
    name: 'two audience restrictions, ours the second',
    assertion: { conditions: conditions(restriction('urn:other') + ours) },
    reason: notOurRealm,
  },
  {
    name: 'an audience restriction without an audience',
    assertion: { conditions: conditions('<saml:AudienceRestriction/>') },
    reason: notOurRealm,
  },
  {
    name: 'our realm in pieces, one element inside the audience',
    assertion: { conditions: conditions(restriction('urn:<x>intelligence</x>')) },
    reason: /Audience has elements/,
  },
  {
    name: 'no audience restriction',
    assertion: { conditions: conditions('') },
    reason: /not restricted to an audience/,
  },
  {
    name: 'an audience restriction of another namespace',
    assertion: {
      conditions: conditions(
        ours.replaceAll('saml:', 'x:').replace('<x:', '<x:').replace('>', ' xmlns:x="urn:x">'),
      ),
    },
    reason: /not restricted to an audience/,
  },
  {
    name: 'the audience restriction of SAML 1.1 in SAML 2.0',
    assertion: { conditions: conditions(ours11) },
    reason: /not restricted to an audience/,
  },
  {
    name: 'another audience in SAML 1.1',
    assertion: { version: '1.1', conditions: conditions(ours11.replace(known.realm, 'urn:other')) },
    reason: notOurRealm,
  },
];

const lifetimes: readonly Misfit[] = [
  {
    name: 'an assertion that expired 300 seconds ago',
    assertion: { notOnOrAfter: known.now - 300 },
    reason: /Conditions of the assertion has expired/,
  },
  {
    name: 'an assertion of yesterday',
    assertion: { notBefore: known.now - 90_000, notOnOrAfter: known.now - 86_400 },
    reason: /has expired/,
  },
  {
    name: 'an assertion of SAML 1.1 that has expired',
    assertion: { version: '1.1', notOnOrAfter: known.now - 300 },
    reason: /has expired/,
  },
  {
    name: 'an assertion that begins in 301 seconds',
    assertion: { notBefore: known.now + 301 },
    reason: /Conditions of the assertion is not valid yet/,
  },
  {
    name: 'an expiry of a moment ago where the clocks are said to agree',
    assertion: { notOnOrAfter: known.now },
    reason: /has expired/,
    options: { clockToleranceSeconds: 0 },
  },
  { name: 'no expiry', assertion: { conditions: conditions(ours, '') }, reason: /has no expiry/ },
  {
    name: 'an empty expiry',
    assertion: { conditions: conditions(ours, 'NotOnOrAfter=""') },
    reason: /has no expiry/,
  },
  {
    name: 'an expiry in an attribute of another namespace',
    assertion: { conditions: conditions(ours, `xmlns:x="urn:x" x:${until}`) },
    reason: /has no expiry/,
  },
  ...[
    'never',
    '2036-01-01',
    '2036-01-01T00:00:00',
    '2036-13-01T00:00:00Z',
    '+275760-09-13T00:00:00Z',
    '1e99',
    '2036-01-01T00:00:00Z; x',
  ].map((time) => ({
    name: `an expiry of "${time}"`,
    assertion: { conditions: conditions(ours, `NotOnOrAfter="${time}"`) },
    reason: /NotOnOrAfter is not a point in time/,
  })),
  { name: 'no conditions', assertion: { conditions: '' }, reason: /Assertion has no Conditions/ },
  {
    name: 'no conditions in SAML 1.1',
    assertion: { version: '1.1', conditions: '' },
    reason: /Assertion has no Conditions/,
  },
  {
    name: 'conditions twice',
    assertion: { conditions: conditions(ours) + conditions(ours) },
    reason: /Assertion has several Conditions/,
  },
];

const furtherConditions: readonly Misfit[] = [
  {
    name: 'ProxyRestriction, for we vouch to others',
    assertion: { conditions: conditions(`${ours}<saml:ProxyRestriction Count="0"/>`) },
    reason: /condition that we do not meet: ProxyRestriction/,
  },
  {
    name: 'a condition that nobody knows',
    assertion: {
      conditions: conditions(
        `${ours}<saml:Condition xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="x"/>`,
      ),
    },
    reason: /condition that we do not meet: Condition/,
  },
  {
    name: 'a condition of another namespace by a known name',
    assertion: { conditions: conditions(`${ours}<x:OneTimeUse xmlns:x="urn:x"/>`) },
    reason: /condition that we do not meet: OneTimeUse/,
  },
  {
    name: 'OneTimeUse in SAML 1.1, which does not have it',
    assertion: { version: '1.1', conditions: conditions(`${ours11}<saml:OneTimeUse/>`) },
    reason: /condition that we do not meet: OneTimeUse/,
  },
];

const wrongIssuer = /issuer is not the entityID/;
const issuers: readonly Misfit[] = [
  ...(['1.1', '2.0'] as const).map((version) => ({
    name: `another issuer under a known key (SAML ${version})`,
    assertion: { version, issuer: 'http://adfs.other.example/adfs/services/trust' },
    reason: wrongIssuer,
  })),
  ...['/', '.evil.example', ' ;'].map((suffix) => ({
    name: `the issuer with "${suffix}" behind`,
    assertion: { issuer: `${known.issuer}${suffix}` },
    reason: wrongIssuer,
  })),
  { name: 'the issuer in capitals', assertion: { issuer: known.issuer.toUpperCase() }, reason: wrongIssuer },
  { name: 'an empty issuer', assertion: { issuer: '' }, reason: wrongIssuer },
  { name: 'an empty issuer in SAML 1.1', assertion: { version: '1.1', issuer: '' }, reason: wrongIssuer },
];

const bearer = (data: string) =>
  `<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData ${data}/></saml:SubjectConfirmation>`;
const method = (version: '1.0' | '2.0', name: string) =>
  version === '1.0'
    ? `<saml:SubjectConfirmation><saml:ConfirmationMethod>urn:oasis:names:tc:SAML:1.0:cm:${name}</saml:ConfirmationMethod></saml:SubjectConfirmation>`
    : `<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:${name}"/>`;
const notBearer = /subject is not confirmed as bearer/;
const notOurAddress = /Recipient is not an address of ours/;

const confirmations: readonly Misfit[] = [
  ...[
    'https://other.example/callback',
    'https://postern.example.com/',
    `${known.recipient}2`,
    `${known.recipient}?x=y`,
  ].map((recipient) => ({
    name: `the Recipient ${recipient}`,
    assertion: { confirmation: bearer(`Recipient="${recipient}"`) },
    reason: notOurAddress,
  })),
  {
    name: 'two bearer confirmations, neither for us',
    assertion: {
      confirmation: bearer('Recipient="https://a.example/"') + bearer('Recipient="https://b.example/"'),
    },
    reason: notOurAddress,
  },
  {
    name: 'a confirmation that has expired inside an assertion that has not',
    assertion: { confirmation: bearer(`NotOnOrAfter="${toTime(known.now - 300)}"`) },
    reason: /SubjectConfirmationData of the assertion has expired/,
  },
  {
    name: 'a confirmation that is not valid yet',
    assertion: { confirmation: bearer(`NotBefore="${toTime(known.now + 301)}"`) },
    reason: /SubjectConfirmationData of the assertion is not valid yet/,
  },
  {
    name: 'an expiry of the confirmation that is no time',
    assertion: { confirmation: bearer('NotOnOrAfter="soon"') },
    reason: /not a point in time/,
  },
  { name: 'no confirmation in SAML 2.0', assertion: { confirmation: '' }, reason: notBearer },
  { name: 'holder of key', assertion: { confirmation: method('2.0', 'holder-of-key') }, reason: notBearer },
  { name: 'sender vouches', assertion: { confirmation: method('2.0', 'sender-vouches') }, reason: notBearer },
  {
    name: 'holder of key in SAML 1.1',
    assertion: { version: '1.1', confirmation: method('1.0', 'holder-of-key') },
    reason: notBearer,
  },
  {
    name: 'a confirmation without a method in SAML 1.1',
    assertion: { version: '1.1', confirmation: '<saml:SubjectConfirmation/>' },
    reason: notBearer,
  },
  {
    name: 'bearer in a confirmation of another namespace',
    assertion: {
      confirmation: method('2.0', 'bearer').replaceAll(
        'saml:SubjectConfirmation',
        'SubjectConfirmation xmlns="urn:x"',
      ),
    },
    reason: notBearer,
  },
];

testMisfits([...audiences, ...lifetimes, ...furtherConditions, ...issuers, ...confirmations]);

/** Assertions that say two things, or in a way that two readers would take differently. */
const ambiguous: readonly {
  name: string;
  version: '1.1' | '2.0';
  edit: (assertion: string) => string;
  reason: RegExp;
}[] = [
  {
    name: 'two names of the subject',
    version: '2.0',
    edit: (it) => it.replace('<saml:NameID ', '<saml:NameID>mallory@example.com</saml:NameID>$&'),
    reason: /Subject has several NameID/,
  },
  {
    name: 'two subjects',
    version: '2.0',
    edit: (it) => it.replace(/<saml:Subject>.*<\/saml:Subject>/, '$&$&'),
    reason: /Assertion has several Subject/,
  },
  {
    name: 'no subject',
    version: '2.0',
    edit: (it) => it.replace(/<saml:Subject>.*<\/saml:Subject>/, ''),
    reason: /Assertion has no Subject/,
  },
  {
    name: 'two issuers',
    version: '2.0',
    edit: (it) => it.replace(/<saml:Issuer>.*<\/saml:Issuer>/, '$&$&'),
    reason: /Assertion has several Issuer/,
  },
  {
    name: 'an element inside the name',
    version: '2.0',
    edit: (it) => it.replace('>alice@', '>alice<x/>@'),
    reason: /NameID has elements/,
  },
  {
    name: 'statements about different subjects',
    version: '1.1',
    edit: (it) =>
      it.replace('>alice@example.com</saml:NameIdentifier>', '>mallory@example.com</saml:NameIdentifier>'),
    reason: /statements are about different subjects/,
  },
  {
    name: 'a statement without a subject',
    version: '1.1',
    edit: (it) => it.replace(/<saml:Subject>.*?<\/saml:Subject>/, ''),
    reason: /AttributeStatement has no Subject/,
  },
  {
    name: 'no statement',
    version: '1.1',
    edit: (it) => it.replace(/<saml:AttributeStatement>.*<\/saml:AuthenticationStatement>/, ''),
    reason: /has no statement/,
  },
  {
    name: 'version 1.0 of SAML',
    version: '1.1',
    edit: (it) => it.replace('MinorVersion="1"', 'MinorVersion="0"'),
    reason: /MinorVersion of the assertion is not 1/,
  },
  {
    name: 'no version',
    version: '2.0',
    edit: (it) => it.replace(' Version="2.0"', ''),
    reason: /Version of the assertion is not 2\.0/,
  },
  {
    name: 'a time of authentication that is none',
    version: '2.0',
    edit: (it) => it.replace(/AuthnInstant="[^"]*"/, 'AuthnInstant="today"'),
    reason: /AuthnInstant is not a point in time/,
  },
];

for (const { name, version, edit, reason } of ambiguous) {
  test(`refused: ${name} (SAML ${version})`, () => {
    const assertion = createAssertion({ version });
    const answer = (content: string) => createAnswer(sign(content, { signer: idp }));
    assert.equal(verifySignInResponse(answer(assertion), options).subject, known.subject);

    assert.notEqual(edit(assertion), assertion);
    assert.match(getHint(answer(edit(assertion))), reason);
  });
}
