/** The consent page of an interaction: what the client may have of the user's, asked for by name. */
import type { Context } from 'koa';
import type { Client } from '../config/load.ts';
import { offlineAccess } from '../config/schema.ts';
import type { ServerContext } from '../context.ts';
import { nameOf, type Texts } from '../languages/languages.ts';
import { type ConsentPageOptions, type ConsentScope, consentPage } from '../pages/sign-in.ts';

/** What the consent steps need of an interaction. */
export interface ConsentRequest {
  readonly ctx: Context;
  readonly client: Client;
  readonly accountId: string | undefined;
  /** The scopes that are asked for. */
  readonly requested: readonly string[];
}

/** What the answer means for the interaction. */
export type ConsentAnswer =
  | { readonly kind: 'switch' }
  | { readonly kind: 'denied' }
  | { readonly kind: 'allowed'; readonly scopes: readonly string[] };

type Form = Readonly<Record<string, string>>;
type FormOptions = Pick<
  ConsentPageOptions,
  'action' | 'brand' | 'clientLogoUrl' | 'clientName' | 'csrf' | 'texts'
>;

/** Makes the two steps: showing the page, and reading its answer. */
export function createConsentSteps({
  audit,
  registry,
  tokens,
}: Pick<ServerContext, 'audit' | 'registry' | 'tokens'>) {
  return {
    page({ client, accountId, requested }: ConsentRequest, form: FormOptions): string {
      return consentPage({
        ...form,
        clientUri: client.ClientUri,
        userName: accountId ?? '',
        scopes: requested
          .filter((name) => name !== offlineAccess)
          .map((name) => describeScope(name, form.texts)),
        offline: requested.includes(offlineAccess),
        canRemember: client.AllowRememberConsent && !requested.includes(offlineAccess),
      });
    },

    async read({ client, accountId, requested }: ConsentRequest, form: Form): Promise<ConsentAnswer> {
      if (form.action === 'switch') return { kind: 'switch' };
      if (form.action !== 'allow' || accountId === undefined) {
        audit.record(['consent', 'refused'], { clientId: client.ClientId, accountId }, 'consent denied');
        return { kind: 'denied' };
      }
      const allowed = new Set((form.scope ?? '').split(' '));
      const scopes = requested.filter((name) => allowed.has(name) || isRequired(name));
      if (form.remember !== undefined && client.AllowRememberConsent) {
        await tokens.rememberConsent(accountId, client.ClientId, scopes);
      }
      audit.record(['consent', 'success'], { clientId: client.ClientId, accountId, scopes }, 'consent given');
      return { kind: 'allowed', scopes };
    },
  };

  function describeScope(name: string, { names, scopes }: Texts): ConsentScope {
    if (Object.hasOwn(scopes, name)) {
      const { name: displayName, description } = scopes[name as keyof Texts['scopes']];
      return { name, displayName, description, emphasize: false, required: isRequired(name) };
    }
    const { resource, scope } = findScope(name);
    const own = nameOf(names.scopes, name);
    // A resource with one scope of its own name need not name it twice.
    const ownName = resource?.Name === name ? resource.DisplayName : undefined;
    return {
      name,
      displayName: own?.name ?? scope?.DisplayName ?? ownName ?? name,
      description: own?.description ?? scope?.Description,
      emphasize: scope?.Emphasize ?? false,
      required: isRequired(name),
    };
  }

  function isRequired(name: string): boolean {
    return name === 'openid' || findScope(name).scope?.Required === true;
  }

  function findScope(name: string) {
    const resources = [...registry.configuration.resources.values()];
    const resource = resources.find(({ Scopes }) => Scopes.some(({ Name }) => Name === name));
    return { resource, scope: resource?.Scopes.find(({ Name }) => Name === name) };
  }
}
