/**
 * Whether a token is good, and how it ends: `connect/introspect` in IdentityServer3's shape for resources, as
 * RFC 7662 has it for clients, and `connect/revocation` (RFC 7009). Both take reference tokens and JWTs.
 */

import type { Context } from 'koa';
import { errors } from 'oidc-provider';
import type { Client, Resource } from '../config/load.ts';
import { digestOf } from '../config/published-secrets.ts';
import type { ServerContext } from '../context.ts';
import { setCorsClient } from '../http/cors.ts';
import { readForm } from '../http/form.ts';
import type { AnswerPlainly } from '../http/plain.ts';
import { isPublic } from '../registry/client-metadata.ts';
import type { StoredToken } from '../store/tokens.ts';
import {
  type AccessTokenVerifier,
  type ExtraTokenClaims,
  type IdTokenVerifier,
  toScopes,
} from './access-token.ts';
import {
  blockFields,
  type Credentials,
  findPlainCaller,
  findRightSecret,
  parseBasic,
  type SecretReading,
  setRetryAfter,
} from './client-authentication.ts';
import { type AccessTokenFacts, toFurtherClaims, toScalar, toTokenClaims } from './token-layout.ts';

type Needs = Pick<
  ServerContext,
  'accounts' | 'audit' | 'guessing' | 'keys' | 'log' | 'metrics' | 'now' | 'registry' | 'standing' | 'tokens'
>;

/** What a caller accepts who wants the answer of introspection signed (RFC 9701 section 4). */
const signedAnswer = 'application/token-introspection+jwt';

type Caller = { kind: 'client'; client: Client } | { kind: 'resource'; resource: Resource };

/** A token that is good at this moment. */
interface LiveToken {
  readonly kind: 'access' | 'refresh';
  readonly facts: AccessTokenFacts;
}

export interface TokenStatusHandlers {
  introspect(ctx: Context): Promise<void>;
  /** The same for a plain form. */
  readonly introspectPlainly: AnswerPlainly;
  revoke(ctx: Context): Promise<void>;
  /** IdentityServer3's `connect/accessTokenValidation`: the claims of a good access token, or 400. No caller. */
  validateAccessToken(ctx: Context): Promise<void>;
  /** IdentityServer3's `connect/identityTokenValidation`: the claims of a good ID token of `client_id`, or 400. */
  validateIdentityToken(ctx: Context): Promise<void>;
}

/** Makes the handlers. */
export function createTokenStatus(
  needs: Needs,
  {
    verifyAccessToken,
    verifyIdToken,
  }: { verifyAccessToken: AccessTokenVerifier; verifyIdToken: IdTokenVerifier },
): TokenStatusHandlers {
  const { accounts, audit, keys, log, now, registry, standing, tokens } = needs;
  return {
    async introspect(ctx) {
      const form = await readForm(ctx);
      const caller = await authenticate(ctx, form);
      // RFC 7662 section 2.1: who asks must have proved who it is.
      if (caller.kind === 'client' && isPublic(caller.client))
        throw refuse(ctx, { id: caller.client.ClientId });
      const answer = await inspect(requireToken(form), caller);
      if (ctx.accepts('json', signedAnswer) !== signedAnswer) {
        ctx.body = answer;
        return;
      }
      // RFC 9701 section 5.
      const { PublicUrl: iss } = registry.configuration.server;
      const claims = { iss, aud: nameOf(caller), iat: now(), token_introspection: answer };
      ctx.type = signedAnswer;
      ctx.body = await keys.signJwt(claims, { typ: 'token-introspection+jwt' });
    },

    async introspectPlainly(form) {
      const token = form.fields.get('token');
      const right = await findPlainCaller(needs, form, toReadings);
      return token && right?.caller !== undefined ? inspect(token, right.caller) : undefined;
    },

    async revoke(ctx) {
      const form = await readForm(ctx);
      const caller = await authenticate(ctx, form);
      if (caller.kind === 'resource') throw refuse(ctx, { id: caller.resource.Name });
      setCorsClient(ctx, caller.client);
      const value = requireToken(form);
      const { LegacyErrors } = registry.configuration.server;
      const hint = form.token_type_hint ?? 'access_token';
      if (LegacyErrors && hint !== 'access_token' && hint !== 'refresh_token') {
        throw new errors.CustomOIDCProviderError('unsupported_token_type', 'unknown token_type_hint');
      }
      const hasEnded = await end(value, caller.client);
      // Unknown, foreign and already ended tokens are answered alike (RFC 7009 section 2.2).
      ctx.status = 200;
      ctx.body = '';
      // There is nothing that has a type; oidc-client-ts refuses one that is not JSON.
      ctx.remove('Content-Type');
      if (hasEnded) audit.record(['revocation', 'success'], callerFields(caller), 'token revoked');
    },

    async validateAccessToken(ctx) {
      const { token, expectedScope } = await readParameters(ctx);
      const live = token === undefined ? undefined : await findLive(token);
      const isExpected = expectedScope === undefined || live?.facts.scopes.includes(expectedScope) === true;
      if (live === undefined || live.kind !== 'access' || !isExpected) return refuseValidation(ctx);
      const claims = toTokenClaims('IdentityServer3', live.facts);
      ctx.body = Object.fromEntries(Object.entries(claims).map(([name, claim]) => [name, toScalar(claim)]));
    },

    async validateIdentityToken(ctx) {
      const { token, client_id: clientId } = await readParameters(ctx);
      const client = registry.findClient(clientId ?? '');
      const claims =
        token === undefined || client === undefined ? undefined : await verifyIdToken(token, client.ClientId);
      if (claims === undefined) return refuseValidation(ctx);
      ctx.body = Object.fromEntries(Object.entries(claims).map(([name, claim]) => [name, toScalar(claim)]));
    },
  };

  /** The caller by id and secret; a public client by its id alone, which may only revoke. */
  async function authenticate(ctx: Context, form: Readonly<Record<string, string>>): Promise<Caller> {
    const header = ctx.get('authorization') || undefined;
    if (header !== undefined && form.client_secret !== undefined) {
      throw new errors.InvalidRequest('client authentication must only be provided using one mechanism');
    }
    const inBody = form.client_id;
    if (header !== undefined && inBody !== undefined && !parseBasic(header).some(({ id }) => id === inBody)) {
      throw new errors.InvalidRequest('client_id mismatch');
    }
    const sent: readonly Credentials[] =
      header === undefined
        ? form.client_id === undefined
          ? []
          : [{ id: form.client_id, secret: form.client_secret ?? '' }]
        : parseBasic(header);
    const [first] = sent;
    const named = first === undefined ? undefined : registry.findClient(first.id);
    const isById = header === undefined && first?.secret === '';
    if (isById && named !== undefined && isPublic(named)) return { kind: 'client', client: named };
    const readings = sent.filter(({ secret }) => secret !== '').flatMap(toReadings);
    const right = await findRightSecret(ctx, needs, readings);
    if (right?.caller !== undefined) return right.caller;
    throw refuse(ctx, sent[0]);
  }

  /** As a resource, and as a client; as nobody where there is neither, which is a guess all the same. */
  function toReadings(sent: Credentials): readonly (SecretReading & { caller?: Caller })[] {
    const resource = registry.findResource(sent.id);
    const client = registry.findClient(sent.id);
    return [
      {
        ...sent,
        secrets: resource?.Secrets ?? [],
        ...(resource && { caller: { kind: 'resource', resource } }),
      },
      {
        ...sent,
        secrets: client?.ClientSecrets ?? [],
        ...(client && { caller: { kind: 'client', client } }),
      },
    ];
  }

  function refuse(ctx: Context, { id, secret = '' }: Partial<Credentials> = {}): Error {
    const { refusedSecrets, server } = registry.configuration;
    const isPublished = refusedSecrets.has(digestOf(secret));
    const isKnown = [registry.findClient(id ?? ''), registry.findResource(id ?? '')].some(Boolean);
    // A name that is nobody's may be the secret, in the place of the name.
    const fields = isKnown ? { clientId: id } : { reason: 'unknown-caller' };
    audit.record(
      ['token', 'refused'],
      {
        path: ctx.path,
        ...fields,
        ...(isPublished ? { reason: 'published-secret' } : undefined),
        ...blockFields(ctx),
      },
      'caller refused',
      isPublished ? 'warn' : 'info',
    );
    setRetryAfter(ctx);
    const { LegacyErrors, PublicUrl } = server;
    const error = new errors.InvalidClientAuth('unknown caller or wrong secret');
    // IdentityServer3 answered 401 at introspection alone.
    if (LegacyErrors && !ctx.path.toLowerCase().endsWith('/introspect')) {
      return Object.assign(error, { status: 400, statusCode: 400 });
    }
    ctx.set('WWW-Authenticate', `Basic realm="${PublicUrl}"`);
    return error;
  }

  /** What a caller is told of a token. */
  async function inspect(value: string, caller: Caller) {
    const live = await findLive(value);
    const answer = live === undefined ? { active: false } : describe(live, caller);
    // A good one is what all of them are, a thousand times a second.
    const level = answer.active ? 'debug' : 'info';
    log[level]({ ...callerFields(caller), active: answer.active }, 'token introspected');
    return answer;
  }

  async function findLive(value: string): Promise<LiveToken | undefined> {
    const live = value.includes('.') ? await findLiveJwt(value) : await findLiveReference(value);
    // A client that has been disabled or removed takes its tokens with it while it is gone.
    if (live === undefined || registry.findClient(live.facts.clientId) === undefined) return undefined;
    const { subject } = live.facts;
    return subject === undefined || (await standing.check(subject)).kind === 'good' ? live : undefined;
  }

  async function findLiveJwt(jwt: string): Promise<LiveToken | undefined> {
    const verified = await verifyAccessToken(jwt);
    if (verified === undefined) return undefined;
    const { claims, grantId, scopes } = verified;
    const { isRevoked, grantIsThere } = await tokens.findRevocation(jwt, grantId);
    if (isRevoked || (grantId !== '' && !grantIsThere)) return undefined;
    // RFC 9068 names the client as the subject where there is no account.
    const runsAsAccount = registry.findClient(claims.client_id)?.ClientCredentialsSubject === 'Account';
    const subject = grantId === '' && !runsAsAccount ? undefined : claims.sub;
    if (grantId === '' && subject !== undefined && !(await isAccountEnabled(subject))) return undefined;
    const {
      idp,
      amr,
      auth_time: authTime,
    } = claims as { idp?: string; amr?: readonly string[]; auth_time?: number };
    return {
      kind: 'access',
      facts: {
        issuer: String(claims.iss),
        audience: String(claims.aud),
        clientId: claims.client_id,
        subject,
        scopes,
        issuedAt: claims.iat ?? claims.nbf ?? 0,
        expiresAt: claims.exp,
        tokenId: claims.jti ?? '',
        showsTokenId: claims.jti !== undefined,
        furtherClaims: toFurtherClaims(claims),
        authentication:
          authTime === undefined
            ? undefined
            : {
                authTime,
                identityProvider: idp === 'idsrv' ? 'local' : (idp ?? 'local'),
                methods: (amr ?? []).map((method) => (method === 'password' ? 'pwd' : method)),
              },
      },
    };
  }

  async function findLiveReference(value: string): Promise<LiveToken | undefined> {
    const { token, grantIsThere } = await tokens.findWithGrant(value);
    if (token === undefined || !grantIsThere) return undefined;
    const kind = { AccessToken: 'access', ClientCredentials: 'access', RefreshToken: 'refresh' }[token.model];
    if (kind === undefined || (kind === 'refresh' && token.consumedAt !== null)) return undefined;
    const facts = toFacts(token);
    const isForClient = token.model === 'ClientCredentials';
    if (isForClient && facts.subject !== undefined && !(await isAccountEnabled(facts.subject)))
      return undefined;
    return { kind: kind as LiveToken['kind'], facts };
  }

  /** A client's own account has no grant that would end with it. */
  async function isAccountEnabled(name: string): Promise<boolean> {
    const account = await accounts.find(name);
    return account !== undefined && !account.disabled;
  }

  function toFacts({ payload, expiresAt }: StoredToken): AccessTokenFacts {
    const { accountId, aud, clientId, extra, iat, scope } = JSON.parse(payload) as {
      accountId?: string;
      aud?: string;
      clientId: string;
      extra?: ExtraTokenClaims;
      iat: number;
      scope?: string;
    };
    const issuer = registry.configuration.server.PublicUrl;
    return {
      issuer,
      audience: aud ?? `${issuer}/resources`,
      clientId,
      subject: accountId ?? extra?.sub,
      scopes: toScopes(scope),
      issuedAt: iat,
      expiresAt,
      tokenId: extra?.tokenId ?? '',
      showsTokenId: extra?.tokenId !== undefined,
      furtherClaims: extra?.claims ?? {},
      authentication: extra?.authentication,
    };
  }

  function describe(
    { kind, facts }: LiveToken,
    caller: Caller,
  ): Record<string, unknown> & { active: boolean } {
    if (caller.kind === 'client') {
      // Another client's token is none of its business (RFC 7662 section 4).
      if (caller.client.ClientId !== facts.clientId) return { active: false };
      const { authentication, ...rest } = facts;
      return {
        active: true,
        scope: rest.scopes.join(' '),
        client_id: rest.clientId,
        token_type: kind === 'access' ? 'Bearer' : undefined,
        exp: rest.expiresAt,
        iat: rest.issuedAt,
        sub: rest.subject,
        username: rest.subject,
        aud: kind === 'access' ? rest.audience : undefined,
        iss: rest.issuer,
        auth_time: authentication?.authTime,
      };
    }
    const { resource } = caller;
    const own = new Set(resource.Scopes.map(({ Name }) => Name));
    const shared = facts.scopes.filter((scope) => own.has(scope));
    if (kind !== 'access' || shared.length === 0) return { active: false };
    const claims = toTokenClaims(resource.TokenLayout, facts);
    return {
      ...Object.fromEntries(Object.entries(claims).map(([name, claim]) => [name, toScalar(claim)])),
      scope: toScalar(resource.AllowUnrestrictedIntrospection ? facts.scopes : shared),
      active: true,
    };
  }

  /** Ends a token of the client's; false where there is none such. */
  async function end(value: string, client: Client): Promise<boolean> {
    if (value.includes('.')) {
      const verified = await verifyAccessToken(value);
      if (verified === undefined || verified.claims.client_id !== client.ClientId) return false;
      await tokens.revokeJwt(value, { clientId: client.ClientId, expiresAt: verified.claims.exp });
      return true;
    }
    const { token } = await tokens.findWithGrant(value);
    if (token === undefined || token.clientId !== client.ClientId) return false;
    if (token.model === 'RefreshToken') {
      const { grantId } = JSON.parse(token.payload) as { grantId: string };
      await tokens.revokeGrant(grantId);
      return true;
    }
    if (token.model !== 'AccessToken' && token.model !== 'ClientCredentials') return false;
    // The refresh token beside it stays good.
    return tokens.destroy(token.model, value);
  }
}

/** From the query or from a form, as IdentityServer3 took them. */
async function readParameters(ctx: Context): Promise<Readonly<Record<string, string | undefined>>> {
  if (ctx.method === 'POST') return readForm(ctx);
  return Object.fromEntries(new URLSearchParams(ctx.querystring));
}

/** The refusal in the form of the framework that IdentityServer3 was written in. */
function refuseValidation(ctx: Context): void {
  ctx.status = 400;
  ctx.body = { Message: 'The token is invalid.' };
}

function requireToken(form: Readonly<Record<string, string>>): string {
  if (!form.token) throw new errors.InvalidRequest('missing required parameter token');
  return form.token;
}

function nameOf(caller: Caller): string {
  return caller.kind === 'client' ? caller.client.ClientId : caller.resource.Name;
}

function callerFields(caller: Caller): Record<string, string> {
  return caller.kind === 'client' ? { clientId: caller.client.ClientId } : { resource: caller.resource.Name };
}
