import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import { hashValue } from '../../src/store/tokens.ts';
import { basic, post } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

const desk = { client_id: 'desk', client_secret: 'desk-secret' };
const alice = { grant_type: 'password', username: 'alice', password: 'Pass-word-1' };

test('client_credentials yields a JWT for the account that is named like the client', async (t) => {
  const { issuer } = await startTestServer(t);
  const { status, body, headers } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials', scope: 'intelligence_web_api' },
    basic('batch', 'batch-secret'),
  );
  assert.equal(status, 200);
  assert.equal(headers.get('cache-control'), 'no-store');
  assert.equal(body.token_type, 'Bearer');
  assert.equal(body.refresh_token, undefined);
  const { exp: _e, nbf: _n, ...claims } = decodeJwt(body.access_token);
  assert.deepEqual(claims, {
    iss: issuer,
    aud: `${issuer}/resources`,
    client_id: 'batch',
    scope: 'intelligence_web_api',
    sub: 'batch',
  });
});

test('client_credentials of a client without an account has no subject', async (t) => {
  const server = await startTestServer(t, { clients: { batch: { ClientCredentialsSubject: 'None' } } });
  const { body } = await post(`${server.issuer}/connect/token`, {
    grant_type: 'client_credentials',
    scope: 'intelligence_web_api',
    client_id: 'batch',
    client_secret: 'batch-secret',
  });
  assert.equal(decodeJwt(body.access_token).sub, undefined);
});

test('two JWTs for one client in one second differ', async (t) => {
  const { issuer } = await startTestServer(t);
  const call = () =>
    post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
  const tokens = await Promise.all([call(), call(), call()]);
  assert.equal(new Set(tokens.map(({ body }) => body.access_token)).size, 3);
});

test('a client with reference tokens gets one without a dot', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials', scope: 'intelligence_web_api' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  assert.match(body.access_token, /^[\w-]{40,}$/);
  assert.equal(body.expires_in, 3600);
});

test('a request with a parameter that nobody knows gets the same as one without', async (t) => {
  const told = { IncludeJwtId: true, Claims: [{ Type: 'site', Value: 'north' }] };
  const server = await startTestServer(t, { clients: { batch: told, 'batch-ref': told } });
  const { context, issuer } = server;
  const recorded = () =>
    server.logged
      .filter(({ msg }) => msg === 'token issued')
      .map(({ requestId: _r, time: _t, ...fields }) => fields);
  const shapeOf = (token: string) => {
    if (!token.includes('.')) return undefined;
    const { exp, nbf, iat, jti, ...claims } = decodeJwt(token);
    const { pst, ...header } = decodeProtectedHeader(token) as Record<string, unknown>;
    return [typeof exp, typeof nbf, typeof iat, typeof jti, claims, String(pst).length, header];
  };
  for (const clientId of ['batch', 'batch-ref']) {
    const ways = [{}, { somebody: 'else' }, { client_id: clientId, client_secret: `${clientId}-secret` }];
    const answers = [];
    for (const way of ways) {
      const { body, headers, status } = await post(
        `${issuer}/connect/token`,
        { grant_type: 'client_credentials', scope: 'intelligence_web_api', ...way },
        'client_secret' in way ? {} : basic(clientId, `${clientId}-secret`),
      );
      const { access_token: token, ...rest } = body;
      const [row] = await context.db.knex('OidcToken').where({ id: hashValue(token) });
      const { id: _i, payload, ...columns } = row ?? { payload: 'null' };
      const { extra, iat: _iat, ...members } = JSON.parse(payload) ?? {};
      const sent = ['cache-control', 'content-type', 'content-security-policy'].map((name) =>
        headers.get(name),
      );
      answers.push([
        status,
        rest,
        sent,
        shapeOf(token),
        columns,
        members,
        extra && { ...extra, tokenId: '' },
      ]);
    }
    const [plain, ...others] = answers;
    for (const other of others) assert.deepEqual(other, plain);
    const records = recorded().filter((one) => one.clientId === clientId);
    assert.equal(records.length, ways.length);
    for (const record of records) assert.deepEqual(record, records[0]);
  }
});

test('a direct call without scopes gets those of its client', async (t) => {
  const { issuer } = await startTestServer(t);
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  assert.equal(body.scope, 'intelligence_web_api');
});

test('an unknown scope and one that the client may not have are refused by name', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const scope of ['nonsense', 'mi', 'intelligence_web_api nonsense', 'openid']) {
    const { status, body } = await post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials', scope },
      basic('batch', 'batch-secret'),
    );
    assert.equal(status, 400, scope);
    assert.equal(body.error, 'invalid_scope', scope);
    assert.equal(body.access_token, undefined);
  }
});

test('the password grant yields access, refresh and ID token', async (t) => {
  const { issuer } = await startTestServer(t);
  const { status, body } = await post(`${issuer}/connect/token`, {
    ...desk,
    ...alice,
    scope: 'openid profile intelligence_web_api offline_access',
  });
  assert.equal(status, 200, JSON.stringify(body));
  const claims = decodeJwt(body.access_token);
  assert.equal(claims.sub, 'alice');
  assert.deepEqual(claims.amr, ['password']);
  assert.equal(claims.idp, 'idsrv');
  const idToken = decodeJwt(body.id_token);
  assert.deepEqual([idToken.sub, idToken.aud, idToken.idp, idToken.amr], ['alice', 'desk', 'local', ['pwd']]);

  const refreshed = await post(`${issuer}/connect/token`, {
    ...desk,
    grant_type: 'refresh_token',
    refresh_token: body.refresh_token,
  });
  assert.equal(refreshed.status, 200, JSON.stringify(refreshed.body));
  assert.equal(decodeJwt(refreshed.body.access_token).sub, 'alice');
  assert.deepEqual(decodeJwt(refreshed.body.access_token).amr, ['password']);
});

test('a wrong password, an unknown name and a disabled account are answered alike', async (t) => {
  const server = await startTestServer(t);
  await server.context.accounts.setDisabled('bob', true);
  const answers = await Promise.all(
    [
      { username: 'alice', password: 'wrong' },
      { username: 'nobody', password: 'Pass-word-1' },
      { username: 'bob', password: 'Pass-word-1' },
      { username: 'EXAMPLE\\carol', password: '' },
      { username: 'EXAMPLE\\carol', password: 'x' },
      { username: 'batch', password: 'x' },
    ].map((credentials) =>
      post(`${server.issuer}/connect/token`, { ...desk, grant_type: 'password', ...credentials }),
    ),
  );
  for (const { status, body } of answers) {
    assert.equal(status, 400);
    assert.ok(body.error === 'invalid_grant' || body.error === 'invalid_request');
  }
  const [first, second, third] = answers.map(({ body }) => body);
  assert.deepEqual(first, second);
  assert.deepEqual(first, third);
  assert.equal(first?.error_description, 'invalid_username_or_password');
});

test('the account of a client signs nobody in, even if it is given a password', async (t) => {
  const server = await startTestServer(t);
  await server.context.accounts.setPassword('batch', 'Pass-word-1', { mustChange: false });
  const { body } = await post(`${server.issuer}/connect/token`, {
    ...desk,
    grant_type: 'password',
    username: 'batch',
    password: 'Pass-word-1',
  });
  assert.equal(body.error, 'invalid_grant');
});

test('an account that must change its password gets no token for it', async (t) => {
  const server = await startTestServer(t);
  await server.context.accounts.setPassword('alice', 'Pass-word-2', { mustChange: true });
  const { body } = await post(`${server.issuer}/connect/token`, {
    ...desk,
    ...alice,
    password: 'Pass-word-2',
  });
  assert.deepEqual(body, { error: 'invalid_grant', error_description: 'password_must_be_changed' });
});

test('a grant type that is not the client’s is unauthorized_client, an unknown one unsupported_grant_type', async (t) => {
  const { issuer } = await startTestServer(t);
  const call = (grantType: string) =>
    post(`${issuer}/connect/token`, { ...alice, grant_type: grantType }, basic('batch', 'batch-secret'));
  assert.equal((await call('password')).body.error, 'unauthorized_client');
  assert.equal((await call('authorization_code')).body.error, 'unauthorized_client');
  assert.equal((await call('magic')).body.error, 'unsupported_grant_type');
});

test('a client authenticates in Basic or in the body, with any of its secrets that has not ended', async (t) => {
  const { createHash } = await import('node:crypto');
  const hash = (secret: string, algorithm = 'sha256') =>
    createHash(algorithm).update(secret).digest('base64');
  const { issuer } = await startTestServer(t, {
    clients: {
      batch: {
        ClientSecrets: [
          { Value: hash('first') },
          { Value: hash('second', 'sha512') },
          { Value: hash('ended'), Expiration: '2020-01-01T00:00:00Z' },
          { Value: hash('a+b%c/=&?') },
        ],
      },
    },
  });
  const fields = { grant_type: 'client_credentials' };
  const inBasic = (secret: string) => post(`${issuer}/connect/token`, fields, basic('batch', secret));
  const inBody = (secret: string) =>
    post(`${issuer}/connect/token`, { ...fields, client_id: 'batch', client_secret: secret });

  for (const secret of ['first', 'second', 'a+b%c/=&?', encodeURIComponent('a+b%c/=&?')]) {
    assert.equal((await inBasic(secret)).status, 200, secret);
  }
  for (const secret of ['first', 'second', 'a+b%c/=&?'])
    assert.equal((await inBody(secret)).status, 200, secret);
  for (const secret of ['ended', 'wrong', hash('first'), 'a b%c/=&?']) {
    for (const answer of [await inBasic(secret), await inBody(secret)]) {
      assert.ok(answer.status === 401 || answer.status === 400, secret);
      assert.match(String(answer.body.error), /^invalid_(client|request)$/);
    }
  }
});

test('a disabled client is refused', async (t) => {
  const { issuer } = await startTestServer(t, { clients: { batch: { Enabled: false } } });
  const { status, body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  assert.equal(status, 401);
  assert.equal(body.error, 'invalid_client');
});

test('a token for two resources needs one audience', async (t) => {
  const clients = { batch: { AllowedScopes: ['intelligence_web_api', 'mi', 'reports'] } };
  const { issuer } = await startTestServer(t, {
    clients,
    resources: { reports: { TokenLayout: 'IdentityServer3' } },
  });
  const call = (scope: string) =>
    post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials', scope },
      basic('batch', 'batch-secret'),
    );
  assert.equal((await call('intelligence_web_api mi')).body.error, 'invalid_scope');
  const both = await call('intelligence_web_api reports');
  assert.deepEqual(decodeJwt(both.body.access_token).scope, ['intelligence_web_api', 'reports']);
});

test('a resource with the layout of RFC 9068 gets exactly that', async (t) => {
  const { issuer } = await startTestServer(t, {
    clients: { batch: { AllowedScopes: ['reports.read', 'reports.write'] } },
    resources: {
      reports: {
        TokenLayout: 'Rfc9068',
        Audience: 'https://reports.example',
        Scopes: [{ Name: 'reports.read' }, { Name: 'reports.write' }],
      },
    },
  });
  const { body } = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch', 'batch-secret'),
  );
  const { iat, exp, jti, ...claims } = decodeJwt(body.access_token);
  assert.deepEqual(claims, {
    iss: issuer,
    aud: 'https://reports.example',
    sub: 'batch',
    client_id: 'batch',
    scope: 'reports.read reports.write',
  });
  assert.ok(Number(exp) > Number(iat) && String(jti).length > 10);
  assert.equal(decodeProtectedHeader(body.access_token).typ, 'at+jwt');
});

test('a call by a resource indicator gets no further than by its scopes', async (t) => {
  const { issuer } = await startTestServer(t);
  for (const resource of ['urn:postern:resource:mi', 'urn:postern:resource:', 'https://elsewhere.example']) {
    const { status, body } = await post(
      `${issuer}/connect/token`,
      { grant_type: 'client_credentials', scope: 'mi', resource },
      basic('batch', 'batch-secret'),
    );
    assert.equal(status, 400, resource);
    assert.match(String(body.error), /invalid_(scope|target)/);
    const inAddress = await post(
      `${issuer}/connect/token?resource=${encodeURIComponent(resource)}`,
      { grant_type: 'client_credentials' },
      basic('batch', 'batch-secret'),
    );
    assert.deepEqual([inAddress.status, inAddress.body.error], [400, 'invalid_target'], resource);
  }
});
