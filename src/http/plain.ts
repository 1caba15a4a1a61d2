/**
 * What programs ask for all day, answered ahead of the application: the documents that everybody may read, and forms
 * that are plain and right. It costs half of what it would there, where everything is at hand that browsers, old
 * callers and errors need.
 *
 * Nothing is refused here and nothing is counted. Whatever is unusual about a request goes on to the application, body
 * and all, as if nobody had looked at it; so does what has failed, for it to be told there.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Middleware } from 'koa';
import type { Audit } from '../audit.ts';
import { giveBack, readPlainForm } from './form.ts';
import {
  everyAnswer,
  type NoteAnswer,
  nameRequest,
  requestIdHeader,
  withoutEndingSlashes,
} from './middleware.ts';

/** A form that a program has posted, each field once. */
export interface PlainForm {
  readonly fields: URLSearchParams;
  /** The header. */
  readonly authorization: string | undefined;
  readonly requestId: string;
  readonly clientAddress: string;
}

/** Gives the JSON of a good answer. Undefined where the application has to look at it; then nothing has changed. */
export type AnswerPlainly = (form: PlainForm) => Promise<Readonly<Record<string, unknown>> | undefined>;

export interface PlainOptions {
  readonly audit: Pick<Audit, 'within'>;
  /** The text of each document by its whole path in lower case. */
  readonly documents: ReadonlyMap<string, () => string>;
  /** Who answers the forms that are posted to a path, as we print it. */
  readonly forms: ReadonlyMap<string, AnswerPlainly>;
  readonly noteAnswer: NoteAnswer;
  /** Where a request comes from. */
  readonly addressOf: (request: IncomingMessage) => string;
}

/** What {@link passFailure} has to tell. */
const failures = new WeakMap<IncomingMessage, unknown>();

/** Goes behind what answers errors. */
export const passFailure: Middleware = async ({ req }, next) => {
  if (failures.has(req)) throw failures.get(req);
  await next();
};

/** Makes the listener; `serve` is the application. */
export function servePlainly(
  { addressOf, audit, documents, forms, noteAnswer }: PlainOptions,
  serve: RequestListener,
): RequestListener {
  function respond(
    { method = '' }: IncomingMessage,
    response: ServerResponse,
    { headers, path, requestId, startedAt, text }: Answer,
  ): void {
    const length = String(Buffer.byteLength(text));
    response.writeHead(200, [...headers, 'Content-Length', length, requestIdHeader, requestId]);
    response.end(method === 'HEAD' ? undefined : text);
    noteAnswer({ requestId, method, path, status: 200, startedAt });
  }

  async function answerForm(
    request: IncomingMessage,
    response: ServerResponse,
    answer: AnswerPlainly,
  ): Promise<void> {
    const startedAt = performance.now();
    const requestId = nameRequest();
    try {
      const fields = await readPlainForm(request);
      const clientAddress = addressOf(request);
      const { authorization } = request.headers;
      const form = fields && { fields, authorization, requestId, clientAddress };
      const body = form && (await audit.within({ requestId, clientAddress }, () => answer(form)));
      if (body !== undefined) {
        const text = JSON.stringify(body);
        const { url: path = '' } = request;
        respond(request, response, { headers: ofForms, path, requestId, startedAt, text });
        return;
      }
    } catch (err) {
      failures.set(request, err);
    }
    giveBack(request);
    serve(request, response);
  }

  return function serveOne(request, response) {
    const { method, url = '' } = request;
    if (method === 'POST') {
      const answer = forms.get(url);
      if (answer === undefined || !isPlain(request)) return serve(request, response);
      return void answerForm(request, response, answer);
    }
    const [path = ''] = url.split('?', 1);
    const document = documents.get(path) ?? documents.get(withoutEndingSlashes(path.toLowerCase()));
    if (document === undefined || (method !== 'GET' && method !== 'HEAD')) return serve(request, response);
    const startedAt = performance.now();
    const requestId = nameRequest();
    // A body that nobody reads ends the connection with the answer.
    const headers = hasBody(request) ? [...ofDocuments, 'Connection', 'close'] : ofDocuments;
    respond(request, response, { headers, path, requestId, startedAt, text: document() });
  };
}

interface Answer {
  readonly headers: readonly string[];
  /** Without a query: that is for nobody to know. */
  readonly path: string;
  readonly requestId: string;
  readonly startedAt: number;
  readonly text: string;
}

const json = { ...everyAnswer, 'Content-Type': 'application/json; charset=utf-8' };
const ofForms = Object.entries({ ...json, 'Cache-Control': 'no-store' }).flat();
const ofDocuments = Object.entries({
  ...json,
  'Access-Control-Allow-Origin': '*',
  'Cache-Control': 'public, max-age=300',
}).flat();

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** Neither a script of another origin, nor somebody who wants to be answered in another form. */
function isPlain({ headers: { accept = '*/*', origin } }: IncomingMessage): boolean {
  return origin === undefined && /^(?:\*\/\*|application\/json(?:, ?\*\/\*)?)$/.test(accept);
}
