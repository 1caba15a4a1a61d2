/**
 * Properties, tried on inputs that are made up (fast-check). In the suite each is tried on the same few hundred every
 * time, so that a failure is always one of the change in hand. `npm run fuzz` tries new ones for as long as wished.
 *
 *   FUZZ_SECONDS=<n>   tries each property for so long, from a seed of this run
 *   FUZZ_SEED=<n>      from this seed; with FUZZ_PATH=<path> the one input that a failure named
 */
import fc from 'fast-check';

const { FUZZ_PATH: path, FUZZ_SECONDS: seconds, FUZZ_SEED: seed } = process.env;
const usualSeed = 20_260_101;

/** Whether this is a run of `npm run fuzz`, whose properties take minutes. */
export const isLong = seconds !== undefined;

/**
 * Holds a property to `runs` inputs, or to those of the given time. A failure says the smallest input that was found,
 * and the seed and the path that lead to it.
 */
export async function holds<Input>(
  property: fc.IAsyncProperty<Input> | fc.IProperty<Input>,
  runs: number,
): Promise<void> {
  await fc.assert(property as fc.IAsyncProperty<Input>, {
    seed: seed === undefined ? (isLong ? Date.now() % 2 ** 31 : usualSeed) : Number(seed),
    ...(path === undefined ? undefined : { path }),
    ...(isLong
      ? { numRuns: Number.MAX_SAFE_INTEGER, interruptAfterTimeLimit: Number(seconds) * 1000 }
      : { numRuns: runs }),
    // Counted up to so many attempts: shrinking of what takes a server's time must end too.
    markInterruptAsFailure: false,
  });
}

/** Texts that have been trouble to somebody, among made-up ones. */
export const hostileText = fc.oneof(
  { weight: 3, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
  { weight: 2, arbitrary: fc.string({ unit: 'binary-ascii', maxLength: 40 }) },
  {
    weight: 4,
    arbitrary: fc.constantFrom(
      ...['', ' ', '\u0000', '\n', '\r\nX-Evil: 1', '%', '%00', '%zz', '%c0%ae', '..', '../..', '\\', '//'],
      ...[
        '__proto__',
        'constructor',
        'toString',
        'hasOwnProperty',
        'null',
        'undefined',
        'NaN',
        '-1',
        '1e999',
      ],
      ...['{}', '[]', '{"a":{"__proto__":1}}', '<script>alert(1)</script>', '"><img src=x>', "' OR 1=1 --"],
      ...['\ud800', '\u202e', 'İ', 'ſ', '\ufeff', '\u2028', '👩‍👩‍👧', '٣', 'a'.repeat(300)],
      ...['http://evil.example/', 'javascript:alert(1)', '//evil.example', 'http://[', 'http://a@b:99999'],
    ),
  },
);

/** One change of a text: of a bit, by leaving out, by putting in, by copying a part of it elsewhere. */
export interface Mutation {
  readonly kind: 'copy' | 'cut' | 'flip' | 'insert';
  /** Shares of the length, in millionths. */
  readonly at: number;
  readonly from: number;
  readonly length: number;
  readonly piece: string;
}

export const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom('flip', 'cut', 'insert', 'copy'),
  at: fc.nat(999_999),
  from: fc.nat(999_999),
  length: fc.nat(400),
  piece: fc.oneof(
    hostileText,
    fc.constantFrom(
      ...[
        '<',
        '>',
        '"',
        "'",
        '&',
        ';',
        '/',
        ' ',
        '\n',
        '=',
        ':',
        '#',
        '<!--',
        '-->',
        '<![CDATA[',
        ']]>',
        '<?',
        '?>',
      ],
      ...[
        '&#65;',
        '&amp;',
        '<x/>',
        ' Id="_evil"',
        ' xmlns="urn:x"',
        ' xmlns:saml="urn:x"',
        'saml:',
        'ds:',
        'mallory',
      ],
      ...['\u2028', '\ud800', '{', '}', '[', ']', ',', '//', '/*', '*/', '\\', '.', '-', '_', '=='],
    ),
  ),
});

export function mutate(text: string, mutations: readonly Mutation[]): string {
  const bytes = mutations.reduce((before, { at, from, kind, length, piece }) => {
    const index = Math.floor((at / 1_000_000) * before.length);
    if (kind === 'flip') {
      const after = Buffer.from(before);
      if (after.length > 0) after[index] = (after[index] ?? 0) ^ (1 << (length % 8));
      return after;
    }
    const start = Math.floor((from / 1_000_000) * before.length);
    const put = {
      cut: Buffer.alloc(0),
      insert: Buffer.from(piece),
      copy: before.subarray(start, start + length),
    }[kind];
    const end = kind === 'cut' ? index + 1 + (length % 40) : index;
    return Buffer.concat([before.subarray(0, index), put, before.subarray(end)]);
  }, Buffer.from(text));
  return bytes.toString('utf8');
}
