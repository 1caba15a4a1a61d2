/**
 * The one stylesheet. The operator chooses the accent colours; every colour that must be legible beside
 * them is computed here, so that no choice of accent can break contrast (WCAG 2.2, 1.4.3 and 1.4.11).
 */
import { ServerError } from '../errors.ts';

export interface StyleOptions {
  /** `#rgb` or `#rrggbb`; what buttons are filled with on a light background. */
  accentColor?: string | undefined;
  /** The same on a dark background; default `accentColor`, or Postern's own where that is missing too. */
  accentColorDark?: string | undefined;
}

/** Red, green, blue from 0 to 255. */
type Color = readonly [number, number, number];

/** The fixed colours of one scheme: calm greys with a little green in them. */
interface Ground {
  page: string;
  card: string;
  ink: string;
  muted: string;
  line: string;
  /** Outline of inputs: 3:1 against the card. */
  field: string;
  inset: string;
  danger: string;
  dangerGround: string;
  shadow: string;
}

const light: Ground = {
  page: '#f2f1ed',
  card: '#ffffff',
  ink: '#1b2421',
  muted: '#56615c',
  line: '#deddd6',
  field: '#7b8681',
  inset: '#f6f5f2',
  danger: '#a1261f',
  dangerGround: '#fdf1ef',
  shadow: '0 1px 2px #1b24210f, 0 12px 40px -12px #1b24212e',
};

const dark: Ground = {
  page: '#101514',
  card: '#1a2120',
  ink: '#e7ecea',
  muted: '#a6b1ac',
  line: '#323c39',
  field: '#77857f',
  inset: '#212a28',
  danger: '#ffa59b',
  dangerGround: '#33211f',
  shadow: '0 1px 2px #00000066, 0 16px 48px -12px #000000b3',
};

const defaultAccent = '#1d5c54';
const defaultAccentDark = '#8ccbbd';

/**
 * The stylesheet for these accent colours. Pure: the same colours give the same text.
 *
 * The accents fill buttons as they are; their text is black or white, whichever contrasts more (at least
 * 4.5:1 with any colour). Links, focus rings and button edges move from the accent towards black or white
 * until they reach 4.5:1 (links) and 3:1 (rings, edges) against everything they stand on.
 *
 * @throws {ServerError} ERR_CONFIG_INVALID for a colour in another notation, which might not be a colour at all
 */
export function stylesheet({ accentColor, accentColorDark }: StyleOptions = {}): string {
  const accent = accentColor ?? defaultAccent;
  const accentDark = accentColorDark ?? accentColor ?? defaultAccentDark;
  return `:root {
  color-scheme: light dark;
${properties(light, parseColor(accent), '  ')}
}
@media screen and (prefers-color-scheme: dark) {
  :root {
${properties(dark, parseColor(accentDark), '    ')}
  }
}
${rules}`;
}

/** The custom properties of one scheme; the names are what the rules below use. */
function properties(ground: Ground, accent: Color, indent: string): string {
  const page = parseColor(ground.page);
  const card = parseColor(ground.card);
  const onAccent = contrast(accent, white) >= contrast(accent, black) ? white : black;
  const away = onAccent === white ? black : white;
  const far = luminance(card) > 0.5 ? black : white;
  const tint = mix(page, accent, 0.07);
  const tintLine = mix(page, accent, 0.18);
  const behind = [page, card, tint, parseColor(ground.inset)];
  const computed = {
    accent: toHex(accent),
    'on-accent': toHex(onAccent),
    'accent-hover': toHex(mix(accent, away, 0.16)),
    'accent-edge': toHex(legible(accent, far, behind, 3)),
    link: toHex(legible(accent, far, behind, 4.5)),
    focus: toHex(legible(accent, far, behind, 3)),
    tint: toHex(tint),
    'tint-line': toHex(tintLine),
  };
  return Object.entries({ ...ground, ...computed })
    .map(
      ([name, value]) =>
        `${indent}--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}: ${value};`,
    )
    .join('\n');
}

const black: Color = [0, 0, 0];
const white: Color = [255, 255, 255];

/** Moves a colour towards `far` in small steps until it has `ratio` against each of `behind`. */
function legible(color: Color, far: Color, behind: readonly Color[], ratio: number): Color {
  for (let share = 0; share < 1; share += 0.02) {
    const candidate = mix(color, far, share);
    if (behind.every((ground) => contrast(candidate, ground) >= ratio)) return candidate;
  }
  return far;
}

function parseColor(text: string): Color {
  const digits = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.exec(text)?.[1];
  if (digits === undefined) {
    throw new ServerError('ERR_CONFIG_INVALID', `${JSON.stringify(text)} is not a colour`, {
      hint: 'write it as #rgb or #rrggbb',
    });
  }
  const full = digits.length === 3 ? digits.replace(/./g, '$&$&') : digits;
  const channel = (at: number) => Number.parseInt(full.slice(at, at + 2), 16);
  return [channel(0), channel(2), channel(4)];
}

function toHex(color: Color): string {
  return `#${color.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
}

/** `share` of `b` in `a`, from 0 to 1; rounded, because what is printed is what must have the contrast. */
function mix(a: Color, b: Color, share: number): Color {
  const channel = (i: 0 | 1 | 2) => Math.round(a[i] + (b[i] - a[i]) * share);
  return [channel(0), channel(1), channel(2)];
}

/** Relative luminance, WCAG 2.2 glossary. */
function luminance(color: Color): number {
  const [r, g, b] = color.map((channel) => {
    const s = channel / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Contrast ratio from 1 to 21, WCAG 2.2 glossary. */
function contrast(a: Color, b: Color): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

const rules = `
*, *::before, *::after { box-sizing: border-box; }

html {
  font: 100%/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
  text-size-adjust: 100%;
  overflow: auto;
}

body {
  margin: 0;
  min-height: 100vh;
  min-height: 100dvh;
  display: flex;
  overflow: clip; /* of the arch alone: html scrolls */
  background: var(--page);
  color: var(--ink);
  overflow-wrap: anywhere;
  hyphens: auto;
  hyphenate-limit-chars: 14 5 5;
}

/* What somebody else has named, and what is copied, is not hyphenated. */
bdi, code { hyphens: manual; }

h1, h2, p, ul, dl, dd, fieldset { margin: 0; padding: 0; border: 0; min-width: 0; }
[hidden] { display: none; }

/* The gate: an arch that frames the name and the card. Decoration only. */
.gate {
  position: relative;
  isolation: isolate;
  width: min(100% - 2rem, 26rem);
  margin: auto;
  padding: 4.5rem 0 6vh;
}
.gate::before {
  content: "";
  position: absolute;
  z-index: -1;
  inset: 0 -4.5rem auto;
  height: 38rem;
  border-radius: 100rem 100rem 0 0;
  background: linear-gradient(var(--tint), var(--page) 40rem);
  border: 1px solid var(--tint-line);
  border-bottom: 0;
  -webkit-mask-image: linear-gradient(#000 8rem, transparent 38rem);
  mask-image: linear-gradient(#000 8rem, transparent 38rem);
  pointer-events: none;
}

.brand {
  display: flex;
  flex-wrap: wrap;
  align-items: center;
  justify-content: center;
  gap: 0.75rem;
  min-height: 2.5rem;
  margin: 0 2rem 2.5rem;
}
.brand-name { font-size: 1.25rem; line-height: 1.3; text-align: center; text-wrap: balance; font-weight: 600; letter-spacing: -0.01em; }
.brand-logo { display: block; max-width: min(100%, 14rem); max-height: 4rem; object-fit: contain; }
.mark { flex: none; }
.mark-arch { fill: var(--accent-edge); }
.mark-door { fill: var(--page); }
.mark-knob { fill: var(--accent-edge); }

.card {
  display: block;
  padding: clamp(1.5rem, 6vw, 2.5rem);
  background: var(--card);
  border: 1px solid var(--line);
  border-radius: 1rem;
  box-shadow: var(--shadow);
}

h1 { font-size: 1.625rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; text-wrap: balance; }
h2 { font-size: 0.875rem; line-height: 1.4; font-weight: 600; }
.lead { margin-top: 0.5rem; color: var(--muted); }
p.lead + p { margin-top: 0.75rem; color: var(--muted); }
.lead-in .lead + p { margin-top: 0; }
.client { color: var(--ink); font-weight: 600; }
.lead-in { display: flex; align-items: flex-start; }
.lead-in > div { min-width: 0; flex: 1; }
/* Inline and without a fixed size, so that a logo that cannot be loaded leaves no broken frame. */
.client-logo { flex: none; line-height: 0; }
.client-logo img { max-width: 3.25rem; max-height: 3.25rem; margin-right: 1rem; border-radius: 0.75rem; }

a { color: var(--link); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
a:hover { text-decoration-thickness: 2px; }
code { font: 0.9375em/1.5 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "Liberation Mono", monospace; }

form { margin: 0; }
.card > form { margin-top: 1.75rem; }
.field + .field { margin-top: 1.25rem; }
label, legend { font-weight: 600; }
.field label { display: block; margin-bottom: 0.375rem; font-size: 0.9375rem; }
.field input {
  display: block;
  width: 100%;
  min-height: 3rem;
  padding: 0.5rem 0.875rem;
  font: inherit;
  color: var(--ink);
  background: var(--card);
  border: 1px solid var(--field);
  border-radius: 0.625rem;
}
.field input:hover { border-color: var(--ink); }
.field input[aria-invalid="true"] { border-color: var(--danger); box-shadow: inset 0 0 0 1px var(--danger); }

:focus { outline: none; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.field input:focus-visible { outline-offset: 1px; }

.providers { display: grid; gap: 0.75rem; margin-top: 1.75rem; }
.others { margin-top: 1.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.others .providers { margin-top: 0.75rem; }

.actions { display: flex; flex-wrap: wrap; gap: 0.75rem; margin-top: 1.75rem; }
.button {
  display: inline-flex;
  align-items: center;
  justify-content: center;
  min-height: 3rem;
  padding: 0.5rem 1.25rem;
  font: inherit;
  font-weight: 600;
  text-align: center;
  text-wrap: balance;
  text-decoration: none;
  border: 1px solid transparent;
  border-radius: 0.625rem;
  cursor: pointer;
  transition: background-color 120ms ease-out, border-color 120ms ease-out;
}
.button.primary { flex: 1 1 auto; color: var(--on-accent); background: var(--accent); border-color: var(--accent-edge); }
.button.primary:hover { background: var(--accent-hover); }
.button.quiet { flex: 0 1 auto; color: var(--ink); background: transparent; border-color: var(--field); }
.button.quiet:hover { background: var(--inset); border-color: var(--ink); }
.button:active { transform: translateY(1px); }

button.link {
  min-height: 2.75rem;
  padding: 0 0.25rem;
  font: inherit;
  color: var(--link);
  background: none;
  border: 0;
  border-radius: 0.375rem;
  text-decoration: underline;
  text-decoration-thickness: 1px;
  text-underline-offset: 0.2em;
  cursor: pointer;
}
button.link:hover { text-decoration-thickness: 2px; }

.alert, .note {
  margin-top: 1.5rem;
  padding: 0.875rem 1rem;
  border-radius: 0.625rem;
  font-size: 0.9375rem;
}
.alert {
  display: flex;
  gap: 0.75rem;
  color: var(--danger);
  background: var(--danger-ground);
  border: 1px solid var(--danger);
}
.alert .sign { flex: none; margin-top: 0.125rem; }
.alert p + p { color: var(--ink); }
.note { background: var(--inset); border: 1px solid var(--field); }
.alert-heading, .note-heading { font-weight: 600; }

.account {
  display: flex;
  flex-wrap: wrap;
  align-items: center;
  justify-content: space-between;
  column-gap: 1rem;
  min-height: 3rem;
  margin-top: 1.5rem;
  padding: 0.125rem 1rem;
  font-size: 0.9375rem;
  color: var(--muted);
  background: var(--inset);
  border-radius: 0.625rem;
}
.account p { padding: 0.625rem 0; }
.account .inline { margin-inline: -0.25rem; }
.account-name { color: var(--ink); font-weight: 600; }

legend { padding: 0; }
.scopes { list-style: none; margin-top: 0.5rem; border-top: 1px solid var(--line); }
.choice { display: flex; gap: 0.875rem; padding: 0.75rem 0; }
.choice > div { flex: 1; min-width: 0; }
.scopes .choice { border-bottom: 1px solid var(--line); }
.choice label { display: block; padding: 0.625rem 0; margin: -0.625rem 0; cursor: pointer; }
.choice label + .about { position: relative; }
.scope-name { font-weight: 600; }
.choice input {
  flex: none;
  width: 1.25rem;
  height: 1.25rem;
  margin: 0.125rem 0 0;
  accent-color: var(--accent-edge);
  cursor: pointer;
}
.tick { flex: none; margin-top: 0.125rem; color: var(--muted); }
.about { font-size: 0.875rem; font-weight: 400; color: var(--muted); }
fieldset + .choice { margin-top: 0.75rem; }
.badge {
  display: inline-block;
  padding: 0 0.5rem;
  font-size: 0.75rem;
  line-height: 1.25rem;
  font-weight: 500;
  color: var(--muted);
  border: 1px solid var(--field);
  border-radius: 1rem;
  vertical-align: 0.0625rem;
}
.badge.strong { color: var(--card); background: var(--ink); border-color: var(--ink); font-weight: 600; }

.details { margin-top: 2rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.details h2 { margin-bottom: 0.5rem; }
.details dl { font-size: 0.875rem; }
.details dl > div { display: flex; flex-wrap: wrap; gap: 0 0.75rem; }
.details dt { min-width: 4.5rem; }
dt { color: var(--muted); }
.facts { margin-top: 1.5rem; font-size: 0.9375rem; }
.facts code { font-size: 0.8125rem; }
.facts > div + div { margin-top: 1rem; }

.unseen { position: absolute; width: 1px; height: 1px; border: 0; clip-path: inset(50%); }
.sr-only {
  position: absolute;
  width: 1px;
  height: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}

@media (max-width: 30rem) {
  .gate { padding-top: 3rem; padding-bottom: 2rem; margin-top: 0; }
  .gate::before { inset-inline: -0.5rem; }
  .brand { margin-bottom: 1.75rem; }
  .button.quiet { flex-grow: 1; }
}

@media (max-height: 40rem) {
  .gate { margin-block: 0 auto; padding-top: 2.5rem; }
  .brand { margin-bottom: 1.5rem; }
}

@media (prefers-reduced-motion: reduce) {
  .button { transition: none; }
  .button:active { transform: none; }
}

@media (prefers-contrast: more) {
  .gate::before { display: none; }
  .card, .account { border: 1px solid var(--ink); }
}

@media (forced-colors: active) {
  .gate::before { display: none; }
  .button, .account, .badge { border: 1px solid; }
  .mark-arch, .mark-knob { fill: CanvasText; }
  .mark-door { fill: Canvas; }
  .tick, .sign { color: CanvasText; }
  :focus-visible { outline-color: Highlight; }
}

@media print {
  .gate::before, .button, button.link { display: none; }
  body { background: none; color: #000; }
  .gate { padding: 0; }
  .card { border: 0; box-shadow: none; background: none; }
}
`;
