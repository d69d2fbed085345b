"""Adding up: what a shard holds, and what a run holds as the sum of its shards.

Tokens and cost are summed over attempts, because attempts are the bill; rows are counted under
the endpoint, model and service tier of their last attempt. Costs are whole picodollars until they
are shown. Totals travel as plain JSON values, so that the journal can keep them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from batchrun.core.cost.money import usd

TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
)
"""In the order of ``records.Usage``."""
Key = tuple[str | None, str | None, str | None]
"""Endpoint, model, service tier; all None for rows that were never sent."""

_UNSENT: Key = (None, None, None)


class AttemptLine(NamedTuple):
    """What is summed of an attempt; ``tokens`` in the order of ``TOKENS``, ``day`` since the epoch
    (``day_of``).
    """

    row: int
    key: Key
    cost_pd: int | None
    unanswered: bool
    tokens: Sequence[int | None]
    day: int | None = 0


class ResultLine(NamedTuple):
    """What is counted of a row; ``error_class`` is None for a completion, ``truncated`` and
    ``empty`` tell of one.
    """

    row: int
    error_class: str | None
    has_usage: bool
    cost_pd: int | None
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
_COSTS = ("cost_pd", "ok_cost_pd")
_OF_DAYS = ("attempts", "prompt_tokens", "completion_tokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 24 * 3600 * 10**6


UNDATED = "unknown"
"""In the place of a day, for attempts of which a repair found no more than that they were."""


def day_of(wall_us: int | None) -> int | None:
    """The day since the epoch (UTC) of a time in microseconds."""
    return None if wall_us is None else wall_us // _DAY_US


@functools.lru_cache(64)
def _day_name(day: int | None) -> str:
    return UNDATED if day is None else (_EPOCH + timedelta(day)).date().isoformat()


class Totals:
    """Sums over results and attempts, by endpoint, model and service tier, and by day."""

    def __init__(self) -> None:
        self.unpriced: int | None = 0
        """Attempts with a usage whose cost is not known; None where an earlier version, which did
        not count them, wrote a part of it. So it is with the days.
        """
        self._days: dict[str, dict[str, Any]] | None = {}
        self.errors: dict[str, int] = {}
        self.outputs = {"truncated": 0, "empty": 0}
        self.reused: dict[str, int] = {}
        """Rows that took the answer of another run, by the endpoint that gave it there. They are
        among the rows of no endpoint, unless attempts of this run came before.
        """
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
        for row, key, cost_pd, unanswered, tokens, day in attempts:
            group = groups.get(key) or self._group(key)
            group["attempts"] += 1
            prompt, completion, total, cached, reasoning, written = tokens
            self._add_day(day, 1, prompt or 0, completion or 0, cost_pd)
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
            if written:
                group["cache_write_tokens"] += written
            if unanswered:
                group["unanswered_attempts"] += 1
            if cost_pd is not None:
                _add_cost(group, "cost_pd", cost_pd)
            elif self.unpriced is not None and any(count is not None for count in tokens):
                self.unpriced += 1
            last[row] = key

    def add_results(self, results: Iterable[ResultLine]) -> None:
        """Count rows, after the attempts of the same rows."""
        last = self._last
        for row, error_class, has_usage, cost_pd, truncated, empty in results:
            group = self._group(last.pop(row, _UNSENT))
            if error_class is None:
                group["rows_ok"] += 1
                group["rows_without_usage"] += not has_usage
                _add_cost(group, "ok_cost_pd", cost_pd)
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
        day: int | None = 0,
        cost_pd: int | None = None,
        unpriced: int = 0,
    ) -> None:
        """Count rows that were answered at the first attempt, all under one key and on one day:
        what nearly every row is. ``tokens`` are their sums in the order of ``TOKENS``, ``cost_pd``
        the sum of the costs that are known.
        """
        self._add_day(day, ok, tokens[0] or 0, tokens[1] or 0, cost_pd)
        if self.unpriced is not None:
            self.unpriced += unpriced
        group = self._group(key)
        group["attempts"] += ok
        group["rows_ok"] += ok
        group["rows_without_usage"] += without_usage
        for name, count in zip(TOKENS, tokens, strict=True):
            group[name] += count or 0
        for name in _COSTS:
            _add_cost(group, name, cost_pd)

    def add_unsent(self, *, ok: int, without_usage: int, truncated: int, empty: int) -> None:
        """Count rows with an answer that none of this run's attempts brought."""
        group = self._group(_UNSENT)
        group["rows_ok"] += ok
        group["rows_without_usage"] += without_usage
        _add_cost(group, "ok_cost_pd", 0)
        self.add_outputs(truncated=truncated, empty=empty)

    def add_reused(self, endpoints: Iterable[str | None]) -> None:
        """Count rows with a reused answer, by the endpoint that gave it: after ``add_results`` or
        ``add_unsent`` for the same rows.
        """
        for endpoint in endpoints:
            name = endpoint or ""
            self.reused[name] = self.reused.get(name, 0) + 1

    def add_outputs(self, *, truncated: int, empty: int) -> None:
        """Count completions that a token limit cut off, and those that say nothing."""
        self.outputs["truncated"] += truncated
        self.outputs["empty"] += empty

    def add(self, recorded: Mapping[str, Any]) -> None:
        """Count a shard by its recorded totals."""
        for error_class, rows in recorded["errors"].items():
            self.errors[error_class] = self.errors.get(error_class, 0) + rows
        self.add_outputs(**recorded["outputs"])
        for endpoint, rows in recorded.get("reused", {}).items():
            self.reused[endpoint] = self.reused.get(endpoint, 0) + rows
        for endpoint, model, tier, sums in recorded["groups"]:
            group = self._group((endpoint, model, tier))
            for name in _COUNTS:
                group[name] += sums.get(name, 0)  # an earlier version counted fewer kinds
            for name in _COSTS:
                # A version that knew no prices recorded no costs either.
                _add_cost(group, name, sums.get(name))
        unpriced, days = recorded.get("unpriced"), recorded.get("days")
        self.unpriced = _both(self.unpriced, unpriced)
        if days is None:
            self._days = None
        for day, sums in () if days is None else days.items():
            attempts, prompt, completion = (sums[name] for name in _OF_DAYS)
            self._add_to(day, attempts, prompt, completion, sums["cost_pd"])

    def _add_day(
        self, day: int | None, attempts: int, prompt: int, completion: int, cost_pd: int | None
    ) -> None:
        self._add_to(_day_name(day), attempts, prompt, completion, cost_pd)

    def _add_to(
        self, day: str, attempts: int, prompt: int, completion: int, cost_pd: int | None
    ) -> None:
        if self._days is None:
            return
        sums = self._days.get(day)
        if sums is None:
            sums = self._days[day] = dict.fromkeys(_OF_DAYS, 0) | {"cost_pd": None}
        sums["attempts"] += attempts
        sums["prompt_tokens"] += prompt
        sums["completion_tokens"] += completion
        _add_cost(sums, "cost_pd", cost_pd)

    def recorded(self) -> dict[str, Any]:
        """The totals as JSON values."""
        return {
            "errors": dict(sorted(self.errors.items())),
            "outputs": dict(self.outputs),
            "groups": [[*key, sums] for key, sums in self._ordered()],
            "unpriced": self.unpriced,
            "days": None if self._days is None else dict(sorted(self._days.items())),
            **({"reused": dict(sorted(self.reused.items()))} if self.reused else {}),
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
        bill_pd, kept_pd = self._bill()
        days = None if self._days is None else sorted(self._days.items())
        return (
            sums
            | _shown(bill_pd, kept_pd)
            | {
                "unpriced_attempts": self.unpriced,
                "by_day": None
                if days is None
                else {
                    day: {
                        **{name: day_sums[name] for name in _OF_DAYS},
                        "cost_usd": _usd(day_sums["cost_pd"]),
                    }
                    for day, day_sums in days
                },
            }
        )

    def bill(self) -> tuple[int | None, int]:
        """The cost and what of it was wasted, in picodollars."""
        bill_pd, kept_pd = self._bill()
        return bill_pd, _wasted(bill_pd, kept_pd) or 0

    def _bill(self) -> tuple[int | None, int | None]:
        """The cost and what of it the kept answers are; None while no cost is known. Nothing was
        spent where every answer was reused.
        """
        groups = self._groups.values()
        bill_pd, kept_pd = (_total(g[name] for g in groups) for name in _COSTS)
        if bill_pd is None and self.reused and not any(g["attempts"] for g in groups):
            bill_pd = 0
        return bill_pd, kept_pd

    def usage_rows(self) -> list[dict[str, Any]]:
        """The rows of ``usage.parquet``."""
        rows = []
        for (endpoint, model, tier), sums in self._ordered():
            row = {"endpoint": endpoint, "model": model, "service_tier": tier, **sums}
            bill_pd, kept_pd = row.pop("cost_pd"), row.pop("ok_cost_pd")
            rows.append(row | _shown(bill_pd, kept_pd))
        return rows


def _add_cost(sums: dict[str, Any], name: str, cost_pd: int | None) -> None:
    if cost_pd is not None:
        sums[name] = (sums[name] or 0) + cost_pd


def _both(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _total(costs_pd: Iterable[int | None]) -> int | None:
    known = [cost_pd for cost_pd in costs_pd if cost_pd is not None]
    return sum(known) if known else None


def _usd(cost_pd: int | None) -> float | None:
    return None if cost_pd is None else usd(cost_pd)


def _wasted(bill_pd: int | None, kept_pd: int | None) -> int | None:
    return None if bill_pd is None else max(0, bill_pd - (kept_pd or 0))


def _shown(bill_pd: int | None, kept_pd: int | None) -> dict[str, float | None]:
    """The columns of a bill and of the answers kept."""
    return {"cost_usd": _usd(bill_pd), "wasted_cost_usd": _usd(_wasted(bill_pd, kept_pd))}
