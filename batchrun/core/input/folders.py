"""Folders named ``key=value``: columns that a data set has in its paths (Hive's layout).

Spark, Arrow and DuckDB write them so: names and values are percent-encoded, and a null value is
``__HIVE_DEFAULT_PARTITION__``.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

NULL = "__HIVE_DEFAULT_PARTITION__"

Folders = tuple[tuple[str, str | None], ...]
"""Names of columns and their text, null included."""


def columns_of(folders: Sequence[str]) -> Folders:
    """The columns that some folders name, each once; the innermost folder wins."""
    found: dict[str, str | None] = {}
    for folder in folders:
        key, equals, value = folder.partition("=")
        if key and equals:
            found[unquote(key)] = None if value == NULL else unquote(value)
    return tuple(found.items())
