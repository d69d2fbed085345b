"""Noticing that another model answers than before, in the middle of a run.

Providers move an alias to a new version, or a gateway falls back to another model: then rows of one
run are not comparable, and nothing else tells.
"""

from __future__ import annotations

from collections.abc import Collection

from batchrun.records import Completion

TOLD_MAX = 10
"""Changes that are told of; behind a gateway that mixes models they would never end."""
KNOWN_MAX = 1024


class Drift:
    """Remembers who answered, by the model asked for."""

    def __init__(self, model: str | None = None, earlier: Collection[str | None] = ()) -> None:
        """``model`` is what the run asks for, ``earlier`` are the models that answered in its
        earlier sessions.
        """
        self._model = model
        self._earlier = frozenset(model for model in earlier if model is not None)
        self._known: dict[str, tuple[str | None, str | None]] = {}
        self._seen: set[tuple[str, str | None, str | None]] = set()
        self._told = 0

    def note(self, asked: str, completion: Completion, row: int) -> str | None:
        """Take note of an answer; returns what is new about who gave it, if that is a change."""
        now = (completion.model, completion.system_fingerprint)
        before = self._known.get(asked)
        if before == now:
            return None
        if (asked, *now) in self._seen or len(self._seen) >= KNOWN_MAX:
            return None  # it was told: two that take turns are no news
        self._seen.add((asked, *now))
        self._known[asked] = now
        if before is None:
            return self._compared(completion.model, row) if asked == self._model else None
        if before[0] != now[0]:
            what = f"model {before[0]!r} until now, {now[0]!r}"
        else:
            what = f"system fingerprint {before[1]!r} until now, {now[1]!r}"
        return self._tell(f"asked for {asked!r}, row {row:,} is answered by another: {what}")

    def _compared(self, model: str | None, row: int) -> str | None:
        """The first answer to a model asked for, against those of earlier sessions."""
        if not self._earlier or model is None or model in self._earlier:
            return None
        names = ", ".join(sorted(self._earlier)[:3])
        return self._tell(f"row {row:,} is answered by {model!r}; in earlier sessions: {names}")

    def _tell(self, news: str) -> str | None:
        self._told += 1
        if self._told > TOLD_MAX:
            return None
        last = "; further changes are not reported" if self._told == TOLD_MAX else ""
        return f"warning: {news}{last}"
