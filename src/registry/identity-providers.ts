/** Which identity providers a client's users may sign in through, and which one a request asks for. Pure. */
import { localLogin } from '../config/checks.ts';
import type { Client, Provider } from '../config/load.ts';

/** The enabled identity providers of a client: those that it names, or all where it names none. */
export function identityProvidersOf(
  { IdentityProviderRestrictions: names }: Pick<Client, 'IdentityProviderRestrictions'>,
  providers: ReadonlyMap<string, Provider>,
): readonly Provider[] {
  return [...providers.values()].filter(
    ({ Enabled, Name }) => Enabled && (names.length === 0 || names.includes(Name)),
  );
}

/**
 * Whether local sign-in is open to a client's users. It has one factor alone, so it is of no use to a client that
 * requires more.
 */
export function allowsLocalLogin({
  EnableLocalLogin,
  RequireMfa,
}: Pick<Client, 'EnableLocalLogin' | 'RequireMfa'>): boolean {
  return EnableLocalLogin && !RequireMfa;
}

/** Where `acr_values` are kept in a request without `openid`: the engine takes them with it alone. */
export const carriedAcrValues = 'postern_acr_values';

/**
 * The identity provider that a request asks for by `acr_values=idp:<name>`, as IdentityServer has it; `local` for
 * our own sign-in, which IdentityServer3 calls `idsrv`.
 */
export function requestedIdentityProvider(
  parameters: Readonly<Record<string, unknown>> = {},
): string | undefined {
  const acrValues = parameters.acr_values ?? parameters[carriedAcrValues];
  if (typeof acrValues !== 'string') return undefined;
  const wanted = acrValues.split(' ').find((value) => value.startsWith('idp:'));
  const name = wanted?.slice('idp:'.length);
  return name === 'idsrv' ? localLogin : name || undefined;
}
