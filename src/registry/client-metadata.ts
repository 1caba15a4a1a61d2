/** From a registration in DPM's names to OpenID client metadata: the only place where the two meet. */
import { randomBytes } from 'node:crypto';
import type { AllClientMetadata, ResponseType } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import { isInteractiveFlow, offlineAccess } from '../config/schema.ts';
import { nameOf, type Texts } from '../languages/languages.ts';

const grantTypes = {
  AuthorizationCode: ['authorization_code'],
  AuthorizationCodeWithProofKey: ['authorization_code'],
  ResourceOwner: ['password'],
  ClientCredentials: ['client_credentials'],
  Implicit: ['implicit'],
  Hybrid: ['authorization_code', 'implicit'],
  HybridWithProofKey: ['authorization_code', 'implicit'],
} as const satisfies Record<Client['Flow'], readonly string[]>;

const hybridResponses = {
  plain: ['code id_token'],
  withToken: ['code token', 'code id_token token'],
} as const;

/** The response types of each flow, and those that put an access token into the browser's address. */
const responseTypes = {
  AuthorizationCode: { plain: ['code'], withToken: [] },
  AuthorizationCodeWithProofKey: { plain: ['code'], withToken: [] },
  ResourceOwner: { plain: [], withToken: [] },
  ClientCredentials: { plain: [], withToken: [] },
  Implicit: { plain: ['id_token'], withToken: ['id_token token'] },
  Hybrid: hybridResponses,
  HybridWithProofKey: hybridResponses,
} as const satisfies Record<Client['Flow'], Record<'plain' | 'withToken', readonly ResponseType[]>>;

/** What a client may ask for in `response_type`. */
export function responseTypesOf({
  AllowAccessTokensViaBrowser,
  Flow,
}: Pick<Client, 'AllowAccessTokensViaBrowser' | 'Flow'>): ResponseType[] {
  const { plain, withToken } = responseTypes[Flow];
  return [...plain, ...(AllowAccessTokensViaBrowser ? withToken : [])];
}

/** The path under which everything is served: that of the public URL, without a slash at its end. */
export function basePathOf(publicUrl: string): string {
  return new URL(publicUrl).pathname.replace(/\/$/, '');
}

/** Flows in which a browser carries the user here and back. */
export function isInteractive({ Flow }: Pick<Client, 'Flow'>): boolean {
  return isInteractiveFlow(Flow);
}

/** A client without a secret: anyone can claim to be it, so only its redirect URIs and PKCE protect it. */
export function isPublic({ ClientSecrets }: Pick<Client, 'ClientSecrets'>): boolean {
  return ClientSecrets.length === 0;
}

/** The grant types that a client may use, in OAuth's names. */
export function grantTypesOf(client: Client): string[] {
  const mayRefresh =
    client.Flow !== 'ClientCredentials' &&
    client.Flow !== 'Implicit' &&
    client.AllowedScopes.includes(offlineAccess);
  return [
    ...grantTypes[client.Flow],
    ...(mayRefresh ? ['refresh_token'] : []),
    // Without a secret anyone could be the client.
    ...(client.AllowClientCredentialsOnly && client.Flow !== 'ClientCredentials' && !isPublic(client)
      ? ['client_credentials']
      : []),
  ];
}

/**
 * Translates a registration into the metadata that the engine checks and uses. Pure but for the engine's
 * `client_secret`, which its schema demands: an unguessable dummy, since secrets are compared by us as hashes.
 */
export function toClientMetadata(client: Client): AllClientMetadata & { client_id: string } {
  return {
    client_id: client.ClientId,
    client_name: client.ClientName,
    application_type: client.ApplicationType === 'Native' ? 'native' : 'web',
    grant_types: grantTypesOf(client),
    response_types: responseTypesOf(client),
    redirect_uris: isInteractive(client) ? [...client.RedirectUris] : [],
    post_logout_redirect_uris: [...client.PostLogoutRedirectUris],
    id_token_signed_response_alg: client.IdTokenSigningAlgorithm,
    ...(client.BackChannelLogoutUri === undefined
      ? undefined
      : {
          backchannel_logout_uri: client.BackChannelLogoutUri,
          backchannel_logout_session_required: client.BackChannelLogoutSessionRequired,
        }),
    ...(isPublic(client)
      ? { token_endpoint_auth_method: 'none' }
      : {
          token_endpoint_auth_method: 'client_secret_basic',
          client_secret: randomBytes(32).toString('base64url'),
        }),
  };
}

/** A client as pages speak of it: its name in their language, and the way back to it. Nothing where there is none. */
export function describeClient(client: Client | undefined, { names }: Pick<Texts, 'names'>) {
  if (client === undefined) return { clientName: undefined, backUrl: undefined };
  const { ClientId, ClientName } = client;
  return { clientName: nameOf(names.clients, ClientId) ?? ClientName, backUrl: findWayBack(client) };
}

/**
 * Where a person finds the client again: its `ClientUri`, else the origin of its first redirect URI on the web.
 * Native clients have no address.
 */
export function findWayBack({ ApplicationType, ClientUri, RedirectUris }: Client): string | undefined {
  if (ClientUri !== undefined) return ClientUri;
  if (ApplicationType === 'Native') return undefined;
  const [first] = RedirectUris.filter((uri: string) => /^https?:/i.test(uri));
  return first === undefined ? undefined : new URL('/', first).href;
}
