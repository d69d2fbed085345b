"""Real processes that do one run together."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import PATIENCE_S, ROOT, s3_at
from tests.harness import kill_table
from tests.harness.suspending import suspend

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

    def suspend(self):
        """Stop it where it is, until SIGCONT."""
        suspend(self.process.pid)

    def wait(self):
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE_S)


class Fleet:
    """Starts processes over one command."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {}
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
                    **self.environment,
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


class SharedStore:
    """A bucket of an S3 server that can be made to misbehave."""

    def __init__(self, address, faults_path, monkeypatch):
        import boto3

        self.faults_path = faults_path
        self.env = {
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        self.client = boto3.client("s3", region_name="us-east-1")
        self.bucket = f"run-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=self.bucket)
        self.prefix = "run/"
        self.address = f"s3://{self.bucket}/run"

    def misbehave(self, **faults):
        """From now on the server does what ``tests/harness/s3_server.py`` says of these."""
        aside = self.faults_path.with_suffix(".new")
        aside.write_text(json.dumps(faults))
        aside.replace(self.faults_path)

    def keys(self, prefix=""):
        """The keys of all objects of the run directory that begin like this."""
        pages = self.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}{prefix}")
        return [
            each["Key"].removeprefix(self.prefix)
            for page in found
            for each in page.get("Contents", ())
            if not each["Key"].endswith("/")
        ]

    def get(self, name):
        """The content of an object of the run directory; None where there is none."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}{name}")[
                "Body"
            ].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def json(self, name):
        """The same as JSON."""
        return json.loads(self.get(name) or "null")

    def published(self, kind="results"):
        """The parts as one table, as a reader of the bucket sees them, without own columns."""
        tables = [
            pq.read_table(io.BytesIO(self.get(name))) for name in sorted(self.keys(f"{kind}/part-"))
        ]
        table = pa.concat_tables(tables)
        return pa.table(table.select([n for n in table.schema.names if n not in OWN_COLUMNS]))

    def claimed_by(self):
        """By shard, the workers that claimed it in the launch that is live, in order."""
        found, launch = {}, self.json("fleet/launch.json") or {}
        for name in sorted(self.keys(f"fleet/{launch['id']}/claims/")) if "id" in launch else ():
            record = self.json(name)
            if record is not None:
                shard = int(name.rpartition("/")[2].partition(".")[0])
                found.setdefault(shard, []).append(record["worker"])
        return found


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """An S3 server with atomic conditional puts, a process of its own: its address, and the file
    that says how it misbehaves.
    """
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    folder = tmp_path_factory.mktemp("s3")
    faults_path, harness = folder / "faults.json", ROOT / "tests" / "harness" / "s3_server.py"
    with s3_at(folder, lambda port: [str(harness), str(port), str(faults_path)]) as address:
        yield address, faults_path


@pytest.fixture
def shared_store(shared_server, fleet, monkeypatch):
    """A new bucket, in which the processes of ``fleet`` find it."""
    address, faults_path = shared_server
    faults_path.unlink(missing_ok=True)
    found = SharedStore(address, faults_path, monkeypatch)
    fleet.environment = found.env
    yield found
    faults_path.unlink(missing_ok=True)
    found.client.close()


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


def chats(count):
    """Rows that say which one they are."""
    return [{"messages": [{"role": "user", "content": f"row {n}"}]} for n in range(count)]


@pytest.fixture
def asked(scripted, answer):
    """An endpoint that refuses every third row as often as it is told to, and counts what it is
    asked, with rows of ``chats``.
    """
    counts, refusals = Counter(), [1]

    def reply(body, _headers, _nth):
        row = int(body["messages"][0]["content"].rpartition(" ")[2])
        counts[row] += 1
        if row % 3 == 0 and counts[row] <= refusals[0]:
            return 422, {}, {"error": {"message": "not this one"}}
        return 200, {}, answer("fine")

    return scripted(reply), counts, refusals


@pytest.fixture
def comparable(published):
    """The parts of a run directory as one table, without the columns that differ between runs."""

    def read(folder, kind="results"):
        table = published(folder, kind)
        kept = [name for name in table.schema.names if name not in OWN_COLUMNS]
        return pa.table(table.select(kept))

    return read


def pytest_terminal_summary(terminalreporter):
    """The table of kills, where this is one process (``make crash``)."""
    kill_table.show(terminalreporter)
