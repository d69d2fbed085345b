"""What ``verify`` found: every kind of damage, each with its first cases and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.views.text import safe

SHOWN = 10
"""Cases that are told of one kind of damage; the others are counted."""


@dataclass(slots=True)
class Report:
    """What was checked and what does not hold. Its size does not grow with the damage."""

    folder: str
    rows: int = 0
    attempts: int = 0
    parts: int = 0
    digests: int = 0
    compared: int | None = None
    notes: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    _told: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.kinds

    @property
    def problems(self) -> list[str]:
        """What does not hold, a sentence each; at most ``SHOWN`` and one of each kind."""
        out = []
        for kind, told in self._told.items():
            out += told
            if self.kinds[kind] > len(told):
                out.append(f"... and {self.kinds[kind] - len(told):,} more of the kind {kind}")
        return out

    def found(self, kind: str, text: str, count: int = 1) -> None:
        """Something does not hold, ``count`` times."""
        self.kinds[kind] = self.kinds.get(kind, 0) + count
        told = self._told.setdefault(kind, [])
        if len(told) < SHOWN:
            told.append(safe(text))

    def claim(self, holds: bool, kind: str, text: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Something that must hold."""
        if not holds:
            self.found(kind, text)

    def where(self, kind: str, wrong: pa.Array, tell: Callable[[int], str]) -> None:
        """What does not hold where ``wrong`` is true; ``tell`` words the case at a place."""
        count = pc.sum(wrong).as_py() or 0
        if not count:
            return
        room = max(0, SHOWN - len(self._told.get(kind, ())))
        for place in pc.indices_nonzero(wrong).slice(0, room).to_pylist():
            self.found(kind, tell(place))
            count -= 1
        self.kinds[kind] = self.kinds.get(kind, 0) + count

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "attempts": self.attempts,
            "parts": self.parts,
            "digests": self.digests,
            "compared": self.compared,
            "notes": self.notes,
            "kinds": self.kinds,
            "problems": self.problems,
        }

    def lines(self) -> list[str]:
        """For people."""
        out = [
            (
                f"{self.folder}: {self.rows:,} rows and {self.attempts:,} attempts in "
                f"{self.parts:,} parts, {self.digests:,} digests compared"
            )
        ]
        if self.compared is not None:
            out.append(f"{self.compared:,} rows compared with the input")
        out += [f"note: {safe(note)}" for note in self.notes]
        out += [f"PROBLEM: {text}" for text in self.problems]
        out.append("verified: every row is accounted for" if self.ok else "NOT verified")
        return out
