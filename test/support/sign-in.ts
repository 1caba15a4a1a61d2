/** A whole sign-in by code, as a client and its user's browser do it together. */
import { createHash, randomBytes } from 'node:crypto';
import { type Browser, createBrowser, type Page } from './browser.ts';

export interface SignInOptions {
  issuer: string;
  clientId: string;
  redirectUri: string;
  scope: string;
  secret?: string;
  user?: string;
  password?: string;
  browser?: Browser;
  /** More parameters of the authorization request. */
  parameters?: Record<string, string>;
  withPkce?: boolean;
}

export interface TokenResponse {
  status: number;
  headers: Headers;
  body: Record<string, unknown> & {
    access_token: string;
    refresh_token: string;
    id_token: string;
    expires_in: number;
    scope: string;
    error?: string;
    error_description?: string;
  };
}

/** Posts a form and reads JSON. */
export async function post(
  url: string,
  fields: Record<string, string>,
  headers: Record<string, string> = {},
): Promise<TokenResponse> {
  const response = await fetch(url, {
    method: 'POST',
    body: new URLSearchParams(fields),
    headers,
    redirect: 'manual',
  });
  const text = await response.text();
  let body: unknown = {};
  try {
    body = text === '' ? {} : JSON.parse(text);
  } catch {
    body = { text };
  }
  return { status: response.status, headers: response.headers, body: body as TokenResponse['body'] };
}

export function basic(id: string, secret: string): Record<string, string> {
  return { authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}` };
}

/** Sends the authorization request and stops at the first page, or at the redirect back to the client. */
export async function authorize(options: SignInOptions) {
  const {
    issuer,
    clientId,
    redirectUri,
    scope,
    parameters = {},
    browser = createBrowser(),
    withPkce = true,
  } = options;
  const verifier = randomBytes(32).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const url = new URL(`${issuer}/connect/authorize`);
  url.search = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope,
    state: 'state-1',
    ...(withPkce ? { code_challenge: challenge, code_challenge_method: 'S256' } : undefined),
    ...parameters,
  }).toString();
  const page = await browser.open(url);

  return {
    browser,
    page,
    verifier,
    /** Types name and password. */
    signIn: (
      from: Page = page,
      user = options.user ?? 'alice',
      password = options.password ?? 'Pass-word-1',
    ) => browser.submit(from, { username: user, password }),
    /** Exchanges the code of the redirect that `from` is. */
    redeem: (from: Page, more: Record<string, string> = {}) =>
      post(
        `${issuer}/connect/token`,
        {
          grant_type: 'authorization_code',
          code: from.location?.searchParams.get('code') ?? '',
          redirect_uri: redirectUri,
          ...(withPkce ? { code_verifier: verifier } : undefined),
          ...(options.secret === undefined ? { client_id: clientId } : undefined),
          ...more,
        },
        options.secret === undefined ? {} : basic(clientId, options.secret),
      ),
  };
}

/** The whole way: page, password, code, tokens. */
export async function signInAndRedeem(options: SignInOptions) {
  const attempt = await authorize(options);
  const back = attempt.page.location === undefined ? await attempt.signIn() : attempt.page;
  const response = await attempt.redeem(back);
  return { ...attempt, back, ...response };
}

/** Signs in at the login page for mvc, up to the redirect back to it or the page that is shown instead. */
export async function signInAtPage(issuer: string, user: string, password: string) {
  const attempt = await authorize({ issuer, ...mvc });
  return { ...attempt, back: await attempt.signIn(attempt.page, user, password) };
}

/** Whether a page is the redirect back to the client with a code. */
export function isSignedIn({ location }: { location: URL | undefined }): boolean {
  return location?.searchParams.has('code') === true;
}

export const mvc = {
  clientId: 'mvc',
  secret: 'mvc-secret',
  redirectUri: 'http://localhost:5090/callback',
  scope: 'openid profile intelligence_web_api',
} as const;
