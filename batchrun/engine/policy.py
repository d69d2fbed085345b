"""What is asked of every attempt of a run."""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.core.cost.price_book import PriceBook
from batchrun.core.verdict import answer_checks


@dataclass(frozen=True, slots=True)
class Policy:
    """What the loop may do. ``raw`` is the setting of that name, ``model`` the run's model, None
    where each row brings its own; ``output`` what is asked of every answer, None for nothing;
    ``prices`` say what exchanges cost; ``fallback_model`` is the setting of that name.
    """

    max_attempts: int
    wait_s_max: float
    raw: str
    model: str | None = None
    output: answer_checks.Policy | None = None
    prices: PriceBook | None = None
    fallback_model: str | None = None
