"""The settings of several endpoints: their tables, what completes them, and who serves what."""

import msgspec
import pytest

from batchrun.core.request.body import builder, with_model
from batchrun.core.settings.resolve import from_toml, lay_over, resolve
from batchrun.errors import RowError, UsageError
from batchrun.testing.samples import chat_row

LEAST = {"input.files": ["a.jsonl"], "output.dir": "run"}


def _settings(toml, environment=None, **given):
    raw = from_toml(toml, path="c.toml")
    named = {name.replace("__", "."): value for name, value in given.items()}
    raw, warnings = lay_over(raw, environment or {}, LEAST | named)
    return resolve(raw), warnings


TWO = """
[[endpoint]]
base_url = "http://a.test:8000/v1"
rpm = 60
[[endpoint]]
name = "b"
base_url = "http://b.test/v1"
api_key_env = "B_KEY"
concurrency = 3
weight = 2
models = { gpt = "my-gpt" }
"""


def test_each_table_is_an_endpoint_of_its_own():
    """Nothing of one table reaches the other, and each has a name."""
    first, second = _settings(TWO)[0].endpoints
    assert (first.name, second.name) == ("a.test:8000", "b")
    assert (first.base_url, second.base_url) == ("http://a.test:8000/v1", "http://b.test/v1")
    assert (first.rpm, second.rpm) == (60, None)
    assert (first.concurrency, second.concurrency) == (64, 3)
    assert (first.api_key_env, second.api_key_env) == ("OPENAI_API_KEY", "B_KEY")
    assert (first.weight, second.weight) == (1, 2)
    assert (first.models, second.models) == (None, {"gpt": "my-gpt"})


def test_names_tell_endpoints_apart():
    """Tables with one host, or one provider, are numbered; a given name stands."""
    same = '[[endpoint]]\nbase_url = "http://u:p@h/v1"\n'
    taken = '[[endpoint]]\nbase_url = "http://x/v1"\nname = "h"\n'
    groq = '[[endpoint]]\nprovider = "groq"\n'
    found = _settings(same + taken + same + groq + groq)[0].endpoints
    assert [endpoint.name for endpoint in found] == ["h-2", "h", "h-3", "groq", "groq-2"]


@pytest.mark.parametrize("name", ["a\\nb", "\\u001b[31mred", "x" * 101])
@pytest.mark.parametrize("more", ["", TWO])
def test_a_name_stands_on_one_line(name, more):
    """It is part of reports and of the live display; the error does not repeat what breaks them."""
    with pytest.raises(
        UsageError, match=r"endpoint\.name is '.{1,40}; expected at most 100"
    ) as said:
        _settings(f'[[endpoint]]\nname = "{name}"\nbase_url = "http://h/v1"\n{more}')
    assert str(said.value).isprintable()


def test_a_name_given_twice_is_refused():
    """Results tell endpoints apart by it."""
    table = '[[endpoint]]\nname = "a"\nbase_url = "http://h/v1"\n'
    with pytest.raises(UsageError, match=r"two .* the name 'a'"):
        _settings(table * 2)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("models = []", ["table 2", "endpoint.models", "list of names"]),
        ("models = 'gpt'", ["endpoint.models"]),
        ("models = { gpt = 4 }", ["endpoint.models"]),
        ("weight = 0", ["endpoint.weight", "at least 0.001"]),
        ("keepalive_s = -1", ["table 2", "endpoint.keepalive_s", "at least 0 and at most 32767"]),
        ("keepalive_s = 32768", ["endpoint.keepalive_s", "at most 32767"]),
        ("keepalive_s = nan", ["endpoint.keepalive_s is nan"]),
        ("keepalive_s = inf", ["endpoint.keepalive_s is inf"]),
        ("keepalive_s = true", ["endpoint.keepalive_s is True"]),
        ("keepalive_s = '30'", ["endpoint.keepalive_s is '30'"]),
        ("rpm = -1", ["table 2", "endpoint.rpm"]),
        ("api_key_env = 'A'\napi_key_file = 'b'", ["table 2", "2 sources of the key"]),
        ("provider = 'grok'", ["table 2", "groq"]),
        ("provider = 'azure'", ["table 2", "no base URL"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_wrong_table_is_refused_by_its_number(table, words):
    """The message says which of the tables is meant, and what is wrong with it."""
    with pytest.raises(UsageError) as caught:
        _settings(f'[[endpoint]]\nbase_url = "http://a/v1"\n[[endpoint]]\n{table}\n')
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("flag", ["base_url", "provider"])
def test_a_flag_that_names_an_endpoint_takes_the_place_of_all(flag):
    """What belonged to the tables goes with them, and the user is told."""
    value = {"base_url": "http://c/v1", "provider": "simulator"}[flag]
    settings, warnings = _settings(TWO, **{f"endpoint__{flag}": value}, endpoint__rpm=7)
    (only,) = settings.endpoints
    assert only.rpm == 7
    assert only.models is None
    assert any("2 of the config file are not used" in warning for warning in warnings)


@pytest.mark.parametrize("key", ["rpm", "concurrency", "headers", "api_key_env"])
def test_a_flag_for_one_endpoint_is_refused_with_several(key):
    """Nobody can tell which of them is meant."""
    with pytest.raises(UsageError, match=r"2 \[\[endpoint\]\] tables"):
        _settings(TWO, **{f"endpoint__{key}": 5})


def test_the_environment_completes_tables_and_captures_none():
    """A base URL from the environment speaks of one endpoint: one without any takes it."""
    environment = {"OPENAI_BASE_URL": "http://env/v1", "GROQ_API_KEY": "k"}
    tables = '[[endpoint]]\nname = "env"\n[[endpoint]]\nprovider = "groq"\n'
    found = _settings(TWO + tables, environment)[0].endpoints
    assert [endpoint.base_url for endpoint in found] == [
        "http://a.test:8000/v1",
        "http://b.test/v1",
        "http://env/v1",
        "https://api.groq.com/openai/v1",
    ]
    assert found[3].api_key_env == "GROQ_API_KEY"


SERVED = """
[[endpoint]]
base_url = "http://a/v1"
models = ["small", "large"]
[[endpoint]]
base_url = "http://b/v1"
models = { large = "large-there" }
"""


def test_a_model_that_nobody_serves_is_refused():
    """The run's at the start; a row's, as a bad row: both say which models there are."""
    with pytest.raises(UsageError, match=r"'huge', and no endpoint serves it: .* large, small"):
        _settings(SERVED, request__model="huge")
    build = builder(_settings(SERVED)[0])
    row = chat_row(0)
    with pytest.raises(RowError, match=r"'huge', and no endpoint serves it: .* large, small"):
        build(row._replace(body=row.body | {"model": "huge"}))
    assert build(row._replace(body=row.body | {"model": "small"})).model == "small"


def test_a_model_by_another_name_changes_nothing_else():
    """Every other byte of the body is as it was, numbers and escapes included."""
    body = (
        b'{"a":1.50,"big":12345678901234567890,"messages":[{"role":"user",'
        b'"content":"\\u00e4 \\"model\\":\\"m\\""}],"model":"m","z":[1,{"model":"m"}]}'
    )
    there = with_model(body, 'n"ew')
    assert there == body.replace(b'],"model":"m",', b'],"model":"n\\"ew",')
    assert msgspec.json.decode(there)["model"] == 'n"ew'
