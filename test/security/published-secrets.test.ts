/** Secrets that everybody knows are no secrets: the development set's, and the one that the old manual printed. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfiguration } from '../../src/config/load.ts';
import { ConfigurationError } from '../../src/errors.ts';
import { basic, post } from '../support/sign-in.ts';
import { prepareConfiguration, startTestServer } from '../support/start-server.ts';
import { production } from './production.ts';

/** SHA-256 of the spelling in capitals, in hexadecimal; the secret itself is nowhere in this repository. */
const ofManual = '32f7c422bba7ebf05a605eee9dd4e21f769763bb2eb2faa6ee26323f13592c0e';
const manualHash = Buffer.from(ofManual, 'hex').toString('base64');
const hash = (secret: string) => createHash('sha256').update(secret).digest('base64');

test("the manual's secret of the Web API stops the start, in Development too, wherever it is and with what to do", async (t) => {
  const { configDirectory } = await prepareConfiguration(t, {
    resources: { intelligence_web_api: { Secrets: [{ Value: manualHash }] } },
    clients: { batch: { ClientSecrets: [{ Value: hash('another') }, { Value: manualHash }] } },
  });
  const { issues } = await loadConfiguration(configDirectory, { env: {} }).then(
    () => assert.fail('it loads'),
    (err: unknown) => err as ConfigurationError,
  );
  assert.deepEqual(
    issues.map(({ file, path }) => [file.replace(/^.*\//, ''), path]),
    [
      ['batch.json', 'ClientSecrets[1].Value'],
      ['intelligence_web_api.json', 'Secrets[0].Value'],
    ],
  );
  for (const { message, hint } of issues) {
    assert.match(message, /the manual of the old application printed for every installation/);
    assert.match(hint ?? '', /make a secret of your own.*\\WebApi\\Authentication\\Oidc/);
  }
});

test('a published secret is refused in any case, from a file or the environment', async (t) => {
  const secrets = [{ Value: { env: 'SECRET' } }, { Value: { file: 'secret.txt' } }];
  const { configDirectory } = await prepareConfiguration(t, {
    ...production(),
    resources: {
      intelligence_web_api: { Secrets: secrets },
      mi: { Secrets: [{ Value: hash('of our own') }] },
    },
    files: { ...production().files, 'secret.txt': 'web-API-secret\n' },
  });
  const err = await loadConfiguration(configDirectory, { env: { SECRET: 'WEB-API-SECRET' } }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(err instanceof ConfigurationError);
  assert.deepEqual(
    err.issues.map(({ path, message }) => [path, /development set/.test(message)]),
    [
      ['Secrets[0].Value', true],
      ['Secrets[1].Value', true],
    ],
  );
});

test('where the configuration cannot know it, having its hash only, the call is refused and the log says why', async (t) => {
  const server = await startTestServer(t, {
    ...production(),
    resources: {
      intelligence_web_api: { Secrets: [{ Value: hash('Web-Api-Secret') }, { Value: hash('of our own') }] },
    },
  });
  const introspect = (secret: string) =>
    post(
      `${server.url}/SPSSMR/Oidc/connect/introspect`,
      { token: 'nothing' },
      basic('intelligence_web_api', secret),
    );
  assert.equal((await introspect('of our own')).status, 200, 'the hash of a secret of our own is good');
  assert.equal((await introspect('Web-Api-Secret')).status, 401);
  assert.ok(server.logged.some(({ reason, level }) => reason === 'published-secret' && level === 'warn'));
});

test("the manual's secret is nowhere in the source, only its hash, once", () => {
  const root = join(import.meta.dirname, '../..');
  const files = ['src', 'config', 'docs', 'deploy', 'examples'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((file) =>
      join(root, folder, file),
    ),
  );
  let holders = 0;
  for (const file of files.filter((one) => /\.(ts|json|md|py|ps1|ashx|yaml|yml|conf)$/.test(one))) {
    const text = readFileSync(file, 'utf8');
    if (text.includes(ofManual)) holders += 1;
    // A secret of that kind is one word, a GUID most likely.
    for (const [word] of text.matchAll(/[\w-]{8,}/g)) {
      const digest = createHash('sha256').update(word.toUpperCase()).digest('hex');
      assert.notEqual(digest, ofManual, file);
    }
  }
  assert.equal(holders, 1);
});
