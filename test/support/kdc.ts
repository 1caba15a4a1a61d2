/** A Kerberos realm for tests: a KDC of MIT's in a folder of its own, on a free port. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { requireCommand } from './requirements.ts';
import { findFreePort, untilOpen } from './start-server.ts';

export const realm = 'EXAMPLE.TEST';

export interface Kdc {
  /** What programs need in their environment to be in the realm. */
  readonly env: Readonly<Record<string, string>>;
  /** A keytab with a new key, of AES alone, for a service such as HTTP/localhost; older keytabs of it are void. */
  makeKeytab(service: string): string;
  /** Signs a user in, and returns the environment that has the ticket; `lifetime` as kinit has it. */
  signIn(user: string, options?: { lifetime?: string }): Readonly<Record<string, string>>;
}

/** Starts a realm with these users, each with the password `Kerberos-1`, and stops it with the test. */
export async function startKdc(t: TestContext, { users }: { users: readonly string[] }): Promise<Kdc> {
  const [kdb5, kadmin, krb5kdc, kinit] = [
    ['kdb5_util', 'krb5-kdc'],
    ['kadmin.local', 'krb5-admin-server'],
    ['krb5kdc', 'krb5-kdc'],
    ['kinit', 'krb5-user'],
  ].map(([command = '', debianPackage]) => requireCommand(t, command, debianPackage)) as [
    string,
    string,
    string,
    string,
  ];
  const folder = mkdtempSync(join(tmpdir(), 'postern-kdc-'));
  const at = (name: string) => join(folder, name);
  mkdirSync(at('rcache'));
  const port = await findFreePort();
  writeFileSync(
    at('krb5.conf'),
    `[libdefaults]
  default_realm = ${realm}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
  default_ccache_name = FILE:${at('none')}
[realms]
  ${realm} = {
    kdc = 127.0.0.1:${port}
  }
[domain_realm]
  localhost = ${realm}
`,
  );
  writeFileSync(
    at('kdc.conf'),
    `[kdcdefaults]
  kdc_listen = 127.0.0.1:${port}
  kdc_tcp_listen = 127.0.0.1:${port}
[realms]
  ${realm} = {
    database_name = ${at('principal')}
    key_stash_file = ${at('stash')}
    acl_file = ${at('acl')}
    supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
  }
`,
  );
  const env = {
    KRB5_CONFIG: at('krb5.conf'),
    KRB5_KDC_PROFILE: at('kdc.conf'),
    // Where is kept what has been used once.
    KRB5RCACHEDIR: at('rcache'),
  };
  const whole = { ...process.env, ...env };
  const run = (command: string, parameters: readonly string[], input = '') =>
    execFileSync(command, parameters, { env: whole, input, stdio: ['pipe', 'pipe', 'pipe'] });
  const administer = (query: string) => run(kadmin, ['-r', realm, '-q', query]);
  run(kdb5, ['create', '-s', '-r', realm, '-P', 'master-password']);
  for (const user of users) administer(`addprinc -pw Kerberos-1 ${user}`);

  const kdc = spawn(krb5kdc, ['-n', '-r', realm], { env: whole, stdio: 'ignore' });
  t.after(() => {
    kdc.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  await untilOpen(port);

  const known = new Set<string>();
  let count = 0;
  return {
    env,
    makeKeytab(service) {
      if (!known.has(service)) administer(`addprinc -randkey ${service}`);
      known.add(service);
      count += 1;
      const file = at(`service-${count}.keytab`);
      administer(
        `ktadd -k ${file} -e aes256-cts-hmac-sha1-96:normal,aes128-cts-hmac-sha1-96:normal ${service}`,
      );
      return file;
    },
    signIn(user, { lifetime } = {}) {
      count += 1;
      const cache = `FILE:${at(`cache-${count}`)}`;
      run(kinit, ['-c', cache, ...(lifetime === undefined ? [] : ['-l', lifetime]), user], 'Kerberos-1\n');
      return { ...env, KRB5CCNAME: cache };
    },
  };
}
