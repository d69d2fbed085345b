"""Flags that are short for a request parameter: their values, their names at an endpoint."""

import pytest

from batchrun.core.settings.parameter_flags import keyword_hint, number
from batchrun.core.settings.resolve import lay_over, resolve
from batchrun.errors import UsageError

LEAST = {"input.files": ["a.jsonl"], "output.dir": "run"}
NEWER = {"max_completion_tokens": 5}
OLDER = {"max_tokens": 5}


def _params(file=None, environment=None, **given):
    given = {f"request.{key}" if "." not in key else key: value for key, value in given.items()}
    raw, _ = lay_over(LEAST | (file or {}), environment or {}, given)
    return resolve(raw).params


@pytest.mark.parametrize(
    ("endpoint", "environment", "sent"),
    [
        ({}, {}, NEWER),
        ({"endpoint.provider": "openai"}, {}, NEWER),
        ({"endpoint.base_url": "https://api.openai.com/v1"}, {}, NEWER),
        ({"endpoint.base_url": "api.openai.com"}, {}, NEWER),
        ({"endpoint.provider": "ucloud"}, {}, NEWER),
        ({"endpoint.provider": "azure"}, {"AZURE_OPENAI_ENDPOINT": "https://r.example"}, NEWER),
        ({"endpoint.provider": "simulator"}, {}, OLDER),
        ({"endpoint.provider": "vllm"}, {}, OLDER),
        ({"endpoint.base_url": "http://localhost:8000/v1"}, {}, OLDER),
        ({}, {"OPENAI_BASE_URL": "http://localhost:8000/v1"}, OLDER),
        (
            {"endpoints": [{"endpoint.provider": "vllm"}, {"endpoint.provider": "sglang"}]},
            {},
            OLDER,
        ),
    ],
)
def test_the_limit_has_the_name_that_the_endpoint_takes(endpoint, environment, sent):
    """By provider, by address, by environment; `max_tokens` where nothing else is known."""
    assert _params(endpoint, environment, max_tokens=5) == sent


def test_endpoints_that_differ_in_the_name_are_told():
    """One body goes to all of them, so the user says which name it has."""
    tables = {"endpoints": [{"endpoint.provider": "vllm"}, {"endpoint.provider": "openai"}]}
    with pytest.raises(UsageError, match="--param max_tokens"):
        _params(tables, max_tokens=5)
    assert _params(tables, temperature=0) == {"temperature": 0}


def test_a_flag_wins_over_the_file_under_all_names():
    """And leaves the file's other parameters alone; twice on the command line is an error."""
    file = {"request.params": {"max_tokens": 9, "random_seed": 1, "top_k": 2}}
    local = {"endpoint.base_url": "http://localhost:1"}
    assert _params(file | local, max_tokens=5, seed=3) == {"top_k": 2, "max_tokens": 5, "seed": 3}
    for params in ({"random_seed": 1}, {"extra_body": {"seed": 1}}):
        with pytest.raises(UsageError, match="--seed"):
            _params(seed=3, params=params)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "warm"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", 10**400),
        ("top_p", [1]),
        ("seed", 1.0),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_tokens", "5"),
    ],
)
def test_what_is_no_number_is_refused(key, value):
    """The flag is named, and what it takes; ranges are the server's business."""
    with pytest.raises(UsageError, match=f"--{key.replace('_', '-')}"):
        _params(**{key: value})
    assert _params(temperature=-1, seed=-5, top_p=7) == {"temperature": -1, "seed": -5, "top_p": 7}


def test_templates_and_spellings():
    """A template is taken as it is; a number keeps its type as --param would give it."""
    assert _params(temperature="{{ t }}") == {"temperature": "{{ t }}"}
    assert [repr(number(text)) for text in ("0", "1.0", "1e1", "x")] == ["0", "1.0", "10.0", "'x'"]


def test_where_another_parameter_belongs():
    """Keys and keywords that are parameters are sent to their place; others are just unknown."""
    assert keyword_hint("stop", "x") == "it is a request parameter; write params={'stop': 'x'}"
    assert keyword_hint("modle", 1) is None
