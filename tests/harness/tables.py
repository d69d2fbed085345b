"""What a simulated run published, read back: rows of results and lines of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from batchrun.adapters.parts import old_part
from batchrun.adapters.storage.disk_store import DiskStore
from tests.harness import plain_parts

_LEDGER = ["row", "attempt", "http_status", "error_code", "unanswered", "started_at"]
_LEDGER += ["error_class", "total_tokens"]
_RESULTS = ["row", "custom_id", "content", "attempts", "request_hash", "started_at"]
_RESULTS += ["error_class"]


class Line(NamedTuple):
    """A line of the ledger."""

    row: int
    number: int
    http_status: int | None
    error_code: str | None
    unanswered: bool
    started_us: int
    error_class: str | None
    total_tokens: int | None


class Result(NamedTuple):
    """A row of the results. ``started_us`` is None for a row that was never sent."""

    row: int
    custom_id: str | None
    content: str | None
    attempts: int
    request_hash: str | None
    started_us: int | None
    error_class: str | None


def published(folder: Path, *, plain: bool) -> tuple[list[Result], list[Line]]:
    """All parts of a run directory, in name order. ``plain`` says that they are no Parquet."""
    store = DiskStore(folder)
    results, ledger = store.names("results"), store.names("attempts")
    if not plain:
        return (
            [Result(*row) for name in results for row in _tuples(store, "results", name, _RESULTS)],
            [Line(*row) for name in ledger for row in _tuples(store, "attempts", name, _LEDGER)],
        )
    return (
        [
            Result(
                o.row,
                o.custom_id,
                o.completion.first.content if o.completion else None,
                o.attempts,
                o.request_hash,
                o.attempt.started_at_us if o.attempt else None,
                o.failure.error_class if o.failure else None,
            )
            for name in results
            for o in plain_parts.read_outcomes(store, f"results/{name}")
        ],
        [
            Line(
                a.row,
                a.number,
                a.http_status,
                a.error_code,
                a.unanswered,
                a.started_at_us,
                a.error_class,
                a.usage.total_tokens,
            )
            for name in ledger
            for a in plain_parts.read_attempts(store, f"attempts/{name}")
        ],
    )


def _tuples(store: DiskStore, kind: str, name: str, columns: list[str]) -> list[tuple[Any, ...]]:
    table = old_part.read(store, f"{kind}/{name}", columns)
    assert table is not None, f"{kind}/{name} is gone"
    taken = [table.column(column) for column in columns]
    moment = columns.index("started_at")
    taken[moment] = taken[moment].cast("int64")
    return list(zip(*(column.to_pylist() for column in taken), strict=True))
