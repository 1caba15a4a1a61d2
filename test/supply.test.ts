/**
 * What we stand on, as the lock files have it: every package by its hash, none that runs a script when it is
 * installed, and none whose licence asks for more than to be named.
 *
 * UPDATE_LICENCES=1 writes docs/licences.md anew.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

const root = join(import.meta.dirname, '..');

/** What npm writes about a package; its path in node_modules is the key. */
interface LockedPackage {
  readonly version: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly link?: boolean;
  readonly license?: string;
  readonly dev?: boolean;
  readonly hasInstallScript?: boolean;
}

function readLock(folder: string): [path: string, LockedPackage][] {
  const { packages } = JSON.parse(readFileSync(join(root, folder, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, LockedPackage>;
  };
  return Object.entries(packages).filter(([path]) => path !== '');
}

/** By path, with the reason: none so far. */
const mayRunScripts: Readonly<Record<string, string>> = {};

/** Licences that ask for no more than to be named, where the package goes. */
const permissive: readonly string[] = ['0BSD', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'MIT'];

for (const folder of ['.', 'test/relying-party']) {
  test(`every package of ${join(folder, 'package-lock.json')} is held by a hash, and by no address`, () => {
    const packages = readLock(folder);
    assert.ok(packages.length > 10);
    for (const [path, { integrity, link, resolved, version }] of packages) {
      assert.match(integrity ?? '', /^sha512-[A-Za-z0-9+/]{86}==$/, path);
      assert.equal(resolved, undefined, path);
      assert.equal(link, undefined, path);
      assert.match(version, /^\d+\.\d+\.\d+/, path);
    }
  });

  test(`no package of ${join(folder, 'package-lock.json')} runs a script when it is installed`, () => {
    for (const [path, { hasInstallScript = false }] of readLock(folder)) {
      if (path in mayRunScripts) continue;
      assert.equal(hasInstallScript, false, path);
      // The lock file repeats it; the package itself decides.
      const manifest = join(root, folder, path, 'package.json');
      if (!existsSync(manifest)) continue;
      const { gypfile, scripts = {} } = JSON.parse(readFileSync(manifest, 'utf8')) as {
        gypfile?: boolean;
        scripts?: Record<string, string>;
      };
      const run = ['preinstall', 'install', 'postinstall'].filter((name) => name in scripts);
      assert.deepEqual([run, gypfile ?? false], [[], false], path);
    }
  });
}

/** The licence that we take a package under: of several that are offered, the first that is permissive. */
function licenceOf([path, { license = 'none' }]: [string, LockedPackage]): string {
  const offered = license.replace(/^\((.*)\)$/, '$1').split(' OR ');
  const taken = offered.find((one) => permissive.includes(one));
  assert.ok(taken !== undefined, `${path}: ${license} is none of ${permissive.join(', ')}`);
  return taken;
}

test('every package that runs with Postern has a permissive licence, and docs/licences.md names them all', () => {
  const running = readLock('.').filter(([, { dev = false }]) => !dev);
  const byLicence = Map.groupBy(running, licenceOf);
  const sections = [...byLicence].sort().map(([licence, packages]) => {
    const names = packages.map(
      ([path, { version }]) =>
        `${path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)} ${version}`,
    );
    return `## ${licence}\n\n${[...new Set(names)].sort().join(', ')}\n`;
  });
  const text = `# Licences\n\nOf the packages that run with Postern, all of which \`npm ci --omit=dev\` may install, by the licence that we take each under. Made from \`package-lock.json\` by \`UPDATE_LICENCES=1 node --test test/supply.test.ts\`; the same test admits ${permissive.join(', ')} and no other. The text of each licence is in its package.\n\n${sections.join('\n')}`;
  const file = join(root, 'docs/licences.md');
  if (process.env.UPDATE_LICENCES === '1') writeFileSync(file, text);
  assert.equal(existsSync(file) ? readFileSync(file, 'utf8') : '', text, 'UPDATE_LICENCES=1 writes it anew');
});
