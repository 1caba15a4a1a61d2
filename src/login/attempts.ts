/**
 * External sign-ins under way: one row each, from the redirect out to the redirect that finishes the interaction.
 *
 * The handle is `state` (or `wctx`) on the way out, so whoever set out knows it. Its one answer is claimed by the
 * callback, which gives the browser that brought it a ticket; the answer is taken with the ticket and the cookie of
 * the interaction together. Without the ticket somebody could set out, have another person follow the link, and
 * take what that person's browser brought.
 */
import { randomBytes } from 'node:crypto';
import type { ServerContext } from '../context.ts';
import type { Identity } from '../federation/identity-providers.ts';
import { bareRow, hashValue, sealUnder, unsealUnder } from '../store/tokens.ts';

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
  /** The user was to be asked anew. */
  readonly isFresh?: boolean | undefined;
  /** The languages that the authorization request asks for. */
  readonly uiLocales?: string | undefined;
  /** When it set out, in seconds since the epoch. */
  readonly startedAt: number;
  readonly answer?: Answer;
  /** The hash of the ticket that takes the answer. */
  readonly ticketHash?: string;
}

export interface StoredAttempt extends Attempt {
  readonly expiresAt: number;
}

export interface Attempts {
  /** A new handle, 43 characters of base64url. */
  createHandle(): string;
  save(handle: string, attempt: Attempt, expiresAt: number): Promise<void>;
  find(handle: string): Promise<StoredAttempt | undefined>;
  /** Claims the right to answer; false where somebody has it already. */
  claim(handle: string, attempt: StoredAttempt): Promise<boolean>;
  /** Stores the answer of one that was claimed, and returns the ticket for it; undefined where it is gone by now. */
  answer(handle: string, attempt: StoredAttempt, answer: Answer): Promise<string | undefined>;
  /** One that has its answer, for the one caller that takes it with its ticket. */
  take(handle: string, ticket: string): Promise<StoredAttempt | undefined>;
}

export function toStoredIdentity(identity: Identity): StoredIdentity {
  return { ...identity, claims: [...identity.claims] };
}

/** The attempts over the token table. */
export function createAttempts({ tokens }: Pick<ServerContext, 'tokens'>): Attempts {
  // What the answer is verified by is of no use without the handle, which is not stored.
  const toRow = (handle: string, { expiresAt, keep, ...attempt }: StoredAttempt) => ({
    ...bareRow,
    id: hashValue(handle),
    model,
    payload: JSON.stringify({ ...attempt, sealed: sealUnder(handle, JSON.stringify(keep)) }),
    clientId: attempt.clientId,
    expiresAt,
  });

  async function find(handle: string) {
    const found = await tokens.find(model, handle);
    if (found === undefined) return undefined;
    const { sealed, ...attempt } = JSON.parse(found.payload) as Omit<Attempt, 'keep'> & { sealed: string };
    const keep = JSON.parse(unsealUnder(handle, sealed) ?? '{}') as Attempt['keep'];
    return { ...attempt, keep, expiresAt: found.expiresAt };
  }

  return {
    createHandle: () => randomBytes(32).toString('base64url'),

    async save(handle, attempt, expiresAt) {
      await tokens.insert(toRow(handle, { ...attempt, expiresAt }));
    },

    find,

    claim: (handle, attempt) => tokens.replace(toRow(handle, attempt), 0),

    async answer(handle, attempt, answer) {
      const ticket = randomBytes(32).toString('base64url');
      const answered = { ...attempt, answer, ticketHash: hashValue(ticket) };
      return (await tokens.replace(toRow(handle, answered), 1)) ? ticket : undefined;
    },

    async take(handle, ticket) {
      const attempt = await find(handle);
      if (attempt?.ticketHash !== hashValue(ticket)) return undefined;
      // Removed at once: it says who somebody is.
      if (attempt.answer === undefined || !(await tokens.destroy(model, handle))) return undefined;
      return attempt;
    },
  };
}
