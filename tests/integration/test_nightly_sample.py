"""samples/nightly, night after night against the simulator, has the figures that it says."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "nightly"
EXPECTED = json.loads((SAMPLE / "expected.json").read_text("utf-8"))
FAILING = "400=0.0535"
"""The share of requests that the simulator refuses so that 12 of the 200 rows fail."""


@pytest.fixture
def night(cli, served):
    """Runs a night of the sample; compares its figures with the expected ones."""
    for name in ("nightly.toml", "questions.jsonl", "answer.schema.json"):
        shutil.copy(SAMPLE / name, cli.folder / name)

    def start(name, *flags, faults=()):
        _, port = served(0, *faults)
        done = cli(
            *("run", "-c", "nightly.toml", "-o", name, "--no-progress"),
            *("--base-url", f"http://127.0.0.1:{port}/v1"),
            *flags,
        )
        summary = json.loads((cli.folder / name / "summary.json").read_text())
        found = {
            "exit_code": done.code,
            "accuracy": pytest.approx(summary["metrics"]["accuracy"]["value"]),
            "gates": {gate: one["verdict"] for gate, one in summary["gates"].items()},
        }
        assert EXPECTED[name] == found, done.err
        return summary

    return start


@pytest.mark.slow
def test_two_nights_and_one_that_is_worse(cli, night):
    """An unchanged night passes; another model is exit 4, and compare names the rows."""
    night("first")
    assert cli("bless", "first").code == 0
    night("unchanged")
    summary = night("worse", "--model", "sim-tiny")
    assert "lower than in the baseline" in summary["gates"]["compare.accuracy"]["why"]
    done = cli("compare", "baseline", "worse")
    assert done.code == 4
    assert "model: request.model: 'sim-small' in A, 'sim-tiny' in B" in done.out
    assert "regressions: 133 pairs (the first 10; -n N shows more)" in done.out
    assert "sums-000 (row 0): correct 1 -> 0" in done.out
    cli.verified("worse")


@pytest.mark.slow
def test_a_night_with_failed_rows_is_inconclusive_because_of_them(cli, night):
    """12 failed rows could make the night pass or fail: both gates say that they decide."""
    night("first")
    cli("bless", "first")
    summary = night("failing", faults=("--error", FAILING))
    assert summary["rows"]["error"] == 12
    for gate in summary["gates"].values():
        assert "12" in gate["why"]
        assert "--retry-failed" in gate["why"]


@pytest.mark.slow
def test_the_questions_are_what_their_script_makes(tmp_path, monkeypatch):
    """The questions were made by the script beside them."""
    script = runpy.run_path(str(SAMPLE / "make_rows.py"))
    for name in ("nightly.toml", "answer.schema.json"):
        shutil.copy(SAMPLE / name, tmp_path / name)
    monkeypatch.setitem(script["main"].__globals__, "HERE", tmp_path)
    script["main"]()
    made = (tmp_path / "questions.jsonl").read_text("utf-8")
    assert made == (SAMPLE / "questions.jsonl").read_text("utf-8")
