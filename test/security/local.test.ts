/** What lies on the machine itself, and what commands print of it: in no hands of ours, or not any more. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { install } from '../commands/postern.ts';
import { requireCommand } from '../support/requirements.ts';

test('what is put in the place of a config file, and is none, holds nobody up', async (t) => {
  const mkfifo = requireCommand(t, 'mkfifo', 'coreutils');
  const place = await install(t);
  const file = join(place.folder, 'config/clients/mvc.json');
  const content = readFileSync(file, 'utf8');
  const program = place.spawn(['start']);
  await program.waitFor(/listening/);
  const answers = async () => {
    const jwks = `${place.issuer}/.well-known/jwks`;
    assert.equal((await fetch(jwks, { signal: AbortSignal.timeout(20_000) })).status, 200);
  };
  const strange: readonly [put: () => void, said: RegExp][] = [
    [() => execFileSync(mkfifo, [file]), /cannot be read \(it is no file\)/],
    [() => symlinkSync('/dev/zero', file), /cannot be read \(it is no file\)/],
    [
      () => {
        writeFileSync(file, '');
        truncateSync(file, 300 * 1024 * 1024);
      },
      /cannot be read \(it is larger than 16 MiB\)/,
    ],
  ];
  const changeAndHear = async (change: () => void, said: RegExp) => {
    const before = program.output().stdout.length;
    rmSync(file);
    change();
    for (let round = 0; round < 200 && !said.test(program.output().stdout.slice(before)); round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      await answers();
    }
    assert.match(program.output().stdout.slice(before), said);
  };
  for (const [index, [put, said]] of strange.entries()) {
    await changeAndHear(put, said);
    const { code, stderr } = await place.run(['check-config']);
    assert.equal(code, 78);
    assert.match(stderr, said);
    await changeAndHear(() => writeFileSync(file, `${content}// ${index}\n`), /configuration reloaded/);
  }
});
