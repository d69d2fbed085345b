"""``--repeat K``: every row of a source K times, whatever the source.

The reader below yields each row once, in shards of a K-th of the size; here it is passed on K
times, with new numbers and the columns ``repeat_of`` and ``repeat``. Shards have the same numbers
in both, and their digests and positions are those of the input, so that skipping, comparing and
resuming work as without repeats.

A block ends after all repeats of a row, except that a block with a single row may be split, each
piece with the digest of the whole row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.reader import Carry, Reader, ReaderOver
from batchrun.core.input.repeats import BodyOfEach
from batchrun.records import Block, Row, Span

PIECE_ROWS = 128
PIECE_BYTES = 2 * 2**20
"""A row that is sent more often than this, or is larger than this with its repeats, is split."""

_new = tuple.__new__  # half the time of a named tuple's own ways


class Single(Protocol):
    """Makes the reader of a source that yields each row once."""

    def __call__(self, carry: Carry, shard_rows: int, times: int) -> Reader:
        """Blocks are small enough for each row to be repeated ``times`` times."""
        ...


def with_repeats(carry: Carry, times: int) -> Carry:
    """The carried columns, and those that number repeats."""
    return replace(carry, schema=part_schema.with_repeats(carry.schema, times))


class RepeatingReader(ReaderOver):
    """``reader.Reader`` over the rows of another one, each ``times`` times."""

    def __init__(self, single: Single, carry: Carry, shard_rows: int, times: int) -> None:
        """``carry`` and ``shard_rows`` are those of the results: a shard has whole rows of the
        input with all repeats, unless it is smaller than that.
        """
        own = len(part_schema.REPEAT_NAMES)
        inner = replace(carry, schema=pa.schema(list(carry.schema)[:-own]))
        super().__init__(single(inner, max(1, shard_rows // times), times))
        self._schema = carry.schema
        self._times = times

    def count(self, stop: Callable[[], bool]) -> int | None:
        """See ``reader.Reader``: every repeat counts."""
        rows = self._reader.count(stop)
        return None if rows is None else rows * self._times

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        times = self._times
        inner = {at // times for at in breaks} | {-(-at // times) for at in breaks}
        rows = None if limit is None else -(-limit // times)
        borders = sorted(breaks if limit is None else {*breaks, limit})
        for block in self._reader.blocks(spans, limit=rows, breaks=inner):
            for piece in self._pieces(block, borders):
                if limit is not None and piece.first_row >= limit:
                    break
                yield piece

    def _pieces(self, block: Block, borders: Sequence[int]) -> Iterator[Block]:
        """The repeats of a block's rows: one block, or several for a single row."""
        times = self._times
        first, end = block.first_row * times, (block.first_row + len(block.rows)) * times
        shard_first = (block.first_row + len(block.rows) - block.rows_read) * times
        most = end - first
        if len(block.rows) == 1:
            most = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, len(block.carried))))
        carried = part_schema.from_ipc(block.carried).combine_chunks() if block.carried else None
        rows = [self._row(row, n) for row in block.rows for n in range(times)]
        at = first
        while at < end:
            until = min(end, at + most)
            if (place := bisect_right(borders, at)) < len(borders):
                until = min(until, borders[place])
            yield Block(
                shard=block.shard,
                first_row=at,
                rows=tuple(rows[at - first : until - first]),
                carried=self._carried(carried, first, at, until),
                rows_read=until - shard_first,
                digest=block.digest,
                end=block.end,
            )
            at = until

    def _row(self, row: Row, repeat: int) -> Row:
        """One repeat of a row."""
        number, custom_id, body, problem, size, file, line = row
        if isinstance(body, BodyOfEach):
            own = body.each[repeat]
            body, problem = (None, own) if isinstance(own, str) else (own, problem)
        known = (number * self._times + repeat, custom_id, body, problem, size, file, line)
        return _new(Row, known)

    def _carried(self, table: pa.Table | None, first: int, at: int, until: int) -> bytes:
        """The carried columns of the rows ``at`` to ``until``, of a block that begins at
        ``first``.
        """
        numbers = range(at, until)
        columns: list[Any] = []
        if table is not None:
            places = pa.array([(number - first) // self._times for number in numbers], pa.int64())
            columns = [column.take(places) for column in table.columns]
        own = (
            [number // self._times for number in numbers],
            [number % self._times for number in numbers],
        )
        kinds = (part_schema.REPEAT_OF.type, part_schema.REPEAT.type)
        columns += [pa.array(values, kind) for values, kind in zip(own, kinds, strict=True)]
        return part_schema.to_ipc(pa.Table.from_arrays(columns, schema=self._schema))
