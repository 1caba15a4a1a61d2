/**
 * The logger: one a process, made here, handed in everywhere else.
 *
 * A line is an event in the past tense with its data in fields, named in the words of the glossary:
 * `log.info({ clientId, accountId }, 'login finished')`. Never a token, an adapter id or a `jti`: for an
 * opaque token it is the token.
 */
import { type DestinationStream, type Logger, pino, symbols } from 'pino';

export type { Logger } from 'pino';

export interface LogOptions {
  level: 'debug' | 'error' | 'info' | 'silent' | 'warn';
  /** `json` for machines, `text` for a person at a terminal. */
  format: 'json' | 'text';
  destination?: DestinationStream;
}

/** Names of fields that may hold a secret, wherever they appear in the first three levels of a line. */
const secretFields: ReadonlySet<string> = new Set([
  'access_token',
  'assertion',
  'authorization',
  'client_assertion',
  'client_secret',
  'code',
  'code_verifier',
  'cookie',
  'id_token',
  'id_token_hint',
  'password',
  'refresh_token',
  'secret',
  'set-cookie',
  'token',
  'wresult',
]);

/** Makes the process's logger. */
export function createLogger({ level, format, destination = process.stdout }: LogOptions): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      // Pino's own `redact` takes forty times as long as the rest of a line, with paths that hold wildcards.
      formatters: { level: (label) => ({ level: label }), log: (fields) => redact(fields, 3) },
      serializers: { err: toLoggedError },
    },
    format === 'text' ? textStream(destination) : destination,
  );
}

/** The same logger, which adds to each line what `read` has at that moment. */
export function withFields(log: Logger, read: () => Readonly<Record<string, unknown>>): Logger {
  // The library takes a mixin only for the first of a family.
  return Object.assign(log.child({}), { [symbols.mixinSym]: read });
}

/** The fields with their secrets blanked, `levels` deep; the same object where there are none. */
function redact<Fields extends object>(fields: Fields, levels: number): Fields {
  let redacted: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    const isNested = typeof value === 'object' && value !== null && !(value instanceof Error) && levels > 1;
    const isSecret = secretFields.has(name) && value !== undefined;
    const shown = isSecret ? '[redacted]' : isNested ? redact(value, levels - 1) : value;
    if (shown === value) continue;
    redacted ??= (Array.isArray(fields) ? [...fields] : { ...fields }) as Record<string, unknown>;
    redacted[name] = shown;
  }
  return (redacted as Fields | undefined) ?? fields;
}

/**
 * What the log says of an error. Only own, known members: errors of database drivers carry the bindings of
 * the failed statement, and those are tokens' payloads and password hashes.
 */
function toLoggedError(err: unknown): unknown {
  if (!(err instanceof Error)) return { message: String(err) };
  const { code, hint } = err as { code?: unknown; hint?: unknown };
  return {
    type: err.name,
    message: err.message,
    ...(typeof code === 'string' || typeof code === 'number' ? { errorCode: code } : undefined),
    ...(typeof hint === 'string' ? { hint } : undefined),
    stack: err.stack
      ?.split('\n')
      .filter((line) => line.trimStart().startsWith('at '))
      .join('\n'),
    ...(err.cause === undefined ? undefined : { cause: toLoggedError(err.cause) }),
  };
}

/** Renders each JSON line as `12:00:00 info  message key=value …`. */
function textStream(destination: DestinationStream): DestinationStream {
  return {
    write(line) {
      const { time, level, msg, err, ...fields } = JSON.parse(line) as Record<string, unknown>;
      const data = Object.entries(fields).map(
        // Quoted unless it is one plain word: what a caller sent must not look like a line or a field of ours.
        ([key, value]) =>
          `${key}=${typeof value === 'string' && /^[!#-<>-~]+$/.test(value) ? value : toPrintable(value)}`,
      );
      const head = `${String(time).slice(11, 19)} ${String(level).padEnd(5)} ${String(msg ?? '')}`;
      destination.write(`${[head, ...data].join(' ')}\n`);
      if (err !== undefined) destination.write(`${toPrintable(err, 2)}\n`);
    },
  };
}

/** JSON in which nothing is left that a terminal obeys, or that turns the order of what stands beside it. */
function toPrintable(value: unknown, indent?: number): string {
  return (JSON.stringify(value, null, indent) ?? '').replace(obeyed, toEscape);
}

/** A text as one line in which nothing is left that a terminal obeys. */
export function toPrintableLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  return text.replace(/[\u0000-\u001f]/g, toEscape).replace(obeyed, toEscape);
}

/** Beside the control characters that JSON escapes. */
const obeyed = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

function toEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
