"""The examples of docs/live.md run as they stand, against the server that the page starts."""

import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest

from batchrun.cli.simulate import command
from batchrun.core.run.controls import RANGES
from batchrun.engine.row_order import AHEAD_ROWS, OVERTAKEN_MAX

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "live.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^```sh (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def _commands(name, port):
    """The commands of a block, each as its words."""
    for line in BLOCKS[name].replace("8123", str(port)).splitlines():
        program, *words = shlex.split(line)
        assert program == "batchrun"
        yield words


@pytest.fixture
def port(cli, until):
    """The server of the page, at a free port in place of the one named there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        found = free.getsockname()[1]
    ((*words,),) = _commands("server", found)
    cli.start(*words)

    def listens():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", found)) == 0

    until(listens)
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    return found


@pytest.mark.slow
def test_a_live_run_is_changed_as_the_page_says(cli, port, until):
    """The page's changes reach a run that goes on long enough to be changed."""
    rows = [json.dumps({"messages": [{"role": "user", "content": f"{n}"}]}) for n in range(2000)]
    (cli.folder / "many.jsonl").write_text("\n".join(rows))
    ((*words,),) = _commands("live", port)
    words[1] = "many.jsonl"
    live = cli.start(*words, "--no-progress")

    def answered():
        done = cli("status", "live", "--json")
        return done.code == 0 and (done.json.get("live") or {}).get("ok")

    until(answered)
    for change in _commands("change", port):
        done = cli(*change)
        assert done.code == 0, done.err
    assert live.wait().code == 3


@pytest.mark.slow
def test_a_nightly_run_takes_the_lengths_of_the_one_before(cli, port):
    """Both commands of the page end well."""
    for words in _commands("lengths", port):
        done = cli(*words, "--no-progress")
        assert done.code == 0, done.err


def test_the_figures_of_the_page_are_the_programs():
    """Keys of `set`, bounds of the window, flags of the simulator."""
    for key in RANGES:
        assert re.search(rf"set (NAME\.)?{key}=", PAGE), key
    assert f"{AHEAD_ROWS:,} ahead" in PAGE
    assert f"{OVERTAKEN_MAX:,} later ones" in PAGE
    flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    named = set(re.findall(r"`(--[a-z0-9-]+)", PAGE.partition("## Rehearse")[2]))
    assert named <= flags
