/** Reading a posted form: bounded, urlencoded, each field once. */
import type { IncomingMessage } from 'node:http';
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
  const fields = new URLSearchParams((await readBytes(ctx.req, limitBytes)).toString('utf8'));
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

/** What has been read of requests before their turn. */
const readBefore = new WeakMap<IncomingMessage, Buffer>();

/**
 * The fields of a body that is a plain form, no more than is usual, each once; undefined for any other. Whoever comes
 * next finds it read: {@link giveBack}.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE
 */
export async function readPlainForm(req: IncomingMessage): Promise<URLSearchParams | undefined> {
  if (!plainForm.test(req.headers['content-type'] ?? '')) return undefined;
  const body = await readBytes(req, usualLimitBytes);
  readBefore.set(req, body);
  const fields = new URLSearchParams(body.toString('utf8'));
  return new Set(fields.keys()).size === fields.size ? fields : undefined;
}

/** Has the engine read a body of {@link readPlainForm} as if nobody had; what reads here knows it. */
export function giveBack(req: IncomingMessage): void {
  const body = readBefore.get(req);
  if (body === undefined) return;
  const again = Readable.from([body]);
  Object.defineProperties(req, {
    readable: { get: () => again.readable },
    iterator: { value: again.iterator.bind(again) },
  });
}

/**
 * Refuses a body by its length, before anybody reads it.
 *
 * @throws {ServerError} ERR_REQUEST_TOO_LARGE
 */
export function refuseLargeBody({ req }: Context): void {
  if (lengthOf(req) > usualLimitBytes) throw tooLarge(usualLimitBytes);
}

/** As it is announced; 0 where it is not. */
function lengthOf({ headers }: IncomingMessage): number {
  return Number(headers['content-length'] ?? 0);
}

/** By its events: as an async iterator a body of one piece takes twenty times as long. */
function readBytes(req: IncomingMessage, limitBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const known = readBefore.get(req);
    if (known !== undefined) return resolve(known);
    if (lengthOf(req) > limitBytes) throw tooLarge(limitBytes);
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
