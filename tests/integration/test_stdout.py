"""Standard output that is full or closed: an error that is said, never a defect."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.slow import rest_slow

PRINTING = [
    ("status", "run"),
    ("verify", "run"),
    ("validate", "rows.jsonl", "--model", "m"),
    ("estimate", "rows.jsonl", "--model", "m"),
    ("providers",),
]


@pytest.fixture
def ran(cli, simulator, jsonl):
    """A finished run with a failed row, and its command."""
    rows = jsonl([{"messages": [{"role": "user", "content": "q"}]}, {"messages": []}])
    (cli.folder / "rows.jsonl").write_bytes(Path(rows).read_bytes())
    url = simulator().base_url
    command = ("run", "rows.jsonl", "-o", "run", "--model", "m", "--base-url", url)
    assert cli(*command).code == 1
    return command


@pytest.fixture
def into_full(cli):
    """Runs a command whose standard output is a full device."""

    def run(*arguments, **more):
        with Path("/dev/full").open("wb") as full:
            return cli(*arguments, stdout=full, **more)

    return run


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("command", rest_slow(PRINTING, 2), ids=lambda command: command[0])
def test_what_cannot_be_printed_is_an_error(cli, into_full, command):
    """A command that prints says that it could not, once, and exits with 5; as JSON too."""
    for more in ((), ("--json",)):
        done = into_full(*command, *more)
        assert done.code == 5
        assert done.err.count("cannot write to standard output: No space left") == 1
        assert "Traceback" not in done.err and "Exception ignored" not in done.err
        assert "bug in batchrun" not in done.err
    assert cli(*command).code in (0, 1)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help")])
def test_help_that_cannot_be_printed(into_full, arguments):
    """Also where the library prints."""
    done = into_full(*arguments)
    assert done.code == 5 and "cannot write to standard output: No space left" in done.err
    assert "Traceback" not in done.err


def test_an_export_that_cannot_be_printed(into_full, ran):
    """Lines that are lost are told of."""
    done = into_full("export", ran[3], "-o", "-")
    assert done.code == 5 and "No space left" in done.err
    assert "Traceback" not in done.err and "Exception ignored" not in done.err


def test_a_run_keeps_its_exit_code(cli, into_full, ran):
    """What the run did is done: the summary is in its directory, and the exit code is its own."""
    done = into_full(*ran, "--retry-failed", "--json")
    assert done.code == 1
    assert "cannot write to standard output" in done.err and "the summary is in run" in done.err
    refused = into_full(*ran, "--model", "other", "--json")
    assert refused.code == 2 and "the settings are not those" in refused.err
    cli.verified("run")


@pytest.mark.parametrize(
    ("command", "code"),
    rest_slow(
        [
            *((c, 1 if c[0] == "validate" else 0) for c in PRINTING),
            (("export", "run", "-o", "-"), 5),
        ],
        2,
        several=True,
    ),
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
@pytest.mark.usefixtures("ran")
def test_a_closed_stdout_harms_nothing(cli, command, code):
    """Nobody wanted to see it; only an export without a place to go is an error."""
    done = cli(*command, preexec_fn=lambda: os.close(1), stdout=subprocess.DEVNULL)
    assert done.code == code, done.err
    assert "Traceback" not in done.err and "bug in batchrun" not in done.err


def test_a_run_with_a_closed_stdout(cli, ran):
    """It ends as it would."""
    command = (*ran, "--retry-failed", "--json")
    done = cli(*command, preexec_fn=lambda: os.close(1), stdout=subprocess.DEVNULL)
    assert done.code == 1 and "Traceback" not in done.err
    cli.verified("run")
