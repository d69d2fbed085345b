"""What it takes to see a difference between two runs over the same rows: rows and repeats.

Two runs over the same rows differ by noise already: some answers are right in one and wrong in the
other. The share of such flips decides how many rows it takes to see a true difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchrun.core.cost.money import format_cost
from batchrun.core.statistics.power import POWER, rows_needed
from batchrun.core.statistics.proportion import wilson
from batchrun.core.text.wording import counted

ASSUMED_RATE = 0.10
"""The share of answers that flip between two equal runs, where nothing shows it: what graded
answers of models do at a temperature above 0, in round figures."""


@dataclass(frozen=True, slots=True)
class FlipRate:
    """The share of answers that flip between two runs, and from what it is known.

    ``source`` is ``scores`` (a recorded score differs), ``answers`` (the text differs), ``share``
    (the most that the share of right answers in one run allows) or ``assumed``; ``pairs`` is the
    number of pairs, or of rows, that it rests on, ``where`` names directories and the score.
    """

    rate: float
    source: str
    pairs: int = 0
    where: str = ""

    def note(self) -> str:
        """What it rests on, in a sentence."""
        rate = f"{self.rate:.2%}"
        ends = wilson(round(self.rate * self.pairs), self.pairs)
        pairs = f"{counted(self.pairs, 'pair')} (95% interval {ends.low:.1%} to {ends.high:.1%})"
        if self.source == "scores":
            return f"the rate of flips, {rate}, is that of {self.where}, over {pairs}"
        if self.source == "answers":
            return (
                f"the rate of flips, {rate}, is the share of answers that differ {self.where}, "
                f"over {pairs}. A score flips less often than the text, so fewer rows may do"
            )
        if self.source == "share":
            return (
                f"the rate of flips is at most {rate}: {self.where}, over "
                f"{counted(self.pairs, 'row')}, if both runs answered independently. A second "
                "--against DIR over the same rows shows the true rate"
            )
        return (
            f"the rate of flips, {rate}, is an assumption{self.where}. Two --against DIR over the "
            "same rows, or --pilot N with --against DIR, show it"
        )


def assumed(why: str = "") -> FlipRate:
    """The rate where nothing shows it; ``why`` follows "an assumption"."""
    return FlipRate(ASSUMED_RATE, "assumed", where=why)


class Sought(NamedTuple):
    """The difference of a share that is to be seen, and the rate of flips that may hide it."""

    difference: float
    flips: FlipRate


@dataclass(frozen=True, slots=True)
class Detection:
    """The rows of one run that show a difference with 80 % power, and how often each is asked.

    ``cost_usd`` is that of one such run; None without a price.
    """

    difference: float
    rows: int
    repeats: int
    flips: FlipRate
    cost_usd: float | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "difference": self.difference,
            "rows": self.rows,
            "repeats": self.repeats,
            "cost_usd": self.cost_usd,
            "flip_rate": self.flips.rate,
            "flip_rate_from": self.flips.source,
        }

    def line(self) -> str:
        """In words."""
        times = "" if self.repeats == 1 else f", each answered {counted(self.repeats, 'time')},"
        cost = "" if self.cost_usd is None else f" for {format_cost(self.cost_usd)} a run"
        return (
            f"a difference of {self.difference:g} takes {counted(self.rows, 'row')}{times}{cost} "
            f"({POWER:.0%} power)"
        )

    def notes(self, available: int) -> list[str]:
        """What it rests on; ``available`` is the number of rows of the input."""
        found = [self.flips.note()]
        if self.flips.rate < self.difference:
            found.append(
                f"a difference of {self.difference:g} flips at least that share of answers: the "
                "rows are those for that rate"
            )
        if self.repeats > 1:
            found.append(
                f"the input has {counted(available, 'row')}, fewer than the difference takes: "
                "repeats average out how answers to these rows vary, and tell nothing of other rows"
            )
        return found


def detection(sought: Sought, available: int, row_cost_usd: float | None) -> Detection | None:
    """What it takes to see a difference of a share; None without rows.

    The input has ``available`` rows, and each answer costs ``row_cost_usd``. Where more rows are
    needed than there are, each is answered several times: the mean of k answers varies by a k-th. A
    run that is better by the difference flips at least that share of answers, however steady its
    answers are.
    """
    if available <= 0:
        return None
    difference, flips = sought
    rate = max(flips.rate, difference)
    needed = rows_needed(difference, rate - difference * difference) or 1
    repeats = math.ceil(needed / available)
    rows = math.ceil(needed / repeats)
    cost = None if row_cost_usd is None else row_cost_usd * rows * repeats
    return Detection(difference, rows, repeats, flips, cost)
