/**
 * The pages of an interaction, all at `login/:uid`:
 *
 *   GET   shows what the authorization request waits for: signing in, a new password, or consent
 *   POST  takes the answer, finishes the interaction and sends the browser back (303) to the engine
 *
 * The step is decided again from the stored interaction at every request. The interaction's cookie has this
 * path; without it, or after the end, a page says what happened and offers the way back to the client.
 */
import Router from '@koa/router';
import type { Context } from 'koa';
import { errors, type Provider } from 'oidc-provider';
import type { Client } from '../config/load.ts';
import { identityScopes, offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import { type Csrf, refuseForeignPost } from '../http/csrf.ts';
import { readForm } from '../http/form.ts';
import { allowImage } from '../http/middleware.ts';
import { interactionExpiredPage, noProviderPage } from '../pages/notices.ts';
import {
  type ConsentScope,
  changePasswordPage,
  consentPage,
  type LoginError,
  loginPage,
} from '../pages/sign-in.ts';
import { basePathOf, findWayBack } from '../registry/client-metadata.ts';
import { chooseLogin } from './choose-login.ts';

type Needs = Pick<ServerContext, 'accounts' | 'brand' | 'log' | 'now' | 'registry' | 'tokens'>;
type Interaction = Awaited<ReturnType<Provider['interactionDetails']>>;
type Form = Readonly<Record<string, string>>;

/** What an interaction's result may hold beside the engine's own members. */
interface InteractionResult {
  /** The account that has given its right password and must change it now, and the proof of that password. */
  readonly mustChangePassword?: { readonly accountId: string; readonly proof: string };
}

type Pending = NonNullable<InteractionResult['mustChangePassword']>;

/** What one request is about. */
interface Step {
  readonly ctx: Context;
  readonly interaction: Interaction;
  readonly client: Client;
}

/** Makes the routes. `engine` answers for the provider in force; `csrf` protects the forms. */
export function createLoginRoutes(
  { accounts, brand, log, now, registry, tokens }: Needs,
  { engine, csrf }: { engine: () => Provider; csrf: Csrf },
): Router {
  const router = new Router();

  router.get('/login/:uid', async function showStep(ctx) {
    const step = await loadStep(ctx);
    if (step === undefined) return;
    const { interaction } = step;
    const pending = mustChange(interaction);
    if (interaction.prompt.name === 'consent') showConsent(step);
    else if (pending !== undefined) showChangePassword(step, pending.accountId);
    else showLogin(step, { userName: textParam(interaction, 'login_hint') });
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
      else showLogin(step, { userName: form.username ?? '', error: 'form-expired' });
      return;
    }
    if (form.action === 'cancel') {
      log.info({ clientId: step.client.ClientId }, 'sign-in cancelled');
      await finish(step, { error: 'access_denied', error_description: 'the user cancelled' });
      return;
    }
    const pending = mustChange(interaction);
    if (interaction.prompt.name === 'consent') await takeConsent(step, form);
    else if (pending !== undefined) await takeNewPassword(step, pending, form);
    else await takePassword(step, form);
  });

  return router;

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
      return { ctx, interaction, client };
    } catch (err) {
      if (!(err instanceof errors.SessionNotFound)) throw err;
      log.info({ reason: err.error_description }, 'interaction not found');
      const client = registry.findClient(String(ctx.query.client_id ?? ''));
      ctx.status = 400;
      ctx.type = 'html';
      ctx.body = interactionExpiredPage({
        brand,
        clientName: client?.ClientName,
        backUrl: client && findWayBack(client),
      });
      return undefined;
    }
  }

  function formOf({ interaction, client }: Step) {
    const base = basePathOf(registry.configuration.server.PublicUrl);
    return {
      brand,
      action: `${base}/login/${interaction.uid}?client_id=${encodeURIComponent(client.ClientId)}`,
      csrf: csrf.token(interaction.uid),
      clientName: client.ClientName,
      clientLogoUrl: client.LogoUri,
    };
  }

  function showLogin(step: Step, { userName, error }: { userName: string; error?: LoginError }): void {
    const { ctx, client } = step;
    ctx.type = 'html';
    if (chooseLogin(client).kind === 'refuse') {
      ctx.status = 403;
      ctx.body = noProviderPage({ brand, clientName: client.ClientName, backUrl: findWayBack(client) });
      return;
    }
    allowImage(ctx, client.LogoUri);
    ctx.body = loginPage({ ...formOf(step), userName: userName.slice(0, 256), error });
  }

  async function takePassword(step: Step, { username = '', password = '' }: Form): Promise<void> {
    const { ctx, client, interaction } = step;
    // Decided again: the registration may have changed since the page was shown.
    if (chooseLogin(client).kind === 'refuse') {
      showLogin(step, { userName: username });
      return;
    }
    const result = await accounts.verifyCredentials(username, password);
    const isUsable = result.kind !== 'refused' && !registry.isClientAccount(result.account.accountId);
    if (!isUsable) {
      const reason = result.kind === 'refused' ? result.reason : 'client-account';
      log.info({ clientId: client.ClientId, reason }, 'sign-in refused');
      ctx.status = 400;
      showLogin(step, { userName: username, error: 'credentials' });
      return;
    }
    const { accountId } = result.account;
    if (result.kind === 'must-change') {
      const mustChangePassword = { accountId, proof: result.proof };
      interaction.result = { ...interaction.lastSubmission, mustChangePassword };
      await interaction.save(interaction.exp - now());
      showChangePassword(step, accountId);
      return;
    }
    await signIn(step, accountId);
  }

  function showChangePassword(step: Step, accountId: string, error?: string): void {
    step.ctx.type = 'html';
    step.ctx.body = changePasswordPage({ ...formOf(step), userName: accountId, error });
  }

  async function takeNewPassword(step: Step, { accountId, proof }: Pending, form: Form): Promise<void> {
    const { interaction } = step;
    const { newPassword = '', repeatPassword = '' } = form;
    const refuse = (message: string) => {
      step.ctx.status = 400;
      showChangePassword(step, accountId, message);
    };
    if (newPassword !== repeatPassword) {
      refuse('The two passwords are not the same.');
      return;
    }
    const isOld = (await accounts.verifyCredentials(accountId, newPassword)).kind !== 'refused';
    if (isOld) {
      refuse('Choose a password that differs from the present one.');
      return;
    }
    try {
      await accounts.setPassword(accountId, newPassword, { instead: proof });
    } catch (err) {
      if (!(err instanceof ServerError) || err.code !== 'ERR_PASSWORD_UNACCEPTABLE') throw err;
      refuse(`${err.message.charAt(0).toUpperCase()}${err.message.slice(1)}.`);
      return;
    }
    await tokens.revokeAccount(accountId, { kept: interaction.uid });
    // The session that the interaction came from is among what has just ended.
    if (interaction.session !== undefined) delete (interaction.session as { uid?: string }).uid;
    log.info({ clientId: step.client.ClientId, accountId }, 'password changed');
    await signIn(step, accountId);
  }

  async function signIn(step: Step, accountId: string): Promise<void> {
    log.info({ clientId: step.client.ClientId, accountId, identityProvider: 'local' }, 'login finished');
    await finish(step, {
      // Not remembered beyond the browser's own session, as IdentityServer3's cookie was.
      login: { accountId, amr: ['pwd', 'idp:local'], remember: false, ts: now() },
      select_account: {},
    });
  }

  function showConsent(step: Step): void {
    const { ctx, client, interaction } = step;
    const requested = textParam(interaction, 'scope').split(' ').filter(Boolean);
    ctx.type = 'html';
    allowImage(ctx, client.LogoUri);
    ctx.body = consentPage({
      ...formOf(step),
      clientUri: client.ClientUri,
      userName: interaction.session?.accountId ?? '',
      scopes: requested.filter((name) => name !== offlineAccess).map(describeScope),
      offline: requested.includes(offlineAccess),
      canRemember: client.AllowRememberConsent && !requested.includes(offlineAccess),
    });
  }

  function describeScope(name: string): ConsentScope {
    const identity = (identityScopes as Record<string, { displayName: string; description?: string }>)[name];
    if (identity !== undefined) {
      const { displayName, description } = identity;
      return { name, displayName, description, emphasize: false, required: name === 'openid' };
    }
    const resources = [...registry.configuration.resources.values()];
    const resource = resources.find(({ Scopes }) => Scopes.some(({ Name }) => Name === name));
    const scope = resource?.Scopes.find(({ Name }) => Name === name);
    // A resource with one scope of its own name need not name it twice.
    const ownName = resource?.Name === name ? resource.DisplayName : undefined;
    return {
      name,
      displayName: scope?.DisplayName ?? ownName ?? name,
      description: scope?.Description,
      emphasize: scope?.Emphasize ?? false,
      required: scope?.Required ?? false,
    };
  }

  async function takeConsent(step: Step, form: Form): Promise<void> {
    const { ctx, client, interaction } = step;
    const accountId = interaction.session?.accountId;
    if (form.action === 'switch') {
      // The same request again, at the beginning: somebody else signs in.
      const { resource: _ours, ...params } = interaction.params as Record<string, string>;
      await interaction.destroy();
      const target = new URL(`${registry.configuration.server.PublicUrl}/connect/authorize`);
      target.search = new URLSearchParams({ ...params, prompt: 'login' }).toString();
      ctx.status = 303;
      ctx.redirect(target.href);
      return;
    }
    if (form.action !== 'allow' || accountId === undefined) {
      log.info({ clientId: client.ClientId, accountId }, 'consent denied');
      await finish(step, { error: 'access_denied', error_description: 'the user denied the request' });
      return;
    }
    const allowed = new Set((form.scope ?? '').split(' '));
    const requested = textParam(interaction, 'scope').split(' ');
    const scopes = requested.filter((name) => allowed.has(name) || describeScope(name).required);
    if (form.remember !== undefined && client.AllowRememberConsent) {
      await tokens.rememberConsent(accountId, client.ClientId, scopes);
    }
    log.info({ clientId: client.ClientId, accountId, scopes }, 'consent given');
    await finish(step, { consent: { scopes } });
  }

  /** Stores the result and sends the browser back to the engine, which goes on from there. */
  async function finish({ ctx, interaction }: Step, result: Record<string, unknown>): Promise<void> {
    interaction.result = 'error' in result ? result : { ...interaction.lastSubmission, ...result };
    await interaction.save(interaction.exp - now());
    ctx.status = 303;
    ctx.redirect(interaction.returnTo);
  }
}

function mustChange({ result }: Interaction): Pending | undefined {
  return (result as InteractionResult | undefined)?.mustChangePassword;
}

function textParam({ params }: Interaction, name: string): string {
  const value = params[name];
  return typeof value === 'string' ? value : '';
}
