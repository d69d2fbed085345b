"""Objects with conditional writes: created only if absent, replaced only if unchanged.

Arrow's file systems have no conditional writes; obstore (the extra ``s3``) does. S3, GCS, Azure, R2
and MinIO support both conditions. S3 answers 409 during another conditional put, and 412 to a put
that is repeated because its first answer was lost: neither is conclusive, so the object is read to
decide. obstore itself retries 5xx and broken connections, with growing pauses.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl

from batchrun.core.settings import addresses
from batchrun.errors import StorageError, UsageError

TRIES = 8
PAUSE_S = 0.25
"""A put that conflicts with another one is retried after this pause, ``TRIES`` times at most."""
RETRIES = 10
RETRIES_S = 60.0
"""How often, and for how long, obstore retries a request after a failure of the store or the
network.
"""
PAUSES_S = (1.0, 4.0, 16.0)
"""After that it is retried after these pauses. So is a write that timed out, which obstore does not
repeat: writes here may safely happen twice.
"""
BUCKETS = ("s3", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes of stores with conditional writes."""


@functools.cache
def bucket_store(address: str) -> Any:
    """The store of an address, all names below its path. Credentials and endpoint come from the
    environment or the address's query, as for Arrow.

    Raises ``UsageError`` if obstore is missing, and for a store without conditional writes.
    """
    scheme = addresses.scheme_of(address)
    if scheme not in BUCKETS:
        message = (
            f"several processes cannot share a run directory at {scheme}://: that takes a store "
            f"with conditional writes ({', '.join(f'{each}://' for each in BUCKETS)}) or a shared "
            "disk"
        )
        raise UsageError(message)
    try:
        from obstore import store as stores
    except ImportError:
        message = (
            "processes that share a run directory in an object store need obstore: "
            "pip install 'batchrun-llm[s3]'"
        )
        raise UsageError(message) from None
    bare, query = addresses.split_query(address)
    bucket, _, path = bare.partition("://")[2].partition("/")
    options: dict[str, Any] = {
        # Without TLS only if the endpoint's own address says so.
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRIES_S)},
    }
    if scheme == "s3":
        given = _s3_options(dict(parse_qsl(query.removeprefix("?"))))
        return stores.S3Store(bucket, prefix=path.rstrip("/") or None, **given, **options)
    url = bare.rstrip("/")
    return stores.from_url("gs" + url[3:] if scheme == "gcs" else url, **options)


def _s3_options(query: dict[str, str]) -> dict[str, Any]:
    """The S3 options in an address's query, under obstore's names."""
    found: dict[str, Any] = {}
    if "region" in query:
        found["region"] = query["region"]
    if "endpoint_override" in query:
        place = query["endpoint_override"]
        scheme = query.get("scheme", "https")
        found["endpoint"] = place if "://" in place else f"{scheme}://{place}"
    # The SDK of S3 reads ~/.aws; obstore reads the environment and the machine's role.
    if "AWS_ACCESS_KEY_ID" not in os.environ and Path("~/.aws/credentials").expanduser().exists():
        with contextlib.suppress(ImportError):
            from obstore.auth.boto3 import Boto3CredentialProvider

            found["credential_provider"] = Boto3CredentialProvider()
    return found


_Done = TypeVar("_Done")


class Tagged(NamedTuple):
    """An object's content, its version in the store, and when it was written, in seconds by the
    store's clock.
    """

    content: bytes
    version: dict[str, Any]
    written_s: float


class Sink(Protocol):
    """Something to write bytes to, such as an open file."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""
        ...


class Bucket:
    """The objects below an address. Raises ``StorageError`` if the store cannot be reached."""

    def __init__(self, store: Any, where: str) -> None:
        """``store`` is an obstore store, ``where`` its address as it may be shown."""
        import obstore

        self._obstore = obstore
        self._store = store
        self._where = where

    def where(self, name: str = "") -> str:
        """The address, or that of an object below it, as it may be shown."""
        return f"{self._where}/{name}" if name else self._where

    # Reading

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if it does not exist."""
        found = self.look(name)
        return None if found is None else found.content

    def look(self, name: str) -> Tagged | None:
        """The present version of an object; None if it does not exist."""

        def get() -> tuple[Any, bytes]:
            found = self._obstore.get(self._store, name)
            return found.meta, bytes(found.bytes())

        try:
            meta, content = self._tried(get)
        except FileNotFoundError:
            return None
        known = {"e_tag": meta["e_tag"], "version": meta["version"]}
        version = {key: value for key, value in known.items() if value is not None}
        return Tagged(content, version, float(meta["last_modified"].timestamp()))

    def written_s(self, name: str) -> float | None:
        """When an object was written last, in seconds by the store's clock; None without one."""
        try:
            found = self._tried(lambda: self._obstore.head(self._store, name))
        except FileNotFoundError:
            return None
        return float(found["last_modified"].timestamp())

    def below(self, folder: str) -> list[str]:
        """The names of all objects whose names begin with ``FOLDER/``, in order."""
        return self._tried(
            lambda: sorted(
                found["path"]
                for page in self._obstore.list(self._store, prefix=folder)
                for found in page
            )
        )

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, in order."""
        found = self._tried(lambda: self._obstore.list_with_delimiter(self._store, prefix=folder))
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    # Writing

    def make(self, name: str, content: bytes) -> bool:
        """Create an object. False: it already exists. The content must be unique to the caller,
        since a call may be repeated without knowing that it succeeded.
        """
        return self._conditional(name, content, "create")

    def replace(self, name: str, content: bytes, known: Tagged) -> bool:
        """Replace an object if its version is still the known one; see ``make``."""
        return self._conditional(name, content, known.version)

    def _conditional(self, name: str, content: bytes, mode: Any) -> bool:
        refused = self._obstore.exceptions
        pauses = iter([PAUSE_S] * (TRIES - 1))
        while True:
            with contextlib.suppress(refused.AlreadyExistsError, refused.PreconditionError):
                self._tried(
                    lambda: self._obstore.put(
                        self._store, name, content, mode=mode, use_multipart=False
                    )
                )
                return True
            found = self.look(name)
            if found is not None and found.content == content:
                return True
            met = found is None if mode == "create" else found is not None and _is(found, mode)
            if not met:
                return False
            pause_s = next(pauses, None)
            if pause_s is None:
                message = f"{self.where(name)} can neither be written nor is it another's"
                raise StorageError(message)
            time.sleep(pause_s)

    def write(self, name: str, content: bytes | Path) -> None:
        """Write an object unconditionally; a file is uploaded in pieces."""
        options = {"use_multipart": False} if isinstance(content, bytes) else {}
        self._tried(lambda: self._obstore.put(self._store, name, content, **options))

    def fetch(self, name: str, target: Sink) -> bool:
        """Write the content of an object into an open file; False if there is no object. After a
        failure, part of it may be there.
        """
        try:
            found = self._tried(lambda: self._obstore.get(self._store, name))
        except FileNotFoundError:
            return False
        pieces = iter(found)
        while piece := self._once(lambda: next(pieces, b"")):
            target.write(bytes(piece))
        return True

    def remove(self, name: str) -> None:
        """Remove an object; a missing one is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._tried(lambda: self._obstore.delete(self._store, name))

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove objects, many with one request if the store supports it. Some stores fail for a
        missing one: then each is removed separately.
        """
        if not names:
            return
        try:
            self._tried(lambda: self._obstore.delete(self._store, list(names)))
        except FileNotFoundError:
            for name in names:
                self.remove(name)

    def _tried(self, action: Callable[[], _Done]) -> _Done:
        """Make a request to the store, and retry if it did not answer. A missing object, or an
        unmet condition, is an answer.
        """
        for pause_s in PAUSES_S:
            with contextlib.suppress(StorageError):
                return self._once(action)
            time.sleep(pause_s)
        return self._once(action)

    def _once(self, action: Callable[[], _Done]) -> _Done:
        """Turn the store's failures into a ``StorageError``, and permanent ones into a
        ``UsageError``.
        """
        refused = self._obstore.exceptions
        try:
            return action()
        except (refused.AlreadyExistsError, refused.PreconditionError, FileNotFoundError):
            raise
        except (refused.BaseError, OSError) as error:
            text = str(error).partition("\n")[0]
            message = f"cannot use {self._where}, which this fleet shares: {text}"
            lasting = (refused.PermissionDeniedError, refused.UnauthenticatedError)
            if isinstance(error, lasting):
                raise UsageError(message) from error
            raise StorageError(message) from error


def _is(found: Tagged, version: dict[str, Any]) -> bool:
    """Whether an object is of this version."""
    return found.version == version


def bucket_at(address: str, name: str = "") -> Bucket:
    """The objects below an address, or below a folder there. Raises ``UsageError``."""
    place = addresses.below(address, name) if name else address
    return Bucket(bucket_store(place), addresses.format_address(place))


def in_order(names: Iterable[str]) -> list[str]:
    """The last components of these names, in order."""
    return sorted(name.rpartition("/")[2] for name in names)
