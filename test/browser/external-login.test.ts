/**
 * Signing in elsewhere in a real browser, across sites as in life: to it idp.localhost and localhost are two sites,
 * so that a cookie with SameSite=Lax stays away from what the one posts to the other.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { identity, startWsFedProvider } from '../support/identity-providers.ts';
import { startTestServer } from '../support/start-server.ts';
import { authorizationUrl, openPage, signIn, startClientSite } from './browser.ts';

const autoPost = '<script>document.forms[0].submit()</script>';

for (const javaScriptEnabled of [true, false]) {
  test(`a user goes to another site and comes back signed in, scripts ${javaScriptEnabled ? 'on' : 'off'}`, async (t) => {
    const page = await openPage(t, { javaScriptEnabled });
    const standIn = await startWsFedProvider(
      t,
      { claims: { [`${identity}/upn`]: 'alice' } },
      { host: 'idp.localhost', script: autoPost },
    );
    const partner = await startWsFedProvider(
      t,
      { claims: { [`${identity}/upn`]: 'bob' } },
      { host: 'partner.localhost', script: autoPost },
    );
    const site = await startClientSite(t);
    const server = await startTestServer(t, {
      providers: {
        IntelligenceWsFed: { Caption: 'Windows account', MetadataAddress: standIn.metadataAddress },
        Partner: { Type: 'WsFed', Caption: 'Partner', MetadataAddress: partner.metadataAddress },
      },
      clients: {
        mvc: { RedirectUris: [site.redirectUri], EnableLocalLogin: false, IdentityProviderRestrictions: [] },
      },
    });

    await page.goto(authorizationUrl(server, site));
    await page.getByRole('heading', { name: 'How do you want to sign in?' }).waitFor();
    await page.getByRole('button', { name: 'Continue with Windows account' }).click();
    if (!javaScriptEnabled) await page.getByRole('button', { name: 'Continue', exact: true }).click();
    await page.waitForURL(`${site.redirectUri}?**`);
    assert.ok(site.lastAnswer().params.get('code'));
    assert.equal(new URL(standIn.url).hostname, 'idp.localhost');

    // Single sign-on, and then the provider that was used last stands first.
    await page.goto(authorizationUrl(server, site));
    await page.waitForURL(`${site.redirectUri}?**`);
    await page.goto(authorizationUrl(server, site, { prompt: 'login' }));
    await page.getByRole('button', { name: 'Continue with Partner' }).click();
    if (!javaScriptEnabled) await page.getByRole('button', { name: 'Continue', exact: true }).click();
    await page.waitForURL(`${site.redirectUri}?**`);
    await page.goto(authorizationUrl(server, site, { prompt: 'login' }));
    assert.deepEqual(await page.getByRole('button', { name: /^Continue with/ }).allInnerTexts(), [
      'Continue with Partner',
      'Continue with Windows account',
    ]);
  });
}

test('a name of a known domain leads to its provider, and the page shows no list of them', async (t) => {
  const page = await openPage(t);
  const standIn = await startWsFedProvider(
    t,
    { claims: { [`${identity}/upn`]: 'alice' } },
    { host: 'idp.localhost', script: autoPost },
  );
  const site = await startClientSite(t);
  const hidden = { Type: 'WsFed', MetadataAddress: standIn.metadataAddress, Caption: '' };
  const server = await startTestServer(t, {
    providers: {
      IntelligenceWsFed: { ...hidden, Enabled: true, Domains: 'example.com', ForwardLoginHint: true },
      Other: { ...hidden, Domains: 'other.example' },
    },
    clients: { mvc: { RedirectUris: [site.redirectUri], IdentityProviderRestrictions: [] } },
  });
  await page.goto(authorizationUrl(server, site));
  assert.doesNotMatch(await page.content(), /example\.com|other\.example|IntelligenceWsFed/);
  await page.getByLabel('Name').fill('somebody@Example.COM');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
});

for (const javaScriptEnabled of [true, false]) {
  test(`a user of a script client signs in at the WsFed application, scripts ${javaScriptEnabled ? 'on' : 'off'}`, async (t) => {
    const page = await openPage(t, { javaScriptEnabled });
    const site = await startClientSite(t);
    const server = await startTestServer(t, { clients: { spa: { RedirectUris: [site.redirectUri] } } });
    const challenge = { code_challenge: 'x'.repeat(43), code_challenge_method: 'S256' };
    await page.goto(authorizationUrl(server, site, { client_id: 'spa', ...challenge }));
    await signIn(page);
    if (!javaScriptEnabled) await page.getByRole('button', { name: 'Continue', exact: true }).click();
    await page.waitForURL(`${site.redirectUri}?**`);
    assert.ok(site.lastAnswer().params.get('code'));
  });
}
