import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ServerError } from '../../src/errors.ts';
import { type StyleOptions, stylesheet } from '../../src/pages/style.ts';

/** The custom properties of both schemes, read from the stylesheet as a browser would. */
function schemes(options?: StyleOptions): Record<'light' | 'dark', Record<string, string>> {
  const [light, dark] = [...stylesheet(options).matchAll(/:root \{([^}]*)\}/g)].map(([, body = '']) =>
    Object.fromEntries(
      [...body.matchAll(/--([a-z-]+): (#[0-9a-f]+);/g)].map(([, name = '', value = '']) => [name, value]),
    ),
  );
  assert.ok(light && dark);
  return { light, dark };
}

/** WCAG 2.2 contrast ratio of two `#rrggbb` colours. */
function contrast(a: string | undefined, b: string | undefined): number {
  const luminance = (hex = '') => {
    assert.match(hex, /^#[0-9a-f]{6}$/);
    const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
      const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
  };
  const [x, y] = [luminance(a), luminance(b)];
  return Math.max(x, y) / Math.min(x, y);
}

/** What stands on what in the rules, and the ratio that WCAG 2.2 AA asks for. */
const pairs: [front: string, behind: string, ratio: number][] = [
  ...['page', 'card', 'inset', 'tint', 'danger-ground'].map((behind): [string, string, number] => [
    'ink',
    behind,
    4.5,
  ]),
  ...['page', 'card', 'inset', 'tint'].flatMap((behind): [string, string, number][] => [
    ['muted', behind, 4.5],
    ['link', behind, 4.5],
    ['focus', behind, 3],
    ['accent-edge', behind, 3],
  ]),
  ['on-accent', 'accent', 4.5],
  ['on-accent', 'accent-hover', 4.5],
  ['danger', 'danger-ground', 4.5],
  ['danger', 'card', 4.5],
  ['field', 'card', 3],
  ['card', 'ink', 4.5],
];

const accents: StyleOptions[] = [
  {},
  ...[
    '#fff',
    '#000',
    '#ffff00',
    '#FFD400',
    '#777777',
    '#767676',
    '#ff0000',
    '#00f',
    '#0f0',
    '#f2f1ed',
    '#1a2120',
  ].map((accentColor) => ({ accentColor })),
  { accentColor: '#ffffff', accentColorDark: '#000000' },
];

for (const options of accents) {
  test(`everything is legible with the accent ${JSON.stringify(options)}`, () => {
    for (const [scheme, colors] of Object.entries(schemes(options))) {
      for (const [front, behind, ratio] of pairs) {
        const actual = contrast(colors[front], colors[behind]);
        assert.ok(actual >= ratio, `${scheme}: ${front} on ${behind} has ${actual.toFixed(2)}, not ${ratio}`);
      }
    }
  });
}

test('buttons have the colours that the operator chose', () => {
  const both = schemes({ accentColor: '#ABC', accentColorDark: '#123456' });
  assert.equal(both.light.accent, '#aabbcc');
  assert.equal(both.dark.accent, '#123456');
  assert.equal(schemes({ accentColor: '#abc' }).dark.accent, '#aabbcc');
});

test('text that is no colour never reaches the stylesheet', () => {
  for (const accentColor of [
    'red; } body { display: none',
    'red',
    '#12345',
    '#1234567',
    '',
    '#ggg',
    '#fff\n',
  ]) {
    assert.throws(
      () => stylesheet({ accentColor }),
      (err) => err instanceof ServerError && err.code === 'ERR_CONFIG_INVALID',
      accentColor,
    );
  }
});

test('every custom property that a rule uses is defined in both schemes, and none is unused', () => {
  const css = stylesheet();
  const used = new Set([...css.matchAll(/var\(--([a-z-]+)\)/g)].map(([, name]) => name));
  const [light, dark] = [...css.matchAll(/:root \{([^}]*)\}/g)].map(([, body = '']) =>
    [...body.matchAll(/--([a-z-]+):/g)].map(([, name]) => name),
  );
  assert.deepEqual(new Set(light), used);
  assert.deepEqual(new Set(dark), used);
});

test('the stylesheet loads nothing from elsewhere', () => {
  assert.doesNotMatch(stylesheet(), /url\(|@import|@font-face/);
});
