"""The main job from end to end: samples in, Parquet out, and what the command says meanwhile."""

import dataclasses
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest

SAMPLES = {
    "batch_lines.jsonl": (60, ()),
    "chat_rows.jsonl": (20, ()),
    "nightly_eval.parquet": (40, ()),
    "questions.csv": (20, ("--prompt", "{{ question }}")),
    "reviews.parquet": (30, ("--prompt", "{{ product }}, {{ stars }} of 5: {{ review }}")),
}


@pytest.mark.parametrize(("name", "rows", "flags"), [(n, *more) for n, more in SAMPLES.items()])
def test_a_sample_runs_and_verifies(cli, simulator, samples, summary, published, name, rows, flags):
    """Every row of every sample is answered once, and the accounting of the directory holds."""
    endpoint = simulator()
    done = cli.run(samples / name, *flags, "-o", "run", "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    assert done.out == ""
    found = summary(cli.folder / "run")
    assert found["status"] == "complete"
    assert found["rows"] == {"input": rows, "ok": rows, "error": 0, "pending": 0}
    assert found["totals"]["attempts"] == endpoint.stats()["requests_total"] == rows
    table = published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(rows))
    assert set(table["status"].to_pylist()) == {"ok"}
    assert all(table["content"].to_pylist())
    report = cli.verified("run")
    assert (report["rows"], report["attempts"], report["digests"]) == (rows, rows, 2)


def test_a_finished_run_sends_nothing_more(cli, simulator, samples, summary):
    """The same command again finds nothing left to send and repeats the summary."""
    endpoint = simulator()
    command = (samples / "chat_rows.jsonl", "-o", "run", "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    before = summary(cli.folder / "run")
    again = cli.run(*command, "--json")
    assert again.code == 0
    assert again.json == before
    assert "nothing left to send" in again.err
    assert endpoint.stats()["requests_total"] == 20


def test_a_last_shard_that_is_full_is_the_last_one(cli, simulator, jsonl, summary):
    """The same command again sends nothing and leaves the summary as it is; once the input has
    grown, it goes on.
    """
    rows, endpoint = jsonl(40), simulator()
    command = (rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m")
    command = (*command, "--shard-rows", 20)
    assert cli.run(*command).code == 0
    before = summary(cli.folder / "run")
    again = cli.run(*command)
    assert (again.code, "nothing left to send" in again.err) == (0, True), again.err
    assert summary(cli.folder / "run") == before
    with rows.open("a") as file:
        file.write(rows.read_text().splitlines()[0] + "\n")
    assert cli.run(*command).code == 0
    assert summary(cli.folder / "run")["rows"]["ok"] == 41


def test_several_files_are_one_input(cli, simulator, samples, published):
    """Rows are numbered over all files in the order given."""
    names = [samples / "chat_rows.jsonl", samples / "batch_lines.jsonl"]
    done = cli.run(*names, "-o", "run", "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(80))
    assert table["custom_id"].to_pylist()[19:21] == [None, "describe-enamel-kettle-en"]


def test_the_result_row_tells_the_whole_story(cli, simulator, jsonl, chat, published):
    """One row's columns: names, usage, moments, hash and the raw response, all filled."""
    source = jsonl([chat(1, custom_id=4711, ticket="T")])
    assert cli.run(source, "-o", "run", "--base-url", simulator().base_url).code == 0
    row = published(cli.folder / "run").to_pylist()[0]
    assert (row["custom_id"], row["status"], row["ticket"]) == ("4711", "ok", "T")
    assert (row["attempts"], row["http_status"], row["model"]) == (1, 200, "m")
    assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"]
    assert row["created"].year >= 2024
    assert row["started_at"].tzinfo is not None
    assert 0 < row["latency_s"] < 60
    assert re.fullmatch("[0-9a-f]{64}", row["request_hash"])
    assert json.loads(row["response"])["choices"][0]["message"]["content"] == row["content"]
    assert row["request_id"].startswith("req_")
    for name in ("error_class", "error_code", "error_message", "cost_usd", "ttft_s", "extra"):
        assert row[name] is None


@pytest.mark.parametrize(("raw", "ok", "error"), [("all", 1, 1), ("errors", 0, 1), ("none", 0, 0)])
def test_raw_chooses_which_responses_are_kept(
    cli, scripted, answer, jsonl, published, raw, ok, error
):
    """--raw keeps the response of all rows, of failed ones, or of none."""

    def reply(body, _headers, _nth):
        good = body["messages"][0]["content"].endswith("0")
        return (200, {}, answer()) if good else (400, {}, {"error": {"message": "no"}})

    done = cli.run(jsonl(2), "-o", "run", "--raw", raw, "--base-url", scripted(reply).base_url)
    assert done.code == 1
    kept = published(cli.folder / "run")["response"].to_pylist()
    assert [text is not None for text in kept] == [bool(ok), bool(error)]


def test_json_is_one_object_and_nothing_else(cli, simulator, samples, summary):
    """--json puts the summary on stdout; messages stay on stderr."""
    done = cli.run(
        samples / "chat_rows.jsonl", "-o", "run", "--json", "--base-url", simulator().base_url
    )
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert done.json == summary(cli.folder / "run")
    assert "complete" in done.err


def test_the_last_words_tell_why_rows_failed(cli, scripted, answer, tmp_path):
    """One example of each class, with its row, on one line that cannot steer the terminal; and
    how failed rows are sent again.
    """

    def reply(body, _headers, _nth):
        text = body["messages"][0]["content"]
        said = "no such model\x1b[2J\nhere " + "x " * 500
        return (404, {}, {"error": {"message": said}}) if text == "b" else (200, {}, answer())

    (tmp_path / "in.csv").write_bytes(b"text\na\nb\n\xff\nb\n\xff\n")
    endpoint = scripted(reply)
    command = (tmp_path / "in.csv", "-o", "run", "--prompt", "{{ text }}", "--concurrency", 1)
    done = cli.run(*command, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    lines = done.err.splitlines()
    place = lines.index("failed by class: invalid_row 2, not_found 2")
    bad, unknown = sorted(lines[place + 1 : place + 3])
    assert bad.startswith(
        f"  invalid_row, row 2: {tmp_path}/in.csv line 4: the line is not valid UTF-8; "
    )
    assert unknown.startswith("  not_found, row 1: no such model\N{REPLACEMENT CHARACTER}[2J here")
    assert len(unknown) < 340
    assert "--retry-failed" in lines[-1]


def test_the_display_fits_a_narrow_terminal():
    """At 40 columns no line of the display is broken in two."""
    from rich.console import Console

    from batchrun.engine.observe.funds import MoneySnapshot
    from batchrun.engine.observe.monitor import EndpointSnapshot, Snapshot
    from batchrun.views.progress import LiveProgress

    console = Console(file=io.StringIO(), width=40, force_terminal=True, legacy_windows=False)
    numbers = {"rows_input": 9_999_999, "ok": 1_234_567, "error": 123, "retries": 4567}
    plain = dict.fromkeys((field.name for field in dataclasses.fields(Snapshot)), 0)
    rates = {"requests_per_s": 1234.0, "tokens_per_s": 234_567.0, "throttled": 12_345}
    more = {"in_flight": 512, "eta_s": 7000.0, "elapsed_s": 900.0, "bound_by": "server"}
    each = [
        EndpointSnapshot(n, "down", 64, 1, 99_999, 1, 1, 12.0, None, None, [])
        for n in ("a", "b" * 50)
    ]
    more["endpoints"] = tuple(each)
    more["cost_usd"] = 12_345.67891
    more["money"] = MoneySnapshot(
        per_hour_usd=1234.5,
        per_ok_row_usd=0.0012345,
        projected_usd=123_456.7,
        projected_low_usd=121_000.0,
        projected_high_usd=126_000.0,
        max_cost_usd=120_000.0,
        charged_usd=12_400.0,
        held_usd=54.32109,
        reserved_usd=1.0,
        max_total_tokens=10**10,
        charged_tokens=1_234_567_890,
        held_tokens=1_234_567,
        reserved_tokens=1,
    )
    with LiveProgress(console) as live:
        live(Snapshot(**(plain | {"state": "running"} | numbers | rates | more)))
        shown = console.file.getvalue()
    lines = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in shown.splitlines()]
    found = [line for line in lines if line.strip()]
    assert found[0] == "1,234,690/9,999,999 rows 12%  ETA 1h56m"
    assert found[1] == "elapsed 15m00s"
    assert found[3:14] == [
        "ok 1,234,567  failed 123  retried 4,567",
        "throttled 12,345",
        "1234/s requests  235k/s tokens",
        "in flight 512",
        "cost $12,345.6789  projected $123,000",
        "90% between $121,000 and $126,000",
        "$1,230 per hour  $0.00123 per ok row",
        "charged $12,400.0000 of $120,000 (10%)",
        "$54.3211 of it unanswered",
        "1,234,567,890 of 10,000,000,000 tokens",
        "1,234,567 of them unanswered",
    ]
    assert found[14].startswith("a  down, probed  12/s")
    assert found[15].startswith("b" * 19 + "\N{HORIZONTAL ELLIPSIS}  down, probed")
    assert max(map(len, lines)) <= 40


def test_the_display_shows_endpoints_in_trouble_first():
    """Of 20 endpoints the last is down: it has a line, and the display stays small."""
    from rich.console import Console

    from batchrun.engine.observe.monitor import EndpointSnapshot, Snapshot
    from batchrun.views.progress import LiveProgress

    console = Console(file=io.StringIO(), width=80, force_terminal=True, legacy_windows=False)
    states = ["up"] * 18 + ["throttled", "down"]
    each = tuple(
        EndpointSnapshot(f"rack-{n}", state, 4, 1, 1, 0, 0, 12.0, None, None, [])
        for n, state in enumerate(states)
    )
    plain = dict.fromkeys((field.name for field in dataclasses.fields(Snapshot)), 0)
    with LiveProgress(console) as live:
        live(Snapshot(**(plain | {"state": "running", "bound_by": None, "endpoints": each})))
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue())
    found = [line for line in shown.splitlines() if line.startswith(("rack", "and"))]
    assert found[0].startswith("rack-19  down, probed")
    assert found[1].startswith("rack-18  throttled")
    assert found[2].startswith("rack-0  up")
    assert len(found) == 8
    assert found[-1] == "and 13 more"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "missing.jsonl", "-o", "run"], 2),
        (["run", "-o", "run"], 2),
        (["verify", "missing"], 2),
        (["status", "missing"], 2),
    ],
)
def test_json_of_an_error_is_one_object_too(cli, arguments, code):
    """A script reads the error where it would have read the result."""
    done = cli(*arguments, "--json")
    assert done.code == done.json["exit_code"] == code
    assert done.json["error"] in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--no-such-flag"],
        ["run", "a.jsonl", "-o", "run", "--shard-rows", "many"],
        ["run", "a.jsonl", "-o", "run", "--raw", "some"],
        ["run", "a.jsonl", "-o", "run", "--concurrency", "-1"],
        ["run", "a.jsonl"],
        ["run", "-o", "run"],
        ["run", "a.jsonl", "-o", "run", "--base-url", "localhost:8000"],
        ["run", "a.jsonl", "-o", "run", "--param", "temperature"],
        ["run", "a.jsonl", "-o", "run", "--limit", "0"],
        ["verify"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_is_exit_2(cli, arguments):
    """What cannot be understood is refused before anything is touched, without a traceback."""
    (cli.folder / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    done = cli(*arguments, env={"OPENAI_API_KEY": "k"})
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert not (cli.folder / "run").exists()


@pytest.mark.slow
def test_progress_off_a_terminal_is_plain_lines(cli, simulator, jsonl):
    """Lines on stderr every few seconds, without a single control character."""
    done = cli.run(
        *(jsonl(40), "-o", "run", "--base-url", simulator().base_url),
        *("--rpm", 300, "--json"),
    )
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "/40 rows" in line]
    assert lines, done.err
    assert "ok " in lines[0] and "ETA " in lines[0] and "bound by rpm" in lines[0]
    assert "\x1b" not in done.err and "\r" not in done.err
    assert done.json["rows"]["ok"] == 40


@pytest.mark.parametrize("flag", ["--quiet", "--no-progress"])
def test_the_display_can_be_turned_off(cli, simulator, jsonl, flag):
    """--no-progress leaves the summary, --quiet leaves nothing where nothing went wrong."""
    done = cli.run(jsonl(3), "-o", "run", flag, "--base-url", simulator().base_url)
    assert done.code == 0
    assert ("complete" in done.err) is (flag == "--no-progress")
    assert done.out == ""


def _on_a_terminal(cli, arguments, env):
    """What a command writes on a terminal."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", *map(str, arguments)],
        cwd=cli.folder,
        env=cli._environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=there,
    )
    os.close(there)
    seen = bytearray()
    try:
        while data := os.read(here, 65536):
            seen += data
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(here)
    return process.wait(30), seen.decode(errors="replace")


@pytest.mark.parametrize("colour", [True, False])
def test_no_color_is_honoured_on_a_terminal(cli, simulator, jsonl, colour):
    """On a terminal the display is alive; with NO_COLOR it has no colours."""
    env = {"TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    code, seen = _on_a_terminal(
        cli,
        [
            *("run", jsonl(15), "-o", "run", "--model", "m", "--rpm", "600"),
            *("--base-url", simulator().base_url),
        ],
        env,
    )
    assert code == 0, seen
    assert "/15 rows" in seen
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", seen)) is colour


def test_the_embedded_simulator_says_what_it_is(cli, samples, summary):
    """--provider simulator needs no key and no network, and says that no model answers."""
    done = cli("run", samples / "batch_lines.jsonl", "-o", "run", "--provider", "simulator")
    assert done.code == 0, done.err
    assert "simulator" in done.err and "not from a model" in done.err
    assert summary(cli.folder / "run")["rows"]["ok"] == 60
    cli.verified("run")


def test_the_checkpoint_may_live_elsewhere(cli, simulator, jsonl, published):
    """With --checkpoint nothing but the published files is in the run directory."""
    endpoint = simulator()
    command = (
        *(jsonl(5), "-o", "run", "--checkpoint", "elsewhere/cp"),
        *("--base-url", endpoint.base_url),
    )
    assert cli.run(*command).code == 0
    assert not (cli.folder / "run" / "checkpoint").exists()
    assert cli.run(*command).code == 0
    assert endpoint.stats()["requests_total"] == 5
    assert cli("verify", "run", "--checkpoint", "elsewhere/cp").code == 0
    assert published(cli.folder / "run").num_rows == 5


def test_what_is_answered_private_stays_private(cli, simulator, jsonl):
    """Nobody else may read the checkpoint."""
    assert cli.run(jsonl(1), "-o", "run", "--base-url", simulator().base_url).code == 0
    assert (cli.folder / "run" / "checkpoint").stat().st_mode & 0o077 == 0
