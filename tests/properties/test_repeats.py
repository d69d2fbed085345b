"""What holds of rows that are repeated, for any input, number of repeats, shard size and border."""

from dataclasses import replace

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import memory
from batchrun.core.input.repeats import answer_key, whole_rows
from batchrun.records import Position, Span

COUNTS = st.integers(1, 30)
REPEATS = st.integers(2, 150)
SIZES = st.integers(1, 200)


@given(SIZES, st.integers(1, 10_000))
def test_a_shard_holds_whole_rows(size, repeat):
    """It is a multiple of K, at most what was asked for unless K alone is more, and settled: the
    size of a shard that is whole already stays.
    """
    whole = whole_rows(size, repeat)
    assert whole % repeat == 0 and whole > 0
    assert whole <= max(size, repeat)
    assert size < repeat or size - whole < repeat
    assert whole_rows(whole, repeat) == whole


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1000), st.integers(0, 1000))
def test_no_repeat_has_the_key_of_another(digest, one, other):
    """The first one has that of a run without repeats."""
    assert (answer_key(digest, one) == answer_key(digest, other)) == (one == other)
    assert answer_key(digest, 0) == digest


def _read(reader, spans, limit=None, breaks=()):
    """All rows with their carried columns, and the digest of each shard at the end of each block;
    every block is what the engine may rely on.
    """
    rows, digests = [], {}
    for block in reader.blocks(spans, limit=limit, breaks=breaks):
        carried = part_schema.from_ipc(block.carried).to_pylist()
        numbers = [row.number for row in block.rows]
        assert numbers == list(range(block.first_row, block.first_row + len(numbers)))
        assert len(carried) == len(numbers)
        rows += list(zip(block.rows, carried, strict=True))
        digests[block.shard, block.rows_read] = (block.digest, block.end)
    return rows, digests


@settings(max_examples=60, deadline=None)
@given(COUNTS, REPEATS, SIZES, st.booleans(), st.data())
def test_any_row_comes_k_times_from_anywhere(count, repeat, asked, is_table, data):
    """Read whole, up to a limit, with any borders, or from any shard on: the same rows under the
    same numbers, and the same digest of a shard wherever a block of it ends at that row.
    """
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}], "place": n} for n in range(count)]
    given_rows = pa.Table.from_pylist(lines) if is_table else lines
    found = replace(memory.find(given_rows, "auto"), repeat=repeat)
    size = whole_rows(asked, repeat)
    carry = found.carry("all", size)
    everything, digests = _read(found.reader(carry, size), [Span(0, None, Position())])
    assert [row.number for row, _ in everything] == list(range(count * repeat))
    for row, fields in everything:
        assert (fields["repeat_of"], fields["repeat"]) == divmod(row.number, repeat)
        assert fields["place"] == row.number // repeat
        assert row.body["messages"][0]["content"] == f"q{row.number // repeat}"
    limit = data.draw(st.integers(1, count * repeat))
    breaks = data.draw(st.sets(st.integers(1, count * repeat), max_size=4))
    some, others = _read(found.reader(carry, size), [Span(0, None, Position())], limit, breaks)
    assert some == everything[:limit]
    ends = {shard * size + rows for shard, rows in others}
    assert {at for at in breaks if at < limit} | {limit} <= ends
    for key in others.keys() & digests.keys():
        assert others[key][0] == digests[key][0]
    shard = data.draw(st.integers(0, (count * repeat - 1) // size))
    start = digests[shard - 1, size][1] if shard else Position()
    rest, _ = _read(found.reader(carry, size), [Span(shard, None, start)])
    assert rest == everything[shard * size :]
