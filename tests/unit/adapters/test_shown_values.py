"""Arrow values as a template shows them, and the local files that rows name."""

import datetime as dt
import os
from decimal import Decimal

import pyarrow as pa
import pytest

from batchrun.adapters.sources.arrow_as_text import example, template_values
from batchrun.adapters.sources.files import local_file
from batchrun.errors import RowError

NOON = dt.datetime(2024, 1, 31, 12, 0, 5)  # noqa: DTZ001 - a zone is a type of its own
UTC = NOON.replace(tzinfo=dt.UTC)
NS = 1_706_702_405_123_456_789


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.string(), "a", "a"),
        (pa.string_view(), "a", "a"),
        (pa.int8(), 5, 5),
        (pa.bool_(), True, True),
        (pa.float32(), 4.1, 4.1),
        (pa.float32(), 16777217.0, 16777216.0),
        (pa.float16(), 1.5, 1.5),
        (pa.float64(), 0.1, 0.1),
        (pa.decimal128(8, 2), Decimal("39.90"), "39.90"),
        (pa.decimal128(10, -3), Decimal(5000), "5000"),
        (pa.date32(), NOON.date(), "2024-01-31"),
        (pa.date64(), NOON.date(), "2024-01-31"),
        (pa.time32("s"), dt.time(10, 5), "10:05:00"),
        (pa.time64("ns"), 1, "00:00:00.000000001"),
        (pa.time64("ns"), 36_300_000_000_000, "10:05:00"),
        (pa.timestamp("s"), NOON, "2024-01-31T12:00:05"),
        (pa.timestamp("ms", "UTC"), UTC, "2024-01-31T12:00:05+00:00"),
        (pa.timestamp("us", "Asia/Shanghai"), UTC, "2024-01-31T20:00:05+08:00"),
        (pa.timestamp("ns"), NOON, "2024-01-31T12:00:05"),
        (pa.timestamp("ns"), NS, "2024-01-31T12:00:05.123456789"),
        (pa.duration("s"), dt.timedelta(days=1, seconds=5), "1 day, 0:00:05"),
        (pa.dictionary(pa.int8(), pa.string()), "a", "a"),
        (pa.map_(pa.string(), pa.date32()), [("a", NOON.date())], {"a": "2024-01-31"}),
        (pa.list_(pa.decimal128(4, 1)), [Decimal("1.5"), None], ["1.5", None]),
        (pa.struct([("d", pa.date32())]), {"d": NOON.date()}, {"d": "2024-01-31"}),
        (pa.binary(), b"\xff", b"\xff"),
    ],
    ids=str,
)
def test_values(kind, value, text):
    """Text and numbers that read as the data does; null stays null."""
    assert template_values(pa.array([None, value], kind)) == [None, text]
    assert template_values(pa.array([value, None, value], kind).slice(1)) == [None, text]


def test_what_python_cannot_hold_is_the_rows_problem():
    """A value out of range is an error in its own place; its neighbours are shown."""
    good, bad = template_values(pa.array([0, 2**62], pa.timestamp("us")))
    assert good == "1970-01-01T00:00:00"
    assert isinstance(bad, RowError) and "timestamp[us]" in str(bad)


def test_what_values_are_like():
    """The keys inside a type are known, a map's are open."""
    inner = pa.list_(pa.struct([("n", pa.int8())]))
    kind = pa.struct([("t", inner), ("m", pa.map_(pa.string(), pa.int8()))])
    assert example(kind) == {"t": [{"n": 0}], "m": None}
    assert [example(k) for k in (pa.string(), pa.bool_(), pa.float16(), pa.null())] == [
        "",
        False,
        0,
        None,
    ]


def test_files_are_read(tmp_path):
    """The content, as it is."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x00\xff")
    assert local_file.read_file(str(path)) == b"\x00\xff"


def test_what_is_no_readable_file_is_named(tmp_path, monkeypatch):
    """Missing, a folder, a pipe (it would block for ever), too large, or no name at all."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"12345")
    monkeypatch.setattr(local_file, "FILE_BYTES_MAX", 4)
    for name, words in [
        ("gone", "No such file"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("big", "5 bytes; at most 4"),
        ("nul\0", "nul"),
        ("x" * 5000, "File name too long"),
    ]:
        with pytest.raises(RowError, match=words) as caught:
            local_file.read_file(str(tmp_path / name))
        assert len(str(caught.value)) < 400
