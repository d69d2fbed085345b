"""The transports of a run learn how many requests their endpoints may have in flight."""

import random

from batchrun import wiring
from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.session.row_window import Room
from batchrun.records import Reception
from batchrun.testing.fakes import FakeTransport


class Told(FakeTransport):
    """Remembers what it is told."""

    def __init__(self):
        super().__init__()
        self.concurrencies = []

    def resize(self, concurrency):
        """See ``ports.Transport``."""
        self.concurrencies.append(concurrency)


class Clock:
    """A tenth of a second passes between two looks."""

    def __init__(self):
        self._now_s = 0.0

    def now_s(self):
        """See ``ports.Clock``."""
        self._now_s += 0.1
        return self._now_s


def _gate(bounds):
    return EndpointGate(
        concurrency=64,
        bounds=bounds,
        rpm=None,
        tpm=None,
        clock=Clock(),
        dice=random.Random(1),
    )


def test_each_transport_follows_the_window_of_its_endpoint():
    """An overloaded server's window shrinks, and its transport closes connections; the other
    endpoint's stay, and rows are opened for both.
    """
    overloaded, calm = Told(), Told()
    gate, other = _gate((1, 1024)), _gate(None)
    room = Room(1)
    wiring._follow([Way("a", overloaded, gate), Way("b", calm, other)], room)
    assert room.permits == 64 + 64
    for number in range(65):
        gate.observed(Reception.OVERLOADED, number / 10 + 0.1, 0.1, None)
    assert gate.concurrency == 51
    assert overloaded.concurrencies == [51]
    assert calm.concurrencies == []
    assert room.permits == 51 + 64
