/**
 * A connection that speaks just enough HTTP/1.1 to ask one thing after another: the load must cost less than what
 * it measures. Answers have a Content-Length or no body, as all of those here do.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

export interface Address {
  readonly port: number;
  readonly isTls: boolean;
  /** A connection for each request. */
  readonly isFresh: boolean;
}

export interface Answer {
  readonly status: number;
  /** The head as it came, with its status line. */
  readonly head: string;
  readonly body: string;
}

export type Connection = ReturnType<typeof createConnection>;

/** Opens nothing before the first request. */
export function createConnection({ isFresh, isTls, port }: Address) {
  let socket: Socket | undefined;
  let received = '';
  let waiting: PromiseWithResolvers<Answer> | undefined;

  function open(): Socket {
    const options = { port, host: '127.0.0.1', noDelay: true };
    const opened = isTls
      ? connectTls({ ...options, rejectUnauthorized: false, servername: 'localhost' })
      : connectTcp(options);
    opened.setEncoding('latin1');
    received = '';
    opened.on('data', (text: string) => {
      received += text;
      const answer = parse(received);
      if (answer === undefined) return;
      received = '';
      if (isFresh || /^connection: close/im.test(answer.head)) {
        if (socket === opened) socket = undefined;
        opened.destroy();
      }
      waiting?.resolve(answer);
    });
    opened.on('error', (err) => waiting?.reject(err));
    opened.on('close', () => {
      if (socket !== opened) return;
      socket = undefined;
      waiting?.reject(new Error('the connection was closed'));
    });
    return opened;
  }

  return {
    /** Sends a whole request, as {@link writeRequest} makes it. */
    send(request: string): Promise<Answer> {
      socket ??= open();
      waiting = Promise.withResolvers();
      socket.write(request, 'latin1');
      return waiting.promise;
    },
    close(): void {
      socket?.destroy();
      socket = undefined;
    },
  };
}

function parse(text: string): Answer | undefined {
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const head = text.slice(0, end);
  if (/^transfer-encoding:/im.test(head)) throw new Error('an answer in chunks is not read here');
  const length = Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0);
  if (text.length < end + 4 + length) return undefined;
  return { status: Number(text.slice(9, 12)), head, body: text.slice(end + 4) };
}

/** A request as it goes over the wire; one with a form is a POST. */
export function writeRequest(
  path: string,
  { form, headers = {} }: { form?: Record<string, string>; headers?: Record<string, string> } = {},
): string {
  const body = form === undefined ? '' : new URLSearchParams(form).toString();
  const lines = [
    `${form === undefined ? 'GET' : 'POST'} ${path} HTTP/1.1`,
    'Host: localhost',
    ...(form === undefined
      ? []
      : ['Content-Type: application/x-www-form-urlencoded', `Content-Length: ${body.length}`]),
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  return `${lines.join('\r\n')}\r\n\r\n${body}`;
}

/** A browser that keeps cookies, follows redirects of its server, and posts forms: no more than a sign-in needs. */
export function createVisitor(connection: Connection) {
  const cookies = new Map<string, { path: string; pair: string }>();

  async function request(path: string, form?: Record<string, string>): Promise<Answer> {
    const cookie = [...cookies.values()]
      .filter((one) => path.startsWith(one.path))
      .map(({ pair }) => pair)
      .join('; ');
    const answer = await connection.send(
      writeRequest(path, {
        ...(form === undefined ? undefined : { form }),
        headers: { Accept: 'text/html', ...(cookie === '' ? undefined : { Cookie: cookie }) },
      }),
    );
    for (const [, line = ''] of answer.head.matchAll(/^set-cookie: (.*)$/gim)) {
      const pair = line.slice(0, line.indexOf(';'));
      const path = /; path=([^;\r]*)/i.exec(line)?.[1] ?? '/';
      const key = `${path} ${pair.slice(0, pair.indexOf('='))}`;
      if (/expires=Thu, 01 Jan 1970/i.test(line)) cookies.delete(key);
      else cookies.set(key, { path, pair });
    }
    return answer;
  }

  /** Follows redirects as long as they stay with the server; the page, or the address that leads away. */
  async function open(path: string, form?: Record<string, string>): Promise<Answer & { away?: URL }> {
    let answer = await request(path, form);
    for (let hop = 0; hop < 10; hop += 1) {
      const location = /^location: (.*)$/im.exec(answer.head)?.[1]?.trim();
      if (location === undefined) return answer;
      const url = new URL(location, 'http://localhost');
      if (url.searchParams.has('code') || url.searchParams.has('error')) return { ...answer, away: url };
      answer = await request(url.pathname + url.search);
    }
    throw new Error('too many redirects');
  }

  return {
    open,

    /** Posts the form of a page that has `field`, filled in. */
    submit(page: Answer, fields: Record<string, string>) {
      const forms = page.body.match(/<form[^>]*>[\s\S]*?<\/form>/g) ?? [];
      const [name = ''] = Object.keys(fields);
      const form = forms.find((one) => one.includes(`name="${name}"`));
      if (form === undefined)
        throw new Error(`no form with ${name}: ${page.head}\n${page.body.slice(0, 500)}`);
      const values: Record<string, string> = {};
      for (const [input] of form.matchAll(/<input[^>]*type="hidden"[^>]*>/g)) {
        values[attribute(input, 'name')] = attribute(input, 'value');
      }
      const url = new URL(attribute(form, 'action'), 'http://localhost');
      return open(url.pathname + url.search, { ...values, ...fields });
    },
  };
}

function attribute(tag: string, name: string): string {
  return (new RegExp(`\\b${name}="([^"]*)"`).exec(tag)?.[1] ?? '')
    .replaceAll('&quot;', '"')
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&');
}
