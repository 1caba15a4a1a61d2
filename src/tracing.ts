/**
 * Traces as OpenTelemetry has them: spans in the JSON of OTLP/HTTP 1.x, and `traceparent` of W3C Trace Context. Both
 * are formats of a page; why their libraries are not used is in docs/adr/0018.
 *
 * A span says what was done and for how long, never with what: no query, body, binding, token or name of a user.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerError } from './errors.ts';
import type { Logger } from './log.ts';

type Attributes = Readonly<Record<string, boolean | number | string | undefined>>;
type Kind = 'client' | 'internal' | 'server';

/** What a span learns while it lasts. */
export interface Span {
  set(attributes: Attributes): void;
  /** As the caller of somebody else: for the header `traceparent`. */
  readonly traceparent: string;
}

export interface SpanStart {
  /** One of few: never an id, a path as it was sent or a name. */
  readonly name: string;
  readonly kind?: Kind;
  readonly attributes?: Attributes;
}

export interface Tracing extends AsyncDisposable {
  /** Has `work` be the root of what it does, or a part of what a caller whom we believe has begun. */
  serve<T>(
    start: SpanStart & { readonly traceparent?: string | undefined },
    work: (span: Span) => Promise<T>,
  ): Promise<T>;
  /** Has `work` be a part of the request in hand; where there is none, and it is not sampled, just does it. */
  within<T>(start: SpanStart, work: (span?: Span) => Promise<T>): Promise<T>;
  /** Of the request in hand, sampled or not; for the log. */
  readonly traceId: string | undefined;
}

export interface TracingOptions {
  readonly log: Logger;
  /** Which part of the requests is sampled that come without a decision, 0 to 1. */
  readonly ratio: number;
  /** Of the resource: `service.name` and what else says who we are. */
  readonly resource: Attributes;
  /** Posts a body of JSON, and gives the status of the answer; may reject. */
  readonly send: (body: string) => Promise<number>;
  /** How long spans are gathered. */
  readonly intervalMs?: number;
  /** How many wait at the most. */
  readonly capacity?: number;
}

/** What goes on in one request. */
interface Trace {
  readonly traceId: string;
  readonly isSampled: boolean;
  /** Of the span in hand. */
  readonly spanId: string;
  /** The clock of the system when the trace began, in milliseconds, and the steady one. */
  readonly clock: { readonly wall: number; readonly steady: number };
}

/** A span as OTLP writes it in JSON: ids in hexadecimal, 64 bits as text. */
interface WrittenSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: object }[];
  status: { code?: number };
}

const kinds = { internal: 1, server: 2, client: 3 } as const;
const failed = 2;
/** What one request to the collector holds. */
const batchSize = 512;
/** How long a stop waits for the last ones. */
const stopMs = 3000;

/** Makes it; spans are sent every `intervalMs`, and when it is disposed. */
export function createTracing({
  capacity = 8192,
  intervalMs = 5000,
  log,
  ratio,
  resource,
  send,
}: TracingOptions): Tracing {
  const traces = new AsyncLocalStorage<Trace>();
  const waiting: WrittenSpan[] = [];
  let dropped = 0;
  let isFailing = false;
  let isRefusing = false;
  const stop = new AbortController();

  async function record<T>(
    trace: Trace,
    { attributes = {}, kind = 'internal', name, parentId }: SpanStart & { parentId: string | undefined },
    work: (span: Span) => Promise<T>,
  ): Promise<T> {
    const known = { ...attributes };
    const span: Span = {
      set: (more) => void Object.assign(known, more),
      traceparent: `00-${trace.traceId}-${trace.spanId}-${trace.isSampled ? '01' : '00'}`,
    };
    if (!trace.isSampled) return traces.run(trace, work, span);
    const startedAt = performance.now();
    let hasFailed = false;
    try {
      return await traces.run(trace, work, span);
    } catch (err) {
      hasFailed = true;
      // Its message may hold what was sent.
      known['error.type'] = codeOf(err);
      throw err;
    } finally {
      const status = known['http.response.status_code'];
      hasFailed ||= kind === 'server' && typeof status === 'number' && status >= 500;
      if (waiting.length >= capacity) dropped += 1;
      else {
        waiting.push({
          traceId: trace.traceId,
          spanId: trace.spanId,
          ...(parentId === undefined ? undefined : { parentSpanId: parentId }),
          name,
          kind: kinds[kind],
          startTimeUnixNano: toNanoseconds(trace.clock, startedAt),
          endTimeUnixNano: toNanoseconds(trace.clock, performance.now()),
          attributes: toAttributes(known),
          status: hasFailed ? { code: failed } : {},
        });
      }
    }
  }

  async function flush(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, batchSize);
      try {
        const status = await send(toRequest(resource, batch));
        if (status === 429 || status >= 500) throw new Error(`the collector answered with status ${status}`);
        const isRefused = status >= 400;
        if (isRefused) {
          // It would not take them the next time either.
          dropped += batch.length;
          // Once until it takes some: behind a wrong address somebody may refuse them for ever.
          if (!isRefusing) log.error({ status, spans: batch.length }, 'collector of traces refused spans');
        }
        isRefusing = isRefused;
        waiting.splice(0, batch.length);
        if (isFailing) log.info({ dropped }, 'collector of traces reached again');
        if (isFailing) dropped = 0;
        isFailing = false;
      } catch (err) {
        // Of a call that failed the message is about identity providers, and the hint about the host.
        const { hint, message } = err as Partial<ServerError>;
        // Once an outage.
        if (!isFailing) {
          log.warn({ reason: hint ?? message }, 'collector of traces not reached; spans wait in memory');
        }
        isFailing = true;
        return;
      }
    }
  }

  const running = (async () => {
    for (;;) {
      await sleep(intervalMs, undefined, { signal: stop.signal });
      await flush();
    }
  })().catch((err: unknown) => {
    if (!stop.signal.aborted) throw err;
  });

  return {
    serve({ traceparent, ...start }, work) {
      const parent = parseTraceparent(traceparent);
      const traceId = parent?.traceId ?? randomBytes(16).toString('hex');
      const isSampled = parent?.isSampled ?? isChosen(traceId, ratio);
      const clock = { wall: Date.now(), steady: performance.now() };
      const trace = { traceId, isSampled, spanId: newSpanId(), clock };
      return record(trace, { ...start, parentId: parent?.spanId }, work);
    },
    within(start, work) {
      const parent = traces.getStore();
      if (parent === undefined) return work();
      return record({ ...parent, spanId: newSpanId() }, { ...start, parentId: parent.spanId }, work);
    },
    get traceId() {
      return traces.getStore()?.traceId;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await Promise.race([running.then(flush), sleep(stopMs, undefined, { ref: false })]);
    },
  };
}

function newSpanId(): string {
  return randomBytes(8).toString('hex');
}

/** The same for every service that decides by the same ratio. */
function isChosen(traceId: string, ratio: number): boolean {
  return Number.parseInt(traceId.slice(-8), 16) < ratio * 2 ** 32;
}

/** W3C Trace Context section 3.2: what a later version adds behind is not read. */
function parseTraceparent(text: string | undefined) {
  const match =
    /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(
      text ?? '',
    );
  if (match === null) return undefined;
  const [, version, traceId = '', spanId = '', flags = '', more] = match;
  if (version === '00' && more !== undefined) return undefined;
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

function codeOf(err: unknown): string {
  const { code, error, name } = err as { code?: unknown; error?: unknown; name?: unknown };
  const known = [code, error, name].find((one) => typeof one === 'string' && /^[\w.-]{1,64}$/.test(one));
  return typeof known === 'string' ? known : 'unknown';
}

function toNanoseconds({ steady, wall }: Trace['clock'], at: number): string {
  // Microseconds are all that there is; in whole numbers, for 64 bits are beyond a number.
  return String(BigInt(Math.round((wall + at - steady) * 1000)) * 1000n);
}

function toAttributes(attributes: Attributes): WrittenSpan['attributes'] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : [{ key, value: toValue(value) }],
  );
}

/** `AnyValue` of OTLP; 64 bits as text. */
function toValue(value: boolean | number | string): object {
  if (typeof value === 'string') return { stringValue: value };
  if (typeof value === 'boolean') return { boolValue: value };
  return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}

/** `ExportTraceServiceRequest` of OTLP. */
function toRequest(resource: Attributes, spans: readonly WrittenSpan[]): string {
  return JSON.stringify({
    resourceSpans: [
      {
        resource: { attributes: toAttributes(resource) },
        scopeSpans: [{ scope: { name: 'postern' }, spans }],
      },
    ],
  });
}
