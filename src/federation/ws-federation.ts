/** The passive requestor profile of WS-Federation 1.2 (section 13) as a relying party speaks it. Pure. */

/** Values of `wa`. */
export const actions = {
  signIn: 'wsignin1.0',
  signOut: 'wsignout1.0',
  signOutCleanup: 'wsignoutcleanup1.0',
} as const;

const identityClaims = 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims';
const microsoftClaims = 'http://schemas.microsoft.com/ws/2008/06/identity/claims';
const entraClaims = 'http://schemas.microsoft.com/identity/claims';

/** The claim types that identity providers of this protocol commonly send. */
export const claimTypes = {
  name: `${identityClaims}/name`,
  nameIdentifier: `${identityClaims}/nameidentifier`,
  upn: `${identityClaims}/upn`,
  email: `${identityClaims}/emailaddress`,
  givenName: `${identityClaims}/givenname`,
  surname: `${identityClaims}/surname`,
  privatePersonalIdentifier: `${identityClaims}/privatepersonalidentifier`,
  role: `${microsoftClaims}/role`,
  windowsAccountName: `${microsoftClaims}/windowsaccountname`,
  primarySid: `${microsoftClaims}/primarysid`,
  groupSid: `${microsoftClaims}/groupsid`,
  authenticationMethod: `${microsoftClaims}/authenticationmethod`,
  authenticationInstant: `${microsoftClaims}/authenticationinstant`,
  /** Entra ID: each method that was used, multi-factor among them. */
  authenticationMethodsReferences: 'http://schemas.microsoft.com/claims/authnmethodsreferences',
  group: 'http://schemas.xmlsoap.org/claims/Group',
  commonName: 'http://schemas.xmlsoap.org/claims/CommonName',
  identityProvider: `${entraClaims}/identityprovider`,
  objectIdentifier: `${entraClaims}/objectidentifier`,
  tenantId: `${entraClaims}/tenantid`,
} as const;

/**
 * Names under which a registration may speak of them: the last part of the type, as Windows has it, and OpenID
 * Connect's names, so that one `ClaimMapping` serves both protocols.
 */
const openIdNames: Readonly<Record<string, string>> = {
  email: claimTypes.email,
  given_name: claimTypes.givenName,
  family_name: claimTypes.surname,
};

/** Adds the short names to claims by type. */
export function withShortNames(
  claims: ReadonlyMap<string, readonly string[]>,
): ReadonlyMap<string, readonly string[]> {
  const named = new Map(claims);
  const shortNames = Object.values(claimTypes).map(
    (type) => [type.slice(type.lastIndexOf('/') + 1), type] as const,
  );
  for (const [name, type] of [...shortNames, ...Object.entries(openIdNames)]) {
    const values = claims.get(type);
    if (values !== undefined && !named.has(name)) named.set(name, values);
  }
  return named;
}

export interface SignInRequest {
  /** Who asks; it becomes the audience of the assertion. */
  readonly wtrealm: string;
  /** Comes back unchanged. */
  readonly wctx: string;
  /** Where to post the answer; the identity provider must know it. */
  readonly wreply?: string | undefined;
  /** The time of the request, in seconds since the epoch. */
  readonly wct: number;
  /** How old the user's authentication may be, in minutes; 0 asks for a new one. */
  readonly wfresh?: number | undefined;
  /** The realm that the user belongs to. */
  readonly whr?: string | undefined;
  /** URI of the authentication method to use. */
  readonly wauth?: string | undefined;
  /** For our own application, which reads it as an authorization request's. */
  readonly uiLocales?: string | undefined;
}

/** Where to send the browser to sign in. A query that the endpoint has already is kept. */
export function signInUrl(endpoint: string, request: SignInRequest): string {
  const { wtrealm, wctx, wreply, wct, wfresh, whr, wauth, uiLocales } = request;
  return withQuery(endpoint, {
    wa: actions.signIn,
    wtrealm,
    wctx,
    wreply,
    wct: `${new Date(wct * 1000).toISOString().slice(0, 19)}Z`,
    wfresh: wfresh?.toString(),
    whr,
    wauth,
    ui_locales: uiLocales,
  });
}

/** Where to send the browser to sign out, and, with `wreply`, to come back from there. */
export function signOutUrl(
  endpoint: string,
  { wtrealm, wreply }: { readonly wtrealm: string; readonly wreply?: string | undefined },
): string {
  return withQuery(endpoint, { wa: actions.signOut, wtrealm, wreply });
}

function withQuery(endpoint: string, parameters: Readonly<Record<string, string | undefined>>): string {
  const url = new URL(endpoint);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) url.searchParams.set(name, value);
  }
  return url.href;
}
