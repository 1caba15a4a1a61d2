/** A browser without scripts: it keeps cookies by path, follows redirects one by one, reads and posts forms. */

export interface Page {
  readonly url: URL;
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
  /** Where it redirects to, if it does. */
  readonly location: URL | undefined;
}

interface Cookie {
  name: string;
  value: string;
  path: string;
}

/**
 * Makes a browser with an empty cookie jar.
 *
 * @param headers go with every request, such as those of a proxy before it
 * @param origins where requests to an origin really go, as through a proxy that ends TLS
 */
export function createBrowser({
  headers = {},
  origins = {},
}: {
  headers?: Readonly<Record<string, string>>;
  origins?: Readonly<Record<string, string>>;
} = {}) {
  const setCookies: string[] = [];
  const jar = new Map<string, Cookie>();

  async function request(url: URL | string, init: RequestInit = {}): Promise<Page> {
    const target = new URL(url);
    const cookies = [...jar.values()].filter(({ path }) => target.pathname.startsWith(path));
    const served = new URL(target.href.replace(target.origin, origins[target.origin] ?? target.origin));
    const response = await fetch(served, {
      ...init,
      redirect: 'manual',
      headers: {
        accept: 'text/html,application/xhtml+xml',
        ...headers,
        ...(cookies.length > 0
          ? { cookie: cookies.map(({ name, value }) => `${name}=${value}`).join('; ') }
          : undefined),
        ...(init.headers as Record<string, string> | undefined),
      },
    });
    for (const line of response.headers.getSetCookie()) keep(line);
    setCookies.push(...response.headers.getSetCookie());
    const location = response.headers.get('location');
    return {
      url: target,
      status: response.status,
      headers: response.headers,
      body: await response.text(),
      location: location === null ? undefined : new URL(location, target),
    };
  }

  function keep(line: string): void {
    const [pair = '', ...attributes] = line.split('; ');
    const [name = ''] = pair.split('=');
    const path = attributes.find((attribute) => /^path=/i.test(attribute))?.slice(5) ?? '/';
    const isGone = attributes.some((attribute) => /^expires=Thu, 01 Jan 1970/i.test(attribute));
    const key = `${path} ${name}`;
    if (isGone) jar.delete(key);
    else jar.set(key, { name, value: pair.slice(name.length + 1), path });
  }

  /** Follows redirects as long as they stay with `origin`; the last page, or the redirect that leaves. */
  async function follow(page: Page, origin: string): Promise<Page> {
    let current = page;
    for (let hop = 0; current.location?.origin === origin; hop += 1) {
      if (hop > 10) throw new Error(`redirect loop at ${current.location}`);
      current = await request(current.location);
    }
    return current;
  }

  return {
    cookies: () => [...jar.values()],
    /** Every Set-Cookie line that has come. */
    setCookies: () => setCookies,
    /** Has a cookie as if a server had set it. */
    keep,
    clear: () => jar.clear(),
    request,
    follow,

    async open(url: URL | string): Promise<Page> {
      return follow(await request(url), new URL(url).origin);
    },

    /** Fills and sends the page's (last) form; hidden fields go along, `undefined` leaves a field out. */
    async submit(page: Page, fields: Record<string, string | undefined>): Promise<Page> {
      const forms = page.body.match(/<form(?! class="inline")[^>]*>[\s\S]*?<\/form>/g) ?? [];
      // The buttons of identity providers stand in a form of their own beneath.
      const form = forms.findLast(
        (one) => forms.length === 1 || one.includes('class="providers"') === (fields.provider !== undefined),
      );
      if (form === undefined)
        throw new Error(`no form on the page: ${page.status} ${page.body.slice(0, 400)}`);
      const action = decodeEntities(/action="([^"]*)"/.exec(form)?.[1] ?? page.url.href);
      const values: Record<string, string> = {};
      for (const [input] of form.matchAll(/<input[^>]*type="hidden"[^>]*>/g)) {
        const name = /name="([^"]*)"/.exec(input)?.[1];
        if (name !== undefined) values[name] = decodeEntities(/value="([^"]*)"/.exec(input)?.[1] ?? '');
      }
      for (const [name, value] of Object.entries(fields)) {
        if (value === undefined) delete values[name];
        else values[name] = value;
      }
      const target = new URL(action, page.url);
      return follow(
        await request(target, { method: 'POST', body: new URLSearchParams(values) }),
        target.origin,
      );
    },
  };
}

export type Browser = ReturnType<typeof createBrowser>;

function decodeEntities(text: string): string {
  return text
    .replaceAll('&quot;', '"')
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&');
}
