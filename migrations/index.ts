/**
 * The migrations in their order: a static map, so that a packaged or moved installation finds them without
 * scanning a folder. Released ones are never edited; a change of the schema is a new one at the end.
 */
import type { Knex } from 'knex';
import * as tokens from './0001-tokens.ts';
import * as accounts from './0002-accounts.ts';
import * as lastUse from './0003-last-use.ts';
import * as externalLogins from './0004-external-logins.ts';
import * as directoryChecks from './0005-directory-checks.ts';
import * as keys from './0006-keys.ts';
import * as lastUses from './0007-last-uses.ts';
import * as guesses from './0008-guesses.ts';
import * as passwordChanges from './0009-password-changes.ts';
import * as fewerIndexEntries from './0010-fewer-index-entries.ts';

export interface Migration {
  up(knex: Knex): Promise<void>;
  /** The tables that `up` creates. */
  tables: readonly string[];
}

export const migrations: ReadonlyMap<string, Migration> = new Map([
  ['0001-tokens', { up: tokens.up, tables: ['OidcToken'] }],
  ['0002-accounts', { up: accounts.up, tables: ['OidcUser'] }],
  ['0003-last-use', { up: lastUse.up, tables: [] }],
  ['0004-external-logins', { up: externalLogins.up, tables: ['OidcUserLogin'] }],
  ['0005-directory-checks', { up: directoryChecks.up, tables: [] }],
  ['0006-keys', { up: keys.up, tables: ['OidcKey'] }],
  ['0007-last-uses', { up: lastUses.up, tables: ['OidcLastUse'] }],
  ['0008-guesses', { up: guesses.up, tables: ['OidcGuess'] }],
  ['0009-password-changes', { up: passwordChanges.up, tables: [] }],
  ['0010-fewer-index-entries', { up: fewerIndexEntries.up, tables: [] }],
]);
