// The client-side SDK for Node.js, in this process.

import { tmpdir } from 'node:os';
import { format } from 'node:util';
import node from 'launchdarkly-node-client-sdk';
import { Sdk3, options3 } from './sdk3.mjs';

const STATUS_CODE = /\b[45]\d\d\b/;

const log = (...parts) =>
  process.stderr.write(`${new Date().toISOString()} ${format(...parts)}\n`);

class NodeSdk extends Sdk3 {
  #lastError = null;

  attach(client) {
    client.on('failed', (error) => this.#failed(error));
    client.on('error', (error) => this.#failed(error));
    return super.attach(client);
  }

  // The SDK tells a status only in its texts.
  #failed({ message }) {
    const status = STATUS_CODE.exec(message)?.[0];
    const kind = status === undefined ? 'NETWORK_ERROR' : 'ERROR_RESPONSE';
    this.#lastError = { kind, status_code: Number(status ?? 0) };
  }

  lastError() {
    return this.#lastError;
  }

  chromium() {
    return null;
  }
}

export function startInThisProcess(settings) {
  const client = node.initialize(settings.credential, settings.context, {
    ...options3(settings),
    localStoragePath: tmpdir(),
    logger: node.basicLogger({ level: 'info', destination: log }),
  });
  return new NodeSdk().attach(client);
}
