"""What changed between the settings a run directory was begun with and the present ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMPLIED: Mapping[str, Any] = {"output.think": "keep", "output.accept_fenced": False}
"""What settings were in the versions that did not record them, where that is not null."""
_FIXED = ("input.carry", "input.id", "input.sample", "input.sample_seed", "output.shard_rows")


@dataclass(frozen=True, slots=True)
class Difference:
    """One shaping setting that is not what the run directory was made with."""

    name: str
    before: Any
    now: Any

    @property
    def keepable(self) -> bool:
        """Whether done rows may be kept in spite of it: parts hold one schema, one shard size and
        ids from one column, and another sample has other rows, so these need a new start.
        """
        return self.name not in _FIXED

    def __str__(self) -> str:
        name, before, now = self.name, self.before, self.now
        while isinstance(before, dict) and isinstance(now, dict) and _long(before, now):
            keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
            if len(keys) != 1:
                break
            # All of it would not be shown: where it differs stands deeper.
            name, before, now = f"{name}.{keys[0]}", before.get(keys[0]), now.get(keys[0])
        return f"{name}: was {_short(before)}, is {_short(now)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What changed between the recorded shaping settings and the present ones."""
    before = {name: value for name, value in IMPLIED.items() if name in now} | dict(before)
    names = dict.fromkeys([*before, *now])
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


SHOWN_MAX = 80


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _long(*values: object) -> bool:
    return any(len(_text(value)) > SHOWN_MAX for value in values)


def _short(value: object) -> str:
    text = _text(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."
