/**
 * Every outgoing HTTP call of Postern goes through here, so that each is bounded in time, size and destination,
 * trusts the same certificates and takes the same proxy.
 *
 * A call goes, hop by hop:
 *
 * 1. only `http:` and `https:`, and never from `https:` down to `http:`;
 * 2. a host that the caller trusts (the operator wrote it into the provider's registration) or that the operator
 *    allows is called wherever it is; any other only at a public address, which is checked on the connection;
 * 3. through the proxy if there is one, but for loopback and the proxy's exceptions. Behind a proxy only
 *    addresses in the URL itself are checked: which names it reaches is the proxy's to decide;
 * 4. redirects of a GET are followed three times at most, each from step 1; those of a POST never.
 */
import { createSecureContext, getCACertificates, rootCertificates, type SecureContext } from 'node:tls';
import { Agent, type Dispatcher, fetch, ProxyAgent, type Response as UndiciResponse } from 'undici';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Span, SpanStart, Tracing } from '../tracing.ts';
import {
  checkLiteralAddress,
  createGuardedLookup,
  DestinationRefusedError,
  type HostPatterns,
  hostOf,
  isLoopbackHost,
  parseHostPatterns,
} from './destinations.ts';
import { CallFailedError, explainFailure, findMissingIssuer, isUnknownIssuer } from './outgoing-failures.ts';

const defaultTimeoutMs = 10_000;
const defaultMaxBytes = 1024 * 1024;
const maxRedirects = 3;
const redirectStatuses = new Set([301, 302, 303, 307, 308]);
const statusesWithoutBody = new Set([204, 205, 304]);

export interface OutgoingRequest {
  method?: string;
  headers?: Readonly<Record<string, string>>;
  body?: string | URLSearchParams | null | undefined;
  /** `manual` gives a redirect to the caller. Default `follow`, which only a GET does. */
  redirect?: 'follow' | 'manual';
  /** Ends the call earlier than the timeout. */
  signal?: AbortSignal | undefined;
  /** For the whole exchange, redirects and body included. Default 10 000. */
  timeoutMs?: number;
  /** Of the body, decompressed. Default 1 MiB. */
  maxBytes?: number;
  /** Hosts (without port; IPv6 with or without brackets) that may be called at private addresses too. */
  trustedHosts?: readonly string[];
}

export interface Outgoing extends AsyncDisposable {
  /**
   * Makes a call and gives its answer, whatever the status, with the whole body read.
   *
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE, status 503; the hint says why
   */
  fetch(url: string, request?: OutgoingRequest): Promise<Response>;

  /**
   * GETs a document as text.
   *
   * @throws {ServerError} as {@link fetch}, and where the status is not 200
   */
  getText(url: string, request?: OutgoingRequest): Promise<string>;

  /**
   * GETs a JSON object.
   *
   * @throws {ServerError} as {@link getText}, and where the body is anything else
   */
  getJson(url: string, request?: OutgoingRequest): Promise<Record<string, unknown>>;
}

export interface OutgoingOptions {
  log: Logger;
  /** URL of an HTTP proxy, with name and password in it if it asks for them. */
  proxy?: string | undefined;
  /** Hosts that are called directly although there is a proxy, written as `allowedHosts`. */
  proxyExceptions?: readonly string[];
  /** Hosts that may be called at private addresses: names, `*.` names, addresses, networks (`10.0.0.0/8`). */
  allowedHosts?: readonly string[];
  /** Where there are traces: each call is part of one. */
  tracing?: Pick<Tracing, 'within'> | undefined;
  /** Hosts that learn which, written as `allowedHosts`. */
  propagateTo?: readonly string[];
  /** Certificates (PEM) to trust beside those of Node and of the operating system. */
  trustedCertificates?: readonly string[];
}

/** Makes the calls. Disposing breaks off those in flight. */
export function createOutgoing({
  log,
  proxy,
  proxyExceptions = [],
  allowedHosts = [],
  tracing,
  propagateTo = [],
  trustedCertificates = [],
}: OutgoingOptions): Outgoing {
  const allowed = parseHostPatterns(allowedHosts);
  const direct = parseHostPatterns(proxyExceptions);
  const told = parseHostPatterns(propagateTo);
  const proxyUrl = proxy === undefined ? undefined : new URL(proxy);
  let agents: Agents | undefined;

  /** Chooses the way of one hop: through the proxy or not, and whether addresses are checked. */
  function chooseWay(url: URL, trustedHosts: readonly string[]) {
    if (url.protocol !== 'https:' && url.protocol !== 'http:') {
      throw new DestinationRefusedError(`${url.protocol}//… is neither https nor http`);
    }
    if (url.username !== '' || url.password !== '') {
      throw new DestinationRefusedError('its address holds a name or a password, and they are not sent');
    }
    agents ??= createAgents({ allowed, proxyUrl, trustedCertificates });
    const hostname = hostOf(url);
    const isTrusted = trustedHosts.some((host) => host === hostname || host === url.hostname);
    const isFree = isTrusted || allowed.hasName(hostname);
    if (!isFree) checkLiteralAddress(hostname, allowed);
    const isDirect =
      proxyUrl === undefined ||
      isLoopbackHost(hostname) ||
      direct.hasName(hostname) ||
      direct.hasAddress(hostname);
    if (!isDirect)
      return { dispatcher: agents.proxied ?? agents.guarded, lookup: undefined, proxy: proxyUrl };
    // Two agents, because connections are kept: one made for a trusted call must not serve any other.
    return isFree
      ? { dispatcher: agents.free, lookup: undefined, proxy: undefined }
      : { dispatcher: agents.guarded, lookup: agents.guardedLookup, proxy: undefined };
  }

  async function call(
    start: string,
    request: OutgoingRequest,
    timeoutMs: number,
    span?: Span,
  ): Promise<Response> {
    const { method = 'GET', body, redirect = 'follow', maxBytes = defaultMaxBytes } = request;
    const headers = new Headers({ 'user-agent': 'Postern', ...request.headers });
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal = request.signal === undefined ? timeout : AbortSignal.any([timeout, request.signal]);
    let url = new URL(start);
    for (let redirects = 0; ; redirects += 1) {
      const way = chooseWay(url, request.trustedHosts ?? []);
      const hostname = hostOf(url);
      const tells = span !== undefined && (told.hasName(hostname) || told.hasAddress(hostname));
      const response = await fetch(url, {
        method,
        headers: [...headers, ...(tells ? [['traceparent', span.traceparent] as [string, string]] : [])],
        body: body === undefined || body === null ? null : String(body),
        redirect: 'manual',
        dispatcher: way.dispatcher,
        signal,
      }).catch(async (err: unknown) => {
        if (isUnknownIssuer(err)) {
          const port = url.port === '' ? 443 : Number(url.port);
          const issuer = await findMissingIssuer({ hostname: hostOf(url), port, ...way });
          throw new CallFailedError(explainUnknownIssuer(issuer), { cause: err });
        }
        if (way.proxy === undefined) throw err;
        const reason = explainFailure(err, { timeoutMs });
        throw new CallFailedError(`through the proxy ${way.proxy.host}: ${reason}`, { cause: err });
      });

      const next = redirectTarget(response, url);
      if (next === undefined || method !== 'GET' || redirect === 'manual') {
        return toResponse(response, await readBody(response, maxBytes));
      }
      await response.body?.cancel();
      if (redirects === maxRedirects) {
        throw new CallFailedError(`it redirects more than ${maxRedirects} times`);
      }
      if (url.protocol === 'https:' && next.protocol !== 'https:') {
        throw new DestinationRefusedError(`it redirects from https to ${next.protocol}//${next.host}`);
      }
      // What authenticates us to one server is not for another.
      if (next.origin !== url.origin) headers.delete('authorization');
      url = next;
    }
  }

  async function get(url: string, accept: string, request: OutgoingRequest): Promise<string> {
    const response = await outgoing.fetch(url, {
      ...request,
      headers: { accept, ...request.headers },
      method: 'GET',
    });
    if (response.status === 200) return response.text();
    throw unavailable(url, `it answered ${url} with status ${response.status}`);
  }

  const outgoing: Outgoing = {
    async fetch(url, request = {}) {
      const { method = 'GET', timeoutMs = defaultTimeoutMs } = request;
      if (!URL.canParse(url)) throw unavailable(url, 'this is no URL');
      try {
        const response = await (tracing === undefined
          ? call(url, request, timeoutMs)
          : tracing.within(toSpan(method, url), async (span) => {
              const answer = await call(url, request, timeoutMs, span);
              span?.set({ 'http.response.status_code': answer.status });
              return answer;
            }));
        log.debug({ host: new URL(url).host, status: response.status }, 'outgoing call answered');
        return response;
      } catch (err) {
        throw unavailable(url, explainFailure(err, { timeoutMs }), err);
      }
    },

    getText: (url, request = {}) => get(url, '*/*', request),

    async getJson(url, request = {}) {
      const text = await get(url, 'application/json', request);
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch {
        throw unavailable(url, `what it has at ${url} is not JSON`);
      }
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        throw unavailable(url, `what it has at ${url} is not a JSON object`);
      }
      return value as Record<string, unknown>;
    },

    async [Symbol.asyncDispose]() {
      const { free, guarded, proxied } = agents ?? {};
      await Promise.all([free, guarded, proxied].map((agent) => agent?.destroy()));
    },
  };
  return outgoing;
}

/** Its host and nothing else of the address: paths and queries may hold codes. */
function toSpan(method: string, url: string): SpanStart {
  const { host } = new URL(url);
  const attributes = { 'http.request.method': method, 'server.address': host };
  return { name: method, kind: 'client', attributes };
}

interface Agents {
  /** Connects anywhere. */
  free: Dispatcher;
  /** Connects to public and allowed addresses only. */
  guarded: Dispatcher;
  guardedLookup: ReturnType<typeof createGuardedLookup>;
  proxied: Dispatcher | undefined;
}

/** Made at the first call: reading the operating system's certificates takes its time. */
function createAgents({
  allowed,
  proxyUrl,
  trustedCertificates,
}: {
  allowed: HostPatterns;
  proxyUrl: URL | undefined;
  trustedCertificates: readonly string[];
}): Agents {
  const guardedLookup = createGuardedLookup(allowed);
  // No session is brought back: what a server left in it would go to whatever address its name has by then.
  const tls = { secureContext: trustedContext(trustedCertificates), allowH2: false, maxCachedSessions: 0 };
  return {
    free: new Agent({ connect: tls }),
    guarded: new Agent({ connect: { ...tls, lookup: guardedLookup } }),
    guardedLookup,
    proxied:
      proxyUrl === undefined
        ? undefined
        : new ProxyAgent({ uri: proxyUrl.href, requestTls: tls, proxyTls: tls, proxyTunnel: false }),
  };
}

/** One context for all connections: building it parses hundreds of certificates, most of which both stores have. */
function trustedContext(trustedCertificates: readonly string[]): SecureContext {
  return createSecureContext({
    ca: [...new Set([...readCertificates('default'), ...readCertificates('system'), ...trustedCertificates])],
    minVersion: 'TLSv1.2',
  });
}

function readCertificates(store: 'default' | 'system'): readonly string[] {
  try {
    return getCACertificates(store);
  } catch {
    // A system whose store cannot be read still has the certificates that Node brings.
    return store === 'default' ? rootCertificates : [];
  }
}

function redirectTarget(response: UndiciResponse, from: URL): URL | undefined {
  const location = response.headers.get('location');
  if (!redirectStatuses.has(response.status) || location === null) return undefined;
  if (!URL.canParse(location, from.href))
    throw new CallFailedError('it redirects to something that is no URL');
  return new URL(location, from);
}

/** Reads to the end, or to the limit: what a header says of the length is not relied on. */
async function readBody(response: UndiciResponse, maxBytes: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.byteLength;
    if (length > maxBytes) throw new CallFailedError(`its answer is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Node's own Response, which undici's class of the same name is not. */
function toResponse({ status, headers }: UndiciResponse, body: Buffer): Response {
  return new Response(statusesWithoutBody.has(status) ? null : new Uint8Array(body), {
    status,
    headers: [...headers].filter(([name]) => name !== 'content-encoding' && name !== 'content-length'),
  });
}

function explainUnknownIssuer(issuer: string | undefined): string {
  return issuer === undefined
    ? 'its certificate comes from an issuer that is not trusted here'
    : `its certificate comes from an issuer that is not trusted here: ${issuer}. Add the certificate of that issuer to the store of the operating system, or to the file in NODE_EXTRA_CA_CERTS`;
}

function unavailable(url: string, reason: string, cause?: unknown): ServerError {
  const host = URL.canParse(url) ? new URL(url).host : url;
  return new ServerError('ERR_IDENTITY_PROVIDER_UNAVAILABLE', 'the identity provider cannot be reached', {
    status: 503,
    hint: `${host}: ${reason}`,
    cause,
  });
}
