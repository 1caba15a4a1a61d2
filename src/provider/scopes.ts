/**
 * Which scopes a request gets, and for whom its token is. The engine drops what it does not know without a
 * word; we refuse it by name (RFC 6749 section 3.3).
 */
import { errors, type KoaContextWithOIDC, type ResourceServer } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import { identityScopes, offlineAccess } from '../config/schema.ts';
import { isInteractive } from '../registry/client-metadata.ts';
import type { Registry, ScopeResolution, TokenTarget } from '../registry/registry.ts';

/**
 * Settles the scopes of a request and returns the target of its access token. Puts the settled list into the
 * request: a direct call without any gets those of its client, and `offline_access` is there again where the
 * engine dropped it because `prompt=consent` was not asked for (old clients never ask). An empty list, as the
 * toolkit's client writes one, stands for all that its registration has.
 *
 * @throws {errors.InvalidScope} for an unknown or forbidden scope, or for resources that no one token can serve
 */
export function settleScopes(ctx: KoaContextWithOIDC, client: Client, registry: Registry): TokenTarget {
  const { params } = ctx.oidc;
  const isForClient = params?.grant_type === 'client_credentials';
  const isByBrowser = isInteractive(client) && !isForClient;
  const sent = requestedScopes(ctx);
  const requested = isByBrowser && sent.join(' ') === emptyList ? client.AllowedScopes : sent;
  if (requested.length === 0 && isByBrowser) {
    throw new errors.InvalidScope('the scope parameter is required', '');
  }
  const resolution = isForClient
    ? resolveClientScopes(registry, client, requested)
    : resolveUserScopes(registry, client, requested);
  if (resolution.kind === 'refused') throw new errors.InvalidScope(resolution.reason, resolution.scope);
  Object.assign(params ?? {}, { scope: resolution.scopes.join(' ') });
  return resolution.target;
}

/** The scopes of a token for a client itself, and its target. Without any those of the registration. Pure. */
export function resolveClientScopes(
  registry: Pick<Registry, 'resolveScopes'>,
  client: Client,
  requested: readonly string[],
): ScopeResolution {
  const isAboutUser = (scope: string) => scope === offlineAccess || scope in identityScopes;
  const scopes =
    requested.length > 0 ? requested : client.AllowedScopes.filter((scope) => !isAboutUser(scope));
  // There is no user whom they could be about (IdentityServer3 refuses them too).
  const misplaced = scopes.find(isAboutUser);
  if (misplaced !== undefined) {
    return { kind: 'refused', scope: misplaced, reason: 'requested scope needs a user' };
  }
  return registry.resolveScopes(client, scopes);
}

function resolveUserScopes(
  registry: Registry,
  client: Client,
  requested: readonly string[],
): ScopeResolution {
  const scopes =
    requested.length > 0 ? requested : client.AllowedScopes.filter((scope) => scope !== offlineAccess);
  return registry.resolveScopes(client, scopes);
}

/**
 * Refuses what a client may not have any more: its registration has changed since the user, or an earlier
 * request, was asked.
 *
 * @throws {errors.InvalidScope}
 */
export function refuseLostScopes(
  scopes: Iterable<string>,
  { AllowedScopes }: Pick<Client, 'AllowedScopes'>,
): void {
  for (const scope of scopes) {
    if (AllowedScopes.includes(scope)) continue;
    throw new errors.InvalidScope('requested scope is not allowed for this client any more', scope);
  }
}

/** What the MI Scripting Toolkit sends where it has not been told a scope: the empty list of its language. */
const emptyList = '[]';

/** The scopes as they were sent: the engine's own list has lost some already. */
function requestedScopes({ method, query, oidc }: KoaContextWithOIDC): readonly string[] {
  const sent = method === 'POST' ? oidc.body?.scope : query.scope;
  return typeof sent === 'string' ? [...new Set(sent.split(' ').filter(Boolean))] : [];
}

/** The target in the engine's form: with the scopes that this client may have there, ours among them. */
export function toResourceServer(target: TokenTarget, client: Client): ResourceServer {
  const allowed = new Set<string>(client.AllowedScopes);
  const scopes = [...Object.keys(identityScopes), ...target.scopes, offlineAccess];
  return {
    audience: target.audience,
    scope: scopes.filter((scope) => allowed.has(scope)).join(' '),
    accessTokenFormat: client.AccessTokenType === 'Reference' ? 'opaque' : 'jwt',
    accessTokenTTL: client.AccessTokenLifetime,
    jwt: { sign: { alg: target.algorithm } },
  };
}
