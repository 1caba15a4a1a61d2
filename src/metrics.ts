/** What Prometheus reads. Labels are names of the configuration and words of ours, never what a user has sent. */
import cluster from 'node:cluster';
import { AggregatorRegistry, Counter, Registry } from 'prom-client';

/** How a sign-in through an identity provider ended. */
export type ExternalOutcome = 'cancelled' | 'invalid' | 'no-account' | 'no-mfa' | 'signed-in' | 'unavailable';

export interface Metrics {
  countExternalSignIn(identityProvider: string, outcome: ExternalOutcome): void;
  /** Of {@link Metrics.read}. */
  readonly contentType: string;
  read(): Promise<string>;
}

/** Makes them; each server has its own. */
export function createMetrics(): Metrics {
  const register = new Registry();
  const externalSignIns = new Counter({
    name: 'postern_external_sign_ins_total',
    help: 'Sign-ins through an identity provider, by how they ended',
    labelNames: ['identity_provider', 'outcome'],
    registers: [register],
  });
  return {
    countExternalSignIn: (identity_provider, outcome) => externalSignIns.inc({ identity_provider, outcome }),
    contentType: register.contentType,
    read: cluster.worker === undefined ? () => register.metrics() : readAll(register),
  };
}

/** The metrics of all workers together: whoever supervises them adds up what each of them has. */
function readAll(register: Registry): () => Promise<string> {
  // The library answers the supervisor's question to this worker by itself.
  new AggregatorRegistry();
  AggregatorRegistry.setRegistries([register]);
  let count = 0;
  return () =>
    new Promise((resolve) => {
      count += 1;
      const mine = count;
      const take = ({ metrics, text = '' }: { metrics?: number; text?: string }) => {
        if (metrics !== mine) return;
        cluster.worker?.off('message', take);
        resolve(text);
      };
      cluster.worker?.on('message', take);
      cluster.worker?.send({ metrics: mine });
    });
}
