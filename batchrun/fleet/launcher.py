"""``batchrun run --workers N``: N processes on this machine, as one command.

Each is ``batchrun run --shard I/N`` in a session of its own, so that a signal reaches it once: from
here. What they write to stderr is shown once, however many of them say it, and their progress is
shown together. They do not need this process: if it dies, they end the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO

from batchrun.adapters.environment.signals import heeded
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.fleet.progress import FleetProgress
from batchrun.ports import Observer
from batchrun.rundir.fleet.launches import Launches

LOOK_S = 0.5
"""How often the processes are looked at."""
WORKERS_MAX = 1024
_OWN_FLAGS = ("--json", "--no-progress")
"""Flags that are this process's: what they are about is shown here."""
_QUIET = "--no-progress"
_SAID_MAX = 10_000
"""So many lines are remembered in order not to be shown twice."""
_WHOLE = (0, 1, 3, 4)
"""Exit codes of a run that came to an end."""


def require(workers: int, *, shard: bool) -> None:
    """Raise ``UsageError`` for a number of workers that cannot be."""
    if shard:
        message = "--workers and --shard exclude one another: --shard is one process of several"
        raise UsageError(message)
    if not 1 <= workers <= WORKERS_MAX:
        message = f"--workers is {workers}; from 1 to {WORKERS_MAX:,} are possible"
        raise UsageError(message)


def run_workers(
    workers: int,
    arguments: Sequence[str],
    launches: Launches,
    *,
    observers: Sequence[Observer],
    say: Callable[[str], None],
) -> int:
    """Start the processes, and return the exit code of the whole once all have ended.

    ``arguments`` are those of this command, behind its name.
    """
    given = worker_arguments(arguments)
    started_s = time.monotonic()
    processes: list[subprocess.Popen[str]] = []
    relay, progress = _Relay(say), FleetProgress(launches)
    with _forwarding(processes):
        for index in range(1, workers + 1):
            own = ["--shard", f"{index}/{workers}"]
            command = [*_command(), *given, *own]
            processes.append(
                subprocess.Popen(  # noqa: S603 - this program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            )
            # The command that it names to go on is its own; the user's is this one's.
            relay.follow(processes[-1].stderr, " ".join([_QUIET, *own]), f"--workers {workers}")
        while any(process.poll() is None for process in processes):
            time.sleep(LOOK_S)
            with contextlib.suppress(StorageError, DamagedError):  # folded at this moment
                snapshot = progress.look(time.monotonic() - started_s)
                for observer in observers if snapshot is not None else ():
                    observer(snapshot)
    relay.end()
    return exit_code([process.returncode for process in processes])


def _command() -> list[str]:
    """What starts this program again."""
    return [sys.executable, "-m", "batchrun"]


def worker_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a worker: those of the command, without what is this process's alone."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
            continue
        name, equals, _ = argument.partition("=")
        if name == "--workers":
            skip = not equals
        elif name not in _OWN_FLAGS:
            kept.append(argument)
    return [*kept, _QUIET]


def exit_code(codes: Sequence[int]) -> int:
    """The exit code of the whole: that of the processes which saw its end. Where none did, that of
    one that was stopped; a process that was killed counts as stopped by that signal.
    """
    shown = [code if code >= 0 else 128 - code for code in codes]
    ended = [code for code in shown if code in _WHOLE]
    return max(ended) if ended else max(shown)


@contextlib.contextmanager
def _forwarding(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Send the signals that stop this process to the workers instead."""

    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Relay:
    """Shows what processes write, each line once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

    def follow(self, stream: IO[str] | None, own: str, shown: str) -> None:
        """Show what comes from a stream, until it ends; ``shown`` in the place of ``own``."""
        assert stream is not None
        given = (stream, own, shown)
        thread = threading.Thread(target=self._read, args=given, name="relay", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, stream: IO[str], own: str, shown: str) -> None:
        with stream:
            for line in stream:
                text = line.rstrip("\n").replace(own, shown)
                with self._turn:
                    if text not in self._said:
                        if len(self._said) >= _SAID_MAX:
                            self._said.clear()
                        self._said.add(text)
                        self._say(text)

    def end(self) -> None:
        """Wait until everything is shown."""
        for thread in self._threads:
            thread.join()
