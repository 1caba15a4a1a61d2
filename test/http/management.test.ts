/** What operators and their programs read of a running server. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createBrowser } from '../support/browser.ts';
import { basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort, startTestServer } from '../support/start-server.ts';

test('the metrics say what was asked for, what was issued and how the server is, and nothing that a user has sent', async (t) => {
  const port = await findFreePort();
  const server = await startTestServer(t, { server: { Management: { Port: port } } });
  const { issuer } = server;
  await signInAndRedeem({ issuer, ...mvc });
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('batch', 'batch-secret'));
  await post(`${issuer}/connect/token`, { grant_type: 'client_credentials' }, basic('nobody', 'x'));
  const desk = { grant_type: 'password', username: 'alice', scope: 'openid' };
  await post(`${issuer}/connect/token`, { ...desk, password: 'wrong' }, basic('desk', 'desk-secret'));
  await createBrowser().request(`${issuer}/connect/<script>?evil=1`);
  await createBrowser().request(`${issuer.replace(/Oidc$/, 'WsFed')}?wa=x`);

  const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
  assert.match(answer.headers.get('content-type') ?? '', /^text\/plain/);
  const text = await answer.text();
  const has = (line: string) => assert.ok(text.includes(line), `${line}\n${text}`);
  has('postern_tokens_issued_total{grant_type="authorization_code",client_id="mvc"} 1');
  has('postern_tokens_issued_total{grant_type="client_credentials",client_id="batch"} 1');
  has('postern_http_request_duration_seconds_count{route="/connect/token",method="POST",status="2xx"} 2');
  has('postern_http_request_duration_seconds_count{route="/connect/token",method="POST",status="4xx"} 2');
  has('postern_http_request_duration_seconds_count{route="/login/",method="POST",status="3xx"} 1');
  has('postern_http_request_duration_seconds_count{route="/wsfed",method="GET",status="4xx"} 1');
  has('postern_http_request_duration_seconds_count{route="other",method="GET",status="4xx"} 1');
  has('postern_passwords_verified_total{outcome="accepted"} 1');
  has('postern_passwords_verified_total{outcome="refused"} 1');
  has('postern_certificate_end_timestamp_seconds{certificate="WsFedSigningCertificate"} ');
  has('postern_database_connections{state="waiting"} 0');
  has('nodejs_eventloop_lag_p99_seconds');
  assert.doesNotMatch(text, /<script|evil|nobody|alice/);
});

test('the management listener answers what it is for and nothing else', async (t) => {
  const port = await findFreePort();
  await startTestServer(t, { server: { Management: { Port: port } } });
  const call = (path: string, method = 'GET') => fetch(`http://127.0.0.1:${port}${path}`, { method });
  assert.deepEqual(await (await call('/health/ready')).json(), {
    status: 'ready',
    database: true,
    stopping: false,
    certificates: [],
  });
  assert.equal((await call('/health/live', 'HEAD')).status, 200);
  assert.equal((await call('/SPSSMR/Oidc/')).status, 404);
  assert.equal((await call('/metrics', 'POST')).status, 405);
});

test('whoever asks whether the server is ready learns which certificates end, and it stays ready', async (t) => {
  const fixture = (name: string) => join(import.meta.dirname, '../fixtures', name);
  const { validTo } = new X509Certificate(readFileSync(fixture('signing-certificate.pem')));
  const end = Date.parse(validTo) / 1000;
  let now = end - 31.5 * 86_400;
  const port = await findFreePort();
  await startTestServer(t, {
    server: {
      Management: { Port: port },
      Mounts: ['Oidc'],
      OidcSigningCertificate: {
        KeyFile: fixture('signing-key.pem'),
        CertificateFile: fixture('signing-certificate.pem'),
      },
      CookieKeys: [{ plain: 'a cookie key of thirty-two characters' }],
    },
    providers: { IntelligenceWsFed: null },
    clients: { mvc: { IdentityProviderRestrictions: [] }, spa: { IdentityProviderRestrictions: [] } },
    now: () => Math.floor(now),
  });
  const ask = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/health/ready`);
    const { certificates, status } = (await answer.json()) as { certificates: unknown; status: string };
    return { code: answer.status, status, certificates };
  };
  const ready = { code: 200, status: 'ready' };
  assert.deepEqual(await ask(), { ...ready, certificates: [] });
  for (const [at, daysLeft] of [
    [end - 10.5 * 86_400, 10],
    [end + 3600, -1],
  ] as const) {
    now = at;
    const expected = [{ certificate: 'OidcSigningCertificate', daysLeft }];
    let answer = await ask();
    // One look is good for a second.
    while (JSON.stringify(answer.certificates) !== JSON.stringify(expected)) {
      await sleep(100);
      answer = await ask();
    }
    assert.deepEqual(answer, { ...ready, certificates: expected });
  }
});
