/**
 * `postern login <client>`: signs a user in once, for scripts that run later without one.
 *
 * The sign-in leaves a refresh token in a file that only its owner can read; `--token` exchanges it for an access
 * token, and `--forget` ends it at the server and removes the file. No token is ever an argument or in a log.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir, platform } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import * as z from 'zod';
import { offlineAccess } from '../config/schema.ts';
import {
  authorize,
  chooseScopes,
  discover,
  findLoopback,
  findRegistration,
  isLoopback,
  postForm,
  RefusalError,
} from './as-client.ts';
import { CommandError, exitCodes } from './exit.ts';
import { type CommandIo, openSecretReader } from './io.ts';

export interface LoginOptions {
  /** Print an access token by the stored sign-in. */
  token?: boolean;
  /** End the stored sign-in. */
  forget?: boolean;
  /** The file of the stored sign-in. */
  store?: string;
  /** The server to sign in at, where its config files are not on this machine. */
  issuer?: string;
  /** With `issuer`: where the browser comes back to. */
  redirectUri?: string;
  scope?: readonly string[];
  /** Name of the environment variable with the client's secret. */
  secretEnv?: string;
  /** Open the browser, and not only print the address. */
  browser: boolean;
  timeoutSeconds: number;
}

/** What is kept of a sign-in: all that `--token` needs, so that it works without the config files. */
const Login = z.strictObject({
  issuer: z.url(),
  clientId: z.string().min(1),
  /** Whether the client has a secret, which is not kept. */
  hasSecret: z.boolean(),
  scope: z.string(),
  refreshToken: z.string().min(1),
});
type Login = z.output<typeof Login>;

/** Where the toolkit listens. */
const defaultRedirectUri = 'http://localhost:32284/';
const defaultScopes = ['openid', 'profile', offlineAccess];

/**
 * Signs in and keeps the refresh token; or prints an access token by it; or ends it.
 *
 * @throws {CommandError} 64 for a client that cannot be used so, 69 where the server does not answer, 1 where it
 *   refuses or there is no stored sign-in, 73 where the file cannot be written
 */
export async function login(
  directory: string,
  clientId: string,
  options: LoginOptions,
  io: CommandIo,
): Promise<void> {
  const file = findFile(clientId, options, io);
  if (options.token && options.forget) {
    throw new CommandError(exitCodes.usage, '--token and --forget exclude each other');
  }
  if (options.redirectUri !== undefined && options.issuer === undefined) {
    throw new CommandError(exitCodes.usage, '--redirect-uri goes with --issuer');
  }
  if (options.token) await printToken(file, clientId, options, io);
  else if (options.forget) await forget(file, clientId, options, io);
  else await signIn(file, directory, clientId, options, io);
}

async function signIn(
  file: string,
  directory: string,
  clientId: string,
  options: LoginOptions,
  io: CommandIo,
): Promise<void> {
  const target = await findTarget(directory, clientId, options, io);
  const { issuer, redirectUri, scope, hasSecret } = target;
  if (!scope.split(' ').includes(offlineAccess)) {
    throw new CommandError(exitCodes.usage, `without the scope ${offlineAccess} there is nothing to keep`, {
      hint: `name it with --scope, and in AllowedScopes of ${clientId}`,
    });
  }
  const secret = await readSecret(clientId, hasSecret, options, io);
  const discovery = await discover(issuer);
  const form = await authorize({
    discovery,
    clientId,
    redirectUri,
    scope,
    timeoutSeconds: options.timeoutSeconds,
    opensBrowser: options.browser,
    io,
  });
  const answer = await postForm(discovery.token_endpoint, clientId, secret, form);
  if (typeof answer.refresh_token !== 'string') {
    throw new CommandError(exitCodes.failure, 'the server gave no refresh token', {
      hint: `does ${clientId} have ${offlineAccess} in its AllowedScopes?`,
    });
  }
  const login: Login = { issuer, clientId, hasSecret, scope, refreshToken: answer.refresh_token };
  const revoke = ({ refreshToken }: Login) =>
    postForm(discovery.revocation_endpoint, clientId, secret, revocation(refreshToken));
  const previous = await readLogin(file, clientId).catch(() => undefined);
  try {
    await writeLogin(file, login);
  } catch (err) {
    // Nobody will ever use it.
    await revoke(login).catch(() => undefined);
    throw err;
  }
  io.stdout.write(`signed in; the sign-in is kept in ${file}\n`);
  // The one before is no use to its owner any more, only to a thief.
  if (previous?.issuer === issuer) await revoke(previous);
}

/** What the registration says, or the options where there is none on this machine. */
async function findTarget(
  directory: string,
  clientId: string,
  { issuer, redirectUri = defaultRedirectUri, scope, secretEnv }: LoginOptions,
  io: CommandIo,
) {
  if (issuer !== undefined) {
    if (!/^https?:$/.test(URL.parse(issuer)?.protocol ?? '')) {
      throw new CommandError(exitCodes.usage, `--issuer ${JSON.stringify(issuer)} is no http or https URL`);
    }
    if (!isLoopback(redirectUri)) {
      throw new CommandError(exitCodes.usage, '--redirect-uri must be of the form http://localhost:<port>/…');
    }
    return {
      issuer: issuer.replace(/\/$/, ''),
      redirectUri,
      scope: chooseScopes(scope, defaultScopes),
      hasSecret: secretEnv !== undefined,
    };
  }
  const { client, configuration } = await findRegistration(directory, clientId, io);
  return {
    issuer: configuration.server.PublicUrl,
    redirectUri: findLoopback(client),
    scope: chooseScopes(scope, client.AllowedScopes),
    hasSecret: client.ClientSecrets.length > 0,
  };
}

async function printToken(
  file: string,
  clientId: string,
  options: LoginOptions,
  io: CommandIo,
): Promise<void> {
  const login = await readLogin(file, clientId);
  const secret = await readSecret(clientId, login.hasSecret, options, io);
  const { token_endpoint: endpoint } = await discover(login.issuer);
  const answer = await refresh(login);
  io.stdout.write(`${String(answer.access_token)}\n`);

  async function refresh(current: Login, isRepeat = false): Promise<Record<string, unknown>> {
    try {
      const { refreshToken, scope } = current;
      const form = { grant_type: 'refresh_token', refresh_token: refreshToken, scope };
      const answer = await postForm(endpoint, clientId, secret, form);
      const successor = answer.refresh_token;
      if (typeof successor === 'string' && successor !== refreshToken) {
        await replaceLogin(file, current, { ...current, refreshToken: successor });
      }
      return answer;
    } catch (err) {
      if (!(err instanceof RefusalError) || err.error !== 'invalid_grant') throw err;
      // Another script may have refreshed since the file was read, and left the successor there.
      const stored = isRepeat ? current : await readLogin(file, clientId);
      if (stored.refreshToken !== current.refreshToken) return refresh(stored, true);
      throw new CommandError(exitCodes.failure, `the sign-in in ${file} has expired or was ended`, {
        hint: `sign in again: postern login ${clientId}`,
        cause: err,
      });
    }
  }
}

async function forget(file: string, clientId: string, options: LoginOptions, io: CommandIo): Promise<void> {
  const login = await readLogin(file, clientId);
  const secret = await readSecret(clientId, login.hasSecret, options, io);
  const { revocation_endpoint: endpoint } = await discover(login.issuer);
  // First there, then here: a file that is gone can no longer be told to the server.
  await postForm(endpoint, clientId, secret, revocation(login.refreshToken));
  await rm(file, { force: true });
  io.stdout.write(`ended the sign-in, and removed ${file}\n`);
}

/** RFC 7009 section 2.1. */
function revocation(refreshToken: string): Record<string, string> {
  return { token: refreshToken, token_type_hint: 'refresh_token' };
}

async function readSecret(
  clientId: string,
  hasSecret: boolean,
  { secretEnv }: LoginOptions,
  io: CommandIo,
): Promise<string | undefined> {
  if (!hasSecret) return undefined;
  if (secretEnv !== undefined) {
    const value = io.env[secretEnv];
    if (value) return value;
    throw new CommandError(exitCodes.usage, `the environment variable ${secretEnv} is empty or not set`);
  }
  using reader = openSecretReader(io);
  // Awaited here: the reader is closed when this function is left.
  return await reader.ask(`Secret of the client ${clientId}`);
}

/** `--store`, else a file of this client in the user's configuration folder (XDG Base Directory; %APPDATA%). */
function findFile(clientId: string, { store }: LoginOptions, { env, workingDirectory }: CommandIo): string {
  if (store !== undefined) return resolve(workingDirectory, store);
  const named = [env.XDG_CONFIG_HOME, env.APPDATA].find((folder) => folder && isAbsolute(folder));
  const folder = named ?? join(env.HOME || homedir(), '.config');
  // Client ids may hold characters that file names may not.
  const name = encodeURIComponent(clientId).replaceAll('*', '%2A');
  return join(folder, 'postern', `login-${name}.json`);
}

async function readLogin(file: string, clientId: string): Promise<Login> {
  const hint = `sign in first: postern login ${clientId}`;
  let login: Login;
  try {
    // What others can read is no secret any more. Windows has no such bits: the folder of the user keeps it.
    if (platform() !== 'win32' && ((await stat(file)).mode & 0o077) !== 0) {
      throw new CommandError(exitCodes.failure, `${file} can be read by others`, {
        hint: `end that sign-in: chmod 600 it, then postern login ${clientId} --forget`,
      });
    }
    login = Login.parse(JSON.parse(await readFile(file, 'utf8')));
  } catch (cause) {
    if (cause instanceof CommandError) throw cause;
    const problem =
      (cause as NodeJS.ErrnoException).code === 'ENOENT'
        ? 'is not there'
        : 'is not a file of "postern login"';
    throw new CommandError(exitCodes.failure, `there is no sign-in: ${file} ${problem}`, { hint, cause });
  }
  if (login.clientId === clientId) return login;
  throw new CommandError(exitCodes.failure, `${file} holds a sign-in of ${login.clientId}`, { hint });
}

/** Writes the successor of what was read, unless another script has written a newer one meanwhile. */
async function replaceLogin(file: string, before: Login, after: Login): Promise<void> {
  const current = await readLogin(file, before.clientId);
  if (current.refreshToken === before.refreshToken) await writeLogin(file, after);
}

/** Writes the file as a whole or not at all: a crash leaves the sign-in that was there before. */
async function writeLogin(file: string, login: Login): Promise<void> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}`;
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    try {
      const handle = await open(temporary, 'wx', 0o600);
      try {
        await handle.writeFile(`${JSON.stringify(login, null, 2)}\n`);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, file);
    } finally {
      await rm(temporary, { force: true });
    }
  } catch (cause) {
    throw new CommandError(exitCodes.cannotCreate, `${file} cannot be written: ${(cause as Error).message}`, {
      hint: 'name another file with --store',
      cause,
    });
  }
}
