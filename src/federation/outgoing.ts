/**
 * Every call that the server makes to somebody else: bounded in time, in size and in destination.
 *
 * What the operator has configured may be anywhere, since that is where the identity providers of a company are.
 * What others name (a redirect, an address in metadata) may not lead into a private network (OWASP ASVS 1.3.6).
 */
import { type LookupAddress, lookup } from 'node:dns';
import { BlockList, isIP } from 'node:net';
import { connect, getCACertificates } from 'node:tls';
import { Agent, type Dispatcher, ProxyAgent, fetch as undiciFetch } from 'undici';
import { ServerError } from '../errors.ts';

export interface OutgoingRequest {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  /** `host` or `host:port` of what the operator has configured: these may be in a private network. */
  readonly trustedHosts?: readonly string[];
  /** For the whole exchange; default ten seconds. */
  readonly timeoutMs?: number;
  /** Of the decoded body; default 1 MiB. */
  readonly maxBytes?: number;
}

export interface Outgoing extends AsyncDisposable {
  /**
   * The whole answer, whatever its status. A GET follows up to three redirects; nothing else follows any.
   *
   * @throws {ServerError} ERR_IDENTITY_PROVIDER_UNAVAILABLE, status 503, with a hint in the administrator's words
   */
  fetch(url: string, request?: OutgoingRequest): Promise<Response>;
}

export interface OutgoingOptions {
  /** Address of a proxy for everything that is not on this machine. */
  readonly proxy?: string | undefined;
  /** `host` or `host:port` that may be in a private network, too. */
  readonly allowedHosts?: readonly string[];
}

const defaultTimeoutMs = 10_000;
const defaultMaxBytes = 1024 * 1024;
const mostRedirects = 3;

/** Addresses that are not on the public internet (IANA special-purpose registries), those of cloud metadata among them. */
const special = new BlockList();
for (const [network, prefix] of [
  ...[
    ['0.0.0.0', 8],
    ['10.0.0.0', 8],
    ['100.64.0.0', 10],
    ['127.0.0.0', 8],
    ['169.254.0.0', 16],
  ],
  ...[
    ['172.16.0.0', 12],
    ['192.0.0.0', 24],
    ['192.0.2.0', 24],
    ['192.168.0.0', 16],
    ['198.18.0.0', 15],
  ],
  ...[
    ['198.51.100.0', 24],
    ['203.0.113.0', 24],
    ['224.0.0.0', 4],
    ['240.0.0.0', 4],
  ],
] as const) {
  special.addSubnet(network as string, prefix as number, 'ipv4');
}
for (const [network, prefix] of [
  ...[
    ['::', 96],
    ['64:ff9b:1::', 48],
    ['100::', 64],
    ['2001::', 23],
    ['2001:db8::', 32],
    ['2002::', 16],
  ],
  ...[
    ['fc00::', 7],
    ['fe80::', 10],
    ['ff00::', 8],
  ],
] as const) {
  special.addSubnet(network as string, prefix as number, 'ipv6');
}

/** Whether an IP address is on the public internet. An IPv4 address inside an IPv6 one counts as itself. */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 0) return false;
  const [, embedded] = /^(?:::ffff:|64:ff9b::)(\d+\.\d+\.\d+\.\d+)$/i.exec(address) ?? [];
  if (embedded !== undefined) return isPublicAddress(embedded);
  return !special.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

/** Makes the calls. Connections are kept; disposing closes them. */
export function createOutgoing({ proxy, allowedHosts = [] }: OutgoingOptions = {}): Outgoing {
  const dispatchers = createDispatchers(proxy);

  const isTrusted = (url: URL, trusted: readonly string[]) =>
    [...allowedHosts, ...trusted].some((own) => {
      const host = own.toLowerCase();
      return host === url.host || host === url.hostname;
    });

  async function exchange(
    url: URL,
    request: OutgoingRequest,
    signal: AbortSignal,
    redirects = 0,
  ): Promise<Response> {
    const { method = 'GET', headers = {}, body, trustedHosts = [], maxBytes = defaultMaxBytes } = request;
    if (url.protocol !== 'https:' && url.protocol !== 'http:')
      throw unavailable(`${url.protocol} is not called`);
    const isFree = isTrusted(url, trustedHosts);
    const literal = url.hostname.replace(/^\[|\]$/g, '');
    if (!isFree && isIP(literal) !== 0 && !isPublicAddress(literal)) throw forbidden(url);

    const answer = await undiciFetch(url, {
      method,
      headers: { ...headers },
      ...(body === undefined ? undefined : { body }),
      redirect: 'manual',
      signal,
      dispatcher: dispatchers.for(url, isFree),
    });
    const location = answer.headers.get('location');
    if (answer.status >= 300 && answer.status < 400 && location !== null && method === 'GET') {
      await answer.body?.cancel();
      if (redirects >= mostRedirects) throw unavailable(`${url.host} redirects too often`);
      const target = URL.parse(location, url.href);
      if (target === null) throw unavailable(`${url.host} redirects to no address`);
      if (url.protocol === 'https:' && target.protocol !== 'https:')
        throw unavailable(`${url.host} redirects to http`);
      // What was meant for one host is not for another.
      const kept = target.origin === url.origin ? headers : { accept: headers.accept ?? '*/*' };
      return exchange(target, { ...request, headers: kept }, signal, redirects + 1);
    }
    const bytes = await readAll(answer.body, maxBytes, url.host);
    const hasNoBody = [101, 204, 205, 304].includes(answer.status);
    return new Response(hasNoBody ? null : bytes, { status: answer.status, headers: [...answer.headers] });
  }

  return {
    async fetch(address, request = {}) {
      const url = URL.parse(address);
      if (url === null) throw unavailable('an address that is none');
      const { timeoutMs = defaultTimeoutMs } = request;
      const signal = AbortSignal.timeout(timeoutMs);
      try {
        return await exchange(url, request, signal);
      } catch (err) {
        if (err instanceof ServerError) throw err;
        if (signal.aborted) throw unavailable(`${url.host} did not answer within ${timeoutMs / 1000} s`, err);
        throw await explain(url, err);
      }
    },

    async [Symbol.asyncDispose]() {
      await dispatchers.close();
    },
  };
}

/** The part of `fetch`'s options that libraries use. */
export function toRequest(options: object | undefined): OutgoingRequest {
  const { body, headers, method } = (options ?? {}) as {
    body?: unknown;
    headers?: Headers | Record<string, string>;
    method?: string;
  };
  return {
    ...(method === undefined ? undefined : { method }),
    headers: Object.fromEntries(new Headers(headers)),
    ...(body === undefined || body === null ? undefined : { body: String(body) }),
  };
}

/** Connections to the public internet alone, connections to wherever the operator says, and those by the proxy. */
function createDispatchers(proxy: string | undefined) {
  const made = new Map<string, Dispatcher>();
  let certificates: string[] | undefined;
  const trustedCertificates = () => {
    certificates ??= readTrustedCertificates();
    return certificates;
  };
  const get = (kind: string, make: () => Dispatcher) => {
    const known = made.get(kind) ?? make();
    made.set(kind, known);
    return known;
  };
  const isOnThisMachine = ({ hostname }: URL) =>
    /^(localhost|.*\.localhost|127\..*|\[::1\])$/i.test(hostname);
  const settings = () => ({
    connect: { ca: trustedCertificates(), timeout: 5_000 },
    headersTimeout: 10_000,
    bodyTimeout: 10_000,
  });

  return {
    for(url: URL, isFree: boolean): Dispatcher {
      if (proxy !== undefined && !isOnThisMachine(url)) {
        return get('proxy', () => new ProxyAgent({ uri: proxy, requestTls: { ca: trustedCertificates() } }));
      }
      if (isFree) return get('free', () => new Agent(settings()));
      return get('public', () => {
        const { connect: options, ...rest } = settings();
        return new Agent({ ...rest, connect: { ...options, lookup: lookupPublic } });
      });
    },
    async close() {
      await Promise.all([...made.values()].map((dispatcher) => dispatcher.destroy()));
    },
  };
}

type LookupCallback = (err: Error | null, address: string | LookupAddress[], family?: number) => void;

/** Resolves a name for the connection itself, so that a second resolution cannot say something else. */
function lookupPublic(hostname: string, options: object, callback: LookupCallback): void {
  lookup(hostname, { ...options, all: true }, (err, addresses) => {
    if (err !== null) return callback(err, '');
    const isRefused = addresses.length === 0 || addresses.some(({ address }) => !isPublicAddress(address));
    if (isRefused) return callback(Object.assign(new Error('not public'), { code: 'ERR_NOT_PUBLIC' }), '');
    if ((options as { all?: boolean }).all === true) return callback(null, addresses);
    const [{ address, family }] = addresses as [LookupAddress];
    callback(null, address, family);
  });
}

/** Node's own, those of NODE_EXTRA_CA_CERTS, and the operating system's: where a company's authority is installed. */
function readTrustedCertificates(): string[] {
  return [...new Set([...getCACertificates('default'), ...getCACertificates('system')])];
}

async function readAll(
  body: AsyncIterable<Uint8Array> | null,
  maxBytes: number,
  host: string,
): Promise<Buffer<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let received = 0;
  for await (const chunk of body ?? []) {
    received += chunk.byteLength;
    if (received > maxBytes) throw unavailable(`the answer of ${host} is longer than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function unavailable(hint: string, cause?: unknown): ServerError {
  return new ServerError('ERR_IDENTITY_PROVIDER_UNAVAILABLE', 'the identity provider cannot be reached', {
    status: 503,
    hint,
    cause,
  });
}

function forbidden({ host }: URL): ServerError {
  return unavailable(
    `${host} is in a private network and was not configured; OutgoingAllowedHosts can allow it`,
  );
}

/** What has gone wrong with a connection, in the words of whoever can mend it. */
async function explain(url: URL, err: unknown): Promise<ServerError> {
  const { host } = url;
  const cause = rootCause(err);
  const { code = '' } = cause as { code?: string };
  if (code === 'ERR_NOT_PUBLIC') return forbidden(url);
  const simple: Readonly<Record<string, string>> = {
    ENOTFOUND: `the name ${url.hostname} cannot be resolved`,
    EAI_AGAIN: `the name ${url.hostname} cannot be resolved at the moment`,
    ECONNREFUSED: `${host} refuses the connection`,
    ECONNRESET: `${host} broke the connection off`,
    UND_ERR_SOCKET: `${host} broke the connection off`,
    UND_ERR_CONNECT_TIMEOUT: `${host} does not answer`,
    UND_ERR_HEADERS_TIMEOUT: `${host} does not answer`,
    UND_ERR_BODY_TIMEOUT: `${host} does not finish its answer`,
    CERT_HAS_EXPIRED: `the certificate of ${host} has expired`,
    CERT_NOT_YET_VALID: `the certificate of ${host} is not valid yet: is the clock right?`,
    ERR_TLS_CERT_ALTNAME_INVALID: `the certificate of ${host} is for another name`,
  };
  if (simple[code] !== undefined) return unavailable(simple[code], err);
  if (/CERT|ISSUER|LEAF_SIGNATURE/.test(code)) {
    const issuer = await findIssuer(url);
    return unavailable(
      `the certificate of ${host} comes from an authority that is not trusted here${issuer === undefined ? '' : `: ${issuer}`}; install its certificate in the system's store or name it in NODE_EXTRA_CA_CERTS`,
      err,
    );
  }
  return unavailable(`${host}: ${code || (cause as Error).message}`, err);
}

function rootCause(err: unknown): unknown {
  const { cause } = err as { cause?: unknown };
  return cause === undefined || cause === null ? err : rootCause(cause);
}

/** Looks once more, without sending anything, at who issued the last certificate that the other side shows. */
async function findIssuer({ hostname, port }: URL): Promise<string | undefined> {
  return new Promise((resolve) => {
    const servername = isIP(hostname.replace(/^\[|\]$/g, '')) === 0 ? hostname : '';
    const socket = connect(
      {
        host: hostname.replace(/^\[|\]$/g, ''),
        port: Number(port || 443),
        servername,
        rejectUnauthorized: false,
      },
      () => {
        let certificate = socket.getPeerCertificate(true);
        while (certificate.issuerCertificate && certificate.issuerCertificate !== certificate) {
          certificate = certificate.issuerCertificate;
        }
        const { CN, O } = (certificate.issuer ?? {}) as { CN?: string; O?: string };
        socket.destroy();
        resolve([CN, O].filter(Boolean).join(', ') || undefined);
      },
    );
    socket.setTimeout(3_000, () => socket.destroy());
    socket.once('error', () => resolve(undefined));
    socket.once('close', () => resolve(undefined));
  });
}
