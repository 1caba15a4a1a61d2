/**
 * What keeps anybody from trying one password or secret after another: wrong ones are counted, and the more there
 * have been, the longer the next one has to wait. Right ones wait as well, or the wait would be worth nothing.
 *
 * | counter | of | without a wait | longest wait |
 * | --- | --- | --- | --- |
 * | pair | an account from a network (IPv4 /24, IPv6 /64) | 5 | 15 min |
 * | account | an account from anywhere; not asked of a network that has failed less than twice with it | 30 | 1 min |
 * | device | an account from a browser that has signed in to it before; then nothing else is asked | 5 | 15 min |
 * | address | all accounts from an address (IPv4 /32, IPv6 /64) | 50 | 2 min |
 * | network | all accounts from a network (IPv4 /24, IPv6 /48) | 200 | 1 min |
 * | provider | the same from a /16 or /32; not asked of an address that has failed less than twice | 1000 | 10 s |
 *
 * A count goes down by as many as are without a wait in a day: what many users do in weeks is no attack. Who guesses
 * gains nothing by that, for they have more tries while they wait.
 *
 * So nobody is kept out for good, and by strangers only who shares a network with them and comes with another browser.
 * Clients and resources are counted as accounts are, with more patience: their secrets are no words.
 *
 * The counts are in the database, for all nodes. Each node remembers what it has seen of them: that tells what has to
 * wait without a question; that something has not is decided in the database when the password has been verified, and
 * before anybody is told. Of many at once only as many learn something as would have one after the other.
 */
import { createHmac, createSecretKey } from 'node:crypto';
import { isIPv4, isIPv6 } from 'node:net';
import { isDatabaseUnavailable } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Database, Row } from '../store/database.ts';
import { isUniqueViolation } from '../store/failures.ts';

export interface GuessOrigin {
  /** Where the request comes from. */
  readonly address: string;
  /** What its browser is known by to the account; undefined for a stranger's. */
  readonly device?: string | undefined;
}

export type GuessCounter = 'account' | 'address' | 'device' | 'network' | 'pair' | 'provider';

/** Why something is not tried. */
export interface GuessBlock {
  /** For the log. */
  readonly counter: GuessCounter;
  /** How long to wait; at least 1. */
  readonly seconds: number;
}

/** One password or secret that somebody has come with. */
export interface Guess {
  /** Of its pair or device. */
  readonly key: string;
  /** Whether it has to wait, as far as this node knows; undefined where it may be verified. Mostly no statement. */
  findBlock(): Promise<GuessBlock | undefined>;
  /** Counts it as wrong. A block says that by now it is nobody's to know that it was. At most two statements, mostly. */
  fail(): Promise<GuessBlock | undefined>;
  /** Ends the count of its pair or device. A block says that it may not be right yet. One statement, two after failures. */
  succeed(): Promise<GuessBlock | undefined>;
}

/** Whose passwords or secrets they are. */
export type GuessKind = 'account' | 'client';

export interface Guessing extends Disposable {
  begin(kind: GuessKind, name: string, origin: GuessOrigin): Guess;
  /** The key of an account, however its name is written. */
  subjectOf(kind: GuessKind, name: string): string;
  /** Forgets what has been counted for an account, from wherever; false where there was nothing. */
  forget(kind: GuessKind, name: string): Promise<boolean>;
}

interface Limits {
  readonly freeTries: number;
  readonly longestSeconds: number;
}

const sprayLimits: Record<'address' | 'network' | 'provider', Limits> = {
  address: { freeTries: 50, longestSeconds: 120 },
  network: { freeTries: 200, longestSeconds: 60 },
  provider: { freeTries: 1000, longestSeconds: 10 },
};
const limitsOf: Record<GuessKind, Record<GuessCounter, Limits>> = {
  account: {
    pair: { freeTries: 5, longestSeconds: 900 },
    device: { freeTries: 5, longestSeconds: 900 },
    account: { freeTries: 30, longestSeconds: 60 },
    ...sprayLimits,
  },
  // Somebody who comes with an outdated secret must not keep out the one beside him for long.
  client: {
    pair: { freeTries: 10, longestSeconds: 60 },
    device: { freeTries: 10, longestSeconds: 60 },
    account: { freeTries: 100, longestSeconds: 10 },
    ...sprayLimits,
  },
};
/** Who has failed less often is not made to wait for what others did at the account, or at the provider. */
const quietFailures = 2;

/** What the key of the counts is derived for. */
export const guessingKey = 'guesses';

/** How long a count lasts after the last failure, for all counters; meanwhile it goes down. */
const keptSeconds = 86_400;
/** How old what a node remembers of a block may be. */
const blockMemoryMs = 2000;
/** While wrong secrets come in, what other nodes have counted is read this often. */
const refreshMs = 3000;
const refreshedSeconds = 15;
const refreshedRows = 1000;
const rememberedCounts = 50_000;

/** What is known of a row. */
interface Count {
  readonly failures: number;
  readonly delaySeconds: number;
  readonly openAt: number;
  readonly expiresAt: number;
  /** Whether the database has it. */
  readonly isStored: boolean;
  /** By the monotonic clock: when it was read there. */
  readonly readAt: number;
}

interface CounterRow {
  readonly counter: GuessCounter;
  readonly id: string;
  readonly limits: Limits;
}

const table = 'OidcGuess';
const slots = ['id0', 'id1', 'id2', 'id3', 'id4'] as const;
type Slot = (typeof slots)[number];

interface Needs {
  readonly db: Pick<Database, 'knex' | 'prepare'>;
  readonly log: Logger;
  readonly now: () => number;
  /** The same on every node. */
  readonly key: Buffer;
  /** Whether names are written in several ways, as a directory has them: `DOMAIN\user`, `user@realm`. */
  readonly hasDomains: boolean;
  /** Addresses that stand for too many to be counted, such as that of a proxy. */
  readonly isExempt: (address: string) => boolean;
}

/** Makes the service. */
export function createGuessing({ db, hasDomains, isExempt, key, log, now }: Needs): Guessing {
  /** The last that was used is the last in it. */
  const known = new Map<string, Count>();
  let refreshing: NodeJS.Timeout | undefined;
  let lastSecretAt = Number.NEGATIVE_INFINITY;

  const select = db.prepare<Slot | 'now'>((knex, value) =>
    knex(table)
      .select('id', 'failures', 'delaySeconds', 'openAt', 'expiresAt')
      .whereIn('id', slots.map(value))
      .andWhere('expiresAt', '>', value('now')),
  );
  const selectRecent = db.prepare<'since'>((knex, value) =>
    knex(table)
      .select('id', 'failures', 'delaySeconds', 'openAt', 'expiresAt')
      .where('expiresAt', '>', value('since'))
      .orderBy('expiresAt', 'desc')
      .limit(refreshedRows),
  );
  // The rows decide by themselves, one after the other: of many at once as many come through as there are tries left.
  const increment = db.prepare<Slot | 'unasked0' | 'unasked1' | 'expiresAt' | 'now'>((knex, value) => {
    // Numbers come as reals to SQLite, where they would divide to fractions.
    const next = `?? + 1 - (cast(? as bigint) - ?? + ${keptSeconds}) * ?? / ${keptSeconds}`;
    const nextColumns = ['failures', value('now'), 'expiresAt', 'freeTries'];
    const nextDelay = `case when ${next} < ?? then 0 when ?? = 0 then 1 when ?? * 2 > ?? then ?? else ?? * 2 end`;
    const columns = [
      ...[...nextColumns, 'freeTries', 'delaySeconds', 'delaySeconds', 'longestSeconds', 'longestSeconds'],
      'delaySeconds',
    ];
    return knex(table)
      .whereIn('id', slots.map(value))
      .andWhere('expiresAt', '>', value('now'))
      .andWhere((open) =>
        open.where('openAt', '<=', value('now')).orWhereIn('id', [value('unasked0'), value('unasked1')]),
      )
      .update({
        failures: knex.raw(`case when ${next} < 1 then 1 when ${next} < ?? then ${next} else ?? end`, [
          ...[...nextColumns, ...nextColumns, 'freeTries', ...nextColumns, 'freeTries'],
        ]),
        delaySeconds: knex.raw(nextDelay, columns),
        openAt: knex.raw(`? + ${nextDelay}`, [value('now'), ...columns]),
        expiresAt: value('expiresAt'),
      });
  });
  // Where names share a count, who has signed in may be a namesake: that must not make him one who has hardly failed.
  const keptFailures = hasDomains ? quietFailures : 0;
  const reset = db.prepare<'id' | 'now'>((knex, value) =>
    knex(table)
      .where({ id: value('id') })
      .andWhere('openAt', '<=', value('now'))
      .update({
        failures: knex.raw(`case when ?? > ${keptFailures} then ${keptFailures} else ?? end`, [
          'failures',
          'failures',
        ]),
        delaySeconds: 0,
      }),
  );
  const removeExpired = db.prepare<Slot | 'now'>((knex, value) =>
    knex(table).whereIn('id', slots.map(value)).andWhere('expiresAt', '<=', value('now')).delete(),
  );
  const removeSubject = db.prepare<'subject'>((knex, value) =>
    knex(table)
      .where({ subject: value('subject') })
      .delete(),
  );

  // Out of bytes Node makes a key anew for each HMAC, which takes six times as long as the rest of it.
  const secret = createSecretKey(key);
  function hmac(...parts: readonly string[]): string {
    return createHmac('sha256', secret).update(parts.join('\n')).digest('base64url');
  }

  function subjectOf(kind: GuessKind, name: string): string {
    return hmac(kind, kind === 'account' ? canonicalName(name, { hasDomains }) : name.slice(0, longestName));
  }

  function remember(id: string, count: Count): void {
    known.delete(id);
    if (known.size >= rememberedCounts) {
      const [oldest = ''] = known.keys();
      known.delete(oldest);
    }
    known.set(id, count);
  }

  function recall(id: string): Count | undefined {
    const count = known.get(id);
    return count !== undefined && count.expiresAt > now() ? count : undefined;
  }

  function take(row: Row): void {
    remember(String(row.id), {
      failures: Number(row.failures),
      delaySeconds: Number(row.delaySeconds),
      openAt: Number(row.openAt),
      expiresAt: Number(row.expiresAt),
      isStored: true,
      readAt: performance.now(),
    });
  }

  /** One more, as the database will have it too, unless other nodes were there meanwhile. */
  function bump({ id, limits }: CounterRow): void {
    const before = recall(id);
    const failures = before === undefined ? 1 : nextFailures(before, limits, now());
    const delay = before?.delaySeconds ?? 0;
    const delaySeconds =
      failures < limits.freeTries ? 0 : delay === 0 ? 1 : Math.min(delay * 2, limits.longestSeconds);
    remember(id, {
      failures,
      delaySeconds,
      openAt: now() + delaySeconds,
      expiresAt: now() + keptSeconds,
      isStored: before?.isStored ?? false,
      readAt: before?.readAt ?? Number.NEGATIVE_INFINITY,
    });
  }

  async function read(rows: readonly CounterRow[]): Promise<void> {
    const found = await select({ ...toSlots(rows), now: now() });
    for (const { id } of rows) known.delete(id);
    found.rows.forEach(take);
  }

  /** Reads what other nodes have counted, for as long as wrong secrets come in here: right ones ask nobody. */
  function keepRefreshing(): void {
    lastSecretAt = performance.now();
    if (refreshing !== undefined) return;
    refreshing = setTimeout(async () => {
      try {
        const { rows } = await selectRecent({ since: now() + keptSeconds - refreshedSeconds });
        rows.forEach(take);
      } catch (err) {
        log.debug({ err }, 'wrong guesses at other nodes not read');
      }
      if (refreshing === undefined) return;
      refreshing = undefined;
      if (performance.now() - lastSecretAt < refreshedSeconds * 1000) {
        const before = lastSecretAt;
        keepRefreshing();
        lastSecretAt = before;
      }
    }, refreshMs);
    refreshing.unref();
  }

  function open(kind: GuessKind, name: string, { address, device }: GuessOrigin): Guess {
    const subject = subjectOf(kind, name);
    const networks = networksOf(address);
    const row = (counter: GuessCounter, ...parts: readonly string[]): CounterRow => ({
      counter,
      id: hmac(counter, ...parts),
      limits: limitsOf[kind][counter],
    });
    const own = device === undefined ? row('pair', subject, networks.pair) : row('device', subject, device);
    const rows: readonly CounterRow[] =
      device !== undefined
        ? [own]
        : [
            own,
            row('account', subject),
            ...(isExempt(address)
              ? []
              : [
                  row('address', networks.address),
                  row('network', networks.network),
                  row('provider', networks.provider),
                ]),
          ];
    const failuresOf = (counter: GuessCounter) => {
      const counted = rows.find((one) => one.counter === counter);
      return counted === undefined ? 0 : (recall(counted.id)?.failures ?? 0);
    };
    /** Whether the counter has a say: strangers at the account or the provider are nothing to who has hardly failed. */
    function isAsked(counter: GuessCounter): boolean {
      if (counter === 'account') return failuresOf('pair') >= quietFailures;
      return counter !== 'provider' || failuresOf('address') >= quietFailures;
    }

    function evaluate(): GuessBlock | undefined {
      let block: GuessBlock | undefined;
      for (const { counter, id } of rows) {
        const seconds = (recall(id)?.openAt ?? 0) - now();
        if (seconds > (block?.seconds ?? 0) && isAsked(counter)) block = { counter, seconds };
      }
      return block;
    }

    /** Adds one to the rows that are there and inserts the others; true where each that has a say was open. */
    async function store(unasked: readonly string[]): Promise<boolean> {
      let pending = rows;
      for (let round = 0; round < 4; round += 1) {
        const stored = pending.filter(({ id }) => recall(id)?.isStored === true);
        const fresh = pending.filter((one) => !stored.includes(one));
        if (stored.length > 0) {
          const [unasked0 = '', unasked1 = ''] = unasked;
          const counted = await increment({
            ...toSlots(stored),
            unasked0,
            unasked1,
            now: now(),
            expiresAt: now() + keptSeconds,
          });
          if (counted.count < stored.length) {
            await read(stored);
            const areGone = stored.filter(({ id }) => recall(id) === undefined);
            // Unless rows have been removed meanwhile, one of them was closed.
            if (areGone.length === 0 || evaluate() !== undefined) return false;
            pending = [...areGone, ...fresh];
            continue;
          }
          pending = fresh;
        }
        if (fresh.length === 0) return true;
        try {
          await db.knex(table).insert(fresh.map((one) => toNewRow(one, subject, now())));
          for (const { id } of fresh) {
            const count = recall(id);
            if (count !== undefined) remember(id, { ...count, isStored: true });
          }
          return true;
        } catch (err) {
          if (!isUniqueViolation(err)) throw err;
          // Another node was first, or what is there has ended and not been removed yet.
          await removeExpired({ ...toSlots(fresh), now: now() });
          await read(fresh);
          if (evaluate() !== undefined) return false;
        }
      }
      return false;
    }

    return {
      key: own.id,

      async findBlock() {
        const block = evaluate();
        if (block === undefined) return undefined;
        const asked = rows.filter(({ counter }) => counter === block.counter);
        const isOld = asked.some(
          ({ id }) => performance.now() - (known.get(id)?.readAt ?? 0) > blockMemoryMs,
        );
        if (!isOld) return block;
        // Whoever comes meanwhile has the answer that is remembered.
        for (const { id } of asked) {
          const count = known.get(id);
          if (count !== undefined) known.set(id, { ...count, readAt: performance.now() });
        }
        try {
          await read(rows);
        } catch (err) {
          if (!isDatabaseUnavailable(err)) throw err;
          return block;
        }
        return evaluate();
      },

      async fail() {
        const block = evaluate();
        if (block !== undefined) return block;
        if (kind === 'client') keepRefreshing();
        const unasked = rows.filter(({ counter }) => !isAsked(counter)).map(({ id }) => id);
        // At once, so that whoever comes while the database is asked finds it.
        rows.forEach(bump);
        if (await store(unasked)) return undefined;
        await read(rows);
        return evaluate() ?? { counter: own.counter, seconds: 1 };
      },

      async succeed() {
        await read(rows);
        const block = evaluate();
        if (block !== undefined) return block;
        const count = recall(own.id);
        if (count === undefined || (count.failures <= keptFailures && count.delaySeconds === 0))
          return undefined;
        const { count: changed } = await reset({ id: own.id, now: now() });
        if (changed > 0) {
          remember(own.id, { ...count, failures: Math.min(count.failures, keptFailures), delaySeconds: 0 });
          return undefined;
        }
        // Closed by others in this very moment.
        await read(rows);
        return evaluate() ?? { counter: own.counter, seconds: 1 };
      },
    };
  }

  /** What it is counted by are HMACs: made where there is something to look up, or to count. */
  function begin(...guessed: Parameters<Guessing['begin']>): Guess {
    let opened: Guess | undefined;
    const opening = () => {
      opened ??= open(...guessed);
      return opened;
    };
    return {
      get key() {
        return opening().key;
      },
      findBlock: async () => (known.size === 0 ? undefined : opening().findBlock()),
      fail: () => opening().fail(),
      succeed: () => opening().succeed(),
    };
  }

  return {
    begin,
    subjectOf,
    async forget(kind, name) {
      const { count } = await removeSubject({ subject: subjectOf(kind, name) });
      return count > 0;
    },
    [Symbol.dispose]() {
      clearTimeout(refreshing);
      refreshing = undefined;
    },
  };
}

/** Of as many as come without a wait one is forgotten after the other, evenly over the day; more are not counted. */
function nextFailures({ expiresAt, failures }: Count, { freeTries }: Limits, now: number): number {
  const forgotten = Math.trunc(((now - expiresAt + keptSeconds) * freeTries) / keptSeconds);
  return Math.max(1, Math.min(failures + 1 - forgotten, freeTries));
}

function toSlots(rows: readonly CounterRow[]): Record<Slot, string> {
  const [id0 = '', id1 = '', id2 = '', id3 = '', id4 = ''] = rows.map(({ id }) => id);
  return { id0, id1, id2, id3, id4 };
}

function toNewRow({ counter, id, limits }: CounterRow, subject: string, now: number) {
  const isOfSubject = counter === 'account' || counter === 'device' || counter === 'pair';
  return {
    id,
    subject: isOfSubject ? subject : null,
    failures: 1,
    ...limits,
    delaySeconds: 0,
    openAt: now,
    expiresAt: now + keptSeconds,
  };
}

/** No account or client has a longer one. */
const longestName = 255;

/** Letters that some directories and databases take for plain ones, beside those that Unicode takes apart. */
const plainLetters: Readonly<Record<string, string>> = {
  ...{ æ: 'ae', œ: 'oe', ø: 'o', đ: 'd', ð: 'd', ħ: 'h', ı: 'i', ł: 'l', ŧ: 't', þ: 'th', ß: 'ss' },
};

/**
 * A name as it is counted, so that no way of writing it has a count of its own: full-width letters, case, blanks and
 * dots at the end. Where names are compared by others, in a directory, what those may pass over as well: the domain
 * before a backslash or behind an @, characters that nobody sees, accents, and how many blanks there are. Pure.
 */
export function canonicalName(name: string, { hasDomains }: { hasDomains: boolean }): string {
  const cut = name.slice(0, longestName);
  if (!hasDomains) return withoutEnds(cut.normalize('NFKC').toLowerCase().trim());
  const normal = cut
    .normalize('NFKC')
    .toLowerCase()
    .normalize('NFKD')
    // RFC 4518 section 2.2, and what collations give no weight.
    .replace(/[\p{M}\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Default_Ignorable_Code_Point}]/gu, '')
    .replace(/[æœøđðħıłŧþß]/g, (letter) => plainLetters[letter] ?? letter)
    .replace(/\s+/gu, ' ')
    .trim();
  return withoutEnds(normal.replace(/^.*\\(?=.)/s, '').replace(/(?<=.)@.*$/s, '')) || normal;
}

/** Windows and SQL Server drop dots and blanks from the end. */
function withoutEnds(name: string): string {
  return name.replace(/[. ]+(?=\\|$)/g, '') || name;
}

/** The networks that an address is in; an address that is none is one of its own. Pure. */
export function networksOf(address: string): Record<'address' | 'network' | 'pair' | 'provider', string> {
  if (isIPv4(address)) {
    const parts = address.split('.');
    const prefix = (count: number) => `${parts.slice(0, count).join('.')}/${count * 8}`;
    return { address, pair: prefix(3), network: prefix(3), provider: prefix(2) };
  }
  if (!isIPv6(address)) return { address, pair: address, network: address, provider: address };
  const groups = groupsOf(address);
  const prefix = (count: number) => `${groups.slice(0, count).join(':')}/${count * 16}`;
  return { address: prefix(4), pair: prefix(4), network: prefix(3), provider: prefix(2) };
}

/** The eight groups of an IPv6 address, in their shortest form. */
function groupsOf(address: string): string[] {
  const [bare = ''] = address.split('%');
  const toHex = (high: string, low: string) => (Number(high) * 256 + Number(low)).toString(16);
  const hexadecimal = bare.replace(
    /(\d+)\.(\d+)\.(\d+)\.(\d+)$/,
    (_, a: string, b: string, c: string, d: string) => `${toHex(a, b)}:${toHex(c, d)}`,
  );
  const [head = '', tail] = hexadecimal.split('::');
  const split = (part: string) => (part === '' ? [] : part.split(':'));
  const [before, after] = [split(head), split(tail ?? '')];
  const zeros = Array.from({ length: Math.max(0, 8 - before.length - after.length) }, () => '0');
  return [...before, ...(tail === undefined ? [] : zeros), ...after].map((group) =>
    Number.parseInt(group, 16).toString(16),
  );
}
