/** Tokens that a browser sends in the header Authorization, read by the Kerberos library of the system. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { loadNegotiate } from '../../src/wsfed/negotiate.ts';
import { startKdc } from '../support/kdc.ts';
import { requireKerberos } from '../support/requirements.ts';
import { prepareConfiguration } from '../support/start-server.ts';
import { holds, hostileText } from './fuzzing.ts';

test('whatever a browser sends for a ticket is refused in words, and nothing is thrown', async (t) => {
  const packages = requireKerberos(t);
  const kdc = await startKdc(t, { users: ['carol'] });
  const keytab = kdc.makeKeytab('HTTP/localhost');
  Object.assign(process.env, kdc.env);
  const { folder } = await prepareConfiguration(t, {
    links: { node_modules: join(packages, 'node_modules') },
  });
  const negotiate = await loadNegotiate({ home: folder, keytab });

  // The beginning of SPNEGO and of Kerberos 5 in DER, with lengths that are right and that are not.
  const beginnings = [
    '60',
    '6082',
    '6084ffffffff',
    '60820400060606',
    '602806062b0601050502a01e301ca00e300c060a2b06010401823702020a',
    '6081a006092a864886f71201020201006e',
    'a1',
    'a181',
    '4e544c4d53535000',
    '',
  ].map((hex) => Buffer.from(hex, 'hex'));
  const bytes = fc
    .tuple(fc.constantFrom(...beginnings), fc.uint8Array({ maxLength: 300 }))
    .map(([beginning, rest]) => Buffer.concat([beginning, rest]).toString('base64'));
  const property = fc.asyncProperty(fc.oneof(bytes, bytes, hostileText), async (token) => {
    const result = await negotiate.accept(token);
    assert.equal(result.kind, 'refused');
    assert.ok(result.kind !== 'refused' || !result.detail.includes('\n'));
  });
  await holds(property, 300);
});
