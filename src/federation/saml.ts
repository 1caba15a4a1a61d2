/**
 * What a WS-Federation identity provider answers: an RSTR with one signed SAML 1.1 or 2.0 assertion.
 *
 * The order is the protection. Gate, parse, find the one assertion, verify the one signature over it with the
 * certificates of the metadata; then forget the document, and read everything from the bytes that were signed.
 */
import { createRequire } from 'node:module';
import { ServerError } from '../errors.ts';
import { signatureNamespace, UnknownKeyError, verifySignature } from './signed-xml.ts';
import { claimTypes } from './ws-federation.ts';
import {
  attributeOf,
  childElements,
  countElements,
  type Element,
  onlyChild,
  parseXml,
  textOf,
  XmlError,
} from './xml.ts';

export interface VerifyOptions {
  /** Signing certificates of the metadata, base64 DER. */
  readonly certificates: readonly string[];
  /** The identity provider's `entityID`. */
  readonly issuer: string;
  /** Our realm; a slash at the end means nothing. */
  readonly audience: string;
  /** Where we may receive it. */
  readonly recipients: readonly string[];
  /** Seconds since the epoch. */
  readonly now: number;
  /** PEM; without one encrypted assertions are refused. */
  readonly decryptionKeys?: readonly string[];
  /** Admits AES-CBC in encrypted assertions. */
  readonly allowCbc?: boolean;
  readonly allowSha1?: boolean;
}

export interface VerifiedAssertion {
  readonly assertionId: string;
  readonly issuer: string;
  /** NameID or NameIdentifier, but for a transient one, which names nobody twice. */
  readonly subject: string | undefined;
  /** By claim type URI. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** Seconds since the epoch. */
  readonly authenticatedAt: number | undefined;
  /** URIs. */
  readonly methods: readonly string[];
  readonly sessionIndex: string | undefined;
  /** Until when it could be sent again: its end and the skew. Seconds since the epoch. */
  readonly expiresAt: number;
}

/** The difference between two clocks that is forgiven, as .NET does. */
const skewSeconds = 300;

/** Longer than any sign-in needs; a replay is remembered for as long. */
const longestValiditySeconds = 86_400;

const trustNamespaces: ReadonlySet<string> = new Set([
  'http://schemas.xmlsoap.org/ws/2005/02/trust',
  'http://docs.oasis-open.org/ws-sx/ws-trust/200512',
  'http://docs.oasis-open.org/ws-sx/ws-trust/200802',
]);
const saml1 = 'urn:oasis:names:tc:SAML:1.0:assertion';
const saml2 = 'urn:oasis:names:tc:SAML:2.0:assertion';
const encryption = 'http://www.w3.org/2001/04/xmlenc#';

/**
 * Verifies `wresult` and returns what it proves. Pure.
 *
 * @throws {ServerError} ERR_ASSERTION_INVALID, status 400; `hint` says which check failed, without anything of the
 *   answer; `cause` is {@link UnknownKeyError} where new metadata might help
 * @see WS-Federation 1.2 section 13, SAML 1.1 and 2.0 Core section 2, WS-Trust 1.3 section 4.4
 */
export function verifySignInResponse(wresult: string, options: VerifyOptions): VerifiedAssertion {
  try {
    const token = findToken(parseXml(wresult));
    const isEncrypted = token.localName !== 'Assertion';
    const text = isEncrypted ? decrypt(token, options) : wresult;
    const assertion = isEncrypted ? parseXml(text) : token;
    return readSigned(text, assertion, options);
  } catch (cause) {
    if (!(cause instanceof XmlError)) throw cause;
    throw new ServerError(
      'ERR_ASSERTION_INVALID',
      'the answer of the identity provider could not be verified',
      {
        status: 400,
        hint: cause.message,
        cause,
      },
    );
  }
}

/** The one token in the one response: an assertion, or an encrypted one. */
function findToken(root: Element): Element {
  const namespace = root.namespaceURI ?? '';
  if (!trustNamespaces.has(namespace)) throw new XmlError('not a response of WS-Trust');
  const isCollection = root.localName === 'RequestSecurityTokenResponseCollection';
  const response = isCollection ? onlyChild(root, namespace, 'RequestSecurityTokenResponse') : root;
  if (response?.localName !== 'RequestSecurityTokenResponse')
    throw new XmlError('not one response of WS-Trust');
  const requested = onlyChild(response, namespace, 'RequestedSecurityToken');
  const [token, ...others] = requested === undefined ? [] : childElements(requested);
  if (token === undefined || others.length > 0) throw new XmlError('not one token');
  const isKnown =
    isAssertion(token) ||
    (token.localName === 'EncryptedAssertion' && token.namespaceURI === saml2) ||
    (token.localName === 'EncryptedData' && token.namespaceURI === encryption);
  if (!isKnown) throw new XmlError('the token is no SAML assertion');
  const assertions = countElements(root, saml1, 'Assertion') + countElements(root, saml2, 'Assertion');
  const expected = isAssertion(token) ? 1 : 0;
  if (assertions !== expected) throw new XmlError('more than one assertion');
  if (countElements(root, signatureNamespace, 'Signature') !== expected) {
    throw new XmlError('not exactly one signature');
  }
  return token;
}

function isAssertion({ localName, namespaceURI }: Element): boolean {
  return localName === 'Assertion' && (namespaceURI === saml1 || namespaceURI === saml2);
}

function readSigned(text: string, assertion: Element, options: VerifyOptions): VerifiedAssertion {
  if (!isAssertion(assertion)) throw new XmlError('no assertion was encrypted');
  const { namespaceURI } = assertion;
  const idAttribute = namespaceURI === saml1 ? 'AssertionID' : 'ID';
  const id = attributeOf(assertion, idAttribute);
  const bytes = verifySignature(text, assertion, {
    certificates: options.certificates,
    idAttribute,
    allowSha1: options.allowSha1 ?? false,
  });
  // From here on nothing but what was signed.
  const signed = parseXml(bytes);
  if (
    !isAssertion(signed) ||
    signed.namespaceURI !== namespaceURI ||
    attributeOf(signed, idAttribute) !== id
  ) {
    throw new XmlError('something else was signed');
  }
  if (childElements(signed, signatureNamespace, 'Signature').length > 0)
    throw new XmlError('a signature within');
  return namespaceURI === saml1 ? readSaml1(signed, options) : readSaml2(signed, options);
}

interface Conditions {
  readonly notOnOrAfter: number;
}

/** The time and the audience (SAML 2.0 Core section 2.5, SAML 1.1 section 2.3.2); whatever else is there is not understood. */
function readConditions(
  assertion: Element,
  namespace: string,
  { restriction, harmless }: { restriction: string; harmless: readonly string[] },
  { now, audience }: VerifyOptions,
): Conditions {
  const conditions = onlyChild(assertion, namespace, 'Conditions');
  if (conditions === undefined) throw new XmlError('no conditions');
  const notBefore = readTime(conditions, 'NotBefore');
  const notOnOrAfter = readTime(conditions, 'NotOnOrAfter');
  if (notOnOrAfter === undefined) throw new XmlError('it has no end');
  if (notOnOrAfter + skewSeconds <= now) throw new XmlError('it has expired');
  if (notBefore !== undefined && notBefore - skewSeconds > now) throw new XmlError('it is not valid yet');
  if (notOnOrAfter - now > longestValiditySeconds) throw new XmlError('it is valid for longer than a day');

  const parts = childElements(conditions);
  const unknown = parts.find(
    ({ localName, namespaceURI }) =>
      namespaceURI !== namespace || (localName !== restriction && !harmless.includes(localName ?? '')),
  );
  if (unknown !== undefined) throw new XmlError('a condition that is not understood');
  const restrictions = parts.filter(({ localName }) => localName === restriction);
  const ours = withoutSlash(audience);
  const isForUs = (element: Element) =>
    childElements(element, namespace, 'Audience').some((one) => withoutSlash(textOf(one) ?? '') === ours);
  if (restrictions.length === 0 || !restrictions.every(isForUs))
    throw new XmlError('it is for another audience');
  return { notOnOrAfter };
}

function withoutSlash(uri: string): string {
  return uri.replace(/\/$/, '');
}

function checkIssuer(actual: string | undefined, expected: string): void {
  if (actual === undefined || actual !== expected) {
    throw new XmlError('its issuer is not the entityID of the metadata');
  }
}

/** SAML 2.0 Core sections 2.3 to 2.7. */
function readSaml2(assertion: Element, options: VerifyOptions): VerifiedAssertion {
  const { now, recipients } = options;
  if (attributeOf(assertion, 'Version') !== '2.0') throw new XmlError('not SAML 2.0');
  const issuer = textOf(onlyChild(assertion, saml2, 'Issuer'));
  checkIssuer(issuer, options.issuer);
  const conditions = readConditions(
    assertion,
    saml2,
    { restriction: 'AudienceRestriction', harmless: ['OneTimeUse'] },
    options,
  );

  const subject = onlyChild(assertion, saml2, 'Subject');
  if (subject === undefined) throw new XmlError('no subject');
  const confirmations = childElements(subject, saml2, 'SubjectConfirmation');
  const isConfirmed = (confirmation: Element) => {
    if (attributeOf(confirmation, 'Method') !== 'urn:oasis:names:tc:SAML:2.0:cm:bearer') return false;
    const data = onlyChild(confirmation, saml2, 'SubjectConfirmationData');
    if (data === undefined) return true;
    const end = readTime(data, 'NotOnOrAfter');
    const start = readTime(data, 'NotBefore');
    const recipient = attributeOf(data, 'Recipient');
    return (
      (end === undefined || end + skewSeconds > now) &&
      (start === undefined || start - skewSeconds <= now) &&
      (recipient === undefined || recipients.some((own) => sameAddress(own, recipient)))
    );
  };
  if (confirmations.length > 0 && !confirmations.some(isConfirmed)) {
    throw new XmlError('its subject is not confirmed for us: method, recipient or time');
  }

  const nameId = onlyChild(subject, saml2, 'NameID');
  const authentications = childElements(assertion, saml2, 'AuthnStatement');
  for (const statement of authentications) {
    const end = readTime(statement, 'SessionNotOnOrAfter');
    if (end !== undefined && end + skewSeconds <= now) throw new XmlError('the session there has ended');
  }
  const [authentication] = authentications;
  const methods = authentications.flatMap((statement) => {
    const context = onlyChild(statement, saml2, 'AuthnContext');
    return textOf(context && onlyChild(context, saml2, 'AuthnContextClassRef')) ?? [];
  });
  const claims = readAttributes(childElements(assertion, saml2, 'AttributeStatement'), saml2, (attribute) =>
    attributeOf(attribute, 'Name'),
  );
  return {
    ...describe(nameId, nameId && attributeOf(nameId, 'Format'), claims),
    assertionId: attributeOf(assertion, 'ID') ?? '',
    issuer: options.issuer,
    authenticatedAt: authentication && readTime(authentication, 'AuthnInstant'),
    methods: [...methods, ...(claims.get(claimTypes.authenticationMethod) ?? [])],
    sessionIndex: authentication && attributeOf(authentication, 'SessionIndex'),
    expiresAt: conditions.notOnOrAfter + skewSeconds,
  };
}

/** SAML 1.1 Core sections 2.3 and 2.4. */
function readSaml1(assertion: Element, options: VerifyOptions): VerifiedAssertion {
  if (attributeOf(assertion, 'MajorVersion') !== '1' || attributeOf(assertion, 'MinorVersion') !== '1') {
    throw new XmlError('not SAML 1.1');
  }
  checkIssuer(attributeOf(assertion, 'Issuer'), options.issuer);
  const conditions = readConditions(
    assertion,
    saml1,
    { restriction: 'AudienceRestrictionCondition', harmless: ['DoNotCacheCondition'] },
    options,
  );

  const attributeStatements = childElements(assertion, saml1, 'AttributeStatement');
  const authentications = childElements(assertion, saml1, 'AuthenticationStatement');
  const statements = [...attributeStatements, ...authentications];
  if (statements.length === 0) throw new XmlError('no statement');
  const subjects = statements.map((statement) => onlyChild(statement, saml1, 'Subject'));
  const nameIds = subjects.map((subject) => subject && onlyChild(subject, saml1, 'NameIdentifier'));
  if (new Set(nameIds.map((nameId) => textOf(nameId))).size > 1)
    throw new XmlError('statements about several subjects');
  for (const subject of subjects) {
    const confirmation = subject && onlyChild(subject, saml1, 'SubjectConfirmation');
    const methods =
      confirmation === undefined ? [] : childElements(confirmation, saml1, 'ConfirmationMethod');
    const isBearer = methods.some((method) => textOf(method) === 'urn:oasis:names:tc:SAML:1.0:cm:bearer');
    if (subject === undefined || (confirmation !== undefined && !isBearer)) {
      throw new XmlError('its subject is not confirmed for us: method');
    }
  }

  const [authentication] = authentications;
  const claims = readAttributes(attributeStatements, saml1, (attribute) => {
    const name = attributeOf(attribute, 'AttributeName');
    const namespace = attributeOf(attribute, 'AttributeNamespace') ?? '';
    // Some products put the whole type into the name.
    if (name === undefined || namespace === '' || URL.canParse(name)) return name;
    return `${withoutSlash(namespace)}/${name}`;
  });
  const [nameId] = nameIds;
  const methods = authentications.flatMap(
    (statement) => attributeOf(statement, 'AuthenticationMethod') ?? [],
  );
  return {
    ...describe(nameId, nameId && attributeOf(nameId, 'Format'), claims),
    assertionId: attributeOf(assertion, 'AssertionID') ?? '',
    issuer: options.issuer,
    authenticatedAt: authentication && readTime(authentication, 'AuthenticationInstant'),
    methods: [...methods, ...(claims.get(claimTypes.authenticationMethod) ?? [])],
    sessionIndex: undefined,
    expiresAt: conditions.notOnOrAfter + skewSeconds,
  };
}

function describe(
  nameId: Element | undefined,
  format: string | undefined,
  claims: ReadonlyMap<string, readonly string[]>,
): Pick<VerifiedAssertion, 'claims' | 'subject'> {
  const value = textOf(nameId);
  // An address is never found by comparing parts of names: the text is the whole value.
  if (!value || /:transient$/i.test(format ?? '')) return { subject: undefined, claims };
  const type = claimTypes.nameidentifier;
  return { subject: value, claims: claims.has(type) ? claims : new Map([...claims, [type, [value]]]) };
}

/** The attributes by type; values that are not plain text are left out. */
function readAttributes(
  statements: readonly Element[],
  namespace: string,
  typeOf: (attribute: Element) => string | undefined,
): Map<string, readonly string[]> {
  const claims = new Map<string, readonly string[]>();
  for (const attribute of statements.flatMap((statement) =>
    childElements(statement, namespace, 'Attribute'),
  )) {
    const type = typeOf(attribute);
    if (!type) continue;
    const values = childElements(attribute, namespace, 'AttributeValue').flatMap(
      (value) => textOf(value) || [],
    );
    if (values.length > 0) claims.set(type, [...(claims.get(type) ?? []), ...values]);
  }
  return claims;
}

function sameAddress(one: string, other: string): boolean {
  return withoutSlash(one).toLowerCase() === withoutSlash(other).toLowerCase();
}

/** A time as SAML writes it, in whole seconds since the epoch; undefined where there is none. */
function readTime(element: Element, name: string): number | undefined {
  const text = attributeOf(element, name);
  if (text === undefined) return undefined;
  const isTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(text);
  const milliseconds = isTime ? Date.parse(text.replace(/\.(\d{1,3})\d*/, '.$1')) : Number.NaN;
  if (Number.isNaN(milliseconds)) throw new XmlError('a time that cannot be read');
  return Math.floor(milliseconds / 1000);
}

const contentAlgorithms = new Set([
  'http://www.w3.org/2009/xmlenc11#aes128-gcm',
  'http://www.w3.org/2009/xmlenc11#aes256-gcm',
]);
const cbcAlgorithms = new Set([`${encryption}aes128-cbc`, `${encryption}aes256-cbc`]);
const keyAlgorithms = new Set([`${encryption}rsa-oaep-mgf1p`, 'http://www.w3.org/2009/xmlenc11#rsa-oaep']);

/** One text for everything that can go wrong: who could tell the causes apart could decrypt by asking. */
const undecipherable = 'it cannot be decrypted';

/** The assertion in an encrypted token, as text; it is nothing until its own signature has been verified. */
function decrypt(token: Element, { decryptionKeys = [], allowCbc = false }: VerifyOptions): string {
  if (decryptionKeys.length === 0) throw new XmlError('it is encrypted, and there are no DecryptionKeys');
  const data = token.localName === 'EncryptedData' ? token : onlyChild(token, encryption, 'EncryptedData');
  const methods = [...(data?.getElementsByTagNameNS(encryption, 'EncryptionMethod') ?? [])]
    .concat([...token.getElementsByTagNameNS(encryption, 'EncryptionMethod')])
    .map((method) => attributeOf(method, 'Algorithm') ?? '');
  const isAllowed = (algorithm: string) =>
    contentAlgorithms.has(algorithm) ||
    keyAlgorithms.has(algorithm) ||
    (allowCbc && cbcAlgorithms.has(algorithm));
  if (data === undefined || methods.length === 0 || !methods.every(isAllowed)) {
    throw new XmlError('it is encrypted by an algorithm that is not allowed; AES-CBC needs AllowCbc');
  }
  for (const key of decryptionKeys) {
    const text = decryptWith(key, token.toString());
    if (text !== undefined) return text;
  }
  throw new XmlError(undecipherable);
}

type Decrypt = (
  xml: string,
  options: { key: string; disallowDecryptionWithInsecureAlgorithm: boolean; warnInsecureAlgorithm: boolean },
  callback: (err: Error | null, text?: string) => void,
) => void;

// It has no types of its own, and is CommonJS.
const { decrypt: decryptXml } = createRequire(import.meta.url)('xml-encryption') as { decrypt: Decrypt };

function decryptWith(key: string, xml: string): string | undefined {
  let text: string | undefined;
  // Which algorithms hold has been decided above; it answers before it returns.
  const options = { key, disallowDecryptionWithInsecureAlgorithm: false, warnInsecureAlgorithm: false };
  decryptXml(xml, options, (err, decrypted) => {
    text = err === null ? decrypted : undefined;
  });
  return text;
}

export { UnknownKeyError };
