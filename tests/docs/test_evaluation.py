"""The examples of docs/evaluation.md run as they stand, and its tables are complete."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from batchrun.adapters.scoring import functions
from batchrun.core.statistics.distributions import binomial_tail

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE)


@pytest.mark.slow
def test_the_page_runs(cli):
    """A run with scores, metrics and gates, scored again and queried."""
    for _, info, body in BLOCKS:
        if info.startswith("file="):
            (cli.folder / info.removeprefix("file=")).write_text(body, "utf-8")
    python = shlex.quote(sys.executable)
    script = "".join(
        body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        for language, info, body in BLOCKS
        if info == "run"
    )
    # The quiz is one of guessing: its gate may fail.
    script = script.replace("-c quiz.toml\n", "-c quiz.toml || [ $? = 4 ]\n", 1)
    script = script.replace("score quiz-run\n", "score quiz-run || [ $? = 4 ]\n", 1)
    (cli.folder / "samples").symlink_to(ROOT / "samples")
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    assert "custom_id  topic" in done.stdout
    assert "verified: every row is accounted for" in done.stdout
    assert (cli.folder / "shouted.csv").read_text() == '"status","rows","shouted"\n"ok",3,0\n'
    summary = json.loads((cli.folder / "quiz-run" / "summary.json").read_text())
    assert list(summary["metrics"]) == ["long"]
    compared = json.loads((cli.folder / "comparison.json").read_text())
    assert compared["pairs"] == 3
    assert "model: request.model: 'any' in A, 'another' in B" in done.stdout
    assert "exit code 4" in done.stdout
    assert "regressions: 133 pairs" in done.stdout
    assert (cli.folder / "nightly" / "baseline").readlink() == Path("nights/monday")
    assert (cli.folder / "nightly" / "gates.xml").exists()


def test_every_function_is_in_the_table():
    """The table names the functions that SQL has, and no others."""
    table = PAGE.partition("| function | gives |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)) == set(functions.PUBLIC)


def test_the_ten_lines_are_those_of_the_sample():
    """The table of the page is the end of the sample's config."""
    config = (ROOT / "samples" / "nightly" / "nightly.toml").read_text("utf-8")
    table = config[config.index("[scores]") :]
    assert len(table.splitlines()) == 10
    assert f"```toml\n{table}```" in PAGE


@pytest.mark.slow
def test_a_night_by_hand_is_as_long_as_it_says(cli, served):
    """The program by hand runs over the sample, and is as long as the page says."""
    (program,) = [body for _, info, body in BLOCKS if info == "file=by_hand.py"]
    (workflow,) = [body for _, info, body in BLOCKS if info == "by-hand"]
    lines = (len(program.rstrip().splitlines()), len(workflow.splitlines()))
    assert f"Those are {lines[0]} lines of Python and {lines[1]} of YAML" in PAGE
    folder = cli.folder / "nightly"
    shutil.copytree(ROOT / "samples" / "nightly", folder)
    (folder / "by_hand.py").write_text(program)
    _, port = served()
    environment = cli._environment(
        {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    )
    done = subprocess.run(
        [sys.executable, "by_hand.py"], cwd=folder, env=environment, timeout=120, check=False
    )
    # The simulator takes this program's requests for others, and guesses.
    assert done.returncode == 1
    tonight = json.loads((folder / "tonight.json").read_text())
    assert {row["answer"] for row in tonight} == set("ABCD")
    assert 30 < sum(row["correct"] for row in tonight) < 70


def test_how_often_a_bare_difference_fails():
    """Of 100 rows that flip by chance, 11 more are lost than won in 14 of 100 nights."""
    assert "fails 14 of 100 nights" in " ".join(PAGE.split())
    assert round(binomial_tail(44, 100, 0.5), 2) == 0.14


@pytest.mark.parametrize("name", ["by-hand", "actions"])
def test_workflows_are_yaml_with_commands_that_exist(cli, name):
    """Every step of a workflow can be read, and its commands have the flags that they name."""
    (text,) = [body for _, info, body in BLOCKS if info == name]
    workflow = yaml.safe_load(text)
    steps = workflow["jobs"]["evaluate"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("batchrun ")]
    assert len(commands) == (name == "actions")
    for command in commands:
        _, verb, *words = re.sub(r"\$\{\{.*?\}\}", "1", command).split()
        assert cli(verb, *words, "--help").code == 0


@pytest.mark.slow
def test_the_timer_and_cron_run_the_command_of_the_page(cli):
    """The unit and the table of cron are well formed, and their command runs with another clock."""
    units = {
        info.removeprefix("file="): configparser.RawConfigParser(strict=True)
        for _, info, body in BLOCKS
        if info.startswith("file=batchrun-nightly")
    }
    for _, info, body in BLOCKS:
        if (found := units.get(info.removeprefix("file="))) is not None:
            found.read_string(body)
    start = units["batchrun-nightly.service"]["Service"]["execstart"]
    command = start.replace("%%", "%").replace("$$", "$").removeprefix("/bin/sh -c ")
    (crontab,) = [body for _, info, body in BLOCKS if info == "crontab"]
    by_cron = crontab.splitlines()[1].partition("&& ")[2].partition(" 2>>")[0].replace("\\%", "%")
    shutil.copytree(ROOT / "samples" / "nightly", cli.folder / "nightly")
    config = cli.folder / "nightly" / "nightly.toml"
    config.write_text(config.read_text() + '\n[[endpoint]]\nprovider = "simulator"\n')
    python = shlex.quote(sys.executable)
    for script in (shlex.split(command)[0].removeprefix("exec "), by_cron):
        done = subprocess.run(
            ["bash", "-c", f'batchrun() {{ {python} -m batchrun "$@"; }}\n{script}'],
            cwd=cli.folder / "nightly",
            env=cli._environment({}),
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
    (night,) = (cli.folder / "nightly" / "nights").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", night.name)
