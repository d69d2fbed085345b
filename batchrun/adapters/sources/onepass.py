"""A reader over an input that can be read only once, such as standard input.

A resumed run is piped the same rows again. Everything is read from the start; rows that were read
before are compared with their recorded digests in passing, and only the requested blocks are passed
on. No row is passed on before the digest that covers it was found equal: until then its block
waits, on disk beyond ``HELD_BYTES_MAX``.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from batchrun.adapters.journal.journal import Journal, read_block
from batchrun.adapters.journal.shard_log import BLOCK
from batchrun.adapters.sources.files.streams import Pipe
from batchrun.adapters.sources.reader import Reader, ReaderOver
from batchrun.errors import InputChangedError
from batchrun.records import Block, Position, Span

HELD_BYTES_MAX = 32 * 2**20


class OnePassReader(ReaderOver):
    """``reader.Reader`` over a pipe; ``blocks`` may be called once."""

    def __init__(
        self, reader: Reader, pipe: Pipe, marks: Mapping[int, bytes], shard_rows: int
    ) -> None:
        """``marks`` are the recorded digests, by the row after the last one that each covers."""
        super().__init__(reader)
        self._pipe = pipe
        self._marks = marks
        self._shard_rows = shard_rows
        self._proven_at: dict[int, int] = {}
        """By shard, the last row that a digest covers."""
        for mark in sorted(marks):
            self._proven_at[(mark - 1) // shard_rows] = mark
        self._rows: int | None = None

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - it never waits
        """The number of rows once the pipe's end was read, else None."""
        return self._rows

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``.

        Raises ``InputChangedError`` if the rows differ from those of the earlier session.
        """
        spans = tuple(spans)
        recorded = max(self._marks, default=0)
        borders = {*breaks, *self._marks}
        reach = limit
        if limit is not None:
            borders.add(limit)
            reach = max(limit, recorded)
        self._pipe.release()
        rows = 0
        held = _Held()
        try:
            everything = [Span(0, None, Position())]
            for block in self._reader.blocks(everything, limit=reach, breaks=borders):
                end = block.first_row + len(block.rows)
                mark = self._marks.get(end)
                if mark is not None and mark != block.digest:
                    raise self._changed(rows, f"rows {rows:,} to {end - 1:,} are others")
                proven = mark is not None or end > self._proven_at.get(block.shard, 0)
                rows = end if proven else rows
                wanted = (limit is None or block.first_row < limit) and any(
                    span.first <= block.shard and (span.last is None or block.shard <= span.last)
                    for span in spans
                )
                if wanted and not proven:
                    held.put(block)
                    continue
                if proven:
                    yield from held.take()
                if wanted:
                    yield block
            if rows < recorded:
                raise self._changed(rows, f"it ends before row {recorded - 1:,}")
        finally:
            held.close()
        self._rows = rows

    def _changed(self, first: int, how: str) -> InputChangedError:
        message = (
            f"what is piped in is not what the run was begun with: {how}. None of the rows from "
            f"{first:,} on was sent, and every answer is kept. Pipe the same rows in again; or "
            "--keep-done keeps every done row and runs the rest; --restart starts over"
        )
        return InputChangedError(message)


class _Held:
    """Blocks that wait, in order; beyond ``HELD_BYTES_MAX`` in an unnamed file."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(HELD_BYTES_MAX)  # noqa: SIM115 - closed by close
        self._count = 0

    def put(self, block: Block) -> None:
        """Take a block."""
        pickle.dump(block, self._file)
        self._count += 1

    def take(self) -> Iterator[Block]:
        """Give all of them back."""
        if not self._count:
            return
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)  # noqa: S301 - written by `put`, nobody else has the file
        self._file.seek(0)
        self._file.truncate()
        self._count = 0

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def recorded_marks(journal: Journal) -> dict[int, bytes]:
    """The digests of the input in a run directory, by the row after the last one they cover: one
    for every published shard, one for every block that only a log has.
    """
    size = journal.shard_rows
    marks = {}
    for state in journal.shards():
        if state.digest:
            marks[state.shard * size + state.rows_read] = state.digest
    for shard, log in journal.logs.items():
        for place in log.places:
            if place.kind == BLOCK:
                block = read_block(log.body(place))
                marks[shard * size + block.rows_read] = block.digest
    return marks
