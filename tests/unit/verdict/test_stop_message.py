"""What a stopped run says of the exchange that stopped it."""

import pytest

from batchrun.core.verdict.judge import Action, Verdict
from batchrun.core.verdict.stop_message import stop_message

NOON_US = 1_796_040_000_000_000  # 2026-11-30T12:00:00Z


def _asked_to_wait(wait_s):
    return Verdict(
        Action.STOP,
        "per_day",
        error_class="rate_limit",
        wait_s=wait_s,
        message="the day is used up",
    )


@pytest.mark.parametrize(
    ("wait_s", "at"),
    [
        (3600, "at 2026-11-30T13:00Z"),
        (3601, "at 2026-11-30T13:01Z"),
        (8 * 3600, "at 2026-11-30T20:00Z"),
        (13 * 3600, "at 2026-12-01T01:00Z"),
    ],
)
def test_a_long_wait_says_when_it_is_over(wait_s, at):
    """The moment stands beside the seconds, to the minute and never too early."""
    said = stop_message(_asked_to_wait(wait_s), 429, 600, NOON_US)
    assert f"come back in {wait_s} s, {at} (HTTP 429)" in said


@pytest.mark.parametrize(("wait_s", "now_us"), [(3600, None), (1e12, NOON_US)])
def test_no_moment_where_there_is_none(wait_s, now_us):
    """Without a clock, and of a wait beyond any calendar, the seconds alone are said."""
    said = stop_message(_asked_to_wait(wait_s), 429, 600, now_us)
    assert " s (HTTP 429)" in said
