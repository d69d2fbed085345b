"""Answers of other run directories that a run takes (`--reuse`): what is sent, what is billed."""

import json
import random
import shutil
import stat

import pyarrow.parquet as pq
import pytest

from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--shard-rows", 10)
PRICED = "[prices.m]\ninput = 1.0\noutput = 1.0\n"


@pytest.fixture
def server(scripted, answer):
    """An endpoint that answers every question with its number; `broken` ones fail."""

    def reply(body, _, nth):
        number = body["messages"][0]["content"].split()[1]
        if number in endpoint.broken:
            return 400, {}, {"error": {"message": "no"}}
        return 200, {}, answer(f"answer {number} in {nth}")

    endpoint = scripted(reply)
    endpoint.broken = set()
    return endpoint


@pytest.fixture
def job(cli, server, here, chat, published, summary):
    """Runs rows into a directory, and says how many requests that took."""

    class Job:
        folder = cli.folder
        verified = staticmethod(cli.verified)

        def __init__(self):
            (cli.folder / "c.toml").write_text(PRICED)

        def go(self, rows, output, *flags, base_url=server.base_url, name=None):
            source = self.folder / (name or "r.jsonl")
            lines = [chat(n) if isinstance(n, int) else n for n in rows]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            if not source.exists() or source.read_text() != text:
                source.write_text(text)
            before = len(server.requests)
            endpoint = ("--base-url", base_url) if base_url else ()
            done = here("-c", "c.toml", source, "-o", output, *QUICK, *endpoint, *flags)
            self.err, self.code = done.err, done.code
            return len(server.requests) - before

        def rows(self, output):
            return published(cli.folder / output).to_pylist()

        def summary(self, output):
            return summary(cli.folder / output)

    return Job()


def _said(rows):
    return [row["content"] for row in rows]


def test_an_added_column_costs_nothing(job, chat):
    """Nothing is sent or billed, and the carried columns are those of the new rows."""
    assert job.go(range(25), "pilot") == 25
    assert job.go([chat(n, topic=n) for n in range(25)], "run", "--reuse", "pilot") == 0
    assert job.code == 0, job.err
    first, then = job.rows("pilot"), job.rows("run")
    assert _said(first) == _said(then) and [row["topic"] for row in then] == list(range(25))
    run = job.summary("run")
    assert run["rows"] == {"input": 25, "ok": 25, "error": 0, "pending": 0, "reused": 25}
    assert run["totals"]["cost_usd"] == run["totals"]["attempts"] == 0
    assert run["reused"] == {"default": 25}
    origin = then[0]["reused_from"].partition(":")[0]
    for row, old in zip(then, first, strict=True):
        assert row["reused_from"] == f"{origin}:{row['row']}" and old["reused_from"] is None
        assert (row["cost_usd"], row["attempts"]) == (0, 0)
        same = ("prompt_tokens", "model", "endpoint", "latency_s", "started_at", "request_hash")
        assert all(row[name] == old[name] for name in (*same, "response", "http_status"))
    assert "25 of 25 answers reused from pilot" in job.err and "default 25" in job.err
    job.verified("run")
    assert not (job.folder / "run/checkpoint/reuse").exists()


def test_the_pilot_the_full_run_and_another_order(job, chat):
    """Rows are known by their requests, wherever they stand and whatever the size of a shard."""
    job.go(range(10), "pilot")
    order = list(range(40))
    random.Random(5).shuffle(order)
    rows = [chat(n, custom_id=f"id {n}") for n in order]
    assert job.go(rows, "run", "--reuse", "pilot", "--shard-rows", 7) == 30
    found = job.rows("run")
    assert [row["custom_id"] for row in found] == [f"id {n}" for n in order]
    assert [row["content"].split()[1] for row in found] == [str(n) for n in order]
    assert {row["custom_id"] for row in found if row["reused_from"]} == {
        f"id {n}" for n in range(10)
    }
    assert job.summary("run")["totals"]["attempts"] == 30
    job.verified("run")
    assert job.go(rows, "run", "--reuse", "pilot", "--shard-rows", 7) == 0
    assert "nothing left to send" in job.err


def test_a_reused_answer_that_is_reused_names_its_origin(job):
    """The run id in `reused_from` is that of the run whose endpoint gave the answer."""
    job.go(range(5), "a")
    job.go(range(6), "b", "--reuse", "a")
    assert job.go(range(6), "c", "--reuse", "b") == 0
    first, then, last = job.rows("a"), job.rows("b"), job.rows("c")
    assert [row["reused_from"] for row in last[:5]] == [row["reused_from"] for row in then[:5]]
    assert last[5]["reused_from"].endswith(":5") and then[5]["reused_from"] is None
    assert last[5]["reused_from"].split(":")[0] != last[0]["reused_from"].split(":")[0]
    assert _said(first) == _said(last)[:5]
    job.verified("c")


def test_the_first_directory_that_has_an_answer_wins(job, server):
    """Directories are asked in the order given; failed rows are no answers."""
    server.broken = {"3"}
    job.go(range(5), "a")
    server.broken = set()
    job.go(range(8), "b")
    assert job.go(range(9), "run", "--reuse", "a", "--reuse", "b") == 1
    a, b, run = job.rows("a"), job.rows("b"), job.rows("run")
    assert [row["content"] for row in run[:3]] == [row["content"] for row in a[:3]]
    assert run[3]["content"] == b[3]["content"] and run[7]["content"] == b[7]["content"]
    job.verified("run")


VARIED = {
    "0": {"usage": None},
    "1": {"message": {"content": ""}},
    "2": {"finish_reason": "length"},
    "3": {"message": {"content": "naïve ∑ 🚀", "reasoning_content": "hm"}},
    "4": {"message": {"content": None, "refusal": "no"}},
    "5": {
        "message": {
            "content": None,
            "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        }
    },
    "6": {"created": 1_767_225_600, "system_fingerprint": "fp", "service_tier": "flex"},
}


@pytest.fixture
def varied(scripted, answer):
    """An endpoint whose answers differ by the last digit of the question; some have several."""

    def reply(body, *_):
        number = body["messages"][0]["content"].split()[1]
        given = VARIED.get(number[-1], {})
        found = answer(f"answer {number}") | {k: v for k, v in given.items() if k != "message"}
        choice = found["choices"][0]
        choice["finish_reason"] = found.pop("finish_reason", "stop")
        choice["message"] |= given.get("message", {})
        if body.get("n"):
            found["choices"].append(choice | {"index": 1})
        return 200, {}, found

    return scripted(reply)


@pytest.fixture
def as_columns(monkeypatch):
    """Says of each block that was asked for together whether it was taken as columns."""
    from batchrun.rundir.reuse.stretch import Stretch

    told = []
    take = Stretch.reused

    def reused(self, requests, rules):
        found = take(self, requests, rules)
        told.append(found is not None)
        return found

    monkeypatch.setattr(Stretch, "reused", reused)
    return told


@pytest.mark.parametrize("raw", rest_slow(["all", "errors", "none"]))
@pytest.mark.parametrize("kept", ["all", "none"])
def test_as_columns_or_one_by_one_the_results_are_the_same(
    job, chat, varied, as_columns, monkeypatch, raw, kept
):
    """Blocks that are taken whole and answers that are taken one by one make the same files; so do
    answers that were reused before.
    """
    rows = [chat(n, custom_id=f"id {n}", **({"n": 2} if n > 60 else {})) for n in range(70)]
    assert job.go(rows, "a", "--raw", kept, base_url=varied.base_url) == 0  # another endpoint
    rows = [chat(n, topic=n, **({"n": 2} if n > 60 else {})) for n in range(70)]
    for source, columns, single in (("a", "b", "c"), ("b", "d", "e")):
        with monkeypatch.context() as patched:
            assert job.go(rows, columns, "--reuse", source, "--raw", raw) == 0
            assert as_columns == [True] * 6 + [False]
            as_columns.clear()
            patched.setattr("batchrun.rundir.reuse.source_directory.STRETCH_ROWS_MIN", 1000)
            assert job.go(rows, single, "--reuse", source, "--raw", raw) == 0
            assert not as_columns
        assert job.rows(columns) == job.rows(single)
        assert [row["reused_from"].split(":")[1] for row in job.rows(columns)] == [
            str(n) for n in range(70)
        ]
        one, other = job.summary(columns), job.summary(single)
        for name in ("rows", "totals", "reused", "outputs", "errors"):
            assert one.get(name) == other.get(name), name
        job.verified(columns)


def test_rows_that_are_looked_at_one_by_one(job, chat, varied, as_columns):
    """Blocks are not taken whole where a rule of this run has to see every answer."""
    rows = [chat(n) for n in range(100, 160) if str(n)[-1] in "789"]
    job.go(rows, "a", base_url=varied.base_url)
    taken = {}
    for flags in (
        (),
        ("--on-empty", "fail"),
        ("--on-truncation", "retry"),
        ("--fallback-model", "other"),
    ):
        assert job.go(rows, f"b{len(taken)}", "--reuse", "a", *flags) == 0
        assert job.code == 0, job.err
        taken[flags] = set(as_columns)
        as_columns.clear()
    assert taken.pop(()) == {True} and set(map(frozenset, taken.values())) == {frozenset({False})}


def test_a_block_with_rows_that_were_not_answered(job, server, as_columns):
    """Whole blocks are taken at once, what is around them row by row; a bad row sends nothing."""
    server.broken = {"15"}
    job.go(range(40), "a")
    server.broken = set()
    rows = [*range(40), *range(100, 105)]
    assert job.go([{"messages": 3}, *rows], "b", "--reuse", "a") == 6
    found = job.rows("b")
    assert found[0]["status"] == "error" and [r["row"] for r in found] == list(range(46))
    assert [r["reused_from"] is None for r in found].count(True) == 7
    assert [r["content"].split()[1] for r in found[1:]] == [str(n) for n in rows]
    assert True in as_columns
    job.verified("b")


def test_identical_requests_are_the_first_ones_in_blocks_too(job):
    """Where an answer stands right behind the last one, it may still not be the first to its
    request.
    """
    job.go([*range(20), *range(5, 25)], "a")
    assert job.go([*range(20), *range(5, 25)], "b", "--reuse", "a") == 0
    origins = [row["reused_from"].split(":")[1] for row in job.rows("b")]
    first = [*range(20), *range(5, 20), *range(35, 40)]
    assert origins == [str(n) for n in first]
    job.verified("b")


def test_identical_requests_are_answered_by_one(job):
    """Each of several rows with the same request takes the first answer to it."""
    job.go([1, 1, 2], "a")
    assert job.go([2, 1, 1, 1], "run", "--reuse", "a") == 0
    a, run = job.rows("a"), job.rows("run")
    assert _said(run) == [a[2]["content"], *[a[0]["content"]] * 3]
    assert {row["reused_from"].split(":")[1] for row in run} == {"0", "2"}
    assert job.summary("run")["rows"]["reused"] == 4
    job.verified("run")


def test_an_answer_that_does_not_pass_is_asked_for(job, scripted, answer):
    """The output checks of this run hold for answers of another: truncated, empty, no JSON."""
    said = {"0": "fine", "1": "", "2": "cut", "3": "[1]"}

    def reply(body, *_):
        number = body["messages"][0]["content"].split()[1]
        found = answer(said[number])
        found["choices"][0]["finish_reason"] = "length" if number == "2" else "stop"
        return 200, {}, found

    loose = scripted(reply).base_url
    assert job.go(range(4), "a", base_url=loose) == 0
    assert job.go(range(4), "all", "--reuse", "a") == 0
    assert job.go(range(4), "whole", "--reuse", "a", "--on-truncation", "fail") == 1
    assert job.go(range(4), "said", "--reuse", "a", "--on-empty", "fail") == 1
    asks = [{"messages": [{"role": "user", "content": f"q {n}"}]} for n in (0, 3)]
    asks = [row | {"response_format": {"type": "json_object"}} for row in asks]
    job.go(asks, "unchecked", "--no-check-schema", base_url=loose)
    assert job.go(asks, "json", "--reuse", "unchecked", "--max-attempts", 1) == 1
    assert [row["status"] for row in job.rows("json")] == ["error", "ok"]
    job.verified("json")


def test_thinking_is_split_for_this_run(job, scripted, answer):
    """An answer that was kept whole is split; one that was split is asked for where it is kept."""
    url = scripted(lambda *_: (200, {}, answer("<think>hm</think>yes"))).base_url
    job.go(range(2), "kept", "--think", "keep", base_url=url)
    assert job.go(range(2), "split", "--think", "split", "--reuse", "kept") == 0
    assert [(r["reasoning"], r["content"]) for r in job.rows("split")] == [("hm", "yes")] * 2
    assert job.go(range(2), "again", "--think", "keep", "--reuse", "split") == 2


def test_answers_of_the_simulator_are_for_the_simulator(job):
    """They are not taken by a run that asks another provider, and said to be left out."""
    simulated = ("--provider", "simulator")
    assert job.go(range(3), "sim", *simulated, base_url=None) == 0
    assert job.go(range(3), "run", "--reuse", "sim") == 3, job.err
    assert "not taken" in job.err and "simulator" in job.err
    job.go(range(4), "again", "--reuse", "sim", *simulated, base_url=None)
    assert job.summary("again")["rows"]["reused"] == 3
    assert job.summary("again")["reused"] == {"simulator": 3}


def test_a_budget_is_spent_on_what_is_sent(job):
    """Reused answers count neither against the budget nor into the bill."""
    limit = ("--max-cost", "0.02", "--param", "max_tokens=10")
    job.go(range(30), "b", "--param", "max_tokens=10")
    assert job.summary("b")["totals"]["cost_usd"] > 0
    assert job.go(range(32), "run", "--reuse", "b", *limit) == 2, job.err
    run = job.summary("run")
    assert run["totals"]["cost_usd"] == pytest.approx(2 * 2e-6)
    assert run["totals"]["prompt_tokens"] == 2 and run["totals"]["wasted_cost_usd"] == 0
    usage = pq.read_table(job.folder / "run/usage.parquet").to_pylist()
    assert sum(line["attempts"] for line in usage) == 2
    job.verified("run")


@pytest.mark.parametrize("kept", ["all", "none"])
def test_raw_replies_are_kept_as_this_run_says(job, kept):
    """`--raw none` leaves the replies of the other run out too."""
    job.go(range(2), "a")
    assert job.go(range(2), "run", "--reuse", "a", "--raw", kept) == 0
    assert all((row["response"] is None) == (kept == "none") for row in job.rows("run"))


def test_a_large_answer_is_copied(job, scripted, answer):
    """The new directory stands alone: files of `responses/` are its own."""
    url = scripted(lambda *_: (200, {}, answer("x" * 3_000_000))).base_url
    job.go(range(2), "a", base_url=url)
    assert job.go(range(2), "run", "--reuse", "a") == 0
    shutil.rmtree(job.folder / "a")
    named = json.loads(job.rows("run")[0]["response"])["file"]
    assert (job.folder / "run" / named).stat().st_size > 3_000_000
    job.verified("run")


def test_failed_rows_are_answered_by_another_directory(job, server):
    """`--retry-failed` with `--reuse` takes an answer; `attempts` counts what was sent before."""
    server.broken = {"1"}
    job.go(range(3), "run")
    server.broken = set()
    job.go([1], "other")
    assert job.go(range(3), "run", "--retry-failed", "--reuse", "other") == 0
    row = job.rows("run")[1]
    assert row["status"] == "ok" and row["attempts"] == 1 and row["cost_usd"] == 0
    assert row["reused_from"].endswith(":0") and job.summary("run")["rows"]["reused"] == 1
    job.verified("run")


def test_changed_rows_take_answers_too(job):
    """`--resend-changed` sends only what no directory knows."""
    job.go(range(4), "run", "--temperature", "0")
    job.go(range(3), "other")
    assert job.go(range(4), "run", "--resend-changed", "--reuse", "other") == 1
    assert [bool(row["reused_from"]) for row in job.rows("run")] == [True, True, True, False]
    job.verified("run")


def test_an_unfinished_and_a_read_only_directory(job):
    """Provisional parts count; nothing is written into the other directory."""
    job.go(range(25), "a", "--limit", 13)
    before = {p: p.read_bytes() for p in (job.folder / "a").rglob("*") if p.is_file()}
    for path in (job.folder / "a").rglob("*"):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    assert job.go(range(25), "run", "--reuse", "a") == 12
    assert {p: p.read_bytes() for p in (job.folder / "a").rglob("*") if p.is_file()} == before
    job.verified("run")


def test_results_alone_are_enough(job):
    """A copy without checkpoint and summary is taken, under an id of its own that stays."""
    job.go(range(3), "a")
    shutil.copytree(job.folder / "a/results", job.folder / "b/results")
    assert job.go(range(3), "run", "--reuse", "b") == 0
    assert job.go(range(3), "more", "--reuse", "b") == 0
    assert job.rows("run")[0]["reused_from"] == job.rows("more")[0]["reused_from"]
    job.verified("run")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "not a run directory"),
        ("run", "the run directory itself"),
        ("old", "nothing was set aside"),
    ],
)
def test_what_cannot_be_reused_is_named(job, name, said):
    """Nothing is sent and no directory begun for a source that is none."""
    assert job.go(range(2), "run", "--reuse", name) == 0
    assert job.code == 2 and said in job.err and name in job.err
    assert not (job.folder / "run").exists()


def test_a_directory_at_work_is_refused(job):
    """What another run is writing is not taken."""
    from batchrun.rundir.lock import Lock

    job.go(range(2), "a")
    lock = Lock(job.folder / "a", job.folder / "a/checkpoint/lock", print)
    lock.acquire()
    try:
        assert job.go(range(2), "run", "--reuse", "a") == 0
    finally:
        lock.release()
    assert job.code == 2 and "working there" in job.err


def test_the_config_file_names_directories_beside_it(job):
    """Paths are relative to the file; `old` is a word."""
    job.go(range(2), "a")
    config = job.folder / "deep/c.toml"
    config.parent.mkdir()
    config.write_text('[input]\nreuse = ["../a"]\n')
    assert job.go(range(2), "run", "-c", config) == 0 and job.code == 0
    assert (
        job.summary("run")["settings"]["input.reuse"] == ["deep/../a"]
        or job.summary("run")["rows"]["reused"] == 2
    )


class TestRestart:
    """`--restart --reuse old`: what is set aside answers what is asked again."""

    def test_an_inserted_row_alone_is_sent(self, job):
        """Another carried column, another shard size and a new row: one request."""
        job.go(range(12), "run")
        rows = [0, 1, 99, *range(2, 12)]
        job.go(rows, "run")
        assert job.code == 2
        assert job.go(rows, "run", "--restart", "--reuse", "old", "--shard-rows", 5) == 1
        assert job.summary("run")["rows"] == {
            "input": 13, "ok": 13, "error": 0, "pending": 0, "reused": 12,
        }  # fmt: skip
        assert len(list(job.folder.glob("run.old-*"))) == 1
        job.verified("run")

    def test_the_same_command_continues_an_interrupted_restart(self, job):
        """Nothing is moved a second time, and what the first try asked for is kept."""
        job.go(range(12), "run", name="a.jsonl")
        rows = range(30)
        flags = ("--restart", "--reuse", "old")
        assert job.go(rows, "run", *flags, "--max-failures", 0, "--limit", 20) == 8
        # Without the limit that was no whole run: the restart is still under way.
        assert job.go(rows, "run", *flags) == 10
        assert len(list(job.folder.glob("run.old-*"))) == 1
        assert job.summary("run")["rows"]["reused"] == 12
        job.verified("run")

    def test_after_its_end_the_same_command_begins_anew(self, job):
        """It is a restart of its own then, and costs nothing."""
        job.go(range(3), "run")
        flags = ("--restart", "--reuse", "old")
        assert job.go(range(3), "run", *flags) == job.go(range(3), "run", *flags) == 0
        assert len(list(job.folder.glob("run.old-*"))) == 2
        assert job.summary("run")["rows"]["reused"] == 3

    def test_a_run_goes_on_without_naming_it(self, job):
        """The command that continues has no `--restart`; it may name other directories or none."""
        job.go(range(4), "run", name="a.jsonl")
        job.go(range(9), "run", "--restart", "--reuse", "old", "--limit", 2)
        assert job.go(range(9), "run", "--reuse", "old", "--limit", 3) == 0 and job.code == 0
        assert job.go(range(9), "run") == 6
        job.verified("run")


def test_an_estimate_leaves_reused_rows_out(job, cli):
    """`estimate --reuse` says how many rows are taken; its figures are of the rest."""
    job.go(range(10), "a")
    job.go(range(25), "unused")
    flags = ("r.jsonl", "-c", "c.toml", "--model", "m", "--param", "max_tokens=10", "--json")
    job.go(range(10), "a10", "--param", "max_tokens=10", name="ten.jsonl")
    whole = cli("estimate", *flags).json
    rest = cli("estimate", *flags, "--reuse", "a10").json
    assert (rest["rows"], rest["reused"]) == (25, 10) and "reused" not in whole
    assert rest["models"]["m"]["rows"] == 15
    assert rest["at_most"]["tokens"] < whole["at_most"]["tokens"]
    old = cli("estimate", *flags, "--reuse", "old", "-o", "a10").json
    assert old["reused"] == 10
    assert cli("estimate", *flags, "--reuse", "old").code == 2
    said = cli("estimate", *flags[:-1], "--reuse", "a10").out
    assert "10 rows take the answer of another run, 15 are to be sent" in " ".join(said.split())


def test_a_refusal_says_what_each_choice_sends(job, chat):
    """Rows and dollars by choice, and the edited row by number, line and custom_id."""
    rows = [chat(n, custom_id=f"id {n}") for n in range(25)]
    job.go(rows, "run")
    mean = job.summary("run")["totals"]["cost_usd"] / 25
    rows[13] = chat(99, custom_id="id 13")
    assert job.go([*rows, chat(50)], "run") == 0 and job.code == 2
    said = " ".join(job.err.split())
    assert "row 13 (" in said and "line 14" in said and "custom_id 'id 13'" in said
    assert "--keep-done" in said and ": 1 row is sent (about $" in said
    assert ": 2 rows are sent (about $" in said and ": 26 rows are sent (about $" in said
    assert "--restart --reuse old starts over: 24 of 26 rows keep their answers, 2 are sent" in said
    assert f"{2 * mean:.6f}" in said


def test_a_changed_column_offers_the_old_answers(job, chat):
    """Where nothing else than a restart is possible, it need not cost anything."""
    job.go([chat(n, topic="a") for n in range(5)], "run", "--carry", "topic")
    job.go([chat(n, topic="a") for n in range(5)], "run", "--carry", "none")
    said = " ".join(job.err.split())
    assert job.code == 2 and "5 of 5 rows keep their answers, 0 are sent" in said
    assert "--keep-done" not in said


@pytest.mark.parametrize("piece", [1, 3, 40])
def test_a_shuffled_input_does_not_decode_a_row_group_per_row(job, chat, monkeypatch, piece):
    """Once it shows that the order is another, answers are written down one by one, and found."""
    from batchrun.rundir.reuse import source_directory, source_part

    job.go([chat(n, custom_id=f"é {n}") for n in range(40)], "a", "--shard-rows", 4)
    monkeypatch.setattr(source_directory, "EARLY_MIN", piece)
    monkeypatch.setattr(source_directory, "CACHE_BYTES_MAX", 1)
    decoded = []
    read = source_part.Part.read
    monkeypatch.setattr(
        source_part.Part, "read", lambda *a: decoded.append(len(a[2]) > 3) or read(*a)
    )
    order = list(range(40))
    random.Random(1).shuffle(order)
    assert job.go(order, "run", "--reuse", "a") == 0
    assert [row["content"].split()[1] for row in job.rows("run")] == [str(n) for n in order]
    assert sum(decoded) <= 30
    job.verified("run")


def test_a_directory_that_changes_meanwhile_stops_the_run(job, monkeypatch):
    """A part that is taken away ends the session; what was taken is kept, and nothing is sent."""
    from batchrun.rundir.reuse import source_directory

    job.go(range(40), "a", "--shard-rows", 10)
    look_up = source_directory.Source.take

    def take(self, wanted):
        (job.folder / "a/results/part-00000002.parquet").unlink(missing_ok=True)
        self._files.clear()
        return look_up(self, wanted)

    monkeypatch.setattr(source_directory.Source, "take", take)
    assert job.go(range(40), "run", "--reuse", "a") == 0
    assert job.code == 5 and "part-00000002.parquet" in job.err and "again" in job.err
    monkeypatch.undo()


def test_an_edited_directory_is_indexed_again(job):
    """The index is of the directory as it was; a later session sees what it holds by then."""
    job.go(range(4), "a", "--limit", 2)
    job.go(range(6), "run", "--reuse", "a", "--limit", 1)
    job.go(range(4), "a")
    assert job.go(range(6), "run", "--reuse", "a") == 2
    job.verified("run")


def test_the_python_api_takes_paths(job, server, monkeypatch):
    """`reuse=` is a path or several; a row's outcome says where its answer is from."""
    import asyncio

    import batchrun

    job.go(range(3), "a")
    monkeypatch.chdir(job.folder)
    rows = [{"messages": [{"role": "user", "content": f"question {n}"}]} for n in range(4)]
    how = {"model": "m", "base_url": server.base_url}
    before = len(server.requests)
    done = batchrun.run(rows, output="b", reuse=job.folder / "a", **how)
    assert len(server.requests) == before + 1 and done.to_dict()["rows"]["reused"] == 3

    async def outcomes():
        return [o async for o in batchrun.stream(rows, output="c", reuse=["a", "b"], **how)]

    found = asyncio.run(outcomes())
    assert len(server.requests) == before + 1
    assert all(o.reused_from and o.attempts == 0 and o.http_status == 200 for o in found)
