#!/usr/bin/env python3
"""The example gateway beside nginx and Varnish: cached hits over sockets, in one run, in turn.

    python3 benches/gateways/run.py            # about ten minutes; --quick for a look

Needs cargo, nginx, varnish, varnish-modules, wrk and nghttp2-client (all from Debian), and two cores: the server runs on
one, the client on the other. All three have one worker, 64 MB of memory for entries, no access log, keep-alive without
end, and where limits are on, a limit by address that is never reached. What nginx and the gateway send from files lies in
the system's folder for temporary files, in the page cache. Writes results.md beside this file.
"""

import http.server
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUICK = "--quick" in sys.argv
SPAN, ROUNDS = (1, 1) if QUICK else (1, 2)
SERVER_CORE, CLIENT_CORE = "0", "1"
SIZES = {"/1k": 1 << 10, "/100k": 100 << 10}


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers that many bytes, fresh for an hour."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"x" * SIZES.get(self.path, 2)
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=3600")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  proxy_cache_path {dir}/cache keys_zone=cache:10m max_size=64m inactive=1h; open_file_cache max=100;
  limit_req_zone $binary_remote_addr zone=ip:10m rate=1000000r/s;
  server {{
    listen 127.0.0.1:{port} {h2}; {limit}
    location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_cache cache; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

VCL = """
vcl 4.1;
import vsthrottle;
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_recv {{ {limit} }}
"""


def nginx(folder, port, origin, limits, h2):
    limit = "limit_req zone=ip burst=1000000 nodelay;" if limits else ""
    (folder / "nginx.conf").write_text(NGINX.format(dir=folder, port=port, origin=origin, limit=limit, h2="http2" if h2 else ""))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def varnish(folder, port, origin, limits, h2):
    limit = 'if (vsthrottle.is_denied(client.ip, 1000000, 1s)) { return (synth(429)); }' if limits else ""
    (folder / "default.vcl").write_text(VCL.format(origin=origin, limit=limit))
    command = ["varnishd", "-F", "-n", str(folder), "-a", f"127.0.0.1:{port},HTTP", "-f", str(folder / "default.vcl")]
    command += ["-s", "malloc,64m", "-p", "thread_pools=1", "-p", "timeout_idle=600", "-T", "none"]
    return command + (["-p", "feature=+http2"] if h2 else [])


def tollgate(folder, port, origin, limits, _h2):
    command = [str(ROOT / "target/release/examples/gateway"), "--listen", f"127.0.0.1:{port}"]
    command += ["--upstream", f"http://127.0.0.1:{origin}", "--memory", "64MiB", "--mirror-in", str(folder)]
    return command + (["--limit-per-ip", "1000000/s"] if limits else [])


SERVERS = {"tollgate": tollgate, "nginx": nginx, "Varnish": varnish}


class Running:
    """A server on its core, with its children."""

    def __init__(self, name, origin, limits, h2):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.folder.chmod(0o777)
        self.port = free_port()
        command = ["taskset", "-c", SERVER_CORE] + SERVERS[name](self.folder, self.port, origin, limits, h2)
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.time() + 20
        while time.time() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"{name} did not start:\n{(self.folder / 'log').read_text()}")

    def pids(self):
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                queue += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                pass
        return found

    def cpu(self):
        """Seconds of processor time so far."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Resident megabytes."""
        pages = sum(int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def client(*command):
    """What it prints. h2load at times forgets to end: then once more."""
    for _ in range(5):
        try:
            pinned = ["taskset", "-c", CLIENT_CORE, *command]
            return subprocess.run(pinned, capture_output=True, text=True, check=True, timeout=SPAN + 5).stdout
        except subprocess.TimeoutExpired:
            pass
    raise SystemExit(f"{command} does not end")


def saturate(server, path, connections, h2):
    """Requests per second, and the server's microseconds of processor time for each."""
    before, url = server.cpu(), f"http://127.0.0.1:{server.port}{path}"
    if h2:
        out = client("h2load", "-c", str(connections), "-m", "16", "-D", str(SPAN), url)
        done = int(re.search(r"(\d+) succeeded", out).group(1))
        if re.search(r" [1-9]\d* (failed|errored|3xx|4xx|5xx)", out):
            raise SystemExit(out)
    else:
        out = client("wrk", "-t", "1", "-c", str(connections), "-d", f"{SPAN}s", url)
        if "Non-2xx" in out:
            raise SystemExit(out)
        done = int(re.search(r"(\d+) requests in", out).group(1))
    # Both clients say what came of the time they really took.
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)|([\d.]+) req/s,", out).expand(r"\1\2"))
    return rate, (server.cpu() - before) * 1e6 / max(done, 1)


def latencies(server, path, connections, h2, rate):
    """p50, p99 and p99.9 in microseconds at that many requests a second, sent on time whatever becomes of the others."""
    log = server.folder / "latency"
    log.unlink(missing_ok=True)
    each = max(1, round(rate / connections))
    protocol = ["-m", "16"] if h2 else ["--h1"]
    client("h2load", *protocol, "-c", str(connections), "--rps", str(each), "-D", str(SPAN), f"--log-file={log}",
           f"http://127.0.0.1:{server.port}{path}")
    micros = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return [micros[min(len(micros) - 1, int(len(micros) * share))] for share in (0.5, 0.99, 0.999)]


def fill(server, h2):
    protocol = ["--http2-prior-knowledge"] if h2 else []
    for path in SIZES:
        for _ in range(3):
            subprocess.run(["curl", "-sf", *protocol, "-o", "/dev/null", f"http://127.0.0.1:{server.port}{path}"], check=True)


def main():
    subprocess.run(["cargo", "build", "--release", "--example", "gateway"], cwd=ROOT, check=True)
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    port = origin.server_address[1]
    cases = [(path, limits, connections, h2) for h2 in (False, True) for path in SIZES for limits in (True, False)
             for connections in (16, 64, 256)]
    lines = ["# The example gateway beside nginx and Varnish", "",
             "Written by `python3 benches/gateways/run.py`: cached hits, one core for the server and one for the client, the",
             "best of the rounds, servers in turn. Latencies are at 70 % of the server's own saturation.", "",
             "| body | limits | protocol | connections | server | requests/s | µs of CPU a request | p50 µs | p99 µs | p99.9 µs | MB resident |",
             "|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|"]
    for path, limits, connections, h2 in cases:
        best = {}
        for _ in range(ROUNDS):
            for name in SERVERS:
                server = Running(name, port, limits, h2)
                try:
                    fill(server, h2)
                    saturate(server, path, connections, h2)
                    rate, cpu = saturate(server, path, connections, h2)
                    tail = latencies(server, path, connections, h2, 0.7 * rate)
                    if name not in best or rate > best[name][0]:
                        best[name] = (rate, cpu, tail, server.memory())
                finally:
                    server.stop()
        for name, (rate, cpu, tail, memory) in best.items():
            shown = " | ".join(map(str, tail))
            protocol = "h2c" if h2 else "HTTP/1.1"
            lines.append(f"| {path[1:]} | {'on' if limits else 'off'} | {protocol} | {connections} | {name} | {rate:.0f} | {cpu:.1f} | {shown} | {memory:.0f} |")
            print(lines[-1], flush=True)
    if not QUICK:
        (HERE / "results.md").write_text("\n".join(lines) + "\n")


main()
