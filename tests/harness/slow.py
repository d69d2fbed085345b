"""How much of a table, or of what a generator makes, every `make test` goes through."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

EVERYTHING = "BATCHRUN_EVERYTHING" in os.environ
"""Whether nothing is left out, as in `make test-all`."""


def examples(count: int) -> int:
    """How many examples a property is tried with: a fifth of them by default, in `make test-all`
    all.
    """
    return count if EVERYTHING else max(10, count // 5)


def rest_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Cases for ``parametrize``, all but the first few of them marked slow. One value each."""
    return [
        case if place < quick else pytest.param(case, marks=pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
