/**
 * What Active Directory says and `slapd` cannot, in front of a real `slapd` with Active Directory's attributes:
 * the sub-codes of a refused bind, the change of `unicodePwd`, and the matching rule that follows nested groups.
 * Everything else goes through byte by byte.
 */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createServer } from 'node:tls';
import { BerReader, BerWriter, ExtensibleFilter, FilterParser, ProtocolOperation } from 'ldapts';
import { base, type Slapd, service, startSlapd } from './directory.ts';
import { findFreePort } from './start-server.ts';

const tls = join(import.meta.dirname, '../fixtures/tls');
const inChain = '1.2.840.113556.1.4.1941';

/** Attributes of Active Directory under their own numbers, as far as they are read; `msuser.schema` cannot compare them. */
const schema = [
  ['1.2.840.113556.1.4.221', 'sAMAccountName', 'caseIgnoreMatch', 15],
  ['1.2.840.113556.1.4.656', 'userPrincipalName', 'caseIgnoreMatch', 15],
  ['1.2.840.113556.1.4.146', 'objectSid', 'octetStringMatch', 40],
  ['1.2.840.113556.1.4.8', 'userAccountControl', 'integerMatch', 27],
  ['1.2.840.113556.1.4.159', 'accountExpires', 'integerMatch', 27],
  ['1.2.840.113556.1.4.782', 'objectCategory', 'caseIgnoreMatch', 15],
]
  .map(
    ([oid, name, equality, syntax]) =>
      `attributetype ( ${oid} NAME '${name}' EQUALITY ${equality} SYNTAX 1.3.6.1.4.1.1466.115.121.1.${syntax} SINGLE-VALUE )`,
  )
  .concat(
    "objectclass ( 1.2.840.113556.1.5.9 NAME 'user' SUP inetOrgPerson STRUCTURAL MAY ( sAMAccountName $ userPrincipalName $ objectSid $ userAccountControl $ accountExpires $ objectCategory ) )",
  )
  .join('\n');

export interface ActiveDirectory {
  readonly slapd: Slapd;
  readonly url: string;
  /** The sub-code with which the bind of an entry is refused though its password is right. */
  readonly subCodes: Map<string, string>;
  /** The members of each group, by distinguished names. */
  readonly groups: Map<string, readonly string[]>;
  addUser(name: string, options?: { rid?: number; control?: number }): Promise<string>;
  settings(more?: Record<string, unknown>): Record<string, unknown>;
}

export const domainSid = [21, 1004336348, 1177238915, 682003330] as const;

/** The bytes of S-1-5-21-…-rid. */
export function sidOf(rid: number): Buffer {
  const parts = [...domainSid, rid];
  const bytes = Buffer.alloc(8 + 4 * parts.length);
  bytes[0] = 1;
  bytes[1] = parts.length;
  bytes[7] = 5;
  for (const [index, part] of parts.entries()) bytes.writeUInt32LE(part, 8 + 4 * index);
  return bytes;
}

export async function startActiveDirectory(t: TestContext): Promise<ActiveDirectory> {
  const slapd = await startSlapd(t, { schema });
  const port = await findFreePort();
  const url = `ldaps://localhost:${port}`;
  const subCodes = new Map<string, string>();
  const groups = new Map<string, readonly string[]>();
  const passwords = new Map<string, string>();

  /** The answer of Active Directory to one message; undefined where slapd answers. */
  async function answer(message: Buffer): Promise<Buffer | undefined> {
    const reader = new BerReader(message);
    reader.readSequence();
    const id = reader.readInt() ?? 0;
    const operation = reader.readSequence();
    if (operation === ProtocolOperation.LDAP_REQ_BIND) {
      reader.readInt();
      const dn = (reader.readString() ?? '').toLowerCase();
      const isRight = passwords.get(dn) === reader.readString(0x80);
      const known = passwords.has(dn) || dn === service.dn;
      const code = known ? (isRight ? subCodes.get(dn) : '52e') : '525';
      if (code === undefined || dn === service.dn) return undefined;
      const comment = 'AcceptSecurityContext error';
      const text = `80090308: LdapErr: DSID-0C09044E, comment: ${comment}, data ${code}, v2580\u0000`;
      return result(id, ProtocolOperation.LDAP_RES_BIND, 49, text);
    }
    if (operation === ProtocolOperation.LDAP_REQ_MODIFY) {
      const dn = (reader.readString() ?? '').toLowerCase();
      return changePassword(id, dn, reader);
    }
    if (operation === ProtocolOperation.LDAP_REQ_SEARCH) {
      reader.readString();
      for (let n = 0; n < 2; n += 1) reader.readEnumeration();
      for (let n = 0; n < 2; n += 1) reader.readInt();
      reader.readBoolean();
      const filter = FilterParser.parse(reader);
      return filter instanceof ExtensibleFilter && filter.rule === inChain
        ? Buffer.concat([
            ...findGroups(filter.value).map((dn) => toEntry(id, dn)),
            result(id, ProtocolOperation.LDAP_RES_SEARCH, 0),
          ])
        : undefined;
    }
    return undefined;
  }

  /** `delete` of the old quoted password and `add` of the new one, in one request. */
  async function changePassword(id: number, dn: string, reader: BerReader): Promise<Buffer> {
    const reply = (code: number, text = '') => result(id, ProtocolOperation.LDAP_RES_MODIFY, code, text);
    reader.readSequence();
    const values: string[] = [];
    for (const expected of [1, 0]) {
      reader.readSequence();
      if (reader.readEnumeration() !== expected)
        return reply(53, '0000001F: SvcErr: a reset is not a change');
      reader.readSequence();
      if (reader.readString() !== 'unicodePwd') return reply(53);
      reader.readSequence(ProtocolOperation.LBER_SET);
      const quoted = (reader.readString(0x04, true) ?? Buffer.alloc(0)).toString('utf16le');
      if (!/^".*"$/.test(quoted)) return reply(53, '0000001F: SvcErr: not quoted');
      values.push(quoted.slice(1, -1));
    }
    const [old = '', next = ''] = values;
    const atrErr = `AtrErr: DSID-03190F80, #1:\n\t0: 0000052D: DSID-03190F80, problem 1005 (CONSTRAINT_ATT_TYPE), data 0, Att 9005a (unicodePwd)`;
    if (passwords.get(dn) !== old) return reply(19, `00000056: ${atrErr.replace('0000052D', '00000056')}`);
    if (next.length < 8) return reply(19, `0000052D: ${atrErr}`);
    await slapd.set(dn, { userPassword: [next] });
    await slapd.set(dn, { pwdReset: [] }).catch(() => undefined);
    passwords.set(dn, next);
    subCodes.delete(dn);
    return reply(0);
  }

  function findGroups(member: string, found = new Set<string>()): readonly string[] {
    for (const [dn, members] of groups) {
      if (found.has(dn) || !members.some((one) => one.toLowerCase() === member.toLowerCase())) continue;
      found.add(dn);
      findGroups(dn, found);
    }
    return [...found];
  }

  const sockets = new Set<Socket>();
  const server = createServer(
    { cert: readFileSync(join(tls, 'localhost.pem')), key: readFileSync(join(tls, 'key.pem')) },
    (client) => {
      const behind = connect(Number(new URL(slapd.plainUrl).port), '127.0.0.1');
      for (const socket of [client, behind]) {
        sockets.add(socket);
        socket.on('error', () => undefined);
      }
      behind.pipe(client);
      let rest = Buffer.alloc(0);
      let turn: Promise<void> = Promise.resolve();
      client.on('data', (data: Buffer) => {
        rest = Buffer.concat([rest, data]);
        for (let size = messageSize(rest); size !== undefined; size = messageSize(rest)) {
          const message = rest.subarray(0, size);
          rest = rest.subarray(size);
          turn = turn.then(async () => {
            const own = await answer(message);
            if (own === undefined) behind.write(message);
            else client.write(own);
          });
        }
      });
      client.on('close', () => behind.destroy());
    },
  );
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });

  let nextRid = 1100;
  return {
    slapd,
    url,
    subCodes,
    groups,
    async addUser(name, { rid = nextRid++, control = 0x200 } = {}) {
      const dn = `CN=Person ${name},ou=people,${base}`;
      await slapd.add(dn, {
        objectClass: 'user',
        cn: `Person ${name}`,
        sn: name,
        displayName: `Person ${name}`,
        sAMAccountName: name,
        userPrincipalName: `${name}@corp.example.com`,
        userAccountControl: String(control),
        accountExpires: '9223372036854775807',
        objectCategory: 'person',
        objectSid: sidOf(rid),
        userPassword: 'Directory-pass-1',
      });
      passwords.set(dn.toLowerCase(), 'Directory-pass-1');
      return dn;
    },
    settings: (more = {}) => ({
      ...slapd.settings(),
      Kind: 'ActiveDirectory',
      Urls: [url],
      Domain: 'EXAMPLE',
      GroupBaseDn: base,
      ...more,
    }),
  };
}

/** The length of the message that a buffer begins with; undefined where it is not all there. */
function messageSize(buffer: Buffer): number | undefined {
  const first = buffer[1];
  if (first === undefined) return undefined;
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
  if (buffer.length < 2 + lengthBytes) return undefined;
  const length = lengthBytes === 0 ? first : buffer.readUIntBE(2, lengthBytes);
  const size = 2 + lengthBytes + length;
  return buffer.length < size ? undefined : size;
}

function result(id: number, operation: number, code: number, text = ''): Buffer {
  const writer = new BerWriter();
  writer.startSequence();
  writer.writeInt(id);
  writer.startSequence(operation);
  writer.writeEnumeration(code);
  writer.writeString('');
  writer.writeString(text);
  writer.endSequence();
  writer.endSequence();
  return Buffer.from(writer.buffer);
}

function toEntry(id: number, dn: string): Buffer {
  const writer = new BerWriter();
  writer.startSequence();
  writer.writeInt(id);
  writer.startSequence(ProtocolOperation.LDAP_RES_SEARCH_ENTRY);
  writer.writeString(dn);
  writer.startSequence();
  writer.startSequence();
  writer.writeString('cn');
  writer.startSequence(ProtocolOperation.LBER_SET);
  writer.writeString(/^cn=([^,]+)/i.exec(dn)?.[1] ?? '');
  for (let n = 0; n < 5; n += 1) writer.endSequence();
  return Buffer.from(writer.buffer);
}
