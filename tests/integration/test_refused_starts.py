"""Starts that are refused once the run directory is there: the corrected command simply starts."""

import json
import socket
from pathlib import Path

import pytest

QUICK = ("--no-progress",)
UNBOUNDED = ("--model", "gpt-4.1", "--max-cost", 1, *QUICK)
"""What is refused when the input is looked over: nothing limits the answers."""


def settled(cli, *arguments):
    """The command, which must come to its end and leave a sound directory."""
    done = cli("run", *arguments)
    assert done.code == 0, done.err
    cli.verified("run")
    return done


@pytest.fixture
def refused(cli, jsonl, simulator):
    """Rows, an endpoint, and a run directory of which a start was refused."""
    rows, endpoint = jsonl(12), simulator()
    place = ("-o", "run", "--base-url", endpoint.base_url)
    done = cli("run", rows, *place, *UNBOUNDED)
    assert done.code == 2 and "has no bound" in done.err, done.err
    assert (cli.folder / "run/checkpoint/journal.db").exists()
    return rows, place, endpoint


@pytest.mark.parametrize(
    "corrected",
    [
        ("--max-tokens", 50, "--max-cost", 1),
        ("--model", "gpt-4.1-mini", "--temperature", 0),
        ("--shard-rows", 5),
        ("--carry", "none"),
        ("--repeat", 2),
        ("--sample", 4),
        ("--keep-done", "--seed", 1),
        ("--resend-changed", "--seed", 1),
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_the_corrected_command_starts(cli, refused, corrected):
    """Whatever it sets otherwise, columns and shards included: no row stands in the way."""
    rows, place, _ = refused
    settled(cli, rows, *place, "--model", "gpt-4.1", *corrected, *QUICK)


def test_another_input_starts(cli, refused, published):
    """Other rows are no change of an input that nothing was read of for good."""
    _, place, _ = refused
    other = cli.folder / "other.csv"
    other.write_text("question\n" + "".join(f"what is {n}?\n" for n in range(7)), "utf-8")
    done = settled(cli, other, *place, "--model", "m", "--prompt", "{{ question }}", *QUICK)
    assert "nothing was sent" in done.err
    assert published(cli.folder / "run").column("question").to_pylist()[6] == "what is 6?"


def test_a_sample_of_a_pipe_is_drawn_anew(cli, simulator, jsonl, published):
    """The pipe is read once, and the rows are those of the new size; without a sample, rows of a
    pipe that was read for one are not to be had, and the directory is refused.
    """
    data = Path(jsonl(30)).read_bytes()
    place = ("-", "-o", "run", "--base-url", simulator().base_url)
    assert cli("run", *place, *UNBOUNDED, "--sample", 5, stdin=data).code == 2
    whole = cli("run", *place, "--model", "m", *QUICK, stdin=data)
    assert whole.code == 2 and "input.sample: was 5" in whole.err
    done = cli("run", *place, "--model", "m", "--sample", 9, *QUICK, stdin=data)
    assert done.code == 0, done.err
    assert published(cli.folder / "run").num_rows == 9


@pytest.mark.usefixtures("refused")
def test_status_says_that_nothing_was_sent(cli):
    """It does not call the run killed, and names what comes next, for programs too."""
    told = cli("status", "run")
    assert told.code == 0
    assert "nothing was sent yet" in told.out and "killed" not in told.out
    assert "next: " in told.out and "-o run" in told.out
    assert cli("status", "run", "--json").json["state"] == "unsent"
    found = cli("runs", ".", "--json").json
    assert [one["status"] for one in found["runs"]] == ["unsent"]


def test_labels_and_a_source_of_the_refused_start_are_forgotten(cli, refused, summary):
    """Only what the new command says is recorded of it."""
    rows, place, _ = refused
    assert cli("run", rows, *place, *UNBOUNDED, "--label", "try=first").code == 2
    settled(cli, rows, *place, "--model", "m", "--label", "team=a", *QUICK)
    assert summary(cli.folder / "run")["labels"] == {"team": "a"}


def test_a_server_that_was_not_there_costs_no_restart(cli, jsonl, simulator, published):
    """With attempts in the ledger and no row done, a change of settings is taken, and the attempts
    stay in the ledger.
    """
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    rows = jsonl(5)
    done = cli(
        *("run", rows, "-o", "run", "--base-url", f"http://127.0.0.1:{port}/v1", "--model", "m"),
        *("--deadline", 1, *QUICK),
    )
    assert done.code == 3, done.err
    before = published(cli.folder / "run", "attempts").num_rows
    assert before > 0
    done = settled(
        cli, rows, "-o", "run", "--base-url", simulator().base_url, "--model", "n", *QUICK
    )
    assert "no row of run is done" in done.err
    assert published(cli.folder / "run", "attempts").num_rows == before + 5


def test_a_row_that_is_done_is_never_taken_for_nothing(cli, jsonl, scripted, answer):
    """One answer, or one failed row, and the change is refused with its choices."""
    replies = [(200, {}, answer("yes")), (413, {}, {"error": {"message": "no"}})]
    for name, reply in zip(("answered", "failed"), replies, strict=True):
        endpoint = scripted(lambda *_, reply=reply: reply)
        place = (jsonl(1), "-o", name, "--base-url", endpoint.base_url, *QUICK)
        assert cli("run", *place, "--model", "m").code in (0, 1)
        again = cli("run", *place, "--model", "n")
        assert again.code == 2 and "--keep-done" in again.err
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("workers", [("--shard", "1/1"), ("--workers", "2")])
def test_a_fleet_starts_in_the_place_of_a_refused_start(cli, refused, workers):
    """Also where the refused one was a fleet."""
    rows, place, _ = refused
    assert cli("run", rows, *place, *UNBOUNDED, "--shard", "1/1").code == 2
    flags = ("--model", "m", "--shard-rows", 4, *workers)
    settled(cli, rows, *place, *flags, *QUICK)


def test_a_directory_in_a_store(cli, store, jsonl, simulator):
    """The same with the run directory in a bucket and its checkpoint on this disk."""
    place = ("-o", f"s3://{store.bucket}/runs/one", "--checkpoint", "cp")
    place = (jsonl(6), *place, "--base-url", simulator().base_url)
    done = cli("run", *place, *UNBOUNDED, env=store.env)
    assert done.code == 2 and "has no bound" in done.err, done.err
    told = cli("status", place[2], "--checkpoint", "cp", env=store.env)
    assert "nothing was sent yet" in told.out, told.err
    done = cli("run", *place, "--model", "m", "--shard-rows", 4, *QUICK, env=store.env)
    assert done.code == 0, done.err
    shown = cli("status", place[2], "--checkpoint", "cp", env=store.env)
    assert "complete: 6 of 6 rows ok" in shown.out


@pytest.mark.parametrize(
    "section",
    ['[scores]\ngood = "content ="', '[metrics]\nm = "nonsense(x)"', '[gates]\ng = "ok_rate >"'],
    ids=["score", "metric", "gate"],
)
def test_a_wrong_score_or_metric_is_corrected_in_place(cli, jsonl, simulator, section):
    """The config is mended, other settings change with it, and the same directory is used."""
    config = cli.folder / "c.toml"
    config.write_text(section + "\n", "utf-8")
    place = (jsonl(4), "-o", "run", "-c", "c.toml", "--base-url", simulator().base_url)
    done = cli("run", *place, "--model", "m", *QUICK)
    assert done.code == 2, done.err
    config.write_text("", "utf-8")
    settled(cli, *place, "--model", "n", "--shard-rows", 2, *QUICK)


def test_a_dry_run_agrees_and_changes_nothing(cli, refused):
    """What would start is not refused by ``--dry-run``, which leaves the directory as it is."""
    rows, place, _ = refused
    path = cli.folder / "run/checkpoint/journal.db"
    before = path.read_bytes()
    for more in ((), ("--sample", 3), ("--carry", "none", "--shard-rows", 5)):
        done = cli("run", rows, *place, "--model", "m", *more, "--dry-run")
        assert done.code == 0, done.err
    assert path.read_bytes() == before
    assert cli("status", "run", "--json").json["state"] == "unsent"


ROWS = [{"question": f"what is {n}?", "key": n} for n in range(3)]


def test_json_rows_that_are_not_requests_are_noticed_at_the_start(cli, simulator):
    """With the columns, and a command that works then; the rows fail, as bad rows do."""
    rows = cli.folder / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), "utf-8")
    place = ("-o", "run", "--base-url", simulator().base_url, "--model", "m")
    done = cli("run", rows, *place, *QUICK)
    assert done.code == 1 and "no column `messages`" in done.err, done.err
    assert "(question, key)" in done.err and "--prompt '{{ question }}'" in done.err
    prompt = ("--prompt", "{{ question }}")
    refused = cli("run", rows, *place, *prompt, *QUICK)
    assert refused.code == 2 and "--resend-changed" in refused.err, refused.err
    assert cli("run", rows, *place, *prompt, "--resend-changed", *QUICK).code == 0
    cli.verified("run")


def test_one_request_among_the_first_rows_is_enough(cli, simulator):
    """The others are error rows."""
    rows = cli.folder / "rows.jsonl"
    asks = {"messages": [{"role": "user", "content": "hello"}]}
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in [*ROWS, asks]), "utf-8")
    place = ("-o", "run", "--base-url", simulator().base_url, "--model", "m")
    done = cli("run", rows, *place, *QUICK)
    assert done.code == 1 and "invalid_row 3" in done.err, done.err
    assert "no column `messages`" not in done.err


def test_a_cap_may_be_written_with_a_dollar_sign(cli, simulator, jsonl):
    """As people write amounts; other text is refused as before."""
    place = (
        "-o",
        "run",
        "--base-url",
        simulator().base_url,
        "--model",
        "gpt-4.1",
        "--max-tokens",
        5,
    )
    assert "not a valid float" in cli("run", jsonl(1), *place, "--max-cost", "$one").err
    settled(cli, jsonl(1), *place, "--max-cost", "$1", *QUICK)
