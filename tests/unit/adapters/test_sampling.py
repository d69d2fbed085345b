"""Which rows a sample has, and how readers pick them."""

import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest

from batchrun.adapters.sources.sampling import Sample
from batchrun.records import Position


def _numbers(sample, rows):
    return [record - 1 for record in sample.records(iter(range(1, rows + 1)), 0)]


@pytest.mark.parametrize(("rows", "wanted"), [(1, 1), (5, 5), (5, 9), (1000, 1), (1000, 999)])
def test_a_sample_has_as_many_rows_as_wanted_or_all(rows, wanted):
    """Different rows of the input, in its order; the same for the same seed."""
    found = _numbers(Sample.drawn(rows, wanted, 7), rows)
    assert len(found) == min(rows, wanted)
    assert found == sorted(set(found)) and 0 <= found[0] <= found[-1] < rows
    assert found == _numbers(Sample.drawn(rows, wanted, 7), rows)


def test_another_seed_is_another_sample():
    """Seeds tell samples apart, and every row is as likely as any other."""
    samples = [tuple(_numbers(Sample.drawn(20, 5, seed), 20)) for seed in range(2000)]
    assert len(set(samples)) > 1500
    counts = Counter(row for sample in samples for row in sample)
    assert len(counts) == 20
    assert all(400 < count < 600 for count in counts.values()), counts


def test_a_sample_is_recorded_whole():
    """What is recorded gives the same rows again, on any machine: little-endian, 8 bytes each."""
    sample = Sample([0, 3, 2**40])
    assert sample.as_bytes() == b"".join(n.to_bytes(8, "little") for n in (0, 3, 2**40))
    assert list(Sample.recorded(sample.as_bytes())._numbers) == [0, 3, 2**40]
    assert [sample.below(rows) for rows in (0, 1, 4, 2**41)] == [0, 1, 2, 3]


def test_reading_enters_at_any_row():
    """From the record behind the row before on; pauses are handed on, and nothing is read behind
    the last row.
    """
    sample = Sample([2, 3, 7])
    records = iter([None, "a", "b", "c", None, "d", "e", "f", "g", "h", "i"])
    assert list(sample.records(records, 0)) == [None, "c", None, "d", "h"]
    assert next(records) == "i"
    assert list(sample.records(iter("efghi"), 2)) == ["h"]
    assert list(sample.records(iter("xyz"), 3)) == []
    assert list(sample.records(iter("ab"), 0)) == []


def test_batches_are_cut_to_the_sample():
    """Rows of a batch come with their numbers in its file; batches without any are passed over."""
    batch = pa.record_batch({"n": list(range(4))})
    given = [(batch, Position(0, 0)), (batch, Position(0, 4)), (batch, Position(1, 0))]
    found = [
        (rows["n"].to_pylist(), file, list(lines))
        for rows, file, lines in Sample([1, 3, 8]).batches(iter(given), 0)
    ]
    assert found == [([1, 3], 0, [1, 3]), ([0], 1, [0])]
    later = [(batch.slice(2), Position(0, 2)), *given[1:]]
    assert [lines for _, _, lines in Sample([1, 3, 8]).batches(iter(later), 1)] == [[3], [0]]


@pytest.mark.slow
def test_memory_goes_by_the_sample():
    """Rows that are passed over are not kept."""
    sample = Sample.drawn(10**5, 10, 1)
    tracemalloc.start()
    count = sum(1 for _ in sample.records(iter(range(10**5)), 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10
    assert peak < 10_000
