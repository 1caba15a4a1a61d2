/**
 * What some tests need beyond npm. Where it is missing the test is skipped with a reason that says how to
 * provide it; test/run.ts lists these reasons, and fails on them under REQUIRE_ALL=1.
 */
import { accessSync, constants, existsSync, globSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'node:test';

/** Names of browsers that Playwright drives as Chromium, in order of preference, as commands on the PATH. */
const chromiumCommands = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
/** Where installers put one without adding it to the PATH. */
const chromiumFiles: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  darwin: ['/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'],
  win32: [
    'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
    'C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe',
  ],
};

/**
 * Path of a Chromium for Playwright's `executablePath`: that in the environment variable CHROMIUM, else one
 * found on this machine. Without one the test ends here, skipped.
 */
export function requireChromium(t: TestContext): string {
  const named = process.env.CHROMIUM;
  const directories = (process.env.PATH ?? '').split(delimiter).filter((directory) => directory !== '');
  const candidates =
    named !== undefined && named !== ''
      ? [named]
      : [
          ...chromiumCommands.flatMap((command) => directories.map((directory) => join(directory, command))),
          ...(chromiumFiles[process.platform] ?? []),
        ];
  return (
    candidates.find(isExecutable) ??
    skip(t, 'no Chromium found: install one (Debian: apt-get install chromium) or name it in CHROMIUM')
  );
}

/** Path of a command, and the Debian package that has it. Without it the test ends here, skipped. */
export function requireCommand(t: TestContext, name: string, debianPackage = name): string {
  // Programs of servers are not on everybody's PATH; Debian keeps those of each PostgreSQL apart.
  const directories = [
    ...(process.env.PATH ?? '').split(delimiter),
    '/usr/sbin',
    ...globSync('/usr/lib/postgresql/*/bin').sort().reverse(),
  ];
  return (
    directories
      .filter((directory) => directory !== '')
      .map((directory) => join(directory, name))
      .find(isExecutable) ??
    skip(t, `no ${name} found: install it (Debian: apt-get install ${debianPackage})`)
  );
}

/** Path of a file, and the Debian package that has it. Without it the test ends here, skipped. */
export function requireFile(t: TestContext, file: string, debianPackage: string): string {
  return existsSync(file)
    ? file
    : skip(t, `no ${file} found: install it (Debian: apt-get install ${debianPackage})`);
}

/**
 * Folder whose `node_modules` has the package `kerberos`, from TEST_KERBEROS: it is native code, which `npm ci`
 * does not install. Without it the test ends here, skipped.
 */
export function requireKerberos(t: TestContext): string {
  const folder = process.env.TEST_KERBEROS ?? '';
  return existsSync(join(folder, 'node_modules/kerberos'))
    ? folder
    : skip(
        t,
        'no package kerberos: run "npm install --prefix <folder> kerberos@7" and put the folder in TEST_KERBEROS',
      );
}

/**
 * Folder of a package that tests start as a program and that has a lock file of its own, in test/<name>. While its
 * dependencies are not installed the test ends here, skipped.
 */
export function requirePackage(t: TestContext, name: string): string {
  const folder = join(import.meta.dirname, '..', name);
  return existsSync(join(folder, 'node_modules'))
    ? folder
    : skip(t, `no packages in test/${name}: npm ci --ignore-scripts --prefix test/${name}`);
}

/** Connection string of a PostgreSQL that tests may write to, from TEST_POSTGRES. Without one the test ends here, skipped. */
export function requirePostgres(t: TestContext): string {
  const connection = process.env.TEST_POSTGRES;
  return connection !== undefined && connection !== ''
    ? connection
    : skip(t, 'no PostgreSQL: put the connection string of a database to write to in TEST_POSTGRES');
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Marks the test as skipped and leaves it: the runner counts a test that throws after skip() as skipped. */
function skip(t: TestContext, reason: string): never {
  t.skip(reason);
  throw new Error(`skipped: ${reason}`);
}
