/**
 * External sign-ins under way: one row each, from the redirect out to the redirect that finishes the interaction.
 *
 * The handle is `state` (or `wctx`) on the way out. It takes one answer, which the callback stores; the browser
 * that holds the interaction's cookie takes it from there, once.
 */
import { randomBytes } from 'node:crypto';
import type { ServerContext } from '../context.ts';
import type { Identity } from '../federation/identity-providers.ts';
import { bareRow, hashValue } from '../store/tokens.ts';

const model = 'Attempt';

/** What came back: who it is, or why not. */
export type Answer =
  | { readonly kind: 'identity'; readonly identity: StoredIdentity }
  | { readonly kind: 'failed'; readonly problem: 'cancelled' | 'invalid' | 'unavailable' };

/** An identity as JSON holds it. */
export interface StoredIdentity extends Omit<Identity, 'claims'> {
  readonly claims: readonly (readonly [string, readonly string[]])[];
}

export interface Attempt {
  /** The identity provider's name. */
  readonly provider: string;
  readonly interactionUid: string;
  readonly clientId: string;
  /** What the identity provider's protocol needs again to verify the answer. */
  readonly keep: Readonly<Record<string, string>>;
  /** Seconds, as the request asked for it. */
  readonly maxAge?: number | undefined;
  readonly answer?: Answer;
}

export interface StoredAttempt extends Attempt {
  readonly expiresAt: number;
}

export interface Attempts {
  /** A new handle, 43 characters of base64url. */
  createHandle(): string;
  save(handle: string, attempt: Attempt, expiresAt: number): Promise<void>;
  /** One that waits for its answer. */
  findOpen(handle: string): Promise<StoredAttempt | undefined>;
  /** Stores the answer; false where there is one already. */
  answer(handle: string, attempt: StoredAttempt, answer: Answer): Promise<boolean>;
  /** One that has its answer, for the one caller that takes it. */
  take(handle: string): Promise<StoredAttempt | undefined>;
}

export function toStoredIdentity(identity: Identity): StoredIdentity {
  return { ...identity, claims: [...identity.claims] };
}

/** The attempts over the token table. */
export function createAttempts({ tokens }: Pick<ServerContext, 'tokens'>): Attempts {
  const toRow = (handle: string, { expiresAt, ...attempt }: StoredAttempt) => ({
    ...bareRow,
    id: hashValue(handle),
    model,
    payload: JSON.stringify(attempt),
    clientId: attempt.clientId,
    expiresAt,
  });

  async function find(handle: string) {
    const found = await tokens.find(model, handle);
    if (found === undefined) return undefined;
    return { ...(JSON.parse(found.payload) as Attempt), expiresAt: found.expiresAt };
  }

  return {
    createHandle: () => randomBytes(32).toString('base64url'),

    async save(handle, attempt, expiresAt) {
      await tokens.insert(toRow(handle, { ...attempt, expiresAt }));
    },

    async findOpen(handle) {
      const attempt = await find(handle);
      return attempt?.answer === undefined ? attempt : undefined;
    },

    answer: (handle, attempt, answer) => tokens.replace(toRow(handle, { ...attempt, answer }), 0),

    async take(handle) {
      const attempt = await find(handle);
      // Removed at once: it says who somebody is.
      if (attempt?.answer === undefined || !(await tokens.destroy(model, handle))) return undefined;
      return attempt;
    },
  };
}
