/** Reading a posted form: bounded, urlencoded, each field once. */
import { Readable } from 'node:stream';
import type { Context } from 'koa';
import { ServerError } from '../errors.ts';

const usualLimitBytes = 56 * 1024;
const plainForm = /^application\/x-www-form-urlencoded(?:; ?charset=utf-8)?$/i;

/**
 * The fields of an `application/x-www-form-urlencoded` body. Those named in `lists` may be repeated, and come
 * as one string with spaces between.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE (413) above the limit (56 KiB unless said), ERR_REQUEST_INVALID (400) for another content
 *   type or a repeated field (RFC 6749 section 3.2)
 */
export async function readForm(
  ctx: Context,
  { lists = [], limitBytes = usualLimitBytes }: { lists?: readonly string[]; limitBytes?: number } = {},
): Promise<Readonly<Record<string, string>>> {
  const isEmpty = ctx.get('content-type') === '' && (ctx.request.length ?? 0) === 0;
  if (!isEmpty && !ctx.is('application/x-www-form-urlencoded')) {
    throw new ServerError('ERR_REQUEST_INVALID', 'the body must be application/x-www-form-urlencoded', {
      status: 400,
    });
  }
  const fields = new URLSearchParams(await readBody(ctx, limitBytes));
  const form: Record<string, string> = Object.create(null);
  for (const [name, value] of fields) {
    if (name in form) {
      if (lists.includes(name)) {
        form[name] += ` ${value}`;
        continue;
      }
      throw new ServerError('ERR_REQUEST_INVALID', `the parameter ${printable(name)} must not be repeated`, {
        status: 400,
      });
    }
    form[name] = value;
  }
  return form;
}

/**
 * The fields of a body that is a plain form, which whoever comes after may read again; undefined for any other.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE
 */
export async function readAhead(ctx: Context): Promise<URLSearchParams | undefined> {
  const { req } = ctx;
  if (!plainForm.test(req.headers['content-type'] ?? '')) return undefined;
  const body = await readBytes(ctx, usualLimitBytes);
  const again = Readable.from([body]);
  Object.defineProperties(req, {
    readable: { get: () => again.readable },
    iterator: { value: again.iterator.bind(again) },
  });
  return new URLSearchParams(body.toString('utf8'));
}

/**
 * Refuses a body by its length, before anybody reads it.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE
 */
export function refuseLargeBody({ request }: Context): void {
  if ((request.length ?? 0) > usualLimitBytes) throw tooLarge(usualLimitBytes);
}

async function readBody(ctx: Context, limitBytes: number): Promise<string> {
  return (await readBytes(ctx, limitBytes)).toString('utf8');
}

async function readBytes({ req, request }: Context, limitBytes: number): Promise<Buffer> {
  if ((request.length ?? 0) > limitBytes) throw tooLarge(limitBytes);
  const chunks: Buffer[] = [];
  let received = 0;
  for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    received += chunk.length;
    if (received > limitBytes) throw tooLarge(limitBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function tooLarge(limitBytes: number): ServerError {
  return new ServerError('ERR_REQUEST_TOO_LARGE', `the body is larger than ${limitBytes / 1024} KiB`, {
    status: 413,
  });
}

function printable(name: string): string {
  return name.replace(/[^\w.-]/g, '?').slice(0, 40);
}
