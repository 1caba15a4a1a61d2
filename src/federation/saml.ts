/**
 * What an identity provider answers to a WS-Federation sign-in (`wresult`): a SAML 1.1 or 2.0 assertion inside a
 * RequestSecurityTokenResponse. Pure.
 *
 * In this order, and in no other: the text is admitted and parsed strictly (xml.ts); exactly one token is found,
 * in its place, and decrypted where it is encrypted (xml-decryption.ts); its signature is verified, which gives
 * the bytes that were signed (xml-signature.ts); the document is dropped. Everything else, from the issuer to the
 * last claim, is read from those bytes and from nothing else.
 */
import type { Element } from '@xmldom/xmldom';
import { ServerError } from '../errors.ts';
import { claimTypes } from './ws-federation.ts';
import {
  children,
  findAttribute,
  findChild,
  getChild,
  isNamed,
  parseXml,
  Refusal,
  textOf,
  trimSpace,
  walk,
  type XmlDocument,
} from './xml.ts';
import { decryptElement, encryptionNamespace } from './xml-decryption.ts';
import { UnknownKeyRefusal, verifyEnvelopedSignature } from './xml-signature.ts';

export interface VerifyOptions {
  /** Trusted signing certificates from the metadata, base64 DER as in X509Certificate elements. */
  readonly certificates: readonly string[];
  /** The identity provider's entityID. */
  readonly issuer: string;
  /** Our realm; each audience restriction must contain one of these (one trailing slash ignored). */
  readonly audiences: readonly string[];
  /** URLs at which the answer may arrive: what a subject confirmation that names a Recipient must name. */
  readonly recipients: readonly string[];
  /** Seconds since the epoch. */
  readonly now: number;
  /** How far the clocks may be apart, both ways. Default 300. */
  readonly clockToleranceSeconds?: number;
  /** RSA private keys (PEM) for encrypted assertions; without one these are refused. */
  readonly decryptionKeys?: readonly string[];
  /** Admits AES-CBC in encrypted assertions, as AD FS sends it. Default false. */
  readonly allowCbc?: boolean;
  /** Admits RSA-SHA1 and SHA-1 in signatures. Default false. */
  readonly allowSha1?: boolean;
}

/** What the identity provider vouches for. */
export interface VerifiedAssertion {
  readonly assertionId: string;
  readonly issuer: string;
  /** The NameID or NameIdentifier; undefined where the assertion has none. */
  readonly subject: string | undefined;
  /** The URI of its format. */
  readonly subjectFormat: string | undefined;
  /** Values by claim type URI, in order, none empty and none twice; the subject is in it as nameidentifier. */
  readonly claims: ReadonlyMap<string, readonly string[]>;
  /** When the user proved who they are, in seconds since the epoch. */
  readonly authenticatedAt: number | undefined;
  /** How, as a URI of SAML 1.1 or an authentication context class of SAML 2.0. */
  readonly authenticationMethod: string | undefined;
  readonly sessionIndex: string | undefined;
  /** Until when a replay must be remembered, in seconds since the epoch. */
  readonly expiresAt: number;
}

/** Why an answer was refused: `hint` says it in words, and `isKeyUnknown` that newer metadata may help. */
export class InvalidAssertionError extends ServerError {
  readonly isKeyUnknown: boolean;

  constructor(
    hint: string,
    { cause, isKeyUnknown = false }: { cause?: unknown; isKeyUnknown?: boolean } = {},
  ) {
    super('ERR_ASSERTION_INVALID', 'the answer of the identity provider could not be verified', {
      status: 400,
      hint,
      cause,
    });
    this.isKeyUnknown = isKeyUnknown;
  }
}

/** The differences between the two versions of SAML that matter to a reader. */
interface Vocabulary {
  namespace: string;
  version: Readonly<Record<string, string>>;
  idAttribute: string;
  /** How a confirmation says "whoever brings it". SimpleSAMLphp says it in SAML 1.1 with the word of 2.0. */
  bearer: readonly string[];
  audienceRestriction: string;
  /** Conditions that ask for nothing that we do not do anyway: every assertion is used once, and none is kept. */
  harmlessConditions: readonly string[];
  authentication: { statement: string; instant: string };
}

const saml11: Vocabulary = {
  namespace: 'urn:oasis:names:tc:SAML:1.0:assertion',
  version: { MajorVersion: '1', MinorVersion: '1' },
  idAttribute: 'AssertionID',
  bearer: ['urn:oasis:names:tc:SAML:1.0:cm:bearer', 'urn:oasis:names:tc:SAML:2.0:cm:bearer'],
  audienceRestriction: 'AudienceRestrictionCondition',
  harmlessConditions: ['DoNotCacheCondition'],
  authentication: { statement: 'AuthenticationStatement', instant: 'AuthenticationInstant' },
};
const saml20: Vocabulary = {
  namespace: 'urn:oasis:names:tc:SAML:2.0:assertion',
  version: { Version: '2.0' },
  idAttribute: 'ID',
  bearer: ['urn:oasis:names:tc:SAML:2.0:cm:bearer'],
  audienceRestriction: 'AudienceRestriction',
  harmlessConditions: ['OneTimeUse'],
  authentication: { statement: 'AuthnStatement', instant: 'AuthnInstant' },
};
const vocabularies = [saml11, saml20];
const saml11Statements = ['AuthenticationStatement', 'AttributeStatement', 'AuthorizationDecisionStatement'];

/** WS-Trust of February 2005, 1.3 and 1.4. */
const trustNamespaces = [
  'http://schemas.xmlsoap.org/ws/2005/02/trust',
  'http://docs.oasis-open.org/ws-sx/ws-trust/200512',
  'http://docs.oasis-open.org/ws-sx/ws-trust/200802',
];
/** AD FS answers in some 6 000 characters; hundreds of groups make ten times that. */
const limits = { maxCharacters: 256 * 1024, maxElements: 3_000 };
const defaultClockToleranceSeconds = 300;

/**
 * Verifies the answer to a sign-in and returns what it proves. Whether it has been used before, and whether it
 * answers a question of ours, is for the caller to say.
 *
 * @throws {InvalidAssertionError} ERR_ASSERTION_INVALID, status 400; `hint` says which check failed, without any content
 * @see WS-Federation 1.2 section 13.3, SAML 2.0 Core section 2.5, SAML 2.0 Profiles section 4.1.4.3
 */
export function verifySignInResponse(wresult: string, options: VerifyOptions): VerifiedAssertion {
  try {
    const document = parseXml(wresult, limits);
    const token = findToken(document.root);
    if (isAssertion(token)) return verifyAssertion(document, token, options);

    if (options.decryptionKeys === undefined || options.decryptionKeys.length === 0) {
      throw new Refusal('the assertion is encrypted, and no decryption certificate is configured');
    }
    const policy = { decryptionKeys: options.decryptionKeys, allowCbc: options.allowCbc };
    const decrypted = decryptElement(token, policy, (text) => {
      const inner = parseXml(text, limits);
      if (!isAssertion(inner.root)) throw new Refusal('no assertion');
      return inner;
    });
    verifyOnlyToken(decrypted.root, decrypted.root);
    return verifyAssertion(decrypted, decrypted.root, options);
  } catch (err) {
    const hint = err instanceof Refusal ? err.message : 'the answer could not be read';
    throw new InvalidAssertionError(hint, { cause: err, isKeyUnknown: err instanceof UnknownKeyRefusal });
  }
}

/** The one token of the answer, at the one place where a token may be: an assertion or an encrypted one. */
function findToken(root: Element): Element {
  const response = isTrust(root, 'RequestSecurityTokenResponseCollection')
    ? getOnlyChild(root, 'RequestSecurityTokenResponse')
    : root;
  if (!isTrust(response, 'RequestSecurityTokenResponse')) {
    throw new Refusal('the answer is not a RequestSecurityTokenResponse');
  }
  const requested = children(response).filter((child) => isTrust(child, 'RequestedSecurityToken'));
  const [token, ...others] = requested.flatMap((element) => children(element));
  if (token === undefined) throw new Refusal('the answer has no token');
  if (requested.length > 1 || others.length > 0) throw new Refusal('the answer has more than one token');
  verifyOnlyToken(root, token);
  if (isAssertion(token) || isEncrypted(token)) return token;
  throw new Refusal('the token is neither a SAML 1.1 nor a SAML 2.0 assertion');
}

/** Refuses further tokens wherever they are and whatever they say they are: no one may read the wrong one. */
function verifyOnlyToken(root: Element, token: Element): void {
  for (const element of walk(root)) {
    if (element === token) continue;
    const isToken = ['Assertion', 'EncryptedAssertion', 'RequestedSecurityToken'].includes(
      element.localName ?? '',
    );
    if (isToken && !(element === token.parentNode)) throw new Refusal('the answer has more than one token');
  }
}

function isTrust(element: Element, name: string): boolean {
  return trustNamespaces.some((namespace) => isNamed(element, namespace, name));
}

function getOnlyChild(parent: Element, name: string): Element {
  const [child, ...others] = children(parent);
  if (child === undefined || others.length > 0) {
    throw new Refusal(`${parent.localName} does not have exactly one ${name}`);
  }
  return child;
}

function isAssertion(element: Element): boolean {
  return vocabularies.some(({ namespace }) => isNamed(element, namespace, 'Assertion'));
}

/** SAML 2.0 wraps what is encrypted; SAML 1.1 has no word for it, so that it stands there bare. */
function isEncrypted(element: Element): boolean {
  return (
    isNamed(element, saml20.namespace, 'EncryptedAssertion') ||
    isNamed(element, encryptionNamespace, 'EncryptedData')
  );
}

function verifyAssertion(document: XmlDocument, element: Element, options: VerifyOptions): VerifiedAssertion {
  const vocabulary = vocabularyOf(element);
  const id = findAttribute(element, vocabulary.idAttribute);
  const signed = verifyEnvelopedSignature(document, element, vocabulary.idAttribute, options);

  const assertion = parseXml(signed, limits).root;
  if (
    !isNamed(assertion, vocabulary.namespace, 'Assertion') ||
    findAttribute(assertion, vocabulary.idAttribute) !== id
  ) {
    throw new Refusal('what was signed is not the assertion');
  }
  return readAssertion(assertion, vocabulary, options);
}

function vocabularyOf(element: Element): Vocabulary {
  const vocabulary = vocabularies.find(({ namespace }) => element.namespaceURI === namespace);
  if (vocabulary === undefined) throw new Refusal('the token is neither a SAML 1.1 nor a SAML 2.0 assertion');
  return vocabulary;
}

/** Checks and reads an assertion from its root alone, which is what was signed. */
function readAssertion(
  assertion: Element,
  vocabulary: Vocabulary,
  options: VerifyOptions,
): VerifiedAssertion {
  for (const [name, value] of Object.entries(vocabulary.version)) {
    if (findAttribute(assertion, name) !== value)
      throw new Refusal(`the ${name} of the assertion is not ${value}`);
  }
  const issuer = readIssuer(assertion, vocabulary);
  if (issuer !== options.issuer) throw new Refusal('the issuer is not the entityID of the metadata');

  const conditions = getChild(assertion, vocabulary.namespace, 'Conditions');
  const clockToleranceSeconds = options.clockToleranceSeconds ?? defaultClockToleranceSeconds;
  const notOnOrAfter = verifyLifetime(conditions, { now: options.now, clockToleranceSeconds });
  if (notOnOrAfter === undefined) throw new Refusal('the assertion has no expiry');
  verifyConditions(conditions, vocabulary, options.audiences);

  const subjects = findSubjects(assertion, vocabulary);
  for (const subject of subjects) verifyConfirmation(subject, vocabulary, options, clockToleranceSeconds);
  const { name, format } = readName(subjects, vocabulary);

  return {
    assertionId: findAttribute(assertion, vocabulary.idAttribute) ?? '',
    issuer,
    subject: name,
    subjectFormat: format,
    claims: readClaims(assertion, vocabulary, name),
    ...readAuthentication(assertion, vocabulary),
    expiresAt: Math.ceil(notOnOrAfter) + clockToleranceSeconds,
  };
}

function readIssuer(assertion: Element, { namespace }: Vocabulary): string | undefined {
  return namespace === saml11.namespace
    ? findAttribute(assertion, 'Issuer')
    : textOf(getChild(assertion, namespace, 'Issuer'));
}

interface Clock {
  now: number;
  clockToleranceSeconds: number;
}

/** Checks NotBefore and NotOnOrAfter where they are, and returns the latter in seconds since the epoch. */
function verifyLifetime(element: Element, { now, clockToleranceSeconds }: Clock): number | undefined {
  const notBefore = readTime(element, 'NotBefore');
  const notOnOrAfter = readTime(element, 'NotOnOrAfter');
  if (notBefore !== undefined && now < notBefore - clockToleranceSeconds) {
    throw new Refusal(`${element.localName} of the assertion is not valid yet; compare the clocks`);
  }
  if (notOnOrAfter !== undefined && now >= notOnOrAfter + clockToleranceSeconds) {
    throw new Refusal(`${element.localName} of the assertion has expired; compare the clocks`);
  }
  return notOnOrAfter;
}

function readTime(element: Element, name: string): number | undefined {
  const text = findAttribute(element, name);
  if (text === undefined) return undefined;
  const milliseconds = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)$/.test(text)
    ? Date.parse(text)
    : Number.NaN;
  if (Number.isNaN(milliseconds)) throw new Refusal(`${name} is not a point in time`);
  return milliseconds / 1000;
}

/** SAML 2.0 Core section 2.5.1: every condition must hold, and one that is not understood does not. */
function verifyConditions(conditions: Element, vocabulary: Vocabulary, audiences: readonly string[]): void {
  const { namespace, audienceRestriction, harmlessConditions } = vocabulary;
  const restrictions = children(conditions, namespace, audienceRestriction);
  if (restrictions.length === 0) throw new Refusal('the assertion is not restricted to an audience');
  const ours = audiences.map(withoutTrailingSlash);
  for (const restriction of restrictions) {
    const named = children(restriction, namespace, 'Audience').map(textOf).map(withoutTrailingSlash);
    if (!named.some((audience) => ours.includes(audience))) {
      throw new Refusal('an audience restriction does not have our realm (Wtrealm)');
    }
  }
  const known = [audienceRestriction, ...harmlessConditions];
  const unknown = children(conditions).find((condition) => !isNamed(condition, namespace, ...known));
  if (unknown !== undefined)
    throw new Refusal(`the assertion has a condition that we do not meet: ${unknown.localName}`);
}

function withoutTrailingSlash(uri: string): string {
  return uri.endsWith('/') ? uri.slice(0, -1) : uri;
}

/** SAML 2.0 has one subject; SAML 1.1 repeats it in each statement. */
function findSubjects(assertion: Element, { namespace }: Vocabulary): Element[] {
  if (namespace === saml20.namespace) return [getChild(assertion, namespace, 'Subject')];
  const statements = children(assertion, namespace, ...saml11Statements);
  if (statements.length === 0) throw new Refusal('the assertion has no statement');
  return statements.map((statement) => getChild(statement, namespace, 'Subject'));
}

/**
 * Checks that whoever brings the assertion may be taken for its subject: one bearer confirmation must hold. In
 * SAML 1.1 there may be none at all: some products leave it out of an assertion for the passive profile.
 */
function verifyConfirmation(
  subject: Element,
  { namespace, bearer }: Vocabulary,
  { now, recipients }: VerifyOptions,
  clockToleranceSeconds: number,
): void {
  const confirmations = children(subject, namespace, 'SubjectConfirmation');
  if (namespace === saml11.namespace) {
    const methods = confirmations
      .flatMap((one) => children(one, namespace, 'ConfirmationMethod'))
      .map(textOf);
    if (confirmations.length === 0 || methods.some((one) => bearer.includes(one))) return;
    throw new Refusal('the subject is not confirmed as bearer');
  }

  const bearers = confirmations.filter((one) => bearer.includes(findAttribute(one, 'Method') ?? ''));
  if (bearers.length === 0) throw new Refusal('the subject is not confirmed as bearer');
  const refusals: unknown[] = [];
  for (const confirmation of bearers) {
    try {
      const data = findChild(confirmation, namespace, 'SubjectConfirmationData');
      if (data === undefined) return;
      verifyLifetime(data, { now, clockToleranceSeconds });
      const recipient = findAttribute(data, 'Recipient');
      if (recipient === undefined || recipients.some((one) => isSameUrl(one, recipient))) return;
      throw new Refusal('the Recipient is not an address of ours');
    } catch (err) {
      refusals.push(err);
    }
  }
  throw refusals[0];
}

/** Our paths match without regard to case, and identity providers are configured by hand. */
function isSameUrl(a: string, b: string): boolean {
  return withoutTrailingSlash(a).toLowerCase() === withoutTrailingSlash(b).toLowerCase();
}

function readName(subjects: readonly Element[], { namespace }: Vocabulary) {
  const element = namespace === saml11.namespace ? 'NameIdentifier' : 'NameID';
  const names = subjects
    .map((subject) => findChild(subject, namespace, element))
    .filter((name) => name !== undefined);
  const [name, ...others] = names.map(textOf);
  if (others.some((other) => other !== name))
    throw new Refusal('the statements are about different subjects');
  if (name === undefined || name === '') return { name: undefined, format: undefined };
  return { name, format: names[0] && findAttribute(names[0], 'Format') };
}

function readClaims(
  assertion: Element,
  vocabulary: Vocabulary,
  name: string | undefined,
): Map<string, string[]> {
  const { namespace } = vocabulary;
  const claims = new Map<string, string[]>();
  const add = (type: string | undefined, value: string | undefined): void => {
    if (type === undefined || value === undefined || value === '') return;
    const values = claims.get(type) ?? [];
    if (!values.includes(value)) claims.set(type, [...values, value]);
  };

  add(claimTypes.nameIdentifier, name);
  for (const statement of children(assertion, namespace, 'AttributeStatement')) {
    for (const attribute of children(statement, namespace, 'Attribute')) {
      const type = readClaimType(attribute, vocabulary);
      for (const value of children(attribute, namespace, 'AttributeValue')) add(type, readValue(value));
    }
  }
  return claims;
}

/** In SAML 1.1 namespace and name are put together with a slash, but for a name that is a whole URI already. */
function readClaimType(attribute: Element, { namespace }: Vocabulary): string | undefined {
  if (namespace === saml20.namespace) return findAttribute(attribute, 'Name');
  const name = findAttribute(attribute, 'AttributeName');
  const prefix = findAttribute(attribute, 'AttributeNamespace');
  if (name === undefined || prefix === undefined || /^(https?|urn):/.test(name)) return name;
  return `${withoutTrailingSlash(prefix)}/${name}`;
}

/**
 * The text of an attribute value. One that holds a single element, as eduPersonTargetedID holds a NameID, has
 * that element's text; what is more complex than that is no claim.
 */
function readValue(value: Element): string | undefined {
  const [child, ...others] = children(value);
  if (child === undefined) return textOf(value);
  const isSimple = others.length === 0 && children(child).length === 0;
  const text = trimSpace(child.textContent ?? '');
  return isSimple && trimSpace(value.textContent ?? '') === text ? text : undefined;
}

/** How and when the user authenticated, from the first statement that says it. */
function readAuthentication(assertion: Element, { namespace, authentication }: Vocabulary) {
  const [statement] = children(assertion, namespace, authentication.statement);
  if (statement === undefined) {
    return { authenticatedAt: undefined, authenticationMethod: undefined, sessionIndex: undefined };
  }
  const instant = readTime(statement, authentication.instant);
  const context = findChild(statement, namespace, 'AuthnContext');
  const classRef = context && findChild(context, namespace, 'AuthnContextClassRef');
  return {
    authenticatedAt: instant === undefined ? undefined : Math.floor(instant),
    authenticationMethod: classRef ? textOf(classRef) : findAttribute(statement, 'AuthenticationMethod'),
    sessionIndex: findAttribute(statement, 'SessionIndex'),
  };
}
