"""``batchrun costs``: exact sums over ledgers."""

import csv
import io
import json
from collections import defaultdict
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchrun.cli.looking.costs import command
from batchrun.cli.looking.runs import command as list_runs

PRICES = '[prices."m"]\ninput = 0.137\noutput = 1.313\n[prices."n"]\ninput = 3\noutput = 7.77\n'


@pytest.fixture
def runs(here, scripted, answer, jsonl, cli):
    """Two runs with labels and prices: one with retries and failures, and one that reuses half of
    its answers.
    """

    def reply(body, _headers, nth):
        text = body["messages"][0]["content"]
        if text.endswith("3") and nth % 2:
            return 500, {"retry-after": "0"}, {"error": {"message": "again"}}
        told = {"prompt_tokens": len(text) * 31, "completion_tokens": 7 + nth}
        return 200, {}, answer("yes", usage=told | {"total_tokens": sum(told.values())})

    endpoint = scripted(reply)
    (cli.folder / "prices.toml").write_text(PRICES)

    def row(n):
        return {"messages": [{"role": "user", "content": f"ask {n}"}], "model": "mn"[n % 2]}

    def run(rows, folder, *flags):
        done = here(
            *(jsonl(rows), "-o", folder, "--base-url", endpoint.base_url, "-c", "prices.toml"),
            *("--no-progress", "--shard-rows", "5", *flags),
        )
        assert done.code in (0, 1), done.err
        return cli.folder / folder

    first = run([row(n) for n in range(12)], "first", "--label", "team=a")
    second = run([row(n) for n in range(8, 20)], "second", "--label", "team=b", "--reuse", "first")
    return first, second


def _costs(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


def _lines(folder):
    for path in sorted((folder / "attempts").iterdir()):
        yield from pq.ParquetFile(path).read().to_pylist()


def test_sums_are_those_of_every_single_line(runs):
    """By model, label and day: picodollars, tokens and attempts as Python adds them up."""
    code, out, err = _costs(*runs, "--by", "model,label.team,day", "--json")
    assert code == 0, err
    found = json.loads(out)
    expected = defaultdict(lambda: [0, 0, 0, 0])
    for folder, team in zip(runs, "ab", strict=True):
        for line in _lines(folder):
            sums = expected[line["model"], team, f"{line['started_at']:%Y-%m-%d}"]
            sums[0] += round((line["cost_usd"] or 0) * 10**12)
            sums[1] += 1
            sums[2] += line["prompt_tokens"] or 0
            sums[3] += line["completion_tokens"] or 0
    assert found["by"] == ["model", "label.team", "day"]
    got = {
        (row["model"], row["label.team"], row["day"]): [
            *(row["cost_pd"] or 0, row["attempts"]),
            *(row["prompt_tokens"] or 0, row["completion_tokens"] or 0),
        ]
        for row in found["rows"]
        if row["attempts"]
    }
    assert got == expected
    for row in [*found["rows"], found["total"]]:
        assert row["cost_usd"] == (row["cost_pd"] and row["cost_pd"] / 10**12)
    assert found["total"]["cost_pd"] == sum(sums[0] for sums in expected.values())
    assert found["total"]["runs"] == 2


def test_the_total_is_the_bill_of_the_summaries(runs):
    """What status and verify call the cost is what is summed here."""
    totals = [json.loads((run / "summary.json").read_text())["totals"] for run in runs]
    found = json.loads(_costs(*runs, "--json")[1])["total"]
    assert found["attempts"] == sum(each["attempts"] for each in totals)
    assert found["cost_usd"] == pytest.approx(sum(each["cost_usd"] for each in totals), abs=1e-12)


def test_reused_answers_are_counted_apart(runs):
    """They are rows without a line in the ledger and without a cost."""
    _, second = runs
    found = json.loads(_costs(second, "--by", "model", "--json")[1])
    assert found["total"]["reused_rows"] == 4 and found["total"]["attempts"] < 12
    assert sum(row["reused_rows"] for row in found["rows"]) == 4
    assert "REUSED" in _costs(second)[1]
    assert "REUSED" not in _costs(runs[0])[1]


def test_one_directory_counts_once(runs, monkeypatch):
    """However often and under whatever name it is given."""
    first, _ = runs
    monkeypatch.chdir(first.parent)
    once, twice = _costs(first, "--json")[1], _costs(first, "./first", "first", "--json")[1]
    assert json.loads(once)["total"] == json.loads(twice)["total"]


def test_a_missing_label_is_null_and_an_empty_field(runs):
    """A run without the label has a line of its own."""
    found = json.loads(_costs(*runs, "--by", "label.none", "--json")[1])
    assert [row["label.none"] for row in found["rows"]] == [None]
    lines = list(csv.DictReader(io.StringIO(_costs(*runs, "--by", "label.none,month", "--csv")[1])))
    assert {line["label.none"] for line in lines} == {""}
    assert sum(int(line["attempts"]) for line in lines) == found["total"]["attempts"]


@pytest.mark.parametrize("by", ["", "week", "label.", "model,,day", "cost"])
def test_unknown_keys_are_named(runs, by):
    """Exit 2, with those that there are."""
    code, out, err = _costs(*runs, "--by", by)
    assert (code, out) == (2, "") and "month, day, model, endpoint" in err


def test_a_live_run_counts_what_is_durable(interrupted):
    """Lines that wait in logs count as those of parts do, each once."""
    folder, _, _ = interrupted()
    before = json.loads(_costs(folder, "--json")[1])["total"]
    assert before["attempts"] == sum(1 for _ in _lines(folder))


def _rewritten(folder, column, values):
    [path] = sorted((folder / "attempts").iterdir())[:1]
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    values = [*values, *table.column(column).to_pylist()[len(values) :]]
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)


def test_months_and_days_are_utc_and_sums_do_not_overflow(runs):
    """A line a microsecond before the turn of the year is of the old one; huge costs add up."""
    first, _ = runs
    turn = datetime(2026, 1, 1, tzinfo=UTC)
    _rewritten(first, "started_at", [turn.replace(year=2025, month=12, day=31, hour=23), turn])
    _rewritten(first, "cost_usd", [9_000_000.5, 9_000_000.25])
    found = json.loads(_costs(first, "--by", "month", "--json")[1])
    by_month = {row["month"]: row["cost_pd"] for row in found["rows"]}
    assert by_month["2025-12"] == 9_000_000_500_000_000_000
    assert by_month["2026-01"] == 9_000_000_250_000_000_000
    assert found["total"]["cost_pd"] > 2**63
    assert [row["day"] for row in json.loads(_costs(first, "--by", "day", "--json")[1])["rows"]][
        :2
    ] == ["2025-12-31", "2026-01-01"]


def test_unknown_costs_are_null_and_said(here, scripted, answer, jsonl, cli):
    """A model without a price has no cost, and the screen says how many attempts are missing."""
    told = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    endpoint = scripted(lambda *_: (200, {}, answer("yes", usage=told)))
    here(jsonl(2), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    code, out, err = _costs(cli.folder / "run")
    assert code == 0 and "?" in out and "2 attempts have no known price" in err
    total = json.loads(_costs(cli.folder / "run", "--json")[1])["total"]
    assert (total["cost_pd"], total["cost_usd"], total["unpriced_attempts"]) == (None, None, 2)


@pytest.fixture
def judged(runs, here, scripted, answer, jsonl):
    """The first of the runs with two judges, one of which has a judge as well."""
    first, second = runs
    told = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
    endpoint = scripted(lambda *_: (200, {}, answer("5", usage=told)))
    row = {"messages": [{"role": "user", "content": "judge"}], "model": "n"}
    for place, rows, flags in (
        ("tone", 3, ("--label", "team=judges")),
        ("facts", 2, ()),
        ("tone/judges/second", 1, ()),
    ):
        done = here(
            *(jsonl([row] * rows), "-o", first / "judges" / place, "-c", "prices.toml"),
            *("--base-url", endpoint.base_url, "--no-progress", *flags),
        )
        assert done.code == 0, done.err
    (first / "judges" / "no-run").mkdir()
    return first, second


def test_judges_have_lines_of_their_own_and_count_once(judged):
    """They are in the total of their run, whether they are named besides it or not; a judge without
    labels has those of its run, and is not another run.
    """
    first, second = judged
    alone = json.loads(_costs(second, "--json")[1])["total"]
    found = json.loads(_costs(first, "--by", "label.team", "--json")[1])
    lines = {(row["label.team"], row["judge"]): row for row in found["rows"]}
    assert set(lines) == {
        *(("a", None), ("a", "facts")),
        *(("judges", "tone"), ("judges", "tone/second")),
    }
    assert [lines[key]["attempts"] for key in list(lines)[1:]] == [2, 3, 1]
    assert found["total"]["runs"] == 1
    assert found["total"]["cost_pd"] == sum(line["cost_pd"] for line in lines.values())
    for named in (
        (first, second),
        (first, first / "judges" / "tone", second),
        (first / "judges" / "facts", second, first),
    ):
        total = json.loads(_costs(*named, "--json")[1])["total"]
        assert total["cost_pd"] == found["total"]["cost_pd"] + alone["cost_pd"]
        assert total["runs"] == 2
    by_itself = json.loads(_costs(first / "judges" / "facts", "--json")[1])
    assert [row["judge"] for row in by_itself["rows"]] == [None]


def test_judges_are_on_the_screen_and_in_csv(judged):
    """The table has a column for them where there are some, CSV always; `runs` lists no judge."""
    first, second = judged
    out = _costs(first)[1]
    assert "JUDGE" in out.splitlines()[0] and out.count("tone/second") == 1
    assert "JUDGE" not in _costs(second)[1]
    lines = list(csv.DictReader(io.StringIO(_costs(first, second, "--by", "model", "--csv")[1])))
    assert {line["judge"] for line in lines} == {"", "tone", "facts", "tone/second"}
    done = CliRunner().invoke(list_runs, [str(first.parent), "--json"])
    assert [run["dir"] for run in json.loads(done.stdout)["runs"]] == [str(first), str(second)]


@pytest.mark.parametrize("by", ["label.team", "month,label.team"])
def test_a_shard_that_sent_nothing_adds_nothing(here, simulator, jsonl, cli, by):
    """Rows that are no requests make a part of the ledger without a line."""
    rows = [{"note": n} for n in range(5)] + [{"messages": [{"role": "user", "content": "hi"}]}]
    flags = ("--shard-rows", "5", "--label", "team=a", "--no-progress")
    done = here(jsonl(rows), "-o", "run", "--base-url", simulator().base_url, *flags)
    assert done.code == 1, done.err
    code, out, err = _costs(cli.folder / "run", "--by", by, "--json")
    assert code == 0, err
    (line,) = json.loads(out)["rows"]
    assert (line["label.team"], line["attempts"], line["unpriced_attempts"]) == ("a", 1, 1)


def test_a_label_that_no_run_has_is_noticed(runs):
    """With the nearest one: all sums are in one line."""
    code, _, err = _costs(*runs, "--by", "label.teams")
    assert code == 0
    assert "no run has the label 'teams'; did you mean label.team? The labels are: team" in err
