"""A row's parameters over the run's: one name for each, whole numbers as integers."""

import hashlib
import json
import math

import numpy as np
import pytest

from batchrun.core.request.body import as_begun, build, split
from batchrun.core.request.tokens import stated_limit
from batchrun.core.settings import parameters
from batchrun.core.settings.parameters import flags_over, laid_over
from batchrun.errors import RowError
from batchrun.records import Row

MESSAGES = [{"role": "user", "content": "hi"}]
PAIRS = sorted(
    (one, other) for names in parameters.SYNONYMS for one in names for other in names - {one}
)


def _built(body, defaults, **more):
    row = Row(0, None, split({"messages": MESSAGES} | body).body)
    return build(row, {"model": "m"} | defaults, body_bytes_max=10_000, **more)


def _sent(body, defaults, **more):
    sent = json.loads(_built(body, defaults, **more).body)
    return {name: sent[name] for name in sent if name not in ("messages", "model")}


@pytest.mark.parametrize(("row", "run"), PAIRS)
@pytest.mark.parametrize("value", [7, None, {"effort": "low"}])
def test_the_rows_name_of_a_parameter_is_the_one_sent(row, run, value):
    """Under whichever of its names a row sets a parameter, null too, the run's is not sent."""
    assert _sent({row: value}, {run: 9}) == {row: value}
    assert _sent({"extra_body": {row: value}}, {run: 9, "top_p": 1}) == {row: value, "top_p": 1}
    assert _sent({}, {run: 9}) == {run: 9}


def test_a_row_that_has_both_names_keeps_both():
    """What a row says of itself is its own affair; a third name of the run goes all the same."""
    both = {"max_tokens": 5, "max_completion_tokens": 6}
    assert _sent(both, {"n_predict": 9, "max_tokens": 8}) == both
    assert _sent({}, both) == both


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_what_is_estimated_is_the_limit_that_is_sent(limit):
    """The token estimate and the worst case read the row's limit, not the one it replaces."""
    others = {"max_tokens": 900, "max_completion_tokens": 900, "n_predict": 900}
    del others[limit]
    request = _built({limit: 40.0}, others, bounded=True)
    assert request.worst.output_tokens == 40
    assert request.tokens_stated
    assert stated_limit({limit: 40}) == 40
    assert request.tokens < 200


@pytest.mark.parametrize("name", sorted(parameters.INTEGERS))
def test_whole_numbers_are_sent_as_integers(name):
    """A float that is a whole number is the same request as the integer, hash included."""
    request = _built({"extra_body": {name: 3.0}}, {})
    assert _built({"extra_body": {name: 3}}, {}).hash == request.hash
    assert b'"' + name.encode() + b'":3' in request.body and b"3.0" not in request.body
    assert _built({}, {name: 3.0}).hash == request.hash


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_tokens": 100.5}, {"max_tokens": 100.5}),
        ({"max_tokens": "100.0"}, {"max_tokens": "100.0"}),
        ({"seed": -0.0}, {"seed": 0}),
        ({"seed": 1e300}, {"seed": 1e300}),
        ({"seed": True}, {"seed": True}),
        ({"stop_token_ids": [1.0, 2, 2.5]}, {"stop_token_ids": [1, 2, 2.5]}),
        ({"reasoning": {"max_tokens": 9.0}}, {"reasoning": {"max_tokens": 9}}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9.0}},
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
        ),
        ({"temperature": 1.0, "top_p": 1.0}, {"temperature": 1.0, "top_p": 1.0}),
        ({"metadata": {"seed": 1.0}}, {"metadata": {"seed": 1.0}}),
        ({"seed": np.float64(7)}, {"seed": 7}),
    ],
)
def test_what_is_no_whole_number_stays(given, sent):
    """Fractions, texts, floats beyond 64 bits and other parameters are sent as they are given."""
    found = _sent(given, {})
    assert json.dumps(found, sort_keys=True) == json.dumps(sent, sort_keys=True)


def test_a_nan_is_refused_where_it_is_sent():
    """It is no number that JSON has: the row is bad, whatever the parameter."""
    for name in ("max_tokens", "temperature"):
        with pytest.raises(RowError, match=f"`{name}` is nan"):
            _built({name: math.nan}, {name: 8})


@pytest.mark.parametrize("value", [math.nan, np.float64("nan")])
def test_gaps_of_tables_are_known(value):
    """NaN is a gap in a column of whole numbers, and nowhere else."""
    assert parameters.is_missing("max_tokens", value)
    assert not parameters.is_missing("temperature", value)
    assert not parameters.is_missing("max_tokens", 3.0)
    assert not parameters.is_missing("max_tokens", math.inf)
    fields = {"max_tokens": value, "top_p": value, "n": 1.0}
    assert list(parameters.without_gaps(fields)) == ["top_p", "n"]


def test_nothing_given_is_changed():
    """The row and the shared defaults stay as they were."""
    defaults, given = {"max_tokens": 9.0}, {"max_completion_tokens": 3.0}
    assert laid_over(defaults, given) == {"max_completion_tokens": 3}
    assert (defaults, given) == ({"max_tokens": 9.0}, {"max_completion_tokens": 3.0})


def test_other_bodies_keep_their_bytes():
    """A request of plain values is what it was, byte for byte."""
    body = {"max_tokens": 5, "seed": None, "temperature": 1.0, "stop": ["a"], "reasoning": {"x": 1}}
    request = _built(body, {"n": 2})
    whole = {"messages": MESSAGES, "model": "m", "n": 2} | body
    plain = json.dumps(dict(sorted(whole.items())), separators=(",", ":"))
    assert request.body == plain.encode()
    assert request.hash == hashlib.sha256(plain.encode()).hexdigest()


def test_an_older_directory_keeps_its_wording():
    """Where nothing is recorded, a body is made as the first version made it."""
    row = Row(0, None, {"messages": MESSAGES, "max_tokens": 5.0})
    defaults = {"model": "m", "max_completion_tokens": 9}

    def now(row, **more):
        return build(row, defaults, body_bytes_max=10_000, **more)

    older = json.loads(as_begun(now, None)(row).body)
    assert (older["max_tokens"], older["max_completion_tokens"]) == (5.0, 9)
    assert isinstance(older["max_tokens"], float)
    assert json.loads(as_begun(now, 2)(row).body) == {
        "messages": MESSAGES, "model": "m", "max_tokens": 5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "flags", "laid"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_tokens": 5, "top_p": 1}, {"max_tokens": 9}, {"max_tokens": 9, "top_p": 1}),
        (
            {"extra_body": {"max_tokens": 5, "x": 1}},
            {"max_completion_tokens": 9},
            {"max_completion_tokens": 9, "extra_body": {"x": 1}},
        ),
        (
            {"seed": 5, "top_p": 1},
            {"extra_body": {"random_seed": 9}},
            {"top_p": 1, "extra_body": {"random_seed": 9}},
        ),
        ({"extra_body": {"y": 1}}, {"extra_body": {"x": 1}}, {"extra_body": {"x": 1}}),
    ],
)
def test_flags_win_under_every_name(file, flags, laid):
    """A flag's parameter takes the place of the file's under any of its names."""
    assert flags_over(file, flags) == laid
