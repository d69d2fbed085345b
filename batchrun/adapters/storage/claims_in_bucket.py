"""The records of a fleet in an object store, by conditional puts (``bucket.py``).

Times are the store's ``Last-Modified``, in seconds: no machine's clock takes part.
"""

from __future__ import annotations

from batchrun.adapters.storage.bucket import Bucket, in_order
from batchrun.errors import StorageError


class BucketClaims(Bucket):
    """``ports.ClaimStore`` over an obstore store."""

    def create(self, name: str, content: bytes) -> bool:
        """See ``ports.ClaimStore``."""
        return self.make(name, content)

    def put(self, name: str, content: bytes) -> float:
        """See ``ports.ClaimStore``."""
        self.write(name, content)
        written_s = self.written_s(name)
        if written_s is None:
            message = f"{self.where(name)} was written, and is not there"
            raise StorageError(message)
        return written_s

    def names(self, folder: str) -> list[str]:
        """See ``ports.ClaimStore``."""
        return in_order(self.below(folder))
