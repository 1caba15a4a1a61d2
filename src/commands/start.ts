/** `postern start`: runs the server until it is told to stop. */
import { type Configuration, loadConfiguration } from '../config/load.ts';
import { createLogger } from '../log.ts';
import { verifySecret } from '../provider/client-authentication.ts';
import { type RunningServer, startServer } from '../server.ts';
import { exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';
import { isFurtherWorker, isSupervisor, reportServing, superviseWorkers } from './workers.ts';

/** Ctrl+C reaches a whole group of processes, and npm hands it on besides: within this time it is one request. */
const repeatMs = 1000;

/**
 * Starts the server, reloads it when asked, and returns when it has stopped: requests in flight are finished
 * first, unless the request to stop is repeated.
 *
 * @throws what {@link startServer} throws
 */
export async function start(directory: string, io: CommandIo): Promise<void> {
  const configuration = await loadConfiguration(directory, { env: io.env });
  const { Log, ShutdownDelaySeconds, ShutdownTimeoutSeconds, Workers } = configuration.server;
  if (Workers > 1 && isSupervisor()) {
    const log = createLogger({ level: Log.Level, format: Log.Format });
    const patienceMs = (ShutdownDelaySeconds + ShutdownTimeoutSeconds + 10) * 1000;
    await superviseWorkers(Workers, { io, log, patienceMs });
    return;
  }
  const { promise: stopRequest, resolve: stop } = Promise.withResolvers<void>();
  let requestedAt: number | undefined;
  // Never taken back: a repeat that comes when all has stopped must not kill the process on its way out.
  io.onStop(() => {
    const at = performance.now();
    if (requestedAt !== undefined && at - requestedAt > repeatMs) io.exit(exitCodes.failure);
    requestedAt ??= at;
    stop();
  });
  await using server = await startServer({
    configDirectory: directory,
    configuration,
    env: io.env,
    now: io.now,
  });
  using _reloading = io.onReload(() => void server.reload());
  reportServing();
  if (!isFurtherWorker()) io.stdout.write(describeStart(server, io.now()));
  await stopRequest;
}

/** What the shipped development set uses and its documentation prints; no other secret is ever shown. */
const published = { password: 'Pass-word-1', secretOf: (clientId: string) => `${clientId}-secret` };

/** The lines for a person who has just started a development server; empty where a log is read by machines. */
function describeStart({ configuration, issuer, url }: RunningServer, now: number): string {
  const { server } = configuration;
  if (server.Environment !== 'Development' || server.Log.Format !== 'text') return '';

  const clientIds = [...configuration.clients.values()]
    .filter(({ Enabled }) => Enabled)
    .map(({ ClientId }) => ClientId);
  const facts = [
    ['Listens on', url],
    ['Issuer', issuer],
    ...(clientIds.length === 0 ? [] : [['Clients', clientIds.sort().join(', ')]]),
    ...describeAccounts(configuration),
  ];
  const steps = describeSteps(configuration, now);
  return [
    '',
    'Postern is ready, for development only.',
    '',
    ...facts.map(([label, value]) => `  ${String(label).padEnd(10)}  ${value}`),
    '',
    ...(steps.length === 0 ? [] : ['  Try next', ...steps.map((step) => `    ${step}`), '']),
    '',
  ].join('\n');
}

function describeAccounts({ demoAccounts }: Configuration): string[][] {
  if (demoAccounts.length === 0) return [];
  const names = demoAccounts.map(({ Name }) => Name).join(', ');
  const withPublished = demoAccounts.filter(({ Password }) => Password === published.password);
  const note =
    withPublished.length === 0 ? [] : [['', describePassword(withPublished.map(({ Name }) => Name))]];
  return [['Accounts', names], ...note];
}

function describePassword(names: readonly string[]): string {
  const owners = names.length === 1 ? names[0] : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
  return `the password of ${owners} is ${published.password}`;
}

function describeSteps(configuration: Configuration, now: number): string[] {
  const { clients, demoAccounts, server } = configuration;
  const byId = [...clients.values()].sort((a, b) => (a.ClientId < b.ClientId ? -1 : 1));
  const usable = byId.filter(({ ClientId, ClientSecrets, Enabled }) => {
    return Enabled && verifySecret(configuration, ClientSecrets, published.secretOf(ClientId), now);
  });
  const computer = usable.find(({ Flow }) => Flow === 'ClientCredentials');
  const program = usable.find(({ Flow }) => Flow === 'ResourceOwner');
  const person = demoAccounts.find(({ Password }) => Password === published.password);
  if (computer === undefined && program === undefined) return [];
  return [
    'npm run example        an application and an API beside this server: sign in with a browser',
    ...(computer === undefined
      ? []
      : [
          // Double quotes only: this line is the same for every shell.
          `curl -u ${computer.ClientId}:${published.secretOf(computer.ClientId)} ` +
            `-d "grant_type=client_credentials&scope=${computer.AllowedScopes.join('+')}" ` +
            `${server.PublicUrl}/connect/token`,
        ]),
    ...(program === undefined || person === undefined
      ? []
      : [
          `npx postern token ${program.ClientId} --user ${person.Name}` +
            `        the secret is ${published.secretOf(program.ClientId)}`,
        ]),
  ];
}
