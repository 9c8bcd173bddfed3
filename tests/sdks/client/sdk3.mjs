// What the driver asks of an SDK, for those that share the client of 3.x: the browser's, the one
// for Node.js, and React's, which has the browser's inside.

// The options of the SDK. What is not named stays at its default.
export function options3({ url, streaming, report, reasons, hash, events }) {
  return {
    baseUrl: url,
    streamUrl: url,
    eventsUrl: url,
    sendEvents: events,
    diagnosticOptOut: !events,
    useReport: report,
    evaluationReasons: reasons,
    ...(streaming ? {} : { streaming: false }),
    ...(hash === undefined ? {} : { hash }),
  };
}

export class Sdk3 {
  #client;
  #state = 'INITIALIZING';

  // Takes a new client. As in most applications, it gets a listener for changes: the SDK opens a
  // stream for it, unless the options forbid it.
  attach(client) {
    this.#client = client;
    client.on('initialized', () => this.settle(client));
    client.on('failed', (error) => this.settle(client, error));
    client.on('change', () => {});
    return this;
  }

  // The first request was answered or has failed. This client makes no second one by itself.
  settle(client, error) {
    this.#client = client;
    this.#state = error === undefined ? 'VALID' : 'INTERRUPTED';
  }

  state() {
    return this.#state;
  }

  detail(flag, fallback) {
    const nothing = { value: fallback, variationIndex: null, reason: null };
    return this.#client?.variationDetail(flag, fallback) ?? nothing;
  }

  allFlags() {
    return this.#client.allFlags();
  }

  async identify(context, hash) {
    try {
      await this.#client.identify(context, hash);
      return true;
    } catch (error) {
      console.error(`identify: ${error.stack ?? error}`);
      return false;
    }
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
