"""``batchrun show``: rows as a person reads them, from whatever is durable."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchrun.cli.looking.show import command
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.layout import columns_of
from tests.harness.slow import rest_slow

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnp.exe\u202c \x9b2J end"


@pytest.fixture
def run(here, scripted, answer, jsonl, cli):
    """A run of ten rows in parts of four: row 2 fails for good, row 5 at first, row 7 is no
    request. Calling it runs the command.
    """

    def reply(body, _headers, _nth):
        text = body["messages"][-1]["content"]
        asked[text] = asked.get(text, 0) + 1
        if "ask 2" in text:
            return 413, {}, {"error": {"message": f"too large {HOSTILE}", "code": "large"}}
        if "ask 5" in text and asked[text] == 1:
            return 503, {"retry-after": "0.01"}, {"error": {"message": "later"}}
        return 200, {}, answer(f"answer to {text} {HOSTILE}")

    asked = {}
    endpoint = scripted(reply)
    rows = [
        {
            "custom_id": f"id-{n}",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": f"ask {n}"},
            ],
            "temperature": 0.25,
            "topic": f"t{n % 2}",
        }
        for n in range(10)
    ]
    rows[7]["messages"] = []
    rows[8]["custom_id"] = "3"

    source = jsonl(rows)

    def go(*flags, folder="run"):
        return here(
            *(source, "-o", folder, "--base-url", endpoint.base_url, "--shard-rows", "4"),
            *("--no-progress", *flags),
        )

    go.folder, go.source, go.endpoint = cli.folder / "run", source, endpoint
    return go


def _show(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


def _rows(*arguments):
    code, out, err = _show(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)["rows"]


def _numbers(*arguments):
    return [row["row"] for row in _rows(*arguments)]


def test_a_row_reads_from_request_to_cost(run):
    """One page has parameters, messages by role, answer, every attempt and why it was made."""
    run("--requests", "all")
    code, out, _ = _show(run.folder, "5")
    assert code == 0
    for words in (
        "ROW 5  id-5  ok",
        "topic: t1",
        "temperature 0.25",
        "system:\n    be brief",
        "user:\n    ask 5",
        "ANSWER\n  answer to ask 5",
        "HTTP 503",
        "the server asked for 0.01 s",
        "2 attempts",
    ):
        assert words in out, words


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["4"], [4]),
        (["9", "0", "id-4"], [9, 0, 4]),
        (["3"], [3]),  # a number is a row, although row 8 has it as its id
        (["--id", "3"], [8]),
        (["--errors"], [2, 7]),
        (["--status", "error", "-n", "1"], [2]),
        (["--class", "invalid_row"], [7]),
        (["--status", "ok", "-n", "3"], [0, 1, 3]),
        (["--where", "topic = 't0' AND status = 'ok'"], [0, 4, 6, 8]),
        (["--where", "attempts > 1"], [5]),
        (["--where", "Row in (1, 3)"], [1, 3]),
        (["--errors", "--where", "http_status is null"], [7]),
        ([], [0, 1, 2, 3, 4]),
    ],
)
def test_rows_are_chosen(run, arguments, numbers):
    """By number, id, status, class, condition; the first five where nothing is said."""
    run()
    assert _numbers(run.folder, *arguments) == numbers


def test_a_sample_depends_on_its_seed_alone(run):
    """The same seed gives the same rows, other seeds others; never more than there are."""
    run()
    samples = {
        seed: tuple(_numbers(run.folder, "--sample", "-n", "4", "--seed", seed))
        for seed in range(9)
    }
    assert samples[3] == tuple(_numbers(run.folder, "--sample", "-n", "4", "--seed", "3"))
    assert len(set(samples.values())) > 1
    assert all(len(set(rows)) == 4 for rows in samples.values())
    assert _numbers(run.folder, "--sample", "-n", "99", "--errors") == [2, 7]


@pytest.mark.parametrize(
    ("arguments", "words"),
    rest_slow(
        [
            (["77"], "has no row 77 and no custom_id '77'; its 10 rows are numbered from 0"),
            (["id-99"], "has no id 'id-99'"),
            (
                ["--where", "topik = 't0'"],
                "no column 'topik', and the run has no scores; did you mean topic?",
            ),
            (
                ["--where", "NOT correct"],
                "has no scores; if it is a score, `batchrun score DIR -c FILE`",
            ),
            (["--where", "row in (select 1)"], "a subquery is not allowed"),
            (["--where", "true) union select 1 --"], "--where"),
            (["--where", "1 = 1; drop table piece"], "--where"),
            (["--where", "read_text('/etc/passwd') is not null"], "--where"),
            (["--where", "count(*) > 1"], "--where"),
            (["--where", "topic"], "--where"),
            (["--errors", "--status", "ok"], "exclude each other"),
            (["3", "--errors"], "name rows, or choose them"),
            (["--content"], "--json"),
        ],
        5,
        several=True,
    ),
)
def test_what_cannot_be_shown_is_said(run, arguments, words):
    """Exit 2, with what is wrong, and nothing on stdout."""
    run()
    code, out, err = _show(run.folder, *arguments)
    assert (code, out) == (2, ""), err
    assert words in err
    assert "bug in batchrun" not in err


def test_without_duckdb_the_install_line_is_given(run, monkeypatch):
    """--where needs the extra; everything else goes without."""
    run()
    monkeypatch.setitem(sys.modules, "duckdb", None)
    code, _, err = _show(run.folder, "--where", "row = 1")
    assert code == 2 and 'pip install "batchrun-llm[eval]"' in err
    assert _numbers(run.folder, "--errors") == [2, 7]


def test_no_match_is_no_error(run):
    """Conditions that no row meets give an empty list."""
    run()
    assert _rows(run.folder, "--class", "quota") == []
    code, out, err = _show(run.folder, "--class", "quota")
    assert (code, out) == (0, "") and "no row matches" in err


def test_json_has_contents_only_where_they_are_asked_for(run):
    """Without --content nothing that people or models wrote is in it, but for the error message."""
    run("--requests", "all")
    code, out, _ = _show(run.folder, "1", "5", "--json")
    assert code == 0
    assert "answer to" not in out and "be brief" not in out and "topic" not in out
    row = json.loads(out)["rows"][1]
    assert row["request"]["messages"] == [
        {"role": "system", "characters": 8},
        {"role": "user", "characters": 5},
    ]
    assert [line["http_status"] for line in row["attempts"]] == [503, 200]
    [row] = _rows(run.folder, "1", "--content")
    assert row["content"].startswith("answer to ask 1")
    assert row["request"]["body"]["messages"][1]["content"] == "ask 1"
    assert row["input"]["topic"] == "t1"


def test_the_request_comes_from_where_it_is(run):
    """From requests/; else from the input, if that gives the same; else a line says how to keep
    it.
    """
    run("--requests", "errors")
    sources = {row["row"]: row["request"]["source"] for row in _rows(run.folder, "-n", "10")}
    assert sources == {n: None if n == 7 else "requests" if n == 2 else "input" for n in range(10)}
    lines = run.source.read_text().splitlines()
    lines[4] = lines[4].replace("ask 4", "ask 44")
    run.source.write_text("\n".join(lines) + "\n")
    for row in ("4", "6"):
        _, out, _ = _show(run.folder, row)
        assert ("ask 44" not in out) and ("run --requests all" in out) == (row == "4"), out
    run.source.unlink()
    code, out, _ = _show(run.folder, "6", "2")
    assert code == 0
    assert "is not there" in out and "run --requests all" in out
    assert "user:\n    ask 2" in out


def test_what_was_piped_in_cannot_be_made_again(cli, run):
    """The line says so, and waits for nothing."""
    with run.source.open("rb") as rows:
        done = cli(
            *("run", "-", "-o", "piped", "--model", "m", "--base-url", run.endpoint.base_url),
            stdin=rows,
        )
    assert done.code == 1, done.err
    _, out, _ = _show(cli.folder / "piped", "1")
    assert "it was piped in" in out


def _on_a_terminal(columns, *arguments):
    """What a terminal of this width gets."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", *map(str, arguments)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    out = b""
    while True:
        try:
            data = os.read(leader, 2**16)
        except OSError:
            break
        if not data:
            break
        out += data
    process.wait()
    os.close(leader)
    return out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", rest_slow([40, 80, 120]))
def test_pages_fit_the_terminal_and_cannot_steer_it(run, columns):
    """No line is wider, no word is broken, nothing of what the data hold is an escape."""
    run("--requests", "all")
    out = _on_a_terminal(columns, "show", run.folder, "1", "2", "5", "7")
    assert out.count("ROW ") == 4
    for line in out.split("\n"):
        assert columns_of(line) <= columns or " " not in line.strip(), line
    assert not set(out) & set("\x1b\x07\x9b\u202e\u202c")
    whole = _on_a_terminal(columns, "show", run.folder, "1", "2", "--json", "--content")
    assert not set(whole) & set("\x1b\x07\x9b\u202e\u202c")
    assert json.loads(whole.replace("\n", ""))["rows"][0]["row"] == 1


def test_a_live_run_is_shown_from_its_logs(cli, simulator, jsonl, chat, until):
    """What is answered is shown while its shard is in progress: the lock is not asked for, and
    nothing is written.
    """
    from batchrun.simulator.latency import FixedLatency

    endpoint = simulator(latency=FixedLatency(0.05))
    live = cli.start(
        *("run", jsonl([chat(n, note=f"n{n}") for n in range(400)]), "-o", "run", "--model", "m"),
        *("--base-url", endpoint.base_url, "--shard-rows", "100", "--concurrency", "2"),
        *("--no-progress", "--requests", "all"),
    )
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 12)
    until(lambda: cli("status", "run", "--json").json["live"]["rows_input"] == 400)
    folder = cli.folder / "run"
    live.suspend()
    try:
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        rows = _rows(folder, "--status", "ok", "-n", "3", "--content")
        [pending] = _rows(folder, "399")
        noted = _numbers(folder, "--where", "note = 'n2'")
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    finally:
        live.signal(signal.SIGCONT)
        live.signal(signal.SIGINT)
        live.wait()
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["input"]["note"] for row in rows] == ["n0", "n1", "n2"]
    assert {row["request"]["source"] for row in rows} == {"requests"}
    assert rows[0]["content"] and len(rows[0]["attempts"]) == 1
    assert pending["status"] == "pending" and noted == [2]


def test_a_killed_run_is_shown_from_its_logs_and_parts(interrupted):
    """Provisional parts count, and rows without an outcome are pending."""
    folder, _, _ = interrupted(rows=40, done=5, shard_rows=10)
    done = [row["row"] for row in _rows(folder, "--status", "ok", "-n", "40")]
    table = pq.read_table(folder / "results", columns=["row"])
    assert done == sorted(table["row"].to_pylist())
    left = next(n for n in range(40) if n not in done)
    [row] = _rows(folder, left)
    assert row["status"] == "pending" and row["request"]["source"] == "input"


def test_one_row_opens_one_part_of_each_kind(run, monkeypatch):
    """A row by number reads no other part, however many there are."""
    run("--requests", "all")
    opened = []
    real = DurableRows._opened
    monkeypatch.setattr(
        DurableRows, "_opened", lambda self, k, s: (opened.append((k, s)), real(self, k, s))[1]
    )
    assert _numbers(run.folder, "9") == [9]
    assert {shard for kind, shard in opened if kind != "results" or shard != 0} == {2}


def test_scores_are_shown_where_there_are_some(run):
    """A part of scores puts a line a score on the page, and an object into JSON."""
    run()
    (run.folder / "scores").mkdir()
    table = pa.table(
        {
            "row": pa.array([4, 5, 6, 7]),
            "custom_id": ["id-4", "id-5", "id-6", "id-7"],
            "correct": [True, False, None, False],
            "length": [1.5, 2.0, None, 0.0],
        }
    )
    pq.write_table(table, run.folder / "scores" / "part-00000001.parquet")
    _, out, _ = _show(run.folder, "5", "6")
    assert "SCORES\n  correct: false\n  length: 2.0" in out and "correct: not scored" in out
    assert [row["scores"] for row in _rows(run.folder, "4", "0")] == [
        {"correct": True, "length": 1.5},
        {},
    ]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("NOT correct", [5, 7]),
        ("correct", [4, 9]),
        ("correct = 1 AND topic = 't0'", [4]),
        ("correct IS NULL AND status = 'ok'", [0, 1, 3, 6, 8]),
        ("Length > 1 AND NOT correct", [5]),
        ('"tone.score" < 2', [9]),
    ],
)
def test_rows_are_chosen_by_their_scores(run, condition, numbers):
    """A condition may name scores, next to columns of the results; a row without a score is neither
    right nor wrong, and parts may lack a score.
    """
    run()
    (run.folder / "scores").mkdir()
    for shard, columns in enumerate(
        (
            {"row": [4, 5, 6, 7], "correct": [True, False, None, False], "length": [1.5, 2, 0, 0]},
            {"row": [8, 9], "correct": [None, True], "length": [0.0, 9.0], "tone.score": [2, 1]},
        ),
        1,
    ):
        table = pa.table({"custom_id": ["x"] * len(columns["row"]), **columns})
        if shard == 1:
            table = table.append_column("tone.score", pa.nulls(4, pa.int64()))
        pq.write_table(table, run.folder / "scores" / f"part-{shard:08d}.parquet")
    assert _numbers(run.folder, "--where", condition, "-n", "9") == numbers


def test_a_condition_on_an_unknown_score_names_the_nearest(run):
    """Columns of results and scores are both looked through; text is no condition."""
    run()
    (run.folder / "scores").mkdir()
    table = pa.table({"row": [0], "custom_id": ["id-0"], "correct": [True]})
    pq.write_table(table, run.folder / "scores" / "part-00000000.parquet")
    code, _, err = _show(run.folder, "--where", "NOT corect")
    assert code == 2 and "results and scores have no column 'corect'; did you mean correct?" in err
    code, _, err = _show(run.folder, "--where", "correct + 1")
    assert code == 2 and "it gives DOUBLE" in err


def test_a_directory_without_its_checkpoint_is_enough(run):
    """The files that are published can be looked at wherever they were copied to."""
    run("--requests", "all")
    shutil.rmtree(run.folder / "checkpoint")
    assert _numbers(run.folder, "--errors") == [2, 7]
    [row] = _rows(run.folder, "1", "--content")
    assert row["request"]["body"]["temperature"] == 0.25 and row["input"]["topic"] == "t1"


def test_what_is_no_run_directory_is_named(run, cli):
    """Exit 2; of a folder of runs these are named."""
    for name in ("nothing", "a/results"):
        (cli.folder / name).mkdir(parents=True)
    code, _, err = _show(cli.folder / "a" / "results", "1")
    assert (code, "is not a run directory" in err, "The runs in it" in err) == (2, True, False)
    run("--limit", 1)
    code, _, err = _show(cli.folder, "1")
    assert code == 2 and err.endswith(f"The runs in it are {run.folder.name}\n"), err


def test_a_row_that_was_throttled_and_failed_over_tells_its_story(
    here, scripted, answer, jsonl, cli
):
    """One page has the refusal with the wait that was asked for, the failure at the other endpoint
    and the answer, each with its endpoint and what was decided: as docs/looking.md shows it.
    """

    def primary(_body, _headers, nth):
        if nth == 1:
            return 429, {"retry-after": "0.2"}, {"error": {"message": "slow down"}}
        return 200, {}, answer("The Congo.")

    def spare(_body, _headers, _nth):
        return 503, {"retry-after": "0.5"}, {"error": {"message": "overloaded, try later"}}

    tables = "".join(
        f'[[endpoint]]\nname = "{name}"\nweight = {weight}\nbase_url = "{server.base_url}"\n'
        for name, server, weight in (
            ("primary", scripted(primary), 1000),
            ("spare", scripted(spare), 0.001),
        )
    )
    (cli.folder / "two.toml").write_text(tables)
    asked = [{"role": "user", "content": "Which river crosses the equator twice?"}]
    row = {"custom_id": "geo-4711", "messages": asked, "topic": "geography"}
    done = here(jsonl([row]), "-o", "two", "-c", "two.toml", "--no-progress", "--requests", "all")
    assert done.code == 0, done.err
    code, out, _ = _show(cli.folder / "two", "geo-4711")
    page = (ROOT / "docs" / "looking.md").read_text("utf-8")
    (block,) = re.findall(r"^```text story\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert (code, _timeless(out)) == (0, _timeless(block))


def _timeless(text):
    """A page without the times that differ from run to run."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r", \d+\.\d\d s of it waiting for limits", "", text)
    return re.sub(r"(?<!asked for )\b\d+\.\d\d s\b", "S", text).strip()
