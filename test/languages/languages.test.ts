import assert from 'node:assert/strict';
import test from 'node:test';
import german from '../../src/languages/de.json' with { type: 'json' };
import {
  chooseLanguage,
  completeLanguages,
  english,
  fill,
  parseAcceptLanguage,
  placeholdersOf,
  type SomeMessages,
} from '../../src/languages/languages.ts';

/** Messages by path. */
function flatten(messages: object, at = ''): [string, string][] {
  return Object.entries(messages).flatMap(([name, value]) =>
    typeof value === 'string' ? [[at + name, value] as [string, string]] : flatten(value, `${at}${name}.`),
  );
}

test('the German catalogue has the messages of the English one, with the same placeholders, and no other', () => {
  const outline = (messages: object) =>
    flatten(messages).map(([path, message]) => `${path} ${placeholdersOf(message).sort().join(' ')}`);

  assert.ok(outline(english).length > 100, 'the messages are found');
  assert.deepEqual(outline(german), outline(english));
});

test('hardly a German message is as the English one', () => {
  const same = flatten(german).filter(([path, message]) => new Map(flatten(english)).get(path) === message);

  assert.deepEqual(
    same.map(([path]) => path),
    ['titleOf', 'login.userName', 'error.code'],
  );
});

const withOwn = (own: Record<string, SomeMessages>) => completeLanguages(new Map(Object.entries(own)));

const choices: readonly [wanted: string, there: readonly string[], chosen: string | undefined][] = [
  ['de', [], 'de'],
  ['de-AT', [], 'de'],
  ['DE-at', [], 'de'],
  ['de-AT', ['de-AT'], 'de-AT'],
  ['de-CH', ['de-AT'], 'de'],
  ['en-US', [], 'en'],
  ['en-US', ['en-GB'], 'en'],
  ['fr', [], undefined],
  ['fr de en', [], 'de'],
  ['fr-CA', ['fr'], 'fr'],
  ['fr', ['fr-CA'], 'fr-CA'],
  ['zh-TW', ['zh-Hans', 'zh-Hant'], 'zh-Hant'],
  ['zh-Hant-HK', ['zh-Hans', 'zh-Hant'], 'zh-Hant'],
  ['zh-CN', ['zh-Hant'], undefined],
  ['sr-Latn', ['sr'], undefined],
  ['* i-klingon no_tag -- de', [], 'de'],
  ['', [], undefined],
  [`${'xx '.repeat(20)}de`, [], undefined],
];

for (const [wanted, there, chosen] of choices) {
  test(`who wants ${JSON.stringify(wanted.slice(0, 40))} where there are en, de ${there.join(', ')} gets ${chosen ?? 'the default'}`, () => {
    const languages = withOwn(Object.fromEntries(there.map((tag) => [tag, {}])));
    assert.equal(chooseLanguage(languages, wanted.split(' '))?.lang, chosen);
  });
}

test('a browser’s languages are in the order of their weights, and those that it refuses are not among them', () => {
  const read = (header: string) => parseAcceptLanguage(header).join(' ');
  assert.equal(read('fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5'), 'fr-CH fr en de *');
  assert.equal(read('en;q=0.2,de-AT;Q=1, it ; q=0.5'), 'de-AT it en');
  assert.equal(read('de;q=0, en;q=0.1'), 'en');
  assert.equal(read('de;q=2, fr;q=x, en'), 'en');
  assert.equal(read('en;level=1;q=0.5, de;q=0.6'), 'de en');
  assert.equal(read('de,'.repeat(400)), '', 'what no browser sends');
});

test('what a language lacks comes from the same language of another region, else from English, and is named', () => {
  const languages = withOwn({
    fr: { back: 'Retour' },
    'de-AT': { back: 'Retour, bitte' },
    'zh-Hant': {},
    zh: { back: '返回' },
  });
  const [french, austrian, traditional] = ['fr', 'de-AT', 'zh-Hant'].map((tag) => languages.get(tag));
  assert.deepEqual([french?.texts.back, french?.texts.login.submit], ['Retour', 'Sign in']);
  assert.equal(french?.missing.length, flatten(english).length - 1);
  assert.ok(!french?.missing.includes('back') && french?.missing.includes('login.errors.busy'));
  assert.deepEqual([austrian?.texts.back, austrian?.texts.login.submit], ['Retour, bitte', 'Anmelden']);
  assert.deepEqual(austrian?.missing, []);
  assert.equal(traditional?.texts.back, 'Go back', 'the one script does not stand in for the other');
});

test('an operator’s sentence takes the place of ours, also for the languages that lack it', () => {
  const languages = withOwn({
    en: { login: { userName: 'Windows account' } },
    fr: {},
    de: { back: 'Retour' },
  });
  assert.equal(languages.get('en')?.texts.login.userName, 'Windows account');
  assert.equal(languages.get('fr')?.texts.login.userName, 'Windows account');
  assert.equal(languages.get('de')?.texts.login.userName, 'Name');
  assert.deepEqual([languages.get('en')?.missing, languages.get('de')?.missing], [[], []]);
  assert.equal(english.login.userName, 'Name', 'ours is as it was');
});

test('languages know the direction of their writing', () => {
  const languages = withOwn({ ar: {}, he: {}, 'az-Arab': {}, az: {} });
  const directions = [...languages].map(([tag, { texts }]) => `${tag} ${texts.dir}`);
  assert.deepEqual(directions, ['en ltr', 'de ltr', 'ar rtl', 'he rtl', 'az-Arab rtl', 'az ltr']);
});

test('a message is filled in by name, as often as it says, and what is filled in is not read again', () => {
  assert.equal(fill('{client}, {client}', { client: '{page}$&' }), '{page}$&, {page}$&');
  assert.throws(() => fill('{client}', { page: 'x' }), /no value for \{client\}/);
});
