/** Work that waits for its turn, so that many who come at once are served one after the other. */

export type Turns = <T>(work: () => Promise<T>) => Promise<T>;

/** Has so many be in hand at once; who comes later waits, in the order of coming. */
export function takeTurns(most: number): Turns {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (work) => {
    if (running < most) running += 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  };
}

/** The same for each key by itself; nothing is kept of keys that nobody waits for. */
export function takeTurnsByKey(most: number): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  const known = new Map<string, { turns: Turns; users: number }>();
  return async (key, work) => {
    const found = known.get(key) ?? { turns: takeTurns(most), users: 0 };
    known.set(key, found);
    found.users += 1;
    try {
      return await found.turns(work);
    } finally {
      found.users -= 1;
      if (found.users === 0) known.delete(key);
    }
  };
}
