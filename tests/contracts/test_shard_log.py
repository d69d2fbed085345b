"""The log of one shard, byte by byte: what a kill may leave is mended, all else is damage."""

import random
import struct
import zlib

import pytest

from batchrun.adapters.journal import shard_log as logs
from batchrun.adapters.journal.shard_log import ATTEMPT, OUTCOME, ShardLog
from batchrun.adapters.storage import files
from batchrun.errors import DamagedError, UsageError

GROUPS = ([(5, OUTCOME), (6, ATTEMPT)], [(7, OUTCOME)], [(8, ATTEMPT), (8, OUTCOME), (9, OUTCOME)])

ALL = [*GROUPS[0], *GROUPS[1], *GROUPS[2]]


def _texts(rows):
    return [f"row {row} of kind {kind}" for row, kind in rows]


def _append(log, rows):
    log.append([(row, kind, f"row {row} of kind {kind}") for row, kind in rows])


def _read(log):
    """Row, kind and body of each record, one by one and all at once."""
    bodies = [bytes(body) for body in log.bodies(log.places)]
    assert bodies == [log.body(place) for place in log.places]
    return [(place.row, place.kind, body) for place, body in zip(log.places, bodies, strict=True)]


@pytest.fixture
def path(tmp_path):
    """A log of three groups."""
    log = ShardLog(tmp_path / "log", 3, 1)
    for rows in GROUPS:
        _append(log, rows)
    log.close()
    return tmp_path / "log"


@pytest.fixture
def borders(tmp_path):
    """Where the log's head and each of its groups end."""
    log = ShardLog(tmp_path / "other", 3, 1)
    found = [log.size]
    for rows in GROUPS:
        _append(log, rows)
        found.append(log.size)
    log.close()
    return found


def _rows(path):
    log = ShardLog(path, 3, 1)
    try:
        return [(row, kind) for row, kind, _ in _read(log)]
    finally:
        log.close()


def test_what_was_written_is_read(path):
    """A log opened again holds its records in order, with their bodies."""
    log = ShardLog(path, 3, 1)
    assert [(row, kind) for row, kind, _ in _read(log)] == ALL
    texts = [body[1:].decode() for _, _, body in _read(log)]  # behind msgpack's length byte
    assert texts == _texts(ALL)
    log.close()


def test_a_log_grows_over_many_openings(path):
    """What is appended after opening again stands behind what was there."""
    expected = list(ALL)
    for row in range(20, 30):
        log = ShardLog(path, 3, 1)
        _append(log, [(row, OUTCOME)])
        assert [(r, k) for r, k, _ in _read(log)] == [*expected, (row, OUTCOME)]
        log.close()
        expected.append((row, OUTCOME))
        assert _rows(path) == expected


def test_a_torn_end_is_cut_off(path, borders):
    """Cut anywhere in its last group, a log holds all earlier ones, and can be gone on with."""
    data = path.read_bytes()
    assert borders[-1] == len(data)
    kept = GROUPS[0] + GROUPS[1]
    for size in range(borders[-2], borders[-1]):
        path.write_bytes(data[:size])
        log = ShardLog(path, 3, 1)
        assert [(row, kind) for row, kind, _ in _read(log)] == kept, size
        assert path.stat().st_size == log.size == borders[-2]
        _append(log, [(50, OUTCOME)])
        log.close()
        assert _rows(path) == [*kept, (50, OUTCOME)], size


def test_a_torn_head_is_written_again(path, borders):
    """A log whose maker was killed before it had a head is an empty one."""
    data = path.read_bytes()
    for size in range(borders[0]):
        path.write_bytes(data[:size])
        assert _rows(path) == [], size


def test_a_head_that_was_not_flushed_is_written_again(path, borders):
    """A log no longer than its head, which is zeros or torn, holds nothing that was told."""
    data = path.read_bytes()
    for size in (0, 1, 20, 43):
        path.write_bytes(data[:size].ljust(borders[0], b"\0"))
        assert _rows(path) == [], size
        assert path.read_bytes() == data[: borders[0]]


@pytest.fixture
def wide(tmp_path):
    """A log of two groups over many sectors, and where they end."""
    dice = random.Random(1)
    log = ShardLog(tmp_path / "wide", 3, 1)
    ends = [log.size]
    for rows in ((1, 2, 3), (4, 5, 6)):
        texts = [bytes(dice.choices(range(1, 255), k=1500)).decode("latin-1") for _ in rows]
        pairs = zip(rows, texts, strict=True)
        log.append([(row, OUTCOME, text) for row, text in pairs])
        ends.append(log.size)
    log.close()
    return tmp_path / "wide", ends


def _without_sectors(data, start, end, lost):
    """Bytes with these sectors zeros, as far as they lie between start and end."""
    found = bytearray(data)
    for number in lost:
        low = max(start, number * logs.SECTOR_BYTES)
        high = min(end, (number + 1) * logs.SECTOR_BYTES)
        found[low:high] = bytes(high - low)
    return bytes(found)


def test_lost_sectors_of_the_last_group(wide):
    """A group that reached the disk but for some sectors was not flushed: it is cut off."""
    path, ends = wide
    data = path.read_bytes()
    sectors = range(ends[1] // logs.SECTOR_BYTES, (ends[2] - 1) // logs.SECTOR_BYTES + 1)
    dice = random.Random(2)
    lost = [[number] for number in sectors]
    lost += [dice.sample(sectors, dice.randint(2, len(sectors))) for _ in range(60)]
    for numbers in lost:
        path.write_bytes(_without_sectors(data, *ends[1:], numbers))
        assert [row for row, _ in _rows(path)] == [1, 2, 3], numbers
        assert path.read_bytes() == data[: ends[1]]


def test_lost_sectors_in_front_of_a_sound_group_are_damage(wide):
    """A group behind which another one stands was flushed: what is not there of it was lost."""
    path, ends = wide
    data = path.read_bytes()
    for number in range(1, ends[1] // logs.SECTOR_BYTES):
        changed = _without_sectors(data, *ends[:2], [number])
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            ShardLog(path, 3, 1)
        assert path.read_bytes() == changed


def test_a_flipped_bit_of_the_last_group_is_damage(wide):
    """Where all sectors are there, nothing but damage explains a checksum that is wrong."""
    path, ends = wide
    data = path.read_bytes()
    for byte in range(ends[1], ends[2], 41):
        changed = bytearray(data)
        changed[byte] ^= 4
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            ShardLog(path, 3, 1)


def test_space_that_was_reserved_is_cut_off(path):
    """Zeros behind the last group, as a power cut leaves them, are no records."""
    data = path.read_bytes()
    for zeros in (1, 15, 16, 17, 5000):
        path.write_bytes(data + bytes(zeros))
        assert _rows(path) == ALL
        assert path.read_bytes() == data


def test_a_flipped_bit_is_damage(path, borders):
    """Any flipped bit, in the head or in a group, is said rather than passed over."""
    data = path.read_bytes()
    for byte in range(borders[-1]):
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[byte] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(DamagedError) as damage:
                ShardLog(path, 3, 1)
            assert damage.value.path == str(path), (byte, bit)
            assert path.read_bytes() == flipped, "the evidence was changed"


@pytest.mark.parametrize("group", [0, 1])
def test_zeros_in_front_of_records_are_damage(path, borders, group):
    """A lost page is not taken for the log's end while there are records behind it."""
    data = bytearray(path.read_bytes())
    data[borders[group] : borders[group] + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        ShardLog(path, 3, 1)
    assert path.read_bytes() == data


@pytest.mark.parametrize("at", [3, -1, -5], ids=["in the body", "in its kind", "in its row"])
def test_a_bit_that_flips_while_the_log_is_open(path, at):
    """Records, with the row and the kind in front of them, are compared with their checksums each
    time they are read.
    """
    log = ShardLog(path, 3, 1)
    place = log.places[2]
    data = bytearray(path.read_bytes())
    data[place.offset + at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(DamagedError, match="row 7"):
        log.body(place)
    with pytest.raises(DamagedError, match="row 7"):
        log.bodies(log.places)
    log.close()


def test_another_format_is_refused(path):
    """A log of another version is neither read nor changed."""
    head = bytearray(path.read_bytes())
    version = len(logs.MAGIC)
    head[version : version + 4] = struct.pack("<I", logs.FORMAT + 1)
    size = logs._HEAD.size
    head[size - 4 : size] = struct.pack("<I", zlib.crc32(head[: size - 4]))
    path.write_bytes(head)
    with pytest.raises(UsageError, match=f"format {logs.FORMAT + 1}"):
        ShardLog(path, 3, 1)
    assert path.read_bytes() == head


@pytest.mark.parametrize(("shard", "generation"), [(4, 1), (3, 2)])
def test_a_log_that_is_somebody_elses_is_damage(path, shard, generation):
    """A log under the name of another shard or generation is not taken for its."""
    with pytest.raises(DamagedError, match="belongs to shard 3, generation 1"):
        ShardLog(path, shard, generation)


@pytest.mark.parametrize("step", ["log.writing", "log.written", "log.synced"])
def test_a_failure_at_any_step_keeps_what_was_there(path, monkeypatch, step):
    """Whatever fails while a group is written, the groups before it are whole."""

    def fail(reached, _path):
        if reached == step:
            raise OSError(28, "No space left on device")

    log = ShardLog(path, 3, 1)
    monkeypatch.setattr(files, "step", fail)
    with pytest.raises(OSError, match="No space"):
        _append(log, [(60, OUTCOME)])
    monkeypatch.undo()
    assert [(row, kind) for row, kind, _ in _read(log)] == ALL
    log.close()
    assert _rows(path)[: len(ALL)] == ALL


def test_a_log_that_is_taken_away_is_gone(path):
    """Once its part is published, nothing is left of a log."""
    log = ShardLog(path, 3, 1)
    log.remove()
    assert not path.exists()


def test_far_apart_records_are_read_one_by_one(path):
    """Bodies come in the order asked for, however far apart they lie."""
    log = ShardLog(path, 3, 1)
    log.append([(70, OUTCOME, "x" * 10_000)])
    _append(log, [(71, OUTCOME)])
    few = [log.places[-1], log.places[0]]
    assert log.bodies(few) == [log.body(place) for place in few]
    assert log.bodies([]) == []
    log.close()


def test_whatever_byte_is_damaged_all_other_records_are_sound(path, borders):
    """A flipped byte costs the record that it hits, and none where it hits what lies between."""
    data = path.read_bytes()
    whole = [(row, kind) for row, kind, _ in logs.sound_records(data, range(100))]
    assert whole == ALL
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        found = list(logs.sound_records(bytes(flipped), range(100)))
        rows = [(row, kind) for row, kind, _ in found]
        in_group_head = any(border <= place < border + 16 for border in borders[:-1])
        if place < borders[0] or in_group_head:
            assert rows == ALL, place
        else:
            assert len(rows) == len(ALL) - 1, place
            assert all(record in data for _, _, record in found), place


def test_a_mended_log_is_a_log(path):
    """Head, groups and sound records make a log that opens and holds what was sound."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    records = [record for _, _, record in logs.sound_records(bytes(data), range(100))]
    path.write_bytes(logs.head(3, 1) + b"".join(logs.group([record]) for record in records))
    assert _rows(path) == ALL[:-1]


def test_records_of_other_shards_are_not_sound(path):
    """Bytes that look like a record of a row that the shard does not have are passed over."""
    found = logs.sound_records(path.read_bytes(), range(8, 100))
    assert {row for row, _, _ in found} == {8, 9}
