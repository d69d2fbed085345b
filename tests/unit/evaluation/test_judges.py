"""Judges: their tables, what they are asked, pairs of answers, and agreement with people."""

import itertools

import pytest

from batchrun.core.evaluation.judges import (
    Asked,
    Judge,
    asked_by,
    in_pair,
    judges,
    require_winner,
    same_model,
)
from batchrun.core.evaluation.labels import LabelledVerdicts, category
from batchrun.core.schema.fields import Field
from batchrun.errors import ScoringError, UsageError


def _settings(properties, **more):
    schema = {"type": "object", "properties": properties}
    wrapped = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema}}
    return {"request.schema": wrapped, "request.model": "m", **more}


MARK, REASON = {"type": "integer"}, {"type": "string"}


def test_a_table_of_judges():
    """What is not said has its default, and is not recorded."""
    found = judges({"tone": {"config": "t.toml"}, "b": {"config": "b.toml", "allow_self": True}})
    assert found == (Judge("tone", "t.toml"), Judge("b", "b.toml", allow_self=True))
    assert [judge.public() for judge in found] == [
        {"config": "t.toml"},
        {"config": "b.toml", "allow_self": True},
    ]
    assert judges({judge.name: judge.public() for judge in found}) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, r"expected tables \[judge.NAME\]"),
        ({"x": 3}, "expected a table with config"),
        ({"x": {"config": 3}}, "judge.x.config is 3"),
        ({"x": {"agreement": " "}}, "judge.x.agreement"),
        ({"x": {"allow_self": "yes"}}, "expected true or false"),
        ({"x": {"prompt": "y"}}, "unknown key judge.x.prompt"),
        ({"a.b": {}}, "cannot be the name of a judge"),
        ({"../x": {}}, "cannot be the name of a judge"),
        ({"x" * 65: {}}, "cannot be the name of a judge"),
        ({"Tone": {}, "tone": {}}, "differ only in case"),
        ({f"j{n}": {} for n in range(21)}, "at most 20"),
    ],
)
def test_tables_that_are_wrong(given, said):
    """The key is named, and what is expected."""
    with pytest.raises(UsageError, match=said):
        judges(given)


def test_what_a_judge_is_known_by():
    """Its model, prompt, schema and parameters; neither its endpoint nor how replies are sent."""
    one = asked_by(_settings({"mark": MARK}, **{"request.prompt": "p"}), "t")
    same = {"request.prompt": "p", "request.stream": True, "endpoint": [{}], "input.from": "x"}
    assert asked_by(_settings({"mark": MARK}, **same), "t") == one
    others = [
        _settings({"mark": MARK}, **{"request.prompt": "q"}),
        _settings({"mark": MARK}, **{"request.prompt": "p", "request.model": "n"}),
        _settings({"mark": MARK, "reason": REASON}, **{"request.prompt": "p"}),
        _settings({"mark": MARK}, **{"request.prompt": "p", "request.params": {"top_p": 1}}),
    ]
    digests = {asked_by(settings, "t").digest for settings in others} | {one.digest}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "has no JSON Schema"),
        (_settings({}), "no top-level field"),
        (_settings({"x": {"type": "array"}}), "no top-level field"),
        (_settings({"Mark": MARK, "mark": MARK}), "differ only in case"),
        (_settings({"mark": MARK}, **{"input.against": "other"}), '"winner"'),
        (_settings({"winner": MARK}, **{"input.against": "other"}), '"winner"'),
        (_settings({"winner": {"enum": ["a", "b"]}}, **{"input.against": "o"}), '"winner"'),
    ],
)
def test_schemas_that_make_no_verdicts(settings, said):
    """A judge without fields to read is refused."""
    with pytest.raises(UsageError, match=said):
        asked_by(settings, "t")


def test_a_winner_of_any_text_is_allowed():
    """A schema that lists no values is taken at its word."""
    require_winner(Asked((Field("winner", "text"),), ""), "t")
    require_winner(Asked((Field("winner", "text", ("tie", "b", "a")),), ""), "t")


@pytest.mark.parametrize(
    ("names", "judge", "found"),
    [
        ("reason mark", Judge("t"), "mark"),
        ("reason mark pass", Judge("pass"), "pass"),
        ("reason mark", Judge("t", score="reason"), "reason"),
        ("reason", Judge("reason"), "reason"),
    ],
)
def test_the_field_that_is_compared(names, judge, found):
    """The named one, else the one called like the judge, else the first that is no free text."""
    kinds = {"reason": "text", "mark": "number", "pass": "boolean"}
    asked = Asked(tuple(Field(name, kinds[name]) for name in names.split()), "")
    assert asked.compared(judge).name == found


def test_nothing_to_compare():
    """Free text alone is no label, and a field that is not there is named."""
    asked = Asked((Field("reason", "text"),), "")
    with pytest.raises(UsageError, match=r"name one with judge\.t\.score"):
        asked.compared(Judge("t", agreement="label"))
    with pytest.raises(UsageError, match="there are reason"):
        asked.compared(Judge("t", score="mark"))


def test_a_winner_survives_the_swap():
    """Of all verdicts in both orders, those that name the same answer stand; others are ties."""
    for first, swapped in itertools.product(("a", "b", "tie"), repeat=2):
        same = {("a", "b"): "a", ("b", "a"): "b", ("tie", "tie"): "tie"}.get((first, swapped))
        wanted = ("tie", True) if same is None else (same, False)
        assert in_pair([first, swapped], both=True) == wanted
    assert in_pair([None, "a"], both=True) == (None, False)
    assert in_pair(["a", None], both=True) == (None, False)
    assert in_pair(["b"], both=False) == ("b", False)


@pytest.mark.parametrize(
    ("judge", "answered", "same"),
    [
        ("gpt-5", ["gpt-5"], "gpt-5"),
        ("GPT-5", [None, "openai/gpt-5"], "openai/gpt-5"),
        ("openai/gpt-5", ["gpt-5"], "gpt-5"),
        ("gpt-5-mini", ["gpt-5"], None),
        (None, [None], None),
    ],
)
def test_a_model_is_known_again(judge, answered, same):
    """Whatever its case, and with or without its maker's name."""
    assert same_model(judge, answered) == same


@pytest.mark.parametrize(
    ("kind", "one", "other", "alike"),
    [
        ("number", 5.0, "5", True),
        ("number", 5.0, " 5.00 ", True),
        ("number", 5.0, "five", False),
        ("boolean", True, "Yes", True),
        ("boolean", True, "1", True),
        ("boolean", False, "0.0", True),
        ("boolean", True, "pass", False),
        ("text", "Rude", " rude ", True),
        ("text", "rude", "kind", False),
    ],
)
def test_a_label_in_any_form(kind, one, other, alike):
    """Numbers as text, yes and no, any case; anything else disagrees."""
    assert (category(kind, one) == category(kind, other)) is alike


def test_agreement_and_kappa_of_a_published_table():
    """Fleiss, Levin and Paik, "Statistical Methods for Rates and Proportions", 3rd edition (2003),
    table 18.1: 100 subjects, kappa 0.68 with a standard error of 0.087.
    """
    table = {"p": (75, 1, 4), "n": (5, 4, 1), "o": (0, 0, 10)}
    counted = [
        (one, other, rows)
        for one, row in table.items()
        for other, rows in zip("pno", row, strict=True)
    ]
    share, kappa = LabelledVerdicts("text", counted, "judge.t").metrics()
    assert (share.value, share.n) == (0.89, 100)
    assert kappa.value == pytest.approx(0.68, abs=0.005)
    assert kappa.high - kappa.value == pytest.approx(1.96 * 0.087, abs=0.005)


def test_agreement_of_nothing_and_of_too_much():
    """Without rows there are no figures; with thousands of different labels it is an error."""
    share, kappa = LabelledVerdicts("text", [], "judge.t").metrics()
    assert (share.value, share.n, kappa.value) == (None, 0, None)
    with pytest.raises(ScoringError, match="at most 1,000"):
        LabelledVerdicts("text", [(str(n), str(n), 1) for n in range(1001)], "judge.t")
