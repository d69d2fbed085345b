"""What macOS has and lacks, imitated in fresh processes (`tests/harness/macos`): a run does what it
does on Linux.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACOS = ROOT / "tests" / "harness" / "macos"


@pytest.fixture
def macos(cli):
    """The environment of a process that takes itself to be on macOS."""
    return {
        "PYTHONPATH": os.pathsep.join((str(MACOS), str(ROOT))),
        "FULL_FLUSHES": str(cli.folder / "flushes"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is imitated")
def test_the_imitation_is_one(cli, macos):
    """The process has neither Linux' calls nor its /proc."""
    probe = (
        "import os, sys, time, fcntl, pathlib\n"
        "assert sys.platform == 'darwin'\n"
        "assert not hasattr(os, 'fdatasync') and not hasattr(time, 'CLOCK_BOOTTIME')\n"
        "assert not pathlib.Path('/proc/self').exists() and pathlib.Path('/dev').exists()\n"
        "fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_FULLFSYNC)\n"
    )
    (cli.folder / "probe.py").write_text(probe, "utf-8")
    done = cli.shell(f"{sys.executable} probe.py", macos)
    assert done.returncode == 0, done.stderr
    assert (cli.folder / "flushes").read_text("utf-8") == "x\n"


def test_a_run_and_everything_about_it(cli, macos, samples, published):
    """The demo's commands, a look at a row, an export and a second start."""
    rows = samples / "batch_lines.jsonl"
    done = cli("run", rows, "-o", "run", "--provider", "simulator", "--no-progress", env=macos)
    assert done.code == 0, done.err
    assert published(cli.folder / "run").num_rows == 60
    for command in (
        ("status", "run"),
        ("verify", "run"),
        ("show", "run", "3"),
        ("export", "run", "-o", "run.csv"),
        ("run", rows, "-o", "run", "--provider", "simulator", "--no-progress"),
        ("doctor", "--provider", "simulator", "--model", "m"),
    ):
        done = cli(*command, env=macos)
        assert done.code == 0, (command, done.err)


def test_what_is_promised_is_flushed_through_the_drives_cache(cli, macos, jsonl):
    """Every flush is an F_FULLFSYNC: the imitation's fsync raises. Logs, parts and folders take
    several of them.
    """
    done = cli.run(*(jsonl(20), "-o", "run", "--provider", "simulator", "--no-progress"), env=macos)
    assert done.code == 0, done.err
    assert (cli.folder / "flushes").read_text("utf-8").count("x") >= 5


def test_a_killed_run_resumes(cli, macos, jsonl, until, summary):
    """Lock, flight log and journal work without Linux' calls: nothing is lost, nothing comes twice,
    and a second run is refused meanwhile.
    """
    words = ("run", jsonl(200), "-o", "run", "--model", "m", "--provider", "simulator")
    words = (*words, "--no-progress")
    run = cli.start(*words, "--rpm", "60", env=macos)
    status = cli.folder / "run" / "checkpoint" / "status.json"
    until(lambda: status.exists() and json.loads(status.read_text("utf-8"))["ok"] > 0)
    refused = cli(*words, env=macos)
    assert refused.code == 2 and "in use by another run" in refused.err
    run.signal(signal.SIGKILL)
    run.wait()
    done = cli(*words, env=macos)
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"]["ok"] == 200
    cli.verified("run")


@pytest.mark.parametrize("more", [(), ("--sample", "5")], ids=["all", "sampled"])
def test_rows_that_are_piped_in(cli, macos, jsonl, published, more):
    """Standard input is read once; a sample of it is kept in a file meanwhile, which is gone
    afterwards.
    """
    folder = cli.folder / "tmp"
    folder.mkdir()
    with jsonl(20).open("rb") as rows:
        done = cli.run(
            *("-", "-o", "run", "--provider", "simulator", "--no-progress", *more),
            env=macos | {"TMPDIR": str(folder)},
            stdin=rows,
        )
    assert done.code == 0, done.err
    assert published(cli.folder / "run").num_rows == (5 if more else 20)
    assert list(folder.iterdir()) == []


def test_a_named_pipe_waits_for_its_writer(cli, macos, jsonl, published):
    """A pipe that nobody writes into yet is no empty input."""
    pipe = cli.folder / "rows.pipe.jsonl"
    os.mkfifo(pipe)
    run = cli.start(
        *("run", pipe, "-o", "run", "--model", "m", "--provider", "simulator", "--no-progress"),
        env=macos,
    )
    with pipe.open("wb") as writer:  # returns once the run has opened it
        writer.write(jsonl(20).read_bytes())
    done = run.wait()
    assert done.code == 0, done.err
    assert published(cli.folder / "run").num_rows == 20


def test_a_run_in_a_deep_folder_can_be_steered(cli, macos, jsonl, until):
    """The socket of a checkpoint is reached where its path is too long for an address."""
    deep = cli.folder / "/".join(["a" * 30] * 5)
    deep.mkdir(parents=True)
    words = ("run", jsonl(500), "-o", deep / "run", "--model", "m", "--provider", "simulator")
    run = cli.start(*words, "--rpm", "600", "--no-progress", env=macos)
    until((deep / "run" / "checkpoint" / "control.sock").exists)
    done = cli("ctl", deep / "run", "drain", env=macos)
    assert done.code == 0, done.err
    assert run.wait().code == 3


def test_a_file_of_this_process_is_no_image(cli, macos, jsonl, published):
    """A row cannot name a descriptor that the process has open."""
    rows = [{"messages": [{"role": "user", "content": "q"}], "photo": "/dev/fd/0"}]
    done = cli(
        *("run", jsonl(rows), "-o", "run", "--model", "m", "--provider", "simulator"),
        *("--prompt", "look", "--image", "photo", "--no-progress"),
        env=macos,
    )
    assert done.code == 1, done.err
    assert published(cli.folder / "run")["status"].to_pylist() == ["error"]
