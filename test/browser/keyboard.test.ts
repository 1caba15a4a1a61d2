/** Everything can be done by the keyboard alone, and whoever does it sees where they are (WCAG 2.2, 2.1.1 and 2.4.7). */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Page } from 'playwright-core';
import { startTestServer } from '../support/start-server.ts';
import { authorizationUrl, openPage, startClientSite } from './browser.ts';

interface Focus {
  /** What somebody hears: the label or the text. */
  readonly name: string;
  readonly outlineWidth: number;
  readonly isInView: boolean;
}

/** What has the focus, as a person perceives it; evaluated in the page. */
const readFocus = `(() => {
  const element = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const { top, bottom, left, right } = element.getBoundingClientRect();
  const label = element.labels?.[0]?.innerText.split('\\n')[0].trim();
  return {
    name: label ?? element.innerText.trim().replace(/\\s+/g, ' '),
    outlineWidth: outlineStyle === 'none' ? 0 : Number.parseFloat(outlineWidth),
    isInView: top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth,
  };
})()`;

/** Looks at what has the focus: it must be seen that it has it. */
async function seeFocus(page: Page): Promise<string> {
  const { name, outlineWidth, isInView } = (await page.evaluate(readFocus)) as Focus;
  assert.ok(outlineWidth >= 2, `${name} shows the focus: ${outlineWidth}`);
  assert.ok(isInView, `${name} is in view`);
  return name;
}

/** Presses Tab through a whole page, from wherever the focus is, and names what it comes by. */
async function tabThrough(page: Page): Promise<string[]> {
  const names: string[] = [];
  for (;;) {
    await page.keyboard.press('Tab');
    if ((await page.evaluate('document.activeElement === document.body')) === true) return names;
    const name = await seeFocus(page);
    if (names.length > 40) throw new Error(`the focus goes round: ${names.join(', ')}`);
    names.push(name);
  }
}

/** Presses Tab until what has this name has the focus. */
async function tabTo(page: Page, name: string): Promise<void> {
  for (let pressed = 0; pressed < 40; pressed += 1) {
    await page.keyboard.press('Tab');
    if ((await page.evaluate('document.activeElement === document.body')) === true) continue;
    if ((await seeFocus(page)) === name) return;
  }
  throw new Error(`Tab does not come to ${name}`);
}

test('by keyboard alone a user signs in, consents, and signs out, and always sees where they are', async (t) => {
  const page = await openPage(t, { viewport: { width: 480, height: 700 } });
  const site = await startClientSite(t);
  const server = await startTestServer(t, {
    clients: {
      mvc: { ClientUri: `${site.origin}/`, RedirectUris: [site.redirectUri], RequireConsent: true },
    },
  });

  await page.goto(authorizationUrl(server, site, { scope: 'openid profile email' }));
  await page.locator('#username:focus').waitFor();
  assert.equal(await seeFocus(page), 'Name');
  await page.keyboard.type('alice');
  await tabTo(page, 'Password');
  await page.keyboard.type('wrong');
  await page.keyboard.press('Enter');
  await page.locator('#password[aria-invalid]:focus').waitFor();
  assert.equal(await seeFocus(page), 'Password');
  await page.keyboard.type('Pass-word-1');
  await tabTo(page, 'Sign in');
  await page.keyboard.press('Enter');

  await page.locator('[value=allow]').waitFor();
  assert.deepEqual(await tabThrough(page), [
    `About this application: ${new URL(site.origin).host} (opens in a new tab)`,
    'Not you?',
    'User profile',
    'Your e-mail address',
    'Remember this decision',
    'Allow',
    'Deny',
  ]);
  await tabTo(page, 'Your e-mail address');
  await page.keyboard.press('Space');
  assert.equal(await page.locator('[value=email]').isChecked(), false);
  await tabTo(page, 'Allow');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));

  await page.goto(`${server.issuer}/connect/endsession?client_id=mvc`);
  await page.locator('[value=yes]').waitFor();
  assert.deepEqual(await tabThrough(page), ['Yes, sign out', 'No, stay signed in']);
  await tabTo(page, 'No, stay signed in');
  await page.keyboard.press('Enter');
  await page.waitForURL(/\/stay/);
  assert.deepEqual(await tabThrough(page), ['Back to Example web application']);

  await page.goto(`${server.issuer}/connect/endsession`);
  await tabTo(page, 'Yes, sign out');
  await page.keyboard.press('Enter');
  await page.waitForURL(/endsession\/success/);
});

test('by keyboard alone a user chooses an identity provider, tries again, and cancels', async (t) => {
  const page = await openPage(t, { viewport: { width: 480, height: 700 } });
  const site = await startClientSite(t);
  const provider = (Caption: string) => ({
    Type: 'WsFed',
    Caption,
    MetadataAddress: 'http://localhost:9/metadata',
  });
  const server = await startTestServer(t, {
    providers: {
      One: { ...provider('Company One'), Domains: ['one.example'] },
      Two: provider('Company Two'),
    },
    clients: {
      mvc: {
        RedirectUris: [site.redirectUri],
        EnableLocalLogin: false,
        IdentityProviderRestrictions: ['One', 'Two'],
      },
    },
  });

  await page.goto(authorizationUrl(server, site));
  assert.deepEqual(await tabThrough(page), [
    'Continue with Company One',
    'Continue with Company Two',
    'Your name or e-mail address',
    'Continue',
    'Cancel',
  ]);
  await tabTo(page, 'Continue with Company Two');
  await page.keyboard.press('Enter');
  await page.locator('[name=again]').waitFor({ state: 'attached' });
  assert.deepEqual(await tabThrough(page), [
    'Continue with Company One',
    'Try again with Company Two',
    'Cancel',
  ]);
  await tabTo(page, 'Cancel');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.equal(site.lastAnswer().params.get('error'), 'access_denied');
});

test('by keyboard alone a user changes a password', async (t) => {
  const page = await openPage(t, { viewport: { width: 480, height: 700 } });
  const site = await startClientSite(t);
  const server = await startTestServer(t, { clients: { mvc: { RedirectUris: [site.redirectUri] } } });
  await server.context.accounts.setPassword('bob', 'Temporary-1', { mustChange: true });

  await page.goto(authorizationUrl(server, site, { login_hint: 'bob' }));
  await page.locator('#password:focus').waitFor();
  await page.keyboard.type('Temporary-1');
  await page.keyboard.press('Enter');
  await page.locator('#newPassword:focus').waitFor();
  assert.equal(await seeFocus(page), 'New password');
  await page.keyboard.type('New-pass-word-2');
  await tabTo(page, 'New password again');
  await page.keyboard.type('New-pass-word-2');
  await tabTo(page, 'Save and continue');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
});
