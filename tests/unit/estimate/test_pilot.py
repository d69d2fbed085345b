"""From the attempts of a pilot to the whole run: unknown money, and the time by limits."""

from batchrun.core.estimate.pilot import Seen, extrapolate
from batchrun.core.estimate.strata import Stratum
from batchrun.core.settings.resolve import resolve

GIVEN = {"input.files": ["-"], "output.dir": "run", "endpoint.base_url": "http://127.0.0.1:1"}
STRATA = [Stratum("m", 1000, 100_000.0, (1, 2, 3, 4))]


def seen(**more):
    """Four rows alike."""
    row = {"prompt_tokens": 90, "completion_tokens": 10, "cost_usd": 0.5, "attempts": 1}
    row |= {"busy_s": 2.0, "longest_s": 2.0}
    return {ticket: Seen("m", 100.0, **(row | more)) for ticket in (1, 2, 3, 4)}


def endpoints(**limits):
    """One endpoint with these limits."""
    return resolve(GIVEN | {f"endpoint.{key}": value for key, value in limits.items()}).endpoints


def test_rows_that_are_alike_leave_no_doubt():
    """A thousand times the mean, and no width."""
    found = extrapolate(STRATA, seen(), endpoints())
    assert found.prompt_tokens.total == found.prompt_tokens.high == 90_000
    assert found.completion_tokens.low == 10_000
    assert found.cost_usd.total == 500.0


def test_an_answer_without_a_price_leaves_the_cost_unknown():
    """Null, never a sum of what happens to be known."""
    rows = seen() | {4: Seen("m", 100.0, 90, 10, None, 1, 2.0, 2.0)}
    assert extrapolate(STRATA, rows, endpoints()).cost_usd is None


def test_the_time_is_that_of_the_tightest_limit():
    """1,000 rows of 2 s by ten at a time, by 60 requests or 3,000 tokens a minute."""
    for limits, seconds, held_by in (
        ({"concurrency": 10}, 200.0, "concurrency"),
        ({"concurrency": 10, "rpm": 60}, 1000.0, "rpm"),
        ({"concurrency": 10, "rpm": 60, "tpm": 3000}, 2000.0, "tpm"),
    ):
        time = extrapolate(STRATA, seen(), endpoints(**limits)).time
        assert (round(time.seconds.total, 6), time.held_by) == (seconds, held_by)
        assert time.seconds.low <= seconds < time.seconds.high < 1.12 * seconds


def test_retries_count_against_the_limit_of_requests():
    """A server that refuses every other request takes twice the requests."""
    time = extrapolate(STRATA, seen(attempts=2), endpoints(rpm=60)).time
    assert round(time.seconds.total) == 2000


def test_a_short_run_takes_as_long_as_its_longest_request():
    """More permits than rows: nothing is quicker than one request."""
    few = [Stratum("m", 8, 800.0, (1, 2, 3, 4))]
    assert extrapolate(few, seen(), endpoints(concurrency=64)).time.seconds.total == 2.0
