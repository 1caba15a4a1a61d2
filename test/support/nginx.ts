/** deploy/nginx/postern.conf in a real nginx, with the addresses and certificates of a test. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { requireCommand } from './requirements.ts';
import { findFreePort, untilOpen } from './start-server.ts';

const certificates = join(import.meta.dirname, '../fixtures/tls');

export interface Nginx {
  /** Of https, on every address of this machine. */
  readonly port: number;
  readonly plainPort: number;
  /** A line for each request: its method and path, the nodes that it was sent to, and the status. */
  accessLog(): string;
  errorLog(): string;
  clearLogs(): void;
}

/** Starts one for `localhost` in front of two nodes on this machine, and stops it with the test. */
export async function startNginx(
  t: TestContext,
  { nodePorts, port }: { nodePorts: readonly [number, number]; port: number },
): Promise<Nginx> {
  const nginx = requireCommand(t, 'nginx');
  const folder = mkdtempSync(join(tmpdir(), 'postern-nginx-'));
  const at = (name: string) => join(folder, name);
  const plainPort = await findFreePort();
  let recipe = readFileSync(join(import.meta.dirname, '../../deploy/nginx/postern.conf'), 'utf8');
  const fill = (from: string, to: string) => {
    if (!recipe.includes(from)) throw new Error(`deploy/nginx/postern.conf has no ${from}`);
    recipe = recipe.replaceAll(from, to);
  };
  fill('/etc/ssl/certs/sso.example.com.crt', join(certificates, 'localhost.pem'));
  fill('/etc/ssl/private/sso.example.com.key', join(certificates, 'key.pem'));
  fill('https://sso.example.com', `https://localhost:${port}`);
  fill('sso.example.com', 'localhost');
  fill('listen 443 ', `listen ${port} `);
  fill('listen 80;', `listen ${plainPort};`);
  fill('postern-1:5080', `127.0.0.1:${nodePorts[0]}`);
  fill('postern-2:5080', `127.0.0.1:${nodePorts[1]}`);
  writeFileSync(at('postern.conf'), recipe);

  const temporary = ['client_body', 'proxy', 'fastcgi', 'scgi', 'uwsgi'].map(
    (name) => `${name}_temp_path ${at(name)};`,
  );
  // As root it would give its rights away, and with them this folder; everybody else has none to give.
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  writeFileSync(
    at('nginx.conf'),
    `${user}
daemon off;
worker_processes 2;
pid ${at('pid')};
error_log ${at('error.log')} info;
events {}
http {
  log_format nodes '$request_method $uri [$upstream_addr] $status [$upstream_status]';
  access_log ${at('access.log')} nodes;
  ${temporary.join('\n  ')}
  include ${at('postern.conf')};
}
`,
  );
  // What it says before it has read where its log is, that of Debian's own.
  const child = spawn(nginx, ['-e', at('error.log'), '-p', folder, '-c', at('nginx.conf')], {
    stdio: 'inherit',
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  await untilOpen(port);
  return {
    port,
    plainPort,
    accessLog: () => readFileSync(at('access.log'), 'utf8'),
    errorLog: () => readFileSync(at('error.log'), 'utf8'),
    clearLogs() {
      for (const name of ['access.log', 'error.log']) writeFileSync(at(name), '');
    },
  };
}
