"""What a terminal shows: colours, widths, `status --watch`."""

import fcntl
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import threading

import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.layout import columns_of
from tests.harness.slow import rest_slow

COMMAND = (sys.executable, "-m", "batchrun")
STYLE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class Terminal:
    """A process whose standard streams are a terminal of so many columns; ``text`` is what it
    wrote so far.
    """

    def __init__(self, cli, *arguments, columns=80, **environment):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        kept = {k: v for k, v in cli._environment(None).items() if k not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=cli.folder,
            env=kept | {"TERM": "xterm-256color"} | environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads yet
        )
        os.close(theirs)
        self.text, self._ours, self._hung_up = "", ours, False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while not self._hung_up:
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue  # a read that waits would keep the terminal open
            try:
                data = os.read(self._ours, 65_536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            self.text += data.decode("utf-8", "replace")

    def hang_up(self):
        """Take the terminal away, as when its window is closed."""
        self._hung_up = True
        self._reader.join(30)
        os.close(self._ours)

    def wait(self):
        """The exit code; everything is read by then."""
        code = self.process.wait(120)
        self._reader.join(30)
        os.close(self._ours)
        return code


@pytest.fixture
def finished(cli, simulator, jsonl):
    """A run whose every answer is cut off."""
    endpoint = simulator(truncated_rate=1.0)
    done = cli.run(jsonl(5), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert done.code == 0, done.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("columns", rest_slow([40, 80, 120]))
def test_a_verdict_is_coloured_and_no_word_is_broken(cli, columns):
    """On a terminal; every line fits, and holds the words of the plain text in their order."""
    shown = Terminal(cli, "status", "run", columns=columns)
    assert shown.wait() == 0
    assert re.search(r"\x1b\[33m\x1b\[1mcomplete, but most", shown.text), shown.text
    plain = STYLE.sub("", shown.text)
    assert plain.split() == cli("status", "run").out.split()
    commands = ("next:", "results:")
    lines = [line for line in plain.splitlines() if not line.startswith(commands)]
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns * 0.7


@pytest.fixture
def chinese(cli, simulator, jsonl):
    """A run with a Chinese name and label, of rows in several scripts."""
    subjects = ["很长的中文主题" * 10, "日本語ｶﾅ", "\U0001f44d\U0001f3fd ok", "plain"]
    rows = [
        {"messages": [{"role": "user", "content": subject}], "主题": subject}
        for subject in subjects
    ]
    endpoint = simulator()
    done = cli.run(
        jsonl(rows),
        *("-o", "夜间评测", "--base-url", endpoint.base_url, "--label", "主题=夜间的中文评测"),
        "--no-progress",
    )
    assert done.code == 0, done.err


def _columns_apart(line, starts):
    """Whether the cells of a line begin in these columns of the terminal, after two spaces."""
    shown = "".join(c + "\0" * (columns_of(c) - 1) for c in line)
    return all(shown[start - 2 : start] in ("  ", "") for start in starts if start)


@pytest.mark.slow
@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("columns", [40, 140])
def test_tables_with_wide_characters_fit_and_line_up(cli, columns):
    """Cells of any script are cut and filled up by the columns that they take; where the terminal
    is too narrow for a table, its rows are lists.
    """
    sql = "SELECT row, 主题, status, 主题 AS again FROM results ORDER BY row"
    for command in (
        ("query", "夜间评测", sql),
        ("runs", "."),
        ("costs", "夜间评测", "--by", "label.主题"),
    ):
        shown = Terminal(cli, *command, columns=columns)
        code = shown.wait()
        lines = STYLE.sub("", shown.text).splitlines()
        assert code == 0, shown.text
        wide = [line for line in lines if not line.isascii()]
        assert wide and max(map(columns_of, lines)) <= columns, shown.text
        if command[0] == "query" and columns == 140:
            rule = lines[1]
            starts = [at.start() for at in re.finditer("-+", rule)]
            assert len(starts) == 4
            assert all(_columns_apart(line, starts) for line in lines)


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_left_out_on_request(cli, environment):
    """NO_COLOR, and a terminal that knows none."""
    shown = Terminal(cli, "status", "run", **environment)
    assert shown.wait() == 0
    assert "complete, but most" in shown.text and "\x1b" not in shown.text


@pytest.mark.slow
def test_watching_ends_with_the_run(cli, simulator, jsonl, until):
    """`status --watch` redraws a live run, and leaves how it ended; off a terminal too."""
    endpoint = simulator(latency=FixedLatency(0.4))
    command = ("run", jsonl(60), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 4)
    until(lambda: cli("status", "run", "--json").code == 0)
    plain = cli.start("status", "run", "--watch")
    watched = Terminal(cli, "status", "run", "--watch")
    until(lambda: " of 60 rows done" in watched.text)
    assert live.wait().code == 0
    assert watched.wait() == 0
    last = STYLE.sub("", watched.text).replace("\r", "").rstrip()
    assert "complete: 60 of 60 rows ok" in last and "in flight" in last
    done = plain.wait()
    assert done.code == 0 and "complete: 60 of 60 rows ok" in done.out and "\x1b" not in done.out


@pytest.mark.usefixtures("finished")
def test_one_way_to_look_at_a_time(cli):
    """`--watch` and `--json` together are exit 2."""
    done = cli("status", "run", "--watch", "--json")
    assert done.code == 2 and "--watch and --json exclude each other" in done.err


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_a_served_page_goes_with_its_terminal(cli, until):
    """Nothing keeps listening once its window is closed."""
    shown = Terminal(cli, "status", "run", "--serve")
    until(lambda: "serving http://127.0.0.1:" in shown.text)
    port = int(re.search(r"127\.0\.0\.1:(\d+)", shown.text)[1])
    shown.hang_up()
    assert shown.process.wait(60) != 0
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
