/** What people and editors read about the config files: both from the schemas, so that neither can be wrong. */
import { z } from 'zod';
import { LanguageFile } from './language-file.ts';
import {
  ClientRegistration,
  DemoAccounts,
  identityScopes,
  offlineAccess,
  ProviderRegistration,
  RelyingPartyRegistration,
  ResourceRegistration,
  ServerSettings,
  type Traits,
  traits,
} from './schema.ts';

/** The kinds of config files; `config/schema/<kind>.schema.json` is named after them. */
export type ConfigKind =
  | 'server'
  | 'client'
  | 'provider'
  | 'relying-party'
  | 'resource'
  | 'accounts'
  | 'language';

const kinds = {
  server: { schema: ServerSettings, title: 'config/server.json', about: 'The server itself.' },
  client: {
    schema: ClientRegistration,
    title: 'config/clients/<ClientId>.json',
    about: 'One client. The name of the file, without `.json`, is the client id.',
  },
  resource: {
    schema: ResourceRegistration,
    title: 'config/resources/<Name>.json',
    about:
      'One protected API. The name of the file, without `.json`, is the name of the resource: its scope unless it has others, and its user name at the introspection endpoint.',
  },
  provider: {
    schema: ProviderRegistration,
    title: 'config/providers/<Name>.json',
    about:
      'One identity provider. The name of the file, without `.json`, is the name of the provider; `Type` says which of the two tables applies.',
  },
  'relying-party': {
    schema: RelyingPartyRegistration,
    title: 'config/relying-parties/<Name>.json',
    about:
      'One application that signs its users in at the WsFed application. The OpenID Connect provider of the same server needs none, unless its provider file names a `MetadataAddress`.',
  },
  accounts: {
    schema: DemoAccounts,
    title: 'config/accounts.json',
    about:
      'Demo accounts, added when the table of accounts is made. In Development only: elsewhere the file is refused, and `npx postern account` maintains the accounts.',
  },
  language: {
    schema: LanguageFile,
    title: 'config/languages/<tag>.json',
    about:
      'What people read on the pages, in one language. The name of the file, without `.json`, is the BCP 47 tag, such as `fr` or `pt-BR`. English (`en`) and German (`de`) are there without a file; a file of that name changes single messages of theirs. What is missing is shown in English. What stands in braces is filled in. [languages.md](languages.md) says how to add a language. The meaning is the English message.',
  },
} as const satisfies Record<ConfigKind, { schema: z.ZodType; title: string; about: string }>;

/** A JSON Schema, as far as it is read here. */
interface JsonSchema {
  $ref?: string;
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  additionalProperties?: JsonSchema | boolean;
  minimum?: number;
  maximum?: number;
  pattern?: string;
  /** Not JSON Schema: what {@link markTraits} has put there. */
  traits?: Traits;
}

/** JSON Schemas (draft 2020-12) of what may be written in each kind of file. Pure. */
export function jsonSchemas(): Record<ConfigKind, object> {
  const entries = Object.entries(kinds).map(([kind, { schema, title }]) => {
    const { $schema, ...rest } = toJsonSchema(schema, addSpellings);
    return [kind, { $schema, title, ...rest }] as const;
  });
  return Object.fromEntries(entries) as Record<ConfigKind, object>;
}

type Override = (schema: JsonSchema, found: Traits | undefined) => void;

function toJsonSchema(schema: z.ZodType, override: Override): JsonSchema & { $schema?: string } {
  return z.toJSONSchema(schema, {
    io: 'input',
    target: 'draft-2020-12',
    override({ zodSchema, jsonSchema }) {
      const result = jsonSchema as JsonSchema;
      override(result, traits.get(zodSchema as unknown as z.ZodType));
      // zod leaves out both where a value is rewritten before it is checked; here rewriting only adds spellings.
      const { def } = zodSchema._zod;
      if (def.type === 'default' || def.type === 'prefault') result.default = def.defaultValue;
      if (def.type === 'object') {
        const required = Object.entries(def.shape)
          .filter(
            ([name, member]) =>
              result.properties?.[name]?.default === undefined && !z.safeParse(member, undefined).success,
          )
          .map(([name]) => name);
        if (required.length > 0) result.required = required;
      }
    },
  }) as JsonSchema & { $schema?: string };
}

/** Beside its JSON form, the spellings of DPM are right as well. */
function addSpellings(schema: JsonSchema, found: Traits | undefined): void {
  const other = otherSpelling(found);
  if (other === undefined) return;
  const { description, default: standard, ...own } = schema;
  for (const key of Object.keys(own) as (keyof JsonSchema)[]) delete schema[key];
  schema.anyOf = [own, other];
}

function otherSpelling({ spelling, numbers }: Traits = {}): JsonSchema | undefined {
  if (numbers !== undefined)
    return { enum: Object.values(numbers).flatMap((number) => [number, String(number)]) };
  switch (spelling) {
    case 'boolean':
      return { type: 'string', pattern: '^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$' };
    case 'integer':
      return { type: 'string', pattern: '^[0-9]+$' };
    case 'list':
      return { type: 'string' };
    default:
      return undefined;
  }
}

/** docs/configuration.md: every property with its type, default and meaning, and how values are written. Pure. */
export function configurationReference(): string {
  return `${[introduction, ...Object.values(kinds).map(describeKind), scopesSection()].join('\n\n')}\n`;
}

const introduction = `# Configuration

<!-- Generated by "npm run docs" from src/config/schema.ts. Change it there. -->

The config files are in one folder, \`config/\` unless \`--config\` names another. \`npx postern check-config\` reads them all and reports everything that is wrong with them. A running server takes up a change within a second, all or nothing: while there is an issue, it goes on with what it had and logs the issue. Changed secrets, keys and certificates outside the folder, and environment variables, take effect at the next start, files also after SIGHUP.

What needs a restart is said by the server when it reloads: \`server.json\` decides where it listens and what it opens.

## How values are written

- **Files** are JSON in UTF-8, with comments (\`//\`, \`/* */\`) and trailing commas. A property may stand there only once. A property that is not listed here is an error.
- **Names** are those of DPM and IdentityServer3; their case matters.
- **A backslash** is doubled, as everywhere in JSON: \`"EXAMPLE\\\\carol"\`. A control character, such as \`\\t\` makes, is refused.
- **Lists** are arrays, \`["openid", "profile"]\`, or one text as in DPM, \`"openid profile"\`, separated by blanks, \`;\` or \`,\`. A value that itself contains one of these needs the array.
- **Switches** are \`true\` and \`false\`, or the texts \`"True"\` and \`"False"\` in any case. **Numbers** may be texts of digits.
- **Choices** that IdentityServer3 numbers may be that number: it stands behind the name.
- **Secrets** that others present (\`ClientSecrets\`, \`Secrets\`) are hashes, SHA-256 or SHA-512 in base64. \`printf %s the-secret | openssl dgst -sha256 -binary | openssl base64\` makes one. Or \`{ "env": "NAME" }\` names an environment variable, \`{ "file": "path" }\` a file that holds the secret itself. \`{ "plain": "…" }\` is for Development only. Of each only the hash is kept in memory.
- **Secrets that the server uses itself** (\`CookieKeys\`, \`DataProtectionKey\`, \`Passphrase\`, \`ClientSecret\` of an identity provider) are always such references.
- **Relative paths** start at the folder that contains \`config/\`.
- **File names** must be usable on every system: no \`< > : " / \\ | ? *\`, no name that Windows reserves, no blank or dot at the end, and no two that differ by case alone. A client id that is none of these is written into the file, as \`ClientId\`.

## What is checked beyond the single property

- \`AuthorizationCode\`, \`ResourceOwner\` and \`ClientCredentials\` need a secret. \`ResourceOwner\` and \`ClientCredentials\` need \`EnableLocalLogin\`. \`AuthorizationCode\` and \`AuthorizationCodeWithProofKey\` need a redirect URI.
- Redirect URIs are absolute, without fragment and wildcard: https, http on this machine, or, for \`Native\`, a private scheme that is a reversed domain (\`com.example.app:/callback\`).
- \`AllowedScopes\` exist; those of a user are not for \`ClientCredentials\`. Names in \`IdentityProviderRestrictions\` exist.
- A scope belongs to one resource; a resource has no client's name.
- Outside Development, or with a \`PublicUrl\` that is not on this machine, the secrets of the development set, plain secrets and \`accounts.json\` are refused, and \`OidcSigningCertificate\` and \`CookieKeys\` are required, or \`ManagedKeys\`.
- The messages of a language exist in the English catalogue, with no other placeholders, and hold no HTML.

\`check-config\` also names, without refusing it, where a client is allowed what RFC 9700 advises against: the flow \`ResourceOwner\`, and, for a client without a secret, \`RequirePkce\` false and \`RefreshTokenUsage\` ReUse.`;

function describeKind({ schema, title, about }: (typeof kinds)[ConfigKind]): string {
  // Tables show the plain forms: what else may be written is the same for all.
  const root = toJsonSchema(schema, markTraits);
  const variants = root.oneOf ?? root.anyOf ?? [root];
  const tables = variants.map((variant) => {
    const name = variant.properties?.Type?.const;
    const heading = variants.length === 1 ? [] : [`### Type ${String(name)}`];
    return [...heading, describeProperties(variant)].join('\n\n');
  });
  return [`## ${title}`, about, ...tables].join('\n\n');
}

/** Lets traits travel from the schema to the table. */
function markTraits(schema: JsonSchema, found: Traits | undefined): void {
  if (found !== undefined) schema.traits = { ...schema.traits, ...found };
}

function describeProperties(root: JsonSchema): string {
  const rows = toRows(root, '').map(
    (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('<', '&lt;')).join(' | ')} |`,
  );
  return ['| property | type | default | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n');
}

function toRows({ properties = {}, required = [] }: JsonSchema, prefix: string): string[][] {
  return Object.entries(properties).flatMap(([name, property]) => {
    if (name === '$schema') return [];
    const { refused } = property.traits ?? {};
    const path = prefix + name;
    const meaning = [property.description ?? '', ...(refused === undefined ? [] : [`**${refused}**`])].join(
      ' ',
    );
    const row = [
      `\`${path}\``,
      describeType(property),
      describeDefault(property, required.includes(name)),
      meaning,
    ];
    const members = property.items?.properties === undefined ? property : property.items;
    return [row, ...toRows(members, `${path}${members === property ? '' : '[]'}.`)];
  });
}

function describeDefault({ default: standard, properties }: JsonSchema, isRequired: boolean): string {
  if (isRequired) return 'required';
  if (standard === undefined || properties !== undefined) return '';
  return `\`${JSON.stringify(standard)}\``;
}

function describeType(schema: JsonSchema): string {
  const { numbers, unit } = schema.traits ?? {};
  if (schema.const !== undefined) return `\`${String(schema.const)}\``;
  if (schema.enum !== undefined) {
    return schema.enum
      .map((name) => `\`${String(name)}\`${describeNumber(numbers, String(name))}`)
      .join(', ');
  }
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(describeUnionMember))].join(' or ');
  switch (schema.type) {
    case 'array':
      if (schema.items?.enum !== undefined) return `list of ${describeType(schema.items)}`;
      return schema.items?.type === 'string' ? 'list of texts' : 'list of objects';
    case 'boolean':
      return 'switch';
    case 'integer':
      return [unit ?? 'number', `≥ ${schema.minimum}`].join(', ');
    case 'number':
      return `number, ${schema.minimum} to ${schema.maximum}`;
    case 'string':
      return 'text';
    default:
      return 'object';
  }
}

function describeNumber(numbers: Traits['numbers'], name: string): string {
  return numbers?.[name] === undefined ? '' : ` (${numbers[name]})`;
}

function describeUnionMember(schema: JsonSchema): string {
  const [key] = Object.keys(schema.properties ?? {});
  if (key !== undefined) return `\`{ "${key}" }\``;
  return schema.anyOf === undefined
    ? describeType(schema)
    : schema.anyOf.map(describeUnionMember).join(' or ');
}

function scopesSection(): string {
  const rows = Object.entries(identityScopes).map(
    ([name, { claims }]) => `| \`${name}\` | ${claims.map((claim) => `\`${claim}\``).join(', ')} |`,
  );
  return [
    '## Scopes that need no resource',
    '| scope | claims |\n| --- | --- |',
    `${rows.join('\n')}\n| \`${offlineAccess}\` | none: lets the client have refresh tokens |`,
  ]
    .join('\n\n')
    .replace('| --- | --- |\n\n', '| --- | --- |\n');
}
