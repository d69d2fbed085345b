"""A dict of a program as a line of JSON."""

import datetime as dt
import json
import math
from types import MappingProxyType

import numpy as np
import pytest

from batchrun.core.rows_as_json import BAD, as_json


@pytest.mark.parametrize(
    ("row", "seen"),
    [
        ({"a": 1, "b": "\u4f60"}, {"a": 1, "b": "\u4f60"}),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        ({"a": np.int64(3), "b": np.float32(0.5)}, {"a": 3, "b": 0.5}),
        ({"a": np.array([[1, 2], [3, 4]])}, {"a": [[1, 2], [3, 4]]}),
        ({"score": math.nan, "other": np.float64("inf")}, {"score": None, "other": None}),
        ({"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}, {"at": "2026-01-02T00:00:00Z"}),
        ({1: "number"}, {"1": "number"}),
    ],
)
def test_values_become_json(row, seen):
    """Python's and NumPy's values are written; NaN of a carried column is null."""
    assert json.loads(as_json(row)) == seen


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (["messages"], "a list, not a dict"),
        (None, "a NoneType, not a dict"),
        ({"temperature": math.nan, "messages": []}, "`temperature` holds NaN"),
        ({"messages": [{"role": "user", "content": math.inf}]}, "`messages` holds NaN"),
        ({"data": {"deep": [math.nan]}}, "`data` holds NaN"),
        ({"data": np.array([1.0, math.nan])}, "NaN"),
        ({"a": object()}, "cannot be written as JSON"),
        ({"a": "\ud83d"}, "cannot be written as JSON"),
        ({None: 1}, "cannot be written as JSON"),
    ],
)
def test_what_is_no_json_says_why(row, why):
    """A row that cannot be written is a bad row with a reason, not an exception."""
    found = as_json(row)
    assert found.startswith(BAD)
    assert why in found.decode()


def test_a_dict_that_holds_itself_is_bad():
    """Endless nesting is refused like any other."""
    row = {}
    row["me"] = row
    assert as_json(row).startswith(BAD)
