/** Identity providers for tests, each on a port of its own: one of WS-Federation, one of OpenID Connect. */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import {
  type AssertionOptions,
  createAnswer,
  createAssertion,
  createSigner,
  escapeXml,
  sign,
  toTime,
} from './saml-issuer.ts';

export interface WsFedStandIn {
  readonly url: string;
  readonly metadataAddress: string;
  readonly issuer: string;
  /** What it says of whoever comes; to be changed by the test. */
  answer: AssertionOptions;
  /** An honest answer, for whoever brings it to `recipient`. */
  makeAnswer(recipient?: string): string;
  /** What it makes of an answer before it sends it. */
  alter: (wresult: string) => string;
  /** Where it sends everybody, whatever `wreply` says: the one address that is registered there. */
  registeredReply: string | undefined;
  /** The certificates of its metadata. */
  certificates: string[];
  /** Every sign-in and sign-out request, newest last. */
  readonly requests: URLSearchParams[];
  /** How often its metadata was fetched. */
  metadataFetches: number;
  stop(): Promise<void>;
}

/** The name claims of WS-Federation begin so. */
export const identity = 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims';

const signer = createSigner();

async function listen(
  t: TestContext,
  serve: (request: IncomingMessage, url: URL) => Promise<Answer> | Answer,
) {
  const server: Server = createServer(async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const { status = 200, headers = {}, body = '' } = await serve(request, url);
    response.writeHead(status, headers).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const stop = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  t.after(stop);
  return { url: `http://localhost:${(server.address() as AddressInfo).port}`, stop };
}

interface Answer {
  status?: number;
  headers?: Record<string, string>;
  body?: string;
}

/** Signs in everybody who comes, without asking, as the test says. */
export async function startWsFedProvider(
  t: TestContext,
  answer: AssertionOptions = {},
  { host = 'localhost', script = '' }: { host?: string; script?: string } = {},
): Promise<WsFedStandIn> {
  const { url, stop } = await listen(t, (_request, address) => {
    if (address.pathname === '/metadata') {
      standIn.metadataFetches += 1;
      return { headers: { 'content-type': 'application/xml' }, body: metadataOf(standIn) };
    }
    const parameters = address.searchParams;
    standIn.requests.push(parameters);
    const wreply = standIn.registeredReply ?? parameters.get('wreply') ?? '';
    if (parameters.get('wa') !== 'wsignin1.0') return { status: 302, headers: { location: wreply } };
    const wresult = standIn.alter(standIn.makeAnswer(wreply));
    const field = (name: string, value: string) =>
      `<input type="hidden" name="${name}" value="${escapeXml(value)}">`;
    return {
      headers: { 'content-type': 'text/html; charset=utf-8' },
      body: `<!doctype html><title>Signed in</title><form method="post" action="${escapeXml(wreply)}">${field('wa', 'wsignin1.0')}${field('wresult', wresult)}${field('wctx', parameters.get('wctx') ?? '')}<button>Continue</button></form>${script}`,
    };
  });
  const standIn: WsFedStandIn = {
    url: url.replace('localhost', host),
    metadataAddress: `${url}/metadata`,
    issuer: `${url}/issuer`,
    answer,
    alter: (wresult) => wresult,
    registeredReply: undefined,
    certificates: [signer.certificate],
    makeAnswer(recipient = '') {
      const now = Math.floor(Date.now() / 1000);
      const confirmation = `<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData NotOnOrAfter="${toTime(now + 600)}"${recipient && ` Recipient="${escapeXml(recipient)}"`}/></saml:SubjectConfirmation>`;
      const assertion = createAssertion({
        id: `_${randomBytes(16).toString('hex')}`,
        issuer: standIn.issuer,
        notBefore: now - 60,
        notOnOrAfter: now + 600,
        authenticatedAt: now,
        ...(standIn.answer.version !== '1.1' && { confirmation }),
        ...standIn.answer,
      });
      return createAnswer(sign(assertion, { signer }));
    },
    requests: [],
    metadataFetches: 0,
    stop,
  };
  return standIn;
}

/** Federation metadata in the shape of AD FS: a relying party's role first, two kinds of keys. */
export function metadataOf({
  certificates,
  issuer,
  url,
}: Pick<WsFedStandIn, 'certificates' | 'issuer' | 'url'>): string {
  const keys = certificates.map(
    (certificate) =>
      `<KeyDescriptor use="signing"><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>${certificate}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>`,
  );
  const address = (element: string) =>
    `<fed:${element}><wsa:EndpointReference xmlns:wsa="http://www.w3.org/2005/08/addressing"><wsa:Address>${url}/wsfed</wsa:Address></wsa:EndpointReference></fed:${element}>`;
  const role = (type: string, inside: string) =>
    `<RoleDescriptor xsi:type="fed:${type}" protocolSupportEnumeration="http://docs.oasis-open.org/wsfed/federation/200706" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:fed="http://docs.oasis-open.org/wsfed/federation/200706">${inside}</RoleDescriptor>`;
  return `<?xml version="1.0" encoding="utf-8"?>\n<EntityDescriptor ID="_${randomBytes(8).toString('hex')}" entityID="${issuer}" xmlns="urn:oasis:names:tc:SAML:2.0:metadata">${role('ApplicationServiceType', address('PassiveRequestorEndpoint'))}${role('SecurityTokenServiceType', keys.join('') + address('PassiveRequestorEndpoint'))}</EntityDescriptor>`;
}

export interface OpenIdStandIn {
  readonly issuer: string;
  readonly clientId: string;
  /** Claims of the ID token beside its own; to be changed by the test. */
  claims: JWTPayload;
  /** The last step over the ID token's claims, for answers that are wrong. */
  alter: (claims: JWTPayload) => JWTPayload;
  /** An error instead of an answer. */
  error: string | undefined;
  /** Members of the metadata to set. */
  metadata: Record<string, unknown>;
  readonly requests: URLSearchParams[];
  /** What came to the token endpoint, and the ID tokens that were given. */
  readonly tokenCalls: { form: URLSearchParams; authorization: string; idToken: string }[];
  /** Makes a new signing key; the old one is gone. */
  rollKey(): Promise<void>;
  signLogoutToken(claims: JWTPayload, header?: Record<string, unknown>): Promise<string>;
  stop(): Promise<void>;
}

/** An OpenID provider that signs in everybody who comes, by code or, for `form_post`, with an ID token beside it. */
export async function startOpenIdProvider(t: TestContext, claims: JWTPayload): Promise<OpenIdStandIn> {
  let key = await makeKey();
  const codes = new Map<string, URLSearchParams>();

  const signIdToken = async (request: URLSearchParams, more: JWTPayload = {}) => {
    const now = Math.floor(Date.now() / 1000);
    const all = standIn.alter({
      iss: standIn.issuer,
      aud: standIn.clientId,
      iat: now,
      exp: now + 300,
      auth_time: now,
      nonce: request.get('nonce') ?? undefined,
      ...standIn.claims,
      ...more,
    });
    return new SignJWT(all).setProtectedHeader({ alg: 'RS256', kid: key.kid }).sign(key.privateKey);
  };

  const { url, stop } = await listen(t, async (request, address) => {
    const json = (body: object, status = 200) => ({
      status,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    switch (address.pathname) {
      case '/.well-known/openid-configuration':
        return json({
          issuer: url,
          authorization_endpoint: `${url}/authorize`,
          token_endpoint: `${url}/token`,
          jwks_uri: `${url}/jwks`,
          userinfo_endpoint: `${url}/userinfo`,
          end_session_endpoint: `${url}/logout`,
          id_token_signing_alg_values_supported: ['RS256'],
          code_challenge_methods_supported: ['S256'],
          authorization_response_iss_parameter_supported: true,
          ...standIn.metadata,
        });
      case '/jwks':
        return json({ keys: [key.publicJwk] });
      case '/authorize': {
        standIn.requests.push(address.searchParams);
        const code = randomBytes(16).toString('hex');
        codes.set(code, address.searchParams);
        const isPosted = address.searchParams.get('response_mode') === 'form_post';
        const response: Record<string, string> = { state: address.searchParams.get('state') ?? '', iss: url };
        if (standIn.error !== undefined) response.error = standIn.error;
        else {
          response.code = code;
          if (address.searchParams.get('response_type')?.includes('id_token')) {
            const { createHash } = await import('node:crypto');
            const half = createHash('sha256').update(code).digest().subarray(0, 16).toString('base64url');
            response.id_token = await signIdToken(address.searchParams, { c_hash: half });
          }
        }
        const target = address.searchParams.get('redirect_uri') ?? '';
        if (!isPosted)
          return { status: 302, headers: { location: `${target}?${new URLSearchParams(response)}` } };
        const fields = Object.entries(response).map(
          ([name, value]) => `<input type="hidden" name="${name}" value="${escapeXml(value)}">`,
        );
        return {
          headers: { 'content-type': 'text/html; charset=utf-8' },
          body: `<!doctype html><form method="post" action="${escapeXml(target)}">${fields.join('')}<button>Continue</button></form>`,
        };
      }
      case '/token': {
        const form = new URLSearchParams(await readAll(request));
        const asked = codes.get(form.get('code') ?? '');
        codes.delete(form.get('code') ?? '');
        if (asked === undefined) return json({ error: 'invalid_grant' }, 400);
        const idToken = await signIdToken(asked);
        standIn.tokenCalls.push({ form, authorization: request.headers.authorization ?? '', idToken });
        return json({ access_token: 'at', token_type: 'Bearer', expires_in: 60, id_token: idToken });
      }
      case '/userinfo':
        return json({ sub: standIn.claims.sub, department: 'Research' });
      case '/logout': {
        standIn.requests.push(address.searchParams);
        const target = new URL(address.searchParams.get('post_logout_redirect_uri') ?? url);
        target.searchParams.set('state', address.searchParams.get('state') ?? '');
        return { status: 302, headers: { location: target.href } };
      }
      default:
        return { status: 404 };
    }
  });

  const standIn: OpenIdStandIn = {
    issuer: url,
    clientId: 'postern',
    claims,
    alter: (all) => all,
    error: undefined,
    metadata: {},
    requests: [],
    tokenCalls: [],
    async rollKey() {
      key = await makeKey();
    },
    signLogoutToken: (payload, header = {}) =>
      new SignJWT(payload)
        .setProtectedHeader({ alg: 'RS256', kid: key.kid, typ: 'logout+jwt', ...header })
        .sign(key.privateKey),
    stop,
  };
  return standIn;
}

async function makeKey() {
  const { privateKey, publicKey } = await generateKeyPair('RS256', { extractable: true });
  const kid = randomBytes(8).toString('hex');
  return { kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), kid, use: 'sig', alg: 'RS256' } };
}

async function readAll(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
