"""Adding up what shards hold."""

import json

from batchrun.core.run.totals import AttemptLine, ResultLine, Totals, day_of

A, B = ("e", "m-a", None), ("e", "m-b", "flex")
NONE = (None,) * 6


USD = 10**12  # picodollars


def _attempt(row, key=A, tokens=NONE, cost=None, *, unanswered=False, day=0):
    return AttemptLine(row, key, cost, unanswered, tokens, day)


def _ok(row, *, cost=None, has_usage=True):
    return ResultLine(row, None, has_usage, cost)


def _error(row, error_class="timeout"):
    return ResultLine(row, error_class, has_usage=False, cost_pd=None)


def _sum(attempts, results):
    totals = Totals()
    totals.add_attempts(attempts)
    totals.add_results(results)
    return totals


def test_nothing_adds_up_to_nothing():
    """An empty run has zeros, and no cost rather than a cost of zero."""
    overall = Totals().overall()
    assert overall.pop("cost_usd") is None
    assert overall.pop("wasted_cost_usd") is None
    assert overall.pop("by_day") == {}
    assert set(overall.values()) == {0}
    assert Totals().usage_rows() == []


def test_tokens_are_summed_over_attempts():
    """Every attempt is on the bill, also one that decided nothing."""
    totals = _sum(
        [_attempt(0, tokens=(1, 2, 3, 4, 5, 6)), _attempt(0, tokens=(10, 0, None, 0, 0, 0))],
        [_ok(0)],
    )
    overall = totals.overall()
    assert overall["attempts"] == 2
    assert [overall[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")] == [
        11,
        2,
        3,
    ]
    assert (overall["cached_tokens"], overall["reasoning_tokens"]) == (4, 5)
    assert overall["cache_write_tokens"] == 6


def test_a_row_is_counted_under_its_last_attempt():
    """Endpoint, model and tier of a row are those of the attempt that decided it."""
    totals = _sum([_attempt(0, A), _attempt(0, B)], [_ok(0)])
    by_model = {row["model"]: row for row in totals.usage_rows()}
    assert (by_model["m-a"]["attempts"], by_model["m-a"]["rows_ok"]) == (1, 0)
    assert (by_model["m-b"]["attempts"], by_model["m-b"]["rows_ok"]) == (1, 1)


def test_a_row_that_was_never_sent_is_counted_too():
    """A bad row has no attempt; it is a failed row under no endpoint."""
    totals = _sum([_attempt(0)], [_ok(0), _error(1, "invalid_row")])
    assert totals.rows() == (1, 1)
    assert totals.errors == {"invalid_row": 1}
    assert [row["endpoint"] for row in totals.usage_rows()] == [None, "e"]


def test_rows_without_usage_and_unanswered_attempts_are_counted():
    """What the server did not report, or may have billed unseen, is known by number."""
    totals = _sum([_attempt(0, unanswered=True), _attempt(0)], [_ok(0, has_usage=False)])
    assert totals.overall()["unanswered_attempts"] == 1
    assert totals.usage_rows()[0]["rows_without_usage"] == 1


def test_waste_is_the_bill_less_the_answers_kept():
    """Attempts of failed rows and earlier attempts of good ones are waste."""
    totals = _sum(
        [_attempt(0, cost=1), _attempt(0, cost=2 * USD), _attempt(1, cost=4 * USD)],
        [_ok(0, cost=2 * USD), _error(1)],
    )
    assert totals.bill() == (6 * USD + 1, 4 * USD + 1)
    assert totals.overall()["cost_usd"] == 6.000000000001
    assert totals.overall()["wasted_cost_usd"] == 4.000000000001


def test_an_unknown_cost_is_not_zero():
    """Where no price is known the sum is unknown, and known costs stand beside unknown ones."""
    assert _sum([_attempt(0)], [_ok(0)]).overall()["cost_usd"] is None
    assert _sum([_attempt(0), _attempt(1, cost=USD)], []).overall()["cost_usd"] == 1.0


def test_shards_add_up_to_the_run():
    """Recorded totals of two shards, through JSON, are the totals of both at once."""
    first = ([_attempt(0, A, (1, 1, 2, 0, 0, 0), 5), _attempt(1, B)], [_ok(0, cost=5), _error(1)])
    second = ([_attempt(2, A, (5, 5, 10, 1, 1, 1), 15)], [_ok(2, cost=15), _error(3, "quota")])
    whole = _sum(first[0] + second[0], first[1] + second[1])
    summed = Totals()
    for shard in (second, first):
        summed.add(json.loads(json.dumps(_sum(*shard).recorded())))
    assert summed.overall() == whole.overall()
    assert summed.usage_rows() == whole.usage_rows()
    assert summed.errors == whole.errors
    assert summed.rows() == whole.rows()


def test_the_order_of_shards_does_not_show():
    """Records are written in one order, whatever order rows ended in."""
    one = _sum([_attempt(0, B), _attempt(1, A)], [_error(0, "z"), _error(1, "a")]).recorded()
    other = _sum([_attempt(0, A), _attempt(1, B)], [_error(0, "a"), _error(1, "z")]).recorded()
    assert json.dumps(one) == json.dumps(other)


def test_ten_million_small_costs_are_exact():
    """No digit is lost: a thousand shards of 10,000 rows at $0.0000024 are $24.00."""
    cost = 2_400_000
    shard = Totals()
    shard.add_alike(A, ok=10_000, without_usage=0, tokens=NONE, cost_pd=10_000 * cost)
    slow = _sum([_attempt(n, cost=cost) for n in range(10_000)], [])
    assert slow.bill()[0] == shard.bill()[0]
    recorded = json.loads(json.dumps(shard.recorded()))
    whole = Totals()
    for _ in range(1000):
        whole.add(recorded)
    assert whole.overall()["cost_usd"] == 24.0
    assert whole.overall()["by_day"]["1970-01-01"]["cost_usd"] == 24.0
    assert whole.usage_rows()[0]["cost_usd"] == 24.0


def test_days_are_counted_apart():
    """Attempts are booked on the day they were sent, UTC, and sum up to the whole."""
    tokens = (3, 2, 5, 0, 0, 0)
    totals = _sum(
        [
            _attempt(0, tokens=tokens, cost=7, day=day_of(1_767_225_599_999_999)),
            _attempt(0, tokens=tokens, day=day_of(1_767_225_600_000_000)),
            _attempt(1, tokens=tokens, cost=5, day=None),
        ],
        [],
    )
    days = totals.overall()["by_day"]
    assert list(days) == ["2025-12-31", "2026-01-01", "unknown"]
    assert days["2025-12-31"] == {
        "attempts": 1, "prompt_tokens": 3, "completion_tokens": 2, "cost_usd": 7e-12
    }  # fmt: skip
    assert days["2026-01-01"]["cost_usd"] is None
    assert totals.overall()["unpriced_attempts"] == 1


def test_what_an_earlier_version_recorded_has_no_days():
    """Where a part of the run was not counted by day, no figures by day are made up."""
    recorded = _sum([_attempt(0)], [_ok(0)]).recorded()
    del recorded["unpriced"], recorded["days"]
    for *_, sums in recorded["groups"]:
        del sums["cost_pd"], sums["ok_cost_pd"]
    totals = _sum([_attempt(1, tokens=(1, 1, 2, 0, 0, 0), cost=5)], [_ok(1, cost=5)])
    totals.add(recorded)
    assert totals.rows() == (2, 0)
    assert totals.overall()["cost_usd"] == 5e-12
    assert totals.overall()["by_day"] is totals.overall()["unpriced_attempts"] is None
