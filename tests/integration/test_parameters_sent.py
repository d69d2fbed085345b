"""Parameters on their way from a table, a program or a config file to the server."""

import json
import math
import os
import time

import click
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.cli.main import main
from batchrun.core.settings.table import SHORT
from batchrun.rundir import open_run

QUICK = ("--no-progress", "--concurrency", 1)
ASKED = [{"role": "user", "content": "hi"}]


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything, and its address as flags."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    return endpoint, (*QUICK, "--base-url", endpoint.base_url)


def _sent(endpoint):
    """What was sent, but for messages and model: as text, which tells 100 from 100.0."""
    return [
        json.dumps({k: v for k, v in sorted(body.items()) if k not in ("messages", "model")})
        for _, _, body in endpoint.requests
    ]


def _pandas(path):
    frame = pd.DataFrame(
        {"text": ["a", "b"], "max_tokens": [100, None], "n": [1, None], "seed": [None, 42]}
    )
    assert frame["max_tokens"].dtype == float
    frame.to_parquet(path, index=False)


def _polars(path):
    pl.DataFrame(
        {
            "text": ["a", "b"],
            "max_tokens": [100.0, math.nan],
            "n": [1.0, math.nan],
            "seed": [math.nan, 42.0],
        }
    ).write_parquet(path)


def _csv(path):
    path.write_text("text,max_tokens,n,seed\na,100.0,1.0,\nb,NaN,nan,42.0\n", "utf-8")


def _json_lines(path):
    rows = [{"text": "a", "max_tokens": 100.0, "n": 1.0}, {"text": "b", "seed": 42.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.parquet", _pandas),
        ("b.parquet", _polars),
        ("c.csv", _csv),
        ("d.jsonl", _json_lines),
    ],
)
def test_whole_numbers_of_a_table_are_sent_as_integers(cli, heard, name, write):
    """Columns that gaps turned into floats: 100.0 is sent as 100, and a gap is not sent."""
    endpoint, flags = heard
    write(cli.folder / name)
    done = cli.run(name, "-o", "run", *flags, "--prompt", "{{ text }}", "--send", "all")
    assert done.code == 0, done.err
    assert _sent(endpoint) == ['{"max_tokens": 100, "n": 1}', '{"seed": 42}']
    assert cli("verify", "run", "--against", name).code == 0


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_bodies_of_batch_lines_in_parquet(cli, heard, stream):
    """A nested body is a body: whole numbers in it are integers, gaps are not sent."""
    endpoint, flags = heard
    rows = [
        {"custom_id": str(n), "body": {"messages": ASKED, "max_tokens": limit}}
        for n, limit in enumerate((7.0, math.nan, None))
    ]
    pq.write_table(pa.Table.from_pylist(rows), cli.folder / "in.parquet")
    done = cli.run("in.parquet", "-o", "run", *flags, *stream)
    limits = [body.get("max_tokens", "-") for _, _, body in endpoint.requests]
    assert [repr(limit) for limit in limits[:1]] == ["7"], done.err
    assert set(limits[1:]) == {"-"}


def test_rows_of_a_program(heard, tmp_path):
    """A data frame with gaps, and dicts with floats and NumPy's numbers."""
    endpoint, _ = heard
    frame = pd.DataFrame({"text": ["a", "b"], "max_tokens": [100, None], "note": [1, None]})
    dicts = [{"text": "a", "max_tokens": np.float64(100)}, {"text": "b", "note": math.nan}]
    options = {
        "prompt": "{{ text }}",
        "model": "m",
        "base_url": endpoint.base_url,
        "params": {"max_completion_tokens": 9.0},
        "send": ["max_tokens"],
        "concurrency": 1,
    }
    for number, rows in enumerate((dicts, frame)):
        summary = batchrun.run(rows, output=tmp_path / str(number), **options)
        assert summary.status == "complete"
    assert _sent(endpoint) == ['{"max_tokens": 100}', '{"max_completion_tokens": 9}'] * 2


def test_a_row_and_the_run_by_different_names(cli, heard, jsonl, chat):
    """One name goes out, the row's: of chat bodies and Batch lines, over flag and file."""
    endpoint, flags = heard
    line = {"method": "POST", "url": "/v1/chat/completions"}
    rows = [
        chat(0, max_tokens=50),
        chat(1, extra_body={"max_tokens": 51}),
        line | {"custom_id": "a", "body": chat(2, max_tokens=52)},
        chat(3),
        chat(5, max_tokens=54, max_completion_tokens=55),
    ]
    config = cli.folder / "config.toml"
    config.write_text("[request]\nparams = { max_tokens = 500, seed = 1 }\n", "utf-8")
    done = cli.run(
        jsonl(rows), "-o", "run", *flags, "-c", config, "--param", "max_completion_tokens=600"
    )
    assert done.code == 0, done.err
    assert _sent(endpoint) == [
        '{"max_tokens": 50, "seed": 1}',
        '{"max_tokens": 51, "seed": 1}',
        '{"max_tokens": 52, "seed": 1}',
        '{"max_completion_tokens": 600, "seed": 1}',
        '{"max_completion_tokens": 55, "max_tokens": 54, "seed": 1}',
    ]


def test_a_sent_column_and_the_run_by_different_names(cli, heard, jsonl):
    """Of a data row the column that --send names goes out, and not the run's other name for it."""
    endpoint, flags = heard
    rows = jsonl([{"text": "b", "max_tokens": 53}, {"text": "c"}])
    prompted = ("--prompt", "{{ text }}", "--send", "max_tokens")
    done = cli.run(rows, "-o", "run", *flags, *prompted, "--param", "max_completion_tokens=600")
    assert done.code == 0, done.err
    assert _sent(endpoint) == ['{"max_tokens": 53}', '{"max_completion_tokens": 600}']


def test_a_template_by_another_name_is_not_sent(cli, heard, jsonl, chat):
    """A default by template gives way to the row's other name, as a plain one does."""
    endpoint, flags = heard
    rows = [chat(0, max_tokens=5, size=9), chat(1, size=9.0)]
    param = 'max_completion_tokens="{{ size }}"'
    assert cli.run(jsonl(rows), "-o", "run", *flags, "--param", param).code == 0
    assert _sent(endpoint) == ['{"max_tokens": 5}', '{"max_completion_tokens": 9}']


def test_the_budget_reads_the_limit_that_is_sent(cli, heard, jsonl, chat):
    """A small limit in the row is what is set aside, though the run's default is large."""
    _, flags = heard
    done = cli.run(
        jsonl([chat(0, max_tokens=5), chat(1, max_tokens=6.0)]), "-o", "run", *flags,
        "--param", "max_completion_tokens=100000", "--max-total-tokens", 5000,
    )  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.parametrize("again", [(), ("--keep-done",), ("--retry-failed",), ("--repair",)])
def test_a_directory_of_an_earlier_version_goes_on(
    here, cli, heard, jsonl, chat, monkeypatch, again
):
    """Its done rows keep their hashes: none is sent again, verify accepts them, and what is
    pending is worded as it was begun.
    """
    endpoint, flags = heard
    source = jsonl([chat(n, max_tokens=10.0 + n) for n in range(6)])
    command = (source, "-o", "run", *flags, "--param", "max_completion_tokens=99")
    with monkeypatch.context() as earlier:
        earlier.setattr(open_run, "WORDING", None)
        assert here(*command, "--limit", 4).code == 0
    assert _sent(endpoint)[0] == '{"max_completion_tokens": 99, "max_tokens": 10.0}'
    os.utime(source, (time.time() + 5, time.time() + 5))
    done = here(*command, *again)
    assert done.code == 0, done.err
    assert len(endpoint.requests) == 6
    assert _sent(endpoint)[5] == '{"max_completion_tokens": 99, "max_tokens": 15.0}'
    report = cli("verify", "run", "--against", source, "--json")
    assert report.code == 0 and report.json["compared"] == 6, report.out
    assert here(*command, "--resend-changed").code == 0
    assert len(endpoint.requests) == 6


@pytest.mark.parametrize("begun", [None, 2])
def test_a_lost_state_file_is_made_again_in_the_wording_of_its_parts(
    here, heard, jsonl, chat, monkeypatch, cli, begun
):
    """Repair finds out from the done rows how requests were worded."""
    endpoint, flags = heard
    source = jsonl([chat(n, max_tokens=10.0 + n) for n in range(4)])
    command = (source, "-o", "run", *flags)
    with monkeypatch.context() as earlier:
        earlier.setattr(open_run, "WORDING", begun)
        assert here(*command, "--limit", 3).code == 0
    for path in (cli.folder / "run" / "checkpoint").glob("journal.db*"):
        path.unlink()
    done = here(*command, "--repair")
    assert done.code == 0, done.err
    whole = '{"max_tokens": 13.0}' if begun is None else '{"max_tokens": 13}'
    assert _sent(endpoint)[3:] == [whole]
    cli.verified("run")


def test_every_command_with_parameters_has_their_short_flags():
    """Whoever takes ``--param`` takes ``--max-tokens`` and the others like it."""
    context = click.Context(main)
    having = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        flags = {flag for each in command.params for flag in each.opts}
        if "--param" in flags:
            having.append(name)
            assert {setting.flag for setting in SHORT} <= flags, name
    assert {"run", "validate", "estimate", "doctor", "judge"} <= set(having)


def test_an_estimate_and_a_check_go_by_the_limit_of_an_answer(cli, jsonl, scripted, answer):
    """``--max-tokens`` bounds what an estimate says at most, and is in the doctor's request."""
    estimate = cli("estimate", jsonl(10), "--model", "gpt-4.1", "--max-tokens", 7, "--json").json
    assert estimate["completion_tokens"]["high"] <= 70
    endpoint = scripted(lambda *_: (200, {}, answer("x")))
    cli("doctor", "--base-url", endpoint.base_url, "--model", "m", "--temperature", 0.5)
    asked = [body for _, _, body in endpoint.requests if body]
    assert asked and all(body["temperature"] == 0.5 for body in asked)
