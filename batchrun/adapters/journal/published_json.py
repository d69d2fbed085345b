"""The record of a shard's published parts as JSON, for places other than the state file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.adapters.journal.state_db import KeptRequests, Published
from batchrun.adapters.storage.store import FileMark
from batchrun.records import Position, ShardState


def to_json(published: Published) -> dict[str, Any]:
    """The JSON values of a shard's record."""
    state, kept = published.state, published.requests
    return {
        **state_to_json(state),
        "results_sha256": published.results_sha256,
        "attempts_sha256": published.attempts_sha256,
        "results_mark": _mark_json(published.results_mark),
        "attempts_mark": _mark_json(published.attempts_mark),
        "requests": None if kept is None else list(kept),
        "totals": published.totals,
    }


def state_to_json(state: ShardState) -> dict[str, Any]:
    """The JSON values of a shard's state."""
    return {
        "shard": state.shard,
        "rows_read": state.rows_read,
        "digest": state.digest.hex(),
        "end": list(state.end),
        "generation": state.generation,
        "complete": state.complete,
    }


def state_from_json(value: Mapping[str, Any]) -> ShardState:
    """The state with these values. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
    return ShardState(
        int(value["shard"]),
        int(value["rows_read"]),
        bytes.fromhex(value["digest"]),
        Position(*map(int, value["end"])),
        int(value["generation"]),
        complete=bool(value["complete"]),
    )


def _mark_json(mark: FileMark | None) -> list[Any] | None:
    return None if mark is None else list(mark)


def _mark(value: list[Any] | None) -> FileMark | None:
    return None if value is None else FileMark(*value)


def from_json(value: Mapping[str, Any]) -> Published:
    """The record with these values. Raises ``ValueError`` if they are invalid."""
    try:
        kept = value["requests"]
        return Published(
            state_from_json(value),
            str(value["results_sha256"]),
            str(value["attempts_sha256"]),
            dict(value["totals"]),
            _mark(value["results_mark"]),
            _mark(value["attempts_mark"]),
            None if kept is None else KeptRequests(*kept),
        )
    except (KeyError, TypeError) as error:
        message = f"no record of published parts: {error!r}"
        raise ValueError(message) from None
