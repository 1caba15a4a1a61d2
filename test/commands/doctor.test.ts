/** `postern doctor`: what is wrong with an installation, the worst first. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { install } from './postern.ts';

const hash = (secret: string) => createHash('sha256').update(secret).digest('base64');

test('a running development set is well but for what it is', async (t) => {
  const installation = await install(t, { server: { Management: { Port: 0 } } });
  const server = installation.spawn(['start']);
  await server.waitFor(/listening/);
  const { code, stdout, stderr } = await installation.run(['doctor']);
  assert.equal(code, 0, stdout + stderr);
  assert.match(stdout, /^weak {4}this is a development set/m);
  assert.match(stdout, /^weak {4}desk sees the passwords of its users/m);
  assert.doesNotMatch(stdout, /broken|soon|does not answer/);
});

test('what is broken comes first, then what will be soon, and each with its remedy', async (t) => {
  const day = 86_400_000;
  const at = (days: number) => new Date(Date.now() + days * day).toISOString().replace(/\.\d+Z$/, 'Z');
  const installation = await install(t, {
    clients: {
      mvc: { ClientSecrets: [{ Value: hash('a'), Expiration: at(-1) }] },
      desk: { ClientSecrets: [{ Value: hash('b'), Expiration: at(10) }] },
      batch: {
        ClientSecrets: [
          { Value: hash('c'), Expiration: at(-1) },
          { Value: hash('d'), Expiration: at(400) },
        ],
      },
    },
    providers: {
      Elsewhere: {
        Type: 'WsFed',
        MetadataAddress: 'http://localhost:1/metadata',
        Wtrealm: 'urn:x',
      },
    },
  });
  assert.equal((await installation.run(['migrate'])).code, 0);
  chmodSync(join(installation.folder, 'data/postern.sqlite'), 0o644);
  const { code, stdout, stderr } = await installation.run(['doctor']);
  assert.equal(code, 1);
  assert.match(stderr, /3 things are broken/);
  const lines = stdout.split('\n').filter((line) => /^\w/.test(line));
  const weights = lines.map((line) => line.split(' ')[0]);
  assert.deepEqual(
    weights,
    [...weights].sort((a, b) => rank(a) - rank(b)),
  );
  assert.match(
    stdout,
    /broken {2}http:\/\/localhost:\d+\/SPSSMR\/Oidc does not answer from here\n {8}is the server running, and its proxy\? .*it refuses the connection/,
  );
  assert.match(stdout, /broken {2}identity provider Elsewhere: /);
  assert.match(stdout, /broken {2}the secret of the client mvc has ended\n {8}add the next secret/);
  assert.match(stdout, /soon {4}the secret of the client desk ends in (9|10) days/);
  assert.match(stdout, /weak {4}others may read .*postern\.sqlite\n {8}chmod 600/);
  assert.match(stdout, /weak {4}nobody can see whether the server is well/);
  assert.doesNotMatch(stdout, /client batch /);
});

function rank(weight = ''): number {
  return ['broken', 'soon', 'weak'].indexOf(weight);
}

test('a configuration that is not in order is said before anything else is looked at', async (t) => {
  const installation = await install(t, { server: { Unknown: 1 } });
  const { code, stderr } = await installation.run(['doctor']);
  assert.equal(code, 78);
  assert.match(stderr, /Unknown/);
});

test('a database that is behind is broken', async (t) => {
  const installation = await install(t);
  const file = join(installation.folder, 'data/postern.sqlite');
  mkdirSync(join(installation.folder, 'data'), { recursive: true });
  writeFileSync(file, '', { mode: 0o600 });
  const { code, stdout } = await installation.run(['doctor']);
  assert.equal(code, 1);
  assert.match(
    stdout,
    /broken {2}the database lacks the migrations 0001-tokens, .*\n {8}run "postern migrate"/,
  );
});

test('a database that cannot be reached is broken', async (t) => {
  const installation = await install(t, {
    server: {
      Database: {
        Client: 'postgresql',
        Connection: { plain: 'postgresql://postern:secret-word@127.0.0.1:1/x' },
        Timeout: 1,
      },
    },
  });
  const { code, stdout, stderr } = await installation.run(['doctor']);
  assert.equal(code, 1);
  assert.match(stdout, /broken {2}the postgresql database cannot be reached\n {8}it said: .*ECONNREFUSED/);
  assert.doesNotMatch(stdout + stderr, /secret-word/);
});
