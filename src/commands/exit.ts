/** How a command ends: exit codes after sysexits.h, and what standard error says of a failure. */
import { ConfigurationError, type ConfigurationIssue, type ErrorCode, ServerError } from '../errors.ts';
import { toPrintableLine } from '../log.ts';

/** The exit codes that a command may end with. */
export const exitCodes = {
  ok: 0,
  failure: 1,
  /** EX_USAGE: the command line is wrong. */
  usage: 64,
  /** EX_UNAVAILABLE: something that is needed does not answer. */
  unavailable: 69,
  /** EX_SOFTWARE: a fault of Postern. */
  internal: 70,
  /** EX_CANTCREAT: a file cannot be made. */
  cannotCreate: 73,
  /** EX_CONFIG: the configuration, or the state of the database, must be put right first. */
  configuration: 78,
} as const;

/** A command that cannot do what it was asked to; `message` and `hint` are for whoever typed it. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: number;
  readonly hint: string | undefined;

  constructor(exitCode: number, message: string, { hint, cause }: { hint?: string; cause?: unknown } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.exitCode = exitCode;
    this.hint = hint;
  }
}

const exitCodeOf: Partial<Record<ErrorCode, number>> = {
  ERR_CONFIG_INVALID: exitCodes.configuration,
  ERR_KEY_UNUSABLE: exitCodes.configuration,
  ERR_FOREIGN_TABLE: exitCodes.configuration,
  ERR_SCHEMA_BEHIND: exitCodes.configuration,
  ERR_SCHEMA_NEWER: exitCodes.configuration,
  ERR_DATABASE_UNAVAILABLE: exitCodes.unavailable,
  ERR_LISTEN_FAILED: exitCodes.unavailable,
  ERR_INTERNAL: exitCodes.internal,
};

/**
 * What went wrong, as lines for standard error and the exit code. With `showStack` the stack follows. Names of files,
 * and what others answer, may be in it.
 */
export function describeFailure(
  err: unknown,
  { showStack }: { showStack: boolean },
): { text: string; exitCode: number } {
  const stack =
    showStack && err instanceof Error
      ? `\n${(err.stack ?? '').split('\n').map(toPrintableLine).join('\n')}`
      : '';
  const hintOf = ({ hint }: { hint: string | undefined }) =>
    hint === undefined ? '' : `\n  ${toPrintableLine(hint)}`;
  if (err instanceof ConfigurationError) {
    const issues = err.issues.map((issue) => `\n${describeIssue(issue)}`).join('');
    return {
      text: `postern: ${err.message} (${err.code})${issues}${stack}`,
      exitCode: exitCodes.configuration,
    };
  }
  if (err instanceof ServerError) {
    const text = `postern: ${toPrintableLine(err.message)} (${err.code})${hintOf(err)}${stack}`;
    return { text, exitCode: exitCodeOf[err.code] ?? exitCodes.failure };
  }
  if (err instanceof CommandError) {
    const text = `postern: ${toPrintableLine(err.message)}${hintOf(err)}${stack}`;
    return { text, exitCode: err.exitCode };
  }
  const message = toPrintableLine(err instanceof Error ? err.message : String(err));
  const advice = showStack
    ? ''
    : '\n  this should not happen; with Log.Level "debug" in server.json it says where';
  return { text: `postern: ${message} (ERR_INTERNAL)${advice}${stack}`, exitCode: exitCodes.internal };
}

/** One issue of the configuration, such as `  config/clients/mvc.json  Flow: is required`, its hint beneath. */
export function describeIssue({ file, path, message, hint }: ConfigurationIssue): string {
  const place = path === '' ? file : `${file}  ${path}`;
  const line = toPrintableLine(`${place}: ${message}`);
  return `  ${line}${hint === undefined ? '' : `\n    ${toPrintableLine(hint)}`}`;
}
