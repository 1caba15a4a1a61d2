/**
 * The accounts: rows of `OidcUser`, found by name without regard to case.
 *
 * The stored spelling of the name is `sub`, never the one that was typed. OpenID Connect Core section 2 limits
 * `sub` to 255 ASCII characters, so other names cannot be accounts. A removed account leaves a tombstone that
 * holds its name against creation, provisioning and seeding alike: who owned it elsewhere (in the Web API, in a
 * client's tables) is not there to be inherited.
 */
import { createHash } from 'node:crypto';
import type { Knex } from 'knex';
import type { Configuration } from '../config/load.ts';
import { protocolClaims } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import { prepareStatement, type Row, toNumber } from '../store/database.ts';
import { isUniqueViolation } from '../store/failures.ts';
import type { Tracing } from '../tracing.ts';
import {
  createPasswords,
  isUsableHash,
  type PasswordProblem,
  type Passwords,
  unacceptable,
} from './passwords.ts';

export type Claims = Readonly<Record<string, string | readonly string[]>>;

export interface Account {
  /** The name in its stored spelling; `sub` in every token. */
  readonly accountId: string;
  readonly name: string;
  readonly displayName?: string;
  readonly email?: string;
  readonly claims: Claims;
  readonly roles: readonly string[];
  /** `DOMAIN\user`, for sign-in by Windows. */
  readonly windowsName?: string;
  readonly disabled: boolean;
  readonly mustChangePassword: boolean;
  /** Whether it has a password of its own here. */
  readonly hasPassword: boolean;
  /** Another one as soon as the password is set, or the account is disabled, enabled or removed. */
  readonly stamp: string;
}

export interface NewAccount {
  name: string;
  displayName?: string | undefined;
  email?: string | undefined;
  /** Without one the account cannot sign in by password. */
  password?: string | undefined;
  /** In place of the password, as another program has kept it. */
  passwordHash?: string | undefined;
  claims?: Claims | undefined;
  roles?: readonly string[] | undefined;
  /** The name itself unless given, where that is of the form `DOMAIN\user`. */
  windowsName?: string | undefined;
  disabled?: boolean | undefined;
  mustChangePassword?: boolean | undefined;
}

/** What became of a name and a password. `reason` is for the log: the user learns only that they do not match. */
export type CredentialsResult =
  | { readonly kind: 'accepted'; readonly account: Account }
  | {
      readonly kind: 'must-change';
      readonly account: Account;
      /** Stands for the password that was right, for {@link Accounts.setPassword}. */
      readonly proof: string;
    }
  | {
      readonly kind: 'refused';
      readonly reason: 'disabled' | 'no-password' | 'password' | 'unknown';
      /** Where there is an account; for the log. */
      readonly accountId?: string;
    };

/** What an account has from where its identity comes from. */
export interface AccountFacts {
  readonly displayName?: string | undefined;
  readonly email?: string | undefined;
  /** Undefined where nothing is said of roles. */
  readonly roles?: readonly string[] | undefined;
}

type DemoAccount = Configuration['demoAccounts'][number];

export interface Accounts {
  /** The account of this name, disabled or not; undefined for one that is unknown or removed. One statement. */
  find(name: string): Promise<Account | undefined>;

  /** The account whose Windows name this is, as {@link find}. One statement. */
  findByWindowsName(windowsName: string): Promise<Account | undefined>;

  /**
   * Whether the account is as it was when it had this stamp. To be asked when everything that a sign-in writes has
   * been written: what ended the account's sessions a moment earlier did not see it. One statement.
   */
  isUnchanged(name: string, stamp: string): Promise<boolean>;

  /** As {@link find}; throws ERR_ACCOUNT_UNKNOWN, status 404, or ERR_ACCOUNT_REMOVED, status 409. */
  get(name: string): Promise<Account>;

  /**
   * Verifies a password in one statement, and in the same time whatever comes of it.
   *
   * `must-change` is a right password that is good for nothing but setting another.
   */
  verifyCredentials(name: string, password: string): Promise<CredentialsResult>;

  /**
   * Adds an account. Of two that add one name at once, one succeeds.
   *
   * @throws {ServerError} ERR_ACCOUNT_NAME_INVALID, ERR_ACCOUNT_EXISTS, ERR_ACCOUNT_REMOVED,
   * ERR_PASSWORD_UNACCEPTABLE, ERR_REQUEST_INVALID for another member; each with a status below 500
   */
  add(account: NewAccount): Promise<Account>;

  /**
   * Adds accounts, all or none, as {@link add} does but for the rules of new passwords. Returns what is wrong with
   * them, by their place in the list; with `isTrial` it adds none in any case.
   */
  addAll(
    accounts: readonly NewAccount[],
    options?: { isTrial?: boolean },
  ): Promise<readonly { readonly index: number; readonly error: ServerError }[]>;

  /**
   * Sets the password and returns the account. Its grants and sessions are for the caller to end.
   *
   * @throws {ServerError} ERR_ACCOUNT_UNKNOWN, ERR_ACCOUNT_REMOVED, ERR_PASSWORD_UNACCEPTABLE
   */
  setPassword(
    name: string,
    password: string,
    options?: {
      mustChange?: boolean;
      /** The proof of a `must-change` result: refused with ERR_FORM_EXPIRED where the password is another by now. */
      instead?: string;
    },
  ): Promise<Account>;

  /**
   * Has the account say what its source says now, and returns it. The facts are those of {@link toUsableFacts}.
   * One statement, and none where nothing differs; the stamp stays.
   */
  follow(account: Account, facts: AccountFacts): Promise<Account>;

  /**
   * Disables or enables the account and returns it. Its grants and sessions are for the caller to end.
   *
   * @throws {ServerError} ERR_ACCOUNT_UNKNOWN, ERR_ACCOUNT_REMOVED
   */
  setDisabled(name: string, disabled: boolean): Promise<Account>;

  /**
   * Removes the account for good, clears all that was known of it, and returns it as it was. Its grants and
   * sessions are for the caller to end.
   *
   * @throws {ServerError} ERR_ACCOUNT_UNKNOWN, ERR_ACCOUNT_REMOVED
   */
  remove(name: string): Promise<Account>;

  /** Every account by name; removed ones are not among them. */
  list(): Promise<readonly Account[]>;

  /**
   * Adds the accounts of config/accounts.json, all or none, where the table has never held an account (a removed
   * one leaves its tombstone), and returns the names that it added. Of two processes, one adds them.
   */
  seed(demoAccounts: readonly DemoAccount[]): Promise<readonly string[]>;
}

/** Names a password hash without being one. */
function proofOf(passwordHash: string): string {
  return createHash('sha256').update(passwordHash).digest('base64url');
}

function overtaken(): ServerError {
  return new ServerError('ERR_FORM_EXPIRED', 'the password has been changed in the meantime', {
    status: 409,
  });
}

const table = 'OidcUser';
const columns = [
  ...['normalizedName', 'name', 'displayName', 'email', 'passwordHash', 'claims', 'roles', 'windowsName'],
  ...[
    'disabled',
    'mustChangePassword',
    'createdAt',
    'updatedAt',
    'removedAt',
    'passwordMark',
    'passwordHistory',
  ],
];
/** SQL Server takes 2100 values in one statement. */
const rowsAtOnce = 50;
const maximumLength = { name: 255, displayName: 255, email: 320 };

interface Needs {
  /** Of a database that has been migrated. */
  readonly db: Knex;
  /** Seconds since the epoch. */
  readonly now: () => number;
  readonly passwords?: Passwords;
  readonly tracing?: Pick<Tracing, 'within'> | undefined;
}

/** Makes the accounts. */
export function createAccounts({ db, now, passwords = createPasswords(), tracing }: Needs): Accounts {
  const hashing = <T>(work: () => Promise<T>) =>
    tracing === undefined ? work() : tracing.within({ name: 'hash password' }, work);

  // Asked for nearly every request of a user. By their names: a statement that is prepared must not change its columns.
  const findByName = prepareStatement<'normalizedName'>(db, (knex, value) =>
    knex(table)
      .select(...columns)
      .where({ normalizedName: value('normalizedName') }),
  );

  async function findRow(name: string): Promise<Row | undefined> {
    const normalizedName = normalizeName(name);
    if (normalizedName === undefined) return undefined;
    const { rows } = await findByName({ normalizedName });
    return rows[0];
  }

  async function getRow(name: string): Promise<Row> {
    const row = await findRow(name);
    if (row === undefined) {
      throw new ServerError('ERR_ACCOUNT_UNKNOWN', `there is no account ${JSON.stringify(name)}`, {
        status: 404,
      });
    }
    if (isRemoved(row)) throw removed(name);
    return row;
  }

  /** Changes the row of an account that is there, and returns it as it was; the condition decides against a removal at the same time. */
  async function change(
    name: string,
    values: Record<string, unknown>,
    condition: Record<string, unknown> = {},
  ): Promise<Row> {
    const before = await getRow(name);
    const count = await db(table)
      .where({ normalizedName: before.normalizedName, removedAt: null, ...condition })
      .update({ ...values, updatedAt: now() });
    if (count === 0) throw Object.keys(condition).length === 0 ? removed(name) : overtaken();
    return before;
  }

  /** The condition that nobody has changed the password, or disabled the account, since the proof was given. */
  async function stillHolds(name: string, proof: string): Promise<Record<string, unknown>> {
    const { passwordHash } = await getRow(name);
    if (typeof passwordHash !== 'string' || proofOf(passwordHash) !== proof) throw overtaken();
    return { passwordHash, disabled: false };
  }

  /** The same password in a hash of today. Whoever sets another one meanwhile is not undone. */
  async function renewHash(row: Row, stored: string, password: string): Promise<void> {
    const passwordHash = await passwords.hash(password);
    await db(table)
      .where({ normalizedName: row.normalizedName, passwordHash: stored })
      .update({ passwordHash, passwordMark: markOf(row) });
  }

  /** The hashes that are remembered when the present password is replaced; refuses one of those. */
  async function extendHistory(row: Row, password: string, length: number): Promise<string> {
    const before = JSON.parse(String(row.passwordHistory ?? '[]')) as string[];
    const present = typeof row.passwordHash === 'string' ? [row.passwordHash] : [];
    const history = [...present, ...before].slice(0, length);
    for (const hash of history) {
      if (!(await passwords.verify(hash, password))) continue;
      throw unacceptable({ kind: 'used' });
    }
    return JSON.stringify(history);
  }

  /** Sign-in by Windows must lead to one account. The column has no unique key: most accounts have none. */
  async function refuseTakenWindowsName(
    normalizedWindowsName?: string,
    normalizedName?: string,
  ): Promise<void> {
    const [row] = await db<Row>(table).where({ normalizedWindowsName }).whereNot({ normalizedName }).limit(1);
    if (row === undefined) return;
    const { name, windowsName } = toAccount(row);
    throw new ServerError(
      'ERR_ACCOUNT_EXISTS',
      `the Windows name ${JSON.stringify(windowsName)} belongs to the account ${JSON.stringify(name)} already`,
      { status: 409 },
    );
  }

  /** A new account, checked, and its row; nothing is written. */
  async function prepare({ password, passwordHash, ...given }: NewAccount) {
    const parsed = parseAccount(given);
    const at = now();
    if (passwordHash !== undefined && !isUsableHash(passwordHash)) {
      throw new ServerError('ERR_REQUEST_INVALID', 'the hash of the password is of no kind that is known', {
        status: 400,
        hint: 'argon2id as a PHC string, bcrypt, ASP.NET Identity 2 and 3, {SSHA}, {SSHA256} and {SSHA512} are',
      });
    }
    const row = {
      normalizedName: parsed.name.toLowerCase(),
      name: parsed.name,
      displayName: parsed.displayName ?? null,
      email: parsed.email ?? null,
      passwordHash:
        password === undefined ? (passwordHash ?? null) : await hashing(() => passwords.hash(password)),
      passwordMark: null,
      passwordHistory: null,
      claims: JSON.stringify(parsed.claims),
      roles: JSON.stringify(parsed.roles),
      windowsName: parsed.windowsName ?? null,
      normalizedWindowsName: parsed.windowsName?.toLowerCase() ?? null,
      disabled: parsed.disabled,
      mustChangePassword: parsed.mustChangePassword,
      createdAt: at,
      updatedAt: at,
      removedAt: null,
    };
    return { account: { ...parsed, hasPassword: row.passwordHash !== null, stamp: stampOf(row) }, row };
  }

  const accounts: Accounts = {
    async find(name) {
      const row = await findRow(name);
      return row === undefined || isRemoved(row) ? undefined : toAccount(row);
    },

    async findByWindowsName(windowsName) {
      const row = await db<Row>(table).where({ normalizedWindowsName: windowsName.toLowerCase() }).first();
      return row === undefined || isRemoved(row) ? undefined : toAccount(row);
    },

    async isUnchanged(name, stamp) {
      const row = await findRow(name);
      return row !== undefined && stampOf(row) === stamp;
    },

    async get(name) {
      return toAccount(await getRow(name));
    },

    async verifyCredentials(name, password) {
      const row = await findRow(name);
      const stored = row?.passwordHash;
      const known = typeof stored === 'string' ? stored : undefined;
      const isRight = await hashing(() => passwords.verify(known, password));

      if (row === undefined || isRemoved(row)) return { kind: 'refused', reason: 'unknown' };
      const account = toAccount(row);
      const { accountId } = account;
      if (account.disabled) return { kind: 'refused', reason: 'disabled', accountId };
      if (typeof stored !== 'string') return { kind: 'refused', reason: 'no-password', accountId };
      if (!isRight) return { kind: 'refused', reason: 'password', accountId };
      if (account.mustChangePassword) return { kind: 'must-change', account, proof: proofOf(stored) };
      if (passwords.isOutdated(stored)) await renewHash(row, stored, password);
      return { kind: 'accepted', account };
    },

    async add(given) {
      if (given.password !== undefined) passwords.check(given.password, wordsOf(given));
      const { account, row } = await prepare(given);
      const { normalizedName, normalizedWindowsName } = row;
      if (normalizedWindowsName !== null) await refuseTakenWindowsName(normalizedWindowsName, normalizedName);
      try {
        await db(table).insert(row);
      } catch (err) {
        if (!isUniqueViolation(err)) throw err;
        const taken = await findRow(account.name);
        if (taken !== undefined && isRemoved(taken)) throw removed(account.name);
        throw exists(account.name, 'is there already');
      }
      return account;
    },

    async addAll(given, { isTrial = false } = {}) {
      const refused: { index: number; error: ServerError }[] = [];
      const rows: Awaited<ReturnType<typeof prepare>>['row'][] = [];
      const taken = new Set<string>();
      for (const [index, one] of given.entries()) {
        try {
          const { row } = await prepare(one);
          for (const key of [
            row.normalizedName,
            `windows ${row.normalizedWindowsName ?? row.normalizedName}`,
          ]) {
            if (!taken.has(key)) taken.add(key);
            else throw exists(one.name, 'comes twice');
          }
          const present = await findRow(one.name);
          if (present !== undefined && isRemoved(present)) throw removed(one.name);
          if (present !== undefined) throw exists(one.name, 'is there already');
          if (row.normalizedWindowsName !== null) {
            await refuseTakenWindowsName(row.normalizedWindowsName, row.normalizedName);
          }
          rows.push(row);
        } catch (err) {
          if (!(err instanceof ServerError) || !err.expose) throw err;
          refused.push({ index, error: err });
        }
      }
      if (refused.length > 0 || isTrial) return refused;
      await db.transaction(async (transaction) => {
        for (let at = 0; at < rows.length; at += rowsAtOnce) {
          await transaction(table).insert(rows.slice(at, at + rowsAtOnce));
        }
      });
      return [];
    },

    async setPassword(name, password, { mustChange = false, instead } = {}) {
      const { History } = passwords.settings;
      passwords.check(password, [name]);
      const passwordHistory =
        History === 0 ? null : await extendHistory(await getRow(name), password, History);
      const passwordHash = await hashing(() => passwords.hash(password));
      const condition = instead === undefined ? {} : await stillHolds(name, instead);
      const values = { passwordHash, passwordMark: null, passwordHistory, mustChangePassword: mustChange };
      return toAccount({ ...(await change(name, values, condition)), ...values });
    },

    async follow(account, { displayName, email, roles = account.roles }) {
      const isSame =
        displayName === account.displayName &&
        email === account.email &&
        JSON.stringify(roles) === JSON.stringify(account.roles);
      if (isSame) return account;
      await db(table)
        .where({ normalizedName: account.name.toLowerCase(), removedAt: null })
        .update({
          displayName: displayName ?? null,
          email: email ?? null,
          roles: JSON.stringify(roles),
          updatedAt: now(),
        });
      const { displayName: _before, email: _old, ...rest } = account;
      return {
        ...rest,
        ...(displayName === undefined ? undefined : { displayName }),
        ...(email === undefined ? undefined : { email }),
        roles,
      };
    },

    async setDisabled(name, disabled) {
      return toAccount({ ...(await change(name, { disabled })), disabled });
    },

    async remove(name) {
      const before = await change(name, {
        name: null,
        displayName: null,
        email: null,
        passwordHash: null,
        passwordMark: null,
        passwordHistory: null,
        claims: '{}',
        roles: '[]',
        windowsName: null,
        normalizedWindowsName: null,
        disabled: true,
        mustChangePassword: false,
        removedAt: now(),
      });
      const normalizedName = normalizeName(name);
      await db('OidcUserLogin').where({ normalizedName }).delete();
      await db('OidcLastUse')
        .whereIn('kind', ['account', 'sign-in'])
        .where({ name: normalizedName })
        .delete();
      return toAccount(before);
    },

    async list() {
      const rows = await db<Row>(table).where({ removedAt: null }).orderBy('normalizedName');
      return rows.map(toAccount);
    },

    async seed(demoAccounts) {
      const isEmpty = (await db(table).select('normalizedName').first()) === undefined;
      if (!isEmpty || demoAccounts.length === 0) return [];
      const prepared = await Promise.all(demoAccounts.map((demo) => prepare(toNewAccount(demo))));
      try {
        // One statement: a process that is killed here leaves an empty table, and the next start begins anew.
        await db(table).insert(prepared.map(({ row }) => row));
      } catch (err) {
        // Another process was first.
        if (isUniqueViolation(err)) return [];
        throw err;
      }
      return prepared.map(({ account }) => account.name);
    },
  };
  return accounts;
}

/**
 * Sets the password that somebody chose who had to; `proof` is that of the `must-change` result.
 *
 * @throws {ServerError} as {@link Accounts.setPassword}, but for an unacceptable password
 */
export async function changePassword(
  accounts: Pick<Accounts, 'setPassword' | 'verifyCredentials'>,
  { accountId, proof }: { readonly accountId: string; readonly proof: string },
  { newPassword = '', repeatPassword = '' }: Readonly<Record<string, string>>,
): Promise<{ kind: 'changed'; account: Account } | { kind: 'refused'; problem: PasswordProblem }> {
  if (newPassword !== repeatPassword) return { kind: 'refused', problem: { kind: 'different' } };
  if ((await accounts.verifyCredentials(accountId, newPassword)).kind !== 'refused') {
    return { kind: 'refused', problem: { kind: 'same' } };
  }
  try {
    const account = await accounts.setPassword(accountId, newPassword, { instead: proof });
    return { kind: 'changed', account };
  } catch (err) {
    if (!(err instanceof ServerError) || err.code !== 'ERR_PASSWORD_UNACCEPTABLE') throw err;
    return { kind: 'refused', problem: err.cause as PasswordProblem };
  }
}

/**
 * The claims of an account in OpenID Connect's names (Core section 5.1). Pure.
 *
 * The account's own claims stand beside and before those that its members give, but for `sub`; those that the
 * protocol itself writes into a token are left out. A claim that is no text by its definition has its type:
 * `email_verified` and `phone_number_verified` are booleans, `address` is an object.
 */
export function toClaims(account: Account): Record<string, unknown> {
  const { accountId, name, displayName, email, claims, roles } = account;
  const own = Object.entries(claims)
    .filter(([claim]) => !protocolClaims.has(claim))
    .map(([claim, value]) => [claim, toTyped(claim, value)]);
  return {
    name: displayName ?? name,
    preferred_username: name,
    ...(email === undefined ? undefined : { email, email_verified: false }),
    ...(roles.length === 0 ? undefined : { role: [...roles] }),
    ...Object.fromEntries(own),
    sub: accountId,
  };
}

function toTyped(claim: string, value: string | readonly string[]): unknown {
  if (typeof value !== 'string') return [...value];
  if (claim === 'email_verified' || claim === 'phone_number_verified') return value === 'true';
  return claim === 'address' ? { formatted: value } : value;
}

function toNewAccount(demo: DemoAccount): NewAccount {
  return {
    name: demo.Name,
    displayName: demo.DisplayName,
    email: demo.Email,
    password: demo.Password,
    claims: demo.Claims,
    roles: demo.Roles,
    windowsName: demo.WindowsName,
    disabled: demo.Disabled,
    mustChangePassword: demo.MustChangePassword,
  };
}

/** Checks what is given of a new account; the result is what {@link Accounts.find} will return. */
function parseAccount(given: Omit<NewAccount, 'password'>): Omit<Account, 'hasPassword' | 'stamp'> {
  const {
    name,
    displayName,
    email,
    claims = {},
    roles = [],
    disabled = false,
    mustChangePassword = false,
  } = given;
  refuseInvalidName(name, 'the account name');
  const windowsName = given.windowsName ?? (name.includes('\\') ? name : undefined);
  if (windowsName !== undefined) {
    refuseInvalidName(windowsName, 'the Windows name');
    if (!windowsName.includes('\\'))
      throw invalid('the Windows name', windowsName, 'is not of the form DOMAIN\\user');
  }

  const refuse = (what: string, value: unknown, problem: string) => {
    throw new ServerError('ERR_REQUEST_INVALID', `${what} ${JSON.stringify(value)} ${problem}`, {
      status: 400,
    });
  };
  for (const [what, value, longest] of [
    ['the display name', displayName, maximumLength.displayName],
    ['the e-mail address', email, maximumLength.email],
  ] as const) {
    if (value === undefined) continue;
    if (value.trim() === '') refuse(what, value, 'is empty');
    if (value.length > longest)
      refuse(what, `${value.slice(0, 20)}…`, `is longer than ${longest} characters`);
    if (isUnprintable(value)) refuse(what, value, 'holds a control character');
  }
  if (email !== undefined && !isEmailAddress(email)) refuse('the e-mail address', email, 'is none');
  for (const role of roles)
    if (role === '' || isUnprintable(role)) refuse('the role', role, 'is empty or unprintable');
  for (const [claim, value] of Object.entries(claims)) {
    if (claim === '' || isUnprintable(claim)) refuse('the claim', claim, 'is empty or unprintable');
    if (protocolClaims.has(claim)) refuse('the claim', claim, 'is written by Postern itself');
    if ([value].flat().some(isUnprintable))
      refuse('the claim', claim, 'has a control character in its value');
  }

  return {
    accountId: name,
    name,
    ...(displayName === undefined ? undefined : { displayName }),
    ...(email === undefined ? undefined : { email }),
    claims,
    roles: [...roles],
    ...(windowsName === undefined ? undefined : { windowsName }),
    disabled,
    mustChangePassword,
  };
}

/** What of the facts an account can have, the roles in their order and once each. Pure. */
export function toUsableFacts({ displayName, email, roles }: AccountFacts): AccountFacts {
  const usable = (text: string | undefined, longest: number) => {
    const trimmed = text?.trim() ?? '';
    return trimmed === '' || trimmed.length > longest || isUnprintable(trimmed) ? undefined : trimmed;
  };
  const address = usable(email, maximumLength.email);
  return {
    displayName: usable(displayName, maximumLength.displayName),
    email: address !== undefined && isEmailAddress(address) ? address : undefined,
    roles:
      roles &&
      [...new Set(roles.map((role) => role.trim()))]
        .filter((role) => role !== '' && !isUnprintable(role))
        .sort(),
  };
}

function isEmailAddress(text: string): boolean {
  return /^[^\s@]+@[^\s@]+$/.test(text);
}

/** True where the text holds what XML 1.0 cannot: control characters, but for line breaks and tabs, or half a character. */
function isUnprintable(text: string): boolean {
  return !text.isWellFormed() || /[\uFFFE\uFFFF]|[^\P{Cc}\t\n\r]/u.test(text);
}

function refuseInvalidName(name: string, what: string): void {
  const problem = findProblem(name);
  if (problem !== undefined) throw invalid(what, name, problem);
}

function invalid(what: string, name: string, problem: string): ServerError {
  const shown = name.length > 60 ? `${name.slice(0, 60)}…` : name;
  return new ServerError('ERR_ACCOUNT_NAME_INVALID', `${what} ${JSON.stringify(shown)} ${problem}`, {
    status: 400,
    hint: 'a name has 1 to 255 printable ASCII characters, and may be of the form DOMAIN\\user',
  });
}

/** What is wrong with a name; undefined for a good one. */
function findProblem(name: string): string | undefined {
  if (name === '') return 'is empty';
  if (name.length > maximumLength.name) {
    return `is longer than ${maximumLength.name} characters, the limit of "sub" in OpenID Connect Core section 2`;
  }
  if (/\p{Cc}/u.test(name)) return 'holds a control character';
  if (!/^[\x20-\x7e]+$/.test(name)) {
    return 'holds a character outside ASCII, which "sub" must not (OpenID Connect Core section 2)';
  }
  if (name !== name.trim()) return 'begins or ends with a space';
  const parts = name.split('\\');
  if (parts.length > 2) return 'holds more than one backslash';
  if (parts.some((part) => part === '')) return 'has nothing on one side of its backslash';
  if (parts.some((part) => /^\.{1,2}$/.test(part))) return 'is a path, not a name';
  // Windows and SQL Server drop them from the end, so that two names would be one there.
  if (parts.some((part) => /[. ]$/.test(part))) return 'ends with a dot or a space';
  return undefined;
}

/**
 * The form by which names are compared: NFKC, so that full-width letters of an East Asian keyboard match, and
 * lower case. Undefined for what cannot be a name and therefore need not be looked up.
 */
function normalizeName(name: string): string | undefined {
  // NFKC can make one character eighteen; nothing that long was a name before.
  if (name.length > maximumLength.name) return undefined;
  const normalized = name.normalize('NFKC').toLowerCase();
  return findProblem(normalized) === undefined ? normalized : undefined;
}

function exists(name: string, problem: string): ServerError {
  return new ServerError('ERR_ACCOUNT_EXISTS', `the account ${JSON.stringify(name)} ${problem}`, {
    status: 409,
    hint: 'names are the same whatever their case',
  });
}

function removed(name: string): ServerError {
  return new ServerError('ERR_ACCOUNT_REMOVED', `the account ${JSON.stringify(name)} was removed`, {
    status: 409,
    hint: 'a removed name is not given away again; choose another',
  });
}

function isRemoved(row: Row): boolean {
  return row.removedAt !== null;
}

function toAccount(row: Row): Account {
  const name = String(row.name);
  const text = (column: string) => (typeof row[column] === 'string' ? { [column]: row[column] } : undefined);
  return {
    accountId: name,
    name,
    ...text('displayName'),
    ...text('email'),
    claims: JSON.parse(String(row.claims)) as Claims,
    roles: JSON.parse(String(row.roles)) as string[],
    ...text('windowsName'),
    // 0 and 1 on SQLite.
    disabled: Boolean(row.disabled),
    mustChangePassword: Boolean(row.mustChangePassword),
    hasPassword: typeof row.passwordHash === 'string',
    stamp: stampOf(row),
  };
}

/** Says nothing of the password to whoever sees it. */
function stampOf(row: Row): string {
  const state = JSON.stringify([markOf(row), Boolean(row.disabled), toNumber(row.removedAt)]);
  return createHash('sha256').update(state).digest('base64url').slice(0, 22);
}

/** Stands for a password, however often its hash is made anew; null without one. */
function markOf({ passwordHash, passwordMark }: Row): string | null {
  if (typeof passwordMark === 'string') return passwordMark;
  return typeof passwordHash === 'string' ? proofOf(passwordHash) : null;
}

/** What everybody would try who knows whose the password is. */
function wordsOf({ displayName, email, name }: NewAccount): string[] {
  return [name, displayName, email].filter((word) => word !== undefined);
}
