/** OpenID providers for the tests: a real one of independent make, and one that says and signs what a test wants. */
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { TestContext } from 'node:test';
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from 'jose';
import { type ClientMetadata, type Configuration, Provider } from 'oidc-provider';
import type { OidcProviderSettings } from '../../src/federation/openid-metadata.ts';
import { createBrowser, type Page } from '../support/browser.ts';
import { findFreePort } from '../support/start-server.ts';
import { serve } from './web.ts';

export const redirectUri = 'https://login.example.com/SPSSMR/Oidc/callback/oidc/Upstream';

/** A registration that fits both providers. */
export function settingsFor(
  authority: string,
  changed: Partial<OidcProviderSettings> = {},
): OidcProviderSettings {
  return {
    Name: 'Upstream',
    Authority: authority,
    ClientId: 'postern',
    ClientSecret: 'a secret: with %/+ in it',
    Scope: ['openid', 'profile', 'email'],
    ResponseType: 'code',
    UsePkce: true,
    GetClaimsFromUserInfo: true,
    RequireHttpsMetadata: true,
    ...changed,
  };
}

export interface RealProvider {
  issuer: string;
  /** Lets the user through at the provider, or answers as `finish` says; gives what comes back to us. */
  signIn(url: string, finish?: Record<string, unknown>): Promise<SignedIn>;
}

export interface SignedIn {
  response: URLSearchParams;
  method: string;
  /** Signs the same browser out at the provider, without us. */
  signOut(): Promise<Page>;
}

/** Starts node-oidc-provider with us as its client, and one user, upstream-alice. */
export async function startRealProvider(
  t: TestContext,
  {
    client = {},
    configuration = {},
  }: { client?: Partial<ClientMetadata>; configuration?: Configuration } = {},
): Promise<RealProvider> {
  const port = await findFreePort();
  const issuer = `http://localhost:${port}`;
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'postern',
        client_secret: 'a secret: with %/+ in it',
        redirect_uris: [redirectUri],
        post_logout_redirect_uris: ['https://login.example.com/SPSSMR/Oidc/signed-out'],
        grant_types: ['authorization_code', 'implicit'],
        response_types: ['code', 'code id_token', 'id_token'],
        ...client,
      },
    ],
    responseTypes: ['code', 'code id_token', 'id_token'],
    jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'first' }] },
    claims: { openid: ['sub'], profile: ['name', 'groups'], email: ['email', 'email_verified'] },
    conformIdTokenClaims: true,
    cookies: { keys: ['not a secret'] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_ctx, accountId) => ({
      accountId,
      claims: () => ({
        sub: accountId,
        name: 'Alice Upstream',
        groups: ['staff', 'readers'],
        email: 'alice@upstream.example',
        email_verified: true,
      }),
    }),
    ...configuration,
  });
  const serveProtocol = provider.callback();
  let finish: Record<string, unknown> | undefined;
  const listener: RequestListener = async (request, response) => {
    if (!request.url?.startsWith('/interaction/')) return serveProtocol(request, response);
    const { params, session, prompt } = await provider.interactionDetails(request, response);
    if (finish !== undefined) return provider.interactionFinished(request, response, finish);
    if (prompt.name === 'login') {
      const login = { accountId: 'upstream-alice', amr: ['pwd', 'otp'], acr: 'urn:example:gold' };
      return provider.interactionFinished(request, response, { login });
    }
    const grant = new provider.Grant({
      accountId: session?.accountId ?? '',
      clientId: String(params.client_id),
    });
    grant.addOIDCScope('openid profile email');
    return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
  };
  const server = createServer(listener).listen(port, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });

  return {
    issuer,
    async signIn(url, answer) {
      finish = answer;
      const browser = createBrowser();
      const page = await browser.open(url);
      return {
        response: readAnswer(page),
        method: page.location === undefined ? 'POST' : 'GET',
        signOut: async () => browser.submit(await browser.open(`${issuer}/session/end`), { logout: 'yes' }),
      };
    },
  };
}

/** The parameters of an answer, in the query of the last redirect or in a form that posts itself. */
function readAnswer(page: Page): URLSearchParams {
  if (page.location !== undefined) return page.location.searchParams;
  const inputs = page.body.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)"/g);
  const parameters = [...inputs].map(([, name = '', value = '']): [string, string] => [name, value]);
  if (parameters.length === 0) throw new Error(`no answer: ${page.status} ${page.body.slice(0, 300)}`);
  return new URLSearchParams(parameters);
}

export interface SigningKey {
  privateKey: CryptoKey;
  publicJwk: JWK;
}

export async function createKey(kid?: string, alg = 'ES256'): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const publicJwk = { ...(await exportJWK(publicKey)), alg, use: 'sig', ...(kid !== undefined && { kid }) };
  return { privateKey, publicJwk };
}

/** A provider whose every answer can be replaced; what is not replaced is as it should be. */
export interface ForgedProvider {
  readonly issuer: string;
  readonly port: number;
  /** Paths that were called, in order. */
  readonly calls: string[];
  key: SigningKey;
  /** What the key set lists. */
  published: JWK[];
  /** Members that replace or, where undefined, remove those of the metadata. */
  metadata: Record<string, unknown>;
  /** What the token endpoint answers, and with which status. */
  tokens: Record<string, unknown>;
  tokenStatus: number;
  userinfo: Record<string, unknown> | string;
  /** Answers a path in place of the provider. */
  readonly replaced: Map<string, RequestListener>;
  /** Claims of an honest ID token, with some replaced. */
  claims(changed?: Record<string, unknown>): JWTPayload;
  sign(claims: JWTPayload, header?: Record<string, unknown>): Promise<string>;
}

/** Starts a provider that signs real tokens and misbehaves where it is told to. */
export async function startForgedProvider(t: TestContext): Promise<ForgedProvider> {
  const key = await createKey('first');
  const port = await serve(t, (request, response) => {
    const path = request.url?.split('?')[0] ?? '';
    forged.calls.push(path);
    const replacement = forged.replaced.get(path);
    if (replacement !== undefined) return replacement(request, response);
    const answer = (body: unknown, status = 200) =>
      void response
        .writeHead(status, {
          'content-type': typeof body === 'string' ? 'application/jwt' : 'application/json',
        })
        .end(typeof body === 'string' ? body : JSON.stringify(body));
    if (path === '/.well-known/openid-configuration') return answer(metadata());
    if (path === '/jwks') return answer({ keys: forged.published });
    if (path === '/token') return answer(forged.tokens, forged.tokenStatus);
    if (path === '/userinfo') return answer(forged.userinfo);
    return answer({}, 404);
  });
  const issuer = `http://127.0.0.1:${port}`;
  const metadata = () => ({
    issuer,
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    userinfo_endpoint: `${issuer}/userinfo`,
    end_session_endpoint: `${issuer}/logout`,
    jwks_uri: `${issuer}/jwks`,
    response_types_supported: ['code', 'code id_token', 'id_token'],
    response_modes_supported: ['query', 'form_post'],
    id_token_signing_alg_values_supported: ['RS256', 'ES256', 'HS256', 'none'],
    code_challenge_methods_supported: ['S256'],
    ...forged.metadata,
  });
  const forged: ForgedProvider = {
    issuer,
    port,
    calls: [],
    key,
    published: [key.publicJwk],
    metadata: {},
    tokens: {},
    tokenStatus: 200,
    userinfo: { sub: 'upstream-alice' },
    replaced: new Map(),
    claims(changed = {}) {
      const now = Math.floor(Date.now() / 1000);
      return {
        iss: issuer,
        aud: 'postern',
        sub: 'upstream-alice',
        iat: now,
        exp: now + 300,
        ...changed,
      } as JWTPayload;
    },
    sign: (claims, header = {}) =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: 'ES256', kid: forged.key.publicJwk.kid ?? '', ...header })
        .sign(forged.key.privateKey, { crit: { 'urn:example': true } }),
  };
  return forged;
}
