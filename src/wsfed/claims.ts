/** What an assertion says of an account, in the claim types that Windows and IdentityServer3 have. Pure. */
import { type Account, toClaims } from '../accounts/accounts.ts';
import type { RelyingParty } from '../config/load.ts';
import { claimTypes } from '../federation/ws-federation.ts';

/** The claims of the account by the names under which a registration asks for them. */
const standard: Readonly<
  Record<string, { type: string; read: (account: Account) => readonly (string | undefined)[] }>
> = {
  name: { type: claimTypes.name, read: ({ name }) => [name] },
  nameidentifier: { type: claimTypes.nameIdentifier, read: ({ accountId }) => [accountId] },
  windowsaccountname: { type: claimTypes.windowsAccountName, read: ({ windowsName }) => [windowsName] },
  upn: {
    type: claimTypes.upn,
    read: ({ claims, name }) => [textOf(claims.upn) ?? (name.includes('@') ? name : undefined)],
  },
  emailaddress: { type: claimTypes.email, read: ({ email }) => [email] },
  givenname: { type: claimTypes.givenName, read: ({ claims }) => [textOf(claims.given_name)] },
  surname: { type: claimTypes.surname, read: ({ claims }) => [textOf(claims.family_name)] },
  role: { type: claimTypes.role, read: ({ roles }) => roles },
};

/** The claims that the relying party asks for and the account has, by type. */
export function claimsFor(
  { Claims }: Pick<RelyingParty, 'Claims'>,
  account: Account,
): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, readonly string[]>();
  const own = new Map(Object.entries(toClaims(account)));
  for (const name of Claims) {
    const known = Object.hasOwn(standard, name) ? standard[name] : undefined;
    const type = known?.type ?? typeOf(name);
    const values = known === undefined ? valuesOf(own.get(name)) : known.read(account);
    const texts = values.filter((value) => value !== undefined && value !== '') as string[];
    if (texts.length > 0) found.set(type, texts);
  }
  return found;
}

/** Claims of our own have no type that anybody has agreed upon. */
function typeOf(name: string): string {
  return URL.canParse(name) ? name : `http://schemas.xmlsoap.org/ws/2005/05/identity/claims/${name}`;
}

function textOf(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.[0];
}

function valuesOf(value: unknown): readonly string[] {
  if (value === undefined || value === null) return [];
  const values: unknown[] = Array.isArray(value) ? value : [value];
  return values.map((one) => (typeof one === 'object' ? JSON.stringify(one) : String(one)));
}
