/**
 * Access tokens as the engine makes them under our hands: what they say (the layout), how a JWT is tied to its
 * grant so that it can be revoked, and how one is verified again.
 */
import { randomBytes } from 'node:crypto';
import { createLocalJWKSet, type JWTPayload, errors as joseErrors, jwtVerify } from 'jose';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import {
  type Authentication,
  fromMethods,
  toClientClaims,
  tokenType,
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
  const keySet = createLocalJWKSet({ keys: [...keys.publicJwks.keys] });

  return async function verifyAccessToken(jwt) {
    // jose reads a signature in several spellings; revocation knows a token by the one that was issued.
    const [, , signature = ''] = jwt.split('.');
    if (
      !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(jwt) ||
      Buffer.from(signature, 'base64url').toString('base64url') !== signature
    ) {
      return undefined;
    }
    try {
      const { payload, protectedHeader } = await jwtVerify(jwt, keySet, {
        issuer: registry.configuration.server.PublicUrl,
        algorithms: ['RS256'],
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

/** Makes the function that verifies ID tokens of ours for a client; anything else is undefined. */
export function createIdTokenVerifier({
  keys,
  registry,
}: Pick<ServerContext, 'keys' | 'registry'>): IdTokenVerifier {
  const keySet = createLocalJWKSet({ keys: [...keys.publicJwks.keys] });

  return async function verifyIdToken(jwt, clientId) {
    try {
      const { payload, protectedHeader } = await jwtVerify(jwt, keySet, {
        issuer: registry.configuration.server.PublicUrl,
        audience: clientId,
        algorithms: ['RS256'],
        requiredClaims: ['exp', 'sub'],
      });
      return handleParameter in protectedHeader ? undefined : payload;
    } catch (err) {
      if (err instanceof joseErrors.JOSEError) return undefined;
      throw err;
    }
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

/** What a token carries beyond the engine's own members; reference tokens are stored with it. */
export interface ExtraTokenClaims {
  /** The account that a client runs as. */
  readonly sub?: string;
  readonly authentication?: Authentication;
  readonly clientClaims?: Readonly<Record<string, unknown>>;
  /** The `jti` of a token that shows one. */
  readonly tokenId?: string;
}

/** Collects {@link ExtraTokenClaims} for a token that is being issued; undefined where there are none. */
export function extraTokenClaims(
  { registry }: Pick<ServerContext, 'registry'>,
  ctx: KoaContextWithOIDC,
  kind: string,
): ExtraTokenClaims | undefined {
  const client = registry.findClient(ctx.oidc.client?.clientId ?? '');
  if (client === undefined) return undefined;
  const isForUser = kind !== 'ClientCredentials';
  const authentication = isForUser ? authenticationOf(ctx) : undefined;
  const accountId = ctx.oidc.account?.accountId;
  const runsAsAccount = !isForUser && client.ClientCredentialsSubject === 'Account';
  const extra: ExtraTokenClaims = {
    ...(runsAsAccount && accountId !== undefined ? { sub: accountId } : undefined),
    ...(authentication === undefined ? undefined : { authentication }),
    ...(client.Claims.length > 0 && (!isForUser || client.AlwaysSendClientClaims)
      ? { clientClaims: claimsOf(client) }
      : undefined),
    ...(client.IncludeJwtId ? { tokenId: randomBytes(16).toString('hex') } : undefined),
  };
  return Object.keys(extra).length === 0 ? undefined : extra;
}

/** The claims about a client; one that is given several times is a list, as IdentityServer wrote it. */
function claimsOf({ Claims, PrefixClientClaims }: Client): Record<string, unknown> {
  const values = new Map<string, string[]>();
  for (const { Type, Value } of Claims) {
    const name = PrefixClientClaims ? `client_${Type}` : Type;
    values.set(name, [...(values.get(name) ?? []), Value]);
  }
  return Object.fromEntries([...values].map(([name, list]) => [name, list.length === 1 ? list[0] : list]));
}

interface EngineToken {
  readonly kind: string;
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
  jwt.payload = toTokenClaims(layout, {
    issuer: String(payload.iss),
    audience: String(payload.aud),
    clientId: String(payload.client_id),
    subject: token.kind === 'ClientCredentials' ? token.extra?.sub : String(payload.sub),
    scopes: toScopes(payload.scope),
    issuedAt: Number(payload.iat),
    expiresAt: Number(payload.exp),
    tokenId: token.extra?.tokenId ?? String(payload.jti),
    showsTokenId: token.extra?.tokenId !== undefined,
    clientClaims: toClientClaims(token.extra?.clientClaims ?? {}),
    authentication: token.extra?.authentication,
  });
  // The engine puts `iat` into every JWT that has none; IdentityServer's layouts have none. What cannot be
  // enumerated is there for the engine and not in the JSON.
  if (!('iat' in jwt.payload)) {
    Object.defineProperty(jwt.payload, 'iat', { value: payload.iat, writable: true, enumerable: false });
  }
  jwt.header = {
    typ: tokenType(layout),
    ...(layout === 'IdentityServer3' ? keys.certificateHeader : undefined),
    [handleParameter]: `${token.grantId ?? ''}.${randomBytes(12).toString('base64url')}`,
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
