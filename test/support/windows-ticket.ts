/** The ticket of the handler of IIS: what it says of a browser, signed by the secret that it shares with the server. */
import { createHmac } from 'node:crypto';

/** Signs claims; see deploy/iis/WinLogin. */
export function signTicket(claims: Readonly<Record<string, unknown>>, secret: string): string {
  const text = Buffer.from(JSON.stringify(claims)).toString('base64url');
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}
