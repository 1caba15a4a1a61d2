/**
 * Verifies names with passwords: by the account's own password, or where it has none by the sources of passwords
 * that the operator has configured.
 *
 * A password of the account's own decides alone, so that such accounts sign in whatever has become of a source.
 * Who is found in a source gets an account by the rules of external-logins.ts: from the first sign-in on it is the
 * source's lasting identifier that counts, not the name.
 */
import type { Audit } from '../audit.ts';
import { ServerError } from '../errors.ts';
import type { Metrics } from '../metrics.ts';
import type { Tracing } from '../tracing.ts';
import {
  type Account,
  type AccountFacts,
  type Accounts,
  type CredentialsResult,
  changePassword,
  toUsableFacts,
} from './accounts.ts';
import type { ExternalLogins, IdentitySource, Linkable } from './external-logins.ts';
import type { Guess, GuessBlock, Guessing, GuessOrigin } from './guessing.ts';
import type { PasswordProblem } from './passwords.ts';
import { takeTurns, takeTurnsByKey } from './turns.ts';

/** Somebody whom a source of passwords knows. */
export interface SourceIdentity extends AccountFacts {
  /** What the source never gives to somebody else. */
  readonly subject: string;
  /** The name for the account; several stand for none. */
  readonly names: readonly string[];
}

/** What a source says of a name and a password. `reason` is for the log. */
export type SourceAnswer =
  | { readonly kind: 'accepted' | 'must-change'; readonly identity: SourceIdentity }
  /** Where the reason is `unknown`, the next source is asked. */
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'unavailable'; readonly reason: string };

/** Where passwords are verified that are not kept here. */
export interface PasswordSource {
  /** For links and the log. */
  readonly name: string;
  /** Of the links of its identities. */
  readonly issuer: string;
  /** Whether somebody whose name has no account gets one. */
  readonly provisions: boolean;
  /** Whether its names are those of Windows accounts, `DOMAIN\user`. */
  readonly hasWindowsNames: boolean;
  /** Never asked with an empty password. Takes the same steps for a name that it does not know. */
  verify(name: string, password: string): Promise<SourceAnswer>;
  /** Changes a password there by the present one. Without it passwords cannot be changed from here. */
  changePassword?(
    subject: string,
    passwords: { readonly current: string; readonly next: string },
  ): Promise<SourceChange>;
}

export type SourceChange =
  | { readonly kind: 'changed' }
  /** `password`: the present one is wrong; `policy`: the new one is not good enough; `ended`: it is nobody's any more. */
  | { readonly kind: 'refused'; readonly reason: 'ended' | 'password' | 'policy' }
  | { readonly kind: 'unavailable'; readonly reason: string };

/** A password that must be changed before it is good for anything else. */
export interface PendingChange {
  readonly accountId: string;
  /** The name as it was typed. */
  readonly userName: string;
  /** Stands for the account's own password that was right. */
  readonly proof?: string | undefined;
  /** The source that has the password: there the present one is asked for again, for nobody keeps it meanwhile. */
  readonly source?: string | undefined;
}

/** What became of a name and a password. `reason` is for the log. */
export type PasswordResult =
  | { readonly kind: 'accepted'; readonly account: Account }
  | { readonly kind: 'must-change'; readonly account: Account; readonly pending: PendingChange }
  | { readonly kind: 'refused'; readonly reason: string; readonly accountId?: string }
  /** A source that may know the name does not answer. */
  | { readonly kind: 'unavailable'; readonly reason: string }
  /** Too many wrong ones have been tried; whether this one is right is nobody's to know now. */
  | { readonly kind: 'blocked'; readonly block: GuessBlock };

/** Whose account it is, where there is one. For the audit log: whoever asked is not told. */
export function accountIdOf(result: PasswordResult): string | undefined {
  if (result.kind === 'unavailable' || result.kind === 'blocked') return undefined;
  return result.kind === 'refused' ? result.accountId : result.account.accountId;
}

export type ChangeResult =
  | { readonly kind: 'changed'; readonly account: Account }
  | { readonly kind: 'refused' | 'unavailable'; readonly problem: PasswordProblem }
  | { readonly kind: 'blocked'; readonly block: GuessBlock };

export interface Credentials {
  /**
   * Verifies a password, unless too many wrong ones have been tried; two statements where the account's own decides,
   * and no source is asked then.
   */
  verify(name: string, password: string, origin: GuessOrigin): Promise<PasswordResult>;

  /**
   * Sets the password that somebody chose who had to, by the fields `newPassword`, `repeatPassword` and, where a
   * source has the password, `currentPassword`. The account's grants and sessions are for the caller to end.
   *
   * @throws {ServerError} ERR_FORM_EXPIRED where the change is no longer possible
   */
  changePassword(
    pending: PendingChange,
    form: Readonly<Record<string, string>>,
    origin: GuessOrigin,
  ): Promise<ChangeResult>;
}

interface Needs {
  readonly accounts: Accounts;
  readonly externalLogins: Pick<ExternalLogins, 'findLinks' | 'resolve'>;
  readonly audit: Pick<Audit, 'record'>;
  readonly guessing: Pick<Guessing, 'begin'>;
  readonly metrics: Pick<Metrics, 'countPassword'>;
  readonly tracing?: Pick<Tracing, 'within'> | undefined;
  /** Asked in this order. */
  readonly sources: readonly PasswordSource[];
  /** Whether an account is for no person to sign in as. */
  readonly isReserved: (name: string) => boolean;
  /** Told of everybody whom a source has just accepted. */
  readonly onAccepted: (account: Account, identity: Linkable) => Promise<void>;
}

/** As many as Node makes at once; more would only keep everything else from its threads. */
const hashesAtOnce = 4;
/** As many as there are tries without a wait: of hundreds at once the others are to find what those have come to. */
const guessesAtOnce = 5;

const nameClaims = { plain: 'username', windows: 'windowsaccountname' } as const;

export function createCredentials(needs: Needs): Credentials {
  const { accounts, audit, externalLogins, guessing, metrics, sources, tracing, isReserved, onAccepted } =
    needs;

  const hashing = takeTurns(hashesAtOnce);
  const guessingAt = takeTurnsByKey(guessesAtOnce);

  async function askSources(name: string, password: string): Promise<PasswordResult> {
    for (const source of sources) {
      const start = { name: `ask ${source.name}`, kind: 'client' } as const;
      const answer = await (tracing === undefined
        ? source.verify(name, password)
        : tracing.within(start, () => source.verify(name, password)));
      // A source that does not answer may know the name: its users' passwords are for nobody else.
      if (answer.kind === 'unavailable') return answer;
      if (answer.kind !== 'refused') return admit(source, answer, { name, password });
      if (answer.reason !== 'unknown') return answer;
    }
    return { kind: 'refused', reason: 'unknown' };
  }

  /** From somebody whose password was right in a source to the account here. */
  async function admit(
    source: PasswordSource,
    { kind, identity }: Extract<SourceAnswer, { identity: SourceIdentity }>,
    { name, password }: { name: string; password: string },
  ): Promise<PasswordResult> {
    const facts = toUsableFacts(identity);
    const linked = { issuer: source.issuer, subject: identity.subject };
    const result = await externalLogins.resolve(
      toIdentitySource(source),
      { ...linked, claims: toClaims(source, identity, facts) },
      // The password of the account's own is yet to be given; until then this is nobody's way in.
      { isReserved, mayLink: ({ hasPassword }) => !hasPassword },
    );
    if (result.kind === 'refused') return result;
    // Another spelling, such as that without the domain, led to an account whose own password decides.
    if (result.account.hasPassword) {
      const own = result.account.name;
      return toPasswordResult(await hashing(() => accounts.verifyCredentials(own, password)), name);
    }
    const account = await accounts.follow(result.account, facts);
    const { accountId } = account;
    await onAccepted(account, linked);
    return kind === 'accepted'
      ? { kind, account }
      : { kind, account, pending: { accountId, userName: name, source: source.name } };
  }

  async function changeInSource(
    { accountId }: PendingChange,
    source: PasswordSource | undefined,
    { currentPassword = '', newPassword = '', repeatPassword = '' }: Readonly<Record<string, string>>,
    origin: GuessOrigin,
  ): Promise<ChangeResult> {
    const links = await externalLogins.findLinks(accountId);
    const link = links.find(({ issuer }) => issuer === source?.issuer);
    if (source?.changePassword === undefined || link === undefined) throw overtaken();
    const refuse = (kind: PasswordProblem['kind']) => ({ kind: 'refused', problem: { kind } }) as const;
    if (newPassword !== repeatPassword) return refuse('different');
    if (currentPassword === '' || newPassword === '') return refuse('missing');
    if (newPassword === currentPassword) return refuse('same');
    // Before anything is changed there.
    await getUsable(accountId);
    const passwords = { current: currentPassword, next: newPassword };
    const guess = guessing.begin('account', accountId, origin);
    const result = await guessingAt(guess.key, async () => {
      const early = await guess.findBlock();
      if (early !== undefined) return { kind: 'blocked', block: early } as const;
      const change = await source.changePassword?.(link.subject, passwords);
      const isGuess = change?.kind === 'refused' && change.reason === 'password';
      const late = isGuess ? await guess.fail() : undefined;
      return late === undefined ? change : ({ kind: 'blocked', block: late } as const);
    });
    if (result === undefined) throw overtaken();
    if (result.kind === 'blocked') return result;
    if (result.kind === 'unavailable') {
      audit.record(
        ['password', 'failed'],
        { accountId, source: source.name, reason: result.reason },
        'password not changed',
        'warn',
      );
      return { kind: 'unavailable', problem: { kind: 'unavailable' } };
    }
    if (result.kind === 'refused') {
      audit.record(
        ['password', 'refused'],
        { accountId, source: source.name, reason: result.reason },
        'password not changed',
      );
      if (result.reason === 'ended') throw overtaken();
      return refuse(result.reason === 'password' ? 'wrong' : 'policy');
    }
    return { kind: 'changed', account: await getUsable(accountId) };
  }

  async function getUsable(accountId: string): Promise<Account> {
    const account = await accounts.find(accountId);
    if (account === undefined || account.disabled) throw overtaken();
    return account;
  }

  /** An account that is there for a client is for no person to sign in as. */
  function refuseReserved(result: PasswordResult): PasswordResult {
    if (result.kind !== 'accepted' && result.kind !== 'must-change') return result;
    const { accountId } = result.account;
    return isReserved(accountId) ? { kind: 'refused', reason: 'client-account', accountId } : result;
  }

  async function verify(name: string, password: string, guess: Guess): Promise<PasswordResult> {
    const local = await hashing(async () => {
      // What those before it have come to, while it waited for its turn.
      const block = await guess.findBlock();
      return block === undefined
        ? accounts.verifyCredentials(name, password)
        : ({ kind: 'blocked', block } as const);
    });
    if (local.kind === 'blocked') return local;
    const isOurs = local.kind !== 'refused' || local.reason === 'password' || local.reason === 'disabled';
    // A bind without a password succeeds in many directories, for anybody.
    if (isOurs || password === '' || sources.length === 0) return toPasswordResult(local, name);
    return askSources(name, password);
  }

  async function verifyGuarded(name: string, password: string, origin: GuessOrigin): Promise<PasswordResult> {
    const guess = guessing.begin('account', name, origin);
    const early = await guess.findBlock();
    if (early !== undefined) return { kind: 'blocked', block: early };
    return guessingAt(guess.key, async () => {
      const result = refuseReserved(await verify(name, password, guess));
      // Who got no answer has not guessed.
      if (result.kind === 'unavailable' || result.kind === 'blocked') return result;
      const late = await (result.kind === 'refused' ? guess.fail() : guess.succeed());
      return late === undefined ? result : { kind: 'blocked', block: late };
    });
  }

  return {
    async verify(name, password, origin) {
      const result = await verifyGuarded(name, password, origin);
      metrics.countPassword(result.kind);
      return result;
    },

    async changePassword(pending, form, origin) {
      const { accountId, proof, source } = pending;
      if (source !== undefined) {
        return changeInSource(
          pending,
          sources.find((one) => one.name === source),
          form,
          origin,
        );
      }
      if (proof === undefined) throw overtaken();
      return changePassword(accounts, { accountId, proof }, form);
    },
  };
}

function toPasswordResult(result: CredentialsResult, userName: string): PasswordResult {
  if (result.kind !== 'must-change') return result;
  const { kind, account, proof } = result;
  return { kind, account, pending: { accountId: account.accountId, userName, proof } };
}

function toIdentitySource({ hasWindowsNames, name, provisions }: PasswordSource): IdentitySource {
  return {
    Name: name,
    Type: 'WsFed',
    UserNameClaims: [hasWindowsNames ? nameClaims.windows : nameClaims.plain],
    Domains: [],
    AllowedAccounts: [],
    ProvisionAccounts: provisions,
    ClaimMapping: { role: 'role' },
  };
}

function toClaims(
  { hasWindowsNames }: PasswordSource,
  { names }: SourceIdentity,
  { displayName, email, roles = [] }: AccountFacts,
): ReadonlyMap<string, readonly string[]> {
  return new Map([
    [hasWindowsNames ? nameClaims.windows : nameClaims.plain, names],
    ...(displayName === undefined ? [] : [['name', [displayName]] as const]),
    ...(email === undefined ? [] : [['email', [email]] as const]),
    ...(roles.length === 0 ? [] : [['role', roles] as const]),
  ]);
}

function overtaken(): ServerError {
  return new ServerError('ERR_FORM_EXPIRED', 'the account or its password has changed in the meantime', {
    status: 409,
  });
}
