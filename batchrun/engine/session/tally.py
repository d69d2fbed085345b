"""Counts what a run has done so far, for its views.

A row counts here only once its outcome is durable. Views poll ``Tally``; nothing is called per
row.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from batchrun.core.cost.projection import Projection, RowCosts, project
from batchrun.core.reply.answer import is_empty, is_ordinary, is_truncated
from batchrun.records import Outcome

HELD_MIN_S = 2.0
"""What held a run back for less is not worth telling: it may be its own start."""
TOLD_MAX = 100
"""Notices that are kept for status and summary."""


@dataclass(slots=True)
class Tally:
    """Counters of one run. ``resumed_*`` are rows that earlier sessions finished."""

    rows_input: int | None = None
    proved: bool = False
    """Whether rows of the run have succeeded that are not counted here."""
    resumed_ok: int = 0
    resumed_error: int = 0
    ok: int = 0
    error: int = 0
    reused: int = 0
    """Rows that took an answer of another run; not among ``ok``."""
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_pd: int | None = None
    """The bill so far in picodollars, earlier sessions' included; None while no cost is known."""
    wasted_pd: int = 0
    """Of it, what was no answer of an ok row."""
    row_costs: RowCosts = field(default_factory=RowCosts)
    """Of rows that finished while costs were known, earlier sessions' included as far as they
    ended in an orderly way.
    """
    errors: Counter[str] = field(default_factory=Counter)
    """Failed rows of this session, by error class."""
    resumed_errors: Counter[str] = field(default_factory=Counter)
    """Those of earlier sessions."""
    first_failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By error class the first row of the input that failed with it, and what was said; earlier
    sessions' included. Not the first in time: several processes then name the row that one would.
    """
    truncated: int = 0
    """Of ``ok``, rows whose answer a token limit cut off."""
    empty: int = 0
    """Rows in ``ok`` with an empty answer."""
    notices: deque[str] = field(default_factory=deque)
    """What the user should hear of, until somebody tells."""
    told: list[str] = field(default_factory=list)
    """What the user was told of them, each text once: the first ``TOLD_MAX``."""
    bound_s: dict[str, float] = field(default_factory=dict)
    """Seconds the run was held back, by what held it."""

    def finished(self, outcome: Outcome, cost_pd: int = 0) -> None:
        """An outcome is durable; its row cost so much, with all its exchanges in this session."""
        if self.cost_pd is not None:
            self.row_costs.add(cost_pd)
        completion = outcome.completion
        if completion is None:
            self.error += 1
            if outcome.failure is not None:
                failure = outcome.failure
                self.errors[failure.error_class] += 1
                known = self.first_failed.get(failure.error_class)
                if known is None or outcome.row < known[0]:
                    said = failure.message or failure.code or ""
                    self.first_failed[failure.error_class] = (outcome.row, said)
            return
        self.ok += 1
        if not is_ordinary(completion):
            self.truncated += is_truncated(completion)
            self.empty += is_empty(completion)
        self.prompt_tokens += completion.usage.prompt_tokens or 0
        self.completion_tokens += completion.usage.completion_tokens or 0

    def spend(self, cost_pd: int, *, kept: bool) -> None:
        """An exchange ended that cost so much; ``kept`` says that it is a row's answer."""
        self.cost_pd = (self.cost_pd or 0) + cost_pd
        if not kept:
            self.wasted_pd += cost_pd

    def set_aside(self, outcome: Outcome) -> None:
        """A row keeps the answer that it had: this one was no better."""
        self.resumed_ok += 1
        if outcome.ok and outcome.attempt is not None:
            self.wasted_pd += outcome.attempt.cost_pd or 0

    def projection(self) -> Projection | None:
        """Projected cost of the whole run; None while it is unknown."""
        if self.cost_pd is None or self.rows_input is None:
            return None
        pending = max(0, self.rows_input - self.done)
        return project(self.row_costs, spent=self.cost_pd, pending=pending)

    @property
    def failed_by_class(self) -> dict[str, int]:
        """Failed rows by error class, earlier sessions' included; the class with most first."""
        return dict((self.errors + self.resumed_errors).most_common())

    @property
    def succeeded(self) -> bool:
        """Whether any row of this run had an answer."""
        return self.proved or self.ok + self.resumed_ok > 0

    @property
    def done(self) -> int:
        """Rows with an outcome, earlier sessions' included."""
        return self.ok + self.error + self.reused + self.resumed_ok + self.resumed_error

    @property
    def bound_by(self) -> str | None:
        """What held the run back most; None where nothing did for long."""
        name = max(self.bound_s, key=self.bound_s.__getitem__, default=None)
        return name if name is not None and self.bound_s[name] >= HELD_MIN_S else None
