"""Failures that repeat: a run whose rows all fail alike from some moment on is not worth going on.

A login page with status 200, an account that ran dry behind an unknown code, a deployment that was
taken away: no single reply tells such a thing from a bad row, and a table of codes never has them
all. What tells is that nothing succeeds any more. So a failed row is not believed at once. It is
withheld until an answer comes, which shows that the endpoint is well and the row was to blame; or
until so many rows failed alike that the endpoint must be.

Two facts keep healthy runs going:

- Rows that no server can digest are retried longer than others, and gather at the end of a run,
  where nothing succeeds after them. A row is to blame at once if a request that went out after its
  own first one was answered.
- Answers to requests from before a failure say nothing of what came after. They begin the count
  anew, but free only the rows that were sent before them.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

from batchrun.core.bounds import OF_THE_ROW

ALIKE_ROWS = 30
"""More rows than these that fail alike in a row, with no answer in between, are one trouble."""
WITHHELD_ROWS_MAX = 100
"""So many rows are withheld at most; as many failures of any kind in a row are a trouble too."""

_Row = TypeVar("_Row")


class Kind(NamedTuple):
    """What makes failures alike."""

    error_class: str
    http_status: int | None
    code: str | None


class Step(Enum):
    """What becomes of a failed row: it ends, it is withheld, or it is the one too many."""

    END = auto()
    WITHHOLD = auto()
    STOP = auto()


class Repeated(Generic[_Row]):
    """The failures at one endpoint since it answered last, and the rows withheld for them."""

    def __init__(self) -> None:
        self.answered_sent_at_s = float("-inf")
        """When the latest request that was answered went out, in the time of the loop."""
        self.in_a_row = 0
        self.overdue: list[_Row] = []
        """Rows that were withheld for as long as can be: they end."""
        self._alike: Counter[Kind] = Counter()
        self._withheld: deque[tuple[float, _Row]] = deque()

    def __len__(self) -> int:
        return len(self._withheld)

    @property
    def quiet(self) -> bool:
        """Whether an answer changes nothing but when the latest one went out."""
        return not (self.in_a_row or self._withheld)

    def failed(self, kind: Kind, row: _Row, *, first_sent_at_s: float, sent_at_s: float) -> Step:
        """A row failed for good; ``first_sent_at_s`` is when its first request went out, and
        ``sent_at_s`` its last. A row that is the one too many is withheld too.
        """
        if kind.error_class in OF_THE_ROW or self.answered_sent_at_s > first_sent_at_s:
            return Step.END
        self.in_a_row += 1
        self._alike[kind] += 1
        self._withheld.append((sent_at_s, row))
        if self._alike[kind] > ALIKE_ROWS or self.in_a_row >= WITHHELD_ROWS_MAX:
            return Step.STOP
        if len(self._withheld) > WITHHELD_ROWS_MAX:
            self.overdue.append(self._withheld.popleft()[1])
        return Step.WITHHOLD

    def answered(self, sent_at_s: float) -> list[_Row]:
        """The endpoint answered a request that went out then: the rows that are to blame."""
        self.answered_sent_at_s = max(self.answered_sent_at_s, sent_at_s)
        self.in_a_row = 0
        self._alike.clear()
        freed = [row for sent, row in self._withheld if sent <= sent_at_s]
        if freed:
            self._withheld = deque(held for held in self._withheld if held[0] > sent_at_s)
        return freed

    def let_go(self) -> list[_Row]:
        """All withheld rows, and forget them. The count goes on."""
        rows = [row for _, row in self._withheld]
        self._withheld.clear()
        return rows
