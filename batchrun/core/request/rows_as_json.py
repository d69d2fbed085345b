"""A row of a program as one line of JSON, so that it goes the way of a JSON Lines row.

Rows are dicts. Dataclasses and Pydantic objects become dicts here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import msgspec

from batchrun.core.input.not_numbers import finite, is_finite
from batchrun.core.settings.parameters import ENVELOPE, SENT

BAD = b"!"
"""What a line begins with that is not JSON but says why the row cannot be written."""
TEXT = BAD + b"the row is a str, not a dict"
"""The line of a row that is a text."""

_SENT = SENT | ENVELOPE | {"extra_body"}


class _NotFiniteError(Exception):
    """A value of NumPy's holds NaN or an infinity."""


def _foreign(value: Any) -> Any:
    """NumPy's scalars and arrays, which know how to become Python's. Raises ``TypeError``."""
    for name in ("tolist", "item"):
        if callable(convert := getattr(value, name, None)):
            return convert()
    message = f"a {type(value).__name__} has no JSON"
    raise TypeError(message)


def _foreign_and_finite(value: Any) -> Any:
    plain = _foreign(value)
    if not is_finite(plain):
        raise _NotFiniteError
    return plain


_encode = msgspec.json.Encoder(enc_hook=_foreign_and_finite).encode


def as_json(row: object) -> bytes:
    """The row as JSON, or ``BAD`` and a sentence. Never raises.

    A NaN or an infinity in a carried column is how programs say that there is no value: it is
    null. In a column called like a parameter it stays, as ``NaN``: whoever tells the columns apart
    knows whether it is sent.
    """
    try:
        if not isinstance(row, Mapping):
            if isinstance(row, str):
                return TEXT
            given = _fields(row)
            if given is None:
                return BAD + f"the row is a {type(row).__name__}, not a dict".encode()
            row = given
        fields = {key: value if key in _SENT else finite(value) for key, value in row.items()}
        try:
            if all(is_finite(fields[key]) for key in _SENT.intersection(fields)):
                return _encode(fields)
        except _NotFiniteError:
            pass
        return _with_nan(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return BAD + f"the row cannot be written as JSON: {error}".encode(errors="replace")


def _fields(row: object) -> Mapping[str, Any] | None:
    """The fields of a dataclass or of a Pydantic object; None for anything else."""
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    dump = None if isinstance(row, type) else getattr(row, "model_dump", None)
    found = dump(mode="json") if callable(dump) else None
    return found if isinstance(found, Mapping) else None


def _with_nan(fields: Mapping[str, Any]) -> bytes:
    """The row as JSON with ``NaN`` and infinities in what may be sent."""
    plain: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=_foreign, str_keys=True)
    plain = {key: value if key in _SENT else finite(value) for key, value in plain.items()}
    return json.dumps(plain, ensure_ascii=False).encode()
