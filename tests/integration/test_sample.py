"""``--sample N --sample-seed S``: a run over some rows of its input, whatever the input is."""

import csv
import gzip
import json
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow

ROWS, SAMPLE = 400, 30
FLAGS = ("--sample", SAMPLE, "--sample-seed", 5, "--prompt", "{{ q }}", "--shard-rows", 8)
QUICK = ("--no-progress",)


def _rows(count=ROWS):
    return [{"custom_id": f"id-{n}", "q": f"question\n{n}", "place": n} for n in range(count)]


def _lines(rows):
    return "".join(json.dumps(row) + "\n" + "\n" * (row["place"] % 3 == 0) for row in rows)


def _json_lines(folder):
    (folder / "rows.jsonl").write_text(_lines(_rows()), "utf-8")
    return ["rows.jsonl"]


def _packed(folder):
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(_lines(_rows()).encode()))
    return ["rows.jsonl.gz"]


def _several(folder):
    rows = _rows()
    for name, part in (("a", rows[:5]), ("b", []), ("c", rows[5:250]), ("d", rows[250:])):
        (folder / f"{name}.jsonl").write_text(_lines(part), "utf-8")
    return ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]


def _csv(folder):
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["custom_id", "q", "place"])
        writer.writeheader()
        writer.writerows(_rows())
    return ["rows.csv"]


def _parquet(folder):
    table = pa.Table.from_pylist(_rows())
    (folder / "parts").mkdir()
    pq.write_table(table.slice(0, 150), folder / "parts" / "a.parquet", row_group_size=40)
    pq.write_table(table.slice(150), folder / "parts" / "b.parquet", row_group_size=7)
    return ["parts"]


INPUTS = [_json_lines, _packed, _several, _csv, _parquet]


def _asked(endpoint):
    """The questions that were sent, by the number in them."""
    return sorted(
        int(body["messages"][0]["content"].split("\n")[1]) for _, _, body in endpoint.requests
    )


def _places(cli, published, name="run"):
    table = published(cli.folder / name)
    assert table["row"].to_pylist() == list(range(table.num_rows))
    return [int(place) for place in table["place"].to_pylist()]


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything, and its address as flags."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    return endpoint, (*QUICK, "--base-url", endpoint.base_url)


@pytest.fixture(scope="module")
def chosen():
    """The rows that seed 5 chooses."""
    from batchrun.adapters.sources.sampling import Sample

    sample = Sample.drawn(ROWS, SAMPLE, 5)
    return [n - 1 for n in sample.records(iter(range(1, ROWS + 1)), 0)]


@pytest.mark.parametrize("write", rest_slow(INPUTS, 2))
def test_the_sample_is_the_input(cli, heard, published, summary, chosen, write):
    """N rows in input order, numbered from 0, the same ones in every format; a limit stops within
    them, and a later run goes on with the rest. verify proves it against the whole input.
    """
    endpoint, flags = heard
    names = write(cli.folder)
    command = (*names, "-o", "run", *flags, *FLAGS)
    first = cli.run(*command, "--limit", 11)
    assert first.code == 0, first.err
    assert summary(cli.folder / "run")["rows"]["input"] == 11
    assert _places(cli, published) == chosen[:11]
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert _places(cli, published) == chosen == _asked(endpoint)
    assert summary(cli.folder / "run")["rows"] == {
        "input": SAMPLE, "ok": SAMPLE, "error": 0, "pending": 0
    }  # fmt: skip
    assert summary(cli.folder / "run")["settings"]["input.sample"] == SAMPLE
    assert cli.run(*command).code == 0
    assert len(endpoint.requests) == SAMPLE
    against = [word for name in names for word in ("--against", name)]
    report = cli("verify", "run", *against, "--json")
    assert report.code == 0 and report.json["compared"] == SAMPLE, report.out + report.err


def test_a_sample_larger_than_the_input_is_all_of_it(cli, heard, published, summary):
    """Then every row is in it, as without a sample."""
    _, flags = heard
    names = _json_lines(cli.folder)
    assert cli.run(*names, "-o", "run", *flags, *FLAGS, "--sample", ROWS + 1).code == 0
    assert _places(cli, published) == list(range(ROWS))
    assert summary(cli.folder / "run")["rows"]["input"] == ROWS


def test_a_pipe_is_kept_and_compared(cli, heard, published, chosen):
    """What is piped in has the same sample; piped in again it goes on, and other rows are told."""
    endpoint, flags = heard
    _json_lines(cli.folder)
    command = ("-", "-o", "run", *flags, *FLAGS)

    def piped(text, *more):
        return cli.run(*command, *more, stdin=text.encode())

    text = (cli.folder / "rows.jsonl").read_text("utf-8")
    assert piped(text, "--limit", "9").code == 0
    other = piped(text.replace(f'question\\n{chosen[2]}"', 'another"'))
    assert other.code == 2 and "not what" in other.err
    done = piped(text)
    assert done.code == 0, done.err
    assert _places(cli, published) == chosen == _asked(endpoint)
    (cli.folder / "rows.jsonl").write_text(text, "utf-8")
    assert cli("verify", "run", "--against", "rows.jsonl").code == 0


@pytest.mark.parametrize("write", [_packed, _csv, _parquet])
def test_a_kill_in_the_middle(cli, simulator, published, chosen, write):
    """What was answered before a kill is kept, and the same command sends the rest."""
    endpoint = simulator(latency=FixedLatency(0.05))
    command = (
        *write(cli.folder), "-o", "run", *QUICK, *FLAGS, "--base-url", endpoint.base_url,
        "--concurrency", 2,
    )  # fmt: skip
    live = cli.start("run", "--model", "m", *command)
    deadline_s = time.monotonic() + 30
    while endpoint.stats()["requests_total"] < 14 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    live.process.send_signal(signal.SIGKILL)
    live.process.wait()
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert _places(cli, published) == chosen
    cli.verified("run")


@pytest.mark.parametrize(
    ("flags", "words"),
    rest_slow(
        [
            (("--sample", SAMPLE + 1), ["input.sample: was 30, is 31"]),
            (("--sample-seed", 6), ["input.sample_seed: was 5, is 6"]),
            (None, ["input.sample: was 30, is null"]),
        ],
        several=True,
    ),
)
def test_another_sample_is_another_run(cli, heard, flags, words):
    """Exit 2, naming what changed; --keep-done is no way on, --restart is."""
    endpoint, base = heard
    command = (*_json_lines(cli.folder), "-o", "run", *base)
    assert cli.run(*command, *FLAGS).code == 0
    changed = (*FLAGS, *flags) if flags else FLAGS[4:]
    for more in ((), ("--keep-done",)):
        done = cli.run(*command, *changed, *more)
        assert done.code == 2
        for word in [*words, "--restart"]:
            assert word in done.err
    assert len(endpoint.requests) == SAMPLE
    assert cli.run(*command, *changed, "--restart").code == 0


def test_a_run_over_everything_is_no_sample(cli, heard):
    """A directory begun without a sample does not become one."""
    _, base = heard
    command = (*_json_lines(cli.folder), "-o", "run", *base, *FLAGS[4:])
    assert cli.run(*command, "--limit", 3).code == 0
    done = cli.run(*command, *FLAGS[:4])
    assert done.code == 2 and "input.sample: was null, is 30" in done.err


def _touch(path):
    os.utime(path, (time.time() + 5, time.time() + 5))


def test_an_edit_of_a_sampled_row_is_noticed(cli, heard, chosen):
    """Other rows may change, and rows may be appended: the sample stays what it was. An edit of one
    of its rows is exit 2, and --resend-changed sends that one.
    """
    endpoint, base = heard
    path = cli.folder / "rows.jsonl"
    command = (*_json_lines(cli.folder), "-o", "run", *base, *FLAGS)
    assert cli.run(*command, "--limit", 20).code == 0
    other = next(n for n in range(ROWS) if n not in chosen)
    text = path.read_text("utf-8").replace(f'"question\\n{other}"', '"something else"')
    path.write_text(text + _lines(_rows(500)[400:]), "utf-8")
    _touch(path)
    assert cli.run(*command).code == 0
    assert _asked(endpoint) == chosen
    path.write_text(text.replace(f'"question\\n{chosen[3]}"', '"changed\\n-1"'), "utf-8")
    _touch(path)
    done = cli.run(*command)
    assert done.code == 2 and "--resend-changed sends 1 done row again" in done.err
    assert cli.run(*command, "--resend-changed").code == 0
    assert _asked(endpoint) == [-1, *chosen]


def test_an_input_that_lost_its_end(cli, heard, summary, chosen):
    """Rows of the sample that were not sent yet and are gone do not keep the run from ending."""
    _, base = heard
    path = cli.folder / "rows.jsonl"
    command = (*_json_lines(cli.folder), "-o", "run", *base, *FLAGS)
    assert cli.run(*command, "--limit", 10).code == 0
    path.write_text(_lines(_rows(chosen[20])), "utf-8")
    _touch(path)
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"]["input"] == 20
    cli.verified("run")


def test_a_lost_state_file(cli, heard, published, chosen):
    """--repair chooses the same rows again."""
    endpoint, base = heard
    command = (*_json_lines(cli.folder), "-o", "run", *base, *FLAGS)
    assert cli.run(*command, "--limit", 20).code == 0
    for path in (cli.folder / "run" / "checkpoint").glob("journal.db*"):
        path.unlink()
    done = cli.run(*command, "--repair")
    assert done.code == 0, done.err
    assert _places(cli, published) == chosen == _asked(endpoint)
    cli.verified("run")


def test_failed_rows_of_a_sample_are_sent_again(cli, scripted, answer, chosen):
    """A retry finds them at their places."""
    bad = str(chosen[4])

    def reply(body, _, nth):
        fails = body["messages"][0]["content"].endswith("\n" + bad) and nth <= SAMPLE
        return (400, {}, {"error": {"message": "no"}}) if fails else (200, {}, answer())

    endpoint = scripted(reply)
    command = (
        *_csv(cli.folder), "-o", "run", *QUICK, *FLAGS, "--base-url", endpoint.base_url,
    )  # fmt: skip
    assert cli.run(*command).code == 1
    assert cli.run(*command, "--retry-failed").code == 0
    assert len(endpoint.requests) == SAMPLE + 1
    cli.verified("run")


@pytest.mark.parametrize("kind", ["list", "generator", "table", "stream"])
def test_rows_of_a_program(heard, tmp_path, kind, chosen):
    """The same rows as of a file, of everything that a program gives; and it goes on."""
    endpoint, _ = heard
    table = pa.Table.from_pylist(_rows())

    def given():
        return {
            "list": _rows(),
            "generator": (row for row in _rows()),
            "table": table,
            "stream": pa.RecordBatchReader.from_batches(table.schema, table.to_batches(50)),
        }[kind]

    options = {
        "output": tmp_path / "run",
        "sample": SAMPLE,
        "sample_seed": 5,
        "prompt": "{{ q }}",
        "model": "m",
        "base_url": endpoint.base_url,
        "shard_rows": 8,
    }
    assert batchrun.run(given(), limit=9, **options).status == "complete"
    summary = batchrun.run(given(), **options)
    assert (summary.rows, summary.ok) == (SAMPLE, SAMPLE)
    assert _asked(endpoint) == chosen


def test_bad_rows_say_where_they_stand_in_the_whole_input(cli, heard, published, jsonl, chat):
    """A message names the line of the file, not the row of the sample."""
    _, base = heard
    rows = [chat(0), *({"nothing": n} for n in range(50))]
    assert cli.run(jsonl(rows), "-o", "run", *base, "--sample", 5).code in (1, 3)
    table = published(cli.folder / "run")
    lines = [
        int(text.split(" line ")[1].split(":")[0])
        for text in table["error_message"].to_pylist()
        if text
    ]
    assert lines == sorted(set(lines)) and max(lines) > 6


def test_validate_and_estimate_look_at_the_sample(cli):
    """Both report on its rows alone."""
    names = _json_lines(cli.folder)
    arguments = (*names, "--model", "m", *FLAGS[:6], "--json")
    assert cli("validate", *arguments).json["rows"] == SAMPLE
    assert cli("estimate", *arguments).json["rows"] == SAMPLE


def test_the_config_file_says_it_too(cli, heard, published, chosen):
    """[input] sample and sample_seed."""
    _, base = heard
    names = _csv(cli.folder)
    text = f"[input]\nsample = {SAMPLE}\nsample_seed = 5\n[request]\nprompt = '{{{{ q }}}}'\n"
    (cli.folder / "c.toml").write_text(text, "utf-8")
    done = cli.run(*names, "-o", "run", *base, "-c", "c.toml")
    assert done.code == 0, done.err
    assert _places(cli, published) == chosen


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sample", 0), "at least 1"),
        (("--sample", -3), "at least 1"),
        (("--sample", 5, "--sample-seed", -1), "at least 0"),
        (("--sample-seed", 5), "--sample N"),
        (("--sample", "many"), "not a valid integer"),
    ],
)
def test_what_is_no_sample_is_refused(cli, heard, flags, words):
    """Exit 2 before anything is sent."""
    endpoint, base = heard
    done = cli.run(*_json_lines(cli.folder), "-o", "run", *base, "--prompt", "{{ q }}", *flags)
    assert done.code == 2 and words in done.err
    assert endpoint.requests == []
