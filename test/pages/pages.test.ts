import assert from 'node:assert/strict';
import { test } from 'node:test';
import { completeLanguages, type Texts } from '../../src/languages/languages.ts';
import { errorPage, homePage, interactionExpiredPage, noProviderPage } from '../../src/pages/notices.ts';
import { changePasswordPage, consentPage, loginPage, providerPage } from '../../src/pages/sign-in.ts';
import { signedOutPage, signOutPage } from '../../src/pages/sign-out.ts';

const [english, german] = ['en', 'de'].map((tag) => completeLanguages(new Map()).get(tag)?.texts) as [
  Texts,
  Texts,
];

interface Tag {
  name: string;
  attributes: Record<string, string>;
  /** The text from this tag to the next one. */
  text: string;
}

/**
 * Reads a page as strictly as we write it: every `<` begins a tag, every value is double-quoted.
 * Anything that escaped from an interpolation makes another list of tags, or fails here.
 */
function parse(page: string): Tag[] {
  const tags: Tag[] = [];
  const tag = /<(!doctype html|\/?[a-z][a-z0-9]*)((?: [a-zA-Z][a-zA-Z-]*(?:="[^"<>]*")?)*)(\/?)>([^<>]*)/gy;
  while (tag.lastIndex < page.length) {
    const at = tag.lastIndex;
    const match = tag.exec(page);
    assert.ok(match, `not markup of ours: ${page.slice(at, at + 120)}`);
    const [, name = '', rest = '', , text = ''] = match;
    const attributes = Object.fromEntries(
      [...rest.matchAll(/ ([a-zA-Z-]+)(?:="([^"]*)")?/g)].map(([, key = '', value = '']) => [
        key,
        decode(value),
      ]),
    );
    tags.push({ name, attributes, text: decode(text) });
  }
  return tags;
}

function decode(text: string): string {
  assert.doesNotMatch(text, /&(?!(amp|lt|gt|quot|#39);)/);
  return text
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&');
}

const named = (tags: Tag[], name: string) => tags.filter((tag) => tag.name === name);
const titleOf = (page: string) => named(parse(page), 'title')[0]?.text;

/** Every page with every part shown, each text made by `text` and each URL by `url`. */
function pages(
  text: (name: string) => string,
  url: (name: string) => string,
  texts: Texts = english,
): Record<string, string> {
  const brand = { name: text('brand'), stylesheetUrl: url('style.css'), logoUrl: url('logo') };
  const clientName = text('client');
  const backUrl = url('back');
  const form = {
    brand,
    texts,
    clientName,
    action: url('action'),
    csrf: text('csrf'),
    userName: text('user'),
  };
  const scope = (name: string, required: boolean) => ({
    name: text(name),
    displayName: text(`${name}-display`),
    description: text(`${name}-description`),
    emphasize: true,
    required,
  });
  return {
    login: loginPage({
      ...form,
      clientLogoUrl: url('client-logo'),
      error: 'credentials',
      providers: [{ name: text('provider'), caption: text('caption') }],
    }),
    providers: providerPage({
      ...form,
      clientLogoUrl: url('client-logo'),
      providers: [{ name: text('provider'), caption: text('caption') }],
      asksForName: true,
      problem: { heading: text('heading'), message: text('message') },
    }),
    changePassword: changePasswordPage({ ...form, asksCurrent: true, error: { kind: 'short', limit: 8 } }),
    consent: consentPage({
      ...form,
      clientUri: url('client'),
      clientLogoUrl: url('client-logo'),
      scopes: [scope('openid', true), scope('profile', false)],
      offline: true,
      canRemember: true,
    }),
    error: errorPage({
      brand,
      texts,
      code: text('code'),
      reason: text('reason'),
      requestId: text('request'),
    }),
    signOut: signOutPage({
      brand,
      texts,
      stayUrl: url('stay'),
      formHtml: { action: url('action'), xsrf: text('xsrf') },
      clientName,
      userName: text('user'),
    }),
    signedOut: signedOutPage({ brand, texts, clientName, backUrl }),
    noProvider: noProviderPage({ brand, texts, clientName, backUrl }),
    interactionExpired: interactionExpiredPage({ brand, texts, clientName, backUrl }),
    home: homePage({
      brand,
      texts,
      issuer: text('issuer'),
      discoveryUrl: url('discovery'),
      development: true,
    }),
  };
}

const plain = pages(
  (name) => name,
  (name) => `https://postern.example/${name}`,
);
const hostileText = `"><script>alert(1)</script>' onfocus="alert(1) &lt;`;

test('hostile names, hints and messages change no page beyond its text', () => {
  const hostile = pages(
    (name) => `${name}${hostileText}`,
    (name) => `https://postern.example/${name}?${encodeURIComponent(hostileText)}&"><script>`,
  );
  for (const [name, page] of Object.entries(hostile)) {
    const shape = (tags: Tag[]) => tags.map((tag) => [tag.name, ...Object.keys(tag.attributes)]);
    assert.deepEqual(shape(parse(page)), shape(parse(plain[name] ?? '')), name);
    const shown = JSON.stringify(parse(page));
    assert.ok(shown.includes(JSON.stringify(hostileText).slice(1, -1)), `${name} shows the text itself`);
  }
});

test('no page has a link, image or form that leads to a script', () => {
  for (const scheme of [
    'javascript:alert(1)//',
    ' java\nscript:alert(1)//',
    'data:text/html,<script>alert(1)</script>',
  ]) {
    const hostile = pages(
      (name) => name,
      (name) => scheme + name,
    );
    for (const [name, page] of Object.entries(hostile)) {
      const urls = parse(page).flatMap(({ attributes }) =>
        ['href', 'src', 'action', 'formaction']
          .map((key) => attributes[key])
          .filter((value) => value !== undefined),
      );
      assert.ok(urls.length > 0);
      assert.deepEqual(
        urls.filter((value) => value !== '' && !value.startsWith('data:image/svg+xml,')),
        [],
        name,
      );
    }
  }
});

test('pages have no scripts, inline styles or event handlers', () => {
  for (const [name, page] of Object.entries(plain)) {
    for (const tag of parse(page)) {
      assert.ok(!['script', 'style', 'iframe', 'object', 'base'].includes(tag.name), name);
      assert.deepEqual(
        Object.keys(tag.attributes).filter((key) => key === 'style' || /^on/i.test(key)),
        [],
        name,
      );
    }
  }
});

test('every form is posted and carries the proof that it came from our page', () => {
  const expected: Record<string, string[]> = {
    login: ['csrf', 'csrf'],
    providers: ['csrf', 'csrf', 'csrf'],
    changePassword: ['csrf'],
    consent: ['csrf', 'csrf'],
    signOut: ['xsrf'],
  };
  for (const [name, page] of Object.entries(plain)) {
    const forms = page.split('<form').slice(1);
    const proofs = forms.map((form) => {
      const inside = parse(`<form${form.slice(0, form.indexOf('</form>'))}`);
      assert.equal(inside[0]?.attributes.method, 'post');
      assert.equal(inside[0]?.attributes.action, 'https://postern.example/action');
      const proof = inside.find(({ attributes }) => attributes.name === 'csrf' || attributes.name === 'xsrf');
      assert.equal(proof?.attributes.type, 'hidden');
      assert.equal(proof?.attributes.value, proof?.attributes.name);
      return proof?.attributes.name;
    });
    assert.deepEqual(proofs, expected[name] ?? [], name);
  }
});

test('every input that a person sees has a label, and every reference meets its target', () => {
  for (const [name, page] of Object.entries(plain)) {
    const tags = parse(page);
    const ids = tags.flatMap(({ attributes }) => attributes.id ?? []);
    assert.equal(new Set(ids).size, ids.length, `${name}: ids are unique`);
    const labelled = named(tags, 'label').map(({ attributes }) => attributes.for);
    for (const { attributes } of named(tags, 'input')) {
      if (attributes.type === 'hidden' || attributes.hidden !== undefined) continue;
      assert.ok(labelled.includes(attributes.id), `${name}: ${attributes.name} has a label`);
    }
    for (const { attributes } of tags) {
      for (const id of [attributes.for, attributes['aria-describedby'], attributes['aria-labelledby']]) {
        if (id !== undefined) assert.ok(ids.includes(id), `${name}: ${id} exists`);
      }
    }
  }
});

test('every page has a language, one heading, landmarks and a title of its own', () => {
  for (const [name, page] of Object.entries(plain)) {
    const tags = parse(page);
    assert.equal(named(tags, 'html')[0]?.attributes.lang, 'en', name);
    for (const once of ['h1', 'main', 'header', 'title'])
      assert.equal(named(tags, once).length, 1, `${name}: ${once}`);
  }
  const titles = Object.values(plain).map(titleOf);
  assert.equal(new Set(titles).size, titles.length);
});

const form = {
  texts: english,
  brand: { name: 'Postern', stylesheetUrl: '/style.css' },
  action: '/interaction',
  csrf: 'proof',
  clientName: 'Demo',
};

test('the login form has the focus on the first empty field and never a password in it', () => {
  for (const [userName, focused] of [
    ['', 'username'],
    ['alice', 'password'],
  ] as const) {
    const inputs = named(parse(loginPage({ ...form, userName })), 'input');
    assert.deepEqual(
      inputs
        .filter(({ attributes }) => attributes.autofocus !== undefined)
        .map(({ attributes }) => attributes.name),
      [focused],
    );
    const field = (name: string) => inputs.find(({ attributes }) => attributes.name === name)?.attributes;
    assert.equal(field('username')?.value, userName);
    assert.equal(field('username')?.autocomplete, 'username');
    assert.equal(field('password')?.value, undefined);
    assert.equal(field('password')?.autocomplete, 'current-password');
  }
});

test('a refused login is announced, named in the title and tied to the fields', () => {
  const page = loginPage({ ...form, userName: 'alice', error: 'credentials' });
  const tags = parse(page);
  assert.match(titleOf(page) ?? '', /^Error: /);
  assert.equal(tags.find(({ attributes }) => attributes.role === 'alert')?.attributes.id, 'error');
  const fields = named(tags, 'input').filter(({ attributes }) => attributes.type !== 'hidden');
  assert.deepEqual(
    fields.map(({ attributes }) => [attributes['aria-describedby'], attributes['aria-invalid']]),
    [
      ['error', 'true'],
      ['error', 'true'],
    ],
  );
  assert.ok(
    !parse(loginPage({ ...form, userName: '' })).some(({ attributes }) => attributes.role === 'alert'),
  );
});

test('a login that failed for another reason marks no field as wrong', () => {
  for (const error of ['form-expired', 'unavailable'] as const) {
    const tags = parse(loginPage({ ...form, userName: 'alice', error }));
    assert.ok(tags.some(({ attributes }) => attributes.role === 'alert'));
    assert.ok(!tags.some(({ attributes }) => attributes['aria-invalid'] !== undefined));
  }
});

test('cancel sends the login form without checking it', () => {
  const cancelIn = (page: string) =>
    parse(page).filter(({ name, text }) => ['a', 'button'].includes(name) && text === 'Cancel');
  const [button] = cancelIn(loginPage({ ...form, userName: '' }));
  assert.deepEqual([button?.attributes.name, button?.attributes.value], ['action', 'cancel']);
  assert.equal(button?.attributes.formnovalidate, '');
});

test('the Enter key presses the main button of each form', () => {
  const first = (page: string, index = -1) => {
    const main = `<form${page.split('<form').slice(1).at(index)}`;
    return named(parse(main), 'button')[0]?.text;
  };
  assert.equal(first(plain.login ?? '', 0), 'Sign in');
  assert.equal(first(plain.changePassword ?? ''), 'Save and continue');
  assert.equal(first(plain.consent ?? ''), 'Allow');
  assert.equal(first(plain.signOut ?? ''), 'Yes, sign out');
});

test('a new password is asked for twice, with the account name for password managers', () => {
  const inputs = named(parse(changePasswordPage({ ...form, userName: 'alice' })), 'input');
  const field = (name: string) => inputs.find(({ attributes }) => attributes.name === name)?.attributes;
  assert.equal(field('username')?.value, 'alice');
  assert.equal(field('newPassword')?.autocomplete, 'new-password');
  assert.equal(field('repeatPassword')?.autocomplete, 'new-password');
  assert.equal(field('currentPassword'), undefined);
});

test('the present password is asked for, first and with the focus, where nobody has kept it', () => {
  const page = changePasswordPage({ ...form, userName: 'alice', asksCurrent: true });
  const inputs = named(parse(page), 'input').map(({ attributes }) => attributes);
  const passwords = inputs.filter(({ type }) => type === 'password');
  assert.deepEqual(
    passwords.map(({ name, autocomplete }) => [name, autocomplete]),
    [
      ['currentPassword', 'current-password'],
      ['newPassword', 'new-password'],
      ['repeatPassword', 'new-password'],
    ],
  );
  assert.deepEqual(
    inputs.filter(({ autofocus }) => autofocus !== undefined).map(({ name }) => name),
    ['currentPassword'],
  );
});

const consent = { ...form, userName: 'alice', offline: false, canRemember: false };
const scope = (
  name: string,
  more: { emphasize?: boolean; required?: boolean; description?: string } = {},
) => ({
  name,
  displayName: `Scope ${name}`,
  emphasize: false,
  required: false,
  ...more,
});

test('at consent a required scope is sent but cannot be switched off; the others can', () => {
  const page = consentPage({ ...consent, scopes: [scope('openid', { required: true }), scope('profile')] });
  const inputs = named(parse(page), 'input').filter(({ attributes }) => attributes.name === 'scope');
  assert.deepEqual(
    inputs.map(({ attributes }) => [attributes.value, attributes.type, attributes.checked]),
    [
      ['openid', 'hidden', undefined],
      ['profile', 'checkbox', ''],
    ],
  );
});

test('offline access is asked for once, and only when the client asks for it', () => {
  const count = (offline: boolean) =>
    named(parse(consentPage({ ...consent, offline, scopes: [scope('offline_access')] })), 'input').filter(
      ({ attributes }) => attributes.value === 'offline_access',
    ).length;
  assert.equal(count(true), 1);
  assert.equal(count(false), 0);
});

test('an important scope is marked in words', () => {
  const words = (emphasize: boolean) =>
    parse(consentPage({ ...consent, scopes: [scope('api', { emphasize })] })).some(
      ({ text }) => text === 'Important',
    );
  assert.equal(words(true), true);
  assert.equal(words(false), false);
});

test('consent is remembered only where the client allows it', () => {
  const offered = (canRemember: boolean) =>
    named(parse(consentPage({ ...consent, canRemember, scopes: [] })), 'input').some(
      ({ attributes }) => attributes.name === 'remember' && attributes.value === 'yes',
    );
  assert.equal(offered(true), true);
  assert.equal(offered(false), false);
});

test('consent can be allowed, denied or given by another account', () => {
  const buttons = named(parse(consentPage({ ...consent, scopes: [] })), 'button');
  assert.deepEqual(
    buttons.map(({ attributes }) => [attributes.name, attributes.value]),
    [
      ['action', 'switch'],
      ['action', 'allow'],
      ['action', 'deny'],
    ],
  );
});

test('only the yes button signs out', () => {
  const page = signOutPage({
    brand: form.brand,
    texts: english,
    stayUrl: '/SPSSMR/Oidc/connect/endsession/stay',
    formHtml: { action: '/confirm', xsrf: 'x' },
  });
  const buttons = named(parse(page), 'button');
  assert.deepEqual(
    buttons.map(({ attributes }) => [attributes.name, attributes.value]),
    [['logout', 'yes']],
  );
  assert.equal(named(parse(page), 'a')[0]?.attributes.href, '/SPSSMR/Oidc/connect/endsession/stay');
});

test('a page without a way back has no link, and one with it leads there', () => {
  const hrefs = (page: string) => named(parse(page), 'a').map(({ attributes }) => attributes.href);
  const { brand, clientName, texts } = form;
  for (const build of [noProviderPage, interactionExpiredPage, signedOutPage]) {
    assert.deepEqual(hrefs(build({ brand, texts, clientName })), []);
    assert.deepEqual(hrefs(build({ brand, texts, clientName, backUrl: 'https://client.example/' })), [
      'https://client.example/',
    ]);
  }
});

test('an error page shows the code and the request where they are known', () => {
  const { brand, texts } = form;
  const codes = (page: string) => named(parse(page), 'code').map(({ text }) => text);
  assert.deepEqual(codes(errorPage({ brand, texts, code: 'ERR_X' })), ['ERR_X']);
  assert.deepEqual(codes(errorPage({ brand, texts, code: 'ERR_X', requestId: 'r-1' })), ['ERR_X', 'r-1']);
});

test('an error page has the sentence for its code in the language of the page, and the reason as it was', () => {
  const { brand } = form;
  const reason = 'wfresh is no number of minutes';
  const page = errorPage({ brand, texts: german, code: 'ERR_REQUEST_INVALID', reason });
  assert.ok(page.includes('Die Anfrage ist nicht zu verstehen.'));
  assert.deepEqual(
    parse(page)
      .filter(({ text }) => text === reason)
      .map(({ name, attributes }) => [name, attributes.lang]),
    [['dd', 'en']],
  );
  assert.ok(errorPage({ brand, texts: english, code: 'toString' }).includes(english.error.other));
});

test('the home page warns of a development configuration, and only then', () => {
  const build = (development: boolean) =>
    homePage({
      brand: form.brand,
      texts: english,
      issuer: 'https://i',
      discoveryUrl: 'https://i/d',
      development,
    });
  assert.ok(build(true).includes('Development configuration'));
  assert.ok(!build(false).includes('Development configuration'));
});

test('the brand is its logo with its name, or a wordmark', () => {
  const withLogo = parse(signedOutPage({ texts: english, brand: { ...form.brand, logoUrl: '/logo.svg' } }));
  assert.deepEqual(named(withLogo, 'img')[0]?.attributes, {
    class: 'brand-logo',
    src: '/logo.svg',
    alt: 'Postern',
  });
  const without = parse(signedOutPage({ texts: english, brand: form.brand }));
  assert.equal(named(without, 'img').length, 0);
  assert.ok(without.some(({ name, text }) => name === 'span' && text === 'Postern'));
});
