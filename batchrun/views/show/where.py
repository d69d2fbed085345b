"""``--where``: a condition in SQL over the columns of results, by DuckDB (extra ``eval``).

It is evaluated on pieces of the results that are handed over as Arrow tables. The database itself
has no file, may open none, and loads no extension.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from batchrun.errors import UsageError

INSTALL = "pip install 'batchrun-llm[eval]'"
_SHUT: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "memory_limit": "512MB",
}


class Where:
    """A condition, checked against the columns. Raises ``UsageError``, as ``rows`` does."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        try:
            import duckdb
        except ImportError:
            message = f"--where needs DuckDB, which is not installed: {INSTALL}"
            raise UsageError(message) from None
        self._error = duckdb.Error
        self._text = text
        self._db = duckdb.connect(":memory:", config=_SHUT)
        self._db.execute("SET lock_configuration = true")
        self._query = f"SELECT row FROM piece AS results WHERE ({text}\n)"  # noqa: S608 - the user's own SQL
        self.columns = self._columns(schema)
        """The columns that it needs."""
        self.rows(schema.empty_table())

    def _columns(self, schema: pa.Schema) -> list[str]:
        try:
            [(found,)] = self._db.execute(
                "SELECT json_serialize_sql($1::VARCHAR)", [self._query]
            ).fetchall()
        except self._error as error:
            raise self._wrong(error) from None
        tree = json.loads(found)
        if tree.get("error"):
            raise self._wrong(tree.get("error_message"))
        select = tree["statements"][0]["node"]
        if len(tree["statements"]) != 1 or str(select.get("type")).lower() != "select_node":
            raise self._wrong("it is no condition")
        condition = select.get("where_clause")
        nodes = list(_nodes(condition))
        if any(_class(node) == "subquery" for node in nodes):
            why = "it has a SELECT inside; a condition looks at one row at a time"
            raise self._wrong(why)
        folded = {name.casefold(): name for name in schema.names}
        # Of `results.a` and `a.field` alike, `a` is the column.
        paths = [node["column_names"] for node in nodes if _class(node) == "column_ref"]
        named = [
            path[1] if path[0].casefold() == "results" and len(path) > 1 else path[0]
            for path in paths
        ]
        for name in named:
            if name.casefold() not in folded:
                near = difflib.get_close_matches(name, schema.names, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                why = f"the results have no column {name!r}{hint}"
                raise self._wrong(why)
        return [folded[name.casefold()] for name in named]

    def rows(self, table: pa.Table) -> list[int]:
        """The rows of a piece that meet it."""
        names = list(dict.fromkeys(["row", *self.columns]))
        try:
            self._db.register("piece", table.select(names))
            return [row for (row,) in self._db.execute(self._query).fetchall()]
        except self._error as error:
            raise self._wrong(error) from None

    def _wrong(self, why: object) -> UsageError:
        first = str(why).partition("\n")[0]
        return UsageError(f"--where {self._text!r}: {first}")


def _class(node: dict[str, Any]) -> str:
    return str(node.get("class")).lower()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a parsed statement."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item)
