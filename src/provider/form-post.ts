/**
 * Answers by `response_mode=form_post` (OAuth 2.0 Form Post Response Mode): the engine's page has no style, and
 * speaks English to whoever has scripts switched off. Ours takes its place.
 */
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { ServerContext } from '../context.ts';
import { textsFor, toUiLocales } from '../http/language.ts';
import { allowScript } from '../http/middleware.ts';
import { answerPage, answerScriptHash } from '../pages/answer.ts';
import { safeUrl } from '../pages/html.ts';
import { describeClient } from '../registry/client-metadata.ts';

/** Has the engine's form shown as a page of ours. What is not the form as we know it stays as it is. */
export function dressFormPost(
  engine: Provider,
  { brand, registry }: Pick<ServerContext, 'brand' | 'registry'>,
): void {
  engine.use(async (koaContext, next) => {
    await next();
    const ctx = koaContext as unknown as KoaContextWithOIDC;
    const { client, params } = (ctx as Partial<KoaContextWithOIDC>).oidc ?? {};
    if (client === undefined || params?.response_mode !== 'form_post') return;
    const form = parseForm(ctx.body);
    if (form === undefined || safeUrl(form.action) === undefined) return;
    const texts = textsFor(ctx, { registry }, toUiLocales(params.ui_locales));
    const { clientName } = describeClient(registry.findClient(client.clientId), texts);
    allowScript(ctx, answerScriptHash);
    ctx.body = answerPage({
      brand,
      texts,
      ...form,
      partyName: clientName ?? client.clientId,
      isSignedIn: form.fields.error === undefined,
    });
  });
}

function parseForm(body: unknown): { action: string; fields: Record<string, string> } | undefined {
  const [, action, inside = ''] =
    /<form method="post" action="([^"]*)">([\s\S]*)<\/form>/.exec(typeof body === 'string' ? body : '') ?? [];
  if (action === undefined) return undefined;
  const inputs = inside.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)"\/>/g);
  const fields = [...inputs].map(([, name = '', value = '']) => [name, unescapeHtml(value)]);
  return fields.length === 0
    ? undefined
    : { action: unescapeHtml(action), fields: Object.fromEntries(fields) as Record<string, string> };
}

/** Undoes what the engine's html_safe does. */
function unescapeHtml(text: string): string {
  const characters: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" };
  return text.replace(/&(amp|lt|gt|quot|#39);/g, (_entity, name: string) => characters[name] ?? '');
}
