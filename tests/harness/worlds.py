"""Seeded worlds: an input, settings, a server's weather, and what befalls each session of a run.

Everything is drawn from one seed when the world is made. Nothing is drawn while it runs that
another seed's world would notice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchrun.core.run.changes import Changes
from tests.harness.crashes import Death, DiskFault
from tests.harness.model_server import FOREVER_S, ModelServer, Spell
from tests.harness.stage import Fate

ROWS_MAX = 60
PARQUET_EVERY = 8
"""One world in so many has real Parquet parts, and ``verify`` after each session."""
_WEATHER = (
    *("throttled", "throttled", "throttled", "slow_down", "error", "error", "overloaded"),
    *("disguised", "garbage", "dead", "cut", "reset", "stalled", "empty", "truncated"),
)
"""What a run has to survive."""
_WALLS = (
    *("refused_key", "forbidden", "unpaid", "used_up", "wrong_path", "unknown_host", "untrusted"),
    *("rejected", "login", "login"),
)
"""What a run stops for."""


@dataclass(frozen=True, slots=True)
class Line:
    """A record of the input. ``kind`` is ``good``, or what is wrong with it."""

    kind: str
    custom_id: str | None
    said: str
    label: str

    def text(self) -> str:
        """The line of the file."""
        if self.kind == "not_json":
            return '{"messages": [{"role": "user"'
        fields: dict[str, Any] = {} if self.custom_id is None else {"custom_id": self.custom_id}
        fields["label"] = self.label
        if self.kind == "no_list":
            fields["messages"] = 5
        else:
            fields["messages"] = [{"role": "user", "content": self.said}]
        return json.dumps(fields)


@dataclass(frozen=True, slots=True)
class Leg:
    """One session: the input and the parameters that it finds, the flags that it is given, what is
    chosen where a change must be allowed (``resend`` or ``keep``), the wait before it.
    """

    lines: tuple[Line, ...]
    raw: Mapping[str, Any]
    changes: Changes
    choice: str
    fate: Fate
    gap_s: float
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class World:
    """A run from its first session to its last."""

    seed: int
    legs: tuple[Leg, ...]
    last: Leg
    """Repeated until the run is complete: the weather has cleared by then."""
    disk_s: float
    plain: bool
    """Whether parts are plain files: Parquet takes most of a run's time."""
    spells: tuple[Spell, ...]
    poison: Mapping[int, str]
    latency_s: tuple[float, float]

    @property
    def clear_from_s(self) -> float:
        """World time from which on the weather is calm, as far as it ever is."""
        ends = (spell.end_s for spell in self.spells)
        return max((end_s for end_s in ends if end_s < FOREVER_S), default=0.0)

    def server(self) -> ModelServer:
        """The endpoint of this world."""
        return ModelServer("model", self.seed, list(self.spells), dict(self.poison), self.latency_s)


def world(seed: int) -> World:
    """The world of a seed."""
    dice = random.Random(f"world {seed}")
    lines = tuple(_line(dice, n) for n in range(_size(dice)))
    raw = _settings(dice)
    legs = []
    for number in range(dice.choice((0, 1, 1, 2, 2, 3, 4))):
        if number and dice.random() < 0.35:
            lines, raw = _edited(dice, lines, raw)
        legs.append(_leg(dice, lines, raw))
    if legs and dice.random() < 0.2:
        lines, raw = _edited(dice, lines, raw)
    calm = {name: value for name, value in raw.items() if not name.startswith("guards.")}
    retrying = Changes(retry_failed=dice.random() < 0.3)
    choice = dice.choice(("resend", "keep"))
    last = Leg(lines, calm, retrying, choice, Fate(), dice.choice((1.0, 86_400.0)))
    spells = _weather(dice)
    return World(
        seed,
        tuple(legs),
        last,
        dice.choice((0.002, 0.002, 0.05, 2.0)),
        seed % PARQUET_EVERY != 0,
        spells,
        _poison(dice, len(lines)),
        dice.choice(((0.01, 0.3), (0.05, 3.0), (0.0, 0.0), (1.0, 20.0))),
    )


def _size(dice: random.Random) -> int:
    if dice.random() < 0.03:
        return 0
    return dice.choice((1, 2, dice.randrange(1, 61), dice.randrange(1, 61), dice.randrange(20, 61)))


def _line(dice: random.Random, number: int) -> Line:
    kind = "good" if dice.random() < 0.93 else dice.choice(("not_json", "no_list"))
    custom_id = dice.choice((f"id-{number}", f"id-{number}", "twice", None))
    return Line(kind, custom_id, f"question {number}", f"label {number}")


def _settings(dice: random.Random) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "request.model": "fake-model",
        "request.params": {"max_tokens": dice.choice((20, 200))},
        "output.shard_rows": dice.choice((4, 7, 12, 16, 30)),
        "endpoint.base_url": "http://model.invalid/v1",
        "endpoint.concurrency": dice.choice((1, 2, 5, 16, 64)),
        "retry.max_attempts": dice.choice((1, 2, 3, 6)),
        "retry.timeout_s": 30.0,
        "retry.max_wait_s": 600.0,
        "guards.grace_s": dice.choice((0.0, 1.0, 30.0)),
        "output.raw": dice.choice(("all", "errors", "none")),
    }
    if dice.random() < 0.3:
        raw["endpoint.rpm"] = dice.choice((20.0, 60.0, 600.0, 6000.0))
    if dice.random() < 0.3:
        raw["endpoint.tpm"] = dice.choice((1000.0, 6000.0, 60_000.0))
    if dice.random() < 0.15:
        raw["guards.deadline_s"] = dice.choice((2.0, 20.0))
    if dice.random() < 0.15:
        raw["guards.max_failures"] = dice.choice((1, 5))
    if dice.random() < 0.2:
        raw["output.on_empty"] = dice.choice(("fail", "retry"))
    if dice.random() < 0.2:
        raw["output.on_truncation"] = dice.choice(("fail", "retry"))
    return raw


def _edited(
    dice: random.Random, lines: Sequence[Line], raw: Mapping[str, Any]
) -> tuple[tuple[Line, ...], dict[str, Any]]:
    """What somebody changes between two sessions."""
    now, settings = list(lines), dict(raw)
    what = dice.choice(("params", "text", "text", "labels", "mended", "longer", "longer", "both"))
    picked = [n for n in range(len(now)) if dice.random() < 0.2]
    version = dice.randrange(10**6)
    if what in ("params", "both"):
        settings["request.params"] = {**settings["request.params"], "seed": version}
    for n in picked:
        line = now[n]
        if what in ("text", "both"):
            now[n] = replace(line, said=f"{line.said}, edition {version}")
        elif what == "labels":
            now[n] = replace(line, custom_id=f"again-{n}-{version}", label=f"label {version}")
        elif what == "mended":
            now[n] = replace(line, kind="good" if line.kind != "good" else "no_list")
    if what in ("longer", "both"):
        now += [_line(dice, len(now) + more) for more in range(dice.randrange(1, 12))]
    return tuple(now), settings


def _leg(dice: random.Random, lines: tuple[Line, ...], raw: Mapping[str, Any]) -> Leg:
    changes = Changes(
        retry_failed=dice.random() < 0.15,
    )
    limit = dice.randrange(1, ROWS_MAX) if dice.random() < 0.1 else None
    gap_s = dice.choice((0.0, 1.0, 60.0, 4000.0))
    return Leg(lines, raw, changes, dice.choice(("resend", "keep")), _fate(dice), gap_s, limit)


def _fate(dice: random.Random) -> Fate:
    signals: tuple[float, ...] = ()
    death = full = None
    fate = dice.random()
    if fate < 0.25:
        first_s = dice.choice((0.0, 0.1, 1.0, 5.0, 30.0)) * dice.random()
        signals = (first_s,)
        if dice.random() < 0.5:
            signals = (first_s, first_s + dice.choice((0.0, 0.5, 20.0)) * dice.random())
    elif fate < 0.75:
        power = dice.random() < 0.3
        by = dice.choice(("step", "step", "turn", "time"))
        most = {"step": 90, "turn": 1500, "time": 40}[by]
        at = most * dice.random() ** 2
        death = Death(by, at if by == "time" else int(at) + 1, power)
        if dice.random() < 0.3:
            signals = (at * dice.random() if by == "time" else 3 * dice.random(),)
    elif fate < 0.85:
        full = DiskFault(dice.randrange(1, 25))
    reader_s = dice.choice((0.0, 1.0)) if dice.random() < 0.2 else None
    return Fate(signals, death, full, reader_s)


def _weather(dice: random.Random) -> tuple[Spell, ...]:
    """Spells of the first hours; whole outages among them, and what stops a run."""
    spells = []
    at_s = 0.0
    for _ in range(dice.choice((0, 1, 2, 3, 5))):
        at_s += dice.choice((0.0, 1.0, 5.0, 60.0)) * dice.random()
        walls = dice.random() < 0.2
        kind = dice.choice(_WALLS if walls else _WEATHER)
        share = 1.0 if walls else dice.choice((0.05, 0.3, 0.7, 1.0))
        lasts_s = dice.choice((1.0, 10.0, 100.0, 3000.0)) * dice.random()
        wait_s = dice.choice((None, None, 0.05, 2.0, 30.0, 5000.0))
        spells.append(Spell(kind, at_s, at_s + lasts_s, share, wait_s))
    if dice.random() < 0.5:
        # Never quite calm: what every server does now and then.
        wait_s = dice.choice((None, 1.0))
        kinds = ("throttled", "error", "cut", "garbage")
        spells += [Spell(kind, 0.0, FOREVER_S, 0.03, wait_s) for kind in kinds]
    return tuple(spells)


def _poison(dice: random.Random, rows: int) -> dict[int, str]:
    """Rows that the server refuses, or dies of, each time."""
    if dice.random() < 0.6:
        return {}
    kinds = ("rejected", "too_long", "error", "garbage")
    return {n: dice.choice(kinds) for n in range(rows) if dice.random() < 0.1}
