"""``batchrun runs``: the runs below a folder, their verdicts, metrics and trend."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrun.cli.looking.runs import command
from batchrun.views.history.runs import sparkline


@pytest.fixture
def nights(here, simulator, jsonl, chat, cli):
    """Three nights below one folder, with metrics and gates as an evaluation writes them."""
    endpoint = simulator()
    source = jsonl([chat(n) for n in range(4)])
    for number, (value, verdict) in enumerate([(0.5, "pass"), (0.7, "warn"), (0.65, "fail")]):
        name = f"nights/n{number}"
        flags = ("--label", f"night={number}", "--label", "team=search")
        done = here(source, "-o", name, "--base-url", endpoint.base_url, "--no-progress", *flags)
        assert done.code == 0, done.err
        path = cli.folder / name / "summary.json"
        summary = json.loads(path.read_text())
        summary["metrics"] = {"accuracy": {"value": value, "n": 4, "low": 0.1, "high": 0.9}}
        summary["gates"] = {"accuracy": {"verdict": verdict}, "cost_usd": {"verdict": "pass"}}
        path.write_text(json.dumps(summary))
    return cli.folder / "nights"


def _runs(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


def test_runs_are_listed_with_what_their_summaries_say(nights):
    """--json has the pinned keys, in the order in which the runs began."""
    code, out, _ = _runs(nights, "--json")
    assert code == 0
    runs = json.loads(out)["runs"]
    assert [Path(run["dir"]).name for run in runs] == ["n0", "n1", "n2"]
    for run in runs:
        summary = json.loads(Path(run["dir"], "summary.json").read_text())
        assert run["started_at"] == summary["started_at"]
        assert run["rows"] == {name: summary["rows"][name] for name in run["rows"]}
        assert run["cost_usd"] == summary["totals"]["cost_usd"]
        assert run["metrics"] == summary["metrics"] and run["labels"] == summary["labels"]
        assert (run["status"], run["exit_code"]) == ("complete", 0)
    assert [run["verdict"] for run in runs] == ["pass", "warn", "fail"]


def test_the_table_has_a_sparkline_for_every_metric(nights):
    """The trend is a bar for each run, and where it began and ended."""
    code, out, _ = _runs(nights)
    assert code == 0
    assert "accuracy  ▁█▆  0.5 to 0.65" in out
    assert out.count("complete") == 3 and "VERDICT" in out


def test_csv_has_a_column_for_each_metric_and_label(nights):
    """A missing value is an empty field."""
    _, out, _ = _runs(nights, "--csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["metric.accuracy"] for line in lines] == ["0.5", "0.7", "0.65"]
    assert [line["label.night"] for line in lines] == ["0", "1", "2"]
    assert [line["cost_usd"] for line in lines] == ["", "", ""]


def test_labels_choose_runs(nights):
    """--label keeps the runs that have it."""
    _, out, _ = _runs(nights, "--json", "--label", "night=1")
    assert [Path(run["dir"]).name for run in json.loads(out)["runs"]] == ["n1"]
    assert json.loads(_runs(nights, "--json", "--label", "night=9")[1])["runs"] == []


def test_what_is_inside_a_run_is_not_a_run_of_its_own(nights):
    """Judges' directories belong to their run; links and foreign folders are no runs."""
    shutil.copytree(nights / "n0", nights / "n1" / "judges" / "tone")
    (nights / "baseline").symlink_to("n0")
    (nights / "other").mkdir()
    (nights / "other" / "summary.json").write_text("[1]")
    (nights / "third").mkdir()
    (nights / "third" / "summary.json").write_text('{"status": "done"}')
    runs = json.loads(_runs(nights, "--json")[1])["runs"]
    assert [Path(run["dir"]).name for run in runs] == ["n0", "n1", "n2"]


def test_a_killed_run_is_listed_without_a_summary(interrupted, cli):
    """Its status says so, and its rows are those that were last seen."""
    folder, _, _ = interrupted()
    (folder / "summary.json").unlink()
    [run] = json.loads(_runs(cli.folder, "--json")[1])["runs"]
    assert run["status"] == "killed" and run["exit_code"] is None
    assert run["started_at"] is not None and run["rows"]["input"] == 40


@pytest.mark.parametrize(
    "arguments", [["nowhere"], [".", "--json", "--csv"], [".", "--label", "x"]]
)
def test_wrong_use_is_exit_2(cli, monkeypatch, arguments):
    """A folder that is not there, two formats, a label without a value."""
    monkeypatch.chdir(cli.folder)
    assert _runs(*arguments)[0] == 2


def test_sparklines():
    """Lowest and highest value take the ends; a missing one is a blank; ASCII where need be."""
    assert sparkline([1.0, None, 2.0, 1.5]) == "▁ █▅"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert sparkline([0.0, 1.0], plain=True).isascii()


def test_labels_stay_with_a_run_that_goes_on(here, simulator, jsonl, cli):
    """A later session adds to the labels; one without any leaves them; a bad one is refused."""
    endpoint = simulator()
    source = jsonl(3)

    def run(*flags):
        done = here(source, "-o", "run", "--base-url", endpoint.base_url, "--no-progress", *flags)
        return done, json.loads((cli.folder / "run" / "summary.json").read_text()).get("labels")

    assert run("--label", "a=1", "--label", "b=x=y")[1] == {"a": "1", "b": "x=y"}
    assert run()[1] == {"a": "1", "b": "x=y"}
    assert run("--label", "a=2")[1] == {"a": "2", "b": "x=y"}
    done, _ = run("--label", "nonsense")
    assert done.code == 2 and "KEY=VALUE" in done.err
    done, _ = run("--label", "a b=1")
    assert done.code == 2 and "'a b'" in done.err
    assert endpoint.stats()["requests_total"] == 3


def test_labels_come_from_the_config_file_too(here, simulator, jsonl, cli):
    """[labels] has texts, numbers and truth values; a flag wins over it."""
    endpoint = simulator()
    (cli.folder / "c.toml").write_text("[labels]\nproject = 'x'\nyear = 2026\ndraft = true\n")
    done = here(
        *(jsonl(1), "-o", "run", "--base-url", endpoint.base_url, "--no-progress"),
        *("-c", "c.toml", "--label", "project=y"),
    )
    assert done.code == 0, done.err
    summary = json.loads((cli.folder / "run" / "summary.json").read_text())
    assert summary["labels"] == {"project": "y", "year": "2026", "draft": "true"}
    (cli.folder / "c.toml").write_text("[labels]\nproject = ['x']\n")
    done = here(jsonl(1), "-o", "other", "--base-url", endpoint.base_url, "-c", "c.toml")
    assert done.code == 2 and "labels.project" in done.err
