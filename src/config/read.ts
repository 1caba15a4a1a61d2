/**
 * From the text of a config file to a checked value: JSON with comments, then the schema. What is wrong is
 * returned, all of it, in words for an operator; nothing of a value that may be a secret is repeated.
 */
import { findNodeAtOffset, type Node, type ParseError, parseTree, printParseErrorCode } from 'jsonc-parser';
import type { z } from 'zod';
import type { ConfigurationIssue } from '../errors.ts';

/** An issue before its file is known. */
export type Finding = Omit<ConfigurationIssue, 'file'>;

const doubleTheBackslash = 'double the backslash: a name such as DOMAIN\\user is written "DOMAIN\\\\user"';

const maxUnknownKeys = 50;
/** Deeper than any config file; the parser would end with a full stack. */
const maxDepth = 50;

/**
 * Parses JSON with comments and trailing commas, in UTF-8 with or without byte order mark.
 *
 * jsonc-parser repairs what it can; here nothing is repaired: syntax errors, duplicate properties, `__proto__`
 * and control characters (mostly a single backslash that was meant as one) are findings, with line and column.
 */
export function parseJson(bytes: Uint8Array): { value?: unknown; findings: Finding[] } {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return { findings: [{ path: '', message: 'is not UTF-8', hint: 'save the file as UTF-8' }] };
  }

  if (depthOf(text) > maxDepth) {
    return { findings: [{ path: '', message: `is nested more than ${maxDepth} levels deep` }] };
  }
  const errors: ParseError[] = [];
  const root = parseTree(text, errors, { allowTrailingComma: true });
  const findings = errors.map(({ error, offset }): Finding => {
    const name = printParseErrorCode(error);
    const isEscape = name === 'InvalidEscapeCharacter' || name === 'InvalidUnicode';
    return {
      path: root === undefined ? '' : pathOf(findNodeAtOffset(root, offset)),
      message: `${describeSyntaxError(name)} at ${position(text, offset)}`,
      ...(isEscape ? { hint: doubleTheBackslash } : undefined),
    };
  });
  if (findings.length > 0 || root === undefined) return { findings };

  const value = toValue(root, (node, message, hint) =>
    findings.push({
      path: pathOf(node),
      message: `${message} at ${position(text, node.offset)}`,
      ...(hint === undefined ? undefined : { hint }),
    }),
  );
  return findings.length > 0 ? { findings } : { value, findings };
}

/** How deep brackets are nested, those in texts and comments among them: enough for a limit. */
function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (const character of text) {
    if (character === '[' || character === '{') depth += 1;
    else if (character === ']' || character === '}') depth -= 1;
    if (depth > deepest) deepest = depth;
  }
  return deepest;
}

type Report = (node: Node, message: string, hint?: string) => void;

function toValue(node: Node, report: Report): unknown {
  if (node.type === 'array') return (node.children ?? []).map((child) => toValue(child, report));
  if (node.type !== 'object') {
    refuseControlCharacters(node, report);
    return node.value;
  }
  const members = new Map<string, unknown>();
  for (const { children: [key, value] = [] } of node.children ?? []) {
    if (key === undefined || value === undefined) continue;
    const name = String(key.value);
    refuseControlCharacters(key, report);
    if (name === '__proto__') report(key, '__proto__ is not allowed');
    if (members.has(name)) report(key, `${name} is there twice`, 'keep one of them');
    members.set(name, toValue(value, report));
  }
  return Object.fromEntries(members);
}

function refuseControlCharacters(node: Node, report: Report): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  if (typeof node.value === 'string' && /[\u0000-\u001f\u007f]/.test(node.value)) {
    report(node, 'a control character, or a backslash that makes one,', doubleTheBackslash);
  }
}

const syntaxErrors: Readonly<Record<string, string>> = {
  InvalidEscapeCharacter: 'a backslash that begins no escape',
  InvalidUnicode: 'a \\u that is not followed by four hexadecimal digits',
  InvalidSymbol: 'something that is neither text, number, true, false nor null',
  InvalidNumberFormat: 'a malformed number',
  PropertyNameExpected: 'a property name is expected',
  ValueExpected: 'a value is expected',
  ColonExpected: 'a colon is expected',
  CommaExpected: 'a comma is expected',
  CloseBraceExpected: 'a closing brace is expected',
  CloseBracketExpected: 'a closing bracket is expected',
  EndOfFileExpected: 'more text after the end',
  InvalidCommentToken: 'a malformed comment',
  UnexpectedEndOfComment: 'a comment that does not end',
  UnexpectedEndOfString: 'a text that does not end',
  UnexpectedEndOfNumber: 'a number that does not end',
  InvalidCharacter: 'an invalid character',
};

function describeSyntaxError(name: string): string {
  return syntaxErrors[name] ?? name;
}

function position(text: string, offset: number): string {
  const before = text.slice(0, offset).split(/\r\n|\r|\n/);
  return `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}`;
}

function pathOf(node: Node | undefined): string {
  const path: PropertyKey[] = [];
  for (let at = node; at?.parent !== undefined; at = at.parent) {
    if (at.parent.type === 'array') path.unshift(at.parent.children?.indexOf(at) ?? 0);
    else if (at.type === 'property') path.unshift(String(at.children?.[0]?.value));
  }
  return formatPath(path);
}

/** A path as in `ClientSecrets[0].Value`. */
export function formatPath(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) =>
      typeof part === 'number' ? `[${part}]` : `${index === 0 ? '' : '.'}${String(part)}`,
    )
    .join('');
}

/** A value put through its schema. */
export interface Checked<Output> {
  /**
   * What the schema makes of the value; where properties have findings, of the rest without these, so that
   * checks across properties still find what they can. Undefined where that is impossible.
   */
  value: Output | undefined;
  findings: Finding[];
  /** Names of the top-level properties that have findings. */
  broken: ReadonlySet<string>;
}

/**
 * Puts a value through a schema and collects everything that is wrong.
 *
 * @param standIns values for required properties, so that the rest is checked further where one of these is broken
 */
export function check<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  standIns: Readonly<Record<string, unknown>> = {},
): Checked<z.output<Schema>> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return { value: result.data, findings: [], broken: new Set() };

  const { issues } = result.error;
  const findings = issues.flatMap((issue) => toFindings(schema, issue));
  const broken = new Set(
    issues.flatMap((issue) =>
      issue.code === 'unrecognized_keys' && issue.path.length === 0
        ? issue.keys
        : [String(issue.path[0] ?? '')],
    ),
  );
  if (!isObject(value) || broken.has('')) return { value: undefined, findings, broken };
  const rest = Object.fromEntries([
    ...Object.entries(standIns).filter(([name]) => broken.has(name)),
    ...Object.entries(value).filter(([name]) => !broken.has(name)),
  ]);
  return { value: schema.safeParse(rest).data, findings, broken };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function toFindings(schema: z.ZodType, issue: z.core.$ZodIssue): Finding[] {
  const path = formatPath(issue.path);
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(schema, issue.path);
    // A file with thousands of them is no file of ours; a name for each would hold up the server that reloads.
    return issue.keys.slice(0, maxUnknownKeys).map((key) => ({
      path: formatPath([...issue.path, key]),
      message: 'is not a known property',
      ...suggest(key, known),
    }));
  }
  if (issue.code === 'custom') {
    const hint: unknown = issue.params?.hint;
    return [{ path, message: issue.message, ...(typeof hint === 'string' ? { hint } : undefined) }];
  }
  // zod leaves `input` out where there is none.
  if (issue.input === undefined) return [{ path, message: 'is required' }];
  if (issue.code === 'invalid_value') {
    const values = issue.values.map(String);
    const message = issue.message.startsWith('Invalid')
      ? `must be one of ${values.join(', ')}`
      : issue.message;
    return [
      { path, message, ...(typeof issue.input === 'string' ? suggest(issue.input, values) : undefined) },
    ];
  }
  return [{ path, message: describeIssue(issue) }];
}

const kinds: Readonly<Record<string, string>> = {
  array: 'a list',
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a whole number',
  object: 'an object { … }',
  record: 'an object { … }',
  string: 'a text',
};

function describeIssue(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${kinds[issue.expected] ?? issue.expected}`;
    case 'too_small':
      if (issue.origin === 'string' || issue.origin === 'array') return 'must not be empty';
      return `must be at least ${issue.minimum}`;
    case 'too_big':
      return issue.origin === 'string'
        ? `must not be longer than ${issue.maximum} characters`
        : `must be at most ${issue.maximum}`;
    default:
      return issue.message;
  }
}

/** The names of the properties that may stand at `path`. */
function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  const { def } = schema._zod as { def: SchemaDefinition };
  switch (def.type) {
    case 'pipe':
      return [def.in, def.out].flatMap((side) => (side === undefined ? [] : knownKeys(side, path)));
    case 'union':
      return (def.options ?? []).flatMap((option) => knownKeys(option, path));
    case 'array':
      return def.element === undefined ? [] : knownKeys(def.element, path.slice(1));
    case 'object': {
      const shape = def.shape ?? {};
      const [first, ...rest] = path;
      if (first === undefined) return Object.keys(shape).filter((name) => name !== '$schema');
      const member = shape[String(first)];
      return member === undefined ? [] : knownKeys(member, rest);
    }
    default:
      return def.innerType === undefined ? [] : knownKeys(def.innerType, path);
  }
}

/** The members of zod's definitions that {@link knownKeys} walks through. */
interface SchemaDefinition {
  type: string;
  in?: z.core.$ZodType;
  out?: z.core.$ZodType;
  options?: readonly z.core.$ZodType[];
  element?: z.core.$ZodType;
  shape?: Readonly<Record<string, z.core.$ZodType>>;
  innerType?: z.core.$ZodType;
}

/** A hint with the known name nearest to what was written; none where nothing is near. Pure. */
export function suggest(written: string, known: Iterable<string>): { hint?: string } {
  let nearest: string | undefined;
  let least = Math.max(2, Math.floor(written.length * 0.4)) + 1;
  for (const name of known) {
    const distance = editDistance(written.toLowerCase(), name.toLowerCase());
    if (distance < least) [nearest, least] = [name, distance];
  }
  return nearest === undefined ? {} : { hint: `did you mean ${nearest}?` };
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
