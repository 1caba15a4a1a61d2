/** What the commands need of the database, and the two that are about the database itself. */
import { userInfo } from 'node:os';
import { type Accounts, createAccounts } from '../accounts/accounts.ts';
import { createExternalLogins, type ExternalLogins } from '../accounts/external-logins.ts';
import { createGuessing, type Guessing, guessingKey } from '../accounts/guessing.ts';
import { createPasswords, withBrand } from '../accounts/passwords.ts';
import { type Audit, createAudit } from '../audit.ts';
import { type Configuration, loadConfiguration } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import { createKeyStore } from '../keys/key-store.ts';
import { deriveKey, loadKeys } from '../keys/keys.ts';
import { findDerivation } from '../keys/managed-keys.ts';
import { createLogger } from '../log.ts';
import { deleteExpired } from '../store/cleanup.ts';
import { type Database, openDatabase, toDatabaseTarget, writeMigrationScript } from '../store/database.ts';
import { migrationNames } from '../store/migrate.ts';
import { createTokens, type Tokens } from '../store/tokens.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

export interface Store extends AsyncDisposable {
  readonly configuration: Configuration;
  readonly db: Database;
  readonly accounts: Accounts;
  readonly externalLogins: ExternalLogins;
  readonly tokens: Tokens;
  /** What has been counted of wrong passwords; needs the keys of the server. */
  openGuessing(): Promise<Pick<Guessing, 'forget'>>;
  /** For what an administrator does. */
  readonly audit: Audit;
}

/**
 * Opens the database that the configuration names. Its log goes nowhere: what a command has to say it says itself.
 *
 * @throws {ConfigurationError}
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE
 */
export async function openStore(directory: string, { env, now, stderr }: CommandIo): Promise<Store> {
  const configuration = await loadConfiguration(directory, { env });
  const log = createLogger({ level: 'silent', format: 'json' });
  const db = await openDatabase({ ...toDatabaseTarget(configuration.server), log, now });
  const passwords = createPasswords(withBrand(configuration.server));
  const accounts = createAccounts({ db: db.knex, now, passwords });
  const { Folder: folder, KeepDays: keepDays, Syslog: syslog, To: to } = configuration.server.Audit;
  const audit = createAudit({
    // It says where it cannot write, and nothing of what it has written.
    log: createLogger({ level: 'error', format: 'text', destination: stderr }),
    now,
    to,
    folder,
    keepDays,
    syslog,
    actor: findActor(),
    // Standard output is the command's own.
    stdout: stderr,
  });
  return {
    configuration,
    db,
    accounts,
    externalLogins: createExternalLogins({ accounts, audit, db: db.knex, now }),
    tokens: createTokens({ db, now }),
    async openGuessing() {
      const { Directory, PasswordVerifier } = configuration.server;
      return createGuessing({
        db,
        log,
        now,
        key: await deriveGuessingKey(configuration, db, now()),
        hasDomains: Directory !== undefined || PasswordVerifier !== undefined,
        isExempt: () => false,
      });
    },
    audit,
    async [Symbol.asyncDispose]() {
      await audit[Symbol.asyncDispose]();
      await db[Symbol.asyncDispose]();
    },
  };
}

async function deriveGuessingKey(configuration: Configuration, db: Database, now: number): Promise<Buffer> {
  // Loaded where it is needed: the server is most of the program.
  const { toFurtherKeys, toKeySource, toRhythm } = await import('../server.ts');
  const { DataProtectionKey, ManagedKeys } = configuration.server;
  if (ManagedKeys !== undefined) {
    const store = createKeyStore({ db, secrets: DataProtectionKey });
    const derivation = await findDerivation(store, { keepSeconds: toRhythm(ManagedKeys).keep, now });
    if (derivation !== undefined) return deriveKey(derivation, guessingKey);
  }
  const keys = await loadKeys(toKeySource(configuration), toFurtherKeys(configuration));
  return keys.deriveKey(guessingKey);
}

/** Who runs the command, as the operating system knows them. */
function findActor(): string {
  try {
    return userInfo().username;
  } catch {
    // A container may run as a number that has no name.
    return 'unknown';
  }
}

/** As {@link openStore}, for commands that work on what is there: a database that is behind is refused. */
export async function openMigratedStore(directory: string, io: CommandIo): Promise<Store> {
  const store = await openStore(directory, io);
  try {
    const pending = await store.db.pendingMigrations();
    if (pending.length === 0) return store;
    throw new CommandError(
      exitCodes.configuration,
      `the database lacks the migrations ${pending.join(', ')}`,
      {
        hint: 'run "postern migrate", or start the server once',
      },
    );
  } catch (err) {
    await store[Symbol.asyncDispose]();
    throw err;
  }
}

export interface MigrateOptions {
  /** Only says what is missing. */
  plan?: boolean;
  /** Writes the statements instead of sending them. */
  script?: boolean;
  /** The login that the script gives its rights to. */
  grantTo?: string;
}

/** Brings the database up to date as a start of the server would. */
export async function migrate(
  directory: string,
  { grantTo, plan, script }: MigrateOptions,
  io: CommandIo,
): Promise<void> {
  if (script) {
    await writeScript(directory, grantTo, io);
    return;
  }
  await using store = await openStore(directory, io);
  if (plan) {
    const pending = await store.db.pendingMigrations();
    io.stdout.write(
      pending.length === 0 ? 'nothing to migrate\n' : pending.map((name) => `${name}\n`).join(''),
    );
    return;
  }
  const applied = await store.db.migrate();
  for (const name of applied) io.stdout.write(`applied ${name}\n`);
  if (applied.length === 0) io.stdout.write('nothing to migrate\n');
  // With the table come the demo accounts, here as at a start: whichever is first is the only one to add them.
  const added = await store.accounts.seed(store.configuration.demoAccounts);
  if (added.length > 0) io.stdout.write(`added the demo accounts ${added.join(', ')}\n`);
}

/** For what the database lacks; for all of it where the database cannot be reached yet. */
async function writeScript(directory: string, grantTo: string | undefined, io: CommandIo): Promise<void> {
  const { server } = await loadConfiguration(directory, { env: io.env });
  const target = toDatabaseTarget(server);
  if (target.client === 'sqlite') {
    throw new CommandError(exitCodes.usage, 'SQLite has no administrator who would need a script', {
      hint: 'run "postern migrate"',
    });
  }
  const log = createLogger({ level: 'silent', format: 'json' });
  let names: readonly string[] = migrationNames;
  try {
    await using db = await openDatabase({ ...target, log, now: io.now });
    names = await db.pendingMigrations();
  } catch (err) {
    if (!(err instanceof ServerError) || err.code !== 'ERR_DATABASE_UNAVAILABLE') throw err;
    io.stderr.write(`the database cannot be reached (${err.hint}): the script is for an empty one\n`);
  }
  io.stdout.write(await writeMigrationScript(target, { names, grantTo, now: io.now() }));
}

/** Deletes what has expired, as the server's own job does. */
export async function cleanUp(directory: string, io: CommandIo): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const deleted = await deleteExpired(store.db, io.now());
  io.stdout.write(`deleted ${deleted} expired ${deleted === 1 ? 'row' : 'rows'}\n`);
}
