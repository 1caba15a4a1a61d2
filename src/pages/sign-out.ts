/** The two pages of sign-out (OpenID Connect RP-Initiated Logout 1.0): the question and the confirmation. */
import { fillIn, html, safeUrl } from './html.ts';
import { accountLine, type Look, linkButton, page, wayBack } from './layout.ts';

export interface SignOutPageOptions extends Look {
  /** Where the answer goes and the value that the engine expects back as `xsrf`. */
  formHtml: { action: string; xsrf: string };
  /** Where the answer no leads; nothing is sent there. */
  stayUrl: string;
  /** The client that asks for it, where it is known. */
  clientName?: string | undefined;
  userName?: string | undefined;
}

/**
 * Asks whether to sign out, so that no other site can sign a person out (section 6). The form says yes; no is a
 * link, since nothing is to happen. Pure.
 */
export function signOutPage({
  brand,
  texts,
  formHtml,
  stayUrl,
  clientName,
  userName,
}: SignOutPageOptions): string {
  const t = texts.signOut;
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${clientName !== undefined && html`${fillIn(t.askedBy, { client: clientName })} `}${t.lead}</p>
${userName !== undefined && accountLine(texts.signedInAs, userName)}
<form method="post" action="${safeUrl(formHtml.action)}">
<input type="hidden" name="xsrf" value="${formHtml.xsrf}">
<div class="actions">
<button class="button primary" type="submit" name="logout" value="yes">${t.yes}</button>
${linkButton(stayUrl, t.no, 'quiet')}
</div>
</form>`,
  );
}

export interface SignedOutPageOptions extends Look {
  clientName?: string | undefined;
  backUrl?: string | undefined;
}

/** Says that nothing has happened, after the question was answered with no. Pure. */
export function staySignedInPage({ brand, texts, clientName, backUrl }: SignedOutPageOptions): string {
  const t = texts.staySignedIn;
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
${wayBack(texts, backUrl, clientName)}`,
  );
}

/**
 * While the clients' own sessions end in frames that nobody sees; goes on by itself after a moment, without a
 * script. Pure.
 */
export function signingOutPage({
  brand,
  texts,
  frames,
  nextUrl,
}: Look & {
  frames: readonly string[];
  nextUrl: string;
}): string {
  const t = texts.signingOut;
  const next = safeUrl(nextUrl);
  return page(
    { brand, texts, title: t.title, ...(next && { onwardUrl: next }) },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
<div class="actions">${linkButton(next, t.next)}</div>
${frames.map((url) => html`<iframe class="unseen" src="${safeUrl(url)}" title="${t.frame}" tabindex="-1" sandbox="allow-scripts allow-same-origin"></iframe>`)}`,
  );
}

/** Says that the sign-in has ended, with the way back to the client where there is one. Pure. */
export function signedOutPage({ brand, texts, clientName, backUrl }: SignedOutPageOptions): string {
  const t = texts.signedOut;
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
${wayBack(texts, backUrl, clientName)}`,
  );
}
