"""A dict of a program as a line of JSON."""

import datetime as dt
import json
import math
import re
from types import MappingProxyType

import numpy as np
import pytest

from batchrun.core.input.not_numbers import is_finite, nulled
from batchrun.core.request.rows_as_json import BAD, as_json
from batchrun.core.settings.parameters import SENT


@pytest.mark.parametrize(
    ("row", "seen"),
    [
        ({"a": 1, "b": "\u4f60"}, {"a": 1, "b": "\u4f60"}),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        ({"a": np.int64(3), "b": np.float32(0.5)}, {"a": 3, "b": 0.5}),
        ({"a": np.array([[1, 2], [3, 4]])}, {"a": [[1, 2], [3, 4]]}),
        ({"score": math.nan, "other": np.float64("inf")}, {"score": None, "other": None}),
        ({"deep": {"in": [math.nan, (-math.inf, 1)]}}, {"deep": {"in": [None, [None, 1]]}}),
        ({"a": np.array([1.0, math.nan]), "b": np.float32("inf")}, {"a": [1.0, None], "b": None}),
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


@pytest.mark.parametrize(
    "row",
    [
        {"temperature": math.nan, "messages": []},
        {"messages": [{"role": "user", "content": math.inf}]},
        {"logit_bias": np.array([1.0, math.nan]), "score": math.nan},
        {"seed": np.float32("nan"), "at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)},
    ],
)
def test_what_may_be_sent_keeps_its_nan(row):
    """Whoever tells what is sent finds the NaN there; in the other columns it is null."""
    line = as_json(row)
    assert re.search(rb"NaN|Infinity", line)
    assert {key for key, value in json.loads(line).items() if not is_finite(value)} <= SENT
    assert is_finite(json.loads(nulled(line)))


def test_a_dict_that_holds_itself_is_bad():
    """Endless nesting is refused like any other."""
    row = {}
    row["me"] = row
    assert as_json(row).startswith(BAD)
