/** The decision which way a user signs in. Pure. */
import { localLogin } from '../config/checks.ts';
import type { Client, Provider } from '../config/load.ts';
import { allowsLocalLogin, identityProvidersOf } from '../registry/identity-providers.ts';

/** `providers` are those to offer by name; `byDomain` those that a typed name may lead to. */
interface Offer {
  readonly providers: readonly Provider[];
  readonly byDomain: readonly Provider[];
}

export type LoginStep =
  | ({ readonly kind: 'local' } & Offer)
  | ({ readonly kind: 'choose' } & Offer)
  | { readonly kind: 'redirect'; readonly provider: Provider }
  /** `requested` is the name that was asked for and is not to be had. */
  | { readonly kind: 'refuse'; readonly requested?: string };

/**
 * Decides how the user signs in to this client.
 *
 * A provider that the request asks for is the only way, where the client allows it. Otherwise our own page is
 * shown where the client allows local sign-in, with the providers beneath; else one provider is gone to, several
 * are offered, none is refused. A provider without a caption is not offered (IdentityServer3), but found by the
 * domain of a typed name.
 */
export function chooseLogin(
  client: Pick<Client, 'EnableLocalLogin' | 'IdentityProviderRestrictions' | 'RequireMfa'>,
  all: ReadonlyMap<string, Provider>,
  requested?: string,
): LoginStep {
  const allowed = identityProvidersOf(client, all);
  const isLocal = allowsLocalLogin(client);
  if (requested === localLogin) {
    return isLocal ? { kind: 'local', providers: [], byDomain: [] } : { kind: 'refuse', requested };
  }
  if (requested !== undefined) {
    const provider = allowed.find(({ Name }) => Name === requested);
    return provider === undefined ? { kind: 'refuse', requested } : { kind: 'redirect', provider };
  }

  const providers = allowed.filter(({ Caption }) => Caption !== '');
  const byDomain = allowed.filter(({ Domains }) => Domains.length > 0);
  if (isLocal) return { kind: 'local', providers, byDomain };
  const [only, ...others] = providers.length === 0 ? allowed : providers;
  const isHiddenOneFound = byDomain.some(({ Caption }) => Caption === '');
  if (only === undefined) return { kind: 'refuse' };
  if (others.length === 0 && (allowed.length === 1 || !isHiddenOneFound)) {
    return { kind: 'redirect', provider: only };
  }
  return providers.length === 0 && byDomain.length === 0
    ? { kind: 'refuse' }
    : { kind: 'choose', providers, byDomain };
}

/** The provider whose domain a typed name ends with. */
export function findByDomain(byDomain: readonly Provider[], userName: string): Provider | undefined {
  const domain = /@([^@\s]+)$/.exec(userName.trim())?.[1]?.toLowerCase();
  return byDomain.find(({ Domains }) => Domains.some((own) => own.toLowerCase() === domain));
}
