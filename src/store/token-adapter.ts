/**
 * The engine's adapter contract over {@link Tokens}: what is inserted, what is replaced, and who wins a race.
 *
 * The engine checks and then acts; here the database decides. A code is consumed once. A refresh token may be
 * repeated within its grace and then yields the same successor, because successors are derived from the value
 * that they replace. Sessions are read-modify-write documents that parallel requests share: they are merged.
 */
import { type Adapter, type AdapterPayload, errors, Provider } from 'oidc-provider';
import { hashValue, type StoredToken, sealUnder, type TokenRow, type Tokens, unsealUnder } from './tokens.ts';

export interface TokenAdapterOptions {
  tokens: Tokens;
  now: () => number;
  /** For how many seconds after its use a refresh token of this client may be repeated. */
  refreshGraceSeconds: (clientId: string) => number;
}

/** Makes the function that the engine calls for each of its models. */
export function createTokenAdapter(options: TokenAdapterOptions): (model: string) => Adapter {
  return (model) => (model === 'Session' ? sessionAdapter(options) : modelAdapter(model, options));
}

function modelAdapter(model: string, { tokens, now, refreshGraceSeconds }: TokenAdapterOptions): Adapter {
  const isInGrace = ({ clientId, consumedAt }: StoredToken) =>
    model === 'RefreshToken' &&
    consumedAt !== null &&
    now() - consumedAt < refreshGraceSeconds(clientId ?? '');

  return {
    async upsert(id, payload, expiresIn) {
      const row = toRow(model, id, payload, now() + (expiresIn ?? 0));
      // The engine saves an interaction again only to add its result.
      if (model === 'Interaction' && payload.result !== undefined) {
        await tokens.replace(row);
        return;
      }
      if (await tokens.insert(row)) return;
      if (model === 'RefreshToken') {
        // A repeat within the grace derived the same successor. Whoever has used that one since may still be one of
        // the same client's tabs, as long as it is in a grace of its own.
        const successor = await tokens.find(model, id);
        if (successor === undefined || (successor.consumedAt !== null && !isInGrace(successor))) {
          throw new errors.InvalidGrant('refresh token already used, and so is its successor');
        }
        return;
      }
      await tokens.replace(row);
    },

    async find(id) {
      const found = await tokens.find(model, id);
      if (found === undefined) return undefined;
      // A finished interaction stays to tell whoever comes back to it where they came from.
      if (model === 'Interaction' && found.consumedAt !== null) return undefined;
      const isConsumed = found.consumedAt !== null && !isInGrace(found);
      return toPayload(model, id, found, isConsumed ? (found.consumedAt ?? undefined) : undefined);
    },

    async consume(id) {
      if (await tokens.consume(model, id)) return;
      const found = await tokens.find(model, id);
      if (found !== undefined && isInGrace(found)) return;
      // As where it was used a moment ago, which the engine sees by itself (RFC 6749 section 4.1.2).
      if (found !== undefined && model === 'AuthorizationCode') {
        const { grantId } = JSON.parse(found.payload) as { grantId?: string };
        if (grantId !== undefined) await tokens.revokeGrant(grantId);
      }
      throw new errors.InvalidGrant('consumed by another request at the same time');
    },

    async destroy(id) {
      if (model === 'Interaction') {
        await tokens.consume(model, id);
        return;
      }
      await tokens.destroy(model, id);
    },

    async revokeByGrantId(grantId) {
      await tokens.destroyOfGrant(model, grantId);
    },

    async findByUid() {
      throw new TypeError(`${model} has no uid`);
    },

    async findByUserCode() {
      throw new TypeError(`${model} has no user code`);
    },
  };
}

/** How often a session document is merged anew before its writer gives up; each round somebody else won. */
const mergeRounds = 20;

function sessionAdapter({ tokens, now }: TokenAdapterOptions): Adapter {
  // What each request read. A request's context is the engine's own, so nothing outlives the request.
  const seen = new WeakMap<object, Map<string, number>>();
  const remember = (id: string, version: number) => {
    const { ctx } = Provider;
    if (ctx === undefined) return;
    const versions = seen.get(ctx) ?? new Map<string, number>();
    seen.set(ctx, versions.set(id, version));
  };
  const versionOf = (id: string) =>
    Provider.ctx === undefined ? undefined : seen.get(Provider.ctx)?.get(id);

  async function endGrants({ authorizations = {} }: AdapterPayload): Promise<void> {
    for (const { newGrantId, sessionGrantIds = [] } of Object.values(authorizations as SessionEntries)) {
      const grantIds = newGrantId === undefined ? sessionGrantIds : [...sessionGrantIds, newGrantId];
      for (const grantId of grantIds) await tokens.revokeGrant(grantId);
    }
  }

  return {
    async upsert(id, payload, expiresIn) {
      const expiresAt = now() + (expiresIn ?? 0);
      let version = versionOf(id);
      if (version === undefined) {
        if (!(await tokens.insert(toRow('Session', id, payload, expiresAt)))) {
          await tokens.replace(toRow('Session', id, payload, expiresAt));
        }
        remember(id, 0);
        return;
      }
      let merged = payload;
      for (let round = 0; round < mergeRounds; round += 1) {
        if (await tokens.replace(toRow('Session', id, merged, expiresAt), version)) {
          remember(id, version + 1);
          return;
        }
        const current = await tokens.find('Session', id);
        // Ended meanwhile: it is not brought back, and what this request got under it ends too.
        if (current === undefined) {
          await endGrants(payload);
          return;
        }
        const theirs = JSON.parse(current.payload) as AdapterPayload;
        merged = { ...payload, authorizations: mergeAuthorizations(theirs, payload) };
        version = current.version;
      }
      throw new errors.TemporarilyUnavailable('the session is being changed by too many requests at once');
    },

    async find(id) {
      const found = await tokens.find('Session', id);
      if (found === undefined) return undefined;
      remember(id, found.version);
      return toPayload('Session', id, found);
    },

    /** Only read: the value of the session's cookie is not known here. */
    async findByUid(uid) {
      const found = await tokens.findSession(uid);
      return found === undefined ? undefined : toPayload('Session', undefined, found);
    },

    async destroy(id) {
      await tokens.destroy('Session', id);
    },

    async consume() {
      throw new TypeError('a session is not consumed');
    },

    async revokeByGrantId() {
      throw new TypeError('a session belongs to no grant');
    },

    async findByUserCode() {
      throw new TypeError('a session has no user code');
    },
  };
}

/** What a session document holds for each client; grants.ts writes it. */
type SessionEntries = Record<string, { newGrantId?: string; sessionGrantIds?: readonly string[] }>;

/** The clients of two versions of a session. Of one client in both, no grant that ends with the session is lost. */
function mergeAuthorizations(theirs: AdapterPayload, ours: AdapterPayload): Record<string, object> {
  const merged: SessionEntries = { ...(theirs.authorizations as SessionEntries | undefined) };
  for (const [clientId, entry] of Object.entries((ours.authorizations ?? {}) as SessionEntries)) {
    const grantIds = [...(merged[clientId]?.sessionGrantIds ?? []), ...(entry.sessionGrantIds ?? [])];
    merged[clientId] = { ...merged[clientId], ...entry, sessionGrantIds: [...new Set(grantIds)] };
  }
  return merged;
}

/** What a session document holds while its user is asked whether to sign out: `secret` is in the form. */
interface SignOutState {
  readonly secret?: string;
}

const valuePlaceholder = '{value}';

/** The row of a payload: what is looked up goes into columns, and the bearer value is nowhere in it. */
function toRow(model: string, id: string, payload: AdapterPayload, expiresAt: number): TokenRow {
  const { jti: _value, kind: _model, exp: _end, ...rest } = payload;
  if (model === 'Interaction') {
    // The path to resume holds the interaction's own value, and the session's cookie value is of no use here.
    rest.returnTo = rest.returnTo?.replace(id, valuePlaceholder);
    if (rest.session !== undefined) {
      const { cookie: _cookie, ...session } = rest.session as Record<string, unknown>;
      rest.session = session as NonNullable<AdapterPayload['session']>;
    }
  }
  const { secret, ...state } = (rest.state ?? {}) as SignOutState;
  if (model === 'Session' && secret !== undefined) rest.state = { ...state, secret: sealUnder(id, secret) };
  const clientId = payload.clientId ?? payload.params?.client_id;
  return {
    id: hashValue(id),
    model,
    payload: JSON.stringify(rest),
    grantId: payload.grantId === undefined || model === 'Interaction' ? null : hashValue(payload.grantId),
    uid: model === 'Session' ? (payload.uid ?? null) : null,
    userCode: payload.userCode ?? null,
    accountId: payload.accountId ?? accountOfInteraction(payload) ?? null,
    clientId: typeof clientId === 'string' ? clientId : null,
    expiresAt: Math.floor(expiresAt),
  };
}

/** Whom an interaction is about, once that is known: it ends with everything else of the account. */
function accountOfInteraction({ result, session }: AdapterPayload): string | undefined {
  const pending = (result as { mustChangePassword?: { accountId: string } } | undefined)?.mustChangePassword;
  return result?.login?.accountId ?? pending?.accountId ?? session?.accountId;
}

function toPayload(
  model: string,
  id: string | undefined,
  found: StoredToken,
  consumed?: number,
): AdapterPayload {
  const payload = JSON.parse(found.payload) as AdapterPayload;
  if (model === 'Interaction' && id !== undefined) {
    payload.returnTo = payload.returnTo?.replace(valuePlaceholder, id);
  }
  const { secret, ...state } = (payload.state ?? {}) as SignOutState;
  if (model === 'Session' && id !== undefined && secret !== undefined) {
    payload.state = { ...state, secret: unsealUnder(id, secret) };
  }
  return {
    ...payload,
    kind: model,
    exp: found.expiresAt,
    ...(id === undefined ? undefined : { jti: id }),
    ...(consumed === undefined ? undefined : { consumed }),
  };
}
