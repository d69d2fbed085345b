"""Where each shard begins is known without parsing a row, and reading from there gives the same."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.sources import opening
from batchrun.records import Position, Span

ROWS = 23


def chats(rows):
    """Rows that are requests, some of them long."""
    return [{"messages": [{"role": "user", "content": f"n{row} " * (row % 5)}]} for row in rows]


def write_jsonl(folder):
    """Blank lines, a line that is not JSON, and a missing newline at the end."""
    lines = [json.dumps(row) for row in chats(range(ROWS))]
    lines[4], lines[7] = "\n" + lines[4], "{"
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return [path]


def write_gzip(folder):
    """The same, compressed."""
    (path,) = write_jsonl(folder)
    packed = folder / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return [packed]


def write_csv(folder):
    """Records of several lines."""
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "messages"])
        for row, chat in enumerate(chats(range(ROWS))):
            writer.writerow([f"a\nb, {row}", json.dumps(chat["messages"])])
    return [path]


def write_two_files(folder):
    """A shard that begins in one file and ends in the next."""
    paths = []
    for number, rows in enumerate((range(9), range(9, ROWS))):
        path = folder / f"rows-{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in chats(rows)), "utf-8")
        paths.append(path)
    return paths


def write_parquet(folder):
    """Two files, of several row groups."""
    paths = []
    for number, rows in enumerate((range(8), range(8, ROWS))):
        path = folder / f"rows-{number}.parquet"
        pq.write_table(pa.Table.from_pylist(chats(rows)), path, row_group_size=5)
        paths.append(path)
    return paths


def write_array(folder):
    """One JSON array."""
    path = folder / "rows.json"
    path.write_text(json.dumps(chats(range(ROWS)), indent=1), "utf-8")
    return [path]


@pytest.mark.parametrize("size", [1, 5, 8, ROWS, 100])
@pytest.mark.parametrize(
    "write", [write_jsonl, write_gzip, write_csv, write_two_files, write_parquet, write_array]
)
@pytest.mark.parametrize("sample", [None, 11])
def test_a_shard_read_alone_is_what_it_is_in_the_whole(tmp_path, write, size, sample):
    """The same rows, carried columns and digest, for every shard and every format."""
    found = opening.find([str(path) for path in write(tmp_path)], "auto")
    if sample is not None:
        found = found.sampled(sample, seed=1)
    rows = sample or ROWS
    carry = found.carry("all", size)
    whole = list(found.reader(carry, size).blocks([Span(0, None, Position())], limit=None))
    ends = list(found.shard_starts(carry, size))
    assert [row for row, _ in ends] == [*range(size, rows, size), rows]
    starts = [Position(), *(end for _, end in ends[:-1])]
    for shard, start in enumerate(starts):
        blocks = list(found.reader(carry, size).blocks([Span(shard, shard, start)], limit=None))
        expected = [block for block in whole if block.shard == shard]
        assert [row for b in blocks for row in b.rows] == [row for b in expected for row in b.rows]
        assert (blocks[-1].digest, blocks[-1].end) == (expected[-1].digest, expected[-1].end)


def test_a_row_group_is_decoded_once_for_all_its_shards(tmp_path, monkeypatch):
    """Shard after shard is read on from where the last one ended; row groups before the first one
    are passed over by the footer.
    """
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(chats(range(40))), path, row_group_size=10)
    decoded, iter_batches = [], pq.ParquetFile.iter_batches

    def counted(self, *, row_groups, **given):
        decoded.extend(row_groups)
        return iter_batches(self, row_groups=row_groups, **given)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    found = opening.find([str(path)], "auto")
    carry = found.carry("all", 4)
    starts = [Position(), *(end for _, end in found.shard_starts(carry, 4))]
    reader = found.reader(carry, 4)
    decoded.clear()
    for first in (3, 4, 5, 6, 9, 7, 8):
        blocks = reader.blocks([Span(first, first, starts[first])], limit=None)
        assert [row.number for block in blocks for row in block.rows] == [
            *range(4 * first, 4 * first + 4)
        ]
    assert decoded == [1, 2, 3, 2, 3]
