"""The report of ``batchrun estimate``: for people, in as few columns as a terminal has, and as one
JSON object.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrun.adapters.tokenizers import REMEDY
from batchrun.core import least_time
from batchrun.core.estimating import (
    LIKELY_SHARE,
    LIMIT_LIKELY,
    LOW_SHARE,
    UNSTATED_HIGH,
    Range,
    Sums,
)
from batchrun.core.extrapolation import LEVEL, Interval
from batchrun.core.money import PICODOLLARS, money
from batchrun.core.pilot import Told
from batchrun.views.estimate import Estimate
from batchrun.views.text import BOUND, duration, safe

MODELS_SHOWN = 20
_LABEL = 8


@dataclass(frozen=True, slots=True)
class Piloted:
    """A pilot that ended: how many rows it sent, how many of them failed, where it is, what it took
    and what it tells. ``told`` is None where rows of it are pending.
    """

    rows: int
    failed: int
    directory: str
    wall_s: float
    cost_usd: float | None
    told: Told | None


class Report:
    """What is said of an estimate."""

    def __init__(self, found: Estimate, pilot: Piloted | None = None) -> None:
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
        bounds = [sums.most_pd() for sums in found.models.values()]
        whole = [bound for bound in bounds if bound is not None]
        self._most_pd = sum(whole) if whole and len(whole) == len(bounds) else None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        found, sums = self._found, self._sums
        return {
            "rows": found.rows,
            "bad": found.bad,
            **({"reused": found.reused} if found.settings.reuse else {}),
            "prompt_tokens": sums.prompt.whole(),
            "completion_tokens": sums.output.whole(),
            "cost_usd": None if self._cost is None else self._cost.dollars(),
            "at_most": {
                "tokens": None if sums.unbounded else sums.most_tokens,
                "cost_usd": None if self._most_pd is None else self._most_pd / PICODOLLARS,
            },
            "time": self._times(),
            "models": {model: self._model(each) for model, each in found.models.items()},
            "tokens_counted_by": "tokenizer" if found.tokenizer else "bytes",
            "notes": list(self._notes()),
            "pilot": None if self._pilot is None else _told(self._pilot),
        }

    def _model(self, sums: Sums) -> dict[str, Any]:
        cost, most = sums.cost(self._weights), sums.most_pd()
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
        }

    def _times(self) -> dict[str, Any]:
        """What the limits alone say of the time."""
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
        """The report in so many columns."""
        found, pilot = self._found, self._pilot
        bad = f" ({found.bad:,} bad: see `batchrun validate`)" if found.bad else ""
        yield from _said("rows", f"{found.rows:,}{bad}", width)
        if found.settings.reuse:
            sent = found.rows - found.bad - found.reused
            text = f"{found.reused:,} rows take the answer of another run, {sent:,} are to be sent"
            yield from _said("reused", text, width)
        if not self._sums.rows:
            yield from _said("", "there is nothing to send", width)
            return
        yield from self._figures(self._sums, self._cost, self._most_pd, width)
        yield from _said("time", self._time(), width)
        if len(found.models) > 1:
            shown = sorted(found.models.items(), key=lambda item: -item[1].rows)
            for model, sums in shown[:MODELS_SHOWN]:
                yield ""
                yield from _said("model", f"{safe(model)}: {sums.rows:,} rows", width)
                cost = sums.cost(self._weights)
                yield from self._figures(sums, cost, sums.most_pd(), width)
            if len(shown) > MODELS_SHOWN:
                yield f"... and {len(shown) - MODELS_SHOWN:,} more models"
        yield ""
        for note in self._notes():
            yield from textwrap.wrap(f"- {safe(note)}", width, subsequent_indent="  ")
        if pilot is not None:
            yield ""
            yield from _pilot_lines(pilot, width)

    def _figures(
        self, sums: Sums, cost: Range | None, most_pd: int | None, width: int
    ) -> Iterator[str]:
        yield from _said("prompt", _tokens(sums.prompt), width)
        yield from _said("output", _tokens(sums.output), width)
        if cost is None:
            yield from _said("cost", "unknown: there is no price for every row", width)
        else:
            low, likely, high = (pd / PICODOLLARS for pd in (cost.low, cost.likely, cost.high))
            yield from _said("cost", f"{money(likely)} ({money(low)} to {money(high)})", width)
        if sums.unbounded:
            bound = f"no bound: {sums.unbounded:,} rows do not limit their answer"
        else:
            bound = f"{sums.most_tokens:,} tokens"
            bound += "" if most_pd is None else f", {money(most_pd / PICODOLLARS)}"
        yield from _said("at most", bound, width)

    def _time(self) -> str:
        times = self._times()
        said = []
        if times["at_least_by_rpm_s"] is not None:
            said.append(f"at least {duration(times['at_least_by_rpm_s'])} by --rpm")
        tpm = times["at_least_by_tpm_s"]
        if tpm is not None:
            ends = f"{duration(tpm['low'])} to {duration(tpm['high'])}"
            said.append(f"at least {duration(tpm['estimate'])} ({ends}) by --tpm")
        told = self._pilot is not None and self._pilot.told is not None
        more = "see the pilot" if told else "unknown without a pilot: add --pilot 200 -o DIR"
        if said and not told:
            more = "how fast the server is, only a pilot tells: add --pilot 200 -o DIR"
        return "; ".join([*said, more])

    def _notes(self) -> Iterator[str]:
        found, sums = self._found, self._sums
        if found.tokenizer:
            said = "prompt tokens are counted by a tokenizer; what frames a message is assumed"
            if found.guessed:
                names = _names(found.guessed)
                said += (
                    f". The vocabulary of {names} is not known: the interval is the spread of nine "
                    "known ones"
                )
        else:
            said = (
                "prompt tokens are guessed by bytes and script; the interval is the error measured "
                f"on texts of many languages. {REMEDY} counts them"
            )
        yield said
        yield (
            "the output is an assumption, as long as no row was answered: "
            f"{LIKELY_SHARE:.0%} of each row's limit (of at most {LIMIT_LIKELY:,} tokens), between "
            f"{LOW_SHARE:.0%} of it and the whole"
        )
        if sums.unstated:
            yield (
                f"{sums.unstated:,} rows do not limit their answer: up to {UNSTATED_HIGH:,} tokens "
                "are assumed. --param max_completion_tokens=N limits them"
            )
        if sums.unread:
            yield f"{sums.unread:,} parts of prompts are images, sound or files: a guess at best"
        yield from found.notices


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


def _said(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        f"{label:{_LABEL}} {text}",
        width,
        subsequent_indent=" " * (_LABEL + 1),
        drop_whitespace=True,
    )


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
    spent = "" if pilot.cost_usd is None else f" for {money(pilot.cost_usd)}"
    yield from _said(
        "pilot", f"{pilot.rows:,} rows sent in {duration(pilot.wall_s)}{spent}{failed}", width
    )
    told = pilot.told
    if told is None:
        yield from _said("", "it did not end: the same command goes on with it", width)
        return
    yield from _said("", f"of the whole input, with {LEVEL:.0%} confidence:", width)
    yield from _said("prompt", _between(told.prompt_tokens, "{:,.0f}") + " tokens", width)
    yield from _said("output", _between(told.completion_tokens, "{:,.0f}") + " tokens", width)
    cost = told.cost_usd
    said = "unknown: there is no price for every answer"
    if cost is not None:
        said = f"{money(cost.total)} ({money(cost.low)} to {money(cost.high)})"
    yield from _said("cost", said, width)
    if told.time is not None:
        seconds = told.time.seconds
        ends = f"{duration(seconds.low)} to {duration(seconds.high)}"
        held = BOUND[told.time.held_by]
        yield from _said("time", f"{duration(seconds.total)} ({ends}), bound by {held}", width)
    text = f"its answers are in {safe(pilot.directory)}/results; `run --reuse DIR` takes them"
    yield from _said("", text, width)


def _between(interval: Interval, form: str) -> str:
    ends = (interval.total, interval.low, interval.high)
    total, low, high = (form.format(figure) for figure in ends)
    return f"{total} ({low} to {high})"
