"""Conversations: from a cell to turns, from a row to requests, from an answer to what goes back."""

import hashlib
import json
from functools import partial

import pytest

from batchrun.core.request import body
from batchrun.core.request.conversation import (
    OpenConversation,
    Wording,
    answer_of,
    summed,
    whole,
)
from batchrun.core.request.turns import turns_of
from batchrun.errors import RowError, UnboundedError
from batchrun.records import Choice, Expected, Row, ToolCall, Turn, Usage

BUILD = partial(body.build, defaults={"model": "m"}, body_bytes_max=10_000)
WORDING = Wording(10_000)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


def _user(content):
    return {"role": "user", "content": content}


PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        (["a", "b"], [_user("a"), _user("b")]),
        ('["a", "b"]', [_user("a"), _user("b")]),
        (' [{"content": "a"}] ', [_user("a")]),
        ([{"role": "user", "content": PARTS}], [_user(PARTS)]),
        ([{"role": None, "content": "a", "name": None}], [_user("a")]),
        ([{"content": "a", "name": "Ada"}], [_user("a") | {"name": "Ada"}]),
        (("a",), [_user("a")]),
    ],
)
def test_cells_that_hold_turns(cell, turns):
    """Lists of texts and of messages, and the JSON text of one."""
    assert turns_of(cell, "t") == turns


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (None, "holds no turns"),
        ([], "holds no turns"),
        ("  ", "holds no turns"),
        ("[]", "holds no turns"),
        ("null", "holds no turns"),
        ("a", "not a JSON list"),
        ("[" * 2000, "nested more than"),
        (float("nan"), "a gap (NaN)"),
        (True, "holds true"),
        ({"a": 1}, "holds an object"),
        (["a", ""], "t[1] is blank"),
        (["a", ["b"]], "t[1] is a list"),
        ([{"role": "system", "content": "a"}], "t[0] has role 'system'"),
        ([{"content": 5}], "t[0] has a number"),
        ([{"content": []}], "t[0] is blank"),
    ],
)
def test_cells_that_hold_none(cell, says):
    """What is wrong is said with the column and the place."""
    with pytest.raises(RowError) as caught:
        turns_of(cell, "t")
    assert says in str(caught.value) and "t" in str(caught.value)


def _row(turns, **fields):
    return Row(3, "id", {"turns": turns, **fields})


def _whole(*texts, **fields):
    return whole(
        _row([_user(text) for text in texts], **fields), of_turn=BUILD, body_bytes_max=10_000
    )


def test_the_whole_is_hashed_and_the_first_turn_sent():
    """Messages in front and all turns are in the hash; a turn's request has the answers so far,
    the same hash, and its own number of tokens.
    """
    request = _whole("a", "b", messages=[{"role": "system", "content": "s"}], temperature=0)
    assert json.loads(request.body)["turns"] == [_user("a"), _user("b")]
    assert request.hash == hashlib.sha256(request.body).hexdigest()
    talk, wording = OpenConversation.of(request), WORDING
    talk.ask()
    first = wording.request(talk)
    assert first == wording.first(request)
    assert json.loads(first.body) == {
        "messages": [{"role": "system", "content": "s"}, _user("a")],
        "model": "m",
        "temperature": 0,
    }
    assert not talk.is_last
    talk.take({"role": "assistant", "content": "x" * 400}, Usage(1, 2, 3), 7)
    talk.ask()
    second = wording.request(talk)
    assert [m["content"] for m in json.loads(second.body)["messages"]] == ["s", "a", "x" * 400, "b"]
    assert talk.is_last and first.hash == second.hash == request.hash
    assert second.tokens > first.tokens + 100
    assert (
        first.body
        == BUILD(
            Row(
                3,
                "id",
                {"messages": [{"role": "system", "content": "s"}, _user("a")], "temperature": 0},
            )
        ).body
    )


def test_every_turn_is_in_the_hash():
    """Another last turn is another conversation, and so is another order."""
    assert len({_whole("a", "b").hash, _whole("a", "c").hash, _whole("b", "a").hash}) == 3
    assert _whole("a").hash != BUILD(Row(3, "id", {"messages": [_user("a")]})).hash


def test_rows_that_are_none():
    """A row's own problem comes first; messages that are no list are said to be none."""
    with pytest.raises(RowError, match="broken"):
        whole(Row(3, "id", None, "broken"), of_turn=BUILD, body_bytes_max=10_000)
    with pytest.raises(RowError, match="`messages` must be a list"):
        _whole("a", messages="hello")
    with pytest.raises(RowError, match="surrogate"):
        _whole("a", "\ud800")
    with pytest.raises(RowError, match=r"at most 10,000"):
        whole(_row([_user("a"), _user("b" * 20_000)]), of_turn=BUILD, body_bytes_max=10_000)


def test_the_schema_of_the_run_waits_for_the_last_turn():
    """Its ``response_format`` is sent, and the answer held against it, with the last turn alone;
    tools are checked with each.
    """
    expected = Expected(json=True, schema=b"{}", tools={"f": None})
    request = _whole("a", "b", response_format=SCHEMA)._replace(expected=expected)
    talk, wording = OpenConversation.of(request), Wording(10_000, SCHEMA)
    talk.ask()
    first = wording.request(talk)
    assert "response_format" not in json.loads(first.body)
    assert first.expected == Expected(tools={"f": None})
    talk.take({"role": "assistant", "content": "x"}, Usage(), None)
    talk.ask()
    assert json.loads(wording.request(talk).body)["response_format"] == SCHEMA
    assert wording.request(talk).expected == expected
    own = _whole("a", "b", response_format={"type": "json_object"})
    assert "response_format" in json.loads(Wording(10_000, SCHEMA).first(own).body)


def test_the_worst_case_is_that_of_the_turn():
    """It grows with what was said; without a limit of the answer there is none."""
    talk = OpenConversation.of(_whole("a", "b", max_tokens=5))
    wording = Wording(10_000, bounded=True)
    talk.ask()
    first = wording.request(talk).worst
    talk.take({"role": "assistant", "content": "x" * 1000}, Usage(), None)
    talk.ask()
    second = wording.request(talk).worst
    assert second.input_tokens > first.input_tokens + 1000
    assert second.output_tokens == first.output_tokens == 5
    with pytest.raises(UnboundedError):
        wording.first(_whole("a"))


def test_every_turn_before_there_are_answers():
    """What an estimate counts: a request for each turn, with the turns up to it."""
    asked = list(WORDING.without_answers(_whole("a", "b", "c")))
    said = [[m["content"] for m in json.loads(one.body)["messages"]] for one in asked]
    assert said == [["a"], ["a", "b"], ["a", "b", "c"]]


CALL = ToolCall("1", "function", "f", '{"x": 1}')


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": "hi", "reasoning": "hm"}, {"content": "hi"}),
        ({"refusal": "no"}, {"content": "no"}),
        ({}, {"content": ""}),
        ({"content": "hi", "tool_calls": ()}, {"content": "hi"}),
        (
            {"tool_calls": (CALL,)},
            {
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"x": 1}'},
                    }
                ],
            },
        ),
        (
            {"tool_calls": (ToolCall(None, "custom", "g", "text"),)},
            {
                "content": None,
                "tool_calls": [{"type": "custom", "custom": {"name": "g", "input": "text"}}],
            },
        ),
    ],
)
def test_what_goes_back_of_an_answer(fields, message):
    """Text and tool calls as they came, a refusal as text, no reasoning."""
    empty = dict.fromkeys(Choice._fields) | {"index": 0}
    assert answer_of(Choice(**(empty | fields))) == {"role": "assistant"} | message


def _turn(number, digest, text):
    said = json.dumps({"role": "assistant", "content": text}).encode()
    return Turn(3, number, digest, said, Usage(1, None, 1), 5)


def test_turns_of_an_earlier_session():
    """Those of the same conversation are taken in their order, up to the first that is missing, and
    never the last; others begin anew.
    """
    request = _whole("a", "b", "c")
    cases = [
        ([_turn(1, request.hash, "x"), _turn(2, request.hash, "y")], 2),
        ([_turn(1, request.hash, "x"), _turn(3, request.hash, "z")], 1),
        ([_turn(2, request.hash, "y")], 0),
        ([_turn(1, "0" * 64, "x")], 0),
        ([_turn(n, request.hash, "x") for n in (1, 2, 3)], 2),
        ([], 0),
    ]
    for durable, answered in cases:
        talk = OpenConversation.of(request)
        talk.resume(durable)
        assert talk.answered == answered
        assert len(talk.messages) == 2 * answered
        assert talk.cost_pd == (5 * answered or None)


def test_sums_of_what_was_reported():
    """Each count over the answers that have it; none where no answer does."""
    assert summed([Usage(1, 2, 3), Usage(10, None, None)]) == Usage(11, 2, 3)
    assert summed([]) == Usage() == summed([Usage(), Usage()])
