"""The JSON Schema of the config file: published, and in step with what the program takes."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

from batchrun.core.settings import resolve
from batchrun.core.settings.table import TABLE
from batchrun.core.starter.config_schema import config_schema
from batchrun.core.starter.starter_files import SCHEMA_LINE, STARTERS
from batchrun.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "config.schema.json"
DRAFTS = [
    jsonschema_rs.Draft4Validator,
    jsonschema_rs.Draft7Validator,
    jsonschema_rs.Draft202012Validator,
]
BLOCK = re.compile(r"^```toml[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def configs():
    """Every config of the repository by its place: files, blocks of pages, starters."""
    files = [ROOT / "config.toml", *sorted((ROOT / "samples").rglob("*.toml"))]
    found = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files}
    for page in (*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))):
        for number, block in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
            found[f"{page.relative_to(ROOT)}, block {number}"] = block
    for name, make in STARTERS.items():
        found[f"init {name}"] = make().config
    return found


CONFIGS = configs()


@pytest.fixture(scope="module")
def validators():
    """The published schema as every draft reads it."""
    schema = json.loads(PUBLISHED.read_text("utf-8"))
    return [draft(schema) for draft in DRAFTS]


def flaws(validators, text):
    """What is wrong with a config, in the words of each draft."""
    document = tomllib.loads(text)
    return [[error.message for error in each.iter_errors(document)] for each in validators]


def taken(text):
    """Have the program read a config."""
    raw = resolve.from_toml(text, path="config.toml")
    raw.pop("request.schema", None)  # a file, read elsewhere
    resolve.resolve({"input.files": ["a"], "output.dir": "out"} | raw)


def test_the_published_schema_is_the_programs(cli):
    """docs/config.schema.json is what `batchrun schema config` prints."""
    text = PUBLISHED.read_text("utf-8")
    assert text == runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["schema"]()
    done = cli("schema", "config")
    assert done.code == 0 and done.out == text


def test_there_are_configs_to_check():
    """Files, pages and starters are all among them."""
    kinds = {name.partition("/")[0].partition(" ")[0] for name in CONFIGS}
    assert {"config.toml", "samples", "docs", "README.md,", "init"} <= kinds
    assert len(CONFIGS) > 30


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_ours_is_valid(validators, name):
    """No example would be underlined in an editor, whichever draft it reads."""
    assert flaws(validators, CONFIGS[name]) == [[]] * len(DRAFTS)


def test_every_setting_is_in_the_schema():
    """Each key has its help, as in the reference."""
    tables = config_schema()["properties"]
    for setting in TABLE:
        table = tables[setting.section]
        table = table.get("items", table) if setting.key else table
        found = table["properties"][setting.key] if setting.key else table
        assert found["description"] == setting.help, setting.name


@pytest.mark.parametrize("name", STARTERS)
def test_starters_name_the_schema(name):
    """The first line is what editors look for."""
    assert STARTERS[name]().config.startswith(SCHEMA_LINE + "\n")


WRONG = [
    "[inptu]\nfiles = ['a']",
    "[input]\nfile = ['a']",
    "[input]\nformat = 'xml'",
    "[input]\nfiles = [1]",
    "[input]\nsample = 0",
    "[input]\nsample = '5'",
    "[output]\nraw = true",
    "[output]\nshard_rows = 0",
    "[request]\ntemperature = 0",
    "[request]\nparams = 5",
    "[request]\nstream = 'yes'",
    "[request]\nmodel = ''",
    "[request]\nparams = { messages = [] }",
    "[[request.messages]]\ncontent = 'x'",
    "[endpoint]\nrpm = 5",
    "[[endpoint]]\nbase-url = 'http://x'",
    "[[endpoint]]\nprovider = 'opanai'",
    "[[endpoint]]\nconcurrency = 'automatic'",
    "[[endpoint]]\nconcurrency = 0",
    "[[endpoint]]\nrpm = -1",
    "[[endpoint]]\nkeepalive_s = 40000",
    "[[endpoint]]\ncharge = 'all'",
    "[[endpoint]]\nheaders = { a = 1 }",
    "[[endpoint]]\nmodels = []",
    "[[endpoint]]\napi_key_header = 'a b'",
    "[retry]\ntimeout = 5",
    "[retry]\ntimeout_s = 0",
    "[guards]\nmax_failures = '5 percent'",
    "[guards]\nmax_empty = 5",
    "[guards]\nmin_free_disk = '5 apples'",
    "[notify]\nwebhook = 'ftp://x/y'",
    "[prices.m]\ninput = 1",
    "[prices.m]\ninput = 1\noutput = -1",
    "[prices.m]\ninput = 1\noutput = 1\nimage = 1",
    "[scores]\na = 5",
    "[scores]\na = { sql = 'x', errors = 'drop' }",
    "[scores]\na = { sql = 'x', python = 'a.py:f' }",
    "[metrics]\na = { by = 'x' }",
    "[gates]\nerror_rate = '80%'",
    "[gates]\nerror_rate = { rule = '<= 1', severity = 'loud' }",
    "[scores]\ns = 'x'\n[metrics]\na = 'avg(s)'\n[gates.compare]\na = { worse_by = 1 }",
    "[labels]\na = ['x']",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_the_schema_refuses_the_program_refuses(validators, text):
    """Wrong keys and values are found in the editor, and none that a run would take."""
    assert all(flaws(validators, text)), "the schema accepts it"
    with pytest.raises(UsageError):
        taken(text)


RIGHT = [
    "[input]\nfiles = 'rows.jsonl'",
    "[input]\ncarry = 'none'\nsend = ['model', 'n']",
    "[input]\nreuse = 'old-run'",
    "[output]\nshard_rows = 5",
    "[request]\nparams = { anything = { nested = [1] } }",
    "[request]\nschema = 's.json'",
    "[[endpoint]]\nconcurrency = 'auto'\nmodels = { a = 'b' }\nheaders = { X-Y = 'z' }",
    "[[endpoint]]\nconcurrency = 4\nmodels = ['a']\n[[endpoint]]\nname = 'b'\nrpm = 0.5",
    "[guards]\nmax_failures = 5\nmax_empty = '0.5%'\nmin_free_disk = '2 GiB'",
    "[guards]\nmax_failures = '5%'\nmin_free_disk = 0",
    "[prices.'a/b']\ninput = 0\noutput = 1.5\ncached_input = 0.1",
    "[labels]\nteam = 'x'\nweek = 5\nnight = true",
    "[gates]\ntotals.cost_usd = '<= 5'\nerror_rate = { rule = '<= 0.1', severity = 'warn' }",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_the_program_takes_the_schema_takes(validators, text):
    """Every way to write a value is accepted."""
    taken(text)
    assert flaws(validators, text) == [[]] * len(DRAFTS)
