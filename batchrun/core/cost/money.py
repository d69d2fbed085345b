"""Money as whole picodollars, which add up without an error, and as US dollars for the columns.

A picodollar (10^-12 USD) per token is a dollar per million million tokens: prices in use are
multiples of it. Columns hold the double nearest to the exact amount. Below ``EXACT_USD`` no two
amounts share a double, so ``picodollars`` gives back the amount that ``usd`` was made from.
"""

from __future__ import annotations

import math
from fractions import Fraction

PICODOLLARS = 10**12
"""In one US dollar."""
EXACT_USD = 8192
"""From 2^13 on, doubles lie further apart than picodollars."""
_PLAIN_USD = 2048
"""Up to here the errors of the double and of the multiplication are less than half a picodollar
together."""


def usd(cost_pd: int) -> float:
    """The double nearest to the amount."""
    return cost_pd / PICODOLLARS  # the division of two integers is rounded once, correctly


def picodollars(cost_usd: float) -> int:
    """The amount that is nearest to a double; finite."""
    if -_PLAIN_USD <= cost_usd <= _PLAIN_USD:
        return round(cost_usd * PICODOLLARS)
    return round(Fraction(cost_usd) * PICODOLLARS)


def settled(cost_pd: int) -> int:
    """The amount as it can be read back from a column: itself below ``EXACT_USD``."""
    if cost_pd < EXACT_USD * PICODOLLARS:
        return cost_pd
    return picodollars(usd(cost_pd))


def half_even(dividend: int, divisor: int) -> int:
    """The quotient, rounded to the nearest integer, ties to the even one. Neither is negative."""
    quotient, rest = divmod(dividend, divisor)
    doubled = 2 * rest
    return quotient + (doubled > divisor or (doubled == divisor and quotient % 2 == 1))


def format_cost(cost_usd: float) -> str:
    """US dollars for people: four digits behind the point, or two that are not zero where it is
    less.
    """
    if cost_usd == 0 or cost_usd >= 0.01:
        return f"${cost_usd:,.4f}"
    return f"${cost_usd:.{1 - math.floor(math.log10(cost_usd))}f}"


def format_picodollars(cost_pd: int) -> str:
    """The same for an amount in picodollars."""
    return format_cost(usd(cost_pd))


def format_rough_cost(cost_usd: float) -> str:
    """A rough amount for people: three digits."""
    if cost_usd >= 1:
        rounded = float(f"{cost_usd:.3g}")
        return f"${rounded:,.{2 if rounded < 10 else 1 if rounded < 100 else 0}f}"
    places = 2 if cost_usd <= 0 else 2 - math.floor(math.log10(cost_usd))
    return f"${cost_usd:.{places}f}"
