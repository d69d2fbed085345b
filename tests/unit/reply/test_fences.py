"""JSON in a Markdown fence: which fences there are, and when what is in them is the answer."""

import json

import pytest

from batchrun.core.reply.fences import fenced


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        pytest.param('```json\n{"a":1}\n```', '{"a":1}', id="labelled"),
        pytest.param("```\n[1]\n```", "[1]", id="no label"),
        pytest.param("```JSON5\n[1]\n```", "[1]", id="another label"),
        pytest.param('~~~json\n{"a":1}\n~~~', '{"a":1}', id="tildes"),
        pytest.param("````json\n[1]\n````", "[1]", id="four backticks"),
        pytest.param("  ```json\n  [1]\n  ```  ", "[1]", id="indented"),
        pytest.param("```json\r\n[1]\r\n```\r\n", "[1]", id="CRLF"),
        pytest.param("\n\n```json\n\n[\n1\n]\n\n```\n", "[\n1\n]", id="blank lines"),
        pytest.param("Here it is:\n```json\n[1]\n```\nAnything else?", "[1]", id="text around"),
        pytest.param("Here it is: ```json\n[1]\n```", "[1]", id="behind a text"),
        pytest.param("```json\n[1]", "[1]", id="never closed"),
        pytest.param("```json\n[1]```", "[1]", id="closed on the last line"),
        pytest.param("```json [1] ```", "[1]", id="on one line"),
        pytest.param("```[1]```", "[1]", id="on one line, no label"),
        pytest.param("```true```", "true", id="a word that is no label"),
        pytest.param('```json {"a":\n1}\n```', '{"a":\n1}', id="begun on the first line"),
        pytest.param('```json\n{"a":"```"}\n```', '{"a":"```"}', id="backticks in a text"),
        pytest.param("```py\nx = 1\n```\n```json\n[1]\n```", "[1]", id="the only one of JSON"),
    ],
)
def test_the_json_in_a_fence(text, inside):
    """In the ways of CommonMark, and in those of models."""
    assert fenced(text, _is_json) == inside


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"a":"```json"}',
        "```json\n[1\n```",
        "```json\n```",
        "```",
        "`[1]`",
        "see ```[1]``` there",
        "```json\n[1]\n```\n```json\n[2]\n```",
        "```json\n[1]\n[2]\n```",
    ],
)
def test_what_is_no_json_in_a_fence(text):
    """No fence, no JSON in it, or several: which is the answer would be a guess."""
    assert fenced(text, _is_json) is None
