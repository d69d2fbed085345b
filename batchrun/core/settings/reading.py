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
   Delimiter and encoding of CSV and TSV are told from each file's beginning, and a first line
   ``sep=;`` is no row. Columns without a name have one by their place. ``key=value`` folders are
   columns. What is piped in without a format is told from its first bytes; JSON may be an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchrun.core.input.dialect import DELIMITERS, UTF8, Dialect
from batchrun.core.settings.differences import Difference, differences

RULES = 3
"""The version of the rules of this program."""

QUOTED_FORMATS = ("csv", "tsv")


@dataclass(frozen=True, slots=True)
class Reading:
    """The rules that an input is read by. ``quoting`` None means: what the format has.

    ``delimiter`` and ``encoding`` are what was asked for, for every file. ``dialects`` says for the
    files, in their order, how they are written: those of a run directory, or what was found.
    """

    rules: int = RULES
    quoting: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    dialects: tuple[Dialect, ...] = ()

    @property
    def nan_is_null(self) -> bool:
        """Whether NaN and infinities are null in carried fields and in templates."""
        return self.rules >= 2

    @property
    def columns_are_data(self) -> bool:
        """Whether ``core.request.column_roles`` says what columns are for."""
        return self.rules >= 3

    @property
    def looks(self) -> bool:
        """Whether files and folders are looked at to tell what they are."""
        return self.rules >= 3

    def asked(self) -> dict[str, str]:
        """What was asked for that only text with delimiters has, by the keys of the settings."""
        found = {
            "quoting": self.quoting, "delimiter": self.delimiter, "encoding": self.encoding,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def of(self, kind: str) -> Reading:
        """The same for a format, with its quoting filled in; None where there is none to speak of.

        A run directory of the first rules knew no choice: what is asked for is compared later.
        """
        if kind not in QUOTED_FORMATS:
            return replace(self, quoting=None, delimiter=None, encoding=None, dialects=())
        default = "none" if kind == "tsv" and self.rules >= 2 else "csv"
        return replace(self, quoting=self.quoting or default)

    def public(self) -> dict[str, Any]:
        """As it is recorded and shown: one delimiter and one encoding where all files have the
        same.
        """
        return {
            "input.quoting": self.quoting,
            "input.delimiter": _one([dialect.delimiter for dialect in self.dialects]),
            "input.encoding": _one([dialect.encoding for dialect in self.dialects]),
            "input.reading_rules": self.rules,
        }


NOW = Reading()
"""The rules of this version."""


def _one(values: Sequence[str]) -> str | list[str] | None:
    return values[0] if values and len(set(values)) == 1 else list(values) or None


def recorded_reading(recorded: Mapping[str, Any], files: int = 0) -> Reading:
    """The rules of a directory from what it recorded of so many files; those of the first version
    if nothing.
    """
    rules, quoting = recorded.get("input.reading_rules"), recorded.get("input.quoting")
    columns = [
        [found] * files if isinstance(found, str) else found if isinstance(found, list) else []
        for found in (recorded.get("input.delimiter"), recorded.get("input.encoding"))
    ]
    return Reading(
        rules if isinstance(rules, int) else 1,
        quoting if isinstance(quoting, str) else None,
        dialects=tuple(Dialect(*pair) for pair in zip(*columns, strict=False)),
    )


def plain(kind: str) -> Dialect:
    """How a file of a format is written if nothing tells otherwise."""
    return Dialect(DELIMITERS[kind], UTF8)


def reading_differences(before: Reading, now: Reading, kind: str) -> list[Difference]:
    """What is read otherwise than a run directory recorded, over the files that it knew."""
    before, known = before.of(kind), before.dialects
    if kind in QUOTED_FORMATS and not before.looks:
        known = (plain(kind),) * len(now.dialects)
    files = min(len(known), len(now.dialects))
    return differences(
        replace(before, dialects=known[:files]).public(),
        replace(now, dialects=now.dialects[:files]).public(),
    )
