"""The log of a shard in progress, read while a run may be appending to it.

The file is mapped as it is at this moment and never written: a group that a running process has not
finished writing fails its checksum and is skipped. Several passes replace an index in memory.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Self

import msgspec
import pyarrow as pa

from batchrun.adapters.columns import read_answers
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import (
    LOG_NAME,
    read_attempt,
    read_block,
    read_outcome,
    read_reused,
)
from batchrun.adapters.journal.shard_log import (
    ATTEMPT,
    BLOCK,
    OUTCOME,
    PREFIX_BYTES,
    REUSED,
    sound_records,
)
from batchrun.records import Attempt, Outcome

PIECE_ATTEMPTS = 4096
PIECE_ROWS = 256
"""Rows of a log that are a table at once."""


def logs_of(checkpoint: Path | None, generations: dict[int, int]) -> dict[int, Path]:
    """The logs that no part holds yet, by shard. ``generations`` are those recorded."""
    found: dict[int, tuple[int, Path]] = {}
    for path in sorted(checkpoint.glob("shard-*.log")) if checkpoint is not None else ():
        match = LOG_NAME.fullmatch(path.name)
        if match is not None and int(match[2]) > generations.get(int(match[1]), 0):
            # Of two, the later one takes over once the parts made of the first are recorded.
            shard, generation = int(match[1]), int(match[2])
            found[shard] = min(found.get(shard, (generation, path)), (generation, path))
    return {shard: path for shard, (_, path) in found.items()}


class LogView:
    """The outcomes and attempts in one log. Close it, or leave it as a context."""

    def __init__(self, path: Path, rows: range) -> None:
        """``rows`` are those of the shard. Raises ``FileNotFoundError`` where it is published by
        now.
        """
        self._span = rows
        self._data: bytes | mmap.mmap = b""
        with path.open("rb") as file, contextlib.suppress(ValueError):  # ValueError: it is empty
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._last: dict[int, int] = {}
        for place, (row, kind, record) in enumerate(self._records()):
            if kind == OUTCOME:
                self._last[row] = place
            elif kind == REUSED:
                reused = read_reused(record[PREFIX_BYTES:])
                rows_of = range(reused.row, reused.row + reused.rows)
                self._last |= dict.fromkeys(rows_of, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        return sound_records(self._data, self._span)

    @property
    def rows(self) -> Container[int]:
        """The rows with an outcome in it."""
        return self._last

    def outcomes(self, wanted: Container[int] | None = None) -> Iterator[Outcome]:
        """The outcomes that count, of all rows or of some, in order of arrival."""
        for place, (row, kind, record) in enumerate(self._records()):
            if kind == OUTCOME:
                if self._last[row] == place and (wanted is None or row in wanted):
                    yield read_outcome(record[PREFIX_BYTES:])
            elif kind == REUSED:
                for outcome in read_answers.outcomes(read_reused(record[PREFIX_BYTES:])):
                    counts = self._last[outcome.row] == place
                    if counts and (wanted is None or outcome.row in wanted):
                        yield outcome

    def attempts(self, wanted: Container[int]) -> Iterator[Attempt]:
        """Every attempt of some rows."""
        for row, kind, record in self._records():
            if row not in wanted or kind not in (OUTCOME, ATTEMPT):
                continue
            body = record[PREFIX_BYTES:]
            with contextlib.suppress(msgspec.MsgspecError):
                attempt = read_attempt(body) if kind == ATTEMPT else read_outcome(body).attempt
                if attempt is not None:
                    yield attempt

    def all_attempts(self) -> Iterator[list[Attempt]]:
        """Every attempt of every row, each once, in pieces."""
        seen: set[tuple[int, int]] = set()
        held: list[Attempt] = []
        for row, kind, record in self._records():
            if kind not in (OUTCOME, ATTEMPT):
                continue
            body = record[PREFIX_BYTES:]
            attempt = read_attempt(body) if kind == ATTEMPT else read_outcome(body).attempt
            if attempt is None or (row, attempt.number) in seen:
                continue
            seen.add((row, attempt.number))
            held.append(attempt)
            if len(held) == PIECE_ATTEMPTS:
                yield held
                held = []
        if held:
            yield held

    def tables(
        self, wanted: Container[int] | None, carried: pa.Schema | None, *, turns: bool
    ) -> Iterator[pa.Table]:
        """The same outcomes as the columns of results, with the carried ones where their schema
        is given; a few rows at a time. ``turns`` says that they are conversations.
        """
        held: list[Outcome] = []
        for outcome in self.outcomes(wanted):
            held.append(outcome)
            if len(held) == PIECE_ROWS:
                yield self._table(held, carried, turns=turns)
                held = []
        if held:
            yield self._table(held, carried, turns=turns)

    def _table(
        self, outcomes: list[Outcome], carried: pa.Schema | None, *, turns: bool
    ) -> pa.Table:
        outcomes.sort(key=lambda outcome: outcome.row)
        schema = part_schema.results_schema(pa.schema([]), turns=turns)
        arrays = part_schema.result_columns(outcomes)
        if turns:
            arrays.append(part_schema.messages_column(outcomes))
        table = pa.Table.from_arrays(arrays, schema=schema)
        if carried is None or not len(carried):
            return table
        beside = self._carried([outcome.row for outcome in outcomes], carried)
        for field, column in zip(carried, beside.columns, strict=True):
            place = table.schema.get_field_index(field.name)
            if place >= 0:  # a run of version 0.1 carries what has a column of its own now
                table = table.remove_column(place)
            table = table.append_column(field, column)
        return table

    def _carried(self, rows: list[int], schema: pa.Schema) -> pa.Table:
        """The carried columns of these rows; nulls where their block is not in the log."""
        found: dict[int, pa.Table] = {}
        for first, kind, record in self._records():
            if kind != BLOCK or first > rows[-1]:
                continue
            block = read_block(record[PREFIX_BYTES:])
            inside = [row for row in rows if first <= row < first + block.rows]
            if inside and block.carried:
                table = part_schema.from_ipc(block.carried)
                found |= {row: table.slice(row - first, 1) for row in inside}
        missing = pa.Table.from_pylist([dict.fromkeys(schema.names)], schema=schema)
        return pa.concat_tables([found.get(row, missing).cast(schema) for row in rows])
