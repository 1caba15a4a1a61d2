/** The WsFed application: signing in to relying parties of WS-Federation, with the accounts of the provider. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { decodeJwt } from 'jose';
import { verifySignInResponse } from '../../src/federation/saml.ts';
import { parseFederationMetadata } from '../../src/federation/ws-metadata.ts';
import { makeSelfSignedKey } from '../../src/keys/saml-signer.ts';
import { type Browser, createBrowser, type Page } from '../support/browser.ts';
import { requireCommand } from '../support/requirements.ts';
import { createSigner } from '../support/saml-issuer.ts';
import { authorize, mvc } from '../support/sign-in.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';

const spa = {
  clientId: 'spa',
  redirectUri: 'http://localhost:5091/callback',
  scope: 'openid profile intelligence_web_api',
} as const;
const portal = {
  Realm: 'urn:portal',
  ReplyUrls: ['https://portal.example.com/signin', 'https://portal.example.com/other'],
};
const claim = (name: string) => `http://schemas.xmlsoap.org/ws/2005/05/identity/claims/${name}`;

function start(
  t: Parameters<typeof startTestServer>[0],
  options: Parameters<typeof startTestServer>[1] = {},
) {
  return startTestServer(t, { relyingParties: { Portal: portal }, ...options });
}

const wsFedUrl = ({ issuer }: TestServer) => issuer.replace(/Oidc$/, 'WsFed');

function request(server: TestServer, parameters: Record<string, string> = {}): string {
  return `${wsFedUrl(server)}?${new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal', wctx: 'ctx&"<1>', ...parameters })}`;
}

/** The hidden fields of the page that posts the answer, and where it posts it. */
function answerOf(page: Page) {
  const decode = (text: string) =>
    text
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll('&quot;', '"')
      .replaceAll('&#39;', "'")
      .replaceAll('&amp;', '&');
  const fields = [...page.body.matchAll(/<input type="hidden" name="(w\w+)" value="([^"]*)">/g)].map(
    ([, name = '', value = '']) => [name, decode(value)] as const,
  );
  return {
    action: decode(/<form method="post" action="([^"]*)"/.exec(page.body)?.[1] ?? ''),
    fields: Object.fromEntries(fields) as { wa?: string; wresult?: string; wctx?: string },
  };
}

async function read(server: TestServer, page: Page, audience = 'urn:portal', more = {}) {
  const { action, fields } = answerOf(page);
  const metadata = parseFederationMetadata(
    await (await fetch(`${wsFedUrl(server)}/FederationMetadata/2007-06/FederationMetadata.xml`)).text(),
  );
  return verifySignInResponse(fields.wresult ?? '', {
    certificates: metadata.certificates,
    issuer: metadata.entityId,
    audiences: [audience],
    recipients: [action],
    now: Math.floor(Date.now() / 1000),
    ...more,
  });
}

async function signIn(
  server: TestServer,
  browser: Browser = createBrowser(),
  parameters = {},
  user = 'alice',
) {
  const login = await browser.open(request(server, parameters));
  return browser.submit(login, { username: user, password: 'Pass-word-1' });
}

test('out of the box the client spa signs its users in at the WsFed application, and out again', async (t) => {
  const server = await startTestServer(t);
  const attempt = await authorize({ issuer: server.issuer, ...spa });
  // One redirect after the other on one origin: the login page of the WsFed application.
  assert.match(attempt.page.url.pathname, /\/SPSSMR\/WsFed$/);
  const answer = await attempt.browser.submit(attempt.page, { username: 'ALICE', password: 'Pass-word-1' });
  const back = await attempt.browser.submit(answer, {});
  const { body } = await attempt.redeem(back);
  const claims = decodeJwt(body.access_token);
  assert.deepEqual([claims.sub, claims.idp, claims.amr], ['alice', 'IntelligenceWsFed', ['external']]);

  const other = await authorize({ issuer: server.issuer, ...mvc, browser: attempt.browser });
  assert.ok(other.page.location?.searchParams.has('code'), 'single sign-on');
  const url = `${server.issuer}/connect/endsession?${new URLSearchParams({ id_token_hint: body.id_token })}`;
  const out = await attempt.browser.open(url);
  assert.match(out.body, /You are being signed out/);
  assert.match(out.body, /callback\/wsfed\/IntelligenceWsFed\?wa=wsignoutcleanup1\.0/);
  const again = await authorize({ issuer: server.issuer, ...spa, browser: attempt.browser });
  assert.match(again.page.body, /name="password"/, 'signed out of both');
});

test('the answer goes to the registered address with its context unchanged, by script or by button', async (t) => {
  const server = await start(t);
  const page = await signIn(server);
  const { action, fields } = answerOf(page);
  assert.deepEqual(
    [action, fields.wa, fields.wctx],
    ['https://portal.example.com/signin', 'wsignin1.0', 'ctx&"<1>'],
  );
  assert.match(page.body, /<button[^>]*>Continue<\/button>/);
  assert.match(page.headers.get('content-security-policy') ?? '', /script-src 'sha256-[A-Za-z0-9+/]+=*';/);
  assert.equal(page.headers.get('cache-control'), 'no-store');
  const verified = await read(server, page);
  assert.equal(verified.subject, 'alice');
  assert.deepEqual(verified.claims.get(claim('name')), ['alice']);
  assert.deepEqual(verified.claims.get(claim('emailaddress')), ['alice@example.com']);
  assert.match(verified.authenticationMethod ?? '', /PasswordProtectedTransport$/);
  assert.ok(!server.logText().includes(fields.wresult ?? 'none'), 'no assertion is logged');

  const other = await signIn(server, createBrowser(), { wreply: 'https://portal.example.com/other' });
  assert.equal(answerOf(other).action, 'https://portal.example.com/other');
});

test('SAML 1.1, encryption, claims and lifetime are as the relying party has them', async (t) => {
  const signer = createSigner();
  const pem = `-----BEGIN CERTIFICATE-----\n${signer.certificate.replace(/(.{64})/g, '$1\n')}\n-----END CERTIFICATE-----\n`;
  const server = await start(t, {
    relyingParties: {
      Old: {
        Realm: 'urn:old',
        ReplyUrls: ['https://old.example.com/'],
        TokenType: 'Saml11',
        TokenLifetime: 60,
        Claims: ['role', 'windowsaccountname', 'department', 'constructor', 'http://own.example/x'],
      },
      Secret: {
        Realm: 'urn:secret',
        ReplyUrls: ['https://secret.example.com/'],
        EncryptionCertificateFile: 'rp.pem',
      },
    },
    files: { 'rp.pem': pem },
    accounts: [
      {
        Name: 'alice',
        Password: 'Pass-word-1',
        Roles: ['One', 'Two & <3>'],
        WindowsName: 'EXAMPLE\\alice',
        Claims: { department: 'R&D' },
      },
    ],
  });
  const old = await read(server, await signIn(server, createBrowser(), { wtrealm: 'urn:old' }), 'urn:old');
  assert.match(old.authenticationMethod ?? '', /SAML:1\.0:am:password/);
  assert.deepEqual(old.claims.get('http://schemas.microsoft.com/ws/2008/06/identity/claims/role'), [
    'One',
    'Two & <3>',
  ]);
  assert.deepEqual(
    old.claims.get('http://schemas.microsoft.com/ws/2008/06/identity/claims/windowsaccountname'),
    ['EXAMPLE\\alice'],
  );
  assert.deepEqual(old.claims.get(claim('department')), ['R&D']);
  assert.equal(old.claims.has(claim('name')), false);
  assert.ok(old.expiresAt <= Math.floor(Date.now() / 1000) + 60 + 300);

  const page = await signIn(server, createBrowser(), { wtrealm: 'urn:secret' });
  assert.doesNotMatch(answerOf(page).fields.wresult ?? '', /alice/);
  const decryptionKeys = [signer.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()];
  assert.equal((await read(server, page, 'urn:secret', { decryptionKeys })).subject, 'alice');
});

test('xmlsec1 verifies the metadata and assertions of both versions, and decrypts what is for its key', async (t) => {
  const xmlsec = requireCommand(t, 'xmlsec1');
  const folder = mkdtempSync(join(tmpdir(), 'postern-xmlsec-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const write = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const toPem = (base64: string) =>
    `-----BEGIN CERTIFICATE-----\n${base64.replace(/(.{64})/g, '$1\n')}\n-----END CERTIFICATE-----\n`;
  const own = createSigner();
  const server = await start(t, {
    relyingParties: {
      Portal: portal,
      Old: { Realm: 'urn:old', ReplyUrls: ['https://old.example.com/'], TokenType: 'Saml11' },
      Secret: {
        Realm: 'urn:secret',
        ReplyUrls: ['https://secret.example.com/'],
        EncryptionCertificateFile: 'rp.pem',
      },
    },
    files: { 'rp.pem': toPem(own.certificate) },
  });
  const metadata = await (
    await fetch(`${wsFedUrl(server)}/FederationMetadata/2007-06/FederationMetadata.xml`)
  ).text();
  const certificate = write('idp.pem', toPem(parseFederationMetadata(metadata).certificates[0] ?? ''));
  const verify = (id: string, xml: string) => {
    const file = write('signed.xml', xml);
    return execFileSync(xmlsec, ['--verify', ...toIdOption(id), '--pubkey-cert-pem', certificate, file], {
      stdio: 'pipe',
    });
  };
  const [idOfMetadata = '', id20 = '', id11 = ''] = [
    'ID urn:oasis:names:tc:SAML:2.0:metadata:EntityDescriptor',
    'ID urn:oasis:names:tc:SAML:2.0:assertion:Assertion',
    'AssertionID urn:oasis:names:tc:SAML:1.0:assertion:Assertion',
  ];
  verify(idOfMetadata, metadata);
  assert.throws(() => verify(idOfMetadata, metadata.replace('SecurityTokenService', 'AttributeService')));

  const answered = async (wtrealm: string) =>
    answerOf(await signIn(server, createBrowser(), { wtrealm })).fields.wresult ?? '';
  const assertion20 = assertionOf(await answered('urn:portal'));
  verify(id20, assertion20);
  assert.throws(() => verify(id20, assertion20.replaceAll('alice', 'bobby')));
  verify(id11, assertionOf(await answered('urn:old')));

  const encrypted =
    /<(\w+:)?EncryptedData[\s\S]*EncryptedData>/.exec(await answered('urn:secret'))?.[0] ?? '';
  const key = write('rp.key', own.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString());
  const decrypted = execFileSync(
    xmlsec,
    ['--decrypt', '--privkey-pem', key, write('encrypted.xml', encrypted)],
    { stdio: 'pipe' },
  ).toString();
  verify(id20, assertionOf(decrypted));
  assert.match(decrypted, />alice</);
});

function toIdOption(id: string): string[] {
  const [attribute = '', node = ''] = id.split(' ');
  return [`--id-attr:${attribute}`, node];
}

function assertionOf(text: string): string {
  return /<(\w+:)?Assertion[ >][\s\S]*<\/(\w+:)?Assertion>/.exec(text)?.[0] ?? '';
}

test('what an account says of itself does not make it another one at the client', async (t) => {
  const server = await startTestServer(t, {
    accounts: [
      { Name: 'alice', Password: 'Pass-word-1' },
      { Name: 'eve', Password: 'Pass-word-1', WindowsName: 'EXAMPLE\\eve', Claims: { upn: 'alice' } },
    ],
  });
  for (const user of ['eve', 'alice']) {
    const attempt = await authorize({ issuer: server.issuer, ...spa });
    const answer = await attempt.browser.submit(attempt.page, { username: user, password: 'Pass-word-1' });
    const { body } = await attempt.redeem(await attempt.browser.submit(answer, {}));
    assert.equal(decodeJwt(body.access_token).sub, user);
  }
});

test('an assertion says each thing once, and nothing that Windows Identity Foundation refuses', async (t) => {
  const server = await start(t);
  const { wresult = '' } = answerOf(await signIn(server)).fields;
  assert.doesNotMatch(wresult, /Recipient|InResponseTo/, 'ID4157');
  assert.doesNotMatch(wresult, /Name="[^"]*(nameidentifier|authenticationmethod|authenticationinstant)"/);
});

test('signing out leads back to an address of the registration however it is spelt, and alone it has no home', async (t) => {
  const server = await start(t, {
    relyingParties: {
      Portal: {
        ...portal,
        PostLogoutRedirectUris: ['https://Portal.example.com:443', 'https://p.example.com/bye'],
      },
    },
  });
  const leave = (wreply: string) =>
    createBrowser().open(`${wsFedUrl(server)}?${new URLSearchParams({ wa: 'wsignout1.0', wreply })}`);
  for (const wreply of [
    'https://portal.example.com',
    'https://portal.example.com/',
    'https://P.example.com/bye?x=1',
  ])
    assert.equal((await leave(wreply)).location?.hostname.endsWith('.example.com'), true, wreply);
  for (const wreply of [
    'https://evil@p.example.com/bye',
    'https://p.example.com/bye#x',
    'https://p.example.com/other',
  ])
    assert.equal((await leave(wreply)).location, undefined, wreply);

  const alone = await startTestServer(t, { server: { Mounts: ['WsFed'] } });
  const home = await fetch(new URL('/', alone.issuer), { redirect: 'manual' });
  assert.equal(home.status, 404);
});

test('the next certificate is in the metadata before its key signs', async (t) => {
  const [present, next] = await Promise.all(
    ['present', 'next'].map((commonName) => makeSelfSignedKey({ commonName, days: 30 })),
  );
  assert.ok(present && next);
  const pem = (base64: string) => `-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`;
  const server = await start(t, {
    server: {
      WsFedSigningCertificate: {
        CertificateFile: 'present.crt',
        KeyFile: 'present.key',
        NextCertificateFile: 'next.crt',
      },
    },
    files: {
      'present.crt': pem(present.certificate),
      'present.key': present.privateKey,
      'next.crt': pem(next.certificate),
    },
  });
  const metadata = await (
    await fetch(`${wsFedUrl(server)}/FederationMetadata/2007-06/FederationMetadata.xml`)
  ).text();
  assert.deepEqual(parseFederationMetadata(metadata).certificates, [present.certificate, next.certificate]);
  const page = await signIn(server);
  const verifyWith = (certificate: string) =>
    read(server, page, 'urn:portal', { certificates: [certificate] });
  assert.equal((await verifyWith(present.certificate)).subject, 'alice');
  await assert.rejects(verifyWith(next.certificate));
});

test('a form from the history of the browser signs nobody in again, before or after signing out', async (t) => {
  const server = await start(t);
  const browser = createBrowser();
  const login = await browser.open(request(server));
  const user = { username: 'alice', password: 'Pass-word-1' };
  assert.ok(answerOf(await browser.submit(login, user)).fields.wresult);
  const again = await browser.submit(login, user);
  assert.deepEqual([again.status, answerOf(again).fields.wresult], [400, undefined]);
  await browser.open(`${wsFedUrl(server)}?wa=wsignout1.0`);
  const after = await browser.submit(login, user);
  assert.deepEqual([after.status, answerOf(after).fields.wresult], [400, undefined]);
  assert.ok(answerOf(await browser.submit(after, user)).fields.wresult, 'the page that says so signs in');
});

test('signing out tells every relying party, also of before a new sign-in and of several at once', async (t) => {
  const others = ['a', 'b', 'c'].map((name) => [
    name,
    { Realm: `urn:${name}`, ReplyUrls: [`https://${name}.example.com/`] },
  ]);
  const server = await start(t, { relyingParties: { Portal: portal, ...Object.fromEntries(others) } });
  const browser = createBrowser();
  await signIn(server, browser);
  await Promise.all(['a', 'b', 'c'].map((name) => browser.open(request(server, { wtrealm: `urn:${name}` }))));
  const fresh = await browser.open(request(server, { wfresh: '00' }));
  await browser.submit(fresh, { username: 'bob', password: 'Pass-word-1' });
  server.write('relying-parties/c.json', { Realm: 'urn:c', ReplyUrls: ['https://moved.example.com/'] });
  await server.reload();
  const out = await browser.open(`${wsFedUrl(server)}?wa=wsignout1.0`);
  const told = [...out.body.matchAll(/<iframe[^>]*src="https:\/\/(\w+)\./g)].map(([, name]) => name);
  assert.deepEqual(
    told.toSorted(),
    ['a', 'b', 'portal'],
    'an address that is not registered any more is not called',
  );
  assert.match(out.body, /url=\/SPSSMR\/WsFed\?wa=wsignout1\.0"/, 'and then on to the page that says so');
  assert.match((await browser.open(`${wsFedUrl(server)}?wa=wsignout1.0`)).body, /You are signed out/);
  assert.equal((await fetch(`${wsFedUrl(server)}?wa=wsignout1.0`, { method: 'HEAD' })).status, 405);
});

test('one sign-in serves all relying parties until it ends; wfresh asks anew', async (t) => {
  const server = await start(t, {
    relyingParties: {
      Portal: portal,
      Other: { Realm: 'urn:other', ReplyUrls: ['https://other.example.com/'] },
    },
  });
  const browser = createBrowser();
  await signIn(server, browser);
  const second = await browser.open(request(server, { wtrealm: 'urn:other' }));
  assert.equal((await read(server, second, 'urn:other')).subject, 'alice');
  assert.ok(answerOf(await browser.open(request(server, { wfresh: '60' }))).fields.wresult);
  const fresh = await browser.open(request(server, { wfresh: '0' }));
  assert.match(fresh.body, /name="password"/);
  assert.ok(
    answerOf(await browser.submit(fresh, { username: 'bob', password: 'Pass-word-1' })).fields.wresult,
  );
  assert.equal(
    (await read(server, await browser.open(request(server)))).subject,
    'bob',
    'who signs in anew is the one',
  );

  const out = await browser.open(
    `${wsFedUrl(server)}?${new URLSearchParams({ wa: 'wsignout1.0', wreply: portal.ReplyUrls[0] ?? '' })}`,
  );
  assert.match(out.body, /<iframe[^>]*src="https:\/\/portal\.example\.com\/signin\?wa=wsignoutcleanup1\.0"/);
  assert.match(out.body, /url=https:\/\/portal\.example\.com\/signin"/);
  assert.match((await browser.open(request(server))).body, /name="password"/);
  for (const wreply of [
    'https://evil.example.com/',
    'https://portal.example.com/signin.evil',
    'javascript:alert(1)',
  ]) {
    const nowhere = await browser.open(
      `${wsFedUrl(server)}?${new URLSearchParams({ wa: 'wsignout1.0', wreply })}`,
    );
    assert.equal(nowhere.location, undefined, wreply);
    assert.doesNotMatch(nowhere.body, /evil|alert/);
  }
});

test('who is not registered, or asks for an answer elsewhere, gets a page and nothing is sent', async (t) => {
  const server = await start(t);
  for (const [parameters, code] of [
    [{ wtrealm: 'urn:nobody' }, 'ERR_RELYING_PARTY_UNKNOWN'],
    [{ wtrealm: 'urn:PORTAL' }, 'ERR_RELYING_PARTY_UNKNOWN'],
    [{ wreply: 'https://evil.example.com/signin' }, 'ERR_RELYING_PARTY_UNKNOWN'],
    [{ wreply: 'https://portal.example.com/signin/../evil' }, 'ERR_RELYING_PARTY_UNKNOWN'],
    [{ wa: 'wattr1.0' }, 'ERR_REQUEST_INVALID'],
    [{ wfresh: '-1' }, 'ERR_REQUEST_INVALID'],
    [{ wctx: 'x'.repeat(5000) }, 'ERR_REQUEST_INVALID'],
  ] as const) {
    const page = await createBrowser().open(request(server, parameters));
    assert.equal(page.status, 400, JSON.stringify(parameters));
    assert.ok(page.body.includes(code), JSON.stringify(parameters));
  }
  const twice = await createBrowser().open(`${request(server)}&wtrealm=urn:other`);
  assert.equal(twice.status, 400);
  assert.equal((await createBrowser().open(wsFedUrl(server))).status, 400);
});

test('a wrong password keeps the name, a foreign form is refused, and disabled accounts stay out', async (t) => {
  const server = await start(t);
  const browser = createBrowser();
  const login = await browser.open(request(server));
  const wrong = await browser.submit(login, { username: 'alice', password: 'nope' });
  assert.equal(wrong.status, 400);
  assert.match(wrong.body, /value="alice"/);
  assert.doesNotMatch(wrong.body, /nope|Cancel/);
  const forged = await createBrowser().submit(login, { username: 'alice', password: 'Pass-word-1' });
  assert.match(forged.body, /This form was open for too long/);
  const crossSite = await browser.request(request(server), {
    method: 'POST',
    headers: { 'sec-fetch-site': 'cross-site' },
  });
  assert.equal(crossSite.status, 403);

  const page = await signIn(server, browser);
  assert.ok(answerOf(page).fields.wresult);
  await server.context.accounts.setDisabled('alice', true);
  assert.match(
    (await browser.open(request(server))).body,
    /name="password"/,
    'the session is of no use any more',
  );
  assert.equal((await signIn(server)).status, 400);
});

test('an account that must change its password does so on the way', async (t) => {
  const server = await start(t);
  await server.context.accounts.setPassword('bob', 'Temporary-1', { mustChange: true });
  const browser = createBrowser();
  const asked = await browser.submit(await browser.open(request(server)), {
    username: 'bob',
    password: 'Temporary-1',
  });
  assert.match(asked.body, /Choose a new password/);
  const unequal = await browser.submit(asked, { newPassword: 'Another-pass-1', repeatPassword: 'x' });
  assert.match(unequal.body, /not the same/);
  const done = await browser.submit(unequal, {
    newPassword: 'Another-pass-1',
    repeatPassword: 'Another-pass-1',
  });
  assert.equal((await read(server, done)).subject, 'bob');
});

test('an installation may run either application alone', async (t) => {
  const alone = await start(t, { server: { Mounts: ['WsFed'] } });
  assert.equal((await fetch(`${alone.issuer}/.well-known/openid-configuration`)).status, 404);
  const login = await createBrowser().open(request(alone));
  assert.match(login.body, /name="password"/);
  const stylesheet = /<link rel="stylesheet" href="([^"]*)"/.exec(login.body)?.[1] ?? '';
  assert.equal((await fetch(new URL(stylesheet, alone.issuer))).status, 200);
  const without = await start(t, { server: { Mounts: ['Oidc'] } });
  assert.equal((await fetch(request(without))).status, 404);
});
