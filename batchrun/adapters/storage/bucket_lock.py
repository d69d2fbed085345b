"""A lock in an object store, which lasts as long as its holder renews it.

It is one object that is only replaced if it is unchanged (``If-Match``): of two processes that take
a lock with a silent holder, one succeeds, and a holder that was thought dead can no longer renew
it. How long the holder was silent is the difference of two times by the store's clock.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable

from batchrun.adapters.storage.bucket import Bucket, Tagged
from batchrun.core.fleet import leases
from batchrun.errors import RunLockedError, StorageError


class BucketLock:
    """Exclusive use of the thing that a lock object protects, from ``acquire`` to ``release``."""

    def __init__(
        self,
        bucket: Bucket,
        name: str,
        *,
        holder: str,
        machine: str,
        monotonic_s: Callable[[], float],
    ) -> None:
        """``holder`` describes the holder to people. Only one process at a time can use the id
        ``machine``, so a lock with the same id belongs to a process that died. ``monotonic_s``
        includes the time that the machine sleeps.
        """
        self._bucket = bucket
        self._name = name
        self._holder = holder
        self._machine = machine
        self._monotonic_s = monotonic_s
        self._token = secrets.token_hex(8)
        self._renewals = 0
        self._seen: Tagged | None = None
        self._renewed_s = 0.0
        self._lost = False
        self._turn = threading.Lock()
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock. Raises ``RunLockedError`` naming who holds it, or ``StorageError``."""
        asked_s = self._monotonic_s()
        found = self._bucket.look(self._name)
        if found is not None:
            self._refuse_living(found)
        content = self._content(released=False)
        if found is None:
            taken = self._bucket.make(self._name, content)
        else:
            taken = self._bucket.replace(self._name, content, found)
        seen = self._bucket.look(self._name)
        if not taken or seen is None or seen.content != content:
            raise self._locked("another process")
        self._seen, self._renewed_s = seen, asked_s
        threading.Thread(target=self._beat, name="store-lock", daemon=True).start()

    def _refuse_living(self, found: Tagged) -> None:
        try:
            value = json.loads(found.content)
            released, machine, holder = value["released"], value["machine"], str(value["holder"])
        except (ValueError, KeyError, TypeError):
            return  # not written by this protocol
        if released or machine == self._machine:
            return
        probe = f"{self._name}.time-{self._token}"
        self._bucket.write(probe, b"")
        now_s = self._bucket.written_s(probe)
        self._bucket.remove(probe)
        if now_s is not None and now_s - found.written_s <= leases.LEASE_S:
            raise self._locked(holder)

    def _locked(self, holder: str) -> RunLockedError:
        message = (
            f"{self._bucket.where()} is in use by another process ({holder}). Wait for it, or "
            f"stop it; if it died, it is free after {leases.LEASE_S:g} s"
        )
        return RunLockedError(message, holder=holder)

    def _content(self, *, released: bool) -> bytes:
        self._renewals += 1  # makes every version different, so a repeated put recognises its own
        value = {
            "holder": self._holder,
            "machine": self._machine,
            "token": self._token,
            "renewals": self._renewals,
            "released": released,
        }
        return json.dumps(value).encode()

    def _beat(self) -> None:
        while not self._released.wait(leases.BEAT_S) and not self._lost:
            # If the store does not answer, the lease expires, and ``check`` raises.
            with contextlib.suppress(StorageError):
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            if self._seen is None or self._lost or self._released.is_set():
                return
            asked_s = self._monotonic_s()
            content = self._content(released=False)
            if not self._bucket.replace(self._name, content, self._seen):
                self._lost = True
                return
            seen = self._bucket.look(self._name)
            if seen is None or seen.content != content:
                self._lost = True
                return
            self._seen, self._renewed_s = seen, asked_s

    def check(self) -> None:
        """Raise ``StorageError`` if another process took the lock, or may have because it was not
        renewed for too long: this process was suspended, or the store cannot be reached.
        """
        if self._monotonic_s() - self._renewed_s > leases.LEASE_S / 2:
            self._renew()
        if self._lost:
            message = (
                f"{self._bucket.where()} was taken over by another process, which saw no sign of "
                "this one. Nothing more is written there; what was answered is safe in the "
                "checkpoint"
            )
            raise StorageError(message)

    def release(self) -> None:
        """Release the lock. Releasing twice, or after it was lost, is harmless."""
        if self._released.is_set():
            return
        self._released.set()
        with self._turn:
            if self._seen is not None and not self._lost:
                with contextlib.suppress(StorageError):
                    content = self._content(released=True)
                    self._bucket.replace(self._name, content, self._seen)
