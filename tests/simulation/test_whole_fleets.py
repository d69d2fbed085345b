"""Whole fleets on virtual time: seeded worlds of several processes, and proof that the net catches
what is broken.

`make simulate-fleets SEEDS=1000` plays many more, `make simulate-fleets SEED=14` replays one.
"""

import math

import pytest

from batchrun.engine.pace.gate import EndpointGate
from batchrun.rundir.fleet import claimed_shards
from tests.harness.fleet_worlds import KINDS, simulate, world
from tests.harness.slow import rest_slow

SEEDS, AT_ONCE = 48, 6
TWICE = (5, 8, 20)
CUT_OFF = 378
"""A world in which one process has the directory's lock, and is away until the others are done."""


@pytest.mark.linux
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", rest_slow(range(0, SEEDS, AT_ONCE), 4))
def test_everything_adds_up(first):
    """Whatever dies, sleeps, is cut off, comes late or twice, and however slow the store is: each
    row is published once, nothing durable is lost, limits and budget hold, and nobody hangs.
    """
    for seed in range(first, first + AT_ONCE):
        story = simulate(seed)
        assert not story.why, f"seed {seed} ({story.kind}): {story.why}"
        assert story.rows and story.ends


@pytest.mark.linux
def test_who_was_cut_off_while_opening_says_that_others_took_over():
    """Their parts, of which its own checkpoint knows nothing, do not look damaged to it."""
    story = simulate(CUT_OFF)
    assert not story.why, story.why
    assert story.ends == {"done": 4, "StorageError": 1}


@pytest.mark.linux
def test_the_worlds_are_of_every_kind():
    """A few dozen seeds have each place for a run directory, and each blow."""
    worlds = [world(seed) for seed in range(SEEDS)]
    assert {each.kind for each in worlds} == set(KINDS)
    blows = {blow.kind for each in worlds for blow in each.blows}
    assert blows == {"kill", "step", "turn", "suspend", "cut", "signal", "all"}


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_seed_tells_one_story():
    """Played twice, a seed has the same events."""
    for seed in TWICE:
        one, two = simulate(seed), simulate(seed)
        assert one == two, seed


def _limiters_begin_full():
    """Each change of a rate lets one more request through."""
    set_rpm = EndpointGate.set_rpm

    def anew(gate, rpm):
        gate._rate_passed_s = -math.inf
        set_rpm(gate, rpm)

    EndpointGate.set_rpm = anew


def _logs_are_left_behind():
    """A shard that is taken over is begun again."""
    claimed_shards.take_log = lambda *_, **__: None


BROKEN = {
    _limiters_begin_full: "allowed",
    _logs_are_left_behind: "",
}
"""What this package does for a fleet, each thing left out, and what is said of it."""


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__.strip("_"))
def test_the_net_catches_what_is_broken(broken):
    """Some world of the first few dozen does not add up."""
    for seed in range(SEEDS):
        why = simulate(seed, broken=broken).why
        if why:
            assert BROKEN[broken] in why, f"seed {seed}: {why}"
            return
    pytest.fail("no world notices")
