/**
 * The engine, configured: one factory that makes a ready provider from keys and a registry. All state is in the
 * store, so a second provider with other keys can take over from the first at any time.
 */

import { createHmac, createSecretKey } from 'node:crypto';
import { decodeJwt } from 'jose';
import {
  type AdapterFactory,
  type Configuration as EngineConfiguration,
  errors,
  interactionPolicy,
  type KoaContextWithOIDC,
  Provider,
  type ResponseType,
} from 'oidc-provider';
import { toClaims } from '../accounts/accounts.ts';
import type { Verdict } from '../accounts/standing.ts';
import { localLogin } from '../config/checks.ts';
import type { Client, Configuration } from '../config/load.ts';
import { identityScopes, offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import type { Outgoing } from '../federation/outgoing.ts';
import { engineCookies } from '../http/interaction-cookies.ts';
import { toUiLocales, withUiLocales } from '../http/language.ts';
import type { AnswerPlainly } from '../http/plain.ts';
import { basePathOf } from '../registry/client-metadata.ts';
import {
  allowsLocalLogin,
  carriedAcrValues,
  identityProvidersOf,
  requestedIdentityProvider,
} from '../registry/identity-providers.ts';
import {
  type AccessTokenVerifier,
  acceptTokensAtUserinfo,
  extraTokenClaims,
  layOutToken,
  refuseOtherHints,
} from './access-token.ts';
import { reportEvents } from './audit.ts';
import { type CallerState, findRightSecret } from './client-authentication.ts';
import { clientCredentialsParameters, createClientCredentials } from './client-credentials.ts';
import {
  admitOldRedirects,
  buildEngineClients,
  type EngineClient,
  protocolSettings,
} from './engine-clients.ts';
import { deliverInBackground, type Farewells } from './farewell.ts';
import { dressFormPost } from './form-post.ts';
import { createGrantLoader, keepTokenClaims } from './grants.ts';
import { createPasswordGrant, directoryUnavailable, passwordGrantParameters } from './password-grant.ts';
import { refuseLostScopes, settleScopes, toResourceServer } from './scopes.ts';
import { renderProviderError, signOutViews } from './sign-out.ts';
import { fromMethods } from './token-layout.ts';
import { keepUpstreamSessions, upstreamOf } from './upstream-session.ts';

export interface OidcProvider {
  readonly engine: Provider;
  /** The grant of clients for themselves, for plain forms at the token endpoint. */
  readonly grantPlainly: AnswerPlainly;
  /**
   * Builds the engine's clients of a configuration without using them yet, and returns the function that puts
   * them in force.
   *
   * @throws {ConfigurationError} with everything that the engine has against them
   */
  buildClients(configuration: Configuration): () => void;
}

type Context = Pick<
  ServerContext,
  | 'accounts'
  | 'audit'
  | 'brand'
  | 'credentials'
  | 'guessing'
  | 'keys'
  | 'log'
  | 'metrics'
  | 'now'
  | 'registry'
  | 'standing'
  | 'tokens'
>;

/** Paths under the issuer, as IdentityServer3 had them. */
export const routes = {
  authorization: '/connect/authorize',
  token: '/connect/token',
  userinfo: '/connect/userinfo',
  introspection: '/connect/introspect',
  revocation: '/connect/revocation',
  end_session: '/connect/endsession',
  jwks: '/.well-known/jwks',
} as const;

/**
 * Makes a provider.
 *
 * @param adapter the store, as the engine sees it
 * @param verifyAccessToken verifies our own JWT access tokens, for userinfo
 */
export function createProvider(
  context: Context,
  {
    adapter,
    farewells,
    outgoing,
    verifyAccessToken,
  }: {
    adapter: AdapterFactory;
    farewells: Farewells;
    outgoing: Pick<Outgoing, 'fetch'>;
    verifyAccessToken: AccessTokenVerifier;
  },
): OidcProvider {
  const { keys, now, registry, tokens } = context;
  const { server } = registry.configuration;
  const engine = new Provider(server.PublicUrl, toEngineConfiguration(context, adapter, outgoing));
  engine.proxy = true;

  engine.registerGrantType('password', createPasswordGrant(engine, context), passwordGrantParameters);
  const clientCredentials = createClientCredentials(context, adapter);
  const { read, repeated } = clientCredentialsParameters;
  engine.registerGrantType('client_credentials', clientCredentials.grant, read, repeated);
  acceptTokensAtUserinfo(engine, { tokens, verifyAccessToken }, () => currentContext()?.oidc.route);
  deriveSuccessors(engine, keys.deriveKey('refresh token successor'));
  describeAuthentication(engine, now);
  reportEvents(engine, context);
  deliverInBackground(engine, farewells);
  tellSessions(engine, registry);
  admitOldRedirects(engine);
  keepTokenClaims(engine);
  refuseOtherHints(engine);
  keepUpstreamSessions(engine);
  dressFormPost(engine, context);

  // Secrets are hashes, several at once; the engine would compare one in clear.
  engine.Client.prototype.compareClientSecret = async function compareClientSecret(
    this: EngineClient,
    secret,
  ) {
    const client = registry.findClient(this.clientId);
    if (client === undefined) return false;
    const ctx = currentContext();
    if (ctx === undefined) return false;
    const { hasGuessed, verifiedClientId } = ctx.state as CallerState;
    if (verifiedClientId === this.clientId) return true;
    // Whatever the engine reads in a header has been read before, and counted.
    if (hasGuessed) return false;
    const reading = { id: this.clientId, secret, secrets: client.ClientSecrets };
    return (await findRightSecret(ctx, context, [reading])) !== undefined;
  } as typeof engine.Client.prototype.compareClientSecret;

  let clients: ReadonlyMap<string, EngineClient> = new Map();
  engine.Client.find = async function find(clientId: string) {
    return clients.get(clientId);
  } as typeof engine.Client.find;

  return {
    engine,
    grantPlainly: clientCredentials.grantPlainly,

    buildClients(configuration) {
      const built = buildEngineClients(engine, configuration);
      return () => {
        clients = built;
      };
    },
  };
}

/** The request that the engine is serving, in its own async context. */
function currentContext(): KoaContextWithOIDC | undefined {
  return Provider.ctx as KoaContextWithOIDC | undefined;
}

function toEngineConfiguration(
  context: Context,
  adapter: AdapterFactory,
  outgoing: Pick<Outgoing, 'fetch'>,
): EngineConfiguration {
  const { accounts, keys, now, registry, standing, tokens } = context;
  const { server } = registry.configuration;
  const isSecure = server.PublicUrl.startsWith('https:');

  /** The registration behind the engine's client; it may have been disabled a moment ago. */
  function registrationOf(client: EngineClient | undefined): Client {
    const registration = registry.findClient(client?.clientId ?? '');
    if (registration === undefined) throw new errors.InvalidClient('client is disabled', 'client not found');
    return registration;
  }

  return {
    adapter,
    jwks: { keys: keys.privateJwks.keys.map((key) => ({ ...key })) } as NonNullable<
      EngineConfiguration['jwks']
    >,
    routes,
    ...protocolSettings,
    claims: Object.fromEntries(
      Object.entries(identityScopes).map(([name, { claims }]) => [name, [...claims]]),
    ),
    clockTolerance: 0,
    allowOmittingSingleRegisteredRedirectUri: false,
    conformIdTokenClaims: true,
    pkce: { required: (_ctx, client) => registrationOf(client).RequirePkce },
    cookies: {
      // Node makes a key out of a text anew for each HMAC, and a sign-in has a dozen. The types know texts alone.
      keys: keys.cookieKeys.map((key) => createSecretKey(key, 'utf8') as unknown as string),
      names: { session: isSecure ? '__Host-postern.session' : 'postern.session', ...engineCookies },
      // Path /: browsers compare it with regard to case, IIS and we do not; the prefix __Host- needs it too.
      long: { httpOnly: true, sameSite: 'lax', signed: true, path: '/', secure: isSecure },
      short: { signed: false },
    },

    async findAccount(ctx, name) {
      // The ID token says who and how; what else there is to say is at userinfo, as IdentityServer3 had it.
      // Where no access token is asked for, there is nothing to ask userinfo with.
      const isIdOnly = (use: string) => use === 'id_token' && ctx.oidc?.params?.response_type !== 'id_token';
      // Who has just signed in is looked at when everything is written: see endOvertakenSignIns.
      const { login, stamp } = (ctx.oidc?.result ?? {}) as { login?: { accountId: string }; stamp?: string };
      if (ctx.oidc?.route === 'resume' && stamp !== undefined && login?.accountId === name) {
        return {
          accountId: name,
          async claims(use) {
            const account = isIdOnly(use) ? undefined : await accounts.find(name);
            return { ...(account && toClaims(account)), sub: name };
          },
        };
      }
      const account = await accounts.find(name);
      if (account === undefined || account.disabled) return undefined;
      const { accountId } = account;
      const verdict = await askStanding(ctx, accountId);
      if (verdict.kind !== 'good') return undefined;
      const current = verdict.account ?? account;
      return {
        accountId,
        claims: (use) => ({ ...(isIdOnly(use) ? undefined : toClaims(current)), sub: accountId }),
      };
    },

    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: false },
      pushedAuthorizationRequests: { enabled: false },
      clientCredentials: { enabled: true },
      userinfo: { enabled: true },
      // Both are ours: the engine's refuse JWTs, and answer in another shape than the Web API reads.
      introspection: { enabled: false },
      revocation: { enabled: false },
      rpInitiatedLogout: { enabled: true, ...signOutViews(context) },
      backchannelLogout: { enabled: true },
      resourceIndicators: {
        enabled: true,
        async defaultResource(ctx, client, oneOf) {
          const [granted] = oneOf ?? [];
          return granted ?? settleScopes(ctx, registrationOf(client), registry).indicator;
        },
        async getResourceServerInfo(ctx, indicator, client) {
          const registration = registrationOf(client);
          refuseLostScopes(ctx.oidc.entities.AuthorizationCode?.scopes ?? [], registration);
          // The indicator is ours, found from the scopes; a caller's own (RFC 8707) would go round their check.
          const isSent = ctx.query.resource !== undefined || ctx.oidc.body?.resource !== undefined;
          const target = isSent ? undefined : registry.findTarget(indicator);
          if (target === undefined) throw new errors.InvalidTarget('name the resource by its scopes');
          return toResourceServer(target, registration);
        },
        useGrantedResource: () => true,
      },
    },

    extraTokenClaims: async (ctx, token) => ({ ...(await extraTokenClaims(context, ctx, token)) }),
    formats: {
      customizers: {
        jwt: (_ctx, token, jwt) => {
          layOutToken(
            context,
            token as Parameters<typeof layOutToken>[1],
            jwt as Parameters<typeof layOutToken>[2],
          );
        },
      },
    },

    // What the engine refuses without openid, carried past it by old-callers.ts.
    extraParams: [carriedAcrValues],

    // Codes and tokens do not depend on the session row; signing out ends the grants of the session instead.
    expiresWithSession: () => false,
    issueRefreshToken: (_ctx, client, code) =>
      client.grantTypeAllowed('refresh_token') && code.scopes.has(offlineAccess),
    rotateRefreshToken: rotateOrProlong,
    loadExistingGrant: createGrantLoader(context),
    interactions: {
      policy: createPolicy(context),
      url: (_ctx, { params, uid }) =>
        withUiLocales(
          `${basePathOf(server.PublicUrl)}/login/${uid}?client_id=${encodeURIComponent(String(params.client_id))}`,
          toUiLocales(params.ui_locales),
        ),
    },
    renderError: (ctx, out, err) => renderProviderError(context, ctx, out, err),

    ttl: {
      AccessToken: (_ctx, _token, client) => registrationOf(client).AccessTokenLifetime,
      AuthorizationCode: (_ctx, _token, client) => registrationOf(client).AuthorizationCodeLifetime,
      IdToken: (_ctx, _token, client) => registrationOf(client).IdentityTokenLifetime,
      RefreshToken: (_ctx, token, client) => refreshLifetime(registrationOf(client), token.totalLifetime()),
      Interaction: () => server.InteractionLifetime,
      // From the sign-in on, not from the last request: the session is not prolonged by use.
      // Who came from an identity provider may have signed in there long before.
      Session: (_ctx, session) => {
        const signedInAt = upstreamOf(session)?.signedInAt ?? session.loginTs ?? now();
        return Math.max(1, signedInAt + server.SessionLifetime - now());
      },
    },

    // The engine calls clients out of their registration alone (back-channel logout): the operator's own addresses.
    fetch: (url, options) =>
      outgoing.fetch(String(url), {
        method: options?.method ?? 'GET',
        headers: Object.fromEntries(new Headers(options?.headers as Record<string, string>)),
        body: String(options?.body ?? ''),
        redirect: 'manual',
        trustedHosts: [new URL(url).hostname],
      }),
  };

  /**
   * Whether the directory still vouches for an account, where one stands behind it: asked anew at a refresh, which
   * fails, without the token being used up, while there is no answer.
   */
  async function askStanding(ctx: KoaContextWithOIDC, accountId: string): Promise<Verdict> {
    const isRefresh = ctx.oidc?.route === 'token' && ctx.oidc.params?.grant_type === 'refresh_token';
    const verdict = await standing.check(accountId, { isFresh: isRefresh });
    if (isRefresh && verdict.kind === 'unknown') throw directoryUnavailable();
    return verdict;
  }

  /** OneTimeOnly rotates. ReUse keeps the handle and notes its use, and with Sliding its end moves. */
  async function rotateOrProlong(ctx: KoaContextWithOIDC): Promise<boolean> {
    const client = registrationOf(ctx.oidc.client);
    const { RefreshToken: token } = ctx.oidc.entities;
    // What the client may no longer have is refused by name, and the token stays for a narrower request.
    const wanted = ctx.oidc.params?.scope === undefined ? (token?.scopes ?? []) : ctx.oidc.requestParamScopes;
    refuseLostScopes(wanted, client);
    if (client.RefreshTokenUsage === 'OneTimeOnly') return true;
    if (token !== undefined) {
      const isSliding = client.RefreshTokenExpiration === 'Sliding';
      const end = isSliding ? now() + refreshLifetime(client, token.totalLifetime()) : (token.exp ?? now());
      await tokens.touch('RefreshToken', token.jti, end);
    }
    return false;
  }
}

/** Puts `sid` into the ID tokens of clients that are told of a sign-out by it. */
function tellSessions({ Client }: Provider, registry: Context['registry']): void {
  const prototype = Client.prototype as unknown as { includeSid(this: EngineClient): boolean | undefined };
  prototype.includeSid = function includeSid() {
    const client = registry.findClient(this.clientId);
    return (
      (client?.LogoutUri !== undefined && client.LogoutSessionRequired) ||
      (client?.BackChannelLogoutUri !== undefined && client.BackChannelLogoutSessionRequired)
    );
  };
}

/** How much longer a refresh token lives whose family is `age` seconds old; at least a second. */
function refreshLifetime(client: Client, age: number): number {
  const { AbsoluteRefreshTokenLifetime, RefreshTokenExpiration, SlidingRefreshTokenLifetime } = client;
  // 0, with Sliding alone: the use of the token is its only end.
  const rest =
    AbsoluteRefreshTokenLifetime === 0 ? Number.POSITIVE_INFINITY : AbsoluteRefreshTokenLifetime - age;
  return Math.max(
    1,
    RefreshTokenExpiration === 'Sliding' ? Math.min(SlidingRefreshTokenLifetime, rest) : rest,
  );
}

/** When the user is asked: to sign in, and to consent. */
function createPolicy({ registry }: Context) {
  const { Check, Prompt, base } = interactionPolicy;
  const policy = base();

  policy
    .get('login')
    ?.checks.add(
      new Check(
        'account_gone',
        'the account of the session is disabled or removed',
        ({ oidc }) => oidc.session?.accountId !== undefined && oidc.account === undefined,
      ),
    );
  // A session made by a way of signing in that this client or this request does not allow: back to the login page,
  // not an error. What comes from there satisfies both, so that nobody goes round in a loop.
  policy.get('login')?.checks.add(
    new Check('way_not_allowed', 'the way of signing in is not allowed for the client', ({ oidc }) => {
      const { session } = oidc;
      if (session?.accountId === undefined) return false;
      const client = registry.findClient(oidc.client?.clientId ?? '');
      if (client === undefined) return false;
      const { identityProvider, methods } = fromMethods(session.amr, 0);
      const requested = requestedIdentityProvider(oidc.params);
      if (requested !== undefined && requested !== identityProvider) return true;
      if (client.RequireMfa && !methods.includes('mfa')) return true;
      if (identityProvider === localLogin) return !allowsLocalLogin(client);
      const allowed = identityProvidersOf(client, registry.configuration.providers);
      return !allowed.some(({ Name }) => Name === identityProvider);
    }),
  );

  policy.get('login')?.checks.add(
    new Check('judged_anew', 'the request is not what it was', ({ oidc }) => {
      if (oidc.route === 'resume') judgeAnew(oidc, registry);
      return false;
    }),
  );

  // Choosing another account is signing in again: there is one account in a session.
  policy.add(new Prompt({ name: 'select_account', requestable: true }), 0);
  policy.remove('consent');
  policy.add(
    new Prompt(
      { name: 'consent', requestable: true },
      // The grant loader has decided; a grant without an id is the engine's empty one.
      new Check(
        'consent_missing',
        'the user has not consented',
        registry.configuration.server.LegacyErrors ? 'interaction_required' : 'consent_required',
        ({ oidc }) => oidc.entities.Grant?.jti === undefined,
      ),
    ),
  );
  return policy;
}

/**
 * Judges anew what the engine has judged when the request began: somebody else may have signed in than it named
 * (OpenID Connect Core section 3.1.2.1), and the registration may have changed while the user was busy.
 *
 * @throws {errors.OIDCProviderError}
 */
function judgeAnew(
  { client, params = {}, session }: KoaContextWithOIDC['oidc'],
  registry: Context['registry'],
): void {
  const { code_challenge: challenge, id_token_hint: hint, redirect_uri: uri, response_type: type } = params;
  if (client?.redirectUriAllowed(String(uri)) !== true) throw new errors.InvalidRedirectUri();
  if (!client.responseTypeAllowed(type as ResponseType)) {
    throw new errors.UnauthorizedClient('requested response_type is not allowed for this client any more');
  }
  const needsProof = registry.findClient(client.clientId)?.RequirePkce === true;
  if (needsProof && challenge === undefined && String(type).includes('code')) {
    throw new errors.InvalidRequest('PKCE is required of this client now');
  }
  const accountId = session?.accountId;
  if (typeof hint === 'string' && accountId !== undefined && decodeJwt(hint).sub !== accountId) {
    throw new errors.LoginRequired('id_token_hint and authenticated subject do not match');
  }
}

/**
 * Derives the successor of a refresh token from the token itself, so that whoever repeats it within the grace
 * gets the same successor and not a fork, and nothing that could be turned back is stored.
 */
function deriveSuccessors({ RefreshToken }: Provider, key: Buffer): void {
  const { prototype } = RefreshToken as unknown as { prototype: { generateTokenId(): string } };
  const { generateTokenId } = prototype;
  const secret = createSecretKey(key);
  prototype.generateTokenId = function generateSuccessor(this: object) {
    const predecessor = currentContext()?.oidc.entities.RotatedRefreshToken?.jti;
    if (predecessor === undefined) return generateTokenId.call(this);
    return createHmac('sha256', secret).update(predecessor).digest('base64url');
  };
}

/** Puts `nbf`, `auth_time`, `idp` and `amr` into every ID token, as IdentityServer's had them. */
function describeAuthentication({ IdToken }: Provider, now: () => number): void {
  interface Issuable {
    available: { amr?: readonly string[]; auth_time?: number };
    set(name: string, value: unknown): void;
  }
  const prototype = IdToken.prototype as unknown as {
    issue(this: Issuable, options: { use: string }): Promise<string>;
  };
  const { issue } = prototype;
  prototype.issue = function issueDescribed(options) {
    const { amr, auth_time: authTime } = this.available;
    if (options.use === 'idtoken' && authTime !== undefined) {
      const { identityProvider, methods } = fromMethods(amr, authTime);
      this.set('nbf', now());
      this.set('auth_time', authTime);
      this.set('idp', identityProvider);
      this.set('amr', methods);
    }
    return issue.call(this, options);
  };
}
