"""An S3 server for fleets: conditional puts that are atomic, and a store that misbehaves on demand.

``python tests/harness/s3_server.py PORT FAULTS``: moto's server looks for an object and puts it in
two steps, so two racing creators may both win; here writes come one after the other, as in a real
store. FAULTS is a JSON file, read with every request:

- ``refuse``: this part of all requests is answered with 503 before it is looked at;
- ``conflict``: this part of the conditional puts is answered with 409;
- ``lost``: this part of the writes is done, and answered with 503;
- ``slow_s``: every request takes so long;
- ``cut``: every connection is answered with 503, as by a proxy before a network that is down.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import moto.server
from werkzeug.serving import WSGIRequestHandler, run_simple

WRITES = {"PUT", "POST", "DELETE"}


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_: Any) -> None:
        """See the base class."""


class Store:
    """The WSGI application: moto's, behind a lock and the faults."""

    def __init__(self, faults_path: Path) -> None:
        served: Any = moto.server
        self._app = served.DomainDispatcherApplication(served.create_backend_app)
        self._app.debug = True
        self._writing = threading.Lock()
        self._faults_path = faults_path
        self._dice = random.Random(1)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"].startswith("/moto-api"):
            return self._answered(environ, start_response)
        faults = self._faults()
        time.sleep(faults.get("slow_s", 0))
        if faults.get("cut") or self._dice.random() < faults.get("refuse", 0):
            return self._refused(environ, start_response, "503 Service Unavailable", "SlowDown")
        conditional = "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ
        writes = environ["REQUEST_METHOD"] in WRITES
        if writes and conditional and self._dice.random() < faults.get("conflict", 0):
            name = "ConditionalRequestConflict"
            return self._refused(environ, start_response, "409 Conflict", name)
        if not writes:
            return self._answered(environ, start_response)
        with self._writing:
            if self._dice.random() >= faults.get("lost", 0):
                return list(self._app(environ, start_response))
            list(self._app(environ, lambda *_: None))
        status = "503 Service Unavailable"
        return self._refused(environ, start_response, status, "SlowDown", done=True)

    def _answered(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _faults(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(self._faults_path.read_text())
            return found
        return {}

    def _refused(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        status: str,
        code: str,
        *,
        done: bool = False,
    ) -> Iterable[bytes]:
        if not done:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{code}</Code><Message>try again</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]


def main() -> None:
    """Serve until the process is ended."""
    port, faults_path = int(sys.argv[1]), Path(sys.argv[2])
    store = Store(faults_path)
    run_simple("127.0.0.1", port, store, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    main()
