/** `postern doctor`: what is wrong or weak with an installation, the worst first, each with its remedy. */
import { existsSync, statSync } from 'node:fs';
import { type Configuration, loadConfiguration } from '../config/load.ts';
import { type ConfigurationIssue, isDatabaseUnavailable, ServerError } from '../errors.ts';
import { hostOf } from '../federation/destinations.ts';
import { createOutgoing } from '../federation/outgoing.ts';
import { endOf, readCertificateFile } from '../keys/key-file.ts';
import { arrange, isRevoked, keysOfLine } from '../keys/key-schedule.ts';
import { createKeyStore } from '../keys/key-store.ts';
import { certificatesOf, loadKeySet, toSigningKeys } from '../keys/keys.ts';
import { loadSamlSigningKey } from '../keys/saml-signer.ts';
import { warningDays } from '../keys/watch-certificates.ts';
import { createLogger, toPrintableLine } from '../log.ts';
import { checkEngineClients } from '../provider/engine-clients.ts';
import { toFurtherKeys, toKeySource, toManagedAlgorithms, toRhythm, toSamlKeySource } from '../server.ts';
import { type Database, openDatabase, toDatabaseTarget } from '../store/database.ts';
import { inspectDirectory, inspectIdentityProviders } from './configuration.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

/** From the worst on. */
const weights = ['broken', 'soon', 'weak'] as const;

interface Finding {
  /** `broken` does not work now, `soon` will not for long, `weak` works and should be better. */
  readonly weight: (typeof weights)[number];
  readonly what: string;
  readonly remedy: string;
}

const daySeconds = 86_400;
/** Of passwords, where nothing else is asked for. */
const recommendedLength = 15;
/** From how many days before its end on a secret is spoken of. */
const secretDays = 30;
/** How far the clock of this machine may be from that of the server: tokens have ends and beginnings. */
const clockToleranceSeconds = 30;

/**
 * Looks at the configuration, the keys, the database, the running server and everybody whom it needs.
 *
 * @throws {ConfigurationError} with every issue of every file, before anything else is looked at
 * @throws {CommandError} 1 where something is broken
 */
export async function examine(directory: string, io: CommandIo): Promise<void> {
  const configuration = await loadConfiguration(directory, io);
  checkEngineClients(configuration);
  const findings: Finding[] = [
    ...(await examineKeys(configuration, io)),
    ...(await examineDatabase(configuration, io)),
    ...(await examineServer(configuration, io)),
    ...(await examineOthers(configuration, io)),
    ...examineSecrets(configuration, io),
    ...examineSettings(configuration),
    ...configuration.deviations.map(toFinding),
  ];
  const sorted = weights.flatMap((weight) => findings.filter((finding) => finding.weight === weight));
  for (const { remedy, weight, what } of sorted)
    io.stdout.write(`${weight.padEnd(6)}  ${toPrintableLine(what)}\n        ${toPrintableLine(remedy)}\n`);
  const broken = findings.filter(({ weight }) => weight === 'broken').length;
  if (sorted.length === 0) io.stdout.write('nothing is wrong\n');
  if (broken > 0) {
    throw new CommandError(
      exitCodes.failure,
      broken === 1 ? 'one thing is broken' : `${broken} things are broken`,
    );
  }
}

function toFinding({ file, hint = '', message, path }: ConfigurationIssue): Finding {
  return { weight: 'weak', what: message, remedy: `${file} ${path}: ${hint}` };
}

function examineEnd(
  expiresAt: number,
  { io, remedy, soon, subject }: { io: CommandIo; remedy: string; soon: number; subject: string },
): Finding[] {
  const daysLeft = Math.floor((expiresAt - io.now()) / daySeconds);
  if (daysLeft > soon) return [];
  return daysLeft < 0
    ? [{ weight: 'broken', what: `${subject} has ended`, remedy }]
    : [{ weight: 'soon', what: `${subject} ends in ${daysLeft} days`, remedy }];
}

async function examineKeys(configuration: Configuration, io: CommandIo): Promise<Finding[]> {
  const { server } = configuration;
  const findings: Finding[] = [];
  const attempt = async (load: () => Promise<Finding[]>) => {
    try {
      findings.push(...(await load()));
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      findings.push({ weight: 'broken', what: err.message, remedy: err.hint ?? 'name another file' });
    }
  };
  if (server.Environment !== 'Development') {
    await attempt(async () => {
      const keySet = await loadKeySet(toKeySource(configuration), toFurtherKeys(configuration));
      // Where keys are managed there may be none in files.
      if (server.ManagedKeys === undefined) toSigningKeys(keySet);
      const remedy =
        'name the next certificate in OidcSigningCertificate.PublishedCertificateFiles, and exchange the keys a day later';
      return certificatesOf(keySet.signing).flatMap(({ expiresAt, property }) => {
        const subject = `the certificate of ${property}`;
        return examineEnd(expiresAt, { io, remedy, soon: warningDays.usual, subject });
      });
    });
    if (server.Mounts.includes('WsFed')) {
      await attempt(async () => {
        const { expiresAt } = await loadSamlSigningKey(toSamlKeySource(configuration));
        const remedy =
          'docs/ws-federation.md has the change, step by step: relying parties have to follow it';
        const subject = 'the certificate of WsFedSigningCertificate';
        return examineEnd(expiresAt, { io, remedy, soon: warningDays.pinned, subject });
      });
    }
  }
  const { Tls } = server.Listener;
  if (Tls !== undefined) {
    await attempt(async () => {
      const expiresAt = endOf(readCertificateFile(Tls.CertificateFile));
      const remedy = `put a new one into ${Tls.CertificateFile}; it is taken up within seconds`;
      const subject = 'the certificate of Listener.Tls';
      return examineEnd(expiresAt, { io, remedy, soon: warningDays.usual, subject });
    });
  }
  return findings;
}

async function examineDatabase({ server }: Configuration, io: CommandIo): Promise<Finding[]> {
  const log = createLogger({ level: 'silent', format: 'json' });
  const { File } = server.Database;
  if (server.Database.Client === 'sqlite' && !existsSync(File)) {
    return [{ weight: 'weak', what: `there is no database ${File} yet`, remedy: 'the first start makes it' }];
  }
  try {
    await using db = await openDatabase({ ...toDatabaseTarget(server), log, now: io.now });
    const pending = await db.pendingMigrations();
    const findings: Finding[] = [];
    if (pending.length > 0) {
      findings.push({
        weight: 'broken',
        what: `the database lacks the migrations ${pending.join(', ')}`,
        remedy:
          'run "postern migrate", or give what "postern migrate --script" writes to whoever administers it',
      });
    } else {
      const overdue = io.now() - Math.max(3600, 10 * server.ExpiredTokenCleanInterval);
      const row = await db.knex('OidcToken').where('expiresAt', '<=', overdue).first('id');
      if (row !== undefined) {
        findings.push({
          weight: 'weak',
          what: 'rows that expired long ago have not been removed',
          remedy: 'is a server running? "postern cleanup" removes them at once; its log says why it did not',
        });
      }
      findings.push(...(await examineManagedKeys(server, db, io)));
    }
    if (server.Database.Client === 'sqlite' && (statSync(File).mode & 0o077) !== 0) {
      findings.push({ weight: 'weak', what: `others may read ${File}`, remedy: `chmod 600 ${File}` });
    }
    return findings;
  } catch (err) {
    if (!isDatabaseUnavailable(err)) throw err;
    const { hint = '', message } = err as ServerError;
    return [{ weight: 'broken', what: message, remedy: hint }];
  }
}

/** Whether those that the server makes itself can be read, and are exchanged. */
async function examineManagedKeys(
  { DataProtectionKey, ManagedKeys }: Configuration['server'],
  db: Database,
  io: CommandIo,
): Promise<Finding[]> {
  if (ManagedKeys === undefined) return [];
  const store = createKeyStore({ db, secrets: DataProtectionKey });
  const { keep, rotation } = toRhythm(ManagedKeys);
  const algorithms = toManagedAlgorithms(ManagedKeys);
  const stored = await store.list();
  const findings: Finding[] = [];
  for (const key of stored.filter((one) => !isRevoked(one, io.now()))) {
    try {
      await store.open(key);
    } catch (err) {
      if (!(err instanceof ServerError)) throw err;
      findings.push({ weight: 'broken', what: err.message, remedy: err.hint ?? '' });
    }
    // One that is never exchanged, and those of an algorithm that has been taken away.
    if (key.purpose === 'derivation') continue;
    if (key.algorithm !== '' && !algorithms.includes(key.algorithm)) continue;
    const { inUse, next } = arrange(keysOfLine(stored, key), io.now(), keep);
    // A day more than it takes the slowest node to look.
    if (key.id === inUse?.id && next.length === 0 && key.activeAt + rotation + daySeconds < io.now()) {
      findings.push({
        weight: 'broken',
        what: `the managed key ${key.id} has not been exchanged`,
        remedy: 'is a server running? Its log says why it cannot make the next one',
      });
    }
  }
  return findings;
}

/** The server as its users reach it. */
async function examineServer({ server }: Configuration, io: CommandIo): Promise<Finding[]> {
  if (!server.Mounts.includes('Oidc')) return [];
  const log = createLogger({ level: 'silent', format: 'json' });
  const allowedHosts = [hostOf(new URL(server.PublicUrl))];
  await using outgoing = createOutgoing({
    log,
    proxy: undefined,
    proxyExceptions: [],
    allowedHosts: [...allowedHosts, ...server.OutgoingAllowedHosts],
  });
  const address = `${server.PublicUrl}/.well-known/openid-configuration`;
  try {
    const { fetch } = outgoing;
    const response = await fetch(address, {});
    const { issuer } = (await response.json()) as { issuer?: string };
    const findings: Finding[] = [];
    if (issuer !== server.PublicUrl) {
      findings.push({
        weight: 'broken',
        what: `${address} belongs to ${issuer ?? 'something else'}, not to ${server.PublicUrl}`,
        remedy: 'PublicUrl must be the address that browsers use, and lead here',
      });
    }
    const skew = Math.abs(Date.parse(response.headers.get('date') ?? '') / 1000 - io.now());
    if (skew > clockToleranceSeconds) {
      findings.push({
        weight: 'broken',
        what: `the clocks of this machine and of the server differ by ${Math.round(skew)} s`,
        remedy: 'have both set by NTP: tokens and Kerberos tickets are refused otherwise',
      });
    }
    return findings;
  } catch (err) {
    // The message is for a browser; what happened is in the hint.
    const { hint, message } = err as Partial<ServerError>;
    return [
      {
        weight: 'broken',
        what: `${server.PublicUrl} does not answer from here`,
        remedy: `is the server running, and its proxy? ${hint ?? message}`,
      },
    ];
  }
}

/** Those that the server needs: the directory, and identity providers. */
async function examineOthers(configuration: Configuration, io: CommandIo): Promise<Finding[]> {
  const seen = [
    ...(await inspectDirectory(configuration, io)),
    ...(await inspectIdentityProviders(configuration)),
  ];
  return seen.flatMap(({ name, problem, warnings = [] }) => [
    ...(problem === undefined
      ? []
      : [{ weight: 'broken' as const, what: `${name}: ${problem}`, remedy: 'its users cannot sign in' }]),
    ...warnings.map((warning) => ({
      weight: 'weak' as const,
      what: `${name}: ${warning}`,
      remedy: 'see its file',
    })),
  ]);
}

function examineSecrets({ clients, resources }: Configuration, io: CommandIo): Finding[] {
  const owners = [
    ...[...clients.values()]
      .filter(({ Enabled }) => Enabled)
      .map(({ ClientId, ClientSecrets }) => ({ name: `the client ${ClientId}`, secrets: ClientSecrets })),
    ...[...resources.values()]
      .filter(({ Enabled }) => Enabled)
      .map(({ Name, Secrets }) => ({ name: `the resource ${Name}`, secrets: Secrets })),
  ];
  return owners.flatMap(({ name, secrets }) => {
    if (secrets.length === 0) return [];
    // The last to end counts: with another one nothing stops.
    const ends = secrets.map(({ expiresAt }) => expiresAt ?? Number.POSITIVE_INFINITY);
    const remedy = 'add the next secret beside it, and take the old one away when everybody uses the next';
    return examineEnd(Math.max(...ends), {
      io,
      remedy,
      soon: secretDays,
      subject: `the secret of ${name}`,
    });
  });
}

function examineSettings({ server }: Configuration): Finding[] {
  const findings: Finding[] = [];
  if (server.Environment === 'Development') {
    findings.push({
      weight: 'weak',
      what: 'this is a development set: its secrets are known to everybody',
      remedy: 'for production see README.md',
    });
  }
  if (server.Environment !== 'Development' && server.Passwords.MinimumLength < recommendedLength) {
    findings.push({
      weight: 'weak',
      what: `new passwords may have ${server.Passwords.MinimumLength} characters, and are the only factor`,
      remedy: `set Passwords.MinimumLength to ${recommendedLength}, as NIST SP 800-63B asks for then`,
    });
  }
  if (server.Management === undefined) {
    findings.push({
      weight: 'weak',
      what: 'nobody can see whether the server is well',
      remedy: 'set Management in server.json, and have /health/ready and /metrics read',
    });
  }
  if (server.EnableTokenValidationEndpoints) {
    findings.push({
      weight: 'weak',
      what: 'connect/accessTokenValidation tells what is in a token to whoever has it',
      remedy: 'set EnableTokenValidationEndpoints to false once its callers introspect',
    });
  }
  return findings;
}
