"""Where input lies: local disks, object stores through Arrow, everything else through fsspec.

A place is a path as the user wrote it: a local path, ``file://...``, ``SCHEME://...`` or ``-`` for
standard input. A key in an object store is taken literally (``%20`` is three characters), as the
stores' own commands do. A query (``?endpoint_override=...``) configures the file system.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from pyarrow import fs as arrow_fs

from batchrun.errors import InputError

STDIN = "-"
REMOTE_READ_BYTES = 4 * 2**20
"""One request to a store costs tens of milliseconds, so it fetches more than a read of a disk."""

STAT_THREADS = 16
CODECS = {".gz": "gzip", ".zst": "zstd"}
MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_ARROW = ("s3", "gs", "gcs")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_QUERY = re.compile(r"\?(?=[A-Za-z0-9_.-]+=)")
# What to install for a scheme where fsspec itself cannot tell.
_PACKAGES = {"hf": "huggingface_hub", "abfs": "adlfs", "az": "adlfs"}
_ETAGS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "sha")
_TIMES = ("mtime", "LastModified", "last_modified", "updated")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the same, without reading it. Only the bytes present at
    the start are input: what is appended during a run belongs to the next one.

    ``size`` is that of the file as it lies there, compressed or not; standard input has -1.
    ``etag`` is the store's own version mark, None on a local disk.
    """

    path: str
    size: int
    mtime_ns: int
    etag: str | None = None

    @property
    def name(self) -> str:
        """The path as it may be shown: a query can hold a signature."""
        if self.path == STDIN:
            return "stdin"
        return _QUERY.split(self.path)[0] if is_remote(self.path) else self.path

    @property
    def codec(self) -> str | None:
        """How the file is compressed, by its name."""
        return CODECS.get(suffix_of(self.name))

    def same_as(self, other: Stamp) -> bool:
        """Whether this is certainly the file that ``other`` describes."""
        known = self.mtime_ns != 0 or self.etag is not None
        mine = (self.size, self.mtime_ns, self.etag)
        return known and mine == (other.size, other.mtime_ns, other.etag)

    def public(self) -> dict[str, Any]:
        """The stamp as it is recorded."""
        return {
            "path": self.path if self.path == STDIN else self.name,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "etag": self.etag,
        }


class Place(NamedTuple):
    """A file system and a path in it, with the address's own beginning and query."""

    system: arrow_fs.FileSystem
    path: str
    prefix: str
    query: str

    def address(self, path: str) -> str:
        """The address of another path in the same file system."""
        return f"{self.prefix}{path}{self.query}"


def suffix_of(path: str) -> str:
    """The last suffix of a path in lower case, with its dot."""
    return os.path.splitext(path.rpartition("/")[2])[1].lower()  # noqa: PTH122 - also for addresses


def is_remote(path: str) -> bool:
    """Whether a path is an address of something that is no local file."""
    return local_path(path) is None and path != STDIN


def local_path(path: str) -> str | None:
    """The local path that is meant, or None for an address in a store."""
    match = _SCHEME.match(path)
    if match is None:
        return path
    if match[1].lower() != "file":
        return None
    return unquote(urlsplit(path).path)


def place(address: str) -> Place:
    """The file system and the path of an address.

    Raises ``InputError`` for an address that cannot be opened here, naming the package to install.
    """
    match = _SCHEME.match(address)
    assert match is not None
    scheme = match[1].lower()
    bare, query = _cut(address)
    rest = bare[match.end() :]
    if "@" in rest.partition("/")[0]:
        message = (
            f"input {match[0]}...: credentials do not belong into an address; give them in the "
            "environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
        raise InputError(message)
    if scheme in _ARROW:
        system = _arrow_system(scheme, rest.partition("/")[0], query)
        return Place(system, rest.rstrip("/"), match[0], query)
    system, path = _fsspec_system(scheme, bare, query)
    prefix = bare[: bare.index(path)] if path and path in bare else match[0]
    return Place(system, path, prefix, query)


def _cut(address: str) -> tuple[str, str]:
    parts = _QUERY.split(address, maxsplit=1)
    return parts[0], "" if len(parts) == 1 else "?" + parts[1]


@functools.cache
def _arrow_system(scheme: str, bucket: str, query: str) -> arrow_fs.FileSystem:
    try:
        return arrow_fs.FileSystem.from_uri(f"{scheme}://{bucket}{query}")[0]
    except (OSError, ValueError) as error:
        message = f"input {scheme}://{bucket}: {error}"
        raise InputError(message) from None


def _fsspec_system(scheme: str, bare: str, query: str) -> tuple[arrow_fs.FileSystem, str]:
    package = _PACKAGES.get(scheme, "fsspec")
    try:
        import fsspec
    except ImportError:
        message = f"input {scheme}://...: reading it needs a package: pip install {package}"
        raise InputError(message) from None
    try:
        system, path = fsspec.core.url_to_fs(bare + query if scheme.startswith("http") else bare)
    except ImportError as error:
        named = f" (pip install {package})" if scheme in _PACKAGES else ""
        message = f"input {scheme}://...: reading it needs a package: {error}{named}"
        raise InputError(message) from None
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        message = f"input {bare}: {error}"
        raise InputError(message) from None
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), path


def stamp(paths: list[str]) -> list[Stamp]:
    """The stamps of input files. Raises ``InputError`` for a file that cannot be read."""
    if not any(is_remote(path) for path in paths):
        return [_stamp(path) for path in paths]
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        return list(threads.map(_stamp, paths))


def _stamp(path: str) -> Stamp:
    if path == STDIN:
        return Stamp(STDIN, -1, 0)
    shown = Stamp(path, 0, 0).name
    try:
        local = local_path(path)
        if local is None:
            return _remote_stamp(path)
        found = Path(local).stat()
        if Path(local).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with Path(local).open("rb"):
            pass
    except OSError as error:
        message = f"input {shown}: {error.strerror or error}"
        raise InputError(message) from None
    return Stamp(local, found.st_size, found.st_mtime_ns)


def _remote_stamp(address: str) -> Stamp:
    there = place(address)
    info = there.system.get_file_info(there.path)
    if info.type != arrow_fs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    handler = getattr(there.system, "handler", None)
    if isinstance(handler, arrow_fs.FSSpecHandler):
        known = handler.fs.info(there.path)
        return Stamp(address, info.size, _time_of(known), _first(known, _ETAGS))
    with there.system.open_input_file(there.path) as file:
        metadata = file.metadata() or {}
    etag = metadata.get(b"ETag") or metadata.get("ETag") or metadata.get("etag")
    text = etag.decode() if isinstance(etag, bytes) else etag
    return Stamp(address, info.size, info.mtime_ns or 0, text)


def _first(known: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((str(known[name]) for name in names if known.get(name)), None)


def _time_of(known: Mapping[str, Any]) -> int:
    for name in _TIMES:
        value = known.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value * 1e9)
    return 0


def open_file(stamp: Stamp) -> BinaryIO:
    """Open a file for reading: ``read``, ``seek`` and ``close``.

    An object in a store that is no longer the one of the stamp is refused. Raises ``OSError``.
    """
    local = local_path(stamp.path)
    if local is not None:
        return Path(local).open("rb", buffering=0)
    there = place(stamp.path)
    if not _remote_stamp(stamp.path).same_as(stamp) and (stamp.etag or stamp.mtime_ns):
        raise OSError(errno.ESTALE, "it was replaced while the run read it")
    return cast("BinaryIO", there.system.open_input_file(there.path))


def read_size(stamp: Stamp, local_bytes: int) -> int:
    """How many bytes to ask for at once."""
    return REMOTE_READ_BYTES if is_remote(stamp.path) else local_bytes
