"""What a user is told to do about a bad row, and which bad rows count as alike."""

import math
import re

import pytest

from batchrun.core.request import body, remedies
from batchrun.core.request.turns import turns_of
from batchrun.core.verdict.answer_checks import Asked
from batchrun.core.verdict.rules import ERROR_CLASSES
from batchrun.errors import RowError
from batchrun.records import Row

USER = {"role": "user", "content": "hi"}


def _refusal(fields, body_bytes_max=10_000):
    """The sentence with which a row is refused."""
    parts = body.split(fields)
    row = Row(0, parts.custom_id, parts.body, parts.problem)
    with pytest.raises(RowError) as caught:
        body.build(row, {}, body_bytes_max=body_bytes_max, asked=Asked(tools=True))
    return str(caught.value)


REFUSED = {
    "no model": {"messages": [USER]},
    "neither kind": {"question": "?"},
    "extra_body": {"messages": [USER], "extra_body": 1},
    "extra_body of a body": {"body": {"model": "m", "extra_body": 1}},
    "body": {"body": "text"},
    "method": {"body": {"model": "m", "messages": [USER]}, "method": "PUT"},
    "url": {"body": {"model": "m", "messages": [USER]}, "url": "/v1/embeddings"},
    "no messages": {"model": "m", "messages": []},
    "a message": {"model": "m", "messages": ["hi"]},
    "no role": {"model": "m", "messages": [{"content": "hi"}]},
    "no content": {"model": "m", "messages": [{"role": "user"}]},
    "no tool call": {"model": "m", "messages": [{"role": "tool", "content": "4"}]},
    "NaN": {"model": "m", "messages": [USER], "temperature": math.nan},
    "a huge integer": {"model": "m", "messages": [USER], "seed": 2**70},
    "half a pair": {"model": "m", "messages": [{"role": "user", "content": "\ud83d"}]},
    "no JSON": {"model": "m", "messages": [USER], "stop": object()},
    "a schema": {
        "model": "m",
        "messages": [USER],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "int"}}},
    },
    "a tool": {
        "model": "m",
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"required": 1}}}],
    },
    "too large": {"model": "m", "messages": [{"role": "user", "content": "x" * 20_000}]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_refused_body_has_a_remedy(case):
    """Whatever ``build`` refuses, the user is told what to do about that very thing."""
    assert remedies.remedy(_refusal(REFUSED[case])) != remedies.OTHERWISE


def test_a_reason_keeps_numbers_that_are_names():
    """What differs from row to row is left out; the name of an encoding does not."""
    assert remedies.reason("5 fields where the header has 4") == "N fields where the header has N"
    assert remedies.reason("the line is not valid UTF-8") == "the line is not valid UTF-8"
    assert remedies.reason("seed is beyond 64 bits") == "seed is beyond 64 bits"


def _of_turns():
    """What is said of cells that hold no turns of a conversation."""
    for cell in ([], 7, [7], [""], [{"role": "system", "content": "s"}], [{"content": 7}]):
        with pytest.raises(RowError) as caught:
            turns_of(cell, "column")
        yield str(caught.value)


def test_the_remedies_are_of_use():
    """Every line of the table is met by a row of the cases here or by a reader's problem."""
    met = {remedies.remedy(_refusal(fields)) for fields in REFUSED.values()}
    readers = (
        "the line is 70,000,000 bytes, more than 67,108,864",
        "the JSON is nested more than 500 levels deep",
        "the line is not valid UTF-8",
        "the line is not valid cp1252",
        "the file ends inside of this element: it is cut off",
        "there is no comma before the element",
        "there is text behind the end of the array",
        "not valid JSON: Input data was truncated",
        "the line is not a JSON object",
        "5 fields where the header has 4",
        "not valid CSV: a quote that opens here is not closed",
        "the row has neither `messages` nor an OpenAI Batch line's `body`; --prompt makes messages",
        "the prompt is empty: every column that it shows is null or blank in this row",
        "cannot read 'a.png': No such file or directory",
    )
    met |= {remedies.remedy(problem) for problem in (*readers, *_of_turns())}
    assert met == {what for _, what in remedies.REMEDIES}


def test_a_strange_problem_has_a_remedy_too():
    """A sentence that the table does not know gets the general advice."""
    assert remedies.remedy("the moon is full") == remedies.OTHERWISE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("messages[0] has no `role`", "messages[12] has no `role`"),
        ("not valid JSON: invalid character (byte 6)", "not valid JSON: truncated"),
        ("the body is 1,234 bytes; at most 10 are sent", "the body is 9 bytes; at most 1 are sent"),
        ("`method` is 'PUT'; only POST can be run", '`method` is "O\'PUT"; only POST can be run'),
    ],
)
def test_like_problems_have_one_reason(one, other):
    """Places, sizes and values do not tell reasons apart."""
    assert remedies.reason(one) == remedies.reason(other)


def test_unlike_problems_have_two_reasons():
    """What is wrong does tell them apart."""
    found = {remedies.reason(_refusal(fields)) for fields in REFUSED.values()}
    assert len(found) == len(REFUSED) - 1  # extra_body comes twice


def test_every_error_class_has_advice():
    """Whatever class a row fails with, the last words say what to do; no class is invented."""
    assert set(remedies.ADVICE) == set(ERROR_CLASSES)


def test_advice_names_flags_that_there_are():
    """Every flag in the advice is one of ``run``."""
    from batchrun.cli.run import command

    known = {flag for parameter in command.params for flag in parameter.opts}
    said = {flag for text in remedies.ADVICE.values() for flag in re.findall(r"--[a-z-]+", text)}
    assert said <= known
