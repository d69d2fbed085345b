"""``--log-level`` and ``--log-file``: what a run does, in lines with a time and a level.

The package logs to the logger ``batchrun``; only this module decides where that goes. Without
either flag it goes nowhere, and costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from batchrun import __version__
from batchrun.cli.console import print_message, print_unwrapped
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.core.text.redact import Redactor, secrets_of
from batchrun.core.text.wording import counted
from batchrun.errors import BatchrunError
from batchrun.views.text import safe

if TYPE_CHECKING:
    from batchrun.core.settings.resolve import Settings
    from batchrun.engine.observe.monitor import EndpointSnapshot
    from batchrun.ports import Observer

LEVELS = ("debug", "info", "warning", "error")
AGAIN_S = 10.0
"""Interval for reporting again an endpoint that keeps refusing."""

_LOG = logging.getLogger("batchrun")
_SAID = {"said": True}
_TEXTS = ("request.system", "request.prompt", "request.messages", "request.schema")
"""Settings with texts of the user, which are not logged."""


class Log:
    """The log of one command. ``tell`` and ``error`` show a message and log it as well."""

    def __init__(self, tell: Callable[[str], None], *, kept: bool) -> None:
        """Without ``kept`` nobody logs: `logging` itself would show warnings a second time."""
        self._tell = tell
        self._kept = kept

    def tell(self, text: str) -> None:
        """A message for the user, who may have asked for none."""
        self._tell(text)
        if self._kept:
            level = logging.WARNING if text.startswith("warning:") else logging.INFO
            _LOG.log(level, "%s", text, extra=_SAID)

    def show(self, text: str) -> None:
        """A message for the user that is not logged."""
        self._tell(text)

    def error(self, text: str) -> None:
        """A message that is always shown."""
        print_message(f"batchrun: {text}")
        if self._kept:
            _LOG.error("%s", text, extra=_SAID)


@contextlib.contextmanager
def logging_to(
    path: str | None,
    level: str | None,
    settings: Settings,
    environment: Mapping[str, str],
    *,
    quiet: bool,
    process: str | None = None,
) -> Iterator[Log]:
    """Log while this lasts: into the file, or on stderr where only a level is given. Lines name
    the ``process``, where several do a run together.

    Raises ``UsageError`` where the file cannot be opened. Lines that could not be written are
    counted, and said at the end.
    """
    kept = path is not None or level in ("debug", "info")
    log = Log((lambda _: None) if quiet else print_message, kept=kept)
    if not kept:
        yield log  # warnings and errors are on stderr anyway
        return
    handler = _handler(path, settings, environment, quiet=quiet)
    handler.setFormatter(_Formatter(process))
    before = (_LOG.level, _LOG.propagate)
    _LOG.addHandler(handler)
    _LOG.setLevel((level or "info").upper())
    _LOG.propagate = False
    try:
        yield log
    except (Exception, KeyboardInterrupt) as error:
        # Whoever turns it into an exit code shows it. The text of a defect may hold data.
        known = isinstance(error, BatchrunError)
        _LOG.error("%s", error if known else type(error).__name__, extra=_SAID)
        raise
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(before[0])
        _LOG.propagate = before[1]
        handler.close()
        if isinstance(handler, _ToFile) and handler.file.lost:
            file = handler.file
            lost = counted(file.lost, "line")
            print_message(f"warning: {lost} could not be written to {file.path}: {file.why}")


def _handler(
    path: str | None, settings: Settings, environment: Mapping[str, str], *, quiet: bool
) -> logging.Handler:
    redactor = Redactor(
        secret
        for endpoint in settings.endpoints
        for secret in secrets_of(
            environment.get(endpoint.api_key_env or ""), endpoint.headers, endpoint.base_url
        )
    )
    if path is None:
        return _OnScreen(redactor, quiet=quiet)
    from batchrun.adapters.environment.log_file import LogFile, require_apart

    places = [local_path(place) for place in (settings.dir, settings.checkpoint)]
    inputs = [local_path(name) for name in settings.files if name != "-"]
    require_apart(
        path,
        run=[place for place in places if place is not None],
        inputs=[name for name in inputs if name is not None],
    )
    return _ToFile(redactor, LogFile(path))


class _Formatter(logging.Formatter):
    """Time in UTC, level, message, on one line; behind the level the process, if it is one of
    several.
    """

    def __init__(self, process: str | None) -> None:
        super().__init__()
        self._process = "" if process is None else f"[{process} {os.getpid()}] "

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = " ".join(safe(record.getMessage()).split())
        return f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self._process}{text}"


class _ToFile(logging.Handler):
    def __init__(self, redactor: Redactor, file: Any) -> None:
        super().__init__()
        self._redactor = redactor
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        self.file.write(self._redactor.text(self.format(record)))

    def close(self) -> None:
        """See ``logging.Handler``."""
        super().close()
        self.file.close()


class _OnScreen(logging.Handler):
    """Lines on stderr, but for what is shown there anyway."""

    def __init__(self, redactor: Redactor, *, quiet: bool) -> None:
        super().__init__()
        self._redactor = redactor
        self._quiet = quiet

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        said = getattr(record, "said", False)
        if not said or (self._quiet and record.levelno < logging.ERROR):
            print_unwrapped(self._redactor.text(self.format(record)))


def told_of(settings: Settings) -> str:
    """The settings in a line, without secrets and without the user's texts."""
    public = settings.public()
    for name in _TEXTS:
        if public.get(name) is not None:
            public[name] = f"({len(json.dumps(public[name], ensure_ascii=False)):,} characters)"
    return json.dumps(public, ensure_ascii=False)


def begun(settings: Settings) -> None:
    """Log the start of a run. The command line is left out: a prompt may stand in it."""
    if _LOG.isEnabledFor(logging.INFO):
        python = ".".join(map(str, sys.version_info[:3]))
        _LOG.info(
            "batchrun %s on Python %s: run into %s",
            __version__,
            python,
            format_address(settings.dir),
        )
        _LOG.info("settings: %s", told_of(settings))


def ended(summary: Mapping[str, Any]) -> None:
    """Log how a run ended: in numbers, since its last words repeat what servers said of rows."""
    rows, totals = summary["rows"], summary["totals"]
    _LOG.info(
        "ended: status=%s stopped_by=%s exit_code=%s ok=%s error=%s pending=%s attempts=%s "
        "cost_usd=%s errors=%s",
        *(summary[name] for name in ("status", "stopped_by", "exit_code")),
        *(rows[name] for name in ("ok", "error", "pending")),
        *(totals[name] for name in ("attempts", "cost_usd")),
        json.dumps(summary["errors"]),
    )


def observers() -> list[Observer]:
    """What watches the endpoints for the log; nothing where nobody reads it."""
    return [_Endpoints()] if _LOG.isEnabledFor(logging.INFO) else []


class _Endpoints:
    """An observer that logs how endpoints change, as far as no message tells of it: cool-downs."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int, float]] = {}

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        for endpoint in getattr(event, "endpoints", ()):
            self._look(endpoint, event)

    def _look(self, now: EndpointSnapshot, event: Any) -> None:
        state, refusals, told_s = self._seen.get(now.name, ("up", 0, -AGAIN_S))
        more = now.refusals - refusals
        cooled = (state == "throttled") != (now.state == "throttled")
        if cooled or (more and event.elapsed_s >= told_s + AGAIN_S):
            _LOG.info(
                "%s is %s: %d requests refused for now, %d in all", now.name, now.state, more,
                now.refusals,
            )  # fmt: skip
            refusals, told_s = now.refusals, event.elapsed_s
        self._seen[now.name] = (now.state, refusals, told_s)
