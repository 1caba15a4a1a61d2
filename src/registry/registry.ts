/**
 * What the running server knows of clients and resources: one snapshot of the configuration, exchanged whole.
 * Nothing captures a registration for longer than a request.
 */
import type { Client, Configuration, Resource } from '../config/load.ts';
import { identityScopes, offlineAccess, usualAlgorithm } from '../config/schema.ts';

export interface Registry {
  /** The snapshot in force. */
  readonly configuration: Configuration;
  /** An enabled client. */
  findClient(clientId: string): Client | undefined;
  /** True for the account that a ClientCredentials client runs as: no person signs in with it. */
  isClientAccount(accountId: string): boolean;
  /** Whether scripts of this origin are an enabled client's. */
  isCorsOrigin(origin: string): boolean;
  /** An enabled resource. */
  findResource(name: string): Resource | undefined;
  /** What the scopes of a request mean for this client. */
  resolveScopes(client: Client, requested: readonly string[]): ScopeResolution;
  /** The claims of the account that access tokens with these scopes carry. */
  claimsOfScopes(scopes: readonly string[]): readonly string[];
  /** The access token's target by its {@link TokenTarget.indicator}. */
  findTarget(indicator: string): TokenTarget | undefined;
  /** Exchanges the snapshot. */
  replace(configuration: Configuration): void;
}

/** For whom an access token is: one resource, several that share audience and layout, or us alone (userinfo). */
export interface TokenTarget {
  /** How the engine names it, an absolute URI as RFC 8707 wants it: `urn:postern:resource:` and the names. */
  readonly indicator: string;
  readonly audience: string;
  readonly layout: Resource['TokenLayout'];
  readonly algorithm: Resource['SigningAlgorithm'];
  /** Every scope of the resources. */
  readonly scopes: readonly string[];
}

export type ScopeResolution =
  | { readonly kind: 'resolved'; readonly scopes: readonly string[]; readonly target: TokenTarget }
  | { readonly kind: 'refused'; readonly scope: string; readonly reason: string };

const indicatorPrefix = 'urn:postern:resource:';

/** Makes the registry over a first snapshot. */
export function createRegistry(first: Configuration): Registry {
  let snapshot = first;
  let { clientAccounts, corsOrigins, resourceOfScope, targetOfName } = toIndexes(first);

  /** What every request asks is answered from the indexes, whatever the number of clients. */
  function toIndexes(configuration: Configuration) {
    snapshot = configuration;
    const clients = [...configuration.clients.values()];
    const enabled = [...configuration.resources.values()].filter(({ Enabled }) => Enabled);
    return {
      clientAccounts: new Set(
        clients
          .filter((one) => one.Flow === 'ClientCredentials' && one.ClientCredentialsSubject === 'Account')
          .map(({ ClientId }) => ClientId.toLowerCase()),
      ),
      corsOrigins: new Set(
        clients.filter(({ Enabled }) => Enabled).flatMap(({ AllowedCorsOrigins }) => AllowedCorsOrigins),
      ),
      resourceOfScope: new Map(
        enabled.flatMap((resource) => resource.Scopes.map(({ Name }) => [Name, resource] as const)),
      ),
      targetOfName: new Map(enabled.map((resource) => [resource.Name, toTarget([resource])])),
    };
  }

  function targetOf(resources: readonly Resource[]): TokenTarget {
    const [resource, ...others] = resources;
    const known = others.length > 0 ? undefined : targetOfName.get(resource?.Name ?? '');
    return known ?? toTarget(resources);
  }

  function toTarget(resources: readonly Resource[]): TokenTarget {
    const [resource] = resources;
    return {
      indicator: indicatorPrefix + resources.map(({ Name }) => encodeURIComponent(Name)).join(':'),
      // A token for us alone has the default layout and its audience.
      audience: resource?.Audience ?? `${snapshot.server.PublicUrl}/resources`,
      layout: resource?.TokenLayout ?? 'IdentityServer3',
      algorithm: resource?.SigningAlgorithm ?? usualAlgorithm,
      scopes: resources.flatMap(({ Scopes }) => Scopes.map(({ Name }) => Name)),
    };
  }

  return {
    get configuration() {
      return snapshot;
    },

    findClient(clientId) {
      const client = snapshot.clients.get(clientId);
      return client?.Enabled ? client : undefined;
    },

    isClientAccount(accountId) {
      return clientAccounts.has(accountId.toLowerCase());
    },

    isCorsOrigin(origin) {
      return corsOrigins.has(origin);
    },

    findResource(name) {
      const resource = snapshot.resources.get(name);
      return resource?.Enabled ? resource : undefined;
    },

    resolveScopes(client, requested) {
      const allowed = new Set<string>(client.AllowedScopes);
      const resources = new Set<Resource>();
      for (const scope of requested) {
        const resource = resourceOfScope.get(scope);
        if (resource === undefined && scope !== offlineAccess && !(scope in identityScopes)) {
          return { kind: 'refused', scope, reason: 'requested scope is unknown' };
        }
        if (!allowed.has(scope)) {
          return { kind: 'refused', scope, reason: 'requested scope is not allowed for this client' };
        }
        if (resource !== undefined) resources.add(resource);
      }
      const [first, ...others] = [...resources].sort((a, b) => (a.Name < b.Name ? -1 : 1));
      const stranger = others.find(
        ({ Audience, TokenLayout }) => Audience !== first?.Audience || TokenLayout !== first.TokenLayout,
      );
      if (stranger !== undefined) {
        const scope = stranger.Scopes.find(({ Name }) => requested.includes(Name))?.Name ?? '';
        return {
          kind: 'refused',
          scope,
          reason: 'requested scopes belong to resources with different audiences',
        };
      }
      const target = targetOf(first === undefined ? [] : [first, ...others]);
      return { kind: 'resolved', scopes: requested, target };
    },

    claimsOfScopes(scopes) {
      return scopes.flatMap(
        (scope) => resourceOfScope.get(scope)?.Scopes.find(({ Name }) => Name === scope)?.Claims ?? [],
      );
    },

    findTarget(indicator) {
      if (!indicator.startsWith(indicatorPrefix)) return undefined;
      const names = indicator.slice(indicatorPrefix.length).split(':').filter(Boolean);
      const resources = names.map((name) => this.findResource(decodeURIComponent(name)));
      return resources.every((resource) => resource !== undefined) ? targetOf(resources) : undefined;
    },

    replace(configuration) {
      ({ clientAccounts, corsOrigins, resourceOfScope, targetOfName } = toIndexes(configuration));
    },
  };
}
