"""What the documentation tells people to type works as it stands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.core import settings as config
from batchrun.core import shaping
from batchrun.core.setting_table import BY_NAME, TABLE

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path, language):
    """The fenced blocks of a page in one language: what stands behind the language, the text."""
    text = (ROOT / path).read_text("utf-8")
    return [(info, body) for lang, info, body in FENCE.findall(text) if lang == language]


def marked(path):
    """The shell blocks that are marked to be run."""
    found = [body for info, body in blocks(path, "sh") if "run" in info.split()]
    assert found, f"{path} has no block marked with ```sh run"
    return found


@pytest.fixture
def shell(tmp_path):
    """Runs text in a shell, in a copy of the checkout's samples, with the command on PATH."""
    folder, programs = tmp_path / "checkout", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    shutil.copytree(ROOT / "samples", folder / "samples")
    shutil.copy(ROOT / "config.toml", folder)
    python = shlex.quote(sys.executable)
    for name, command in [("python", python), ("batchrun", f"{python} -m batchrun")]:
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', "utf-8")
        program.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }

    def run(text):
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    run.folder = folder
    return run


def test_the_readme_blocks_run(shell):
    """The walk of the README: a run, a kill, a resume, a check, and reading the results."""
    seen = [shell(text) for text in marked("README.md")]
    assert "verified: every row is accounted for" in seen[0]
    assert "killed" in seen[1]
    assert "complete: 60 of 60 rows ok, 0 failed" in seen[2]
    results = pq.read_table(shell.folder / "walk" / "results", partitioning=None)
    assert results.column("row").to_pylist() == list(range(60))
    again = shell("batchrun run samples/batch_lines.jsonl -o walk --provider simulator --rpm 900")
    assert "nothing left to send" in again


def test_the_samples_blocks_run(shell):
    """The commands in the samples' README."""
    for text in marked("samples/README.md"):
        assert "0 failed" in shell(text)


TEMPLATES = "docs/templates.md"


def test_the_blocks_about_templates_run(shell):
    """Every command and every configuration of the page about templates does without a failure."""
    (row,) = [body for info, body in blocks(TEMPLATES, "json") if info == "row"]
    (shell.folder / "values.jsonl").write_text(row, "utf-8")
    for text in marked(TEMPLATES):
        assert " 0 failed" in shell(text)
    configs = [(info.partition("=")[2], body) for info, body in blocks(TEMPLATES, "toml")]
    assert all(name for name, _ in configs)
    for name, body in configs:
        (shell.folder / f"{name}.toml").write_text(body, "utf-8")
        assert " 0 failed" in shell(f"batchrun run -c {name}.toml")


def test_the_page_about_templates_tells_what_is_rendered():
    """The row on the page, by the template on the page, is the text on the page."""
    (config_text,) = [body for info, body in blocks(TEMPLATES, "toml") if info == "run=values"]
    (row,) = [json.loads(body) for info, body in blocks(TEMPLATES, "json") if info == "row"]
    (rendered,) = [body for info, body in blocks(TEMPLATES, "text") if info == "rendered"]
    plan = shaping.plan(config.resolve(config.from_toml(config_text, path=TEMPLATES)))
    made = plan.shaper([row], lambda _: b"")(row)
    assert made.body["messages"] == [{"role": "user", "content": rendered.rstrip("\n")}]


def test_the_demo_config_runs(shell):
    """`config.toml` is the demo's configuration."""
    seen = shell(
        "batchrun run -c config.toml && batchrun status demo-run && batchrun verify demo-run"
    )
    assert "complete: 60 of 60 rows ok, 0 failed" in seen
    assert "verified" in seen


def test_the_config_blocks_are_valid():
    """Every TOML block of the README is a whole, valid configuration."""
    found = blocks("README.md", "toml")
    assert found
    for _, body in found:
        config.resolve(config.from_toml(body, path="README.md"))


def uncommented():
    """`config.toml` with every commented setting switched on, and which those are."""
    lines, commented = [], set()
    section = ""
    for line in (ROOT / "config.toml").read_text("utf-8").splitlines():
        if table := re.match(r"\[+(\w+)\]+", line):
            section = table[1]
        if setting := re.match(r"# ((\w+) = .*)", line):
            lines.append(setting[1])
            commented.add((f"{section}.{setting[2]}", "# example" in line))
        else:
            lines.append(line)
    return "\n".join(lines), commented


def test_the_config_names_every_setting():
    """Each key of the table stands in `config.toml`, set or commented out, and is valid."""
    text, _ = uncommented()
    raw = config.from_toml(text, path="config.toml")
    assert set(raw) == {setting.name for setting in TABLE}
    # The two ways to say what the messages are exclude each other.
    config.resolve({name: raw[name] for name in raw if name != "request.messages"})
    short = ("request.prompt", "request.system")
    config.resolve({name: raw[name] for name in raw if name not in short})


def test_the_config_tells_the_defaults():
    """A setting that is commented out, and no example, has the value that it has anyway."""
    text, commented = uncommented()
    document = tomllib.loads(text)
    for name, example in commented:
        section, _, key = name.partition(".")
        content = document[section]
        value = (content[0] if isinstance(content, list) else content)[key]
        default = BY_NAME[name].default
        if default in (None, {}, ()):
            assert example, f"{name} has no default: mark the line as an example"
        else:
            assert not example and value == default, f"{name} is {value}, the default {default}"


def test_the_exit_codes_of_the_readme_are_those_of_the_reference():
    """The short table and the complete one name the same codes."""
    codes = []
    for path in ("README.md", "docs/reference.md"):
        section = (ROOT / path).read_text("utf-8").partition("\n## Exit codes\n")[2]
        section = section.partition("\n## ")[0]
        cells = re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
        codes.append({int(number) for cell in cells for number in cell.split(",")})
    assert codes[0] == codes[1]


def test_links_and_files_named_in_the_docs_exist():
    """No page links to a file that is not there, and the architecture names no gone module."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
        for module in re.findall(
            r"`((?:core|engine|adapters|views|cli|simulator)/[\w/]+\.py)`", text
        ):
            assert (ROOT / "batchrun" / module).exists(), f"{page}: {module}"
        for file in re.findall(r"`((?:batchrun|tests|docs|benchmarks)/[\w/.-]+\.\w+)`", text):
            assert (ROOT / file).exists(), f"{page}: {file}"
