/**
 * What operators and their programs read, on a listener that no user reaches:
 *
 *   GET /health/live    200 as long as the process answers
 *   GET /health/ready   200 where requests can be served: the database answers, and no stop has begun; else 503.
 *                       Certificates that end soon are named, and change nothing: no restart would renew one
 *   GET /metrics        for Prometheus
 */
import type { RequestListener } from 'node:http';
import type { EndingCertificate } from '../keys/watch-certificates.ts';
import type { Metrics } from '../metrics.ts';

/** One look is enough for everybody who asks within this time. */
const freshMs = 1000;

export interface ManagementParts {
  readonly metrics: Metrics;
  /** Rejects where the database does not answer. */
  readonly ping: () => Promise<void>;
  readonly isStopping: () => boolean;
  readonly endingCertificates: () => readonly EndingCertificate[];
}

/** Makes the handler. */
export function serveManagement({
  endingCertificates,
  isStopping,
  metrics,
  ping,
}: ManagementParts): RequestListener {
  let last: { readonly at: number; readonly seen: ReturnType<typeof look> } | undefined;
  const look = async () => {
    const certificates = endingCertificates();
    const database = await ping().then(
      () => true,
      () => false,
    );
    return { database, certificates };
  };
  const lookOnce = () => {
    if (last === undefined || performance.now() - last.at > freshMs) {
      last = { at: performance.now(), seen: look() };
    }
    return last.seen;
  };

  return async (request, response) => {
    const answer = (status: number, body: object) => {
      const text = JSON.stringify(body);
      response
        .writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
        .end(request.method === 'HEAD' ? undefined : text);
    };
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end();
    } else if (request.url === '/health/live') answer(200, { status: 'live' });
    else if (request.url === '/health/ready') {
      const { certificates, database } = await lookOnce();
      const stopping = isStopping();
      const isReady = database && !stopping;
      const status = isReady ? 'ready' : 'not ready';
      answer(isReady ? 200 : 503, { status, database, stopping, certificates });
    } else if (request.url === '/metrics') {
      const text = await metrics.read();
      response.writeHead(200, { 'content-type': metrics.contentType }).end(text);
    } else answer(404, { status: 'there is nothing at this address' });
  };
}
