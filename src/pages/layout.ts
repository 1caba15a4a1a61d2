/**
 * The frame that all pages share: document head, brand, one card; and the few pieces that more than one
 * page uses. Pages carry no scripts and no inline styles, so that a strict Content-Security-Policy
 * (`default-src 'none'; style-src 'self'; img-src 'self' data:`) holds.
 */
import { fill, type Texts } from '../languages/languages.ts';
import { fillIn, type Html, html, safeImageUrl, safeUrl } from './html.ts';

/** How the operator presents the server; from config. */
export interface Brand {
  name: string;
  /** http(s), relative, or an embedded `data:image/…`; without it a small wordmark stands there. */
  logoUrl?: string | undefined;
  /** Where the server serves `stylesheet()`. */
  stylesheetUrl: string;
}

/** What every page needs: whose it is, and its words. */
export interface Look {
  brand: Brand;
  texts: Texts;
}

export interface PageOptions extends Look {
  /** What distinguishes this page; the brand's name is added. */
  title: string;
  /** The page reports that an input was refused; the title says so first, for screen readers. */
  failed?: boolean | undefined;
  /** Where the page goes by itself after two seconds. */
  onwardUrl?: string | undefined;
}

/** A complete HTML document with `body`, which must hold exactly one `h1`, as its card. Pure. */
export function page({ brand, texts, title, failed = false, onwardUrl }: PageOptions, body: Html): string {
  const logo = safeImageUrl(brand.logoUrl);
  const shownTitle = failed ? fill(texts.errorTitle, { page: title }) : title;
  const document = html`<!doctype html>
<html lang="${texts.lang}" dir="${texts.dir}">
<head>
<meta charset="utf-8">
<title>${fill(texts.titleOf, { page: shownTitle, brand: brand.name })}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
${onwardUrl !== undefined && html`<meta http-equiv="refresh" content="2;url=${onwardUrl}">\n`}<link rel="icon" href="${logo ?? icon}">
<link rel="stylesheet" href="${safeUrl(brand.stylesheetUrl)}">
</head>
<body>
<div class="gate">
<header class="brand">${
    logo === undefined
      ? html`${mark}<span class="brand-name">${brand.name}</span>`
      : html`<img class="brand-logo" src="${logo}" alt="${brand.name}">`
  }</header>
<main class="card">
${body}
</main>
</div>
</body>
</html>
`;
  return document.toString();
}

/** A box that says what was refused and why; the id is for `aria-describedby` of the inputs it is about. */
export function alertBox({ id, heading, message }: { id: string; heading: string; message: string }): Html {
  return html`<div class="alert" id="${id}" role="alert">${warningSign}<div><p class="alert-heading">${heading}</p><p>${message}</p></div></div>`;
}

/** A box that tells without alarm; not announced. */
export function noteBox({ heading, message }: { heading: string; message: string }): Html {
  return html`<div class="note"><p class="note-heading">${heading}</p><p>${message}</p></div>`;
}

/** The line that says which account this is about, by a message with `{user}`; `action` stands at its end. */
export function accountLine(message: string, user: string, action?: Html): Html {
  return html`<div class="account"><p>${fillIn(message, { user }, 'account-name')}</p>${action}</div>`;
}

/** A link that looks like a button; nothing where the URL is missing or must not be followed. */
export function linkButton(
  url: string | undefined,
  label: string,
  look: 'primary' | 'quiet' = 'primary',
): Html | undefined {
  const href = safeUrl(url);
  return href === undefined ? undefined : html`<a class="button ${look}" href="${href}">${label}</a>`;
}

/** The way back to the client, where there is one; else nothing. */
export function wayBack(
  texts: Texts,
  backUrl: string | undefined,
  clientName: string | undefined,
): Html | undefined {
  const label = clientName === undefined ? texts.back : fill(texts.backTo, { client: clientName });
  const link = linkButton(backUrl, label);
  return link && html`<div class="actions">${link}</div>`;
}

/** The client's own logo, decorative: its name stands beside it. Nothing without a usable URL. */
export function clientLogo(url: string | undefined): Html | undefined {
  const src = safeImageUrl(url);
  return src === undefined ? undefined : html`<span class="client-logo"><img src="${src}" alt=""></span>`;
}

/** A gate in a wall: the mark before the name where the operator has no logo. */
const mark = html`<svg class="mark" viewBox="0 0 28 32" width="28" height="32" aria-hidden="true" focusable="false"><path class="mark-arch" d="M0 32V14a14 14 0 0 1 28 0v18z"/><path class="mark-door" d="M7 32V14.5a7 7 0 0 1 14 0V32z"/><circle class="mark-knob" cx="17.5" cy="21" r="1.5"/></svg>`;

const warningSign = html`<svg class="sign" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false"><circle cx="10" cy="10" r="9" fill="none" stroke="currentColor" stroke-width="2"/><path d="M10 5v6" stroke="currentColor" stroke-width="2" stroke-linecap="round"/><circle cx="10" cy="14.5" r="1.3" fill="currentColor"/></svg>`;

const icon =
  'data:image/svg+xml,' +
  encodeURIComponent(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 32 32"><path fill="#1d5c54" d="M0 32V14a14 14 0 0 1 28 0v18z"/><path fill="#fff" d="M7 32V14.5a7 7 0 0 1 14 0V32z"/></svg>',
  );
