"""What ``verify`` found: every kind of damage, each with its first cases and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.core.text.wording import counted
from batchrun.views.text import safe

SHOWN = 10
"""Cases that are shown of one kind of damage; the others are counted."""

KINDS = {
    "live": "A run is working on the directory.",
    "summary_missing": "There is no `summary.json`.",
    "summary": "`summary.json` counts something else than the parts hold.",
    "summary_status": "`status`, `exit_code` and `stopped_by` do not fit what the parts hold.",
    "usage": "`usage.parquet` counts something else than the parts hold.",
    "state": "The journal's state file is missing, unreadable, or changed on the disk.",
    "state_totals": "The journal's totals of a shard are not what its parts hold.",
    "state_summary": "`summary.json` and the journal disagree about the run.",
    "log_waiting": "Outcomes wait in the journal to be published.",
    "parts_waiting": "Parts that were written again wait to be published.",
    "left_over": "A draft that a kill left behind.",
    "stray": "A file among the parts that is none.",
    "file_missing": "A part is missing.",
    "file_unknown": "A part that the journal does not know.",
    "file_unreadable": "A part that cannot be read.",
    "digest": "A part is not byte for byte what was written.",
    "format": "A part is not marked as of this format.",
    "columns": "A part, or `usage.parquet`, has other columns, types or another order.",
    "row_without_number": "A row of a part has no number.",
    "row_missing": "A row that must be there is not.",
    "row_twice": "A row is there more than once.",
    "row_order": "Results are not in the order of the input.",
    "row_elsewhere": "A row is in a part that it does not belong to.",
    "repeat": "A row says that it is another repeat than it is, or a row of the input lacks some.",
    "status": "A status is neither `ok` nor `error`.",
    "ok_with_error": "An `ok` row has an error's fields.",
    "ok_http_status": "An `ok` row has no HTTP status of success.",
    "error_with_answer": "An `error` row has an answer's fields.",
    "error_without_reason": "An `error` row has no class or no message.",
    "unknown_class": "An error class that the contract does not know.",
    "cost": "A cost is negative, or no whole number of picodollars (10^-12 USD).",
    "request_hash": "A row that was sent has no request hash, or one that was not sent has.",
    "reused_from": "A reused answer does not say which run and row gave it.",
    "reused_status": "A row without an answer says that it was reused.",
    "reused_cost": "A reused answer has a cost.",
    "ledger_order": "Lines of the ledger are not in the order of the rows.",
    "attempt_number": "The attempts of a row are not numbered 1, 2, 3 and so on.",
    "decided_by": "`decided_by` has an unknown word, or names another error class than its line.",
    "attempts": "A row's `attempts` is not the number of its lines in the ledger.",
    "ledger": "A result is not what the attempt that decided it says.",
    "turn_number": "The turns of a conversation are not numbered 1, 2, 3 and so on.",
    "turn_sums": "The tokens or the cost of a conversation are not the sums over its turns.",
    "turn_messages": "The `messages` of a conversation do not fit its turns or its answer.",
    "response_file": "A file of `responses/` that a row names is missing, or not what was written.",
    "response_count": "A part's rows name more or fewer files of `responses/` than it says.",
    "score_settings": "The recorded `[scores]`, `[metrics]` or `[gates]` cannot be read.",
    "scores_missing": "A part of the results has no scores.",
    "scores_unreadable": "A part of `scores/` cannot be read.",
    "scores_columns": "A part of `scores/` has other columns than the run has scores.",
    "scores_rows": "A part of `scores/` has other rows than the results.",
    "scores_stale": "A part of `scores/` was made from other results, or by another definition.",
    "scores_values": "A score is not what its expression gives, or not what was written.",
    "score_counts": "`summary.json` counts scores otherwise than `scores/` holds them.",
    "judge_rows": "The results of a judge cannot be read, or are not in the order of the rows.",
    "verdict": "A score counts a verdict that is not the judge's on the answer that is there now.",
    "judge_counts": "`summary.json` counts the verdicts of a judge otherwise than they are.",
    "metric": "A metric of `summary.json` is not what the files give.",
    "gate": "The verdict on a gate does not fit its figures.",
    "request_body": "A body in `requests/` is not the request of its row.",
    "request_count": "A part of requests has more or fewer rows than the journal says.",
    "source_row": "A row of a chained run does not say which row of its source it is made from.",
    "source_hash": "A row of a chained run is not of the answer that its source has.",
    "input_custom_id": "A `custom_id` is not the one in the input.",
    "input_request_hash": "The input and the settings of the run give another request.",
    "input_carried": "A carried value is not the one in the input.",
    "input_row_missing": "A row has a result and is not in the input.",
}
"""Every kind of damage that is told apart."""


KEYS = {
    "ok": "Whether everything holds.",
    "rows": "Rows found in `results/`.",
    "attempts": "Attempts found in `attempts/`.",
    "parts": "Pairs of parts read.",
    "digests": "Files whose SHA-256 was compared with the recorded one.",
    "compared": "Rows compared with the input. Null without `--against`.",
    "notes": "What could not be checked, and why; and oddities that are harmless.",
    "kinds": "How often each kind of damage was found, by its short name.",
    "problems": "What does not hold, one sentence each; the first ten of every kind.",
}
"""What the keys of ``verify --json`` mean, for the reference."""


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
        """Something does not hold, ``count`` times. ``kind`` is one of ``KINDS``."""
        assert kind in KINDS, kind
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
                f"{self.folder}: {counted(self.rows, 'row')} and "
                f"{counted(self.attempts, 'attempt')} in {counted(self.parts, 'part')}, "
                f"{counted(self.digests, 'digest')} compared"
            )
        ]
        if self.compared is not None:
            out.append(f"{counted(self.compared, 'row')} compared with the input")
        out += [f"note: {safe(note)}" for note in self.notes]
        out += [f"PROBLEM: {text}" for text in self.problems]
        out.append("verified: every row is accounted for" if self.ok else "NOT verified")
        return out
