/**
 * The client credentials grant (RFC 6749 section 4.4), which programs ask for all day. A form that is plain and right is
 * answered without the engine (plain.ts); any other the engine takes, which knows all that can be wrong with one. The
 * token is made here either way.
 */
import { randomBytes } from 'node:crypto';
import { type AdapterFactory, errors, type TokenEndpointGrantContext } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import type { AnswerPlainly, PlainForm } from '../http/plain.ts';
import { grantTypesOf } from '../registry/client-metadata.ts';
import type { TokenTarget } from '../registry/registry.ts';
import { accessTokenHeader, clientTokenClaims } from './access-token.ts';
import { recordToken } from './audit.ts';
import { findPlainCaller } from './client-authentication.ts';
import { resolveClientScopes, settleScopes } from './scopes.ts';
import { toTokenClaims } from './token-layout.ts';

const grantType = 'client_credentials';

/** What a plain request is made of. */
const plainParameters: ReadonlySet<string> = new Set(['client_id', 'client_secret', 'grant_type', 'scope']);

/** The form fields that the engine hands to the grant, and the one of them that may be repeated. */
export const clientCredentialsParameters = { read: ['scope', 'resource'], repeated: ['resource'] } as const;

export interface ClientCredentials {
  /** For the engine, which has authenticated the client. */
  grant(ctx: TokenEndpointGrantContext<{ resource?: unknown }>): Promise<void>;
  /** For a form that is plain and right: before the engine. */
  readonly grantPlainly: AnswerPlainly;
}

type Needs = Pick<
  ServerContext,
  'accounts' | 'audit' | 'guessing' | 'keys' | 'log' | 'metrics' | 'now' | 'registry'
>;

interface Order {
  readonly client: Client;
  /** Settled, and the target they have. */
  readonly scopes: readonly string[];
  readonly target: TokenTarget;
  /** Whom the client runs as. */
  readonly accountId: string | undefined;
}

/** Makes both. `adapter` is the store, as the engine sees it. */
export function createClientCredentials(needs: Needs, adapter: AdapterFactory): ClientCredentials {
  const { accounts, keys, now, registry } = needs;
  const store = adapter('ClientCredentials');

  /** The account that a client runs as: the one of its name. False where it has to have one, and there is none. */
  async function findOwnAccount({
    ClientCredentialsSubject,
    ClientId,
  }: Client): Promise<string | undefined | false> {
    if (ClientCredentialsSubject !== 'Account') return undefined;
    const account = await accounts.find(ClientId);
    return account !== undefined && !account.disabled && account.accountId;
  }

  /** The answer of RFC 6749 section 5.1 with a token that is good from now on. No statement for a JWT, else one. */
  async function issue({ accountId, client, scopes, target }: Order): Promise<Record<string, unknown>> {
    const issuedAt = now();
    const lifetime = client.AccessTokenLifetime;
    const extra = clientTokenClaims(client, accountId);
    const scope = scopes.length === 0 ? undefined : scopes.join(' ');
    const isReference = client.AccessTokenType === 'Reference';
    return {
      access_token: isReference ? await storeReference() : await signJwt(),
      expires_in: lifetime,
      ...(scope === undefined ? undefined : { scope }),
      token_type: 'Bearer',
    };

    async function storeReference(): Promise<string> {
      const value = randomBytes(32).toString('base64url');
      const { ClientId: clientId } = client;
      const row = { iat: issuedAt, clientId, aud: target.audience, scope, extra: extra && { ...extra } };
      await store.upsert(value, row, lifetime);
      return value;
    }

    function signJwt(): Promise<string> {
      const { algorithm, audience, layout } = target;
      const showsTokenId = extra?.tokenId !== undefined;
      const claims = toTokenClaims(layout, {
        issuer: registry.configuration.server.PublicUrl,
        audience,
        clientId: client.ClientId,
        subject: accountId,
        scopes,
        issuedAt,
        expiresAt: issuedAt + lifetime,
        tokenId: extra?.tokenId ?? (layout === 'Rfc9068' ? randomBytes(16).toString('base64url') : ''),
        showsTokenId,
        furtherClaims: extra?.claims ?? {},
        authentication: undefined,
      });
      return keys.signJwt(claims, accessTokenHeader(keys, target), algorithm);
    }
  }

  /** What is asked for, where it is asked for plainly and rightly. */
  async function understand(form: PlainForm): Promise<Order | undefined> {
    const { fields } = form;
    const isPlain = [...fields.keys()].every((name) => plainParameters.has(name));
    if (!isPlain || fields.get('grant_type') !== grantType) return undefined;
    const caller = await findPlainCaller(needs, form, (sent) => {
      const client = registry.findClient(sent.id);
      return client === undefined ? [] : [{ ...sent, client, secrets: client.ClientSecrets }];
    });
    if (caller === undefined || !grantTypesOf(caller.client).includes(grantType)) return undefined;
    const { client } = caller;
    const sent = fields.get('scope') ?? '';
    const wanted = [...new Set(sent.split(' '))].filter((scope) => scope !== '');
    const resolution = resolveClientScopes(registry, client, wanted);
    if (resolution.kind === 'refused' || wanted.join(' ') !== sent) return undefined;
    const accountId = await findOwnAccount(client);
    if (accountId === false) return undefined;
    const { scopes, target } = resolution;
    return { accountId, client, scopes, target };
  }

  return {
    async grant(ctx) {
      const { oidc } = ctx;
      const client = registry.findClient(oidc.client.clientId);
      if (client === undefined) throw new errors.InvalidClient('client is disabled', 'client not found');
      // The target is found from the scopes; a caller's own (RFC 8707) would go round their check.
      if (ctx.query.resource !== undefined || oidc.body?.resource !== undefined) {
        throw new errors.InvalidTarget('name the resource by its scopes');
      }
      const target = settleScopes(ctx, client, registry);
      const accountId = await findOwnAccount(client);
      if (accountId === false) {
        throw new errors.InvalidGrant(`there is no account ${client.ClientId}, or it is disabled`);
      }
      if (accountId !== undefined) {
        oidc.entity('Account', { accountId, claims: () => ({ sub: accountId }) });
      }
      const scopes = [...oidc.requestParamScopes].filter((scope) => scope !== '');
      ctx.body = await issue({ accountId, client, scopes, target });
    },

    async grantPlainly(form) {
      const order = await understand(form);
      if (order === undefined) return undefined;
      const answer = await issue(order);
      const { accountId, client } = order;
      const { requestId } = form;
      recordToken(needs, { requestId, clientId: client.ClientId, accountId, grantType });
      return answer;
    },
  };
}
