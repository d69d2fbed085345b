"""CSV: what was written comes back; of any bytes, reading and counting make the same rows."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import delimited, opening, rows
from batchrun.adapters.sources.files import storage, streams
from batchrun.errors import InputError
from batchrun.records import Position, Span
from tests.harness.slow import examples

SHARD_ROWS = 4
PIECES = [b"a", b"b", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b" ", b"\xff", b"xyz"]
CELL = st.text(
    st.sampled_from("a ,;\"\t\n'\\é字😀") | st.characters(codec="utf-8", exclude_characters="\r"),
    max_size=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that every example writes anew."""
    return tmp_path_factory.mktemp("rows") / "rows.csv"


def _reader(path):
    given_input = opening.Input(tuple(storage.stamp([str(path)])), "csv")
    return given_input.reader(given_input.carry("all", SHARD_ROWS), SHARD_ROWS)


def _blocks(reader, *spans, breaks=()):
    return list(reader.blocks(spans or [Span(0, None, Position())], limit=None, breaks=breaks))


@settings(max_examples=examples(100), deadline=None)
@given(
    table=st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=9),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    read_bytes=st.sampled_from([1, 3, 16, 1000]),
)
def test_what_was_written_comes_back(path, table, newline, quoting, read_bytes):
    """Cells are carried exactly, whatever is in them and wherever a chunk ends."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=newline, quoting=quoting)
    writer.writerows([["a", "b", "c"], *table])
    path.write_bytes(out.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "READ_BYTES", read_bytes)
        reader = _reader(path)
        found = [
            list(row.values())
            for block in _blocks(reader)
            for row in part_schema.from_ipc(block.carried).to_pylist()
        ]
        assert found == table
        assert reader.count(lambda: False) == len(table)


@settings(max_examples=examples(150), deadline=None)
@given(
    data=st.lists(
        st.sampled_from(PIECES),
        max_size=60,
    ).map(b"".join),
    read_bytes=st.sampled_from([1, 5, 1000]),
    shard=st.integers(0, 3),
    cut=st.integers(1, 12),
)  # fmt: skip
def test_any_bytes_are_rows_that_can_be_entered_again(path, data, read_bytes, shard, cut):
    """Rows are numbered without a gap and as many as counted; a shard read from its recorded
    position has the same rows and digest; a break moves no digest.
    """
    path.write_bytes(b"one,two\n" + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "READ_BYTES", read_bytes)
        patch.setattr(rows, "BLOCK_ROWS", 3)
        patch.setattr(delimited, "RECORD_BYTES_MAX", 30)
        reader = _reader(path)
        whole = _blocks(reader)
        broken = _blocks(reader, breaks={cut})
        counted = reader.count(lambda: False)
        before = [block for block in whole if block.shard == shard - 1]
        alone = _blocks(reader, Span(shard, shard, before[-1].end)) if before else []
    numbers = [row.number for block in whole for row in block.rows]
    assert numbers == list(range(counted))
    expected = [block for block in whole if block.shard == shard]
    if before:
        assert [r for b in alone for r in b.rows] == [r for b in expected for r in b.rows]
        assert [b.digest for b in alone] == [b.digest for b in expected]
    assert cut >= counted or any(b.first_row == cut for b in broken)
    ends = {b.first_row + len(b.rows): b.digest for b in broken}
    assert all(ends.get(b.first_row + len(b.rows), b.digest) == b.digest for b in whole)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,a\n1,2\n", "the column 'a' more than once"),
        (b'"[{""role"": 1}]",2\n', "it looks like a row"),
        (b'a,"b"c\n1,2\n', "line 1: the header: not valid CSV"),
        (b"a,b\xff\n1,2\n", "the header: the line is not valid UTF-8"),
        (b"a,b\r1,2\r3,4\r", "CR outside of quotes"),
        (b"\n\na,b\n", "not a single row"),
        (b"", "not a single row"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(path, data, words):
    """The file, and what is wrong with its first line, are said at the start."""
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.csv") as refused:
        opening.find([str(path)], "auto")
    assert words in str(refused.value)
