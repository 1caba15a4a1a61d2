/** The messages of WS-Federation 1.2 (section 13, web requestors) as addresses, and the names of claims. Pure. */

/** Claim types by their short names, as WIF and IdentityServer3 write them. */
export const claimTypes = {
  name: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name',
  nameidentifier: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier',
  upn: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn',
  emailaddress: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress',
  givenname: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/givenname',
  surname: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/surname',
  role: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/role',
  windowsaccountname: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/windowsaccountname',
  primarysid: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/primarysid',
  authenticationMethod: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/authenticationmethod',
  authenticationInstant: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/authenticationinstant',
} as const;

/** OpenID Connect's names for some of them, so that one `ClaimMapping` serves both protocols. */
const openIdNames: Readonly<Record<string, string>> = {
  email: claimTypes.emailaddress,
  given_name: claimTypes.givenname,
  family_name: claimTypes.surname,
};

/** Adds the short names to claims by type. */
export function withShortNames(
  claims: ReadonlyMap<string, readonly string[]>,
): ReadonlyMap<string, readonly string[]> {
  const named = new Map(claims);
  for (const [name, type] of Object.entries({ ...claimTypes, ...openIdNames })) {
    const values = claims.get(type);
    if (values !== undefined && !named.has(name)) named.set(name, values);
  }
  return named;
}

export interface SignInRequest {
  readonly wtrealm: string;
  /** Comes back unchanged. */
  readonly wctx: string;
  readonly wreply?: string | undefined;
  /** Minutes; 0 asks the user anew. */
  readonly wfresh?: number | undefined;
  /** Seconds since the epoch. */
  readonly now: number;
}

/** Where a browser asks for a sign-in. The endpoint may have a query of its own. */
export function signInUrl(endpoint: string, { wtrealm, wctx, wreply, wfresh, now }: SignInRequest): string {
  return withParameters(endpoint, {
    wa: 'wsignin1.0',
    wtrealm,
    wctx,
    wreply,
    wfresh: wfresh?.toString(),
    wct: new Date(now * 1000).toISOString().replace(/\.\d+Z$/, 'Z'),
  });
}

/** Where a browser signs out, and is sent on to `wreply`. */
export function signOutUrl(
  endpoint: string,
  { wtrealm, wreply }: { wtrealm: string; wreply: string },
): string {
  return withParameters(endpoint, { wa: 'wsignout1.0', wtrealm, wreply });
}

function withParameters(endpoint: string, parameters: Readonly<Record<string, string | undefined>>): string {
  const url = new URL(endpoint);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) url.searchParams.set(name, value);
  }
  return url.href;
}
