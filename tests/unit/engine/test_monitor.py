"""What a snapshot names as the thing that holds a run back."""

from types import SimpleNamespace

import pytest

from batchrun.engine.lane import Exchanges
from batchrun.engine.observe.monitor import Monitor
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.tally import Tally
from batchrun.testing.fake_gate import FakeGate


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


@pytest.mark.parametrize("held", [None, "concurrency"])
def test_cpu_that_is_missing_binds(held):
    """More could be sent, or was sent and waits to be read: another core would help."""
    assert _bound_by(held, 0.99) == "cpu"
    assert _bound_by(held, 0.5) == held


@pytest.mark.parametrize("held", ["pause", "rpm", "tpm", "limits", "server", "outage"])
def test_what_withholds_requests_binds_however_busy_the_machine_is(held):
    """Waiting for a core does not slow a run that waits for its rate all the same."""
    assert _bound_by(held, 0.99) == _bound_by(held, 0.1) == held
