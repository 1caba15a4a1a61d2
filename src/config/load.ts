/**
 * From the folder of config files to one snapshot: read everything, check everything, report everything at
 * once; only a configuration without a single issue comes out, frozen.
 */
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { accessSync, constants, readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { platform as operatingSystem } from 'node:os';
import { dirname, resolve } from 'node:path';
import type { z } from 'zod';
import { ConfigurationError, type ConfigurationIssue } from '../errors.ts';
import { canonicalTag, completeLanguages, type Language, namedKinds } from '../languages/languages.ts';
import type { SyslogTarget } from '../syslog.ts';
import { type FileState, toFileState } from './changes.ts';
import {
  checkClient,
  checkDirectory,
  checkProvider,
  checkResource,
  checkUserFilter,
  checkWindowsLogin,
  findDeviations,
  findFileNameProblem,
  findPasswordDeviations,
  findProviderDeviations,
  findResourceDeviations,
  findServerDeviations,
  localLogin,
  ownSources,
  requiresPkce,
  scopeNames,
} from './checks.ts';
import { LanguageFile } from './language-file.ts';
import { digestBehind, digestOf, refusedSecrets, type SecretDigest } from './published-secrets.ts';
import { type Checked, check, type Finding, parseJson, suggest } from './read.ts';
import { readRegularFile } from './regular-file.ts';
import {
  ClientRegistration,
  type DemoAccount,
  DemoAccounts,
  isLoopback,
  type KeySettings,
  ProviderRegistration,
  RelyingPartyRegistration,
  ResourceRegistration,
  type Secret,
  type SecretReference,
  ServerSettings,
  type SigningAlgorithm,
  usualAlgorithm,
} from './schema.ts';

type DeepReadonly<T> = T extends object ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> } : T;

/** A secret as it is kept: never the secret itself. */
export interface SecretHash {
  /** Base64. */
  hash: string;
  algorithm: 'sha256' | 'sha512';
  /** Seconds since the epoch, where somebody has written it down. */
  createdAt?: number;
  /** Seconds since the epoch; undefined never ends. */
  expiresAt?: number;
  description?: string;
}

/** Where a key is: absolute paths of PEM files, or of a PFX file as `KeyFile`. */
export interface KeyLocation {
  KeyFile: string;
  CertificateFile?: string;
  Passphrase?: string;
}

/** The settings with absolute paths, and with the secrets that the server itself needs. */
export type Server = DeepReadonly<
  Omit<
    ServerSettings,
    | '$schema'
    | 'Audit'
    | 'CookieKeys'
    | 'DataProtectionKey'
    | 'Database'
    | 'Directory'
    | 'FurtherSigningKeys'
    | 'Listener'
    | 'OidcSigningCertificate'
    | 'PasswordVerifier'
    | 'WindowsLogin'
    | 'WsFed'
    | 'WsFedSigningCertificate'
  > & {
    Audit: Omit<ServerSettings['Audit'], 'Syslog'> & { Syslog?: SyslogTarget };
    Directory?: Omit<NonNullable<ServerSettings['Directory']>, 'BindPassword' | 'CaFile'> & {
      BindPassword: string;
      /** PEM. */
      CaCertificates?: string;
    };
    PasswordVerifier?: Omit<NonNullable<ServerSettings['PasswordVerifier']>, 'Secret'> & { Secret: string };
    OidcSigningCertificate?: KeyLocation & { PublishedCertificateFiles: string[] };
    WsFed: { PublicUrl: string };
    WsFedSigningCertificate?: KeyLocation & { NextCertificateFile?: string };
    CookieKeys?: string[];
    /** Where ManagedKeys is there at least one. */
    DataProtectionKey: string[];
    FurtherSigningKeys: (KeyLocation & { Algorithm: SigningAlgorithm })[];
    Listener: Omit<ServerSettings['Listener'], 'Tls'> & {
      Tls?: KeyLocation & { CertificateFile: string };
    };
    Database: Omit<ServerSettings['Database'], 'Connection'> & { Connection?: string };
    WindowsLogin?: Omit<NonNullable<ServerSettings['WindowsLogin']>, 'Header' | 'Ticket'> & {
      Header?: { Name: string; SecretName: string; Secrets: string[]; From: string[] };
      Ticket?: { HandlerUrl: string; Secrets: string[] };
    };
  }
>;

/** A client's registration, complete. */
export type Client = DeepReadonly<
  Omit<ClientRegistration, '$schema' | 'ClientSecrets'> & {
    ClientId: string;
    ClientName: string;
    ClientSecrets: SecretHash[];
    RequirePkce: boolean;
  }
>;

/** A resource's registration, complete. */
export type Resource = DeepReadonly<
  Omit<ResourceRegistration, '$schema' | 'Secrets'> & {
    Name: string;
    Audience: string;
    Scopes: NonNullable<ResourceRegistration['Scopes']>;
    Secrets: SecretHash[];
  }
>;

type Registered<Type extends ProviderRegistration['Type']> = Omit<
  Extract<ProviderRegistration, { Type: Type }>,
  '$schema' | 'CallbackPath' | 'ClientSecret' | 'DecryptionKeys' | 'Wreply'
> & { Name: string; CallbackPath: string };

/** An application of the WsFed application, complete. */
export type RelyingParty = DeepReadonly<
  Omit<RelyingPartyRegistration, '$schema' | 'EncryptionCertificateFile'> & {
    Name: string;
    Caption: string;
    /** PEM. */
    EncryptionCertificate?: string;
  }
>;

/** A WS-Federation identity provider's registration, complete. */
export type WsFedProvider = DeepReadonly<
  Registered<'WsFed'> & {
    MetadataAddress: string;
    /** It is our own WsFed application. */
    isOwn: boolean;
    Wreply: string;
    /** PEM, decrypted. */
    DecryptionKeys: string[];
  }
>;

/** An OpenID Connect identity provider's registration, complete. */
export type OidcProvider = DeepReadonly<Registered<'Oidc'> & { ClientSecret?: string }>;

/** An identity provider's registration. */
export type Provider = OidcProvider | WsFedProvider;

/** A snapshot of the config files. Nothing in it changes. */
export interface Configuration {
  /** Absolute path of the folder. */
  readonly directory: string;
  /** SHA-256, in hexadecimal, over all files that were read: equal snapshots have equal hashes. */
  readonly hash: string;
  /** The files themselves, by their path in the folder. */
  readonly files: ReadonlyMap<string, FileState>;
  readonly server: Server;
  /** By client id, the disabled ones too. */
  readonly clients: ReadonlyMap<string, Client>;
  /** By name, the disabled ones too. */
  readonly resources: ReadonlyMap<string, Resource>;
  /** By name, the disabled ones too. */
  readonly providers: ReadonlyMap<string, Provider>;
  /** By realm, the disabled ones too. */
  readonly relyingParties: ReadonlyMap<string, RelyingParty>;
  /** The languages of the pages, by BCP 47 tag, those that we ship first. */
  readonly languages: ReadonlyMap<string, Language>;
  /** In Development only. */
  readonly demoAccounts: readonly DeepReadonly<DemoAccount>[];
  /** Where somebody is allowed what RFC 9700, or OWASP ASVS, advises against. */
  readonly deviations: readonly Deviation[];
  /** What is there to be known and stops nothing. */
  readonly remarks: readonly ConfigurationIssue[];
  /** Secrets that everybody knows, and that are refused whoever has them. */
  readonly refusedSecrets: ReadonlyMap<SecretDigest, 'development' | 'manual'>;
}

/** Something that is weaker than it should be; of a client, where it says so. */
export interface Deviation extends ConfigurationIssue {
  readonly clientId?: string;
}

const shortestSecret = 32;

/** A config file, read and put through its schema. */
interface ConfigFile<Output> extends Checked<Output> {
  /** Path for people. */
  readonly file: string;
  /** The file's name without .json. */
  readonly name: string;
}

/**
 * Loads and checks the config files of a folder, with all secrets that they refer to.
 *
 * Relative paths in the files start at the folder that contains `directory`.
 *
 * @throws {ConfigurationError} ERR_CONFIG_INVALID, with every issue of every file
 */
export async function loadConfiguration(
  directory: string,
  {
    env,
    platform = operatingSystem(),
  }: { env: Readonly<Record<string, string | undefined>>; platform?: NodeJS.Platform },
): Promise<Configuration> {
  const root = resolve(directory);
  const home = dirname(root);
  const issues: ConfigurationIssue[] = [];
  const digest = createHash('sha256');
  const files = new Map<string, FileState>();
  const reader = { label: directory.replace(/[\\/]+$/, ''), root, issues, digest, files };

  const serverFile = await readOne(reader, 'server.json', ServerSettings, { PublicUrl: 'http://localhost' });
  const accountsFile = await readOne(reader, 'accounts.json', DemoAccounts);
  const clientFiles = await readFolder(reader, 'clients', ClientRegistration, {
    Flow: 'AuthorizationCodeWithProofKey',
  });
  const resourceFiles = await readFolder(reader, 'resources', ResourceRegistration);
  const providerFiles = await readFolder(reader, 'providers', ProviderRegistration);
  const partyFiles = await readFolder(reader, 'relying-parties', RelyingPartyRegistration);
  const languageFiles = await readFolder(reader, 'languages', LanguageFile);

  if (serverFile === undefined) {
    issues.push({ file: `${reader.label}/server.json`, path: '', message: 'is missing' });
  }
  const mode = findMode(serverFile);
  const refused = refusedSecrets({ isDevelopment: mode.strictBecause === undefined });
  const secrets = { env, home, mode, digest, platform, refused };

  const server = completeServer(serverFile, secrets, issues);
  const filter = serverFile?.value?.Directory?.UserFilter;
  if (serverFile !== undefined && filter !== undefined) {
    (await checkUserFilter(filter)).forEach(reporter(serverFile, issues));
  }
  if (mode.strictBecause !== undefined && accountsFile !== undefined) {
    const message = `demo accounts are refused ${mode.strictBecause}`;
    issues.push({ file: accountsFile.file, path: '', message, hint: 'remove the file' });
  }

  const clientIds = new Map<string, string>();
  for (const { file, name, value } of clientFiles) {
    const clientId = value?.ClientId ?? name;
    // The engine keeps what a session has for each client in a plain object.
    if (clientId in Object.prototype) {
      issues.push({
        file,
        path: 'ClientId',
        message: `${clientId} has a meaning of its own in JavaScript`,
        hint: 'choose another id',
      });
    }
    const other = clientIds.get(clientId);
    if (other !== undefined)
      issues.push({ file, path: 'ClientId', message: `${other} is the client ${clientId} too` });
    else clientIds.set(clientId, file);
  }

  const deviations: Deviation[] = [];
  if (serverFile?.value !== undefined) {
    const { file, value } = serverFile;
    deviations.push(...findServerDeviations(value).map((finding) => ({ file, ...finding })));
    deviations.push(...findPasswordDeviations(value).map((finding) => ({ file, ...finding })));
  }
  const owners = new Map<string, string>();
  const resources = new Map<string, Resource>();
  for (const source of resourceFiles) {
    const { file, name, value } = source;
    if (value === undefined) continue;
    deviations.push(...findResourceDeviations(name, value).map((finding) => ({ file, ...finding })));
    const report = reporter(source, issues);
    for (const finding of checkResource(name, value, { owners, clientIds: new Set(clientIds.keys()) }))
      report(finding);
    report(checkAlgorithm('SigningAlgorithm', value.SigningAlgorithm, server));
    resources.set(name, completeResource(name, value, server?.PublicUrl ?? '', secrets, report));
  }

  const areScopesKnown = resourceFiles.every(
    ({ value, broken }) => value !== undefined && !broken.has('Scopes'),
  );
  const resourceScopes = new Map(
    resourceFiles.flatMap(({ name, value }) =>
      value === undefined
        ? []
        : scopeNames(name, value).map(
            (scope) => [scope, { disabledResource: value.Enabled ? undefined : name }] as const,
          ),
    ),
  );
  const surroundings = {
    resourceScopes: areScopesKnown ? resourceScopes : undefined,
    providers: new Set(providerFiles.map(({ name }) => name)),
  };
  const clients = new Map<string, Client>();
  for (const source of clientFiles) {
    const { file, name, value } = source;
    if (value === undefined) continue;
    const report = reporter(source, issues);
    for (const finding of checkClient(value, surroundings, source.broken)) report(finding);
    report(checkAlgorithm('IdTokenSigningAlgorithm', value.IdTokenSigningAlgorithm, server));
    const client = completeClient(name, value, secrets, report);
    clients.set(client.ClientId, client);
    const { ClientId: clientId } = client;
    deviations.push(...findDeviations(clientId, value).map((finding) => ({ file, clientId, ...finding })));
  }

  const providers = new Map<string, Provider>();
  const callbacks = new Map<string, string>();
  for (const source of providerFiles) {
    const { file, name, value } = source;
    // IdentityServer3's tokens call the local sign-in idsrv.
    if (name.toLowerCase() === localLogin || name.toLowerCase() === 'idsrv') {
      issues.push({
        file,
        path: '',
        message: `${name} is the name of the local sign-in`,
        hint: 'rename the file',
      });
    }
    if (ownSources.includes(name.toLowerCase())) {
      issues.push({
        file,
        path: '',
        message: `${name} is the name of what vouches for accounts in this server itself`,
        hint: 'rename the file',
      });
    }
    if (value === undefined) continue;
    const report = reporter(source, issues);
    const provider = completeProvider(name, value, server, secrets, report);
    for (const finding of checkProvider(provider, callbacks)) report(finding);
    providers.set(name, provider);
    deviations.push(...findProviderDeviations(provider).map((finding) => ({ file, ...finding })));
  }

  const relyingParties = new Map<string, RelyingParty>();
  for (const source of partyFiles) {
    const { name, value } = source;
    if (value === undefined) continue;
    const report = reporter(source, issues);
    const other = relyingParties.get(value.Realm);
    if (other !== undefined) {
      report({ path: 'Realm', message: `${value.Realm} is the realm of ${other.Name} already` });
    }
    relyingParties.set(value.Realm, completeRelyingParty(name, value, secrets, report));
  }
  for (const party of ownRelyingParties(server, providers)) {
    if (!relyingParties.has(party.Realm)) relyingParties.set(party.Realm, party);
  }

  const languages = completeLanguages(
    new Map(languageFiles.flatMap((source) => readLanguage(source, issues))),
  );
  const standard = server?.Branding.Language;
  if (serverFile !== undefined && standard !== undefined && !languages.has(standard)) {
    reporter(
      serverFile,
      issues,
    )({
      path: 'Branding.Language',
      message: `there is no language ${standard}`,
      hint: suggest(standard, languages.keys()).hint ?? `there are ${[...languages.keys()].join(', ')}`,
    });
  }

  if (issues.length > 0 || server === undefined) {
    throw new ConfigurationError(issues.toSorted((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0)));
  }
  return freeze({
    directory: root,
    hash: digest.digest('hex'),
    files,
    server,
    clients,
    resources,
    providers,
    relyingParties,
    languages,
    demoAccounts: accountsFile?.value?.Accounts ?? [],
    deviations,
    refusedSecrets: secrets.refused,
    remarks: languageFiles.flatMap((source) =>
      remarksOn(source, languages, {
        clients: [...clients.keys()],
        providers: [...providers.keys()],
        relyingParties: [...relyingParties.values()].map(({ Name }) => Name),
        scopes: [...resourceScopes.keys()],
      }),
    ),
  });
}

/** The messages of a file under its tag; nothing where its name is none. */
function readLanguage(
  { file, name, value }: ConfigFile<z.output<typeof LanguageFile>>,
  issues: ConfigurationIssue[],
): [string, z.output<typeof LanguageFile>][] {
  const tag = canonicalTag(name);
  if (tag !== name) {
    const message = `the name of the file is no language tag${tag === undefined ? '' : ' as they are written'}`;
    const hint =
      tag === undefined ? 'such as fr.json or pt-BR.json (BCP 47)' : `rename the file to ${tag}.json`;
    issues.push({ file, path: '', message, hint });
    return [];
  }
  return value === undefined ? [] : [[name, withoutSchema(value)]];
}

/** Missing messages that are named: a file that has just been begun lacks nearly all. */
const mostNamed = 10;

/** What a language lacks, and what in it is about nobody: a registration may be removed before its names are. */
function remarksOn(
  { file, name, value }: ConfigFile<z.output<typeof LanguageFile>>,
  languages: ReadonlyMap<string, Language>,
  known: Readonly<Record<(typeof namedKinds)[number], readonly string[]>>,
): ConfigurationIssue[] {
  const strangers = namedKinds.flatMap((kind) =>
    Object.keys(value?.names?.[kind] ?? {})
      .filter((id) => !known[kind].includes(id))
      .map((id) => ({
        file,
        path: `names.${kind}.${id}`,
        message: 'names nobody',
        ...suggest(id, known[kind]),
      })),
  );
  const missing = languages.get(name)?.missing ?? [];
  if (missing.length === 0) return strangers;
  const named = missing.slice(0, mostNamed).join(', ');
  const rest = missing.length > mostNamed ? `, and ${missing.length - mostNamed} more` : '';
  const message = `${missing.length === 1 ? 'one message is' : `${missing.length} messages are`} missing and shown in English: ${named}${rest}`;
  return [{ file, path: '', message }, ...strangers];
}

interface Reader {
  /** The folder as the operator named it. */
  label: string;
  root: string;
  issues: ConfigurationIssue[];
  digest: ReturnType<typeof createHash>;
  files: Map<string, FileState>;
}

async function readOne<Schema extends z.ZodType>(
  { label, root, issues, digest, files }: Reader,
  path: string,
  schema: Schema,
  standIns?: Readonly<Record<string, unknown>>,
): Promise<ConfigFile<z.output<Schema>> | undefined> {
  const file = `${label}/${path}`;
  const name = path.replace(/^.*\//, '').replace(/\.json$/i, '');
  const failed = { file, name, value: undefined, findings: [], broken: new Set<string>() };
  let bytes: Buffer;
  try {
    bytes = readRegularFile(`${root}/${path}`);
  } catch (err) {
    if (isMissing(err) && !path.includes('/')) return undefined;
    issues.push({ file, path: '', message: `cannot be read (${describeFileError(err)})` });
    return failed;
  }
  digest.update(`${path}\0${bytes.length}\0`).update(bytes);
  const { value, findings } = parseJson(bytes);
  files.set(path, toFileState(bytes, value));
  if (findings.length > 0) {
    issues.push(...findings.map((finding) => ({ file, ...finding })));
    return failed;
  }
  const checked = check(schema, value, standIns);
  issues.push(...checked.findings.map((finding) => ({ file, ...finding })));
  return { file, name, ...checked };
}

async function readFolder<Schema extends z.ZodType>(
  reader: Reader,
  folder: string,
  schema: Schema,
  standIns?: Readonly<Record<string, unknown>>,
): Promise<ConfigFile<z.output<Schema>>[]> {
  let names: string[];
  try {
    names = (await readdir(`${reader.root}/${folder}`)).filter(isConfigFile).sort();
  } catch (err) {
    if (!isMissing(err)) {
      const message = `cannot be read (${describeFileError(err)})`;
      reader.issues.push({ file: `${reader.label}/${folder}`, path: '', message });
    }
    return [];
  }

  const files: ConfigFile<z.output<Schema>>[] = [];
  const byLowerCase = new Map<string, string>();
  const wayOut =
    folder === 'clients' ? 'rename the file and write the id inside, as ClientId' : 'rename the file';
  for (const fileName of names) {
    const file = await readOne(reader, `${folder}/${fileName}`, schema, standIns);
    if (file === undefined) continue;
    const twin = byLowerCase.get(file.name.toLowerCase());
    const problem =
      findFileNameProblem(file.name) ??
      (twin === undefined ? undefined : `differs from ${twin} only by case`);
    if (problem !== undefined) {
      reader.issues.push({
        file: file.file,
        path: '',
        message: `the name of the file ${problem}`,
        hint: wayOut,
      });
    }
    byLowerCase.set(file.name.toLowerCase(), fileName);
    files.push(file);
  }
  return files;
}

/** Files that editors leave beside the real ones begin with a dot or end otherwise. */
export function isConfigFile(fileName: string): boolean {
  return /^[^.].*\.json$/i.test(fileName);
}

interface Mode {
  /** True where demo accounts, plain secrets and generated keys are admitted. */
  readonly isDevelopment: boolean;
  /** Why what is for Development only is refused, as the end of a sentence; undefined where it is not. */
  readonly strictBecause: string | undefined;
}

function findMode(serverFile: ConfigFile<ServerSettings> | undefined): Mode {
  const server = serverFile?.value;
  // Without knowing, every complaint could be a false one; the server does not start anyway.
  if (server === undefined || serverFile?.broken.has('Environment')) {
    return { isDevelopment: true, strictBecause: undefined };
  }
  if (server.Environment !== 'Development')
    return { isDevelopment: false, strictBecause: 'outside Development' };
  if (serverFile?.broken.has('PublicUrl') || isLoopback(new URL(server.PublicUrl)))
    return { isDevelopment: true, strictBecause: undefined };
  return { isDevelopment: false, strictBecause: 'with a PublicUrl that is not on this machine' };
}

interface SecretSources {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Folder where relative paths start. */
  readonly home: string;
  readonly platform: NodeJS.Platform;
  readonly mode: Mode;
  readonly digest: ReturnType<typeof createHash>;
  readonly refused: Configuration['refusedSecrets'];
}

type Report = (finding: Finding | undefined) => void;

/** Reports findings of a file, but for those about a property that has been found broken already. */
function reporter(
  { file, broken }: Pick<ConfigFile<unknown>, 'broken' | 'file'>,
  issues: ConfigurationIssue[],
): Report {
  return (finding) => {
    if (finding === undefined) return;
    const [property = ''] = finding.path.split(/[.[]/);
    if (!broken.has(property)) issues.push({ file, ...finding });
  };
}

function completeServer(
  source: ConfigFile<ServerSettings> | undefined,
  secrets: SecretSources,
  issues: ConfigurationIssue[],
): Server | undefined {
  if (source?.value === undefined) return undefined;
  const report = reporter(source, issues);
  const {
    OidcSigningCertificate,
    CookieKeys,
    DataProtectionKey = [],
    Directory,
    FurtherSigningKeys,
    PasswordVerifier,
    WindowsLogin,
    WsFed,
    WsFedSigningCertificate,
    ...settings
  } = withoutSchema(source.value);
  const { home, mode } = secrets;

  for (const [property, value] of Object.entries({
    OidcSigningCertificate,
    WsFedSigningCertificate,
    CookieKeys,
  })) {
    if (value !== undefined || mode.strictBecause === undefined) continue;
    // A key is needed by the application that signs with it.
    const isOfWsFed = property === 'WsFedSigningCertificate';
    if (!isOfWsFed && settings.ManagedKeys !== undefined) continue;
    if (isOfWsFed && !settings.Mounts.includes('WsFed')) continue;
    const message = `is required ${mode.strictBecause}`;
    report({ path: property, message: isOfWsFed ? `${message}, unless Mounts is ["Oidc"]` : message });
  }
  const existing = (file: string, path: string): string => {
    const absolute = resolve(home, file);
    try {
      accessSync(absolute, constants.R_OK);
    } catch (err) {
      report({ path, message: `${absolute} cannot be read (${describeFileError(err)})` });
    }
    return absolute;
  };
  const files = { existing, report, secrets };
  const longSecrets = (references: readonly SecretReference[], property: string): string[] =>
    references.map((reference, index) => {
      const path = `${property}[${index}]`;
      const secret = resolveSecret(reference, path, secrets, report);
      if (secret !== undefined && secret.length < shortestSecret) {
        report({ path, message: `is shorter than ${shortestSecret} characters` });
      }
      return secret ?? '';
    });
  const cookieKeys = CookieKeys && longSecrets(CookieKeys, 'CookieKeys');
  const protection = longSecrets([DataProtectionKey].flat(), 'DataProtectionKey');
  if (settings.ManagedKeys !== undefined && protection.length === 0) {
    report({ path: 'DataProtectionKey', message: 'is required where ManagedKeys is' });
  }

  if (settings.EnableWindowsLogin && WindowsLogin === undefined) {
    report({
      path: 'WindowsLogin',
      message: 'is required where EnableWindowsLogin is true',
      hint: 'docs/windows-sign-in.md has the three ways',
    });
  }
  const wsFedUrl = WsFed.PublicUrl ?? wsFedUrlOf(settings.PublicUrl);
  if (new URL(wsFedUrl).protocol !== new URL(settings.PublicUrl).protocol) {
    report({ path: 'WsFed.PublicUrl', message: 'must be http or https as PublicUrl is' });
  }
  if (new URL(wsFedUrl).pathname === new URL(settings.PublicUrl).pathname && settings.Mounts.length > 1) {
    report({ path: 'WsFed.PublicUrl', message: 'must have another path than PublicUrl' });
  }
  if (settings.EnableWindowsLogin && !settings.Mounts.includes('WsFed')) {
    report({ path: 'EnableWindowsLogin', message: 'needs WsFed among Mounts' });
  }
  for (const finding of WindowsLogin === undefined
    ? []
    : checkWindowsLogin(WindowsLogin, { platform: secrets.platform, wsFedUrl })) {
    report(finding);
  }
  return {
    ...settings,
    WsFed: { PublicUrl: wsFedUrl },
    ...(WindowsLogin === undefined
      ? undefined
      : {
          WindowsLogin: completeWindowsLogin(WindowsLogin, existing, longSecrets),
        }),
    ...(WsFedSigningCertificate === undefined
      ? undefined
      : { WsFedSigningCertificate: completeWsFedCertificate(WsFedSigningCertificate, files) }),
    FurtherSigningKeys: FurtherSigningKeys.map(({ Algorithm, ...key }, index) => ({
      Algorithm,
      ...completeKey(key, `FurtherSigningKeys[${index}]`, files),
    })),
    Listener: completeListener(settings.Listener, settings.PublicUrl, files),
    Database: completeDatabase(settings.Database, { existing, home, secrets }, report),
    DataFolder: resolve(home, settings.DataFolder),
    Audit: completeAudit(settings.Audit, secrets, report),
    Branding: {
      ...settings.Branding,
      ...(settings.Branding.LogoFile === undefined
        ? undefined
        : { LogoFile: existing(settings.Branding.LogoFile, 'Branding.LogoFile') }),
    },
    ...(OidcSigningCertificate === undefined
      ? undefined
      : { OidcSigningCertificate: completeCertificate(OidcSigningCertificate, files) }),
    ...(cookieKeys === undefined ? undefined : { CookieKeys: cookieKeys }),
    DataProtectionKey: protection,
    ...(Directory === undefined ? undefined : { Directory: completeDirectory(Directory, secrets, report) }),
    ...(PasswordVerifier === undefined
      ? undefined
      : {
          PasswordVerifier: {
            ...PasswordVerifier,
            Secret: completeVerifierSecret(PasswordVerifier.Secret, secrets, report),
          },
        }),
  };
}

function completeVerifierSecret(reference: SecretReference, secrets: SecretSources, report: Report): string {
  const path = 'PasswordVerifier.Secret';
  const secret = resolveSecret(reference, path, secrets, report);
  // What a header can hold: RFC 9110 section 5.5.
  if (secret !== undefined && !/^[\x20-\x7e\xa0-\xff]+$/.test(secret)) {
    report({ path, message: 'must consist of printable characters of Latin-1, since a header carries it' });
  }
  return secret ?? '';
}

function completeDirectory(
  { BindPassword, CaFile, ...settings }: NonNullable<ServerSettings['Directory']>,
  secrets: SecretSources,
  report: Report,
): NonNullable<Server['Directory']> {
  for (const finding of checkDirectory(settings, secrets.mode)) report(finding);
  const certificates =
    CaFile === undefined ? undefined : resolveSecret({ file: CaFile }, 'Directory.CaFile', secrets, report);
  if (certificates !== undefined && !holdsCertificate(certificates)) {
    report({ path: 'Directory.CaFile', message: 'holds no certificate in PEM' });
  }
  return {
    ...settings,
    BindPassword: resolveSecret(BindPassword, 'Directory.BindPassword', secrets, report) ?? '',
    ...(certificates === undefined ? undefined : { CaCertificates: certificates }),
  };
}

function completeListener(
  { Tls, ...settings }: ServerSettings['Listener'],
  publicUrl: string,
  files: FileSources,
): Server['Listener'] {
  if (Tls === undefined) return settings;
  if (!publicUrl.startsWith('https:')) {
    files.report({ path: 'Listener.Tls', message: 'needs a PublicUrl that begins with https:' });
  }
  const { CertificateFile } = Tls;
  // Completed with the key; here it is always one.
  return { ...settings, Tls: { CertificateFile, ...completeKey(Tls, 'Listener.Tls', files) } };
}

function completeDatabase(
  { CaFile, Connection, ...settings }: ServerSettings['Database'],
  {
    existing,
    home,
    secrets,
  }: { existing: (file: string, path: string) => string; home: string; secrets: SecretSources },
  report: Report,
): Server['Database'] {
  const isFile = settings.Client === 'sqlite';
  if (!isFile && Connection === undefined) {
    report({ path: 'Database.Connection', message: `is required for ${settings.Client}` });
  }
  if (isFile && Connection !== undefined) {
    report({
      path: 'Database.Connection',
      message: 'is not for sqlite, which has a File',
      hint: 'set Client',
    });
  }
  const connection = Connection && resolveSecret(Connection, 'Database.Connection', secrets, report);
  return {
    ...settings,
    File: resolve(home, settings.File),
    ...(CaFile === undefined ? undefined : { CaFile: existing(CaFile, 'Database.CaFile') }),
    ...(connection === undefined ? undefined : { Connection: connection }),
  };
}

function completeAudit(
  { Folder, Syslog, ...settings }: ServerSettings['Audit'],
  secrets: SecretSources,
  report: Report,
): Server['Audit'] {
  if ((settings.To === 'syslog') !== (Syslog !== undefined)) {
    report({
      path: 'Audit.Syslog',
      message: Syslog === undefined ? 'is required where To is syslog' : 'is there, but To is not syslog',
    });
  }
  const audit = { ...settings, Folder: resolve(secrets.home, Folder) };
  if (Syslog === undefined) return audit;
  const { CaFile, Facility: facility, Host: host, Port, Protocol: protocol } = Syslog;
  const at = 'Audit.Syslog.CaFile';
  if (CaFile !== undefined && protocol !== 'tls') report({ path: at, message: 'is for Protocol tls' });
  const caCertificates = CaFile && resolveSecret({ file: CaFile }, at, secrets, report);
  if (caCertificates !== undefined && !holdsCertificate(caCertificates)) {
    report({ path: at, message: 'holds no certificate in PEM' });
  }
  const port = Port ?? (protocol === 'tls' ? 6514 : 514);
  return { ...audit, Syslog: { host, port, protocol, facility, caCertificates } };
}

function completeWindowsLogin(
  { Header, Negotiate, Ticket, ...settings }: NonNullable<ServerSettings['WindowsLogin']>,
  existing: (file: string, path: string) => string,
  longSecrets: (references: readonly SecretReference[], property: string) => string[],
): NonNullable<Server['WindowsLogin']> {
  return {
    ...settings,
    ...(Negotiate === undefined
      ? undefined
      : { Negotiate: { Keytab: existing(Negotiate.Keytab, 'WindowsLogin.Negotiate.Keytab') } }),
    ...(Header === undefined
      ? undefined
      : { Header: { ...Header, Secrets: longSecrets(Header.Secrets, 'WindowsLogin.Header.Secrets') } }),
    ...(Ticket === undefined
      ? undefined
      : { Ticket: { ...Ticket, Secrets: longSecrets(Ticket.Secrets, 'WindowsLogin.Ticket.Secrets') } }),
  };
}

/** What a file or a passphrase that the configuration names is looked up by. */
interface FileSources {
  /** The absolute path, after a look whether the file is there. */
  readonly existing: (file: string, path: string) => string;
  readonly secrets: SecretSources;
  readonly report: Report;
}

function completeKey(
  { CertificateFile, KeyFile, Passphrase }: KeySettings,
  at: string,
  { existing, report, secrets }: FileSources,
): KeyLocation {
  const passphrase = Passphrase && resolveSecret(Passphrase, `${at}.Passphrase`, secrets, report);
  return {
    KeyFile: existing(KeyFile, `${at}.KeyFile`),
    ...(CertificateFile === undefined
      ? undefined
      : { CertificateFile: existing(CertificateFile, `${at}.CertificateFile`) }),
    ...(passphrase === undefined ? undefined : { Passphrase: passphrase }),
  };
}

function completeCertificate(
  { PublishedCertificateFiles, ...key }: NonNullable<ServerSettings['OidcSigningCertificate']>,
  files: FileSources,
): NonNullable<Server['OidcSigningCertificate']> {
  return {
    ...completeKey(key, 'OidcSigningCertificate', files),
    PublishedCertificateFiles: PublishedCertificateFiles.map((file, index) =>
      files.existing(file, `OidcSigningCertificate.PublishedCertificateFiles[${index}]`),
    ),
  };
}

/** The URL of the WsFed application beside a provider: /SPSSMR/WsFed beside /SPSSMR/Oidc. */
function wsFedUrlOf(publicUrl: string): string {
  const url = new URL(publicUrl);
  return `${url.origin}${url.pathname.replace(/\/[^/]*$/, '')}/WsFed`;
}

function completeWsFedCertificate(
  { NextCertificateFile: next, ...key }: NonNullable<ServerSettings['WsFedSigningCertificate']>,
  files: FileSources,
): NonNullable<Server['WsFedSigningCertificate']> {
  return {
    ...completeKey(key, 'WsFedSigningCertificate', files),
    ...(next === undefined
      ? undefined
      : { NextCertificateFile: files.existing(next, 'WsFedSigningCertificate.NextCertificateFile') }),
  };
}

function completeRelyingParty(
  name: string,
  value: RelyingPartyRegistration,
  secrets: SecretSources,
  report: Report,
): RelyingParty {
  const { EncryptionCertificateFile, ...rest } = withoutSchema(value);
  const certificate =
    EncryptionCertificateFile === undefined
      ? undefined
      : resolveSecret({ file: EncryptionCertificateFile }, 'EncryptionCertificateFile', secrets, report);
  if (certificate !== undefined && value.TokenType === 'Saml11') {
    report({ path: 'EncryptionCertificateFile', message: 'needs TokenType Saml20' });
  }
  for (const [index, claim] of value.TokenType === 'Saml11' ? value.Claims.entries() : []) {
    // Its name and its namespace are two attributes there.
    if (URL.canParse(claim) && !claim.includes('/')) {
      report({ path: `Claims[${index}]`, message: 'has no "/", which Saml11 needs' });
    }
  }
  if (certificate !== undefined && !isCertificate(certificate)) {
    report({ path: 'EncryptionCertificateFile', message: 'holds no certificate in PEM' });
  }
  return {
    ...rest,
    Name: name,
    Caption: value.Caption ?? name,
    // As they are compared: without the query, and in their normal form.
    PostLogoutRedirectUris: value.PostLogoutRedirectUris.map((uri) => {
      const url = URL.parse(uri);
      return url === null ? uri : `${url.origin}${url.pathname}`;
    }),
    ...(certificate === undefined ? undefined : { EncryptionCertificate: certificate }),
  };
}

function holdsCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).subject !== '';
  } catch {
    return false;
  }
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).publicKey.asymmetricKeyType === 'rsa';
  } catch {
    return false;
  }
}

/** The provider of this server, as a relying party of its own WsFed application: nobody has to register it. */
function ownRelyingParties(
  server: Server | undefined,
  providers: ReadonlyMap<string, Provider>,
): RelyingParty[] {
  if (server === undefined) return [];
  const own = [...providers.values()].filter(
    (provider): provider is WsFedProvider => provider.Type === 'WsFed' && provider.isOwn && provider.Enabled,
  );
  return own.map((provider) => {
    return {
      Name: provider.Name,
      Caption: server.Branding.Name,
      Enabled: true,
      Realm: provider.Wtrealm,
      // Several of them under one realm are one relying party.
      ReplyUrls: own.filter(({ Wtrealm }) => Wtrealm === provider.Wtrealm).map(({ Wreply }) => Wreply),
      PostLogoutRedirectUris: [`${server.PublicUrl}/signed-out`],
      TokenType: 'Saml20' as const,
      TokenLifetime: 600,
      Claims: ['name', 'nameidentifier', 'windowsaccountname', 'upn', 'emailaddress', 'role'],
    };
  });
}

function completeClient(
  name: string,
  value: ClientRegistration,
  secrets: SecretSources,
  report: Report,
): Client {
  const ClientId = value.ClientId ?? name;
  return {
    ...withoutSchema(value),
    ClientId,
    ClientName: value.ClientName ?? ClientId,
    ClientSecrets: hashSecrets(value.ClientSecrets, 'ClientSecrets', secrets, report),
    RequirePkce: requiresPkce(value),
  };
}

function completeResource(
  name: string,
  value: ResourceRegistration,
  publicUrl: string,
  secrets: SecretSources,
  report: Report,
): Resource {
  const standard = value.TokenLayout === 'IdentityServer3' ? `${publicUrl}/resources` : name;
  return {
    ...withoutSchema(value),
    Name: name,
    Audience: value.Audience ?? standard,
    Scopes: value.Scopes ?? [
      { Name: name, Required: false, Emphasize: false, ShowInDiscoveryDocument: true, Claims: [] },
    ],
    Secrets: hashSecrets(value.Secrets, 'Secrets', secrets, report),
  };
}

/** What there is a key for. */
export function algorithmsOf({ FurtherSigningKeys, ManagedKeys }: Server): SigningAlgorithm[] {
  const named = FurtherSigningKeys.map(({ Algorithm }) => Algorithm);
  return [
    ...new Set<SigningAlgorithm>([usualAlgorithm, ...named, ...(ManagedKeys?.FurtherAlgorithms ?? [])]),
  ];
}

/** What is wrong with the choice of an algorithm: there must be a key for it. */
function checkAlgorithm(
  path: string,
  algorithm: SigningAlgorithm,
  server: Server | undefined,
): Finding | undefined {
  if (server === undefined || algorithmsOf(server).includes(algorithm)) return undefined;
  return {
    path,
    message: `there is no key for ${algorithm}`,
    hint: 'add one to FurtherSigningKeys in server.json, or to ManagedKeys.FurtherAlgorithms',
  };
}

/** Where the WsFed application publishes its metadata, under its URL. */
export const federationMetadataPath = '/FederationMetadata/2007-06/FederationMetadata.xml';

/** The path under the public URL that takes the answers: as said, or where `Wreply` has them sent. */
function callbackPathOf(name: string, value: ProviderRegistration, publicUrl: string): string {
  if (value.CallbackPath !== undefined) return value.CallbackPath;
  const wreply = value.Type === 'WsFed' ? value.Wreply : undefined;
  if (wreply?.toLowerCase().startsWith(`${publicUrl.toLowerCase()}/`)) {
    return new URL(wreply).pathname.slice(new URL(publicUrl).pathname.length).replace(/(?<=.)\/$/, '');
  }
  return `/callback/${value.Type.toLowerCase()}/${encodeURIComponent(name)}`;
}

function completeProvider(
  name: string,
  value: ProviderRegistration,
  server: Server | undefined,
  secrets: SecretSources,
  report: Report,
): Provider {
  const publicUrl = server?.PublicUrl ?? '';
  const CallbackPath = callbackPathOf(name, value, publicUrl);
  if (value.Type === 'WsFed') {
    const { DecryptionKeys, Wreply = publicUrl + CallbackPath, ...rest } = withoutSchema(value);
    const keys = DecryptionKeys.flatMap(({ KeyFile, Passphrase }, index) => {
      const path = `DecryptionKeys[${index}]`;
      const passphrase =
        Passphrase === undefined
          ? undefined
          : resolveSecret(Passphrase, `${path}.Passphrase`, secrets, report);
      const pem = resolveSecret({ file: KeyFile }, `${path}.KeyFile`, secrets, report);
      return pem === undefined ? [] : decryptKey(pem, passphrase, `${path}.KeyFile`, report);
    });
    const { MetadataAddress = `${server?.WsFed.PublicUrl}${federationMetadataPath}` } = rest;
    const isOwn = rest.MetadataAddress === undefined;
    return {
      ...rest,
      Name: name,
      MetadataAddress,
      isOwn,
      CallbackPath,
      Wreply,
      DecryptionKeys: keys,
      // The accounts are the same: what else one of them says of itself must not make it another.
      ...(isOwn ? { UserNameClaims: ['nameidentifier'] } : undefined),
    };
  }
  const { ClientSecret, ...rest } = withoutSchema(value);
  const secret =
    ClientSecret === undefined ? undefined : resolveSecret(ClientSecret, 'ClientSecret', secrets, report);
  return {
    ...rest,
    Name: name,
    CallbackPath,
    ...(secret === undefined ? undefined : { ClientSecret: secret }),
  };
}

function decryptKey(pem: string, passphrase: string | undefined, path: string, report: Report): string[] {
  try {
    const key = createPrivateKey({ key: pem, ...(passphrase === undefined ? undefined : { passphrase }) });
    if (key.asymmetricKeyType === 'rsa') return [key.export({ format: 'pem', type: 'pkcs8' }).toString()];
    report({ path, message: `holds an ${key.asymmetricKeyType} key; assertions are encrypted for RSA keys` });
  } catch {
    report({ path, message: 'holds no private key in PEM, or the passphrase is wrong' });
  }
  return [];
}

function hashSecrets(
  list: readonly Secret[],
  path: string,
  sources: SecretSources,
  report: Report,
): SecretHash[] {
  return list.flatMap(({ Created, Value, Expiration, Description }, index) => {
    const at = `${path}[${index}].Value`;
    const found = hashSecret(Value, at, sources, report);
    if (found === undefined) return [];
    const { digest, ...hash } = found;
    const publication = sources.refused.get(digest);
    if (publication !== undefined) {
      report({
        path: at,
        message:
          publication === 'manual'
            ? 'is the secret that the manual of the old application printed for every installation'
            : `is a secret of the development set, which is refused ${sources.mode.strictBecause}`,
        hint:
          publication === 'manual'
            ? 'make a secret of your own, and give it to the Web API as ClientSecret under \\Site\\Properties\\WebApi\\Authentication\\Oidc'
            : 'make a secret of your own',
      });
    }
    return {
      ...hash,
      ...(Created === undefined ? undefined : { createdAt: Date.parse(Created) / 1000 }),
      ...(Expiration === undefined ? undefined : { expiresAt: Math.floor(Date.parse(Expiration) / 1000) }),
      ...(Description === undefined ? undefined : { description: Description }),
    };
  });
}

function hashSecret(
  value: Secret['Value'],
  path: string,
  sources: SecretSources,
  report: Report,
): (Pick<SecretHash, 'algorithm' | 'hash'> & { digest: SecretDigest }) | undefined {
  if (typeof value === 'string') {
    const bytes = Buffer.from(value, 'base64');
    const hash = bytes.toString('base64');
    return { hash, algorithm: bytes.length === 32 ? 'sha256' : 'sha512', digest: digestBehind(hash) };
  }
  const secret = resolveSecret(value, path, sources, report);
  if (secret === undefined) return undefined;
  const hash = createHash('sha256').update(secret).digest('base64');
  return { hash, algorithm: 'sha256', digest: digestOf(secret) };
}

/** The secret behind a reference; where there is none, that is reported and the result undefined. */
function resolveSecret(
  reference: SecretReference,
  path: string,
  { env, home, mode, digest }: SecretSources,
  report: Report,
): string | undefined {
  if ('env' in reference) {
    const value = env[reference.env];
    if (value) return value;
    report({ path, message: `the environment variable ${reference.env} is not set` });
  } else if ('file' in reference) {
    const file = resolve(home, reference.file);
    try {
      const value = readFileSync(file, 'utf8')
        .replace(/^\ufeff/, '')
        .replace(/[\r\n]+$/, '');
      digest.update(`secret\0${value.length}\0${value}`);
      if (value !== '') return value;
      report({ path, message: `${file} is empty` });
    } catch (err) {
      report({ path, message: `${file} cannot be read (${describeFileError(err)})` });
    }
  } else if (mode.strictBecause === undefined) {
    return reference.plain;
  } else {
    report({
      path,
      message: `a plain secret is refused ${mode.strictBecause}`,
      hint: 'use { "env": "NAME" } or { "file": "path" }',
    });
  }
  return undefined;
}

function isMissing(err: unknown): boolean {
  return (err as NodeJS.ErrnoException).code === 'ENOENT';
}

function describeFileError(err: unknown): string {
  const { code } = err as NodeJS.ErrnoException;
  if (code === 'ENOENT') return 'there is no such file';
  return code === 'EACCES' ? 'permission denied' : (code ?? 'unknown error');
}

/** What a file says but for the reference to its schema. */
function withoutSchema<Value extends { $schema?: string | undefined }>(value: Value): WithoutSchema<Value> {
  const { $schema: _, ...rest } = value;
  return rest as WithoutSchema<Value>;
}

/** Distributes over unions, as Omit does not. */
type WithoutSchema<Value> = Value extends unknown ? Omit<Value, '$schema'> : never;

/** Freezes a value with everything in it; maps refuse to be changed from then on. */
function freeze<Value>(value: Value): Value {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  if (value instanceof Map) {
    for (const member of value.values()) freeze(member);
    const refuse = () => {
      throw new TypeError('a configuration does not change');
    };
    for (const name of ['set', 'delete', 'clear']) Object.defineProperty(value, name, { value: refuse });
  } else {
    for (const member of Object.values(value)) freeze(member);
  }
  return Object.freeze(value);
}
