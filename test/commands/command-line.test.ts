import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { startSlapd } from '../support/directory.ts';
import { startOpenIdProvider, startWsFedProvider } from '../support/identity-providers.ts';
import { findFreePort } from '../support/start-server.ts';
import { install } from './postern.ts';

test('help names every command and ends well', async (t) => {
  const { run } = await install(t);

  const { code, stdout, stderr } = await run(['--help']);

  assert.equal(code, 0);
  assert.equal(stderr, '');
  for (const command of [
    'start',
    'check-config',
    'print-schema',
    'docs',
    'migrate',
    'cleanup',
    'account',
    'client',
    'token',
    'login',
  ]) {
    assert.match(stdout, new RegExp(`^ {2}${command}\\b`, 'm'));
  }
  assert.match((await run(['account', 'add', '--help'])).stdout, /--must-change/);
});

test('the version is that of the package', async (t) => {
  const { run } = await install(t);
  const manifest = await readFile(join(import.meta.dirname, '..', '..', 'package.json'), 'utf8');

  assert.equal((await run(['--version'])).stdout, `${JSON.parse(manifest).version}\n`);
});

test('a command line that is wrong ends with 64 and says what is wrong', async (t) => {
  const { run } = await install(t);
  for (const [args, reason] of [
    [['strat'], /unknown command 'strat'/],
    [['--nonsense'], /unknown option '--nonsense'/],
    [['account', 'ad'], /unknown command 'ad'/],
    [['account', 'add'], /missing required argument 'name'/],
    [['account', 'list', 'all'], /too many arguments/],
    [['account', 'add', 'pat', '--claim', 'department'], /not of the form name=value/],
    [['client', 'add', 'app'], /required option '--flow <flow>' not specified/],
    [['client', 'add', 'app', '--flow', 'Sideways'], /--flow Sideways/],
    [['token', 'batch', '--timeout', '1.5'], /whole number of seconds/],
    [['token', 'nobody'], /there is no client "nobody"/],
    [['print-schema', 'constructor'], /there is no schema "constructor"/],
  ] as const) {
    const { code, stdout, stderr } = await run(args);
    assert.deepEqual([code, stdout], [64, ''], `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, reason);
    assert.match(stderr, /^postern: /);
    assert.doesNotMatch(stderr, /^ +at /m);
  }
});

test('a configuration that is wrong ends with 78 and every issue of every file', async (t) => {
  const { run, write } = await install(t);
  await write('config/clients/broken.json', '{ "Flow": "ResourceOwner", "EnableLocalLogn": true }');
  await write('config/clients/worse.json', '{ "Flow": ');

  for (const args of [['check-config'], [], ['account', 'list'], ['migrate'], ['token', 'batch']]) {
    const { code, stdout, stderr } = await run(args);
    assert.deepEqual([code, stdout], [78, ''], args.join(' '));
    assert.match(stderr, /ERR_CONFIG_INVALID/);
    assert.match(stderr, /config\/clients\/broken\.json {2}EnableLocalLogn: .*\n.*EnableLocalLogin/);
    assert.match(stderr, /config\/clients\/worse\.json/);
    assert.doesNotMatch(stderr, /^ +at /m);
  }
});

test('a folder without a configuration is named', async (t) => {
  const { run } = await install(t);

  const { code, stderr } = await run(['check-config', '--config', 'elsewhere']);

  assert.equal(code, 78);
  assert.match(stderr, /elsewhere\/server\.json: is missing/);
});

test('a database that cannot be opened ends with 69, and with a stack only for those who debug', async (t) => {
  const { run, write } = await install(t);
  const settings = { Environment: 'Development', PublicUrl: 'http://localhost:5080/SPSSMR/Oidc' };
  await write('not-a-folder', '');
  const place = { Database: { File: 'not-a-folder/postern.sqlite' } };

  await write('config/server.json', JSON.stringify({ ...settings, ...place }));
  const quiet = await run(['migrate']);
  await write('config/server.json', JSON.stringify({ ...settings, ...place, Log: { Level: 'debug' } }));
  const talkative = await run(['migrate']);

  assert.deepEqual([quiet.code, talkative.code], [69, 69]);
  assert.match(quiet.stderr, /^postern: .*\(ERR_DATABASE_UNAVAILABLE\)\n {2}check that the folder exists/);
  assert.doesNotMatch(quiet.stderr, /^ +at /m);
  assert.match(talkative.stderr, /^ +at /m);
});

test('the shipped configuration is in order, and check-config names what is weak in it', async (t) => {
  const { run } = await install(t);

  const { code, stdout, stderr } = await run(['check-config']);

  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /weaker than it should be:\n(?: .*\n)+/);
  assert.match(stdout, /config\/clients\/desk\.json {2}Flow: /);
  assert.match(stdout, /config\/clients\/mi-legacy\.json {2}RequirePkce: /);
  assert.match(stdout, /the configuration is in order: \d+ clients, \d+ resources\n$/);
});

test('check-config says what a translation lacks', async (t) => {
  const { folder, run, write } = await install(t);
  await mkdir(join(folder, 'config/languages'));
  await write('config/languages/fr.json', '{ "back": "Retour" }');

  const { code, stdout, stderr } = await run(['check-config']);

  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /worth knowing:\n.*config\/languages\/fr\.json.*\d+ messages are missing/);
});

test('the schema of a config file is printed as JSON', async (t) => {
  const { run } = await install(t);

  const { code, stdout } = await run(['print-schema', 'client']);

  assert.equal(code, 0);
  const schema = JSON.parse(stdout);
  assert.ok('Flow' in schema.properties && 'AllowedScopes' in schema.properties);
  assert.equal(schema.additionalProperties, false);
});

test('docs writes what is missing, and docs --check fails until nothing is', async (t) => {
  const { run, read, write } = await install(t);

  const stale = await run(['docs', '--check']);
  assert.equal(stale.code, 1);
  assert.match(stale.stderr, /docs[/\\]configuration\.md/);
  await assert.rejects(read('docs/configuration.md'), { code: 'ENOENT' });

  assert.equal((await run(['docs'])).code, 0);
  assert.match(await read('docs/configuration.md'), /AllowedScopes/);
  assert.equal((await run(['docs', '--check'])).code, 0);

  await write('config/schema/client.schema.json', '{}');
  assert.equal((await run(['docs', '--check'])).code, 1);
});

test('check-config --online signs in to every host of the directory, and says what is wrong', async (t) => {
  const slapd = await startSlapd(t);
  const dead = await startSlapd(t);
  await dead.kill();
  const server = { Directory: slapd.settings({ Urls: [slapd.url, dead.url] }) };
  const { run, write, read } = await install(t, { server });
  const empty = await run(['check-config', '--online']);
  assert.equal(empty.code, 69);
  assert.match(empty.stdout, /directory ldaps:\/\/localhost:\d+: there are no users below dc=example,dc=com/);
  assert.match(empty.stdout, /directory ldaps:\/\/localhost:\d+: connect ECONNREFUSED/);
  assert.match(empty.stderr, /2 hosts of the directory cannot be used/);

  await slapd.addPerson({ uid: 'dora' });
  const half = await run(['check-config', '--online']);
  assert.equal(half.code, 69);
  assert.ok(half.stdout.includes(`directory ${slapd.url}: answers, and finds users`));
  const settings = JSON.parse(await read('config/server.json')) as Record<string, unknown>;
  await write('config/server.json', JSON.stringify({ ...settings, Directory: slapd.settings() }));
  assert.equal((await run(['check-config', '--online'])).code, 0);
});

test('check-config refuses a connection string that the driver does not have, and --online connects', async (t) => {
  const { run, write, read } = await install(t);
  const settings = JSON.parse(await read('config/server.json')) as Record<string, unknown>;
  const connect = (Client: string, Connection: string) =>
    write(
      'config/server.json',
      JSON.stringify({ ...settings, Database: { Client, Connection: { plain: Connection } } }),
    );

  assert.match(
    (await run(['check-config', '--online'])).stdout,
    /database \S+: is made by the first start\n/,
  );
  await connect('postgresql', 'postgresql://postern:hunter2@db.example.com/surveys?sslmode=require');
  const refused = await run(['check-config']);
  assert.equal(refused.code, 78);
  assert.match(refused.stderr, /sslmode=require/);
  assert.doesNotMatch(refused.stderr, /hunter2/);
  await connect('sqlserver', 'Server=db;Database=surveys;Integrated Security=true');
  assert.match((await run(['check-config'])).stderr, /integrated security/);

  await connect('postgresql', `postgresql://postern:hunter2@127.0.0.1:${await findFreePort()}/surveys`);
  assert.equal((await run(['check-config'])).code, 0);
  const dead = await run(['check-config', '--online']);
  assert.equal(dead.code, 69);
  assert.match(dead.stdout, /database postgresql: .*ECONNREFUSED/);
  assert.match(dead.stderr, /one database cannot be used/);
  assert.doesNotMatch(dead.stdout + dead.stderr, /hunter2/);
});

test('check-config --online says of each identity provider whether it answers, and what is wrong', async (t) => {
  const good = await startWsFedProvider(t);
  const bad = await startOpenIdProvider(t, {});
  bad.metadata = { issuer: 'https://elsewhere.example' };
  const partner = { Type: 'Oidc', ClientId: bad.clientId, UserNameClaims: ['sub'] };
  const { read, run, write } = await install(t, {
    providers: {
      Company: { Type: 'WsFed', MetadataAddress: good.metadataAddress },
      Off: { Type: 'WsFed', Enabled: false, MetadataAddress: 'http://localhost:1/metadata' },
      Partner: { ...partner, Authority: bad.issuer },
    },
  });
  const failed = await run(['check-config', '--online']);
  assert.equal(failed.code, 69);
  assert.match(failed.stdout, /identity provider Company: answers\n/);
  assert.match(failed.stdout, /identity provider IntelligenceWsFed: is the WsFed application/);
  assert.match(failed.stdout, /identity provider Partner: .*https:\/\/elsewhere\.example/);
  assert.doesNotMatch(failed.stdout, /provider Off/);
  assert.match(failed.stderr, /one identity provider cannot be used/);

  bad.metadata = {};
  assert.equal((await run(['check-config', '--online'])).code, 0);
  // Through a proxy that is not there nothing answers, but for what is on this machine.
  await write(
    'config/providers/Partner.json',
    JSON.stringify({ ...partner, Authority: 'https://sso.example.com' }),
  );
  const settings = JSON.stringify({ OutgoingProxy: 'http://127.0.0.1:9' }).slice(1);
  const server = await read('config/server.json');
  await write('config/server.json', server.replace('{', `{ ${settings.slice(0, -1)},`));
  const proxied = await run(['check-config', '--online']);
  assert.deepEqual([proxied.code, /Company: answers/.test(proxied.stdout)], [69, true], proxied.stdout);
  assert.match(proxied.stdout, /Partner: .*127\.0\.0\.1:9/);
});
