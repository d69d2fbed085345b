"""docs/reference.md says what the program says, and leaves nothing out."""

import json
import re
import runpy
from pathlib import Path

import click
import pyarrow as pa
import pytest

from batchrun import api
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.environment.signals import SIGNALS
from batchrun.cli.main import COMMANDS, main
from batchrun.core.settings.presets import from_environment
from batchrun.core.settings.table import FLAGGED, SHORT, TABLE
from batchrun.core.settings.variables import VARIABLES
from batchrun.core.verdict.judge import RULES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def maker():
    """The script that makes the page, as a table of its names."""
    return runpy.run_path(str(ROOT / "docs" / "make_reference.py"))


@pytest.fixture(scope="module")
def text():
    """The page."""
    return (ROOT / "docs" / "reference.md").read_text("utf-8")


def chapter(text, title):
    """The part of the page under a heading."""
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"no chapter {title!r}"
    return rest.partition("\n## ")[0]


def names(text):
    """The first cells of a chapter's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def cells(text, heads):
    """The rows of the table with these heads, as texts by head."""
    _, _, rest = text.partition("| " + " | ".join(heads) + " |\n")
    assert rest, f"no table of {heads}"
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in rest.partition("\n\n")[0].split("\n")[1:]
    ]
    return [dict(zip(heads, (cell.strip() for cell in row), strict=True)) for row in rows]


def quoted(text):
    """What a text has in backticks."""
    return re.findall(r"`([^`]+)`", text)


def test_the_page_is_what_the_program_says(maker, text):
    """The page is not older than the program."""
    assert text == maker["page"](), "docs/reference.md is out of date: make docs"


def test_a_page_keeps_what_is_written_by_hand(maker, text):
    """Only what stands between the marks is replaced, and a mark too few or too many is refused."""
    emptied = maker["MARKED"].sub(r"\1stale\4", text)
    assert "stale" in emptied and maker["filled"](emptied) == text
    by_hand = emptied.replace("# Reference", "# Our reference", 1)
    assert maker["filled"](by_hand) == text.replace("# Reference", "# Our reference", 1)
    with pytest.raises(maker["UndocumentedError"], match=r"marks: .*'novelty'"):
        maker["filled"](text + "<!-- made: novelty --><!-- end -->")
    with pytest.raises(maker["UndocumentedError"], match=r"marks: .*'exit-codes'"):
        maker["filled"](text.replace("<!-- made: exit-codes -->", ""))


def test_marks_begin_no_line_of_a_paragraph(maker, text):
    """A comment at the start of a line ends a Markdown paragraph: only tables stand there."""
    for name in maker["figures"]():
        before = text.partition(f"<!-- made: {name} -->")[0]
        assert not before.endswith("\n"), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_documented(text, name):
    """Every option of every command stands in the section of its command, unless it is hidden."""
    _, _, section = text.partition(f"### `batchrun {name} ")
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    command = main.get_command(click.Context(main), name)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            for flag in (*option.opts, *option.secondary_opts):
                assert re.search(rf"`[^`]*(?<![\w-]){flag}(?![\w-])[^`]*`", section), flag


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_a_setting_has_its_config_key(text, name):
    """Flags with and without a `--no-` form, in every command that takes them."""
    _, _, section = text.partition(f"### `batchrun {name} ")
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    command = main.get_command(click.Context(main), name)
    options = {option.name for option in command.params}
    taken = [s for s in FLAGGED if s.flag and s.name.replace(".", "__") in options]
    if taken:
        heads = ("flag", "config key", "meaning")
        head = "| " + " | ".join(heads) + " |\n"
        tables = section.split(head)[1:]
        rows = [row for table in tables for row in cells(head + table, heads)]
        keys = {quoted(row["flag"])[0]: quoted(row["config key"]) for row in rows}
    for setting in taken:
        key = f"request.params.{setting.key}" if setting in SHORT else setting.name
        shown = [
            names for names in keys if setting.flag.partition("/")[0] in re.split("[ ,/]", names)
        ]
        assert [keys[names] for names in shown] == [[key]], setting.flag


def test_every_setting_is_documented(text):
    """The table of settings has every key, and with it flag, keyword, type and meaning."""
    heads = ("key", "flag", "keyword", "variable", "type", "default", "meaning")
    rows = {quoted(row["key"])[0]: row for row in cells(chapter(text, "Config file"), heads)}
    short = {f"request.params.{setting.key}": setting for setting in SHORT}
    expected = {setting.name: setting for setting in TABLE} | short
    assert rows.keys() == expected.keys()
    for key, setting in expected.items():
        row = rows[key]
        assert quoted(row["flag"]) == ([setting.flag] if setting.flag else []), key
        assert row["type"] and setting.help.replace("|", "\\|") in row["meaning"], key
        assert ("*fixed*" in row["meaning"]) == setting.shapes, key
        assert quoted(row["keyword"]) == ([setting.keyword] if setting.keyword else []), key
    keywords = {word for row in rows.values() for word in quoted(row["keyword"])}
    assert keywords == {*api.KEYWORDS, "output"}


def test_variables_stand_in_for_the_settings_that_they_name():
    """The variables of a setting in the table are those that set it."""
    names = {setting.name for setting in TABLE}
    assert {variable.setting for variable in VARIABLES.values()} <= {*names, ""}
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        found, _ = from_environment({name: "http://127.0.0.1:9/v1"})
        assert set(found) == {VARIABLES[name].setting}


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("Columns of `results/`", part_schema.results_schema(pa.schema([]), turns=True)),
        ("Columns of `attempts/`", part_schema.attempts_schema()),
        ("Columns of `usage.parquet`", part_schema.USAGE_SCHEMA),
    ],
    ids=["results", "attempts", "usage"],
)
def test_every_column_is_documented(text, title, schema):
    """Each kind of file has a table of exactly its columns."""
    assert names(chapter(text, title)) == set(schema.names)


def test_every_error_class_is_documented(text):
    """The classes that rules give and those written elsewhere in the source, and no others."""
    literal = re.compile(r'(?:Failure\(|error_class=|failure\()\s*"(\w+)"')
    found = {rule.error_class for rule in RULES}
    for file in (ROOT / "batchrun").rglob("*.py"):
        if not file.is_relative_to(ROOT / "batchrun" / "testing"):
            found |= set(literal.findall(file.read_text("utf-8")))
    assert names(chapter(text, "Error classes")) == found


def test_every_exit_code_is_documented(text):
    """Those of the error tree, of a finished run, of a guard, of every signal and of SIGPIPE."""
    found = {int(n) for n in re.findall(r"^\| (\d+) \|", chapter(text, "Exit codes"), re.MULTILINE)}
    assert found == {0, 1, 2, 3, 4, 5, 141} | {128 + number for number in SIGNALS}


# Words in capitals that are none: of asyncio, Google's errors, DuckDB's trees, and a constant.
NO_VARIABLES = {
    "FIRST_COMPLETED",
    "AWS_ACCESS_KEY_ID",  # what the libraries of object stores read
    "COMP_WORDS",  # what a shell gives a completion script
    "BASE_TABLE",
    "INTEGER_LITERAL",
    "COLUMN_REF",
    "POSITIONAL_REFERENCE",
    "SELECT_NODE",
    "SHOW_REF",
    "TABLE_FUNCTION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "PIECE_ROWS",
    "SAMPLE_S",
    "CLOCK_BOOTTIME",
    "F_FULLFSYNC",
    "TCP_KEEPALIVE",
    "TCP_KEEPCNT",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
}


def test_every_environment_variable_is_documented(text):
    """Every name in capitals that the source quotes is in the table."""
    documented = names(chapter(text, "Environment"))
    quoted = re.compile(r'"([A-Z]+_[A-Z_]+)"')
    for file in (ROOT / "batchrun").rglob("*.py"):
        found = set(quoted.findall(file.read_text("utf-8"))) - NO_VARIABLES
        assert found <= documented, f"{file}: {found - documented}"


def keys_of(summary):
    """The keys of a summary, with a dot between the levels that the page tells apart."""
    apart = ("rows", "totals", "outputs", "budget", "projected")
    return {
        f"{key}.{inner}" if inner else key
        for key, value in summary.items()
        for inner in (value if key in apart else [""])
    }


def test_the_json_objects_have_the_documented_keys(text, cli, samples):
    """A real run writes the keys of the page, no more and no fewer."""
    rows = samples / "chat_rows.jsonl"
    done = cli.run(rows, "-o", "run", "--provider", "simulator", "--json", "--limit", 3)
    assert done.code == 0, done.err
    summary = json.loads((cli.folder / "run" / "summary.json").read_text("utf-8"))
    assert done.json == summary
    documented = names(chapter(text, "Keys of `summary.json`"))
    evaluated = {"scores", "metrics", "gates", "judges", "totals.cost_usd_with_judges"}
    assert documented - {"reused", "rows.reused", "controls", "labels"} - evaluated == keys_of(
        summary
    )
    done = cli.run(
        rows, "-o", "again", "--provider", "simulator", "--json", "--limit", 3, "--reuse", "run"
    )
    assert documented - {"controls", "labels"} - evaluated == keys_of(done.json)
    status = json.loads((cli.folder / "run" / "checkpoint" / "status.json").read_text("utf-8"))
    assert names(chapter(text, "Keys of `checkpoint/status.json`")) == set(status)
    assert names(chapter(text, "Keys of `verify --json`")) == set(cli.verified("run"))


def test_what_has_no_sentence_ends_the_maker(maker):
    """A new column without a sentence, and a sentence without a column, are both refused."""
    described, refused = maker["described"], maker["UndocumentedError"]
    assert described("x", ["a"], {"a": "A."}) == [("a", "A.")]
    with pytest.raises(refused, match=r"no sentence about \['b'\]"):
        described("x", ["a", "b"], {"a": "A."})
    with pytest.raises(refused, match=r"about nothing: \['b'\]"):
        described("x", ["a"], {"a": "A.", "b": "B."})
