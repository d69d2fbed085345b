"""The records of a fleet in an object store, by conditional puts (the extra ``s3``: obstore).

A put with ``If-None-Match: *`` makes an object only if there is none: S3, GCS, Azure, R2 and MinIO
keep that promise. S3 answers 409 while another such put is under way, which decides nothing: the
object is looked for, and the put made again. Times are the store's ``Last-Modified``, in seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from batchrun.core.settings import addresses
from batchrun.errors import StorageError, UsageError

TRIES = 8
PAUSE_S = 0.25
"""A put that met another one is made again after this pause, ``TRIES`` times at most."""


def bucket_store(address: str) -> Any:
    """The store of an ``s3://`` address, all names below its path. Credentials and endpoint come
    from the environment, as for Arrow.

    Raises ``UsageError`` without obstore.
    """
    try:
        from obstore.store import S3Store
    except ImportError:
        message = (
            "processes that share a run directory in an object store need obstore: "
            "pip install 'batchrun-llm[s3]'"
        )
        raise UsageError(message) from None
    bare, _ = addresses.split_query(address)
    bucket, _, path = bare.partition("://")[2].partition("/")
    # Without TLS only where the endpoint's own address says so.
    return S3Store(bucket, prefix=path.rstrip("/") or None, client_options={"allow_http": True})


class BucketClaims:
    """``ports.ClaimStore`` over a store of obstore."""

    def __init__(self, store: Any, where: str) -> None:
        """``where`` is the store as people may see it."""
        import obstore

        self._obstore = obstore
        self._store = store
        self._where = where

    def create(self, name: str, content: bytes) -> bool:
        """See ``ports.ClaimStore``."""
        for _ in range(TRIES):
            with self._asked(), contextlib.suppress(self._obstore.exceptions.AlreadyExistsError):
                self._obstore.put(self._store, name, content, mode="create", use_multipart=False)
                return True
            found = self.read(name)
            if found is not None:
                return found == content
            time.sleep(PAUSE_S)
        message = f"{self._where}/{name} is neither there nor can it be made"
        raise StorageError(message)

    def put(self, name: str, content: bytes) -> float:
        """See ``ports.ClaimStore``."""
        with self._asked():
            self._obstore.put(self._store, name, content, use_multipart=False)
        written_s = self.written_s(name)
        if written_s is None:
            message = f"{self._where}/{name} was written, and is not there"
            raise StorageError(message)
        return written_s

    def read(self, name: str) -> bytes | None:
        """See ``ports.ClaimStore``."""
        with self._asked():
            try:
                return bytes(self._obstore.get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    def written_s(self, name: str) -> float | None:
        """See ``ports.ClaimStore``."""
        with self._asked():
            try:
                return float(self._obstore.head(self._store, name)["last_modified"].timestamp())
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """See ``ports.ClaimStore``."""
        with self._asked(), contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)

    def names(self, folder: str) -> list[str]:
        """See ``ports.ClaimStore``."""
        with self._asked():
            pages = self._obstore.list(self._store, prefix=folder)
            return sorted(found["path"].rpartition("/")[2] for page in pages for found in page)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn the store's failures into a ``StorageError``."""
        try:
            yield
        except self._obstore.exceptions.AlreadyExistsError:
            raise
        except (self._obstore.exceptions.BaseError, OSError) as error:
            message = f"cannot use {self._where}, which this fleet shares: {error}"
            raise StorageError(message) from error
