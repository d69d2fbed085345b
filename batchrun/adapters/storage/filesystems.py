"""The file system behind an address: Arrow's own for S3 and GCS, fsspec's for everything else."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pyarrow import fs as arrow_fs

from batchrun.core.settings import addresses

_ARROW = ("s3", "gs", "gcs")
# The package to install for a scheme, if fsspec itself does not name it.
_PACKAGES = {"hf": "huggingface_hub", "abfs": "adlfs", "az": "adlfs"}
_ETAGS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "sha")
_TIMES = ("mtime", "LastModified", "last_modified", "updated")


class AddressError(Exception):
    """An address that cannot be opened here: which, and why. It shows no query."""


class Place(NamedTuple):
    """A file system and a path in it, with the address's own beginning and query."""

    system: arrow_fs.FileSystem
    path: str
    prefix: str
    query: str

    def address(self, path: str) -> str:
        """The address of another path in the same file system."""
        return f"{self.prefix}{path}{self.query}"

    @property
    def fsspec(self) -> Any | None:
        """The fsspec file system that Arrow's one wraps, if any."""
        handler = getattr(self.system, "handler", None)
        return handler.fs if isinstance(handler, arrow_fs.FSSpecHandler) else None


class Version(NamedTuple):
    """The version of the content at an address, as the store reports it. ``mtime_ns`` is 0 and
    ``etag`` None if it does not.
    """

    size: int
    mtime_ns: int
    etag: str | None


def place(address: str) -> Place:
    """The file system and the path of an address.

    Raises ``AddressError`` for an address that cannot be opened here, naming the package to
    install.
    """
    scheme = addresses.scheme_of(address)
    assert scheme is not None
    bare, query = addresses.split_query(address)
    beginning = bare[: len(scheme) + 3]
    rest = bare[len(beginning) :]
    if "@" in rest.partition("/")[0]:
        message = (
            f"{beginning}...: credentials do not belong into an address; give them in the "
            "environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
        raise AddressError(message)
    if scheme in _ARROW:
        system = _arrow_system(scheme, rest.partition("/")[0], query)
        return Place(system, rest.rstrip("/"), beginning, query)
    system, path = _fsspec_system(scheme, bare, query)
    prefix = bare[: bare.index(path)] if path and path in bare else beginning
    return Place(system, path, prefix, query)


@functools.cache
def _arrow_system(scheme: str, bucket: str, query: str) -> arrow_fs.FileSystem:
    if scheme == "s3" and "allow_delayed_open=" not in query:
        # Data that fits into one request is written with one.
        query += ("&" if query else "?") + "allow_delayed_open=true"
    try:
        return arrow_fs.FileSystem.from_uri(f"{scheme}://{bucket}{query}")[0]
    except (OSError, ValueError) as error:
        message = f"{scheme}://{bucket}: {error}"
        raise AddressError(message) from None


def _fsspec_system(scheme: str, bare: str, query: str) -> tuple[arrow_fs.FileSystem, str]:
    package = _PACKAGES.get(scheme, "fsspec")
    try:
        import fsspec
    except ImportError:
        message = f"{scheme}://...: it needs a package: pip install {package}"
        raise AddressError(message) from None
    try:
        system, path = fsspec.core.url_to_fs(bare + query if scheme.startswith("http") else bare)
    except ImportError as error:
        named = f" (pip install {package})" if scheme in _PACKAGES else ""
        message = f"{scheme}://...: it needs a package: {error}{named}"
        raise AddressError(message) from None
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        message = f"{bare}: {error}"
        raise AddressError(message) from None
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), path


def version(place: Place) -> Version:
    """The version of the object at a place. Raises ``FileNotFoundError`` or ``OSError``."""
    info = place.system.get_file_info(place.path)
    if info.type != arrow_fs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if place.fsspec is not None:
        known = place.fsspec.info(place.path)
        return Version(info.size, _time_of(known), _first(known, _ETAGS))
    with place.system.open_input_file(place.path) as file:
        metadata = file.metadata() or {}
    etag = metadata.get(b"ETag") or metadata.get("ETag") or metadata.get("etag")
    return Version(
        info.size, info.mtime_ns or 0, etag.decode() if isinstance(etag, bytes) else etag
    )


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
