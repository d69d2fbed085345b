"""The one module that knows the platforms, with Linux' functions taken away and macOS' put in."""

import errno
import fcntl
import importlib.util
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from batchrun.adapters.system import platform

FULL = 51
"""macOS' number of F_FULLFSYNC (<sys/fcntl.h>)."""
NOWHERE = Path("/nowhere-at-all")


@pytest.fixture
def loaded():
    """Loads the module anew, as it finds its platform then; the program keeps its own."""

    def load():
        spec = importlib.util.spec_from_file_location("platform_anew", platform.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def macos(monkeypatch, loaded):
    """The module as it is on macOS: `.flushed` are the commands that `fcntl` was given. An error
    number in `.refusal` is what it answers.
    """
    for name in ("fdatasync", "posix_fallocate", "preadv"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL, raising=False)
    module = loaded()
    module.flushed, module.refusal = [], None

    def flush(descriptor, command):
        os.fstat(descriptor)
        module.flushed.append(command)
        if module.refusal is not None:
            raise OSError(module.refusal, os.strerror(module.refusal))
        return 0

    monkeypatch.setattr(fcntl, "fcntl", flush)
    monkeypatch.setattr(module, "_PROC", NOWHERE)
    monkeypatch.setattr(module, "_BOOT_ID", NOWHERE)
    monkeypatch.setattr(module, "_SCHEDULED", NOWHERE)
    monkeypatch.setattr(module, "_DESCRIPTORS", (NOWHERE, Path("/dev/fd")))
    return module


@pytest.fixture
def file(tmp_path):
    """An open file, empty."""
    with (tmp_path / "file").open("w+b", buffering=0) as opened:
        yield opened


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="Linux' functions")
def test_on_linux_nothing_stands_between():
    """The seam is the system's own function: it costs what that costs."""
    assert platform.flush is os.fsync
    assert platform.flush_data is os.fdatasync
    assert platform.reserve is os.posix_fallocate


@pytest.mark.parametrize("name", ["flush", "flush_data"])
def test_a_flush_empties_the_drives_cache(macos, file, name):
    """Both kinds of flush are F_FULLFSYNC, and no fsync beside it."""
    getattr(macos, name)(file.fileno())
    assert macos.flushed == [FULL]


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_without_a_full_flush(macos, file, monkeypatch, refusal):
    """What does not know it, as network file systems, gets the flush that it has."""
    plain = []
    monkeypatch.setattr(os, "fsync", plain.append)
    macos.refusal = refusal
    macos.flush(file.fileno())
    assert plain == [file.fileno()]


@pytest.mark.parametrize("refusal", [errno.EIO, errno.ENOSPC])
def test_a_flush_that_fails_is_no_flush(macos, file, monkeypatch, refusal):
    """An error of the disk is raised: a second, weaker try could hide it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    macos.refusal = refusal
    with pytest.raises(OSError, match=os.strerror(refusal)):
        macos.flush_data(file.fileno())


def test_a_system_with_neither(monkeypatch, loaded):
    """Without fdatasync and F_FULLFSYNC the plain flush stands in."""
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    assert loaded().flush_data is os.fsync


@pytest.mark.parametrize("before", [b"", b"old", b"x" * 200_000])
def test_space_is_taken_behind_what_is_there(macos, file, before):
    """Zeros up to the size; the content stays, and a file that is longer is not cut."""
    file.write(before)
    macos.reserve(file.fileno(), 0, 150_000)
    file.seek(0)
    found = file.read()
    assert found[: len(before)] == before
    assert found[len(before) :] == bytes(max(0, 150_000 - len(before)))
    assert os.fstat(file.fileno()).st_blocks * 512 >= 150_000


@pytest.mark.parametrize("which", ["linux", "macos"])
def test_reading_into_memory(request, file, which):
    """Both ways fill the same memory, and give what there is at the end of the file."""
    module = platform if which == "linux" else request.getfixturevalue("macos")
    file.write(b"0123456789")
    memory = bytearray(4)
    assert module.read_into(file.fileno(), memoryview(memory), 3) == 4
    assert bytes(memory) == b"3456"
    assert module.read_into(file.fileno(), memoryview(memory), 8) == 2
    assert bytes(memory) == b"8956"


def test_a_machine_is_known_by_its_boot(macos, monkeypatch):
    """The boot session of macOS, read once; a system that has neither is known by its name."""
    asked = []

    def sysctl(name):
        asked.append(name)
        return b"6F3C-11\0"

    monkeypatch.setattr(macos, "_sysctl", sysctl)
    assert [macos.boot_id(), macos.boot_id()] == ["6F3C-11"] * 2
    assert asked == ["kern.bootsessionuuid"]
    monkeypatch.setattr(macos, "_sysctl", lambda _: None)
    macos._boot_session_once.cache_clear()
    assert macos.boot_id() == socket.gethostname()


def test_what_the_kernel_does_not_know_by_name():
    """An unknown name, and a system without such names, give nothing."""
    assert platform._sysctl("kern.no_such_name_at_all") is None


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "expected"),
    [
        (256, 4096, None, (256, 4096)),
        (256, resource.RLIM_INFINITY, 61440, (256, 61440)),
        (256, resource.RLIM_INFINITY, None, (256, None)),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, (None, None)),
    ],
    ids=["a limit", "macOS", "no limit to raise it to", "no limit"],
)
def test_how_many_files_may_be_open(macos, monkeypatch, soft, hard, asked, expected):
    """The system may report no hard limit and refuses what is above its own."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    raw = None if asked is None else asked.to_bytes(4, "little")
    monkeypatch.setattr(macos, "_sysctl", lambda _: raw)
    assert macos.open_files_limit() == expected


def test_open_files_are_counted_without_proc(macos, file):
    """By /dev/fd, which lists this process's descriptors on both systems."""
    before = macos.open_descriptors()
    copy = os.dup(file.fileno())
    assert macos.open_descriptors() == before + 1
    os.close(copy)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/fd/3", 3),
        ("/proc/self/fd/12", 12),
        ("/dev/fd/3/x", None),
        ("/dev/fd/", None),
        ("dev/fd/3", None),
        ("rows.jsonl", None),
    ],
)
def test_paths_of_descriptors(path, number):
    """Both spellings are known on both systems."""
    assert platform.descriptor_in(path) == number


@pytest.mark.parametrize(
    ("path", "its"),
    [
        ("/proc/1/environ", True),
        ("/sys/kernel", True),
        ("/dev/fd/3", True),
        ("/dev/shm/photo.png", False),  # noqa: S108 - a path to look at
        ("/home/proc/x", False),
        ("/process", False),
    ],
)
def test_what_is_the_kernels(path, its):
    """Files of processes and of descriptors are; those in memory are files like others."""
    assert platform.is_of_the_kernel(Path(path)) is its


@pytest.mark.parametrize("which", ["linux", "macos"])
@pytest.mark.parametrize(
    ("path", "endless"),
    [("/dev/zero", True), ("/dev/urandom", True), ("/dev/null", False), ("/dev", False)],
)
def test_devices_that_never_end(request, which, path, endless):
    """By the numbers of Linux, or by those that the devices have where they are others."""
    module = platform if which == "linux" else request.getfixturevalue("macos")
    assert module.is_endless(os.stat(path)) is endless  # noqa: PTH116


@pytest.mark.parametrize("which", ["linux", "macos"])
def test_a_temporary_file_that_is_opened_again(request, which):
    """Each opening begins at the start; it is private, and gone once it is closed."""
    module = platform if which == "linux" else request.getfixturevalue("macos")
    file, path = module.reopenable()
    with file:
        file.write(b"rows")
        file.flush()
        for _ in range(2):
            assert Path(path).read_bytes() == b"rows"
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert not Path(path).exists()


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_has_ended(monkeypatch, error):
    """Linux and macOS say it in different words, and neither is an error."""

    def gone(*_):
        raise error

    monkeypatch.setattr(os, "killpg", gone)
    platform.end_group(4711)


def test_time_that_nobody_counts(macos):
    """Without Linux' figure, waiting for a core counts as nothing."""
    assert macos.waited_s() == 0.0
    assert macos.real_s() > 0
