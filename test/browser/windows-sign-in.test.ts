/** Integrated Windows Authentication in a real browser, with tickets of a real KDC. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { realm, startKdc } from '../support/kdc.ts';
import { requireKerberos } from '../support/requirements.ts';
import { startTestServer } from '../support/start-server.ts';
import { authorizationUrl, openPageWith, signIn, startClientSite } from './browser.ts';

async function start(t: TestContext) {
  const folder = requireKerberos(t);
  const kdc = await startKdc(t, { users: ['carol'] });
  Object.assign(process.env, kdc.env);
  const site = await startClientSite(t);
  const server = await startTestServer(t, {
    server: {
      EnableWindowsLogin: true,
      WindowsLogin: {
        Negotiate: { Keytab: kdc.makeKeytab('HTTP/localhost') },
        Names: [{ From: `*@${realm}`, To: 'EXAMPLE\\*' }],
      },
    },
    clients: { spa: { RedirectUris: [site.redirectUri] } },
    links: { node_modules: join(folder, 'node_modules') },
  });
  const url = authorizationUrl(server, site, {
    client_id: 'spa',
    code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
    code_challenge_method: 'S256',
  });
  return { kdc, server, site, url };
}

const args = ['--auth-server-allowlist=localhost'];

test('with a ticket the client spa has its answer without a page, and its user has done nothing', async (t) => {
  const { kdc, server, site, url } = await start(t);
  const page = await openPageWith(t, { args, env: { ...process.env, ...kdc.signIn('carol') } });
  // Chromium loads the library with its first challenge, and gives that one up.
  await page.goto(url);
  await page.goto(url);
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
  const finished = server.logged.filter(({ msg }) => msg === 'login finished');
  assert.deepEqual(
    finished.map(({ accountId }) => accountId),
    ['EXAMPLE\\carol', 'EXAMPLE\\carol'],
  );
});

test('without a ticket the browser shows the login page, and its user signs in there', async (t) => {
  const { kdc, site, url } = await start(t);
  const page = await openPageWith(t, { args, env: { ...process.env, ...kdc.env } });
  for (let attempt = 0; attempt < 2; attempt += 1) {
    await page.goto(url);
    await page.getByRole('heading', { name: 'Sign in', exact: true }).waitFor();
  }
  await signIn(page);
  await page.waitForURL(`${site.redirectUri}?**`);
  assert.ok(site.lastAnswer().params.get('code'));
});
