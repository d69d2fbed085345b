"""The actors on a Ray cluster for ``batchrun run --engine ray``: the workers and their switchboard.

A worker is ``batchrun run --shard I/N`` in the main thread of an actor's process, where signals
arrive. Ray runs no other call of an actor meanwhile, so a worker cannot be called. Instead, one of
its threads reports to the switchboard, an actor near the command, and learns there which signals
the command got.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrun import __version__

STOPPED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a worker may be sent. Ray blocks some of them in its processes."""
LINES_MAX = 10_000
"""How many lines may wait in the switchboard; beyond that, the oldest are dropped."""
USAGE = 2
"""The exit code of a command that cannot run on its node."""


@dataclass(frozen=True, slots=True)
class Call:
    """The command that every worker of a fleet runs."""

    arguments: tuple[str, ...]
    """The arguments of ``batchrun``, without the place in the fleet."""
    workers: int
    folder: str
    """The working directory."""
    marker: str
    """A file that the command made next to the run directory; empty if that is not on a disk."""
    environment: Mapping[str, str]
    version: str
    """The command's version of batchrun."""
    report_s: float
    """The pause between two reports of a worker."""


class Switchboard:
    """An actor between the command and its workers, which cannot be called while they work."""

    def __init__(self) -> None:
        self._signals: tuple[int, ...] = ()
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._begun: dict[int, int] = {}

    def report(self, index: int, pid: int, lines: Sequence[str]) -> tuple[int, ...]:
        """Worker ``index`` is at work and wrote these lines; returns every signal so far."""
        self._begun[index] = pid
        self._lines += lines
        return self._signals

    def exchange(self, signals: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        """The command got these signals so far; returns the output of workers since the last call,
        and the process id of each worker that began.
        """
        self._signals = tuple(signals)
        lines = [*self._lines]
        self._lines.clear()
        return lines, dict(self._begun)


class RayWorker:
    """An actor that is one worker of the fleet, number ``index`` from 1."""

    def __init__(self, index: int, switchboard: Any) -> None:
        self._index = index
        self._switchboard = switchboard
        self._lines = _Lines()
        self._ended = threading.Event()
        self._carried_out = 0

    def run(self, call: Call) -> int:
        """Run the command to its end; returns its exit code."""
        refusal = refused(call)
        if refusal is not None:
            self._lines.write(f"batchrun: {refusal}\n")
            self._report()
            return USAGE
        os.environ.update(call.environment)
        stopped = self._report()
        if stopped:
            return 128 + stopped[-1]
        arguments = [*call.arguments, "--shard", f"{self._index}/{call.workers}"]
        thread = threading.Thread(
            target=self._keep_reporting, args=(call.report_s,), name="reports", daemon=True
        )
        with _signals_arrive(), contextlib.redirect_stderr(self._lines):
            thread.start()
            code = _exit_code(arguments)
        self._ended.set()
        thread.join()
        self._report()
        return code

    def _keep_reporting(self, pause_s: float) -> None:
        while not self._ended.wait(pause_s):
            signals = self._report()
            for number in signals[self._carried_out :]:
                # Send it to the main thread, so that its pauses end too.
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            self._carried_out = max(self._carried_out, len(signals))

    def _report(self) -> tuple[int, ...]:
        import ray

        report = self._switchboard.report.remote(self._index, os.getpid(), self._lines.taken())
        signals: tuple[int, ...] = ray.get(report)
        return signals


def refused(call: Call) -> str | None:
    """Why the command cannot be run in this process; None if it can. Enters its folder."""
    node = os.uname().nodename
    if call.version != __version__:
        return (
            f"{node} has batchrun {__version__}, but the command is version {call.version}: "
            "every node of the cluster needs the same version"
        )
    shared = "input and run directory must be on a disk that all nodes share, under the same path"
    try:
        os.chdir(call.folder)
    except OSError as error:
        return f"{node} cannot open {call.folder} ({error.strerror}): {shared}"
    if call.marker and not Path(call.marker).exists():
        return f"{Path(call.marker).parent} on {node} is not the command's folder: {shared}"
    return None


def _exit_code(arguments: Sequence[str]) -> int:
    """Become ``batchrun`` with these arguments, until it exits."""
    before, sys.argv = sys.argv, ["batchrun", *arguments]
    try:
        runpy.run_module("batchrun", run_name="__main__")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:  # before the command listens for signals, or after that
        return 128 + signal.SIGINT
    finally:
        sys.argv = before
    return 0


@contextlib.contextmanager
def _signals_arrive() -> Iterator[None]:
    """Unblock the signals that stop a command, as in a process that a shell started."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPED)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Lines(io.TextIOBase):
    """A text stream whose whole lines are kept until they are taken."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._text = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8, which can encode every line."""
        return "utf-8"

    def writable(self) -> bool:
        """True: it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Keep a piece of text."""
        with self._turn:
            self._text += text
        return len(text)

    def taken(self) -> list[str]:
        """The whole lines that were written since the last call."""
        with self._turn:
            *lines, self._text = self._text.split("\n")
        return lines
