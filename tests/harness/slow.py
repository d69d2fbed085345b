"""How much of a table, or of what a generator makes, every `make test` goes through."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

SLOW = pytest.mark.slow
EVERYTHING = "BATCHRUN_EVERYTHING" in os.environ
"""Whether nothing is left out, as in `make test-all`."""


def examples(count: int) -> int:
    """How many examples a property is tried with: a fifth of them by default, in `make test-all`
    all.
    """
    return count if EVERYTHING else max(10, count // 5)


def rest_slow(cases: Iterable[Any], quick: int = 1, *, several: bool = False) -> list[Any]:
    """Cases for ``parametrize``, all but the first few of them marked slow. A case is one value, or
    ``several``.
    """
    return [
        case if place < quick else pytest.param(*(case if several else [case]), marks=SLOW)
        for place, case in enumerate(cases)
    ]
