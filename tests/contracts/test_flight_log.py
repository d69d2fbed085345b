"""The flight log: what it tells after a kill at any moment."""

import random

import pytest

from batchrun.adapters.journal.flight_log import FlightLog, Note, read_notes


@pytest.fixture
def path(tmp_path):
    """Where the log is."""
    return tmp_path / "inflight"


def _notes(path):
    return sorted((note.row, note.attempt) for note in read_notes(path))


def test_a_note_is_readable_at_once(path):
    """What is noted is there for whoever reads the file, without a flush or an end."""
    log = FlightLog(path, 4)
    log.note(0, 1, 0, 123)
    log.note(9, 3, 2, 456)
    assert sorted(read_notes(path), key=lambda note: note.row) == [
        Note(0, 1, 0, 123),
        Note(9, 3, 2, 456),
    ]
    log.close()
    assert _notes(path) == [(0, 1), (9, 3)], "closing keeps what is out"


def test_a_later_attempt_takes_the_slot(path):
    """A row has one note: that of its last attempt."""
    log = FlightLog(path, 1)
    for number in (1, 2, 3):
        log.note(5, number, 0, 0)
    assert _notes(path) == [(5, 3)]
    assert path.stat().st_size == len(path.read_bytes())
    log.close()


@pytest.mark.parametrize(("attempt", "left"), [(1, [(5, 2)]), (2, []), (3, [])])
def test_wiping(path, attempt, left):
    """The record of an attempt wipes its own note and older ones, never a later one's."""
    log = FlightLog(path, 4)
    log.note(5, 2, 0, 0)
    log.wipe(5, attempt)
    assert _notes(path) == left
    log.wipe(77, 1)
    log.close()


def test_it_grows_when_it_is_full(path):
    """More rows than slots are noted all the same, and none is lost on the way."""
    log = FlightLog(path, 2)
    for row in range(100):
        log.note(row, 1, 0, row)
    assert _notes(path) == [(row, 1) for row in range(100)]
    for row in range(0, 100, 2):
        log.wipe(row, 1)
    size = path.stat().st_size
    for row in range(200, 250):
        log.note(row, 1, 0, row)
    assert _notes(path) == [(row, 1) for row in [*range(1, 100, 2), *range(200, 250)]]
    assert path.stat().st_size == size, "slots that were wiped are used again"
    log.close()


def test_any_course_of_events(path):
    """At every moment the file tells exactly which exchanges are out."""
    for seed in range(20):
        dice = random.Random(seed)
        log, out = FlightLog(path, 1), {}
        for _ in range(200):
            row = dice.randrange(30)
            if dice.random() < 0.6:
                out[row] = out.get(row, 0) + 1
                log.note(row, out[row], 0, 0)
            elif row in out:
                log.wipe(row, out.pop(row))
            assert _notes(path) == sorted(out.items()), f"seed {seed}"
        log.close()


def test_torn_slots_are_passed_over(path):
    """A note that was half written at the kill is none; the others are read."""
    log = FlightLog(path, 4)
    for row in range(4):
        log.note(row, 1, 0, row)
    log.close()
    data = path.read_bytes()
    size = len(data) // 4
    for cut in range(1, size - 4):  # the last bytes of a slot are padding
        path.write_bytes(
            data[:size] + data[size : size + cut] + bytes(size - cut) + data[2 * size :]
        )
        notes = _notes(path)
        assert set(notes) >= {(0, 1), (2, 1), (3, 1)}, cut
        assert set(notes) <= {(row, 1) for row in range(4)}, cut
    for byte in range(size - 4):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[2 * size + byte] ^= 1 << bit
            path.write_bytes(flipped)
            assert _notes(path) == [(0, 1), (1, 1), (3, 1)], (byte, bit)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 100])
def test_a_file_of_any_length_can_be_read(path, size):
    """Whatever is left of the file, reading it does not fail."""
    path.write_bytes(bytes(size))
    assert read_notes(path) == []


def test_no_file_has_no_notes(path):
    """A directory without a flight log had nothing in flight."""
    assert read_notes(path) == []


def test_a_fresh_log_forgets_the_last_one(path):
    """A new session starts with nothing in flight."""
    log = FlightLog(path, 4)
    log.note(1, 1, 0, 0)
    log.close()
    FlightLog(path, 2).close()
    assert read_notes(path) == []
