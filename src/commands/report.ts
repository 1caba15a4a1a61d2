/** `postern report access`: which clients and accounts there are, for whoever reviews them. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Account } from '../accounts/accounts.ts';
import type { Client, Configuration } from '../config/load.ts';
import { grantTypesOf } from '../registry/client-metadata.ts';
import { createLastUses, type LastUses } from '../store/last-use.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';
import { openMigratedStore, type Store } from './store.ts';
import { toTime } from './table.ts';

export interface ReportOptions {
  accounts?: boolean;
  clients?: boolean;
  /** A folder for both. */
  output?: string;
}

const clientColumns = [
  ...['client_id', 'name', 'enabled', 'flow', 'grant_types', 'scopes', 'secrets', 'secret_age_days'],
  ...['secret_ends', 'deviations', 'last_use'],
];
const accountColumns = ['account_id', 'name', 'source', 'enabled', 'last_sign_in', 'last_use', 'roles'];

/** One row of a table, by column; what is not known is empty. */
type Cells = Readonly<Record<string, string>>;

const daySeconds = 86_400;
/** Without it spreadsheets take UTF-8 for the encoding of their system. */
const byteOrderMark = '\ufeff';

/**
 * Writes the clients or the accounts as CSV to standard output, or both as files that only their owner reads.
 *
 * @throws {CommandError} 64 unless it is said which, 73 where a file cannot be written
 */
export async function reportAccess(
  directory: string,
  { accounts = false, clients = false, output }: ReportOptions,
  io: CommandIo,
): Promise<void> {
  if ([accounts, clients, output !== undefined].filter(Boolean).length !== 1) {
    throw new CommandError(
      exitCodes.usage,
      'say which: --clients, --accounts, or --output <folder> for both',
    );
  }
  await using store = await openMigratedStore(directory, io);
  const lastUses = createLastUses(store);
  const listClients = () => reportClients(store.configuration, lastUses, io.now());
  const listAccounts = () => reportAccounts(store, lastUses);
  if (clients) io.stdout.write(toCsv(clientColumns, await listClients()));
  if (accounts) io.stdout.write(toCsv(accountColumns, await listAccounts()));
  if (output === undefined) return;
  const tables = [
    { name: 'clients.csv', columns: clientColumns, rows: await listClients() },
    { name: 'accounts.csv', columns: accountColumns, rows: await listAccounts() },
  ];
  for (const { columns, name, rows } of tables) {
    const label = join(output, name);
    const file = resolve(io.workingDirectory, label);
    try {
      await mkdir(resolve(io.workingDirectory, output), { recursive: true, mode: 0o700 });
      // A file that is there keeps its rights, whatever is asked for.
      await rm(file, { force: true });
      await writeFile(file, byteOrderMark + toCsv(columns, rows), { flag: 'wx', mode: 0o600 });
    } catch (cause) {
      const { message } = cause as Error;
      throw new CommandError(exitCodes.cannotCreate, `${label} cannot be written: ${message}`, { cause });
    }
    io.stdout.write(`wrote ${label}: ${rows.length} ${rows.length === 1 ? 'row' : 'rows'}\n`);
  }
}

async function reportClients(
  { clients, deviations }: Configuration,
  lastUses: LastUses,
  now: number,
): Promise<readonly Cells[]> {
  const usedAt = await lastUses.list('client');
  return [...clients.values()]
    .sort((a, b) => (a.ClientId < b.ClientId ? -1 : 1))
    .map((client) => ({
      client_id: client.ClientId,
      name: client.ClientName,
      enabled: toYesNo(client.Enabled),
      flow: client.Flow,
      grant_types: grantTypesOf(client).join(' '),
      scopes: client.AllowedScopes.join(' '),
      ...describeSecrets(client, now),
      deviations: deviations
        .filter(({ clientId }) => clientId === client.ClientId)
        .map(({ message, path }) => `${path}: ${message}`)
        .join('; '),
      last_use: toKnownTime(usedAt.get(client.ClientId)),
    }));
}

/** How many there are, and of each in its place when it was made and when it ends. */
function describeSecrets({ ClientSecrets }: Client, now: number): Cells {
  const ages = ClientSecrets.map(({ createdAt }) =>
    createdAt === undefined ? 'unknown' : String(Math.floor((now - createdAt) / daySeconds)),
  );
  const ends = ClientSecrets.map(({ expiresAt }) => (expiresAt === undefined ? 'never' : toTime(expiresAt)));
  return {
    secrets: String(ClientSecrets.length),
    secret_age_days: ages.join(' '),
    secret_ends: ends.join(' '),
  };
}

async function reportAccounts(
  { accounts, externalLogins }: Store,
  lastUses: LastUses,
): Promise<readonly Cells[]> {
  const [all, providersOf, signedInAt, usedAt] = [
    await accounts.list(),
    await externalLogins.listProviders(),
    await lastUses.list('sign-in'),
    await lastUses.list('account'),
  ];
  return all.map((account) => {
    const normalizedName = account.name.toLowerCase();
    return {
      account_id: account.accountId,
      name: account.displayName ?? '',
      source: sourcesOf(account, providersOf.get(normalizedName)).join(' '),
      enabled: toYesNo(!account.disabled),
      last_sign_in: toKnownTime(signedInAt.get(normalizedName)),
      last_use: toKnownTime(usedAt.get(normalizedName)),
      roles: account.roles.join('; '),
    };
  });
}

/** Who says that somebody is who they are; nobody yet of an account that was made ahead of its first sign-in. */
function sourcesOf({ hasPassword, windowsName }: Account, providers: readonly string[] = []): string[] {
  const known = [...(hasPassword ? ['local'] : []), ...providers];
  return known.length === 0 && windowsName !== undefined ? ['windows'] : known;
}

function toKnownTime(at: number | undefined): string {
  return at === undefined ? '' : toTime(at);
}

function toYesNo(value: boolean): string {
  return value ? 'yes' : 'no';
}

/** RFC 4180, with the names of the columns in the first line. */
function toCsv(columns: readonly string[], rows: readonly Cells[]): string {
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column] ?? ''))];
  return lines.map((cells) => `${cells.map(toCell).join(',')}\r\n`).join('');
}

/**
 * A cell that a spreadsheet takes for text: one that would be a formula begins with an apostrophe. The same behind
 * whatever else some spreadsheet takes for the end of a cell.
 */
function toCell(value: string): string {
  const harmless = value
    .replace(/(?<=^|[;,\t\r\n])(?=\s*[=+\-@＝＋－＠])/g, "'")
    .replace(/^(?=[\t\r\n])/, "'");
  return /[",;\t\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}
