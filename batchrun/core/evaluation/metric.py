"""A metric as ``summary.json`` has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """An aggregate over the rows of a run.

    ``n`` is the number of values that it rests on, ``low`` and ``high`` are the ends of its 95 %
    interval. The bounds count every failed row as 0 and as 1; they are None unless all values lie
    in 0 to 1. ``groups`` has the metric of each group where it is computed by a column.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    as_if_errors_wrong: float | None = None
    as_if_errors_right: float | None = None
    groups: Mapping[str, Metric] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``; ``groups`` only where there are some."""
        found: dict[str, Any] = {
            "value": self.value,
            "n": self.n,
            "low": self.low,
            "high": self.high,
            "as_if_errors_wrong": self.as_if_errors_wrong,
            "as_if_errors_right": self.as_if_errors_right,
        }
        if self.groups is not None:
            found["groups"] = {key: group.as_dict() for key, group in self.groups.items()}
        return found
