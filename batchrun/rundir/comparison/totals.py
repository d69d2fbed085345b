"""Tokens, cost and latency of two runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrun.adapters.scoring.metrics import finite
from batchrun.core.statistics.paired import paired_mean_interval
from batchrun.core.statistics.quantile import quantile_ranks
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import Side

SUMMED = (
    *("attempts", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    *("reasoning_tokens", "cost_usd", "wasted_cost_usd", "unanswered_attempts"),
)
"""Totals of ``summary.json`` that both runs have."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of the latency of the ``ok`` rows of a run, in seconds, and its 95 % interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of the cost of B's row to A's: the geometric mean over pairs with a price in both
    runs, and its 95 % interval.
    """

    pairs: int
    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Tokens, cost and latency of both runs."""

    values: Mapping[str, tuple[float | None, float | None]]
    latency: Mapping[str, tuple[Quantile | None, Quantile | None]]
    cost_ratio: Ratio

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """For ``--json``: the values of A and B by name, latencies as ``latency_s_p50``."""
        found: dict[str, dict[str, Any]] = {
            name: {"a": a, "b": b} for name, (a, b) in self.values.items()
        }
        for name, (first, second) in self.latency.items():
            found[f"latency_s_{name}"] = {
                "a": None if first is None else first.value,
                "b": None if second is None else second.value,
            }
        return found


def totals(pairs: Pairs) -> Totals:
    """Totals of both runs, as their summaries have them; latency and cost over the pairs."""
    values = {name: (_total(pairs.a, name), _total(pairs.b, name)) for name in SUMMED}
    values["wall_s"] = (_number(pairs.a.summary, "wall_s"), _number(pairs.b.summary, "wall_s"))
    return Totals(values, _latency(pairs), _cost_ratio(pairs))


def _total(side: Side, name: str) -> float | None:
    found = side.summary.get("totals")
    return _number(found, name) if isinstance(found, Mapping) else None


def _number(table: Mapping[str, Any], name: str) -> float | None:
    value = table.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _latency(pairs: Pairs) -> dict[str, tuple[Quantile | None, Quantile | None]]:
    sides = {letter: _quantiles(pairs, letter) for letter in "ab"}
    return {name: (sides["a"][name], sides["b"][name]) for name in SHARES}


def _quantiles(pairs: Pairs, letter: str) -> dict[str, Quantile | None]:
    there = f"FROM pairs WHERE NOT {letter}_failed AND {letter}_latency_s IS NOT NULL"
    n = int(pairs.one(f"SELECT count(*) {there}")[0])
    found: dict[str, Quantile | None] = dict.fromkeys(SHARES)
    if not n:
        return found
    places = {name: quantile_ranks(n, share) for name, share in SHARES.items()}
    wanted = sorted({rank for ranks in places.values() for rank in ranks or () if rank})
    # The discrete quantile of (r - 0.5) / n is the value of rank r.
    shares = ", ".join(repr((rank - 0.5) / n) for rank in wanted)
    listed = pairs.one(f"SELECT quantile_disc({letter}_latency_s, [{shares}]) {there}")[0]
    values = dict(zip(wanted, listed, strict=True))
    for name, ranks in places.items():
        if ranks is not None:
            ends = [None if rank is None else values[rank] for rank in ranks[1:]]
            found[name] = Quantile(values[ranks.value], *ends)
    return found


def _cost_ratio(pairs: Pairs) -> Ratio:
    each = (
        "(SELECT ln(b_cost_usd / a_cost_usd) AS d, unit FROM pairs "
        "WHERE a_cost_usd > 0 AND b_cost_usd > 0)"
    )
    if pairs.repeated:
        each = f"(SELECT avg(d) AS d FROM {each} GROUP BY unit)"
    n, mean, variance = pairs.one(f"SELECT count(d), avg(d), var_samp(d) FROM {each}")
    mean, variance = finite(mean), finite(variance)
    if mean is None:
        return Ratio(int(n), None, None, None)
    interval = None if variance is None else paired_mean_interval(int(n), mean, variance)
    ends = (None, None) if interval is None else map(math.exp, interval)
    return Ratio(int(n), math.exp(mean), *ends)
