"""Whatever data and templates hold: nothing crashes, and data is never run as a template."""

import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.adapters.sources import arrow_as_text, opening
from batchrun.adapters.sources.reader import choose
from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.request.template import Templates, plain
from batchrun.core.settings import resolve as config
from batchrun.core.settings.parameters import SENT
from batchrun.errors import BatchrunError, RowError, UsageError
from batchrun.records import Position, Row, Span
from tests.harness.slow import examples

SYNTAX = st.sampled_from(
    ["{{", "}}", "{%", "%}", "{#", "#}", "{{ a }}", "{{ 7 * 7 }}", "{% raw %}", "{% endraw %}", "-"]
)
TEXT = st.lists(st.text(max_size=6) | SYNTAX, max_size=5).map("".join)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**140)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    "a b a.k a[0] a['k'] none true 1 2.5 'x' + - * / // % ** ~ | == != < > and or not in is if "
    "else upper length default(1) join(',') tojson sum first items() range(3) ( ) [ ] { } : , . "
    "for i in a endfor set endset macro f(x) endmacro call endcall include import extends block "
    "filter autoescape raw endraw with endwith defined string".split(" ")
)
EXPRESSIONS = st.lists(WORDS, max_size=7).map(" ".join)
TEMPLATES = st.lists(
    EXPRESSIONS.map("{{{{ {} }}}}".format) | EXPRESSIONS.map("{{% {} %}}".format) | TEXT, max_size=4
).map("".join)


def _plan(**request):
    raw = {f"request.{key}": value for key, value in request.items()}
    return prompts.plan(config.resolve({"input.files": ["f"], "output.dir": "d"} | raw))


def _no_file(path):
    message = f"cannot read {path!r}"
    raise RowError(message)


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None)
@given(TEXT, TEXT)
@example("{{ a }}", "{% include 'x' %}")
def test_text_is_rendered_verbatim(a, b):
    """What a row holds stands in the prompt as it is, between what the template says."""
    shaper = _plan(prompt="<{{ a }}|{{ b }}>").shaper([{"a": "", "b": ""}], _no_file)
    made = shaper({"a": a, "b": b})
    assert made.body == {"messages": [{"role": "user", "content": f"<{a}|{b}>"}]}


@settings(max_examples=examples(150), deadline=None)
@given(JSON)
def test_any_value_renders(value):
    """Nested values come back from the JSON they render as, without what was null in objects."""
    text = Templates().text("t", "<{{ a }}>")({} if value is None else {"a": plain(value, "a")})
    if isinstance(value, str):
        assert text == f"<{value}>"
    elif isinstance(value, (dict, list)) and value:
        assert json.loads(text[1:-1]) == plain(value, "a")
    elif value in (None, [], {}):
        assert text in ("<>", "<{}>")


@pytest.mark.slow
@settings(max_examples=examples(250), deadline=None)
@given(TEMPLATES, st.fixed_dictionaries({}, optional={"a": JSON, "b": JSON}))
def test_any_template_compiles_or_is_a_usage_error(source, row):
    """And what compiles renders any row as text, or refuses it by name."""
    try:
        render = Templates().text("request.prompt", source)
        value = Templates().value("request.params.x", source)
    except UsageError as error:
        assert "request." in str(error)  # noqa: PT017 - one of two good ends
        return
    context = {name: plain(item, name) for name, item in row.items() if item is not None}
    for make in (render, value):
        try:
            made = make(context)
        except BatchrunError as error:
            assert str(error).startswith("request.")  # noqa: PT017 - likewise
        else:
            json.dumps(made)
            assert make is value or isinstance(made, str)


COLUMNS = st.sampled_from(
    ["a", "b", "messages", "body", "custom_id", "extra_body", "model", "photo"]
)
ROWS = st.dictionaries(COLUMNS | st.sampled_from(sorted(SENT)), JSON, max_size=5)


@settings(max_examples=examples(150), deadline=None)
@given(ROWS)
def test_any_row_is_shaped(row):
    """A row is a request, a row error, or has a problem; no field of it is lost on the way."""
    plan = _plan(
        prompt="{{ a }} {{ model }}", params={"seed": "{{ b }}"}, image=["photo"], file=["b"]
    )
    shaper = plan.shaper([dict.fromkeys(("a", "b", "model", "photo"))], _no_file)
    made = shaper(row)
    assert (made.body is None) == (made.problem is not None)
    built = Row(0, made.custom_id, made.body, made.problem)
    try:
        body.build(built, {"model": "m"}, body_bytes_max=1_000_000)
    except RowError as error:
        assert str(error)  # noqa: PT017 - one of two good ends
    for key in row.keys() - {"custom_id", "extra_body", "body"}:
        apart = made.carried if made.body is None else made.body | made.carried
        assert made.body is None or key in apart or row[key] is None


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that every example writes anew."""
    return tmp_path_factory.mktemp("rows") / "rows.jsonl"


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"a": JSON}, optional={"b": JSON}), min_size=1, max_size=6)
)
def test_any_file_is_read_through_a_template(path, rows):
    """From the file to the rows: each is there, and its text is in its prompt."""
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    given_input = opening.find([str(path)], "auto", _plan(prompt="<{{ a }}>"))
    schema = given_input.reader(None, 4).schema()
    reader = given_input.reader(choose(schema, "all", with_extra=True), 4)
    found = [r for b in reader.blocks([Span(0, None, Position())], limit=None) for r in b.rows]
    assert len(found) == len(rows)
    for row, read in zip(rows, found, strict=True):
        if isinstance(row["a"], str):
            assert read.body["messages"][0]["content"] == f"<{row['a']}>"
        elif read.body is None:
            assert read.problem


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.sampled_from("s ms us ns".split()),
)
def test_any_time_is_shown_or_refused(values, unit):
    """Every moment that Arrow can hold is text, or the problem of its own row."""
    column = pa.array(values, pa.int64()).view(pa.timestamp(unit))
    for value, text in zip(values, arrow_as_text.template_values(column), strict=True):
        assert (value is None) == (text is None)
        assert text is None or isinstance(text, (str, RowError))
