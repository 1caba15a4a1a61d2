/**
 * The composition root: builds everything once, mounts it on one listener, starts and stops it. It knows all;
 * what it builds knows only what it is handed.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, extname } from 'node:path';
import Router from '@koa/router';
import Koa, { type Context, type Middleware } from 'koa';
import compose from 'koa-compose';
import type { AdapterFactory } from 'oidc-provider';
import { createAccounts } from './accounts/accounts.ts';
import { createCredentials } from './accounts/credentials.ts';
import { createExternalLogins } from './accounts/external-logins.ts';
import { createGuessing, guessingKey } from './accounts/guessing.ts';
import { createPasswords, withBrand } from './accounts/passwords.ts';
import { createStanding } from './accounts/standing.ts';
import { type AuditFields, createAudit } from './audit.ts';
import { changesBetween } from './config/changes.ts';
import {
  type Configuration,
  federationMetadataPath,
  type KeyLocation,
  loadConfiguration,
} from './config/load.ts';
import { type SigningAlgorithm, usualAlgorithm } from './config/schema.ts';
import { watchConfiguration } from './config/watch.ts';
import type { ServerContext } from './context.ts';
import { ConfigurationError, ServerError } from './errors.ts';
import { hostOf, parseHostPatterns } from './federation/destinations.ts';
import { createIdentityProviders } from './federation/identity-providers.ts';
import { createOpenIdConnect } from './federation/openid-connect.ts';
import { createOutgoing, type Outgoing } from './federation/outgoing.ts';
import { createPasswordVerifier } from './federation/password-verifier.ts';
import { allowOrigins } from './http/cors.ts';
import { createCsrf } from './http/csrf.ts';
import { createDevices } from './http/devices.ts';
import { keepInteractionCookies } from './http/interaction-cookies.ts';
import { textsFor } from './http/language.ts';
import { openListener } from './http/listener.ts';
import { serveManagement } from './http/management.ts';
import {
  allowMethods,
  answerErrors,
  createAddressOf,
  createNoteAnswer,
  findClientAddress,
  isCutOff,
  logRequests,
  mountAt,
  type RequestState,
  requirePath,
  securityHeaders,
  serveApart,
  servePublicOrigin,
  traceRequests,
} from './http/middleware.ts';
import { passFailure, servePlainly } from './http/plain.ts';
import { endOf, type KeyFiles, readCertificateFile } from './keys/key-file.ts';
import type { Rhythm } from './keys/key-schedule.ts';
import { createKeyStore } from './keys/key-store.ts';
import { type FurtherKey, type KeySource, loadKeySet, loadKeys, type SigningKeys } from './keys/keys.ts';
import { startManagedKeys } from './keys/managed-keys.ts';
import { loadSamlSigningKey, type SamlKeySource, type SamlSigningKey } from './keys/saml-signer.ts';
import {
  findEnding,
  type WatchedCertificate,
  warningDays,
  watchCertificates,
} from './keys/watch-certificates.ts';
import { createLogger, type Logger, withFields } from './log.ts';
import { createAttempts } from './login/attempts.ts';
import { createExternalSteps, receiveAnswers } from './login/external.ts';
import { createLoginRoutes } from './login/routes.ts';
import { createMetrics } from './metrics.ts';
import type { Brand } from './pages/layout.ts';
import { homePage } from './pages/notices.ts';
import { stylesheet } from './pages/style.ts';
import { createAccessTokenVerifier, createIdTokenVerifier } from './provider/access-token.ts';
import { discoveryDocument } from './provider/discovery.ts';
import { createFarewells, type Farewells } from './provider/farewell.ts';
import { acceptOldCallers } from './provider/old-callers.ts';
import { createProvider, routes } from './provider/provider.ts';
import { completeSignOut, createStayPage, endOvertakenSignIns, forgiveSignOut } from './provider/sign-out.ts';
import { createTokenStatus } from './provider/token-status.ts';
import { createUpstreamSignOut } from './provider/upstream-session.ts';
import { basePathOf } from './registry/client-metadata.ts';
import { createRegistry } from './registry/registry.ts';
import { startCleanup } from './store/cleanup.ts';
import { openDatabase, toDatabaseTarget } from './store/database.ts';
import { createLastUses, startNotingUse } from './store/last-use.ts';
import { createTokenAdapter } from './store/token-adapter.ts';
import { createTokens } from './store/tokens.ts';
import { createTracing, type Tracing, type TracingOptions } from './tracing.ts';
import { createWsFed } from './wsfed/app.ts';
import { loadNegotiate } from './wsfed/negotiate.ts';
import {
  createWindowsSignIn,
  stripIdentityHeaders,
  type WindowsLogin,
  type WindowsSignIn,
} from './wsfed/windows.ts';

/** What a crash may lose of the last uses. */
const lastUseSeconds = 60;

/** A Kerberos ticket of somebody in many groups has 64 kB, and a third more in base64. */
const kerberosHeaderBytes = 131_072;
const daySeconds = 86_400;

export interface ServerOptions {
  /** The folder with `server.json`. */
  configDirectory: string;
  /** What is in it, where that has been loaded already. */
  configuration?: Configuration;
  env: Readonly<Record<string, string | undefined>>;
  /** Seconds since the epoch; default the system's clock. */
  now?: () => number;
  /** Default one as `server.json` says. */
  log?: Logger;
}

export interface RunningServer extends AsyncDisposable {
  readonly issuer: string;
  /** Where the listener really is, such as `http://127.0.0.1:5080`. */
  readonly url: string;
  readonly configuration: Configuration;
  /** For tests that look at or disturb what the server uses. */
  readonly context: ServerContext;
  /** Reads the configuration again; a bad one is logged and changes nothing. Resolves when it has been decided. */
  reload(): Promise<boolean>;
}

/**
 * Starts Postern and resolves when it listens.
 *
 * @throws {ConfigurationError} with every issue of every file
 * @throws {ServerError} ERR_DATABASE_UNAVAILABLE, ERR_FOREIGN_TABLE, ERR_SCHEMA_NEWER, ERR_KEY_UNUSABLE, ERR_LISTEN_FAILED
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { configDirectory, env, now = () => Math.floor(Date.now() / 1000) } = options;
  const configuration = options.configuration ?? (await loadConfiguration(configDirectory, { env }));
  const { server: settings } = configuration;
  const plainLog = options.log ?? createLogger({ level: settings.Log.Level, format: settings.Log.Format });

  await using starting = new AsyncDisposableStack();
  const ways = {
    proxy: settings.OutgoingProxy,
    proxyExceptions: settings.OutgoingProxyExceptions,
    allowedHosts: settings.OutgoingAllowedHosts,
  };
  const tracing =
    settings.Tracing &&
    starting.use(
      createTracing({
        log: plainLog,
        ratio: settings.Tracing.SamplingRatio,
        resource: { 'service.name': settings.Tracing.ServiceName, 'host.name': hostname() },
        // Its own calls are no part of what it traces.
        send: toSender(settings.Tracing.Endpoint, starting.use(createOutgoing({ ...ways, log: plainLog }))),
      }),
    );
  const readTraceId = tracing && (() => tracing.traceId);
  const log = readTraceId === undefined ? plainLog : withFields(plainLog, () => ({ traceId: readTraceId() }));
  const metrics = await createMetrics({ isRead: settings.Management !== undefined });
  const { Folder: folder, KeepDays: keepDays, Syslog: syslog, To: to } = settings.Audit;
  const onDropped = metrics.countDroppedAuditRecords;
  const audit = starting.use(createAudit({ log, now, to, folder, keepDays, syslog, readTraceId, onDropped }));
  const db = starting.use(await openDatabase({ ...toDatabaseTarget(settings), log, now, tracing }));
  await db.migrate();
  const passwords = createPasswords(withBrand(settings));
  const accounts = createAccounts({ db: db.knex, now, passwords, tracing });
  await accounts.seed(configuration.demoAccounts);

  const registry = createRegistry(configuration);
  metrics.watchPool(() => db.pool);
  let takeUpKeys: ((keys: SigningKeys) => void) | undefined;
  const managed =
    settings.ManagedKeys &&
    starting.use(
      await startManagedKeys({
        audit,
        log,
        metrics,
        now,
        store: createKeyStore({ db, secrets: settings.DataProtectionKey }),
        algorithms: toManagedAlgorithms(settings.ManagedKeys),
        rhythm: toRhythm(settings.ManagedKeys),
        predecessors: await loadKeySet(toKeySource(configuration), toFurtherKeys(configuration)),
        lifetimes: () => longestLifetimes(registry.configuration),
        onChange: (next) => takeUpKeys?.(next),
      }),
    );
  const keys = managed?.keys ?? (await loadKeys(toKeySource(configuration), toFurtherKeys(configuration)));
  const samlKey = settings.Mounts.includes('WsFed')
    ? await loadSamlSigningKey(toSamlKeySource(configuration))
    : undefined;
  const windowsLogin =
    settings.EnableWindowsLogin && samlKey !== undefined ? settings.WindowsLogin : undefined;
  const keytab = windowsLogin?.Negotiate?.Keytab;
  const negotiate =
    keytab === undefined
      ? undefined
      : await loadNegotiate({ home: dirname(configuration.directory), keytab });
  const certificates = certificatesOf(settings, keys, samlKey);
  for (const { property, readEnd } of certificates) {
    if (settings.RefuseExpiredCertificates && (readEnd() ?? Number.POSITIVE_INFINITY) < now()) {
      throw new ServerError('ERR_KEY_UNUSABLE', `the certificate of ${property} has ended`, {
        hint: 'RefuseExpiredCertificates is true; with false the server would start',
      });
    }
  }
  const assets = createAssets(configuration);
  const outgoing = starting.use(
    createOutgoing({ ...ways, log, tracing, propagateTo: settings.Tracing?.PropagateTo ?? [] }),
  );
  const tokens = createTokens({ db, now });
  const externalLogins = createExternalLogins({ accounts, audit, db: db.knex, now });
  const { Directory, PasswordVerifier } = settings;
  // Loaded where there is one: its library takes longer to load than all of ours.
  const directory =
    Directory && (await import('./directory/directory.ts')).createDirectory(Directory, { log, now });
  const verifier = PasswordVerifier && createPasswordVerifier(PasswordVerifier, { log, outgoing });
  const standing = createStanding({
    accounts,
    audit,
    externalLogins,
    tokens,
    log,
    now,
    source: directory,
    maxAgeSeconds: Directory?.DirectoryDown === 'Allow' ? Directory.DirectoryDownMaxAge : 0,
  });
  const { ExemptNetworks } = settings.Guessing;
  const exempt = parseHostPatterns([...ExemptNetworks, ...settings.Listener.TrustedProxies]);
  const guessing = starting.use(
    createGuessing({
      db,
      log,
      now,
      key: keys.deriveKey(guessingKey),
      hasDomains: directory !== undefined || verifier !== undefined,
      isExempt: exempt.hasAddress,
    }),
  );
  let context: ServerContext = {
    audit,
    log,
    metrics,
    now,
    db,
    tokens,
    accounts,
    externalLogins,
    credentials: createCredentials({
      accounts,
      audit,
      externalLogins,
      guessing,
      metrics,
      tracing,
      sources: [directory, verifier].filter((source) => source !== undefined),
      isReserved: registry.isClientAccount,
      onAccepted: standing.noteSignIn,
    }),
    guessing,
    standing,
    identityProviders: createIdentityProviders({
      log,
      outgoing,
      openIdConnect: createOpenIdConnect({ outgoing, log, now }),
      now,
      publicUrl: settings.PublicUrl,
      key: keys.deriveKey('id token of an identity provider'),
    }),
    registry,
    keys,
    brand: assets.brand,
  };

  const adapter = createTokenAdapter({
    tokens: context.tokens,
    now,
    refreshGraceSeconds: (clientId) => registry.findClient(clientId)?.RefreshTokenGraceSeconds ?? 0,
  });
  const farewells = starting.use(createFarewells(context));
  const windows = windowsLogin && createWindowsSignIn(context, windowsLogin, negotiate);
  const parts = {
    adapter,
    assets: assets.routes,
    farewells,
    outgoing,
    samlKey,
    tracing,
    windows,
    windowsLogin,
  };
  let app = createApp(context, parts);
  // Requests that are under way end with the keys that they began with: all state is in the database.
  takeUpKeys = (next) => {
    context = { ...context, keys: next };
    app = createApp(context, parts);
  };
  if (managed !== undefined && managed.keys !== keys) takeUpKeys(managed.keys);

  // Before the listener, so that a stop begins there and does not wait for a statement of theirs first.
  starting.use(startCleanup(context, { intervalSeconds: settings.ExpiredTokenCleanInterval }));
  const lastUses = createLastUses({ db });
  starting.use(startNotingUse({ audit, lastUses, log, now }, { intervalSeconds: lastUseSeconds }));
  let isStopping = false;
  if (settings.Management !== undefined) {
    const management = serveManagement({
      metrics,
      ping: () => db.ping(),
      isStopping: () => isStopping,
      endingCertificates: () => findEnding(certificates, now()),
    });
    const { url } = starting.use(await openListener(management, settings.Management, context));
    log.info({ url }, 'management listening');
  }
  const listener = starting.use(
    await openListener((request, response) => app.serve(request, response), settings.Listener, context, {
      // Proxies may pass on what they have read.
      ...(windowsLogin === undefined ? undefined : { maxHeaderBytes: kerberosHeaderBytes }),
      delayMs: settings.ShutdownDelaySeconds * 1000,
      timeoutMs: settings.ShutdownTimeoutSeconds * 1000,
      onStopping() {
        isStopping = true;
        audit.record(['server', 'success'], {}, 'stopping');
      },
    }),
  );
  starting.use(watchCertificates({ log, metrics, now }, certificates));

  let logLevel = settings.Log.Level;
  async function reload(): Promise<boolean> {
    try {
      const next = await loadConfiguration(configDirectory, { env });
      if (next.server.PublicUrl !== settings.PublicUrl || next.server.Environment !== settings.Environment) {
        // Audiences and what is allowed in the other files follow from these two.
        return refuseChange(
          'PublicUrl or Environment has changed in server.json: nothing is reloaded until the next start',
        );
      }
      if (next.hash === registry.configuration.hash) {
        log.debug('configuration unchanged');
        return true;
      }
      const areGone = next.clients.size === 0 && !existsSync(`${configDirectory}/clients`);
      if (areGone && registry.configuration.clients.size > 0) {
        return refuseChange(
          'the folder of clients is gone, as while one is exchanged; the configuration in force stays',
        );
      }
      const putInForce = app.buildClients(next);
      const { Log } = next.server;
      if (Log.Level !== logLevel) {
        logLevel = Log.Level;
        log.level = Log.Level;
      }
      if (
        JSON.stringify({ ...next.server, Log: { ...Log, Level: settings.Log.Level } }) !==
        JSON.stringify(settings)
      ) {
        log.warn('server.json has changed: it takes effect at the next start');
      }
      // What server.json decided at the start stays as it is until then.
      const before = registry.configuration;
      registry.replace({ ...next, server: settings });
      putInForce();
      app.refreshDocuments();
      const changes = changesBetween(before.files, next.files);
      const counts = { clients: next.clients.size, resources: next.resources.size };
      audit.record(['configuration', 'success'], { ...counts, changes }, 'configuration reloaded');
      return true;
    } catch (err) {
      if (!(err instanceof ConfigurationError)) {
        log.error({ err }, 'configuration could not be read; the one in force stays');
        return false;
      }
      for (const { file, path, message, hint } of err.issues) log.error({ file, path, hint }, message);
      return refuseChange('configuration refused; the one in force stays', { issues: err.issues.length });
    }
  }

  function refuseChange(message: string, fields: AuditFields = {}): false {
    audit.record(['configuration', 'refused'], fields, message, 'error');
    return false;
  }
  // One at a time: a reload that starts while another reads would be decided by whichever ends last.
  let reloading: Promise<boolean> = Promise.resolve(true);
  const reloadInTurn = () => {
    reloading = reloading.then(async () => {
      const isGood = await reload();
      await managed?.look().catch((err: unknown) => log.error({ err }, 'managed keys cannot be read'));
      return isGood;
    });
    return reloading;
  };
  starting.use(
    watchConfiguration({
      directory: configDirectory,
      log,
      onChange: async () => void (await reloadInTurn()),
    }),
  );
  // A file written between the first reading and the watch would be seen by neither.
  await reloadInTurn();

  const running = starting.move();
  const { url } = listener;
  audit.record(
    ['server', 'success'],
    { issuer: settings.PublicUrl, url, environment: settings.Environment, configuration: configuration.hash },
    'listening',
  );
  for (const { file, path, message } of configuration.deviations) log.warn({ file, path }, message);

  return {
    issuer: settings.PublicUrl,
    url,
    get configuration() {
      return registry.configuration;
    },
    get context() {
      return context;
    },
    reload: reloadInTurn,
    async [Symbol.asyncDispose]() {
      await running.disposeAsync();
      log.info('stopped');
    },
  };
}

/** Posts to the collector of traces, wherever it is. */
function toSender(endpoint: string, outgoing: Outgoing): TracingOptions['send'] {
  const trustedHosts = [hostOf(new URL(endpoint))];
  const headers = { 'content-type': 'application/json' };
  return async (body) => {
    const { status } = await outgoing.fetch(endpoint, { method: 'POST', headers, body, trustedHosts });
    return status;
  };
}

/** Where the keys of a configuration are. */
export function toKeySource({ server }: Configuration): KeySource {
  const { OidcSigningCertificate: certificate, CookieKeys: cookieKeys } = server;
  const isGenerated =
    server.ManagedKeys === undefined && (certificate === undefined || cookieKeys === undefined);
  if (isGenerated) return { kind: 'generated', folder: `${server.DataFolder}/keys` };
  return {
    kind: 'files',
    files: certificate && toKeyFiles(certificate),
    publishedFiles: certificate?.PublishedCertificateFiles ?? [],
    cookieKeys: cookieKeys ?? [],
  };
}

/** What managed keys sign by, each once. */
export function toManagedAlgorithms({
  FurtherAlgorithms,
}: NonNullable<Configuration['server']['ManagedKeys']>): SigningAlgorithm[] {
  return [...new Set<SigningAlgorithm>([usualAlgorithm, ...FurtherAlgorithms])];
}

/** When managed keys are exchanged, in seconds. */
export function toRhythm({
  KeepDays,
  PublishDays,
  RotationDays,
}: NonNullable<Configuration['server']['ManagedKeys']>): Rhythm {
  return {
    rotation: RotationDays * daySeconds,
    publish: PublishDays * daySeconds,
    keep: KeepDays * daySeconds,
  };
}

/** For how long what a key signs may be good, in seconds. */
function longestLifetimes({ clients, server }: Configuration) {
  const lifetimes = [...clients.values()].map(({ AccessTokenLifetime, IdentityTokenLifetime }) =>
    Math.max(AccessTokenLifetime, IdentityTokenLifetime),
  );
  return { signing: Math.max(0, ...lifetimes), cookie: server.SessionLifetime, derivation: 0 };
}

/** Relying parties pin the certificate of the WsFed application, and need longer for the change. */
function certificatesOf(
  { Listener: { Tls } }: Configuration['server'],
  keys: SigningKeys,
  samlKey: SamlSigningKey | undefined,
): WatchedCertificate[] {
  const watched: WatchedCertificate[] = keys.certificates.map(({ expiresAt, property }) => ({
    property,
    warningDays: warningDays.usual,
    readEnd: () => expiresAt,
  }));
  if (samlKey !== undefined) {
    const { expiresAt } = samlKey;
    watched.push({
      property: 'WsFedSigningCertificate',
      warningDays: warningDays.pinned,
      readEnd: () => expiresAt,
    });
  }
  if (Tls !== undefined) {
    const { CertificateFile } = Tls;
    // Read every time: it is renewed in its file. One that cannot be read is the listener's to speak of.
    const readEnd = () => {
      try {
        return endOf(readCertificateFile(CertificateFile));
      } catch {
        return undefined;
      }
    };
    watched.push({ property: 'Listener.Tls', warningDays: warningDays.usual, readEnd });
  }
  return watched;
}

/** Where the keys for further algorithms are. */
export function toFurtherKeys({ server }: Configuration): FurtherKey[] {
  return server.FurtherSigningKeys.map((key) => ({ algorithm: key.Algorithm, ...toKeyFiles(key) }));
}

/** Where the key of the WsFed application is. */
export function toSamlKeySource({ server }: Configuration): SamlKeySource {
  const { WsFedSigningCertificate: certificate } = server;
  if (certificate === undefined) return { kind: 'generated', folder: `${server.DataFolder}/keys` };
  return {
    kind: 'files',
    files: toKeyFiles(certificate),
    nextCertificateFile: certificate.NextCertificateFile,
  };
}

function toKeyFiles({ CertificateFile, KeyFile, Passphrase }: KeyLocation): KeyFiles {
  return { keyFile: KeyFile, certificateFile: CertificateFile, passphrase: Passphrase };
}

/** The stylesheet and the logo, named by their content so that browsers may keep them for ever. */
function createAssets({ server }: Configuration): { brand: Brand; routes: Middleware } {
  const { Name, LogoFile, AccentColor, AccentColorDark } = server.Branding;
  const base = basePathOf(server.PublicUrl);
  const files = new Map<string, { type: string; body: Buffer | string }>();
  const add = (name: string, extension: string, body: Buffer | string) => {
    const hash = createHash('sha256').update(body).digest('base64url').slice(0, 12);
    const path = `/assets/${name}-${hash}${extension}`;
    files.set(path, { type: extension, body });
    return base + path;
  };
  const stylesheetUrl = add(
    'postern',
    '.css',
    stylesheet({ accentColor: AccentColor, accentColorDark: AccentColorDark }),
  );
  const logoUrl =
    LogoFile === undefined ? undefined : add('logo', extname(LogoFile).toLowerCase(), readFileSync(LogoFile));
  return {
    brand: { name: Name, stylesheetUrl, ...(logoUrl === undefined ? undefined : { logoUrl }) },
    async routes(ctx, next) {
      const file = files.get(ctx.path);
      if (file === undefined || (ctx.method !== 'GET' && ctx.method !== 'HEAD')) return next();
      ctx.type = file.type;
      ctx.set('Cache-Control', 'public, max-age=31536000, immutable');
      ctx.body = file.body;
    },
  };
}

/** What outlives a change of keys. */
interface AppParts {
  adapter: AdapterFactory;
  assets: Middleware;
  farewells: Farewells;
  outgoing: Outgoing;
  /** Where the WsFed application is among the mounts. */
  samlKey: SamlSigningKey | undefined;
  tracing: Tracing | undefined;
  windows: WindowsSignIn | undefined;
  windowsLogin: WindowsLogin | undefined;
}

/** Everything that answers requests, with the keys of the context. */
function createApp(
  context: ServerContext,
  { adapter, assets, farewells, outgoing, samlKey, tracing, windows, windowsLogin }: AppParts,
) {
  const { audit, brand, keys, log, now, registry } = context;
  const { server } = registry.configuration;
  const publicUrl = new URL(server.PublicUrl);
  const base = basePathOf(server.PublicUrl);
  const verifyAccessToken = createAccessTokenVerifier(context);
  const provider = createProvider(context, { adapter, farewells, outgoing, verifyAccessToken });
  const { engine } = provider;
  completeSignOut(engine, context, farewells);
  endOvertakenSignIns(engine, context);
  provider.buildClients(registry.configuration)();

  const app = new Koa();
  app.proxy = true;
  // The engine reads with its own context the cookies that are written with ours.
  app.keys = engine.keys as string[];
  app.on('error', (err, ctx: Context) => {
    if (isCutOff(ctx, err)) log.debug({ err }, 'connection failed');
    else log.error({ err }, 'request failed');
  });

  const csrf = createCsrf(keys.deriveKey('csrf'));
  const devices = createDevices({
    now,
    key: keys.deriveKey('known devices'),
    isSecure: publicUrl.protocol === 'https:',
  });
  const external = createExternalSteps({ ...context, attempts: createAttempts(context) });
  const login = createLoginRoutes(context, { engine: () => engine, csrf, devices, external });
  const verifyIdToken = createIdTokenVerifier(context);
  const verifyIdTokenHint = createIdTokenVerifier(context, { mayHaveExpired: true });
  const status = createTokenStatus(context, { verifyAccessToken, verifyIdToken });

  // Written once for each configuration: they are asked for more often than anything else.
  let discovery = '';
  const refreshDocuments = () => {
    discovery = JSON.stringify(discoveryDocument(context));
  };
  refreshDocuments();
  const jwks = JSON.stringify(keys.publicJwks);
  const documents = new Map(
    [
      ['/.well-known/openid-configuration', () => discovery] as const,
      ['/.well-known/oauth-authorization-server', () => discovery] as const,
      [routes.jwks, () => jwks] as const,
      ['/.well-known/openid-configuration/jwks', () => jwks] as const,
    ].map(([path, document]) => [(base + path).toLowerCase(), document]),
  );

  const router = new Router();
  router.get(`${routes.end_session}/stay`, createStayPage(context));
  if (server.EnableTokenValidationEndpoints) {
    router.all('/connect/accessTokenValidation', status.validateAccessToken);
    router.all('/connect/identityTokenValidation', status.validateIdentityToken);
  }
  router.get('/', (ctx) => {
    ctx.type = 'html';
    ctx.body = homePage({
      brand,
      texts: textsFor(ctx, context),
      issuer: server.PublicUrl,
      discoveryUrl: `${server.PublicUrl}/.well-known/openid-configuration`,
      development: server.Environment === 'Development',
    });
  });

  const fromScripts = allowOrigins(context, { paths: corsPaths });
  const byMethod = allowMethods(methodsOf);
  const oldCallers = acceptOldCallers(context);
  const ofEngine = engine.middleware as unknown as Middleware[];
  // Programs ask these all day, and need nothing of what is there for browsers.
  const forPrograms = new Map(
    Object.entries({
      [routes.token]: [fromScripts, byMethod, oldCallers, ...ofEngine],
      [routes.userinfo]: [fromScripts, byMethod, oldCallers, ...ofEngine],
      [routes.introspection]: [byMethod, status.introspect],
      [routes.revocation]: [fromScripts, byMethod, status.revoke],
    }).map(([path, middleware]) => [path, compose(middleware) as unknown as Middleware]),
  );
  const stack: Middleware[] = [
    serveApart(forPrograms),
    assets,
    keepInteractionCookies({
      key: keys.deriveKey('interaction cookie'),
      isSecure: publicUrl.protocol === 'https:',
      lifetimeSeconds: server.InteractionLifetime,
      now: context.now,
    }),
    createUpstreamSignOut(context, (reference) => farewells.endSession(engine, reference)),
    receiveAnswers(context, external),
    fromScripts,
    byMethod,
    router.routes() as unknown as Middleware,
    login.routes() as unknown as Middleware,
    farewells.router.routes() as unknown as Middleware,
    oldCallers,
    forgiveSignOut({ ...context, verifyIdTokenHint }),
    ...ofEngine,
  ];

  const routeOf = createRouteNames(server);
  const trustedProxies = parseHostPatterns(server.Listener.TrustedProxies);
  if (tracing !== undefined) app.use(traceRequests(tracing, { routeOf, trustedProxies }));
  const noteAnswer = createNoteAnswer(context, { routeOf });
  app.use(logRequests(noteAnswer));
  app.use(securityHeaders);
  const programPaths = new Set([...forPrograms.keys()].map((path) => (base + path).toLowerCase()));
  app.use(answerErrors(context, { programPaths }));
  app.use(passFailure);
  app.use(requirePath);
  app.use(findClientAddress(trustedProxies));
  app.use((ctx, next) => audit.within(ctx.state as RequestState, next));
  if (windowsLogin !== undefined) app.use(stripIdentityHeaders(windowsLogin));
  app.use(servePublicOrigin(publicUrl, { authorizePath: base + routes.authorization }));
  const mount = (path: string, ...middleware: Middleware[]) =>
    app.use(mountAt(path, compose(middleware) as Parameters<typeof mountAt>[1]));
  // The inner one first, where one is below the other.
  if (samlKey !== undefined) {
    mount(
      basePathOf(server.WsFed.PublicUrl),
      createWsFed({ ...context, csrf, devices, signer: samlKey, windows }),
    );
    // Both applications have the one stylesheet and logo, at the address of the first.
    if (!server.Mounts.includes('Oidc')) mount(base, assets);
  }
  if (server.Mounts.includes('Oidc')) {
    mount(base, ...stack);
    app.use((ctx) => {
      if (ctx.path === '/' && ctx.method === 'GET') ctx.redirect(`${base}/`);
    });
  }
  const plain = new Map([
    [base + routes.introspection, status.introspectPlainly],
    [base + routes.token, provider.grantPlainly],
  ]);
  // A trace has the spans of the application.
  const forms: typeof plain = tracing === undefined ? plain : new Map();
  const addressOf = createAddressOf(trustedProxies);
  const serve = app.callback();
  return {
    serve: server.Mounts.includes('Oidc')
      ? servePlainly({ addressOf, audit, documents, forms, noteAnswer }, serve)
      : serve,
    buildClients: provider.buildClients,
    refreshDocuments,
  };
}

/** The name of a path in the metrics: one of ours, or the kind of it. */
function createRouteNames({ PublicUrl, WsFed }: Configuration['server']): (path: string) => string {
  const base = basePathOf(PublicUrl).toLowerCase();
  const wsFedBase = basePathOf(WsFed.PublicUrl).toLowerCase();
  const fixed = new Map<string, string>([...methodsOf.keys()].map((path) => [base + path, path]));
  for (const path of ['', '/login', '/winlogin', federationMetadataPath.toLowerCase()]) {
    fixed.set(wsFedBase + path, `/wsfed${path}`);
  }
  return (path) => {
    const lower = path.toLowerCase();
    const known = fixed.get(lower);
    if (known !== undefined) return known;
    if (!lower.startsWith(`${base}/`)) return 'other';
    const [, first = ''] = lower.slice(base.length).split('/');
    return ['assets', 'callback', 'login', 'signed-out'].includes(first) ? `/${first}/` : 'other';
  };
}

/** The paths that scripts of other origins may call, as IdentityServer3 had them, in lower case. */
const corsPaths: ReadonlySet<string> = new Set([
  '/.well-known/openid-configuration',
  '/.well-known/oauth-authorization-server',
  '/.well-known/openid-configuration/jwks',
  routes.jwks,
  routes.token,
  routes.userinfo,
  routes.revocation,
  '/connect/identitytokenvalidation',
]);

/** The methods of every fixed path under the base, in lower case. */
const methodsOf: ReadonlyMap<string, readonly string[]> = new Map([
  ['/', ['GET', 'HEAD']],
  ['/.well-known/openid-configuration', ['GET', 'HEAD']],
  ['/.well-known/oauth-authorization-server', ['GET', 'HEAD']],
  ['/.well-known/openid-configuration/jwks', ['GET', 'HEAD']],
  [routes.jwks, ['GET', 'HEAD']],
  [routes.authorization, ['GET', 'HEAD', 'POST']],
  [routes.token, ['POST', 'OPTIONS']],
  [routes.userinfo, ['GET', 'POST', 'OPTIONS']],
  [routes.introspection, ['POST']],
  [routes.revocation, ['POST', 'OPTIONS']],
  [routes.end_session, ['GET', 'HEAD', 'POST']],
  [`${routes.end_session}/confirm`, ['POST']],
  [`${routes.end_session}/success`, ['GET', 'HEAD']],
  [`${routes.end_session}/stay`, ['GET', 'HEAD']],
]);
