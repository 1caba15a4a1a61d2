/**
 * The engine's events as log lines: one table of event and fields. No token, code or adapter id is ever in a
 * field: for an opaque token its id is the token.
 */
import type { EventEmitter } from 'node:events';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import type { ServerContext } from '../context.ts';

interface ProtocolError extends Error {
  readonly error?: string;
  readonly error_description?: string;
  /** The engine's true reason, never sent. */
  readonly error_detail?: string;
}

/** Subscribes the log to everything that the engine tells. */
export function reportEvents(engine: Provider, { log }: Pick<ServerContext, 'log'>): void {
  const fieldsOf = (ctx: KoaContextWithOIDC) => ({
    requestId: (ctx.state as { requestId?: string }).requestId,
    clientId: ctx.oidc?.client?.clientId,
    accountId: ctx.oidc?.account?.accountId ?? ctx.oidc?.session?.accountId,
  });

  engine.on('grant.success', (ctx) => {
    const { grant_type: grantType } = ctx.oidc.params as { grant_type?: string };
    log.info({ ...fieldsOf(ctx), grantType, grantId: ctx.oidc.entities.Grant?.jti }, 'token issued');
  });
  engine.on('authorization.success', (ctx) => log.info(fieldsOf(ctx), 'authorization answered'));
  engine.on('end_session.success', (ctx) => log.info(fieldsOf(ctx), 'signed out'));
  engine.on('grant.revoked', (ctx, grantId) => log.warn({ ...fieldsOf(ctx), grantId }, 'grant revoked'));

  const refusals = {
    'authorization.error': 'authorization refused',
    'grant.error': 'token refused',
    'userinfo.error': 'userinfo refused',
    'end_session.error': 'sign-out refused',
    'end_session_confirm.error': 'sign-out refused',
  } as const;
  for (const [event, message] of Object.entries(refusals)) {
    (engine as EventEmitter).on(event, (ctx: KoaContextWithOIDC, err: ProtocolError) => {
      log.info(
        { ...fieldsOf(ctx), error: err.error, reason: err.error_detail ?? err.error_description },
        message,
      );
    });
  }
  engine.on('server_error', (ctx, err) => log.error({ ...fieldsOf(ctx), err }, 'request failed'));
}
