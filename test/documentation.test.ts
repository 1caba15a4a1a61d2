/** Holds the documents to the code: what is written down exists, and what exists is written down. */
import assert from 'node:assert/strict';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { parse } from 'jsonc-parser';
import { configurationReference, jsonSchemas } from '../src/config/documentation.ts';
import { loadConfiguration } from '../src/config/load.ts';
import { toDatabaseTarget, toKnexConfig } from '../src/store/database.ts';
import { visits } from './browser/visits.ts';
import { prepareConfiguration } from './support/start-server.ts';

interface PackageManifest {
  scripts: Record<string, string>;
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
}

const root = join(import.meta.dirname, '..');

function read(file: string): string {
  return readFileSync(join(root, file), 'utf8');
}

function readManifest(): PackageManifest {
  return JSON.parse(read('package.json')) as PackageManifest;
}

/** Paths of the properties without a description, in a JSON Schema and all that it holds. */
function findUndescribed(schema: unknown, path = ''): string[] {
  if (Array.isArray(schema))
    return schema.flatMap((part, index) => findUndescribed(part, `${path}[${index}]`));
  if (typeof schema !== 'object' || schema === null) return [];
  return Object.entries(schema).flatMap(([key, value]) => {
    if (key !== 'properties') return findUndescribed(value, path);
    return Object.entries(value as Record<string, { description?: unknown }>).flatMap(([name, property]) => {
      const described = typeof property.description === 'string' && property.description.trim() !== '';
      const propertyPath = `${path}/${name}`;
      return [...(described ? [] : [propertyPath]), ...findUndescribed(property, propertyPath)];
    });
  });
}

test('every error code is explained in docs/errors.md, and none that does not exist', () => {
  const union = /export type ErrorCode =([^;]*);/.exec(read('src/errors.ts'))?.[1] ?? '';
  const codes = [...union.matchAll(/'(ERR_[A-Z_]+)'/g)].map(([, code]) => code);
  const headings = [...read('docs/errors.md').matchAll(/^## (\S+)$/gm)].map(([, code]) => code);

  assert.ok(codes.length > 0, 'the codes are found');
  assert.deepEqual(headings, codes);
});

test('every error code is raised somewhere', () => {
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => read(join('src', file)))
    .join('\n');
  const codes = [...read('docs/errors.md').matchAll(/^## (\S+)$/gm)].map(([, code]) => code ?? '');

  // Once in the union, and once at least where it is raised.
  assert.deepEqual(
    codes.filter((code) => sources.split(`'${code}'`).length <= 2),
    [],
  );
});

test('every property of the config files has a description', () => {
  const undescribed = Object.entries(jsonSchemas()).flatMap(([kind, schema]) =>
    findUndescribed(schema, kind),
  );

  assert.deepEqual(undescribed, []);
});

test('a property without a description is found, however deep', () => {
  const schema = {
    properties: {
      Good: { description: 'Is described.', type: 'string' },
      List: { description: 'Is a list.', items: { anyOf: [{ properties: { Bad: { type: 'string' } } }] } },
    },
    $defs: { other: { properties: { Worse: { description: ' ' } } } },
  };

  assert.deepEqual(findUndescribed(schema, 'x'), ['x/List[0]/Bad', 'x/Worse']);
});

for (const kind of Object.keys(jsonSchemas()) as (keyof ReturnType<typeof jsonSchemas>)[]) {
  test(`config/schema/${kind}.schema.json is current (npm run docs)`, () => {
    assert.deepEqual(
      JSON.parse(read(`config/schema/${kind}.schema.json`)),
      JSON.parse(JSON.stringify(jsonSchemas()[kind])),
    );
  });
}

test('docs/configuration.md is current (npm run docs)', () => {
  assert.equal(read('docs/configuration.md'), configurationReference());
});

test('every file under config/ names its schema', () => {
  const files = readdirSync(join(root, 'config'), { recursive: true, encoding: 'utf8' })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => file.endsWith('.json') && !file.startsWith('schema/'));

  assert.ok(files.includes('server.json'), 'the files are found');
  for (const file of files) {
    const named = (parse(read(join('config', file))) as { $schema?: string }).$schema;
    assert.ok(named !== undefined, `${file} names no schema`);
    assert.doesNotThrow(
      () => read(join('config', file, '..', named)),
      `${file} names ${named}, which does not exist`,
    );
  }
});

test('every dependency has its reason in docs/dependencies.md, and nothing else is listed', () => {
  const { dependencies, devDependencies, optionalDependencies } = readManifest();
  const rows = [...read('docs/dependencies.md').matchAll(/^\| `([^`]+)` \|/gm)].map(([, name]) => name);

  assert.deepEqual(
    rows.sort(),
    [dependencies, devDependencies, optionalDependencies].flatMap((list) => Object.keys(list)).sort(),
  );
});

test('docs/pages.md has a picture of every page and state, and no other', () => {
  const shown = [...read('docs/pages.md').matchAll(/!\[[^\]]+\]\(images\/pages\/([\w-]+)\.png\)/g)];
  const names = Object.keys(visits).sort();

  assert.deepEqual(shown.map(([, name]) => name).sort(), names);
  assert.deepEqual(
    readdirSync(join(root, 'docs/images/pages')).sort(),
    names.map((name) => `${name}.png`).sort(),
  );
});

test('the documents name only npm scripts that exist', () => {
  const { scripts } = readManifest();
  const documents = [
    'README.md',
    'CHANGELOG.md',
    ...readdirSync(join(root, 'docs')).map((file) => join('docs', file)),
  ];
  const unknown = documents
    .filter((file) => file.endsWith('.md'))
    .flatMap((file) =>
      [...read(file).matchAll(/\bnpm (?:run ([\w:-]+)|(start|test)\b)/g)]
        .map(([, named, short]) => named ?? short ?? '')
        .filter((name) => !(name in scripts))
        .map((name) => `${file}: ${name}`),
    );

  assert.match(read('README.md'), /npm ci\b[\s\S]*npm start\b/, 'the README says how to start');
  assert.deepEqual(unknown, []);
});

test('docs/security.md names every requirement, each with tests that exist', () => {
  const document = read('docs/security.md');
  const section = (heading: string) => document.split(`\n## ${heading}\n`)[1]?.split('\n## ')[0] ?? '';
  const rowsOf = (heading: string) =>
    [...section(heading).matchAll(/^\| ([\d.]+) \| (.*) \|$/gm)].map(([, id = '', rest = '']) => ({
      id,
      rest,
    }));
  const upTo = (prefix: string, count: number) =>
    Array.from({ length: count }, (_, index) => `${prefix}${index + 1}`);
  const chapters = { 'RFC 9700': rowsOf('RFC 9700'), asvs: rowsOf('OWASP ASVS 5, chapter 10') };
  const failures = rowsOf('Known failures of others');

  assert.deepEqual(
    chapters['RFC 9700'].map(({ id }) => id),
    ['2.1', '2.1.1', '2.1.2', '2.2.1', '2.2.2', '2.3', '2.4', '2.5', '2.6', ...upTo('4.', 17)],
  );
  assert.deepEqual(
    chapters.asvs.map(({ id }) => id),
    [2, 3, 5, 16, 5, 2, 3].flatMap((count, index) => upTo(`10.${index + 1}.`, count)),
  );
  assert.deepEqual(
    failures.map(({ id }) => id),
    upTo('', 25),
  );
  const missing: string[] = [];
  for (const { id, rest } of [...chapters['RFC 9700'], ...chapters.asvs, ...failures]) {
    const named = [...rest.matchAll(/`([\w/-]+\.test\.ts)`(?: “([^”]+)”)?/g)];
    if (named.length === 0 && !rest.includes('as 2.1')) missing.push(`${id} has no test`);
  }
  for (const [, file = '', name = ''] of document.matchAll(/`([\w/-]+\.test\.ts)`(?: “([^”]+)”)?/g)) {
    const source = existsSync(join(root, 'test', file)) ? read(`test/${file}`) : '';
    const title = source.split('\n').some((line, index, lines) => {
      const isTitle = /\btest\(/.test(line) || /\btest\($/.test(lines[index - 1] ?? '');
      return isTitle && line.replaceAll("\\'", "'").includes(name);
    });
    if (source === '' || (name !== '' && !title)) missing.push(`${file}: ${name}`);
  }
  assert.deepEqual(missing, []);
});

test('npm scripts run on Windows too: no single quotes, no POSIX shell', () => {
  for (const [name, command] of Object.entries(readManifest().scripts)) {
    assert.doesNotMatch(command, /'|\$|`|;|^\w+=|\brm |\bcp |\bsh /, `the script ${name}`);
  }
});

test("the container's server.json differs from the shipped one in where it listens, only", () => {
  const shared = (file: string): object => {
    const { $schema, Listener, ...rest } = parse(read(file)) as Record<string, unknown>;
    assert.ok($schema !== undefined && Listener !== undefined, `${file} is found`);
    return rest;
  };

  assert.deepEqual(shared('deploy/docker/server.json'), shared('config/server.json'));
});

for (const file of [
  'deploy/docker/server.json',
  'deploy/docker/production/server.postgres.json',
  'deploy/docker/production/server.sqlserver.json',
  'deploy/kubernetes/server.json',
]) {
  test(`${file} is a server.json that the server takes`, async (t) => {
    const { configDirectory, folder } = await prepareConfiguration(t);
    mkdirSync(join(folder, 'certs'));
    for (const name of ['oidc', 'wsfed']) {
      copyFileSync(join(root, 'test/fixtures/signing-key.pem'), join(folder, `certs/${name}.key`));
      copyFileSync(join(root, 'test/fixtures/signing-certificate.pem'), join(folder, `certs/${name}.crt`));
    }
    for (const name of ['database.crt', 'database-ca.pem']) {
      copyFileSync(join(root, 'test/fixtures/tls/root.pem'), join(folder, 'certs', name));
    }
    writeFileSync(join(configDirectory, 'server.json'), read(file));
    if (!/"Environment": "Development"/.test(read(file))) {
      for (const name of ['accounts.json', 'clients', 'resources', 'providers'])
        rmSync(join(configDirectory, name), { recursive: true });
    }
    const env = {
      POSTERN_COOKIE_KEY: 'a key for cookies that is long enough',
      POSTERN_DATABASE: 'postgresql://postern:secret@db.example.com/postern',
      POSTGRES_CONNECTION: 'postgresql://postern:secret@postgres/postern',
      SQLSERVER_CONNECTION: 'Server=sqlserver,1433;Database=postern;User Id=postern;Password=secret',
    };
    const { server } = await loadConfiguration(configDirectory, { env });
    await toKnexConfig(toDatabaseTarget(server));
  });
}

test('whoever starts the server gives Node.js the same heap', () => {
  const places = [
    'package.json',
    'Dockerfile',
    'bin/postern.js',
    'deploy/iis/postern-service.xml',
    'docs/deployment.md',
    'docs/performance.md',
  ];
  const sizes = places.map((file) => /--max-semi-space-size=\d+/.exec(read(file))?.[0]);
  assert.equal(sizes[0], '--max-semi-space-size=8');
  assert.deepEqual(new Set(sizes), new Set([sizes[0]]), places.join(', '));
});
