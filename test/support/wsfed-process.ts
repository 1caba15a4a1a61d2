/**
 * A WS-Federation identity provider of another maker (the package `wsfed`), as a program of its own: it serves
 * metadata and signs in one user in SAML 1.1, or in SAML 2.0 by the package that it uses itself.
 *
 *   wsfed-process.ts <port> <1.1|2.0> <upn>
 */
import { readFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(import.meta.url);

/** The parts of Express that the package was written for. */
interface Request {
  url: string;
  originalUrl: string;
  headers: Record<string, unknown>;
  protocol: string;
  query: Record<string, string>;
  get(name: string): string;
}
interface Response {
  set(name: string, value: string): void;
  send(body: string): void;
}
type Handler = (request: Request, response: Response, next: (err?: unknown) => void) => void;

interface WsFed {
  auth(options: Record<string, unknown>): Handler;
  metadata(options: Record<string, unknown>): Handler;
}
interface Saml20 {
  create(options: Record<string, unknown>, callback: (err: unknown, assertion: string) => void): void;
}

const wsfed = require('wsfed') as WsFed;
const { Saml20: saml20 } = createRequire(require.resolve('wsfed'))('saml') as { Saml20: Saml20 };

const [port = '0', version = '1.1', upn = 'alice'] = process.argv.slice(2);
const fixture = (name: string) => readFileSync(join(import.meta.dirname, '../fixtures', name));
const issuer = 'urn:another-maker';
const upnClaim = 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn';

/** What the package calls a profile mapper: the claims of a user, and which there are. */
const profile = {
  getClaims: () => ({ [upnClaim]: upn }),
  getNameIdentifier: () => ({ nameIdentifier: `id-of-${upn}` }),
  metadata: [{ id: upnClaim, optional: false, displayName: 'UPN', description: 'UPN' }],
};
function toProfile() {
  return profile;
}
toProfile.prototype = profile;

const common = {
  issuer,
  cert: fixture('signing-certificate.pem'),
  key: fixture('signing-key.pem'),
  profileMapper: toProfile,
  getUserFromRequest: () => ({ id: upn }),
  getPostURL: (
    _realm: string,
    wreply: string,
    _request: Request,
    callback: (err: null, url: string) => void,
  ) => callback(null, wreply),
  lifetime: 600,
};
const signIn = wsfed.auth(common);
const metadata = wsfed.metadata({ ...common, endpointPath: '/wsfed' });

/** SAML 2.0 in WS-Trust 1.3, which the package itself does not write. */
const signIn2: Handler = ({ query }, response) => {
  const { wctx = '', wreply = '', wtrealm = '' } = query;
  saml20.create(
    {
      ...{ cert: common.cert, key: common.key, issuer, audiences: wtrealm, recipient: wreply },
      ...{ lifetimeInSeconds: 600, attributes: { [upnClaim]: upn }, nameIdentifier: `id-of-${upn}` },
    },
    (_err, assertion) => {
      const trust = 'http://docs.oasis-open.org/ws-sx/ws-trust/200512';
      const wresult = `<trust:RequestSecurityTokenResponseCollection xmlns:trust="${trust}"><trust:RequestSecurityTokenResponse><trust:RequestedSecurityToken>${assertion}</trust:RequestedSecurityToken></trust:RequestSecurityTokenResponse></trust:RequestSecurityTokenResponseCollection>`;
      const escaped = (text: string) =>
        text
          .replaceAll('&', '&amp;')
          .replaceAll('"', '&quot;')
          .replaceAll('<', '&lt;')
          .replaceAll('>', '&gt;');
      const field = (name: string, value: string) =>
        `<input type="hidden" name="${name}" value="${escaped(value)}">`;
      response.set('Content-Type', 'text/html');
      response.send(
        `<form method="post" action="${escaped(wreply)}">${field('wa', 'wsignin1.0')}${field('wresult', wresult)}${field('wctx', wctx)}</form>`,
      );
    },
  );
};

function toResponse(response: ServerResponse): Response {
  return {
    set: (name, value) => void response.setHeader(name, value),
    send: (body) => void response.end(body),
  };
}

createServer((incoming, outgoing) => {
  const url = new URL(incoming.url ?? '/', `http://localhost:${port}`);
  const request: Request = {
    url: url.href,
    originalUrl: incoming.url ?? '/',
    headers: incoming.headers,
    protocol: 'http',
    query: Object.fromEntries(url.searchParams),
    get: (name) => String(incoming.headers[name.toLowerCase()] ?? ''),
  };
  const handler = url.pathname.endsWith('FederationMetadata.xml')
    ? metadata
    : version === '2.0'
      ? signIn2
      : signIn;
  handler(request, toResponse(outgoing), (err) => {
    outgoing.statusCode = 500;
    outgoing.end(String(err));
  });
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
