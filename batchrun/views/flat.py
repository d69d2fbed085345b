"""Columns of any type as text that a CSV file can hold.

Numbers, booleans and dates stay as Arrow writes them, times become ISO 8601 (UTC where a zone is
known), binary values base64, and nested ones JSON.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

_FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"
_encode = msgspec.json.Encoder(enc_hook=str).encode


def flat(table: pa.Table) -> pa.Table:
    """The same table with columns that CSV can hold, in the same order and under the same names."""
    return pa.table(
        [flat_column(table.column(place)) for place in range(table.num_columns)],
        names=table.schema.names,
    )


def without_formulas(table: pa.Table) -> pa.Table:
    """The same table with an apostrophe before every text that a spreadsheet would take for a
    formula, names of columns included. Plain numbers such as ``-5`` stay.

    Spreadsheets run what begins with one of these characters (CWE-1236), and answers and input are
    written by others.
    """
    names = pa.chunked_array([pa.array(table.schema.names, pa.string())])
    return pa.table(
        [_without_formulas(column) for column in table.columns],
        names=_without_formulas(names).to_pylist(),
    )


def _without_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    begun = pc.match_substring_regex(column, _FORMULA)
    if not pc.any(begun).as_py():
        return column
    harmful = pc.and_not(begun, pc.match_substring_regex(column, _NUMBER))
    marked = pc.binary_join_element_wise(
        pa.scalar("'", column.type), column, pa.scalar("", column.type)
    )
    return pc.if_else(harmful, marked, column)


def flat_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of this type has in a flat table."""
    return flat_column(pa.chunked_array([], kind)).type


def flat_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One column of a flat table."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return flat_column(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        zone = ""
        if kind.tz is not None:
            zone = "Z"
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        return pc.strftime(column, format="%Y-%m-%dT%H:%M:%S" + zone)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    if pa.types.is_primitive(kind) and not pa.types.is_duration(kind):
        return column
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return column
    texts = [None if value is None else _json(value) for value in _values(column)]
    if not pa.types.is_nested(kind):
        # A JSON string without its quotes: base64 and durations hold nothing that is escaped.
        texts = [None if text is None else text.strip('"') for text in texts]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _json(value: object) -> str:
    return _encode(value).decode()


def _values(column: pa.ChunkedArray) -> list[object]:
    """Python values. Those of nested nanoseconds are cut to microseconds, which Python has."""
    kind = _microseconds(column.type)
    if kind != column.type:
        column = column.cast(kind, safe=False)
    return column.to_pylist()  # type: ignore[no-any-return]


def _microseconds(kind: pa.DataType) -> pa.DataType:
    """The same type with microseconds in place of nanoseconds."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_microseconds(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _microseconds(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_field.with_type(_microseconds(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    return kind
