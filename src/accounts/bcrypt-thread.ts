/** A thread that compares one password with one hash of bcrypt, says whether it matches, and ends. */
import { parentPort, workerData } from 'node:worker_threads';
import { compare } from 'bcryptjs';

const { password, stored } = workerData as { password: string; stored: string };
parentPort?.postMessage(await compare(password, stored));
