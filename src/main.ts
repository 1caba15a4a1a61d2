/** The program: hands the process to the command line, and is alone in touching it. */
import { setFlagsFromString } from 'node:v8';
import { runCommand } from './commands/command-line.ts';

// The heap is collected when it has grown by half, and not when it is several times as large: docs/performance.md,
// "Memory". Said here, an engine that does not know it starts all the same.
setFlagsFromString('--heap-growing-percent=50');

const isWindows = process.platform === 'win32';
/** The console of Windows sends SIGBREAK for Ctrl+Break, and SIGHUP when its window is closed. */
const stopSignals: readonly NodeJS.Signals[] = [
  'SIGTERM',
  'SIGINT',
  'SIGBREAK',
  ...(isWindows ? ['SIGHUP' as const] : []),
];

// Whoever read our output has gone, as `head` does; there is nobody to tell, and no stack to show.
process.stdout.on('error', (err: NodeJS.ErrnoException) => {
  if (err.code !== 'EPIPE') throw err;
  process.exit(128 + 13);
});

process.exitCode = await runCommand(process.argv.slice(2), {
  env: process.env,
  workingDirectory: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  now: () => Math.floor(Date.now() / 1000),
  onStop(listener) {
    for (const signal of stopSignals) process.on(signal, listener);
    // The launcher keeps this channel open while it lives; its end is the only sign of a killed launcher.
    process.on('disconnect', listener);
    // Whoever supervises several processes says it so, on systems without signals too.
    const take = (message: unknown) => void (message === 'stop' && listener());
    process.on('message', take);
    process.channel?.unref();
    return {
      [Symbol.dispose]() {
        for (const signal of stopSignals) process.off(signal, listener);
        process.off('disconnect', listener);
        process.off('message', take);
      },
    };
  },
  onReload(listener) {
    const take = (message: unknown) => void (message === 'reload' && listener());
    process.on('message', take);
    if (!isWindows) process.on('SIGHUP', listener);
    process.channel?.unref();
    return {
      [Symbol.dispose]() {
        process.off('SIGHUP', listener);
        process.off('message', take);
      },
    };
  },
  exit: (code) => process.exit(code),
});
