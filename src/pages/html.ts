/**
 * HTML as a value. Whatever is interpolated into the `html` template is escaped, unless it is itself a
 * result of the template; so a page can only contain markup that was written in our source.
 */

import { type Placeholder, splitMessage } from '../languages/languages.ts';

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Markup that is already safe. Only the `html` template makes one. */
export class Html {
  readonly #markup: string;

  private constructor(markup: string) {
    this.#markup = markup;
  }

  toString(): string {
    return this.#markup;
  }

  /** A script of ours, as it is; it must hold no `</`. */
  static script(source: string): Html {
    if (source.includes('</')) throw new TypeError('a script must not hold the end of an element');
    return new Html(`<script>${source}</script>`);
  }

  /** Joins a template; exported as `html`. */
  static template(strings: TemplateStringsArray, ...values: readonly Interpolation[]): Html {
    const places = placesOf(strings);
    const markup = values.map((value, i) => strings[i] + render(value, places[i] ?? 'tag')).join('');
    return new Html(markup + (strings.at(-1) ?? ''));
  }
}

/** What may stand in a template: text and numbers (escaped), markup, lists of these; the rest is nothing. */
export type Interpolation = string | number | Html | false | null | undefined | readonly Interpolation[];

/**
 * The template tag: escapes text for element content and for double-quoted attribute values.
 *
 * `undefined`, `null` and `false` give nothing; arrays are joined without a separator. Inside a tag but outside
 * double quotes only `Html` or nothing is accepted (`<input${required && html` required`}>`).
 *
 * @throws {TypeError} where text would land inside a tag outside double quotes: escaping cannot help there
 */
export const html = Html.template;

/**
 * Gives back a URL that may stand in `href`, `src` or `action`: absolute http or https, or relative.
 * Anything else (`javascript:`, `data:`, custom schemes, unparsable) is `undefined`, and the caller leaves the
 * link out. Read by the same parser as the browser's, so tabs and newlines inside a scheme hide nothing.
 */
export function safeUrl(url: string | undefined): string | undefined {
  if (url === undefined || !URL.canParse(url, 'https://relative.invalid/')) return undefined;
  const { protocol } = new URL(url, 'https://relative.invalid/');
  return protocol === 'https:' || protocol === 'http:' ? url : undefined;
}

/** As {@link safeUrl}, for `src` of an image: embedded images (`data:image/…`) pass too; they cannot run scripts. */
export function safeImageUrl(url: string | undefined): string | undefined {
  return url !== undefined && /^data:image\/[a-z0-9.+-]+[;,]/i.test(url) ? url : safeUrl(url);
}

/**
 * A message with names and the like filled in. Each stands by itself (`bdi`), so that one in another script does not
 * turn the sentence around it; `className` tells the stylesheet.
 */
export function fillIn(
  message: string,
  values: Partial<Record<Placeholder, string | number>>,
  className?: string,
): Html {
  const isolated = Object.entries(values).map(([name, value]) => [
    name,
    html`<bdi${className !== undefined && html` class="${className}"`}>${value}</bdi>`,
  ]);
  return html`${splitMessage<Html>(message, Object.fromEntries(isolated))}`;
}

/** A hidden field of a form. */
export function hidden(name: string, value: string): Html {
  return html`<input type="hidden" name="${name}" value="${value}">`;
}

type Place = 'text' | 'quoted' | 'tag';

const knownPlaces = new WeakMap<TemplateStringsArray, readonly Place[]>();

/** Where each interpolation of a template stands; computed once for each place in the source. */
function placesOf(strings: TemplateStringsArray): readonly Place[] {
  const known = knownPlaces.get(strings);
  if (known !== undefined) return known;

  let place: Place = 'text';
  const places = strings.slice(0, -1).map((part) => {
    for (const character of part) {
      if (place === 'text' && character === '<') place = 'tag';
      else if (place === 'tag' && character === '>') place = 'text';
      else if (place !== 'text' && character === '"') place = place === 'tag' ? 'quoted' : 'tag';
    }
    return place;
  });
  knownPlaces.set(strings, places);
  return places;
}

function render(value: Interpolation, place: Place): string {
  if (value === undefined || value === null || value === false) return '';
  if (value instanceof Html) return value.toString();
  if (typeof value === 'object') return value.map((item) => render(item, place)).join('');
  if (place === 'tag') throw new TypeError('text in a tag must stand in a double-quoted attribute');
  return String(value).replace(/[&<>"']/g, (character) => entities[character] ?? '');
}
