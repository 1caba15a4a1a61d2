/**
 * XML from outside, admitted only where it is plain: elements, attributes and text. Pure.
 *
 * What is not needed by any token or metadata document is refused before a parser sees it, so that two parsers
 * cannot disagree about it: document types and entities, comments, CDATA, processing instructions, characters
 * that XML does not have.
 */
import { DOMParser, type Element, type Node } from '@xmldom/xmldom';

/** Why a text is refused, in words for the operator. Whoever reads XML turns it into an error with a code. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
}

export interface XmlLimits {
  maxCharacters: number;
  maxElements: number;
}

/** A parsed document and the very text that was parsed: signatures are over the text. */
export interface XmlDocument {
  readonly root: Element;
  readonly text: string;
}

/** A token nests some 12 deep; c14n recurses, and each level copies the namespaces above it. */
const maxDepth = 48;
/** Most attributes of one element, namespace declarations among them. */
const maxAttributes = 64;

/** XML 1.0 section 2.2. */
const forbiddenCharacter =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for.
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/**
 * Parses an XML text strictly: whatever the parser so much as warns of is refused.
 *
 * White space around it, a byte order mark and an XML declaration are left out of the returned `text`.
 *
 * @throws {Refusal} with the reason
 */
export function parseXml(source: string, limits: XmlLimits): XmlDocument {
  if (source.length > limits.maxCharacters) {
    throw new Refusal(
      `the XML has ${source.length} characters, and at most ${limits.maxCharacters} are read`,
    );
  }
  // xmldom takes these two for line ends, as XML 1.1 does. Referred to by number they stay what was signed.
  const text = withoutDeclaration(source).replace(
    /[\u0085\u2028]/g,
    (character) => `&#${character.charCodeAt(0)};`,
  );
  verifyMarkup(text, limits.maxElements);
  verifyCharacters(text);
  try {
    const root = createParser().parseFromString(text, 'application/xml').documentElement;
    if (root !== null) return { root, text };
  } catch (err) {
    throw new Refusal('the XML is not well-formed', { cause: err });
  }
  throw new Refusal('the XML has no root element');
}

function createParser(): DOMParser {
  return new DOMParser({
    locator: false,
    onError: (level, message) => {
      throw new Error(`${level}: ${message}`);
    },
  });
}

function withoutDeclaration(source: string): string {
  return source
    .replace(/^\ufeff/, '')
    .trim()
    .replace(/^<\?xml\s[^<>?]*\?>/, '')
    .trimStart();
}

function verifyCharacters(text: string): void {
  if (!text.isWellFormed() || forbiddenCharacter.test(text)) {
    throw new Refusal('the XML has a character that XML does not allow');
  }
  for (const [reference, name, hex, decimal] of text.matchAll(
    /&(?:(lt|gt|amp|quot|apos);|#x([0-9a-fA-F]{1,6});|#([0-9]{1,7});)?/g,
  )) {
    if (name !== undefined) continue;
    if (hex === undefined && decimal === undefined) {
      throw new Refusal('the XML has an entity of its own, or an "&" that begins no reference');
    }
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    if (!isCharacter(code)) throw new Refusal(`the XML refers to a character that is none: ${reference}`);
  }
}

function isCharacter(code: number): boolean {
  if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
  return !forbiddenCharacter.test(String.fromCodePoint(code));
}

/**
 * Refuses all markup but tags, and counts these as they open and close. A parser would do it as well, but it has
 * done the work by then, and the work grows with the square of the depth.
 */
function verifyMarkup(text: string, maxElements: number): void {
  if (/<!doctype/i.test(text)) {
    throw new Refusal('the XML has a document type (<!DOCTYPE): entities and external parts are never read');
  }
  if (text.includes('<!')) throw new Refusal('the XML has a comment, CDATA or a declaration ("<!")');
  if (text.includes('<?')) throw new Refusal('the XML has a processing instruction ("<?")');

  let depth = 0;
  let elements = 0;
  for (let start = text.indexOf('<'); start !== -1; start = text.indexOf('<', start + 1)) {
    const { end, quotedCount } = findTagEnd(text, start);
    if (text[start + 1] === '/') {
      depth -= 1;
    } else {
      elements += 1;
      if (quotedCount > maxAttributes) throw new Refusal('an element of the XML has too many attributes');
      if (elements > maxElements) throw new Refusal(`the XML has more than ${maxElements} elements`);
      if (depth >= maxDepth) throw new Refusal(`the XML is nested more than ${maxDepth} levels deep`);
      if (text[end - 1] !== '/') depth += 1;
    }
    start = end;
  }
}

/** Where the tag that begins at `start` ends, past any ">" in quotes. */
function findTagEnd(text: string, start: number): { end: number; quotedCount: number } {
  let quotedCount = 0;
  for (let end = start + 1; end < text.length; end++) {
    const character = text[end];
    if (character === '>') return { end, quotedCount };
    if (character === '<') break;
    // In a name. Parsers differ in which of them they take there.
    if (character !== undefined && character > '\u007f') {
      throw new Refusal('an element or attribute of the XML has a name beyond ASCII');
    }
    if (character === '"' || character === "'") {
      quotedCount += 1;
      end = text.indexOf(character, end + 1);
      if (end === -1) break;
    }
  }
  throw new Refusal('the XML is not well-formed: a tag does not end');
}

/** The element and everything below it, in document order. */
export function* walk(element: Element): Generator<Element> {
  yield element;
  for (const child of children(element)) yield* walk(child);
}

/** The child elements, all of them or those of one name. */
export function children(parent: Element, namespace?: string, ...names: readonly string[]): Element[] {
  return Array.from(parent.childNodes)
    .filter(isElement)
    .filter((child) => namespace === undefined || isNamed(child, namespace, ...names));
}

/** The child of this name; undefined where there is none. @throws {Refusal} where there are several */
export function findChild(parent: Element, namespace: string, name: string): Element | undefined {
  const [child, ...others] = children(parent, namespace, name);
  if (others.length > 0) throw new Refusal(`${parent.localName} has several ${name}`);
  return child;
}

/** The child of this name. @throws {Refusal} where there is not exactly one */
export function getChild(parent: Element, namespace: string, name: string): Element {
  const child = findChild(parent, namespace, name);
  if (child === undefined) throw new Refusal(`${parent.localName} has no ${name}`);
  return child;
}

export function isNamed(element: Element, namespace: string, ...names: readonly string[]): boolean {
  return element.namespaceURI === namespace && names.includes(element.localName ?? '');
}

/** The text of an element without the white space around it. @throws {Refusal} where it has child elements */
export function textOf(element: Element): string {
  if (children(element).length > 0)
    throw new Refusal(`${element.localName} has elements where text is expected`);
  return trimSpace(element.textContent ?? '');
}

/** The attribute without a namespace; undefined where it is missing or blank. */
export function findAttribute(element: Element, name: string): string | undefined {
  const value = trimSpace(element.getAttributeNS(null, name) ?? '');
  return value === '' ? undefined : value;
}

/** Without the white space of XML around it; other spaces may be meant. */
export function trimSpace(text: string): string {
  return text.replace(/^[ \t\r\n]+/, '').replace(/(?<![ \t\r\n])[ \t\r\n]+$/, '');
}

function isElement(node: Node): node is Element {
  return node.nodeType === node.ELEMENT_NODE;
}
