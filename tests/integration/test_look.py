"""Looking before paying: requests as they would be sent, dry runs, models side by side."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency

COMMAND = (sys.executable, "-m", "batchrun")
PRICES = (
    '[prices."m"]\ninput = 1\noutput = 4\n'
    '[prices."dear"]\ninput = 20\noutput = 80\nbatch_input = 10\nbatch_output = 40\n'
)


@pytest.fixture
def bodies(answer):
    """An endpoint that keeps the bytes of every body: its URL and those bytes."""
    kept = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            kept.append(self.rfile.read(int(self.headers["Content-Length"])))
            reply = json.dumps(answer()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", kept
    server.shutdown()
    server.server_close()


def _tree(folder):
    """Every file of a directory with its content and its time."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


ODD_ROWS = [
    {"messages": [{"role": "user", "content": "naïve \x7f\u2028 \u0085 \U0001f600"}], "top_p": 0.5},
    {"messages": [{"content": "b", "role": "user"}], "zeta": 1, "model": "m"},
    {"body": {"messages": [{"role": "user", "content": "c"}], "n": 2, "a_param": [1.0, None]}},
    {"messages": [{"role": "user", "content": "d"}], "extra_body": {"z": {"b": 1, "a": 2}}},
]


@pytest.mark.parametrize("flags", [(), ("--no-stream", "--param", "temperature=0.25")])
def test_what_is_shown_is_what_is_sent(cli, jsonl, bodies, flags):
    """Byte for byte, with the name that the model has at its endpoint: rows of every kind."""
    url, kept = bodies
    config = cli.folder / "c.toml"
    config.write_text(
        f'[request]\nmodel = "m"\n[[endpoint]]\nbase_url = "{url}"\nmodels = {{ m = "theirs" }}\n'
    )
    source = jsonl(ODD_ROWS)
    shown = cli("validate", source, "-c", config, "--show", 9, *flags)
    assert shown.code == 0, shown.err
    assert not kept
    done = cli("run", source, "-c", config, "-o", "run", "--concurrency", 1, *flags)
    assert done.code == 0, done.err
    assert shown.out.encode() == b"".join(body + b"\n" for body in kept)
    assert all(json.loads(body)["model"] == "theirs" for body in kept)


def test_a_stream_is_shown_as_it_is_asked_for(cli, jsonl):
    """``stream`` and its options are in the request that is shown, as the run sends them."""
    done = cli("validate", jsonl(1), "--model", "m", "--stream", "--show", 1)
    found = json.loads(done.out)
    assert found["stream"] is True and found["stream_options"] == {"include_usage": True}


def test_bad_rows_are_passed_over_on_stdout_and_named_on_stderr(cli, jsonl, chat):
    """N requests are shown, whatever bad rows lie between; all else is on stderr."""
    source = jsonl([chat(0), {"messages": []}, chat(2), chat(3)])
    done = cli("validate", source, "--model", "m", "--show", 2)
    assert done.code == 1
    shown = [json.loads(line)["messages"][0]["content"] for line in done.out.splitlines()]
    assert shown == ["question 0", "question 2"]
    assert f"{source} line 2 (row 1)" in done.err and "1 of 4 rows is bad:" in done.err
    for count, lines in ((0, 0), (1, 1), (99, 3)):
        done = cli("validate", source, "--model", "m", "--show", count)
        assert (done.code, len(done.out.splitlines())) == (1, lines)
        assert "1 of 4 rows is bad:" in done.err
    assert cli("validate", source, "--model", "m", "--show", -1).code == 2


def test_requests_are_in_the_one_json_object(cli, jsonl):
    """With ``--json`` stdout has one object, the requests in it."""
    done = cli("validate", jsonl(3), "--model", "m", "--show", 2, "--json")
    assert [each["messages"][0]["content"] for each in done.json["requests"]] == [
        "question 0",
        "question 1",
    ]
    assert cli("validate", jsonl(3), "--model", "m", "--json").json["requests"] == []


def test_attachments_are_told_by_size(cli, jsonl):
    """An image in a request is exact on stdout, and a size on stderr and in JSON."""
    image = b"\x89PNG\r\n\x1a\n" + b"x" * 300_000
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    source = jsonl([{"messages": [{"role": "user", "content": [part, sound]}]}])
    done = cli("validate", source, "--model", "m", "--show", 1)
    assert json.loads(done.out)["messages"][0]["content"][0] == part
    assert "image/png of 300,008 bytes, audio/wav of 3 bytes" in done.err
    assert len(done.err) < 2000
    found = cli("validate", source, "--model", "m", "--show", 1, "--json").json
    assert found["attachments"] == [
        {"row": 0, "kind": "image/png", "bytes": 300_008},
        {"row": 0, "kind": "audio/wav", "bytes": 3},
    ]


def test_a_reader_that_has_seen_enough_ends_no_check(cli, jsonl, chat):
    """``| head -1`` gets its line; every row is checked all the same, and the exit code says so."""
    source = jsonl([*(chat(n, pad="x" * 500) for n in range(3000)), {"messages": []}])
    command = f"{sys.executable} -m batchrun validate {source} --model m --show 3000"
    done = subprocess.run(
        ["bash", "-c", f"{command} --quiet 2>err | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=cli.folder,
        env=cli._environment(None),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "1 of 3,001 rows is bad" in (cli.folder / "err").read_text()


def test_identical_requests_are_counted(cli, jsonl, chat):
    """Rows that make the same request are counted exactly, whatever they carry beside it."""
    rows = [chat(n % 4, note=n) for n in range(10)] + [chat(99)]
    done = cli("validate", jsonl(rows), "--model", "m", "--json")
    assert done.code == 0
    found = done.json["identical_requests"]
    assert (found["requests"], found["rows"]) == (4, 10)
    assert found["first"] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    text = cli("validate", jsonl(rows), "--model", "m").out
    assert "6 rows make the same request as an earlier row (first rows 0 and 4)" in text
    assert "same request" not in cli("validate", jsonl(5), "--model", "m").out


def test_the_shortest_and_the_longest_request_are_named(cli, jsonl, chat):
    """With bytes, tokens, row, line and id; where all are alike, that is said."""
    rows = [chat(1), {"messages": [{"role": "user", "content": "x"}], "custom_id": "brief"}]
    rows += [{"messages": [{"role": "user", "content": "long words " * 99}], "custom_id": "l\x1b"}]
    source = jsonl(rows)
    found = cli("validate", source, "--model", "m", "--json").json
    assert (found["shortest"]["row"], found["longest"]["row"]) == (1, 2)
    assert found["shortest"]["bytes"] < found["longest"]["bytes"]
    assert found["shortest"]["prompt_tokens"] < 20 < found["longest"]["prompt_tokens"]
    assert (found["shortest"]["line"], found["shortest"]["custom_id"]) == (2, "brief")
    text = cli("validate", source, "--model", "m").out
    assert f"{source} line 2 (row 1, custom_id 'brief')" in text and "\x1b" not in text
    assert "every request has" in cli("validate", jsonl(4), "--model", "m").out


def test_odd_parts_of_a_message_do_not_break_the_report(cli, jsonl):
    """What a row may hold besides text is measured or passed over."""
    message = {"role": "user", "content": "x", "tool_calls": 5, "name": None}
    rows = [{"messages": [message]}, {"messages": [{"role": "user", "content": [1, None, "t"]}]}]
    done = cli("validate", jsonl(rows), "--model", "m", "--show", 2)
    assert done.code == 0, done.err


# Dry runs


def test_a_dry_run_reports_and_leaves_nothing(cli, simulator, jsonl, chat):
    """What validate and estimate report, and two requests; nothing is sent, no directory made."""
    endpoint = simulator()
    source = jsonl([chat(0), {"messages": []}, chat(2), chat(3)])
    command = ("-o", "run", "--base-url", endpoint.base_url, "--dry-run")
    done = cli.run(source, *command)
    assert done.code == 1, done.err
    for words in ("dry run", "1 of 4 rows is bad:", "prompt ", "cost ", "the first 2 requests:"):
        assert words in done.out
    lines = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    assert [each["messages"][0]["content"] for each in lines] == ["question 0", "question 2"]
    found = cli.run(source, *command, "--json").json
    assert found["rows"] == {"input": 4, "done": 0, "to_send": 3, "bad": 1}
    assert found["validate"]["bad"] == 1 and found["estimate"]["rows"] == 4
    assert len(found["requests"]) == 2 and found["resumed"] is False
    assert cli.run(jsonl(3), *command).code == 0
    assert endpoint.stats()["requests_total"] == 0
    assert list(cli.folder.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_what_is_begun_says_what_is_left(cli, simulator, jsonl):
    """Done rows are counted and not shown; the directory stays as it is to the last byte."""
    endpoint = simulator()
    source = jsonl(25)
    command = (source, "-o", "run", "--base-url", endpoint.base_url, "--shard-rows", 10)
    assert cli.run(*command, "--limit", 13).code == 0
    endpoint.reset_stats()
    before = _tree(cli.folder / "run")
    found = cli.run(*command, "--dry-run", "--json").json
    assert found["rows"] == {"input": 25, "done": 13, "to_send": 12, "bad": 0}
    assert found["requests"][0]["messages"][0]["content"] == "question 13"
    assert "13 rows are done, 12 rows would be sent" in cli.run(*command, "--dry-run").out
    changed = cli.run(*command, "--dry-run", "--param", "seed=1")
    assert changed.code == 2 and "request.params" in changed.err and "--keep-done" in changed.err
    again = cli.run(*command, "--dry-run", "--param", "seed=1", "--resend-changed", "--json").json
    assert again["rows"]["to_send"] == 25
    anew = cli.run(*command, "--dry-run", "--restart", "--json").json
    assert (anew["rows"]["to_send"], anew["resumed"]) == (25, False)
    assert _tree(cli.folder / "run") == before
    assert endpoint.stats()["requests_total"] == 0
    assert cli.run(*command).code == 0
    assert "nothing left to send" in cli.run(*command, "--dry-run").out


def test_a_dry_run_of_a_retry_shows_the_failed_rows(cli, scripted, answer, jsonl):
    """Rows that would be sent again for how they ended are among those to be sent."""

    def reply(body, _headers, _nth):
        bad = body["messages"][0]["content"] == "question 1"
        return (400, {}, {"error": {"message": "no"}}) if bad else (200, {}, answer())

    endpoint = scripted(reply)
    command = (jsonl(3), "-o", "run", "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 1
    found = cli.run(*command, "--dry-run", "--retry-failed", "--json").json
    assert found["rows"]["to_send"] == 1
    assert found["requests"][0]["messages"][0]["content"] == "question 1"
    assert cli.run(*command, "--dry-run", "--json").json["rows"]["to_send"] == 0


def test_a_dry_run_after_a_kill_knows_what_is_in_the_log(cli, simulator, jsonl):
    """Outcomes that no part holds yet are done rows too, and their log is left alone."""
    endpoint = simulator(latency=FixedLatency(0.01))
    command = ("run", jsonl(4000), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 4)
    until_s = time.monotonic() + 30
    while endpoint.stats()["requests_total"] < 200 and time.monotonic() < until_s:
        time.sleep(0.02)
    busy = cli(*command, "--dry-run")
    assert busy.code == 2 and "in use" in busy.err
    live.kill()
    before = _tree(cli.folder / "run")
    found = cli(*command, "--dry-run", "--json").json
    assert 0 < found["rows"]["done"] < 4000
    assert found["rows"]["done"] + found["rows"]["to_send"] == 4000
    assert _tree(cli.folder / "run") == before


@pytest.mark.slow
def test_a_dry_run_refuses_what_the_run_refuses(cli, jsonl):
    """A budget without a price, repairs and a missing column are exit 2; a missing key is said."""
    source = jsonl(3)
    where = ("-o", "run", "--base-url", "http://127.0.0.1:9/v1", "--dry-run")
    done = cli.run(source, *where, "--max-cost", 1, "--param", "max_tokens=5")
    assert done.code == 2 and '[prices."m"]' in done.err
    assert cli.run(source, *where, "--repair").code == 2
    assert cli.run(source, *where, "--carry", "gone").code == 2
    done = cli.run(source, "-o", "run", "--dry-run", "--provider", "openai")
    assert done.code == 0 and "the run itself would stop here: no key" in done.err
    assert list(cli.folder.iterdir()) == []


def test_a_dry_run_needs_no_run_directory(cli, jsonl):
    """The reports are the same, and say that the run itself needs one."""
    done = cli.run(jsonl(2), "--provider", "simulator", "--dry-run")
    assert done.code == 0 and "the run itself needs -o DIR" in done.out
    assert cli.run(jsonl(2), "--provider", "simulator", "--dry-run", "--json").json["dir"] is None


def test_standard_input_has_a_dry_run(cli, jsonl):
    """What is piped in is read once for both reports."""
    flags = ("-o", "run", "--dry-run", "--provider", "simulator", "--json")
    found = cli("run", "-", *flags, stdin=jsonl(5, model="m").read_bytes()).json
    assert found["validate"]["rows"] == found["estimate"]["rows"] == 5


def test_a_large_request_is_cut_in_the_report_of_a_dry_run(cli, jsonl):
    """An image of megabytes does not flood the terminal; JSON has all of it."""
    source = jsonl([{"messages": [{"role": "user", "content": "x" * 300_000}]}])
    command = (source, "-o", "run", "--provider", "simulator", "--dry-run")
    done = cli.run(*command)
    assert len(done.out) < 15_000 and "validate --show" in done.out
    assert len(cli.run(*command, "--json").json["requests"][0]["messages"][0]["content"]) == 300_000


# Several models


def test_models_are_compared(cli, jsonl, tmp_path):
    """Each model has the figures of the whole input, its unit prices and, if known, those of
    batches; a text that fits the terminal says the same.
    """
    config = tmp_path / "c.toml"
    config.write_text(PRICES)
    where = ("-c", config, "--base-url", "http://127.0.0.1:9/v1", "--param", "max_tokens=100")
    models = ("--model", "m", "--model", "dear", "--model", "m")
    done = cli("estimate", jsonl(10), *where, *models, "--json")
    assert done.code == 0, done.err
    found = done.json["models"]
    assert list(found) == ["m", "dear"] and found["m"]["rows"] == found["dear"]["rows"] == 10
    for end in ("low", "estimate", "high"):
        assert found["dear"]["cost_usd"][end] == pytest.approx(20 * found["m"]["cost_usd"][end])
        half = found["dear"]["cost_usd"][end] / 2
        assert found["dear"]["batch_cost_usd"][end] == pytest.approx(half)
    assert found["m"]["batch_cost_usd"] is None
    (unit,) = found["dear"]["prices"].values()
    assert (unit["input"], unit["output"], unit["batch_input"]) == (20, 80, 10)
    assert unit["source"] == "the config file"
    for columns in (40, 80):
        text = cli("estimate", jsonl(10), *where, *models, env={"COLUMNS": str(columns)}).out
        assert max(map(len, text.splitlines())) <= columns
        assert "$20.00 in" in text and "$80.00 out" in text


def test_several_models_need_names_and_no_pilot(cli, jsonl):
    """A pilot and a template belong to one model."""
    source = jsonl(20)
    models = ("--model", "a", "--model", "b", "--base-url", "http://127.0.0.1:9/v1")
    done = cli("estimate", source, *models, "--pilot", 10, "-o", "pilot")
    assert done.code == 2 and "one --model" in done.err
    done = cli("estimate", source, *models, "--model", "{{ model }}")
    assert done.code == 2 and "template" in done.err


def test_a_row_without_a_model_ends_an_estimate(cli, jsonl, chat):
    """Exit 2 and what to add; rows that all bring their model need no flag."""
    where = ("--base-url", "http://127.0.0.1:9/v1")
    done = cli("estimate", jsonl([chat(0, model="m"), chat(1)]), *where)
    assert done.code == 2 and "line 2: no model" in done.err and "--model A --model B" in done.err
    assert (
        cli("estimate", jsonl([chat(0, model="m"), {"body": chat(1, model="n")}]), *where).code == 0
    )


def test_a_list_price_has_source_and_day_and_near_names(cli, jsonl):
    """Where prices are from is said; a name that is nearly right is suggested."""
    where = ("--base-url", "https://api.openai.com/v1")
    done = cli("estimate", jsonl(2), *where, "--model", "gpt-4o-mini", "--json")
    (unit,) = done.json["models"]["gpt-4o-mini"]["prices"].values()
    assert unit["source"].startswith("genai-prices ") and unit["date"].startswith("20")
    assert 0 < unit["cached_input"] < unit["input"] < unit["output"]
    text = cli("estimate", jsonl(2), *where, "--model", "gpt-4o-mini").out
    assert "per million" in text and "genai-prices" in text
    done = cli("estimate", jsonl(2), *where, "--model", "gpt-4o-mni", "--json")
    assert done.code == 0 and done.json["cost_usd"] is None
    assert any("did you mean gpt-4o-mini" in note for note in done.json["notes"])


def test_a_pilot_takes_the_place_of_the_guess(cli, simulator, jsonl, tmp_path):
    """Its figures are the report's; the guess is not told beside them."""
    endpoint = simulator()
    config = tmp_path / "c.toml"
    config.write_text(PRICES)
    command = ("estimate", jsonl(40), "--model", "m", "-c", config)
    command += ("--base-url", endpoint.base_url, "--pilot", 10, "-o", "pilot", "--no-progress")
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["figures_from"] == "pilot"
    for figure in ("prompt_tokens", "completion_tokens", "cost_usd"):
        assert found[figure] == found["pilot"][figure]
    text = cli(*command).out
    assert [line[:4] for line in text.splitlines()].count("cost") == 1
    assert "an assumption" not in text


# Names of run directories, and nearly right command lines


@pytest.mark.parametrize("name", ["out.parquet", "out.JSONL", "out.csv", "out.json", "o.xlsx"])
def test_a_new_run_directory_is_not_called_like_a_file(cli, simulator, jsonl, name):
    """Exit 2 with the two commands; a directory of that name that is there goes on."""
    endpoint = simulator()
    done = cli.run(jsonl(2), "-o", name, "--base-url", endpoint.base_url)
    stem = name.rpartition(".")[0]
    assert done.code == 2 and f"-o {stem};" in done.err
    assert f"batchrun export {stem} -o {name}" in done.err
    assert cli.run(jsonl(2), "-o", name, "--provider", "simulator", "--dry-run").code == 2
    assert list(cli.folder.iterdir()) == [] and endpoint.stats()["requests_total"] == 0
    (cli.folder / name).mkdir()
    assert cli.run(jsonl(2), "-o", name, "--base-url", endpoint.base_url).code == 0


def test_a_dot_in_a_name_is_no_suffix_of_a_file(cli, simulator, jsonl):
    """Only suffixes of data are taken for files."""
    endpoint = simulator()
    assert cli.run(jsonl(2), "-o", "v1.2", "--base-url", endpoint.base_url).code == 0


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_without_a_prompt_says_which_columns_there_are(cli, tmp_path, kind):
    """Exit 2 before a directory is made, with the columns as templates write them and a command."""
    path = tmp_path / f"in.{kind}"
    table = {"Artikel-Nr": ["1"], "question": ["why?"]}
    if kind == "parquet":
        pq.write_table(pa.table(table), path)
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text(f"Artikel-Nr{mark}question\n1{mark}why?\n")
    for command in (("run", "-o", "run", "--provider", "simulator"), ("validate",)):
        done = cli(command[0], path, "--model", "m", *command[1:])
        assert done.code == 2
        assert "Artikel_Nr, question" in done.err
        assert f"batchrun run {path} --prompt '{{{{ question }}}}'" in done.err
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "m"\n', "write `model` below [request]"),
        ('[request]\nbase_url = "http://x"\n', "write `base_url` below [[endpoint]]"),
        ("[request]\nrpm = 5\n", "write `rpm` below [[endpoint]]"),
        ('[output]\nfiles = ["a"]\n', "write `files` below [input]"),
        ("[retry]\nmax_atempts = 3\n", "did you mean max_attempts"),
    ],
)
def test_keys_at_the_wrong_place_are_sent_to_the_right_one(cli, jsonl, tmp_path, text, words):
    """The message names the table that the key belongs to."""
    (tmp_path / "c.toml").write_text(text)
    done = cli("run", jsonl(1), "-c", tmp_path / "c.toml", "-o", "run")
    assert done.code == 2 and words in done.err


def test_lines_of_text_become_rows_with_a_command(cli, tmp_path):
    """A text file has no format; the message has the command that makes rows of it."""
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    done = cli("validate", tmp_path / "in.txt", "--model", "m")
    assert done.code == 2 and "jq -R" in done.err


def test_an_unknown_command_is_answered_with_the_nearest(cli, jsonl):
    """Also where the name of a file stands in the command's place."""
    assert "Did you mean 'run'?" in cli("runn").err
    source = jsonl(1)
    assert f"batchrun run {source} -o DIR" in cli(source).err


@pytest.mark.parametrize("prompt", ["Frage", "{Frage}"])
def test_a_prompt_that_shows_no_column_is_warned_of(cli, tmp_path, prompt):
    """Every row would ask the same; a template says nothing."""
    (tmp_path / "in.csv").write_text("Frage\nx\n")
    command = ("validate", tmp_path / "in.csv", "--model", "m", "--prompt")
    assert "every row asks the same" in cli(*command, prompt).err
    assert cli(*command, "{{ Frage }}").err == ""


@pytest.mark.parametrize("columns", [40, 80])
def test_messages_wrap_at_words_on_a_terminal(monkeypatch, columns):
    """Words and a command to be copied stay whole; off a terminal the text is as it was."""
    from batchrun.cli.console import fitted

    monkeypatch.setenv("COLUMNS", str(columns))
    text = "batchrun: " + "several words " * 20 + "\n  batchrun export " + "x" * 90

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    *prose, command = fitted(text, Terminal()).splitlines()
    assert max(map(len, prose)) <= columns and command == "  batchrun export " + "x" * 90
    assert " ".join(" ".join(prose).split()) == " ".join(text.splitlines()[0].split())
    assert fitted(text, io.StringIO()) == text


# Last words


def test_failed_rows_have_advice_by_class(cli, scripted, answer, jsonl, chat):
    """The run's last words and ``status`` say what to do about each class; a bad row alone is
    not offered a retry.
    """

    def reply(body, _headers, _nth):
        if body["messages"][0]["content"] == "question 1":
            return 413, {}, {"error": {"message": "too large"}}
        return 200, {}, answer()

    endpoint = scripted(reply)
    source = jsonl([chat(0), chat(1), {"messages": []}])
    done = cli.run(source, "-o", "run", "--base-url", endpoint.base_url)
    assert done.code == 1
    for text in (done.err, cli("status", "run").out):
        lines = [line.strip() for line in text.splitlines()]
        assert any(
            line.startswith("invalid_row: ") and "--resend-changed" in line for line in lines
        )
        assert any(line.startswith("payload_too_large: ") for line in lines)
        assert "--retry-failed" in lines[-1]
    done = cli.run(jsonl([chat(0), {"messages": []}]), "-o", "bad", "--base-url", endpoint.base_url)
    assert "the same command with --retry-failed" not in done.err


def test_one_is_not_many(cli, simulator, jsonl):
    """A run of one row counts one row, one attempt, one part."""
    endpoint = simulator()
    done = cli.run(jsonl(1), "-o", "run", "--base-url", endpoint.base_url)
    assert "1 of 1 row ok" in done.err and "1 attempt in" in done.err
    told = cli("verify", "run").out
    assert "1 row and 1 attempt in 1 part," in told.replace("2 parts", "1 part")
    assert "exported 1 row:" in cli("export", "run", "-o", "-").err
    assert "valid: the row can be sent" in cli("validate", jsonl(1), "--model", "m").out


def test_a_changed_prompt_is_shown_where_it_changed(cli, simulator, jsonl):
    """Both versions from a few words before the difference on, in lines that fit 80 columns."""
    endpoint = simulator()
    source = jsonl([{"q": "x"}])
    head = "You are a careful assistant.\n" * 30
    command = (source, "-o", "run", "--base-url", endpoint.base_url, "--prompt")
    assert cli.run(*command, f"{head}Answer in one word: {{{{ q }}}}").code == 0
    done = cli.run(*command, f"{head}Answer in two words\x1b: {{{{ q }}}}")
    assert done.code == 2
    assert "request.prompt differs from line 31, character 11 on:" in done.err
    was, now = (
        next(line for line in done.err.splitlines() if mark in line) for mark in ("was:", "is:")
    )
    assert "one word" in was and "two words" in now and "\\u001b" in now
    assert max(len(was), len(now)) <= 80 and os.linesep not in was


# Failures while a run goes on, and after it


def test_failures_are_told_while_the_run_goes_on(cli, scripted, answer, jsonl, until):
    """By class with an example, in `status` and at the top of its JSON: live, and after the end,
    also those that an earlier session had.
    """
    open_now = threading.Event()

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].removeprefix("question "))
        if number in (1, 4):
            return 400, {}, {"error": {"message": f"refused number {number}"}}
        if number == 2:
            return 404, {}, {"error": {"message": "no such thing"}}
        if number > 20:
            open_now.wait(60)
        return 200, {}, answer()

    endpoint = scripted(reply)
    command = ("run", jsonl(24), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    first = cli(*command, "--limit", 3, "--no-progress", "--concurrency", 1)
    assert first.code == 1, first.err
    live = cli.start(*command, "--no-progress", "--concurrency", 8)

    def failed():
        done = cli("status", "run", "--json")
        return (
            done.json if done.json.get("errors") == {"invalid_request": 2, "not_found": 1} else None
        )

    found = until(failed)
    assert found["state"] == "running"
    assert found["examples"]["not_found"] == {"row": 2, "message": "no such thing"}
    assert found["examples"]["invalid_request"] == {"row": 1, "message": "refused number 1"}
    text = cli("status", "run").out
    assert "failed by class: invalid_request 2, not_found 1" in text
    assert "  not_found, row 2: no such thing" in text and "what to do:" in text
    open_now.set()
    assert live.wait().code == 1
    ended = cli("status", "run", "--json").json
    assert ended["errors"] == found["errors"] and ended["examples"] == found["examples"]
    assert ended["summary"]["examples"] == found["examples"]
    cli.verified("run")


def test_what_most_answers_are_is_in_the_verdict(cli, simulator, jsonl):
    """A run that is complete and cut off throughout does not read as if all were well."""
    endpoint = simulator(truncated_rate=1.0)
    done = cli.run(jsonl(5), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert done.code == 0, done.err
    for text in (done.err, cli("status", "run").out):
        assert "complete, but most answers are truncated: 5 of 5 rows ok" in text
        assert "of the ok rows, 5 truncated (100%, finish_reason length): allow longer" in text
    outputs = json.loads((cli.folder / "run/checkpoint/status.json").read_text("utf-8"))["outputs"]
    assert set(outputs) == {"answers", "truncated", "empty"}
