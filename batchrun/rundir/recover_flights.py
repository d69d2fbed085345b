"""The requests that a killed process had in flight: its flight log becomes lines of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from batchrun.adapters.journal.flight_log import read_notes
from batchrun.adapters.journal.journal import Journal
from batchrun.core.verdict import trail
from batchrun.errors import FaultKind
from batchrun.records import NO_USAGE, Attempt

INTERRUPTED = FaultKind.INTERRUPTED
"""``error_code`` of attempts that a kill cut off."""


def recover_flights(
    journal: Journal, path: Path, known: Callable[[int], int], endpoints: Sequence[str]
) -> int:
    """Enter the exchanges that a killed process left in its flight log into the ledger.

    ``known(row)`` is the number of a row's last attempt in the parts or the journal. Returns how
    many were entered.
    """
    lost = []
    for note in read_notes(path):
        lost += [
            _unanswered(
                note.row,
                number,
                endpoints[min(note.endpoint, len(endpoints) - 1)],
                note.started_at_us,
            )
            for number in range(known(note.row) + 1, note.attempt + 1)
        ]
    if lost:
        journal.write(lost)
    return len(lost)


def _unanswered(row: int, number: int, endpoint: str, started_at_us: int) -> Attempt:
    return Attempt(
        row=row,
        number=number,
        endpoint=endpoint,
        model=None,
        service_tier=None,
        started_at_us=started_at_us,
        queue_s=0.0,
        latency_s=0.0,
        http_status=None,
        error_class="connection",
        error_code=INTERRUPTED.value,
        retry_after_s=None,
        usage=NO_USAGE,
        cost_pd=None,
        request_id=None,
        unanswered=True,
        decided_by=trail.INTERRUPTED,
    )
