"""The file of ``--log-file``: whole lines, appended. A full disk costs lines, never the run."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from batchrun.adapters.storage import disk, files
from batchrun.errors import UsageError


class LogFile:
    """A file that is only appended to; a new one is private to its owner."""

    def __init__(self, path: str) -> None:
        """Open it. Raises ``UsageError`` if that fails."""
        self.path = path
        self.lost = 0
        """Lines that could not be written."""
        self.why = ""
        """The error of the last of them."""
        self._torn = False
        # A pipe without a reader must not block the run.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = disk.open_file(Path(path), flags, files.PRIVATE_FILE)
        except OSError as error:
            message = f"--log-file {path}: it cannot be written: {error.strerror}"
            raise UsageError(message) from None
        self._file: IO[bytes] = disk.writer(descriptor, "ab", buffering=0)

    def write(self, line: str) -> None:
        """Append a line. One that cannot be written is counted."""
        data = line.encode(errors="replace") + b"\n"
        if self._torn:
            data = b"\n" + data
        try:
            written = self._file.write(data) or 0
        except OSError as error:
            self.lost += 1
            self.why = error.strerror or str(error)
            return
        # On a full disk, only the first bytes of a line may fit.
        self._torn = written < len(data)
        if self._torn:
            self.lost += 1
            self.why = "only a part of a line was written"

    def close(self) -> None:
        """Close it. An error that a network file system reports only now is counted too."""
        try:
            self._file.close()
        except OSError as error:
            self.lost += 1
            self.why = error.strerror or str(error)


def require_apart(path: str, *, run: list[str], inputs: list[str]) -> None:
    """Raise ``UsageError`` for a log inside the run directory or its checkpoint (``run``), whose
    files are all accounted for, or one that is an input file.
    """
    if path == "-":
        message = "--log-file names a file; without it, --log-level alone logs on stderr"
        raise UsageError(message)
    mine = Path(path).resolve()
    for folder in run:
        whole = Path(folder).resolve()
        if mine == whole or whole in mine.parents:
            message = (
                f"--log-file {path} is inside {folder}: every file there belongs to the run. Name "
                "a file next to it"
            )
            raise UsageError(message)
    for name in inputs:
        if Path(name).resolve() == mine:
            message = f"--log-file {path} is an input file; name another one"
            raise UsageError(message)
    if mine.exists() and stat.S_ISDIR(mine.stat().st_mode):
        message = f"--log-file {path} is a folder; name a file"
        raise UsageError(message)
