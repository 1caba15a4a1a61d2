/**
 * Identity providers of both protocols behind one face: where to send the browser, what its answer proves, and
 * where to sign out. Metadata is fetched at first use, never at the start.
 */
import { CompactEncrypt, compactDecrypt } from 'jose';
import type { OidcProvider, Provider, WsFedProvider } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { createDocumentCache } from './document-cache.ts';
import type { OpenIdConnect } from './openid-connect.ts';
import { SignInRefusedError } from './openid-failures.ts';
import type { Outgoing } from './outgoing.ts';
import { InvalidAssertionError, type VerifiedAssertion, verifySignInResponse } from './saml.ts';
import { claimTypes, signInUrl, signOutUrl, withShortNames } from './ws-federation.ts';
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
  /** BCP 47 tags, separated by blanks. WS-Federation has no such thing; our own application does. */
  readonly uiLocales?: string | undefined;
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

/** Metadata, and when it was fetched. */
type KnownMetadata = FederationMetadata & { readonly fetchedAt: number };

export interface IdentityProvidersOptions {
  log: Logger;
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
  const { log, outgoing, openIdConnect, now, publicUrl, key } = options;

  const documents = createDocumentCache<KnownMetadata>({
    now,
    freshSeconds: 86_400,
    staleSeconds: 7 * 86_400,
    onRefreshFailed: (address, err) => log.warn({ address, err }, 'federation metadata not refreshed'),
  });
  const fetchMetadata = (address: string) => async (): Promise<KnownMetadata> => {
    const text = await outgoing.getText(address, {
      trustedHosts: [new URL(address).hostname],
      headers: { accept: 'application/samlmetadata+xml, application/xml, text/xml, */*' },
    });
    return { ...parseFederationMetadata(text), fetchedAt: now() };
  };
  const metadataOf = ({ MetadataAddress }: WsFedProvider) =>
    documents.get(MetadataAddress, fetchMetadata(MetadataAddress));

  const redirectUriOf = ({ CallbackPath }: Provider) => publicUrl + CallbackPath;

  async function verifyAssertion(provider: WsFedProvider, wresult: string): Promise<VerifiedAssertion> {
    const verifyWith = ({ certificates, entityId }: FederationMetadata) =>
      verifySignInResponse(wresult, {
        certificates,
        issuer: entityId,
        audiences: [provider.Wtrealm],
        recipients: [redirectUriOf(provider), provider.Wreply, publicUrl, `${publicUrl}/`],
        now: now(),
        decryptionKeys: provider.DecryptionKeys,
        allowCbc: provider.AllowCbc,
        allowSha1: provider.AllowSha1,
      });
    const known = await metadataOf(provider);
    try {
      return verifyWith(known);
    } catch (err) {
      // The provider has a new key perhaps; anything else would be the same with new metadata.
      const mayHelp = err instanceof InvalidAssertionError && err.isKeyUnknown;
      if (!mayHelp || now() - known.fetchedAt < leastRefetchSeconds) throw err;
      const address = provider.MetadataAddress;
      return verifyWith(await documents.reload(address, fetchMetadata(address)));
    }
  }

  return {
    async begin(provider, { handle, loginHint, isFresh, isOther, maxAge, uiLocales }) {
      if (provider.Type === 'Oidc') {
        const { url, keep } = await openIdConnect.begin(provider, {
          redirectUri: redirectUriOf(provider),
          state: handle,
          loginHint,
          prompt: isOther ? 'select_account' : isFresh ? 'login' : undefined,
          maxAge,
          uiLocales,
        });
        return { url, keep: { ...keep } };
      }
      const { passiveEndpoint } = await metadataOf(provider);
      const url = signInUrl(passiveEndpoint, {
        wtrealm: provider.Wtrealm,
        wctx: handle,
        wreply: provider.SendWreply ? provider.Wreply : undefined,
        wfresh: isFresh || isOther ? 0 : maxAge === undefined ? undefined : Math.floor(maxAge / 60),
        wct: now(),
        uiLocales: provider.isOwn ? uiLocales : undefined,
      });
      return { url, keep: {} };
    },

    async verify(provider, { handle, keep, maxAge, response }) {
      if (provider.Type === 'Oidc') {
        try {
          const { idToken, ...identity } = await openIdConnect.verify(provider, {
            redirectUri: redirectUriOf(provider),
            state: handle,
            keep: { nonce: '', ...keep },
            maxAge,
            response,
          });
          const idTokenHint = idToken === undefined ? undefined : await encrypt(idToken);
          return { kind: 'identified', identity: { ...identity, idTokenHint }, onceUntil: 0 };
        } catch (err) {
          if (!(err instanceof SignInRefusedError) || err.reason === 'failed') throw err;
          return { kind: 'cancelled', reason: err.error };
        }
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
      const { passiveEndpoint } = await metadataOf(provider);
      const wreply = new URL(returnUrl);
      wreply.searchParams.set('state', state);
      return signOutUrl(passiveEndpoint, { wtrealm: provider.Wtrealm, wreply: wreply.href });
    },

    verifyLogoutToken: (provider, token) => openIdConnect.verifyLogoutToken(provider, token),

    async inspect(provider) {
      if (provider.Type === 'Oidc') return (await openIdConnect.inspect(provider)).warnings;
      const address = provider.MetadataAddress;
      await documents.reload(address, fetchMetadata(address));
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
  // A transient name is another one at every sign-in.
  const isTransient = /:transient$/i.test(assertion.subjectFormat ?? '');
  const own = new Map(assertion.claims);
  if (isTransient) own.delete(claimTypes.nameIdentifier);
  const claims = withShortNames(own);
  return {
    issuer: assertion.issuer,
    subject: (isTransient ? undefined : assertion.subject) ?? subjectFromClaims(provider, claims),
    claims,
    authenticatedAt: assertion.authenticatedAt,
    methods: [
      ...(assertion.authenticationMethod === undefined ? [] : [assertion.authenticationMethod]),
      ...(claims.get(claimTypes.authenticationMethod) ?? []),
      ...(claims.get(claimTypes.authenticationMethodsReferences) ?? []),
    ],
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
