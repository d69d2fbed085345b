"""``batchrun compare``: pairing, figures, verdicts and hostile rows, over real Parquet."""

import contextlib
import json
import math
import os
import pty
import statistics
import subprocess
import sys

import pyarrow as pa
import pytest

import batchrun
from tests.harness.finished_runs import write_run
from tests.harness.slow import rest_slow

TOPIC = [("topic", pa.string()), ("expected", pa.string())]
CONFIG = """
[scores]
correct = "exact(content, expected)"
[metrics]
accuracy = "avg(correct)"
"""
GATE = """
[gates.compare]
baseline = "base"
accuracy = { not_worse_by = %s }
"""


def answers(text, **columns):
    """Rows whose answers are these letters, all expected to be A; a dot is a failed row."""
    return [
        {
            "custom_id": f"id-{number}",
            "content": letter,
            "topic": f"t{number % 2}",
            "expected": "A",
            "status": "error" if letter == "." else "ok",
            "error_class": "timeout" if letter == "." else None,
            **columns,
        }
        for number, letter in enumerate(text)
    ]


@pytest.fixture
def compare(cli):
    """Writes two runs and compares them; returns what the command did, and its JSON."""

    def start(a, b, *flags, config=CONFIG, carried=TOPIC, more=({}, {})):
        for name, rows, extra in (("a", a, more[0]), ("b", b, more[1])):
            write_run(cli.folder / name, rows, carried, shard_rows=7, **extra)
        (cli.folder / "c.toml").write_text(config)
        done = cli("compare", "a", "b", "-c", "c.toml", "--json", *flags)
        return done, json.loads(done.out)

    return start


def test_counts_of_a_share_are_those_of_the_rows(compare):
    """Lost, won, both and neither are counted over pairs; the difference and p follow from them."""
    done, found = compare(answers("AAAAAABBBB"), answers("AAAABBABBB"))
    assert done.code == 0, done.err
    score = found["scores"]["correct"]
    assert (score["both"], score["lost"], score["won"], score["neither"]) == (4, 2, 1, 3)
    assert score["difference"] == pytest.approx(-0.1)
    assert score["low"] < -0.1 < score["high"]
    assert score["p"] == pytest.approx(1.0)
    assert found["metrics"]["accuracy"]["a"] == pytest.approx(0.6)
    assert found["metrics"]["accuracy"]["b"] == pytest.approx(0.5)
    assert found["pairs"] == 10
    assert found["answers_changed"] == 3
    assert [row["custom_id"] for row in found["rows"]] == ["id-4", "id-5", "id-6"]


def test_the_report_begins_with_why_and_shows_the_words(cli, compare):
    """People read why the runs may differ, then regressions with a word diff, then improvements."""
    one = {"settings": {"request.prompt": "say A"}}
    other = {"settings": {"request.prompt": "say B"}}
    compare(answers("AAB"), answers("ABA"), more=(one, other))
    out = cli("compare", "a", "b", "-c", "c.toml").out
    places = [out.index(word) for word in ("why they may", "regressions", "improvements", "metric")]
    assert places == sorted(places)
    assert "id-1 (row 1): correct 1 -> 0" in out
    assert "[-A-] {+B+}" in out
    assert "request.prompt: 'say A' in A, 'say B' in B" in out


def test_rows_pair_by_id_whatever_their_order(compare):
    """The same rows in another order, over other parts, are the same comparison."""
    a = answers("ABABABABABAB")
    _, found = compare(a, list(reversed(a)))
    assert found["pairs"] == 12
    assert found["answers_changed"] == 0
    assert found["scores"]["correct"]["lost"] == found["scores"]["correct"]["won"] == 0
    assert found["differs"] == []


def test_rows_without_a_counterpart_are_counted_and_named(compare):
    """Rows of one run alone are left out of the figures, counted and listed, at most 100."""
    a, b = answers("A" * 150), answers("A" * 150)
    _, found = compare(a[:145], b[140:])
    assert (found["pairs"], found["only_a"], found["only_b"]) == (5, 140, 5)
    assert found["unmatched"]["a"] == [f"id-{n}" for n in range(100)]
    assert found["unmatched"]["b"] == [f"id-{n}" for n in range(145, 150)]
    assert found["differs"] == ["rows"]


def test_rows_without_ids_pair_by_number_where_the_inputs_are_the_same(compare):
    """Without ids the row number pairs, as the carried values show that the inputs are the same."""
    a, b = answers("AAB", custom_id=None), answers("ABB", custom_id=None)
    _, found = compare(a, b)
    assert found["pairs"] == 3
    assert found["scores"]["correct"]["lost"] == 1


def test_other_inputs_without_ids_are_refused(compare):
    """Row numbers do not pair rows of different inputs: exit 2, and what to give."""
    done, found = compare(
        answers("AAB", custom_id=None), answers("AAB", custom_id=None, expected="C")
    )
    assert done.code == 2
    assert "--key COL" in found["error"]


def test_a_duplicate_id_is_named_and_a_key_column_pairs_instead(cli, compare):
    """Ids that come twice are exit 2 with their rows, unless a column pairs the rows."""
    a = answers("AAB")
    b = answers("ABB")
    for rows in (a, b):
        rows[2]["custom_id"] = "id-0"
    b[1]["expected"] = "Z"
    carried = [*TOPIC, ("number", pa.int64())]
    for rows in (a, b):
        for number, row in enumerate(rows):
            row["number"] = number * 10
    done, found = compare(a, b, carried=carried)
    assert done.code == 2
    assert "'id-0' comes 2 times in a (rows 0 and 2)" in found["error"]
    by_key = cli("compare", "a", "b", "-c", "c.toml", "--key", "number", "--json")
    assert json.loads(by_key.out)["pairs"] == 3
    twice = cli("compare", "a", "b", "-c", "c.toml", "--key", "topic", "--json")
    assert twice.code == 2
    assert "--key topic: 't0' comes 2 times" in twice.err
    unknown = cli("compare", "a", "b", "--key", "nummer")
    assert unknown.code == 2
    assert "no such column" in unknown.err


def test_without_scores_answers_status_and_totals_are_compared(compare):
    """Runs without scores are compared by answers, status, tokens, cost and latency."""
    a = [
        {"custom_id": f"{n}", "content": "x", "cost_usd": 0.5, "latency_s": n + 1} for n in range(9)
    ]
    b = [{**row, "cost_usd": 1.0} for row in a]
    b[4] |= {"status": "error", "error_class": "timeout"}
    b[5]["content"] = "y"
    totals = ({"totals": {"cost_usd": 4.5}}, {"totals": {"cost_usd": 9}})
    config = "[gates]\nerror_rate = '<= 1'\n"
    done, found = compare(a, b, config=config, carried=(), more=totals)
    assert done.code == 0, done.err
    assert found["scores"] == {} and found["metrics"] == {} and found["gates"] == {}
    assert found["status"] == {"ok_ok": 8, "ok_error": 1, "error_ok": 0, "error_error": 0}
    assert found["answers_changed"] == 1
    assert found["totals"]["cost_usd"] == {"a": 4.5, "b": 9}
    assert found["totals"]["latency_s_p50"] == {"a": 5.0, "b": 4.0}
    assert [row["custom_id"] for row in found["rows"]] == ["4"]


def test_a_cost_that_doubles_is_a_ratio_of_two(cli, compare):
    """The paired log ratio says how many times as much a row costs, whatever the rows cost."""
    a = [{"custom_id": f"{n}", "cost_usd": 0.1 * (n + 1)} for n in range(20)]
    b = [{**row, "cost_usd": 2 * row["cost_usd"]} for row in a]
    compare(a, b, config="[gates]\nerror_rate = '<= 1'\n", carried=())
    assert "cost of a row: 2 times as much" in cli("compare", "a", "b").out


@pytest.mark.slow
def test_a_mean_and_a_median_are_what_the_rows_say(compare):
    """A mean has the paired t interval of its differences; a median's difference is exact."""
    config = '[scores]\nn = "num(content)"\n[metrics]\nm = "avg(n)"\nq = "median(n)"\n'
    values = [(n, n + (n % 5) - 1.5) for n in range(1, 81)]
    a = [{"custom_id": f"{n}", "content": f"{one:.1f}"} for n, (one, _) in enumerate(values)]
    b = [{"custom_id": f"{n}", "content": f"{two:.1f}"} for n, (_, two) in enumerate(values)]
    _, found = compare(a, b, config=config, carried=())
    differences = [two - one for one, two in values]
    half = 1.99045 * statistics.stdev(differences) / math.sqrt(80)
    mean = found["metrics"]["m"]
    assert mean["difference"] == pytest.approx(statistics.mean(differences))
    assert mean["high"] - mean["difference"] == pytest.approx(half, rel=1e-4)
    median = found["metrics"]["q"]
    assert median["a"] == pytest.approx(statistics.median(one for one, _ in values))
    assert median["b"] == pytest.approx(statistics.median(two for _, two in values))
    assert median["low"] < median["difference"] < median["high"]
    assert found["scores"]["n"]["both"] is None


def test_groups_and_clusters_have_differences_of_their_own(compare):
    """`by` splits the difference, and `cluster` widens the interval to that of the clusters."""
    config = CONFIG + (
        'by_topic = { value = "avg(correct)", by = "topic" }\n'
        'clustered = { value = "avg(correct)", cluster = "topic" }\n'
        'worst = { value = "min(len(content))", by = "topic" }\n'
    )
    done, found = compare(answers("AAAAAAAAAA"), answers("ABABABABAB"), config=config)
    assert done.code == 0, done.err
    groups = found["metrics"]["by_topic"]["groups"]
    assert groups["t0"]["difference"] == 0
    assert groups["t1"]["difference"] == pytest.approx(-1)
    clustered, plain = found["metrics"]["clustered"], found["metrics"]["accuracy"]
    assert clustered["high"] - clustered["low"] > 2 * (plain["high"] - plain["low"])
    assert set(found["metrics"]["worst"]["groups"]) == {"t0", "t1"}


@pytest.mark.parametrize(
    ("a", "b", "margin", "verdict", "code"),
    rest_slow(
        [
            ("A" * 90 + "B" * 10, "A" * 90 + "B" * 10, 0.1, "pass", 0),
            ("A" * 90 + "B" * 10, "A" * 50 + "B" * 50, 0.1, "fail", 4),
            ("A" * 90 + "B" * 10, "A" * 85 + "B" * 15, 0.04, "fail", 4),
            ("A" * 9 + "B", "A" * 9 + "B", 0.01, "inconclusive", 0),
            ("." * 50, "." * 50, 0.1, "inconclusive", 4),
            ("A" * 100, "A" * 80 + "." * 20, 0.05, "inconclusive", 4),
            ("A" * 70 + "." * 30, "A" * 80 + "B" * 20, 0.05, "inconclusive", 4),
        ],
        4,
        several=True,
    ),
)
def test_verdicts_against_a_baseline(compare, a, b, margin, verdict, code):
    """The interval decides; where failed rows alone decide, or nothing was scored, nothing passes
    or fails.
    """
    done, found = compare(answers(a), answers(b), config=CONFIG + GATE % margin)
    gate = found["gates"]["compare.accuracy"]
    assert (gate["verdict"], done.code) == (verdict, code), gate["why"]
    assert gate["value"] == pytest.approx(found["metrics"]["accuracy"]["difference"])


def test_rows_that_are_missing_keep_a_gate_from_passing(compare):
    """A run that lost rows of the baseline is inconclusive, however good the others are."""
    done, found = compare(
        answers("A" * 90 + "B" * 10), answers("A" * 90), config=CONFIG + GATE % 0.2
    )
    gate = found["gates"]["compare.accuracy"]
    assert gate["verdict"] == "inconclusive"
    assert "10 rows of the baseline are missing" in gate["why"]
    assert done.code == 0


def test_no_common_row_is_no_verdict_that_looks_good(compare):
    """Two runs over other rows: one clear sentence, and a gate that blocks."""
    b = [{**row, "custom_id": f"other-{n}"} for n, row in enumerate(answers("AAAA"))]
    done, found = compare(answers("AAAA"), b, config=CONFIG + GATE % 0.2)
    assert found["pairs"] == 0
    assert found["gates"]["compare.accuracy"]["verdict"] == "inconclusive"
    assert done.code == 4


def test_an_unfinished_run_is_not_judged(cli, compare):
    """What is still missing rows is compared with a warning, and its gates are not judged."""
    done, found = compare(
        answers("AA"), answers("AB"), config=CONFIG + GATE % 0.1, more=({}, {"status": "stopped"})
    )
    assert found["gates"]["compare.accuracy"]["verdict"] == "not_judged"
    assert done.code == 0
    assert "B is not finished" in cli("compare", "a", "b", "-c", "c.toml").out


def test_a_directory_without_results_is_exit_2(cli, compare):
    """A folder that is no run, or has no row yet, is named."""
    compare(answers("A"), answers("A"))
    (cli.folder / "empty").mkdir()
    done = cli("compare", "a", "empty")
    assert done.code == 2
    assert "empty has no results" in done.err


def test_hostile_answers_change_nothing_but_themselves(cli, compare):
    """Control characters, nulls, NaN, lone surrogates' stand-ins and 10 MB answers are compared,
    shown escaped and cut, and no figure is NaN.
    """
    hostile = ["\x1b[31mred\x07", None, "x" * 10_000_000, "\u202egnp.exe", "nan", "", "\x00\n\t"]
    a = [{"custom_id": f"\x1b]0;{n}\x07", "content": text} for n, text in enumerate(hostile)]
    b = [{**row, "content": f"{row['content'] or ''}!"} for row in a]
    config = '[scores]\nn = "TRY_CAST(content AS DOUBLE)"\n[metrics]\nm = "avg(n)"\n'
    done, found = compare(a, b, config=config, carried=())
    assert done.code == 0, done.err
    assert found["answers_changed"] == 7
    assert found["scores"]["n"]["difference"] is None
    out = cli("compare", "a", "b", "-c", "c.toml", "--only", "changed", "-n", "20").out
    assert "\x1b" not in out and "\u202e" not in out and "\x07" not in out
    assert len(out) < 20_000
    assert all(len(line) < 1_200 for line in out.splitlines())


@pytest.mark.slow
def test_only_lists_one_kind_and_n_bounds_it(cli, compare):
    """--only and -n choose the rows that are listed; counts stay those of all."""
    compare(answers("AAAAABBBBC"), answers("BBBBBAAAAD"))
    worse = cli("compare", "a", "b", "-c", "c.toml", "--only", "worse", "-n", "2").out
    assert "regressions: 5 pairs (the first 2; -n N shows more)" in worse
    assert worse.count("correct 1 -> 0") == 2
    assert "metric" not in worse
    changed = cli("compare", "a", "b", "-c", "c.toml", "--only", "changed", "-n", "50").out
    assert "changed answers: 10 pairs" in changed
    better = cli("compare", "a", "b", "-c", "c.toml", "--only", "better").out
    assert "improvements: 4 pairs" in better


def test_repeats_are_averaged_within_the_row(compare):
    """Answers pair by repeat; the interval is over rows, which are fewer than answers."""

    def repeated(text):
        rows = answers(text)
        for number, row in enumerate(rows):
            row |= {"repeat_of": number // 4, "repeat": number % 4, "custom_id": f"r{number // 4}"}
        return rows

    same, other = "AAAA" * 10 + "BBBB" * 10, "AAAA" * 5 + "BBBB" * 15
    done, found = compare(repeated(same), repeated(other))
    assert done.code == 0, done.err
    assert found["pairs"] == 80
    metric = found["metrics"]["accuracy"]
    assert metric["difference"] == pytest.approx(-0.25)
    differences = [0.0] * 15 + [-1.0] * 5
    half = 2.093 * statistics.stdev(differences) / math.sqrt(20)
    assert metric["high"] - metric["difference"] == pytest.approx(half, rel=1e-3)
    assert found["scores"]["correct"]["lost"] == 20
    assert found["scores"]["correct"]["p"] is None


def test_a_baseline_whose_columns_are_missing_is_said_to_be_so(compare, cli):
    """A score that the baseline has no column for is named, and its gate is no pass."""
    write_run(cli.folder / "old", [{"custom_id": f"id-{n}", "content": "A"} for n in range(4)])
    compare(answers("AAAA"), answers("AAAA"), config=CONFIG + GATE % 0.5)
    done = cli("compare", "old", "b", "-c", "c.toml", "--json")
    found = json.loads(done.out)
    assert "error" not in found, found
    gate = found["gates"]["compare.accuracy"]
    assert gate["verdict"] == "inconclusive"
    assert "scores.correct cannot be computed for old" in gate["why"]
    assert done.code == 4


def test_the_function_is_the_command(compare, cli):
    """`batchrun.compare` gives the figures of the command, with gates from keywords."""
    compare(answers("AAAAAAAAAA" * 4), answers("AAAAABBBBB" * 4))
    found = batchrun.compare(
        cli.folder / "a",
        cli.folder / "b",
        scores={"correct": "exact(content, expected)"},
        metrics={"accuracy": "avg(correct)"},
        gates={"compare": {"baseline": "a", "accuracy": {"not_worse_by": 0.1}}},
    )
    assert found.metrics["accuracy"].difference == pytest.approx(-0.5)
    assert found.gates["compare.accuracy"]["verdict"] == "fail"
    assert (found.exit_code, found.pairs) == (4, 40)
    with pytest.raises(batchrun.UsageError, match="no results"):
        batchrun.compare(cli.folder / "a", cli.folder)


@pytest.mark.parametrize("columns", rest_slow([40, 80, 120]))
def test_the_report_fits_the_terminal(compare, cli, columns):
    """On a terminal of any width lines end at words, and none has an escape sequence."""
    compare(answers("AAAA" * 5), answers("ABAB" * 5))
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "batchrun", "compare", "a", "b", "-c", "c.toml"]
    environment = cli._environment({"COLUMNS": str(columns)})
    process = subprocess.Popen(command, cwd=cli.folder, env=environment, stdout=follower)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(leader, 65536):
            shown += piece
    os.close(leader)
    assert process.wait(60) == 0
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) > 15
    assert b"\x1b" not in shown
