/** What we use of node-forge, which ships no types: it opens PFX files. */
declare module 'node-forge' {
  interface Bag {
    readonly key?: object | null;
    readonly cert?: object | null;
    /** Where it is of a kind that the library does not know. */
    readonly asn1?: object;
  }
  const forge: {
    readonly asn1: {
      fromDer(bytes: string): object;
      toDer(value: object): { getBytes(): string };
    };
    readonly pkcs12: {
      pkcs12FromAsn1(
        value: object,
        password: string,
      ): { getBags(filter: { bagType: string }): Readonly<Record<string, readonly Bag[] | undefined>> };
    };
    readonly pki: {
      readonly oids: {
        readonly certBag: string;
        readonly keyBag: string;
        readonly pkcs8ShroudedKeyBag: string;
      };
      privateKeyToAsn1(key: object): object;
      certificateToAsn1(certificate: object): object;
    };
  };
  export default forge;
}
