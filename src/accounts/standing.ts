/**
 * Whether the directory still vouches for an account that has signed in by it: asked at every refresh, and at
 * everything else from what is remembered for five minutes.
 *
 * Disabled, expired or gone there ends everything that signs the account in here. While no host answers, the
 * operator's choice counts, from the last time that the directory said that all is well.
 */
import type { Audit } from '../audit.ts';
import type { Logger } from '../log.ts';
import type { Tokens } from '../store/tokens.ts';
import { type Account, type AccountFacts, type Accounts, toUsableFacts } from './accounts.ts';
import type { AccountLink, ExternalLogins, Linkable } from './external-logins.ts';

/** What a directory says of somebody whom it knew. */
export type DirectoryStanding =
  | { readonly kind: 'good'; readonly facts: AccountFacts }
  | { readonly kind: 'ended'; readonly reason: 'disabled' | 'expired' | 'gone' }
  | { readonly kind: 'unavailable'; readonly reason: string };

/** The directory, as far as it is asked again. */
export interface StandingSource {
  /** Of the links of its identities. */
  readonly issuer: string;
  check(subject: string): Promise<DirectoryStanding>;
}

/** `unknown`: the directory does not answer, and is not trusted to have changed nothing for so long. */
export type Verdict =
  /** The account as the directory has just said that it is; undefined where it was not asked, or has none. */
  { readonly kind: 'good'; readonly account?: Account | undefined } | { readonly kind: 'ended' | 'unknown' };

const good: Verdict = { kind: 'good' };

export interface Standing {
  /**
   * Whether an account may go on. Good, without a question, where no directory stands behind it. Questions about
   * one account that are asked at once are one; `isFresh` asks whatever is remembered.
   */
  check(accountId: string, options?: { isFresh?: boolean }): Promise<Verdict>;
  /** Notes that a sign-in has just asked the directory. */
  noteSignIn(account: Account, identity: Linkable): Promise<void>;
}

interface Needs {
  readonly accounts: Pick<Accounts, 'find' | 'follow'>;
  readonly externalLogins: Pick<ExternalLogins, 'findLinks' | 'noteChecked'>;
  readonly tokens: Pick<Tokens, 'revokeAccount'>;
  readonly audit: Pick<Audit, 'record'>;
  readonly log: Logger;
  readonly now: () => number;
  /** Undefined where no directory is configured. */
  readonly source: StandingSource | undefined;
  /** How long the last good answer counts while there is none; 0 not at all. */
  readonly maxAgeSeconds: number;
}

/** How long an answer counts, at the most. */
const rememberedSeconds = 300;
/** The same for the answer that there is none. */
const outageSeconds = 15;
/** Accounts that are remembered; the one that has been there for longest gives way. */
const rememberedAccounts = 20_000;
/** How far the clocks of nodes may be apart, and ours may have been set back. */
const clockToleranceSeconds = 300;

export function createStanding(needs: Needs): Standing {
  const { accounts, audit, externalLogins, tokens, log, now, source, maxAgeSeconds } = needs;
  if (source === undefined) return { check: async () => good, noteSignIn: async () => undefined };

  /** Until when an account is good without a question, by its name in lower case. */
  const goodUntil = new Map<string, number>();
  const asking = new Map<string, Promise<Verdict>>();

  function remember(key: string, seconds: number): void {
    goodUntil.delete(key);
    if (goodUntil.size >= rememberedAccounts) {
      const [oldest = ''] = goodUntil.keys();
      goodUntil.delete(oldest);
    }
    goodUntil.set(key, now() + seconds);
  }

  function isRemembered(key: string): boolean {
    const rest = (goodUntil.get(key) ?? 0) - now();
    // A clock that was set back must not prolong it.
    return rest > 0 && rest <= rememberedSeconds;
  }

  async function ask({ issuer, check }: StandingSource, accountId: string, key: string): Promise<Verdict> {
    const links = await externalLogins.findLinks(accountId);
    const link = links.find((one) => one.issuer === issuer);
    if (link === undefined) {
      remember(key, rememberedSeconds);
      return good;
    }
    const answer = await check(link.subject);
    // Windows has identities of domains that this directory does not hold: it cannot lose whom it never knew.
    const isUnknownThere =
      answer.kind === 'unavailable' || (answer.kind === 'ended' && answer.reason === 'gone');
    if (link.checkedAt === undefined && isUnknownThere) {
      remember(key, answer.kind === 'unavailable' ? outageSeconds : rememberedSeconds);
      return good;
    }
    switch (answer.kind) {
      case 'good': {
        await externalLogins.noteChecked(link);
        const account = await followAccount(accountId, answer.facts);
        remember(key, rememberedSeconds);
        return { kind: 'good', account };
      }
      case 'ended':
        goodUntil.delete(key);
        await tokens.revokeAccount(accountId);
        audit.record(
          ['revocation', 'success'],
          { event: 'directory-account-ended', accountId, reason: answer.reason },
          'grants and sessions ended by the directory',
          'warn',
        );
        return { kind: 'ended' };
      case 'unavailable':
        return judgeOutage(link, { accountId, key, reason: answer.reason });
    }
  }

  async function followAccount(accountId: string, facts: AccountFacts): Promise<Account | undefined> {
    const account = await accounts.find(accountId);
    return account && accounts.follow(account, toUsableFacts(facts));
  }

  function judgeOutage(
    { checkedAt = 0 }: AccountLink,
    { accountId, key, reason }: { accountId: string; key: string; reason: string },
  ): Verdict {
    // What lies in the future is from before the clock was set back, and nobody knows how old it is.
    const age = now() - checkedAt;
    const rest = age < -clockToleranceSeconds ? 0 : maxAgeSeconds - Math.max(age, 0);
    if (rest <= 0) {
      log.warn({ accountId, reason }, 'refused while the directory does not answer');
      return { kind: 'unknown' };
    }
    log.debug({ accountId, reason }, 'let go on while the directory does not answer');
    remember(key, Math.min(rest, outageSeconds));
    return good;
  }

  return {
    check(accountId, { isFresh = false } = {}) {
      const key = accountId.toLowerCase();
      if (!isFresh && isRemembered(key)) return Promise.resolve(good);
      const pending = asking.get(key);
      if (pending !== undefined) return pending;
      const asked = ask(source, accountId, key).finally(() => asking.delete(key));
      asking.set(key, asked);
      return asked;
    },

    async noteSignIn({ name }, identity) {
      if (identity.issuer !== source.issuer) return;
      await externalLogins.noteChecked(identity);
      remember(name.toLowerCase(), rememberedSeconds);
    },
  };
}
