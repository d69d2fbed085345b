"""Python scorers: the user's function, in a separate process, over one part at a time.

The process reads the part from its standard input and writes one Arrow array; what the function
prints goes to stderr, and its end is shown in the message if it fails. A process that takes too
long, or is no longer needed, is killed with all that it started.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

import pyarrow as pa

from batchrun.adapters.scoring.plan import PlannedScore
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import StoreReader
from batchrun.adapters.system import platform
from batchrun.core.evaluation.definitions import python_parts
from batchrun.core.text.legible import legible
from batchrun.errors import ScoringError

WORKER = "batchrun.adapters.scoring.scorer_process"
SAID_BYTES = 4096
"""How much of the end of a scorer's output is read."""
SAID_CHARS = 300
BYTES_A_ROW, BYTES_MORE = 64, 2**20
"""The maximum size of an answer of the process."""


class PythonScorers:
    """Runs Python scorers. ``interrupt``, or leaving the context, ends the running one."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self._running: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt()

    def interrupt(self) -> None:
        """Kill the running process, and start no other."""
        with self._lock:
            self._interrupted = True
            if self._running is not None:
                platform.end_group(self._running.pid)

    def __call__(self, one: PlannedScore, name: str, rows: int) -> pa.Array:
        """One value per row of a part: booleans or doubles. Raises ``ScoringError``."""
        score = one.score
        with (
            _part(self._store, f"results/{name}") as part,
            tempfile.TemporaryFile() as answer,
            tempfile.TemporaryFile() as said,
        ):
            code = self._run(score.python or "", score.timeout_s, part, answer, said)
            told = _end_of(said)
            if self._interrupted:
                message = f"{score.key}: interrupted"
                raise ScoringError(message, interrupted=True)
            if code is None:
                why = f"took longer than {score.timeout_s:g} s (timeout_s) and was ended"
            elif code < 0:
                why = f"was killed by {signal.Signals(-code).name}"
            elif code:
                why = "failed"
            else:
                try:
                    return _values(answer, rows)
                except (OSError, ValueError, pa.ArrowException) as error:
                    why = f"returned nothing that can be read ({error})"
        message = (
            f"{score.key}: {score.python} {why} on {name}"
            f"{f': {told}' if told else ''}. The results are intact; fix it, then run the same "
            "command again or `batchrun score`"
        )
        raise ScoringError(message)

    def _run(
        self,
        python: str,
        timeout_s: float,
        part: IO[bytes],
        answer: IO[bytes],
        said: IO[bytes],
    ) -> int | None:
        """Run the process to its end; its exit code, or None if it took too long."""
        path, function = python_parts(python)
        # -P: the working directory is not searched for modules; the file's own folder is.
        command = [sys.executable, "-P", "-m", WORKER, path, function]
        with self._lock:
            if self._interrupted:
                return 0
            process = subprocess.Popen(  # noqa: S603 - our own module, the file is the user's
                [*command, str(math.ceil(timeout_s))],
                stdin=part,
                stdout=answer,
                stderr=said,
                start_new_session=True,
            )
            self._running = process
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            platform.end_group(process.pid)
            process.wait()
            with self._lock:
                self._running = None


@contextlib.contextmanager
def _part(store: StoreReader, name: str) -> Iterator[IO[bytes]]:
    """A part as an operating system file."""
    if isinstance(store, DiskStore):
        with Path(store.folder, name).open("rb") as file:
            yield file
        return
    with store.open(name) as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, 2**20)
        copy.seek(0)
        yield copy


def _end_of(said: IO[bytes]) -> str:
    """The last line that was printed."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - SAID_BYTES))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return legible(lines[-1].strip())[:SAID_CHARS] if lines else ""


def _values(answer: IO[bytes], rows: int) -> pa.Array:
    """The array that the process wrote."""
    size = answer.seek(0, os.SEEK_END)
    if size > rows * BYTES_A_ROW + BYTES_MORE:
        message = f"{size:,} bytes for {rows:,} rows"
        raise ValueError(message)
    answer.seek(0)
    with pa.ipc.open_stream(answer.read()) as reader:
        column = reader.read_all().column(0).combine_chunks()
    if len(column) != rows:
        message = f"{len(column):,} values for {rows:,} rows"
        raise ValueError(message)
    return column
