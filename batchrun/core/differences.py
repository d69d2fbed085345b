"""What changed between the settings a run directory was begun with and the present ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One shaping setting that is not what the run directory was made with."""

    name: str
    before: Any
    now: Any

    @property
    def keepable(self) -> bool:
        """Whether done rows may be kept in spite of it: parts hold one schema and one shard
        size, so these two need a new start.
        """
        return self.name not in ("input.carry", "output.shard_rows")

    def __str__(self) -> str:
        name, before, now = self.name, self.before, self.now
        while isinstance(before, dict) and isinstance(now, dict) and _short(before) == _short(now):
            # Long tables begin alike: what differs stands deeper.
            key = next(k for k in [*before, *now] if before.get(k) != now.get(k))
            name, before, now = f"{name}.{key}", before.get(key), now.get(key)
        return f"{name}: was {_short(before)}, is {_short(now)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What changed between the recorded shaping settings and the present ones."""
    names = dict.fromkeys([*before, *now])
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
