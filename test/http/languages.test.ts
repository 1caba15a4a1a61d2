/** The language of every page: by the request, by the browser, by the configuration; and the operator's catalogues. */
import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { createBrowser, type Page } from '../support/browser.ts';
import { startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { authorize, isSignedIn, mvc } from '../support/sign-in.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';

const languageOf = ({ body }: Page) => /<html lang="([^"]*)" dir="(ltr|rtl)">/.exec(body)?.slice(1).join(' ');
const german = 'de ltr';
const english = 'en ltr';

function assertGerman(page: Page, what: string): void {
  assert.equal(languageOf(page), german, `${what}: ${page.status} ${page.body.slice(0, 300)}`);
  assert.equal(page.headers.get('content-language'), 'de', what);
  assert.match(page.headers.get('vary') ?? '', /Accept-Language/, what);
  assert.equal(page.headers.get('cache-control')?.includes('no-store'), true, what);
}

/** Adds catalogues to the configuration of a server that is to start. */
async function startWithLanguages(
  t: TestContext,
  languages: Record<string, Record<string, unknown>>,
  options: TestServerOptions = {},
): Promise<TestServer> {
  const server = await startTestServer(t, options);
  mkdirSync(join(server.configDirectory, 'languages'), { recursive: true });
  for (const [tag, messages] of Object.entries(languages)) server.write(`languages/${tag}.json`, messages);
  assert.equal(await server.reload(), true, server.logText().slice(-600));
  return server;
}

test('a page is in the language of ui_locales, else in that of the browser, else in that of the configuration', async (t) => {
  const { issuer } = await startTestServer(t);
  const open = async (uiLocales: string | undefined, acceptLanguage: string) => {
    const browser = createBrowser();
    const url = new URL(`${issuer}/connect/authorize`);
    url.search = new URLSearchParams({
      client_id: mvc.clientId,
      redirect_uri: mvc.redirectUri,
      response_type: 'code',
      scope: mvc.scope,
      ...(uiLocales === undefined ? undefined : { ui_locales: uiLocales }),
    }).toString();
    const first = await browser.request(url);
    const headers = { 'accept-language': acceptLanguage };
    return languageOf(await browser.request(first.location ?? url, { headers }));
  };

  assert.equal(await open(undefined, '*'), english);
  assert.equal(await open(undefined, 'de-AT,en;q=0.5'), german);
  assert.equal(await open(undefined, 'fr,en;q=0.5,de;q=0.4'), english);
  assert.equal(await open('en', 'de'), english);
  assert.equal(await open('fr de-CH en', 'en'), german);
  assert.equal(await open('fr', 'de'), german, 'a language that is not there is passed over');
  assert.equal(await open('"><script>', 'de'), german);
  assert.equal(await open('de'.padEnd(200, ' '), 'en'), english, 'what is no list of tags is passed over');
});

test('Branding.Language is for whom nothing that is there is asked for', async (t) => {
  const { issuer } = await startTestServer(t, { server: { Branding: { Language: 'de' } } });
  const home = async (acceptLanguage: string) =>
    languageOf(
      await createBrowser().request(`${issuer}/`, { headers: { 'accept-language': acceptLanguage } }),
    );

  assert.equal(await home('*'), german);
  assert.equal(await home('fr'), german);
  assert.equal(await home('en-GB'), english);
});

test('ui_locales lasts through the sign-in: a wrong password, a new one, consent, and the page after the end', async (t) => {
  const server = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const { issuer } = server;
  await server.context.accounts.setPassword('bob', 'Temporary-1', { mustChange: true });
  const attempt = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  assertGerman(attempt.page, 'login');
  assert.match(attempt.page.body, /<title>Anmelden bei Example web application – Postern<\/title>/);

  const wrong = await attempt.signIn(attempt.page, 'bob', 'nope');
  assertGerman(wrong, 'wrong password');
  assert.match(wrong.body, /Der Name oder das Passwort ist falsch/);
  assert.match(wrong.body, /<title>Fehler: Anmelden bei/);

  const change = await attempt.signIn(wrong, 'bob', 'Temporary-1');
  assertGerman(change, 'new password');
  for (const [newPassword, repeatPassword, sentence] of [
    ['New-pass-word', 'Another-pass-word', /Die beiden Passwörter sind nicht gleich/],
    ['short', 'short', /Das Passwort hat weniger als 8 Zeichen/],
    ['x'.repeat(257), 'x'.repeat(257), /Das Passwort hat mehr als 256 Zeichen/],
    ['Pass\u0007-word-2', 'Pass\u0007-word-2', /Das Passwort enthält ein Steuerzeichen/],
    ['Temporary-1', 'Temporary-1', /das sich vom bisherigen unterscheidet/],
  ] as const) {
    const refused = await attempt.browser.submit(change, { newPassword, repeatPassword });
    assertGerman(refused, 'new password refused');
    assert.match(refused.body, sentence);
  }

  const consent = await attempt.browser.submit(change, {
    newPassword: 'New-pass-word',
    repeatPassword: 'New-pass-word',
  });
  assertGerman(consent, 'consent');
  assert.match(consent.body, /Benutzerprofil/);
  const back = await attempt.browser.submit(consent, { action: 'allow', scope: 'openid' });
  assert.ok(isSignedIn(back), back.body.slice(0, 300));

  assertGerman(await attempt.browser.open(attempt.page.url), 'the interaction is over');
  const resumed = await attempt.browser.open(
    `${issuer}/connect/authorize/${attempt.page.url.pathname.split('/').at(-1)}`,
  );
  assert.equal(resumed.status, 400);
});

test('ui_locales lasts through a form that has expired and through another account at consent', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { mvc: { RequireConsent: true } } });
  const attempt = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  const forged = await attempt.browser.submit(attempt.page, { csrf: 'x', username: 'alice' });
  assertGerman(forged, 'form expired');
  assert.match(forged.body, /Dieses Formular war zu lange offen/);

  const consent = await attempt.signIn(forged);
  const switched = await attempt.browser.submit(consent, { action: 'switch' });
  assertGerman(switched, 'login again');
  assert.match(switched.body, /type="password"/);
});

test('ui_locales goes along to an OpenID provider, and the way back from it is in the same language', async (t) => {
  const provider = await startOpenIdProvider(t, { sub: 'partner-user' });
  const server = await startTestServer(t, {
    clients: {
      mvc: { RequireConsent: true, EnableLocalLogin: false, IdentityProviderRestrictions: ['Partner'] },
    },
    providers: {
      Partner: {
        Type: 'Oidc',
        Caption: 'Partner',
        Authority: provider.issuer,
        ClientId: provider.clientId,
        ClientSecret: { plain: 'partner-secret' },
        UserNameClaims: ['preferred_username'],
      },
    },
  });
  const attempt = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'de-AT en' } });
  const out = attempt.page.location;
  assert.equal(out?.searchParams.get('ui_locales'), 'de-AT en');
  const { ui_locales: none } = Object.fromEntries(
    (await authorize({ issuer: server.issuer, ...mvc })).page.location?.searchParams ?? [],
  );
  assert.equal(none, undefined, 'nothing is made up');

  const cancelled = new URL(out?.searchParams.get('redirect_uri') ?? '');
  cancelled.search = new URLSearchParams({
    error: 'access_denied',
    state: out?.searchParams.get('state') ?? '',
    iss: provider.issuer,
  }).toString();
  const answer = await attempt.browser.request(cancelled);
  assertGerman(await attempt.browser.request(cancelled), 'the same answer again');
  const page = await attempt.browser.open(answer.location ?? '');
  assertGerman(page, 'cancelled there');
  assert.match(page.body, /Die Anmeldung wurde dort abgebrochen/);
});

test('ui_locales goes along to our own WsFed application, through its forms, and not to that of others', async (t) => {
  const other = await startWsFedProvider(t);
  const server = await startTestServer(t, {
    providers: { Other: { Type: 'WsFed', Caption: 'Other', MetadataAddress: other.metadataAddress } },
    clients: {
      mvc: { EnableLocalLogin: false, IdentityProviderRestrictions: ['IntelligenceWsFed', 'Other'] },
    },
  });
  const attempt = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'de' } });
  assertGerman(attempt.page, 'choice');
  assert.match(attempt.page.body, /Weiter mit Other/);
  const elsewhere = await attempt.browser.submit(attempt.page, { provider: 'Other' });
  assert.ok(elsewhere.location?.href.startsWith(other.url));
  assert.equal(elsewhere.location?.searchParams.get('ui_locales'), null);

  const login = await attempt.browser.submit(attempt.page, { provider: 'IntelligenceWsFed' });
  assertGerman(login, 'login of the WsFed application');
  assert.equal(login.url.searchParams.get('ui_locales'), 'de');
  const answer = await attempt.browser.submit(login, { username: 'alice', password: 'Pass-word-1' });
  assertGerman(answer, 'answer of the WsFed application');
  assert.match(answer.body, /Es geht zurück zu <bdi>Postern<\/bdi>/);
  assert.ok(isSignedIn(await attempt.browser.submit(answer, {})));
});

test('an answer by form_post is on a page of ours in the language of the request, and unharmed', async (t) => {
  const { issuer } = await startTestServer(t);
  const state = `"><script>&amp;'é`;
  const parameters = { response_mode: 'form_post', ui_locales: 'de', state };
  const attempt = await authorize({ issuer, ...mvc, parameters });
  const page = await attempt.signIn();
  assertGerman(page, 'answer');
  assert.match(page.body, /Es geht zurück zu <bdi>Example web application<\/bdi>/);
  assert.match(page.body, /<button[^>]*>Weiter<\/button>/);
  assert.match(page.body, /name="state" value="&quot;&gt;&lt;script&gt;&amp;amp;&#39;é"/);
  assert.match(page.body, /name="code" value="[\w-]{43}"/);

  const refused = await authorize({ issuer, ...mvc, parameters: { ...parameters, prompt: 'none' } });
  assertGerman(refused.page, 'error');
  assert.match(refused.page.body, /name="error" value="login_required"/);
  assert.match(refused.page.body, /<h1>Zurück zu Example web application<\/h1>/);
});

test('the WsFed application speaks the language of the browser, also in what it refuses', async (t) => {
  const { issuer } = await startTestServer(t);
  const headers = { 'accept-language': 'de' };
  const refused = await createBrowser().request(
    `${issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=x`,
    { headers },
  );
  assert.equal(refused.status, 400);
  assertGerman(refused, 'refused');
  assert.match(refused.body, /ist nicht registriert/);
  assert.match(
    refused.body,
    /<dd lang="en" dir="ltr">the application that sent you here is not registered<\/dd>/,
  );
  assert.match(refused.body, /ERR_RELYING_PARTY_UNKNOWN/);
});

test('signing out keeps to its ui_locales: the question, no, yes, and where the session had ended', async (t) => {
  const { issuer } = await startTestServer(t);
  const attempt = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  await attempt.signIn();
  const { browser } = attempt;
  const url = `${issuer}/connect/endsession?ui_locales=de`;

  const question = await browser.open(url);
  assertGerman(question, 'question');
  assert.match(question.body, /Möchten Sie sich abmelden\?/);
  const stay = /href="([^"]*\/stay[^"]*)"/.exec(question.body)?.[1]?.replaceAll('&amp;', '&') ?? '';
  assertGerman(await browser.open(new URL(stay, issuer)), 'no');
  assertGerman(await browser.submit(question, { logout: 'yes' }), 'yes');
  assertGerman(await browser.open(url), 'nobody is signed in');
});

test('the frames of a sign-out are on a page in its language', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: { mvc: { LogoutUri: 'http://localhost:5090/logout' } },
  });
  const attempt = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  await attempt.signIn();
  const question = await attempt.browser.open(`${issuer}/connect/endsession?ui_locales=de`);
  const page = await attempt.browser.submit(question, { logout: 'yes' });
  assertGerman(page, 'signing out');
  assert.match(page.body, /Sie werden abgemeldet/);
  const next = /content="2;url=([^"]*)"/.exec(page.body)?.[1]?.replaceAll('&amp;', '&') ?? '';
  assertGerman(await attempt.browser.open(new URL(next, issuer)), 'signed out');
});

test('errors are told in the language of the page, with their codes, and logged in English', async (t) => {
  const server = await startTestServer(t);
  const { issuer } = server;
  const headers = { 'accept-language': 'de' };
  const errors: readonly [string, string, RegExp][] = [
    ['/nowhere', 'ERR_ROUTE_UNKNOWN', /Unter dieser Adresse gibt es nichts/],
    ['/connect/token', 'ERR_METHOD_NOT_ALLOWED', /GET is not allowed here/],
    ['/connect/authorize?client_id=nobody', 'invalid_client', /ist nicht registriert/],
    [
      '/connect/authorize?client_id=mvc&redirect_uri=https://evil.example/',
      'invalid_redirect_uri',
      /eine Antwort an eine Adresse/,
    ],
    [
      '/connect/authorize?client_id=mvc&ui_locales=de&redirect_uri=x',
      'invalid_redirect_uri',
      /eine Antwort an eine Adresse/,
    ],
  ];
  for (const [path, code, sentence] of errors) {
    const hasLocales = path.includes('ui_locales');
    const page = await createBrowser().request(issuer + path, hasLocales ? {} : { headers });
    if (path === '/connect/token') {
      assert.match(page.body, sentence, 'programs get English');
      continue;
    }
    assertGerman(page, path);
    assert.match(page.body, sentence, path);
    assert.match(page.body, new RegExp(`<code>${code}</code>`), path);
  }
  assert.doesNotMatch(server.logText(), /Unter dieser|registriert/);
});

test('discovery names the languages that there are, also after one has come', async (t) => {
  const server = await startTestServer(t);
  const supported = async () => {
    const response = await fetch(`${server.issuer}/.well-known/openid-configuration`);
    return ((await response.json()) as { ui_locales_supported: string[] }).ui_locales_supported;
  };
  assert.deepEqual(await supported(), ['en', 'de']);
  mkdirSync(join(server.configDirectory, 'languages'));
  server.write('languages/pt-BR.json', { login: { submit: 'Entrar' } });
  await server.reload();
  assert.deepEqual(await supported(), ['en', 'de', 'pt-BR']);
});

test('a language of the operator is there without a restart, as far as it goes, and English for the rest', async (t) => {
  const server = await startWithLanguages(t, {
    fr: { login: { heading: 'Connexion', lead: 'pour continuer vers {client}' } },
  });
  const { page } = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'fr-CA' } });
  assert.equal(languageOf(page), 'fr ltr');
  assert.match(page.body, /<h1>Connexion<\/h1>/);
  assert.match(page.body, /pour continuer vers <bdi class="client">Example web application<\/bdi>/);
  assert.match(page.body, /<label for="password">Password<\/label>/);
});

test('a language that is written from right to left says so, and codes are left as they are', async (t) => {
  const server = await startWithLanguages(t, { ar: { login: { heading: 'تسجيل الدخول' } } });
  const { page } = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'ar' } });
  assert.equal(languageOf(page), 'ar rtl');
});

test('messages are text: what looks like markup in a name is shown as it is written', async (t) => {
  const server = await startWithLanguages(t, { de: { login: { submit: 'Los & "weiter" <3' } } });
  const { page } = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'de' } });
  assert.match(page.body, />Los &amp; &quot;weiter&quot; &lt;3<\/button>/);
  assert.match(page.body, />Abbrechen<\/button>/, 'the other messages stay');
});

test('a bad catalogue changes nothing, and the log says where it is bad; removing it brings ours back', async (t) => {
  const server = await startWithLanguages(t, { de: { login: { submit: 'Los' } } });
  const submit = async () => {
    const { page } = await authorize({ issuer: server.issuer, ...mvc, parameters: { ui_locales: 'de' } });
    return />([^<]*)<\/button>/.exec(page.body)?.[1];
  };
  assert.equal(await submit(), 'Los');

  server.write('languages/de.json', '{ "login": { "sumbit": "Auf", "title": "Zu {klient}" } }');
  assert.equal(await server.reload(), false);
  assert.equal(await submit(), 'Los');
  const issues = server.logged.filter(({ file }) => String(file).endsWith('languages/de.json'));
  assert.deepEqual(issues.map(({ path, hint }) => [path, hint]).sort(), [
    ['login.sumbit', 'did you mean submit?'],
    ['login.title', 'there is {client}'],
  ]);

  rmSync(join(server.configDirectory, 'languages'), { recursive: true });
  assert.equal(await server.reload(), true);
  assert.equal(await submit(), 'Anmelden');
});

test('clients, scopes, providers and relying parties have names of their own in a language', async (t) => {
  const names = {
    clients: { mvc: 'Beispielanwendung', gone: 'Weg' },
    providers: { IntelligenceWsFed: 'Firmenkonto' },
    relyingParties: { IntelligenceWsFed: 'Tor' },
    scopes: { intelligence_web_api: { name: 'Umfragedaten', description: 'Lesen und schreiben.' } },
  };
  const server = await startWithLanguages(
    t,
    { de: { names } },
    { clients: { mvc: { RequireConsent: true } }, providers: { IntelligenceWsFed: { Caption: 'Company' } } },
  );
  const { issuer } = server;
  const attempt = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  assert.match(attempt.page.body, /<bdi class="client">Beispielanwendung<\/bdi>/);
  assert.match(attempt.page.body, /Weiter mit Firmenkonto/);
  const consent = await attempt.signIn();
  assert.match(consent.body, /Umfragedaten/);
  assert.match(consent.body, /Lesen und schreiben\./);
  const again = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'de' } });
  const wsFed = await again.browser.submit(again.page, { provider: 'IntelligenceWsFed' });
  assert.match(wsFed.body, /<bdi class="client">Tor<\/bdi>/);

  const other = await authorize({ issuer, ...mvc, parameters: { ui_locales: 'en' } });
  assert.match(other.page.body, /Example web application/);
  assert.deepEqual(
    server.configuration.remarks.map(({ path, message }) => `${path} ${message}`),
    ['names.clients.gone names nobody'],
  );
});
