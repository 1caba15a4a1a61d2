/**
 * `postern account import`: accounts of another program, with the hashes of their passwords, from a file with one JSON
 * object a line, or from CSV with a header (RFC 4180). All or none.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import type { NewAccount } from '../accounts/accounts.ts';
import { toPrintableLine } from '../log.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';
import { openMigratedStore } from './store.ts';

const text = () => z.string().min(1, 'is empty');

/** A line of the file. */
const ImportedAccount = z.strictObject({
  name: text(),
  hash: text().optional(),
  displayName: text().optional(),
  email: text().optional(),
  roles: z.array(text()).optional(),
  claims: z.record(z.string(), z.union([z.string(), z.array(z.string())])).optional(),
  windowsName: text().optional(),
  disabled: z.boolean().optional(),
  mustChangePassword: z.boolean().optional(),
});

interface Line {
  /** From 1. */
  readonly number: number;
  readonly value: unknown;
}

interface Problem {
  readonly line: number;
  readonly message: string;
}

/** Problems beyond this many are counted only. */
const shownProblems = 50;

/**
 * Adds the accounts of a file.
 *
 * @throws {CommandError} 1 where a line is wrong: each is named, and nothing is written
 */
export async function importAccounts(
  directory: string,
  file: string,
  { dryRun = false }: { dryRun?: boolean },
  io: CommandIo,
): Promise<void> {
  const content = readContent(file);
  const problems: Problem[] = [];
  const lines = /\.csv$/i.test(file) ? parseCsv(content, problems) : parseJsonLines(content, problems);
  const given = lines.flatMap((line) => toAccount(line, problems));
  await using store = await openMigratedStore(directory, io);
  const refused = await store.accounts.addAll(
    given.map(({ account }) => account),
    { isTrial: dryRun || problems.length > 0 },
  );
  for (const { index, error } of refused) {
    problems.push({ line: given[index]?.line ?? 0, message: error.message });
  }
  if (problems.length > 0) {
    const sorted = problems.toSorted((a, b) => a.line - b.line);
    for (const { line, message } of sorted.slice(0, shownProblems))
      io.stderr.write(`${toPrintableLine(`${file}:${line}: ${message}`)}\n`);
    const rest = problems.length - shownProblems;
    if (rest > 0) io.stderr.write(`and ${rest} more\n`);
    throw new CommandError(exitCodes.failure, 'nothing was imported', {
      hint: 'the whole file is taken, or nothing of it',
    });
  }
  const many = given.length === 1 ? '1 account' : `${given.length} accounts`;
  if (!dryRun) store.audit.record(['account', 'success'], { count: given.length }, 'accounts imported');
  io.stdout.write(dryRun ? `${many} could be imported\n` : `imported ${many}\n`);
}

function readContent(file: string): string {
  try {
    return readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
  } catch (cause) {
    throw new CommandError(exitCodes.failure, `${file} cannot be read: ${(cause as Error).message}`);
  }
}

function toAccount({ number, value }: Line, problems: Problem[]): { line: number; account: NewAccount }[] {
  const parsed = ImportedAccount.safeParse(value);
  if (!parsed.success) {
    for (const { message, path } of parsed.error.issues) {
      problems.push({ line: number, message: path.length === 0 ? message : `${path.join('.')}: ${message}` });
    }
    return [];
  }
  const { hash, ...rest } = parsed.data;
  return [{ line: number, account: { ...rest, passwordHash: hash } }];
}

function parseJsonLines(content: string, problems: Problem[]): Line[] {
  return content.split(/\r?\n/).flatMap((line, index) => {
    if (line.trim() === '') return [];
    try {
      return [{ number: index + 1, value: JSON.parse(line) as unknown }];
    } catch {
      // Its message would repeat a piece of the line, and with it of a hash.
      problems.push({ line: index + 1, message: 'is no JSON object' });
      return [];
    }
  });
}

/** `roles` are separated by semicolons, a column `claim:department` is a claim. */
function parseCsv(content: string, problems: Problem[]): Line[] {
  const [header, ...records] = splitCsv(content, problems);
  const names = header?.fields.map((name) => name.trim()) ?? [];
  return records.flatMap(({ fields, number }) => {
    if (fields.length !== names.length) {
      problems.push({
        line: number,
        message: `has ${fields.length} fields, and the header has ${names.length}`,
      });
      return [];
    }
    const claims: Record<string, string> = {};
    const value: Record<string, unknown> = {};
    for (const [index, name] of names.entries()) {
      const field = fields[index] ?? '';
      if (field === '') continue;
      if (name.startsWith('claim:')) claims[name.slice('claim:'.length)] = field;
      else if (name === 'roles') value[name] = field.split(';').map((role) => role.trim());
      else if (name === 'disabled' || name === 'mustChangePassword') value[name] = toBoolean(field);
      else value[name] = field;
    }
    if (Object.keys(claims).length > 0) value.claims = claims;
    return [{ number, value }];
  });
}

function toBoolean(field: string): unknown {
  if (/^(true|1|yes)$/i.test(field)) return true;
  return /^(false|0|no)$/i.test(field) ? false : field;
}

/** The records with the line that each begins in; empty lines are none. */
function splitCsv(content: string, problems: Problem[]): { number: number; fields: string[] }[] {
  const records: { number: number; fields: string[] }[] = [];
  let number = 1;
  let begunAt = 1;
  let fields: string[] = [];
  const plain = /[^",\r\n]*/y;
  const isEnd = (at: number) => at === content.length || /^(,|\r?\n)/.test(content.slice(at, at + 2));
  for (let at = 0; at <= content.length; ) {
    plain.lastIndex = at;
    const written = content[at] === '"' ? quotedAt(content, at) : (plain.exec(content)?.[0] ?? '');
    if (written === undefined || !isEnd(at + written.length)) {
      problems.push({ line: number, message: 'has a quotation mark in a wrong place' });
      return records;
    }
    fields.push(written.startsWith('"') ? written.slice(1, -1).replaceAll('""', '"') : written);
    number += written.split('\n').length - 1;
    at += written.length;
    if (content[at] === ',') {
      at += 1;
      continue;
    }
    if (fields.length > 1 || fields[0] !== '') records.push({ number: begunAt, fields });
    fields = [];
    if (at >= content.length) break;
    at += content[at] === '\r' ? 2 : 1;
    number += 1;
    begunAt = number;
  }
  return records;
}

/** A field in quotation marks, with them; undefined where it does not end. A regular expression fails for long ones. */
function quotedAt(content: string, start: number): string | undefined {
  for (let from = start + 1; ; ) {
    const end = content.indexOf('"', from);
    if (end < 0) return undefined;
    if (content[end + 1] !== '"') return content.slice(start, end + 1);
    from = end + 2;
  }
}
