/**
 * Connections to the hosts of a directory: encrypted, verified, bounded in time, and to the next host where one
 * does not answer.
 *
 * Every question has connections of its own, and so many are asked at once, not more. A host that failed is asked
 * last for a minute; the one that answered last is asked first. Certificates are always verified, for the name in
 * the URL.
 */
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { BerReader, Client, ResultCodeError } from 'ldapts';
import type { Server } from '../config/load.ts';
import { ServerError } from '../errors.ts';
import type { Logger } from '../log.ts';

export type DirectorySettings = NonNullable<Server['Directory']>;

/** One host, for as long as one question takes. */
export interface DirectoryHost {
  /**
   * A connection of its own, signed in.
   *
   * @throws {ResultCodeError} what the directory says against it
   */
  bind(dn: string, password: string): Promise<Client>;
  /** The same for the account that searches. */
  bindService(): Promise<Client>;
}

/** Something is wrong with one entry, and not with the host that has it. */
export class UnusableEntryError extends Error {
  override readonly name = 'UnusableEntryError';
}

/** The host is there, and one question took it too long, such as that for somebody's many groups. */
class SlowQuestionError extends Error {
  override readonly name = 'SlowQuestionError';
}

/** This host has no such entry; it is gone where no host has it. */
export class MissingEntryError extends Error {
  override readonly name = 'MissingEntryError';
}

export type Question<Answer> = (host: DirectoryHost) => Promise<Answer>;

export interface DirectoryHosts {
  /**
   * Asks one host after the other until one answers. A question that throws has not been answered.
   *
   * @param isPatient whether to ask although no host answered a moment ago
   * @throws {MissingEntryError} where every host says so: one that lags behind, or has lost its people, ends nobody
   * @throws {ServerError} ERR_DIRECTORY_UNAVAILABLE, status 503; the hint says why, host by host
   */
  ask<Answer>(question: Question<Answer>, options: { isPatient: boolean }): Promise<Answer>;

  /** Asks every host, and says of each what is wrong with it, if anything is. */
  inspect(question: Question<unknown>): Promise<readonly { url: string; problem: string | undefined }[]>;
}

/** How long a host that failed is asked after the others. */
const failedSeconds = 60;
/** How long nobody who can go on without an answer waits again for hosts that have all failed. */
const restSeconds = 10;
/**
 * Questions at once, each with two connections at the most: enough for hundreds of sign-ins a second, and few
 * enough for a directory that hangs to take neither our sockets nor its own.
 */
const mostQuestions = 32;

/** @param now seconds since the epoch */
export function createDirectoryHosts(
  settings: DirectorySettings,
  { log, now }: { log: Logger; now: () => number },
): DirectoryHosts {
  const timeoutMs = settings.Timeout * 1000;
  const failedAt = new Map<string, number>();
  const waiting: (() => void)[] = [];
  let running = 0;
  let lastGood = settings.Urls[0];
  let context: SecureContext | undefined;

  /** Made once: it may hold hundreds of certificates. */
  function secureContext(): SecureContext {
    context ??= createSecureContext({
      ca: settings.CaCertificates ?? [...getCACertificates('default'), ...getCACertificates('system')],
      minVersion: 'TLSv1.2',
    });
    return context;
  }

  /** When a host failed, if that is no longer ago than `seconds`; a clock that was set back must not prolong it. */
  function findFailure(url: string, seconds: number): number | undefined {
    const at = failedAt.get(url);
    return at !== undefined && at <= now() && now() - at < seconds ? at : undefined;
  }

  function inOrder(): readonly string[] {
    const rank = (url: string) => findFailure(url, failedSeconds) ?? (url === lastGood ? -1 : 0);
    return settings.Urls.toSorted((a, b) => rank(a) - rank(b));
  }

  function refuseWhereDown(): void {
    if (settings.Urls.some((url) => findFailure(url, restSeconds) === undefined)) return;
    throw unavailable('no host answered a moment ago');
  }

  /** Waits until there is room for one more question, for as long as one host may take. */
  async function takeTurn(): Promise<void> {
    if (running < mostQuestions) {
      running += 1;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    waiting.push(resolve);
    const timer = setTimeout(() => {
      waiting.splice(waiting.indexOf(resolve), 1);
      const reason = `${mostQuestions} other questions were under way for ${settings.Timeout} s`;
      log.warn({ reason }, 'question of the directory not asked');
      reject(unavailable(reason));
    }, timeoutMs);
    await promise.finally(() => clearTimeout(timer));
  }

  /** The next one takes over the turn. */
  function passTurn(): void {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  }

  /** One question to one host, with an end whatever the host does. */
  async function askHost<Answer>(url: string, question: Question<Answer>): Promise<Answer> {
    const sockets: Socket[] = [];
    const clients: Client[] = [];
    let isOver = false;
    let hasAnswered = false;
    const { promise: failure, reject: fail } = Promise.withResolvers<never>();
    const track = <Tracked extends Socket>(socket: Tracked): Tracked => {
      sockets.push(socket);
      // With StartTLS the library waits on for what can no longer come. What it has to say itself comes first.
      socket.once('close', () => setImmediate(() => fail(new Error('the connection was lost'))));
      return socket;
    };
    let inClear = Buffer.alloc(0);
    const { hostname } = new URL(url);
    const host = hostname.replace(/^\[|\]$/g, '');
    const tls = {
      host,
      ...(isIP(host) === 0 ? { servername: host } : undefined),
      secureContext: secureContext(),
      // Whatever the environment says.
      rejectUnauthorized: true,
    };

    async function bind(dn: string, password: string): Promise<Client> {
      // Without a password a bind proves nothing, and succeeds (RFC 4513 section 5.1.2).
      if (password === '') throw new Error('a bind needs a password');
      if (isOver) throw new Error('the question is over');
      inClear = Buffer.alloc(0);
      // The library makes a new connection where the old one is gone: in clear with StartTLS, and signed in as nobody.
      let isConnected = false;
      const connectOnce = <Tracked extends Socket>(make: () => Tracked): Tracked => {
        if (isConnected) throw new Error('the connection was lost');
        isConnected = true;
        return track(make());
      };
      const client = new Client({
        url,
        timeout: timeoutMs,
        connectTimeout: timeoutMs,
        strictDN: false,
        createConnection: ((...given: Parameters<typeof connectTcp>) => {
          const socket = connectOnce(() => connectTcp(...given));
          if (!settings.StartTls) return socket;
          return socket.on('data', (data: Buffer) => {
            inClear = Buffer.concat([inClear, data]);
          });
        }) as typeof connectTcp,
        createSecureConnection: ((...given: Parameters<typeof connectTls>) => {
          // What somebody on the way adds to the answer in clear would be read as the beginning of the next one.
          if (!settings.StartTls) return connectOnce(() => connectTls(...given));
          if (!isOneMessage(inClear)) throw new Error('more than an answer to StartTLS');
          return track(connectTls(...given));
        }) as typeof connectTls,
        ...(url.startsWith('ldaps:') ? { tlsOptions: tls } : undefined),
      });
      clients.push(client);
      if (settings.StartTls) {
        await client.startTLS({ ...tls }).catch((cause: unknown) => {
          throw new Error(`StartTLS failed: ${explain(cause)}`, { cause });
        });
      }
      await client.bind(dn, password);
      return client;
    }

    const timer = setTimeout(() => {
      const reason = `no answer within ${settings.Timeout} s`;
      fail(
        hasAnswered ? new SlowQuestionError(`${reason}, but to the sign-in of BindDn`) : new Error(reason),
      );
    }, timeoutMs);
    const answer = question({
      bind,
      async bindService() {
        try {
          const client = await bind(settings.BindDn, settings.BindPassword);
          hasAnswered = true;
          return client;
        } catch (err) {
          if (!(err instanceof ResultCodeError)) throw err;
          throw new Error(`${settings.BindDn} is refused: ${explain(err)}`, { cause: err });
        }
      },
    });
    try {
      return await Promise.race([answer, failure]);
    } finally {
      clearTimeout(timer);
      isOver = true;
      answer.catch(() => undefined);
      for (const client of clients) client.unbind().catch(() => undefined);
      for (const socket of sockets) {
        socket.on('error', () => undefined);
        socket.destroySoon();
        // What does not take the last words in a moment is cut off.
        setTimeout(() => socket.destroy(), 1000).unref();
      }
    }
  }

  async function askInOrder<Answer>(question: Question<Answer>): Promise<Answer> {
    const reasons: string[] = [];
    const errors: unknown[] = [];
    for (const url of inOrder()) {
      try {
        const answer = await askHost(url, question);
        lastGood = url;
        failedAt.delete(url);
        return answer;
      } catch (err) {
        const reason = explain(err);
        reasons.push(`${url}: ${reason}`);
        errors.push(err);
        if (err instanceof MissingEntryError) continue;
        if (isFaultOfHost(err)) failedAt.set(url, now());
        log.warn({ url, reason }, 'host of the directory failed');
      }
    }
    const [missing] = errors;
    if (errors.every((err) => err instanceof MissingEntryError)) throw missing;
    throw unavailable(reasons.join('; '), errors.at(-1));
  }

  return {
    async ask(question, { isPatient }) {
      if (!isPatient) refuseWhereDown();
      await takeTurn();
      try {
        // It may have gone down while this question waited.
        if (!isPatient) refuseWhereDown();
        return await askInOrder(question);
      } finally {
        passTurn();
      }
    },

    inspect: (question) =>
      Promise.all(
        settings.Urls.map(async (url) => {
          try {
            await askHost(url, question);
            return { url, problem: undefined };
          } catch (err) {
            return { url, problem: explain(err) };
          }
        }),
      ),
  };
}

function unavailable(reasons: string, cause?: unknown): ServerError {
  return new ServerError('ERR_DIRECTORY_UNAVAILABLE', 'the directory cannot be reached', {
    status: 503,
    hint: reasons,
    cause,
  });
}

/** Whether the host is to be asked after the others: one user's entry must not take the directory from all. */
function isFaultOfHost(err: unknown): boolean {
  if (err instanceof UnusableEntryError || err instanceof SlowQuestionError) return false;
  // busy and unavailable say it of themselves.
  return !(err instanceof ResultCodeError) || err.code === 51 || err.code === 52;
}

function isOneMessage(bytes: Buffer): boolean {
  const reader = new BerReader(bytes);
  return reader.readSequence() !== null && reader.offset + reader.length === bytes.length;
}

/** In one line: what a directory says of itself may have several. */
function explain(err: unknown): string {
  const text = err instanceof Error ? err.message : String(err);
  return text.replace(/\s+/g, ' ').trim().slice(0, 500) || 'the connection failed';
}
