"""Adding up what shards hold."""

import json

import pytest

from batchrun.core.totals import AttemptLine, ResultLine, Totals

A, B = ("e", "m-a", None), ("e", "m-b", "flex")
NONE = (None, None, None, None, None)


def _attempt(row, key=A, tokens=NONE, cost=None, *, unanswered=False):
    return AttemptLine(row, key, cost, unanswered, tokens)


def _ok(row, *, cost=None, has_usage=True):
    return ResultLine(row, None, has_usage, cost)


def _error(row, error_class="timeout"):
    return ResultLine(row, error_class, has_usage=False, cost_usd=None)


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
    assert set(overall.values()) == {0}
    assert Totals().usage_rows() == []


def test_tokens_are_summed_over_attempts():
    """Every attempt is on the bill, also one that decided nothing."""
    totals = _sum(
        [_attempt(0, tokens=(1, 2, 3, 4, 5)), _attempt(0, tokens=(10, 0, None, 0, 0))], [_ok(0)]
    )
    overall = totals.overall()
    assert overall["attempts"] == 2
    assert [overall[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")] == [
        11,
        2,
        3,
    ]
    assert (overall["cached_tokens"], overall["reasoning_tokens"]) == (4, 5)


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
        [_attempt(0, cost=1.0), _attempt(0, cost=2.0), _attempt(1, cost=4.0)],
        [_ok(0, cost=2.0), _error(1)],
    )
    assert totals.overall()["cost_usd"] == pytest.approx(7.0)
    assert totals.overall()["wasted_cost_usd"] == pytest.approx(5.0)


def test_an_unknown_cost_is_not_zero():
    """Where no price is known the sum is unknown, and known costs stand beside unknown ones."""
    assert _sum([_attempt(0)], [_ok(0)]).overall()["cost_usd"] is None
    assert _sum([_attempt(0), _attempt(1, cost=1.0)], []).overall()["cost_usd"] == 1.0


def test_shards_add_up_to_the_run():
    """Recorded totals of two shards, through JSON, are the totals of both at once."""
    first = ([_attempt(0, A, (1, 1, 2, 0, 0), 0.5), _attempt(1, B)], [_ok(0, cost=0.5), _error(1)])
    second = ([_attempt(2, A, (5, 5, 10, 1, 1), 1.5)], [_ok(2, cost=1.5), _error(3, "quota")])
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
