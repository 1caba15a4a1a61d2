/**
 * Which hosts and addresses Postern may call. What identity providers say of themselves (their metadata, their
 * redirects) names most of the URLs that we open, so a URL may not lead into the network that we stand in
 * unless the operator has said that this host may be called.
 */
import { lookup } from 'node:dns';
import { BlockList, isIP, isIPv4, type LookupFunction } from 'node:net';

/** A destination that may not be called. `message` is for the operator. */
export class DestinationRefusedError extends Error {
  override readonly name = 'DestinationRefusedError';
}

/** Names and addresses in the form in which the operator lists them. */
export interface HostPatterns {
  hasName(hostname: string): boolean;
  hasAddress(address: string): boolean;
}

/** IANA's special-purpose registries: nothing here is a public server. RFC 6890 and its updates. */
const specialIpv4 = toBlockList('ipv4', [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10', // carrier-grade NAT, RFC 6598
  '127.0.0.0/8',
  '169.254.0.0/16', // link-local, and with it the metadata service of the clouds
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3', // multicast, reserved and broadcast
]);
const specialIpv6 = toBlockList('ipv6', [
  // All but 2000::/3, the only global unicast space: loopback, unique local, link-local, multicast, ...
  '::/3',
  '4000::/2',
  '8000::/1',
  '2001::/23', // protocol assignments, Teredo among them
  '2001:db8::/32',
  '2002::/16', // 6to4, which holds an IPv4 address
  '3fff::/20',
]);

function toBlockList(family: 'ipv4' | 'ipv6', networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address = '', prefix] = network.split('/');
    list.addSubnet(address, Number(prefix), family);
  }
  return list;
}

/** The two prefixes under which an IPv6 address is an IPv4 address: mapped (RFC 4291), and NAT64 (RFC 6052). */
const embeddingIpv4 = ['::ffff:', '64:ff9b::'];

/** True where the address belongs to a public server as far as the address can tell. */
export function isPublicAddress(address: string): boolean {
  const ipv4 = isIPv4(address) ? address : toEmbeddedIpv4(address);
  return ipv4 === undefined ? !specialIpv6.check(address, 'ipv6') : !specialIpv4.check(ipv4, 'ipv4');
}

function toEmbeddedIpv4(address: string): string | undefined {
  // The URL parser has one spelling for each address: compressed, lower case, in hexadecimal.
  const canonical = new URL(`http://[${address.split('%')[0]}]/`).hostname.slice(1, -1);
  const prefix = embeddingIpv4.find((candidate) => canonical.startsWith(candidate));
  const groups = prefix === undefined ? [] : canonical.slice(prefix.length).split(':');
  if (prefix === undefined || groups.length > 2) return undefined;
  const value = groups.reduce((sum, group) => sum * 0x10000 + Number.parseInt(group || '0', 16), 0);
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.');
}

/**
 * Reads a list of hosts as operators write them: `sso.example.com`, `*.example.com` (its subdomains),
 * `10.1.2.3` or `10.0.0.0/8`.
 */
export function parseHostPatterns(patterns: readonly string[]): HostPatterns {
  const names = new Set<string>();
  const suffixes: string[] = [];
  const networks = new BlockList();
  for (const pattern of patterns.map((text) => text.trim().toLowerCase())) {
    const [network = '', prefix] = pattern.replace(/^\[(.*)\]$/, '$1').split('/');
    const version = isIP(network);
    if (version !== 0) {
      networks.addSubnet(network, Number(prefix ?? (version === 4 ? 32 : 128)), `ipv${version as 4 | 6}`);
    } else if (pattern.startsWith('*.')) {
      suffixes.push(pattern.slice(1));
    } else {
      names.add(withoutFinalDot(pattern));
    }
  }
  const hasNetworks = networks.rules.length > 0;
  return {
    hasName(hostname) {
      const name = withoutFinalDot(hostname.toLowerCase());
      return names.has(name) || suffixes.some((suffix) => name.endsWith(suffix));
    },
    hasAddress: (address) =>
      // Asked for every request, and mostly where there are none.
      hasNetworks && isIP(address) !== 0 && networks.check(address, isIPv4(address) ? 'ipv4' : 'ipv6'),
  };
}

/** True for this machine under any of its names: what a proxy must not be asked for. */
export function isLoopbackHost(hostname: string): boolean {
  const name = withoutFinalDot(hostname.toLowerCase());
  return (
    name === 'localhost' || name.endsWith('.localhost') || name === '::1' || /^127(\.\d+){3}$/.test(name)
  );
}

/** The host of a URL without the brackets of an IPv6 address. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

/**
 * Refuses a URL whose host is itself an address that may not be called: such a host is never looked up.
 *
 * @throws {DestinationRefusedError}
 */
export function checkLiteralAddress(hostname: string, allowed: HostPatterns): void {
  if (isIP(hostname) === 0 || isPublicAddress(hostname) || allowed.hasAddress(hostname)) return;
  throw new DestinationRefusedError(
    `${hostname} is a private or special address; if it is meant, add it to OutgoingAllowedHosts`,
  );
}

/**
 * A `lookup` for sockets that gives only addresses that may be called. It answers the very connection that is
 * about to be made, so a name that changes its address between a check and the connection gains nothing.
 */
export function createGuardedLookup(allowed: HostPatterns): LookupFunction {
  return function guardedLookup(hostname, options, callback) {
    lookup(hostname, { ...options, all: true }, (err, found) => {
      if (err) return callback(err, '', 0);
      const usable = found.filter(({ address }) => isPublicAddress(address) || allowed.hasAddress(address));
      const [first] = usable;
      if (first === undefined) {
        const message =
          `${hostname} has the address ${found.map(({ address }) => address).join(', ')}, which is private or ` +
          `special; if it is meant, add ${hostname} to OutgoingAllowedHosts`;
        return callback(new DestinationRefusedError(message), '', 0);
      }
      if (options.all) callback(null, usable);
      else callback(null, first.address, first.family);
    });
  };
}

function withoutFinalDot(name: string): string {
  return name.endsWith('.') ? name.slice(0, -1) : name;
}
