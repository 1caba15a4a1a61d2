/**
 * What Postern is measured against, each a process of its own: `node bench/yardsticks.ts http|koa|engine <port> [tls]`.
 *
 *   http    Node's HTTP server with a fixed answer
 *   koa     the same under Koa
 *   engine  bare oidc-provider with its state in memory, clients with their secrets in clear, and no log
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';
import Koa from 'koa';
import { type Adapter, type AdapterPayload, type Configuration, Provider } from 'oidc-provider';
import { clients, resourceOfScope } from './clients.ts';

const [kind = '', port = '', tls] = process.argv.slice(2);
const issuer = `http://localhost:${port}`;

const makers: Record<string, () => RequestListener> = {
  http: () => (_request, response) => {
    response.setHeader('Content-Type', 'text/plain');
    response.end('hello');
  },
  koa() {
    const app = new Koa();
    app.use((ctx) => {
      ctx.body = 'hello';
    });
    return app.callback();
  },
  engine: () => createEngine().callback(),
};

/** Maps in this process: what storing costs least. */
function createMemory() {
  const grants = new Map<string, Set<string>>();
  return (model: string): Adapter => {
    const rows = new Map<string, AdapterPayload>();
    const byUid = new Map<string, string>();
    const keyOf = (id: string) => `${model}:${id}`;
    return {
      async upsert(id, payload) {
        rows.set(keyOf(id), payload);
        if (model === 'Session' && payload.uid !== undefined) byUid.set(payload.uid, id);
        const { grantId } = payload;
        if (grantId === undefined) return;
        const members = grants.get(grantId) ?? new Set();
        grants.set(grantId, members.add(id));
      },
      find: async (id) => rows.get(keyOf(id)),
      findByUid: async (uid) => rows.get(keyOf(byUid.get(uid) ?? '')),
      findByUserCode: async () => undefined,
      async consume(id) {
        const row = rows.get(keyOf(id));
        if (row !== undefined) row.consumed = Math.floor(Date.now() / 1000);
      },
      async destroy(id) {
        rows.delete(keyOf(id));
      },
      async revokeByGrantId(grantId) {
        // Asked of each model in turn, with the ids of all of them.
        for (const id of grants.get(grantId) ?? []) rows.delete(keyOf(id));
      },
    };
  };
}

function createEngine(): Provider {
  const jwks = [
    {
      ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
      alg: 'RS256',
    },
    {
      ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
      alg: 'ES256',
    },
  ].map((key) => ({ ...key, use: 'sig' }));
  const engine = new Provider(issuer, {
    adapter: createMemory(),
    jwks: { keys: jwks } as NonNullable<Configuration['jwks']>,
    clients: clients.map(({ flow, id, redirectUri, secret }) => ({
      client_id: id,
      client_secret: secret,
      grant_types:
        flow === 'ClientCredentials'
          ? ['client_credentials']
          : flow === 'ResourceOwner'
            ? ['password', 'refresh_token']
            : ['authorization_code', 'refresh_token'],
      response_types: redirectUri === undefined ? [] : ['code'],
      redirect_uris: redirectUri === undefined ? [] : [redirectUri],
    })),
    scopes: ['openid', 'profile', 'offline_access'],
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    clientAuthMethods: ['client_secret_basic'],
    findAccount: (_ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId, name: accountId }) }),
    // Postern gives one for offline_access, which the engine reads only where consent is asked for as well.
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    expiresWithSession: () => false,
    routes: {
      authorization: '/connect/authorize',
      token: '/connect/token',
      userinfo: '/connect/userinfo',
      introspection: '/connect/introspect',
      revocation: '/connect/revocation',
      jwks: '/.well-known/jwks',
    },
    interactions: { url: (_ctx, interaction) => `/login/${interaction.uid}` },
    async loadExistingGrant(ctx) {
      const { client, provider, session } = ctx.oidc;
      if (client === undefined || session?.accountId === undefined) return undefined;
      const known = session.grantIdFor(client.clientId);
      if (known !== undefined) return provider.Grant.find(known);
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid profile offline_access');
      for (const { indicator, scope } of Object.values(resourceOfScope))
        grant.addResourceScope(indicator, scope);
      await grant.save();
      return grant;
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, _client, oneOf) => {
          const [first] = oneOf ?? [];
          const scope = String(ctx.oidc.params?.scope ?? '')
            .split(' ')
            .find((name) => name in resourceOfScope);
          return first ?? resourceOfScope[scope ?? '']?.indicator;
        },
        getResourceServerInfo(_ctx, indicator, client) {
          const resource = Object.values(resourceOfScope).find((one) => one.indicator === indicator);
          const isReference = clients.find(({ id }) => id === client.clientId)?.tokens === 'Reference';
          return {
            scope: resource?.scope ?? '',
            audience: indicator,
            accessTokenTTL: 3600,
            accessTokenFormat: isReference ? 'opaque' : 'jwt',
            jwt: { sign: { alg: resource?.algorithm ?? 'RS256' } },
          };
        },
        useGrantedResource: () => true,
      },
    },
  });
  // The least page that signs somebody in: whoever types a name is believed.
  engine.use(async (ctx, next) => {
    const [, uid] = /^\/login\/([\w-]+)$/.exec(ctx.path) ?? [];
    if (uid === undefined) return next();
    if (ctx.method === 'GET') {
      await engine.interactionDetails(ctx.req, ctx.res);
      ctx.body = `<form method="post" action="/login/${uid}"><input name="username"><input name="password"></form>`;
      return;
    }
    let text = '';
    for await (const chunk of ctx.req) text += chunk;
    const accountId = new URLSearchParams(text).get('username') ?? '';
    const url = await engine.interactionResult(ctx.req, ctx.res, { login: { accountId, remember: false } });
    ctx.status = 303;
    ctx.redirect(url);
  });
  return engine;
}

const folder = join(import.meta.dirname, '../test/fixtures/tls');
const serve = makers[kind]?.();
if (serve === undefined) throw new Error(`no yardstick ${kind}`);
const server =
  tls === undefined
    ? createServer(serve)
    : createTlsServer(
        {
          cert: readFileSync(join(folder, 'localhost.pem')),
          key: readFileSync(join(folder, 'key.pem')),
        },
        serve,
      );
server.listen(Number(port), '127.0.0.1', () => process.send?.({ listening: true }));
// Without a listener nothing would be written that is written at the end, such as a profile.
process.once('SIGTERM', () => process.exit());
