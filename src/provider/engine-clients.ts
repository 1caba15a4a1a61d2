/**
 * The engine's own clients, built from the registry's registrations and kept in memory. A registration that
 * the engine rejects is an issue of the configuration like any other.
 */
import { generateKeyPairSync } from 'node:crypto';
import {
  type Adapter,
  type ClientAuthMethod,
  type Configuration as EngineConfiguration,
  Provider,
} from 'oidc-provider';
import { algorithmsOf, type Configuration } from '../config/load.ts';
import { identityScopes, offlineAccess, signingAlgorithms } from '../config/schema.ts';
import { ConfigurationError, type ConfigurationIssue } from '../errors.ts';
import { toClientMetadata } from '../registry/client-metadata.ts';

export type EngineClient = InstanceType<Provider['Client']>;

/** What the engine judges client metadata by; the running provider and the check have the same. */
export const protocolSettings = {
  scopes: [...Object.keys(identityScopes), offlineAccess],
  // Each client has those of its flow alone.
  responseTypes: ['code', 'id_token', 'id_token token', 'code id_token', 'code token', 'code id_token token'],
  clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post'] satisfies ClientAuthMethod[],
  enabledJWA: { idTokenSigningAlgValues: [...signingAlgorithms] },
} as const satisfies EngineConfiguration;

/**
 * Lets clients that still have the implicit or a hybrid flow keep their registered http and localhost redirects,
 * which the engine forbids; check-config names them.
 */
export function admitOldRedirects(engine: Provider): void {
  const { prototype } = (engine.Client as unknown as { Schema: { prototype: ClientSchema } }).Schema;
  const { invalidate } = prototype;
  prototype.invalidate = function admit(message, code) {
    if (code !== 'implicit-force-https' && code !== 'implicit-forbid-localhost')
      invalidate.call(this, message, code);
  };
}

/** The engine's judge of client metadata; it calls this for each thing that it has against them. */
interface ClientSchema {
  invalidate(message: string, code?: string): void;
}

/**
 * Builds the clients of a configuration.
 *
 * @throws {ConfigurationError} with everything that the engine has against them
 */
export function buildEngineClients(
  engine: Provider,
  configuration: Configuration,
): ReadonlyMap<string, EngineClient> {
  // The engine's types leave the constructor's argument out.
  const EngineClient = engine.Client as unknown as new (metadata: object) => EngineClient;
  const built = new Map<string, EngineClient>();
  const issues: ConfigurationIssue[] = [];
  for (const client of configuration.clients.values()) {
    if (!client.Enabled) continue;
    try {
      built.set(client.ClientId, new EngineClient(toClientMetadata(client)));
    } catch (err) {
      const { error_description, message } = err as { error_description?: string; message: string };
      issues.push({
        file: `${configuration.directory}/clients`,
        path: client.ClientId,
        message: error_description ?? message,
      });
    }
  }
  if (issues.length > 0) throw new ConfigurationError(issues);
  return built;
}

/**
 * Has the engine judge the clients of a configuration, without keys or a database.
 *
 * @throws {ConfigurationError} as {@link buildEngineClients} does
 */
export function checkEngineClients(configuration: Configuration): void {
  // The algorithms of ID tokens that it accepts follow from keys; these sign nothing. Whether there is a real one for
  // an algorithm has been checked before.
  const needed = new Set(algorithmsOf(configuration.server));
  const jwks = [
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ...(needed.has('ES256') ? [generateKeyPairSync('ec', { namedCurve: 'P-256' })] : []),
    ...(needed.has('ES384') ? [generateKeyPairSync('ec', { namedCurve: 'P-384' })] : []),
    ...(needed.has('EdDSA') ? [generateKeyPairSync('ed25519')] : []),
  ].map(({ privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), use: 'sig' }));
  const engine = new Provider(configuration.server.PublicUrl, {
    ...protocolSettings,
    jwks: { keys: jwks } as NonNullable<EngineConfiguration['jwks']>,
    adapter: () => ({}) as Adapter,
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      backchannelLogout: { enabled: true },
    },
  });
  engine.registerGrantType('password', () => undefined);
  admitOldRedirects(engine);
  buildEngineClients(engine, configuration);
}
