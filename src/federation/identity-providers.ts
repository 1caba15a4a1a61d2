/**
 * Identity providers of both protocols behind one face: where to send the browser, what its answer proves, and
 * where to sign out. Metadata is fetched at first use, never at the start.
 */
import { CompactEncrypt, compactDecrypt } from 'jose';
import type { OidcProvider, Provider, WsFedProvider } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import { createMetadataCache } from './metadata-cache.ts';
import type { OpenIdConnect } from './openid-connect.ts';
import type { Outgoing } from './outgoing.ts';
import { UnknownKeyError, type VerifiedAssertion, verifySignInResponse } from './saml.ts';
import { signInUrl, signOutUrl, withShortNames } from './ws-federation.ts';
import { type FederationMetadata, parseFederationMetadata } from './ws-metadata.ts';

/** What an identity provider vouches for, verified. */
export interface Identity {
  readonly issuer: string;
  /** What the issuer never gives to somebody else. */
  readonly subject: string;
  /** By type; of WS-Federation by short name as well. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** When the user signed in there, in seconds since the epoch. */
  readonly authenticatedAt?: number | undefined;
  /** `amr`, or URIs of authentication methods. */
  readonly methods: readonly string[];
  readonly acr?: string | undefined;
  /** The session there, for its end. */
  readonly sessionId?: string | undefined;
  /** Encrypted; the hint for signing out there. */
  readonly idTokenHint?: string | undefined;
}

export interface BeginOptions {
  /** Comes back as `state` or `wctx`. */
  readonly handle: string;
  readonly loginHint?: string | undefined;
  readonly isFresh: boolean;
  readonly isOther: boolean;
  readonly maxAge?: number | undefined;
}

export interface VerifyAnswerOptions {
  readonly handle: string;
  /** What `begin` gave. */
  readonly keep: Readonly<Record<string, string>>;
  readonly maxAge?: number | undefined;
  readonly response: URLSearchParams;
}

export type Outcome =
  | {
      readonly kind: 'identified';
      readonly identity: Identity;
      /** Names what must not be accepted a second time, until `onceUntil`; undefined where the protocol sees to it. */
      readonly onceKey?: string;
      readonly onceUntil: number;
    }
  | { readonly kind: 'cancelled'; readonly reason: string };

export interface SignOutOptions {
  /** Where the browser is to come back to. */
  readonly returnUrl: string;
  readonly state: string;
  readonly idTokenHint?: string | undefined;
}

export interface IdentityProviders {
  /**
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE or ERR_METADATA_INVALID, status 503
   */
  begin(
    provider: Provider,
    options: BeginOptions,
  ): Promise<{ url: string; keep: Readonly<Record<string, string>> }>;

  /**
   * Verifies what came to the callback.
   *
   * @throws {ServerError} ERR_ASSERTION_INVALID or ERR_IDENTITY_PROVIDER_ANSWER_INVALID, status 400; else as `begin`
   */
  verify(provider: Provider, options: VerifyAnswerOptions): Promise<Outcome>;

  /** Where to sign out there; undefined where it offers nothing, or cannot be asked. */
  signOutUrl(provider: Provider, options: SignOutOptions): Promise<string | undefined>;

  /**
   * Verifies a logout token of an OpenID provider (Back-Channel Logout 1.0 section 2.6).
   *
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_ANSWER_INVALID
   */
  verifyLogoutToken(
    provider: OidcProvider,
    token: string,
  ): Promise<{ issuer: string; subject?: string; sessionId?: string; tokenId: string; expiresAt: number }>;

  /** Fetches its metadata and returns what is unusual about it; throws what is wrong. For `check-config --online`. */
  inspect(provider: Provider): Promise<readonly string[]>;
}

export interface IdentityProvidersOptions {
  outgoing: Outgoing;
  openIdConnect: OpenIdConnect;
  /** Seconds since the epoch. */
  now: () => number;
  publicUrl: string;
  /** 32 bytes: hides ID tokens of identity providers in our database. */
  key: Uint8Array;
}

/** A new key may be a minute old before somebody asks for it again. */
const leastRefetchSeconds = 60;

/** Makes the one face. */
export function createIdentityProviders(options: IdentityProvidersOptions): IdentityProviders {
  const { outgoing, openIdConnect, now, publicUrl, key } = options;

  const metadata = createMetadataCache<FederationMetadata>({
    now,
    freshSeconds: 86_400,
    async load(address) {
      const response = await outgoing.fetch(address, {
        trustedHosts: [new URL(address).host],
        maxBytes: 2 * 1024 * 1024,
        headers: { accept: 'application/samlmetadata+xml, application/xml, text/xml, */*' },
      });
      if (!response.ok) {
        throw new ServerError(
          'ERR_IDENTITY_PROVIDER_UNAVAILABLE',
          'the identity provider cannot be reached',
          {
            status: 503,
            hint: `its metadata address ${address} answered ${response.status}`,
          },
        );
      }
      return parseFederationMetadata(await response.text());
    },
  });

  const redirectUriOf = ({ CallbackPath }: Provider) => publicUrl + CallbackPath;

  async function verifyAssertion(provider: WsFedProvider, wresult: string): Promise<VerifiedAssertion> {
    const address = provider.MetadataAddress;
    const verifyWith = ({ certificates, entityId }: FederationMetadata) =>
      verifySignInResponse(wresult, {
        certificates,
        issuer: entityId,
        audience: provider.Wtrealm,
        recipients: [redirectUriOf(provider), provider.Wreply, publicUrl],
        now: now(),
        decryptionKeys: provider.DecryptionKeys,
        allowCbc: provider.AllowCbc,
        allowSha1: provider.AllowSha1,
      });
    try {
      return verifyWith(await metadata.get(address));
    } catch (err) {
      // The provider has a new key perhaps; anything else would be the same with new metadata.
      if (!(err instanceof ServerError) || !(err.cause instanceof UnknownKeyError)) throw err;
      const renewed = await metadata.renew(address, leastRefetchSeconds);
      if (renewed === undefined) throw err;
      return verifyWith(renewed);
    }
  }

  return {
    async begin(provider, { handle, loginHint, isFresh, isOther, maxAge }) {
      if (provider.Type === 'Oidc') {
        return openIdConnect.begin(provider, {
          redirectUri: redirectUriOf(provider),
          state: handle,
          loginHint,
          prompt: isOther ? 'select_account' : isFresh ? 'login' : undefined,
          maxAge,
        });
      }
      const { passiveEndpoint } = await metadata.get(provider.MetadataAddress);
      const url = signInUrl(passiveEndpoint, {
        wtrealm: provider.Wtrealm,
        wctx: handle,
        wreply: provider.SendWreply ? provider.Wreply : undefined,
        wfresh: isFresh || isOther ? 0 : maxAge === undefined ? undefined : Math.floor(maxAge / 60),
        now: now(),
      });
      return { url, keep: {} };
    },

    async verify(provider, { handle, keep, maxAge, response }) {
      if (provider.Type === 'Oidc') {
        const outcome = await openIdConnect.verify(provider, {
          redirectUri: redirectUriOf(provider),
          state: handle,
          keep,
          maxAge,
          response,
        });
        if (outcome.kind === 'cancelled') return outcome;
        const { idToken, ...identity } = outcome.identity;
        return {
          kind: 'identified',
          identity: { ...identity, ...(idToken && { idTokenHint: await encrypt(idToken) }) },
          onceUntil: 0,
        };
      }
      const wresult = response.get('wresult');
      if (response.get('wa') !== 'wsignin1.0' || !wresult) {
        throw new ServerError(
          'ERR_ASSERTION_INVALID',
          'the answer of the identity provider could not be verified',
          {
            status: 400,
            hint: 'it is no sign-in: wa is not wsignin1.0, or wresult is missing',
          },
        );
      }
      const assertion = await verifyAssertion(provider, wresult);
      return {
        kind: 'identified',
        identity: toIdentity(provider, assertion),
        onceKey: `assertion\n${assertion.issuer}\n${assertion.assertionId}`,
        onceUntil: assertion.expiresAt,
      };
    },

    async signOutUrl(provider, { returnUrl, state, idTokenHint }) {
      if (provider.Type === 'Oidc') {
        return openIdConnect.endSessionUrl(provider, {
          idTokenHint: idTokenHint && (await decrypt(idTokenHint)),
          postLogoutRedirectUri: returnUrl,
          state,
        });
      }
      const { passiveEndpoint } = await metadata.get(provider.MetadataAddress);
      const wreply = new URL(returnUrl);
      wreply.searchParams.set('state', state);
      return signOutUrl(passiveEndpoint, { wtrealm: provider.Wtrealm, wreply: wreply.href });
    },

    verifyLogoutToken: (provider, token) => openIdConnect.verifyLogoutToken(provider, token),

    async inspect(provider) {
      if (provider.Type === 'Oidc') return (await openIdConnect.inspect(provider)).warnings;
      await metadata.get(provider.MetadataAddress);
      return [];
    },
  };

  async function encrypt(idToken: string): Promise<string> {
    return new CompactEncrypt(Buffer.from(idToken))
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM' })
      .encrypt(key);
  }

  /** Undefined where the key has changed since: signing out works without the hint, with a question more. */
  async function decrypt(hint: string): Promise<string | undefined> {
    try {
      const { plaintext } = await compactDecrypt(hint, key);
      return Buffer.from(plaintext).toString();
    } catch {
      return undefined;
    }
  }
}

function toIdentity(provider: WsFedProvider, assertion: VerifiedAssertion): Identity {
  const claims = withShortNames(assertion.claims);
  return {
    issuer: assertion.issuer,
    subject: assertion.subject ?? subjectFromClaims(provider, claims),
    claims,
    authenticatedAt: assertion.authenticatedAt,
    methods: assertion.methods,
    sessionId: assertion.sessionIndex,
  };
}

/** Without a name identifier, as AD FS often answers, the claim that the account is found by stands for the user. */
function subjectFromClaims(
  { UserNameClaims }: WsFedProvider,
  claims: ReadonlyMap<string, readonly string[]>,
): string {
  const type = UserNameClaims.find((name) => claims.has(name));
  return type === undefined ? '' : `${type}\n${claims.get(type)?.[0]?.toLowerCase() ?? ''}`;
}
