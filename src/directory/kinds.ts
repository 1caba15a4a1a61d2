/**
 * In what Active Directory differs from OpenLDAP: how users are named and told apart for good, what says that one
 * is disabled, how groups nest, what a refused bind means, and how a password is changed.
 */
import {
  Attribute,
  BerWriter,
  Change,
  type Client,
  type Entry,
  EqualityFilter,
  ExtensibleFilter,
  type Filter,
  OrFilter,
  ResultCodeError,
  type SearchOptions,
  SizeLimitExceededError,
} from 'ldapts';
import type { SourceChange } from '../accounts/credentials.ts';
import { ownIssuers } from '../config/checks.ts';
import { type DirectoryHost, UnusableEntryError } from './hosts.ts';

/** What a directory says against a bind of somebody who is there. */
export type BindRefusal =
  /** The password is right, and good for nothing but setting another. */
  | { readonly kind: 'must-change'; readonly reason: string }
  | { readonly kind: 'refused'; readonly reason: string };

export interface DirectoryKind {
  /** Of the links of its users. */
  readonly issuer: string;
  readonly nameAttribute: string;
  readonly userFilter: string;
  /** The attribute that is never given to another entry. */
  readonly subjectAttribute: string;
  toSubject(value: Buffer | string): string;
  toSubjectFilter(subject: string): Filter;
  /** What is read of a user beside name and subject. */
  readonly attributes: readonly string[];
  /** Why somebody who is there may not go on; undefined where nothing is said. @param now seconds since the epoch */
  findEnd(entry: Entry, now: number): 'disabled' | 'expired' | undefined;
  /** Whether the entry itself says that the password must be changed. */
  mustChange(entry: Entry): boolean;
  explainRefusal(err: ResultCodeError): BindRefusal;
  /** The groups of a user, nested ones too; `isCut` where there are more than are read. */
  findGroups(
    client: Client,
    search: { readonly userDn: string; readonly baseDn: string; readonly attribute: string },
  ): Promise<{ readonly groups: readonly Entry[]; readonly isCut: boolean }>;
  changePassword(
    host: DirectoryHost,
    change: { readonly dn: string; readonly current: string; readonly next: string },
  ): Promise<SourceChange>;
}

const mostGroups = 1000;
/** Searches for the groups of one user: each level of groups within groups takes one, and more than 50 groups more. */
const mostSearches = 100;
/** Members that one search asks for. */
const batchSize = 50;
/** Small, since of a page that a limit of the directory cuts off nothing is read. */
const pageSize = 100;
const invalidCredentials = 49;

/** What Active Directory puts behind `data` in the message of a refused bind. */
const subCodes: Readonly<Record<string, BindRefusal>> = {
  '525': { kind: 'refused', reason: 'unknown-in-directory' },
  '52e': { kind: 'refused', reason: 'password' },
  '530': { kind: 'refused', reason: 'outside-logon-hours' },
  '531': { kind: 'refused', reason: 'workstation-not-allowed' },
  '532': { kind: 'must-change', reason: 'password-expired' },
  '533': { kind: 'refused', reason: 'disabled-in-directory' },
  '701': { kind: 'refused', reason: 'expired-in-directory' },
  '773': { kind: 'must-change', reason: 'password-must-change' },
  '775': { kind: 'refused', reason: 'locked-in-directory' },
};

/** `ACCOUNTDISABLE` of userAccountControl. */
const disabledFlag = 0x2;
/** Between the epochs of FILETIME, 1601, and ours, in seconds. */
const fileTimeEpoch = 11_644_473_600n;

const activeDirectory: DirectoryKind = {
  // That of sign-in by Windows, which knows the same identifiers.
  issuer: ownIssuers.windows,
  nameAttribute: 'sAMAccountName',
  userFilter:
    '(&(objectCategory=person)(objectClass=user)(|(sAMAccountName={name})(userPrincipalName={name})))',
  subjectAttribute: 'objectSid',
  toSubject: (value) => toSidText(Buffer.isBuffer(value) ? value : Buffer.from(value)),
  toSubjectFilter: (sid) => new EqualityFilter({ attribute: 'objectSid', value: toSidBytes(sid) }),
  attributes: ['displayName', 'mail', 'userAccountControl', 'accountExpires'],
  mustChange: () => false,

  findEnd(entry, now) {
    if ((Number(textOf(entry, 'userAccountControl') ?? 0) & disabledFlag) !== 0) return 'disabled';
    const expires = textOf(entry, 'accountExpires') ?? '0';
    // 0 and the largest number stand for never, and the latter is far enough away.
    if (!/^\d+$/.test(expires) || expires === '0') return undefined;
    return BigInt(expires) / 10_000_000n - fileTimeEpoch <= BigInt(now) ? 'expired' : undefined;
  },

  explainRefusal(err) {
    const [, code = ''] = /\bdata ([0-9a-f]+)\b/i.exec(err.message) ?? [];
    return subCodes[code.toLowerCase()] ?? explainByCode(err);
  },

  async findGroups(client, { userDn, baseDn, attribute }) {
    // LDAP_MATCHING_RULE_IN_CHAIN: the server follows the nesting itself.
    const filter = new ExtensibleFilter({
      matchType: 'member',
      rule: '1.2.840.113556.1.4.1941',
      value: userDn,
    });
    const { entries, isCut } = await searchPages(client, baseDn, { filter, attributes: [attribute] });
    return { groups: entries.slice(0, mostGroups), isCut };
  },

  async changePassword(host, { dn, current, next }) {
    // Taking the old value away and adding the new one is the change by the user, under all policies; to replace
    // it would be a reset by an administrator. [MS-ADTS] section 3.1.1.3.1.5.
    const value = (password: string) =>
      new Attribute({ type: 'unicodePwd', values: [Buffer.from(`"${password}"`, 'utf16le')] });
    const client = await host.bindService();
    try {
      await client.modify(dn, [
        new Change({ operation: 'delete', modification: value(current) }),
        new Change({ operation: 'add', modification: value(next) }),
      ]);
      return { kind: 'changed' };
    } catch (err) {
      if (!(err instanceof ResultCodeError) || !isRefusal(err)) throw err;
      // ERROR_INVALID_PASSWORD; what is against the policy is 0000052D.
      return { kind: 'refused', reason: /\b0*56:/.test(err.message) ? 'password' : 'policy' };
    }
  },
};

const openLdap: DirectoryKind = {
  issuer: ownIssuers.directory,
  nameAttribute: 'uid',
  userFilter: '(uid={name})',
  subjectAttribute: 'entryUUID',
  toSubject: (value) => String(value).toLowerCase(),
  toSubjectFilter: (value) => new EqualityFilter({ attribute: 'entryUUID', value }),
  attributes: ['displayName', 'cn', 'mail', 'pwdAccountLockedTime', 'pwdEndTime', 'pwdReset', 'shadowExpire'],
  mustChange: (entry) => textOf(entry, 'pwdReset')?.toUpperCase() === 'TRUE',

  findEnd(entry, now) {
    // That is for ever; any other time is a lock after wrong passwords, which ends by itself.
    if (textOf(entry, 'pwdAccountLockedTime') === '000001010000Z') return 'disabled';
    const end = toSeconds(textOf(entry, 'pwdEndTime'));
    if (end !== undefined && end <= now) return 'expired';
    const days = Number(textOf(entry, 'shadowExpire') ?? -1);
    return days >= 0 && days * 86_400 <= now ? 'expired' : undefined;
  },

  explainRefusal: explainByCode,

  async findGroups(client, { userDn, baseDn, attribute }) {
    const found = new Map<string, Entry>();
    let members = [userDn];
    let isCut = false;
    for (let searches = 0; members.length > 0 && found.size <= mostGroups; searches += 1) {
      if (searches === mostSearches) {
        isCut = true;
        break;
      }
      const batch = members.splice(0, batchSize);
      const filters = batch.flatMap((dn) =>
        ['member', 'uniqueMember'].map((type) => new EqualityFilter({ attribute: type, value: dn })),
      );
      const filter = new OrFilter({ filters });
      const page = await searchPages(client, baseDn, { filter, attributes: [attribute] });
      isCut ||= page.isCut;
      // A group that has been seen is not asked for again: groups may hold each other.
      const fresh = page.entries.filter(({ dn }) => !found.has(dn.toLowerCase()));
      for (const group of fresh) found.set(group.dn.toLowerCase(), group);
      members = [...members, ...fresh.map(({ dn }) => dn)];
    }
    return { groups: [...found.values()].slice(0, mostGroups), isCut: isCut || found.size > mostGroups };
  },

  async changePassword(host, { dn, current, next }) {
    let client: Client;
    try {
      client = await host.bind(dn, current);
    } catch (err) {
      if (!(err instanceof ResultCodeError) || err.code !== invalidCredentials) throw err;
      return { kind: 'refused', reason: 'password' };
    }
    // RFC 3062: PasswdModifyRequestValue, for whoever is bound.
    const request = new BerWriter();
    request.startSequence();
    request.writeString(current, 0x81);
    request.writeString(next, 0x82);
    request.endSequence();
    try {
      await client.exop('1.3.6.1.4.1.4203.1.11.1', request.buffer);
      return { kind: 'changed' };
    } catch (err) {
      if (!(err instanceof ResultCodeError) || !isRefusal(err)) throw err;
      return { kind: 'refused', reason: 'policy' };
    }
  },
};

export const directoryKinds = { ActiveDirectory: activeDirectory, OpenLdap: openLdap } as const;

/** What a search finds, page by page (RFC 2696), up to a few more than are wanted; `isCut` where there is more. */
async function searchPages(
  client: Client,
  baseDn: string,
  options: SearchOptions,
): Promise<{ readonly entries: readonly Entry[]; readonly isCut: boolean }> {
  const entries: Entry[] = [];
  try {
    for await (const page of client.searchPaginated(baseDn, { ...options, paged: { pageSize } })) {
      entries.push(...page.searchEntries);
      if (entries.length > mostGroups) return { entries, isCut: true };
    }
    return { entries, isCut: false };
  } catch (err) {
    // The directory's own limit for whoever searches.
    if (!(err instanceof SizeLimitExceededError)) throw err;
    return { entries, isCut: true };
  }
}

/** constraintViolation, insufficientAccessRights, unwillingToPerform: it has understood, and will not. */
function isRefusal({ code }: ResultCodeError): boolean {
  return code === 19 || code === 50 || code === 53;
}

/** @throws the error itself where it says nothing of the user */
function explainByCode(err: ResultCodeError): BindRefusal {
  if (err.code === invalidCredentials) return { kind: 'refused', reason: 'password' };
  // inappropriateAuthentication: the entry has no password.
  if (err.code === 48) return { kind: 'refused', reason: 'no-password' };
  if (isRefusal(err)) return { kind: 'refused', reason: 'refused-by-directory' };
  throw err;
}

/** An attribute's only or first value; directories differ in how they write its name. */
export function textOf(entry: Entry, attribute: string): string | undefined {
  return valuesOf(entry, attribute)[0]?.toString();
}

export function valuesOf(entry: Entry, attribute: string): readonly (Buffer | string)[] {
  const name = Object.keys(entry).find((key) => key.toLowerCase() === attribute.toLowerCase());
  const value = name === undefined ? [] : entry[name];
  return value === undefined ? [] : Array.isArray(value) ? value : [value];
}

/** `S-1-5-21-…` of a SID's bytes ([MS-DTYP] section 2.4.2.2). */
function toSidText(bytes: Buffer): string {
  const count = bytes[1] ?? 0;
  if (bytes.length !== 8 + 4 * count) throw new UnusableEntryError('objectSid is no SID');
  const parts = Array.from({ length: count }, (_, index) => bytes.readUInt32LE(8 + 4 * index));
  return ['S', bytes[0], bytes.readUIntBE(2, 6), ...parts].join('-');
}

function toSidBytes(sid: string): Buffer {
  const [revision = 0, authority = 0, ...parts] = sid.split('-').slice(1).map(Number);
  const bytes = Buffer.alloc(8 + 4 * parts.length);
  bytes.writeUInt8(revision, 0);
  bytes.writeUInt8(parts.length, 1);
  bytes.writeUIntBE(authority, 2, 6);
  for (const [index, part] of parts.entries()) bytes.writeUInt32LE(part, 8 + 4 * index);
  return bytes;
}

/** Seconds since the epoch of a generalized time such as `20270131120000Z`; undefined for anything else. */
function toSeconds(time: string | undefined): number | undefined {
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:[.,]\d+)?Z$/.exec(time ?? '');
  if (parts === null) return undefined;
  const [year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0] = parts.slice(1).map(Number);
  return Date.UTC(year, month - 1, day, hour, minute, second || 0) / 1000;
}
