"""Processes of a fleet are killed again and again: no row is lost, none is doubled, and what is
sent again was in flight, or belongs to the shards of a lost disk.

``BATCHRUN_CRASH_KILLS`` says how many kills each test makes, ``BATCHRUN_CRASH_SEED`` which.
"""

import os
import random
import shutil
import signal
import time

import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.verify import verify
from tests.harness import kill_table

KILLS = int(os.environ.get("BATCHRUN_CRASH_KILLS", "4"))
SEED = int(os.environ.get("BATCHRUN_CRASH_SEED", "1"))
KILLS_A_RUN = 10
ROWS, SHARD_ROWS, PROCESSES, IN_FLIGHT = 490, 25, 3, 8
LEASE_S = 15
"""Long enough for a busy machine: one that is thought dead ends with exit code 5, as it should."""
LATENCY_S = 0.2
REQUESTS_BETWEEN = 50
"""Most requests between two kills; the least is none."""


class Disk:
    """A run directory on a disk."""

    per_kill = 2 * IN_FLIGHT
    """Requests that one kill may cost: in flight, or answered and not flushed yet."""
    ledger_is_whole = True

    def __init__(self, fleet):
        self.fleet, self.environment = fleet, {}
        self.address, self.checkpoint = str(fleet.folder / "run"), "run/checkpoint"

    def place(self, _index):
        """The arguments that say where a process works."""
        return ("-o", "run")

    def lose(self, index):
        """The disk of a process is lost, where it has one of its own."""

    def columns(self, kind, *names):
        """Columns of all parts of a kind, one list each."""
        return columns([self.fleet.folder / "run" / kind], names)


class Bucket(Disk):
    """A run directory in an object store; the processes have one disk, which is kept."""

    def __init__(self, fleet, store):
        super().__init__(fleet)
        self.store, self.environment = store, store.env
        self.address, self.checkpoint = store.address, self._checkpoint(0)

    def place(self, index):
        """See ``Disk``."""
        return ("-o", self.store.address, "--checkpoint", self._checkpoint(index))

    def _checkpoint(self, _index):
        return "cp"

    def columns(self, kind, *names):
        """See ``Disk``."""
        folder = self.fleet.folder / f"fetched-{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in self.store.keys(f"{kind}/part-"):
            (folder / name.rpartition("/")[2]).write_bytes(self.store.get(name))
        return columns([folder], names)


class BucketAndDisks(Bucket):
    """The same; each process has a disk of its own, which is lost with it."""

    # A process has a shard that it fills, and perhaps one that it reads ahead.
    per_kill = 2 * IN_FLIGHT + 2 * SHARD_ROWS
    ledger_is_whole = False

    def _checkpoint(self, index):
        return f"cp{index}"

    def lose(self, index):
        """See ``Disk``."""
        shutil.rmtree(self.fleet.folder / f"cp{index}", ignore_errors=True)


def columns(folders, names):
    """Columns of the parts in these folders, one list each."""
    paths = sorted(path for folder in folders for path in folder.glob("part-*.parquet"))
    tables = [pq.read_table(path, columns=list(names), partitioning=None) for path in paths]
    return [[v for t in tables for v in t.column(name).to_pylist()] for name in names]


def hunt(fleet, where, endpoint, rows, dice, kills):
    """Run a fleet to its end, and kill one of its processes so often on the way, at any moment;
    returns how many kills there were.
    """
    arguments = (
        *(rows, "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", SHARD_ROWS, "--concurrency", IN_FLIGHT),
    )

    def start(index):
        given = (*arguments, *where.place(index))
        return fleet.start(f"{index + 1}/{PROCESSES}", *given, lease_s=LEASE_S)

    living, killed = [start(index) for index in range(PROCESSES)], 0
    asked = endpoint.stats()["requests_total"] + 1
    while killed < kills:
        asked += dice.randrange(REQUESTS_BETWEEN)
        while endpoint.stats()["requests_total"] < asked and any(
            each.process.poll() is None for each in living
        ):
            time.sleep(0.02)
        index = dice.randrange(PROCESSES)
        if living[index].process.poll() is not None:
            break  # the run is at its end
        living[index].send(signal.SIGKILL)
        living[index].process.wait()
        killed += 1
        where.lose(index)
        living[index] = start(index)
    codes = [process.wait() for process in living]
    assert codes == [0] * PROCESSES, [process.err for process in living]
    return killed


def check(fleet, where, endpoint, kills, asked_before):
    """Every row once; what was sent again is what the kills explain."""
    numbers, texts = where.columns("results", "row", "custom_id")
    assert sorted(numbers) == list(range(ROWS))
    assert len(texts) == ROWS
    report = verify.check(where.address, str(fleet.folder / where.checkpoint))
    assert report.problems == []
    asked = endpoint.stats()["requests_total"] - asked_before
    assert asked <= ROWS + kills * where.per_kill
    (codes,) = where.columns("attempts", "error_code")
    if where.ledger_is_whole:
        # A request that had not left yet at a kill is in the ledger as unanswered all the same.
        assert asked <= len(codes)
        assert len(codes) - codes.count("interrupted") <= asked
    return numbers, asked - ROWS


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["disk", "store, one disk", "store, disks lost"])
def test_processes_are_killed_again_and_again(fleet, jsonl, simulator, request, kind):
    """On a shared disk; in an object store with one machine; and with many, whose disks go too."""
    store = None if kind == "disk" else request.getfixturevalue("shared_store")
    dice, endpoint = random.Random(SEED), simulator(latency=FixedLatency(LATENCY_S))
    rows, left = jsonl(ROWS), KILLS
    while left > 0:
        if store is not None:
            store.address = f"s3://{store.bucket}/{left}/run"
            store.prefix = f"{left}/run/"
        else:
            shutil.rmtree(fleet.folder / "run", ignore_errors=True)
        where = {"disk": Disk, "store, one disk": Bucket}.get(kind, BucketAndDisks)
        where = where(fleet) if store is None else where(fleet, store)
        before = endpoint.stats()["requests_total"]
        killed = hunt(fleet, where, endpoint, rows, dice, min(left, KILLS_A_RUN))
        numbers, again = check(fleet, where, endpoint, killed, before)
        kill_table.note(kind, killed, numbers, ROWS, again)
        left -= max(1, killed)
        for path in fleet.folder.glob("cp*"):
            shutil.rmtree(path)
