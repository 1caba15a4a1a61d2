/** The protection of our forms against posts that another site makes a browser send. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Context } from 'koa';
import { ServerError } from '../errors.ts';

export interface Csrf {
  /** The value of the form's hidden field. `subject` is what the form belongs to, such as an interaction. */
  token(subject: string): string;
  verify(subject: string, token: string | undefined): boolean;
}

/** Makes tokens that are bound to a subject by a key; nothing is stored. */
export function createCsrf(key: Buffer): Csrf {
  const token = (subject: string) => createHmac('sha256', key).update(subject).digest('base64url');
  return {
    token,
    verify(subject, presented) {
      const expected = Buffer.from(token(subject));
      const actual = Buffer.from(presented ?? '');
      return expected.length === actual.length && timingSafeEqual(expected, actual);
    },
  };
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
