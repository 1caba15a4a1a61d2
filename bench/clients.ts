/** The clients and resources that both Postern and the bare engine are measured with. */
import { createHash } from 'node:crypto';

export interface BenchClient {
  readonly id: string;
  readonly secret: string;
  readonly flow: 'AuthorizationCode' | 'ClientCredentials' | 'ResourceOwner';
  readonly tokens: 'Jwt' | 'Reference';
  readonly redirectUri?: string;
}

const redirectUri = 'http://localhost:5090/callback';

export const clients: readonly BenchClient[] = [
  { id: 'machine', secret: 'machine-secret', flow: 'ClientCredentials', tokens: 'Jwt' },
  { id: 'machine-ref', secret: 'machine-ref-secret', flow: 'ClientCredentials', tokens: 'Reference' },
  { id: 'web', secret: 'web-secret', flow: 'AuthorizationCode', tokens: 'Jwt', redirectUri },
  { id: 'web-ref', secret: 'web-ref-secret', flow: 'AuthorizationCode', tokens: 'Reference', redirectUri },
  { id: 'program', secret: 'program-secret', flow: 'ResourceOwner', tokens: 'Jwt' },
];

/** A resource for each algorithm. Postern finds it by its scope; the engine, by its indicator. */
export const resourceOfScope: Readonly<
  Record<string, { indicator: string; scope: string; algorithm: 'ES256' | 'RS256' }>
> = {
  api: { indicator: 'urn:bench:api', scope: 'api', algorithm: 'RS256' },
  'api-es256': { indicator: 'urn:bench:api-es256', scope: 'api-es256', algorithm: 'ES256' },
};

export const userScope = 'openid profile api offline_access';
/** Who introspects at Postern. The engine knows clients only. */
export const resourceSecret = 'resource-secret';

/** Registrations and resources of Postern, by the names of their files. */
export function toPosternFiles(): Record<string, object> {
  const hash = (secret: string) => createHash('sha256').update(secret).digest('base64');
  return {
    ...Object.fromEntries(
      clients.map(({ flow, id, redirectUri: uri, secret, tokens }) => [
        `clients/${id}.json`,
        {
          Flow: flow,
          ClientSecrets: [{ Value: hash(secret) }],
          EnableLocalLogin: true,
          AccessTokenType: tokens,
          AllowedScopes:
            flow === 'ClientCredentials'
              ? Object.keys(resourceOfScope)
              : [...userScope.split(' '), 'api-es256'],
          ...(uri === undefined
            ? undefined
            : { RedirectUris: [uri], IdentityProviderRestrictions: ['local'] }),
        },
      ]),
    ),
    // Straight to the identity provider, which is our own WsFed application.
    'clients/portal.json': {
      Flow: 'AuthorizationCode',
      ClientSecrets: [{ Value: hash('portal-secret') }],
      EnableLocalLogin: false,
      RedirectUris: [redirectUri],
      IdentityProviderRestrictions: ['IntelligenceWsFed'],
      AllowedScopes: userScope.split(' '),
    },
    ...Object.fromEntries(
      Object.values(resourceOfScope).map(({ algorithm, indicator, scope }) => [
        `resources/${scope}.json`,
        { Audience: indicator, SigningAlgorithm: algorithm, Secrets: [{ Value: hash(resourceSecret) }] },
      ]),
    ),
  };
}
