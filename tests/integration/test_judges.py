"""A second model judges the answers of a run, and its verdicts are columns of the run's scores."""

import contextlib
import fcntl
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun

ROWS = ["good", "bad", "FAIL", "good", "odd", "fine", "bad", "good", "fine", "good"]
"""What is asked, which the endpoint gives back; FAIL is refused."""
MARKS = {"good": 5, "fine": 4, "bad": 1}
LABELS = {"good": 5, "fine": 3, "bad": 1, "odd": 2, "FAIL": 1}
PRICES = "".join(
    f'[prices."{model}"]\ninput = 1000000\noutput = 1000000\n' for model in ("m", "large")
)
"""Each token is a dollar, so that an exchange with its two tokens costs two."""

MARK_SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "mark": {"type": "integer", "minimum": 1, "maximum": 5},
        "pass": {"type": "boolean"},
    },
    "required": ["reason", "mark", "pass"],
}
PAIR_SCHEMA = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["a", "b", "tie"]}},
    "required": ["winner"],
}
JUDGE = """\
[request]
model = "large"
prompt = "{prompt}"
schema = "{schema}.json"
params = {{ max_tokens = 100 }}
[[endpoint]]
base_url = "{url}"
[retry]
max_attempts = 1
{more}
"""


def verdict_on(text):
    """What the judge of marks says of an answer; of `odd` something that is no verdict."""
    if text == "odd":
        return "I would rather not say."
    mark = MARKS.get(text, 3)
    return json.dumps({"reason": f"it is {text}", "mark": mark, "pass": mark > 3})


class World:
    """A run and its judges, all against one endpoint, and what was asked of it."""

    def __init__(self, cli, endpoint):
        self.cli, self.endpoint, self.folder = cli, endpoint, cli.folder
        self.failing, self.env = {"FAIL"}, {}
        self.config()
        for name, schema in (("mark", MARK_SCHEMA), ("pair", PAIR_SCHEMA)):
            (self.folder / f"{name}.json").write_text(json.dumps(schema))
        self.judge("tone", "{{{{ row.content }}}}")
        self.judge("pair", "{{{{ a.content }}}} or {{{{ b.content }}}}", schema="pair")

    def judge(self, name, prompt, *, schema="mark", more=""):
        """Write the config of a judge."""
        prompt = prompt.replace("{{{{", "{{").replace("}}}}", "}}")
        text = JUDGE.format(prompt=prompt, schema=schema, url=self.endpoint.base_url, more=more)
        (self.folder / f"{name}.toml").write_text(text)

    def config(self, tables="", *, rows=ROWS, folder="run", name="c.toml"):
        """Write the config of the run, and its rows."""
        lines = (
            {"custom_id": f"q{n}", "text": text, "label": LABELS.get(text), "topic": f"t{n % 2}"}
            for n, text in enumerate(rows)
        )
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        (self.folder / name).write_text(
            f'[input]\nfiles = ["rows.jsonl"]\n[output]\ndir = "{folder}"\nshard_rows = 4\n'
            '[request]\nmodel = "m"\nprompt = "{{ text }}"\nparams = { max_tokens = 100 }\n'
            f'[[endpoint]]\nbase_url = "{self.endpoint.base_url}"\n[retry]\nmax_attempts = 1\n'
            f"{tables}"
        )

    def run(self, *more, config="c.toml"):
        """Run it."""
        return self.cli("run", "-c", config, "--no-progress", *more, env=self.env)

    def judged(self, *more, folder="run", config="tone.toml"):
        """Judge it by the command."""
        return self.cli("judge", folder, "-c", config, "--no-progress", *more, env=self.env)

    def asked(self):
        """What judges were asked since the last call."""
        found = [
            body["messages"][-1]["content"]
            for _, _, body in self.endpoint.requests
            if body is not None and "response_format" in body
        ]
        self.endpoint.requests.clear()
        return found

    def summary(self, folder="run"):
        """The summary of a run directory."""
        return json.loads((self.folder / folder / "summary.json").read_text())

    def scores(self, folder="run"):
        """The columns of all parts of the scores."""
        parts = sorted((self.folder / folder / "scores").glob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(part) for part in parts])
        return {name: table.column(name).to_pylist() for name in table.schema.names}


@pytest.fixture
def world(cli, scripted, answer):
    """A run that answers what it is asked, and a judge that knows some of the answers."""

    def reply(body, _headers, _nth):
        asked = body["messages"][-1]["content"]
        if "response_format" not in body:
            if asked in made.failing:
                return 400, {}, {"error": {"message": "no", "type": "invalid_request_error"}}
            return 200, {}, answer(asked, model=body["model"])
        if " or " in asked:
            first, second = asked.split(" or ")
            winner = made.prefers(first, second)
            return 200, {}, answer(json.dumps({"winner": winner}), model=body["model"])
        return 200, {}, answer(verdict_on(asked), model=body["model"])

    made = World(cli, scripted(reply))
    made.prefers = lambda _first, _second: "a"
    return made


TONE = '[judge.tone]\nconfig = "tone.toml"\n'


def test_verdicts_are_columns_of_the_scores(world):
    """Fields of the schema are there for scores, metrics and gates; failed rows are not judged."""
    world.config(
        "[scores]\nliked = '\"tone.mark\" >= 4'\nok = '\"tone.pass\"'\n"
        '[metrics]\nmark = \'avg("tone.mark")\'\nliked = "avg(liked)"\n'
        "kind = '''count(*) FILTER (\"tone.reason\" LIKE 'it is good')'''\n"
        'passed = { value = \'avg("tone.pass")\', by = "topic" }\n'
        '[gates]\ncoverage = ">= 0.8"\njudges.tone.unparsed = "<= 1"\njudges.tone.rows = "== 9"\n'
        f"{TONE}"
    )
    done = world.run()
    assert done.code == 1, done.err  # a row failed, and the gates pass
    found = world.scores()
    assert list(found)[:5] == ["row", "custom_id", "tone.reason", "tone.mark", "tone.pass"]
    marks = [MARKS.get(text) for text in ROWS]
    assert found["tone.mark"] == marks
    assert found["tone.pass"] == [None if mark is None else mark > 3 for mark in marks]
    assert found["tone.reason"][0] == "it is good"
    wrong = {"FAIL": False, "odd": None}
    assert found["liked"] == [wrong.get(text, MARKS.get(text, 0) >= 4) for text in ROWS]
    said = world.summary()
    assert said["metrics"]["mark"]["value"] == pytest.approx(30 / 8)
    assert said["metrics"]["kind"]["value"] == 4
    assert said["metrics"]["passed"]["groups"]["t0"]["value"] == pytest.approx(2 / 3)
    judge = said["judges"]["tone"]
    assert {name: judge[name] for name in ("rows", "unparsed", "failed", "stale", "missing")} == {
        "rows": 9,
        "unparsed": 1,
        "failed": 0,
        "stale": 0,
        "missing": 0,
    }
    assert [gate["verdict"] for gate in said["gates"].values()] == ["pass"] * 3
    assert len(world.asked()) == 9
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")
    assert "judge tone: 9 answers judged by large, 1 without a verdict" in done.err


def test_the_bill_of_a_run_and_its_judges(world):
    """The summary has both, and `costs` follows the judges; a judge's reply without a verdict is
    paid too, and told as waste next to that of the run, wherever a run is shown.
    """
    world.config(f"[gates]\njudges.tone.wasted_cost_usd = '<= 2'\n{PRICES}{TONE}")
    world.judge("tone", "{{{{ row.content }}}}", more=PRICES)
    done = world.run()
    assert done.code == 1, done.err
    said = world.summary()
    assert said["gates"]["judges.tone.wasted_cost_usd"]["verdict"] == "pass"
    judge = said["judges"]["tone"]
    assert (judge["attempts"], judge["wasted_cost_usd"]) == (9, 2.0)
    shown = "cost $18.0000, $2.0000 of it wasted"
    assert shown in done.err and shown in world.cli("status", "run").out
    assert world.cli("report", "run").code == 0
    assert "wasted, USD" in (world.folder / "run/report.html").read_text()
    assert said["totals"]["cost_usd"] == 18.0  # nine answers
    assert said["judges"]["tone"]["cost_usd"] == 18.0
    assert said["totals"]["cost_usd_with_judges"] == 36.0
    costs = world.cli("costs", "run", "--by", "model", "--json").json
    assert {line["model"]: line["cost_usd"] for line in costs["rows"]} == {"m": 18.0, "large": 18.0}
    assert "$36.0000 with its judges" in done.err
    world.cli.verified("run")


def test_judging_again_sends_only_what_changed(world):
    """Of one answer that was retried exactly one judgement is sent; without a change, none. A judge
    with another prompt judges everything.
    """
    world.config()
    assert world.run().code == 1
    world.asked()
    done = world.judged()
    assert done.code == 1, done.err  # one reply is no verdict
    assert len(world.asked()) == 9
    assert world.judged().code == 1
    assert world.asked() == []
    world.failing = set()
    assert world.run("--retry-failed").code == 0
    assert world.asked() == []
    assert world.summary()["judges"]["tone"]["missing"] == 1
    world.cli.verified("run")
    done = world.judged()
    assert done.code == 1, done.err
    assert world.asked() == ["FAIL"]
    assert world.summary()["judges"]["tone"]["rows"] == 10
    assert world.scores()["tone.mark"][2] == 3
    assert world.cli("judge", "run", "-c", "tone.toml", "--retry-failed").code == 1
    assert world.asked() == ["odd"]
    world.judge("tone", "Rate: {{{{ row.content }}}}")
    assert world.judged().code == 0
    assert len(world.asked()) == 10
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")


def test_a_judge_at_the_end_of_a_run_judges_what_is_new(world):
    """`--retry-failed` of a run with `[judge.tone]` sends the row and one judgement."""
    world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}")
    assert world.run().code == 1
    assert len(world.asked()) == 9
    done = world.run()
    assert done.code == 1
    assert world.asked() == []
    world.failing = set()
    done = world.run("--retry-failed")
    assert done.code == 0, done.err
    assert world.asked() == ["FAIL"]
    assert world.summary()["metrics"]["mark"]["n"] == 9
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")


def test_a_verdict_on_another_answer_is_null(world):
    """Answers are changed behind the judge's back: the old verdicts count no more, and verify says
    so; where a score still counts one, it exits 1.
    """
    world.config("[metrics]\nmark = 'avg(\"tone.mark\")'\n")
    (world.folder / "m.toml").write_text("[metrics]\nmark = 'avg(\"tone.mark\")'\n")
    world.config()
    assert world.run().code == 1
    assert world.judged().code == 1
    assert world.cli("score", "run", "-c", "m.toml").code == 0
    assert world.cli("verify", "run").code == 0
    rows = list(ROWS)
    rows[0] = "fine"
    world.config(rows=rows)
    assert world.run("--resend-changed").code == 1
    said = world.summary()
    assert said["judges"]["tone"]["stale"] == 1
    assert said["judges"]["tone"]["missing"] == 1
    assert world.scores()["tone.mark"][0] is None
    report = world.cli.verified("run")
    assert any("1 verdict of judge tone is on answers" in note for note in report["notes"])
    part = world.folder / "run/scores/part-00000000.parquet"
    table = pq.read_table(part)
    marks = table.column("tone.mark").to_pylist()
    forged = pa.array([5.0, *marks[1:]])
    place = table.schema.get_field_index("tone.mark")
    pq.write_table(table.set_column(place, table.schema.field(place), forged), part)
    done = world.cli("verify", "run", "--json")
    assert done.code == 1
    assert done.json["kinds"]["verdict"] == 1
    assert "row 0" in done.json["problems"][0] or "row 0" in str(done.json["problems"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "m"), "which gave the answers"),
        (("--model", "openai/M"), "which gave the answers"),
        (("--name", "a.b"), "cannot be the name of a judge"),
        (("--both-orders",), "--against"),
        (("--agreement", "labl"), "no column 'labl'; did you mean label?"),
        (("--agreement", "label", "--score", "marc"), "no such field; there are reason, mark"),
        (("--against", "nowhere", "-c", "pair.toml"), "does not exist"),
        (("--no-check-schema",), "No such option"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(world, arguments, said):
    """Before anything is sent, with exit code 2 and what to do."""
    assert world.run().code == 1
    world.asked()
    done = world.judged(*arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert world.asked() == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('schema = "mark.json"', "", "has no JSON Schema"),
        ("[request]", '[input]\nfiles = ["rows.jsonl"]\n[request]', "Leave it out"),
        ("[request]", '[output]\ndir = "x"\n[request]', "output.dir"),
        ("[request]", "[output]\ncheck_schema = false\n[request]", "check_schema"),
        ("[request]", '[notify]\non_finish = "true"\n[request]', "notifies no one"),
        ("[request]", "[request]\nrepeat = 2", "one verdict"),
        ("[request]", '[judge.x]\nconfig = "y.toml"\n[request]', "no judges of its own"),
        ('prompt = "{{ row.content }}"', "", "say what to ask"),
        ("{{ row.content }}", "{{ row.contnt }}", "contnt"),
        ("{{ row.content }}", "{{ texd }}", "texd"),
    ],
)
def test_a_config_that_is_no_judges_is_refused_before_the_run(world, before, after, said):
    """A run with that judge is exit 2 too, before its first request."""
    text = (world.folder / "tone.toml").read_text()
    assert before in text
    (world.folder / "tone.toml").write_text(text.replace(before, after))
    world.config(TONE)
    done = world.run()
    assert done.code == 2, done.err
    assert world.endpoint.requests == []
    assert said in done.err
    world.config()
    assert world.run().code == 1
    world.asked()
    done = world.judged()
    assert done.code == 2, done.err
    assert said in done.err
    assert world.asked() == []


@pytest.mark.parametrize(
    ("more", "environment", "said"),
    [
        ('provider = "openai"', {"OPENAI_API_KEY": ""}, "set OPENAI_API_KEY"),
        ('provider = "openai"', {"OPENAI_API_KEY": ""}, "endpoint.api_key_file"),
        ('api_key_file = "none.txt"', {}, "none.txt cannot be read"),
        ('base_url = "https://x/v1"\nca_file = "none.pem"', {}, "none.pem cannot be read"),
        ('provider = "opnai"', {}, "endpoint.provider is 'opnai'"),
        ("concurency = 3", {}, "concurency"),
        ("concurrency = [", {}, "not valid TOML"),
        ('provider = "openai"', {"OPENAI_API_KEY": "Bearer sk-1"}, "begins with `Bearer`"),
    ],
)  # fmt: skip
def test_a_fault_of_a_judges_settings_names_the_judge(cli, jsonl, more, environment, said):
    """The name of the judge and the key of its config, never a flag, which would set the run's."""
    (cli.folder / "verdict.json").write_text(json.dumps(MARK_SCHEMA))
    request = 'model = "large"\nprompt = "{{ content }}"\nschema = "verdict.json"'
    config = f"[request]\n{request}\n[[endpoint]]\n{more}\n"
    (cli.folder / "tone.toml").write_text(config)
    (cli.folder / "run.toml").write_text('[judge.tone]\nconfig = "tone.toml"\n')
    place = ("run", jsonl(3), "-c", "run.toml", "-o", "run", "--provider", "simulator")
    done = cli(*place, "--model", "m", "--no-progress", env=environment)
    assert done.code == 2, done.err
    told = done.err.splitlines()[-1] if "TOML" not in said else done.err
    assert "judge.tone" in told and said in told
    assert "--" not in told
    assert not (cli.folder / "run").exists()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('[judge.tone]\nconfg = "tone.toml"\n', "did you mean config?"),
        ("[judge.tone]\n", "has no config"),
        ('[judge."a b"]\nconfig = "tone.toml"\n', "cannot be the name of a judge"),
        (f'{TONE}[gates]\njudges.tone.unpased = "== 0"\n', "gates.judges.tone.unpased"),
        (f'{TONE}[gates]\ntone.kappa = ">= 0.5"\n', "gates.tone.kappa"),
        (f"{TONE}[scores]\nx = '\"tone.marc\" > 1'\n", "tone.mark"),
        (f'{TONE}[scores]\nx = "tone.mark > 1"\n', 'write "tone.mark" in double quotes'),
        (f'{TONE}[metrics]\nx = "avg(tone.mark)"\n', 'write "tone.mark" in double quotes'),
        (f'{TONE}agreement = "nothing"\n', "no column 'nothing'"),
    ],
)
def test_tables_of_judges_that_are_wrong(world, tables, said):
    """Each is found before anything is sent, and the key is named."""
    world.config(tables)
    done = world.run()
    assert done.code == 2, done.err
    assert said in done.err
    assert world.endpoint.requests == []


def test_a_model_may_judge_itself_where_that_is_wanted(world):
    """`--allow-self`, or `allow_self = true`; a run refuses it before anything is sent."""
    text = (world.folder / "tone.toml").read_text().replace('"large"', '"m"')
    (world.folder / "tone.toml").write_text(text)
    world.config(TONE)
    done = world.run()
    assert done.code == 2
    assert "allow_self = true in [judge.tone]" in done.err
    assert world.endpoint.requests == []
    world.config(f"{TONE}allow_self = true\n")
    assert world.run().code == 1
    world.cli.verified("run")


def test_agreement_with_human_labels(world):
    """Share and kappa with their intervals, as metrics that gates can name. Labels may be text."""
    world.config(f'[gates]\ntone.kappa = ">= 0.5"\n{TONE}agreement = "label"\nscore = "mark"\n')
    done = world.run()
    assert done.code == 1, done.err
    said = world.summary()["metrics"]
    # Verdicts 5 1 5 4 1 5 4 5 beside labels 5 1 5 3 1 5 3 5: chance is (4*4 + 2*2) / 64.
    assert said["tone.agreement"]["value"] == 0.75
    assert said["tone.agreement"]["n"] == 8
    assert said["tone.kappa"]["value"] == pytest.approx((0.75 - 20 / 64) / (1 - 20 / 64))
    assert said["tone.kappa"]["low"] < said["tone.kappa"]["value"] < said["tone.kappa"]["high"]
    assert world.summary()["gates"]["tone.kappa"]["verdict"] == "pass"
    world.cli.verified("run")
    whole = json.loads((world.folder / "run/summary.json").read_text())
    whole["metrics"]["tone.kappa"]["value"] = 0.9
    whole["metrics"]["tone.kappa"]["high"] = 1.0
    (world.folder / "run/summary.json").write_text(json.dumps(whole))
    assert "kappa" in world.cli("verify", "run").out


def test_the_budget_of_a_run_covers_its_judges(world):
    """The judge gets what is left; it stops there, the run is exit 3 and its gates are not judged.
    With more money the same command judges the rest and no answer twice.
    """
    world.judge("tone", "{{{{ row.content }}}}", more=PRICES)
    text = (world.folder / "tone.toml").read_text().replace("max_tokens = 100", "max_tokens = 1")
    text = text.replace('"large"\n', '"large"\n').replace("input = 1000000", "input = 0.001")
    (world.folder / "tone.toml").write_text(text.replace("output = 1000000", "output = 1000000"))
    prices = PRICES.replace("input = 1000000", "input = 0.001")
    world.config(
        '[scores]\nmarks = { sql = \'"tone.mark"\', errors = "skip" }\n'
        f'[metrics]\nmark = "avg(marks)"\n[gates]\nmark = ">= 1"\n{prices}{TONE}',
    )
    text = (world.folder / "c.toml").read_text().replace("max_tokens = 100", "max_tokens = 1")
    (world.folder / "c.toml").write_text(text)
    done = world.run("--max-cost", "13.5", "--concurrency", "1")  # a dollar an answer: nine
    assert done.code == 3, done.err
    said = world.summary()
    assert said["status"] == "complete_with_errors"
    assert said["exit_code"] == 3
    assert said["judges"]["tone"]["stopped_by"] == "max_cost"
    assert said["judges"]["tone"]["pending"] > 0
    assert said["gates"]["mark"]["verdict"] == "not_judged"
    assert said["totals"]["cost_usd_with_judges"] <= 13.5
    judged = world.asked()
    assert 0 < len(judged) < 9
    world.cli.verified("run")
    assert "to resume: batchrun run" in done.err
    blessed = world.cli("bless", "run", "--as", "baseline")
    assert blessed.code == 2
    assert "the judge tone of run is not finished" in blessed.err
    assert world.cli("score", "run").code == 3
    done = world.run("--max-cost", "100")
    assert done.code == 1, done.err
    assert len(world.asked()) == 9 - len(judged)
    assert world.summary()["gates"]["mark"]["verdict"] == "pass"
    world.cli.verified("run")


def test_a_judge_without_a_price_cannot_be_covered(world):
    """With `--max-cost` every judgement needs a bound, and that is asked for before the run."""
    world.config(f"{PRICES}{TONE}")
    done = world.run("--max-cost", "100")
    assert done.code == 2
    assert "judge.tone" in done.err
    assert "no price is known" in done.err
    assert world.endpoint.requests == []


def test_pairs_in_both_orders(world):
    """A judge that prefers the first answer has no opinion: its verdicts are ties, and counted."""
    assert world.run().code == 1
    other = ["good", "good", "good", "bad", "fine", "bad", "bad", "bad", "bad", "good"]
    world.config(rows=other, folder="other", name="other.toml")
    assert world.run(config="other.toml").code == 0
    world.asked()
    done = world.judged("--against", "other", "--both-orders", config="pair.toml")
    assert done.code == 0, done.err
    asked = world.asked()
    assert len(asked) == 18  # nine rows that both answered
    assert sorted(asked[:9]) == sorted(
        " or ".join(reversed(each.split(" or "))) for each in asked[9:]
    )
    found = world.scores()["pair.winner"]
    assert found == [None if text == "FAIL" else "tie" for text in ROWS]
    assert world.summary()["judges"]["pair"]["flips"] == 9
    world.cli.verified("run")
    assert world.judged("--against", "other", "--both-orders", config="pair.toml").code == 0
    assert world.asked() == []
    world.prefers = lambda first, second: (
        "tie" if first == second else "a" if MARKS.get(first, 0) > MARKS.get(second, 0) else "b"
    )
    more = ("--against", "other", "--both-orders", "--restart")
    assert world.judged(*more, config="pair.toml").code == 0
    assert world.summary()["judges"]["pair"]["flips"] == 0
    assert world.scores()["pair.winner"] == [
        None
        if mine == "FAIL"
        else "tie"
        if mine == theirs
        else "a"
        if MARKS.get(mine, 0) > MARKS.get(theirs, 0)
        else "b"
        for mine, theirs in zip(ROWS, other, strict=True)
    ]
    world.cli.verified("run")
    costs = world.cli("costs", "run", "--json").json
    assert costs["total"]["attempts"] == 10 + 18


def test_a_judge_of_pairs_needs_a_winner(world):
    """Its schema has the field `winner`, of a, b and tie."""
    assert world.run().code == 1
    world.config(folder="other", name="other.toml")
    assert world.run(config="other.toml").code == 1
    world.asked()
    done = world.judged("--against", "other")
    assert done.code == 2
    assert '"winner"' in done.err
    text = (world.folder / "pair.toml").read_text().replace("a.content", "row.content")
    (world.folder / "pair.toml").write_text(text)
    done = world.judged("--against", "other", config="pair.toml")
    assert done.code == 2, done.err
    assert world.asked() == []


def test_compare_tells_judges_apart(world):
    """Another prompt of the judge is another judge: metrics on its verdicts are not compared, and
    no gate against such a baseline passes. A judge that the baseline lacks concerns only what
    names its verdicts.
    """
    tables = (
        '[scores]\nlong = "len(content) > 3"\n[metrics]\nmark = \'avg("tone.mark")\'\n'
        'long = "avg(long)"\n'
    )
    gates = '[gates.compare]\nbaseline = "run"\n'
    gates += "mark = { not_worse_by = 0.1 }\nlong = { not_worse_by = 0.9 }\n"
    world.config(f"{tables}{TONE}")
    assert world.run().code == 1
    world.config(f"{tables}{gates}{TONE}", folder="same", name="same.toml")
    done = world.run(config="same.toml")
    assert done.code == 1, done.err
    said = world.summary("same")["gates"]
    assert said["compare.mark"]["verdict"] == "pass", said
    world.judge("tone", "Rate: {{{{ row.content }}}}")
    world.config(f"{tables}{gates}{TONE}", folder="next", name="next.toml")
    assert world.run(config="next.toml").code == 4
    said = world.summary("next")["gates"]
    assert said["compare.mark"]["verdict"] == "inconclusive"
    assert "tone was asked otherwise" in said["compare.mark"]["why"]
    assert said["compare.long"]["verdict"] == "inconclusive"
    assert "another judge" in said["compare.long"]["why"]
    world.config(tables.replace("mark = 'avg(\"tone.mark\")'\n", ""))
    assert world.run("-o", "bare").code == 1
    bare = gates.replace('"run"', '"bare"')
    world.config(f"{tables}{bare}{TONE}", folder="late", name="late.toml")
    assert world.run(config="late.toml").code == 4
    said = world.summary("late")["gates"]
    assert said["compare.long"]["verdict"] == "pass"
    assert "bare has none" in said["compare.mark"]["why"]
    compared = world.cli("compare", "run", "next", "--json").json
    assert compared["differs"] == ["judge"]
    assert "mark" not in compared["metrics"]
    compared = world.cli("compare", "run", "same", "--json").json
    assert compared["differs"] == []
    assert compared["metrics"]["mark"]["difference"] == 0


def test_query_show_and_status_have_the_verdicts(world):
    """Verdicts are in the view `scores`, a row shows the reason, and JSON keeps texts back."""
    world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}")
    assert world.run().code == 1
    sql = 'SELECT avg("tone.mark") AS mark, sum("tone.pass") AS passed FROM scores'
    assert world.cli("query", "run", sql, "--format", "json").json == [
        {"mark": 3.75, "passed": 6.0}
    ]
    assert "tone.reason: it is bad" in world.cli("show", "run", "1").out
    row = world.cli("show", "run", "1", "--json").json["rows"][0]
    assert row["scores"] == {"tone.mark": 1.0, "tone.pass": False}
    row = world.cli("show", "run", "1", "--json", "--content").json["rows"][0]
    assert row["scores"]["tone.reason"] == "it is bad"
    assert "judge tone: 9 answers judged" in world.cli("status", "run").out
    assert world.cli("report", "run").code == 0
    assert "tone" in (world.folder / "run/report.html").read_text()


def test_a_judge_needs_a_finished_run(world):
    """A live run is exit 2, and so is one with rows left."""
    world.config(rows=["FAIL", *ROWS])
    assert world.run("--max-failures", "0", "--concurrency", "1").code == 3
    world.asked()
    done = world.judged()
    assert done.code == 2, done.err
    assert "not finished" in done.err
    assert world.asked() == []
    done = world.judged(folder="nowhere")
    assert done.code == 2


def test_a_live_run_is_not_judged(world):
    """While another process works on the directory, judging is exit 2 and sends nothing."""
    assert world.run().code == 1
    world.asked()
    folder = os.open(world.folder / "run", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        done = world.judged()
    finally:
        os.close(folder)
    assert done.code == 2, done.err
    assert "a run is working on" in done.err
    assert world.asked() == []


def test_requests_that_cannot_be_shown_are_refused_before_the_run(world):
    """A judge that is shown `row.messages` of a run over piped rows needs `--requests all`."""
    world.judge("tone", "{{{{ row.messages[-1].content }}}}")
    world.config(TONE)
    rows = (world.folder / "rows.jsonl").read_text()
    config = (world.folder / "c.toml").read_text().replace('"rows.jsonl"', '"-"')
    (world.folder / "c.toml").write_text(config.replace("[input]", '[input]\nformat = "jsonl"'))
    for more, code in ((), 2), (("--requests", "all"), 1):
        done = subprocess.run(
            [sys.executable, "-m", "batchrun", "run", "-c", "c.toml", "--no-progress", *more],
            input=rows,
            cwd=world.folder,
            env=os.environ | {"HOME": str(world.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code == 2:
            assert "--requests all" in done.stderr
            assert world.endpoint.requests == []
    assert sorted(world.asked()) == sorted(text for text in ROWS if text != "FAIL")
    world.cli.verified("run")


def test_validate_knows_judges(world):
    """A config with judges is checked as the run would: their columns are known, and what is wrong
    is said.
    """
    world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}")
    done = world.cli("validate", "-c", "c.toml")
    assert done.code == 0, done.err
    world.config(f"[metrics]\nmark = 'avg(\"tone.marc\")'\n{TONE}")
    done = world.cli("validate", "-c", "c.toml")
    assert done.code == 2
    assert "tone.mark" in done.err


def test_a_judge_in_a_bucket(world, store):
    """A run directory in an object store is judged there; its checkpoint has that of the judge."""
    flags = ("--checkpoint", "ck")
    folder, world.env = f"s3://{store.bucket}/judged/run", store.env
    config = (world.folder / "c.toml").read_text().replace('"run"', f'"{folder}"')
    (world.folder / "c.toml").write_text(config)
    done = world.run(*flags)
    assert done.code == 1, done.err
    world.asked()
    done = world.judged(*flags, folder=folder)
    assert done.code == 1, done.err
    assert len(world.asked()) == 9
    assert world.judged(*flags, folder=folder).code == 1
    assert world.asked() == []
    assert (world.folder / "ck/judges/tone/journal.db").exists()
    done = world.cli("verify", folder, *flags, env=store.env)
    assert done.code == 0, done.out
    sql = 'SELECT count("tone.mark") AS marks FROM scores'
    found = world.cli("query", folder, sql, "--format", "json", env=store.env)
    assert found.json == [{"marks": 8}]


def test_from_python(world, monkeypatch):
    """The function does what the command does, and its keywords win over the config."""
    monkeypatch.chdir(world.folder)
    assert world.run().code == 1
    world.asked()
    found = batchrun.judge("run", config="tone.toml", agreement="label", score="mark")
    assert found.judges["tone"]["rows"] == 9
    assert found.metrics["tone.agreement"]["value"] == 0.75
    assert len(world.asked()) == 9
    with pytest.raises(batchrun.UsageError, match="gave the answers"):
        batchrun.judge("run", config="tone.toml", model="m")
    with pytest.raises(TypeError, match="modl"):
        batchrun.judge("run", config="tone.toml", modl="m")
    summary = batchrun.run(
        "rows.jsonl",
        output="third",
        model="m",
        prompt="{{ text }}",
        base_url=world.endpoint.base_url,
        max_attempts=1,
        judge={"tone": {"config": "tone.toml"}},
    )
    assert summary.judges["tone"]["rows"] == 9
    world.cli.verified("third")


def test_a_run_without_judges_loads_nothing_of_them(world):
    """Neither the code that runs judges nor DuckDB is imported."""
    program = (
        "import sys; from batchrun.cli.main import main\n"
        "try: main(['run', '-c', 'c.toml', '--quiet'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if 'judges' in m and 'core' not in m or m == 'duckdb'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=world.folder,
        env=os.environ | {"HOME": str(world.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_stop_while_a_judge_is_at_work(world, until):
    """Ctrl-C during the judging is orderly: nothing is lost; the same command judges the rest."""
    slow = Path(world.folder, "tone.toml")
    slow.write_text(slow.read_text() + "[guards]\ngrace_s = 5\n")
    world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}", rows=["good"] * 40)
    text = slow.read_text().replace("[retry]", "concurrency = 1\n[retry]")
    slow.write_text(text)
    answered = world.endpoint.requests
    live = world.cli.start("run", "-c", "c.toml", "--no-progress")
    until(lambda: sum("response_format" in (body or {}) for _, _, body in list(answered)) > 5)
    live.signal(signal.SIGINT)
    done = live.wait()
    if done.code in (0, 1):
        pytest.skip("the judge was quicker than the signal")
    assert done.code == 130, done.err
    judged = len(world.asked())
    assert world.run().code == 0
    assert len(world.asked()) == 40 - judged
    world.cli.verified("run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_judge_that_is_killed_goes_on(world, seed, until):
    """Killed at a moment of the seed's choosing and started again, often: in the end every answer
    has one verdict, none of another answer counts, and verify holds.
    """
    dice = random.Random(seed)
    rows = [dice.choice(["good", "bad", "fine"]) for _ in range(60)]
    world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}", rows=rows)
    for _ in range(4):
        before = len(world.endpoint.requests)
        live = world.cli.start("run", "-c", "c.toml", "--no-progress", "--resend-changed")
        count = dice.randrange(1, 60)
        with contextlib.suppress(AssertionError):
            until(lambda b=before, n=count: len(world.endpoint.requests) >= b + n, timeout_s=5)
        time.sleep(dice.random() * 0.1)
        live.kill()
        rows[dice.randrange(60)] = dice.choice(["good", "bad", "fine"])
        world.config(f"[metrics]\nmark = 'avg(\"tone.mark\")'\n{TONE}", rows=rows)
    done = world.run("--resend-changed")
    assert done.code == 0, f"seed {seed}: {done.err}"
    assert world.scores()["tone.mark"] == [MARKS[text] for text in rows], f"seed {seed}"
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_command_that_is_killed_goes_on(world, seed, until):
    """`batchrun judge`, killed at a moment of the seed's choosing: what was judged stays, verify
    holds every time, and the same command judges the rest.
    """
    dice = random.Random(seed)
    world.config(rows=["good"] * 60)
    assert world.run().code == 0
    world.asked()
    for _ in range(3):
        live = world.cli.start("judge", "run", "-c", "tone.toml", "--no-progress")
        count = dice.randrange(1, 40)
        with contextlib.suppress(AssertionError):
            until(lambda n=count: len(world.endpoint.requests) >= n, timeout_s=5)
        time.sleep(dice.random() * 0.1)
        live.kill()
        world.asked()
        assert world.cli("verify", "run").code == 0, f"seed {seed}"
    done = world.judged()
    assert done.code == 0, f"seed {seed}: {done.err}"
    assert world.scores()["tone.mark"] == [5.0] * 60
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")


def repeated(world, texts, labels, more=""):
    """The config of a run that asks each row so often as it has texts, one text at a time."""
    lines = [
        {"custom_id": f"q{n}", "texts": asked, "label": label}
        for n, (asked, label) in enumerate(zip(texts, labels, strict=True))
    ]
    world.config(more)
    (world.folder / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    config = (world.folder / "c.toml").read_text().replace("{{ text }}", "{{ texts[repeat] }}")
    config = config.replace("[request]", f"[request]\nrepeat = {len(texts[0])}")
    (world.folder / "c.toml").write_text(config)


def test_every_answer_of_a_repeated_run_has_its_verdict(world):
    """A run with `repeat` is judged answer by answer; of one repeat that was retried exactly one
    judgement is sent.
    """
    texts = [["good", "bad", "fine"], ["FAIL", "good", "odd"], ["bad", "bad", "good"]]
    repeated(world, texts, [5, 1, 1], TONE)
    assert world.run().code == 1
    assert sorted(world.asked()) == sorted(t for row in texts for t in row if t != "FAIL")
    assert world.scores()["tone.mark"] == [MARKS.get(text) for row in texts for text in row]
    world.failing = set()
    assert world.run("--retry-failed").code == 0
    assert world.asked() == ["FAIL"]
    assert world.scores()["tone.mark"][3] == 3
    world.cli.verified("run")
    world.cli.verified("run/judges/tone")


def test_agreement_over_repeats_is_about_rows(world):
    """With several answers to a row, the intervals of agreement and kappa are those of rows drawn
    at random: as wide as a bootstrap of rows, done here by hand, finds them.
    """
    dice = random.Random(4)
    labels = [dice.choice([1, 3, 4, 5]) for _ in range(60)]
    told = {5: "good", 4: "fine", 1: "bad", 3: "else"}
    texts = []
    for label in labels:
        mostly = told[label] if dice.random() < 0.7 else dice.choice(list(told.values()))
        texts.append([mostly if dice.random() < 0.9 else "bad" for _ in range(3)])
    texts[7][1], texts[9][0] = "odd", "FAIL"
    repeated(world, texts, labels, f'{TONE}agreement = "label"\nscore = "mark"\n')
    assert world.run().code == 1
    marks = world.scores()["tone.mark"]
    rows = [
        [(mark, label) for mark in marks[3 * n : 3 * n + 3] if mark is not None]
        for n, label in enumerate(labels)
    ]

    def figures(drawn):
        pairs = [pair for row in drawn for pair in row]
        share = sum(one == other for one, other in pairs) / len(pairs)
        chance = (
            sum(
                sum(one == name for one, _ in pairs) * sum(other == name for _, other in pairs)
                for name in told
            )
            / len(pairs) ** 2
        )
        by_row = sum(sum(one == other for one, other in row) / len(row) for row in drawn)
        return by_row / len(drawn), (share - chance) / (1 - chance)

    wanted = figures(rows)
    drawn = [figures(dice.choices(rows, k=60)) for _ in range(1500)]
    said = world.summary()["metrics"]
    assert [said[f"tone.{name}"]["n"] for name in ("agreement", "kappa")] == [60, 178]
    for at, name in enumerate(("agreement", "kappa")):
        found = said[f"tone.{name}"]
        assert found["value"] == pytest.approx(wanted[at], abs=1e-12)
        error = statistics.stdev(each[at] for each in drawn)
        assert (found["high"] - found["low"]) / 2 == pytest.approx(2.0 * error, rel=0.12), name
    world.cli.verified("run")
    path = world.folder / "run/summary.json"
    whole = json.loads(path.read_text())
    whole["metrics"]["tone.agreement"] |= {"value": wanted[0] - 0.01, "n": 178}
    path.write_text(json.dumps(whole))
    assert "tone.agreement" in world.cli("verify", "run").out


def test_answers_that_are_all_alike_leave_something_unknown(world):
    """Where judge and person agree on every answer, the share has the interval of so many rows."""
    repeated(
        world,
        [["good"] * 3, ["bad"] * 3] * 10,
        [5, 1] * 10,
        f'{TONE}agreement = "label"\nscore = "mark"\n',
    )
    assert world.run().code == 0
    said = world.summary()["metrics"]
    share = said["tone.agreement"]
    assert (share["value"], share["n"], share["high"]) == (1.0, 20, 1.0)
    assert share["low"] == pytest.approx(0.8389, abs=1e-4)  # Wilson's of 20 of 20
    assert said["tone.kappa"]["value"] == 1.0
    world.cli.verified("run")


def estimated(world, *more, config="c.toml"):
    """What `estimate --json` says of a run."""
    done = world.cli("estimate", "-c", config, "--json", *more)
    assert done.code == 0, done.err
    return done.json


def test_an_estimate_counts_the_judgements(world):
    """A judge is asked about every answer: its tokens and cost are its own, and in the total. Each
    place in which its prompt shows the answer counts as many tokens as the answer may have.
    """
    prices = PRICES.replace("1000000", "10")
    world.config(prices)
    alone = estimated(world)
    assert "judges" not in alone
    world.config(f"{prices}{TONE}")
    world.judge("tone", "Rate: {{{{ row.content }}}}", more=prices)
    found = estimated(world)
    judge = found["judges"]["tone"]
    assert (found["rows"], judge["rows"]) == (10, 10)
    assert judge["cost_usd"]["estimate"] > 0
    for name in ("prompt_tokens", "completion_tokens", "cost_usd"):
        for end in ("low", "estimate", "high"):
            both = alone[name][end] + judge[name][end]
            assert found[name][end] == pytest.approx(both, abs=1.01 if "tok" in name else 1e-9)
    assert found["at_most"]["tokens"] == alone["at_most"]["tokens"] + judge["at_most"]["tokens"]
    assert list(judge["models"]) == ["large"] and list(found["models"]) == ["m"]
    assert 0 < judge["completion_tokens"]["estimate"] < 10 * 100
    world.judge("tone", "Rate: {{{{ row.content }}}} {{{{ row.content | tojson }}}}", more=prices)
    twice = estimated(world)["judges"]["tone"]
    more = [twice["prompt_tokens"][end] - judge["prompt_tokens"][end] for end in ("low", "high")]
    assert more[0] == pytest.approx(10 * 2, abs=45)  # 5 % of the limit, and two quotes
    assert more[1] == pytest.approx(10 * 100, abs=60)
    said = world.cli("estimate", "-c", "c.toml").out
    assert "judge    tone: 10 answers to judge, by large" in said
    assert "total    the run with its judges" in said
    assert world.endpoint.requests == []


def test_a_judges_estimate_is_that_of_its_run(world):
    """Where answers are as long as they are assumed to be, the estimate before the run is that of
    the same prompt over the answers themselves.
    """
    text = "one answer of words that are read " * 6  # about 40 tokens, the likely share of 100
    world.config(TONE, rows=[f"{text}{n}" for n in range(12)])
    asked = "About {{{{ topic }}}}, asked: {{{{ row.messages[-1].content }}}}"
    world.judge("tone", asked + " {{{{ row.content }}}}")
    before = estimated(world)["judges"]["tone"]["prompt_tokens"]
    assert world.run().code == 0
    after = world.cli("estimate", "--from", "run", "-c", "tone.toml", "--json").json
    likely = after["prompt_tokens"]["estimate"]
    assert before["estimate"] == pytest.approx(likely, rel=0.05)
    assert before["low"] < after["prompt_tokens"]["low"]
    assert before["high"] > after["prompt_tokens"]["high"]


def test_an_estimate_counts_each_repeat_and_each_judge(world):
    """With `repeat` every answer of a row is judged; bad rows have none; judges are told apart; a
    verdict is as long as its schema says.
    """
    world.judge("brief", "{{{{ row.content }}}}", schema="brief")
    short = {"type": "object", "properties": {"pass": {"type": "boolean"}}, "required": ["pass"]}
    (world.folder / "brief.json").write_text(json.dumps(short))
    repeated(
        world,
        [["good"] * 3, ["bad"] * 3, [""] * 3],
        [1, 2, 3],
        f'{TONE}[judge.brief]\nconfig = "brief.toml"\n',
    )
    found = estimated(world)
    assert (found["rows"], found["bad"]) == (9, 3)
    assert {name: judge["rows"] for name, judge in found["judges"].items()} == {
        "tone": 6,
        "brief": 6,
    }
    of_reason, of_flag = (
        found["judges"][name]["completion_tokens"]["estimate"] for name in ("tone", "brief")
    )
    assert of_flag < 6 * 10 < of_reason
    assert found["judges"]["brief"]["completion_tokens"]["high"] == 600


def test_an_estimate_says_what_is_wrong_with_a_judge(world):
    """A template that names what the answers will not have is exit 2, as for the run; a judge that
    gave the answers is a note; one without a limit has no bound.
    """
    world.judge("tone", "{{{{ row.content }}}} {{{{ topci }}}}")
    world.config(TONE)
    done = world.cli("estimate", "-c", "c.toml")
    assert done.code == 2 and "topci" in done.err and "judge.tone" in done.err
    world.judge("tone", "{{{{ row.content }}}} {{{{ topic }}}}")
    text = (world.folder / "tone.toml").read_text().replace("params = { max_tokens = 100 }", "")
    (world.folder / "tone.toml").write_text(text.replace('"large"', '"m"'))
    found = estimated(world)
    assert found["judges"]["tone"]["at_most"]["tokens"] is None
    assert found["at_most"]["tokens"] is None
    assert any("which gave the answers" in note for note in found["notes"])
    compared = estimated(world, "--model", "x", "--model", "y")["models"]
    assert compared["x"]["judges"]["tone"]["rows"] == 10
    assert "judgements do not limit their answer" in world.cli("estimate", "-c", "c.toml").out


def test_a_dry_run_and_a_pilot_of_a_judged_run(world):
    """`run --dry-run` foretells the judgements of the rows that would be sent; a pilot leaves out
    scores on verdicts, and judges nothing.
    """
    world.config(
        f'{TONE}[scores]\nliked = \'"tone.mark" >= 4\'\nlong = "len(content) > 3"\n'
        '[metrics]\nliked = "avg(liked)"\n'
    )
    done = world.cli("run", "-c", "c.toml", "--dry-run", "--json")
    assert done.json["estimate"]["judges"]["tone"]["rows"] == 10, done.err
    done = world.cli("estimate", "-c", "c.toml", "--pilot", "10", "-o", "pilot", "--json")
    assert done.code == 0, done.err
    assert done.json["pilot"]["rows"] == done.json["judges"]["tone"]["rows"] == 10
    assert world.asked() == []
    assert list(world.summary("pilot")["scores"]) == ["long"]
    assert world.run().code == 1
    world.failing = set()
    done = world.cli("run", "-c", "c.toml", "--dry-run", "--retry-failed", "--json")
    assert done.json["estimate"]["judges"]["tone"]["rows"] == 1, done.err
