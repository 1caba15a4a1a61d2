/** The commands about the config files: checking them, their schemas, and the documents made from the schemas. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { configurationReference, jsonSchemas } from '../config/documentation.ts';
import { type Configuration, loadConfiguration } from '../config/load.ts';
import { isDatabaseUnavailable, ServerError } from '../errors.ts';
import { createIdentityProviders } from '../federation/identity-providers.ts';
import { createOpenIdConnect } from '../federation/openid-connect.ts';
import { createOutgoing } from '../federation/outgoing.ts';
import { createLogger, toPrintableLine } from '../log.ts';
import { checkEngineClients } from '../provider/engine-clients.ts';
import { openDatabase, toDatabaseTarget, toKnexConfig } from '../store/database.ts';
import { CommandError, describeIssue, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

/**
 * Reads every config file and says that all is well, with what is weaker than it should be. With `online` it also
 * connects to the database, fetches the metadata of every enabled identity provider, and signs in to every host of
 * the directory.
 *
 * @throws {ConfigurationError} with every issue of every file
 * @throws {ServerError} ERR_CONFIG_INVALID for a connection string that the driver does not have
 * @throws {CommandError} 69 where the database, an identity provider or a host cannot be used
 */
export async function checkConfiguration(
  directory: string,
  { online = false }: { online?: boolean },
  io: CommandIo,
): Promise<void> {
  const configuration = await loadConfiguration(directory, io);
  checkEngineClients(configuration);
  const { clients, deviations, remarks, resources, server } = configuration;
  await toKnexConfig(toDatabaseTarget(server));
  if (deviations.length > 0) {
    io.stdout.write(
      `weaker than it should be:\n${deviations.map((issue) => `${describeIssue(issue)}\n`).join('')}`,
    );
  }
  if (remarks.length > 0) {
    io.stdout.write(`worth knowing:\n${remarks.map((issue) => `${describeIssue(issue)}\n`).join('')}`);
  }
  io.stdout.write(`the configuration is in order: ${clients.size} clients, ${resources.size} resources\n`);
  if (!online) return;
  const databases = await inspectDatabase(configuration, io);
  const hosts = await inspectDirectory(configuration, io);
  const providers = await inspectIdentityProviders(configuration);
  for (const { name, problem, remark, warnings = [] } of [...databases, ...hosts, ...providers]) {
    const remarks = warnings.map((warning) => `, but ${warning}`).join('');
    io.stdout.write(`${toPrintableLine(`${name}: ${problem ?? `${remark}${remarks}`}`)}\n`);
  }
  const count = (inspections: readonly Inspection[]) =>
    inspections.filter(({ problem }) => problem !== undefined).length;
  const unusable = [
    ...describeCount(count(databases), 'database', 'databases'),
    ...describeCount(count(hosts), 'host of the directory', 'hosts of the directory'),
    ...describeCount(count(providers), 'identity provider', 'identity providers'),
  ];
  if (unusable.length > 0) {
    throw new CommandError(exitCodes.unavailable, `${unusable.join(' and ')} cannot be used`);
  }
}

function describeCount(count: number, one: string, several: string): string[] {
  if (count === 0) return [];
  return [count === 1 ? `one ${one}` : `${count} ${several}`];
}

/** What was found of somebody whom the server needs. */
export interface Inspection {
  readonly name: string;
  /** Why it cannot be used. */
  readonly problem?: string | undefined;
  /** What it does, where it can. */
  readonly remark?: string;
  readonly warnings?: readonly string[];
}

/** Connects to the database, where there is one yet: the first start makes the file of SQLite. */
async function inspectDatabase({ server }: Configuration, io: CommandIo): Promise<Inspection[]> {
  const { Client, File } = server.Database;
  const name = `database ${Client === 'sqlite' ? File : Client}`;
  if (Client === 'sqlite' && !existsSync(File)) return [{ name, remark: 'is made by the first start' }];
  const log = createLogger({ level: 'silent', format: 'json' });
  try {
    await using db = await openDatabase({ ...toDatabaseTarget(server), log, now: io.now });
    const pending = await db.pendingMigrations();
    const warnings = pending.length === 0 ? [] : [`it lacks the migrations ${pending.join(', ')}`];
    return [{ name, remark: 'answers', warnings }];
  } catch (err) {
    if (!isDatabaseUnavailable(err)) throw err;
    const { hint, message } = err as ServerError;
    return [{ name, problem: hint === undefined ? message : `${message}: ${hint}` }];
  }
}

/** Signs in to every host of the directory. */
export async function inspectDirectory({ server }: Configuration, io: CommandIo): Promise<Inspection[]> {
  if (server.Directory === undefined) return [];
  const log = createLogger({ level: 'silent', format: 'json' });
  const { createDirectory } = await import('../directory/directory.ts');
  const directory = createDirectory(server.Directory, { log, now: io.now });
  const hosts = await directory.inspect();
  return hosts.map(({ problem, url }) => ({
    name: `directory ${url}`,
    problem,
    remark: 'answers, and finds users',
  }));
}

/** Fetches the metadata of every enabled identity provider. */
export async function inspectIdentityProviders({ providers, server }: Configuration): Promise<Inspection[]> {
  const now = () => Math.floor(Date.now() / 1000);
  const log = createLogger({ level: 'silent', format: 'json' });
  await using outgoing = createOutgoing({
    log,
    proxy: server.OutgoingProxy,
    proxyExceptions: server.OutgoingProxyExceptions,
    allowedHosts: server.OutgoingAllowedHosts,
  });
  const identityProviders = createIdentityProviders({
    log,
    outgoing,
    openIdConnect: createOpenIdConnect({ outgoing, log, now }),
    now,
    publicUrl: server.PublicUrl,
    key: new Uint8Array(32),
  });
  const inspections: Inspection[] = [];
  for (const provider of providers.values()) {
    if (!provider.Enabled) continue;
    const name = `identity provider ${provider.Name}`;
    if (provider.Type === 'WsFed' && provider.isOwn && server.Mounts.includes('WsFed')) {
      // It need not run yet.
      inspections.push({ name, remark: 'is the WsFed application of this configuration' });
      continue;
    }
    try {
      inspections.push({ name, remark: 'answers', warnings: await identityProviders.inspect(provider) });
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      inspections.push({ name, problem: `${err.message}: ${err.hint}` });
    }
  }
  return inspections;
}

/** The kinds of config file that there is a schema of. */
export function schemaKinds(): readonly string[] {
  return Object.keys(jsonSchemas());
}

/**
 * Prints the JSON Schema of one kind of config file.
 *
 * @throws {CommandError} 64 for a kind that there is not
 */
export function printSchema(kind: string, io: CommandIo): void {
  const schema = new Map(Object.entries(jsonSchemas())).get(kind);
  if (schema === undefined) {
    throw new CommandError(exitCodes.usage, `there is no schema ${JSON.stringify(kind)}`, {
      hint: `there are ${schemaKinds().join(', ')}`,
    });
  }
  io.stdout.write(toJson(schema));
}

/**
 * Writes `schema/` in the config folder, and `docs/configuration.md` beside that folder.
 *
 * @throws {CommandError} with `check`, where a file is not as it would be written
 */
export async function writeDocumentation(
  directory: string,
  { check = false }: { check?: boolean },
  io: CommandIo,
): Promise<void> {
  const folder = resolve(io.workingDirectory, directory);
  const files = new Map([
    ...Object.entries(jsonSchemas()).map(
      ([kind, schema]) => [join(folder, 'schema', `${kind}.schema.json`), toJson(schema)] as const,
    ),
    [join(dirname(folder), 'docs', 'configuration.md'), configurationReference()] as const,
  ]);
  const stale: string[] = [];
  for (const [file, text] of files) {
    const current = await readFile(file, 'utf8').catch(() => undefined);
    if (current === text) continue;
    stale.push(relative(io.workingDirectory, file));
    if (!check) await write(file, text);
  }
  if (check && stale.length > 0) {
    throw new CommandError(exitCodes.failure, `not as the schemas have it: ${stale.join(', ')}`, {
      hint: 'run "postern docs"',
    });
  }
  for (const file of stale) io.stdout.write(`wrote ${file}\n`);
}

async function write(file: string, text: string): Promise<void> {
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, text);
  } catch (cause) {
    throw new CommandError(exitCodes.cannotCreate, `${file} cannot be written: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function toJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
