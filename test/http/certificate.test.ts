import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createRemoteJWKSet, decodeProtectedHeader, importX509, jwtVerify } from 'jose';
import { basic, post } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

// A key and its certificate that sign nothing but these tests.
const fixture = (name: string) => join(import.meta.dirname, '../fixtures', name);

test('a key with a certificate is named by its thumbprint in tokens and in the key set, as IdentityServer3 did', async (t) => {
  const { issuer } = await startTestServer(t, {
    server: {
      OidcSigningCertificate: {
        KeyFile: fixture('signing-key.pem'),
        CertificateFile: fixture('signing-certificate.pem'),
      },
      CookieKeys: [{ plain: 'a cookie key of thirty-two characters' }],
    },
  });
  const pem = readFileSync(fixture('signing-certificate.pem'), 'utf8');
  const { raw } = new X509Certificate(pem);
  const x5t = createHash('sha1').update(raw).digest('base64url');

  for (const path of ['/.well-known/jwks', '/.well-known/openid-configuration/jwks']) {
    const { keys } = (await (await fetch(issuer + path)).json()) as { keys: Record<string, unknown>[] };
    assert.equal(keys.length, 1);
    const { kty, use, kid, x5t: printed, x5c, d } = keys[0] ?? {};
    assert.deepEqual(
      [kty, use, kid, printed, x5c, d],
      ['RSA', 'sig', x5t, x5t, [raw.toString('base64')], undefined],
    );
  }

  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  const header = decodeProtectedHeader(body.access_token);
  assert.deepEqual([header.alg, header.typ, header.kid, header.x5t], ['RS256', 'JWT', x5t, x5t]);
  const expected = { issuer, audience: `${issuer}/resources` };
  await jwtVerify(body.access_token, await importX509(pem, 'RS256'), expected);
  await jwtVerify(body.access_token, createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks`)), expected);
});
