"""The names of the rules by which servers charge their token limits.

What each charges is in ``core.request.charge``; what a provider does, in ``providers``.
"""

from __future__ import annotations

from enum import StrEnum


class Charge(StrEnum):
    """What a server charges to its token limit."""

    SUM = "sum"
    MAX = "max"
    INPUT = "input"
    REAL = "real"
