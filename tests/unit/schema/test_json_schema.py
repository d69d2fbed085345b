"""Schemas: which are some, what does not fit them, and what none of them can do to a run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchrun.core.schema import json_schema
from batchrun.core.schema.json_schema import encoded, problem, require, shortened
from batchrun.errors import NotASchemaError

ROOT = Path(__file__).resolve().parents[3]
LINES = {
    "type": "object",
    "required": ["lines"],
    "additionalProperties": False,
    "properties": {
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "note": {"type": ["string", "null"]},
    },
    "$defs": {"line": {"type": "object", "properties": {"price": {"type": "number"}}}},
}


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        (LINES, {"lines": [{"price": 1.5}], "note": None}, None),
        (LINES, {"lines": [{}, {"price": "1"}]}, 'lines[1].price: "1" is not of type "number"'),
        (LINES, {}, '"lines" is a required property'),
        (LINES, {"lines": [], "x": 1}, "('x' was unexpected)"),
        ({"type": "integer"}, 3.0, None),
        ({"type": "integer"}, 10**30, None),
        ({"type": "integer"}, True, "is not of type"),
        ({"minLength": 2}, "\U0001f600", "is shorter than 2 characters"),
        ({"multipleOf": 0.01}, 19.99, None),
        ({"format": "email", "type": "string"}, "nobody", None),
        ({"x-vendor": {"any": 1}, "nullable": True, "type": "string"}, "a", None),
        (True, 1, None),
        (False, 1, "False schema does not allow 1"),
        ({"pattern": r"^\p{Lu}\d+$"}, "Ä7", None),
        ({"pattern": r"^(?!.*foo)[\s\S]*$"}, "bar", None),
        ({"pattern": r"^(?!.*foo)[\s\S]*$"}, "a foo", "does not match"),
        ({"const": "a"}, "\ud800", "cannot be checked"),
    ],
)
def test_where_and_why_a_value_does_not_fit(schema, value, said):
    """The place in the document and the reason, or nothing; unknown keywords are ignored."""
    found = problem(encoded(schema), value)
    assert found is None if said is None else said in found


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"prefixItems": [{"type": "integer"}], "items": False}, [1], [1, 2]),
        ({"items": [{"type": "integer"}]}, [1], ["x"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}],
          "additionalItems": False}, [None], [None, 1]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1,
          "exclusiveMinimum": True}, 2, 1),
        ({"$schema": "https://vendor.example/dialect", "type": "integer"}, 1, "1"),
        ({"definitions": {"a": {"type": "integer"}}, "$ref": "#/definitions/a"}, 1, "1"),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"a": 1}, {"b": 1}),
    ],
)  # fmt: skip
def test_a_schema_is_read_in_its_dialect(schema, good, bad):
    """2020-12 unless it says otherwise; draft 7 where it is only valid as that; an unknown dialect
    as 2020-12.
    """
    assert problem(encoded(schema), good) is None
    assert problem(encoded(schema), bad) is not None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "OBJECT"}, 'at type: "OBJECT"'),
        ({"properties": {"a": {"required": "b"}}}, "at properties.a.required"),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"pattern": "["}, 'is not a "regex"'),
        ({"pattern": "(a{1000}){1000}"}, 'is not a "regex"'),
        ([], "a list"),
        ("object", "text"),
        (7, "a number"),
    ],
)
def test_what_is_no_schema_is_told(schema, said):
    """Where in it, and what is wrong."""
    with pytest.raises(NotASchemaError) as caught:
        require(encoded(schema))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["{http}/a.json", "file://{file}", "a.json", "{http}/b.json#/x"],
)
def test_nothing_is_fetched(scripted, tmp_path, address):
    """A reference to another document is refused: no request goes out and no file is read."""
    file = tmp_path / "a.json"
    file.write_text("{}", "utf-8")
    server = scripted(lambda *_: (200, {}, b"{}"))
    reference = address.format(http=server.base_url, file=file)
    for schema in ({"$ref": reference}, {"$id": server.base_url, "items": {"$ref": reference}}):
        with pytest.raises(NotASchemaError, match="not present"):
            require(encoded(schema))
    assert server.requests == []


def _doubling(levels, keyword="allOf"):
    """Definitions that each refer to the next one twice."""
    defs = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": defs | {f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _chain(levels):
    defs = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(levels)}
    return {"$defs": defs | {f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _named(levels):
    """The same by anchors."""
    defs = [{"$anchor": f"a{n}", "anyOf": [{"$ref": f"#a{n + 1}"}] * 2} for n in range(levels)]
    return {"$defs": {str(n): d for n, d in enumerate(defs)} | {
        "end": {"$anchor": f"a{levels}"}}, "$ref": "#a0"}  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [_doubling(40), _doubling(40, "oneOf"), _named(40), _chain(100_000), _doubling(3_000)],
    ids=["doubling", "oneOf", "anchors", "chain", "long"],
)
def test_a_schema_that_multiplies_is_refused(schema):
    """It would hold the interpreter for years, or exhaust the stack; refusing takes no time."""
    begun = time.monotonic()
    with pytest.raises(NotASchemaError, match=r"multiply|chains|deep"):
        require(encoded(schema))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": "#"}, 1),
        ({"allOf": [{"$ref": "#"}]}, 1),
        (
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "$ref": "#/$defs/a",
            },
            1,
        ),
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 50 + "b"),
        ({"type": "string", "pattern": r"^(?=(a+)+$)(a+)+\1$"}, "a" * 60 + "b"),
        ({"pattern": "(x+x+)+y"}, "x" * 200_000),
        ({"pattern": "(?<!z)(x+x+)+y"}, "x" * 3_000),
        ({"items": {"$ref": "#"}}, json.loads("[" * 300 + "]" * 300)),
        (_doubling(10), "x"),
    ],
    ids=[
        "itself",
        "allOf",
        "mutual",
        "backtracking",
        "lookahead",
        "long",
        "long lookbehind",
        "deep value",
        "some doubling",
    ],
)
def test_what_is_hard_ends(schema, value):
    """Loops of references, patterns that backtrack for ever and deep values come to an end."""
    begun = time.monotonic()
    problem(encoded(schema), value)
    assert time.monotonic() - begun < 2


def test_messages_are_bounded():
    """A long value, a long enumeration, a deep path: the message stays short and says why."""
    found = problem(encoded({"enum": ["q" * 5000]}), "Z" * 100_000)
    assert len(found) <= 300 and "is not one of" in found
    keys = {"k" * 90: {"k" * 90: {"k" * 90: 1}}}
    schema = {"additionalProperties": {"additionalProperties": {"additionalProperties": False}}}
    assert len(problem(encoded(schema), keys)) <= 430
    assert shortened("x" * 500, 40) == "x" * 17 + " ... " + "x" * 17


def test_the_compiled_schemas_are_bounded():
    """However many schemas come by, a bounded number of them is kept, and so of their bytes."""
    kept = json_schema._kept
    for number in range(1000):
        require(encoded({"title": f"schema {number}", "type": "object"}))
    assert len(kept._found) <= json_schema.ENTRIES_MAX
    for number in range(40):
        require(encoded({"title": f"{number}" + "x" * 60_000}))
    assert kept._bytes == sum(map(len, kept._found)) <= json_schema.TEXT_BYTES_MAX
    large = encoded({"title": "x" * 2 * json_schema.TEXT_BYTES_MAX})
    require(large)
    assert list(kept._found) == [large]


def test_a_schema_is_compiled_once(monkeypatch):
    """The second validation finds what the first one compiled, a schema that is none too."""
    compiled = []
    real = json_schema._compile
    monkeypatch.setattr(json_schema, "_compile", lambda text: compiled.append(text) or real(text))
    text = encoded({"title": "once", "type": "integer"})
    assert [problem(text, value) is None for value in (1, "1", 2)] == [True, False, True]
    wrong = encoded({"title": "once", "type": "wrong"})
    for _ in range(2):
        with pytest.raises(NotASchemaError):
            require(wrong)
    assert compiled == [text, wrong]


def test_a_run_without_a_schema_loads_no_library(tmp_path):
    """The library is loaded with the first schema and not before."""
    (tmp_path / "rows.jsonl").write_text('{"messages":[{"role":"user","content":"?"}]}\n')
    program = (
        "import sys\nfrom batchrun.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "print('jsonschema_rs' in sys.modules)"
    )
    schema = 'response_format={"type":"json_schema","json_schema":{"schema":{}}}'
    for more, loaded in ([], "False"), (["--param", schema], "True"):
        done = subprocess.run(
            [sys.executable, "-c", program, "run", "rows.jsonl", "-o", f"run-{loaded}", "--model",
             "m", "--provider", "simulator", "--quiet", *more],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True, encoding="utf-8", timeout=240, check=False,
        )  # fmt: skip
        assert done.stdout.split() == [loaded], done.stderr
