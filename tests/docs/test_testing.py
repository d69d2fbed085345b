"""docs/testing.md: its examples run, its tables are complete."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^```python (run|test)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

# The example of a test is a test.
exec(compile(BLOCKS["test"], "docs/testing.md", "exec"))  # noqa: S102 - the page is ours


def names(title):
    """What the first column of the first table under a heading quotes."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def fixtures(path):
    """The fixtures that a file defines, those that apply by themselves left out."""
    found = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any("fixture" in mark and "autouse" not in mark for mark in marks):
                found.add(node.name)
    return found


def test_the_example_with_fakes_runs():
    """It is a program as it stands."""
    assert PAGE.count("```python") == len(BLOCKS) == 2
    exec(compile(BLOCKS["run"], "docs/testing.md", "exec"), {"__name__": "example"})  # noqa: S102


def test_every_kind_of_test_is_in_the_table():
    """Each folder of tests, and none that is not there."""
    folders = {f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if path.is_dir()}
    helping = {"tests/harness/", "tests/__pycache__/"}
    assert names("Which kind of test is for what") == folders - helping


def test_every_shared_fixture_is_in_the_table():
    """Those of `tests/conftest.py`, by name."""
    assert names("Fixtures") == fixtures("tests/conftest.py")


def test_every_module_of_fakes_is_in_the_table():
    """What `batchrun.testing` offers, and no more than that."""
    modules = {path.stem for path in (ROOT / "batchrun" / "testing").glob("*.py")} - {"__init__"}
    assert names("Tests of your own programs") == {f"batchrun.testing.{name}" for name in modules}


@pytest.mark.parametrize("name", ["FakeTransport", "FakeSource", "FakeJournal", "FakePublisher"])
def test_the_fakes_on_the_page_are_there(name):
    """Under the names that the page gives them."""
    from batchrun.testing import fakes

    assert hasattr(fakes, name) and name in PAGE
