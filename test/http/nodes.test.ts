/**
 * Two nodes behind nginx (deploy/nginx/postern.conf) over one PostgreSQL, as in production: what is begun on one
 * ends on the other, and neither a node that is killed nor one after the other that is restarted loses anything.
 */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, rmSync } from 'node:fs';
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { type RequestOptions, request as secureRequest } from 'node:https';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { rootCertificates, setDefaultCACertificates } from 'node:tls';
import { type Installation, install, type RunningProgram } from '../commands/postern.ts';
import { createBrowser } from '../support/browser.ts';
import { startNginx } from '../support/nginx.ts';
import { startPostgres } from '../support/postgres-server.ts';
import { basic, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort } from '../support/start-server.ts';

const ca = readFileSync(join(import.meta.dirname, '../fixtures/tls/root.pem'), 'utf8');
setDefaultCACertificates([...rootCertificates, ca]);

/** The secrets of production are hashes: of `secret of web` and the like. */
const hashes = {
  web: 'F+An0Jza9w6HdU8zRkaacL+8GakmjLX5M5U4Ib1Ubw0=',
  tool: 'YvKdbpa51ohJ76Bdg0MznnVQPUTVgPO1HkM97Sxd92E=',
  robot: 'GAw6izOiBhN/kYHNjhm5C2oWgcLmKnQcCLueqnk/wac=',
  api: 'WXgqXieW2kBqJvQSu5Y31nlT9qpwK4N5/IKbQ3hEmpw=',
};
const secretOf = (name: string) => `secret of ${name}`;
const web = {
  clientId: 'web',
  secret: secretOf('web'),
  redirectUri: 'https://web.example.com/callback',
  scope: 'openid profile offline_access intelligence_web_api',
};
/** Of the cookies, and of the proxy that may say who the user is. */
const sharedKey = 'a key for cookies that every node has';
const shipped = ['batch', 'batch-ref', 'desk', 'mi-legacy', 'miClient', 'mvc', 'spa'];

interface Node {
  readonly installation: Installation;
  readonly port: number;
  start(): Promise<void>;
  /** Asks it to stop and resolves with its exit code. */
  stop(): Promise<number | null>;
  kill(): Promise<void>;
}

async function prepareNode(
  t: TestContext,
  { publicPort, connection }: { publicPort: number; connection: string },
): Promise<Node> {
  const port = await findFreePort();
  const management = await findFreePort();
  const installation = await install(t, {
    server: {
      Environment: 'Production',
      PublicUrl: `https://localhost:${publicPort}/SPSSMR/Oidc`,
      Listener: { Host: '127.0.0.1', Port: port, TrustedProxies: ['127.0.0.1'] },
      Management: { Port: management },
      Database: { Client: 'postgresql', Connection: { env: 'DATABASE' } },
      OidcSigningCertificate: { CertificateFile: 'certs/oidc.crt', KeyFile: 'certs/oidc.key' },
      WsFedSigningCertificate: { CertificateFile: 'certs/wsfed.crt', KeyFile: 'certs/wsfed.key' },
      CookieKeys: [{ env: 'SHARED_KEY' }],
      ShutdownDelaySeconds: 3,
      EnableWindowsLogin: true,
      WindowsLogin: {
        Header: { Secrets: [{ env: 'SHARED_KEY' }], From: ['127.0.0.1'] },
        Networks: ['127.0.0.2'],
      },
      Log: { Format: 'json' },
    },
    clients: {
      ...Object.fromEntries(shipped.map((name) => [name, null])),
      web: {
        Flow: 'AuthorizationCode',
        ClientSecrets: [{ Value: hashes.web }],
        RedirectUris: [web.redirectUri],
        AllowedScopes: web.scope.split(' '),
        EnableLocalLogin: true,
        AccessTokenType: 'Reference',
      },
      tool: {
        Flow: 'ResourceOwner',
        ClientSecrets: [{ Value: hashes.tool }],
        AllowedScopes: ['openid', 'offline_access', 'intelligence_web_api'],
        EnableLocalLogin: true,
      },
      robot: {
        Flow: 'ClientCredentials',
        ClientSecrets: [{ Value: hashes.robot }],
        AllowedScopes: ['intelligence_web_api'],
        EnableLocalLogin: true,
        AccessTokenType: 'Reference',
      },
    },
    resources: { intelligence_web_api: { Secrets: [{ Value: hashes.api }] } },
    relyingParties: { Portal: { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] } },
  });
  rmSync(join(installation.folder, 'config', 'accounts.json'));
  const env = { DATABASE: connection, SHARED_KEY: sharedKey };
  let program: RunningProgram;
  const isReady = () =>
    fetch(`http://127.0.0.1:${management}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  return {
    installation: { ...installation, run: (args, options) => installation.run(args, { env, ...options }) },
    port,
    async start() {
      program = installation.spawn(['start'], { env });
      await program.waitFor(/"msg":"listening"/);
      while (!(await isReady())) await sleep(50);
    },
    async stop() {
      program.child.kill('SIGTERM');
      return (await program.finish()).code;
    },
    async kill() {
      program.child.kill('SIGKILL');
      await program.finish();
    },
  };
}

async function startSite(t: TestContext) {
  const { connection } = await startPostgres(t);
  const publicPort = await findFreePort();
  const nodes = [
    await prepareNode(t, { publicPort, connection }),
    await prepareNode(t, { publicPort, connection }),
  ] as const;
  const [a, b] = nodes;
  for (const name of ['certs/oidc', 'certs/wsfed']) {
    const { code, stderr } = await a.installation.run(['certificate', name]);
    assert.equal(code, 0, stderr);
  }
  const certs = (node: Node) => join(node.installation.folder, 'certs');
  cpSync(certs(a), certs(b), { recursive: true });
  await Promise.all(nodes.map((node) => node.start()));
  const added = await a.installation.run(['account', 'add', 'alice'], { input: 'Pass-word-1\n' });
  assert.equal(added.code, 0, added.stderr);
  const nginx = await startNginx(t, { nodePorts: [a.port, b.port], port: publicPort });

  const origin = `https://localhost:${publicPort}`;
  const issuer = `${origin}/SPSSMR/Oidc`;
  /** What nginx says of a request, for requests that go to a node by themselves. */
  const forwarded = { 'x-forwarded-host': `localhost:${publicPort}`, 'x-forwarded-for': '127.0.0.2' };
  return {
    nodes,
    nginx,
    origin,
    issuer,
    forwarded,
    /** The same URL on one node. */
    at: (node: Node, url: URL | string) => String(url).replace(origin, `http://127.0.0.1:${node.port}`),
  };
}

type Site = Awaited<ReturnType<typeof startSite>>;

const robotToken = (issuer: string) =>
  post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('robot', secretOf('robot')));
const refresh = (issuer: string, token: string) =>
  post(
    `${issuer}/connect/token`,
    { grant_type: 'refresh_token', refresh_token: token },
    basic('tool', secretOf('tool')),
  );
async function isActive(issuer: string, token: string): Promise<boolean> {
  const { body } = await post(
    `${issuer}/connect/introspect`,
    { token },
    basic('intelligence_web_api', secretOf('api')),
  );
  return body.active === true;
}

/** One request with what fetch does not let anybody choose: the address that it comes from, and `Host`. */
function send(url: string, options: RequestOptions): Promise<IncomingMessage & { text: string }> {
  const request = url.startsWith('https:') ? secureRequest : plainRequest;
  return new Promise((resolve, reject) => {
    request(url, { ca, agent: false, ...options }, async (response) => {
      let text = '';
      for await (const chunk of response.setEncoding('utf8')) text += chunk;
      resolve(Object.assign(response, { text }));
    })
      .once('error', reject)
      .end();
  });
}

/** Requests at a concurrency of eight, half of them for a new token, half of them refreshing, until told to stop. */
async function startLoad({ issuer }: Site) {
  const acknowledged: string[] = [];
  const refused: string[] = [];
  let isOver = false;
  const signIns = Array.from({ length: 4 }, () =>
    post(
      `${issuer}/connect/token`,
      { grant_type: 'password', username: 'alice', password: 'Pass-word-1', scope: 'openid offline_access' },
      basic('tool', secretOf('tool')),
    ),
  );
  const chains = (await Promise.all(signIns)).map(({ body }) => body.refresh_token);
  let refreshed = 0;
  const attempt = async (call: () => ReturnType<typeof post>) => {
    const answer = await call().catch((err: Error) => ({ status: String(err.cause), body: undefined }));
    if (answer.status !== 200) refused.push(`${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.status === 200 ? answer.body : undefined;
  };
  const workers = chains.flatMap((_, index) => [
    (async () => {
      while (!isOver) {
        const body = await attempt(() => robotToken(issuer));
        if (body !== undefined) acknowledged.push(body.access_token);
      }
    })(),
    (async () => {
      while (!isOver) {
        const body = await attempt(() => refresh(issuer, chains[index] ?? ''));
        if (body === undefined) continue;
        chains[index] = body.refresh_token;
        refreshed += 1;
      }
    })(),
  ]);
  return {
    acknowledged,
    refused,
    async stop() {
      isOver = true;
      await Promise.all(workers);
      return { count: acknowledged.length + refreshed, refused };
    },
    /** How many tokens of those that were handed out nobody knows any more. */
    async countLost(): Promise<number> {
      let lost = 0;
      const left = [...acknowledged];
      const ask = async () => {
        for (let token = left.pop(); token !== undefined; token = left.pop())
          if (!(await isActive(issuer, token))) lost += 1;
      };
      await Promise.all(Array.from({ length: 8 }, ask));
      for (const token of chains) if ((await refresh(issuer, token)).status !== 200) lost += 1;
      return lost;
    },
  };
}

test('two nodes behind nginx over one PostgreSQL', { timeout: 240_000 }, async (t) => {
  const site = await startSite(t);
  const { at, forwarded, issuer, nginx, nodes, origin } = site;
  const [a, b] = nodes;

  await t.test('a whole sign-in through nginx, by both nodes, is good at either', async () => {
    nginx.clearLogs();
    const { status, body } = await signInAndRedeem({ issuer, ...web });
    assert.equal(status, 200, JSON.stringify(body));
    const log = nginx.accessLog();
    for (const { port } of nodes) assert.ok(log.includes(`[127.0.0.1:${port}]`), log);
    for (const node of nodes) assert.ok(await isActive(at(node, issuer), body.access_token));
    assert.equal((await fetch(`${issuer.toLowerCase()}/connect/authorize`)).status, 400, 'in any case');
  });

  for (const [begins, ends] of [
    [a, b],
    [b, a],
  ] as const) {
    await t.test('a login begun on one node ends on the other, and its code is redeemed once', async () => {
      const browser = createBrowser();
      const authorize = new URL(`${issuer}/connect/authorize`);
      authorize.search = new URLSearchParams({
        client_id: web.clientId,
        redirect_uri: web.redirectUri,
        response_type: 'code',
        scope: web.scope,
      }).toString();
      const begun = await browser.request(at(begins, authorize), { headers: forwarded });
      const form = await browser.request(at(ends, begun.location ?? ''));
      const signedIn = await browser.submit(form, { username: 'alice', password: 'Pass-word-1' });
      const back = await browser.request(at(begins, signedIn.location ?? ''));
      const code = back.location?.searchParams.get('code') ?? '';
      assert.ok(back.location?.href.startsWith(web.redirectUri), back.body);

      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          post(
            `${at(index % 2 === 0 ? begins : ends, issuer)}/connect/token`,
            { grant_type: 'authorization_code', code, redirect_uri: web.redirectUri },
            basic(web.clientId, web.secret),
          ),
        ),
      );
      const redeemed = answers.filter(({ status }) => status === 200);
      assert.equal(redeemed.length, 1);
      assert.deepEqual(
        [...new Set(answers.filter(({ status }) => status !== 200).map(({ body }) => body.error))],
        ['invalid_grant'],
      );
      // Single sign-on, where the session is the other node's.
      const again = await browser.request(at(ends, authorize), { headers: forwarded });
      assert.ok(again.location?.searchParams.get('code'));
    });
  }

  await t.test('a revocation, and a disabled account, hold everywhere at once', async () => {
    const { body } = await robotToken(at(a, issuer));
    assert.deepEqual(await Promise.all(nodes.map((node) => isActive(at(node, issuer), body.access_token))), [
      true,
      true,
    ]);
    const revoked = await post(
      `${at(b, issuer)}/connect/revocation`,
      { token: body.access_token },
      basic('robot', secretOf('robot')),
    );
    assert.equal(revoked.status, 200);
    assert.deepEqual(await Promise.all(nodes.map((node) => isActive(at(node, issuer), body.access_token))), [
      false,
      false,
    ]);

    const signedIn = await signInAndRedeem({ issuer, ...web });
    for (const node of nodes) assert.ok(await isActive(at(node, issuer), signedIn.body.access_token));
    assert.equal((await a.installation.run(['account', 'disable', 'alice'])).code, 0);
    for (const node of nodes) assert.ok(!(await isActive(at(node, issuer), signedIn.body.access_token)));
    assert.equal((await a.installation.run(['account', 'enable', 'alice'])).code, 0);
  });

  await t.test('a change of the configuration reaches each node in its own folder', async () => {
    const isKnown = async (node: Node) =>
      (await post(
        `${at(node, issuer)}/connect/token`,
        { grant_type: 'client_credentials' },
        basic('second', secretOf('robot')),
      ).then(({ status }) => status)) === 200;
    const until = async (node: Node, expected: boolean) => {
      for (let attempt = 0; attempt < 50; attempt += 1) {
        if ((await isKnown(node)) === expected) return;
        await sleep(100);
      }
      assert.fail('the change is not taken up');
    };
    const robot = await a.installation.read('config/clients/robot.json');
    await a.installation.write('config/clients/second.json', robot);
    await until(a, true);
    assert.equal(await isKnown(b), false, 'its folder has not changed');
    await b.installation.write('config/clients/second.json', robot);
    await until(b, true);
    for (const { installation } of nodes) rmSync(join(installation.folder, 'config/clients/second.json'));
    for (const node of nodes) await until(node, false);
  });

  await t.test(
    'X-Forwarded-For counts from a trusted proxy alone, and there its last strange address',
    async () => {
      const query = new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal' });
      const path = `/SPSSMR/WsFed?${query}`;
      // To who is in the network, Windows sign-in is offered.
      const isOffered = async (url: string, options: RequestOptions) =>
        /WinLogin/i.test((await send(url, options)).headers.location ?? '');
      const from = (localAddress: string, claimed?: string): RequestOptions => ({
        host: '127.0.0.1',
        servername: 'localhost',
        localAddress,
        headers: {
          host: new URL(origin).host,
          ...(claimed === undefined ? undefined : { 'x-forwarded-for': claimed }),
        },
      });
      assert.equal(await isOffered(origin + path, from('127.0.0.2')), true);
      assert.equal(await isOffered(origin + path, from('127.0.0.3')), false);
      assert.equal(await isOffered(origin + path, from('127.0.0.3', '127.0.0.2')), false, 'through nginx');
      assert.equal(await isOffered(origin + path, from('127.0.0.3', '127.0.0.2, 127.0.0.1')), false);

      const direct = (localAddress: string, claimed: string) =>
        isOffered(at(a, origin + path), { localAddress, headers: { 'x-forwarded-for': claimed } });
      assert.equal(await direct('127.0.0.1', '127.0.0.2'), true, 'a proxy');
      // As IIS and its kind write it.
      assert.equal(await direct('127.0.0.1', '127.0.0.2:50123'), true);
      assert.equal(await direct('127.0.0.1', '[::ffff:127.0.0.2]:50123'), true);
      assert.equal(await direct('127.0.0.3', '127.0.0.2'), false, 'not a proxy');
    },
  );

  await t.test('who the user is, nobody can say through nginx, not even with the secret', async () => {
    const path = `/SPSSMR/WsFed/WinLogin?${new URLSearchParams({ wa: 'wsignin1.0', wtrealm: 'urn:portal' })}`;
    const headers = {
      host: new URL(origin).host,
      'x-forwarded-for': '127.0.0.2',
      'x-remote-user': 'alice',
      'x-remote-secret': sharedKey,
    };
    const from = { localAddress: '127.0.0.2', host: '127.0.0.1', servername: 'localhost' };
    const challenged = await send(origin + path, { ...from, headers });
    assert.deepEqual([challenged.statusCode, challenged.headers['www-authenticate']], [401, 'Negotiate']);
    const signedIn = await send(at(a, origin + path), { headers });
    assert.match(signedIn.text, /name="wresult"/, 'as a proxy would say it');
  });

  await t.test('the name in Host decides no URL, through nginx or at a node', async () => {
    const discovery = '/SPSSMR/Oidc/.well-known/openid-configuration';
    const evil = await send(origin + discovery, {
      servername: 'localhost',
      headers: { host: 'evil.example' },
    });
    assert.equal(evil.statusCode, 421, 'nginx knows its names');
    for (const headers of [
      { host: 'evil.example' },
      { 'x-forwarded-host': 'evil.example', 'x-forwarded-proto': 'http' },
      { forwarded: 'host=evil.example;proto=http', 'x-original-host': 'evil.example' },
    ]) {
      for (const path of [discovery, '/SPSSMR/WsFed/FederationMetadata/2007-06/FederationMetadata.xml']) {
        const answer = await send(at(a, origin + path), { headers });
        const text = JSON.stringify(answer.headers) + answer.text;
        assert.ok(text.includes(origin), text);
        assert.doesNotMatch(text, /evil\.example|http:\/\/localhost/);
      }
    }
    // Under another name a sign-in is sent to ours first; which name that was, a proxy may say.
    const authorize = '/SPSSMR/Oidc/connect/authorize?client_id=nobody';
    const strange = (localAddress: string) =>
      send(at(a, origin + authorize), { localAddress, headers: { ...forwarded, host: 'evil.example' } });
    const sentOn = await strange('127.0.0.3');
    assert.deepEqual([sentOn.statusCode, sentOn.headers.location], [303, origin + authorize]);
    assert.equal((await strange('127.0.0.1')).statusCode, 400);
    const insecure = await fetch(`http://127.0.0.1:${nginx.plainPort}/SPSSMR/Oidc/?a=b`, {
      redirect: 'manual',
    });
    assert.equal(insecure.headers.get('location'), `${origin}/SPSSMR/Oidc/?a=b`);
  });

  await t.test('restarted one after the other, no request is lost', { timeout: 120_000 }, async () => {
    nginx.clearLogs();
    const load = await startLoad(site);
    for (const node of [a, b, a]) {
      assert.equal(await node.stop(), 0);
      await node.start();
    }
    const { count, refused } = await load.stop();
    assert.deepEqual(refused, [], nginx.errorLog());
    assert.ok(count > 200, `${count} requests`);
    t.diagnostic(`${count} requests during three restarts`);
    assert.equal(await load.countLost(), 0);
  });

  await t.test('a node that is killed under load loses no token that it has handed out', async () => {
    const load = await startLoad(site);
    const { length } = load.acknowledged;
    while (load.acknowledged.length < length + 100) await sleep(10);
    await a.kill();
    const then = load.acknowledged.length;
    while (load.acknowledged.length < then + 100) await sleep(10);
    const { count, refused } = await load.stop();
    t.diagnostic(`${count} requests, ${refused.length} ended with the node`);
    // Those in flight there, and not one later.
    assert.ok(refused.length <= 8, refused.join('\n'));
    assert.equal(await load.countLost(), 0);
    await a.start();
    for (const node of nodes) assert.ok(await isActive(at(node, issuer), load.acknowledged[0] ?? ''));
  });
});
