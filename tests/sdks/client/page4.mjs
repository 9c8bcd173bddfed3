// A page with the browser SDK 4.x.

import { basicLogger, createClient } from '@launchdarkly/js-client-sdk';

class Sdk4 {
  #client;
  #state = 'INITIALIZING';

  constructor({ credential, context, url, streaming, report, reasons, hash, events }) {
    this.#client = createClient(credential, context, {
      baseUri: url,
      streamUri: url,
      eventsUri: url,
      sendEvents: events,
      diagnosticOptOut: !events,
      useReport: report,
      withReasons: reasons,
      ...(streaming ? {} : { streaming: false }),
      logger: basicLogger({ level: 'info' }),
    });
    // As in most applications: the SDK opens a stream for a listener, unless the options forbid it.
    this.#client.on('change', () => {});
    this.#start(hash);
  }

  async #start(hash) {
    // Longer than any test, because the SDK goes on with its attempts after this limit.
    const { status } = await this.#client.start({ timeout: 600, identifyOptions: { hash } });
    this.#state = status === 'complete' ? 'VALID' : 'INTERRUPTED';
  }

  state() {
    return this.#state;
  }

  detail(flag, fallback) {
    return this.#client.variationDetail(flag, fallback);
  }

  allFlags() {
    return this.#client.allFlags();
  }

  async identify(context, hash) {
    const { status } = await this.#client.identify(context, { hash });
    return status === 'completed';
  }

  setStreaming(streaming) {
    this.#client.setStreaming(streaming);
  }

  flush() {
    return this.#client.flush();
  }

  close() {
    return this.#client.close();
  }
}

globalThis.start = (settings) => {
  globalThis.sdk = new Sdk4(settings);
};
