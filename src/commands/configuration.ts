/** The commands about the config files: checking them, their schemas, and the documents made from the schemas. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { configurationReference, jsonSchemas } from '../config/documentation.ts';
import { loadConfiguration } from '../config/load.ts';
import { checkEngineClients } from '../provider/engine-clients.ts';
import { CommandError, describeIssue, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

/**
 * Reads every config file and says that all is well, with what is weaker than it should be.
 *
 * @throws {ConfigurationError} with every issue of every file
 */
export async function checkConfiguration(directory: string, io: CommandIo): Promise<void> {
  const configuration = await loadConfiguration(directory, io);
  checkEngineClients(configuration);
  const { clients, deviations, resources } = configuration;
  if (deviations.length > 0) {
    io.stdout.write(
      `weaker than it should be:\n${deviations.map((issue) => `${describeIssue(issue)}\n`).join('')}`,
    );
  }
  io.stdout.write(`the configuration is in order: ${clients.size} clients, ${resources.size} resources\n`);
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
