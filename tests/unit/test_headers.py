"""How long a server asks to wait, and what it calls an exchange."""

import time

import pytest

from batchrun.core.headers import WAIT_S_MAX, request_id, retry_after_s

NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0),
        ("1", 1),
        ("0.25", 0.25),
        (" 7 ", 7),
        ("1e2", 100),
        ("999999999", WAIT_S_MAX),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:50 +0000", 30),
        ("Tue, 14 Nov 2023 23:13:50 +0100", 30),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", WAIT_S_MAX),
        ("", None),
        ("   ", None),
        ("soon", None),
        ("-1", None),
        ("-0.5", None),
        ("nan", None),
        ("inf", None),
        ("1,2", None),
        ("60s", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("Tue, 14 Nov 20233 22:13:50 GMT", None),
        ("Tue, 14 Nov 2023 22:13:50 +9999999", None),
        ("\x00", None),
        ("٣", 3),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(text, wait_s):
    """Fractions and dates are understood, the past is no wait, a week is the most, junk is None."""
    assert retry_after_s({"retry-after": text}, wall_s=NOW_S) == wait_s


@pytest.mark.parametrize("text", ["Tue Nov 14 22:13:50 2023", "Tue, 14 Nov 2023 22:13:50 -0000"])
def test_a_date_without_a_zone_is_utc(text, monkeypatch):
    """HTTP's dates are UTC, also in the old form that does not say so, wherever we run."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after_s({"retry-after": text}, wall_s=NOW_S) == pytest.approx(30)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("milliseconds", "wait_s"),
    [("1500", 1.5), ("0", 0.0), ("12.5", 0.0125), ("junk", 9.0), ("-1", 9.0), ("", 9.0)],
)
def test_milliseconds_win_where_they_are_readable(milliseconds, wait_s):
    """retry-after-ms is the finer word; junk in it falls back on retry-after."""
    headers = {"retry-after-ms": milliseconds, "retry-after": "9"}
    assert retry_after_s(headers, wall_s=NOW_S) == wait_s


def test_no_header_is_no_wait():
    """A server that does not say leaves the choice to the caller."""
    assert retry_after_s({}, wall_s=NOW_S) is None


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x-request-id": "a"}, "a"),
        ({"request-id": "b"}, "b"),
        ({"x-request-id": "a", "request-id": "b"}, "a"),
        ({"x-request-id": "", "request-id": "b"}, "b"),
        ({"x-request-id": "z" * 500}, "z" * 200),
        ({}, None),
    ],
)
def test_the_request_id_is_kept_and_bounded(headers, name):
    """Either header names the exchange; a name is at most 200 characters."""
    assert request_id(headers) == name
