import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { BrowserContextOptions } from 'playwright-core';
import { startTestServer } from '../support/start-server.ts';
import { authorizationUrl, openPage, signIn, startClientSite } from './browser.ts';

/** A browser, a client's site and a server that knows it as `mvc`. */
async function setUp(
  t: TestContext,
  { client = {}, ...options }: BrowserContextOptions & { client?: Record<string, unknown> } = {},
) {
  const page = await openPage(t, options);
  const site = await startClientSite(t);
  const server = await startTestServer(t, {
    clients: {
      mvc: {
        ClientUri: `${site.origin}/`,
        RedirectUris: [site.redirectUri],
        PostLogoutRedirectUris: [`${site.origin}/`],
        ...client,
      },
    },
  });
  return { page, site, server };
}

test('a user signs in by the keyboard alone', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site));

  // The name has the focus by itself; after the password come Sign in and Cancel.
  await page.locator('#username:focus').waitFor();
  await page.keyboard.type('alice');
  await page.keyboard.press('Tab');
  await page.keyboard.type('Pass-word-1');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  assert.equal(await page.locator(':focus').innerText(), 'Cancel');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await page.locator(':focus').innerText(), 'Sign in');
  await page.keyboard.press('Enter');

  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
  assert.equal(site.lastAnswer().params.get('state'), 'state-1');
});

test('the Enter key in the password field signs in, and does not cancel', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site, { login_hint: 'alice' }));

  // With a hint the password has the focus.
  await page.locator('#password:focus').waitFor();
  await page.keyboard.type('Pass-word-1');
  await page.keyboard.press('Enter');

  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
});

test('after a wrong password the name is kept, the password is empty and has the focus, and the right one signs in', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site));
  await signIn(page, 'alice', 'wrong');

  await page.getByRole('alert').waitFor();
  assert.equal(await page.getByLabel('Name').inputValue(), 'alice');
  assert.equal(await page.getByLabel('Password').inputValue(), '');
  assert.equal(await page.locator(':focus').getAttribute('name'), 'password');
  assert.equal(site.answers.length, 0);

  await page.keyboard.type('Pass-word-1');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
});

test('Cancel needs no name and no password, and tells the client access_denied', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site));
  await page.getByRole('button', { name: 'Cancel' }).click();

  await page.waitForURL(`${site.redirectUri}?**`);
  assert.equal(site.lastAnswer().params.get('error'), 'access_denied');
  assert.equal(site.lastAnswer().params.get('state'), 'state-1');
});

test('the Back button after the sign-in leads to a page that says so, with the way to the client', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site));
  const loginUrl = page.url();
  await signIn(page);
  await page.waitForURL(`${site.redirectUri}?**`);

  await page.goto(loginUrl);
  assert.equal(await page.getByLabel('Password').count(), 0);
  await page.getByRole('link', { name: /Example web application/ }).click();
  await page.waitForURL(`${site.origin}/`);
});

test('with scripts switched off a user signs in, consents and signs out', async (t) => {
  const { page, site, server } = await setUp(t, {
    javaScriptEnabled: false,
    client: { RequireConsent: true },
  });
  await page.goto(authorizationUrl(server, site));
  await signIn(page);
  await page.getByRole('button', { name: 'Allow' }).click();
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));

  await page.goto(`${server.issuer}/connect/endsession`);
  await page.getByRole('button', { name: 'Yes, sign out' }).click();
  await page.getByRole('heading', { level: 1 }).waitFor();
  await page.goto(authorizationUrl(server, site));
  assert.equal(await page.getByLabel('Password').count(), 1);
});

for (const javaScriptEnabled of [true, false]) {
  const how = javaScriptEnabled ? 'by itself' : 'by a button where scripts are off';
  test(`an answer by form_post reaches the client ${how}, under the policy of our pages`, async (t) => {
    const { page, site, server } = await setUp(t, { javaScriptEnabled });
    const complaints: string[] = [];
    page.on('console', (message) => {
      if (message.text().includes('Content Security Policy')) complaints.push(message.text());
    });
    await page.goto(authorizationUrl(server, site, { response_mode: 'form_post' }));
    await signIn(page);
    if (!javaScriptEnabled) await page.getByRole('button').click();

    await page.waitForURL(site.redirectUri);
    const { method, params } = site.lastAnswer();
    assert.equal(method, 'POST');
    assert.ok(params.get('code'));
    assert.equal(params.get('iss'), server.issuer);
    assert.deepEqual(complaints, []);
  });
}

test('who comes to sign-out without a proof is asked: No keeps the session, Yes ends it', async (t) => {
  const { page, site, server } = await setUp(t);
  await page.goto(authorizationUrl(server, site));
  await signIn(page);
  await page.waitForURL(`${site.redirectUri}?**`);

  await page.goto(`${server.issuer}/connect/endsession`);
  await page.getByText('alice').waitFor();
  await page.getByRole('link', { name: 'No, stay signed in' }).click();
  await page.goto(authorizationUrl(server, site));
  await page.waitForURL(`${site.redirectUri}?**`);

  await page.goto(`${server.issuer}/connect/endsession`);
  await page.getByRole('button', { name: 'Yes, sign out' }).click();
  await page.waitForURL(/endsession\/success/);
  await page.goto(authorizationUrl(server, site));
  assert.equal(await page.getByLabel('Password').count(), 1);
});
