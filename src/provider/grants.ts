/**
 * What an account gives a client, and what ends it.
 *
 * A grant for `offline_access` is the family of one refresh token: each authorization makes its own, and it
 * outlives the sign-out. Without it the grant belongs to the browser's session: authorizations of one client
 * share it, and signing out ends it with every token under it.
 */
import { randomBytes } from 'node:crypto';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import { identityScopes, offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import { collectUserClaims, type TokenClaims } from './access-token.ts';
import { refuseLostScopes } from './scopes.ts';
import { noteUpstream } from './upstream-session.ts';

/** A code may be redeemed in its last second, and the token lives from then. */
const marginSeconds = 60;

/** The end of a family of refresh tokens that has none of its own: ten years. */
const endlessSeconds = 10 * 365 * 86_400;

/** What the consent page left in the interaction: undefined where it was not shown. */
export interface ConsentResult {
  readonly scopes: readonly string[];
}

/** Our member of the engine's entry for a client in the session document. */
interface SessionAuthorization {
  /** The grants that end with the session. */
  sessionGrantIds?: string[];
  /** The last that was made: should the session end before its document is saved, this one ends with it. */
  newGrantId?: string;
}

/** For how many seconds a grant must be there so that no token under it outlives it. */
export function grantLifetimeSeconds(client: Client, isOffline: boolean): number {
  const { AbsoluteRefreshTokenLifetime, AccessTokenLifetime, AuthorizationCodeLifetime } = client;
  const family = AbsoluteRefreshTokenLifetime === 0 ? endlessSeconds : AbsoluteRefreshTokenLifetime;
  const tokens = isOffline ? family + AccessTokenLifetime : AccessTokenLifetime;
  return tokens + AuthorizationCodeLifetime + marginSeconds;
}

/**
 * Whether the consent page must be shown: the client requires it or the request asks for it, and neither this
 * interaction nor a remembered consent answers. `offline_access` always asks, as IdentityServer3 did.
 */
export async function needsConsent(
  { registry, tokens }: Pick<ServerContext, 'registry' | 'tokens'>,
  ctx: KoaContextWithOIDC,
): Promise<boolean> {
  const { oidc } = ctx;
  const client = registry.findClient(oidc.client?.clientId ?? '');
  if (client === undefined) return true;
  const requested = [...oidc.requestParamScopes];
  if (answerOf(ctx) !== undefined) return false;
  if (oidc.prompts.has('consent')) return true;
  if (!client.RequireConsent) return false;
  if (!client.AllowRememberConsent || requested.includes(offlineAccess)) return true;
  const remembered = await tokens.findConsent(oidc.account?.accountId ?? '', client.ClientId);
  return !requested.every((scope) => remembered.includes(scope));
}

function answerOf({ oidc }: KoaContextWithOIDC): readonly string[] | undefined {
  return (oidc.result?.consent as ConsentResult | undefined)?.scopes;
}

/** Makes the engine's `loadExistingGrant`: the grant that this authorization goes under, saved; undefined asks. */
export function createGrantLoader(context: Pick<ServerContext, 'now' | 'registry' | 'tokens'>) {
  const { now, registry } = context;

  return async function loadGrant(ctx: KoaContextWithOIDC) {
    const { oidc } = ctx;
    const { Grant } = oidc.provider as Provider;
    await noteUpstream(context, ctx);
    const client = registry.findClient(oidc.client?.clientId ?? '');
    const accountId = oidc.account?.accountId;
    if (client === undefined || accountId === undefined || oidc.session === undefined) return undefined;
    refuseLostScopes(oidc.requestParamScopes, client);
    if (await needsConsent(context, ctx)) return undefined;

    // The user may have allowed less than was asked for; the engine then leaves the rest out of the code.
    const answer = answerOf(ctx);
    const requested = [...oidc.requestParamScopes].filter((scope) => answer?.includes(scope) ?? true);
    const isOffline = requested.includes(offlineAccess);
    const lifetime = grantLifetimeSeconds(client, isOffline);
    oidc.session.ensureClientContainer(client.ClientId);
    const authorization = oidc.session.authorizationFor(client.ClientId) as SessionAuthorization;

    const shared = isOffline || client.RequireConsent ? undefined : await findSessionGrant(authorization);
    const indicators = Object.keys(oidc.resourceServers ?? {});
    const isEnough = shared !== undefined && addScopes(shared, requested, indicators);
    if (isEnough && (shared.exp ?? 0) >= now() + lifetime) return shared;

    // A grant that is too narrow is replaced by one that has its scopes too, and never written again: two
    // requests that widened it at once would each undo the other.
    const grant = new Grant({ accountId, clientId: client.ClientId });
    addScopes(grant, [...requested, ...(shared?.getOIDCScope().split(' ') ?? [])], []);
    for (const indicator of indicators) {
      addScopes(
        grant,
        [...requested, ...(shared?.getResourceScope(indicator).split(' ') ?? [])],
        [indicator],
      );
    }
    if (isOffline && !client.UpdateAccessTokenClaimsOnRefresh) {
      setTokenClaims(grant, await collectUserClaims(registry, ctx, client, requested));
    }
    // One that is shared lasts for the whole session.
    grant.exp = now() + lifetime + (isOffline ? 0 : registry.configuration.server.SessionLifetime);
    await grant.save();
    authorization.newGrantId = grant.jti;
    if (!isOffline) {
      authorization.sessionGrantIds = [...(authorization.sessionGrantIds ?? []), grant.jti];
    }
    return grant;

    async function findSessionGrant({ sessionGrantIds }: SessionAuthorization) {
      const last = sessionGrantIds?.at(-1);
      const found = last === undefined ? undefined : await Grant.find(last);
      return found?.accountId === accountId && found?.clientId === oidc.client?.clientId ? found : undefined;
    }
  };
}

/**
 * Lets the engine's grants hold the claims of the first access token, which refreshed ones repeat; and gives them
 * ids of 128 bits, since each JWT carries the id of its grant and has to fit into small credential stores.
 */
export function keepTokenClaims({ Grant }: Provider): void {
  const { IN_PAYLOAD } = Grant as unknown as { IN_PAYLOAD: readonly string[] };
  Object.defineProperty(Grant, 'IN_PAYLOAD', { value: [...IN_PAYLOAD, 'tokenClaims'] });
  const prototype = Grant.prototype as unknown as { generateTokenId(): string };
  prototype.generateTokenId = () => randomBytes(16).toString('base64url');
}

/** Puts the claims of the first access token into its grant; none take no room. */
export function setTokenClaims(grant: object, tokenClaims: TokenClaims): void {
  if (Object.keys(tokenClaims).length > 0) Object.assign(grant, { tokenClaims });
}

interface ScopedGrant {
  getOIDCScope(): string;
  getResourceScope(resource: string): string;
  addOIDCScope(scope: string): void;
  addResourceScope(resource: string, scope: string): void;
}

/** Adds what is missing; true where nothing was. */
export function addScopes(
  grant: ScopedGrant,
  requested: readonly string[],
  indicators: readonly string[],
): boolean {
  const ours = requested.filter((scope) => scope in identityScopes || scope === offlineAccess);
  const missing = (has: string, wanted: readonly string[]) => {
    const granted = new Set(has.split(' '));
    return [...new Set(wanted)].filter((scope) => scope !== '' && !granted.has(scope));
  };
  let isWide = true;
  const missingOurs = missing(grant.getOIDCScope(), ours);
  if (missingOurs.length > 0) {
    grant.addOIDCScope(missingOurs.join(' '));
    isWide = false;
  }
  for (const indicator of indicators) {
    const missingThere = missing(grant.getResourceScope(indicator), requested);
    if (missingThere.length === 0) continue;
    grant.addResourceScope(indicator, missingThere.join(' '));
    isWide = false;
  }
  return isWide;
}

/** Ends the grants of a session that has been signed out, with every token under them. */
export async function endSessionGrants(
  { tokens }: Pick<ServerContext, 'tokens'>,
  authorizations: Readonly<Record<string, object>> | undefined,
): Promise<void> {
  for (const { sessionGrantIds } of Object.values(authorizations ?? {}) as SessionAuthorization[]) {
    for (const grantId of sessionGrantIds ?? []) await tokens.revokeGrant(grantId);
  }
}
