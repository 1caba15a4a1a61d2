/**
 * What every request passes through, in this order: its log line, its security headers, the answer to errors,
 * the public origin, and the mount.
 */
import { createHash, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP, isIPv4 } from 'node:net';
import type { Context, Middleware } from 'koa';
import type { ServerContext } from '../context.ts';
import { isDatabaseUnavailable, retryAfterSeconds, ServerError } from '../errors.ts';
import type { HostPatterns } from '../federation/destinations.ts';
import { english } from '../languages/languages.ts';
import { errorPage } from '../pages/notices.ts';
import type { Tracing } from '../tracing.ts';
import { textsFor } from './language.ts';

/** What the middleware leaves in `ctx.state` for those after it. */
export interface RequestState {
  /** Finds the request in the log; also in the header `X-Request-Id` and on error pages. */
  requestId: string;
  /** Where the request came from, as far as proxies that are trusted tell. */
  clientAddress: string;
}

/** Leaves in the state where a request came from. What others than trusted proxies say in `X-Forwarded-Host` goes. */
export function findClientAddress(trusted: HostPatterns): Middleware {
  const addressOf = createAddressOf(trusted);
  return async function clientAddress(ctx, next) {
    if (!trusted.hasAddress(peerAddress(ctx))) delete ctx.req.headers['x-forwarded-host'];
    (ctx.state as RequestState).clientAddress = addressOf(ctx.req);
    await next();
  };
}

/**
 * Makes what finds out where a request came from: the peer, or what a trusted proxy wrote into `X-Forwarded-For`. Of
 * several addresses there the last that is no trusted proxy's counts: those before it anybody may have written.
 */
export function createAddressOf(trusted: HostPatterns): (request: IncomingMessage) => string {
  return function addressOf({ headers, socket }) {
    let address = toAddress(socket.remoteAddress ?? '') ?? '';
    if (!trusted.hasAddress(address)) return address;
    const passedOn = String(headers['x-forwarded-for'] ?? '').split(',');
    do {
      const before = toAddress(passedOn.pop() ?? '');
      if (before === undefined) break;
      address = before;
    } while (trusted.hasAddress(address));
    return address;
  };
}

/** Who is at the other end of the connection: often a proxy. */
export function peerAddress(ctx: Context): string {
  return toAddress(ctx.req.socket.remoteAddress ?? '') ?? '';
}

/** An IP address in its plain form; IIS writes the port behind it. */
function toAddress(text: string): string | undefined {
  if (isIPv4(text)) return text;
  const address = text
    .trim()
    .replace(/^\[(.*)\](:\d+)?$/, '$1')
    .replace(/^(\d+(?:\.\d+){3}):\d+$/, '$1')
    .replace(/^::ffff:(?=\d+(\.\d+){3}$)/i, '');
  return isIP(address) === 0 ? undefined : address;
}

/** One line for each request when it is answered: method, path, status, milliseconds. Never a query or a body. */
export function logRequests(noteAnswer: NoteAnswer): Middleware {
  return async function logRequest(ctx, next) {
    const startedAt = performance.now();
    const requestId = nameRequest();
    (ctx.state as RequestState).requestId = requestId;
    ctx.set(requestIdHeader, requestId);
    const { method } = ctx;
    const path = safePath(ctx);
    try {
      await next();
    } finally {
      noteAnswer({ requestId, method, path, status: ctx.status, startedAt });
    }
  };
}

export const requestIdHeader = 'X-Request-Id';

/** The random end of one: Node draws those in stock, and random bytes one by one. */
export function nameRequest(): string {
  return randomUUID().slice(-12);
}

/** `startedAt` by the monotonic clock, in milliseconds. */
export type NoteAnswer = (answer: {
  requestId: string;
  method: string;
  path: string;
  status: number;
  startedAt: number;
}) => void;

/** Makes what is told of each answer. `routeOf` names a path for the metrics. */
export function createNoteAnswer(
  { log, metrics }: Pick<ServerContext, 'log' | 'metrics'>,
  { routeOf }: { routeOf: (path: string) => string },
): NoteAnswer {
  return function noteAnswer({ method, path, requestId, startedAt, status }) {
    const seconds = (performance.now() - startedAt) / 1000;
    metrics.countRequest({ route: routeOf(path), method, status, seconds });
    const level = status >= 500 ? 'warn' : 'debug';
    if (!log.isLevelEnabled(level)) return;
    const milliseconds = Math.round(seconds * 10_000) / 10;
    log[level]({ requestId, method, path: maskPath(path), status, milliseconds }, 'request answered');
  };
}

/**
 * A span for each request, named by the route that `routeOf` makes of its path. Whose part it is, only a trusted proxy
 * may say: anybody else would fill our traces, and have theirs sampled.
 */
export function traceRequests(
  tracing: Pick<Tracing, 'serve'>,
  { routeOf, trustedProxies }: { routeOf: (path: string) => string; trustedProxies: HostPatterns },
): Middleware {
  return async function traceRequest(ctx, next) {
    const { method } = ctx;
    const route = routeOf(safePath(ctx));
    const { traceparent } = trustedProxies.hasAddress(peerAddress(ctx)) ? ctx.req.headers : {};
    const attributes = { 'http.request.method': method, 'http.route': route };
    const start = { name: `${method} ${route}`, kind: 'server', attributes } as const;
    await tracing.serve(
      { ...start, traceparent: typeof traceparent === 'string' ? traceparent : undefined },
      async (span) => {
        try {
          await next();
        } finally {
          const { requestId } = ctx.state as Partial<RequestState>;
          span.set({ 'http.response.status_code': ctx.status, 'postern.request_id': requestId });
        }
      },
    );
  };
}

/** The path, also of a request line that holds none. */
function safePath(ctx: Context): string {
  return hasPath(ctx) ? ctx.path : '';
}

function hasPath({ req: { url = '' } }: Context): boolean {
  return url.startsWith('/');
}

/**
 * Refuses a request line that holds neither a path nor a whole address, of which the listener has left the path: no
 * parser of addresses behind this sees what it does not know.
 *
 * @throws {ServerError} ERR_REQUEST_INVALID, status 400
 */
export const requirePath: Middleware = async (ctx, next) => {
  if (!hasPath(ctx)) {
    throw new ServerError('ERR_REQUEST_INVALID', 'the request line holds no address', { status: 400 });
  }
  await next();
};

/** An interaction is named in its path; the log does not need to know which. */
function maskPath(path: string): string {
  return path.replace(/[\w-]{20,}/g, ':uid').slice(0, 200);
}

/**
 * Headers of every answer. The policy allows our stylesheet and images and nothing else; the engine adds the
 * hash of its own script to the empty `script-src` where it has to post a form. No `form-action`: Chrome applies it to where a post is
 * redirected, and that is the client.
 */
export const securityHeaders: Middleware = async (ctx, next) => {
  ctx.set(everyAnswer);
  await next();
  if (!ctx.response.get('Cache-Control')) ctx.set('Cache-Control', 'no-store');
  const cookies = ctx.res.getHeader('Set-Cookie');
  if (cookies !== undefined) ctx.set('Set-Cookie', [cookies].flat().map(withSameSite));
};

/** What signs a cookie anew after an exchange of keys leaves this attribute of its signature out. */
function withSameSite(cookie: number | string): string {
  return /; *samesite=/i.test(String(cookie)) ? String(cookie) : `${cookie}; samesite=lax`;
}

export const everyAnswer = {
  'Content-Security-Policy':
    "default-src 'none'; script-src; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
};

/** Lets the page in hand show one picture of another origin, such as a client's logo. */
export function allowImage(ctx: Context, url: string | undefined): void {
  if (url === undefined || !URL.canParse(url)) return;
  const policy = ctx.response.get('Content-Security-Policy');
  ctx.set(
    'Content-Security-Policy',
    policy.replace("img-src 'self'", `img-src 'self' ${new URL(url).origin}`),
  );
}

/** Lets the page in hand run one script of ours, by the base64 SHA-256 of its text. */
export function allowScript(ctx: Context, hash: string): void {
  const policy = ctx.response.get('Content-Security-Policy');
  ctx.set('Content-Security-Policy', policy.replace('script-src', `script-src 'sha256-${hash}'`));
}

/** Lets the page in hand load pages of others in frames, such as those that end a client's session. */
export function allowFrames(ctx: Context, urls: readonly string[]): void {
  const origins = [...new Set(urls.map((url) => new URL(url).origin))];
  const policy = ctx.response.get('Content-Security-Policy');
  ctx.set('Content-Security-Policy', `${policy}; frame-src ${origins.join(' ')}`);
}

/** An OAuth error that somebody below has thrown: the engine's classes, known by their members. */
interface OAuthError {
  readonly error: string;
  readonly error_description?: string;
  readonly statusCode: number;
  readonly expose: boolean;
}

/**
 * Answers what was thrown: a page to a browser, JSON to a program and on `programPaths` (whole, in lower case)
 * to everybody. Logs it once; never shows a stack.
 */
export function answerErrors(
  { brand, log, registry }: Pick<ServerContext, 'brand' | 'log' | 'registry'>,
  { programPaths }: { programPaths: ReadonlySet<string> },
): Middleware {
  return async function answerError(ctx, next) {
    try {
      await next();
      if (ctx.status === 404 && ctx.body === undefined) {
        throw new ServerError('ERR_ROUTE_UNKNOWN', 'there is nothing at this address', { status: 404 });
      }
    } catch (err) {
      const { requestId } = ctx.state as RequestState;
      const answer = isCutOff(ctx, err) ? { ...malformed, status: 400, hint: cutOff } : toAnswer(err);
      if (answer.code === 'ERR_IDENTITY_PROVIDER_UNAVAILABLE') {
        const { hint } = err as ServerError;
        log.warn({ requestId, errorCode: answer.code, hint }, 'request failed');
      } else if (answer.status >= 500) log.error({ requestId, err }, 'request failed');
      else
        log.info(
          { requestId, status: answer.status, errorCode: answer.code, hint: answer.hint },
          'request refused',
        );
      ctx.status = answer.status;
      if (isDatabaseUnavailable(err)) ctx.set('Retry-After', String(retryAfterSeconds));
      const isForProgram = programPaths.has(safePath(ctx).toLowerCase());
      if (!isForProgram && ctx.accepts('json', 'html') === 'html') {
        ctx.type = 'html';
        const texts = textsFor(ctx, { registry });
        ctx.body = errorPage({ brand, texts, code: answer.code, reason: answer.reason, requestId });
      } else {
        ctx.body = { error: answer.error, error_description: answer.message };
      }
    } finally {
      // What is left of the body is not read; the connection ends with the answer.
      if (!ctx.req.complete) ctx.set('Connection', 'close');
    }
  };
}

const cutOff = 'the connection ended in the middle of the request';

/** Whether what was thrown is the end of the caller's own connection. */
export function isCutOff({ req }: Context, err: unknown): boolean {
  return err !== null && err !== undefined && (err === req.errored || err === req.socket.errored);
}

interface Answer {
  status: number;
  error: string;
  code: string;
  /** For programs, and for whoever integrates one. */
  message: string;
  /** The message, where it says more than the sentence that people read for the code. */
  reason?: string;
  hint?: string | undefined;
}

const malformed = {
  error: 'invalid_request',
  code: 'ERR_REQUEST_INVALID',
  message: 'the request is malformed',
};

function toAnswer(err: unknown): Answer {
  if (err instanceof ServerError && err.expose) {
    const { status, code, message, hint } = err;
    if (status === 404) return { status, error: 'not_found', code, message, hint };
    return { status, error: 'invalid_request', code, message, reason: message, hint };
  }
  if (isDatabaseUnavailable(err)) {
    return {
      status: 503,
      error: 'temporarily_unavailable',
      code: 'ERR_DATABASE_UNAVAILABLE',
      message: english.error.codes.ERR_DATABASE_UNAVAILABLE,
    };
  }
  if (err instanceof ServerError && err.code === 'ERR_IDENTITY_PROVIDER_UNAVAILABLE') {
    const { code, message } = err;
    return { status: 503, error: 'temporarily_unavailable', code, message, hint: undefined };
  }
  const { error, error_description: description, statusCode, expose } = err as Partial<OAuthError>;
  if (error !== undefined && statusCode !== undefined && expose === true) {
    const message = description ?? error;
    return { status: statusCode, error, code: error, message, reason: message };
  }
  const { status, expose: isHttpError } = err as { status?: number; expose?: boolean };
  if (isHttpError === true && status !== undefined && status < 500) {
    // Koa's own, such as a path that cannot be decoded.
    return { ...malformed, status };
  }
  return {
    status: 500,
    error: 'server_error',
    code: 'ERR_INTERNAL',
    message: english.error.codes.ERR_INTERNAL,
  };
}

/**
 * Makes `PublicUrl` decide every URL that we or the engine print: host and protocol of the request are
 * overwritten, and no header of the caller's can change them.
 *
 * A browser that starts to sign in under another name is sent to the public one first, because cookies set
 * here would be missing there. Behind a proxy that passes its own address on, the name that the browser used is
 * not known: a request that comes again after it was sent there is served as it is.
 */
export function servePublicOrigin(publicUrl: URL, { authorizePath }: { authorizePath: string }): Middleware {
  const isLoopback = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i.test(host);
  const withoutDefaultPort = (host: string) => host.toLowerCase().replace(/:(80|443)$/, '');
  const sent = createMemory({ seconds: 10, size: 1000 });
  const publicHost = withoutDefaultPort(publicUrl.host);
  const protocol = publicUrl.protocol.slice(0, -1);
  const path = authorizePath.toLowerCase();

  return async function publicOrigin(ctx, next) {
    const { headers } = ctx.req;
    const [forwardedHost] = String(headers['x-forwarded-host'] ?? '').split(',');
    const host = forwardedHost?.trim() || (headers.host ?? '');
    headers.host = publicUrl.host;
    headers['x-forwarded-proto'] = protocol;
    delete headers['x-forwarded-host'];
    delete headers['x-forwarded-for'];

    const starts = ctx.method === 'GET' && ctx.path.toLowerCase() === path;
    const isOther = starts && withoutDefaultPort(host) !== publicHost;
    const isName = isOther && host !== '' && (!isLoopback(host) || isLoopback(publicUrl.host));
    if (isName && !sent.has(ctx.url)) {
      sent.add(ctx.url);
      ctx.status = 303;
      // From its parts: a request line may hold a whole address of somebody else.
      ctx.redirect(publicUrl.origin + ctx.path + ctx.search);
      return;
    }
    await next();
  };
}

/** Remembers a few texts for a few seconds, as hashes. */
function createMemory({ seconds, size }: { seconds: number; size: number }) {
  const seenAt = new Map<string, number>();
  const keyOf = (text: string) => createHash('sha256').update(text).digest('base64url');
  return {
    has: (text: string) =>
      performance.now() - (seenAt.get(keyOf(text)) ?? Number.NEGATIVE_INFINITY) < seconds * 1000,
    add(text: string): void {
      const [oldest] = seenAt.keys();
      if (seenAt.size >= size && oldest !== undefined) seenAt.delete(oldest);
      seenAt.delete(keyOf(text));
      seenAt.set(keyOf(text), performance.now());
    },
  };
}

/**
 * Serves a stack of middleware under a prefix, matched without regard to case. Inside, `ctx.path` is what
 * follows the prefix and `ctx.mountPath` the prefix as we spell it, from which the engine makes its URLs.
 */
export function mountAt(
  prefix: string,
  serve: (ctx: Context, next: () => Promise<unknown>) => Promise<unknown>,
): Middleware {
  return async function mounted(ctx, next) {
    const { path } = ctx;
    const rest = path.slice(prefix.length);
    if (
      path.slice(0, prefix.length).toLowerCase() !== prefix.toLowerCase() ||
      (rest !== '' && !rest.startsWith('/'))
    ) {
      await next();
      return;
    }
    (ctx as Context & { mountPath?: string }).mountPath = prefix;
    ctx.path = withoutEndingSlashes(rest);
    try {
      await serve(ctx, next);
    } finally {
      ctx.path = path;
    }
  };
}

/** Slashes at the end mean nothing, as IIS had it. Counted from there: a regular expression tries each anew. */
export function withoutEndingSlashes(path: string): string {
  let end = path.length;
  while (end > 1 && path[end - 1] === '/') end -= 1;
  return path.slice(0, end) || '/';
}

/** Hands the requests at some paths, in lower case, to a stack of their own. */
export function serveApart(stacks: ReadonlyMap<string, Middleware>): Middleware {
  return async function apart(ctx, next) {
    const stack = stacks.get(ctx.path.toLowerCase());
    await (stack === undefined ? next() : stack(ctx, next));
  };
}

/** Ends a request of any other method with 405 and what is allowed. */
export function requireMethod(ctx: Context, methods: readonly string[]): void {
  if (methods.includes(ctx.method)) return;
  ctx.set('Allow', methods.join(', '));
  throw new ServerError('ERR_METHOD_NOT_ALLOWED', `${ctx.method} is not allowed here`, { status: 405 });
}

/** Which methods a path takes: anything else is 405 with `Allow` (RFC 9110 section 15.5.6). Paths in lower case. */
export function allowMethods(methodsOf: ReadonlyMap<string, readonly string[]>): Middleware {
  return async function allowMethod(ctx, next) {
    const methods = methodsOf.get(ctx.path.toLowerCase());
    if (methods !== undefined) requireMethod(ctx, methods);
    await next();
  };
}
