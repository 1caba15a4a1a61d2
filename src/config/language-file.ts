/**
 * What may stand in `config/languages/<tag>.json`: the messages of the English catalogue, each of them or some. So
 * an editor completes and checks a translation, and docs/configuration.md lists what there is to translate.
 */
import { z } from 'zod';
import { english, placeholdersOf, type SomeMessages } from '../languages/languages.ts';
import { schemaReference } from './schema.ts';

const longestMessage = 1000;

/** What each part of the catalogue is about, for whoever translates it. */
const abouts: Readonly<Record<string, string>> = {
  login: 'The page with name and password.',
  providers: 'The choice among identity providers, and why somebody is not signed in after one of them.',
  changePassword: 'The page for a new password.',
  consent: 'The page that asks whether an application may have what it asks for.',
  scopes: 'What applications may ask for. Scopes of resources have their words in their own files.',
  error: 'The page for what went wrong; codes has a sentence for each code.',
  signOut: 'The question whether to sign out.',
  answer: 'The page that leads back to an application of the WsFed application, seen where scripts are off.',
  signingOut: 'While applications are told of a sign-out.',
  signedOut: 'After it.',
  staySignedIn: 'After the question was answered with no.',
  noProvider: 'Where an application wants an identity provider that is not to be had.',
  interactionExpired: 'For a sign-in that is over.',
  home: 'The page at the base address.',
};

/** The schema. The English message is the description of each. */
export const LanguageFile = z.strictObject({
  $schema: schemaReference,
  names: names().optional().meta({
    description:
      'What registrations are called in this language, where that is not what their own files say.',
  }),
  ...shapeOf(english),
}) as unknown as z.ZodType<SomeMessages & { readonly $schema?: string }>;

function names() {
  const word = z.string().min(1).max(200);
  const byId = (of: string) => z.record(z.string(), word).optional().meta({ description: of });
  return z.strictObject({
    clients: byId('In place of ClientName, by client id.'),
    providers: byId('In place of the Caption of an identity provider, by its name.'),
    relyingParties: byId('In place of the Caption of a relying party, by its name.'),
    scopes: z
      .record(
        z.string(),
        z.strictObject({
          name: word.optional().meta({ description: 'In place of DisplayName.' }),
          description: z
            .string()
            .min(1)
            .max(longestMessage)
            .optional()
            .meta({ description: 'In place of Description.' }),
        }),
      )
      .optional()
      .meta({
        description: 'In place of DisplayName and Description of a scope of a resource, by its name.',
      }),
  });
}

interface Catalogue {
  readonly [name: string]: string | Catalogue;
}

function shapeOf(messages: Catalogue): Record<string, z.ZodType> {
  const members = Object.entries(messages).map(([name, member]) => [
    name,
    typeof member === 'string'
      ? message(member).optional().meta({ description: member })
      : z
          .strictObject(shapeOf(member))
          .optional()
          .meta({ description: abouts[name] ?? `Messages of ${name}.` }),
  ]);
  return Object.fromEntries(members) as Record<string, z.ZodType>;
}

function message(englishMessage: string) {
  const known = placeholdersOf(englishMessage);
  const hint =
    known.length === 0
      ? 'nothing is filled in here'
      : `there is ${known.map((name) => `{${name}}`).join(', ')}`;
  const rules: readonly (readonly [isKept: (text: string) => boolean, message: string, hint: string])[] = [
    [
      (text) => placeholdersOf(text).every((name) => known.includes(name)),
      'has an unknown placeholder',
      hint,
    ],
    [
      (text) => !/[{}]/.test(text.replace(/\{\w+\}/g, '')),
      'has a brace that belongs to no placeholder',
      hint,
    ],
    [(text) => !/<\/?[a-z]/i.test(text), 'has HTML, which would be shown as it stands', 'write plain text'],
  ];
  return rules.reduce(
    (schema, [isKept, error, hintOfRule]) => schema.refine(isKept, { error, params: { hint: hintOfRule } }),
    z.string().min(1).max(longestMessage),
  );
}
