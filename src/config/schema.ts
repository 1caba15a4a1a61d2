/**
 * What may stand in the config files: one schema for each kind of file, every fact about a property in one
 * place. docs/configuration.md and config/schema/ are generated from here.
 *
 * Property names are DPM's. As in DPM a switch may also be the text "True" or "False", a number may be a text
 * of digits, a list may be one text, and a choice may be IdentityServer's number.
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { facilities } from '../syslog.ts';

/** How a value may be written beside its plain JSON form, and what is not there yet; for the documentation. */
export interface Traits {
  spelling?: 'boolean' | 'integer' | 'list';
  /** IdentityServer's number for each name. */
  numbers?: Readonly<Record<string, number>>;
  unit?: string;
  /** What is refused for now, as a sentence. */
  refused?: string;
}

/** Traits of schemas, beside zod's own metadata. */
export const traits = z.registry<Traits>();

const int32 = 2 ** 31 - 1;
/** Node's timers take no more milliseconds than fit 31 bits; a week is well within. */
const longestIntervalSeconds = 7 * 24 * 3600;

function boolean() {
  const inner = z.boolean().register(traits, { spelling: 'boolean' });
  return z.preprocess(
    (value) =>
      typeof value === 'string' && /^(true|false)$/i.test(value) ? value.toLowerCase() === 'true' : value,
    inner,
  );
}

function integer(minimum: number, maximum = int32, unit?: string) {
  const inner = z
    .int()
    .min(minimum)
    .max(maximum)
    .register(traits, { spelling: 'integer', ...(unit === undefined ? undefined : { unit }) });
  return z.preprocess(
    (value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value),
    inner,
  );
}

function seconds(minimum = 1, maximum = int32) {
  return integer(minimum, maximum, 'seconds');
}

function list<Item extends z.ZodType<string>>(item: Item) {
  const inner = z.array(item).register(traits, { spelling: 'list' });
  return z.preprocess(
    (value) => (typeof value === 'string' ? value.split(/[;,\s]+/).filter((part) => part !== '') : value),
    inner,
  );
}

/** A choice that IdentityServer writes as a name or as a number; `offered` are the names to mention. */
function numbered<const Names extends Readonly<Record<string, number>>>(
  numbers: Names,
  offered: readonly string[] = Object.keys(numbers),
) {
  const names = Object.keys(numbers) as (keyof Names & string)[];
  const inner = z
    .enum(names as [keyof Names & string, ...(keyof Names & string)[]], {
      error: `must be one of ${offered.join(', ')}`,
    })
    .register(traits, { numbers });
  return z.preprocess((value) => {
    const number = typeof value === 'string' && /^\d$/.test(value) ? Number(value) : value;
    return names.find((name) => numbers[name] === number) ?? value;
  }, inner);
}

/** A property that is known but has no behaviour yet: only the values that change nothing pass. */
function notYet<Schema extends z.ZodType>(
  name: string,
  schema: Schema,
  accepted: (value: z.output<Schema>) => boolean,
) {
  return schema.refine(accepted, { error: `${name} is not supported yet`, abort: true });
}

function text() {
  return z.string().min(1);
}

/** An absolute http or https URL; anything else would run or leak somewhere when it is put on a page. */
function webUrl() {
  return text().refine(
    (value) => /^https?:$/.test(URL.parse(value)?.protocol ?? ''),
    'must be an absolute http or https URL',
  );
}

/** As in DPM, an empty text says that there is none. */
function emptyIsAbsent<Schema extends z.ZodType>(schema: Schema) {
  return z.preprocess((value) => (value === '' ? undefined : value), schema.optional());
}

export const schemaReference = z
  .string()
  .optional()
  .meta({ description: 'The JSON Schema of this file, for editors. Otherwise ignored.' });

/** Where a secret is: never in the file itself but for Development. */
export const SecretReference = z.union(
  [
    z.strictObject({
      env: text().meta({ description: 'Name of the environment variable that holds the secret.' }),
    }),
    z.strictObject({
      file: text().meta({
        description:
          'File that holds the secret, relative to the folder that contains config/. Line breaks at its end are left out.',
      }),
    }),
    z.strictObject({ plain: text().meta({ description: 'The secret itself. In Development only.' }) }),
  ],
  { error: 'must be { "env": "NAME" } or { "file": "path" }; { "plain": "…" } in Development only' },
);
export type SecretReference = z.output<typeof SecretReference>;

/** Where a key is, and its certificate. */
function keyProperties(key: string) {
  return {
    CertificateFile: text()
      .optional()
      .meta({ description: 'PEM file with the certificate of the key, where it is not in KeyFile.' }),
    KeyFile: text().meta({
      description: `PEM file with the ${key}, or PFX file with the key and its certificate.`,
    }),
    Passphrase: SecretReference.optional().meta({
      description: 'Where the passphrase of the key is, if it is encrypted.',
    }),
  };
}

/** The settings of a key, before its files and its passphrase are looked up. */
export interface KeySettings {
  readonly CertificateFile?: string | undefined;
  readonly KeyFile: string;
  readonly Passphrase?: SecretReference | undefined;
}

const secretTypes = ['SharedSecret', 'X509Thumbprint', 'X509Name', 'X509CertificateBase64'] as const;

/** One secret of a client or of a resource. */
export const Secret = z.strictObject({
  Value: z
    .union([z.string().refine(isSecretHash, { error: describeSecretHash }), SecretReference], {
      error: 'must be the base64 of a SHA-256 or SHA-512 hash, { "env": "NAME" } or { "file": "path" }',
    })
    .meta({
      description:
        'The hash of the secret: SHA-256 or SHA-512, in base64. Or where the secret itself is: { "env": "NAME" } or { "file": "path" }; in Development also { "plain": "…" }.',
    }),
  Type: z
    .enum(secretTypes)
    .pipe(z.enum(['SharedSecret'], { error: ({ input }) => `Type ${String(input)} is not supported yet` }))
    .default('SharedSecret')
    .register(traits, { refused: 'Only SharedSecret is supported so far.' })
    .meta({ description: 'What the secret is.' }),
  Description: z.string().optional().meta({ description: 'A note for whoever maintains the file.' }),
  Created: z.iso.date({ error: 'must be a date such as 2027-01-31' }).optional().meta({
    description:
      'When the secret was made, as 2027-01-31: `postern report access` tells its age by it. Nothing else depends on it.',
  }),
  Expiration: z.iso
    .datetime({ offset: true, error: 'must be a date and time with its zone, such as 2027-01-31T00:00:00Z' })
    .optional()
    .meta({ description: 'When the secret ends, as 2027-01-31T00:00:00Z. Without it, never.' }),
});
export type Secret = z.output<typeof Secret>;

function isSecretHash(value: string): boolean {
  return /^[A-Za-z0-9+/]+={0,2}$/.test(value) && [32, 64].includes(Buffer.from(value, 'base64').length);
}

/** Says what is wrong without repeating the value: it may be the secret. */
function describeSecretHash({ input }: { input?: unknown }): string {
  return /^([0-9a-f]{64}|[0-9a-f]{128})$/i.test(String(input))
    ? 'is hexadecimal; write the hash in base64'
    : 'must be the base64 of a SHA-256 or SHA-512 hash; a secret itself goes into { "env": "NAME" } or { "file": "path" }';
}

/** The algorithms that tokens can be signed by (RFC 7518 section 3.1, RFC 8037 section 3.1). */
export const signingAlgorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'] as const;
export type SigningAlgorithm = (typeof signingAlgorithms)[number];

/** What signs where nothing else is said: every client and every library knows it. */
export const usualAlgorithm = 'RS256';

/** config/server.json. */
export const ServerSettings = z.strictObject({
  $schema: schemaReference,
  Environment: z.enum(['Development', 'Production']).default('Production').meta({
    description:
      'Development admits demo accounts, demo secrets, plain secrets and keys made at the first start; only with a PublicUrl on this machine.',
  }),
  PublicUrl: z
    .string()
    .superRefine(checkPublicUrl)
    .meta({
      description:
        'The issuer: the URL, path included, under which everybody reaches the provider. No slash at its end; https unless it is on this machine.',
      examples: ['https://sso.example.com/SPSSMR/Oidc'],
    }),
  Listener: z
    .strictObject({
      Host: text()
        .default('127.0.0.1')
        .meta({ description: 'Address to listen on; 0.0.0.0 or :: for all of them.' }),
      Port: integer(0, 65_535)
        .default(5080)
        .meta({ description: 'TCP port to listen on; 0 takes any free one.' }),
      TrustedProxies: list(network()).default(['127.0.0.0/8', '::1']).meta({
        description:
          'Addresses and networks of the proxies in front, whose header X-Forwarded-For says where a request came from.',
      }),
      HeadersTimeoutSeconds: seconds(1, 3600).default(20).meta({
        description:
          'How long a connection may take to send the headers of a request, and to begin with the first one.',
      }),
      RequestTimeoutSeconds: seconds(1, 3600)
        .default(60)
        .meta({ description: 'How long a whole request may take to come, with its body.' }),
      MaxConnections: integer(1, 1_000_000).default(10_000).meta({
        description:
          'Connections that each process has at once; further ones are closed as they come. Each needs a file descriptor.',
      }),
      Tls: z
        .strictObject({
          CertificateFile: text().meta({
            description: 'PEM file with the certificate, and those between it and its authority.',
          }),
          KeyFile: text().meta({ description: 'PEM file with its private key.' }),
          Passphrase: SecretReference.optional().meta({
            description: 'Where the passphrase of the key is, if it is encrypted.',
          }),
        })
        .optional()
        .meta({
          description:
            'TLS without a proxy. A certificate that is renewed in its files is taken up within seconds. Files are relative to the folder that contains config/.',
        }),
    })
    .refine(
      ({ HeadersTimeoutSeconds, RequestTimeoutSeconds }) => HeadersTimeoutSeconds <= RequestTimeoutSeconds,
      { message: 'must not be less than HeadersTimeoutSeconds', path: ['RequestTimeoutSeconds'] },
    )
    .prefault({})
    .meta({ description: 'Where the server listens.' }),
  Management: z
    .strictObject({
      Host: text()
        .default('127.0.0.1')
        .meta({ description: 'Address to listen on. There is no sign-in: leave it to your own network.' }),
      Port: integer(0, 65_535).meta({ description: 'TCP port to listen on.' }),
    })
    .optional()
    .meta({
      description:
        'Where /health/live, /health/ready and /metrics (for Prometheus) are, apart from the users. Without it, nowhere.',
    }),
  Workers: integer(1, 128).default(1).meta({
    description: 'Processes that serve together on this machine, one for each core at most.',
  }),
  ShutdownDelaySeconds: seconds(0, 300).default(0).meta({
    description:
      'For how long a stop goes on to serve, not ready any more, so that proxies take their requests elsewhere.',
  }),
  ShutdownTimeoutSeconds: seconds(1, 3600)
    .default(25)
    .meta({ description: 'How long a stop then waits for requests in flight.' }),
  Mounts: list(z.enum(['Oidc', 'WsFed']))
    .refine((mounts) => mounts.length > 0, 'must contain Oidc or WsFed')
    .default(['Oidc', 'WsFed'])
    .meta({
      description:
        'The applications that this server runs: Oidc, the OpenID Connect provider, and WsFed, a WS-Federation identity provider with the same accounts.',
    }),
  WsFed: z
    .strictObject({
      PublicUrl: z.string().superRefine(checkPublicUrl).optional().meta({
        description:
          'The URL of the WsFed application, which is also its name as an issuer. Without it: PublicUrl with WsFed in place of its last part.',
      }),
    })
    .prefault({})
    .meta({ description: 'The WsFed application.' }),
  Database: z
    .strictObject({
      Client: z
        .enum(['sqlite', 'postgresql', 'sqlserver'])
        .default('sqlite')
        .meta({ description: 'The kind of database.' }),
      File: text()
        .default('data/postern.sqlite')
        .meta({ description: 'The SQLite file, relative to the folder that contains config/.' }),
      Connection: SecretReference.optional().meta({
        description:
          'Where the connection string is: postgresql://user:password@host/database, or Server=…;Database=…;User Id=…;Password=… for SQL Server. Not for sqlite.',
      }),
      CaFile: text().optional().meta({
        description:
          'PEM file with the certificates of the authorities that the certificate of the database server may be from, in place of those that Node knows; relative to the folder that contains config/. Not for sqlite.',
      }),
      Schema: text()
        .regex(/^[A-Za-z_][A-Za-z0-9_]{0,62}$/, 'must consist of letters, digits and _')
        .default('postern')
        .meta({
          description:
            'Database schema that holds our tables and nothing else. Not for sqlite, which has none.',
        }),
      PoolSize: integer(1, 1000).default(10).meta({
        description: 'Connections that each process may have at once. Not for sqlite, which has one.',
      }),
      Timeout: seconds(1, 300)
        .default(5)
        .meta({ description: 'How long connecting, and a statement, may take. Not for sqlite.' }),
    })
    .prefault({})
    .meta({ description: 'Where tokens and accounts are stored.' }),
  DataFolder: text().default('data').meta({
    description:
      'Folder for what the server makes itself, such as keys in Development; relative to the folder that contains config/.',
  }),
  ExpiredTokenCleanInterval: seconds(1, longestIntervalSeconds)
    .default(60)
    .meta({ description: 'Pause between two removals of expired tokens.' }),
  SessionLifetime: seconds()
    .default(36_000)
    .meta({ description: 'How long a sign-in lasts in the browser, from the moment of signing in.' }),
  InteractionLifetime: seconds()
    .default(3600)
    .meta({ description: 'How long a user may take to sign in before starting again.' }),
  EnableTokenValidationEndpoints: boolean().default(false).meta({
    description:
      'Whether connect/accessTokenValidation and connect/identityTokenValidation of IdentityServer3 are there. They tell what is in a token to whoever has it, without asking who that is.',
  }),
  LegacyErrors: boolean().default(false).meta({
    description:
      'Whether errors are as IdentityServer3 had them where the specifications differ: the token endpoint answers 400 to a client that cannot be authenticated, and prompt=none without consent answers interaction_required.',
  }),
  EnableWindowsLogin: boolean().default(false).meta({
    description:
      'Whether the WsFed application signs users in by Integrated Windows Authentication, as WindowsLogin says.',
  }),
  WindowsLogin: z
    .strictObject({
      Negotiate: z
        .strictObject({
          Keytab: text().meta({
            description:
              'Keytab with the key of HTTP/<host name>, relative to the folder that contains config/.',
          }),
        })
        .optional()
        .meta({
          description:
            'Postern itself accepts Kerberos tickets. Needs the package kerberos, and not Windows as the server.',
        }),
      Header: z
        .strictObject({
          Name: headerName()
            .default('X-Remote-User')
            .meta({ description: 'The header in which the proxy passes the Windows name.' }),
          SecretName: headerName()
            .default('X-Remote-Secret')
            .meta({ description: 'The header in which the proxy proves that it is the proxy.' }),
          Secrets: sharedSecrets().meta({
            description:
              'Where the secrets are that the proxy may send, at least 32 characters each. More than one while it changes.',
          }),
          From: list(network())
            .refine((addresses) => addresses.length > 0, 'must name the address of the proxy')
            .meta({ description: 'Addresses and networks that the proxy connects from.' }),
        })
        .optional()
        .meta({
          description: 'A proxy such as Apache authenticates the browser and passes the name in a header.',
        }),
      Ticket: z
        .strictObject({
          HandlerUrl: webUrl().meta({
            description:
              'URL of the handler behind the Windows authentication of IIS (deploy/iis/WinLogin), on the site of the WsFed application.',
          }),
          Secrets: sharedSecrets().meta({
            description:
              'Where the secrets are that the handler may sign with, at least 32 characters each. More than one while it changes.',
          }),
        })
        .optional()
        .meta({ description: 'IIS authenticates the browser, and a handler sends it back with a ticket.' }),
      Networks: list(network()).default([]).meta({
        description:
          'Addresses and networks of the browsers that are signed in by Windows; all others get the login page at once. Empty means all browsers.',
      }),
      Names: z
        .array(
          z.strictObject({
            From: namePattern().meta({
              description:
                'Windows name as it comes: user@REALM, or DOMAIN\\user. * stands for one part of it.',
            }),
            To: namePattern().meta({
              description: 'The Windows name or name of the account; * is what it stood for in From.',
            }),
          }),
        )
        .default([])
        .meta({
          description:
            'Rules from Windows names to accounts; the first that matches counts. Without one a name is looked up as it comes: first as the Windows name of an account, then as its name.',
        }),
      ProvisionAccounts: boolean().default(false).meta({
        description:
          'Whether somebody whose name has no account gets one at the first sign-in. Otherwise only accounts that are there can sign in.',
      }),
    })
    .refine(
      ({ Header, Negotiate, Ticket }) =>
        [Header, Negotiate, Ticket].filter((way) => way !== undefined).length === 1,
      'must have exactly one of Negotiate, Header and Ticket',
    )
    .optional()
    .meta({ description: 'How users are signed in by Windows, where EnableWindowsLogin is true.' }),
  OidcSigningCertificate: z
    .strictObject({
      ...keyProperties('RSA private key that signs tokens'),
      PublishedCertificateFiles: list(text()).default([]).meta({
        description:
          'PEM files with the certificates of keys that do not sign here and are published all the same: the next one ahead of its time, and the last one while tokens that it signed are good. A key is published by the name of its certificate, so this does not help for a key that signed without a certificate.',
      }),
    })
    .optional()
    .meta({
      description:
        'The signing key of tokens, the same on every node. Required outside Development, unless ManagedKeys is there. Files are relative to the folder that contains config/.',
    }),
  FurtherSigningKeys: z
    .array(
      z.strictObject({
        Algorithm: z.enum(signingAlgorithms).meta({
          description:
            'What it signs by: RS256 and PS256 need an RSA key, ES256 one of the curve P-256, ES384 of P-384, EdDSA of Ed25519.',
        }),
        ...keyProperties('private key'),
      }),
    )
    .default([])
    .meta({
      description:
        'Keys for algorithms other than RS256, which clients (IdTokenSigningAlgorithm) and resources (SigningAlgorithm) choose by name; of several for one algorithm the first signs. The same on every node. Files are relative to the folder that contains config/.',
    }),
  WsFedSigningCertificate: z
    .strictObject({
      ...keyProperties('RSA private key that signs assertions'),
      NextCertificateFile: text().optional().meta({
        description:
          'PEM file with the certificate of the next key: the metadata has it before the key signs.',
      }),
    })
    .optional()
    .meta({
      description:
        'The key that the WsFed application signs with, the same on every node. Required outside Development where WsFed is among Mounts. Relying parties pin it: it never renews itself. Files are relative to the folder that contains config/.',
    }),
  RefuseExpiredCertificates: boolean().default(false).meta({
    description:
      'Whether a certificate that has ended stops the start. Otherwise the log says so every day, and the server starts: a restart must not become an outage.',
  }),
  CookieKeys: z.array(SecretReference).min(1).optional().meta({
    description:
      'Where the keys are that sign cookies, at least 32 characters each, the same on every node. The first signs, all verify. Required outside Development, unless ManagedKeys is there.',
  }),
  ManagedKeys: z
    .strictObject({
      FurtherAlgorithms: z
        .array(z.enum(signingAlgorithms).exclude([usualAlgorithm]))
        .default([])
        .meta({
          description:
            'Algorithms that there is a key for beside RS256, which clients (IdTokenSigningAlgorithm) and resources (SigningAlgorithm) choose by name. One that is taken away ends the tokens that it has signed: wait until the last of them has expired. Its keys stay in the database until `postern keys revoke` takes them back.',
        }),
      RotationDays: integer(1, 3650, 'days').default(90).meta({
        description: 'For how long a key is in use before the next one is.',
      }),
      PublishDays: integer(1, 3650, 'days').default(14).meta({
        description: 'For how long a key is published before it is in use. Less than RotationDays.',
      }),
      KeepDays: integer(1, 3650, 'days').default(14).meta({
        description:
          'For how long a key is still published after its use; longer where a token that it may have signed is good for longer.',
      }),
    })
    .refine(({ PublishDays, RotationDays }) => PublishDays < RotationDays, {
      path: ['PublishDays'],
      message: 'must be less than RotationDays',
    })
    .optional()
    .meta({
      description:
        'The server makes the keys that sign tokens and cookies itself, keeps them encrypted in the database under DataProtectionKey, and exchanges them in time, on every node without a restart. OidcSigningCertificate, FurtherSigningKeys and CookieKeys beside it are those of before: they sign until the first managed key of their algorithm is in use, PublishDays after the change, and verify for as long as they are there. Not the key of the WsFed application, which relying parties pin.',
    }),
  DataProtectionKey: z
    .union([SecretReference, z.array(SecretReference).min(1)], {
      error: 'must be { "env": "NAME" } or { "file": "path" }, or a list of them',
    })
    .optional()
    .meta({
      description:
        'Where the secret is that managed keys are encrypted under in the database, at least 32 characters, the same on every node. Of several the first encrypts, all decrypt.',
    }),
  Directory: z
    .strictObject({
      Kind: z.enum(['ActiveDirectory', 'OpenLdap']).meta({
        description: 'What the directory is: Active Directory, or OpenLDAP and what behaves like it.',
      }),
      Urls: list(text().superRefine(checkDirectoryUrl))
        .refine((urls) => urls.length > 0, 'must contain at least one address')
        .meta({
          description:
            'Its hosts, as ldaps://dc1.example.com or, with StartTls, ldap://dc1.example.com. The next one is asked where one does not answer.',
        }),
      StartTls: boolean().default(false).meta({
        description:
          'Whether connections to ldap:// are encrypted by StartTLS before anything else is said. Without it ldap:// is for Development on this machine.',
      }),
      CaFile: text().optional().meta({
        description:
          "PEM file with the certificates that those of the hosts must come from, relative to the folder that contains config/. Without it, the operating system's and Node's own.",
      }),
      BindDn: directoryName().meta({
        description: 'The account that searches: its distinguished name.',
        examples: ['CN=postern,OU=Services,DC=example,DC=com'],
      }),
      BindPassword: SecretReference.meta({ description: 'Where the password of BindDn is.' }),
      BaseDn: directoryName().meta({
        description: 'Where users are searched, at any depth.',
        examples: ['DC=example,DC=com'],
      }),
      UserFilter: text()
        .superRefine(checkUserFilter)
        .optional()
        .meta({
          description:
            'The filter that finds a user, with {name} for what was typed. It also decides who may sign in, and go on. Without it: for ActiveDirectory persons by sAMAccountName or userPrincipalName, for OpenLdap (uid={name}).',
          examples: ['(&(objectClass=inetOrgPerson)(uid={name}))'],
        }),
      NameAttribute: attributeName().optional().meta({
        description:
          'The attribute that the account is named after. Without it: sAMAccountName, for OpenLdap uid.',
      }),
      Domain: text()
        .regex(
          /^(?!.*\.$)[A-Za-z0-9][A-Za-z0-9._-]{0,14}$/,
          'must be a NetBIOS name such as EXAMPLE: 15 characters at the most, without backslash or dot at the end',
        )
        .optional()
        .meta({
          description:
            'The NetBIOS name of the domain: accounts are then named DOMAIN\\user, whether a user types user or DOMAIN\\user. Without it, accounts are named user.',
        }),
      GroupBaseDn: directoryName().optional().meta({
        description:
          'Where the groups are searched, at any depth, that become the roles of accounts, nested ones too. Without it, groups are not read, and roles are what the account has here.',
      }),
      RoleAttribute: attributeName()
        .default('cn')
        .meta({ description: 'The attribute of a group whose value is the role.' }),
      Timeout: seconds(1, 60)
        .default(5)
        .meta({ description: 'How long one host may take for everything that one question needs.' }),
      ProvisionAccounts: boolean().default(true).meta({
        description:
          'Whether somebody whose name has no account gets one at the first sign-in. Otherwise only accounts that are there can sign in.',
      }),
      DirectoryDown: z.enum(['Allow', 'Deny']).default('Allow').meta({
        description:
          'What becomes of refresh, introspection and single sign-on while no host answers: Allow goes on for as long as DirectoryDownMaxAge, Deny refuses. Signing in always waits for the directory.',
      }),
      DirectoryDownMaxAge: seconds().default(14_400).meta({
        description: 'With Allow: how long ago the directory must have said that the account is good.',
      }),
    })
    .optional()
    .meta({
      description:
        'A directory, Active Directory or OpenLDAP, whose users sign in with their password there. See docs/directory.md.',
    }),
  PasswordVerifier: z
    .strictObject({
      Url: webUrl()
        .refine((value) => {
          const url = URL.parse(value);
          return url === null || url.protocol === 'https:' || isLoopback(url);
        }, 'must be https, since it is not an address of this machine')
        .refine((value) => {
          const url = URL.parse(value);
          return url === null || (url.username === '' && url.password === '');
        }, 'must not contain a user name or a password; Secret is what it knows this server by')
        .meta({
          description: 'The address that gets a name and a password, and answers whether they match.',
        }),
      Secret: SecretReference.meta({
        description: 'Where the secret is that it knows this server by, sent as a bearer token.',
      }),
      Timeout: seconds(1, 60).default(5).meta({ description: 'How long it may take to answer.' }),
      ProvisionAccounts: boolean().default(true).meta({
        description:
          'Whether somebody whose name has no account gets one at the first sign-in. Otherwise only accounts that are there can sign in.',
      }),
    })
    .optional()
    .meta({
      description:
        'An endpoint of your own that verifies passwords, for a store of users that nothing else can read. See docs/directory.md.',
    }),
  Passwords: z
    .strictObject({
      MinimumLength: integer(8, 128).default(8).meta({
        description:
          'How many characters a new password has at least, of any kind; 256 at the most. NIST SP 800-63B asks for 15 where it is the only factor.',
      }),
      RefuseCommon: boolean().default(true).meta({
        description: 'Whether a new password must not be one of the 18 000 commonest, in any case.',
      }),
      ContextWords: list(text()).default([]).meta({
        description:
          'Words that a new password must not mainly consist of, such as the name of your organisation; beside the name of the account and Branding.Name.',
      }),
      History: integer(0, 24).default(0).meta({
        description:
          'How many passwords before the present one may not be chosen again. Their hashes are kept for it.',
      }),
      Argon2: z
        .strictObject({
          Memory: integer(7168, 262_144).default(19_456).meta({ description: 'Memory for a hash, in KiB.' }),
          Passes: integer(1, 16).default(2).meta({ description: 'How often it is gone through.' }),
          Parallelism: integer(1, 16).default(1).meta({ description: 'How many lanes it has.' }),
        })
        .prefault({})
        .meta({
          description:
            'What a hash of a password costs (argon2id). After a change each hash is made anew at the next sign-in by it.',
        }),
    })
    .prefault({})
    .meta({
      description:
        'The passwords of accounts of this server itself; a directory has its own rules. See docs/passwords.md.',
    }),
  Guessing: z
    .strictObject({
      ExemptNetworks: list(network()).default([]).meta({
        description:
          'Addresses and networks behind which many users or programs stand, such as that of an application that signs its users in by the flow ResourceOwner: wrong passwords from there are counted by account alone.',
      }),
    })
    .prefault({})
    .meta({
      description: 'How wrong passwords and secrets are counted. See docs/passwords.md.',
    }),
  OutgoingProxy: webUrl().optional().meta({
    description: 'Proxy for the calls that the server makes itself, such as http://proxy.example.com:3128.',
  }),
  OutgoingProxyExceptions: list(hostPattern()).default([]).meta({
    description: 'Hosts that are called without the proxy, written as OutgoingAllowedHosts.',
  }),
  OutgoingAllowedHosts: list(hostPattern()).default([]).meta({
    description:
      'Hosts in private networks that calls of the server may reach beside those that the config files name: names, names that begin with *., addresses, or networks such as 10.0.0.0/8. Everything else there is refused.',
  }),
  Branding: z
    .strictObject({
      Name: text().default('Postern').meta({ description: 'Name at the head of every page.' }),
      LogoFile: text().optional().meta({
        description: 'Picture shown in place of the name, relative to the folder that contains config/.',
      }),
      AccentColor: color().optional().meta({ description: 'Colour of buttons and links, as #rrggbb.' }),
      AccentColorDark: color().optional().meta({ description: 'The same where the system is set to dark.' }),
      Language: text().default('en').meta({
        description:
          'Language of the pages for whom neither the request (ui_locales) nor the browser asks for one that is there: en, de, or a file in config/languages/. See languages.md.',
      }),
    })
    .prefault({})
    .meta({ description: 'How the pages look.' }),
  Audit: z
    .strictObject({
      To: z.enum(['none', 'stdout', 'folder', 'syslog']).default('none').meta({
        description:
          'Where the audit log goes: folder has a file a day, stdout is for whoever collects the lines of a container, syslog sends it to a collector. The log has the same events in any case.',
      }),
      Folder: text().default('data/audit').meta({
        description: 'Where the files of the days are; relative to the folder that contains config/.',
      }),
      KeepDays: integer(1, 3650).default(365).meta({ description: 'After how many days a file is removed.' }),
      Syslog: z
        .strictObject({
          Host: text().meta({ description: 'Name or address of the collector.' }),
          Port: integer(1, 65_535).optional().meta({
            description: 'Its port. Without it 6514 for tls, else 514.',
          }),
          Protocol: z.enum(['tls', 'tcp', 'udp']).default('tls').meta({
            description:
              'tls as in RFC 5425, tcp with octet counting (RFC 6587), or udp (RFC 5426), which loses records without a word.',
          }),
          Facility: z
            .enum(Object.keys(facilities) as (keyof typeof facilities)[])
            .default('authpriv')
            .meta({ description: 'The facility of the records; audit is "log audit", 13.' }),
          CaFile: text().optional().meta({
            description:
              "PEM file with the certificates that that of the collector must come from, relative to the folder that contains config/. Without it, the operating system's and Node's own.",
          }),
        })
        .optional()
        .meta({ description: 'The collector, where To is syslog.' }),
    })
    .prefault({})
    .meta({
      description:
        'The audit log: every sign-in, token, refusal, revocation, administrative act and change of the configuration, one JSON object a line. See audit.md.',
    }),
  Tracing: z
    .strictObject({
      Endpoint: webUrl()
        .refine((value) => {
          const url = URL.parse(value);
          return url === null || (url.username === '' && url.password === '');
        }, 'must not contain a user name or a password')
        .meta({
          description: 'The address of the collector that takes spans by OTLP/HTTP, in JSON.',
          examples: ['http://localhost:4318/v1/traces'],
        }),
      SamplingRatio: z.number().min(0).max(1).default(1).meta({
        description:
          'Which part of the requests is traced, from 0 to 1. Whoever passes on a traceparent has decided already.',
      }),
      ServiceName: text().default('postern').meta({ description: 'service.name of the spans.' }),
      PropagateTo: list(hostPattern()).default([]).meta({
        description:
          'Hosts that are told of the trace (traceparent) when the server calls them, written as OutgoingAllowedHosts.',
      }),
    })
    .optional()
    .meta({
      description:
        'OpenTelemetry traces: a span for each request, statement, outgoing call and password. Without it there are none. See operations.md.',
    }),
  Log: z
    .strictObject({
      Level: z
        .enum(['debug', 'info', 'warn', 'error', 'silent'])
        .default('info')
        .meta({ description: 'The least level that is written. A change takes effect without a restart.' }),
      Format: z
        .enum(['json', 'text'])
        .default('json')
        .meta({ description: 'json for machines, text for a person at a terminal.' }),
    })
    .prefault({})
    .meta({ description: 'What the server writes to its standard output.' }),
});
export type ServerSettings = z.output<typeof ServerSettings>;

/** Where shared secrets are, so that one can be exchanged for the next without an interruption. */
function sharedSecrets() {
  return z.array(SecretReference).min(1);
}

function headerName() {
  return text().regex(/^[A-Za-z0-9-]+$/, 'must consist of letters, digits and hyphens');
}

function namePattern() {
  return text()
    .max(255)
    .refine((pattern) => pattern.split('*').length <= 2, 'may have one * at most');
}

function network() {
  return text().refine((value) => {
    const [address = '', prefix, ...more] = value.split('/');
    const version = isIP(address);
    if (version === 0 || more.length > 0) return false;
    return prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= (version === 4 ? 32 : 128));
  }, 'must be an address or a network, such as 10.1.2.3 or 10.0.0.0/8');
}

function attributeName() {
  return text().regex(/^[A-Za-z][A-Za-z0-9-]*$/, 'must be the name of an attribute, such as uid');
}

function directoryName() {
  return text().regex(/^[^=,]+=./, 'must be a distinguished name, such as DC=example,DC=com');
}

function checkDirectoryUrl(value: string, context: z.RefinementCtx): void {
  const url = URL.parse(value);
  const isBare = url !== null && !/[?#@]/.test(value) && /^(\/|)$/.test(url.pathname) && url.hostname !== '';
  if (isBare && /^ldaps?:$/.test(url.protocol) && url.port !== '0') return;
  const message = 'must be ldaps:// or ldap:// with a host, and a port where it is another than usual';
  context.addIssue({ code: 'custom', message });
}

function checkUserFilter(value: string, context: z.RefinementCtx): void {
  const problem = !value.includes('{name}')
    ? 'must contain {name}, which stands for what was typed'
    : value
          .split('{name}')
          .slice(0, -1)
          .every((before) => /[\w-]=[^()]*$/.test(before))
      ? undefined
      : 'must compare {name} by = alone, as in (uid={name})';
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
}

function hostPattern() {
  return text().regex(
    /^((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9.]+(\/\d{1,2})?|\[?[0-9a-f:.]+\]?(\/\d{1,3})?)$/i,
    'must be a name, an address or a network, such as sso.example.com, *.example.com or 10.0.0.0/8',
  );
}

function color() {
  return z.string().regex(/^#[0-9a-f]{6}$/i, 'must be a colour as #rrggbb');
}

function checkPublicUrl(value: string, context: z.RefinementCtx): void {
  const problem = findPublicUrlProblem(value);
  if (problem !== undefined) {
    const { message, instead } = problem;
    context.addIssue({
      code: 'custom',
      message,
      ...(instead === undefined ? undefined : { params: { hint: `write ${instead}` } }),
    });
  }
}

function findPublicUrlProblem(value: string): { message: string; instead?: string } | undefined {
  const url = URL.parse(value);
  if (url === null || !/^https?:\/\//.test(value))
    return { message: 'must be an absolute http or https URL' };
  if (/[?#]/.test(value)) return { message: 'must have neither query nor fragment' };
  if (url.username !== '' || url.password !== '') {
    return { message: 'must not contain a user name or a password' };
  }
  if (value.endsWith('/')) {
    return { message: 'must not end with a slash', instead: value.replace(/\/+$/, '') };
  }
  if (url.protocol === 'http:' && !isLoopback(url)) {
    const message = 'must be https, since it is not an address of this machine';
    return { message, instead: `https${value.slice(4)}` };
  }
  // Clients compare the issuer character by character.
  const normal = url.href.replace(/\/$/, '');
  return normal === value ? undefined : { message: 'is not written in its normal form', instead: normal };
}

/** Whether a URL names this machine itself, by a name or an address that cannot mean another. Pure. */
export function isLoopback({ hostname }: Pick<URL, 'hostname'>): boolean {
  return /^(localhost|[a-z0-9.-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(hostname);
}

const flows = {
  AuthorizationCode: 0,
  Implicit: 1,
  Hybrid: 2,
  ClientCredentials: 3,
  ResourceOwner: 4,
  Custom: 5,
  AuthorizationCodeWithProofKey: 6,
  HybridWithProofKey: 7,
} as const;
const supportedFlows = [
  'AuthorizationCode',
  'AuthorizationCodeWithProofKey',
  'ResourceOwner',
  'ClientCredentials',
  'Implicit',
  'Hybrid',
  'HybridWithProofKey',
] as const;
/** Flows in which a browser carries the user here and back. */
const interactiveFlows: ReadonlySet<string> = new Set([
  ...['AuthorizationCode', 'AuthorizationCodeWithProofKey', 'Implicit', 'Hybrid', 'HybridWithProofKey'],
]);
/** Those of them in which something else than a code comes back in the address, for clients that still have them. */
const frontChannelFlows: ReadonlySet<string> = new Set(['Implicit', 'Hybrid', 'HybridWithProofKey']);

/** True for the flows with a browser. */
export function isInteractiveFlow(flow: string): boolean {
  return interactiveFlows.has(flow);
}

/** True for the flows whose answers hold tokens (RFC 9700 section 2.1.2 advises against them). */
export function isFrontChannelFlow(flow: string): boolean {
  return frontChannelFlows.has(flow);
}

const onlyDefault = 'Only the default is accepted so far.';

/** config/clients/<ClientId>.json: a client, in the words of DPM and IdentityServer3. */
export const ClientRegistration = z.strictObject({
  $schema: schemaReference,
  Enabled: boolean()
    .default(true)
    .meta({ description: 'Whether the client may be used. Tokens of a disabled client are inactive.' }),
  ClientId: text()
    .max(100)
    .regex(/^[\x20-\x7e]+$/, 'must consist of printable ASCII characters')
    .optional()
    .meta({
      description:
        "The client's id, where the file's name cannot say it. Without it, the id is the file's name without .json.",
    }),
  ClientSecrets: z.array(Secret).default([]).meta({
    description:
      'The secrets that the client may present, any of them. A client of the flow AuthorizationCodeWithProofKey may have none: it is then a public client.',
  }),
  ClientName: text().optional().meta({ description: 'Name shown to users. Without it, the client id.' }),
  ClientUri: webUrl()
    .optional()
    .meta({ description: 'Page about the client; the way back from an error page.' }),
  LogoUri: webUrl().optional().meta({ description: "The client's logo, for the consent page." }),
  RequireConsent: boolean()
    .default(false)
    .meta({ description: 'Whether users are asked before the client gets anything.' }),
  AllowRememberConsent: boolean()
    .default(true)
    .meta({ description: 'Whether users may let their consent be remembered.' }),
  Flow: numbered(flows, supportedFlows)
    .pipe(z.enum(supportedFlows, { error: ({ input }) => `Flow ${String(input)} is not supported yet` }))
    .register(traits, { refused: 'Custom is not supported yet.' })
    .meta({
      description:
        'How the client gets tokens: AuthorizationCode (users in a browser, and the client can keep a secret), AuthorizationCodeWithProofKey (users in a browser, with PKCE), ResourceOwner (the client asks for name and password itself; discouraged), ClientCredentials (a computer, without a user). Implicit, Hybrid and HybridWithProofKey are for clients that still have them: tokens come back in the address of the browser.',
    }),
  AllowClientCredentialsOnly: boolean()
    .default(false)
    .meta({ description: 'Whether an interactive client with a secret may use client credentials as well.' }),
  RedirectUris: list(text()).default([]).meta({
    description:
      'Where users may be sent back to, compared exactly. https; http on this machine only; for Native also a scheme of its own. Required for the interactive flows.',
  }),
  PostLogoutRedirectUris: list(text())
    .default([])
    .meta({ description: 'Where users may be sent after signing out; written as RedirectUris.' }),
  LogoutUri: emptyIsAbsent(webUrl()).meta({
    description:
      'Page of the client that ends its session; loaded in a frame when the user signs out (front-channel logout).',
  }),
  LogoutSessionRequired: boolean().default(true).meta({
    description: 'Whether LogoutUri is told which session ends (iss and sid).',
  }),
  BackChannelLogoutUri: emptyIsAbsent(webUrl()).meta({
    description:
      'Where the client is told by a call of the server that a session has ended (back-channel logout).',
  }),
  BackChannelLogoutSessionRequired: boolean().default(true).meta({
    description: 'Whether that call tells which session has ended (sid).',
  }),
  RequireSignOutPrompt: boolean()
    .default(false)
    .meta({ description: 'Whether users are always asked before they are signed out.' }),
  AllowAccessToAllScopes: notYet('AllowAccessToAllScopes', boolean(), (value) => !value)
    .default(false)
    .register(traits, { refused: onlyDefault })
    .meta({ description: 'Whether the client may have every scope.' }),
  AllowedScopes: list(text()).default([]).meta({
    description:
      'The scopes that the client may ask for: openid, profile, email, phone, address, roles, offline_access (refresh tokens), and scopes of resources. Empty means none.',
  }),
  IdentityTokenLifetime: seconds().default(300).meta({ description: 'Lifetime of an ID token.' }),
  AccessTokenLifetime: seconds().default(3600).meta({ description: 'Lifetime of an access token.' }),
  AuthorizationCodeLifetime: seconds()
    .default(60)
    .meta({ description: 'Lifetime of an authorization code.' }),
  AbsoluteRefreshTokenLifetime: seconds(0).default(2_592_000).meta({
    description:
      'Longest lifetime of a refresh token and its successors, from the sign-in. 0 with RefreshTokenExpiration Sliding: no end while they are used (ten years at the most).',
  }),
  SlidingRefreshTokenLifetime: seconds().default(1_296_000).meta({
    description: 'With RefreshTokenExpiration Sliding: lifetime of a refresh token from its last use.',
  }),
  RefreshTokenUsage: numbered({ ReUse: 0, OneTimeOnly: 1 }).default('OneTimeOnly').meta({
    description: 'Whether a refresh token stays the same (ReUse) or is replaced at each use (OneTimeOnly).',
  }),
  RefreshTokenExpiration: numbered({ Sliding: 0, Absolute: 1 }).default('Absolute').meta({
    description:
      'Absolute: refresh tokens end AbsoluteRefreshTokenLifetime after the sign-in. Sliding: each use prolongs them by SlidingRefreshTokenLifetime, up to the same end.',
  }),
  RefreshTokenGraceSeconds: seconds(0).default(30).meta({
    description:
      'With OneTimeOnly: how long a replaced refresh token, sent again, still gets the same successor.',
  }),
  UpdateAccessTokenClaimsOnRefresh: boolean().default(false).meta({
    description:
      'Whether the claims about account and client in an access token are read anew at each refresh. false: they stay as they were at the sign-in.',
  }),
  IdTokenSigningAlgorithm: z.enum(signingAlgorithms).default(usualAlgorithm).meta({
    description:
      'What ID tokens are signed by. Any other than RS256 needs a key in FurtherSigningKeys of server.json.',
  }),
  AccessTokenType: numbered({ Jwt: 0, Reference: 1 }).default('Jwt').meta({
    description:
      'Jwt: resources can verify the token by themselves. Reference: an opaque token that resources introspect; recommended, since it ends at once when it is revoked.',
  }),
  EnableLocalLogin: boolean().default(false).meta({
    description:
      'Whether users sign in with name and password here. ResourceOwner and ClientCredentials need true.',
  }),
  IdentityProviderRestrictions: list(text()).default([]).meta({
    description:
      'Names of the only identity providers that users may choose. Empty means all of them; local alone means none but the login page.',
  }),
  RequireMfa: boolean().default(false).meta({
    description:
      'Whether users must have signed in with more than one factor, which only an identity provider can vouch for so far (MfaValues).',
  }),
  IncludeJwtId: boolean()
    .default(false)
    .meta({ description: 'Whether access tokens carry a jti. In the layout Rfc9068 JWTs always do.' }),
  Claims: z
    .array(
      z.strictObject({
        Type: text().meta({ description: 'Name of the claim.' }),
        Value: z.string().meta({ description: 'Its value.' }),
      }),
    )
    .default([])
    .meta({
      description:
        'Claims about the client for its access tokens: for those without a user, and with AlwaysSendClientClaims for all.',
    }),
  AlwaysSendClientClaims: boolean()
    .default(false)
    .meta({ description: 'Whether Claims are sent when there is a user, too.' }),
  PrefixClientClaims: boolean()
    .default(true)
    .meta({ description: 'Whether the names of Claims begin with client_ in the token.' }),
  AllowAccessToAllCustomGrantTypes: notYet('AllowAccessToAllCustomGrantTypes', boolean(), (value) => !value)
    .default(false)
    .register(traits, { refused: onlyDefault })
    .meta({ description: 'Whether the client may use every custom grant type.' }),
  AllowedCustomGrantTypes: notYet('AllowedCustomGrantTypes', list(text()), (value) => value.length === 0)
    .default([])
    .register(traits, { refused: 'Only an empty list is accepted so far.' })
    .meta({ description: 'The custom grant types that the client may use.' }),
  AllowedCorsOrigins: list(text().superRefine(checkOrigin)).default([]).meta({
    description:
      'Origins of web pages whose scripts may call the token and userinfo endpoints, such as https://app.example.com.',
  }),
  AllowAccessTokensViaBrowser: boolean().default(true).meta({
    description:
      'With the flows Implicit, Hybrid and HybridWithProofKey: whether an access token may come back in the address of the browser, too.',
  }),
  RequirePkce: boolean().optional().meta({
    description:
      'Whether a request for a code must use PKCE (S256). Without it: true for AuthorizationCodeWithProofKey, else false. false on a client without a secret admits the oldest clients, with redirects on this machine only.',
  }),
  ApplicationType: z.enum(['Web', 'Native']).default('Web').meta({
    description: "Native: a program on the user's machine; the port of its http redirect may differ.",
  }),
  ClientCredentialsSubject: z.enum(['None', 'Account']).default('None').meta({
    description:
      'With the flow ClientCredentials: whether tokens have no subject (None), or the account that is named like the client (Account), which then cannot sign in interactively.',
  }),
});
export type ClientRegistration = z.output<typeof ClientRegistration>;

function checkOrigin(value: string, context: z.RefinementCtx): void {
  const url = URL.parse(value);
  if (url?.origin === value && /^https?:$/.test(url.protocol)) return;
  const origin = url !== null && /^https?:$/.test(url.protocol) ? url.origin : undefined;
  context.addIssue({
    code: 'custom',
    message: 'must be an origin: scheme, host and port, nothing else',
    ...(origin === undefined ? undefined : { params: { hint: `write ${origin}` } }),
  });
}

const ScopeName = z
  .string()
  // RFC 6749 section 3.3.
  .regex(
    /^[\x21\x23-\x5b\x5d-\x7e]+$/,
    'must consist of printable ASCII characters without blanks, " and \\',
  );

/** config/resources/<Name>.json: a protected API. */
export const ResourceRegistration = z.strictObject({
  $schema: schemaReference,
  Enabled: boolean()
    .default(true)
    .meta({ description: 'Whether the resource exists for clients and may introspect.' }),
  DisplayName: text()
    .optional()
    .meta({ description: 'Name shown to users. Without it, the name of the file.' }),
  Audience: text().optional().meta({
    description:
      'The aud of access tokens for the resource. Without it: <PublicUrl>/resources for the layout IdentityServer3, else the name of the resource.',
  }),
  TokenLayout: z.enum(['IdentityServer3', 'IdentityServer4', 'Rfc9068']).default('IdentityServer3').meta({
    description: 'Which names and forms the claims of access tokens have.',
  }),
  SigningAlgorithm: z.enum(signingAlgorithms).default(usualAlgorithm).meta({
    description:
      'What access tokens in the form of a JWT are signed by. Any other than RS256 needs a key in FurtherSigningKeys.',
  }),
  Scopes: z
    .array(
      z.strictObject({
        Name: ScopeName.meta({ description: 'The scope as clients ask for it; unique among all resources.' }),
        DisplayName: text().optional().meta({ description: 'Name on the consent page. Without it, Name.' }),
        Description: z
          .string()
          .optional()
          .meta({ description: 'What the scope allows, for the consent page.' }),
        Required: boolean()
          .default(false)
          .meta({ description: 'Whether it cannot be deselected on the consent page.' }),
        Emphasize: boolean().default(false).meta({ description: 'Whether the consent page stresses it.' }),
        ShowInDiscoveryDocument: boolean()
          .default(true)
          .meta({ description: 'Whether the discovery document lists it.' }),
        Claims: list(text()).default([]).meta({
          description:
            'Claims of the account that access tokens with this scope carry, such as name, email or role.',
        }),
      }),
    )
    .min(1)
    .optional()
    .meta({
      description: 'The scopes that belong to the resource. Without it, one that is named like the resource.',
    }),
  Secrets: z.array(Secret).default([]).meta({
    description:
      'The secrets of the resource at the introspection endpoint, where its name is its user name.',
  }),
  AllowUnrestrictedIntrospection: boolean().default(false).meta({
    description:
      'Whether the resource sees all scopes of a token that has one of its own, not its own alone.',
  }),
});
export type ResourceRegistration = z.output<typeof ResourceRegistration>;

/** A path of ours that an identity provider sends its answers to. */
function callbackPath() {
  return text()
    .regex(
      /^(\/|(\/[A-Za-z0-9._~-]+)+)$/,
      'must be / or a path such as /callback/wsfed/Name, without query and slash at its end',
    )
    .optional();
}

/** What identity providers of every kind have. */
const providerProperties = {
  $schema: schemaReference,
  Enabled: boolean().default(true).meta({ description: 'Whether users can sign in through it.' }),
  Caption: z.string().default('').meta({
    description:
      'Label of its button. Without one it is not offered, but still reachable by acr_values=idp:<Name>.',
  }),
  Domains: list(text().regex(/^[a-z0-9-]+(\.[a-z0-9-]+)+$/i, 'must be a domain such as example.com'))
    .default([])
    .meta({
      description:
        'Mail domains of its users: who types a name that ends with @ and one of them is sent there. They also limit which e-mail addresses it may vouch for as a name.',
    }),
  AllowedAccounts: list(text()).default([]).meta({
    description:
      'The accounts that it may vouch for, by name; * stands for any characters. Empty means all of them.',
  }),
  ProvisionAccounts: boolean().default(false).meta({
    description:
      'Whether somebody whose name has no account gets one at the first sign-in. Otherwise only accounts that are there can sign in.',
  }),
  ClaimMapping: z.record(text(), text()).default({}).meta({
    description:
      'With ProvisionAccounts: which claim of the identity provider becomes which of the account, as { "email": "emailaddress" }. name, email and role fill the display name, the e-mail address and the roles.',
  }),
  ForwardLoginHint: boolean().default(false).meta({
    description: 'Whether the login_hint of a client, or the name that a user typed, is passed on to it.',
  }),
  SignOut: boolean().default(true).meta({
    description: 'Whether signing out here goes on to it.',
  }),
  CallbackPath: callbackPath().meta({
    description:
      'Path under PublicUrl that takes its answers; / for PublicUrl itself, in WS-Federation. Without it: /callback/oidc/<Name> or /callback/wsfed/<Name>.',
  }),
};

function mfaValues(...values: string[]) {
  return list(text()).default(values).meta({
    description:
      'What it says of a sign-in with more than one factor: values of amr or acr, or of the authentication method. For clients with RequireMfa.',
  });
}

const WsFedProvider = z.strictObject({
  ...providerProperties,
  Type: z.literal('WsFed').meta({ description: 'A WS-Federation identity provider.' }),
  MetadataAddress: webUrl().optional().meta({
    description:
      'URL of its federation metadata, as this server reaches it. Without it: our own WsFed application.',
  }),
  Wtrealm: text().default('urn:intelligence').meta({ description: 'The realm under which it knows us.' }),
  Wreply: webUrl().optional().meta({
    description:
      'Where it is told to send its answer, if that is not the callback under PublicUrl. Not sent at all where SendWreply is false.',
  }),
  SendWreply: boolean().default(true).meta({
    description: 'Whether the request names the address for the answer (wreply).',
  }),
  UserNameClaims: list(text()).default(['windowsaccountname', 'upn', 'nameidentifier', 'name']).meta({
    description:
      'The claims that may hold the name of the account, the first that is there counts: short names of WS-Federation (windowsaccountname, upn, nameidentifier, name, emailaddress) or whole URIs.',
  }),
  MfaValues: mfaValues('http://schemas.microsoft.com/claims/multipleauthn'),
  DecryptionKeys: z
    .array(
      z.strictObject({
        KeyFile: text().meta({ description: 'PEM file with the RSA private key.' }),
        Passphrase: SecretReference.optional().meta({
          description: 'Where the passphrase of the key is, if it is encrypted.',
        }),
      }),
    )
    .default([])
    .meta({
      description:
        'The keys for encrypted assertions. Without one they are refused. Files are relative to the folder that contains config/.',
    }),
  AllowCbc: boolean().default(false).meta({
    description: 'Whether assertions may be encrypted by AES-CBC, as AD FS does.',
  }),
  AllowSha1: boolean().default(false).meta({
    description: 'Whether signatures may use SHA-1, for identity providers that know nothing else.',
  }),
});

const OidcProvider = z.strictObject({
  ...providerProperties,
  Type: z.literal('Oidc').meta({ description: 'An OpenID Connect identity provider.' }),
  Authority: webUrl().meta({
    description: 'Its issuer; /.well-known/openid-configuration is read beneath it.',
  }),
  MetadataAddress: webUrl().optional().meta({
    description: 'Where its metadata is, if not beneath Authority.',
  }),
  RequireHttpsMetadata: boolean().default(true).meta({
    description: 'Whether its addresses must be https unless they are on this machine.',
  }),
  ClientId: text().meta({ description: 'Our client id at the provider.' }),
  ClientSecret: SecretReference.optional().meta({ description: 'Where our secret at the provider is.' }),
  ClientAuthentication: z.enum(['client_secret_basic', 'client_secret_post']).optional().meta({
    description:
      'How the secret is sent to the token endpoint. Without it: the first of these that the provider says it supports.',
  }),
  Scope: list(ScopeName).default(['openid', 'profile']).meta({ description: 'The scopes that we ask for.' }),
  ResponseType: z.enum(['code', 'code id_token', 'id_token']).default('code').meta({
    description: 'What the provider answers with.',
  }),
  ResponseMode: z.enum(['query', 'form_post']).optional().meta({
    description: 'How the answer comes. Without it: query for code, form_post for the others.',
  }),
  UsePkce: boolean().default(true).meta({ description: 'Whether codes are protected by PKCE.' }),
  GetClaimsFromUserInfo: boolean().default(false).meta({
    description: 'Whether claims are read from the userinfo endpoint as well as from the ID token.',
  }),
  UserNameClaims: list(text())
    .refine((names) => names.length > 0, 'must name at least one claim')
    .meta({
      description:
        'The claims that may hold the name of the account, the first that is there counts. There is no default, since what a user can edit there (such as name) would let anybody become anybody. email counts only with email_verified and a domain of Domains.',
    }),
  MfaValues: mfaValues('mfa'),
});

/** config/providers/<Name>.json: an identity provider. */
export const ProviderRegistration = z.discriminatedUnion('Type', [WsFedProvider, OidcProvider], {
  error: 'Type must be one of WsFed, Oidc',
});
export type ProviderRegistration = z.output<typeof ProviderRegistration>;

/** config/relying-parties/<Name>.json: an application that signs its users in at the WsFed application. */
export const RelyingPartyRegistration = z.strictObject({
  $schema: schemaReference,
  Enabled: boolean().default(true).meta({ description: 'Whether its users can sign in.' }),
  Caption: text().optional().meta({
    description: 'Name shown to users. Without it, the name of the file.',
  }),
  Realm: text().meta({
    description: 'Its identifier: what it sends as wtrealm, and the audience of assertions.',
  }),
  ReplyUrls: list(
    webUrl().refine((value) => {
      const url = URL.parse(value);
      return url === null || (url.hash === '' && url.username === '' && url.password === '');
    }, 'must have no fragment, user name or password'),
  )
    .refine((urls) => urls.length > 0, 'must contain at least one address')
    .meta({
      description:
        'Where answers may be posted to, compared exactly. The first is used where a request names none (wreply).',
    }),
  PostLogoutRedirectUris: list(webUrl()).default([]).meta({
    description: 'Where users may be sent after signing out, beside ReplyUrls; compared without the query.',
  }),
  TokenType: z.enum(['Saml11', 'Saml20']).default('Saml20').meta({ description: 'The version of SAML.' }),
  TokenLifetime: seconds(1, 86_400).default(3600).meta({ description: 'How long an assertion is valid.' }),
  Claims: list(text())
    .default(['name', 'nameidentifier', 'windowsaccountname', 'upn', 'emailaddress', 'role'])
    .meta({
      description:
        'The claims that it gets, by short names of WS-Federation or by names of claims of the account; those that the account has.',
    }),
  EncryptionCertificateFile: text().optional().meta({
    description:
      'PEM file with its certificate: assertions (Saml20) are then encrypted for it. Relative to the folder that contains config/.',
  }),
});
export type RelyingPartyRegistration = z.output<typeof RelyingPartyRegistration>;

/** One entry of config/accounts.json. */
export const DemoAccount = z.strictObject({
  Name: text().meta({ description: 'The name to sign in with; also the sub of tokens.' }),
  DisplayName: text().optional().meta({ description: 'The name shown. Without it, Name.' }),
  Email: text().optional().meta({ description: 'E-mail address.' }),
  Password: text()
    .optional()
    .meta({ description: 'The password. Without one the account cannot sign in by name and password.' }),
  WindowsName: text()
    .regex(/^[^\\]+\\[^\\]+$/, 'must be of the form DOMAIN\\user')
    .optional()
    .meta({ description: 'The Windows account of the user, as DOMAIN\\user.' }),
  Roles: z.array(text()).optional().meta({ description: 'Values of the claim role.' }),
  Claims: z
    .record(
      text(),
      z.union([z.string(), z.array(z.string())], { error: 'must be a text or a list of texts' }),
    )
    .optional()
    .meta({ description: 'Further claims, each a text or a list of texts.' }),
  MustChangePassword: boolean()
    .optional()
    .meta({ description: 'Whether the password must be changed at the next sign-in.' }),
  Disabled: boolean().optional().meta({ description: 'Whether the account cannot sign in.' }),
});
export type DemoAccount = z.output<typeof DemoAccount>;

/** config/accounts.json. */
export const DemoAccounts = z.strictObject({
  $schema: schemaReference,
  Accounts: z.array(DemoAccount).default([]).meta({ description: 'The accounts.' }),
});
export type DemoAccounts = z.output<typeof DemoAccounts>;

/** The scope that lets a client have refresh tokens (OpenID Connect Core section 11). */
export const offlineAccess = 'offline_access';

/** The scopes of identity and their claims (OpenID Connect Core section 5.4), and `roles` as IdentityServer has it. */
export const identityScopes: Readonly<Record<string, { readonly claims: readonly string[] }>> = Object.assign(
  Object.create(null),
  {
    // Without a prototype: `'constructor' in identityScopes` is false.
    openid: { claims: ['sub'] },
    profile: {
      claims: [
        'name',
        'family_name',
        'given_name',
        'middle_name',
        'nickname',
        'preferred_username',
        'profile',
        'picture',
        'website',
        'gender',
        'birthdate',
        'zoneinfo',
        'locale',
        'updated_at',
      ],
    },
    email: {
      claims: ['email', 'email_verified'],
    },
    phone: {
      claims: ['phone_number', 'phone_number_verified'],
    },
    address: { claims: ['address'] },
    roles: { claims: ['role'] },
  },
);

/** What tokens say by themselves; an account that could say it could speak for the provider. */
export const protocolClaims: ReadonlySet<string> = new Set([
  ...[
    'acr',
    'active',
    'amr',
    'at_hash',
    'aud',
    'auth_time',
    'azp',
    'c_hash',
    'client_id',
    'cnf',
    'exp',
    'iat',
  ],
  ...['idp', 'iss', 'jti', 'nbf', 'nonce', 's_hash', 'scope', 'sid', 'sub', 'token_type'],
]);
