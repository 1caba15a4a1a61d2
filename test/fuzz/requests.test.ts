/**
 * Any request with any bytes, to every route of a running server. Whatever comes, the answer is below 500 and comes
 * soon, nothing of the program is in it, and the server goes on.
 */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { createBrowser } from '../support/browser.ts';
import { startOpenIdProvider } from '../support/identity-providers.ts';
import { authorize, basic, mvc, post, signInAndRedeem } from '../support/sign-in.ts';
import { findFreePort, startTestServer, type TestServer } from '../support/start-server.ts';
import { signTicket } from '../support/windows-ticket.ts';
import { holds, hostileText } from './fuzzing.ts';

/** A request that is answered at all is answered within milliseconds; this is a hang. */
const patienceMs = 10_000;
const endAfterMs = 150;
const portal = { Realm: 'urn:portal', ReplyUrls: ['https://portal.example.com/signin'] };
const secret = 'a-secret-of-the-handler-of-32-characters';

const fixedPaths = [
  ...['', '/', '/.well-known/openid-configuration', '/.well-known/oauth-authorization-server'],
  ...['/.well-known/openid-configuration/jwks', '/.well-known/jwks', '/connect/authorize', '/connect/token'],
  ...['/connect/userinfo', '/connect/introspect', '/connect/revocation', '/connect/endsession'],
  ...['/connect/endsession/confirm', '/connect/endsession/success', '/connect/endsession/stay'],
  ...['/connect/accessTokenValidation', '/connect/identityTokenValidation', '/signed-out', '/signed-out/x'],
  ...['/login/x', '/login/x/return', '/callback/wsfed/IntelligenceWsFed', '/callback/oidc/Corporate'],
  ...['/callback/oidc/Corporate/logout', '/assets/postern.css', '/connect/authorize/x'],
].map((path) => `/SPSSMR/Oidc${path}`);
const wsFedPaths = ['', '/', '/Login', '/WinLogin', '/FederationMetadata/2007-06/FederationMetadata.xml'].map(
  (path) => `/SPSSMR/WsFed${path}`,
);
const managementPaths = ['/health/live', '/health/ready', '/metrics', '/'];

/** A server with everything that it can have switched on, and the values that lead deeper than a refusal. */
async function start(t: TestContext) {
  const management = await findFreePort();
  const corporate = await startOpenIdProvider(t, { sub: 'u-1', preferred_username: 'alice' });
  const server = await startTestServer(t, {
    server: {
      Management: { Port: management },
      EnableTokenValidationEndpoints: true,
      EnableWindowsLogin: true,
      WindowsLogin: {
        Ticket: { HandlerUrl: 'http://localhost:1/WinLogin/', Secrets: [{ plain: secret }] },
        Networks: ['127.0.0.1'],
      },
    },
    clients: { mvc: { AllowedScopes: ['openid', 'profile', 'intelligence_web_api', 'offline_access'] } },
    providers: {
      Corporate: {
        Type: 'Oidc',
        Caption: 'Corporate',
        Authority: corporate.issuer,
        RequireHttpsMetadata: false,
        ClientId: 'postern',
        CallbackPath: '/callback/oidc/Corporate',
        UserNameClaims: ['preferred_username'],
      },
    },
    relyingParties: { Portal: portal },
  });
  const { issuer } = server;
  const scope = `${mvc.scope} offline_access`;
  const signedIn = await signInAndRedeem({ issuer, ...mvc, scope });
  const waiting = await authorize({ issuer, ...mvc });
  const wsFedBrowser = createBrowser();
  const wsFedUrl = `${issuer.replace(/Oidc$/, 'WsFed')}?wa=wsignin1.0&wtrealm=urn:portal`;
  const wsFedPage = await wsFedBrowser.open(wsFedUrl.replace('?', '/Login?'));
  const reference = await post(
    `${issuer}/connect/token`,
    { grant_type: 'client_credentials' },
    basic('batch-ref', 'batch-ref-secret'),
  );
  const cookies = (browser: { cookies: () => { name: string; value: string }[] }) =>
    browser
      .cookies()
      .map(({ name, value }) => `${name}=${value}`)
      .join('; ');
  const csrfOf = (body: string) => /name="csrf" value="([^"]*)"/.exec(body)?.[1] ?? '';
  return {
    server,
    ports: { main: Number(new URL(server.url).port), management },
    paths: [...fixedPaths, ...wsFedPaths, waiting.page.url.pathname, `${waiting.page.url.pathname}/return`],
    values: [
      signedIn.body.access_token,
      signedIn.body.refresh_token,
      signedIn.body.id_token,
      reference.body.access_token,
      csrfOf(waiting.page.body),
      csrfOf(wsFedPage.body),
      signTicket({ name: 'EXAMPLE\\carol', attempt: 'x', time: 1 }, secret),
    ],
    cookies: [cookies(signedIn.browser), cookies(waiting.browser), cookies(wsFedBrowser)],
  };
}

const parameterNames = [
  ...[
    'client_id',
    'client_secret',
    'redirect_uri',
    'response_type',
    'response_mode',
    'scope',
    'state',
    'nonce',
  ],
  ...['prompt', 'max_age', 'ui_locales', 'id_token_hint', 'login_hint', 'acr_values', 'claims', 'request'],
  ...[
    'request_uri',
    'registration',
    'resource',
    'code',
    'code_challenge',
    'code_challenge_method',
    'display',
  ],
  ...[
    'code_verifier',
    'grant_type',
    'refresh_token',
    'username',
    'password',
    'token',
    'token_type_hint',
    'iss',
  ],
  ...[
    'post_logout_redirect_uri',
    'logout',
    'xsrf',
    'csrf',
    'action',
    'provider',
    'again',
    'attempt',
    'ticket',
  ],
  ...[
    'wa',
    'wtrealm',
    'wreply',
    'wctx',
    'wct',
    'wfresh',
    'wauth',
    'whr',
    'wresult',
    'pending',
    'sid',
    'error',
  ],
  ...['access_token', 'id_token', 'logout_token', 'expectedScope', 'SAMLRequest', 'client_assertion'],
  ...['client_assertion_type', 'assertion', 'subject_token', 'user_code', 'dpop_jkt', '__proto__', 'length'],
];
const parameterValues = [
  ...[
    'mvc',
    'spa',
    'miClient',
    'desk',
    'batch',
    'mvc-secret',
    'desk-secret',
    'alice',
    'Pass-word-1',
    'urn:portal',
  ],
  ...[
    'code',
    'id_token',
    'code id_token',
    'query',
    'form_post',
    'fragment',
    'none',
    'login',
    'consent',
    'S256',
  ],
  ...['openid', 'openid profile intelligence_web_api offline_access', '[]', 'authorization_code', 'password'],
  ...['client_credentials', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code', 'wsignin1.0'],
  ...[
    'wsignout1.0',
    'wsignoutcleanup1.0',
    'http://localhost:5090/callback',
    'http://localhost:32284/',
    'cancel',
  ],
  ...[
    'https://portal.example.com/signin',
    'idp:IntelligenceWsFed',
    'tenant:x',
    'IntelligenceWsFed',
    'yes',
    '0',
  ],
  ...['{"userinfo":{"email":null}}', '{"id_token":{"sub":{"value":1}}}', 'x'.repeat(43), '1'.repeat(400)],
  ...[
    'eyJhbGciOiJub25lIn0.e30.',
    'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA',
    'a.b.c',
    '....',
    'e30.e30.e30',
  ],
  ...[
    '<t:RequestSecurityTokenResponse xmlns:t="http://schemas.xmlsoap.org/ws/2005/02/trust"/>',
    'WAAAA.WAAAA',
  ],
];

interface Made {
  readonly request: Buffer;
  readonly isManagement: boolean;
}

/** With its bytes as a text, where a failure shows it. */
function made(request: Buffer, isManagement = false): Made {
  const shown = `${isManagement ? 'management ' : ''}${JSON.stringify(request.toString('latin1'))}`;
  return Object.assign({ request, isManagement }, { [fc.toStringMethod]: () => shown });
}

/** Requests that are HTTP, with whatever in it. */
function requests({ paths, values, cookies }: Awaited<ReturnType<typeof start>>): fc.Arbitrary<Made> {
  const value = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...parameterValues, ...values) },
    { weight: 3, arbitrary: hostileText },
    // Nearly right.
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom(...values), fc.nat(2000), hostileText)
        .map(([text, at, piece]) => text.slice(0, at) + piece + text.slice(at + 1)),
    },
  );
  const pair = fc.tuple(
    fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom(...parameterNames) },
      { weight: 1, arbitrary: hostileText },
    ),
    value,
    fc.constantFrom('form', 'raw', 'bracket', 'bare'),
  );
  const query = fc.array(pair, { maxLength: 12 }).map((pairs) =>
    pairs
      .map(([name, text, way]) => {
        if (way === 'raw') return `${name}=${text}`.replace(/[^!-~\u0080-\uffff]/g, '+');
        if (way === 'bare') return encodeForm(name);
        return `${encodeForm(name)}${way === 'bracket' ? '[]' : ''}=${encodeForm(text)}`;
      })
      .join('&'),
  );
  const path = fc
    .tuple(
      fc.constantFrom(...paths),
      fc.array(
        fc.tuple(
          fc.nat(80),
          fc.constantFrom(
            '/',
            '//',
            '%2f',
            '%2F..',
            '/..',
            '/.',
            '%00',
            '%',
            '%ff',
            ';x',
            '\\',
            '%5c',
            '?',
            'A',
            '"',
          ),
        ),
        { maxLength: 2 },
      ),
      fc.constantFrom(
        'as it is',
        'as it is',
        'as it is',
        'upper',
        'absolute',
        'authority',
        'foreign',
        'slashes',
        'long',
      ),
    )
    .map(([text, inserted, way]) => {
      const changed = inserted.reduce(
        (whole, [at, piece]) => whole.slice(0, at) + piece + whole.slice(at),
        text,
      );
      switch (way) {
        case 'upper':
          return changed.toUpperCase();
        case 'absolute':
          return `http://localhost${changed}`;
        case 'authority':
          return `//evil.example${changed}`;
        case 'foreign':
          return `http://evil.example:99999${changed}`;
        case 'slashes':
          return `${changed}${'/'.repeat(7000)}x`;
        case 'long':
          return `${changed}/${'a'.repeat(7000)}`;
        default:
          return changed;
      }
    });
  const header = fc.oneof(
    fc.tuple(
      fc.constant('cookie'),
      fc.oneof(fc.constantFrom(...cookies), fc.constantFrom(...cookies), value),
    ),
    fc.tuple(
      fc.constant('authorization'),
      fc.oneof(
        fc
          .constantFrom(
            'mvc:mvc-secret',
            'desk:desk-secret',
            'batch:batch-secret',
            'intelligence_web_api:web-api-secret',
            ':',
            '%:%',
          )
          .map((pair) => `Basic ${Buffer.from(pair).toString('base64')}`),
        value.map((text) => `Bearer ${text}`),
        value.map((text) => `Basic ${Buffer.from(text).toString('base64')}`),
        fc.constantFrom(
          'Negotiate YII=',
          'Negotiate',
          'NTLM TlRMTVNTUAAB',
          'Basic',
          'Bearer',
          'DPoP x',
          'Basic  ==',
        ),
      ),
    ),
    fc.tuple(
      fc.constantFrom(
        ...['host', 'origin', 'referer', 'accept', 'accept-language', 'accept-encoding', 'x-forwarded-for'],
        ...[
          'x-forwarded-proto',
          'x-forwarded-host',
          'forwarded',
          'sec-fetch-site',
          'sec-fetch-mode',
          'range',
        ],
        ...[
          'if-none-match',
          'if-modified-since',
          'access-control-request-method',
          'dpop',
          'upgrade',
          'expect',
        ],
        ...[
          'access-control-request-headers',
          'content-encoding',
          'te',
          'via',
          'x-remote-user',
          'x-remote-secret',
        ],
        ...[
          'x-http-method-override',
          'x-original-url',
          'traceparent',
          'tracestate',
          'max-forwards',
          'date',
          'user-agent',
          '__proto__',
        ],
      ),
      fc.oneof(
        value,
        fc.constantFrom(
          ...[
            'text/html',
            'application/json',
            '*/*',
            'text/html;q=x',
            ',,,;q=',
            'application/token-introspection+jwt',
          ],
          ...[
            '127.0.0.1, [::1]:99, ::ffff:1.2.3.4',
            'for="[::1]";proto=https;host=evil',
            'cross-site',
            'null',
          ],
          ...[
            'gzip',
            'websocket',
            '100-continue',
            '200-maybe',
            'bytes=0-',
            'POST',
            'evil.example:99999',
            '[::1]:x',
          ],
        ),
      ),
    ),
  );
  const body = fc.oneof(
    { weight: 4, arbitrary: query.map((text) => Buffer.from(text)) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        Buffer.from(`{"a":${'['.repeat(5000)}`),
        Buffer.from(`${'a['.repeat(3000)}=1`),
        Buffer.from('__proto__[x]=1&constructor[prototype][y]=2&a=1&a=2'),
        Buffer.from('x'.repeat(60_000)),
        Buffer.from(`${'&'.repeat(30_000)}`),
        Buffer.from(`${'a=1&'.repeat(12_000)}`),
        Buffer.from('%'.repeat(20_000)),
      ),
    },
  );
  const contentType = fc.constantFrom(
    ...['application/x-www-form-urlencoded', 'application/x-www-form-urlencoded'],
    ...[
      'application/x-www-form-urlencoded; charset=utf-16',
      'application/x-www-form-urlencoded;charset="',
      '',
    ],
    ...['application/json', 'multipart/form-data; boundary=x', 'text/plain', 'text/xml', ';', 'a/b/c', 'x'],
  );
  const framing = fc.constantFrom(
    'length',
    'length',
    'length',
    'length',
    'chunked',
    'short',
    'long',
    'none',
    'both',
  );
  const method = fc.constantFrom(
    ...['GET', 'GET', 'GET', 'POST', 'POST', 'POST', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'PATCH', 'TRACE'],
    ...['CONNECT', 'PROPFIND', 'PURGE', 'M-SEARCH', 'QUERY'],
  );
  return fc
    .record({
      method,
      path,
      query,
      headers: fc.array(header, { maxLength: 6 }),
      contentType,
      body,
      framing,
      isManagement: fc.integer({ min: 0, max: 19 }).map((one) => one === 0),
      managementPath: fc.constantFrom(...managementPaths),
    })
    .map((parts) => {
      const target = `${parts.isManagement ? parts.managementPath : parts.path}${parts.query === '' ? '' : `?${parts.query}`}`;
      const lines = [`${parts.method} ${target} HTTP/1.1`];
      if (!parts.headers.some(([name]) => name === 'host')) lines.push('host: localhost');
      for (const [name, text] of parts.headers)
        lines.push(`${name}: ${text.replace(/[^\t -~\u0080-\uffff]/g, ' ')}`);
      const hasBody = parts.method !== 'GET' && parts.method !== 'HEAD';
      const { framing } = parts;
      if (hasBody && parts.contentType !== '') lines.push(`content-type: ${parts.contentType}`);
      const { length } = parts.body;
      if (hasBody && (framing === 'length' || framing === 'both')) lines.push(`content-length: ${length}`);
      if (hasBody && framing === 'short') lines.push(`content-length: ${length >> 1}`);
      if (hasBody && framing === 'long') lines.push(`content-length: ${length + 9}`);
      if (hasBody && (framing === 'chunked' || framing === 'both')) lines.push('transfer-encoding: chunked');
      lines.push('connection: close', '', '');
      const body = framing === 'chunked' ? toChunked(parts.body) : parts.body;
      const head = Buffer.from(lines.join('\r\n'), 'utf8');
      return made(hasBody ? Buffer.concat([head, body]) : head, parts.isManagement);
    });
}

/**
 * Requests that are right but for what is changed in them: a parameter that has another value, is missing, comes twice
 * or was never heard of.
 */
function nearlyRight({
  cookies,
  paths,
  ports,
  values,
}: Awaited<ReturnType<typeof start>>): fc.Arbitrary<Made> {
  const [signedIn = '', waiting = '', wsFed = ''] = cookies;
  const [access = '', refresh = '', idToken = '', reference = '', csrf = '', wsFedCsrf = '', ticket = ''] =
    values;
  const login = paths.at(-2) ?? '';
  const basicOf = (pair: string) => `authorization: Basic ${Buffer.from(pair).toString('base64')}`;
  const authorize = {
    client_id: 'mvc',
    redirect_uri: mvc.redirectUri,
    response_type: 'code',
    scope: 'openid profile intelligence_web_api offline_access',
    state: 's',
    nonce: 'n',
    prompt: 'none',
    code_challenge: 'x'.repeat(43),
    code_challenge_method: 'S256',
    response_mode: 'query',
    max_age: '10',
    acr_values: 'idp:local tenant:x',
    ui_locales: 'en',
    id_token_hint: idToken,
    login_hint: 'alice',
    claims: '{"userinfo":{"email":null}}',
  };
  const wsFedQuery = {
    wa: 'wsignin1.0',
    wtrealm: 'urn:portal',
    wctx: 'c',
    wfresh: '5',
    wreply: portal.ReplyUrls[0] ?? '',
  };
  const wresult = '<t:RequestSecurityTokenResponse xmlns:t="http://schemas.xmlsoap.org/ws/2005/02/trust"/>';
  const oidc = '/SPSSMR/Oidc';
  const wsFedAt = '/SPSSMR/WsFed';
  type Template = readonly [
    method: string,
    path: string,
    fields: Record<string, string>,
    ...headers: string[],
  ];
  const templates: readonly Template[] = [
    ['GET', `${oidc}/connect/authorize`, authorize, `cookie: ${signedIn}`],
    ['GET', `${oidc}/connect/authorize`, { ...authorize, prompt: 'login', client_id: 'spa' }],
    ['POST', `${oidc}/connect/authorize`, authorize],
    [
      'POST',
      `${oidc}/connect/token`,
      { grant_type: 'client_credentials', scope: 'intelligence_web_api' },
      basicOf('batch:batch-secret'),
    ],
    [
      'POST',
      `${oidc}/connect/token`,
      { grant_type: 'password', username: 'nobody', password: 'x', scope: 'openid' },
      basicOf('desk:desk-secret'),
    ],
    [
      'POST',
      `${oidc}/connect/token`,
      { grant_type: 'refresh_token', refresh_token: `${refresh}x`, scope: 'openid' },
      basicOf('mvc:mvc-secret'),
    ],
    [
      'POST',
      `${oidc}/connect/token`,
      {
        grant_type: 'authorization_code',
        code: 'c',
        redirect_uri: mvc.redirectUri,
        code_verifier: 'x'.repeat(43),
        client_id: 'mvc',
        client_secret: 'mvc-secret',
      },
    ],
    [
      'POST',
      `${oidc}/connect/introspect`,
      { token: access, token_type_hint: 'access_token' },
      basicOf('intelligence_web_api:web-api-secret'),
    ],
    [
      'POST',
      `${oidc}/connect/introspect`,
      { token: reference, client_id: 'batch-ref', client_secret: 'batch-ref-secret' },
      'accept: application/token-introspection+jwt',
    ],
    [
      'POST',
      `${oidc}/connect/revocation`,
      { token: access.slice(1), token_type_hint: 'refresh_token' },
      basicOf('mvc:mvc-secret'),
    ],
    ['POST', `${oidc}/connect/accessTokenValidation`, { token: access, expectedScope: 'openid' }],
    ['GET', `${oidc}/connect/identityTokenValidation`, { token: idToken, client_id: 'mvc' }],
    ['GET', `${oidc}/connect/userinfo`, { schema: 'openid' }, `authorization: Bearer ${access}`],
    ['POST', `${oidc}/connect/userinfo`, { access_token: access }],
    [
      'GET',
      `${oidc}/connect/endsession`,
      {
        id_token_hint: idToken.slice(1),
        post_logout_redirect_uri: 'http://localhost:5090/',
        state: 's',
        client_id: 'mvc',
        ui_locales: 'x',
      },
    ],
    ['POST', `${oidc}/connect/endsession/confirm`, { xsrf: 'x', logout: 'yes' }, `cookie: ${waiting}`],
    ['GET', login, { client_id: 'mvc' }, `cookie: ${waiting}`, 'accept: text/html'],
    [
      'POST',
      login,
      { csrf, username: 'nobody', password: 'x', provider: 'IntelligenceWsFed', again: '1' },
      `cookie: ${waiting}`,
    ],
    ['POST', login, { csrf, username: 'nobody@example.com', password: 'x' }, `cookie: ${waiting}`],
    ['GET', `${login}/return`, { attempt: 'a', ticket: 't', client_id: 'mvc' }, `cookie: ${waiting}`],
    ['POST', `${oidc}/callback/wsfed/IntelligenceWsFed`, { wa: 'wsignin1.0', wresult, wctx: 'x'.repeat(43) }],
    ['POST', `${oidc}/`, { wa: 'wsignin1.0', wresult, wctx: 'x'.repeat(43) }],
    ['GET', `${oidc}/callback/wsfed/IntelligenceWsFed`, { wa: 'wsignoutcleanup1.0' }, `cookie: ${signedIn}`],
    [
      'GET',
      `${oidc}/callback/oidc/Corporate`,
      { state: 'x'.repeat(43), code: 'c', iss: 'http://localhost:1', error: 'x', session_state: 's' },
    ],
    ['POST', `${oidc}/callback/oidc/Corporate`, { state: 'x'.repeat(43), id_token: idToken, code: 'c' }],
    [
      'GET',
      `${oidc}/callback/oidc/Corporate/logout`,
      { iss: 'http://localhost:1', sid: 's' },
      `cookie: ${signedIn}`,
    ],
    ['POST', `${oidc}/callback/oidc/Corporate/logout`, { logout_token: 'eyJhbGciOiJub25lIn0.e30.' }],
    ['GET', `${oidc}/signed-out`, { state: 'x'.repeat(43) }],
    ['GET', wsFedAt, wsFedQuery, `cookie: ${wsFed}`],
    [
      'GET',
      `${wsFedAt}/Login`,
      { ...wsFedQuery, wauth: 'urn:federation:authentication:windows' },
      `cookie: ${wsFed}`,
    ],
    ['GET', `${wsFedAt}/WinLogin`, wsFedQuery, `cookie: ${wsFed}`],
    [
      'POST',
      `${wsFedAt}?${new URLSearchParams(wsFedQuery)}`,
      { csrf: wsFedCsrf, username: 'nobody', password: 'x' },
      `cookie: ${wsFed}`,
    ],
    [
      'POST',
      `${wsFedAt}?${new URLSearchParams(wsFedQuery)}`,
      { csrf: wsFedCsrf, pending: 'e30.x', password: 'x' },
      `cookie: ${wsFed}`,
    ],
    ['POST', `${wsFedAt}/WinLogin`, { ticket }, `cookie: ${wsFed}`],
    [
      'GET',
      wsFedAt,
      { wa: 'wsignout1.0', wreply: 'https://portal.example.com/signin', wtrealm: 'urn:portal' },
    ],
  ];
  const value = fc.oneof(fc.constantFrom(...parameterValues, ...values), hostileText, hostileText);
  const change = fc.record({
    at: fc.nat(20),
    way: fc.constantFrom(
      'replace',
      'replace',
      'replace',
      'insert',
      'drop',
      'twice',
      'more',
      'cookie',
      'header',
    ),
    name: fc.oneof(fc.constantFrom(...parameterNames), hostileText),
    value,
    place: fc.nat(900),
  });
  return fc
    .tuple(fc.constantFrom(...templates), fc.array(change, { minLength: 1, maxLength: 3 }))
    .map(([[method, path, fields, ...headers], changes]) => {
      const sent = Object.entries(fields).map(([name, text]): [string, string] => [name, text]);
      const lines = [...headers];
      for (const { at, name, place, value, way } of changes) {
        const index = at % Math.max(sent.length, 1);
        const [known = '', old = ''] = sent[index] ?? [];
        const line = lines[at % Math.max(lines.length, 1)] ?? '';
        const inserted = (text: string) =>
          text.slice(0, place % (text.length + 1)) + value + text.slice(place % (text.length + 1));
        if (way === 'replace') sent[index] = [known, value];
        else if (way === 'insert') sent[index] = [known, inserted(old)];
        else if (way === 'drop') sent.splice(index, 1);
        else if (way === 'twice') sent.push([known, value]);
        else if (way === 'more') sent.push([name, value]);
        else if (line !== '') lines[at % lines.length] = line.slice(0, 15) + inserted(line.slice(15));
      }
      const query = new URLSearchParams(sent).toString();
      const target = method === 'GET' ? `${path}?${query}` : path;
      const head = [
        `${method} ${target} HTTP/1.1`,
        `host: localhost:${ports.main}`,
        ...lines.map((line) => line.replace(/[^\t -~\u0080-\uffff]/g, ' ')),
        ...(method === 'GET'
          ? []
          : ['content-type: application/x-www-form-urlencoded', `content-length: ${query.length}`]),
        'connection: close',
      ].join('\r\n');
      return { request: Buffer.from(`${head}\r\n\r\n${method === 'GET' ? '' : query}`), isManagement: false };
    });
}

function encodeForm(text: string): string {
  return new URLSearchParams([[text, '']]).toString().slice(0, -1);
}

function toChunked(body: Buffer): Buffer {
  const size = body.length === 0 ? '' : `${body.length.toString(16)}\r\n`;
  return Buffer.concat([Buffer.from(size), body, Buffer.from(`${size === '' ? '' : '\r\n'}0\r\n\r\n`)]);
}

/**
 * Sends bytes and returns what came until the connection ended. Who sends half a request says after a while that there
 * is no more: at once, Node would leave the answers to whole ones away.
 */
function send(port: number, bytes: Buffer, { endsAfterMs = endAfterMs } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => socket.write(bytes));
    const chunks: Buffer[] = [];
    const end = setTimeout(() => socket.end(), endsAfterMs);
    const alarm = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end after ${patienceMs} ms; so far: ${Buffer.concat(chunks).toString('latin1')}`));
    }, patienceMs);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('end', () => socket.end());
    // Who is refused while he still sends is cut off.
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(alarm);
      clearTimeout(end);
      resolve(Buffer.concat(chunks).toString('latin1'));
    });
  });
}

/** What no answer and no log may have. */
function judge(server: TestServer, answer: string, logFrom: number): void {
  for (const [, status] of answer.matchAll(/^HTTP\/1\.1 (\d+)/gm)) {
    assert.ok(Number(status) < 500, answer.slice(0, 2000));
  }
  assert.doesNotMatch(answer, /node_modules|node:internal|\n\s+at |\.ts:\d|\/src\//);
  const errors = server.lines.slice(logFrom).filter((line) => /"level":("error"|"fatal"|50|60)/.test(line));
  assert.deepEqual(errors, [], 'the log has an error');
}

async function answersOthers(server: TestServer): Promise<void> {
  const response = await fetch(`${server.issuer}/.well-known/openid-configuration`);
  assert.equal(response.status, 200);
  await response.arrayBuffer();
}

test('whatever is asked of whatever route, the answer is below 500, comes soon and shows nothing of the program', async (t) => {
  const started = await start(t);
  const { ports, server } = started;
  const property = fc.asyncProperty(requests(started), async ({ isManagement, request }) => {
    const from = server.lines.length;
    judge(server, await send(isManagement ? ports.management : ports.main, request), from);
  });
  await holds(property, 500);
  await answersOthers(server);
});

test('a request that is right but for a parameter, a cookie or a header gets an answer below 500', async (t) => {
  const started = await start(t);
  const { ports, server } = started;
  const property = fc.asyncProperty(nearlyRight(started), async ({ request }) => {
    const from = server.lines.length;
    const answer = await send(ports.main, request, { endsAfterMs: patienceMs });
    assert.match(answer, /^HTTP\/1\.1 [234]/);
    judge(server, answer, from);
  });
  await holds(property, 500);
  await answersOthers(server);
});

test('bytes that are no HTTP end their connection, and the server goes on', async (t) => {
  const started = await start(t);
  const { ports, server } = started;
  const change = fc.tuple(
    fc.nat(600),
    fc.nat(5),
    fc.oneof(
      fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
      fc
        .constantFrom(
          '\r\n',
          '\n',
          '\r',
          ' ',
          '\t',
          '\0',
          ':',
          'HTTP/9.9',
          '\r\n\r\n',
          'transfer-encoding: x\r\n',
          '0\r\n\r\n',
        )
        .map((text) => Buffer.from(text)),
    ),
  );
  const property = fc.asyncProperty(
    requests(started),
    fc.array(change, { minLength: 1, maxLength: 5 }),
    async ({ isManagement, request }, changes) => {
      const from = server.lines.length;
      const bytes = changes.reduce(
        (whole, [at, cut, piece]) => Buffer.concat([whole.subarray(0, at), piece, whole.subarray(at + cut)]),
        request,
      );
      judge(server, await send(isManagement ? ports.management : ports.main, bytes), from);
    },
  );
  await holds(property, 300);
  await answersOthers(server);
});
