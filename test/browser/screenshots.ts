/**
 * Makes the pictures of docs/pages.md: `npm run screenshots`, or `npm run screenshots -- consent` for those whose name
 * contains a text. Each is the page as the real server shows it, twice side by side: English in light, German in dark.
 *
 * With SCREENSHOTS=<folder> it also writes every page in both languages and both colours, narrow and wide, there, to
 * be looked at.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { BrowserContextOptions } from 'playwright-core';
import { openPage } from './browser.ts';
import { type Place, prepareVisit, visits } from './visits.ts';

const pictures = join(import.meta.dirname, '../../docs/images/pages');
const wide = { width: 480, height: 560 };
const narrow = { width: 320, height: 560 };
/** What two pictures have between them. */
const gap = 16;

const wanted = process.argv.slice(2);
const folder = process.env.SCREENSHOTS;

for (const [name, visit] of Object.entries(visits)) {
  if (wanted.length > 0 && !wanted.some((part) => name.includes(part))) continue;
  test(`the pictures of ${name}`, async (t) => {
    const { server, site } = await prepareVisit(t, visit);
    const take = async (options: BrowserContextOptions) => {
      const page = await openPage(t, options);
      await visit.go({ page, server, site } as Place);
      const picture = await page.screenshot({ fullPage: true, animations: 'disabled' });
      await page.context().close();
      return picture;
    };

    const english = await take({ viewport: wide, locale: 'en', colorScheme: 'light' });
    const german = await take({ viewport: wide, locale: 'de', colorScheme: 'dark' });
    mkdirSync(pictures, { recursive: true });
    writeFileSync(join(pictures, `${name}.png`), await placeSideBySide(t, [english, german]));
    if (folder === undefined) return;
    const others = [
      await take({ viewport: narrow, locale: 'en', colorScheme: 'dark' }),
      await take({ viewport: narrow, locale: 'de', colorScheme: 'light' }),
    ];
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${name}.png`), await placeSideBySide(t, [english, german, ...others]));
  });
}

/** One picture of several. */
async function placeSideBySide(t: TestContext, parts: readonly Buffer[]): Promise<Buffer> {
  const page = await openPage(t, { viewport: { width: 1800, height: 800 } });
  const images = parts.map((part) => `<img src="data:image/png;base64,${part.toString('base64')}">`).join('');
  await page.setContent(
    `<style>body{margin:0}div{display:inline-flex;gap:${gap}px;align-items:start;background:#fff}</style><div>${images}</div>`,
  );
  const picture = await page.locator('div').screenshot();
  await page.context().close();
  return picture;
}
