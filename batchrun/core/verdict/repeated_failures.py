"""Failures that repeat: a run whose rows all fail alike from some moment on is not worth going on.

A login page with status 200, an account that ran dry behind an unknown code, a deployment that was
taken away: no single reply tells such a thing from a bad row, and a table of codes never has them
all. What tells is that nothing succeeds any more. So a failed row is not believed at once. It is
withheld until an answer comes, which shows that the endpoint is well and the row was to blame; or
until so many rows failed in a row that the endpoint must be.

In a row means in the order in which requests went out, and not in that in which replies came in:

- An endpoint that broke still answers, for minutes maybe, what it was sent before. Such answers say
  nothing of what was sent after.
- Bad rows may fail at once where answers take their time. Hundreds of failures come in before the
  first answer then, but requests that are still out lie between them. They will tell.
- Rows that no server can digest are retried longer than others, and gather at the end of a run,
  where nothing succeeds after them. But something sent after their first try did. So a row stands
  where its first request stands.

An answer tells only if it came in after the failure: when an endpoint breaks, what is in flight
may fail all at once, the slow requests among it sent long before the last one that was answered.
Such rows are withheld like others, and do not count: answered ones lie between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from enum import Enum, auto
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

from batchrun.core.settings.bounds import OF_THE_ROW

ALIKE_ROWS = 30
"""More rows than these that fail alike in a row, with no answer in between, are one trouble."""
ANY_ROWS = 100
"""As many failures of any kind in a row are a trouble too; and as many that are not quite in a row,
where few requests lie between them."""
FAILED_TO_OUT = 4
"""Few requests: of five rows that lie there, four have failed. It bounds what is withheld."""

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
    """The failures at one endpoint since the latest request that it answered. Requests have
    numbers, in the order in which they went out.
    """

    def __init__(self) -> None:
        self.answered_sent = -1
        """The latest request that was answered."""
        self._failed: list[tuple[int, Kind, _Row | None]] = []
        """By their first requests; without the row once it has an outcome all the same."""
        self._alike: Counter[Kind] = Counter()
        self._passed: list[tuple[int, _Row]] = []
        """Withheld rows that were sent before the latest request that was answered."""
        self._withheld = 0

    def __len__(self) -> int:
        """How many rows are withheld."""
        return self._withheld + len(self._passed)

    @property
    def in_a_row(self) -> int:
        """How many rows failed since."""
        return len(self._failed)

    def step(self, kind: Kind, *, sent: int, answered_sent: int, out: Collection[int]) -> Step:
        """What becomes of a row that fails for good. ``sent`` is its first request that failed,
        ``answered_sent`` what that was here when it did, ``out`` are the requests in flight.
        Changes nothing: ``withhold`` takes note of a row that does not end.
        """
        if kind.error_class in OF_THE_ROW or self.answered_sent > max(sent, answered_sent):
            return Step.END
        if self.answered_sent > sent:
            return Step.WITHHOLD
        if self._alike[kind] < ALIKE_ROWS and len(self._failed) + 1 < ANY_ROWS:
            return Step.WITHHOLD
        return Step.STOP if self._too_many(kind, sent, out) else Step.WITHHOLD

    def withhold(self, kind: Kind, row: _Row, *, sent: int) -> None:
        """Withhold a row that failed; the one too many is withheld too."""
        if self.answered_sent > sent:
            self._passed.append((sent, row))
            return
        self._failed.append((sent, kind, row))
        self._withheld += 1
        self._alike[kind] += 1

    @property
    def clean(self) -> bool:
        """Whether nothing failed since: of an answer only ``answered_sent`` is to be noted."""
        return not self._failed and not self._passed

    def answered(self, sent: int) -> list[_Row]:
        """The endpoint answered this request: the rows that are to blame."""
        self.answered_sent = max(self.answered_sent, sent)
        if not self._failed and not self._passed:
            return []
        passed = [row for at, row in self._passed if at < sent]
        self._passed = [held for held in self._passed if held[0] > sent]
        freed = [row for at, _, row in self._failed if at < sent and row is not None]
        self._failed = [failed for failed in self._failed if failed[0] > sent]
        self._alike = Counter(kind for _, kind, _ in self._failed)
        self._withheld -= len(freed)
        return passed + freed

    def take_back(self, mended: Callable[[_Row], bool]) -> list[_Row]:
        """The withheld rows of which this is true: they did not fail after all."""
        back = [row for _, row in self._passed if mended(row)]
        self._passed = [held for held in self._passed if not mended(held[1])]
        passed, kept = len(back), []
        for failed in self._failed:
            row = failed[2]
            if row is not None and mended(row):
                back.append(row)
            else:
                kept.append(failed)
        if len(back) > passed:
            self._failed = kept
            self._alike = Counter(kind for _, kind, _ in kept)
            self._withheld -= len(back) - passed
        return back

    def let_go(self) -> list[_Row]:
        """All withheld rows, and withhold them no more. They count on."""
        rows = [row for _, row in self._passed]
        self._passed = []
        rows += [row for _, _, row in self._failed if row is not None]
        self._failed = [(sent, kind, None) for sent, kind, _ in self._failed]
        self._withheld = 0
        return rows

    def _too_many(self, kind: Kind, sent: int, out: Collection[int]) -> bool:
        """Whether so many failed with no request in flight between them, this one included."""
        failed = [(number, own) for number, own, _ in self._failed]
        failed.append((sent, kind))
        between = sorted(number for number in out if number > self.answered_sent)
        if len(failed) >= max(ANY_ROWS, FAILED_TO_OUT * len(between)):
            return True
        alike = in_a_row = 0
        places = iter([*between, float("inf")])
        border = next(places)
        for number, own in sorted(failed, key=itemgetter(0)):
            if number > border:
                alike = in_a_row = 0
                while number > border:
                    border = next(places)
            alike += own == kind
            in_a_row += 1
            if alike > ALIKE_ROWS or in_a_row >= ANY_ROWS:
                return True
        return False
