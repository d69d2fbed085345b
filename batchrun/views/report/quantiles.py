"""Percentiles of a column in one pass and in bounded memory."""

from __future__ import annotations

import math
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

STEP = 1.01
"""The ratio of a bucket's end to its beginning, which keeps results within 1 % of the true value.
"""
LEAST = 1e-6
"""Smaller values, and 0, share a bucket."""
_LOG_STEP = math.log(STEP)


class Quantiles:
    """Counts values by their logarithm. The least and the largest are exact."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.low = math.inf
        self.high = -math.inf

    def add(self, values: pa.ChunkedArray) -> None:
        """Count the values of a column; nulls and what is not a finite number are passed over."""
        known = pc.drop_null(values).cast(pa.float64())
        known = known.filter(pc.is_finite(known))
        if not len(known):
            return
        ends = pc.min_max(known).as_py()
        self.low, self.high = min(self.low, ends["min"]), max(self.high, ends["max"])
        self.count += len(known)
        logs = pc.divide(pc.ln(pc.max_element_wise(known, LEAST)), _LOG_STEP)
        for each in pc.value_counts(pc.floor(logs).cast(pa.int32())).to_pylist():
            self._buckets[each["values"]] += each["counts"]

    def at(self, share: float) -> float | None:
        """The value that this share of all (0 to 1) does not exceed; None of nothing."""
        if not self.count:
            return None
        if share >= 1:
            return self.high
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                middle = math.exp((bucket + 0.5) * _LOG_STEP)
                if middle < LEAST * STEP:
                    return self.low
                return min(self.high, max(self.low, middle))
        return self.high
