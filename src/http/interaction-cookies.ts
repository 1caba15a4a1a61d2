/**
 * The cookies of sign-ins under way: one for each, and never more than a browser can bear.
 *
 * The engine writes two for each interaction, at paths of their own where it cannot see them again, and takes back
 * one: who signs in often has a hundred of them within the hour, and browsers then throw others out, the session's
 * first. Here the engine's go no further than this middleware. What the browser gets is one cookie at `/`, which
 * every request shows, so that the oldest can be taken back.
 *
 * Each proves by a MAC that the interaction of its name was begun in this browser.
 */
import { createHmac, createSecretKey } from 'node:crypto';
import type { Context, Middleware } from 'koa';
import { isEqual } from './csrf.ts';

/** What the engine calls its cookies; they never reach a browser, nor come from one. */
export const engineCookies = { interaction: 'engine.interaction', resume: 'engine.resume' } as const;

/** Tabs that wait for their user at once; the oldest beyond them begin anew. */
const mostInteractions = 25;

export interface InteractionCookiesOptions {
  /** 32 bytes. */
  readonly key: Buffer;
  readonly isSecure: boolean;
  /** Seconds. */
  readonly lifetimeSeconds: number;
  /** Seconds since the epoch. */
  readonly now: () => number;
}

/** Makes the middleware; it goes under the mount, before whatever asks the engine for an interaction. */
export function keepInteractionCookies(options: InteractionCookiesOptions): Middleware {
  const { isSecure, key, lifetimeSeconds, now } = options;
  const prefix = isSecure ? '__Host-postern.tab.' : 'postern.tab.';
  const nameOf = (uid: string) => prefix + uid.slice(0, 12);
  const secret = createSecretKey(key);
  const sign = (uid: string, begun: string) =>
    createHmac('sha256', secret).update(`${uid} ${begun}`).digest('base64url').slice(0, 22);
  const engineNames = new Set<string>(Object.values(engineCookies).flatMap((name) => [name, `${name}.sig`]));

  return async function keepInteractionCookie(ctx, next) {
    const sent = parseCookies(ctx).filter(([name]) => !engineNames.has(name));
    const uid = /^\/(?:login|connect\/authorize)\/([^/]+)/i.exec(ctx.path)?.[1];
    const isOurs = uid !== undefined && proves(uid, sent);
    const shown = isOurs ? [...sent, ...Object.values(engineCookies).map((name) => [name, uid])] : sent;
    if (ctx.req.headers.cookie !== undefined)
      ctx.req.headers.cookie = shown.map((pair) => pair.join('=')).join('; ');
    try {
      await next();
    } finally {
      translate(ctx, sent, uid);
    }
  };

  function proves(uid: string, cookies: readonly SentCookie[]): boolean {
    return cookies.some(([name, value]) => {
      const [begun = '', mac = ''] = value.split('.');
      return name === nameOf(uid) && isEqual(sign(uid, begun), mac);
    });
  }

  /** Puts what the browser is to keep in the place of what the engine has set, or taken back. */
  function translate(ctx: Context, sent: readonly SentCookie[], current: string | undefined): void {
    const lines = [ctx.response.headers['set-cookie'] ?? []].flat();
    const isEngines = (line: string) => engineNames.has(line.slice(0, line.indexOf('=')));
    const ofEngine = lines.filter(isEngines);
    if (ofEngine.length === 0) return;
    ctx.remove('Set-Cookie');
    for (const line of lines.filter((one) => !isEngines(one))) ctx.append('Set-Cookie', line);

    const values = ofEngine.map((line) => /^[^=]*=([^;]*)/.exec(line)?.[1] ?? '');
    const begun = values.find((value) => value !== '');
    if (values.includes('') && current !== undefined) write(ctx, nameOf(current), undefined);
    if (begun === undefined) return;
    const time = now().toString(36);
    write(ctx, nameOf(begun), `${time}.${sign(begun, time)}`);
    const others = sent.filter(([name]) => name.startsWith(prefix) && name !== nameOf(begun));
    const oldestFirst = others.toSorted(([, a], [, b]) => timeOf(a) - timeOf(b));
    for (const [name] of oldestFirst.slice(0, Math.max(0, others.length + 1 - mostInteractions))) {
      write(ctx, name, undefined);
    }
  }

  function write(ctx: Context, name: string, value: string | undefined): void {
    const end = value === undefined ? 'Expires=Thu, 01 Jan 1970 00:00:00 GMT' : `Max-Age=${lifetimeSeconds}`;
    const attributes = `Path=/; ${end}; HttpOnly; SameSite=Lax${isSecure ? '; Secure' : ''}`;
    ctx.append('Set-Cookie', `${name}=${value ?? ''}; ${attributes}`);
  }
}

type SentCookie = readonly [name: string, value: string];

/**
 * Name and value of each, as they stand there. A blank of another kind is part of the name: taken off, it would make
 * one of ours out of what any site of the domain may set, since browsers find no `__Host-` at its beginning.
 */
function parseCookies(ctx: Context): SentCookie[] {
  return (ctx.req.headers.cookie ?? '')
    .split(/; */)
    .filter((pair) => pair.includes('='))
    .map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)] as const);
}

function timeOf(value: string): number {
  return Number.parseInt(value.split('.')[0] ?? '', 36) || 0;
}
