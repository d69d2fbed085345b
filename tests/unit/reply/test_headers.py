"""How long a server asks to wait, and what it calls an exchange."""

import time

import pytest

from batchrun.core.reply.headers import (
    RESET_S_MAX,
    WAIT_S_MAX,
    request_id,
    reset_s,
    retry_after_s,
    should_retry,
)

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
        ("60s", 60),
        ("1m30s", 90),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("12ms", 0.012),
        ("6m0s", 360),
        ("37 seconds", 37),
        ("1 minute", 60),
        ("00:12:34", 754),
        ("1.00:00:01", 86401),
        ("1 fortnight", None),
        ("5s5", None),
        ("s", None),
        ("1700000030", 30),
        ("1700000030000", 30),
        ("1699999999", 0),
        ("2000000000", WAIT_S_MAX),
        ("1e14", WAIT_S_MAX),
        ("1e15", None),
        ("2023-11-14T22:13:50Z", 30),
        ("2023-11-14T23:13:50.5+01:00", 30.5),
        ("2023-11-14T22:13:50", 30),
        ("2023-99-14T22:13:50Z", None),
        ("1" * 101, None),
        ("1_000", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("Tue, 14 Nov 20233 22:13:50 GMT", None),
        ("Tue, 14 Nov 2023 22:13:50 +9999999", None),
        ("\x00", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(text, wait_s):
    """Fractions and dates are understood, the past is no wait, a week is the most, junk is None."""
    assert retry_after_s({"retry-after": text}, wall_s=NOW_S) == pytest.approx(wait_s)


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
        ({"apim-request-id": "c"}, "c"),
        ({"x-generation-id": "d"}, "d"),
        ({"x-request-id": "e\udcff"}, "e\ufffd"),
        ({}, None),
    ],
)
def test_the_request_id_is_kept_and_bounded(headers, name):
    """Either header names the exchange; a name is at most 200 characters."""
    assert request_id(headers) == name


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        # OpenRouter: the end of the window, in milliseconds since the epoch.
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000100000"}, 100),
        ({"X-RateLimit-Reset": "1700000100000"}, 100),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "100"}, None),
        ({"x-ratelimit-reset": "7200"}, 7200),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "5"}, 5),
        # OpenAI: until the bucket is full. What has something left does not count.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "7.66s",
                "x-ratelimit-remaining-tokens": "100",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            7.66,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "12ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9s",
            },
            9,
        ),
        # Groq's requests are per day: a bound from above, not a wait.
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "23h59m59s"},
            RESET_S_MAX,
        ),
        # Azure does not know.
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"}, None),
        ({"x-ratelimit-reset-tokens": "5s"}, None),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:50Z",
            },
            30,
        ),
        ({"x-tokenlimit-remaining": "0", "x-tokenlimit-reset": "4"}, 4),
        (
            {
                "x-ratelimit-remaining-tokens-minute": "0",
                "x-ratelimit-reset-tokens-minute": "20.5",
            },
            20.5,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "junk"}, None),
    ],
)
def test_used_up_limits_tell_when_they_are_renewed(headers, wait_s):
    """Only a limit with nothing left is waited for, in every vendor's dialect."""
    assert reset_s(headers, wall_s=NOW_S) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [("true", True), (" False ", False), ("TRUE", True), ("1", None), ("", None), (None, None)],
)
def test_a_server_may_say_whether_to_try_again(text, said):
    """Two words are understood; anything else says nothing."""
    assert should_retry({} if text is None else {"x-should-retry": text}) is said
