"""What surrounds a run and goes away: parents, terminals, readers. And what to type then."""

import contextlib
import fcntl
import json
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
import termios

import pytest

from batchrun.rundir import lock
from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow

ROWS = 40


@pytest.fixture
def job(simulator, jsonl):
    """The words of a run of a second or so, and its endpoint."""
    endpoint = simulator(latency=FixedLatency(0.08))
    words = ("run", jsonl(ROWS), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    return endpoint, (*words, "--concurrency", 8, "--shard-rows", 20)


@pytest.fixture
def complete(cli, summary, published):
    """Asserts that a run directory holds every row, and asked for each once."""

    def check(endpoint, folder="run"):
        assert summary(cli.folder / folder)["status"] == "complete"
        assert published(cli.folder / folder)["row"].to_pylist() == list(range(ROWS))
        assert endpoint is None or endpoint.stats()["requests_total"] == ROWS
        cli.verified(folder)

    return check


@pytest.fixture
def path_with_batchrun(cli):
    """A PATH on which the command is found by its name."""
    folder = cli.folder / "bin"
    folder.mkdir()
    script = folder / "batchrun"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchrun "$@"\n', "utf-8")
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def _answered(endpoint, count=10):
    return lambda: endpoint.stats()["by_status"].get("200", 0) >= count


def _ignoring(*numbers):
    def ignore():
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return ignore


def test_nohup_keeps_a_run_alive(cli, job, until, complete):
    """What was ignored when the run began stays ignored: the terminal may be closed."""
    endpoint, words = job
    live = cli.start(*words, "--no-progress", preexec_fn=_ignoring(signal.SIGHUP, signal.SIGINT))
    until(_answered(endpoint))
    live.signal(signal.SIGHUP)
    live.signal(signal.SIGINT)
    done = live.wait()
    assert done.code == 0, done.err
    assert "SIGHUP" not in done.err
    complete(endpoint)


def test_a_run_outlives_its_parent(cli, job, until, complete):
    """The shell that started it in the background ends; the run goes on to its end."""
    endpoint, words = job
    command = shlex.join([sys.executable, "-m", "batchrun", *map(str, words)])
    subprocess.run(
        ["sh", "-c", f"{command} >out 2>err &"],
        cwd=cli.folder,
        env=cli._environment(None),
        check=True,
    )
    folder = cli.folder / "run"
    until(lambda: (folder / "summary.json").exists() and not lock.is_locked(folder))
    complete(endpoint)


def _at_terminal(cli, words, *, full=False):
    """Start the command as the leader of a session with a terminal of its own, as a remote login
    does; ``full`` says that nothing more fits into it. Returns the process and the other end.
    """
    ours, theirs = pty.openpty()
    if full:
        os.set_blocking(theirs, False)
        _fill(theirs)
        os.set_blocking(theirs, True)

    def lead():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", *map(str, words)],
        cwd=cli.folder,
        env=cli._environment({"TERM": "xterm"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lead,  # noqa: PLW1509 - it makes two system calls
    )
    os.close(theirs)
    return process, ours


def test_a_terminal_that_is_closed_stops_the_run_in_order(cli, job, until, summary, published):
    """The connection of a remote login breaks: SIGHUP, and every answer in flight is kept."""
    endpoint, words = job
    process, ours = _at_terminal(cli, words)
    until(_answered(endpoint))
    os.close(ours)
    assert process.wait(20) == 129
    found = summary(cli.folder / "run")
    assert (found["status"], found["stopped_by"]) == ("interrupted", "SIGHUP")
    assert endpoint.stats()["given_up"] == 0
    answered = endpoint.stats()["by_status"]["200"]
    assert published(cli.folder / "run").num_rows == found["rows"]["ok"] == answered < ROWS
    cli.verified("run")


def test_a_paused_terminal_holds_nothing_up(cli, job, complete):
    """Ctrl-S, or a window that nobody empties: the display waits, the run does not."""
    endpoint, words = job
    process, ours = _at_terminal(cli, words, full=True)
    try:
        assert process.wait(30) == 0
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    complete(endpoint)


def _fill(descriptor):
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 4096)


def _full_pipe():
    """A pipe without room for a byte, whose reader never reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    _fill(writer)
    os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_holds_nothing_up(cli, job, until, summary):
    """A full pipe as stderr: the run goes on, heeds a signal, and says by its exit code and its
    files how it ended.
    """
    endpoint, words = job
    reader, writer = _full_pipe()
    try:
        live = subprocess.Popen(
            [sys.executable, "-m", "batchrun", *map(str, words)],
            cwd=cli.folder,
            env=cli._environment(None),
            stdout=subprocess.DEVNULL,
            stderr=writer,
        )
        os.close(writer)
        until(_answered(endpoint))
        live.send_signal(signal.SIGTERM)
        assert live.wait(30) == 143
    finally:
        live.kill()
        live.wait()
        os.close(reader)
    assert summary(cli.folder / "run")["rows"]["ok"] == endpoint.stats()["by_status"]["200"] < ROWS
    cli.verified("run")


@pytest.mark.parametrize("redirected", ["--json 2>&1 | head -0", "2>&- >&- <&-"])
def test_readers_that_are_gone_cost_nothing(cli, job, complete, redirected, path_with_batchrun):
    """`| head`, and streams closed from the start: every row is answered, and exit code 0."""
    endpoint, words = job
    words = shlex.join(map(str, words))
    code = '"${PIPESTATUS[0]}"' if "|" in redirected else '"$?"'
    done = subprocess.run(
        ["bash", "-c", f"batchrun {words} --concurrency 32 {redirected}; exit {code}"],
        cwd=cli.folder,
        env=cli._environment({"PATH": path_with_batchrun}),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complete(endpoint)


def test_a_signal_before_anything_is_sent(cli, until, tmp_path):
    """Told to stop while it waits for its input: its exit code, the lock given back, no trace."""
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    live = cli.start("run", fifo, "-o", "run", "--provider", "simulator", "--model", "m")
    pipe = None

    def opened():
        nonlocal pipe
        with contextlib.suppress(OSError):
            pipe = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        return pipe is not None

    until(opened)
    live.signal(signal.SIGTERM)
    done = live.wait()
    os.close(pipe)
    assert done.code == 143, done.err
    assert "SIGTERM" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("stopped_by", rest_slow(["--deadline", "the disk"]))
def test_the_printed_command_goes_on(
    cli, simulator, complete, chat, stopped_by, path_with_batchrun
):
    """Pasted into a shell it ends the run, whatever is in the names of files and folders."""
    endpoint = simulator(latency=FixedLatency(0.25))
    folder = 'it\'s "my" run & $HOME; *'
    rows = cli.folder / "rows `of` 'mine'.jsonl"
    rows.write_text("".join(json.dumps(chat(n)) + "\n" for n in range(ROWS)), "utf-8")
    words = ["run", rows.name, "-o", folder, "--model", "m", "--base-url", endpoint.base_url]
    words += ["--no-progress", "--concurrency", 4]
    words += {"--deadline": ["--deadline", "1.2"]}.get(stopped_by, [])
    limits = {"preexec_fn": _files_of_at_most(20_000)} if stopped_by == "the disk" else {}
    # Compiled modules would be cut off as well, and stay so for whoever imports them next.
    live = cli.start(*words, env={"PYTHONDONTWRITEBYTECODE": "1"}, **limits)
    done = live.wait()
    assert done.code == {"--deadline": 3, "the disk": 5}[stopped_by], done.err
    [command] = [line for line in done.err.splitlines() if line.startswith("to resume: ")]
    pasted = command.removeprefix("to resume: ").replace("--deadline 1.2", "--deadline 60")
    again = subprocess.run(
        ["sh", "-c", pasted],
        cwd=cli.folder,
        env=cli._environment({"PATH": path_with_batchrun}),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert b"nothing left to send" not in again.stderr
    complete(None if stopped_by == "the disk" else endpoint, folder)


def _files_of_at_most(size):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
