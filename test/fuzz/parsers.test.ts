/** What reads a stranger's bytes, by itself: whatever comes, it is read right or refused in our words. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, BlockList, isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import Koa, { type Middleware } from 'koa';
import { loadConfiguration } from '../../src/config/load.ts';
import { ConfigurationError, ServerError } from '../../src/errors.ts';
import { parseHostPatterns } from '../../src/federation/destinations.ts';
import { loadProvider } from '../../src/federation/openid-metadata.ts';
import { createOutgoing } from '../../src/federation/outgoing.ts';
import { parseFederationMetadata } from '../../src/federation/ws-metadata.ts';
import { readForm } from '../../src/http/form.ts';
import { findClientAddress, type RequestState } from '../../src/http/middleware.ts';
import { createLogger } from '../../src/log.ts';
import { html, safeUrl } from '../../src/pages/html.ts';
import { parseBasic, toBasic } from '../../src/provider/client-authentication.ts';
import { serve } from '../federation/web.ts';
import { createSigner } from '../support/saml-issuer.ts';
import { holds, hostileText, mutate, mutation } from './fuzzing.ts';

const silent = createLogger({ level: 'silent', format: 'json' });

/** Middleware of ours in an application of its own; gives its address. */
async function serveKoa(t: TestContext, ...middleware: Middleware[]): Promise<string> {
  const app = new Koa();
  app.silent = true;
  for (const one of middleware) app.use(one);
  const server = createServer(app.callback());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('credentials that are written as RFC 6749 has it are read as they were meant, whatever is in them', async () => {
  const id = fc.string({ unit: 'grapheme', minLength: 1 });
  const secret = fc.string({ unit: 'binary' }).filter((text) => text.isWellFormed());
  const property = fc.property(id, secret, (id, secret) => {
    assert.deepEqual(parseBasic(toBasic({ id, secret }))[0], { id, secret });
    const raw = `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`;
    // What a raw header means ends at the first colon.
    if (!id.includes(':')) assert.deepEqual(parseBasic(raw).at(-1), { id, secret });
  });
  await holds(property, 500);
});

test('whatever stands in Authorization is read as nothing, or as credentials with an id', async () => {
  const header = fc.oneof(
    hostileText,
    hostileText.map((text) => `Basic ${text}`),
    hostileText.map((text) => `basic  ${Buffer.from(text).toString('base64')}`),
  );
  const property = fc.property(header, (text) => {
    for (const { id, secret } of parseBasic(text)) {
      assert.notEqual(id, '');
      assert.equal(typeof secret, 'string');
    }
  });
  await holds(property, 1000);
});

test('a form gives each field as it was sent, and one that is sent twice, or too much, is refused', async (t) => {
  const url = await serveKoa(t, async (ctx) => {
    try {
      ctx.body = Object.entries(await readForm(ctx, { lists: ['scope'] }));
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      ctx.status = err.status;
      ctx.body = err.code;
    }
  });
  const name = fc.oneof(hostileText, fc.constantFrom('a', 'b', 'scope', 'client_id'));
  const property = fc.asyncProperty(
    fc.array(fc.tuple(name, hostileText), { maxLength: 8 }),
    async (pairs) => {
      const body = new URLSearchParams(pairs).toString();
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
        body,
      });
      const sent = pairs.map(([name, value]) => [name.toWellFormed(), value.toWellFormed()] as const);
      const names = sent.map(([name]) => name);
      const isTwice = names.some((one, index) => one !== 'scope' && names.indexOf(one) !== index);
      assert.equal(response.status, isTwice ? 400 : 200);
      const text = await response.text();
      if (isTwice) return;
      const scopes = sent.filter(([name]) => name === 'scope').map(([, value]) => value);
      const others = sent.filter(([name]) => name !== 'scope');
      const expected = scopes.length === 0 ? others : [...others, ['scope', scopes.join(' ')]];
      assert.deepEqual((JSON.parse(text) as unknown[]).sort(), expected.sort());
    },
  );
  await holds(property, 200);
});

test('where a request came from is the last address that no trusted proxy has, whoever wrote what before it', async (t) => {
  const trusted = ['127.0.0.0/8', '10.0.0.0/8', '::1', 'fd00::/8'];
  const url = await serveKoa(t, findClientAddress(parseHostPatterns(trusted)), (ctx) => {
    ctx.body = (ctx.state as RequestState).clientAddress;
  });
  const list = new BlockList();
  list.addSubnet('127.0.0.0', 8, 'ipv4');
  list.addSubnet('10.0.0.0', 8, 'ipv4');
  list.addAddress('::1', 'ipv6');
  list.addSubnet('fd00::', 8, 'ipv6');
  const isTrusted = (address: string) => list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');

  const address = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.constantFrom('10.1.2.3', '127.0.0.1', '::1', 'fd00::1', '192.0.2.7', '2001:db8::1'),
  );
  /** As it is written, and what it means; undefined for what is none. */
  const hop = fc.oneof(
    { weight: 4, arbitrary: address.map((one) => [one, one] as const) },
    { weight: 1, arbitrary: fc.ipV4().map((one) => [`${one}:4711`, one] as const) },
    { weight: 1, arbitrary: fc.ipV6().map((one) => [`[${one}]:4711`, one] as const) },
    { weight: 1, arbitrary: fc.ipV4().map((one) => [`::ffff:${one}`, one] as const) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom('unknown', '', '1.2.3', '1.2.3.4.5', '_x', '[::1', 'localhost', '1.2.3.4;', '010.0.0.1')
        .map((one) => [one, undefined] as const),
    },
  );
  const property = fc.asyncProperty(fc.array(hop, { maxLength: 6 }), async (hops) => {
    let expected = '127.0.0.1';
    for (const [, meant] of [...hops].reverse()) {
      if (meant === undefined || !isTrusted(expected)) break;
      expected = meant;
    }
    const response = await fetch(url, {
      headers: {
        ...(hops.length > 0 && { 'x-forwarded-for': hops.map(([written]) => written).join(', ') }),
        forwarded: 'for=192.0.2.60;proto=https',
      },
    });
    assert.equal(await response.text(), expected);
  });
  await holds(property, 250);
});

test('a text in a page is the text, and never markup', async () => {
  const property = fc.property(hostileText, hostileText, (text, title) => {
    const markup = html`<p title="${title}">${text}</p>`.toString();
    const [, shownTitle = '', shown = ''] = /^<p title="([^"<>]*)">([^"<>]*)<\/p>$/.exec(markup) ?? [];
    const decode = (encoded: string) =>
      encoded.replace(/&(?:amp|lt|gt|quot|#39);/g, (one) => {
        return { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"' }[one] ?? "'";
      });
    assert.deepEqual([decode(shownTitle), decode(shown)], [title, text]);
  });
  await holds(property, 1000);
});

test('an address in a page is of the web, or relative', async () => {
  const scheme = fc.constantFrom('javascript:', 'data:', 'vbscript:', 'https:', 'http:', 'file:', 'x:', '');
  const noise = fc.constantFrom('', '\t', '\n', ' ', '\u0000', '\u0001', '/', '\\');
  const property = fc.property(scheme, noise, fc.nat(11), hostileText, (scheme, noise, at, rest) => {
    const url = scheme.slice(0, at) + noise + scheme.slice(at) + rest;
    const safe = safeUrl(url);
    if (safe === undefined) return;
    assert.equal(safe, url);
    assert.match(new URL(safe, 'https://page.example/').protocol, /^https?:$/);
  });
  await holds(property, 1000);
});

test('federation metadata are read or refused, whatever was done to them', async () => {
  const { certificate } = createSigner();
  const honest =
    '<EntityDescriptor entityID="http://adfs.example.com/adfs/services/trust" xmlns="urn:oasis:names:tc:SAML:2.0:metadata"><!-- kept by hand -->' +
    '<RoleDescriptor xsi:type="fed:SecurityTokenServiceType" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:fed="http://docs.oasis-open.org/wsfed/federation/200706">' +
    `<KeyDescriptor use="signing"><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>${certificate}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>` +
    '<fed:PassiveRequestorEndpoint><EndpointReference xmlns="http://www.w3.org/2005/08/addressing"><Address>https://adfs.example.com/adfs/ls/</Address></EndpointReference></fed:PassiveRequestorEndpoint>' +
    '</RoleDescriptor></EntityDescriptor>';
  assert.equal(parseFederationMetadata(honest).certificates.length, 1);
  const property = fc.property(fc.array(mutation, { minLength: 1, maxLength: 6 }), (mutations) => {
    try {
      const { certificates, entityId, passiveEndpoint } = parseFederationMetadata(mutate(honest, mutations));
      assert.notEqual(entityId, '');
      assert.ok(certificates.length > 0);
      assert.match(new URL(passiveEndpoint).protocol, /^https?:$/);
    } catch (err) {
      if (err instanceof assert.AssertionError) throw err;
      assert.ok(err instanceof ServerError && err.code === 'ERR_METADATA_INVALID', String(err));
    }
  });
  await holds(property, 250);
});

test('the metadata of an OpenID provider are read or refused, whatever was done to them', async (t) => {
  let answer = '';
  const port = await serve(t, (_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' }).end(answer);
  });
  await using outgoing = createOutgoing({ log: silent });
  const authority = `http://localhost:${port}`;
  const location = { Name: 'Upstream', Authority: authority, RequireHttpsMetadata: true };
  const honest: Record<string, unknown> = {
    issuer: authority,
    authorization_endpoint: `${authority}/authorize`,
    token_endpoint: `${authority}/token`,
    jwks_uri: `${authority}/jwks`,
    end_session_endpoint: `${authority}/end`,
    response_types_supported: ['code'],
    id_token_signing_alg_values_supported: ['RS256', 'none', 'HS256'],
    userinfo_signing_alg_values_supported: ['RS256'],
  };
  const member = fc.tuple(
    fc.oneof(fc.constantFrom(...Object.keys(honest), 'require_pushed_authorization_requests'), hostileText),
    fc.oneof(
      fc.jsonValue({ maxDepth: 3 }),
      hostileText,
      fc.constantFrom(...['none', 'http://evil.example/']),
    ),
  );
  const property = fc.asyncProperty(
    fc.array(member, { maxLength: 3 }),
    fc.array(mutation, { maxLength: 2 }),
    async (members, mutations) => {
      answer = mutate(JSON.stringify({ ...honest, ...Object.fromEntries(members) }), mutations);
      try {
        const { algorithms, metadata } = await loadProvider(outgoing, location);
        assert.equal(metadata.issuer.replace(/\/$/, ''), authority);
        assert.ok(algorithms.length > 0 && !algorithms.some((one) => /^(none|HS)/.test(one)));
        // What is used of it is at home where it came from, or by https.
        for (const [name, value] of Object.entries(metadata)) {
          if (
            /^(authorization|token|userinfo|end_session)_endpoint$|^jwks_uri$/.test(name) &&
            value !== undefined
          ) {
            assert.match(String(value), /^https:|^http:\/*(localhost|127\.|\[::1\])/i, name);
          }
        }
      } catch (err) {
        if (err instanceof assert.AssertionError) throw err;
        const isOurs = err instanceof ServerError && err.code === 'ERR_IDENTITY_PROVIDER_UNAVAILABLE';
        assert.ok(isOurs, String(err));
      }
    },
  );
  await holds(property, 120);
});

test('config files are read or refused issue by issue, whatever was done to them', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'postern-fuzz-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const directory = join(folder, 'config');
  cpSync(join(import.meta.dirname, '../../config'), directory, { recursive: true });
  const names = [
    'server.json',
    'accounts.json',
    'clients/mvc.json',
    'clients/miClient.json',
    'providers/IntelligenceWsFed.json',
    'resources/intelligence_web_api.json',
  ];
  const texts = new Map(names.map((name) => [name, readFileSync(join(directory, name), 'utf8')]));
  const dress = fc.constantFrom<(text: string) => string>(
    (text) => text,
    (text) => `\ufeff${text}`,
    (text) => text.replaceAll('\n', '\r\n'),
    (text) => `/* a comment */${text}// another`,
    (text) => text.replace(/"(?=\s*[,}\n])/, '\\"'),
  );
  /** A value of a member exchanged for any other. */
  const exchange = fc.tuple(fc.nat(60), fc.jsonValue({ maxDepth: 3 }));
  const property = fc.asyncProperty(
    fc.constantFrom(...names),
    dress,
    fc.array(exchange, { maxLength: 2 }),
    fc.array(mutation, { maxLength: 2 }),
    async (name, dressUp, exchanges, mutations) => {
      const original = texts.get(name) ?? '';
      const exchanged = exchanges.reduce((text, [at, value]) => {
        let index = 0;
        return text.replace(/(?<=": )("[^"]*"|\[[^\]]*\]|true|false|\d+)/g, (whole) => {
          index += 1;
          return index - 1 === at % 12 ? JSON.stringify(value) : whole;
        });
      }, original);
      writeFileSync(join(directory, name), mutate(dressUp(exchanged), mutations));
      try {
        assert.equal((await loadConfiguration(directory, { env: {} })).clients.size > 0, true);
      } catch (err) {
        if (err instanceof assert.AssertionError) throw err;
        assert.ok(err instanceof ConfigurationError, (err as Error).stack);
        assert.ok(err.issues.length > 0);
        for (const { file, message, path } of err.issues) {
          assert.ok(file.startsWith(folder) && message !== '' && typeof path === 'string');
        }
      } finally {
        writeFileSync(join(directory, name), original);
      }
    },
  );
  await holds(property, 120);
});
