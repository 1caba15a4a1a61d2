/**
 * The pages of an interaction, all at `login/:uid`:
 *
 *   GET   shows what the authorization request waits for: signing in, a new password, or consent
 *   POST  takes the answer, finishes the interaction and sends the browser back (303) to the engine
 *
 * and the way through an identity provider, whose steps are in external.ts: `login/:uid/return` and the callbacks.
 *
 * The step is decided again from the stored interaction at every request. Without the interaction's cookie, or after
 * the end, a page says what happened and offers the way back to the client.
 */
import Router from '@koa/router';
import type { Context } from 'koa';
import { errors, type Provider } from 'oidc-provider';
import type { Account } from '../accounts/accounts.ts';
import type { PendingChange } from '../accounts/credentials.ts';
import type { PasswordProblem } from '../accounts/passwords.ts';
import type { Client, Provider as IdentityProvider } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { type Csrf, refuseForeignPost } from '../http/csrf.ts';
import { type Devices, setBlocked } from '../http/devices.ts';
import { readForm } from '../http/form.ts';
import { textsFor, toUiLocales, withUiLocales } from '../http/language.ts';
import { allowImage, requireMethod } from '../http/middleware.ts';
import { fill, nameOf, type Texts } from '../languages/languages.ts';
import { noProviderPage } from '../pages/notices.ts';
import {
  changePasswordPage,
  type LoginError,
  loginPage,
  type OfferedProvider,
  type Problem,
  providerPage,
} from '../pages/sign-in.ts';
import { basePathOf, describeClient, findWayBack } from '../registry/client-metadata.ts';
import { identityProvidersOf, requestedIdentityProvider } from '../registry/identity-providers.ts';
import { chooseLogin, findByDomain, type LoginStep } from './choose-login.ts';
import { type ConsentRequest, createConsentSteps } from './consent.ts';
import { type ExternalProblem, type ExternalSteps, showExpired } from './external.ts';

type Needs = Pick<ServerContext, 'audit' | 'brand' | 'credentials' | 'log' | 'now' | 'registry' | 'tokens'>;
type Interaction = Awaited<ReturnType<Provider['interactionDetails']>>;
type Form = Readonly<Record<string, string>>;

/** What an interaction's result may hold beside the engine's own members. */
interface InteractionResult {
  /** The account that has given its right password and must change it now. */
  readonly mustChangePassword?: PendingChange;
}

/** What the login page shows beside what the registration decides. */
interface ShownLogin {
  readonly userName: string;
  readonly error?: LoginError;
  readonly problem?: Problem;
}

/** What one request is about. */
interface Step {
  readonly ctx: Context;
  readonly interaction: Interaction;
  readonly client: Client;
}

/** Makes the routes. `engine` answers for the provider in force; `csrf` protects the forms. */
export function createLoginRoutes(
  { audit, brand, credentials, log, now, registry, tokens }: Needs,
  {
    engine,
    csrf,
    devices,
    external,
  }: { engine: () => Provider; csrf: Csrf; devices: Devices; external: ExternalSteps },
): Router {
  const router = new Router();
  const isSecure = registry.configuration.server.PublicUrl.startsWith('https:');
  // Remembers in the browser which identity provider it came back from, to offer that first.
  const lastProviderCookie = isSecure ? '__Host-postern.provider' : 'postern.provider';
  const consent = createConsentSteps({ audit, registry, tokens });

  router.get('/login/:uid', async function showStep(ctx) {
    const step = await loadStep(ctx);
    if (step === undefined) return;
    const { interaction } = step;
    const pending = mustChange(interaction);
    if (interaction.prompt.name === 'consent') showConsent(step);
    else if (pending !== undefined) showChangePassword(step, pending);
    else await showLogin(step, { userName: textParam(interaction, 'login_hint') });
  });

  router.get('/login/:uid/return', async function takeReturn(ctx) {
    const step = await loadStep(ctx);
    if (step === undefined) return;
    const { client, interaction } = step;
    const { attempt = '', ticket = '' } = ctx.query;
    const taken = await external.finish(
      interaction.uid,
      { handle: String(attempt), ticket: String(ticket) },
      { requiresMfa: client.RequireMfa },
    );
    if (taken === undefined) {
      // Taken already, as when the page is loaded again: the interaction itself knows how far it is.
      ctx.status = 303;
      ctx.redirect(formOf(step).action);
      return;
    }
    if (taken.kind === 'failed') {
      showProblem(step, taken.provider, taken.problem);
      return;
    }
    const { accountId, identity, isMfa, provider, stamp } = taken.signIn;
    // Decided again: the registration may have changed while the user was away.
    if (
      !identityProvidersOf(client, registry.configuration.providers).some(
        ({ Name }) => Name === provider.Name,
      )
    ) {
      audit.record(
        ['sign-in', 'refused'],
        { clientId: client.ClientId, identityProvider: provider.Name, reason: 'provider-not-allowed' },
        'sign-in refused',
      );
      await showLogin(step, { userName: '' });
      return;
    }
    ctx.cookies.set(lastProviderCookie, encodeURIComponent(provider.Name), {
      maxAge: 365 * 86_400_000,
      path: '/',
      httpOnly: true,
      sameSite: 'lax',
      secure: isSecure,
      signed: true,
      overwrite: true,
    });
    audit.record(
      ['sign-in', 'success'],
      { clientId: client.ClientId, accountId, identityProvider: provider.Name },
      'login finished',
    );
    const authTime = Math.min(Math.floor(identity.authenticatedAt ?? now()), now());
    const { issuer, subject, sessionId, idTokenHint } = identity;
    await finish(step, {
      login: {
        accountId,
        amr: ['external', ...(isMfa ? ['mfa'] : []), `idp:${provider.Name}`],
        remember: false,
        ts: authTime,
      },
      select_account: {},
      stamp,
      upstream: { provider: provider.Name, issuer, subject, sessionId, idTokenHint, signedInAt: now() },
    });
  });

  router.all(['/login/:uid', '/login/:uid/return'], (ctx, next) => {
    const methods = ctx.path.endsWith('/return') ? ['GET', 'HEAD'] : ['GET', 'HEAD', 'POST'];
    requireMethod(ctx, methods);
    return next();
  });

  router.post('/login/:uid', async function takeAnswer(ctx) {
    refuseForeignPost(ctx);
    const form = await readForm(ctx, { lists: ['scope'] });
    const step = await loadStep(ctx);
    if (step === undefined) return;
    const { interaction } = step;
    if (!csrf.verify(interaction.uid, form.csrf)) {
      ctx.status = 400;
      if (interaction.prompt.name === 'consent') showConsent(step);
      else await showLogin(step, { userName: form.username ?? '', error: 'form-expired' });
      return;
    }
    if (form.action === 'cancel') {
      audit.record(
        ['sign-in', 'refused'],
        { clientId: step.client.ClientId, reason: 'cancelled' },
        'sign-in cancelled',
      );
      await finish(step, { error: 'access_denied', error_description: 'the user cancelled' });
      return;
    }
    const pending = mustChange(interaction);
    if (interaction.prompt.name === 'consent') await takeConsent(step, form);
    else if (pending !== undefined) await takeNewPassword(step, pending, form);
    else if (form.provider !== undefined) await takeProvider(step, form);
    else await takeName(step, form);
  });

  return router;

  function lastUsedFirst(ctx: Context, providers: readonly IdentityProvider[]): readonly IdentityProvider[] {
    const last = ctx.cookies.get(lastProviderCookie, { signed: true });
    const isLast = ({ Name }: IdentityProvider) => encodeURIComponent(Name) === last;
    return providers.toSorted((a, b) => Number(isLast(b)) - Number(isLast(a)));
  }

  function decide({ client, interaction }: Step): LoginStep {
    const requested = requestedIdentityProvider(interaction.params);
    return chooseLogin(client, registry.configuration.providers, requested);
  }

  /** An identity provider that was chosen by its button, or is tried again. */
  async function takeProvider(step: Step, form: Form): Promise<void> {
    const { client } = step;
    const requested = requestedIdentityProvider(step.interaction.params);
    const provider = identityProvidersOf(client, registry.configuration.providers).find(
      ({ Name }) => Name === form.provider && (requested === undefined || requested === Name),
    );
    if (provider === undefined) {
      audit.record(
        ['sign-in', 'refused'],
        { clientId: client.ClientId, reason: 'provider-not-allowed' },
        'sign-in refused',
      );
      await showLogin(step, { userName: '' });
      return;
    }
    await leaveFor(step, provider, { isOther: form.again !== undefined });
  }

  /** A name, whose domain may lead to an identity provider, or that comes with a password. */
  async function takeName(step: Step, form: Form): Promise<void> {
    const decision = decide(step);
    const userName = form.username ?? '';
    const byDomain = decision.kind === 'local' || decision.kind === 'choose' ? decision.byDomain : [];
    const provider = findByDomain(byDomain, userName);
    if (provider !== undefined) await leaveFor(step, provider, { loginHint: userName });
    else if (decision.kind === 'choose') {
      const { login, providers } = textsOf(step);
      step.ctx.status = 400;
      await showLogin(step, {
        userName,
        problem: { heading: login.errorHeading, message: providers.unknownDomain },
      });
    } else await takePassword(step, form);
  }

  async function leaveFor(
    step: Step,
    provider: IdentityProvider,
    { isOther = false, loginHint }: { isOther?: boolean; loginHint?: string } = {},
  ): Promise<void> {
    const { client, ctx, interaction } = step;
    const hint = loginHint ?? textParam(interaction, 'login_hint');
    const maxAge = interaction.params.max_age;
    const url = await external.begin(provider, {
      interactionUid: interaction.uid,
      interactionExpiresAt: interaction.exp,
      clientId: client.ClientId,
      ...(hint === '' ? undefined : { loginHint: hint }),
      isFresh: textParam(interaction, 'prompt').split(' ').includes('login'),
      isOther: isOther || textParam(interaction, 'prompt').split(' ').includes('select_account'),
      ...(maxAge === undefined ? undefined : { maxAge: Number(maxAge) }),
      uiLocales: toUiLocales(interaction.params.ui_locales),
    });
    if (url === undefined) {
      showProblem(step, provider.Name, 'unavailable');
      return;
    }
    ctx.status = 303;
    ctx.redirect(url);
  }

  /** Says why the way through an identity provider led to nothing, and offers what there is. */
  function showProblem(step: Step, name: string, problem: ExternalProblem): void {
    const { ctx, client, interaction } = step;
    const provider = registry.configuration.providers.get(name);
    const form = formOf(step);
    const { heading, message } = form.texts.providers.problems[problem];
    const caption = provider === undefined ? name : captionOf(provider, form.texts);
    const shown: Problem = { heading: fill(heading, { provider: caption }), message };
    const decision = decide(step);
    ctx.status = {
      ...{ unavailable: 503, 'not-checked': 503, cancelled: 200 },
      ...{ invalid: 400, 'no-account': 403, 'no-mfa': 403 },
    }[problem];
    if (decision.kind === 'local') {
      showForm(step, decision, { userName: textParam(interaction, 'login_hint'), problem: shown });
      return;
    }
    const offered =
      decision.kind === 'choose'
        ? decision.providers
        : decision.kind === 'redirect'
          ? [decision.provider]
          : [];
    ctx.type = 'html';
    allowImage(ctx, client.LogoUri);
    ctx.body = providerPage({
      ...form,
      providers: toOffers(offered, form.texts),
      tried: name,
      problem: shown,
    });
  }

  /** The interaction and its client; where there is none any more, the page that says so is the answer. */
  async function loadStep(ctx: Context & { params: Record<string, string> }): Promise<Step | undefined> {
    try {
      const interaction = await engine().interactionDetails(ctx.req, ctx.res);
      const client = registry.findClient(textParam(interaction, 'client_id'));
      if (interaction.uid !== ctx.params.uid) throw new errors.SessionNotFound('another interaction');
      if (client === undefined) {
        throw new ServerError('ERR_CLIENT_UNKNOWN', 'this application is no longer registered', {
          status: 400,
        });
      }
      // The engine judges it again before it sends a code, but not where the user cancels.
      const engineClient = await engine().Client.find(client.ClientId);
      if (engineClient?.redirectUriAllowed(textParam(interaction, 'redirect_uri')) !== true) {
        throw new ServerError(
          'ERR_CLIENT_UNKNOWN',
          'the address of this application is not registered any more',
          { status: 400 },
        );
      }
      return { ctx, interaction, client };
    } catch (err) {
      if (!(err instanceof errors.SessionNotFound)) throw err;
      log.info({ reason: err.error_description }, 'interaction not found');
      showExpired(ctx, { brand, registry }, { clientId: String(ctx.query.client_id ?? '') });
      return undefined;
    }
  }

  function textsOf({ ctx, interaction }: Step) {
    return textsFor(ctx, { registry }, toUiLocales(interaction.params.ui_locales));
  }

  function formOf(step: Step) {
    const { client, interaction } = step;
    const base = basePathOf(registry.configuration.server.PublicUrl);
    const action = `${base}/login/${interaction.uid}?client_id=${encodeURIComponent(client.ClientId)}`;
    const texts = textsOf(step);
    return {
      brand,
      texts,
      // For the page that is shown when the interaction is over.
      action: withUiLocales(action, toUiLocales(interaction.params.ui_locales)),
      csrf: csrf.token(interaction.uid),
      clientName: describeClient(client, texts).clientName ?? client.ClientId,
      clientLogoUrl: client.LogoUri,
    };
  }

  /** The way in that the decision names; where there is one identity provider, the redirect to it. */
  async function showLogin(step: Step, shown: ShownLogin): Promise<void> {
    const { ctx, client } = step;
    const decision = decide(step);
    switch (decision.kind) {
      case 'local':
        showForm(step, decision, shown);
        return;
      case 'redirect':
        await leaveFor(step, decision.provider);
        return;
      case 'choose':
        ctx.type = 'html';
        allowImage(ctx, client.LogoUri);
        ctx.body = providerPage({
          ...formOf(step),
          providers: toOffers(lastUsedFirst(ctx, decision.providers), textsOf(step)),
          asksForName: decision.byDomain.length > 0,
          userName: shown.userName.slice(0, 256),
          problem: shown.problem,
        });
        return;
      case 'refuse':
        audit.record(
          ['sign-in', 'refused'],
          { clientId: client.ClientId, reason: 'no-way-in', requested: decision.requested },
          'sign-in refused',
        );
        ctx.status = 403;
        ctx.type = 'html';
        ctx.body = noProviderPage({ ...formOf(step), backUrl: findWayBack(client) });
    }
  }

  function showForm(
    step: Step,
    { providers, byDomain }: Extract<LoginStep, { kind: 'local' }>,
    { userName, error, problem }: ShownLogin,
  ): void {
    const { ctx, client } = step;
    ctx.type = 'html';
    allowImage(ctx, client.LogoUri);
    ctx.body = loginPage({
      ...formOf(step),
      userName: userName.slice(0, 256),
      error,
      problem,
      providers: toOffers(lastUsedFirst(ctx, providers), textsOf(step)),
      isNameEnough: byDomain.length > 0,
    });
  }

  async function takePassword(step: Step, { username = '', password = '' }: Form): Promise<void> {
    const { ctx, client, interaction } = step;
    // Decided again: the registration may have changed since the page was shown.
    if (decide(step).kind !== 'local') {
      await showLogin(step, { userName: username });
      return;
    }
    const result = await credentials.verify(username, password, devices.originOf(ctx, username));
    if (result.kind === 'blocked') {
      const { counter } = result.block;
      audit.record(
        ['sign-in', 'refused'],
        { clientId: client.ClientId, reason: 'too-many-attempts', counter },
        'sign-in refused',
      );
      setBlocked(ctx, result.block);
      await showLogin(step, { userName: username, error: 'busy' });
      return;
    }
    if (result.kind === 'unavailable') {
      audit.record(
        ['sign-in', 'failed'],
        { clientId: client.ClientId, reason: result.reason },
        'sign-in refused',
      );
      ctx.status = 503;
      await showLogin(step, { userName: username, error: 'unavailable' });
      return;
    }
    if (result.kind === 'refused') {
      const { accountId, reason } = result;
      audit.record(
        ['sign-in', 'refused'],
        { accountId, clientId: client.ClientId, reason },
        'sign-in refused',
      );
      ctx.status = 400;
      await showLogin(step, { userName: username, error: 'credentials' });
      return;
    }
    if (result.kind === 'must-change') {
      const mustChangePassword = result.pending;
      interaction.result = { ...interaction.lastSubmission, mustChangePassword };
      await interaction.save(interaction.exp - now());
      showChangePassword(step, mustChangePassword);
      return;
    }
    await signIn(step, result.account, username);
  }

  function showChangePassword(
    step: Step,
    { accountId, source }: PendingChange,
    error?: PasswordProblem,
  ): void {
    step.ctx.type = 'html';
    step.ctx.body = changePasswordPage({
      ...formOf(step),
      userName: accountId,
      asksCurrent: source !== undefined,
      error,
    });
  }

  async function takeNewPassword(step: Step, pending: PendingChange, form: Form): Promise<void> {
    const { interaction } = step;
    const { accountId, userName } = pending;
    const result = await credentials.changePassword(pending, form, devices.originOf(step.ctx, userName));
    if (result.kind === 'blocked') {
      const { counter } = result.block;
      audit.record(
        ['password', 'refused'],
        { clientId: step.client.ClientId, accountId, reason: 'too-many-attempts', counter },
        'password not changed',
      );
      setBlocked(step.ctx, result.block);
      showChangePassword(step, pending, { kind: 'blocked' });
      return;
    }
    if (result.kind !== 'changed') {
      step.ctx.status = result.kind === 'refused' ? 400 : 503;
      showChangePassword(step, pending, result.problem);
      return;
    }
    await tokens.revokeAccount(accountId, { kept: interaction.uid });
    // The session that the interaction came from is among what has just ended.
    if (interaction.session !== undefined) delete (interaction.session as { uid?: string }).uid;
    audit.record(['password', 'success'], { clientId: step.client.ClientId, accountId }, 'password changed');
    await signIn(step, result.account, userName);
  }

  async function signIn(step: Step, { accountId, stamp }: Account, userName: string): Promise<void> {
    devices.remember(step.ctx, userName);
    audit.record(
      ['sign-in', 'success'],
      { clientId: step.client.ClientId, accountId, identityProvider: 'local' },
      'login finished',
    );
    await finish(step, {
      // Not remembered beyond the browser's own session, as IdentityServer3's cookie was.
      login: { accountId, amr: ['pwd', 'idp:local'], remember: false, ts: now() },
      select_account: {},
      stamp,
    });
  }

  function consentRequestOf({ ctx, client, interaction }: Step): ConsentRequest {
    const requested = textParam(interaction, 'scope').split(' ').filter(Boolean);
    return { ctx, client, accountId: interaction.session?.accountId, requested };
  }

  function showConsent(step: Step): void {
    const { ctx, client } = step;
    ctx.type = 'html';
    allowImage(ctx, client.LogoUri);
    ctx.body = consent.page(consentRequestOf(step), formOf(step));
  }

  async function takeConsent(step: Step, form: Form): Promise<void> {
    const { ctx, interaction } = step;
    const answer = await consent.read(consentRequestOf(step), form);
    if (answer.kind === 'denied') {
      await finish(step, { error: 'access_denied', error_description: 'the user denied the request' });
    } else if (answer.kind === 'allowed') {
      await finish(step, { consent: { scopes: answer.scopes } });
    } else {
      // The same request again, at the beginning: somebody else signs in.
      const { resource: _ours, ...params } = interaction.params as Record<string, string>;
      await interaction.destroy();
      const target = new URL(`${registry.configuration.server.PublicUrl}/connect/authorize`);
      const prompts = new Set(['login', ...textParam(interaction, 'prompt').split(' ').filter(Boolean)]);
      target.search = new URLSearchParams({ ...params, prompt: [...prompts].join(' ') }).toString();
      ctx.status = 303;
      ctx.redirect(target.href);
    }
  }

  /** Stores the result and sends the browser back to the engine, which goes on from there. */
  async function finish({ ctx, interaction }: Step, result: Record<string, unknown>): Promise<void> {
    // Who signs in anew brings nothing along: what was answered before may have been another's, such as consent.
    const isAnew = 'error' in result || 'login' in result;
    interaction.result = isAnew ? result : { ...interaction.lastSubmission, ...result };
    await interaction.save(interaction.exp - now());
    ctx.status = 303;
    ctx.redirect(interaction.returnTo);
  }
}

function captionOf({ Caption, Name }: IdentityProvider, { names }: Texts): string {
  return nameOf(names.providers, Name) ?? (Caption === '' ? Name : Caption);
}

function toOffers(providers: readonly IdentityProvider[], texts: Texts): OfferedProvider[] {
  return providers.map((provider) => ({ name: provider.Name, caption: captionOf(provider, texts) }));
}

function mustChange({ result }: Interaction): PendingChange | undefined {
  return (result as InteractionResult | undefined)?.mustChangePassword;
}

function textParam({ params }: Interaction, name: string): string {
  const value = params[name];
  return typeof value === 'string' ? value : '';
}
