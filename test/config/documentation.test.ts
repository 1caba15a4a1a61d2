/** What is generated from the schemas says what the loader does. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configurationReference, jsonSchemas } from '../../src/config/documentation.ts';

interface Schema {
  $schema?: string;
  required?: string[];
  properties: Record<string, { default?: unknown; anyOf?: unknown[]; description?: string }>;
  additionalProperties?: boolean;
}

test('the JSON Schema of a client requires the flow alone, and knows defaults and the spellings of DPM', () => {
  const client = jsonSchemas().client as Schema;

  assert.equal(client.$schema, 'https://json-schema.org/draft/2020-12/schema');
  assert.deepEqual(client.required, ['Flow']);
  assert.equal(client.additionalProperties, false);
  assert.ok('$schema' in client.properties);
  assert.equal(client.properties.AccessTokenLifetime?.default, 3600);
  assert.equal(client.properties.EnableLocalLogin?.default, false);
  assert.deepEqual(client.properties.AccessTokenType?.anyOf, [
    { type: 'string', enum: ['Jwt', 'Reference'] },
    { enum: [0, '0', 1, '1'] },
  ]);
  assert.deepEqual(client.properties.AllowedScopes?.anyOf?.[1], { type: 'string' });
});

test('nothing but plain JSON Schema is in the schemas', () => {
  assert.doesNotMatch(JSON.stringify(jsonSchemas()), /"(traits|spelling|refused)"/);
});

for (const row of [
  /^\| `PublicUrl` \| text \| required \|/m,
  /^\| `AccessTokenLifetime` \| seconds, ≥ 1 \| `3600` \|/m,
  /^\| `RefreshTokenUsage` \| `ReUse` \(0\), `OneTimeOnly` \(1\) \| `"OneTimeOnly"` \|/m,
  /^\| `AllowAccessToAllScopes` \| switch \| `false` \|.*\*\*Only the default is accepted so far\.\*\*/m,
  /^\| `ClientSecrets\[\]\.Value` \| text or `\{ "env" \}` or `\{ "file" \}` or `\{ "plain" \}` \| required \|/m,
  /^\| `Scopes\[\]\.ShowInDiscoveryDocument` \| switch \| `true` \|/m,
  /^### Type WsFed$/m,
  /^\| `Wtrealm` \| text \| `"urn:intelligence"` \|/m,
]) {
  test(`the reference has the row ${row.source.slice(0, 60)}`, () => {
    assert.match(configurationReference(), row);
  });
}
