"""The distribution's name: `batchrun` on the package index is another project."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TAKEN = "batchrun"
# An installer, its verb, other words of the command, then the bare name: perhaps in quotes, perhaps
# with extras or a version behind it. A path, a file or a longer name is not meant.
INSTALLS = re.compile(
    r"""\b(?:
        pip[\d.]*\s+(?:install|download|wheel|index\s+versions) | pipx\s+(?:install|run|inject)
      | uv\s+(?:add|pip\s+install|tool\s+(?:install|run)|run\s+--with) | uvx(?:\s+--(?:from|with))?
      | (?:poetry|pdm|rye)\s+add | (?:conda|mamba|micromamba|easy_install)(?:\s+install)?
    )
    (?:[ \t]+[^\s,;:|&()`]*[^\s,;:|&()`.])*?
    [ \t'"]+"""
    + TAKEN
    + r"""(?![\w/-]|\.\w)""",
    re.VERBOSE | re.IGNORECASE,
)


def _name():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["name"]


def test_the_distribution_has_a_name_of_its_own():
    """The wheel's name is not the stranger's; command and package keep theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] != TAKEN
    assert TAKEN in project["scripts"]
    assert (ROOT / TAKEN / "__init__.py").is_file()


def test_nothing_tells_anybody_to_install_a_strangers_package(repository_texts):
    """No text of the repository installs what is called like the command."""
    found = [
        f"{path}: {match.group()}"
        for path, text in repository_texts.items()
        for match in INSTALLS.finditer(text)
    ]
    assert not found, (
        f"{TAKEN} on the package index is somebody else's code: install {_name()}, '.' or "
        "'.[extra]' in a checkout, or the package that is missing.\n" + "\n".join(found)
    )


@pytest.mark.parametrize(
    "command",
    [
        "pip install {}",
        "pip install '{}[tokenizer]'",
        'pip3 install -U "{}[eval,excel]>=1"',
        "python -m pip install --upgrade {}==0.1.0",
        "pip install pandas {}",
        "pip install {}.",
        "uv add {}",
        "uv pip install {}",
        "uv tool install {}",
        "uv run --with {} x",
        "uvx {} run",
        "uvx --from {} x",
        "pipx install {}",
        "pipx run {}",
        "poetry add {}",
        "conda install -c conda-forge {}",
        "pip download --no-deps {}",
    ],
)
def test_commands_that_install_it_are_found(command):
    """The rule turns red for every installer, with quotes, extras, versions and options."""
    assert INSTALLS.search(command.format(TAKEN))
    assert INSTALLS.search("x\n    " + command.format(TAKEN) + "\ny")
    own = command.format(_name())
    assert not INSTALLS.search(own), own


@pytest.mark.parametrize(
    "text",
    [
        "pip install .",
        "pip install '.[tokenizer]'",
        "pip install splintr-rs",
        "pip install ./{}/wheel",
        "pip install dist/{}_llm-0.1.0-py3-none-any.whl",
        "pip install splintr-rs\n{} estimate rows.jsonl",
        "(pip install pyarrow), then {} runs",
    ],
)
def test_other_commands_are_not(text):
    """What installs the checkout, a wheel or a dependency is right."""
    assert not INSTALLS.search(text.format(TAKEN))
