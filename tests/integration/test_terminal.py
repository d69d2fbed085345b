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
