/** Says in time that a certificate ends, and on every day from then on; and tells the metrics of each when. */
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';

/** A certificate that somebody has to exchange. */
export interface WatchedCertificate {
  /** The property of `server.json` that names it. */
  readonly property: string;
  /** When it ends, in seconds since the epoch; undefined while its file cannot be read. */
  readEnd(): number | undefined;
  /** From how many days before its end on it is warned of. */
  readonly warningDays: number;
}

/** From how many days before its end on a certificate is spoken of: whoever pins it needs longer for the change. */
export const warningDays = { usual: 30, pinned: 90 } as const;
/** In the last week it is an error. */
const errorDays = 7;
const daySeconds = 86_400;
/** A certificate that is renewed in its file is known to the metrics after that time. */
const lookMs = 3_600_000;

/** One that must be exchanged. */
export interface EndingCertificate {
  readonly certificate: string;
  /** Below zero once it has ended. */
  readonly daysLeft: number;
}

function daysUntil(expiresAt: number, now: number): number {
  return Math.floor((expiresAt - now) / daySeconds);
}

/** Those that end within their warning days, or have ended; `now` in seconds since the epoch. */
export function findEnding(certificates: readonly WatchedCertificate[], now: number): EndingCertificate[] {
  return certificates.flatMap(({ property, readEnd, warningDays: days }) => {
    const expiresAt = readEnd();
    if (expiresAt === undefined) return [];
    const daysLeft = daysUntil(expiresAt, now);
    return daysLeft > days ? [] : [{ certificate: property, daysLeft }];
  });
}

/** Looks now and every hour until disposed. */
export function watchCertificates(
  { log, metrics, now }: { log: Logger; metrics: Metrics; now: () => number },
  certificates: readonly WatchedCertificate[],
): Disposable {
  const saidOf = new Map<string, number>();
  const look = () => {
    for (const { property, readEnd, warningDays: days } of certificates) {
      const expiresAt = readEnd();
      if (expiresAt === undefined) continue;
      metrics.setCertificateEnd(property, expiresAt);
      const daysLeft = daysUntil(expiresAt, now());
      if (daysLeft > days || daysLeft === saidOf.get(property)) continue;
      saidOf.set(property, daysLeft);
      const message =
        daysLeft < 0
          ? 'a certificate has ended: whoever checks it may refuse its key'
          : 'a certificate ends soon: it must be exchanged before';
      log[daysLeft > errorDays ? 'warn' : 'error']({ certificate: property, daysLeft }, message);
    }
  };
  look();
  const timer = setInterval(look, lookMs).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
