/**
 * The rows of `OidcToken` and every statement over them, compiled once.
 *
 * A row is found by the SHA-256 of its bearer value and holds that value nowhere else. An expired row is dead
 * to every reader before the cleanup removes it. Times are seconds since the epoch.
 */
import { createCipheriv, createDecipheriv, hash, hkdfSync, randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { type Database, type Row, toNumber } from './database.ts';
import { isUniqueViolation } from './failures.ts';

/** What one row holds; `payload` is JSON without the value. */
export interface TokenRow {
  readonly id: string;
  readonly model: string;
  readonly payload: string;
  readonly grantId: string | null;
  readonly uid: string | null;
  readonly userCode: string | null;
  readonly accountId: string | null;
  readonly clientId: string | null;
  readonly expiresAt: number;
}

export interface StoredToken {
  readonly model: string;
  readonly payload: string;
  readonly accountId: string | null;
  readonly clientId: string | null;
  readonly expiresAt: number;
  readonly consumedAt: number | null;
  readonly version: number;
}

/** What introspection learns of a token in its one statement. */
export interface TokenStatus {
  readonly token: StoredToken | undefined;
  /** True where the token belongs to no grant, or its grant is still there. */
  readonly grantIsThere: boolean;
}

/** A sign-in that is still good for a refresh: its grant, and what its refresh token tells. Times as above. */
export interface LiveSignIn {
  /** The grant's own id, which ends it. */
  readonly grantId: string;
  /** The id of the grant's row, which is a hash. */
  readonly grantRowId: string;
  readonly clientId: string;
  readonly accountId: string;
  readonly signedInAt: number;
  /** The last refresh; undefined where there was none. */
  readonly lastUsedAt: number | undefined;
  readonly expiresAt: number;
}

/** A session of ours that rests on one at an identity provider. */
export interface UpstreamReference {
  /** Of our session, stable. */
  readonly uid: string;
  /** The identity provider's name. */
  readonly provider: string;
  readonly issuer: string;
  readonly subject: string;
  readonly sessionId?: string | undefined;
}

export interface UpstreamLink extends UpstreamReference {
  readonly accountId: string;
  readonly expiresAt: number;
}

export type Tokens = ReturnType<typeof createTokens>;

/** The key under which a bearer value is stored: its SHA-256 in base64url, 43 characters. */
export function hashValue(value: string): string {
  return hash('sha256', value, 'base64url');
}

/**
 * What tells a JWT from every other: what is signed of it. Of an ECDSA signature anybody can make another one that is
 * as good.
 */
function signedPartOf(jwt: string): string {
  return jwt.slice(0, jwt.lastIndexOf('.'));
}

/** Hides a part of a row from whoever reads the database: only who brings the row's bearer value can read it. */
export function sealUnder(value: string, text: string): string {
  const iv = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', sealingKey(value), iv);
  const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
  return Buffer.concat([iv, cipher.getAuthTag(), sealed]).toString('base64url');
}

/** What {@link sealUnder} has hidden under the same value; undefined for anything else. */
export function unsealUnder(value: string, sealed: string): string | undefined {
  const bytes = Buffer.from(sealed, 'base64url');
  try {
    const decipher = createDecipheriv('aes-256-gcm', sealingKey(value), bytes.subarray(0, 12));
    decipher.setAuthTag(bytes.subarray(12, 28));
    return Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]).toString('utf8');
  } catch {
    return undefined;
  }
}

/** Not the hash under which the row is stored. */
function sealingKey(value: string): Buffer {
  return Buffer.from(hkdfSync('sha256', value, '', 'postern sealed part', 32));
}

/** A row of ours with nothing in it yet. */
export const bareRow = {
  payload: '{}',
  grantId: null,
  uid: null,
  userCode: null,
  accountId: null,
  clientId: null,
} as const;

const stored = ['model', 'payload', 'accountId', 'clientId', 'expiresAt', 'consumedAt', 'version'] as const;

/** The statements of the token table. */
export function createTokens({ db, now }: { db: Pick<Database, 'prepare'>; now: () => number }) {
  const table = (knex: Knex) => knex('OidcToken');

  const find = db.prepare<'id' | 'model' | 'now'>((knex, value) =>
    table(knex)
      .select(...stored)
      .where({ id: value('id'), model: value('model') })
      .andWhere('expiresAt', '>', value('now')),
  );
  // The newest: requests that rotate a session's identifier at once leave two rows with one uid.
  const findSession = db.prepare<'now' | 'uid'>((knex, value) =>
    table(knex)
      .select(...stored)
      .where({ uid: value('uid'), model: 'Session' })
      .andWhere('expiresAt', '>', value('now'))
      .orderBy('expiresAt', 'desc')
      .limit(1),
  );
  const findWithGrant = db.prepare<'id' | 'now'>((knex, value) =>
    knex('OidcToken as t')
      .select(...stored.map((column) => `t.${column}`), 't.grantId', 'g.id as liveGrantId')
      .leftJoin('OidcToken as g', (join) => {
        join
          .on('g.id', '=', 't.grantId')
          .andOnVal('g.model', '=', 'Grant')
          .andOnVal('g.expiresAt', '>', value('now'));
      })
      .where('t.id', value('id'))
      .andWhere('t.expiresAt', '>', value('now')),
  );
  const findEither = db.prepare<'grantId' | 'id' | 'now'>((knex, value) =>
    table(knex)
      .select('model')
      .whereIn('id', [value('id'), value('grantId')])
      .andWhere('expiresAt', '>', value('now')),
  );
  const insert = db.prepare<keyof TokenRow>((knex, value) =>
    table(knex).insert({
      id: value('id'),
      model: value('model'),
      payload: value('payload'),
      grantId: value('grantId'),
      uid: value('uid'),
      userCode: value('userCode'),
      accountId: value('accountId'),
      clientId: value('clientId'),
      expiresAt: value('expiresAt'),
      version: 0,
    }),
  );
  const replace = db.prepare<'accountId' | 'expiresAt' | 'id' | 'model' | 'payload'>((knex, value) =>
    table(knex)
      .where({ id: value('id'), model: value('model') })
      .update({
        payload: value('payload'),
        accountId: value('accountId'),
        expiresAt: value('expiresAt'),
        version: knex.raw('?? + 1', ['version']),
      }),
  );
  const replaceVersion = db.prepare<'accountId' | 'expiresAt' | 'id' | 'model' | 'payload' | 'version'>(
    (knex, value) =>
      table(knex)
        .where({ id: value('id'), model: value('model'), version: value('version') })
        .update({
          payload: value('payload'),
          accountId: value('accountId'),
          expiresAt: value('expiresAt'),
          version: knex.raw('?? + 1', ['version']),
        }),
  );
  const touch = db.prepare<'expiresAt' | 'id' | 'model' | 'now'>((knex, value) =>
    table(knex)
      .where({ id: value('id'), model: value('model'), consumedAt: null })
      .update({ expiresAt: value('expiresAt'), lastUsedAt: value('now') }),
  );
  // One winner: of simultaneous redemptions only the first finds the column empty (RFC 6749 section 4.1.2).
  const consume = db.prepare<'id' | 'model' | 'now'>((knex, value) =>
    table(knex)
      .where({ id: value('id'), model: value('model'), consumedAt: null })
      .update({ consumedAt: value('now') }),
  );
  const destroy = db.prepare<'id' | 'model'>((knex, value) =>
    table(knex)
      .where({ id: value('id'), model: value('model') })
      .delete(),
  );
  const extend = db.prepare<'expiresAt' | 'holder' | 'id' | 'now'>((knex, value) =>
    table(knex)
      .where({ id: value('id'), model: 'Lease' })
      .andWhere((either) => either.where('expiresAt', '<=', value('now')).orWhere('uid', value('holder')))
      .update({ expiresAt: value('expiresAt'), uid: value('holder') }),
  );
  const destroySessions = db.prepare<'uid'>((knex, value) =>
    table(knex)
      .where({ uid: value('uid'), model: 'Session' })
      .delete(),
  );
  const findUpstream = db.prepare<'accountId' | 'now' | 'userCode'>((knex, value) =>
    table(knex)
      .select('payload')
      .where('model', 'UpstreamSession')
      .andWhere((either) =>
        either.where('userCode', value('userCode')).orWhere('accountId', value('accountId')),
      )
      .andWhere('expiresAt', '>', value('now')),
  );
  const destroyOfGrant = db.prepare<'grantId' | 'model'>((knex, value) =>
    table(knex)
      .where({ grantId: value('grantId'), model: value('model') })
      .delete(),
  );
  const destroyGrant = db.prepare<'grantId'>((knex, value) =>
    table(knex).where('grantId', value('grantId')).orWhere('id', value('grantId')).delete(),
  );
  const destroyOfAccount = db.prepare<'accountId' | 'kept'>((knex, value) =>
    table(knex)
      .where('accountId', value('accountId'))
      .whereNot('model', 'Consent')
      .whereNot('id', value('kept'))
      .delete(),
  );
  const forgetConsents = db.prepare<'accountId'>((knex, value) =>
    table(knex)
      .where({ accountId: value('accountId'), model: 'Consent' })
      .delete(),
  );
  // What has been consumed has a successor, which is listed in its place.
  const listRefreshTokens = db.prepare<'now'>((knex, value) =>
    knex('OidcToken as t')
      .select('t.payload', 't.grantId', 't.clientId', 't.accountId', 't.expiresAt', 't.lastUsedAt')
      .innerJoin('OidcToken as g', (join) => {
        join
          .on('g.id', '=', 't.grantId')
          .andOnVal('g.model', '=', 'Grant')
          .andOnVal('g.expiresAt', '>', value('now'));
      })
      .where({ 't.model': 'RefreshToken', 't.consumedAt': null })
      .andWhere('t.expiresAt', '>', value('now'))
      .orderBy(['t.accountId', 't.clientId', 't.expiresAt']),
  );

  return {
    /** The live row of this model under this value. */
    async find(model: string, value: string): Promise<StoredToken | undefined> {
      const { rows } = await find({ id: hashValue(value), model, now: now() });
      return toStored(rows[0]);
    },

    async findSession(uid: string): Promise<StoredToken | undefined> {
      const { rows } = await findSession({ uid, now: now() });
      return toStored(rows[0]);
    },

    /** A token by its value, whatever its model, and whether its grant is still there. One statement. */
    async findWithGrant(value: string): Promise<TokenStatus> {
      const { rows } = await findWithGrant({ id: hashValue(value), now: now() });
      const [row] = rows;
      return {
        token: toStored(row),
        grantIsThere: row !== undefined && (row.grantId === null || row.liveGrantId !== null),
      };
    },

    /** Whether a JWT has been revoked by itself, and whether its grant is still there. One statement. */
    async findRevocation(
      jwt: string,
      grantId: string,
    ): Promise<{ isRevoked: boolean; grantIsThere: boolean }> {
      const { rows } = await findEither({
        id: hashValue(signedPartOf(jwt)),
        grantId: hashValue(grantId),
        now: now(),
      });
      return {
        isRevoked: rows.some((row) => row.model === 'RevokedToken'),
        grantIsThere: rows.some((row) => row.model === 'Grant'),
      };
    },

    /** Inserts a row; false where one with this id is there already. */
    async insert(row: TokenRow): Promise<boolean> {
      try {
        await insert(row);
        return true;
      } catch (err) {
        if (isUniqueViolation(err)) return false;
        throw err;
      }
    },

    /** Replaces payload, account and end; false where there is no such row, or not in this version. */
    async replace(row: TokenRow, version?: number): Promise<boolean> {
      const { id, model, payload, accountId, expiresAt } = row;
      const values = { id, model, payload, accountId, expiresAt };
      const { count } =
        version === undefined ? await replace(values) : await replaceVersion({ ...values, version });
      return count > 0;
    },

    /** Notes the use of a row that has not been consumed, and moves its end. */
    async touch(model: string, value: string, expiresAt: number): Promise<void> {
      await touch({ id: hashValue(value), model, expiresAt, now: now() });
    },

    /** True for the one caller that consumed it. */
    async consume(model: string, value: string): Promise<boolean> {
      const { count } = await consume({ id: hashValue(value), model, now: now() });
      return count > 0;
    },

    /** True for the one caller that removed it. */
    async destroy(model: string, value: string): Promise<boolean> {
      const { count } = await destroy({ id: hashValue(value), model });
      return count > 0;
    },

    /** Removes a session by its stable identifier; undefined where it is there no more, else its document. */
    async endSession(uid: string): Promise<StoredToken | undefined> {
      const session = await this.findSession(uid);
      if (session === undefined) return undefined;
      const { count } = await destroySessions({ uid });
      return count > 0 ? session : undefined;
    },

    /** Remembers which session of ours rests on which elsewhere; `handle` and the session there find it again. */
    async saveUpstream(handle: string, { accountId, expiresAt, ...session }: UpstreamLink): Promise<void> {
      await this.insert({
        ...bareRow,
        id: hashValue(handle),
        model: 'UpstreamSession',
        payload: JSON.stringify(session),
        userCode: upstreamKey(session),
        accountId,
        expiresAt,
      });
    },

    async findUpstreamByHandle(handle: string): Promise<UpstreamReference | undefined> {
      const found = await this.find('UpstreamSession', handle);
      return found === undefined ? undefined : (JSON.parse(found.payload) as UpstreamReference);
    },

    /** Those of one session there, or all of an account. */
    async findUpstream(
      by: { issuer: string; sessionId: string } | { accountId: string },
    ): Promise<readonly UpstreamReference[]> {
      const userCode = 'sessionId' in by ? upstreamKey(by) : null;
      const accountId = 'accountId' in by ? by.accountId : null;
      const { rows } = await findUpstream({ userCode, accountId, now: now() });
      return rows.map((row) => JSON.parse(String(row.payload)) as UpstreamReference);
    },

    async destroyOfGrant(model: string, grantId: string): Promise<void> {
      await destroyOfGrant({ grantId: hashValue(grantId), model });
    },

    /** Ends a grant: its row and every code and token under it. One statement. */
    async revokeGrant(grantId: string): Promise<void> {
      await destroyGrant({ grantId: hashValue(grantId) });
    },

    /**
     * Ends all that signs an account in: sessions, grants, codes, tokens, and interactions that have got that
     * far, but for the one whose value is `kept`. Counts the rows.
     */
    async revokeAccount(accountId: string, { kept = '' }: { kept?: string } = {}): Promise<number> {
      const { count } = await destroyOfAccount({ accountId, kept: hashValue(kept) });
      return count;
    },

    /** Forgets what an account that is removed has consented to. */
    async forgetConsents(accountId: string): Promise<void> {
      await forgetConsents({ accountId });
    },

    /** True for the first use of a key until it ends; what may be used once asks here. One statement. */
    async useOnce(key: string, expiresAt: number): Promise<boolean> {
      const id = hashValue(`once\n${key}`);
      return this.insert({ ...bareRow, id, model: 'UsedOnce', expiresAt });
    },

    /**
     * True where the holder has the lease of this name from now until it ends: taken anew, extended, or taken over
     * from one that let it end. Of several that try at once one succeeds. One statement for who has it, two for
     * who has not, three for the very first.
     */
    async lease(
      name: string,
      { holder, expiresAt }: { holder: string; expiresAt: number },
    ): Promise<boolean> {
      const value = `lease\n${name}`;
      const id = hashValue(value);
      const { count } = await extend({ id, holder, expiresAt, now: now() });
      if (count > 0) return true;
      // Asked first: an insert that fails is an error in the log of the database.
      if ((await this.find('Lease', value)) !== undefined) return false;
      return this.insert({ ...bareRow, id, model: 'Lease', uid: holder, expiresAt });
    },

    /** Marks one JWT as revoked until it would have expired anyway. */
    async revokeJwt(
      jwt: string,
      { clientId, expiresAt }: { clientId: string; expiresAt: number },
    ): Promise<void> {
      const id = hashValue(signedPartOf(jwt));
      await this.insert({ ...bareRow, id, model: 'RevokedToken', clientId, expiresAt });
    },

    /** The scopes that an account allowed a client to have and asked us to remember; empty where none. */
    async findConsent(accountId: string, clientId: string): Promise<readonly string[]> {
      const found = await this.find('Consent', consentKey(accountId, clientId));
      return found === undefined ? [] : (JSON.parse(found.payload) as { scopes: string[] }).scopes;
    },

    async rememberConsent(accountId: string, clientId: string, scopes: readonly string[]): Promise<void> {
      const row: TokenRow = {
        ...bareRow,
        id: hashValue(consentKey(accountId, clientId)),
        model: 'Consent',
        payload: JSON.stringify({ scopes }),
        accountId,
        clientId,
        expiresAt: neverExpires,
      };
      if (!(await this.insert(row))) await this.replace(row);
    },

    /** Every sign-in that is good for a refresh at this moment, by account and client. One statement. */
    async listSignIns(): Promise<readonly LiveSignIn[]> {
      const { rows } = await listRefreshTokens({ now: now() });
      return rows.map(toSignIn);
    },
  };
}

/** Finds a session elsewhere in an indexed column; undefined sessions find nothing. */
function upstreamKey({
  issuer,
  sessionId,
}: {
  issuer: string;
  sessionId?: string | undefined;
}): string | null {
  return sessionId === undefined ? null : hashValue(`upstream\n${issuer}\n${sessionId}`);
}

/** The first second of the year 10000. */
const neverExpires = 253_402_300_800;

/** Account names and client ids hold no line break, so the two parts cannot run into each other. */
function consentKey(accountId: string, clientId: string): string {
  return `consent\n${accountId}\n${clientId}`;
}

function toSignIn(row: Row): LiveSignIn {
  const { grantId, iat, iiat, rotations } = JSON.parse(String(row.payload)) as {
    grantId: string;
    iat: number;
    /** When the first token of the family was issued. */
    iiat: number;
    /** How often the token has been replaced. */
    rotations?: number;
  };
  return {
    grantId,
    grantRowId: String(row.grantId),
    clientId: String(row.clientId),
    accountId: String(row.accountId),
    signedInAt: iiat,
    lastUsedAt: toNumber(row.lastUsedAt) ?? (rotations ? iat : undefined),
    expiresAt: Number(row.expiresAt),
  };
}

function toStored(row: Row | undefined): StoredToken | undefined {
  if (row === undefined) return undefined;
  return {
    model: String(row.model),
    payload: String(row.payload),
    accountId: row.accountId === null ? null : String(row.accountId),
    clientId: row.clientId === null ? null : String(row.clientId),
    expiresAt: Number(row.expiresAt),
    consumedAt: toNumber(row.consumedAt),
    version: Number(row.version),
  };
}
