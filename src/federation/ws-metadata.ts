/** The metadata that identity providers of WS-Federation publish, `FederationMetadata.xml`. Pure. */
import { X509Certificate } from 'node:crypto';
import type { Element } from '@xmldom/xmldom';
import { ServerError } from '../errors.ts';
import { children, findAttribute, getChild, isNamed, parseXml, Refusal, textOf } from './xml.ts';

export interface FederationMetadata {
  /** The `entityID`: the issuer of the assertions. */
  readonly entityId: string;
  /** Every certificate that may sign, base64 DER: several while a key is being replaced. */
  readonly certificates: readonly string[];
  /** Where the browser goes to sign in and out. */
  readonly passiveEndpoint: string;
}

const metadataNamespace = 'urn:oasis:names:tc:SAML:2.0:metadata';
const federationNamespace = 'http://docs.oasis-open.org/wsfed/federation/200706';
const addressingNamespace = 'http://www.w3.org/2005/08/addressing';
const signatureNamespace = 'http://www.w3.org/2000/09/xmldsig#';
const schemaInstanceNamespace = 'http://www.w3.org/2001/XMLSchema-instance';

/** AD FS publishes some 90 000 characters: every claim type it knows, once for each role. */
const limits = { maxCharacters: 1024 * 1024, maxElements: 25_000 };

/**
 * Reads the role of a security token service out of the metadata; the other roles in the document are for SAML.
 *
 * The signature of the document is not verified, as Microsoft's own readers do not: it is made with the very key
 * that is published here, and what vouches for the document is the address it was fetched from.
 *
 * @throws {ServerError} ERR_METADATA_INVALID, with a message for the administrator
 * @see WS-Federation 1.2 section 3.1
 */
export function parseFederationMetadata(xml: string): FederationMetadata {
  try {
    const { root } = parseXml(withoutComments(xml), limits);
    if (!isNamed(root, metadataNamespace, 'EntityDescriptor')) {
      throw new Refusal(
        `it begins with <${root.tagName}> where federation metadata begins with <EntityDescriptor>`,
      );
    }
    const entityId = findAttribute(root, 'entityID');
    if (entityId === undefined) throw new Refusal('it has no entityID');
    if (entityId.includes('{')) {
      throw new Refusal(
        `it is that of all tenants together (${entityId}): use the address that names the tenant`,
      );
    }
    const roles = children(root, metadataNamespace, 'RoleDescriptor').filter(isTokenService);
    if (roles.length === 0) {
      throw new Refusal(
        'it describes no identity provider of WS-Federation (no RoleDescriptor SecurityTokenServiceType)',
      );
    }
    return { entityId, certificates: readCertificates(roles), passiveEndpoint: readPassiveEndpoint(roles) };
  } catch (err) {
    if (!(err instanceof Refusal)) throw err;
    throw new ServerError('ERR_METADATA_INVALID', `the federation metadata cannot be used: ${err.message}`, {
      status: 502,
      hint: 'compare MetadataAddress with what a browser shows there',
      cause: err,
    });
  }
}

/** Comments are common in documents kept by hand, and nothing here depends on which bytes were signed. */
function withoutComments(xml: string): string {
  const [first = '', ...rest] = xml.split('<!--');
  return rest.reduce((text, part) => {
    const end = part.indexOf('-->');
    if (end === -1) throw new Refusal('a comment in it does not end');
    return text + part.slice(end + 3);
  }, first);
}

/** Whether the role's xsi:type is SecurityTokenServiceType, whatever prefix the document gives its namespace. */
function isTokenService(role: Element): boolean {
  const type = role.getAttributeNS(schemaInstanceNamespace, 'type')?.trim() ?? '';
  const [prefix, name] = type.includes(':') ? type.split(':') : ['', type];
  return name === 'SecurityTokenServiceType' && role.lookupNamespaceURI(prefix ?? '') === federationNamespace;
}

function readCertificates(roles: readonly Element[]): string[] {
  const certificates = roles
    .flatMap((role) => children(role, metadataNamespace, 'KeyDescriptor'))
    .filter((key) => ['signing', undefined].includes(findAttribute(key, 'use')))
    .flatMap((key) => children(key, signatureNamespace, 'KeyInfo'))
    .flatMap((info) => children(info, signatureNamespace, 'X509Data'))
    .flatMap((data) => children(data, signatureNamespace, 'X509Certificate'))
    .map((certificate) => textOf(certificate).replace(/\s+/g, ''));
  if (certificates.length === 0) throw new Refusal('it has no signing certificate for the identity provider');
  for (const certificate of certificates) verifyCertificate(certificate);
  return [...new Set(certificates)];
}

function verifyCertificate(certificate: string): void {
  try {
    new X509Certificate(Buffer.from(certificate, 'base64'));
  } catch (err) {
    throw new Refusal('one of its signing certificates cannot be read', { cause: err });
  }
}

function readPassiveEndpoint(roles: readonly Element[]): string {
  const [endpoint] = roles.flatMap((role) => children(role, federationNamespace, 'PassiveRequestorEndpoint'));
  if (endpoint === undefined) {
    throw new Refusal('it has no address to send browsers to (PassiveRequestorEndpoint)');
  }
  const address = textOf(
    getChild(getChild(endpoint, addressingNamespace, 'EndpointReference'), addressingNamespace, 'Address'),
  );
  const url = URL.parse(address);
  if (url === null || !['https:', 'http:'].includes(url.protocol)) {
    throw new Refusal(`its address to send browsers to is no http or https URL: ${address}`);
  }
  return address;
}
