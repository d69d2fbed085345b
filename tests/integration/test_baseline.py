"""Gates against a baseline in `run` and `score`, `batchrun bless`, and what CI is told of them."""

import json
import re
from pathlib import Path

import junitparser
import pytest

from tests.harness.finished_runs import write_run

CONFIG = """
[input]
files = ["rows.jsonl"]
[request]
model = "m"
prompt = "{{ question }}"
[scores]
correct = "exact(content, expected)"
[metrics]
accuracy = "avg(correct)"
by_topic = { value = "avg(correct)", by = "topic" }
[gates]
accuracy = ">= 0.5"
[gates.compare]
baseline = "nights/baseline"
accuracy = { not_worse_by = 0.2 }
"""
ROWS = 40


@pytest.fixture
def night(cli, scripted, answer):
    """Runs a night of 40 rows of which the first so many are answered right."""
    lines = [
        {"custom_id": f"q{n}", "question": f"question {n}", "expected": "yes", "topic": f"t{n % 2}"}
        for n in range(ROWS)
    ]
    (cli.folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (cli.folder / "night.toml").write_text(CONFIG)
    (cli.folder / "nights").mkdir()

    def start(name, right, *flags, failing=0, **more):
        def reply(body, _headers, _nth):
            number = int(body["messages"][0]["content"].split()[1])
            if number < failing:
                return 400, {}, {"error": {"message": "no", "type": "invalid_request_error"}}
            return 200, {}, answer("yes" if number < right else "no")

        endpoint = scripted(reply)
        folder = f"nights/{name}"
        flags = ("--base-url", endpoint.base_url, "--no-progress", *flags)
        done = cli("run", "-c", "night.toml", "-o", folder, *flags, **more)
        return done, json.loads((cli.folder / folder / "summary.json").read_text())

    return start


def test_nights_against_a_baseline(cli, night):
    """Without a baseline nothing is judged; an equal night passes; a worse one is exit 4."""
    done, first = night("one", 36)
    assert done.code == 0, done.err
    gate = first["gates"]["compare.accuracy"]
    assert gate["verdict"] == "not_judged"
    assert "no baseline yet" in gate["why"]
    assert cli("bless", "nights/one", "-c", "night.toml").code == 0
    done, equal = night("two", 36)
    assert done.code == 0, done.err
    assert equal["gates"]["compare.accuracy"]["verdict"] == "pass"
    assert equal["gates"]["compare.accuracy"]["value"] == 0
    done, worse = night("three", 22)
    assert done.code == 4
    assert worse["exit_code"] == 4
    assert worse["gates"]["accuracy"]["verdict"] == "pass"
    gate = worse["gates"]["compare.accuracy"]
    assert gate["verdict"] == "fail"
    assert gate["value"] == pytest.approx(-14 / 40)
    scored = cli("score", "nights/three")
    assert scored.code == 4, scored.err
    compared = cli("compare", "nights/baseline", "nights/three", "--json")
    assert compared.code == 4
    found = json.loads(compared.out)
    assert found["gates"]["compare.accuracy"]["verdict"] == "fail"
    assert {row["custom_id"] for row in found["rows"]} <= {f"q{n}" for n in range(22, 36)}
    cli.verified("nights/three")


def test_failed_rows_that_decide_are_the_reason(cli, night):
    """A night that is worse by its failed rows alone is inconclusive because of them, exit 4."""
    night("one", 36)
    cli("bless", "nights/one")
    done, summary = night("two", 36, failing=10)
    assert done.code == 4
    gate = summary["gates"]["compare.accuracy"]
    assert gate["verdict"] == "inconclusive"
    assert "10 rows failed in this run" in gate["why"]


@pytest.mark.slow
def test_a_baseline_that_is_lost_or_damaged_is_never_a_pass(cli, night):
    """A link to nowhere is not judged and says so; a baseline that cannot be read blocks."""
    night("one", 36)
    cli("bless", "nights/one")
    (cli.folder / "nights/one").rename(cli.folder / "nights/gone")
    done, summary = night("two", 36)
    gate = summary["gates"]["compare.accuracy"]
    assert (gate["verdict"], done.code) == ("not_judged", 0)
    assert "points to one, which is gone" in gate["why"]
    cli("bless", "nights/gone", "--as", "nights/baseline")
    (part,) = (cli.folder / "nights/gone/results").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    done, summary = night("three", 36)
    assert done.code == 4
    gate = summary["gates"]["compare.accuracy"]
    assert gate["verdict"] == "inconclusive"
    assert "is damaged" in gate["why"]


def test_the_blessed_run_is_not_compared_with_itself(cli, night):
    """Scoring the baseline again does not judge it against itself."""
    night("one", 36)
    cli("bless", "nights/one")
    assert cli("score", "nights/one").code == 0
    summary = json.loads((cli.folder / "nights/one/summary.json").read_text())
    assert summary["gates"]["compare.accuracy"]["verdict"] == "not_judged"


def test_bless_from_another_folder_sets_the_same_link(cli, night):
    """The recorded path counts from where the run was started, as gates read it."""
    night("one", 36)
    done = cli("bless", "one", cwd=cli.folder / "nights")
    assert done.code == 0, done.err
    assert (cli.folder / "nights/baseline").readlink() == Path("one")
    assert not (cli.folder / "nights/nights").exists()
    elsewhere = cli.folder / "elsewhere"
    elsewhere.mkdir()
    (cli.folder / "nights/one").rename(elsewhere / "moved")
    moved = cli("bless", "moved", cwd=elsewhere)
    assert moved.code == 2 and "the folder of nights/baseline does not exist" in moved.err


def test_bless_links_relatively_and_names_what_was_before(cli, tmp_path):
    """The link names the run itself by a relative path, is replaced at once, and can be moved."""
    for name in ("one", "two"):
        write_run(cli.folder / "nights" / name, [{"content": "x"}])
    (cli.folder / "nights/latest").symlink_to("one")
    done = cli("bless", "nights/latest", "--as", "nights/baseline")
    assert done.code == 0, done.err
    link = cli.folder / "nights/baseline"
    assert link.readlink() == Path("one")
    done = cli("bless", "nights/two", "--as", "nights/baseline", "--json")
    assert json.loads(done.out) == {"link": "nights/baseline", "run": "two", "before": "one"}
    (cli.folder / "nights").rename(tmp_path / "moved")
    assert (tmp_path / "moved/baseline/summary.json").exists()
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [
        "baseline",
        "latest",
        "one",
        "two",
    ]


def test_bless_refuses_what_is_no_baseline(cli):
    """Unfinished runs and failed gates need --force; a real directory is never replaced."""
    failed = {"gates": {"accuracy": {"verdict": "fail", "why": "it is 0"}}, "exit_code": 4}
    write_run(cli.folder / "stopped", [{"content": "x"}], status="stopped")
    write_run(cli.folder / "failed", [{"content": "x"}], **failed)
    write_run(cli.folder / "good", [{"content": "x"}])
    (cli.folder / "empty").mkdir()
    for name, said in (
        ("stopped", "is not finished"),
        ("failed", "the gates of failed failed: accuracy"),
        ("empty", "empty has no results"),
    ):
        done = cli("bless", name, "--as", "baseline")
        assert done.code == 2, name
        assert said in done.err
        assert not (cli.folder / "baseline").is_symlink()
    assert cli("bless", "failed", "--as", "baseline", "--force").code == 0
    nameless = cli("bless", "good")
    assert nameless.code == 2
    assert "--as PATH" in nameless.err
    for place in ("failed", "good/summary.json"):
        done = cli("bless", "good", "--as", place, "--force")
        assert done.code == 2
        assert "never replaces it" in done.err
    assert (cli.folder / "failed" / "summary.json").exists()


def test_junit_has_a_case_for_each_gate_and_group(cli, night):
    """A parser of JUnit reads the gates: a failure fails, what was not judged is skipped."""
    night("one", 36)
    night("one", 36, "--junit", "one.xml")
    cli("bless", "nights/one")
    done, _ = night("two", 10, "--junit", "two.xml", "--markdown", "two.md")
    assert done.code == 4
    first, second = (
        junitparser.JUnitXml.fromfile(str(cli.folder / name)) for name in ("one.xml", "two.xml")
    )
    assert (first.tests, first.failures, first.errors, first.skipped) == (5, 0, 0, 1)
    assert (second.tests, second.failures, second.errors) == (5, 2, 0)
    (suite,) = second
    cases = {case.name: case for case in suite}
    assert set(cases) == {"finished", "accuracy", "compare.accuracy", "t0", "t1"}
    assert "accuracy is 0.25" in cases["accuracy"].result[0].message
    text = (cli.folder / "two.md").read_text()
    assert text.startswith("### batchrun run nights/two: gates failed")
    assert "| accuracy | >= 0.5 | 0.25 | **FAIL** |" in text


def test_compare_lists_the_rows_that_got_worse(cli, night):
    """JUnit and Markdown of a comparison name regressions, at most 20 in JUnit."""
    night("one", 40)
    night("two", 10)
    done = cli(
        *("compare", "nights/one", "nights/two", "--junit", "c.xml", "--markdown", "c.md"),
        *("-n", "30"),
    )
    assert done.code == 4
    (suite,) = junitparser.JUnitXml.fromfile(str(cli.folder / "c.xml"))
    (gate,) = [case for case in suite if case.name == "compare.accuracy"]
    assert gate.result[0].text.count("correct 1 -> 0") == 20
    assert "and 10 more" in gate.result[0].text
    text = (cli.folder / "c.md").read_text()
    assert text.count("correct 1 -&gt; 0") + text.count("correct 1 -> 0") == 30


def test_a_run_without_a_verdict_is_an_error_for_ci(cli, night):
    """A run that a guard stopped, or that fails, does not look like skipped tests."""
    done, summary = night(
        "one", 36, "--max-failures", "0", "--concurrency", "1", "--junit", "r.xml", failing=3
    )
    assert done.code == 3, summary
    found = junitparser.JUnitXml.fromfile(str(cli.folder / "r.xml"))
    assert (found.errors, found.failures) == (1, 0)
    done = cli("compare", "nights/one", "nowhere", "--junit", "c.xml")
    assert done.code == 2
    assert junitparser.JUnitXml.fromfile(str(cli.folder / "c.xml")).errors == 1


def test_the_job_summary_is_appended_and_bounded(cli):
    """GitHub's job summary is appended to, at most 64 KB at a time, and hostile text is inert."""
    hostile = "![x](https://evil.example/p.png) <img src=x> @octocat | `a` \x1b[31m [l](http://x)"
    rows = [{"custom_id": f"{hostile}{n}", "content": hostile * 20} for n in range(300)]
    for name, change in (("a", ""), ("b", "!")):
        write_run(cli.folder / name, [{**row, "content": row["content"] + change} for row in rows])
    (cli.folder / "c.toml").write_text("[scores]\nplain = \"content NOT LIKE '%!'\"\n")
    place = cli.folder / "summary.md"
    place.write_text("before\n")
    done = cli(
        *("compare", "a", "b", "-c", "c.toml", "-n", "300"),
        env={"GITHUB_STEP_SUMMARY": str(place)},
    )
    assert done.code == 0, done.err
    text = place.read_text()
    assert text.startswith("before\n### batchrun compare a b")
    assert 60_000 < len(text.encode()) <= 64 * 1024 + 7
    assert "does not fit into 64 KB" in text
    for token in ("![x]", "<img", "@octocat", "\x1b", "https://"):
        assert token not in text
    assert not re.search(r"(?<!\\)\]\(", text)


def test_a_report_that_cannot_be_written_is_known_before_the_run(cli, night):
    """A folder that does not exist is exit 2, with nothing sent."""
    night("one", 36)
    done = cli("compare", "nights/one", "nights/one", "--junit", "no/where.xml")
    assert done.code == 2
    assert "--junit no/where.xml: the folder no does not exist" in done.err


@pytest.mark.slow
def test_scores_of_two_definitions_are_compared_by_one(cli, night):
    """SQL is computed again for both runs; Python counts as recorded by the same version, else it
    is left out, and its gate is no pass.
    """
    scorer = (
        "def yes(table):\n    return [c == '%s' for c in table.column('content').to_pylist()]\n"
    )
    config = CONFIG.replace(
        "[metrics]", 'py = { python = "scorer.py:yes" }\n[metrics]\npy = "avg(py)"'
    )
    (cli.folder / "night.toml").write_text(config + "py = { not_worse_by = 0.2 }\n")
    (cli.folder / "scorer.py").write_text(scorer % "yes")
    night("one", 36)
    cli("bless", "nights/one", "-c", "night.toml")
    done, equal = night("two", 36)
    assert done.code == 0, done.err
    assert equal["gates"]["compare.py"]["verdict"] == "pass"
    recorded = json.loads(cli("compare", "nights/one", "nights/two", "--json").out)
    assert recorded["scores"]["py"]["both"] == 36
    (cli.folder / "scorer.py").write_text(scorer % "no")
    changed = config.replace('"exact(content, expected)"', "\"content = 'no'\"")
    (cli.folder / "night.toml").write_text(changed + "py = { not_worse_by = 0.2 }\n")
    done, summary = night("three", 36)
    gate = summary["gates"]["compare.py"]
    assert (gate["verdict"], gate["blocks"]) == ("inconclusive", True)
    assert "different versions of its Python scorer" in gate["why"]
    found = json.loads(cli("compare", "nights/one", "nights/three", "--json").out)
    assert found["differs"] == ["scores"]
    assert found["scores"]["correct"]["both"] == 4
    assert "py" not in found["scores"]


def test_other_judges_are_named_and_no_gate_passes(cli):
    """A baseline that another judge judged is no baseline."""
    gates = {"compare": {"baseline": "a", "long": {"not_worse_by": 0.5}}}
    settings = {
        "scores": {"long": "len(content) > 3"},
        "metrics": {"long": "avg(long)"},
        "gates": gates,
    }
    for name, model in (("a", "judge-1"), ("b", "judge-2")):
        rows = [{"custom_id": f"{n}", "content": "long enough"} for n in range(30)]
        write_run(cli.folder / name, rows, settings=settings, judges={"tone": {"rows": 30}})
        judge = cli.folder / name / "judges" / "tone"
        judge.mkdir(parents=True)
        (judge / "summary.json").write_text(json.dumps({"settings": {"request.model": model}}))
    done = cli("compare", "a", "b", "--json")
    found = json.loads(done.out)
    assert found["differs"] == ["judge"]
    gate = found["gates"]["compare.long"]
    assert (gate["verdict"], done.code) == ("inconclusive", 4)
    assert "another judge" in gate["why"]
