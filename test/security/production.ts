/** A configuration as in production, for `startTestServer`: https, keys by reference, no demo accounts or secrets. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestServerOptions } from '../support/start-server.ts';

const fixture = (name: string) => readFileSync(join(import.meta.dirname, '../fixtures', name), 'utf8');

/** The secret of every client and resource of the shipped set in it. */
export const productionSecret = 'a secret of this installation alone';
const secrets = [{ Value: createHash('sha256').update(productionSecret).digest('base64') }];

/** Serves http at its listener, as behind a proxy that ends TLS; no accounts. */
export function production(): Required<
  Pick<TestServerOptions, 'accounts' | 'clients' | 'files' | 'resources' | 'server'>
> {
  return {
    server: {
      Environment: 'Production',
      PublicUrl: 'https://sso.example.com/SPSSMR/Oidc',
      OidcSigningCertificate: { KeyFile: 'key.pem', CertificateFile: 'certificate.pem' },
      WsFedSigningCertificate: { KeyFile: 'key.pem', CertificateFile: 'certificate.pem' },
      CookieKeys: [{ file: 'cookie-key.txt' }],
    },
    files: {
      'key.pem': fixture('signing-key.pem'),
      'certificate.pem': fixture('signing-certificate.pem'),
      'cookie-key.txt': 'a key for cookies that is long enough',
    },
    accounts: null,
    resources: { intelligence_web_api: { Secrets: secrets } },
    clients: {
      mvc: {
        ClientSecrets: secrets,
        RedirectUris: ['https://app.example.com/callback'],
        PostLogoutRedirectUris: [],
      },
      desk: { ClientSecrets: secrets },
      batch: { ClientSecrets: secrets },
      'batch-ref': { ClientSecrets: secrets },
    },
  };
}
