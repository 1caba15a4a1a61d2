/** The decision which way a user signs in. Pure. */
import type { Client } from '../config/load.ts';

export type LoginStep = { readonly kind: 'local' } | { readonly kind: 'refuse' };

/**
 * Decides how the user signs in to this client: at our own page where the client allows it. Until identity
 * providers can be used, a client without local login has no way in.
 */
export function chooseLogin({ EnableLocalLogin }: Pick<Client, 'EnableLocalLogin'>): LoginStep {
  return EnableLocalLogin ? { kind: 'local' } : { kind: 'refuse' };
}
