/**
 * Holds the floor plan: which folder may import which, who composes, who reads `process`, and which library
 * lives where. Imports are read from the text: TypeScript erases `import type`, so those do not count as
 * dependencies between layers.
 */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { join, posix } from 'node:path';
import test from 'node:test';

/**
 * The layers, top first. A file belongs to the longest path that it starts with; its values come from its own
 * path or from a layer further down.
 */
const layers: readonly (readonly string[])[] = [
  ['src/main'],
  ['src/commands'],
  ['src/server'],
  ['src/login', 'src/wsfed', 'src/provider', 'src/store/cleanup'],
  ['src/http'],
  ['src/pages'],
  ['src/context'],
  ['src/registry', 'src/accounts', 'src/directory', 'src/federation', 'src/keys', 'src/store/token-adapter'],
  ['src/store'],
  ['migrations'],
  ['src/config'],
  ['src/audit', 'src/languages'],
  ['src/syslog'],
  ['src/tracing'],
  ['src/log', 'src/metrics'],
  ['src/errors'],
];
/** Parts that know nothing of each other, types included. */
const features = ['src/login', 'src/wsfed', 'src/provider', 'src/store/cleanup'];
/** Files that put things together: the only ones to call the factory of another folder. */
const composers = ['src/main', 'src/commands', 'src/server'];
/** Where a library's values may be imported, and where its types may be as well. */
const libraries: Readonly<Record<string, { values: readonly string[]; types: readonly string[] }>> = {
  knex: { values: ['src/store', 'src/accounts'], types: ['migrations'] },
  ldapts: { values: ['src/directory', 'src/config'], types: [] },
  'oidc-provider': {
    values: ['src/provider', 'src/login', 'src/store', 'src/server'],
    types: ['src/registry', 'src/http', 'src/context'],
  },
};

/** An import or re-export. */
interface Import {
  /** The imported module: a path from the root of the repository, or a package or built-in as written. */
  from: string;
  isType: boolean;
  names: readonly string[];
}

/** What breaks the floor plan among `sources`, the texts of TypeScript files by path: a sentence each. */
function findViolations(sources: Readonly<Record<string, string>>): string[] {
  const imports = new Map(
    Object.entries(sources).map(([file, source]) => [file, parseImports(file, source)] as const),
  );
  return [
    ...[...imports].flatMap(([file, imported]) => imported.flatMap((one) => findImportViolations(file, one))),
    ...Object.entries(sources).flatMap(([file, source]) => findProcessViolations(file, source)),
    ...findCycles(imports).map((cycle) => `${cycle.join(' -> ')} is a cycle`),
    ...[...imports.keys()]
      .filter((file) => unitOf(file) === undefined)
      .map((file) => `${file} is in no layer`),
    ...findContextViolations(sources['src/context.ts'] ?? ''),
  ];
}

/** Imports with `from`, imports for their effect, re-exports, and `import()` of a literal. */
function parseImports(file: string, source: string): Import[] {
  const code = withoutComments(source);
  const declarations = [
    ...code.matchAll(/^(?:import|export)\s+(type\s)?([^;'"=]*?)\sfrom\s+['"]([^'"]+)['"]/gm),
  ].map(([, type, names, from]) => ({ type, names, from }));
  const effects = [
    ...code.matchAll(/^import\s+['"]([^'"]+)['"]/gm),
    ...code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g),
  ].map(([, from]) => ({ type: undefined, names: '', from }));
  return [...declarations, ...effects].map(({ type, names = '', from = '' }) => ({
    from: from.startsWith('.') ? posix.join(posix.dirname(file), from) : from,
    isType: type !== undefined,
    names: names
      .replace(/[{}]/g, ',')
      .split(',')
      .map((name) => name.trim().split(/\s+as\s+/)[0] ?? '')
      .filter((name) => name !== ''),
  }));
}

function findImportViolations(file: string, { from, isType, names }: Import): string[] {
  const unit = unitOf(file);
  const target = unitOf(from);
  const violations: string[] = [];

  for (const [library, allowed] of Object.entries(libraries)) {
    const folders = isType ? [...allowed.values, ...allowed.types] : allowed.values;
    if (
      (from === library || from.startsWith(`${library}/`)) &&
      !folders.some((folder) => isWithin(file, folder))
    ) {
      violations.push(`${file} imports ${library}`);
    }
  }
  if (/^(node:)?process$/.test(from)) violations.push(`${file} imports process`);
  if (from.startsWith('src/') && target === undefined)
    violations.push(`${file} imports ${from}, which is in no layer`);
  if (unit === undefined || target === undefined || unit === target) return violations;

  if (target === 'migrations' && unit !== 'src/store')
    violations.push(`${file} imports ${from}: only store may`);
  if (features.includes(unit) && features.includes(target)) {
    violations.push(`${file} imports ${from}: features do not know each other`);
  } else if (!isType && depthOf(target) <= depthOf(unit)) {
    violations.push(`${file} imports ${from}, which is not in a lower layer`);
  }
  const factory = names.find((name) => /^(create|start)[A-Z]/.test(name));
  if (factory !== undefined && !isType && !composers.includes(unit) && folderOf(file) !== folderOf(from)) {
    violations.push(`${file} calls ${factory}: only server.ts, main.ts and the commands put things together`);
  }
  return violations;
}

/** Every mention of `process` outside main.ts, but for one: the logger writes to the standard output by default. */
function findProcessViolations(file: string, source: string): string[] {
  if (file === 'src/main.ts') return [];
  const code = withoutComments(source).replace(/'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/g, "''");
  const exceptions: Readonly<Record<string, string>> = {
    'src/log.ts': 'destination = process.stdout',
    'src/audit.ts': 'stdout = process.stdout',
    // The library of Kerberos has no other place for it.
    'src/wsfed/negotiate.ts': 'process.env.KRB5_KTNAME =',
  };
  const allowed = code.replace(exceptions[file] ?? '', '');
  return /(?<![\w$.])process\b(?!\s*:)/.test(allowed) || /\bglobalThis\.process\b/.test(allowed)
    ? [`${file} reads process`]
    : [];
}

function findContextViolations(source: string): string[] {
  const code = withoutComments(source);
  return /^export\s+(?!type\b|interface\b)/m.test(code) || /^import\s+(?!type\s)/m.test(code)
    ? ['src/context.ts holds more than types']
    : [];
}

/** Cycles of value imports, each as the files on the way round, once however it is entered. */
function findCycles(imports: ReadonlyMap<string, readonly Import[]>): string[][] {
  const cycles: string[][] = [];
  const finished = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) {
      cycles.push([...path.slice(path.indexOf(file)), file]);
      return;
    }
    if (finished.has(file)) return;
    for (const { from, isType } of imports.get(file) ?? []) {
      if (!isType && imports.has(from)) visit(from, [...path, file]);
    }
    finished.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
  return cycles;
}

/** The entry of {@link layers} that a file belongs to. */
function unitOf(file: string): string | undefined {
  return layers
    .flat()
    .filter((unit) => isWithin(file, unit))
    .sort((a, b) => b.length - a.length)[0];
}

function depthOf(unit: string): number {
  return layers.findIndex((layer) => layer.includes(unit));
}

function isWithin(file: string, unit: string): boolean {
  return file.startsWith(`${unit}/`) || file === `${unit}.ts`;
}

function folderOf(file: string): string {
  return posix.dirname(file);
}

/** The text without its comments; strings are recognised, so that `'https://…'` stays. */
function withoutComments(source: string): string {
  return source.replace(
    /('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`)|\/\*[\s\S]*?\*\/|(?<![\\/[(])\/\/.*/g,
    (_match, text: string | undefined) => text ?? '',
  );
}

const root = join(import.meta.dirname, '..');

function readSources(): Record<string, string> {
  return Object.fromEntries(
    globSync(['src/**/*.ts', 'migrations/**/*.ts'], { cwd: root })
      .filter((file) => !file.endsWith('.d.ts'))
      .map((file) => [file.replaceAll('\\', '/'), readFileSync(join(root, file), 'utf8')]),
  );
}

test('the source keeps the floor plan', () => {
  const sources = readSources();

  assert.ok(Object.keys(sources).length > 20, 'the sources are found');
  assert.ok(
    Object.entries(sources).flatMap(([file, source]) => parseImports(file, source)).length > 50,
    'the imports are found',
  );
  assert.deepEqual(findViolations(sources), []);
});

test('the program imports only what is installed without development and optional packages', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const imported = Object.entries(readSources()).flatMap(([file, source]) =>
    parseImports(file, source)
      .filter(({ from, isType }) => !isType && !isBuiltin(from) && !/^(src|migrations)\//.test(from))
      .map(({ from }) => /^(?:@[^/]+\/)?[^/]+/.exec(from)?.[0] ?? from),
  );

  assert.ok(imported.includes('oidc-provider'), 'the packages are found');
  assert.deepEqual(
    [...new Set(imported)].filter((name) => !(name in manifest.dependencies)),
    [],
  );
});

const broken: readonly { name: string; sources: Record<string, string>; violation: RegExp }[] = [
  {
    name: 'a value imported from a higher layer',
    sources: { 'src/config/load.ts': "import { thing } from '../registry/registry.ts';" },
    violation: /load\.ts imports src\/registry\/registry\.ts, which is not in a lower layer/,
  },
  {
    name: 'a value imported from a neighbour in the same layer',
    sources: { 'src/accounts/accounts.ts': "import {\n  one,\n  two,\n} from '../keys/keys.ts';" },
    violation: /accounts\.ts imports src\/keys\/keys\.ts, which is not in a lower layer/,
  },
  {
    name: 'the database importing the token adapter above it',
    sources: { 'src/store/database.ts': "import { createTokenAdapter } from './token-adapter.ts';" },
    violation: /not in a lower layer/,
  },
  {
    name: 'a type of another feature',
    sources: { 'src/login/routes.ts': "import type { Thing } from '../provider/provider.ts';" },
    violation: /features do not know each other/,
  },
  {
    name: 'a value re-exported from a higher layer',
    sources: { 'src/errors.ts': "export { Registry } from './registry/registry.ts';" },
    violation: /not in a lower layer/,
  },
  {
    name: 'a module of a higher layer loaded later',
    sources: { 'src/config/load.ts': "export const later = () => import('../server.ts');" },
    violation: /not in a lower layer/,
  },
  {
    name: 'migrations outside the store',
    sources: { 'src/server.ts': "import { migrations } from '../migrations/index.ts';" },
    violation: /only store may/,
  },
  {
    name: 'a factory called by a feature',
    sources: { 'src/login/routes.ts': "import { createAccounts } from '../accounts/accounts.ts';" },
    violation: /calls createAccounts/,
  },
  {
    name: 'process read in a feature',
    sources: { 'src/login/routes.ts': 'export const home = process.env.HOME;' },
    violation: /routes\.ts reads process/,
  },
  {
    name: 'process read inside a template',
    sources: { 'src/login/routes.ts': 'export const home = `$'.concat('{process.cwd()}/x`; // https://x') },
    violation: /routes\.ts reads process/,
  },
  {
    name: 'process imported',
    sources: { 'src/http/http.ts': "import { env } from 'node:process';" },
    violation: /http\.ts imports process/,
  },
  {
    name: 'the environment read by the logger, which may only write to the standard output',
    sources: {
      'src/log.ts': 'const level = process.env.LEVEL; const f = ({ destination = process.stdout }) => {};',
    },
    violation: /log\.ts reads process/,
  },
  {
    name: 'SQL outside the store',
    sources: { 'src/provider/provider.ts': "import knexFactory from 'knex';" },
    violation: /provider\.ts imports knex/,
  },
  {
    name: 'the engine outside its parts',
    sources: { 'src/config/load.ts': "import { errors } from 'oidc-provider';" },
    violation: /load\.ts imports oidc-provider/,
  },
  {
    name: 'a cycle inside a folder',
    sources: {
      'src/pages/a.ts': "import { b } from './b.ts';",
      'src/pages/b.ts': "import { c } from './c.ts';",
      'src/pages/c.ts': "import { a } from './a.ts';",
    },
    violation: /src\/pages\/a\.ts -> src\/pages\/b\.ts -> src\/pages\/c\.ts -> src\/pages\/a\.ts is a cycle/,
  },
  {
    name: 'a folder that the plan does not know',
    sources: { 'src/helpers/strings.ts': 'export const x = 1;' },
    violation: /is in no layer/,
  },
  {
    name: 'a value in the context',
    sources: { 'src/context.ts': "import { Registry } from './registry/registry.ts';" },
    violation: /context\.ts holds more than types/,
  },
];

for (const { name, sources, violation } of broken) {
  test(`the floor plan refuses ${name}`, () => {
    assert.match(findViolations(sources).join('\n'), violation);
  });
}

test('the floor plan allows what it is there for', () => {
  assert.deepEqual(
    findViolations({
      'src/main.ts': "import { createLogger } from './log.ts';\nprocess.exitCode = 1;",
      'src/server.ts':
        "import { createAccounts } from './accounts/accounts.ts';\nimport { Provider } from 'oidc-provider';",
      'src/login/routes.ts':
        "/** Stops the process. */\nimport type { ServerContext } from '../context.ts';\nimport { page } from '../pages/layout.ts';",
      'src/pages/layout.ts': "import { html } from './html.ts'; // process.env is not read",
      'src/pages/html.ts': "export const text = 'the process.env of a string';",
      'src/accounts/accounts.ts':
        "import type { Keys } from '../keys/keys.ts';\nimport { db } from '../store/database.ts';",
      'src/keys/keys.ts': "import type { Accounts } from '../accounts/accounts.ts';",
      'src/store/database.ts':
        "import { migrations } from '../../migrations/index.ts';\nimport knex from 'knex';",
      'src/provider/provider.ts': "import { createLayout } from './layout.ts';",
      'src/provider/layout.ts': 'export const options = { process: 1 };',
      'src/log.ts': 'export function createLogger({ destination = process.stdout }) {}',
      'migrations/index.ts': "import type { Knex } from 'knex';",
    }),
    [],
  );
});
