import assert from 'node:assert/strict';
import test from 'node:test';
import { signInUrl, signOutUrl } from '../../src/federation/ws-federation.ts';

const request = { wtrealm: 'urn:intelligence', wctx: 'a handle', wct: 1_795_000_000 };

function parametersOf(url: string): Record<string, string> {
  return Object.fromEntries(new URL(url).searchParams);
}

test('a sign-in goes to the endpoint with the realm, the context and the time', () => {
  const url = signInUrl('https://adfs.example.com/adfs/ls/', request);

  assert.ok(url.startsWith('https://adfs.example.com/adfs/ls/?wa=wsignin1.0&'));
  assert.deepEqual(parametersOf(url), {
    wa: 'wsignin1.0',
    wtrealm: 'urn:intelligence',
    wctx: 'a handle',
    wct: '2026-11-18T11:06:40Z',
  });
});

test('what is asked for besides goes along, a freshness of 0 too', () => {
  const url = signInUrl('https://adfs.example.com/adfs/ls/', {
    ...request,
    wreply: 'https://postern.example.com/SPSSMR/Oidc/callback/wsfed/Adfs?a=b&c=d',
    wfresh: 0,
    whr: 'example.com',
    wauth: 'urn:oasis:names:tc:SAML:1.0:am:password',
  });

  const { wreply, wfresh, whr, wauth } = parametersOf(url);
  assert.equal(wreply, 'https://postern.example.com/SPSSMR/Oidc/callback/wsfed/Adfs?a=b&c=d');
  assert.deepEqual([wfresh, whr, wauth], ['0', 'example.com', 'urn:oasis:names:tc:SAML:1.0:am:password']);
});

test('a query that the endpoint has already stays, but cannot speak for us', () => {
  const url = signInUrl('https://idp.example/login?policy=b2c&wtrealm=urn:other&wtrealm=urn:more', request);

  assert.equal(new URL(url).searchParams.get('policy'), 'b2c');
  assert.deepEqual(new URL(url).searchParams.getAll('wtrealm'), ['urn:intelligence']);
});

test('a sign-out goes to the endpoint, and names where to come back', () => {
  const wreply = 'https://postern.example.com/SPSSMR/Oidc/signed-out';

  assert.equal(
    signOutUrl('https://adfs.example.com/adfs/ls/', { wtrealm: 'urn:intelligence' }),
    'https://adfs.example.com/adfs/ls/?wa=wsignout1.0&wtrealm=urn%3Aintelligence',
  );
  assert.equal(
    parametersOf(signOutUrl('https://adfs.example.com/adfs/ls/', { wtrealm: 'urn:intelligence', wreply }))
      .wreply,
    wreply,
  );
});
