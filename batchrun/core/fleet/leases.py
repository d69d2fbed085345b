"""Leases: whether a worker is alive, judged by the clock of the store that all of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

FOLDER = "leases"
BEAT_S = 5.0
"""A worker renews its lease this often."""
LEASE_S = 30.0
"""A lease that was not renewed for longer has expired: its worker's claims may be taken over."""


class Lease(NamedTuple):
    """A worker's lease: when it was last renewed (seconds, the store's clock), whether the worker
    has left in order, on which machine it runs, and, where machines share no disk, its status.
    """

    worker: str
    renewed_s: float
    ended: bool = False
    machine: str = ""
    status: Mapping[str, Any] | None = None

    def lives(self, now_s: float, lease_s: float = LEASE_S) -> bool:
        """Whether its worker may still be at work; ``now_s`` is by the store's clock too."""
        return not self.ended and now_s - self.renewed_s <= lease_s

    def as_bytes(self) -> bytes:
        """The content of its record; the store itself knows when it was renewed."""
        value: dict[str, Any] = {"machine": self.machine, "ended": self.ended}
        if self.status is not None:
            value["status"] = self.status
        return json.dumps(value).encode()


def lease_name(worker: str) -> str:
    """What a worker's lease is called in the store."""
    return f"{FOLDER}/{worker}"


def parse(worker: str, renewed_s: float, content: bytes) -> Lease:
    """The lease with this content. One that cannot be read is being written: it lives as long as
    it is young.
    """
    try:
        value = json.loads(content)
        status = value.get("status")
        status = status if isinstance(status, dict) else None
        return Lease(worker, renewed_s, value["ended"] is True, str(value["machine"]), status)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Lease(worker, renewed_s)
