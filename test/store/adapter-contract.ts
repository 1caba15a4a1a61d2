/**
 * What any database must promise the engine, as one suite: a function that is handed a way to open a database.
 * A delay before each statement opens the races that a fast database hides.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Adapter, errors } from 'oidc-provider';
import { createLogger } from '../../src/log.ts';
import { createMetrics } from '../../src/metrics.ts';
import { deleteExpired, startCleanup } from '../../src/store/cleanup.ts';
import type { Database } from '../../src/store/database.ts';
import { createTokenAdapter } from '../../src/store/token-adapter.ts';
import { bareRow, createTokens, hashValue } from '../../src/store/tokens.ts';

export type OpenDatabase = (t: TestContext) => Promise<Database>;

export function adapterContract(name: string, openDatabase: OpenDatabase): void {
  // No suite: one whose tests are left out counts as failed.
  const check = (promise: string, run: (t: TestContext) => Promise<void>) => test(`${name}: ${promise}`, run);
  check('a stored token is found by its value, with its value and end put back', async (t) => {
    const { adapter } = await open(t);
    const tokens = adapter('AccessToken');
    await tokens.upsert(
      'value-1',
      { jti: 'value-1', kind: 'AccessToken', clientId: 'mvc', scope: 'openid' },
      60,
    );

    const found = await tokens.find('value-1');

    assert.deepEqual(found, {
      clientId: 'mvc',
      scope: 'openid',
      jti: 'value-1',
      kind: 'AccessToken',
      exp: 1060,
    });
    assert.equal(await tokens.find('VALUE-1'), undefined);
    assert.equal(await adapter('RefreshToken').find('value-1'), undefined);
  });

  check('no row holds the value that it is found by', async (t) => {
    const { adapter, db } = await open(t);
    const value = randomBytes(32).toString('base64url');
    const models = [
      'AccessToken',
      'RefreshToken',
      'AuthorizationCode',
      'Grant',
      'Session',
      'ClientCredentials',
    ];
    for (const model of models) {
      const own = `${value}-${model}`;
      await adapter(model).upsert(own, { jti: own, kind: model, clientId: 'mvc', uid: 'u' }, 60);
    }
    await adapter('Interaction').upsert(
      `${value}-i`,
      {
        jti: `${value}-i`,
        kind: 'Interaction',
        returnTo: `http://localhost/connect/authorize/${value}-i`,
        session: { uid: 'u', accountId: 'alice', cookie: `${value}-Session` },
        params: { client_id: 'mvc' },
      },
      60,
    );

    const rows = await db.knex('OidcToken').select();

    assert.equal(rows.length, models.length + 1);
    assert.ok(!JSON.stringify(rows).includes(value), JSON.stringify(rows));
    const interaction = await adapter('Interaction').find(`${value}-i`);
    assert.equal(interaction?.returnTo, `http://localhost/connect/authorize/${value}-i`);
  });

  check('an expired row is dead before it is removed', async (t) => {
    const { adapter, clock } = await open(t);
    const tokens = adapter('RefreshToken');
    await tokens.upsert('r', { jti: 'r', clientId: 'mvc' }, 60);
    clock.time += 59;
    assert.ok(await tokens.find('r'));
    clock.time += 1;
    assert.equal(await tokens.find('r'), undefined);
  });

  check('of ten simultaneous redemptions of one code one wins and nine end its grant', async (t) => {
    const { adapter } = await open(t, { delayMs: 15 });
    const codes = adapter('AuthorizationCode');
    await adapter('Grant').upsert('g', { jti: 'g', clientId: 'mvc' }, 60);
    await codes.upsert('c', { jti: 'c', clientId: 'mvc', grantId: 'g' }, 60);

    const results = await Promise.allSettled(Array.from({ length: 10 }, () => findAndConsume(codes, 'c')));

    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const result of results) {
      if (result.status === 'rejected') assert.ok(result.reason instanceof errors.InvalidGrant);
    }
    assert.equal(await adapter('Grant').find('g'), undefined);
  });

  check(
    'without a grace, ten simultaneous uses of a rotating refresh token make one successor',
    async (t) => {
      const { adapter, db } = await open(t, { delayMs: 15, graceSeconds: 0 });
      const refreshTokens = adapter('RefreshToken');
      await refreshTokens.upsert('r1', { jti: 'r1', clientId: 'mvc', grantId: 'g' }, 60);

      const results = await Promise.allSettled(
        Array.from({ length: 10 }, async () => {
          await findAndConsume(refreshTokens, 'r1');
          await refreshTokens.upsert('r2', { jti: 'r2', clientId: 'mvc', grantId: 'g' }, 60);
        }),
      );

      assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
      assert.equal((await db.knex('OidcToken').where({ model: 'RefreshToken' })).length, 2);
    },
  );

  check(
    'within the grace a repeated refresh token yields the same successor, and after it is consumed',
    async (t) => {
      const { adapter, clock, db } = await open(t, { delayMs: 5, graceSeconds: 30 });
      const refreshTokens = adapter('RefreshToken');
      await refreshTokens.upsert('r1', { jti: 'r1', clientId: 'mvc', grantId: 'g' }, 600);

      await Promise.all(
        Array.from({ length: 10 }, async () => {
          await findAndConsume(refreshTokens, 'r1');
          await refreshTokens.upsert('r2', { jti: 'r2', clientId: 'mvc', grantId: 'g' }, 600);
        }),
      );
      assert.equal((await db.knex('OidcToken').where({ model: 'RefreshToken' })).length, 2);

      clock.time += 29;
      assert.equal((await refreshTokens.find('r1'))?.consumed, undefined);
      clock.time += 1;
      assert.equal((await refreshTokens.find('r1'))?.consumed, 1000);
      await assert.rejects(async () => refreshTokens.consume('r1'), errors.InvalidGrant);
    },
  );

  check(
    'a repeat within the grace hands out a successor that was used, until its own grace is over',
    async (t) => {
      const { adapter, clock } = await open(t, { graceSeconds: 30 });
      const refreshTokens = adapter('RefreshToken');
      await refreshTokens.upsert('r1', { jti: 'r1', clientId: 'mvc' }, 600);
      await refreshTokens.consume('r1');
      await refreshTokens.upsert('r2', { jti: 'r2', clientId: 'mvc' }, 600);
      await refreshTokens.consume('r2');

      await refreshTokens.consume('r1');
      await refreshTokens.upsert('r2', { jti: 'r2', clientId: 'mvc' }, 600);
      clock.time += 31;
      await assert.rejects(
        async () => refreshTokens.upsert('r2', { jti: 'r2', clientId: 'mvc' }, 600),
        errors.InvalidGrant,
      );
    },
  );

  check('a finished interaction is gone for the engine and still tells its client', async (t) => {
    const { adapter, tokens } = await open(t);
    const interactions = adapter('Interaction');
    await interactions.upsert('i', { jti: 'i', params: { client_id: 'mvc' }, returnTo: 'x/i' }, 60);
    await interactions.upsert(
      'i',
      { jti: 'i', params: { client_id: 'mvc' }, returnTo: 'x/i', result: {} },
      60,
    );
    assert.deepEqual((await interactions.find('i'))?.result, {});

    await interactions.destroy('i');

    assert.equal(await interactions.find('i'), undefined);
    assert.equal((await tokens.find('Interaction', 'i'))?.clientId, 'mvc');
  });

  check('revoking a grant ends every token under it, and no other', async (t) => {
    const { adapter, tokens } = await open(t);
    await adapter('Grant').upsert('g1', { jti: 'g1', accountId: 'alice', clientId: 'mvc' }, 600);
    await adapter('Grant').upsert('g2', { jti: 'g2', accountId: 'alice', clientId: 'mvc' }, 600);
    await adapter('RefreshToken').upsert('r1', { jti: 'r1', grantId: 'g1', clientId: 'mvc' }, 600);
    await adapter('AccessToken').upsert('a1', { jti: 'a1', grantId: 'g1', clientId: 'mvc' }, 600);
    await adapter('RefreshToken').upsert('r2', { jti: 'r2', grantId: 'g2', clientId: 'mvc' }, 600);

    await tokens.revokeGrant('g1');

    assert.equal(await adapter('Grant').find('g1'), undefined);
    assert.equal(await adapter('RefreshToken').find('r1'), undefined);
    assert.equal(await adapter('AccessToken').find('a1'), undefined);
    assert.ok(await adapter('RefreshToken').find('r2'));
  });

  check('the engine ends the tokens of one model of a grant', async (t) => {
    const { adapter } = await open(t);
    await adapter('RefreshToken').upsert('r', { jti: 'r', grantId: 'g', clientId: 'mvc' }, 600);
    await adapter('AccessToken').upsert('a', { jti: 'a', grantId: 'g', clientId: 'mvc' }, 600);
    await adapter('RefreshToken').revokeByGrantId('g');
    assert.equal(await adapter('RefreshToken').find('r'), undefined);
    assert.ok(await adapter('AccessToken').find('a'));
  });

  check(
    'an account that is revoked loses sessions, interactions and tokens, and others keep theirs',
    async (t) => {
      const { adapter, tokens } = await open(t);
      await adapter('Session').upsert('s', { jti: 's', uid: 'u', accountId: 'alice' }, 600);
      await adapter('RefreshToken').upsert('r', { jti: 'r', accountId: 'alice', clientId: 'mvc' }, 600);
      await adapter('RefreshToken').upsert('b', { jti: 'b', accountId: 'bob', clientId: 'mvc' }, 600);
      await adapter('Interaction').upsert(
        'i',
        {
          jti: 'i',
          params: { client_id: 'mvc' },
          returnTo: 'x/i',
          session: { uid: 'u', accountId: 'alice' },
        },
        600,
      );
      await tokens.rememberConsent('alice', 'mvc', ['openid']);

      assert.equal(await tokens.revokeAccount('alice'), 3);
      assert.deepEqual(
        await tokens.findConsent('alice', 'mvc'),
        ['openid'],
        'what was allowed stays allowed',
      );
      await tokens.forgetConsents('alice');

      assert.equal(await adapter('Session').find('s'), undefined);
      assert.deepEqual(await tokens.findConsent('alice', 'mvc'), []);
      assert.ok(await adapter('RefreshToken').find('b'));
    },
  );

  check('a consent is remembered and the later one replaces it', async (t) => {
    const { tokens, clock } = await open(t);
    await tokens.rememberConsent('alice', 'mvc', ['openid']);
    await tokens.rememberConsent('alice', 'mvc', ['openid', 'profile']);
    clock.time += 10 * 365 * 86_400;
    assert.deepEqual(await tokens.findConsent('alice', 'mvc'), ['openid', 'profile']);
  });

  check(
    'introspection learns of a token and its grant, and of a revoked JWT, in one statement each',
    async (t) => {
      const { adapter, tokens, count } = await open(t);
      await adapter('Grant').upsert('g', { jti: 'g', clientId: 'mvc' }, 600);
      await adapter('AccessToken').upsert('a', { jti: 'a', grantId: 'g', clientId: 'mvc' }, 600);
      await adapter('ClientCredentials').upsert('c', { jti: 'c', clientId: 'batch' }, 600);
      const before = count();

      assert.equal((await tokens.findWithGrant('a')).grantIsThere, true);
      assert.equal((await tokens.findWithGrant('c')).grantIsThere, true);
      assert.deepEqual(await tokens.findRevocation('x.y.z', 'g'), { isRevoked: false, grantIsThere: true });
      assert.equal(count() - before, 3);

      await tokens.revokeJwt('x.y.z', { clientId: 'mvc', expiresAt: 1600 });
      await tokens.revokeJwt('x.y.z', { clientId: 'mvc', expiresAt: 1600 });
      assert.deepEqual(await tokens.findRevocation('x.y.z', 'g'), { isRevoked: true, grantIsThere: true });
      await tokens.destroy('Grant', 'g');
      assert.equal((await tokens.findWithGrant('a')).grantIsThere, false);
    },
  );

  check('of two sessions with one uid the one that lives longer is found', async (t) => {
    const { adapter } = await open(t);
    await adapter('Session').upsert('s1', { jti: 's1', uid: 'u', accountId: 'alice' }, 100);
    await adapter('Session').upsert('s2', { jti: 's2', uid: 'u', accountId: 'bob' }, 200);
    assert.equal((await adapter('Session').findByUid('u'))?.accountId, 'bob');
  });

  check('cleanup removes what has ended, in batches, and keeps what lives', async (t) => {
    const { adapter, db, clock } = await open(t);
    for (let index = 0; index < 1203; index += 1) {
      await db.knex('OidcToken').insert({
        id: hashValue(`old-${index}`),
        model: 'AccessToken',
        payload: '{}',
        expiresAt: 900 + (index % 100),
        version: 0,
      });
    }
    await adapter('AccessToken').upsert('live', { jti: 'live', clientId: 'mvc' }, 1);

    assert.equal(await deleteExpired(db, clock.time), 1203);
    assert.equal(await deleteExpired(db, clock.time), 0);
    assert.ok(await adapter('AccessToken').find('live'));
  });

  check('cleanup lets other work go on between its batches', async (t) => {
    const { db, clock } = await open(t);
    for (let batch = 0; batch < 8; batch += 1) {
      await db.knex.batchInsert(
        'OidcToken',
        Array.from({ length: 500 }, (_, index) => ({
          id: hashValue(`old-${batch}-${index}`),
          model: 'AccessToken',
          payload: '{}',
          expiresAt: 900,
          version: 0,
        })),
        50,
      );
    }
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 1);
    assert.equal(await deleteExpired(db, clock.time), 4000);
    clearInterval(timer);
    assert.ok(turns >= 4, `${turns} turns`);
  });

  check('of many that want a lease one has it, until it ends or is not renewed', async (t) => {
    const { tokens, clock } = await open(t, { delayMs: 3 });
    const holders = Array.from({ length: 10 }, (_, index) => `holder-${index}`);
    const tryAll = async () => {
      const had = await Promise.all(
        holders.map((holder) => tokens.lease('x', { holder, expiresAt: clock.time + 60 })),
      );
      return holders.filter((_, index) => had[index]);
    };
    const first = await tryAll();
    assert.equal(first.length, 1);
    clock.time += 59;
    assert.deepEqual(await tryAll(), first, 'renewed');
    clock.time += 59;
    assert.equal(await tokens.lease('x', { holder: 'holder-0', expiresAt: 0 }), first[0] === 'holder-0');
    clock.time += 61;
    const other = { holder: 'somebody-else', expiresAt: clock.time + 60 };
    assert.equal(await tokens.lease('x', other), true, 'taken over');
    assert.deepEqual(await tryAll(), []);
    assert.equal(await tokens.lease('y', { holder: 'z', expiresAt: clock.time + 1 }), true);
  });

  check('cleanup is done by one of several servers, and goes on when that one is gone', async (t) => {
    const { db, tokens, clock } = await open(t);
    const log = createLogger({ level: 'silent', format: 'json' });
    const metrics = await createMetrics({ isRead: false });
    const start = () =>
      startCleanup({ db, log, metrics, now: () => clock.time, tokens }, { intervalSeconds: 0.05 });
    const addExpired = () =>
      tokens.insert({
        ...bareRow,
        id: hashValue(randomBytes(8).toString('hex')),
        model: 'AccessToken',
        expiresAt: 1,
      });
    const untilGone = async () => {
      for (let attempt = 0; attempt < 100; attempt += 1) {
        if ((await db.knex('OidcToken').where('model', 'AccessToken')).length === 0) return;
        await sleep(50);
      }
      assert.fail('it is still there');
    };
    await addExpired();
    await using first = start();
    await untilGone();
    await using _second = start();
    await addExpired();
    await untilGone();
    await first[Symbol.asyncDispose]();
    await addExpired();
    await sleep(300);
    assert.equal(
      (await db.knex('OidcToken').where('model', 'AccessToken')).length,
      1,
      'the lease still holds',
    );
    clock.time += 120;
    await untilGone();
  });

  check('a second process that migrates finds nothing to do', async (t) => {
    const { db } = await open(t);
    assert.deepEqual(await db.migrate(), []);
    assert.deepEqual(await db.pendingMigrations(), []);
  });

  async function open(t: TestContext, { delayMs = 0, graceSeconds = 0 } = {}) {
    const clock = { time: 1000 };
    const now = () => clock.time;
    const db = await openDatabase(t);
    await db.migrate();
    let statements = 0;
    db.knex.on('query', () => {
      statements += 1;
    });
    const delayed: Pick<Database, 'prepare'> = {
      prepare(build) {
        const statement = db.prepare(build);
        return async (values) => {
          if (delayMs > 0) await sleep(Math.random() * delayMs);
          const result = await statement(values);
          if (delayMs > 0) await sleep(Math.random() * delayMs);
          return result;
        };
      },
    };
    const tokens = createTokens({ db: delayed, now });
    const adapter = createTokenAdapter({ tokens, now, refreshGraceSeconds: () => graceSeconds });
    return { adapter, tokens, db, clock, count: () => statements };
  }
}

async function findAndConsume(adapter: Adapter, id: string): Promise<void> {
  const found = await adapter.find(id);
  if (!found || found.consumed !== undefined) throw new errors.InvalidGrant('already used');
  await adapter.consume(id);
}
