// Drives the Node server-side SDK for Pilotlight's tests.
//
// Speaks the line protocol of tests/sdks/README.md: one JSON command per line on stdin, one JSON
// answer per line on stdout. The SDK's own log goes to stderr. It ends when stdin closes.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs, format, isDeepStrictEqual } from 'node:util';
import { basicLogger, init } from '@launchdarkly/node-server-sdk';
import * as stores from './store.mjs';

// Not by name: the package does not export this file.
const { version } = JSON.parse(
  readFileSync(new URL('node_modules/@launchdarkly/node-server-sdk/package.json', import.meta.url)),
);

// Between two looks at a condition; short against the delays that tests measure.
const POLL_MS = 2;
// A dead relay must not hold up the end of the process: closing flushes events.
const CLOSE_MS = 2000;
const FDV2_MODES = {
  fdv2: 'standard',
  'fdv2-stream': 'streamingOnly',
  'fdv2-poll': 'pollingOnly',
};
const DEFAULT_CONTEXT = { kind: 'user', key: 'u1' };

const contextOf = (command) => command.context ?? DEFAULT_CONTEXT;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (answer) => process.stdout.write(`${JSON.stringify({ ok: true, ...answer })}\n`);

const isFallback = (detail) =>
  detail.variationIndex === null ||
  detail.variationIndex === undefined ||
  detail.reason.kind === 'ERROR';

async function until(condition, timeoutMs) {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() >= deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

// Evaluates flags for as long as the process lives and counts what fell back.
class Watcher {
  report = {
    evaluations: 0,
    fallbacks: 0,
    before_init: 0,
    longest_pause_ms: 0,
    first_fallback: null,
  };

  constructor(client, flags, intervalMs, context) {
    this.client = client;
    this.flags = flags;
    this.intervalMs = intervalMs;
    this.context = context;
    this.run();
  }

  async run() {
    let initialized = false;
    let last = performance.now();
    for (;;) {
      initialized ||= this.client.initialized();
      for (const flag of this.flags) {
        const detail = await this.client.variationDetail(flag, this.context, null);
        this.count(flag, detail, initialized);
      }
      const now = performance.now();
      this.report.longest_pause_ms = Math.max(this.report.longest_pause_ms, Math.trunc(now - last));
      last = now;
      await sleep(this.intervalMs);
    }
  }

  count(flag, detail, initialized) {
    if (!initialized) {
      this.report.before_init += 1;
      return;
    }
    this.report.evaluations += 1;
    if (isFallback(detail)) {
      this.report.fallbacks += 1;
      this.report.first_fallback ??= { flag, reason: detail.reason };
    }
  }
}

const FAILED_REQUEST =
  /Received (?:error (?<code>\d+)|I\/O error).* for (?:streaming|polling) request - (?<next>.*)/;

// The state of the data source. This SDK has no interface for it, so it is read from its log.
class DataSourceState {
  failing = false;
  off = false;
  lastError = null;

  logged(line) {
    process.stderr.write(`${new Date().toISOString()} ${line}\n`);
    const failed = FAILED_REQUEST.exec(line);
    if (failed !== null) {
      const { code, next } = failed.groups;
      const kind = code === undefined ? 'NETWORK_ERROR' : 'ERROR_RESPONSE';
      this.lastError = { kind, status_code: Number(code ?? 0) };
      this.failing = true;
      this.off = next === 'giving up permanently';
    } else if (line.includes('Opened LaunchDarkly stream connection')) {
      this.failing = false;
    } else if (line.includes('Will retry stream connection')) {
      this.failing = true;
    }
  }

  name(initialized) {
    if (this.off) return 'OFF';
    if (!initialized) return 'INITIALIZING';
    return this.failing ? 'INTERRUPTED' : 'VALID';
  }
}

// The commands of the protocol, one method each.
class Driver {
  constructor({ sdkKey, mode, events, url, ...database }) {
    this.started = performance.now();
    this.dataSource = new DataSourceState();
    this.store = null;
    this.client = init(sdkKey, {
      ...(mode === 'daemon' ? this.daemon(database) : Driver.proxied(url, mode)),
      sendEvents: events,
      diagnosticOptOut: !events,
      logger: basicLogger({
        level: 'info',
        destination: (...parts) => this.dataSource.logged(format(...parts)),
      }),
    });
    this.watcher = null;
  }

  static proxied(url, mode) {
    const uris = { baseUri: url, streamUri: url, eventsUri: url };
    const dataSourceOptionsType = FDV2_MODES[mode];
    if (dataSourceOptionsType === undefined) return { ...uris, stream: mode === 'stream' };
    return { ...uris, dataSystem: { dataSource: { dataSourceOptionsType } } };
  }

  daemon(database) {
    const make = stores.storeFactory(database);
    const featureStore = (context) => {
      this.store = make(context);
      return this.store;
    };
    return { useLdd: true, featureStore };
  }

  async wait_init({ timeout_ms }) {
    const initialized = await until(() => this.client.initialized(), timeout_ms);
    return { initialized, elapsed_ms: Math.trunc(performance.now() - this.started) };
  }

  async eval(command) {
    return this.detail(command.flag, contextOf(command), command.default ?? null);
  }

  async eval_all(command) {
    const results = {};
    for (const flag of command.flags) {
      results[flag] = await this.detail(flag, contextOf(command), null);
    }
    return { results };
  }

  async all_flags(command) {
    const state = await this.client.allFlagsState(contextOf(command));
    return { valid: state.valid, values: state.allValues() };
  }

  async await_value(command) {
    const begun = performance.now();
    let last;
    const matched = await until(async () => {
      last = await this.client.variationDetail(command.flag, contextOf(command), null);
      return !isFallback(last) && isDeepStrictEqual(last.value, command.value);
    }, command.timeout_ms);
    return { matched, elapsed_ms: Math.trunc(performance.now() - begun), value: last.value };
  }

  async status() {
    const initialized = this.client.initialized();
    const { lastError } = this.dataSource;
    return { state: this.dataSource.name(initialized), initialized, last_error: lastError };
  }

  async watch_start(command) {
    if (this.watcher !== null) throw new Error('the watcher runs already');
    const { flags, interval_ms } = command;
    this.watcher = new Watcher(this.client, flags, interval_ms, contextOf(command));
    return {};
  }

  async watch_report() {
    if (this.watcher === null) throw new Error('the watcher was not started');
    return this.watcher.report;
  }

  async store_upsert(command) {
    await stores.upsert(this.openedStore(), command);
    return {};
  }

  async store_init(command) {
    await stores.init(this.openedStore(), command);
    return {};
  }

  openedStore() {
    if (this.store === null) throw new Error('the mode is not daemon');
    return this.store;
  }

  async close() {
    const flushed = this.client.flush().catch(() => {});
    await Promise.race([flushed, sleep(CLOSE_MS)]);
    this.client.close();
  }

  async detail(flag, context, fallback) {
    const { value, variationIndex, reason } = await this.client.variationDetail(
      flag,
      context,
      fallback,
    );
    return { value, variation: variationIndex ?? null, reason };
  }
}

const COMMANDS = new Set([
  'wait_init',
  'eval',
  'eval_all',
  'all_flags',
  'await_value',
  'status',
  'watch_start',
  'watch_report',
  'store_upsert',
  'store_init',
]);

function parseArguments() {
  const names = ['sdk-key', 'mode', 'events', 'url', 'store', 'address', 'prefix', 'table'];
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' }]));
  const { 'sdk-key': sdkKey, events, ...values } = parseArgs({ options }).values;
  const needed = values.mode === 'daemon' ? ['store', 'address', 'prefix'] : ['url'];
  for (const [name, value, allowed] of [
    ['sdk-key', sdkKey],
    ['mode', values.mode, ['stream', 'poll', 'daemon', ...Object.keys(FDV2_MODES)]],
    ['events', events, ['on', 'off']],
    ...needed.map((name) => [name, values[name]]),
  ]) {
    if (value === undefined) throw new Error(`--${name} is missing`);
    if (allowed && !allowed.includes(value)) throw new Error(`--${name} must be one of ${allowed}`);
  }
  return { ...values, sdkKey, events: events === 'on' };
}

const driver = new Driver(parseArguments());
say({ sdk: 'node', version });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.cmd === 'quit') {
    say({});
    break;
  }
  try {
    if (!COMMANDS.has(command.cmd)) throw new Error(`unknown command ${command.cmd}`);
    say(await driver[command.cmd](command));
  } catch (error) {
    process.stderr.write(`command failed: ${error.stack}\n`);
    say({ ok: false, error: String(error) });
  }
}
await driver.close();
process.exit(0);
