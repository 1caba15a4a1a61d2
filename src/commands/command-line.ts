/** The command line: which commands there are, what they take, and how each of them ends. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { loadConfiguration } from '../config/load.ts';
import {
  addAccount,
  listAccounts,
  removeAccount,
  setDisabled,
  setPassword,
  unlinkAccount,
  unlockAccount,
} from './account.ts';
import { makeCertificate } from './certificate.ts';
import { addClient } from './client.ts';
import { checkConfiguration, printSchema, schemaKinds, writeDocumentation } from './configuration.ts';
import { examine } from './doctor.ts';
import { describeFailure, exitCodes } from './exit.ts';
import { importAccounts } from './import.ts';
import type { CommandIo } from './io.ts';
import { listKeys, protectKeys, revokeKey, rotateKeys } from './keys.ts';
import { login } from './login.ts';
import { reportAccess } from './report.ts';
import { cleanUp, migrate } from './store.ts';
import { fetchToken } from './token.ts';
import { listTokens, revokeTokens } from './tokens.ts';

/**
 * Runs the command that `argv` (without the program's own name) asks for, `start` if none, and returns the exit
 * code. A failure is told on standard error; nothing is thrown.
 */
export async function runCommand(argv: readonly string[], io: CommandIo): Promise<number> {
  const program = createProgram(io);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return exitCodes.ok;
  } catch (err) {
    if (err instanceof CommanderError) return err.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    const { text, exitCode } = describeFailure(err, {
      showStack: await logsDebug(configDirectory(program), io),
    });
    io.stderr.write(`${text}\n`);
    return exitCode;
  }
}

/** As it was typed, so that issues name the files in the same way. */
function configDirectory(program: Command): string {
  return program.opts<{ config: string }>().config;
}

/** Whether the operator wants to see all; a configuration that cannot be read says nothing about it. */
async function logsDebug(directory: string, io: CommandIo): Promise<boolean> {
  try {
    return (await loadConfiguration(directory, io)).server.Log.Level === 'debug';
  } catch {
    return false;
  }
}

const collect = (value: string, previous: readonly string[] = []) => [...previous, value];

function createProgram(io: CommandIo): Command {
  const program = new Command('postern')
    .description('An OpenID Connect provider: clients from config files, tokens in a SQL database.')
    .version(readVersion(), '--version', 'print the version')
    .helpOption('--help', 'print what a command does and takes')
    .helpCommand(false)
    .option('--config <dir>', 'folder of the config files', 'config')
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      outputError: (text, write) => write(`postern: ${text.replace(/^error: /, '')}`),
    })
    .showHelpAfterError('(postern --help lists what there is)')
    .exitOverride();
  const directory = () => configDirectory(program);

  program
    .command('start', { isDefault: true })
    .description('run the server (this is what happens without a command)')
    // So that a misspelt command is called that, and not an argument too many of this one.
    .allowExcessArguments()
    .action(async (_options, { args: [rest] }: Command) => {
      if (rest !== undefined) program.error(`error: unknown command '${rest}'`);
      // Loaded only here: the server is most of the program, and no other command needs it.
      const { start } = await import('./start.ts');
      await start(directory(), io);
    });

  program
    .command('check-config')
    .description(
      'read the config files, name everything that is wrong with them, and what is weaker than it should be',
    )
    .option(
      '--online',
      'also connect to the database, fetch the metadata of every identity provider, and sign in to the directory',
    )
    .action((options: { online?: boolean }) => checkConfiguration(directory(), options, io));
  program
    .command('doctor')
    .description('look at the installation and name what is wrong or weak, the worst first, with its remedy')
    .action(() => examine(directory(), io));
  program
    .command('print-schema')
    .description('print the JSON Schema of one kind of config file')
    .argument('<kind>', schemaKinds().join(', '))
    .action((kind: string) => printSchema(kind, io));
  program
    .command('docs')
    .description('write the JSON Schemas and docs/configuration.md anew')
    .option('--check', 'write nothing, and fail where a file is not as it would be written')
    .action((options) => writeDocumentation(directory(), options, io));
  program
    .command('migrate')
    .description('bring the database up to date')
    .option('--plan', 'only print what is missing')
    .option('--script', 'only write the statements, for whoever administers the database')
    .option('--grant-to <login>', 'with --script: the login of the server (default: postern)')
    .action((options) => migrate(directory(), options, io));
  program
    .command('cleanup')
    .description('delete what has expired, once')
    .action(() => cleanUp(directory(), io));
  program
    .command('certificate')
    .description('make a signing key and a certificate that it signs itself: <path>.key and <path>.crt')
    .argument('<path>', 'such as certs/wsfed-2027')
    .option('--common-name <name>', 'who the certificate says it is', 'Postern')
    .option('--days <n>', 'how long it is valid, at most 7300', '3650')
    .action((path, options) => makeCertificate(path, options, io));

  program
    .command('report')
    .description('tables for whoever reviews the installation')
    .helpCommand(false)
    .command('access')
    .description('write the clients and the accounts as CSV: what they may do, and when they were last used')
    .option('--clients', 'the clients, to standard output')
    .option('--accounts', 'the accounts, to standard output')
    .option('--output <folder>', 'both, as clients.csv and accounts.csv in this folder')
    .action((options) => reportAccess(directory(), options, io));

  addAccountCommands(program, directory, io);
  addClientCommands(program, directory, io);
  addTokenCommands(program, directory, io);
  addKeyCommands(program, directory, io);
  return program;
}

function addKeyCommands(program: Command, directory: () => string, io: CommandIo): void {
  const keys = program
    .command('keys')
    .description('the keys that the server makes itself, where ManagedKeys is set')
    .helpCommand(false)
    .addHelpText('after', '\nRunning servers take up a change within half a minute.');
  keys
    .command('list')
    .description('list the keys: in use, next, retired and revoked')
    .option('--json', 'as JSON')
    .action((options) => listKeys(directory(), options, io));
  keys
    .command('rotate')
    .description('have the next keys come into use as soon as everybody has had the time to read them')
    .option('--algorithm <name>', 'only the key of this algorithm, such as RS256')
    .option('--cookies', 'only the key for cookies')
    .option('--now', 'a minute from now, whatever others keep of the published keys')
    .action((options) => rotateKeys(directory(), options, io));
  keys
    .command('revoke')
    .description('take a key back, a minute from now: what it has signed is good no more')
    .argument('<id>', 'as "postern keys list" shows it')
    .option('--now', 'each server as soon as it looks, within half a minute')
    .action((id, options) => revokeKey(directory(), id, options, io));
  keys
    .command('protect')
    .description('encrypt every key under the first secret of DataProtectionKey')
    .action(() => protectKeys(directory(), io));
}

function addAccountCommands(program: Command, directory: () => string, io: CommandIo): void {
  const account = program
    .command('account')
    .description('the accounts of local sign-in')
    .helpCommand(false)
    .addHelpText(
      'after',
      '\nA password is asked for at a terminal; otherwise it is the first line of standard input.',
    );
  account
    .command('add')
    .description('add an account')
    .argument('<name>', 'the name to sign in with, and the "sub" of tokens; may be DOMAIN\\user')
    .option('--display-name <text>', 'the name shown')
    .option('--email <address>', 'e-mail address')
    .option('--role <role>', 'a value of the claim "role"; may be repeated', collect)
    .option('--claim <name=value>', 'a further claim; may be repeated', collect)
    .option('--windows-name <name>', 'the Windows account, as DOMAIN\\user')
    .option('--must-change', 'the password must be changed at the first sign-in')
    .option('--no-password', 'an account that cannot sign in with a password')
    .action((name, options) => addAccount(directory(), name, options, io));
  account
    .command('passwd')
    .description('set a password, and end all sessions and grants of the account')
    .argument('<name>')
    .option('--must-change', 'it must be changed at the next sign-in')
    .action((name, options) => setPassword(directory(), name, options, io));
  account
    .command('disable')
    .description('keep an account from signing in, and end all its sessions and grants')
    .argument('<name>')
    .action((name) => setDisabled(directory(), name, true, io));
  account
    .command('enable')
    .description('let a disabled account sign in again')
    .argument('<name>')
    .action((name) => setDisabled(directory(), name, false, io));
  account
    .command('unlock')
    .description(
      'forget the wrong passwords that have been counted for an account, so that nobody has to wait',
    )
    .argument('<name>')
    .action((name) => unlockAccount(directory(), name, io));
  account
    .command('import')
    .description('add the accounts of a file with the hashes of their passwords, all or none')
    .argument('<file>', 'CSV with a header (*.csv), or one JSON object a line; see docs/passwords.md')
    .option('--dry-run', 'only say what is wrong with it')
    .action((file, options) => importAccounts(directory(), file, options, io));
  account
    .command('unlink')
    .description('forget who at an identity provider the account belongs to, and end its sessions and grants')
    .argument('<name>')
    .action((name) => unlinkAccount(directory(), name, io));
  account
    .command('list')
    .description('list the accounts')
    .option('--json', 'as JSON')
    .action((options) => listAccounts(directory(), options, io));
  account
    .command('remove')
    .description('remove an account for good, with all its sessions and grants; its name stays taken')
    .argument('<name>')
    .option('--yes', 'do not ask')
    .action((name, options) => removeAccount(directory(), name, options, io));
}

function addClientCommands(program: Command, directory: () => string, io: CommandIo): void {
  program
    .command('client')
    .description('the registered clients')
    .helpCommand(false)
    .command('add')
    .description('write the file of a new client, and print its secret')
    .argument('<id>', 'the client id')
    .requiredOption(
      '--flow <flow>',
      'AuthorizationCode, AuthorizationCodeWithProofKey, ResourceOwner or ClientCredentials',
    )
    .option('--name <text>', 'the name shown to users')
    .option('--redirect-uri <uri>', 'where users may be sent back to; may be repeated', collect)
    .option(
      '--post-logout-redirect-uri <uri>',
      'where users may be sent after signing out; may be repeated',
      collect,
    )
    .option(
      '--cors-origin <origin>',
      'origin of pages that call the token endpoint; may be repeated',
      collect,
    )
    .option('--scope <scope>', 'a scope that the client may ask for; may be repeated', collect)
    .option('--provider <name>', 'an identity provider that users may choose; may be repeated', collect)
    .option('--local-login', 'users sign in with name and password')
    .option('--access-token-type <type>', 'Jwt or Reference')
    .option('--native', "a program on the user's machine")
    .option(
      '--with-secret',
      'a secret for AuthorizationCodeWithProofKey, too; the other flows have one anyway',
    )
    .action((id, options) => addClient(directory(), id, options, io));
}

function addTokenCommands(program: Command, directory: () => string, io: CommandIo): void {
  program
    .command('login')
    .description('sign in with a browser once, for scripts that run later without one')
    .argument('<client>', 'the client id')
    .option('--token', 'print an access token by the sign-in that is kept, and nothing else')
    .option('--forget', 'end the sign-in that is kept, and remove its file')
    .option('--store <file>', "where the sign-in is kept; without it, in the user's configuration folder")
    .option('--issuer <url>', 'the server, where its config files are not on this machine')
    .option(
      '--redirect-uri <uri>',
      'with --issuer: where the browser comes back to (http://localhost:32284/)',
    )
    .option('--scope <scope>', 'a scope to ask for, offline_access among them; may be repeated', collect)
    .option('--secret-env <name>', "environment variable with the client's secret")
    .option('--no-browser', 'only print the address to open')
    .option('--timeout <seconds>', 'how long to wait for the browser', parseSeconds, 300)
    .addHelpText(
      'after',
      '\nThe file holds a refresh token: whoever has it can sign in as you. Only you can read it.',
    )
    .action((client, { timeout, ...options }) =>
      login(directory(), client, { ...options, timeoutSeconds: timeout }, io),
    );

  const token = program
    .command('token')
    .description('fetch a token from the running server, as a client would; list and revoke long-lived ones')
    .helpCommand(false)
    .argument('<client>', 'the client id')
    .option(
      '--scope <scope>',
      'a scope to ask for; may be repeated; without it, all that the client may have',
      collect,
    )
    .option('--user <name>', 'the account that a client of flow ResourceOwner signs in')
    .option('--secret-env <name>', "environment variable with the client's secret")
    .option('--password-env <name>', "environment variable with the account's password")
    .option('--raw', 'print the access token and nothing else')
    .option('--timeout <seconds>', 'how long to wait for the browser', parseSeconds, 300)
    .addHelpText(
      'after',
      '\nA secret or password that no environment variable holds is asked for at a terminal; otherwise they are' +
        '\nlines of standard input, in this order. Users of an interactive client sign in with a browser.',
    )
    .action((client, { timeout, ...options }) =>
      fetchToken(directory(), client, { ...options, timeoutSeconds: timeout }, io),
    );
  token
    .command('list')
    .description('list the sign-ins that are good for a refresh: client, account, first and last use, end')
    .option('--account <name>', 'only those of this account')
    .option('--client <id>', 'only those of this client')
    .option('--json', 'as JSON')
    .action((options) => listTokens(directory(), options, io));
  token
    .command('revoke')
    .description('end a sign-in with all its tokens, or every one of an account or client')
    .argument('[handle]', 'as "postern token list" shows it')
    .option('--account <name>', 'those of this account')
    .option('--client <id>', 'those of this client')
    .action((handle, options) => revokeTokens(directory(), handle, options, io));
}

function parseSeconds(value: string): number {
  const seconds = Number(value);
  if (Number.isInteger(seconds) && seconds >= 1 && seconds <= 86_400) return seconds;
  throw new InvalidArgumentError('It is a whole number of seconds, a day at most.');
}

function readVersion(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}
