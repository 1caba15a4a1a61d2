/** What deploy/ has for Grafana and Prometheus: held to the metrics of a real server, by a real Prometheus. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createBrowser } from '../support/browser.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { requireCommand } from '../support/requirements.ts';
import { authorize, basic, mvc, post } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

const root = join(import.meta.dirname, '../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const rulesFile = join(root, 'deploy/prometheus/postern.rules.yml');

interface Panel {
  title: string;
  type: string;
  description?: string;
  targets?: readonly { expr: string }[];
}
const { panels } = JSON.parse(read('deploy/grafana/postern.json')) as { panels: readonly Panel[] };
const rules = read('deploy/prometheus/postern.rules.yml');
const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name = '']) => name);
const expressions = panels.flatMap(({ targets = [], title }) => targets.map(({ expr }) => ({ title, expr })));

/** A server with everything that has a metric, and somebody who uses it. */
async function startUsed(t: TestContext) {
  const standIn = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'newcomer' });
  const partner = {
    ...{ Type: 'Oidc', Authority: standIn.issuer, ClientId: standIn.clientId, ProvisionAccounts: true },
    ...{ ClientSecret: { plain: 'partner-secret' }, UserNameClaims: ['preferred_username'] },
  };
  const secret = 'a-secret-of-the-proxy-or-the-handler';
  const management = await findFreePort();
  const server = await startTestServer(t, {
    server: {
      Management: { Port: management },
      ExpiredTokenCleanInterval: 1,
      EnableWindowsLogin: true,
      WindowsLogin: { Header: { Secrets: [{ plain: secret }], From: ['127.0.0.1'] } },
      ManagedKeys: {},
      DataProtectionKey: { plain: 'a secret that keys are encrypted under' },
    },
    providers: { Partner: partner },
    clients: { mvc: { IdentityProviderRestrictions: ['Partner'] } },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/'] } },
  });
  const { issuer } = server;
  async function use() {
    const token = (form: Record<string, string>, client: string, clientSecret: string) =>
      post(`${issuer}/connect/token`, form, basic(client, clientSecret));
    await token({ grant_type: 'client_credentials' }, 'batch', 'batch-secret');
    await token({ grant_type: 'client_credentials' }, 'batch', 'wrong');
    const alice = { grant_type: 'password', username: 'alice', scope: 'openid' };
    await token({ ...alice, password: 'Pass-word-1' }, 'desk', 'desk-secret');
    await token({ ...alice, password: 'wrong' }, 'desk', 'desk-secret');
    const { browser, page } = await authorize({ issuer, ...mvc });
    const leaving = await browser.submit(page, { provider: 'Partner' });
    const back = await browser.open((await browser.open(leaving.location ?? '')).location ?? '');
    assert.ok(back.location?.searchParams.has('code'), back.body);
    const headers = { 'x-remote-user': 'EXAMPLE\\carol', 'x-remote-secret': secret };
    const address = `${issuer.replace(/Oidc$/, 'WsFed')}/WinLogin?wa=wsignin1.0&wtrealm=urn:portal`;
    assert.equal((await createBrowser().request(address, { headers })).status, 200);
  }
  return { server, management, use };
}

test('every metric and label that the dashboard and the alerts ask for is there', async (t) => {
  const { management, use } = await startUsed(t);
  await use();
  const text = await (await fetch(`http://127.0.0.1:${management}/metrics`)).text();
  const asked = [...expressions.map(({ expr }) => expr), rules].join('\n');
  const selectors = [...asked.matchAll(/\b((?:postern|process|nodejs)_\w+)(?:\{([^}]*)\})?/g)];
  assert.ok(selectors.length > 40, String(selectors.length));
  for (const [, name = '', labels = ''] of selectors) {
    const samples = text.split('\n').filter((line) => new RegExp(`^${name}[{ ]`).test(line));
    assert.ok(samples.length > 0, `${name} is in no line of /metrics`);
    // What Prometheus itself adds.
    const names = [...labels.matchAll(/(\w+)(?:=~|!=|=)/g)].map(([, label = '']) => label);
    for (const label of names.filter((one) => one !== 'job' && one !== 'instance')) {
      assert.ok(
        samples.every((line) => line.includes(`${label}="`)),
        `${name} has no label ${label}`,
      );
    }
  }
  // What we count ourselves and nobody looks at would be counted in vain.
  const counted = [...text.matchAll(/^# TYPE (postern_\w+)/gm)].map(([, name = '']) => name);
  assert.deepEqual(
    counted.filter((name) => !expressions.some(({ expr }) => expr.includes(name))),
    [],
  );
});

test('docs/operations.md says of every alert what to do, and of none that there is not', () => {
  const rows = [...read('docs/operations.md').matchAll(/^\| `(Postern\w+)`/gm)].map(([, name]) => name);
  assert.ok(alerts.length > 10);
  assert.deepEqual(rows, alerts);
  const shown = panels.flatMap(({ description = '' }) => description.match(/\bPostern\w+/g) ?? []);
  assert.ok(shown.length > 8);
  assert.deepEqual(
    shown.filter((name) => !alerts.includes(name)),
    [],
  );
});

test('promtool takes the rules and the example, and each alert fires when it should and not on an ordinary day', (t) => {
  const promtool = requireCommand(t, 'promtool', 'prometheus');
  const folder = join(root, 'deploy/prometheus');
  for (const args of [
    ['check', 'rules', 'postern.rules.yml'],
    ['check', 'config', 'prometheus.yml'],
    ['test', 'rules', 'postern.test.yml'],
  ]) {
    const { status, stdout, stderr } = spawnSync(promtool, args, { cwd: folder, encoding: 'utf8' });
    assert.equal(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
  }
  const tested = read('deploy/prometheus/postern.test.yml');
  for (const name of alerts) {
    assert.match(tested, new RegExp(`alertname: ${name}\\n +exp_alerts:\\n`), `${name} is seen to fire`);
  }
});

test('every panel of the dashboard has something to show, and every rule can be evaluated', async (t) => {
  const prometheus = requireCommand(t, 'prometheus');
  const { management, use } = await startUsed(t);
  const folder = mkdtempSync(join(tmpdir(), 'postern-prometheus-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  copyFileSync(rulesFile, join(folder, 'postern.rules.yml'));
  const file = join(folder, 'prometheus.yml');
  writeFileSync(
    file,
    read('deploy/prometheus/prometheus.yml')
      .replaceAll(/(_interval): 15s/g, '$1: 1s')
      .replace('sso1.example.com:5081', `127.0.0.1:${management}`)
      .replace(/.*sso2.*\n/, ''),
  );
  const port = await findFreePort();
  const child = spawn(
    prometheus,
    [
      ...[`--config.file=${file}`, `--storage.tsdb.path=${join(folder, 'data')}`],
      ...[`--web.listen-address=127.0.0.1:${port}`, '--log.level=error'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    said += chunk;
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const ask = async <T>(path: string): Promise<T | undefined> => {
    assert.equal(child.exitCode, null, said);
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`).catch(() => undefined);
    if (answer === undefined || answer.status === 503) return undefined;
    const { data, error } = (await answer.json()) as { data: T; error?: string };
    assert.equal(error, undefined, path);
    return data;
  };
  const isShown = async (expr: string) => {
    const query = expr
      .replaceAll('$job', 'postern')
      .replaceAll('$instance', '.*')
      .replaceAll('$__rate_interval', '1m');
    assert.doesNotMatch(query, /\$/);
    const data = await ask<{ result: { value: [number, string] }[] }>(
      `query?query=${encodeURIComponent(query)}`,
    );
    return data?.result.some(({ value: [, value] }) => Number.isFinite(Number(value))) ?? false;
  };

  let empty = expressions;
  for (let attempt = 0; attempt < 60 && empty.length > 0; attempt += 1) {
    await use();
    await sleep(1000);
    const shown = await Promise.all(empty.map(({ expr }) => isShown(expr)));
    empty = empty.filter((_one, index) => !shown[index]);
  }
  assert.deepEqual(empty, []);

  type Rules = { groups: { rules: { name: string; health: string; lastError?: string; state: string }[] }[] };
  const evaluated = (await ask<Rules>('rules'))?.groups.flatMap((group) => group.rules) ?? [];
  assert.deepEqual(
    evaluated.map(({ name, health, lastError }) => [name, health, lastError]),
    alerts.map((name) => [name, 'ok', undefined]),
  );
  assert.deepEqual(
    evaluated.filter(({ state }) => state === 'firing').map(({ name }) => name),
    [],
  );
});
