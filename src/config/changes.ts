/** What differs between two snapshots of the config files, for the audit log: files and properties, never values. */
import { createHash } from 'node:crypto';

/** A config file as it was read. */
export interface FileState {
  /** SHA-256 of the file, in hexadecimal. */
  readonly hash: string;
  /** Of each property that it has at the top, by name. */
  readonly properties: ReadonlyMap<string, string>;
}

/** A file that differs; `before` or `after` is missing for one that was added or removed. */
export interface FileChange {
  readonly file: string;
  readonly before?: string | undefined;
  readonly after?: string | undefined;
  /** The names of the properties at the top that differ; none where only comments or the order do. */
  readonly properties: readonly string[];
}

/** Notes a file; `value` is what it parses to. */
export function toFileState(bytes: Uint8Array, value: unknown): FileState {
  const members = typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
  return {
    hash: hashOf(bytes),
    properties: new Map(
      Object.entries(members).map(([name, member]) => [name, hashOf(JSON.stringify(member) ?? '')]),
    ),
  };
}

/** The files that differ, by path. */
export function changesBetween(
  before: ReadonlyMap<string, FileState>,
  after: ReadonlyMap<string, FileState>,
): FileChange[] {
  const files = [...new Set([...before.keys(), ...after.keys()])].sort();
  return files.flatMap((file) => {
    const [old, now] = [before.get(file), after.get(file)];
    if (old?.hash === now?.hash) return [];
    const names = new Set([...(old?.properties.keys() ?? []), ...(now?.properties.keys() ?? [])]);
    const properties = [...names].filter((name) => old?.properties.get(name) !== now?.properties.get(name));
    return [{ file, before: old?.hash, after: now?.hash, properties: properties.sort() }];
  });
}

function hashOf(content: Uint8Array | string): string {
  return createHash('sha256').update(content).digest('hex');
}
