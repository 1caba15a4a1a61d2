/**
 * Sign-in by Windows, in the way that the operator has chosen:
 *
 * | way | who authenticates the browser | what we get |
 * | --- | --- | --- |
 * | Negotiate | we do, by a keytab | a Kerberos ticket in the header Authorization |
 * | Header | a proxy in front of us | the name in a header, with a secret in a second one |
 * | Ticket | a handler of IIS | the name and the SID in a signed ticket that the browser posts |
 *
 * Each ends with a Windows name that has been verified, and that leads to an account.
 */
import { createHmac, randomBytes } from 'node:crypto';
import type { Context, Middleware } from 'koa';
import { z } from 'zod';
import type { ExternalResult } from '../accounts/external-logins.ts';
import { ownIssuers } from '../config/checks.ts';
import type { Server } from '../config/load.ts';
import type { ServerContext } from '../context.ts';
import { parseHostPatterns } from '../federation/destinations.ts';
import { isEqual } from '../http/csrf.ts';
import { peerAddress, type RequestState } from '../http/middleware.ts';
import { bareRow, hashValue } from '../store/tokens.ts';
import type { Negotiate, TicketResult } from './negotiate.ts';

export type WindowsLogin = NonNullable<Server['WindowsLogin']>;

/** A name that has been verified, and by Ticket the security identifier, which is never given away again. */
export interface WindowsIdentity {
  readonly name: string;
  readonly sid?: string;
}

/** What a request to sign in by Windows comes to. */
export type WindowsStep =
  | {
      readonly kind: 'identified';
      readonly identity: WindowsIdentity;
      /** For the header WWW-Authenticate of the answer. */
      readonly proof?: string;
    }
  /** The browser has not tried yet: 401, with the login page as its body. */
  | { readonly kind: 'challenge' }
  | { readonly kind: 'leave'; readonly url: string }
  | { readonly kind: 'refused'; readonly reason: string; readonly detail?: string };

/** What became of a ticket that a browser has posted. */
export type TicketReturn =
  /** The sign-in that it belongs to is not under way any more. */
  | { readonly kind: 'unknown' }
  | {
      readonly kind: 'known';
      /** The query of the request to sign in. */
      readonly query: string;
      readonly step:
        | Extract<WindowsStep, { kind: 'identified' | 'refused' }>
        /** The browser has another cookie by now: it may set out once more. */
        | { readonly kind: 'other-browser'; readonly goAgain: () => Promise<WindowsStep> };
    };

export interface WindowsSignIn {
  /** Whether the browser of this request may be asked: others would see a dialog that they cannot answer. */
  isFor(ctx: Context): boolean;
  /** `GET WinLogin`. `subject` is what the forms of this browser are bound to. */
  begin(ctx: Context, subject: string): Promise<WindowsStep>;
  /** `POST WinLogin`: a ticket comes back. The same one a second time is refused, with what it was for. */
  takeTicket(ticket: string, subject: string): Promise<TicketReturn>;
  /** The account of an identity, by the rules for names, or why there is none, and under which name. */
  findAccount(identity: WindowsIdentity): Promise<ExternalResult & { readonly mapped?: string }>;
}

/** How old a ticket may be, and how far its clock may be ahead of ours. */
const ticketSeconds = 30;
/** How long somebody may look at the dialog of the browser. */
const attemptSeconds = 600;
const model = 'WindowsAttempt';
/** The security identifiers of Windows are unique by themselves; a directory names its users by the same. */
const issuer = ownIssuers.windows;

/** A sign-in that has been sent to the handler of IIS. */
interface Attempt {
  readonly query: string;
  readonly subjectHash: string;
  /** It is the second try of one whose browser had lost its cookie to another window. */
  readonly isSecond: boolean;
}

/** What of the request the handler and the page that it shows instead need. */
const passedOn = ['wa', 'wtrealm', 'wreply', 'wctx', 'wfresh', 'wauth', 'ui_locales'];

/** What the handler says and signs. `time` in seconds since the epoch. */
const Ticket = z.object({
  name: z.string().min(1).max(300),
  // Of a domain or of Entra ID: the well-known ones are the same everywhere.
  sid: z.string().regex(/^S-1-(5-21|12-1)(-\d+){4}$/),
  attempt: z.string(),
  time: z.int(),
});

type Needs = Pick<ServerContext, 'externalLogins' | 'now' | 'registry' | 'tokens'>;

/**
 * Takes the headers of the way Header from everybody who is not the proxy: nothing behind this sees a name that
 * somebody else has written.
 */
export function stripIdentityHeaders({ Header }: WindowsLogin): Middleware {
  const proxies = parseHostPatterns(Header?.From ?? []);
  return async function stripHeaders(ctx, next) {
    if (Header !== undefined) {
      const { headers } = ctx.req;
      const secret = headers[Header.SecretName.toLowerCase()];
      const isBelieved =
        proxies.hasAddress(peerAddress(ctx)) &&
        Header.Secrets.some((one) => isEqual(one, String(secret ?? '')));
      delete headers[Header.SecretName.toLowerCase()];
      if (!isBelieved) delete headers[Header.Name.toLowerCase()];
    }
    await next();
  };
}

/** Makes the sign-in; `negotiate` where that is the way. */
export function createWindowsSignIn(
  { externalLogins, now, registry, tokens }: Needs,
  settings: WindowsLogin,
  negotiate: Negotiate | undefined,
): WindowsSignIn {
  const { Header, Names, Networks, ProvisionAccounts, Ticket: ticketWay } = settings;
  const networks = parseHostPatterns(Networks);
  const source = {
    Name: 'windows',
    Type: 'WsFed',
    UserNameClaims: ['windowsaccountname'],
    AllowedAccounts: [],
    Domains: [],
    ProvisionAccounts,
    ClaimMapping: {},
  } as const;

  /** Sends the browser to the handler, which sends it back with a ticket for this attempt. */
  async function leave(request: string, subject: string, isSecond = false) {
    const given = new URLSearchParams(request);
    const kept = passedOn.flatMap((name) =>
      given.getAll(name).map((value) => [name, value] as [string, string]),
    );
    const query = new URLSearchParams(kept).toString();
    const handle = randomBytes(32).toString('base64url');
    const attempt: Attempt = { query, subjectHash: hashValue(subject), isSecond };
    const payload = JSON.stringify(attempt);
    await tokens.insert({
      ...bareRow,
      id: hashValue(handle),
      model,
      payload,
      expiresAt: now() + attemptSeconds,
    });
    const url = new URL(ticketWay?.HandlerUrl ?? '');
    url.search = `?attempt=${handle}&${query}`;
    return { kind: 'leave', url: url.href } as const;
  }

  return {
    isFor: (ctx) => Networks.length === 0 || networks.hasAddress((ctx.state as RequestState).clientAddress),

    async begin(ctx, subject) {
      if (ticketWay !== undefined) return leave(ctx.querystring, subject);
      const [, scheme = '', credentials = ''] = /^(\S+) *(.*)$/.exec(ctx.get('authorization')) ?? [];
      if (Header !== undefined) {
        const name = ctx.get(Header.Name);
        if (name !== '') return { kind: 'identified', identity: { name } };
        if (scheme === '') return { kind: 'challenge' };
        return { kind: 'refused', reason: 'header-missing', detail: `no ${Header.Name} from the proxy` };
      }
      if (scheme === '') return { kind: 'challenge' };
      if (scheme.toLowerCase() !== 'negotiate') {
        return { kind: 'refused', reason: scheme.toLowerCase() === 'ntlm' ? 'ntlm' : 'malformed' };
      }
      const result: TicketResult = (await negotiate?.accept(credentials)) ?? {
        kind: 'refused',
        reason: 'malformed',
        detail: 'Negotiate is not the way',
      };
      if (result.kind === 'refused') return result;
      return { kind: 'identified', identity: { name: result.principal }, proof: result.response };
    },

    async takeTicket(ticket, subject) {
      const [text = '', mac = ''] = ticket.split('.');
      const isSigned = ticketWay?.Secrets.some((secret) =>
        isEqual(createHmac('sha256', secret).update(text).digest('base64url'), mac),
      );
      const claims = readTicket(text);
      const found = claims && (await tokens.find(model, claims.attempt));
      if (found === undefined || claims === undefined) return { kind: 'unknown' };
      const { isSecond, query, subjectHash } = JSON.parse(found.payload) as Attempt;
      const refused = (reason: string, detail: string) =>
        ({ kind: 'known', query, step: { kind: 'refused', reason, detail } }) as const;
      if (!isSigned) return refused('ticket-signature', 'the secret of the handler is another');
      const age = now() - claims.time;
      if (Math.abs(age) > ticketSeconds) {
        return refused('ticket-time', `the ticket is ${age} s old; are both clocks right?`);
      }
      // Once, whatever comes of it. What it was for stays, for a page that is loaded again.
      if (!(await tokens.consume(model, claims.attempt))) {
        return refused('ticket-used', 'the ticket came a second time');
      }
      if (subjectHash !== hashValue(subject)) {
        if (isSecond) return refused('ticket-browser', 'the ticket came from another browser');
        // Windows that a browser opens at once overwrite each other's first cookie.
        return {
          kind: 'known',
          query,
          step: { kind: 'other-browser', goAgain: () => leave(query, subject, true) },
        };
      }
      const { name, sid } = claims;
      return { kind: 'known', query, step: { kind: 'identified', identity: { name, sid } } };
    },

    async findAccount({ name, sid }) {
      if (!isUserName(name)) return { kind: 'refused', reason: 'name-unusable' };
      const mapped = mapName(Names, name);
      const identity = { issuer, subject: sid, claims: new Map([['windowsaccountname', [mapped]]]) };
      const result = await externalLogins.resolve(source, identity, { isReserved: registry.isClientAccount });
      return result.kind === 'refused' ? { ...result, mapped } : result;
    },
  };
}

/**
 * `DOMAIN\user`, `user@REALM` or `user`, without what no user of a domain has in its name. Services and anonymous
 * ones of Kerberos have a slash, computers end with `$`, and Windows' own (`NT AUTHORITY`) have a blank: nobody.
 */
function isUserName(name: string): boolean {
  const user = '[^"/\\\\[\\]:;|=,+*?<>@]*[^"/\\\\[\\]:;|=,+*?<>@$. ]';
  const place = '[^\\\\/@,\\s]+';
  const isForm = new RegExp(`^(${place}\\\\)?${user}$|^${user}@${place}$`).test(name);
  // Look-alikes must not come within the rules of others.
  return isForm && name === name.normalize('NFKC');
}

function readTicket(text: string): z.output<typeof Ticket> | undefined {
  try {
    return Ticket.parse(JSON.parse(Buffer.from(text, 'base64url').toString('utf8')));
  } catch {
    return undefined;
  }
}

/**
 * The name that an account is looked up by: what the first rule that matches makes of a Windows name, else the
 * name as it is. `*` stands for one part of a name: it never takes in a `\` or an `@`. Pure.
 */
export function mapName(rules: WindowsLogin['Names'], name: string): string {
  for (const { From, To } of rules) {
    const [before = '', after] = From.toLowerCase().split('*');
    const lower = name.toLowerCase();
    if (after === undefined) {
      if (lower === before) return To;
      continue;
    }
    const isLongEnough = name.length > before.length + after.length;
    if (!isLongEnough || !lower.startsWith(before) || !lower.endsWith(after)) continue;
    const part = name.slice(before.length, name.length - after.length);
    if (!/[\\@]/.test(part)) return To.replace('*', () => part);
  }
  return name;
}
