/**
 * XML from strangers: a gate on the raw text, a strict parse, and a few ways to walk what came out.
 *
 * No document type, entity, comment, CDATA section or processing instruction passes, so nothing is left that two
 * parsers read differently or that splits a text in two.
 */
import { DOMParser, type Element, type Node } from '@xmldom/xmldom';

export type { Element } from '@xmldom/xmldom';

export interface XmlLimits {
  /** Characters. */
  readonly length: number;
  readonly depth: number;
  readonly elements: number;
}

/** Why a document is not looked at; for the log, without anything from the document. */
export class XmlError extends Error {}

const answerLimits: XmlLimits = { length: 256 * 1024, depth: 64, elements: 5000 };

/**
 * Parses a document after the gate.
 *
 * @throws {XmlError}
 */
export function parseXml(text: string, limits: XmlLimits = answerLimits): Element {
  passGate(text, limits);
  let root: Element | null;
  try {
    root = new DOMParser({
      locator: false,
      onError(_level, message) {
        throw new XmlError(`not well-formed: ${message.split('\n', 1)[0]?.slice(0, 80)}`);
      },
    }).parseFromString(withoutDeclaration(text), 'text/xml').documentElement;
  } catch (err) {
    // Our own error comes wrapped; what the parser throws by itself means the same.
    throw err instanceof XmlError ? err : new XmlError('not well-formed');
  }
  if (root === null) throw new XmlError('no element');
  checkTree(root, limits);
  return root;
}

const declaration = /^\ufeff?\s*<\?xml\s[^<>?]*\?>/;

function withoutDeclaration(text: string): string {
  return text.replace(declaration, '').trim();
}

/** What may not be in the text at all, before any parser sees it. */
function passGate(text: string, { length }: XmlLimits): void {
  if (text.length > length) throw new XmlError(`longer than ${length} characters`);
  const body = withoutDeclaration(text);
  if (body.includes('<!')) throw new XmlError('a document type, entity, comment or CDATA section');
  if (body.includes('<?')) throw new XmlError('a processing instruction');
  // XML 1.0 section 2.2; a parser that lets others pass would cut a text short.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused.
  if (/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/.test(body))
    throw new XmlError('a character that XML forbids');
  for (const [, reference = ''] of body.matchAll(/&([^;<&]{0,10};?)/g)) {
    if (!isHarmless(reference)) throw new XmlError('a reference to an unknown entity or forbidden character');
  }
}

function isHarmless(reference: string): boolean {
  if (/^(amp|lt|gt|quot|apos);$/.test(reference)) return true;
  const [, hex, decimal] = /^#(?:x([0-9a-f]{1,6})|(\d{1,7}));$/i.exec(reference) ?? [];
  const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
  return (
    [0x9, 0xa, 0xd].includes(code) ||
    (code >= 0x20 && code <= 0xd7ff) ||
    (code >= 0xe000 && code <= 0xfffd) ||
    (code >= 0x10000 && code <= 0x10ffff)
  );
}

/** Walks the whole tree once, without recursion: its size, and that no two elements have one id in any spelling. */
function checkTree(root: Element, limits: XmlLimits): void {
  const ids = new Set<string>();
  const open: { element: Element; depth: number }[] = [{ element: root, depth: 1 }];
  let count = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { element, depth } = next;
    count += 1;
    if (depth > limits.depth) throw new XmlError(`deeper than ${limits.depth} elements`);
    if (count > limits.elements) throw new XmlError(`more than ${limits.elements} elements`);
    for (const attribute of element.attributes) {
      if (!/^(assertion)?id$/i.test(attribute.localName ?? attribute.name)) continue;
      if (ids.has(attribute.value)) throw new XmlError('two elements with one id');
      ids.add(attribute.value);
    }
    for (const child of childElements(element)) open.push({ element: child, depth: depth + 1 });
  }
}

function isElement(node: Node): node is Element {
  return node.nodeType === 1;
}

/** The elements directly in an element, or those of one name. */
export function childElements(element: Element, namespace?: string, name?: string): Element[] {
  const found: Element[] = [];
  for (let node: Node | null = element.firstChild; node !== null; node = node.nextSibling) {
    if (!isElement(node)) continue;
    if (namespace !== undefined && node.namespaceURI !== namespace) continue;
    if (name !== undefined && node.localName !== name) continue;
    found.push(node);
  }
  return found;
}

/** The one element of this name directly in an element; undefined for none or several. */
export function onlyChild(element: Element, namespace: string, name: string): Element | undefined {
  const [first, second] = childElements(element, namespace, name);
  return second === undefined ? first : undefined;
}

/** How many elements of this name there are in a tree, its root included. */
export function countElements(root: Element, namespace: string, name: string): number {
  const isRoot = root.namespaceURI === namespace && root.localName === name ? 1 : 0;
  return isRoot + root.getElementsByTagNameNS(namespace, name).length;
}

/** The text of an element that holds nothing else; undefined where it holds elements. White space around it goes. */
export function textOf(element: Element | undefined): string | undefined {
  if (element === undefined || childElements(element).length > 0) return undefined;
  return (element.textContent ?? '').trim();
}

/** An attribute without a namespace; undefined where it is missing. */
export function attributeOf(element: Element, name: string): string | undefined {
  return element.getAttributeNS(null, name) ?? element.getAttribute(name) ?? undefined;
}
