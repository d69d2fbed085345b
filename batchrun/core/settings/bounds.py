"""Bounds on finished rows: when there are too many bad ones to go on."""

from __future__ import annotations

from typing import NamedTuple

from batchrun.core.reply import answer
from batchrun.core.text.wording import counted
from batchrun.records import Failure, Outcome

ROWS_MIN = 100
"""A share counts from so many finished rows on."""
ALIKE_ROWS = 20
"""So many rows that fail alike before any succeeds are one mistake, not many."""
OF_THE_ROW = frozenset(
    """
    content_filter context_length invalid_row invalid_output truncated_output empty_output
    """.split()
)
"""Error classes that rows bring on themselves by what they say or ask for. Sorted data begins with
many alike: no number of them tells of a mistake in the run or of its endpoint."""


class Bound(NamedTuple):
    """At most so many rows, or at most this share of them (0 to 1); one of the two is None."""

    rows: int | None
    share: float | None

    def __str__(self) -> str:
        return f"{self.rows}" if self.share is None else f"{self.share * 100:g}%"

    def exceeded(self, count: int, of: int) -> bool:
        """Whether ``count`` out of ``of`` rows are too many."""
        if self.rows is not None:
            return count > self.rows
        return of >= ROWS_MIN and self.share is not None and count > self.share * of


class Bounds(NamedTuple):
    """The bounds of a run; None where there is none."""

    failures: Bound | None = None
    truncated: Bound | None = None
    empty: Bound | None = None


class Broken(NamedTuple):
    """The guard that stops the run, and what to tell its user."""

    guard: str
    message: str
    failure: Failure | None = None
    """The failure that all these rows share, if one."""


class Finished:
    """Counts the finished rows of a session against its bounds."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._rows = self._failed = self._truncated = self._empty = 0
        self._alike: tuple[str, str | None] | None = None
        self._alike_rows = 0
        self._differ = False
        self.idle = self._bounds == Bounds()
        """Whether completions need not be counted: only failures matter."""

    def may_be_misconfigured(self, *, succeeded: bool) -> bool:
        """Whether the failures so far may still turn out to be one mistake in the run."""
        return not (succeeded or self._differ)

    def add(self, outcome: Outcome, *, succeeded: bool) -> Broken | None:
        """Count a row; returns what to stop for. ``succeeded`` says that some row of the run has
        an answer. A row that was never sent, or that failed for what is in it, is its own fault.
        """
        self._rows += 1
        if outcome.failure is not None:
            self._failed += 1
            if (
                self.may_be_misconfigured(succeeded=succeeded)
                and outcome.attempt is not None
                and outcome.failure.error_class not in OF_THE_ROW
            ):
                found = self._alike_failure(outcome.failure)
                if found is not None:
                    return found
        self._truncated += is_truncated(outcome)
        self._empty += is_empty(outcome)
        return self._broken()

    def _alike_failure(self, failure: Failure) -> Broken | None:
        kind = (failure.error_class, failure.code)
        if self._alike is not None and kind != self._alike:
            self._differ = True
            return None
        self._alike = kind
        self._alike_rows += 1
        if self._alike_rows < ALIKE_ROWS:
            return None
        message = (
            f"the first {ALIKE_ROWS} rows that could be answered failed alike "
            f"({failure.error_class}): {failure.message.rstrip('.')}. Correct the cause; then the "
            "same command with --keep-done --retry-failed sends these rows again"
        )
        return Broken("misconfiguration", message, failure)

    def _broken(self) -> Broken | None:
        for guard, what, bound, count in (
            ("max_failures", "failed", self._bounds.failures, self._failed),
            (
                "max_truncated",
                "were cut off by a length limit",
                self._bounds.truncated,
                self._truncated,
            ),
            ("max_empty", "have an empty answer", self._bounds.empty, self._empty),
        ):
            if bound is not None and bound.exceeded(count, self._rows):
                message = (
                    f"{count:,} of {counted(self._rows, 'row')} {what}, more than "
                    f"--{guard.replace('_', '-')} {bound}"
                )
                return Broken(guard, message)
        return None


def is_truncated(outcome: Outcome) -> bool:
    """Whether a length limit cut the answer off."""
    if outcome.completion is None:
        return outcome.failure is not None and outcome.failure.error_class == "truncated_output"
    return answer.is_truncated(outcome.completion)


def is_empty(outcome: Outcome) -> bool:
    """Whether the answer says nothing: no text, no refusal, no tool call."""
    if outcome.completion is None:
        return outcome.failure is not None and outcome.failure.error_class == "empty_output"
    return answer.is_empty(outcome.completion)
