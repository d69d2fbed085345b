"""Files that are made by a tool still say what their makers say."""

import itertools
import json
import re
import runpy
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]


def pins(name):
    """Package and version of every pin in a requirements file."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def test_tests_run_on_the_versions_that_the_demo_runs_on():
    """The tools' pins hold every runtime pin, at the same version."""
    runtime, tools = pins("run.txt"), pins("dev.txt")
    assert runtime
    assert runtime == {name: tools.get(name) for name in runtime}, "compile both: make pins"


def lower_bounds(declared):
    """The lowest version that each of these requirements allows, by the package's name."""
    found = {}
    for need in declared:
        name, bound = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", need).groups()
        found[name] = tuple(map(int, bound.split(".")))
    return found


def test_the_lowest_versions_are_those_that_are_declared():
    """Every dependency, of the extras too, is tested at its lower bound."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = itertools.chain(*project["optional-dependencies"].values())
    lowest = pins("lowest.txt")
    for name, bound in lower_bounds([*project["dependencies"], *extras]).items():
        pinned = tuple(map(int, lowest[name].split(".")))
        assert pinned[: len(bound)] == bound, f"{name} {lowest[name]}: make pins"


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "lowest.txt", "ray.txt", "real.txt"])
def test_pins_say_nothing_about_where_packages_come_from(name):
    """A requirements file holds pins, hashes and comments, and no option such as an index."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    options = [line for line in text.splitlines() if line.startswith("-")]
    assert not options
    assert "://" not in text


ONE_FILE = {"certifi"}
"""Packages whose pinned release has a single file."""


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "lowest.txt", "real.txt", "ray.txt"])
def test_pins_install_on_every_python(name):
    """A pin has the hashes of all files of its release, not only of the wheel for the interpreter
    that the pins were compiled on: with those alone, other versions and systems refuse it.
    """
    blocks = re.split(
        r"^(?=[\w.-]+==)", (ROOT / "requirements" / name).read_text("utf-8"), flags=re.MULTILINE
    )
    hashes = {
        each.partition("==")[0]: each.count("--hash=") for each in blocks if "--hash=" in each
    }
    assert hashes
    few = {package for package, number in hashes.items() if number < 2} - ONE_FILE
    assert not few, "delete the hashes of these and compile again: make pins"


def test_the_results_are_what_their_figures_make(monkeypatch):
    """benchmarks/RESULTS.md and its plots show the figures beside them, and nothing by hand."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = runpy.run_path(str(ROOT / "benchmarks" / "results.py"))
    made = script["made"](script["Figures"].load())
    assert len(made) > 1
    stale = [path.name for path, text in made.items() if path.read_text("utf-8") != text]
    assert not stale, "write them again: python benchmarks/clients.py --page"


def test_every_compared_library_is_pinned():
    """Each library of `make bench` has a requirements file of pins beside its script."""
    folder = ROOT / "benchmarks" / "peers"
    scripts = {path.stem for path in folder.glob("*.py")} - {"common"}
    wanted = {path.stem: path.read_text("utf-8").split() for path in folder.glob("*.txt")}
    assert scripts == wanted.keys()
    loose = [need for needs in wanted.values() for need in needs if "==" not in need]
    assert scripts
    assert not loose


@pytest.mark.parametrize("name", ["nightly_eval", "reviews"])
def test_a_made_sample_is_what_its_script_makes(name):
    """A Parquet sample holds the table that can be reviewed in its script."""
    script = runpy.run_path(str(ROOT / "samples" / f"make_{name}.py"))
    stored = pq.read_table(ROOT / "samples" / f"{name}.parquet")
    assert stored.equals(script["table"]()), f"make it again: python samples/make_{name}.py"


def test_the_questions_are_what_their_script_makes():
    """The CSV holds the table that can be reviewed in its script."""
    script = runpy.run_path(str(ROOT / "samples" / "make_questions.py"))
    stored = (ROOT / "samples" / "questions.csv").read_bytes().decode()
    assert stored == script["text"](), "make it again: python samples/make_questions.py"


def test_the_batch_sample_is_well_formed():
    """Every line is an OpenAI Batch line with an id of its own."""
    text = (ROOT / "samples" / "batch_lines.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines) == 60
    for line in lines:
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert [message["role"] for message in line["body"]["messages"]] == ["system", "user"]
