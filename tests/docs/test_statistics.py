"""The figures of docs/statistics.md are the program's."""

import math
import re
from pathlib import Path

import pytest

from batchrun.core.statistics.mcnemar import mcnemar
from batchrun.core.statistics.paired import paired_share_interval
from batchrun.core.statistics.power import detectable, rows_needed
from batchrun.core.statistics.proportion import wilson
from tests.harness.coverage import NEIGHBOURHOODS, averaged, newcombe_coverage, paired_averaged

ROOT = Path(__file__).resolve().parents[2]
PAGE = " ".join((ROOT / "docs" / "statistics.md").read_text("utf-8").split())
TABLE = {
    (name, rows): (mean, least)
    for name, rows, mean, least in re.findall(
        r"\| ([^|]+?) \| ([\d,]+) \| ([\d.]+%) \| ([\d.]+%)? ?\|", PAGE
    )
}


def test_worked_examples():
    """Every figure in the text follows from the functions."""
    low, high = wilson(812, 1000)
    assert f"812 of 1,000 is {low:.1%} to {high:.1%}".replace("%", " %") in PAGE
    assert f"20 of 20 is {wilson(20, 20).low:.1%} to 100%".replace("%", " %") in PAGE
    ends = paired_share_interval(752, 60, 40, 148)
    assert f"between {-100 * ends.low:.1f} and {-100 * ends.high:.2f}." in PAGE
    assert f"60 against 40 is p = {mcnemar(60, 40):.3f}" in PAGE
    assert f"it is {100 * detectable(math.sqrt(0.1 / 1000)):.1f} points" in PAGE
    assert f"one point takes {rows_needed(0.01, 0.1):,} rows" in PAGE
    assert "up to four in ten nights" in PAGE
    assert round(1 - 0.975**20, 1) == 0.4


@pytest.mark.parametrize("near", NEIGHBOURHOODS)
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_the_coverage_of_shares(near, n):
    """The table has the exact figures."""
    mean, least = averaged(n, *NEIGHBOURHOODS[near])
    assert TABLE[f"share near {near}: Wilson", f"{n:,}"] == (f"{mean:.1%}", f"{least:.1%}")


@pytest.mark.parametrize("n", [20, 100])
def test_the_coverage_of_pairs(n):
    """Of the interval that was chosen, and of the one that was not."""
    mean, least = paired_averaged(n, 0.02, 0.2, 0.0, 10)
    key = ("paired difference, no difference: Tango", f"{n:,}")
    assert TABLE[key] == (f"{mean:.1%}", f"{least:.1%}")
    mean, least = paired_averaged(n, 0.02, 0.2, 0.0, 10, newcombe_coverage)
    key = ("the same by Newcombe, not used", f"{n:,}")
    assert TABLE[key] == (f"{mean:.1%}", f"{least:.1%}")
