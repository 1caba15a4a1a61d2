/** Reading what the server looks at again while it serves, whoever may have put something else in its place. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';

/** Far above what any of these files holds. */
const maxBytes = 16 * 1024 * 1024;

/**
 * The bytes of a file. Never waits: a pipe or a device in its place would have the server wait for ever, and with it
 * everybody.
 *
 * @throws {Error} where it cannot be read, is none, or is too large; `code` says which
 */
export function readRegularFile(path: string): Buffer {
  const { O_NONBLOCK = 0, O_RDONLY } = constants;
  const file = openSync(path, O_RDONLY | O_NONBLOCK);
  try {
    const found = fstatSync(file);
    if (found.isDirectory()) throw refusal(path, 'EISDIR');
    if (!found.isFile()) throw refusal(path, 'it is no file');
    if (found.size > maxBytes) throw refusal(path, `it is larger than ${maxBytes / 1024 / 1024} MiB`);
    return readFileSync(file);
  } finally {
    closeSync(file);
  }
}

function refusal(path: string, code: string): Error {
  return Object.assign(new Error(`${path} cannot be read: ${code}`), { code });
}
