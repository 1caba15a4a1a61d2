/** The one page of the application: HTML without scripts, every value escaped. */

export interface PageOptions {
  /** Who is signed in, if anybody. */
  user?: {
    claims: Record<string, unknown>;
    /** Milliseconds since the epoch. */
    accessTokenEndsAt: number;
    refreshToken: string | undefined;
  };
  /** Said once, above the rest. */
  note?: string | undefined;
}

/** The page as it is for this user, or for nobody. Pure. */
export function page({ user, note }: PageOptions): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Example web application</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><p>Example web application</p>${user === undefined ? '' : button('/logout', 'Sign out', 'quiet')}</header>
<main>
${note === undefined ? '' : `<p class="note" role="status">${escapeHtml(note)}</p>`}
${user === undefined ? welcome : home(user)}
</main>
</body>
</html>
`;
}

const welcome = `<h1>Nobody is signed in</h1>
<p>This application knows no passwords. It sends you to Postern, and learns from there who you are.</p>
${button('/login', 'Sign in', 'primary')}`;

function home({ claims, accessTokenEndsAt, refreshToken }: NonNullable<PageOptions['user']>): string {
  const rows = Object.entries(claims).map(
    ([name, claim]) =>
      `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(describe(claim))}</td></tr>`,
  );
  return `<h1>Hello, ${escapeHtml(String(claims.name ?? claims.sub))}</h1>
<p>The access token is good until <time>${new Date(accessTokenEndsAt).toLocaleTimeString('en-GB')}</time>.</p>
<div class="actions">
${button('/call-api', 'Call the API', 'primary')}
${refreshToken === undefined ? '' : button('/refresh', 'Refresh the tokens', 'quiet')}
</div>
<h2>What Postern says about you</h2>
<table><tbody>
${rows.join('\n')}
</tbody></table>`;
}

/** What changes something is a form, never a link. */
function button(action: string, label: string, look: 'primary' | 'quiet'): string {
  return `<form method="post" action="${action}"><button class="${look}">${label}</button></form>`;
}

function describe(claim: unknown): string {
  if (Array.isArray(claim)) return claim.join(', ');
  return typeof claim === 'object' ? JSON.stringify(claim) : String(claim);
}

function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
