import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import test from 'node:test';
import type { Page } from 'playwright-core';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { authorizationUrl, type ClientSite, openPage, signIn, startClientSite } from './browser.ts';

interface Place {
  page: Page;
  server: TestServer;
  site: ClientSite;
}

/** How to come to each page that a user may see, from an empty browser. */
const pages: Readonly<Record<string, (place: Place) => Promise<unknown>>> = {
  home: ({ page, server }) => page.goto(`${server.issuer}/`),

  login: ({ page, server, site }) => page.goto(authorizationUrl(server, site)),

  async 'login after a wrong password'({ page, server, site }) {
    await page.goto(authorizationUrl(server, site));
    await signIn(page, 'alice', 'wrong');
    await page.getByRole('alert').waitFor();
  },

  async 'new password'({ page, server, site }) {
    await server.context.accounts.setPassword('bob', 'Temporary-1', { mustChange: true });
    await page.goto(authorizationUrl(server, site));
    await signIn(page, 'bob', 'Temporary-1');
    await page.getByLabel('New password').first().waitFor();
  },

  async consent({ page, server, site }) {
    const scope = 'openid profile email roles intelligence_web_api offline_access';
    await page.goto(authorizationUrl(server, site, { scope, prompt: 'consent' }));
    await signIn(page);
    await page.getByRole('button', { name: 'Allow' }).waitFor();
  },

  error: ({ page, server, site }) => page.goto(authorizationUrl(server, site, { client_id: 'nobody' })),

  async 'interaction over'({ page, server }) {
    await page.goto(`${server.issuer}/login/${'x'.repeat(21)}?client_id=mvc`);
  },

  'login with providers': openLoginWithProviders,

  'choice of providers': openChoiceOfProviders,

  async 'provider that is not available'({ page, server, site }) {
    await openChoiceOfProviders({ page, server, site });
    await page.getByRole('button', { name: 'Continue with Company One' }).click();
    await page.getByRole('heading', { name: 'Company One is not available' }).waitFor();
  },

  async 'no provider'({ page, server, site }) {
    server.write('providers/IntelligenceWsFed.json', { Enabled: false });
    await server.reload();
    const challenge = { code_challenge: 'x'.repeat(43), code_challenge_method: 'S256' };
    await page.goto(authorizationUrl(server, site, { client_id: 'spa', ...challenge }));
    await page.getByText('Nothing is wrong with your account').waitFor();
  },

  async 'login of the WsFed application'({ page, server, site }) {
    const challenge = { code_challenge: 'x'.repeat(43), code_challenge_method: 'S256' };
    await page.goto(authorizationUrl(server, site, { client_id: 'spa', ...challenge }));
    await page.waitForURL(/\/WsFed\?/);
  },

  async 'sign-out question'({ page, server, site }) {
    await page.goto(authorizationUrl(server, site));
    await signIn(page);
    await page.waitForURL(`${site.redirectUri}?**`);
    await page.goto(`${server.issuer}/connect/endsession`);
    await page.getByRole('button', { name: 'Yes, sign out' }).waitFor();
  },

  async 'signed out'({ page, server }) {
    await page.goto(`${server.issuer}/connect/endsession`);
    await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
  },
};

async function openLoginWithProviders({ page, server, site }: Place): Promise<void> {
  for (const name of ['One', 'Two']) {
    server.write(`providers/${name}.json`, {
      Type: 'WsFed',
      Caption: `Company ${name}`,
      MetadataAddress: 'http://localhost:9/metadata',
    });
  }
  server.write('clients/mvc.json', { IdentityProviderRestrictions: [] });
  await server.reload();
  await page.goto(authorizationUrl(server, site));
  await page.getByRole('button', { name: 'Continue with Company One' }).waitFor();
}

async function openChoiceOfProviders({ page, server, site }: Place): Promise<void> {
  await openLoginWithProviders({ page, server, site });
  server.write('clients/mvc.json', { EnableLocalLogin: false });
  await server.reload();
  await page.goto(authorizationUrl(server, site));
  await page.getByRole('heading', { name: 'How do you want to sign in?' }).waitFor();
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core'), 'utf8');

interface Violation {
  id: string;
  help: string;
  nodes: { html: string; failureSummary: string }[];
}

/** What axe-core finds against WCAG 2.2 AA and its own best practices. */
async function findViolations(page: Page): Promise<string[]> {
  // Evaluated by the debugger, which our Content-Security-Policy does not bind.
  await page.evaluate(axeSource);
  const { violations } = (await page.evaluate('axe.run(document)')) as { violations: Violation[] };
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html}: ${failureSummary}`),
  );
}

/** 0 for black, 1 for white: what the page is painted on. */
async function backgroundLightness(page: Page): Promise<number> {
  const color = (await page.evaluate('getComputedStyle(document.body).backgroundColor')) as string;
  const channels =
    color
      .match(/[\d.]+/g)
      ?.slice(0, 3)
      .map(Number) ?? [];
  assert.equal(channels.length, 3, color);
  return channels.reduce((sum, channel) => sum + channel, 0) / 3 / 255;
}

for (const [name, visit] of Object.entries(pages)) {
  test(`the page "${name}" is accessible in light and dark, and fits a narrow screen`, async (t) => {
    const page = await openPage(t, { viewport: { width: 320, height: 640 } });
    const site = await startClientSite(t);
    const server = await startTestServer(t, {
      clients: {
        mvc: { ClientUri: `${site.origin}/`, RedirectUris: [site.redirectUri] },
        spa: { RedirectUris: [site.redirectUri] },
      },
    });
    await visit({ page, server, site });

    assert.ok(page.url().startsWith(new URL(server.issuer).origin), page.url());
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      assert.deepEqual(await findViolations(page), [], colorScheme);
      const lightness = await backgroundLightness(page);
      assert.ok(colorScheme === 'light' ? lightness > 0.8 : lightness < 0.2, `${colorScheme}: ${lightness}`);
    }
    // 320 CSS pixels are a phone, or a desktop at 400 % (WCAG 2.2, 1.4.10).
    assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 320);
  });
}
