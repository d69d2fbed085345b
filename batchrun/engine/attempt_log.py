"""Failed attempts on their way into the journal, for those who log in detail.

Nothing of this is there unless the logger ``batchrun`` takes messages of level ``DEBUG`` when a
session begins. What is told names no key, and nothing of a request's or a reply's text.
"""

from __future__ import annotations

import logging

from batchrun.ports import Durable, Journal
from batchrun.records import Attempt, Entry, Outcome

_LOG = logging.getLogger("batchrun.attempts")


def noted(journal: Journal) -> Journal:
    """The journal; one that logs failed attempts, where that is asked for."""
    return NotingJournal(journal) if _LOG.isEnabledFor(logging.DEBUG) else journal


class NotingJournal:
    """``ports.Journal`` that logs every attempt that failed, and every row that ended so."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.sending = journal.sending
        self.flush = journal.flush

    @property
    def backlog_bytes(self) -> int:
        """See ``ports.Journal``."""
        return self._journal.backlog_bytes

    def post(self, entry: Entry, then: Durable | None = None) -> None:
        """See ``ports.Journal``."""
        _note(entry)
        self._journal.post(entry, then)


def _note(entry: Entry) -> None:
    if isinstance(entry, Attempt):
        _LOG.debug("%s", line(entry))
    elif isinstance(entry, Outcome) and entry.failure is not None:
        if entry.attempt is not None:
            _LOG.debug("%s", line(entry.attempt))
        _LOG.debug(
            "row %d failed: class=%s attempts=%d",
            entry.row,
            entry.failure.error_class,
            entry.attempts,
        )


def line(attempt: Attempt) -> str:
    """An attempt in a line: what is not known is left out."""
    told = {
        "status": attempt.http_status,
        "class": attempt.error_class,
        "code": attempt.error_code,
        "wait_s": attempt.retry_after_s,
        "latency_s": round(attempt.latency_s, 3),
        "request_id": attempt.request_id,
    }
    known = " ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    return f"row {attempt.row} attempt {attempt.number} at {attempt.endpoint}: {known}"
