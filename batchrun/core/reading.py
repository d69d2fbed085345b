"""How bytes become rows: the version of the reading rules, and the quoting of CSV and TSV.

A run directory records both. It is read by the rules that it was begun with, whichever version
goes on with it: other rules would number other rows, or make other requests of them.

Rules:

1. TSV is quoted as CSV is. A line of JSON that holds ``NaN`` or an infinity is a bad row; in
   Parquet and Arrow data they are values like any other.
2. TSV has no quoting. ``NaN`` and infinities are null in carried fields, whatever the format. With
   a prompt, rows with messages keep their own, and columns that are called like parameters are
   sent unless the prompt shows them.
3. With a prompt every column is data, whatever it is called, and ``--send`` names what is sent. In
   tables `user`, `metadata` and `store` are sent only where ``--send`` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

RULES = 3
"""The version of the rules of this program."""

QUOTINGS = ("csv", "none")
QUOTED_FORMATS = ("csv", "tsv")


@dataclass(frozen=True, slots=True)
class Reading:
    """The rules that an input is read by. ``quoting`` None means: what the format has."""

    rules: int = RULES
    quoting: str | None = None

    @property
    def nan_is_null(self) -> bool:
        """Whether NaN and infinities are null in carried fields and in templates."""
        return self.rules >= 2

    @property
    def columns_are_data(self) -> bool:
        """Whether ``core.roles`` says what columns are for."""
        return self.rules >= 3

    def of(self, kind: str) -> Reading:
        """The same for a format, with its quoting filled in; None where there is none to speak of.

        A run directory of the first rules knew no choice: what is asked for is compared later.
        """
        if kind not in QUOTED_FORMATS:
            return replace(self, quoting=None)
        default = "none" if kind == "tsv" and self.rules >= 2 else "csv"
        return replace(self, quoting=self.quoting or default)

    def public(self) -> dict[str, Any]:
        """As it is recorded and shown."""
        return {"input.quoting": self.quoting, "input.reading_rules": self.rules}


NOW = Reading()
"""The rules of this version."""


def recorded_reading(recorded: Mapping[str, Any]) -> Reading:
    """The rules of a directory from what it recorded; those of the first version if nothing."""
    rules, quoting = recorded.get("input.reading_rules"), recorded.get("input.quoting")
    return Reading(
        rules if isinstance(rules, int) else 1, quoting if isinstance(quoting, str) else None
    )
