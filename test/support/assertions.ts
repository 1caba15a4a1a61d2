/** Answers of a WS-Federation identity provider, honest ones, for tests to take apart. */
import { createHash, createSign, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SignedXml } from 'xml-crypto';

const fixture = (name: string) => readFileSync(join(import.meta.dirname, '../fixtures', name), 'utf8');

/** The identity provider's key; its certificate is in the metadata. */
export const signer = {
  key: fixture('signing-key.pem'),
  certificate: fixture('signing-certificate.pem').replace(/-----[A-Z ]+-----|\s/g, ''),
};

export interface AssertionOptions {
  version?: '1.1' | '2.0';
  trust?: '2005' | '1.3' | '1.4';
  issuer?: string;
  audience?: string;
  recipient?: string;
  id?: string;
  subject?: string;
  subjectFormat?: string;
  claims?: Readonly<Record<string, string | readonly string[]>>;
  /** Seconds since the epoch. */
  now?: number;
  lifetimeSeconds?: number;
  method?: string;
  sessionIndex?: string;
}

const namespaces = {
  '2005': 'http://schemas.xmlsoap.org/ws/2005/02/trust',
  '1.3': 'http://docs.oasis-open.org/ws-sx/ws-trust/200512',
  '1.4': 'http://docs.oasis-open.org/ws-sx/ws-trust/200802',
} as const;

export const identity = 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims';

export function escapeXml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  return text.replace(/[&<>"]/g, (character) => entities[character] ?? '');
}

function iso(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}

/** An assertion without a signature. */
export function makeAssertion(options: AssertionOptions = {}): string {
  const {
    version = '2.0',
    issuer = 'https://idp.example.com/issuer',
    audience = 'urn:intelligence',
    recipient,
    id = `_${randomBytes(16).toString('hex')}`,
    subject = 'S-1-alice',
    subjectFormat = 'urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified',
    claims = { [`${identity}/name`]: 'alice', [`${identity}/upn`]: 'alice@example.com' },
    now = Math.floor(Date.now() / 1000),
    lifetimeSeconds = 600,
    method,
    sessionIndex = 'session-1',
  } = options;
  const [from, to] = [iso(now), iso(now + lifetimeSeconds)];
  const values = Object.entries(claims).map(([type, value]) => ({
    type,
    values: (typeof value === 'string' ? [value] : value).map(escapeXml),
  }));
  if (version === '1.1') {
    const about = `<saml:Subject><saml:NameIdentifier Format="${subjectFormat}">${escapeXml(subject)}</saml:NameIdentifier><saml:SubjectConfirmation><saml:ConfirmationMethod>urn:oasis:names:tc:SAML:1.0:cm:bearer</saml:ConfirmationMethod></saml:SubjectConfirmation></saml:Subject>`;
    const attributes = values.map(({ type, values: list }) => {
      const cut = type.lastIndexOf('/');
      return `<saml:Attribute AttributeName="${type.slice(cut + 1)}" AttributeNamespace="${type.slice(0, cut)}">${list.map((one) => `<saml:AttributeValue>${one}</saml:AttributeValue>`).join('')}</saml:Attribute>`;
    });
    return `<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:1.0:assertion" MajorVersion="1" MinorVersion="1" AssertionID="${id}" Issuer="${issuer}" IssueInstant="${from}"><saml:Conditions NotBefore="${from}" NotOnOrAfter="${to}"><saml:AudienceRestrictionCondition><saml:Audience>${audience}</saml:Audience></saml:AudienceRestrictionCondition></saml:Conditions><saml:AttributeStatement>${about}${attributes.join('')}</saml:AttributeStatement><saml:AuthenticationStatement AuthenticationMethod="${method ?? 'urn:oasis:names:tc:SAML:1.0:am:password'}" AuthenticationInstant="${from}">${about}</saml:AuthenticationStatement></saml:Assertion>`;
  }
  const attributes = values.map(
    ({ type, values: list }) =>
      `<Attribute Name="${type}">${list.map((one) => `<AttributeValue>${one}</AttributeValue>`).join('')}</Attribute>`,
  );
  const data = `NotOnOrAfter="${to}"${recipient === undefined ? '' : ` Recipient="${recipient}"`}`;
  return `<Assertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion" ID="${id}" IssueInstant="${from}" Version="2.0"><Issuer>${issuer}</Issuer><Subject><NameID Format="${subjectFormat}">${escapeXml(subject)}</NameID><SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><SubjectConfirmationData ${data}/></SubjectConfirmation></Subject><Conditions NotBefore="${from}" NotOnOrAfter="${to}"><AudienceRestriction><Audience>${audience}</Audience></AudienceRestriction></Conditions><AttributeStatement>${attributes.join('')}</AttributeStatement><AuthnStatement AuthnInstant="${from}" SessionIndex="${sessionIndex}"><AuthnContext><AuthnContextClassRef>${method ?? 'urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport'}</AuthnContextClassRef></AuthnContext></AuthnStatement></Assertion>`;
}

export interface SigningOptions {
  key?: string;
  certificate?: string;
  signatureAlgorithm?: string;
  digestAlgorithm?: string;
  transforms?: readonly string[];
  prefix?: string;
  inclusive?: string;
}

/** The assertion with its signature where its schema has it: after Issuer (2.0), at the end (1.1). */
export function sign(assertion: string, options: SigningOptions = {}): string {
  const {
    key = signer.key,
    certificate = signer.certificate,
    signatureAlgorithm = 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
    digestAlgorithm = 'http://www.w3.org/2001/04/xmlenc#sha256',
    transforms = [
      'http://www.w3.org/2000/09/xmldsig#enveloped-signature',
      'http://www.w3.org/2001/10/xml-exc-c14n#',
    ],
    prefix = 'ds',
    inclusive,
  } = options;
  const isSaml1 = assertion.includes('AssertionID=');
  const signed = new SignedXml({
    privateKey: key,
    signatureAlgorithm: signatureAlgorithm as never,
    canonicalizationAlgorithm: 'http://www.w3.org/2001/10/xml-exc-c14n#',
    ...(isSaml1 ? { idAttribute: 'AssertionID' } : undefined),
    getKeyInfoContent: () =>
      `<${prefix}:X509Data><${prefix}:X509Certificate>${certificate}</${prefix}:X509Certificate></${prefix}:X509Data>`,
  });
  signed.addReference({
    xpath: "/*[local-name(.)='Assertion']",
    transforms: [...transforms] as never,
    digestAlgorithm: digestAlgorithm as never,
    ...(inclusive === undefined ? undefined : { inclusiveNamespacesPrefixList: [inclusive] }),
  });
  signed.computeSignature(assertion, {
    prefix,
    location: isSaml1
      ? { reference: "/*[local-name(.)='Assertion']", action: 'append' }
      : { reference: "/*[local-name(.)='Assertion']/*[local-name(.)='Issuer']", action: 'after' },
  });
  return signed.getSignedXml();
}

/** The response of WS-Trust around a token. */
export function wrap(token: string, { trust = '2005' }: Pick<AssertionOptions, 'trust'> = {}): string {
  const response = `<t:RequestSecurityTokenResponse xmlns:t="${namespaces[trust]}"><t:Lifetime><wsu:Created xmlns:wsu="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd">2026-01-01T00:00:00Z</wsu:Created></t:Lifetime><wsp:AppliesTo xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy"><wsa:EndpointReference xmlns:wsa="http://www.w3.org/2005/08/addressing"><wsa:Address>urn:intelligence</wsa:Address></wsa:EndpointReference></wsp:AppliesTo><t:RequestedSecurityToken>${token}</t:RequestedSecurityToken><t:TokenType>urn:oasis:names:tc:SAML:2.0:assertion</t:TokenType></t:RequestSecurityTokenResponse>`;
  return trust === '2005'
    ? response
    : `<t:RequestSecurityTokenResponseCollection xmlns:t="${namespaces[trust]}">${response}</t:RequestSecurityTokenResponseCollection>`;
}

/** A whole honest answer. */
export function makeAnswer(options: AssertionOptions = {}): string {
  return wrap(sign(makeAssertion(options)), options);
}

/** Signs any SignedInfo text with the key, for shapes that the library would not make. */
export function signText(signedInfo: string, key: string = signer.key): string {
  return createSign('RSA-SHA256').update(signedInfo).sign(key, 'base64');
}

export function digest(text: string): string {
  return createHash('sha256').update(text).digest('base64');
}
