/** The two functions of xml-encryption that we use; it ships no types. */
declare module 'xml-encryption' {
  interface DecryptOptions {
    /** A private key, PEM. */
    key: string;
    /** False admits AES-CBC, and with it Triple DES and RSA 1.5. Default true. */
    disallowDecryptionWithInsecureAlgorithm?: boolean;
    warnInsecureAlgorithm?: boolean;
  }

  /** Calls back before it returns. */
  export function decrypt(
    xml: string,
    options: DecryptOptions,
    callback: (err: Error | null, text?: string) => void,
  ): void;

  interface EncryptOptions {
    /** The recipient's public key or certificate, PEM. */
    rsa_pub: string;
    /** The recipient's certificate, PEM. */
    pem: string;
    encryptionAlgorithm: string;
    keyEncryptionAlgorithm: string;
  }

  export function encrypt(
    content: string,
    options: EncryptOptions,
    callback: (err: Error | null, encrypted: string) => void,
  ): void;
}
