"""Rows, repeats and dollars that it takes to see a difference."""

import pytest

from batchrun.core.estimate.detection import FlipRate, Sought, assumed, detection


def sought(rate, difference=0.01):
    """A difference to be seen, at a measured rate of flips."""
    return Sought(difference, FlipRate(rate, "answers", 1000, "between a and b"))


def test_enough_rows_are_asked_once():
    """One point at a tenth of flips takes 7,842 rows, at the price of so many answers."""
    found = detection(sought(0.1), 10_000, 0.002)
    assert (found.rows, found.repeats) == (7842, 1)
    assert found.cost_usd == pytest.approx(7842 * 0.002)
    assert found.line().startswith("a difference of 0.01 takes 7,842 rows for $15.6840 a run")


def test_too_few_rows_are_asked_several_times():
    """Never more rows than there are, and never fewer answers than are needed."""
    for available in (1, 7, 1000, 7841):
        found = detection(sought(0.1), available, None)
        assert found.rows <= available
        assert 7842 <= found.rows * found.repeats < 7842 + found.repeats
        assert any("repeats average out" in note for note in found.notes(available))
    assert found.cost_usd is None


def test_steady_answers_still_take_rows():
    """A difference flips at least its own share: without any noise, 1 point takes 777 rows."""
    found = detection(sought(0.0), 10_000, None)
    assert (found.rows, found.repeats) == (778, 1)
    assert any("flips at least that share" in note for note in found.notes(10_000))


def test_fewer_flips_and_larger_differences_take_fewer_rows():
    """In both directions."""
    rows = [detection(sought(rate), 10**9, None).rows for rate in (0.02, 0.1, 0.3)]
    assert rows == sorted(rows)
    rows = [detection(sought(0.1, d), 10**9, None).rows for d in (0.001, 0.01, 0.1)]
    assert rows == sorted(rows, reverse=True)


def test_nothing_to_send():
    """Without rows nothing can be seen."""
    assert detection(sought(0.1), 0, 0.1) is None


@pytest.mark.parametrize(
    ("flips", "says"),
    [
        (
            FlipRate(0.04, "scores", 500, "the score c between a and b"),
            "4.00%, is that of the score",
        ),
        (FlipRate(0.04, "answers", 500, "between a and b"), "over 500 pairs (95% interval 2.6% to"),
        (
            FlipRate(0.32, "share", 500, "80.0% of the score c in a are true"),
            "at most 32.00%: 80.0%",
        ),
        (assumed(", since a has no scores"), "10.00%, is an assumption, since a has no scores."),
    ],
)
def test_what_the_rate_rests_on(flips, says):
    """A sentence names the directories, the pairs and the uncertainty."""
    assert says in detection(Sought(0.05, flips), 100, None).notes(100)[0]
