// A page with the SDK for React Native, which has a mobile key. `phone.mjs` is the phone around it.

import { AutoEnvAttributes, ReactNativeLDClient } from '@launchdarkly/react-native-client-sdk';

class SdkReactNative {
  #client;
  #state = 'INITIALIZING';

  constructor({ credential, context, url, streaming, report, reasons, events }) {
    this.#client = new ReactNativeLDClient(credential, AutoEnvAttributes.Disabled, {
      baseUri: url,
      streamUri: url,
      eventsUri: url,
      sendEvents: events,
      diagnosticOptOut: !events,
      useReport: report,
      withReasons: reasons,
      ...(streaming ? {} : { initialConnectionMode: 'polling' }),
    });
    this.identify(context).then((identified) => {
      this.#state = identified ? 'VALID' : 'INTERRUPTED';
    });
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

  // Secure mode does not concern phones.
  async identify(context) {
    try {
      await this.#client.identify(context);
      return true;
    } catch (error) {
      console.error(`identify: ${error.stack ?? error}`);
      return false;
    }
  }

  setStreaming(streaming) {
    return this.#client.setConnectionMode(streaming ? 'streaming' : 'polling');
  }

  flush() {
    return this.#client.flush();
  }

  close() {
    return this.#client.close();
  }
}

globalThis.start = (settings) => {
  globalThis.sdk = new SdkReactNative(settings);
};
