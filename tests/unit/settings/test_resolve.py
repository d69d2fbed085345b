"""The table of settings, and how raw values become the settings of a run."""

import json
import math
import re

import pytest

from batchrun.core.settings import resolve as config
from batchrun.core.settings.differences import differences
from batchrun.core.settings.resolve import from_environment, from_toml, lay_over, resolve
from batchrun.core.settings.table import AUTO_CONCURRENCY, DEFAULT_BASE_URL, FLAGGED
from batchrun.core.settings.values import parse_header, parse_key, parse_param
from batchrun.errors import UsageError

LEAST = {"input.files": ["a.jsonl"], "output.dir": "run"}


def _resolve(**raw):
    named = {name.replace("__", "."): value for name, value in raw.items()}
    return resolve(LEAST | named)


def test_the_defaults_are_those_of_the_contract():
    """What a user gets without saying anything."""
    found = resolve(LEAST)
    assert found.files == ("a.jsonl",)
    assert (found.dir, found.checkpoint) == ("run", "run/checkpoint")
    assert (found.format, found.carry, found.raw) == ("auto", "all", "all")
    assert found.shard_rows == 10_000
    assert (found.max_attempts, found.timeout_s, found.max_wait_s) == (6, 600.0, 600.0)
    assert found.max_response_bytes == 64 * 2**20
    assert found.grace_s == 30.0
    assert found.endpoint.base_url == DEFAULT_BASE_URL
    assert found.endpoint.api_key_env == "OPENAI_API_KEY"
    assert found.endpoint.concurrency == AUTO_CONCURRENCY
    assert (found.endpoint.rpm, found.endpoint.tpm) == (None, None)
    assert found.defaults() == {}


def test_every_flag_is_given_once():
    """No two settings share a flag or a place in the file, and all explain themselves."""
    flags = [setting.flag for setting in FLAGGED if setting.flag]
    assert len(set(flags)) == len(flags)
    assert len(config.BY_NAME) == len(FLAGGED)
    assert all(setting.help.endswith(".") for setting in FLAGGED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[endpont]\n", ["endpont", "did you mean endpoint"]),
        ("[zzz]\n", ["zzz", "known are", "input"]),
        ("[input]\nfile = ['a']\n", ["input.file", "did you mean files"]),
        ("[output]\nshard_row = 5\n", ["output.shard_row", "did you mean shard_rows"]),
        ("[[endpoint]]\nbase-url = 'x'\n", ["endpoint.base-url", "did you mean base_url"]),
        ("[retry]\ntimeout = 5\n", ["retry.timeout", "did you mean timeout_s"]),
        ("files = ['a']\n", ["files"]),
        ("input = 5\n", ["input", "table"]),
        ("[endpoint]\nrpm = 5\n", ["[[endpoint]]"]),
        ("endpoint = []\n", ["endpoint"]),
        ("[input\n", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_config_file_is_refused(text, words):
    """The message names the file, the key, and the nearest known one."""
    with pytest.raises(UsageError) as caught:
        from_toml(text, path="conf/c.toml")
    assert str(caught.value).startswith("conf/c.toml: ")
    for word in words:
        assert word in str(caught.value)


def test_paths_in_a_config_file_are_relative_to_it():
    """Files and directories are found from the file's folder; absolute ones stay."""
    text = (
        "[input]\nfiles = ['a.jsonl', '/abs/b.jsonl']\n[output]\ndir = 'run'\ncheckpoint = '../c'"
    )
    assert from_toml(text, path="conf/c.toml") == {
        "input.files": ["conf/a.jsonl", "/abs/b.jsonl"],
        "output.dir": "conf/run",
        "output.checkpoint": "conf/../c",
    }


def test_a_config_file_may_be_empty():
    """Nothing said is nothing set."""
    assert from_toml("", path="c.toml") == {}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input.files", [], "no input"),
        ("input.files", [7], "file names"),
        ("input.files", "", "file names"),
        ("input.format", "xml", "one of auto, jsonl, json, csv, tsv, xlsx, parquet"),
        ("input.format", ["auto"], "one of"),
        ("output.dir", 7, "text"),
        ("output.dir", "", "text"),
        ("output.raw", True, "one of all, errors, none"),
        ("output.shard_rows", 0, "at least 1"),
        ("output.shard_rows", "5", "whole number"),
        ("output.shard_rows", 5.0, "whole number"),
        ("output.shard_rows", True, "whole number"),
        ("request.params", [], "table"),
        ("request.params", {"messages": []}, "messages"),
        ("request.model", 4, "text"),
        ("endpoint.provider", "acme", "simulator"),
        ("request.stream", "yes", "true or false"),
        ("request.stream", 1, "true or false"),
        ("endpoint.concurrency", 0, "at least 1"),
        ("endpoint.concurrency", "many", "auto"),
        ("endpoint.concurrency", 1.5, "auto"),
        ("endpoint.rpm", 0, "at least"),
        ("endpoint.rpm", -1, "at least"),
        ("endpoint.rpm", math.nan, "number"),
        ("endpoint.rpm", math.inf, "number"),
        ("endpoint.tpm", "1000", "number"),
        ("endpoint.headers", "X: 1", "table"),
        ("retry.max_attempts", 0, "at least 1"),
        ("retry.timeout_s", 0, "at least"),
        ("retry.timeout_s", math.inf, "number"),
        ("retry.max_wait_s", -1, "at least 0"),
        ("retry.max_response_bytes", 10, "at least 1024"),
        ("guards.grace_s", "30", "number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name, value, words):
    """The message names the setting, shows the value and says what was expected."""
    with pytest.raises(UsageError) as caught:
        resolve(LEAST | {name: value})
    assert words in str(caught.value)
    assert name in str(caught.value) or words == "no input"


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, {"a": -math.inf}], 2**63])
def test_a_default_parameter_that_json_cannot_hold_is_refused_at_the_start(value):
    """What would fail every single row is an error before the first is sent."""
    with pytest.raises(UsageError, match="params"):
        _resolve(request__params={"x": value})


def test_a_default_parameter_that_is_a_date_is_refused():
    """TOML knows dates, JSON does not."""
    raw = from_toml("[request]\nparams = { since = 2026-01-01 }", path="c.toml")
    with pytest.raises(UsageError, match="params"):
        resolve(LEAST | raw)


@pytest.mark.parametrize(
    ("missing", "words"), [("input.files", "no input"), ("output.dir", "-o DIR")]
)
def test_what_cannot_be_left_out(missing, words):
    """Without input or run directory the message says how to give one."""
    with pytest.raises(UsageError, match=words):
        resolve({k: v for k, v in LEAST.items() if k != missing})


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    """No rows at all is a mistake."""
    with pytest.raises(UsageError, match="--limit"):
        resolve(LEAST, limit=limit)


def test_one_input_file_may_be_plain_text():
    """A single name does not need brackets."""
    assert _resolve(input__files="b.jsonl").files == ("b.jsonl",)


def test_columns_to_carry_may_be_a_list_in_the_file():
    """The config file may name the columns one by one."""
    assert _resolve(input__carry=["id", "topic"]).carry == _resolve(input__carry="id,topic").carry


def test_the_endpoint_gets_a_name():
    """Its own, or its provider's, or a word for the only one."""
    assert resolve(LEAST).endpoint.name == "default"
    assert _resolve(endpoint__provider="simulator").endpoint.name == "simulator"
    assert _resolve(endpoint__provider="simulator", endpoint__name="x").endpoint.name == "x"


def test_the_model_and_the_parameters_are_the_defaults_of_a_body():
    """--model wins over a model among the parameters."""
    found = _resolve(request__model="m", request__params={"model": "p", "seed": 1})
    assert found.defaults() == {"model": "m", "seed": 1}


@pytest.mark.parametrize(
    ("environment", "url", "warned"),
    [
        ({}, None, False),
        ({"OPENAI_BASE_URL": "http://a"}, "http://a", False),
        ({"OPENAI_API_BASE": "http://b"}, "http://b", False),
        ({"OPENAI_BASE_URL": "http://a", "OPENAI_API_BASE": "http://a"}, "http://a", False),
        ({"OPENAI_BASE_URL": "http://a", "OPENAI_API_BASE": "http://b"}, "http://a", True),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_BASE": "http://b"}, "http://b", False),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_BASE": ""}, None, False),
    ],
)
def test_the_base_url_from_the_environment(environment, url, warned):
    """The new variable wins over the old one, a difference is told, empty is unset."""
    raw, warnings = from_environment(environment)
    assert raw.get("endpoint.base_url") == url
    assert bool(warnings) is warned


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("temperature=0", "temperature", 0),
        ('user="a=b"', "user", "a=b"),
        ('stop=["a","b"]', "stop", ["a", "b"]),
        ("x=null", "x", None),
        ("x= 1 ", "x", 1),
    ],
)
def test_a_parameter_flag_is_a_key_and_json(text, key, value):
    """The first equals sign parts the two."""
    assert parse_param(text) == (key, value)


@pytest.mark.parametrize("text", ["temperature", "=1", "x=", "x=text", "x=NaN", "x=-Infinity", ""])
def test_a_parameter_flag_that_is_no_json_is_refused(text):
    """Text without quotes, numbers JSON does not have and lost halves are refused."""
    with pytest.raises(UsageError, match="--param"):
        parse_param(text)


def test_a_header_flag_is_a_name_and_a_value():
    """The first colon parts the two; space around them goes."""
    assert parse_header("X-Time: 12:30 ") == ("X-Time", "12:30")


SECRET = "sk-hunter2"


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: parse_header(SECRET),
        lambda: parse_header(f": {SECRET}"),
        lambda: _resolve(endpoint__headers={"X": f"{SECRET}\nY: 1"}),
        lambda: _resolve(endpoint__headers={"X": f"{SECRET}\r"}),
        lambda: _resolve(endpoint__headers={"X": f"{SECRET}\0"}),
        lambda: _resolve(endpoint__headers={"X": f"{SECRET}é"}),
        lambda: _resolve(endpoint__headers={"X": [SECRET]}),
        lambda: _resolve(endpoint__headers=[SECRET]),
        lambda: _resolve(endpoint__headers=SECRET),
        lambda: parse_key(f"{SECRET}\nsecond", source="KEY"),
        lambda: parse_key(f"{SECRET}é", source="KEY"),
        lambda: parse_key(f"{SECRET}\0x", source="KEY"),
    ],
    ids=range(12),
)
def test_a_refused_credential_is_not_repeated(refuse):
    """Keys and header values that cannot be sent are refused without being shown."""
    with pytest.raises(UsageError) as caught:
        refuse()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["X Y", "X:", "", "X\nY", "Ü"])
def test_a_header_name_that_http_cannot_hold_is_refused(name):
    """A name is a token; anything else would break or split the request."""
    with pytest.raises(UsageError, match="headers"):
        _resolve(endpoint__headers={name: "1"})


@pytest.mark.parametrize(("text", "key"), [("", None), (" \n", None), (" k\n", "k"), ("k", "k")])
def test_a_key_is_stripped(text, key):
    """The newline that an editor leaves in a key file does no harm, and empty is unset."""
    assert parse_key(text, source="KEY") == key


def test_credentials_do_not_show():
    """Neither what is published nor a repr holds header values or a key."""
    found = _resolve(endpoint__headers={"X-Token": SECRET})
    assert "hunter2" not in repr(found)
    assert "hunter2" not in json.dumps(found.public())
    assert found.public()["endpoint"][0]["headers"] == ["X-Token"]


def test_everything_published_is_json():
    """All settings but the header values can be written into the summary."""
    public = resolve(LEAST, limit=3).public()
    assert json.loads(json.dumps(public)) == public
    known = {setting.name for setting in config.TABLE} | {"limit", "endpoint"}
    assert set(public) <= known
    of_endpoint = {setting.key for setting in config.TABLE if setting.section == "endpoint"}
    assert set(public["endpoint"][0]) == of_endpoint


def test_what_shapes_requests_is_compared():
    """The settings marked as shaping are those a resumed run must share."""
    marked = {setting.name for setting in config.TABLE if setting.shapes}
    assert set(resolve(LEAST | {"request.repeat": 2}).shaping()) == marked
    # A run without repeats records what earlier versions recorded.
    assert set(resolve(LEAST).shaping()) == marked - {"request.repeat"}


def test_repeats_multiply_what_counts_rows():
    """A shard holds whole rows of the input, and a limit is in rows of the results; what is shown
    of the limit is what was given.
    """
    found = resolve(LEAST | {"request.repeat": 3, "output.shard_rows": 10}, limit=4)
    assert (found.repeat, found.shard_rows, found.limit) == (3, 9, 12)
    assert found.public()["limit"] == 4 and found.public()["output.shard_rows"] == 9
    assert resolve(LEAST | {"request.repeat": 30, "output.shard_rows": 10}).shard_rows == 30


def test_differences_are_told_with_both_values():
    """Only what differs is listed, long values cut; some of it may be kept."""
    before = _resolve(request__model="a", request__params={"stop": "x" * 200}).shaping()
    now = _resolve(request__model="b", output__shard_rows=5, input__carry="none").shaping()
    found = {difference.name: difference for difference in differences(before, now)}
    assert set(found) == {
        "request.model",
        "request.params",
        "output.shard_rows",
        "input.carry",
    }
    assert str(found["request.model"]) == 'request.model: was "a", is "b"'
    assert len(str(found["request.params"])) < 120
    keepable = {name for name, difference in found.items() if difference.keepable}
    assert keepable == {"request.model", "request.params"}


@pytest.mark.parametrize(
    ("given", "think"),
    [
        ({}, "keep"),
        ({"request.model": "gpt-4o"}, "keep"),
        ({"request.model": "deepseek-r1"}, "split"),
        ({"request.model": "deepseek-r1", "output.think": "keep"}, "keep"),
        ({"request.model": "gpt-4o", "output.think": "split"}, "split"),
        ({"request.params": {"model": "qwq-32b"}}, "split"),
        ({"request.model": "{{ model }}-r1", "request.prompt": "{{ q }}"}, "keep"),
        ({"request.model": "mine", "endpoint.models": {"mine": "Qwen/QwQ-32B"}}, "split"),
        ({"request.model": "mine", "endpoint.models": ["mine"]}, "keep"),
    ],
)
def test_reasoning_is_split_where_the_model_implies_it(given, think):
    """What the user says counts; else the model's name, as the run and its endpoint have it."""
    assert resolve(LEAST | given).think == think


def test_what_a_run_directory_recorded_counts():
    """What nobody set follows from the name once, when a run begins; a version that did not record
    it kept and refused.
    """
    by_name = _resolve(request__model="deepseek-r1")
    given = _resolve(request__model="deepseek-r1", output__think="split")
    assert by_name.recorded_by(None).think == "split"
    assert by_name.recorded_by({}).think == "keep"
    assert by_name.recorded_by({"output.think": "split"}).think == "split"
    assert given.recorded_by({}).think == given.recorded_by({"output.think": "keep"}).think
    old = {k: v for k, v in given.shaping().items() if not k.startswith(("output.th", "output.a"))}
    assert differences(old, by_name.recorded_by(old).shaping()) == []
    assert [str(d) for d in differences(old, given.shaping())] == [
        'output.think: was "keep", is "split"'
    ]


def test_the_same_settings_do_not_differ():
    """Shaping settings come back from JSON equal to themselves."""
    shaping = _resolve(request__params={"a": [1, 2.5, None], "b": {"c": "d"}}).shaping()
    assert differences(json.loads(json.dumps(shaping)), shaping) == []


def test_a_setting_of_another_version_is_a_difference():
    """A recorded setting that is unknown now, or a new one, counts."""
    assert [str(d) for d in differences({"request.system": "be brief"}, {})] == [
        'request.system: was "be brief", is null'
    ]


def test_a_schema_takes_the_place_of_another():
    """Tables are added up key by key; a schema is one thing."""
    file = from_toml('[request.schema]\ntype = "object"', path="c.toml")
    raw, _ = lay_over(file, {}, {"request.schema": {"enum": [1]}})
    sent = {"name": "answer", "strict": True, "schema": {"enum": [1]}}
    assert _resolve(**{"request.schema": raw["request.schema"]}).defaults() == {
        "response_format": {"type": "json_schema", "json_schema": sent}
    }


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"request.schema": {"type": "x"}}, "request.schema is not a JSON Schema: at type"),
        ({"request.schema": "s.json"}, "expected a file with a JSON Schema, or the schema"),
        ({"request.schema": {"const": 2**70}}, "which JSON cannot hold"),
        ({"output.on_empty": "drop"}, "expected one of keep, fail, retry"),
    ],
)
def test_a_schema_that_is_none_is_refused(raw, said):
    """What is no schema, and a file that nobody has read."""
    with pytest.raises(UsageError, match=re.escape(said)):
        resolve(LEAST | raw)


def test_a_vendors_schema_passes_unchecked():
    """What a server alone understands is taken where nothing is checked."""
    vendor = {"type": "OBJECT"}
    found = resolve(LEAST | {"request.schema": vendor, "output.check_schema": False})
    assert found.defaults()["response_format"]["json_schema"]["schema"] == vendor


def test_a_difference_deep_in_a_long_table_is_named_where_it_stands():
    """What would be cut off is not shown; short tables are shown whole, and several differences."""
    many = {f"key {n}": n for n in range(20)}
    table = {"request.schema": {"a": {"b": many}}}
    other = {"request.schema": {"a": {"b": many | {"key 7": 8}}}}
    assert [str(d) for d in differences(table, other)] == ["request.schema.a.b.key 7: was 7, is 8"]
    two = {"request.schema": {"a": {"b": many | {"key 7": 8, "key 8": 9}}}}
    assert str(differences(table, two)[0]).startswith("request.schema.a.b: was {")
    short = differences({"request.params": {"seed": 1}}, {"request.params": {"seed": 2}})
    assert str(short[0]) == 'request.params: was {"seed": 1}, is {"seed": 2}'


def test_the_concurrency_is_found_within_bounds():
    """By default it starts at 64 and stays within 1 and 1,024; a first window fits the bounds."""
    bounds = {"endpoint.min_concurrency": 2, "endpoint.max_concurrency": 20}
    assert _resolve().endpoint.bounds == (1, 1024)
    found = _resolve(**bounds).endpoint
    assert (found.concurrency, found.bounds, found.concurrency_max) == (20, (2, 20), 20)
    assert found.public()["concurrency"] == "auto"
    above = _resolve(**{"endpoint.min_concurrency": 100}).endpoint
    assert (above.concurrency, above.bounds) == (100, (100, 1024))


def test_a_concurrency_that_is_given_stays_fixed():
    """A number has no bounds, nor have bounds that leave one."""
    fixed = _resolve(**{"endpoint.concurrency": 5000}).endpoint
    assert (fixed.concurrency, fixed.bounds, fixed.concurrency_max) == (5000, None, 5000)
    assert fixed.public()["concurrency"] == 5000
    same = _resolve(**{"endpoint.min_concurrency": 9, "endpoint.max_concurrency": 9}).endpoint
    assert (same.concurrency, same.bounds) == (9, None)


def test_bounds_of_the_concurrency_that_exclude_each_other_are_refused():
    """The error names both flags."""
    with pytest.raises(UsageError, match=r"--min-concurrency.*--max-concurrency"):
        _resolve(**{"endpoint.min_concurrency": 20, "endpoint.max_concurrency": 10})


CHAINED = {"input.from": "one", "output.dir": "run", "request.prompt": "{{ row.content }}"}
NO_CHAIN = [
    ({"input.files": ["a"]}, "leave the input files"),
    ({"request.prompt": None}, "say what to ask"),
    ({"input.send": ["a"]}, "every column is data"),
    ({"input.send": "all"}, "every column is data"),
    ({"input.format": "csv"}, "how input files are read"),
    ({"input.delimiter": ";"}, "how input files are read"),
    ({"input.from": None, "input.files": ["a"], "input.from_status": "any"}, "--from-status"),
    ({"input.from": None, "input.files": ["a"], "input.allow_partial": True}, "--allow-partial"),
]


@pytest.mark.parametrize(("more", "words"), NO_CHAIN)
def test_what_does_not_go_with_from_is_refused(more, words):
    """One input, a prompt, and nothing about files or parameters."""
    assert resolve(CHAINED).source == "one" and resolve(CHAINED).files == ()
    assert resolve({**CHAINED, "input.send": "none"}).source == "one"
    with pytest.raises(UsageError, match=words):
        resolve({**CHAINED, **more})


def test_another_input_replaces_that_of_the_file():
    """Files on the command line replace ``input.from`` of the config file, and the reverse."""
    file = {"input.from": "one", "input.from_status": "any"}
    raw, _ = config.lay_over(file, {}, {"input.files": ["a.jsonl"]})
    assert "input.from" not in raw and "input.from_status" not in raw
    raw, _ = config.lay_over({"input.files": ["a.jsonl"]}, {}, {"input.from": "one"})
    assert "input.files" not in raw and raw["input.from"] == "one"
    raw, _ = config.lay_over({}, {}, {"input.from": "one", "input.files": ["a.jsonl"]})
    assert {"input.files", "input.from"} <= raw.keys()
