/**
 * The engine's events as log lines: one table of event and fields. No token, code or adapter id is ever in a
 * field: for an opaque token its id is the token.
 */
import type { EventEmitter } from 'node:events';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { ServerContext } from '../context.ts';
import { isDatabaseUnavailable, retryAfterSeconds } from '../errors.ts';
import { hashValue } from '../store/tokens.ts';
import { blockFields } from './client-authentication.ts';

interface ProtocolError extends Error {
  readonly error?: string;
  readonly error_description?: string;
  /** The engine's true reason, never sent. */
  readonly error_detail?: string;
}

/** A grant as `postern token list` names it. */
function nameOf(grantId: string | undefined): string | undefined {
  return grantId && hashValue(grantId);
}

/** Tells that the token endpoint has issued what was asked for. */
export function recordToken(
  { audit, metrics }: Pick<ServerContext, 'audit' | 'metrics'>,
  fields: {
    readonly requestId: string | undefined;
    readonly clientId: string | undefined;
    readonly accountId: string | undefined;
    readonly grantType: string;
    readonly grantId?: string | undefined;
  },
): void {
  metrics.countToken({ grantType: fields.grantType, clientId: fields.clientId ?? '' });
  audit.record(['token', 'success'], fields, 'token issued');
}

/** Subscribes the log to everything that the engine tells. */
export function reportEvents(
  engine: Provider,
  { audit, log, metrics }: Pick<ServerContext, 'audit' | 'log' | 'metrics'>,
): void {
  const fieldsOf = (ctx: KoaContextWithOIDC) => ({
    requestId: (ctx.state as { requestId?: string }).requestId,
    clientId: ctx.oidc?.client?.clientId,
    accountId: ctx.oidc?.account?.accountId ?? ctx.oidc?.session?.accountId,
  });

  engine.on('grant.success', (ctx) => {
    const { grant_type: grantType = '' } = ctx.oidc.params as { grant_type?: string };
    const grantId = nameOf(ctx.oidc.entities.Grant?.jti);
    recordToken({ audit, metrics }, { ...fieldsOf(ctx), grantType, grantId });
  });
  engine.on('authorization.success', (ctx) =>
    audit.record(['authorization', 'success'], fieldsOf(ctx), 'authorization answered'),
  );
  engine.on('end_session.success', (ctx) => {
    const fields = fieldsOf(ctx);
    // Anybody may ask; where nobody was signed in nothing has happened.
    if (fields.accountId !== undefined) audit.record(['sign-out', 'success'], fields, 'signed out');
  });
  engine.on('grant.revoked', (ctx, grantId) =>
    audit.record(
      ['revocation', 'success'],
      { ...fieldsOf(ctx), grantId: nameOf(grantId) },
      'grant revoked',
      'warn',
    ),
  );

  const refusals = {
    'authorization.error': ['authorization', 'authorization refused'],
    'grant.error': ['token', 'token refused'],
    'userinfo.error': ['token', 'userinfo refused'],
    'end_session.error': ['sign-out', 'sign-out refused'],
    'end_session_confirm.error': ['sign-out', 'sign-out refused'],
  } as const;
  for (const [event, [name, message]] of Object.entries(refusals)) {
    (engine as EventEmitter).on(event, (ctx: KoaContextWithOIDC, err: ProtocolError) => {
      const reason = err.error_detail ?? err.error_description;
      // Somebody has a token that was replaced: it leaked, or the client lost the new one. The family has ended.
      const isReplay = /^refresh token already used/.test(reason ?? '');
      (ctx.state as { protocolError?: string | undefined }).protocolError = reason;
      audit.record(
        [name, err.error === 'temporarily_unavailable' ? 'failed' : 'refused'],
        { ...fieldsOf(ctx), error: err.error, reason, ...blockFields(ctx) },
        isReplay ? 'refresh token replayed' : message,
        isReplay ? 'warn' : 'info',
      );
    });
  }
  engine.on('server_error', (ctx, err) => {
    log.error({ ...fieldsOf(ctx), err }, 'request failed');
    if (!isDatabaseUnavailable(err)) return;
    ctx.set('Retry-After', String(retryAfterSeconds));
    // The engine has no such error of its own; pages are made from what it was.
    if (typeof ctx.body === 'object' && ctx.body !== null) {
      ctx.body = { error: 'temporarily_unavailable', error_description: 'the database does not answer' };
    }
  });
}
