/**
 * Errors that Postern raises by itself. Inside the protocol we throw the engine's own OAuth errors;
 * there is no second hierarchy. Every code has a heading in docs/errors.md.
 */

/** Stable codes: what programs, alerts and docs/errors.md refer to. */
export type ErrorCode =
  | 'ERR_CONFIG_INVALID'
  | 'ERR_DATABASE_UNAVAILABLE'
  | 'ERR_FOREIGN_TABLE'
  | 'ERR_SCHEMA_BEHIND'
  | 'ERR_SCHEMA_NEWER'
  | 'ERR_LISTEN_FAILED'
  | 'ERR_KEY_UNUSABLE'
  | 'ERR_ACCOUNT_EXISTS'
  | 'ERR_ACCOUNT_UNKNOWN'
  | 'ERR_ACCOUNT_REMOVED'
  | 'ERR_ACCOUNT_NAME_INVALID'
  | 'ERR_PASSWORD_UNACCEPTABLE'
  | 'ERR_REQUEST_INVALID'
  | 'ERR_REQUEST_TOO_LARGE'
  | 'ERR_ROUTE_UNKNOWN'
  | 'ERR_METHOD_NOT_ALLOWED'
  | 'ERR_FORM_EXPIRED'
  | 'ERR_SIGN_IN_UNKNOWN'
  | 'ERR_ASSERTION_INVALID'
  | 'ERR_METADATA_INVALID'
  | 'ERR_IDENTITY_PROVIDER_UNAVAILABLE'
  | 'ERR_IDENTITY_PROVIDER_ANSWER_INVALID'
  | 'ERR_IDENTITY_PROVIDER_REFUSED'
  | 'ERR_DIRECTORY_UNAVAILABLE'
  | 'ERR_PASSWORD_VERIFIER_UNAVAILABLE'
  | 'ERR_CLIENT_UNKNOWN'
  | 'ERR_RELYING_PARTY_UNKNOWN'
  | 'ERR_INTERNAL';

/** One finding about a config file: where it is, what is wrong and what to do. */
export interface ConfigurationIssue {
  /** Path of the file as the operator knows it, such as `config/clients/mvc.json`. */
  file: string;
  /** Path inside the file, such as `ClientSecrets[0].Value`; empty for the file as a whole. */
  path: string;
  message: string;
  /** What to do about it, or the nearest known name. */
  hint?: string;
}

export interface ServerErrorOptions {
  /** HTTP status; below 500 the message is shown to the browser. Default 500. */
  status?: number;
  /** For the operator, in the log only. */
  hint?: string;
  cause?: unknown;
}

/** An error with a stable code. `message` is for the browser when `status` is below 500, else for the log. */
export class ServerError extends Error {
  override readonly name = 'ServerError';
  readonly code: ErrorCode;
  readonly status: number;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, { status = 500, hint, cause }: ServerErrorOptions = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.status = status;
    this.hint = hint;
  }

  /** Under the name that the engine reads. */
  get statusCode(): number {
    return this.status;
  }

  /** True where the message may be shown to whoever sent the request. */
  get expose(): boolean {
    return this.status < 500;
  }
}

/** What callers are told to wait, in seconds, where a database does not answer. */
export const retryAfterSeconds = 5;

/** True where the database is what failed: the same request succeeds when it is back. */
export function isDatabaseUnavailable(err: unknown): boolean {
  return err instanceof ServerError && err.code === 'ERR_DATABASE_UNAVAILABLE';
}

/** Everything that is wrong with the config files, collected; the process exits with 78 (sysexits EX_CONFIG). */
export class ConfigurationError extends ServerError {
  readonly issues: readonly ConfigurationIssue[];

  constructor(issues: readonly ConfigurationIssue[]) {
    super(
      'ERR_CONFIG_INVALID',
      `the configuration has ${issues.length} ${issues.length === 1 ? 'issue' : 'issues'}`,
    );
    this.issues = issues;
  }
}
