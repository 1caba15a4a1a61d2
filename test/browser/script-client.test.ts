/** A script in the browser as the client: oidc-client-ts on an origin of its own, without a secret. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Page } from 'playwright-core';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { type ClientSite, openPage, signIn, startClientSite } from './browser.ts';

const bundle = readFileSync(
  join(import.meta.dirname, '../../node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js'),
  'utf8',
);

interface User {
  access_token: string;
  refresh_token?: string;
  profile: Record<string, unknown>;
}

/** A server with the public client `script`, whose site is open in the browser with a `manager` in it. */
async function setUp(
  t: TestContext,
  toRegistration: (site: ClientSite) => Record<string, unknown> = () => ({}),
): Promise<{ page: Page; server: TestServer; site: ClientSite }> {
  const page = await openPage(t);
  const site = await startClientSite(t, {
    documentHtml: '<!doctype html><title>Script client</title><script src="/oidc-client-ts.js"></script>',
    files: { '/oidc-client-ts.js': bundle },
  });
  const server = await startTestServer(t, {
    clients: {
      script: {
        ClientName: 'Script client',
        Flow: 'AuthorizationCodeWithProofKey',
        EnableLocalLogin: true,
        RedirectUris: [site.redirectUri],
        PostLogoutRedirectUris: [`${site.origin}/`],
        AllowedCorsOrigins: [site.origin],
        AllowedScopes: ['openid', 'profile', 'intelligence_web_api', 'offline_access'],
        ...toRegistration(site),
      },
    },
  });
  const settings = {
    authority: server.issuer,
    client_id: 'script',
    redirect_uri: site.redirectUri,
    post_logout_redirect_uri: `${site.origin}/`,
    scope: 'openid profile intelligence_web_api offline_access',
    loadUserInfo: true,
  };
  await page.addInitScript(
    `window.addEventListener('DOMContentLoaded', () => {
      if (window.oidc) window.manager = new oidc.UserManager(${JSON.stringify(settings)});
    });`,
  );
  await page.goto(`${site.origin}/`);
  return { page, server, site };
}

/** Starts the sign-in and comes back with the code, not yet redeemed. */
async function signInAndReturn(page: Page, { redirectUri }: ClientSite): Promise<void> {
  await page.evaluate('void manager.signinRedirect()');
  await page.getByLabel('Password').waitFor();
  await signIn(page);
  await page.waitForURL(`${redirectUri}?**`);
}

test('a script on another origin signs in by code and PKCE, reads userinfo and refreshes without the user', async (t) => {
  const { page, server, site } = await setUp(t);
  await signInAndReturn(page, site);

  // Discovery, keys, token endpoint and userinfo are all called across origins here.
  const user = (await page.evaluate('manager.signinCallback()')) as User;
  assert.equal(user.profile.sub, 'alice');
  assert.equal(user.profile.name, 'Alice Ashworth');

  const refreshed = (await page.evaluate('manager.signinSilent()')) as User;
  assert.notEqual(refreshed.access_token, user.access_token);
  assert.notEqual(refreshed.refresh_token, user.refresh_token);
  const userinfo = await fetch(`${server.issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${refreshed.access_token}` },
  });
  assert.equal(userinfo.status, 200);
});

test('a script revokes its tokens, and signs out without being asked', async (t) => {
  const { page, server, site } = await setUp(t);
  await signInAndReturn(page, site);
  const user = (await page.evaluate('manager.signinCallback()')) as User;

  await page.evaluate('manager.revokeTokens()');
  const userinfo = await fetch(`${server.issuer}/connect/userinfo`, {
    headers: { authorization: `Bearer ${user.access_token}` },
  });
  assert.equal(userinfo.status, 401);

  await page.evaluate('void manager.signoutRedirect()');
  await page.waitForURL(`${site.origin}/`);
  await page.evaluate('void manager.signinRedirect()');
  await page.getByLabel('Password').waitFor();
});

test('a refused code is a readable error to the script', async (t) => {
  const { page, site } = await setUp(t);
  await signInAndReturn(page, site);
  await page.evaluate('manager.signinCallback()');
  const { params } = site.lastAnswer();

  const answer = await page.evaluate(
    `manager.metadataService.getTokenEndpoint().then((url) => fetch(url, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'authorization_code',
        client_id: 'script',
        code: ${JSON.stringify(params.get('code'))},
        redirect_uri: ${JSON.stringify(site.redirectUri)},
        code_verifier: 'x'.repeat(43),
      }),
    })).then((response) => response.json()).then(({ error }) => error)`,
  );
  assert.equal(answer, 'invalid_grant');
});

test('a script on an origin that its client does not name gets no tokens', async (t) => {
  const { page, site } = await setUp(t, () => ({ AllowedCorsOrigins: ['http://localhost:1'] }));
  await signInAndReturn(page, site);

  await assert.rejects(page.evaluate('manager.signinCallback()'), /Failed to fetch/);
});
