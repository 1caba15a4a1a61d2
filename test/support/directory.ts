/** A directory for tests: Debian's `slapd`, with a database of its own, encrypted and in clear, on free ports. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Attribute, Change, Client } from 'ldapts';
import { requireCommand } from './requirements.ts';
import { findFreePort } from './start-server.ts';

const tls = join(import.meta.dirname, '../fixtures/tls');

export const base = 'dc=example,dc=com';
export const service = { dn: `cn=service,${base}`, password: 'Service-secret-1' };
export const admin = { dn: `cn=admin,${base}`, password: 'Admin-secret-1' };

export interface Person {
  uid: string;
  password?: string;
  /** More attributes. */
  [attribute: string]: string | string[] | undefined;
}

export interface Slapd {
  /** `ldaps://localhost:…` */
  readonly url: string;
  /** `ldap://localhost:…` */
  readonly plainUrl: string;
  readonly folder: string;
  readonly child: ChildProcess;
  add(dn: string, attributes: Record<string, string | string[] | Buffer>): Promise<void>;
  /** Many, one after the other, over one connection. */
  addAll(entries: Iterable<readonly [string, Record<string, string>]>): Promise<void>;
  addPerson(person: Person): Promise<string>;
  /** Sets attributes; an empty list takes one away. */
  set(dn: string, attributes: Record<string, string[]>): Promise<void>;
  rename(dn: string, rdn: string): Promise<void>;
  remove(dn: string): Promise<void>;
  /** Every line that it has logged of what it was asked. */
  log(): string;
  kill(): Promise<void>;
  /** Starts it again after {@link kill}. */
  restart(): Promise<void>;
  /** Stops it without closing anything, until `SIGCONT`. */
  suspend(): Promise<void>;
  /** `Directory` of server.json. */
  settings(more?: Record<string, unknown>): Record<string, unknown>;
}

/** @param schema further lines of the configuration, such as attributes of Active Directory */
export async function startSlapd(t: TestContext, { schema = '' }: { schema?: string } = {}): Promise<Slapd> {
  const command = requireCommand(t, 'slapd');
  const folder = mkdtempSync(join(tmpdir(), 'postern-slapd-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'db'));
  const [plainPort, securePort] = [await findFreePort(), await findFreePort()];
  const plainUrl = `ldap://localhost:${plainPort}`;
  const url = `ldaps://localhost:${securePort}`;
  writeFileSync(
    join(folder, 'slapd.conf'),
    `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
${schema}
pidfile ${folder}/slapd.pid
argsfile ${folder}/slapd.args
TLSCACertificateFile ${tls}/root.pem
TLSCertificateFile ${tls}/localhost.pem
TLSCertificateKeyFile ${tls}/key.pem
database mdb
suffix "${base}"
directory ${folder}/db
maxsize 10485760
rootdn "${admin.dn}"
rootpw ${admin.password}
index entryUUID eq
overlay ppolicy
ppolicy_default "cn=policy,${base}"
access to attrs=userPassword by self =xw by anonymous auth by * none
access to * by dn.exact="${service.dn}" read by self read by * none
`,
  );
  writeFileSync(
    join(folder, 'base.ldif'),
    `dn: ${base}
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=policy,${base}
objectClass: device
objectClass: pwdPolicy
cn: policy
pwdAttribute: userPassword
pwdMinLength: 8
pwdCheckQuality: 2
pwdMustChange: TRUE

dn: ${service.dn}
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: service
userPassword: ${service.password}

dn: ou=people,${base}
objectClass: organizationalUnit
ou: people

dn: ou=groups,${base}
objectClass: organizationalUnit
ou: groups
`,
  );
  execFileSync(command, ['-T', 'add', '-f', join(folder, 'slapd.conf'), '-l', join(folder, 'base.ldif')]);

  let text = '';
  let child!: ChildProcess;
  async function start(): Promise<void> {
    child = spawn(command, ['-d', '256', '-h', `${plainUrl} ${url}`, '-f', join(folder, 'slapd.conf')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    child.stderr?.on('data', (data: Buffer) => {
      text += data.toString();
    });
    for (let tries = 0; tries < 100; tries += 1) {
      if (child.exitCode !== null) throw new Error(`slapd has ended: ${text}`);
      if (await accepts(plainPort)) return;
      await sleep(50);
    }
    throw new Error(`slapd does not answer: ${text}`);
  }
  async function kill(): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }
  t.after(kill);
  await start();

  async function administer(run: (client: Client) => Promise<void>): Promise<void> {
    const client = new Client({ url: plainUrl, timeout: 5000, connectTimeout: 5000 });
    await client.bind(admin.dn, admin.password);
    try {
      await run(client);
    } finally {
      await client.unbind();
    }
  }

  const slapd: Slapd = {
    url,
    plainUrl,
    folder,
    get child() {
      return child;
    },
    add: (dn, attributes) =>
      administer((client) => client.add(dn, attributes as Record<string, string | string[]>)),
    addAll: (entries) =>
      administer(async (client) => {
        for (const [dn, attributes] of entries) await client.add(dn, attributes);
      }),
    async addPerson({ uid, password = 'Directory-pass-1', ...more }) {
      const dn = `uid=${uid},ou=people,${base}`;
      const given = Object.fromEntries(
        Object.entries(more).filter((entry): entry is [string, string | string[]] => entry[1] !== undefined),
      );
      const names = { uid, cn: `Person ${uid}`, sn: uid };
      await slapd.add(dn, { objectClass: 'inetOrgPerson', ...names, userPassword: password, ...given });
      return dn;
    },
    set: (dn, attributes) =>
      administer((client) =>
        client.modify(
          dn,
          Object.entries(attributes).map(
            ([type, values]) =>
              new Change({ operation: 'replace', modification: new Attribute({ type, values }) }),
          ),
        ),
      ),
    rename: (dn, rdn) => administer((client) => client.modifyDN(dn, rdn)),
    remove: (dn) => administer((client) => client.del(dn)),
    log: () => text,
    kill,
    restart: start,
    /** Resolves when every thread of it has stopped: on a busy machine some answer a moment longer. */
    async suspend() {
      child.kill('SIGSTOP');
      const threads = `/proc/${child.pid}/task`;
      const isStopped = (thread: string) =>
        readFileSync(`${threads}/${thread}/stat`, 'utf8').includes(') T ');
      while (!readdirSync(threads).every(isStopped)) await sleep(5);
    },
    settings: (more = {}) => ({
      Kind: 'OpenLdap',
      Urls: [url],
      CaFile: join(tls, 'root.pem'),
      BindDn: service.dn,
      BindPassword: { plain: service.password },
      BaseDn: base,
      Timeout: 2,
      ...more,
    }),
  };
  return slapd;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
