/** Calls out that somebody else has a say in: they go where the operator said and no further. */
import assert from 'node:assert/strict';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { mvc, signInAndRedeem } from '../support/sign-in.ts';
import { startTestServer } from '../support/start-server.ts';

async function listen(t: TestContext, serve: RequestListener): Promise<string> {
  const listener = createServer(serve);
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    listener.closeAllConnections();
    listener.close();
  });
  return `http://localhost:${(listener.address() as AddressInfo).port}/`;
}

test('CVE row 6: a logout token goes to the address that is registered, and is not sent on by a redirect', async (t) => {
  const elsewhere: string[] = [];
  const other = await listen(t, (request, response) => {
    elsewhere.push(request.url ?? '');
    response.end();
  });
  for (const status of [302, 307, 308]) {
    let calls = 0;
    const endpoint = await listen(t, (request, response) => {
      request.resume();
      request.on('end', () => {
        calls += 1;
        response.writeHead(status, { location: other }).end();
      });
    });
    const server = await startTestServer(t, { clients: { mvc: { BackChannelLogoutUri: endpoint } } });
    const { browser, body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
    await browser.open(`${server.issuer}/connect/endsession?id_token_hint=${body.id_token}`);
    for (let round = 0; round < 200; round += 1) {
      if (server.logText().includes('client not told of the sign-out')) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(calls > 0, 'it was called');
    assert.match(server.logText(), /client not told of the sign-out/);
    await server.stop();
  }
  assert.deepEqual(elsewhere, []);
});

test('CVE row 6: who signs out waits for no client that does not answer', async (t) => {
  const waiting: unknown[] = [];
  const endpoint = await listen(t, (request, response) => {
    request.resume();
    // Never answered.
    waiting.push(response);
  });
  const server = await startTestServer(t, { clients: { mvc: { BackChannelLogoutUri: endpoint } } });
  const { browser, body } = await signInAndRedeem({ issuer: server.issuer, ...mvc });
  const page = await browser.open(`${server.issuer}/connect/endsession?id_token_hint=${body.id_token}`);
  assert.equal(page.status, 200);
  assert.match(page.body, /signed out/i);
  for (let round = 0; round < 200 && waiting.length === 0; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(waiting.length, 1, 'while it waits');
});
