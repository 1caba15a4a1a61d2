/**
 * A relying party of another maker (the package `passport-wsfed-saml2`), as a program of its own. It knows of its
 * identity provider what the metadata say: where to send users, and the thumbprint of the certificate.
 *
 *   relying-party-process.ts <port> <realm> <address of the metadata>
 *
 * `GET /` signs in, and the answer is to be posted to `/signin`, which shows the profile that the package read from
 * it, or why the package refused it, as JSON.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

/** The parts of Express that the package was written for. */
interface Request {
  method: string;
  url: string;
  originalUrl: string;
  headers: IncomingMessage['headers'];
  protocol: string;
  query: Record<string, string>;
  body: Record<string, string>;
  get(name: string): string;
}
/** A strategy of Passport, which adds the four ends before it calls `authenticate`. */
interface Strategy {
  authenticate(request: Request, options: Record<string, string>): void;
  redirect?(url: string): void;
  success?(profile: unknown): void;
  fail?(reason: unknown): void;
  error?(err: unknown): void;
}
interface Package {
  Strategy: new (
    options: Record<string, unknown>,
    verify: (profile: unknown, done: (err: null, user: unknown) => void) => void,
  ) => Strategy;
}

const require = createRequire(join(import.meta.dirname, '../relying-party/'));
const { Strategy } = require('passport-wsfed-saml2') as Package;

const [port = '0', realm = '', metadataAddress = ''] = process.argv.slice(2);
const base = `http://localhost:${port}`;

const metadata = await (await fetch(metadataAddress)).text();
const read = (pattern: RegExp) => pattern.exec(metadata)?.[1] ?? '';
const certificate = read(/<(?:\w+:)?X509Certificate>([^<]+)</);
const options = {
  realm,
  identityProviderUrl: read(/PassiveRequestorEndpoint>[\s\S]*?<(?:\w+:)?Address>([^<]+)</),
  thumbprint: createHash('sha1').update(Buffer.from(certificate, 'base64')).digest('hex'),
  wreply: `${base}/signin`,
};

createServer(async (incoming, outgoing) => {
  const url = new URL(incoming.url ?? '/', base);
  const request: Request = {
    method: incoming.method ?? '',
    url: incoming.url ?? '/',
    originalUrl: incoming.url ?? '/',
    headers: incoming.headers,
    protocol: 'http',
    query: Object.fromEntries(url.searchParams),
    body: Object.fromEntries(new URLSearchParams(await text(incoming))),
    get: (name) => String(incoming.headers[name.toLowerCase()] ?? ''),
  };
  answer(request, outgoing);
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));

function answer(request: Request, response: ServerResponse): void {
  const show = (status: number, body: object) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  const refuse = (reason: unknown) => show(403, { refused: String(reason) });
  const strategy: Strategy = new Strategy(options, (profile, done) => done(null, profile));
  strategy.redirect = (location) => response.writeHead(302, { location }).end();
  strategy.success = (profile) => show(200, { profile, wctx: request.body.wctx });
  strategy.fail = refuse;
  strategy.error = refuse;
  try {
    strategy.authenticate(request, { wctx: 'where they were & "what" they did' });
  } catch (err) {
    show(500, { refused: String(err) });
  }
}
