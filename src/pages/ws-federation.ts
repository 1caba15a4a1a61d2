/** The page that carries the answer of the WsFed application to the relying party. */
import { fillIn, Html, hidden, html, safeUrl } from './html.ts';
import { type Look, page } from './layout.ts';

/** Sends the page's form at once. The one script that we have; its hash is in the page's Content-Security-Policy. */
export const answerScript = 'document.forms[0].submit()';

export interface AnswerPageOptions extends Look {
  /** The registered address of the relying party. */
  action: string;
  partyName: string;
  /** In their order; those without a value are left out. */
  fields: Readonly<Record<string, string | undefined>>;
}

/** Posts the fields to the relying party, by itself or, without scripts, by its button. Pure. */
export function answerPage({ brand, texts, action, partyName, fields }: AnswerPageOptions): string {
  const t = texts.answer;
  const inputs = Object.entries(fields)
    .filter((entry): entry is [string, string] => entry[1] !== undefined)
    .map(([name, value]) => hidden(name, value));
  return page(
    { brand, texts, title: t.title },
    html`<h1>${t.heading}</h1>
<p class="lead">${fillIn(t.lead, { client: partyName })}</p>
<form method="post" action="${safeUrl(action)}">
${inputs}<div class="actions"><button class="button primary" type="submit">${t.next}</button></div>
</form>
${Html.script(answerScript)}`,
  );
}
