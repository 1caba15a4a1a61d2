/** Rows of other people's tokens, as many as asked for, of the size that they have. */
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { openPostgres } from './subjects.ts';

const payload =
  '{"iat":1764000000,"scope":"openid profile intelligence_web_api","aud":"http://localhost/resources","gty":"authorization_code","extra":{"tokenId":"0123456789abcdef0123456789abcdef"}}';

/** Fills the token table; a third are refresh tokens, each with an access token and a grant. */
export async function fillRows(
  { folder, schema }: { folder: string; schema: string },
  database: 'postgresql' | 'sqlite',
  rows: number,
): Promise<void> {
  const from = Math.floor(Date.now() / 1000) + 86_400;
  const columns = '"id", "model", "payload", "grantId", "accountId", "clientId", "expiresAt", "version"';
  const facts = `case when i % 3 = 0 then 'RefreshToken' when i % 3 = 1 then 'AccessToken' else 'Grant' end, '${payload}'`;
  if (database === 'sqlite') {
    const db = new DatabaseSync(join(folder, 'data/postern.sqlite'));
    // The keys are hashes: with less of the tree in memory nearly each row would write several pages anew.
    db.exec('pragma cache_size = -6000000');
    db.exec(`with recursive n(i) as (select 1 union all select i + 1 from n where i < ${rows})
      insert into OidcToken (${columns}) select substr(hex(randomblob(22)), 1, 43), ${facts},
        case when i % 3 < 2 then substr(hex(i / 3 * 2654435761 % 4294967296) || hex(i / 3 * 40503) || '${'0'.repeat(43)}', 1, 43) end,
        'user-' || i % 20000, 'client-' || i % 20, ${from} + i % 2592000, 0 from n`);
    db.exec('analyze; pragma wal_checkpoint(truncate)');
    db.close();
    return;
  }
  await using db = await openPostgres(schema);
  const hash = (text: string) =>
    `translate(rtrim(encode(sha256((${text})::bytea), 'base64'), '='), '+/', '-_')`;
  await db.knex.raw(
    `insert into "${schema}"."OidcToken" (${columns}) select ${hash("'row ' || i")}, ${facts},
       case when i % 3 < 2 then ${hash("'grant ' || i / 3")} end,
       'user-' || i % 20000, 'client-' || i % 20, ${from} + i % 2592000, 0
     from generate_series(1::bigint, ${rows}::bigint) i`,
  );
  await db.knex.raw(`analyze "${schema}"."OidcToken"`);
}
