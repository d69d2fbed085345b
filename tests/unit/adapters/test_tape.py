"""Rows that come once, read again for as long as it is needed."""

import pytest

from batchrun.adapters.sources import tape
from batchrun.errors import InputLostError, StorageError


def _tape(count, rows=3):
    """A tape of ``count`` pieces of so many rows, and the list of what was taken from it."""
    taken = []

    def pieces():
        for number in range(count):
            taken.append(number)
            yield rows, b"%d" % number

    return tape.Tape(pieces()), taken


def _numbers(pieces):
    return [int(piece.data) for piece in pieces]


def test_every_piece_is_taken_once():
    """Readings from any row agree, and the iterator is not asked again for what is kept."""
    found, taken = _tape(2000)
    first = found.read(0, final=False)
    assert [int(next(first).data) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert taken == [0, 1, 2, 3, 4]
    assert _numbers(found.read(3000, final=False)) == list(range(1000, 2000))
    for row in (0, 1, 2, 3, 2999, 5997, 5999):
        read = list(found.read(row, final=False))
        assert read[0].first_row == row // 3 * 3
        assert _numbers(read) == list(range(row // 3, 2000))
    assert taken == list(range(2000))
    assert (found.rows, found.ended) == (6000, True)


def test_the_last_reading_keeps_nothing():
    """Rows behind what is kept pass through; asking for them again is an error."""
    found, _ = _tape(10)
    kept = found.read(0, final=False)
    next(kept)
    assert _numbers(found.read(0, final=True)) == list(range(10))
    assert _numbers(found.read(0, final=True)) == [0]
    other, _ = _tape(10)
    passing = other.read(0, final=True)
    next(passing)
    with pytest.raises(InputLostError, match="a second time"):
        next(other.read(0, final=False))


def test_a_full_disk_is_an_error_with_advice(monkeypatch):
    """Where the temporary file cannot grow, the message says what to do."""
    found, _ = _tape(1)

    class Full:
        def seek(self, *_):
            raise OSError(28, "No space left on device")

    found._file.close()
    monkeypatch.setattr(found, "_file", Full())
    with pytest.raises(StorageError, match="TMPDIR"):
        next(found.read(0, final=False))
