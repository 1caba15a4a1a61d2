/**
 * How to come to every page that people see, in every state, on the real server: for the checks of accessibility,
 * and for the pictures of docs/pages.md. Nothing here depends on the language of the pages.
 */
import type { TestContext } from 'node:test';
import type { Page } from 'playwright-core';
import { startSlapd } from '../support/directory.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';
import { authorizationUrl, type ClientSite, startClientSite } from './browser.ts';

/** What a visit goes by: an empty browser, a server, and the site of a client. */
export interface Place {
  readonly page: Page;
  readonly server: TestServer;
  readonly site: ClientSite;
}

interface Visit {
  /** What the server needs for it. */
  readonly prepare?: (t: TestContext) => Promise<TestServerOptions> | TestServerOptions;
  readonly go: (place: Place) => Promise<unknown>;
  /** The rule of axe-core that it breaks on purpose. */
  readonly exception?: string;
}

const portal = {
  Portal: { Realm: 'urn:portal', Caption: 'Staff portal', ReplyUrls: ['https://portal.example.com/'] },
};
const proxySecret = 'a-secret-of-the-proxy-or-the-handler';

/** Every page and state; the name is also that of its picture. */
export const visits: Readonly<Record<string, Visit>> = {
  home: { go: ({ page, server }) => page.goto(`${server.issuer}/`) },

  login: { go: ({ page, server, site }) => page.goto(authorizationUrl(server, site)) },
  'login-wrong-password': {
    async go(place) {
      await place.page.goto(authorizationUrl(place.server, place.site));
      await signIn(place, 'alice', 'wrong');
      await seeAlert(place);
    },
  },
  'login-form-expired': {
    async go(place) {
      await place.page.goto(authorizationUrl(place.server, place.site));
      await place.page
        .locator('form:has(#password) [name=csrf]')
        .evaluate((field) => field.setAttribute('value', 'x'));
      await signIn(place, 'alice', 'Pass-word-1');
      await seeAlert(place);
    },
  },
  'login-directory-down': {
    async prepare(t) {
      const slapd = await startSlapd(t);
      await slapd.kill();
      return { server: { Directory: slapd.settings() } };
    },
    async go(place) {
      await place.page.goto(authorizationUrl(place.server, place.site));
      await signIn(place, 'dora', 'Pass-word-1');
      await seeAlert(place);
    },
  },
  'login-with-providers': {
    prepare: () => ({
      ...twoProviders(),
      clients: { mvc: { IdentityProviderRestrictions: ['One', 'Two'] } },
    }),
    go: ({ page, server, site }) => page.goto(authorizationUrl(server, site)),
  },
  'login-at-wsfed': {
    prepare: () => ({ relyingParties: portal }),
    go: ({ page, server }) => page.goto(wsFedUrl(server)),
  },
  'login-with-windows': {
    prepare: withWindows,
    go: ({ page, server }) => page.goto(wsFedUrl(server, '/Login')),
  },
  'login-windows-failed': {
    prepare: withWindows,
    async go({ page, server }) {
      await page.setExtraHTTPHeaders({ authorization: 'NTLM TlRMTVNTUAAB' });
      await page.goto(wsFedUrl(server, '/WinLogin'));
    },
  },
  'login-windows-no-account': {
    prepare: withWindows,
    async go({ page, server }) {
      await page.setExtraHTTPHeaders({ 'x-remote-user': 'EXAMPLE\\nobody', 'x-remote-secret': proxySecret });
      await page.goto(wsFedUrl(server, '/WinLogin'));
    },
  },

  providers: {
    prepare: () => chooser(twoProviders()),
    go: ({ page, server, site }) => page.goto(authorizationUrl(server, site)),
  },
  'providers-by-name': {
    prepare: () => chooser(twoProviders({ Domains: ['example.com'] })),
    async go(place) {
      await place.page.goto(authorizationUrl(place.server, place.site));
      await place.page.locator('#username').fill('alice@elsewhere.example');
      await place.page.locator('#username').press('Enter');
      await place.page.locator('#username[value^=alice]').waitFor();
    },
  },
  'providers-unavailable': { prepare: () => chooser(twoProviders()), go: (place) => choose(place, 'One') },
  'providers-cancelled': {
    async prepare(t) {
      const provider = await startOpenIdProvider(t, {});
      provider.error = 'access_denied';
      return chooser({ providers: { One: openIdProvider(provider) } });
    },
    go: (place) => choose(place, 'One'),
  },
  'providers-invalid': {
    async prepare(t) {
      const provider = await startOpenIdProvider(t, { sub: 'x', aud: 'somebody-else' });
      return chooser({ providers: { One: openIdProvider(provider) } });
    },
    go: (place) => choose(place, 'One'),
  },
  'providers-no-account': {
    async prepare(t) {
      const provider = await startOpenIdProvider(t, { sub: 'x', preferred_username: 'nobody' });
      return chooser({ providers: { One: openIdProvider(provider) } });
    },
    go: (place) => choose(place, 'One'),
  },
  'providers-no-mfa': {
    async prepare(t) {
      const provider = await startOpenIdProvider(t, { sub: 'x', preferred_username: 'alice' });
      return chooser({ providers: { One: openIdProvider(provider) } }, { RequireMfa: true });
    },
    go: (place) => choose(place, 'One'),
  },
  'no-provider': {
    prepare: () => ({
      providers: { IntelligenceWsFed: { Enabled: false } },
      clients: { mvc: { EnableLocalLogin: false } },
    }),
    go: ({ page, server, site }) => page.goto(authorizationUrl(server, site)),
  },

  'new-password': { go: (place) => changePassword(place) },
  'new-password-refused': {
    async go(place) {
      await changePassword(place);
      await place.page.locator('#newPassword').fill('short');
      await place.page.locator('#repeatPassword').fill('short');
      await place.page.locator('#repeatPassword').press('Enter');
      await seeAlert(place);
    },
  },
  'new-password-in-directory': {
    async prepare(t) {
      const slapd = await startSlapd(t);
      const dn = await slapd.addPerson({ uid: 'dora', password: 'Pass-word-1' });
      await slapd.set(dn, { pwdReset: ['TRUE'] });
      return { server: { Directory: slapd.settings() } };
    },
    async go(place) {
      await place.page.goto(authorizationUrl(place.server, place.site));
      await signIn(place, 'dora', 'Pass-word-1');
      await place.page.locator('#currentPassword').waitFor();
    },
  },

  consent: {
    async go(place) {
      const scope = 'openid profile email roles intelligence_web_api offline_access';
      await place.page.goto(authorizationUrl(place.server, place.site, { scope, prompt: 'consent' }));
      await signIn(place, 'alice', 'Pass-word-1');
      await place.page.locator('[value=allow]').waitFor();
    },
  },
  'consent-to-remember': {
    prepare: () => ({
      clients: { mvc: { RequireConsent: true } },
      resources: {
        intelligence_web_api: {
          Scopes: [
            {
              Name: 'intelligence_web_api',
              DisplayName: 'Survey data',
              Description: 'Read and change the surveys that you may see.',
              Emphasize: true,
            },
          ],
        },
      },
    }),
    async go(place) {
      const scope = 'openid profile intelligence_web_api';
      await place.page.goto(authorizationUrl(place.server, place.site, { scope }));
      await signIn(place, 'alice', 'Pass-word-1');
      await place.page.locator('#remember').waitFor();
    },
  },

  'signed-in-without-scripts': {
    async go(place) {
      // Tools need scripts; so the form is sent, and nothing comes of it.
      await place.page.route(`${place.site.redirectUri}*`, (route) => route.fulfill({ status: 204 }));
      await place.page.goto(authorizationUrl(place.server, place.site, { response_mode: 'form_post' }));
      await signIn(place, 'alice', 'Pass-word-1');
      await place.page.locator('[name=code]').waitFor({ state: 'attached' });
    },
  },
  'sign-in-ended': {
    go: ({ page, server }) => page.goto(`${server.issuer}/login/${'x'.repeat(21)}?client_id=mvc`),
  },

  'sign-out': {
    async go(place) {
      await signInThrough(place);
      await place.page.goto(`${place.server.issuer}/connect/endsession?client_id=mvc`);
      await place.page.locator('[value=yes]').waitFor();
    },
  },
  'still-signed-in': {
    async go(place) {
      await signInThrough(place);
      await place.page.goto(`${place.server.issuer}/connect/endsession?client_id=mvc`);
      await place.page.locator('a.quiet').click();
      await place.page.waitForURL(/\/stay/);
    },
  },
  'signing-out': {
    // Nothing is asked or read there that the next page does not say, and its button goes on at once. Without a
    // script nothing else ends the wait for the frames.
    exception: 'meta-refresh',
    prepare: () => ({ clients: { mvc: { LogoutUri: 'http://localhost:9/logout' } } }),
    async go(place) {
      await signInThrough(place);
      // It goes on by itself after two seconds; the picture waits for nobody.
      await place.page.route(/\/endsession\/success/, (route) => route.fulfill({ status: 204 }));
      await place.page.goto(`${place.server.issuer}/connect/endsession`);
      await place.page.locator('[value=yes]').click();
      await place.page.locator('iframe').waitFor({ state: 'attached' });
    },
  },
  'signed-out': {
    go: ({ page, server }) => page.goto(`${server.issuer}/connect/endsession/success?client_id=mvc`),
  },

  'error-client-unknown': {
    go: ({ page, server, site }) => page.goto(authorizationUrl(server, site, { client_id: 'nobody' })),
  },
  'error-request': {
    prepare: () => ({ relyingParties: portal }),
    go: ({ page, server }) => page.goto(`${wsFedUrl(server)}&wfresh=soon`),
  },
  'error-not-found': { go: ({ page, server }) => page.goto(`${server.issuer}/nowhere`) },
};

/** The site of a client, and the server that a visit needs. */
export async function prepareVisit(t: TestContext, { prepare }: Visit) {
  const site = await startClientSite(t);
  const { clients = {}, ...options } = (await prepare?.(t)) ?? {};
  const mvc = { ClientUri: `${site.origin}/`, RedirectUris: [site.redirectUri], ...clients.mvc };
  return { site, server: await startTestServer(t, { ...options, clients: { mvc } }) };
}

function wsFedUrl({ issuer }: TestServer, path = ''): string {
  return `${issuer.replace(/Oidc$/, 'WsFed')}${path}?wa=wsignin1.0&wtrealm=urn:portal`;
}

function withWindows(): TestServerOptions {
  const Header = { Secrets: [{ plain: proxySecret }], From: ['127.0.0.1'] };
  return { server: { EnableWindowsLogin: true, WindowsLogin: { Header } }, relyingParties: portal };
}

/** Two companies, neither of which answers. */
function twoProviders(more: Record<string, unknown> = {}): TestServerOptions {
  const provider = (Caption: string) => ({
    Type: 'WsFed',
    Caption,
    MetadataAddress: 'http://localhost:9/metadata',
  });
  return { providers: { One: { ...provider('Company One'), ...more }, Two: provider('Company Two') } };
}

function openIdProvider({ clientId, issuer }: { clientId: string; issuer: string }) {
  return {
    Type: 'Oidc',
    Caption: 'Company One',
    Authority: issuer,
    ClientId: clientId,
    ClientSecret: { plain: 'partner-secret' },
    UserNameClaims: ['preferred_username'],
  };
}

/** Signing in at the providers alone, of which there are always two. */
function chooser({ providers }: TestServerOptions, client: Record<string, unknown> = {}): TestServerOptions {
  const restrictions = { EnableLocalLogin: false, IdentityProviderRestrictions: ['One', 'Two'] };
  return {
    providers: { ...twoProviders().providers, ...providers },
    clients: { mvc: { ...restrictions, ...client } },
  };
}

async function choose({ page, server, site }: Place, provider: string): Promise<void> {
  await page.goto(authorizationUrl(server, site));
  await page.locator(`[name=provider][value=${provider}]`).click();
  await page.locator('[name=again]').waitFor({ state: 'attached' });
}

async function changePassword(place: Place): Promise<void> {
  await place.server.context.accounts.setPassword('bob', 'Temporary-1', { mustChange: true });
  await place.page.goto(authorizationUrl(place.server, place.site));
  await signIn(place, 'bob', 'Temporary-1');
  await place.page.locator('#newPassword').waitFor();
}

async function signInThrough(place: Place): Promise<void> {
  await place.page.goto(authorizationUrl(place.server, place.site));
  await signIn(place, 'alice', 'Pass-word-1');
  await place.page.waitForURL(`${place.site.redirectUri}?**`);
}

async function signIn({ page }: Place, name: string, password: string): Promise<void> {
  await page.locator('#username').fill(name);
  await page.locator('#password').fill(password);
  await page.locator('#password').press('Enter');
}

async function seeAlert({ page }: Place): Promise<void> {
  await page.getByRole('alert').waitFor();
}
