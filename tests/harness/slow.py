"""Which cases of a table every `make test` goes through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Cases for ``parametrize``, all but the first few of them marked slow. One value each."""
    return [
        case if place < quick else pytest.param(case, marks=pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
