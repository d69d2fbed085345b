"""Settings or input that changed between two runs on one directory, limits, and who may run."""

import json
import os
import shutil
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency

QUICK = ("--no-progress",)


def _tree(folder):
    """Every file of a directory with its content, but for what the lock says."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def _later(path):
    """Give a file another modification time."""
    os.utime(path, (time.time() + 5, time.time() + 5))


@pytest.fixture
def finished(cli, simulator, jsonl):
    """A complete run of 25 rows in parts of 10: input, and the arguments that name it all."""
    endpoint = simulator()
    source = jsonl(25)
    command = (source, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert cli.run(*command, "--shard-rows", 10).code == 0
    endpoint.reset_stats()
    return source, command, endpoint


@pytest.mark.parametrize(
    ("flags", "words", "keepable"),
    [
        (("--param", "temperature=1"), ["request.params", "temperature"], True),
        (("--shard-rows", 5), ["output.shard_rows: was 10, is 5"], False),
        (("--carry", "none"), ['input.carry: was "all", is "none"'], False),
    ],
)
def test_changed_settings_are_named(cli, finished, flags, words, keepable):
    """Exit 2 says what changed and how many rows are done; nothing is sent and nothing touched."""
    _, command, endpoint = finished
    before = _tree(cli.folder / "run")
    size = () if "--shard-rows" in flags else ("--shard-rows", 10)
    done = cli.run(*command, *size, *flags)
    assert done.code == 2
    for word in [*words, "25 rows are done", "--restart"]:
        assert word in done.err
    assert ("--keep-done" in done.err) is keepable
    assert endpoint.stats()["requests_total"] == 0
    assert _tree(cli.folder / "run") == before
    assert cli.run(*command, *size, *flags, "--keep-done").code == (0 if keepable else 2)
    assert endpoint.stats()["requests_total"] == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--concurrency", 3),
        ("--max-attempts", 2),
        ("--timeout", 5),
        ("--rpm", 99999),
        ("--raw", "none"),
    ],
)
def test_what_does_not_shape_requests_may_change(cli, finished, flags):
    """Limits, timeouts and retries are nobody's business but the session's."""
    _, command, _ = finished
    assert cli.run(*command, "--shard-rows", 10, *flags).code == 0


def test_keep_done_keeps_the_done_rows_only(cli, interrupted, published):
    """Done rows stay as they are, the rest is sent with the new settings."""
    folder, source, endpoint = interrupted(rows=40, done=8)
    kept = published(folder)
    endpoint.reset_stats()
    command = (
        *(source, "-o", folder, *QUICK, "--base-url", endpoint.base_url),
        *("--shard-rows", 10, "--param", "seed=1"),
    )
    assert cli.run(*command).code == 2
    assert endpoint.stats()["requests_total"] == 0
    assert cli.run(*command, "--keep-done").code == 0
    assert endpoint.stats()["requests_total"] == 40 - kept.num_rows
    table = published(folder)
    assert table.slice(0, kept.num_rows).equals(kept)
    assert cli.run(*command).code == 0
    cli.verified(folder)


def test_restart_moves_the_old_directory_aside(cli, finished, published):
    """Answers are never deleted: the old directory is whole under another name."""
    _, command, endpoint = finished
    before = _tree(cli.folder / "run")
    done = cli.run(*command, "--shard-rows", 5, "--restart")
    assert done.code == 0, done.err
    [aside] = cli.folder.glob("run.old-*")
    assert aside.name in done.err
    assert _tree(aside) == before
    cli.verified(aside)
    assert endpoint.stats()["requests_total"] == 25
    assert len(list((cli.folder / "run" / "results").iterdir())) == 5
    assert cli.run(*command, "--shard-rows", 5, "--restart").code == 0
    assert len(list(cli.folder.glob("run.old-*"))) == 2
    assert published(cli.folder / "run").num_rows == 25
    cli.verified("run")


def test_restart_of_nothing_is_a_start(cli, simulator, jsonl):
    """--restart on a new directory just runs."""
    done = cli.run(jsonl(2), "-o", "run", "--restart", "--base-url", simulator().base_url)
    assert done.code == 0
    assert list(cli.folder.glob("run.old-*")) == []


def test_restart_with_the_checkpoint_elsewhere(cli, simulator, jsonl):
    """A checkpoint that lives elsewhere moves along with its run."""
    endpoint = simulator()
    command = (
        *(jsonl(3), "-o", "run", "--checkpoint", "cp", *QUICK),
        *("--base-url", endpoint.base_url),
    )
    assert cli.run(*command).code == 0
    assert cli.run(*command, "--restart").code == 0
    [aside] = cli.folder.glob("run.old-*")
    cli.verified(aside)
    assert cli("verify", "run", "--checkpoint", "cp").code == 0
    assert endpoint.stats()["requests_total"] == 6


def _edit(source, old, new):
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new, 1))
    _later(source)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('question 12"', 'question 99"'),
        ('question 3"', 'question 3!"'),
        ('{"messages": [{"role": "user", "content": "question 0"}]}\n', ""),
        ('"question 24"}]}\n', '"question 24"}], "seed": 1}\n'),
    ],
    ids=["same size", "longer", "a row less", "the last row"],
)
def test_an_edited_input_is_refused(cli, finished, old, new):
    """An edit of a done row, even one that keeps the file's size, is exit 2 and touches nothing."""
    source, command, endpoint = finished
    _edit(source, old, new)
    before = _tree(cli.folder / "run")
    done = cli.run(*command, "--shard-rows", 10)
    assert done.code == 2, done.err
    assert (
        "the first difference is within rows" in done.err
        and "done rows" in done.err
        and "--keep-done" in done.err
    )
    assert endpoint.stats()["requests_total"] == 0
    assert _tree(cli.folder / "run") == before


def test_an_edited_input_goes_on_with_keep_done(cli, finished, published):
    """--keep-done keeps the answers to the old rows."""
    source, command, endpoint = finished
    kept = published(cli.folder / "run")
    _edit(source, 'question 12"', 'question 99"')
    assert cli.run(*command, "--shard-rows", 10, "--keep-done").code == 0
    assert endpoint.stats()["requests_total"] == 0
    assert published(cli.folder / "run").equals(kept)
    assert cli.run(*command, "--shard-rows", 10).code == 0


def test_an_edit_of_rows_not_read_yet_is_welcome(cli, simulator, jsonl):
    """Only what was done is compared."""
    endpoint = simulator()
    source = jsonl(25)
    command = (source, "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command, "--limit", 12).code == 0
    _edit(source, 'question 20"', 'question 99"')
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 25
    cli.verified("run")


@pytest.mark.parametrize("ending", ["\n", ""], ids=["final newline", "no final newline"])
def test_appended_rows_are_sent(cli, simulator, jsonl, chat, published, summary, ending):
    """Rows added at the end are sent, those before are not, and the tail part is whole."""
    endpoint = simulator()
    source = jsonl(25)
    source.write_text(source.read_text().rstrip("\n") + ending)
    command = (source, "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    with source.open("a") as file:
        file.write("" if ending else "\n")
        file.writelines(json.dumps(chat(n)) + "\n" for n in range(25, 42))
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 42
    assert endpoint.stats()["asked_again"] == 0
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(42))
    assert summary(cli.folder / "run")["rows"]["input"] == 42
    cli.verified("run")


def test_an_added_file_is_appended_rows(cli, simulator, jsonl):
    """A new file behind the old ones is more input; one before them shifts rows: exit 2."""
    endpoint = simulator()
    one, two = jsonl(12, "one.jsonl"), jsonl(5, "two.jsonl", seed=1)
    flags = ("-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(one, *flags).code == 0
    assert cli.run(two, one, *flags).code == 2
    assert cli.run(one, two, *flags).code == 0
    assert endpoint.stats()["requests_total"] == 17
    cli.verified("run")


@pytest.mark.parametrize("rows", [5, 13])
@pytest.mark.parametrize("size", [10, 30_000], ids=["small rows", "large rows"])
def test_rows_appended_to_parquet_are_sent(cli, simulator, tmp_path, chat, published, rows, size):
    """A Parquet file written again with more rows goes on, whatever its columns hold."""
    endpoint = simulator()
    source = tmp_path / "rows.parquet"

    def write(count):
        table = pa.Table.from_pylist([chat(n) for n in range(count)])
        for name, values in {
            "flag": [None if n % 3 == 0 else n % 2 == 0 for n in range(count)],
            "text": [None if n % 4 == 1 else f"{n:05}" * (size // 5) for n in range(count)],
            "number": [None if n % 5 == 2 else n for n in range(count)],
        }.items():
            table = table.append_column(name, pa.array(values))
        kinds = pa.array([f"k{n % 3}" for n in range(count)]).dictionary_encode()
        pq.write_table(table.append_column("kind", kinds), source)
        _later(source)

    write(rows)
    command = (source, "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    write(rows + 9)
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == rows + 9
    table = published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(rows + 9))
    assert table["number"].to_pylist() == [None if n % 5 == 2 else n for n in range(rows + 9)]
    cli.verified("run")


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_a_touched_file_is_the_same_input(cli, simulator, jsonl, samples, tmp_path, name):
    """Another modification time alone costs a comparison and changes nothing."""
    endpoint = simulator()
    source = tmp_path / f"copy.{name}"
    if name == "jsonl":
        source = jsonl(25)
    else:
        shutil.copy(samples / "nightly_eval.parquet", source)
    command = (source, "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    asked = endpoint.stats()["requests_total"]
    _later(source)
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert "comparing" in done.err
    assert endpoint.stats()["requests_total"] == asked
    done = cli.run(*command)
    assert "comparing" not in done.err
    cli.verified("run")


def test_a_limit_then_the_rest(cli, simulator, jsonl, published, summary):
    """--limit counts as the whole input of its run; a later run without it sends the rest once."""
    endpoint = simulator()
    command = (jsonl(25), "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    for limit, rows in ((3, 3), (13, 13), (20, 20), (99, 25)):
        done = cli.run(*command, "--limit", limit)
        assert done.code == 0, done.err
        found = summary(cli.folder / "run")
        assert found["rows"] == {"input": rows, "ok": rows, "error": 0, "pending": 0}
        assert endpoint.stats()["requests_total"] == rows
        assert published(cli.folder / "run")["row"].to_pylist() == list(range(rows))
        cli.verified("run")
    assert cli.run(*command).code == 0
    assert endpoint.stats()["requests_total"] == 25


@pytest.mark.parametrize("whole", [False, True])
def test_a_limit_below_what_is_done(cli, simulator, jsonl, summary, whole):
    """A smaller limit than before sends nothing, loses nothing and counts nothing below zero."""
    endpoint = simulator()
    command = (jsonl(25), "-o", "run", *QUICK, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command, *(() if whole else ("--limit", 12))).code == 0
    done = cli.run(*command, "--limit", 5)
    assert done.code == 0, done.err
    rows = summary(cli.folder / "run")["rows"]
    assert rows["pending"] == 0
    assert rows["ok"] == rows["input"] == (25 if whole else 12)
    cli.verified("run")


@pytest.mark.slow
def test_a_second_process_is_refused(cli, simulator, jsonl, until):
    """Exit 2 names who holds the directory; the first run is not disturbed."""
    endpoint = simulator(latency=FixedLatency(4))
    command = (
        "run",
        jsonl(2),
        "-o",
        "run",
        "--model",
        "m",
        *QUICK,
        "--base-url",
        endpoint.base_url,
    )
    live = cli.start(*command)
    until(lambda: endpoint.stats()["in_flight"] == 2)
    for more in ((), ("--restart",)):
        second = cli(*command, *more)
        assert second.code == 2
        assert f"process {live.process.pid}" in second.err and "in use" in second.err
    assert json.loads(cli("status", "run", "--json").out)["state"] == "running"
    assert cli("verify", "run").code == 1
    assert live.wait().code == 0
    assert endpoint.stats()["requests_total"] == 2
    cli.verified("run")


def test_one_directory_has_one_run_wherever_its_checkpoint_is(cli, simulator, jsonl, until):
    """Two checkpoints do not make two runs of one run directory."""
    endpoint = simulator(latency=FixedLatency(0.5))
    command = (
        "run",
        jsonl(4),
        "-o",
        "run",
        "--model",
        "m",
        *QUICK,
        "--base-url",
        endpoint.base_url,
    )
    live = cli.start(*command, "--concurrency", 2, "--checkpoint", "one")
    until(lambda: endpoint.stats()["in_flight"] == 2)
    second = cli(*command, "--checkpoint", "two")
    live.signal(signal.SIGTERM)
    live.wait()
    assert second.code == 2, second.err


def test_the_lock_of_a_dead_process_is_free(cli, simulator, jsonl, until):
    """A killed run leaves its lock file behind, and the next run takes it."""
    endpoint = simulator(latency=FixedLatency(0.5))
    command = (
        "run",
        jsonl(4),
        "-o",
        "run",
        "--model",
        "m",
        *QUICK,
        "--base-url",
        endpoint.base_url,
    )
    live = cli.start(*command, "--concurrency", 2)
    until(lambda: endpoint.stats()["in_flight"] == 2)
    live.kill()
    assert (cli.folder / "run" / "checkpoint" / "lock").stat().st_size > 0
    done = cli(*command)
    assert done.code == 0, done.err
    cli.verified("run")


def test_another_format_is_another_input(cli, finished, samples):
    """A run begun with JSONL does not go on with Parquet."""
    _, command, _ = finished
    done = cli.run(samples / "nightly_eval.parquet", *command[1:], "--shard-rows", 10)
    assert done.code == 2
    assert "was jsonl, is parquet" in done.err


def test_a_folder_of_other_things_is_no_run_directory(cli, simulator, jsonl):
    """A run never mixes its files with a user's."""
    (cli.folder / "run").mkdir()
    (cli.folder / "run" / "thesis.tex").write_text("x")
    (cli.folder / "file").write_text("x")
    endpoint = simulator()
    for folder in ("run", "file"):
        done = cli.run(jsonl(1), "-o", folder, "--base-url", endpoint.base_url)
        assert done.code == 2, done.err
    assert "thesis.tex" in cli.run(jsonl(1), "-o", "run", "--base-url", endpoint.base_url).err
    assert [p.name for p in (cli.folder / "run").iterdir()] == ["thesis.tex"]
