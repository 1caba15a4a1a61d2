/**
 * What Prometheus reads. Labels are names of the configuration and words of ours, never what a user has sent: their
 * number is bounded.
 */
import cluster from 'node:cluster';

/** How a sign-in through an identity provider ended. */
export type ExternalOutcome =
  | 'cancelled'
  | 'invalid'
  | 'no-account'
  | 'no-mfa'
  | 'not-checked'
  | 'signed-in'
  | 'unavailable';

const passwordOutcomes = ['accepted', 'blocked', 'must-change', 'refused', 'unavailable'] as const;
/** What became of a password, whoever asked and whoever has it. */
export type PasswordOutcome = (typeof passwordOutcomes)[number];

/** What became of a wrong secret of a client or a resource, or of one that came while too many wrong ones did. */
export type SecretOutcome = 'blocked' | 'refused';

const windowsOutcomes = ['no-account', 'not-checked', 'refused', 'signed-in'] as const;
/** How a sign-in by Windows ended. */
export type WindowsOutcome = (typeof windowsOutcomes)[number];

/** The connections of the database, as far as it has several. */
export interface PoolState {
  readonly used: number;
  readonly free: number;
  /** Requests that wait for one. */
  readonly waiting: number;
}

export interface Metrics {
  countExternalSignIn(identityProvider: string, outcome: ExternalOutcome): void;
  countPassword(outcome: PasswordOutcome): void;
  countSecret(outcome: SecretOutcome): void;
  countWindowsSignIn(outcome: WindowsOutcome): void;
  /** `route` is one of ours, such as `/connect/token`; `seconds` how long the answer took. */
  countRequest(request: { route: string; method: string; status: number; seconds: number }): void;
  countToken(token: { grantType: string; clientId: string }): void;
  countCleanup(deleted: number): void;
  countDroppedAuditRecords(count: number): void;
  /** Asked whenever the metrics are read. */
  watchPool(read: () => PoolState): void;
  setCertificateEnd(property: string, expiresAt: number): void;
  /** Of managed keys: since when the one of a purpose has been in use, in seconds since the epoch. */
  setKeyInUse(key: { purpose: string; algorithm: string }, since: number): void;
  /** Of {@link Metrics.read}. */
  readonly contentType: string;
  read(): Promise<string>;
}

/** Where nobody reads them there are none: the library alone takes a tenth of the time of a start. */
const none: Metrics = {
  countExternalSignIn() {},
  countPassword() {},
  countSecret() {},
  countWindowsSignIn() {},
  countRequest() {},
  countToken() {},
  countCleanup() {},
  countDroppedAuditRecords() {},
  watchPool() {},
  setCertificateEnd() {},
  setKeyInUse() {},
  contentType: 'text/plain',
  read: async () => '',
};

/** Makes them; each server has its own. */
export async function createMetrics({ isRead }: { isRead: boolean }): Promise<Metrics> {
  if (!isRead) return none;
  const { AggregatorRegistry, collectDefaultMetrics, Counter, Gauge, Histogram, Registry } = await import(
    'prom-client'
  );
  const register = new Registry();
  const registers = [register];
  collectDefaultMetrics({ register });
  const externalSignIns = new Counter({
    name: 'postern_external_sign_ins_total',
    help: 'Sign-ins through an identity provider, by how they ended',
    labelNames: ['identity_provider', 'outcome'],
    registers,
  });
  const passwords = new Counter({
    name: 'postern_passwords_verified_total',
    help: 'Passwords that were verified, on a page or at the token endpoint, by what became of them',
    labelNames: ['outcome'],
    registers,
  });
  const secrets = new Counter({
    name: 'postern_secrets_refused_total',
    help: 'Secrets of clients and resources that were wrong (refused), or not looked at after too many wrong ones (blocked)',
    labelNames: ['outcome'],
    registers,
  });
  const windowsSignIns = new Counter({
    name: 'postern_windows_sign_ins_total',
    help: 'Sign-ins by Windows, by how they ended',
    labelNames: ['outcome'],
    registers,
  });
  const requests = new Histogram({
    name: 'postern_http_request_duration_seconds',
    help: 'How long answers took, by route, method and class of status',
    labelNames: ['route', 'method', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers,
  });
  const tokens = new Counter({
    name: 'postern_tokens_issued_total',
    help: 'Answers of the token endpoint with tokens, by grant type and client',
    labelNames: ['grant_type', 'client_id'],
    registers,
  });
  const deletedRows = new Counter({
    name: 'postern_cleanup_deleted_rows_total',
    help: 'Expired rows that the cleanup has removed',
    registers,
  });
  const lastCleanup = new Gauge({
    name: 'postern_cleanup_last_success_timestamp_seconds',
    help: 'When the cleanup last came to its end, here or by leaving it to another server',
    aggregator: 'max',
    registers,
  });
  const droppedAuditRecords = new Counter({
    name: 'postern_audit_records_dropped_total',
    help: 'Events that the audit log has lost: its folder could not be written, or its collector was away too long',
    registers,
  });
  const certificates = new Gauge({
    name: 'postern_certificate_end_timestamp_seconds',
    help: 'When a certificate ends',
    labelNames: ['certificate'],
    aggregator: 'min',
    registers,
  });
  const keysInUse = new Gauge({
    name: 'postern_key_in_use_since_timestamp_seconds',
    help: 'Since when the managed key of a purpose has been in use',
    labelNames: ['purpose', 'algorithm'],
    aggregator: 'max',
    registers,
  });

  // From the first reading on: Prometheus sees no rise in what is not there before it has risen.
  for (const outcome of passwordOutcomes) passwords.inc({ outcome }, 0);
  for (const outcome of windowsOutcomes) windowsSignIns.inc({ outcome }, 0);

  // The library answers the question of a supervisor to its workers by itself.
  if (cluster.worker !== undefined) {
    new AggregatorRegistry();
    AggregatorRegistry.setRegistries([register]);
  }
  return {
    countExternalSignIn: (identity_provider, outcome) => externalSignIns.inc({ identity_provider, outcome }),
    countPassword: (outcome) => passwords.inc({ outcome }),
    countSecret: (outcome) => secrets.inc({ outcome }),
    countWindowsSignIn: (outcome) => windowsSignIns.inc({ outcome }),
    countRequest: ({ method, route, seconds, status }) =>
      requests.observe({ route, method, status: `${Math.floor(status / 100)}xx` }, seconds),
    countToken: ({ clientId, grantType }) => tokens.inc({ grant_type: grantType, client_id: clientId }),
    countCleanup(deleted) {
      deletedRows.inc(deleted);
      lastCleanup.setToCurrentTime();
    },
    countDroppedAuditRecords: (count) => droppedAuditRecords.inc(count),
    watchPool(read) {
      new Gauge({
        name: 'postern_database_connections',
        help: 'Connections of the database by what they do, and the requests that wait for one',
        labelNames: ['state'],
        registers,
        collect() {
          for (const [state, count] of Object.entries(read())) this.set({ state }, count);
        },
      });
    },
    setCertificateEnd: (certificate, expiresAt) => certificates.set({ certificate }, expiresAt),
    setKeyInUse: ({ algorithm, purpose }, since) => keysInUse.set({ purpose, algorithm }, since),
    contentType: register.contentType,
    read: cluster.worker === undefined ? () => register.metrics() : readAll,
  };
}

let asked = 0;

/** The metrics of all workers together: whoever supervises them adds up what each of them has. */
function readAll(): Promise<string> {
  return new Promise((resolve) => {
    asked += 1;
    const mine = asked;
    const take = ({ readMetrics, text = '' }: { readMetrics?: number; text?: string }) => {
      if (readMetrics !== mine) return;
      cluster.worker?.off('message', take);
      resolve(text);
    };
    cluster.worker?.on('message', take);
    cluster.worker?.send({ readMetrics: mine });
  });
}
