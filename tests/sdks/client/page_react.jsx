// A page with the React SDK, which renders the value of each flag.

import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import {
  LDProvider,
  basicLogger,
  useFlags,
  useLDClient,
  useLDClientError,
} from 'launchdarkly-react-client-sdk';
import { Sdk3, options3 } from './sdk3.mjs';

// Renders the flags, and tells of the client once the provider has one. A flag that is deleted
// keeps its key, without a value.
function Flags({ onSettle }) {
  const flags = useFlags();
  const keys = Object.keys(flags).filter((key) => flags[key] !== undefined);
  const client = useLDClient();
  const error = useLDClientError();
  useEffect(() => {
    if (client !== undefined) onSettle(client, error);
  }, [onSettle, client, error]);
  return (
    <ul>
      {keys.map((key) => (
        <li key={key} data-flag={key}>
          {JSON.stringify(flags[key])}
        </li>
      ))}
    </ul>
  );
}

// Values are those that the page shows; the rest is asked of the client beneath.
class SdkReact extends Sdk3 {
  detail(flag, fallback) {
    const shown = document.querySelector(`[data-flag="${flag}"]`);
    const { variationIndex, reason } = super.detail(flag, fallback);
    if (shown === null) return { value: fallback, variationIndex: null, reason };
    return { value: JSON.parse(shown.textContent), variationIndex, reason };
  }

  allFlags() {
    const shown = [...document.querySelectorAll('[data-flag]')];
    return Object.fromEntries(shown.map((one) => [one.dataset.flag, JSON.parse(one.textContent)]));
  }
}

globalThis.start = (settings) => {
  const sdk = new SdkReact();
  globalThis.sdk = sdk;
  createRoot(document.body.appendChild(document.createElement('main'))).render(
    <LDProvider
      clientSideID={settings.credential}
      context={settings.context}
      options={{ ...options3(settings), logger: basicLogger({ level: 'info' }) }}
      reactOptions={{ useCamelCaseFlagKeys: false }}
    >
      <Flags onSettle={(client, error) => sdk.settle(client, error)} />
    </LDProvider>,
  );
};
