/**
 * The shapes of a JWT access token: the one that IdentityServer3's validators read, that of IdentityServer4
 * (as the MI Scripting Toolkit knows it), and RFC 9068. Pure.
 */
import type { Resource } from '../config/load.ts';

/** How and when the user signed in, as every token of theirs says. */
export interface Authentication {
  /** Seconds since the epoch. */
  readonly authTime: number;
  /** The identity provider's name; `local` for ours. */
  readonly identityProvider: string;
  /** Authentication method references (RFC 8176). */
  readonly methods: readonly string[];
}

/** What an access token says, before it has a layout. Times are seconds since the epoch. */
export interface AccessTokenFacts {
  readonly issuer: string;
  readonly audience: string;
  readonly clientId: string;
  readonly subject: string | undefined;
  readonly scopes: readonly string[];
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** Unique for each token. RFC 9068 always shows it, the others where `showsTokenId`. */
  readonly tokenId: string;
  readonly showsTokenId: boolean;
  /** Claims about client and account; what the layout itself says cannot be overwritten by them. */
  readonly furtherClaims: Readonly<Record<string, unknown>>;
  readonly authentication: Authentication | undefined;
}

export type TokenLayout = Resource['TokenLayout'];

const layouts = {
  IdentityServer3(facts) {
    return {
      ...facts.furtherClaims,
      iss: facts.issuer,
      aud: facts.audience,
      exp: facts.expiresAt,
      nbf: facts.issuedAt,
      client_id: facts.clientId,
      scope: facts.scopes.length === 1 ? facts.scopes[0] : facts.scopes,
      ...(facts.subject === undefined ? undefined : { sub: facts.subject }),
      ...(facts.authentication === undefined ? undefined : toIdentityServer3(facts.authentication)),
      ...(facts.showsTokenId ? { jti: facts.tokenId } : undefined),
    };
  },

  IdentityServer4(facts) {
    return {
      ...facts.furtherClaims,
      nbf: facts.issuedAt,
      exp: facts.expiresAt,
      iss: facts.issuer,
      aud: facts.audience,
      client_id: facts.clientId,
      ...(facts.subject === undefined ? undefined : { sub: facts.subject }),
      ...(facts.authentication === undefined
        ? undefined
        : { auth_time: facts.authentication.authTime, idp: facts.authentication.identityProvider }),
      scope: facts.scopes,
      ...(facts.authentication === undefined ? undefined : { amr: facts.authentication.methods }),
      ...(facts.showsTokenId ? { jti: facts.tokenId } : undefined),
    };
  },

  Rfc9068(facts) {
    return {
      ...facts.furtherClaims,
      iss: facts.issuer,
      exp: facts.expiresAt,
      aud: facts.audience,
      // Section 2.2: without a resource owner the subject is the client.
      sub: facts.subject ?? facts.clientId,
      client_id: facts.clientId,
      iat: facts.issuedAt,
      ...(facts.tokenId === '' ? undefined : { jti: facts.tokenId }),
      scope: facts.scopes.join(' '),
      ...(facts.authentication === undefined
        ? undefined
        : {
            auth_time: facts.authentication.authTime,
            amr: facts.authentication.methods,
            idp: facts.authentication.identityProvider,
          }),
    };
  },
} as const satisfies Record<TokenLayout, (facts: AccessTokenFacts) => Record<string, unknown>>;

const layoutClaims: ReadonlySet<string> = new Set([
  ...['iss', 'aud', 'exp', 'nbf', 'iat', 'jti', 'client_id', 'scope', 'sub', 'auth_time', 'idp', 'amr'],
]);

/** Of the claims of a token those that no layout has by itself: {@link AccessTokenFacts.furtherClaims}. */
export function toFurtherClaims(claims: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(claims).filter(([name]) => !layoutClaims.has(name)));
}

/** IdentityServer wrote a claim that occurs once as a value and one that is repeated as an array. */
export function toScalar(claim: unknown): unknown {
  return Array.isArray(claim) && claim.length === 1 ? claim[0] : claim;
}

/** The claims of an access token in a layout. */
export function toTokenClaims(layout: TokenLayout, facts: AccessTokenFacts): Record<string, unknown> {
  return layouts[layout](facts);
}

/** The JOSE `typ` of a layout: `at+jwt` is RFC 9068's, IdentityServer3 wrote plain `JWT`. */
export function tokenType(layout: TokenLayout): 'at+jwt' | 'JWT' {
  return layout === 'IdentityServer3' ? 'JWT' : 'at+jwt';
}

/** IdentityServer3 said `idsrv` and `password` where its successors say `local` and `pwd`. */
function toIdentityServer3({ authTime, identityProvider, methods }: Authentication): Record<string, unknown> {
  return {
    auth_time: authTime,
    idp: identityProvider === 'local' ? 'idsrv' : identityProvider,
    amr: methods.map((method) => (method === 'pwd' ? 'password' : method)),
  };
}

const identityProviderPrefix = 'idp:';

/**
 * The engine carries `amr` from the session through code and refresh token to every token; the identity
 * provider's name rides along as an entry of its own, and {@link fromMethods} takes it out again.
 */
export function toMethods({ identityProvider, methods }: Omit<Authentication, 'authTime'>): string[] {
  return [...methods, identityProviderPrefix + identityProvider];
}

/** The authentication that {@link toMethods} wrote into `amr`. */
export function fromMethods(amr: readonly string[] | undefined, authTime: number): Authentication {
  const provider = amr?.find((method) => method.startsWith(identityProviderPrefix));
  return {
    authTime,
    identityProvider: provider?.slice(identityProviderPrefix.length) ?? 'local',
    methods: amr?.filter((method) => method !== provider) ?? [],
  };
}
