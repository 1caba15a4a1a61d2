/**
 * The pages between an authorization request and its answer: name and password, a new password, consent.
 *
 * What their forms send (application/x-www-form-urlencoded, POST):
 *
 * | page | fields |
 * | --- | --- |
 * | login | `csrf`, `username`, `password`; `provider` by the button of one; `action=cancel` by the Cancel button |
 * | identity providers | `csrf`, `provider` or `username`, `again=yes` after a failure; `action=cancel` |
 * | change password | `csrf`, `username`, `newPassword`, `repeatPassword`, `currentPassword` where it is asked for; `action=cancel` |
 * | consent | `csrf`, `action=allow|deny|switch`; with allow `scope` once for each scope left on, `remember=yes` |
 *
 * The main button of the first two has no name: a form that a password manager or the Enter key sends
 * means the same as a click on it.
 */
import type { PasswordProblem } from '../accounts/passwords.ts';
import { fill, type Texts } from '../languages/languages.ts';
import { fillIn, type Html, hidden, html, safeUrl } from './html.ts';
import { accountLine, alertBox, clientLogo, type Look, page } from './layout.ts';

/** A form of an interaction: where it goes, and its proof that it came from our page. */
interface FormOptions extends Look {
  action: string;
  csrf: string;
  clientName: string;
  /** Whether there is a way back without an answer; default there is. */
  canCancel?: boolean | undefined;
}

export type LoginError = keyof Texts['login']['errors'];

export interface LoginPageOptions extends FormOptions {
  clientLogoUrl?: string | undefined;
  /** What stands in the name field: `login_hint`, or what was typed before. May be empty. */
  userName: string;
  error?: LoginError | undefined;
  /** The identity providers that are offered beneath the form. */
  providers?: readonly OfferedProvider[] | undefined;
  /** A name alone may be enough: its domain leads to an identity provider. */
  isNameEnough?: boolean | undefined;
  /** What went wrong elsewhere, such as at an identity provider. */
  problem?: Problem | undefined;
  /** Where the browser is signed in by Windows, if it may be. */
  windowsUrl?: string | undefined;
}

/** An identity provider as a button shows it. */
export interface OfferedProvider {
  name: string;
  caption: string;
}

/** Why the user is not signed in yet, in words. */
export interface Problem {
  heading: string;
  message: string;
}

/**
 * The name and password form. The password is never filled in; the focus is on the first empty field.
 * After a wrong password it says only that one of the two is wrong, not which. Pure.
 */
export function loginPage(options: LoginPageOptions): string {
  const { brand, texts, action, csrf, clientName, clientLogoUrl, userName, error, problem } = options;
  const { canCancel = true, providers = [], isNameEnough = false, windowsUrl } = options;
  const t = texts.login;
  const shown = error === undefined ? problem : { heading: t.errorHeading, message: t.errors[error] };
  const aboutError = error !== undefined && html` aria-describedby="error"`;
  const wrong = error === 'credentials' && html` aria-invalid="true"`;
  return page(
    { brand, texts, title: fill(t.title, { client: clientName }), failed: shown !== undefined },
    html`<div class="lead-in">${clientLogo(clientLogoUrl)}<div>
<h1>${t.heading}</h1>
<p class="lead">${fillIn(t.lead, { client: clientName }, 'client')}</p>
</div></div>
${shown !== undefined && alertBox({ id: 'error', ...shown })}
<form method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}
<div class="field">
<label for="username">${t.userName}</label>
<input id="username" name="username" type="text" value="${userName}" autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false" required${aboutError}${wrong}${userName === '' && html` autofocus`}>
</div>
<div class="field">
<label for="password">${t.password}</label>
<input id="password" name="password" type="password" autocomplete="current-password"${!isNameEnough && html` required`}${aboutError}${wrong}${userName !== '' && html` autofocus`}>
</div>
<div class="actions">
<button class="button primary" type="submit">${t.submit}</button>
${canCancel && cancelButton(t.cancel)}
</div>
</form>
${(providers.length > 0 || windowsUrl !== undefined) && html`<section class="others" aria-labelledby="others"><h2 id="others">${t.others}</h2>${windowsUrl !== undefined && windowsLink(windowsUrl, t.windows)}${providers.length > 0 && providerForm(options, providers, 'quiet')}</section>`}`,
  );
}

function windowsLink(url: string, label: string): Html {
  return html`<div class="providers"><a class="button quiet" href="${safeUrl(url)}">${label}</a></div>`;
}

export interface ProviderPageOptions extends FormOptions {
  clientLogoUrl?: string | undefined;
  /** The buttons, in their order; the first stands out. */
  providers: readonly OfferedProvider[];
  /** Asks for a name whose domain leads to an identity provider, beside the buttons. */
  asksForName?: boolean | undefined;
  userName?: string | undefined;
  problem?: Problem | undefined;
  /** The name of the one that has just led to nothing: its button says that it is tried again. */
  tried?: string | undefined;
}

/** Where the user chooses an identity provider, or tries one again after it failed. Pure. */
export function providerPage(options: ProviderPageOptions): string {
  const {
    brand,
    texts,
    action,
    csrf,
    clientName,
    clientLogoUrl,
    providers,
    problem,
    userName = '',
  } = options;
  const { asksForName = false, tried } = options;
  const t = texts.providers;
  return page(
    { brand, texts, title: fill(t.title, { client: clientName }), failed: problem !== undefined },
    html`<div class="lead-in">${clientLogo(clientLogoUrl)}<div>
<h1>${problem === undefined ? t.heading : problem.heading}</h1>
<p class="lead">${problem === undefined ? fillIn(texts.login.lead, { client: clientName }, 'client') : problem.message}</p>
</div></div>
${providers.length > 0 && providerForm(options, providers, 'primary', tried)}
${
  asksForName &&
  html`<form method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}
<div class="field">
<label for="username">${t.name}</label>
<input id="username" name="username" type="text" value="${userName}" autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false" required>
</div>
<div class="actions"><button class="button quiet" type="submit">${t.next}</button></div>
</form>`
}
<form method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}
<div class="actions">${cancelButton(texts.login.cancel)}</div>
</form>`,
  );
}

/** One form with a button for each identity provider. */
function providerForm(
  { action, csrf, texts }: Pick<FormOptions, 'action' | 'csrf' | 'texts'>,
  providers: readonly OfferedProvider[],
  firstLook: 'primary' | 'quiet',
  tried?: string,
): Html {
  const { retry, use } = texts.providers;
  const buttons = providers.map(
    ({ name, caption }, index) =>
      html`<button class="button ${index === 0 ? firstLook : 'quiet'}" type="submit" name="provider" value="${name}">${fill(name === tried ? retry : use, { provider: caption })}</button>
`,
  );
  return html`<form class="providers" method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}${tried !== undefined && hidden('again', 'yes')}
${buttons}</form>`;
}

export interface ChangePasswordPageOptions extends FormOptions {
  /** The account's name, for password managers: they then replace the stored password. */
  userName: string;
  /** Why the last password was not taken. */
  error?: PasswordProblem | undefined;
  /** Asks for the present password as well, where nobody has kept it since it was typed. */
  asksCurrent?: boolean | undefined;
  /** What says, under a seal, whose password was right, where the server keeps nothing between two forms. */
  pending?: string | undefined;
}

/** The form for an account that must change its password before the sign-in goes on. Pure. */
export function changePasswordPage(options: ChangePasswordPageOptions): string {
  const { brand, texts, action, canCancel = true, csrf, clientName, userName, error, pending } = options;
  const { asksCurrent = false } = options;
  const t = texts.changePassword;
  const aboutError = error !== undefined && html` aria-describedby="error" aria-invalid="true"`;
  const describe = ({ kind, limit = 0 }: PasswordProblem) =>
    fill(t.problems[kind], { minimum: limit, maximum: limit });
  return page(
    { brand, texts, title: t.title, failed: error !== undefined },
    html`<h1>${t.heading}</h1>
<p class="lead">${fillIn(t.lead, { client: clientName })}</p>
${accountLine(texts.account, userName)}
${error !== undefined && alertBox({ id: 'error', heading: t.errorHeading, message: describe(error) })}
<form method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}
<input name="username" type="text" value="${userName}" autocomplete="username" hidden>
${pending !== undefined && hidden('pending', pending)}
${
  asksCurrent &&
  html`<div class="field">
<label for="currentPassword">${t.currentPassword}</label>
<input id="currentPassword" name="currentPassword" type="password" autocomplete="current-password" required${aboutError} autofocus>
</div>
`
}<div class="field">
<label for="newPassword">${t.newPassword}</label>
<input id="newPassword" name="newPassword" type="password" autocomplete="new-password" required${aboutError}${!asksCurrent && html` autofocus`}>
</div>
<div class="field">
<label for="repeatPassword">${t.repeatPassword}</label>
<input id="repeatPassword" name="repeatPassword" type="password" autocomplete="new-password" required${aboutError}>
</div>
<div class="actions">
<button class="button primary" type="submit">${t.submit}</button>
${canCancel && cancelButton(t.cancel)}
</div>
</form>`,
  );
}

/** A scope as the consent page shows it. */
export interface ConsentScope {
  name: string;
  displayName: string;
  description?: string | undefined;
  /** Marked as important, in words. */
  emphasize: boolean;
  /** Cannot be deselected. */
  required: boolean;
}

export interface ConsentPageOptions extends FormOptions {
  clientUri?: string | undefined;
  clientLogoUrl?: string | undefined;
  userName: string;
  /** What is asked for; `offline_access` is shown by `offline`, not from here. */
  scopes: readonly ConsentScope[];
  /** The client asks for `offline_access`. */
  offline: boolean;
  /** Offers to remember the decision; ticked at first, as in IdentityServer3. */
  canRemember: boolean;
}

/**
 * Asks whether the client may have what it asks for. A scope that is not required can be switched off:
 * what is granted is the list of `scope` fields, which the server intersects with what was requested
 * (the required ones are sent as well, so that the list is complete). Pure.
 */
export function consentPage(options: ConsentPageOptions): string {
  const { brand, texts, action, csrf, clientName, clientUri, clientLogoUrl } = options;
  const { userName, offline, canRemember } = options;
  const t = texts.consent;
  const scopes = options.scopes.filter(({ name }) => name !== 'offline_access');
  if (offline) {
    scopes.push({
      name: 'offline_access',
      displayName: texts.scopes.offline_access.name,
      description: texts.scopes.offline_access.description,
      emphasize: false,
      required: false,
    });
  }
  return page(
    { brand, texts, title: fill(t.title, { client: clientName }) },
    html`<div class="lead-in">${clientLogo(clientLogoUrl)}<div>
<h1>${t.heading}</h1>
<p class="lead">${fillIn(t.lead, { client: clientName }, 'client')}</p>
${clientLink(clientUri, texts)}
</div></div>
${accountLine(
  texts.signedInAs,
  userName,
  // A form of its own: in the other one this button would be the first, and Enter would press it.
  html`<form class="inline" method="post" action="${safeUrl(action)}">${hidden('csrf', csrf)}<button class="link" type="submit" name="action" value="switch">${t.switchAccount}</button></form>`,
)}
<form method="post" action="${safeUrl(action)}">
${hidden('csrf', csrf)}
${
  scopes.length > 0 &&
  html`<fieldset>
<legend>${t.scopes}</legend>
<ul class="scopes">
${scopes.map((scope, index) => scopeItem(scope, index, t))}
</ul>
</fieldset>`
}
${
  canRemember &&
  html`<div class="choice"><input id="remember" name="remember" type="checkbox" value="yes" aria-describedby="remember-about" checked><div><label for="remember">${t.remember}</label><p class="about" id="remember-about">${t.rememberDescription}</p></div></div>`
}
<div class="actions">
<button class="button primary" type="submit" name="action" value="allow">${t.allow}</button>
<button class="button quiet" type="submit" name="action" value="deny">${t.deny}</button>
</div>
</form>`,
  );
}

function scopeItem(
  { name, displayName, description, emphasize, required }: ConsentScope,
  index: number,
  t: Texts['consent'],
): Html {
  const id = `scope-${index}`;
  const about = description !== undefined && description !== '' && description;
  const badges = html`${required && html` <span class="badge">${t.required}</span>`}${emphasize && html` <span class="badge strong">${t.important}</span>`}`;
  const aboutLine = about && html`<p class="about" id="${id}-about">${about}</p>`;
  if (required) {
    return html`<li class="choice">${tick}<div>${hidden('scope', name)}<span class="scope-name">${displayName}</span>${badges}${aboutLine}</div></li>
`;
  }
  return html`<li class="choice"><input id="${id}" name="scope" type="checkbox" value="${name}" checked${about && html` aria-describedby="${id}-about"`}><div><label for="${id}">${displayName}${badges}</label>${aboutLine}</div></li>
`;
}

function clientLink(clientUri: string | undefined, texts: Texts): Html | undefined {
  // Only an absolute address belongs to the client; a relative one would be ours.
  const href = clientUri !== undefined && URL.canParse(clientUri) ? safeUrl(clientUri) : undefined;
  if (href === undefined) return undefined;
  const { about } = texts.consent;
  return html`<p><a href="${href}" target="_blank" rel="noopener noreferrer"><span class="sr-only">${about}</span> ${new URL(href).host} <span class="sr-only">${texts.opensInNewTab}</span></a></p>`;
}

function cancelButton(label: string): Html {
  return html`<button class="button quiet" type="submit" name="action" value="cancel" formnovalidate>${label}</button>`;
}

const tick = html`<svg class="tick" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false"><path d="m4 10.5 4 4 8-9" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/></svg>`;
