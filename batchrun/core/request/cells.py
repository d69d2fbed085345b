"""Cells of a table become the values of a request: columns named like parameters hold JSON.

A table has one type a column, so lists and objects come as JSON text; a CSV file has text alone,
so numbers and booleans do too.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping, Sequence

import msgspec

from batchrun.core.request.body import TOO_DEEP, nested_too_deeply
from batchrun.core.settings import parameters

_KNOWN = parameters.SENT | parameters.ENVELOPE

_decode = msgspec.json.Decoder().decode
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NOT_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_BOOLEANS = {"true": True, "false": False}


def sent_columns(names: Sequence[str], data: Collection[str] = ()) -> frozenset[str]:
    """Which columns of a table shape its requests by the first two reading rules; every other one
    is data, and so are those named in ``data``, whatever they are called.
    """
    batch_lines = "body" in names and "messages" not in names and "body" not in data
    sent = parameters.ENVELOPE if batch_lines else parameters.SENT | {"custom_id", "extra_body"}
    return frozenset(sent.intersection(names).difference(data))


def typed(name: str, value: object) -> object:
    """A parameter's value as JSON has it, from a column with a type; None for a gap: a null, or a
    NaN among whole numbers. Raises ``ValueError``.
    """
    if parameters.is_missing(name, value):
        return None
    if name in parameters.HOLDING and isinstance(value, Mapping):
        value = parameters.without_gaps(value)
    try:
        return _structured(name, value) if isinstance(value, str) else _without_nulls(value)
    except ValueError as error:
        message = f"column {name!r} {error}"
        raise ValueError(message) from None


def text(name: str, cell: str) -> object:
    """A parameter's value as JSON has it, from text; None for an empty cell, and for NaN where a
    whole number belongs. Numbers and booleans
    are such unless the parameter is text by nature. Raises ``ValueError``.
    """
    if not cell:
        return None
    if name in parameters.TEXTS or name in parameters.ENVELOPE - {"body"}:
        return cell
    value = typed(name, cell)
    if value is not cell or name in parameters.MAYBE_STRUCTURED:
        return value
    bare = cell.strip()
    if name in parameters.INTEGERS and bare.lower() == "nan":
        return None
    if _NUMBER.fullmatch(bare):
        return _number(name, bare)
    if _NOT_NUMBER.fullmatch(bare):
        message = f"column {name!r} holds {bare}, which JSON cannot hold"
        raise ValueError(message)
    return _BOOLEANS.get(bare.lower(), cell)


def of_folder(name: str, cell: str | None) -> object:
    """What a folder ``name=cell`` says where its column is sent: as ``text`` has it, and the text
    itself where that is no value of the parameter.
    """
    if cell is None:
        return None
    try:
        return text(name, cell)
    except ValueError:
        return cell


def _number(name: str, bare: str) -> object:
    try:
        return _decode(bare)
    except msgspec.MsgspecError:
        message = f"column {name!r} holds {bare[:40]}, a number that JSON readers cannot hold"
        raise ValueError(message) from None


def _structured(name: str, value: str) -> object:
    if name in parameters.STRUCTURED or name == "body":
        return _parsed(value)
    if value.lstrip()[:1] not in ("{", "["):
        return value
    if name in parameters.MAYBE_STRUCTURED:
        return _parsed(value)
    if name not in _KNOWN:
        # --send named it, and nobody here knows its type: text that is JSON is taken as such.
        with contextlib.suppress(ValueError):
            return _parsed(value)
    return value


def _parsed(value: str) -> object:
    if nested_too_deeply(value.encode()):
        message = TOO_DEEP
        raise ValueError(message)
    try:
        return _decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        message = f"is not valid JSON: {error}"
        raise ValueError(message) from None


def _without_nulls(value: object) -> object:
    """Nested Arrow values name every field in every row: absent ones come as nulls and are not
    sent.
    """
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        message = f"holds {value}, which JSON cannot hold"
        raise ValueError(message)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    message = f"holds a {type(value).__name__}, which JSON cannot hold"
    raise ValueError(message)
