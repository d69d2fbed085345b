"""A lost part of the ledger, written again from what else is known about its rows."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.old_part import BATCH_ROWS
from batchrun.adapters.parts.sealer import Parts

LOST = "ledger_lost"
"""``error_code`` of an attempt of which only the number is known."""

_UNKNOWN = frozenset(
    "attempt queue_s retry_after_s decided_by unanswered usage_raw billed_from turn".split()
)
_FROM_RESULT = tuple(name for name, _ in part_schema.ATTEMPT_FIELDS if name not in _UNKNOWN)


def write_lost(parts: Parts, journal: Journal, shard: int) -> None:
    """Write a shard's part of attempts from its part of results and its log.

    The row's result names the attempt that decided it. Earlier ones get a line with their number
    and the code ``ledger_lost``. Attempts of rows without an outcome are lost; their numbers start
    over.
    """
    _, name = parts.pair(shard)
    schema = parts.schemas()[1]
    with parts.store.draft(name) as draft:
        with pq.ParquetWriter(pa.PythonFile(draft, mode="w"), schema) as writer:
            lines: list[tuple[Any, ...]] = []
            for line in _lines(parts, journal, shard):
                lines.append(line)
                if len(lines) == BATCH_ROWS:
                    writer.write_table(part_schema.table(lines, schema))
                    lines = []
            writer.write_table(part_schema.table(lines, schema))
        parts.store.publish([draft])


def _lines(parts: Parts, journal: Journal, shard: int) -> Iterator[tuple[Any, ...]]:
    """The lines by row and number, except those in the log."""
    logged: defaultdict[int, set[int]] = defaultdict(set)
    for row, number in journal.exchanges(shard):
        logged[row].add(number)
    ahead = deque(sorted(logged))
    results, _ = parts.pair(shard)
    with parts.store.open(results) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        columns = [*_FROM_RESULT, "attempts"]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            for result in batch.to_pylist():
                while ahead and ahead[0] <= result["row"]:
                    row = ahead.popleft()
                    if row < result["row"]:
                        yield from _of_row(row, 0, logged[row], None)
                row = result["row"]
                yield from _of_row(row, result["attempts"], logged[row], result)
    for row in ahead:
        yield from _of_row(row, 0, logged[row], None)


def _of_row(
    row: int, decided: int, logged: set[int], result: Mapping[str, Any] | None
) -> Iterator[tuple[Any, ...]]:
    """The lines of one row; its result (None: it has none) came with attempt ``decided``."""
    for number in range(1, max(decided, *logged, 0) + 1):
        if number not in logged:
            yield _line(row, number, result if number == decided else None)


def _line(row: int, number: int, result: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """A line in the order of ``ATTEMPT_FIELDS``."""
    if result is None:
        known: dict[str, Any] = {"error_class": "connection", "error_code": LOST}
    else:
        answered = result["http_status"] is not None or result["error_class"] is None
        known = {name: result.get(name) for name in _FROM_RESULT}
        known["unanswered"] = False if answered else None
    known |= {"row": row, "attempt": number}
    return tuple(known.get(name) for name, _ in part_schema.ATTEMPT_FIELDS)
