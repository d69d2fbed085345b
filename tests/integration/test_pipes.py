"""What is not a regular file is read once, by whatever name: pipes, descriptors, devices."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.harness.slow import rest_slow

ROWS = 30
FLAGS = ("--model", "m", "--no-progress", "--shard-rows", "10")


def _chats(count=ROWS):
    rows = [{"messages": [{"role": "user", "content": f"q {n}"}], "note": n} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(count=ROWS):
    return b"q,note\n" + b"".join(b"%d,a\n" % n for n in range(count))


@pytest.fixture
def fifo(tmp_path):
    """Makes a named pipe that somebody writes into as soon as somebody reads."""

    def make(name, data):
        path = tmp_path / name
        if not path.exists():
            os.mkfifo(path)

        def write():
            # The reader may leave before the end, at a limit.
            with contextlib.suppress(BrokenPipeError):
                path.write_bytes(data)

        threading.Thread(target=write, daemon=True).start()
        return path

    return make


@pytest.mark.parametrize(
    ("name", "data", "more"),
    rest_slow(
        [
            ("rows.jsonl", _chats(), ()),
            ("rows", _chats(), ()),
            ("rows.csv", _table(), ("--prompt", "{{ q }}")),
            ("rows", _table(), ("--prompt", "{{ q }}", "--format", "csv")),
            ("rows.tsv", _table().replace(b",", b"\t"), ("--prompt", "{{ q }}")),
        ],
        2,
        several=True,
    ),
)
def test_a_named_pipe_is_an_input(cli, simulator, fifo, published, name, data, more):
    """Its suffix or --format says what it holds; validate, estimate, run and verify read it."""
    looked = cli("validate", fifo(name, data), *FLAGS[:2], *more, "--json")
    assert looked.json["rows"] == ROWS, looked.err
    assert cli("estimate", fifo(name, data), *FLAGS[:2], *more, "--json").json["rows"] == ROWS
    endpoint = simulator()
    command = ("run", "-o", "run", *FLAGS, *more, "--base-url", endpoint.base_url)
    begun = cli(*command, fifo(name, data), "--limit", "12")
    assert begun.code == 0, begun.err
    done = cli(*command, fifo(name, data))
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == ROWS
    assert published(cli.folder / "run").num_rows == ROWS
    cli.verified("run")
    kind = more[-2:] if "--format" in more else ()
    assert cli("verify", "run", "--against", fifo(name, data), *kind).code == 0


def test_other_rows_in_a_pipe_are_refused(cli, simulator, fifo):
    """The same bytes resume; others are found out before anything of them is sent."""
    endpoint = simulator()
    command = ("run", "-o", "run", *FLAGS, "--base-url", endpoint.base_url)
    assert cli(*command, fifo("rows.jsonl", _chats()), "--limit", "12").code == 0
    done = cli(*command, fifo("rows.jsonl", _chats().replace(b"q 3", b"q X")))
    assert done.code == 2 and "is not what the run was begun with" in done.err
    assert endpoint.stats()["requests_total"] == 12


@pytest.mark.parametrize(
    "name",
    [
        *rest_slow(["/dev/stdin", "/dev/fd/0", "-"], 2),
        pytest.param("/proc/self/fd/0", marks=[pytest.mark.linux, pytest.mark.slow]),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_descriptors_by_name(cli, tmp_path, name, kind):
    """Standard input is read whatever it is called and whatever is behind it."""
    (tmp_path / "rows").write_bytes(_chats())
    if kind == "file":
        given = (tmp_path / "rows").open("rb")
    elif kind == "pipe":
        end, begin = os.pipe()
        os.write(begin, _chats())  # less than a pipe holds
        os.close(begin)
        given = os.fdopen(end, "rb")
    else:
        given, other = socket.socketpair()
        other.sendall(_chats())
        other.close()
    command = cli if kind != "socket" else cli.fresh  # nobody can open a socket by its name
    with given:
        done = command("validate", name, "--model", "m", "--json", stdin=given)
    assert done.code == 0, done.err
    assert done.json["rows"] == ROWS


@pytest.mark.slow
def test_a_process_substitution(cli, simulator, tmp_path, published):
    """``<(command)`` of a shell is an input; the same command again resumes."""
    (tmp_path / "rows").write_bytes(_chats())
    url = simulator().base_url
    command = f"{sys.executable} -m batchrun run <(cat {tmp_path}/rows) -o run --base-url {url}"
    for limit, rows in (("--limit 7", 7), ("", ROWS)):
        line = f"{command} {' '.join(FLAGS)} {limit}"
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            ["bash", "-c", line], cwd=cli.folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert published(cli.folder / "run").num_rows == rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_that_nobody_writes_into_can_be_left(cli, tmp_path, number):
    """Waiting for a writer ends with a signal, and nothing was made."""
    os.mkfifo(tmp_path / "rows.jsonl")
    url = "http://127.0.0.1:9/v1"
    live = cli.start("run", tmp_path / "rows.jsonl", "-o", "run", *FLAGS, "--base-url", url)
    time.sleep(1.5)
    live.signal(number)
    done = live.wait(10)
    assert done.code == 128 + number, done.err
    assert not (cli.folder / "run").exists()


def test_a_writer_that_stalls_holds_no_answer_back(cli, simulator, tmp_path, until, published):
    """Rows that came are sent while the pipe stays open; a signal ends the run in order."""
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)
    endpoint = simulator()
    flags = (*FLAGS, "--base-url", endpoint.base_url)
    live = cli.start("run", path, "-o", "run", "--carry", "none", *flags)
    with path.open("wb") as pipe:
        pipe.write(_chats(5))
        pipe.flush()
        until(lambda: endpoint.stats()["requests_total"] == 5)
        live.signal(signal.SIGINT)
        assert live.wait(30).code == 130
    assert published(cli.folder / "run").num_rows == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/null", "input /dev/null: not a single row"),
        ("/dev/zero", "is a device that holds no rows"),
        ("/dev/urandom", "is a device that holds no rows"),
        ("/dev/fd/99", "input /dev/fd/99: Bad file descriptor"),
        ("sock.jsonl", "is a socket"),
        ("pipe.parquet", "Parquet cannot be read from a pipe"),
    ],
)
def test_what_holds_no_rows_is_refused(cli, monkeypatch, name, said):
    """An error at once, naming it."""
    os.mkfifo(cli.folder / "pipe.parquet")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(cli.folder)  # the address of a socket is short
        listening.bind("sock.jsonl")
        done = cli("validate", name, "--model", "m")
    assert done.code == 2 and said in done.err, done.err


def test_a_pipe_is_an_input_of_its_own(cli, jsonl, fifo):
    """As standard input it goes with no other file."""
    done = cli("validate", fifo("a.jsonl", _chats()), jsonl(2), "--model", "m")
    assert done.code == 2 and "is an input of its own" in done.err


@pytest.mark.parametrize("name", [".", "*.jsonl"])
def test_folders_and_globs_pass_pipes_over(cli, name):
    """Nobody means a pipe that lies there; reading it would wait for ever."""
    os.mkfifo(cli.folder / "a.jsonl")
    (cli.folder / "b.jsonl").write_bytes(_chats())
    done = cli("validate", name, "--model", "m", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"] == ROWS


def test_a_packed_pipe_names_the_tool(cli, fifo):
    """What is compressed is unpacked by whoever writes."""
    import gzip

    done = cli("validate", fifo("a.jsonl", gzip.compress(_chats())), "--model", "m")
    assert done.code == 2 and "pipe it through zcat" in done.err
