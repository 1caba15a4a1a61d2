/**
 * Access tokens as the engine makes them under our hands: what they say (the layout), how a JWT is tied to its
 * grant so that it can be revoked, and how one is verified again.
 */
import { randomBytes } from 'node:crypto';
import { decodeProtectedHeader, type JWTPayload, errors as joseErrors } from 'jose';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import { usualAlgorithm } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import type { SigningKeys } from '../keys/keys.ts';
import type { Registry, TokenTarget } from '../registry/registry.ts';
import {
  type Authentication,
  fromMethods,
  toFurtherClaims,
  tokenType,
  toScalar,
  toTokenClaims,
} from './token-layout.ts';

/**
 * A private JOSE header parameter, which validators ignore (RFC 7515 section 4): the id of the grant, a dot and
 * 96 random bits. It ties a JWT to its grant and makes the bytes of each JWT its own, while the claims stay
 * exactly the layout's. Only access tokens have it.
 */
const handleParameter = 'pst';

const authenticationState = Symbol('authentication');

/** Says how the user of this request signed in, where no code or refresh token says it. */
export function setAuthentication(ctx: object, authentication: Authentication): void {
  Object.assign(ctx, { [authenticationState]: authentication });
}

/** What a JWT access token of ours says, after its signature, issuer and end were verified. */
export interface VerifiedAccessToken {
  readonly claims: JWTPayload & { readonly client_id: string; readonly exp: number };
  readonly scopes: readonly string[];
  /** Empty for client_credentials. */
  readonly grantId: string;
}

export type AccessTokenVerifier = (jwt: string) => Promise<VerifiedAccessToken | undefined>;

/** Makes the function that verifies our own JWT access tokens; anything else is undefined. */
export function createAccessTokenVerifier({
  keys,
  registry,
}: Pick<ServerContext, 'keys' | 'registry'>): AccessTokenVerifier {
  return async function verifyAccessToken(jwt) {
    // jose reads a signature in several spellings; ours has one.
    const [, , signature = ''] = jwt.split('.');
    if (
      !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(jwt) ||
      Buffer.from(signature, 'base64url').toString('base64url') !== signature
    ) {
      return undefined;
    }
    try {
      const { payload, protectedHeader } = await keys.verifyJwt(jwt, {
        issuer: registry.configuration.server.PublicUrl,
        requiredClaims: ['exp', 'client_id'],
      });
      const handle = protectedHeader[handleParameter];
      if (typeof handle !== 'string') return undefined;
      return {
        claims: payload as VerifiedAccessToken['claims'],
        scopes: toScopes(payload.scope),
        grantId: handle.slice(0, handle.indexOf('.')),
      };
    } catch (err) {
      if (err instanceof joseErrors.JOSEError) return undefined;
      throw err;
    }
  };
}

export type IdTokenVerifier = (jwt: string, clientId: string) => Promise<JWTPayload | undefined>;

/**
 * Makes the function that verifies ID tokens of ours for a client; anything else is undefined. As a hint one is
 * good when it has expired, too (RP-Initiated Logout 1.0 section 2).
 */
export function createIdTokenVerifier(
  { keys, registry }: Pick<ServerContext, 'keys' | 'registry'>,
  { mayHaveExpired = false }: { mayHaveExpired?: boolean } = {},
): IdTokenVerifier {
  return async function verifyIdToken(jwt, clientId) {
    try {
      const { payload, protectedHeader } = await keys.verifyJwt(jwt, {
        issuer: registry.configuration.server.PublicUrl,
        audience: clientId,
        requiredClaims: ['exp', 'sub'],
        ...(mayHaveExpired ? { clockTolerance: Number.MAX_SAFE_INTEGER } : undefined),
      });
      return isIdToken(protectedHeader) ? payload : undefined;
    } catch (err) {
      if (err instanceof joseErrors.JOSEError) return undefined;
      throw err;
    }
  };
}

/**
 * Whether a JWT of ours is an ID token by its header: access tokens and logout tokens are signed by the same key, and
 * may be for the same audience and about the same user.
 */
function isIdToken(header: { readonly typ?: unknown }): boolean {
  return !(handleParameter in header) && /^(jwt)?$/i.test(String(header.typ ?? ''));
}

/** Has the engine take nothing but ID tokens for hints: it looks at signature, issuer and audience alone. */
export function refuseOtherHints(engine: Provider): void {
  const IdToken = engine.IdToken as unknown as { validate(jwt: string, client: object): Promise<unknown> };
  const validate = IdToken.validate.bind(IdToken);
  IdToken.validate = async (jwt, client) => {
    const validated = await validate(jwt, client);
    if (!isIdToken(decodeProtectedHeader(jwt))) throw new Error('not an ID token');
    return validated;
  };
}

/** The `scope` claim of any layout as a list. */
export function toScopes(scope: unknown): readonly string[] {
  if (Array.isArray(scope)) return scope.filter((entry) => typeof entry === 'string');
  return typeof scope === 'string' ? scope.split(' ').filter(Boolean) : [];
}

/** How the user of this token signed in; undefined where there is no user. */
function authenticationOf(ctx: KoaContextWithOIDC): Authentication | undefined {
  const state = (ctx as { [authenticationState]?: Authentication })[authenticationState];
  if (state !== undefined) return state;
  const { entities, session } = ctx.oidc;
  const source = entities.RefreshToken ?? entities.AuthorizationCode;
  if (source !== undefined) return fromMethods(source.amr, source.authTime ?? source.iat);
  // A token that is issued in the front channel comes straight from the session.
  return session?.accountId === undefined
    ? undefined
    : fromMethods(session.amr, session.loginTs ?? session.iat);
}

/** Claims about the client and the account, beside those of the layout. */
export type TokenClaims = Readonly<Record<string, unknown>>;

/** What a token carries beyond the engine's own members; reference tokens are stored with it. */
export interface ExtraTokenClaims {
  /** The account that a client runs as. */
  readonly sub?: string;
  readonly authentication?: Authentication;
  /** Claims about the client and the account. */
  readonly claims?: TokenClaims;
  /** The `jti` of a token that shows one. */
  readonly tokenId?: string;
}

/** Collects {@link ExtraTokenClaims} for a token of a user that is being issued; undefined where there are none. */
export async function extraTokenClaims(
  { registry }: Pick<ServerContext, 'registry'>,
  ctx: KoaContextWithOIDC,
  { scope }: { readonly scope?: string | undefined },
): Promise<ExtraTokenClaims | undefined> {
  const client = registry.findClient(ctx.oidc.client?.clientId ?? '');
  if (client === undefined) return undefined;
  const authentication = authenticationOf(ctx);
  const claims = await claimsOfUserToken(registry, ctx, client, toScopes(scope));
  return toExtra(client, claims, authentication === undefined ? {} : { authentication });
}

/** The same for a token of a client's own, which may run as an account. */
export function clientTokenClaims(
  client: Client,
  accountId: string | undefined,
): ExtraTokenClaims | undefined {
  return toExtra(client, clientClaims(client), accountId === undefined ? {} : { sub: accountId });
}

function toExtra(
  { IncludeJwtId }: Client,
  claims: TokenClaims,
  whose: ExtraTokenClaims,
): ExtraTokenClaims | undefined {
  const extra: ExtraTokenClaims = {
    ...whose,
    ...(Object.keys(claims).length === 0 ? undefined : { claims }),
    ...(IncludeJwtId ? { tokenId: randomBytes(16).toString('hex') } : undefined),
  };
  return Object.keys(extra).length === 0 ? undefined : extra;
}

/**
 * The claims of a token for a user. At a refresh they are those of the sign-in, unless the client wants them new
 * (`UpdateAccessTokenClaimsOnRefresh`); of a narrower scope only its own.
 */
async function claimsOfUserToken(
  registry: Registry,
  ctx: KoaContextWithOIDC,
  client: Client,
  scopes: readonly string[],
): Promise<TokenClaims> {
  const { entities, params } = ctx.oidc;
  const isKept = params?.grant_type === 'refresh_token' && !client.UpdateAccessTokenClaimsOnRefresh;
  if (!isKept) return collectUserClaims(registry, ctx, client, scopes);
  const { tokenClaims = {} } = (entities.Grant ?? {}) as { tokenClaims?: TokenClaims };
  const names = new Set([...registry.claimsOfScopes(scopes), ...Object.keys(clientClaims(client))]);
  return Object.fromEntries(Object.entries(tokenClaims).filter(([name]) => names.has(name)));
}

/** The claims of a token for a user as they are now: of the account what the scopes name, and of the client. */
export async function collectUserClaims(
  registry: Registry,
  { oidc }: KoaContextWithOIDC,
  client: Client,
  scopes: readonly string[],
): Promise<TokenClaims> {
  const names = registry.claimsOfScopes(scopes);
  const all = names.length === 0 ? {} : await oidc.account?.claims('userinfo', '', {}, []);
  const ofAccount = Object.entries(all ?? {}).filter(([name]) => names.includes(name));
  return toFurtherClaims({
    ...(client.AlwaysSendClientClaims ? clientClaims(client) : undefined),
    ...Object.fromEntries(ofAccount.map(([name, value]) => [name, toScalar(value)])),
  });
}

/** The claims about a client; one that is given several times is a list, as IdentityServer wrote it. */
function clientClaims({ Claims, PrefixClientClaims }: Client): Record<string, unknown> {
  const values = new Map<string, string[]>();
  for (const { Type, Value } of Claims) {
    const name = PrefixClientClaims ? `client_${Type}` : Type;
    values.set(name, [...(values.get(name) ?? []), Value]);
  }
  return toFurtherClaims(Object.fromEntries([...values].map(([name, list]) => [name, toScalar(list)])));
}

interface EngineToken {
  readonly grantId?: string;
  readonly extra?: ExtraTokenClaims;
  readonly resourceServer?: { identifier(): string };
}

interface EngineJwt {
  header?: Record<string, unknown>;
  payload: Record<string, unknown>;
}

/** Gives a JWT access token the layout of its resource, and the header that ties it to its grant. */
export function layOutToken(
  { keys, registry }: Pick<ServerContext, 'keys' | 'registry'>,
  token: EngineToken,
  jwt: EngineJwt,
): void {
  const { payload } = jwt;
  const target = registry.findTarget(token.resourceServer?.identifier() ?? '');
  const layout = target?.layout ?? 'IdentityServer3';
  const algorithm = target?.algorithm ?? usualAlgorithm;
  jwt.payload = toTokenClaims(layout, {
    issuer: String(payload.iss),
    audience: String(payload.aud),
    clientId: String(payload.client_id),
    subject: String(payload.sub),
    scopes: toScopes(payload.scope),
    issuedAt: Number(payload.iat),
    expiresAt: Number(payload.exp),
    tokenId: token.extra?.tokenId ?? String(payload.jti),
    showsTokenId: token.extra?.tokenId !== undefined,
    furtherClaims: token.extra?.claims ?? {},
    authentication: token.extra?.authentication,
  });
  // The engine puts `iat` into every JWT that has none; IdentityServer's layouts have none. What cannot be
  // enumerated is there for the engine and not in the JSON.
  if (!('iat' in jwt.payload)) {
    Object.defineProperty(jwt.payload, 'iat', { value: payload.iat, writable: true, enumerable: false });
  }
  jwt.header = accessTokenHeader(keys, { layout, algorithm }, token.grantId);
}

/** What the header of a JWT access token says beside the key and its algorithm. */
export function accessTokenHeader(
  { certificateHeader }: Pick<SigningKeys, 'certificateHeader'>,
  { algorithm, layout }: Pick<TokenTarget, 'algorithm' | 'layout'>,
  grantId = '',
): { typ: string } & Record<string, unknown> {
  return {
    typ: tokenType(layout),
    ...(layout === 'IdentityServer3' && algorithm === usualAlgorithm ? certificateHeader : undefined),
    [handleParameter]: `${grantId}.${randomBytes(12).toString('base64url')}`,
  };
}

/**
 * Lets one access token serve its resource and our userinfo endpoint, as IdentityServer had it: the engine
 * reads reference tokens only, and refuses one with an audience there.
 */
export function acceptTokensAtUserinfo(
  provider: Provider,
  { tokens, verifyAccessToken }: Pick<ServerContext, 'tokens'> & { verifyAccessToken: AccessTokenVerifier },
  currentRoute: () => string | undefined,
): void {
  const { AccessToken } = provider;
  const findReference = AccessToken.find.bind(AccessToken);

  async function findJwt(value: string) {
    const verified = await verifyAccessToken(value);
    if (verified?.claims.sub === undefined || verified.grantId === '') return undefined;
    const { isRevoked } = await tokens.findRevocation(value, verified.grantId);
    if (isRevoked) return undefined;
    const { claims, scopes, grantId } = verified;
    return Object.assign(new AccessToken({} as ConstructorParameters<typeof AccessToken>[0]), {
      accountId: claims.sub,
      clientId: claims.client_id,
      grantId,
      scope: scopes.join(' '),
      exp: claims.exp,
    });
  }

  AccessToken.find = async function find(value: string, options?: { ignoreExpiration?: boolean }) {
    const found = value.includes('.') ? await findJwt(value) : await findReference(value, options);
    if (found !== undefined && currentRoute() === 'userinfo') delete (found as { aud?: unknown }).aud;
    return found;
  } as typeof AccessToken.find;
}
