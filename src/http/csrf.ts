/** The protection of our forms against posts that another site makes a browser send. */
import { createHmac, createSecretKey, timingSafeEqual } from 'node:crypto';
import type { Context } from 'koa';
import { ServerError } from '../errors.ts';

export interface Csrf {
  /** The value of the form's hidden field. `subject` is what the form belongs to, such as an interaction. */
  token(subject: string): string;
  verify(subject: string, token: string | undefined): boolean;
}

/** Makes tokens that are bound to a subject by a key; nothing is stored. */
export function createCsrf(key: Buffer): Csrf {
  const secret = createSecretKey(key);
  const token = (subject: string) => createHmac('sha256', secret).update(subject).digest('base64url');
  return {
    token,
    verify(subject, presented) {
      return isEqual(token(subject), presented ?? '');
    },
  };
}

/** Whether two secrets are the same; how long it takes tells nothing but their lengths. */
export function isEqual(expected: string, presented: string): boolean {
  const [left, right] = [Buffer.from(expected), Buffer.from(presented)];
  return left.length === right.length && timingSafeEqual(left, right);
}

/**
 * Refuses a post that the browser itself says comes from elsewhere (Fetch Metadata); browsers that say nothing
 * are held by the token.
 *
 * @throws {ServerError} ERR_FORM_EXPIRED, status 403
 */
export function refuseForeignPost(ctx: Context): void {
  const site = ctx.get('sec-fetch-site');
  if (site !== '' && site !== 'same-origin' && site !== 'none') {
    throw new ServerError('ERR_FORM_EXPIRED', 'this form was sent from another site', { status: 403 });
  }
}
