"""The JSON Schema of the config file, made from the table of settings.

Editors read it for completion and checks: Taplo and Tombi by the line ``#:schema PATH`` at the top
of a TOML file. Taplo knows draft 4 alone, Tombi later ones, so only keywords that all drafts from 4
to 2020-12 share are used, and ``$schema`` names one in the middle.

A schema cannot know everything that ``core.settings.values`` checks, such as the name of an
encoding. What it accepts may still be refused; what it refuses is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from batchrun.core.cost.price_table import USD_MAX, OwnPrice
from batchrun.core.evaluation import rules
from batchrun.core.evaluation.definitions import ERRORS
from batchrun.core.settings.parameters import SENT
from batchrun.core.settings.providers import BY_NAME as PROVIDERS
from batchrun.core.settings.table import SECTIONS, TABLE, Setting

DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_SHARE = r"[0-9]{1,3}(\.[0-9]{1,9})?%"
_SHARES: Schema = {"type": "string", "pattern": f"^{_SHARE}$"}
_SIZE = r"^\s*[0-9]{1,15}(\.[0-9]{1,9})?\s*([bB]|[kKmMgGtT]([iI]?[bB])?)?\s*$"


def config_schema() -> Schema:
    """The schema of a whole config file."""
    tables = {section: _table(section) for section in SECTIONS}
    return {
        "$schema": DRAFT,
        "title": "batchrun's config file",
        "description": "Settings of `batchrun run`. Flags and environment variables win over it.",
        **_object(tables),
    }


def _table(section: str) -> Schema:
    """The schema of one table, or of the list of tables that endpoints are."""
    settings = [setting for setting in TABLE if setting.section == section]
    if not settings[0].key:
        return _of(settings[0])
    found = _object({setting.key: _of(setting) for setting in settings})
    return {"type": "array", "minItems": 1, "items": found} if section == "endpoint" else found


def _of(setting: Setting) -> Schema:
    """The schema of one setting."""
    own = _OF_TABLES.get(setting.name)
    found = _OF_KINDS[setting.kind](setting) if own is None else own()
    found = {"description": setting.help, **found}
    if setting.default not in (None, (), {}):
        found["default"] = setting.default
    return found


def _object(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    """A table with these keys and no others."""
    needed = list(required)
    return {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _map(values: Schema) -> Schema:
    """A table whose keys are the user's."""
    return {"type": "object", "additionalProperties": values}


def _number(setting: Setting) -> Schema:
    found: Schema = {"type": "number" if setting.kind == "number" else "integer"}
    found["minimum"] = setting.low or 0
    return found if setting.high is None else found | {"maximum": setting.high}


def _parameters(_: Setting) -> Schema:
    """Known parameters are offered, others allowed."""
    known: Schema = {name: {} for name in sorted(SENT - {"messages"})}
    return {"type": "object", "properties": known, "not": {"required": ["messages"]}}


_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": _TEXT,
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
    },
    "required": ["role"],
}

_OF_KINDS: Mapping[str, Callable[[Setting], Schema]] = {
    "text": lambda _: dict(_TEXT),
    "path": lambda _: dict(_TEXT),
    "command": lambda _: dict(_TEXT),
    "delimiter": lambda _: dict(_TEXT),
    "encoding": lambda _: dict(_TEXT),
    "header_name": lambda _: {"type": "string", "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
    "webhook": lambda _: {"type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://."},
    "provider": lambda _: {"type": "string", "enum": list(PROVIDERS)},
    "choice": lambda setting: {"type": "string", "enum": list(setting.choices)},
    "bool": lambda _: {"type": "boolean"},
    "int": _number,
    "number": _number,
    "concurrency": lambda setting: {"anyOf": [{"enum": ["auto"]}, _number(setting)]},
    "bytes": lambda _: {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _SIZE}]
    },
    "share": lambda _: dict(_SHARES),
    "bound": lambda _: {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": f"^([0-9]+|{_SHARE})$"},
        ]
    },
    "paths": lambda _: {"anyOf": [_TEXT, _TEXTS]},
    "dirs": lambda _: {"anyOf": [_TEXT, _TEXTS]},
    "names": lambda _: dict(_TEXTS),
    "columns": lambda _: {"anyOf": [_TEXT, _TEXTS]},
    "models": lambda _: {"anyOf": [_TEXTS | {"minItems": 1}, _map(_TEXT) | {"minProperties": 1}]},
    "object": _parameters,
    "schema": lambda _: {"anyOf": [_TEXT, {"type": "object"}]},
    "messages": lambda _: {"type": "array", "items": _MESSAGE},
    "headers": lambda _: _map({"type": "string"}),
    "labels": lambda _: _map({"type": ["string", "number", "boolean"]}),
}


def _prices() -> Schema:
    usd: Schema = {"type": "number", "minimum": 0, "maximum": USD_MAX}
    return _map(_object(dict.fromkeys(OwnPrice._fields, usd), required=("input", "output")))


def _scores() -> Schema:
    more: Schema = {
        "errors": {"enum": list(ERRORS)},
        "timeout_s": {"type": "number", "minimum": 0},
    }
    by_sql = _object({"sql": _TEXT, "errors": more["errors"]}, required=("sql",))
    python: Schema = {"type": "string", "pattern": r"\.py:[^0-9]"}
    by_python = _object({"python": python, **more}, required=("python",))
    return _map({"anyOf": [_TEXT, by_sql, by_python]})


def _metrics() -> Schema:
    keys = {"value": _TEXT, "by": _TEXT, "cluster": _TEXT}
    return _map({"anyOf": [_TEXT, _object(keys, required=("value",))]})


def _gates() -> Schema:
    rule: Schema = {"type": "string", "pattern": r"^\s*(>=|<=|>|<|==)\s*\S"}
    shared: Schema = {
        "severity": {"enum": list(rules.SEVERITIES)},
        "on_inconclusive": {"enum": list(rules.ON_INCONCLUSIVE)},
    }
    level = _object({"rule": rule, **shared}, required=("rule",))
    # `totals.cost_usd = "<= 5"` is a table in a table to TOML.
    inner: Schema = {"anyOf": [rule, level]}
    for _ in range(2):
        inner = {"anyOf": [rule, level, _map(inner)]}
    difference = _object(
        {
            "not_worse_by": {"type": "number", "minimum": 0},
            "better": {"enum": list(rules.BETTER)},
            **shared,
        },
        required=("not_worse_by",),
    )
    compare: Schema = {
        "type": "object",
        "description": "Rules for the difference to a baseline.",
        "properties": {rules.BASELINE: _TEXT},
        "additionalProperties": difference,
    }
    return {
        "type": "object",
        "properties": {rules.COMPARE: compare},
        "additionalProperties": inner,
    }


def _judges() -> Schema:
    keys = dict.fromkeys(("config", "score", "agreement"), _TEXT)
    return _map(_object({**keys, "allow_self": {"type": "boolean"}}, required=("config",)))


_OF_TABLES: Mapping[str, Callable[[], Schema]] = {
    "prices": _prices,
    "scores": _scores,
    "metrics": _metrics,
    "gates": _gates,
    "judge": _judges,
}
"""Tables whose keys the user chooses, by the name of the setting."""
