"""The columns that go along from JSON rows."""

import pytest

from batchrun.core.request.carried import (
    BOOL,
    COLUMNS_MAX,
    FLOAT,
    INT,
    TEXT,
    all_fit,
    fit,
    infer,
    kind_of,
    output_names,
    widen,
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, None),
        (True, BOOL),
        (0, INT),
        (2**63 - 1, INT),
        (-(2**63), INT),
        (2**63, TEXT),
        (-(2**63) - 1, TEXT),
        (0.0, FLOAT),
        ("", TEXT),
        ([], TEXT),
        ({}, TEXT),
    ],
)
def test_the_kind_of_a_value(value, kind):
    """Integers beyond 64 bits, lists and objects are text; null fits everywhere."""
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (None, None, None),
        (None, INT, INT),
        (INT, INT, INT),
        (INT, FLOAT, FLOAT),
        (BOOL, INT, TEXT),
        (BOOL, FLOAT, TEXT),
        (FLOAT, TEXT, TEXT),
        (TEXT, None, TEXT),
    ],
)
def test_kinds_widen_alike_in_either_order(one, other, both):
    """Integers widen to floats, anything else that mixes becomes text."""
    assert widen(one, other) == widen(other, one) == both


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], INT),
        ([1, None], INT),
        ([None], TEXT),
        ([1, 2.5], FLOAT),
        ([2.5, 2**53], FLOAT),
        ([2.5, 2**53 + 1], TEXT),
        ([2**53 + 1, 2], INT),
        ([True, False], BOOL),
        ([True, 1], TEXT),
        (["a", 1], TEXT),
        ([2**63], TEXT),
        ([[1], [2]], TEXT),
        ([{"a": 1}, None], TEXT),
    ],
)
def test_a_column_is_as_narrow_as_its_values_allow(values, kind):
    """The narrowest kind that holds every value exactly."""
    assert infer({"c": value} for value in values) == {"c": kind}


def test_columns_stand_in_order_of_appearance():
    """A key that shows up late stands behind those before it."""
    assert list(infer([{"b": 1, "a": 1}, {"c": 1, "a": 2}])) == ["b", "a", "c"]


def test_no_rows_are_no_columns():
    """Nothing comes from nothing."""
    assert infer([]) == {}
    assert infer([{}]) == {}


def test_data_used_as_keys_does_not_make_endless_columns():
    """Columns end at a bound; known ones go on widening behind it."""
    kinds = infer([*({f"k{i}": 1} for i in range(COLUMNS_MAX + 5)), {"k0": "text"}])
    assert len(kinds) == COLUMNS_MAX
    assert kinds["k0"] == TEXT


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [
        (INT, 5, (5, True)),
        (INT, None, (None, True)),
        (INT, 5.0, (None, False)),
        (INT, True, (None, False)),
        (INT, 2**63, (None, False)),
        (INT, "5", (None, False)),
        (FLOAT, 0.5, (0.5, True)),
        (FLOAT, 2, (2.0, True)),
        (FLOAT, 2**53, (float(2**53), True)),
        (FLOAT, 2**53 + 1, (None, False)),
        (FLOAT, True, (None, False)),
        (BOOL, True, (True, True)),
        (BOOL, 1, (None, False)),
        (TEXT, "a", ("a", True)),
        (TEXT, 5, ("5", True)),
        (TEXT, True, ("true", True)),
        (TEXT, {"b": 1, "a": [None]}, ('{"b":1,"a":[null]}', True)),
        (TEXT, 10**30, (str(10**30), True)),
    ],
)
def test_a_value_is_in_its_column_or_it_does_not_fit(kind, value, held):
    """Text columns hold everything as JSON text, the others only what they hold exactly."""
    got = fit(kind, value)
    assert got == held
    assert type(got[0]) is type(held[0])


VALUES = (None, 0, 7, -(2**63), 2**63 - 1, 2**63, 0.5, True, False, "a", "", {}, [], [None])


@pytest.mark.parametrize("kind", [BOOL, INT, FLOAT, TEXT])
def test_a_column_taken_as_it_is_holds_what_each_value_would_be(kind):
    """A column is passed over value by value only where every one of them stays what it is."""
    own = [value for value in VALUES if all_fit(kind, [value])]
    assert len(own) > 1
    assert all_fit(kind, own)
    assert all_fit(kind, [])
    for value in VALUES:
        held, fits = fit(kind, value)
        assert all_fit(kind, [*own, value]) == (fits and held is value)


def test_nested_values_of_any_depth_become_text():
    """Depth that the row's parser bore is borne here as well."""
    for depth in (1, 10, 500, 900):
        nested = []
        for _ in range(depth - 1):
            nested = [nested]
        assert fit(TEXT, nested) == ("[" * depth + "]" * depth, True)


@pytest.mark.parametrize(
    ("names", "taken", "given"),
    [
        (["a", "b"], [], ["a", "b"]),
        (["status"], ["status"], ["input_status"]),
        (["Status"], ["status"], ["input_Status"]),
        (["status"], ["status", "input_status"], ["input_status_2"]),
        (["a", "A"], [], ["a", "input_A"]),
        (["a", "A", "b"], [], ["a", "input_A", "b"]),
        (["status", "input_status"], ["status"], ["input_status", "input_input_status"]),
        (["input_status", "status"], ["status"], ["input_status", "input_status_2"]),
        (["straße", "STRASSE"], [], ["straße", "input_STRASSE"]),
        (["", " "], [], ["", " "]),
    ],
)
def test_a_taken_name_gets_a_prefix_then_a_number(names, taken, given):
    """No two columns share a name, and case does not tell them apart."""
    assert output_names(names, taken) == given
