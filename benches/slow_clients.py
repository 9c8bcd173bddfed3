#!/usr/bin/env python3
"""Memory of a relay under slow clients and under mixed load.

    benches/slow_clients.py BINARY [BINARY...]

For each binary: a stand-in for LaunchDarkly streams one environment of 20 MB. Forty clients connect,
each at a version of its own, and read nothing; then they leave. After that come minutes of mixed
load: polls, streams that come and go, changes of flags. Prints the resident memory (RSS) in MB, and
the CPU time of the relay for each poll, streams and changes included.
"""
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

KEY = "sdk-00000000-0000-4000-8000-000000000001"
FLAGS = 200
FLAG_BYTES = 100_000
CLIENTS = 40
MIXED_SECONDS = int(os.environ.get("MIXED_SECONDS", "300"))


class Upstream:
    """Streams the flags to the relay; each change goes out as a patch."""

    def __init__(self):
        self.lock = threading.Condition()
        self.versions = [1] * FLAGS
        self.patches = []
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                with upstream.lock:
                    flags = {flag["key"]: flag for flag in map(upstream.flag, range(FLAGS))}
                    seen = len(upstream.patches)
                data = {"path": "/", "data": {"flags": flags, "segments": {}}}
                self.wfile.write(f"event: put\ndata: {json.dumps(data)}\n\n".encode())
                self.wfile.flush()
                while True:
                    with upstream.lock:
                        upstream.lock.wait_for(lambda: len(upstream.patches) > seen, timeout=5)
                        news, seen = upstream.patches[seen:], len(upstream.patches)
                    for patch in news:
                        self.wfile.write(patch)
                    self.wfile.write(b":\n")
                    self.wfile.flush()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def flag(self, index):
        return {
            "key": f"flag-{index}",
            "version": self.versions[index],
            "on": True,
            "salt": "x" * FLAG_BYTES,
            "variations": [True, False],
        }

    def change(self, index):
        with self.lock:
            self.versions[index] += 1
            flag = self.flag(index)
            data = json.dumps({"path": "/flags/" + flag["key"], "data": flag})
            self.patches.append(f"event: patch\ndata: {data}\n\n".encode())
            self.lock.notify_all()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def cpu(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(port, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    request.add_header("Authorization", KEY)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def open_client(port, path="/all", receive_buffer=None):
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: relay\r\nAuthorization: {KEY}\r\n\r\n".encode())
    return client


def wait_for_version(port, index, version):
    for _ in range(600):
        if json.loads(get(port, f"/sdk/flags/flag-{index}"))["version"] == version:
            return
        time.sleep(0.02)
    raise RuntimeError("the change did not arrive")


def mixed_load(port, upstream, until):
    """Polls, streams that read everything and leave, changes. Returns the threads and a count."""
    polls = [0]

    def poll():
        while time.monotonic() < until:
            get(port, "/sdk/latest-all")
            polls[0] += 1

    def stream():
        while time.monotonic() < until:
            client = open_client(port)
            left = FLAGS * FLAG_BYTES
            while left > 0:
                left -= len(client.recv(1 << 20)) or left
            client.close()

    def change():
        round_ = 0
        while time.monotonic() < until:
            upstream.change(round_ % FLAGS)
            round_ += 1
            time.sleep(0.2)

    threads = [threading.Thread(target=work) for work in (poll, stream, change)]
    for thread in threads:
        thread.start()
    return threads, polls


def measure(binary):
    upstream = Upstream()
    port = free_port()
    with tempfile.TemporaryDirectory() as store:
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(port),
            "BIND_ADDRESS": "127.0.0.1",
            "LD_ENV_Bench": KEY,
            "STREAM_URI": f"http://127.0.0.1:{upstream.port}",
            "LOCAL_STORE_DIR": os.path.join(store, "store"),
            "LOG_LEVEL": "error",
        }
        relay = subprocess.Popen([binary, "--from-env"], env=environment)
        try:
            while True:
                try:
                    get(port, "/sdk/latest-all")
                    break
                except OSError:
                    time.sleep(0.1)
            time.sleep(3)
            figures = {"idle": rss(relay.pid)}
            clients = []
            peak = 0.0
            for round_ in range(CLIENTS):
                upstream.change(round_)
                wait_for_version(port, round_, upstream.versions[round_])
                clients.append(open_client(port, receive_buffer=4096))
                time.sleep(0.1)
                peak = max(peak, rss(relay.pid))
            figures["40 stuck clients"] = peak
            for client in clients:
                client.close()
            time.sleep(15)
            figures["15 s after they left"] = rss(relay.pid)
            begun = time.monotonic()
            before = cpu(relay.pid)
            threads, polls = mixed_load(port, upstream, begun + MIXED_SECONDS)
            time.sleep(min(60, MIXED_SECONDS / 2))
            figures["mixed load, begin"] = rss(relay.pid)
            for thread in threads:
                thread.join()
            figures["mixed load, end"] = rss(relay.pid)
            figures["polls a second"] = polls[0] / MIXED_SECONDS
            figures["CPU ms for each poll"] = (cpu(relay.pid) - before) * 1000 / polls[0]
            time.sleep(15)
            figures["15 s after it"] = rss(relay.pid)
            return figures
        finally:
            relay.terminate()
            relay.wait(timeout=30)
            upstream.server.shutdown()


for binary in sys.argv[1:]:
    print(binary)
    for name, value in measure(binary).items():
        print(f"  {name:22} {value:8.1f}", flush=True)
