/** Every page in every state, in both colours and both languages, on a narrow screen. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import test from 'node:test';
import type { Page } from 'playwright-core';
import { openPage } from './browser.ts';
import { prepareVisit, visits } from './visits.ts';

const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core'), 'utf8');

interface Violation {
  id: string;
  help: string;
  nodes: { html: string; failureSummary: string }[];
}

/** What axe-core finds against WCAG 2.2 AA and its own best practices. */
async function findViolations(page: Page, exception?: string): Promise<string[]> {
  // Evaluated by the debugger, which our Content-Security-Policy does not bind.
  await page.evaluate(axeSource);
  const { violations } = (await page.evaluate('axe.run(document)')) as { violations: Violation[] };
  return violations
    .filter(({ id }) => id !== exception)
    .flatMap(({ id, help, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html}: ${failureSummary}`),
    );
}

/** 0 for black, 1 for white: what the page is painted on. */
async function backgroundLightness(page: Page): Promise<number> {
  const color = (await page.evaluate('getComputedStyle(document.body).backgroundColor')) as string;
  const channels =
    color
      .match(/[\d.]+/g)
      ?.slice(0, 3)
      .map(Number) ?? [];
  assert.equal(channels.length, 3, color);
  return channels.reduce((sum, channel) => sum + channel, 0) / 3 / 255;
}

for (const [name, visit] of Object.entries(visits)) {
  test(`the page "${name}" is accessible in light and dark, in English and German, and fits a narrow screen`, async (t) => {
    const { server, site } = await prepareVisit(t, visit);
    for (const locale of ['en', 'de']) {
      const page = await openPage(t, { locale, viewport: { width: 320, height: 640 } });
      await visit.go({ page, server, site });

      const isOurs = page.url().startsWith(new URL(server.issuer).origin);
      assert.ok(isOurs, page.url());
      assert.equal(await page.locator('html').getAttribute('lang'), locale);
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme });
        assert.deepEqual(await findViolations(page, visit.exception), [], `${locale} ${colorScheme}`);
        const lightness = await backgroundLightness(page);
        assert.ok(
          colorScheme === 'light' ? lightness > 0.8 : lightness < 0.2,
          `${colorScheme}: ${lightness}`,
        );
      }
      // 320 CSS pixels are a phone, or a desktop at 400 % (WCAG 2.2, 1.4.10).
      assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 320, locale);
      await page.context().close();
    }
  });
}
