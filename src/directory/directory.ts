/**
 * A directory as a source of passwords: the account that searches finds the one entry of a name, and a bind as
 * that entry, on a connection of its own, proves the password. Later the entry is found again by what it never
 * loses, whatever it is called by then.
 */
import { randomBytes } from 'node:crypto';
import { AndFilter, type Client, type Entry, Filter, FilterParser, ResultCodeError } from 'ldapts';
import type { AccountFacts } from '../accounts/accounts.ts';
import type { PasswordSource, SourceAnswer, SourceIdentity } from '../accounts/credentials.ts';
import type { DirectoryStanding, StandingSource } from '../accounts/standing.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import {
  createDirectoryHosts,
  type DirectoryHost,
  type DirectorySettings,
  MissingEntryError,
  UnusableEntryError,
} from './hosts.ts';
import { directoryKinds, textOf, valuesOf } from './kinds.ts';

export interface Directory extends PasswordSource, StandingSource {
  /** Signs in to every host and searches, and says of each what is wrong with it, if anything is. */
  inspect(): Promise<readonly { readonly url: string; readonly problem: string | undefined }[]>;
}

const longestName = 255;

/** @param now seconds since the epoch */
export function createDirectory(
  settings: DirectorySettings,
  { log, now }: { log: Logger; now: () => number },
): Directory {
  const hosts = createDirectoryHosts(settings, { log, now });
  const kind = directoryKinds[settings.Kind];
  const { BaseDn, Domain, GroupBaseDn, RoleAttribute } = settings;
  const nameAttribute = settings.NameAttribute ?? kind.nameAttribute;
  const userFilter = settings.UserFilter ?? kind.userFilter;
  const attributes = [kind.subjectAttribute, nameAttribute, ...kind.attributes];

  function search(client: Client, filter: Filter): Promise<readonly Entry[]> {
    const explicitBufferAttributes = kind.subjectAttribute === 'objectSid' ? ['objectSid'] : [];
    const options = { filter, attributes, explicitBufferAttributes, sizeLimit: 2 };
    return client
      .search(BaseDn, { ...options, timeLimit: settings.Timeout })
      .then((found) => found.searchEntries);
  }

  /** The name to search for; undefined for one that nobody can have there. */
  function toSearchedName(typed: string): string | undefined {
    const name = typed.normalize('NFKC');
    if (name === '' || name.length > longestName || /\p{Cc}/u.test(name)) return undefined;
    const at = name.indexOf('\\');
    if (Domain === undefined || at < 0) return name;
    return name.slice(0, at).toLowerCase() === Domain.toLowerCase() ? name.slice(at + 1) : undefined;
  }

  async function readFacts(client: Client, entry: Entry): Promise<AccountFacts> {
    return {
      displayName: textOf(entry, 'displayName') ?? textOf(entry, 'cn'),
      email: textOf(entry, 'mail'),
      roles: GroupBaseDn === undefined ? undefined : await readRoles(client, entry.dn, GroupBaseDn),
    };
  }

  async function readRoles(client: Client, userDn: string, baseDn: string): Promise<readonly string[]> {
    const { groups, isCut } = await kind.findGroups(client, { userDn, baseDn, attribute: RoleAttribute });
    if (isCut) log.warn({ groups: groups.length }, 'user of the directory is in more groups than are read');
    return groups.flatMap((group) => valuesOf(group, RoleAttribute).map(String));
  }

  function subjectOf(entry: Entry): string {
    const [value] = valuesOf(entry, kind.subjectAttribute);
    if (value === undefined)
      throw new UnusableEntryError(`${settings.BindDn} cannot read ${kind.subjectAttribute}`);
    return kind.toSubject(value);
  }

  async function readIdentity(client: Client, entry: Entry): Promise<SourceIdentity> {
    const names = valuesOf(entry, nameAttribute).map(String);
    return {
      subject: subjectOf(entry),
      names: Domain === undefined ? names : names.map((name) => `${Domain}\\${name}`),
      ...(await readFacts(client, entry)),
    };
  }

  /** A bind as somebody who is not there, so that an unknown name takes the steps of a wrong password. */
  async function bindAsNobody(host: DirectoryHost): Promise<void> {
    const [name, password] = [randomBytes(8).toString('hex'), randomBytes(12).toString('hex')];
    try {
      await host.bind(`cn=${name},${BaseDn}`, password);
    } catch (err) {
      if (!(err instanceof ResultCodeError)) throw err;
    }
  }

  async function verifyAt(host: DirectoryHost, name: string, password: string): Promise<SourceAnswer> {
    const client = await host.bindService();
    const found = await search(client, toUserFilter(userFilter, name));
    const [entry] = found;
    if (entry === undefined || found.length > 1) {
      await bindAsNobody(host);
      if (entry === undefined) return { kind: 'refused', reason: 'unknown' };
      log.warn({ baseDn: BaseDn }, 'name refused that several entries of the directory have');
      return { kind: 'refused', reason: 'several-entries' };
    }
    const refusal = await tryBind(host, entry.dn, password);
    if (refusal?.kind === 'refused') return refusal;
    const end = kind.findEnd(entry, now());
    if (end !== undefined) return { kind: 'refused', reason: `${end}-in-directory` };
    const identity = await readIdentity(client, entry);
    if (refusal === undefined && !kind.mustChange(entry)) return { kind: 'accepted', identity };
    log.info(
      { reason: refusal?.reason ?? 'password-must-change' },
      'password must be changed in the directory',
    );
    return { kind: 'must-change', identity };
  }

  /** What is against the password of an entry; undefined where it is right. */
  async function tryBind(host: DirectoryHost, dn: string, password: string) {
    try {
      await host.bind(dn, password);
      return undefined;
    } catch (err) {
      if (!(err instanceof ResultCodeError)) throw err;
      return kind.explainRefusal(err);
    }
  }

  /** The entry of a subject, as long as the operator's filter still admits it. */
  async function findBySubject(client: Client, subject: string): Promise<Entry | undefined> {
    const filters = [kind.toSubjectFilter(subject), toAnyUserFilter(userFilter)];
    const [entry] = await search(client, new AndFilter({ filters }));
    return entry;
  }

  /** Some entry that the operator's filter admits; throws where there is none. */
  async function findAnybody(client: Client): Promise<Entry> {
    const [entry] = await search(client, toAnyUserFilter(userFilter));
    if (entry === undefined) throw new Error(`there are no users below ${BaseDn}`);
    return entry;
  }

  /** Every way in which a question is not answered, as an answer. */
  function toUnavailable(err: unknown): { kind: 'unavailable'; reason: string } {
    if (!(err instanceof ServerError) || err.code !== 'ERR_DIRECTORY_UNAVAILABLE') throw err;
    // Hosts that have just been given up are not reported again for every question.
    if (err.cause !== undefined) log.error({ err }, 'directory unavailable');
    return { kind: 'unavailable', reason: 'directory-unavailable' };
  }

  return {
    name: 'directory',
    issuer: kind.issuer,
    provisions: settings.ProvisionAccounts,
    hasWindowsNames: Domain !== undefined,

    async verify(typed, password) {
      const name = toSearchedName(typed);
      if (password === '' || name === undefined) return { kind: 'refused', reason: 'unknown' };
      try {
        return await hosts.ask((host) => verifyAt(host, name, password), { isPatient: true });
      } catch (err) {
        return toUnavailable(err);
      }
    },

    async changePassword(subject, { current, next }) {
      if (current === '' || next === '') return { kind: 'refused', reason: 'policy' };
      try {
        return await hosts.ask(
          async (host) => {
            const entry = await findBySubject(await host.bindService(), subject);
            const isEnded = entry === undefined || kind.findEnd(entry, now()) !== undefined;
            if (isEnded) return { kind: 'refused', reason: 'ended' } as const;
            return kind.changePassword(host, { dn: entry.dn, current, next });
          },
          { isPatient: true },
        );
      } catch (err) {
        return toUnavailable(err);
      }
    },

    async check(subject): Promise<DirectoryStanding> {
      try {
        return await hosts.ask(
          async (host) => {
            const client = await host.bindService();
            const entry = await findBySubject(client, subject);
            if (entry === undefined) {
              // A host that shows nobody, such as a new one, or one that has changed the rights of BindDn, knows nothing.
              await findAnybody(client);
              throw new MissingEntryError('there is no such entry');
            }
            const end = kind.findEnd(entry, now());
            if (end !== undefined) return { kind: 'ended', reason: end };
            return { kind: 'good', facts: await readFacts(client, entry) };
          },
          { isPatient: false },
        );
      } catch (err) {
        if (err instanceof MissingEntryError) return { kind: 'ended', reason: 'gone' };
        return toUnavailable(err);
      }
    },

    inspect: () =>
      hosts.inspect(async (host) => {
        const client = await host.bindService();
        subjectOf(await findAnybody(client));
      }),
  };
}

/** The operator's filter for a name, which cannot become part of its syntax. */
function toUserFilter(template: string, name: string): Filter {
  return FilterParser.parseString(template.replaceAll('{name}', () => Filter.escape(name)));
}

/** The operator's filter for whatever name: `*` is any value. */
function toAnyUserFilter(template: string): Filter {
  return FilterParser.parseString(template.replaceAll('{name}', () => '*'));
}
