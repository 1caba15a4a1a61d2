/**
 * What operators and their programs read, on a listener that no user reaches:
 *
 *   GET /health/live    200 as long as the process answers
 *   GET /health/ready   200 where requests can be served: the database answers, and no stop has begun; else 503
 *   GET /metrics        for Prometheus
 */
import type { RequestListener } from 'node:http';
import type { Metrics } from '../metrics.ts';

/** One look at the database is enough for everybody who asks within this time. */
const freshMs = 1000;

export interface ManagementParts {
  readonly metrics: Metrics;
  /** Rejects where the database does not answer. */
  readonly ping: () => Promise<void>;
  readonly isStopping: () => boolean;
}

/** Makes the handler. */
export function serveManagement({ isStopping, metrics, ping }: ManagementParts): RequestListener {
  let last: { readonly at: number; readonly answers: Promise<boolean> } | undefined;
  const databaseAnswers = () => {
    if (last === undefined || performance.now() - last.at > freshMs) {
      const answers = ping().then(
        () => true,
        () => false,
      );
      last = { at: performance.now(), answers };
    }
    return last.answers;
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
      const database = await databaseAnswers();
      const stopping = isStopping();
      const isReady = database && !stopping;
      answer(isReady ? 200 : 503, { status: isReady ? 'ready' : 'not ready', database, stopping });
    } else if (request.url === '/metrics') {
      const text = await metrics.read();
      response.writeHead(200, { 'content-type': metrics.contentType }).end(text);
    } else answer(404, { status: 'there is nothing at this address' });
  };
}
