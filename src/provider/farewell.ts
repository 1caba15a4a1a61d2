/**
 * What follows when a session has ended: its clients are told by a call (Back-Channel Logout 1.0) or in frames
 * (Front-Channel Logout 1.0), the identity provider that signed the user in is signed out of, and the browser
 * comes back to where the client wants it.
 *
 *   GET signed-out/:handle       the frames, where there are any; then on to the identity provider
 *   GET signed-out?state=…       back from there; then on to the client
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import Router from '@koa/router';
import type { Context as KoaContext } from 'koa';
import type { Provider } from 'oidc-provider';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { textsFor, withUiLocales } from '../http/language.ts';
import { allowFrames } from '../http/middleware.ts';
import { signedOutPage, signingOutPage } from '../pages/sign-out.ts';
import { basePathOf } from '../registry/client-metadata.ts';
import { bareRow, hashValue, type UpstreamReference } from '../store/tokens.ts';
import type { EngineClient } from './engine-clients.ts';
import { endSessionGrants } from './grants.ts';
import { type UpstreamSession, upstreamOf } from './upstream-session.ts';

type Context = Pick<ServerContext, 'brand' | 'identityProviders' | 'log' | 'now' | 'registry' | 'tokens'>;

/** The part of a session document that its end is about. */
export interface EndedSession {
  readonly accountId?: string | undefined;
  readonly authorizations?: Readonly<Record<string, { readonly sid?: string }>> | undefined;
  readonly upstream?: UpstreamSession | undefined;
}

interface Farewell {
  /** Where the browser goes in the end. */
  readonly target: string;
  /** Pages of clients to load in frames. */
  readonly frames: readonly string[];
  readonly upstream?: { readonly provider: string; readonly idTokenHint?: string | undefined } | undefined;
}

const model = 'SignOut';
/** A user may be asked at the identity provider, and think about it. */
const lifetimeSeconds = 1800;
/** What is not delivered by then is not delivered. */
const retryDelaysMs = [2_000, 10_000, 60_000];

export interface Farewells extends AsyncDisposable {
  readonly router: Router;
  /** Where to send a browser whose session has ended, on its way to `target`; its pages are in `uiLocales`. */
  startFor(session: EndedSession, target: string, uiLocales: string): Promise<string>;
  /** Tells the clients of a session that it has ended, in the background. */
  tellClients(engine: Provider, session: EndedSession): void;
  /** Ends a session that still rests on this sign-in elsewhere. */
  endSession(engine: Provider, reference: UpstreamReference): Promise<void>;
  /** Delivers one call in the background, several times if need be. */
  deliver(clientId: string, send: () => Promise<unknown>): void;
}

/** Makes it. Disposing waits for calls under way and gives up those that wait for another try. */
export function createFarewells({
  brand,
  identityProviders,
  log,
  now,
  registry,
  tokens,
}: Context): Farewells {
  const base = basePathOf(registry.configuration.server.PublicUrl);
  const stop = new AbortController();
  const underWay = new Set<Promise<void>>();

  const router = new Router();
  router.get('/signed-out/:handle', async (ctx) => {
    const farewell = await load(ctx.params.handle ?? '');
    if (farewell === undefined) return showSignedOut(ctx);
    const next = await nextOf(farewell, ctx.params.handle ?? '');
    if (farewell.frames.length === 0) {
      ctx.status = 303;
      ctx.redirect(next);
      return;
    }
    allowFrames(ctx, farewell.frames);
    ctx.type = 'html';
    ctx.body = signingOutPage({
      brand,
      texts: textsFor(ctx, { registry }),
      frames: farewell.frames,
      nextUrl: next,
    });
  });
  router.get('/signed-out', async (ctx) => {
    const handle = String(ctx.query.state ?? '');
    const farewell = handle === '' ? undefined : await load(handle);
    if (farewell === undefined) return showSignedOut(ctx);
    await tokens.destroy(model, handle);
    ctx.status = 303;
    ctx.redirect(farewell.target);
  });

  function showSignedOut(ctx: KoaContext): void {
    ctx.type = 'html';
    ctx.body = signedOutPage({ brand, texts: textsFor(ctx, { registry }) });
  }

  async function load(handle: string): Promise<Farewell | undefined> {
    const found = await tokens.find(model, handle);
    return found === undefined ? undefined : (JSON.parse(found.payload) as Farewell);
  }

  /** The identity provider's sign-out, where it can be asked for; nobody is kept here because it cannot. */
  async function nextOf({ target, upstream }: Farewell, handle: string): Promise<string> {
    const provider = registry.configuration.providers.get(upstream?.provider ?? '');
    if (upstream === undefined || provider === undefined || !provider.Enabled || !provider.SignOut)
      return target;
    try {
      const returnUrl = `${registry.configuration.server.PublicUrl}/signed-out`;
      const { idTokenHint } = upstream;
      return (
        (await identityProviders.signOutUrl(provider, { returnUrl, state: handle, idTokenHint })) ?? target
      );
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      log.warn(
        { identityProvider: provider.Name, errorCode: err.code, hint: err.hint },
        'identity provider failed',
      );
      return target;
    }
  }

  /** The front-channel pages of the clients that the session has signed in to. */
  function framesOf({ authorizations = {} }: EndedSession): string[] {
    return Object.entries(authorizations).flatMap(([clientId, { sid }]) => {
      const client = registry.findClient(clientId);
      if (client?.LogoutUri === undefined) return [];
      const url = new URL(client.LogoutUri);
      if (client.LogoutSessionRequired && sid !== undefined) {
        url.searchParams.set('iss', registry.configuration.server.PublicUrl);
        url.searchParams.set('sid', sid);
      }
      return [url.href];
    });
  }

  const farewells: Farewells = {
    router,

    async startFor(session, target, uiLocales) {
      const frames = framesOf(session);
      const upstream = upstreamOf(session);
      const provider = registry.configuration.providers.get(upstream?.provider ?? '');
      if (frames.length === 0 && provider?.SignOut !== true) return target;
      const handle = randomBytes(32).toString('base64url');
      const farewell: Farewell = {
        target,
        frames,
        ...(upstream && { upstream: { provider: upstream.provider, idTokenHint: upstream.idTokenHint } }),
      };
      await tokens.insert({
        ...bareRow,
        id: hashValue(handle),
        model,
        payload: JSON.stringify(farewell),
        expiresAt: now() + lifetimeSeconds,
      });
      return withUiLocales(`${base}/signed-out/${handle}`, uiLocales);
    },

    tellClients(engine, { accountId, authorizations = {} }) {
      for (const [clientId, { sid }] of Object.entries(authorizations)) {
        void engine.Client.find(clientId).then((client) => {
          const told = client as (EngineClient & BackChannelClient) | undefined;
          if (told?.backchannelLogoutUri === undefined || accountId === undefined) return;
          return told.backchannelLogout(accountId, sid);
        });
      }
    },

    async endSession(engine, { uid, issuer, subject }) {
      const current = await tokens.findSession(uid);
      if (current === undefined) return;
      // The user may have signed in otherwise since, in the same session.
      const upstream = upstreamOf(JSON.parse(current.payload) as EndedSession);
      if (upstream?.issuer !== issuer || upstream.subject !== subject) return;
      const ended = await tokens.endSession(uid);
      if (ended === undefined) return;
      const session = JSON.parse(ended.payload) as EndedSession;
      await endSessionGrants({ tokens }, session.authorizations);
      this.tellClients(engine, session);
    },

    deliver(clientId, send) {
      const delivery = (async () => {
        for (const [attempt, delay] of [...retryDelaysMs, undefined].entries()) {
          try {
            await send();
            log.info({ clientId }, 'client told of the sign-out');
            return;
          } catch (err) {
            const { hint, message } = err as ServerError;
            log.warn({ clientId, attempt: attempt + 1, hint, message }, 'client not told of the sign-out');
          }
          if (delay === undefined || stop.signal.aborted) return;
          await sleep(delay, undefined, { signal: stop.signal, ref: false }).catch(() => undefined);
          if (stop.signal.aborted) return;
        }
      })().finally(() => underWay.delete(delivery));
      underWay.add(delivery);
    },

    async [Symbol.asyncDispose]() {
      stop.abort();
      await Promise.all(underWay);
    },
  };
  return farewells;
}

/** What the engine's types leave out of a client. */
export interface BackChannelClient {
  readonly backchannelLogoutUri?: string;
  backchannelLogout(accountId: string, sid: string | undefined): Promise<unknown>;
}

/** Has the engine's calls to clients made in the background: a user who signs out waits for nobody. */
export function deliverInBackground(engine: Provider, { deliver }: Pick<Farewells, 'deliver'>): void {
  const prototype = engine.Client.prototype as unknown as BackChannelClient & { clientId: string };
  const { backchannelLogout } = prototype;
  prototype.backchannelLogout = async function tell(this: typeof prototype, accountId, sid) {
    deliver(this.clientId, () => backchannelLogout.call(this, accountId, sid));
  };
}
