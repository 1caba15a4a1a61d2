/** What is weaker than it should be, for old clients, is named by `check-config` with what ends it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfiguration } from '../../src/config/load.ts';
import { install } from '../commands/postern.ts';
import { prepareConfiguration, type TestServerOptions } from '../support/start-server.ts';

const secret = [{ Value: { plain: 'a-secret' } }];
const old = (more: object) => ({
  clients: {
    old: {
      EnableLocalLogin: true,
      AllowedScopes: ['openid'],
      RedirectUris: ['http://localhost:1/'],
      ...more,
    },
  },
});
const pkce = { Flow: 'AuthorizationCodeWithProofKey' };
const offline = { AllowedScopes: ['openid', 'offline_access'] };

/** Each deviation: what sets it, and the same without it. */
const deviations: Record<string, [weak: TestServerOptions, strong: TestServerOptions]> = {
  Flow: [old({ Flow: 'ResourceOwner', ClientSecrets: secret, RedirectUris: [] }), old(pkce)],
  AllowAccessTokensViaBrowser: [
    old({ Flow: 'Hybrid', ClientSecrets: secret, AllowAccessTokensViaBrowser: true }),
    old({ Flow: 'Hybrid', ClientSecrets: secret, AllowAccessTokensViaBrowser: false }),
  ],
  RedirectUris: [
    old({ Flow: 'Implicit', AllowAccessTokensViaBrowser: false, RedirectUris: ['http://app.example/'] }),
    old({ ...pkce, RedirectUris: ['https://app.example/'] }),
  ],
  AbsoluteRefreshTokenLifetime: [
    old({ ...pkce, ...offline, RefreshTokenExpiration: 'Sliding', AbsoluteRefreshTokenLifetime: 0 }),
    old({ ...pkce, ...offline, RefreshTokenExpiration: 'Sliding' }),
  ],
  RequirePkce: [old({ ...pkce, RequirePkce: false }), old({ ...pkce, RequirePkce: true })],
  RefreshTokenUsage: [
    old({ ...pkce, ...offline, RefreshTokenUsage: 'ReUse' }),
    old({ ...pkce, ...offline, RefreshTokenUsage: 'OneTimeOnly' }),
  ],
  AuthorizationCodeLifetime: [
    old({ ...pkce, AuthorizationCodeLifetime: 601 }),
    old({ ...pkce, AuthorizationCodeLifetime: 600 }),
  ],
  ClientCredentialsSubject: [
    old({
      Flow: 'ClientCredentials',
      ClientSecrets: secret,
      AllowedScopes: [],
      RedirectUris: [],
      ClientCredentialsSubject: 'Account',
    }),
    old({ Flow: 'ClientCredentials', ClientSecrets: secret, AllowedScopes: [], RedirectUris: [] }),
  ],
  EnableTokenValidationEndpoints: [{ server: { EnableTokenValidationEndpoints: true } }, {}],
  AllowUnrestrictedIntrospection: [
    { resources: { old: { AllowUnrestrictedIntrospection: true } } },
    { resources: { old: {} } },
  ],
  UsePkce: [
    {
      providers: {
        old: {
          Type: 'Oidc',
          Authority: 'https://idp.example',
          ClientId: 'c',
          UserNameClaims: ['sub'],
          UsePkce: false,
        },
      },
    },
    {
      providers: {
        old: { Type: 'Oidc', Authority: 'https://idp.example', ClientId: 'c', UserNameClaims: ['sub'] },
      },
    },
  ],
  RequireHttpsMetadata: [
    {
      providers: {
        old: {
          Type: 'Oidc',
          Authority: 'http://idp.example',
          ClientId: 'c',
          UserNameClaims: ['sub'],
          RequireHttpsMetadata: false,
        },
      },
    },
    {
      providers: {
        old: { Type: 'Oidc', Authority: 'https://idp.example', ClientId: 'c', UserNameClaims: ['sub'] },
      },
    },
  ],
  AllowSha1: [
    { providers: { old: { Type: 'WsFed', MetadataAddress: 'https://idp.example/m', AllowSha1: true } } },
    { providers: { old: { Type: 'WsFed', MetadataAddress: 'https://idp.example/m' } } },
  ],
  AllowCbc: [
    { providers: { old: { Type: 'WsFed', MetadataAddress: 'https://idp.example/m', AllowCbc: true } } },
    { providers: { old: { Type: 'WsFed', MetadataAddress: 'https://idp.example/m' } } },
  ],
};

for (const [property, [weak, strong]] of Object.entries(deviations)) {
  test(`the deviation ${property} is named with whose it is, the requirement and what ends it, and only where it is`, async (t) => {
    const namesOf = async (options: TestServerOptions) => {
      const { configDirectory } = await prepareConfiguration(t, options);
      const loaded = await loadConfiguration(configDirectory, { env: {} });
      return loaded.deviations.filter(({ file }) => /(old|server)\.json$/.test(file));
    };
    const [found, ...others] = await namesOf(weak);
    const path = property === 'AllowAccessTokensViaBrowser' ? 'Flow' : property;
    const all = [found, ...others].map((one) => one?.path);
    assert.ok(all.includes(path), `${all}`);
    for (const one of [found, ...others]) {
      assert.match(one?.message ?? '', /^(old|whoever) /);
      assert.match(one?.hint ?? '', /\w/);
    }
    assert.deepEqual(
      (await namesOf(strong)).map((one) => one.path),
      [],
    );
  });
}

test('docs/security.md has a row for each deviation, and check-config prints what it says', async (t) => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/security.md'), 'utf8');
  const section = /## What old clients need\n([\s\S]*?)\n## /.exec(text)?.[1] ?? '';
  const rows = [...section.matchAll(/^\| `([A-Za-z0-9]+)`/gm)].map(([, name]) => name);
  assert.deepEqual(rows.sort(), Object.keys(deviations).sort());
  const installation = await install(t, { server: { EnableTokenValidationEndpoints: true } });
  const { code, stdout } = await installation.run(['check-config']);
  assert.equal(code, 0);
  for (const property of ['EnableTokenValidationEndpoints', 'ClientCredentialsSubject', 'RefreshTokenUsage'])
    assert.match(stdout, new RegExp(property));
});
