"""Adding up: what a shard holds, and what a run holds as the sum of its shards.

Tokens and cost are summed over attempts, because attempts are the bill; rows are counted under
the endpoint, model and service tier of their last attempt. Totals travel as plain JSON values, so
that the journal can keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
Key = tuple[str | None, str | None, str | None]
"""Endpoint, model, service tier; all None for rows that were never sent."""

_UNSENT: Key = (None, None, None)


class AttemptLine(NamedTuple):
    """What is summed of an attempt; ``tokens`` in the order of ``TOKENS``."""

    row: int
    key: Key
    cost_usd: float | None
    unanswered: bool
    tokens: Sequence[int | None]


class ResultLine(NamedTuple):
    """What is counted of a row; ``error_class`` is None for a completion, ``truncated`` and
    ``empty`` tell of one.
    """

    row: int
    error_class: str | None
    has_usage: bool
    cost_usd: float | None
    truncated: bool = False
    empty: bool = False


_COUNTS = (
    "rows_ok",
    "rows_error",
    "attempts",
    *TOKENS,
    "rows_without_usage",
    "unanswered_attempts",
)
_OF_ENDPOINTS = ("rows_ok", "rows_error", "attempts", *TOKENS, "unanswered_attempts")
_COSTS = ("cost_usd", "ok_cost_usd")


class Totals:
    """Sums over results and attempts, by endpoint, model and service tier."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.outputs = {"truncated": 0, "empty": 0}
        self._groups: dict[Key, dict[str, Any]] = {}
        self._last: dict[int, Key] = {}

    def _group(self, key: Key) -> dict[str, Any]:
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = dict.fromkeys(_COUNTS, 0) | dict.fromkeys(_COSTS)
        return found

    def add_attempts(self, attempts: Iterable[AttemptLine]) -> None:
        """Count attempts, ordered by row and attempt number."""
        groups, last = self._groups, self._last
        for row, key, cost, unanswered, tokens in attempts:
            group = groups.get(key) or self._group(key)
            group["attempts"] += 1
            prompt, completion, total, cached, reasoning = tokens
            if prompt:
                group["prompt_tokens"] += prompt
            if completion:
                group["completion_tokens"] += completion
            if total:
                group["total_tokens"] += total
            if cached:
                group["cached_tokens"] += cached
            if reasoning:
                group["reasoning_tokens"] += reasoning
            if unanswered:
                group["unanswered_attempts"] += 1
            if cost is not None:
                _add_cost(group, "cost_usd", cost)
            last[row] = key

    def add_results(self, results: Iterable[ResultLine]) -> None:
        """Count rows, after the attempts of the same rows."""
        last = self._last
        for row, error_class, has_usage, cost, truncated, empty in results:
            group = self._group(last.pop(row, _UNSENT))
            if error_class is None:
                group["rows_ok"] += 1
                group["rows_without_usage"] += not has_usage
                _add_cost(group, "ok_cost_usd", cost)
                self.add_outputs(truncated=truncated, empty=empty)
            else:
                group["rows_error"] += 1
                self.errors[error_class] = self.errors.get(error_class, 0) + 1

    def add_alike(
        self,
        key: Key,
        *,
        ok: int,
        without_usage: int,
        tokens: Sequence[int | None],
    ) -> None:
        """Count rows that were answered at the first attempt, all under one key and without a
        price: what nearly every row is. ``tokens`` are their sums in the order of ``TOKENS``.
        """
        group = self._group(key)
        group["attempts"] += ok
        group["rows_ok"] += ok
        group["rows_without_usage"] += without_usage
        for name, count in zip(TOKENS, tokens, strict=True):
            group[name] += count or 0

    def add_outputs(self, *, truncated: int, empty: int) -> None:
        """Count completions that a token limit cut off, and those that say nothing."""
        self.outputs["truncated"] += truncated
        self.outputs["empty"] += empty

    def add(self, recorded: Mapping[str, Any]) -> None:
        """Count a shard by its recorded totals."""
        for error_class, rows in recorded["errors"].items():
            self.errors[error_class] = self.errors.get(error_class, 0) + rows
        self.add_outputs(**recorded["outputs"])
        for endpoint, model, tier, sums in recorded["groups"]:
            group = self._group((endpoint, model, tier))
            for name in _COUNTS:
                group[name] += sums[name]
            for name in _COSTS:
                _add_cost(group, name, sums[name])

    def recorded(self) -> dict[str, Any]:
        """The totals as JSON values."""
        return {
            "errors": dict(sorted(self.errors.items())),
            "outputs": dict(self.outputs),
            "groups": [[*key, sums] for key, sums in self._ordered()],
        }

    def _ordered(self) -> list[tuple[Key, dict[str, Any]]]:
        return sorted(self._groups.items(), key=lambda item: [part or "" for part in item[0]])

    def rows(self) -> tuple[int, int]:
        """Rows ok and rows failed."""
        groups = self._groups.values()
        return sum(g["rows_ok"] for g in groups), sum(g["rows_error"] for g in groups)

    @property
    def models(self) -> frozenset[str | None]:
        """Models that answered, or were asked where nobody did."""
        return frozenset(model for _, model, _ in self._groups)

    def by_endpoint(self) -> dict[str, dict[str, int]]:
        """Rows, attempts and tokens by the name of the endpoint."""
        found: dict[str, dict[str, int]] = {}
        for (endpoint, _, _), sums in self._ordered():
            if endpoint is not None:
                own = found.setdefault(endpoint, dict.fromkeys(_OF_ENDPOINTS, 0))
                for name in _OF_ENDPOINTS:
                    own[name] += sums[name]
        return found

    def overall(self) -> dict[str, Any]:
        """The ``totals`` of the summary."""
        groups = self._groups.values()
        sums: dict[str, Any] = {
            name: sum(g[name] for g in groups)
            for name in ("attempts", *TOKENS, "unanswered_attempts")
        }
        bill, kept = (_total(g[name] for g in groups) for name in _COSTS)
        return sums | {"cost_usd": bill, "wasted_cost_usd": _wasted(bill, kept)}

    def usage_rows(self) -> list[dict[str, Any]]:
        """The rows of ``usage.parquet``."""
        rows = []
        for (endpoint, model, tier), sums in self._ordered():
            row = {"endpoint": endpoint, "model": model, "service_tier": tier, **sums}
            kept = row.pop("ok_cost_usd")
            row["wasted_cost_usd"] = _wasted(row["cost_usd"], kept)
            rows.append(row)
        return rows


def _add_cost(group: dict[str, Any], name: str, cost: float | None) -> None:
    if cost is not None:
        group[name] = (group[name] or 0.0) + cost


def _total(costs: Iterable[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def _wasted(bill: float | None, kept: float | None) -> float | None:
    return None if bill is None else max(0.0, bill - (kept or 0.0))
