"""A dict of a program as one line of JSON, so that it goes the way of a JSON Lines row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from batchrun.core.parameters import ENVELOPE, SENT

BAD = b"!"
"""What a line begins with that is no JSON but says why the row cannot be written."""

_SENT = SENT | ENVELOPE | {"extra_body"}


def _foreign(value: Any) -> Any:
    """NumPy's scalars and arrays, which know how to become Python's. Raises ``TypeError``."""
    for name in ("tolist", "item"):
        if callable(convert := getattr(value, name, None)):
            plain = convert()
            if not _finite(plain):
                message = "it holds NaN or an infinity"
                raise TypeError(message)
            return plain
    message = f"a {type(value).__name__} has no JSON"
    raise TypeError(message)


_encode = msgspec.json.Encoder(enc_hook=_foreign).encode


def as_json(row: object) -> bytes:
    """The row as JSON, or ``BAD`` and a sentence. Never raises.

    A NaN or an infinity as the value of a carried column is how programs say that there is none:
    it becomes null. Anywhere else it cannot be sent.
    """
    if not isinstance(row, Mapping):
        return BAD + f"the row is a {type(row).__name__}, not a dict".encode()
    fields = {
        key: None if isinstance(value, float) and not _finite(value) and key not in _SENT else value
        for key, value in row.items()
    }
    try:
        odd = next((key for key, value in fields.items() if not _finite(value)), None)
        if odd is not None:
            text = f"`{odd}` holds NaN or an infinity, which JSON cannot hold"
            return BAD + text.encode(errors="replace")
        return _encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return BAD + f"the row cannot be written as JSON: {error}".encode(errors="replace")


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_finite(item) for item in value)
    return True
