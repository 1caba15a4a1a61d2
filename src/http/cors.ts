/**
 * Cross-origin calls of scripts (CORS, Fetch standard): allowed where IdentityServer3 allowed them, for the origins
 * of `AllowedCorsOrigins`. Who is not allowed gets the answer without the header that would let a script read it.
 */
import type { Context, Middleware } from 'koa';
import type { Client } from '../config/load.ts';
import type { ServerContext } from '../context.ts';

interface CorsState {
  corsClient?: Client;
}

/** Discovery and keys are for everybody, and say so themselves. */
function isPublic(path: string): boolean {
  return path.toLowerCase().startsWith('/.well-known/');
}

/** Says whose answer this is, where the engine does not: that client's origins decide. */
export function setCorsClient(ctx: Context, client: Client): void {
  (ctx.state as CorsState).corsClient = client;
}

/**
 * Answers preflights and sets the header, at `paths` (under the mount, in lower case). The engine has a rule of its
 * own, which refuses such a call altogether and with it programs that send `Origin: null`; it does not see one.
 */
export function allowOrigins(
  { registry }: Pick<ServerContext, 'registry'>,
  { paths }: { paths: ReadonlySet<string> },
): Middleware {
  return async function allowOrigin(ctx, next) {
    const origin = ctx.get('origin');
    if (!paths.has(ctx.path.toLowerCase()) || origin === '') return next();
    ctx.vary('Origin');
    const isKnown = registry.isCorsOrigin(origin);

    if (ctx.method === 'OPTIONS' && ctx.get('access-control-request-method') !== '') {
      ctx.status = 204;
      if (!isKnown) return;
      ctx.set({
        'Access-Control-Allow-Origin': origin,
        'Access-Control-Allow-Methods': 'GET, POST',
        'Access-Control-Max-Age': '3600',
      });
      const headers = ctx.get('access-control-request-headers');
      if (headers !== '') ctx.set('Access-Control-Allow-Headers', headers);
      return;
    }

    delete ctx.req.headers.origin;
    const allow = () => {
      const { corsClient } = ctx.state as CorsState;
      const engineClient = (ctx as { oidc?: { client?: { clientId: string } } }).oidc?.client;
      const client = corsClient ?? registry.findClient(engineClient?.clientId ?? '');
      const isAllowed = client === undefined ? isKnown : client.AllowedCorsOrigins.includes(origin);
      if (isPublic(ctx.path)) return;
      // The engine's, which saw no origin.
      ctx.remove('Access-Control-Allow-Origin');
      if (!isAllowed) return;
      ctx.set({ 'Access-Control-Allow-Origin': origin, 'Access-Control-Expose-Headers': 'WWW-Authenticate' });
    };
    try {
      await next();
    } finally {
      allow();
    }
  };
}
