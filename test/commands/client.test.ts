import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'jsonc-parser';
import { loadConfiguration } from '../../src/config/load.ts';
import { install } from './postern.ts';

const webClient = [
  ...[
    '--flow',
    'AuthorizationCode',
    '--name',
    'My App',
    '--redirect-uri',
    'https://app.example.com/callback',
  ],
  ...[
    '--redirect-uri',
    'http://localhost:5099/callback',
    '--scope',
    'openid',
    '--scope',
    'profile',
    '--local-login',
  ],
];

test('a client is written with the hash of a secret that is printed once', async (t) => {
  const { folder, run, read } = await install(t);

  const { code, stdout, stderr } = await run(['client', 'add', 'my-app', ...webClient]);

  assert.equal(code, 0, stderr);
  const [, secret] =
    /^wrote config[/\\]clients[/\\]my-app\.json\nsecret of my-app: ([A-Za-z0-9_-]{43})\n$/.exec(stdout) ?? [];
  assert.ok(secret, stdout);
  const text = await read('config/clients/my-app.json');
  assert.equal(text.includes(secret), false);
  assert.match(text, /"\$schema": "\.\.\/schema\/client\.schema\.json"/);
  assert.match(text, /^ {2}\/\/ .+\n {2}"RedirectUris": /m);
  const registration = parse(text) as { ClientSecrets: { Value: string }[] };
  assert.equal(registration.ClientSecrets[0]?.Value, createHash('sha256').update(secret).digest('base64'));

  const { clients } = await loadConfiguration(join(folder, 'config'), { env: {} });
  const client = clients.get('my-app');
  assert.equal(client?.ClientName, 'My App');
  assert.equal(client?.Flow, 'AuthorizationCode');
  assert.deepEqual(client?.RedirectUris, [
    'https://app.example.com/callback',
    'http://localhost:5099/callback',
  ]);
  assert.deepEqual(client?.AllowedScopes, ['openid', 'profile']);
  assert.equal(client?.EnableLocalLogin, true);
});

test('every flow can be added with what it needs', async (t) => {
  const { folder, run } = await install(t);
  const callback = ['--redirect-uri', 'http://localhost:5099/callback', '--scope', 'openid'];
  const cases = [
    ['one', ['--flow', 'AuthorizationCodeWithProofKey', ...callback, '--native'], 0],
    ['two', ['--flow', 'AuthorizationCodeWithProofKey', ...callback, '--with-secret'], 1],
    ['three', ['--flow', 'ResourceOwner', '--scope', 'openid', '--access-token-type', 'Reference'], 1],
    ['four', ['--flow', 'ClientCredentials', '--scope', 'intelligence_web_api'], 1],
    [
      'five',
      [
        '--flow',
        '6',
        ...callback,
        '--cors-origin',
        'http://localhost:5099',
        '--provider',
        'local',
        '--local-login',
      ],
      0,
    ],
  ] as const;
  for (const [id, args] of cases) {
    const { code, stderr } = await run(['client', 'add', id, ...args]);
    assert.equal(code, 0, `${id}: ${stderr}`);
  }

  const { clients } = await loadConfiguration(join(folder, 'config'), { env: {} });
  for (const [id, , secrets] of cases) assert.equal(clients.get(id)?.ClientSecrets.length, secrets, id);
  assert.equal(clients.get('one')?.ApplicationType, 'Native');
  assert.equal(clients.get('three')?.AccessTokenType, 'Reference');
  assert.equal(clients.get('four')?.EnableLocalLogin, true);
  assert.equal(clients.get('five')?.Flow, 'AuthorizationCodeWithProofKey');
});

test('a client that is registered already is left as it is', async (t) => {
  const { run, read, write } = await install(t);
  const before = await read('config/clients/mvc.json');

  for (const id of ['mvc', 'MVC']) {
    const { code, stdout, stderr } = await run(['client', 'add', id, ...webClient]);
    assert.deepEqual([code, stdout], [73, '']);
    assert.match(stderr, /there is a client "mvc" already/);
  }
  assert.equal(await read('config/clients/mvc.json'), before);

  await write('config/clients/other.json', before.replace('{', '{ "ClientId": "another",'));
  const inTheWay = await run(['client', 'add', 'other', ...webClient]);
  assert.equal(inTheWay.code, 73);
  assert.match(inTheWay.stderr, /other\.json is there already/);
});

test('a client that would break the configuration is not written', async (t) => {
  const { folder, run } = await install(t);
  const before = await readdir(join(folder, 'config', 'clients'));

  for (const [args, issue] of [
    [['--flow', 'AuthorizationCode', '--scope', 'openid'], /RedirectUris/],
    [[...webClient, '--scope', 'nonsense'], /there is no scope nonsense/],
    [[...webClient, '--redirect-uri', 'http://app.example.com/'], /must be https/],
    [[...webClient, '--provider', 'Nobody'], /there is no identity provider Nobody/],
    [[...webClient, '--access-token-type', 'Paper'], /AccessTokenType/],
  ] as const) {
    const { code, stdout, stderr } = await run(['client', 'add', 'my-app', ...args]);
    assert.deepEqual([code, stdout], [78, '']);
    assert.match(stderr, issue);
    assert.match(stderr, /config[/\\]clients[/\\]my-app\.json/);
  }
  assert.deepEqual(await readdir(join(folder, 'config', 'clients')), before);
});

test('an id that is no file name everywhere stands inside a file of a similar name', async (t) => {
  const { folder, run } = await install(t);
  for (const id of ['https://app.example.com/', 'CON', '../../escape', '.hidden', '\\\\', 'trailing.']) {
    const { code, stdout, stderr } = await run(['client', 'add', id, ...webClient]);
    assert.equal(code, 0, `${id}: ${stderr}`);
    assert.match(stdout, /^wrote config[/\\]clients[/\\]client-[A-Za-z0-9_-]+\.json\n/);
  }
  const { clients } = await loadConfiguration(join(folder, 'config'), { env: {} });
  assert.ok(clients.has('https://app.example.com/') && clients.has('CON') && clients.has('../../escape'));
});
