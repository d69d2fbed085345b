"""Sizes as people write them, and the forecast of what a run will need on its disks."""

import pytest

from batchrun.core.run import free_disk
from batchrun.core.run.free_disk import PART_OVERHEAD_BYTES, Disk, FreeDisk, Written
from batchrun.core.settings.table import BY_NAME
from batchrun.core.settings.values import checked
from batchrun.core.text import byte_sizes
from batchrun.errors import UsageError

SETTING = BY_NAME["guards.min_free_disk"]
MIB = 2**20
ONE = Disk("run", 100 * MIB, logs=True, drafts=True, parts=True)


def _written(**more):
    """A session after 1,000 rows: 2,000 bytes each in the log, 500 in parts."""
    return Written(
        **{
            "at_s": 10.0,
            "rows_done": 1000,
            "rows_left": 9000,
            "log_bytes": 0,
            "logged_bytes": 2_000_000,
            "part_bytes": 500_000,
            "part_rows": 1000,
            "publish_bytes": 0,
            "in_flight": 0,
        }
        | more
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("500MB", 500_000_000),
        ("2GiB", 2 * 2**30),
        ("2 gib", 2 * 2**30),
        ("1.5M", 3 * MIB // 2),
        ("10k", 10_240),
        ("0.1kB", 100),
        ("7B", 7),
        ("3TB", 3 * 10**12),
    ],
)
def test_sizes_are_read(text, size):
    """With and without a unit, decimal and binary ones."""
    assert checked(SETTING, text) == size


@pytest.mark.parametrize(
    "value",
    ["", "-1", "5%", "much", "1.5.5MB", "1e6", "9 EB", "٣MB", "9999999TiB", -1, 1.5, True, []],
)
def test_what_is_no_size_is_refused(value):
    """A clear error names the setting and shows how a size is written."""
    with pytest.raises(UsageError, match=r"guards.min_free_disk is .*such as 500MB or 2GiB"):
        checked(SETTING, value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (256 * MIB, "256 MiB"),
        (MIB - 1, "1.0 MiB"),
        (1536 * MIB, "1.5 GiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_sizes_are_shown(size, text):
    """Short, and never as 1024 of a smaller unit."""
    assert byte_sizes.format_bytes(size) == str(byte_sizes.Bytes(size)) == text


def test_the_forecast_adds_parts_and_the_last_log():
    """9,000 rows of 500 bytes in parts, and the log of the last shard beside them."""
    need = free_disk.forecast(_written(), shard_rows=1000)
    assert need.on(ONE) == 9000 * 500 + 1000 * 2000
    assert need.on(ONE._replace(parts=False, drafts=False)) == 1000 * 2000
    assert need.on(ONE._replace(logs=False)) == 9000 * 500
    # Parts go to an object store: one is drafted on the disk of the logs at a time.
    assert need.on(ONE._replace(parts=False)) == 1000 * 2000 + 1000 * 500


def test_what_is_in_the_log_becomes_parts_too():
    """Rows that are done and not published yet are still to be written into parts; the log's own
    bytes are on the disk already.
    """
    half = _written(log_bytes=1_000_000, part_rows=500, part_bytes=250_000)
    assert free_disk.forecast(half, shard_rows=1000).on(ONE) == 9500 * 500 + 1000 * 2000 - 1_000_000
    unknown = _written(log_bytes=2_000_000, part_rows=0, part_bytes=0)
    assert (
        free_disk.forecast(unknown, shard_rows=20_000).on(ONE) == 10_000 * 2000 * 1.25 - 2_000_000
    )


@pytest.mark.parametrize("more", [{"rows_left": None}, {"rows_done": 99}, {"logged_bytes": 0}])
def test_no_forecast_from_too_little(more):
    """A pipe that has not ended, or a handful of rows, say nothing."""
    assert free_disk.forecast(_written(**more), 1000) is None


def test_a_warning_comes_once():
    """The forecast does not fit above the bound: said once, and nothing stops."""
    guard = FreeDisk(95 * MIB, 1000)
    assert guard.check([ONE._replace(free_bytes=102 * MIB)], _written()) == (None, None)
    shortage, warning = guard.check([ONE], _written())
    assert shortage is None
    assert "the 9,000 rows left need about 6.2 MiB more on the disk of run" in warning
    assert "100 MiB are free" in warning and "95 MiB" in warning
    assert guard.check([ONE], _written()) == (None, None)


def test_the_stop_comes_at_the_bound_and_its_reserve():
    """There is room for what the journal holds, what is in flight, and the next second."""
    guard = FreeDisk(50 * MIB, 1000)
    journal = {"publish_bytes": 10 * MIB}
    enough = 60 * MIB + PART_OVERHEAD_BYTES
    assert guard.check([ONE._replace(free_bytes=enough)], _written(**journal))[0] is None
    said, _ = guard.check([ONE._replace(free_bytes=enough - 1)], _written(**journal))
    assert said.startswith("the disk of run has 60.2 MiB free (63,176,703 bytes)")
    assert "--min-free-disk 50 MiB and the 10.2 MiB" in said
    assert "rows left need about 6.2 MiB more. Make room" in said
    # A disk that holds logs alone needs no room for parts.
    logs = ONE._replace(drafts=False, parts=False, free_bytes=50 * MIB)
    assert guard.check([logs], _written(**journal))[0] is None
    # 16 answers of 2,000 bytes are out; half a MiB a second was written since the last look.
    later = _written(at_s=12.0, logged_bytes=2_000_000 + MIB, in_flight=0)
    assert guard.check([logs._replace(free_bytes=51 * MIB)], later, ahead_s=2.0)[0] is None
    again = _written(at_s=14.0, logged_bytes=2_000_000 + 2 * MIB)
    assert guard.check([logs._replace(free_bytes=51 * MIB - 1)], again, ahead_s=2.0)[0]
    out = _written(in_flight=16)
    assert FreeDisk(50 * MIB, 1000).check([logs._replace(free_bytes=50 * MIB + 31_999)], out)[0]


def test_the_worst_disk_decides():
    """Two disks, one of them full."""
    full = Disk("cp", 0, logs=True, drafts=False, parts=False)
    said, _ = FreeDisk(1, 1000).check([ONE, full], _written())
    assert said.startswith("the disk of cp has 0 B free")
