"""What templates render, and what they refuse."""

import math

import pytest

from batchrun.core.request.template import DefectError, Templates, plain
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import RowError, UsageError


def _context(row):
    return {name: plain(value, name) for name, value in row.items() if value is not None}


def _render(source, **row):
    return Templates().text("request.prompt", source)(_context(row))


def _value(source, **row):
    return Templates().value("request.params.x", source)(_context(row))


@pytest.mark.parametrize(
    ("source", "row", "text"),
    [
        ("{{ x }}", {"x": "a {{ y }} {% if %} {# b #}"}, "a {{ y }} {% if %} {# b #}"),
        ("{{ x }}", {"x": "<b> & \"c\" 'd' 中文 🙂 \x00"}, "<b> & \"c\" 'd' 中文 🙂 \x00"),
        ("{{ x }}", {"x": 7}, "7"),
        ("{{ x }}", {"x": 2**200}, str(2**200)),
        ("{{ x }}", {"x": -(2**126)}, str(-(2**126))),
        ("{{ x }}", {"x": 1.5}, "1.5"),
        ("{{ x }}", {"x": math.nan}, "NaN"),
        ("{{ x }}{{ y }}", {"x": True, "y": False}, "TrueFalse"),
        ("{{ x }}", {"x": ["a", None, {"b": 1.5}]}, '["a",null,{"b":1.5}]'),
        ("{{ x }}", {"x": {"中": "<é>", "n": 2**140}}, f'{{"中":"<é>","n":"{2**140}"}}'),
        ("{{ x }}|", {"x": []}, "|"),
        ("{{ x | tojson }}", {"x": "<é>"}, '"<é>"'),
        ("{{ x | tojson(indent=1) }}", {"x": {"a": 1}}, '{\n "a": 1\n}'),
        ("{{ x.a.b[1] }}", {"x": {"a": {"b": [1, 2]}}}, "2"),
        ("{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}", {"x": {"b": 1}}, "b=1;"),
        ("{% for i in x %}{{ loop.index }}{{ i }}{% endfor %}", {"x": ["a", "b"]}, "1a2b"),
        ("{% raw %}{{ x }}{% endraw %}", {}, "{{ x }}"),
        ("{{ x | truncate(length=4, end='…') }}", {"x": "中文" * 9}, "中文中…"),
        ("a\n", {}, "a"),
        ("{{ 评论 }}", {"评论": "好"}, "好"),
        ("{{ range }}{{ dict }}", {"range": "r", "dict": "d"}, "rd"),
    ],
)  # fmt: skip
def test_values_render_as_text(source, row, text):
    """Data goes in as it is; numbers, booleans and nested values read as a person would expect."""
    assert _render(source, **row) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a{{ x }}b", "ab"),
        ("{{ 'a' ~ x ~ 'b' }}", "ab"),
        ("{{ x | upper }}{{ x | trim | title | replace('a', 'b') | string }}", ""),
        ("{{ x | default('d') }}{{ x or 'e' }}", "de"),
        ("{% if x %}yes{% else %}no{% endif %}", "no"),
        ("{{ x is none }} {{ x is not none }}", "True False"),
        ("{% if x > 3 %}many{% else %}few{% endif %}", "few"),
        ("{{ x[:5] }}|{{ x.title }}|{{ x.a.b }}|{{ x[0] }}", "|||"),
        ("{% for i in x %}{{ i }}{% else %}none{% endfor %}", "none"),
        ("{{ meta.note ~ '!' }}{{ meta.note.more }}", "!"),
        ("{{ [1, x, 'a'] | join(',') }}", "1,,a"),
        ("{{ tags | join('-') }}{% for t in tags %}{{ t }}{% endfor %}", "a--bab"),
    ],
)
def test_null_renders_as_nothing(source, text):
    """Null, absent or inside an object or a list, never shows as a word."""
    assert _render(source, x=None, meta={"note": None}, tags=["a", None, "b"]) == text


@pytest.mark.parametrize(
    ("source", "row", "words"),
    [
        ("a\n{{ x + 1 }}", {"x": "a"}, ["request.prompt, line 2", "string and number"]),
        ("{{ x + 1 }}", {}, ["undefined and number"]),
        ("{{ x.upper() }}", {}, ["upper"]),
        ("{{ x.items }}", {"x": {"a": 1}}, ["builtin_function_or_method", "cannot be shown"]),
        ("{{ x.image }}", {"x": {"image": b"\x89PNG"}}, ["bytes cannot be shown"]),
        ("{{ x }}", {"x": {"image": b"\x89PNG"}}, ["holds bytes"]),
        ("{{ 1 / x }}", {"x": 0}, ["1 / 0"]),
        ("{{ 'ab' * x }}", {"x": 10**12}, ["too large"]),
    ],
)
def test_what_a_row_does_not_allow_is_the_rows_problem(source, row, words):
    """A type that does not fit is a ``RowError`` naming template, line and reason."""
    with pytest.raises(RowError) as caught:
        _render(source, **row)
    for word in words:
        assert word in str(caught.value)


def test_bytes_are_refused_by_name():
    """A column of bytes cannot be shown, and it says which."""
    with pytest.raises(RowError, match="column 'photo' holds bytes"):
        plain(b"\x89PNG", "photo")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ x", ["request.prompt, line 1", "unexpected end of input"]),
        ("a\nb\n{% if %}", ["request.prompt, line 3", "unexpected end of block"]),
        ("{% for %}{% endfor %}", ["expected in"]),
        ("{% frobnicate %}", ["frobnicate"]),
        ("{# never closed", ["comment"]),
        ("{{ " + "(" * 5000 + " }}", ["not a valid template"]),
    ],
)
def test_a_template_that_does_not_compile_is_named(source, words):
    """Name, line and what is wrong, as a usage error."""
    with pytest.raises(UsageError) as caught:
        Templates().text("request.prompt", source)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["{{ x | uper }}", "{{ x is nice }}", "{{ frob(x) }}", "{% include 'a' %}", "{{ debug() }}"],
)
def test_what_no_row_can_render_is_a_defect(source):
    """An unknown filter, test, function or file is the template's fault, not the row's."""
    with pytest.raises(DefectError):
        _render(source, x="a")


@pytest.mark.parametrize(
    ("source", "row", "value"),
    [
        ("{{ x }}", {"x": 7}, 7),
        (" {{- x -}} ", {"x": 0.5}, 0.5),
        ("{{ x }}", {"x": True}, True),
        ("{{ x }}", {"x": ["a", {"b": 1}]}, ["a", {"b": 1}]),
        ("{{ x * 2 + 1 }}", {"x": 7}, 15),
        ("{{ x if x else 3 }}", {}, 3),
        ("{{ {'a': x} }}", {"x": 1}, {"a": 1}),
        ("{{ x }}", {}, None),
        ("{{ x.a.b }}", {"x": {}}, None),
        ("{{ x | escape }}", {"x": "<b>"}, "&lt;b&gt;"),
        ("{{ x }}{{ x }}", {"x": 7}, "77"),
        ("{{ x }} and {{ x }}", {"x": 7}, "7 and 7"),
        ("n {{ x }}", {"x": 7}, "n 7"),
        ("{{ '}} {{' }}", {}, "}} {{"),
        ("{% if x %}1{% endif %}", {"x": 7}, "1"),
    ],
)
def test_one_expression_keeps_its_type(source, row, value):
    """A parameter that is one expression has the value's type; all else makes text."""
    made = _value(source, **row)
    assert made == value and type(made) is type(value)


def test_a_value_that_is_no_json_is_refused():
    """What is neither text, number, list nor object does not become a parameter."""
    with pytest.raises(RowError, match="cannot be written as JSON"):
        _value("{{ x.items }}", x={"a": 1})


def test_the_texts_inside_a_value_are_templates():
    """At any depth; keys are not, constants stay, and a key that comes out as null is left out."""
    source = {
        "type": "json",
        "none": None,
        "{{ x }}": ["{{ x }}", 1, {"deep": "n{{ x }}"}],
        "gone": "{{ y }}",
        "items": ["{{ y }}"],
    }
    made = Templates().tree("request.params.p", source, typed=True)({"x": 5})
    assert made == {
        "type": "json",
        "none": None,
        "{{ x }}": [5, 1, {"deep": "n5"}],
        "items": [None],
    }


def test_the_names_that_are_looked_up_are_known():
    """Columns and keys inside them, with the template that uses them first; no locals."""
    templates = Templates()
    templates.text("request.system", "{{ a }} {{ b.c.d }}")
    templates.text(
        "request.prompt",
        "{{ a }}{% for i in e %}{{ i.f }}{% endfor %}{% set g = 1 %}{{ g }}{{ h | default(k) }}",
    )
    assert templates.paths == {
        ("a",): "request.system",
        ("b",): "request.system",
        ("b", "c", "d"): "request.system",
        ("e",): "request.prompt",
        ("h",): "request.prompt",
        ("k",): "request.prompt",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ a }}", True),
        ({"a": ["{% if a %}"]}, True),
        ("{a} }} %}", False),
        (["a", 1, None, {"{{ a }}": 2}], False),
        (0.5, False),
    ],
)
def test_template_syntax_is_found_in_values(value, expected):
    """Strings at any depth count, keys do not."""
    assert is_template(value) is expected
