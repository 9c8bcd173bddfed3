// Drives one client-side SDK for Pilotlight's tests: in this process or, in a page, in Chromium.
//
// Speaks the line protocol of tests/sdks/README.md: one JSON command per line on stdin, one JSON
// answer per line on stdout. The SDK's own log goes to stderr. It ends when stdin closes or when it
// gets SIGTERM, and a Chromium that it started ends with it.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual, parseArgs } from 'node:util';

// Between two looks at a condition. A look into a page costs a millisecond in three processes.
const POLL_MS = 20;
// A dead relay must not hold up the end of the process: closing flushes events.
const CLOSE_MS = 2000;
const DEFAULT_CONTEXT = { kind: 'user', key: 'u1' };

// Where each SDK runs, and the package that it comes in. A page is named as its file.
const SDKS = {
  'node-client': { package: 'launchdarkly-node-client-sdk' },
  'browser-3': { package: 'launchdarkly-js-client-sdk', page: 'page3' },
  'browser-4': { package: '@launchdarkly/js-client-sdk', page: 'page4' },
  react: { package: 'launchdarkly-react-client-sdk', page: 'page_react' },
  'react-native': {
    package: '@launchdarkly/react-native-client-sdk',
    page: 'page_react_native',
    isPhone: true,
  },
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (answer) => process.stdout.write(`${JSON.stringify({ ok: true, ...answer })}\n`);

const isFallback = (detail) =>
  detail.variationIndex === null ||
  detail.variationIndex === undefined ||
  detail.reason?.kind === 'ERROR';

async function until(condition, timeoutMs) {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() >= deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

// The commands of the protocol, one method each.
class Driver {
  started = performance.now();

  constructor(sdk) {
    this.sdk = sdk;
  }

  async wait_init({ timeout_ms }) {
    await until(async () => (await this.sdk.state()) !== 'INITIALIZING', timeout_ms);
    const initialized = (await this.sdk.state()) === 'VALID';
    return { initialized, elapsed_ms: Math.trunc(performance.now() - this.started) };
  }

  async eval(command) {
    return this.detail(command.flag, command.default ?? null);
  }

  async eval_all(command) {
    const results = {};
    for (const flag of command.flags) results[flag] = await this.detail(flag, null);
    return { results };
  }

  async all_flags() {
    return { valid: (await this.sdk.state()) === 'VALID', values: await this.sdk.allFlags() };
  }

  async await_value({ flag, value, timeout_ms }) {
    const begun = performance.now();
    let last;
    const matched = await until(async () => {
      last = await this.sdk.detail(flag, null);
      return !isFallback(last) && isDeepStrictEqual(last.value, value);
    }, timeout_ms);
    return { matched, elapsed_ms: Math.trunc(performance.now() - begun), value: last.value };
  }

  async status() {
    const state = await this.sdk.state();
    return { state, initialized: state === 'VALID', last_error: await this.sdk.lastError() };
  }

  async identify({ context, hash }) {
    return { identified: await this.sdk.identify(context, hash ?? undefined) };
  }

  async set_streaming({ streaming }) {
    await this.sdk.setStreaming(streaming);
    return {};
  }

  async detail(flag, fallback) {
    const { value, variationIndex, reason } = await this.sdk.detail(flag, fallback);
    return { value, variation: variationIndex ?? null, reason: reason ?? null };
  }
}

const COMMANDS = new Set([
  'wait_init',
  'eval',
  'eval_all',
  'all_flags',
  'await_value',
  'status',
  'identify',
  'set_streaming',
]);

async function obey(driver, command) {
  try {
    if (!COMMANDS.has(command.cmd)) throw new Error(`unknown command ${command.cmd}`);
    // Unlike a server, this SDK has one context at a time.
    if ('context' in command && command.cmd !== 'identify') {
      throw new Error(`${command.cmd} takes no context`);
    }
    say(await driver[command.cmd](command));
  } catch (error) {
    process.stderr.write(`command failed: ${error.stack}\n`);
    say({ ok: false, error: String(error) });
  }
}

function parseArguments() {
  const text = { type: 'string' };
  const onOff = { type: 'string', default: 'off' };
  const { values } = parseArgs({
    options: {
      sdk: text,
      'environment-id': text,
      'mobile-key': text,
      url: text,
      context: { type: 'string', default: JSON.stringify(DEFAULT_CONTEXT) },
      hash: text,
      chromium: text,
      streaming: onOff,
      report: onOff,
      reasons: onOff,
      events: onOff,
    },
  });
  if (!(values.sdk in SDKS)) throw new Error(`--sdk must be one of ${Object.keys(SDKS)}`);
  const { page, isPhone } = SDKS[values.sdk];
  const credential = isPhone ? 'mobile-key' : 'environment-id';
  for (const name of ['url', credential, ...(page === undefined ? [] : ['chromium'])]) {
    if (values[name] === undefined) throw new Error(`--${name} is missing`);
  }
  for (const name of ['streaming', 'report', 'reasons', 'events']) {
    if (!['on', 'off'].includes(values[name])) throw new Error(`--${name} must be on or off`);
    values[name] = values[name] === 'on';
  }
  const { chromium, sdk, [credential]: key, ...rest } = values;
  const context = JSON.parse(rest.context);
  return { name: sdk, chromium, settings: { ...rest, credential: key, context } };
}

// Only what the SDK needs is loaded, since that takes long.
async function start({ name, chromium, settings }) {
  if (SDKS[name].page === undefined) {
    const { startInThisProcess } = await import('./node_client.mjs');
    return startInThisProcess(settings);
  }
  const { startInChromium } = await import('./browser.mjs');
  return startInChromium(chromium, SDKS[name], settings);
}

// Not by name: some packages do not export this file.
function versionOf(name) {
  const file = new URL(`node_modules/${SDKS[name].package}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(file)).version;
}

const options = parseArguments();
let sdk;
// A test that failed does not let a command end first.
process.once('SIGTERM', async () => {
  await sdk?.close();
  process.exit(0);
});
sdk = await start(options);
const driver = new Driver(sdk);
say({ sdk: options.name, version: versionOf(options.name), chromium: sdk.chromium() });
let quit = false;
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  quit = command.cmd === 'quit';
  if (quit) break;
  await obey(driver, command);
}
await Promise.race([sdk.flush().catch(() => {}), sleep(CLOSE_MS)]);
await sdk.close();
// Only after the end of Chromium: the reader of this answer may remove the folder.
if (quit) say({});
process.exit(0);
