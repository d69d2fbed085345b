"""Repeated ids are found exactly, however little fits into memory."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.adapters.environment import ids
from batchrun.errors import StorageError
from tests.harness.slow import examples

IDS = st.one_of(
    st.integers(0, 30).map(str),
    st.text(max_size=3),
    st.integers(0, 3).map(lambda tail: "long" * 100 + str(tail)),
    st.just("\ud800"),
)


def _expected(given_ids):
    """The same by a plain table."""
    counts = Counter(given_ids)
    rows = {}
    for row, custom_id in enumerate(given_ids):
        rows.setdefault(custom_id, []).append(row)
    again = sorted((r[1], r[0]) for r in rows.values() if len(r) > 1)
    more = [count for count in counts.values() if count > 1]
    return len(more), sum(more), [(first, second) for second, first in again]


def _found(given_ids):
    with ids.IdPiles() as piles:
        for row, custom_id in enumerate(given_ids):
            piles.add(row, custom_id)
        return piles.repeats()


@settings(max_examples=examples(60), deadline=None)
@given(given_ids=st.lists(IDS, max_size=200), held=st.sampled_from([1, 300, 2**24]))
def test_repeats_are_those_of_a_plain_table(given_ids, held):
    """Number of ids, of rows and the first of them, whether or not files were needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "HELD_BYTES", held)
        patch.setattr(ids, "TABLE_IDS", 3)
        found = _found(given_ids)
    number, rows, firsts = _expected(given_ids)
    assert (found.ids, found.rows) == (number, rows)
    assert [repeated.rows for repeated in found.first] == firsts[: ids.SHOWN]
    for repeated in found.first:
        whole = given_ids[repeated.rows[0]].encode("utf-8", "surrogatepass")
        start = whole.decode("utf-8", "replace")
        assert start[:50] == repeated.custom_id[:50]


def test_a_crowded_pile_is_sorted_again(monkeypatch):
    """More different ids than a table may hold are split by other bits, and nothing is missed."""
    monkeypatch.setattr(ids, "TABLE_IDS", 8)
    monkeypatch.setattr(ids, "HELD_BYTES", 10_000)
    tables = []
    whole = ids.IdPiles._sorted_again
    monkeypatch.setattr(
        ids.IdPiles, "_sorted_again", lambda self, n: tables.append(n) or whole(self, n)
    )
    names = [f"id-{n}" for n in range(5000)]
    found = _found([*names, *names[::50]])
    assert (found.ids, found.rows) == (100, 200)
    assert len(set(tables)) > 100


def test_no_file_is_left_behind(monkeypatch, tmp_path):
    """The temporary files are gone when the piles are left, by an error too."""
    monkeypatch.setattr(ids.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ids, "HELD_BYTES", 1)
    with ids.IdPiles() as piles:
        piles.add(0, "a")
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_with_advice(monkeypatch, tmp_path):
    """Where the temporary folder cannot be written, the message says where and what to do."""
    monkeypatch.setattr(ids.tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(ids, "HELD_BYTES", 1)
    with ids.IdPiles() as piles, pytest.raises(StorageError, match=r"gone.*TMPDIR"):
        piles.add(0, "a")
