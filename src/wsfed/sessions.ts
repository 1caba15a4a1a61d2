/** The browser's sign-in at the WsFed application: one row, found by a cookie, ended with everything of its account. */
import { randomBytes } from 'node:crypto';
import type { Context } from 'koa';
import type { ServerContext } from '../context.ts';
import { bareRow, hashValue } from '../store/tokens.ts';

const model = 'WsFedSession';

export interface WsFedSession {
  readonly accountId: string;
  /** Of the account, as it was then. */
  readonly stamp: string;
  /** Seconds since the epoch. */
  readonly authenticatedAt: number;
  readonly method: 'password' | 'windows';
  /** What assertions call the session; it is not its cookie. */
  readonly index: string;
  /** The relying parties that have an assertion of it, to be told of its end. */
  readonly parties: readonly Party[];
}

interface Party {
  readonly realm: string;
  readonly replyUrl: string;
}

/** More than a browser opens at once of different relying parties. */
const noteAttempts = 10;

function isAmong(parties: readonly Party[], { realm, replyUrl }: Party): boolean {
  return parties.some((one) => one.realm === realm && one.replyUrl === replyUrl);
}

/** Makes the sessions over the token table. */
export function createWsFedSessions({ registry, tokens }: Pick<ServerContext, 'registry' | 'tokens'>) {
  const { PublicUrl, SessionLifetime, WsFed } = registry.configuration.server;
  const isSecure = PublicUrl.startsWith('https:') || WsFed.PublicUrl.startsWith('https:');
  const names = isSecure
    ? { session: '__Host-postern.wsfed', form: '__Host-postern.wsfed.form' }
    : { session: 'postern.wsfed', form: 'postern.wsfed.form' };
  const cookie = {
    path: '/',
    httpOnly: true,
    sameSite: 'lax',
    secure: isSecure,
    signed: true,
    overwrite: true,
  } as const;

  const toRow = (value: string, session: WsFedSession) => ({
    ...bareRow,
    id: hashValue(value),
    model,
    payload: JSON.stringify(session),
    accountId: session.accountId,
    expiresAt: session.authenticatedAt + SessionLifetime,
  });

  return {
    async find(ctx: Context): Promise<WsFedSession | undefined> {
      const value = ctx.cookies.get(names.session, { signed: true });
      const found = value === undefined ? undefined : await tokens.find(model, value);
      return found === undefined ? undefined : (JSON.parse(found.payload) as WsFedSession);
    },

    /** Begins one for a relying party, under a new value, in place of any that the browser had, whose relying parties it takes over. */
    async start(
      ctx: Context,
      session: Omit<WsFedSession, 'index' | 'parties'>,
      party: Party,
    ): Promise<WsFedSession> {
      const old = ctx.cookies.get(names.session, { signed: true });
      const found = old === undefined ? undefined : await tokens.find(model, old);
      if (old !== undefined) await tokens.destroy(model, old);
      const value = randomBytes(32).toString('base64url');
      const told = found === undefined ? [] : (JSON.parse(found.payload) as WsFedSession).parties;
      const parties = isAmong(told, party) ? told : [...told, party];
      const started = { ...session, parties, index: `_${randomBytes(16).toString('hex')}` };
      await tokens.insert(toRow(value, started));
      ctx.cookies.set(names.session, value, cookie);
      renewForms(ctx);
      return started;
    },

    /** Notes that a relying party has an assertion; once for each. */
    async note(ctx: Context, session: WsFedSession, party: Party): Promise<void> {
      if (isAmong(session.parties, party)) return;
      const value = ctx.cookies.get(names.session, { signed: true });
      // Read again for each try: the browser may be on its way to several relying parties at once.
      for (let attempt = 0; value !== undefined && attempt < noteAttempts; attempt += 1) {
        const found = await tokens.find(model, value);
        if (found === undefined) return;
        const current = JSON.parse(found.payload) as WsFedSession;
        if (isAmong(current.parties, party)) return;
        const noted = { ...current, parties: [...current.parties, party] };
        if (await tokens.replace(toRow(value, noted), found.version)) return;
      }
    },

    async end(ctx: Context): Promise<void> {
      const value = ctx.cookies.get(names.session, { signed: true });
      if (value !== undefined) await tokens.destroy(model, value);
      ctx.cookies.set(names.session, null, cookie);
      renewForms(ctx);
    },

    /** What the forms of this browser are bound to; a page that is shown before anybody has signed in has a cookie for it. */
    formSubject(ctx: Context): string {
      const known = (ctx.state as Renewed).wsFedForm ?? ctx.cookies.get(names.form, { signed: true });
      if (known !== undefined) return `wsfed ${known}`;
      return `wsfed ${renewForms(ctx)}`;
    },
  };

  /** Forms that were shown before are worth nothing from now on, whoever finds them in the browser's history. */
  function renewForms(ctx: Context): string {
    const value = randomBytes(16).toString('base64url');
    ctx.cookies.set(names.form, value, cookie);
    (ctx.state as Renewed).wsFedForm = value;
    return value;
  }
}

/** The cookie that this very request has set: it comes back with the next one only. */
interface Renewed {
  wsFedForm?: string;
}
