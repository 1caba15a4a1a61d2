/**
 * Signing in at an OpenID provider, and out, with Postern as the relying party.
 *
 * Out: {@link OpenIdConnect.begin} makes the URL, and what the caller must keep beside the state. Back:
 * {@link OpenIdConnect.verify} takes what the browser brought and gives the identity, or throws. It checks, in
 * this order: state and `iss` (RFC 9207), an error instead of an answer, the ID token that came along if the
 * response type has one, the exchange of the code (with the PKCE verifier), the ID token from there (claims by
 * openid-client, signature always, by the provider's keys), that both tokens are about the same user, and the
 * claims from userinfo.
 *
 * @see OpenID Connect Core 1.0 sections 3.1.3.7, 3.2.2.11, 3.3.2.12 and 3.3.3.7, RFC 9700
 */
import { createHash } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, type JWTPayload, type JWTVerifyResult } from 'jose';
import * as openid from 'openid-client';
import type { Logger } from '../log.ts';
import { createDocumentCache } from './document-cache.ts';
import { invalidAnswer, toServerError } from './openid-failures.ts';
import { type LogoutNotice, readLogoutToken } from './openid-logout.ts';
import {
  defaultClockToleranceSeconds,
  findMisfits,
  type KnownProvider,
  loadProvider,
  type OidcProviderSettings,
  unusable,
  verifySigned,
} from './openid-metadata.ts';
import type { Outgoing } from './outgoing.ts';

/** Claims about the token rather than the user, and those that {@link Identity} has members for. */
const protocolClaims = new Set([
  ...['iss', 'aud', 'exp', 'iat', 'nbf', 'jti', 'azp', 'nonce', 'at_hash', 'c_hash', 's_hash'],
  ...['auth_time', 'amr', 'acr', 'sid', '_claim_names', '_claim_sources'],
]);

/** What an identity provider vouched for, verified. */
export interface Identity {
  readonly issuer: string;
  readonly subject: string;
  /** By name, as text: `true` and `false`, a value for each member of an array, objects as JSON. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** Seconds since the epoch. */
  readonly authenticatedAt?: number;
  /** `amr`. */
  readonly methods: readonly string[];
  readonly acr?: string;
  /** The session at the provider, which its logout tokens name. */
  readonly sessionId?: string;
  /** For `id_token_hint` at sign-out. */
  readonly idToken?: string;
}

/** What must be kept, where the browser cannot change it, between {@link OpenIdConnect.begin} and the answer. */
export interface KeptForAnswer {
  readonly nonce: string;
  readonly codeVerifier?: string;
}

export interface OpenIdConnect {
  /**
   * The URL that sends the user to the provider.
   *
   * @param options.maxAge seconds
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE
   */
  begin(
    provider: OidcProviderSettings,
    options: {
      redirectUri: string;
      state: string;
      loginHint?: string | undefined;
      prompt?: string | undefined;
      maxAge?: number | undefined;
      acrValues?: string | undefined;
      uiLocales?: string | undefined;
    },
  ): Promise<{ url: string; keep: KeptForAnswer }>;

  /**
   * Verifies what came back, in the query or a form, and gives the identity that it proves. A code is spent by
   * it, whatever the outcome.
   *
   * @throws {SignInRefusedError} ERR_IDENTITY_PROVIDER_REFUSED, where the provider answered with an error
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_ANSWER_INVALID, status 400; the hint says which check failed
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE, status 503
   */
  verify(
    provider: OidcProviderSettings,
    options: {
      redirectUri: string;
      state: string;
      keep: KeptForAnswer;
      response: URLSearchParams;
      maxAge?: number | undefined;
    },
  ): Promise<Identity>;

  /** The URL that signs the user out there; undefined where the provider has none. OpenID Connect RP-Initiated Logout 1.0. */
  endSessionUrl(
    provider: OidcProviderSettings,
    options: { idTokenHint?: string | undefined; postLogoutRedirectUri: string; state: string },
  ): Promise<string | undefined>;

  /**
   * Verifies a logout token; the caller refuses a `tokenId` that it has seen, until `expiresAt` (seconds since
   * the epoch). OpenID Connect Back-Channel Logout 1.0 sections 2.4 and 2.6.
   *
   * @throws {ServerError} as {@link verify}
   */
  verifyLogoutToken(provider: OidcProviderSettings, logoutToken: string): Promise<LogoutNotice>;

  /**
   * Reads the provider's metadata and keys anew, and says what in them does not fit its registration.
   *
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE, where the provider cannot be used at all
   */
  inspect(provider: OidcProviderSettings): Promise<{ issuer: string; warnings: string[] }>;
}

/** Makes the relying party. It calls providers when they are first needed, and remembers their metadata. */
export function createOpenIdConnect({
  outgoing,
  now,
  log,
}: {
  outgoing: Outgoing;
  now: () => number;
  log: Logger;
}): OpenIdConnect {
  const cache = createDocumentCache<KnownProvider>({
    now,
    freshSeconds: 3600,
    staleSeconds: 86_400,
    onRefreshFailed: (key, err) =>
      log.warn({ err, authority: key.split(' ')[0] }, 'metadata of an identity provider not refreshed'),
  });
  const keyOf = ({ Authority, MetadataAddress = '', RequireHttpsMetadata }: OidcProviderSettings) =>
    [Authority, MetadataAddress, RequireHttpsMetadata].join(' ');
  const find = (provider: OidcProviderSettings) =>
    cache.get(keyOf(provider), () => loadProvider(outgoing, provider));

  /** openid-client's view of us at the provider. A new one for each exchange: it remembers keys in it. */
  function configure(provider: OidcProviderSettings, known: KnownProvider): openid.Configuration {
    const tolerance = provider.ClockToleranceSeconds ?? defaultClockToleranceSeconds;
    const configuration = new openid.Configuration(
      known.metadata,
      provider.ClientId,
      { [openid.clockTolerance]: tolerance },
      chooseClientAuthentication(provider, known),
    );
    if (known.allowsHttp) openid.allowInsecureRequests(configuration);
    if (provider.ResponseType === 'code id_token') openid.useCodeIdTokenResponseType(configuration);
    if (provider.ResponseType === 'id_token') openid.useIdTokenResponseType(configuration);
    configuration[openid.customFetch] = async (url, { method, headers, body, signal }) => {
      const response = await outgoing.fetch(url, {
        method,
        headers,
        // Forms or nothing, as far as we use openid-client.
        body: body as URLSearchParams | null | undefined,
        signal,
        redirect: 'manual',
        trustedHosts: known.trustedHosts,
      });
      if (response.status < 500) return response;
      throw unusable(provider, `${new URL(url).host} answered with status ${response.status}`);
    };
    return configuration;
  }

  /**
   * Verifies an ID token's signature, issuer, audience, expiry and subject. That the rest of its claims is as
   * it must be is what openid-client checks, of the same token.
   */
  async function verifyIdToken(provider: OidcProviderSettings, known: KnownProvider, idToken: string) {
    const verified = await verifySigned(known, idToken, {
      audience: provider.ClientId,
      clockTolerance: provider.ClockToleranceSeconds ?? defaultClockToleranceSeconds,
      requiredClaims: ['sub', 'iat', 'exp', 'nonce'],
    });
    const { iss = '', sub, azp } = verified.payload;
    // OpenID Connect Core section 2: at most 255 characters.
    if (!isText(sub) || sub.length > 255) {
      throw invalidAnswer(provider, 'the subject (sub) is empty, too long or no text');
    }
    if (azp !== undefined && azp !== provider.ClientId) {
      throw invalidAnswer(provider, 'the ID token was made for another client (azp)');
    }
    return { ...verified, payload: { ...verified.payload, iss, sub } };
  }

  async function exchange(
    provider: OidcProviderSettings,
    known: KnownProvider,
    { redirectUri, state, keep, response, maxAge }: Parameters<OpenIdConnect['verify']>[1],
  ): Promise<Identity> {
    const needed = provider.ResponseType === 'id_token' ? 'id_token' : 'code';
    if (!response.has('error') && !response.has(needed)) {
      throw invalidAnswer(provider, `the answer has no ${needed} and no error`);
    }
    const configuration = configure(provider, known);
    const currentUrl = new URL(redirectUri);
    const isFrontChannel = provider.ResponseType !== 'code';
    currentUrl[isFrontChannel ? 'hash' : 'search'] = response.toString();
    const frontToken = isFrontChannel ? response.get('id_token') : null;
    // Verified before the rest, because it makes sure that we have the key, which openid-client is then given.
    const front = frontToken === null ? undefined : await verifyIdToken(provider, known, frontToken);
    shareKeys(configuration, known, now);
    const checks = {
      expectedState: state,
      expectedNonce: keep.nonce,
      ...(maxAge !== undefined && { maxAge }),
    };

    if (provider.ResponseType === 'id_token') {
      await openid.implicitAuthentication(configuration, currentUrl, keep.nonce, checks);
      if (front === undefined || frontToken === null) throw invalidAnswer(provider, 'there is no ID token');
      return toIdentity(front.payload, {}, frontToken);
    }

    const tokens = await openid.authorizationCodeGrant(configuration, currentUrl, {
      ...checks,
      idTokenExpected: true,
      ...(keep.codeVerifier !== undefined && { pkceCodeVerifier: keep.codeVerifier }),
    });
    const { id_token: idToken = '', access_token: accessToken } = tokens;
    const back = await verifyIdToken(provider, known, idToken);
    checkAccessTokenHash(provider, back, accessToken);
    // OpenID Connect Core section 3.3.3.6
    if (front !== undefined && front.payload.sub !== back.payload.sub) {
      throw invalidAnswer(provider, 'its two ID tokens are about different users');
    }

    let userinfo: JWTPayload = {};
    if (provider.GetClaimsFromUserInfo && known.metadata.userinfo_endpoint !== undefined) {
      shareKeys(configuration, known, now);
      openid.enableNonRepudiationChecks(configuration);
      userinfo = await openid
        .fetchUserInfo(configuration, accessToken, back.payload.sub)
        .catch((err: unknown) => {
          if (!(err instanceof openid.WWWAuthenticateChallengeError)) throw err;
          throw invalidAnswer(
            provider,
            `its userinfo endpoint answered ${err.status} to the access token; if it always does, turn GetClaimsFromUserInfo off`,
          );
        });
    }
    return toIdentity(back.payload, userinfo, idToken);
  }

  /** Runs one exchange and gives its failure our form. */
  async function attempt<T>(provider: OidcProviderSettings, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (err) {
      throw toServerError(err, provider);
    }
  }

  return {
    begin: (provider, options) =>
      attempt(provider, async () => {
        const known = await find(provider);
        const nonce = openid.randomNonce();
        const hasCode = provider.ResponseType !== 'id_token';
        const codeVerifier = provider.UsePkce && hasCode ? openid.randomPKCECodeVerifier() : undefined;
        const parameters = present({
          redirect_uri: options.redirectUri,
          scope: [...new Set(['openid', ...provider.Scope])].join(' '),
          response_type: provider.ResponseType,
          response_mode: provider.ResponseType === 'code' ? provider.ResponseMode : 'form_post',
          state: options.state,
          nonce,
          code_challenge: codeVerifier && (await openid.calculatePKCECodeChallenge(codeVerifier)),
          code_challenge_method: codeVerifier && 'S256',
          login_hint: options.loginHint,
          prompt: options.prompt,
          max_age: options.maxAge?.toString(),
          acr_values: options.acrValues,
          ui_locales: options.uiLocales,
        });
        const configuration = configure(provider, known);
        const url =
          known.metadata.require_pushed_authorization_requests === true
            ? await openid.buildAuthorizationUrlWithPAR(configuration, parameters)
            : openid.buildAuthorizationUrl(configuration, parameters);
        return { url: url.href, keep: { nonce, ...(codeVerifier !== undefined && { codeVerifier }) } };
      }),

    verify: (provider, options) =>
      attempt(provider, async () => exchange(provider, await find(provider), options)),

    endSessionUrl: (provider, { idTokenHint, postLogoutRedirectUri, state }) =>
      attempt(provider, async () => {
        const known = await find(provider);
        if (known.metadata.end_session_endpoint === undefined) return undefined;
        const parameters = present({
          id_token_hint: idTokenHint,
          post_logout_redirect_uri: postLogoutRedirectUri,
          state,
        });
        return openid.buildEndSessionUrl(configure(provider, known), parameters).href;
      }),

    verifyLogoutToken: (provider, logoutToken) =>
      attempt(provider, async () => {
        // Anybody may send one: what is none costs no call.
        if (!isJwt(logoutToken)) throw invalidAnswer(provider, 'the logout token is no JWS with claims');
        return readLogoutToken(provider, await find(provider), { logoutToken, now: now() });
      }),

    inspect: (provider) =>
      attempt(provider, async () => {
        const known = await cache.reload(keyOf(provider), () => loadProvider(outgoing, provider));
        await known.keys.reload();
        return { issuer: known.metadata.issuer, warnings: findMisfits(provider, known) };
      }),
  };
}

function isJwt(text: string): boolean {
  try {
    decodeProtectedHeader(text);
    decodeJwt(text);
    return true;
  } catch {
    return false;
  }
}

/** Gives openid-client the keys that we have, so that it fetches none by itself. */
function shareKeys(configuration: openid.Configuration, { keys }: KnownProvider, now: () => number): void {
  const jwks = keys.jwks();
  if (jwks !== undefined)
    openid.setJwksCache(configuration, { jwks: jwks as openid.ExportedJWKSCache['jwks'], uat: now() });
}

function chooseClientAuthentication(
  { ClientSecret, ClientAuthentication }: OidcProviderSettings,
  { metadata }: KnownProvider,
): openid.ClientAuth {
  if (ClientSecret === undefined) return openid.None();
  // OpenID Connect Discovery section 3: Basic is what a provider supports that says nothing.
  const supported = metadata.token_endpoint_auth_methods_supported ?? ['client_secret_basic'];
  const isBasic = ClientAuthentication === undefined && supported.includes('client_secret_basic');
  return isBasic || ClientAuthentication === 'client_secret_basic'
    ? openid.ClientSecretBasic(ClientSecret)
    : openid.ClientSecretPost(ClientSecret);
}

/** Where there is an `at_hash`, the access token must be the one that it was made for. OpenID Connect Core section 3.1.3.8. */
function checkAccessTokenHash(
  provider: OidcProviderSettings,
  { payload, protectedHeader }: JWTVerifyResult,
  accessToken: string,
): void {
  if (payload.at_hash === undefined) return;
  const bits = /(256|384|512)$/.exec(protectedHeader.alg)?.[1] ?? '512'; // Ed25519 hashes with SHA-512
  const digest = createHash(`sha${bits}`).update(accessToken, 'ascii').digest();
  if (payload.at_hash !== digest.subarray(0, digest.length / 2).toString('base64url')) {
    throw invalidAnswer(provider, 'the access token is not the one of the ID token (at_hash)');
  }
}

/** The identity in the claims of an ID token and of userinfo; what is signed goes before what is not. */
function toIdentity(
  payload: JWTPayload & { iss: string; sub: string },
  userinfo: JWTPayload,
  idToken: string,
): Identity {
  const { iss, sub, auth_time: authTime, amr, acr, sid } = payload;
  const claims = new Map<string, readonly string[]>();
  for (const [name, value] of Object.entries({ ...userinfo, ...payload })) {
    const values = protocolClaims.has(name) ? [] : toTexts(value);
    if (values.length > 0) claims.set(name, values);
  }
  return {
    issuer: iss,
    subject: sub,
    claims,
    ...(typeof authTime === 'number' && { authenticatedAt: authTime }),
    methods: toTexts(amr),
    ...(isText(acr) && { acr }),
    ...(isText(sid) && { sessionId: sid }),
    idToken,
  };
}

function toTexts(value: unknown): string[] {
  const members: unknown[] = Array.isArray(value) ? value : [value];
  return members
    .filter((member) => member !== undefined && member !== null)
    .map((member) => (typeof member === 'object' ? JSON.stringify(member) : String(member)));
}

function present(parameters: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}
