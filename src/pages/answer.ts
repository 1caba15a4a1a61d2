/** The page that carries an answer in a form: of the WsFed application, and with `response_mode=form_post`. */
import { createHash } from 'node:crypto';
import { fill } from '../languages/languages.ts';
import { fillIn, Html, hidden, html, safeUrl } from './html.ts';
import { type Look, page } from './layout.ts';

/** Sends the page's form at once. The one script that we have; its hash is in the page's Content-Security-Policy. */
const answerScript = 'document.forms[0].submit()';

/** SHA-256 of the script, in base64. */
export const answerScriptHash = createHash('sha256').update(answerScript).digest('base64');

export interface AnswerPageOptions extends Look {
  /** The registered address of the client or relying party. */
  action: string;
  partyName: string;
  /** Whether the answer is that somebody has signed in; default it is. */
  isSignedIn?: boolean | undefined;
  /** In their order; those without a value are left out. */
  fields: Readonly<Record<string, string | undefined>>;
}

/** Posts the fields to where they are for, by itself or, without scripts, by its button. Pure. */
export function answerPage(options: AnswerPageOptions): string {
  const { brand, texts, action, partyName, isSignedIn = true, fields } = options;
  const t = texts.answer;
  const back = fill(texts.backTo, { client: partyName });
  const inputs = Object.entries(fields)
    .filter((entry): entry is [string, string] => entry[1] !== undefined)
    .map(([name, value]) => hidden(name, value));
  return page(
    { brand, texts, title: isSignedIn ? t.title : back },
    html`<h1>${isSignedIn ? t.heading : back}</h1>
<p class="lead">${fillIn(t.lead, { client: partyName })}</p>
<form method="post" action="${safeUrl(action)}">
${inputs}<div class="actions"><button class="button primary" type="submit">${t.next}</button></div>
</form>
${Html.script(answerScript)}`,
  );
}
