"""The exam of the source: the fake, and the readers of real files behind the thread."""

import asyncio
import csv
import gzip
import io
import json
import os
import random
import threading
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import memory, opening, parquet
from batchrun.adapters.sources import rows as text_rows
from batchrun.adapters.sources.files import finding, storage
from batchrun.adapters.sources.files.streams import Pipe
from batchrun.adapters.sources.onepass import OnePassReader
from batchrun.adapters.sources.readahead import ReadAhead
from batchrun.adapters.sources.reader import choose
from batchrun.adapters.sources.sampling import Sample
from batchrun.core.request import prompt as prompts
from batchrun.core.settings import resolve as config
from batchrun.core.settings.reading import NOW, Reading
from batchrun.errors import InputError, InputLostError
from batchrun.records import Position, Span
from batchrun.rundir.chain import inputs
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
        first, again = (
            {block.shard: (block.rows_read, block.digest) for block in _read(source)}
            for _ in range(2)
        )
        assert first == again
        assert len(set(first.values())) == len(first)

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


def _opened(paths, limit, reading=NOW, **request):
    """The real source over these files, with all columns carried, and a prompt if there is one."""
    names = [str(path) for path in paths]
    kind = finding.format_of(names, "auto")
    given = opening.Input(tuple(storage.stamp(names)), kind, reading=reading.of(kind))
    if request:
        given = opening.find(names, "auto", _plan(**request))
    schema = given.reader(None, SHARD_ROWS).schema()
    carry = choose(schema, "all", with_extra=given.has_extra)
    return ReadAhead(given.reader(carry, SHARD_ROWS), limit=limit)


def _plan(**request):
    raw = {f"request.{key}": value for key, value in request.items()}
    return prompts.plan(config.resolve({"input.files": ["a"], "output.dir": "b"} | raw))


def _carried(blocks):
    tables = [part_schema.from_ipc(block.carried) for block in blocks]
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


class TestJsonlByTemplate(SourceContract):
    """Data rows, some with a column of messages; bad are those that the prompt cannot show."""

    REQUEST = {"prompt": "question {{ n + 0 }}", "params": {"model": "{{ which }}"}}  # noqa: RUF012

    def row(self, number):
        """A row of the input."""
        value = "not a number" if number in BAD else number
        own = _body(number) if number % 10 == 5 else {}
        return {"custom_id": f"id-{number}", "n": value, "which": "m", **own}

    def source(self, folder, limit=None):
        """The real one over this file."""
        return _opened(self.write(folder), limit, **self.REQUEST)

    def write(self, folder):
        """Write the file; returns its path."""
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(self.row(n)) + "\n" for n in range(ROWS)))
        return [path]

    def lose(self, folder):
        """Cut the file off once it was opened."""
        source = self.source(folder)
        with (folder / "rows.jsonl").open("r+b") as file:
            file.truncate((folder / "rows.jsonl").stat().st_size * 2 // 3)
        return source


class TestParquetByTemplate(TestJsonlByTemplate):
    """The same rows in two files with row groups that fit neither shards nor blocks."""

    REQUEST = {"prompt": "question {{ n | int }}", "params": {"model": "{{ which }}"}}  # noqa: RUF012

    def write(self, folder):
        """Write the files; returns their paths."""
        rows = [self.row(n) for n in range(ROWS)]
        for row in rows:
            row["n"] = str(row["n"]) if "n" in row else None
            row["messages"] = json.dumps(row["messages"]) if "messages" in row else None
        table = pa.Table.from_pylist(rows)
        paths = [folder / f"rows-{index}.parquet" for index in range(2)]
        pq.write_table(table.slice(0, 641), paths[0], row_group_size=600)
        pq.write_table(table.slice(641), paths[1], row_group_size=600)
        return paths

    def lose(self, folder):
        """Take the last file away once it was opened."""
        source = self.source(folder)
        (folder / "rows-1.parquet").unlink()
        return source


class TestRun(SourceContract):
    """The ``ok`` rows of another run: its parts and row groups fit neither shards nor blocks, and
    every fifth of its rows failed. An answer that says nothing makes an empty prompt.
    """

    PART_ROWS = 600

    def source(self, folder, limit=None):
        """The real one over these parts."""
        schema = part_schema.results_schema(pa.schema([pa.field("ticket", pa.int16())]))
        (folder / "rows" / "results").mkdir(parents=True, exist_ok=True)
        for part, first in enumerate(range(0, ROWS * 5 // 4 + 1, self.PART_ROWS)):
            lines = []
            for row in range(first, first + self.PART_ROWS):
                number, failed = row - row // 5 - 1, row % 5 == 0
                if number < ROWS:
                    line = {"row": row, "status": "error" if failed else "ok", "ticket": number}
                    said = None if failed or number in BAD else f"question {number}"
                    lines.append(line | {"custom_id": f"id-{number}", "content": said})
            table = pa.Table.from_pylist(lines, schema=schema)
            path = folder / "rows" / "results" / f"part-{part:08d}.parquet"
            pq.write_table(table, path, row_group_size=70)
        told = {"status": "complete_with_errors", "rows": {"pending": 0}, "settings": {}}
        (folder / "rows" / "summary.json").write_text(json.dumps(told))
        raw = {"input.from": str(folder / "rows"), "output.dir": "b"}
        settings = config.resolve(raw | {"request.prompt": "{{ row.content }}"})
        given = inputs.find(settings, prompts.plan(settings), NOW)
        reader = given.reader(given.carry("all", SHARD_ROWS), SHARD_ROWS)
        return ReadAhead(reader, limit=limit)

    def lose(self, folder):
        """Take the last part away once it was opened."""
        source = self.source(folder)
        (folder / "rows" / "results" / "part-00000002.parquet").unlink()
        return source

    def test_columns_and_places_go_along(self, tmp_path):
        """Carried columns keep their type; every row says which row of the run it is made from."""
        carried = _carried(_read(self.source(tmp_path)))
        assert carried.column("ticket").type == pa.int16()
        assert carried.column("ticket").to_pylist() == list(range(ROWS))
        assert carried.column("source_row").to_pylist() == [n + n // 4 + 1 for n in range(ROWS)]
        assert carried.column("source_hash").null_count == 0

    def test_its_rows_are_counted(self, tmp_path):
        """The selected ones, unless somebody says stop."""
        reader = self.source(tmp_path)._reader
        assert reader.count(lambda: False) == ROWS
        assert reader.count(lambda: True) is None


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_blocks_stay_small_where_files_are_read_for_rows(tmp_path, kind, monkeypatch):
    """The images of a block are bounded, whatever small rows name them, and digests agree with
    those of blocks that were not split.
    """
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300_000))
    rows = [{"n": number, "photo": str(image)} for number in range(40)]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    source = _opened([path], None, prompt="{{ n }}", image=["photo"])
    blocks = _read(source)
    assert all(block.size_bytes < 6 * 2**20 for block in blocks)
    assert len(blocks) > 2
    assert [row.number for row in _rows(blocks)] == list(range(40))
    assert _carried(blocks).column("n").to_pylist() == list(range(40))
    for block in blocks:
        assert block.rows_read == block.end.line == block.first_row + len(block.rows)
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 2**30)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 2**30)
    (whole,) = _read(source)
    assert whole.digest == blocks[-1].digest and whole.end == blocks[-1].end


PACK = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


class Compressed(SourceContract):
    """The files of JSON lines, each packed in several pieces one behind the other."""

    suffix = ""

    def source(self, folder, limit=None):
        """The real one over these files."""
        return _opened(self.write(folder), limit)

    def write(self, folder):
        """Write the files; returns their paths."""
        packed = []
        for path in TestJsonl().write(folder):
            data = path.read_bytes()
            third = len(data) // 3
            pieces = (data[:third], data[third : 2 * third], data[2 * third :])
            to = path.with_suffix(".jsonl" + self.suffix)
            to.write_bytes(b"".join(PACK[self.suffix](piece) for piece in pieces))
            packed.append(to)
        return packed

    def lose(self, folder):
        """Cut the last file off once it was opened."""
        paths = self.write(folder)
        source = _opened(paths, None)
        with paths[-1].open("r+b") as file:
            file.truncate(paths[-1].stat().st_size * 4 // 5)
        return source

    def test_it_reads_what_the_plain_files_hold(self, tmp_path):
        """Rows, digests and positions are those of the unpacked files."""
        packed = _read(self.source(tmp_path))
        plain = _read(_opened(sorted(tmp_path.glob("*.jsonl")), None))
        assert _rows(packed) == _rows(plain)
        assert {(b.shard, b.rows_read, b.digest, b.end) for b in packed} == {
            (b.shard, b.rows_read, b.digest, b.end) for b in plain
        }

    def test_many_spans_unpack_a_file_once(self, tmp_path, monkeypatch):
        """Shards here and there are read in one pass over the file, not in one each."""
        source = self.source(tmp_path)
        ends = {block.shard: block.end for block in _read(source)}
        opened = []
        real = storage.open_file
        monkeypatch.setattr(storage, "open_file", lambda s: opened.append(s.path) or real(s))
        rows = _rows(_read(source, [Span(n, n, ends[n - 1]) for n in (1, 4, 5, 8, 11)]))
        wanted = [100, 400, 500, 800, 1100]
        assert [row.number for row in rows] == [n for w in wanted for n in range(w, w + 100)]
        assert len(opened) == len(set(opened)) == 2

    def test_counting(self, tmp_path):
        """The rows are counted without being read as rows."""
        assert self.source(tmp_path)._reader.count(lambda: False) == ROWS

    def test_what_is_appended_meanwhile_is_not_read(self, tmp_path):
        """Only the bytes that were there at the start are input, packed ones too."""
        source = self.source(tmp_path)
        with (tmp_path / f"rows-2.jsonl{self.suffix}").open("ab") as file:
            file.write(PACK[self.suffix](b'{"messages": []}\n' * 50))
        assert len(_rows(_read(source))) == ROWS

    @pytest.mark.parametrize("harm", ["cut", "flipped"])
    def test_a_damaged_file_is_named(self, tmp_path, harm):
        """A file that was damaged before the start gives its first rows, then the error."""
        paths = self.write(tmp_path)
        data = bytearray(paths[-1].read_bytes())
        if harm == "cut":
            del data[-40:]
        else:
            data[len(data) * 9 // 10] ^= 0xFF
        paths[-1].write_bytes(data)
        with pytest.raises(InputLostError, match=r"rows-2.*damaged"):
            _read(_opened(paths, None))


class TestGzip(Compressed):
    suffix = ".gz"


class TestZstd(Compressed):
    suffix = ".zst"


class TestCsv(SourceContract):
    """Three files: quotes over several lines, carriage returns, a byte-order mark, blank lines,
    columns in another order, and every way in which a row can be bad.
    """

    BORDERS = (0, 333, 334, ROWS)
    kind, delimiter, reading = "csv", ",", NOW

    def source(self, folder, limit=None):
        """The real one over these files."""
        return _opened(self.write(folder), limit, self.reading)

    def write(self, folder):
        """Write the files; returns their paths."""
        paths = []
        for index, (first, end) in enumerate(pairwise(self.BORDERS)):
            names = ["custom_id", "messages", "note", "temperature"]
            names = names[::-1] if index == 2 else names
            lines = [self._line(names)]
            for number in range(first, end):
                cells = {
                    "custom_id": f"id-{number}",
                    "messages": json.dumps(_body(number)["messages"]),
                    "note": f'{number:05}{self.delimiter} "quoted"\nover lines'
                    * self._noted(number),
                    "temperature": "0.5" if number % 2 else "",
                }
                line = self._line([cells[name] for name in names])
                if number in BAD:
                    line = self._bad(number, line)
                lines += [line] + [b"", b"  "] * (number % 50 == 0)
            path = folder / f"rows-{index}.{self.kind}"
            newline = b"\r\n" if index == 0 else b"\n"
            mark = b"\xef\xbb\xbf" if index == 2 else b""
            path.write_bytes(mark + newline.join(lines) + newline * (index != 1))
            paths.append(path)
        return paths

    @staticmethod
    def _noted(number):
        # A broken record ends with its first line; what follows would be rows of its own.
        return number % 3 == 0 and number not in BAD

    def _line(self, cells):
        out = io.StringIO()
        csv.writer(out, delimiter=self.delimiter, lineterminator="").writerow(cells)
        return out.getvalue().encode()

    def _bad(self, number, line):
        return {
            0: line + self.delimiter.encode() + b"more",
            7: b"alone",
            99: line.replace(b"role", b'ro"le'),
            100: line.replace(b"question", b"\xff\xfe"),
            613: b'"never closed',
            1236: line.replace(b"[{", b"[["),
        }[number]

    def lose(self, folder):
        """Cut the last file off once it was opened."""
        paths = self.write(folder)
        source = _opened(paths, None, self.reading)
        with paths[-1].open("r+b") as file:
            file.truncate(paths[-1].stat().st_size * 2 // 3)
        return source

    def test_carried_columns_are_text(self, tmp_path):
        """Cells are carried as they are; those of rows that cannot be taken apart are null."""
        notes = _carried(_read(self.source(tmp_path))).column("note").to_pylist()
        for number, note in enumerate(notes):
            whole = f'{number:05}{self.delimiter} "quoted"\nover lines' * self._noted(number)
            assert note == whole or number in BAD

    def test_counting(self, tmp_path):
        """Counting finds the same records as reading."""
        assert self.source(tmp_path)._reader.count(lambda: False) == ROWS

    def test_problems_name_what_is_wrong_and_where(self, tmp_path):
        """Each bad row says what is wrong with it, and its first line."""
        source = self.source(tmp_path)
        rows = _rows(_read(source))
        words = {
            0: "5 fields where the header has 4",
            7: "1 fields where the header has 4",
            99: "text behind a closing quote",
            100: "not valid UTF-8",
            613: "quote",
            1236: "column 'messages' is not valid JSON",
        }
        for number, word in words.items():
            assert word in rows[number].problem, rows[number].problem
        assert source._reader.where(rows[0]) == f"{tmp_path / f'rows-0.{self.kind}'} line 2"
        last = (tmp_path / f"rows-2.{self.kind}").read_bytes().split(b"\n")
        assert last[rows[613].line - 1] == b'"never closed'

    def test_an_edit_changes_the_digest_of_its_shard_alone(self, tmp_path):
        """A changed byte shows in its shard from there on, and in no other; a renamed column in
        all shards of its file.
        """
        before = _read(self.source(tmp_path))
        path = tmp_path / f"rows-2.{self.kind}"
        whole = path.read_bytes()

        def changed():
            paths = sorted(tmp_path.glob(f"*.{self.kind}"))
            after = _read(_opened(paths, None, self.reading))
            return {b.shard for b, a in zip(before, after, strict=True) if b.digest != a.digest}

        path.write_bytes(whole.replace(b"question 751", b"question 75I"))
        assert changed() == {7}
        path.write_bytes(whole.replace(b"temperature", b"top_p", 1))
        assert changed() == set(range(3, 13))


class TestQuotedTsv(TestCsv):
    """The same with tabs, where the user says that its quotes enclose fields."""

    kind, delimiter, reading = "tsv", "\t", Reading(quoting="csv")


class TestOldTsv(TestCsv):
    """The same as versions before the choice read it."""

    kind, delimiter, reading = "tsv", "\t", Reading(rules=1)


class TestTsv(SourceContract):
    """Two files without quoting: quotes of every kind, a carriage return, blank lines."""

    NOTES = ("plain", "5'9\" tall", '"Well then', 'nothing"', '"whole"', '""', "a, b", " x ")

    def source(self, folder, limit=None):
        """The real one over these files."""
        return _opened(self.write(folder), limit)

    def write(self, folder):
        """Write the files; returns their paths."""
        paths = []
        for index, (first, end) in enumerate([(0, 641), (641, ROWS)]):
            lines = ["custom_id\tmessages\tnote"]
            for number in range(first, end):
                messages = "[{" if number in BAD else json.dumps(_body(number)["messages"])
                lines.append(f"id-{number}\t{messages}\t{self.NOTES[number % 8]}")
                lines += [""] * (number % 50 == 0)
            path = folder / f"rows-{index}.tsv"
            path.write_text(("\r\n" if index else "\n").join(lines), newline="")
            paths.append(path)
        return paths

    def lose(self, folder):
        """Cut the last file off once it was opened."""
        paths = self.write(folder)
        source = _opened(paths, None)
        with paths[-1].open("r+b") as file:
            file.truncate(paths[-1].stat().st_size * 2 // 3)
        return source

    def test_every_text_is_as_it_stands(self, tmp_path):
        """No quote means anything; a carriage return ends its line."""
        notes = _carried(_read(self.source(tmp_path))).column("note").to_pylist()
        assert notes == [self.NOTES[number % 8] for number in range(ROWS)]

    def test_counting(self, tmp_path):
        """Counting finds the same rows as reading."""
        assert self.source(tmp_path)._reader.count(lambda: False) == ROWS


class TestPipe(SourceContract):
    """Standard input: whatever part is asked for, it is read from its start."""

    class Piped:
        """A source that is piped the same bytes every time it is read."""

        def __init__(self, path, limit, marks):
            self._path, self._limit, self._marks = path, limit, marks

        async def blocks(self, spans):
            """See ``ports.Source``."""
            descriptor = os.open(self._path, os.O_RDONLY)
            try:
                pipe = Pipe(descriptor)
                given = opening.Input((storage.Stamp("-", -1, 0),), "jsonl", pipe=pipe)
                given.require_rows()
                inner = given.reader(given.carry("all", SHARD_ROWS), SHARD_ROWS)
                reader = OnePassReader(inner, pipe, self._marks, SHARD_ROWS)
                async for block in ReadAhead(reader, limit=self._limit).blocks(spans):
                    yield block
            finally:
                os.close(descriptor)

    def source(self, folder, limit=None):
        """The real one over the bytes of all files."""
        path = folder / "piped"
        path.write_bytes(b"\n".join(p.read_bytes() for p in TestJsonl().write(folder)))
        return self.Piped(path, limit, {})

    def lose(self, folder):
        """Other rows are recorded of its second half."""
        source = self.source(folder)
        source._marks = {900: b"not the digest"}
        return source


def _given(rows, limit, like=None):
    """The real source over rows in memory, with all columns carried that are in them, or in rows
    ``like`` them.
    """
    given = memory.find(rows, "auto")
    sample = given if like is None else memory.find(like, "auto")
    schema = sample.reader(None, SHARD_ROWS).schema()
    carry = choose(schema, "all", with_extra=given.has_extra)
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


@pytest.mark.parametrize("kind", ["dicts", "arrow"])
def test_rows_that_come_once_are_not_taken_by_who_counts_them(kind):
    """A recorded sample is resumed: one thread reads, another asks for the number of rows."""
    table = pa.table({"ticket": range(5000)})
    rows = (
        (row for row in table.to_pylist())
        if kind == "dicts"
        else pa.RecordBatchReader.from_batches(table.schema, table.to_batches(50))
    )
    chosen = Sample(range(5, 5000, 10))
    given = memory.find(rows, "auto").with_sample(chosen.as_bytes())
    schema = pa.schema({"ticket": pa.int64()})
    reader = given.reader(choose(schema, "all", with_extra=given.has_extra), 8)
    found, counted = [], []
    for block in reader.blocks([Span(0, None, Position())], limit=None):
        counted.append(reader.count(lambda: False))
        found += [int(reader.where(row)[5:-1]) for row in block.rows]
    assert found == list(range(5, 5000, 10))
    assert counted[0] is None and reader.count(lambda: False) == len(chosen)
