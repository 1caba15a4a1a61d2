/**
 * Runs the properties of this folder on new inputs: `npm run fuzz`, or `npm run fuzz -- --seconds 600 saml` for ten
 * minutes each of those in files whose path contains the text. A failure says the seed and the path of its input:
 *
 *   npm run fuzz -- --seed 20260101 --path 440:1:2 requests
 */
import { globSync } from 'node:fs';
import { join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { parseArgs } from 'node:util';

const usualSeconds = '60';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string' }, seed: { type: 'string' }, path: { type: 'string' } },
});
const files = globSync('*.test.ts', { cwd: import.meta.dirname })
  .filter((file) => positionals.length === 0 || positionals.some((text) => file.includes(text)))
  .sort()
  .map((file) => join(import.meta.dirname, file));
if (files.length === 0) throw new Error(`no file of test/fuzz has ${positionals.join(' or ')} in its name`);

process.once('disconnect', () => process.exit(1));
process.channel?.unref();
const { seconds = usualSeconds, seed, path } = values;
const events = run({
  files,
  concurrency: 1,
  // A property ends by itself, and so does a server that hangs: each request has its deadline.
  execArgv: ['--disable-warning=ExperimentalWarning', '--test-timeout=0'],
  env: {
    ...process.env,
    FUZZ_SECONDS: seconds,
    ...(seed === undefined ? undefined : { FUZZ_SEED: seed }),
    ...(path === undefined ? undefined : { FUZZ_PATH: path }),
  },
});
events.on('test:fail', () => {
  process.exitCode = 1;
});
events.compose(new spec()).pipe(process.stdout);
