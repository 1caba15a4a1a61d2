import assert from 'node:assert/strict';
import test from 'node:test';
import type { ServerError } from '../../src/errors.ts';
import { parseFederationMetadata } from '../../src/federation/ws-metadata.ts';
import { createSigner } from '../support/saml-issuer.ts';

const first = createSigner().certificate;
const second = createSigner('ec').certificate;
const entityId = 'http://adfs.example.com/adfs/services/trust';
const endpoint = 'https://adfs.example.com/adfs/ls/';

const key = (certificate: string, use?: string) =>
  `<KeyDescriptor${use === undefined ? '' : ` use="${use}"`}><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>${certificate}</X509Certificate></X509Data></KeyInfo></KeyDescriptor>`;
const passive = (address: string, prefix = 'fed') =>
  `<${prefix}:PassiveRequestorEndpoint><EndpointReference xmlns="http://www.w3.org/2005/08/addressing"><Address>${address}</Address></EndpointReference></${prefix}:PassiveRequestorEndpoint>`;
const role = (content: string, type = 'fed:SecurityTokenServiceType', prefix = 'fed') =>
  `<RoleDescriptor xsi:type="${type}" protocolSupportEnumeration="http://docs.oasis-open.org/wsfed/federation/200706" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:${prefix}="http://docs.oasis-open.org/wsfed/federation/200706">${content}</RoleDescriptor>`;
const entity = (content: string, attributes = `entityID="${entityId}"`) =>
  `<EntityDescriptor ID="_1" ${attributes} xmlns="urn:oasis:names:tc:SAML:2.0:metadata">${content}</EntityDescriptor>`;

/** As AD FS has it: other roles before and after, each with keys and endpoints of its own. */
const adfs = entity(
  role(key(second, 'encryption') + passive('https://adfs.example.com/app/'), 'fed:ApplicationServiceType') +
    role(
      key(first, 'signing') +
        '<fed:TokenTypesOffered><fed:TokenType Uri="urn:oasis:names:tc:SAML:1.0:assertion"/></fed:TokenTypesOffered>' +
        `<fed:SecurityTokenServiceEndpoint><EndpointReference xmlns="http://www.w3.org/2005/08/addressing"><Address>https://adfs.example.com/adfs/services/trust/2005/certificatemixed</Address></EndpointReference></fed:SecurityTokenServiceEndpoint>` +
        passive(endpoint),
    ) +
    `<SPSSODescriptor>${key(second, 'signing')}</SPSSODescriptor><IDPSSODescriptor>${key(second, 'signing')}</IDPSSODescriptor>`,
);

const honest: readonly { name: string; xml: string; certificates?: readonly string[] }[] = [
  { name: 'AD FS: several roles, one of a token service', xml: adfs },
  {
    name: 'a declaration and a byte order mark',
    xml: `\ufeff<?xml version="1.0" encoding="utf-8"?>\r\n${adfs}`,
  },
  {
    name: 'a prefix of its own for every namespace',
    xml: entity('')
      .replace('xmlns=', 'xmlns:md=')
      .replace('<EntityDescriptor', '<md:EntityDescriptor')
      .replace('></EntityDescriptor>', () => {
        const content = role(key(first) + passive(endpoint, 'f'), 'f:SecurityTokenServiceType', 'f');
        return `>${content.replaceAll(/<(\/?)(RoleDescriptor|KeyDescriptor)/g, '<$1md:$2')}</md:EntityDescriptor>`;
      }),
  },
  {
    name: 'the type in the default namespace of the role',
    xml: entity(
      `<m:RoleDescriptor xmlns:m="urn:oasis:names:tc:SAML:2.0:metadata" xmlns="http://docs.oasis-open.org/wsfed/federation/200706" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="SecurityTokenServiceType">${key(first).replaceAll('KeyDescriptor', 'm:KeyDescriptor')}${passive(endpoint).replaceAll('fed:', '')}</m:RoleDescriptor>`,
    ),
  },
  {
    name: 'two keys while one is being replaced, and one for encryption',
    xml: entity(
      role(
        key(first, 'signing') +
          key(second) +
          key(createSigner().certificate, 'encryption') +
          passive(endpoint),
      ),
    ),
    certificates: [first, second],
  },
  {
    name: 'the same key twice, once in lines',
    xml: entity(
      role(key(first, 'signing') + key(first.replace(/.{64}/g, '\n $&'), 'signing') + passive(endpoint)),
    ),
  },
  {
    name: 'the first of two endpoints',
    xml: entity(role(key(first) + passive(endpoint) + passive('https://other.example/'))),
  },
  { name: 'white space around the address', xml: entity(role(key(first) + passive(`\n  ${endpoint}\n`))) },
  {
    name: 'comments',
    xml: `<!-- kept by hand -->\n${entity(role(`<!-- the key -->${key(first)}${passive(endpoint)}<!-- > -->`))}`,
  },
  {
    name: 'as many claim types as AD FS publishes',
    xml: entity(
      role(
        key(first) +
          `<fed:ClaimTypesOffered>${'<auth:ClaimType Uri="http://schemas.xmlsoap.org/claims/Group" Optional="true" xmlns:auth="http://docs.oasis-open.org/wsfed/authorization/200706"><auth:DisplayName>Group</auth:DisplayName><auth:Description>A group that the user is a member of</auth:Description></auth:ClaimType>'.repeat(400)}</fed:ClaimTypesOffered>` +
          passive(endpoint),
      ),
    ),
  },
];

for (const { name, xml, certificates = [first] } of honest) {
  test(`metadata is read: ${name}`, () => {
    assert.deepEqual(parseFederationMetadata(xml), { entityId, certificates, passiveEndpoint: endpoint });
  });
}

const unusable: readonly { name: string; xml: string; message: RegExp }[] = [
  { name: 'nothing', xml: '', message: /not well-formed|no root/ },
  {
    name: 'a page',
    xml: '<html><body>Sign in</body></html>',
    message: /begins with <html> where federation metadata begins with <EntityDescriptor>/,
  },
  { name: 'a page with a document type', xml: '<!DOCTYPE html><html></html>', message: /document type/ },
  { name: 'JSON', xml: '{"issuer":"https://idp.example"}', message: /not well-formed/ },
  {
    name: 'an entity that is declared and used',
    xml: `<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>${entity('&e;')}`,
    message: /document type/,
  },
  {
    name: 'a processing instruction',
    xml: `<?xml-stylesheet href="x"?>${adfs}`,
    message: /processing instruction/,
  },
  { name: 'a comment that does not end', xml: `<!-- ${adfs}`, message: /comment in it does not end/ },
  {
    name: 'more than a mebibyte',
    xml: `${adfs}${' '.repeat(1024 * 1024)}`,
    message: /at most 1048576 are read/,
  },
  { name: 'no entityID', xml: entity(role(key(first) + passive(endpoint)), ''), message: /no entityID/ },
  {
    name: 'Entra ID for all tenants together',
    xml: adfs.replace(entityId, 'https://sts.windows.net/{tenantid}/'),
    message: /use the address that names the tenant/,
  },
  {
    name: 'SAML alone',
    xml: entity(`<IDPSSODescriptor>${key(first)}</IDPSSODescriptor>`),
    message: /no identity provider of WS-Federation/,
  },
  {
    name: 'an application alone',
    xml: entity(role(key(first) + passive(endpoint), 'fed:ApplicationServiceType')),
    message: /no identity provider of WS-Federation/,
  },
  {
    name: 'a type of the right name in another namespace',
    xml: entity(
      role(key(first) + passive(endpoint), 'x:SecurityTokenServiceType').replace(
        '<RoleDescriptor',
        '<RoleDescriptor xmlns:x="urn:x"',
      ),
    ),
    message: /no identity provider of WS-Federation/,
  },
  { name: 'no key', xml: entity(role(passive(endpoint))), message: /no signing certificate/ },
  {
    name: 'a key for encryption alone',
    xml: entity(role(key(first, 'encryption') + passive(endpoint))),
    message: /no signing certificate/,
  },
  {
    name: 'a certificate that is none',
    xml: entity(role(key('AAAA') + passive(endpoint))),
    message: /certificates cannot be read/,
  },
  { name: 'no passive endpoint', xml: entity(role(key(first))), message: /PassiveRequestorEndpoint/ },
  {
    name: 'an address that runs a script',
    xml: entity(role(key(first) + passive('javascript:alert(1)'))),
    message: /no http or https URL/,
  },
  {
    name: 'a relative address',
    xml: entity(role(key(first) + passive('/adfs/ls/'))),
    message: /no http or https URL/,
  },
];

for (const { name, xml, message } of unusable) {
  test(`metadata is refused in words for the administrator: ${name}`, () => {
    assert.throws(
      () => parseFederationMetadata(xml),
      (err: ServerError) => err.code === 'ERR_METADATA_INVALID' && message.test(err.message),
    );
  });
}
