"""``--sample``: a run over some rows of its input, chosen by a seed.

The rows are chosen once, by their numbers in the whole input, and recorded in the run directory.
From then on the sample is the input: its rows are numbered from 0, in input order, and readers skip
everything between them without parsing it.
"""

from __future__ import annotations

import random
import sys
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import pyarrow as pa

from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import Pipe
from batchrun.adapters.sources.reader import Reader, ReaderOver
from batchrun.adapters.system import platform
from batchrun.errors import StorageError
from batchrun.records import Block, Position, Span

_Record = TypeVar("_Record")


class Sample:
    """The rows of a sample: their numbers in the whole input, ascending. 8 bytes a row."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = array("q", numbers)

    @classmethod
    def drawn(cls, rows: int, wanted: int, seed: int) -> Sample:
        """``wanted`` of ``rows`` rows, each equally likely; all if there are no more. Deterministic
        for the same three arguments.
        """
        if wanted >= rows:
            return cls(range(rows))
        return cls(sorted(random.Random(seed).sample(range(rows), wanted)))

    @classmethod
    def recorded(cls, data: bytes) -> Sample:
        """The sample from the bytes of ``as_bytes``."""
        found = cls(())
        found._numbers.frombytes(data)
        found._swap()
        return found

    def as_bytes(self) -> bytes:
        """The numbers as little-endian 64-bit integers, to be recorded."""
        mine = Sample(self._numbers)
        mine._swap()
        return mine._numbers.tobytes()

    def _swap(self) -> None:
        if sys.byteorder == "big":
            self._numbers.byteswap()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def end(self) -> int:
        """The number of the input row after its last one."""
        return self.behind(len(self))

    def below(self, rows: int) -> int:
        """How many of its rows exist in an input of ``rows`` rows."""
        return bisect_left(self._numbers, rows)

    def behind(self, row: int) -> int:
        """The number of the input row after the sample's row before ``row``, where reading for
        ``row`` begins.
        """
        return 0 if row == 0 else self._numbers[row - 1] + 1

    def records(self, records: Iterator[_Record | None], row: int) -> Iterator[_Record | None]:
        """The sample's records from its row ``row`` on, picked from the input's records, which
        begin where reading for that row begins. None (more may come, but not at once) is passed on.
        """
        number = self.behind(row)
        if row == len(self._numbers):
            return
        for record in records:
            if record is None:
                yield None
                continue
            if number == self._numbers[row]:
                yield record
                row += 1
                if row == len(self._numbers):
                    return
            number += 1

    def batches(
        self, batches: Iterator[tuple[pa.RecordBatch, Position]], row: int
    ) -> Iterator[tuple[pa.RecordBatch, int, Sequence[int]]]:
        """The sample's rows from ``row`` on, picked from the input's batches: batch, file, and for
        each row its number in the file.
        """
        number = self.behind(row)
        for batch, start in batches:
            end = number + batch.num_rows
            last = bisect_left(self._numbers, end, row)
            if last > row:
                places = [wanted - number for wanted in self._numbers[row:last]]
                taken = batch.take(pa.array(places, pa.int64()))
                yield taken, start.file, [start.offset + place for place in places]
                row = last
            number = end
            if row == len(self._numbers):
                return


class PickingReader(Reader, Protocol):
    """A reader that can skip rows outside a sample."""

    picked: Sample | None
    times: int
    """How often each row is sent: blocks are smaller by this factor."""

    def starts(self) -> Iterator[tuple[int, Position]]:
        """The position in the input after each shard, including the last one, and the number of the
        row there. Nothing is parsed. Raises ``InputLostError``.
        """
        ...


class SampledReader(ReaderOver):
    """``reader.Reader`` over the rows of a sample."""

    def __init__(
        self, reader: Reader, sample: Sample, count: Callable[[Callable[[], bool]], int | None]
    ) -> None:
        """``reader`` picks the rows itself; ``count`` counts those of the whole input, in a
        different thread from the reading one.
        """
        super().__init__(reader)
        self._sample = sample
        self._count = count

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        return self._reader.blocks(spans, limit=limit, breaks=breaks)

    def count(self, stop: Callable[[], bool]) -> int | None:
        """The number of rows of the sample that the input still has."""
        rows = self._count(stop)
        return None if rows is None else self._sample.below(rows)


class Spool:
    """The data of a pipe, on disk: all rows must be known before a sample is drawn."""

    def __init__(self, pipe: Pipe) -> None:
        """Read the pipe to its end. Raises ``InputLostError``, and ``StorageError`` if there is no
        room.
        """
        pipe.release()
        size = 0
        try:
            self._file, path = platform.reopenable()
            for chunk in pipe.chunks(0, 0):
                size += self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            message = (
                f"cannot keep the input in {tempfile.gettempdir()}: {error.strerror or error}; "
                "make room, or name another folder with TMPDIR"
            )
            raise StorageError(message) from error
        self.stamp = Stamp(path, size, 0)
