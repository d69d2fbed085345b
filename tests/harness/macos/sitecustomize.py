"""Makes a Python on Linux look like one on macOS, as far as that goes from inside: with this folder
on ``PYTHONPATH``, what macOS lacks is gone before the program is loaded, and what it has in its
place is there. Nothing that Linux' C libraries do is changed.

``/proc`` is hidden from calls of Python. ``F_FULLFSYNC`` flushes with ``fsync``, and each use is
counted, a line each, in the file that ``FULL_FLUSHES`` names.
"""

# mypy: ignore-errors

import builtins
import errno
import fcntl
import io
import os
import select
import socket
import sys
import sysconfig
import time
import types

sysconfig.get_config_vars()  # it looks for a file of this platform, once

GONE = {
    os: "fdatasync posix_fallocate posix_fadvise preadv pwritev pipe2 sched_getaffinity "
    "sched_setaffinity pidfd_open memfd_create eventfd copy_file_range splice getrandom "
    "O_DIRECT O_TMPFILE O_PATH",
    time: "CLOCK_BOOTTIME pthread_getcpuclockid",
    select: "epoll",
    socket: "TCP_USER_TIMEOUT SO_BINDTODEVICE AF_NETLINK",
}
for _module, _names in GONE.items():
    for _name in _names.split():
        if hasattr(_module, _name):
            delattr(_module, _name)

# The same option by macOS' name.
socket.TCP_KEEPALIVE = socket.TCP_KEEPIDLE
del socket.TCP_KEEPIDLE

fcntl.F_FULLFSYNC = 51
_fcntl, _fsync = fcntl.fcntl, os.fsync


def _with_full_flush(descriptor, command, *arguments):
    if command != fcntl.F_FULLFSYNC:
        return _fcntl(descriptor, command, *arguments)
    _fsync(descriptor)
    if "FULL_FLUSHES" in os.environ:
        with _open(os.environ["FULL_FLUSHES"], "a") as file:
            file.write("x\n")
    return 0


def _half_flush(_):
    raise AssertionError("fsync leaves the data in the drive's cache: flush with F_FULLFSYNC")


fcntl.fcntl, os.fsync = _with_full_flush, _half_flush


def _hiding(function):
    def call(path=".", *arguments, **options):
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.fsdecode(path)
            if text == "/proc" or text.startswith("/proc/"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        return function(path, *arguments, **options)

    return call


_open = io.open
io.open = builtins.open = _hiding(io.open)
for _name in ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access"):
    setattr(os, _name, _hiding(getattr(os, _name)))
os.supports_dir_fd = os.supports_dir_fd | {os.open, os.stat}
os.supports_fd = os.supports_fd | {os.listdir, os.stat, os.scandir}
os.supports_follow_symlinks = os.supports_follow_symlinks | {os.stat}

# `urllib.request` asks macOS for its proxies.
sys.modules["_scproxy"] = types.ModuleType("_scproxy")
sys.modules["_scproxy"]._get_proxy_settings = dict
sys.modules["_scproxy"]._get_proxies = dict
sys.platform = "darwin"
