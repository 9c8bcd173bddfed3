"""Drives the Python server-side SDK for Pilotlight's tests.

Speaks the line protocol of tests/sdks/README.md: one JSON command per line on stdin, one JSON
answer per line on stdout. The SDK's own log goes to stderr. It ends when stdin closes.
"""

import argparse
import json
import logging
import os
import sys
import threading
import time

from ldclient import Context, LDClient, datasystem
from ldclient.config import Config
from ldclient.version import VERSION

import store

# Between two looks at a condition; short against the delays that tests measure.
POLL_SECONDS = 0.002
# A dead relay must not hold up the end of the process: closing flushes events.
CLOSE_SECONDS = 2.0
DEFAULT_CONTEXT = {"kind": "user", "key": "u1"}
FDV2_MODES = {
    "fdv2": datasystem.default,
    "fdv2-stream": datasystem.streaming,
    "fdv2-poll": datasystem.polling,
}


def context_of(command):
    return Context.from_dict(command.get("context") or DEFAULT_CONTEXT)


def equal(left, right):
    """JSON equality: Python alone takes True for 1."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def is_fallback(detail):
    return detail.variation_index is None or detail.reason.get("kind") == "ERROR"


class Watcher:
    """Evaluates flags for as long as the process lives and counts what fell back."""

    def __init__(self, client, flags, interval_seconds, context):
        self._client = client
        self._flags = flags
        self._interval = interval_seconds
        self._context = context
        self._lock = threading.Lock()
        self._report = {
            "evaluations": 0,
            "fallbacks": 0,
            "before_init": 0,
            "longest_pause_ms": 0,
            "first_fallback": None,
        }
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        initialized = False
        last = time.monotonic()
        while True:
            initialized = initialized or self._client.is_initialized()
            for flag in self._flags:
                detail = self._client.variation_detail(flag, self._context, None)
                with self._lock:
                    self._count(flag, detail, initialized)
            now = time.monotonic()
            with self._lock:
                pause = int((now - last) * 1000)
                self._report["longest_pause_ms"] = max(self._report["longest_pause_ms"], pause)
            last = now
            time.sleep(self._interval)

    def _count(self, flag, detail, initialized):
        if not initialized:
            self._report["before_init"] += 1
            return
        self._report["evaluations"] += 1
        if is_fallback(detail):
            self._report["fallbacks"] += 1
            if self._report["first_fallback"] is None:
                self._report["first_fallback"] = {"flag": flag, "reason": detail.reason}

    def report(self):
        with self._lock:
            return dict(self._report)


class Driver:
    """The commands of the protocol, one method each."""

    def __init__(self, arguments):
        self._started = time.monotonic()
        events = arguments.events == "on"
        options = {"send_events": events, "diagnostic_opt_out": not events}
        self._store = None
        if arguments.mode == "daemon":
            self._store = store.open_store(arguments)
            options |= {"use_ldd": True, "feature_store": self._store}
        else:
            url = arguments.url
            options |= {"base_uri": url, "stream_uri": url, "events_uri": url}
            if arguments.mode in FDV2_MODES:
                options["datasystem_config"] = FDV2_MODES[arguments.mode]().build()
            else:
                options["stream"] = arguments.mode == "stream"
        self._client = LDClient(Config(sdk_key=arguments.sdk_key, **options), start_wait=0)
        self._watcher = None

    def wait_init(self, command):
        matched = self._until(self._client.is_initialized, command["timeout_ms"])
        return {"initialized": matched, "elapsed_ms": self._elapsed_ms(self._started)}

    def eval(self, command):
        return self._detail(command["flag"], context_of(command), command.get("default"))

    def eval_all(self, command):
        context = context_of(command)
        return {"results": {flag: self._detail(flag, context, None) for flag in command["flags"]}}

    def all_flags(self, command):
        state = self._client.all_flags_state(context_of(command))
        return {"valid": state.valid, "values": state.to_values_map()}

    def await_value(self, command):
        begun = time.monotonic()
        context = context_of(command)
        last = None

        def arrived():
            nonlocal last
            last = self._client.variation_detail(command["flag"], context, None)
            return not is_fallback(last) and equal(last.value, command["value"])

        matched = self._until(arrived, command["timeout_ms"])
        return {"matched": matched, "elapsed_ms": self._elapsed_ms(begun), "value": last.value}

    def status(self, _command):
        status = self._client.data_source_status_provider.status
        error = status.error
        return {
            "state": status.state.name,
            "initialized": self._client.is_initialized(),
            "last_error": error and {"kind": error.kind.name, "status_code": error.status_code},
        }

    def watch_start(self, command):
        if self._watcher is not None:
            raise ValueError("the watcher runs already")
        self._watcher = Watcher(
            self._client, command["flags"], command["interval_ms"] / 1000, context_of(command)
        )
        return {}

    def watch_report(self, _command):
        if self._watcher is None:
            raise ValueError("the watcher was not started")
        return self._watcher.report()

    def store_upsert(self, command):
        store.upsert(self._opened_store(), command)
        return {}

    def store_init(self, command):
        store.init(self._opened_store(), command)
        return {}

    def close(self):
        closing = threading.Thread(target=self._client.close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _opened_store(self):
        if self._store is None:
            raise ValueError("the mode is not daemon")
        return self._store

    def _detail(self, flag, context, default):
        detail = self._client.variation_detail(flag, context, default)
        return {
            "value": detail.value,
            "variation": detail.variation_index,
            "reason": detail.reason,
        }

    @staticmethod
    def _elapsed_ms(since):
        return int((time.monotonic() - since) * 1000)

    @staticmethod
    def _until(condition, timeout_ms):
        deadline = time.monotonic() + timeout_ms / 1000
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


COMMANDS = {
    name: getattr(Driver, name)
    for name in (
        "wait_init",
        "eval",
        "eval_all",
        "all_flags",
        "await_value",
        "status",
        "watch_start",
        "watch_report",
        "store_upsert",
        "store_init",
    )
}


def say(answer):
    sys.stdout.write(json.dumps({"ok": True, **answer}) + "\n")
    sys.stdout.flush()


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sdk-key", required=True)
    parser.add_argument("--mode", required=True, choices=["stream", "poll", "daemon", *FDV2_MODES])
    parser.add_argument("--events", required=True, choices=["on", "off"])
    parser.add_argument("--url")
    parser.add_argument("--store", choices=["redis", "dynamodb", "consul"])
    parser.add_argument("--address")
    parser.add_argument("--prefix")
    parser.add_argument("--table")
    arguments = parser.parse_args()
    needed = ["store", "address", "prefix"] if arguments.mode == "daemon" else ["url"]
    for name in needed:
        if getattr(arguments, name) is None:
            parser.error(f"--mode {arguments.mode} needs --{name}")
    return arguments


def main():
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    driver = Driver(parse_arguments())
    say({"sdk": "python", "version": VERSION})
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "quit":
            say({})
            break
        try:
            say(COMMANDS[command["cmd"]](driver, command))
        except Exception as error:  # every failure is the test's to judge
            logging.exception("command failed")
            say({"ok": False, "error": repr(error)})
    driver.close()
    # Not through the interpreter's own end, which would wait for the SDK's threads.
    os._exit(0)


if __name__ == "__main__":
    main()
