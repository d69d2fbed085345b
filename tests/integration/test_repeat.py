"""`--repeat K`: every row of the input is sent K times, and each time is a row of its own."""

import json
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--repeat", 3)
MODEL = ("--model", "m")
SEEDED = ("--param", 'seed="{{ repeat }}"')


@pytest.fixture
def server(scripted, answer):
    """An endpoint whose every answer is another; the questions in `broken` fail."""

    def reply(body, _, nth):
        question = body["messages"][-1]["content"]
        if (question, body.get("seed")) in endpoint.broken or question in endpoint.broken:
            return 400, {}, {"error": {"message": "no"}}
        return 200, {}, answer(f"{question} in {nth}")

    endpoint = scripted(reply)
    endpoint.broken = set()
    return endpoint


def _asked(server):
    """The questions that were asked, with their seeds."""
    bodies = [body for _, _, body in server.requests]
    return sorted((body["messages"][-1]["content"], body.get("seed")) for body in bodies)


def _columns(table, *names):
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _rows(count, **more):
    return [
        {"messages": [{"role": "user", "content": f"q{n}"}], "custom_id": f"id-{n}", **more}
        for n in range(count)
    ]


NUMBERED = [(r, r // 3, r % 3, f"id-{r // 3}") for r in range(30)]


def test_every_row_is_sent_k_times(here, server, jsonl, published, summary, cli):
    """Each repeat is a request of its own with its own seed, and a row that says what it repeats;
    `verify` agrees, and `rows.input` counts requests.
    """
    path = jsonl(_rows(10))
    done = here(path, "-o", "run", *QUICK, *SEEDED, "--base-url", server.base_url)
    assert done.code == 0, done.err
    assert _asked(server) == sorted((f"q{n}", seed) for n in range(10) for seed in range(3))
    table = published("run")
    assert _columns(table, "row", "repeat_of", "repeat", "custom_id") == NUMBERED
    kinds = [table.schema.field(name).type for name in ("repeat_of", "repeat")]
    assert kinds == [pa.int64(), pa.int32()]
    assert len(set(table.column("content").to_pylist())) == 30
    assert len(set(table.column("request_hash").to_pylist())) == 30
    assert summary("run")["rows"]["input"] == summary("run")["rows"]["ok"] == 30
    assert summary("run")["settings"]["request.repeat"] == 3
    assert "occurs more than once" not in done.err
    assert cli.verified("run")
    checked = cli("verify", "run", "--against", path, "--json")
    assert checked.code == 0, checked.out


def test_repeats_that_ask_the_same_are_all_asked(here, server, jsonl, published):
    """Without a template over `repeat` the requests are equal, and still none takes the answer of
    another.
    """
    done = here(jsonl(_rows(4)), "-o", "run", *QUICK, "--base-url", server.base_url)
    assert done.code == 0, done.err
    assert len(server.requests) == 12
    table = published("run")
    assert len(set(table.column("request_hash").to_pylist())) == 4
    assert len(set(table.column("content").to_pylist())) == 12


def test_a_run_without_repeats_has_no_such_columns(here, server, jsonl, published, summary):
    """K = 1 is a run as ever, in whose templates `repeat` is 0."""
    flags = ("--no-progress", "--repeat", 1, *SEEDED)
    done = here(jsonl(_rows(3)), "-o", "run", *flags, "--base-url", server.base_url)
    assert done.code == 0, done.err
    assert not {"repeat", "repeat_of"} & set(published("run").schema.names)
    assert "request.repeat" not in summary("run")["settings"]
    assert _asked(server) == [("q0", 0), ("q1", 0), ("q2", 0)]


def test_a_prompt_sees_the_repeat(here, server, jsonl):
    """Messages by template differ between repeats where they show it, and only there."""
    rows = jsonl([{"topic": "tea"}, {"topic": "rain"}])
    prompt = "{{ topic }}{% if repeat %} again {{ repeat }}{% endif %}"
    flags = (*QUICK, "--system", "Be brief.", "--prompt", prompt)
    done = here(rows, "-o", "run", *flags, "--base-url", server.base_url)
    assert done.code == 0, done.err
    wanted = [
        f"{topic}{more}" for topic in ("rain", "tea") for more in ("", " again 1", " again 2")
    ]
    assert [question for question, _ in _asked(server)] == wanted


def test_a_template_may_fail_for_one_repeat(here, server, jsonl, published):
    """That repeat is a bad row with its line in the message, and the others are sent."""
    rows = jsonl([{"n": 1}])
    flags = (*QUICK, "--prompt", "{{ (6 / (repeat - 1)) | int + n }}")
    done = here(rows, "-o", "run", *flags, "--base-url", server.base_url)
    assert done.code == 1, done.err
    found = _columns(published("run"), "status", "error_class")
    assert found == [("ok", None), ("error", "invalid_row"), ("ok", None)]
    assert len(server.requests) == 2


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "gz", "xlsx"])
def test_every_kind_of_input_is_repeated(form, here, server, cli, published):
    """Whatever the rows are read from, and wherever a shard begins."""
    import gzip

    names = [f"q{n}" for n in range(11)]
    path = cli.folder / f"rows.{form}"
    if form == "csv":
        path.write_text("q\n" + "".join(f"{name}\n" for name in names))
    elif form == "json":
        path.write_text(json.dumps([{"q": name} for name in names]))
    elif form == "parquet":
        pq.write_table(pa.table({"q": names}), path, row_group_size=4)
    elif form == "gz":
        path = cli.folder / "rows.jsonl.gz"
        path.write_bytes(gzip.compress("".join(f'{{"q": "{n}"}}\n' for n in names).encode()))
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for name in ("q", *names):
            book.active.append([name])
        book.save(path)
    flags = (*QUICK, "--prompt", "{{ q }}", "--shard-rows", 8)
    done = here(path.name, "-o", "run", *flags, "--base-url", server.base_url)
    assert done.code == 0, done.err
    table = published("run")
    assert _columns(table, "row", "repeat_of", "repeat", "q") == [
        (r, r // 3, r % 3, f"q{r // 3}") for r in range(33)
    ]
    # A shard holds whole rows of the input: of 8 rows, the 6 of two of them.
    assert len(list((cli.folder / "run" / "results").glob("part-*"))) == 6
    assert cli.verified("run")


def test_a_pipe_is_repeated_and_resumed(cli, server, published):
    """Rows that can be read once are repeated as they pass; piped in again, the run goes on."""
    text = "".join(json.dumps(row) + "\n" for row in _rows(9))
    flags = ("-", "-o", "run", *QUICK, "--base-url", server.base_url, "--shard-rows", 6)
    path = cli.folder / "piped"
    path.write_text(text)
    with path.open("rb") as piped:
        first = cli.run(*flags, "--limit", 4, stdin=piped)
    assert first.code == 0, first.err
    assert len(server.requests) == 12
    with path.open("rb") as piped:
        second = cli.run(*flags, stdin=piped)
    assert second.code == 0, second.err
    assert len(server.requests) == 27
    found = _columns(published(cli.folder / "run"), "row", "repeat_of", "repeat", "custom_id")
    assert found == NUMBERED[:27]
    assert cli.verified("run")


def test_limit_counts_rows_of_the_input(here, server, jsonl, published, summary, cli):
    """`--limit 2` sends two rows with all their repeats, and a run without it sends the rest."""
    flags = (jsonl(_rows(5)), "-o", "run", *QUICK, "--base-url", server.base_url)
    assert here(*flags, "--limit", 2).code == 0
    assert len(server.requests) == 6
    assert summary("run")["rows"]["input"] == 6 and summary("run")["settings"]["limit"] == 2
    assert cli.verified("run")
    assert here(*flags).code == 0
    assert len(server.requests) == 15
    assert summary("run")["rows"] == {"input": 15, "ok": 15, "error": 0, "pending": 0}
    assert _columns(published("run"), "row", "repeat_of", "repeat", "custom_id") == NUMBERED[:15]
    assert cli.verified("run")


def test_sample_counts_rows_of_the_input(here, server, jsonl, published, summary, cli):
    """`--sample 4` draws four rows, each with all its repeats; `repeat_of` counts in the sample."""
    flags = (jsonl(_rows(20)), "-o", "run", *QUICK, "--base-url", server.base_url)
    assert here(*flags, "--sample", 4).code == 0
    assert summary("run")["rows"]["input"] == 12
    table = published("run")
    assert table.column("repeat_of").to_pylist() == [r // 3 for r in range(12)]
    ids = table.column("custom_id").to_pylist()
    assert len(set(ids)) == 4 and ids == [ids[r - r % 3] for r in range(12)]
    assert here(*flags, "--sample", 4).code == 0
    assert len(server.requests) == 12
    assert cli.verified("run")


def test_rows_that_are_appended_are_repeated(here, server, jsonl, cli, published):
    """A longer input goes on behind the old rows, also within the last shard."""
    flags = (jsonl(_rows(3)), "-o", "run", *QUICK, "--base-url", server.base_url, "--shard-rows", 6)
    assert here(*flags).code == 0
    jsonl(_rows(7))
    done = here(*flags)
    assert done.code == 0, done.err
    assert len(server.requests) == 21
    assert _columns(published("run"), "row", "repeat_of", "repeat", "custom_id") == NUMBERED[:21]
    assert cli.verified("run")


def test_failed_repeats_alone_are_sent_again(here, server, jsonl, cli, published, summary):
    """`--retry-failed` sends the one repeat that failed, and no other of its row."""
    server.broken = {("q1", 2)}
    flags = (jsonl(_rows(4)), "-o", "run", *QUICK, *SEEDED, "--base-url", server.base_url)
    assert here(*flags).code == 1
    assert summary("run")["rows"]["error"] == 1
    server.broken = set()
    before = len(server.requests)
    assert here(*flags, "--retry-failed").code == 0
    assert len(server.requests) == before + 1
    assert _columns(published("run"), "row", "repeat_of", "repeat", "custom_id") == NUMBERED[:12]
    assert cli.verified("run")


def test_a_changed_row_is_sent_again_k_times(here, server, jsonl, cli):
    """`--resend-changed` sends all repeats of the row that was edited."""
    rows = _rows(5)
    flags = (jsonl(rows), "-o", "run", *QUICK, "--base-url", server.base_url)
    assert here(*flags).code == 0
    rows[3]["messages"][0]["content"] = "another"
    jsonl(rows)
    refused = here(*flags)
    assert refused.code == 2 and "row 9 (" in refused.err, refused.err
    assert here(*flags, "--resend-changed").code == 0
    assert _asked(server)[:3] == [("another", None)] * 3 and len(server.requests) == 18
    assert cli.verified("run")


def test_another_k_is_refused(here, server, jsonl):
    """Exit 2 names the setting and both numbers; nothing is sent, and nothing may be kept."""
    flags = (jsonl(_rows(4)), "-o", "run", "--no-progress", "--base-url", server.base_url)
    assert here(*flags, "--repeat", 3).code == 0
    for more in ((), ("--repeat", 5), ("--repeat", 5, "--keep-done")):
        done = here(*flags, *more)
        assert done.code == 2, done.err
        assert f"request.repeat: was 3, is {5 if more else 1}" in done.err, done.err
        assert "shard_rows" not in done.err
    assert "--restart --reuse old starts over: 12 of 20 rows keep their answers" in done.err
    assert len(server.requests) == 12


@pytest.mark.parametrize("wrong", ["0", "-1", "2.5", "many", "10001"])
def test_k_is_a_whole_number(wrong, here, server, jsonl):
    """Anything but a whole number from 1 on is exit 2, naming the flag."""
    rows = jsonl(_rows(1))
    done = here(rows, "-o", "run", "--repeat", wrong, "--base-url", server.base_url)
    assert done.code == 2 and "repeat" in done.err, done.err
    assert not server.requests


def test_a_column_called_repeat_is_not_hidden(here, server, jsonl, published):
    """It is carried under another name, and a template that could mean either is refused."""
    rows = jsonl([{"q": "tea", "repeat": "x", "repeat_of": 7}])
    flags = (rows, "-o", "run", *QUICK, "--base-url", server.base_url)
    refused = here(*flags, "--prompt", "{{ q }} {{ repeat }}")
    assert refused.code == 2 and "a column of that name" in refused.err, refused.err
    assert here(*flags, "--prompt", "{{ q }}").code == 0
    found = _columns(published("run"), "repeat_of", "repeat", "input_repeat_of", "input_repeat")
    assert found == [(0, n, 7, "x") for n in range(3)]


def test_carry_none_keeps_the_columns_of_repeats(here, server, jsonl, published):
    """Which repeat a row is does not depend on what is carried."""
    rows = jsonl(_rows(2, note="x"))
    done = here(rows, "-o", "run", *QUICK, "--carry", "none", "--base-url", server.base_url)
    assert done.code == 0, done.err
    assert _columns(published("run"), "row", "repeat_of", "repeat") == [
        row[:3] for row in NUMBERED[:6]
    ]
    assert "note" not in published("run").schema.names


def test_an_interrupted_run_goes_on(cli, here, simulator, jsonl, until, published, summary):
    """Stopped between two repeats of a row, it sends what is left, and nothing twice."""
    endpoint = simulator(latency=FixedLatency(0.05))
    flags = (jsonl(_rows(20)), "-o", "run", *QUICK, *SEEDED, "--base-url", endpoint.base_url)
    live = cli.start("run", *MODEL, *flags, "--concurrency", 2, "--shard-rows", 9)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 10)
    live.signal(signal.SIGINT)
    assert live.wait(60).code == 130
    done = summary("run")["rows"]["ok"]
    assert 0 < done < 60
    assert here(*flags, "--shard-rows", 9).code == 0
    assert endpoint.stats()["by_status"]["200"] == 60
    table = published("run")
    assert _columns(table, "row", "repeat_of", "repeat", "custom_id") == [
        (r, r // 3, r % 3, f"id-{r // 3}") for r in range(60)
    ]
    assert cli.verified("run")


def test_a_large_row_is_repeated_in_pieces(here, server, jsonl, published, cli):
    """A row that is sent more often than a block has rows is split between blocks."""
    rows = jsonl(_rows(2, note="x" * 20_000))
    flags = ("--no-progress", "--repeat", 300, "--shard-rows", 400)
    done = here(rows, "-o", "run", *flags, "--base-url", server.base_url)
    assert done.code == 0, done.err
    found = _columns(published("run"), "row", "repeat_of", "repeat")
    assert found == [(r, r // 300, r % 300) for r in range(600)]
    assert len(server.requests) == 600
    assert cli.verified("run")


def test_validate_and_dry_run_count_requests(cli, server, jsonl):
    """Repeats are counted, are no duplicates, and a bad row is reported once."""
    rows = [*_rows(3), {"note": "no messages"}]
    path = jsonl(rows)
    checked = json.loads(cli("validate", path, *MODEL, *QUICK[1:], "--json").out)
    assert (checked["rows"], checked["bad"], len(checked["problems"])) == (12, 3, 1)
    assert checked["duplicate_ids"]["ids"] == checked["identical_requests"]["requests"] == 0
    flags = (path, "-o", "run", *QUICK[1:], "--base-url", server.base_url, "--dry-run", "--json")
    dry = json.loads(cli.run(*flags).out)
    assert dry["rows"] == {"input": 12, "done": 0, "to_send": 9, "bad": 3}
    assert dry["estimate"]["rows"] == 12
    assert not server.requests


def test_estimate_counts_repeats(cli, jsonl):
    """Three repeats take three times the tokens of one."""
    path = jsonl(_rows(5))
    one, three = (
        json.loads(cli("estimate", path, "--model", "m", "--repeat", k, "--json").out)
        for k in (1, 3)
    )
    assert (one["rows"], three["rows"]) == (5, 15)
    assert three["prompt_tokens"]["estimate"] == pytest.approx(3 * one["prompt_tokens"]["estimate"])


def test_python_takes_the_keyword(server, cli, monkeypatch, published):
    """`repeat=2` over rows in memory gives each row twice."""
    monkeypatch.chdir(cli.folder)
    rows = [{"q": "a"}, {"q": "b"}]
    batchrun.run(
        rows, output="run", model="m", repeat=2, prompt="{{ q }}", base_url=server.base_url
    )
    found = published("run").select(["row", "repeat_of", "repeat", "q"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (0, 0, 0, "a"), (1, 0, 1, "a"), (2, 1, 0, "b"), (3, 1, 1, "b"),
    ]  # fmt: skip


# Answers of other runs


def test_a_repeat_takes_the_answer_of_the_same_repeat(here, server, jsonl, published, cli):
    """Of three repeats that asked the same, each finds its own answer again."""
    rows = jsonl(_rows(6))
    flags = (*QUICK, "--base-url", server.base_url)
    assert here(rows, "-o", "earlier", *flags).code == 0
    assert here(rows, "-o", "new", *flags, "--reuse", "earlier").code == 0
    assert len(server.requests) == 18
    assert _columns(published("new"), "content", "repeat") == _columns(
        published("earlier"), "content", "repeat"
    )
    assert cli.verified("new")


def test_a_run_without_repeats_answers_the_first_alone(here, server, jsonl, published):
    """Repeats 1 and 2 are sent; and the other way round, only the first repeat is taken."""
    rows = jsonl(_rows(4))
    flags = ("--no-progress", "--base-url", server.base_url)
    assert here(rows, "-o", "single", *flags).code == 0
    assert here(rows, "-o", "triple", *flags, "--repeat", 3, "--reuse", "single").code == 0
    assert len(server.requests) == 4 + 8
    taken = [row["repeat"] for row in published("triple").to_pylist() if row["reused_from"]]
    assert taken == [0] * 4
    assert here(rows, "-o", "again", *flags, "--reuse", "triple").code == 0
    assert len(server.requests) == 12
    assert (
        published("again").column("content").to_pylist()
        == published("single").column("content").to_pylist()
    )


def test_more_repeats_send_only_the_new_ones(here, server, jsonl, published):
    """`--restart --reuse old` with a larger K keeps what there is of each row."""
    rows = jsonl(_rows(4))
    flags = ("--no-progress", "--base-url", server.base_url, "-o", "run")
    assert here(rows, *flags, "--repeat", 2).code == 0
    before = {
        (row["repeat_of"], row["repeat"]): row["content"] for row in published("run").to_pylist()
    }
    assert here(rows, *flags, "--repeat", 5, "--restart", "--reuse", "old").code == 0
    assert len(server.requests) == 8 + 12
    for row in published("run").to_pylist():
        known = before.get((row["repeat_of"], row["repeat"]))
        assert (known is not None) == bool(row["reused_from"])
        assert known in (None, row["content"])


def test_equal_rows_do_not_mix_up_their_repeats(here, server, cli, published):
    """Two rows with the same request, some of whose repeats failed: every answer that is taken is
    one of the same repeat.
    """
    path = cli.folder / "rows.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "same"}]})
    path.write_text(f"{line}\n" * 12)
    flags = (*QUICK, "--base-url", server.base_url, "--shard-rows", 6)
    assert here("rows.jsonl", "-o", "earlier", *flags).code == 0
    told = {row["content"]: row["repeat"] for row in published("earlier").to_pylist()}
    assert here("rows.jsonl", "-o", "new", *flags, "--reuse", "earlier").code == 0
    found = published("new").to_pylist()
    assert all(told[row["content"]] == row["repeat"] for row in found)
    assert len(server.requests) == 36


def test_answers_in_the_logs_of_a_killed_run_keep_their_repeat(
    cli, here, server, jsonl, until, published
):
    """What a kill left unpublished is taken by the same repeat alone."""
    rows = jsonl(_rows(8))
    flags = (rows, *QUICK, "--base-url", server.base_url)
    live = cli.start("run", *MODEL, *flags, "-o", "earlier", "--concurrency", 1)
    until(lambda: len(server.requests) >= 10)
    live.signal(signal.SIGKILL)
    live.wait(60)
    before = len(server.requests)
    done = here(*flags, "-o", "new", "--reuse", "earlier")
    assert done.code == 0, done.err
    table = published("new").to_pylist()
    taken = [row for row in table if row["reused_from"]]
    assert taken and len(server.requests) - before == 24 - len(taken)
    assert all(int(row["reused_from"].partition(":")[2]) == row["row"] for row in taken)


def test_verify_reports_a_wrong_repeat(here, server, jsonl, cli):
    """A part whose columns do not fit its row numbers is damage, whatever the digests say."""
    done = here(jsonl(_rows(4)), "-o", "run", *QUICK, "--base-url", server.base_url)
    assert done.code == 0, done.err
    path = cli.folder / "run" / "results" / "part-00000000.parquet"
    table = pq.read_table(path)
    place = table.schema.names.index("repeat")
    wrong = pa.array([0, 2, 1, *[r % 3 for r in range(3, 12)]], pa.int32())
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), path)
    found = json.loads(cli("verify", "run", "--json").out)
    assert found["kinds"]["repeat"] == 2
    assert any("row 1 says that it is repeat 2 of row 0" in text for text in found["problems"])


def test_show_says_which_repeat_a_row_is(here, server, jsonl, cli):
    """For people in the row's heading, in JSON as two keys."""
    assert here(jsonl(_rows(3)), "-o", "run", *QUICK, "--base-url", server.base_url).code == 0
    [shown] = json.loads(cli("show", "run", "5", "--json").out)["rows"]
    assert (shown["row"], shown["repeat_of"], shown["repeat"]) == (5, 1, 2)
    assert "repeat 2 of row 1" in cli("show", "run", "5").out
    rows = json.loads(cli("show", "run", "--id", "id-1", "--json").out)["rows"]
    assert [row["row"] for row in rows] == [3, 4, 5]


def test_a_damaged_part_is_repaired(here, server, jsonl, cli, published):
    """`--repair` sends the repeats of the damaged part again, and no other; without `--repeat` it
    refuses.
    """
    flags = (jsonl(_rows(6)), "-o", "run", "--no-progress", "--base-url", server.base_url)
    more = ("--repeat", 3, "--shard-rows", 6)
    assert here(*flags, *more).code == 0
    (cli.folder / "run" / "results" / "part-00000001.parquet").write_bytes(b"PAR1")
    assert here(*flags, "--repair").code == 2
    done = here(*flags, *more, "--repair")
    assert done.code == 0, done.err
    assert len(server.requests) == 18 + 6
    assert _columns(published("run"), "row", "repeat_of", "repeat", "custom_id") == NUMBERED[:18]
    assert cli.verified("run")
    (cli.folder / "run" / "checkpoint" / "journal.db").unlink()
    assert here(*flags, "--shard-rows", 6, "--repair").code == 2
    done = here(*flags, *more, "--repair")
    assert done.code == 0, done.err
    assert len(server.requests) == 24
    assert cli.verified("run")


# Run directories of the version that introduced repeats

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "repeat-0.2"
BEGUN = ("-c", "repeat.toml", "--shard-rows", 4, "--no-progress")


@pytest.fixture
def golden(cli):
    """Copies of them, beside their input."""
    shutil.copytree(GOLDEN, cli.folder, dirs_exist_ok=True)
    return cli.folder


@pytest.mark.parametrize("name", rest_slow(["finished", "failed", "interrupted"]))
def test_golden_directories_are_read(name, cli, golden):
    """`verify` holds them against their input and recomputes their metrics; scoring them again
    gives the same.
    """
    done = cli("verify", name, "--against", "rows.jsonl", "--json")
    assert done.code == 0, done.out
    before = json.loads((golden / name / "summary.json").read_text())
    assert done.json["compared"] == before["rows"]["ok"] + before["rows"]["error"] > 0
    if name != "interrupted":
        assert cli("score", name).code == 0
        after = json.loads((golden / name / "summary.json").read_text())
        assert after["metrics"].keys() == before["metrics"].keys()
        for metric, found in after["metrics"].items():
            assert found == pytest.approx(before["metrics"][metric])


@pytest.mark.parametrize("name", ["interrupted", "killed"])
def test_golden_directories_go_on(name, cli, golden, simulator, published):
    """The same command sends the rows that are left, and those alone."""
    endpoint = simulator()
    flags = ("rows.jsonl", "-o", name, *BEGUN, "--base-url", endpoint.base_url)
    done = cli.run(*flags)
    assert done.code == 1, done.err
    assert cli.verified(name)["rows"] == 36
    assert 0 < endpoint.stats()["requests_total"] < 33
    table = published(golden / name)
    assert _columns(table, "row", "repeat_of", "repeat") == [(r, r // 3, r % 3) for r in range(36)]


def test_failed_repeats_of_a_golden_directory_are_retried(cli, golden, simulator, summary):
    """They alone are sent again."""
    before = summary(golden / "failed")["errors"]["server_error"]
    endpoint = simulator()
    flags = ("rows.jsonl", "-o", "failed", *BEGUN, "--base-url", endpoint.base_url)
    assert cli.run(*flags, "--retry-failed").code == 1
    assert endpoint.stats()["requests_total"] == before > 0
    assert summary(golden / "failed")["rows"]["ok"] == 33
    assert cli.verified("failed")
