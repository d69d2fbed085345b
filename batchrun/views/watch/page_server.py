"""``batchrun status --serve``: the status of a run for browsers on this machine, for Prometheus.

It listens on the loopback interface alone, and answers only requests that name it in their ``Host``
header: a foreign page that makes its own name point here (DNS rebinding) gets nothing. Nothing can
be changed. The data is read at most once in ``FRESH_S``, however many clients ask, and at a lower
priority than the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from batchrun import __version__
from batchrun.adapters.environment import exposition, series_file
from batchrun.adapters.storage import files
from batchrun.core.run.series import Series
from batchrun.core.settings.addresses import format_address
from batchrun.core.text.legible import json_of
from batchrun.errors import BatchrunError, UsageError
from batchrun.rundir import inspect
from batchrun.views import run_status
from batchrun.views.pages.rendering import fitted, render
from batchrun.views.report.heading import heading
from batchrun.views.report.limits import Limits
from batchrun.views.report.sections import Facts, Writer, sections

HOST = "127.0.0.1"
FRESH_S = 1.0
"""The maximum age of an answer."""
NICENESS = 10
STYLES, SCRIPTS = ("style.css",), ("live.js",)
_LINE_BYTES = 2_000
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(folder: str, checkpoint: str | None, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, or until the terminal goes away; port 0 is any free one. ``say`` gets the
    address. Raises ``UsageError`` if it is not a run directory, or if the port is taken.
    """
    run_status.read(folder, checkpoint)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    try:
        asyncio.run(_serve(Pages(folder, checkpoint), port, say))
    except KeyboardInterrupt:
        sys.exit(130)


async def _serve(pages: Pages, port: int, say: Callable[[str], None]) -> None:
    runner = web.AppRunner(application(pages), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        message = f"--serve: port {port} of {HOST} cannot be used: {error.strerror}"
        raise UsageError(message) from None
    bound = runner.addresses[0][1]
    say(f"serving http://{HOST}:{bound}/ and http://{HOST}:{bound}/metrics until Ctrl-C")
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def application(pages: Pages) -> web.Application:
    """The server: three addresses, all to be read."""
    served = web.Application(middlewares=[_guarded], client_max_size=1024)
    for path, content_type, make in (
        ("/", "text/html; charset=utf-8", pages.page),
        ("/metrics", exposition.CONTENT_TYPE, pages.metrics),
        ("/status.json", "application/json", pages.status),
    ):
        served.router.add_get(path, _answering(make, content_type))
    return served


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request that was meant for another host, or would change something."""
    host, _, port = request.headers.get("Host", "").rpartition(":")
    name = request.transport.get_extra_info("sockname") if request.transport else None
    ours = name is not None and port == str(name[1])
    if not ours or host.lower() not in (HOST, "localhost"):
        return web.Response(status=403, text="this page is for this machine alone\n")
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, text="read-only\n", headers={"Allow": "GET, HEAD"})
    return await handler(request)


def _answering(make: Callable[[], bytes], content_type: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        headers = {**_HEADERS, "Content-Type": content_type}
        try:
            return web.Response(body=make(), headers=headers)
        except BatchrunError as error:
            plain = headers | {"Content-Type": "text/plain; charset=utf-8"}
            return web.Response(status=503, text=f"{error}\n", headers=plain)

    return answer


class Pages:
    """What is served of a run, each looked up anew once it is ``FRESH_S`` old."""

    def __init__(self, folder: str, checkpoint: str | None) -> None:
        self._folder = folder
        self._checkpoint = checkpoint
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._found: tuple[float, dict[str, Any]] = (-FRESH_S, {})

    def page(self) -> bytes:
        """The page. Raises ``BatchrunError`` where the run cannot be looked at."""
        return self._fresh("page", self._page)

    def metrics(self) -> bytes:
        """The figures for Prometheus; raises as ``page`` does."""
        return self._fresh("metrics", lambda: exposition.exposed(self._status(), now_s=time.time()))

    def status(self) -> bytes:
        """What ``batchrun status --json`` prints; raises as ``page`` does."""

        def made() -> bytes:
            return (json_of(self._status()) + "\n").encode()

        return self._fresh("status", made)

    def _fresh(self, name: str, make: Callable[[], bytes]) -> bytes:
        made_s, body = self._kept.get(name, (-FRESH_S, b""))
        now_s = time.monotonic()
        if now_s - made_s >= FRESH_S:
            body = make()
            self._kept[name] = (now_s, body)
        return body

    def _status(self) -> dict[str, Any]:
        read_s, found = self._found
        now_s = time.monotonic()
        if now_s - read_s >= FRESH_S or not found:
            found = run_status.read(self._folder, self._checkpoint)
            self._found = (now_s, found)
        return found

    def _page(self) -> bytes:
        found, place = self._status(), format_address(self._folder)
        control = inspect.look_at(self._folder, self._checkpoint).checkpoint
        recorded = None if control is None else files.read_json(control / series_file.NAME)
        facts = Facts(place, found, None, [], Series.of(recorded))
        lines = run_status.lines(found, self._folder, self._checkpoint)
        values = heading(facts) | {
            "lines": [fitted(line, _LINE_BYTES) for line in lines[1:]],
            "sections": sections(facts, Writer(Limits()), live=True),
            "footer": f"batchrun {__version__}. This page renews itself.",
        }
        return render("status.html", values, styles=STYLES, scripts=SCRIPTS, connects=True).encode()
