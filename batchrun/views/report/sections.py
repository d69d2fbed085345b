"""The sections of the report, each made of what is known; one without data is left out.

A section is what ``parts.html`` renders: tables, charts, and cards of rows. Every text passes a
``Writer``, which bounds what it takes of the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.run.series import Series
from batchrun.views import failures
from batchrun.views.pages import charts
from batchrun.views.pages.rendering import fitted
from batchrun.views.report.gathering import Gathered, Top
from batchrun.views.report.limits import Limits
from batchrun.views.report.quantiles import Quantiles
from batchrun.views.text import BOUND, percent

Section = Mapping[str, Any]
DASH = "\N{EN DASH}"
SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the report is made of."""

    place: str
    found: Mapping[str, Any]
    """As ``batchrun status --json`` has it."""
    gathered: Gathered | None
    """None while nothing is published."""
    usage: Sequence[Mapping[str, Any]]
    series: Series
    comparison: Mapping[str, Any] | None = None
    """As ``batchrun compare --json`` has it, or as much of it as is known."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """``summary.json``; empty for a run that has not ended."""
        return _mapping(self.found.get("summary"))


@dataclass(slots=True)
class Writer:
    """Bounds what is written: ``charts`` collects the data of the charts."""

    limits: Limits
    charts: dict[str, Any] = field(default_factory=dict)

    def cell(self, value: object) -> str:
        """A name or a figure in a table."""
        return fitted(figure(value), self.limits.cell_bytes)

    def field(self, value: object) -> str:
        """A message or a setting."""
        return fitted(figure(value), self.limits.field_bytes)

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        numbers: Iterable[int] = (),
        title: str = "",
        wide: Iterable[int] = (),
        tones: Sequence[str] = (),
        rest: str = "not shown",
    ) -> dict[str, Any]:
        """A table of at most so many lines; ``wide`` columns hold messages."""
        wide, kept = set(wide), rows[: self.limits.rows]
        left = len(rows) - len(kept)
        return {
            "title": title,
            "head": [self.cell(name) for name in head],
            "numbers": list(numbers),
            "tones": list(tones),
            "rows": [
                [self.field(v) if n in wide else self.cell(v) for n, v in enumerate(row)]
                for row in kept
            ],
            "note": f"{left:,} more {rest}" if left else "",
        }


def figure(value: object) -> str:
    """A value of JSON as people read it."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sections(facts: Facts, writer: Writer, *, live: bool = False) -> list[Section]:
    """The sections that have something to show, in their order; ``live`` ones are those that need
    no look at the results.
    """
    found = (make(facts, writer) for make in (LIVE if live else SECTIONS))
    return [each for each in found if each is not None]


def _section(title: str, *, note: str = "", **parts: Any) -> Section | None:
    """A section; None where none of its parts has anything."""
    kept = {name: [each for each in part if each] for name, part in parts.items()}
    if not any(kept.values()):
        return None
    name = title.lower().replace(" ", "-").replace(",", "")
    return {
        "id": name,
        "title": title,
        "note": note,
        "charts": [],
        "tables": [],
        "cards": [],
    } | kept


def _verdicts(facts: Facts, writer: Writer) -> Section | None:
    """Gates and metrics, as ``summary.json`` has them."""
    gates = _mapping(facts.summary.get("gates"))
    tones = {"pass": "good", "warn": "warn", "inconclusive": "warn", "fail": "bad"}
    gate_rows = [
        (gate.get("verdict"), name, gate.get("rule"), gate.get("value"), gate.get("why"))
        for name, gate in _mappings(gates)
    ]
    metric_rows = []
    for name, metric in _mappings(_mapping(facts.summary.get("metrics"))):
        metric_rows.append(_metric_row(name, metric))
        groups = _mappings(_mapping(metric.get("groups")))
        metric_rows += [_metric_row(f"{name}: {key}", group) for key, group in groups]
    score_rows = [
        (name, score.get("scored"), score.get("null"), score.get("error_rows"))
        for name, score in _mappings(_mapping(facts.summary.get("scores")))
    ]
    counts = ("rows", "unparsed", "failed", "stale", "missing", "flips", "attempts")
    costs = ("cost_usd", "wasted_cost_usd")
    judge_rows = [
        (name, judge.get("model"), *map(judge.get, (*counts, *costs)))
        for name, judge in _mappings(_mapping(facts.summary.get("judges")))
    ]
    return _section(
        "Metrics and gates",
        tables=[
            gate_rows
            and writer.table(
                ("verdict", "gate", "rule", "value", "why"),
                gate_rows,
                numbers=(3,),
                wide=(4,),
                tones=[tones.get(str(row[0]), "dim") for row in gate_rows],
                title="Gates",
            ),
            metric_rows
            and writer.table(
                ("metric", "value", "95% interval", "n", "if errors were wrong", "right"),
                metric_rows,
                numbers=(1, 2, 3, 4, 5),
                title="Metrics",
            ),
            score_rows
            and writer.table(
                ("score", "scored", "not scored", "failed rows"),
                score_rows,
                numbers=(1, 2, 3),
                title="Scores",
            ),
            judge_rows
            and writer.table(
                ("judge", "model", "judged", "no verdict", *counts[2:], "cost, USD", "wasted, USD"),
                judge_rows,
                numbers=tuple(range(2, 11)),
                title="Judges",
            ),
        ],
    )


def _metric_row(name: str, metric: Mapping[str, Any]) -> tuple[object, ...]:
    low, high = metric.get("low"), metric.get("high")
    between = None if low is None or high is None else f"{figure(low)} to {figure(high)}"
    bounds = (metric.get("as_if_errors_wrong"), metric.get("as_if_errors_right"))
    return (name, metric.get("value"), between, metric.get("n"), *bounds)


def _comparison(facts: Facts, writer: Writer) -> Section | None:
    """Against another run: what differs, then metrics, scores and totals of both."""
    found = facts.comparison
    if found is None:
        return None
    metrics = [
        (name, m.get("a"), m.get("b"), m.get("difference"), _between(m))
        for name, m in _mappings(_mapping(found.get("metrics")))
    ]
    scores = [
        (name, s.get("won"), s.get("lost"), s.get("difference"), _between(s), s.get("p"))
        for name, s in _mappings(_mapping(found.get("scores")))
    ]
    totals = [(n, t.get("a"), t.get("b")) for n, t in _mappings(_mapping(found.get("totals")))]
    differs = found.get("differs") or []
    why = f"Differs in: {', '.join(map(str, differs))}. " if differs else ""
    pairs = found.get("pairs")
    paired = f"Rows were not paired: {found.get('unpaired')}."
    if pairs is not None:
        paired = (
            f"{pairs:,} rows are in both runs; {found.get('answers_changed'):,} answers changed."
        )
    changed = [
        (one.get("kind"), one.get("custom_id"), one.get("row_a"), one.get("row_b"))
        for one in found.get("rows") or ()
    ]
    return _section(
        "Comparison",
        note=writer.field(f"a is {found.get('against')}, b is this run. {why}{paired}"),
        tables=[
            metrics
            and writer.table(
                ("metric", "a", "b", "b - a", "95% interval"),
                metrics,
                numbers=(1, 2, 3, 4),
                title="Metrics",
            ),
            scores
            and writer.table(
                ("score", "won", "lost", "difference", "95% interval", "p"),
                scores,
                numbers=(1, 2, 3, 4, 5),
                title="Scores, row by row",
            ),
            changed
            and writer.table(
                ("", "custom_id", "row in a", "row in b"),
                changed,
                numbers=(2, 3),
                title="Rows that changed",
                rest="in `batchrun compare`",
            ),
            totals and writer.table(("total", "a", "b"), totals, numbers=(1, 2), title="Totals"),
        ],
    )


def _between(found: Mapping[str, Any]) -> str | None:
    low, high = found.get("low"), found.get("high")
    return None if low is None or high is None else f"{figure(low)} to {figure(high)}"


def _over_time(facts: Facts, writer: Writer) -> Section | None:
    """Charts of the series, and what held the run back."""
    found = charts.charts(facts.series)
    for chart in found:
        writer.charts[chart["name"]] = chart.pop("data")
    held = [
        (BOUND.get(name, name), f"{100 * share:.0f}%")
        for name, share in charts.held_back(facts.series)
        if share >= 0.005
    ]
    return _section(
        "Over time",
        note="Time in which a session worked; pauses between sessions are left out.",
        charts=found,
        tables=[
            found
            and held
            and writer.table(("held back by", "of the time"), held, numbers=(1,), wide=(0,))
        ],
    )


def _latency(facts: Facts, writer: Writer) -> Section | None:
    """Percentiles of times and tokens, over the rows' last attempts."""
    gathered = facts.gathered
    if gathered is None:
        return None
    measured: Sequence[tuple[str, Quantiles, Callable[[float], str]]] = (
        ("latency", gathered.latency, _seconds),
        ("time to first token", gathered.ttft, _seconds),
        ("prompt tokens", gathered.prompt_tokens, _whole),
        ("completion tokens", gathered.completion_tokens, _whole),
    )
    rows = [
        (
            name,
            f"{of.count:,}",
            shown(of.low),
            *(shown(of.at(share) or 0.0) for share in SHARES),
            shown(of.high),
        )
        for name, of, shown in measured
        if of.count
    ]
    reasons = [
        (name, rows_, percent(rows_, gathered.ok))
        for name, rows_ in gathered.finish_reasons.most_common()
    ]
    return _section(
        "Latency and tokens",
        note="Of the last attempt of every row; percentiles are within 1%.",
        tables=[
            rows
            and writer.table(
                ("", "rows", "least", "p50", "p90", "p95", "p99", "most"),
                rows,
                numbers=range(1, 8),
            ),
            reasons
            and writer.table(
                ("finish reason", "answers", "share"),
                reasons,
                numbers=(1, 2),
                title="How answers ended",
            ),
        ],
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value:,.0f} s"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _cost(facts: Facts, writer: Writer) -> Section | None:
    """Tokens and cost by model and endpoint, and by day."""
    usage = sorted(facts.usage, key=lambda u: (-(u.get("cost_usd") or 0.0), str(u.get("model"))))
    by_model = [
        (
            *(u.get(name) for name in ("model", "endpoint", "service_tier")),
            *(u.get(name) for name in ("rows_ok", "rows_error", "attempts")),
            *(u.get(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")),
            *(_dollars(u.get(name)) for name in ("cost_usd", "wasted_cost_usd")),
        )
        for u in usage
    ]
    days = _mappings(_mapping(_mapping(facts.summary.get("totals")).get("by_day")))
    by_day = [
        (
            day,
            *(sums.get(name) for name in ("attempts", "prompt_tokens", "completion_tokens")),
            _dollars(sums.get("cost_usd")),
        )
        for day, sums in reversed(days)
    ]
    return _section(
        "Tokens and cost",
        tables=[
            by_model
            and writer.table(
                (
                    *("model", "endpoint", "tier", "ok", "failed", "attempts"),
                    *("prompt", "cached", "completion", "cost", "wasted"),
                ),
                by_model,
                numbers=range(3, 11),
                rest="in usage.parquet",
            ),
            by_day
            and writer.table(
                ("day (UTC)", "attempts", "prompt", "completion", "cost"),
                by_day,
                numbers=range(1, 5),
                title="By day",
                rest="in summary.json",
            ),
        ],
    )


def _dollars(value: object) -> str | None:
    return format_cost(value) if isinstance(value, (int, float)) else None


def _errors(facts: Facts, writer: Writer) -> Section | None:
    """Failed rows by class with examples, and what to do."""
    errors = _mapping(facts.found.get("errors"))
    gathered = facts.gathered
    if not errors and gathered is not None:
        errors = gathered.class_counts
    counts = [
        (name, errors[name], dict(failures.advice(errors)).get(name))
        for name in sorted(errors, key=lambda name: (-errors[name], name))
    ]
    examples = []
    for name, rows in () if gathered is None else gathered.classes.items():
        for row in rows:
            shown = gathered.shown.get(row, {}) if gathered else {}
            examples.append(
                (
                    *(name, row, shown.get("custom_id"), shown.get("http_status")),
                    *(shown.get("endpoint"), shown.get("error_message")),
                )
            )
    return _section(
        "Errors",
        tables=[
            counts
            and writer.table(("class", "rows", "what to do"), counts, numbers=(1,), wide=(2,)),
            examples
            and writer.table(
                ("class", "row", "custom_id", "HTTP", "endpoint", "message"),
                examples,
                numbers=(1, 3),
                wide=(5,),
                title="Examples",
            ),
        ],
    )


def _extremes(facts: Facts, writer: Writer) -> Section | None:
    """The slowest, the dearest and the longest rows."""
    gathered = facts.gathered
    if gathered is None:
        return None
    rankings: Sequence[tuple[str, Sequence[Top], Callable[[float], str]]] = (
        ("Slowest", gathered.slowest, _seconds),
        ("Dearest", gathered.dearest, format_cost),
        ("Longest", gathered.longest, lambda value: f"{value:,.0f} tokens"),
    )
    tables = []
    for title, ranking, shown in rankings:
        rows = []
        for top in ranking:
            row = gathered.shown.get(top.row, {})
            said = row.get("content") or row.get("error_message")
            rows.append(
                (
                    *(top.row, row.get("custom_id"), shown(top.value), row.get("model")),
                    *(row.get("finish_reason") or row.get("error_class"), said),
                )
            )
        head = ("row", "custom_id", "", "model", "ended", "answer")
        tables.append(rows and writer.table(head, rows, numbers=(0, 2), wide=(5,), title=title))
    return _section("Slowest, dearest, longest rows", tables=tables)


def _sample(facts: Facts, writer: Writer) -> Section | None:
    """Rows drawn by the hash of their name."""
    gathered = facts.gathered
    if gathered is None:
        return None
    kept = gathered.sample[: writer.limits.cards]
    cards = [_card(gathered.shown[row], writer) for row in kept if row in gathered.shown]
    return _section(
        "Sample",
        note=f"{len(cards)} of {gathered.rows:,} rows, drawn by a hash of their custom_id (else of "
        "their number): the same rows every night. `batchrun show DIR ROW` has the whole of one.",
        cards=cards,
    )


def _card(row: Mapping[str, Any], writer: Writer) -> dict[str, Any]:
    texts = [
        {"label": writer.cell(name), "said": writer.field(value)}
        for name, value in row["carried"].items()
    ]
    texts += [
        {"label": name, "said": writer.field(row[name])}
        for name in ("reasoning", "refusal", "tool_calls", "error_message")
        if row.get(name)
    ]
    if row.get("content") is not None:
        said = fitted(row["content"], writer.limits.text_bytes, chars=row["content_chars"])
        texts.append({"label": "answer", "said": said})
    latency = row.get("latency_s")
    about = [
        *(row.get("error_class") or row.get("finish_reason") or row["status"], row.get("model")),
        None if latency is None else _seconds(latency),
        _dollars(row.get("cost_usd")),
    ]
    return {
        "number": f"{row['row']:,}",
        "name": writer.cell(row["custom_id"]) if row["custom_id"] is not None else "",
        "about": " \N{MIDDLE DOT} ".join(writer.cell(each) for each in about if each is not None),
        "texts": texts,
    }


def _settings(facts: Facts, writer: Writer) -> Section | None:
    """The settings in force that are not at rest, and what the run was made with."""
    settings = _mapping(facts.summary.get("settings"))
    rows = [
        (name, value)
        for name, value in settings.items()
        if value is not None and value not in ([], {}, "")
    ]
    names = ("version", "run", "started_at", "ended_at")
    made = [(name, facts.summary[name]) for name in names if name in facts.summary]
    return _section(
        "Settings and versions",
        tables=[
            made and writer.table(("", ""), made, wide=(1,)),
            rows and writer.table(("setting", "value"), rows, wide=(1,), rest="in summary.json"),
        ],
    )


SECTIONS: tuple[Callable[[Facts, Writer], Section | None], ...] = (
    _verdicts,
    _comparison,
    _over_time,
    _latency,
    _cost,
    _errors,
    _extremes,
    _sample,
    _settings,
)


LIVE = (_verdicts, _over_time)


def _mapping(value: object) -> Mapping[str, Any]:
    """An object of JSON; an empty one where something else is."""
    return value if isinstance(value, Mapping) else {}


def _mappings(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of its values that are objects, by name."""
    return [(name, value) for name, value in found.items() if isinstance(value, Mapping)]
