/** What operators and their programs read of a running server. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
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
  });
  assert.equal((await call('/health/live', 'HEAD')).status, 200);
  assert.equal((await call('/SPSSMR/Oidc/')).status, 404);
  assert.equal((await call('/metrics', 'POST')).status, 405);
});
