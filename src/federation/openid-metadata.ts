/** An OpenID provider as it describes itself: its metadata, checked, and its keys. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  createRemoteJWKSet,
  customFetch,
  errors,
  type JWTPayload,
  type JWTVerifyOptions,
  type JWTVerifyResult,
  jwtVerify,
} from 'jose';
import type { ServerMetadata } from 'openid-client';
import { z } from 'zod';
import { ServerError } from '../errors.ts';
import { hostOf, isLoopbackHost } from './destinations.ts';
import type { Outgoing } from './outgoing.ts';

/** What a token may be signed with: no shared secret, and never nothing. RFC 8725 section 3.1. */
const acceptedAlgorithms: readonly string[] = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  ...['ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'],
];
export const defaultClockToleranceSeconds = 60;
/** Keys are fetched again at this age, and sooner for a key that is not known, at most once in the cool-down. */
const keysFreshMs = 10 * 60_000;
const keysCooldownMs = 1_000;

/** Where a provider is, in the words of its registration. */
export interface ProviderLocation {
  readonly Name: string;
  /** The issuer, which the metadata must name too. */
  readonly Authority: string;
  /** Where the metadata is, unless at the place that the issuer implies. */
  readonly MetadataAddress?: string | undefined;
  /** False allows `http:` beyond loopback. */
  readonly RequireHttpsMetadata: boolean;
}

/** An identity provider as its registration has it; secrets are resolved. */
export interface OidcProviderSettings extends ProviderLocation {
  readonly ClientId: string;
  readonly ClientSecret?: string | undefined;
  /** `openid` is asked for in any case. */
  readonly Scope: readonly string[];
  readonly ResponseType: 'code id_token' | 'code' | 'id_token';
  /** Of `code`; the other response types come back by `form_post` always. */
  readonly ResponseMode?: 'form_post' | 'query' | undefined;
  /** Without it the first of these that the provider says it supports. */
  readonly ClientAuthentication?: 'client_secret_basic' | 'client_secret_post' | undefined;
  readonly UsePkce: boolean;
  readonly GetClaimsFromUserInfo: boolean;
  /** Default 60. */
  readonly ClockToleranceSeconds?: number | undefined;
}

/** A provider whose metadata has been read and checked. */
export interface KnownProvider {
  readonly metadata: ServerMetadata;
  /** Those of the accepted algorithms that the provider signs ID tokens with. */
  readonly algorithms: readonly string[];
  readonly keys: ReturnType<typeof createRemoteJWKSet>;
  readonly allowsHttp: boolean;
  /** Hosts that the registration itself names, which may be called at private addresses. */
  readonly trustedHosts: readonly string[];
}

/** What we rely on; openid-client's own type has the rest. */
const ProviderMetadata = z.looseObject({
  issuer: z.string().min(1),
  authorization_endpoint: z.url({ protocol: /^https?$/ }),
  token_endpoint: z.url({ protocol: /^https?$/ }).optional(),
  userinfo_endpoint: z.url({ protocol: /^https?$/ }).optional(),
  end_session_endpoint: z.url({ protocol: /^https?$/ }).optional(),
  jwks_uri: z.url({ protocol: /^https?$/ }),
  scopes_supported: z.array(z.string()).optional(),
  response_types_supported: z.array(z.string()).optional(),
  response_modes_supported: z.array(z.string()).optional(),
  id_token_signing_alg_values_supported: z.array(z.string()).default(['RS256']),
  userinfo_signing_alg_values_supported: z.array(z.string()).default([]),
  token_endpoint_auth_methods_supported: z.array(z.string()).optional(),
  code_challenge_methods_supported: z.array(z.string()).optional(),
  require_pushed_authorization_requests: z.boolean().optional(),
  pushed_authorization_request_endpoint: z.url({ protocol: /^https?$/ }).optional(),
});

/**
 * Reads a provider's metadata.
 *
 * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE: not to be had, no metadata, of another issuer than
 *   `Authority`, or of a provider that signs with nothing that we accept
 * @see OpenID Connect Discovery 1.0 section 4.3
 */
export async function loadProvider(outgoing: Outgoing, location: ProviderLocation): Promise<KnownProvider> {
  const address = metadataAddressOf(location);
  const url = parseAddress(address, location);
  const trustedHosts = [hostOf(url), hostOf(parseAddress(location.Authority, location))];
  const allowsHttp = url.protocol === 'http:' || !location.RequireHttpsMetadata;

  const parsed = ProviderMetadata.safeParse(await outgoing.getJson(address, { trustedHosts }));
  if (!parsed.success) {
    const issues = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
    throw unusable(location, `what it has at ${address} is no metadata: ${issues.join('; ')}`);
  }
  const metadata = parsed.data;
  checkIssuer(metadata.issuer, address, location);
  const insecure = Object.entries(metadata).filter(
    ([name, value]) =>
      /_endpoint$|^jwks_uri$/.test(name) &&
      /^http:/i.test(String(value)) &&
      // What came from this machine may stay on it; what came by https may not leave it.
      !(url.protocol === 'http:' && isLoopbackHost(hostOf(new URL(String(value))))),
  );
  if (location.RequireHttpsMetadata && insecure.length > 0) {
    throw unusable(
      location,
      `its metadata name ${insecure.map(([name]) => name).join(', ')} without https; on a network that you trust, RequireHttpsMetadata can be turned off`,
    );
  }
  const accepted = (offered: readonly string[]) =>
    acceptedAlgorithms.filter((algorithm) => offered.includes(algorithm));
  const algorithms = accepted(metadata.id_token_signing_alg_values_supported);
  if (algorithms.length === 0) {
    throw unusable(
      location,
      `it signs with ${metadata.id_token_signing_alg_values_supported.join(', ')} only, none of which can prove who signed`,
    );
  }

  return {
    metadata: {
      ...metadata,
      id_token_signing_alg_values_supported: [...algorithms],
      userinfo_signing_alg_values_supported: accepted(metadata.userinfo_signing_alg_values_supported),
    } as ServerMetadata,
    algorithms,
    keys: createRemoteJWKSet(new URL(metadata.jwks_uri), {
      cacheMaxAge: keysFreshMs,
      cooldownDuration: keysCooldownMs,
      [customFetch]: async (jwksUri) => Response.json(await outgoing.getJson(jwksUri, { trustedHosts })),
    }),
    allowsHttp,
    trustedHosts,
  };
}

/**
 * Verifies a token's signature by the provider's keys, and its issuer, `exp` and what `options` ask for.
 *
 * A provider may roll its keys at any time. A signature by a key that is not known, or no longer the one of
 * that name, makes us look at the keys once more: at most once a second, whoever sends how many such tokens.
 */
export async function verifySigned<Claims extends JWTPayload>(
  { keys, metadata, algorithms }: KnownProvider,
  token: string,
  options: JWTVerifyOptions,
): Promise<JWTVerifyResult<Claims>> {
  const verify = () =>
    jwtVerify<Claims>(token, keys, { ...options, issuer: metadata.issuer, algorithms: [...algorithms] });
  const mayBeOutdated = keys.coolingDown;
  try {
    return await verify();
  } catch (err) {
    const isUnknownKey = err instanceof errors.JWKSNoMatchingKey;
    const isOtherKey = err instanceof errors.JWSSignatureVerificationFailed;
    // Without a cool-down, jose has looked for an unknown key already.
    if (!isOtherKey && !(isUnknownKey && mayBeOutdated)) throw err;
    if (keys.coolingDown) await sleep(keysCooldownMs);
    if (!keys.coolingDown) await keys.reload();
    return verify();
  }
}

/** What in a provider's metadata does not fit its registration, a sentence each. */
export function findMisfits(provider: OidcProviderSettings, { metadata }: KnownProvider): string[] {
  const lacks = (list: readonly string[] | undefined, value: string) =>
    list !== undefined && !list.includes(value);
  const { ClientSecret, ClientAuthentication, GetClaimsFromUserInfo, ResponseType, Scope, UsePkce } =
    provider;
  const responseMode = ResponseType === 'code' ? provider.ResponseMode : 'form_post';
  const misfits: [boolean, string][] = [
    [
      lacks(metadata.response_types_supported, ResponseType),
      `it does not offer the ResponseType ${ResponseType}`,
    ],
    [
      responseMode !== undefined && lacks(metadata.response_modes_supported, responseMode),
      `it does not offer the response mode ${responseMode}`,
    ],
    [
      ClientSecret !== undefined &&
        ClientAuthentication !== undefined &&
        lacks(metadata.token_endpoint_auth_methods_supported, ClientAuthentication),
      `it does not offer the ClientAuthentication ${ClientAuthentication}`,
    ],
    [ResponseType !== 'id_token' && metadata.token_endpoint === undefined, 'it has no token endpoint'],
    [
      UsePkce && ResponseType !== 'id_token' && lacks(metadata.code_challenge_methods_supported, 'S256'),
      'it does not offer PKCE with S256; if it refuses the request, turn UsePkce off',
    ],
    [
      GetClaimsFromUserInfo && metadata.userinfo_endpoint === undefined,
      'GetClaimsFromUserInfo has no effect: it has no userinfo endpoint',
    ],
    [
      metadata.end_session_endpoint === undefined,
      'it cannot be told of a sign-out: it has no end_session_endpoint',
    ],
    [/^http:/i.test(metadata.issuer), 'its issuer is not https: who can listen in can sign in'],
    ...Scope.map((scope): [boolean, string] => [
      lacks(metadata.scopes_supported, scope),
      `it does not offer the scope ${scope}`,
    ]),
  ];
  return misfits.filter(([isMisfit]) => isMisfit).map(([, sentence]) => sentence);
}

/** The URL of a provider's metadata. OpenID Connect Discovery 1.0 section 4. */
export function metadataAddressOf({ Authority, MetadataAddress }: ProviderLocation): string {
  return MetadataAddress ?? `${Authority.replace(/\/$/, '')}/.well-known/openid-configuration`;
}

function parseAddress(address: string, location: ProviderLocation): URL {
  if (!URL.canParse(address)) throw unusable(location, `${address} is no URL`);
  const url = new URL(address);
  if (url.protocol === 'http:' && location.RequireHttpsMetadata && !isLoopbackHost(hostOf(url))) {
    throw unusable(
      location,
      `${address} is not https; on a network that you trust, RequireHttpsMetadata can be turned off`,
    );
  }
  return url;
}

/** Some products print their issuer with a slash that administrators leave out; no more than that may differ. */
function checkIssuer(issuer: string, address: string, location: ProviderLocation): void {
  const { Authority } = location;
  if (issuer.replace(/\/$/, '') === Authority.replace(/\/$/, '')) return;
  if (issuer.includes('{tenantid}')) {
    throw unusable(
      location,
      `${Authority} stands for the tenants of everybody, who could vouch for any name: set Authority to that of one tenant, https://login.microsoftonline.com/<tenant id>/v2.0`,
    );
  }
  const implied = metadataAddressOf({ ...location, Authority: issuer, MetadataAddress: undefined });
  throw unusable(
    location,
    `the metadata at ${address} are those of the issuer ${issuer}, but Authority is ${Authority}; if that is the provider that you mean, set Authority to ${issuer}${implied === address ? '' : ` and MetadataAddress to ${address}`}`,
  );
}

/** An error about a provider that answers, but cannot be used as it is. */
export function unusable({ Name }: Pick<ProviderLocation, 'Name'>, reason: string): ServerError {
  return new ServerError('ERR_IDENTITY_PROVIDER_UNAVAILABLE', 'the identity provider cannot be used', {
    status: 503,
    hint: `${Name}: ${reason}`,
  });
}
