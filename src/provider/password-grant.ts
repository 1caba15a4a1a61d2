/** The password grant (RFC 6749 section 4.3) of ResourceOwner clients; the engine has none. */
import { errors, type Provider, type TokenEndpointGrantContext } from 'oidc-provider';
import { type Account, toClaims } from '../accounts/accounts.ts';
import { accountIdOf } from '../accounts/credentials.ts';
import { offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import type { RequestState } from '../http/middleware.ts';
import { collectUserClaims, setAuthentication } from './access-token.ts';
import { addScopes, grantLifetimeSeconds, setTokenClaims } from './grants.ts';
import { settleScopes, toResourceServer } from './scopes.ts';
import { toMethods } from './token-layout.ts';

/** The form fields that the grant reads; the engine hands it no others. */
export const passwordGrantParameters = ['username', 'password', 'scope', 'acr_values'] as const;

type PasswordGrantContext = TokenEndpointGrantContext<{ username?: string; password?: string }>;

/** What a program is told while the source of the account's password does not answer: the same again later. */
export function directoryUnavailable(): Error {
  const error = new errors.TemporarilyUnavailable('the directory does not answer');
  return Object.assign(error, { status: 503, statusCode: 503 });
}

/** What the engine's types leave out of an ID token that a grant of one's own issues. */
interface IssuableIdToken {
  scope: string;
  mask: Record<string, never>;
  rejected: readonly string[];
  issue(options: { use: 'idtoken' }): Promise<string>;
}

/**
 * Makes the handler that the engine calls for `grant_type=password`. It answers with an access token, with a
 * refresh token for `offline_access` and an ID token for `openid`. A refusal tells nothing but that name or
 * password are wrong; the log has the reason.
 */
export function createPasswordGrant(
  provider: Provider,
  {
    accounts,
    audit,
    credentials,
    now,
    registry,
    tokens,
  }: Pick<ServerContext, 'accounts' | 'audit' | 'credentials' | 'now' | 'registry' | 'tokens'>,
): (ctx: PasswordGrantContext) => Promise<void> {
  return async function passwordGrant(ctx) {
    const { oidc } = ctx;
    const { client } = oidc;
    const registration = registry.findClient(client.clientId);
    if (registration === undefined) throw new errors.InvalidClient('client not found');
    const { username, password } = oidc.params;
    if (!username || !password) {
      throw new errors.InvalidRequest('missing required parameter(s) username and password');
    }

    const target = settleScopes(ctx, registration, registry);
    const account = await verify(username, password);
    const { accountId } = account;
    oidc.entity('Account', { accountId, claims: () => ({ ...toClaims(account), sub: accountId }) });
    const authentication = { authTime: now(), identityProvider: 'local', methods: ['pwd'] };
    setAuthentication(ctx, authentication);

    const scopes = [...oidc.requestParamScopes];
    const isOffline = scopes.includes(offlineAccess);
    const grant = new provider.Grant({ accountId, clientId: client.clientId });
    addScopes(grant, scopes, [target.indicator]);
    grant.exp = now() + grantLifetimeSeconds(registration, isOffline);
    if (isOffline && !registration.UpdateAccessTokenClaimsOnRefresh) {
      setTokenClaims(grant, await collectUserClaims(registry, ctx, registration, scopes));
    }
    const grantId = await grant.save();
    oidc.entity('Grant', grant);

    const source = {
      accountId,
      client,
      grantId,
      gty: 'password',
      scope: scopes.join(' '),
    };
    const accessToken = new provider.AccessToken(
      source as ConstructorParameters<typeof provider.AccessToken>[0],
    );
    accessToken.resourceServer = new provider.ResourceServer(
      target.indicator,
      toResourceServer(target, registration),
    );
    oidc.entity('AccessToken', accessToken);

    const body = {
      access_token: await accessToken.save(),
      expires_in: accessToken.expiration,
      ...(isOffline ? { refresh_token: await issueRefreshToken() } : undefined),
      ...(scopes.includes('openid') ? { id_token: await issueIdToken() } : undefined),
      scope: accessToken.scope,
      token_type: 'Bearer',
    };
    if (!(await accounts.isUnchanged(accountId, account.stamp))) {
      await tokens.revokeGrant(grantId);
      throw new errors.InvalidGrant('the account was changed while it signed in');
    }
    ctx.body = body;

    async function verify(name: string, secret: string): Promise<Account> {
      const { clientAddress: address } = ctx.state as RequestState;
      const result = await credentials.verify(name, secret, { address });
      if (result.kind === 'blocked') {
        const { counter, seconds } = result.block;
        audit.record(
          ['sign-in', 'refused'],
          { clientId: client.clientId, reason: 'too-many-attempts', counter },
          'password grant refused',
        );
        ctx.set('Retry-After', String(seconds));
      }
      if (result.kind === 'unavailable') {
        audit.record(
          ['sign-in', 'failed'],
          { clientId: client.clientId, reason: result.reason },
          'password grant refused',
        );
        throw directoryUnavailable();
      }
      const about = { accountId: accountIdOf(result), clientId: client.clientId };
      if (result.kind === 'accepted') {
        audit.record(['sign-in', 'success'], about, 'password grant accepted');
        return result.account;
      }
      const reason = result.kind === 'refused' ? result.reason : result.kind;
      if (result.kind !== 'blocked') {
        audit.record(['sign-in', 'refused'], { ...about, reason }, 'password grant refused');
      }
      const refusal = new errors.InvalidGrant(reason);
      // IdentityServer3's words, which clients compare.
      refusal.error_description =
        result.kind === 'must-change' ? 'password_must_be_changed' : 'invalid_username_or_password';
      throw refusal;
    }

    async function issueRefreshToken(): Promise<string> {
      const refreshToken = new provider.RefreshToken({
        ...source,
        amr: toMethods(authentication),
        authTime: authentication.authTime,
        resource: target.indicator,
        rotations: 0,
      } as unknown as ConstructorParameters<typeof provider.RefreshToken>[0]);
      oidc.entity('RefreshToken', refreshToken);
      return refreshToken.save();
    }

    async function issueIdToken(): Promise<string> {
      const idToken = new provider.IdToken(
        { sub: accountId, amr: toMethods(authentication), auth_time: authentication.authTime },
        { ctx },
      ) as unknown as IssuableIdToken;
      idToken.scope = 'openid';
      idToken.mask = {};
      idToken.rejected = [];
      return idToken.issue({ use: 'idtoken' });
    }
  };
}
