"""An eval of OpenAI's hosted Evals as a config and rows.

What the file may be: an eval object, a run, both in one document, a page of output items, or a data
set of ``{"item": {...}}`` lines; JSON or JSON Lines. What is in it is found wherever it stands. The
shapes are those of the API reference (evals, runs, graders), as of 2026.

What maps is taken over; every other grader, data source and operand is named in a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.starter.starter_files import (
    ROWS,
    SCHEMA_LINE,
    Starter,
    jsonl,
    toml_key,
    toml_value,
)
from batchrun.errors import UsageError

DEPTH_MAX = 12
_REFERENCE = re.compile(r"\{\{\s*(.+?)\s*\}\}")
_PATH = re.compile(r"(item|sample)((?:\.[^.\s{}]+)+)")
_PROMPT_FIELDS = ("input", "question", "prompt", "query", "text")
_CHECKS: Mapping[str, Callable[[str, str], str]] = {
    "eq": lambda a, b: f"{a} = {b}",
    "ne": lambda a, b: f"{a} <> {b}",
    "like": lambda a, b: f"contains({a}, {b})",
    "ilike": lambda a, b: f"contains(lower({a}), lower({b}))",
}
"""The operations of ``string_check``."""
_SIMILARITY: Mapping[str, tuple[Callable[[str, str], str], str]] = {
    "fuzzy_match": (
        lambda a, b: f"1 - levenshtein({a}, {b}) / greatest(len({a}), len({b}), 1)",
        "by edit distance, close to the original",
    ),
    "rouge_1": (lambda a, b: f"f1({a}, {b})", "as token F1 after normalisation"),
}
"""The metrics of ``text_similarity`` that SQL has, and how near they come."""
_ELSE = {
    "label_model": "a model's verdict: run a judge over the results",
    "score_model": "a model's verdict: run a judge over the results",
    "python": 'Python: write it as a scorer, { python = "scorers.py:function" }',
    "multi": "a formula over graders: write it as a score in SQL",
}
_RESERVED = frozenset(
    """
    all analyse analyze and any array as asc both case cast check collate column constraint create
    default desc distinct do else end except false fetch for foreign from grant group having in
    initially intersect into lambda leading like limit not null offset on only or order pivot
    primary qualify references returning select show some summarize symmetric table then to
    trailing true union unique unpivot using variadic when where window with
    """.split()
)
"""Words that SQL needs quoted."""
_PARAMS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_completion_tokens": "max_completion_tokens",
    "max_completions_tokens": "max_completion_tokens",
    "max_tokens": "max_tokens",
    "reasoning_effort": "reasoning_effort",
    "response_format": "response_format",
}
"""Sampling parameters, and what a chat completion calls them."""


@dataclass(slots=True)
class _Found:
    """What the documents hold, in their order."""

    criteria: list[Mapping[str, Any]] = field(default_factory=list)
    sources: list[Mapping[str, Any]] = field(default_factory=list)
    items: list[Mapping[str, Any]] = field(default_factory=list)


class _UnmappedError(Exception):
    """Something that has no counterpart; the message says what."""


def starter_of(text: str, name: str, taken: Collection[str] = ()) -> Starter:
    """The config and the rows of an export whose text is ``text``. ``taken`` are the columns of the
    results, whose names carried columns cannot have.

    Raises ``UsageError`` where the file ``name`` has neither items nor graders.
    """
    found = _Found()
    for document in _documents(text, name):
        _collect(document, found, 0)
    if not found.items and not found.criteria:
        message = (
            f"{name} has no items and no testing_criteria: expected an eval, a run, its output "
            'items, or lines of {"item": {...}}'
        )
        raise UsageError(message)
    notes: list[str] = []
    if not found.items:
        notes.append(f"no items are in the file: write the rows into {ROWS}")
    rows = [dict(item) for item in found.items]
    request = _request(found, rows, notes)
    columns = {name.lower() for name in taken}
    own = {name.lower() for row in rows for name in row}
    scores = _scores(found.criteria, columns, own, notes)
    return Starter(_config(request, scores), jsonl(rows), tuple(notes))


def _documents(text: str, name: str) -> list[Any]:
    """The JSON documents of a file: one, or one a line."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        pass
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            documents.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            message = f"{name}, line {number}: neither JSON nor JSON Lines: {error}"
            raise UsageError(message) from None
    return documents


def _collect(value: object, found: _Found, depth: int) -> None:
    """Find graders, data sources and items, wherever they stand."""
    if depth > DEPTH_MAX:
        return
    if isinstance(value, list):
        for one in value:
            _collect(one, found, depth + 1)
        return
    if not isinstance(value, Mapping):
        return
    for key in ("item", "datasource_item"):
        if isinstance(item := value.get(key), Mapping):
            found.items.append(item)
            return
    for key, one in value.items():
        if key == "testing_criteria" and isinstance(one, list):
            known = [json.dumps(grader, sort_keys=True) for grader in found.criteria]
            found.criteria += [
                grader
                for grader in one
                if isinstance(grader, Mapping) and json.dumps(grader, sort_keys=True) not in known
            ]
        elif key == "data_source" and isinstance(one, Mapping):
            found.sources.append(one)
            _collect(one.get("source"), found, depth + 1)
        elif key != "data_source_config":
            _collect(one, found, depth + 1)


# The request


def _request(found: _Found, rows: Sequence[dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """The table ``[request]``; rows get their messages where these are an item's own."""
    request: dict[str, Any] = {}
    source = next((one for one in found.sources if one.get("input_messages")), None)
    if source is None:
        source = next(iter(found.sources), {})
    model = source.get("model")
    request["model"] = model if isinstance(model, str) else "sim-small"
    if not isinstance(model, str):
        notes.append("no model is in the file: `model` is the simulator's")
    asked = source.get("input_messages")
    asked = asked if isinstance(asked, Mapping) else {}
    if isinstance(reference := asked.get("item_reference"), str):
        column = reference.removeprefix("item.")
        for row in rows:
            if column in row:
                row["messages"] = row.pop(column)
    elif messages := _messages(asked.get("template"), notes):
        request["messages"] = messages
    else:
        request["prompt"] = _guessed_prompt(rows)
        notes.append("no input_messages are in the file: check `prompt`")
    params = source.get("sampling_params")
    known: dict[str, Any] = {}
    for name, value in (params if isinstance(params, Mapping) else {}).items():
        if name in _PARAMS and value is not None:
            known[_PARAMS[name]] = value
        elif value is not None:
            notes.append(f"sampling parameter {name}: not taken over")
    if known:
        request["params"] = known
    return request


def _messages(template: object, notes: list[str]) -> list[dict[str, str]]:
    """Messages with the names of columns in place of those of items."""
    messages = []
    for one in template if isinstance(template, list) else ():
        content = one.get("content") if isinstance(one, Mapping) else None
        if isinstance(content, Mapping):
            content = content.get("text")
        if not isinstance(content, str):
            notes.append("a message that is not text: not taken over")
            continue
        messages.append({"role": str(one.get("role", "user")), "content": _as_template(content)})
    return messages


def _as_template(text: str) -> str:
    """``{{item.question}}`` as ``{{ question }}``."""
    return _REFERENCE.sub(lambda found: f"{{{{ {found[1].removeprefix('item.')} }}}}", text)


def _guessed_prompt(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name, value in (rows[0] if rows else {}).items() if isinstance(value, str)]
    named = next((name for name in _PROMPT_FIELDS if name in names), None)
    column = named or next(iter(names), "question")
    return f"{{{{ {column} }}}}"


# The graders


def _scores(
    criteria: Sequence[Mapping[str, Any]],
    taken: Collection[str],
    own: Collection[str],
    notes: list[str],
) -> dict[str, str]:
    """Each grader that maps. ``taken`` and ``own`` are the columns of results and of items."""
    scores: dict[str, str] = {}
    for number, grader in enumerate(criteria, 1):
        kind, title = grader.get("type"), str(grader.get("name") or f"grader {number}")
        name = _name(title, {*scores, *taken, *own})
        try:
            if kind == "string_check":
                scores[name] = _string_check(grader, taken)
            elif kind == "text_similarity":
                sql, how = _text_similarity(grader, taken)
                scores[name] = sql
                notes.append(f"grader {title!r}: {how}")
                threshold = grader.get("pass_threshold")
                if isinstance(threshold, (int, float)) and not isinstance(threshold, bool):
                    passed = _name(f"{name}_passed", {*scores, *taken, *own})
                    scores[passed] = f"{sql} >= {threshold}"
            else:
                why = _ELSE.get(str(kind), "batchrun has no such grader")
                notes.append(f"grader {title!r} ({kind}): not taken over; it is {why}")
        except _UnmappedError as error:
            notes.append(f"grader {title!r} ({kind}): not taken over; {error}")
    return scores


def _name(title: str, taken: Collection[str]) -> str:
    """A name of a score that is free."""
    name = re.sub(r"\W+", "_", title.lower()).strip("_")[:50] or "grader"
    name = f"score_{name}" if name[0].isdigit() or name in ("row", "custom_id") else name
    if name in taken:
        name = f"{name}_score"
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _string_check(grader: Mapping[str, Any], taken: Collection[str]) -> str:
    operation = grader.get("operation")
    if operation not in _CHECKS:
        message = f"its operation {operation!r} is not known"
        raise _UnmappedError(message)
    return _CHECKS[str(operation)](*_operands(grader, taken))


def _text_similarity(grader: Mapping[str, Any], taken: Collection[str]) -> tuple[str, str]:
    metric = str(grader.get("evaluation_metric"))
    if metric not in _SIMILARITY:
        message = f"{metric} is not in SQL; a Python scorer can compute it"
        raise _UnmappedError(message)
    sql, how = _SIMILARITY[metric]
    return sql(*_operands(grader, taken)), f"{metric} is computed {how}"


def _operands(grader: Mapping[str, Any], taken: Collection[str]) -> tuple[str, str]:
    return _operand(grader.get("input"), taken), _operand(grader.get("reference"), taken)


def _operand(text: object, taken: Collection[str]) -> str:
    """A template of a grader as SQL."""
    if not isinstance(text, str):
        message = "an operand is not text"
        raise _UnmappedError(message)
    parts = list(_parts(text, taken))
    return parts[0] if len(parts) == 1 else f"concat({', '.join(parts)})"


def _parts(text: str, taken: Collection[str]) -> Iterator[str]:
    at, some = 0, False
    for found in _REFERENCE.finditer(text):
        if found.start() > at:
            yield _quoted(text[at : found.start()])
        yield _reference(found[1], taken)
        at, some = found.end(), True
    if at < len(text) or not some:
        yield _quoted(text[at:])


def _reference(path: str, taken: Collection[str]) -> str:
    """``item.a.b`` or ``sample.output_text`` as SQL."""
    found = _PATH.fullmatch(path)
    if found is None:
        message = f"{{{{{path}}}}} has no counterpart"
        raise _UnmappedError(message)
    first, *rest = found[2][1:].split(".")
    if found[1] == "item":
        name = first if first.lower() not in taken else f"input_{first}"
        column = '"' + name.replace('"', '""') + '"'
    elif first in ("output_text", "output_json"):
        column = "content"
        if first == "output_text" and rest:
            message = f"{{{{{path}}}}} has no counterpart"
            raise _UnmappedError(message)
    else:
        message = f"{{{{{path}}}}} has no counterpart"
        raise _UnmappedError(message)
    if not rest:
        return f"CAST({column} AS VARCHAR)" if found[1] == "item" else column
    return f"TRY(json_extract_string({column}, {_quoted('$.' + '.'.join(rest))}))"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# The config


def _config(request: Mapping[str, Any], scores: Mapping[str, str]) -> str:
    lines = [
        SCHEMA_LINE,
        "# Made by `batchrun init eval --from-openai-evals`.",
        "",
        "[input]",
        f"files = [{toml_value(ROWS)}]",
        "",
        "[output]",
        'dir = "run-1"',
        "",
        "[request]",
        *(f"{key} = {toml_value(value)}" for key, value in request.items() if key != "messages"),
    ]
    for message in request.get("messages", ()):
        lines += ["", "[[request.messages]]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in message.items()]
    lines += [
        "",
        "# [[endpoint]]",
        '# provider = "openai"    # the key is taken from OPENAI_API_KEY',
    ]
    if scores:
        lines += ["", "[scores]"]
        lines += [f"{toml_key(name)} = {toml_value(sql)}" for name, sql in scores.items()]
        lines += ["", "[metrics]"]
        lines += [f"{toml_key(name)} = {toml_value(f'avg({_column(name)})')}" for name in scores]
        lines += ["", "# [gates]"]
        lines += [f'# {toml_key(name)} = ">= 0.80"' for name in scores]
    return "\n".join(lines) + "\n"


def _column(name: str) -> str:
    plain = name.isascii() and name.isidentifier() and name not in _RESERVED
    return name if plain else f'"{name}"'
