/**
 * Notices changes of the config files: by the file system's events, and by looking every now and then, since
 * events are lost on network drives and some mounts. What counts is what the files hold, not that they moved.
 */
import { createHash } from 'node:crypto';
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../log.ts';
import { isConfigFile } from './load.ts';
import { readRegularFile } from './regular-file.ts';

const folders = ['.', 'clients', 'languages', 'providers', 'relying-parties', 'resources'];
/** Editors and scripts write in several steps; this long after the last one the files are taken as complete. */
const settleMs = 150;
const pollMs = 700;
/** Looking may take up this part of the time; with many files or a slow drive it becomes rarer. */
const pollShare = 0.05;

export interface WatchOptions {
  /** The folder of config files. It, and the folders in it, may be absent and appear later. */
  directory: string;
  log: Logger;
  /** Called when the files hold something else than at the last call; never while a call is still running. */
  onChange: () => Promise<void> | void;
}

/**
 * Watches the config files until disposed. Whatever they come to hold after the call is reported within a
 * second of the last write; so watch first and load then, and nothing falls between the two.
 */
export function watchConfiguration({ directory, log, onChange }: WatchOptions): Disposable {
  const watchers = new Map<string, { watcher: FSWatcher; inode: bigint }>();
  let isStopped = false;
  let isWarned = false;
  let settleTimer: NodeJS.Timeout | undefined;
  let pollTimer: NodeJS.Timeout | undefined;
  // The first poll finds other marks and looks for itself whether anything has changed since.
  const seen = { marks: '', content: readContent(directory) };
  /** The marks at the last look. */
  let looked = '';
  let isBusy = false;

  function warn(err: unknown): void {
    if (!isWarned) log.warn({ err }, 'config folder cannot be watched, looking at intervals instead');
    isWarned = true;
  }

  function release(folder: string): void {
    watchers.get(folder)?.watcher.close();
    watchers.delete(folder);
  }

  /** Attaches to the folders that are there, anew to those that were replaced by another of the same name. */
  async function attach(): Promise<void> {
    for (const folder of folders) {
      const path = join(directory, folder);
      const found = await stat(path, { bigint: true }).catch(() => undefined);
      if (isStopped) return;
      if (watchers.get(folder)?.inode === found?.ino) continue;
      release(folder);
      if (found === undefined) continue;
      try {
        const watcher = watch(path, settle);
        watcher.on('error', (err) => {
          warn(err);
          release(folder);
        });
        watchers.set(folder, { watcher, inode: found.ino });
      } catch (err) {
        warn(err);
      }
    }
  }

  function settle(): void {
    if (isStopped) return;
    clearTimeout(settleTimer);
    settleTimer = setTimeout(() => void report(), settleMs);
  }

  async function report(): Promise<void> {
    // What changes while a report is running gets one of its own afterwards.
    if (isBusy) return settle();
    isBusy = true;
    try {
      // Where no event tells of each write, files that still change are found so.
      const marks = await readMarks(directory);
      if (marks !== looked) {
        looked = marks;
        return settle();
      }
      // The marks are from before: a write in between is then seen again.
      seen.marks = marks;
      const content = readContent(directory);
      if (isStopped || content === seen.content) return;
      seen.content = content;
      await onChange();
    } catch (err) {
      log.error({ err }, 'changed config files not taken up');
    } finally {
      isBusy = false;
    }
  }

  async function poll(): Promise<void> {
    const startedAt = performance.now();
    await attach();
    const marks = await readMarks(directory);
    if (marks !== seen.marks) {
      looked = marks;
      settle();
    }
    const tookMs = performance.now() - startedAt;
    if (!isStopped) pollTimer = setTimeout(() => void poll(), Math.max(pollMs, tookMs / pollShare));
  }

  void poll();

  return {
    [Symbol.dispose]() {
      isStopped = true;
      clearTimeout(settleTimer);
      clearTimeout(pollTimer);
      for (const folder of folders) release(folder);
    },
  };
}

/** Cheap to read, and other whenever a file has been written, replaced, added or removed. */
async function readMarks(directory: string): Promise<string> {
  const marks = await Promise.all(
    folders.map(async (folder) => {
      const path = join(directory, folder);
      const names = (await readdir(path).catch(() => [])).filter(isConfigFile).sort();
      return Promise.all(
        names.map(async (name) => {
          const found = await stat(join(path, name), { bigint: true }).catch(() => undefined);
          return `${folder}/${name} ${found?.ino} ${found?.size} ${found?.mtimeNs} ${found?.ctimeNs}`;
        }),
      );
    }),
  );
  return marks.flat().join('\n');
}

/** A hash over the names and bytes of the files. */
function readContent(directory: string): string {
  const digest = createHash('sha256');
  for (const folder of folders) {
    for (const name of orElse(() => readdirSync(join(directory, folder)), [])
      .filter(isConfigFile)
      .sort()) {
      const bytes = orElse(() => readRegularFile(join(directory, folder, name)), undefined);
      digest.update(`${folder}/${name}\0${bytes?.length}\0`).update(bytes ?? '');
    }
  }
  return digest.digest('hex');
}

/** Files and folders come and go while they are looked at. */
function orElse<Found, Other>(read: () => Found, other: Other): Found | Other {
  try {
    return read();
  } catch {
    return other;
  }
}
