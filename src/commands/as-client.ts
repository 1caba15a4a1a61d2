/**
 * Speaking to the running server as one of its clients: discovery (OpenID Connect Discovery), form posts
 * (RFC 6749), and the sign-in of a program on the user's machine (RFC 8252): open the browser, listen on the
 * client's own loopback redirect URI, and redeem the code with PKCE (RFC 7636).
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { platform } from 'node:os';
import { type Client, type Configuration, loadConfiguration } from '../config/load.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

/** What the commands use of the discovery document. */
export interface Discovery {
  issuer: string;
  authorization_endpoint: string;
  token_endpoint: string;
  revocation_endpoint: string;
}

/**
 * The registration of a client, and the configuration that it is in.
 *
 * @throws {CommandError} 64 where there is none, naming those that there are
 * @throws {ConfigurationError}
 */
export async function findRegistration(
  directory: string,
  clientId: string,
  { env }: CommandIo,
): Promise<{ client: Client; configuration: Configuration }> {
  const configuration = await loadConfiguration(directory, { env });
  const client = configuration.clients.get(clientId);
  if (client !== undefined) return { client, configuration };
  const known = [...configuration.clients.keys()].join(', ');
  throw new CommandError(exitCodes.usage, `there is no client ${JSON.stringify(clientId)}`, {
    hint: known === '' ? 'no client is registered' : `registered are ${known}`,
  });
}

/** Scopes as they were chosen, separated by blanks or commas or one an option; else all that there are. */
export function chooseScopes(chosen: readonly string[] | undefined, all: readonly string[]): string {
  const scopes =
    chosen === undefined || chosen.length === 0 ? all : chosen.flatMap((text) => text.split(/[ ,;]+/));
  return scopes.join(' ');
}

/**
 * Reads the discovery document of an issuer.
 *
 * @throws {CommandError} 69 where the server does not answer, or calls itself otherwise (Discovery section 4.3)
 */
export async function discover(issuer: string): Promise<Discovery> {
  const url = `${issuer}/.well-known/openid-configuration`;
  const { answer, status } = await fetchAnswer(url, {});
  if (status !== 200) {
    throw new CommandError(exitCodes.unavailable, `${url} answered with status ${status}`);
  }
  const document = answer as unknown as Discovery;
  if (document.issuer === issuer) return document;
  throw new CommandError(exitCodes.unavailable, `the server at ${issuer} calls itself ${document.issuer}`, {
    hint: 'does it run with another configuration? --config <dir> names the folder',
  });
}

/**
 * Posts a form as a client, with its secret if it has one, and returns the JSON of the answer.
 *
 * @throws {RefusalError} where the server refuses
 * @throws {CommandError} 69 where it does not answer
 */
export async function postForm(
  url: string,
  clientId: string,
  secret: string | undefined,
  form: Record<string, string>,
): Promise<Record<string, unknown>> {
  // RFC 6749 section 2.3.1: both are form-encoded before they are joined.
  const encode = (part: string) => new URLSearchParams([['', part]]).toString().slice(1);
  const basic = Buffer.from(`${encode(clientId)}:${encode(secret ?? '')}`).toString('base64');
  const { answer, status } = await fetchAnswer(url, {
    method: 'POST',
    headers: secret === undefined ? {} : { authorization: `Basic ${basic}` },
    body: new URLSearchParams(secret === undefined ? { ...form, client_id: clientId } : form),
  });
  if (status === 200) return answer;
  throw new RefusalError(String(answer.error ?? `status ${status}`), answer.error_description);
}

/** The server has refused; `error` is its OAuth error code (RFC 6749 section 5.2). */
export class RefusalError extends CommandError {
  readonly error: string;

  constructor(error: string, description: unknown) {
    const text = typeof description === 'string' ? `: ${description}` : '';
    super(exitCodes.failure, `the server refused: ${error}${text}`);
    this.error = error;
  }
}

async function fetchAnswer(
  url: string,
  init: RequestInit,
): Promise<{ answer: Record<string, unknown>; status: number }> {
  try {
    const response = await fetch(url, { ...init, redirect: 'error', signal: AbortSignal.timeout(30_000) });
    const text = await response.text();
    // Revocation answers with nothing (RFC 7009 section 2.2).
    return { answer: text === '' ? {} : JSON.parse(text), status: response.status };
  } catch (cause) {
    throw new CommandError(exitCodes.unavailable, `${new URL(url).origin} does not answer as Postern would`, {
      hint: 'is the server running? "postern start" starts it',
      cause,
    });
  }
}

/** One sign-in through a browser. */
export interface BrowserSignIn {
  discovery: Discovery;
  clientId: string;
  /** Of the form `http://localhost:<port>/…`. */
  redirectUri: string;
  scope: string;
  /** For how long to wait for the browser. */
  timeoutSeconds: number;
  /** Open the browser, too; the address is printed in any case. */
  opensBrowser: boolean;
  io: CommandIo;
}

/**
 * Signs in through a browser and returns the form that redeems the code.
 *
 * @throws {RefusalError} where the sign-in is refused
 * @throws {CommandError} 69 where the redirect URI cannot be listened on, 1 where nobody signs in in time
 */
export async function authorize(signIn: BrowserSignIn): Promise<Record<string, string>> {
  const { discovery, clientId, redirectUri, scope, timeoutSeconds, opensBrowser, io } = signIn;
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(16).toString('base64url');
  const url = new URL(discovery.authorization_endpoint);
  url.search = new URLSearchParams({
    client_id: clientId,
    response_type: 'code',
    redirect_uri: redirectUri,
    scope,
    state,
    nonce: randomBytes(16).toString('base64url'),
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  }).toString();

  const code = await waitForCode({
    redirectUri: new URL(redirectUri),
    issuer: discovery.issuer,
    state,
    timeoutSeconds,
    io,
    onListening() {
      io.stderr.write(`Open this address in a browser and sign in:\n\n  ${url}\n\n`);
      if (opensBrowser) openBrowser(url.href, io);
    },
  });
  return { grant_type: 'authorization_code', code, redirect_uri: redirectUri, code_verifier: verifier };
}

/** Opens the user's browser where there is one; who has none has the address on the screen. */
function openBrowser(url: string, { env }: CommandIo): void {
  const [command, ...args] = findBrowser(env);
  if (command === undefined) return;
  try {
    const child = spawn(command, [...args, url], { detached: true, stdio: 'ignore' });
    child.once('error', () => {});
    child.unref();
  } catch {
    // What is wrong with a command is told in two ways, by what it is.
  }
}

/** The command that opens an address: BROWSER's first, else that of the desktop; empty where there is none. */
function findBrowser(env: CommandIo['env']): readonly string[] {
  const [named] = env.BROWSER?.split(platform() === 'win32' ? ';' : ':') ?? [];
  if (named) return [named];
  if (platform() === 'darwin') return ['open'];
  // Not "start": cmd would read the ampersands of the address.
  if (platform() === 'win32') return ['rundll32', 'url.dll,FileProtocolHandler'];
  return env.DISPLAY || env.WAYLAND_DISPLAY ? ['xdg-open'] : [];
}

const loopbackAddresses: Readonly<Record<string, readonly string[]>> = {
  // A browser tries either; the second may be missing on this machine.
  localhost: ['127.0.0.1', '::1'],
  '127.0.0.1': ['127.0.0.1'],
  '[::1]': ['::1'],
};

/**
 * The redirect URI of a client that this machine can listen on.
 *
 * @throws {CommandError} 64 where it has none
 */
export function findLoopback(client: Client): string {
  const redirectUri = client.RedirectUris.find(isLoopback);
  if (redirectUri !== undefined) return redirectUri;
  throw new CommandError(
    exitCodes.usage,
    `${client.ClientId} has no redirect URI of the form http://localhost:<port>/…`,
    { hint: 'register one to try the client from here, such as http://localhost:5099/callback' },
  );
}

/** Whether a redirect URI leads to a listener on this machine (RFC 8252 section 7.3). */
export function isLoopback(uri: string): boolean {
  const url = URL.parse(uri);
  return url !== null && url.protocol === 'http:' && url.hostname in loopbackAddresses;
}

interface CallbackOptions {
  redirectUri: URL;
  issuer: string;
  state: string;
  timeoutSeconds: number;
  io: CommandIo;
  onListening: () => void;
}

/** Listens on the redirect URI until the browser comes back with our state, and returns the code it brings. */
async function waitForCode({ redirectUri, issuer, state, timeoutSeconds, io, onListening }: CallbackOptions) {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  // It may be decided while the listeners are still opening.
  promise.catch(() => {});
  const listeners: Server[] = [];
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    // Whoever comes need not be the browser, and what they ask for no address.
    const url = URL.parse(request.url ?? '/', redirectUri.href);
    const parameters = url?.searchParams ?? new URLSearchParams();
    const isOurs = url?.pathname === redirectUri.pathname && parameters.get('state') === state;
    // RFC 9207: an answer of another server is none.
    const isOfIssuer = (parameters.get('iss') ?? issuer) === issuer;
    if (request.method !== 'GET' || !isOurs || !isOfIssuer) {
      response
        .writeHead(404, { 'content-type': 'text/plain' })
        .end('This is not the answer that is waited for.\n');
      return;
    }
    const code = parameters.get('code');
    const text =
      code === null
        ? 'The sign-in was refused. The terminal says why.\n'
        : 'Signed in. You can close this page.\n';
    response.writeHead(200, {
      'content-type': 'text/plain',
      'cache-control': 'no-store',
      connection: 'close',
    });
    response.end(text, () => {
      if (code === null)
        reject(new RefusalError(parameters.get('error') ?? 'no code', parameters.get('error_description')));
      else resolve(code);
    });
  };

  using _stop = io.onStop(() => reject(new CommandError(128 + 2, 'interrupted')));
  const timer = setTimeout(() => {
    reject(new CommandError(exitCodes.failure, `nobody signed in within ${timeoutSeconds} seconds`));
  }, timeoutSeconds * 1000);
  try {
    const [first, ...others] = loopbackAddresses[redirectUri.hostname] ?? [];
    const port = Number(redirectUri.port || 80);
    listeners.push(await listen(answer, first, port));
    for (const address of others) {
      const listener = await listen(answer, address, port).catch(() => undefined);
      if (listener !== undefined) listeners.push(listener);
    }
    onListening();
    return await promise;
  } finally {
    clearTimeout(timer);
    for (const listener of listeners) {
      listener.close();
      listener.closeAllConnections();
    }
  }
}

async function listen(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  address: string | undefined,
  port: number,
): Promise<Server> {
  const listener = createServer(answer);
  try {
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen(port, address, resolve);
    });
    return listener;
  } catch (cause) {
    throw new CommandError(
      exitCodes.unavailable,
      `cannot listen on ${address}:${port}: ${(cause as Error).message}`,
      {
        hint: 'the redirect URI of the client leads there; is the client itself running?',
        cause,
      },
    );
  }
}
