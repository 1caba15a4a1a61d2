/**
 * What people read on the pages, by language: the catalogues that we ship, those that the operator adds or changes,
 * and the choice among them. A catalogue may be partial: what is missing comes from a language near to it, else
 * from English.
 */
import german from './de.json' with { type: 'json' };
import english from './en.json' with { type: 'json' };

/** The messages in English: they say which there are, and what is filled in where. */
export { english };

export type Messages = DeepReadonly<typeof english>;
/** Some of the messages, as a file of the operator has them, and what registrations are called in the language. */
export type SomeMessages = DeepPartial<Messages> & { readonly names?: DeepPartial<Names> | undefined };

/** What registrations are called in a language, where that is not what their own files say; by id or name. */
export interface Names {
  readonly clients: Readonly<Record<string, string>>;
  readonly providers: Readonly<Record<string, string>>;
  readonly relyingParties: Readonly<Record<string, string>>;
  readonly scopes: Readonly<Record<string, { readonly name?: string; readonly description?: string }>>;
}

/** The kinds of registrations that have names of their own. */
export const namedKinds = [
  'clients',
  'providers',
  'relyingParties',
  'scopes',
] as const satisfies (keyof Names)[];

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
type DeepPartial<T> = T extends object ? { readonly [K in keyof T]?: DeepPartial<T[K]> | undefined } : T;

/** Every message in one language, for the pages. */
export interface Texts extends Messages {
  /** BCP 47 tag, for the attribute `lang`. */
  readonly lang: string;
  readonly dir: 'ltr' | 'rtl';
  readonly names: Names;
}

/** A language that pages can be shown in. */
export interface Language {
  readonly texts: Texts;
  /** Language and script, as `zh-Hant`: it serves whoever reads that. */
  readonly writing: string;
  /** Paths of the messages that are shown in English. */
  readonly missing: readonly string[];
}

/** What messages leave to be filled in, as `{client}`. */
export type Placeholder = 'brand' | 'client' | 'maximum' | 'minimum' | 'page' | 'provider' | 'user';

const shipped: ReadonlyMap<string, SomeMessages> = new Map([
  ['en', english],
  ['de', german satisfies Messages],
]);

/** Without the operator's own. */
export const shippedTags: readonly string[] = [...shipped.keys()];

const placeholder = /\{(\w+)\}/g;

/** The names that a message leaves to be filled in. */
export function placeholdersOf(message: string): string[] {
  return [...message.matchAll(placeholder)].map(([, name = '']) => name);
}

/**
 * Fills in what a message leaves open.
 *
 * @throws {TypeError} where a value is missing: a catalogue has no other placeholders than the English message
 */
export function fill(message: string, values: Partial<Record<Placeholder, string | number>>): string {
  return splitMessage(message, values).join('');
}

/** The text of a message around and between what is filled in, and that, in their order; for markup. */
export function splitMessage<Value>(
  message: string,
  values: Partial<Record<Placeholder, Value>>,
): (string | Value)[] {
  return message.split(/(\{\w+\})/).map((part) => {
    const name = /^\{(\w+)\}$/.exec(part)?.[1];
    if (name === undefined) return part;
    const value = values[name as Placeholder];
    if (value === undefined)
      throw new TypeError(`there is no value for ${part} in ${JSON.stringify(message)}`);
    return value;
  });
}

/** What something is called in a language; undefined where the word of its registration stands. */
export function nameOf<Name>(names: Readonly<Record<string, Name>>, id: string): Name | undefined {
  return Object.hasOwn(names, id) ? names[id] : undefined;
}

/**
 * Every language, complete: the shipped ones and those of the operator's, whose messages come first. Pure.
 *
 * @param own by BCP 47 tag, in its canonical form
 */
export function completeLanguages(own: ReadonlyMap<string, SomeMessages>): ReadonlyMap<string, Language> {
  const tags = [...new Set([...shipped.keys(), ...own.keys()])];
  const completed = new Map<string, Language>();

  function complete(tag: string): Language {
    const known = completed.get(tag);
    if (known !== undefined) return known;
    const parent = tag === 'en' ? undefined : parentOf(tag);
    const base = parent === undefined ? undefined : complete(parent);
    const messages = [base?.texts, shipped.get(tag), own.get(tag)].filter((part) => part !== undefined);
    const untranslated =
      parent === 'en' && tag !== 'en' && !tag.startsWith('en-') ? pathsOf(english) : (base?.missing ?? []);
    const translated = new Set([...pathsOf(shipped.get(tag)), ...pathsOf(own.get(tag))]);
    const names = namedKinds.map((kind) => [
      kind,
      { ...base?.texts.names[kind], ...own.get(tag)?.names?.[kind] },
    ]);
    const language = {
      texts: {
        ...(messages.reduce<unknown>(merge, undefined) as Messages),
        lang: tag,
        dir: directionOf(tag),
        names: Object.fromEntries(names) as unknown as Names,
      },
      writing: writingOf(tag),
      missing: untranslated.filter((path) => !translated.has(path)),
    };
    completed.set(tag, language);
    return language;
  }

  /** `de` for `de-AT`, but not `zh` for `zh-Hant`, which is written otherwise; else English. */
  function parentOf(tag: string): string {
    const shorter = tag.split('-').map((_, index, parts) => parts.slice(0, -1 - index).join('-'));
    return shorter.find((one) => tags.includes(one) && writingOf(one) === writingOf(tag)) ?? 'en';
  }

  return new Map(tags.map((tag) => [tag, complete(tag)]));
}

function merge(base: unknown, own: unknown): unknown {
  if (own === undefined) return base;
  if (!isObject(base) || !isObject(own)) return own;
  return Object.fromEntries(Object.entries(base).map(([name, value]) => [name, merge(value, own[name])]));
}

/** Paths of the messages in a catalogue, as in `login.errors.busy`. */
function pathsOf(messages: unknown, at = ''): string[] {
  if (!isObject(messages)) return messages === undefined ? [] : [at];
  return Object.entries(messages).flatMap(([name, value]) =>
    pathsOf(value, at === '' ? name : `${at}.${name}`),
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** More than any browser sends that a person has set up. */
const mostWanted = 20;

/**
 * The language to show among those that there are: the first of the wanted ones that is there as it is, or in
 * another region and the same script (BCP 47, and the likely subtags of CLDR): `de` for `de-AT`, `zh-Hant` for
 * `zh-TW`. Pure.
 *
 * @param wanted BCP 47 tags, the dearest first; what is none is passed over
 */
export function chooseLanguage(
  languages: ReadonlyMap<string, Language>,
  wanted: readonly string[],
): Texts | undefined {
  for (const tag of wanted.slice(0, mostWanted)) {
    const canonical = canonicalTag(tag);
    if (canonical === undefined) continue;
    const exact = languages.get(canonical);
    if (exact !== undefined) return exact.texts;
    const wantedWriting = writingOf(canonical);
    const near = [...languages.values()].find(({ writing }) => writing === wantedWriting);
    if (near !== undefined) return near.texts;
  }
  return undefined;
}

/** Characters of Accept-Language; all headers of a request together may have a hundred times as many. */
const longestHeader = 1000;

/**
 * The languages that a header Accept-Language names, the dearest first (RFC 9110 section 12.5.4); none of one that
 * is longer than any browser's. Pure.
 */
export function parseAcceptLanguage(header: string): string[] {
  if (header.length > longestHeader) return [];
  const ranges = header.split(',').map((range) => {
    const [tag = '', ...parameters] = range.split(';').map((part) => part.trim());
    const q = parameters.find((parameter) => /^q=/i.test(parameter))?.slice(2);
    return { tag, weight: q === undefined ? 1 : Number(q) };
  });
  return ranges
    .filter(({ weight }) => weight > 0 && weight <= 1)
    .toSorted((a, b) => b.weight - a.weight)
    .map(({ tag }) => tag);
}

/** A BCP 47 tag as it is written by convention, such as `de-AT`; undefined for what is none. */
export function canonicalTag(tag: string): string | undefined {
  try {
    return new Intl.Locale(tag).baseName;
  } catch {
    return undefined;
  }
}

/** Takes a while: never once for each pair of tags. */
function writingOf(tag: string): string {
  const { language, script } = new Intl.Locale(tag).maximize();
  return `${language}-${script}`;
}

function directionOf(tag: string): 'ltr' | 'rtl' {
  // In Node, and not yet in TypeScript's library.
  const locale = new Intl.Locale(tag) as Intl.Locale & { getTextInfo(): { direction: 'ltr' | 'rtl' } };
  return locale.getTextInfo().direction;
}
