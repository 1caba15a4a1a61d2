/** Pages that tell something and ask nothing: errors, dead ends with a way back, and the home page. */
import { fillIn, html, safeUrl } from './html.ts';
import { type Look, noteBox, page, wayBack } from './layout.ts';

export interface ErrorPageOptions extends Look {
  /** A stable code, ours or OAuth's: the sentence for it is what people read. */
  code: string;
  /** More for whoever integrates the application, in English; it may be shown to whoever sent the request. */
  reason?: string | undefined;
  /** Finds the request in the log. */
  requestId?: string | undefined;
}

/** Says what went wrong, and how the operator finds it in the log. Pure. */
export function errorPage(options: ErrorPageOptions): string {
  const { brand, texts, code, reason, requestId } = options;
  const t = texts.error;
  const sentences: Readonly<Record<string, string>> = t.codes;
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.title}</h1>
<p class="lead">${Object.hasOwn(sentences, code) ? sentences[code] : t.other}</p>
<section class="details" aria-labelledby="details"><h2 id="details">${t.details}</h2><dl>
<div><dt>${t.code}</dt><dd><code>${code}</code></dd></div>
${requestId !== undefined && html`<div><dt>${t.requestId}</dt><dd><code>${requestId}</code></dd></div>`}
${reason !== undefined && html`<div><dt>${t.reason}</dt><dd lang="en" dir="ltr">${reason}</dd></div>`}
</dl></section>`,
  );
}

export interface NoProviderPageOptions extends Look {
  clientName: string;
  backUrl?: string | undefined;
}

/** For a client whose users sign in at an identity provider while there is none to go to. Pure. */
export function noProviderPage({ brand, texts, clientName, backUrl }: NoProviderPageOptions): string {
  const t = texts.noProvider;
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${fillIn(t.lead, { client: clientName })}</p>
<p>${t.advice}</p>
${wayBack(texts, backUrl, clientName)}`,
  );
}

export interface InteractionExpiredPageOptions extends Look {
  clientName?: string | undefined;
  backUrl?: string | undefined;
}

/** For an interaction that is over: it expired, or was finished elsewhere. Pure. */
export function interactionExpiredPage({
  brand,
  texts,
  clientName,
  backUrl,
}: InteractionExpiredPageOptions): string {
  const t = texts.interactionExpired;
  const back = wayBack(texts, backUrl, clientName);
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
<p>${back === undefined ? t.advice : t.adviceWithLink}</p>
${back}`,
  );
}

export interface HomePageOptions extends Look {
  issuer: string;
  discoveryUrl: string;
  /** The server runs with demo clients and accounts; the page warns. */
  development: boolean;
}

/** What stands at the base URL: what this is, and where clients read on (OpenID Connect Discovery 1.0). Pure. */
export function homePage({ brand, texts, issuer, discoveryUrl, development }: HomePageOptions): string {
  const t = texts.home;
  const discovery = safeUrl(discoveryUrl);
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${t.lead}</p>
${development && noteBox({ heading: t.developmentHeading, message: t.development })}
<dl class="facts">
<div><dt>${t.issuer}</dt><dd><code>${issuer}</code></dd></div>
<div><dt>${t.discovery}</dt><dd>${discovery === undefined ? html`<code>${discoveryUrl}</code>` : html`<a href="${discovery}"><code>${discoveryUrl}</code></a>`}</dd></div>
</dl>`,
  );
}
