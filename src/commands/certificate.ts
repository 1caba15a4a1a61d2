/** `postern certificate`: a key for `WsFedSigningCertificate` or `OidcSigningCertificate`. */
import { mkdir, unlink, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { makeSelfSignedKey } from '../keys/saml-signer.ts';
import { CommandError, exitCodes } from './exit.ts';
import type { CommandIo } from './io.ts';

const longestDays = 7300;

/** Writes both files, or none where one of them is there already. */
export async function makeCertificate(
  path: string,
  { commonName, days }: { commonName: string; days: string },
  io: Pick<CommandIo, 'stdout' | 'workingDirectory'>,
): Promise<void> {
  const count = Number(days);
  if (!/^\d+$/.test(days) || count < 1 || count > longestDays) {
    throw new CommandError(exitCodes.usage, `--days must be a number from 1 to ${longestDays}`);
  }
  if (commonName.trim() === '' || commonName.length > 64) {
    throw new CommandError(exitCodes.usage, '--common-name must have 1 to 64 characters');
  }
  const { privateKey, certificate } = await makeSelfSignedKey({ commonName, days: count });
  const lines = certificate.replace(/(.{64})(?=.)/g, '$1\n');
  const base = resolve(io.workingDirectory, path);
  const [keyFile, certificateFile] = [`${base}.key`, `${base}.crt`];
  try {
    await mkdir(dirname(base), { recursive: true });
    // Never over a file that is there: it may be the key that relying parties trust.
    await writeFile(keyFile, privateKey, { flag: 'wx', mode: 0o600 });
    try {
      const pem = `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
      await writeFile(certificateFile, pem, { flag: 'wx' });
    } catch (err) {
      await unlink(keyFile);
      throw err;
    }
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new CommandError(
      exitCodes.cannotCreate,
      code === 'EEXIST' ? `${path}.key or ${path}.crt is there already` : message,
      { cause },
    );
  }
  io.stdout.write(`wrote ${path}.key and ${path}.crt\n`);
}
