"""Metrics of a run with `--repeat`: a row's answers first, then the rows."""

import itertools
import json
import math

import pytest

from batchrun.core.statistics.mean import clustered_interval, mean_interval

SAID = {
    "q0": "AAA", "q1": "ABA", "q2": "BBB", "q3": "BA!", "q4": "AB?", "q5": "BBA",
    "q6": "!!!", "q7": "ABC", "q8": "AA!", "q9": "AAA",
}  # fmt: skip
"""What is answered to each question, by repeat; ! is refused, ? holds no letter of an answer."""
TABLES = """
[scores]
correct = "exact(content, expected)"
graded = { sql = "content = 'A'", errors = "skip" }
[metrics]
accuracy = "avg(correct)"
skipping = "avg(graded)"
named = { value = "avg(correct)", by = "topic", cluster = "passage" }
two = "pass_at(correct, 2)"
three = "pass_at(correct, 3)"
both = "pass_all(correct, 2)"
direct = "pass_at(content = 'A', 2)"
graded_two = "pass_at(graded, 2)"
vote = "majority(letter(content), expected)"
vote_by = { value = "majority(letter(content), expected)", by = "topic" }
spread = "sum(correct) / count(correct)"
"""


@pytest.fixture
def evaluated(here, scripted, answer, cli):
    """``evaluated(tables, folder, ...)``: a run over ``SAID`` with three repeats."""

    def reply(body, _headers, _nth):
        said = endpoint.said[body["messages"][0]["content"]][body.get("seed", 0)]
        if said == "!":
            return 400, {}, {"error": {"message": "no", "type": "invalid_request_error"}}
        return 200, {}, answer("nothing at all" if said == "?" else said)

    endpoint = scripted(reply)
    endpoint.said = SAID

    def run(tables, folder="run", *more, repeat=3):
        lines = [
            {"q": q, "expected": "A", "topic": f"t{n % 2}", "passage": f"p{n // 3}", "custom_id": q}
            for n, q in enumerate(SAID)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (cli.folder / "rows.jsonl").write_text(text)
        (cli.folder / "c.toml").write_text(
            '[input]\nfiles = ["rows.jsonl"]\n[output]\nshard_rows = 8\n[request]\n'
            f'prompt = "{{{{ q }}}}"\nrepeat = {repeat}\nparams = {{ seed = "{{{{ repeat }}}}" }}\n'
            + tables
        )
        flags = ("-o", folder, "--base-url", endpoint.base_url, "--no-progress", *more)
        return here("-c", "c.toml", *flags)

    run.endpoint = endpoint
    return run


@pytest.fixture
def measured(evaluated, summary):
    """The metrics of a run over ``SAID``."""
    done = evaluated(TABLES)
    assert done.code == 1, done.err
    return summary("run")["metrics"]


def _mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values)


def _drawn(said, k, holds, *, skip=False):
    values = [one == "A" for one in said if not (skip and one == "!")]
    samples = list(itertools.combinations(values, k))
    return sum(map(holds, samples)) / len(samples) if samples else None


def _vote(said, *, more="", others=0):
    counts = {one: said.count(one) for one in "ABC"}
    right, wrong = counts["A"] + len(more), max(counts["B"], counts["C"]) + others
    tied = 1 if others else [counts["B"], counts["C"]].count(wrong)
    return 1.0 if right > wrong else 1 / (1 + tied) if right == wrong and right else 0.0


def test_an_average_is_over_rows(measured, cli):
    """The mean of the rows' means, with Student's interval over rows; failed answers are wrong, and
    the bounds count them both ways.
    """
    rows = [said.count("A") / 3 for said in SAID.values()]
    found = measured["accuracy"]
    assert found["value"] == pytest.approx(_mean(rows)) and found["n"] == 10
    variance = sum((x - _mean(rows)) ** 2 for x in rows) / 9
    wanted = mean_interval(10, _mean(rows), variance)
    assert [found["low"], found["high"]] == pytest.approx(list(wanted))
    assert found["as_if_errors_wrong"] == pytest.approx(found["value"])
    right = [(said.count("A") + said.count("!")) / 3 for said in SAID.values()]
    assert found["as_if_errors_right"] == pytest.approx(_mean(right))
    assert cli.verified("run")


def test_failed_answers_may_be_skipped(measured):
    """A row counts by the answers that it has, and not at all without one."""
    rows = {q: [one == "A" for one in said if one != "!"] for q, said in SAID.items()}
    found = measured["skipping"]
    assert found["value"] == pytest.approx(_mean([_mean(row) for row in rows.values() if row]))
    assert found["n"] == 9


def test_groups_and_clusters_are_of_rows(measured):
    """`by` makes groups of rows, and named clusters hold rows, each counted once."""
    rows = [(n % 2, n // 3, said.count("A") / 3) for n, said in enumerate(SAID.values())]
    for key, found in {None: measured["named"], **measured["named"]["groups"]}.items():
        mine = [row for row in rows if key is None or f"t{row[0]}" == key]
        assert found["value"] == pytest.approx(_mean([row[2] for row in mine]))
        assert found["n"] == len(mine)
        sums = {}
        for _, passage, value in mine:
            n, s = sums.get(passage, (0, 0.0))
            sums[passage] = (n + 1, s + value)
        wanted = clustered_interval(
            len(sums), len(mine), *(math.fsum(each) for each in zip(
                *((s, s * s, s * n, n * n) for n, s in sums.values()), strict=True
            )),
        )  # fmt: skip
        assert [found["low"], found["high"]] == pytest.approx(list(wanted))


def test_samples_of_answers(measured):
    """`pass_at` and `pass_all` are the mean over rows of what every sample of k answers gives."""
    said = list(SAID.values())
    for name, k, holds in (("two", 2, any), ("three", 3, any), ("both", 2, all)):
        found = measured[name]
        assert found["value"] == pytest.approx(_mean([_drawn(one, k, holds) for one in said]))
        assert found["n"] == 10 and found["low"] < found["value"] < found["high"]
        right = [_drawn(one.replace("!", "A"), k, holds) for one in said]
        assert found["as_if_errors_right"] == pytest.approx(_mean(right))
    assert measured["direct"] == pytest.approx(measured["two"])
    skipped = [_drawn(one, 2, any, skip=True) for one in said]
    assert measured["graded_two"]["value"] == pytest.approx(_mean(skipped))
    assert measured["graded_two"]["n"] == 9


def test_the_vote_of_a_row(measured):
    """The most frequent extracted answer; failed answers and answers without one do not vote, and
    bounds give the failed ones' votes to either side.
    """
    said = list(SAID.values())
    found = measured["vote"]
    assert found["value"] == pytest.approx(_mean(map(_vote, said))) and found["n"] == 10
    wrong = [_vote(one, others=one.count("!")) for one in said]
    right = [_vote(one, more="!" * one.count("!")) for one in said]
    assert found["as_if_errors_wrong"] == pytest.approx(_mean(wrong))
    assert found["as_if_errors_right"] == pytest.approx(_mean(right))
    for key, group in measured["vote_by"]["groups"].items():
        mine = [one for n, one in enumerate(said) if f"t{n % 2}" == key]
        assert group["value"] == pytest.approx(_mean(map(_vote, mine))) and group["n"] == 5


@pytest.mark.slow
def test_other_aggregates_take_all_answers(measured):
    """A ratio of sums is over answers; what its interval leaves out are whole rows."""
    answers = "".join(SAID.values())
    found = measured["spread"]
    assert found["value"] == pytest.approx(answers.count("A") / 30) and found["n"] == 30
    assert found["low"] < measured["accuracy"]["value"] < found["high"]


def test_too_large_a_k_is_refused_before_anything_is_sent(evaluated):
    """Exit 2 names the metric, k and the repeats there are; so is a k that is no number."""
    for sql, words in (
        ("pass_at(correct, 4)", "takes 4 answers to each row, and this run has 3 answers"),
        ("pass_all(correct, 0)", "k is a whole number"),
        ("pass_at(correct, correct)", "k is a whole number"),
        ("pass_at(content, 2)", "takes a score, or what is true or false"),
        ("pass_at(correct, 2) + 1", "must be the whole metric"),
        ("majority(nothing, expected)", "nothing"),
    ):
        done = evaluated(f'[scores]\ncorrect = "content = expected"\n[metrics]\nm = "{sql}"\n')
        assert done.code == 2 and "metrics.m" in done.err and words in done.err, done.err
    done = evaluated('[metrics]\nm = "pass_at(content = expected, 2)"\n', repeat=1)
    assert done.code == 2 and "this run has one answer" in done.err, done.err
    assert not evaluated.endpoint.requests


def test_a_run_without_repeats_has_one_vote_a_row(evaluated, summary, cli):
    """`majority` and `pass_at(score, 1)` of single answers are plain shares, by Wilson."""
    tables = """
[scores]
correct = "content = expected"
[metrics]
share = "avg(correct)"
one = "pass_at(correct, 1)"
vote = "majority(content, expected)"
"""
    assert evaluated(tables, repeat=1).code == 1
    found = summary("run")["metrics"]
    assert found["share"]["value"] == 0.6
    assert found["one"]["value"] == found["vote"]["value"] == 0.6
    assert found["one"]["low"] == found["vote"]["low"] == found["share"]["low"]
    assert cli.verified("run")


def test_scores_are_computed_again_over_repeats(evaluated, cli, summary):
    """`score` gives what the run gave, and takes other metrics; k > K is exit 2 there too."""
    assert evaluated(TABLES).code == 1
    before = summary("run")["metrics"]
    (cli.folder / "again.toml").write_text(TABLES)
    done = cli("score", "run", "-c", "again.toml")
    assert done.code == 0, done.err
    for name, metric in summary("run")["metrics"].items():
        groups = metric.pop("groups", {}), before[name].pop("groups", {})
        assert metric == pytest.approx(before[name]) and groups[0].keys() == groups[1].keys()
    (cli.folder / "bad.toml").write_text('[metrics]\nm = "pass_at(content = expected, 4)"\n')
    done = cli("score", "run", "-c", "bad.toml")
    assert done.code == 2 and "this run has 3 answers" in done.err, done.err


@pytest.mark.slow
def test_verify_recomputes_metrics_over_repeats(evaluated, cli):
    """A metric of the summary that the files do not give is damage, of every kind of metric."""
    assert evaluated(TABLES).code == 1
    path = cli.folder / "run" / "summary.json"
    whole = json.loads(path.read_text())
    for name in ("accuracy", "two", "both", "vote", "graded_two"):
        found = json.loads(json.dumps(whole))
        found["metrics"][name]["value"] = found["metrics"][name]["low"]
        path.write_text(json.dumps(found))
        told = json.loads(cli("verify", "run", "--json").out)
        assert any(f"says {name}: value" in text for text in told["problems"]), told["problems"]
    path.write_text(json.dumps(whole))
    assert cli.verified("run")


def test_gates_hold_metrics_over_repeats_to_their_bounds(evaluated, summary, cli):
    """Verdicts, JUnit and Markdown are those of any other metric."""
    gates = '[gates]\ntwo = ">= 0.5"\nthree = ">= 0.99"\n'
    files = ("--junit", "j.xml", "--markdown", "m.md")
    done = evaluated(TABLES + gates, "run", *files)
    assert done.code == 4, done.err
    verdicts = {name: gate["verdict"] for name, gate in summary("run")["gates"].items()}
    assert verdicts == {"two": "pass", "three": "fail"}
    assert "three" in (cli.folder / "j.xml").read_text()
    assert (
        "pass_at" in (cli.folder / "m.md").read_text()
        or "three" in (cli.folder / "m.md").read_text()
    )
    assert cli("report", "run").code == 0
    assert "three" in (cli.folder / "run" / "report.html").read_text()


def test_compare_is_over_rows(evaluated, cli, summary):
    """Answers pair by row and repeat; differences of every metric are over rows, and a baseline
    with other answers to two rows is seen in them alone.
    """
    evaluated(TABLES, "a")
    evaluated.endpoint.said = SAID | {"q2": "AAB", "q9": "ABA"}
    evaluated(TABLES, "b")
    done = cli("compare", "a", "b", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["pairs"] == 30 and found["only_a"] == found["only_b"] == 0
    assert found["answers_changed"] == 3
    runs = {name: summary(name)["metrics"] for name in "ab"}
    for name in ("accuracy", "two", "three", "both", "vote"):
        metric = found["metrics"][name]
        assert metric["a"] == pytest.approx(runs["a"][name]["value"]), name
        assert metric["b"] == pytest.approx(runs["b"][name]["value"]), name
        assert metric["difference"] == pytest.approx(metric["b"] - metric["a"]), name
        assert metric["low"] <= metric["difference"] <= metric["high"], name
    rows = [0.0] * 10
    rows[2], rows[9] = 2 / 3, -1 / 3
    variance = sum((x - _mean(rows)) ** 2 for x in rows) / 9
    wanted = mean_interval(10, _mean(rows), variance)
    metric = found["metrics"]["accuracy"]
    assert [metric["low"], metric["high"]] == pytest.approx(list(wanted))


def test_a_single_run_pairs_with_the_first_repeat(evaluated, cli):
    """A run without repeats has counterparts in repeat 0 alone."""
    tables = '[scores]\ncorrect = "content = expected"\n[metrics]\nshare = "avg(correct)"\n'
    evaluated(tables, "single", repeat=1)
    evaluated(tables, "triple")
    found = json.loads(cli("compare", "single", "triple", "--json").out)
    assert (found["pairs"], found["only_a"], found["only_b"]) == (10, 0, 20)
    assert found["metrics"]["share"]["difference"] == 0
    assert "params" in found["differs"]


def test_a_query_groups_by_the_row(cli, measured):
    """In a query the functions are aggregates over the group that it names."""
    sql = (
        "SELECT avg(p), avg(m) FROM (SELECT pass_at(correct, 2) AS p, "
        "majority(letter(content), expected) AS m "
        "FROM results JOIN scores USING (row) GROUP BY repeat_of)"
    )
    done = cli("query", "run", sql, "--format", "json")
    assert done.code == 0, done.err
    [line] = json.loads(done.out)
    assert list(line.values()) == pytest.approx(
        [measured["two"]["value"], measured["vote"]["value"]]
    )
