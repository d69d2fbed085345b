"""Real processes that do one run together."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import PATIENCE_S, ROOT

OWN_COLUMNS = {
    *("started_at", "latency_s", "ttft_s", "queue_s"),
    *("created", "response", "response_id", "request_id"),
}
"""What no two runs have in common: times, and the server's names for its answers."""


@dataclass
class Process:
    """One process of a fleet."""

    process: subprocess.Popen
    err_path: Path

    @property
    def err(self):
        """What it wrote to stderr so far."""
        return self.err_path.read_text("utf-8", errors="replace")

    def send(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self):
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE_S)


class Fleet:
    """Starts processes over one command."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def start(self, shard, *arguments, lease_s=30, environment=None):
        """Start ``batchrun run --shard SHARD ARGUMENTS...``, with more environment variables."""
        err_path = self.folder / f"fleet-{len(self.processes)}.err"
        with err_path.open("wb") as err:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(ROOT / "tests" / "harness" / "fleet_process.py")),
                    *(str(lease_s), "run", *map(str, arguments)),
                    *("--shard", shard, "--no-progress"),
                ],
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )
        started = Process(process, err_path)
        self.processes.append(started)
        return started

    def start_all(self, count, *arguments, lease_s=30, environment=None):
        """Start all of them at once."""
        return [
            self.start(f"{index}/{count}", *arguments, lease_s=lease_s, environment=environment)
            for index in range(1, count + 1)
        ]

    def end(self):
        """Kill what still runs."""
        for each in self.processes:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGKILL)
                each.process.wait()


@pytest.fixture
def fleet(cli):
    """Starts the processes of fleets; none is left when the test ends."""
    found = Fleet(cli.folder)
    yield found
    found.end()


@pytest.fixture
def until(until):
    """The same, with more patience: several processes start at once, on few cores."""
    return partial(until, timeout_s=PATIENCE_S)


class Held:
    """An endpoint that answers so many requests, and the others once it is released."""

    def __init__(self, scripted, answer, free):
        self._released = threading.Event()

        def reply(_body, _headers, nth):
            if nth > free:
                self._released.wait(PATIENCE_S)
            return 200, {}, answer("fine")

        self._endpoint = scripted(reply)
        self.base_url = self._endpoint.base_url

    @property
    def asked(self):
        """Requests so far."""
        return len(self._endpoint.requests)

    def release(self):
        """Answer everything from now on."""
        self._released.set()


@pytest.fixture
def held(scripted, answer):
    """Starts endpoints that hold a run up where the test wants to look at it."""
    made = []

    def start(free):
        made.append(Held(scripted, answer, free))
        return made[-1]

    yield start
    for each in made:
        each.release()


@pytest.fixture
def comparable(published):
    """The parts of a run directory as one table, without the columns that differ between runs."""

    def read(folder, kind="results"):
        table = published(folder, kind)
        kept = [name for name in table.schema.names if name not in OWN_COLUMNS]
        return pa.table(table.select(kept))

    return read
