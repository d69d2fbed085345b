"""Arrow values as templates show them.

Dates and times become ISO 8601 text, decimals their digits, a narrow float the shortest number that
represents it, a map an object. Bytes stay bytes. A value that Python cannot represent is replaced
by a ``RowError``, so that only a row that shows it is a bad row.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa

from batchrun.errors import RowError


def template_values(column: pa.Array) -> list[Any]:
    """A column's values for templates, in order."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return template_values(column.dictionary_decode())
    if _as_it_is(kind):
        values: list[Any] = column.to_pylist()
        return values
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return [None if text is None else float(text) for text in column.cast("string").to_pylist()]
    if _has_nanoseconds(kind):
        return _nanoseconds(column)
    try:
        return [_plain(value) for value in column.to_pylist()]
    except (ValueError, OverflowError, pa.ArrowException):
        return [_alone(column[place]) for place in range(len(column))]


def number(column: pa.Array) -> pa.Array:
    """A column that is sent as JSON, where decimals become numbers."""
    kind = column.type
    if not pa.types.is_decimal(kind):
        return column
    if kind.scale == 0:
        with contextlib.suppress(pa.ArrowException):
            return column.cast(pa.int64())
    return column.cast(pa.float64())


def example(kind: pa.DataType) -> Any:
    """An example value of a type, which shows the keys it has; None if that is not known."""
    if pa.types.is_struct(kind):
        return {field.name: example(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [example(kind.value_type)]
    if pa.types.is_map(kind) or pa.types.is_dictionary(kind) or pa.types.is_null(kind):
        return None
    if pa.types.is_boolean(kind):
        return False
    return 0 if pa.types.is_integer(kind) or pa.types.is_floating(kind) else ""


def _as_it_is(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _has_nanoseconds(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns"


def _nanoseconds(column: pa.Array) -> list[Any]:
    """Most data in nanosecond units has whole microseconds, and is shown like any other unit."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        wider = pa.timestamp("us", kind.tz)
    else:
        wider = pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")
    try:
        return template_values(column.cast(wider))
    except pa.ArrowInvalid:
        texts = column.cast("string").to_pylist()
        return [None if text is None else text.replace(" ", "T", 1) for text in texts]


def _alone(value: pa.Scalar) -> Any:
    try:
        return _plain(value.as_py())
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return RowError(f"a value of type {value.type} cannot be shown: {error}")


def _plain(value: Any) -> Any:
    match value:
        case None | str() | bool() | int() | float() | bytes():
            return value
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            if value and isinstance(value[0], tuple):  # a map
                return {str(key): _plain(item) for key, item in value}
            return [_plain(item) for item in value]
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)
