/**
 * Browsers that have signed in to an account by its password before, known again by a cookie: at that account they
 * have a count of their own, so that strangers who guess cannot keep its owner out (OWASP, "Slow Down Online Guessing
 * Attacks with Device Cookies").
 *
 * The cookie has up to five names, as keyed hashes, each with a random number; it signs nobody in.
 */
import { createHmac, createSecretKey, randomBytes } from 'node:crypto';
import type { Context } from 'koa';
import { canonicalName, type GuessBlock, type GuessOrigin } from '../accounts/guessing.ts';
import { isEqual } from './csrf.ts';
import type { RequestState } from './middleware.ts';

export interface Devices {
  /** Where a password for the name comes from, as it was typed. */
  originOf(ctx: Context, name: string): GuessOrigin;
  /** Notes in the browser that it has just signed in by the password of the name, as it was typed. */
  remember(ctx: Context, name: string): void;
}

interface Entry {
  /** Stands for the name. */
  readonly tag: string;
  readonly device: string;
  /** Of the last sign-in, in days since the epoch. */
  readonly day: number;
}

const mostAccounts = 5;
const keptDays = 180;
const daySeconds = 86_400;

/** Makes them; nothing is stored here. */
export function createDevices({
  isSecure,
  key,
  now,
}: {
  isSecure: boolean;
  key: Buffer;
  now: () => number;
}): Devices {
  const cookie = isSecure ? '__Host-postern.device' : 'postern.device';
  const secret = createSecretKey(key);
  const mac = (text: string) => createHmac('sha256', secret).update(text).digest('base64url');
  // With its domain, whatever the counts do: who is `OTHER\dora`, and can have as many known browsers of that name as
  // they like, is a stranger at `dora`.
  const tagOf = (name: string) => mac(`tag\n${canonicalName(name, { hasDomains: false })}`).slice(0, 16);
  const today = () => Math.floor(now() / daySeconds);

  function read(ctx: Context): readonly Entry[] {
    const parts = (ctx.cookies.get(cookie, { signed: false }) ?? '').split('~');
    const signature = parts.pop() ?? '';
    if (parts.length === 0 || parts.length > mostAccounts) return [];
    if (!isEqual(mac(`devices\n${parts.join('~')}`), signature)) return [];
    return parts
      .map((part) => part.split(':'))
      .map(([tag = '', device = '', day = '']) => ({ tag, device, day: Number(day) }))
      .filter(({ day }) => day > today() - keptDays);
  }

  return {
    originOf(ctx, name) {
      const { clientAddress: address } = ctx.state as RequestState;
      const tag = tagOf(name);
      return { address, device: read(ctx).find((entry) => entry.tag === tag)?.device };
    },

    remember(ctx, name) {
      const tag = tagOf(name);
      const before = read(ctx);
      const device =
        before.find((entry) => entry.tag === tag)?.device ?? randomBytes(16).toString('base64url');
      const entries = [{ tag, device, day: today() }, ...before.filter((entry) => entry.tag !== tag)];
      const text = entries
        .slice(0, mostAccounts)
        .map((entry) => `${entry.tag}:${entry.device}:${entry.day}`)
        .join('~');
      ctx.cookies.set(cookie, `${text}~${mac(`devices\n${text}`)}`, {
        httpOnly: true,
        maxAge: keptDays * daySeconds * 1000,
        path: '/',
        sameSite: 'strict',
        secure: isSecure,
        signed: false,
      });
    },
  };
}

/** Answers that nothing is looked at for a while, and when to come again. */
export function setBlocked(ctx: Context, { seconds }: GuessBlock): void {
  ctx.status = 429;
  ctx.set('Retry-After', String(seconds));
}
