/** The WsFed application before a relying party of another maker, which is a program of its own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createBrowser, type Page } from '../support/browser.ts';
import { requirePackage } from '../support/requirements.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const alice = { username: 'alice', password: 'Pass-word-1' };
const claim = (name: string) => `http://schemas.xmlsoap.org/ws/2005/05/identity/claims/${name}`;
const role = 'http://schemas.microsoft.com/ws/2008/06/identity/claims/role';
/** What the relying party gives for its users to come back with. */
const context = 'where they were & "what" they did';

/** Postern, and the relying party that has read its metadata. */
async function start(t: TestContext, TokenType: string) {
  requirePackage(t, 'relying-party');
  const port = await findFreePort();
  const url = `http://localhost:${port}`;
  const ReplyUrls = ['https://elsewhere.example.com/', `${url}/signin`];
  const server = await startTestServer(t, {
    relyingParties: {
      Passport: { Realm: 'urn:passport', ReplyUrls, TokenType, Claims: ['name', 'emailaddress', 'role'] },
      Other: { Realm: 'urn:other', ReplyUrls, TokenType },
    },
    accounts: [
      {
        Name: 'alice',
        Password: 'Pass-word-1',
        Email: 'alice@example.com',
        Roles: ['reader', 'Ärzte & <Schwestern>'],
      },
    ],
  });
  const wsFedUrl = server.issuer.replace(/Oidc$/, 'WsFed');
  const program = spawn(
    process.execPath,
    [
      join(import.meta.dirname, '../support/relying-party-process.ts'),
      ...[String(port), 'urn:passport', `${wsFedUrl}/FederationMetadata/2007-06/FederationMetadata.xml`],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(() => program.kill());
  await Promise.race([once(program.stdout, 'data'), once(program, 'exit')]);
  assert.equal(program.exitCode, null, 'it runs');
  return { url, wsFedUrl };
}

function shown(page: Page) {
  return JSON.parse(page.body) as { profile?: Record<string, unknown>; wctx?: string; refused?: string };
}

for (const [TokenType, version] of [
  ['Saml11', '1.1'],
  ['Saml20', '2.0'],
]) {
  test(`a relying party of another maker, a program of its own, signs a user in with SAML ${version}`, async (t) => {
    const { url, wsFedUrl } = await start(t, TokenType ?? '');
    const browser = createBrowser();
    const leaving = await browser.open(url);
    assert.equal(`${leaving.location?.origin}${leaving.location?.pathname}`, wsFedUrl);
    assert.deepEqual(Object.fromEntries(leaving.location?.searchParams ?? []), {
      wa: 'wsignin1.0',
      wtrealm: 'urn:passport',
      wctx: context,
      wreply: `${url}/signin`,
      whr: '',
    });

    const login = await browser.open(leaving.location ?? '');
    const answer = await browser.submit(login, alice);
    const page = await browser.submit(answer, {});
    const { profile, wctx, refused } = shown(page);
    assert.equal(refused, undefined);
    assert.equal(page.url.href, `${url}/signin`);
    assert.equal(wctx, context);
    assert.equal(profile?.issuer, wsFedUrl);
    assert.equal(profile[claim('nameidentifier')], 'alice');
    assert.equal(profile[claim('name')], 'alice');
    assert.equal(profile[claim('emailaddress')], 'alice@example.com');
    assert.deepEqual(profile[role], ['reader', 'Ärzte & <Schwestern>']);

    // The session serves: no page of ours any more.
    const again = await browser.open((await browser.open(url)).location ?? '');
    assert.equal(shown(await browser.submit(again, {})).profile?.[claim('name')], 'alice');
  });

  test(`it refuses what was changed on the way and what is for another audience, in SAML ${version}`, async (t) => {
    const { url, wsFedUrl } = await start(t, TokenType ?? '');
    const browser = createBrowser();
    const login = await browser.open((await browser.open(url)).location ?? '');
    const answer = await browser.submit(login, alice);
    const changed = answer.body.replaceAll('alice', 'admin');
    assert.notEqual(changed, answer.body);
    const refused = await browser.submit({ ...answer, body: changed }, {});
    assert.equal(refused.status, 403);
    assert.match(shown(refused).refused ?? '', /Signature check errors: invalid signature: for uri/);

    const parameters = { wa: 'wsignin1.0', wtrealm: 'urn:other', wreply: `${url}/signin` };
    const foreign = await browser.open(`${wsFedUrl}?${new URLSearchParams(parameters)}`);
    const misled = await browser.submit(foreign, {});
    assert.equal(misled.status, 403);
    assert.match(shown(misled).refused ?? '', /Audience is invalid/);
    assert.ok(shown(await browser.submit(answer, {})).profile, 'what came for itself is good');
  });
}
