/** Says in time that a certificate ends, and on every day from then on. */
import type { Logger } from '../log.ts';

/** A certificate that somebody has to exchange. */
export interface WatchedCertificate {
  /** The property of `server.json` that names it. */
  readonly property: string;
  /** Seconds since the epoch. */
  readonly expiresAt: number;
  /** From how many days before its end on it is warned of. */
  readonly warningDays: number;
}

/** In the last week it is an error. */
const errorDays = 7;
const daySeconds = 86_400;

/** Looks now and every day until disposed. */
export function watchCertificates(
  { log, now }: { log: Logger; now: () => number },
  certificates: readonly WatchedCertificate[],
): Disposable {
  const look = () => {
    for (const { expiresAt, property, warningDays } of certificates) {
      const daysLeft = Math.floor((expiresAt - now()) / daySeconds);
      if (daysLeft > warningDays) continue;
      const message =
        daysLeft < 0
          ? 'a certificate has ended: whoever checks it may refuse what its key signs'
          : 'a certificate ends soon: the next one must be published before';
      log[daysLeft > errorDays ? 'warn' : 'error']({ certificate: property, daysLeft }, message);
    }
  };
  look();
  const timer = setInterval(look, daySeconds * 1000).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
