/**
 * An operator's own endpoint as a source of passwords, for stores of users that nothing else can read: it gets a
 * name and a password, and answers yes or no. Its protocol is in docs/directory.md.
 */
import { z } from 'zod';
import type { PasswordSource } from '../accounts/credentials.ts';
import { ownIssuers } from '../config/checks.ts';
import type { Server } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { hostOf } from './destinations.ts';
import type { Outgoing } from './outgoing.ts';

/** What a yes or a no looks like; further members are nobody's business. */
const Answer = z.discriminatedUnion('active', [
  z.object({ active: z.literal(false) }),
  z.object({
    active: z.literal(true),
    name: z.string().min(1).max(255),
    subject: z.string().min(1).max(255).optional(),
    displayName: z.string().max(255).optional(),
    email: z.string().max(320).optional(),
    roles: z.array(z.string().max(255)).max(1000).optional(),
  }),
]);

const longestAnswer = 64 * 1024;

/** Makes the source. Its calls go through `outgoing`, which bounds them and never follows where they redirect to. */
export function createPasswordVerifier(
  settings: NonNullable<Server['PasswordVerifier']>,
  { log, outgoing }: { log: Logger; outgoing: Pick<Outgoing, 'fetch'> },
): PasswordSource {
  async function ask(name: string, password: string): Promise<z.output<typeof Answer>> {
    const response = await outgoing.fetch(settings.Url, {
      method: 'POST',
      headers: {
        accept: 'application/json',
        authorization: `Bearer ${settings.Secret}`,
        'content-type': 'application/json',
      },
      body: JSON.stringify({ name, password }),
      redirect: 'manual',
      timeoutMs: settings.Timeout * 1000,
      maxBytes: longestAnswer,
      trustedHosts: [hostOf(new URL(settings.Url))],
    });
    if (response.status !== 200) throw unusable(`it answered with status ${response.status}`);
    const answer = Answer.safeParse(await response.json().catch(() => undefined));
    if (!answer.success) throw unusable('its answer is not as docs/directory.md has it');
    return answer.data;
  }

  return {
    name: 'password-verifier',
    issuer: ownIssuers.passwordVerifier,
    provisions: settings.ProvisionAccounts,
    hasWindowsNames: false,

    async verify(typed, password) {
      if (password === '') return { kind: 'refused', reason: 'unknown' };
      try {
        const answer = await ask(typed, password);
        if (!answer.active) return { kind: 'refused', reason: 'password' };
        const { name, subject, displayName, email, roles } = answer;
        // Without an identifier that lasts, the name stands for it.
        const lasting = subject ?? `username\n${name.toLowerCase()}`;
        return {
          kind: 'accepted',
          identity: { subject: lasting, names: [name], displayName, email, roles },
        };
      } catch (err) {
        if (!(err instanceof ServerError) || err.status !== 503) throw err;
        log.error({ err }, 'password verifier unavailable');
        return { kind: 'unavailable', reason: 'password-verifier-unavailable' };
      }
    },
  };
}

function unusable(hint: string): ServerError {
  return new ServerError('ERR_PASSWORD_VERIFIER_UNAVAILABLE', 'the password verifier cannot be used', {
    status: 503,
    hint,
  });
}
