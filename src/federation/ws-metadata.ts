/** The federation metadata of a WS-Federation identity provider (WS-Federation 1.2 section 3). Pure. */
import { ServerError } from '../errors.ts';
import { signatureNamespace } from './signed-xml.ts';
import { attributeOf, childElements, type Element, parseXml, textOf, XmlError } from './xml.ts';

export interface FederationMetadata {
  readonly entityId: string;
  /** Signing certificates, base64 DER; several while keys roll over. */
  readonly certificates: readonly string[];
  /** Where browsers are sent to. */
  readonly passiveEndpoint: string;
}

const metadata = 'urn:oasis:names:tc:SAML:2.0:metadata';
const federation = 'http://docs.oasis-open.org/wsfed/federation/200706';
const addressing = 'http://www.w3.org/2005/08/addressing';
const instance = 'http://www.w3.org/2001/XMLSchema-instance';

/** AD FS with many claims writes 100 kB, Entra ID more. */
const limits = { length: 2 * 1024 * 1024, depth: 64, elements: 50_000 };

/**
 * Reads the document. Its signature is not verified, as in Microsoft's relying parties: it is trusted by the
 * address that it was fetched from.
 *
 * @throws {ServerError} ERR_METADATA_INVALID, with a hint for the administrator
 */
export function parseFederationMetadata(text: string): FederationMetadata {
  const fail = (hint: string, cause?: unknown): never => {
    throw new ServerError('ERR_METADATA_INVALID', 'the metadata of the identity provider cannot be used', {
      status: 503,
      hint,
      cause,
    });
  };
  let root: Element;
  try {
    root = parseXml(text, limits);
  } catch (err) {
    if (!(err instanceof XmlError)) throw err;
    return fail(`it is no metadata document: ${err.message}`, err);
  }
  if (root.localName !== 'EntityDescriptor' || root.namespaceURI !== metadata) {
    return fail('it is no metadata document: the root element is not EntityDescriptor');
  }
  const entityId = attributeOf(root, 'entityID');
  if (!entityId) return fail('EntityDescriptor has no entityID');
  const role = childElements(root, metadata, 'RoleDescriptor').find(isTokenService);
  if (role === undefined) {
    return fail(
      'it has no RoleDescriptor of type SecurityTokenServiceType: is it that of a relying party, or SAML only?',
    );
  }
  const certificates = childElements(role, metadata, 'KeyDescriptor')
    .filter((key) => (attributeOf(key, 'use') ?? 'signing') === 'signing')
    .flatMap((key) => [...key.getElementsByTagNameNS(signatureNamespace, 'X509Certificate')])
    .map((certificate) => textOf(certificate)?.replace(/\s+/g, '') ?? '')
    .filter((certificate) => certificate !== '');
  if (certificates.length === 0) return fail('it has no signing certificate');
  const passiveEndpoint = childElements(role, federation, 'PassiveRequestorEndpoint')
    .flatMap((endpoint) => [...endpoint.getElementsByTagNameNS(addressing, 'Address')])
    .map((address) => textOf(address) ?? '')
    .find((address) => /^https?:$/.test(URL.parse(address)?.protocol ?? ''));
  if (passiveEndpoint === undefined)
    return fail('it has no PassiveRequestorEndpoint with an http or https address');
  return { entityId, certificates: [...new Set(certificates)], passiveEndpoint };
}

/** By its `xsi:type`, whatever prefix that has. */
function isTokenService(role: Element): boolean {
  const type = role.getAttributeNS(instance, 'type')?.trim() ?? '';
  const [, prefix = '', name = type] = /^([^:]*):(.*)$/.exec(type) ?? [];
  return name === 'SecurityTokenServiceType' && role.lookupNamespaceURI(prefix || null) === federation;
}
