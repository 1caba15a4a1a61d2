/** What lies on the machine itself, and what commands print of it: in no hands of ours, or not any more. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chownSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { install } from '../commands/postern.ts';
import { createBrowser } from '../support/browser.ts';
import { requireCommand } from '../support/requirements.ts';
import { findFreePort, untilOpen } from '../support/start-server.ts';

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

test('nor what is put in the place of the certificate for TLS', async (t) => {
  const mkfifo = requireCommand(t, 'mkfifo', 'coreutils');
  const port = await findFreePort();
  const management = await findFreePort();
  const tls = (name: string) => readFileSync(join(import.meta.dirname, '../fixtures/tls', name), 'utf8');
  const place = await install(t, {
    server: {
      PublicUrl: `https://localhost:${port}/SPSSMR/Oidc`,
      Listener: { Host: '127.0.0.1', Port: port, Tls: { CertificateFile: 'tls.pem', KeyFile: 'key.pem' } },
      Management: { Port: management },
    },
    files: { 'tls.pem': tls('localhost.pem'), 'key.pem': tls('key.pem') },
  });
  const program = place.spawn(['start']);
  await untilOpen(port);
  await untilOpen(management);
  rmSync(join(place.folder, 'tls.pem'));
  execFileSync(mkfifo, [join(place.folder, 'tls.pem')]);
  // It looks when the certificate ends.
  const ready = `http://127.0.0.1:${management}/health/ready`;
  const said = /cannot be renewed; the one in use stays/;
  for (let round = 0; round < 200 && !said.test(program.output().stdout); round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal((await fetch(ready, { signal: AbortSignal.timeout(20_000) })).status, 200);
  }
  assert.match(program.output().stdout, said);
});

test('what others have written is text where a command prints it: nothing a terminal obeys, no line of its own', async (t) => {
  const place = await install(t);
  assert.equal((await place.run(['migrate'])).code, 0);
  // Line breaks are allowed in a name that is shown, and so is what turns the order of letters.
  const displayName = 'Eve\r\nadmin  The administrator\u202ekcab';
  await place.write('people.jsonl', `${JSON.stringify({ name: 'eve', displayName })}\n`);
  assert.equal((await place.run(['account', 'import', 'people.jsonl'])).code, 0);
  const { stdout } = await place.run(['account', 'list']);
  assert.match(stdout, /^eve +Eve\\u000d\\u000aadmin {2}The administrator\\u202ekcab/m);
  assert.doesNotMatch(stdout, /^admin/m);

  await place.write('config/clients/\u001b[2J\u009b31m.json', '{ "\\u001b]0;x\\u0007": 1 }');
  const { code, stderr } = await place.run(['check-config']);
  assert.equal(code, 78);
  assert.match(stderr, /config\/clients\/\\u001b\[2J\\u009b31m\.json/);
  for (const text of [stdout, stderr]) {
    assert.deepEqual(text.match(/[^\P{Cc}\n]|\p{Bidi_Control}/gu), null);
  }
});

test('who may write into the audit folder has the superuser write nowhere else, and gets no file of theirs', async (t) => {
  if (process.platform === 'win32') return t.skip('Windows has no superuser to give files away');
  const place = await install(t, { server: { Audit: { To: 'folder' } } });
  assert.equal((await place.run(['migrate'])).code, 0);
  const folder = join(place.folder, 'data/audit');
  const victim = join(place.folder, 'of-the-superuser');
  const isSuperuser = process.getuid?.() === 0;
  const day = () => new Date().toISOString().slice(0, 10);
  const plants: readonly ((path: string) => void)[] = [
    (path) => symlinkSync(victim, path),
    // The file of somebody else: for everybody else it is their own.
    ...(isSuperuser ? [(path: string) => linkSync(victim, path)] : []),
  ];
  for (const [index, plant] of plants.entries()) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    writeFileSync(victim, 'mine\n', { mode: 0o600 });
    plant(join(folder, `audit-${day()}.ndjson`));
    if (isSuperuser) chownSync(folder, 65_534, 65_534);
    const { code } = await place.run(['account', 'add', `somebody${index}`, '--no-password']);
    assert.equal(code, 0);
    assert.equal(readFileSync(victim, 'utf8'), 'mine\n');
    assert.equal(statSync(victim).uid, process.getuid?.());
    rmSync(victim);
  }
});

test('what else comes to the address that a command waits at does not end it', async (t) => {
  const port = await findFreePort();
  const callback = `http://localhost:${port}/callback`;
  const place = await install(t, {
    clients: {
      tool: {
        Flow: 'AuthorizationCodeWithProofKey',
        ApplicationType: 'Native',
        RedirectUris: [callback],
        AllowedScopes: ['openid', 'offline_access'],
        EnableLocalLogin: true,
      },
    },
  });
  await place.spawn(['start']).waitFor(/listening/);
  const command = place.spawn(['login', 'tool', '--store', 'login.json', '--no-browser']);
  const shown = await command.waitFor(/connect\/authorize\S+/);
  // Any page can have a browser ask for this.
  for (const path of ['//', '//[', '/callback?state=%zz', '/callback']) {
    const { promise, resolve, reject } = Promise.withResolvers<number | undefined>();
    get({ agent: false, host: '127.0.0.1', port, path }, (response) =>
      resolve(response.resume().statusCode),
    ).on('error', reject);
    assert.equal(await promise, 404, path);
  }
  const browser = createBrowser();
  const form = await browser.open(/http\S+connect\/authorize\S+/.exec(shown)?.[0] ?? '');
  const back = await browser.submit(form, { username: 'alice', password: 'Pass-word-1' });
  assert.equal((await fetch(back.location ?? '')).status, 200);
  assert.equal((await command.finish()).code, 0);
});
