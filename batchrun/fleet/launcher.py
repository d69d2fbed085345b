"""``batchrun run --workers N``: N processes on this machine, as one command.

Each is ``batchrun run --shard I/N`` in a separate process session, so that a signal only reaches it
from here, once. With ``batchrun.run(workers=N)`` it is what ``called`` describes. A process that is
killed is started again. A line that several of them write to stderr is shown once, and their
progress is shown together. If this process dies, they stop in an orderly way, because their
standard input ends (``parent``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO

from batchrun.adapters.environment.signals import heeded
from batchrun.core.fleet.operations import START
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.fleet import parent
from batchrun.fleet.progress import FleetProgress
from batchrun.ports import Observer
from batchrun.rundir.fleet.launches import Launches

LOOK_S = 0.5
"""How often the processes are checked."""
WORKERS_MAX = 1024
RESTARTS_MAX = 3
"""How often a worker that is killed is started again. Without a bound, one that is killed by its
rows, or for lack of memory, would be restarted forever.
"""
_OWN_FLAGS = ("--json", "--no-progress")
"""Flags that only apply to this process, which shows the output."""
_OWN_VALUES = ("--workers", "--engine", "--address", "--worker-cpus")
"""Flags with a value that only apply to this process, which starts the workers."""
QUIET = "--no-progress"
_SAID_MAX = 10_000
"""How many lines are remembered, so that none is shown twice."""
WHOLE = (0, 1, 3, 4)
"""Exit codes of a run that ended by itself."""


def require(workers: int, *, shard: bool) -> None:
    """Raise ``UsageError`` for an invalid number of workers."""
    if shard:
        message = "--workers and --shard exclude each other: --shard starts one process of several"
        raise UsageError(message)
    if not 1 <= workers <= WORKERS_MAX:
        message = f"--workers must be from 1 to {WORKERS_MAX:,}, not {workers}"
        raise UsageError(message)


def places_of(workers: int) -> list[str]:
    """The place of each worker, as ``--shard`` takes it."""
    return [f"{place}/{workers}" for place in range(1, workers + 1)]


def run_workers(
    workers: int,
    arguments: Sequence[str],
    launches: Launches,
    *,
    observers: Sequence[Observer],
    say: Callable[[str], None],
) -> int:
    """Start the processes, and return the overall exit code once all have ended. One that is killed
    is started again, at most ``RESTARTS_MAX`` times; after that the others do its share.
    ``arguments`` are those of this command, after its name.
    """
    started_s = time.monotonic()
    progress = FleetProgress(launches)
    command = [*_command(), *worker_arguments(arguments)]
    children = Children(
        places_of(workers), command, say, shown=f"--workers {workers}", start=new_start()
    )
    with forwarding(children.forward):
        children.start()
        while children.look():
            time.sleep(LOOK_S)
            with contextlib.suppress(StorageError, DamagedError):  # it was just folded
                snapshot = progress.look(time.monotonic() - started_s)
                for observer in observers if snapshot is not None else ():
                    observer(snapshot)
    codes = children.end()
    if all(code < 0 for code in codes):
        say(f"all {workers:,} workers were killed; the same command resumes {launches.shown}")
    return exit_code(codes)


class Children:
    """The processes, one for each place in the fleet (``1/4``). ``command`` starts one; its place
    is added. In its output, its own place is replaced by ``shown``. ``start`` is an id that all of
    them share: one of them does what is done once per start. ``handed`` is written to the standard
    input of each; if there is something to hand over, their standard output is kept for
    ``outputs``.
    """

    def __init__(
        self,
        places: Sequence[str],
        command: Sequence[str],
        say: Callable[[str], None],
        *,
        shown: str,
        start: str | None,
        handed: bytes | None = None,
    ) -> None:
        self._places = places
        self._command = command
        self._say = say
        self._shown = shown
        self._handed = handed
        self._relay = Relay(say)
        self._environment = {**os.environ, parent.VARIABLE: "stdin"}
        if start is not None:
            self._environment[START] = start
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._outputs: dict[int, IO[bytes]] = {}
        self._restarts: Counter[int] = Counter()
        self._told: set[int] = set()
        """Process ids of those whose death was reported."""
        self._signal: int | None = None
        """The last signal that was sent on to the workers."""

    def start(self) -> None:
        """Start all of them."""
        for place in range(1, len(self._places) + 1):
            if self._signal is None:
                self._start(place)

    def _start(self, place: int) -> None:
        own = ["--shard", self._places[place - 1]]
        output: int | IO[bytes] = subprocess.DEVNULL
        if self._handed is not None:
            output = self._outputs[place] = tempfile.TemporaryFile()  # noqa: SIM115 - see outputs
        process = subprocess.Popen(  # noqa: S603 - this program
            [*self._command, *own],
            stdin=subprocess.PIPE,  # nothing more comes; it ends if this process dies
            stdout=output,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._processes[place] = process
        # The command to continue that it names is its own; this process shows the user's.
        self._relay.follow(process.stderr, " ".join([QUIET, *own]), self._shown)
        if self._handed is not None:
            assert process.stdin is not None
            with (
                contextlib.suppress(BrokenPipeError),  # it died, which is seen later
                open(process.stdin.fileno(), "wb", closefd=False) as stdin,
            ):
                stdin.write(self._handed)
        if self._signal is not None:  # it has just arrived
            process.send_signal(self._signal)

    def look(self) -> bool:
        """Restart those that were killed; returns whether any process is at work."""
        for place, process in list(self._processes.items()):
            code = process.poll()
            if code is not None and code < 0 and process.pid not in self._told:
                self._told.add(process.pid)
                self._bury(place, process.pid, -code)
        return any(process.poll() is None for process in self._processes.values())

    def _bury(self, place: int, pid: int, number: int) -> None:
        _let_go(self._processes[place])
        again = self._restarts[place] < RESTARTS_MAX and self._signal is None
        then = "restarting it" if again else "the others take over its rows"
        if self._signal is not None:
            then = "the next start sends its requests in flight again"
        name = self._places[place - 1].replace("/", " of ")
        said = f"worker {name} (process {pid}) was killed by {name_of(number)}; "
        if number == signal.SIGKILL:
            said += "if you did not do that, the machine probably ran out of memory; "
        self._say(said + then)
        if again:
            self._restarts[place] += 1
            self._start(place)

    def end(self) -> list[int]:
        """Wait until everything is shown; returns the exit codes."""
        self._relay.end()
        for process in self._processes.values():
            _let_go(process)
        return [process.returncode for process in self._processes.values()]

    def outputs(self) -> list[bytes]:
        """What each wrote to standard output; to be called once all have ended."""
        found = []
        for place in sorted(self._outputs):
            with self._outputs[place] as output:
                output.seek(0)
                found.append(output.read())
        return found

    def forward(self, number: int) -> None:
        """Send a signal on to all of them."""
        self._signal = number
        for process in list(self._processes.values()):
            if process.poll() is None:
                os.kill(process.pid, number)


def new_start() -> str:
    """An id that the processes of one start have in common."""
    return secrets.token_hex(8)


def _let_go(process: subprocess.Popen[str]) -> None:
    """Close this end of the standard input of a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


def name_of(number: int) -> str:
    """The name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _command() -> list[str]:
    """The command that starts this program again."""
    return [sys.executable, "-m", "batchrun"]


def worker_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a worker: those of the command, without flags that only apply to this
    process.
    """
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
            continue
        name, equals, _ = argument.partition("=")
        if name in _OWN_VALUES:
            skip = not equals
        elif name not in _OWN_FLAGS:
            kept.append(argument)
    return [*kept, QUIET]


def exit_code(codes: Sequence[int]) -> int:
    """The overall exit code: that of the processes that saw the end of the run. If none did, that
    of one that was stopped; a process that was killed counts as stopped by that signal.
    """
    shown = [code if code >= 0 else 128 - code for code in codes]
    ended = [code for code in shown if code in WHOLE]
    return max(ended) if ended else max(shown)


@contextlib.contextmanager
def forwarding(send: Callable[[int], None]) -> Iterator[None]:
    """Hand the signals that stop this process to ``send`` instead."""

    def forward(number: int, _: FrameType | None) -> None:
        send(number)

    before = {number: signal.signal(number, forward) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Relay:
    """Shows the output of processes, each line once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

    def follow(self, stream: IO[str] | None, own: str, shown: str) -> None:
        """Show the lines of a stream until it ends, with ``own`` replaced by ``shown``."""
        assert stream is not None
        given = (stream, own, shown)
        thread = threading.Thread(target=self._read, args=given, name="relay", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, stream: IO[str], own: str, shown: str) -> None:
        with stream:
            for line in stream:
                self.show(line.rstrip("\n").replace(own, shown))

    def show(self, text: str) -> None:
        """Show a line, unless it was shown before."""
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
