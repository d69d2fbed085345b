"""Linux and macOS: every call and path that only one of them has, in one place.

The rest of the package only uses what both have, so a port only touches this module. Features are
detected by looking for the function, never by the name of the system.

Durability is where they differ most. ``fsync`` on Linux waits until the disk has the data. On macOS
it only hands the data to the drive, which may hold it in its cache; ``fcntl`` with ``F_FULLFSYNC``
also empties that cache (macOS' fsync(2)). ``fdatasync`` and ``posix_fallocate`` do not exist there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import resource
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_SCHEDULED = _PROC / "thread-self/schedstat"
_DESCRIPTORS = (_PROC / "self/fd", Path("/dev/fd"))
_DESCRIPTOR = re.compile(r"/(?:dev/fd|proc/self/fd)/([0-9]+)")
_OF_THE_KERNEL = (("proc",), ("sys",), ("dev", "fd"))
_LINUX_MEMORY_MAJOR, _LINUX_NULL_MINOR = 1, 3
_ENDLESS = ("/dev/zero", "/dev/random", "/dev/urandom")
_M_ARENA_MAX = -8  # glibc's <malloc.h>
_NOT_THERE = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_FULL = getattr(fcntl, "F_FULLFSYNC", None)
_ZEROS = bytes(2**16)

# The disk


def _flush_fully(descriptor: int) -> None:
    """``F_FULLFSYNC``, or ``fsync`` if the file system has none, such as a network one."""
    assert _FULL is not None
    try:
        fcntl.fcntl(descriptor, _FULL)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        os.fsync(descriptor)


flush: Callable[[int], None] = os.fsync if _FULL is None else _flush_fully
"""Make a file, or the names in a folder, survive a power cut."""

flush_data: Callable[[int], None] = (
    getattr(os, "fdatasync", os.fsync) if _FULL is None else _flush_fully
)
"""Make a file's data survive a power cut, without other metadata if the system can omit it."""


def _fill(descriptor: int, _: int, size: int) -> None:
    """Write zeros after the end of a file until it has this size."""
    at = os.fstat(descriptor).st_size
    while at < size:
        at += os.pwrite(descriptor, _ZEROS[: size - at], at)


reserve: Callable[[int, int, int], None] = getattr(os, "posix_fallocate", _fill)
"""Take disk space for a file now: ``reserve(descriptor, 0, size)``. Its content is kept."""

_preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)


def read_into(descriptor: int, view: memoryview, offset: int) -> int:
    """Read from an open file into memory; returns the number of bytes. macOS has ``preadv`` from
    version 11 on.
    """
    if _preadv is not None:
        return _preadv(descriptor, [view], offset)
    data = os.pread(descriptor, len(view), offset)
    view[: len(data)] = data
    return len(data)


# Descriptors and devices


def open_descriptors() -> int | None:
    """How many files this process has open; None if the system does not list them."""
    for folder in _DESCRIPTORS:
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208 - names, not paths
    return None


def folder_by_descriptor(descriptor: int) -> str | None:
    """A short path of an open folder, below which its files can be named; None where there is no
    such path: macOS' ``/dev/fd`` names files only.
    """
    folder = _DESCRIPTORS[0]
    return f"{folder}/{descriptor}" if folder.exists() else None


def descriptor_in(path: str) -> int | None:
    """The descriptor that a path such as ``/dev/fd/3`` stands for; None for any other path."""
    found = _DESCRIPTOR.fullmatch(path)
    return None if found is None else int(found[1])


def reopenable() -> tuple[IO[bytes], str]:
    """A temporary file, and a path by which it can be opened anew, each time from its start. It is
    gone once it is closed.

    On Linux it has no name, so that not even a kill leaves it behind. Opening ``/dev/fd/N`` on
    macOS duplicates the descriptor with its position: there the file has a name.
    """
    folder = _DESCRIPTORS[0]
    if folder.exists():
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it is the caller's
        return file, f"{folder}/{file.fileno()}"
    named = tempfile.NamedTemporaryFile(prefix="batchrun-")  # noqa: SIM115 - the same
    return named, named.name


def is_of_the_kernel(path: Path) -> bool:
    """Whether a resolved path leads into the kernel's files about processes and devices, or to one
    of this process's own descriptors.
    """
    parts = path.parts[1:]
    return any(parts[: len(place)] == place for place in _OF_THE_KERNEL)


def is_endless(found: os.stat_result) -> bool:
    """Whether it is a character device without text and without an end, such as ``/dev/zero`` and
    ``/dev/random``, but not ``/dev/null``.
    """
    if not stat.S_ISCHR(found.st_mode):
        return False
    if _PROC.exists():
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        return major == _LINUX_MEMORY_MAJOR and minor != _LINUX_NULL_MINOR
    with contextlib.suppress(OSError):
        return found.st_rdev in {os.stat(path).st_rdev for path in _ENDLESS}  # noqa: PTH116
    return False


WRITERS_CAN_BE_AWAITED = _PROC.exists()
"""Whether ``poll`` on a named pipe that was opened without waiting waits for its first writer.
Linux does; BSD's kernels, and macOS, report at once that there is none.
"""

# Processes and the machine


def end_group(process: int) -> None:
    """Kill a process that leads its own group, and everything it started. It must not have been
    waited for, so that its process id is still its own. If it has ended, Linux raises
    ``ProcessLookupError``; macOS raises ``PermissionError`` for a group with only dead processes.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _sysctl(name: str) -> bytes | None:
    """A value that the kernel of macOS (or a BSD) knows by name: sysctlbyname(3)."""
    size = ctypes.c_size_t(256)
    found = ctypes.create_string_buffer(size.value)
    with contextlib.suppress(OSError, AttributeError):
        ask = ctypes.CDLL(None).sysctlbyname
        if ask(name.encode(), found, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return found.raw[: size.value]
    return None


def _boot_session() -> str:
    """The random boot id of macOS (``kern.bootsessionuuid``); the host's name if there is none."""
    found = (_sysctl("kern.bootsessionuuid") or b"").rstrip(b"\0").decode("ascii", "replace")
    return found or socket.gethostname()


_boot_session_once = functools.cache(_boot_session)


def boot_id() -> str:
    """An id that differs between machines, and changes when a machine is restarted."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return _boot_session_once()


real_s: Callable[[], float] = functools.partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
"""Seconds by a clock that is never set, and continues while the machine sleeps. Linux has a special
clock for that; on macOS it is the monotonic one, which ``time.monotonic`` does not read.
"""


def waited_s() -> float:
    """Seconds for which the calling thread was ready to run and had to wait for a core (Linux'
    proc(5), ``schedstat``); 0 where the system does not count them.
    """
    try:
        return int(_SCHEDULED.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def open_files_limit() -> tuple[int | None, int | None]:
    """How many files this process may have open, and how far it may raise that itself; None: any
    number. On macOS the second may be unlimited; ``kern.maxfilesperproc`` then applies.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = None if hard == resource.RLIM_INFINITY else hard
    if most is None and (found := _sysctl("kern.maxfilesperproc")) is not None:
        most = int.from_bytes(found[:4], "little")
    return None if soft == resource.RLIM_INFINITY else soft, most


def raise_open_files(limit: int) -> None:
    """Raise the number of files that this process may have open, at most to what
    ``open_files_limit`` allows.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def keep_one_arena() -> None:
    """Make glibc's allocator use one arena for all threads; no effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


# The network

_KEEPALIVE = (
    ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),  # the silence before the first probe: Linux, macOS
    ("TCP_KEEPINTVL",),  # and between two
    ("TCP_KEEPCNT",),  # probes without an answer that end a connection
)


def keepalive_options(idle_s: int, interval_s: int, probes: int) -> list[tuple[int, int, int]]:
    """The options (level, name, value) of a socket that is probed while it is silent; those that
    this system has.
    """
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for names, value in zip(_KEEPALIVE, (idle_s, interval_s, probes), strict=True):
        known = [getattr(socket, name) for name in names if hasattr(socket, name)]
        found += [(socket.IPPROTO_TCP, option, value) for option in known[:1]]
    return found


NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
"""The errors of a file system without locks; Linux has one number for the last two, macOS two."""
