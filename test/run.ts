/**
 * Runs the tests: `npm test`, or `npm test -- <text> …` for the files whose path contains one of the texts.
 *
 *   --record               writes the number of tests of this run to expected-count.json
 *   TEST_CONCURRENCY=<n>   how many files run at a time, 2 unless set
 *   REQUIRE_ALL=1          a test left out, or fewer tests than expected-count.json says, fails the run
 *
 * Ends with what was left out and why, and then the closing lines of Node's test runner. The conformance
 * folder has a runner of its own.
 */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { run } from 'node:test';
import { spec, type TestEvent } from 'node:test/reporters';

/** A test that did not run, or whose result does not count. */
interface LeftOut {
  name: string;
  file: string;
  reason: string;
}

const testTimeoutMs = 60_000;
/** Without any news for this long a test file hangs: something it started was never closed. */
const silenceTimeoutMs = 180_000;
const root = join(import.meta.dirname, '..');
const expectedCountFile = join(import.meta.dirname, 'expected-count.json');

/** Runs the files that the arguments choose and returns the exit code. */
async function runTests(args: readonly string[]): Promise<number> {
  const filters = args.filter((arg) => !arg.startsWith('--'));
  const files = findTestFiles(filters);
  if (files.length === 0) {
    console.error(`no test file under test/ has ${filters.join(' or ')} in its path`);
    return 1;
  }

  // The launcher between npm and us closes this channel when it is killed; nobody waits for the result then.
  process.once('disconnect', () => process.exit(1));
  process.channel?.unref();

  const silence = new AbortController();
  const events = run({
    files,
    concurrency: Number(process.env.TEST_CONCURRENCY ?? 2),
    isolation: 'process',
    execArgv: ['--disable-warning=ExperimentalWarning', `--test-timeout=${testTimeoutMs}`],
    signal: silence.signal,
  });
  const outcome = new Outcome(silence);
  await pipeline(Readable.from(outcome.observe(events)), new spec(), process.stdout, { end: false });

  const complaints = [
    ...(outcome.succeeded ? [] : ['not every test passed']),
    ...(silence.signal.aborted
      ? [`nothing happened for ${silenceTimeoutMs / 1000} s: ${outcome.describeUnfinished(files)}`]
      : []),
    ...(process.env.REQUIRE_ALL === '1' ? outcome.findShortfall(filters.length === 0) : []),
  ];
  if (args.includes('--record') && complaints.length === 0 && filters.length === 0) {
    writeFileSync(expectedCountFile, `${JSON.stringify({ minimum: outcome.testCount }, null, 2)}\n`);
  }
  console.log(outcome.describeLeftOut());
  for (const complaint of complaints) console.log(`✖ ${complaint}`);
  console.log(`\n${outcome.closingLines.map((line) => `ℹ ${line}`).join('\n')}`);
  return complaints.length === 0 ? 0 : 1;
}

/** The test files, by path from the repository's root in a fixed order, whose path contains one of `filters`, if any. */
function findTestFiles(filters: readonly string[]): string[] {
  const wanted = filters.map((filter) => filter.replaceAll('\\', '/'));
  return globSync('test/**/*.test.ts', { cwd: root })
    .map((file) => file.replaceAll('\\', '/'))
    .filter((file) => !file.startsWith('test/conformance/'))
    .filter((file) => wanted.length === 0 || wanted.some((filter) => file.includes(filter)))
    .sort()
    .map((file) => join(root, file));
}

/** What a run came to, gathered while its events pass on to the reporter. */
class Outcome {
  /** The runner's own closing lines, held back so that they end the output, failures or not. */
  readonly closingLines: string[] = [];
  testCount = 0;
  succeeded = false;
  readonly #leftOut: LeftOut[] = [];
  readonly #finishedFiles = new Set<string>();
  readonly #silence: AbortController;

  constructor(silence: AbortController) {
    this.#silence = silence;
  }

  /** Passes on what the reporter is to print: all but the closing lines. Aborts the run when it falls silent. */
  async *observe(events: AsyncIterable<TestEvent>): AsyncGenerator<TestEvent> {
    let alarm = setTimeout(() => {}, 0);
    try {
      for await (const event of events) {
        clearTimeout(alarm);
        alarm = setTimeout(() => this.#silence.abort(), silenceTimeoutMs);
        const shown = this.#note(event);
        if (shown !== undefined) yield shown;
      }
    } finally {
      clearTimeout(alarm);
    }
  }

  #note(event: TestEvent): TestEvent | undefined {
    switch (event.type) {
      case 'test:pass':
      case 'test:fail': {
        const { name, file = '', skip, todo } = event.data;
        if (skip === undefined && todo === undefined) return event;
        const reason = [skip, todo].find((value) => typeof value === 'string' && value !== '');
        this.#leftOut.push({
          name,
          file: relative(root, file).replaceAll('\\', '/'),
          reason: String(reason ?? (skip === undefined ? 'to do' : 'skipped')),
        });
        return skip === undefined ? event : asPassed(event);
      }
      case 'test:diagnostic':
        if (event.data.nesting !== 0 || event.data.file !== undefined) return event;
        this.closingLines.push(event.data.message);
        return undefined;
      case 'test:summary':
        if (event.data.file !== undefined) {
          this.#finishedFiles.add(event.data.file);
        } else {
          this.testCount = event.data.counts.tests;
          this.succeeded = event.data.success;
        }
        return event;
      default:
        return event;
    }
  }

  /** The section that names each test left out, by reason. */
  describeLeftOut(): string {
    if (this.#leftOut.length === 0) return '\nNothing was left out.';
    const byReason = Map.groupBy(this.#leftOut, ({ reason }) => reason);
    const sections = [...byReason].map(
      ([reason, tests]) => `  ${reason}\n${tests.map(({ file, name }) => `    ${file}: ${name}`).join('\n')}`,
    );
    return `\nLeft out (${this.#leftOut.length}):\n${sections.join('\n')}`;
  }

  /** What REQUIRE_ALL=1 objects to. */
  findShortfall(isWholeRun: boolean): string[] {
    const { minimum } = JSON.parse(readFileSync(expectedCountFile, 'utf8')) as { minimum: number };
    return [
      ...(this.#leftOut.length > 0 ? [`REQUIRE_ALL=1, and ${this.#leftOut.length} tests were left out`] : []),
      ...(isWholeRun && this.testCount < minimum
        ? [`REQUIRE_ALL=1, and ${this.testCount} tests ran where at least ${minimum} are expected`]
        : []),
    ];
  }

  /** Names the files that have not reported their end: a test hangs there, or left something open. */
  describeUnfinished(files: readonly string[]): string {
    const unfinished = files.filter((file) => !this.#finishedFiles.has(file));
    return `${unfinished.map((file) => relative(root, file)).join(', ')} did not finish`;
  }
}

/** The runner reports a test that left itself by an exception after skip() as failed, but counts it as skipped. */
function asPassed(event: Extract<TestEvent, { type: 'test:pass' | 'test:fail' }>): TestEvent {
  const { error: _error, ...details } = { error: undefined, ...event.data.details };
  return { type: 'test:pass', data: { ...event.data, details } };
}

// node:test takes over uncaught errors once it is loaded, and says nothing of those that are not a test's.
process.exitCode = await runTests(process.argv.slice(2)).catch((err: unknown) => {
  console.error(err);
  return 1;
});
