/** What a command has of the process around it. `main.ts` makes it; no command touches the process itself. */
import { createInterface } from 'node:readline';
import { type Readable, Writable } from 'node:stream';
import { CommandError, exitCodes } from './exit.ts';

export interface CommandIo {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** What relative paths start from. */
  readonly workingDirectory: string;
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable;
  /** Seconds since the epoch. */
  now(): number;
  /** Calls back whenever the process is asked to stop, by a signal or by the end of who started it. */
  onStop(listener: () => void): Disposable;
  /** Calls back whenever the process is asked to read its configuration again. */
  onReload(listener: () => void): Disposable;
  /** Ends the process now, whatever is under way. */
  exit(code: number): void;
}

/** Reads what a person types, without showing it, or what a pipe holds, a line for each question. */
export interface SecretReader extends Disposable {
  /**
   * The answer to `question`; an empty one is refused.
   *
   * @throws {CommandError} where standard input ends first, or Ctrl+C is typed
   */
  ask(question: string): Promise<string>;
  /** As {@link ask}, but a person types it twice, the same both times. */
  askTwice(question: string): Promise<string>;
}

/** Opens standard input for secrets. A prompt is written to standard error, so that output can be piped on. */
export function openSecretReader({ stdin, stderr }: Pick<CommandIo, 'stderr' | 'stdin'>): SecretReader {
  const isTerminal = stdin.isTTY === true;
  // In raw mode nothing but this interface echoes, and what it echoes goes nowhere.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: stdin, output: nowhere, terminal: isTerminal, historySize: 0 });
  const waiting: { resolve(line: string): void; reject(err: Error): void }[] = [];
  const arrived: string[] = [];
  let ending: CommandError | undefined;

  const end = (exitCode: number, message: string, hint?: string) => {
    ending ??= new CommandError(exitCode, message, hint === undefined ? {} : { hint });
    for (const { reject } of waiting.splice(0)) reject(ending);
    lines.close();
  };
  lines.on('line', (line) => {
    const next = waiting.shift();
    if (next === undefined) arrived.push(line);
    else next.resolve(line);
  });
  lines.on('SIGINT', () => end(128 + 2, 'interrupted'));
  lines.on('close', () =>
    end(
      exitCodes.usage,
      'standard input ended where a secret was expected',
      'pipe one line in, or use a terminal',
    ),
  );

  function readLine(): Promise<string> {
    const line = arrived.shift();
    if (line !== undefined) return Promise.resolve(line);
    if (ending !== undefined) return Promise.reject(ending);
    return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  }

  async function ask(question: string): Promise<string> {
    if (isTerminal) stderr.write(`${question}: `);
    try {
      const answer = await readLine();
      if (answer === '') throw new CommandError(exitCodes.usage, `${question}: nothing was given`);
      return answer;
    } finally {
      if (isTerminal) stderr.write('\n');
    }
  }

  return {
    ask,
    async askTwice(question) {
      const answer = await ask(question);
      if (isTerminal && (await ask(`${question} again`)) !== answer) {
        throw new CommandError(exitCodes.usage, 'the two are not the same');
      }
      return answer;
    },
    [Symbol.dispose]() {
      lines.close();
    },
  };
}

/** Asks a person a yes-or-no question; false unless the answer is yes. */
export async function confirm(
  { stdin, stderr }: Pick<CommandIo, 'stderr' | 'stdin'>,
  question: string,
): Promise<boolean> {
  const lines = createInterface({
    input: stdin,
    output: stderr,
    terminal: stdin.isTTY === true,
    historySize: 0,
  });
  try {
    const answer = await new Promise<string>((resolve) => {
      lines.once('close', () => resolve(''));
      lines.question(`${question} [y/N] `, resolve);
    });
    return /^\s*y(es)?\s*$/i.test(answer);
  } finally {
    lines.close();
  }
}
