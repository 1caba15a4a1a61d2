/**
 * `postern token <client>`: fetches a token from the running server as that client would, for trying things.
 *
 * ClientCredentials and ResourceOwner are one request. Users of an interactive client sign in with a browser.
 */
import type { Client } from '../config/load.ts';
import {
  authorize,
  chooseScopes,
  type Discovery,
  discover,
  findLoopback,
  findRegistration,
  postForm,
} from './as-client.ts';
import { CommandError, exitCodes } from './exit.ts';
import { type CommandIo, openSecretReader, type SecretReader } from './io.ts';

export interface TokenOptions {
  scope?: readonly string[];
  /** The account whose name and password a ResourceOwner client sends. */
  user?: string;
  /** Names of environment variables; without one the secret is asked for, or read from standard input. */
  secretEnv?: string;
  passwordEnv?: string;
  /** Print the access token and nothing else. */
  raw?: boolean;
  /** For how long to wait for the browser. */
  timeoutSeconds: number;
}

/**
 * Prints the token response as JSON, or the access token alone. Secrets come from the environment, else from
 * the terminal or standard input: the client's first, then the account's password, a line each.
 *
 * @throws {CommandError} 69 where the server does not answer, 1 where it refuses
 */
export async function fetchToken(
  directory: string,
  clientId: string,
  options: TokenOptions,
  io: CommandIo,
): Promise<void> {
  const { client, configuration } = await findRegistration(directory, clientId, io);
  if ((options.user !== undefined) !== (client.Flow === 'ResourceOwner')) {
    const problem =
      options.user === undefined
        ? `${clientId} signs in an account: name it with --user`
        : `--user is for a client of flow ResourceOwner; ${clientId} has ${client.Flow}`;
    throw new CommandError(exitCodes.usage, problem);
  }

  const discovery = await discover(configuration.server.PublicUrl);
  const tokens = await requestTokens({ client, discovery, options, io });
  io.stdout.write(options.raw ? `${String(tokens.access_token)}\n` : `${JSON.stringify(tokens, null, 2)}\n`);
}

interface Attempt {
  client: Client;
  discovery: Discovery;
  options: TokenOptions;
  io: CommandIo;
}

async function requestTokens(attempt: Attempt): Promise<Record<string, unknown>> {
  const { client, discovery, options, io } = attempt;
  // Opened only when something is asked for: it takes the terminal.
  let reader: SecretReader | undefined;
  const readSecret = async (question: string, variable: string | undefined) => {
    if (variable === undefined) {
      reader ??= openSecretReader(io);
      return reader.ask(question);
    }
    const value = io.env[variable];
    if (value) return value;
    throw new CommandError(exitCodes.usage, `the environment variable ${variable} is empty or not set`);
  };

  try {
    const secret =
      client.ClientSecrets.length === 0
        ? undefined
        : await readSecret(`Secret of the client ${client.ClientId}`, options.secretEnv);
    const scope = chooseScopes(options.scope, client.AllowedScopes);
    const redeem = (form: Record<string, string>) =>
      postForm(discovery.token_endpoint, client.ClientId, secret, form);

    switch (client.Flow) {
      case 'ClientCredentials':
        return await redeem({ grant_type: 'client_credentials', scope });
      case 'ResourceOwner': {
        const { user = '' } = options;
        const password = await readSecret(`Password of ${user}`, options.passwordEnv);
        return await redeem({ grant_type: 'password', username: user, password, scope });
      }
      case 'AuthorizationCode':
      case 'AuthorizationCodeWithProofKey':
        reader?.[Symbol.dispose]();
        return await redeem(
          await authorize({
            discovery,
            clientId: client.ClientId,
            redirectUri: findLoopback(client),
            scope,
            timeoutSeconds: options.timeoutSeconds,
            opensBrowser: false,
            io,
          }),
        );
      default:
        throw new CommandError(
          exitCodes.usage,
          `the flow ${client.Flow} of ${client.ClientId} cannot be tried here`,
        );
    }
  } finally {
    reader?.[Symbol.dispose]();
  }
}
