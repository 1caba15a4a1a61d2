/** The typed bag that features draw from; `server.ts` fills it once. Types only. */
import type { Accounts } from './accounts/accounts.ts';
import type { Credentials } from './accounts/credentials.ts';
import type { ExternalLogins } from './accounts/external-logins.ts';
import type { Guessing } from './accounts/guessing.ts';
import type { Standing } from './accounts/standing.ts';
import type { Audit } from './audit.ts';
import type { IdentityProviders } from './federation/identity-providers.ts';
import type { SigningKeys } from './keys/keys.ts';
import type { Logger } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { Brand } from './pages/layout.ts';
import type { Registry } from './registry/registry.ts';
import type { Database } from './store/database.ts';
import type { Tokens } from './store/tokens.ts';

export interface ServerContext {
  readonly audit: Audit;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Seconds since the epoch. */
  readonly now: () => number;
  readonly db: Database;
  readonly tokens: Tokens;
  readonly accounts: Accounts;
  readonly externalLogins: ExternalLogins;
  readonly credentials: Credentials;
  readonly guessing: Guessing;
  readonly standing: Standing;
  readonly identityProviders: IdentityProviders;
  readonly registry: Registry;
  readonly keys: SigningKeys;
  readonly brand: Brand;
}
