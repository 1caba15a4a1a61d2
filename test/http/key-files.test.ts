/** Keys as operators have them: PFX files of Windows, and a key that is exchanged for the next. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';
import { loadConfiguration } from '../../src/config/load.ts';
import type { ConfigurationError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { startServer } from '../../src/server.ts';
import { createBrowser } from '../support/browser.ts';
import { requireCommand } from '../support/requirements.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { prepareConfiguration, startTestServer } from '../support/start-server.ts';

const cookieKeys = { CookieKeys: [{ plain: 'a cookie key of thirty-two characters' }] };

/** Keys and certificates of a folder, by openssl. */
function makeKeys(t: TestContext) {
  const openssl = requireCommand(t, 'openssl');
  const folder = mkdtempSync(join(tmpdir(), 'postern-keys-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const run = (...parameters: string[]) => execFileSync(openssl, parameters, { cwd: folder, stdio: 'pipe' });
  const at = (name: string) => join(folder, name);
  return {
    at,
    run,
    make(name: string, ...kind: string[]) {
      const subject = ['-subj', `/CN=${name}`, '-days', '400'];
      run(
        'req',
        '-x509',
        '-newkey',
        ...(kind.length === 0 ? ['rsa:2048'] : kind),
        '-nodes',
        '-keyout',
        `${name}.key`,
        '-out',
        `${name}.crt`,
        ...subject,
      );
      return { KeyFile: at(`${name}.key`), CertificateFile: at(`${name}.crt`) };
    },
    pack(name: string, file: string, ...options: string[]) {
      run(
        'pkcs12',
        '-export',
        '-inkey',
        `${name}.key`,
        '-in',
        `${name}.crt`,
        '-out',
        file,
        '-passout',
        'pass:pfx pass',
        ...options,
      );
      return { KeyFile: at(file), Passphrase: { plain: 'pfx pass' } };
    },
  };
}

const token = (issuer: string) =>
  post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));

for (const [title, options] of [
  ['AES-256 and SHA-256, as Windows Server 2019 and later export it', []],
  [
    'Triple DES and SHA-1, as older ones do',
    ['-legacy', '-keypbe', 'PBE-SHA1-3DES', '-certpbe', 'PBE-SHA1-3DES', '-macalg', 'sha1'],
  ],
  [
    'RC2 for the certificate, as the oldest do',
    ['-legacy', '-keypbe', 'PBE-SHA1-3DES', '-certpbe', 'PBE-SHA1-RC2-40', '-macalg', 'sha1'],
  ],
] as const) {
  test(`a PFX file with its certificate signs tokens and assertions: ${title}`, async (t) => {
    const keys = makeKeys(t);
    keys.make('own');
    const pfx = keys.pack('own', 'own.pfx', ...options);
    const server = await startTestServer(t, {
      server: { OidcSigningCertificate: pfx, WsFedSigningCertificate: pfx, ...cookieKeys },
    });
    const { body } = await token(server.issuer);
    assert.ok(decodeProtectedHeader(body.access_token).x5t);
    const keySet = createRemoteJWKSet(new URL(`${server.issuer}/.well-known/jwks`));
    await jwtVerify(body.access_token, keySet, { issuer: server.issuer });
    const metadata = await fetch(
      `${server.issuer.replace(/Oidc$/, 'WsFed')}/FederationMetadata/2007-06/FederationMetadata.xml`,
    );
    const own = new X509Certificate(readFileSync(keys.at('own.crt'))).raw.toString('base64');
    assert.ok((await metadata.text()).includes(`<X509Certificate>${own}</X509Certificate>`));
  });
}

test('a PFX file that cannot be opened, or has no key, stops the start with the reason and without the passphrase', async (t) => {
  const keys = makeKeys(t);
  keys.make('own');
  const pfx = keys.pack('own', 'own.pfx');
  const onlyCertificate = keys.pack('own', 'cert.pfx', '-nokeys');
  for (const [certificate, expected] of [
    [{ ...pfx, Passphrase: { plain: 'not the passphrase' } }, /own\.pfx cannot be used: .*password/i],
    [onlyCertificate, /holds no private key/],
  ] as const) {
    const { configDirectory } = await prepareConfiguration(t, {
      server: { OidcSigningCertificate: certificate, ...cookieKeys },
    });
    const log = createLogger({ level: 'silent', format: 'json' });
    await assert.rejects(startServer({ configDirectory, env: {}, log }), (err: Error & { hint?: string }) => {
      assert.match(err.message, expected);
      assert.doesNotMatch(`${err.message} ${err.hint}`, /pfx pass|not the passphrase/);
      return true;
    });
  }
});

for (const [algorithm, type] of [
  ['PS256', ['rsa', 'rsa_keygen_bits:2048']],
  ['ES256', ['EC', 'ec_paramgen_curve:P-256']],
  ['ES384', ['EC', 'ec_paramgen_curve:P-384']],
  ['EdDSA', ['ed25519']],
] as const) {
  test(`a client and a resource that ask for ${algorithm} get it, and the others what they had`, async (t) => {
    const keys = makeKeys(t);
    const [name, option] = type;
    keys.run(
      'genpkey',
      '-algorithm',
      name,
      ...(option === undefined ? [] : ['-pkeyopt', option]),
      '-out',
      'further.key',
    );
    const server = await startTestServer(t, {
      server: { FurtherSigningKeys: [{ Algorithm: algorithm, KeyFile: keys.at('further.key') }] },
      resources: { intelligence_web_api: { SigningAlgorithm: algorithm } },
      clients: { mvc: { IdTokenSigningAlgorithm: algorithm } },
    });
    const { issuer } = server;
    const { body } = await signInAndRedeem({ issuer, ...mvc });
    const keySet = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks`));
    for (const jwt of [body.access_token, body.id_token]) {
      assert.equal(decodeProtectedHeader(jwt).alg, algorithm);
      await jwtVerify(jwt, keySet, { issuer, algorithms: [algorithm] });
    }
    const introspected = await post(
      `${issuer}/connect/introspect`,
      { token: body.access_token },
      basic('intelligence_web_api', 'web-api-secret'),
    );
    assert.equal((introspected.body as { active?: boolean }).active, true);
    const userinfo = await fetch(`${issuer}/connect/userinfo`, {
      headers: { authorization: `Bearer ${body.access_token}` },
    });
    assert.equal(userinfo.status, 200);
    const other = await signInAndRedeem({
      ...{ issuer, clientId: 'miClient', redirectUri: 'http://localhost:32284/', scope: 'openid mi' },
    });
    assert.equal(decodeProtectedHeader(other.body.id_token).alg, 'RS256');
    assert.equal(decodeProtectedHeader(other.body.access_token).alg, 'RS256');
    const discovery = (await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()) as {
      id_token_signing_alg_values_supported: string[];
    };
    assert.deepEqual(discovery.id_token_signing_alg_values_supported, ['RS256', algorithm]);
    // The hint of the client that signs out is an ID token, whatever signed it.
    const signOut = (hint: string) =>
      createBrowser().open(
        `${issuer}/connect/endsession?id_token_hint=${hint}&post_logout_redirect_uri=http://localhost:5090/`,
      );
    assert.equal((await signOut(body.id_token)).location?.href, 'http://localhost:5090/');
    assert.equal((await signOut(`${body.id_token}x`)).location, undefined);
  });
}

test('an algorithm without a key, and a key of another kind, are refused by name', async (t) => {
  const keys = makeKeys(t);
  const { KeyFile } = keys.make('own');
  const { configDirectory } = await prepareConfiguration(t, {
    clients: { mvc: { IdTokenSigningAlgorithm: 'ES256' } },
    resources: { mi: { SigningAlgorithm: 'EdDSA' } },
  });
  await assert.rejects(loadConfiguration(configDirectory, { env: {} }), (err: ConfigurationError) => {
    const issues = err.issues.map(({ file, path, message }) => `${file} ${path} ${message}`).join('\n');
    assert.match(issues, /mvc\.json IdTokenSigningAlgorithm there is no key for ES256/);
    assert.match(issues, /mi\.json SigningAlgorithm there is no key for EdDSA/);
    return true;
  });
  const wrong = await prepareConfiguration(t, {
    server: { FurtherSigningKeys: [{ Algorithm: 'ES256', KeyFile }] },
  });
  const log = createLogger({ level: 'silent', format: 'json' });
  await assert.rejects(
    startServer({ configDirectory: wrong.configDirectory, env: {}, log }),
    /own\.key cannot be used: it is no P-256 key, which ES256 needs/,
  );
});

test('a certificate that has ended is an error in the log, and stops the start where it is asked to', async (t) => {
  const keys = makeKeys(t);
  const own = keys.make('own');
  const later = () => Math.floor(Date.now() / 1000) + 401 * 86_400;
  const settings = { OidcSigningCertificate: own, ...cookieKeys };
  const server = await startTestServer(t, { server: settings, now: later });
  const said = server.logged.find(({ msg }) => String(msg).startsWith('a certificate has ended'));
  assert.deepEqual([said?.level, said?.certificate], ['error', 'OidcSigningCertificate']);
  const further = keys.make('further', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256');
  const both = await startTestServer(t, {
    server: { ...settings, FurtherSigningKeys: [{ Algorithm: 'ES256', ...further }] },
    now: later,
  });
  assert.deepEqual(
    both.logged
      .filter(({ msg }) => String(msg).startsWith('a certificate has ended'))
      .map(({ certificate }) => certificate),
    ['OidcSigningCertificate', 'FurtherSigningKeys[0]'],
  );
  await assert.rejects(
    startTestServer(t, { server: { ...settings, RefuseExpiredCertificates: true }, now: later }),
    /the certificate of OidcSigningCertificate has ended/,
  );
});

test('a key is exchanged for the next without one failed verification', async (t) => {
  const keys = makeKeys(t);
  const [first, second] = [keys.make('first'), keys.make('second')];
  const server = await startTestServer(t, {
    server: {
      OidcSigningCertificate: { ...first, PublishedCertificateFiles: [second.CertificateFile] },
      ...cookieKeys,
    },
  });
  const { issuer } = server;
  const { body: before } = await token(issuer);
  const fetchKeys = async () =>
    (await (await fetch(`${issuer}/.well-known/jwks`)).json()) as { keys: { kid: string }[] };
  // What a relying party has in its memory, from before the change.
  const { createLocalJWKSet } = await import('jose');
  const remembered = createLocalJWKSet((await fetchKeys()) as Parameters<typeof createLocalJWKSet>[0]);
  assert.equal((await fetchKeys()).keys.length, 2);
  await server.stop();

  server.write('server.json', {
    OidcSigningCertificate: { ...second, PublishedCertificateFiles: [first.CertificateFile] },
  });
  const log = createLogger({ level: 'silent', format: 'json' });
  await using again = await startServer({ configDirectory: server.configDirectory, env: {}, log });
  assert.equal(again.issuer, issuer);
  const { body: after } = await token(issuer);
  assert.notEqual(
    decodeProtectedHeader(before.access_token).kid,
    decodeProtectedHeader(after.access_token).kid,
  );
  for (const { access_token: jwt } of [before, after]) {
    await jwtVerify(jwt, remembered, { issuer });
    const introspected = await post(
      `${issuer}/connect/introspect`,
      { token: jwt },
      basic('intelligence_web_api', 'web-api-secret'),
    );
    assert.equal((introspected.body as { active?: boolean }).active, true);
  }
});
