/** Why an outgoing call failed, in words that an administrator can act on. */
import { type ClientRequest, request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { LookupFunction, Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type DetailedPeerCertificate } from 'node:tls';
import { DestinationRefusedError } from './destinations.ts';

/** How long we look for the name of a missing issuer, once the call itself has failed. */
const diagnosisTimeoutMs = 3_000;

/** A failure whose reason is known where it is raised. `message` is for the operator. */
export class CallFailedError extends Error {
  override readonly name = 'CallFailedError';
}

/** OpenSSL's names for a chain that does not end at a certificate that we trust. */
const unknownIssuerCodes = new Set([
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

const explanations: Readonly<Record<string, string>> = {
  ENOTFOUND: 'its name is not found: is it spelled correctly, and can this server resolve it?',
  EAI_AGAIN: 'its name cannot be looked up at the moment: does the name server answer?',
  ECONNREFUSED: 'it refuses the connection: is it running, and is the port right?',
  ECONNRESET: 'it broke the connection off',
  EPIPE: 'it broke the connection off',
  UND_ERR_SOCKET: 'it broke the connection off',
  EHOSTUNREACH: 'there is no route to it from this server',
  ENETUNREACH: 'there is no route to it from this server',
  ETIMEDOUT: 'it does not answer: does a firewall stand between?',
  UND_ERR_CONNECT_TIMEOUT: 'it does not answer: does a firewall stand between?',
  UND_ERR_HEADERS_OVERFLOW: 'it answers with headers that are too large',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: "its certificate is not valid yet: is this server's clock right?",
  CERT_REVOKED: 'its certificate has been revoked',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host name',
  ERR_SSL: 'it does not speak TLS as it should: is the port right?',
  EPROTO: 'it does not speak TLS as it should: is the port right?',
};

/** True where only the issuer of the certificate is missing, which {@link findMissingIssuer} can then name. */
export function isUnknownIssuer(err: unknown): boolean {
  return causesOf(err).some((cause) => unknownIssuerCodes.has(codeOf(cause)));
}

/** One phrase about the host of a call: why it failed. */
export function explainFailure(err: unknown, { timeoutMs }: { timeoutMs: number }): string {
  const causes = causesOf(err);
  const ours = causes.find(
    (cause) => cause instanceof DestinationRefusedError || cause instanceof CallFailedError,
  );
  if (ours !== undefined) return (ours as Error).message;
  if (causes.some((cause) => cause instanceof Error && cause.name === 'TimeoutError')) {
    return `it did not answer within ${timeoutMs / 1000} s`;
  }
  // undici has no code for the answer of a proxy.
  const proxyStatus = causes.map((cause) => /^Proxy [^(]*\((\d+)\)/.exec(messageOf(cause))?.[1]);
  const status = proxyStatus.find((found) => found !== undefined);
  if (status !== undefined) return `the proxy answered ${status} instead of connecting to it`;

  // Every fault of a TLS connection has a code of its own, which begins so.
  const codes = causes.map(codeOf).map((code) => (code.startsWith('ERR_SSL_') ? 'ERR_SSL' : code));
  const known = codes.map((code) => explanations[code]).find((found) => found !== undefined);
  if (known !== undefined) return known;
  const [last] = causes.slice(-1);
  return `the call failed: ${[codeOf(last), messageOf(last)].filter((part) => part !== '').join(' ')}`;
}

/** Where to look for a certificate chain. */
export interface DiagnosisTarget {
  hostname: string;
  port: number;
  /** Guards where the connection goes, as in the call that failed. */
  lookup: LookupFunction | undefined;
  proxy: URL | undefined;
}

/**
 * Reads from the server's certificate chain which issuer is missing here, such as `CN=Example Root, O=Example`.
 * Undefined where that cannot be found out. The connection is not verified, so nothing is sent over it.
 */
export async function findMissingIssuer(target: DiagnosisTarget): Promise<string | undefined> {
  const timeout = AbortSignal.timeout(diagnosisTimeoutMs);
  try {
    const tunnel = target.proxy === undefined ? undefined : await openTunnel(target, target.proxy, timeout);
    return await readMissingIssuer(target, tunnel, timeout);
  } catch {
    // The reason of the failure is known already, only the name is not.
    return undefined;
  }
}

function readMissingIssuer(
  { hostname, port, lookup }: DiagnosisTarget,
  tunnel: Socket | undefined,
  timeout: AbortSignal,
): Promise<string | undefined> {
  const options: ConnectionOptions = {
    ...(tunnel === undefined ? { host: hostname, port, ...(lookup && { lookup }) } : { socket: tunnel }),
    // RFC 6066 section 3: an address is no server name.
    ...(/[a-z]/i.test(hostname) && !hostname.includes(':') && { servername: hostname }),
    rejectUnauthorized: false,
  };
  return new Promise((resolve, reject) => {
    const socket = connectTls(options, () => {
      resolve(nameMissingIssuer(socket.getPeerCertificate(true)));
      socket.destroy();
    });
    socket.once('error', reject);
    timeout.addEventListener('abort', () => socket.destroy(timeout.reason as Error), { once: true });
  });
}

/** The issuer of the last certificate of the chain that the server sent. */
function nameMissingIssuer(leaf: DetailedPeerCertificate): string | undefined {
  let certificate = leaf;
  // A chain that was sent has few links; a root is its own issuer.
  for (let depth = 0; depth < 10; depth += 1) {
    const issuer = certificate.issuerCertificate as DetailedPeerCertificate | undefined;
    if (issuer === undefined || issuer.fingerprint256 === certificate.fingerprint256) break;
    certificate = issuer;
  }
  const parts = Object.entries(certificate.issuer ?? {}).map(([name, value]) => `${name}=${String(value)}`);
  return parts.length === 0 ? undefined : parts.join(', ');
}

/** A connection through the proxy to the target (RFC 9110 section 9.3.6). */
function openTunnel({ hostname, port }: DiagnosisTarget, proxy: URL, signal: AbortSignal): Promise<Socket> {
  const authority = `${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`;
  const credentials = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  const options = {
    host: proxy.hostname,
    port: proxy.port === '' ? (proxy.protocol === 'https:' ? 443 : 80) : Number(proxy.port),
    method: 'CONNECT',
    path: authority,
    headers: {
      host: authority,
      ...(proxy.username !== '' && {
        'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}`,
      }),
    },
    agent: false as const,
    signal,
  };
  const request: ClientRequest = proxy.protocol === 'https:' ? requestHttps(options) : requestHttp(options);
  return new Promise((resolve, reject) => {
    request.once('connect', ({ statusCode }, socket) => {
      if (statusCode === 200) return resolve(socket as Socket);
      socket.destroy();
      reject(new Error(`the proxy answered ${statusCode}`));
    });
    request.once('error', reject);
    request.end();
  });
}

/** The error, what caused it, and so on; of several attempts at once, all. */
function causesOf(err: unknown): unknown[] {
  if (!(err instanceof Error)) return [err];
  const attempts = err instanceof AggregateError ? (err.errors as unknown[]) : [];
  return [
    err,
    ...attempts.flatMap(causesOf),
    ...(err.cause === undefined || err.cause === err ? [] : causesOf(err.cause)),
  ];
}

function codeOf(err: unknown): string {
  const { code } = (err ?? {}) as { code?: unknown };
  return typeof code === 'string' ? code : '';
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : '';
}
