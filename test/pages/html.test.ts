import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Html, html, safeImageUrl, safeUrl } from '../../src/pages/html.ts';

const cases: [name: string, markup: () => Html, expected: string][] = [
  ['text', () => html`<p>${`<b>&"'`}</p>`, '<p>&lt;b&gt;&amp;&quot;&#39;</p>'],
  ['a quoted attribute', () => html`<p title="${'" onclick="x'}">`, '<p title="&quot; onclick=&quot;x">'],
  ['numbers, zero among them', () => html`${0}${12}`, '012'],
  [
    'nothing for undefined, null, false and empty lists',
    () => html`[${undefined}${null}${false}${[]}]`,
    '[]',
  ],
  ['nested markup unchanged', () => html`<p>${html`<b>${'<'}</b>`}</p>`, '<p><b>&lt;</b></p>'],
  ['lists of markup and text', () => html`${[html`<i>`, '<', [html`</i>`]]}`, '<i>&lt;</i>'],
  ['markup as an attribute', () => html`<input${true && html` required`}>`, '<input required>'],
  [
    'a > in a quoted attribute',
    () => html`<p title=">" class="${'"'}">${'"'}`,
    '<p title=">" class="&quot;">&quot;',
  ],
];

for (const [name, markup, expected] of cases) {
  test(`the template gives ${name}`, () => {
    assert.equal(markup().toString(), expected);
  });
}

test('the template refuses text inside a tag outside double quotes', () => {
  const value = 'x onclick=alert(1)';
  assert.throws(() => html`<p title=${value}>`, TypeError);
  assert.throws(() => html`<p title='${value}'>`, TypeError);
  assert.throws(() => html`<p ${[value]}>`, TypeError);
});

const urls: [url: string, passes: boolean][] = [
  ['https://client.example/a?b=c#d', true],
  ['http://localhost:5090/', true],
  ['/SPSSMR/Oidc', true],
  ['../back', true],
  ['?again', true],
  ['javascript:alert(1)', false],
  [' JaVaScRiPt:alert(1)', false],
  ['java\tscript:alert(1)', false],
  ['\u0001javascript:alert(1)', false],
  ['data:text/html,<script>alert(1)</script>', false],
  ['vbscript:x', false],
  ['file:///etc/passwd', false],
  ['com.example.app:/callback', false],
  ['http://', false],
];

test('only http, https and relative URLs are safe to follow', () => {
  assert.deepEqual(
    urls.map(([url]) => safeUrl(url)),
    urls.map(([url, passes]) => (passes ? url : undefined)),
  );
  assert.equal(safeUrl(undefined), undefined);
});

test('an image may also be embedded, but not another document', () => {
  assert.equal(safeImageUrl('data:image/png;base64,AA=='), 'data:image/png;base64,AA==');
  assert.equal(safeImageUrl('https://client.example/logo.png'), 'https://client.example/logo.png');
  assert.equal(safeImageUrl('data:text/html,x'), undefined);
  assert.equal(safeImageUrl('javascript:data:image/png;x'), undefined);
});
