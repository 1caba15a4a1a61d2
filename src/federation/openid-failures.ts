/** What a failed exchange with an OpenID provider means: nobody there, a refusal, or an answer that proves nothing. */
import { errors } from 'jose';
import * as openid from 'openid-client';
import { ServerError } from '../errors.ts';
import { unusable } from './openid-metadata.ts';

/**
 * Why a provider did not sign the user in: the user would not, the provider would have had to ask the user
 * something that it was told not to ask, or it failed.
 */
export type RefusalReason = 'cancelled' | 'failed' | 'interaction-required';

/** Errors of an authorization response. RFC 6749 section 4.1.2.1, OpenID Connect Core section 3.1.2.6; LinkedIn's two. */
const reasons: Readonly<Record<string, RefusalReason>> = {
  access_denied: 'cancelled',
  user_cancelled_authorize: 'cancelled',
  user_cancelled_login: 'cancelled',
  account_selection_required: 'interaction-required',
  consent_required: 'interaction-required',
  interaction_required: 'interaction-required',
  login_required: 'interaction-required',
};

const credentialsAdvice =
  '; check ClientId and ClientSecret, and whether the provider wants another ClientAuthentication';

/** The identity provider answered with an error, and the answer belongs to the question. */
export class SignInRefusedError extends ServerError {
  /** The provider's code, such as `access_denied`. */
  readonly error: string;
  readonly reason: RefusalReason;

  constructor(name: string, error: string, description: string | undefined) {
    const words = description === undefined ? '' : `: ${description.slice(0, 300)}`;
    super('ERR_IDENTITY_PROVIDER_REFUSED', 'the identity provider did not sign you in', {
      status: 403,
      hint: `${name}: it answered ${error.slice(0, 100)}${words}`,
    });
    this.error = error;
    this.reason = Object.hasOwn(reasons, error) ? (reasons[error] ?? 'failed') : 'failed';
  }
}

/** An error about an answer that is there and proves nothing. The reason must hold nothing of a token. */
export function invalidAnswer({ Name }: { readonly Name: string }, reason: string): ServerError {
  return new ServerError(
    'ERR_IDENTITY_PROVIDER_ANSWER_INVALID',
    'the answer of the identity provider could not be verified',
    { status: 400, hint: `${Name}: ${reason}` },
  );
}

/**
 * What we make of an error of jose or openid-client. It never becomes the `cause`: those errors carry the
 * tokens, the claims and the code in theirs, and a cause is logged.
 */
export function toServerError(err: unknown, provider: { readonly Name: string }): unknown {
  // openid-client wraps what our own calls throw.
  for (let cause = err; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof ServerError) return cause;
  }
  if (err instanceof openid.AuthorizationResponseError) {
    return new SignInRefusedError(provider.Name, err.error, err.error_description);
  }
  if (err instanceof openid.ResponseBodyError) return toTokenError(err, provider);
  if (err instanceof openid.WWWAuthenticateChallengeError) {
    return unusable(provider, `it answered our request with ${err.status}${credentialsAdvice}`);
  }
  if (err instanceof errors.JWKSInvalid)
    return unusable(provider, 'what it has at its jwks_uri is no key set');
  if (err instanceof errors.JOSEError) return invalidAnswer(provider, err.message);
  if (err instanceof openid.ClientError) {
    // The inner message says which check failed, in fixed words.
    const reason = err.cause instanceof Error ? err.cause.message : err.message;
    const isNoAnswer = ['OAUTH_RESPONSE_IS_NOT_CONFORM', 'OAUTH_RESPONSE_IS_NOT_JSON'].includes(
      err.code ?? '',
    );
    return isNoAnswer ? unusable(provider, reason) : invalidAnswer(provider, reason);
  }
  return err;
}

/** What the token endpoint says is about the code, which came through the browser, or about us. RFC 6749 section 5.2. */
function toTokenError(
  { error, error_description: description }: openid.ResponseBodyError,
  provider: { readonly Name: string },
): ServerError {
  const words = `it answered our request with ${error}${description === undefined ? '' : `: ${description.slice(0, 300)}`}`;
  if (error === 'invalid_grant') return invalidAnswer(provider, words);
  const isAboutUs = error === 'invalid_client' || error === 'unauthorized_client';
  return unusable(provider, isAboutUs ? words + credentialsAdvice : words);
}
