"""Counts quoted records of several lines, and detects those that look like an accident.

A quoted field may contain line breaks, so two stray quotes can turn the lines between them into one
valid record. Only the user can decide, and this module makes the warning.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.adapters.sources.files.lines import Line
from batchrun.adapters.sources.files.storage import Stamp

LINES_MANY = 100
"""A record of this many lines is worth a warning, whatever its content."""


class Folded:
    """The records of several lines found in one pass over the input."""

    def __init__(self) -> None:
        self._records = 0
        self._lines = 0
        self._odd = 0
        self._first: Line | None = None
        self._first_odd: Line | None = None

    def note(self, record: Line, columns: int, delimiter: str) -> None:
        """Count a record of several lines in a file of so many columns."""
        self._records += 1
        self._lines += record.lines
        self._first = self._first or record._replace(data=None, cells=None)
        if record.lines >= LINES_MANY or _holds_rows(record, columns, delimiter.encode()):
            self._odd += 1
            self._first_odd = self._first_odd or record._replace(data=None, cells=None)

    def remarks(self, files: Sequence[Stamp]) -> list[str]:
        """What to tell the user: nothing, a notice, or a warning instead."""
        if self._first is None:
            return []
        one = self._records == 1
        text = (
            f"{self._records:,} quoted record{'' if one else 's'} "
            f"hold{'s' if one else ''} line breaks and take{'s' if one else ''} "
            f"{self._lines:,} lines"
        )
        odd = self._first_odd
        if odd is None:
            where = f"{files[self._first.file].name} line {self._first.number:,}"
            return [f"{text} (first: {where})"]
        where = f"{files[odd.file].name} line {odd.number:,}, {odd.lines:,} lines"
        odd_text = (
            f"warning: {text}; in {self._odd:,} of them the lines look like rows of their own, or "
            f"are {LINES_MANY} and more (first: {where}). If quotes are ordinary characters there, "
            "read the input with --quoting none"
        )
        return [odd_text]


def _holds_rows(record: Line, columns: int, delimiter: bytes) -> bool:
    """Whether most of its lines, taken alone, have as many fields as a row of the file."""
    pieces = (record.data or b"").split(b"\n")
    alike = sum(piece.count(delimiter) == columns - 1 for piece in pieces)
    return columns > 1 and 2 * alike > len(pieces)
