// A page with the browser SDK 3.x.

import { basicLogger, initialize } from 'launchdarkly-js-client-sdk';
import { Sdk3, options3 } from './sdk3.mjs';

globalThis.start = (settings) => {
  const client = initialize(settings.credential, settings.context, {
    ...options3(settings),
    logger: basicLogger({ level: 'info' }),
  });
  globalThis.sdk = new Sdk3().attach(client);
};
