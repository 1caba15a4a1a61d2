/**
 * `postern token list` and `postern token revoke`: the long-lived tokens, for an administrator.
 *
 * Long-lived are refresh tokens. Each belongs to one sign-in, its grant, and a rotation replaces the token and not
 * the grant: so a sign-in is named by a handle made from its grant, which stays the same while scripts refresh.
 */
import type { LiveSignIn } from '../store/tokens.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';
import { openMigratedStore } from './store.ts';
import { toTime, writeTable } from './table.ts';

/** Which sign-ins: all that match every member that is given. */
export interface SignInFilter {
  /** The account's name, without regard to case. */
  account?: string;
  client?: string;
}

/** Enough to tell sign-ins apart (48 bits of a hash), too little to be of any use as a token. */
const handleBytes = 6;

/** Lists the sign-ins that are still good for a refresh, one a line in columns, or as a JSON array. */
export async function listTokens(
  directory: string,
  { json, ...filter }: SignInFilter & { json?: boolean },
  io: CommandIo,
): Promise<void> {
  await using store = await openMigratedStore(directory, io);
  const signIns = (await store.tokens.listSignIns()).filter(toPredicate(filter)).map((signIn) => ({
    handle: toHandle(signIn),
    client: signIn.clientId,
    account: signIn.accountId,
    signedInAt: toTime(signIn.signedInAt),
    lastUsedAt: signIn.lastUsedAt === undefined ? null : toTime(signIn.lastUsedAt),
    endsAt: toTime(signIn.expiresAt),
  }));
  if (json) {
    io.stdout.write(`${JSON.stringify(signIns, null, 2)}\n`);
    return;
  }
  if (signIns.length === 0) {
    io.stdout.write('there is no long-lived token\n');
    return;
  }
  writeTable(io.stdout, [
    ['HANDLE', 'CLIENT', 'ACCOUNT', 'SIGNED IN', 'LAST USED', 'ENDS'],
    ...signIns.map(({ handle, client, account, signedInAt, lastUsedAt, endsAt }) => [
      handle,
      client,
      account,
      signedInAt,
      lastUsedAt ?? 'never',
      endsAt,
    ]),
  ]);
}

/**
 * Ends the sign-in of a handle, or all of an account or client, with every token under it.
 *
 * @throws {CommandError} 64 unless it is said which, 1 where no sign-in has the handle
 */
export async function revokeTokens(
  directory: string,
  handle: string | undefined,
  filter: SignInFilter,
  io: CommandIo,
): Promise<void> {
  const isFiltered = filter.account !== undefined || filter.client !== undefined;
  if ((handle !== undefined) === isFiltered) {
    throw new CommandError(exitCodes.usage, 'say which: a handle, or --account, or --client', {
      hint: '"postern token list" shows them',
    });
  }
  await using store = await openMigratedStore(directory, io);
  const matches = toPredicate(filter);
  const chosen = (await store.tokens.listSignIns()).filter((signIn) =>
    handle === undefined ? matches(signIn) : toHandle(signIn) === handle.toLowerCase(),
  );
  if (handle !== undefined && chosen.length === 0) {
    throw new CommandError(
      exitCodes.failure,
      `no long-lived token has the handle ${JSON.stringify(handle)}`,
      {
        hint: '"postern token list" shows those that there are',
      },
    );
  }
  for (const { grantId, clientId, accountId } of chosen) {
    await store.tokens.revokeGrant(grantId);
    store.audit.record(['revocation', 'success'], { accountId, clientId }, 'sign-in revoked');
    io.stdout.write(`revoked the sign-in of ${accountId} at ${clientId}\n`);
  }
  if (chosen.length === 0) io.stdout.write('there was nothing to revoke\n');
}

function toPredicate({ account, client }: SignInFilter): (signIn: LiveSignIn) => boolean {
  const name = account?.toLowerCase();
  return ({ accountId, clientId }) =>
    (name === undefined || accountId.toLowerCase() === name) && (client === undefined || clientId === client);
}

function toHandle({ grantRowId }: LiveSignIn): string {
  // Hexadecimal: base64url may begin with a hyphen, which would be an option.
  return Buffer.from(grantRowId, 'base64url').subarray(0, handleBytes).toString('hex');
}
