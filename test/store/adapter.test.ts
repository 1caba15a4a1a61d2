import { openTarget, testDatabases } from '../support/databases.ts';
import { adapterContract } from './adapter-contract.ts';

for (const { name, createTarget } of testDatabases) {
  adapterContract(name, async (t) => openTarget(t, await createTarget(t)));
}
