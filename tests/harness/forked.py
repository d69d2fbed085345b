"""The command in a process forked from one that has loaded everything.

A process of its own as far as the kernel is concerned: environment, folder, standard streams,
signals and exit code are its own. It starts half a second of CPU sooner than a fresh interpreter,
and that start is most of what a test of the command costs. What happens at the start itself is for
tests that run ``python -m batchrun``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.harness import crashpoints

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "python -m batchrun"
_STARTING = threading.Lock()


class Forked:
    """Such a process, with the names that ``subprocess.Popen`` has for what tests do to one."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """Its exit code, if it has ended; a signal's number, negative, if that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code. Raises ``subprocess.TimeoutExpired``."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(PROGRAM, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    out: Path,
    err: Path,
    point: str | None = None,
    stdin: str = os.devnull,
) -> BaseProcess:
    """Start the command in a folder; its output is appended to two files, or to one. At the crash
    point (``crashpoints``), if there is one, it kills itself. ``stdin`` is what it reads: a file's
    name, or a pipe's in ``/proc``.
    """
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["tests.harness.warm"])
    given = (list(arguments), dict(environment), str(folder), str(out), str(err), point, stdin)
    process = forking.Process(target=command, args=given)
    with _STARTING:
        # The server is started by the first process, and looks for what it loads by this.
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)
        try:
            process.start()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
    return process


def command(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    out: str,
    err: str,
    point: str | None,
    stdin: str,
) -> None:
    """Become the command, in a process that was just forked."""
    begin(environment, folder, out, err, stdin)
    if point is not None:
        crashpoints.arm(point)
    sys.argv = ["batchrun", *arguments]
    from batchrun.cli.main import main

    main(prog_name=PROGRAM)


def begin(
    environment: Mapping[str, str], folder: str, out: str, err: str, stdin: str = os.devnull
) -> None:
    """Take on what a fresh process would have: environment, folder, streams, and a start now."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for stream, path, flags in (
        (0, stdin, os.O_RDONLY),
        (1, out, appending),
        (2, err, appending),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, stream)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        open(stream, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for stream, mode, errors in (
            (0, "r", "surrogateescape"),
            (1, "w", "surrogateescape"),
            (2, "w", "backslashreplace"),
        )
    )
    from batchrun.cli import estimate, main, run

    for module in (main, run, estimate):
        vars(module)["STARTED_S"] = time.monotonic()
