"""The exam of the source: the fake, and the readers of real files behind the thread."""

import asyncio
import json
import random
import threading
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from batchrun.adapters import arrow
from batchrun.adapters.sources import memory, opening
from batchrun.adapters.sources.readahead import ReadAhead
from batchrun.errors import InputError, InputLostError
from batchrun.records import Position, Span
from batchrun.testing.fakes import FakeSource
from batchrun.testing.samples import bad_row, chat_row

ROWS = 1237
SHARD_ROWS = 100
BAD = frozenset({0, 7, 99, 100, 613, 1236})
WHOLE = [Span(0, None, Position())]


def _read(source, spans=WHOLE):
    """The blocks of the spans."""

    async def play():
        return [block async for block in source.blocks(spans)]

    return asyncio.run(play())


def _rows(blocks):
    return [row for block in blocks for row in block.rows]


def _names(rows):
    """What tells rows from others, their text of trouble left out."""
    return [(row.number, row.custom_id, row.body, row.problem is not None) for row in rows]


class SourceContract:
    """What any source promises. ``source(tmp_path)`` makes one of ``ROWS`` rows in shards of
    ``SHARD_ROWS``; those numbered in ``BAD`` cannot be sent.
    """

    def source(self, folder, limit=None):
        """Make the input in a folder, and a source over it."""
        raise NotImplementedError

    def lose(self, folder):
        """Make the input unreadable from somewhere in its second half on; returns a source."""
        raise NotImplementedError

    def test_every_row_once_in_order(self, tmp_path):
        """Rows are numbered from 0 over the whole input, without a gap."""
        rows = _rows(_read(self.source(tmp_path)))
        assert [row.number for row in rows] == list(range(ROWS))

    def test_blocks_follow_each_other_inside_shards(self, tmp_path):
        """A block begins where the one before it ended, in one shard, and says how far the
        shard was read.
        """
        blocks = _read(self.source(tmp_path))
        at = 0
        for block in blocks:
            assert block.rows and block.first_row == at == block.rows[0].number
            at += len(block.rows)
            assert block.shard == block.first_row // SHARD_ROWS == (at - 1) // SHARD_ROWS
            assert block.rows_read == at - block.shard * SHARD_ROWS
        ends = [tuple(block.end) for block in blocks]
        assert all(earlier < later for earlier, later in pairwise(ends))

    def test_bad_rows_carry_their_problem(self, tmp_path):
        """A row that cannot be sent has a problem and no body; all others have a body."""
        for row in _rows(_read(self.source(tmp_path))):
            assert (row.problem is not None) == (row.body is None) == (row.number in BAD)
            if row.body is not None:
                assert row.body["messages"][0]["content"] == f"question {row.number}"
                assert row.custom_id == f"id-{row.number}"

    def test_reading_again_gives_the_same_digests(self, tmp_path):
        """A shard read again has the digest it had, so that a change shows."""
        source = self.source(tmp_path)
        first, again = _read(source), _read(source)
        assert [block.digest for block in first] == [block.digest for block in again]
        assert len({block.digest for block in first}) == len(first)

    @pytest.mark.parametrize("shard", [1, 5, 6, 11, 12])
    def test_a_span_is_the_tail(self, tmp_path, shard):
        """Reading from a shard's start gives what reading everything gives from there on."""
        source = self.source(tmp_path)
        blocks = _read(source)
        start = next(b.end for b in reversed(blocks) if b.shard == shard - 1)
        tail = _read(source, [Span(shard, None, start)])
        expected = [block for block in blocks if block.shard >= shard]
        assert _names(_rows(tail)) == _names(_rows(expected))
        last = {block.shard: (block.digest, block.rows_read, block.end) for block in expected}
        assert {block.shard: (block.digest, block.rows_read, block.end) for block in tail} == last

    def test_spans_are_read_as_they_are_given(self, tmp_path):
        """Only the shards of the spans are read, each to its end."""
        source = self.source(tmp_path)
        blocks = _read(source)
        ends = {block.shard: block.end for block in blocks}
        spans = [Span(0, 0, Position()), Span(3, 4, ends[2]), Span(12, None, ends[11])]
        numbers = [row.number for row in _rows(_read(source, spans))]
        assert numbers == [*range(100), *range(300, 500), *range(1200, ROWS)]
        assert _read(source, []) == []

    @pytest.mark.parametrize("limit", [1, 99, 100, 101, 650, ROWS, ROWS + 1])
    def test_a_limit(self, tmp_path, limit):
        """With a limit only rows numbered below it are read."""
        rows = _rows(_read(self.source(tmp_path, limit)))
        assert [row.number for row in rows] == list(range(min(limit, ROWS)))

    def test_a_limit_below_a_span(self, tmp_path):
        """A span beyond the limit is empty."""
        source = self.source(tmp_path, 250)
        start = next(b.end for b in reversed(_read(source)) if b.shard == 1)
        assert [row.number for row in _rows(_read(source, [Span(2, None, start)]))] == [
            *range(200, 250)
        ]
        assert _read(source, [Span(3, None, start)]) == []

    def test_leaving_early(self, tmp_path):
        """Who stops reading midway leaves nothing behind that still reads."""

        async def play():
            blocks = self.source(tmp_path).blocks(WHOLE)
            async for block in blocks:
                if block.shard == 2:
                    break
            await blocks.aclose()

        before = set(threading.enumerate())
        asyncio.run(play())
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
            assert not thread.is_alive()

    def test_input_that_is_lost_is_said(self, tmp_path):
        """Rows before the loss are read; then ``InputLostError`` names the input."""

        async def play():
            async for block in self.lose(tmp_path).blocks(WHOLE):
                rows.extend(block.rows)

        rows = []
        with pytest.raises(InputLostError, match="rows"):
            asyncio.run(play())
        assert 0 < len(rows) < ROWS
        assert [row.number for row in rows] == list(range(len(rows)))


class TestFakeSource(SourceContract):
    def source(self, folder, limit=None):  # noqa: ARG002 - it needs no folder
        """The fake over a list of rows."""
        rows = [bad_row(n) if n in BAD else chat_row(n) for n in range(ROWS)]
        return FakeSource(rows, shard_rows=SHARD_ROWS, block_rows=17, limit=limit)

    def lose(self, folder):  # noqa: ARG002 - it needs no folder
        """The fake that loses its input when told to."""
        rows = [chat_row(n) for n in range(ROWS)]
        return FakeSource(rows, shard_rows=SHARD_ROWS, lost_at=900)


def _body(number):
    return {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}]}


def _opened(paths, limit):
    """The real source over these files, with all columns carried."""
    names = [str(path) for path in paths]
    given = opening.Input(tuple(opening.stamp(names)), opening.format_of(names, "auto"))
    schema = given.reader(None, SHARD_ROWS).schema()
    carry = opening.choose(schema, "all", with_extra=given.has_extra)
    return ReadAhead(given.reader(carry, SHARD_ROWS), limit=limit)


def _carried(blocks):
    tables = [arrow.from_ipc(block.carried) for block in blocks]
    for table, block in zip(tables, blocks, strict=True):
        assert table.num_rows == len(block.rows)
    return pa.concat_tables(tables)


class TestJsonl(SourceContract):
    """Three files with blank lines, carriage returns, and no newline at the end of one."""

    BORDERS = (0, 333, 334, ROWS)

    def source(self, folder, limit=None):
        """The real one over these files."""
        return _opened(self.write(folder), limit)

    def write(self, folder):
        """Write the files; returns their paths."""
        paths = []
        for index, (first, end) in enumerate(pairwise(self.BORDERS)):
            lines = []
            for number in range(first, end):
                if number in BAD:
                    line = b'{"messages": [' if number % 2 else b'{"ticket": 1}'
                else:
                    fields = {"custom_id": f"id-{number}", **_body(number), "ticket": number}
                    line = json.dumps(fields).encode()
                lines.append(line + b"\r" * (number % 3 == 0))
                lines += [b"", b"  "] * (number % 50 == 0)
            path = folder / f"rows-{index}.jsonl"
            path.write_bytes(b"\n".join(lines) + b"\n" * (index != 1))
            paths.append(path)
        return paths

    def lose(self, folder):
        """Cut the last file off once it was opened."""
        paths = self.write(folder)
        source = _opened(paths, None)
        with paths[-1].open("r+b") as file:
            file.truncate(paths[-1].stat().st_size * 2 // 3)
        return source

    def test_carried_fields_go_along(self, tmp_path):
        """Each block brings the carried columns of its rows, also where it starts midway."""
        source = self.source(tmp_path)
        blocks = _read(source)
        tickets = _carried(blocks).column("ticket").to_pylist()
        assert [t for n, t in enumerate(tickets) if n not in BAD] == [
            n for n in range(ROWS) if n not in BAD
        ]

    def test_a_problem_names_file_and_line(self, tmp_path):
        """It is known where a bad row stands, also in a span that starts midway."""
        source = self.source(tmp_path)
        paths = self.write(tmp_path)
        blocks = _read(source)
        start = next(b.end for b in reversed(blocks) if b.shard == 5)
        for rows in (_rows(blocks), _rows(_read(source, [Span(6, None, start)]))):
            bad = next(row for row in rows if row.number == 613)
            lines = paths[2].read_bytes().split(b"\n")
            line = lines.index(b'{"messages": [') + 1
            assert source._reader.where(bad) == f"{paths[2]} line {line}"

    def test_what_is_appended_meanwhile_is_not_read(self, tmp_path):
        """Only the bytes that were there at the start are input."""
        source = self.source(tmp_path)
        with (tmp_path / "rows-2.jsonl").open("ab") as file:
            file.write(b'{"messages": []}\n' * 50)
        assert len(_rows(_read(source))) == ROWS

    def test_an_edit_changes_the_digest_of_its_shard_alone(self, tmp_path):
        """A changed byte shows in its shard from there on, and in no other."""
        before = _read(self.source(tmp_path))
        path = tmp_path / "rows-2.jsonl"
        path.write_bytes(path.read_bytes().replace(b"question 750", b"question 75O"))
        after = _read(_opened(sorted(tmp_path.glob("*.jsonl")), None))
        changed = {b.shard for b, a in zip(before, after, strict=True) if b.digest != a.digest}
        assert changed == {7}


class TestParquet(SourceContract):
    """Two files with row groups that fit neither shards nor blocks."""

    BORDERS = (0, 641, ROWS)

    def source(self, folder, limit=None):
        """The real one over these files."""
        return _opened(self.write(folder), limit)

    def write(self, folder):
        """Write the files; returns their paths."""
        paths = []
        for index, (first, end) in enumerate(pairwise(self.BORDERS)):
            numbers = range(first, end)
            table = pa.table(
                {
                    "custom_id": [None if n in BAD else f"id-{n}" for n in numbers],
                    "messages": [
                        "[{" if n in BAD else json.dumps(_body(n)["messages"]) for n in numbers
                    ],
                    "model": ["m"] * len(numbers),
                    "ticket": pa.array(numbers, pa.int16()),
                }
            )
            path = folder / f"rows-{index}.parquet"
            pq.write_table(table, path, row_group_size=600)
            paths.append(path)
        return paths

    def lose(self, folder):
        """Take the last file away once it was opened."""
        paths = self.write(folder)
        source = _opened(paths, None)
        paths[-1].unlink()
        return source

    def test_carried_columns_keep_their_type(self, tmp_path):
        """Each block brings the carried columns of its rows with their exact type."""
        column = _carried(_read(self.source(tmp_path))).column("ticket")
        assert column.type == pa.int16() and column.to_pylist() == list(range(ROWS))

    def test_a_problem_names_file_and_row(self, tmp_path):
        """It is known where a bad row stands."""
        source = self.source(tmp_path)
        bad = _rows(_read(source))[1236]
        assert source._reader.where(bad) == f"{tmp_path / 'rows-1.parquet'} row {1236 - 641}"

    def test_a_file_that_is_no_parquet_is_refused_at_the_start(self, tmp_path):
        """What cannot be read is said before anything is sent."""
        path = tmp_path / "rows.parquet"
        path.write_bytes(b"PAR1 nothing of the kind")
        with pytest.raises(InputError, match="not a readable Parquet file"):
            _opened([path], None)


def _given(rows, limit, like=None):
    """The real source over rows in memory, with all columns carried that are in them, or in rows
    ``like`` them.
    """
    given = memory.find(rows, "auto")
    sample = given if like is None else memory.find(like, "auto")
    schema = sample.reader(None, SHARD_ROWS).schema()
    carry = opening.choose(schema, "all", with_extra=given.has_extra)
    return ReadAhead(given.reader(carry, SHARD_ROWS), limit=limit)


def _dicts():
    for n in range(ROWS):
        if n in BAD:
            yield {"custom_id": f"id-{n}", "ticket": n}
        else:
            yield {"custom_id": f"id-{n}", **_body(n), "ticket": n}


def _table():
    return pa.table(
        {
            "custom_id": [None if n in BAD else f"id-{n}" for n in range(ROWS)],
            "messages": [
                "[{" if n in BAD else json.dumps(_body(n)["messages"]) for n in range(ROWS)
            ],
            "model": ["m"] * ROWS,
            "ticket": pa.array(range(ROWS), pa.int16()),
        }
    )


class TestDicts(SourceContract):
    """A list of dicts."""

    def source(self, folder, limit=None):  # noqa: ARG002 - it needs no folder
        """The real one over a list."""
        return _given(list(_dicts()), limit)

    def lose(self, folder):  # noqa: ARG002 - it needs no folder
        """A program that fails while it makes the rows."""

        def rows():
            for n, row in enumerate(_dicts()):
                if n == 900:
                    message = "no more rows"
                    raise RuntimeError(message)
                yield row

        return _given(rows(), None, like=list(_dicts()))


class TestTable(SourceContract):
    """An Arrow table in chunks that fit neither shards nor blocks."""

    def source(self, folder, limit=None):  # noqa: ARG002 - it needs no folder
        """The real one over a table."""
        return _given(pa.concat_tables([_table().slice(0, 641), _table().slice(641)]), limit)

    def lose(self, folder):  # noqa: ARG002 - it needs no folder
        """A stream that breaks."""

        def batches():
            for place in range(0, ROWS, 300):
                if place == 900:
                    message = "no more rows"
                    raise RuntimeError(message)
                yield from _table().slice(place, 300).to_batches()

        return _given(pa.RecordBatchReader.from_batches(_table().schema, batches()), None)


class TestDataset(TestTable):
    """A data set on the disk."""

    def source(self, folder, limit=None):
        """The real one over a data set."""
        pq.write_table(_table(), folder / "rows.parquet", row_group_size=600)
        return _given(dataset.dataset(folder / "rows.parquet"), limit)


@pytest.mark.parametrize(
    ("once", "often"),
    [
        (_dicts, lambda: list(_dicts())),
        (lambda: pa.RecordBatchReader.from_batches(_table().schema, _table().to_batches()), _table),
    ],
    ids=["dicts", "Arrow"],
)
def test_rows_that_come_once_are_compared_and_read(once, often):
    """What an earlier session read is read again to be compared; then the rest is read, and the
    blocks are those of rows that can be read at will.
    """
    expected = _read(_given(often(), None))
    ends = {block.shard: block for block in expected}
    source = _given(once(), None)
    reader = source._reader
    assert reader.count(lambda: False) in (None, ROWS)
    position = Position()
    for shard in range(7):
        *_, last = reader.blocks([Span(shard, shard, position)], limit=(shard + 1) * SHARD_ROWS)
        assert last.digest == ends[shard].digest
        position = last.end
    rest = _read(source, [Span(2, 4, ends[1].end), Span(6, None, ends[5].end)])
    wanted = [block for block in expected if block.shard in (2, 3, 4) or block.shard >= 6]
    assert _names(_rows(rest)) == _names(_rows(wanted))
    assert {b.shard: b.digest for b in rest} == {b.shard: b.digest for b in wanted}
    assert reader.count(lambda: False) == ROWS


def test_rows_that_come_slowly_are_handed_on(monkeypatch):
    """A row does not wait for its block to fill up when the next one takes its time."""
    monkeypatch.setattr(memory, "FLUSH_S", 0.0)
    blocks = _read(_given(list(_dicts())[:10], None))
    assert [len(block.rows) for block in blocks] == [1] * 10


def test_the_reader_stays_a_few_blocks_ahead(tmp_path):
    """A thread that reads ahead of a slow engine stops after a few blocks."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(_body(n)) + "\n" for n in range(20_000)))
    source = _opened([path], None)
    handed = []
    blocks_of = source._reader.blocks

    def counting(spans, *, limit):
        for block in blocks_of(spans, limit=limit):
            handed.append(block)
            yield block

    source._reader.blocks = counting

    async def play():
        taken = 0
        async for _ in source.blocks(WHOLE):
            taken += 1
            await asyncio.sleep(random.Random(taken).choice([0, 0.002]))
            assert len(handed) <= taken + 4
        return taken

    assert asyncio.run(play()) == len(handed) > 100
