/**
 * The documents that clients read first, written once for each configuration: OpenID Connect Discovery 1.0 and
 * the JWK Set. The engine prints no `x5t`, and lists no scope that belongs to a resource.
 */
import { identityScopes, isFrontChannelFlow, offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import { responseTypesOf } from '../registry/client-metadata.ts';
import { routes } from './provider.ts';

/** The discovery document of the configuration in force (OpenID Connect Discovery 1.0 section 3). */
export function discoveryDocument({
  keys,
  registry,
}: Pick<ServerContext, 'keys' | 'registry'>): Record<string, unknown> {
  const { server, clients, languages, resources } = registry.configuration;
  const issuer = server.PublicUrl;
  const enabled = [...clients.values()].filter(({ Enabled }) => Enabled);
  const flows = new Set(enabled.map(({ Flow }) => Flow));
  const resourceScopes = [...resources.values()]
    .filter(({ Enabled }) => Enabled)
    .flatMap(({ Scopes }) => Scopes.filter((scope) => scope.ShowInDiscoveryDocument).map(({ Name }) => Name));
  return {
    issuer,
    jwks_uri: issuer + routes.jwks,
    authorization_endpoint: issuer + routes.authorization,
    token_endpoint: issuer + routes.token,
    userinfo_endpoint: issuer + routes.userinfo,
    end_session_endpoint: issuer + routes.end_session,
    revocation_endpoint: issuer + routes.revocation,
    introspection_endpoint: issuer + routes.introspection,
    scopes_supported: [...Object.keys(identityScopes), offlineAccess, ...resourceScopes],
    claims_supported: [
      ...new Set([
        'sub',
        'auth_time',
        'idp',
        'amr',
        ...Object.values(identityScopes).flatMap(({ claims }) => claims),
      ]),
    ],
    response_types_supported: [...new Set(enabled.flatMap(responseTypesOf))].sort(),
    response_modes_supported: ['query', 'fragment', 'form_post'],
    grant_types_supported: [
      'authorization_code',
      'refresh_token',
      'client_credentials',
      // Named only where a client has it: nobody should start to use it (RFC 9700 section 2.4).
      ...(flows.has('ResourceOwner') ? ['password'] : []),
      ...([...flows].some(isFrontChannelFlow) ? ['implicit'] : []),
    ],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: [...keys.algorithms],
    code_challenge_methods_supported: ['S256'],
    token_endpoint_auth_methods_supported: ['client_secret_basic', 'client_secret_post', 'none'],
    revocation_endpoint_auth_methods_supported: ['client_secret_basic', 'client_secret_post', 'none'],
    introspection_endpoint_auth_methods_supported: ['client_secret_basic', 'client_secret_post'],
    introspection_signing_alg_values_supported: ['RS256'],
    authorization_response_iss_parameter_supported: true,
    frontchannel_logout_supported: true,
    frontchannel_logout_session_supported: true,
    backchannel_logout_supported: true,
    backchannel_logout_session_supported: true,
    ui_locales_supported: [...languages.keys()],
    claims_parameter_supported: false,
    request_parameter_supported: false,
    request_uri_parameter_supported: false,
  };
}
