/**
 * From what an identity provider vouches for to an account.
 *
 * At the first sign-in the name decides; from then on the link does (issuer and subject, OpenID Connect Core
 * section 5.7), and neither a new name nor a new owner of the old one changes it.
 */
import { createHash } from 'node:crypto';
import type { Knex } from 'knex';
import type { Audit } from '../audit.ts';
import { ownIssuers, ownSources } from '../config/checks.ts';
import type { Provider } from '../config/load.ts';
import { protocolClaims } from '../config/schema.ts';
import { ServerError } from '../errors.ts';
import { type Row, toNumber } from '../store/database.ts';
import { isUniqueViolation } from '../store/failures.ts';
import type { Account, Accounts, NewAccount } from './accounts.ts';

/** What is needed of whoever vouches for an identity: an identity provider, Windows, or a directory. */
export type IdentitySource = Pick<
  Provider,
  'AllowedAccounts' | 'ClaimMapping' | 'Domains' | 'Name' | 'ProvisionAccounts' | 'Type' | 'UserNameClaims'
>;

/** What is needed of a verified identity. */
export interface ExternalIdentity {
  readonly issuer: string;
  /**
   * What the issuer never gives to somebody else. Where it sends nothing of the kind: the type of the claim that
   * has the name, a line break, and the name in lower case. Undefined where nothing is to be linked: then the name
   * decides each time.
   */
  readonly subject: string | undefined;
  /** By type; for WS-Federation by short name as well. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
}

/** What a link is of. */
export type Linkable = Pick<ExternalIdentity, 'issuer'> & { readonly subject: string };

/** Whether it is ours, in any case of letters: nobody else's may be taken for it. */
function isOwn(issuer: string): boolean {
  return Object.values(ownIssuers).some((own) => own === issuer.toLowerCase());
}

/** Its names say nothing of those of the directory, nor the other way round. */
function isVerifier(issuer: string): boolean {
  return issuer.toLowerCase() === ownIssuers.passwordVerifier;
}

function isLinkable(identity: ExternalIdentity): identity is ExternalIdentity & Linkable {
  return identity.subject !== undefined;
}

/** Why an identity is nobody here; for the log. */
export type ExternalRefusal =
  | 'account-disabled'
  | 'account-not-allowed'
  | 'account-removed'
  | 'account-taken'
  | 'account-unknown'
  | 'client-account'
  | 'email-not-verified'
  | 'issuer-of-another'
  | 'name-missing'
  | 'name-unusable';

export type ExternalResult =
  | { readonly kind: 'accepted'; readonly account: Account }
  | { readonly kind: 'refused'; readonly reason: ExternalRefusal };

/** Whom an account is linked to. */
export interface AccountLink {
  readonly issuer: string;
  readonly subject: string;
  /** When a directory last said that all is well, in seconds since the epoch; undefined where none ever has. */
  readonly checkedAt: number | undefined;
}

export interface ExternalLogins {
  /** The account of an identity that has been verified, linked from now on. Two statements once it is. */
  resolve(
    provider: IdentitySource,
    identity: ExternalIdentity,
    rules: {
      /** Whether an account is for no person to sign in as. */
      isReserved: (name: string) => boolean;
      /** Whether an identity provider of this name is there to sign in with; none, unless given. */
      isProvider?: (name: string) => boolean;
      /** Whether an account is to be linked; each one, unless given. */
      mayLink?: (account: Account) => boolean;
    },
  ): Promise<ExternalResult>;
  /** The name, in lower case, of the account that an identity is linked to. */
  findLinked(identity: Linkable): Promise<string | undefined>;
  /** Whom an account is linked to that has no password of its own. One statement. */
  findLinks(accountName: string): Promise<readonly AccountLink[]>;
  /** Who vouches for each account that is linked, by its name in lower case. One statement. */
  listProviders(): Promise<ReadonlyMap<string, readonly string[]>>;
  /** Notes that the source has just said that all is well with an identity. One statement. */
  noteChecked(identity: Linkable): Promise<void>;
  /** Forgets whom an account is linked to, so that the name decides again; counts the links. */
  unlink(accountName: string): Promise<number>;
}

const table = 'OidcUserLogin';
/** The provider of a link that does not count yet. */
const unconfirmed = '';

/** Makes it over a database that has been migrated; `now` in seconds since the epoch. */
export function createExternalLogins({
  accounts,
  audit,
  db,
  now,
}: {
  accounts: Pick<Accounts, 'add' | 'find' | 'findByWindowsName'>;
  audit: Pick<Audit, 'record'>;
  db: Knex;
  now: () => number;
}): ExternalLogins {
  async function findLink({ issuer, subject }: Linkable) {
    const row = await db<Row>(table)
      .select('normalizedName', 'provider')
      .where({ id: linkId(issuer, subject) })
      .first();
    if (row === undefined || row.provider === unconfirmed) return undefined;
    return { normalizedName: String(row.normalizedName), provider: String(row.provider) };
  }

  /**
   * Links an identity to an account; false where somebody else is linked to it.
   *
   * A link counts when it is confirmed, by who has found nobody else beside it: of two identities that come at once
   * with one name, one gets the account, or none until the next time.
   */
  async function link(
    provider: IdentitySource,
    linkable: Linkable,
    { account, name }: { account: Account; name: string },
  ): Promise<boolean> {
    const { issuer, subject } = linkable;
    const normalizedName = account.name.toLowerCase();
    const id = linkId(issuer, subject);
    const row = { normalizedName, provider: unconfirmed, issuer, subject, createdAt: now() };
    try {
      await db(table).insert({ id, ...row });
    } catch (err) {
      // Another request of the same user was first, and came to the same account.
      if (!isUniqueViolation(err)) throw err;
    }
    const links = await db<Row>(table).select('id', 'issuer', 'subject').where({ normalizedName });
    const replaced = findReplaced(
      links.filter((one) => one.id !== id),
      { issuer, name },
    );
    if (replaced === undefined) {
      await db(table).where({ id, provider: unconfirmed }).delete();
      return false;
    }
    if (replaced.length > 0) await db(table).whereIn('id', replaced).delete();
    const count = await db(table).where({ id, normalizedName }).update({ provider: provider.Name });
    return count > 0;
  }

  /** The account that is there under a name; a Windows name may be another than the account's own. */
  async function findNamed({ claim, name }: UserName): Promise<Account | undefined> {
    const byWindowsName = isWindowsName(claim) ? await accounts.findByWindowsName(name) : undefined;
    return byWindowsName ?? accounts.find(name);
  }

  async function provision(
    provider: IdentitySource,
    identity: ExternalIdentity,
    name: string,
  ): Promise<Account | ExternalRefusal> {
    try {
      const account = await accounts.add(toNewAccount(provider, identity, name));
      const { accountId } = account;
      audit.record(
        ['account', 'success'],
        { accountId, identityProvider: provider.Name },
        'account provisioned',
      );
      return account;
    } catch (err) {
      if (!(err instanceof ServerError) || !err.expose) throw err;
      if (err.code === 'ERR_ACCOUNT_REMOVED') return 'account-removed';
      if (err.code !== 'ERR_ACCOUNT_EXISTS') return 'name-unusable';
      // Another request of the same user was first.
      return (await accounts.find(name)) ?? 'account-removed';
    }
  }

  return {
    async findLinked(identity) {
      return (await findLink(identity))?.normalizedName;
    },

    async findLinks(accountName) {
      const rows = await db<Row>(`${table} as login`)
        .select('login.issuer', 'login.subject', 'login.checkedAt')
        .innerJoin('OidcUser as user', 'user.normalizedName', 'login.normalizedName')
        .where({ 'login.normalizedName': accountName.toLowerCase(), 'user.passwordHash': null })
        .whereNot({ 'login.provider': unconfirmed });
      return rows.map(({ issuer, subject, checkedAt }) => ({
        issuer: String(issuer),
        subject: String(subject),
        checkedAt: toNumber(checkedAt) ?? undefined,
      }));
    },

    async listProviders() {
      const rows = await db<Row>(table)
        .distinct('normalizedName', 'provider')
        .whereNot({ provider: unconfirmed })
        .orderBy('provider');
      const providersOf = Map.groupBy(rows, ({ normalizedName }) => String(normalizedName));
      return new Map(
        [...providersOf].map(([name, found]) => [name, found.map(({ provider }) => String(provider))]),
      );
    },

    async noteChecked({ issuer, subject }) {
      await db(table)
        .where({ id: linkId(issuer, subject) })
        .update({ checkedAt: now() });
    },

    unlink: (accountName) => db(table).where({ normalizedName: accountName.toLowerCase() }).delete(),

    async resolve(provider, identity, { isReserved, isProvider = () => false, mayLink = () => true }) {
      if (identity.subject === '') return refused('name-missing');
      // What vouches for accounts in this server has names that nobody else may use.
      if (isOwn(identity.issuer) && !ownSources.includes(provider.Name)) return refused('issuer-of-another');
      const linkable = isLinkable(identity) ? identity : undefined;
      const linked = linkable && (await findLink(linkable));
      if (linked !== undefined) {
        // Two registrations of one issuer may have different rules: one does not sign in whom the other vouched for.
        if (linked.provider !== provider.Name && isProvider(linked.provider))
          return refused('issuer-of-another');
        if (isReserved(linked.normalizedName)) return refused('client-account');
        const account = await accounts.find(linked.normalizedName);
        if (account === undefined) return refused('account-removed');
        const result = judge(provider, account);
        if (result.kind === 'accepted' && linked.provider !== provider.Name) {
          const id = linkId(identity.issuer, identity.subject ?? '');
          await db(table).where({ id }).update({ provider: provider.Name });
        }
        return result;
      }
      const userName = findUserName(provider, identity.claims);
      if (typeof userName === 'string') return refused(userName);
      let account = await findNamed(userName);
      if (isReserved(account?.name ?? userName.name)) return refused('client-account');
      if (account === undefined) {
        if (!provider.ProvisionAccounts) return refused('account-unknown');
        if (!isAllowed(provider, userName.name)) return refused('account-not-allowed');
        const provisioned = await provision(provider, identity, userName.name);
        if (typeof provisioned === 'string') return refused(provisioned);
        account = provisioned;
      }
      const result = judge(provider, account);
      if (result.kind === 'refused' || linkable === undefined || !mayLink(account)) return result;
      // Where the name has gone to somebody else there, who is linked stays who is meant.
      const isLinked = await link(provider, linkable, { account, name: userName.name });
      return isLinked ? result : refused('account-taken');
    },
  };
}

/**
 * The links of an account that give way to a new one of the same issuer: those where the name stood for the
 * subject, and is still the same, since the issuer has begun to send a subject or another claim. Undefined where
 * somebody else is linked to the account. Pure.
 */
function findReplaced(
  links: readonly Row[],
  { issuer, name }: { readonly issuer: string; readonly name: string },
): readonly string[] | undefined {
  if (links.some((link) => isApart(issuer, String(link.issuer)))) return undefined;
  const others = links.filter((link) => link.issuer === issuer);
  const byName = others.filter((link) => {
    const [, named] = String(link.subject).split('\n');
    return named === name.toLowerCase();
  });
  return byName.length < others.length ? undefined : byName.map((link) => String(link.id));
}

/** Whether a name here and the same name there are different people's: the password verifier's and the directory's. */
function isApart(issuer: string, other: string): boolean {
  const areOurs = isOwn(issuer) && isOwn(other);
  return areOurs && isVerifier(issuer) !== isVerifier(other);
}

function refused(reason: ExternalRefusal): ExternalResult {
  return { kind: 'refused', reason };
}

function judge(provider: IdentitySource, account: Account): ExternalResult {
  if (!isAllowed(provider, account.name)) return refused('account-not-allowed');
  return account.disabled ? refused('account-disabled') : { kind: 'accepted', account };
}

/** The hash under which a link is kept; issuers are URIs and hold no line break. */
function linkId(issuer: string, subject: string): string {
  return createHash('sha256').update(`${issuer}\n${subject}`).digest('base64url');
}

interface UserName {
  readonly claim: string;
  readonly name: string;
}

/** The name that an identity claims, by the provider's `UserNameClaims`: the first that is there. Pure. */
export function findUserName(
  { Domains, Type, UserNameClaims }: Pick<IdentitySource, 'Domains' | 'Type' | 'UserNameClaims'>,
  claims: ReadonlyMap<string, readonly string[]>,
): UserName | ExternalRefusal {
  for (const claim of UserNameClaims) {
    const values = [...new Set(claims.get(claim))];
    if (values.length === 0) continue;
    const [name = ''] = values;
    // Several values would let the order of a list decide who it is, and look-alikes become somebody else's name.
    if (values.length > 1 || name === '' || name !== name.trim() || name !== name.normalize('NFKC'))
      return 'name-unusable';
    if (Type === 'Oidc' && claim === 'email') {
      const domain = name.slice(name.lastIndexOf('@') + 1).toLowerCase();
      const isOurs = Domains.some((ours) => ours.toLowerCase() === domain);
      const verified = claims.get('email_verified') ?? [];
      if (!isOurs || verified.length !== 1 || verified[0] !== 'true') return 'email-not-verified';
    }
    return { claim, name };
  }
  return 'name-missing';
}

function isWindowsName(claim: string): boolean {
  return /(^|\/)windowsaccountname$/i.test(claim);
}

/** Whether a name is among `AllowedAccounts`, where `*` stands for any characters; case does not matter. Pure. */
export function isAllowed(
  { AllowedAccounts }: Pick<IdentitySource, 'AllowedAccounts'>,
  name: string,
): boolean {
  if (AllowedAccounts.length === 0) return true;
  return AllowedAccounts.some((pattern) => matches(pattern.toLowerCase(), name.toLowerCase()));
}

/** Without a regular expression: a pattern is an operator's, but the name is anybody's. */
function matches(pattern: string, name: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  if (rest.length === 0) return pattern === name;
  const last = rest.pop() ?? '';
  if (!name.startsWith(first) || !name.endsWith(last) || name.length < first.length + last.length)
    return false;
  let at = first.length;
  const end = name.length - last.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}

/** A new account from the claims, by the provider's `ClaimMapping`. */
function toNewAccount(
  { ClaimMapping }: IdentitySource,
  { claims }: ExternalIdentity,
  name: string,
): NewAccount {
  const mapped = Object.entries({ ...defaultMapping, ...ClaimMapping })
    .map(([target, source]) => [target, claims.get(source) ?? []] as const)
    .filter(([target, values]) => values.length > 0 && !protocolClaims.has(target));
  const valuesOf = (target: string) => mapped.find(([own]) => own === target)?.[1];
  const further = mapped.filter(([target]) => !['name', 'email', 'role'].includes(target));
  return {
    name,
    displayName: valuesOf('name')?.[0]?.slice(0, 255),
    email: valuesOf('email')?.[0]?.slice(0, 320),
    roles: valuesOf('role'),
    claims: Object.fromEntries(
      further.map(([target, values]) => [target, values.length === 1 ? (values[0] ?? '') : values]),
    ),
  };
}

/** What is taken over unless the operator says otherwise; roles only where he does. */
const defaultMapping: Readonly<Record<string, string>> = {
  name: 'name',
  email: 'email',
  given_name: 'given_name',
  family_name: 'family_name',
};
