/** What is asked: each workload prepares one connection and returns the operation that is repeated on it. */
import { createHash } from 'node:crypto';
import { clients, resourceSecret, userScope } from './clients.ts';
import { type Answer, type Connection, createVisitor, writeRequest } from './connection.ts';

export type Kind = 'engine' | 'http' | 'koa' | 'postern';

export interface Target {
  readonly kind: Kind;
  /** What every path begins with. */
  readonly base: string;
}

export interface Workload {
  readonly title: string;
  /** Whom it can be asked; Postern always. */
  readonly yardsticks: readonly Kind[];
  /** Where what is counted is several requests. */
  readonly requests?: number;
  start(target: Target, connection: Connection): Promise<() => Promise<void>>;
}

const verifier = 'a-verifier-of-at-least-forty-three-characters-0';
const challenge = createHash('sha256').update(verifier).digest('base64url');
const user = { name: 'alice', password: 'Pass-word-1' };

function basic(id: string, secret = `${id}-secret`): Record<string, string> {
  return { Authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}` };
}

function accept(answer: Answer): Answer {
  if (answer.status === 200) return answer;
  throw new Error(`${answer.head}\n${answer.body.slice(0, 2000)}`);
}

/** Sends the same request again and again. */
function repeat(connection: Connection, request: string, check = accept): () => Promise<void> {
  return async () => void check(await connection.send(request));
}

interface Tokens {
  access_token: string;
  refresh_token: string;
}

function tokensOf(answer: Answer): Tokens {
  return JSON.parse(accept(answer).body) as Tokens;
}

function get(path: string): Workload['start'] {
  return async ({ base }, connection) => repeat(connection, writeRequest(base + path));
}

function clientCredentials(id: string, scope: string): Workload['start'] {
  return async ({ base }, connection) => {
    const form = { grant_type: 'client_credentials', scope };
    return repeat(connection, writeRequest(`${base}/connect/token`, { form, headers: basic(id) }));
  };
}

type Visitor = ReturnType<typeof createVisitor>;

/** A browser's way from the client and back to it, and the client's to its tokens. */
async function signIn(
  { base }: Target,
  connection: Connection,
  id: string,
  { scope = userScope, visitor = createVisitor(connection) }: { scope?: string; visitor?: Visitor } = {},
): Promise<Tokens> {
  const redirectUri = clients.find((client) => client.id === 'web')?.redirectUri ?? '';
  const query = new URLSearchParams({
    client_id: id,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope,
    state: 'state',
    code_challenge: challenge,
    code_challenge_method: 'S256',
  });
  let page = await visitor.open(`${base}/connect/authorize?${query}`);
  if (page.away === undefined) {
    page = await visitor.submit(page, { username: user.name, password: user.password });
  }
  // The WsFed application answers with a form that posts itself.
  if (page.away === undefined) page = await visitor.submit(page, { wresult: hiddenOf(page, 'wresult') });
  const code = page.away?.searchParams.get('code');
  if (!code) throw new Error(`no code: ${page.head} ${page.away}\n${page.body.slice(0, 1000)}`);
  const form = {
    grant_type: 'authorization_code',
    code,
    redirect_uri: redirectUri,
    code_verifier: verifier,
  };
  return tokensOf(await connection.send(writeRequest(`${base}/connect/token`, { form, headers: basic(id) })));
}

/** The hidden fields of a form go along by themselves; one of them names it. */
function hiddenOf({ body }: Answer, name: string): string {
  const tag = new RegExp(`<input[^>]*name="${name}"[^>]*>`).exec(body)?.[0] ?? '';
  return (/value="([^"]*)"/.exec(tag)?.[1] ?? '')
    .replaceAll('&quot;', '"')
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&');
}

function introspection(id: string): Workload['start'] {
  return async (target, connection) => {
    const { access_token: token } = await signIn(target, connection, id);
    const caller = target.kind === 'postern' ? basic('api', resourceSecret) : basic('machine');
    const request = writeRequest(`${target.base}/connect/introspect`, { form: { token }, headers: caller });
    return repeat(connection, request, (answer) => {
      if (!answer.body.includes('"active":true')) throw new Error(`${answer.head}\n${answer.body}`);
      return answer;
    });
  };
}

function userinfo(id: string): Workload['start'] {
  return async (target, connection) => {
    // The engine's userinfo takes no token that is for a resource.
    const options = target.kind === 'postern' ? undefined : { scope: 'openid profile' };
    const { access_token: token } = await signIn(target, connection, id, options);
    const headers = { Authorization: `Bearer ${token}` };
    return repeat(connection, writeRequest(`${target.base}/connect/userinfo`, { headers }));
  };
}

function passwordGrant(): Workload['start'] {
  return async ({ base }, connection) => {
    const form = {
      grant_type: 'password',
      username: user.name,
      password: user.password,
      scope: userScope,
    };
    return repeat(connection, writeRequest(`${base}/connect/token`, { form, headers: basic('program') }));
  };
}

const engine: readonly Kind[] = ['engine'];
const koa: readonly Kind[] = ['koa', 'http'];

export const workloads = {
  discovery: {
    title: 'discovery',
    yardsticks: [...koa, 'engine'],
    start: get('/.well-known/openid-configuration'),
  },
  jwks: { title: 'keys (JWKS)', yardsticks: [...koa, 'engine'], start: get('/.well-known/jwks') },
  'cc-rs256': {
    title: 'client credentials, JWT RS256',
    yardsticks: engine,
    start: clientCredentials('machine', 'api'),
  },
  'cc-es256': {
    title: 'client credentials, JWT ES256',
    yardsticks: engine,
    start: clientCredentials('machine', 'api-es256'),
  },
  'cc-reference': {
    title: 'client credentials, reference token',
    yardsticks: engine,
    start: clientCredentials('machine-ref', 'api'),
  },
  'introspect-jwt': { title: 'introspection of a JWT', yardsticks: [], start: introspection('web') },
  'introspect-reference': {
    title: 'introspection of a reference token',
    yardsticks: engine,
    start: introspection('web-ref'),
  },
  'userinfo-jwt': { title: 'userinfo with a JWT', yardsticks: [], start: userinfo('web') },
  'userinfo-reference': {
    title: 'userinfo with a reference token',
    yardsticks: engine,
    start: userinfo('web-ref'),
  },
  refresh: {
    title: 'refresh with rotation, JWT and ID token',
    yardsticks: engine,
    async start(target, connection) {
      let tokens = await signIn(target, connection, 'web');
      const headers = basic('web');
      return async () => {
        const form = { grant_type: 'refresh_token', refresh_token: tokens.refresh_token };
        const request = writeRequest(`${target.base}/connect/token`, { form, headers });
        tokens = tokensOf(await connection.send(request));
      };
    },
  },
  revocation: {
    title: 'reference token and its revocation',
    yardsticks: engine,
    requests: 2,
    async start({ base }, connection) {
      const headers = basic('machine-ref');
      const form = { grant_type: 'client_credentials', scope: 'api' };
      const issue = writeRequest(`${base}/connect/token`, { form, headers });
      return async () => {
        const { access_token: token } = tokensOf(await connection.send(issue));
        accept(
          await connection.send(writeRequest(`${base}/connect/revocation`, { form: { token }, headers })),
        );
      };
    },
  },
  password: { title: 'password grant', yardsticks: [], start: passwordGrant() },
  'sign-in': {
    title: 'first sign-in',
    yardsticks: engine,
    requests: 5,
    start: async (target, connection) => async () => void (await signIn(target, connection, 'web')),
  },
  'single-sign-on': {
    title: 'sign-in with single sign-on',
    yardsticks: engine,
    requests: 2,
    async start(target, connection) {
      const visitor = createVisitor(connection);
      await signIn(target, connection, 'web', { visitor });
      return async () => void (await signIn(target, connection, 'web', { visitor }));
    },
  },
  'wsfed-sign-in': {
    title: 'first sign-in through WS-Federation',
    yardsticks: [],
    requests: 9,
    start: async (target, connection) => async () => void (await signIn(target, connection, 'portal')),
  },
} as const satisfies Record<string, Workload>;

export type WorkloadName = keyof typeof workloads;
