"""What only one operating system has is called in one module, which has a way for the others.

The names are those that Python's documentation says are not on both Linux and macOS, and the
calls that mean different things there.
"""

import ast
import re

import pytest

HOME = "batchrun.adapters.system.platform"

# By module of the standard library: names that one of the two lacks, or means something else by.
ONE_SIDED = {
    "os": (
        r"fdatasync|posix_fallocate|posix_fadvise|p(?:read|write)v2?|sched_\w+|pidfd_\w+|pipe2"
        r"|memfd_create|eventfd\w*|copy_file_range|splice|sendfile|getrandom|getresuid|setresuid"
        r"|unshare|setns|timerfd_\w+|\w+xattr|waitid|plock|lchmod|lchflags|chflags|killpg|sysconf"
        r"|O_(?:DIRECT|TMPFILE|PATH|NOATIME|RSYNC|LARGEFILE|EXLOCK|SHLOCK|NOFOLLOW_ANY)"
        r"|CLONE_\w+|RWF_\w+|MFD_\w+|P_PIDFD"
    ),
    "fcntl": r"F_(?:FULLFSYNC|PREALLOCATE|BARRIERFSYNC|NOCACHE|OFD_\w+|ADD_SEALS|SETPIPE_SZ)",
    "socket": r"(?:TCP|SO|IP|MSG|SOCK)_(?!STREAM|DGRAM)\w+|AF_(?!INET|UNIX|UNSPEC)\w+",
    "signal": r"sigtimedwait|sigwaitinfo|pidfd_\w+|SIG(?:RTMIN|RTMAX|CLD|POLL|PWR|STKFLT|INFO|EMT)",
    "select": r"epoll|EPOLL\w*|kqueue|kevent|KQ_\w+|devpoll",
    "time": r"CLOCK_(?!REALTIME\b|MONOTONIC\b)\w+|clock_gettime|pthread_getcpuclockid",
    "mmap": r"MAP_(?!PRIVATE|SHARED)\w+|MADV_\w+|madvise",
    "sys": r"platform|getandroidapilevel",
    "errno": r"EREMOTEIO|ENOTSUP|EOPNOTSUPP|ENOATTR|ENODATA|EMEDIUMTYPE",
}
MODULES = {"ctypes", "resource", "platform"}
"""Modules whose every use differs."""
TRIGGERS = re.compile(r"/proc(?:/|$)|/sys(?:/|$)|/dev/fd|\b(?:prctl|mallopt|sysctl\w*)\b")
"""In a text that is used, not in a docstring."""


def one_sided(module):
    """Yield the line and the name of everything that belongs into the one module."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    # Texts under an assignment describe it.
    docstrings |= {id(n.value) for n in ast.walk(module.tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pattern = ONE_SIDED.get(node.value.id)
            name = f"{node.value.id}.{node.attr}"
            if pattern and re.fullmatch(pattern, node.attr):
                yield node.lineno, name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            origin = node.module or ""
            if origin.split(".")[0] in MODULES:
                yield node.lineno, origin
            for alias in node.names:
                if re.fullmatch(ONE_SIDED.get(origin, "(?!)"), alias.name):
                    yield node.lineno, f"{origin}.{alias.name}"
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
            and TRIGGERS.search(node.value)
        ):
            yield node.lineno, repr(node.value)


def test_one_module_knows_the_platforms(package):
    """Nothing else calls, imports or names what only Linux or only macOS has."""
    found = [
        f"{module.path}:{line} {name}"
        for module in package
        if module.name != HOME
        for line, name in one_sided(module)
    ]
    assert not found, (
        f"On the other system this is missing or means something else: call it in {HOME}, with a "
        "way for both.\n" + "\n".join(found)
    )


def test_the_home_needs_the_rule(package):
    """The one module has such names, so the rule above sees something."""
    (home,) = (module for module in package if module.name == HOME)
    assert {name for _, name in one_sided(home)} >= {"ctypes", "resource", "os.killpg"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import os\nos.fdatasync(3)", "os.fdatasync"),
        ("from os import sched_getaffinity", "os.sched_getaffinity"),
        ("import ctypes.util", "ctypes.util"),
        ("from resource import getrlimit", "resource"),
        ("import socket\nx = socket.TCP_KEEPIDLE", "socket.TCP_KEEPIDLE"),
        ("import sys\nif sys.platform == 'linux': pass", "sys.platform"),
        ("p = '/proc/self/fd'", "'/proc/self/fd'"),
        ("import time\nx = time.CLOCK_BOOTTIME", "time.CLOCK_BOOTTIME"),
    ],
)
def test_a_stray_name_is_seen(parse_module, source, name):
    """The rule turns red for each way to write one."""
    assert name in {n for _, n in one_sided(parse_module("batchrun/core/x.py", source))}


@pytest.mark.parametrize(
    "source",
    [
        '"""It reads /proc/self/stat on Linux."""',
        "import os\nos.fsync(3)\nos.pread(3, 1, 0)",
        "import socket\nsocket.AF_UNIX, socket.SOCK_STREAM",
        "import time\ntime.CLOCK_MONOTONIC",
        "url = '/process/system'",
    ],
)
def test_what_both_have_passes(parse_module, source):
    """The rule stays green for texts about a platform, and for what is the same on both."""
    assert not list(one_sided(parse_module("batchrun/core/x.py", source)))
