"""`pass_at`, `pass_all` and `majority` over the answers to one row, against counting every case."""

import itertools
import random

import pyarrow as pa
import pytest

from batchrun.adapters.scoring.database import Database, Table
from batchrun.errors import UsageError


@pytest.fixture(scope="module")
def database():
    """A database with batchrun's functions."""
    with Database() as found:
        yield found


@pytest.fixture
def aggregate(database):
    """``aggregate(sql, x=[...], ...)``: an aggregate over columns."""

    def run(sql, **columns):
        table = pa.table(columns)
        with database.tables(results=Table(table.schema, table.to_batches)):
            return database.rows(f"SELECT {sql} FROM results", "test")[0][0]  # noqa: S608 - ours

    return run


def _every_sample(scores, k, holds):
    samples = list(itertools.combinations(scores, k))
    return sum(map(holds, samples)) / len(samples)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_is_the_share_of_all_samples_in_which_one_passes(aggregate, n):
    """For every number of answers, of passes and of samples: the same as drawing every sample."""
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        scores = [1.0] * c + [0.0] * (n - c)
        random.Random(n * 100 + c).shuffle(scores)
        wanted = _every_sample(scores, k, any)
        assert aggregate(f"pass_at(x, {k})", x=scores) == pytest.approx(wanted, abs=1e-12), (c, k)
        wanted = _every_sample(scores, k, all)
        assert aggregate(f"pass_all(x, {k})", x=scores) == pytest.approx(wanted, abs=1e-12), (c, k)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(200, 13, 1), (200, 13, 100), (1000, 2, 500), (20, 0, 9)]
)
def test_pass_at_is_the_published_estimator(aggregate, n, c, k):
    """As in the evaluation of HumanEval: a product that stays within floating point's range."""
    wanted = 1.0
    if n - c >= k:
        product = 1.0
        for i in range(n - c + 1, n + 1):
            product *= 1.0 - k / i
        wanted = 1.0 - product
    found = aggregate(f"pass_at(x, {k})", x=[1.0] * c + [0.0] * (n - c))
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_a_pass_is_true_or_one_and_null_is_no_answer(aggregate):
    """Other numbers do not pass; with fewer scored answers than k nothing can be said."""
    assert aggregate("pass_at(x, 1)", x=[True, False, None]) == 0.5
    assert aggregate("pass_at(x, 1)", x=[0.9, 1.0, 2.0, 0.0]) == 0.25
    assert aggregate("pass_at(x, 3)", x=[1.0, 1.0, None]) is None
    assert aggregate("pass_all(x, 3)", x=[1.0, 1.0, None]) is None
    assert aggregate("pass_at(x, 1)", x=pa.array([None], pa.float64())) is None


def _elected(votes, expected):
    """How often the expected value wins, with ties drawn by lot."""
    counts = {vote: votes.count(vote) for vote in votes if vote is not None}
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return winners.count(expected) / len(winners) if winners else 0.0


@pytest.mark.parametrize("n", range(1, 6))
def test_majority_is_whether_the_expected_value_has_most_votes(database, n):
    """For all votes of up to five answers; a tie counts as the share of lots that would win."""
    every = list(itertools.product(["a", "b", "c", None], repeat=n))
    table = pa.table(
        {
            "case_of": [case for case in range(len(every)) for _ in range(n)],
            "x": pa.array(itertools.chain.from_iterable(every), pa.string()),
            "y": ["a"] * n * len(every),
        }
    )
    with database.tables(results=Table(table.schema, table.to_batches)):
        sql = "SELECT case_of, majority(x, y) FROM results GROUP BY case_of"
        found = dict(database.rows(sql, "test"))
    assert len(found) == 4**n
    for case, votes in enumerate(every):
        assert found[case] == pytest.approx(_elected(votes, "a")), votes


@pytest.mark.parametrize(
    ("votes", "expected", "wanted"),
    [
        (["Paris.", " paris", "Rome"], "PARIS", 1.0),  # texts as `exact` compares them
        ([42.0, 42.0, 7.0], "42", 1.0),  # a number and a text: as numbers
        (["42", "42.0", "7"], 42, 1.0),
        ([True, True, False], "true", 1.0),
        ([1, 1, 2], 1.0, 1.0),
        (["a", "b"], None, None),  # nothing is expected
        ([None, None], "a", 0.0),  # nobody votes
    ],
)
def test_votes_are_compared_as_what_they_are(aggregate, votes, expected, wanted):
    """Whatever types the vote and the expected value have."""
    kind = pa.string() if all(vote is None for vote in votes) else None
    given = pa.array([expected] * len(votes), pa.string() if expected is None else None)
    assert aggregate("majority(x, y)", x=pa.array(votes, kind), y=given) == wanted


@pytest.mark.parametrize(
    ("sql", "wrong"),
    [
        ("1 - pass_at(x, 2)", "must be the whole metric"),
        ("avg(pass_at(x, 2))", "must be the whole metric"),
        ("pass_at(x)", r"expected pass_at\(score, k\)"),
        ("majority(x)", r"expected majority\(expr, expected\)"),
        ("pass_at(avg(x), 2)", "avg is an aggregate"),
        ("pass_at(DISTINCT x, 2)", "must be the whole metric"),
    ],
)
def test_an_aggregate_over_repeats_is_a_metric_of_its_own(database, sql, wrong):
    """Anything else has no meaning, and is refused in words."""
    with pytest.raises(UsageError, match=wrong):
        database.expression(sql, "metrics.m", "metric")


def test_a_score_is_no_aggregate_over_repeats(database):
    """They belong under [metrics]."""
    with pytest.raises(UsageError, match=r"write it under \[metrics\]"):
        database.expression("pass_at(x, 2)", "scores.s", "score")
