"""Tool calls out of fragments, in all the ways that servers cut them."""

import json

import pytest

from batchrun.core.stream.tool_deltas import CHECKS_MAX, ToolCalls


def _fragment(index=None, key=None, name=None, args=None, kind=None):
    function = {"name": name, "arguments": args}
    given = {"index": index, "id": key, "type": kind}
    return {k: v for k, v in given.items() if v is not None} | {
        "function": {k: v for k, v in function.items() if v is not None}
    }


def _calls(*fragments):
    calls = ToolCalls()
    for fragment in fragments:
        calls.add(fragment)
    return [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in calls.values()
    ]


F = _fragment
ONE = [("a", "f", '{"x":1}')]
TWO = [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        pytest.param([F(0, "a", "f", ""), F(0, args='{"x":'), F(0, args="1}")], ONE, id="plain"),
        pytest.param([F("0", "a", "f"), F("0", args='{"x":1}')], ONE, id="index as text"),
        pytest.param([F("0", "a", "f"), F(0, args='{"x":1}')], ONE, id="index as text at first"),
        pytest.param([F(0.0, "a", "f"), F(0, args='{"x":1}')], ONE, id="index as float"),
        pytest.param([F(None, "a", "f"), F(None, args='{"x":1}')], ONE, id="no index"),
        pytest.param([F(True, "a", "f"), F("x", args='{"x":1}')], ONE, id="index is no number"),
        pytest.param([F(None, "a", "f", '{"x":1}')], ONE, id="whole, no index"),
        pytest.param(
            [F(0, "a", "f", '{"x":'), F(0, "a", "f", "1}")], ONE, id="id and name repeated"
        ),
        pytest.param([F(0, "a", "f", '{"x":'), F(0, "", "", "1}")], ONE, id="empty id and name"),
        pytest.param([F(0, None, "f", ""), F(0, "a", None, '{"x":1}')], ONE, id="late id"),
        pytest.param([F(None, "a", "f", '{"x":'), F(0, "a", None, "1}")], ONE, id="late index"),
        pytest.param(
            [F(0, "a", "f"), F(1, "b", "g"), F(0, args='{"x":1}'), F(1, args='{"y":2}')],
            TWO,
            id="interleaved",
        ),
        pytest.param(
            [F(1, "b", "g", '{"y":2}'), F(0, "a", "f", '{"x":1}')], TWO, id="second index first"
        ),
        pytest.param(
            [F(0, "a", "f", '{"x":1}'), F(0, "b", "g", '{"y":2}')], TWO, id="one index for two"
        ),
        pytest.param(
            [F(0, "a", "f"), F(0, args='{"x":1}'), F(0, "b", "g"), F(0, args='{"y":2}')],
            TWO,
            id="one index for two, in fragments",
        ),
        pytest.param(
            [F(0, "a", "f"), F(0, "b", "g"), F(0, "a", args='{"x":1}'), F(0, "b", args='{"y":2}')],
            TWO,
            id="one index, ids repeated, interleaved",
        ),
        pytest.param(
            [F(None, "a", "f"), F(None, args='{"x":1}'), F(None, "b", "g", '{"y":2}')],
            TWO,
            id="no index, two calls",
        ),
        pytest.param(
            [F(0, "a", "f", '{"x":1}'), F(1, "a", "g", '{"y":2}')],
            [("a", "f", '{"x":1}'), ("a", "g", '{"y":2}')],
            id="one id for two",
        ),
        pytest.param(
            [F(None, None, "f", '{"x":1}'), F(None, None, "g", '{"y":2}')],
            [(None, "f", '{"x":1}'), (None, "g", '{"y":2}')],
            id="whole calls without id or index",
        ),
        pytest.param(
            [F(0, "null", "f", '{"x":1}'), F(0, "null", "f", '{"x":2}')],
            [("null", "f", '{"x":1}'), ("null", "f", '{"x":2}')],
            id="the id null twice, one index",
        ),
        pytest.param(
            [F(0, "null", "f", '{"x":'), F(0, "null", "f", "1}")],
            [("null", "f", '{"x":1}')],
            id="the id null and the name repeated",
        ),
        pytest.param([F(0, "a", "f", {"x": 1})], [("a", "f", {"x": 1})], id="arguments as object"),
        pytest.param(
            [F(0, "a", "f", {}), F(0, args='{"x":1}')], ONE, id="an empty object, then text"
        ),
        pytest.param([F(0, "a", "f")], [("a", "f", None)], id="no arguments"),
        pytest.param([F(0, "a", "f", "")], [("a", "f", "")], id="empty arguments"),
        pytest.param([F(0, "a", "f", '{"x'), F(0)], [("a", "f", '{"x')], id="broken off"),
    ],
)
def test_fragments_become_the_calls_that_were_meant(fragments, expected):
    """An id decides first, then the index, then which call was opened last."""
    assert _calls(*fragments) == expected


def test_custom_tools():
    """A custom tool has input in place of arguments."""
    calls = ToolCalls()
    calls.add({"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "sel"}})
    calls.add({"index": 0, "custom": {"input": "ect"}})
    assert calls.values() == [
        {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select"}}
    ]


@pytest.mark.parametrize("function", [None, "f", [], 7])
def test_a_fragment_of_anything(function):
    """A function that is none opens a call without a name."""
    calls = ToolCalls()
    calls.add({"id": 5, "index": [], "type": {}, "function": function})
    assert calls.values() == [
        {"id": None, "type": None, "function": {"name": None, "arguments": None}}
    ]


def test_whether_a_call_is_whole_is_not_asked_forever():
    """A server that repeats the name in every fragment does not make the work quadratic."""
    text = json.dumps({"x": "}" * 200})
    calls = ToolCalls()
    for character in text:
        calls.add(_fragment(0, None, "f", character))
    assert [call["function"]["arguments"] for call in calls.values()] == [text]
    assert calls._calls[0].checks == CHECKS_MAX
