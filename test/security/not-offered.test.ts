/**
 * What Postern does not offer it does not offer at all: nothing in the metadata, nothing at the address, and a
 * parameter that asks for it is refused, or has no effect. docs/security.md says why of each.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { decodeJwt, generateKeyPair, SignJWT } from 'jose';
import { loadConfiguration } from '../../src/config/load.ts';
import type { ConfigurationError } from '../../src/errors.ts';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post } from '../support/sign-in.ts';
import { prepareConfiguration, startTestServer, type TestServer } from '../support/start-server.ts';

const good = {
  client_id: 'mvc',
  redirect_uri: mvc.redirectUri,
  response_type: 'code',
  scope: 'openid',
  state: 's',
};

/** What an authorization request with these parameters beside good ones is answered with. */
async function ask({ issuer }: TestServer, parameters: Record<string, string>) {
  const page = await createBrowser().request(
    `${issuer}/connect/authorize?${new URLSearchParams({ ...good, ...parameters })}`,
  );
  const { search = '', hash = '' } = page.location ?? {};
  const answer = new URLSearchParams(search || hash.slice(1));
  return { error: answer.get('error'), isAsked: /\/login\//.test(page.location?.pathname ?? ''), page };
}

/** A server that nobody should call. */
async function startListener(t: TestContext) {
  const calls: string[] = [];
  const listener = createServer((request, response) => {
    calls.push(request.url ?? '');
    response.end('{}');
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  t.after(() => listener.close());
  return { url: `http://localhost:${(listener.address() as AddressInfo).port}`, calls };
}

test('the discovery document promises nothing that is not there', async (t) => {
  const { issuer } = await startTestServer(t);
  const document = (await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()) as Record<
    string,
    unknown
  >;
  const promised = Object.keys(document).filter((name) =>
    /pushed|registration|device|ciba|backchannel_(auth|token|user)|dpop|mtls|tls_client|check_session|request_object|encryption|authorization_details|authorization_signing|federation|credential|signed_metadata/.test(
      name,
    ),
  );
  assert.deepEqual(promised, []);
  assert.deepEqual(document.response_modes_supported, ['query', 'fragment', 'form_post']);
  assert.deepEqual(document.code_challenge_methods_supported, ['S256']);
  assert.deepEqual(document.response_types_supported, ['code'], 'no client has another');
  assert.deepEqual(document.grant_types_supported, [
    'authorization_code',
    'refresh_token',
    'client_credentials',
    'password',
  ]);
  for (const name of ['claims_parameter', 'request_parameter', 'request_uri_parameter'])
    assert.equal(document[`${name}_supported`], false);
});

test('at the addresses of what is not offered there is nothing, by GET or POST', async (t) => {
  const { issuer } = await startTestServer(t);
  const paths = [
    // As they are called elsewhere, by IdentityServer and by the engine.
    ...['/connect/par', '/request', '/connect/register', '/connect/dcr', '/reg', '/reg/mvc', '/connect/ciba'],
    ...['/backchannel', '/connect/deviceauthorization', '/device', '/device/auth', '/connect/checksession'],
    ...['/session/check', '/connect/endsessioncallback', '/connect/endsession/callback', '/connect/consent'],
    ...['/auth', '/token', '/me', '/jwks', '/token/introspection', '/token/revocation', '/session/end'],
    ...['/interaction/x', '/credential', '/challenge', '/csp/report', '/connect/switch', '/permissions'],
    ...['/.well-known/openid-federation', '/.well-known/webfinger', '/.well-known/openid-credential-issuer'],
    ...['/connect/accesstokenvalidation', '/connect/identitytokenvalidation'],
  ];
  for (const path of paths) {
    for (const method of ['GET', 'POST']) {
      const response = await fetch(issuer + path, { method, redirect: 'manual' });
      assert.equal(response.status, 404, `${method} ${path}`);
    }
  }
});

test('grant types of other specifications are unknown: device, CIBA, token exchange, assertions', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const grantType of [
    'urn:ietf:params:oauth:grant-type:device_code',
    'urn:openid:params:grant-type:ciba',
    'urn:ietf:params:oauth:grant-type:token-exchange',
    'urn:ietf:params:oauth:grant-type:jwt-bearer',
    'urn:ietf:params:oauth:grant-type:saml2-bearer',
    'urn:ietf:params:oauth:grant-type:pre-authorized_code',
    'implicit',
    'delegation',
    '__proto__',
    'constructor',
  ]) {
    for (const [id, secret] of [
      ['mvc', 'mvc-secret'],
      ['batch', 'batch-secret'],
    ] as const) {
      const { status, body } = await post(
        `${issuer}/connect/token`,
        {
          ...{ grant_type: grantType, device_code: 'x', auth_req_id: 'x', assertion: 'x.y.z' },
          ...{ subject_token: 'x', subject_token_type: 'urn:ietf:params:oauth:token-type:access_token' },
        },
        basic(id, secret),
      );
      assert.equal(status, 400, grantType);
      assert.match(body.error ?? '', /^(unsupported_grant_type|unauthorized_client)$/, grantType);
    }
  }
});

test('request objects are refused, and a request_uri is never fetched (CVE row 6: SSRF)', async (t) => {
  const server = await startTestServer(t);
  const { url, calls } = await startListener(t);
  assert.equal((await ask(server, { request: 'eyJhbGciOiJub25lIn0.e30.' })).error, 'request_not_supported');
  for (const target of [`${url}/request`, 'http://169.254.169.254/latest/meta-data', 'file:///etc/passwd']) {
    assert.equal((await ask(server, { request_uri: target })).error, 'request_uri_not_supported');
  }
  assert.equal((await ask(server, { registration: '{}' })).error, 'registration_not_supported');
  // Nor is anything else that an anonymous caller names.
  for (const name of ['jwks_uri', 'sector_identifier_uri', 'logo_uri', 'client_uri', 'initiate_login_uri']) {
    await ask(server, { [name]: `${url}/${name}` });
    await ask(server, { client_id: `${url}/${name}`, [name]: url });
  }
  assert.deepEqual(calls, []);
});

test('response modes are three: web_message and those of JARM are refused (RFC 9700 section 4.17)', async (t) => {
  const server = await startTestServer(t);
  for (const mode of ['web_message', 'jwt', 'query.jwt', 'fragment.jwt', 'form_post.jwt', 'magic']) {
    const { error, isAsked, page } = await ask(server, { response_mode: mode });
    assert.equal(isAsked, false, mode);
    assert.ok(
      error === 'unsupported_response_mode' || page.status === 400,
      `${mode}: ${error} ${page.status}`,
    );
  }
});

test('response types that give tokens out in the front channel are refused of a client that has not opted in (ASVS 10.6.1)', async (t) => {
  const server = await startTestServer(t);
  for (const type of [
    'token',
    'id_token',
    'id_token token',
    'code id_token',
    'code token',
    'code id_token token',
    'none',
  ]) {
    const { error, isAsked } = await ask(server, { response_type: type, nonce: 'n' });
    assert.equal(isAsked, false, type);
    assert.match(error ?? '', /^(unsupported_response_type|unauthorized_client|invalid_request)$/, type);
  }
});

test('claims, authorization_details and dpop_jkt change nothing of what is asked for', async (t) => {
  const server = await startTestServer(t);
  const more = {
    claims: '{"id_token":{"email":{"essential":true}}}',
    authorization_details: '[{"type":"payment"}]',
    dpop_jkt: 'x'.repeat(43),
    acr_values: 'urn:more',
  };
  const { isAsked } = await ask(server, more);
  assert.equal(isAsked, true);
  const [row] = (await server.context.db
    .knex('OidcToken')
    .where({ model: 'Interaction' })
    .select('payload')) as {
    payload: string;
  }[];
  const { params } = JSON.parse(row?.payload ?? '{}') as { params: Record<string, unknown> };
  for (const name of ['claims', 'authorization_details', 'dpop_jkt'])
    assert.equal(params[name], undefined, name);
});

test('a DPoP proof makes no DPoP token: the answer says Bearer, and nothing is bound that nobody would check', async (t) => {
  const { issuer } = await startTestServer(t);
  const { privateKey } = await generateKeyPair('ES256');
  const proof = await new SignJWT({ htm: 'POST', htu: `${issuer}/connect/token`, jti: 'x' })
    .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt' })
    .setIssuedAt()
    .sign(privateKey);
  const { body, headers } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    { ...basic('batch', 'batch-secret'), dpop: proof },
  );
  assert.equal(body.token_type, 'Bearer');
  assert.equal(headers.get('dpop-nonce'), null);
  assert.equal(decodeJwt(body.access_token).cnf, undefined);
  const asDpop = await fetch(`${issuer}/connect/userinfo`, {
    headers: { authorization: `DPoP ${body.access_token}`, dpop: proof },
  });
  assert.ok(asDpop.status >= 400);
});

test('clients prove who they are by secrets: assertions and certificates in headers prove nothing (RFC 9700 section 4.13)', async (t) => {
  const { issuer } = await startTestServer(t);
  const token = `${issuer}/connect/token`;
  const claims = { iss: 'batch', sub: 'batch', aud: issuer, jti: 'j' };
  const sign = (key: Uint8Array) =>
    new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).setExpirationTime('5m').sign(key);
  const none = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.`;
  for (const assertion of [await sign(Buffer.from('batch-secret'.padEnd(32, '\0'))), none]) {
    const { status, body } = await post(token, {
      ...{ grant_type: 'client_credentials', client_id: 'batch', client_assertion: assertion },
      client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    });
    assert.equal(status, 401);
    assert.equal(body.error, 'invalid_client');
  }
  for (const header of [
    'x-ssl-client-cert',
    'x-client-cert',
    'ssl-client-verify',
    'x-forwarded-client-cert',
    'client-cert',
  ]) {
    const { status } = await post(
      token,
      { grant_type: 'client_credentials', client_id: 'batch' },
      { [header]: header === 'ssl-client-verify' ? 'SUCCESS' : 'CN=batch' },
    );
    assert.equal(status, 401, header);
  }
});

test('a registration cannot bring addresses for us to fetch: there are no such properties (CVE row 6)', async (t) => {
  const properties = {
    ...{
      JwksUri: 'http://169.254.169.254/jwks',
      jwks_uri: 'http://10.0.0.1/',
      RequestUris: ['http://10.0.0.1/'],
    },
    SectorIdentifierUri: 'http://10.0.0.1/',
  };
  const { configDirectory } = await prepareConfiguration(t, { clients: { mvc: properties } });
  const { issues } = await loadConfiguration(configDirectory, { env: {} }).then(
    () => assert.fail('it loads'),
    (err: unknown) => err as ConfigurationError,
  );
  assert.deepEqual(issues.map(({ path }) => path).sort(), Object.keys(properties).sort());
});
