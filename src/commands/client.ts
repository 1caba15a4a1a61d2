/** `postern client add`: writes the file of a new client. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, unlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { findFileNameProblem } from '../config/checks.ts';
import { loadConfiguration } from '../config/load.ts';
import { ClientRegistration } from '../config/schema.ts';
import { checkEngineClients } from '../provider/engine-clients.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

export interface AddClientOptions {
  flow: string;
  name?: string;
  redirectUri?: readonly string[];
  postLogoutRedirectUri?: readonly string[];
  corsOrigin?: readonly string[];
  scope?: readonly string[];
  provider?: readonly string[];
  localLogin?: boolean;
  accessTokenType?: string;
  native?: boolean;
  /** Gives a client of AuthorizationCodeWithProofKey a secret; those of other flows have one anyway. */
  withSecret?: boolean;
}

type Property = Exclude<keyof typeof ClientRegistration.shape, '$schema'>;

/**
 * Writes `clients/<id>.json` and prints the client's secret, which is kept nowhere: the file has its SHA-256.
 *
 * The file stays only if the whole configuration is in order with it.
 *
 * @throws {ConfigurationError} for what is wrong without it, or with it
 * @throws {CommandError} 73 where the client or the file is there already, or the file cannot be written
 */
export async function addClient(
  directory: string,
  id: string,
  options: AddClientOptions,
  io: CommandIo,
): Promise<void> {
  const flow = ClientRegistration.shape.Flow.safeParse(options.flow);
  if (!flow.success) {
    throw new CommandError(exitCodes.usage, `--flow ${options.flow}: ${flow.error.issues[0]?.message}`);
  }
  const { clients } = await loadConfiguration(directory, io);
  const taken = [...clients.keys()].find((known) => known.toLowerCase() === id.toLowerCase());
  if (taken !== undefined) {
    throw new CommandError(exitCodes.cannotCreate, `there is a client ${JSON.stringify(taken)} already`);
  }

  // 256 bits: what RFC 6749 section 10.10 asks for and more, so that a plain hash of it is safe to keep.
  const needsSecret = flow.data !== 'AuthorizationCodeWithProofKey' || options.withSecret === true;
  const secret = needsSecret ? randomBytes(32).toString('base64url') : undefined;
  const fileName = toFileName(id);
  const text = formatRegistration({
    ...(fileName === `${id}.json` ? undefined : { ClientId: id }),
    ...(options.name === undefined ? undefined : { ClientName: options.name }),
    Flow: flow.data,
    ...(secret === undefined ? undefined : { ClientSecrets: [toSecretEntry(secret, io.now())] }),
    ...whenGiven('RedirectUris', options.redirectUri),
    ...whenGiven('PostLogoutRedirectUris', options.postLogoutRedirectUri),
    ...whenGiven('AllowedCorsOrigins', options.corsOrigin),
    AllowedScopes: options.scope ?? [],
    // The two direct flows are local login and nothing else.
    EnableLocalLogin:
      options.localLogin === true || flow.data === 'ResourceOwner' || flow.data === 'ClientCredentials',
    ...whenGiven('IdentityProviderRestrictions', options.provider),
    ...(options.accessTokenType === undefined ? undefined : { AccessTokenType: options.accessTokenType }),
    ...(options.native ? { ApplicationType: 'Native' } : undefined),
  });

  const label = join(directory, 'clients', fileName);
  const file = resolve(io.workingDirectory, label);
  await create(file, text);
  try {
    checkEngineClients(await loadConfiguration(directory, io));
  } catch (err) {
    await unlink(file);
    throw err;
  }

  io.stdout.write(`wrote ${label}\n`);
  if (secret === undefined) return;
  io.stdout.write(`secret of ${id}: ${secret}\n`);
  io.stderr.write('The secret is shown this once: the file has only its hash.\n');
}

function whenGiven(
  property: Property,
  values: readonly string[] | undefined,
): Partial<Record<Property, unknown>> {
  return values === undefined || values.length === 0 ? {} : { [property]: values };
}

function toSecretEntry(secret: string, now: number): Record<string, string> {
  const madeOn = new Date(now * 1000).toISOString().slice(0, 10);
  return {
    Value: createHash('sha256').update(secret).digest('base64'),
    Description: 'made by postern client add',
    Created: madeOn,
  };
}

/** The file's name says the id where it can on every system; else a similar one, and `ClientId` says it. */
function toFileName(id: string): string {
  // A file that begins with a dot is none of the configuration.
  if (findFileNameProblem(id) === undefined && !id.startsWith('.')) return `${id}.json`;
  const similar = id.replace(/[^A-Za-z0-9_-]+/g, '-').replace(/^-+|-+$/g, '');
  return `client-${similar === '' ? createHash('sha256').update(id).digest('hex').slice(0, 8) : similar}.json`;
}

/** The registration as a file: each property under the first sentence of its description. */
function formatRegistration(registration: Partial<Record<Property, unknown>>): string {
  const properties = Object.entries(registration).map(([property, value]) => {
    const { description = '' } = ClientRegistration.shape[property as Property];
    const sentence = /^.*?\.(?= |$)/.exec(description)?.[0] ?? description;
    const json = JSON.stringify(value, null, 2).replaceAll('\n', '\n  ');
    return `${sentence === '' ? '' : `  // ${sentence}\n`}  ${JSON.stringify(property)}: ${json}`;
  });
  return `{\n${['  "$schema": "../schema/client.schema.json"', ...properties].join(',\n')}\n}\n`;
}

async function create(file: string, text: string): Promise<void> {
  try {
    await mkdir(join(file, '..'), { recursive: true });
    // Never over a file that is there, even one that has just come.
    await writeFile(file, text, { flag: 'wx' });
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new CommandError(
      exitCodes.cannotCreate,
      code === 'EEXIST' ? `${file} is there already` : `${file} cannot be written: ${message}`,
      { cause },
    );
  }
}
