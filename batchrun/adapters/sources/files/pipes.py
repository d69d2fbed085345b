"""Input that can be read only once: pipes, sockets and devices.

Such a file is opened once and never reopened: the writer would see its reader go away, and what was
read would be lost. ``streams.Pipe`` reads it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
from pathlib import Path

from batchrun.adapters.sources.files.storage import STDIN
from batchrun.adapters.system import platform
from batchrun.core.settings.addresses import local_path
from batchrun.errors import InputError

_STANDARD = {STDIN: 0, "/dev/stdin": 0}


def passes(path: str) -> bool:
    """Whether a path can be read only once. It is not opened; false if it does not exist."""
    if _number(path) is not None:
        return True
    local = local_path(path)
    try:
        return local is not None and is_special(Path(local).stat())
    except (OSError, ValueError):
        return False


def is_special(found: os.stat_result) -> bool:
    """Whether something is neither a regular file nor a folder."""
    return not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode)


def opened(path: str) -> int:
    """A descriptor to read it from, once.

    Waits for the writer of a named pipe; a signal handler that raises ends that. Raises
    ``InputError`` for something that rows cannot be read from.
    """
    if path == STDIN:
        return _standard_input()
    number = _number(path)
    try:
        if number is not None:
            # A copy: opening it by name would need the permission once more, and sockets refuse.
            descriptor = os.dup(number)
            _require_rows(path, os.fstat(descriptor))
            return descriptor
        local = local_path(path) or path
        _require_rows(path, Path(local).stat())
        if not platform.WRITERS_CAN_BE_AWAITED:
            return os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        return _awaited(os.open(local, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        message = f"input {path}: {error.strerror}"
        if error.errno == errno.ENXIO:
            message = f"input {path} is a socket; read it with a program that can, and pipe it in"
        raise InputError(message) from None


def _number(path: str) -> int | None:
    return _STANDARD.get(path, platform.descriptor_in(path))


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        message = "input -: there is no standard input"
        raise InputError(message) from None


def _require_rows(path: str, found: os.stat_result) -> None:
    """Raise ``InputError`` for a device without text or without an end."""
    if stat.S_ISBLK(found.st_mode):
        message = f"input {path} is a block device: rows are read from files and pipes"
        raise InputError(message)
    if platform.is_endless(found):
        message = f"input {path} is a device that holds no rows and never ends"
        raise InputError(message)


def _awaited(descriptor: int) -> int:
    """The descriptor once there is something to read, or its writer went away again."""
    # Opened without blocking and then polled, so that a signal handler can run meanwhile.
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    try:
        waiting.poll()
        fcntl.fcntl(
            descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NONBLOCK
        )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
