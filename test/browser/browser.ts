/** A real browser for the tests, and the site of a client for it to come back to. */
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { after, type TestContext } from 'node:test';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { requireChromium } from '../support/requirements.ts';

/** One for all tests of a file: starting it takes longer than most of them. */
let launching: Promise<Browser> | undefined;
after(async () => (await launching)?.close());

/** Starts a browser of its own, with these options, for one test. */
export async function openPageWith(
  t: TestContext,
  { args, env }: { args: string[]; env: Readonly<Record<string, string | undefined>> },
): Promise<Page> {
  const executablePath = requireChromium(t);
  const given = Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const browser = await chromium.launch({ executablePath, args, env: Object.fromEntries(given) });
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  return page;
}

/** Opens an empty page in a profile of its own; without a Chromium the test ends here, skipped. */
export async function openPage(t: TestContext, options: BrowserContextOptions = {}): Promise<Page> {
  const executablePath = requireChromium(t);
  launching ??= chromium.launch({ executablePath });
  const profile = await (await launching).newContext(options);
  t.after(() => profile.close());
  profile.setDefaultTimeout(20_000);
  return profile.newPage();
}

/** An authorization response as it reached the client. */
export interface Answer {
  method: string;
  params: URLSearchParams;
}

export interface ClientSite {
  /** Without a slash at its end. */
  readonly origin: string;
  readonly redirectUri: string;
  /** What came to the redirect URI, oldest first. */
  readonly answers: readonly Answer[];
  /** What came last. */
  lastAnswer(): Answer;
}

/**
 * Starts the site of a client on an origin of its own. Its redirect URI notes what comes; every page of it is
 * `documentHtml`, and `files` are served beside, by path.
 */
export async function startClientSite(
  t: TestContext,
  { documentHtml = '<!doctype html><title>Client</title><h1>Back</h1>', files = {} }: ClientSiteOptions = {},
): Promise<ClientSite> {
  const answers: Answer[] = [];
  const site = createServer(async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    if (url.pathname === '/callback') answers.push(await readAnswer(request, url));
    const script = files[url.pathname];
    response.setHeader('Content-Type', script === undefined ? 'text/html' : 'text/javascript');
    response.end(script ?? documentHtml);
  });
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    site.closeAllConnections();
    site.close();
  });
  const origin = `http://localhost:${(site.address() as AddressInfo).port}`;
  return {
    origin,
    redirectUri: `${origin}/callback`,
    answers,
    lastAnswer() {
      const last = answers.at(-1);
      if (last === undefined) throw new Error('nothing has come to the redirect URI');
      return last;
    },
  };
}

export interface ClientSiteOptions {
  documentHtml?: string;
  files?: Readonly<Record<string, string>>;
}

async function readAnswer(request: IncomingMessage, url: URL): Promise<Answer> {
  const method = request.method ?? '';
  return { method, params: method === 'POST' ? new URLSearchParams(await text(request)) : url.searchParams };
}

/** The URL of an authorization request of the shipped client `mvc`, unless `parameters` say otherwise. */
export function authorizationUrl(
  { issuer }: { issuer: string },
  { redirectUri }: ClientSite,
  parameters: Record<string, string> = {},
): string {
  const query = new URLSearchParams({
    client_id: 'mvc',
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'openid profile',
    state: 'state-1',
    ...parameters,
  });
  return `${issuer}/connect/authorize?${query}`;
}

/** Fills the login form and sends it. */
export async function signIn(page: Page, name = 'alice', password = 'Pass-word-1'): Promise<void> {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
}
