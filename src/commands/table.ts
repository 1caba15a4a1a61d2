/** What commands list, in columns, and the times in it. */
import { toPrintableLine } from '../log.ts';

/** Writes rows with each column as wide as its widest cell. What is in the cells others may have written. */
export function writeTable(
  stdout: { write(text: string): unknown },
  content: readonly (readonly string[])[],
): void {
  const rows = content.map((cells) => cells.map(toPrintableLine));
  const widths = rows[0]?.map((_cell, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  for (const row of rows) {
    const cells = row.map((cell, column) => cell.padEnd(widths?.[column] ?? 0));
    stdout.write(`${cells.join('  ').trimEnd()}\n`);
  }
}

/** As ISO 8601 to the second; `at` is seconds since the epoch. */
export function toTime(at: number): string {
  return new Date(at * 1000).toISOString().replace('.000Z', 'Z');
}
