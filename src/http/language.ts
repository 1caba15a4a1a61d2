/** In which language a page is shown, decided for each request. */
import type { Context } from 'koa';
import type { ServerContext } from '../context.ts';
import { chooseLanguage, parseAcceptLanguage, type Texts } from '../languages/languages.ts';

/** The tags of a whole request; IdentityServer3 refused longer ones. */
const longest = 100;

/**
 * The texts for the answer to this request, and the headers that say so: by `ui_locales` of its query, then by what
 * the browser prefers, else by `Branding.Language`.
 *
 * @param uiLocales those of the authorization request, where they are not in the query
 */
export function textsFor(
  ctx: Context,
  { registry }: Pick<ServerContext, 'registry'>,
  uiLocales = uiLocalesOf(ctx),
): Texts {
  const { languages, server } = registry.configuration;
  const wanted = [
    ...uiLocales.split(' ').filter(Boolean),
    ...parseAcceptLanguage(ctx.get('accept-language')),
  ];
  // A file of a language may have been removed since the start.
  const standard = languages.get(server.Branding.Language) ?? languages.get('en');
  const texts = chooseLanguage(languages, wanted) ?? standard?.texts;
  if (texts === undefined) throw new TypeError('there is always English');
  ctx.vary('Accept-Language');
  ctx.set('Content-Language', texts.lang);
  return texts;
}

/** The languages that the request asks for (OpenID Connect Core section 3.1.2.1): BCP 47 tags, separated by blanks. */
export function uiLocalesOf(ctx: Context): string {
  try {
    return toUiLocales(ctx.query.ui_locales);
  } catch {
    // A request line that is no address at all.
    return '';
  }
}

/** A parameter `ui_locales`, as far as it can be one. */
export function toUiLocales(value: unknown): string {
  return typeof value === 'string' && value.length <= longest ? value : '';
}

/** Carries the languages that were asked for on to the next page of ours. `url` may be a path. */
export function withUiLocales(url: string, uiLocales: string): string {
  if (uiLocales === '') return url;
  return `${url}${url.includes('?') ? '&' : '?'}${new URLSearchParams({ ui_locales: uiLocales })}`;
}
