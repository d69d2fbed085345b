"""The schema of carried columns for JSON rows, and the names carried columns get.

JSON rows have no schema, so the first ``SAMPLE_ROWS`` fix one. A column's kind is the narrowest
that holds all its values: integers widen to floats, anything else that mixes becomes text. A text
column keeps strings as they are and holds every other value as JSON text. Values that come later
and do not fit go to the column ``extra``, so nothing is lost and no part's schema differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchrun.core.text.storable import json_text

SAMPLE_ROWS = 10_000
"""Rows that fix the schema of JSON input."""

COLUMNS_MAX = 1000
"""Keys beyond these, in order of appearance, go to ``extra``: data used as keys must not make a
table of a million columns."""

BOOL, INT, FLOAT, TEXT = "bool", "int", "float", "text"

_EXACT_FLOAT = 2**53
_TYPES: Mapping[str, type] = {BOOL: bool, INT: int, FLOAT: float, TEXT: str}


def kind_of(value: object) -> str | None:
    """The kind of one JSON value; None for null, which fits every kind."""
    if value is None:
        return None
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT if -(2**63) <= value < 2**63 else TEXT
    if isinstance(value, float):
        return FLOAT
    return TEXT


def widen(known: str | None, seen: str | None) -> str | None:
    """The narrowest kind that holds both."""
    if known is None or seen is None or known == seen:
        return known or seen
    if {known, seen} == {INT, FLOAT}:
        return FLOAT
    return TEXT


def infer(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Column name to kind, in order of first appearance. Columns with only nulls are text."""
    kinds: dict[str, str | None] = {}
    inexact: set[str] = set()
    for row in rows:
        for name, value in row.items():
            known = kinds.get(name)
            if known == TEXT:
                continue  # it holds whatever comes
            if known is None and name not in kinds and len(kinds) >= COLUMNS_MAX:
                continue
            kinds[name] = widen(known, kind_of(value))
            if type(value) is int and abs(value) > _EXACT_FLOAT:
                inexact.add(name)
    return {
        # A float column would round integers beyond 2**53; text holds them.
        name: TEXT if kind is None or (kind == FLOAT and name in inexact) else kind
        for name, kind in kinds.items()
    }


def all_fit(kind: str, values: Sequence[object]) -> bool:
    """Whether every one of these values is null or of its column's own kind, as it is held."""
    own = _TYPES[kind]
    if not {own, type(None)}.issuperset(map(type, values)):
        return False
    if own is not int:
        return True
    numbers: list[int] = list(filter(None, values))  # type: ignore[arg-type]
    return not numbers or (min(numbers) >= -(2**63) and max(numbers) < 2**63)


def fit(kind: str, value: object) -> tuple[Any, bool]:
    """The value as its column holds it, and whether it fits at all."""
    if value is None:
        return None, True
    if kind == TEXT:
        return (value if isinstance(value, str) else json_text(value)), True
    seen = kind_of(value)
    if seen == kind:
        return value, True
    if kind == FLOAT and seen == INT and abs(value) <= _EXACT_FLOAT:  # type: ignore[arg-type]
        return float(value), True  # type: ignore[arg-type]
    return None, False


def output_names(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """The names carried columns get in the results.

    A name that is taken (case does not distinguish: many engines fold it) becomes ``input_NAME``,
    then ``input_NAME_2`` and so on.
    """
    used = {name.casefold() for name in taken}
    given = []
    for name in names:
        candidate, count = name, 1
        while candidate.casefold() in used:
            candidate = f"input_{name}" if count == 1 else f"input_{name}_{count}"
            count += 1
        used.add(candidate.casefold())
        given.append(candidate)
    return given
