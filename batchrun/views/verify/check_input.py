"""Published rows beside the input as it is now: ``verify --against``.

Each row's ``custom_id``, carried columns and request are made again, by the run's own readers and
with the settings that the run recorded, and compared with what was published. One pass over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.storage.store import part_names
from batchrun.core.text.wording import counted, verb
from batchrun.errors import RowError
from batchrun.records import Block, Position, Span
from batchrun.rundir.chain import inputs, recorded_input
from batchrun.rundir.inspect import Look
from batchrun.rundir.state_reader import Recorded
from batchrun.views.verify.findings import Report

_FIXED = ("row", "custom_id", "request_hash")


def compare(
    look: Look,
    summary: Mapping[str, Any] | None,
    known: Recorded | None,
    report: Report,
    names: Sequence[str],
    input_format: str,
) -> None:
    """Compare every published row with the input. Raises ``InputError`` or ``UsageError``, and
    ``InputLostError`` for input that cannot be read on.
    """
    given, carry, build, reader = recorded_input.reopened(
        look, summary, known, names, input_format, asked="--against", find=inputs.find
    )
    if given.pipe is not None:
        given.pipe.release()
    rows = summary.get("rows") if summary else None
    limit = rows.get("input") if isinstance(rows, dict) else None
    published = _Published(_tables(look, carry), report)
    report.compared = 0
    seen = 0
    digests: dict[int, tuple[int, bytes]] = {}
    for block in reader.blocks([Span(0, None, Position())], limit=None):
        seen = block.first_row + len(block.rows)
        _note_digest(block, known, digests)
        there = published.below(seen)
        if there is not None:
            _compare_block(_expected(block, carry, build), there, report)
    published.finish(seen)
    left = seen - report.compared
    if left > 0:
        report.notes.append(
            f"{counted(left, 'row')} of the input {verb(left, 'has', 'have')} no result"
        )
    if isinstance(limit, int) and seen > limit:
        report.notes.append(
            f"the input has {counted(seen, 'row')}, the run counts {limit:,}: it was limited, or "
            "rows came later"
        )
    _tell_digests(known, digests, report)


def _tables(look: Look, carry: Carry) -> Iterator[pa.Table]:
    """What was published of each row: number, custom_id, request hash, carried columns.

    Parts that cannot be read, or lack one of these, were reported before, and are skipped.
    """
    wanted = [*_FIXED, *carry.schema.names]
    for name in part_names(look.store, "results"):
        try:
            with (
                look.store.open(f"results/{name}") as source,
                pq.ParquetFile(source, pre_buffer=False) as file,
            ):
                if not set(wanted) <= set(file.schema_arrow.names):
                    continue
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=wanted, use_threads=False)
                    yield table.select(wanted).combine_chunks()
        except (OSError, pa.ArrowException):
            continue


class _Published:
    """Published rows, taken in step with the input."""

    def __init__(self, tables: Iterator[pa.Table], report: Report) -> None:
        self._tables = tables
        self._report = report
        self._ahead: pa.Table | None = None

    def below(self, row: int) -> pa.Table | None:
        """The published rows below this one that were not taken yet; None for none."""
        taken: list[pa.Table] = []
        while True:
            table = self._ahead if self._ahead is not None else next(self._tables, None)
            self._ahead = None
            if table is None:
                break
            low = pc.less(table.column("row"), row)
            count = pc.sum(low).as_py() or 0
            if count:
                taken.append(table.filter(low))
            if count < table.num_rows:
                self._ahead = table.filter(pc.invert(low))
                break
        return pa.concat_tables(taken).combine_chunks() if taken else None

    def finish(self, seen: int) -> None:
        """Rows behind the input's last are results of no row."""
        table = self._ahead if self._ahead is not None else next(self._tables, None)
        while table is not None:
            self._tell_missing(table.column("row"), seen)
            table = next(self._tables, None)

    def _tell_missing(self, rows: pa.ChunkedArray, seen: int) -> None:
        self._report.where(
            "input_row_missing",
            pc.greater_equal(rows, seen),
            lambda n: f"row {rows[n]} has a result and is not in the input",
        )


def _expected(block: Block, carry: Carry, build: Any) -> pa.Table:
    """What a block's rows should be published with."""
    hashes: list[str | None] = []
    for row in block.rows:
        try:
            hashes.append(build(row).hash)
        except RowError:
            hashes.append(None)
    columns = [
        pa.array([row.number for row in block.rows], pa.int64()),
        pa.array([row.custom_id for row in block.rows], pa.string()),
        pa.array(hashes, pa.string()),
    ]
    carried = part_schema.from_ipc(block.carried).columns if block.carried else []
    return pa.table([*columns, *carried], names=[*_FIXED, *carry.schema.names])


def _compare_block(expected: pa.Table, there: pa.Table, report: Report) -> None:
    """Published rows of a block, beside what they should be."""
    report.compared = (report.compared or 0) + there.num_rows
    rows = there.column("row")
    places = pc.index_in(rows, value_set=expected.column("row").combine_chunks())
    if places.null_count:  # rows of another place, which the order of rows told of before
        there = there.filter(pc.is_valid(places))
        rows, places = there.column("row"), places.drop_null()
    if not rows.equals(expected.column("row")):
        expected = expected.take(places)
    for name in expected.schema.names[1:]:
        # A column of another type was told of before.
        if there.schema.field(name).type == expected.schema.field(name).type:
            _compare_column(name, rows, there.column(name), expected.column(name), report)


def _compare_column(
    name: str, rows: pa.ChunkedArray, one: pa.ChunkedArray, other: pa.ChunkedArray, report: Report
) -> None:
    if one.equals(other):
        return
    wrong = [
        not one.slice(n, 1).equals(other.slice(n, 1)) and _shown(one, n) != _shown(other, n)
        for n in range(len(one))
    ]
    report.where(
        f"input_{name}" if name in _FIXED else "input_carried",
        pa.array(wrong, pa.bool_()),
        lambda n: f"row {rows[n]} has {name} {_short(one, n)}, the input gives {_short(other, n)}",
    )


def _shown(column: pa.ChunkedArray, place: int) -> str:
    """A value as text that tells it from others; NaN is the same as NaN."""
    try:
        return repr(column[place].as_py())
    except ValueError:  # nanoseconds have no Python value
        return str(column.slice(place, 1).to_string())


def _short(column: pa.ChunkedArray, place: int) -> str:
    text = _shown(column, place)
    return text if len(text) <= 100 else text[:100] + "..."


def _note_digest(
    block: Block, known: Recorded | None, digests: dict[int, tuple[int, bytes]]
) -> None:
    """The fingerprint of a shard's input, as far as the run read it."""
    shard = known.shards.get(block.shard) if known else None
    if shard is not None and block.rows_read <= shard.rows_read:
        digests[block.shard] = (block.rows_read, block.digest)


def _tell_digests(
    known: Recorded | None, digests: Mapping[int, tuple[int, bytes]], report: Report
) -> None:
    """Shards whose input is written otherwise than when it was read."""
    if known is None:
        return
    changed = [
        shard
        for shard, (rows_read, digest) in sorted(digests.items())
        if (known.shards[shard].rows_read, known.shards[shard].digest) != (rows_read, digest)
        and rows_read == known.shards[shard].rows_read
    ]
    if changed:
        report.notes.append(
            f"the input of {counted(len(changed), 'shard')} (first {changed[0]}) is not byte for "
            "byte what the run read"
        )
