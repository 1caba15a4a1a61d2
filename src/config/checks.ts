/** What must hold across properties and files, beyond what the schemas say. Pure; all findings are returned. */
import type { Provider } from './load.ts';
import type { Finding } from './read.ts';
import { suggest } from './read.ts';
import {
  type ClientRegistration,
  identityScopes,
  isFrontChannelFlow,
  isInteractiveFlow,
  isLoopback,
  offlineAccess,
  protocolClaims,
  type ResourceRegistration,
  type ServerSettings,
} from './schema.ts';

/** The name of no identity provider: the login page. */
export const localLogin = 'local';

/** What a client's registration may refer to. */
export interface Surroundings {
  /** Every scope of a resource, and the name of that resource where it is disabled. Undefined: not known for sure. */
  readonly resourceScopes: ReadonlyMap<string, { readonly disabledResource: string | undefined }> | undefined;
  readonly providers: ReadonlySet<string>;
}

/**
 * Everything that is wrong with a client's registration.
 *
 * @param broken properties that have been found wrong by themselves: what follows from them is not reported
 */
export function checkClient(
  client: ClientRegistration,
  surroundings: Surroundings,
  broken: ReadonlySet<string>,
): Finding[] {
  return [
    ...(broken.has('Flow') ? [] : checkFlow(client)),
    ...(broken.has('Flow') || broken.has('ClientSecrets') ? [] : checkPkce(client)),
    ...checkRedirects(client),
    ...checkScopes(client, surroundings),
    ...checkIdentityProviders(client, surroundings),
    ...checkRefreshTokens(client),
    ...checkClaims(client),
    ...checkFactors(client),
  ];
}

function* checkClaims({ Claims, PrefixClientClaims }: ClientRegistration): Generator<Finding> {
  if (PrefixClientClaims) return;
  for (const [index, { Type }] of Claims.entries()) {
    if (!protocolClaims.has(Type)) continue;
    yield {
      path: `Claims[${index}].Type`,
      message: `${Type} is the token's own claim, and a client cannot set it`,
      hint: 'leave it out, or set PrefixClientClaims to true',
    };
  }
}

function* checkFactors({
  EnableLocalLogin,
  Flow,
  IdentityProviderRestrictions,
  RequireMfa,
}: ClientRegistration) {
  if (!RequireMfa) return;
  const [only, ...others] = IdentityProviderRestrictions;
  if (Flow === 'ResourceOwner') {
    yield { path: 'RequireMfa', message: 'Flow ResourceOwner has a password and nothing else' };
  } else if (EnableLocalLogin && only === localLogin && others.length === 0) {
    yield {
      path: 'RequireMfa',
      message: 'nobody can sign in: local sign-in has one factor, and no identity provider is allowed',
    };
  }
}

function isInteractive({ Flow }: ClientRegistration): boolean {
  return isInteractiveFlow(Flow);
}

/** Flows of clients that cannot keep a secret. */
function needsSecret(flow: string): boolean {
  return !flow.endsWith('WithProofKey') && flow !== 'Implicit';
}

/** A client without a secret cannot prove who it is. */
function isPublic({ ClientSecrets }: Pick<ClientRegistration, 'ClientSecrets'>): boolean {
  return ClientSecrets.length === 0;
}

/** Whether requests of the client must use PKCE (RFC 7636), said or by default. */
export function requiresPkce({
  RequirePkce,
  Flow,
}: Pick<ClientRegistration, 'Flow' | 'RequirePkce'>): boolean {
  return RequirePkce ?? Flow.endsWith('WithProofKey');
}

function* checkFlow(client: ClientRegistration): Generator<Finding> {
  const { Flow, EnableLocalLogin, ClientCredentialsSubject, RedirectUris } = client;
  if (isInteractive(client) && RedirectUris.length === 0) {
    yield { path: 'RedirectUris', message: `Flow ${Flow} needs at least one redirect URI` };
  }
  if (needsSecret(Flow) && isPublic(client)) {
    yield {
      path: 'ClientSecrets',
      message: `Flow ${Flow} needs a secret`,
      hint: isInteractive(client)
        ? 'add one; a client that cannot keep a secret uses AuthorizationCodeWithProofKey'
        : 'add one',
    };
  }
  if (!isInteractive(client) && !EnableLocalLogin) {
    yield {
      path: 'EnableLocalLogin',
      message: `Flow ${Flow} needs EnableLocalLogin true: a client that goes straight to the token endpoint signs in locally`,
      hint: 'set EnableLocalLogin to true, as DPM required for every non-interactive client',
    };
  }
  if (Flow !== 'ClientCredentials' && ClientCredentialsSubject !== 'None') {
    yield {
      path: 'ClientCredentialsSubject',
      message: `applies to Flow ClientCredentials, and this is ${Flow}`,
    };
  }
}

function* checkPkce(client: ClientRegistration): Generator<Finding> {
  const isExposed = client.RedirectUris.some((uri) => !isLoopback(URL.parse(uri) ?? { hostname: '' }));
  if (client.Flow.endsWith('WithProofKey') && isPublic(client) && !requiresPkce(client) && isExposed) {
    yield {
      path: 'RequirePkce',
      message:
        'a client without a secret may do without PKCE only if every redirect URI is on this machine (loopback)',
      hint: 'set RequirePkce to true, or give the client a secret',
    };
  }
}

function* checkRedirects(client: ClientRegistration): Generator<Finding> {
  const { RedirectUris, PostLogoutRedirectUris, ApplicationType } = client;
  for (const [property, uris] of Object.entries({ RedirectUris, PostLogoutRedirectUris })) {
    for (const [index, uri] of uris.entries()) {
      const message = findRedirectProblem(uri, ApplicationType, isFrontChannelFlow(client.Flow));
      if (message !== undefined) yield { path: `${property}[${index}]`, message };
    }
  }
}

/** What is wrong with a redirect URI (RFC 9700 section 2.1, RFC 8252 section 7); undefined if nothing. */
function findRedirectProblem(
  uri: string,
  type: ClientRegistration['ApplicationType'],
  isLegacy: boolean,
): string | undefined {
  const url = URL.parse(uri);
  if (/[\s\\]/.test(uri)) return 'must contain neither blanks nor backslashes';
  if (uri.includes('*')) return 'must not contain a wildcard: redirect URIs are compared exactly';
  if (url === null) return 'must be an absolute URI';
  if (uri.includes('#')) return 'must not have a fragment';
  if (url.username !== '' || url.password !== '') return 'must not contain a user name or a password';

  if (url.protocol === 'https:' || url.protocol === 'http:') {
    if (!/^https?:\/\/[^/]/i.test(uri)) return 'must be an absolute URI';
    // The three names that the engine accepts for native clients.
    const isNativeLoopback = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname);
    if (url.protocol === 'https:') {
      return type === 'Native' && isNativeLoopback
        ? 'must be http, as it is on the machine of the user'
        : undefined;
    }
    if (type === 'Native' ? isNativeLoopback : isLoopback(url) || isLegacy) return undefined;
    return 'must be https; http is for localhost, 127.0.0.1 and [::1]';
  }
  if (type === 'Web') return 'must be https; a scheme of its own needs ApplicationType Native';
  // RFC 8252 section 8.4: a scheme without a dot cannot belong to anybody; that leaves out javascript: and data: too.
  return url.protocol.includes('.')
    ? undefined
    : 'must be https, http on this machine, or a private scheme that is a reversed domain, such as com.example.app:/callback';
}

function* checkScopes(
  { Flow, AllowedScopes }: ClientRegistration,
  { resourceScopes }: Surroundings,
): Generator<Finding> {
  if (Flow === 'Implicit' && !AllowedScopes.includes('openid')) {
    yield {
      path: 'AllowedScopes',
      message: 'Flow Implicit needs openid: an access token alone (response_type token) is not offered',
      hint: 'add openid and have the client ask for "id_token token", or change Flow to AuthorizationCodeWithProofKey',
    };
  }
  for (const [index, scope] of AllowedScopes.entries()) {
    const path = `AllowedScopes[${index}]`;
    if (scope in identityScopes || scope === offlineAccess) {
      if (Flow === 'Implicit' && scope === offlineAccess) {
        yield { path, message: 'Flow Implicit has no code, so it cannot have refresh tokens' };
      }
      if (Flow === 'ClientCredentials') {
        yield { path, message: `Flow ClientCredentials has no user, so it cannot have the scope ${scope}` };
      }
      continue;
    }
    const found = resourceScopes?.get(scope);
    if (resourceScopes === undefined || (found !== undefined && found.disabledResource === undefined))
      continue;
    if (found !== undefined) {
      yield {
        path,
        message: `the scope ${scope} belongs to the resource ${found.disabledResource}, which is disabled`,
      };
    } else {
      const known = [...Object.keys(identityScopes), offlineAccess, ...resourceScopes.keys()];
      yield { path, message: `there is no scope ${scope}`, ...suggest(scope, known) };
    }
  }
}

function* checkIdentityProviders(
  client: ClientRegistration,
  { providers }: Surroundings,
): Generator<Finding> {
  const { IdentityProviderRestrictions: names, EnableLocalLogin } = client;
  for (const [index, name] of names.entries()) {
    if (name === localLogin || providers.has(name)) continue;
    yield {
      path: `IdentityProviderRestrictions[${index}]`,
      message: `there is no identity provider ${name}`,
      ...suggest(name, [...providers, localLogin]),
    };
  }
  if (!names.includes(localLogin)) return;
  if (names.length > 1) {
    yield {
      path: 'IdentityProviderRestrictions',
      message: 'local means no identity provider at all, so it stands alone',
    };
  } else if (isInteractive(client) && !EnableLocalLogin) {
    yield {
      path: 'EnableLocalLogin',
      message:
        'nobody can sign in: IdentityProviderRestrictions is local alone, and EnableLocalLogin is false',
      hint: 'set EnableLocalLogin to true',
    };
  }
}

function* checkRefreshTokens(client: ClientRegistration): Generator<Finding> {
  const { RefreshTokenExpiration, SlidingRefreshTokenLifetime, AbsoluteRefreshTokenLifetime } = client;
  if (AbsoluteRefreshTokenLifetime === 0) {
    if (RefreshTokenExpiration === 'Sliding') return;
    yield {
      path: 'AbsoluteRefreshTokenLifetime',
      message: '0 means no end, and RefreshTokenExpiration Absolute needs one',
      hint: 'give a lifetime in seconds, or set RefreshTokenExpiration to Sliding',
    };
    return;
  }
  // Under Absolute the sliding lifetime has no effect, and its default may well be the longer one.
  if (RefreshTokenExpiration === 'Sliding' && SlidingRefreshTokenLifetime > AbsoluteRefreshTokenLifetime) {
    yield {
      path: 'SlidingRefreshTokenLifetime',
      message: `${SlidingRefreshTokenLifetime} s is longer than AbsoluteRefreshTokenLifetime, ${AbsoluteRefreshTokenLifetime} s`,
    };
  }
}

/** KiB gone through, in the least of the ways that OWASP's password storage cheat sheet has: 7 MiB five times. */
const leastWork = 7168 * 5;

/** Where the passwords of accounts are easier to guess than they should be. */
export function findPasswordDeviations({
  Passwords,
}: {
  readonly Passwords: Pick<ServerSettings['Passwords'], 'Argon2' | 'RefuseCommon'>;
}): Finding[] {
  const { Argon2, RefuseCommon } = Passwords;
  const deviations: Finding[] = [];
  if (!RefuseCommon) {
    deviations.push({
      path: 'Passwords.RefuseCommon',
      message: 'the commonest passwords may be chosen (NIST SP 800-63B section 3.1.1.2)',
      hint: 'set RefuseCommon to true',
    });
  }
  if (Argon2.Memory * Argon2.Passes < leastWork) {
    deviations.push({
      path: 'Passwords.Argon2',
      message: 'hashes of passwords are cheaper to try than OWASP advises',
      hint: 'set Memory 19456 and Passes 2, or more',
    });
  }
  return deviations;
}

/** Where a client is allowed what RFC 9700 advises against; each names the property that ends it. */
export function findDeviations(clientId: string, client: ClientRegistration): Finding[] {
  if (!client.Enabled) return [];
  const deviations: Finding[] = [];
  if (client.Flow === 'ResourceOwner') {
    deviations.push({
      path: 'Flow',
      message: `${clientId} sees the passwords of its users (RFC 9700 section 2.4)`,
      hint: 'change Flow to AuthorizationCodeWithProofKey once the client opens a browser',
    });
  }
  if (client.Flow === 'Implicit' || (isFrontChannelFlow(client.Flow) && client.AllowAccessTokensViaBrowser)) {
    deviations.push({
      path: 'Flow',
      message: `${clientId} gets tokens in the address of the browser (RFC 9700 section 2.1.2)`,
      hint: 'change Flow to AuthorizationCodeWithProofKey, or with Hybrid set AllowAccessTokensViaBrowser to false',
    });
  }
  if (
    client.RedirectUris.some(
      (uri) => uri.startsWith('http:') && !isLoopback(URL.parse(uri) ?? { hostname: '' }),
    )
  ) {
    deviations.push({
      path: 'RedirectUris',
      message: `${clientId} gets its answers over http (RFC 9700 section 2.6)`,
      hint: 'serve the client over https',
    });
  }
  if (client.ClientCredentialsSubject === 'Account') {
    deviations.push({
      path: 'ClientCredentialsSubject',
      message: `${clientId} acts as the account of its name (RFC 9700 section 4.15)`,
      hint: 'set ClientCredentialsSubject to None once the resource knows the client by client_id',
    });
  }
  if (isInteractive(client) && client.AuthorizationCodeLifetime > 600) {
    deviations.push({
      path: 'AuthorizationCodeLifetime',
      message: `${clientId} has codes that are good for longer than ten minutes (OWASP ASVS 10.4.3)`,
      hint: 'set AuthorizationCodeLifetime to 60',
    });
  }
  if (client.AbsoluteRefreshTokenLifetime === 0 && client.AllowedScopes.includes(offlineAccess)) {
    deviations.push({
      path: 'AbsoluteRefreshTokenLifetime',
      message: `${clientId} keeps a sign-in for ever by using it (OWASP ASVS 10.4.8)`,
      hint: 'set AbsoluteRefreshTokenLifetime to the longest time without a password that you accept',
    });
  }
  if (!isInteractive(client) || !isPublic(client)) return deviations;
  if (!requiresPkce(client) && client.Flow !== 'Implicit') {
    deviations.push({
      path: 'RequirePkce',
      message: `${clientId} has no secret and need not use PKCE (RFC 9700 section 2.1.1)`,
      hint: 'set RequirePkce to true once the client sends a code_challenge',
    });
  }
  if (client.RefreshTokenUsage === 'ReUse' && client.AllowedScopes.includes(offlineAccess)) {
    deviations.push({
      path: 'RefreshTokenUsage',
      message: `${clientId} has no secret and keeps its refresh tokens (RFC 9700 section 4.14.2)`,
      hint: 'set RefreshTokenUsage to OneTimeOnly once the client stores the new one each time',
    });
  }
  return deviations;
}

/** The scopes of a resource; one named like it unless it says otherwise. */
export function scopeNames(name: string, { Scopes }: Pick<ResourceRegistration, 'Scopes'>): string[] {
  return Scopes?.map((scope) => scope.Name) ?? [name];
}

/**
 * Everything that is wrong with a resource among the others.
 *
 * @param owners the resources that were checked before, by scope; those of this one are added
 */
export function checkResource(
  name: string,
  resource: ResourceRegistration,
  { owners, clientIds }: { owners: Map<string, string>; clientIds: ReadonlySet<string> },
): Finding[] {
  const findings: Finding[] = [];
  if (clientIds.has(name)) {
    findings.push({
      path: '',
      message: `the resource ${name} has the name of a client`,
      hint: 'both would authenticate with the same name; rename one of them',
    });
  }
  if (resource.Scopes === undefined && !/^[\x21\x23-\x5b\x5d-\x7e]+$/.test(name)) {
    findings.push({ path: 'Scopes', message: `is required, since ${name} cannot be the name of a scope` });
  }
  for (const [index, scope] of scopeNames(name, resource).entries()) {
    const path = resource.Scopes === undefined ? '' : `Scopes[${index}].Name`;
    const owner = owners.get(scope);
    if (scope in identityScopes || scope === offlineAccess) {
      findings.push({
        path,
        message: `${scope} is a scope of OpenID Connect and cannot belong to a resource`,
      });
    } else if (owner !== undefined) {
      findings.push({ path, message: `the scope ${scope} belongs to the resource ${owner} already` });
    } else {
      owners.set(scope, name);
    }
  }
  for (const [index, { Claims }] of (resource.Scopes ?? []).entries()) {
    for (const claim of Claims.filter((name) => protocolClaims.has(name))) {
      const message = `${claim} is in access tokens by itself, or is the protocol's`;
      findings.push({ path: `Scopes[${index}].Claims`, message, hint: 'leave it out' });
    }
  }
  return findings;
}

/** Paths under the public URL that are ours. */
const ownPaths = /^\/(assets|connect|login|signed-out|\.well-known)(\/|$)/i;

/**
 * Everything that is wrong with an identity provider among the others.
 *
 * @param callbacks the providers that were checked before, by callback path in lower case; this one's is added
 */
export function checkProvider(provider: Provider, callbacks: Map<string, string>): Finding[] {
  const findings: Finding[] = [];
  const { CallbackPath, ClaimMapping, Domains, Name, UserNameClaims } = provider;
  const path = CallbackPath.toLowerCase();
  const other = callbacks.get(path);
  // An answer of WS-Federation is posted; one of OpenID Connect may come as the home page does.
  if (ownPaths.test(path) || (path === '/' && provider.Type === 'Oidc')) {
    findings.push({ path: 'CallbackPath', message: `${CallbackPath} has another use already` });
  }
  // At the root the answer itself says whose it is.
  if (other !== undefined && path !== '/') {
    findings.push({ path: 'CallbackPath', message: `${CallbackPath} takes the answers of ${other} already` });
  }
  callbacks.set(path, Name);
  if (provider.Type === 'Oidc' && UserNameClaims.includes('email') && Domains.length === 0) {
    findings.push({
      path: 'Domains',
      message: 'is needed, since UserNameClaims names email: an address counts only in one of these domains',
    });
  }
  if (provider.Type === 'Oidc' && !provider.Scope.includes('openid')) {
    findings.push({ path: 'Scope', message: 'must contain openid' });
  }
  for (const claim of Object.keys(ClaimMapping).filter((name) => protocolClaims.has(name))) {
    findings.push({ path: 'ClaimMapping', message: `${claim} is the protocol's and cannot be set` });
  }
  return findings;
}

/** Where an identity provider is trusted in ways that are weaker than they should be. */
export function findProviderDeviations(provider: Provider): Finding[] {
  if (!provider.Enabled) return [];
  const { Name } = provider;
  if (provider.Type === 'WsFed') {
    const findings: Finding[] = [];
    if (provider.AllowSha1) {
      findings.push({
        path: 'AllowSha1',
        message: `${Name} may sign with SHA-1, which can be forged`,
        hint: 'have it sign with SHA-256 and set AllowSha1 to false',
      });
    }
    if (provider.AllowCbc) {
      findings.push({
        path: 'AllowCbc',
        message: `${Name} may encrypt in a way (CBC) that nothing protects from being changed`,
        hint: 'have it encrypt with AES-GCM and set AllowCbc to false',
      });
    }
    return findings;
  }
  const findings: Finding[] = [];
  if (!provider.UsePkce) {
    findings.push({
      path: 'UsePkce',
      message: `${Name} gets requests without PKCE (RFC 9700 section 2.1.1)`,
      hint: 'set UsePkce to true once it understands PKCE',
    });
  }
  if (!provider.RequireHttpsMetadata) {
    findings.push({
      path: 'RequireHttpsMetadata',
      message: `${Name} may be asked for its keys over http (RFC 9700 section 2.6)`,
      hint: 'serve its metadata over https and set RequireHttpsMetadata to true',
    });
  }
  return findings;
}

/** Where the server itself is more open than it should be. */
export function findServerDeviations({
  EnableTokenValidationEndpoints,
}: Pick<ServerSettings, 'EnableTokenValidationEndpoints'>): Finding[] {
  if (!EnableTokenValidationEndpoints) return [];
  return [
    {
      path: 'EnableTokenValidationEndpoints',
      message: 'whoever has a token can have it read here, without proving who asks (RFC 7662 section 2.1)',
      hint: 'give the Web API its ClientId, so that it asks connect/introspect, and set it to false',
    },
  ];
}

/** Where a resource learns more than it should. */
export function findResourceDeviations(name: string, resource: ResourceRegistration): Finding[] {
  if (!resource.Enabled || !resource.AllowUnrestrictedIntrospection) return [];
  return [
    {
      path: 'AllowUnrestrictedIntrospection',
      message: `${name} learns of scopes that are not its own (RFC 9700 section 2.3)`,
      hint: 'set AllowUnrestrictedIntrospection to false once it looks at its own scopes alone',
    },
  ];
}

/** The names under which accounts are linked to what vouches for them here, and no identity provider's. */
export const ownSources: readonly string[] = ['directory', 'password-verifier', 'windows'];

/** What they are called in links; a directory of Windows names its users as Windows does. */
export const ownIssuers = {
  directory: 'urn:directory',
  passwordVerifier: 'urn:password-verifier',
  windows: 'urn:windows',
} as const;

/** Headers that have a meaning already, and are rewritten or read on the way. */
const takenHeaders =
  /^(authorization|connection|content-.*|cookie|host|sec-.*|transfer-encoding|x-forwarded-.*)$/i;

/** Everything that is wrong with Windows sign-in among the other settings. */
export function* checkWindowsLogin(
  { Header, Names, Negotiate, Ticket }: NonNullable<ServerSettings['WindowsLogin']>,
  { platform, wsFedUrl }: { platform: NodeJS.Platform; wsFedUrl: string },
): Generator<Finding> {
  if (Negotiate !== undefined && platform === 'win32') {
    yield {
      path: 'WindowsLogin.Negotiate',
      message: 'does not work where the server itself runs on Windows',
      hint: 'use Ticket with the handler for IIS in deploy/iis/WinLogin',
    };
  }
  if (Header !== undefined) {
    for (const property of ['Name', 'SecretName'] as const) {
      if (!takenHeaders.test(Header[property])) continue;
      yield { path: `WindowsLogin.Header.${property}`, message: `${Header[property]} has a meaning already` };
    }
    if (Header.Name.toLowerCase() === Header.SecretName.toLowerCase()) {
      yield { path: 'WindowsLogin.Header.SecretName', message: 'must be another header than Name' };
    }
    for (const [index, address] of Header.From.entries()) {
      if (!/\/0+$/.test(address)) continue;
      yield { path: `WindowsLogin.Header.From[${index}]`, message: 'is every address, not that of a proxy' };
    }
  }
  if (Ticket !== undefined) {
    const [handler, application] = [new URL(Ticket.HandlerUrl), new URL(wsFedUrl)];
    const path = 'WindowsLogin.Ticket.HandlerUrl';
    // On another site the browser would come back without the cookie that it left with.
    if (handler.protocol !== application.protocol || handler.hostname !== application.hostname) {
      yield {
        path,
        message: `must be ${application.protocol}//${application.hostname}, as the WsFed application is`,
      };
    }
    if (handler.search !== '' || handler.hash !== '') {
      yield { path, message: 'must have no query and no fragment' };
    }
    const isOurs = `${handler.pathname}/`.toLowerCase().startsWith(`${application.pathname}/`.toLowerCase());
    if (handler.origin === application.origin && isOurs) {
      yield { path, message: 'is an address of the WsFed application itself' };
    }
  }
  for (const [index, { From, To }] of Names.entries()) {
    const path = `WindowsLogin.Names[${index}]`;
    if (From.includes('*') !== To.includes('*')) {
      yield { path, message: 'has a * in one of From and To only' };
    }
    if (From !== From.trim() || To !== To.trim()) {
      yield { path, message: 'begins or ends with a blank' };
    }
  }
}

/** Everything that is wrong with the directory of `server.json`, but for its filter, secrets and files. */
export function checkDirectory(
  { Urls, StartTls }: Pick<NonNullable<ServerSettings['Directory']>, 'StartTls' | 'Urls'>,
  { isDevelopment }: { isDevelopment: boolean },
): Finding[] {
  const findings: Finding[] = [];
  for (const [index, address] of Urls.entries()) {
    const path = `Directory.Urls[${index}]`;
    const url = URL.parse(address);
    if (Urls.findIndex((other) => toHost(other) === toHost(address)) < index) {
      findings.push({ path, message: 'is there twice, and would be asked twice' });
    }
    if (url?.protocol === 'ldaps:' && StartTls) {
      findings.push({
        path,
        message: 'is encrypted from its first byte, so that StartTls cannot be used',
        hint: 'write ldap://, or set StartTls to false',
      });
    }
    // The parser knows nothing of the scheme and leaves the host as it is written.
    const isHere = isDevelopment && isLoopback({ hostname: url?.hostname.toLowerCase() ?? '' });
    if (url?.protocol === 'ldap:' && !StartTls && !isHere) {
      findings.push({
        path,
        message: 'would send passwords in clear',
        hint: 'write ldaps://, or set StartTls to true',
      });
    }
  }
  return findings;
}

/** A host of a directory in one spelling. */
function toHost(address: string): string {
  const url = URL.parse(address.toLowerCase());
  const usual = url?.protocol === 'ldaps:' ? '636' : '389';
  return `${url?.protocol}//${url?.hostname}:${url?.port || usual}`;
}

/** What is wrong with a filter of the directory. Its parser is loaded where there is one. */
export async function checkUserFilter(filter: string): Promise<Finding[]> {
  const { FilterParser, NotFilter } = await import('ldapts');
  const path = 'Directory.UserFilter';
  const marker = 'the name that was typed';
  // The parser overlooks a parenthesis that is never closed; one that is meant is written \28 or \29.
  if (filter.split('(').length !== filter.split(')').length) {
    return [{ path, message: 'has a parenthesis without its other half' }];
  }
  try {
    const isNegated = (part: object): boolean =>
      part instanceof NotFilter
        ? part.toString().includes(marker)
        : 'filters' in part && Array.isArray(part.filters) && part.filters.some(isNegated);
    return isNegated(FilterParser.parseString(filter.replaceAll('{name}', marker)))
      ? [{ path, message: 'must not have {name} within (!…), which finds everybody else' }]
      : [];
  } catch (err) {
    // The parser repeats the whole filter behind its reason.
    const [reason] = (err as Error).message.split(':');
    return [{ path, message: `is no LDAP filter (${reason})` }];
  }
}

/** Why a file name, without .json, cannot be used on every system; undefined if it can. */
export function findFileNameProblem(name: string): string | undefined {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: Windows forbids them.
  if (/[<>:"/\\|?*\u0000-\u001f\u007f]/.test(name))
    return 'has a character that is not allowed on every system';
  if (/^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)/i.test(name)) return 'is reserved on Windows';
  if (/^ |[. ]$/.test(name)) return 'begins with a blank or ends with a blank or a dot';
  if (name.length > 100) return 'is longer than 100 characters';
  return undefined;
}
