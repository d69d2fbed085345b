"""What changed between the settings a run directory was begun with and the present ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrun.core.text.text_difference import escaped, place_of, texts_apart

REPEAT, SHARD_ROWS = "request.repeat", "output.shard_rows"
SOURCE, SOURCE_STATUS = "input.from", "input.from_status"
IMPLIED: Mapping[str, Any] = {
    "output.think": "keep",
    "output.accept_fenced": False,
    REPEAT: 1,
}
"""What settings are where they are not recorded, if that is not null: earlier versions lack them,
and ``request.repeat`` is recorded only by a run that repeats its rows.
"""
_FIXED = (
    *("input.carry", "input.id", "input.sample", "input.sample_seed", SHARD_ROWS),
    *(REPEAT, SOURCE, "request.turns"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One shaping setting that is not what the run directory was made with."""

    name: str
    before: Any
    now: Any

    @property
    def keepable(self) -> bool:
        """Whether done rows may be kept in spite of it: parts hold one schema, one shard size and
        ids from one column, another sample has other rows, another number of repeats gives rows
        other numbers, and conversations have a column of their own, so these need a new start.
        """
        return self.name not in _FIXED

    def __str__(self) -> str:
        name, before, now = self.name, self.before, self.now
        # All of it would not be shown: where it differs stands deeper.
        while _long(before, now) and (inner := _inner(before, now)) is not None:
            key, before, now = inner
            name = f"{name}{key}"
        if isinstance(before, str) and isinstance(now, str) and _long(before, now):
            was, is_ = texts_apart(before, now)
            return (
                f"{name} differs from {place_of(before, now)} on:\n      was: {was}\n"
                f"      is:  {is_}"
            )
        return f"{name}: was {_short(before)}, is {_short(now)}"


def _inner(before: object, now: object) -> tuple[str, Any, Any] | None:
    """The only key or item in which two values differ, and what it holds in each."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        return (f".{keys[0]}", before.get(keys[0]), now.get(keys[0])) if len(keys) == 1 else None
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        places = [n for n, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
        if len(places) == 1:
            return f"[{places[0]}]", before[places[0]], now[places[0]]
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What changed between the recorded shaping settings and the present ones."""
    implied = {name: value for name, value in IMPLIED.items() if name in before or name in now}
    before, now = implied | dict(before), implied | dict(now)
    names = dict.fromkeys([*before, *now])
    if before.get(REPEAT) != now.get(REPEAT):
        names.pop(SHARD_ROWS, None)  # it is rounded to whole input rows, so it may follow
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


SHOWN_MAX = 80
TEXT_MAX = 24
"""Longer texts are not shown one beside the other, but one below the other."""


def _text(value: object) -> str:
    return f'"{escaped(value)}"' if isinstance(value, str) else json.dumps(value)


def _long(*values: object) -> bool:
    texts = all(isinstance(value, str) for value in values)
    return any(len(_text(value)) > (TEXT_MAX if texts else SHOWN_MAX) for value in values)


def _short(value: object) -> str:
    text = _text(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."
