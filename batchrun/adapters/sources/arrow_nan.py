"""NaN and infinities in Arrow columns: null, at any depth; the types stay as they are.

A value whose type has no null (a required field inside another) stays as it is.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def are_in(kind: pa.DataType) -> bool:
    """Whether values of a type can hold a float."""
    if pa.types.is_floating(kind):
        return True
    if pa.types.is_dictionary(kind):
        return are_in(kind.value_type)
    return any(are_in(kind.field(place).type) for place in range(kind.num_fields))


def finite(column: pa.Array) -> pa.Array:
    """A column with null for every NaN and infinity in it; the same one without any."""
    kind = column.type
    if not are_in(kind):
        return column
    if pa.types.is_floating(kind):
        good = _is_finite(column)
        return column if good is None else pc.if_else(good, column, pa.scalar(None, kind))
    if pa.types.is_dictionary(kind):
        decoded = column.dictionary_decode()
        found = finite(decoded)
        return column if found is decoded else found.dictionary_encode().cast(kind)
    if pa.types.is_struct(kind):
        return _struct(column)
    if pa.types.is_map(kind):
        return _map(column)
    if pa.types.is_fixed_size_list(kind):
        there = column.cast(pa.list_(kind.value_field))
        found = finite(there)
        return column if found is there else found.cast(kind)
    return _list(column)


def _map(column: pa.Array) -> pa.Array:
    kind = column.type
    there = column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    found = finite(there)
    if found is there:
        return column
    keys, items = found.values.flatten()
    return pa.MapArray.from_arrays(found.offsets, keys, items, kind, mask=column.is_null())


def _struct(column: pa.Array) -> pa.Array:
    fields = column.flatten()
    found = [_held(values, field) for values, field in zip(fields, column.type, strict=True)]
    if all(one is other for one, other in zip(found, fields, strict=True)):
        return column
    return pa.StructArray.from_arrays(found, fields=list(column.type), mask=column.is_null())


def _list(column: pa.Array) -> pa.Array:
    values = column.flatten()
    found = _held(values, column.type.value_field)
    if found is values:
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    large = pa.types.is_large_list(column.type)
    sums = pc.cumulative_sum(lengths.cast(pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), sums])
    make = pa.LargeListArray if large else pa.ListArray
    offsets = offsets if large else offsets.cast(pa.int32())
    return make.from_arrays(offsets, found, type=column.type, mask=column.is_null())


def _held(values: pa.Array, field: pa.Field) -> pa.Array:
    """Nested values, if the type allows a null."""
    stuck = pa.types.is_floating(field.type) and not field.nullable
    return values if stuck else finite(values)


def _is_finite(column: pa.Array) -> pa.Array | None:
    """Which values are finite; None if all are."""
    wide = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
    good = pc.is_finite(wide)
    return None if pc.all(good, skip_nulls=True).as_py() is not False else good
