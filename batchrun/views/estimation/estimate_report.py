"""The report of ``batchrun estimate``: for people, in as few columns as a terminal has, and as one
JSON object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrun.adapters.environment.tokenizers import REMEDY
from batchrun.core.cost.money import PICODOLLARS, format_cost
from batchrun.core.estimate import least_time
from batchrun.core.estimate.detection import Detection, Sought, detection
from batchrun.core.estimate.estimating import (
    LIKELY_SHARE,
    LIMIT_LIKELY,
    LOW_SHARE,
    UNSTATED_HIGH,
    Range,
    Sums,
)
from batchrun.core.estimate.extrapolation import LEVEL, Interval
from batchrun.core.estimate.pilot import PilotFigures
from batchrun.core.text.wording import counted, verb
from batchrun.views.estimation.counting import Estimate
from batchrun.views.estimation.unit_prices import as_dict, labelled_lines, price_lines
from batchrun.views.layout import wrap
from batchrun.views.text import BOUND, duration, safe

MODELS_SHOWN = 20
KEYS = {
    "rows": "Rows read.",
    "bad": "Rows that cannot be sent; `batchrun validate` names them.",
    "reused": (
        "Rows whose answer another run has already, which the figures leave out. Only with "
        "`--reuse`."
    ),
    "prompt_tokens": (
        "Tokens of all prompts, those of judges included: `estimate`, in the interval from `low` "
        "to `high`."
    ),
    "completion_tokens": (
        "Tokens of all answers, with the same keys: a prior, see [estimate.md](estimate.md)."
    ),
    "cost_usd": "What these tokens cost, with the same keys. Null if a row has no price.",
    "figures_from": (
        "`requests`, or `pilot` if the figures above are extrapolated from the pilot's answers."
    ),
    "at_most": (
        "The upper bound of all requests sent once, in `tokens` and `cost_usd`. Null if a row "
        "does not limit its answer, or has no price."
    ),
    "time": (
        "The seconds that the rate limits alone take: `at_least_by_rpm_s`, and "
        "`at_least_by_tpm_s` with `estimate`, `low`, `high`. Null without limits."
    ),
    "models": (
        "The same figures by model, the cost at each of the `endpoints` that serve it, "
        "`batch_cost_usd` at the prices of the Batch API (null if they are not known), and "
        "`prices` by endpoint: `input`, `output`, `cached_input`, `batch_input`, `batch_output` in "
        "USD per million tokens, their `source` and `date`. With several `--model`, the report has "
        "`rows`, `bad`, `models` and `notes`, and each model the figures of the whole input."
    ),
    "detect": (
        "Null without `--detect D`; else what it takes to see a `difference` of D between two runs "
        "in 80 of 100 cases: `rows`, `repeats` (how often each is answered) and the `cost_usd` of "
        "one such run, where the share `flip_rate` of answers flips; `flip_rate_from` is `scores`, "
        "`answers`, `share` or `assumed`."
    ),
    "judges": (
        "What each judge (`[judge.NAME]`) adds, by name: `rows` (answers to judge), "
        "`prompt_tokens`, `completion_tokens`, `cost_usd`, `at_most`, `time` and `models`. The "
        "figures of the whole include them; `models` of the whole does not. Only with judges."
    ),
    "tokens_counted_by": "`tokenizer`, or `bytes` if the extra `tokenizer` is not installed.",
    "notes": "What the figures rest on, and what would improve them.",
    "pilot": (
        "Null without `--pilot`; else its `rows`, how many of them `failed`, its `directory`, "
        "`wall_s`, `spent_usd`, and with confidence `level` the figures of the whole input, each "
        "with `estimate`, `low`, `high`: `prompt_tokens`, `completion_tokens`, `cost_usd`, "
        "`time_s`; `time_held_by` is `concurrency`, `rpm` or `tpm`. The figures are null if the "
        "pilot was stopped."
    ),
}
"""What the keys of ``estimate --json`` mean, for the reference."""


@dataclass(frozen=True, slots=True)
class Piloted:
    """A pilot that ended: how many rows it sent, how many of them failed, its directory, its cost
    and its estimate. ``told`` is None if it has pending rows.
    """

    rows: int
    failed: int
    directory: str
    wall_s: float
    cost_usd: float | None
    told: PilotFigures | None


class Report:
    """What is said of an estimate."""

    def __init__(
        self, found: Estimate, pilot: Piloted | None = None, sought: Sought | None = None
    ) -> None:
        """``sought`` is the difference of ``--detect``."""
        self._found = found
        self._pilot = pilot
        self._weights = {e.name: e.weight for e in found.settings.endpoints}
        self._sums = _whole(found)
        costs = [sums.cost(self._weights) for sums in found.models.values()]
        known = [cost for cost in costs if cost is not None]
        self._cost: Range | None = None
        if known and len(known) == len(costs):
            self._cost = Range()
            for cost in known:
                self._cost.plus(cost)
        self._told = None if pilot is None else pilot.told
        bounds = [sums.most_pd() for sums in found.models.values()]
        whole = [bound for bound in bounds if bound is not None]
        self._most_pd = sum(whole) if whole and len(whole) == len(bounds) else None
        self._judges = {name: Report(judged) for name, judged in found.judges.items()}
        self._total = self._own()
        for each in self._judges.values():
            self._total = self._total.with_more(each._total)  # noqa: SLF001 - of this class
        self._available = (self._sums.rows + found.reused) // found.settings.repeat
        self._detection = None if sought is None else self._detected(sought)

    def _own(self) -> _Figures:
        """The figures of the run alone, without its judges: what the pilot tells, if there was
        one.
        """
        sums, told = self._sums, self._told
        prompt, output, cost = sums.prompt, sums.output, self._cost
        if told is not None:
            prompt, output = _range(told.prompt_tokens), _range(told.completion_tokens)
            cost = None if told.cost_usd is None else _range(told.cost_usd, PICODOLLARS)
        most_tokens = None if sums.unbounded else sums.most_tokens
        return _Figures(prompt, output, cost, most_tokens, self._most_pd)

    def _detected(self, sought: Sought) -> Detection | None:
        cost = None if self._total.cost is None else self._total.cost.likely / PICODOLLARS
        each = None if cost is None or not self._sums.rows else cost / self._sums.rows
        return detection(sought, self._available, each)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        found = self._found
        return {
            "rows": found.rows,
            "bad": found.bad,
            **({"reused": found.reused} if found.settings.reuse else {}),
            **self._figures_of_all(),
            "at_most": self._total.at_most(),
            "figures_from": "requests" if self._told is None else "pilot",
            "time": self._times(),
            "detect": None if self._detection is None else self._detection.as_dict(),
            "models": {model: self._model(model, each) for model, each in found.models.items()},
            **({"judges": self._as_judges()} if self._judges else {}),
            "tokens_counted_by": "tokenizer" if found.tokenizer else "bytes",
            "notes": list(self._notes()),
            "pilot": None if self._pilot is None else _told(self._pilot),
        }

    def _figures_of_all(self) -> dict[str, Any]:
        """Tokens and cost of the whole input: what the pilot tells, if there was one."""
        told = self._told
        if told is None or self._judges:
            return self._total.as_dict()
        return {
            "prompt_tokens": told.prompt_tokens.as_dict(),
            "completion_tokens": told.completion_tokens.as_dict(),
            "cost_usd": None if told.cost_usd is None else told.cost_usd.as_dict(),
        }

    def _as_judges(self) -> dict[str, Any]:
        """What each judge adds."""
        names = ("rows", "prompt_tokens", "completion_tokens", "cost_usd", "at_most")
        found = {name: each.as_dict() for name, each in self._judges.items()}
        return {
            name: {key: each[key] for key in (*names, "time", "models")}
            for name, each in found.items()
        }

    def compared(self, model: str) -> dict[str, Any]:
        """The figures of the whole input with this model, for ``--json`` of several."""
        found, bill = self.as_dict(), self._found.models.get(model, Sums())
        figures = ("rows", "bad", "prompt_tokens", "completion_tokens", "cost_usd", "at_most")
        batch = self.batch_pd()
        return {name: found[name] for name in figures} | {
            "batch_cost_usd": None if batch is None else batch.dollars(),
            "endpoints": self._model(model, bill)["endpoints"],
            "prices": self._prices(model),
            "time": found["time"],
            "detect": found["detect"],
            **({"judges": found["judges"]} if self._judges else {}),
        }

    @property
    def cost(self) -> Range | None:
        """The cost of the whole input in picodollars, judges included; None without a price."""
        return self._total.cost

    def batch_pd(self) -> Range | None:
        """The cost of the whole input in the Batch API; None where a row has no price there."""
        whole = Range()
        for sums in self._found.models.values():
            batch = sums.batch_pd()
            if batch is None:
                return None
            whole.plus(batch)
        return whole if self._found.models else None

    def _prices(self, model: str) -> dict[str, Any]:
        return {
            name: None if quoted is None else as_dict(quoted)
            for name, quoted in self._found.quotes.get(model, {}).items()
        }

    def _model(self, model: str, sums: Sums) -> dict[str, Any]:
        cost, most, batch = sums.cost(self._weights), sums.most_pd(), sums.batch_pd()
        return {
            "rows": sums.rows,
            "prompt_tokens": sums.prompt.whole(),
            "completion_tokens": sums.output.whole(),
            "cost_usd": None if cost is None else cost.dollars(),
            "at_most": {
                "tokens": None if sums.unbounded else sums.most_tokens,
                "cost_usd": None if most is None else most / PICODOLLARS,
            },
            "endpoints": {
                name: None if bill is None else bill.cost.dollars()
                for name, bill in sums.bills.items()
            },
            "batch_cost_usd": None if batch is None else batch.dollars(),
            "prices": self._prices(model),
        }

    def _times(self) -> dict[str, Any]:
        """The time according to the limits alone."""
        endpoints = self._found.settings.endpoints
        models = self._found.models
        rows = {model: float(sums.rows) for model, sums in models.items()}
        by_rpm = least_time.least_s(endpoints, rows, least_time.requests_per_s)
        low, likely, high = (
            least_time.least_s(endpoints, loads, least_time.tokens_per_s)
            for loads in (
                {model: getattr(sums.tokens, end) for model, sums in models.items()}
                for end in ("low", "likely", "high")
            )
        )
        by_tpm = None if likely is None else {"low": low, "estimate": likely, "high": high}
        return {"at_least_by_rpm_s": by_rpm, "at_least_by_tpm_s": by_tpm}

    # For people

    def lines(self, width: int) -> Iterator[str]:
        """The report in ``width`` columns."""
        found, pilot = self._found, self._pilot
        bad = f" ({found.bad:,} bad: see `batchrun validate`)" if found.bad else ""
        yield from labelled_lines("rows", f"{found.rows:,}{bad}", width)
        if found.settings.reuse:
            takes = verb(found.reused, "takes", "take")
            text = f"{counted(found.reused, 'row')} {takes} the answer of another run, "
            sent = found.rows - found.bad - found.reused
            yield from labelled_lines(
                "reused", f"{text}{sent:,} {verb(sent, 'is', 'are')} to be sent", width
            )
        if not self._sums.rows:
            yield from labelled_lines("", "there is nothing to send", width)
            return
        if pilot is not None:
            yield from _pilot_lines(pilot, width)
        if self._told is None:
            yield from self._figures(self._sums, self._cost, self.batch_pd(), width)
        else:
            yield from _told_lines(self._told, width)
        yield from self._at_most(self._sums, self._most_pd, width)
        yield from labelled_lines("time", self._time(), width)
        yield from self.detected(width)
        for model in found.models if len(found.models) == 1 else ():
            yield from self.priced(model, width)
        if len(found.models) > 1:
            yield from self._by_model(width)
        for name, each in self._judges.items():
            yield ""
            yield from each.as_judge(name, width)
        if self._judges:
            yield ""
            yield from self._totals(width)
        yield ""
        yield from self.notes(width)

    def as_judge(self, name: str, width: int) -> Iterator[str]:
        """What a judge adds."""
        found, sums = self._found, self._sums
        models = _names([safe(model) for model in found.models])
        judged = counted(found.rows, "answer")
        yield from labelled_lines("judge", f"{safe(name)}: {judged} to judge, by {models}", width)
        if not sums.rows:
            return
        yield from self._figures(sums, self._cost, None, width)
        yield from self._at_most(sums, self._most_pd, width, "judgement")
        for model in found.models if len(found.models) == 1 else ():
            yield from self.priced(model, width)

    def _totals(self, width: int) -> Iterator[str]:
        """The run with its judges."""
        total = self._total
        yield from labelled_lines("total", "the run with its judges", width)
        yield from labelled_lines("prompt", _tokens(total.prompt), width)
        yield from labelled_lines("output", _tokens(total.output), width)
        yield from labelled_lines("cost", _dollars(total.cost), width)
        bound = "no bound"
        if total.most_tokens is not None:
            bound = counted(total.most_tokens, "token")
            most = total.most_pd
            bound += "" if most is None else f", {format_cost(most / PICODOLLARS)}"
        yield from labelled_lines("at most", bound, width)

    def detected(self, width: int) -> Iterator[str]:
        """What it takes to see the difference of ``--detect``."""
        if self._detection is not None:
            yield from labelled_lines("detect", self._detection.line(), width)

    def notes(self, width: int) -> Iterator[str]:
        """What the figures rest on."""
        for note in self._notes():
            yield from wrap(f"- {note}", width, hang=2)

    def _by_model(self, width: int) -> Iterator[str]:
        models = self._found.models
        shown = sorted(models.items(), key=lambda item: -item[1].rows)
        for model, sums in shown[:MODELS_SHOWN]:
            yield ""
            yield from labelled_lines("model", f"{safe(model)}: {counted(sums.rows, 'row')}", width)
            if self._told is None:
                cost = sums.cost(self._weights)
                yield from self._figures(sums, cost, sums.batch_pd(), width)
            yield from self._at_most(sums, sums.most_pd(), width)
            yield from self.priced(model, width)
        if len(shown) > MODELS_SHOWN:
            yield f"... and {counted(len(shown) - MODELS_SHOWN, 'more model', 'more models')}"

    def priced(self, model: str, width: int) -> Iterator[str]:
        """The unit prices of a model."""
        yield from price_lines(self._found.quotes.get(model, {}), width)

    def _figures(
        self, sums: Sums, cost: Range | None, batch: Range | None, width: int
    ) -> Iterator[str]:
        yield from labelled_lines("prompt", _tokens(sums.prompt), width)
        yield from labelled_lines("output", _tokens(sums.output), width)
        text = _dollars(cost)
        if cost is not None and batch is not None:
            text += f"; {format_cost(batch.likely / PICODOLLARS)} by the Batch API's prices"
        yield from labelled_lines("cost", text, width)

    def _at_most(
        self, sums: Sums, most_pd: int | None, width: int, what: str = "row"
    ) -> Iterator[str]:
        if sums.unbounded:
            rows = counted(sums.unbounded, what)
            does = verb(sums.unbounded, "does not limit its", "do not limit their")
            bound = f"no bound: {rows} {does} answer"
            if what != "row":
                bound += ", or the answer that is judged has no limit"
        else:
            bound = counted(sums.most_tokens, "token")
            bound += "" if most_pd is None else f", {format_cost(most_pd / PICODOLLARS)}"
        yield from labelled_lines("at most", bound, width)

    def _time(self) -> str:
        times = self._times()
        limits = []
        if times["at_least_by_rpm_s"] is not None:
            limits.append(f"at least {duration(times['at_least_by_rpm_s'])} by --rpm")
        tpm = times["at_least_by_tpm_s"]
        if tpm is not None:
            ends = f"{duration(tpm['low'])} to {duration(tpm['high'])}"
            limits.append(f"at least {duration(tpm['estimate'])} ({ends}) by --tpm")
        if self._told is not None and self._told.time is not None:
            seconds = self._told.time.seconds
            ends = f"{duration(seconds.low)} to {duration(seconds.high)}"
            held = BOUND[self._told.time.held_by]
            return f"{duration(seconds.total)} ({ends}), bound by {held}"
        more = "unknown without a pilot: add --pilot 200 -o DIR"
        if limits:
            more = "only a pilot can measure how fast the server is: add --pilot 200 -o DIR"
        return "; ".join([*limits, more])

    def _notes(self) -> Iterator[str]:
        if self._told is not None:
            yield f"with {LEVEL:.0%} confidence, extrapolated from the answers of the pilot"
        else:
            yield from self._assumptions()
        if self._judges:
            yield (
                "judges are asked about every answer, as if no row failed, and shown answers as "
                "long as the run's are assumed to be; a verdict is as long as its JSON Schema "
                "makes likely"
            )
        if self._detection is not None:
            yield from self._detection.notes(self._available)
        yield from self._found.notices
        for name, each in self._judges.items():
            for notice in each._found.notices:  # noqa: SLF001 - of this class
                yield f"judge {name}: {notice}"

    def _assumptions(self) -> Iterator[str]:
        found, sums = self._found, self._sums
        if found.tokenizer:
            text = "prompt tokens are counted by a tokenizer; what frames a message is assumed"
            if found.guessed:
                names = _names(found.guessed)
                text += (
                    f". The vocabulary of {names} is not known: the interval is the spread of nine "
                    "known ones"
                )
        else:
            text = (
                "prompt tokens are guessed by bytes and script; the interval is the error measured "
                f"on texts of many languages. {REMEDY} counts them"
            )
        yield text
        yield (
            "the output is an assumption, as long as no row was answered: "
            f"{LIKELY_SHARE:.0%} of each row's limit (of at most {LIMIT_LIKELY:,} tokens), between "
            f"{LOW_SHARE:.0%} of it and the whole"
        )
        if sums.unstated:
            yield (
                f"{counted(sums.unstated, 'row')} "
                f"{verb(sums.unstated, 'does not limit its', 'do not limit their')} answer: up to "
                f"{UNSTATED_HIGH:,} tokens are assumed. --max-tokens N limits "
                f"{verb(sums.unstated, 'it', 'them')}"
            )
        if sums.unread:
            parts = counted(sums.unread, "part of the prompts", "parts of the prompts")
            are = verb(sums.unread, "is an image, sound or a file", "are images, sound or files")
            yield f"{parts} {are}: a guess at best"


@dataclass(frozen=True, slots=True)
class _Figures:
    """Tokens and cost (in picodollars) of some requests, and what they are at most. The cost is
    None where a price is missing, what has no bound is None.
    """

    prompt: Range
    output: Range
    cost: Range | None
    most_tokens: int | None
    most_pd: int | None

    def with_more(self, other: _Figures) -> _Figures:
        """Both together."""
        return _Figures(
            _sum(self.prompt, other.prompt),
            _sum(self.output, other.output),
            None if self.cost is None or other.cost is None else _sum(self.cost, other.cost),
            None
            if self.most_tokens is None or other.most_tokens is None
            else self.most_tokens + other.most_tokens,
            None if self.most_pd is None or other.most_pd is None else self.most_pd + other.most_pd,
        )

    def as_dict(self) -> dict[str, Any]:
        """Tokens and cost, for ``--json``."""
        return {
            "prompt_tokens": self.prompt.whole(),
            "completion_tokens": self.output.whole(),
            "cost_usd": None if self.cost is None else self.cost.dollars(),
        }

    def at_most(self) -> dict[str, Any]:
        """The bounds, for ``--json``."""
        return {
            "tokens": self.most_tokens,
            "cost_usd": None if self.most_pd is None else self.most_pd / PICODOLLARS,
        }


def _sum(one: Range, other: Range) -> Range:
    both = Range()
    both.plus(one)
    both.plus(other)
    return both


def _range(interval: Interval, times: float = 1) -> Range:
    return Range(*(times * end for end in (interval.low, interval.total, interval.high)))


def _dollars(cost: Range | None) -> str:
    if cost is None:
        return "unknown: there is no price for every row"
    low, likely, high = (pd / PICODOLLARS for pd in (cost.low, cost.likely, cost.high))
    return f"{format_cost(likely)} ({format_cost(low)} to {format_cost(high)})"


def _whole(found: Estimate) -> Sums:
    whole = Sums()
    for sums in found.models.values():
        whole.rows += sums.rows
        whole.prompt.plus(sums.prompt)
        whole.output.plus(sums.output)
        whole.most_tokens += sums.most_tokens
        whole.unstated += sums.unstated
        whole.unbounded += sums.unbounded
        whole.unread += sums.unread
    return whole


def _names(models: list[str]) -> str:
    shown = ", ".join(models[:3])
    return shown if len(models) <= 3 else f"{shown} and {len(models) - 3:,} more"


def _tokens(figure: Range) -> str:
    low, likely, high = figure.whole().values()
    ends = sorted((low, high))
    return f"{likely:,} tokens ({ends[0]:,} to {ends[1]:,})"


def _told(pilot: Piloted) -> dict[str, Any]:
    told = pilot.told
    time = None if told is None else told.time
    cost = None if told is None else told.cost_usd
    return {
        "rows": pilot.rows,
        "failed": pilot.failed,
        "directory": pilot.directory,
        "wall_s": pilot.wall_s,
        "spent_usd": pilot.cost_usd,
        "level": LEVEL,
        "prompt_tokens": None if told is None else told.prompt_tokens.as_dict(),
        "completion_tokens": None if told is None else told.completion_tokens.as_dict(),
        "cost_usd": None if cost is None else cost.as_dict(),
        "time_s": None if time is None else time.seconds.as_dict(),
        "time_held_by": None if time is None else time.held_by,
    }


def _pilot_lines(pilot: Piloted, width: int) -> Iterator[str]:
    failed = f", {pilot.failed:,} of them failed" if pilot.failed else ""
    spent = "" if pilot.cost_usd is None else f" for {format_cost(pilot.cost_usd)}"
    sent = f"{counted(pilot.rows, 'row')} sent in {duration(pilot.wall_s)}{spent}{failed}"
    yield from labelled_lines(
        "pilot",
        f"{sent}; answers in {safe(pilot.directory)}/results; `run --reuse DIR` takes them",
        width,
    )
    if pilot.told is None:
        yield from labelled_lines("", "it did not finish: the same command resumes it", width)


def _told_lines(told: PilotFigures, width: int) -> Iterator[str]:
    """What the pilot tells of the whole input."""
    yield from labelled_lines("prompt", _between(told.prompt_tokens, "{:,.0f}") + " tokens", width)
    yield from labelled_lines(
        "output", _between(told.completion_tokens, "{:,.0f}") + " tokens", width
    )
    cost = told.cost_usd
    text = "unknown: there is no price for every answer"
    if cost is not None:
        text = f"{format_cost(cost.total)} ({format_cost(cost.low)} to {format_cost(cost.high)})"
    yield from labelled_lines("cost", text, width)


def _between(interval: Interval, form: str) -> str:
    ends = (interval.total, interval.low, interval.high)
    total, low, high = (form.format(figure) for figure in ends)
    return f"{total} ({low} to {high})"
