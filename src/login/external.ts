/**
 * Signing in through an identity provider:
 *
 *   POST login/:uid with `provider`  an attempt, and the redirect out (also by GET where there is one way in)
 *   GET, POST <callback path>        verifies the answer, stores it on the attempt, and redirects back
 *   GET login/:uid/return            takes the answer, once, by the browser that holds the interaction's cookie
 *
 * A cross-site post carries no Lax cookie, so the callback never finishes an interaction. It gives the browser that
 * brought the answer a ticket: only a browser with both, the cookie of who set out and the ticket of who was
 * signed in, finishes (OWASP ASVS 10.1.2).
 */
import type { Context, Middleware } from 'koa';
import type { Provider } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import type { Identity } from '../federation/identity-providers.ts';
import { readForm } from '../http/form.ts';
import { textsFor, uiLocalesOf, withUiLocales } from '../http/language.ts';
import { requireMethod } from '../http/middleware.ts';
import { interactionExpiredPage } from '../pages/notices.ts';
import { basePathOf, describeClient } from '../registry/client-metadata.ts';
import { type Answer, type Attempts, type StoredAttempt, toStoredIdentity } from './attempts.ts';

/** Why an external sign-in ended without one; a key of the pages' texts. */
export type ExternalProblem =
  | 'cancelled'
  | 'invalid'
  | 'no-account'
  | 'no-mfa'
  | 'not-checked'
  | 'unavailable';

/** What an interaction wants of the identity provider. */
export interface OutboundRequest {
  readonly interactionUid: string;
  readonly interactionExpiresAt: number;
  readonly clientId: string;
  readonly loginHint?: string | undefined;
  /** Ask the user anew, whatever session there is. */
  readonly isFresh?: boolean | undefined;
  /** Let the user choose another account there. */
  readonly isOther?: boolean | undefined;
  /** Seconds. */
  readonly maxAge?: number | undefined;
  /** The languages that the request asks for. */
  readonly uiLocales: string;
}

/** The account of somebody who has signed in elsewhere, and how. */
export interface ExternalSignIn {
  readonly accountId: string;
  /** Of the account, as it was then. */
  readonly stamp: string;
  readonly identity: Identity;
  readonly provider: Provider;
  /** The identity provider says that there was more than one factor. */
  readonly isMfa: boolean;
}

type Needs = Pick<
  ServerContext,
  | 'audit'
  | 'brand'
  | 'externalLogins'
  | 'identityProviders'
  | 'log'
  | 'metrics'
  | 'now'
  | 'registry'
  | 'standing'
  | 'tokens'
> & { attempts: Attempts };

/** How far the clock of an identity provider may be from ours. */
const clockToleranceSeconds = 300;

/**
 * Takes the answers of identity providers at their callbacks, which follow from the configuration in force, and at
 * the root: an identity provider that was registered for the old application may know no other address.
 */
export function receiveAnswers(
  { registry }: Pick<ServerContext, 'registry'>,
  { receive }: Pick<ExternalSteps, 'receive'>,
): Middleware {
  return async function receiveAnswer(ctx, next) {
    const path = ctx.path.toLowerCase();
    const providers = [...registry.configuration.providers.values()].filter(({ Enabled }) => Enabled);
    const provider = providers.find(({ CallbackPath }) => CallbackPath.toLowerCase() === path);
    // Even where an identity provider's callback is the root, whoever opens it sees the home page.
    if (path === '/' && ctx.method !== 'POST' && provider?.Type !== 'Oidc') return next();
    const isAtRoot = path === '/' && ctx.method === 'POST' && providers.some(({ Type }) => Type === 'WsFed');
    if (!isAtRoot && provider === undefined) return next();
    requireMethod(ctx, provider?.Type === 'Oidc' ? ['GET', 'POST'] : ['POST']);
    await receive(ctx, isAtRoot ? undefined : provider);
  };
}

export type ExternalSteps = ReturnType<typeof createExternalSteps>;

/** Makes the steps; the routes are with the pages of the interaction. */
export function createExternalSteps({
  attempts,
  audit,
  brand,
  externalLogins,
  identityProviders,
  log,
  metrics,
  now,
  registry,
  standing,
  tokens,
}: Needs) {
  const base = () => basePathOf(registry.configuration.server.PublicUrl);

  return {
    /** The address to send the browser to; undefined where the identity provider cannot be used now, which is logged. */
    async begin(provider: Provider, request: OutboundRequest): Promise<string | undefined> {
      const { interactionUid, interactionExpiresAt, clientId, isFresh = false, maxAge, uiLocales } = request;
      const handle = attempts.createHandle();
      try {
        const { url, keep } = await identityProviders.begin(provider, {
          handle,
          loginHint: provider.ForwardLoginHint ? request.loginHint : undefined,
          isFresh,
          isOther: request.isOther ?? false,
          maxAge,
          uiLocales: uiLocales === '' ? undefined : uiLocales,
        });
        const asked = { interactionUid, clientId, isFresh, maxAge, uiLocales, startedAt: now() };
        await attempts.save(handle, { provider: provider.Name, keep, ...asked }, interactionExpiresAt);
        return url;
      } catch (err) {
        if (!(err instanceof ServerError)) throw err;
        report(provider.Name, clientId, err);
        metrics.countExternalSignIn(provider.Name, 'unavailable');
        return undefined;
      }
    },

    /** Takes what an identity provider has sent to a callback, and redirects the browser to where it set out. */
    async receive(ctx: Context, at: Provider | undefined): Promise<void> {
      const response = await readResponse(ctx);
      const handle = response.get('state') ?? response.get('wctx') ?? '';
      const attempt = handle === '' ? undefined : await attempts.find(handle);
      const provider = registry.configuration.providers.get(attempt?.provider ?? '');
      // RFC 9700 section 4.4: an answer counts at the callback of whom it was asked for, and nowhere else.
      const isElsewhere = at !== undefined && at.Name !== attempt?.provider;
      if (attempt === undefined || provider === undefined || !provider.Enabled || isElsewhere) {
        showUnknown(ctx, attempt, attempt ? 'it belongs to another provider' : 'no attempt waits for it');
        return;
      }
      // Before it is verified: of two answers at once one only is worth a code or an assertion.
      if (attempt.answer !== undefined || !(await attempts.claim(handle, attempt))) {
        showUnknown(ctx, attempt, 'it has been answered already');
        return;
      }
      const answer = await verify(provider, handle, attempt, response);
      const ticket = await attempts.answer(handle, attempt, answer);
      if (ticket === undefined) {
        showUnknown(ctx, attempt, 'it has ended meanwhile');
        return;
      }
      const query = new URLSearchParams({ client_id: attempt.clientId, attempt: handle, ticket });
      ctx.status = 303;
      const url = `${base()}/login/${attempt.interactionUid}/return?${query}`;
      ctx.redirect(withUiLocales(url, attempt.uiLocales ?? ''));
    },

    /**
     * What became of an attempt of this interaction; undefined where there is none to take.
     * The account is looked for here, where the browser has proved that it is the one that set out and the one
     * that brought the answer. One that the directory has ended is not let in by another way either.
     */
    async finish(
      interactionUid: string,
      { handle, ticket }: { handle: string; ticket: string },
      { requiresMfa }: { requiresMfa: boolean },
    ): Promise<
      | { kind: 'signed-in'; signIn: ExternalSignIn }
      | { kind: 'failed'; provider: string; problem: ExternalProblem }
      | undefined
    > {
      const attempt = await attempts.take(handle, ticket);
      if (attempt?.answer === undefined || attempt.interactionUid !== interactionUid) return undefined;
      const { answer, clientId, provider: name } = attempt;
      const provider = registry.configuration.providers.get(name);
      const fail = (problem: ExternalProblem, reason?: string, claimTypes?: readonly string[]) => {
        if (reason !== undefined) {
          audit.record(
            ['sign-in', problem === 'unavailable' || problem === 'not-checked' ? 'failed' : 'refused'],
            { clientId, identityProvider: name, reason, claimTypes },
            'sign-in refused',
          );
        }
        metrics.countExternalSignIn(name, problem);
        return { kind: 'failed' as const, provider: name, problem };
      };
      if (answer.kind === 'failed') return fail(answer.problem);
      if (provider === undefined || !provider.Enabled) return fail('unavailable', 'provider-gone');

      const identity: Identity = { ...answer.identity, claims: new Map(answer.identity.claims) };
      const isMfa = [...identity.methods, identity.acr ?? ''].some((method) =>
        provider.MfaValues.includes(method),
      );
      if (requiresMfa && !isMfa) return fail('no-mfa', 'mfa-missing');
      const result = await externalLogins.resolve(provider, identity, {
        isReserved: registry.isClientAccount,
        isProvider: (other) => registry.configuration.providers.get(other)?.Enabled === true,
      });
      // Types alone: the values are the user's.
      if (result.kind === 'refused') {
        return fail('no-account', result.reason, [...identity.claims.keys()].slice(0, 50));
      }
      const { accountId, stamp } = result.account;
      const verdict = await standing.check(accountId, { isFresh: true });
      if (verdict.kind === 'ended') return fail('no-account', 'ended-in-directory');
      if (verdict.kind === 'unknown') return fail('not-checked', 'directory-unavailable');
      metrics.countExternalSignIn(name, 'signed-in');
      return { kind: 'signed-in', signIn: { accountId, stamp, identity, provider, isMfa } };
    },
  };

  async function verify(
    provider: Provider,
    handle: string,
    attempt: StoredAttempt,
    response: URLSearchParams,
  ): Promise<Answer> {
    try {
      const outcome = await identityProviders.verify(provider, { handle, ...attempt, response });
      if (outcome.kind === 'cancelled') {
        audit.record(
          ['sign-in', 'refused'],
          { clientId: attempt.clientId, identityProvider: provider.Name, reason: outcome.reason },
          'sign-in cancelled elsewhere',
        );
        return { kind: 'failed', problem: 'cancelled' };
      }
      const { identity, onceKey, onceUntil } = outcome;
      refuseStale(attempt, identity);
      // An assertion is good once (SAML 2.0 Profiles section 4.1.4.5), whoever brings it.
      if (onceKey !== undefined && !(await tokens.useOnce(onceKey, onceUntil))) {
        throw new ServerError(
          'ERR_ASSERTION_INVALID',
          'the answer of the identity provider was used already',
          {
            status: 400,
            hint: 'replayed: the assertion has been used before',
          },
        );
      }
      return { kind: 'identity', identity: toStoredIdentity(identity) };
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      report(provider.Name, attempt.clientId, err);
      return { kind: 'failed', problem: err.status === 400 ? 'invalid' : 'unavailable' };
    }
  }

  /** Somebody who was to be asked anew was asked; OpenID Connect Core section 3.1.2.1, WS-Federation `wfresh`. */
  function refuseStale({ isFresh, maxAge, startedAt }: StoredAttempt, { authenticatedAt }: Identity): void {
    const least = Math.max(
      isFresh === true ? startedAt : Number.NEGATIVE_INFINITY,
      maxAge === undefined ? Number.NEGATIVE_INFINITY : now() - maxAge,
    );
    // An OpenID provider need not say when, unless it was asked for max_age, which the relying party sees to.
    if (authenticatedAt === undefined || authenticatedAt >= least - clockToleranceSeconds) return;
    throw new ServerError(
      'ERR_IDENTITY_PROVIDER_ANSWER_INVALID',
      'the answer of the identity provider could not be verified',
      { status: 400, hint: 'the user has signed in there longer ago than the request allows' },
    );
  }

  /** The page for an answer that nobody waits for, as after "back" in the browser. */
  function showUnknown(ctx: Context, attempt: StoredAttempt | undefined, hint: string): void {
    log.info({ errorCode: 'ERR_SIGN_IN_UNKNOWN', hint }, 'answer of an identity provider not expected');
    showExpired(ctx, { brand, registry }, attempt);
  }

  function report(identityProvider: string, clientId: string, err: ServerError): void {
    const { code: errorCode, hint, message } = err;
    audit.record(
      ['sign-in', err.status === 400 ? 'refused' : 'failed'],
      { identityProvider, clientId, errorCode, hint, reason: message },
      'identity provider failed',
      'warn',
    );
  }
}

/** The page for a sign-in that has ended, with the way back to its client where that is known. */
export function showExpired(
  ctx: Context,
  { brand, registry }: Pick<ServerContext, 'brand' | 'registry'>,
  {
    clientId = '',
    uiLocales = uiLocalesOf(ctx),
  }: Partial<Pick<StoredAttempt, 'clientId' | 'uiLocales'>> = {},
): void {
  const client = registry.findClient(clientId);
  const texts = textsFor(ctx, { registry }, uiLocales);
  ctx.status = 400;
  ctx.type = 'html';
  ctx.body = interactionExpiredPage({
    brand,
    texts,
    ...describeClient(client, texts),
  });
}

/** The parameters of an answer: posted as a form, or in the query. */
async function readResponse(ctx: Context): Promise<URLSearchParams> {
  if (ctx.method !== 'POST') return new URLSearchParams(ctx.querystring);
  return new URLSearchParams(await readForm(ctx, { limitBytes: 512 * 1024 }));
}
