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

/** A form that has been read before its turn. */
export interface EarlyForm {
  readonly fields: URLSearchParams;
  /** Lets whoever comes next read the body as if nobody had. */
  giveBack(): void;
}

/**
 * Reads a body that is a plain form; undefined for any other, which is left as it is.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE
 */
export async function readAhead(ctx: Context): Promise<EarlyForm | undefined> {
  const { req } = ctx;
  if (!plainForm.test(req.headers['content-type'] ?? '')) return undefined;
  const body = await readBytes(ctx, usualLimitBytes);
  return {
    fields: new URLSearchParams(body.toString('utf8')),
    giveBack() {
      const again = Readable.from([body]);
      Object.defineProperties(req, {
        readable: { get: () => again.readable },
        iterator: { value: again.iterator.bind(again) },
      });
    },
  };
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

/** By its events: as an async iterator a body of one piece takes twenty times as long. */
function readBytes({ req, request }: Context, limitBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if ((request.length ?? 0) > limitBytes) throw tooLarge(limitBytes);
    const chunks: Buffer[] = [];
    let received = 0;
    const take = (chunk: Buffer) => {
      received += chunk.length;
      chunks.push(chunk);
      if (received <= limitBytes) return;
      // Whoever answers decides what becomes of the rest.
      stop();
      req.pause();
      reject(tooLarge(limitBytes));
    };
    const end = () => {
      stop();
      resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks));
    };
    const fail = () => {
      stop();
      reject(req.errored ?? new Error('the connection ended in the middle of the body'));
    };
    const stop = () => void req.off('data', take).off('end', end).off('error', fail).off('close', fail);
    // What has happened already is not told again.
    if (req.readableEnded) return end();
    if (req.destroyed) return fail();
    req.on('error', fail).on('close', fail).on('end', end).on('data', take);
  });
}

function tooLarge(limitBytes: number): ServerError {
  return new ServerError('ERR_REQUEST_TOO_LARGE', `the body is larger than ${limitBytes / 1024} KiB`, {
    status: 413,
  });
}

function printable(name: string): string {
  return name.replace(/[^\w.-]/g, '?').slice(0, 40);
}
