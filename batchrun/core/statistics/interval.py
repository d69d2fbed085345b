"""The interval that every method of this folder returns, and the confidence that it has."""

from __future__ import annotations

from typing import NamedTuple

CONFIDENCE = 0.95
"""How many of 100 intervals hold the true value, unless the caller asks for another share."""


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float
