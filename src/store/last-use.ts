/**
 * When clients were last used and accounts last signed in, to the hour. Noted in memory, where the audit log is told
 * of it anyway, and written once a minute: no request waits for it, and none fails by it (docs/adr/0017).
 */
import { setImmediate as letOthersRun, setTimeout as sleep } from 'node:timers/promises';
import type { Audit } from '../audit.ts';
import type { Logger } from '../log.ts';
import { type Database, toNumber } from './database.ts';
import { isUniqueViolation } from './failures.ts';

/**
 * `client`: it was issued tokens, or a request of its was answered. `sign-in`: the account signed in. `account`:
 * tokens were issued for it, with or without a sign-in; somebody may go on for years by a refresh token.
 */
export type UseKind = 'account' | 'client' | 'sign-in';

export interface LastUse {
  readonly kind: UseKind;
  /** The client id, or the account's name in lower case. */
  readonly name: string;
  /** Seconds since the epoch; the beginning of its hour. */
  readonly usedAt: number;
}

export interface LastUses {
  /** Writes one unless a later one is there. One statement where there is a row to change. */
  save(use: LastUse): Promise<void>;
  /** All of a kind, by name. One statement. */
  list(kind: UseKind): Promise<ReadonlyMap<string, number>>;
}

const table = 'OidcLastUse';
const resolutionSeconds = 3600;

/** Makes it over a database that has been migrated. */
export function createLastUses({ db }: { db: Pick<Database, 'prepare'> }): LastUses {
  const advance = db.prepare<keyof LastUse>((knex, value) =>
    knex(table)
      .where({ kind: value('kind'), name: value('name') })
      .andWhere('usedAt', '<', value('usedAt'))
      .update({ usedAt: value('usedAt') }),
  );
  const find = db.prepare<'kind' | 'name'>((knex, value) =>
    knex(table)
      .select('usedAt')
      .where({ kind: value('kind'), name: value('name') }),
  );
  const findAccount = db.prepare<'name'>((knex, value) =>
    knex('OidcUser')
      .select('normalizedName')
      .where({ normalizedName: value('name'), removedAt: null }),
  );
  const insert = db.prepare<keyof LastUse>((knex, value) =>
    knex(table).insert({ kind: value('kind'), name: value('name'), usedAt: value('usedAt') }),
  );
  const list = db.prepare<'kind'>((knex, value) =>
    knex(table)
      .select('name', 'usedAt')
      .where({ kind: value('kind') }),
  );

  return {
    async save(use) {
      const { count } = await advance({ ...use });
      // Asked first: an insert that fails is an error in the log of the database.
      if (count > 0 || (await find({ ...use })).rows.length > 0) return;
      // Of an account that has been removed meanwhile nothing is kept.
      if (use.kind !== 'client' && (await findAccount({ ...use })).rows.length === 0) return;
      try {
        await insert({ ...use });
      } catch (err) {
        // Another node was first, in the same minute.
        if (!isUniqueViolation(err)) throw err;
      }
    },

    async list(kind) {
      const { rows } = await list({ kind });
      return new Map(rows.map(({ name, usedAt }) => [String(name), toNumber(usedAt) ?? 0]));
    },
  };
}

/**
 * Notes what the audit log is told of, and writes it every `intervalSeconds` and when it is disposed, unless it is
 * there already for this hour. What cannot be written is kept for the next time.
 */
export function startNotingUse(
  {
    audit,
    lastUses,
    log,
    now,
  }: { audit: Pick<Audit, 'listen'>; lastUses: LastUses; log: Logger; now: () => number },
  { intervalSeconds }: { intervalSeconds: number },
): AsyncDisposable {
  const stop = new AbortController();
  const pending = new Map<string, LastUse>();
  const written = new Set<string>();
  /** Of what is in `written`. */
  let hour = 0;
  let isFailing = false;

  const note = (kind: UseKind, name: string) => {
    const at = now();
    const usedAt = at - (at % resolutionSeconds);
    if (usedAt !== hour) written.clear();
    hour = usedAt;
    const key = `${kind}\n${name}`;
    if (!written.has(key)) pending.set(key, { kind, name, usedAt });
  };
  audit.listen((event, outcome, { accountId, clientId }) => {
    if (outcome !== 'success') return;
    const isUse = event === 'token' || event === 'authorization';
    if (isUse && clientId !== undefined) note('client', clientId);
    if (isUse && accountId !== undefined) note('account', accountId.toLowerCase());
    if (event === 'sign-in' && accountId !== undefined) note('sign-in', accountId.toLowerCase());
  });

  async function flush(): Promise<void> {
    try {
      for (const [key, use] of pending) {
        await lastUses.save(use);
        if (pending.get(key) === use) pending.delete(key);
        if (use.usedAt === hour) written.add(key);
        // SQLite answers synchronously: without this the requests would wait for the last one.
        await letOthersRun();
      }
      isFailing = false;
    } catch (err) {
      // Once an outage.
      if (!isFailing) log.warn({ err, uses: pending.size }, 'last uses not written; they are kept');
      isFailing = true;
    }
  }

  const running = (async () => {
    for (;;) {
      await sleep(intervalSeconds * 1000, undefined, { signal: stop.signal });
      await flush();
    }
  })().catch((err: unknown) => {
    if (!stop.signal.aborted) throw err;
  });

  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
      await flush();
    },
  };
}
