/** Pages that tell something and ask nothing: errors, dead ends with a way back, and the home page. */
import { html, safeUrl } from './html.ts';
import { type Brand, linkButton, noteBox, page, wayBack } from './layout.ts';
import { texts } from './texts.ts';

export interface ErrorPageOptions {
  brand: Brand;
  /** Heading and title; default a general one. */
  title?: string | undefined;
  /** One or two sentences that may be shown to whoever sent the request. */
  message: string;
  /** A stable code, ours or OAuth's. */
  code?: string | undefined;
  /** Finds the request in the log. */
  requestId?: string | undefined;
  backUrl?: string | undefined;
  /** Default a general one. */
  backLabel?: string | undefined;
}

/** Says what went wrong, and how the operator finds it in the log. Pure. */
export function errorPage(options: ErrorPageOptions): string {
  const {
    brand,
    title = texts.error.title,
    message,
    code,
    requestId,
    backUrl,
    backLabel = texts.back,
  } = options;
  const t = texts.error;
  const back = linkButton(backUrl, backLabel);
  return page(
    { brand, title },
    html`<h1>${title}</h1>
<p class="lead">${message}</p>
${back && html`<div class="actions">${back}</div>`}
${
  (code ?? requestId) !== undefined &&
  html`<section class="details" aria-labelledby="details"><h2 id="details">${t.details}</h2><dl>
${code !== undefined && html`<div><dt>${t.code}</dt><dd><code>${code}</code></dd></div>`}
${requestId !== undefined && html`<div><dt>${t.requestId}</dt><dd><code>${requestId}</code></dd></div>`}
</dl></section>`
}`,
  );
}

export interface NoProviderPageOptions {
  brand: Brand;
  clientName: string;
  backUrl?: string | undefined;
}

/** For a client whose users sign in at an identity provider while there is none to go to. Pure. */
export function noProviderPage({ brand, clientName, backUrl }: NoProviderPageOptions): string {
  const t = texts.noProvider;
  return page(
    { brand, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead(clientName)}</p>
<p>${t.advice}</p>
${wayBack(backUrl, clientName)}`,
  );
}

export interface InteractionExpiredPageOptions {
  brand: Brand;
  clientName?: string | undefined;
  backUrl?: string | undefined;
}

/** For an interaction that is over: it expired, or was finished elsewhere. Pure. */
export function interactionExpiredPage({
  brand,
  clientName,
  backUrl,
}: InteractionExpiredPageOptions): string {
  const t = texts.interactionExpired;
  const back = wayBack(backUrl, clientName);
  return page(
    { brand, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
<p>${back === undefined ? t.advice : t.adviceWithLink}</p>
${back}`,
  );
}

export interface HomePageOptions {
  brand: Brand;
  issuer: string;
  discoveryUrl: string;
  /** The server runs with demo clients and accounts; the page warns. */
  development: boolean;
}

/** What stands at the base URL: what this is, and where clients read on (OpenID Connect Discovery 1.0). Pure. */
export function homePage({ brand, issuer, discoveryUrl, development }: HomePageOptions): string {
  const t = texts.home;
  const discovery = safeUrl(discoveryUrl);
  return page(
    { brand, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
${development && noteBox({ heading: t.developmentHeading, message: t.development })}
<dl class="facts">
<div><dt>${t.issuer}</dt><dd><code>${issuer}</code></dd></div>
<div><dt>${t.discovery}</dt><dd>${discovery === undefined ? html`<code>${discoveryUrl}</code>` : html`<a href="${discovery}"><code>${discoveryUrl}</code></a>`}</dd></div>
</dl>`,
  );
}
