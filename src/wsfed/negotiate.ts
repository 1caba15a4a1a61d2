/**
 * Kerberos tickets from browsers (SPNEGO-based Negotiate, RFC 4559), accepted by the package `kerberos` over the
 * system's GSSAPI. Nothing of the protocol is done here.
 *
 * The package is not one of our dependencies: it is native code, and only who signs users in this way needs it.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { ConfigurationError } from '../errors.ts';

/** What we use of the package. */
interface Kerberos {
  initializeServer(service: string): Promise<KerberosServer>;
}
interface KerberosServer {
  /** `user@REALM`, once the context is complete. */
  readonly username: string | null;
  /** Base64. */
  readonly response: string | null;
  readonly contextComplete: boolean;
  step(token: string): Promise<unknown>;
}

/** Whom a ticket is of. */
export interface AcceptedTicket {
  /** `user@REALM`. */
  readonly principal: string;
  /** What proves to the browser who we are, for the header WWW-Authenticate; base64. */
  readonly response: string;
}

export type TicketResult =
  | ({ readonly kind: 'accepted' } & AcceptedTicket)
  | { readonly kind: 'refused'; readonly reason: 'ntlm' | 'malformed' | 'ticket'; readonly detail: string };

export interface Negotiate {
  /** Judges what a browser sent after `Negotiate `, in base64. Never throws for what a browser sends. */
  accept(token: string): Promise<TicketResult>;
}

/** Any key of the keytab whose principal begins with `HTTP/`: the names of the server, and its old ones. */
const service = 'HTTP';

/**
 * Loads the package and tries the keytab.
 *
 * @param home the folder that contains config/, where the package is looked for before our own folder
 * @throws {ConfigurationError} ERR_CONFIG_INVALID, where the package is missing or the keytab has no key of ours
 */
export async function loadNegotiate({ home, keytab }: { home: string; keytab: string }): Promise<Negotiate> {
  const kerberos = loadKerberos(home);
  // The library reads it from the environment of the process and nowhere else.
  process.env.KRB5_KTNAME = `FILE:${keytab}`;
  try {
    await kerberos.initializeServer(service);
  } catch (err) {
    throw refuse('WindowsLogin.Negotiate.Keytab', `cannot be used: ${messageOf(err)}`, {
      hint: `klist -k -e ${keytab} shows its keys; one must be of HTTP/<host name of the server>`,
    });
  }

  return {
    async accept(token) {
      if (!/^[A-Za-z0-9+/]+={0,2}$/.test(token)) {
        return { kind: 'refused', reason: 'malformed', detail: 'not base64' };
      }
      // What browsers send where they have no ticket for this name, bare or within SPNEGO.
      if (Buffer.from(token.slice(0, 1024), 'base64').includes('NTLMSSP\0')) {
        return { kind: 'refused', reason: 'ntlm', detail: 'NTLM instead of a Kerberos ticket' };
      }
      try {
        const server = await kerberos.initializeServer(service);
        await server.step(token);
        const { contextComplete, response, username } = server;
        // There is a name only when the context is complete.
        if (!contextComplete || !username) {
          return { kind: 'refused', reason: 'ticket', detail: 'more than one step would be needed' };
        }
        return { kind: 'accepted', principal: username, response: response ?? '' };
      } catch (err) {
        return { kind: 'refused', reason: 'ticket', detail: messageOf(err) };
      }
    },
  };
}

function loadKerberos(home: string): Kerberos {
  let failure: unknown;
  let isMissing = true;
  for (const from of [join(home, 'package.json'), import.meta.url]) {
    try {
      return createRequire(from)('kerberos') as Kerberos;
    } catch (err) {
      // One that is there and cannot be loaded, as without its binary, is the one to report.
      const isNotThere = /^Cannot find module 'kerberos'/.test(messageOf(err));
      if (isMissing) failure = err;
      isMissing &&= isNotThere;
    }
  }
  throw refuse(
    'WindowsLogin.Negotiate',
    isMissing
      ? 'needs the package kerberos, which is not installed'
      : `needs the package kerberos, which cannot be loaded: ${messageOf(failure)}`,
    { hint: `run "npm install --no-save kerberos@7" in ${home}; docs/windows-sign-in.md says what it needs` },
  );
}

function refuse(path: string, message: string, { hint }: { hint: string }): ConfigurationError {
  return new ConfigurationError([{ file: 'config/server.json', path, message, hint }]);
}

/** The library's words, on one line. */
function messageOf(err: unknown): string {
  return (err instanceof Error ? err.message : String(err)).replace(/\s+/g, ' ').trim();
}
