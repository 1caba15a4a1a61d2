/** `postern account …`: the accounts of local sign-in. */
import type { Account } from '../accounts/accounts.ts';
import { CommandError, exitCodes } from './exit.ts';
import { type CommandIo, confirm, openSecretReader } from './io.ts';
import { openMigratedStore, type Store } from './store.ts';
import { writeTable } from './table.ts';

export interface AddOptions {
  displayName?: string;
  email?: string;
  role?: readonly string[];
  /** Each `name=value`; a name that comes twice has both values. */
  claim?: readonly string[];
  windowsName?: string;
  mustChange?: boolean;
  password: boolean;
}

/** Adds an account; its password is asked for, or is the first line of standard input. */
export async function addAccount(
  directory: string,
  name: string,
  options: AddOptions,
  io: CommandIo,
): Promise<void> {
  const { displayName, email, role, claim = [], windowsName, mustChange } = options;
  const claims = parseClaims(claim);
  await using store = await openMigratedStore(directory, io);
  const password = options.password ? await readPassword(name, io) : undefined;
  const account = await store.accounts.add({
    name,
    displayName,
    email,
    password,
    claims,
    roles: role,
    windowsName,
    mustChangePassword: mustChange,
  });
  store.audit.record(['account', 'success'], { accountId: account.name }, 'account added');
  io.stdout.write(`added ${account.name}\n`);
}

/** Sets a password and ends all that was signed in with the old one. */
export async function setPassword(
  directory: string,
  name: string,
  { mustChange = false }: { mustChange?: boolean },
  io: CommandIo,
): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const { name: stored } = await store.accounts.get(name);
  const password = await readPassword(stored, io);
  const account = await store.accounts.setPassword(stored, password, { mustChange });
  await endAll(store, account, 'changed the password of', io);
}

/** Disables or enables an account; a disabled one is signed out everywhere. */
export async function setDisabled(
  directory: string,
  name: string,
  disabled: boolean,
  io: CommandIo,
): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const account = await store.accounts.setDisabled(name, disabled);
  if (disabled) await endAll(store, account, 'disabled', io);
  else {
    store.audit.record(['account', 'success'], { accountId: account.name }, 'account enabled');
    io.stdout.write(`enabled ${account.name}\n`);
  }
}

/**
 * Forgets the wrong passwords that have been counted for a name, so that its owner need not wait. What an address or a
 * network has to wait for is not the account's, and stays.
 */
export async function unlockAccount(directory: string, name: string, io: CommandIo): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const { name: stored } = await store.accounts.get(name);
  const wasCounted = await (await store.openGuessing()).forget('account', stored);
  store.audit.record(['account', 'success'], { accountId: stored }, 'account unlocked');
  io.stdout.write(wasCounted ? `unlocked ${stored}\n` : `no wrong password has been counted for ${stored}\n`);
}

/** Forgets which identities elsewhere an account is linked to; who comes next under its name is linked anew. */
export async function unlinkAccount(directory: string, name: string, io: CommandIo): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const account = await store.accounts.get(name);
  const count = await store.externalLogins.unlink(account.name);
  if (count === 0) {
    throw new CommandError(exitCodes.failure, `${account.name} is not linked to an identity elsewhere`);
  }
  await endAll(store, account, 'unlinked', io);
}

/** Removes an account for good, after asking whoever sits at a terminal. */
export async function removeAccount(
  directory: string,
  name: string,
  { yes = false }: { yes?: boolean },
  io: CommandIo,
): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const { name: stored } = await store.accounts.get(name);
  if (!yes && io.stdin.isTTY) {
    const question = `Remove ${stored} for good? The name cannot be given to anyone again.`;
    if (!(await confirm(io, question)))
      throw new CommandError(exitCodes.failure, `${stored} was not removed`);
  }
  const account = await store.accounts.remove(stored);
  await endAll(store, account, 'removed', io);
}

/** Lists the accounts, one a line in columns, or as a JSON array. */
export async function listAccounts(
  directory: string,
  { json }: { json?: boolean },
  io: CommandIo,
): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const accounts = await store.accounts.list();
  if (json) {
    const shown = accounts.map(({ stamp: _, ...account }) => account);
    io.stdout.write(`${JSON.stringify(shown, null, 2)}\n`);
    return;
  }
  const rows = accounts.map((account) => [
    account.name,
    account.displayName ?? '',
    account.email ?? '',
    [
      ...(account.disabled ? ['disabled'] : []),
      ...(account.mustChangePassword ? ['must change the password'] : []),
      ...(account.windowsName === undefined ? [] : [`Windows ${account.windowsName}`]),
    ].join(', '),
  ]);
  writeTable(io.stdout, rows);
}

/** The row first, then what hangs on it: whoever signs in between the two fails at the row. */
async function endAll(
  { audit, tokens }: Store,
  { accountId, name }: Account,
  done: 'changed the password of' | 'disabled' | 'removed' | 'unlinked',
  io: CommandIo,
): Promise<void> {
  const [event, message] =
    done === 'changed the password of'
      ? (['password', 'password set'] as const)
      : (['account', `account ${done}`] as const);
  audit.record([event, 'success'], { accountId }, message);
  const ended = await tokens.revokeAccount(accountId);
  if (done === 'removed') await tokens.forgetConsents(accountId);
  io.stdout.write(
    `${done} ${name}${ended === 0 ? '' : `, and ended its sessions and grants (${ended} rows)`}\n`,
  );
}

async function readPassword(name: string, io: CommandIo): Promise<string> {
  using secrets = openSecretReader(io);
  // Awaited here: the reader is closed when this function is left.
  return await secrets.askTwice(`Password of ${name}`);
}

function parseClaims(given: readonly string[]): Record<string, string | string[]> {
  const values = new Map<string, string[]>();
  for (const text of given) {
    const at = text.indexOf('=');
    if (at < 1) {
      throw new CommandError(
        exitCodes.usage,
        `--claim ${JSON.stringify(text)} is not of the form name=value`,
      );
    }
    const name = text.slice(0, at);
    values.set(name, [...(values.get(name) ?? []), text.slice(at + 1)]);
  }
  return Object.fromEntries(
    [...values].map(([name, all]) => [name, all.length === 1 && all[0] !== undefined ? all[0] : all]),
  );
}
