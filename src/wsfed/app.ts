/**
 * The WsFed application: a WS-Federation identity provider (passive requestor profile, WS-Federation 1.2 section 13)
 * with the accounts and the look of the sign-in page.
 *
 *   GET  ?wa=wsignin1.0&wtrealm=…     the answer, by the session; else WinLogin or the login page
 *   POST ?wa=wsignin1.0&wtrealm=…     the login page's form
 *   GET  Login?wa=wsignin1.0&…        the same without WinLogin
 *   GET  WinLogin?wa=wsignin1.0&…     the answer, by Windows; 401 with the login page where there is no ticket yet
 *   POST WinLogin                     a ticket of the handler of IIS
 *   GET  ?wa=wsignout1.0&wreply=…     ends the session, tells its relying parties, and leads back
 *   GET  FederationMetadata/2007-06/FederationMetadata.xml
 *
 * Nothing is kept between the request and its answer: the query says it all, and is judged at every step. An answer
 * goes to a registered address and nowhere else.
 */
import type { Context, Middleware } from 'koa';
import type { Account } from '../accounts/accounts.ts';
import type { PendingChange } from '../accounts/credentials.ts';
import type { PasswordProblem } from '../accounts/passwords.ts';
import { federationMetadataPath, type RelyingParty } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import { ServerError } from '../errors.ts';
import {
  encryptAssertion,
  issueAssertion,
  type SamlSigner,
  toSignInResponse,
  writeFederationMetadata,
} from '../federation/saml-issuing.ts';
import { actions } from '../federation/ws-federation.ts';
import { type Csrf, refuseForeignPost } from '../http/csrf.ts';
import { type Devices, setBlocked } from '../http/devices.ts';
import { readForm } from '../http/form.ts';
import { textsFor, uiLocalesOf, withUiLocales } from '../http/language.ts';
import { allowFrames, allowScript, requireMethod } from '../http/middleware.ts';
import { nameOf, type Texts } from '../languages/languages.ts';
import { answerPage, answerScriptHash } from '../pages/answer.ts';
import { changePasswordPage, type LoginError, loginPage } from '../pages/sign-in.ts';
import { signedOutPage, signingOutPage } from '../pages/sign-out.ts';
import { basePathOf } from '../registry/client-metadata.ts';
import { claimsFor } from './claims.ts';
import { createWsFedSessions, type WsFedSession } from './sessions.ts';
import type { WindowsSignIn, WindowsStep } from './windows.ts';

type Needs = Pick<
  ServerContext,
  | 'accounts'
  | 'audit'
  | 'brand'
  | 'credentials'
  | 'log'
  | 'metrics'
  | 'now'
  | 'registry'
  | 'standing'
  | 'tokens'
> & {
  csrf: Csrf;
  devices: Devices;
  signer: SamlSigner & { readonly nextCertificate: string | undefined };
  /** Where users are signed in by Windows. */
  windows: WindowsSignIn | undefined;
};

/** A request to sign in, after it has been judged. */
interface SignIn {
  readonly party: RelyingParty;
  /** Where the answer goes. */
  readonly replyUrl: string;
  readonly wctx: string | undefined;
  /** The oldest sign-in that is good enough, in seconds since the epoch. */
  readonly notBefore: number;
  /** The way of signing in that is asked for (wauth); any other does where this one is not there. */
  readonly method: WsFedSession['method'] | undefined;
}

/** An account that has given its right password and must change it now. */
interface Pending extends PendingChange {
  /** Seconds since the epoch. */
  readonly expiresAt: number;
}

/** How long somebody may think about a new password. */
const changeSeconds = 900;

/** What relying parties ask for in wauth, by the names that they know from AD FS and from SAML. */
const methods: ReadonlyMap<string, WsFedSession['method']> = new Map([
  ['urn:federation:authentication:windows', 'windows'],
  ['urn:oasis:names:tc:SAML:1.0:am:password', 'password'],
  ['urn:oasis:names:tc:SAML:2.0:ac:classes:Password', 'password'],
  ['urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport', 'password'],
]);

/** Longer ones are cut on their way by browsers and proxies. */
const longestContext = 4096;

/** Makes the middleware under the mount of the application. */
export function createWsFed(needs: Needs): Middleware {
  const {
    accounts,
    audit,
    brand,
    credentials,
    csrf,
    devices,
    metrics,
    now,
    registry,
    signer,
    standing,
    tokens,
    windows,
  } = needs;
  const { server } = registry.configuration;
  const entityId = server.WsFed.PublicUrl;
  const base = basePathOf(entityId);
  const home = base || '/';
  const sessions = createWsFedSessions(needs);
  const metadata = writeFederationMetadata(
    { entityId, endpoint: entityId, nextCertificate: signer.nextCertificate },
    signer,
  );

  return async function wsFed(ctx, next) {
    const path = ctx.path.toLowerCase();
    if (path === federationMetadataPath.toLowerCase()) {
      requireMethod(ctx, ['GET', 'HEAD']);
      ctx.type = 'application/samlmetadata+xml';
      ctx.set('Cache-Control', 'public, max-age=3600');
      ctx.body = metadata;
      return;
    }
    if (path === '/winlogin' && ctx.method === 'POST') return takeTicket(ctx);
    if (path === '/winlogin' || path === '/login') {
      requireMethod(ctx, path === '/winlogin' ? ['GET', 'POST'] : ['GET', 'HEAD']);
      return signIn(ctx, judge(ctx), path === '/login' ? 'form' : 'windows');
    }
    if (path !== '/') return next();
    requireMethod(ctx, ['GET', 'HEAD', 'POST']);
    const action = singleOf(ctx, 'wa');
    if (action === actions.signIn) {
      const request = judge(ctx);
      await (ctx.method === 'POST' ? takeForm(ctx, request) : signIn(ctx, request, 'any'));
    } else if (action === actions.signOut || action === actions.signOutCleanup) await signOut(ctx);
    else throw notAsked(ctx);
  };

  /** Whose request it is and where its answer goes; anything that is not registered ends here, with a page. */
  function judge(ctx: Context): SignIn {
    if (singleOf(ctx, 'wa') !== actions.signIn) throw notAsked(ctx);
    const realm = singleOf(ctx, 'wtrealm');
    const party = registry.configuration.relyingParties.get(realm ?? '');
    if (party === undefined || !party.Enabled) {
      throw new ServerError(
        'ERR_RELYING_PARTY_UNKNOWN',
        'the application that sent you here is not registered',
        {
          status: 400,
          hint: `wtrealm is ${JSON.stringify(realm?.slice(0, 200))}; a file in config/relying-parties/ needs it as Realm`,
        },
      );
    }
    const wreply = singleOf(ctx, 'wreply');
    const replyUrls: readonly string[] = party.ReplyUrls;
    const replyUrl = wreply === undefined ? replyUrls[0] : replyUrls.find((url) => url === wreply);
    if (replyUrl === undefined) {
      throw new ServerError(
        'ERR_RELYING_PARTY_UNKNOWN',
        'the application that sent you here asked for an answer to an address that is not registered for it',
        { status: 400, hint: `wreply is none of ReplyUrls of ${party.Name}` },
      );
    }
    const wctx = singleOf(ctx, 'wctx');
    if (/\p{Cc}/u.test(wctx ?? '')) {
      throw new ServerError('ERR_REQUEST_INVALID', 'the context (wctx) has control characters', {
        status: 400,
        hint: 'browsers would change them on the way back',
      });
    }
    if ((wctx?.length ?? 0) > longestContext) {
      throw new ServerError('ERR_REQUEST_INVALID', 'the context of the application (wctx) is too long', {
        status: 400,
      });
    }
    const wfresh = singleOf(ctx, 'wfresh');
    if (wfresh !== undefined && !/^\d{1,9}$/.test(wfresh)) {
      throw new ServerError('ERR_REQUEST_INVALID', 'wfresh is no number of minutes', { status: 400 });
    }
    // Of a sign-in that has to be new, the one of this very request is new enough.
    const minutes = wfresh === undefined ? undefined : Number(wfresh);
    const notBefore =
      minutes === undefined ? 0 : minutes === 0 ? Number.POSITIVE_INFINITY : now() - minutes * 60;
    const method = methods.get(singleOf(ctx, 'wauth') ?? '');
    return { party, replyUrl, wctx, notBefore, method };
  }

  /** Answers by the session where it is good enough: `absent`, or not (`unfit`), there is something left to do. */
  async function trySession(ctx: Context, request: SignIn): Promise<'absent' | 'answered' | 'unfit'> {
    const session = await sessions.find(ctx);
    if (session === undefined) return 'absent';
    const isPossible = windows?.isFor(ctx) === true;
    const isWay =
      request.method === undefined ||
      request.method === session.method ||
      (request.method === 'windows' && !isPossible);
    if (!isWay || session.authenticatedAt < request.notBefore) return 'unfit';
    const account = await accounts.find(session.accountId);
    const isAsBefore = account?.stamp === session.stamp && !account.disabled;
    const isUsable = account !== undefined && isAsBefore && !registry.isClientAccount(account.accountId);
    const verdict = isUsable ? await standing.check(account.accountId) : ({ kind: 'ended' } as const);
    if (isUsable && verdict.kind === 'good') {
      await answer(ctx, request, verdict.account ?? account, session);
      return 'answered';
    }
    if (verdict.kind === 'ended') await sessions.end(ctx);
    return 'unfit';
  }

  /** By the session, else in one of the ways; `any` is for us to choose. */
  async function signIn(ctx: Context, request: SignIn, way: 'any' | 'form' | 'windows'): Promise<void> {
    const found = await trySession(ctx, request);
    if (found === 'answered') return;
    const isByWindows = windows?.isFor(ctx) === true && way !== 'form' && request.method !== 'password';
    // Who is to prove anew who he is has to do something for it: follow the link of our own page.
    const isAnew = request.notBefore > now() || (found === 'unfit' && request.notBefore > 0);
    const isOwnLink = ['', 'none', 'same-origin'].includes(ctx.get('sec-fetch-site'));
    if (!isByWindows || (isAnew && (way === 'any' || !isOwnLink))) showLogin(ctx, request, { userName: '' });
    else if (way === 'windows') {
      await takeStep(ctx, request, windows, await windows.begin(ctx, sessions.formSubject(ctx)));
    } else {
      ctx.status = 302;
      ctx.redirect(`${base}/WinLogin${ctx.search}`);
    }
  }

  async function takeStep(
    ctx: Context,
    request: SignIn,
    { findAccount }: WindowsSignIn,
    step: WindowsStep,
  ): Promise<void> {
    switch (step.kind) {
      case 'challenge':
        ctx.status = 401;
        ctx.set('WWW-Authenticate', 'Negotiate');
        // What the browser shows where it has no ticket, or its user cancels the dialog.
        showLogin(ctx, request, { userName: '' });
        return;
      case 'leave':
        ctx.status = 303;
        ctx.redirect(step.url);
        return;
      case 'refused':
        audit.record(
          ['sign-in', 'refused'],
          { relyingParty: request.party.Name, reason: step.reason, detail: step.detail },
          'Windows sign-in refused',
          'warn',
        );
        metrics.countWindowsSignIn('refused');
        ctx.status = 403;
        showLogin(ctx, request, { userName: '', windowsProblem: 'failed' });
        return;
      case 'identified': {
        const found = await findAccount(step.identity);
        if (found.kind === 'refused') {
          const { mapped, reason } = found;
          metrics.countWindowsSignIn('no-account');
          audit.record(
            ['sign-in', 'refused'],
            { relyingParty: request.party.Name, windowsName: step.identity.name, mapped, reason },
            'no account for a Windows user',
          );
          ctx.status = 403;
          showLogin(ctx, request, { userName: '', windowsProblem: 'no-account' });
          return;
        }
        const { account } = found;
        const verdict = await standing.check(account.accountId, { isFresh: true });
        if (verdict.kind !== 'good') {
          const isEnded = verdict.kind === 'ended';
          const reason = isEnded ? 'ended-in-directory' : 'directory-unavailable';
          metrics.countWindowsSignIn(isEnded ? 'no-account' : 'not-checked');
          audit.record(
            ['sign-in', isEnded ? 'refused' : 'failed'],
            { relyingParty: request.party.Name, accountId: account.accountId, reason },
            'sign-in refused',
          );
          ctx.status = isEnded ? 403 : 503;
          showLogin(ctx, request, {
            userName: '',
            windowsProblem: isEnded ? 'no-account' : 'not-checked',
          });
          return;
        }
        if (step.proof) ctx.set('WWW-Authenticate', `Negotiate ${step.proof}`);
        await finish(ctx, request, verdict.account ?? account, 'windows');
        metrics.countWindowsSignIn('signed-in');
      }
    }
  }

  /** The browser comes back from the handler of IIS; what it had asked for stands in the attempt. */
  async function takeTicket(ctx: Context): Promise<void> {
    // From a page that is not ours, so without a token of ours: the attempt is bound to the browser instead. The
    // page is on our site, perhaps on another port.
    const isElsewhere = ctx.get('sec-fetch-site') === 'cross-site';
    if (windows === undefined || isElsewhere || !windows.isFor(ctx)) {
      throw new ServerError('ERR_FORM_EXPIRED', 'this sign-in has ended; go back to the application', {
        status: 403,
        hint: 'a ticket from another site, from outside Networks, or where tickets are not the way',
      });
    }
    const { ticket = '' } = await readForm(ctx);
    const taken = await windows.takeTicket(ticket, sessions.formSubject(ctx));
    if (taken.kind === 'unknown') {
      throw new ServerError('ERR_FORM_EXPIRED', 'this sign-in has ended; go back to the application', {
        status: 400,
        hint: 'the ticket is not one, or its attempt is older than ten minutes',
      });
    }
    ctx.querystring = taken.query;
    const request = judge(ctx);
    const { step } = taken;
    // Another window of the browser, or the same page before it was loaded again, may have been first.
    if (step.kind !== 'identified' && (await trySession(ctx, request)) === 'answered') return;
    await takeStep(ctx, request, windows, step.kind === 'other-browser' ? await step.goAgain() : step);
  }

  async function takeForm(ctx: Context, request: SignIn): Promise<void> {
    refuseForeignPost(ctx);
    const form = await readForm(ctx);
    const userName = form.username ?? '';
    if (!csrf.verify(sessions.formSubject(ctx), form.csrf)) {
      ctx.status = 400;
      showLogin(ctx, request, { userName, error: 'form-expired' });
      return;
    }
    if (form.pending !== undefined) {
      await takeNewPassword(ctx, request, form);
      return;
    }
    const result = await credentials.verify(userName, form.password ?? '', devices.originOf(ctx, userName));
    if (result.kind === 'blocked') {
      const { counter } = result.block;
      audit.record(
        ['sign-in', 'refused'],
        { relyingParty: request.party.Name, reason: 'too-many-attempts', counter },
        'sign-in refused',
      );
      setBlocked(ctx, result.block);
      showLogin(ctx, request, { userName, error: 'busy' });
    } else if (result.kind === 'unavailable') {
      audit.record(
        ['sign-in', 'failed'],
        { relyingParty: request.party.Name, reason: result.reason },
        'sign-in refused',
      );
      ctx.status = 503;
      showLogin(ctx, request, { userName, error: 'unavailable' });
    } else if (result.kind === 'refused') {
      const { accountId, reason } = result;
      audit.record(
        ['sign-in', 'refused'],
        { accountId, relyingParty: request.party.Name, reason },
        'sign-in refused',
      );
      ctx.status = 400;
      showLogin(ctx, request, { userName, error: 'credentials' });
    } else if (result.kind === 'must-change') {
      showChangePassword(ctx, request, { ...result.pending, expiresAt: now() + changeSeconds });
    } else {
      devices.remember(ctx, userName);
      await finish(ctx, request, result.account, 'password');
    }
  }

  function showChangePassword(
    ctx: Context,
    request: SignIn,
    pending: Pending,
    error?: PasswordProblem,
  ): void {
    ctx.type = 'html';
    ctx.body = changePasswordPage({
      ...formOf(ctx, request),
      userName: pending.accountId,
      asksCurrent: pending.source !== undefined,
      pending: seal(ctx, pending),
      error,
    });
  }

  async function takeNewPassword(
    ctx: Context,
    request: SignIn,
    form: Readonly<Record<string, string>>,
  ): Promise<void> {
    const pending = unseal(ctx, form.pending ?? '');
    if (pending === undefined) {
      ctx.status = 400;
      showLogin(ctx, request, { userName: '', error: 'form-expired' });
      return;
    }
    const { accountId, userName } = pending;
    const result = await credentials.changePassword(pending, form, devices.originOf(ctx, userName));
    if (result.kind === 'blocked') {
      const { counter } = result.block;
      audit.record(
        ['password', 'refused'],
        { relyingParty: request.party.Name, accountId, reason: 'too-many-attempts', counter },
        'password not changed',
      );
      setBlocked(ctx, result.block);
      showChangePassword(ctx, request, pending, { kind: 'blocked' });
      return;
    }
    if (result.kind !== 'changed') {
      ctx.status = result.kind === 'refused' ? 400 : 503;
      showChangePassword(ctx, request, pending, result.problem);
      return;
    }
    await tokens.revokeAccount(accountId);
    audit.record(
      ['password', 'success'],
      { relyingParty: request.party.Name, accountId },
      'password changed',
    );
    devices.remember(ctx, userName);
    await finish(ctx, request, result.account, 'password');
  }

  /** What was proved, in a form that only this browser can send back, and nobody can change. */
  function seal(ctx: Context, pending: Pending): string {
    const text = Buffer.from(JSON.stringify(pending)).toString('base64url');
    return `${text}.${csrf.token(`${sessions.formSubject(ctx)} must change ${text}`)}`;
  }

  function unseal(ctx: Context, sealed: string): Pending | undefined {
    const [text = '', mac] = sealed.split('.');
    if (!csrf.verify(`${sessions.formSubject(ctx)} must change ${text}`, mac)) return undefined;
    const pending = JSON.parse(Buffer.from(text, 'base64url').toString()) as Pending;
    return pending.expiresAt > now() ? pending : undefined;
  }

  async function finish(
    ctx: Context,
    request: SignIn,
    account: Account,
    method: WsFedSession['method'],
  ): Promise<void> {
    const { accountId, stamp } = account;
    const begun = { accountId, stamp, authenticatedAt: now(), method };
    const session = await sessions.start(ctx, begun, {
      realm: request.party.Realm,
      replyUrl: request.replyUrl,
    });
    if (!(await accounts.isUnchanged(accountId, stamp))) {
      await tokens.revokeAccount(accountId);
      audit.record(
        ['sign-in', 'refused'],
        { relyingParty: request.party.Name, accountId, reason: 'account-changed' },
        'sign-in ended: the account was changed meanwhile',
      );
      throw new ServerError('ERR_FORM_EXPIRED', 'the account was changed while you signed in', {
        status: 409,
      });
    }
    audit.record(
      ['sign-in', 'success'],
      { relyingParty: request.party.Name, accountId, method },
      'login finished',
    );
    await answer(ctx, request, account, session);
  }

  /** The page that posts the answer to the relying party. */
  async function answer(
    ctx: Context,
    { party, replyUrl, wctx }: SignIn,
    account: Account,
    session: WsFedSession,
  ): Promise<void> {
    const facts = {
      version: party.TokenType === 'Saml11' ? '1.1' : '2.0',
      issuer: entityId,
      audience: party.Realm,
      subject: account.accountId,
      claims: claimsFor(party, account),
      authenticatedAt: session.authenticatedAt,
      now: now(),
      lifetimeSeconds: party.TokenLifetime,
      method: session.method,
      sessionIndex: session.index,
    } as const;
    const assertion = issueAssertion(facts, signer);
    const token =
      party.EncryptionCertificate === undefined
        ? assertion
        : await encryptAssertion(assertion, party.EncryptionCertificate);
    await sessions.note(ctx, session, { realm: party.Realm, replyUrl });
    audit.record(
      ['token', 'success'],
      { relyingParty: party.Name, accountId: account.accountId },
      'assertion issued',
    );
    const texts = textsFor(ctx, { registry });
    allowScript(ctx, answerScriptHash);
    ctx.type = 'html';
    ctx.body = answerPage({
      brand,
      texts,
      action: replyUrl,
      partyName: captionIn(texts, party),
      fields: { wa: actions.signIn, wresult: toSignInResponse(token, facts), wctx },
    });
  }

  async function signOut(ctx: Context): Promise<void> {
    requireMethod(ctx, ['GET', 'POST']);
    const session = await sessions.find(ctx);
    await sessions.end(ctx);
    const returnUrl = findReturn(singleOf(ctx, 'wreply'), singleOf(ctx, 'wtrealm'));
    if (session !== undefined)
      audit.record(['sign-out', 'success'], { accountId: session.accountId }, 'signed out');
    // Those that are still registered, switched off or not: what an address has become since is not known.
    const parties = (session?.parties ?? []).filter(({ realm, replyUrl }) =>
      registry.configuration.relyingParties.get(realm)?.ReplyUrls.some((url) => url === replyUrl),
    );
    const frames = parties.map(({ replyUrl }) => {
      const url = new URL(replyUrl);
      url.searchParams.set('wa', actions.signOutCleanup);
      return url.href;
    });
    ctx.type = 'html';
    if (frames.length > 0) {
      allowFrames(ctx, frames);
      // The same again, which by then has nobody to tell, where there is no other place to go to.
      const again = `${home}?${new URLSearchParams({ wa: actions.signOut })}`;
      const nextUrl = returnUrl ?? withUiLocales(again, uiLocalesOf(ctx));
      ctx.body = signingOutPage({ brand, texts: textsFor(ctx, { registry }), frames, nextUrl });
    } else if (returnUrl !== undefined) {
      ctx.status = 303;
      ctx.redirect(returnUrl);
    } else ctx.body = signedOutPage({ brand, texts: textsFor(ctx, { registry }) });
  }

  /** Where somebody who has signed out may go: an address of a relying party, of the one that is named if one is. */
  function findReturn(wreply: string | undefined, realm: string | undefined): string | undefined {
    const url = wreply === undefined ? null : URL.parse(wreply);
    if (wreply === undefined || url === null || url.username || url.password || url.hash) return undefined;
    const withoutQuery = `${url.origin}${url.pathname}`;
    const parties = [...registry.configuration.relyingParties.values()].filter(
      ({ Enabled, Realm }) => Enabled && (realm === undefined || Realm === realm),
    );
    const isRegistered = parties.some(
      ({ PostLogoutRedirectUris, ReplyUrls }) =>
        (ReplyUrls as readonly string[]).includes(wreply) ||
        (PostLogoutRedirectUris as readonly string[]).includes(withoutQuery),
    );
    return isRegistered ? url.href : undefined;
  }

  function formOf(ctx: Context, { party }: SignIn) {
    const texts = textsFor(ctx, { registry });
    return {
      brand,
      texts,
      action: `${home}${ctx.search}`,
      csrf: csrf.token(sessions.formSubject(ctx)),
      clientName: captionIn(texts, party),
      canCancel: false,
    };
  }

  function showLogin(
    ctx: Context,
    request: SignIn,
    {
      userName,
      error,
      windowsProblem,
    }: { userName: string; error?: LoginError; windowsProblem?: keyof Texts['login']['windowsProblems'] },
  ) {
    const form = formOf(ctx, request);
    ctx.type = 'html';
    ctx.body = loginPage({
      ...form,
      userName: userName.slice(0, 256),
      error,
      problem: windowsProblem && form.texts.login.windowsProblems[windowsProblem],
      windowsUrl:
        windows?.isFor(ctx) === true && request.method !== 'password'
          ? `${base}/WinLogin${ctx.search}`
          : undefined,
    });
  }
}

function captionIn({ names }: Texts, { Caption, Name }: RelyingParty): string {
  return nameOf(names.relyingParties, Name) ?? Caption;
}

function notAsked(ctx: Context): ServerError {
  const isMissing = singleOf(ctx, 'wa') === undefined;
  return new ServerError(
    'ERR_REQUEST_INVALID',
    'applications send you here to sign in; by itself this address does nothing',
    { status: 400, hint: `wa is ${isMissing ? 'missing' : 'neither wsignin1.0 nor wsignout1.0'}` },
  );
}

/** A parameter of the query that may stand there once. */
function singleOf(ctx: Context, name: string): string | undefined {
  const value = ctx.query[name];
  if (Array.isArray(value)) {
    throw new ServerError('ERR_REQUEST_INVALID', `the parameter ${name} must not be repeated`, {
      status: 400,
    });
  }
  return value || undefined;
}
