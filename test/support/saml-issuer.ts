/**
 * An identity provider that signs as real ones do, for the tests: keys with certificates, SAML 1.1 and 2.0
 * assertions, and the answers of WS-Federation around them. What it makes is honest; attacks begin from it.
 */
import {
  type CipherGCM,
  constants,
  createCipheriv,
  createHash,
  createSign,
  generateKeyPairSync,
  type KeyObject,
  publicEncrypt,
  randomBytes,
  sign as signBytes,
} from 'node:crypto';
import { DOMParser } from '@xmldom/xmldom';
import { ExclusiveCanonicalization } from 'xml-crypto';

export const enveloped = 'http://www.w3.org/2000/09/xmldsig#enveloped-signature';
export const exclusive = 'http://www.w3.org/2001/10/xml-exc-c14n#';
const signatureNamespace = 'http://www.w3.org/2000/09/xmldsig#';
export const samlNamespaces = {
  '1.1': 'urn:oasis:names:tc:SAML:1.0:assertion',
  '2.0': 'urn:oasis:names:tc:SAML:2.0:assertion',
} as const;
export const trustNamespaces = {
  '2005/02': 'http://schemas.xmlsoap.org/ws/2005/02/trust',
  '200512': 'http://docs.oasis-open.org/ws-sx/ws-trust/200512',
  '200802': 'http://docs.oasis-open.org/ws-sx/ws-trust/200802',
} as const;

/** Signature and digest algorithms by URI, as node:crypto names their hashes. */
const hashes: Readonly<Record<string, string>> = {
  'http://www.w3.org/2000/09/xmldsig#rsa-sha1': 'sha1',
  'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256': 'sha256',
  'http://www.w3.org/2001/04/xmldsig-more#rsa-sha384': 'sha384',
  'http://www.w3.org/2001/04/xmldsig-more#rsa-sha512': 'sha512',
  'http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256': 'sha256',
  'http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384': 'sha384',
  'http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512': 'sha512',
  'http://www.w3.org/2000/09/xmldsig#sha1': 'sha1',
  'http://www.w3.org/2001/04/xmlenc#sha256': 'sha256',
  'http://www.w3.org/2001/04/xmldsig-more#sha384': 'sha384',
  'http://www.w3.org/2001/04/xmlenc#sha512': 'sha512',
};

/** A key pair and its self-signed certificate. */
export interface Signer {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** Base64 DER, as X509Certificate elements have it. */
  readonly certificate: string;
}

export function createSigner(kind: 'rsa' | 'ec' = 'rsa', bits = 2048): Signer {
  const { privateKey, publicKey } =
    kind === 'rsa'
      ? generateKeyPairSync('rsa', { modulusLength: bits })
      : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { privateKey, publicKey, certificate: createCertificate(kind, privateKey, publicKey) };
}

/** A certificate of X.509 version 1, which is the shortest there is: node:crypto reads certificates and makes none. */
function createCertificate(kind: 'rsa' | 'ec', privateKey: KeyObject, publicKey: KeyObject): string {
  const der = (tag: number, ...parts: readonly Buffer[]): Buffer => {
    const content = Buffer.concat(parts);
    const length =
      content.length < 128
        ? Buffer.of(content.length)
        : Buffer.of(0x82, content.length >> 8, content.length & 0xff);
    return Buffer.concat([Buffer.of(tag), length, content]);
  };
  const objectId = (hex: string) => der(0x06, Buffer.from(hex, 'hex'));
  const time = (text: string) => der(0x17, Buffer.from(text));
  // sha256WithRSAEncryption, ecdsa-with-SHA256; commonName.
  const algorithm =
    kind === 'rsa'
      ? der(0x30, objectId('2a864886f70d01010b'), der(0x05))
      : der(0x30, objectId('2a8648ce3d040302'));
  const name = der(0x30, der(0x31, der(0x30, objectId('550403'), der(0x0c, Buffer.from('idp.example')))));
  const body = der(
    0x30,
    der(0x02, Buffer.of(1)),
    algorithm,
    name,
    der(0x30, time('200101000000Z'), time('491231235959Z')),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
  );
  const signature = createSign('sha256').update(body).sign(privateKey);
  return der(0x30, body, algorithm, der(0x03, Buffer.of(0), signature)).toString('base64');
}

export interface SignOptions {
  signer: Signer;
  signatureAlgorithm?: string;
  digestAlgorithm?: string;
  canonicalizationAlgorithm?: string;
  transforms?: readonly string[];
  /** Prefix of the signature's elements. Default `ds`; '' for none, as Entra ID has it. */
  prefix?: string;
  /** PrefixList of exclusive canonicalization, as OpenSAML sends it. */
  inclusivePrefixes?: readonly string[];
  /** What the reference names, of the id of what is signed. Default `#` and the id. */
  uri?: (id: string) => string;
  /** The certificate in KeyInfo; none where null. Default: the signer's. */
  keyInfo?: string | null;
  /** Makes the signature of the canonical SignedInfo, in place of the algorithm. */
  computeValue?: (signedInfo: string) => string;
}

/**
 * Signs an assertion that stands alone: the signature goes where products put it, after the Issuer of SAML 2.0 and
 * at the end of SAML 1.1.
 */
export function sign(assertion: string, options: SignOptions): string {
  const signature = createSignature(assertion, options);
  return assertion.includes(samlNamespaces['2.0'])
    ? assertion.replace(/(<\/(?:\w+:)?Issuer>)/, (end) => `${end}${signature}`)
    : assertion.replace(/(<\/(?:\w+:)?Assertion>\s*)$/, (end) => `${signature}${end}`);
}

/** An enveloped signature over the root of `xml`, for wherever it is to be put. */
export function createSignature(xml: string, options: SignOptions): string {
  const {
    signer,
    signatureAlgorithm = 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
    digestAlgorithm = 'http://www.w3.org/2001/04/xmlenc#sha256',
    canonicalizationAlgorithm = exclusive,
    transforms = [enveloped, exclusive],
    prefix = 'ds',
    inclusivePrefixes,
    uri = (id) => `#${id}`,
    keyInfo = signer.certificate,
    computeValue = (text) => computeSignatureValue(text, signatureAlgorithm, signer),
  } = options;
  const p = prefix === '' ? '' : `${prefix}:`;
  const declaration = ` xmlns${prefix === '' ? '' : `:${prefix}`}="${signatureNamespace}"`;
  const id = /^<[^>]*?\s(?:ID|AssertionID)="([^"]*)"/.exec(xml)?.[1] ?? '';
  const digest = createHash(hashOf(digestAlgorithm))
    .update(canonicalize(xml, inclusivePrefixes))
    .digest('base64');
  const parameter =
    inclusivePrefixes === undefined
      ? ''
      : `<ec:InclusiveNamespaces xmlns:ec="${exclusive}" PrefixList="${inclusivePrefixes.join(' ')}"></ec:InclusiveNamespaces>`;

  // As exclusive canonicalization writes it, but for the declaration of the prefix, which is inherited.
  const signedInfo = (declared: string) =>
    `<${p}SignedInfo${declared}><${p}CanonicalizationMethod Algorithm="${canonicalizationAlgorithm}"></${p}CanonicalizationMethod>` +
    `<${p}SignatureMethod Algorithm="${signatureAlgorithm}"></${p}SignatureMethod>` +
    `<${p}Reference URI="${uri(id)}"><${p}Transforms>${transforms
      .map((one) => `<${p}Transform Algorithm="${one}">${one === exclusive ? parameter : ''}</${p}Transform>`)
      .join('')}</${p}Transforms>` +
    `<${p}DigestMethod Algorithm="${digestAlgorithm}"></${p}DigestMethod><${p}DigestValue>${digest}</${p}DigestValue></${p}Reference></${p}SignedInfo>`;
  const certificate =
    keyInfo === null
      ? ''
      : `<${p}KeyInfo><${p}X509Data><${p}X509Certificate>${keyInfo}</${p}X509Certificate></${p}X509Data></${p}KeyInfo>`;
  return `<${p}Signature${declaration}>${signedInfo('')}<${p}SignatureValue>${computeValue(signedInfo(declaration))}</${p}SignatureValue>${certificate}</${p}Signature>`;
}

function canonicalize(xml: string, inclusiveNamespacesPrefixList: readonly string[] = []): string {
  // The line ends of XML 1.0: xmldom has those of XML 1.1 by default.
  const parser = new DOMParser({ normalizeLineEndings: (text) => text.replace(/\r\n?/g, '\n') });
  const root = parser.parseFromString(xml, 'application/xml').documentElement;
  return new ExclusiveCanonicalization().process(
    root as unknown as Parameters<ExclusiveCanonicalization['process']>[0],
    {
      inclusiveNamespacesPrefixList: [...inclusiveNamespacesPrefixList],
    },
  );
}

/** An unknown algorithm, as attacks name them, is as good as any. */
function hashOf(uri: string): string {
  return (Object.hasOwn(hashes, uri) ? hashes[uri] : undefined) ?? 'sha256';
}

function computeSignatureValue(signedInfo: string, algorithm: string, { privateKey }: Signer): string {
  // XML Signature 1.1 section 6.4.3: an ECDSA signature is r and s, one after the other.
  const key = { key: privateKey, dsaEncoding: 'ieee-p1363' } as const;
  return signBytes(hashOf(algorithm), Buffer.from(signedInfo), key).toString('base64');
}

export interface AssertionOptions {
  version?: '1.1' | '2.0';
  /** Prefix of SAML's elements. Default `saml`; '' for none. */
  prefix?: string;
  id?: string;
  issuer?: string;
  /** Its name identifier; '' leaves it out. */
  subject?: string;
  /** Format of the NameID of SAML 2.0, persistent unless given. */
  subjectFormat?: string;
  claims?: Readonly<Record<string, string | readonly string[]>>;
  /** Seconds since the epoch. */
  notBefore?: number;
  notOnOrAfter?: number;
  authenticatedAt?: number;
  /** Further namespace declarations on the assertion. */
  extraDeclarations?: string;
  /** Whole elements in place of the made ones: '' leaves one out. */
  conditions?: string;
  confirmation?: string;
  attributeStatement?: string;
}

/** What the tests agree upon. */
export const known = {
  now: 1_795_000_000,
  issuer: 'http://adfs.example.com/adfs/services/trust',
  realm: 'urn:intelligence',
  recipient: 'https://postern.example.com/SPSSMR/Oidc/callback/wsfed/IntelligenceWsFed',
  subject: 'alice@example.com',
  upn: 'http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn',
  role: 'http://schemas.microsoft.com/ws/2008/06/identity/claims/role',
} as const;

/** The options of an assertion with what was left out filled in. */
function complete(options: AssertionOptions) {
  const {
    version = '2.0',
    prefix = 'saml',
    notBefore = known.now - 60,
    notOnOrAfter = known.now + 3600,
  } = options;
  return {
    version,
    p: prefix === '' ? '' : `${prefix}:`,
    declaration: `xmlns${prefix === '' ? '' : `:${prefix}`}="${samlNamespaces[version]}"${options.extraDeclarations === undefined ? '' : ` ${options.extraDeclarations}`}`,
    id: options.id ?? '_8f2a1c1e-3d4b-4c5d-9e6f-0123456789ab',
    issuer: escapeXml(options.issuer ?? known.issuer),
    subject: escapeXml(options.subject ?? known.subject),
    claims: Object.entries(
      options.claims ?? { [known.upn]: 'alice@example.com', [known.role]: ['reader', 'writer'] },
    ),
    from: toTime(notBefore),
    until: toTime(notOnOrAfter),
    at: toTime(options.authenticatedAt ?? known.now - 120),
    options,
  };
}

/** An unsigned assertion. */
export function createAssertion(options: AssertionOptions = {}): string {
  return options.version === '1.1' ? createAssertion11(options) : createAssertion20(options);
}

function createAssertion20(input: AssertionOptions): string {
  const { p, declaration, id, issuer, subject, claims, from, until, at, options } = complete({
    ...input,
    version: '2.0',
  });
  const {
    confirmation = `<${p}SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><${p}SubjectConfirmationData NotOnOrAfter="${until}" Recipient="${known.recipient}"/></${p}SubjectConfirmation>`,
    conditions = `<${p}Conditions NotBefore="${from}" NotOnOrAfter="${until}"><${p}AudienceRestriction><${p}Audience>${known.realm}</${p}Audience></${p}AudienceRestriction></${p}Conditions>`,
    attributeStatement = `<${p}AttributeStatement>${claims
      .map(([type, values]) => `<${p}Attribute Name="${type}">${toValues(p, values)}</${p}Attribute>`)
      .join('')}</${p}AttributeStatement>`,
  } = options;
  const format = options.subjectFormat ?? 'urn:oasis:names:tc:SAML:2.0:nameid-format:persistent';
  const nameId = subject && `<${p}NameID Format="${format}">${subject}</${p}NameID>`;
  return (
    `<${p}Assertion ${declaration} ID="${id}" IssueInstant="${at}" Version="2.0"><${p}Issuer>${issuer}</${p}Issuer>` +
    `<${p}Subject>${nameId}${confirmation}</${p}Subject>` +
    `${conditions}${attributeStatement}` +
    `<${p}AuthnStatement AuthnInstant="${at}" SessionIndex="_session"><${p}AuthnContext><${p}AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport</${p}AuthnContextClassRef></${p}AuthnContext></${p}AuthnStatement>` +
    `</${p}Assertion>`
  );
}

function createAssertion11(input: AssertionOptions): string {
  const { p, declaration, id, issuer, subject, claims, from, until, at, options } = complete({
    ...input,
    version: '1.1',
  });
  const {
    confirmation = `<${p}SubjectConfirmation><${p}ConfirmationMethod>urn:oasis:names:tc:SAML:1.0:cm:bearer</${p}ConfirmationMethod></${p}SubjectConfirmation>`,
    conditions = `<${p}Conditions NotBefore="${from}" NotOnOrAfter="${until}"><${p}AudienceRestrictionCondition><${p}Audience>${known.realm}</${p}Audience></${p}AudienceRestrictionCondition></${p}Conditions>`,
  } = options;
  const nameIdentifier =
    subject &&
    `<${p}NameIdentifier Format="urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified">${subject}</${p}NameIdentifier>`;
  const subjectElement = `<${p}Subject>${nameIdentifier}${confirmation}</${p}Subject>`;
  const attributes = claims.map(([type, values]) => {
    const slash = type.lastIndexOf('/');
    return `<${p}Attribute AttributeName="${type.slice(slash + 1)}" AttributeNamespace="${type.slice(0, slash)}">${toValues(p, values)}</${p}Attribute>`;
  });
  const {
    attributeStatement = `<${p}AttributeStatement>${subjectElement}${attributes.join('')}</${p}AttributeStatement>`,
  } = options;
  return (
    `<${p}Assertion ${declaration} MajorVersion="1" MinorVersion="1" AssertionID="${id}" Issuer="${issuer}" IssueInstant="${at}">` +
    `${conditions}${attributeStatement}` +
    `<${p}AuthenticationStatement AuthenticationMethod="urn:oasis:names:tc:SAML:1.0:am:password" AuthenticationInstant="${at}">${subjectElement}</${p}AuthenticationStatement>` +
    `</${p}Assertion>`
  );
}

function toValues(p: string, values: string | readonly string[]): string {
  return [values]
    .flat()
    .map((value) => `<${p}AttributeValue>${escapeXml(value)}</${p}AttributeValue>`)
    .join('');
}

export interface AnswerOptions {
  trust?: keyof typeof trustNamespaces;
  prefix?: string;
  isCollection?: boolean;
  /** Elements beside the token. */
  around?: string;
}

/** Puts a token into the answer of WS-Federation. */
export function createAnswer(token: string, options: AnswerOptions = {}): string {
  const { trust = '2005/02', prefix = 't', isCollection = false, around = '' } = options;
  const p = prefix === '' ? '' : `${prefix}:`;
  const declaration = ` xmlns${prefix === '' ? '' : `:${prefix}`}="${trustNamespaces[trust]}"`;
  const response = (declared: string) =>
    `<${p}RequestSecurityTokenResponse${declared} Context="wctx">${around}<${p}RequestedSecurityToken>${token}</${p}RequestedSecurityToken>` +
    `<${p}TokenType>urn:oasis:names:tc:SAML:1.0:assertion</${p}TokenType></${p}RequestSecurityTokenResponse>`;
  return isCollection
    ? `<${p}RequestSecurityTokenResponseCollection${declaration}>${response('')}</${p}RequestSecurityTokenResponseCollection>`
    : response(declaration);
}

export function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

/** An xs:dateTime, as SAML wants it, of seconds since the epoch. */
export function toTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}

export interface EncryptOptions {
  /** Whose key can decrypt it. */
  recipient: Signer;
  contentAlgorithm?: 'aes128-gcm' | 'aes256-gcm' | 'aes256-cbc';
  /** URI; RSA-OAEP with SHA-1 by default, as AD FS has it. */
  keyAlgorithm?: string;
  /** Where the encrypted key is: inside EncryptedData, or after it with a reference, as Shibboleth can do it. */
  keyPlace?: 'inside' | 'beside';
  /** Whether EncryptedAssertion is around it, which SAML 1.1 does not have. */
  isWrapped?: boolean;
}

/** Encrypts any text as an element (XML Encryption 1.1), by means other than the library that decrypts it. */
export function encrypt(xml: string, options: EncryptOptions): string {
  const {
    recipient,
    contentAlgorithm = 'aes256-gcm',
    keyAlgorithm = 'http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p',
    keyPlace = 'inside',
    isWrapped = true,
  } = options;
  const isGcm = contentAlgorithm.endsWith('gcm');
  const [, bits, mode] = /^aes(\d+)-(\w+)$/.exec(contentAlgorithm) ?? [];
  const key = randomBytes(Number(bits) / 8);
  const iv = randomBytes(isGcm ? 12 : 16);
  const cipher = createCipheriv(`aes-${bits}-${mode}`, key, iv);
  const content = Buffer.concat([iv, cipher.update(xml, 'utf8'), cipher.final()]);
  const tag = isGcm ? (cipher as CipherGCM).getAuthTag() : Buffer.alloc(0);
  const padding = keyAlgorithm.endsWith('rsa-1_5')
    ? { padding: constants.RSA_PKCS1_PADDING }
    : { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha1' };
  const encryptedKey = publicEncrypt({ key: recipient.publicKey, ...padding }, key);

  const namespace = 'http://www.w3.org/2001/04/xmlenc#';
  const algorithm = `${isGcm ? 'http://www.w3.org/2009/xmlenc11#' : namespace}${contentAlgorithm}`;
  const keyElement =
    `<e:EncryptedKey xmlns:e="${namespace}" Id="_key"><e:EncryptionMethod Algorithm="${keyAlgorithm}"><DigestMethod xmlns="${signatureNamespace}" Algorithm="${signatureNamespace}sha1"/></e:EncryptionMethod>` +
    `<e:CipherData><e:CipherValue>${encryptedKey.toString('base64')}</e:CipherValue></e:CipherData></e:EncryptedKey>`;
  const reference = `<RetrievalMethod Type="${namespace}EncryptedKey" URI="#_key"/>`;
  const data =
    `<xenc:EncryptedData xmlns:xenc="${namespace}" Type="${namespace}Element"><xenc:EncryptionMethod Algorithm="${algorithm}"/>` +
    `<KeyInfo xmlns="${signatureNamespace}">${keyPlace === 'inside' ? keyElement : reference}</KeyInfo>` +
    `<xenc:CipherData><xenc:CipherValue>${Buffer.concat([content, tag]).toString('base64')}</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData>`;
  const whole = keyPlace === 'inside' ? data : `${data}${keyElement}`;
  return isWrapped
    ? `<EncryptedAssertion xmlns="${samlNamespaces['2.0']}">${whole}</EncryptedAssertion>`
    : whole;
}
