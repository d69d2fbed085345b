"""Scores, metrics and gates of a run: configured in TOML, computed when it ends, judged."""

import fcntl
import json
import math
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import batchrun
from tests.harness.slow import rest_slow

ROWS = ["A", "B", "A", "C", "FAIL", "A", "none", "B", "A", "A"]
"""What is asked, which the endpoint gives back; FAIL is refused."""
EXPECTED = "A"


def _line(number, text):
    row = {"custom_id": f"q{number}", "text": text, "expected": EXPECTED, "topic": f"t{number % 2}"}
    return json.dumps(row) + "\n"


@pytest.fixture
def evaluated(here, scripted, answer, cli):
    """``evaluated(config, ...)``: a run over ``ROWS`` with these tables in its config."""

    def reply(body, _headers, _nth):
        asked = body["messages"][0]["content"]
        if asked == "FAIL":
            return 400, {}, {"error": {"message": "no", "type": "invalid_request_error"}}
        return 200, {}, answer(asked)

    endpoint = scripted(reply)

    def run(tables, *more, rows=ROWS):
        text = "".join(map(_line, range(len(rows)), rows))
        path = cli.folder / "rows.jsonl"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        (cli.folder / "c.toml").write_text(
            '[input]\nfiles = ["rows.jsonl"]\n[output]\ndir = "run"\nshard_rows = 4\n'
            f'[request]\nprompt = "{{{{ text }}}}"\n{tables}'
        )
        return here("-c", "c.toml", "--base-url", endpoint.base_url, "--no-progress", *more)

    run.endpoint = endpoint
    return run


def scores_of(folder="run"):
    """The columns of all parts of the scores."""
    parts = sorted(Path(folder, "scores").glob("part-*.parquet"))
    tables = [pq.read_table(part) for part in parts]
    return {
        name: [value for table in tables for value in table.column(name).to_pylist()]
        for name in tables[0].schema.names
    }


CORRECT = '[scores]\ncorrect = "exact(content, expected)"\n'


def test_scores_are_written_beside_the_results(evaluated, summary):
    """One part of scores for each part of results, booleans as booleans, failed rows as wrong."""
    done = evaluated(
        CORRECT + 'length = { sql = "len(content)", errors = "skip" }\n'
        "first = \"num(CASE WHEN content = 'none' THEN NULL ELSE '7' END)\"\n"
    )
    assert done.code == 1, done.err
    found = scores_of()
    assert found["row"] == list(range(10))
    assert found["custom_id"] == [f"q{n}" for n in range(10)]
    assert found["correct"] == [text == "A" for text in ROWS]
    assert found["length"] == [None if text == "FAIL" else float(len(text)) for text in ROWS]
    assert found["first"] == [0.0 if t == "FAIL" else None if t == "none" else 7.0 for t in ROWS]
    counts = {
        name: {key: one[key] for key in ("scored", "null", "error_rows")}
        for name, one in summary("run")["scores"].items()
    }
    assert counts == {
        "correct": {"scored": 9, "null": 0, "error_rows": 1},
        "length": {"scored": 9, "null": 0, "error_rows": 1},
        "first": {"scored": 8, "null": 1, "error_rows": 1},
    }
    assert len(list(Path("run/scores").iterdir())) == 3
    assert {path.stat().st_mode & 0o777 for path in Path("run/scores").iterdir()} == {0o600}


def test_metrics_have_intervals_and_bounds(evaluated, summary):
    """A mean of 0 and 1 has Wilson's interval; failed rows bound it from both sides."""
    done = evaluated(
        CORRECT + '[metrics]\naccuracy = "avg(correct)"\nsize = "avg(len(content))"\n'
        'both = "sum(correct) / count(correct)"\n'
        'by_topic = { value = "avg(correct)", by = "topic", cluster = "text" }\n'
    )
    assert done.code == 1, done.err
    found = summary("run")["metrics"]
    accuracy = found["accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (0.5, 10)
    assert accuracy["low"] == pytest.approx(0.2366, abs=1e-4)  # Wilson, 5 of 10
    assert accuracy["high"] == pytest.approx(0.7634, abs=1e-4)
    assert (accuracy["as_if_errors_wrong"], accuracy["as_if_errors_right"]) == (0.5, 0.6)
    assert found["size"]["n"] == 9
    assert found["size"]["value"] == pytest.approx(12 / 9)
    assert found["size"]["as_if_errors_wrong"] is None
    assert found["both"]["value"] == 0.5
    assert (found["both"]["as_if_errors_wrong"], found["both"]["as_if_errors_right"]) == (0.5, 0.6)
    groups = found["by_topic"]["groups"]
    assert {key: (one["value"], one["n"]) for key, one in groups.items()} == {
        "t0": (0.6, 5),  # A, A, FAIL, none, A
        "t1": (0.4, 5),
    }
    assert groups["t0"]["as_if_errors_right"] == 0.8
    assert groups["t1"]["as_if_errors_right"] == 0.4
    assert "accuracy: 0.5 (95% 0.236593 to 0.763407), n 10" in done.err
    assert "0.6 if right" in done.err


@pytest.mark.parametrize(
    ("gates", "code", "verdicts"),
    rest_slow(
        [
            ('accuracy = ">= 0.5"', 1, ["pass"]),
            ('accuracy = ">= 0.6"', 4, ["inconclusive"]),
            ('accuracy = { rule = ">= 0.6", on_inconclusive = "warn" }', 1, ["inconclusive"]),
            ('accuracy = ">= 0.7"', 4, ["fail"]),
            ('accuracy = { rule = ">= 0.7", severity = "warn" }', 1, ["warn"]),
            ('coverage = ">= 0.9"\nerror_rate = "<= 0.1"', 1, ["pass", "pass"]),
            ('coverage = ">= 0.95"', 4, ["fail"]),
            ('totals.attempts = ">= 10"\nrows.error = "<= 1"', 1, ["pass", "pass"]),
            ('errors.timeout = "== 0"\nwall_s = "<= 3600"', 1, ["pass", "pass"]),
        ],
        5,
        several=True,
    ),
)
def test_gates_decide_the_exit_code(evaluated, summary, gates, code, verdicts):
    """4 for a verdict that blocks, 1 for failed rows whose gates pass."""
    done = evaluated(f'{CORRECT}[metrics]\naccuracy = "avg(correct)"\n[gates]\n{gates}\n')
    assert done.code == code, done.err
    found = summary("run")
    assert [gate["verdict"] for gate in found["gates"].values()] == verdicts
    assert found["exit_code"] == code
    assert all(gate["why"] for gate in found["gates"].values())


def test_an_unfinished_run_has_no_verdict(evaluated, summary):
    """A guard's exit code stays, and gates are not judged."""
    done = evaluated(
        f'{CORRECT}[metrics]\naccuracy = "avg(correct)"\n[gates]\naccuracy = ">= 0.99"\n',
        *("--max-failures", "0", "--concurrency", "1"),
        rows=["A", "FAIL", *["A"] * 40],
    )
    assert done.code == 3, done.err
    assert summary("run")["gates"]["accuracy"]["verdict"] == "not_judged"


BROKEN = {
    "broken SQL": ('[scores]\nx = "len(content"', "scores.x is not valid SQL"),
    "an unknown column": ('[scores]\nx = "nope = 1"', "scores.x", "nope"),
    "an unknown function": ('[scores]\nx = "exakt(content, 1)"', "did you mean exact?"),
    "text": ('[scores]\nx = "content"', "a score is true or false, or a number"),
    "an aggregate as score": ('[scores]\nx = "avg(row)"', "scores.x", "aggregate"),
    "a subquery": ('[scores]\nx = "(SELECT 1)"', "scores.x", "subquery"),
    "two statements": ('[scores]\nx = "1; DROP TABLE results"', "scores.x", "one expression"),
    "a file": ("[scores]\nx = \"len(read_text('/etc/passwd'))\"", "scores.x", "read_text"),
    "a clock": ('[scores]\nx = "current_date = created"', "scores.x", "current_date"),
    "a random number": ('[scores]\nx = "random()"', "scores.x", "random"),
    "a column's name": ('[scores]\ncontent = "1"', "scores.content", "another name"),
    "a name that is none": ('[scores]\n"a b" = "1"', "scores.a b"),
    "neither SQL nor Python": (
        '[scores]\nx = { errors = "skip" }',
        "scores.x",
        "`sql` or `python`",
    ),
    "a missing file": ('[scores]\nx = { python = "no.py:f" }', "scores.x", "no.py"),
    "an unknown key": ('[scores]\nx = { sqll = "1" }', "did you mean sql?"),
    "a metric that is no aggregate": ('[metrics]\nx = "row"', "metrics.x", "aggregate"),
    "a metric over nothing": ('[metrics]\nx = "avg(nope)"', "metrics.x", "nope"),
    "a word of SQL as a name": (
        '[scores]\nright = "row = 1"\n[metrics]\nx = "avg(right)"',
        "metrics.x",
        'write "right" in quotes',
    ),
    "an unknown group": ('[metrics]\nx = { value = "avg(row)", by = "nope" }', "metrics.x.by"),
    "a gate on nothing": ('[gates]\naccuracy = ">= 1"', "gates.accuracy"),
    "a malformed rule": ('[metrics]\nx = "avg(row)"\n[gates]\nx = "at least 3"', "gates.x"),
    "coverage without scores": ('[gates]\ncoverage = ">= 1"', "gates.coverage"),
    "a difference of nothing": ("[gates.compare]\nx = { not_worse_by = 0.1 }", "gates.compare.x"),
    "a score that is a number": ("[scores]\nx = 1", "scores.x"),
}


@pytest.mark.parametrize("broken", rest_slow(BROKEN.values(), 8), ids=[*BROKEN])
def test_what_cannot_work_is_found_before_anything_is_sent(evaluated, broken):
    """Exit 2 names the key; no request goes out, and the directory is not begun."""
    tables, *words = broken
    done = evaluated(tables)
    assert done.code == 2, done.err
    assert all(word in done.err for word in words), done.err
    assert evaluated.endpoint.requests == []
    assert not Path("run/results").exists() or not list(Path("run/results").iterdir())
    # What is mended goes on in the same directory.
    assert evaluated(CORRECT).code == 1


def test_a_look_beforehand_finds_it_too(evaluated, cli):
    """``--dry-run`` and ``validate`` check the tables against the columns, of a new run and of one
    that was begun; what works passes.
    """
    broken = '[scores]\nx = "exact(content, expectd)"\n'
    for begun in (False, True):
        assert evaluated(CORRECT, "--dry-run").code == 0
        for command in (("run", "--dry-run"), ("validate",)):
            (cli.folder / "c.toml").write_text(
                '[input]\nfiles = ["rows.jsonl"]\n[output]\ndir = "run"\nshard_rows = 4\n'
                f'[request]\nmodel = "m"\nprompt = "{{{{ text }}}}"\n{broken}'
            )
            done = cli(*command, "-c", "c.toml")
            assert done.code == 2 and "expectd" in done.err, (command, begun, done.err)
        if not begun:
            assert evaluated(CORRECT).code == 1


def test_a_missing_engine_is_said_before_anything_is_sent(evaluated, monkeypatch):
    """Without DuckDB a configured score is exit 2, with the line that installs it."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    done = evaluated(CORRECT)
    assert done.code == 2
    assert 'pip install "batchrun-llm[eval]"' in done.err
    assert evaluated.endpoint.requests == []
    assert evaluated('[gates]\nerror_rate = "<= 0.5"\n').code == 1  # needs no SQL


def test_sql_that_fails_on_a_row_names_it(evaluated, summary, published):
    """Exit 5; the results are there and the gates are not judged. ``score`` mends it."""
    done = evaluated(
        "[scores]\nlength = \"CAST(CASE WHEN content = 'none' THEN content ELSE '1' END AS INT)\"\n"
        '[metrics]\nm = "avg(length)"\n[gates]\nm = ">= 0"\n'
    )
    assert done.code == 5, done.err
    assert "scores.length failed on row 6: Could not convert string 'none'" in done.err
    found = summary("run")
    assert (found["status"], found["exit_code"]) == ("complete_with_errors", 5)
    assert found["gates"]["m"]["verdict"] == "not_judged"
    assert published("run").num_rows == 10
    mended = batchrun.score("run", scores={"length": "try_cast(content AS INT)"})
    assert mended.scores["length"]["null"] == 9
    assert len(evaluated.endpoint.requests) == 10


PYTHON_FAULTS = {
    "an exception": ("raise ValueError('no idea')", "no idea"),
    "too few values": ("return [True]", "1 values for 4 rows"),
    "no list": ("return 1.0", "not one value per row"),
    "text": ("return ['x'] * table.num_rows", "type string"),
    "an exit": ("import sys; sys.exit(0)", "sys.exit(0)"),
    "a crash": ("import os; os.abort()", "SIGABRT"),
    "a hang": ("import time; time.sleep(60)", "took longer than 0.7 s"),
    "mixed values": ("return [True, 1.5] * (table.num_rows // 2)", "true or false for some"),
}


@pytest.mark.parametrize(
    ("body", "words"), rest_slow(PYTHON_FAULTS.values(), 2, several=True), ids=[*PYTHON_FAULTS]
)
def test_a_python_scorer_that_fails_is_exit_5(evaluated, cli, summary, published, body, words):
    """Whatever it does, the results stay and the gates are not judged."""
    (cli.folder / "s.py").write_text(f"def f(table):\n    {body}\n")
    limit = ", timeout_s = 0.7" if "sleep" in body else ""
    done = evaluated(
        f'[scores]\nx = {{ python = "s.py:f"{limit} }}\n[metrics]\nm = "avg(x)"\n'
        '[gates]\nm = ">= 0"\n'
    )
    assert done.code == 5, done.err
    assert words in done.err, done.err
    assert "scores.x" in done.err
    assert summary("run")["gates"]["m"]["verdict"] == "not_judged"
    assert published("run").num_rows == 10


@pytest.mark.slow
def test_python_scorers_run_over_arrow(evaluated, cli, summary):
    """They see every column, their file's folder is searched for modules, and what they print is
    no answer. Failed rows are scored by batchrun.
    """
    (cli.folder / "words.py").write_text("GOOD = 'A'\n")
    (cli.folder / "s.py").write_text(
        "import words\n\n\ndef good(table):\n    print('hello')\n"
        "    return [c == words.GOOD for c in table.column('content').to_pylist()]\n\n\n"
        "def size(table):\n    import pyarrow.compute as pc\n\n"
        "    return pc.utf8_length(table.column('content'))\n"
    )
    done = evaluated(
        '[scores]\ngood = { python = "s.py:good" }\n'
        'size = { python = "s.py:size", errors = "skip" }\n'
        '[metrics]\nm = "avg(good)"\n'
    )
    assert done.code == 1, done.err
    found = scores_of()
    assert found["good"] == [text == "A" for text in ROWS]
    assert found["size"] == [None if text == "FAIL" else float(len(text)) for text in ROWS]
    assert summary("run")["metrics"]["m"]["value"] == 0.5


def test_scores_follow_what_is_sent_again(evaluated, here, scripted, answer, summary):
    """After --retry-failed the part is scored anew, and the metric with it."""
    done = evaluated(f'{CORRECT}[metrics]\naccuracy = "avg(correct)"\n')
    before = {path.name: path.read_bytes() for path in Path("run/scores").iterdir()}
    mended = scripted(lambda _body, _headers, _nth: (200, {}, answer("A")))
    done = here(*("-c", "c.toml", "--base-url", mended.base_url, "--no-progress", "--retry-failed"))
    assert done.code == 0, done.err
    assert summary("run")["metrics"]["accuracy"]["value"] == 0.6
    assert scores_of()["correct"][4] is True
    after = {path.name: path.read_bytes() for path in Path("run/scores").iterdir()}
    assert [name for name in after if after[name] != before[name]] == ["part-00000001.parquet"]


def test_another_expression_scores_a_finished_run_again(evaluated, summary):
    """The same command with a changed score sends nothing and computes it."""
    evaluated(f'{CORRECT}[metrics]\nm = "avg(correct)"\n')
    done = evaluated('[scores]\ncorrect = "content = \'B\'"\n[metrics]\nm = "avg(correct)"\n')
    assert done.code == 1, done.err
    assert summary("run")["metrics"]["m"]["value"] == 0.2
    assert len(evaluated.endpoint.requests) == 10
    same = evaluated('[scores]\ncorrect = "content = \'B\'"\n[metrics]\nm = "avg(correct)"\n')
    assert "nothing left to send" in same.err


def test_score_writes_nothing_but_scores_and_the_summary(evaluated, summary, cli):
    """``score -c`` replaces scores, metrics and gates; results stay byte for byte."""
    evaluated(f'{CORRECT}[metrics]\naccuracy = "avg(correct)"\n')
    kept = {
        path: path.read_bytes()
        for kind in ("results", "attempts")
        for path in Path("run", kind).iterdir()
    }
    Path("s.toml").write_text(
        '[scores]\nb = "content = \'B\'"\n[metrics]\nm = "avg(b)"\n[gates]\nm = ">= 0.9"\n'
    )
    done = cli("score", "run", "-c", "s.toml")
    assert done.code == 4, done.err
    assert "m: 0.2" in done.out
    assert all(path.read_bytes() == data for path, data in kept.items())
    found = summary("run")
    assert list(found["metrics"]) == ["m"]
    assert found["settings"]["scores"] == {"b": "content = 'B'"}
    assert found["exit_code"] == 4
    assert list(scores_of()) == ["row", "custom_id", "b"]
    assert cli("verify", "run").code == 0
    again = cli("score", "run", "--json")  # what was recorded last
    assert again.code == 4
    assert json.loads(again.out)["metrics"] == found["metrics"]


@pytest.mark.slow
def test_score_runs_no_recorded_python(evaluated, cli, summary):
    """Without -c the values of a Python scorer are kept; where they no longer fit, it is left out
    with what needs it.
    """
    (cli.folder / "s.py").write_text("def f(table):\n    return [1.0] * table.num_rows\n")
    tables = (
        f'{CORRECT}py = {{ python = "s.py:f" }}\n[metrics]\nm = "avg(py)"\na = "avg(correct)"\n'
        '[gates]\nm = ">= 0"\n'
    )
    assert evaluated(tables).code in (1, 4)
    (cli.folder / "s.py").write_text("def f(table):\n    open('ran', 'w')\n    return [2.0]\n")
    done = cli("score", "run")
    assert done.code == 0, done.err
    assert summary("run")["metrics"]["m"]["value"] == 0.9
    Path("run/scores/part-00000000.parquet").unlink()
    done = cli("score", "run")
    assert done.code == 0, done.err
    assert "left out: scores.py" in done.err
    assert "left out: metrics.m" in done.err
    assert list(summary("run")["metrics"]) == ["a"]
    assert not Path("ran").exists()


def test_score_wants_a_finished_run_that_nobody_works_on(evaluated, cli, summary):
    """Exit 3 for an unfinished run, 2 for what is none or is live."""
    assert cli("score", ".").code == 2
    evaluated(CORRECT, "--limit", "4")
    done = evaluated(
        f'{CORRECT}[metrics]\nm = "avg(correct)"\n[gates]\nm = ">= 0.99"\n',
        *("--max-failures", "0", "--concurrency", "1", "-o", "stopped"),
        rows=["A", "FAIL", *["A"] * 40],
    )
    assert done.code == 3
    done = cli("score", "stopped")
    assert done.code == 3, done.err
    assert summary("stopped")["gates"]["m"]["verdict"] == "not_judged"
    assert summary("stopped")["exit_code"] == 3
    with Path("run/checkpoint/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cli("score", "run")
    assert done.code == 2, done.err


def test_python_functions_have_the_same_tables(scripted, answer, tmp_path, monkeypatch):
    """``run`` takes scores, metrics and gates as keywords; the summary has what came of them."""
    monkeypatch.chdir(tmp_path)
    endpoint = scripted(lambda _body, _headers, _nth: (200, {}, answer("yes")))
    done = batchrun.run(
        [{"messages": [{"role": "user", "content": "?"}], "want": "yes"}] * 3,
        output="run",
        base_url=endpoint.base_url,
        model="m",
        scores={"good": "exact(content, want)"},
        metrics={"share": "avg(good)"},
        gates={"share": ">= 0.1"},
    )
    assert done.metrics["share"]["value"] == 1.0
    assert done.gates["share"]["verdict"] == "pass"
    assert done.exit_code == 0
    with pytest.raises(batchrun.UsageError, match=r"scores\.x"):
        batchrun.score("run", scores={"x": "nope"})
    with pytest.raises(batchrun.ScoringError, match=r"scores\.x"):
        batchrun.score("run", scores={"x": "CAST(content AS INT)"})


def test_nan_is_no_score(evaluated):
    """What is not finite is null, and counted as not scored."""
    done = evaluated(
        "[scores]\nx = \"CASE WHEN content = 'A' THEN 'nan'::DOUBLE ELSE 1e308 END\"\n"
    )
    assert done.code == 1, done.err
    assert all(value is None or math.isfinite(value) for value in scores_of()["x"])


def test_a_run_without_scores_has_none(evaluated, summary):
    """A feature that is off leaves no file and no key."""
    assert evaluated("").code == 1
    assert not Path("run/scores").exists()
    assert not {"scores", "metrics", "gates"} & summary("run").keys()
