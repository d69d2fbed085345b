"""What a snapshot names as the thing that holds a run back."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from batchrun.engine.lane import Exchanges
from batchrun.engine.observe.monitor import Monitor
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.tally import Tally
from batchrun.testing.fake_gate import FakeGate
from batchrun.testing.virtual import VirtualClock, run_virtual
from batchrun.views import progress


def _bound_by(held, cpu_s):
    """What binds a run whose gate says ``held`` after a second with so much CPU, had or lacked."""
    gate = FakeGate(4)
    gate.bound_by = held
    lane = SimpleNamespace(
        name="a", gate=gate, exchanges=Exchanges(), in_service=True, state="up", closed=None
    )
    engine = SimpleNamespace(is_full=False, waiting_for_input=False)
    monitor = Monitor(engine=engine, lanes=[lane], tally=Tally(), switch=StopSwitch())
    monitor.sample(0.0, 0.0)
    return monitor.sample(1.0, cpu_s).bound_by


def test_what_waits_for_a_rate_is_not_in_flight():
    """A gate with a request limit holds permits for rows that it does not let out: a snapshot
    counts them apart and says what they wait for, and so does the display.
    """

    async def play():
        gate = EndpointGate(
            concurrency=8, rpm=60, tpm=None, clock=VirtualClock(), dice=random.Random(1)
        )
        lane = SimpleNamespace(
            name="a", gate=gate, exchanges=Exchanges(), in_service=True, state="up", closed=None
        )
        engine = SimpleNamespace(is_full=False, waiting_for_input=False)
        monitor = Monitor(engine=engine, lanes=[lane], tally=Tally(), switch=StopSwitch())
        rows = [asyncio.create_task(gate.enter(1)) for _ in range(6)]
        await asyncio.sleep(2.5)
        seen = monitor.sample(2.5, 0.0)
        await asyncio.gather(*rows)
        return seen, monitor.sample(100.0, 0.0)

    seen, after = run_virtual(play())
    assert (seen.in_flight, seen.waiting, seen.waiting_for) == (3, 3, "rpm")
    assert (seen.endpoints[0].in_flight, seen.endpoints[0].waiting) == (3, 3)
    assert "in flight 3, 3 waiting for --rpm" in progress.line(seen)
    assert (after.in_flight, after.waiting, after.waiting_for) == (6, 0, None)
    assert "waiting" not in progress.line(after)


@pytest.mark.parametrize("held", [None, "concurrency"])
def test_cpu_that_is_missing_binds(held):
    """More could be sent, or was sent and waits to be read: another core would help."""
    assert _bound_by(held, 0.99) == "cpu"
    assert _bound_by(held, 0.5) == held


@pytest.mark.parametrize("held", ["pause", "rpm", "tpm", "limits", "server", "outage"])
def test_what_withholds_requests_binds_however_busy_the_machine_is(held):
    """Waiting for a core does not slow a run that waits for its rate all the same."""
    assert _bound_by(held, 0.99) == _bound_by(held, 0.1) == held
