"""Claims: who works on a shard, as a chain of records of which each is created only once.

The latest record of a chain decides (docs/adr/0055). ``claimed`` may be followed by ``published``,
which its own worker creates, or by ``claimed`` of another worker that takes the shard over. Both
would be the record of the same epoch, and a store creates only one of them: so a worker that was
thought dead cannot publish a shard that has a new owner. Nothing follows ``published``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from batchrun.core.fleet.sealed import sealed, unsealed
from batchrun.errors import DamagedError

FOLDER = "claims"
"""Where a fleet keeps these records."""
_NAME = re.compile(r"(\d{8,})\.(\d{6,})")


class Claim(NamedTuple):
    """A record: ``worker`` holds ``shard`` from this ``epoch`` on, or published it if
    ``published`` says what. Epochs count the records of a shard from 1.
    """

    shard: int
    epoch: int
    worker: str
    published: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What the record is called in the store."""
        return record_name(self.shard, self.epoch)

    def taken_over(self, worker: str) -> Claim:
        """The record by which another worker takes the shard over."""
        self._require_open()
        return Claim(self.shard, self.epoch + 1, worker)

    def committed(self, published: Mapping[str, Any]) -> Claim:
        """The record by which its worker publishes the shard."""
        self._require_open()
        return Claim(self.shard, self.epoch + 1, self.worker, published)

    def _require_open(self) -> None:
        if self.published is not None:
            message = f"shard {self.shard} is published; no record follows"
            raise ValueError(message)

    def as_bytes(self) -> bytes:
        """The content of the record."""
        content: dict[str, Any] = {"worker": self.worker}
        if self.published is not None:
            content["published"] = self.published
        return json.dumps(sealed(content)).encode()


def record_name(shard: int, epoch: int) -> str:
    """What a shard's record of an epoch is called in the store."""
    return f"{FOLDER}/{shard:08d}.{epoch:06d}"


def parse_name(name: str) -> tuple[int, int] | None:
    """Shard and epoch of a record, by its name in the folder; None for any other file."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def parse(shard: int, epoch: int, content: bytes) -> Claim:
    """The record with this content. Raises ``DamagedError`` for what is none; its path is the
    record's name.
    """
    name = record_name(shard, epoch)
    try:
        value = unsealed(content)
        worker, published = value.get("worker"), value.get("published")
        if isinstance(worker, str) and isinstance(published, dict | None):
            return Claim(shard, epoch, worker, published)
        why = "it does not name a worker"
    except ValueError as error:
        why = str(error)
    message = (
        f"{name}, the record of a claim, is damaged: {why}. Restore it from a backup. Without one, "
        f"remove it when no process works on the run: rows of shard {shard} may be sent again"
    )
    raise DamagedError(message, path=name)
