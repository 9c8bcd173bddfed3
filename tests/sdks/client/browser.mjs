// An SDK in a page of Chromium.
//
// The page comes from a server of its own on loopback, so that the relay has another origin and
// the browser applies the rules of CORS. It is given out once: a page that loads itself again finds
// nothing. Several drivers may share one Chromium, which ends with the driver that started it.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, request as ask } from 'node:http';
import { chromium } from 'playwright-core';

// Requests that bring values, or tell of changes.
const VALUES = /\/(m?sdk\/evalx|m?eval|m?ping)([/?]|$)/;

// It names an icon, so that the browser does not ask for one.
const DOCUMENT =
  '<!doctype html><title>SDK</title><link rel="icon" href="data:,"><script src="/page.js"></script>';

// Passes a request on, and its answer back as it comes.
function forward(relay, request, response) {
  const { method, url, headers } = request;
  const asked = ask(new URL(url, relay), { method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers).flushHeaders();
    answer.on('error', () => response.destroy()).pipe(response);
  });
  asked.on('error', () => response.destroy());
  response.on('close', () => asked.destroy());
  request.pipe(asked);
}

// What the page does not find here comes from the relay, if there is one.
async function servePage(script, relay) {
  let given = false;
  const server = createServer((request, response) => {
    if (request.url === '/' && !given) {
      given = true;
      response.setHeader('content-type', 'text/html; charset=utf-8').end(DOCUMENT);
    } else if (request.url === '/page.js') {
      response.setHeader('content-type', 'text/javascript; charset=utf-8').end(script);
    } else if (relay !== undefined) {
      forward(relay, request, response);
    } else {
      response.writeHead(404).end();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

const log = (text) => process.stderr.write(`${new Date().toISOString()} ${text}\n`);

// A running Chromium: the connection to it, `launched` if this process started it, and the endpoint
// for other drivers.
async function openChromium(pathOrEndpoint) {
  if (/^ws:/.test(pathOrEndpoint)) {
    return { browser: await chromium.connect(pathOrEndpoint), endpoint: pathOrEndpoint };
  }
  const launched = await chromium.launchServer({
    executablePath: pathOrEndpoint,
    host: '127.0.0.1',
    // The driver itself ends in order.
    handleSIGTERM: false,
  });
  const endpoint = launched.wsEndpoint();
  return { browser: await chromium.connect(endpoint), launched, endpoint };
}

// Passes what the driver asks on to the page.
class PageSdk {
  #lastError = null;

  constructor(opened, page, server) {
    this.opened = opened;
    this.page = page;
    this.server = server;
    page.on('console', (message) => log(message.text()));
    page.on('pageerror', (error) => log(error.stack));
    page.on('request', (request) => log(`${request.method()} ${request.url()}`));
    page.on('response', (response) => {
      const status = response.status();
      if (status >= 400) this.#failed(response.request(), 'ERROR_RESPONSE', status);
    });
    // This includes responses that CORS keeps from the page.
    page.on('requestfailed', (request) => {
      const reason = request.failure().errorText;
      if (reason !== 'net::ERR_ABORTED') this.#failed(request, reason, 0);
    });
  }

  #failed(request, kind, status_code) {
    log(`${request.method()} ${request.url()}: ${kind} ${status_code}`);
    if (VALUES.test(request.url())) this.#lastError = { kind, status_code };
  }

  #ask(method, ...given) {
    const call = ([name, values]) => globalThis.sdk[name](...values);
    return this.page.evaluate(call, [method, given]);
  }

  lastError() {
    return this.#lastError;
  }

  state() {
    return this.#ask('state');
  }

  detail(flag, fallback) {
    return this.#ask('detail', flag, fallback);
  }

  allFlags() {
    return this.#ask('allFlags');
  }

  identify(context, hash) {
    return this.#ask('identify', context, hash);
  }

  setStreaming(streaming) {
    return this.#ask('setStreaming', streaming);
  }

  flush() {
    return this.#ask('flush');
  }

  chromium() {
    return this.opened.endpoint;
  }

  async close() {
    await this.opened.browser.close();
    await this.opened.launched?.close();
    this.server.closeAllConnections();
    this.server.close();
  }
}

// Pages are bundled by tests/install-sdks.sh. A phone knows no origins: its page asks its own
// server, which passes everything on to the relay.
export async function startInChromium(pathOrEndpoint, { page: name, isPhone }, settings) {
  const script = readFileSync(new URL(`../pages/${name}.js`, import.meta.url));
  const server = await servePage(script, isPhone ? settings.url : undefined);
  const origin = `http://127.0.0.1:${server.address().port}`;
  const opened = await openChromium(pathOrEndpoint);
  const page = await opened.browser.newPage();
  const sdk = new PageSdk(opened, page, server);
  await page.goto(origin);
  const start = (given) => globalThis.start(given);
  await page.evaluate(start, isPhone ? { ...settings, url: origin } : settings);
  return sdk;
}
