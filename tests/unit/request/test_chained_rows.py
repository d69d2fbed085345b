"""Rows that are answers of another run: names, hashes, and which fields templates use."""

import hashlib

import pytest

from batchrun.core.request import prompt as prompts
from batchrun.core.request.chained_rows import FIELDS, carried_names, fields_used, source_hash
from batchrun.core.settings.resolve import resolve

LEAST = {"input.from": "one", "output.dir": "two"}
CALL = {"type": "function", "id": "c1", "name": "f", "arguments": '{"b": 1, "a": 2}'}
HASHES = [
    ((None, None, None), '{"content":null,"refusal":null,"tool_calls":null}'),
    (("ü\n", None, None), '{"content":"ü\\n","refusal":null,"tool_calls":null}'),
    (("", "no", []), '{"content":"","refusal":"no","tool_calls":[]}'),
    (
        (None, None, [CALL]),
        (
            '{"content":null,"refusal":null,"tool_calls":[{"arguments":"{\\"b\\": 1, \\"a\\": 2}",'
            '"id":"c1","name":"f","type":"function"}]}'
        ),
    ),
]


@pytest.mark.parametrize(("answer", "text"), HASHES)
def test_the_hash_is_of_canonical_json(answer, text):
    """Keys sorted, no white space, UTF-8; the arguments of a call are text and stay as they are."""
    assert source_hash(*answer) == hashlib.sha256(text.encode()).hexdigest()


NAMES = [
    (["topic", "extra"], ["topic", "extra"]),
    (["source_row", "source_hash"], ["input_source_row", "input_source_hash"]),
    (["Source_Row"], ["input_Source_Row"]),
    (["input_source_row", "source_row"], ["input_source_row", "input_source_row_2"]),
]


@pytest.mark.parametrize(("names", "given"), NAMES)
def test_columns_of_earlier_steps_make_way(names, given):
    """What identifies a row is called the same in every run; no older column is lost to it."""
    assert carried_names(names) == given


USED = [
    ("{{ row.content }} {{ topic }}", {"content"}),
    ("{% if row.status == 'ok' %}{{ row.reasoning }}{% endif %}", {"status", "reasoning"}),
    ("{% for m in row.messages %}{{ m.content }}{% endfor %}", {"messages"}),
    ("{{ row.tool_calls[0].name }}", {"tool_calls"}),
    ("{{ row | tojson }}", set(FIELDS)),
    ("{% set r = row %}{{ r.content }}", set(FIELDS)),
    ("{{ row | tojson }} {{ row.messages }}", {*FIELDS, "messages"}),
    ("{{ topic }}", set()),
]


@pytest.mark.parametrize(("prompt", "used"), USED)
def test_only_fields_that_are_used_are_read(prompt, used):
    """A template's own words tell; as a whole, ``row`` has everything but the messages."""
    templates = prompts.plan(resolve({**LEAST, "request.prompt": prompt})).templates
    assert fields_used(templates.paths, templates.whole) == used
