"""What the processes of a fleet need to know is written once, and read as it was written."""

import pytest

from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.storage import files
from batchrun.core.cost.charged import Charge
from batchrun.core.fleet.operations import Done
from batchrun.core.fleet.sealed import sealed
from batchrun.core.run.changes import Changes
from batchrun.errors import DamagedError, UsageError
from batchrun.records import Position, ShardState
from batchrun.rundir.fleet import launches
from batchrun.rundir.fleet.launches import FOLDED, LIVE, Launch, Plan

BEGUN = Published(
    ShardState(1, 7, b"\x01" * 32, Position(0, 99, 7), 2, complete=False), "a", "b", {"errors": {}}
)
PLAN = Plan(
    {"settings": {"x": 1}, "carry_schema": b"\x00\xff", "sent": ["a"], "input_rows": 25},
    25,
    (Position(), Position(0, 2**40, 10), Position(1, 5, 3)),
    frozenset({0}),
    {1: BEGUN},
    (12, 3),
    {"cost": 5 * 10**12},
    {"cost": Charge(10**12, 7, 1)},
    Changes(retry_classes=("auth", "truncated")),
    frozenset({1, 2}),
)


@pytest.fixture
def launch(tmp_path):
    """A launch whose plan is written."""
    found = Launch("ab", tmp_path / "fleet" / "ab", 100.5, 10, "op", (Done("old", (1, 3)),))
    found.folder.mkdir(parents=True)
    files.write_json(found.folder / launches.RUN, sealed(launches._run_json(PLAN)))
    files.write_whole(found.folder / launches.SHARDS, launches._shards(PLAN))
    return found


def test_a_plan_reads_back(launch):
    """Binary values, positions beyond 32 bits and parts of open shards included."""
    assert launches.read_plan(launch) == PLAN


@pytest.mark.parametrize("name", [launches.RUN, launches.SHARDS])
@pytest.mark.parametrize("at", [3, 50, -1])
def test_a_plan_that_was_damaged_is_refused(launch, name, at):
    """A byte that flipped, or an end that is missing: no row is read from a wrong place."""
    path = launch.folder / name
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="is damaged"):
        launches.read_plan(launch)
    path.write_bytes(data[:-2])
    with pytest.raises(DamagedError, match="is damaged"):
        launches.read_plan(launch)


def test_a_launch_is_live_until_it_is_folded(launch, tmp_path):
    """Nobody can join one that ended; it is known until it is folded, whatever is killed."""
    assert launches.current(tmp_path) is None
    launches.announce(launch, LIVE)
    assert launches.current(tmp_path) == launch
    ended = launches.end(launch)
    assert launches.current(tmp_path) is None
    assert launches.unfolded(tmp_path) == ended == launches.end(ended)
    launches.announce(ended, FOLDED)
    assert launches.unfolded(tmp_path) is None


def test_a_launch_of_another_format_is_refused(tmp_path):
    """Every process needs the same version."""
    path = tmp_path / "fleet" / launches.LAUNCH
    path.parent.mkdir()
    files.write_json(path, sealed({"format": 3, "state": "live", "id": "ab"}))
    with pytest.raises(UsageError, match="format 3"):
        launches.current(tmp_path)


def test_who_prepares_or_sums_up_is_waited_for(launch, tmp_path):
    """As long as it takes; a plain run that holds the lock is not."""
    assert not launches.is_busy(tmp_path)
    launches.begin_launching(tmp_path)
    assert launches.is_busy(tmp_path)
    launches.announce(launch, LIVE)
    assert not launches.is_busy(tmp_path)
    launches.end(launch)
    assert launches.is_busy(tmp_path)
    launches.announce(launch, FOLDED)
    assert launches.is_busy(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    assert not launches.is_busy(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"state": "live"}'])
def test_a_note_of_a_launch_that_was_damaged_is_refused(launch, tmp_path, content):
    """By name: nobody takes the directory for one that no fleet works on."""
    launches.announce(launch, LIVE)
    path = tmp_path / "fleet" / launches.LAUNCH
    path.write_bytes(content)
    for look in (launches.current, launches.is_busy, launches.withdraw):
        with pytest.raises(DamagedError, match=r"launch\.json is damaged"):
            look(tmp_path)
