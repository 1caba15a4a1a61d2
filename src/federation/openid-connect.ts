/**
 * Ours as a relying party: signing users in at an external OpenID provider (OpenID Connect Core), and hearing from
 * it that they have signed out (Back-Channel Logout 1.0).
 */
import {
  createRemoteJWKSet,
  type JWTPayload,
  errors as joseErrors,
  customFetch as joseFetch,
  jwtVerify,
} from 'jose';
import * as client from 'openid-client';
import type { OidcProvider } from '../config/load.ts';
import { isLoopback } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { createMetadataCache } from './metadata-cache.ts';
import { type Outgoing, toRequest } from './outgoing.ts';

export interface OpenIdBegin {
  readonly redirectUri: string;
  readonly state: string;
  readonly loginHint?: string | undefined;
  readonly prompt?: string | undefined;
  /** Seconds. */
  readonly maxAge?: number | undefined;
}

export interface OpenIdAnswer {
  readonly redirectUri: string;
  readonly state: string;
  /** What `begin` gave. */
  readonly keep: Readonly<Record<string, string>>;
  readonly maxAge?: number | undefined;
  /** The parameters that came back, by query or by form. */
  readonly response: URLSearchParams;
}

export interface OpenIdIdentity {
  readonly issuer: string;
  readonly subject: string;
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** Seconds since the epoch. */
  readonly authenticatedAt?: number | undefined;
  readonly methods: readonly string[];
  readonly acr?: string | undefined;
  readonly sessionId?: string | undefined;
  readonly idToken: string | undefined;
}

export type OpenIdOutcome =
  | { readonly kind: 'identified'; readonly identity: OpenIdIdentity }
  | { readonly kind: 'cancelled'; readonly reason: string };

export interface LogoutToken {
  readonly issuer: string;
  readonly subject?: string;
  readonly sessionId?: string;
  readonly tokenId: string;
  readonly expiresAt: number;
}

export type OpenIdConnect = ReturnType<typeof createOpenIdConnect>;

/** Signatures that anybody can verify; with a shared secret the provider could deny its own. */
const algorithms = [
  'RS256',
  'PS256',
  'ES256',
  'EdDSA',
  'Ed25519',
  'RS384',
  'RS512',
  'PS384',
  'PS512',
  'ES384',
  'ES512',
];

/** The error responses that are the user's doing, or the provider's wish to show a page (Core section 3.1.2.6). */
const cancellations = new Set([
  ...['access_denied', 'login_required', 'interaction_required', 'consent_required'],
  'account_selection_required',
]);

const logoutEvent = 'http://schemas.openid.net/event/backchannel-logout';

/** Makes it; every call to the provider goes through `outgoing`. */
export function createOpenIdConnect({
  outgoing,
  log,
  now,
}: {
  outgoing: Pick<Outgoing, 'fetch'>;
  log: Logger;
  now: () => number;
}) {
  const documents = createMetadataCache<client.ServerMetadata>({
    now,
    freshSeconds: 3600,
    async load(address) {
      const response = await outgoing.fetch(address, {
        trustedHosts: [new URL(address).host],
        headers: { accept: 'application/json' },
      });
      if (!response.ok) throw unavailable(`its metadata address ${address} answered ${response.status}`);
      try {
        return (await response.json()) as client.ServerMetadata;
      } catch (cause) {
        throw unavailable(`its metadata address ${address} answered with something that is no JSON`, cause);
      }
    },
  });

  /** What was made for one registration and one version of the metadata; both are exchanged, never changed. */
  const configured = new WeakMap<
    OidcProvider,
    { metadata: client.ServerMetadata; configuration: client.Configuration }
  >();

  async function configure(provider: OidcProvider): Promise<client.Configuration> {
    const metadata = await documents.get(metadataAddressOf(provider));
    const known = configured.get(provider);
    if (known?.metadata === metadata) return known.configuration;
    const configuration = toConfiguration(provider, checkMetadata(provider, metadata));
    configuration[client.customFetch] = (url, options) =>
      outgoing.fetch(url, {
        ...toRequest(options),
        trustedHosts: [new URL(provider.Authority).host, new URL(metadataAddressOf(provider)).host],
      });
    // The keys that were fetched stay good: a new document seldom means new keys.
    const jwks = known && client.getJwksCache(known.configuration);
    if (jwks !== undefined && known?.metadata.jwks_uri === metadata.jwks_uri)
      client.setJwksCache(configuration, jwks);
    configured.set(provider, { metadata, configuration });
    return configuration;
  }

  return {
    /** Where to send the browser, and what must be kept to verify the answer. */
    async begin(
      provider: OidcProvider,
      request: OpenIdBegin,
    ): Promise<{ url: string; keep: Record<string, string> }> {
      const configuration = await configure(provider);
      const nonce = client.randomNonce();
      const hasCode = provider.ResponseType.includes('code');
      const codeVerifier = provider.UsePkce && hasCode ? client.randomPKCECodeVerifier() : undefined;
      const parameters: Record<string, string | undefined> = {
        redirect_uri: request.redirectUri,
        scope: provider.Scope.join(' '),
        state: request.state,
        nonce,
        response_mode: responseModeOf(provider),
        code_challenge: codeVerifier && (await client.calculatePKCECodeChallenge(codeVerifier)),
        code_challenge_method: codeVerifier && 'S256',
        login_hint: request.loginHint,
        prompt: request.prompt,
        max_age: request.maxAge?.toString(),
      };
      const defined = Object.entries(parameters).filter(
        (entry): entry is [string, string] => entry[1] !== undefined,
      );
      const url = client.buildAuthorizationUrl(configuration, Object.fromEntries(defined));
      return { url: url.href, keep: { nonce, ...(codeVerifier && { codeVerifier }) } };
    },

    /**
     * What the answer proves: state, `iss` (RFC 9207), nonce, PKCE, the ID token with its signature, audience and
     * times, and that userinfo is about the same user.
     *
     * @throws {ServerError} ERR_IDENTITY_PROVIDER_ANSWER_INVALID (400) or ERR_IDENTITY_PROVIDER_UNAVAILABLE (503)
     */
    async verify(provider: OidcProvider, answer: OpenIdAnswer): Promise<OpenIdOutcome> {
      const { keep, maxAge, redirectUri, response, state } = answer;
      const configuration = await configure(provider);
      const callback = toCallback(redirectUri, response, responseModeOf(provider) === 'form_post');
      try {
        if (provider.ResponseType === 'id_token') {
          const claims = await client.implicitAuthentication(configuration, callback, keep.nonce ?? '', {
            expectedState: state,
            ...(maxAge === undefined ? undefined : { maxAge }),
          });
          return identified(claims, response.get('id_token') ?? undefined);
        }
        const tokens = await client.authorizationCodeGrant(configuration, callback, {
          expectedState: state,
          expectedNonce: keep.nonce ?? '',
          idTokenExpected: true,
          ...(keep.codeVerifier === undefined ? undefined : { pkceCodeVerifier: keep.codeVerifier }),
          ...(maxAge === undefined ? undefined : { maxAge }),
        });
        const claims = tokens.claims();
        if (claims === undefined) throw invalid('no ID token');
        const more = provider.GetClaimsFromUserInfoEndpoint
          ? await client.fetchUserInfo(configuration, tokens.access_token, claims.sub)
          : {};
        // The ID token is signed; what userinfo says of the same name is not.
        return identified({ ...more, ...claims }, tokens.id_token);
      } catch (err) {
        if (err instanceof client.AuthorizationResponseError) {
          if (cancellations.has(err.error)) return { kind: 'cancelled', reason: err.error };
          throw unavailable(`it answered with the error ${printable(err.error)}`, err);
        }
        throw toServerError(err);
      }
    },

    /** Where to sign out (RP-Initiated Logout 1.0); undefined where the provider has no such place. */
    async endSessionUrl(
      provider: OidcProvider,
      request: { idTokenHint?: string | undefined; postLogoutRedirectUri: string; state: string },
    ): Promise<string | undefined> {
      const configuration = await configure(provider);
      if (configuration.serverMetadata().end_session_endpoint === undefined) return undefined;
      return client.buildEndSessionUrl(configuration, {
        post_logout_redirect_uri: request.postLogoutRedirectUri,
        state: request.state,
        ...(request.idTokenHint && { id_token_hint: request.idTokenHint }),
      }).href;
    },

    /**
     * Verifies a logout token (Back-Channel Logout 1.0 section 2.6).
     *
     * @throws {ServerError} ERR_IDENTITY_PROVIDER_ANSWER_INVALID, or that the keys cannot be fetched
     */
    async verifyLogoutToken(provider: OidcProvider, token: string): Promise<LogoutToken> {
      const metadata = (await configure(provider)).serverMetadata();
      if (metadata.jwks_uri === undefined) throw unavailable('its metadata has no jwks_uri');
      const keys = createRemoteJWKSet(new URL(metadata.jwks_uri), {
        [joseFetch]: (url, options) =>
          outgoing.fetch(url, { ...toRequest(options), trustedHosts: [new URL(provider.Authority).host] }),
      });
      let payload: JWTPayload;
      try {
        ({ payload } = await jwtVerify(token, keys, {
          issuer: metadata.issuer,
          audience: provider.ClientId,
          algorithms,
          clockTolerance: 60,
          maxTokenAge: 600,
          requiredClaims: ['iat', 'jti', 'events'],
        }));
      } catch (err) {
        if (err instanceof joseErrors.JOSEError) throw invalid(`logout token: ${err.code}`, err);
        throw toServerError(err);
      }
      const { events, exp, iat = now(), iss, jti, sid, sub } = payload;
      const isLogout = typeof events === 'object' && events !== null && logoutEvent in events;
      if (!isLogout) throw invalid('logout token: it does not tell of a sign-out');
      // An ID token must never pass for one.
      if ('nonce' in payload) throw invalid('logout token: it has a nonce');
      if (typeof sid !== 'string' && typeof sub !== 'string')
        throw invalid('logout token: neither sub nor sid');
      return {
        issuer: String(iss),
        tokenId: String(jti),
        expiresAt: exp ?? iat + 600,
        ...(typeof sub === 'string' ? { subject: sub } : undefined),
        ...(typeof sid === 'string' ? { sessionId: sid } : undefined),
      };
    },

    /** Fetches metadata and keys, and returns what is unusual about them. */
    async inspect(provider: OidcProvider): Promise<{ issuer: string; warnings: string[] }> {
      const metadata = (await configure(provider)).serverMetadata();
      const warnings: string[] = [];
      if (metadata.jwks_uri === undefined) throw unavailable('its metadata has no jwks_uri');
      const keys = await outgoing.fetch(metadata.jwks_uri, {
        trustedHosts: [new URL(provider.Authority).host],
      });
      if (!keys.ok) throw unavailable(`its keys at ${metadata.jwks_uri} answered ${keys.status}`);
      if (metadata.end_session_endpoint === undefined) warnings.push('it has no place to sign out at');
      if (provider.UsePkce && metadata.code_challenge_methods_supported?.includes('S256') === false) {
        warnings.push('it does not say that it understands PKCE');
      }
      log.debug({ identityProvider: provider.Name }, 'identity provider inspected');
      return { issuer: metadata.issuer, warnings };
    },
  };
}

function metadataAddressOf({ Authority, MetadataAddress }: OidcProvider): string {
  return MetadataAddress ?? `${Authority.replace(/\/$/, '')}/.well-known/openid-configuration`;
}

function responseModeOf({ ResponseMode, ResponseType }: OidcProvider): 'form_post' | undefined {
  return (ResponseMode ?? (ResponseType === 'code' ? 'query' : 'form_post')) === 'form_post'
    ? 'form_post'
    : undefined;
}

/**
 * The metadata, whose issuer must be the authority (Discovery 1.0 section 4.3) and whose addresses must be https.
 * A slash at the end is forgiven: products show their authority without the one that their issuer has.
 */
function checkMetadata(provider: OidcProvider, metadata: client.ServerMetadata): client.ServerMetadata {
  const { issuer } = metadata;
  if (typeof issuer !== 'string' || issuer.replace(/\/$/, '') !== provider.Authority.replace(/\/$/, '')) {
    const isTemplate = String(issuer).includes('{');
    throw unavailable(
      `its metadata is that of the issuer ${printable(String(issuer))}, and Authority is ${provider.Authority}${isTemplate ? '; write the address of your own tenant' : ''}`,
    );
  }
  for (const name of [
    'authorization_endpoint',
    'token_endpoint',
    'jwks_uri',
    'userinfo_endpoint',
    'end_session_endpoint',
  ] as const) {
    const value = metadata[name];
    if (value === undefined) {
      if (name === 'authorization_endpoint' || name === 'jwks_uri')
        throw unavailable(`its metadata has no ${name}`);
      continue;
    }
    const url = URL.parse(String(value));
    const isSecure = url?.protocol === 'https:' || (url?.protocol === 'http:' && mayBeHttp(provider, url));
    if (url === null || !isSecure)
      throw unavailable(`its ${name} is not https; RequireHttpsMetadata false admits http`);
  }
  return metadata;
}

function mayBeHttp({ RequireHttpsMetadata }: OidcProvider, url: URL): boolean {
  return !RequireHttpsMetadata || isLoopback(url);
}

function toConfiguration(provider: OidcProvider, metadata: client.ServerMetadata): client.Configuration {
  const { ClientAuthentication, ClientId, ClientSecret, ResponseType } = provider;
  const offered = metadata.id_token_signing_alg_values_supported as string[] | undefined;
  const authentication =
    ClientSecret === undefined
      ? client.None()
      : ClientAuthentication === 'client_secret_post'
        ? client.ClientSecretPost(ClientSecret)
        : client.ClientSecretBasic(ClientSecret);
  const configuration = new client.Configuration(
    {
      ...metadata,
      id_token_signing_alg_values_supported: (offered ?? ['RS256']).filter((alg) => algorithms.includes(alg)),
    },
    ClientId,
    { [client.clockTolerance]: 60 },
    authentication,
  );
  // The back channel alone would do for a code (Core section 3.1.3.7, point 6); a signature that is checked holds everywhere.
  client.enableNonRepudiationChecks(configuration);
  if (ResponseType === 'code id_token') client.useCodeIdTokenResponseType(configuration);
  if (ResponseType === 'id_token') client.useIdTokenResponseType(configuration);
  // Each address has been checked above.
  client.allowInsecureRequests(configuration);
  return configuration;
}

/** The answer in the form in which it came, as the library wants to see it. */
function toCallback(redirectUri: string, response: URLSearchParams, isPosted: boolean): URL | Request {
  const url = new URL(redirectUri);
  if (isPosted) {
    return new Request(url, {
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: response.toString(),
    });
  }
  url.search = response.toString();
  return url;
}

/** What says something about the token and nothing about the user. */
const tokenClaims = new Set([
  ...['iss', 'aud', 'azp', 'exp', 'iat', 'nbf', 'jti', 'nonce', 'at_hash', 'c_hash', 's_hash'],
  ...['auth_time', 'acr', 'amr', 'sid'],
]);

function identified(claims: Readonly<Record<string, unknown>>, idToken: string | undefined): OpenIdOutcome {
  const { acr, amr, auth_time: authTime, iss, sid, sub } = claims;
  const about = Object.entries(claims)
    .filter(([name, value]) => !tokenClaims.has(name) && value !== null && value !== undefined)
    .map(([name, value]) => [name, (Array.isArray(value) ? value : [value]).map(toText)] as const);
  return {
    kind: 'identified',
    identity: {
      issuer: String(iss),
      subject: String(sub),
      claims: new Map(about),
      authenticatedAt: typeof authTime === 'number' ? Math.floor(authTime) : undefined,
      methods: Array.isArray(amr) ? amr.map(String) : [],
      acr: typeof acr === 'string' ? acr : undefined,
      sessionId: typeof sid === 'string' ? sid : undefined,
      idToken,
    },
  };
}

function toText(value: unknown): string {
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function printable(text: string): string {
  return text.replace(/[^\x21-\x7e]/g, '?').slice(0, 100);
}

function unavailable(hint: string, cause?: unknown): ServerError {
  return new ServerError('ERR_IDENTITY_PROVIDER_UNAVAILABLE', 'the identity provider cannot be used now', {
    status: 503,
    hint,
    cause,
  });
}

function invalid(hint: string, cause?: unknown): ServerError {
  return new ServerError(
    'ERR_IDENTITY_PROVIDER_ANSWER_INVALID',
    'the answer of the identity provider could not be verified',
    { status: 400, hint, cause },
  );
}

/** The library's errors in ours: what the provider said wrong, or that it could not be reached. Without its values. */
function toServerError(err: unknown): ServerError {
  for (let cause: unknown = err; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof ServerError) return cause;
  }
  if (err instanceof client.ResponseBodyError) {
    const hint = `its token endpoint answered ${err.status} with the error ${printable(err.error)}`;
    return err.status >= 500 ? unavailable(hint, err) : invalid(hint, err);
  }
  const { code, message } = err as { code?: string; message: string };
  return invalid(`${printable(String(code ?? ''))} ${message.slice(0, 200)}`.trim(), err);
}
