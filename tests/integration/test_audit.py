"""``make audit``: advisories fail the build, a server out of reach does not."""

import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from tests.harness.slow import rest_slow

pytest.importorskip("pip_audit")
ROOT = Path(__file__).resolve().parents[2]
ADVISORY = {
    "id": "PYSEC-2099-1",
    "aliases": ["CVE-2099-1"],
    "summary": "Every answer\nis lost.",
    "modified": "2099-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "aiohttp"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@pytest.fixture
def osv():
    """Starts a server that speaks OSV's query API: ``answer(query)`` gives status and body."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                query = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
                status, value = answer(query)
                body = msgspec.json.encode(value)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1/query"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _audit(url, pins=ROOT / "requirements/run.txt"):
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py", pins],
        env=environment | {"OSV_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started_s < 15
    return done


def test_an_advisory_fails_the_build(osv):
    """Package, version, names, remedy and words of the advisory are told."""
    asked = []

    def answer(query):
        package = query.get("package")
        if package is None:
            return 400, {"code": 3, "message": "Invalid query."}
        asked.append(package["name"])
        return 200, {"vulns": [ADVISORY]} if package["name"] == "aiohttp" else {}

    done = _audit(osv(answer))
    assert done.returncode == 1
    assert "aiohttp 3." in done.stderr and "PYSEC-2099-1 CVE-2099-1" in done.stderr
    assert "fixed in 99.0" in done.stderr and "Every answer is lost." in done.stderr
    assert {"aiohttp", "pyarrow", "minijinja"} <= set(asked)


@pytest.mark.slow
def test_nothing_known_is_said(osv, tmp_path):
    """The number of packages is told; a file without pins is an error, not a success."""
    url = osv(lambda _: (200, {}))
    done = _audit(url)
    assert done.returncode == 0 and "nothing is known against the" in done.stdout, done.stderr
    broken = tmp_path / "run.txt"
    broken.write_text("aiohttp>=3\n")
    assert _audit(url, broken).returncode == 2


@pytest.mark.parametrize("how", rest_slow(["refused", "no such host", "silent", "status 503"]))
def test_a_server_out_of_reach_does_not_fail_the_build(osv, how):
    """One line says so, soon enough."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1/query"
        if how == "refused":
            silent.close()
        elif how == "no such host":
            url = "https://advisories.invalid/v1/query"
        elif how != "silent":
            url = osv(lambda _: (503, {}))
        done = _audit(url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not audited: ") and done.stdout.count("\n") == 1
    assert done.stderr == ""
