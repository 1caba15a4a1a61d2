/**
 * What a WS-Federation identity provider sends: a signed SAML assertion in the response of WS-Trust, and its own
 * signed metadata. Pure but for the ids that are drawn.
 */
import { randomBytes } from 'node:crypto';
import { SignedXml } from 'xml-crypto';
import { encrypt } from 'xml-encryption';
import { claimTypes } from './ws-federation.ts';

/** The key that signs, and its certificate. */
export interface SamlSigner {
  /** PEM. */
  readonly privateKey: string;
  /** Base64 DER. */
  readonly certificate: string;
}

export interface AssertionFacts {
  readonly version: '1.1' | '2.0';
  readonly issuer: string;
  /** The relying party's realm. */
  readonly audience: string;
  readonly subject: string;
  /** By claim type. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** Seconds since the epoch, as the two below. */
  readonly authenticatedAt: number;
  readonly now: number;
  readonly lifetimeSeconds: number;
  /** How the user signed in. */
  readonly method: 'password' | 'windows';
  /** Names the session, for whoever keeps one for each. */
  readonly sessionIndex: string;
}

/** A clock of the relying party's that is a little behind. */
const backdatedSeconds = 60;

/** How users sign in here: by password, over TLS, or by Windows, for which AD FS has this name in both versions. */
const authenticationMethods = {
  password: {
    '1.1': 'urn:oasis:names:tc:SAML:1.0:am:password',
    '2.0': 'urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport',
  },
  windows: {
    '1.1': 'urn:federation:authentication:windows',
    '2.0': 'urn:federation:authentication:windows',
  },
} as const;

const dsig = 'http://www.w3.org/2000/09/xmldsig#';
const exclusive = 'http://www.w3.org/2001/10/xml-exc-c14n#';

/**
 * Escapes text for an element or a double-quoted attribute; white space that a parser would change becomes a
 * reference, and what XML 1.0 cannot hold the replacement character.
 */
function x(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text
    .replace(/[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, '\uFFFD')
    .replace(/[&<>"']/g, (character) => entities[character] ?? '')
    .replace(/[\t\n\r]/g, (character) => `&#x${character.charCodeAt(0).toString(16).toUpperCase()};`);
}

function time(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}

/** A signed assertion (SAML 1.1 Core section 2, SAML 2.0 Core section 2.3.3), RSA-SHA256. */
export function issueAssertion(facts: AssertionFacts, signer: SamlSigner): string {
  const id = `_${randomBytes(20).toString('hex')}`;
  return facts.version === '1.1'
    ? sign(makeAssertion11(id, facts), signer, { idAttribute: 'AssertionID', action: 'append', at: '/*' })
    : sign(makeAssertion20(id, facts), signer, { action: 'after', at: "/*/*[local-name(.)='Issuer']" });
}

/** Relying parties make claims of the subject and of the authentication themselves; twice is one too many for them. */
const claimsOfStatements: readonly string[] = [
  claimTypes.nameIdentifier,
  claimTypes.authenticationMethod,
  claimTypes.authenticationInstant,
];

function attributesOf({ claims }: AssertionFacts) {
  return [...claims].filter(([type, values]) => values.length > 0 && !claimsOfStatements.includes(type));
}

function makeAssertion20(id: string, facts: AssertionFacts): string {
  const { audience, authenticatedAt, issuer, lifetimeSeconds, method, now, sessionIndex, subject } = facts;
  const [from, until] = [time(now - backdatedSeconds), time(now + lifetimeSeconds)];
  const attributes = attributesOf(facts).map(
    ([type, values]) =>
      `<Attribute Name="${x(type)}">${values.map((value) => `<AttributeValue>${x(value)}</AttributeValue>`).join('')}</Attribute>`,
  );
  return (
    `<Assertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion" ID="${id}" IssueInstant="${time(now)}" Version="2.0">` +
    `<Issuer>${x(issuer)}</Issuer><Subject><NameID Format="urn:oasis:names:tc:SAML:2.0:nameid-format:persistent">${x(subject)}</NameID>` +
    // Without a Recipient: Windows Identity Foundation refuses an assertion that has one (ID4157).
    `<SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><SubjectConfirmationData NotOnOrAfter="${until}"/></SubjectConfirmation></Subject>` +
    `<Conditions NotBefore="${from}" NotOnOrAfter="${until}"><AudienceRestriction><Audience>${x(audience)}</Audience></AudienceRestriction></Conditions>` +
    `${attributes.length === 0 ? '' : `<AttributeStatement>${attributes.join('')}</AttributeStatement>`}` +
    `<AuthnStatement AuthnInstant="${time(authenticatedAt)}" SessionIndex="${x(sessionIndex)}"><AuthnContext><AuthnContextClassRef>${authenticationMethods[method]['2.0']}</AuthnContextClassRef></AuthnContext></AuthnStatement></Assertion>`
  );
}

function makeAssertion11(id: string, facts: AssertionFacts): string {
  const { audience, authenticatedAt, issuer, lifetimeSeconds, method, now, subject } = facts;
  const [from, until] = [time(now - backdatedSeconds), time(now + lifetimeSeconds)];
  const about =
    `<saml:Subject><saml:NameIdentifier Format="urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified">${x(subject)}</saml:NameIdentifier>` +
    '<saml:SubjectConfirmation><saml:ConfirmationMethod>urn:oasis:names:tc:SAML:1.0:cm:bearer</saml:ConfirmationMethod></saml:SubjectConfirmation></saml:Subject>';
  const attributes = attributesOf(facts).map(([type, values]) => {
    const cut = type.lastIndexOf('/');
    const list = values.map((value) => `<saml:AttributeValue>${x(value)}</saml:AttributeValue>`).join('');
    return `<saml:Attribute AttributeName="${x(type.slice(cut + 1))}" AttributeNamespace="${x(type.slice(0, cut))}">${list}</saml:Attribute>`;
  });
  return (
    `<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:1.0:assertion" MajorVersion="1" MinorVersion="1" AssertionID="${id}" Issuer="${x(issuer)}" IssueInstant="${time(now)}">` +
    `<saml:Conditions NotBefore="${from}" NotOnOrAfter="${until}"><saml:AudienceRestrictionCondition><saml:Audience>${x(audience)}</saml:Audience></saml:AudienceRestrictionCondition></saml:Conditions>` +
    `${attributes.length === 0 ? '' : `<saml:AttributeStatement>${about}${attributes.join('')}</saml:AttributeStatement>`}` +
    `<saml:AuthenticationStatement AuthenticationMethod="${authenticationMethods[method]['1.1']}" AuthenticationInstant="${time(authenticatedAt)}">${about}</saml:AuthenticationStatement></saml:Assertion>`
  );
}

interface Placement {
  /** An attribute beside those that the library knows. */
  readonly idAttribute?: string;
  readonly action: 'after' | 'append' | 'prepend';
  /** XPath of the element that the signature stands in or behind. */
  readonly at: string;
}

/** Signs the root element (XML Signature, enveloped), with the certificate in KeyInfo. */
function sign(
  xml: string,
  { certificate, privateKey }: SamlSigner,
  { idAttribute, action, at }: Placement,
): string {
  const signature = new SignedXml({
    privateKey,
    signatureAlgorithm: 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
    canonicalizationAlgorithm: exclusive,
    getKeyInfoContent: () => `<X509Data><X509Certificate>${certificate}</X509Certificate></X509Data>`,
    ...(idAttribute === undefined ? undefined : { idAttribute }),
  });
  signature.addReference({
    xpath: '/*',
    transforms: [`${dsig}enveloped-signature`, exclusive],
    digestAlgorithm: 'http://www.w3.org/2001/04/xmlenc#sha256',
  });
  signature.computeSignature(xml, { location: { reference: at, action } });
  return signature.getSignedXml();
}

/** The answer around a token, in WS-Trust of February 2005, which every relying party reads (as AD FS sends it). */
export function toSignInResponse(
  token: string,
  {
    version,
    audience,
    lifetimeSeconds,
    now,
  }: Pick<AssertionFacts, 'audience' | 'lifetimeSeconds' | 'now' | 'version'>,
): string {
  const type =
    version === '1.1' ? 'urn:oasis:names:tc:SAML:1.0:assertion' : 'urn:oasis:names:tc:SAML:2.0:assertion';
  const utility = 'http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd';
  return (
    '<t:RequestSecurityTokenResponse xmlns:t="http://schemas.xmlsoap.org/ws/2005/02/trust">' +
    `<t:Lifetime><wsu:Created xmlns:wsu="${utility}">${time(now)}</wsu:Created><wsu:Expires xmlns:wsu="${utility}">${time(now + lifetimeSeconds)}</wsu:Expires></t:Lifetime>` +
    `<wsp:AppliesTo xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy"><wsa:EndpointReference xmlns:wsa="http://www.w3.org/2005/08/addressing"><wsa:Address>${x(audience)}</wsa:Address></wsa:EndpointReference></wsp:AppliesTo>` +
    `<t:RequestedSecurityToken>${token}</t:RequestedSecurityToken><t:TokenType>${type}</t:TokenType>` +
    '<t:RequestType>http://schemas.xmlsoap.org/ws/2005/02/trust/Issue</t:RequestType>' +
    '<t:KeyType>http://schemas.xmlsoap.org/ws/2005/05/identity/NoProofKey</t:KeyType></t:RequestSecurityTokenResponse>'
  );
}

/** An assertion that only the relying party can read: AES-256-GCM under RSA-OAEP (XML Encryption 1.1). */
export async function encryptAssertion(assertion: string, certificatePem: string): Promise<string> {
  const data = await new Promise<string>((resolve, reject) => {
    const options = {
      rsa_pub: certificatePem,
      pem: certificatePem,
      encryptionAlgorithm: 'http://www.w3.org/2009/xmlenc11#aes256-gcm',
      keyEncryptionAlgorithm: 'http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p',
    };
    encrypt(assertion, options, (err, encrypted) => (err === null ? resolve(encrypted) : reject(err)));
  });
  return `<EncryptedAssertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion">${data}</EncryptedAssertion>`;
}

export interface OwnMetadata {
  readonly entityId: string;
  /** Where browsers sign in and out. */
  readonly endpoint: string;
  /** Of the next key, published before it signs. */
  readonly nextCertificate?: string | undefined;
}

/** Our federation metadata, signed (WS-Federation 1.2 section 3.1, SAML 2.0 Metadata section 2). */
export function writeFederationMetadata(
  { endpoint, entityId, nextCertificate }: OwnMetadata,
  signer: SamlSigner,
): string {
  const federation = 'http://docs.oasis-open.org/wsfed/federation/200706';
  const keys = [signer.certificate, ...(nextCertificate === undefined ? [] : [nextCertificate])].map(
    (certificate) =>
      `<KeyDescriptor use="signing"><KeyInfo xmlns="${dsig}"><X509Data><X509Certificate>${certificate}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>`,
  );
  const offered = [
    [claimTypes.name, 'Name'],
    [claimTypes.nameIdentifier, 'Name ID'],
    [claimTypes.windowsAccountName, 'Windows account name'],
    [claimTypes.upn, 'UPN'],
    [claimTypes.email, 'E-Mail Address'],
    [claimTypes.role, 'Role'],
  ].map(
    ([type = '', name = '']) =>
      `<auth:ClaimType Uri="${type}" Optional="true" xmlns:auth="http://docs.oasis-open.org/wsfed/authorization/200706"><auth:DisplayName>${name}</auth:DisplayName></auth:ClaimType>`,
  );
  const address = `<wsa:EndpointReference xmlns:wsa="http://www.w3.org/2005/08/addressing"><wsa:Address>${x(endpoint)}</wsa:Address></wsa:EndpointReference>`;
  const types = ['urn:oasis:names:tc:SAML:1.0:assertion', 'urn:oasis:names:tc:SAML:2.0:assertion'].map(
    (uri) => `<fed:TokenType Uri="${uri}"/>`,
  );
  const document =
    `<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" ID="_${randomBytes(16).toString('hex')}" entityID="${x(entityId)}">` +
    `<RoleDescriptor xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:fed="${federation}" xsi:type="fed:SecurityTokenServiceType" protocolSupportEnumeration="${federation}">` +
    `${keys.join('')}<fed:TokenTypesOffered>${types.join('')}</fed:TokenTypesOffered><fed:ClaimTypesOffered>${offered.join('')}</fed:ClaimTypesOffered>` +
    `<fed:SecurityTokenServiceEndpoint>${address}</fed:SecurityTokenServiceEndpoint><fed:PassiveRequestorEndpoint>${address}</fed:PassiveRequestorEndpoint>` +
    '</RoleDescriptor></EntityDescriptor>';
  return `<?xml version="1.0" encoding="utf-8"?>${sign(document, signer, { action: 'prepend', at: '/*' })}`;
}
