"""``--log-level`` and ``--log-file``: what is written down of a run, where, and what never is."""

import json
import logging
import re
import stat
import time

import pytest

import batchrun
from batchrun.engine.attempt_log import NotingJournal, noted
from batchrun.testing.fakes import FakeJournal

QUICK = ("--no-progress",)
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) \S.*$")
KEY = "sk-this-is-a-secret-key-0123456789"


def _lines(text):
    """The log lines of a text, each whole."""
    found = text.splitlines()
    assert all(LINE.match(line) for line in found), text
    return found


def _levels(lines):
    return {LINE.match(line).group(1) for line in lines}


@pytest.fixture
def flaky(scripted, answer):
    """An endpoint that fails for each row once, one row for good, and repeats what it was sent."""
    seen = set()

    def reply(body, headers, nth):
        text = body["messages"][0]["content"]
        said = {"message": f"{text} {headers.get('Authorization')}", "code": "x\ny \x1b[31m"}
        if text.endswith("question 3"):
            return 400, {"x-request-id": f"r{nth}"}, {"error": said}
        if text not in seen:
            seen.add(text)
            return 503, {"x-request-id": f"r{nth}"}, {"error": said}
        return 200, {}, answer()

    endpoint = scripted(reply)
    return endpoint, (*QUICK, "--base-url", endpoint.base_url, "--concurrency", 1)


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything, and its address as flags."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    return endpoint, (*QUICK, "--base-url", endpoint.base_url)


@pytest.mark.parametrize(
    ("level", "levels"),
    [
        ((), {"INFO"}),
        (("--log-level", "info"), {"INFO"}),
        (("--log-level", "DEBUG"), {"DEBUG", "INFO"}),
        (("--log-level", "warning"), set()),
        (("--log-level", "error"), set()),
    ],
)
def test_a_level_says_how_much(cli, flaky, jsonl, level, levels):
    """A file has info unless told otherwise; every line has time, level and message."""
    _, flags = flaky
    done = cli.run(jsonl(5), "-o", "run", *flags, "--log-file", "run.log", *level)
    assert done.code == 1
    lines = _lines((cli.folder / "run.log").read_text("utf-8"))
    assert _levels(lines) == levels
    assert not any(LINE.match(line) for line in done.err.splitlines())


def test_what_info_tells(cli, heard, jsonl):
    """Start, settings, parts, what was said, and the end; a second run is appended and goes on."""
    _, flags = heard
    command = (jsonl(25), "-o", "run", *flags, "--log-file", "run.log", "--shard-rows", 10)
    (cli.folder / "run.log").write_text("before\n", "utf-8")
    assert cli.run(*command, "--limit", 12, "--prompt", "a {{ secret }} prompt").code == 2
    assert cli.run(*command, "--limit", 12).code == 0
    assert cli.run(*command).code == 0
    text = (cli.folder / "run.log").read_text("utf-8")
    assert text.startswith("before\n")
    lines = _lines(text.removeprefix("before\n"))
    whole = "\n".join(lines)
    for word in (
        f"INFO batchrun {batchrun.__version__} on Python",
        'INFO settings: {"input.carry": "all"',
        "INFO run: begun; rows done before: 0 ok, 0 failed",
        "INFO run: goes on; rows done before: 12 ok, 0 failed",
        "INFO part 0 published: 10 rows read, generation 1",
        "INFO part 1 published: 2 rows read, generation 1",
        "INFO part 2 published: 5 rows read, generation 1",
        "INFO ended: status=complete stopped_by=None exit_code=0 ok=25 error=0 pending=0",
    ):
        assert word in whole, word
    (failed,) = [one for one in lines if " ERROR " in one]
    assert "request.prompt" in failed and "secret" in failed
    assert "a {{ secret }} prompt" not in whole
    settings = json.loads(
        next(li for li in lines if " settings: " in li).partition("settings: ")[2]
    )
    assert settings["output.shard_rows"] == 10 and "characters" in settings["request.prompt"]


def test_debug_has_a_line_for_each_failed_attempt(cli, flaky, jsonl, published):
    """The same that the ledger has of it, and no text of requests or replies, and no key."""
    endpoint, flags = flaky
    done = cli.run(
        jsonl(5), "-o", "run", *flags, "--log-file", "run.log", "--log-level", "debug",
        env={"OPENAI_API_KEY": KEY},
    )  # fmt: skip
    assert done.code == 1
    text = (cli.folder / "run.log").read_text("utf-8")
    debug = [line.partition(" DEBUG ")[2] for line in _lines(text) if " DEBUG " in line]
    failed = [
        row for row in published(cli.folder / "run", "attempts").to_pylist() if row["error_class"]
    ]
    assert len(failed) == 5
    for row in failed:
        (line,) = [one for one in debug if one.startswith(f"row {row['row']} attempt ")]
        assert line.startswith(f"row {row['row']} attempt {row['attempt']} at {row['endpoint']}: ")
        for word in (
            f"status={row['http_status']} ",
            f"class={row['error_class']} ",
            f"request_id={row['request_id']}",
        ):
            assert word in line
    assert "row 3 failed: class=invalid_request attempts=1" in debug
    assert KEY not in text and "question" not in text
    assert 'errors={"invalid_request": 1}' in text
    assert KEY in str(endpoint.requests)
    assert "\x1b" not in text


def test_a_key_is_cut_out(cli, scripted, jsonl):
    """Whatever a server repeats: the message of a refused key stands there without it."""
    endpoint = scripted(lambda *_: (401, {}, {"error": {"message": f"no such key: {KEY}"}}))
    done = cli.run(
        jsonl(2), "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--log-file", "run.log",
        "--log-level", "debug", "--header", f"X-Api-Key: {KEY}-too", env={"OPENAI_API_KEY": KEY},
    )  # fmt: skip
    assert done.code == 3
    text = (cli.folder / "run.log").read_text("utf-8")
    assert KEY not in text
    assert "INFO stopping, by auth: " in text and " ERROR " in text
    assert "ended: status=stopped stopped_by=auth exit_code=3" in text


def test_on_stderr_without_a_file(cli, flaky, jsonl):
    """Lines stand among the messages, which are not there twice; stdout stays the summary's."""
    _, flags = flaky
    done = cli.run(jsonl(5), "-o", "run", *flags, "--log-level", "debug", "--json")
    assert done.code == 1 and done.json["rows"]["ok"] == 4
    lines = [line for line in done.err.splitlines() if LINE.match(line)]
    assert _levels(lines) == {"DEBUG", "INFO"}
    assert sum(" DEBUG row " in line and " attempt " in line for line in lines) == 5
    assert done.err.count("4 of 5 rows ok") == 1


@pytest.mark.parametrize("level", ["warning", "error"])
def test_levels_of_what_is_shown_anyway(cli, heard, jsonl, level):
    """On stderr, warnings and errors are shown as they are: nothing is added."""
    _, flags = heard
    source = jsonl(3, custom_id="x")
    for name, more in (("a", ()), ("b", ("--log-level", level))):
        done = cli.run(source, "-o", name, *flags, *more)
        assert done.code == 0
        assert not any(LINE.match(line) for line in done.err.splitlines())
        assert done.err.count("occurs more than once") == 1


def test_quiet_keeps_the_file(cli, heard, jsonl):
    """Nothing on stderr, and everything in the file; warnings with their level."""
    _, flags = heard
    rows = [{"messages": [{"role": "user", "content": "a"}], "custom_id": "x"}] * 2
    done = cli.run(jsonl(rows), "-o", "run", *flags, "--quiet", "--log-file", "run.log")
    assert done.code == 0 and done.err == ""
    text = (cli.folder / "run.log").read_text("utf-8")
    assert " WARNING warning: custom_id 'x' occurs more than once" in text
    assert "INFO ended: status=complete" in text
    again = cli.run(
        jsonl(rows), "-o", "other", *flags, "--log-file", "w.log", "--log-level", "warning"
    )
    assert again.code == 0
    assert _levels(_lines((cli.folder / "w.log").read_text("utf-8"))) == {"WARNING"}


def test_only_its_owner_reads_it(cli, heard, jsonl):
    """A new file is private; the rights of one that is there are its owner's affair."""
    _, flags = heard
    (cli.folder / "old.log").write_text("", "utf-8")
    (cli.folder / "old.log").chmod(0o644)
    for name, mode in (("new.log", 0o600), ("old.log", 0o644)):
        assert cli.run(jsonl(1), "-o", name[:3], *flags, "--log-file", name).code == 0
        assert stat.S_IMODE((cli.folder / name).stat().st_mode) == mode


def test_a_full_disk_costs_lines_and_not_the_run(cli, flaky, jsonl):
    """What could not be written is counted and said once; the exit code is the run's."""
    _, flags = flaky
    done = cli.run(jsonl(5), "-o", "run", *flags, "--log-file", "/dev/full", "--log-level", "debug")
    assert done.code == 1
    said = [line for line in done.err.splitlines() if "/dev/full" in line]
    assert len(said) == 1 and re.search(r"warning: \d+ lines could not be written", said[0])
    assert "No space left" in said[0]
    cli.verified("run")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/run.log", "No such file"),
        (".", "is a folder"),
        ("-", "names a file"),
        ("run", "is inside run"),
        ("run/run.log", "is inside run"),
        ("run/results/run.log", "is inside run"),
        ("./run/../run/checkpoint/x", "is inside run"),
        ("aside/x", "is inside aside"),
        ("rows.jsonl", "is an input file"),
        ("fifo", "No such device"),
    ],
)
def test_a_file_that_cannot_be_one(cli, heard, jsonl, name, words):
    """Exit 2 before anything is sent or made."""
    import os

    endpoint, flags = heard
    source = jsonl(2)
    (cli.folder / "rows.jsonl").write_bytes(source.read_bytes())
    os.mkfifo(cli.folder / "fifo")
    done = cli.run("rows.jsonl", "-o", "run", *flags, "--checkpoint", "aside", "--log-file", name)
    assert done.code == 2 and words in done.err, done.err
    assert "--log-file" in done.err
    assert endpoint.requests == []
    assert not (cli.folder / "run").exists()
    assert (cli.folder / "rows.jsonl").read_bytes() == source.read_bytes()


def test_an_unknown_level_is_refused(cli, heard, jsonl):
    """Exit 2 names the levels."""
    endpoint, flags = heard
    done = cli.run(jsonl(2), "-o", "run", *flags, "--log-level", "verbose")
    assert done.code == 2 and "'debug', 'info', 'warning', 'error'" in done.err
    assert endpoint.requests == []


@pytest.mark.slow
def test_a_cool_down(cli, scripted, answer, jsonl):
    """A refusal that holds everybody, and its end."""

    def reply(_, __, nth):
        if nth == 3:
            return 429, {"Retry-After": "2"}, {"error": {"message": "slow down"}}
        return 200, {}, answer()

    endpoint = scripted(reply)
    done = cli.run(
        jsonl(8), "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--concurrency", 1,
        "--log-file", "run.log",
    )  # fmt: skip
    assert done.code == 0, done.err
    text = (cli.folder / "run.log").read_text("utf-8")
    assert "INFO default is throttled: 1 requests refused for now, 1 in all" in text, text


@pytest.mark.slow
def test_an_outage(cli, scripted, answer, jsonl):
    """An endpoint that goes down and comes back, as the user is told."""
    failed = []

    def reply(_, __, nth):
        if nth > 20:
            failed.append(time.monotonic())
            if failed[-1] < failed[0] + 4:
                return 503, {}, {"error": {"message": "down"}}
        return 200, {}, answer()

    endpoint = scripted(reply)
    done = cli.run(
        jsonl(90), "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--concurrency", 20,
        "--log-file", "run.log",
    )  # fmt: skip
    assert done.code == 0, done.err
    text = (cli.folder / "run.log").read_text("utf-8")
    assert re.search(r"INFO default does not answer .*sending stops", text), text
    assert "INFO default answers again, after" in text, text


def test_an_endpoint_that_is_left_out(cli, scripted, answer, jsonl):
    """Of two endpoints one refuses the key: the log tells that it is closed."""
    good = scripted(lambda *_: (200, {}, answer()))
    bad = scripted(lambda *_: (401, {}, {"error": {"message": "no"}}))
    tables = "".join(
        f"[[endpoint]]\nname = '{name}'\nbase_url = '{one.base_url}'\n"
        for name, one in (("good", good), ("bad", bad))
    )
    (cli.folder / "c.toml").write_text(tables, "utf-8")
    done = cli.run(jsonl(30), "-o", "run", *QUICK, "-c", "c.toml", "--log-file", "run.log")
    assert done.code == 0, done.err
    assert "INFO bad is left out from now on" in (cli.folder / "run.log").read_text("utf-8")


def test_nothing_is_in_the_way_where_nobody_logs():
    """Without debug the journal is the journal; with it, a journal that notes what passes."""
    journal, logger = FakeJournal(), logging.getLogger("batchrun")
    before = logger.level
    try:
        assert noted(journal) is journal
        logger.setLevel(logging.INFO)
        assert noted(journal) is journal
        logger.setLevel(logging.DEBUG)
        assert isinstance(noted(journal), NotingJournal)
    finally:
        logger.setLevel(before)


def test_the_logger_is_left_as_it_was(here, heard, jsonl):
    """After a command nothing of it stays in the process."""
    _, flags = heard
    logger = logging.getLogger("batchrun")
    before = (logger.level, logger.propagate, list(logger.handlers))
    assert here(jsonl(1), "-o", "run", *flags, "--log-file", "run.log").code == 0
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
