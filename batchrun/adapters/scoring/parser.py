"""Checks a piece of SQL before it runs: DuckDB's own parser returns a tree, and the tree is checked
against lists of what is allowed.

A score or a metric is one expression over columns; a query is one SELECT over the views that it is
given. Nothing is decided from the text: the parser interprets comments, parentheses and semicolons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from batchrun.errors import UsageError

Kind = Literal["score", "metric", "query", "group"]

SQL_CHARS_MAX = 100_000
DEPTH_MAX = 200
"""Maximum levels of a tree, each several levels of its JSON; DuckDB itself stops at 1,000."""

_EXPRESSIONS = frozenset(
    """
    FUNCTION COLUMN_REF CONSTANT OPERATOR CASE CAST COMPARISON CONJUNCTION BETWEEN COLLATE LAMBDA
    LAMBDA_REF TYPE
    """.split()
)
"""Classes of expressions that only depend on the columns of the row."""
_IN_QUERIES = _EXPRESSIONS | {"SUBQUERY", "WINDOW", "STAR", "POSITIONAL_REFERENCE"}
_TABLE_FUNCTIONS = frozenset("unnest range generate_series".split())
_OF_THE_CLOCK = frozenset(
    """
    now today transaction_timestamp current_date current_time current_timestamp localtime
    localtimestamp current_localtime current_localtimestamp get_current_time get_current_timestamp
    random uuid uuidv4 uuidv7 gen_random_uuid
    """.split()
)
"""Also allowed in queries, which need not be reproducible."""
_OF_THE_SESSION = frozenset(
    """
    user session_user current_user current_role current_catalog current_schema current_schemas
    current_database current_setting current_query getvariable getenv in_search_path txid_current
    version error
    """.split()
)
OF_NO_COLUMN = frozenset(
    """
    current_catalog current_date current_role current_schema current_time current_timestamp
    current_user localtime localtimestamp session_user user
    """.split()
)
"""Words that mean a value of the session unless there is a column of that name."""
OF_REPEATS = frozenset(("pass_at", "pass_all", "majority"))
"""Aggregates over the repeats of one row. As a metric they are averaged over rows; in a query they
are aggregates like any other.
"""
_STATEMENT = re.compile(r"\s*(?:select|with|from|values|table)\b", re.IGNORECASE)
_SESSION_PREFIXES = ("pg_", "duckdb_", "has_", "current_", "pragma_")
_CLAUSES = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")
_WHAT: Mapping[str, str] = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter (?)",
    "DEFAULT": "DEFAULT",
    "POSITIONAL_REFERENCE": "a column by its number",
}


@dataclass(frozen=True, slots=True)
class Functions:
    """DuckDB's functions, by name: those that return the same value for the same arguments, the
    aggregates, and the others.
    """

    steady: frozenset[str]
    aggregates: frozenset[str]
    unsteady: frozenset[str]

    def known(self) -> Iterator[str]:
        """All names."""
        yield from self.steady | self.aggregates | self.unsteady


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a piece of SQL refers to. ``columns`` has every part of every column's name, ``star`` is
    whether it takes all columns. If the whole is ``avg(x)``, with or without a filter, ``mean_of``
    is x and ``mean_filter`` the filter. If the whole is one of ``OF_REPEATS``, ``of_repeats`` is
    its name, ``mean_of`` its first argument and ``other`` its second one.
    """

    text: str
    columns: frozenset[str]
    tables: frozenset[str] = frozenset()
    aggregates: tuple[str, ...] = ()
    star: bool = False
    mean_of: str | None = None
    mean_filter: str | None = None
    of_repeats: str | None = None
    other: str = ""


@dataclass(slots=True)
class _Seen:
    columns: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    """Unqualified names: the name of a table stands for its whole rows."""
    aliases: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    aggregates: list[str] = field(default_factory=list)
    star: bool = False


class Grammar(Protocol):
    """DuckDB's parser: statements as JSON, and back."""

    def serialize(self, sql: str) -> str:
        """The tree of a text, or an error, as JSON."""
        ...

    def deserialize(self, tree: str) -> str:
        """The text of a tree."""
        ...


def expression(grammar: Grammar, text: str, key: str, kind: Kind, functions: Functions) -> Parsed:
    """Parse one expression over columns. ``key`` is its name in messages.

    Raises ``UsageError`` naming the key, what is wrong and the text.
    """
    bare = _statement(grammar, f"SELECT\n{text}\n", text, key)
    # Also parsed in parentheses, so that it cannot close ours.
    _statement(grammar, f"SELECT (\n{text}\n)", text, key)
    node = bare["node"]
    selected = node.get("select_list", ())
    plain = node.get("type") == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY"
    if not plain or len(selected) != 1 or any(node.get(name) for name in _CLAUSES):
        raise _not_one(key, text)
    tree = selected[0]
    if tree.get("alias"):
        raise _not_one(key, text)
    seen = _Seen()
    _walk(tree, _Rules(key, text, kind, functions), seen, 0)
    if kind == "metric" and not seen.aggregates:
        message = (
            f"{key} must be an aggregate over the rows, such as avg(correct), sum(x) or "
            f"quantile_cont(latency_s, 0.95): {_shown(text)}"
        )
        raise UsageError(message)
    columns = frozenset(seen.columns)
    parsed = Parsed(text, columns, aggregates=tuple(seen.aggregates))
    call = _call(grammar, bare, tree)
    if not OF_REPEATS.isdisjoint(seen.aggregates):
        return _of_repeats(parsed, call, key)
    if call is not None and call.name in ("avg", "mean") and len(call.arguments) == 1:
        return replace(parsed, mean_of=call.arguments[0], mean_filter=call.only)
    return parsed


def _of_repeats(parsed: Parsed, call: _Call | None, key: str) -> Parsed:
    """A metric that consists of one aggregate over the repeats of each row."""
    name = next(name for name in parsed.aggregates if name in OF_REPEATS)
    if call is None or call.name not in OF_REPEATS:
        message = (
            f"{key}: {name} makes one value of the answers to a row, and the metric is their mean "
            f"over the rows: it must be the whole metric: {_shown(parsed.text)}"
        )
        raise UsageError(message)
    if len(call.arguments) != 2:
        wanted = "expr, expected" if name == "majority" else "score, k"
        message = f"{key}: expected {name}({wanted}): {_shown(parsed.text)}"
        raise UsageError(message)
    if len(parsed.aggregates) > 1:
        message = (
            f"{key}: what {name} is given is a value of each answer, and "
            f"{next(n for n in parsed.aggregates[1:])} is an aggregate: {_shown(parsed.text)}"
        )
        raise UsageError(message)
    return replace(
        parsed,
        mean_of=call.arguments[0],
        mean_filter=call.only,
        of_repeats=call.name,
        other=call.arguments[1],
    )


def query(grammar: Grammar, text: str, views: Sequence[str], functions: Functions) -> Parsed:
    """Parse one SELECT over these views. Raises ``UsageError``."""
    body = text.strip().rstrip(";")
    node = _statement(grammar, body, text, "the query")["node"]
    seen = _Seen()
    _walk(node, _Rules("the query", text, "query", functions, tuple(views)), seen, 0)
    return Parsed(
        body,
        frozenset(seen.columns),
        tables=frozenset(seen.tables & set(views)),
        aggregates=tuple(seen.aggregates),
        star=seen.star or bool(seen.alone & seen.aliases),
    )


def _not_one(key: str, text: str) -> UsageError:
    what = "one expression, without SELECT, FROM, AS or a comma outside of parentheses"
    return UsageError(f"{key} must be {what}: {_shown(text)}")


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules and findings of one walk over a tree."""

    key: str
    text: str
    kind: Kind
    functions: Functions
    views: tuple[str, ...] = ()

    def refuse(self, why: str) -> UsageError:
        """The error for something that is not allowed."""
        return UsageError(f"{self.key}: {why}: {_shown(self.text)}")


def _statement(grammar: Grammar, sql: str, text: str, key: str) -> dict[str, Any]:
    """The tree of the only statement of a text."""
    if len(text) > SQL_CHARS_MAX:
        message = f"{key} has {len(text):,} characters; at most {SQL_CHARS_MAX:,} are allowed"
        raise UsageError(message)
    if not text.strip():
        message = f"{key} is empty"
        raise UsageError(message)
    if "\0" in text:
        message = f"{key} has a NUL character: {_shown(text)}"
        raise UsageError(message)
    try:
        found = json.loads(grammar.serialize(sql))
    except RecursionError:
        message = f"{key} is nested too deeply: {_shown(text)}"
        raise UsageError(message) from None
    if found.get("error"):
        why = str(found.get("error_message", "it cannot be parsed"))
        if "Only SELECT" in why or _STATEMENT.match(text):
            if sql != text.strip().rstrip(";"):
                raise _not_one(key, text)
            message = f"{key} must be a SELECT, and only that: {_shown(text)}"
        else:
            message = f"{key} is not valid SQL: {_first_line(why)}: {_shown(text)}"
        raise UsageError(message)
    statements = found["statements"]
    if len(statements) != 1 and sql != text.strip().rstrip(";"):
        raise _not_one(key, text)
    if len(statements) != 1:
        message = f"{key} must be one statement, not {len(statements)}: {_shown(text)}"
        raise UsageError(message)
    statement: dict[str, Any] = statements[0]
    return statement


def _walk(tree: Any, rules: _Rules, seen: _Seen, depth: int) -> None:
    """Check every node of a tree against the rules, and note what it refers to."""
    if depth > DEPTH_MAX * 3:
        raise rules.refuse("it is nested too deeply")
    if isinstance(tree, list):
        for item in tree:
            _walk(item, rules, seen, depth + 1)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if isinstance(kind, str):
        _look_at_expression(kind, tree, rules, seen)
    elif "table_name" in tree or tree.get("type") in ("TABLE_FUNCTION", "SHOW_REF", "PIVOT"):
        _look_at_table(tree, rules, seen)
    elif isinstance(tree.get("cte_map"), dict):
        # Names of a WITH clause are tables of the statement itself.
        seen.tables.update(str(e["key"]).lower() for e in tree["cte_map"].get("map", ()))
    elif "using_columns" in tree:
        seen.columns.update(str(name).lower() for name in tree["using_columns"])
        seen.star |= tree.get("ref_type") == "NATURAL"
    if tree.get("type") == "TABLE_FUNCTION":
        # Its own name was checked; the arguments are left.
        function = tree["function"]
        _walk(function.get("children") or function.get("arguments") or [], rules, seen, depth + 1)
        return
    for name, item in tree.items():
        if name in ("value", "literal") and kind == "CONSTANT":
            continue
        _walk(item, rules, seen, depth + 1)


def _look_at_expression(kind: str, tree: Mapping[str, Any], rules: _Rules, seen: _Seen) -> None:
    allowed = _IN_QUERIES if rules.kind == "query" else _EXPRESSIONS
    if kind not in allowed:
        raise rules.refuse(f"{_WHAT.get(kind, kind.lower())} is not allowed here")
    if kind == "COLUMN_REF":
        names = [str(name) for name in tree["column_names"]]
        seen.columns.update(name.lower() for name in names)
        if len(names) == 1:
            seen.alone.add(names[0].lower())
        return
    if kind == "STAR":
        seen.star = True
    if kind == "FUNCTION":
        _look_at_function(tree, rules, seen)


def _look_at_function(tree: Mapping[str, Any], rules: _Rules, seen: _Seen) -> None:
    name = str(tree["function_name"]).lower()
    path: list[Any] = (tree.get("qualified_name") or {}).get("path") or [tree.get("schema"), name]
    schema = path[:-1]
    # The parser itself writes a list, or LIKE with an escape, as a function of `main`.
    if tree.get("catalog") or any(part not in ("", "main") for part in schema):
        raise rules.refuse(f"write the function {name} without a schema")
    functions = rules.functions
    if rules.kind == "query" and name in _TABLE_FUNCTIONS:
        return
    if name in _OF_THE_SESSION or name.startswith(_SESSION_PREFIXES):
        if not (rules.kind == "query" and name in _OF_THE_CLOCK):
            raise rules.refuse(f"the function {name} is not allowed")
    elif name in functions.aggregates or name in OF_REPEATS:
        if rules.kind in ("score", "group") and (
            name not in functions.steady or name in OF_REPEATS
        ):
            what = (
                "a score has one value per row" if rules.kind == "score" else "a group is a value"
            )
            raise rules.refuse(f"{name} is an aggregate, and {what} (write it under [metrics])")
        seen.aggregates.append(name)
    elif name in functions.unsteady and not (rules.kind == "query" and name in _OF_THE_CLOCK):
        raise rules.refuse(f"the function {name} is not allowed: its value changes by itself")
    elif name not in functions.steady and name not in functions.unsteady and _is_name(name):
        raise rules.refuse(f"there is no function {name}{_near(name, functions)}")


def _look_at_table(tree: Mapping[str, Any], rules: _Rules, seen: _Seen) -> None:
    kind = tree.get("type")
    if kind == "TABLE_FUNCTION":
        name = str(tree["function"]["function_name"]).lower()
        if name not in _TABLE_FUNCTIONS or tree["function"].get("schema"):
            raise rules.refuse(f"the table function {name} is not allowed")
        return
    if kind != "BASE_TABLE" or rules.kind != "query":
        raise rules.refuse("only tables of the run can be queried")
    name = str(tree["table_name"]).lower()
    qualified = (tree.get("qualified_name") or {}).get("path") or [name]
    known = {*rules.views, *seen.tables}
    if tree.get("schema_name") or tree.get("catalog_name") or len(qualified) > 1:
        raise rules.refuse("write a table without a schema")
    if name not in known:
        raise rules.refuse(f"there is no table {name}; there are {', '.join(rules.views)}")
    seen.tables.add(name)
    seen.aliases.add(str(tree.get("alias") or name).lower())


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a function: its name, the texts of its arguments, and of its filter."""

    name: str
    arguments: tuple[str, ...]
    only: str | None


def _call(grammar: Grammar, statement: dict[str, Any], tree: dict[str, Any]) -> _Call | None:
    """The whole tree as a call; None if it is something else."""
    arguments: list[Any] = tree.get("children") or tree.get("arguments") or []
    if tree.get("class") != "FUNCTION" or tree.get("distinct") or not arguments:
        return None
    name = str(tree["function_name"]).lower()
    if name not in ("avg", "mean", *OF_REPEATS) or any(
        isinstance(each, dict) and each.get("name") for each in arguments
    ):
        return None
    only = tree.get("filter")
    parts = [each.get("expression", each) for each in arguments]
    texts = [
        grammar.deserialize(
            json.dumps(
                {
                    "error": False,
                    "statements": [
                        statement | {"node": statement["node"] | {"select_list": [part]}}
                    ],
                }
            )
        )
        .strip()
        .removeprefix("SELECT")
        .strip()
        for part in (*parts, *([] if only is None else [only]))
    ]
    return _Call(name, tuple(texts[: len(parts)]), None if only is None else texts[-1])


def _is_name(name: str) -> bool:
    """Operators are functions without a name."""
    return name[:1].isalpha() or name[:1] == "_"


def _near(name: str, functions: Functions) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(functions.known()), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _shown(text: str) -> str:
    """A text in a message: one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
