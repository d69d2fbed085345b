"""Power cuts at any point of what a fleet writes: claims, launch, staged and published parts, logs
of its worker, folding.
"""

import os
import random

import pytest

from batchrun.adapters.journal.journal import JournalWriter
from batchrun.core.fleet.board import Place
from batchrun.core.settings.resolve import resolve
from batchrun.fleet import worker
from batchrun.records import Outcome
from batchrun.rundir.fleet import folding
from tests.crash.test_power import ROWS, SEED, Life, Violated, _search, _without, keep_power
from tests.harness.slow import rest_slow

CUTS = int(os.environ.get("BATCHRUN_POWER_CUTS", "10"))


class FleetLife(Life):
    """The same life, whose sessions are fleets of one process."""

    def run(self, folder, session, outbox=None):
        """A fleet that does what it can in a folder, and puts it together."""
        self.session = session
        for lease in folder.rglob("leases/*"):
            os.utime(lease, (0, 0))  # a machine takes longer to start than a lease lasts
        raw = {
            "input.files": [str(self.rows)],
            "output.dir": str(folder),
            "request.model": "m",
            "endpoint.base_url": self.base_url,
            "endpoint.concurrency": 4,
            "output.shard_rows": 6,
            "retry.max_attempts": 2,
        }
        with pytest.MonkeyPatch.context() as patch:
            if outbox is not None:
                resolved = JournalWriter._resolve

                def telling(writer, taken):
                    for entry, _ in taken:
                        if isinstance(entry, Outcome):
                            outbox.put(entry)
                    resolved(writer, taken)

                patch.setattr(JournalWriter, "_resolve", telling)
            return worker.run(resolve(raw), {}, place=Place(0, 1))


@pytest.fixture
def fleet_life(memory, scripted, answer, jsonl, chat, monkeypatch):
    """A life that is not lived yet; see ``test_power.life``."""
    keep_power(monkeypatch)
    monkeypatch.setattr(folding, "LEAVING_S", 0.2)
    monkeypatch.setattr(worker, "POLL_S", 0.01)
    return FleetLife(memory, scripted, answer, jsonl([chat(n, note=n) for n in range(ROWS)]))


@pytest.mark.timeout(900 + CUTS)
@pytest.mark.slow
def test_a_power_cut_loses_nothing_of_a_fleet(fleet_life):
    """Wherever the power is cut: the next fleet goes on, every row is there once, and an answer
    that was durable is never asked for again.
    """
    fleet_life.record()
    count = len(fleet_life.recording.events)
    dice = random.Random(SEED)
    for n in range(CUTS):
        after = int((n + dice.random()) * (count + 1) / CUTS)
        fleet_life.cut(after, dice.randrange(10**6))
    fleet_life.cut(count, SEED)


BROKEN = {
    "a part of results that is staged": _without("fsync", r"/results/.*\.tmp$"),
    "the folder of the results": _without("sync_folder", r"/results$"),
    "the folder of the workers": _without("sync_folder", r"/workers$"),
    "the log of a worker": _without("fdatasync", r"/workers/.*/shard-\d+\.\d+\.log$"),
}
"""What a fleet does for a power cut, each thing left out."""


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", rest_slow(BROKEN.values(), 1), ids=[*BROKEN])
def test_the_model_sees_what_a_fleet_leaves_out(fleet_life, broken):
    """Without any one of these flushes, some power cut breaks a promise."""
    fleet_life.record(broken)
    with pytest.raises(Violated):
        _search(fleet_life, fleet_life.moments())
